"""The house: every step has the same files, and the wheel holds all of them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import ROOT

from axoloci.steps import installed_steps

STEPS = sorted(path.name for path in (ROOT / "tasks").iterdir() if (path / "__init__.py").exists())
STEP_FILES = ("__init__.py", "kernel.py", "cli.py", "self_test.py", "task.py", "step.toml")
STEP_LOCKS = ("requirements.in", "requirements.lock")
STEP_TESTS = ("test_kernel.py", "test_cli.py", "test_task.py")


def tracked(*folders: str) -> set[str]:
    """Files that git tracks, or would, under folders of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return {name for name in listed if (ROOT / name).exists()}


@pytest.mark.parametrize("step", STEPS)
def test_step__has_every_file(step: str) -> None:
    lacking = [f"tasks/{step}/{name}" for name in STEP_FILES]
    lacking += [f"tests/{step}/{name}" for name in STEP_TESTS]
    lacking += [f"containers/{step}/{name}" for name in STEP_LOCKS]
    assert [name for name in lacking if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("step", STEPS)
def test_step__is_an_entry_point_with_its_command(step: str) -> None:
    described = installed_steps()[step]
    assert described.command == f"axoloci-{step}"
    assert (Path(sys.executable).parent / described.command).is_file()


def test_steps__all_entry_points_of_the_project_have_a_folder() -> None:
    ours = [name for name in installed_steps() if (ROOT / "tasks" / name).exists()]
    assert ours == STEPS


def test_links__lead_to_the_top_level_folders() -> None:
    for name in ("tasks", "workflows", "containers"):
        assert (ROOT / "src" / "axoloci" / name).resolve() == ROOT / name


def test_kernels_and_commands__import_without_pydra() -> None:
    modules = [f"axoloci.tasks.{step}.{part}" for step in STEPS for part in ("kernel", "cli")]
    program = (
        "import importlib, sys\n"
        "sys.modules['pydra'] = sys.modules['fileformats'] = None\n"
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kernels__do_not_import_each_other() -> None:
    for step in STEPS:
        for module in (ROOT / "tasks" / step).glob("*.py"):
            imported = {
                other
                for other in STEPS
                if other != step and f"axoloci.tasks.{other}" in module.read_text()
            }
            assert not imported, f"{module} imports {imported}"


def build_wheel(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build a wheel with what is installed, without network."""
    return subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)],
        cwd=source,
        capture_output=True,
        text=True,
    )


def copy_tree(to: Path) -> Path:
    """The source tree as git would give it, links kept."""
    for name in tracked("."):
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        else:
            target.write_bytes((ROOT / name).read_bytes())
    return to


def test_wheel__holds_every_file_of_the_linked_folders(tmp_path: Path) -> None:
    done = build_wheel(copy_tree(tmp_path / "source"), tmp_path / "dist")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"axoloci/{name}" for name in tracked("tasks", "workflows", "containers")}
    assert wanted - held == set()
    assert "axoloci/cli.py" in held


@pytest.mark.parametrize("link", ["tasks", "workflows", "containers"])
def test_wheel__fails_when_a_link_is_broken(tmp_path: Path, link: str) -> None:
    source = copy_tree(tmp_path / "source")
    broken = source / "src" / "axoloci" / link
    broken.unlink()
    broken.write_text(f"../../{link}")  # what a zip archive without links makes of it
    done = build_wheel(source, tmp_path / "dist")
    assert done.returncode != 0
    assert "lost its links" in done.stdout + done.stderr
