"""What a scan's JSON sidecar tells about its phase encoding, in the words of BIDS."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axoloci.errors import InputError, raise_all

AXES = "ijk"

READOUT_S = (1e-3, 0.5)
"""Shortest and longest plausible time (s) of an echo-planar readout; 20 to 100 ms are usual."""

READOUT_TOLERANCE = 0.05
"""Share by which a readout time may differ from that of the echo spacing beside it."""


@dataclass(frozen=True)
class PhaseEncoding:
    """How the image's rows were read out: along which axis susceptibility displaces signal.

    Attributes
    ----------
    axis
        Of the image's voxels: 0, 1 or 2.
    sign
        1 with the voxels' order, -1 against it; 0 where only the axis is told.
    readout_time
        From the centre of the first echo to that of the last, s, as FSL counts it.
    """

    axis: int
    sign: int
    readout_time: float | None = None

    def __str__(self) -> str:
        time = "no readout time" if self.readout_time is None else f"{self.readout_time:g} s"
        sign = {1: "", -1: "-", 0: ", direction not told"}[self.sign]
        return f"{AXES[self.axis]}{sign}, {time}"


def read_phase_encoding(path: str | os.PathLike[str]) -> PhaseEncoding | None:
    """Read a sidecar's phase encoding.

    Parameters
    ----------
    path
        JSON file.

    Returns
    -------
    phase_encoding
        None where the sidecar tells neither direction nor axis.

    Raises
    ------
    InputError
        No JSON object, or values that cannot be.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object {{...}} of names and values")
    try:
        return phase_encoding(content)
    except InputError as error:
        raise_all([f"{path}: {problem}" for problem in error.problems], f"{path} has faults:")
        raise AssertionError from error


def phase_encoding(sidecar: Mapping[str, Any]) -> PhaseEncoding | None:
    """The phase encoding that the metadata of a scan tell.

    Parameters
    ----------
    sidecar
        `PhaseEncodingDirection` (i, i-, j, ...) or else `PhaseEncodingAxis` (i, j, k);
        `TotalReadoutTime` or else `EffectiveEchoSpacing` and `ReconMatrixPE`.

    Returns
    -------
    phase_encoding
        None where neither direction nor axis is told.

    Raises
    ------
    InputError
        Values that cannot be.

    >>> phase_encoding({"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05})
    PhaseEncoding(axis=1, sign=-1, readout_time=0.05)
    """
    problems = []

    def positive(name: str) -> float | None:
        value = sidecar.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            problems.append(f"{name} is {value!r}; it must be a number above 0")
            return None
        return float(value)

    axis, sign = None, 0
    for name, more in (("PhaseEncodingDirection", ("", "-")), ("PhaseEncodingAxis", ("",))):
        value = sidecar.get(name)
        allowed = [letter + end for letter in AXES for end in more]
        if value is None:
            continue
        if value not in allowed:
            problems.append(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        elif axis is None:
            axis = AXES.index(value[0])
            sign = 0 if name.endswith("Axis") else -1 if value.endswith("-") else 1
        elif axis != AXES.index(value[0]):
            problems.append(
                f"PhaseEncodingDirection is {sidecar['PhaseEncodingDirection']!r} and {name}"
                f" {value!r}; correct one of them"
            )
    time = positive("TotalReadoutTime")
    spacing, lines = positive("EffectiveEchoSpacing"), positive("ReconMatrixPE")
    told = None if spacing is None or lines is None else spacing * (lines - 1)
    if time is not None and told is not None and abs(time - told) > READOUT_TOLERANCE * told:
        problems.append(
            f"TotalReadoutTime is {time:g} s, but EffectiveEchoSpacing x (ReconMatrixPE - 1) is"
            f" {told:g} s; correct one of them"
        )
    time = told if time is None else time
    if time is not None and not READOUT_S[0] <= time <= READOUT_S[1]:
        problems.append(
            f"a readout time of {time:g} s cannot be; TotalReadoutTime and EffectiveEchoSpacing"
            " must be in seconds"
        )
    raise_all(problems, "the phase encoding has faults:")
    return None if axis is None else PhaseEncoding(axis, sign, time)
