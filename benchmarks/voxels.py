"""Voxels out of the associations of components, beside voxel-wise association of the same images.

Both by the same engine: the r components of the images, and all V voxels of the images that these
components make, written densely. Time and bytes a variant are slopes between few and many variants,
so that start-up (imports, tables, the correlation of all traits) is apart from them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import save_file

from axoloci.io.bases import read_basis
from axoloci.io.nifti import read_nifti
from axoloci.io.sumstats import read_sumstats
from axoloci.tasks.genetics.heritability import relationship_traces
from axoloci.tasks.genetics.voxels import se_error, voxel_effects, voxel_variances
from benchmarks.association import (
    N_COVARIATES,
    Measured,
    associate,
    draw_genotypes,
    line,
    measure,
    write_genotypes,
    write_normals,
)
from benchmarks.results_file import markdown_table, write_result

PEOPLE, SHAPE = 2_000, (40, 25, 20)
N_VOXELS = 20_000
COMPONENTS = (50, 100)
FEW_OF_COMPONENTS, MANY_OF_COMPONENTS = 40_000, 240_000
FEW_OF_VOXELS, MANY_OF_VOXELS = 1_024, 5_120
REPEATS = 3  # of the runs of components; those of voxels are long
N_CAUSAL, SHARE = 4_000, 0.4  # variants that carry it, and how much of each component
MISSING, SOME = 0.01, 1_000  # voxels, where a part of them is enough
STORAGE_BAR, TIME_BAR = 0.9, 0.5  # times V / r
MAX_DIFFERENCE = 1e-5  # of z, both from float32 stores
MAX_H2_DIFFERENCE = 1e-5
THREADS = 2
UK_BIOBANK = {"people": 53_454, "variants": 8_900_000, "voxels": 1_800_000}
NONE_BESIDE = ("--device", "cpu", "--n-probes", "0", "--n-permuted", "0")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Images:
    """Images that components make: latents (n, r) and what one more of each adds (r, V)."""

    latents: Floats
    basis: NDArray[np.float32]

    def voxels(self, n: int) -> Floats:
        """Maps of the first voxels, (n_people, n)."""
        return self.latents @ self.basis[:, :n].astype(np.float64)

    def first(self, r: int) -> Images:
        """Those of the first components."""
        return Images(self.latents[:, :r], self.basis[:r])


def draw_causal() -> NDArray[np.int8]:
    """Independent variants of 5 to 50% frequency, (m, n)."""
    rng = np.random.default_rng(12)
    frequency = rng.uniform(0.05, 0.5, (N_CAUSAL, 1))
    return rng.binomial(2, frequency, (N_CAUSAL, PEOPLE)).astype(np.int8)


def write_distinct(prefix: Path, dosage: NDArray[np.int8], n_variants: int) -> None:
    """Write genotypes that do not repeat, of 50% frequency: repeats would be compressed away."""
    write_genotypes(prefix, dosage, n_variants)
    rng = np.random.default_rng(13)
    allowed = np.array([0, 2, 2, 3], dtype=np.uint8)  # 1 is a missing genotype
    byte = np.arange(256, dtype=np.uint8)
    of_byte = sum(allowed[(byte >> shift) & 3] << np.uint8(shift) for shift in (0, 2, 4, 6))
    codes = np.asarray(of_byte)[rng.integers(0, 256, (n_variants, PEOPLE // 4), dtype=np.uint8)]
    prefix.with_suffix(".bed").write_bytes(b"\x6c\x1b\x01" + codes.tobytes())


def simulate(dosage: NDArray[np.int8]) -> Images:
    """Components with a share of heritability and falling variance, smooth patterns of them."""
    rng = np.random.default_rng(11)
    r = max(COMPONENTS)
    z = dosage.astype(np.float64)  # (m, n)
    z -= z.mean(axis=1, keepdims=True)
    z /= z.std(axis=1, keepdims=True)
    genetic = z.T @ rng.standard_normal((len(z), r)) / np.sqrt(len(z))
    latents = np.sqrt(SHARE) * genetic + np.sqrt(1 - SHARE) * rng.standard_normal((PEOPLE, r))
    latents *= np.geomspace(10, 1, r)
    patterns = np.linalg.qr(rng.standard_normal((N_VOXELS, r)))[0].T
    table = latents.astype(np.float32).astype(np.float64)  # as encode writes them
    return Images(table, np.ascontiguousarray(patterns, dtype=np.float32))


def write_images(folder: Path, images: Images, name: str, n_voxels: int = 0) -> None:
    """A table of the components, or of the first voxels of the maps, and the model."""
    r = len(images.basis)
    values = images.voxels(n_voxels) if n_voxels else images.latents
    kind = "voxel" if n_voxels else "component"
    names = [f"{kind}_{k:03d}" for k in range(values.shape[1])]
    table = pd.DataFrame(values.astype(np.float32), columns=names)
    table.insert(0, "sample_id", [f"i{k}" for k in range(PEOPLE)])
    table.to_parquet(folder / f"{name}.parquet", index=False)
    about = {
        "format": "axoloci-encoder",
        "format_version": 4,
        "kind": "linear",
        "measure": "fa",
        "affine": np.diag([2.0, 2, 2, 1]).tolist(),
    }
    spread = np.linalg.cholesky(np.cov(images.latents, rowvar=False)).T  # (r, r)
    weights = {
        "mask": np.ones(SHAPE, dtype=bool),
        "mean": np.zeros(N_VOXELS, np.float32),
        "basis": images.basis,
        "latent_mean": np.zeros(r, np.float32),
        "voxel_sd": np.sqrt(np.square(spread @ images.basis).sum(axis=0)).astype(np.float32),
    }
    save_file(weights, folder / f"model{r}.safetensors", {"axoloci": json.dumps(about)})


def run_association(
    folder: Path, n_variants: int, traits: str, options: Sequence[str] = NONE_BESIDE
) -> tuple[Measured, int]:
    """What the association took, and the bytes of its parts."""
    out = folder / f"{traits}-sumstats"
    tables = folder / f"{traits}.parquet", folder / "c.tsv", out
    command = associate(folder / f"g{n_variants}", *tables, *options, threads=THREADS)
    took = measure(command, THREADS)
    return took, sum(path.stat().st_size for path in out.glob("chr*/*.parquet"))


def genetics(*arguments: object) -> Measured:
    program = (sys.executable, "-m", "axoloci.tasks.genetics.cli")
    return measure([*program, *map(str, arguments)], THREADS)


@dataclass(frozen=True)
class Cost:
    """Milliseconds and bytes a variant, and seconds of start-up."""

    milliseconds: float
    n_bytes: float
    start: float


def cost(folder: Path, traits: str, few: int, many: int, repeats: int) -> Cost:
    """Slopes between few and many variants, the median of the times."""
    seconds: dict[int, list[float]] = {few: [], many: []}
    size = {}
    for _ in range(repeats):
        for n_variants in (few, many):
            took, size[n_variants] = run_association(folder, n_variants, traits)
            seconds[n_variants].append(took.seconds)
    found = line(few, many, *(statistics.median(seconds[n]) for n in (few, many)))
    return Cost(found.slope, (size[many] - size[few]) / (many - few), found.start)


def scan_cost(folder: Path, r: int) -> tuple[float, dict[str, int]]:
    """Milliseconds a variant of the scan of all pairs, and what it counted."""
    seconds = []
    for n_variants in (FEW_OF_COMPONENTS // 8, MANY_OF_COMPONENTS // 8):
        run_association(folder, n_variants, f"components{r}")
        given = ("--sumstats", folder / f"components{r}-sumstats")
        model = ("--model", folder / f"model{r}.safetensors")
        scanned = genetics("voxel-scan", *given, *model, "--out", folder / "scan")
        seconds.append(scanned.seconds)
    found = line(FEW_OF_COMPONENTS // 8, MANY_OF_COMPONENTS // 8, *seconds)
    about = json.loads((folder / "scan" / "voxel_scan.json").read_text())
    return found.slope, about


def differences(folder: Path, r: int, n_voxels: int, components: str, voxels: str) -> Floats:
    """Of β in units of se, of se (relative), and of z: (3, n_variants, n_voxels)."""
    basis = read_basis(folder / f"model{r}.safetensors").basis[:, :n_voxels]
    of_components, of_voxels = (
        read_sumstats(folder / f"{n}-sumstats") for n in (components, voxels)
    )
    sd = of_components.trait_residual_sd
    sums = of_components.n_samples * of_components.trait_correlation * sd * sd[:, None]
    variances = voxel_variances(sums, basis)
    found = []
    for block, direct in zip(of_components.blocks(), of_voxels.blocks(), strict=True):
        beta, se = voxel_effects(block.beta, block.se, block.df[:, 0], sums, basis, variances)
        expected_beta, expected_se = (np.asarray(x, np.float64) for x in (direct.beta, direct.se))
        z = beta / se - expected_beta / expected_se
        found.append(np.stack([(beta - expected_beta) / expected_se, se / expected_se - 1, z]))
    return np.concatenate(found, axis=1)


def exactness(folder: Path, images: Images) -> tuple[list[dict[str, str]], float]:
    """Differences from direct association, of complete and of missing genotypes."""
    rows, largest = [], 0.0
    r, n_variants = len(images.basis), 2_000
    for name, share in (("complete", 0.0), ("1% missing", MISSING)):
        write_genotypes(folder / f"g{n_variants}", draw_genotypes(PEOPLE, share), n_variants)
        write_images(folder, images, "some", SOME)
        for traits in (f"components{r}", "some"):
            run_association(folder, n_variants, traits)
        beta, se, z = differences(folder, r, SOME, f"components{r}", "some")
        n = read_sumstats(folder / "some-sumstats")
        people = np.concatenate([block.variants["n"].to_numpy() for block in n.blocks()])
        told = se_error(people, PEOPLE)
        if not share:
            largest = float(np.abs(z).max())
        rows.append(
            {
                "genotypes": name,
                "largest difference of β, in se": f"{np.abs(beta).max():.1e}",
                "of se, relative: RMS": f"{np.sqrt(np.square(se).mean()):.1e}",
                "largest": f"{np.abs(se).max():.1e}",
                "`se_error`, RMS": f"{np.sqrt(np.square(told).mean()):.1e}",
                "of z: RMS": f"{np.sqrt(np.square(z).mean()):.1e}",
                "largest ": f"{np.abs(z).max():.1e}",
            }
        )
    return rows, largest


def heritability(folder: Path, images: Images, dosage: NDArray[np.int8]) -> tuple[str, float]:
    """Voxel h² beside Haseman and Elston's regression of every voxel, y'Ay."""
    r = len(images.basis)
    write_genotypes(folder / f"g{N_CAUSAL}", dosage, N_CAUSAL)
    kept = ("--device", "cpu", "--n-permuted", "0")
    run_association(folder, N_CAUSAL, f"components{r}", kept)
    store = folder / f"components{r}-sumstats"
    genetics("heritability", "--sumstats", store, "--out", folder)
    given = ("--genetic-covariance", folder / "genetic_covariance.npz", "--out", folder / "h2")
    given += ("--noise-of", "projection")
    mapped = genetics("voxel-h2", *given, "--model", folder / f"model{r}.safetensors")
    h2 = read_nifti(folder / "h2" / "voxel_h2.nii.gz", ndim=3)[0].ravel()
    se = read_nifti(folder / "h2" / "voxel_h2_se.nii.gz", ndim=3)[0].ravel()

    covariates = pd.read_csv(folder / "c.tsv", sep="\t").drop(columns="#IID").to_numpy()
    q = np.linalg.qr(np.column_stack([np.ones(PEOPLE), covariates]))[0]  # (n, p)
    x = dosage.T.astype(np.float64)  # (n, m)
    x -= q @ (q.T @ x)
    x /= np.linalg.norm(x, axis=0)
    relationship = x @ x.T  # (n, n)
    y = images.voxels(N_VOXELS)
    y -= q @ (q.T @ y)
    explained = np.einsum("nv,nv->v", y, relationship @ y) / np.square(y).sum(axis=0)
    df, m = PEOPLE - q.shape[1], x.shape[1]
    traces = (
        relationship_traces(read_sumstats(store).relationship)[0],
        np.square(relationship).sum(),
    )
    by_probes, exact = ((df / m * explained - 1) / (df * t / m**2 - 1) for t in traces)
    apart = float(np.abs(h2 - by_probes).max())
    return (
        f"{r} components, {N_VOXELS:,} voxels, {N_CAUSAL:,} variants: the map of h² took "
        f"{mapped.seconds:.1f} s. Largest difference from Haseman and Elston's regression of each "
        f"voxel (y'Ay of the {PEOPLE:,} × {PEOPLE:,} relationships): {apart:.1e} with the "
        f"association's tr A² (8 probes), {np.abs(h2 - exact).max():.1e} with the exact one. Mean "
        f"h² {h2.mean():.3f} (simulated {SHARE}), mean standard error by jackknife "
        f"{se.mean():.3f}.\n",
        apart,
    )


def extrapolated(costs: dict[int, Cost], dense: Cost) -> list[dict[str, str]]:
    """UK Biobank on paper: bytes by the variant, products by people and voxels."""
    people, variants, n_voxels = UK_BIOBANK.values()
    rows = []
    ratio = n_voxels / N_VOXELS
    sizes = {f"{r} components": (r, c.n_bytes, c.milliseconds, 1.0) for r, c in costs.items()}
    sizes["all voxels, densely"] = (n_voxels, dense.n_bytes, dense.milliseconds, ratio)
    for name, (n_traits, n_bytes, milliseconds, more) in sizes.items():
        hours = variants * milliseconds * more * people / PEOPLE / 1000 / 3600
        rows.append(
            {
                "association of": name,
                "store": f"{variants * n_bytes * more / 1e12:,.4g} TB",
                "its products, FLOP": f"{2.0 * variants * people * n_traits:.1e}",
                "hours on this machine": f"{hours:,.1f}",
                "the scan's products, FLOP": f"{2.0 * variants * n_voxels * n_traits:.1e}"
                if n_traits < n_voxels
                else "none",
            }
        )
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        dosage = draw_genotypes(PEOPLE)
        causal = draw_causal()
        images = simulate(causal)
        write_normals(folder / "c.tsv", PEOPLE, N_COVARIATES)
        of_components = (FEW_OF_COMPONENTS, MANY_OF_COMPONENTS)
        sizes = (*of_components, *(n // 8 for n in of_components), FEW_OF_VOXELS, MANY_OF_VOXELS)
        for n_variants in sizes:
            write_distinct(folder / f"g{n_variants}", dosage, n_variants)
        for r in COMPONENTS:
            write_images(folder, images.first(r), f"components{r}")
        run_association(folder, FEW_OF_VOXELS, f"components{r}")  # compiles what is not yet
        costs = {r: cost(folder, f"components{r}", *of_components, REPEATS) for r in COMPONENTS}
        scans = {r: scan_cost(folder, r) for r in COMPONENTS}
        maps = {
            r: genetics(
                *("voxels", "--sumstats", folder / f"components{r}-sumstats"),
                *("--model", folder / f"model{r}.safetensors"),
                *("--variant", "1:777", "--out", folder / "maps"),
            ).seconds
            for r in COMPONENTS
        }
        differing, largest = exactness(folder, images)
        of_h2, h2_apart = heritability(folder, images, causal)
        write_images(folder, images, "voxels", N_VOXELS)
        dense = cost(folder, "voxels", FEW_OF_VOXELS, MANY_OF_VOXELS, 1)
    rows, missed = [], []
    for r in COMPONENTS:
        own, ideal = costs[r], N_VOXELS / r
        ratios = {
            "storage": dense.n_bytes / own.n_bytes,
            "time": dense.milliseconds / own.milliseconds,
        }
        bars = {"storage": STORAGE_BAR * ideal, "time": TIME_BAR * ideal}
        missed += [f"{what} at r = {r}" for what in ratios if ratios[what] < bars[what]]
        whole = own.milliseconds + scans[r][0]
        rows.append(
            {
                "r": r,
                "V / r": f"{ideal:.0f}",
                "bytes a variant: components": f"{own.n_bytes:.0f}",
                "voxels": f"{dense.n_bytes:,.0f}",
                "times less (bar)": f"{ratios['storage']:.0f} ({bars['storage']:.0f})",
                "µs a variant: components": f"{1000 * own.milliseconds:.1f}",
                "voxels ": f"{1000 * dense.milliseconds:,.0f}",
                "times less (bar) ": f"{ratios['time']:.0f} ({bars['time']:.0f})",
                "with the scan of all pairs, µs": f"{1000 * whole:.0f}",
                "times less": f"{dense.milliseconds / whole:.0f}",
                "map of one variant, s": f"{maps[r]:.1f}",
            }
        )
    about = scans[max(COMPONENTS)][1]
    verdict = f"Below the bar: {', '.join(missed)}.\n" if missed else "All bars are met.\n"
    write_result(
        "voxels",
        "Voxels out of components, beside voxel-wise association",
        f"{PEOPLE:,} people, {N_VOXELS:,} voxels of images that r components make, {N_COVARIATES} "
        f"covariates, {THREADS} threads; one engine (`axoloci-gwas associate`) for the components "
        f"and for all voxels densely. Slopes between {FEW_OF_COMPONENTS:,} and "
        f"{MANY_OF_COMPONENTS:,} variants (medians of {REPEATS} runs), of voxels between "
        f"{FEW_OF_VOXELS:,} and {MANY_OF_VOXELS:,} (one run); start-up is apart: "
        f"{', '.join(f'{costs[r].start:.1f} s' for r in COMPONENTS)} of components, "
        f"{dense.start:.0f} s of voxels, with the correlation of all pairs of them.\n\n"
        f"{markdown_table(rows)}\n{verdict}\n"
        "More than V / r is a store of 20,000 traits in itself: 40,000 columns in parts of 256 "
        "variants. Written as V / r stores of r voxels each, the voxels would take V / r times the "
        "bytes and the time of the components by construction.\n\n"
        "The scan makes the product of every variant with every voxel, and keeps pairs with p up "
        f"to 5e-8 ({about['n_pairs']:,} of {about['n_tested'] * N_VOXELS:,}); the dense store "
        "holds all of them. A map of one variant is the command with all that it reads and "
        "writes.\n\n"
        f"## Exactness\n\n{max(COMPONENTS)} components and the first {SOME:,} voxels, 2,000 "
        f"variants, float32 stores on both sides.\n\n{markdown_table(differing)}\n"
        f"## Heritability\n\n{of_h2}\n"
        "## On paper: UK Biobank\n\n"
        f"{UK_BIOBANK['people']:,} people, {UK_BIOBANK['variants']:,} variants, "
        f"{UK_BIOBANK['voxels']:,} voxels, by the figures above: bytes a variant and voxel as they "
        "are, time a variant in proportion to people and voxels, reading and writing too.\n\n"
        f"{markdown_table(extrapolated(costs, dense))}",
    )
    assert largest < MAX_DIFFERENCE, largest
    assert h2_apart < MAX_H2_DIFFERENCE, h2_apart
    if missed:
        raise SystemExit(verdict)


if __name__ == "__main__":
    main()
