"""Gradient tables: FSL's bval and bvec files, their faults, shells and frames.

`bvec` (g, 3) is FSL's throughout, as BIDS asks: components along the image's own axes, the first
one reversed when the affine has a positive determinant.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from axoloci.errors import InputError, raise_all
from axoloci.io.files import write_text

B0_THRESHOLD = 50.0
"""Volumes up to this b-value (s/mm²) count as b0: scanners write 0.001, 1.25 or 5 for them."""

SHELL_GAP = 100.0
"""Two b-values (s/mm²) further apart than this, with none between, are two shells."""

SHELL_WIDTH = 0.2
"""Share of its mean b-value that a shell may span: its volumes are treated as of one b-value."""

TENSOR_BVAL = 1500.0
"""Highest b-value (s/mm²) of a tensor fit: beyond it the signal does not decay exponentially."""

MAX_BVAL = 1e5
"""A b-value (s/mm²) above this is in another unit; the strongest human scanner reaches 3e4."""

NORM_TOLERANCE = 0.05
"""Rounded tables miss length 1 by less than this; they are rescaled to it."""

MIN_SCALED = 0.1
"""Share of the volumes that must have a length of their own before lengths are taken for b-values:
fewer are taken for errors."""

MAX_CONDITION = 100.0
"""Condition number of the six tensor components that still gives a tensor.

Six evenly spread directions have 1.6, a clinical scheme of 12 about 2, one repeated direction
infinity."""


def read_gradients(
    bval_path: str | os.PathLike[str], bvec_path: str | os.PathLike[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read a gradient table, rows or columns, decimal points or commas.

    Parameters
    ----------
    bval_path
        Text file of b-values in s/mm², in one row or one column.
    bvec_path
        Text file of directions, 3 rows or 3 columns.

    Returns
    -------
    (bval, bvec)
        (g,) s/mm²; (g, 3) as written in the file.

    Raises
    ------
    InputError
        A file that is not a table of numbers, is ragged, or has another number of rows.
    """
    tables, problems = [], []
    for path, wanted, words in (
        (bval_path, 1, "one row or one column"),
        (bvec_path, 3, "3 rows or 3 columns"),
    ):
        try:
            table = _read_table(path)
            if wanted not in table.shape:
                raise InputError(f"{path}: expected {words}, found {_shape(table)}{_hint(table)}")
            tables.append(table)
        except InputError as error:
            problems.append(str(error))
    raise_all(problems, "the gradient table has faults:")
    bval, bvec = tables
    bvec = bvec.T if bvec.shape[0] == 3 else bvec  # (g, 3); a 3x3 table is read as FSL writes it
    return bval.ravel(), np.ascontiguousarray(bvec)


def _shape(table: NDArray[np.float64]) -> str:
    return f"{table.shape[0]} rows of {table.shape[1]} values"


def _hint(table: NDArray[np.float64]) -> str:
    """What a table of the wrong shape may be."""
    if 1 in table.shape:
        return ": these are b-values; are the files of --bval and --bvec exchanged?"
    if 3 in table.shape:
        return ": these are directions; are the files of --bval and --bvec exchanged?"
    if 4 in table.shape:
        return "; of MRtrix's x y z b make FSL's files: mrinfo DWI -grad TABLE -export_grad_fsl"
    return ""


def _read_table(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Numbers of a text file, (rows, columns)."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from error
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line
        if "," in line or ";" in line:
            # A comma between two digits and no second one in the token is a decimal comma.
            words = re.sub(
                r"(?<![\w,.])([-+]?\d*),(\d+(?:[eE][-+]?\d+)?)(?![\w,.])", r"\1.\2", line
            )
            words = re.sub(r"[,;]", " ", words)
        try:
            row = [float(word) for word in words.split()]
        except ValueError as error:
            raise InputError(f"{path}: line {number} is not a row of numbers: {error}") from error
        if row:
            rows.append(row)
    if not rows:
        raise InputError(f"{path}: the file holds no numbers")
    if len({len(row) for row in rows}) > 1:
        lengths = ", ".join(str(len(row)) for row in rows)
        raise InputError(f"{path}: the lines have different numbers of values: {lengths}")
    return np.array(rows, dtype=np.float64)


def gradient_problems(bval: ArrayLike, bvec: ArrayLike, n_volumes: int | None = None) -> list[str]:
    """Everything that keeps a gradient table from giving a diffusion tensor.

    Parameters
    ----------
    bval
        (g,) b-values, s/mm².
    bvec
        (g, 3) directions.
    n_volumes
        Number of volumes of the image, if it is known.

    Returns
    -------
    problems
        One sentence each; empty if the table is sound, or `clean_gradients` can mend it. Volumes
        are counted from 0.
    """
    bval = np.asarray(bval, dtype=np.float64)
    bvec = np.asarray(bvec, dtype=np.float64)
    problems = []
    if n_volumes is not None and n_volumes != len(bval):
        problems.append(
            f"the image has {n_volumes} volumes and the bval file {len(bval)} b-values; give the"
            " tables of this image"
        )
    if len(bval) != len(bvec):
        problems.append(
            f"{len(bval)} b-values but {len(bvec)} directions in the bvec file; give the two of one"
            " image"
        )
    if problems:
        return problems

    bad = ~np.isfinite(bval) | (bval < 0)
    if bad.any():
        return [f"{name_volumes(bad)}: the b-value is negative or not a number; correct it"]
    if bval.max() > MAX_BVAL:
        return [
            f"the largest b-value is {bval.max():g}: b-values must be in s/mm²; divide those that"
            " are in s/m² by 1e6"
        ]
    if bval.max() <= B0_THRESHOLD:
        return [
            f"the largest b-value is {bval.max():g}: no volume is diffusion-weighted; b-values must"
            " be in s/mm² (1000, not 1 ms/µm²); multiply those in ms/µm² by 1000"
        ]
    bval, encoded = _with_lengths(bval, bvec)
    weighted = bval > B0_THRESHOLD
    if weighted.all():
        problems.append(
            f"no b0: the smallest b-value is {bval.min():g}, a volume with b <= {B0_THRESHOLD:g}"
            " s/mm² is needed"
        )
    bad = weighted & ~np.isfinite(bvec).all(axis=1)
    if bad.any():
        return [*problems, f"{name_volumes(bad)}: the direction is not a number; correct it"]
    norm = _lengths(bvec)
    bad = weighted & (norm == 0)
    if bad.any():
        problems.append(
            f"{name_volumes(bad)}: b > {B0_THRESHOLD:g} s/mm² but the direction is 0 0 0; write its"
            " direction, or leave out trace-weighted volumes"
        )
    bad = weighted & (norm > 0) & (abs(norm - 1) > NORM_TOLERANCE)
    if bad.any() and not encoded:
        lengths = f"{norm[bad].min():.3g} to {norm[bad].max():.3g}"
        problems.append(
            f"{name_volumes(bad)}: direction of length {lengths} instead of 1; if the lengths"
            " encode the b-value, write that b-value and a unit vector instead"
        )
    if not problems:
        _, unit = clean_gradients(bval, bvec)
        fit = select_volumes(bval, unit)
        used = unit[fit][weighted[fit]]
        n_directions = count_directions(used)
        condition = tensor_condition(used)
        if n_directions < 6:
            problems.append(f"a tensor needs at least 6 different directions, found {n_directions}")
        elif condition > MAX_CONDITION:
            problems.append(
                f"the {n_directions} directions lie too close to a plane or a cone to give a tensor"
                f" (condition number {condition:.3g} > {MAX_CONDITION:g})"
            )
    return problems


def name_volumes(bad: ArrayLike) -> str:
    """Volumes by their numbers, the first ten of them.

    Parameters
    ----------
    bad
        (g,) whether it is named.

    >>> name_volumes([False, True, False, True])
    'volumes 1, 3'
    """
    index = np.flatnonzero(bad)
    more = f" and {len(index) - 10} more" if len(index) > 10 else ""
    return f"volume{'s' * (len(index) > 1)} {', '.join(map(str, index[:10]))}{more}"


def _lengths(bvec: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(bvec, axis=1))


def _with_lengths(
    bval: NDArray[np.float64], bvec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], str]:
    """The b-values (g,), of which lengths of the directions may be a part, and what was done.

    A length is a gradient's strength, and b-values go with its square. Some scanners write the
    largest b-value for all volumes and tell the others by the lengths alone.
    """
    norm = _lengths(bvec)
    weighted = bval > B0_THRESHOLD
    off = weighted & (abs(norm - 1) > NORM_TOLERANCE)
    if not off.any() or not np.isfinite(norm).all():
        return bval, ""
    largest = float(bval.max())
    told = largest * (norm / norm.max(initial=1e-9, where=weighted)) ** 2  # (g,)
    if np.ptp(bval[weighted]) > SHELL_GAP:
        agree = abs(told - bval)[weighted] <= NORM_TOLERANCE * largest
        said = "the lengths of the directions repeat the b-values, and are set to 1"
        return bval, said if agree.all() else ""
    several = np.count_nonzero(off & (norm > 0)) >= max(3, MIN_SCALED * np.count_nonzero(weighted))
    if not several or abs(norm[weighted].max() - 1) > NORM_TOLERANCE:
        return bval, ""
    return np.where(weighted, told, bval), (
        f"b = {largest:g} for all volumes and directions of length {norm[off].min():.3g} to 1 are"
        f" taken for b = {largest:g} x length², {told[weighted].min():.4g} to {largest:g}"
    )


def clean_gradients(
    bval: ArrayLike, bvec: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors; a b0's vector that is not one becomes 0 0 0; lengths that encode b are b.

    Parameters
    ----------
    bval, bvec
        (g,) s/mm² and (g, 3), without problems (`gradient_problems`).

    Returns
    -------
    (bval, bvec)
        Float64 copies.
    """
    bvec = np.array(bvec, dtype=np.float64)
    bval, _ = _with_lengths(np.array(bval, dtype=np.float64), bvec)
    norm = _lengths(bvec)
    usable = (norm > 0) & ((bval > B0_THRESHOLD) | (abs(norm - 1) <= NORM_TOLERANCE))  # (g,)
    unit = np.zeros_like(bvec)
    unit[usable] = bvec[usable] / norm[usable, None]
    return bval, unit


def gradient_mends(bval: ArrayLike, bvec: ArrayLike) -> list[str]:
    """What `clean_gradients` changes in a table that a user must know of, one sentence each."""
    _, said = _with_lengths(np.asarray(bval, dtype=np.float64), np.asarray(bvec, dtype=np.float64))
    return [said] if said else []


def select_volumes(
    bval: NDArray[np.float64], bvec: NDArray[np.float64], max_bval: float = TENSOR_BVAL
) -> NDArray[np.intp]:
    """Volumes of the tensor fit: b0s, and the shells up to `max_bval`.

    A shell counts by its mean b-value, rounded to 50 s/mm² (1,505 is 1,500). Where these shells do
    not determine a tensor, the next higher ones are added until they do.

    Parameters
    ----------
    bval, bvec
        (g,) s/mm² and (g, 3), sound (`gradient_problems`).
    max_bval
        s/mm².

    Returns
    -------
    index
        Ascending.
    """
    shells = find_shells(bval)
    chosen: list[NDArray[np.intp]] = []
    for shell in shells:
        before = np.concatenate([np.empty(0, int), *chosen])
        directions = bvec[before[bval[before] > B0_THRESHOLD]]  # a b0 may have one, of no meaning
        enough = len(directions) and tensor_condition(directions) <= MAX_CONDITION
        if bval[shell].mean() > max_bval + 25 and enough:
            break
        chosen.append(shell)
    return np.sort(np.concatenate(chosen))


def count_directions(bvec: NDArray[np.float64], min_angle: float = 1.0) -> int:
    """Number of directions that differ by more than `min_angle` degrees; v and -v are the same."""
    unit = bvec / np.linalg.norm(bvec, axis=1, keepdims=True)
    same = abs(unit @ unit.T) > np.cos(np.deg2rad(min_angle))  # (g, g)
    return int((~np.tril(same, -1).any(axis=1)).sum())


def tensor_condition(bvec: NDArray[np.float64]) -> float:
    """Condition number of the six tensor components under directions (g, 3); inf below 6."""
    x, y, z = (bvec / np.linalg.norm(bvec, axis=1, keepdims=True)).T
    root2 = np.sqrt(2.0)  # the Frobenius norm of a tensor counts each off-diagonal element twice
    design = np.stack([x * x, y * y, z * z, root2 * x * y, root2 * x * z, root2 * y * z], axis=1)
    singular = np.linalg.svd(design, compute_uv=False)  # (min(g, 6),)
    if len(singular) < 6 or singular[5] < 1e-12 * singular[0]:
        return float("inf")
    return float(singular[0] / singular[5])


def find_shells(bval: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Volumes of each shell, b0s first, by ascending b-value.

    Sorted b-values are cut where two neighbours differ by more than `SHELL_GAP`, so that jittered
    values (995, 1005) stay together. What is then wider than `SHELL_WIDTH` is a continuum rather
    than a shell, and is cut in two where the variance between the parts is largest, until none is.

    Parameters
    ----------
    bval
        (g,) s/mm².

    Returns
    -------
    shells
        Indices of volumes, ascending within a shell.
    """
    b0 = np.flatnonzero(bval <= B0_THRESHOLD)
    order = np.argsort(bval, kind="stable")[len(b0) :]
    cuts = np.flatnonzero(np.diff(bval[order]) > SHELL_GAP) + 1
    parts = [part for chain in np.split(order, cuts) if len(chain) for part in _narrow(chain, bval)]
    return [shell for shell in (b0, *map(np.sort, parts)) if len(shell)]


def _narrow(chain: NDArray[np.intp], bval: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Parts of a chain of volumes by ascending b-value, none wider than a shell may be."""
    b = bval[chain]
    if b[-1] - b[0] <= max(SHELL_GAP, SHELL_WIDTH * b.mean()):
        return [chain]
    n = np.arange(1, len(b))  # volumes below each possible cut
    below = np.cumsum(b)[:-1]
    gap = below / n - (b.sum() - below) / (len(b) - n)  # of the means
    cut = int(n[np.argmax(n * (len(b) - n) * gap**2)])
    return [*_narrow(chain[:cut], bval), *_narrow(chain[cut:], bval)]


def bvec_to_world(bvec: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """FSL's directions (g, 3) in the scanner's axes (x to the right, y to the front, z up)."""
    return bvec @ _fsl_axes(affine).T


def world_to_bvec(vectors: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions (g, 3) in the scanner's axes as FSL's along an image's axes."""
    return vectors @ _fsl_axes(affine)


def _fsl_axes(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal (3, 3) matrix whose columns are FSL's gradient axes in world space."""
    left, _, right = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    axes: NDArray[np.float64] = left @ right  # nearest rotation: a sheared affine has no exact one
    if np.linalg.det(axes) > 0:
        axes[:, 0] *= -1  # FSL's first axis always runs to the left
    return axes


def write_gradients(
    bval_path: str | os.PathLike[str],
    bvec_path: str | os.PathLike[str],
    bval: NDArray[np.float64],
    bvec: NDArray[np.float64],
) -> None:
    """Write FSL's files: b-values (g,) in one row, directions (g, 3) in three."""
    write_text(bval_path, " ".join(f"{b:g}" for b in bval) + "\n")
    # + 0.0 turns -0 into 0
    rows = (" ".join(f"{x:.6f}" for x in np.round(axis, 6) + 0.0) for axis in bvec.T)
    write_text(bvec_path, "\n".join(rows) + "\n")
