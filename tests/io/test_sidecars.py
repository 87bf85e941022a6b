"""Sidecars: phase encoding in BIDS's words, as scanners write it, and with faults."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from axoloci.errors import InputError
from axoloci.io.sidecars import PhaseEncoding, phase_encoding, read_phase_encoding


@pytest.mark.parametrize(
    ("sidecar", "found"),
    [
        ({"PhaseEncodingDirection": "j"}, PhaseEncoding(1, 1)),
        ({"PhaseEncodingDirection": "i-", "TotalReadoutTime": 0.04}, PhaseEncoding(0, -1, 0.04)),
        (
            {
                "PhaseEncodingDirection": "j-",
                "EffectiveEchoSpacing": 0.0005,
                "ReconMatrixPE": 101,
                "TotalReadoutTime": 0.0501,
            },
            PhaseEncoding(1, -1, 0.0501),
        ),
        (
            {"PhaseEncodingDirection": "k", "EffectiveEchoSpacing": 0.0005, "ReconMatrixPE": 101},
            PhaseEncoding(2, 1, 0.05),
        ),
        ({"PhaseEncodingAxis": "j"}, PhaseEncoding(1, 0)),
        ({"EchoTime": 0.1, "TotalReadoutTime": 0.05}, None),
    ],
)
def test_phase_encoding__what_is_told(sidecar: dict[str, Any], found: PhaseEncoding) -> None:
    assert phase_encoding(sidecar) == found


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        ({"PhaseEncodingDirection": "y"}, "'y'; it must be one of i, i-, j, j-, k, k-"),
        ({"PhaseEncodingDirection": ["j"]}, "it must be one of"),
        ({"PhaseEncodingAxis": "j-"}, "'j-'; it must be one of i, j, k"),
        (
            {"PhaseEncodingDirection": "j", "PhaseEncodingAxis": "i"},
            "PhaseEncodingDirection is 'j' and PhaseEncodingAxis 'i'",
        ),
        ({"TotalReadoutTime": -1}, "TotalReadoutTime is -1; it must be a number above 0"),
        ({"TotalReadoutTime": "0.05"}, "'0.05'; it must be a number above 0"),
        ({"TotalReadoutTime": 52.0}, "readout time of 52 s cannot be; .* in seconds"),
        ({"EffectiveEchoSpacing": 0.5, "ReconMatrixPE": 100}, "readout time of 49.5 s cannot be"),
        (
            {"TotalReadoutTime": 0.05, "EffectiveEchoSpacing": 0.0005, "ReconMatrixPE": 51},
            "TotalReadoutTime is 0.05 s, but .* is 0.025 s",
        ),
    ],
)
def test_read_phase_encoding__faults_name_the_file(
    tmp_path: Path, sidecar: dict[str, Any], words: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(sidecar))
    with pytest.raises(InputError) as error:
        read_phase_encoding(tmp_path / "a.json")
    assert re.search(rf"a\.json: .*{words}", str(error.value))


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_read_phase_encoding__no_json_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json: (cannot be read as JSON|holds no JSON object)"):
        read_phase_encoding(tmp_path / "a.json")


def test_read_phase_encoding__of_real_scanners(data_dir: Path) -> None:
    """Canon and UIH tell the axis, not the direction."""
    (canon,) = (data_dir / "dwi/canon-galan-paris").glob("3000*.json")
    (uih,) = (data_dir / "dwi/uih-ap-pa").glob("9_*.json")
    assert read_phase_encoding(canon) == PhaseEncoding(1, 0)
    assert read_phase_encoding(uih) == PhaseEncoding(1, 0, 0.021)
    assert str(read_phase_encoding(uih)) == "j, direction not told, 0.021 s"
