"""The command line of normalisation: what it writes, what the cohort store refuses."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from scipy import ndimage
from support import contents

from axoloci import registration
from axoloci.errors import InputError
from axoloci.io import packing
from axoloci.io.atlas import read_label_names
from axoloci.io.cohort import read_cohort
from axoloci.io.files import sha256
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.tasks.normalize import kernel
from axoloci.tasks.normalize.cli import main
from axoloci.tasks.normalize.inputs import TEMPLATE
from axoloci.tasks.simulate.anatomy import phantom

ANATOMY = phantom(10.0)
FA, AFFINE = ANATOMY.scan_fa, ANATOMY.scan_affine


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def register(folder: Path, *more: object) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    write_nifti(folder / "fa.nii.gz", FA, AFFINE)
    write_nifti(folder / "t.nii.gz", FA, AFFINE)
    inputs = ("--fa", folder / "fa.nii.gz", "--template", folder / "t.nii.gz")
    return call("register", *inputs, "--out", folder / "out", "--prefix", "sub-01", *more)


def test_register__files_and_figures(tmp_path: Path) -> None:
    done = register(tmp_path)
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    fa, affine = read_nifti(
        out / "sub-01_space-template_model-tensor_param-fa_dwimap.nii.gz", ndim=3
    )
    warp, _ = read_nifti(out / "sub-01_from-template_to-dwi_warp.nii.gz", ndim=4)
    assert np.allclose(affine, AFFINE)
    to_voxel = np.linalg.inv(AFFINE)
    voxel = np.moveaxis(warp @ to_voxel[:3, :3].T + to_voxel[:3, 3], -1, 0)
    by_hand = ndimage.map_coordinates(FA, voxel, order=1, mode="constant")
    assert np.allclose(fa, by_hand, atol=1e-3)
    matrix = np.loadtxt(out / "sub-01_from-template_to-dwi_xfm.txt")
    qc = json.loads((out / "sub-01_space-template_registration.json").read_text())
    assert qc["head_scale"] == pytest.approx(np.linalg.det(matrix[:3, :3]), abs=1e-4)
    assert set(qc["similarity"]) == {"header", "affine", "warp"}
    assert [source["Name"] for source in qc["Sources"]] == ["fa.nii.gz", "t.nii.gz"]
    assert qc["Sources"][1]["SHA256"] == sha256(tmp_path / "t.nii.gz")


def test_register__equal_bytes_in_another_folder(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b" / "c"]
    for folder in folders:
        assert register(folder, "--voxel-size", 10).exit_code == 0
    first, second = ({p.name: p.read_bytes() for p in (f / "out").iterdir()} for f in folders)
    assert len(first) == 4
    assert first == second


def test_register__a_map_unlike_the_template_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).random(FA.shape).astype(np.float32)
    write_nifti(tmp_path / "noise.nii.gz", noise, AFFINE)
    with caplog.at_level(logging.WARNING):
        done = register(tmp_path, "--fa", tmp_path / "noise.nii.gz")
    assert done.exit_code == 0, done.output
    assert "look at the map" in caplog.text


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (0 * FA, "no voxel above 0"),
        (1000 * FA, "FA lies between 0 and 1"),
        (2e-3 * FA, "too small for FA; is it MD in mm²/s?"),
    ],
)
def test_register__refuses_what_is_no_fa(
    tmp_path: Path, image: NDArray[np.float32], words: str
) -> None:
    write_nifti(tmp_path / "bad.nii.gz", image, AFFINE)
    done = register(tmp_path, "--fa", tmp_path / "bad.nii.gz")
    assert done.exit_code == 1
    assert words in done.output


def test_register__refuses_what_is_no_template(tmp_path: Path) -> None:
    write_nifti(tmp_path / "bad.nii.gz", 100 * FA, AFFINE)
    done = register(tmp_path, "--template", tmp_path / "bad.nii.gz")
    assert "an FA template is needed" in done.output


def write_maps(folder: Path, n: int = 4) -> list[list[str]]:
    """Maps of n people on the template's grid, and the rows of their table."""
    rng = np.random.default_rng(0)
    write_nifti(folder / "t.nii.gz", FA, AFFINE)
    rows = []
    for k in range(1, n + 1):
        image = (FA * rng.uniform(0.9, 1.1, FA.shape)).clip(0, 1).astype(np.float32)
        write_nifti(folder / f"{k}.nii.gz", image, AFFINE)
        rows.append([f"{k:04d}", f"{k}.nii.gz", sha256(folder / f"{k}.nii.gz")])
    return rows


def store(folder: Path, rows: list[list[str]], *more: object, digests: bool = True) -> Result:
    table = [["sample_id", "path", "sha256"], *rows]
    lines = ("\t".join(row if digests else row[:2]) for row in table)
    (folder / "maps.tsv").write_text("\n".join(lines) + "\n")
    files = ("--maps", folder / "maps.tsv", "--template", folder / "t.nii.gz")
    return call("store", *files, "--out", folder / "cohort.zarr", *more)


@pytest.mark.parametrize("digests", [True, False])
def test_store__holds_the_maps(tmp_path: Path, digests: bool) -> None:
    done = store(tmp_path, write_maps(tmp_path), digests=digests)
    assert done.exit_code == 0, done.output
    cohort = read_cohort(tmp_path / "cohort.zarr")
    assert list(cohort.sample_id) == ["0001", "0002", "0003", "0004"]
    image, _ = read_nifti(tmp_path / "3.nii.gz", ndim=3)
    assert np.array_equal(cohort.mask, FA > 0.05)
    assert np.allclose(cohort.rows(np.array([2]))[0], image[cohort.mask], atol=2.5e-4)


def test_store__scaled_bytes(tmp_path: Path) -> None:
    rows = write_maps(tmp_path)
    assert store(tmp_path, rows, "--dtype", "uint8").exit_code == 0
    cohort = read_cohort(tmp_path / "cohort.zarr")
    image, _ = read_nifti(tmp_path / "3.nii.gz", ndim=3)
    assert cohort.dtype == np.uint8
    assert np.allclose(cohort.rows([2])[0], image[cohort.mask], atol=0.002)


@pytest.mark.parametrize("digests", [True, False])
def test_store__goes_on_after_a_bad_map_and_reads_the_others_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digests: bool
) -> None:
    rows = write_maps(tmp_path)
    assert store(tmp_path, rows, digests=digests).exit_code == 0
    whole = contents(tmp_path / "cohort.zarr")
    shutil.rmtree(tmp_path / "cohort.zarr")
    assert len(list(tmp_path.glob(".*"))) == 0
    monkeypatch.setattr(packing, "SHARD_BYTES", 1)  # a person a shard
    read: list[str] = []

    def failing(path: Path) -> str:
        read.append(path.name)
        if path.name == "4.nii.gz" and len(read) < 6:
            raise InputError("4.nii.gz: cannot be read")
        return sha256(path)

    monkeypatch.setattr("axoloci.tasks.normalize.cli.sha256", failing)
    done = store(tmp_path, rows, digests=digests)
    assert (done.exit_code, "4.nii.gz: cannot be read" in done.output) == (1, True)
    read[:] = [""] * 6
    monkeypatch.setattr(
        "axoloci.tasks.normalize.cli._group_mask", lambda *_: pytest.fail("the mask was found")
    )
    assert store(tmp_path, rows, digests=digests).exit_code == 0
    assert read[6:] == ["t.nii.gz", "4.nii.gz"]
    assert len(list(tmp_path.glob(".*"))) == 0
    again = contents(tmp_path / "cohort.zarr")
    assert again["mask/c/0/0/0"] == whole["mask/c/0/0/0"]


def test_check_store__names_the_damaged_and_exits_3(tmp_path: Path) -> None:
    assert store(tmp_path, write_maps(tmp_path)).exit_code == 0
    cohort = tmp_path / "cohort.zarr"
    done = call("check-store", "--cohort", cohort)
    assert (done.exit_code, done.stdout) == (0, "")
    shard = cohort / "fa" / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    index = np.frombuffer(data[-(4 * 16 + 4) : -4], dtype="<u8").reshape(4, 2)  # offset, length
    data[int(index[1, 0]) + 40] ^= 1
    shard.write_bytes(data)
    done = call("check-store", "--cohort", cohort)
    assert (done.exit_code, done.stdout) == (3, "0002\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: np.where(FA > 0.3, np.nan, image), "values are NaN or infinite"),
        (lambda image: image[:-1], "but .*1.nii.gz has"),
    ],
)
def test_store__names_a_map_that_is_not_finite_or_of_another_grid(
    tmp_path: Path, change: Callable[[NDArray[np.float32]], NDArray[np.float32]], words: str
) -> None:
    rows = write_maps(tmp_path)
    write_nifti(tmp_path / "3.nii.gz", change(FA).astype(np.float32), AFFINE)
    done = store(tmp_path, rows, digests=False)
    assert done.exit_code == 1
    assert re.search(f"3.nii.gz: .*{words}", done.output.replace("\n", " "))


def test_store__names_somebody_who_occurs_twice(tmp_path: Path) -> None:
    rows = write_maps(tmp_path)
    done = store(tmp_path, [*rows, rows[1]])
    assert "line 6: sample_id 0002 occurs twice; keep one map a person" in done.output


def test_store__a_given_mask(tmp_path: Path) -> None:
    mask = np.zeros(FA.shape, np.uint8)
    mask[8, 10, 8] = 1
    write_nifti(tmp_path / "m.nii.gz", mask, AFFINE)
    assert store(tmp_path, write_maps(tmp_path), "--mask", tmp_path / "m.nii.gz").exit_code == 0
    assert read_cohort(tmp_path / "cohort.zarr").n_voxels == 1
    write_nifti(tmp_path / "m.nii.gz", 0 * mask, AFFINE)
    done = store(tmp_path, write_maps(tmp_path), "--mask", tmp_path / "m.nii.gz")
    assert "no voxel is left in the mask" in done.output


def test_store__needs_numbers_inside_the_mask_only(tmp_path: Path) -> None:
    rows, mask = write_maps(tmp_path), (FA > 0.3).astype(np.uint8)
    write_nifti(tmp_path / "m.nii.gz", mask, AFFINE)
    around = np.where(mask, FA, np.nan).astype(np.float32)  # as other programs write maps
    write_nifti(tmp_path / "1.nii.gz", around, AFFINE)
    done = store(tmp_path, rows, "--mask", tmp_path / "m.nii.gz", digests=False)
    assert done.exit_code == 0, done.output
    stored = read_cohort(tmp_path / "cohort.zarr").rows([0])[0]
    np.testing.assert_allclose(stored, FA[mask > 0], atol=2.5e-4)
    around[np.unravel_index(mask.argmax(), mask.shape)] = np.nan
    write_nifti(tmp_path / "1.nii.gz", around, AFFINE)
    done = store(tmp_path, rows, "--mask", tmp_path / "m.nii.gz", digests=False)
    assert "1.nii.gz: 1 values are NaN or infinite" in done.output.replace("\n", " ")


def test_store__tells_who_is_no_longer_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = write_maps(tmp_path)
    assert store(tmp_path, rows).exit_code == 0
    assert "will not be in the new one" not in caplog.text
    assert store(tmp_path, rows[2:], "--like", tmp_path / "cohort.zarr").exit_code == 0
    assert "2 people of the store that is there are not in" in caplog.text
    assert "will not be in the new one: 0001, 0002" in caplog.text


def test_store__the_voxels_of_another_store(tmp_path: Path) -> None:
    mask = np.zeros(FA.shape, np.uint8)
    mask[8, 10, 7:9] = 1
    write_nifti(tmp_path / "m.nii.gz", mask, AFFINE)
    first = tmp_path / "first"
    first.mkdir()
    assert store(first, write_maps(first), "--mask", tmp_path / "m.nii.gz").exit_code == 0
    like = ("--like", first / "cohort.zarr")
    assert store(tmp_path, write_maps(tmp_path), *like).exit_code == 0
    assert np.array_equal(read_cohort(tmp_path / "cohort.zarr").mask, mask > 0)
    done = store(tmp_path, write_maps(tmp_path), *like, "--mask", tmp_path / "m.nii.gz")
    assert "--mask and --like" in done.output


def test_store__a_map_with_holes_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = write_maps(tmp_path)
    write_nifti(tmp_path / "m.nii.gz", (FA > 0.05).astype(np.uint8), AFFINE)
    holes = FA.copy()
    holes[: FA.shape[0] // 2] = 0
    write_nifti(tmp_path / "2.nii.gz", holes, AFFINE)
    with caplog.at_level(logging.WARNING):
        done = store(tmp_path, rows, "--mask", tmp_path / "m.nii.gz", digests=False)
    assert done.exit_code == 0, done.output
    told = [record.getMessage() for record in caplog.records]
    share = 100 * np.count_nonzero(holes[FA > 0.05]) / int((FA > 0.05).sum())
    assert told == [f"{tmp_path}/2.nii.gz: the map covers {share:.0f}% of the mask"]
    for dtype in ("float16", "uint8", "uint8"):  # taken over, packed anew, taken over
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            again = ("--mask", tmp_path / "m.nii.gz", "--dtype", dtype)
            assert store(tmp_path, rows, *again, digests=False).exit_code == 0
        assert [record.getMessage() for record in caplog.records] == told


def test_store__who_costs_the_others_half_of_the_mask_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = write_maps(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert store(tmp_path, rows).exit_code == 0
    assert caplog.text == ""
    whole = int((FA > 0.05).sum())
    half = FA.copy()
    half[: FA.shape[0] // 2] = 0
    left = int((half > 0.05).sum())
    write_nifti(tmp_path / "2.nii.gz", half, AFFINE)
    with caplog.at_level(logging.WARNING):
        assert store(tmp_path, rows, digests=False).exit_code == 0
    assert f"2.nii.gz: the map of 0002 covers {100 * left / whole:.0f}% of the" in caplog.text
    lost = f"the common mask has {left} voxels, and {whole - left} fewer than without 0002;"
    assert lost in caplog.text


def test_store__refuses_a_map_that_changed(tmp_path: Path) -> None:
    rows = write_maps(tmp_path)
    write_nifti(tmp_path / "3.nii.gz", FA, AFFINE)
    done = store(tmp_path, rows)
    assert done.exit_code == 1
    assert "the map of 0003 changed since it was made" in done.output
    assert not (tmp_path / "cohort.zarr").exists()


@pytest.mark.parametrize("digests", [True, False])
def test_store__called_again_for_more_people_reads_only_the_new_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digests: bool
) -> None:
    rows = write_maps(tmp_path, 5)
    cohort = tmp_path / "cohort.zarr"
    assert store(tmp_path, rows[1:], digests=digests).exit_code == 0
    more, read = [*rows[:2], *rows[3:]], []  # 0001 is new, 0003 is gone

    def reads(path: Path, *grid: object) -> NDArray[np.float32]:
        read.append(path.name)
        return read_nifti(path, ndim=3)[0]

    monkeypatch.setattr("axoloci.tasks.normalize.cli.same_grid", reads)
    done = store(tmp_path, more, "--like", cohort, digests=digests)
    assert done.exit_code == 0, done.output
    assert read == ["1.nii.gz"]
    appended = contents(cohort)
    (tmp_path / "like.zarr").mkdir()
    cohort.rename(tmp_path / "like.zarr" / "c")
    like = ("--like", tmp_path / "like.zarr" / "c")
    assert store(tmp_path, more, *like, digests=digests).exit_code == 0
    assert contents(cohort) == appended
    assert sorted(read[1:]) == ["1.nii.gz", "2.nii.gz", "4.nii.gz", "5.nii.gz"]


def test_store__another_common_mask_than_that_of_the_store_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows, cohort = write_maps(tmp_path, 5), tmp_path / "cohort.zarr"
    half = FA.copy()
    half[: FA.shape[0] // 2] = 0  # one of five people lacks it, so the mask does
    write_nifti(tmp_path / "5.nii.gz", half, AFFINE)
    assert store(tmp_path, rows[:4], digests=False).exit_code == 0
    told = f"so all maps are packed anew; --like {cohort} keeps its voxels and takes its maps over"
    for more, expected in (((), True), ((), False), (("--like", cohort), False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert store(tmp_path, rows, *more, digests=False).exit_code == 0
        assert (told in caplog.text) == expected


def test_store__finds_the_store_that_a_killed_packing_renamed(tmp_path: Path) -> None:
    rows, cohort = write_maps(tmp_path), tmp_path / "cohort.zarr"
    assert store(tmp_path, rows[1:]).exit_code == 0
    cohort.rename(tmp_path / ".cohort.zarr.old")
    done = call("check-store", "--cohort", cohort)
    assert (done.exit_code, "mv " in done.output) == (1, True)
    assert store(tmp_path, rows, "--like", cohort).exit_code == 0  # the same command goes on
    assert read_cohort(cohort).n_samples == 4
    assert not list(tmp_path.glob(".*"))


def test_store__a_map_that_changed_is_refused_although_the_older_store_has_it(
    tmp_path: Path,
) -> None:
    rows = write_maps(tmp_path)
    assert store(tmp_path, rows).exit_code == 0
    older = contents(tmp_path / "cohort.zarr")
    write_nifti(tmp_path / "3.nii.gz", (FA / 2).astype(np.float32), AFFINE)
    done = store(tmp_path, rows, "--like", tmp_path / "cohort.zarr")
    assert (done.exit_code, "the map of 0003 changed" in done.output) == (1, True)
    assert contents(tmp_path / "cohort.zarr") == older


def test_store__refuses_another_grid(tmp_path: Path) -> None:
    rows = write_maps(tmp_path)
    moved = AFFINE.copy()
    moved[1, 3] += 1
    write_nifti(tmp_path / "2.nii.gz", FA, moved)
    assert "2.nii.gz: its affine puts voxels up to 1 mm" in store(tmp_path, rows).output
    write_nifti(tmp_path / "2.nii.gz", FA[1:], AFFINE)
    assert "2.nii.gz: grid (15, 20, 16)" in store(tmp_path, rows).output


def test_store__names_every_fault_of_the_table(tmp_path: Path) -> None:
    rows = write_maps(tmp_path)
    rows += [["0001", "1.nii.gz", ""], ["0009", "9.nii.gz", ""], ["", "1.nii.gz", ""]]
    done = store(tmp_path, rows)
    assert done.exit_code == 1
    for words in (
        "line 6: sample_id 0001 occurs twice",
        "line 7: 9.nii.gz of 0009 is not there",
        "line 8: sample_id or path is empty",
    ):
        assert words in done.output
    assert "no maps" in store(tmp_path, []).output
    (tmp_path / "maps.tsv").write_text("person\tfile\n1\t2\n")
    done = call("store", "--maps", tmp_path / "maps.tsv", "--out", tmp_path / "cohort.zarr")
    assert "needs the columns sample_id and path" in done.output


def sheet(shift: float = 0.0) -> NDArray[np.float32]:
    """FA of a curved sheet, 2 mm voxels: highest in its middle, at x = 10 + y / 8 + shift."""
    x, y, z = np.indices((24, 20, 14), dtype=np.float32)
    inside = (y > 1) & (y < 18) & (z > 1) & (z < 12)
    height = 0.45 + 0.3 * np.sin(z / 5)
    profile = np.exp(-0.5 * ((x - 10 - y / 8 - shift) / 2.0) ** 2)
    return np.where(inside, 0.02 + height * profile, 0.02).astype(np.float32)


def test_skeleton__a_person_off_the_middle_is_found(tmp_path: Path) -> None:
    affine = np.diag([-2.0, 2, 2, 1])
    write_nifti(tmp_path / "mean.nii.gz", sheet(), affine)
    rows = ["sample_id\tpath"]
    for name, shift in (("here", 0.0), ("off", 2.0)):
        write_nifti(tmp_path / f"{name}.nii.gz", sheet(shift), affine)
        rows.append(f"{name}\t{name}.nii.gz")
    (tmp_path / "maps.tsv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    files = ("--maps", tmp_path / "maps.tsv", "--out", out)
    done = call("skeleton", *files, "--mean", tmp_path / "mean.nii.gz")
    assert done.exit_code == 0, done.output
    skeleton = read_nifti(out / "skeleton.nii.gz", ndim=3)[0] > 0
    x, y, _ = np.nonzero(skeleton)
    assert np.abs(x - 10 - y / 8).max() <= 1  # the middle of the sheet
    inner = (slice(None), slice(3, 16), slice(3, 10))
    assert (skeleton[inner].any(axis=0)).all()  # without holes
    assert skeleton[inner].sum(axis=0).mean() < 1.3  # and thin
    here, off = (read_nifti(out / f"{n}_skeleton.nii.gz", ndim=3)[0] for n in ("here", "off"))
    as_it_is = np.where(skeleton, sheet(2.0), 0)[inner]
    wanted = here[inner][skeleton[inner]]
    assert np.median(np.abs(off[inner][skeleton[inner]] - wanted)) < 0.02
    assert np.median(np.abs(as_it_is[skeleton[inner]] - wanted)) > 0.1
    assert (off[~skeleton] == 0).all()
    packed = ("--maps", out / "maps.tsv", "--mask", out / "skeleton.nii.gz")
    assert call("store", *packed, "--out", tmp_path / "c.zarr").exit_code == 0
    assert np.array_equal(read_cohort(tmp_path / "c.zarr").mask, skeleton)
    done = call("skeleton", *files, "--threshold", 0.95)
    assert "lower --threshold" in done.output


def test_skeleton__refuses_another_grid(tmp_path: Path) -> None:
    write_maps(tmp_path)
    write_nifti(tmp_path / "2.nii.gz", FA[1:], AFFINE)
    (tmp_path / "maps.tsv").write_text("sample_id\tpath\na\t1.nii.gz\nb\t2.nii.gz\n")
    done = call("skeleton", "--maps", tmp_path / "maps.tsv", "--out", tmp_path / "out")
    assert "2.nii.gz: grid (15, 20, 16)" in done.output


ATLAS = np.zeros(FA.shape, np.uint8)
ATLAS[4:8, 6:14, 6:10], ATLAS[9:13, 6:14, 6:10], ATLAS[8, 3:5, 8] = 1, 2, 7


def tracts(folder: Path, atlas: NDArray[np.uint8] = ATLAS, *more: object) -> Result:
    write_maps(folder)
    (folder / "maps.tsv").write_text("sample_id\tpath\n1\t1.nii.gz\n2\t2.nii.gz\n")
    write_nifti(folder / "atlas.nii.gz", atlas, AFFINE)
    files = ("--maps", folder / "maps.tsv", "--atlas", folder / "atlas.nii.gz")
    return call("tracts", *files, "--out", folder / "tracts.tsv", *more)


def table(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_tracts__means_of_the_labels(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("0\tUnclassified\n1\tBundle one\n2\tBundle (two)\n")
    done = tracts(tmp_path, ATLAS, "--names", tmp_path / "names.txt")
    assert done.exit_code == 0, done.output
    header, first, _ = table(tmp_path / "tracts.tsv")
    assert header == ["sample_id", "Bundle_one", "Bundle_two", "label_7"]
    image, _ = read_nifti(tmp_path / "1.nii.gz", ndim=3)
    means = [image[(label == ATLAS) & (image > 0)].mean() for label in (1, 2, 7)]
    assert np.allclose([float(x) for x in first[1:]], means, atol=1e-4)
    about = json.loads((tmp_path / "tracts.json").read_text())
    assert about["labels"][0] == {"label": 1, "name": "Bundle_one", "n_voxels": 128}


def test_tracts__weighted(tmp_path: Path) -> None:
    weight = np.zeros(FA.shape, np.float32)
    weight[5, 7, 7], weight[5, 8, 7] = 1, 3
    write_nifti(tmp_path / "w.nii.gz", weight, AFFINE)
    done = tracts(tmp_path, ATLAS, "--weight", tmp_path / "w.nii.gz")
    assert done.exit_code == 0, done.output
    _, first, _ = table(tmp_path / "tracts.tsv")
    image, _ = read_nifti(tmp_path / "1.nii.gz", ndim=3)
    assert float(first[1]) == pytest.approx((image[5, 7, 7] + 3 * image[5, 8, 7]) / 4, abs=1e-4)
    assert first[2:] == ["n/a", "n/a"]


def test_tracts__an_atlas_of_mirrored_voxels_and_its_warp(tmp_path: Path) -> None:
    """The same places by another order of voxels; and a space that is 20 mm away."""
    assert tracts(tmp_path).exit_code == 0
    wanted = table(tmp_path / "tracts.tsv")
    mirrored = AFFINE @ np.array([[-1.0, 0, 0, 15], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    moved = registration.about(np.eye(3), np.array([0.0, 20, 0]), np.zeros(3)) @ mirrored
    warp = kernel.world_grid(FA.shape, AFFINE) + np.array([0.0, 20, 0])
    write_nifti(tmp_path / "warp.nii.gz", warp.astype(np.float32), AFFINE)
    out = tmp_path / "other.tsv"
    for affine, more in ((mirrored, ()), (moved, ("--warp", tmp_path / "warp.nii.gz"))):
        write_nifti(tmp_path / "other.nii.gz", ATLAS[::-1].copy(), affine)
        files = ("--maps", tmp_path / "maps.tsv", "--atlas", tmp_path / "other.nii.gz")
        done = call("tracts", *files, *more, "--out", out)
        assert done.exit_code == 0, done.output
        assert table(out) == wanted


def test_tracts__an_atlas_of_another_space_is_refused(tmp_path: Path) -> None:
    away = np.zeros_like(ATLAS)
    away[0:2, 0:2] = 1
    done = tracts(tmp_path, away)
    assert done.exit_code == 1
    assert "it is of another space" in done.output
    assert not (tmp_path / "tracts.tsv").exists()
    done = tracts(tmp_path, (100 * FA).astype(np.float32) + np.float32(0.3))
    assert "an atlas has a whole number" in done.output


def test_tracts__swapped_sides_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for names, told in (("1 A_R\n2 A_L\n", False), ("1 A_L\n2 A_R\n", True)):
        (tmp_path / "names.txt").write_text(names)
        caplog.clear()
        assert tracts(tmp_path, ATLAS, "--names", tmp_path / "names.txt").exit_code == 0
        assert ("is the atlas swapped" in caplog.text) is told


@pytest.mark.parametrize(
    "text",
    [
        "1\tGenu of CC\n2\tFornix\n",
        "index\tname\tcolour\n1\tGenu of CC\tred\n2\tFornix\tblue\n",
        "# no name r g b a\n1  Genu-of-CC  255 0 0 0\n2  Fornix  0 255 0 0\n",
        '1 255 0 0 1 1 1 "Genu of CC"\n2 0 255 0 1 1 1 "Fornix"\n',
        "1,Genu of CC\n2,Fornix\n",
        '<atlas><data><label index="1" x="9">Genu of CC</label>'
        '<label index="2">Fornix</label></data></atlas>',
    ],
)
def test_read_label_names__of_what_atlases_come_with(tmp_path: Path, text: str) -> None:
    (tmp_path / "names").write_text(text)
    assert read_label_names(tmp_path / "names") == {1: "Genu_of_CC", 2: "Fornix"}


@pytest.mark.parametrize(
    ("text", "words"),
    [("Genu\nFornix\n", "no lines of a number"), ("1 A\n2 A\n", "called A"), ("<a>", "as XML")],
)
def test_read_label_names__refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "names").write_text(text)
    with pytest.raises(InputError, match=words):
        read_label_names(tmp_path / "names")


def test_register__figures_of_the_warp(tmp_path: Path) -> None:
    assert register(tmp_path, "--jacobian").exit_code == 0
    out = tmp_path / "out"
    qc = json.loads((out / "sub-01_space-template_registration.json").read_text())
    assert qc["dice"]["white_matter"] > 0.95
    assert qc["share_in_view"] == 1
    assert qc["dice"]["brain"] > 0.8  # fluid is none of the template's brain
    assert qc["jacobian"]["folded"] == 0
    assert qc["jacobian"]["p50"] == pytest.approx(1, abs=0.02)
    jacobian, _ = read_nifti(out / "sub-01_from-template_to-dwi_jacobian.nii.gz", ndim=3)
    assert jacobian[FA > 0.05].min() == pytest.approx(qc["jacobian"]["min"], abs=1e-4)


def test_tracts__the_jhu_atlas_on_the_shipped_template(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The atlas of mricron: another order of voxels, and left and right are swapped."""
    jhu = data_dir / "templates" / "mricron-jhu-natbrainlab" / "JHU-WhiteMatter-labels-2mm.nii"
    (tmp_path / "maps.tsv").write_text(f"sample_id\tpath\ntemplate\t{TEMPLATE}\n")
    files = ("--maps", tmp_path / "maps.tsv", "--out", tmp_path / "tracts.tsv")
    with caplog.at_level(logging.INFO):
        done = call("tracts", *files, "--atlas", f"{jhu}.gz", "--names", f"{jhu}.txt")
    assert done.exit_code == 0, done.output
    header, row = table(tmp_path / "tracts.tsv")
    assert len(header) == 1 + 48
    means = dict(zip(header[1:], map(float, row[1:]), strict=True))
    assert means["Splenium_of_corpus_callosum"] > 0.5 > 0.35 > means["Uncinate_fasciculus_R"]
    assert "takes the label of the nearest one" in caplog.text
    assert "42 of 42 labels that are named left or right lie on the other side" in caplog.text
