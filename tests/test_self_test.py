"""`axoloci-<step> --self-test`: passes on every step, fails where the computation is wrong."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import STEPS

from axoloci import __version__


def self_test(step: str) -> Result:
    main = importlib.import_module(f"axoloci.tasks.{step}.cli").main
    return CliRunner().invoke(main, ["--self-test"])


@pytest.mark.parametrize("step", STEPS)
def test_self_test__passes_and_shows_versions(step: str) -> None:
    done = self_test(step)
    assert done.exit_code == 0, done.output
    shown = done.output.splitlines()
    assert shown[:2] == [f"axoloci-{step}: self-test passed", f"axoloci {__version__}"]
    assert {"Python", "numpy", "click"} <= {line.split()[0] for line in shown[1:]}


WRONG = [
    ("dti", "fit_tensor", lambda maps: dataclasses.replace(maps, fa=maps.fa * 1.001)),
    ("gwas", "associate", lambda rows: [dataclasses.replace(r, se=r.se * 1.001) for r in rows]),
    ("genetics", "joint_test", lambda found: dataclasses.replace(found, r2=found.r2 * 1.001)),
    ("encoder", "encode_maps", lambda e: dataclasses.replace(e, latents=e.latents[::-1])),
    ("preprocess", "estimate_motion", lambda m: dataclasses.replace(m, matrices=m.matrices[::-1])),
    ("normalize", "register", lambda f: dataclasses.replace(f, similarity={"warp": 0.9})),
    ("report", "quantile_points", lambda found: (found[0] * 1.001, *found[1:])),
    ("simulate", "simulate_scan", lambda s: dataclasses.replace(s, dwi=s.dwi**1.001)),
]


@pytest.mark.parametrize(("step", "function", "spoil"), WRONG, ids=[w[0] for w in WRONG])
def test_self_test__fails_where_the_kernel_is_wrong(
    step: str, function: str, spoil: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"axoloci.tasks.{step}.self_test")
    right = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *a, **kw: spoil(right(*a, **kw)))
    done = self_test(step)
    assert done.exit_code == 1
    assert "self-test failed" in done.output


def test_self_test__every_step_has_a_way_to_fail() -> None:
    assert {step for step, *_ in WRONG} >= set(STEPS)
