"""Gradient tables: every way of writing them is read alike, every fault is named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.gradients import (
    bvec_to_world,
    clean_gradients,
    count_directions,
    find_shells,
    gradient_problems,
    read_gradients,
    tensor_condition,
    world_to_bvec,
    write_gradients,
)

# One b0 and the six directions of a cuboctahedron: sound, and exact in its condition number.
ROOT = np.sqrt(0.5)
SIX = ROOT * np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]])
BVAL = np.array([0.0] + [1000.0] * 6)
BVEC = np.vstack([np.zeros(3), SIX])


def text(table: NDArray[np.float64], separator: str = " ", end: str = "\n") -> str:
    return "".join(separator.join(f"{x:.6f}" for x in row) + end for row in table)


def read(folder: Path, bval: str, bvec: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    (folder / "a.bval").write_bytes(bval.encode())
    (folder / "a.bvec").write_bytes(bvec.encode())
    return read_gradients(folder / "a.bval", folder / "a.bvec")


@pytest.mark.parametrize(
    ("bval", "bvec"),
    [
        (text(BVAL[None]), text(BVEC.T)),
        (text(BVAL[:, None]), text(BVEC)),
        (text(BVAL[None]).replace(".", ","), text(BVEC.T).replace(".", ",")),
        (text(BVAL[None], ", "), text(BVEC.T, ", ")),
        ("\ufeff" + text(BVAL[None], end="\r\n"), "\ufeff" + text(BVEC.T, "\t", "\r\n")),
        ("\n  " + text(BVAL[None], "   ", "  \n\n"), text(BVEC.T, "  ", " \n\n")),
    ],
    ids=["3xN", "Nx3", "decimal-commas", "comma-separated", "BOM-CRLF-tabs", "whitespace"],
)
def test_read_gradients__all_spellings(tmp_path: Path, bval: str, bvec: str) -> None:
    bvals, bvecs = read(tmp_path, bval, bvec)
    assert np.array_equal(bvals, BVAL)
    assert bvecs.shape == (7, 3)
    assert np.allclose(bvecs, BVEC, atol=1e-6)


@pytest.mark.parametrize(
    ("bval", "bvec", "message"),
    [
        ("0 1 x\n", text(BVEC), "a.bval: line 1 is not a row of numbers"),
        ("", text(BVEC), "a.bval: the file holds no numbers"),
        ("0 1\n2 3\n", text(BVEC), "a.bval: expected one row or one column, found 2 rows of 2"),
        (text(BVAL[None]), "1 2\n3 4\n", "a.bvec: expected 3 rows or 3 columns, found 2 rows"),
        (text(BVAL[None]), "1 2\n3\n4 5\n", "a.bvec: the lines have different numbers .* 2, 1, 2"),
    ],
)
def test_read_gradients__faults_name_the_file(
    tmp_path: Path, bval: str, bvec: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, bval, bvec)


def test_read_gradients__a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.bval").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="cannot be read as text"):
        read_gradients(tmp_path / "a.bval", tmp_path / "a.bvec")


def test_write_gradients__reads_back(tmp_path: Path) -> None:
    write_gradients(tmp_path / "a.bval", tmp_path / "a.bvec", BVAL, -BVEC)
    assert "-0.000000" not in (tmp_path / "a.bvec").read_text()
    bvals, bvecs = read_gradients(tmp_path / "a.bval", tmp_path / "a.bvec")
    assert np.array_equal(bvals, BVAL)
    assert np.allclose(bvecs, -BVEC, atol=1e-6)


def test_gradient_problems__none_in_a_sound_table() -> None:
    assert gradient_problems(BVAL, BVEC, 7) == []


def with_row(volume: int, row: list[float]) -> NDArray[np.float64]:
    bvec = BVEC.copy()
    bvec[volume] = row
    return bvec


@pytest.mark.parametrize(
    ("bval", "bvec", "message"),
    [
        (np.r_[BVAL, 0], np.vstack([BVEC, np.zeros(3)]), "image has 7 volumes and the bval file 8"),
        (BVAL, BVEC[:-1], "7 b-values but 6 directions in the bvec file"),
        (np.full(7, 1000.0), with_row(0, [0, 0, 1]), "no b0: the smallest b-value is 1000"),
        (BVAL, with_row(3, [0, 0, 0]), "volume 3: b > 50 s/mm² but the direction is 0 0 0"),
        (BVAL, with_row(2, [np.nan, 0, 1]), "volume 2: the direction is not a number"),
        (BVAL, with_row(4, [0, 0, 0.5]), "volume 4: direction of length 0.5 to 0.5 instead of 1"),
        (BVAL[:6], BVEC[:6], "at least 6 different directions, found 5"),
        (BVAL, np.vstack([np.zeros(3), np.tile([0, 0, 1.0], (6, 1))]), "directions, found 1"),
        (BVAL, with_row(6, (-SIX[0]).tolist()), "directions, found 5"),
        (BVAL / 1000, BVEC, "no volume is diffusion-weighted; b-values must be in s/mm²"),
        (BVAL * 1e6, BVEC, "the largest b-value is 1e.09: b-values must be in s/mm²"),
        (BVAL - 1, BVEC, "volume 0: the b-value is negative"),
    ],
)
def test_gradient_problems__each_is_named(
    bval: NDArray[np.float64], bvec: NDArray[np.float64], message: str
) -> None:
    n_volumes = min(len(bval), 7)
    problems = gradient_problems(bval, bvec, n_volumes)
    assert len(problems) == 1, problems
    assert re.search(message, problems[0]), problems


def test_gradient_problems__directions_on_a_plane() -> None:
    angle = np.arange(6) * np.pi / 6
    plane = np.column_stack([np.cos(angle), np.sin(angle), np.zeros(6)])
    (problem,) = gradient_problems(BVAL, np.vstack([np.zeros(3), plane]))
    assert "the 6 directions lie too close to a plane or a cone" in problem


def test_gradient_problems__a_small_b_value_with_a_unit_vector_is_a_b0() -> None:
    bval = np.r_[5.0, BVAL[1:]]
    bvec = with_row(0, [0, 0, 1])
    assert gradient_problems(bval, bvec, 7) == []
    assert [len(shell) for shell in find_shells(bval)] == [1, 6]


def test_clean_gradients__unit_vectors_and_zeros() -> None:
    bvec = 1.02 * with_row(0, [0, 0, 0.3])
    _, clean = clean_gradients(BVAL, bvec)
    assert np.array_equal(clean[0], [0, 0, 0])
    assert np.allclose(clean[1:], SIX, atol=1e-12)


def test_find_shells__jittered_values_stay_together() -> None:
    bval = np.array([1005.0, 0, 2000, 995, 3, 1990])
    assert [s.tolist() for s in find_shells(bval)] == [[1, 4], [0, 3], [2, 5]]


def test_tensor_condition__is_numpys() -> None:
    assert tensor_condition(SIX) == pytest.approx(_condition(SIX))
    assert tensor_condition(SIX[:5]) == np.inf


def _condition(directions: NDArray[np.float64]) -> float:
    """NumPy's condition number of the map from symmetric matrices to gᵀDg."""
    basis = []
    for i in range(3):
        for j in range(i, 3):
            tensor = np.zeros((3, 3))
            tensor[i, j] = tensor[j, i] = 1
            basis.append(tensor / np.linalg.norm(tensor))
    design = [[g @ tensor @ g for tensor in basis] for g in directions]
    return float(np.linalg.cond(design))


def test_count_directions__opposite_ones_are_the_same() -> None:
    assert count_directions(np.vstack([SIX, -SIX])) == 6


@pytest.mark.parametrize("flip", [-1, 1])
def test_bvec_to_world__first_axis_runs_left(flip: int) -> None:
    """FSL: with a positive determinant the first component is along minus the first axis."""
    affine = np.diag([flip * 2.0, 2.0, 3.0, 1.0])
    world = bvec_to_world(SIX, affine)
    assert np.allclose(world, SIX * [-1, 1, 1])  # left-handed or mirrored: x to the left in both
    assert np.allclose(world_to_bvec(world, affine), SIX)
