"""`axoloci-genetics ldsc`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import columns_help, progress
from axoloci.errors import InputError
from axoloci.io.files import sha256, write_json
from axoloci.io.outside_sumstats import FORMATS, trait_name
from axoloci.io.sumstats import read_sumstats
from axoloci.io.tables import write_tsv
from axoloci.statistics import neg_log10_normal
from axoloci.tasks.genetics import ldsc as kernel
from axoloci.tasks.genetics.commands.heritability import PAIR_COLUMNS as STUDY_PAIR_COLUMNS
from axoloci.tasks.genetics.commands.heritability import warn_of_weak
from axoloci.tasks.genetics.commands.ld_scores import read_ld_scores
from axoloci.tasks.genetics.commands.ldsc_statistics import (
    FEWEST_VARIANTS,
    Finder,
    Statistics,
    check_alleles,
    read_other,
    read_study,
    shared,
)
from axoloci.tasks.genetics.commands.selection import (
    SUMSTATS,
    columns_of,
    named_traits,
    traits_option,
    transformed,
)
from axoloci.tasks.genetics.covariance_file import write_covariance
from axoloci.tasks.genetics.heritability import GeneticCovariance
from axoloci.tasks.genetics.kernel import CHI2_MEDIAN

log = logging.getLogger("axoloci")

MIN_MAF = 0.01
MAX_GB = 32.0  # of the statistics, and the covariances with each block left out
BLOCK_VARIANTS = 20  # fewest of a block of the jackknife
HERITABILITY_COLUMNS = {
    "trait": "Its name.",
    "n": "People, mean of the variants.",
    "n_variants": "Variants used.",
    "h2": "Heritability on the observed scale; by chance it may be below 0 or above 1.",
    "h2_se": "Its standard error, by the jackknife.",
    "intercept": "Mean χ² without any heritability: 1, more where people are stratified.",
    "intercept_se": "Its standard error; 0 where it is given.",
    "ratio": "(intercept − 1) / (mean_chi2 − 1): share of the inflation that is no heritability; "
    "n/a without inflation or with --fixed-intercept.",
    "ratio_se": "Its standard error.",
    "mean_chi2": "Mean χ² of these variants.",
    "lambda_gc": "Their median χ² over that expected without any effect.",
    "n_large_chi2": "Variants left out, for their χ² is above --max-chi2.",
}
PAIR_COLUMNS = {
    **STUDY_PAIR_COLUMNS,
    "phenotypic_correlation": "Of two traits of the study; n/a with those of --with.",
    "intercept": "Mean product of the two z without any genetic covariance: the phenotypic "
    "correlation times the share of people who are in both.",
    "intercept_se": "Its standard error; 0 where it is given.",
    "n_variants": "Variants used.",
}


@click.command(
    epilog=columns_help(
        **{
            "out/heritability.tsv": HERITABILITY_COLUMNS,
            "out/genetic_correlation.tsv": PAIR_COLUMNS,
        }
    )
)
@click.option(
    "--ld-scores",
    "ld_scores_path",
    required=True,
    type=click.Path(path_type=Path),
    help="Table of axoloci-genetics ld-scores; or the folder of published files *.l2.ldscore.gz "
    "and *.l2.M_5_50, or what their names begin with.",
)
@SUMSTATS
@traits_option("to look at; without it all.")
@click.option(
    "--with",
    "outside",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help=f"Summary statistics of a trait of another study as text ({', '.join(FORMATS)}), named by "
    "the file up to its first dot. Can be given several times.",
)
@click.option(
    "--n",
    "people",
    multiple=True,
    metavar="TRAIT=NUMBER",
    help="People of a trait of --with whose file does not say n. Can be given several times.",
)
@click.option(
    "--min-maf",
    type=click.FloatRange(0, 0.5),
    default=MIN_MAF,
    help="Least minor allele frequency in the panel, where the LD scores tell it.",
)
@click.option(
    "--max-chi2",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="Largest χ² of a variant that is used; without it 80, or 0.001 n where that is more.",
)
@click.option(
    "--fixed-intercept",
    is_flag=True,
    help="Take the intercepts as known: of heritabilities 1, of two traits of the study their "
    "correlation, with those of --with 0. Smaller errors, but wrong if there is stratification, "
    "or if some people are in both studies.",
)
@click.option(
    "--other-build",
    is_flag=True,
    help="Let positions differ: LD scores or outside statistics are of another genome build than "
    "the study, and variants are matched by id alone.",
)
@click.option(
    "--n-blocks",
    type=click.IntRange(min=2),
    default=kernel.N_BLOCKS,
    help="Blocks of neighbouring variants that the jackknife leaves out, one at a time.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="ldsc",
    help="Folder of heritability.tsv, genetic_correlation.tsv, genetic_covariance.npz, ldsc.json.",
)
def ldsc(
    ld_scores_path: Path,
    sumstats: Path,
    traits: str | None,
    outside: Sequence[Path],
    people: Sequence[str],
    min_maf: float,
    max_chi2: float | None,
    fixed_intercept: bool,
    other_build: bool,
    n_blocks: int,
    out: Path,
) -> None:
    """Heritability and genetic correlation by LD score regression, from statistics alone.

    Of all traits and pairs, also with traits of other studies, whose people may be the same: the
    overlap goes into the intercept. Heritabilities are of the observed scale, in two steps:
    variants with χ² below 30 give the intercept. Genetic covariances and correlations come without
    these steps.
    """
    store = read_sumstats(sumstats)
    names = store.traits if traits is None else named_traits(store, traits)
    columns = columns_of(store, names)
    given_n = _given_people(people)
    files = _named_files(outside, names, given_n)
    scores = read_ld_scores(ld_scores_path)
    table = _usable(scores.table, ld_scores_path, min_maf)
    ld_score = table["ld_score"].to_numpy(np.float64)

    def regressors(statistics: Statistics, edges: NDArray[np.int64]) -> kernel.Regressors:
        own = ld_score[statistics.rows]
        return kernel.Regressors(own, own, scores.n_common, edges)

    n_variants = min(store.n_variants, len(table))
    most = _most_traits(n_variants, min(n_blocks, n_variants // BLOCK_VARIANTS + 1), len(files))
    if len(names) > most:
        raise InputError(
            f"{sumstats}: {len(names)} traits at once need more than {MAX_GB:g} GB of memory, and "
            f"{most} traits do not; take fewer by --traits, or fewer --n-blocks"
        )
    finder = Finder(table, ld_scores_path, other_build)
    study = read_study(store, columns, finder)
    others = {name: read_other(file, given_n.get(name), finder) for name, file in files.items()}
    for name, own in others.items():
        check_alleles(study, own, finder, (str(sumstats), str(files[name])))
    sources = [(names, study), *(([name], own) for name, own in others.items())]
    one = 1.0 if fixed_intercept else None
    tables = []
    for own_names, own in sources:
        n_large = kernel.leave_out_large(own.z, own.n, max_chi2)
        _check_enough(own_names, own, n_large, files.get(own_names[0], sumstats))
        edges = kernel.block_edges(len(own.rows), _n_blocks(n_blocks, len(own.rows), own_names))
        found = kernel.heritability(own.z, own.n, regressors(own, edges), intercept=one)
        tables.append(_heritability_table(own_names, own, found).assign(n_large_chi2=n_large))
    heritability = pd.concat(tables, ignore_index=True)

    # blocks of all pairs are those of the study: the same stretches of the genome
    edges = kernel.block_edges(len(study.rows), _n_blocks(n_blocks, len(study.rows), []))
    genetic = _Genetic([*names, *others], len(edges) - 1)
    phenotypic = store.trait_correlation[np.ix_(columns, columns)]
    known = phenotypic if fixed_intercept else None
    _correlate_study(genetic, study, regressors(study, edges), known)
    boundaries = np.array([0, *study.rows[edges[1:-1]], len(table)])  # rows of the LD scores
    for k, (name, other) in enumerate(others.items(), start=len(names)):
        column = 0
        for partner_names, partner in sources[: 1 + k - len(names)]:
            first, second = shared(other, partner)
            if len(first.rows) < FEWEST_VARIANTS:
                n_both = len(np.intersect1d(other.rows, partner.rows, assume_unique=True))
                raise InputError(
                    f"{files[name]}: of {other.n_read} variants {len(other.rows)} have an LD score,"
                    f" {n_both} of these are in {', '.join(partner_names[:3])} too, and "
                    f"{len(first.rows)} of these have alleles that fit and tell the strand (A/T and"
                    f" C/G do not); {FEWEST_VARIANTS} are needed at least: see that both name "
                    "alleles alike, and give statistics of the whole genome"
                )
            of_both = regressors(first, np.searchsorted(first.rows, boundaries))
            with_ = slice(column, column + len(partner_names))
            _correlate_outside(genetic, k, with_, first, second, of_both, fixed_intercept)
            column = with_.stop
    unknown = [
        n for n, h2 in zip(genetic.traits, np.diag(genetic.covariance), strict=True) if not h2 > 0
    ]
    if unknown:
        log.warning(
            "no genetic correlation with %d traits, whose heritability is not above 0, such as %s",
            *(len(unknown), ", ".join(unknown[:5])),
        )
    known_h2 = heritability[~heritability["trait"].isin(unknown)]
    warn_of_weak(*known_h2[["h2", "h2_se"]].to_numpy(np.float64).T)
    sd = np.append(store.trait_residual_sd[columns], np.ones(len(others)))
    everyone = np.full((len(sd), len(sd)), np.nan)
    everyone[: len(names), : len(names)] = phenotypic
    everyone[range(len(names), len(sd)), range(len(names), len(sd))] = 1
    write_tsv(out / "heritability.tsv", heritability)
    write_tsv(out / "genetic_correlation.tsv", genetic.correlations(everyone))
    units = np.outer(sd, sd)
    left_out = np.multiply(genetic.left_out, units, out=genetic.left_out)  # it may be large
    covariance = GeneticCovariance(genetic.covariance * units, everyone * units, left_out)
    covariance_path = out / "genetic_covariance.npz"
    write_covariance(covariance_path, genetic.traits, covariance, transformed(store))
    write_json(
        out / "ldsc.json",
        {
            "axoloci": __version__,
            "sumstats": sumstats.resolve().name,
            "sumstats_sha256": sha256(sumstats / "sumstats.json"),
            "traits": names,
            "with": [
                {"trait": name, "file": file.name, "sha256": sha256(file), "n": given_n.get(name)}
                for name, file in files.items()
            ],
            "ld_scores": _ld_scores_name(ld_scores_path),
            "ld_scores_sha256": sha256(ld_scores_path) if ld_scores_path.is_file() else None,
            "n_common": scores.n_common,
            "n_ld_scores": len(table),
            "n_variants": len(study.rows),
            "n_blocks": len(edges) - 1,
            "min_maf": min_maf,
            "max_chi2": max_chi2,
            "fixed_intercept": fixed_intercept,
            "other_build": other_build,
        },
    )
    log.info(
        "LD score regression of %d traits and %d variants in %d blocks",
        *(len(genetic.traits), len(study.rows), len(edges) - 1),
    )


class _Genetic:
    """Genetic covariances of all traits, filled in trait by trait.

    Parameters
    ----------
    traits
        Names.
    n_blocks
        Of the jackknife.
    """

    def __init__(self, traits: Sequence[str], n_blocks: int) -> None:
        self.traits = list(traits)
        self.covariance = np.full((len(traits), len(traits)), np.nan)
        self.left_out = np.full((n_blocks, len(traits), len(traits)), np.nan)
        self._pairs: dict[str, list[Any]] = {
            name: [[]] for name in PAIR_COLUMNS if name != "phenotypic_correlation"
        }

    def set_heritability(self, traits: slice, found: kernel.Regression) -> None:
        """Fill in the diagonal."""
        for k, of_trait in enumerate(range(traits.start, traits.stop)):
            self._set(of_trait, slice(of_trait, of_trait + 1), found[k : k + 1])

    def set_covariance(
        self,
        trait: int,
        others: slice,
        found: kernel.Regression,
        h2: kernel.Regression,
        h2_others: kernel.Regression,
    ) -> None:
        """Fill in the covariances of one trait with others."""
        self._set(trait, others, found)
        rg, rg_se = kernel.genetic_correlation(found, h2, h2_others)
        columns = (
            np.full(len(rg), trait),
            np.arange(others.start, others.stop),
            *(rg, rg_se, neg_log10_normal(rg / rg_se)),
            *(found.line.intercept, found.intercept_se, found.n_variants),
        )
        for values, column in zip(self._pairs.values(), columns, strict=True):
            values.append(column)

    def _set(self, trait: int, others: slice, found: kernel.Regression) -> None:
        value = found.line.covariance
        # without a block that has no variants nothing changes
        left_out = np.where(np.isnan(found.left_out.covariance), value, found.left_out.covariance)
        self.covariance[trait, others] = self.covariance[others, trait] = value
        self.left_out[:, trait, others] = self.left_out[:, others, trait] = left_out

    def correlations(self, phenotypic: NDArray[np.float64]) -> pd.DataFrame:
        """One row a pair, the trait that comes first in the study before the other."""
        table = pd.DataFrame({name: np.concatenate(v) for name, v in self._pairs.items()})
        table = table.astype(dict.fromkeys(("trait_1", "trait_2", "n_variants"), np.int64))
        numbers = np.sort(table[["trait_1", "trait_2"]].to_numpy(), axis=1)  # (P, 2)
        for column, numbers_of_trait in zip(("trait_1", "trait_2"), numbers.T, strict=True):
            table[column] = np.array(self.traits, dtype=object)[numbers_of_trait]
        table["phenotypic_correlation"] = phenotypic[numbers[:, 0], numbers[:, 1]]
        return table[list(PAIR_COLUMNS)].iloc[np.lexsort((numbers[:, 1], numbers[:, 0]))]


def _correlate_study(
    genetic: _Genetic,
    study: Statistics,
    regressors: kernel.Regressors,
    phenotypic: NDArray[np.float64] | None,
) -> None:
    """Fill in the traits of the study; their correlation gives the intercepts, if it is given."""
    n_traits = study.z.shape[1]
    one = None if phenotypic is None else 1.0
    h2 = kernel.heritability(study.z, study.n, regressors, two_step=None, intercept=one)
    genetic.set_heritability(slice(0, n_traits), h2)
    for k in progress(range(n_traits - 1), "genetic correlations, traits", n_traits - 1):
        this, rest = slice(k, k + 1), slice(k + 1, n_traits)
        covariance = kernel.genetic_covariance(
            *(study.z[:, this], study.z[:, rest]),
            *(_columns(study.n, this), _columns(study.n, rest)),
            h2[this],
            h2[rest],
            regressors,
            intercept=None if phenotypic is None else phenotypic[k, rest],
        )
        genetic.set_covariance(k, rest, covariance, h2[this], h2[rest])


def _correlate_outside(
    genetic: _Genetic,
    trait: int,
    partners: slice,
    first: Statistics,
    second: Statistics,
    regressors: kernel.Regressors,
    fixed_intercept: bool,
) -> None:
    """Fill in a trait of another study with others, of the variants that both have."""
    one, zero = (1.0, 0.0) if fixed_intercept else (None, None)
    h2_first, h2_second = (
        kernel.heritability(own.z, own.n, regressors, two_step=None, intercept=one)
        for own in (first, second)
    )
    covariance = kernel.genetic_covariance(
        *(first.z, second.z, first.n, second.n, h2_first, h2_second, regressors), intercept=zero
    )
    if partners.start == 0:  # the study itself
        genetic.set_heritability(slice(trait, trait + 1), h2_first)
    genetic.set_covariance(trait, partners, covariance, h2_first, h2_second)


def _most_traits(n_variants: int, n_blocks: int, n_outside: int) -> int:
    """How many traits of the study fit into `MAX_GB`, beside some of other studies."""
    # statistics and people in float32, and again those of the variants that an outside trait has
    of_trait = 4 * 2 * n_variants * (2 if n_outside else 1)
    of_pair = 8 * n_blocks
    # b k² + a k ≤ c in the number of all traits
    c = 1e9 * MAX_GB
    root = np.sqrt(of_trait**2 + 4 * of_pair * c)
    return int(2 * c / (of_trait + root)) - n_outside


def _ld_scores_name(path: Path) -> str:
    """Name of the table or folder; of what files begin with, behind that of their folder."""
    path = path.resolve()
    return path.name if path.exists() else f"{path.parent.name}/{path.name}"


def _check_enough(
    traits: Sequence[str], statistics: Statistics, n_large: NDArray[np.int64], source: Path
) -> None:
    """Refuse traits that are left with hardly any variant, of which `n_large` were too large."""
    n_used = np.isfinite(statistics.z).sum(axis=0)  # (K,)
    few = np.flatnonzero(n_used < FEWEST_VARIANTS)
    if len(few):
        fewest = few[np.argmin(n_used[few])]
        n_tested = n_used[fewest] + n_large[fewest]
        raise InputError(
            f"{source}: {', '.join(traits[k] for k in few[:5])}: of {statistics.n_read} variants "
            f"{len(statistics.rows)} have an LD score, {n_tested} of these a statistic of "
            f"{traits[fewest]}, and {n_used[fewest]} are left with χ² not too large; "
            f"{FEWEST_VARIANTS} are needed at least: "
            + (
                "raise --max-chi2, or leave out such traits"
                if n_tested >= FEWEST_VARIANTS
                else "leave out such traits, which hardly any of these variants is tested for"
            )
        )


def _heritability_table(
    traits: Sequence[str], statistics: Statistics, found: kernel.Regression
) -> pd.DataFrame:
    # of an intercept that is given, of which this tells nothing, there is no share either
    inflated = (found.mean > 1) & (found.intercept_se > 0)  # (K,)
    excess = np.where(inflated, found.mean - 1, np.nan)
    median = [np.nanmedian(np.square(z)) for z in statistics.z.T]
    return pd.DataFrame(
        {
            "trait": traits,
            "n": np.broadcast_to(statistics.n.mean(axis=0, dtype=np.float64), len(traits)),
            "n_variants": found.n_variants,
            "h2": found.line.covariance,
            "h2_se": found.covariance_se,
            "intercept": found.line.intercept,
            "intercept_se": found.intercept_se,
            # how much of the inflation is no heritability; without inflation no such share
            "ratio": (found.line.intercept - 1) / excess,
            "ratio_se": found.intercept_se / excess,
            "mean_chi2": found.mean,
            "lambda_gc": np.array(median, dtype=np.float64) / CHI2_MEDIAN,
        }
    )


def _usable(table: pd.DataFrame, path: Path, min_maf: float) -> pd.DataFrame:
    """LD scores of variants that are common enough and have an id of their own."""
    named_once = ~table["variant_id"].duplicated(keep=False) & table["variant_id"].notna()
    if not named_once.all():
        log.warning(
            "%s: %d variants have an id that is there more than once; left out",
            *(path, int((~named_once).sum())),
        )
    common = table["maf"] >= min_maf if "maf" in table else True
    usable = table[named_once & common].reset_index(drop=True)
    if len(usable) < FEWEST_VARIANTS:
        raise InputError(
            f"{path}: of {len(table)} LD scores {int(named_once.sum())} have an id of their own, "
            f"and {len(usable)} of these a frequency of at least --min-maf {min_maf:g}; "
            f"{FEWEST_VARIANTS} are needed at least: give LD scores of all chromosomes, or a lower "
            "--min-maf"
        )
    return usable


def _n_blocks(wanted: int, n_variants: int, traits: Sequence[str]) -> int:
    """Blocks of the jackknife, fewer where they would be too small; told if there are traits."""
    most = n_variants // BLOCK_VARIANTS
    if most < wanted and traits:
        log.warning(
            "%d variants of %s are too few for %d blocks of the jackknife: %d",
            *(n_variants, ", ".join(traits[:3]), wanted, most),
        )
    return min(wanted, most)


def _columns(n: NDArray[np.float32], traits: slice) -> NDArray[np.float32]:
    """Numbers of people of some traits, which may be one for all of them."""
    return n if n.shape[1] == 1 else n[:, traits]


def _given_people(people: Iterable[str]) -> dict[str, float]:
    given = {}
    for text in people:
        name, _, number = text.partition("=")
        try:
            given[name] = float(number)
        except ValueError:
            given[name] = 0.0
        if not 0 < given[name] < np.inf:
            raise InputError(f"--n {text}: give the trait and its people, such as height=253000")
    return given


def _named_files(
    paths: Sequence[Path], traits: Sequence[str], given_n: Mapping[str, Any]
) -> dict[str, Path]:
    """Files of other studies by the names of their traits."""
    files: dict[str, Path] = {}
    for path in paths:
        name = trait_name(path)
        if name in files or name in traits:
            raise InputError(f"{path}: there is a trait {name} already; rename the file")
        files[name] = path
    unknown = [name for name in given_n if name not in files]
    if unknown:
        raise InputError(
            f"--n {unknown[0]}: no trait of --with has this name, which is that of its file up to "
            f"the first dot: {', '.join(files) or 'there is none'}"
        )
    return files
