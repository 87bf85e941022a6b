"""`axoloci-genetics replicate`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import columns_help
from axoloci.errors import InputError
from axoloci.io.files import write_json
from axoloci.io.genotype_files import canonical_chromosome
from axoloci.io.loci import read_loci, read_loci_settings
from axoloci.io.outside_sumstats import FORMATS, read_outside
from axoloci.io.sumstats import Sumstats, read_sumstats
from axoloci.io.tables import write_tsv
from axoloci.io.variants import VARIANT_COLUMNS, VARIANT_MEANING
from axoloci.joint_test import joint_test, partial_correlation, whiten_traits
from axoloci.statistics import neg_log10_f_tail
from axoloci.tasks.genetics import kernel
from axoloci.tasks.genetics import replication as replication_kernel
from axoloci.tasks.genetics.commands.joint import df_of_everybody
from axoloci.tasks.genetics.commands.selection import (
    columns_of,
    named_traits,
    traits_option,
    warn_of_shared_people,
)
from axoloci.tasks.genetics.harmonise import (
    CLEAR_FREQUENCY,
    COMPLEMENT,
    Match,
    harmonise,
    is_of_other_allele,
)

log = logging.getLogger("axoloci")

_SITE = [*VARIANT_COLUMNS, "effect_allele_frequency"]
SAME_P = 0.01
"""How far −log10 p of a lead may be from that of the discovery, absolutely and as a share of it."""
NAMED = 10
"""Most leads that a warning names."""
TEXTS = "the texts"
NOT_THERE = "not there"
OTHER_ALLELES = "other alleles"
STRAND_UNCLEAR = "strand unclear"
PALINDROMIC = "palindromic"
NOT_TESTED = "not tested"
REPLICATION_COLUMNS = {
    "locus": "Number of the locus of --loci.",
    **VARIANT_MEANING,
    "neg_log10_p_discovery": "−log10 p of the joint test, as in --loci.",
    "neg_log10_p_discovery_traits": "−log10 p in the discovery of the traits that are tested here, "
    "two-sided: of one trait its own, of several their joint test's. n/a where these have none.",
    "effect_allele_frequency": "0 to 1, in the replication.",
    "n": "People of the replication with the genotype (and the trait that fewest have).",
    "r": "Partial correlation of the lead with the discovery's combination of traits; above 0 if "
    "the direction is the discovery's.",
    "neg_log10_p": "−log10 of the one-sided p of r.",
    "replicated": "yes, no; n/a where not tested.",
    "why_absent": f"Why it was not tested: '{NOT_THERE}' (no such variant); '{OTHER_ALLELES}' "
    f"(alleles do not match); '{STRAND_UNCLEAR}' (they match on the other strand, which is not "
    f"tried at a site of several alleles); '{PALINDROMIC}' (A/T or C/G, and the frequencies do not "
    f"tell the strand); '{NOT_TESTED}' (there, without a result of the traits). n/a where it was.",
}


@click.command(epilog=columns_help(out=REPLICATION_COLUMNS))
@click.option(
    "--loci",
    "loci_path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of the discovery's loci; the lead variant of each is tested.",
)
@click.option(
    "--discovery",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help=f"Folder of the discovery's summary statistics, or text of one trait "
    f"({', '.join(FORMATS)}).",
)
@click.option(
    "--replication",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Summary statistics of the same traits in other people, a folder or a text.",
)
@traits_option(
    "of which the loci are those; without it those in the .json beside --loci, and without that "
    "all of the discovery. Beside a text it is one, that of the text."
)
@click.option(
    "--p-threshold",
    type=click.FloatRange(0, 1, min_open=True),
    help="Largest one-sided p of a lead that is replicated.  [default: 0.05 divided by the number "
    "of lead variants that can be tested]",
)
@click.option(
    "--palindromic-frequency",
    type=click.FloatRange(0, 0.5),
    default=CLEAR_FREQUENCY,
    help="Largest frequency of the rarer allele at which leads of the alleles A/T and C/G are "
    "tested; nearer to 0.5 nothing tells the strand.",
)
@click.option(
    "--replication-n",
    type=click.IntRange(min=3),
    help="People in the replication, where its text does not tell n.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="replication.tsv",
    help="Table, one row a locus; a summary goes beside it as .json.",
)
def replicate(
    loci_path: Path,
    discovery: Path,
    replication: Path,
    traits: str | None,
    p_threshold: float | None,
    palindromic_frequency: float,
    replication_n: int | None,
    out: Path,
) -> None:
    """Test each lead variant in other people, by the combination of traits that it changed.

    The test is one-sided: an effect in the other direction does not replicate. Variants are matched
    by chromosome, position and alleles, on either strand (not at sites of several alleles); where
    effect and other allele are swapped, so is the sign. Texts hold one trait, which is tested by
    itself.

    The p of the leads are computed again from the folder of the discovery: where those of the table
    are others, it is of another run or of other traits, and you are warned. Of the signals of
    axoloci-gwas condition, whose p are given those before them, only the strongest lead of each
    chromosome is compared; and nothing is where other traits are tested than the table's.

    A variant that leads two loci has a row for each, and counts once.
    """
    leads = _read_leads(loci_path)
    first, second = _open(discovery), _open(replication)
    if isinstance(first, Sumstats) and isinstance(second, Sumstats):
        warn_of_shared_people(first, second, "they replicate nothing")
    of_loci = read_loci_settings(loci_path)["traits"]
    names, source = _shared_traits(first, second, traits, of_loci, loci_path)
    as_in_table = _say_traits(names, source, of_loci, loci_path, isinstance(second, _Text))
    found_first = _find(first, names, leads)
    if len(leads) and found_first.absent.any():
        raise InputError(
            f"{discovery}: has no variant {leads['variant_id'][np.argmax(found_first.absent)]} of "
            f"{loci_path}; give the summary statistics in which these loci were found"
        )
    p_first = _discovery_p(first, names, leads["chromosome"], found_first)
    if as_in_table and isinstance(first, Sumstats):
        _warn_of_another_run(first, names, leads, p_first, loci_path)
    told = leads.assign(effect_allele_frequency=found_first.frequency)
    if isinstance(second, _Text):
        second = second.with_n(replication_n)
    found = _find(second, names, told, palindromic_frequency)
    r = _combined(first, second, names, leads["chromosome"], found_first.r, found.r)
    _warn_of_other_allele(leads, found_first.frequency, found.frequency, (discovery, replication))
    # r is the same whichever allele counts, so a variant of two rows is tested once
    once, own = _distinct(leads, by_id=False)[:2]
    result = replication_kernel.replicate(r[once], found.df[once], p_threshold)
    tested = np.isfinite(result.neg_log10_p)  # (n_variants,)
    # that there is no r of a variant that was found is as if it had not been tested
    absent = np.where(tested, "n/a", np.where(found.why[once], found.why[once], NOT_TESTED))
    replicated = np.where(tested, np.where(result.replicated, "yes", "no"), "n/a")
    table = leads[["locus", *VARIANT_COLUMNS]].assign(
        neg_log10_p_discovery=leads["neg_log10_p"],
        neg_log10_p_discovery_traits=p_first,
        effect_allele_frequency=found.frequency,
        n=found.n,
        r=result.r[own],
        neg_log10_p=result.neg_log10_p[own],
        replicated=replicated[own],
        why_absent=absent[own],
    )
    write_tsv(out, table[list(REPLICATION_COLUMNS)])
    why = pd.Series(absent[~tested]).value_counts().to_dict()
    if why:
        examples = leads["variant_id"].iloc[once[~tested][:3]]
        log.warning(
            "%s: %d of %d lead variants cannot be tested, such as %s; %s",
            *(replication, int((~tested).sum()), len(once), ", ".join(map(str, examples))),
            ", ".join(f"{reason}: {n:,}" for reason, n in why.items()),
        )
    n_tested, n_replicated = int(tested.sum()), int(result.replicated.sum())
    write_json(
        out.with_suffix(".json"),
        {
            "axoloci": __version__,
            "traits": [name for name in names if name],
            "traits_from": source,
            "n_leads": len(once),
            "n_tested": n_tested,
            "n_replicated": n_replicated,
            "p_threshold": result.p_threshold,
            "replication_rate": n_replicated / n_tested if n_tested else None,
            "replication_rate_ci": replication_kernel.rate_interval(n_replicated, n_tested),
            "n_same_direction": int((result.r > 0).sum()),
            "p_sign_test": replication_kernel.sign_test(result.r),
            "n_by_why_absent": why,
            "n_samples": found.n_samples,
        },
    )
    log.info("%d of %d lead variants replicated", n_replicated, len(once))


def _read_leads(path: Path) -> pd.DataFrame:
    """Lead variants; locus and −log10 p of the discovery where the table tells them."""
    leads = read_loci(path, VARIANT_COLUMNS)
    if "locus" not in leads:
        leads["locus"] = np.arange(1, len(leads) + 1)
    if "neg_log10_p" not in leads:
        leads["neg_log10_p"] = np.nan
    return leads.assign(effect_allele_frequency=np.nan)


# --- a study, store or text ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Text:
    """One trait of another program."""

    path: Path
    table: pd.DataFrame

    def with_n(self, n: int | None) -> _Text:
        """The same with n where the text does not tell it."""
        unknown = int(self.table["n"].isna().sum())
        if unknown and n is None:
            raise InputError(
                f"{self.path}: n is missing for {unknown:,} of {len(self.table):,} variants; give "
                "it by --replication-n"
            )
        return _Text(self.path, self.table.fillna({"n": n}) if unknown else self.table)


_Study = Sumstats | _Text


@dataclass(frozen=True)
class _Found:
    """What a study has on the leads, for their effect alleles; NaN where it lacks one.

    Attributes
    ----------
    r
        (n_leads, n_traits) partial correlations.
    df, n, frequency
        (n_leads,) smallest residual degrees of freedom of a trait, the people of these, and the
        frequency of the effect allele.
    neg_log10_p
        (n_leads,) of a text, as it tells it.
    n_samples
        People in the study.
    why
        (n_leads,) why a lead is not matched; empty where it is.
    """

    r: NDArray[np.float64]
    df: NDArray[np.float64]
    n: NDArray[np.float64]
    frequency: NDArray[np.float64]
    neg_log10_p: NDArray[np.float64]
    n_samples: int
    why: NDArray[np.str_]

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Leads without any trait's result."""
        return np.asarray(np.isnan(self.r).all(axis=1))


def _open(path: Path) -> _Study:
    return read_sumstats(path) if path.is_dir() else _Text(path, read_outside(path))


def _shared_traits(
    first: _Study, second: _Study, traits: str | None, of_loci: Sequence[str], loci_path: Path
) -> tuple[list[str], str]:
    """Names of the traits in the stores, and what told them; of two texts one without a name."""
    stores = [study for study in (first, second) if isinstance(study, Sumstats)]
    if not stores:
        if traits is not None:
            raise InputError("--traits names traits of folders; these studies are texts of one")
        return [""], TEXTS
    if traits is not None:
        names, source = named_traits(stores[0], traits), "--traits"
    elif (len(stores) == 2 and of_loci) or (len(of_loci) == 1 and of_loci[0] in stores[0].traits):
        names, source = list(of_loci), loci_path.with_suffix(".json").name
        lacking = [name for name in names if name not in stores[0].traits]
        if lacking:
            raise InputError(
                f"{stores[0].path}: no trait {lacking[0]}, which is of these loci by {source} "
                f"beside {loci_path}; give the summary statistics in which they were found, or "
                "their traits by --traits"
            )
    else:
        names, source = stores[0].traits, stores[0].path.name
    if len(stores) == 1 and len(names) != 1:
        raise InputError(
            f"{stores[0].path}: holds {len(names)} traits, and the text of the other study one; "
            f"name it by --traits, such as {names[0]}"
        )
    return names, source


def _say_traits(
    names: Sequence[str], source: str, of_loci: Sequence[str], loci_path: Path, of_text: bool
) -> bool:
    """Log by which traits the leads are tested; whether the table's p may be those of them.

    Beside a text only one trait can be tested, whatever the loci are of.
    """
    of_table = set(names) == set(of_loci) if of_loci else not of_text
    by = f"{names[0] or 'the one trait'} alone" if len(names) == 1 else f"{len(names)} traits"
    but = f", not by the {len(of_loci)} of {loci_path.with_suffix('.json').name}"
    log.info("tested by %s (%s)%s", by, source, "" if of_table or not of_loci else but)
    return of_table


def _find(
    study: _Study, names: list[str], leads: pd.DataFrame, clear_frequency: float | None = None
) -> _Found:
    """Look up the leads; without a `clear_frequency` they are of the study's own strand."""
    ids = leads["variant_id"] if clear_frequency is not None else leads["variant_id"].iloc[:0]
    if isinstance(study, Sumstats):
        near, r = _near_in_store(study, columns_of(study, names), leads, ids)
        n_samples = study.n_samples
    else:
        near, r = _near_in_text(study, leads, ids)
        n_samples = int(np.nan_to_num(study.table["n"].max()))
    # a variant of two loci is looked up once: a second row looks like a site of several alleles
    rows, own, turn = _distinct(leads, by_id=bool(near["base_pair_location"].isna().all()))
    distinct = leads.iloc[rows]
    found = harmonise(distinct, near, clear_frequency, ("the loci", str(study.path)))
    i, j = found.first, found.second
    of_leads = np.full((len(distinct), r.shape[1]), np.nan)
    of_leads[i] = found.sign[:, None] * r[j]
    told = near.reindex(columns=["df", "n", "effect_allele_frequency", "neg_log10_p"])
    numbers = np.full((4, len(distinct)), np.nan)
    numbers[:, i] = told.to_numpy(np.float64)[j].T
    numbers[2, i] = np.where(found.sign > 0, numbers[2, i], 1 - numbers[2, i])
    why = np.full(len(distinct), "", dtype=object)
    for row in np.setdiff1d(np.arange(len(distinct)), i):
        why[row] = _why_unmatched(distinct.iloc[[row]], near, clear_frequency)
    df, n, frequency, p = numbers[:, own]  # (n_leads,) each
    frequency = np.where(turn > 0, frequency, 1 - frequency)
    r = turn[:, None] * of_leads[own]
    return _Found(r, df, n, frequency, p, n_samples, why[own].astype(str))


def _distinct(
    leads: pd.DataFrame, *, by_id: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Leads without those that are there already, whichever allele is the effect allele.

    Returns
    -------
    (rows, own, turn)
        Their rows, (n_variants,); of each lead its place among these, (n_leads,), and −1 where
        that one's alleles are in the other order, else 1, (n_leads,).
    """
    alleles = leads[["effect_allele", "other_allele"]].to_numpy(dtype=str)  # (n_leads, 2)
    names = (
        [leads["variant_id"]]
        if by_id
        else [leads["chromosome"].map(canonical_chromosome), leads["base_pair_location"]]
    )
    of_variant = [*names, *np.sort(alleles, axis=1).T]
    number = leads.groupby(of_variant, sort=False).ngroup()  # as they appear
    own = np.asarray(number, dtype=np.int64)
    rows = np.unique(own, return_index=True)[1]
    turn = np.where(alleles[:, 0] == alleles[rows[own], 0], 1.0, -1.0)
    return rows, own, turn


def _why_unmatched(lead: pd.DataFrame, near: pd.DataFrame, clear_frequency: float | None) -> str:
    """What keeps a lead, of one row, from being any variant of a study."""
    match = harmonise(lead, near, clear_frequency).match
    if (match == Match.AMBIGUOUS).any():
        return PALINDROMIC
    if (match == Match.ABSENT).all():
        return NOT_THERE
    alleles = ["effect_allele", "other_allele"]
    other_strand = lead.assign(**{name: lead[name].map(COMPLEMENT) for name in alleles})
    of_letters = harmonise(other_strand, near, None).match
    return STRAND_UNCLEAR if (of_letters < Match.AMBIGUOUS).any() else OTHER_ALLELES


def _discovery_p(
    study: _Study, names: list[str], chromosome: pd.Series, found: _Found
) -> NDArray[np.float64]:
    """Two-sided −log10 p, (n_leads,), of the traits in the discovery: jointly if they are several.

    NaN of traits that have no joint test: some people lack them, they are linearly dependent, or
    too many for the people.
    """
    if not isinstance(study, Sumstats):
        return found.neg_log10_p
    p = np.full(len(chromosome), np.nan)
    if len(names) > 1 and set(names) & set(study.info.get("traits_with_missing", [])):
        return p
    df = np.repeat(found.df[:, None], len(names), axis=1)  # (n_leads, n_traits)
    t = found.r * np.sqrt(df / np.maximum(1 - found.r * found.r, 1e-300))
    if len(names) == 1:
        return neg_log10_f_tail(np.square(t[:, 0]) / df[:, 0], 1, df[:, 0])
    of_leads = chromosome.to_numpy(dtype=str)
    test = kernel.mixed_joint_test if study.of_mixed_model else joint_test
    for name in np.unique(of_leads):
        rows = of_leads == name
        everybody = df_of_everybody(study, _own_name(study, name))
        try:
            whitening = whiten_traits(_law(study, names, name)[0], names)
            p[rows] = test(
                t[rows], np.ones_like(t[rows]), df[rows], everybody, whitening
            ).neg_log10_p
        except InputError:  # that the replication itself does not need
            return np.full(len(chromosome), np.nan)
    return p


def _warn_of_another_run(
    store: Sumstats,
    names: list[str],
    leads: pd.DataFrame,
    again: NDArray[np.float64],
    loci_path: Path,
) -> None:
    """Warn where the p of leads in the discovery, `again`, are not those of the table of loci.

    Not looked at are leads without a p in either, and those that may be given others
    (`_given_others`).
    """
    told = leads["neg_log10_p"].to_numpy(dtype=np.float64)
    other = np.abs(again - told) > SAME_P + SAME_P * np.abs(told)  # False of NaN
    other &= ~_given_others(leads)
    if other.any():
        row = int(np.argmax(other))
        log.warning(
            "%s: −log10 p of %d of %d leads are not those of the joint test of %s with %d traits: "
            "%s has %.4g in the table, and %.4g here; the table is of another run or of other "
            "traits: give the summary statistics that it was found in, and its traits by --traits",
            *(loci_path, int(other.sum()), len(leads), store.path, len(names)),
            *(leads["variant_id"].iloc[row], told[row], again[row]),
        )


def _warn_of_other_allele(
    leads: pd.DataFrame,
    f_first: NDArray[np.float64],
    f_second: NDArray[np.float64],
    studies: tuple[Path, Path],
) -> None:
    """Warn of leads, not palindromic, whose frequency in one study is that of the other allele."""
    palindromic = leads["effect_allele"].map(COMPLEMENT) == leads["other_allele"]
    turned = is_of_other_allele(f_first, f_second) & ~palindromic.to_numpy()
    names = list(dict.fromkeys(leads["variant_id"][turned].map(str)))
    if names:
        log.warning(
            "%s: the frequencies of %d leads fit the other allele of %s: %s%s; where their "
            "effects are of the other allele too, r has the wrong sign: exchange effect and other "
            "allele in the study that has them wrong",
            *(studies[1], len(names), studies[0], ", ".join(names[:NAMED])),
            ", …" if len(names) > NAMED else "",
        )


def _given_others(leads: pd.DataFrame) -> NDArray[np.bool_]:
    """Leads, (n_leads,), whose p may be given other leads: of loci none.

    Of a table of signals a later round is, and so may be the first of a locus by a stronger one
    nearby; the strongest first one of a chromosome is not.
    """
    if "round" not in leads:
        return np.zeros(len(leads), dtype=bool)
    first = leads["neg_log10_p"].where(pd.to_numeric(leads["round"], errors="coerce") == 0)
    strongest = first.groupby(leads["chromosome"]).transform("max")
    return np.asarray(first != strongest)  # True of NaN


def _is_near(variants: pd.DataFrame, leads: pd.DataFrame, ids: pd.Series) -> NDArray[np.bool_]:
    """Variants at the position of a lead, or with one of the ids."""
    near = variants["base_pair_location"].isin(leads["base_pair_location"])
    return np.asarray(near | variants["variant_id"].isin(ids))


def _near_in_store(
    store: Sumstats, columns: list[int], leads: pd.DataFrame, ids: pd.Series
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Variants that may be leads, with the smallest df and its n, and their r, (n, n_traits)."""
    wanted = {canonical_chromosome(name) for name in leads["chromosome"]}
    there = dict.fromkeys(part["chromosome"] for part in store.info["parts"])
    frames, correlations = [], [np.empty((0, len(columns)))]
    for chromosome in (name for name in there if canonical_chromosome(name) in wanted):
        for block in store.blocks(chromosome):
            near = np.flatnonzero(_is_near(block.variants, leads, ids))
            if not len(near):
                continue
            beta, se, df = (values[near][:, columns] for values in (block.beta, block.se, block.df))
            variants, smallest = block.variants.iloc[near], df.min(axis=1)
            n = smallest + store.n_covariates_of(variants["chromosome"]) + 1
            frames.append(variants.assign(df=smallest, n=n))
            correlations.append(partial_correlation(beta, se, df))
    near_all = pd.concat(frames, ignore_index=True) if frames else _no_variants()
    return near_all, np.concatenate(correlations)


def _near_in_text(
    text: _Text, leads: pd.DataFrame, ids: pd.Series
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """As `_near_in_store`, of one trait; r is z / √(z² + df) with df = n − 2."""
    by_id = text.table["base_pair_location"].isna().all()
    table = text.table[_is_near(text.table, leads, leads["variant_id"] if by_id else ids)]
    z, n = table["z"].to_numpy(), table["n"].to_numpy()
    df = np.where(np.isnan(n), 1.0, n - 2)  # of the discovery only the sign matters
    near = table.assign(df=df).reset_index(drop=True)
    return near, (z / np.sqrt(np.square(z) + df))[:, None]


def _no_variants() -> pd.DataFrame:
    return pd.DataFrame(columns=[*_SITE, "df", "n"])


def _combined(
    first: _Study,
    second: _Study,
    names: list[str],
    chromosome: pd.Series,
    r_first: NDArray[np.float64],
    r_second: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Correlation (n,) of each lead with the discovery's combination of traits."""
    of_mixed_model = isinstance(second, Sumstats) and second.of_mixed_model
    if of_mixed_model:  # t/√df: only these have the correlation of its traits
        r_second = r_second / np.sqrt(np.maximum(1 - np.square(r_second), 1e-300))
    r = np.full(len(chromosome), np.nan)
    known = ~np.isnan(r_second).all(axis=1)
    of_leads = chromosome.to_numpy(dtype=str)
    for name in np.unique(of_leads[known]):
        rows = known & (of_leads == name)
        r[rows] = replication_kernel.combined_correlation(
            r_first[rows],
            *_law(first, names, name),
            r_second[rows],
            *_law(second, names, name),
        )
    return r / np.sqrt(1 + np.square(r)) if of_mixed_model else r


def _law(
    study: _Study, names: list[str], chromosome: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation and standard deviations of the traits; of a text 1."""
    if not isinstance(study, Sumstats):
        return np.ones((1, 1)), np.ones(1)
    columns = columns_of(study, names)
    correlation = study.correlation_of(_own_name(study, chromosome))[np.ix_(columns, columns)]
    return correlation, study.trait_residual_sd[columns]


def _own_name(store: Sumstats, chromosome: str) -> str:
    """What a store calls a chromosome: chr7 and 7 are one."""
    own = {
        canonical_chromosome(part["chromosome"]): part["chromosome"] for part in store.info["parts"]
    }
    return str(own.get(canonical_chromosome(chromosome), chromosome))
