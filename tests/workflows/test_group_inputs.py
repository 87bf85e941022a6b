"""What the group stage is given: the finished scans, and the covariates that were made of them."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from axoloci.errors import InputError
from axoloci.io.files import sha256, write_json
from axoloci.io.tables import read_table
from axoloci.job import file_state
from axoloci.scans import Scan
from axoloci.study import GwasSettings, PreprocessSettings, StudyPaths, StudySettings
from axoloci.workflows.participants import (
    Cohort,
    Outcome,
    choose_scans,
    read_outcomes,
    recipe,
    write_scan_tables,
    write_table,
)
from axoloci.workflows.study import check_people, group_settings, made_covariates


def settings_with(out: Path, *covariates: str, **gwas: object) -> StudySettings:
    """A study of raw scans with these covariates."""
    return StudySettings(out=out, bids=out, gwas=GwasSettings(covariates=covariates, **gwas))


@pytest.fixture
def tables(tmp_path: Path) -> StudyPaths:
    """Tables of two scans, the second one of an unknown scanner."""
    paths = StudyPaths(tmp_path)
    people = [{"scan": f"sub-{n}", "sample_id": str(n), "in_group": "yes"} for n in (1, 2)]
    write_table(paths.scans, people)
    write_table(paths.qc, [{**people[0], "scanner": "45123"}, people[1]])
    return paths


def test_made_covariates__who_has_none_lacks_it(tables: StudyPaths) -> None:
    table = made_covariates(settings_with(tables.out, "scanner"))
    assert table is not None
    assert read_table(table, text=("scanner",))["scanner"].tolist() == ["45123", None]


def test_made_covariates__one_that_is_known_of_no_scan_is_named(tables: StudyPaths) -> None:
    with pytest.raises(InputError, match=r"covariate site of .* is known of no scan"):
        made_covariates(settings_with(tables.out, "scanner", "site"))


def test_group_settings__scanner_and_site_are_categories(tmp_path: Path) -> None:
    table = tmp_path / "covariates.tsv"
    table.write_text("IID\tage\tsite\n1\t40\t7\n")
    named = group_settings(settings_with(tmp_path, "age", "scanner"), [table])
    assert named["gwas"]["categorical"] == ["scanner"]
    own = group_settings(settings_with(tmp_path, "site", "sex", categorical=("sex",)), [table])
    assert own["gwas"]["categorical"] == ["sex", "site"]
    every = StudySettings(out=tmp_path, bids=tmp_path)
    assert group_settings(every, [table])["gwas"]["categorical"] == ["site"]
    assert "categorical" not in group_settings(every, [])["gwas"]


def test_read_outcomes__a_damaged_scan_fails_alone(tmp_path: Path) -> None:
    settings = StudySettings(out=tmp_path, fa=tmp_path)
    scans = [Scan(f"sub-{number}", f"{number}") for number in range(4)]
    maps, figures = [], []
    for scan in scans:
        stem = tmp_path / scan.folder / scan.prefix
        maps.append(Path(f"{stem}_fa.nii.gz"))
        figures.append(Path(f"{stem}_space-template_registration.json"))
        write_json(figures[-1], {"mean_fa": 0.4})
        maps[-1].write_bytes(b"content")
        outcome = Outcome(
            scan.prefix,
            scan.sample_id,
            "ok",
            fa=str(maps[-1].relative_to(tmp_path)),
            fa_sha256=sha256(maps[-1]),
            fa_state=file_state(maps[-1]) if scan is not scans[3] else {},
            made_by=recipe(settings, "native"),
        )
        write_json(tmp_path / "work" / "scans" / f"{scan.prefix}.json", asdict(outcome))
    outcomes = read_outcomes(scans, settings, "native")
    assert {outcome.status for outcome in outcomes} == {"ok"}
    when = maps[1].stat().st_mtime_ns
    maps[1].write_bytes(b"Content")
    os.utime(maps[1], ns=(when, when))
    figures[2].write_bytes(figures[2].read_bytes()[:5])
    maps[3].write_bytes(b"conten")
    outcomes = read_outcomes(scans, settings, "native")
    assert [outcome.status for outcome in outcomes] == ["ok", "failed", "failed", "failed"]
    for outcome, file in zip(outcomes[1:], (maps[1], figures[2], maps[3]), strict=True):
        assert outcome.reason.startswith(str(file))
        assert "damaged after it was made; run the participants again" in outcome.reason
    assert [outcome.scan for outcome in choose_scans(outcomes)] == ["sub-0"]
    write_scan_tables(scans, outcomes, settings)
    assert "fa_state" not in (tmp_path / "scans.tsv").read_text()


def test_check_people__those_in_all_tables_count(tmp_path: Path) -> None:
    (tmp_path / "g.fam").write_text("".join(f"f {n} 0 0 1 -9\n" for n in range(1, 7)))
    (tmp_path / "c.tsv").write_text("IID\tage\n1\t40\n2\t41\n3\tNA\n4\t43\n")
    (tmp_path / "t.tsv").write_text("IID\ttrait\n" + "".join(f"{n}\t{n}\n" for n in range(9)))
    given = {"genotypes": tmp_path / "g", "covariates": tmp_path / "c.tsv"}
    scans = [Outcome(f"sub-{n}", f"{n}", "ok" if n else "failed") for n in range(5)]
    for door, outcomes, n_first, n_both in (("bids", scans, 4, 4), ("traits", [], 9, 6)):
        source = {door: tmp_path / "t.tsv"}
        enough = StudySettings(out=tmp_path, min_participants=3, **source, **given)
        check_people(Cohort(enough, [], outcomes))
        few = enough.model_copy(update={"min_participants": 4})
        with pytest.raises(InputError, match=r"fewer than min_participants \(4\)") as error:
            check_people(Cohort(few, [], outcomes))
        for count in (f": {n_first};", f"g.fam: {n_both};", "c.tsv: 3,"):
            assert count in str(error.value)


def test_recipe__every_key_of_the_correction_counts(tmp_path: Path) -> None:
    keys = PreprocessSettings.model_fields
    made_by = {recipe(StudySettings(out=tmp_path, bids=tmp_path), "native")}
    for key in keys:
        turned = PreprocessSettings(**{key: not keys[key].default})
        settings = StudySettings(out=tmp_path, bids=tmp_path, preprocess=turned)
        made_by.add(recipe(settings, "native"))
    assert len(made_by) == 1 + len(keys)
