"""The list of scans that are left out of the group: the rules' rows, the user's, its faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from axoloci.cli import main
from axoloci.errors import InputError
from axoloci.io.files import sha256, write_json
from axoloci.job import file_state
from axoloci.quality import absolute_flags
from axoloci.scans import Scan
from axoloci.study import QcSettings, StudyPaths, StudySettings
from axoloci.workflows.exclusion import (
    COLUMNS,
    Entry,
    read_exclusions,
    updated_exclusions,
    write_exclusions,
)
from axoloci.workflows.participants import (
    Cohort,
    Outcome,
    choose_scans,
    read_outcomes,
    read_rows,
    recipe,
    write_outcome,
)
from axoloci.workflows.records import study_state
from axoloci.workflows.study import maps_changed, take_stock, write_maps

WRONG = absolute_flags({"mean_fa": 0.7})
LOOK = absolute_flags({"mean_fa": 0.5})
SCANS = ("sub-1_run-1", "sub-1_run-2", "sub-2", "sub-3")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "exclude.tsv"


def write(path: Path, *rows: str, head: str = "\t".join(COLUMNS)) -> None:
    path.write_text("\n".join([head, *rows]) + "\n")


def test_updated_exclusions__rules_write_what_is_wrong(table: Path) -> None:
    flags = {"sub-2": WRONG, "sub-3": LOOK, "sub-1": []}
    entries = updated_exclusions({}, flags, by_rule=True)
    assert {scan: (e.exclude, e.by) for scan, e in entries.items()} == {"sub-2": (True, "rule")}
    write_exclusions(table, entries)
    assert read_exclusions(table, ["sub-2"]) == entries
    assert "mean FA 0.700" in entries["sub-2"].reason
    assert updated_exclusions(entries, {"sub-2": []}, by_rule=True) == {}  # mended since
    assert updated_exclusions(entries, flags, by_rule=False) == {}


@pytest.mark.parametrize(
    ("row", "exclude"),
    [
        ("sub-2\tno\tlooked at it\tuser", False),
        ("sub-2\tno\tmean FA\trule", False),  # one word changed, as people do
        ("sub-2\tNo\t\t", False),
        ("sub-2\tyes\tmoved away\tuser", True),
        ("sub-2\tyes", True),  # a row of the user's own
    ],
)
def test_updated_exclusions__the_users_word_counts_and_stays(
    table: Path, row: str, exclude: bool
) -> None:
    write(table, row)
    for flags in ({"sub-2": WRONG}, {"sub-2": []}, {"sub-2": WRONG}):
        entries = updated_exclusions(read_exclusions(table, ["sub-2"]), flags, by_rule=True)
        assert (entries["sub-2"].exclude, entries["sub-2"].by) == (exclude, "user")
        write_exclusions(table, entries)


def test_write_exclusions__leaves_alone_what_says_the_same(table: Path) -> None:
    write(table, 'sub-1\tyes\t"a ""reason""\tof two words"\tuser')
    write_exclusions(table, read_exclusions(table))
    assert read_exclusions(table)["sub-1"].reason == "a 'reason' of two words"
    state = file_state(table)
    write_exclusions(table, read_exclusions(table))
    assert file_state(table) == state


def test_read_exclusions__names_every_fault_with_its_line(table: Path) -> None:
    write(
        table,
        "sub-2\tyes\t\tuser",
        "sub-22\tyes\t\tuser",
        "sub-2\tno\t\tuser",
        "sub-3\tmaybe\t\tuser",
        "sub-1_run-1\tyes\t\tAnna",
        "sub-3  yes asleep  user",
        "sub-9\tyes\tmean FA\trule",  # gone from the data since the rules wrote it
        "",
    )
    with pytest.raises(InputError) as caught:
        read_exclusions(table, SCANS)
    problems = [problem.removeprefix(f"{table}, ") for problem in caught.value.problems]
    assert problems == [
        "line 3: no scan 'sub-22' in this study; did you mean 'sub-2'?",
        "line 4: 'sub-2' is there twice; keep one row",
        "line 5: exclude is 'maybe'; write yes or no",
        "line 6: by is 'Anna'; write user",
        "line 7: 'sub-3 yes asleep user' is one field; separate the columns by tabs",
    ]
    write(table, "sub-2,yes", head="scan,exclude")
    with pytest.raises(InputError, match="separated by tabs; found scan,exclude"):
        read_exclusions(table)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_exclusions(table)


def test_read_exclusions__takes_what_spreadsheets_write(table: Path) -> None:
    table.write_bytes('\ufeffscan\texclude\treason\tby\r\nsub-2\tYES\t"a, b"\tuser\r\n'.encode())
    assert read_exclusions(table, SCANS) == {"sub-2": Entry(True, "a, b", "user")}


def finished(settings: StudySettings, figures: dict[str, dict[str, Any]]) -> Cohort:
    """A cohort of finished scans with these figures of their registration."""
    scans = [Scan(name, name.split("_")[0].removeprefix("sub-")) for name in figures]
    for scan in scans:
        stem = settings.out / scan.folder / scan.prefix
        fa = Path(f"{stem}_fa.nii.gz")
        write_json(f"{stem}_space-template_registration.json", figures[scan.prefix])
        fa.write_bytes(scan.prefix.encode())
        made = {"fa_sha256": sha256(fa), "fa_state": file_state(fa)}
        name = str(fa.relative_to(settings.out))
        outcome = Outcome(scan.prefix, scan.sample_id, "ok", fa=name, **made)
        made_by = recipe(settings, "native")
        write_outcome(Outcome(**{**outcome.__dict__, "made_by": made_by}), StudyPaths(settings.out))
    return Cohort(settings, scans)


def used(cohort: Cohort) -> list[str]:
    take_stock(cohort, "native")
    return [outcome.scan for outcome in choose_scans(cohort.outcomes)]


def test_take_stock__a_person_falls_back_to_another_scan(tmp_path: Path) -> None:
    settings = StudySettings(out=tmp_path, fa=tmp_path, min_participants=2)
    figures = {name: {"head_scale": 1.0} for name in SCANS}
    figures["sub-1_run-1"] = figures["sub-3"] = {"head_scale": 9.0}
    cohort, paths = finished(settings, figures), StudyPaths(tmp_path)
    assert used(cohort) == ["sub-1_run-2", "sub-2"]
    rows = {row["scan"]: row for row in read_rows(paths.scans)}
    assert [rows[name]["in_group"] for name in SCANS] == ["no", "yes", "yes", "no"]
    assert rows["sub-3"]["excluded"].startswith("by rule: head scale 9.000")
    quality = {row["scan"]: row["flags"] for row in read_rows(paths.qc)}
    assert quality["sub-3"] == "exclude: head scale 9.000 (< 0.3 or > 3)"
    assert quality["sub-2"] == ""

    listed = read_rows(paths.maps)
    assert [row["sample_id"] for row in listed] == ["1", "2"]
    assert [sha256(tmp_path / row["path"]) for row in listed] == [row["sha256"] for row in listed]
    assert not maps_changed(cohort)  # of a group that was never made
    write_maps(cohort)
    whole = [row | {"path": str(tmp_path / row["path"])} for row in listed]
    assert read_rows(paths.group_maps) == whole
    assert not maps_changed(cohort)
    text = paths.exclude.read_text()
    paths.exclude.write_text(text.replace("sub-3\tyes", "sub-3\tno") + "sub-2\tyes\tasleep\tuser\n")
    outcomes = read_outcomes(cohort.scans, settings, "native")
    assert maps_changed(Cohort(settings, [], outcomes))  # so that the group is run anew
    assert used(cohort) == used(cohort) == ["sub-1_run-2", "sub-3"]
    assert [row["sample_id"] for row in read_rows(paths.maps)] == ["1", "3"]
    assert maps_changed(cohort)
    entries = read_exclusions(paths.exclude)
    assert {scan: (e.exclude, e.by) for scan, e in entries.items()} == {
        "sub-1_run-1": (True, "rule"),
        "sub-2": (True, "user"),
        "sub-3": (False, "user"),
    }
    (state,) = study_state(tmp_path)
    told = {outcome.scan: outcome.excluded for outcome in state.scans}
    assert told["sub-2"] == "by user: asleep"
    assert told["sub-3"] == ""


def test_status__says_who_is_left_out_and_why(tmp_path: Path) -> None:
    settings = StudySettings(out=tmp_path, fa=tmp_path)
    cohort = finished(settings, {name: {"head_scale": 1.0} for name in SCANS})
    write(StudyPaths(tmp_path).exclude, "sub-2\tyes\tasleep\tuser")
    take_stock(cohort, "native")
    done = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "left out of the group by exclude.tsv: 0 scans by rule, 1 by the user" in done.output
    assert "sub-2: by user: asleep" in done.output


def test_take_stock__rules_exclude_no_one_where_the_study_says_so(tmp_path: Path) -> None:
    settings = StudySettings(out=tmp_path, fa=tmp_path, qc=QcSettings(exclude=False))
    cohort = finished(settings, {"sub-1": {"head_scale": 9.0}, "sub-2": {"head_scale": 1.0}})
    assert used(cohort) == ["sub-1", "sub-2"]
    write(StudyPaths(tmp_path).exclude, "sub-2\tyes\t\tuser")
    assert used(cohort) == ["sub-1"]


def test_write_maps__says_how_many_are_left_out(tmp_path: Path) -> None:
    settings = StudySettings(out=tmp_path, fa=tmp_path, min_participants=2)
    cohort = finished(settings, {"sub-1": {"head_scale": 9.0}, "sub-2": {"head_scale": 1.0}})
    take_stock(cohort, "native")
    with pytest.raises(InputError, match=r"scan: 1, fewer .*1 finished scans are left out"):
        write_maps(cohort)
