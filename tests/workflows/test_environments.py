"""The same study natively, by docker or podman, and by Apptainer: equal results, named failures."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from faults import fail_on_full_disk, mount_small, records, results
from support import ROOT, axoloci, write_study

from axoloci.engines import ARITHMETIC, Engine
from axoloci.images import locked_images, sif_folder
from axoloci.io.nifti import write_nifti

ENVIRONMENTS = ("docker", "singularity")
# Who made a file is written into it: the image, or the code where there is none.
CODE = re.compile(rb"(native|sha256):[0-9a-f]{64}|[0-9a-f]{64}")


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def env(request: pytest.FixtureRequest, engine_of: Callable[[str], Engine]) -> str:
    """An environment that has all images."""
    return engine_of(request.param).kind


@pytest.fixture(scope="module")
def native(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of the study on this machine."""
    study = write_study(tmp_path_factory.mktemp("native"), cohort, follows=True)
    axoloci("run", study, "--n-procs", 2)
    return study.parent / "out"


@pytest.fixture(scope="module")
def inside(env: str, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of the study in containers; its path has a space and a letter beyond ASCII."""
    study = write_study(tmp_path_factory.mktemp(f"in {env} ä"), cohort, follows=True)
    axoloci("run", study, "--n-procs", 2, "--env", env)
    return study.parent / "out"


def test_run__containers_give_the_results_of_the_host(inside: Path, native: Path) -> None:
    found, expected = results(inside), results(native)
    assert found.keys() == expected.keys()
    differing = [name for name in found if found[name] != expected[name]]
    # those that name the code, or the checksum of a file that does; and one zip archive, whose
    # headers vary with the patch version of Python
    named = {name for name in found if CODE.search(found[name]) or name.endswith(".npz")}
    assert [name for name in differing if name not in named] == []
    for name in differing:
        if name.endswith(".npz"):
            one, other = np.load(inside / name), np.load(native / name)
            for key in (*one, *other):  # NaN equals NaN
                np.testing.assert_array_equal(one[key], other[key], err_msg=f"{name} {key}")
        else:
            assert CODE.sub(b"", found[name]) == CODE.sub(b"", expected[name]), name


def test_run__containers_write_as_the_caller(inside: Path) -> None:
    owners = {path.stat().st_uid for path in inside.rglob("*")}
    assert owners == {os.getuid()}
    jobs = [json.loads(path.read_text()) for path in (inside / "logs").rglob("*.json")]
    pinned = {image.config_digest for image in locked_images().values()}
    assert {job["image"] for job in jobs} <= pinned
    assert {job["exit_code"] for job in jobs} == {0}
    assert min(job["cpu_seconds"] for job in jobs) > 0.1  # of the step, not of its engine


def test_run__another_engine_runs_nothing_again(env: str, inside: Path) -> None:
    (other,) = set(ENVIRONMENTS) - {env}
    before = records(inside)
    axoloci("run", inside.parent / "study.toml", "--env", other)
    assert (inside / "work" / "env").read_text() == other
    after = records(inside)
    assert {Path(path).stem for path in after if after[path] != before.get(path)} == {"report"}


def one_person(cohort: Path) -> str:
    return min(path.name for path in (cohort / "bids").glob("sub-*"))


def test_run__a_step_beyond_its_memory_is_named(env: str, cohort: Path, tmp_path: Path) -> None:
    label = one_person(cohort)
    shutil.copytree(cohort, tmp_path / "cohort")
    # A template, for preprocess refuses a scan for which it sees too little memory. It is far
    # beyond the limit: near it, the kernel drops pages of programs and reads them again.
    image = tmp_path / "cohort" / "template.nii.gz"
    small = image.read_bytes()
    write_nifti(image, np.full((256, 256, 160), 0.5, np.float32), np.eye(4))
    study = write_study(tmp_path, tmp_path / "cohort")
    one = ("--stage", "participants", "--participant-label", label, "--env", env)
    done = axoloci("run", study, *one, "--memory-gb", 0.4, check=False)
    assert done.returncode == 1
    killed = "axoloci-normalize register, killed by SIGKILL"
    reason = rf"{killed}: out of memory: over the limit of 0\.4 GB"
    assert re.search(reason, done.stderr), done.stderr
    assert "--memory-gb 0.4: may be too little" in done.stderr
    said = axoloci("status", study, check=False).stdout  # which knows the environment
    assert re.search(rf"failed: {label}: {reason}", said), said
    image.write_bytes(small)
    axoloci("run", study, *one)


def test_run__a_full_disk_is_named_and_loses_nothing(
    env: str, cohort: Path, tmp_path: Path, native: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk; run the tests as root")
    study, label = write_study(tmp_path, cohort), one_person(cohort)
    one = ("--stage", "participants", "--participant-label", label, "--env", env)
    out = tmp_path / "out"
    out.mkdir()
    mount_small(out, "1g")
    try:
        fail_on_full_disk(study, lambda: mount_small(out, "600k", again=True), *one)
        mount_small(out, "1g", again=True)
        axoloci("run", study, *one)
        found = {
            name: content for name, content in results(out).items() if name.startswith(f"{label}/")
        }
        expected = results(native)
        for name, content in found.items():
            assert CODE.sub(b"", content) == CODE.sub(b"", expected[name]), name
        assert len(found) > 10
    finally:
        subprocess.run(["umount", "--lazy", str(out)], check=True)


def test_check__an_image_that_is_not_here_is_named_with_its_command(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AXOLOCI_IMAGES", str(tmp_path))
    done = axoloci("run", study, "--env", "singularity", check=False)
    assert done.returncode == 1
    names = "dti encoder genetics gwas normalize preprocess report"
    assert f"  {tmp_path}: lacks SIF files" in done.stderr, done.stderr
    assert f"make them: axoloci images sif {names} --folder {tmp_path}\n" in done.stderr
    assert not (study.parent / "out" / "logs").exists()


@pytest.fixture
def for_all(engine_of: Callable[[str], Engine]) -> Iterator[Path]:
    """A folder that everybody may enter: this tree, its Python and libraries, the SIF files."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; run the tests as root")
    engine_of("singularity")
    folder = Path(tempfile.mkdtemp(prefix="axoloci-user-", dir="/tmp"))
    folder.chmod(0o755)
    mounts = {
        "tree": ROOT,
        "python": Path(sys.base_prefix),
        "libraries": Path(sysconfig.get_path("purelib")),
        "images": sif_folder(),
    }
    try:
        for name, source in mounts.items():
            (folder / name).mkdir()
            subprocess.run(["mount", "--bind", source, folder / name], check=True)
        yield folder
    finally:
        for name in mounts:
            subprocess.run(["umount", "--lazy", folder / name], check=False)
        shutil.rmtree(folder)


def test_run__as_a_user_without_rights(
    cohort: Path, for_all: Path, native: Path, tool: Callable[[str], str]
) -> None:
    """With Apptainer, and with a package in ~/.local that would break every step."""
    user = pwd.getpwnam("nobody")
    home, label = for_all / "home", one_person(cohort)
    poisoned = home / ".local" / "lib" / "python3.11" / "site-packages"
    poisoned.mkdir(parents=True)
    (poisoned / "numpy.py").write_text("raise RuntimeError('the host leaks in')\n")
    shutil.copytree(cohort, home / "cohort")
    study = write_study(home, home / "cohort")
    for path in (home, *home.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)
    done = subprocess.run(
        [
            *(tool("setpriv"), f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"),
            *("--clear-groups", for_all / "python" / "bin" / "python3", "-m", "axoloci"),
            *("run", study, "--env", "singularity", "--stage", "participants"),
            *("--participant-label", label),
        ],
        env={
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{for_all / 'tree' / 'src'}:{for_all / 'libraries'}",
            "LD_LIBRARY_PATH": str(for_all / "python" / "lib"),  # Python may be a shared library
            "AXOLOCI_IMAGES": str(for_all / "images"),
            "NO_ET": "1",
            **{name: os.environ[name] for name in ARITHMETIC if name in os.environ},
        },
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = results(home / "out")
    expected = results(native)
    maps = [name for name in found if name.startswith(f"{label}/")]
    assert len(maps) > 10
    for name in maps:
        assert CODE.sub(b"", found[name]) == CODE.sub(b"", expected[name]), name
    assert {path.stat().st_uid for path in (home / "out").rglob("*")} == {user.pw_uid}
