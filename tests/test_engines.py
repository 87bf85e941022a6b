"""Which engine, which image, which words: with programs that only pretend to be engines."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydra.engine.submitter import Submitter

from axoloci import engines, environments
from axoloci.engines import Engine, Job, Mount, find_engine, folders_of, has_gpu
from axoloci.environments import StepEnvironment, StepError
from axoloci.errors import InputError
from axoloci.images import Image
from axoloci.job import was_killed
from axoloci.tasks.dti.task import FitDti

IMAGE = Image(
    step="dti",
    reference="axoloci/dti",
    config_digest="sha256:" + "ab" * 32,
    diff_ids=("sha256:01", "sha256:02"),
    size=1,
    inputs="sha256:03",
    parts={},
)


@pytest.fixture(autouse=True)
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for pretended programs, the only ones on the PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    find_engine.cache_clear()
    yield programs
    find_engine.cache_clear()


def pretend(programs: Path, name: str, script: str) -> str:
    program = programs / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def job(**changes: object) -> Job:
    given = {
        "name": "axoloci-1",
        "command": ["axoloci-dti", "fit"],
        "mounts": [Mount(Path("/data/b/out"), writable=True), Mount(Path("/data/b"))],
        "folder": Path("/data/b/out"),
        "variables": {"OMP_NUM_THREADS": "1"},
    }
    return Job(**(given | changes))  # type: ignore[arg-type]


def test_mount__quotes_what_would_end_it() -> None:
    assert Mount(Path("/a b/ü")).option() == "type=bind,source=/a b/ü,target=/a b/ü,ro"
    written = Mount(Path('/a,b/c"d'), writable=True).option()
    assert written == 'type=bind,"source=/a,b/c""d","target=/a,b/c""d"'


def test_job__mounts_outer_folders_first() -> None:
    assert job().mount_options == [
        *("--mount", "type=bind,source=/data/b,target=/data/b,ro"),
        *("--mount", "type=bind,source=/data/b/out,target=/data/b/out"),
    ]


@pytest.mark.parametrize(
    ("program", "rootless", "user"),
    [
        ("/x/podman", False, f"--user={os.getuid()}:{os.getgid()}"),
        ("/x/podman", True, f"--user={os.getuid()}:{os.getgid()}"),
        ("/x/docker", False, f"--user={os.getuid()}:{os.getgid()}"),
        ("/x/docker", True, "--user=0:0"),
    ],
)
def test_words__of_docker_run_as_the_caller(
    program: str, rootless: bool, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getgroups", lambda: [4, 1007])
    words = Engine("docker", program, rootless).words("sha256:ab", job())
    assert words[:3] == [program, "run", "-i"]
    assert words[-3:] == ["sha256:ab", "axoloci-dti", "fit"]
    assert user in words
    groups = {f"--group-add={group}" for group in (4, 1007) if not rootless}
    assert {word for word in words if word.startswith("--group-add")} == groups
    assert {"--network=none", "--read-only", "--pull=never"} <= set(words)
    assert ("--userns=keep-id" in words) == (rootless and program.endswith("podman"))
    assert not {"--gpus", "--device"} & set(words)
    assert not [word for word in words if word.startswith("--memory")]


def test_words__of_docker_name_no_place_twice() -> None:
    engine = Engine("docker", "/x/podman")
    assert "--tmpfs" in engine.words("image", job())
    assert "--tmpfs" not in engine.words("image", job(mounts=[Mount(Path("/tmp"))]))


@pytest.mark.parametrize(("visible", "there"), [(None, True), ("1", True), ("", False)])
def test_has_gpu__not_where_a_cluster_hides_them(
    visible: str | None, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "NVIDIA", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert has_gpu() == there


def test_words__ask_for_what_was_wished() -> None:
    wish = job(memory_gb=1.5, cpus=2.0, gpu=True)
    words = {
        name: Engine(kind, f"/x/{name}").words("image", wish)
        for kind, name in (
            *(("docker", "docker"), ("docker", "podman")),
            ("singularity", "apptainer"),
        )
    }
    assert {"--memory=1536m", "--cpus=2"} <= set(words["docker"])
    assert words["docker"][words["docker"].index("--gpus") + 1] == "all"
    assert words["podman"][words["podman"].index("--device") + 1] == "nvidia.com/gpu=all"
    assert "--nv" in words["apptainer"]
    assert words["apptainer"][words["apptainer"].index("--memory") + 1] == "1536M"
    assert words["apptainer"][words["apptainer"].index("--cpus") + 1] == "2"


def test_words__of_singularity_keep_the_host_out() -> None:
    words = Engine("singularity", "/x/apptainer").words("/x.sif", job())
    assert {"--containall", "--cleanenv", "--no-home"} <= set(words)
    assert words[-3:] == ["/x.sif", "axoloci-dti", "fit"]


def inspect(folder: Path, image: str, layers: tuple[str, ...]) -> str:
    """A script that knows one image by its id and by its name."""
    answer = folder / "answer.json"
    answer.write_text(json.dumps([{"Id": image, "RootFS": {"Layers": layers}}]) + "\n")
    return (
        f'case "$3" in {image}|axoloci/dti) while read line; do echo "$line"; done < "{answer}";; '
        "*) exit 125;; esac"
    )


def test_locate__takes_the_pinned_image_only(only: Path, tmp_path: Path) -> None:
    script = inspect(tmp_path, IMAGE.config_digest, IMAGE.diff_ids)
    assert Engine("docker", pretend(only, "docker", script)).locate(IMAGE) == IMAGE.config_digest


def test_locate__knows_an_image_by_its_layers_where_ids_are_of_manifests(
    only: Path, tmp_path: Path
) -> None:
    script = inspect(tmp_path, "sha256:77", IMAGE.diff_ids)
    assert Engine("docker", pretend(only, "docker", script)).locate(IMAGE) == "sha256:77"


def test_locate__refuses_another_image_of_the_name(only: Path, tmp_path: Path) -> None:
    engine = Engine("docker", pretend(only, "docker", inspect(tmp_path, "sha256:77", ("x",))))
    with pytest.raises(InputError, match=r"is sha256:77, and the pinned one .* images build dti"):
        engine.locate(IMAGE)


def test_locate__says_how_to_get_a_missing_image(only: Path) -> None:
    engine = Engine("docker", pretend(only, "podman", "exit 125"))
    with pytest.raises(InputError, match=r"podman has no image .*run `axoloci images build dti`"):
        engine.locate(IMAGE)
    docker = Engine("docker", pretend(only, "docker", "exit 1"))
    with pytest.raises(InputError, match=r"`podman push sha256:\w+ docker-daemon:axoloci/dti:la"):
        docker.locate(IMAGE)


@pytest.mark.parametrize(
    ("kind", "names"),
    [("docker", "neither podman nor docker"), ("singularity", "neither apptainer nor singularity")],
)
def test_find_engine__says_what_is_missing(kind: str, names: str) -> None:
    with pytest.raises(InputError, match=rf"{names} is installed\. .*`module load`"):
        find_engine(kind)


def test_find_engine__says_why_it_may_not_be_used(only: Path) -> None:
    pretend(only, "docker", 'echo "permission denied on /var/run/docker.sock" >&2; exit 1')
    with pytest.raises(InputError, match=r"docker: permission denied .*group docker"):
        find_engine("docker")


def test_find_engine__takes_the_one_that_answers(only: Path) -> None:
    pretend(only, "podman", "exit 1")
    docker = pretend(only, "docker", "echo '{}'")
    assert find_engine("docker") == Engine("docker", docker)
    find_engine.cache_clear()
    podman = pretend(only, "podman", "echo true")
    assert find_engine("docker") == Engine("docker", podman, rootless=True)


@pytest.mark.parametrize("options", ["[]", '["name=seccomp","name=rootless"]'])
def test_find_engine__knows_docker_without_root(only: Path, options: str) -> None:
    program = pretend(only, "docker", f"echo '{{\"SecurityOptions\": {options}}}'")
    assert find_engine("docker") == Engine("docker", program, rootless="rootless" in options)


def test_folders_of__follows_links_to_their_end(tmp_path: Path) -> None:
    for name in ("store", "middle", "data"):
        (tmp_path / name).mkdir()
    real = tmp_path / "store" / "x.nii.gz"
    real.touch()
    (tmp_path / "middle" / "x.nii.gz").symlink_to(real)
    (tmp_path / "data" / "x.nii.gz").symlink_to("../middle/x.nii.gz")
    found = folders_of([tmp_path / "data" / "x.nii.gz"])
    assert found == {tmp_path / name for name in ("store", "middle", "data")}
    shutil.rmtree(tmp_path / "data")
    assert folders_of([real]) == {tmp_path / "store"}


@pytest.fixture
def execute(only: Path, tmp_path: Path, nifti: Callable[..., Path]) -> Callable[[], object]:
    """Run the tensor fit of a scan by the engine that is there; its record lies in `logs`."""
    (only / "mount").symlink_to("/usr/bin/mount")  # Pydra asks it for file systems
    for name in ("bval", "bvec"):
        (tmp_path / f"dwi.{name}").write_text("0\n")
    task = FitDti(
        dwi=nifti("dwi.nii.gz", 2, 2, 2, 1),
        bval=tmp_path / "dwi.bval",
        bvec=tmp_path / "dwi.bvec",
        prefix="sub-1",
        out_dir=str(tmp_path),
    )
    where = StepEnvironment("singularity", tmp_path / "logs" / "dti.log")

    def run() -> object:
        with Submitter(
            cache_root=tmp_path / "cache", worker="debug", environment=where
        ) as submitter:
            return submitter(task, raise_errors=True)

    return run


def test_execute__what_could_not_be_started_was_not_killed(
    execute: Callable[[], object], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="neither apptainer nor singularity"):
        execute()
    record = json.loads((tmp_path / "logs" / "dti.json").read_text())
    assert not was_killed(record.get("exit_code"))


def test_execute__the_gpus_of_a_job_are_those_of_its_container(
    execute: Callable[[], object], only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(environments, "_located", lambda *_: "image")
    pretend(only, "apptainer", f'echo "$@" >"{tmp_path}/words"; exit 1')
    with pytest.raises(StepError, match="exit 1"):
        execute()
    assert "--env CUDA_VISIBLE_DEVICES=3 " in (tmp_path / "words").read_text()


@pytest.mark.parametrize(
    ("signal", "limit", "reason"),
    [
        (9, "1.5", "killed by SIGKILL: out of memory: over the limit of 1.5 GB (--memory-gb)"),
        (9, None, "killed by SIGKILL"),
        (15, "1.5", "killed by SIGTERM"),
    ],
)
def test_execute__what_was_killed_is_not_told_by_its_last_words(
    signal: int,
    limit: str | None,
    reason: str,
    execute: Callable[[], object],
    only: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environments, "_located", lambda *_: "image")
    if limit is not None:
        monkeypatch.setenv("AXOLOCI_MEMORY_GB", limit)
    pretend(only, "apptainer", f"echo all goes well >&2; exit {128 + signal}")
    with pytest.raises(StepError) as error:
        execute()
    assert str(error.value) == f"axoloci-dti fit, {reason}"
    record = json.loads((tmp_path / "logs" / "dti.json").read_text())
    assert record["reason"] == reason
    assert record["exit_code"] == -signal


@pytest.mark.parametrize(("variant", "given"), [("cuda", True), ("cpu", False)])
def test_execute__an_image_with_cuda_is_given_the_gpu(
    variant: str,
    given: bool,
    execute: Callable[[], object],
    only: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of a step that does without, if the study does not ask for it."""
    image = IMAGE.model_copy(update={"variant": variant})
    monkeypatch.setattr(environments, "has_gpu", lambda: True)
    monkeypatch.setattr(environments, "pinned_image", lambda _: image)
    monkeypatch.setattr(environments, "_located", lambda *_: "image")
    pretend(only, "apptainer", f'echo "$@" >"{tmp_path}/words"; exit 1')
    with pytest.raises(StepError, match="exit 1"):
        execute()
    assert ("--nv" in (tmp_path / "words").read_text().split()) == given
