"""A step from outside, tests/plugin: found by its entry point alone, run in studies, in images."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from faults import records
from support import ROOT, axoloci, install

from axoloci import extra, image_build, images, steps
from axoloci.engines import Engine
from axoloci.errors import InputError
from axoloci.image_build import Recipe
from axoloci.io.files import write_json
from axoloci.io.nifti import write_nifti
from axoloci.scans import Scan
from axoloci.slurm_profile import read_profile
from axoloci.study import StudySettings, parse_settings
from axoloci.tasks.dti.task import FitDti
from axoloci.tasks.simulate.anatomy import phantom
from axoloci.workflows import participant, participants
from axoloci.workflows.graph import as_mermaid, study_graph
from axoloci.workflows.participants import first_step, recipe, steps_of
from axoloci.workflows.plan import plan_study
from axoloci.workflows.preflight import check, extra_problems

PLUGIN = ROOT / "tests" / "plugin"
LEFT = (1.0, 0.9, 0.8)  # of the person's FA on the left, times that of the phantom
FIGURES = ("index", "left_fa", "right_fa", "n_left", "n_right")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed into."""
    return tmp_path_factory.mktemp("installed")


@pytest.fixture(scope="module")
def env(target: Path) -> dict[str, str]:
    """The environment in which the package is installed."""
    return install(PLUGIN, target)


@pytest.fixture
def installed(env: dict[str, str], target: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is installed in this process too."""
    caches = (steps.installed_steps, steps._entry_points, images.locked_images)
    monkeypatch.syspath_prepend(target)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FA maps of three people whose left sides differ, and the template."""
    folder = tmp_path_factory.mktemp("maps")
    anatomy = phantom(5.0)  # of larger voxels a side has too few to be registered well
    fa, affine = anatomy.scan_fa, anatomy.scan_affine
    x = affine[0, 0] * np.arange(fa.shape[0]) + affine[0, 3]
    for number, factor in enumerate(LEFT):
        scaled = fa * np.where(x < 0, factor, 1)[:, None, None]
        write_nifti(folder / f"p{number}_FA.nii.gz", scaled.astype(np.float32), affine)
    write_nifti(folder / "template.nii.gz", fa, affine)
    return folder


def write_study(folder: Path, maps: Path, table: str = "", step: str = "asymmetry") -> Path:
    """A study of the maps with the step."""
    folder.mkdir(exist_ok=True)
    study = folder / "study.toml"
    study.write_text(
        f'out = "out"\nfa = "{maps}/{{participant_id}}_FA.nii.gz"\n'
        f'[normalize]\ntemplate = "{maps}/template.nii.gz"\n[extra.{step}]\n{table}\n'
    )
    return study


# the scans alone: the page of the study is not what is looked at
PEOPLE = [word for n in range(len(LEFT)) for word in ("--participant-label", f"p{n}")]
SCANS_ONLY = ("--stage", "participants", *PEOPLE)


def figures(study: Path) -> pd.DataFrame:
    """The step's figures, a row a person."""
    table = pd.read_csv(study.parent / "out" / "qc.tsv", sep="\t", index_col="scan")
    return table[[f"asymmetry_{name}" for name in FIGURES]]


@pytest.fixture(scope="module")
def native(maps: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in which the step was run natively."""
    study = write_study(tmp_path_factory.mktemp("native"), maps, "threshold = 0.3")
    axoloci("run", study, *SCANS_ONLY, env=env)
    return study


# --- in a study -----------------------------------------------------------------------------------


def test_run__figures_are_those_that_were_planted(native: Path) -> None:
    index = figures(native)["asymmetry_index"].to_numpy()
    planted = np.array([(factor - 1) / (factor + 1) for factor in LEFT])
    assert index - index[0] == pytest.approx(planted, abs=0.015)


def test_run__again_repeats_only_what_changed(native: Path, env: dict[str, str]) -> None:
    before = records(native.parent / "out")
    axoloci("run", native, *SCANS_ONLY, env=env)
    assert records(native.parent / "out") == before
    text = native.read_text()
    native.write_text(text.replace("0.3", "0.35"))
    done = axoloci("run", native, *SCANS_ONLY, "--why", env=env)
    native.write_text(text)
    whys = [line for line in done.stderr.splitlines() if line.startswith("why: ")]
    assert whys == ["why: asymmetry: threshold changed (3 jobs)"]
    axoloci("run", native, *SCANS_ONLY, env=env)


def test_run__a_step_that_fails_fails_the_scan_by_name(
    maps: Path, env: dict[str, str], tmp_path: Path
) -> None:
    study = write_study(tmp_path, maps, "threshold = 0.99")
    done = axoloci("run", study, *SCANS_ONLY, env=env, check=False)
    assert done.returncode == 1
    scans = pd.read_csv(tmp_path / "out" / "scans.tsv", sep="\t")
    assert list(scans["status"]) == ["failed"] * 3
    assert scans["reason"].str.contains("no voxel of the left side is above 0.99").all()
    done = axoloci("status", study, env=env, check=False)
    assert "axoloci-asymmetry measure, exit 1" in done.stdout


def test_run__crate_and_trace_know_the_step(native: Path, env: dict[str, str]) -> None:
    crate = json.loads((native.parent / "out" / "ro-crate-metadata.json").read_text())
    by_id = {entity["@id"]: entity for entity in crate["@graph"]}
    assert by_id["#axoloci-asymmetry-measure"]["softwareVersion"] == "0.1.0"
    assert by_id["#job-asymmetry"]["name"] == "asymmetry: 3 jobs"
    assert by_id["#job-asymmetry"]["object"] == {"@id": "#maps"}
    assert by_id["#setting-extra.asymmetry"]["value"] == '{"threshold": 0.3}'
    jobs = axoloci("trace", native.parent / "out", env=env).stdout.splitlines()
    assert sum("\tasymmetry\t" in job for job in jobs) == 3


def test_run__methods_of_the_report_name_the_step(native: Path, env: dict[str, str]) -> None:
    axoloci("run", native, "--stage", "participants", env=env)
    page = (native.parent / "out" / "report.html").read_text(encoding="utf-8")
    assert "the step asymmetry 0.1.0, which is not part of axoloci" in page


def settings_with(maps: Path, out: Path, extra: Any = None, **door: str) -> StudySettings:
    """A study of the maps, or of another source."""
    source = door or {"fa": "{participant_id}_FA.nii.gz"}
    table = {"asymmetry": {}} if extra is None else extra
    return parse_settings({"out": str(out), **source, "extra": table}, "study.toml", maps)


@pytest.mark.usefixtures("installed")
def test_plan_and_graph__know_the_step(maps: Path, tmp_path: Path) -> None:
    settings = settings_with(maps, tmp_path)
    assert steps_of(settings) == ("normalize", "asymmetry", "page")
    (planned,) = (step for step in plan_study(settings).steps if step.job == "asymmetry")
    assert (planned.n_jobs, planned.seconds, planned.memory_mb) == (3, 3 * 2 * 60, 1000)
    drawn = as_mermaid(study_graph(settings))
    edge = 'discovery_normalize -->|"sub-*_space-template_model-tensor_param-fa_dwimap.nii.gz"| '
    assert f"{edge}discovery_asymmetry\n" in drawn


@pytest.mark.usefixtures("installed")
def test_recipe__changes_with_the_table_and_the_files_that_it_names(
    maps: Path, tmp_path: Path
) -> None:
    plain = recipe(settings_with(maps, tmp_path), "native")
    assert recipe(settings_with(maps, tmp_path, {}), "native") != plain
    other = settings_with(maps, tmp_path, {"asymmetry": {"threshold": 0.3}})
    assert recipe(other, "native") != plain
    (tmp_path / "roi.nii").write_bytes(b"one")
    named = settings_with(tmp_path, tmp_path, {"asymmetry": {"fa_template": "roi.nii"}})
    assert named.extra["asymmetry"]["fa_template"] == str(tmp_path / "roi.nii")
    before = recipe(named, "native")
    (tmp_path / "roi.nii").write_bytes(b"two")
    assert recipe(named, "native") != before


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"treshold": 0.3}, "unknown key 'extra.asymmetry.treshold'; did you mean 'threshold'?"),
        ({"threshold": "high"}, "'threshold': .*'high' is not of type float"),
        ({"out_dir": "x"}, "'out_dir' is filled in by axoloci; leave it out"),
        ({"fa_template": "none.nii.gz"}, "'fa_template': .*none.nii.gz: no such file"),
    ],
)
def test_check__a_wrong_table_is_refused(
    maps: Path, tmp_path: Path, table: dict[str, Any], words: str
) -> None:
    (problem,) = check(
        settings_with(maps, tmp_path, {"asymmetry": table}), stage="participants"
    ).problems
    assert problem.startswith("[extra.asymmetry]: ")
    with pytest.raises(InputError, match=words):
        raise InputError(problem)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("extra", "door", "words"),
    [
        ({"asymetry": {}}, {}, "no step 'asymetry' is installed; did you mean 'asymmetry'?"),
        ({"gwas": {}}, {}, "the step 'gwas' cannot be added to a study"),
        (
            None,
            {"fa_common": "{participant_id}_FA.nii.gz"},
            "a study by 'fa_common' has no scans for it",
        ),
    ],
)
def test_check__a_step_that_cannot_be_run_is_refused(
    maps: Path, tmp_path: Path, extra: Any, door: dict[str, str], words: str
) -> None:
    (problem,) = check(settings_with(maps, tmp_path, extra, **door), stage="participants").problems
    assert words in problem


@pytest.mark.usefixtures("installed")
def test_check__what_a_door_does_not_have_is_named(
    maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra, "load_task", lambda _: FitDti)  # of a step that needs volumes
    (problem,) = extra_problems(settings_with(maps, tmp_path))
    assert problem.endswith("needs bval, bvec, dwi, which a study by 'fa' does not have")
    given = {key: str(maps / "template.nii.gz") for key in ("dwi", "bval", "bvec")}
    monkeypatch.setattr(participant, "load_task", lambda _: FitDti)
    assert not extra_problems(settings_with(maps, tmp_path, {"asymmetry": given}))


def test_first_step__volumes_that_were_removed_and_are_read_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = StudySettings(out=tmp_path, bids=tmp_path, extra={"noddi": {}})
    scan = Scan("sub-1", "1")
    gone = {str(tmp_path / "dwi.nii.gz"): {"removed": True}}
    write_json(tmp_path / "logs" / "sub-1" / "preprocess.json", {"outputs": gone})
    monkeypatch.setattr(participants, "task_fields", lambda _: {"dwi": None})
    monkeypatch.setattr(participants, "prepare_pydra", pytest.fail)  # what is in question without
    assert first_step(scan, settings, "native") == "preprocess"


def test_at_hand__are_the_outputs_of_the_steps_from_the_door_on() -> None:
    at_hand = {door: set(names) for door, names in participant.AT_HAND.items()}
    assert at_hand["normalize"] < at_hand["dti"] == at_hand["preprocess"]


@pytest.mark.usefixtures("installed")
def test_profile__has_a_table_for_the_step(tmp_path: Path) -> None:
    file = tmp_path / "slurm.toml"
    file.write_text("[extra.asymmetry]\nmemory_gb = 3\n")
    assert read_profile(file).request("asymmetry").memory_gb == 3
    assert read_profile(file).request("dti").memory_gb is None
    file.write_text("[extra.asymetry]\nmemory_gb = 3\n")
    with pytest.raises(InputError, match=r"'extra\.asymetry': no such step .* 'asymmetry'"):
        read_profile(file)
    file.write_text("[extra.asymmetry]\nmemory = 3\n")
    with pytest.raises(InputError, match=r"'extra\.asymmetry\.memory'; did you mean 'memory_gb'"):
        read_profile(file)


# --- its image ------------------------------------------------------------------------------------


@pytest.fixture
def made(installed: None) -> Recipe:
    """What the step's image is made of."""
    return image_build.recipes()["asymmetry"]


def test_recipe__is_the_step_and_what_it_imports_alone(made: Recipe, tmp_path: Path) -> None:
    site = f"{image_build.SITE}/"
    code = {path.removeprefix(site) for path in made.code}
    assert {"axoloci_asymmetry/kernel.py", "axoloci/command.py", "axoloci/io/nifti.py"} <= code
    assert not {"axoloci_asymmetry/task.py", "axoloci_asymmetry/step.toml"} & code
    assert not [path for path in code if "container" in path or "__pycache__" in path]
    assert made.labels["VERSION"] == "0.1.0"
    for path, content in made.code.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    program = (
        "import sys; sys.modules['pydra'] = None\n"
        f"sys.path.insert(0, {str(tmp_path / site)!r})\n"
        "sys.argv = ['axoloci-asymmetry', '--self-test']\n"
        f"exec(open({str(tmp_path / 'usr/local/bin/axoloci-asymmetry')!r}).read())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "axoloci-asymmetry: self-test passed" in done.stdout


def test_images_lock__pins_the_image_as_its_inputs_are_now(made: Recipe) -> None:
    locked = images.pinned_images()["asymmetry"]
    assert locked == images.read_lock(images.lock_file("asymmetry"))["asymmetry"]
    changes = image_build.moved_inputs(made, locked)
    mend = "pip install -e tests/plugin; axoloci images build asymmetry --lock"
    assert not changes, f"{mend}; {changes}"
    assert "asymmetry" not in images.read_lock(images.lock_file())


def test_locks__have_the_versions_of_the_native_environment(made: Recipe) -> None:
    native = image_build.ENTRY.finditer(image_build.constraints().read_text())
    assert made.requirements.items() <= {found[1]: found[2] for found in native}.items()


@pytest.fixture(scope="module")
def image(env: dict[str, str], tool: Callable[[str], str]) -> str:
    """The step's image, built and equal to the pinned one; its name."""
    tool("podman")
    axoloci("images", "build", "asymmetry", env=env)
    return "asymmetry"


@pytest.mark.parametrize("kind", ["docker", "singularity"])
def test_run__in_its_image_gives_what_it_gives_natively(
    kind: str,
    native: Path,
    maps: Path,
    image: str,
    env: dict[str, str],
    engine_of: Callable[[str], Engine],
    tmp_path: Path,
) -> None:
    engine_of(kind)
    if kind == "singularity":
        axoloci("images", "sif", image, env=env)
    study = write_study(tmp_path / kind, maps, "threshold = 0.3")
    axoloci("run", study, *SCANS_ONLY, "--env", kind, env=env)
    pd.testing.assert_frame_equal(figures(study), figures(native), check_exact=True)
    record = json.loads((tmp_path / kind / "out/logs/sub-p0/asymmetry.json").read_text())
    pinned = PLUGIN / "src/axoloci_asymmetry/container/images.lock"
    assert record["image"] == images.read_lock(pinned)["asymmetry"].config_digest
