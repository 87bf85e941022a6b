"""Faults of one diffusion-weighted scan that its voxels tell, and the frame of its gradients."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from axoloci.io.gradients import (
    B0_THRESHOLD,
    find_shells,
    name_volumes,
    select_volumes,
    world_to_bvec,
)
from axoloci.io.nifti import Header
from axoloci.tasks.preprocess.kernel import otsu_threshold

BYTES_AT_LEAST = 3e8
"""Memory that the step takes whatever the scan: libraries, and maps of one volume."""

BYTES_PER_VALUE = 12
"""Memory of the step for each voxel of each volume, of which 4 are the scan itself."""

MIN_TRANSFORMED = 32
"""Voxels along an axis below which its k-space tells too little."""

MAX_EMPTY = 0.01
"""Power of the outer k-space over that further in, below which nothing was acquired there: 0.05 and
more in real scans, 0.002 and less in those that scanners filled with zeros."""

MIN_VOXELS = 5
"""Along each axis."""

MAX_NEGATIVE = 0.05
"""Share of all signal that may be negative: interpolation undershoots, a magnitude does not."""

MAX_CLIPPED = 0.005
"""Share of a volume's voxels that may have the scan's largest value."""

MAX_SHEAR = 0.02
"""Cosine of the angle between two axes of an image; an affine that is rounded has less."""

CLEAR = math.log(1.25)
"""Change of a volume's signal, in logarithms, that neither motion nor noise makes."""

CLEAR_LOSS = 0.2
"""Share of its signal below which a slice of a volume tells nothing of the directions."""

MIN_FALL = math.log(1.05)
"""Least fall of the signal from b0 to b >= 500 s/mm²; fixed tissue at b = 1000 has 20%."""

MAX_POINTS = 20_000
"""Voxels of which the order of the volumes is judged."""

MIN_DIRECTIONS = 10
"""Weighted volumes from which on their order can be judged: six fit a tensor in any order."""

MIN_ORDER = 3.0
"""Standard deviations, among random orders, by which the right order explains more signal."""

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


def memory_needed(shape: tuple[int, ...]) -> int:
    """Bytes that the step takes at its peak for a scan of this shape (x, y, z, g)."""
    return int(BYTES_AT_LEAST + BYTES_PER_VALUE * math.prod(shape))


def affine_problems(affine: NDArray[np.float64]) -> list[str]:
    """What keeps an affine (4, 4) from giving gradients a direction in the image."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = abs(axes.T @ axes - np.eye(3)).max()
    if cosine <= MAX_SHEAR:
        return []
    return [
        "the affine is sheared: two axes of the image meet at"
        f" {math.degrees(math.acos(cosine)):.0f}° instead of 90°; give the scan as it was acquired,"
        " not resampled by an affine"
    ]


def image_problems(dwi: NDArray[np.float32], header: Header | None = None) -> list[str]:
    """What keeps the volumes of a scan from being used.

    Parameters
    ----------
    dwi
        (x, y, z, g) finite signal.
    header
        Of the file, if faults of what it stores are to be found.

    Returns
    -------
    problems
        One sentence each; volumes are counted from 0.
    """
    problems = []
    if min(dwi.shape[:3]) < MIN_VOXELS:
        problems.append(
            f"the volumes have {dwi.shape[:3]} voxels; at least {MIN_VOXELS} along each axis are"
            " needed"
        )
    low, high = dwi.min(axis=(0, 1, 2)), dwi.max(axis=(0, 1, 2))  # (g,)
    if (low == high).any():
        problems.append(
            f"{name_volumes(low == high)}: all voxels have the same value; drop them from the"
            " image, the bval and the bvec file"
        )
    if problems:
        return problems
    if header is not None and header.dtype == np.int16:
        half = abs(header.slope) * 2**14  # of what int16 reaches
        if low.min() < -half and high.max() > half:
            return [
                f"{np.count_nonzero(dwi < -half)} values from {low.min():g} beside others up to"
                f" {high.max():g}: values above 32767 were stored as int16 and became negative;"
                " convert the scan anew to uint16 or float32"
            ]
    signal = np.array([np.abs(volume).sum(dtype=np.float64) for volume in dwi.T])  # (g,)
    positive = np.array([volume.sum(dtype=np.float64) for volume in dwi.T])
    negative = (signal - positive) / 2 / signal
    if negative.max() > MAX_NEGATIVE:
        problems.append(
            f"{name_volumes(negative > MAX_NEGATIVE)}: negative values are"
            f" {100 * negative.max():.0f}% of the signal; give the magnitude, unscaled and without"
            " subtraction"
        )
    top = np.array([np.count_nonzero(volume == high.max()) for volume in dwi.T])
    clipped = top / dwi[..., 0].size
    if clipped.max() > MAX_CLIPPED:
        problems.append(
            f"{name_volumes(clipped > MAX_CLIPPED)}: {100 * clipped.max():.1f}% of the voxels have"
            f" the scan's largest value, {high.max():g}: the signal is clipped; convert or export"
            " the scan anew"
        )
    return problems


def interpolated_axes(b0: NDArray[np.float32]) -> list[int]:
    """In-plane axes along which a scanner has filled k-space up with zeros, to finer voxels.

    Noise reaches as far as k-space was acquired: beyond it, there is next to no power.

    Parameters
    ----------
    b0
        (x, y, z) as it was acquired.
    """
    quarter = b0.shape[2] // 4
    middle = b0[:, :, quarter : b0.shape[2] - quarter].astype(np.float64)
    found = []
    for axis in (0, 1):
        if b0.shape[axis] < MIN_TRANSFORMED:
            continue
        lines = np.moveaxis(middle, axis, -1) * np.hanning(b0.shape[axis])
        power = (abs(np.fft.rfft(lines)) ** 2).mean(axis=(0, 1))
        place = np.linspace(0, 1, len(power))  # 1 is the highest frequency
        inner = power[(place > 0.3) & (place <= 0.45)].mean()
        if inner > 0 and power[place > 0.8].mean() < MAX_EMPTY * inner:
            found.append(axis)
    return found


def inside_head(dwi: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels (x, y, z) well inside of the head, found in a moment."""
    mean = dwi.mean(axis=-1)
    head = ndimage.binary_fill_holes(mean > otsu_threshold(mean))
    core: NDArray[np.bool_] = ndimage.binary_erosion(head, iterations=2)
    return core if core.any() else head


def signal_problems(dwi: NDArray[np.float32], bval: NDArray[np.float64]) -> list[str]:
    """B-values that are not those of their volumes: signal falls with b, for all tissue.

    The volumes are sorted by their signal, and the b-values by size, which gives each shell's
    level whatever the order was. A volume is misnamed where its signal is that of another shell
    and differs from its own by a quarter or more. Shells with diffusion weighting may also be
    unlike for a volume's dropouts: such volumes are named only where others are unlike the other
    way round.

    Parameters
    ----------
    dwi
        (x, y, z, g).
    bval
        (g,) s/mm², with a b0.

    Returns
    -------
    problems
        One sentence each; volumes are counted from 0.
    """
    level = _levels(dwi)  # (g,)
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
            f"{name_volumes(found)} labelled {label}, but {look}"
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


def _levels(dwi: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logarithm of each volume's signal (g,), by the median voxel, which no dropped slice moves."""
    inside = inside_head(dwi)
    stride = max(1, np.count_nonzero(inside) // MAX_POINTS)
    signal = dwi[inside][::stride].astype(np.float64)  # (n, g)
    signal = np.maximum(signal, 1e-3 * signal.mean())
    level: NDArray[np.float64] = np.median(
        np.log(signal) - np.log(signal.mean(axis=1, keepdims=True)), axis=0
    )
    return level


def direction_problems(
    dwi: NDArray[np.float32], bval: NDArray[np.float64], bvec: NDArray[np.float64]
) -> list[str]:
    """Directions that are not those of their volumes: a tensor then explains nothing.

    The share of the signal's variance between volumes that a tensor explains (adjusted R²) is
    compared with that of the same directions in random orders, and moved by a few volumes. It does
    not depend on the frame of the directions, for which see `gradient_frame`.

    Parameters
    ----------
    dwi
        (x, y, z, g).
    bval, bvec
        (g,) s/mm² and (g, 3), sound and cleaned.

    Returns
    -------
    problems
        One sentence each; none where the volumes are too few to tell.
    """
    used = select_volumes(bval, bvec)
    weighted = np.flatnonzero(bval[used] > B0_THRESHOLD)
    n = len(weighted)
    if n < MIN_DIRECTIONS:
        return []
    inside = inside_head(dwi)
    stride = max(1, np.count_nonzero(inside) // MAX_POINTS)
    y = _log_signal(dwi[inside][::stride][:, used]).astype(np.float64)  # (n, g)
    _fill_lost_slices(y, np.nonzero(inside)[2][::stride], find_shells(bval[used]))
    gram = y.T @ y  # (g, g): all that a fit to every voxel needs
    b = bval[used] / 1000

    def left(design: NDArray[np.float64]) -> float:
        """Variance that a design (g, p) does not explain."""
        basis, size, _ = np.linalg.svd(design, full_matrices=False)
        basis = basis[:, size > 1e-6 * size[0]]
        rest = np.trace(gram) - np.trace(basis.T @ gram @ basis)
        return float(rest / (len(b) - basis.shape[1]))

    without = left(np.column_stack([np.ones_like(b), b]))

    def explained(order: NDArray[np.intp]) -> float:
        g = bvec[used].copy()
        g[weighted] = g[weighted][order]
        return float(1 - left(_design(b, g)) / without)

    given = explained(np.arange(n))
    rng = np.random.default_rng(0)
    chance = np.array([explained(rng.permutation(n)) for _ in range(100)])
    moved = {k: explained(np.roll(np.arange(n), k)) for k in (-3, -2, -1, 1, 2, 3)}
    moved[0] = explained(np.arange(n)[::-1])
    best = max(moved, key=lambda k: moved[k])
    shares = f"{given:.2f} of the signal's variance between volumes"
    if moved[best] - given > MIN_ORDER * chance.std() and moved[best] > chance.max():
        how = f"moved by {best:+d} among the weighted volumes" if best else "in reverse order"
        return [
            f"the directions explain {shares}, and {moved[best]:.2f} when {how}: they are not in"
            " the order of the volumes; give the bvec file of this image"
        ]
    if given - chance.mean() < MIN_ORDER * chance.std():
        return [
            f"the directions explain {shares}, in random order {chance.mean():.2f} ±"
            f" {chance.std():.2f}: they are of another scan or in another order, or the scan is"
            " noise; give the bvec file of this image"
        ]
    return []


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
    for shell in shells:
        middle = np.median(y[:, shell], axis=1)  # (n,)
        for v in shell:
            change = np.bincount(slices, y[:, v] - middle) / size  # (z,)
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
    def verdict(self) -> str:
        """The frame in words: as given, cannot be told, or what to do to have the right one."""
        return "as given" if self.best == 0 else self.mend if self.is_wrong else "cannot be told"

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
        """What a user must know where the frame is wrong; else empty."""
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
    dwi: NDArray[np.float32],
    bval: NDArray[np.float64],
    bvec: NDArray[np.float64],
    mask: NDArray[np.bool_] | None,
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
    dwi
        (x, y, z, g).
    bval, bvec
        (g,) s/mm² and (g, 3), sound and cleaned.
    mask
        (x, y, z) brain; None for one that is quickly made.
    affine
        (4, 4) voxel to world, mm.

    Returns
    -------
    frame
    """
    matrices = frame_candidates(affine)
    inside = inside_head(dwi) if mask is None else mask
    used = select_volumes(bval, bvec)
    direction, fa = _main_directions(dwi[inside][:, used], bval[used], bvec[used])
    place = np.argwhere(inside)[fa > FRAME_FA]  # (n, 3)
    direction, fa = direction[fa > FRAME_FA], fa[fa > FRAME_FA]
    number = np.full(dwi.shape[:3], -1)  # of each voxel among the n
    number[tuple(place.T)] = np.arange(len(place))
    block = (place * BLOCKS // dwi.shape[:3]) @ [BLOCKS**2, BLOCKS, 1]  # (n,)

    voxel = np.linalg.norm(affine[:3, :3], axis=0)  # (3,) mm
    if np.linalg.det(affine[:3, :3]) > 0:
        voxel[0] *= -1  # FSL's first axis
    total = np.zeros((BLOCKS**3, len(matrices)))
    weight = np.zeros(BLOCKS**3)
    for step, n in itertools.product(itertools.product((-1, 0, 1), repeat=3), FRAME_STEPS):
        if step <= (0, 0, 0):
            continue  # each pair once
        other = place + n * np.array(step)
        within = ((other >= 0) & (other < dwi.shape[:3])).all(axis=1)
        j = np.full(len(place), -1)
        j[within] = number[tuple(other[within].T)]
        i = np.flatnonzero(j >= 0)
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


def _log_signal(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithm of signal (n, g), of which the least is raised to a hundredth of the median."""
    return np.log(np.maximum(signal, np.float32(0.01) * np.median(signal)))


def _design(b: NDArray[np.float64], g: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of a tensor's fit (g, 7): the logarithm of S0, then D in the order xx yy zz xy xz yz."""
    x, y, z = g.T
    products = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], axis=1)
    return np.column_stack([np.ones_like(b), -b[:, None] * products])


def _main_directions(
    signal: NDArray[np.float32], bval: NDArray[np.float64], bvec: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Main direction (n, 3) and FA (n,) of signal (n, g), by least squares of the logarithm.

    FA is 0 where it can be ignored: below `FRAME_FA`, and where diffusion is twice that of tissue.
    """
    inverse = np.linalg.pinv(_design(bval / 1000, bvec))[1:].astype(np.float32)  # (6, g)
    elements = _log_signal(signal) @ inverse.T  # (n, 6)
    tensor = elements[:, [[0, 3, 4], [3, 1, 5], [4, 5, 2]]]  # (n, 3, 3)
    mean = elements[:, :3].mean(axis=1)  # (n,)
    squares = (tensor**2).sum(axis=(1, 2))
    fa = np.sqrt(np.maximum(1.5 * (1 - 3 * mean**2 / np.maximum(squares, 1e-12)), 0))
    sound = (fa > FRAME_FA) & (fa < 1) & (mean > 0) & (mean < 2 * np.median(mean))
    direction = np.zeros((len(signal), 3), dtype=np.float32)
    direction[sound] = np.linalg.eigh(tensor[sound])[1][:, :, 2]
    return direction, np.where(sound, fa, np.float32(0))
