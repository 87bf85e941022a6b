"""What changes the identity of a large input, and what does not."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import pytest
from fileformats.generic import File
from fileformats.medimage import Bval, NiftiGz
from pydra.utils.hash import hash_function

from axoloci.formats import CohortStore, GenotypeData, LdScoreFolder, SumstatsStore


def test_plink_bed__any_of_its_files_changes_it(tmp_path: Path) -> None:
    for name in ("g.bed", "g.bim", "g.fam"):
        (tmp_path / name).write_text("x")
    bed = tmp_path / "g.bed"
    hashes = [hash_function(GenotypeData(bed)), hash_function(GenotypeData(bed))]
    for name in ("g.bed", "g.bim", "g.fam"):
        (tmp_path / name).write_text(f"changed {name}")
        hashes.append(hash_function(GenotypeData(bed)))
    assert hashes[0] == hashes[1]
    assert len(set(hashes[1:])) == 4


def test_genotypes__any_file_of_any_chromosome_changes_a_pattern(tmp_path: Path) -> None:
    names = [f"c{number}.{suffix}" for number in (1, 2) for suffix in ("bed", "bim", "fam")]
    for name in names:
        (tmp_path / name).write_text("x")
    pattern = GenotypeData(tmp_path / "c{chromosome}.bed")
    assert str(pattern) == str(tmp_path / "c{chromosome}.bed")
    assert sorted(path.name for path in pattern.files_read) == names
    hashes = [hash_function(pattern)]
    for name in names:
        (tmp_path / name).write_text(f"changed {name}")
        hashes.append(hash_function(GenotypeData(tmp_path / "c{chromosome}.bed")))
    for suffix in ("bed", "bim", "fam"):
        (tmp_path / f"cX.{suffix}").write_text("x")
    hashes.append(hash_function(GenotypeData(tmp_path / "c{chromosome}.bed")))
    assert len(set(hashes)) == len(names) + 2


def test_ld_score_folder__files_that_are_read_change_it_and_no_others(tmp_path: Path) -> None:
    """A link that leads nowhere, as of a file that was not fetched, is no fault of the folder."""
    away, folder = tmp_path / "away", tmp_path / "ld"
    away.mkdir()
    folder.mkdir()
    (away / "scores.gz").write_text("x")
    (folder / "1.l2.ldscore.gz").symlink_to(away / "scores.gz")
    (folder / "1.l2.M_5_50").write_text("5")
    before = hash_function(LdScoreFolder(folder))
    (folder / "1.l2.M").symlink_to("nowhere")
    (folder / "README").write_text("of LDSC")
    assert hash_function(LdScoreFolder(folder)) == before
    (away / "scores.gz").write_text("changed")
    changed = hash_function(LdScoreFolder(folder))
    (folder / "1.l2.M_5_50").write_text("50")
    assert len({before, changed, hash_function(LdScoreFolder(folder))}) == 3
    names = ["1.l2.M_5_50", "1.l2.ldscore.gz"]
    assert [path.name for path in LdScoreFolder(folder).files_read] == names


def test_stores__their_manifest_decides(tmp_path: Path) -> None:
    for store in (CohortStore, SumstatsStore):
        folder = tmp_path / store.__name__
        folder.mkdir()
        (folder / store.manifest).write_text("{}")
        before = hash_function(store(folder))
        (folder / "part").write_text("not yet in the manifest")
        assert hash_function(store(folder)) == before
        (folder / store.manifest).write_text('{"part": "sha256"}')
        assert hash_function(store(folder)) != before


@pytest.mark.parametrize(
    ("kind", "name"), [(File, "x.tsv"), (Bval, "x.bval"), (NiftiGz, "x.nii.gz")]
)
def test_files__one_that_takes_the_place_and_time_of_another_differs(
    kind: type[File], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYDRA_HASH_CACHE", str(tmp_path / "hashes"))
    path, other = tmp_path / name, tmp_path / f"other-{name}"
    pack = gzip.compress if kind is NiftiGz else bytes
    first, second = pack(b"1 2"), pack(b"3 4")
    for content, file in (first, path), (second, other):
        file.write_bytes(content)
        os.utime(file, (1, 1))
    before = hash_function(kind(path))
    remembered = set((tmp_path / "hashes").iterdir())
    assert hash_function(kind(path)) == before
    assert set((tmp_path / "hashes").iterdir()) == remembered  # its content is not read again
    shutil.copy2(other, path)
    assert path.stat().st_mtime == 1
    assert hash_function(kind(path)) != before
    path.write_bytes(first)
    assert hash_function(kind(path)) == before  # the content decides
