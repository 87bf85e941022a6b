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
    gradient_mends,
    gradient_problems,
    read_gradients,
    select_volumes,
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
        (text(BVEC.T), text(BVAL[None]), "a.bval: .* are the files of --bval and --bvec exchanged"),
        (text(BVAL[None]), text(BVAL[None]), "a.bvec: .* are b-values; are the files of --bval"),
        (text(BVAL[None]), text(np.column_stack([BVEC, BVAL])), "a.bvec: .* of MRtrix's x y z b"),
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


def test_gradient_problems__three_volumes_read_as_rows_or_columns_are_too_few() -> None:
    """Of a 3x3 table nobody can tell which; no scan of three volumes gives a tensor."""
    for table in (np.eye(3), np.eye(3).T):
        (problem,) = gradient_problems(np.array([0.0, 1000, 1000]), table, 3)
        assert "at least 6 different directions, found 2" in problem


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


def test_find_shells__a_continuum_is_cut_into_narrow_ones() -> None:
    bval = np.r_[0, np.random.default_rng(0).permutation(np.linspace(200, 3000, 57))]
    shells = find_shells(bval)
    assert np.array_equal(np.sort(np.concatenate(shells)), np.arange(58))
    for shell in shells[1:]:
        assert np.ptp(bval[shell]) <= max(100, 0.2 * bval[shell].mean())
    assert 8 < len(shells) < 20
    assert [bval[s].mean() for s in shells] == sorted(bval[s].mean() for s in shells)


def test_find_shells__as_of_real_scanners() -> None:
    """HCP (995 to 1010, 1985 to 2005, 2985 to 3005, b0 of 5); a broad shell stays one."""
    rng = np.random.default_rng(0)
    hcp = np.r_[np.full(6, 5), *(b + 5 * rng.integers(-3, 3, 30) for b in (1000, 2000, 3000))]
    assert [len(shell) for shell in find_shells(hcp)] == [6, 30, 30, 30]
    assert len(find_shells(np.r_[0, np.linspace(900, 1090, 40)])) == 2
    assert find_shells(np.zeros(3))[0].tolist() == [0, 1, 2]


TWO_SHELLS = np.r_[0, np.full(6, 1000.0), np.full(6, 3000.0)]
LENGTH = np.sqrt(TWO_SHELLS / 3000)[:, None]
UNIT = np.vstack([BVEC, SIX])


def test_clean_gradients__lengths_that_encode_b_values_are_b_values() -> None:
    """One nominal b-value for all volumes, and directions of length sqrt(b / nominal)."""
    nominal = np.full(13, 3000.0)
    assert gradient_problems(nominal, UNIT * LENGTH, 13) == []
    bval, bvec = clean_gradients(nominal, UNIT * LENGTH)
    assert np.allclose(bval, TWO_SHELLS)
    assert np.allclose(bvec, UNIT)
    assert [len(shell) for shell in find_shells(bval)] == [1, 6, 6]
    (said,) = gradient_mends(nominal, UNIT * LENGTH)
    assert "length 0 to 1 are taken for b = 3000 x length², 0 to 3000" in said


def test_clean_gradients__lengths_that_repeat_the_b_values_are_dropped() -> None:
    assert gradient_problems(TWO_SHELLS, UNIT * LENGTH, 13) == []
    bval, bvec = clean_gradients(TWO_SHELLS, UNIT * LENGTH)
    assert np.array_equal(bval, TWO_SHELLS)
    assert np.allclose(bvec, UNIT)
    (said,) = gradient_mends(TWO_SHELLS, UNIT * LENGTH)
    assert "repeat the b-values" in said


def test_gradient_mends__nothing_in_a_sound_table() -> None:
    assert gradient_mends(BVAL, BVEC) == gradient_mends(BVAL, 1.01 * BVEC) == []
    assert gradient_mends(np.full(7, 1000.0), np.full((7, 3), np.nan)) == []


def test_gradient_problems__a_common_length_is_not_guessed_at() -> None:
    """Half the length may be an eighth or a quarter of b, or nothing at all."""
    (problem,) = gradient_problems(BVAL, 0.5 * BVEC)
    assert "volumes 1, 2, 3, 4, 5, 6: direction of length 0.5 to 0.5 instead of 1" in problem


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


def spread(n: int) -> NDArray[np.float64]:
    """Directions (n, 3) on a spiral over half the sphere."""
    z = (np.arange(n) + 0.5) / n
    angle = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    r = np.sqrt(1 - z**2)
    return np.column_stack([r * np.cos(angle), r * np.sin(angle), z])


def two_shells(low: float, n_low: int, high: float) -> tuple[NDArray, NDArray]:
    bval = np.r_[0, 0, np.full(n_low, low), np.full(12, high)]
    return bval, np.vstack([np.zeros((2, 3)), spread(n_low), spread(12)])


@pytest.mark.parametrize(
    ("low", "n_low", "high", "used"),
    [
        (1000, 12, 3000, 14),  # above 1500: left out
        (1000, 12, 1505, 26),  # counts as 1500
        (1000, 3, 2500, 17),  # three directions give no tensor: the next shell joins
        (2000, 12, 3000, 14),  # only high ones: the lowest
    ],
)
def test_select_volumes__shells(low: float, n_low: int, high: float, used: int) -> None:
    bval, bvec = two_shells(low, n_low, high)
    index = select_volumes(bval, bvec)
    assert index.tolist() == list(range(used))


def test_select_volumes__max_bval_is_obeyed() -> None:
    bval, bvec = two_shells(1000, 12, 2000)
    assert len(select_volumes(bval, bvec, 2000)) == 26
    assert len(select_volumes(bval, bvec, 1900)) == 14
