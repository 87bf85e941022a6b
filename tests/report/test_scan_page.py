"""`axoloci-report scan` on the derivatives of a made-up scan."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from scipy import ndimage

from axoloci.io.nifti import write_nifti
from axoloci.quality import LIMITS
from axoloci.tasks.report import charts, scan_figures
from axoloci.tasks.report.charts import Volumes
from axoloci.tasks.report.cli import main
from axoloci.tasks.report.document import RULE
from axoloci.tasks.report.pictures import WIDTH, Slice, picture_grid
from axoloci.tasks.report.scan_page import Scan, _smooth

PREFIX = "sub-07_ses-2"
SHAPE, AFFINE = (16, 18, 14), np.diag([-8.0, 8, 8, 1])
N, DROPPED = 20, 13  # volumes, and the one that lost most of its slices
BVAL = np.where(np.arange(N) % 10 == 0, 0.0, 1000.0)
TEMPLATE = "MNI <2 mm>.nii.gz"


def ball() -> np.ndarray[Any, Any]:
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, k) for k in SHAPE), indexing="ij"))
    return np.asarray((grid**2).sum(axis=0) < 0.7)


def write_scan(folder: Path, *, full: bool = True, **figures: Any) -> Path:
    """What the steps leave of a scan; not `full`, what they left at first."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    brain, stem = ball(), folder / PREFIX
    tensor = f"{stem}_model-tensor_param"
    fa = np.where(brain, rng.uniform(0.1, 0.5, SHAPE), 0).astype(np.float32)
    maps: dict[str, Any] = {"fa": fa, "md": 8e-4 * brain.astype(np.float32)}
    if full:
        maps |= {
            "bzero": 900.0 * brain,
            "residual": 0.02 * brain,
            "decfa": fa[..., None] * [1, 0, 0],
        }
    for name, volume in maps.items():
        write_nifti(f"{tensor}-{name}_dwimap.nii.gz", np.asarray(volume, np.float32), AFFINE)
    write_nifti(f"{stem}_desc-brain_mask.nii.gz", brain.astype(np.uint8), AFFINE)
    write_nifti(f"{stem}_space-template_model-tensor_param-fa_dwimap.nii.gz", fa, AFFINE)
    np.savetxt(f"{stem}_desc-preproc_dwi.bval", BVAL[None], fmt="%g")
    about: dict[str, Any] = {
        "Description": "Corrected volumes",
        "Settings": {"already_preprocessed": False},
        "n_volumes": N,
        "shells": [{"bval": 0.0, "n_volumes": 2}, {"bval": 1000.0, "n_volumes": 18}],
        "mask_ml": 1400.0,
        "mean_framewise_displacement": 0.5,
    }
    motion = pd.DataFrame({"volume": range(N), "framewise_displacement": 0.5})
    for name in ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"):
        motion[name] = rng.normal(0, 0.01, N)
    if full:
        carpet = rng.normal(0, 1, (SHAPE[2], N))
        carpet[:, 0] = np.nan
        carpet[2:10, DROPPED] = -9
        table = pd.DataFrame(carpet, columns=[f"volume_{k}" for k in range(N)])
        table.insert(0, "slice", range(SHAPE[2]))
        table.to_csv(f"{stem}_desc-slices_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
        motion["n_outlier_slices"] = np.where(np.arange(N) == DROPPED, 8, 0)
        motion["neighbour_correlation_raw"] = np.where(BVAL > 0, 0.7, np.nan)
        motion["neighbour_correlation"] = np.where(BVAL > 0, 0.85, np.nan)
        about |= {
            "Settings": {
                **{"already_preprocessed": False, "denoise": True, "unring": False, "motion": True}
            },
            "steps": [{"name": "denoising"}, {"name": "motion"}],
            "distortion": "no reverse-phase b0",
            "share_outlier_slices": 0.028,
            "outlier_z": -4.0,
            "neighbour_correlation": 0.85,
            "snr": [{"bval": 0.0, "snr": 21.5}],
            "cnr": [{"bval": 1000.0, "cnr": 2.4}],
            "gradient_frame": {"best": "as given", "index": 0.31, "margin": 5.2},
        }
    motion.to_csv(f"{stem}_desc-motion_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    described = {
        "desc-preproc_dwi": {**about, **figures},
        "model-tensor_dwimap": {
            "Model": {"Parameters": {"FitMethod": "WLS"}},
            "n_volumes_used": N,
            "mean_fa": 0.25,
            "median_md": 8e-4,
            "n_voxels": 1000,
            "n_implausible_voxels": 12,
        },
        "space-template_registration": {
            "Settings": {"template": TEMPLATE},
            "similarity": {"header": 0.2, "affine": 0.7, "warp": 0.86},
            "head_scale": 1.02,
            "dice": {"brain": 0.93, "white_matter": 0.71},
            "share_in_view": 0.984,
            "jacobian": {"min": 0.31, "p1": 0.4, "p50": 0.95, "p99": 1.8, "folded": 0.0005},
        },
    }
    for name, content in described.items():
        Path(f"{stem}_{name}.json").write_text(json.dumps(content))
    return folder


class Page(HTMLParser):
    """Text, pictures and links of a page whose tags close."""

    VOID = ("meta", "img", "input", "br", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.alts: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given[name] or "" for name in ("src", "href") if name in given]
        if tag == "img":
            self.alts.append(given.get("alt") or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += f" {data}"


def run(folder: Path, *options: str) -> Result:
    words = ["scan", "--folder", str(folder), "--prefix", PREFIX, *options]
    return CliRunner().invoke(main, words)


def page_of(folder: Path, *options: str) -> Page:
    done = run(folder, *options)
    assert done.exit_code == 0, done.output
    return Page((folder / f"{PREFIX}_desc-qc_dwi.html").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scan(tmp_path_factory.mktemp("a scan"))


@pytest.fixture(scope="module")
def template(folder: Path) -> Path:
    """FA of the same brain on a finer grid."""
    fine = np.repeat(np.repeat(np.repeat(0.5 * ball(), 2, 0), 2, 1), 2, 2).astype(np.float32)
    affine = AFFINE / 2
    affine[3, 3] = 1
    path = folder.parent / "template.nii.gz"
    write_nifti(path, fine, affine)
    return path


@pytest.fixture(scope="module")
def page(folder: Path, template: Path) -> Page:
    return page_of(folder, "--template", str(template), "--acquisition", "EchoTime=0.09")


def test_scan__shows_every_picture_with_a_text(page: Page) -> None:
    assert len(page.alts) == 5
    traces, shells, mask, maps, registration = page.alts
    assert "slices against their prediction" in traces
    assert "8 slices replaced" in traces
    assert "SNR 21.5 at b = 0, CNR 2.4 at b = 1000" in shells
    assert "outline of the brain mask" in mask
    for name in ("colour FA", "FA", "MD", "residual"):
        assert name in maps
    assert "beside the template" in registration
    assert "0.86" in registration


def test_scan__is_one_file_without_network(page: Page, folder: Path) -> None:
    path = folder / f"{PREFIX}_desc-qc_dwi.html"
    assert path.stat().st_size < 2e6
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "http" not in re.sub(r"data:[^\"]+", "", path.read_text()).replace("http-equiv", "")


def test_scan__says_what_was_done_and_what_was_not(page: Page) -> None:
    assert "All figures keep their limits;" in page.text
    for words in (
        "Correction denoising, motion",
        "Unringing not asked for",
        "Susceptibility distortion no reverse-phase b0",
        "WLS, 20 volumes",
        f"to {TEMPLATE}",
        "echo time 0.09",
        "b = 0: 2, b = 1000: 18",
        "16 × 18 × 14",
        "8 × 8 × 8 mm",
    ):
        assert words in page.text, words


def test_scan__says_what_became_of_the_distortion(tmp_path: Path) -> None:
    corrected = {
        "steps": [{"name": "motion"}, {"name": "susceptibility distortion"}],
        "distortion": "corrected",
        "mean_distortion": 1.234,
        "pair_correlation_raw": 0.82,
        "pair_correlation": 0.98,
    }
    text = page_of(write_scan(tmp_path, **corrected)).text
    told = "corrected, on average by 1.23 mm; correlation of the two b0s 0.820 before, 0.980 after"
    assert f"Susceptibility distortion {told}" in text
    assert "Correction motion " in text
    assert "correlation of the two b0s 0.980 < 0.9" in text
    assert "correlation of the two b0s before correction 0.820" in text


def test_scan__names_volumes_that_one_may_do_without(page: Page) -> None:
    table = page.text.split("Volumes that one may do without")[1]
    assert table.split("why")[1].split()[:6] == ["13", "1,000", "0.50", "57", "0.850", "57%"]


def test_scan__states_figures_with_their_limits(page: Page) -> None:
    assert "mean FA 0.250 < 0.1 or > 0.45 < 0.05 or > 0.6" in page.text
    assert "implausible voxels, % 1.20 > 8 > 30" in page.text
    assert "CNR at b = 1000 2.4" in page.text
    assert len(LIMITS) > 10


def test_scan__names_the_figures_of_registration_with_their_units(page: Page) -> None:
    for words in (
        "similarity to template after the affine 0.700",
        "Dice overlap of brains 0.930 < 0.75 < 0.5",
        "Dice overlap of white matter 0.710 < 0.5",
        "folded voxels (Jacobian ≤ 0), % 0.05 > 0.1",
        "smallest Jacobian, volume in scan / in template 0.310",
        "99th percentile of Jacobian, volume in scan / in template 1.800",
    ):
        assert words in page.text, words
    assert "jacobian p1" not in page.text


def test_scan__the_same_files_give_the_same_bytes(folder: Path, template: Path) -> None:
    path = folder / f"{PREFIX}_desc-qc_dwi.html"
    page_of(folder, "--template", str(template), "--acquisition", "EchoTime=0.09")
    before = path.read_bytes()
    page_of(folder, "--template", str(template), "--acquisition", "EchoTime=0.09")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        (
            {"gradient_frame": {"best": "flip <x>", "margin": 9.0}},
            "The data are wrong by a rule: .* gradients: flip <x> – main directions",
        ),
        (
            {"mean_framewise_displacement": 6.5},
            r"Somebody should look at this scan. mean motion 6.500 mm \(> 3\) – from volume to",
        ),
    ],
)
def test_scan__says_which_rules_it_breaks(
    tmp_path: Path, figures: dict[str, Any], words: str
) -> None:
    assert re.search(words, page_of(write_scan(tmp_path, **figures)).text)


def test_scan__makes_do_with_what_is_there(tmp_path: Path) -> None:
    """Steps of another version leave less; scans of other doors have no correction at all."""
    page = page_of(write_scan(tmp_path, full=False))
    assert [alt.split()[0] for alt in page.alts] == ["Traces", "Slices", "FA"]
    assert "Susceptibility distortion not corrected" in page.text
    assert "Correction Corrected volumes" in page.text
    for file in tmp_path.glob("*"):
        if "space-template" not in file.name:
            file.unlink()
    page = page_of(tmp_path)
    assert [alt.split()[0] for alt in page.alts] == ["FA"]
    assert "Correction the scan entered after it" in page.text
    assert "Tensor fit the FA map was given" in page.text


def test_scan__shows_the_mask_on_the_b0_of_the_volumes(tmp_path: Path) -> None:
    """Not on that of the fit, which knows nothing outside of the mask."""
    volumes = np.zeros((*SHAPE, N), dtype=np.float32)
    volumes[..., 0] = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    write_scan(tmp_path)
    (fitted, _) = Scan(tmp_path, PREFIX).read_b0() or (None, None)
    assert fitted is not None
    np.testing.assert_array_equal(fitted, 900 * ball())
    write_nifti(tmp_path / f"{PREFIX}_desc-preproc_dwi.nii.gz", volumes, AFFINE)
    (measured, _) = Scan(tmp_path, PREFIX).read_b0() or (None, None)
    assert measured is not None
    np.testing.assert_array_equal(measured, volumes[..., 0])


def test_scan__names_faults(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.exit_code == 1
    assert f"nothing of '{PREFIX}'" in done.output
    write_scan(tmp_path)
    (tmp_path / f"{PREFIX}_model-tensor_dwimap.json").write_text("{")
    done = run(tmp_path)
    assert done.exit_code == 1
    assert "model-tensor_dwimap.json: cannot be read as JSON" in done.output


def test_scan__needs_no_library_that_takes_long_to_load(folder: Path, template: Path) -> None:
    """The page is made for each of 50,000 people, and is cheaper than to load any of these."""
    slow = ("matplotlib", "pandas", "pyarrow", "pydantic", "scipy.ndimage", "scipy.special", "zarr")
    aligned = folder.parent / "aligned.nii.gz"
    write_nifti(aligned, (0.5 * ball()).astype(np.float32), AFFINE)
    words = ["scan", "--folder", str(folder), "--prefix", PREFIX, "--template", str(aligned)]
    code = (
        "import sys; from axoloci.tasks.report.cli import main\n"
        f"main({words!r}, standalone_mode=False)\n"
        f"print([name for name in {slow!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def drawn(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    for node in root.iter():
        node.tag = node.tag.removeprefix("{http://www.w3.org/2000/svg}")
    return root


def test_volume_traces__places_values_and_breaks_lines_where_one_is_missing() -> None:
    moved = np.array([0.0, 2.0, np.nan, 1.0])
    still = np.zeros((4, 3))
    root = drawn(
        charts.volume_traces(
            Volumes(moved, still, still, bval=np.array([0.0, 1000, 1000, 0])),
            {"displacement": 2.0},
        )
    )
    first = next(node for node in root if node.tag == "g")
    (line,) = (node for node in first if node.get("class") == "line")
    (limit,) = (node for node in first if node.get("class") == "limit")
    step = (charts.WIDTH - charts.LEFT - charts.RIGHT) / 4
    points = re.findall(r"([ML])(\S+) ([0-9.]+)", line.get("d") or "")
    assert [pen for pen, _, _ in points] == ["M", "L", "M"]
    assert [float(x) for _, x, _ in points] == pytest.approx([step / 2, 1.5 * step, 3.5 * step])
    assert [float(y) for *_, y in points] == pytest.approx(
        [charts.TRACE, charts.TRACE * (1 - 2 / 2.3), charts.TRACE * (1 - 1 / 2.3)], abs=0.06
    )
    assert (limit.get("d") or "").startswith(f"M0 {points[1][2]}")
    grey = [float(node.get("x") or "") for node in first if node.tag == "rect"]
    assert grey == pytest.approx([0, 3 * step])


def test_volume_traces__frames_the_slices_that_were_replaced() -> None:
    carpet = np.zeros((10, 4))
    carpet[7, 2] = -9
    carpet[0, 0] = np.nan
    still = np.zeros((4, 3))
    volumes = Volumes(np.zeros(4), still, still, carpet=carpet, outlier_z=-4.0)
    root = drawn(charts.volume_traces(volumes, {}))
    (frames,) = (node for node in root.iter("path") if node.get("class") == "frames")
    step = (charts.WIDTH - charts.LEFT - charts.RIGHT_OF_CARPET) / 4
    high = charts.CARPET_HEIGHT / 10
    assert frames.get("d") == f"M{2 * step:.1f} {2 * high:.1f}h{step:.1f}v{high:.1f}h{-step:.1f}z"
    (image,) = root.iter("image")
    content = base64.b64decode((image.get("href") or "").partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(content)))  # the first slice is below
    assert pixels.shape == (10, 4, 3)
    assert "#" + bytes(pixels[9, 0]).hex() == RULE
    assert "#" + bytes(pixels[2, 2]).hex() == charts.CARPET[0]
    assert "#" + bytes(pixels[2, 1]).hex() == charts.CARPET[2]


def test_volume_traces__stands_one_volume_and_missing_values() -> None:
    nothing = np.full(1, np.nan)
    volumes = Volumes(
        *(np.zeros(1), np.zeros((1, 3)), np.zeros((1, 3)), np.zeros(1), nothing, nothing),
        carpet=np.full((5, 1), np.nan),
        outlier_z=-4.0,
    )
    svg = charts.volume_traces(volumes, {"displacement": 5.0, "correlation": 0.5})
    assert "nan" not in svg
    assert len([node for node in drawn(svg) if node.tag == "g"]) == 5


def test_shell_bars__are_as_long_as_their_values() -> None:
    root = drawn(charts.shell_bars(["b = 0", "b <1>"], [20.0, 5.0]))
    lengths = [float(bar.get("width") or "") for bar in root.findall("g/rect")]
    assert lengths[0] == pytest.approx(4 * lengths[1], abs=0.2)
    assert [node.text for node in root.findall("g/text")] == ["b = 0", "20.0", "b <1>", "5.0"]


def test_outlined_brain__draws_the_line_where_the_mask_ends() -> None:
    mask = ball()
    pixels = np.asarray(
        scan_figures.outlined_brain(500.0 * mask, mask, [8.0, 8, 8], "b0"), dtype=int
    )
    orange = (pixels[..., 0] > 200) & (pixels[..., 1] > 120) & (pixels[..., 2] < 60)
    assert orange.sum() > 500
    whole = scan_figures.outlined_brain(500.0 * mask, np.ones_like(mask), [8.0, 8, 8], "b0")
    pixels = np.asarray(whole, dtype=int)
    assert not ((pixels[..., 0] > 200) & (pixels[..., 2] < 60)).any()


def test_picture_grid__draws_slices_to_scale_in_their_cells() -> None:
    red = np.array(Image.new("RGB", (3, 2), "red")) / 255.0
    white = np.ones((4, 4))
    grid = [[Slice(red, (30, 20)), Slice(white, (20, 40))]]
    picture = picture_grid(grid, ["one"], ["left", "right"])
    pixels = np.asarray(picture, dtype=int)
    assert pixels.shape[1] == WIDTH
    rows, columns = np.nonzero((pixels[..., 0] > 250) & (pixels[..., 1] < 5))
    scale = np.ptp(columns) / 30
    assert np.ptp(rows) == pytest.approx(20 * scale, abs=2)
    rows_of_white, columns_of_white = np.nonzero((pixels > 250).all(axis=-1))
    assert np.ptp(rows_of_white) == pytest.approx(40 * scale, abs=2)
    assert rows.mean() == pytest.approx(rows_of_white.mean(), abs=2)
    assert columns_of_white.min() > columns.max()
    below_heads = pixels[int(rows_of_white.min()) :]
    assert below_heads[:, : int(columns.min())].max() > 150  # the row's label
    assert pixels[: int(rows_of_white.min())].max() > 150  # the columns' heads


def test_smooth__is_a_gaussian_of_one_voxel() -> None:
    volume = np.random.default_rng(0).random((20, 20, 20)).astype(np.float32)
    truth = ndimage.gaussian_filter(volume, 1.0)
    inner = (slice(3, -3),) * 3  # beyond the volume each goes on in its own way
    np.testing.assert_allclose(_smooth(volume)[inner], truth[inner], atol=0.02)
    assert _smooth(np.ones((3, 4, 5))).min() == 1
