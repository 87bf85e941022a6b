"""A study on Slurm: the profile, the scripts, what becomes of jobs; and a whole one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner
from faults import records, results
from support import N_PEOPLE, ROOT, axoloci, write_study, write_trait_study

from axoloci import environments, slurm
from axoloci.cli import main
from axoloci.engines import Engine, find_engine
from axoloci.errors import InputError
from axoloci.images import locked_images, sif_folder
from axoloci.io.files import write_json, write_text
from axoloci.io.sumstats import read_sumstats
from axoloci.job import fingerprint
from axoloci.scans import Scan, find_scans
from axoloci.slurm import JobState, parse_elements, parse_sacct, parse_scontrol, write_elements
from axoloci.slurm_profile import Profile, StepRequest, StepRequests, read_profile
from axoloci.study import StudyPaths, StudySettings, read_study
from axoloci.study_file import profile_text
from axoloci.workflows import cluster
from axoloci.workflows.cluster import check_stage, in_words, run_job, to_repeat
from axoloci.workflows.participants import (
    Cohort,
    Outcome,
    decisive_steps,
    quality_file,
    read_outcomes,
    recipe,
    write_outcome,
)
from axoloci.workflows.slurm_scripts import write_scripts
from axoloci.workflows.study import write_maps
from axoloci.workflows.submission import (
    Attempt,
    Ended,
    Request,
    Stage,
    StageState,
    read_scans,
    read_state,
    read_submission,
    write_state,
)

# Recorded from Slurm 22.05, where 7 is an array over scans.
SACCT = """\
7_0|COMPLETED|0:0|None|node1
7_1|OUT_OF_MEMORY|0:125|None|node1
7_2|TIMEOUT|0:0|None|node2
7_3|CANCELLED by 0|0:0|None|None assigned
7_4|FAILED|0:9|None|node1
7_[5-6,8%2]|PENDING|0:0|JobArrayTaskLimit|None assigned
9|CANCELLED|0:0|DependencyNeverSatisfied|None assigned
"""
SCONTROL = """\
JobId=11 ArrayJobId=7 ArrayTaskId=3 JobName=t UserId=root(0) JobState=NODE_FAIL \
Reason=NodeDown Dependency=(null) ExitCode=0:1 NodeList=node3 Command=/a b/c=d.sh

JobId=9 JobName=t JobState=PENDING Reason=Dependency ExitCode=0:0 NodeList=(null)
"""


def ask(*arguments: object) -> tuple[int, str]:
    """Exit code and output of a command, in this process."""
    done = CliRunner().invoke(main, [str(word) for word in arguments])
    return done.exit_code, done.output


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A profile that names what no default does."""
    path = tmp_path / "slurm.toml"
    path.write_text(
        "[slurm]\n"
        'account = "lab"\npartition = "short"\ngpu_partition = "gpus"\nmax_array_running = 3\n'
        'scans_per_element = 4\nscratch = "/local/$USER"\nimages = "images"\nretries = 1\n'
        'extra = ["--qos=long"]\nsetup = ["module load apptainer"]\n'
        "[steps.preprocess]\nmemory_gb = 3\nminutes = 20\ncpus = 2\n"
        "[steps.dti]\nmemory_gb = 2\nminutes = 5\n"
        "[steps.normalize]\nmemory_gb = 1\nminutes = 0.4\n"
    )
    return path


@pytest.fixture
def submitted(cohort: Path, tmp_path: Path, profile: Path) -> Path:
    """A study in a folder of an unusual name, whose scripts are written and not submitted."""
    folder = tmp_path / "Zürich's study"
    folder.mkdir()
    study = write_study(folder, cohort)
    code, said = ask("submit", study, "--profile", profile, "--dry-run")
    assert code == 0, said
    (folder / "said.txt").write_text(said)
    return study


def test_profile__unknown_keys_are_refused_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('[slurm]\nacount = "x"\n[steps.preproces]\n[steps.dti]\nmemory = 3\n')
    with pytest.raises(InputError) as error:
        read_profile(path)
    message = str(error.value)
    assert "unknown key 'slurm.acount'; did you mean 'account'?" in message
    assert "unknown key 'steps.preproces'; did you mean 'preprocess'?" in message
    assert "unknown key 'steps.dti.memory'; did you mean 'memory_gb'?" in message


@pytest.mark.parametrize("option", ["--array=1", "--export=ALL", "qos=long"])
def test_profile__options_that_axoloci_sets_itself_are_refused(tmp_path: Path, option: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(f'[slurm]\nextra = ["{option}"]\n')
    with pytest.raises(InputError, match=r"slurm\.extra"):
        read_profile(path)


def test_profile_text__is_a_profile_with_all_keys(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(profile_text())
    assert read_profile(path) == Profile()
    given = "".join(
        f"{line.removeprefix('#')}\n"
        for line in profile_text().splitlines()
        if not line.startswith("# ") and not line.endswith("=")
    )
    path.write_text(given)
    assert read_profile(path) == Profile()
    code, said = ask("init", tmp_path, "--out", tmp_path / "s.toml", "--slurm", path)
    assert code == 1
    assert "p.toml: is there already" in said


def test_elements__are_written_and_read_as_slurm_does() -> None:
    assert write_elements([7, 0, 1, 2, 9]) == "0-2,7,9"
    assert parse_elements("[0-2,7,9%20]") == [0, 1, 2, 7, 9]
    assert parse_elements("1-9:4") == [1, 5, 9]


def test_parse_sacct__recorded_text() -> None:
    states = parse_sacct(SACCT)
    assert {key: state.state for key, state in states.items() if key[1] in (0, 1, 2, 3)} == {
        (7, 0): "COMPLETED",
        (7, 1): "OUT_OF_MEMORY",
        (7, 2): "TIMEOUT",
        (7, 3): "CANCELLED",
    }
    assert [states[7, k].lacks for k in range(5)] == ["", "memory", "time", "", "memory"]
    assert [states[7, k].ended for k in (3, 5, 6, 8)] == [True, False, False, False]
    assert states[7, 3].reason == "by 0"
    assert states[9, None].reason == "DependencyNeverSatisfied"


def test_parse_scontrol__recorded_text() -> None:
    states = parse_scontrol(SCONTROL)
    assert states[7, 3] == JobState(7, 3, "NODE_FAIL", 129, "NodeDown", "node3")
    assert states[7, 3].lacks == "node"
    assert states[9, None] == JobState(9, None, "PENDING", 0, "Dependency", "")


def test_submit__a_dry_run_keeps_what_is_known_of_jobs(submitted: Path, profile: Path) -> None:
    submission = read_submission(submitted.parent / "out")
    state = stage_state(Ended(state="TIMEOUT"))
    write_state(submission, submission.stage("participants"), state)
    code, said = ask("submit", submitted, "--profile", profile, "--dry-run")
    assert code == 1
    assert "a dry run would forget how its jobs ended" in said
    assert read_state(submission, submission.stage("participants")) == state


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`answers("sacct", text)`: a program of Slurm that prints a text."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def pretend(name: str, text: str, code: int = 0) -> None:
        (tmp_path / f"{name}.txt").write_text(text)
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\ncat "{tmp_path}/{name}.txt"\nexit {code}\n')
        program.chmod(0o755)

    return pretend


def test_job_states__of_elements_that_the_accounting_does_not_know_yet(
    answers: Callable[..., None],
) -> None:
    answers("sacct", "7_0|COMPLETED|0:0|None|node1\n")
    answers(
        "scontrol",
        "JobId=7 ArrayJobId=7 ArrayTaskId=0 JobState=COMPLETING ExitCode=0:0\n"
        "JobId=8 ArrayJobId=7 ArrayTaskId=1 JobState=OUT_OF_MEMORY ExitCode=0:125\n",
    )
    states = slurm.job_states([7])
    assert {key: state.state for key, state in states.items()} == {
        (7, 0): "COMPLETED",
        (7, 1): "OUT_OF_MEMORY",
    }


def test_waiting_for__no_answer_is_not_that_none_waits(answers: Callable[..., None]) -> None:
    answers("squeue", "12|afterok:50(unfulfilled)\n13|afterok:501(unfulfilled)\n")
    assert slurm.waiting_for(50) == {12: "afterok:50"}
    answers("squeue", "", 1)
    with pytest.raises(InputError, match="what waits for job 50"):
        slurm.waiting_for(50)


def test_submit__scripts_say_what_the_profile_asks(submitted: Path, profile: Path) -> None:
    folder = submitted.parent / "out" / "slurm"
    scripts = {path.name: path.read_text() for path in folder.glob("*.sh")}
    assert sorted(scripts) == [
        "1_participants.sh",
        "2_train.sh",
        "3_prepare.sh",
        "4_associate.sh",
        "5_conclude.sh",
        "6_report.sh",
        "check.sh",
    ]
    text = scripts["1_participants.sh"]
    # two scans at a time of 3 GB each, and what axoloci takes itself; (20 + 5 + 0.4) min and some
    # seconds for a page × 2 rounds
    for line in ("mem=6900M", "time=51", "cpus-per-task=2", "array=0-3%3", "account=lab"):
        assert f"\n#SBATCH --{line}\n" in text
    for line in ("partition=short", "qos=long", "export=NONE", "no-requeue"):
        assert f"\n#SBATCH --{line}\n" in text
    assert f"AXOLOCI_IMAGES={profile.parent}/images\n" in text.replace("'", "")
    assert 'scratch="/local/$USER"' in text
    assert "module load apptainer" in text
    assert "gres" not in text
    assert "CUDA_VISIBLE_DEVICES=\n" in text
    assert "--partition=gpus\n" in scripts["2_train.sh"]
    assert "--gres=gpu:1\n" in scripts["2_train.sh"]
    assert "CUDA_VISIBLE_DEVICES" not in scripts["2_train.sh"]
    assert "#SBATCH --array=0-21%3\n" in scripts["4_associate.sh"]
    assert "scratch" not in scripts["check.sh"]


def test_submit__a_page_asks_for_itself_and_not_as_the_report(study: Path, profile: Path) -> None:
    """What the report of a large study needs, no scan does; and the page costs next to nothing."""
    text = profile.read_text()
    of_report = '[steps.report]\nmemory_gb = 50\nminutes = 600\ncpus = 4\npartition = "large"\n'

    def stages(own: str) -> list[Stage]:
        profile.write_text(own)
        settings = read_study(study)
        scans = {"discovery": find_scans(settings)}
        return cluster.freeze(settings, read_profile(profile), "native", scans).stages()

    def asked(own: str) -> Request:
        return stages(own)[0].request

    named, unnamed = asked(text), asked("")
    assert asked(text + of_report) == named
    assert asked(of_report) == unnamed
    last = stages(text + of_report)[-1].request
    assert (last.memory_mb, last.minutes, last.cpus) == (50_500, 600, 4)
    assert stages(text)[0].steps == ("preprocess", "dti", "normalize", "report")  # images needed
    study.write_text(study.read_text() + "\n[qc]\npages = false\n")
    for request, without in ((named, asked(text)), (unnamed, asked(""))):
        assert request == without.model_copy(update={"minutes": request.minutes})
        assert 0 <= request.minutes - without.minutes <= 1
    assert "report" not in stages(text)[0].steps


def test_submit__in_containers_a_gpu_is_for_images_with_cuda(
    submitted: Path,
    profile: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pinned = {name: image for name, image in locked_images().items() if image.variant == "cpu"}
    monkeypatch.setattr(environments, "locked_images", lambda: pinned)
    profile.write_text(f"{profile.read_text()}[steps.gwas]\ngpu = true\n")
    settings, chosen = read_study(submitted), read_profile(profile)

    def on_gpu() -> dict[str, bool]:
        caplog.clear()
        stages = cluster.freeze(settings, chosen, "docker", {}).stages()
        return {stage.name: stage.request.gpu for stage in stages}

    assert not any(on_gpu().values())
    assert "encoder, gwas: will compute on CPUs" in caplog.text
    assert "axoloci images build encoder-cuda gwas-cuda --lock" in caplog.text
    pinned["encoder-cuda"] = pinned["encoder"]
    assert [name for name, gpu in on_gpu().items() if gpu] == ["train", "prepare"]
    assert "images build gwas-cuda --lock" in caplog.text
    pinned["gwas-cuda"] = pinned["gwas"]
    assert on_gpu()["associate"]
    assert "CPUs" not in caplog.text
    gwas = settings.gwas.model_copy(update={"device": "cuda"})
    settings = settings.model_copy(update={"gwas": gwas})
    del pinned["gwas-cuda"]
    with pytest.raises(InputError, match="axoloci images build gwas-cuda --lock"):
        on_gpu()


def test_submit__scripts_are_clean_shell(submitted: Path, tool: Callable[[str], str]) -> None:
    scripts = sorted((submitted.parent / "out" / "slurm").glob("*.sh"))
    done = subprocess.run([tool("shellcheck"), *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_submit__each_stage_waits_for_the_check_of_the_one_before(submitted: Path) -> None:
    lines = (submitted.parent / "said.txt").read_text().splitlines()
    lines = [line for line in lines if "sbatch" in line]
    assert len(lines) == 12
    assert "dependency" not in lines[0]
    assert "--dependency=afterany:$participants " in lines[1]
    assert lines[1].endswith("check.sh' participants $participants)") or lines[1].endswith(
        "check.sh participants $participants)"
    )
    assert "--dependency=afterok:$check_participants " in lines[2]
    assert "--dependency=afterany:$check_conclude " in lines[10]  # the report, whatever failed
    # the lines are shell: a stand-in for sbatch numbers them
    program = "sbatch() { echo $#; }\n" + "\n".join(lines)
    subprocess.run(["bash", "-euc", program], check=True)


def test_submit__several_cohorts(cohort: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path, cohort, min_participants=7)
    people = sorted(path.name for path in (cohort / "bids").glob("sub-*"))
    for name, own in (("a", people[:7]), ("b", people[7:])):
        (tmp_path / f"{name}.tsv").write_text("\n".join(["IID", *own]) + "\n")
    study.write_text(
        f'{study.read_text()}\n[discovery]\nkeep = "a.tsv"\n[replication]\nkeep = "b.tsv"\n'
    )
    code, said = ask("submit", study, "--dry-run")
    assert code == 0, said
    submission = read_submission(tmp_path / "out")
    assert [stage.name for stage in submission.stages()] == [
        "participants",
        "discovery_train",
        "discovery_prepare",
        "discovery_associate",
        "discovery_conclude",
        "replication_prepare",
        "replication_associate",
        "replication_conclude",
        "report",
    ]
    # what is frozen is the study itself, and the scans are those of its cohorts
    assert submission.settings == read_study(study)
    assert submission.settings.cohorts() == read_study(study).cohorts()
    scans = read_scans(submission)
    assert {name: len(own) for name, own in scans.items()} == {"discovery": 7, "replication": 7}
    assert read_scans(submission, 7)["replication"] == [scans["replication"][0]]


@pytest.fixture
def of_traits(cohort: Path, tmp_path: Path) -> Path:
    """A study of a trait, without scans."""
    return write_trait_study(tmp_path, cohort, height=lambda number: number % 7)


def test_submit__traits_need_no_scans(of_traits: Path) -> None:
    settings = read_study(of_traits)
    lines = cluster.submit_study(settings, Profile(), env="native", n_procs=1, dry_run=True)
    assert [line.split("=")[0] for line in lines][::2] == [
        "prepare",
        "associate",
        "conclude",
        "report",
    ]


def test_submit__a_mixed_model_is_a_job_of_its_own(of_traits: Path, tmp_path: Path) -> None:
    of_traits.write_text(
        f'{of_traits.read_text()}mixed_model = true\nregion = ["2", "5:1-9999999"]\n'
    )
    settings = read_study(of_traits)
    profile = Profile(steps=StepRequests(gwas=StepRequest(minutes=30)))
    lines = cluster.submit_study(settings, profile, env="native", n_procs=1, dry_run=True)
    assert [line.split("=")[0] for line in lines][::2] == [
        *("prepare", "ridge", "plan", "associate", "conclude", "report"),
    ]
    scripts = {path.name: path.read_text() for path in (tmp_path / "out" / "slurm").glob("*.sh")}
    assert " ridge --n-procs" in scripts["2_ridge.sh"]
    assert "#SBATCH --time=30\n" in scripts["2_ridge.sh"]
    on_gpu = Profile(steps=StepRequests(gwas=StepRequest(gpu=True)))
    stages = cluster.freeze(settings, on_gpu, "native", {}).stages()
    assert [s.name for s in stages if not s.request.gpu] == ["ridge", "report"]
    submission = read_submission(tmp_path / "out")
    assert list(submission.chromosomes["discovery"]) == ["2", "5"]
    assert "#SBATCH --array=0-1%200\n" in scripts["4_associate.sh"]
    for stage in submission.stages()[:-1]:
        if stage.action == "associate":
            for element in range(2):
                assert run_job(tmp_path / "out", stage.name, element, 1) == 0
        else:
            assert run_job(tmp_path / "out", stage.name, None, 1) == 0
    store = read_sumstats(tmp_path / "out" / "group" / "sumstats")
    assert store.of_mixed_model
    assert {part["chromosome"] for part in store.info["parts"]} == {"2", "5"}


def test_run__takes_over_what_slurm_could_not_finish(
    of_traits: Path, fake_slurm: dict[str, list[object]]
) -> None:
    assert ask("submit", of_traits)[0] == 0
    fake_slurm["states"] = [JobState(101, None, "PENDING")]
    code, said = ask("run", of_traits)
    assert code == 1
    assert "still in Slurm's queue; wait for them, or end them by: scancel 101" in said
    fake_slurm["states"] = [JobState(101, None, "TIMEOUT")]
    code, said = ask("status", of_traits)
    assert code == 3
    assert "failed in Slurm: prepare: over its time limit" in said
    assert ask("run", of_traits)[0] == 0
    code, said = ask("status", of_traits)
    assert code == 0, said
    assert "Slurm" not in said


def test_submit__goes_on_after_another_version(
    submitted: Path, fake_slurm: dict[str, list[object]]
) -> None:
    cluster.resubmit_study(read_study(submitted), None, dry_run=False)
    file = submitted.parent / "out" / "work" / "slurm" / "submission.json"
    file.write_text(file.read_text().replace('"n_scans"', '"n_pictures"'))
    code, said = ask("status", submitted)
    assert code == 3
    assert "nothing is told of its jobs in Slurm" in said
    assert "run axoloci submit again" in said
    fake_slurm["states"] = [JobState(101, 0, "RUNNING")]
    assert "still in Slurm's queue" in ask("submit", submitted)[1]
    fake_slurm["states"] = []
    assert ask("submit", submitted)[0] == 0
    assert "nothing is told" not in ask("status", submitted)[1]


def test_submit__without_a_profile_the_last_one_holds(
    of_traits: Path, profile: Path, tmp_path: Path
) -> None:
    def said(*words: object) -> str:
        code, text = ask("submit", of_traits, "--dry-run", *words)
        assert code == 0, text
        return text

    script = tmp_path / "out" / "slurm" / "1_prepare.sh"
    assert "as last time" not in said() + said()
    assert "account" not in script.read_text()
    assert "as last time" not in said("--profile", profile)
    assert "--account=lab\n" in script.read_text()
    before = read_submission(tmp_path / "out")
    assert "as last time: the profile of the cluster" in said()
    assert "--account=lab\n" in script.read_text()
    assert read_submission(tmp_path / "out") == before
    file = tmp_path / "out" / "work" / "slurm" / "submission.json"
    file.write_text(file.read_text().replace('"account"', '"acount"'))
    code, text = ask("submit", of_traits, "--dry-run")
    assert code == 1
    assert "name one by --profile" in text


def test_script__nothing_of_the_data_becomes_a_command(submitted: Path) -> None:
    """A chromosome of a .bim may be quoted, over lines; a study file may come from anybody."""
    folder = submitted.parent / "out" / "slurm"
    submission = read_submission(submitted.parent / "out")
    evil = {"discovery": {"1\ntouch evil": 1, "2": 1}}
    write_scripts(submission.model_copy(update={"chromosomes": evil}))
    for path in folder.glob("*.sh"):
        assert "\ntouch" not in path.read_text()
    submitted.write_text(submitted.read_text().replace('out = "out"', 'out = "out\\ntouch evil"'))
    code, said = ask("submit", submitted, "--dry-run")
    assert code == 1
    assert "has a line break in its name" in said


def test_script__setup_may_use_what_is_not_set(submitted: Path) -> None:
    script = submitted.parent / "out" / "slurm" / "2_train.sh"
    text = script.read_text()
    script.write_text(text.replace("module load apptainer", "echo before: $NEVER_SET"))
    done = by_hand(script)
    assert "before:" in done.stdout
    assert "has no folder of images" in done.stderr


def test_submit__without_slurm_says_so(
    submitted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, said = ask("submit", submitted)
    assert code == 1
    assert "not found; run this where Slurm's commands are" in said


def test_submit__looks_for_images_where_the_jobs_will(study: Path, tmp_path: Path) -> None:
    programs, profile = tmp_path / "programs", tmp_path / "p.toml"
    programs.mkdir()
    (programs / "apptainer").write_text("#!/bin/sh\n")
    (programs / "apptainer").chmod(0o755)
    profile.write_text('[slurm]\nimages = "shared"\n')
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    words = ("submit", study, "--profile", profile, "--env", "singularity", "--dry-run")
    done = axoloci(*words, check=False, env=env)
    assert done.returncode == 1
    assert f" preprocess report --folder {tmp_path / 'shared'}\n" in done.stderr


def test_submit__an_engine_that_the_jobs_load_may_be_missing_here(
    of_traits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("AXOLOCI_IMAGES", str(tmp_path))
    find_engine.cache_clear()
    environments._located.cache_clear()
    profile = tmp_path / "p.toml"
    words = ("submit", of_traits, "--profile", profile, "--dry-run", "--env")
    for setup, env, expected in (
        ("", "singularity", "name that line in 'setup' of the profile"),
        ('setup = ["module load apptainer"]', "singularity", "axoloci images sif "),  # the files
        ('setup = ["module load podman"]', "docker", "sbatch"),
    ):
        profile.write_text(f"[slurm]\n{setup}\n")
        code, said = ask(*words, env)
        assert expected in said, said
        assert code == (1 if env == "singularity" else 0)
        assert ("is installed" in said) == (not setup)


def test_with_images__names_the_folder_of_the_submitting_shell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AXOLOCI_IMAGES", str(tmp_path))
    assert cluster.with_images(Profile(), "singularity").slurm.images == tmp_path
    assert cluster.with_images(Profile(), "native").slurm.images is None


def test_submit__stops_at_faults_of_the_study(study: Path) -> None:
    study.write_text(study.read_text().replace("covariates.tsv", "covariatez.tsv"))
    code, said = ask("submit", study, "--dry-run")
    assert code == 1
    assert "covariatez.tsv: no such file" in said
    assert not (study.parent / "out").exists()


def test_resubmit__refuses_another_study(submitted: Path, tmp_path: Path, cohort: Path) -> None:
    (tmp_path / "new").mkdir()
    code, said = ask("resubmit", write_study(tmp_path / "new", cohort))
    assert code == 1
    assert "was not submitted to Slurm yet" in said
    submitted.write_text(submitted.read_text() + "[dti]\nmax_bval = 1400\n")
    code, said = ask("resubmit", submitted, "--dry-run")
    assert code == 1
    assert "run axoloci submit again" in said


# --- what becomes of jobs -----------------------------------------------------------------------

SMALL = Request(memory_mb=1000, minutes=10, cpus=1)


def stage_state(*ends: Ended, tries: int = 1) -> StageState:
    """Elements that have ended, each tried so many times."""
    attempts = [
        Attempt(job=number, elements=tuple(range(len(ends))), request=SMALL)
        for number in range(1, tries + 1)
    ]
    return StageState(attempts=tuple(attempts), ended=dict(enumerate(ends)))


def test_to_repeat__more_of_what_was_lacking() -> None:
    state = stage_state(
        Ended(state="COMPLETED"),
        Ended(state="OUT_OF_MEMORY"),
        Ended(state="TIMEOUT"),
        Ended(state="FAILED", exit_code=137),
        Ended(state="FAILED", exit_code=1),
        Ended(state="CANCELLED"),
        Ended(state="NODE_FAIL"),
    )
    profile = Profile.model_validate({"slurm": {"retry_factor": 1.5}})
    assert to_repeat(state, [1], profile) == [
        (SMALL.model_copy(update={"memory_mb": 1500}), [1, 3]),
        (SMALL.model_copy(update={"minutes": 15}), [2]),
        (SMALL, [6]),
    ]


def test_to_repeat__within_bounds_and_only_what_has_just_ended() -> None:
    end = Ended(state="TIMEOUT")
    profile = Profile.model_validate({"slurm": {"retries": 2}})
    assert to_repeat(stage_state(end, tries=2), [2], profile)
    assert not to_repeat(stage_state(end, tries=3), [3], profile)
    assert not to_repeat(stage_state(end, tries=2), [1], profile)
    assert not to_repeat(stage_state(end), [1], Profile.model_validate({"slurm": {"retries": 0}}))


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (
            Ended(state="OUT_OF_MEMORY"),
            "out of memory in 2 tries, the last with 1000 MB (Slurm: OUT_OF_MEMORY); raise "
            "memory_gb of [steps.preprocess] or [steps.dti] or [steps.normalize] in the profile",
        ),
        (Ended(state="FAILED", exit_code=137), "out of memory in 2 tries"),
        (Ended(state="TIMEOUT"), "over its time limit in 2 tries, the last of 10 min"),
        (Ended(state="CANCELLED", reason="by 0"), "cancelled by root (uid 0) (Slurm: CANCELLED)"),
        (Ended(state="CANCELLED", reason="by 123456"), "cancelled by uid 123456"),
        (Ended(state="CANCELLED", reason="before it began"), "cancelled before it began (Slurm"),
        (Ended(state="NODE_FAIL", node="node7"), "its node node7 failed in 2 tries"),
        (Ended(state="FAILED", exit_code=1, reason="no space"), "no space (Slurm: exit 1)"),
        (Ended(state="UNKNOWN"), "it ended without a word"),
    ],
)
def test_in_words__names_reason_and_mend(submitted: Path, end: Ended, words: str) -> None:
    stage = read_submission(submitted.parent / "out").stage("participants")
    said = in_words(stage, stage_state(end, tries=2), 0)
    assert said.startswith(words)
    assert "; " in said


@pytest.fixture
def fake_slurm(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[object]]:
    """Slurm's answers: `states` are to be filled; what is submitted and changed is kept."""
    kept: dict[str, list[object]] = {"submitted": [], "waits": [], "states": []}

    def submit_job(command: list[str]) -> int:
        kept["submitted"].append(command)
        return 100 + len(kept["submitted"])

    def job_states(jobs: list[int]) -> slurm.States:
        found = [state for state in kept["states"] if isinstance(state, JobState)]
        return {(state.job, state.element): state for state in found if state.job in jobs}

    monkeypatch.setattr(slurm, "is_here", lambda: True)
    monkeypatch.setattr(slurm, "submit_job", submit_job)
    monkeypatch.setattr(slurm, "job_states", job_states)
    monkeypatch.setattr(slurm, "waiting_for", lambda job: {55: f"afterok:{job}"})
    monkeypatch.setattr(slurm, "wait_instead", lambda *words: kept["waits"].append(words))
    monkeypatch.setattr(slurm, "max_array_size", lambda: 1001)
    monkeypatch.setenv("SLURM_JOB_ID", "50")
    return kept


def test_check__submits_again_and_lets_the_next_stage_wait(
    submitted: Path, fake_slurm: dict[str, list[object]]
) -> None:
    out = submitted.parent / "out"
    fake_slurm["states"] = [
        JobState(7, 0, "COMPLETED"),
        JobState(7, 1, "OUT_OF_MEMORY"),
        JobState(7, 2, "TIMEOUT"),
        JobState(7, 3, "OUT_OF_MEMORY"),
    ]
    assert check_stage(out, "participants", [7]) == 0
    memory, minutes, following = fake_slurm["submitted"]
    assert isinstance(memory, list)
    assert isinstance(minutes, list)
    assert isinstance(following, list)
    script = str(out / "slurm" / "1_participants.sh")
    assert memory[2:] == ["--mem=13800M", "--time=51", "--array=1,3%3", script]
    assert minutes[2:] == ["--mem=6900M", "--time=102", "--array=2%3", script]
    assert following[2:] == [
        "--dependency=afterany:101:102",
        str(out / "slurm" / "check.sh"),
        "participants",
        "101",
        "102",
    ]
    assert fake_slurm["waits"] == [(55, "afterok:103")]
    # the second time they are over again, the bound of the profile is reached
    fake_slurm["states"] = [
        JobState(101, 1, "OUT_OF_MEMORY"),
        JobState(101, 3, "COMPLETED"),
        JobState(102, 2, "TIMEOUT"),
    ]
    assert check_stage(out, "participants", [101, 102]) == 1  # no scan is finished at all
    assert len(fake_slurm["submitted"]) == 3
    scans = (out / "scans.tsv").read_text()
    assert "out of memory in 2 tries, the last with 13800 MB" in scans
    assert "over its time limit in 2 tries, the last of 102 min" in scans
    state = read_state(read_submission(out), read_submission(out).stage("participants"))
    assert not state.done
    assert "people with a finished scan: 0, fewer than min_participants" in state.error


def test_check__what_slurm_refuses_costs_the_others_no_try(
    submitted: Path, fake_slurm: dict[str, list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, submit_job = submitted.parent / "out", slurm.submit_job

    def refuse_memory(command: list[str]) -> int:
        if "--mem=13800M" in command:
            raise InputError("no node has so much")
        return submit_job(command)

    monkeypatch.setattr(slurm, "submit_job", refuse_memory)
    fake_slurm["states"] = [
        JobState(7, 0, "OUT_OF_MEMORY"),
        JobState(7, 1, "TIMEOUT"),
        JobState(7, 2, "COMPLETED"),
        JobState(7, 3, "COMPLETED"),
    ]
    assert check_stage(out, "participants", [7]) == 0
    again, following = fake_slurm["submitted"]
    assert "--array=1%3" in str(again)
    assert "afterany:101" in str(following)
    state = read_state(read_submission(out), read_submission(out).stage("participants"))
    assert [len(state.tries(element)) for element in range(4)] == [1, 2, 1, 1]


def test_check__a_scan_keeps_its_own_reason(
    submitted: Path, fake_slurm: dict[str, list[object]]
) -> None:
    """What failed by itself before the element was killed, or was finished, stays so."""
    out = submitted.parent / "out"
    submission = read_submission(out)
    settings = submission.settings.cohorts()["discovery"]
    made_by = recipe(settings, "native")
    mine = read_scans(submission, 0)["discovery"]
    for scan, words in ((mine[0], "is truncated"), (mine[1], "killed by SIGTERM")):
        outcome = Outcome(scan.prefix, scan.sample_id, "failed", words, made_by=made_by)
        write_outcome(outcome, StudyPaths(out))
        code = 1 if "truncated" in words else -15
        record = {"job": "dti", "exit_code": code}
        write_json(out / "logs" / scan.prefix / "dti.json", record)
    fake_slurm["states"] = [JobState(7, 0, "CANCELLED", reason="by 0")]
    fake_slurm["states"] += [JobState(7, element, "COMPLETED") for element in (1, 2, 3)]
    assert check_stage(out, "participants", [7]) == 1
    reasons = {
        line.split("\t")[0]: line.split("\t")[3]
        for line in (out / "scans.tsv").read_text().splitlines()
    }
    assert reasons[mine[0].prefix] == "is truncated"
    assert "cancelled by root (uid 0)" in reasons[mine[1].prefix]
    assert "cancelled by root (uid 0)" in reasons[mine[2].prefix]


def test_status__names_what_slurm_knows(
    submitted: Path, fake_slurm: dict[str, list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = submitted.parent / "out"
    lines = cluster.resubmit_study(read_study(submitted), None, dry_run=False)
    assert len(lines) == 12
    fake_slurm["states"] = [
        JobState(101, 0, "TIMEOUT", node="node1"),
        JobState(101, 1, "RUNNING"),
        JobState(101, 2, "PENDING"),
        JobState(101, 3, "CANCELLED", reason="by 0"),
        JobState(103, None, "CANCELLED", reason="DependencyNeverSatisfied"),
        JobState(107, 0, "FAILED", exit_code=1, node="node2"),
    ]
    log_file = out / "slurm" / "logs" / "associate-107_0.log"
    log_file.write_text("Error: node node2 has no folder of images /images\n")
    write_json(
        out / "work" / "slurm" / "ended" / "prepare.json",
        {"job": "105", "exit_code": 1, "reason": "No space left on device"},
    )
    code, said = ask("status", submitted)
    assert code == 3
    assert "over its time limit, the last of 51 min (Slurm: TIMEOUT)" in said
    assert "cancelled by root (uid 0) (Slurm: CANCELLED)" in said
    assert "failed in Slurm: train: not begun, for the stage before it failed" in said
    assert "failed in Slurm: associate: 1: node node2 has no folder of images /images" in said
    assert "failed in Slurm: prepare: No space left on device (Slurm: exit 1)" in said
    with pytest.raises(InputError, match=r"still in Slurm's queue.*scancel 101"):
        cluster.resubmit_study(read_study(submitted), None, dry_run=False)


def test_status__a_lost_check_is_named(
    submitted: Path, fake_slurm: dict[str, list[object]]
) -> None:
    cluster.resubmit_study(read_study(submitted), None, dry_run=False)
    fake_slurm["states"] = [JobState(101, element, "COMPLETED") for element in range(4)]
    fake_slurm["states"] += [JobState(102, None, "OUT_OF_MEMORY")]
    code, said = ask("status", submitted)
    assert code == 3
    assert "participants: its check was lost (Slurm: OUT_OF_MEMORY); raise memory_gb" in said


def test_status__where_slurm_cannot_be_asked_nothing_is_cancelled(
    submitted: Path, fake_slurm: dict[str, list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.resubmit_study(read_study(submitted), None, dry_run=False)
    monkeypatch.setattr(slurm, "is_here", lambda: False)
    _, said = ask("status", submitted)
    assert "cancelled" not in said
    assert "failed" not in said.replace(" failed ", "")


@pytest.mark.parametrize("error", [InputError("Slurm refuses it"), KeyboardInterrupt()])
def test_submit__half_a_chain_is_taken_back(
    submitted: Path,
    fake_slurm: dict[str, list[object]],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    cancelled: list[int] = []
    monkeypatch.setattr(slurm, "cancel", cancelled.extend)
    submit_job = slurm.submit_job

    def refuse_the_fourth(command: list[str]) -> int:
        if len(fake_slurm["submitted"]) == 3:
            raise error
        return submit_job(command)

    monkeypatch.setattr(slurm, "submit_job", refuse_the_fourth)
    with pytest.raises(type(error)):
        cluster.resubmit_study(read_study(submitted), None, dry_run=False)
    assert cancelled == [101, 102, 103]


def finish(scan: Scan, settings: StudySettings) -> None:
    """Leave of a scan what a finished one leaves."""
    fa = settings.out / scan.folder / "fa.nii.gz"
    write_text(fa, "")
    for step in decisive_steps(settings):
        file = quality_file(scan, step, settings)
        assert file is not None
        write_json(file, {"n": 1})
    state = fingerprint(fa)
    about = {"fa": str(fa.relative_to(settings.out)), "fa_sha256": state.pop("sha256")}
    made_by = recipe(settings, "native")
    outcome = Outcome(scan.prefix, scan.sample_id, "ok", fa_state=state, made_by=made_by, **about)
    write_outcome(outcome, StudyPaths(settings.out))


def test_resubmit__takes_what_is_not_finished(
    submitted: Path, fake_slurm: dict[str, list[object]], profile: Path
) -> None:
    out = submitted.parent / "out"
    submission = read_submission(out)
    discovery = submission.settings.cohorts()["discovery"]
    scans = read_scans(submission)["discovery"]
    for number, scan in enumerate(scans):
        if number not in (5, 13):  # of the elements 1 and 3, of four scans each
            finish(scan, discovery)
    profile.write_text(profile.read_text().replace("memory_gb = 3", "memory_gb = 5"))
    lines = cluster.resubmit_study(submission.settings, read_profile(profile), dry_run=True)
    assert "--array=1,3%3" in lines[0]
    assert len(lines) == 12
    assert "#SBATCH --mem=10900M\n" in (out / "slurm" / "1_participants.sh").read_text()
    # all scans are finished, and two chromosomes are not
    for number in (5, 13):
        finish(scans[number], discovery)
    for stage in submission.stages()[:3]:
        write_state(submission, stage, StageState(done=True))
    ends = [Ended(state="FAILED" if number in (2, 5) else "COMPLETED") for number in range(22)]
    write_state(submission, submission.stage("associate"), stage_state(*ends))
    lines = cluster.resubmit_study(submission.settings, None, dry_run=True)
    assert lines[0].startswith("associate=")
    assert "--array=2,5%3" in lines[0]
    assert len(lines) == 6
    # and then a scan is left out: of the scans only the check is run, and all that follows
    paths = StudyPaths(out)
    write_maps(Cohort(discovery, scans, read_outcomes(scans, discovery, "native")))
    assert len(cluster.resubmit_study(submission.settings, None, dry_run=True)) == 6
    paths.exclude.write_text(f"scan\texclude\n{scans[1].prefix}\tyes\n")
    lines = cluster.resubmit_study(submission.settings, None, dry_run=True)
    assert lines[0].startswith("check_participants=")
    assert len(lines) == 11


# --- by hand, without Slurm ---------------------------------------------------------------------


def by_hand(script: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a user does who has no Slurm."""
    return subprocess.run(
        ["bash", str(script)], capture_output=True, text=True, env={**os.environ, **variables}
    )


def test_script__by_hand_does_one_element(cohort: Path, tmp_path: Path) -> None:
    folder = tmp_path / "größe 1"
    folder.mkdir()
    study = write_study(folder, cohort)
    profile = tmp_path / "p.toml"
    profile.write_text(f'[slurm]\nscans_per_element = 1\nscratch = "{tmp_path}"\n')
    axoloci("submit", study, "--profile", profile, "--dry-run")
    out = folder / "out"
    done = by_hand(out / "slurm" / "1_participants.sh", SLURM_ARRAY_TASK_ID="2")
    assert done.returncode == 0, done.stderr
    submission = read_submission(out)
    (scan,) = read_scans(submission, 2)["discovery"]
    assert [path.stem for path in (out / "work" / "scans").glob("*.json")] == [scan.prefix]
    assert list((out / "work" / "pydra").iterdir()) == []
    assert list(tmp_path.glob("axoloci.*")) == []  # nothing stays in the scratch
    done = by_hand(out / "slurm" / "1_participants.sh")
    assert done.returncode != 0
    assert "names the element" in done.stderr


def test_script__a_node_without_images_or_scratch_is_named(submitted: Path) -> None:
    script = submitted.parent / "out" / "slurm" / "2_train.sh"
    # `module` is of the cluster
    text = script.read_text().replace("module load apptainer", ":")
    script.write_text(text)
    done = by_hand(script)
    assert done.returncode == 1
    assert "has no folder of images" in done.stderr
    script.write_text(text.replace("! -d", "-z"))
    done = by_hand(script, USER="nobody at all")
    assert done.returncode == 1
    assert "has no place for temporary files in /local/nobody at all" in done.stderr


@pytest.mark.parametrize(
    ("name", "element", "words"),
    [
        ("participants", None, "has elements 0 to 3; name one by --element"),
        ("participants", 4, "no element 4; the last is 3"),
        ("train", 0, "is no array"),
        ("trian", None, "no stage 'trian'; there are participants, train"),
    ],
)
def test_job__refuses_what_is_not_there(
    submitted: Path, name: str, element: int | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        run_job(submitted.parent / "out", name, element, 1)


def test_job__a_full_disk_is_named_and_kept(
    submitted: Path, monkeypatch: pytest.MonkeyPatch, fake_slurm: dict[str, list[object]]
) -> None:
    out = submitted.parent / "out"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cluster, "run_participants", full)
    assert run_job(out, "participants", 1, 1) == 1
    # Slurm knows nothing any more: the job's own words count, or that it left none
    (out / "slurm" / "logs" / "participants-7_2.log").write_text("12:00:00 scans: 1 of 4\n")
    assert check_stage(out, "participants", [7]) == 1
    said = (out / "scans.tsv").read_text()
    assert said.count("No space left on device (Slurm: exit 1); mend that") == 4
    assert said.count("it ended without a word") == 4
    assert said.count("cancelled before it began") == 4 + 2


def test_job__a_killed_step_is_out_of_memory(
    submitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = submitted.parent / "out"
    (scan, *_) = read_scans(read_submission(out), 0)["discovery"]
    made_by = recipe(read_submission(out).settings.cohorts()["discovery"], "native")
    outcome = Outcome(scan.prefix, scan.sample_id, "failed", "killed", made_by=made_by)
    write_outcome(outcome, StudyPaths(out))
    monkeypatch.setattr(cluster, "run_participants", lambda *_: None)
    for code, expected in ((1, 0), (-9, slurm.KILLED), (137, slurm.KILLED)):
        write_json(out / "logs" / scan.prefix / "dti.json", {"job": "dti", "exit_code": code})
        assert run_job(out, "participants", 0, 1) == expected


def test_job__a_node_without_an_engine_is_named_and_costs_no_scan(
    submitted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = submitted.parent / "out"
    submission = read_submission(out).model_copy(update={"env": "singularity"})
    monkeypatch.setattr(cluster, "read_submission", lambda _: submission)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_job(out, "participants", 0, 1) == 1
    words = (out / "work" / "slurm" / "ended" / "participants-0.json").read_text()
    assert "neither apptainer nor singularity is installed" in words
    assert not list((out / "work" / "scans").glob("*"))


def test_job__waits_for_no_driver_that_lives(
    submitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = submitted.parent / "out"
    monkeypatch.setattr(cluster, "PATIENCE", 0.1)
    with cluster.study_lock(StudyPaths(out)):
        assert run_job(out, "participants", 0, 1) == 1
    words = (out / "work" / "slurm" / "ended" / "participants-0.json").read_text()
    assert "another axoloci is working on this study" in words


# --- a whole study on a cluster of one node -----------------------------------------------------

NEEDED = ("sbatch", "slurmd", "slurmdbd", "munged", "mariadbd")
IN_CONTAINERS = ("--env", "singularity")
# The slow one comes first: its time limits pass while the others are at work.
TROUBLED = {"slow": 0, "faulty": 3, "greedy": 7, "cancelled": 12}
LONG = 600  # seconds after which the queue has hung
# In place of apptainer: one person's fit takes too much memory in its container, another's too
# much time.
TROUBLE = """\
#!/bin/bash
start=()
for word in "$@"; do
  start+=("$word")
  case $word in *.sif) break ;; esac
done
case "$*" in
  *"axoloci-dti fit"*"--prefix {greedy}"*)
    "{apptainer}" "${{start[@]}}" \\
      python3 -c "hog = bytearray(3_000_000_000); import time; time.sleep(3)" || exit ;;
  *"axoloci-dti fit"*"--prefix {slow}"*)
    [ -e "{quick}" ] || exec "{apptainer}" "${{start[@]}}" sleep 300 ;;
esac
exec "{apptainer}" "$@"
"""
PROFILE = """\
[slurm]
setup = ['export PYTHONPATH="{path}"', 'export PATH="{programs}:$PATH"']
images = "{images}"
scans_per_element = 1
retries = 1
retry_factor = 1.5
scratch = "{scratch}"
[steps.preprocess]
memory_gb = 0.4
minutes = 0.2
[steps.dti]
memory_gb = {memory_gb}
minutes = 0.2
[steps.normalize]
memory_gb = 0.4
minutes = 0.2
[steps.encoder]
memory_gb = 2
[steps.gwas]
memory_gb = 1
cpus = 1
"""


@pytest.fixture(scope="module")
def node(tool: Callable[[str], str]) -> Iterator[dict[str, str]]:
    """Environment variables that lead to a Slurm of this machine alone, with accounting."""
    for program in NEEDED:
        tool(program)
    if os.geteuid() != 0:
        pytest.skip("only root can start Slurm; run the tests as root")
    script = ROOT / "containers" / "native" / "slurm.sh"
    folder = tempfile.mkdtemp(prefix="axoloci-slurm-", dir="/tmp")  # short: it holds sockets
    try:
        subprocess.run([script, "start", folder], check=True)
        yield {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf"}
    finally:
        subprocess.run([script, "stop", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class OnCluster:
    """A study on a cluster.

    `people` are those who give trouble, by what it is; `said` is what commands said on the way.
    """

    study: Path
    environment: dict[str, str]
    people: dict[str, str]
    said: dict[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.study.parent / "out"

    @property
    def profile(self) -> Path:
        return self.study.parent / "slurm.toml"

    def call(self, *words: object, code: int = 0) -> str:
        """What a command says that must end with a code."""
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, env=self.environment
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def axoloci(self, *words: object, code: int = 0) -> str:
        """The same of `axoloci`."""
        return self.call(sys.executable, "-m", "axoloci", *words, code=code)

    def write_profile(self, memory_gb: float) -> None:
        folder = self.study.parent
        self.profile.write_text(
            PROFILE.format(
                path=os.pathsep.join(filter(None, sys.path)),
                programs=folder / "programs",
                images=sif_folder(),
                scratch=folder,
                memory_gb=memory_gb,
            )
        )

    def attempts(self, stage: str) -> list[Attempt]:
        submission = read_submission(self.out)
        return list(read_state(submission, submission.stage(stage)).attempts)

    def wait(self) -> None:
        """Until the queue is empty."""
        deadline = time.monotonic() + LONG
        while self.call("squeue", "--noheader"):
            assert time.monotonic() < deadline, self.call("squeue") + self.call("sinfo", "-R")
            time.sleep(1)


def keep_chromosomes(genotypes: Path, n_chromosomes: int) -> None:
    """Cut PLINK 1 genotypes of N_PEOPLE people after their first chromosomes."""
    rows = Path(f"{genotypes}.bim").read_text().splitlines(keepends=True)
    kept = [row for row in rows if int(row.split()[0]) <= n_chromosomes]
    Path(f"{genotypes}.bim").write_text("".join(kept))
    bed = Path(f"{genotypes}.bed")
    bed.write_bytes(bed.read_bytes()[: 3 + -(-N_PEOPLE // 4) * len(kept)])


@pytest.fixture(scope="module")
def on_cluster(
    node: dict[str, str],
    cohort: Path,
    tmp_path_factory: pytest.TempPathFactory,
    engine_of: Callable[[str], Engine],
) -> OnCluster:
    """A study after its jobs, by Apptainer: one is slow, faulty, greedy, cancelled.

    Beside it lies `local`, a run of the others on this machine, made at the same time.
    """
    folder = tmp_path_factory.mktemp("Größe 1")
    small = folder / "cohort"
    shutil.copytree(cohort, small)
    keep_chromosomes(small / "genotypes", 3)
    labels = sorted(path.name for path in (small / "bids").glob("sub-*"))
    people = {name: labels[number] for name, number in TROUBLED.items()}
    faulty = next((small / "bids" / people["faulty"]).rglob("*_dwi.nii.gz"))
    shutil.copy(faulty, folder / "whole.nii.gz")
    faulty.write_bytes(faulty.read_bytes()[:5000])
    programs = folder / "programs"
    programs.mkdir()
    apptainer = programs / "apptainer"
    program = engine_of("singularity").program
    apptainer.write_text(TROUBLE.format(**people, quick=folder / "quick", apptainer=program))
    apptainer.chmod(0o755)
    path = os.pathsep.join(filter(None, sys.path))
    found = OnCluster(write_study(folder, small), {**node, "PYTHONPATH": path}, people)
    found.write_profile(memory_gb=0.4)
    found.axoloci("submit", found.study, "--profile", found.profile, *IN_CONTAINERS)
    (first,) = found.attempts("participants")
    found.call("scancel", f"{first.job}_{labels.index(people['cancelled'])}")

    while not list((found.out / "logs").glob("sub-*/*.log")):
        time.sleep(0.1)
    found.said["run"] = found.axoloci("run", found.study, code=1)
    (folder / "local").mkdir()
    local = write_study(folder / "local", small)
    others = [label for label in labels if label not in people.values()]
    (folder / "local" / "keep.tsv").write_text("\n".join(["IID", *others]) + "\n")
    text = local.read_text()
    local.write_text(text.replace("min_part", 'keep = "keep.tsv"\nmin_part'))
    axoloci("run", local, *IN_CONTAINERS)
    local.write_text(text)
    found.wait()
    found.said["status"] = found.axoloci("status", found.study, code=3)
    return found


def group_results(out: Path) -> dict[str, bytes]:
    return {name: text for name, text in results(out).items() if name.startswith("group/")}


def test_slurm__every_reason_is_named(on_cluster: OnCluster) -> None:
    reasons = dict(re.findall(r"^failed: (\S+): (.*)$", on_cluster.said["status"], re.MULTILINE))
    people = on_cluster.people
    assert set(reasons) == set(people.values())
    assert "truncated" in reasons[people["faulty"]]
    assert re.match(
        r"out of memory in 2 tries, the last with 1650 MB \(Slurm: (OUT_OF_MEMORY|exit 137)\); "
        r"raise memory_gb",
        reasons[people["greedy"]],
    )
    assert reasons[people["slow"]].startswith(
        "over its time limit in 2 tries, the last of 2 min (Slurm: TIMEOUT); raise minutes"
    )
    assert reasons[people["cancelled"]].startswith("cancelled before it began (Slurm: CANCELLED)")


def test_slurm__only_what_was_killed_is_tried_again(on_cluster: OnCluster) -> None:
    first, *again = on_cluster.attempts("participants")
    assert first.elements == tuple(range(N_PEOPLE))
    assert (first.request.memory_mb, first.request.minutes) == (1100, 1)
    asked = {a.elements: (a.request.memory_mb, a.request.minutes) for a in again}
    assert asked[TROUBLED["greedy"],] == (1650, 1)
    # on a busy machine others may have been too slow as well, once
    (slow,) = (elements for elements in asked if TROUBLED["slow"] in elements)
    assert asked[slow] == (1100, 2)
    repeated = {element for elements in asked for element in elements}
    assert not {TROUBLED["faulty"], TROUBLED["cancelled"]} & repeated


def test_slurm__no_driver_may_work_beside_it(on_cluster: OnCluster) -> None:
    assert "jobs of this study are still in Slurm's queue" in on_cluster.said["run"]


def test_slurm__the_group_equals_a_local_run_of_the_same_people(on_cluster: OnCluster) -> None:
    local = group_results(on_cluster.study.parent / "local" / "out")
    assert len(local) > 10
    found = group_results(on_cluster.out)
    assert found.keys() == local.keys()
    assert [name for name in found if found[name] != local[name]] == []


def test_slurm__resubmit_finishes_it(on_cluster: OnCluster) -> None:
    folder, out, people = on_cluster.study.parent, on_cluster.out, on_cluster.people
    faulty = next((folder / "cohort" / "bids" / people["faulty"]).rglob("*_dwi.nii.gz"))
    shutil.copy(folder / "whole.nii.gz", faulty)
    (folder / "quick").write_text("")
    on_cluster.write_profile(memory_gb=3.5)
    before = records(out)
    on_cluster.axoloci("resubmit", on_cluster.study, "--profile", on_cluster.profile)
    assert "still in Slurm's queue" in on_cluster.axoloci("resubmit", on_cluster.study, code=1)
    axoloci("run", folder / "local" / "study.toml")
    on_cluster.wait()

    (attempt,) = on_cluster.attempts("participants")
    assert attempt.elements == tuple(TROUBLED.values())
    after = records(out)
    again = {Path(path).parent.name for path in before if after[path] != before[path]}
    assert again <= {*people.values(), "group"}  # nothing that was finished
    on_cluster.axoloci("status", on_cluster.study)
    found, local = (group_results(where / "out") for where in (folder, folder / "local"))
    assert found.keys() == local.keys()
    assert [name for name in found if found[name] != local[name]] == []
    assert "everything is finished" in on_cluster.axoloci("resubmit", on_cluster.study)
    # and a driver takes the results as they are, but for the page that is made each time
    before = records(out)
    axoloci("run", on_cluster.study)
    changed = {Path(path).stem for path in before if records(out)[path] != before[path]}
    assert changed == {"report", "gwas"}  # whose device the cluster names
    assert group_results(out) == found
