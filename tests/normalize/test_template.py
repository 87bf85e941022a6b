"""The cohort's template: in the middle of its people, sharper than by affines, and resumable."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from scipy import linalg

from axoloci import registration
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.tasks.normalize import build, kernel, template
from axoloci.tasks.normalize.cli import main
from axoloci.tasks.simulate import scan
from axoloci.tasks.simulate.anatomy import phantom

ANATOMY = phantom(8.0)
N_PEOPLE = 6


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write_people(folder: Path) -> Path:
    """Maps of people of known shape, and their table."""
    rows = ["sample_id\tpath"]
    for k in range(N_PEOPLE):
        head = scan.random_head(ANATOMY, np.random.default_rng([3, k]), deformation_mm=3.0)
        fa = scan.true_fa(ANATOMY, ANATOMY.fields, head)
        write_nifti(folder / f"{k}.nii.gz", fa, ANATOMY.scan_affine)
        rows.append(f"P{k}\t{k}.nii.gz")
    write_nifti(folder / "anchor.nii.gz", ANATOMY.scan_fa, ANATOMY.scan_affine)
    (folder / "maps.tsv").write_text("\n".join(rows) + "\n")
    return folder / "maps.tsv"


def command(folder: Path, *more: object) -> list[str]:
    maps, anchor = folder / "maps.tsv", folder / "anchor.nii.gz"
    given = ("--maps", maps, "--anchor", anchor, "--out", folder / "t.nii.gz", *more)
    return ["build-template", *map(str, given)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    write_people(folder)
    done = call(*command(folder, "--rounds", 3))
    assert done.exit_code == 0, done.output
    return folder


def test_build_template__is_sharper_than_affines_alone(built: Path) -> None:
    about = json.loads((built / "t.json").read_text())
    affine, *rounds = about["stages"]
    assert [stage["stage"] for stage in rounds] == ["round 1", "round 2", "round 3"]
    assert rounds[-1]["sharpness"] > 1.02 * affine["sharpness"]
    assert rounds[-1]["similarity"] > affine["similarity"]
    assert set(about["similarity"]) == {f"P{k}" for k in range(N_PEOPLE)}
    assert about["left_out"] == {}
    with Image.open(built / "t.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
    assert not (built / "t_work").exists()


def test_mosaic__has_a_row_an_image_and_left_is_left() -> None:
    fa = np.zeros((9, 11, 7), dtype=np.float32)  # left, anterior, superior axes
    fa[2:7, 3:8, 2:5] = 0.5
    marked = fa.copy()
    marked[2, 7, 3] = 1  # at the right, in front, half-way up: in the axial section
    picture = np.asarray(build.mosaic([fa, marked], np.diag([-2.0, 2, 2, 1])))
    assert picture.shape == (2 * 11, 9 + 9 + 11)
    assert picture[:11].max() == 127
    ((row, column),) = np.argwhere(picture == 255)
    assert (row, column) == (11 + 10 - 7, 8 - 2)


def test_build_template__lies_in_the_middle_of_its_people(built: Path) -> None:
    """Registered anew, the displacements of all people cancel, and so do their stretches."""
    fa, affine = read_nifti(built / "t.nii.gz", ndim=3)
    brain = fa > 0.2
    total, logs = np.zeros((*fa.shape, 3)), []
    for k in range(N_PEOPLE):
        found = kernel.register(*read_nifti(built / f"{k}.nii.gz", ndim=3), fa, affine)
        back = np.linalg.inv(found.affine)
        total += found.warp @ back[:3, :3].T + back[:3, 3] - kernel.world_grid(fa.shape, affine)
        logs.append(linalg.logm(linalg.polar(found.affine[:3, :3])[1]).real)
    mean = np.linalg.norm(total / N_PEOPLE, axis=-1)[brain]
    assert np.median(mean) < 0.05 * 8  # of a voxel
    assert np.linalg.norm(np.mean(logs, axis=0)) < 0.02


def test_build_template__the_way_to_the_anchor(built: Path) -> None:
    fa, _ = read_nifti(built / "t.nii.gz", ndim=3)
    warp, _ = read_nifti(built / "t_from-template_to-anchor_warp.nii.gz", ndim=4)
    led = kernel.sample(ANATOMY.scan_fa, ANATOMY.scan_affine, warp)
    assert kernel.similarity_to(fa, led) > kernel.similarity_to(fa, ANATOMY.scan_fa)


def test_build_template__a_killed_run_goes_on(
    tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_people(tmp_path)
    program = str(Path(sys.executable).parent / "axoloci-normalize")
    run = subprocess.Popen([program, *command(tmp_path, "--rounds", 3)], stderr=subprocess.PIPE)
    half_done = tmp_path / "t_work" / "round-2-warps"
    while len(list(half_done.glob("0*.npy"))) < 2:
        assert run.poll() is None, run.communicate()
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert not (tmp_path / "t.nii.gz").exists()

    def not_again(*_: object) -> None:
        raise ValueError("was done before")

    monkeypatch.setattr(build, "_align", not_again)
    done = call(*command(tmp_path, "--rounds", 3))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "t.nii.gz").read_bytes() == (built / "t.nii.gz").read_bytes()


def test_build_template__work_of_other_maps_is_refused(tmp_path: Path) -> None:
    write_people(tmp_path)
    (tmp_path / "t_work").mkdir()
    (tmp_path / "t_work" / "settings.json").write_text("{}")
    done = call(*command(tmp_path))
    assert done.exit_code == 1
    assert "holds the unfinished template of other maps or settings" in done.output


def test_build_template__bad_maps_are_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = write_people(tmp_path)
    shape = ANATOMY.shape
    noise = np.random.default_rng(0).random(shape).astype(np.float32)
    for name, image in (("noise", noise), ("zero", 0 * noise), ("md", 1000 * noise)):
        write_nifti(tmp_path / f"{name}.nii.gz", image, ANATOMY.scan_affine)
        with table.open("a") as file:
            file.write(f"{name}\t{name}.nii.gz\n")
    done = call(*command(tmp_path, "--rounds", 1))
    assert done.exit_code == 0, done.output
    left_out = json.loads((tmp_path / "t.json").read_text())["left_out"]
    assert "correlation with the template is only" in left_out["noise"]
    assert "no voxel above 0" in left_out["zero"]
    assert "FA lies between 0 and 1" in left_out["md"]
    assert "zero is left out" in caplog.text


def test_build_template__refuses_too_few_maps(tmp_path: Path) -> None:
    table = write_people(tmp_path)
    table.write_text("\n".join(table.read_text().splitlines()[:3]) + "\n")
    done = call(*command(tmp_path))
    assert "a template needs 3 maps or more, 2 can be used" in done.output


def test_build_template__maps_of_a_folder_by_chance(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_people(tmp_path)
    for k in range(N_PEOPLE):
        folder = tmp_path / "study" / f"sub-{k}" / "dwi"
        folder.mkdir(parents=True)
        for space in ("", "_space-template"):
            made = folder / f"sub-{k}{space}_model-tensor_param-fa_dwimap.nii.gz"
            made.write_bytes((tmp_path / f"{k}.nii.gz").read_bytes())
    more = ("--maps", tmp_path / "study", "--n-maps", 4, "--rounds", 1, "--n-procs", 2)
    assert call(*command(tmp_path, *more)).exit_code == 0
    people = json.loads((tmp_path / "t.json").read_text())["similarity"]
    assert len(people) == 4
    assert "4 of 6 maps are used" in caplog.text
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "name a table" in call(*command(tmp_path, "--maps", empty)).output


def smooth_field(shape: tuple[int, int, int], mm: float) -> NDArray[np.float32]:
    x, y, z = np.indices(shape) / np.array(shape)[:, None, None, None] * np.pi
    waves = [np.sin(x) * np.sin(y) * np.sin(z) * s for s in (1.0, -0.7, 0.4)]
    return (mm * np.stack(waves, axis=-1)).astype(np.float32)


def test_inverse__leads_back() -> None:
    affine = np.diag([-2.0, 2, 3, 1])
    field = smooth_field((24, 20, 16), 4.0)
    back = template.inverse(field, affine)
    assert np.abs(back + template.displaced(field, back, affine)).max() < 0.01


def test_from_mean_shape__displacements_cancel() -> None:
    affine = np.diag([2.0, 2, 2, 1])
    base = smooth_field((24, 20, 16), 3.0)
    fields = [base * (1 + k) for k in (-0.5, 0.0, 0.8)]
    to_old = template.inverse(np.mean(fields, axis=0), affine)
    new = [template.from_mean_shape(field, to_old, affine) for field in fields]
    assert np.abs(np.mean(new, axis=0)).max() < 0.01
    assert np.abs(new[0]).max() > 1


def test_without_mean_stretch__size_is_the_peoples() -> None:
    centre = np.array([5.0, -3.0, 2.0])
    turns = [registration.rotation_matrix(np.array(v)) for v in ((0.3, 0, 0), (0, 3.0, 0))]
    sizes = (0.8, 0.9)  # the first also half turned: how a head lies is no shape
    affines = [
        registration.about(turn * size, np.array([1.0, 2, 3]), centre)
        for turn, size in zip(turns, sizes, strict=True)
    ]
    made = template.without_mean_stretch(affines, centre)
    logs = [linalg.logm(linalg.polar(affine[:3, :3])[1]).real for affine in made]
    assert np.allclose(np.mean(logs, axis=0), 0, atol=1e-9)
    assert np.allclose(
        [a[:3] @ [*centre, 1] for a in made], [a[:3] @ [*centre, 1] for a in affines]
    )
    assert np.linalg.det(made[0]) == pytest.approx((0.8 / np.sqrt(0.72)) ** 3)


def test_average__one_persons_damage_is_left_out() -> None:
    maps = [np.full((2, 2, 2), 0.5, np.float32) for _ in range(10)]
    maps[3] = maps[3] * 1.9
    maps[5] = maps[5] * 0.1
    for image in maps[:6]:
        image[1] = 0
    mean, coverage = template.average(maps)
    assert np.allclose(mean[0], 0.5)
    assert np.allclose(coverage[0], 1)
    assert np.allclose(coverage[1], 0.4)
    assert (mean[1] == 0).all()


def test_sharpness__of_a_ramp() -> None:
    ramp = np.broadcast_to(np.arange(10, dtype=np.float32)[:, None, None], (10, 4, 4))
    everywhere = np.ones(ramp.shape, dtype=bool)
    assert template.sharpness(ramp, np.diag([-2.0, 1, 1, 1]), everywhere) == pytest.approx(0.25)
