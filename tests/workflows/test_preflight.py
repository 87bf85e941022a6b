"""The preflight: every fault of a study is named before any work, with its place and its mend."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from plink_files import split_by_chromosome, write_plink
from support import BIN

from axoloci.errors import InputError
from axoloci.io.nifti import write_nifti
from axoloci.study import StudyPaths, StudySettings, parse_settings
from axoloci.tasks.encoder import kernel
from axoloci.tasks.encoder.kernel import Config
from axoloci.tasks.encoder.representation import latents_for
from axoloci.workflows import plan, preflight
from axoloci.workflows.group import Group
from axoloci.workflows.participants import run_scan
from axoloci.workflows.plan import plan_study
from axoloci.workflows.preflight import Preflight, check, claim
from axoloci.workflows.study import run_study

N_PEOPLE, N_VARIANTS = 24, 30
LABELS = [f"{number:04d}" for number in range(1, N_PEOPLE + 1)]
DIRECTIONS = (
    np.array(
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, -1, 0]]
    )
    / np.array([1, 1, 1, 1, *[2**0.5] * 4])[:, None]
)
BVAL = "0 " + "1000 " * 7 + "\n"
BVEC = "\n".join(" ".join(f"{x:.6f}" for x in row) for row in DIRECTIONS.T) + "\n"
AFFINE = np.diag([2.0, 2, 2, 1])


@dataclass
class Site:
    """A small cohort on disk that a test may damage, and the study of it."""

    root: Path
    content: dict[str, Any]

    def dwi(self, label: str = "0003", extension: str = ".nii.gz") -> Path:
        """A file of a scan."""
        return self.root / f"bids/sub-{label}/dwi/sub-{label}_dwi{extension}"

    def settings(self) -> StudySettings:
        """The study."""
        return parse_settings(self.content, "study.toml", self.root)

    def check(self, **options: Any) -> Preflight:
        """What the preflight finds."""
        return check(self.settings(), **options)

    def table(self, name: str, rows: list[str]) -> Path:
        """Write a table."""
        path = self.root / name
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return path

    def covariates(self, change: Callable[[int, list[str]], list[str]]) -> None:
        """Change the fields of each row of the covariates; row 0 is the header."""
        path = self.root / "covariates.tsv"
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        self.table("covariates.tsv", ["\t".join(change(i, row)) for i, row in enumerate(rows)])

    def fam(self, change: Callable[[int, str], str]) -> None:
        """Change the IIDs of the genotypes; rows count from 0."""
        path = self.root / "g.fam"
        rows = [line.split() for line in path.read_text().splitlines()]
        rows = [[row[0], change(i, row[1]), *row[2:]] for i, row in enumerate(rows)]
        path.write_text("".join(" ".join(row) + "\n" for row in rows))

    def maps(self, shape: Callable[[int], tuple[int, ...]] = lambda _: (6, 6, 6)) -> None:
        """Let the study begin with FA maps in a common space."""
        (self.root / "fa").mkdir()
        for number, label in enumerate(LABELS):
            image = np.full(shape(number), 0.4, np.float32)
            write_nifti(self.root / f"fa/{label}.nii.gz", image, AFFINE)
        del self.content["bids"]
        self.content["fa_common"] = "fa/{participant_id}.nii.gz"

    def traits(self, rows: list[str] | None = None) -> None:
        """Let the study begin with a table of traits."""
        rows = rows or [
            "IID\theight\tweight",
            *(f"{n}\t{i}\t{i % 5}" for i, n in enumerate(LABELS)),
        ]
        self.table("traits.tsv", rows)
        del self.content["bids"]
        self.content["traits"] = "traits.tsv"

    def listed(self, change: Callable[[int, list[str]], list[str]] = lambda _, row: row) -> None:
        """Let the study name its scans by a table; row 0 is the header."""
        rows = [["participant_id", "dwi", "bval", "bvec"]]
        for label in LABELS:
            files = [str(self.dwi(label, ext)) for ext in (".nii.gz", ".bval", ".bvec")]
            rows.append([label, *files])
        self.table("scans.tsv", ["\t".join(change(i, row)) for i, row in enumerate(rows)])
        del self.content["bids"]
        self.content["scans"] = "scans.tsv"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A sound cohort in a folder with a space and letters beyond ASCII in its name."""
    root = tmp_path / "Zürich 東京 data"
    image = tmp_path / "one.nii.gz"
    head = 1000 + np.arange(6**3, dtype=np.int16).reshape(6, 6, 6)
    write_nifti(image, np.stack([head, *7 * [head // 2]], axis=-1), AFFINE)  # b0 is the brightest
    for label in LABELS:
        folder = root / f"bids/sub-{label}/dwi"
        folder.mkdir(parents=True)
        (folder / f"sub-{label}_dwi.nii.gz").write_bytes(image.read_bytes())
        (folder / f"sub-{label}_dwi.bval").write_text(BVAL)
        (folder / f"sub-{label}_dwi.bvec").write_text(BVEC)
    (root / "bids/dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    write_plink(root / "g", np.random.default_rng(1).integers(0, 3, (N_VARIANTS, N_PEOPLE)))
    content = {"out": "out", "bids": "bids", "genotypes": "g", "covariates": "covariates.tsv"}
    made = Site(root, {**content, "gwas": {"n_pcs": 2}, "encoder": {"training_people": "keep"}})
    made.fam(lambda i, _: LABELS[i])
    ages = np.random.default_rng(2).normal(60, 8, N_PEOPLE)
    rows = [f"{n}\t{ages[i]:.2f}\t{i % 2}\t{'abc'[i % 3]}" for i, n in enumerate(LABELS)]
    made.table("covariates.tsv", ["IID\tage\tsex\tsite", *rows])
    return made


def test_check__a_sound_study_has_no_problem(site: Site) -> None:
    found = site.check()
    assert found.problems == []
    assert found.scan_problems == {}
    assert found.warnings == []
    assert "24 people in the scans, 24 scans" in found.counts[0]
    assert "24 in all" in found.counts[0]
    assert not (site.root / "out").exists()


# --- scans ----------------------------------------------------------------------------------------


def image_of(*shape: int) -> Callable[[Site], None]:
    return lambda site: write_nifti(site.dwi(), np.zeros(shape, np.int16), AFFINE)


def cut(site: Site) -> None:
    noise = np.random.default_rng(1).integers(0, 9999, (12, 12, 12, 8)).astype(np.int16)
    write_nifti(site.dwi(), noise, AFFINE)
    site.dwi().write_bytes(site.dwi().read_bytes()[:-5000])


def cut_plain(site: Site) -> None:
    content = gzip.decompress(site.dwi().read_bytes())
    site.dwi().unlink()
    site.dwi(extension=".nii").write_bytes(content[:-100])


def broken_link(site: Site) -> None:
    site.dwi().unlink()
    site.dwi().symlink_to("../../.git/annex/objects/a/b.nii.gz")


def pointer(site: Site) -> None:
    plain = site.dwi(extension=".nii")
    site.dwi().unlink()
    plain.write_text("/annex/objects/MD5E-s1--abc.nii\n")


def write(extension: str, text: str) -> Callable[[Site], None]:
    return lambda site: site.dwi(extension=extension).write_text(text) and None  # type: ignore[return-value]


SCAN_FAULTS: dict[str, tuple[Callable[[Site], Any], str]] = {
    "truncated gzip": (cut, "truncated or damaged after"),
    "truncated": (cut_plain, "truncated: it holds 3708 bytes, and an image of shape (6, 6, 6, 8) "),
    "3D": (image_of(6, 6, 6), "expected a 4D image, found shape (6, 6, 6)"),
    "5D": (image_of(6, 6, 6, 2, 4), "expected a 4D image, found shape (6, 6, 6, 2, 4)"),
    "empty": (lambda s: s.dwi().write_bytes(b""), "the file is empty; copy it again"),
    "no image": (lambda s: s.dwi().write_text("hello"), "not compressed by gzip"),
    "no header": (lambda s: s.dwi().write_bytes(gzip.compress(b"x" * 999)), "has no NIfTI header"),
    "short": (lambda s: s.dwi().write_bytes(gzip.compress(b"x")), "has no NIfTI header"),
    "pointer": (pointer, "holds a pointer instead of an image; fetch it, in a DataLad data set by"),
    "broken link": (broken_link, "which is not there; in a DataLad data set fetch it by: datalad"),
    "few b-values": (write(".bval", "0 1000 1000\n"), "8 volumes and the bval file 3 b-values"),
    "few directions": (write(".bvec", "0 1\n0 0\n0 0\n"), "8 b-values but 2 directions"),
    "words": (write(".bval", "0 many\n"), "line 1 is not a row of numbers"),
    "ragged": (write(".bvec", "0 1\n0\n0 0\n"), "lines have different numbers of values: 2, 1, 2"),
    "rows": (write(".bvec", "0 1\n0 0\n"), "expected 3 rows or 3 columns"),
    "unit": (write(".bval", "0 " + "1e9 " * 7), "b-values must be in s/mm²"),
    "no b0": (write(".bval", "1000 " * 8), "no b0: the smallest b-value is 1000"),
    "no table": (lambda s: s.dwi(extension=".bvec").unlink(), "no .bvec applies to it"),
}


@pytest.mark.parametrize("fault", SCAN_FAULTS)
def test_check__names_the_fault_of_a_scan_and_a_run_goes_on(fault: str, site: Site) -> None:
    damage, words = SCAN_FAULTS[fault]
    damage(site)
    found = site.check()
    assert found.problems == []  # so that a run does not stop
    assert list(found.scan_problems) == ["sub-0003"]
    assert any(words in problem for problem in found.scan_problems["sub-0003"])
    assert all("sub-0003" in problem for problem in found.scan_problems["sub-0003"])


@pytest.mark.parametrize(
    ("fault", "words"), [("broken link", "datalad get"), ("no table", "no .bvec applies to it")]
)
def test_run_scan__a_file_that_is_not_there_is_a_named_failure(
    fault: str, words: str, site: Site
) -> None:
    SCAN_FAULTS[fault][0](site)
    cohort = site.check().cohorts["discovery"]
    (scan,) = (scan for scan in cohort.scans if scan.sample_id == "0003")
    outcome = run_scan(scan, cohort.settings, "native")
    assert outcome.status == "failed"
    assert words in outcome.reason


def reverse_pair(site: Site, image: Any = None, affine: Any = AFFINE, **columns: str) -> None:
    """Let the table name a reverse b0 for the first two scans; `columns` are those of the first."""
    image = np.ones((6, 6, 6), np.float32) if image is None else image
    write_nifti(site.root / "r.nii.gz", np.ones((6, 6, 6), np.float32), AFFINE)
    write_nifti(site.root / "first.nii.gz", image, affine)
    for name, way in (("d.json", "j"), ("r.json", "j-")):
        (site.root / name).write_text(json.dumps({"PhaseEncodingDirection": way}))
    named = {"json": "d.json", "reverse_b0": "r.nii.gz", "reverse_json": "r.json"}
    first = {**named, "reverse_b0": "first.nii.gz", **columns}
    added = [[*named], [*first.values()], [*named.values()]]
    site.listed(lambda i, row: [*row, *(added[i] if i < len(added) else ["", "", ""])])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, ""),
        ({"json": ""}, "the axis of phase encoding of"),
        ({"reverse_json": "d.json"}, "d.json: its phase encoding (j, no readout time) is not the"),
        ({"reverse_b0": "none.nii.gz"}, "none.nii.gz: no such file"),
        (
            {"affine": np.diag([2.0, 2, 2, 1])[[1, 0, 2, 3]]},
            "phase encoding runs at 90° to",
        ),
        ({"image": np.ones((6, 6), np.float32)}, "expected a 3D or 4D image"),
    ],
)
def test_check__reverse_pairs_by_their_headers(
    columns: dict[str, Any], words: str, site: Site
) -> None:
    reverse_pair(site, **columns)
    found = site.check().scan_problems
    assert list(found) == (["sub-0001"] if words else [])
    assert all(words in problem for problems in found.values() for problem in problems)
    site.content["preprocess"] = {"distortion": False}  # then the pair is not looked at
    assert site.check().scan_problems == {}


def test_check__a_truncated_reverse_b0(site: Site) -> None:
    noise = np.random.default_rng(1).random((6, 6, 6), np.float32)
    reverse_pair(site, noise)
    path = site.root / "first.nii.gz"
    path.write_bytes(path.read_bytes()[:-99])
    ((problem,),) = site.check().scan_problems.values()
    assert "first.nii.gz: truncated" in problem


def test_run_scan__a_reverse_b0_that_is_not_there(site: Site) -> None:
    reverse_pair(site, reverse_b0="none.nii.gz")
    cohort = site.check().cohorts["discovery"]
    outcome = run_scan(cohort.scans[0], cohort.settings, "native")
    assert "none.nii.gz: no such file" in outcome.reason


def test_check__only_the_people_who_are_named(site: Site) -> None:
    site.dwi().write_bytes(b"")
    assert site.check(participants=["0004"]).scan_problems == {}
    assert list(site.check(participants=["sub-0003"]).scan_problems) == ["sub-0003"]
    assert site.check(participants=["9"]).problems == ["no scan of 9"]


def test_check__stages(site: Site) -> None:
    site.dwi().write_bytes(b"")
    assert site.check(stage="group").scan_problems == {}  # finished scans are not read again
    site.content["min_participants"] = 25
    assert "min_participants is 25" in site.check(stage="group").problems[0]
    del site.content["genotypes"]
    assert site.check(stage="participants").problems == []


def test_check__names_all_faults_of_a_scan_at_once(site: Site) -> None:
    site.dwi().write_bytes(b"")
    site.dwi(extension=".bval").write_text("x")
    site.dwi(extension=".bvec").write_text("y")
    assert len(site.check().scan_problems["sub-0003"]) == 3


def test_check__a_study_without_a_sound_scan_cannot_start(site: Site) -> None:
    for label in LABELS:
        site.dwi(label).write_bytes(b"")
    (problem,) = site.check().problems
    assert "none of the 24 scans can be used; the first:" in problem
    assert "the file is empty" in problem


def test_check__says_faulty_scans_once_in_a_run(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for label in LABELS[:5]:
        site.dwi(label).write_bytes(b"")
    site.check().log()
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "scans with faults, which will fail: 5, such as" in warning
    assert warning.count("the file is empty") == 3


def test_check__read_all_finds_damage_within(site: Site) -> None:
    noise = np.random.default_rng(1).integers(0, 9999, (12, 12, 12, 8)).astype(np.int16)
    write_nifti(site.dwi(), noise, AFFINE)
    content = bytearray(site.dwi().read_bytes())
    content[5000] ^= 0xFF  # the last bytes, with the size, are whole
    site.dwi().write_bytes(bytes(content))
    only = {"participants": ["0003", "0004"]}
    assert site.check(**only).scan_problems == {}
    found = site.check(read_all=True, **only)
    assert list(found.scan_problems) == ["sub-0003"]
    assert "may be truncated or damaged" in found.scan_problems["sub-0003"][0]


def test_check__compressed_in_members_is_whole(site: Site) -> None:
    content = gzip.decompress(site.dwi().read_bytes())
    site.dwi().write_bytes(gzip.compress(content[:999]) + gzip.compress(content[999:]))
    assert site.check().scan_problems == {}


def test_check__listed_scans_are_named_by_their_line(site: Site) -> None:
    site.listed(lambda i, row: [row[0], "none.nii.gz", *row[2:]] if i == 3 else row)
    (problems,) = site.check().scan_problems.values()
    assert "scans.tsv, line 4: dwi" in problems[0]
    assert "none.nii.gz: no such file" in problems[0]


def test_check__masks_must_lie_on_the_image(site: Site) -> None:
    write_nifti(site.root / "m.nii", np.ones((6, 6, 5), np.uint8), AFFINE)
    site.listed(lambda i, row: [*row, "mask" if i == 0 else "m.nii" if i == 2 else ""])
    (problems,) = site.check().scan_problems.values()
    assert "grid (6, 6, 5), but" in problems[0]
    assert "resample it to that grid" in problems[0]


def test_check__many_scans_in_several_processes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "MANY", 10)
    monkeypatch.setattr(preflight, "CHUNK", 3)
    site.dwi().write_bytes(b"")
    assert list(site.check(n_procs=2).scan_problems) == ["sub-0003"]


def test_check__odd_grids_are_named_and_the_majority_wins(site: Site) -> None:
    site.maps(lambda i: (6, 6, 7) if i == 2 else (6, 6, 6))
    write_nifti(site.root / "fa/0005.nii.gz", np.full((6, 6, 6), 0.4, np.float32), 2 * AFFINE)
    found = site.check()
    assert found.problems == []
    assert list(found.scan_problems) == ["sub-0003", "sub-0005"]
    first, second = (problems[0] for problems in found.scan_problems.values())
    assert "grid (6, 6, 7) (another shape), but 22 of 24 maps have (6, 6, 6); resample" in first
    assert "(another affine)" in second
    cohort = found.cohorts["discovery"]
    outcomes = [run_scan(scan, cohort.settings, "native") for scan in cohort.scans[1:4]]
    assert [outcome.status for outcome in outcomes] == ["ok", "failed", "ok"]
    assert "another shape" in outcomes[1].reason


def test_check__the_common_grid_is_that_of_all_maps(site: Site) -> None:
    """Also where one person is processed alone, as an element of a job array."""
    site.maps(lambda i: (6, 6, 7) if i == 2 else (6, 6, 6))
    found = site.check(participants=["0003"])
    assert "another shape" in found.scan_problems["sub-0003"][0]
    assert site.check(participants=["0004"]).scan_problems == {}


def test_check__values_that_are_not_fa(site: Site) -> None:
    site.maps()
    for label in ("0003", "0009"):
        write_nifti(site.root / f"fa/{label}.nii.gz", np.full((6, 6, 6), 700, np.float32), AFFINE)
    (problems,) = site.check().scan_problems.values()  # of the first three; a header does not tell
    assert "values from 700 to 700; FA lies between 0 and 1" in problems[0]
    assert len(site.check(read_all=True).scan_problems) == 2
    for label in LABELS[:3]:
        write_nifti(site.root / f"fa/{label}.nii.gz", np.full((6, 6, 6), 700, np.float32), AFFINE)
    (problem,) = site.check().problems
    assert "the first 3 maps are no FA, such as" in problem


# --- the study ------------------------------------------------------------------------------------


def remove(*names: str) -> Callable[[Site], None]:
    def damage(site: Site) -> None:
        for name in names:
            (site.root / name).unlink()

    return damage


def gwas(**keys: Any) -> Callable[[Site], None]:
    return lambda site: site.content["gwas"].update(keys)


def encoder(**keys: Any) -> Callable[[Site], None]:
    return lambda site: site.content["encoder"].update(keys)


def labelled(n_labels: int) -> NDArray[np.int16]:
    """An image of labels that takes turns from voxel to voxel but for a margin."""
    labels = np.zeros((6, 6, 6), np.int16)
    labels[1:-1, 1:-1, 1:-1].flat = 1 + np.arange(4**3) % n_labels
    return labels


def atlas(labels: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> Callable[[Site], None]:
    """Let the labels of an image make the linear representation."""

    def name(site: Site) -> None:
        write_nifti(site.root / "a.nii.gz", labels, affine)
        site.content["linear"] = {"atlas": "a.nii.gz"}

    return name


def outside(name: str, header: str) -> Callable[[Site], None]:
    """Let the study have LD scores, and another study's text of these columns."""

    def change(site: Site) -> None:
        (site.root / "ld").mkdir()
        for file in ("1.l2.ldscore.gz", "1.l2.M_5_50"):
            (site.root / "ld" / file).touch()
        site.table(name, [header])
        site.content["genetics"] = {"ld_scores": "ld", "outside": [name]}

    return change


def content(**keys: Any) -> Callable[[Site], None]:
    return lambda site: site.content.update(keys)


def field(row: int, column: int, text: str) -> Callable[[Site], None]:
    """One field of the covariates; rows as an editor counts them."""

    def change(i: int, fields: list[str]) -> list[str]:
        return [*fields[:column], text, *fields[column + 1 :]] if i == row - 1 else fields

    return lambda site: site.covariates(change)


def column(name: str, text: Callable[[int], object]) -> Callable[[Site], None]:
    """One more column of the covariates."""
    return lambda site: site.covariates(
        lambda i, fields: [*fields, name if i == 0 else str(text(i))]
    )


def both(*damages: Callable[[Site], Any]) -> Callable[[Site], None]:
    def damage(site: Site) -> None:
        for one in damages:
            one(site)

    return damage


def patched(name: str, change: Callable[[bytes], bytes]) -> Callable[[Site], None]:
    def damage(site: Site) -> None:
        path = site.root / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def no_dwi(site: Site) -> None:
    for path in site.root.glob("bids/sub-*/dwi/*"):
        path.unlink()


def other_study(site: Site) -> None:
    claim(site.settings())
    (site.root / "bids").rename(site.root / "other")
    site.content["bids"] = "other"


def foreign_dataset(site: Site) -> None:
    (site.root / "out").mkdir()
    text = '{"Name": "raw", "GeneratedBy": [{"Name": "fMRIPrep"}]}'
    (site.root / "out/dataset_description.json").write_text(text)


def split(**keys: Any) -> Callable[[Site], None]:
    """Two cohorts of the same source; each keeps the people of a range."""

    def damage(site: Site) -> None:
        for name, (start, stop) in keys.items():
            site.table(f"{name}.tsv", ["IID", *LABELS[start:stop]])
            site.content[name] = {"keep": f"{name}.tsv"}
        site.content["min_participants"] = 2

    return damage


ROW = N_PEOPLE  # people a table


def sidecars(*labels: str) -> Callable[[Site], None]:
    """Scans of which the sidecars name the scanner, which is a covariate."""

    def change(site: Site) -> None:
        site.content["gwas"]["covariates"] = ["age", "scanner"]
        for label in labels:
            site.dwi(label, ".json").write_text('{"Manufacturer": "GE"}')

    return change


def by_chromosome(*chromosomes: str) -> Callable[[Site], None]:
    """Genotypes of these chromosomes in one file each, named by a pattern."""

    def change(site: Site) -> None:
        rows = [line.split() for line in (site.root / "g.bim").read_text().splitlines()]
        for i, row in enumerate(rows):
            row[0] = chromosomes[i % len(chromosomes)]
        site.table("g.bim", ["\t".join(row) for row in rows])
        split_by_chromosome(site.root / "g", site.root / "chr{chromosome}.v3")
        site.content["genotypes"] = "chr{chromosome}.v3"

    return change


def by_family(*, named: bool) -> Callable[[Site], None]:
    """Two people of each IID, in families of their own, which the table of traits names or not."""

    def change(site: Site) -> None:
        site.fam(lambda i, _: LABELS[i % 12])
        rows = [f"f{i}\t{LABELS[i % 12]}\t{i}" for i in range(N_PEOPLE)]
        rows = rows if named else [row.partition("\t")[2] for row in rows[:12]]
        site.traits(["FID\tIID\theight" if named else "IID\theight", *rows])
        del site.content["covariates"]

    return change


STUDY_FAULTS: dict[str, tuple[Callable[[Site], Any], str]] = {
    "no DWI": (no_dwi, "no DWI found (files named sub-*_dwi.nii.gz in dwi folders)"),
    "no data set": (remove("bids/dataset_description.json"), "no dataset_description.json"),
    "no bed": (remove("g.bed"), "g.bed: no such file; genotypes are a .bed with .bim and .fam"),
    "bed magic": (
        patched("g.bed", lambda b: b"xx" + b[2:]),
        "not a PLINK 1 bed file (its first by",
    ),
    "bed by person": (patched("g.bed", lambda b: b[:2] + b"\0" + b[3:]), "stored person by person"),
    "bed cut": (patched("g.bed", lambda b: b[:-5]), "178 bytes, but 30 variants (.bim) of 24"),
    "bim row": (patched("g.bim", lambda b: b + b"1 rs 0\n"), "g.bim: row 31 has 3 fields, expecte"),
    "bim more": (patched("g.bim", lambda b: b + b"1 r 0 1 A C\n"), "31 variants (.bim) of 24 peop"),
    "fam less": (
        patched("g.fam", lambda b: b"\n".join(b.split(b"\n")[:-6]) + b"\n"),
        "30 variants (.bim) of 19 people (.fam) need 153",
    ),
    "fam twice": (
        lambda s: s.table("g.fam", ["f 0001 0 0 0 0", "f 0001 0 0 0 0"]),
        "g.fam: row 2: the IID '0001' occurs twice in one family",
    ),
    "fam twice in two families": (
        lambda s: s.fam(lambda i, n: "0001" if i == 4 else n),
        "people of several families have the IID 0001, and a scan names its person by one label",
    ),
    "families that a table does not name": (
        by_family(named=False),
        "traits.tsv: row 2: no FID, and the genotypes have people of several families under the",
    ),
    "a chromosome without its table": (
        both(by_chromosome("1", "2"), remove("chr2.v3.bim")),
        "chr2.v3.bim: no such file; genotypes are",
    ),
    "a chromosome of other people": (
        both(by_chromosome("1", "2"), patched("chr2.v3.fam", lambda b: b.replace(b"0003", b"x"))),
        "chr1.v3.fam: person 3 has the IID 'x', there '0003'; give all files the same people in",
    ),
    "no chromosome": (
        content(genotypes="chr{chromosome}.v3.bgen"),
        "chr{chromosome}.v3.bgen: no such file; in a name, {chromosome} stands for a number, X,",
    ),
    "genotypes twice": (
        lambda s: (s.root / "g.pgen").touch(),
        "g: is a name of several sets (.bed, .pgen); give one with its suffix",
    ),
    "covariates twice": (field(5, 0, "0001"), "covariates.tsv: row 5: the IID '0001' occurs twice"),
    "table twice": (
        lambda s: s.listed(lambda i, row: ["0001", *row[1:]] if i == 0 else row),
        "column participant_id missing",
    ),
    "image twice": (
        lambda s: s.listed(
            lambda i, row: [row[0], str(s.dwi("0001")), *row[2:]] if i == 2 else row
        ),
        "line 3: dwi",
    ),
    "no id shared": (
        lambda s: s.fam(lambda i, _: f"x{i}"),
        "no person is both in the scans and in",
    ),
    "padding": (
        lambda s: s.fam(lambda i, n: str(int(n))),
        "'0001' and '1', '0002' and '2', '0003' and '3' and 21 more may be the same people: ids "
        "are compared letter by letter",
    ),
    "no id column": (field(1, 0, "ID"), "no column of ids; its header needs one of IID"),
    "mixed": (field(5, 1, "old"), "row 5, column 'age': 'old' among numbers"),
    "decimal comma": (
        field(5, 1, "6,5"),
        "row 5, column 'age': '6,5' has a decimal comma; write a",
    ),
    "infinite": (field(5, 1, "inf"), "row 5, column 'age': an infinite number"),
    "semicolons": (
        patched("covariates.tsv", lambda b: b.replace(b"\t", b";")),
        "separated by semicolons; tables are separated by tabs or commas",
    ),
    "ragged": (field(5, 1, "6\t5"), "row 5 has 5 fields, the header 4"),
    "unknown covariate": (
        gwas(covariates=["agee"]),
        "no column 'agee', which 'gwas.covariates' names; did you mean 'age'?",
    ),
    "case of a covariate": (gwas(covariates=["AGE"]), "did you mean 'age'?"),
    "unknown category": (
        gwas(categorical=["sites"]),
        "no column 'sites', which 'gwas.categorical' names; did you mean 'site'?",
    ),
    "own components": (
        column("PC1", lambda i: i**2),
        "has columns PC1, and n_pcs = 2 makes components of the same names; set n_pcs = 0",
    ),
    "empty covariate": (column("x", lambda _: "NA"), "column 'x' is missing for everyone"),
    "few people": (
        content(min_participants=25),
        "24 people are in all tables, and min_participants is 25",
    ),
    "few people with traits": (
        both(lambda s: s.traits(), content(min_participants=25)),
        "24 people are in all tables, and min_participants is 25",
    ),
    "no sidecars": (
        sidecars(),
        "'gwas.covariates' names 'scanner', and no scan's JSON sidecar has Manufacturer or",
    ),
    "no sidecars in a table": (
        both(sidecars(*LABELS), lambda s: s.listed()),
        "'scanner' is made on the way only of cohorts by bids",
    ),
    "mask of another grid": (
        both(
            lambda s: write_nifti(s.root / "m.nii", np.ones((6, 6, 5), np.uint8), AFFINE),
            lambda s: write_nifti(s.root / "t.nii", np.ones((6, 6, 6), np.float32), AFFINE),
            content(normalize={"template": "t.nii", "mask": "m.nii"}),
        ),
        "m.nii: grid (6, 6, 5), but ",
    ),
    "mask unlike the voxel size": (
        both(
            lambda s: write_nifti(s.root / "t.nii", np.ones((6, 6, 6), np.float32), AFFINE),
            content(normalize={"template": "t.nii", "mask": "t.nii", "voxel_size": 3}),
        ),
        "t.nii at 3 mm has (4, 4, 4)",
    ),
    "maps unlike the mask": (
        both(
            lambda s: s.maps(),
            lambda s: write_nifti(s.root / "m.nii", np.ones((6, 6, 6), np.uint8), 2 * AFFINE),
            content(normalize={"mask": "m.nii"}),
        ),
        "m.nii: its affine puts voxels up to",
    ),
    "maps unlike the template": (
        both(
            lambda s: s.maps(),
            split(discovery=(0, 12), replication=(12, 24)),
            lambda s: s.content["replication"].update(bids="bids"),
        ),
        "most maps of 'fa_common': grid (6, 6, 6), but the shipped template has (91, 109, 91)",
    ),
    "large batch": (
        encoder(batch_size=23),
        "'[encoder] batch_size' is 23, and 22 people train the encoder (2 of 24 are held out)",
    ),
    "large batch of the published network": (
        encoder(udip_fa=True),
        "'[encoder] batch_size' is 36, and 22 people train the encoder (2 of 24 are held out); as "
        "udip_fa has it: set a smaller one",
    ),
    "no atlas": (content(linear={"atlas": "a.nii"}), "linear.atlas: "),
    "atlas of several volumes": (
        atlas(np.ones((6, 6, 6, 2), np.int16)),
        "a.nii.gz: ",
    ),
    "atlas of shares": (
        atlas(np.full((6, 6, 6), 0.5, np.float32)),
        "a.nii.gz: values from 0.5 to 0.5; an atlas has a whole number for each region",
    ),
    "atlas of another space": (
        both(lambda s: s.maps(), atlas(labelled(3), AFFINE @ np.diag([1, 1, -1, 1.0]))),
        "3 of 3 labels lie outside of the maps' common space, such as 1, 2, 3; give an atlas in",
    ),
    "more labels than people": (
        both(lambda s: s.maps(), atlas(labelled(22))),
        "22 labels, and their means are fitted to 22 people (2 of 24 are held out), who must be",
    ),
    "export beyond the labels": (
        both(lambda s: s.maps(), atlas(labelled(3)), gwas(export=["component_003"])),
        "no trait 'component_003'; linear.atlas: ",
    ),
    "many covariates": (
        column("word", lambda i: f"w{i}"),
        "24 people are in all tables, too few for 26 covariates (an intercept and 2 components and "
        "23 columns of",
    ),
    "many components": (gwas(n_pcs=40), "too few for 45 covariates"),
    "model of no column": (
        gwas(model="age + aeg", n_pcs=0),
        "covariates.tsv: no column 'aeg', which 'gwas.model' names; did you mean 'age'?",
    ),
    "model beyond the components": (
        gwas(model="age + PC1:PC3", n_pcs=2),
        "components are made as far as n_pcs = 2 in [gwas] says",
    ),
    "model of words as numbers": (
        gwas(model="log(site) + PC1", n_pcs=1),
        "gwas.model: formula 'log(site) + PC1': ",
    ),
    "model of many columns": (
        gwas(model="C(age) + PC1:PC2", n_pcs=2),
        "24 people are in all tables, too few for 24 covariates (those of 'gwas.model'); name "
        "fewer in [gwas] model",
    ),
    "no list of variants": (gwas(extract="none.txt"), "gwas.extract: "),
    "list of other variants": (
        both(lambda s: s.table("v.txt", ["rs77"]), gwas(extract="v.txt")),
        "g.bed: no variant is left of 30",
    ),
    "region that is not there": (
        gwas(region=["7:1-99"]),
        "g.bed has no chromosome '7'; it has 1",
    ),
    "folder without LD scores": (
        both(lambda s: (s.root / "ld").mkdir(), content(genetics={"ld_scores": "ld"})),
        "genetics.ld_scores: ",
    ),
    "no LD scores": (content(genetics={"ld_scores": "ld"}), "ld: no such file"),
    "outside text of no known format": (
        outside("bmi.txt", "SNP\tBETA"),
        "bmi.txt: the columns are of no known format: SNP, BETA",
    ),
    "outside text without n": (
        outside("bmi.txt", "SNP\tA1\tA2\tZ"),
        "bmi.txt: does not say n; give it by outside_n = {bmi = NUMBER}",
    ),
    "outside trait of the name of one's own": (
        both(Site.traits, outside("height.txt", "SNP\tA1\tA2\tN\tZ")),
        "height.txt: is named by the file up to its first dot, as a trait of",
    ),
    "list among the results": (
        both(
            lambda s: StudyPaths(s.root / "out").group.mkdir(parents=True),
            lambda s: s.table("out/group/v.txt", ["rs7"]),
            gwas(exclude="out/group/v.txt"),
        ),
        "v.txt: the study writes its own results there",
    ),
    "mixed model of one chromosome": (
        gwas(mixed_model=True),
        "g.bed has variants of 1 autosomes for it",
    ),
    "no GPU": (gwas(device="cuda"), "'gwas.device' is 'cuda': "),
    "no genotypes": (
        lambda s: s.content.pop("genotypes"),
        "'genotypes' is missing: the group stage needs genotypes",
    ),
    "no covariates": (remove("covariates.tsv"), "covariates: "),
    "no template": (content(normalize={"template": "t.nii"}), "normalize.template: "),
    "template of text": (
        content(normalize={"template": "covariates.tsv"}),
        "cannot be read as a NIfTI image",
    ),
    "no keep": (content(keep="k.tsv"), "k.tsv: no such file"),
    "keep of others": (
        both(lambda s: s.table("k.tsv", ["IID", "z"]), content(keep="k.tsv")),
        "none of these people has a scan in",
    ),
    "out is a file": (content(out="g.fam/out"), "g.fam is a file; choose another folder"),
    "out in raw data": (content(out="bids/out"), "lies inside the raw data set"),
    "out is raw data": (content(out="bids"), "lies inside the raw data set"),
    "out is derivatives": (content(out="bids/derivatives"), "derivatives/NAME or elsewhere"),
    "out of another": (other_study, "holds a study of bids = "),
    "out is a data set": (foreign_dataset, "is another BIDS data set; choose a folder of its own"),
    "train and discovery": (
        both(split(train=(0, 12), discovery=(9, 24)), encoder(training_people="refuse")),
        "3 people are in [train] and in [discovery]: 0010, 0011, 0012: choose by training_people",
    ),
    "the association trains": (
        lambda s: s.content.pop("encoder"),
        "the encoder is trained on the people of the association themselves: choose by training_pe",
    ),
    "nobody left by drop": (
        both(
            split(train=(0, 12), discovery=(9, 14)),
            encoder(training_people="drop"),
            content(min_participants=3),
        ),
        'are in [discovery] and not in [train], as training_people = "drop" has it',
    ),
    "discovery and replication": (
        split(discovery=(0, 12), replication=(10, 24)),
        "2 people are in [discovery] and in [replication]: 0011, 0012; a replication needs",
    ),
    "train and replication": (
        split(train=(0, 5), discovery=(5, 12), replication=(4, 5)),
        "1 people are in [train] and in [replication]: 0005; a replication needs",
    ),
    "out over the scans": (
        both(lambda s: s.listed(), content(out=".")),
        "scans.tsv: the study writes its own results there",
    ),
    "out over the covariates": (
        both(
            lambda s: (s.root / "covariates.tsv").rename(s.root / "qc.tsv"),
            content(out=".", covariates="qc.tsv"),
        ),
        "qc.tsv: the study writes its own results there",
    ),
    "keep in a cohort's folder": (
        both(
            split(discovery=(0, 12), replication=(12, 24)),
            lambda s: StudyPaths(s.root / "out" / "replication").work.mkdir(parents=True),
            lambda s: (s.root / "replication.tsv").rename(
                StudyPaths(s.root / "out" / "replication").work / "people.tsv"
            ),
            lambda s: s.content["replication"].update(
                keep=str(StudyPaths(Path("out", "replication")).work / "people.tsv")
            ),
        ),
        "people.tsv: the study writes its own results there",
    ),
    "out among the maps": (
        both(lambda s: s.maps(), content(out="fa")),
        "lies inside the folder of the cohort's images",
    ),
    "two maps of one": (
        both(
            lambda s: s.maps(),
            lambda s: (s.root / "fa/sub-0002.nii.gz").symlink_to("0002.nii.gz"),
        ),
        "sub-0002.nii.gz are both of 0002; keep one of them",
    ),
    "trait of words": (
        lambda s: s.traits(["IID\ta", *(f"{n}\t{'x' if i else 1}" for i, n in enumerate(LABELS))]),
        "'x' among numbers",
    ),
    "trait of words only": (
        lambda s: s.traits(["IID\ta", *(f"{n}\tx" for n in LABELS)]),
        "row 2, column 'a': 'x' is not a number; traits are quantitative",
    ),
    "every trait lacked by someone": (
        lambda s: s.traits(
            ["IID\ta\tb", *(f"{n}\t{i or 'NA'}\t{i - 1 or 'NA'}" for i, n in enumerate(LABELS))]
        ),
        "each trait is lacked by someone, and the joint test needs traits of the same people: "
        "complete_traits = true in [gwas]",
    ),
    "traits all missing": (
        lambda s: s.traits(["IID\ta", *(f"{n}\tNA" for n in LABELS)]),
        "every trait is missing or constant; none can be tested",
    ),
    "choice of no trait": (
        both(lambda s: s.traits(), gwas(traits=["weight", "hight"])),
        "traits.tsv: no column 'hight'; did you mean 'height'?",
    ),
    "export of no trait": (
        both(lambda s: s.traits(), gwas(export=["hight"])),
        "'gwas.export' names 'hight', which is no column; did you mean 'height'?",
    ),
}


@pytest.mark.parametrize("fault", STUDY_FAULTS)
def test_check__names_the_fault_of_a_study(fault: str, site: Site) -> None:
    damage, words = STUDY_FAULTS[fault]
    damage(site)
    found = site.check()
    assert any(words in problem for problem in found.problems), found.problems
    with pytest.raises(InputError, match="the study cannot start:"):
        found.stop()


def test_check__holds_out_as_many_as_the_encoder() -> None:
    assert Config().validation_fraction == preflight.HELD_OUT


def test_check__names_all_problems_at_once(site: Site) -> None:
    site.dwi().write_bytes(b"")
    remove("g.bim")(site)
    field(3, 1, "x")(site)
    site.covariates(lambda i, row: [*row[:2], "y" if i == 4 else row[2], row[3]])
    site.content |= {"out": "bids/x", "normalize": {"template": "none.nii"}}
    found = site.check()
    assert len(found.problems) == 5
    for word in ("g.bim", "column 'age'", "column 'sex'", "raw data set", "none.nii"):
        assert any(word in problem for problem in found.problems)
    assert found.n_problems == 6
    with pytest.raises(InputError) as caught:
        run_study(site.settings())
    assert str(caught.value).count("\n  ") == 5
    assert not (site.root / "bids/x").exists()


WARNINGS: dict[str, tuple[Callable[[Site], Any], str]] = {
    "-9": (field(5, 1, "-9"), "column 'age' holds -9 for 1 of 24 people"),
    "-9 among traits": (
        lambda s: s.traits(["IID\ta", *(f"{n}\t{i - 9}" for i, n in enumerate(LABELS))]),
        "column 'a' holds -9 for 1 of 24 people",
    ),
    "opposed phase encodings": (
        lambda s: [
            s.dwi(extension=ext)
            .with_name(f"sub-0003_dir-{name}_dwi{ext}")
            .write_bytes(s.dwi(extension=ext).read_bytes())
            for name in ("AP", "PA")
            for ext in (".nii.gz", ".bval", ".bvec")
        ],
        "1 people have scans of several phase encodings, such as 0003: of them AP (1) is taken",
    ),
    "a reverse b0 of no scan": (
        lambda s: [
            path.parent.mkdir(exist_ok=True) or path.write_text(json.dumps(told))
            for path, told in (
                (s.dwi(extension=".json"), {"PhaseEncodingDirection": "j"}),
                (s.root / "bids/sub-0003/fmap/sub-0003_epi.nii.gz", None),
                (
                    s.root / "bids/sub-0003/fmap/sub-0003_epi.json",
                    {"PhaseEncodingDirection": "j-", "IntendedFor": "dwi/sub-3_dwi.nii.gz"},
                ),
            )
        ],
        "sub-0003_epi.json: IntendedFor is 'dwi/sub-3_dwi.nii.gz', and no such DWI lies beside it",
    ),
    "some without sidecars": (
        sidecars(*LABELS[1:]),
        "1 of 24 scans have no Manufacturer or ManufacturersModelName or DeviceSerialNumber in",
    ),
    "map of an odd label": (
        both(lambda s: s.maps(), lambda s: (s.root / "fa/0_2.nii.gz").symlink_to("0002.nii.gz")),
        "the same wherever a pattern names it: 1, such as",
    ),
    "person of an odd label": (
        lambda s: (s.root / "bids/sub-0_2").mkdir(),
        "bids/sub-0_2; rename them",
    ),
    "a chromosome is absent": (
        by_chromosome("1", "4"),
        "genotypes: no file of chromosome 2, 3 is there for",
    ),
    "some lack genotypes": (
        lambda s: s.fam(lambda i, n: "other" if i == 2 else n),
        "1 of 24 people of the scans are not in",
    ),
    "case": (
        both(
            lambda s: (s.root / "bids/sub-0003").rename(s.root / "bids/sub-AB1"),
            lambda s: [
                path.rename(path.with_name(path.name.replace("0003", "AB1")))
                for path in s.root.glob("bids/sub-AB1/dwi/*")
            ],
            lambda s: s.fam(lambda i, n: "ab1" if i == 2 else n),
        ),
        "'AB1' and 'ab1' may be the same people",
    ),
    "missing covariate": (field(5, 1, "NA"), "1 people have a missing covariate and are left out"),
    "constant": (column("one", lambda _: 5), "'one' is left out: it is constant"),
    "collinear": (
        both(column("a", lambda i: i), column("b", lambda i: 3 * i)),
        "'b' is left out: it is a combination of",
    ),
    "unknown people in keep": (
        both(
            lambda s: s.table("k.tsv", ["IID", *LABELS, "9999", "nobody"]),
            content(keep="k.tsv"),
        ),
        "2 of 26 people are not in",
    ),
    "trait of no one": (
        lambda s: s.traits(["IID\ta\tb", *(f"{n}\t{i}\tNA" for i, n in enumerate(LABELS))]),
        "left out, for missing for everyone: b",
    ),
    "constant trait": (
        lambda s: s.traits(["IID\ta\tb", *(f"{n}\t{i}\t1" for i, n in enumerate(LABELS))]),
        "left out, for the same for everyone: b",
    ),
    "model without components": (
        gwas(model="age", n_pcs=2),
        "'gwas.model' names none of the components PC1 to PC2",
    ),
    "no maps of voxels": (
        gwas(rank_normal="values"),
        "no maps of voxels are made, for 'gwas.rank_normal' changes the latents",
    ),
    "few degrees of freedom": (
        gwas(n_pcs=11),
        "leave 7 degrees of freedom: effects will look large by chance",
    ),
    "trait that some lack": (
        lambda s: s.traits(
            ["IID\ta\tb", *(f"{n}\t{i}\t{i or 'NA'}" for i, n in enumerate(LABELS))]
        ),
        "left out of the joint test, for some people lack them: b; complete_traits = true in",
    ),
    "trait that some lack, beside others that are not tested": (
        both(
            lambda s: s.traits(
                [
                    "IID\ta\tb\tcode\tc",
                    *(f"{n}\t{i}\t{i or 'NA'}\tx\t1" for i, n in enumerate(LABELS)),
                ]
            ),
            gwas(traits=["b", "a"]),
        ),
        "left out of the joint test, for some people lack them: b; complete_traits = true in",
    ),
    "people who lack a trait": (
        both(
            lambda s: s.traits(
                ["IID\ta\tb", *(f"{n}\t{i}\t{i or 'NA'}" for i, n in enumerate(LABELS))]
            ),
            gwas(complete_traits=True),
        ),
        "1 people lack a trait and are left out, such as",
    ),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_check__goes_on_and_says_so(case: str, site: Site) -> None:
    damage, words = WARNINGS[case]
    damage(site)
    found = site.check()
    assert found.problems == []
    assert any(words in warning for warning in found.warnings), found.warnings


def test_check__many_variants_of_a_mixed_model(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    chromosomes = ["1"] * 20 + ["2"] * 10
    write_plink(site.root / "g", np.random.default_rng(1).integers(0, 3, (30, 24)), chromosomes)
    site.fam(lambda i, _: LABELS[i])
    site.content["gwas"] = {"n_pcs": 2, "mixed_model": True}
    assert site.check().warnings == site.check().problems == []
    monkeypatch.setattr(preflight, "MANY_PREDICTORS", 25)
    (warning,) = site.check().warnings
    assert "30 variants predict, and its time grows with them" in warning
    site.table("v.txt", [f"rs{k}" for k in range(5, 25)])
    site.content["gwas"]["mixed_model_extract"] = "v.txt"
    assert site.check().warnings == []


def test_check__lists_who_is_not_in_all_tables(site: Site) -> None:
    site.fam(lambda i, n: "other" if i == 2 else n)
    assert site.check().lacking["discovery"] == [
        {"sample_id": "0003", "g.fam": "no", "covariates.tsv": "yes"}
    ]
    field(5, 1, "NA")(site)
    assert site.check().lacking["discovery"] == [
        {"sample_id": "0003", "g.fam": "no", "covariates.tsv": "yes"},
        {"sample_id": "0004", "g.fam": "yes", "covariates.tsv": "incomplete"},
    ]


def test_check__lists_who_lacks_a_trait_and_who_only_something_else(site: Site) -> None:
    site.traits(["IID\ta", *(f"{n}\t{'NA' if n == '0005' else i}" for i, n in enumerate(LABELS))])
    site.fam(lambda i, n: "other" if i == 2 else n)
    found = site.check()
    assert found.problems == []  # who has no trait is left out, and the trait is everyone's
    assert found.lacking["discovery"] == [
        {"sample_id": "0003", "g.fam": "no", "covariates.tsv": "yes", "traits.tsv": "yes"},
        {"sample_id": "0005", "g.fam": "yes", "covariates.tsv": "yes", "traits.tsv": "incomplete"},
    ]


def test_check__describes_covariates(site: Site) -> None:
    field(5, 1, "999")(site)
    found = site.check()
    (age,) = [line for line in found.counts if line.startswith("covariate age: ")]
    assert " to 999, median " in age
    (warning,) = [line for line in found.warnings if "far from the others" in line]
    assert "covariates.tsv: column 'age': 999 of 0004 is far from the others" in warning


def link_elsewhere(site: Site) -> None:
    """As DataLad does: each image a link into a store outside the data set."""
    store = site.root / "annex"
    store.mkdir()
    for path in site.root.glob("bids/sub-*/dwi/*.nii.gz"):
        path.rename(store / f"MD5E-{path.name}")
        path.symlink_to(os.path.relpath(store / f"MD5E-{path.name}", path.parent))


ACCEPTED: dict[str, Callable[[Site], Any]] = {
    "Windows line ends and a byte order mark": patched(
        "covariates.tsv", lambda b: b"\xef\xbb\xbf" + b.replace(b"\n", b"\r\n")
    ),
    "commas": patched("covariates.tsv", lambda b: b.replace(b"\t", b",")),
    "Windows line ends in a fam": patched("g.fam", lambda b: b.replace(b"\n", b"\r\n")),
    "gradients with a byte order mark": lambda s: s.dwi(extension=".bval").write_bytes(
        b"\xef\xbb\xbf" + BVAL.replace("\n", "\r\n").encode()
    ),
    "decimal commas in gradients": write(".bvec", BVEC.replace(".", ",")),
    "links that leave the folder": link_elsewhere,
    "read-only inputs": lambda s: [p.chmod(0o444) for p in s.root.rglob("*") if p.is_file()],
    "output among the derivatives": content(out="bids/derivatives/axoloci"),
    "own components instead of ours": both(column("PC1", lambda i: i**2), gwas(n_pcs=0)),
    "no covariates": both(column("PC1", lambda i: i**2), gwas(covariates=[])),
    "one file a chromosome": by_chromosome("2", "1", "X"),
    "families that share IIDs": by_family(named=True),
    "a formula": gwas(model="age + age**2 + sex*C(site) + PC1:PC2", min_maf=0.01, n_pcs=2),
    "a formula of what is made on the way": gwas(model="log(head_scale) + age + PC1", n_pcs=2),
    "a formula of components alone": gwas(model="PC1 + PC2", n_pcs=2),
    "covariates made on the way": gwas(covariates=["age", "head_scale"]),
    "an atlas": both(lambda s: s.maps(), atlas(labelled(21))),
    "an atlas of finer voxels": both(
        lambda s: s.maps(), atlas(labelled(21), AFFINE @ np.diag([0.5, 0.5, 0.5, 1]))
    ),
    "an atlas of a representation that is not made": both(
        content(linear={"atlas": "none.nii"}), encoder(representations=["autoencoder"])
    ),
    "the published network": encoder(udip_fa=True, batch_size=22),
    "cohorts apart": split(discovery=(0, 12), replication=(12, 24)),
    "the same people in training": both(
        split(train=(0, 12), discovery=(0, 12)), encoder(training_people="keep")
    ),
    "some of the people in training": both(
        split(train=(0, 12), discovery=(9, 24)), encoder(training_people="drop")
    ),
    "other people in training": both(
        split(train=(0, 12), discovery=(12, 24)), encoder(training_people="refuse")
    ),
    "traits": lambda s: s.traits(),
    "maps": lambda s: s.maps(),
    "a table of scans": lambda s: s.listed(),
    "runs of a person": lambda s: s.listed(lambda i, row: ["0001", *row[1:]] if i == 2 else row),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_check__accepts(case: str, site: Site) -> None:
    ACCEPTED[case](site)
    found = site.check()
    assert found.problems == []
    assert found.scan_problems == {}


def test_check__too_little_disk(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the estimate of `plan`, of all steps."""
    planned = plan_study(site.settings())
    needed = sum(step.n_bytes_to_come for step in planned.steps)
    assert needed > sum(s.n_bytes for s in planned.steps if s.job == "preprocess") > 0
    monkeypatch.setattr(preflight, "free_bytes", lambda _: int(needed) - 1)
    (problem,) = site.check().problems
    assert "MB are needed, most of them by normalize" in problem
    assert site.check(stage="participants").problems == []
    monkeypatch.setattr(preflight, "free_bytes", lambda _: int(needed) + 1)
    assert site.check().problems == []


def test_check__a_limit_below_what_a_step_takes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "environment_problems", lambda *_, **__: [])
    largest = max(plan_study(site.settings()).steps, key=lambda step: step.memory_mb)
    for limit, beyond in ((largest.memory_mb - 1, True), (largest.memory_mb + 1, False)):
        monkeypatch.setenv("AXOLOCI_MEMORY_GB", str(limit / 1000))
        for env in ("docker", "native"):
            warnings = [w for w in site.check(env=env).warnings if "--memory-gb" in w]
            assert len(warnings) == (beyond and env == "docker")
            assert all(f" {largest.job} " in warning for warning in warnings)


def test_check__output_that_cannot_be_written(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != 3 and allowed(path, mode))
    (problem,) = site.check().problems
    assert "cannot be written to; choose another folder" in problem


@pytest.mark.parametrize(
    ("env", "gpu", "words"),
    [
        ("native", False, "no NVIDIA GPU"),
        ("native", True, "torch is not installed"),
        ("docker", False, "no NVIDIA GPU"),
        ("docker", True, "no image gwas-cuda is pinned"),
    ],
)
def test_no_gpu__says_what_is_missing(
    env: str, gpu: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(preflight, "has_gpu", lambda: gpu)
    monkeypatch.setattr(preflight, "locked_images", dict)
    assert words in preflight.no_gpu(env)


def test_check__names_a_compiler_that_is_missing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    encoder(compile=True)(site)
    (problem,) = site.check().problems
    assert problem == (
        "'encoder.compile' is true: the C++ compiler no-such-compiler is not installed; set "
        "compile = false"
    )
    assert site.check(stage="participants").problems == []
    encoder(representations=["linear"])(site)
    assert site.check().problems == []
    monkeypatch.setenv("CXX", sys.executable)
    assert preflight.no_compiler("native") == ""
    assert preflight.no_compiler("docker") == "the images hold no C++ compiler"


def test_plan__knows_the_published_network_and_the_labels(site: Site) -> None:
    site.maps()
    jobs = ("train_autoencoder", "train_linear")

    def costs() -> tuple[dict[str, int], list[float]]:
        plan = plan_study(site.settings())
        return plan.latents, [s.seconds for job in jobs for s in plan.steps if s.job == job]

    latents, (autoencoder, linear) = costs()
    assert latents == {"discovery": 2}  # one each of so few people
    encoder(udip_fa=True)(site)
    atlas(labelled(5))(site)
    latents, (published, means) = costs()
    assert latents == {"discovery": 128 + 5}
    n = 6**3 * N_PEOPLE
    assert published - autoencoder == pytest.approx(7.5e-8 * n * (100 * 16 - 20 * 8))
    assert means == pytest.approx(linear, rel=1e-3)


@pytest.mark.parametrize("people", [2, 20, 24, 150, 400, 1000, 5000, 60_000])
def test_plan__knows_how_many_latents_and_epochs_follow_from_the_people(people: int) -> None:
    few = min(plan.MAX_LATENTS, max(1, people // plan.PEOPLE_PER_LATENT))
    assert few == latents_for(people)
    n_train = people - max(1, round(0.1 * people))
    assert abs(plan.epochs_for(people, 10) - kernel.epochs_for(n_train, 10)) <= 1


def test_claim__marks_the_output_of_each_cohort(site: Site) -> None:
    claim(site.settings())
    marker = StudyPaths(site.root / "out").work / "source.json"
    assert json.loads(marker.read_text())["source"] == "bids"
    assert site.check().problems == []  # the same study goes on
    marker.unlink()
    assert site.check().problems == []


def test_run__no_covariates_are_none(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty list names no column; the table is not given to the step at all."""
    from axoloci.workflows import study

    given: list[Any] = []
    monkeypatch.setattr(study, "submit", lambda task, *_: given.append(task))
    site.traits()
    for chosen, expected in ((None, 1), ([], 0)):
        site.content["gwas"] = {"n_pcs": 0} | ({} if chosen is None else {"covariates": chosen})
        study.run_group(None, site.settings(), "native", 1, trained=None, discovery=None)
        task = given.pop()
        assert isinstance(task, Group)
        assert len(task.covariates or []) == expected
        assert "covariate" not in task.settings["gwas"]


def axoloci_check(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `axoloci check` as a user does."""
    words = [str(BIN / "axoloci"), "check", *map(str, arguments)]
    return subprocess.run([sys.executable, *words], capture_output=True, text=True)


def test_command__lists_counts_warnings_and_problems(site: Site) -> None:
    options = [
        w for k in ("bids", "covariates", "out") for w in (f"--{k}", site.root / site.content[k])
    ]
    options += ["--genotypes", site.root / "g", "--n-procs", 1, "--training-people", "keep"]
    site.table("covariates.tsv", ["IID\tage", *(f"{n}\t{i**2}" for i, n in enumerate(LABELS))])
    done = axoloci_check(*options)
    assert "too few" not in done.stdout
    assert done.returncode == 0, done.stdout + done.stderr
    assert "24 people in the scans" in done.stdout
    assert "0 problems of the study, 0 scans with problems, 0 warnings" in done.stdout
    site.dwi().write_bytes(b"")
    field(4, 0, "nobody")(site)
    done = axoloci_check(*options)
    assert done.returncode == 1
    assert "scan sub-0003: " in done.stdout
    assert "warning: 1 of 24 people" in done.stdout
    assert "0 problems of the study, 1 scans with problems, 1 warnings" in done.stdout
    remove("g.bim")(site)
    done = axoloci_check(*options)
    assert done.returncode == 1
    assert "problem: genotypes: " in done.stdout
    assert "Traceback" not in done.stderr


def test_plan__counts_only_the_people_of_keep(site: Site) -> None:
    site.traits()
    site.table("keep.tsv", ["IID", *LABELS[:7]])
    site.content["keep"] = "keep.tsv"
    assert plan_study(site.settings()).people == {"discovery": 7}


def test_check__names_faults_of_the_list_of_excluded_scans(site: Site) -> None:
    (site.root / "out").mkdir()
    rows = ["scan\texclude\treason\tby", "sub-0003\tyes\t\tuser", "sub-3\tyes\t\tuser"]
    path = site.table("out/exclude.tsv", rows)
    (problem,) = site.check(stage="participants").problems
    assert problem.startswith(f"{path}, line 3: no scan 'sub-3' in this study; did you mean 'sub-0")
    site.table("out/exclude.tsv", rows[:2])
    assert site.check(stage="participants").problems == []
