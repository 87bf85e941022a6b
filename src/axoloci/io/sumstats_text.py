"""Summary statistics of one trait as the text that other programs read."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.files import whole_file
from axoloci.statistics import z_score

# From plink's names and numbers, where 25 and XY are the pseudo-autosomal region of X.
_SSF_CHROMOSOMES = {str(k): k for k in range(1, 25)} | {"X": 23, "XY": 23, "25": 23, "Y": 24}
_SSF_CHROMOSOMES |= {"PAR1": 23, "PAR2": 23}
_SSF_CHROMOSOMES |= dict.fromkeys(("26", "M", "MT"), 25)


class TextFormat(NamedTuple):
    """How a format writes results.

    Attributes
    ----------
    columns
        From rows of `Sumstats.trait` that have a result to the columns of the format.
    separator
        Between fields.
    position
        Names of the columns of chromosome and position, for an index; empty if it has none.
    needs_place
        Whether rows without a position, or of another chromosome than 1 to 22, X, Y and MT, or with
        other alleles than A, C, G and T, are left out.
    """

    columns: Callable[[pd.DataFrame], pd.DataFrame]
    separator: str = "\t"
    position: tuple[str, ...] = ()
    needs_place: bool = False


def _gwas_ssf(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "chromosome": rows["chromosome"].map(_SSF_CHROMOSOMES).astype(int),
            "base_pair_location": rows["base_pair_location"],
            "effect_allele": rows["effect_allele"],
            "other_allele": rows["other_allele"],
            "beta": rows["beta"],
            "standard_error": rows["se"],
            "effect_allele_frequency": rows["effect_allele_frequency"],
            "neg_log_10_p_value": rows["neg_log10_p"],
            "rsid": rows["variant_id"].where(rows["variant_id"].str.fullmatch(r"rs\d+"), "#NA"),
            "n": rows["n"],
        }
    ).sort_values(["chromosome", "base_pair_location"], kind="stable")


def _plink2(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "#CHROM": rows["chromosome"],
            "POS": rows["base_pair_location"],
            "ID": rows["variant_id"],
            "REF": rows["other_allele"],
            "ALT": rows["effect_allele"],
            "A1": rows["effect_allele"],
            "A1_FREQ": rows["effect_allele_frequency"],
            "OBS_CT": rows["n"],
            "BETA": rows["beta"],
            "SE": rows["se"],
            "T_STAT": rows["beta"] / rows["se"],
            "P": p_text(rows["neg_log10_p"].to_numpy()),
            "LOG10_P": rows["neg_log10_p"],
        }
    )


def _regenie(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "CHROM": rows["chromosome"],
            "GENPOS": rows["base_pair_location"],
            "ID": rows["variant_id"],
            "ALLELE0": rows["other_allele"],
            "ALLELE1": rows["effect_allele"],
            "A1FREQ": rows["effect_allele_frequency"],
            "N": rows["n"],
            "TEST": "ADD",
            "BETA": rows["beta"],
            "SE": rows["se"],
            "CHISQ": np.square(rows["beta"] / rows["se"]),
            "LOG10P": rows["neg_log10_p"],
            "EXTRA": "NA",
        }
    )


def _ldsc(rows: pd.DataFrame) -> pd.DataFrame:
    p = rows["neg_log10_p"].to_numpy()
    return pd.DataFrame(
        {
            "SNP": rows["variant_id"],
            "A1": rows["effect_allele"],
            "A2": rows["other_allele"],
            "N": rows["n"],
            "Z": np.sign(rows["beta"]) * z_score(p),
            "P": p_text(np.minimum(p, 300)),  # munging takes 0 for an error
            "FRQ": rows["effect_allele_frequency"],
        }
    )


FORMATS = {
    "gwas-ssf": TextFormat(
        _gwas_ssf, position=("chromosome", "base_pair_location"), needs_place=True
    ),
    "plink2": TextFormat(_plink2, position=("#CHROM", "POS")),
    "regenie": TextFormat(_regenie, separator=" "),
    "ldsc": TextFormat(_ldsc),
}


def p_text(neg_log10_p: NDArray[np.float64]) -> NDArray[np.object_]:
    """p-values as decimal text, however small: 3.2e-1234.

    Parameters
    ----------
    neg_log10_p : (n,)
        Finite.
    """
    exponent = np.floor(-neg_log10_p)
    mantissa = np.power(10.0, -neg_log10_p - exponent)
    words = [f"{m:.6g}e{int(e):+03d}" for m, e in zip(mantissa, exponent, strict=True)]
    return np.array(words, dtype=object)


def write_sumstats_text(
    path: str | os.PathLike[str],
    results: pd.DataFrame,
    text_format: str = "gwas-ssf",
    *,
    tabix: bool = False,
) -> dict[str, int]:
    """Write results of one trait as text, compressed by gzip where the name ends in .gz.

    Rows without a result are left out, and those of a perfect fit, whose p is 0; of GWAS-SSF also
    those that it cannot hold: without a position, of another chromosome than 1 to 22, X, Y and MT,
    of other alleles than A, C, G and T.

    Parameters
    ----------
    path
        Text file.
    results
        From `Sumstats.trait`.
    text_format
        One of `FORMATS`.
    tabix
        Compress in blocks (bgzip) and write an index (.tbi) beside it.

    Returns
    -------
    dict
        Rows written and rows left out, by reason.

    Raises
    ------
    InputError
        An index is asked for of a name that does not end in .gz, or of a format without positions.

    References
    ----------
    GWAS-SSF: Hayhurst et al. 2022, doi:10.1101/2022.07.15.500230. plink2: Chang et al. 2015,
    doi:10.1186/s13742-015-0047-8. REGENIE: Mbatchou et al. 2021, doi:10.1038/s41588-021-00870-7.
    LDSC: Bulik-Sullivan et al. 2015, doi:10.1038/ng.3211. Tabix: Li 2011,
    doi:10.1093/bioinformatics/btq671.
    """
    path, form = Path(path), FORMATS[text_format]
    if tabix and not form.position:
        fit = " or ".join(name for name, of in FORMATS.items() if of.position)
        raise InputError(f"{path}: {text_format} has no index; with one, the format is {fit}")
    if tabix and path.suffix != ".gz":
        raise InputError(f"{path}: with an index, the name of the text ends in .gz")
    # the first reason that holds counts
    reasons = {
        "without_result": results["neg_log10_p"].isna(),
        "perfect_fit": np.isinf(results["neg_log10_p"]),  # of which no format has a p
    }
    if form.needs_place:
        reasons |= {
            "without_position": results["base_pair_location"] <= 0,
            "other_chromosome": results["chromosome"].map(_SSF_CHROMOSOMES).isna(),
            "alleles_not_acgt": ~(
                results["effect_allele"].str.fullmatch("[ACGT]+")
                & results["other_allele"].str.fullmatch("[ACGT]+")
            ),
        }
    usable = pd.Series(True, index=results.index)
    counts = {}
    for reason, bad in reasons.items():
        counts[reason] = int((usable & bad).sum())
        usable &= ~bad
    rows = results[usable]
    if form.position:  # by position within each chromosome, these in the order of the genotypes
        order = pd.factorize(rows["chromosome"])[0]
        rows = rows.iloc[np.lexsort((rows["base_pair_location"], order))]
    table = form.columns(rows)
    text = table.to_csv(sep=form.separator, index=False, float_format="%.7g", lineterminator="\n")
    with whole_file(path) as temporary:
        if tabix:
            _write_indexed(temporary, path, text, table, form)
        elif path.suffix == ".gz":
            temporary.write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))
        else:
            temporary.write_text(text, encoding="utf-8")
    return {"written": len(table), **counts}


def _write_indexed(
    temporary: Path, path: Path, text: str, table: pd.DataFrame, form: TextFormat
) -> None:
    """The text in blocks, and its index, which takes its name at once: it is of no use alone."""
    import pysam

    place = [list(table.columns).index(name) for name in form.position]
    plain = temporary.with_name(f"{temporary.name}.text")
    try:
        plain.write_text(text, encoding="utf-8")
        pysam.tabix_compress(str(plain), str(temporary), force=True)
        pysam.tabix_index(
            *(str(temporary), True),
            seq_col=place[0],
            start_col=place[1],
            end_col=place[1],
            line_skip=1,
            keep_original=True,
        )
        os.replace(f"{temporary}.tbi", f"{path}.tbi")
    finally:
        plain.unlink(missing_ok=True)
