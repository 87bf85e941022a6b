"""The diffusion tensor by DIPY's model, its linear fits solved in batches, and the mean kurtosis.

DIPY is imported where it works: that takes longer than all that comes before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.io.gradients import B0_THRESHOLD, find_shells

METHOD = "WLS"
"""Weighted least squares: the logarithm of a weak signal is noisier than that of a strong one."""

REWEIGHTINGS = {"OLS": 0, "WLS": 1, "IWLS": 2}
"""Rounds of weights from the fit before. IWLS is MRtrix3's `dwi2tensor -ols -iter 2`; without -ols
that begins with weights of the measured signals, and comes to the same within 1e-5 in FA."""

METHODS = (*REWEIGHTINGS, "NLLS", "RESTORE")

MIN_SIGNAL = 0.01
"""Signals below this fraction of the scan's median b0 are raised to it: 0 has no logarithm."""

MAX_MD = 4e-3
"""Mean diffusivity (mm²/s) that no tissue reaches; free water at body temperature has 3e-3."""

KURTOSES = ("msdki", "dki", "none")
KURTOSIS = "msdki"
"""Kurtosis of the shells' mean signals: it costs next to nothing, a kurtosis tensor minutes."""

MAX_KURTOSIS_BVAL = 3000.0
"""Highest b-value (s/mm²) of the kurtosis: beyond it the expansion in b no longer converges
(doi:10.1002/nbm.1518)."""

MIN_DIRECTIONS = 6
"""Volumes of a shell of which the mean signal is taken: fewer do not cover the directions."""

MAX_KURTOSIS = 3.0
"""Mean kurtosis that no tissue exceeds; nor is it negative."""

CHUNK = 2048
"""Voxels solved at once; of more, memory is slower than the arithmetic."""

Track = Callable[[Sequence[int]], Iterable[int]]
"""Goes through the first voxels of the chunks, and may tell how far it is."""

REASONS = ("signal_below_floor", "eigenvalue_not_positive", "md_above_limit", "not_finite")


@dataclass(frozen=True)
class TensorMaps:
    """Maps of one scan, float32, finite everywhere and 0 outside the mask.

    Attributes
    ----------
    fa
        Fractional anisotropy, 0 to 1.
    md, ad, rd
        Mean, axial and radial diffusivity, mm²/s.
    mode
        -1 (planar) to 1 (linear), doi:10.1002/mrm.20741.
    s0
        Signal without diffusion weighting, in the unit of the signal.
    residual
        Root mean square over the volumes of what the tensor leaves of the signal, divided by `s0`.
    evec
        [shape: (..., 3)] Main direction in the frame of the directions that were given.
    implausible
        [bool] Voxels of which something below is true.
    reasons
        Implausible voxels by reason: `signal_below_floor`, a signal was raised to `MIN_SIGNAL`;
        `eigenvalue_not_positive`, an eigenvalue of 0 or below was raised to a tiny one;
        `md_above_limit`, of `MAX_MD`; `not_finite`, the fit failed and the maps are 0.
    sigma
        Standard deviation of the noise with which RESTORE looked for outliers; None otherwise.
    """

    fa: NDArray[np.float32]
    md: NDArray[np.float32]
    ad: NDArray[np.float32]
    rd: NDArray[np.float32]
    mode: NDArray[np.float32]
    s0: NDArray[np.float32]
    residual: NDArray[np.float32]
    evec: NDArray[np.float32]
    implausible: NDArray[np.bool_]
    reasons: Mapping[str, int]
    sigma: float | None

    @property
    def n_implausible(self) -> int:
        """Voxels that are implausible for one reason or several."""
        return int(self.implausible.sum())


def fit_tensor(
    dwi: NDArray[np.float32],
    bval: NDArray[np.float64],
    bvec: NDArray[np.float64],
    mask: NDArray[np.bool_] | None = None,
    method: str = METHOD,
    sigma: float | None = None,
    track: Track = iter,
) -> TensorMaps:
    """Fit the diffusion tensor (doi:10.1006/jmrb.1994.1037).

    Parameters
    ----------
    dwi
        (..., g) signal, finite; (n, g) without a mask.
    bval
        (g,) s/mm².
    bvec
        (g, 3) unit vectors; 0 0 0 for b0s.
    mask
        (...) voxels to fit, at least one; None is all.
    method
        `OLS`; `WLS`, weighted by the squared signal that OLS predicts; `IWLS`, weighted anew by
        what WLS predicts (doi:10.1016/j.neuroimage.2013.05.028); `NLLS`, non-linear least squares
        of the signal itself; `RESTORE`, which leaves out outliers voxel by voxel
        (doi:10.1002/mrm.20426). DIPY fits the last two.
    sigma
        Standard deviation of the noise for RESTORE, in the unit of the signal; without it that of
        `estimate_sigma`.
    track
        See `Track`.

    Returns
    -------
    maps
        Of the shape of the mask, (n,) without one.
    """
    from dipy.reconst import dti

    signal = dwi if mask is None else dwi[mask]  # (n, g)
    floor = signal_floor(signal, bval)
    gradients = _gradients(bval, bvec)
    options: dict[str, Any] = {"fit_method": method}
    if method in REWEIGHTINGS:
        options = {"fit_method": fit_linear, "reweightings": REWEIGHTINGS[method]}
    elif method == "RESTORE":
        raised = np.maximum(signal, floor)
        sigma = sigma or estimate_sigma(raised, dti.design_matrix(gradients))
        options["sigma"] = sigma
    model = dti.TensorModel(gradients, return_S0_hat=True, min_signal=floor, **options)
    parts = []
    for start in track(range(0, len(signal), CHUNK)):
        chunk = np.ascontiguousarray(signal[start : start + CHUNK])
        maps = _maps(model, chunk)
        maps["signal_below_floor"] = np.any(chunk < floor, axis=1)
        parts.append(maps)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    reasons = {name: whole.pop(name) for name in REASONS}
    whole["implausible"] = np.any(list(reasons.values()), axis=0)

    def volume(values: NDArray[Any]) -> NDArray[Any]:
        if mask is None:
            return values
        image = np.zeros(mask.shape + values.shape[1:], dtype=values.dtype)
        image[mask] = values
        return image

    return TensorMaps(
        **{name: volume(values) for name, values in whole.items()},
        reasons={name: int(bad.sum()) for name, bad in reasons.items()},
        sigma=options.get("sigma"),
    )


def signal_floor(signal: NDArray[np.float32], bval: NDArray[np.float64]) -> float:
    """`MIN_SIGNAL` of the median b0 of signals (n, g), and above 0."""
    b0 = signal[:, bval <= B0_THRESHOLD]
    return max(MIN_SIGNAL * float(np.median(b0)), float(np.finfo(np.float32).tiny))


def fit_linear(
    design: NDArray[np.float64],
    signal: NDArray[np.float32],
    return_S0_hat: bool,
    reweightings: int,
) -> tuple[Any, None]:
    """A fit method of DIPY's tensor model, as its own but for the time it takes.

    Parameters
    ----------
    design, signal, reweightings
        See `solve_tensor`.
    return_S0_hat
        See there.

    Returns
    -------
    (params, extra)
        (m, 12) eigenvalues, descending, those below a tiny one raised to it, and eigenvectors in
        columns; with `return_S0_hat` also (m,) signal without diffusion weighting. No extra.
    """
    coefficients = solve_tensor(design, signal, reweightings)
    evals, evecs = eigen(coefficients)
    raised = np.maximum(evals, _smallest(design))
    params = np.hstack([raised, evecs.reshape(-1, 9)])
    return ((params, np.exp(-coefficients[:, 6])) if return_S0_hat else params), None


def _smallest(design: NDArray[np.float64]) -> float:
    """Eigenvalue (mm²/s) to which DIPY raises smaller ones, the negative ones among them."""
    return 1e-6 / -float(design.min())


def solve_tensor(
    design: NDArray[np.float64], signal: NDArray[np.float32], reweightings: int = 1
) -> NDArray[np.float64]:
    """Least squares of the logarithm of the signal, by normal equations.

    Parameters
    ----------
    design
        (g, 7) of the logarithm of the signal on Dxx, Dxy, Dyy, Dxz, Dyz, Dzz and -ln S0.
    signal
        (m, g) positive.
    reweightings
        Each logarithm is weighted by the squared signal that the fit before predicts, so often; the
        first fit is without weights.

    Returns
    -------
    coefficients
        (m, 7), as the columns of the design.
    """
    y = np.log(signal, dtype=np.float64)  # (m, g)
    scale = abs(design).max(axis=0)  # columns of like size keep the normal equations accurate
    x = design / scale  # (g, 7)
    beta = y @ np.linalg.pinv(x).T  # (m, 7)
    for _ in range(reweightings):
        predicted = beta @ x.T  # (m, g)
        below = predicted - predicted.max(axis=1, keepdims=True)
        beta = _weighted(x, y, np.exp(2 * below))
    return np.asarray(beta / scale)


def _weighted(
    x: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Coefficients (m, p) of y (m, g) on x (g, p) by least squares with weights w (m, g), 0 to 1.

    Smaller weights than 1e-13 would leave the equations of a wild signal without a solution.
    """
    g, p = x.shape
    w = np.maximum(w, 1e-13)
    products = (x[:, :, None] * x[:, None]).reshape(g, p * p)
    normal = (w @ products).reshape(-1, p, p)
    return np.asarray(np.linalg.solve(normal, ((w * y) @ x)[..., None])[..., 0])


def eigen(
    coefficients: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues and eigenvectors of symmetric 3x3 matrices in closed form: a fifth of the time.

    Parameters
    ----------
    coefficients
        (m, 6 or more) xx, xy, yy, xz, yz, zz.

    Returns
    -------
    (evals, evecs)
        (m, 3) descending, to 1e-12 of the largest; (m, 3, 3) orthonormal, in columns.
    """
    xx, xy, yy, xz, yz, zz = np.ascontiguousarray(coefficients[:, :6].T)
    mean = (xx + yy + zz) / 3
    parts = np.stack([xx - mean, xy, yy - mean, xz, yz, zz - mean])
    size = np.sqrt(
        (parts[[0, 2, 5]] ** 2).sum(axis=0) / 6 + (parts[[1, 3, 4]] ** 2).sum(axis=0) / 3
    )
    xx, xy, yy, xz, yz, zz = parts / np.where(size > 0, size, 1)

    # the first or the last eigenvalue, that of the determinant's sign, is far from the others
    half = (xx * (yy * zz - yz * yz) + xy * (2 * xz * yz - xy * zz) - xz * xz * yy) / 2
    sign = np.copysign(1, half)
    lone = 2 * sign * np.cos(np.arccos(np.minimum(abs(half), 1)) / 3)

    # the adjugate of the matrix less that eigenvalue is a multiple of w wᵀ
    p, q, r = xx - lone, yy - lone, zz - lone
    a, b, c = xz * yz - xy * r, xy * yz - xz * q, xy * xz - yz * p
    adjugate = np.array([[q * r - yz * yz, a, b], [a, p * r - xz * xz, c], [b, c, p * q - xy * xy]])
    longest = adjugate[range(3), range(3)].argmax(axis=0)
    w = np.take_along_axis(adjugate, longest[None, None], axis=1)[:, 0]  # (3, m)
    w /= np.sqrt((w * w).sum(axis=0))

    # u and v across it (Duff et al. 2017, Building an Orthonormal Basis, Revisited)
    x, y, z = w
    side = np.copysign(1, z)
    a = -1 / (side + z)
    u = np.stack([1 + side * x * x * a, side * x * y * a, -side * x])
    v = np.stack([x * y * a, side + y * y * a, -y])

    # the others lie in their plane, and are of a 2x2 matrix
    x, y, z = u
    times_u = np.stack(
        [xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y + zz * z]
    )
    uu, uv = (u * times_u).sum(axis=0), (v * times_u).sum(axis=0)
    apart = uu + lone / 2  # half of uu - vv, for uu + vv + lone = 0
    turn = np.arctan2(uv, apart) / 2
    cos, sin = np.cos(turn), np.sin(turn)
    spread = np.hypot(apart, uv)
    high, low = spread - lone / 2, -spread - lone / 2
    evals = np.where(sign > 0, [lone, high, low], [high, low, lone])  # (3, m)
    u, v = cos * u + sin * v, cos * v - sin * u
    evecs = np.where(sign > 0, [w, u, v], [u, v, w])  # (3, 3, m), in rows
    return (mean + size * evals).T, evecs.T


def estimate_sigma(signal: NDArray[np.float32], design: NDArray[np.float64]) -> float:
    """Standard deviation of the noise, from what the weighted fit leaves of the signal.

    The median over the voxels of 1.4826 √(g / (g - 7)) median(abs(residual)): what is lost or
    bright in less than half of the voxels hardly moves it.

    Parameters
    ----------
    signal
        (n, g) positive.
    design
        See `solve_tensor`.
    """
    spread = []
    for start in range(0, len(signal), CHUNK):
        chunk = signal[start : start + CHUNK]
        left = chunk - np.exp(solve_tensor(design, chunk) @ design.T)  # (m, g)
        spread.append(np.median(abs(left), axis=1))
    g, p = design.shape
    return float(1.4826 * np.sqrt(g / max(g - p, 1)) * np.median(np.concatenate(spread)))


@np.errstate(all="ignore")  # of searches that go astray; what is not finite is counted
def _maps(model: Any, signal: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Fields of `TensorMaps`, (m, ...), and by reason whether a voxel (m, g) is implausible."""
    fit = model.fit(signal)
    left = np.maximum(signal, model.min_signal) - fit.predict(model.gtab)  # (m, g)
    whole = {
        "fa": fit.fa,
        "md": fit.md,
        "ad": fit.ad,
        "rd": fit.rd,
        "mode": fit.mode,
        "s0": fit.S0_hat,
        "residual": np.sqrt(np.mean(left**2, axis=1)) / fit.S0_hat,
        "evec": fit.evecs[..., 0],
    }
    maps = {name: values.astype(np.float32) for name, values in whole.items()}
    finite = np.all([np.isfinite(maps[name]) for name in ("md", "s0", "residual")], axis=0)
    for values in maps.values():
        values[~finite] = 0
    return maps | {
        "eigenvalue_not_positive": fit.evals[:, 2] <= _smallest(model.design_matrix),
        "md_above_limit": fit.md > MAX_MD,
        "not_finite": ~finite,
    }


def kurtosis_volumes(
    bval: NDArray[np.float64], bvec: NDArray[np.float64], kind: str = KURTOSIS
) -> tuple[NDArray[np.intp], str]:
    """Volumes of the kurtosis: b0s, and the shells up to `MAX_KURTOSIS_BVAL`.

    Parameters
    ----------
    bval, bvec
        (g,) s/mm² and (g, 3), sound (`axoloci.io.gradients.gradient_problems`).
    kind
        `msdki` or `dki`.

    Returns
    -------
    (index, problem)
        Ascending, and ""; or empty, and why they do not tell the kurtosis.
    """
    none = np.empty(0, dtype=np.intp)
    b0s, *shells = find_shells(bval)
    shells = [s for s in shells if bval[s].mean() <= MAX_KURTOSIS_BVAL + 25]
    if kind == "msdki":
        shells = [s for s in shells if len(s) >= MIN_DIRECTIONS]
    if len(shells) < 2:
        return none, f"it takes two shells up to b = {MAX_KURTOSIS_BVAL:g}, found {len(shells)}"
    index = np.sort(np.concatenate([b0s, *shells]))
    if kind == "dki":
        from dipy.reconst.dki import DiffusionKurtosisModel

        model = DiffusionKurtosisModel(_gradients(bval[index], bvec[index]))
        design = model.design_matrix  # (g, 22)
        rank = np.linalg.matrix_rank(design / abs(design).max(axis=0))
        if rank < design.shape[1]:
            return none, (
                f"the directions tell {rank} of the {design.shape[1]} coefficients of a kurtosis "
                "tensor, which takes 15 directions; --kurtosis msdki takes less"
            )
    return index, ""


def fit_kurtosis(
    signal: NDArray[np.float32],
    bval: NDArray[np.float64],
    bvec: NDArray[np.float64],
    kind: str = KURTOSIS,
    track: Track = iter,
) -> tuple[dict[str, NDArray[np.float32]], int]:
    """Mean kurtosis of each voxel.

    Parameters
    ----------
    signal
        (n, g) of the volumes that `kurtosis_volumes` chose.
    bval
        (g,) s/mm².
    bvec
        (g, 3) unit vectors; 0 0 0 for b0s.
    kind
        `msdki`, kurtosis of the mean signal over the directions of each shell, which must be spread
        evenly (doi:10.1002/mrm.27606), weighted as DIPY does, by directions times squared signal;
        or `dki`, the kurtosis tensor (doi:10.1002/mrm.20508), DIPY's weighted fit.
    track
        See `Track`.

    Returns
    -------
    (maps, n_implausible)
        (n,) finite: `msk` and `msd` (mm²/s), or `mk`, `ak` and `rk`, drawn in by DIPY to -3/7 to
        10; voxels whose `msk` or `mk` is negative, above `MAX_KURTOSIS` or was not finite.
    """
    floor = signal_floor(signal, bval)
    chunks = (signal[start : start + CHUNK] for start in track(range(0, len(signal), CHUNK)))
    if kind == "msdki":
        parts = [_mean_signal_kurtosis(chunk, bval, floor) for chunk in chunks]
    else:
        from dipy.reconst import dki

        model = dki.DiffusionKurtosisModel(
            _gradients(bval, bvec), fit_method="WLS", min_signal=floor
        )
        fits = map(model.fit, chunks)
        parts = [{"mk": fit.mk(), "ak": fit.ak(), "rk": fit.rk()} for fit in fits]
    maps = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    mean = next(iter(maps.values()))
    n_implausible = int((~((mean >= 0) & (mean <= MAX_KURTOSIS))).sum())
    with np.errstate(over="ignore"):
        single = {name: values.astype(np.float32) for name, values in maps.items()}
    for values in single.values():
        values[~np.isfinite(values)] = 0
    return single, n_implausible


def _mean_signal_kurtosis(
    signal: NDArray[np.float32], bval: NDArray[np.float64], floor: float
) -> dict[str, NDArray[np.float64]]:
    """By ln S(b) = ln S(0) - b MSD + b² MSD² MSK / 6 for the mean signal S of each shell."""
    shells = find_shells(bval)
    b = np.array([bval[shell].mean() for shell in shells])
    mean = np.stack([signal[:, s].mean(axis=1, dtype=np.float64) for s in shells], axis=1)
    mean = np.maximum(mean, floor)  # (m, shells)
    weight = (
        np.array([len(s) for s in shells]) / len(bval) * (mean / mean.max(axis=1)[:, None]) ** 2
    )
    design = np.stack([-b, b**2 / 6, np.ones_like(b)], axis=1)  # (shells, 3)
    scale = abs(design[-1])
    d, k = (_weighted(design / scale, np.log(mean), weight) / scale).T[:2]
    return {"msk": k / np.maximum(d**2, 1e-30), "msd": d}


def _gradients(bval: NDArray[np.float64], bvec: NDArray[np.float64]) -> Any:
    """DIPY's gradient table."""
    from dipy.core.gradients import gradient_table

    return gradient_table(bval, bvecs=bvec, b0_threshold=B0_THRESHOLD)
