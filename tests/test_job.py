"""Whether a job can be skipped: only if its inputs, its code and its files are what they were."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydra.utils.general import attrs_values

from axoloci.environments import last_words
from axoloci.job import (
    damage,
    fingerprint,
    input_files,
    output_paths,
    read_record,
    read_records,
    reason_to_run,
)
from axoloci.tasks.gwas.task import CheckSamples, ComputeResiduals

INPUTS = {"dwi": "a1", "image": "native:1", "prefix": "p"}


def record(**changes: Any) -> dict[str, Any]:
    return {"exit_code": 0, "inputs": INPUTS, "outputs": {}, **changes}


@pytest.mark.parametrize(
    ("known", "inputs", "reason"),
    [
        ({}, INPUTS, "first run"),
        ({"inputs": INPUTS}, INPUTS, "it was stopped last time"),
        (record(exit_code=1), INPUTS, "it failed last time"),
        (record(exit_code=-9), INPUTS, "it failed last time"),
        (record(), INPUTS, ""),
        (record(), INPUTS | {"dwi": "b2"}, "dwi changed"),
        (record(), INPUTS | {"dwi": "b2", "image": "native:2"}, "its code changed"),
        (record(), INPUTS | {"max_bval": "c"}, "max_bval changed"),
        (record(), INPUTS | {"inputs_file": "d"}, "its inputs changed"),
        (record(), {"dwi": "a1", "image": "native:1"}, "prefix changed"),
    ],
)
def test_reason_to_run__names_what_changed(
    known: dict[str, Any], inputs: dict[str, str], reason: str
) -> None:
    assert reason_to_run(known, inputs) == reason


def test_reason_to_run__looks_at_every_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for path in (first, second):
        path.write_bytes(b"content")
    known = record(outputs={str(path): fingerprint(path) for path in (first, second)})
    assert reason_to_run(known, INPUTS) == ""
    second.write_bytes(b"conten")
    assert reason_to_run(known, INPUTS) == f"{second} has 6 bytes, and had 7"
    second.write_bytes(b"Content")
    assert reason_to_run(known, INPUTS) == f"{second} was changed"
    second.unlink()
    assert reason_to_run(known, INPUTS) == f"{second} is gone"


def test_damage__a_touched_file_is_read_and_found_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    was = fingerprint(path)
    os.utime(path, (0, 0))
    assert damage(path, was) == ""


def test_damage__a_file_that_takes_the_place_and_time_of_another_is_noticed(tmp_path: Path) -> None:
    path, copy = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"content")
    was = fingerprint(path)
    shutil.copy2(path, copy)
    assert damage(copy, was) == ""  # another inode, the same content
    copy.write_bytes(b"Content")
    os.utime(copy, ns=(was["mtime_ns"], was["mtime_ns"]))
    copy.replace(path)
    assert damage(path, was) == f"{path} was changed"
    old = {key: was[key] for key in ("size", "mtime_ns", "sha256")}
    assert damage(path, old) == f"{path} was changed"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"exit_code": 0'])
def test_read_record__what_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(content)
    assert read_record(path) == {}
    assert read_record(tmp_path / "absent.json") == {}


def test_read_record__reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(record()))
    assert read_record(path) == record()


def test_read_records__one_at_a_time(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.json").write_text(json.dumps(record()) if name != "b" else "{")
    (tmp_path / ".123.tmp.a.json").write_text(json.dumps(record()))  # of a killed process
    found = read_records(tmp_path)
    assert next(found)["log"] == str(tmp_path / "a.log")
    (tmp_path / "c.json").unlink()  # it has not been read yet
    assert list(found) == []


def test_last_words__prefers_the_commands_own_error() -> None:
    assert last_words("a\nError: no b0\n  in x.bval\n") == "no b0 in x.bval"
    assert last_words("Traceback\nValueError: x\n") == "ValueError: x"
    assert last_words("$ axoloci-dti fit\nkilled\n$ exit 1 after 3.0 s, 12 MB\n") == "killed"
    assert last_words("$ axoloci-dti fit\n") == "it wrote no message"


def test_die_with_parent__ends_a_process_whose_parent_is_gone_already() -> None:
    code = "from axoloci.environments import die_with_parent; die_with_parent({}); print('lives')"
    for parent, lives in ((os.getpid(), True), (os.getpid() + 1, False)):
        done = subprocess.run(
            [sys.executable, "-c", code.format(parent)], capture_output=True, text=True
        )
        assert (done.stdout == "lives\n") == lives
        assert done.returncode == (0 if lives else 1)


def test_input_files__of_genotypes_are_all_three(tmp_path: Path) -> None:
    """Each may be a link of its own: a container must be given the ends of all."""
    files = [tmp_path / f"g.{suffix}" for suffix in ("bed", "bim", "fam")]
    for file in files:
        file.touch()
    task = CheckSamples(genotypes=files[0])
    assert input_files(SimpleNamespace(task=task, inputs=attrs_values(task))) == files


@pytest.mark.parametrize(
    ("variant", "names"), [(None, ["residuals"]), (["rs1"], ["dosages", "residuals"])]
)
def test_output_paths__leave_out_what_is_not_asked_for(
    tmp_path: Path, variant: list[str] | None, names: list[str]
) -> None:
    """Also where another run left it: it is not what this one made."""
    (tmp_path / "dosages").touch()
    out, dosages = str(tmp_path / "residuals"), str(tmp_path / "dosages")
    task = ComputeResiduals(variant=variant, out=out, dosages=dosages)
    job: Any = SimpleNamespace(task=task, inputs=attrs_values(task), cache_dir=tmp_path)
    assert sorted(output_paths(job)) == [tmp_path / name for name in names]
