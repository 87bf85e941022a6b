"""Looking after a study: status, trace, graph, clean, plan, init, run --why."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from support import BIN, N_PEOPLE, axoloci, write_study

from axoloci import study as study_schema
from axoloci.cli import main
from axoloci.errors import InputError
from axoloci.io.files import write_json, write_text
from axoloci.io.nifti import write_nifti
from axoloci.job import read_record, remove_output
from axoloci.scans import find_scans
from axoloci.study import StudyPaths, StudySettings, parse_settings, read_study
from axoloci.study_file import find_data
from axoloci.workflows.clean import CORRECTED, clean_study
from axoloci.workflows.engine import study_lock
from axoloci.workflows.graph import (
    as_dot,
    as_mermaid,
    finished_jobs,
    group_jobs,
    study_graph,
)
from axoloci.workflows.plan import (
    Cost,
    StepPlan,
    StudyPlan,
    fit_linear_cost,
    gwas_cost,
    pca_cost,
    plan_study,
    report_cost,
    ridge_cost,
    train_cost,
    voxel_h2_cost,
    voxels_cost,
)
from axoloci.workflows.records import COLUMNS, read_jobs, reasons_since, study_state
from axoloci.workflows.trace import pack_lanes, without_idle, write_timeline


def ask(*arguments: object) -> tuple[int, str]:
    """Exit code and output of a command, in this process: the commands that only look are quick."""
    done = CliRunner().invoke(main, [str(word) for word in arguments])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def people(cohort: Path) -> list[str]:
    """Three people of the simulated cohort."""
    return sorted(path.name for path in (cohort / "bids").glob("sub-*"))[:3]


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory, cohort: Path, people: list[str]) -> Path:
    """A study of three people, processed, of whom one has a damaged scan; tests copy it."""
    folder = tmp_path_factory.mktemp("care")
    small = folder / "cohort"
    shutil.copytree(cohort, small, ignore=shutil.ignore_patterns("truth"))
    for path in (small / "bids").glob("sub-*"):
        if path.name not in people:
            shutil.rmtree(path)
    victim = next((small / "bids" / people[2]).rglob("*_dwi.nii.gz"))
    content = bytearray(victim.read_bytes())
    content[5000:5100] = bytes(100)
    victim.write_bytes(content)
    study = write_study(folder, small)
    done = axoloci("run", study, "--stage", "participants", "--n-procs", 2, check=False)
    assert done.returncode == 3, done.stderr
    (folder / "stderr.txt").write_text(done.stderr)
    return study


@pytest.fixture
def again(processed: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`again()`: run the scans of the study once more."""

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        done = axoloci("run", processed, "--stage", "participants", *options, check=False)
        assert done.returncode == 3, done.stderr
        return done

    return run


def whys(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What --why says of the scans that did not fail, but for the pages, which follow."""
    pages = ("page", "qc", "report")
    return [
        line
        for line in done.stderr.splitlines()
        if line.startswith("why: ")
        and line.split(": ")[1] not in pages
        and not line.endswith("it failed last time")
    ]


def test_run__says_how_to_run_a_failed_scan_alone(processed: Path, people: list[str]) -> None:
    message = (processed.parent / "stderr.txt").read_text()
    label = people[2].removeprefix("sub-")
    words = f"axoloci run {processed} --stage participants --participant-label {label}"
    assert f"  alone: {words}" in message
    done = axoloci(*words.split()[1:], check=False)
    assert done.returncode == 1
    assert f"failed: {people[2]}" in done.stderr


def test_run_why__counts_reasons(
    processed: Path, again: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    text = processed.read_text()
    assert whys(again("--why")) == []
    try:
        processed.write_text(f"{text}\n[dti]\nmax_bval = 1400\n")
        # the maps of the tensor are the same, as all volumes lie below: normalize is not run
        done = again("--why")
        assert whys(done) == ["why: dti: max_bval changed (2 jobs)"]
        assert "why: page: tensor_qc changed (2 jobs)" in done.stderr
    finally:
        processed.write_text(text)
    assert whys(again("--why")) == ["why: dti: max_bval changed (2 jobs)"]


def test_clean__removed_volumes_are_made_again_only_when_needed(
    processed: Path, people: list[str], again: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    out = processed.parent / "out"
    volumes = sorted(out.rglob(f"*{CORRECTED}"))
    assert len(volumes) == 2
    content = {path: path.read_bytes() for path in volumes}
    expected = sum(map(len, content.values()))

    code, said = ask("clean", out, "--intermediates", "--dry-run")
    assert code == 0
    assert f"would free: {expected} bytes" in said
    assert all(path.exists() for path in volumes)
    code, said = ask("clean", processed, "--intermediates")
    assert code == 0
    assert f"freed: {expected} bytes" in said
    assert not any(path.exists() for path in volumes)
    record = read_record(out / "logs" / people[0] / "preprocess.json")
    assert record["outputs"][str(volumes[0])]["removed"] is True

    # a resume does not make them again, nor does a change of what comes after the tensor fit
    assert whys(again("--why")) == []
    text = processed.read_text()
    try:
        processed.write_text(text.replace("[normalize]", "[normalize]\nvoxel_size = 6"))
        assert whys(again("--why")) == ["why: normalize: voxel_size changed (2 jobs)"]
        assert not any(path.exists() for path in volumes)
    finally:
        processed.write_text(text)
    assert whys(again("--why")) == ["why: normalize: voxel_size changed (2 jobs)"]

    # a tensor map that is lost needs them: those of this person alone are made again
    fa = volumes[0].with_name(f"{people[0]}_model-tensor_param-fa_dwimap.nii.gz")
    before = fa.read_bytes()
    fa.unlink()
    said_why = whys(again("--why"))
    assert said_why == [
        f"why: preprocess: *{CORRECTED} was removed to free space",
        "why: dti: *_model-tensor_param-fa_dwimap.nii.gz is gone",
    ]
    assert fa.read_bytes() == before
    assert volumes[0].read_bytes() == content[volumes[0]]
    assert not volumes[1].exists()

    # and other settings of the fit need them of all
    try:
        processed.write_text(f"{text}\n[dti]\nmethod = 'OLS'\n")
        said_why = whys(again("--why"))
    finally:
        processed.write_text(text)
    assert f"why: preprocess: *{CORRECTED} was removed to free space" in said_why
    assert "why: dti: method changed (2 jobs)" in said_why
    assert volumes[1].read_bytes() == content[volumes[1]]
    again()


def test_clean__changed_raw_data_are_processed_though_volumes_were_removed(
    processed: Path, people: list[str], again: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    out = processed.parent / "out"
    clean_study(out, intermediates=True)
    bval = next((processed.parent / "cohort" / "bids" / people[1]).rglob("*.bval"))
    before = bval.read_text()
    try:
        bval.write_text(before.replace("1000", "990"))
        assert "bval" in "".join(w for w in whys(again("--why")) if "preprocess" in w)
        assert len(list(out.rglob(f"*{CORRECTED}"))) == 1
    finally:
        bval.write_text(before)
    again()


def test_run_why__an_image_replaced_by_one_of_the_same_time(
    processed: Path, people: list[str], again: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    dwi = next((processed.parent / "cohort" / "bids" / people[0]).rglob("*_dwi.nii.gz"))
    other = next((processed.parent / "cohort" / "bids" / people[1]).rglob("*_dwi.nii.gz"))
    mine, when = dwi.read_bytes(), dwi.stat().st_mtime_ns
    try:
        dwi.write_bytes(other.read_bytes())
        os.utime(dwi, ns=(when, when))
        assert "why: preprocess: dwi changed" in whys(again("--why"))
    finally:
        dwi.write_bytes(mine)
        os.utime(dwi, ns=(when, when))
    assert "why: preprocess: dwi changed" in whys(again("--why"))
    assert whys(again("--why")) == []


def test_clean__a_copy_of_a_study_leaves_the_files_of_the_original(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    original, copy = tmp_path / "out", tmp_path / "copy"
    for cohort in ("discovery", "replication"):
        paths = StudyPaths(original / cohort)
        volume = paths.out / "sub-1" / "dwi" / f"sub-1{CORRECTED}"
        volume.parent.mkdir(parents=True)
        volume.write_bytes(b"12345")
        write_json(paths.work / "scans" / "sub-1.json", {"status": "ok"})
        write_json(paths.logs / "sub-1" / "dti.json", {"exit_code": 0})
        made = {str(volume): {"size": 5}}
        write_json(paths.logs / "sub-1" / "preprocess.json", {"exit_code": 0, "outputs": made})
    shutil.copytree(original, copy)
    assert sum(kind.n_files for kind in clean_study(copy, intermediates=True)) == 0
    assert "left alone: 2 corrected volumes" in caplog.text
    assert len(list(original.rglob(f"*{CORRECTED}"))) == 2
    assert sum(kind.n_files for kind in clean_study(original, intermediates=True)) == 2
    assert not list(original.rglob(f"*{CORRECTED}"))


def test_clean__volumes_that_another_step_reads_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = StudyPaths(tmp_path)
    for scan, read in (("sub-1", "volumes"), ("sub-2", "others")):
        volume = paths.out / scan / f"{scan}{CORRECTED}"
        volume.parent.mkdir(parents=True)
        volume.write_bytes(b"12345")
        write_json(paths.work / "scans" / f"{scan}.json", {"status": "ok"})
        logs, made = paths.logs / scan, {str(volume): {"size": 5}}
        write_json(logs / "preprocess.json", {"exit_code": 0, "outputs": made})
        write_json(logs / "dti.json", {"exit_code": 0, "inputs": {"dwi": "volumes"}})
        write_json(logs / "noddi.json", {"exit_code": 0, "inputs": {"dwi": read}})
    clean_study(tmp_path, intermediates=True)
    assert [path.parent.name for path in tmp_path.rglob(f"*{CORRECTED}")] == ["sub-1"]
    assert "kept: corrected volumes of 1 scans" in caplog.text


def test_clean__half_written_files_of_dead_processes_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "work" / "pydra" / "job").mkdir(parents=True)
    (out / "work" / "pydra" / "job" / "x.pklz").write_bytes(b"1234")
    (out / "work" / "hashes").mkdir()
    (out / "work" / "hashes" / "aa").write_bytes(b"0123456789abcdef")
    (out / "work" / "hashes" / "aa.lock").write_bytes(b"")
    process = subprocess.Popen(["true"])
    process.wait()
    dead, living = out / f".{process.pid}.tmp.a.nii.gz", out / f".{os.getpid()}.tmp.b.nii.gz"
    store = out / f".{process.pid}.tmp.cohort.zarr"
    store.mkdir()
    (store / "zarr.json").write_bytes(b"{}")
    for path in (dead, living, out / "scans.tsv"):
        path.write_bytes(b"12345")
    code, said = ask("clean", out)
    assert code == 0, said
    assert "freed: 11 bytes" in said
    assert not dead.exists()
    assert not store.exists()
    assert not (out / "work" / "pydra").exists()
    assert not (out / "work" / "hashes" / "aa.lock").exists()
    for path in (living, out / "scans.tsv", out / "work" / "hashes" / "aa"):
        assert path.exists()


def test_clean__is_refused_while_a_driver_works(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with study_lock(StudyPaths(out)):
        for options in ((), ("--dry-run",)):
            code, said = ask("clean", out, *options)
            assert code == 1
            assert "axoloci is working on this study" in said
        (out / "discovery" / "logs").mkdir(parents=True)
        assert ask("clean", out / "discovery")[0] == 1
    assert ask("clean", out)[0] == 0


def test_clean__other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".7.tmp.mine").write_bytes(b"1")
    code, said = ask("clean", tmp_path)
    assert code == 1
    assert "not the output of a study" in said
    assert (tmp_path / ".7.tmp.mine").exists()


def test_remove_output__marks_before_it_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, record = tmp_path / "a", tmp_path / "job.json"
    made.write_bytes(b"1")
    write_json(record, {"outputs": {str(made): {"size": 1, "mtime_ns": 1, "sha256": "x"}}})

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", stopped)
    with pytest.raises(KeyboardInterrupt):
        remove_output(record, made)
    monkeypatch.undo()
    assert made.exists()
    assert read_record(record)["outputs"][str(made)]["removed"] is True


def test_status__of_a_study(processed: Path, people: list[str]) -> None:
    code, said = ask("status", processed)
    assert code == 3
    assert "no driver is working on it" in said
    assert re.search(r"discovery\s+scans\s+2\s+0\s+1\s+0", said), said
    assert re.search(r"discovery\s+jobs\s+2\s+0\s+0\s+9", said), said  # the pages alone are made
    assert re.search(
        rf"failed: {people[2]}: axoloci-preprocess run, exit 1: .*cannot be read", said
    ), said
    assert f"--participant-label {people[2].removeprefix('sub-')}" in said
    assert "truncated" in said
    assert "STUDY.toml" not in said
    code, said = ask("status", processed.parent / "out")
    assert code == 3
    assert "run STUDY.toml --stage participants" in said  # its settings are more than options
    assert "STUDY.toml stands for the study's own file" in said
    assert re.search(r"discovery\s+scans\s+2\s+0\s+1\s+0", said), said


def test_status__of_a_study_that_was_never_run(tmp_path: Path, cohort: Path) -> None:
    code, said = ask("status", write_study(tmp_path, cohort))
    assert code == 3
    assert re.search(rf"discovery\s+scans\s+0\s+0\s+0\s+{N_PEOPLE}", said), said
    assert not (tmp_path / "out").exists()


def test_status__while_a_driver_works(study: Path) -> None:
    command = [str(BIN / "axoloci"), "run", str(study), "--stage", "participants"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(study.parent.glob("out/logs/*/dti.log")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for what in (study, study.parent / "out"):
            code, said = ask("status", what)
            assert code == 0, said
            assert "a driver is working on it" in said
            done, running, failed, _ = map(int, re.findall(r"scans +(.*)", said)[0].split())
            assert running >= 1, said
            assert failed == 0
            assert done < N_PEOPLE
    finally:
        process.kill()
        process.wait()
    time.sleep(0.5)
    code, said = ask("status", study)
    assert code == 3
    assert re.search(r"scans\s+\d+\s+0\s+0\s+\d+", said), said  # nothing runs any more


def record(folder: Path, job: str, started: str, **known: Any) -> None:
    """Write a job record."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{job}.json", {"job": job, "started": started, **known})


DONE = {"exit_code": 0, "seconds": 2.0, "cpu_seconds": 1.5, "max_rss_mb": 80.0, "image": "native:x"}
FAILED = DONE | {"exit_code": 1, "reason": "exit 1: no seed"}


def test_study_state__of_another_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    assert study_state(tmp_path) == []
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="work: no permission to read it, for it names the people"):
        study_state(tmp_path)


def test_study_state__cohorts_and_jobs(tmp_path: Path) -> None:
    started = "2026-01-01T00:00:00.000+00:00"
    record(tmp_path / "train" / "logs" / "group", "pack", started, **DONE)
    record(tmp_path / "train" / "logs" / "group", "train_autoencoder", started, **FAILED)
    record(tmp_path / "discovery" / "logs" / "sub-1", "dti", started)
    (tmp_path / "work").mkdir()
    settings = parse_settings(
        {"out": str(tmp_path), "bids": "b", "genotypes": "g", "train": {"fa": "f"}}, "x", tmp_path
    )
    states = {s.name: s for s in study_state(tmp_path, {"train": [], "discovery": []},
                                             group_jobs(settings))}  # fmt: skip
    assert [(job.job, job.status, job.reason) for job in states["train"].jobs] == [
        ("pack", "done", ""),
        ("train_autoencoder", "failed", "exit 1: no seed"),
        ("train_linear", "not run", ""),
        ("qc", "not run", ""),
    ]
    assert {job.status for job in states["discovery"].jobs} == {"not run"}
    (scan,) = study_state(tmp_path)[1].scans  # without the study file: it was begun, and killed
    assert (scan.scan, scan.status) == ("sub-1", "not run")


def test_status__of_a_folder_names_the_options_of_its_study(tmp_path: Path) -> None:
    out = tmp_path / "an out"
    record(out / "logs" / "group", "gwas", "2026-01-01", exit_code=1)
    given = {"bids": "b", "genotypes": "g", "out": str(out), "encoder": {"training_people": "keep"}}
    settings = parse_settings(given, "command line", tmp_path)
    about = {"study_settings": settings.model_dump(mode="json", exclude_none=True)}
    write_json(StudyPaths(out).report_inputs, about)
    expected = f"run --bids {tmp_path}/b --genotypes {tmp_path}/g --out '{out}'"
    expected += " --training-people keep --stage group"
    assert expected in ask("status", out)[1]
    out.rename(tmp_path / "moved")
    said = ask("status", tmp_path / "moved")[1]
    assert "run STUDY.toml --stage group" in said
    assert "STUDY.toml stands for" in said


def test_trace__one_row_a_job(processed: Path, tmp_path: Path) -> None:
    out = processed.parent / "out"
    table = tmp_path / "trace.tsv"
    code, _ = ask("trace", out, "--out", table)
    assert code == 0
    rows = pd.read_csv(table, sep="\t")
    assert tuple(rows.columns) == COLUMNS
    records = sorted((out / "logs").rglob("*.json"))
    assert len(rows) == len(records) == 11  # 4 + 4 + 1 that failed + qc and report
    assert rows["started"].is_monotonic_increasing
    failed = rows[rows["exit_code"] != 0]
    assert list(failed["step"]) == ["preprocess"]
    row = rows[rows["step"] == "normalize"].iloc[0]
    known = read_record(out / "logs" / row["scan"] / "normalize.json")
    assert row["cpu_seconds"] == known["cpu_seconds"]
    assert row["code"] == known["image"]
    assert row["why"] == known["why"]
    for study in (out, processed):
        code, said = ask("trace", study)
        assert code == 0
        assert said.splitlines() == table.read_text().splitlines()


@pytest.mark.parametrize("ending", [".svg", ".png", ".html"])
def test_trace__timeline(processed: Path, tmp_path: Path, ending: str) -> None:
    picture = tmp_path / f"t{ending}"
    code, said = ask("trace", processed.parent / "out", "--timeline", picture)
    assert code == 0, said
    content = picture.read_bytes()
    if ending == ".png":
        assert content.startswith(b"\x89PNG")
    else:
        assert b"<svg" in content
        assert b"http://" not in content.replace(b"http://www.w3.org", b"").replace(
            b"http://purl.org", b""
        ).replace(b"http://creativecommons.org", b"")
    assert ask("trace", processed.parent / "out", "--timeline", tmp_path / "t.gif")[0] == 1


def jobs_of_a_large_study(n_scans: int, n_lanes: int) -> list[dict[str, Any]]:
    """Rows as of a study whose scans ran side by side, with a night in between."""
    zero = datetime(2026, 1, 1, tzinfo=UTC)
    rows, free = [], [0.0] * n_lanes
    rng = np.random.default_rng(3)
    for scan in range(n_scans):
        if scan == n_scans // 2:
            free = [max(free) + 10 * 3600 * 24] * n_lanes
        lane = int(np.argmin(free))
        for step, mean in (("preprocess", 600), ("dti", 50), ("normalize", 200)):
            seconds = float(mean * rng.uniform(0.7, 1.4))
            started = (zero + timedelta(seconds=free[lane])).isoformat()
            rows.append(
                {"cohort": "discovery", "scan": f"sub-{scan}", "step": step, "started": started,
                 "seconds": seconds, "cpu_seconds": seconds, "max_rss_mb": 400,
                 "exit_code": int(scan % 50 == 7), "why": "", "code": ""}
            )  # fmt: skip
            free[lane] += seconds + 0.2
    return rows


def test_write_timeline__ten_thousand_jobs_are_quick_and_small(tmp_path: Path) -> None:
    rows = jobs_of_a_large_study(3334, 16)
    assert len(rows) > 10_000
    started = time.process_time()
    write_timeline(rows, tmp_path / "t.svg", "large")
    assert time.process_time() - started < 20
    assert (tmp_path / "t.svg").stat().st_size < 2e6


def test_pack_lanes__as_many_as_ran_at_once() -> None:
    rows = jobs_of_a_large_study(300, 5)
    start = np.array([datetime.fromisoformat(row["started"]).timestamp() for row in rows])
    order = np.argsort(start, kind="stable")
    start, names = start[order], [rows[k]["scan"] for k in order]
    end = start + np.array([rows[k]["seconds"] for k in order])
    begins, ends, cuts = without_idle(start, end)
    assert len(cuts) == 1
    assert cuts[0][1] > 9 * 3600 * 24
    assert ends.max() < end.max() - start.min() - cuts[0][1] + 1
    lane = pack_lanes(begins, ends, names)
    assert lane.max() == 4
    for one in range(5):
        here = np.flatnonzero(lane == one)
        assert (begins[here][1:] >= ends[here][:-1] - 0.5).all()
    for name in set(names):  # the steps of a scan lie side by side
        assert len(set(lane[[k for k, owner in enumerate(names) if owner == name]])) == 1


def test_reasons_since__equal_reasons_are_counted(tmp_path: Path) -> None:
    early, late = "2026-01-01T00:00:00.000+00:00", "2026-01-02T00:00:00.000+00:00"
    for number in range(3):
        scan = f"sub-{number}"
        lost = f"/x y/out/{scan}/dwi/{scan}_fa.nii.gz is gone".replace("x y", "x")
        record(tmp_path / "logs" / scan, "dti", late, why=lost, **DONE)
        record(tmp_path / "logs" / scan, "preprocess", early, why="first run", **DONE)
    assert reasons_since(tmp_path, late) == [("dti", "*_fa.nii.gz is gone", 3)]
    assert [row["cohort"] for row in read_jobs(tmp_path)] == ["discovery"] * 6


def test_graph__is_of_this_study(processed: Path, tmp_path: Path) -> None:
    code, said = ask("graph", processed)
    assert code == 0
    assert said.startswith("flowchart LR\n")
    assert "preprocess × 3" in said
    assert "sub-*_desc-preproc_dwi.nii.gz" in said
    edges = set(re.findall(r"^  (\w+) -->(?:\|.*\|)? (\w+)$", said, flags=re.MULTILINE))
    assert ("discovery_gwas", "discovery_joint_autoencoder") in edges
    nodes = set(re.findall(r"^ +(\w+)\[", said, flags=re.MULTILINE))
    assert {end for edge in edges for end in edge} <= nodes
    assert ask("graph", processed, "--out", tmp_path / "g.mmd")[0] == 0
    assert (tmp_path / "g.mmd").read_text() == said
    assert ask("graph", processed, "--out", tmp_path / "g.pdf")[0] == 1


def test_graph__svg_by_graphviz(
    processed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, said = ask("graph", processed, "--out", tmp_path / "g.svg")
    assert code == 1
    assert "SVG needs graphviz" in said
    dot = tmp_path / "dot"  # what it is given is what it draws
    dot.write_text('#!/bin/sh\nread -r line; echo "<svg>$line $1</svg>"\n')
    dot.chmod(0o755)
    assert ask("graph", processed, "--out", tmp_path / "g.svg")[0] == 0
    assert (tmp_path / "g.svg").read_text() == '<svg>digraph "out" { -Tsvg</svg>\n'


def test_study_graph__leaves_the_home_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYDRA_HASH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").write_text("no folder can be made here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings = parse_settings({"out": "o", "bids": "b", "genotypes": "g"}, "x", Path("/"))
    assert study_graph(settings).jobs
    assert "PYDRA_HASH_CACHE" not in os.environ


def test_study_graph__cohorts_and_doors() -> None:
    settings = parse_settings(
        {
            "out": "o",
            "bids": "a/b",
            "genotypes": "g",
            "train": {"fa_common": "c/b"},
            "replication": {"preprocessed": "p", "genotypes": "h"},
            "gwas": {"export": ["latent_000"]},
        },
        "x",
        Path("/"),
    )
    graph = study_graph(settings)
    assert len(graph.inputs) == 5  # two folders of one name are two inputs
    assert "train_preprocess" not in graph.jobs["train"]
    assert "replication_preprocess" not in graph.jobs["replication"]
    assert ("train_train_linear", "replication_encode_linear") in graph.edges
    assert graph.edges["discovery_gwas", "replication_replicate_linear"] == ["sumstats"]
    for name in ("autoencoder", "linear"):
        edge = (f"discovery_loci_{name}", f"replication_replicate_{name}")
        assert graph.edges[edge] == ["loci.tsv"]
    jobs = ["pack", "encode_autoencoder", "encode_linear", "pca", "samples", "gwas"]
    jobs += ["export_latent_000", "replicate_autoencoder", "replicate_linear", "qc"]
    assert group_jobs(settings)["replication"] == jobs
    assert "export_latent_000" in as_mermaid(graph)
    dot = as_dot(graph)
    assert dot.count("{") == dot.count("}")
    assert 'label="export_latent_000' in dot


def test_group_jobs__are_the_logs_that_a_run_leaves(processed: Path) -> None:
    traits = parse_settings({"out": "o", "traits": "t", "genotypes": "g"}, "x", Path("/"))
    assert group_jobs(traits) == {
        "discovery": [
            *("pca", "samples", "gwas", "joint", "loci", "signals", "heritability"),
            "report",
        ]
    }


def test_finished_jobs__belong_to_the_last_run_and_follow_what_they_are_made_from(
    tmp_path: Path,
) -> None:
    given = {"out": "o", "traits": "t", "genotypes": "g", "gwas": {"n_pcs": 0}}
    settings = parse_settings(given, "x", tmp_path)
    paths = StudyPaths(settings.out)
    write_text(paths.env, "native")
    logs = paths.logs / "group"
    for when, job in enumerate(("samples", "gwas", "joint", "loci", "signals", "heritability"), 1):
        write_json(logs / f"{job}.json", {"job": job, "exit_code": 0})
        os.utime(logs / f"{job}.json", (when, when))
    os.utime(paths.env, (3, 3))
    assert finished_jobs(settings)["discovery"] == set()  # the association was not looked at
    os.utime(paths.env, (1, 1))
    assert finished_jobs(settings)["discovery"] == {path.stem for path in logs.iterdir()}
    os.utime(logs / "joint.json", (4.5, 4.5))  # it was made again, and what follows was not
    assert finished_jobs(settings)["discovery"] == {"samples", "gwas", "joint", "heritability"}
    write_json(logs / "joint.json", {"job": "joint", "exit_code": 1})
    assert finished_jobs(settings)["discovery"] == {"samples", "gwas", "heritability"}
    write_json(logs / "gwas.json", {"job": "gwas"})  # it runs
    assert finished_jobs(settings)["discovery"] == {"samples"}


def test_plan__is_near_what_the_study_used(processed: Path) -> None:
    settings = read_study(processed)
    plan = plan_study(settings)
    jobs = pd.DataFrame(read_jobs(settings.out)).query("exit_code == 0")
    planned = {step.job: step for step in plan.steps}
    assert (planned["dti"].n_jobs, planned["dti"].n_done) == (3, 2)
    assert planned["report"].n_done == 1
    assert planned["gwas"].n_done == 0
    assert plan.variants == {"discovery": 3000}
    assert plan.latents == {"discovery": 2}
    assert plan.scan_shapes.total() == 3
    for step, used in jobs.groupby("step"):
        told = planned[str(step)]
        assert 1 / 3 < told.memory_mb / used["max_rss_mb"].astype(float).max() < 3, step
        if step not in ("qc", "report"):  # these are made already: no time is left
            seconds = float(used["cpu_seconds"].astype(float).median())
            assert 1 / 3 < told.seconds / seconds < 3, step  # of the one scan that is left
            made = sum(
                was["size"]
                for file in settings.out.glob(f"logs/sub-*/{step}.json")
                for was in read_record(file).get("outputs", {}).values()
            )
            assert 1 / 3 < told.n_bytes / told.n_jobs / (made / len(used)) < 3, step
    assert plan.wall_seconds(1) >= plan.wall_seconds(100) > 0  # one scan is left: no side by side
    assert plan.memory_mb(40) == 40 * max(s.memory_mb for s in plan.steps if s.of_scans)
    code, said = ask("plan", processed, "--n-procs", 2)
    assert code == 0, said
    assert "3 scans of 32 × 40 × 32 × 9 voxels" in said
    assert "time left with 2 processes" in said


def test_plan__names_what_is_missing(tmp_path: Path, cohort: Path) -> None:
    study = write_study(tmp_path, cohort)
    text = study.read_text()
    study.write_text(text.replace("/genotypes", "/nothing"))
    code, said = ask("plan", study)
    assert code == 3
    assert "nothing.fam: No such file" in said
    assert f"{N_PEOPLE} scans" in said  # the rest is planned
    study.write_text(text.replace("/bids", "/nothing"))
    code, said = ask("plan", study)
    assert code == 3
    assert "no dataset_description.json" in said
    assert not (tmp_path / "out").exists()


def test_plan__jobs_of_the_cohort_are_done_as_they_were_last_run(
    tmp_path: Path, cohort: Path
) -> None:
    record = tmp_path / "out" / "logs" / "group" / "gwas.json"
    record.parent.mkdir(parents=True)
    write_json(record, {"job": "gwas", "exit_code": 0, "settings": "others than now"})
    said = ask("plan", write_study(tmp_path, cohort))[1]
    assert re.search(r"discovery +gwas +1 +1 +0 s", said), said
    assert re.search(rf"discovery +dti +{N_PEOPLE} +0 ", said), said
    assert "jobs of the cohort as they were last run" in " ".join(ask("plan", "--help")[1].split())


def test_wall_seconds__scans_side_by_side() -> None:
    steps = [StepPlan("", "dti", 6.0, of_scans=True), StepPlan("", "gwas", 4.0)]
    for _ in range(10):
        steps[0].add(Cost(20.0, 100, 1), done=False)
    steps[1].add(Cost(50.0, 300, 1), done=False)
    plan = StudyPlan(steps)
    assert [plan.wall_seconds(n) for n in (1, 2, 100)] == [250, 150, 70]
    assert [plan.memory_mb(n) for n in (1, 5)] == [300, 500]


@pytest.mark.parametrize("people", [1_000, 50_000])
def test_cost__grows_with_what_it_depends_on(people: int) -> None:
    assert pca_cost(2 * people, 10**6).seconds > 1.5 * pca_cost(people, 10**6).seconds
    assert gwas_cost(people, 10**7, 128).n_bytes > 10**7 * 128 * 4
    assert ridge_cost(2 * people, 10**6, 128).seconds > 1.9 * ridge_cost(people, 10**6, 128).seconds
    assert train_cost(900_000, people, 128, 6, 8, 10).seconds > 3600 * people / 10_000


def test_report_cost__grows_with_the_store_by_what_was_measured() -> None:
    least = report_cost(100, 0, 1)
    for variants, traits, seconds, megabytes in (  # beyond those of a page without a store
        (300_000, 32, 1.1, 146),
        (1_000_000, 8, 0.9, 267),
    ):
        cost = report_cost(100, variants, traits)
        assert 1 / 2 < (cost.seconds - least.seconds) / seconds < 2
        assert 1 / 2 < (cost.memory_mb - least.memory_mb) / megabytes < 2


def test_voxels_cost__holds_the_basis() -> None:
    template, latents = 7_221_032, 128
    basis = 4e-6 * 0.3 * template * latents  # MB
    for cost in (voxels_cost, voxel_h2_cost):
        assert 2 * basis < cost(template, latents).memory_mb < 6 * basis
    measured = voxel_h2_cost(667_000, 128)  # 200,000 of its voxels in the mask
    assert 15 < measured.seconds < 3 * 15


def test_fit_linear_cost__follows_what_was_measured_and_what_is_held_in_memory() -> None:
    measured = fit_linear_cost(79_507, 150, 10)  # 1.2 s after the program's start, 382 MB
    assert 1.2 < measured.seconds - 3 < 3 * 1.2
    assert 382 < measured.memory_mb < 600  # the program's own memory counts too
    few, many = (fit_linear_cost(7_221_032, people, 128) for people in (5_000, 50_000))
    assert few.memory_mb == many.memory_mb  # people are read a block at a time
    vectors = 4e-6 * 0.3 * 7_221_032 * 138  # MB
    assert 10 * vectors < many.memory_mb < 10 * vectors + 8_000
    assert many.seconds > 5 * few.seconds


def test_init__finds_a_cohort_and_writes_a_study_that_runs(cohort: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    code, said = ask("init", cohort, "--out", study)
    assert code == 0, said
    assert f"BIDS data set with raw DWI, {N_PEOPLE} people" in said
    settings = read_study(study)
    assert settings.bids == cohort / "bids"
    assert settings.genotypes == cohort / "genotypes.bed"
    assert settings.covariates == cohort / "covariates.tsv"
    assert settings.out == tmp_path / "derivatives" / "axoloci"
    content = study.read_text()
    assert '\ntraining_people = "refuse"\n' in content  # which a person shall see and decide on
    assert f'#covariates = "{cohort}/bids/participants.tsv"' in content
    code, said = ask("init", cohort, "--out", study)
    assert code == 1
    assert "not overwritten" in said
    assert study.read_text() == content
    assert ask("plan", study)[0] == 0


def test_init__names_one_file_a_chromosome_by_its_pattern(tmp_path: Path) -> None:
    for name in ("ukb_c1_b0", "ukb_c22_b0", "ukb_cX_b0", "ukb_call_b0"):
        for suffix in (".bed", ".bim", ".fam"):
            (tmp_path / f"{name}{suffix}").write_text("f i 0 0 0 0\n")
    _, said = ask("init", tmp_path, "--out", tmp_path / "study.toml")
    assert "ukb_c{chromosome}_b0.bed: PLINK 1 genotypes, 3 files, 1 people" in said
    assert "ukb_call_b0.bed: PLINK 1 genotypes, 1 people" in said


def test_init__every_key_of_the_schema_with_its_text(tmp_path: Path) -> None:
    code, said = ask("init", tmp_path, "--out", tmp_path / "study.toml")
    assert code == 3
    assert "missing: images" in said
    assert "missing: genotypes" in said
    text = (tmp_path / "study.toml").read_text()
    flat = " ".join(line.lstrip("# ") for line in text.splitlines())
    models = [m for name, m in vars(study_schema).items() if name.endswith("Settings")]
    assert StudySettings in models
    n_keys = 0
    for model in models:
        for name, info in model.model_fields.items():
            if info.description is None:  # a table of keys
                continue
            assert info.description in flat, name
            assert re.search(rf"^#?\[?{name}(\.NAME)?\]?( =|$)", text, flags=re.MULTILINE), name
            n_keys += 1
    assert n_keys > 25
    assert "the template's own (number ≥ 0.5 and ≤ 10)" in flat
    for line in (
        "max_bval = 1500",
        'method = "WLS"',
        "p_threshold = 5e-08",
        "learning_rate = 0.001",
    ):
        assert f"\n#{line}" in text
    assert "\n#n_latents =\n" in text  # the step decides by the number of people
    # what is a comment with a value is valid as it stands
    shown = re.sub(r"^#(\w+ = .+)$", r"\1", text, flags=re.MULTILINE)
    assert parse_settings(tomllib.loads(shown) | {"bids": "b"}, "x", tmp_path).gwas.n_pcs == 10


def test_init__takes_what_lies_nearest_to_the_scanner(processed: Path, tmp_path: Path) -> None:
    out = processed.parent / "out"
    (tmp_path / "g.bed").touch()
    shutil.copytree(out, tmp_path / "made", ignore=shutil.ignore_patterns("logs", "work"))
    maps = sorted((tmp_path / "made").glob("sub-*/dwi/*_model-tensor_param-fa_dwimap.nii.gz"))
    for fa in maps:  # they may have been removed by another test
        stem = str(fa).split("_space-")[0].split("_model-")[0]
        Path(f"{stem}_desc-preproc_dwi.nii.gz").touch()
    code, said = ask("init", tmp_path, "--out", tmp_path / "s.toml")
    assert code == 3
    assert "g.bed: no g.bim and no g.fam" in said
    found = find_data(tmp_path)
    assert {"preprocessed", "fa", "fa_common"} <= found.choices.keys()
    assert found.source == "preprocessed"
    assert "covariates" not in found.choices  # tables of the study itself
    settings = read_study(tmp_path / "s.toml")
    assert settings.preprocessed == tmp_path / "made"
    assert len(find_scans(settings)) == 2
    (tmp_path / "made" / "dataset_description.json").write_text("not json")
    assert find_data(tmp_path).source == "preprocessed"


@pytest.mark.parametrize(
    ("second", "said"),
    [((2, 2, 3), True), ((2, 2, 4), False), (None, False)],
    ids=["one grid", "two", "damaged"],
)
def test_init__says_in_the_file_whether_maps_are_of_one_grid(
    tmp_path: Path, second: tuple[int, ...] | None, said: bool
) -> None:
    write_nifti(tmp_path / "0011_FA.nii.gz", np.zeros((2, 2, 3), np.float32), np.eye(4))
    (tmp_path / "0012_FA.nii.gz").touch()
    if second is not None:
        write_nifti(tmp_path / "0012_FA.nii.gz", np.zeros(second, np.float32), np.eye(4))
    ask("init", tmp_path, "--out", tmp_path / "s.toml")
    text = (tmp_path / "s.toml").read_text()
    (note,) = (line for line in text.splitlines() if line.startswith("# found: 2 FA maps"))
    assert ("all of one grid" in note) == said
    assert "name them by fa_common if they are in one space already" in " ".join(
        line.lstrip("# ") for line in text.splitlines()
    )


def test_init__maps_by_a_pattern_and_tables_that_are_not_of_tabs(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    for name in ("0011_FA.nii.gz", "0012_FA.nii.gz", "0011_MD.nii.gz"):
        (tmp_path / "maps" / name).touch()
    (tmp_path / "people.csv").write_text("IID;age\n1;2\n")
    (tmp_path / "covar.csv").write_text("IID,age\n1,2\n")
    (tmp_path / "raw/sub-01/dwi").mkdir(parents=True)
    (tmp_path / "raw/sub-01/dwi/sub-01_dwi.nii.gz").touch()
    found = find_data(tmp_path)
    assert list(found.choices["fa"]) == [tmp_path / "maps" / "{participant_id}_FA.nii.gz"]
    assert list(found.choices["covariates"]) == [tmp_path / "covar.csv"]
    assert any("people.csv: looks like a table of people, but" in note for note in found.notes)
    assert any('"BIDSVersion": "1.9.0"' in line for line in found.missing)


def test_init__raw_dwi_that_is_not_bids_needs_a_table_of_scans(tmp_path: Path) -> None:
    for person in ("11", "12"):
        (tmp_path / person).mkdir()
        for name in ("x.nii.gz", "x.bval", "x.bvec", "t1.nii.gz", "t1.bval"):
            (tmp_path / person / name).touch()
    said = ask("init", tmp_path, "--out", tmp_path / "s.toml")[1]
    assert f"{tmp_path}/11/x.nii.gz: one of 2 DWI" in said
    assert "name them by scans (raw DWI: table participant_id, dwi, bval, bvec" in said
    (tmp_path / "scans.tsv").write_text("participant_id\tdwi\tbval\tbvec\n1\ta\tb\tc\n")
    assert not any("one of 2 DWI" in note for note in find_data(tmp_path).notes)


@pytest.mark.parametrize(
    ("columns", "taken"),
    [
        ({"brain_idps.tsv": "fa_1"}, "brain_idps.tsv"),
        ({"brain_idps.tsv": "fa_1", "pheno_covs.tsv": "Age"}, "pheno_covs.tsv"),
        ({"brain_idps.tsv": "fa_1", "participants.tsv": "sex"}, "participants.tsv"),
        ({"covariates.tsv": "age", "participants.tsv": "age"}, "covariates.tsv"),
        ({"brain_idps.tsv": "fa_1", "other.tsv": "fa_2"}, None),
        ({"brain_idps.tsv": "age", "other.tsv": "sex"}, None),
    ],
)
def test_init__covariates_are_a_table_that_is_so_without_doubt(
    tmp_path: Path, columns: dict[str, str], taken: str | None
) -> None:
    for name, column in columns.items():
        (tmp_path / name).write_text(f"IID\t{column}\n1\t2\n")
    code, said = ask("init", tmp_path, "--out", tmp_path / "s.toml")
    assert code == 3
    assert "or study a table of traits without images" in said
    assert ("which of" in said) == (taken is None)
    text = (tmp_path / "s.toml").read_text()
    assert tomllib.loads(text).get("covariates") == taken
    for name in columns:
        assert (f'#covariates = "{name}"' in text) == (name != taken)
        assert f'#traits = "{name}"' in text
    (tmp_path / "maps.tsv").write_text("participant_id\tfa\n1\ta.nii.gz\n")
    assert "traits" not in find_data(tmp_path).choices  # where there are images


def test_completion__study_files_and_folders(tmp_path: Path) -> None:
    for name in ("study.toml", "other.toml", "notes.txt", ".hidden.toml"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inner.toml").touch()

    def completed(words: str, cword: int) -> set[str]:
        done = subprocess.run(
            [str(BIN / "axoloci")],
            cwd=tmp_path,
            env={**os.environ, "_AXOLOCI_COMPLETE": "bash_complete", "COMP_WORDS": words,
                 "COMP_CWORD": str(cword)},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        return {line.partition(",")[2] for line in done.stdout.splitlines()}

    assert completed("axoloci run ", 2) == {"study.toml", "other.toml", "sub/"}
    assert completed("axoloci run st", 2) == {"study.toml"}
    assert completed("axoloci status sub/", 2) == {"sub/inner.toml"}
    assert completed(f"axoloci graph {tmp_path}/o", 2) == {f"{tmp_path}/other.toml"}
    assert "clean" in completed("axoloci cl", 1)


def test_inputs_of_the_commands__faults_are_named(tmp_path: Path) -> None:
    for command in ("status", "graph", "trace", "clean"):
        (tmp_path / "s.toml").write_text("bidz = 1\n")
        code, said = ask(command, tmp_path / "s.toml")
        assert code == 1
        assert "unknown key 'bidz'" in said
    with pytest.raises(InputError, match="not the output of a study"):
        read_jobs(tmp_path)
