"""What the representations find of factors that are known: how well, with how many latents, where.

Cohorts of small brains are simulated (`planted_maps`), in which regions vary in intensity, or
tracts in shape too. Each representation learns from some people; all figures are of other people.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from axoloci.tasks.encoder import explain, kernel, linear
from axoloci.tasks.encoder.representation import Representation, Rows, encode_maps
from benchmarks.planted_maps import (
    BEND,
    GRID,
    INTENSITY,
    N_FACTORS,
    NOISE,
    REGION,
    REGION_CENTRES,
    TRACT,
    TRACT_HEIGHTS,
    brain,
    planted_maps,
    planted_regions,
)
from benchmarks.results_file import RESULTS, markdown_table, write_result

PROCESSES = 2  # of one thread each
N_TRAIN, N_UNSEEN = 1_000, 500  # people; of the first a tenth steers the training
SEEDS = (0, 1, 2)
N_LATENTS = 12
CHANNELS = (8, 16, 32)
VOXEL_SIZE = (6.0, 6.0, 6.0)  # mm
N_EXPLAINED = 64  # people at whose latents the maps are taken


@dataclass(frozen=True)
class Cohort:
    """How maps are made."""

    name: str
    n_shapes: int  # of the eight factors
    noise: float  # FA, standard deviation of a voxel


LINEAR = Cohort("linear", 0, 0.2)
NONLINEAR = Cohort("nonlinear", 4, NOISE)


@dataclass(frozen=True)
class Job:
    """One representation of one cohort."""

    cohort: Cohort
    representation: str
    n_latents: int = N_LATENTS
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """What a representation finds, in people that it never saw."""

    canonical: float  # mean of the eight canonical correlations of latents with factors
    explained: NDArray[np.float64]  # (8,) R² of each factor on the latents
    r2: float  # of the maps
    seconds: float  # to learn it
    maps: NDArray[np.float64]  # (8, n_voxels) what one more of each factor adds to a map


PLAIN, SMOOTHED = "PCA", "smoothed PCA"
AUTOENCODER, RANDOM = "autoencoder", "autoencoder, random start"
COMPARED = {
    LINEAR: (PLAIN, SMOOTHED, AUTOENCODER),
    NONLINEAR: (PLAIN, SMOOTHED, AUTOENCODER, RANDOM),
}
LATENTS = (8, 12, 16)
BY_LATENTS = (PLAIN, SMOOTHED, AUTOENCODER)
SHOWN = (  # a factor's place, what it is, height of the slice through it
    (0, "intensity of a region", round(REGION_CENTRES[0][2])),
    (4, "shape of the lowest tract", round(TRACT_HEIGHTS[0])),
    (6, "shape of the third tract", round(TRACT_HEIGHTS[2])),
)


def canonical_correlations(
    known: tuple[NDArray, NDArray], unseen: tuple[NDArray, NDArray]
) -> NDArray[np.float64]:
    """Correlations of pairs of combinations that are fitted in some people, in others.

    Both arguments are (n, n_latents) and (n, n_factors) of the same people.
    """
    means = [array.mean(axis=0) for array in known]
    (q, r), (q_factors, r_factors) = (
        np.linalg.qr(array - mean) for array, mean in zip(known, means, strict=True)
    )
    u, _, vt = np.linalg.svd(q.T @ q_factors, full_matrices=False)
    x = (unseen[0] - means[0]) @ np.linalg.solve(r, u)  # (n, n_pairs)
    y = (unseen[1] - means[1]) @ np.linalg.solve(r_factors, vt.T)
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(x.T, y.T, strict=True)])


def share_explained(
    known: tuple[NDArray, NDArray], unseen: tuple[NDArray, NDArray]
) -> NDArray[np.float64]:
    """R² of each factor on the latents: regressions that are fitted in some people, in others.

    Both arguments are (n, n_latents) and (n, n_factors) of the same people.
    """
    design, others = (np.column_stack((np.ones(len(x)), x)) for x in (known[0], unseen[0]))
    left = unseen[1] - others @ np.linalg.lstsq(design, known[1], rcond=None)[0]
    return 1 - left.var(axis=0) / unseen[1].var(axis=0)


def factor_maps(
    model: Representation, latents: NDArray[np.float32], factors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What one more of each factor adds to a map, as a representation sees it: (8, n_voxels).

    The way in which latents follow a factor, times what the latents add to a map.
    """
    design = np.column_stack((np.ones(len(factors)), factors))
    way = np.linalg.lstsq(design, latents, rcond=None)[0][1:]  # (8, n_latents)
    index = np.arange(latents.shape[1])
    return way @ explain.derivative(model.decode_rows, latents[:N_EXPLAINED], index)


def learn(job: Job, rows: Rows) -> Representation:
    """The representation of the people in training."""
    if job.representation in (PLAIN, SMOOTHED):
        bandwidth = 0.0 if job.representation == PLAIN else None
        settings = linear.Config(n_latents=job.n_latents, bandwidth=bandwidth, seed=job.seed)
        return linear.fit(rows, np.arange(N_TRAIN), brain(), VOXEL_SIZE, settings).model
    config = kernel.Config(
        n_latents=job.n_latents,
        channels=CHANNELS,
        pca_share=0.0 if job.representation == RANDOM else kernel.Config.pca_share,
        seed=job.seed,
    )
    training = kernel.Training(rows, np.arange(N_TRAIN), brain(), config)
    while not training.finished:
        training.run_epoch()
    training.finish()
    return training.model


def run(job: Job) -> Result:
    """Simulate a cohort, learn, and judge."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(job.seed)
    factors = rng.standard_normal((N_TRAIN + N_UNSEEN, N_FACTORS))
    maps = planted_maps(factors, job.cohort.n_shapes, rng, noise=job.cohort.noise)
    start = time.perf_counter()
    model = learn(job, maps.__getitem__)
    seconds = time.perf_counter() - start
    encoded = encode_maps(model, maps.__getitem__, np.arange(len(maps)))
    known = (encoded.latents[:N_TRAIN], factors[:N_TRAIN])
    unseen = (encoded.latents[N_TRAIN:], factors[N_TRAIN:])
    return Result(
        canonical=canonical_correlations(known, unseen).mean(),
        explained=share_explained(known, unseen),
        r2=encoded.r2[N_TRAIN:].mean(),
        seconds=seconds,
        maps=factor_maps(model, *known),
    )


def peaks_inside(job: Job, maps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the highest point of each map, of either sign, is where its factor acts: (8,)."""
    regions = planted_regions(job.cohort.n_shapes)  # (8, n_voxels)
    return np.take_along_axis(regions, np.abs(maps).argmax(axis=1)[:, None], axis=1)[:, 0]


def spread(values: Sequence[float]) -> str:
    """Mean, and the lowest and highest where there are several."""
    mean = f"{np.mean(values):.3f}"
    return f"{mean} ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else mean


def compared(cohort: Cohort, results: dict[Job, Result]) -> str:
    """Table of the representations of one cohort, all seeds."""
    rows = []
    for representation in COMPARED[cohort]:
        jobs = [Job(cohort, representation, seed=seed) for seed in SEEDS]
        own = [results[job] for job in jobs]
        n_intensities = N_FACTORS - cohort.n_shapes
        row: dict[str, object] = {
            "representation": representation,
            "canonical correlation": spread([result.canonical for result in own]),
            "R² of an intensity": spread([r.explained[:n_intensities].mean() for r in own]),
        }
        if cohort.n_shapes:
            shapes = [result.explained[n_intensities:].mean() for result in own]
            row["R² of a shape"] = spread(shapes)
        inside = [peaks_inside(job, results[job].maps).sum() for job in jobs]
        row["peaks in place"] = ", ".join(f"{n} of {N_FACTORS}" for n in inside)
        row["R² of maps"] = spread([result.r2 for result in own])
        row["seconds"] = f"{np.median([result.seconds for result in own]):.1f}"
        rows.append(row)
    return markdown_table(rows)


def by_latents(results: dict[Job, Result]) -> str:
    """Table of canonical correlations by number of latents, one seed."""
    return markdown_table(
        [
            {"latents": n}
            | {name: f"{results[Job(NONLINEAR, name, n)].canonical:.3f}" for name in BY_LATENTS}
            for n in LATENTS
        ]
    )


def check(results: dict[Job, Result]) -> None:
    """What the project promises of planted factors."""
    for seed in SEEDS:
        smoothed = Job(LINEAR, SMOOTHED, seed=seed)
        plain = Job(LINEAR, PLAIN, seed=seed)
        deep, *components = (
            Job(NONLINEAR, name, seed=seed) for name in (AUTOENCODER, PLAIN, SMOOTHED)
        )
        assert results[smoothed].canonical >= max(0.95, results[plain].canonical), smoothed
        assert results[deep].canonical >= 0.85, deep
        assert all(results[deep].canonical > results[job].canonical for job in components), deep
        for job in (smoothed, deep):
            assert peaks_inside(job, results[job].maps).all(), job
    few, many = (
        [results[Job(NONLINEAR, name, n)].canonical for name in BY_LATENTS]
        for n in (LATENTS[0], LATENTS[-1])
    )
    assert max(few) < 0.9, few
    assert max(many) - min(many) < 0.02, many


def page(results: dict[Job, Result]) -> str:
    """All tables, and how they came about."""
    shares = planted_regions(NONLINEAR.n_shapes).mean(axis=1)  # (8,) of the brain
    n_intensities = N_FACTORS - NONLINEAR.n_shapes
    return (
        f"Brains of {brain().sum():,} voxels ({'×'.join(map(str, GRID))}), {N_TRAIN:,} people to "
        f"learn from (a tenth of them steers the training), {N_UNSEEN} others on whom all figures "
        f"are measured. {N_FACTORS} independent standard-normal factors make each map, and noise "
        "of single voxels. In the *linear* cohort all are intensities: "
        f"{INTENSITY:g} FA at the middle of a region of {REGION:g} voxels (a Gaussian's standard "
        f"deviation) for one standard deviation, noise {LINEAR.noise:g} FA. In the *nonlinear* "
        f"cohort four are shapes: a tract of {TRACT:g} voxels bends sideways by {BEND:g} voxels, "
        f"noise {NONLINEAR.noise:g}. {N_LATENTS} latents where nothing else is said; the "
        f"autoencoder has {len(CHANNELS)} levels of {', '.join(map(str, CHANNELS))} channels; all "
        "else is its default.\n\n"
        "The canonical correlation is the mean of the eight between latents and factors; their "
        "combinations, like the regressions behind R², are fitted in the people to learn from. "
        f"Mean of {len(SEEDS)} seeds, lowest and highest in brackets.\n\n"
        "## In short\n\n"
        "Where factors change intensities alone, principal components find them, better when the "
        "maps are smoothed, in a second. Where tracts differ in shape, the autoencoder finds the "
        "factors with fewer latents: a shape takes several components, and an intensity that "
        "varies less comes after them. With as many latents as factors no representation finds "
        "all; with twice as many the three are alike.\n\n"
        "## Linear cohort\n\n"
        f"{compared(LINEAR, results)}\n"
        "## Nonlinear cohort\n\n"
        f"{compared(NONLINEAR, results)}\n"
        "*Peaks in place*: the map of a factor is the derivative of the decoded map along the way "
        "in which latents follow the factor; its highest point, of either sign, lies where the "
        "factor acts, for each seed. "
        f"Chance is {shares[0]:.0%} for an intensity, {shares[n_intensities:].min():.0%} to "
        f"{shares[n_intensities:].max():.0%} for a shape. *Seconds* are those of one thread.\n\n"
        "## How many latents\n\n"
        "Mean canonical correlation in the nonlinear cohort, one seed.\n\n"
        f"{by_latents(results)}\n"
        "![Where three factors act, and the maps of them](representations.png)\n\n"
        "Green: where the factor acts. Red and blue: what more of it adds to and takes from a "
        "map, as the representation sees it, with the first seed. Cross: the peak, where it is in "
        "this slice.\n"
    )


def draw(results: dict[Job, Result]) -> Figure:
    """Three factors in slices through them: where they act, and the maps that show them."""
    inside, regions = brain(), planted_regions(NONLINEAR.n_shapes)
    base = planted_maps(np.zeros((1, N_FACTORS)), 0, np.random.default_rng(0), noise=0.0)[0]

    def in_slice(row: NDArray[np.float64], height: int) -> NDArray[np.float64]:
        """(y, x) of one height, empty outside the brain."""
        volume = np.full(GRID, np.nan)
        volume[inside] = row
        return volume[:, :, height].T

    figure = Figure(figsize=(8.4, 8.6), layout="constrained")
    axes = figure.subplots(len(SHOWN), 3)
    for row, (factor, name, height) in zip(axes, SHOWN, strict=True):
        region = np.nan_to_num(in_slice(regions[factor].astype(float), height))
        row[0].imshow(in_slice(base, height), origin="lower", cmap="gray", vmin=0, vmax=0.7)
        row[0].set_ylabel(name)
        for ax, representation in zip(row[1:], (PLAIN, AUTOENCODER), strict=True):
            result = results[Job(NONLINEAR, representation)]
            seen = result.maps[factor]
            largest = np.abs(seen).max()
            at = np.flatnonzero(inside)[np.abs(seen).argmax()]
            x, y, z = np.unravel_index(at, GRID)
            image = in_slice(seen / largest, height)
            ax.imshow(image, origin="lower", cmap="RdBu_r", vmin=-1, vmax=1)
            if z == height:
                ax.plot(x, y, "k+", markersize=10)
            ax.set_xlabel(f"R² of the factor {result.explained[factor]:.2f}; peak at z = {z}")
        for ax in row:
            ax.contour(region, levels=[0.5], colors="tab:green", linewidths=1.5)
            ax.set(xticks=[], yticks=[])
    for ax, title in zip(axes[0], ("where it acts", PLAIN, AUTOENCODER), strict=True):
        ax.set_title(title)
    return figure


def all_jobs() -> list[Job]:
    """Those of all tables; the networks, which are slow, first."""
    jobs = [
        Job(cohort, representation, seed=seed)
        for cohort, representations in COMPARED.items()
        for representation in representations
        for seed in SEEDS
    ]
    jobs += [Job(NONLINEAR, name, n) for n in LATENTS for name in BY_LATENTS]
    return sorted(dict.fromkeys(jobs), key=lambda job: job.representation in (PLAIN, SMOOTHED))


def main() -> None:
    """Learn all; write the tables and the picture."""
    jobs = all_jobs()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        results = dict(zip(jobs, pool.map(run, jobs), strict=True))
    check(results)
    RESULTS.mkdir(exist_ok=True)
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9, "savefig.dpi": 100}):
        draw(results).savefig(RESULTS / "representations.png", metadata={"Software": None})
    write_result("representations", "What the representations find", page(results))


if __name__ == "__main__":
    main()
