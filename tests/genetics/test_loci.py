"""Clumps, loci and genes: against plink 1.9 on real genotypes, and planted truth."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bed_reader import open_bed
from numpy.typing import NDArray
from plink_files import write_plink

from axoloci.errors import InputError
from axoloci.joint_test import neg_log10_p
from axoloci.tasks.genetics import genes, loci

Clumps = dict[str, set[str]]


def test_haplotype_r2__equals_the_phased_frequencies_when_no_phase_is_hidden() -> None:
    haplotypes = np.random.default_rng(8).integers(0, 2, (2, 200))  # variant, haplotype
    haplotypes[1, :120] = haplotypes[0, :120]
    genotypes = (2 * haplotypes).astype(np.int8)  # all homozygous: haplotypes are seen
    r = np.corrcoef(haplotypes)[0, 1]
    assert loci.haplotype_r2(genotypes[0], genotypes)[1] == pytest.approx(r * r, abs=1e-12)
    assert loci.haplotype_r2(genotypes[0], genotypes)[0] == pytest.approx(1, abs=1e-9)


def test_haplotype_r2__is_the_maximum_of_the_likelihood() -> None:
    rng = np.random.default_rng(9)
    for _ in range(30):
        counts = rng.integers(0, 12, (3, 3))
        pairs = np.repeat(np.array([(i, j) for i in range(3) for j in range(3)]), counts.ravel(), 0)
        a, b = pairs.T.astype(np.int8)
        n = 2 * len(a)
        p, q = (2 - a).sum() / n, (2 - b).sum() / n
        x = np.linspace(max(0, p + q - 1), min(p, q), 20_001)[1:-1]  # frequency of 0-0
        table = {(0, 0): x, (0, 1): p - x, (1, 0): q - x, (1, 1): 1 - p - q + x}
        likelihood = np.zeros_like(x)
        for (i, j), count in np.ndenumerate(counts):
            first, second = ((0, 0), (0, 1), (1, 1))[i], ((0, 0), (0, 1), (1, 1))[j]
            of_phases = table[first[0], second[0]] * table[first[1], second[1]]
            if i == j == 1:
                of_phases = of_phases + table[0, 1] * table[1, 0]
            likelihood += count * np.log(of_phases)
        truth = (x[likelihood.argmax()] - p * q) ** 2 / (p * (1 - p) * q * (1 - q))
        assert loci.haplotype_r2(a, b[None])[0] == pytest.approx(truth, abs=2e-3)


def test_haplotype_r2__is_nan_where_a_variant_does_not_vary() -> None:
    index = np.array([0, 1, 2, 1], dtype=np.int8)
    others = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [-9, -9, -9, -9]], dtype=np.int8)
    assert np.isnan(loci.haplotype_r2(index, others)).tolist() == [False, True, True]


def of_plink(plink: str, prefix: Path, report: Path, settings: tuple[float, ...]) -> Clumps:
    """Members of each clump by its index variant, smallest p first, by `plink1.9 --clump`."""
    names = ("p1", "p2", "r2", "kb")
    options = [f"--clump-{name} {value!r}" for name, value in zip(names, settings, strict=True)]
    out = report.with_suffix(".out")
    command = f"{plink} --bfile {prefix} --clump {report} {' '.join(options)} --out {out}"
    subprocess.run(command.split(), check=True, capture_output=True)
    table = pd.read_csv(f"{out}.clumped", sep=r"\s+")
    return {
        row.SNP: {entry.rsplit("(", 1)[0] for entry in row.SP2.split(",")} - {"NONE"}
        for row in table.itertuples()
    }


def of_ours(
    prefix: Path,
    report: Path,
    settings: tuple[float, ...],
    sex: NDArray[np.int8] | None = None,
) -> Clumps:
    """The same by `clump_variants`."""
    bim = pd.read_csv(f"{prefix}.bim", sep="\t", header=None)
    p = pd.read_csv(report, sep="\t")["P"].to_numpy()
    rows = np.flatnonzero(p <= max(settings[:2]))
    names, chromosome, position = (bim[k].to_numpy()[rows] for k in (1, 0, 3))
    with open_bed(f"{prefix}.bed") as bed:
        genotypes = bed.read(np.s_[:, rows], dtype="int8").T.copy()  # (M, N)
    genotypes[genotypes == -127] = -9
    clumps = loci.clump_variants(
        *(-np.log10(p[rows]), chromosome, position, lambda some: genotypes[some], *settings),
        sex=sex,
    )
    return {names[clump.index]: set(names[list(clump.members)]) for clump in clumps}


@pytest.fixture(scope="module")
def real(
    tmp_path_factory: pytest.TempPathFactory, data_dir: Path, tool: Callable[[str], str]
) -> Path:
    """Real genotypes as bed, each with p-values of a trait of four strong variants.

    p is rounded to two digits: so are ties made, and p at the very limits.
    """
    folder = tmp_path_factory.mktemp("real")
    source = data_dir / "genotypes"
    vcfs = {
        "geuvadis": [source / "geuvadis-chr22/genotypes.vcf.gz", "dosage=DS"],  # 3.4% missing
        "thousand": [source / "1kg-chr20-vcf/reference.vcf.gz"],
        "ceph": [source / "1kg-chr20-vcf/unphased.vcf.gz"],
    }
    for seed, (name, vcf) in enumerate(vcfs.items()):
        out = folder / name
        command = [tool("plink2"), "--vcf", *vcf, "--set-all-var-ids", "@:#:$r:$a",
                   "--new-id-max-allele-len", "400", "--rm-dup", "force-first",
                   "--make-bed", "--threads", "1", "--out", out]  # fmt: skip
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        with open_bed(out.with_suffix(".bed")) as bed:
            genotypes = bed.read(dtype="float32").T  # (M, N)
        write_report(folder / f"{name}.assoc", out, genotypes, np.random.default_rng(seed))
    return folder


def write_report(
    path: Path, prefix: Path, genotypes: NDArray[np.float32], rng: np.random.Generator
) -> None:
    """Table of p-values of a trait that four common variants of `genotypes` (M, N) make."""
    centred = np.nan_to_num(genotypes - np.nanmean(genotypes, axis=1, keepdims=True))
    sd = centred.std(axis=1)  # (M,)
    causal = rng.choice(np.flatnonzero(sd > 0.3), 4, replace=False)
    n = centred.shape[1]
    y = (centred[causal] / sd[causal, None]).sum(axis=0) + 0.8 * rng.standard_normal(n)
    y -= y.mean()
    r2 = np.square(centred @ y / n / y.std() / np.where(sd > 0, sd, np.inf))  # (M,)
    p = 10 ** -neg_log10_p(r2, 1, n - 2)
    names = pd.read_csv(f"{prefix}.bim", sep="\t", header=None)[1]
    table = pd.DataFrame({"SNP": names, "P": p})
    table.to_csv(path, sep="\t", index=False, float_format="%.2g")


@pytest.mark.parametrize("name", ["geuvadis", "thousand", "ceph"])
@pytest.mark.parametrize(
    "settings",  # p of index variants, p of the others, r², kb
    [
        (5e-8, 0.01, 0.1, 250.0),
        (1e-4, 0.01, 0.5, 250.0),
        (1e-3, 0.05, 0.2, 50.0),
        (0.01, 0.01, 0.8, 100.0),
        (1e-3, 1e-3, 0.01, 1000.0),
        (1e-4, 0.05, 0.0, 10.0),
        (1e-3, 0.05, 0.3, 0.5),
    ],
)
def test_clump_variants__equals_plink_clump(
    real: Path, tool: Callable[[str], str], name: str, settings: tuple[float, ...]
) -> None:
    prefix, report = real / name, real / f"{name}.assoc"
    truth = of_plink(tool("plink1.9"), prefix, report, settings)
    found = of_ours(prefix, report, settings)
    assert len(truth) >= 3
    assert sum(map(len, truth.values())) >= 100
    assert found == truth
    assert list(found) == list(truth)


@pytest.mark.parametrize("window_kb", [0.7, 1.0, 250.0])
def test_clump_variants__excludes_the_limits_that_plink_excludes(
    tmp_path: Path, tool: Callable[[str], str], window_kb: float
) -> None:
    """At the window's very end; with an r² of 1/4, 1/16 and 1, of haplotypes that are all seen."""
    haplotypes = [[3, 1, 1, 3], [5, 3, 3, 5], [1, 0, 0, 1]]
    edge = round(1000 * window_kb)
    for table, limit in zip(haplotypes, (0.25, 0.0625, 0.9), strict=True):
        counts = 40 * np.array(table)
        index = np.repeat([0, 0, 2, 2], counts).astype(np.int8)
        other = np.repeat([0, 2, 0, 2], counts).astype(np.int8)
        position = [2_000_000 + shift for shift in (-edge, 1 - edge, 0, edge - 1, edge)]
        prefix, report = tmp_path / "g", tmp_path / "g.assoc"
        write_plink(prefix, np.stack([other, other, index, other, other]), position=position)
        names = [f"rs{k}" for k in range(5)]
        table_of_p = pd.DataFrame({"SNP": names, "P": [1e-3, 1e-3, 1e-9, 1e-3, 1e-3]})
        table_of_p.to_csv(report, sep="\t", index=False)
        for min_r2 in (limit, 0.9 * limit):
            settings = (1e-4, 0.01, min_r2, window_kb)
            found = of_ours(prefix, report, settings)
            assert found == of_plink(tool("plink1.9"), prefix, report, settings)
            taken = {"rs1", "rs3"} if min_r2 < limit or limit == 0.9 else set()
            assert found == {"rs2": taken}


@pytest.mark.parametrize("chromosome", ["X", "Y", "XY", "MT"])
def test_haplotype_r2__of_sex_chromosomes_is_that_of_plink(
    tmp_path: Path, tool: Callable[[str], str], chromosome: str
) -> None:
    """Men, women and people of unknown sex; some men are heterozygous, some calls missing."""
    rng = np.random.default_rng(4)
    haplotypes = rng.random((2, 6, 300)) < 0.4  # (2, M, N)
    for row in range(1, 6):
        copied = rng.random((2, 300)) < 0.6
        haplotypes[:, row] = np.where(copied, haplotypes[:, row - 1], haplotypes[:, row])
    sex = rng.integers(0, 3, 300).astype(np.int8)
    genotypes = haplotypes.sum(axis=0).astype(np.int8)
    genotypes[:, sex == 1] = 2 * haplotypes[0][:, sex == 1]
    genotypes[(rng.random((6, 300)) < 0.1) & (sex == 1)] = 1
    genotypes[rng.random((6, 300)) < 0.05] = -9
    prefix, report = tmp_path / "g", tmp_path / "g.assoc"
    write_plink(prefix, genotypes, [chromosome] * 6, sex=sex.tolist())
    command = f"{tool('plink1.9')} --bfile {prefix} --r2 dprime --ld-window-r2 0 --ld-snp rs0"
    subprocess.run(f"{command} --out {prefix}".split(), check=True, capture_output=True)
    truth = pd.read_csv(f"{prefix}.ld", sep=r"\s+").set_index("SNP_B")["R2"]
    copies = loci.copies_of(chromosome, sex)
    found = loci.haplotype_r2(genotypes[0], genotypes, copies)[1:]
    np.testing.assert_allclose(found, truth[[f"rs{k}" for k in range(1, 6)]], rtol=1e-4)
    if chromosome in ("X", "Y"):
        assert abs(found - loci.haplotype_r2(genotypes[0], genotypes)[1:]).max() > 0.03
    table = pd.DataFrame({"SNP": [f"rs{k}" for k in range(6)], "P": [1e-9, *[1e-3] * 5]})
    table.to_csv(report, sep="\t", index=False)
    for nudge in (-1e-4, 1e-4):  # of the second neighbour's r²
        settings = (1e-4, 0.01, float(found[1] + nudge), 250.0)
        clumps = of_ours(prefix, report, settings, sex)
        assert clumps == of_plink(tool("plink1.9"), prefix, report, settings)
        assert ("rs2" in clumps["rs0"]) == (nudge < 0)


def test_merge_clumps__joins_by_distance_within_a_chromosome() -> None:
    chromosome = np.array(["2", "2", "2", "2", "10", "10"])
    position = np.array([100_000, 200_000, 400_000, 900_000, 300_000, 310_000])
    clumps = [loci.Clump(2, ()), loci.Clump(4, (5,)), loci.Clump(0, (1,)), loci.Clump(3, ())]
    merged = loci.merge_clumps(clumps, chromosome, position, merge_kb=250)
    assert [(locus.lead, locus.start, locus.end) for locus in merged] == [
        (2, 100_000, 400_000),
        (3, 900_000, 900_000),
        (4, 300_000, 310_000),
    ]
    assert merged[0].leads == (2, 0)
    assert merged[0].members == (0, 1, 2)
    assert len(loci.merge_clumps(clumps, chromosome, position, merge_kb=199)) == 4


def test_nearest_gene__is_the_one_with_the_nearer_end() -> None:
    start, end = np.array([100, 150, 400]), np.array([200, 160, 500])
    for position, nearest, distance in (
        (155, [0, 1], 0),
        (200, [0], 0),
        (201, [0], 1),
        (300, [0, 2], 100),
        (301, [2], 99),
        (50, [0], 50),
        (900, [2], 400),
    ):
        found, away = genes.nearest_gene(position, start, end)
        assert (found.tolist(), away) == (nearest, distance)


def test_possible_builds__are_those_whose_chromosomes_are_long_enough() -> None:
    """Chromosome 1 is longer in GRCh37, 17 in GRCh38."""
    assert genes.possible_builds({"1": 249_000_000}) == {"GRCh37"}
    assert genes.possible_builds({"17": 83_000_000}) == {"GRCh38"}
    assert genes.possible_builds({"1": 1000, "scaffold": 10**9}) == {"GRCh37", "GRCh38"}
    assert genes.possible_builds({"1": 195_000_000, "19": 61_400_000}) == set()  # of a mouse


def test_read_genes__takes_lists_of_plink(tmp_path: Path) -> None:
    """Without a header; a gene may be called NA."""
    (tmp_path / "glist").write_text("19 58858171 58864865 A1BG\nchrX 10 20 NA\n")
    table = genes.read_genes(tmp_path / "glist")
    assert table.columns.tolist() == list(genes.GENE_COLUMNS)
    assert table.to_numpy().tolist() == [
        ["19", 58858171, 58864865, "A1BG"],
        ["X", 10, 20, "NA"],
    ]


@pytest.mark.parametrize(
    "text", ["chromosome\tstart\tend\tgene\n7\t1\t9\tA B\n", "7 1 9 A_B\n"], ids=["table", "plink"]
)
def test_read_genes__takes_compressed_ones(tmp_path: Path, text: str) -> None:
    (tmp_path / "genes.tsv").write_text(text)
    with gzip.open(tmp_path / "genes.tsv.gz", "wt") as file:
        file.write(text)
    plain, packed = (genes.read_genes(tmp_path / name) for name in ("genes.tsv", "genes.tsv.gz"))
    assert packed.to_numpy()[0].tolist()[:3] == ["7", 1, 9]
    pd.testing.assert_frame_equal(packed, plain)
    (tmp_path / "genes.tsv.gz").rename(tmp_path / "packed")
    with pytest.raises(InputError, match="packed: its first line cannot be read"):
        genes.read_genes(tmp_path / "packed")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its first line cannot be read"),
        ("chrom\tstart\tend\tgene\n1\t1\t2\tA\n", "no column chromosome"),
        ("chromosome\tstart\tend\tgene\n", "has no gene"),
        ("chromosome\tstart\tend\tgene\n1\t1\t2\tA\n1\t1.5\t2\tB\n", "row 3: start '1.5'"),
        ("chromosome\tstart\tend\tgene\n1\t9\t2\tA\n", "row 2: start '9' and end '2' of A"),
        ("chromosome\tstart\tend\tgene\n1\tNA\t2\tA\n", "row 2: start 'NA'"),
        ("1 1 2 A\n1 9 2 B\n", "row 2: start '9' and end '2' of B"),
        ("1 1 2 + A\n", "no column chromosome"),
    ],
)
def test_read_genes__names_the_fault(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "genes.tsv").write_text(text)
    with pytest.raises(InputError, match=said):
        genes.read_genes(tmp_path / "genes.tsv")
