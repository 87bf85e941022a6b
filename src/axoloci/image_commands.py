"""`axoloci images`: build, verify, list, push, pull, convert and bundle the images of the steps."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import click

from axoloci import image_build
from axoloci.care import show_table
from axoloci.engines import find_engine
from axoloci.errors import InputError, raise_all
from axoloci.images import (
    NO_PODMAN,
    Image,
    MissingSifError,
    checked_sif,
    is_here,
    lock_file,
    locked_images,
    pinned_images,
    podman,
    read_lock,
    remember_sif,
    sif_folder,
    sif_path,
    write_lock,
)
from axoloci.io.files import sha256, whole_file, write_text

SHOWN = 20  # files named of an image that is not reproducible
_FOLDER = click.Path(file_okay=False, path_type=Path)

names_argument = click.argument("names", nargs=-1, metavar="[IMAGE]...")
folder_option = click.option(
    "--folder",
    type=_FOLDER,
    help="Folder of SIF files; AXOLOCI_IMAGES, or a folder in your cache, if not given.",
)
wheels_option = click.option(
    "--wheels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with wheels that are not on PyPI, such as torch's CPU build.",
)


@click.group()
def images() -> None:
    """Container images of the steps: one each, pinned, built from locked inputs."""


def chosen(names: Iterable[str], among: Iterable[str]) -> list[str]:
    """Names of images that were given, or the CPU's if none were.

    Raises
    ------
    InputError
        There is no image of such a name.
    """
    known = list(among)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"no image {', '.join(unknown)}; there are {', '.join(known)}")
    return list(names) or [name for name in known if not name.endswith("-cuda")]


@images.command(name="list")
@folder_option
def list_images(folder: Path | None) -> None:
    """Show the pinned images, and which of them are on this machine."""
    rows = []
    locked, has_podman = locked_images(), shutil.which("podman") is not None
    for name in sorted(image_build.recipes().keys() | locked.keys()):
        image = locked.get(name)
        if image is None:
            rows.append((name, "", "not pinned", "", "", ""))
            continue
        try:
            checked_sif(image, folder)
            sif = "here"
        except MissingSifError:
            sif = "no"
        except InputError:
            sif = "unusable"
        here = ("here" if is_here(image) else "no") if has_podman else ""
        size = f"{image.size / 1e6:.0f}"
        rows.append((name, image.variant, image.config_digest[7:19], size, here, sif))
    show_table(("image", "variant", "digest", " MB", "podman", "SIF"), rows)
    if not has_podman:
        click.echo(NO_PODMAN, err=True)


@images.command()
@names_argument
@wheels_option
@click.option("--anew", is_flag=True, help="Build from nothing, whatever is here already.")
@click.option(
    "--cache",
    type=_FOLDER,
    help="Folder of image archives: those of unchanged inputs are loaded instead of built.",
)
@click.option(
    "--lock",
    is_flag=True,
    help="Pin what was built: in containers/images.lock, or in the package of a step from outside.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=2, help="Images built at the same time."
)
def build(
    names: tuple[str, ...],
    wheels: Path | None,
    anew: bool,
    cache: Path | None,
    lock: bool,
    jobs: int,
) -> None:
    """Build images, run the self-test of each, and compare them with the pinned ones.

    Without names, the images of all steps for CPUs. What was built from the same inputs before is
    kept. Exit codes: 0 all as pinned, 1 not.
    """
    recipes = image_build.recipes()
    wanted = chosen(names, recipes)
    base_recipe = image_build.base_recipe()
    base = _built(base_recipe, None, wheels, anew, cache)

    def made(name: str) -> Image:
        image = _built(recipes[name], base, wheels, anew, cache)
        image_build.self_test(image)
        return image

    with ThreadPoolExecutor(jobs) as pool:
        built = {"base": base, **dict(zip(wanted, pool.map(made, wanted), strict=True))}
    if lock:
        files = {name: lock_file(recipes[name].step) for name in recipes}
        for file in {files[name] for name in wanted}:
            own = {name for name in recipes if files[name] == file}
            _pin(file, own | ({"base"} if file == lock_file() else set()), built)
    locked = pinned_images()
    problems = [
        line
        for name, image in built.items()
        for line in _differences(recipes.get(name, base_recipe), image, locked)
    ]
    raise_all(problems, "images that are not the pinned ones:")


def _pin(file: Path, names: Collection[str], built: Mapping[str, Image]) -> None:
    """Write those of the images that were built into the lock in which they, or none, are named."""
    old = read_lock(file) if file.exists() else {}
    kept = {name: image for name, image in old.items() if name in names}
    new = {name: image for name, image in built.items() if name in names}
    # the digest in a registry is that of these bytes only
    same = {name: kept[name] for name in new if name in kept and _equal(kept[name], new[name])}
    write_lock(file, {**kept, **new, **same})


def _equal(one: Image, other: Image) -> bool:
    """Whether two images are the same but for their digest in a registry."""
    return one.model_copy(update={"registry_digest": other.registry_digest}) == other


def _built(
    recipe: image_build.Recipe,
    base: Image | None,
    wheels: Path | None,
    anew: bool,
    cache: Path | None,
) -> Image:
    """One image, from podman's store, from the cache, or built; said how and in what time."""
    started = time.monotonic()
    archive = cache / f"{recipe.name}-{recipe.inputs[7:19]}.tar" if cache else None
    if archive is not None and archive.exists() and not anew:
        podman("load", "--quiet", "--input", archive)
    image = image_build.build(recipe, base=base, wheels=wheels, anew=anew)
    if archive is not None and not archive.exists():
        with whole_file(archive) as temporary:
            podman("save", "--quiet", "--format=oci-archive", "--output", temporary, recipe.tag)
    click.echo(
        f"{recipe.name}: {image.config_digest}, {image.size / 1e6:.0f} MB, "
        f"{time.monotonic() - started:.0f} s",
        err=True,
    )
    return image


def _differences(
    recipe: image_build.Recipe,
    image: Image,
    locked: dict[str, Image],
    rebuild: Callable[[], Image] | None = None,
) -> list[str]:
    """Why an image is not the pinned one, if it is not; which file, if it may be built again."""
    name, pinned = recipe.name, locked.get(recipe.name)
    if pinned is None:
        return [f"{name}: is not pinned; pin it by: axoloci images build {name} --lock"]
    if image.config_digest == pinned.config_digest:
        return []
    changes = image_build.moved_inputs(recipe, pinned)
    if changes:
        return [f"{name}: an input has moved: {', '.join(changes)}"]
    if rebuild is None:
        return [f"{name}: not reproducible; which file: axoloci images verify {name}"]
    files = image_build.why_not_reproducible(recipe, image, pinned, rebuild)
    more = [f"and {len(files) - SHOWN} more"] if len(files) > SHOWN else []
    return ["\n    ".join([f"{name}: not reproducible:", *files[:SHOWN], *more])]


@images.command()
@names_argument
@wheels_option
def verify(names: tuple[str, ...], wheels: Path | None) -> None:
    """Build images from nothing and compare them with the pinned ones.

    Tells an input that has moved (which package, from which version to which) from a build that is
    not reproducible (which file). Exit codes: 0 all equal, 1 not.
    """
    recipes = image_build.recipes()
    wanted = [recipes[name] for name in chosen(names, recipes)]
    locked = pinned_images()
    problems: list[str] = []
    base: Image | None = None
    for recipe in (image_build.base_recipe(), *wanted):
        again = partial(_built, recipe, base, wheels, True, None)
        image = again()
        problems += _differences(recipe, image, locked, again)
        base = base or image
    raise_all(problems, "images that are not the pinned ones:")


registry_option = click.option(
    "--registry",
    envvar="AXOLOCI_REGISTRY",
    help="Where the images are published, such as ghcr.io/OWNER; also AXOLOCI_REGISTRY.",
)


@images.command()
@names_argument
@registry_option
@click.option(
    "--lock",
    is_flag=True,
    help="Keep the registry's digests in the lock, so that pull asks for these bytes and not for "
    "what a tag stands for.",
)
def push(names: tuple[str, ...], registry: str | None, lock: bool) -> None:
    """Publish pinned images in a registry, and print the address of each with its digest there.

    That digest is of the compressed layers: the registry's own, and another than the pinned one.
    Log in first, by podman login.
    """
    if registry is None:
        raise InputError("name the registry by --registry, such as ghcr.io/OWNER")
    locked = locked_images()
    for name in chosen(names, locked):
        image = locked[name]
        _needed(image)
        address = f"{registry.rstrip('/')}/{image.reference}"
        with tempfile.TemporaryDirectory(prefix="axoloci-push-") as work:
            digest_file = Path(work, "digest")
            target = f"docker://{address}:{image.version}"
            podman(*("push", "--quiet", "--digestfile", digest_file), image.config_digest, target)
            digest = digest_file.read_text().strip()
        click.echo(f"{address}@{digest}")
        if lock:
            file = lock_file(image.step)
            published = image.model_copy(update={"registry_digest": digest})
            write_lock(file, {**read_lock(file), name: published})


@images.command()
@names_argument
@registry_option
def pull(names: tuple[str, ...], registry: str | None) -> None:
    """Fetch pinned images from a registry, with podman or docker, and check that they are these."""
    if registry is None:
        raise InputError(
            "axoloci has no public registry yet: name yours by --registry, "
            "or build the images here: axoloci images build"
        )
    locked, engine = locked_images(), find_engine("docker")
    for name in chosen(names, locked):
        image = locked[name]
        at = f"@{image.registry_digest}" if image.registry_digest else f":{image.version}"
        engine.fetch(image, f"{registry.rstrip('/')}/{image.reference}{at}")
        click.echo(f"{name}: {image.config_digest}", err=True)


def _needed(image: Image) -> None:
    """Stop if podman does not hold a pinned image."""
    if shutil.which("podman") is None:
        raise InputError(f"{image.name}: {NO_PODMAN}")
    if not is_here(image):
        raise InputError(
            f"{image.name}: the pinned image is not on this machine: "
            f"axoloci images build {image.name}, or axoloci images pull {image.name}"
        )


@images.command()
@names_argument
@folder_option
def sif(names: tuple[str, ...], folder: Path | None) -> None:
    """Convert pinned images to SIF files for Apptainer and Singularity.

    A SIF that is there is kept if it is whole and was made from the pinned image.
    """
    locked = locked_images()
    for name in chosen(names, locked):
        click.echo(f"{name}: {make_sif(locked[name], folder or sif_folder())}", err=True)


def make_sif(image: Image, folder: Path) -> Path:
    """The SIF of a pinned image, made unless it is there.

    Raises
    ------
    InputError
        The image is not in podman's store, or Apptainer is missing or fails.
    """
    try:
        return checked_sif(image, folder)
    except InputError:
        _needed(image)
    program = shutil.which("apptainer") or shutil.which("singularity")
    if program is None:
        raise InputError("Apptainer is not installed: sudo make system")
    target = sif_path(image, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="axoloci-sif-") as work, whole_file(target) as made:
        archive = Path(work, "image.tar")
        image_build.save(image, archive)
        # zstd: a tenth of the default's time, and faster to read
        command = [
            *(program, "build", "--mksquashfs-args", "-comp zstd -Xcompression-level 3"),
            *(str(made), f"oci-archive:{archive}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
            raise InputError(f"{shlex.join(command[:2])} of {image.name}: {reason}")
    remember_sif(image, target)
    return checked_sif(image, folder)


HOW_TO = """The images of axoloci {version}, to be carried to a machine without network.

Check that all arrived whole:
    sha256sum --check SHA256SUMS
{use}
Then: {then}
"""


@images.command()
@names_argument
@click.option("--out", type=_FOLDER, required=True, help="Folder to be made.")
@click.option(
    "--kind",
    type=click.Choice(["sif", "oci"]),
    default="sif",
    help="SIF files for Apptainer and Singularity, or OCI archives for podman and docker.",
)
def bundle(names: tuple[str, ...], out: Path, kind: str) -> None:
    """Put images into one folder with checksums and a note on their use."""
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty; name a new folder")
    locked = locked_images()
    wanted = [locked[name] for name in chosen(names, locked)]
    out.mkdir(parents=True, exist_ok=True)
    for image in wanted:
        if kind == "sif":
            made = make_sif(image, out)
        else:
            _needed(image)
            made = out / f"{image.name}.tar"
            image_build.save(image, made)
        click.echo(f"{image.name}: {made}, {made.stat().st_size / 1e6:.0f} MB", err=True)
    write_lock(out / "images.lock", {image.name: image for image in wanted})
    use, then = {
        "sif": ("", "export AXOLOCI_IMAGES=THIS_FOLDER; axoloci run … --env singularity"),
        "oci": (
            "\nLoad them:\n    for image in *.tar; do podman load --input $image; done\n",
            "axoloci run … --env docker",
        ),
    }[kind]
    version = wanted[0].version
    write_text(out / "README", HOW_TO.format(version=version, use=use, then=then))
    sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(out.iterdir())]
    write_text(out / "SHA256SUMS", "".join(sums))
    click.echo(f"{out}: {len(wanted)} images", err=True)
