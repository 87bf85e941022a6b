"""Whether a gradient table is that of its image: b-values, order of the directions, their frame.

Every step that begins with diffusion-weighted volumes makes the same checks, of the voxels well
inside of the head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from axoloci.io.gradients import (
    B0_THRESHOLD,
    find_shells,
    name_volumes,
    select_volumes,
    world_to_bvec,
)

CLEAR = math.log(1.25)
"""Change of a volume's signal, in logarithms, that neither motion nor noise makes."""

CLEAR_LOSS = 0.2
"""Share of its signal below which a slice of a volume tells nothing of the directions."""

MIN_FALL = math.log(1.05)
"""Least fall of the signal from b0 to b >= 500 s/mm²; fixed tissue at b = 1000 has 20%."""

MAX_POINTS = 20_000
"""Voxels of which the order of the volumes is judged, and those with a fibre of which the frame."""

MIN_POINTS = 100
"""Voxels from which on the order can be judged: of few, all may have the same fibres."""

MIN_DIRECTIONS = 12
"""Weighted volumes from which on their order can be judged: six fit a tensor in any order, and of
ten with much motion a wrong order may explain more than the right one."""

N_ORDERS = 300
"""Random orders with which the given one is compared."""

MAX_CHANCE = 0.01
"""Share of the random orders that may explain as much as the given one."""

DRIFT_VOLUMES = 8
"""Weighted volumes for each slow wave over the scan that is none of the directions': where the head
moved, all volumes after differ from those before."""

MIN_PART = 3
"""Volumes in a row whose directions can be told to be others."""

MIN_GAIN = 0.3
"""Share of what they explain, by which other directions of these volumes must be better: 0.3 to 1
where they are the right ones; below 0.15 of sound scans with strong motion."""

MIN_BETTER = 0.75
"""Share of these volumes that each must come closer to its prediction."""

MIN_SHUFFLED = 20
"""Weighted volumes from which on single ones can be told to have others' directions."""

MAX_SHUFFLED = 0.15
"""Share of the volumes that may have others' directions: none in sound scans, and a tenth where
the head turned by 5° from volume to volume."""

SHUFFLED_ANGLE = 30.0
"""Degrees to the better direction from which on it is another one."""

SHUFFLED_RATIO = 1.2
"""Variance left of a volume, by its own direction over that by the other."""

FRAME_FA = 0.25
"""Voxels above this FA have a main direction."""

FRAME_POWER = 4
"""Of the cosine between a fibre and the step to a neighbour that lies along it."""

FRAME_STEPS = (1, 2)
"""Distance of the neighbours, voxels: one alone is the noisier, beyond two fibres bend away."""

BLOCKS = 4
"""Parts of the image along each axis, of which the jackknife leaves out one at a time."""

MIN_LEAD = 2.5
"""Standard errors by which another frame must be better than the one that was given."""

MIN_MARGIN = 1.0
"""Standard errors by which it must be better than any other: noise alone has no clear winner."""

OBLIQUE = 0.96
"""Cosine (16°) below which an image's axes are not the scanner's."""

_XYZ = "xyz"


@dataclass(frozen=True)
class Voxels:
    """Signal of the voxels well inside of the head.

    Attributes
    ----------
    signal
        [float32, shape: (m, g)] Of these voxels and others; read in parts, never copied as a whole.
    rows
        [intp, shape: (n,)] Rows of `signal` that are inside.
    place
        [intp, shape: (n, 3)] Their voxels in the image.
    shape
        (x, y, z) of the image.
    volumes
        [intp, shape: (g,)] Volumes of the image that the columns of `signal` are.
    """

    signal: NDArray[np.float32]
    rows: NDArray[np.intp]
    place: NDArray[np.intp]
    shape: tuple[int, ...]
    volumes: NDArray[np.intp]

    @property
    def few(self) -> slice:
        """Of `rows` and `place`, as many as the order of the volumes is judged of."""
        return slice(None, None, -(-len(self.rows) // MAX_POINTS) or None)


def voxels_inside(
    signal: NDArray[np.float32],
    where: NDArray[np.intp],
    shape: tuple[int, ...],
    volumes: NDArray[np.intp],
    mask: NDArray[np.bool_] | None = None,
) -> Voxels:
    """The voxels well inside of the head, found in a moment.

    Parameters
    ----------
    signal
        (m, g).
    where
        (m,) ascending indices of these voxels in the flattened grid, Fortran order.
    shape
        (x, y, z) of the grid.
    volumes
        (g,) number of each column's volume in the image.
    mask
        (x, y, z) brain; without it the head is what is bright.
    """
    if mask is None:
        mean = np.zeros(math.prod(shape), dtype=np.float32)
        mean[where] = signal.mean(axis=1)
        image = mean.reshape(shape, order="F")
        threshold = otsu_threshold(image) if np.ptp(image) > 0 else -np.inf
        mask = ndimage.binary_fill_holes(image > threshold)
    core = ndimage.binary_erosion(mask, iterations=2)
    inside = (core if core.any() else mask).ravel(order="F")
    rows = np.flatnonzero(inside[where])
    if not len(rows):
        rows = np.arange(len(where))
    place = np.stack(np.unravel_index(where[rows], shape, order="F"), axis=1)
    return Voxels(signal, rows, place, shape, volumes)


def table_problems(
    voxels: Voxels, bval: NDArray[np.float64], bvec: NDArray[np.float64], names: tuple[Path, Path]
) -> list[str]:
    """What the signal tells of the table, with the files' names: bval first, bvec if that is right.

    Parameters
    ----------
    voxels
        Of all volumes or some.
    bval, bvec
        (g,) s/mm² and (g, 3) of all volumes, sound and cleaned.
    names
        Of the files of b-values and directions.
    """
    if problems := signal_problems(voxels, bval):
        return [f"{names[0]}: {text}" for text in problems]
    return [f"{names[1]}: {text}" for text in direction_problems(voxels, bval, bvec)]


def signal_problems(voxels: Voxels, bval: NDArray[np.float64]) -> list[str]:
    """B-values that are not those of their volumes: signal falls with b, for all tissue.

    The volumes are sorted by their signal, and the b-values by size, which gives each shell's
    level whatever the order was. A volume is misnamed where its signal is that of another shell
    and differs from its own by a quarter or more. Shells with diffusion weighting may also be
    unlike for a volume's dropouts: such volumes are named only where others are unlike the other
    way round.

    Parameters
    ----------
    voxels
        Of all volumes or some, b0s among them.
    bval
        (g,) s/mm² of all.

    Returns
    -------
    problems
        One sentence each; volumes are counted from 0.
    """
    n_volumes = len(bval)
    bval = bval[voxels.volumes]
    level = _levels(voxels)  # (g,)
    shells = find_shells(bval)
    own = np.empty(len(bval), dtype=int)  # (g,) number of the volume's shell
    for number, shell in enumerate(shells):
        own[shell] = number
    ends = np.cumsum([len(shell) for shell in shells])
    brightest_first = np.split(np.argsort(-level, kind="stable"), ends[:-1])
    typical = np.array([np.median(level[part]) for part in brightest_first])  # (n_shells,)
    like = abs(level[:, None] - typical).argmin(axis=1)  # (g,)
    wrong = (like != own) & (abs(level - typical[own]) > CLEAR)
    both_ways = (like < own)[wrong].any() and (like > own)[wrong].any()
    wrong &= both_ways | (like == 0) | (own == 0)
    if wrong.any():
        words = [
            f"{name_volumes(_mark(voxels.volumes[found], n_volumes))} labelled {label}, but {look}"
            for label, look, found in (
                ("weighted", "bright as a b0", wrong & (like == 0)),
                ("b0", "dark as weighted ones", wrong & (own == 0)),
                ("weighted", "bright as those of another b-value", wrong & (like > 0) & (own > 0)),
            )
            if found.any()
        ]
        return [
            f"signal does not fall with the b-value: {'; '.join(words)}; give the bval file of"
            " this image, in the order of its volumes"
        ]
    strong = bval >= 500
    if strong.any() and np.median(level[own == 0]) - np.median(level[strong]) < MIN_FALL:
        return [
            f"signal does not fall with the b-value: at b = {bval.max():g} it is that of b = 0;"
            " give the bval file of this image, and the volumes as they were acquired"
        ]
    return []


def _mark(chosen: NDArray[np.intp], n: int) -> NDArray[np.bool_]:
    """Volumes of n that are chosen."""
    return np.isin(np.arange(n), chosen)


def _levels(voxels: Voxels) -> NDArray[np.float64]:
    """Logarithm of each volume's signal (g,), by the median voxel, which no dropped slice moves."""
    signal = voxels.signal[voxels.rows[voxels.few]].astype(np.float64)  # (n, g)
    signal = np.maximum(signal, 1e-3 * signal.mean())
    level: NDArray[np.float64] = np.median(
        np.log(signal) - np.log(signal.mean(axis=1, keepdims=True)), axis=0
    )
    return level


class Fit:
    """Fits of a tensor to every voxel at once: of their signals the products between volumes do.

    Of the signal and of the design what a constant and slow waves over the scan explain is left
    out.

    Attributes
    ----------
    b
        [float64, shape: (g,)] ms/µm² of the volumes of the fit.
    volumes
        [intp, shape: (g,)] These volumes in the image.
    weighted
        [intp, shape: (n,)] Those of the g that are weighted.
    total
        Sum of squares that the b-values alone leave.
    """

    def __init__(
        self, voxels: Voxels, bval: NDArray[np.float64], bvec: NDArray[np.float64]
    ) -> None:
        held = np.sort(voxels.volumes)
        self.volumes = held[select_volumes(bval[held], bvec[held])]
        columns = np.argsort(voxels.volumes)[np.searchsorted(held, self.volumes)]
        self.b = bval[self.volumes] / 1000
        self.weighted = np.flatnonzero(bval[self.volumes] > B0_THRESHOLD)
        few = voxels.few
        y = _log_signal(voxels.signal[voxels.rows[few]][:, columns]).astype(np.float64)
        _fill_lost_slices(y, voxels.place[few, 2], find_shells(bval[self.volumes]))
        g, n_waves = len(self.b), len(self.weighted) // DRIFT_VOLUMES
        self._waves = np.cos(np.pi * np.outer((np.arange(g) + 0.5) / g, np.arange(n_waves + 1)))
        self._without = np.eye(g) - self._waves @ np.linalg.pinv(self._waves)  # (g, g)
        self._gram = self._without @ (y.T @ y) @ self._without
        self.freedom = g - self._waves.shape[1]
        self.total = float(self._left(self._basis(self.b[None, :, None]))[0])

    def _basis(self, design: NDArray[np.float64]) -> NDArray[np.float64]:
        """Orthonormal columns (c, g, p) that span designs (c, g, p)."""
        basis, size, _ = np.linalg.svd(self._without @ design, full_matrices=False)
        return np.asarray(basis * (size > 1e-6 * size[:, :1])[:, None])

    def _left(self, basis: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of squares (c,) beyond bases (c, g, p)."""
        fitted = ((self._gram @ basis) * basis).sum(axis=(1, 2))
        return np.asarray(np.trace(self._gram) - fitted)

    def _designs(self, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        return _design(self.b, directions)[..., 1:]

    def left(self, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of squares (c,) that tensors of tables of directions (c, g, 3) leave."""
        return self._left(self._basis(self._designs(directions)))

    def explained(self, left: ArrayLike) -> NDArray[np.float64]:
        """Share of the variance between volumes (adjusted R²) where so much is left."""
        rest = np.asarray(left) / (self.freedom - 6) * (self.freedom - 1)
        return np.asarray(1 - rest / self.total)

    def missed(self, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of squares (g,) by which each volume misses what the others predict for it."""
        basis = self._basis(self._designs(directions[None]))[0]
        rest = self._without - basis @ basis.T  # (g, g), with the gram of what is without as well
        own = np.maximum(np.diag(rest), 1e-3)
        return np.asarray(((rest @ self._gram) * rest).sum(axis=1) / own**2)

    def missed_by(self, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of squares (n, n) by which each weighted volume misses what others predict for it.

        In the columns with the direction of each of the weighted volumes.
        """
        g = len(self.b)
        design = np.column_stack([self._waves, self._designs(directions[None])[0]])
        found = np.empty((len(self.weighted),) * 2)
        for i, v in enumerate(self.weighted):
            others = np.arange(g) != v
            inverse = np.linalg.pinv(design[others], rcond=1e-6)
            as_v = np.repeat(design[v : v + 1], len(self.weighted), axis=0)
            as_v[:, -6:] = _design(np.full(len(as_v), self.b[v]), directions[self.weighted])[:, 1:]
            weight = np.zeros((len(self.weighted), g))
            weight[:, others] = -as_v @ inverse
            weight[:, v] = 1
            found[i] = ((weight @ self._gram) * weight).sum(axis=1)
        return found


@dataclass(frozen=True)
class Mistake:
    """Another reading of a table of directions.

    Attributes
    ----------
    bvec
        [float64, shape: (g, 3)] The table as it should then be.
    part
        [intp, shape: (m,)] Weighted volumes whose directions may be wrong.
    words
        What it looks like.
    """

    bvec: NDArray[np.float64]
    part: NDArray[np.intp]
    words: str


def _mistakes(bval: NDArray[np.float64], bvec: NDArray[np.float64]) -> Iterator[list[Mistake]]:
    """Readings of a table: moved or in another frame from some volume on, and in reverse order."""
    weighted = np.flatnonzero(bval > B0_THRESHOLD)
    n = len(weighted)

    def changed(start: int, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        table = bvec.copy()
        table[weighted[start:]] = directions
        return table

    yield [Mistake(changed(0, bvec[weighted[::-1]]), weighted, "in reverse order")]
    starts = range(MIN_PART, n - MIN_PART + 1)
    for k in (-3, -2, -1, 1, 2, 3):
        whole = f"moved by {k:+d} among the weighted volumes"
        lost = f"{abs(k)} {'volumes are' if abs(k) > 1 else 'volume is'} missing"
        what = f"{lost} there in the {'image' if k < 0 else 'table'}, or {abs(k)} too many in the"
        found = [Mistake(changed(0, np.roll(bvec[weighted], k, axis=0)), weighted, whole)]
        found += [
            Mistake(
                changed(start, np.roll(bvec[weighted[start:]], k, axis=0)),
                weighted[start:],
                f"moved by {k:+d} from volume {weighted[start]} on: {what}"
                f" {'table' if k < 0 else 'image'}",
            )
            for start in starts
        ]
        yield found
    for matrix in frame_candidates(np.eye(4))[1:]:
        axes = [("-" if row.sum() < 0 else "") + _XYZ[abs(row).argmax()] for row in matrix]
        yield [
            Mistake(
                changed(start, bvec[weighted[start:]] @ matrix.T),
                weighted[start:] if 2 * start >= n else weighted[:start],
                f"those from volume {weighted[start]} on are read as ({', '.join(axes)}): runs were"
                " merged whose directions are in different frames",
            )
            for start in starts
        ]


def direction_problems(
    voxels: Voxels, bval: NDArray[np.float64], bvec: NDArray[np.float64]
) -> list[str]:
    """Directions that are not those of their volumes: a tensor then explains little.

    The share of the signal's variance between volumes that a tensor explains is compared with that
    of the same directions in random orders, and moved or in another frame from each volume on; and
    each volume with what the others predict for its own direction and for those of others. The
    frame of all directions does not matter, for which see `gradient_frame`.

    Parameters
    ----------
    voxels
        Of all volumes or some.
    bval, bvec
        (g,) s/mm² and (g, 3) of all, sound and cleaned.

    Returns
    -------
    problems
        One sentence each; none where the volumes are too few to tell.
    """
    fit = _order_fit(voxels, bval, bvec)
    if fit is None:
        return []
    table = bvec[fit.volumes]
    left = float(fit.left(table[None])[0])
    share = f"{fit.explained(left):.2f} of the signal's variance between volumes"
    close = "give the bvec file of this image"

    best, least = None, left
    for readings in _mistakes(bval, bvec):
        # of those that change enough of the fitted volumes: the tensor knows nothing of others
        readings = [
            reading
            for reading in readings
            if np.isin(fit.volumes, reading.part).sum() >= min(MIN_PART, len(fit.weighted))
        ]
        if not readings:
            continue
        others = fit.left(np.array([reading.bvec[fit.volumes] for reading in readings]))
        if others.min() < least:
            best, least = readings[int(others.argmin())], float(others.min())
    if best is not None and _is_better(fit, table, best, left, least):
        return [
            f"the directions explain {share}, and {fit.explained(least):.2f} when {best.words};"
            f" {close}"
        ]

    rng = np.random.default_rng(0)
    orders = np.repeat(table[None], N_ORDERS, axis=0)
    for order in orders:
        order[fit.weighted] = rng.permutation(order[fit.weighted])
    chance = fit.left(orders)
    if left >= np.quantile(chance, MAX_CHANCE):
        by_chance = fit.explained(chance)
        return [
            f"the directions explain {share}, in random order {by_chance.mean():.2f} ±"
            f" {by_chance.std():.2f}: they are of another scan or in another order, or the scan is"
            f" noise; {close}"
        ]
    shuffled = _shuffled(fit, table)
    if shuffled.sum() > MAX_SHUFFLED * len(shuffled):
        named = name_volumes(_mark(fit.volumes[fit.weighted[shuffled]], len(bval)))
        return [
            f"the directions explain {share}, but those of other volumes are clearly better for"
            f" {named} ({shuffled.sum()} of {len(shuffled)}): they are in another order; {close}"
        ]
    return []


def explained_variance(
    voxels: Voxels, bval: NDArray[np.float64], bvec: NDArray[np.float64]
) -> float | None:
    """Share of the signal's variance between volumes that a tensor explains (adjusted R²).

    None where the volumes are too few to tell.
    """
    fit = _order_fit(voxels, bval, bvec)
    if fit is None:
        return None
    return float(fit.explained(fit.left(bvec[fit.volumes][None]))[0])


def _order_fit(voxels: Voxels, bval: NDArray[np.float64], bvec: NDArray[np.float64]) -> Fit | None:
    """The fit that judges the order; none of too few volumes."""
    fit = Fit(voxels, bval, bvec)
    enough = len(voxels.rows) >= MIN_POINTS and len(fit.weighted) >= MIN_DIRECTIONS
    return fit if enough and fit.total > 0 else None


def _is_better(
    fit: Fit, table: NDArray[np.float64], other: Mistake, left: float, least: float
) -> bool:
    """Whether another reading is clearly better, of most volumes that it changes."""
    part = np.flatnonzero(np.isin(fit.volumes, other.part))
    gain = (left - least) / (fit.total - least) * len(fit.weighted) / len(part)
    mended = other.bvec[fit.volumes]
    closer = fit.missed(mended)[part] < fit.missed(table)[part]
    clear = gain > MIN_GAIN and closer.mean() >= MIN_BETTER
    return bool(clear and _shuffled(fit, mended).mean() <= MAX_SHUFFLED)  # nothing else is wrong


def _shuffled(fit: Fit, table: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Weighted volumes (n,) that another's direction predicts clearly better than their own."""
    n = len(fit.weighted)
    if n < MIN_SHUFFLED:
        return np.zeros(n, dtype=bool)
    missed = fit.missed_by(table)  # (n, n)
    own, best, typical = np.diag(missed), missed.min(axis=1), np.median(missed, axis=1)
    g = table[fit.weighted]
    far = abs((g * g[missed.argmin(axis=1)]).sum(axis=1)) < np.cos(np.radians(SHUFFLED_ANGLE))
    return np.asarray(far & (own > SHUFFLED_RATIO * best) & (own - best > 0.5 * (typical - best)))


def _fill_lost_slices(
    y: NDArray[np.float64], slices: NDArray[np.intp], shells: list[NDArray[np.intp]]
) -> None:
    """Put each voxel's median over its shell where a slice lost signal, which tells no direction.

    Parameters
    ----------
    y
        (n, g) logarithm of the signal; changed in place.
    slices
        (n,) slice of each voxel.
    shells
        Volumes of each shell.
    """
    size = np.maximum(np.bincount(slices), 1)
    filled = np.unique(slices)
    for shell in shells:
        middle = np.median(y[:, shell], axis=1)  # (n,)
        for v in shell:
            change = np.bincount(slices, y[:, v] - middle) / size  # (z,)
            change -= np.median(change[filled])  # what all slices lose is diffusion
            lost = (change < np.log(1 - CLEAR_LOSS))[slices]
            y[lost, v] = middle[lost]


@dataclass(frozen=True)
class Frame:
    """How well the main directions of neighbouring voxels agree, by frame of the gradients.

    Attributes
    ----------
    matrices
        [float64, shape: (c, 3, 3)] Each turns the given directions into a candidate's; the first
        is the identity, the frame as given.
    index
        [float64, shape: (c,)] Fibre coherence index of each candidate.
    lead
        [float64, shape: (c,)] Standard errors by which the best index exceeds each, inf for itself;
        all 0 where the image has no fibres to tell by.
    """

    matrices: NDArray[np.float64]
    index: NDArray[np.float64]
    lead: NDArray[np.float64]

    @property
    def best(self) -> int:
        """Candidate of the largest index."""
        return int(self.index.argmax())

    @property
    def margin(self) -> float:
        """Standard errors by which the best candidate exceeds the second."""
        return float(self.lead.min())

    @property
    def is_wrong(self) -> bool:
        """Whether another frame is clearly better than the one that was given."""
        clear = self.lead[0] >= MIN_LEAD and self.margin >= MIN_MARGIN
        return bool(self.best != 0 and clear)

    @property
    def is_unsure(self) -> bool:
        """Whether no frame is clearly the best, so that a wrong one could not be told."""
        return self.margin < MIN_MARGIN or (self.best != 0 and not self.is_wrong)

    @property
    def verdict(self) -> str:
        """The frame in words: as given, cannot be told, or what to do to have the right one."""
        return "cannot be told" if self.is_unsure else self.mend or "as given"

    def figures(self) -> dict[str, str | float]:
        """What the quality figures of a scan tell of its frame."""
        return {
            "best": self.verdict,
            "index": round(float(self.index[0]), 5),
            "margin": round(self.margin, 2),
        }

    @property
    def mend(self) -> str:
        """What to do to the bvec file to have the best frame; empty if nothing."""
        order, of_scanner = self.best % 24, self.best >= 24
        words = [_words(self.matrices[order])] if order else []
        if of_scanner:
            words.append("turn its directions from the scanner's axes into the image's")
        return ", then ".join(words)

    @property
    def warning(self) -> str:
        """What a user must know where the frame is wrong or cannot be told; else empty."""
        if self.is_unsure:
            behind = f"; as given it is {self.lead[0]:.1f} behind" if self.best else ""
            return (
                f"the frame of the gradients cannot be told: the best is {self.margin:.1f} standard"
                f" errors above the next{behind}; look at the main directions"
            )
        if not self.is_wrong:
            return ""
        return (
            "main directions of neighbouring voxels agree better in another frame of the gradients"
            f" (coherence {self.index[self.best]:.4f}, as given {self.index[0]:.4f},"
            f" {self.lead[0]:.1f} standard errors): {self.mend}. FA and MD do not depend on it, all"
            " directions and tracts do"
        )


def _words(matrix: NDArray[np.float64]) -> str:
    """A signed permutation (3, 3), at most one sign reversed, as work on a bvec file's rows."""
    order = abs(matrix).argmax(axis=1)
    words = []
    if (order != np.arange(3)).any():
        words.append(
            f"write the rows of the bvec file in the order {' '.join(_XYZ[k] for k in order)}"
        )
    words += [
        f"change the sign of all of row {row + 1} ({_XYZ[row]}) of the bvec file"
        for row in np.flatnonzero(matrix.sum(axis=1) < 0)
    ]
    return ", then ".join(words)


def frame_candidates(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frames (c, 3, 3) that gradients are found in by mistake.

    Six orders of the axes, each with none or one of them reversed (two are as one, for a direction
    has no sign): 24; and where the image is oblique, the same of the scanner's axes.
    """
    signed = [
        np.diag([-1.0 if k == flip else 1.0 for k in range(3)]) @ np.eye(3)[list(order)]
        for order in itertools.permutations(range(3))
        for flip in (None, 0, 1, 2)
    ]
    to_image = world_to_bvec(np.eye(3), affine).T  # (3, 3)
    if abs(to_image).max(axis=0).min() > OBLIQUE:
        return np.array(signed)
    return np.array([*signed, *(to_image @ matrix for matrix in signed)])


def gradient_frame(
    voxels: Voxels,
    bval: NDArray[np.float64],
    bvec: NDArray[np.float64],
    affine: NDArray[np.float64],
) -> Frame:
    """Frame of the gradients in which fibres go on from voxel to voxel.

    A fibre coherence index (doi:10.1016/j.mri.2019.01.018; by tractography
    doi:10.1016/j.media.2014.05.012): the mean over pairs of neighbours of their FA, the agreement
    of their main directions, and how far the step between the two lies along both. One tensor fit
    serves all frames, for a frame turns the main directions as it turns the gradients. Standard
    errors are of a jackknife over blocks of the image.

    Parameters
    ----------
    voxels
        Of all volumes or some.
    bval, bvec
        (g,) s/mm² and (g, 3) of all, sound and cleaned.
    affine
        (4, 4) voxel to world, mm.

    Returns
    -------
    frame
    """
    matrices = frame_candidates(affine)
    direction, fa = _main_directions(voxels, bval[voxels.volumes], bvec[voxels.volumes])
    place = voxels.place[fa > FRAME_FA]  # (n, 3)
    direction, fa = direction[fa > FRAME_FA], fa[fa > FRAME_FA]
    number = np.full(voxels.shape, -1)  # of each voxel among the n
    number[tuple(place.T)] = np.arange(len(place))
    block = (place * BLOCKS // voxels.shape) @ [BLOCKS**2, BLOCKS, 1]  # (n,)

    few = slice(None, None, -(-len(place) // MAX_POINTS) or None)
    voxel = np.linalg.norm(affine[:3, :3], axis=0)  # (3,) mm
    if np.linalg.det(affine[:3, :3]) > 0:
        voxel[0] *= -1  # FSL's first axis
    total = np.zeros((BLOCKS**3, len(matrices)))
    weight = np.zeros(BLOCKS**3)
    for step, n in itertools.product(itertools.product((-1, 0, 1), repeat=3), FRAME_STEPS):
        if step <= (0, 0, 0):
            continue  # each pair once
        other = place + n * np.array(step)
        within = ((other >= 0) & (other < voxels.shape)).all(axis=1)
        j = np.full(len(place), -1)
        j[within] = number[tuple(other[within].T)]
        i = np.flatnonzero(j >= 0)[few]
        j = j[i]
        along = step * voxel / np.linalg.norm(step * voxel)  # (3,)
        turned = (along @ matrices).T.astype(np.float32)  # (3, c): the step, seen by each frame
        fit = abs((direction[i] @ turned) * (direction[j] @ turned)) ** FRAME_POWER  # (pairs, c)
        share = fa[i] * fa[j]  # (pairs,)
        agree = share * (direction[i] * direction[j]).sum(axis=1) ** 2
        weight += np.bincount(block[i], share, BLOCKS**3)
        for c, value in enumerate((fit * agree[:, None]).T):
            total[:, c] += np.bincount(block[i], value, BLOCKS**3)
    return Frame(matrices, *_jackknife(total[weight > 0], weight[weight > 0]))


def _jackknife(
    total: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ratio of sums over blocks (m, c) and (m,), and the lead (c,) of the largest, in SE."""
    m, c = total.shape
    if m < 2:  # nothing to tell by
        return np.zeros(c), np.zeros(c)
    ratio = total.sum(axis=0) / weight.sum()  # (c,)
    without = (total.sum(axis=0) - total) / (weight.sum() - weight)[:, None]  # (m, c)
    best = int(ratio.argmax())
    behind = without[:, [best]] - without
    error = np.sqrt((m - 1) * behind.var(axis=0))
    lead = np.divide(ratio[best] - ratio, error, out=np.zeros(c), where=error > 0)
    lead[best] = np.inf
    return ratio, lead


def _log_signal(signal: NDArray[np.float32], floor: float | None = None) -> NDArray[np.float32]:
    """Logarithm of signal (n, g), of which the least is raised to a hundredth of the median."""
    floor = 0.01 * float(np.median(signal)) if floor is None else floor
    return np.log(np.maximum(signal, max(np.float32(floor), np.finfo(np.float32).tiny)))


def _design(b: NDArray[np.float64], g: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of a tensor's fit (…, g, 7): the logarithm of S0, then D in the order xx yy zz xy xz yz."""
    x, y, z = np.moveaxis(g, -1, 0)
    design = np.ones((*g.shape[:-1], 7))
    for column, product in enumerate((x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z), 1):
        design[..., column] = -b * product
    return design


def _main_directions(
    voxels: Voxels, bval: NDArray[np.float64], bvec: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Main direction (n, 3) and FA (n,) of the voxels, by least squares of the logarithm.

    FA is 0 where it can be ignored: below `FRAME_FA`, and where diffusion is twice that of tissue.
    """
    used = select_volumes(bval, bvec)
    inverse = np.linalg.pinv(_design(bval[used] / 1000, bvec[used]))[1:].astype(np.float32)
    floor = 0.01 * float(np.median(voxels.signal[voxels.rows[voxels.few]][:, used]))
    parts = np.array_split(voxels.rows, 1 + len(voxels.rows) // MAX_POINTS)
    elements = np.concatenate(
        [_log_signal(voxels.signal[rows][:, used], floor) @ inverse.T for rows in parts]
    )  # (n, 6)
    tensor = elements[:, [[0, 3, 4], [3, 1, 5], [4, 5, 2]]]  # (n, 3, 3)
    mean = elements[:, :3].mean(axis=1)  # (n,)
    squares = (tensor**2).sum(axis=(1, 2))
    fa = np.sqrt(np.maximum(1.5 * (1 - 3 * mean**2 / np.maximum(squares, 1e-12)), 0))
    sound = (fa > FRAME_FA) & (fa < 1) & (mean > 0) & (mean < 2 * np.median(mean))
    direction = np.zeros((len(elements), 3), dtype=np.float32)
    direction[sound] = np.linalg.eigh(tensor[sound])[1][:, :, 2]
    return direction, np.where(sound, fa, np.float32(0))


def otsu_threshold(image: NDArray[np.float32], n_bins: int = 256) -> float:
    """Value that parts an image's histogram with the largest variance between the two sides."""
    count, edge = np.histogram(image, n_bins)
    middle = 0.5 * (edge[1:] + edge[:-1])
    below = np.cumsum(count)  # (n_bins,)
    above = below[-1] - below
    total = np.cumsum(count * middle)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(middle[np.nanargmax(between)])
