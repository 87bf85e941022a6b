"""`axoloci new-step`: what it makes installs, passes its own tests, and runs in a study."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from support import BIN, ROOT, axoloci, install

from axoloci.errors import InputError
from axoloci.io.nifti import write_nifti
from axoloci.new_step import new_step, write_into_tree, write_package
from axoloci.tasks.simulate.anatomy import phantom

FILES = ("__init__.py", "kernel.py", "cli.py", "self_test.py", "task.py", "step.toml")
LOCKS = ("requirements.in", "requirements.lock")
TESTS = ("test_kernel.py", "test_cli.py", "test_task.py")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a new step."""
    folder = tmp_path_factory.mktemp("new")
    done = axoloci("new-step", "cortical-fa", "--out", folder)
    assert "uv pip compile" in done.stdout
    assert "[extra.cortical-fa]" in done.stdout
    return folder / "axoloci-cortical-fa"


@pytest.fixture(scope="module")
def env(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which it is installed."""
    return install(package, tmp_path_factory.mktemp("installed"))


def test_new_step__has_every_file_and_no_word_to_fill_in(package: Path) -> None:
    step = package / "src" / "axoloci_cortical_fa"
    wanted = [*(step / name for name in FILES), *(step / "container" / name for name in LOCKS)]
    wanted += [*(package / "tests" / name for name in TESTS), package / "README.md"]
    assert [path for path in wanted if not path.is_file()] == []
    for path in package.rglob("*"):
        assert "STEP_" not in str(path)
        assert path.is_dir() or path.suffix == ".pyc" or "STEP_" not in path.read_text()


def test_new_step__passes_its_self_test_and_its_tests(package: Path, env: dict[str, str]) -> None:
    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=package, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "self-test passed" in run("axoloci-cortical-fa", "--self-test")
    assert " passed" in run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
    assert "axoloci-cortical-fa" in run(str(BIN / "axoloci"), "steps")


@pytest.mark.parametrize("name", ["x", "cortical-fa", "a-name-of-24-letters-abc"])
def test_new_step__is_clean(name: str, tmp_path: Path) -> None:
    made = write_package(name, tmp_path)
    for words in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [str(BIN / "ruff"), *words, "."], cwd=made, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_new_step__runs_in_a_study(env: dict[str, str], tmp_path: Path) -> None:
    anatomy = phantom(10.0)
    fa = anatomy.scan_fa
    write_nifti(tmp_path / "p1_FA.nii.gz", fa, anatomy.scan_affine)
    (tmp_path / "study.toml").write_text(
        'out = "out"\nfa = "{participant_id}_FA.nii.gz"\n'
        '[normalize]\ntemplate = "p1_FA.nii.gz"\n[extra.cortical-fa]\nthreshold = 0.3\n'
    )
    one = ("--stage", "participants", "--participant-label", "p1")
    axoloci("run", tmp_path / "study.toml", *one, env=env)
    (row,) = pd.read_csv(tmp_path / "out" / "qc.tsv", sep="\t").to_dict("records")
    assert row["cortical_fa_n_voxels"] == (fa > 0.3).sum()
    assert row["cortical_fa_mean"] == pytest.approx(fa[fa > 0.3].mean(dtype=np.float64), abs=1e-6)


def test_new_step__overwrites_nothing(package: Path) -> None:
    before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    done = axoloci("new-step", "cortical-fa", "--out", package.parent, check=False)
    assert done.returncode == 1
    assert "is there already, and nothing is overwritten" in done.stderr
    assert {path: path.read_bytes() for path in package.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["Cortical", "a_b", "1st", "a--b", "a-", "ä", "a" * 25])
def test_new_step__a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    done = axoloci("new-step", name, "--out", tmp_path, check=False)
    assert done.returncode == 1
    assert "small letters, digits and single hyphens" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["base", "check", "encoder-cuda", "import"])
def test_new_step__a_name_that_means_something_else_is_refused(name: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(new_step, [name, "--out", str(tmp_path)])
    assert isinstance(done.exception, InputError)
    assert "means something else already" in str(done.exception)


def test_new_step__an_installed_one_is_refused(tmp_path: Path) -> None:
    done = axoloci("new-step", "gwas", "--out", tmp_path, check=False)
    assert "'gwas' is an installed step" in done.stderr


def test_write_into_tree__puts_the_files_where_those_of_other_steps_lie(tmp_path: Path) -> None:
    for name in ("tasks", "containers", "tests"):
        (tmp_path / name).mkdir()
    write_into_tree("blob", tmp_path)
    for folder, names in (("tasks", FILES), ("containers", LOCKS), ("tests", TESTS)):
        found = {path.name for path in (tmp_path / folder / "blob").iterdir()}
        assert found == set(names)
    assert "from axoloci.tasks.blob import kernel" in (tmp_path / "tasks/blob/cli.py").read_text()
    with pytest.raises(InputError, match="already"):
        write_into_tree("blob", tmp_path)
    with pytest.raises(InputError, match="without hyphens"):
        write_into_tree("a-b", tmp_path)
    with pytest.raises(InputError, match="no source tree"):
        write_into_tree("other", ROOT / "docs")
