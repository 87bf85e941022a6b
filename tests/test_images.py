"""Images: closures, locks, what moved, the unpacked base, SIF files; with podman, builds."""

from __future__ import annotations

import ast
import io
import json
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from support import BIN, STEPS, axoloci

from axoloci import debian, environments, image_build, image_commands, images, steps
from axoloci.errors import InputError
from axoloci.image_build import Recipe
from axoloci.images import Image
from axoloci.io.files import sha256
from axoloci.io.gradients import write_gradients
from axoloci.io.nifti import write_nifti
from axoloci.tasks.simulate.scan import gradient_scheme

ENTRY = (
    "numpy==2.4.6 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\n"
    "scipy==1.17.1 \\\n    --hash=sha256:02\n"
)


def recipe(lock: str = ENTRY, **labels: str) -> Recipe:
    return Recipe(
        "dti", "cpu", {"Dockerfile": "FROM x", "requirements.lock": lock}, {"a.py": b"1"}, labels
    )


def image(made_of: Recipe, digest: str = "a") -> Image:
    return Image(
        step=made_of.step,
        reference="axoloci/dti",
        config_digest="sha256:" + digest * 64,
        diff_ids=("sha256:1",),
        size=10,
        base="sha256:b",
        inputs=made_of.inputs,
        parts=made_of.parts,
    )


# --- what an image is made of ---------------------------------------------------------------------


def test_step_files__are_the_step_and_what_it_imports_alone() -> None:
    found = set(steps.step_files("dti"))
    assert {"axoloci/tasks/dti/kernel.py", "axoloci/io/gradients.py", "axoloci/command.py"} <= found
    assert not [path for path in found if path.endswith(("task.py", "step.toml", "steps.py"))]
    assert not [path for path in found if "/tasks/" in path and "/tasks/dti/" not in path]
    assert "axoloci/tasks/normalize/MNI_FA_2mm.nii.gz" in steps.step_files("normalize")


@pytest.mark.parametrize("step", STEPS)
def test_recipe__its_code_runs_alone(step: str, tmp_path: Path) -> None:
    """Staged code finds all that it imports of axoloci, without the rest and without Pydra."""
    made = image_build.recipes()[step]
    for path, content in made.code.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    program = (
        "import sys; sys.modules['pydra'] = None\n"
        f"sys.path.insert(0, {str(tmp_path / image_build.SITE)!r})\n"
        f"sys.argv = ['axoloci-{step}', '--help']\n"
        f"exec(open({str(tmp_path / 'usr/local/bin' / f'axoloci-{step}')!r}).read())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--self-test" in done.stdout


def test_recipe__a_change_elsewhere_does_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image_build.recipes()

    def changed(name: str) -> dict[str, bytes]:
        code = dict(original(name))
        if name == "gwas":
            code["usr/local/lib/x.py"] = b"other"
        return code

    original = image_build._code
    monkeypatch.setattr(image_build, "_code", changed)
    after = image_build.recipes()
    assert [n for n in before if before[n].inputs != after[n].inputs] == ["gwas", "gwas-cuda"]


def test_recipes__every_step_has_an_image_and_steps_with_torch_two() -> None:
    found = image_build.recipes()
    assert {made.step for made in found.values()} >= set(STEPS)
    assert [name for name in found if name.endswith("-cuda")] == ["encoder-cuda", "gwas-cuda"]
    assert found["encoder"].requirements["torch"].endswith("+cpu")
    assert "torch" not in found["gwas"].requirements
    assert found["gwas-cuda"].requirements["torch"] == found["encoder-cuda"].requirements["torch"]


@pytest.mark.parametrize("name", sorted(image_build.recipes()))
def test_locks__have_the_versions_of_the_native_environment(name: str) -> None:
    folder = image_build.containers() / "native"
    native = {
        found[1]: found[2]
        for lock in ("requirements.lock", "torch-cuda.lock", "torch-cpu.lock")
        for found in image_build.ENTRY.finditer((folder / lock).read_text())
    }
    for library, version in image_build.recipes()[name].requirements.items():
        assert native[library].removesuffix("+cpu") == version.removesuffix("+cpu"), library


def test_locks__ask_for_what_the_step_imports_and_no_more() -> None:
    """The names in requirements.in are those that the step's files import."""
    names = {
        "google_crc32c": "google-crc32c",
        "pandas_plink": "pandas-plink-ng",
        "PIL": "pillow",
    }
    for step in STEPS:
        imported = set()
        for path, file in steps.step_files(step).items():
            if path.endswith(".py"):
                for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                    if isinstance(node, ast.Import):
                        imported |= {alias.name.split(".")[0] for alias in node.names}
                    elif isinstance(node, ast.ImportFrom) and node.module:
                        imported.add(node.module.split(".")[0])
        imported -= {"axoloci", *sys.stdlib_module_names}
        folder = image_build.containers() / step
        asked = set((folder / "requirements.in").read_text().split())
        for source in folder.glob("torch-*.in"):
            asked |= set(source.read_text().split())
        assert {names.get(name, name) for name in imported} == asked, step


def test_sbom__names_every_library_and_package_with_its_version() -> None:
    made = image_build.recipes()["dti"]
    content = json.loads(made.code["usr/share/doc/axoloci/dti.cdx.json"])
    assert content["bomFormat"] == "CycloneDX"
    purls = {component["purl"] for component in content["components"]}
    assert f"pkg:pypi/dipy@{made.requirements['dipy']}" in purls
    assert any(purl.startswith("pkg:deb/debian/python3.11@3.11.2-") for purl in purls)
    assert len(purls) == len(content["components"])


# --- what moved, what is not reproducible ---------------------------------------------------------


def test_moved_inputs__names_package_and_versions_and_not_the_lock() -> None:
    new = recipe(ENTRY.replace("2.4.6", "2.5.0"))
    assert image_build.moved_inputs(new, image(recipe())) == ["numpy 2.4.6 → 2.5.0"]
    assert image_build.moved_inputs(recipe(), image(recipe())) == []


def test_moved_inputs__names_a_lock_whose_checksums_alone_changed() -> None:
    (line,) = image_build.moved_inputs(recipe(ENTRY.replace(":02", ":03")), image(recipe()))
    assert line.startswith("requirements.lock sha256:")


def test_moved__names_debian_packages_that_came_went_or_changed() -> None:
    def package(name: str, version: str) -> debian.Package:
        return debian.Package(name, version, "0" * 64, "debian/pool/x.deb")

    before = [package("python3.11", "3.11.2-6+deb12u6"), package("gone", "1")]
    after = [package("python3.11", "3.11.2-6+deb12u9"), package("came", "2")]
    assert debian.moved(before, after) == [
        "came (none) → 2",
        "gone 1 → (none)",
        "python3.11 3.11.2-6+deb12u6 → 3.11.2-6+deb12u9",
    ]


class Verified:
    """`axoloci images verify` on fakes: what was built, what is locked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.monkeypatch, self.lock = monkeypatch, tmp_path / "images.lock"
        self.base = Recipe("base", "cpu", {"packages.lock": "a 1 sha256:0 p\n"}, {}, {})
        self.made = recipe()
        self.digests = iter("ba" + "a" * 9)
        monkeypatch.setattr(image_commands, "pinned_images", lambda: images.read_lock(self.lock))
        monkeypatch.setattr(image_build, "recipes", lambda: {"dti": self.made})
        monkeypatch.setattr(image_build, "base_recipe", lambda: self.base)
        monkeypatch.setattr(image_build, "is_here", lambda _: False)
        monkeypatch.setattr(image_commands, "_built", self.build)
        images.write_lock(self.lock, {"base": image(self.base, "b"), "dti": image(self.made, "a")})

    def build(self, made: Recipe, *_: object) -> Image:
        return image(made, next(self.digests))

    def output(self) -> str:
        done = CliRunner().invoke(image_commands.images, ["verify"])
        if done.exit_code == 0:
            return ""
        assert isinstance(done.exception, InputError)
        return str(done.exception)


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Verified:
    return Verified(monkeypatch, tmp_path)


def test_verify__says_nothing_when_all_are_equal(verified: Verified) -> None:
    assert verified.output() == ""


def test_verify__an_input_that_moved_is_named(verified: Verified) -> None:
    verified.made, verified.digests = recipe(ENTRY.replace("1.17.1", "1.18.0")), iter("bc")
    assert verified.output() == "dti: an input has moved: scipy 1.17.1 → 1.18.0"


def test_verify__a_debian_package_that_moved_is_named(verified: Verified) -> None:
    verified.base = Recipe("base", "cpu", {"packages.lock": "a 2 sha256:0 p\n"}, {}, {})
    verified.digests = iter("ca")
    assert "base: an input has moved: a 1 → 2" in verified.output()


def test_verify__a_build_that_is_another_each_time_names_the_file(
    verified: Verified, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified.digests = iter("bcd")
    contents = iter([{"usr/log": b"one", "usr/same": b"x"}, {"usr/log": b"two", "usr/same": b"x"}])
    monkeypatch.setattr(image_build, "save", lambda _, path, __: archive(path, next(contents)))
    assert verified.output() == "dti: not reproducible:\n    layer 0: /usr/log: content"


def test_verify__a_build_that_is_equal_here_but_not_as_locked_names_the_layer(
    verified: Verified,
) -> None:
    verified.digests = iter("bcc")
    assert "two builds on this machine are equal" in verified.output()


def archive(path: Path, contents: Mapping[str, bytes]) -> None:
    """A docker archive of one layer."""

    def packed(files: Mapping[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()

    manifest = json.dumps([{"Config": "c.json", "Layers": ["l.tar"]}]).encode()
    path.write_bytes(
        packed({"manifest.json": manifest, "c.json": b'{"os": "linux"}', "l.tar": packed(contents)})
    )


# --- locks ----------------------------------------------------------------------------------------


def test_images_lock__comes_back_as_written(tmp_path: Path) -> None:
    one = image(recipe())
    images.write_lock(tmp_path / "images.lock", {"dti": one})
    assert images.read_lock(tmp_path / "images.lock") == {"dti": one}


def test_images_lock__a_damaged_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.lock").write_text('{"format": 1')
    with pytest.raises(InputError, match="not a lock of images"):
        images.read_lock(tmp_path / "images.lock")


def test_images_lock__pins_the_image_of_every_step_as_its_inputs_are_now() -> None:
    """Whoever changes a step, a recipe or a lock builds the images anew and commits their lock."""
    locked = images.pinned_images()
    current = {"base": image_build.base_recipe(), **image_build.recipes()}
    for name, made in current.items():
        if made.variant == "cpu":
            assert name in locked, f"axoloci images build {name} --lock"
            changes = image_build.moved_inputs(made, locked[name])
            assert not changes, f"{name}: axoloci images build --lock; {changes}"
    assert "base" not in images.locked_images()


def test_packages_lock__a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "packages.lock").write_text("# snapshot 20260101T000000Z\nlibc6 2.36\n")
    with pytest.raises(InputError, match=r"packages.lock, line 2"):
        debian.read_lock(tmp_path / "packages.lock")


# --- the base -------------------------------------------------------------------------------------


def deb(path: Path, files: Mapping[str, tuple[bytes, int]], links: Mapping[str, str]) -> Path:
    """A Debian package: an `ar` archive of two compressed tar files."""

    def packed(members: Mapping[str, tuple[bytes, int]], links: Mapping[str, str]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
            for name, (content, mode) in members.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.uid, entry.mtime = len(content), mode, 77, 1234
                tar.addfile(entry, io.BytesIO(content))
            for name, to in links.items():
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.SYMTYPE, to
                tar.addfile(entry)
        return buffer.getvalue()

    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": packed({"./control": (b"Package: x\n", 0o644)}, {}),
        "data.tar.xz": packed(files, links),
    }
    content = b"!<arch>\n"
    for name, part in parts.items():
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode()
        content += part + b"\n" * (len(part) % 2)
    path.write_bytes(content)
    return path


def test_write_root__unpacks_into_merged_folders_of_root_and_one_time(tmp_path: Path) -> None:
    files = {
        "./bin/sh": (b"program", 0o4755),
        "./usr/share/doc/x/copyright": (b"terms", 0o644),
        "./usr/share/doc/x/changelog.gz": (b"news", 0o644),
        "./usr/share/man/x.1": (b"page", 0o644),
    }
    package = debian.Package("x", "1", "0" * 64, "debian/pool/x.deb")
    for order in (1, -1):
        some = dict(list(files.items())[::order])
        deb(tmp_path / f"{order}.deb", some, {"./lib/x.so": "x.so.1"})
        debian.write_root({package: tmp_path / f"{order}.deb"}, tmp_path / f"{order}.tar", 99)
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "-1.tar").read_bytes()
    with tarfile.open(tmp_path / "1.tar") as tar:
        found = {member.name: member for member in tar}
    assert found["usr/bin/sh"].mode == 0o755  # nobody becomes another user
    assert found["bin"].linkname == "usr/bin"
    assert found["usr/lib/x.so"].linkname == "x.so.1"
    assert "usr/share/doc/x/copyright" in found
    assert not {"usr/share/doc/x/changelog.gz", "usr/share/man/x.1", "bin/sh"} & set(found)
    assert {(m.mtime, m.uid, m.gid) for m in found.values()} == {(99, 0, 0)}
    assert list(found) == sorted(found)


def test_fetch__other_bytes_than_locked_are_an_input_that_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian" / "x.deb").write_bytes(b"new")
    monkeypatch.setattr(debian, "MIRROR", tmp_path.as_uri())
    monkeypatch.setattr(debian, "SNAPSHOT", (tmp_path / "none").as_uri())
    package = debian.Package("x", "1-1", "0" * 64, "debian/x.deb")
    with pytest.raises(debian.InputMovedError, match=r"x 1-1 is not to be had.*other bytes"):
        debian.fetch(package, "20260101T000000Z", tmp_path / "kept")


# --- SIF files ------------------------------------------------------------------------------------


@pytest.fixture
def kept_sif(tmp_path: Path) -> Path:
    sif = images.sif_path(image(recipe()), tmp_path)
    sif.write_bytes(b"a whole file")
    images.remember_sif(image(recipe()), sif)
    return sif


def test_checked_sif__is_given_when_whole(kept_sif: Path) -> None:
    assert images.checked_sif(image(recipe()), kept_sif.parent) == kept_sif


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda sif: sif.write_bytes(b"a whole"), "7 bytes instead of 12"),
        (lambda sif: sif.write_bytes(b"a whole fils"), "damaged"),
        (lambda sif: sif.with_suffix(".json").unlink(), "no SIF of the pinned image"),
        (lambda sif: sif.with_suffix(".json").write_text("{}"), "another image"),
        (lambda sif: sif.with_suffix(".json").write_text("{"), "cannot be read"),
        (lambda sif: sif.unlink(), "no SIF of the pinned image"),
    ],
)
def test_checked_sif__is_refused_when_not(
    kept_sif: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(kept_sif)
    with pytest.raises(InputError, match=words):
        images.checked_sif(image(recipe()), kept_sif.parent)


def test_environment_problems__one_line_for_all_sif_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AXOLOCI_IMAGES", str(tmp_path))
    environments._located.cache_clear()

    def problem() -> str:
        (found,) = environments.environment_problems(
            "singularity", ["dti", "gwas"], loads_engine=True
        )
        return found

    assert problem().endswith(f"make them: axoloci images sif dti gwas --folder {tmp_path}")

    def forbidden(path: Path, **_: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", forbidden)
    assert problem().startswith(f"{tmp_path}: no permission to read the SIF files in it")


def test_images__without_podman_name_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    listed = CliRunner().invoke(image_commands.images, ["list", "--folder", str(tmp_path)])
    assert listed.exit_code == 0, listed.output
    assert listed.stderr.count("podman is not installed here") == 1
    made = CliRunner().invoke(image_commands.images, ["sif", "dti", "--folder", str(tmp_path)])
    assert isinstance(made.exception, InputError)
    assert str(made.exception).startswith("dti: podman is not installed here")
    assert "axoloci images bundle" in str(made.exception)


# --- with podman ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def built(tool: Callable[[str], str]) -> Callable[[str], Image]:
    """`built("dti")`: the pinned image, built if podman does not have it yet."""
    tool("podman")

    def build(name: str) -> Image:
        axoloci("images", "build", name)
        return images.read_lock(images.lock_file())[name]

    return build


PINNED = sorted(name for name, made in image_build.recipes().items() if made.variant == "cpu")


@pytest.mark.parametrize("name", PINNED)
def test_image__is_the_pinned_one_and_passes_its_self_test(
    name: str, built: Callable[[str], Image]
) -> None:
    """Without network, as any user, on a read-only file system; the versions are the lock's."""
    image = built(name)
    shown = dict(line.split(maxsplit=1) for line in image_build.self_test(image).splitlines())
    assert shown[f"axoloci-{name}:"] == "self-test passed"
    assert shown["numpy"] == image.parts["numpy"]


@pytest.fixture
def registry(
    tool: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Address of an empty registry."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\n"
        f"http: {{addr: {address}}}\n"
    )
    trusted = tmp_path / "registries.conf"
    trusted.write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(trusted))
    with open(tmp_path / "registry.log", "wb") as log:
        process = subprocess.Popen([tool("docker-registry"), "serve", config], stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://{address}/v2/"):
                break
            assert time.monotonic() < deadline, (tmp_path / "registry.log").read_text()
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait()


def test_push__pull_takes_what_was_published_and_nothing_else(
    built: Callable[[str], Image], registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = built("dti")
    lock = tmp_path / "images.lock"
    images.write_lock(lock, {"dti": image})
    monkeypatch.setattr(image_commands, "lock_file", lambda _: lock)

    def run(command: click.Command, *words: str) -> str:
        arguments = ["dti", "--registry", registry, *words]
        return CliRunner().invoke(command, arguments, catch_exceptions=False).stdout

    (address,) = run(image_commands.push, "--lock").splitlines()
    published = images.read_lock(lock)["dti"]
    assert published == image.model_copy(update={"registry_digest": published.registry_digest})
    assert address == f"{registry}/axoloci/dti@{published.registry_digest}"
    manifest = urllib.request.Request(
        f"http://{registry}/v2/axoloci/dti/manifests/{published.registry_digest}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(manifest) as answer:
        assert json.load(answer)["config"]["digest"] == image.config_digest
    assert run(image_commands.push).split() == [address]  # compressed to the same bytes again

    for known in (image, published):  # by its tag, by its digest
        monkeypatch.setattr(image_commands, "locked_images", lambda known=known: {"dti": known})
        run(image_commands.pull)
    other = image.model_copy(update={"config_digest": "sha256:" + "ab" * 32})
    monkeypatch.setattr(image_commands, "locked_images", lambda: {"dti": other})
    with pytest.raises(InputError, match="another image than the pinned sha256:abab"):
        run(image_commands.pull)
    images.podman("untag", image.config_digest, f"{registry}/axoloci/dti:{image.version}")


def run_in(image: Image, *command: str) -> str:
    return images.podman("run", "--rm", "--network=none", image.config_digest, *command)


def test_image__holds_its_step_alone_and_nothing_to_build_or_become_root_with(
    built: Callable[[str], Image],
) -> None:
    image = built("dti")
    site = f"/{image_build.SITE}"
    tasks = run_in(image, "ls", f"{site}/axoloci/tasks").split()
    assert tasks == ["__init__.py", "__pycache__", "dti"]
    assert not {"pydra", "pip", "torch", "pandas"} & set(run_in(image, "ls", site).split())
    programs = run_in(image, "ls", "/usr/bin", "/usr/local/bin").split()
    assert not {"gcc", "cc", "as", "ld", "pip", "pip3", "apt", "dpkg", "su", "sudo"} & set(programs)
    assert "axoloci-dti" in programs
    assert run_in(image, "id", "-u").strip() == "1000"
    listed = json.loads(run_in(image, "cat", "/usr/share/doc/axoloci/dti.cdx.json"))["components"]
    assert {part["version"] for part in listed if part["name"] == "dipy"} == {image.parts["dipy"]}


def test_image__computes_what_the_native_command_does(
    built: Callable[[str], Image], tmp_path: Path
) -> None:
    """The same FA, to the bit, from the same scan."""
    bval, bvec = gradient_scheme(6, 1, 1000.0)
    rng = np.random.default_rng(0)
    signal = 1000 * np.exp(-bval * 1e-3) * rng.uniform(0.5, 1.0, (4, 4, 4, len(bval)))
    write_nifti(tmp_path / "dwi.nii.gz", signal.astype(np.float32), np.diag([-2.0, 2, 2, 1]))
    write_gradients(tmp_path / "dwi.bval", tmp_path / "dwi.bvec", bval, bvec)

    def fit(folder: str, out: str) -> list[str]:
        names = (("--dwi", "dwi.nii.gz"), ("--bval", "dwi.bval"), ("--bvec", "dwi.bvec"))
        given = [word for option, name in names for word in (option, f"{folder}/{name}")]
        return ["fit", *given, "--out", f"{folder}/{out}", "--prefix", "x"]

    subprocess.run([BIN / "axoloci-dti", *fit(str(tmp_path), "native")], check=True)
    mount = f"--volume={tmp_path}:/data"
    options = ("--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--user=0:0", mount)
    digest = built("dti").config_digest
    images.podman("run", *options, digest, "axoloci-dti", *fit("/data", "image"))
    name = "x_model-tensor_param-fa_dwimap.nii.gz"
    assert sha256(tmp_path / "native" / name) == sha256(tmp_path / "image" / name)


def test_sif__is_made_from_the_pinned_image_and_kept(
    built: Callable[[str], Image], tool: Callable[[str], str], tmp_path: Path
) -> None:
    image, apptainer = built("preprocess"), tool("apptainer")
    axoloci("images", "sif", "preprocess", "--folder", tmp_path)
    sif = images.checked_sif(image, tmp_path)
    before = sif.stat().st_mtime_ns
    axoloci("images", "sif", "preprocess", "--folder", tmp_path)
    assert sif.stat().st_mtime_ns == before
    with open(sif, "rb+") as file:
        file.truncate(sif.stat().st_size // 2)
    axoloci("images", "sif", "preprocess", "--folder", tmp_path)
    command = [apptainer, "exec", "--containall", sif, "axoloci-preprocess", "--self-test"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "self-test passed" in done.stdout


def test_bundle__is_whole_and_loads(built: Callable[[str], Image], tmp_path: Path) -> None:
    image = built("preprocess")
    words = ("images", "bundle", "preprocess", "--kind", "oci", "--out", tmp_path / "bundle")
    assert f"preprocess: {tmp_path}/bundle/preprocess.tar, " in axoloci(*words).stderr
    subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "bundle", check=True
    )
    assert images.read_lock(tmp_path / "bundle" / "images.lock") == {"preprocess": image}
    loaded = images.podman("load", "--quiet", "--input", tmp_path / "bundle" / "preprocess.tar")
    assert image.config_digest in loaded


def test_image__starts_processes_of_its_own(built: Callable[[str], Image], tmp_path: Path) -> None:
    """Spawned processes come by the command's file again and must not run it once more."""
    tiny = ("--n-subjects=8", "--n-variants=100", "--n-loci=0", "--voxel-size=20", "--n-procs=2")
    options = ("--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--user=0:0")
    mount = f"--volume={tmp_path}:/data"
    digest = built("simulate").config_digest
    images.podman("run", *options, mount, digest, "axoloci-simulate", "cohort", "/data/c", *tiny)
    assert len(list((tmp_path / "c" / "bids").glob("sub-*/dwi/*.nii.gz"))) == 8
