"""The whole study on a small cohort: what it makes, what it survives, what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faults import records, results
from rocrate.rocrate import ROCrate
from support import BIN, N_PEOPLE, axoloci, write_study

from axoloci.io.cohort import read_cohort
from axoloci.io.files import sha256
from axoloci.io.sumstats import read_sumstats

N_SOUND = N_PEOPLE - 2  # one scan is truncated, one has a b-value too few


@pytest.fixture(scope="module")
def finished(faulty_study: Path) -> Path:
    """Output of a study, one scan truncated, one with a b-value too few: exit code 3."""
    done = axoloci("run", faulty_study, "--n-procs", 2, check=False)
    assert done.returncode == 3, done.stderr
    (faulty_study.parent / "stderr.txt").write_text(done.stderr)
    return faulty_study.parent / "out"


def test_run__names_the_failed_scans_and_goes_on(finished: Path) -> None:
    scans = pd.read_csv(finished / "scans.tsv", sep="\t")
    failed = scans[scans["status"] == "failed"]
    assert len(scans) == N_PEOPLE
    assert len(failed) == 2
    message = (finished.parent / "stderr.txt").read_text()
    for (_, row), word in zip(failed.iterrows(), ("truncated", "b-values"), strict=True):
        assert word in row["reason"]
        assert f"failed: {row['scan']}" in message
    truncated, short = failed["log"]
    assert pd.isna(truncated)  # nothing was run
    assert "b-values" in (finished / short / "preprocess.log").read_text()


def test_run__every_store_holds_the_survivors(finished: Path) -> None:
    group = finished / "group"
    cohort = read_cohort(group / "cohort.zarr")
    latents = pd.read_parquet(group / "autoencoder" / "latents.parquet")
    sumstats = read_sumstats(group / "sumstats")
    assert cohort.n_samples == len(latents) == N_SOUND
    assert list(latents["sample_id"]) == list(cohort.sample_id)
    assert list(sumstats.traits) == [f"latent_{k:03d}" for k in range(2)]
    trait = sumstats.trait("latent_000")
    assert len(trait) == 3000
    assert trait["n"].max() <= N_SOUND
    joint = pd.read_parquet(group / "autoencoder" / "joint.parquet")
    assert len(joint) == 3000
    assert np.isfinite(joint["neg_log10_p"]).mean() > 0.8  # no test where people are missing
    exported = pd.read_csv(group / "latent_000.gwas-ssf.tsv.gz", sep="\t")
    assert list(exported.columns[:5]) == [
        "chromosome",
        "base_pair_location",
        "effect_allele",
        "other_allele",
        "beta",
    ]


def test_run__qc_has_a_row_a_finished_scan(finished: Path) -> None:
    qc = pd.read_csv(finished / "qc.tsv", sep="\t")
    assert len(qc) == N_SOUND
    assert qc["mean_fa"].between(0.05, 0.9).all()
    assert (qc["mean_framewise_displacement"] >= 0).all()


def test_run__has_a_page_of_each_finished_scan_and_one_of_all(finished: Path) -> None:
    scans = pd.read_csv(finished / "scans.tsv", sep="\t")
    ok = set(scans[scans["status"] == "ok"]["scan"])
    pages = {path.parts[-1].removesuffix("_desc-qc_dwi.html"): path
             for path in finished.glob("sub-*/dwi/*_desc-qc_dwi.html")}  # fmt: skip
    assert set(pages) == ok
    for scan, page in pages.items():
        assert page.stat().st_size < 2e6
        text = page.read_text()
        assert f"<h1>{scan}</h1>" in text
        assert "http://" not in text
    table = (finished / "qc.html").read_text()
    assert all(f'"{scan}"' in table for scan in ok)
    jobs = axoloci("trace", finished).stdout.splitlines()
    assert sum("\tpage\t" in job for job in jobs) == len(ok)
    assert sum("\tqc\t" in job for job in jobs) == 1


def test_run__the_report_is_one_page(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    failed = pd.read_csv(finished / "scans.tsv", sep="\t").query("status == 'failed'")
    assert all(name in page for name in failed["scan"])
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="https' not in page


def test_run__leaves_a_crate_of_what_ran(finished: Path) -> None:
    crate = ROCrate(finished)
    failed = pd.read_csv(finished / "scans.tsv", sep="\t").query("status == 'failed'")["scan"]
    text = (finished / "ro-crate-metadata.json").read_text()
    assert not any(name in text for name in failed)
    assert crate.get("#job-preprocess")["error"] == f"1 of {N_PEOPLE - 1} jobs failed"
    jobs = {entity.id for entity in crate.get_by_type("CreateAction")}
    learnt = {f"{job}_autoencoder" for job in ("train", "encode", "joint", "loci")}
    assert jobs >= {f"#job-{job}" for job in ("dti", "normalize", "gwas", *learnt)}
    for job in jobs:
        assert crate.get(job)["startTime"] <= crate.get(job)["endTime"]
    manifest = crate.get("group/sumstats/sumstats.json")
    assert manifest["sha256"] == sha256(finished / "group" / "sumstats" / "sumstats.json")
    assert "PyTorch" in (finished / "report.html").read_text()


def test_run__shareable_names_nobody(finished: Path) -> None:
    study = finished.parent / "study.toml"
    page = finished / "report-shareable.html"
    assert not page.exists()
    done = axoloci("run", study, "--shareable", "--n-procs", 2, check=False)
    assert done.returncode == 3, done.stderr
    assert "report-shareable.html" in done.stderr
    html = re.sub(r"base64,[^\"]+", "", page.read_text())
    scans = pd.read_csv(finished / "scans.tsv", sep="\t", dtype=str)
    for word in (*scans["scan"], str(finished.parent)):
        assert word not in html
    assert "exact F test" in html
    label = scans["sample_id"][0]
    one = ("--stage", "participants", "--participant-label", label)
    before = (finished / "report.html").read_bytes()
    done = axoloci("run", study, *one, check=False)
    assert "the report is made by a run without --participant-label" in done.stderr
    assert (finished / "report.html").read_bytes() == before
    assert page.exists()
    done = axoloci("run", study, "--n-procs", 2, check=False)
    assert "report-shareable.html is removed: it would be out of date" in done.stderr
    assert not page.exists()


def test_run__again_repeats_only_what_failed(finished: Path) -> None:
    before = records(finished)
    done = axoloci("run", finished.parent / "study.toml", "--n-procs", 2, check=False)
    assert done.returncode == 3, done.stderr
    after = records(finished)
    changed = {Path(path).name for path in after if after[path] != before.get(path)}
    assert changed == {"preprocess.json", "report.json"}  # of the failed scans; of the page


def test_run__a_removed_map_is_made_again(finished: Path) -> None:
    fa = sorted(finished.glob("sub-*/dwi/*space-template*fa_dwimap.nii.gz"))[0]
    content = fa.read_bytes()
    fa.unlink()
    done = axoloci("run", finished.parent / "study.toml", "--stage", "participants", check=False)
    assert done.returncode == 3, done.stderr
    assert fa.read_bytes() == content


def test_run__settings_changed_and_changed_back(cohort: Path, tmp_path: Path) -> None:
    """Outputs lie under fixed names: a cached result must not outlive its files."""
    label = min(path.name for path in (cohort / "bids").glob("sub-*"))
    fa = tmp_path / "out" / label / "dwi" / f"{label}_model-tensor_param-fa_dwimap.nii.gz"
    study = write_study(tmp_path, cohort)
    content = {}
    for method in ("WLS", "OLS", "WLS"):
        text = study.read_text().partition("\n[dti]")[0]
        study.write_text(f'{text}\n[dti]\nmethod = "{method}"\n')
        axoloci("run", study, "--stage", "participants", "--participant-label", label)
        content.setdefault(method, fa.read_bytes())
        assert fa.read_bytes() == content[method]
    assert content["WLS"] != content["OLS"]


def test_run__group_follows_its_settings(finished: Path) -> None:
    study = finished.parent / "study.toml"
    before = results(finished)
    text = study.read_text()
    try:
        study.write_text(text.replace("n_pcs = 1", "n_pcs = 0"))
        done = axoloci("run", study, "--stage", "group", "--n-procs", 2, check=False)
        assert done.returncode == 3, done.stderr
        assert read_sumstats(finished / "group" / "sumstats").n_covariates == 4
        changed = results(finished)
        assert (
            changed["group/autoencoder/latents.parquet"]
            == before["group/autoencoder/latents.parquet"]
        )
        assert (
            changed["group/autoencoder/joint.parquet"] != before["group/autoencoder/joint.parquet"]
        )
    finally:
        study.write_text(text)
    done = axoloci("run", study, "--n-procs", 2, check=False)
    assert done.returncode == 3, done.stderr
    assert (
        results(finished)["group/autoencoder/joint.parquet"]
        == before["group/autoencoder/joint.parquet"]
    )


def test_run__group_follows_the_list_of_excluded_scans(finished: Path) -> None:
    study, listed = finished.parent / "study.toml", finished / "exclude.tsv"
    before, text = results(finished), listed.read_text()
    assert len(text.splitlines()) == 1  # a sound cohort: no rule excludes anybody
    name = read_cohort(finished / "group" / "cohort.zarr").sample_id[4]
    try:
        listed.write_text(f"{text}sub-{name}\tyes\tasleep\tuser\n")
        done = axoloci("run", study, "--stage", "group", "--n-procs", 2, check=False)
        assert done.returncode == 3, done.stderr
        assert f"sub-{name} is left out of the group by user: asleep" in done.stderr
        assert "left out of the group: 0 scans by rule, 1 by the user" in done.stderr
        people = list(read_cohort(finished / "group" / "cohort.zarr").sample_id)
        assert len(people) == N_SOUND - 1
        assert name not in people
        trait = read_sumstats(finished / "group" / "sumstats").trait("latent_000")
        assert trait["n"].max() <= N_SOUND - 1
        page = (finished / "report.html").read_text()
        assert "The group does without 1 scan: 0 by rule, 1 by the user." in page
        assert "judged unusable by eye were left out" in page
    finally:
        listed.write_text(text)
    done = axoloci("run", study, "--n-procs", 2, check=False)
    assert done.returncode == 3, done.stderr
    after = results(finished)
    assert [path for path in before if after[path] != before[path]] == []


def test_run__group_refuses_maps_of_other_settings(finished: Path) -> None:
    study = finished.parent / "study.toml"
    text = study.read_text()
    try:
        study.write_text(f"{text}\n[dti]\nmax_bval = 1400\n")
        done = axoloci("run", study, "--stage", "group", check=False)
        assert done.returncode == 1
        assert "people with a finished scan: 0, fewer than" in done.stderr
        scans = pd.read_csv(finished / "scans.tsv", sep="\t")
        assert "other settings" in scans["reason"][0]
    finally:
        study.write_text(text)
    done = axoloci("run", study, "--stage", "participants", "--n-procs", 2, check=False)
    assert done.returncode == 3, done.stderr  # and the tables are those of the study again


def test_run__killed_and_resumed_equals_an_uninterrupted_run(
    faulty_study: Path, finished: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(faulty_study.read_text())
    out = tmp_path / "out"
    command = [str(BIN / "axoloci"), "run", str(study), "--n-procs", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wanted = "*/dwi/*_space-template_registration.json"
    deadline = time.monotonic() + 300
    while len(list(out.glob(wanted))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(1)  # the workers and their steps die with the driver
    assert 4 <= len(list(out.glob(wanted))) < N_SOUND
    before = records(out)
    time.sleep(2)
    assert records(out) == before, "a step outlived the killed driver"

    done = axoloci("run", study, "--n-procs", 2, check=False)
    assert done.returncode == 3, done.stderr
    after = records(out)
    repeated = [path for path, when in before.items() if after[path] != when]
    # Jobs whose result was not yet in the cache when the driver died: at most one a process; and
    # the faulty scans, which fail each time.
    assert len(repeated) <= 4, repeated

    first, second = results(out), results(finished)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_run__stages_and_participants(study: Path, cohort: Path) -> None:
    labels = sorted(path.name for path in (cohort / "bids").glob("sub-*"))[:2]
    only = [word for label in labels for word in ("--participant-label", label)]
    axoloci("run", study, "--stage", "participants", *only, "--n-procs", 2)
    scans = pd.read_csv(study.parent / "out" / "scans.tsv", sep="\t")
    assert set(scans[scans["status"] == "ok"]["scan"]) == set(labels)
    assert set(scans["status"]) == {"ok", "not run"}
    done = axoloci("run", study, "--stage", "group", check=False)
    assert done.returncode == 1
    assert "people with a finished scan: 2, fewer than min_participants (10)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run"], 2, "name a study file"),
        (["run", "--bids", "b"], 2, "at least --bids and --out"),
        (["run", "--out", "o"], 1, "name the source of the data"),
        (["run", "missing.toml"], 1, "cannot be read as a study file"),
        (["run", "--stage", "never"], 2, "Invalid value for '--stage'"),
        (["run", "--bids", "b", "--out", "o"], 1, "'genotypes' is missing"),
    ],
)
def test_run__usage_and_input_errors(
    arguments: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = axoloci(*arguments, check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_run__missing_inputs_are_listed_at_once(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text('out = "o"\nbids = "b"\ngenotypes = "g"\ncovariates = "c.tsv"\n')
    done = axoloci("run", study, check=False)
    assert done.returncode == 1
    for line in (
        "b: no dataset_description",
        "genotypes: ",
        "g.bed: no such file",
        "c.tsv: no such",
    ):
        assert line in done.stderr
    assert not (tmp_path / "o").exists()


def test_run__ids_of_scans_and_genotypes_must_meet(cohort: Path, tmp_path: Path) -> None:
    for suffix in (".bed", ".bim", ".fam"):
        (tmp_path / f"g{suffix}").write_bytes((cohort / f"genotypes{suffix}").read_bytes())
    fam = (tmp_path / "g.fam").read_text().splitlines()
    others = [" ".join([line.split()[0], f"x{n}", *line.split()[2:]]) for n, line in enumerate(fam)]
    (tmp_path / "g.fam").write_text("\n".join(others) + "\n")
    done = axoloci(
        *("run", "--bids", cohort / "bids", "--genotypes", tmp_path / "g"),
        *("--out", tmp_path / "out"),
        check=False,
    )
    assert done.returncode == 1
    assert "no person is both in the scans and in" in done.stderr
    assert "0001" in done.stderr
    assert "x0" in done.stderr


def test_run__one_driver_a_study(study: Path) -> None:
    command = [str(BIN / "axoloci"), "run", str(study), "--stage", "participants"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not list(study.parent.glob("out/logs/*/preprocess.log")):
            time.sleep(0.05)
        done = axoloci("run", study, "--stage", "participants", check=False)
        assert done.returncode == 1
        assert "another axoloci is working on this study" in done.stderr
    finally:
        process.kill()
        process.wait()


def test_run__inputs_are_not_written_to(cohort: Path, finished: Path) -> None:
    names = {path.relative_to(cohort) for path in cohort.rglob("*") if path.is_file()}
    faulty = finished.parent / "cohort"
    assert {path.relative_to(faulty) for path in faulty.rglob("*") if path.is_file()} == names


def test_truth__is_read_by_the_demo(cohort: Path) -> None:
    truth = json.loads((cohort / "truth.json").read_text())
    assert {"variant_id", "chromosome", "base_pair_location"} <= truth["loci"][0].keys()
