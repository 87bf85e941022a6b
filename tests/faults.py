"""Faults that a study must survive, for the tests and for `make verify`."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from support import BIN, axoloci, write_study

from axoloci.io.files import sha256, write_json
from axoloci.job import read_record, read_records
from axoloci.scans import Scan
from axoloci.study import StudySettings
from axoloci.workflows.participants import Outcome, recipe

DEAD = 2**22 + 1  # above all process numbers of Linux
# What holds times, and what is not a result.
WITH_TIMES = ("logs", "work", "report.html", "ro-crate-metadata.json")


def results(out: Path) -> dict[str, bytes]:
    """Bytes of all results of a study, but for logs, work and what holds times."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).parts[0] not in WITH_TIMES
    }


def records(out: Path) -> dict[str, str]:
    """When each job was run the last time."""
    files = (out / "logs").rglob("*.json")
    return {str(path): read_record(path)["started"] for path in files}


def run_and_kill(study: Path, seconds: float) -> int | None:
    """Start a study and kill its driver after some time; its exit code if it ended before."""
    command = [str(BIN / "axoloci"), "run", str(study), "--n-procs", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        time.sleep(0.5)  # the workers and their steps die with the driver
        return None


def kill_driver(study: Path, n_kills: int, seconds: float, seed: int) -> None:
    """Kill a running driver so many times at random moments, and go on each time.

    A study that finishes before all kills is begun anew.
    """
    rng = random.Random(seed)
    while n_kills:
        if run_and_kill(study, rng.uniform(0.5, seconds)) is None:
            n_kills -= 1
        else:
            shutil.rmtree(study.parent / "out")


def made_files(out: Path) -> list[Path]:
    """All files that jobs have made and vouch for."""
    return sorted(
        {Path(name) for record in read_records(out / "logs") for name in record.get("outputs", {})}
    )


def harm(path: Path, rng: random.Random) -> str:
    """Flip a bit of a file, cut it, or delete it; what was done.

    Beside it is left what a process that was killed while it wrote the file leaves.
    """
    content = bytearray(path.read_bytes())
    path.with_name(f".{DEAD}.tmp.{path.name}").write_bytes(content[:100])
    kind = rng.choice(["flip", "truncate", "delete"])
    if kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    elif kind == "truncate":
        path.write_bytes(content[: rng.randrange(len(content))])
    else:
        path.unlink()
    return kind


def die_on_sub_2(scan: Scan, settings: StudySettings, env: str) -> Outcome:
    """In place of `run_scan`: the system kills the process that works on sub-2."""
    if scan.prefix == "sub-2":
        os.kill(os.getpid(), signal.SIGKILL)
    fa = settings.out / f"{scan.prefix}.nii.gz"
    fa.touch()
    made = {"fa": fa.name, "fa_sha256": sha256(fa), "made_by": recipe(settings, env)}
    outcome = Outcome(scan.prefix, scan.sample_id, "ok", **made)
    state = settings.out / "work" / "scans" / f"{scan.prefix}.json"
    write_json(state, asdict(outcome))
    return outcome


def mount_small(folder: Path, size: str, *, again: bool = False) -> None:
    """A file system in memory of that size ("2m") at a folder; again to change the size."""
    options = f"size={size}" + (",remount" if again else "")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True, text=True)


def fail_on_full_disk(study: Path, shrink: Callable[[], object], *options: object) -> None:
    """Run a study whose disk shrinks once the driver has looked at its size: it must say so."""
    lock = study.parent / "out" / "work" / "lock"
    command = [str(BIN / "axoloci"), "run", str(study), *map(str, options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (lock.exists() and lock.read_text()):
        time.sleep(0.01)
    shrink()
    _, said = process.communicate()
    assert process.returncode == 1, said
    assert "No space left on device" in said, said
    assert "Traceback" not in said


def fill_disk(
    small_disk: Callable[[str], Path], cohort: Path, n_bytes: int, *, n_sizes: int
) -> Path:
    """Run a study on a disk that fills up, several times later each time, then to its end.

    The disk shrinks once the driver has looked at its size. Each time the run must end with the
    reason and leave no half of a file behind.

    Parameters
    ----------
    small_disk
        From a size to the folder of a disk of that size.
    cohort
        Simulated people.
    n_bytes
        Of the results of the whole study.
    n_sizes
        Disks that are too small.

    Returns
    -------
    The finished study's file.
    """
    folder = small_disk("1g")
    n_people = len((cohort / "genotypes.fam").read_text().splitlines())
    study = write_study(folder, cohort, min_participants=n_people)  # all of them, or it fails
    for step in range(1, n_sizes + 1):
        small_disk("1g")
        size = f"{n_bytes * step // (n_sizes + 1) // 1024}k"
        fail_on_full_disk(study, lambda size=size: small_disk(size), "--n-procs", 2)
        assert not list(folder.rglob("*.tmp.*"))
    small_disk("1g")
    axoloci("run", study, "--n-procs", 2)
    return study


def fail_or_hang(scan: Scan, settings: StudySettings, env: str) -> Outcome:
    """In place of `run_scan`: the disk is full for sub-0 once the others are at work, and hang."""
    folder = settings.out / scan.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f".{os.getpid()}.tmp.a.nii.gz").touch()
    while scan.prefix == "sub-0":
        if (settings.out / "sub-1").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        time.sleep(0.05)
    time.sleep(600)
    raise AssertionError


def hang(scan: Scan, settings: StudySettings, env: str) -> Outcome:
    """In place of `run_scan`: a scan that takes long."""
    (settings.out / f"{os.getpid()}.at_work").touch()
    time.sleep(600)
    raise AssertionError
