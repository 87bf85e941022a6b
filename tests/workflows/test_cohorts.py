"""Studies of several cohorts, and of data that enter at each door."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from support import BIN, axoloci, write_study, write_trait_study

from axoloci.io.genotypes import open_genotypes
from axoloci.io.nifti import write_nifti
from axoloci.io.sumstats import read_sumstats
from axoloci.study import StudyPaths
from axoloci.tasks.simulate.genotypes import BED_MAGIC, pack_bed

N_DISCOVERY, N_REPLICATION = 170, 130
N_SHARED = 20  # of the discovery, who train the encoder as well
DOORS = {
    "preprocessed": "{out}",
    "fa": "{out}",
    "fa_common": "{out}",
    "traits": "{out}/group/autoencoder/latents.parquet",
}


@pytest.fixture(scope="module")
def study_of_scans(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study that began with raw DWI."""
    study = write_study(tmp_path_factory.mktemp("doors"), cohort)
    axoloci("run", study, "--n-procs", 2)
    return study


@pytest.mark.parametrize("door", DOORS)
def test_run__every_door_leads_to_the_same_sumstats(
    study_of_scans: Path, tmp_path: Path, door: str
) -> None:
    """The derivatives of a study, taken as they lie in its folder, give its results exactly."""
    text = study_of_scans.read_text()
    source = DOORS[door].format(out=study_of_scans.parent / "out")
    lines = [f'{door} = "{source}"' if x.startswith("bids") else x for x in text.splitlines()]
    study = tmp_path / "study.toml"
    study.write_text("\n".join(lines))
    axoloci("run", study, "--n-procs", 2)
    first = read_sumstats(study_of_scans.parent / "out" / "group" / "sumstats")
    second = read_sumstats(tmp_path / "out" / "group" / "sumstats")
    assert first.traits == second.traits
    for trait in first.traits:
        pd.testing.assert_frame_equal(first.trait(trait), second.trait(trait), check_exact=True)


@pytest.fixture(scope="module")
def two_cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps, genotypes and lists of 170 and 130 simulated people.

    Beside each planted variant's truth lies a false one, the last of a chromosome that bears none:
    in the discovery a copy of it, in the replication shuffled among people.
    """
    folder = tmp_path_factory.mktemp("two")
    cohort = folder / "cohort"
    axoloci(
        *("simulate", cohort, "--n-subjects", N_DISCOVERY + N_REPLICATION, "--seed", 3),
        *("--n-variants", 4000, "--n-directions", 6, "--voxel-size", 6, "--n-procs", 2),
    )
    rng = np.random.default_rng(4)
    offset = pd.read_csv(cohort / "truth" / "fa_offset.tsv", sep="\t", dtype={"IID": str})
    template, affine = _image(cohort / "template.nii.gz")
    regions, _ = _image(cohort / "regions.nii.gz")
    by_label = offset.iloc[:, 3:].to_numpy()  # (n_samples, n_regions)
    for person, own in zip(offset["IID"], by_label, strict=True):
        change = np.concatenate([[0.0], own])[regions.astype(int)]
        noise = rng.normal(0, 0.02, template.shape)
        fa = np.clip(template + (change + noise) * (template > 0), 0, 1)
        write_nifti(folder / "maps" / f"{person}_FA.nii.gz", fa.astype(np.float32), affine)

    source = open_genotypes(cohort / "genotypes")
    dosage = source.read(0, source.n_variants)
    dosage[dosage < 0] = -1
    place = {name: row for row, name in enumerate(source.variants["variant_id"])}
    discovery = np.arange(source.n_samples) < N_DISCOVERY
    loci = json.loads((cohort / "truth.json").read_text())["loci"]
    bim = (cohort / "genotypes.bim").read_text().splitlines()
    chromosome = [int(line.split()[0]) for line in bim]
    free = sorted(set(chromosome) - {int(locus["chromosome"]) for locus in loci})
    false = []
    for number, locus in enumerate(loci):
        copy = dosage[place[locus["variant_id"]]].copy()
        copy[~discovery] = rng.permutation(copy[~discovery])
        false.append(copy)
        chromosome.append(free[number])
        bim.append(f"{free[number]}\tfalse{number}\t0\t300000000\tA\tG")
    order = np.argsort(chromosome, kind="stable")
    everything = np.concatenate([dosage, np.stack(false)])[order]
    (folder / "g.bim").write_text("\n".join(bim[row] for row in order) + "\n")
    (folder / "g.bed").write_bytes(BED_MAGIC + pack_bed(everything).tobytes())
    (folder / "g.fam").write_text((cohort / "genotypes.fam").read_text())
    people = source.samples["iid"]
    for name, chosen in (("discovery", discovery), ("replication", ~discovery)):
        (folder / f"{name}.tsv").write_text("IID\n" + "\n".join(people[chosen]) + "\n")
    (folder / "study.toml").write_text(
        'out = "out"\nfa_common = "maps/{participant_id}_FA.nii.gz"\ngenotypes = "g"\n'
        'covariates = "cohort/covariates.tsv"\n'
        '[normalize]\ntemplate = "cohort/template.nii.gz"\n'
        '[encoder]\nn_latents = 8\ntraining_people = "keep"\n'
        "[linear]\nn_latents = 8\n[gwas]\nn_pcs = 2\n"
        '[discovery]\nkeep = "discovery.tsv"\n[replication]\nkeep = "replication.tsv"\n'
    )
    return folder


def _image(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    image = nib.load(path)
    return image.get_fdata(), image.affine


def test_run__planted_loci_replicate_and_planted_false_ones_do_not(two_cohorts: Path) -> None:
    done = axoloci("run", two_cohorts / "study.toml", "--n-procs", 2)
    for line in (
        "[discovery] gwas: axoloci-gwas associate",
        "[replication] gwas: done in",
        " report: ",
    ):
        assert line in done.stderr
    out = two_cohorts / "out"
    truth = json.loads((two_cohorts / "cohort" / "truth.json").read_text())
    planted = {locus["chromosome"] for locus in truth["loci"]}
    for name in ("autoencoder", "linear"):
        found, again = (out / cohort / "group" / name for cohort in ("discovery", "replication"))
        loci = pd.read_csv(found / "loci.tsv", sep="\t", dtype=str)
        false = loci["variant_id"].str.startswith("false")
        assert set(loci["chromosome"][~false]) == planted
        assert false.sum() == len(planted) == 3
        table = pd.read_csv(again / "replication.tsv", sep="\t", dtype={"chromosome": str})
        replicated = table.set_index("variant_id")["replicated"] == "yes"
        assert replicated[~replicated.index.str.startswith("false")].all()
        assert not replicated[replicated.index.str.startswith("false")].any()
        summary = json.loads((again / "replication.json").read_text())
        assert (summary["n_leads"], summary["n_replicated"]) == (6, 3)
        assert summary["n_samples"] == N_REPLICATION
    page = (out / "report.html").read_text()
    for words in ("Replication, autoencoder", "Replication, linear representation"):
        assert words in page
    assert "3 of 6 replicated (autoencoder) and 3 of 6 replicated (linear)" in page


def test_run__all_latents_are_tested_in_one_pass_and_jointly_by_representation(
    two_cohorts: Path,
) -> None:
    """The studies of a single representation give the same results."""
    group = two_cohorts / "out" / "discovery" / "group"
    traits = {
        name: pq.read_schema(group / name / "latents.parquet").names[1:]
        for name in ("autoencoder", "linear")
    }
    assert traits["linear"] == [f"component_{k:03d}" for k in range(8)]
    assert 3 <= len(traits["autoencoder"]) <= 8  # those that change a map
    sumstats = read_sumstats(group / "sumstats")
    assert sumstats.traits == traits["autoencoder"] + traits["linear"]
    for name, own in traits.items():
        about = json.loads(pq.read_schema(group / name / "joint.parquet").metadata[b"axoloci"])
        assert about["traits"] == own
        latents = pd.read_parquet(group / name / "latents.parquet")
        assert list(latents) == ["sample_id", *own]
        alone = two_cohorts / f"{name}.parquet"
        program = str(BIN / "axoloci-genetics")
        given = ("--sumstats", str(group / "sumstats"), "--traits", ",".join(own))
        subprocess.run([program, "joint", *given, "--out", str(alone)], check=True)
        assert alone.read_bytes() == (group / name / "joint.parquet").read_bytes()


def test_run__people_in_two_cohorts_are_refused(two_cohorts: Path) -> None:
    study = two_cohorts / "overlap.toml"
    text = (two_cohorts / "study.toml").read_text()
    study.write_text(text.replace('keep = "replication.tsv"', 'keep = "discovery.tsv"'))
    done = axoloci("run", study, check=False)
    assert done.returncode == 1
    assert "170 people are in [discovery] and in [replication]" in done.stderr
    text = text.replace('training_people = "keep"', "")
    for table, words in (
        ("[train]", "170 people are in [train] and in [discovery]: "),
        ("[replication]", "the encoder is trained on the people of the association themselves"),
    ):
        changed = text.replace("[replication]", table)
        if table == "[train]":
            changed = changed.replace("replication.tsv", "discovery.tsv")
        study.write_text(changed)
        done = axoloci("run", study, check=False)
        assert done.returncode == 1
        assert words in done.stderr
        assert "choose by training_people in [encoder]" in done.stderr
    study.write_text(changed.replace("[encoder]", '[encoder]\ntraining_people = "drop"', 1))
    done = axoloci("run", study, check=False)
    assert done.returncode == 1
    assert "so that nobody is left: name other people in [train]" in done.stderr


def test_run__an_encoder_of_other_people(two_cohorts: Path) -> None:
    """Of people of the association some train it too, and are left out."""
    study = two_cohorts / "taught.toml"
    people = (two_cohorts / "discovery.tsv").read_text().splitlines()[1:]
    others = (two_cohorts / "replication.tsv").read_text()
    (two_cohorts / "train.tsv").write_text(others + "\n".join(people[:N_SHARED]) + "\n")
    text = (two_cohorts / "study.toml").read_text().replace('out = "out"', 'out = "taught"')
    text = text.replace("[replication]", "[train]").replace("replication.tsv", "train.tsv")
    text = text.replace("n_latents = 8", "n_latents = 2")
    study.write_text(text.replace('"keep"\n', '"drop"\n'))
    axoloci("run", study, "--n-procs", 2)
    out = two_cohorts / "taught"
    for name in ("autoencoder", "linear"):
        group = out / "discovery" / "group"
        assert not (group / name / "model.safetensors").exists()
        latents = pd.read_parquet(group / name / "latents.parquet")
        assert list(latents["sample_id"]) == people[N_SHARED:]
        assert latents.shape[1] == 3
    assert list(pd.read_csv(group / "pcs.tsv", sep="\t", dtype=str)["IID"]) == people[N_SHARED:]
    assert not (out / "train" / "group" / "sumstats").exists()


def test_run__traits_that_some_lack_are_not_tested_jointly(cohort: Path, tmp_path: Path) -> None:
    study = write_trait_study(
        tmp_path, cohort, height=lambda n: n % 7, weight=lambda n: n % 5 if n else "NA"
    )
    text = study.read_text()
    joint, people = {}, {}
    for name in ("false", "true"):
        study.write_text(f"{text}complete_traits = {name}\n")
        done = axoloci("run", study)
        assert ("left out of the joint test, for some people lack them: weight" in done.stderr) == (
            name == "false"
        )
        group = tmp_path / "out" / "group"
        about = json.loads(pq.read_schema(group / "joint.parquet").metadata[b"axoloci"])
        joint[name] = about["traits"]
        people[name] = json.loads((group / "sumstats" / "sumstats.json").read_text())["n_samples"]
    assert joint == {"false": ["height"], "true": ["height", "weight"]}
    assert people["false"] - people["true"] == 1


def test_run__some_traits_of_a_table(cohort: Path, tmp_path: Path) -> None:
    study = write_trait_study(
        tmp_path, cohort, height=lambda n: n % 7, weight=lambda n: n % 5, site=lambda n: f"s{n % 3}"
    )
    study.write_text(f'{study.read_text()}traits = ["weight"]\n')
    axoloci("run", study)
    group = tmp_path / "out" / "group"
    assert json.loads((group / "sumstats" / "sumstats.json").read_text())["traits"] == ["weight"]
    assert json.loads(pq.read_schema(group / "joint.parquet").metadata[b"axoloci"])["traits"] == [
        "weight"
    ]


def test_run__ld_score_regression_with_a_trait_of_another_study(
    cohort: Path, tmp_path: Path
) -> None:
    """As the command by hand, named by a link of another name; in the report and the plan."""
    study = write_trait_study(tmp_path, cohort, height=lambda n: n % 7, weight=lambda n: n % 5)
    variants = pd.read_csv(f"{cohort}/genotypes.bim", sep=r"\s+", header=None, dtype=str)
    scores = variants[[0, 1, 3]].set_axis(["CHR", "SNP", "BP"], axis=1)
    scores["L2"] = 1 + np.arange(len(scores)) % 50
    (tmp_path / "ld").mkdir()
    scores.to_csv(tmp_path / "ld" / "p.l2.ldscore.gz", sep="\t", index=False)
    (tmp_path / "ld" / "p.l2.M_5_50").write_text(f"{len(scores)}\n")
    z = np.random.default_rng(0).standard_normal(len(variants))
    other = pd.DataFrame({"SNP": variants[1], "A1": variants[4], "A2": variants[5], "Z": z})
    other.to_csv(tmp_path / "50_raw.txt", sep="\t", index=False)
    (tmp_path / "bmi.txt").symlink_to("50_raw.txt")
    ask = '[genetics]\nld_scores = "ld"\noutside = ["bmi.txt"]\n'
    study.write_text(f"{study.read_text()}{ask}outside_n = {{bmi = 5000}}\n")
    axoloci("run", study)
    group = tmp_path / "out" / "group"
    h2 = pd.read_csv(group / "ldsc" / "heritability.tsv", sep="\t")
    assert h2["trait"].tolist() == ["height", "weight", "bmi"]
    assert h2["n"].tolist()[-1] == 5000
    by_hand = ("--sumstats", str(group / "sumstats"), "--ld-scores", str(tmp_path / "ld"))
    by_hand += (
        "--with",
        str(tmp_path / "bmi.txt"),
        "--n",
        "bmi=5000",
        "--out",
        str(tmp_path / "h"),
    )
    subprocess.run([BIN / "axoloci-genetics", "ldsc", *by_hand], check=True)
    for name in ("heritability.tsv", "genetic_correlation.tsv"):
        assert (group / "ldsc" / name).read_bytes() == (tmp_path / "h" / name).read_bytes()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "bmi" in page
    assert "LD score regression" in page
    assert "ldsc" in axoloci("plan", study).stdout

    # a job that fails takes nothing else from the report, which no longer shows its older results
    scores["BP"] = scores["BP"].astype(int) + 7
    scores.to_csv(tmp_path / "ld" / "p.l2.ldscore.gz", sep="\t", index=False)
    done = axoloci("run", study, check=False)
    assert done.returncode == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "another genome build" in page
    assert "What it has finished is shown." in page
    assert "LD score regression" not in page
    inputs = json.loads(StudyPaths(tmp_path / "out").report_inputs.read_text())
    assert {"sumstats", "joint", "loci", "signals", "heritability"} <= inputs.keys()
    assert "ldsc" not in inputs
    assert inputs["facts"]["gwas"]["n_traits"] == 2
