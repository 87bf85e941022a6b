"""Cluster inference: its family-wise error without an effect, what it finds, and its time.

Images are smooth noise, and covariates that they depend on. In one study people are alike; in the
other residuals have heavy tails, and a fifth of the people is from a site of three times the noise
where the variants are frequent, though both sites have the same mean given the covariates. There
the t of least squares is too large for the variants, and shuffling residuals between people, which
stands beside the wild bootstrap, does not know of it. The noise of a voxel itself, against which
effects are compared by default, has what the covariates explain in it, here most of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from axoloci.command import progress
from axoloci.tasks.genetics import clusters
from axoloci.tasks.genetics.voxels import own_variances, voxel_variances
from benchmarks.results_file import markdown_table, write_result

N_PEOPLE, GRID, SMOOTH = 500, (34, 40, 34), 2.0  # standard deviation, voxels
N_COMPONENTS, N_COVARIATES = 50, 6  # with the intercept and the site
N_NULL, N_PLANTED, N_BOOTSTRAPS = 200, 50, 1000
LEVELS = (1e-3, 1e-5)  # cluster-forming p
SHARES = (0.03, 0.06)  # of the variance of a voxel in the middle of a region
RADIUS = 6.0  # of the region, voxels: standard deviation of the effect
LEVEL, MOST = 0.05, 0.07
WILD, SHUFFLED = "wild bootstrap", "shuffled residuals"
PROJECTION, VOXEL = "projection", "voxel"  # whose noise t is against
ALIKE, UNLIKE = "people alike", "heavy tails, noisy site"
FAST_GRID, FAST_PEOPLE, FAST_COMPONENTS, N_LABELLED = (72, 84, 72), 2000, 100, 50

Floats = NDArray[np.float64]


def ellipsoid(grid: tuple[int, int, int]) -> NDArray[np.bool_]:
    """A mask that touches the sides of a grid."""
    middle = (np.array(grid) - 1) / 2
    place = (np.indices(grid).reshape(3, -1).T - middle) / (middle + 0.5)
    return (np.square(place).sum(axis=1) < 1).reshape(grid)


@dataclass(frozen=True, eq=False)
class Study:
    """Components of images, less their covariates.

    Attributes
    ----------
    noisy : bool, (n,)
        Who is from the noisy site.
    q : (n, n_covariates)
        Orthonormal covariates.
    left : (n, r)
        Residuals of the components.
    basis : (r, n_voxels)
    sd, voxel_sd : (n_voxels,)
        Of the residuals of the projected images, and of the images.
    kept
        Share of the images' variance that the components have.
    """

    noisy: NDArray[np.bool_]
    q: Floats
    left: Floats
    basis: NDArray[np.float32]
    sd: Floats
    voxel_sd: Floats
    kept: float


def make_study(kind: str, mask: NDArray[np.bool_], rng: np.random.Generator) -> Study:
    """Images of a kind of people, and their principal components."""
    noisy = np.arange(N_PEOPLE) < N_PEOPLE // 5
    images = np.empty((N_PEOPLE, mask.sum()))
    for row in images:
        row[:] = ndimage.gaussian_filter(rng.normal(size=mask.shape), SMOOTH)[mask]
    images /= images.std()
    if kind == UNLIKE:
        images *= (np.where(noisy, 3, 1) * np.sqrt(3 / rng.chisquare(5, N_PEOPLE)))[:, None]
    covariates = np.column_stack(
        [np.ones(N_PEOPLE), noisy, rng.normal(size=(N_PEOPLE, N_COVARIATES - 2))]
    )
    effects = ndimage.gaussian_filter(rng.normal(size=(N_COVARIATES, *mask.shape)), (0, 4, 4, 4))
    images += covariates @ (effects[:, mask] / effects.std())
    centred = images - images.mean(axis=0)
    values, vectors = np.linalg.eigh(centred @ centred.T)  # (n,), (n, n)
    vectors = vectors[:, : -N_COMPONENTS - 1 : -1]  # (n, r), the largest first
    basis = vectors.T @ centred
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    q = np.linalg.qr(covariates)[0]
    left = adjusted(centred @ basis.T, q)
    sd = np.sqrt(voxel_variances(left.T @ left, basis) / (N_PEOPLE - N_COVARIATES))
    kept = values[-N_COMPONENTS:].sum() / values.sum()
    voxel_sd = images.std(axis=0, ddof=1)
    return Study(noisy, q, left, basis.astype(np.float32), sd, voxel_sd, float(kept))


def adjusted(y: Floats, q: Floats) -> Floats:
    """What the covariates leave."""
    return y - q @ (q.T @ y)


def draw_variant(study: Study, kind: str, rng: np.random.Generator) -> Floats:
    """Dosages of a variant less their covariates; of unlike people frequent at the noisy site."""
    frequency = rng.uniform(0.05, 0.5)
    if kind == UNLIKE:
        frequency = np.where(study.noisy, 0.5, 0.1)
    return adjusted(rng.binomial(2, frequency, N_PEOPLE).astype(np.float64), study.q)


def shuffled_scores(g: Floats, left: Floats, n: int, seed: int) -> NDArray[np.float32]:
    """As `clusters.resampled_scores`, by shuffling the residuals between people."""
    rng = np.random.default_rng(seed)
    shuffled = np.stack([rng.permutation(g) for _ in range(n)])
    return np.asarray(shuffled @ left / np.linalg.norm(g), dtype=np.float32)


Scores = Callable[[Floats, Floats, int, int], NDArray[np.float32]]
RESAMPLED: dict[str, Scores] = {WILD: clusters.resampled_scores, SHUFFLED: shuffled_scores}


@dataclass(frozen=True)
class Tested:
    """What was found of one variant.

    Attributes
    ----------
    p
        Of the largest cluster; 1 without any.
    chance
        Share of resamples with a cluster.
    voxel
        Whose t is largest within the largest cluster; -1 without any.
    """

    p: float
    chance: float
    voxel: int


def test_variant(
    g: Floats,
    left: Floats,
    basis: NDArray[np.float32],
    neighbour: NDArray[np.int32],
    level: float,
    scores: Scores,
    voxel_sd: Floats | None,
) -> Tested:
    """Cluster inference of one variant, against the voxels' own noise if it is given."""
    n = len(g)
    variances = voxel_variances(left.T @ left, basis)
    if voxel_sd is not None:
        variances = own_variances(variances, voxel_sd, n, N_COVARIATES)
    limit = clusters.critical_correlation(level, n - N_COVARIATES - 1)
    exact = clusters.correlation_basis(basis, variances, n, 0)
    observed = (g / np.linalg.norm(g)) @ left @ exact  # (n_voxels,)
    found = clusters.find_clusters(observed[None], limit, neighbour)
    resampled = clusters.correlation_basis(basis, variances, n, N_COVARIATES)
    chance = clusters.largest_clusters(
        scores(g, left, N_BOOTSTRAPS, 1), resampled, limit, neighbour
    )
    share = float((chance > 0).mean())
    if not found.n_clusters:
        return Tested(1.0, share, -1)
    size = np.bincount(found.label)
    largest = found.voxel[found.label == np.argmax(size)]
    p = clusters.family_wise_p(size.max(keepdims=True), chance)[0]
    return Tested(float(p), share, int(largest[np.argmax(np.abs(observed[largest]))]))


def family_wise_error(mask: NDArray[np.bool_]) -> list[dict[str, object]]:
    """Rows of the table: variants without an effect."""
    neighbour = clusters.neighbours(mask)
    rows = []
    for kind in (ALIKE, UNLIKE):
        study = make_study(kind, mask, np.random.default_rng(1))
        for level in LEVELS:
            for method, noise in ((WILD, VOXEL), (WILD, PROJECTION), (SHUFFLED, PROJECTION)):
                own = study.voxel_sd if noise == VOXEL else None
                rng = np.random.default_rng(2)
                drawn = [draw_variant(study, kind, rng) for _ in range(N_NULL)]
                found = [
                    test_variant(
                        *(g, study.left, study.basis, neighbour, level),
                        *(RESAMPLED[method], own),
                    )
                    for g in progress(drawn, f"{kind}, {level:g}, {method}, {noise}", N_NULL)
                ]
                rejected = sum(one.p <= LEVEL for one in found)
                low, high = stats.binomtest(rejected, N_NULL).proportion_ci(0.95)
                rows.append(
                    {
                        "study": kind,
                        "cluster-forming p": f"{level:g}",
                        "noise of": noise,
                        "resamples": method,
                        "null variants with a cluster": sum(one.voxel >= 0 for one in found),
                        "resamples with a cluster": f"{np.mean([o.chance for o in found]):.1%}",
                        "family-wise error at 0.05": f"{rejected / N_NULL:.3f}",
                        "95% interval": f"{low:.3f} to {high:.3f}",
                    }
                )
                if method == WILD and rejected / N_NULL > MOST:
                    raise SystemExit(f"family-wise error of {rejected / N_NULL} in {kind}, {level}")
    return rows


def power(mask: NDArray[np.bool_]) -> list[dict[str, object]]:
    """Rows of the table: variants that change a round region somewhere."""
    neighbour, place = clusters.neighbours(mask), np.argwhere(mask)
    rng = np.random.default_rng(3)
    study = make_study(ALIKE, mask, rng)
    rows = []
    for share in SHARES:
        found: dict[float, list[bool]] = {level: [] for level in LEVELS}
        by_voxel, kept = [], []
        for _ in progress(range(N_PLANTED), f"planted, {share:g}", N_PLANTED):
            g = draw_variant(study, ALIKE, rng)
            middle = rng.integers(len(place))
            distance = np.linalg.norm(place - place[middle], axis=1)
            effect = np.exp(-0.5 * np.square(distance / RADIUS)) * study.sd
            effect *= np.sqrt(share * N_PEOPLE) / np.linalg.norm(g)
            of_components = study.basis @ effect  # (r,)
            kept.append(of_components @ study.basis[:, middle] / effect[middle])
            left = study.left + g[:, None] * of_components
            for level in LEVELS:
                one = test_variant(g, left, study.basis, neighbour, level, RESAMPLED[WILD], None)
                inside = one.voxel >= 0 and distance[one.voxel] < 2 * RADIUS
                found[level].append(one.p <= LEVEL and bool(inside))
            exact = clusters.correlation_basis(
                study.basis, voxel_variances(left.T @ left, study.basis), N_PEOPLE, 0
            )
            r = np.abs(g / np.linalg.norm(g) @ left @ exact)  # (n_voxels,)
            limit = clusters.critical_correlation(LEVEL / len(r), N_PEOPLE - N_COVARIATES - 1)
            by_voxel.append(bool(r.max() > limit and distance[np.argmax(r)] < 2 * RADIUS))
        rows.append(
            {
                "variance explained in the middle": f"{share:.0%}",
                "of the effect there in the components": f"{np.mean(kept):.0%}",
                **{f"clusters at {level:g}": f"{np.mean(found[level]):.0%}" for level in LEVELS},
                "a voxel at 0.05 / voxels": f"{np.mean(by_voxel):.0%}",
            }
        )
    return rows


def speed() -> tuple[list[dict[str, object]], str]:
    """Rows of the table: one variant of an image as large as white matter at 1.5 mm."""
    mask = ellipsoid(FAST_GRID)
    rng = np.random.default_rng(4)
    basis = np.empty((FAST_COMPONENTS, mask.sum()), dtype=np.float32)
    for row in basis:
        row[:] = ndimage.gaussian_filter(rng.normal(size=mask.shape), SMOOTH)[mask]
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    left = rng.normal(size=(FAST_PEOPLE, FAST_COMPONENTS))
    left -= left.mean(axis=0)
    g = rng.binomial(2, 0.3, FAST_PEOPLE).astype(np.float64)
    g -= g.mean()
    neighbour = clusters.neighbours(mask)
    variances = voxel_variances(left.T @ left, basis)
    standardised = clusters.correlation_basis(basis, variances, FAST_PEOPLE, 1)
    structure = ndimage.generate_binary_structure(3, 3)
    rows = []
    for level in LEVELS:
        limit = clusters.critical_correlation(level, FAST_PEOPLE - 2)
        ours, bare, theirs = [], [], []
        for _ in range(3):
            begin = time.perf_counter()
            scores = clusters.resampled_scores(g, left, N_BOOTSTRAPS, 1)
            largest = clusters.largest_clusters(scores, standardised, limit, neighbour)
            ours.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            for start in range(0, N_BOOTSTRAPS, 20):
                scores[start : start + 20] @ standardised
            bare.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            image = np.zeros(mask.shape, dtype=np.float32)
            by_scipy = []
            for row in scores[:N_LABELLED] @ standardised:
                image[mask] = row
                labelled = [ndimage.label(s * image > limit, structure)[0] for s in (1, -1)]
                sizes = [np.bincount(labels.ravel())[1:].max(initial=0) for labels in labelled]
                by_scipy.append(max(sizes))
            theirs.append((time.perf_counter() - begin) * N_BOOTSTRAPS / N_LABELLED)
            if by_scipy != largest[:N_LABELLED].tolist():
                raise SystemExit("scipy.ndimage.label finds other clusters")
        ours_s, bare_s, theirs_s = map(statistics.median, (ours, bare, theirs))
        rows.append(
            {
                "cluster-forming p": f"{level:g}",
                "seconds a variant": f"{ours_s:.2f}",
                "scipy.ndimage.label of each map, s": f"{theirs_s:.1f}",
                "ratio": f"{theirs_s / ours_s:.1f}",
                "the bare product of matrices, s": f"{bare_s:.2f}",
                "its share of the time": f"{bare_s / ours_s:.0%}",
            }
        )
    return rows, f"{mask.sum():,} voxels, {FAST_COMPONENTS} components, {FAST_PEOPLE:,} people"


def main() -> None:
    """Measure, and write `results/clusters.md`."""
    mask = ellipsoid(GRID)
    kept = make_study(ALIKE, mask, np.random.default_rng(1)).kept
    errors = family_wise_error(mask)
    planted = power(mask)
    times, size = speed()
    write_result(
        "clusters",
        "Cluster inference by wild bootstrap: family-wise error, power, time",
        f"{N_PEOPLE} people, {mask.sum():,} voxels, {N_COMPONENTS} components (of people alike "
        f"they have {kept:.0%} of the images' variance), {N_COVARIATES} covariates with the "
        f"intercept, {N_BOOTSTRAPS:,} resamples.\n\n"
        "## Family-wise error\n\n"
        f"Of {N_NULL} variants without an effect. Of the noisy site are a fifth of the people, "
        "with three times the noise and an allele frequency of 0.5 in place of 0.1; residuals have "
        "the tails of a t with 5 degrees of freedom. Shuffling takes people for alike: what it "
        "says of the second study is what the wild bootstrap is for.\n\n"
        f"{markdown_table(errors)}\n"
        "## Power\n\n"
        f"{N_PLANTED} variants a row, each with a region somewhere (Gaussian, standard deviation "
        f"{RADIUS:g} voxels), people alike; found: a family-wise p of at most 0.05 of a cluster "
        "that has its peak there; beside it a voxel there that passes Bonferroni's limit.\n\n"
        f"{markdown_table(planted)}\n"
        "## Time\n\n"
        f"One variant: {size}, {N_BOOTSTRAPS:,} resamples; median of 3, alternating, one thread. "
        f"scipy labels {N_LABELLED} of the maps, taken times {N_BOOTSTRAPS // N_LABELLED}, and "
        "finds the same largest clusters. The product of resampled scores with the basis, alone, "
        "is the least that any such bootstrap takes.\n\n"
        f"{markdown_table(times)}",
    )


if __name__ == "__main__":
    main()
