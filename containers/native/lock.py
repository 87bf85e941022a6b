"""Make the locks of the native environment: `make lock` (needs uv from PyPI).

One resolution against PyPI, split into three files, because the CPU build of torch is not on PyPI
and the CUDA build brings gigabytes that a CPU machine does not want:

requirements.lock   everything but torch and CUDA
torch-cuda.lock     torch from PyPI with CUDA
torch-cpu.lock      torch from PyTorch's CPU wheels, or the same files in a local folder
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CUDA = re.compile(r"(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==")
# SHA-256 of https://download.pytorch.org/whl/cpu/torch-<version>+cpu-cp311-…-x86_64.whl
TORCH_CPU = {"2.13.0": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"}


def main() -> None:
    """Resolve and write the three locks beside this file."""
    resolved = subprocess.run(
        [
            *("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
            *("--generate-hashes", "--all-extras", "--group", "test", "--group", "lint"),
            *("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"),
            *("--no-emit-package", "axoloci", "pyproject.toml", str(HERE / "requirements.in")),
            *sys.argv[1:],
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    entries = re.findall(r"^\S.*?(?:\n    .*)*\n", resolved, flags=re.MULTILINE)
    cuda = [entry for entry in entries if CUDA.match(entry)]
    (torch,) = (entry for entry in cuda if entry.startswith("torch=="))
    release = re.match(r"torch==([\d.]+)", torch)
    assert release is not None
    header = (
        "# Made by `make lock` from pyproject.toml and requirements.in for CPython 3.11, Linux.\n"
    )
    (HERE / "requirements.lock").write_text(
        header + "".join(entry for entry in entries if entry not in cuda)
    )
    (HERE / "torch-cuda.lock").write_text(header + "".join(cuda))
    (HERE / "torch-cpu.lock").write_text(
        f"{header}torch=={release[1]}+cpu \\\n    --hash=sha256:{TORCH_CPU[release[1]]}\n"
    )


if __name__ == "__main__":
    main()
