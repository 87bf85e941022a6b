"""Runs while an image is built: `install.py [WHEELS] FOLDER` installs wheels and compiles a folder.

Files are compiled here because images are read-only where they run. The same bytes come out each
time: one process goes through them in order, with a fixed hash seed, and no time is noted.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path


def compile_all(folder: Path) -> None:
    """Compile a folder; what is no Python 3.11, such as templates of libraries, is left alone."""
    assert os.environ.get("PYTHONHASHSEED") == "0", "the order of sets must not vary"
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, maxlevels=99, force=True, quiet=2, invalidation_mode=unchecked)


def install(wheels: Path, site: Path) -> None:
    """Install all wheels of `requirements.lock` with the pip that lies beside them."""
    (pip,) = wheels.glob("pip-*.whl")
    options = (
        *("--isolated", "--disable-pip-version-check", "--quiet", "install", "--no-index"),
        *("--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile"),
        *("--no-cache-dir", "--root-user-action=ignore", f"--find-links={wheels}"),
        *(f"--target={site}", f"--requirement={wheels / 'requirements.lock'}"),
    )
    subprocess.run([sys.executable, pip / "pip", *options], check=True)
    shutil.rmtree(site / "bin", ignore_errors=True)  # commands of the libraries
    # A fifth of their size: tests, and for compilers, headers and programs that test.
    for name in ("tests", "test", "include"):
        for folder in sorted(site.rglob(f"{name}/"), reverse=True):  # the inner ones first
            if name == "tests" or not (folder / "__init__.py").exists():
                shutil.rmtree(folder)


if __name__ == "__main__":
    *wheels, folder = map(Path, sys.argv[1:])
    if wheels:
        install(wheels[0], folder)
    compile_all(folder)
