"""The images of the steps: what `images.lock` pins, and whether it is here.

The images of axoloci are pinned in `containers/images.lock`, that of a step from outside in the
folder `container` of its package.

An image is known by its *config digest*, which names its content: programs, libraries, settings. A
registry's digest also depends on how the layers were compressed on their way, so it stands beside.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from axoloci.errors import InputError
from axoloci.io.files import sha256, write_json
from axoloci.steps import container_folder, installed_steps, is_outside
from axoloci.study import Section

Variant = Literal["cpu", "cuda"]

IMAGES_VARIABLE = "AXOLOCI_IMAGES"
"""Environment variable: folder of SIF files."""

NO_PODMAN = (
    "podman is not installed here (on Debian `sudo make system` installs it); SIF files are made "
    "where it is, by `axoloci images bundle --out FOLDER`: carry that folder here, and name it in "
    f"{IMAGES_VARIABLE}"
)


class Image(Section):
    """One pinned image, as in `images.lock`.

    Attributes
    ----------
    step, variant
        What it runs, and whether its torch computes on a CPU or by CUDA; the base of all images
        has the step "base".
    reference
        Its name in a registry, without the registry: axoloci/dti.
    config_digest
        "sha256:…": container engines run it by this id.
    diff_ids
        Digest of each layer before compression.
    size
        Bytes of all layers before compression, those of the base too.
    base
        Config digest of the base; empty for the base itself.
    inputs
        Digest of all that it is made of; an image with other inputs has another digest.
    parts
        What that digest is over, each by name: Debian packages and libraries with their versions,
        files with their SHA-256.
    registry_digest
        Digest of the manifest in the registry that it was published to.
    """

    step: str
    variant: Variant = "cpu"
    reference: str
    config_digest: str
    diff_ids: tuple[str, ...]
    size: int
    base: str = ""
    inputs: str
    parts: Mapping[str, str]
    registry_digest: str | None = None

    @property
    def name(self) -> str:
        """Its key in the lock: dti, encoder-cuda."""
        return image_name(self.step, self.variant)

    @property
    def tag(self) -> str:
        """Its name in podman's store."""
        return f"localhost/{self.reference}:{self.inputs[7:19]}"

    @property
    def version(self) -> str:
        """Of the package that its step belongs to; its tag in a registry."""
        return self.parts["VERSION"]


class _Lock(Section):
    format: Literal[1]
    images: dict[str, Image]


def image_name(step: str, variant: str) -> str:
    """The name of a step's image: the step, and the variant where it is not the CPU's."""
    return step if variant == "cpu" else f"{step}-{variant}"


def lock_file(step: str | None = None) -> Path:
    """Where `images.lock` lies: in the source tree, or in the installed package.

    Parameters
    ----------
    step
        Installed step whose image is pinned there; without it that of axoloci and of the base.
    """
    if step is not None and is_outside(step):
        return container_folder(step) / "images.lock"
    return Path(str(files("axoloci"))) / "containers" / "images.lock"


def read_lock(path: Path) -> dict[str, Image]:
    """The images that a lock pins, by name.

    Raises
    ------
    InputError
        The file is not there or is no lock of images.
    """
    try:
        return _Lock.model_validate_json(path.read_text(encoding="utf-8")).images
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: is not a lock of images: {error}") from error


def write_lock(path: Path, images: Mapping[str, Image]) -> None:
    """Write a lock, images in alphabetical order."""
    content = {name: image.model_dump(mode="json") for name, image in sorted(images.items())}
    write_json(path, {"format": 1, "images": content})


def pinned_images() -> dict[str, Image]:
    """All pinned images by name, the base among them: those of axoloci and of installed steps.

    Raises
    ------
    InputError
        A lock is damaged, or that of axoloci is missing.
    """
    images = read_lock(lock_file())
    for step in filter(is_outside, installed_steps()):
        if (file := lock_file(step)).exists():
            images |= {name: own for name, own in read_lock(file).items() if own.step == step}
    return images


@cache
def locked_images() -> dict[str, Image]:
    """The pinned images of all installed steps by name (dti, encoder, encoder-cuda), no base.

    Raises
    ------
    InputError
        A lock is damaged, or that of axoloci is missing.
    """
    return {name: image for name, image in pinned_images().items() if image.step != "base"}


def podman(*arguments: str | Path) -> str:
    """Run podman and give what it prints.

    Raises
    ------
    InputError
        It is not installed, or it failed; the message holds its last words.
    """
    program = shutil.which("podman")
    if program is None:
        raise InputError(NO_PODMAN)
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        reason = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise InputError(f"podman {arguments[0]}: {reason}")
    return done.stdout


def is_here(image: Image) -> bool:
    """Whether podman's store on this machine holds exactly this image."""
    if shutil.which("podman") is None:
        return False
    done = subprocess.run(["podman", "image", "exists", image.config_digest], capture_output=True)
    return done.returncode == 0


def sif_folder() -> Path:
    """Where SIF files are kept: `AXOLOCI_IMAGES`, or a folder in the user's cache."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(IMAGES_VARIABLE) or Path(cache_home) / "axoloci" / "sif")


def sif_path(image: Image, folder: Path | None = None) -> Path:
    """Where the SIF of an image lies, or would."""
    return (folder or sif_folder()) / f"{image.name}-{image.config_digest[7:19]}.sif"


def remember_sif(image: Image, sif: Path) -> None:
    """Write beside a SIF which image it was made from, and its own size and checksum.

    A SIF holds the date of its making, so that only its image can be pinned.
    """
    write_json(
        sif.with_suffix(".json"),
        {
            "image": image.name,
            "config_digest": image.config_digest,
            "size": sif.stat().st_size,
            "sha256": sha256(sif),
        },
    )


class MissingSifError(InputError):
    """A pinned image has no SIF in the folder of these."""


def make_sifs(names: Iterable[str], folder: Path) -> str:
    """The command that makes the SIF files of images in a folder."""
    return f"axoloci images sif {' '.join(names)} --folder {shlex.quote(str(folder))}"


def checked_sif(image: Image, folder: Path | None = None) -> Path:
    """The SIF of a pinned image, whole and made from no other image.

    Raises
    ------
    MissingSifError
        It is not there.
    InputError
        It cannot be read, was cut short or changed, or was made from another image.
    """
    sif = sif_path(image, folder)
    mend = f"make it again: {make_sifs([image.name], sif.parent)}"
    try:
        made = json.loads(sif.with_suffix(".json").read_text(encoding="utf-8"))
        with open(sif, "rb") as file:
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise MissingSifError(f"{sif}: no SIF of the pinned image; {mend}") from error
    except PermissionError as error:
        raise InputError(
            f"{sif.parent}: no permission to read the SIF files in it; whoever made them can give "
            f"it (chmod -R a+rX), or make your own in another folder, named by {IMAGES_VARIABLE}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{sif}: cannot be read ({error}); {mend}") from error
    if made.get("config_digest") != image.config_digest:
        raise InputError(f"{sif}: was made from another image than the pinned one; {mend}")
    if size != made.get("size"):
        raise InputError(f"{sif}: has {size} bytes instead of {made.get('size')}; {mend}")
    if sha256(sif) != made.get("sha256"):
        raise InputError(f"{sif}: is damaged, its checksum is another; {mend}")
    return sif
