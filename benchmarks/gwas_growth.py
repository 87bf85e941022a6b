"""How the time of an association grows with variants, people and traits.

The command is run on few variants and on many; the slope between the two is the time per variant,
start-up apart. It should not change with the number of variants, and grow at most linearly with
people and with traits. Drawn as a picture as well.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.association import (
    N_COVARIATES,
    Measured,
    associate,
    draw_genotypes,
    line,
    measure,
    median_of,
    write_genotypes,
    write_normals,
)
from benchmarks.results_file import RESULTS, markdown_table, write_result

THREADS = 2
FEW = 2_000  # variants, for start-up


@dataclass(frozen=True)
class Case:
    """One association."""

    variants: int
    people: int
    traits: int


@dataclass(frozen=True)
class Series:
    """Cases that differ in one number, `along`; `power` is how the time may grow with it."""

    along: str
    power: int
    cases: Sequence[Case]

    @property
    def sizes(self) -> list[int]:
        """The number in which the cases differ."""
        return [getattr(case, self.along) for case in self.cases]


def series_of(base: Case, along: str, power: int, sizes: Sequence[int]) -> Series:
    return Series(along, power, [replace(base, **{along: size}) for size in sizes])


SERIES = (
    series_of(Case(0, 2_000, 128), "variants", 0, (50_000, 100_000, 200_000, 500_000, 1_000_000)),
    series_of(Case(100_000, 0, 128), "people", 1, (1_250, 2_500, 5_000, 10_000, 20_000)),
    series_of(Case(100_000, 5_000, 0), "traits", 1, (1, 8, 32, 128, 512, 2_048)),
)


@dataclass(frozen=True)
class Result:
    """What a case took."""

    microseconds: float  # a variant
    start: float  # seconds
    peak_gb: float


def run_all(cases: Sequence[Case], few: int, repeats: int) -> dict[Case, Result]:
    """Each case, on few and on all of its variants, taking turns."""
    runs: dict[Case, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        needed = {case for one in cases for case in (one, replace(one, variants=few))}
        for people in {case.people for case in needed}:
            dosage = draw_genotypes(people)
            for n_variants in {case.variants for case in needed if case.people == people}:
                write_genotypes(folder / f"g{people}_{n_variants}", dosage, n_variants)
            write_normals(folder / f"c{people}.tsv", people, N_COVARIATES)
        for people, traits in {(case.people, case.traits) for case in needed}:
            write_normals(folder / f"t{people}_{traits}.parquet", people, traits)
        _run(folder, replace(cases[0], variants=few))  # compiles once, then cached
        for turn in range(repeats):
            for case in sorted(needed, key=lambda case: (case.people, case.traits, case.variants)):
                runs.setdefault(case, []).append(_run(folder, case))
            print(f"turn {turn + 1} of {repeats} is done", file=sys.stderr)
    results = {}
    for case in cases:
        short, long = median_of(runs[replace(case, variants=few)]), median_of(runs[case])
        time = line(few, case.variants, short.seconds, long.seconds)
        results[case] = Result(1000 * time.slope, time.start, long.peak_gb)
    return results


def _run(folder: Path, case: Case) -> Measured:
    command = associate(
        folder / f"g{case.people}_{case.variants}",
        folder / f"t{case.people}_{case.traits}.parquet",
        folder / f"c{case.people}.tsv",
        folder / "sumstats",
        *("--device", "cpu"),
        threads=THREADS,
    )
    return measure(command, THREADS)


def table(series: Series, results: dict[Case, Result]) -> str:
    """One row a case, with the exponent of its growth from the row above."""
    rows = []
    above: tuple[int, float] | None = None
    for size, case in zip(series.sizes, series.cases, strict=True):
        result = results[case]
        exponent = ""
        if above is not None:
            exponent = f"{math.log(result.microseconds / above[1], size / above[0]):.2f}"
        rows.append(
            {
                series.along: f"{size:,}",
                "µs per variant": f"{result.microseconds:.2f}",
                "exponent": exponent,
                "ns per variant and trait": f"{1000 * result.microseconds / case.traits:.1f}",
                "start-up s": f"{result.start:.1f}",
                "peak GB": f"{result.peak_gb:.2f}",
            }
        )
        above = size, result.microseconds
    return markdown_table(rows)


def title(series: Series) -> str:
    """What the cases of a series have in common."""
    case = series.cases[0]
    fixed = [
        f"{getattr(case, name):,} {name}"
        for name in ("variants", "people", "traits")
        if name != series.along
    ]
    return f"By {series.along}: {', '.join(fixed)}"


def short(size: int) -> str:
    """A number for the axis: 1.25k, 1M."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return str(size)


def draw(axes: Axes, series: Series, results: dict[Case, Result]) -> None:
    """Time per variant on logarithmic axes, and the line that it may follow."""
    x, y = series.sizes, [results[case].microseconds for case in series.cases]
    reference = [y[-1] * (size / x[-1]) ** series.power for size in x]
    axes.plot(x, reference, "--", color="0.6", label="linear" if series.power else "constant")
    axes.plot(x, y, "o-", color="C0", label="measured")
    axes.set(xscale="log", yscale="log", xlabel=series.along, title=title(series))
    axes.set_xticks(x, [short(size) for size in x])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = min(*y, *reference), max(*y, *reference)
    middle = math.sqrt(low * high)
    # at least a decade, so that noise does not look like growth
    axes.set_ylim(min(low / 1.3, middle / 3.2), max(high * 1.3, middle * 3.2))
    axes.grid(color="0.9")
    axes.legend(frameon=False)


def main(arguments: Sequence[str] = ()) -> None:
    """Run all series; write the tables and the picture."""
    parser = argparse.ArgumentParser(description="How the time of an association grows.")
    parser.add_argument("--repeats", type=int, default=5, help="Runs of each size.")
    parser.add_argument(
        "--share", type=float, default=1.0, help="Of the variants, for a trial: 0.02, say."
    )
    options = parser.parse_args(arguments)
    few = round(FEW * options.share)
    all_series = [
        replace(
            series,
            cases=[
                replace(case, variants=round(case.variants * options.share))
                for case in series.cases
            ],
        )
        for series in SERIES
    ]
    cases = list(dict.fromkeys(case for series in all_series for case in series.cases))
    results = run_all(cases, few, options.repeats)

    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9, "savefig.dpi": 150}):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        for axes, series in zip(figure.subplots(1, len(all_series)), all_series, strict=True):
            draw(axes, series, results)
        figure.axes[0].set_ylabel("µs per variant")
        RESULTS.mkdir(exist_ok=True)
        figure.savefig(RESULTS / "gwas_growth.png", metadata={"Software": None})
    tables = "\n".join(f"## {title(series)}\n\n{table(series, results)}" for series in all_series)
    write_result(
        "gwas_growth",
        "Growth of the association with variants, people and traits",
        f"{THREADS} threads, {N_COVARIATES} covariates, no missing genotypes; median of "
        f"{options.repeats} runs, taking turns. Time per variant is the slope from {few:,} "
        "variants on; start-up is apart. The exponent is that of the growth from the row above: 0 "
        "is constant, 1 linear.\n\n"
        "![Time per variant by variants, people and traits](gwas_growth.png)\n\n"
        f"{tables}",
    )


if __name__ == "__main__":
    main(sys.argv[1:])
