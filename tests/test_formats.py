"""What changes the identity of a large input, and what does not."""

from __future__ import annotations

from pathlib import Path

from pydra.utils.hash import hash_function

from axoloci.formats import CohortStore, PlinkBed, SumstatsStore


def test_plink_bed__any_of_its_files_changes_it(tmp_path: Path) -> None:
    for name in ("g.bed", "g.bim", "g.fam"):
        (tmp_path / name).write_text("x")
    bed = tmp_path / "g.bed"
    hashes = [hash_function(PlinkBed(bed)), hash_function(PlinkBed(bed))]
    for name in ("g.bed", "g.bim", "g.fam"):
        (tmp_path / name).write_text(f"changed {name}")
        hashes.append(hash_function(PlinkBed(bed)))
    assert hashes[0] == hashes[1]
    assert len(set(hashes[1:])) == 4


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
