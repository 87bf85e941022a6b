"""`axoloci-report make` on a made-up study."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from axoloci.io.nifti import write_nifti
from axoloci.io.packing import write_cohort
from axoloci.tasks.report.cli import main
from axoloci.tasks.report.inputs import find_maps

FAILED = "sub-0007"
OUTLIER = "sub-0003"


def write_study(folder: Path, n_scans: int = 30, n_variants: int = 5000, seed: int = 0) -> Path:
    """All that a finished study has, with one failed scan, one that moved, and three loci."""
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    ids = [f"{i:04d}" for i in range(1, n_scans + 1)]
    scans = pd.DataFrame({"scan": [f"sub-{i}" for i in ids], "sample_id": ids, "status": "ok"})
    scans["reason"] = scans["log"] = "n/a"
    scans.loc[scans["scan"] == FAILED, ["status", "reason", "log"]] = (
        "failed",
        f"/data/bids/{FAILED}/dwi/{FAILED}_dwi.bval: 31 b-values for <32> volumes; mend the file",
        f"logs/{FAILED}/preprocess.log",
    )
    scans.to_csv(folder / "scans.tsv", sep="\t", index=False)
    ok = scans[scans["status"] == "ok"]
    n = len(ok)
    qc = pd.DataFrame(
        {
            "scan": ok["scan"],
            "sample_id": ok["sample_id"],
            "n_volumes": 32,
            "shells": "0, 1000",
            "mask_ml": rng.uniform(1300, 1600, n),
            "mean_framewise_displacement": rng.uniform(0.1, 0.5, n),
            "max_framewise_displacement": rng.uniform(0.4, 1.4, n),
            "mean_fa": rng.uniform(0.29, 0.33, n),
            "median_md": rng.uniform(7.4e-4, 8.2e-4, n),
            "similarity_warp": rng.uniform(0.92, 0.99, n),
        }
    )
    qc.loc[qc["scan"] == OUTLIER, "mean_framewise_displacement"] = 3.0
    qc.to_csv(folder / "qc.tsv", sep="\t", index=False)

    shape, affine = (32, 40, 32), np.diag([-5.0, 5.0, 5.0, 1.0])
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, k) for k in shape), indexing="ij"))
    radius = np.sqrt((grid**2).sum(axis=0) * np.array(1.15))
    mask = radius < 1
    fa = 0.25 + 0.45 * np.exp(-((radius - 0.55) ** 2) / 0.02) * (0.6 + 0.4 * grid[1])
    maps = fa[mask] * rng.normal(1, 0.04, (n, 1)) + rng.normal(0, 0.025, (n, mask.sum()))
    maps = np.clip(maps, 0, 1).astype(np.float32)
    write_cohort(folder / "cohort.zarr", list(ok["sample_id"]), maps.__getitem__, mask, affine)
    volumes = np.zeros((4, *shape), dtype=np.float16)
    volumes[:, mask] = maps[:4]
    smooth = np.where(mask, volumes.mean(axis=0, dtype=np.float32), 0).astype(np.float16)
    np.savez(
        folder / "examples.npz",
        sample_id=np.array(ids[:4]),
        original=volumes,
        reconstruction=np.stack([smooth] * 4),
    )
    epoch = np.arange(1, 61)
    pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": 0.004 + 0.1 * np.exp(-epoch / 9),
            "validation_loss": 0.006 + 0.1 * np.exp(-epoch / 9) + 2e-5 * epoch,
            "learning_rate": 1e-3,
        }
    ).to_csv(folder / "history.tsv", sep="\t", index=False)
    pd.DataFrame(
        {
            "sample_id": ok["sample_id"],
            "reconstruction_mse": 0.001,
            "reconstruction_r2": rng.beta(40, 6, n),
            "in_training": (np.arange(n) < n // 2).astype(int),
        }
    ).to_csv(folder / "quality.tsv", sep="\t", index=False)

    chromosome = np.sort(rng.integers(1, 23, n_variants)).astype(str)
    chromosome = chromosome[np.argsort(chromosome.astype(int), kind="stable")]
    length = 250e6 * (1 - (chromosome.astype(int) - 1) / 28)
    position = (rng.random(n_variants) * length).astype(np.int64)
    order = np.lexsort([position, chromosome.astype(int)])
    chromosome, position = chromosome[order], position[order]
    neg_log10_p = -np.log10(rng.random(n_variants))
    leads = np.array([n_variants // 9, n_variants // 2, n_variants // 2 + 40])
    neg_log10_p[leads] = [31.2, 9.4, 12.7]
    for lead in leads:
        near = np.abs(np.arange(n_variants) - lead)
        neg_log10_p = np.maximum(neg_log10_p, neg_log10_p[lead] * np.exp(-near / 3) - 1)
        neg_log10_p[lead] = max(neg_log10_p[lead], 9.4)
    joint = pd.DataFrame(
        {
            "chromosome": chromosome,
            "base_pair_location": position,
            "variant_id": [f"rs{i}" for i in range(n_variants)],
            "neg_log10_p": neg_log10_p,
        }
    )
    table = pa.Table.from_pandas(joint, preserve_index=False)
    about = {"lambda_gc": 1.013, "traits": [f"latent_{k:03d}" for k in range(8)]}
    pq.write_table(
        table.replace_schema_metadata({"axoloci": json.dumps(about)}), folder / "joint.parquet"
    )
    pd.DataFrame(
        {
            "locus": [1, 2, 3],
            "chromosome": chromosome[leads],
            "start": position[leads] - 60_000,
            "end": position[leads] + 45_000,
            "base_pair_location": position[leads],
            "variant_id": [f"rs{i}" for i in leads],
            "effect_allele": ["A", "G", "TTTATTTATTT"],
            "other_allele": ["C", "T", "T"],
            "effect_allele_frequency": [0.31, 0.08, 0.44],
            "n": n,
            "neg_log10_p": neg_log10_p[leads],
            "joint_r2": [0.41, 0.19, 0.23],
            "n_leads": 1,
            "leads": [f"rs{i}" for i in leads],
            "n_clumped": [12, 3, 0],
            "clumped": ["rs1", "rs2", ""],
            "traits": ["latent_003,latent_001", "latent_006", ""],
            "traits_beta": ["-0.41,0.22", "0.35", ""],
            "traits_neg_log10_p": ["18.2,6.6", "7.1", ""],
        }
    ).to_csv(folder / "loci.tsv", sep="\t", index=False)
    pd.DataFrame(
        {
            "step": ["preprocess", "dti", "normalize", "encoder train", "gwas associate", "joint"],
            "jobs": [n, n, n, 1, 1, 1],
            "seconds": [3.1 * n, 1.2 * n, 1.8 * n, 95.2, 3.3, 0.9],
            "cpu_seconds": [2.9 * n, 1.1 * n, 1.7 * n, 180.4, 6.1, 0.9],
            "max_rss_mb": [410, 320, 388, 1450, 512, 210],
        }
    ).to_csv(folder / "seconds.tsv", sep="\t", index=False)
    names = {
        "cohort": "cohort.zarr",
        "examples": "examples.npz",
        "joint": "joint.parquet",
        "scans": "scans.tsv",
        "qc": "qc.tsv",
        "history": "history.tsv",
        "quality": "quality.tsv",
        "loci": "loci.tsv",
        "seconds": "seconds.tsv",
    }
    given = {
        "title": "Cohort <A> & B",
        "out_dir": "/data/private/study",
        "study_settings": {
            "bids": "/data/private/bids",
            "min_participants": 20,
            "gwas": {"n_pcs": 10, "covariates": ["age", "sex"]},
        },
        "versions": {"axoloci": "0.1.0", "dipy": "1.12.1"},
        **names,
    }
    (folder / "inputs.json").write_text(json.dumps(given))
    return folder / "inputs.json"


class Parsed(HTMLParser):
    """Tags that close, text, pictures, and whatever would reach for the network."""

    VOID = ("meta", "img", "input", "br", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given[name] or "" for name in ("src", "href") if name in given]
        if tag == "img":
            self.pictures.append(given)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += f" {data.strip()}"


def make(inputs: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["make", "--inputs", str(inputs), "--out", str(out), *options])


def changed(inputs: Path, to: Path, **values: Any) -> Path:
    given = {**json.loads(inputs.read_text()), **values}
    to.write_text(json.dumps({name: value for name, value in given.items() if value is not None}))
    return to


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def html(inputs: Path) -> str:
    result = make(inputs, inputs.parent / "report.html")
    assert result.exit_code == 0, result.output
    return (inputs.parent / "report.html").read_text()


def test_make__is_one_file_that_needs_no_network(html: str) -> None:
    parsed = Parsed(html)
    assert len(html) < 15e6
    assert all(link.startswith(("data:image/", "#")) for link in parsed.links)
    assert not re.search(r"https?://|@import|url\(", html)


def test_make__has_every_picture_with_alternative_text(html: str) -> None:
    pictures = Parsed(html).pictures
    # quality, maps, training, examples, Manhattan, quantiles
    assert len(pictures) == 6
    for picture in pictures:
        assert len(picture["alt"] or "") > 30
        kind, _, content = (picture["src"] or "").partition(";base64,")
        start = {"data:image/png": b"\x89PNG", "data:image/jpeg": b"\xff\xd8\xff"}[kind]
        assert base64.b64decode(content).startswith(start)


def test_make__names_the_failed_scan_with_its_reason(html: str) -> None:
    text = Parsed(html).text
    assert "30 scans of 30 people went in; 29 finished, 1 failed." in text
    assert "31 b-values for <32> volumes; mend the file" in text
    assert f"logs/{FAILED}/preprocess.log" in text


def test_make__marks_the_scan_that_moved(html: str) -> None:
    assert "1 of 29 scans break a rule, 0 of them one by which the data are wrong." in html
    rows = re.findall(r"<tr>.*?</tr>", html)
    flagged = [row for row in rows if 'class="flag"' in row]
    assert len(flagged) == 1
    assert OUTLIER in flagged[0]
    assert "mean motion" in flagged[0]
    assert "3.000" in flagged[0]


def test_make__says_who_is_left_out_of_the_group(inputs: Path, tmp_path: Path) -> None:
    scans = pd.read_csv(inputs.parent / "scans.tsv", sep="\t", dtype=str, keep_default_na=False)
    scans["excluded"] = "n/a"
    scans.loc[[2, 4], "excluded"] = ["by rule: mean FA 0.700 (> 0.6)", "by user: asleep"]
    scans.to_csv(tmp_path / "scans.tsv", sep="\t", index=False)
    given = changed(
        inputs, inputs.parent / "out.json", scans=str(tmp_path / "scans.tsv"), qc_page="d/qc.html"
    )
    assert make(given, tmp_path / "full.html").exit_code == 0
    full = (tmp_path / "full.html").read_text()
    text = " ".join(Parsed(full).text.split())
    assert "The group does without 2 scans: 1 by rule, 1 by the user." in text
    assert "sub-0003 by rule: mean FA 0.700 (> 0.6)" in text
    assert '<a href="d/qc.html">' in full
    assert make(given, tmp_path / "shared.html", "--shareable").exit_code == 0
    shared = (tmp_path / "shared.html").read_text()
    assert "asleep" not in shared
    assert "qc.html" not in shared


def test_make__somebody_may_be_called_na(inputs: Path, tmp_path: Path) -> None:
    scans = pd.read_csv(inputs.parent / "scans.tsv", sep="\t", dtype=str, keep_default_na=False)
    scans.loc[2, ["scan", "sample_id"]] = ["sub-NA", "NA"]
    scans.to_csv(tmp_path / "scans.tsv", sep="\t", index=False)
    given = changed(inputs, inputs.parent / "na.json", scans=str(tmp_path / "scans.tsv"))
    assert make(given, tmp_path / "report.html").exit_code == 0
    text = " ".join(Parsed((tmp_path / "report.html").read_text()).text.split())
    assert f"{len(scans)} scans of {scans.sample_id.nunique()} people" in text


def test_make__says_who_could_not_be_encoded(inputs: Path, tmp_path: Path) -> None:
    quality = pd.read_csv(inputs.parent / "quality.tsv", sep="\t", dtype={"sample_id": str})
    quality.loc[[1, 3], ["reconstruction_r2", "in_training"]] = np.nan
    quality.to_csv(tmp_path / "quality.tsv", sep="\t", index=False, na_rep="n/a")
    given = changed(inputs, inputs.parent / "bad.json", quality=str(tmp_path / "quality.tsv"))
    assert make(given, tmp_path / "full.html").exit_code == 0
    text = " ".join(Parsed((tmp_path / "full.html").read_text()).text.split())
    names = ", ".join(quality.sample_id[[1, 3]])
    assert f"2 people could not be encoded ({names}): the log of the encoder says why" in text
    assert make(given, tmp_path / "shared.html", "--shareable").exit_code == 0
    text = " ".join(Parsed((tmp_path / "shared.html").read_text()).text.split())
    assert "Fewer than 5 people could not be encoded: the log" in text


def test_make__tells_of_association_and_loci(html: str) -> None:
    text = Parsed(html).text
    assert "genomic inflation λ = 1.013" in text
    assert "over 8 latents: 5,000 variants" in text
    assert "003 ▼ 18.2, 001 ▲ 6.6" in text
    assert "several, weakly" in text
    assert 'data-sort="0.41">41</td>' in html  # R², %


def test_make__escapes_what_it_was_given(html: str) -> None:
    assert "<h1>Cohort &lt;A&gt; &amp; B</h1>" in html


def test_make__says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "inputs.json").write_text('{"title": "Nothing yet"}')
    result = make(tmp_path / "inputs.json", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    parsed = Parsed((tmp_path / "report.html").read_text())
    assert parsed.pictures == []
    for sentence in (
        "No table of scans was given.",
        "No table of quality figures was given.",
        "No cohort store was given",
        "No representation was trained.",
        "No joint test was given.",
        "No table of loci was given.",
        "No account of what ran was given.",
        "Neither settings nor versions were given.",
    ):
        assert sentence in parsed.text


def test_make__of_traits_speaks_of_traits_and_not_of_images(inputs: Path, tmp_path: Path) -> None:
    table = pq.read_table(inputs.parent / "joint.parquet")
    about = {"traits": ["bmi", "height"]}
    table = table.replace_schema_metadata({"axoloci": json.dumps(about)})
    pq.write_table(table, tmp_path / "joint.parquet")
    facts = {"gwas": {"people": 957, "n_traits": 2, "n_tested": 5000, "n_pcs": 0}}
    facts["gwas"] |= {"covariates": [], "categorical": []}
    given = {"title": "T", "joint": "joint.parquet", "loci": str(inputs.parent / "loci.tsv")}
    (tmp_path / "inputs.json").write_text(json.dumps({**given, "facts": facts}))
    for options in ([], ["--shareable"]):
        assert make(tmp_path / "inputs.json", tmp_path / "r.html", *options).exit_code == 0
        parsed = Parsed((tmp_path / "r.html").read_text())
        assert "957 people in the association" in " ".join(parsed.text.split())
        assert "over 2 traits" in parsed.text
        assert "Each of 2 traits was" in parsed.text
        assert "Each trait is tested in the people who have it." in parsed.text
        assert "All traits were tested jointly" in parsed.text
        assert "latent" not in re.sub(r"latent_\d+", "", parsed.text)
        assert not {"#input", "#quality", "#maps", "#representation"} & set(parsed.links)
        for gone in ("Representation", "No table of scans", "cohort store"):
            assert gone not in parsed.text


def test_make__shows_the_maps_before_the_group_stage(tmp_path: Path) -> None:
    names = [f"{i:02d}" for i in range(6)]
    for i, name in enumerate(names):
        volume = np.zeros((12, 14, 12), dtype=np.float32)
        volume[2:10, 2:12, 2:10] = 0.3 + 0.01 * i
        write_nifti(tmp_path / f"{name}.nii.gz", volume, np.eye(4))
    table = pd.DataFrame({"scan": names, "sample_id": names, "status": "ok", "in_group": "yes"})
    table["fa"] = [f"{name}.nii.gz" for name in names]
    table.to_csv(tmp_path / "scans.tsv", sep="\t", index=False)
    given = {"title": "Half", "scans": "scans.tsv", "group": "The group stage was not run."}
    (tmp_path / "inputs.json").write_text(json.dumps(given))
    result = make(tmp_path / "inputs.json", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    parsed = Parsed((tmp_path / "report.html").read_text())
    assert len(parsed.pictures) == 1
    assert "mean and standard deviation over all people" in parsed.text
    assert "The group stage was not run." in parsed.text
    assert "6 people mapped not packed yet" in " ".join(parsed.text.split())
    (tmp_path / "00.nii.gz").write_bytes((tmp_path / "00.nii.gz").read_bytes()[:-40])
    (tmp_path / "03.nii.gz").unlink()  # it was moved
    write_nifti(tmp_path / "04.nii.gz", np.ones((3, 4, 5), dtype=np.float32), np.eye(4))
    result = make(tmp_path / "inputs.json", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    parsed = Parsed((tmp_path / "report.html").read_text())
    assert len(parsed.pictures) == 1
    assert "3 people mapped" in " ".join(parsed.text.split())
    for name in names:
        (tmp_path / f"{name}.nii.gz").unlink(missing_ok=True)
    assert make(tmp_path / "inputs.json", tmp_path / "report.html").exit_code == 0
    parsed = Parsed((tmp_path / "report.html").read_text())
    assert parsed.pictures == []
    assert "The group stage has not finished. So no maps are shown." in parsed.text


def test_find_maps__mask_is_that_of_all_maps_looked_at(tmp_path: Path) -> None:
    names = [f"{i}.nii.gz" for i in range(5)]
    for i, name in enumerate(names):
        volume = np.zeros((5, 2, 2), dtype=np.float32)
        volume[i] = 0.4
        write_nifti(tmp_path / name, volume, np.eye(4))
    table = pd.DataFrame({"scan": names, "sample_id": names, "status": "ok", "in_group": "yes"})
    table.assign(fa=names).to_csv(tmp_path / "scans.tsv", sep="\t", index=False)
    maps = find_maps(tmp_path / "scans.tsv", 3)
    assert maps is not None
    assert maps.sample_id == [names[k] for k in (0, 2, 4)]
    assert maps.n_people == 5
    np.testing.assert_array_equal(maps.mask.all(axis=(1, 2)), [True, False, True, False, True])


def test_make__counts_the_scans_of_all_cohorts(inputs: Path, tmp_path: Path) -> None:
    table = pd.DataFrame({"scan": ["sub-1", "sub-2"], "sample_id": ["1", "2"]})
    table["status"], table["reason"] = ["ok", "failed"], ["n/a", "truncated"]
    table.to_csv(tmp_path / "other.tsv", sep="\t", index=False)
    given = {"title": "Two cohorts", "scans": str(inputs.parent / "scans.tsv")}
    given["other_scans"] = {"replication": "other.tsv"}
    (tmp_path / "inputs.json").write_text(json.dumps(given))
    result = make(tmp_path / "inputs.json", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    text = Parsed((tmp_path / "report.html").read_text()).text
    assert "32 scans of 32 people went in; 30 finished, 2 failed. Counted with those of" in text
    assert "replication/sub-2" in text


def chunks(png: bytes) -> list[bytes]:
    """Types of the chunks of a PNG: text and times would be chunks of their own."""
    found, at = [], 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        found.append(png[at + 4 : at + 8])
        at += length + 12
    return found


@pytest.fixture(scope="module")
def shared(inputs: Path) -> str:
    """The shareable page of the same inputs as `html`."""
    page = inputs.parent / "shared.html"
    result = make(inputs, page, "--shareable")
    assert result.exit_code == 0, result.output
    return page.read_text()


def test_make__shareable_names_no_person_and_no_path(inputs: Path, html: str, shared: str) -> None:
    scans = pd.read_csv(inputs.parent / "scans.tsv", sep="\t", dtype=str)
    text = re.sub(r"base64,[^\"]+", "", shared)
    for word in (*scans["scan"], "sub-", "/data/private", "private", "logs/", "mend the file"):
        assert word not in text
    named = Parsed(html).text
    for name in scans["sample_id"]:
        assert name in named
        assert not re.search(rf"\b{name}\b", Parsed(shared).text)
    for one in scans["sample_id"]:
        assert not re.search(rf"[>\"]{one}[<\"]", text)


def test_make__shareable_tells_no_number_of_one_person(inputs: Path, tmp_path: Path) -> None:
    qc = pd.read_csv(inputs.parent / "qc.tsv", sep="\t", dtype={"scan": str, "sample_id": str})
    qc["n_implausible_voxels"] = 700_001 + 137 * np.arange(len(qc)) ** 2  # to be recognised
    qc["secret_score"] = 0.123456 + np.arange(len(qc))
    qc.to_csv(tmp_path / "qc.tsv", sep="\t", index=False)
    given = changed(inputs, inputs.parent / "marked.json", qc=str(tmp_path / "qc.tsv"))
    assert make(given, tmp_path / "full.html").exit_code == 0
    assert make(given, tmp_path / "shared.html", "--shareable").exit_code == 0
    full, shared = ((tmp_path / name).read_text() for name in ("full.html", "shared.html"))
    for value in qc["n_implausible_voxels"]:
        assert f">{value:,}<" in full
        assert f"{value:,}" not in shared
        assert str(value) not in shared
    assert "secret" in full
    assert "secret" not in shared
    table = re.search(r'aria-label="Quality figures".*?</table>', shared, flags=re.DOTALL)
    assert table is not None
    rows = [re.findall(r">([^<>]+)</td>", row) for row in table[0].split("<tr>")[2:]]
    assert len(rows) == 6  # figures, not scans
    motion = qc["mean_framewise_displacement"]
    assert rows[0] == ["mean motion, mm", f"{motion.mean():.3f}", f"{motion.std():.3f}"]
    quality = pd.read_csv(inputs.parent / "quality.tsv", sep="\t")
    r2 = quality["reconstruction_r2"][quality["in_training"] == 0]
    assert f"median reconstruction R² {r2.median():.3f} over {len(r2)} people who were not" in full
    assert "median reconstruction" not in shared
    assert f"{r2.mean():.3f} ± {r2.std():.3f}" in shared


def test_make__shareable_hides_small_counts(shared: str) -> None:
    """One scan of 30 failed; the number that went in would tell it again."""
    text = Parsed(shared).text
    assert "29 scans finished and <5 failed." in text
    assert not re.search(r"\b30\b", text.split("Methods")[0])
    assert "b-values, directions and volumes do not match" not in text  # one case: other reasons
    assert "other reasons <5" in " ".join(text.split())
    assert "31 b-values" not in text
    assert "<5 of 29 scans break a rule" in text


def test_make__shareable_shows_failures_of_many_by_reason(inputs: Path, tmp_path: Path) -> None:
    scans = pd.read_csv(inputs.parent / "scans.tsv", sep="\t", dtype=str, keep_default_na=False)
    scans.loc[:5, "status"] = "failed"
    scans.loc[:5, "reason"] = "/home/me/sub-1/secret.nii.gz: the file may be truncated: 17"
    scans.to_csv(tmp_path / "scans.tsv", sep="\t", index=False)
    few = changed(inputs, inputs.parent / "few.json", scans=str(tmp_path / "scans.tsv"))
    assert make(few, tmp_path / "report.html", "--shareable").exit_code == 0
    text = " ".join(Parsed((tmp_path / "report.html").read_text()).text.split())
    assert "23 scans finished and 5 or more failed." in text  # for the seventh is a reason alone
    assert "image file truncated or unreadable 6 other reasons <5" in text
    assert "secret" not in text


def test_make__shareable_has_pictures_of_the_group_alone(html: str, shared: str) -> None:
    pictures = Parsed(shared).pictures
    assert len(pictures) == len(Parsed(html).pictures) - 1  # no reconstructions of people
    maps = next(picture for picture in pictures if "group mean" in (picture["alt"] or ""))
    assert "people" not in (maps["alt"] or "")
    for picture in pictures:
        kind, _, content = (picture["src"] or "").partition(";base64,")
        content = base64.b64decode(content)
        if kind == "data:image/png":
            assert set(chunks(content)) <= {b"IHDR", b"pHYs", b"IDAT", b"IEND", b"PLTE", b"sBIT"}
        else:
            told = Image.open(io.BytesIO(content)).info
            assert set(told) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_make__shareable_keeps_the_results_of_the_group(html: str, shared: str) -> None:
    text = Parsed(shared).text
    assert "nothing of a single person is on this page" in text
    assert "genomic inflation λ = 1.013" in text
    assert "003 ▼ 18.2, 001 ▲ 6.6" in text
    assert "gwas.n_pcs" in text
    assert "bids" not in text
    of_group = [p for p in Parsed(html).pictures if "plot of the joint" in (p["alt"] or "")]
    assert len(of_group) == 2
    for picture in of_group:
        assert picture["src"] in shared


def test_make__shareable_hides_a_frequency_of_few_carriers(inputs: Path, tmp_path: Path) -> None:
    loci = pd.read_csv(inputs.parent / "loci.tsv", sep="\t")
    loci.loc[0, "effect_allele_frequency"] = 3 / 58
    loci.to_csv(tmp_path / "loci.tsv", sep="\t", index=False)
    rare = changed(inputs, inputs.parent / "rare.json", loci=str(tmp_path / "loci.tsv"))
    assert make(rare, tmp_path / "full.html").exit_code == 0
    assert make(rare, tmp_path / "shared.html", "--shareable").exit_code == 0
    assert ">0.052<" in (tmp_path / "full.html").read_text()
    page = (tmp_path / "shared.html").read_text()
    assert ">0.052<" not in page
    assert "&lt;5 copies" in page


def test_make__shareable_of_fewer_than_five_shows_no_map(tmp_path: Path) -> None:
    tiny = write_study(tmp_path / "tiny", n_scans=30)
    mask = np.ones((4, 4, 4), dtype=bool)
    maps = np.random.default_rng(0).random((3, 64), dtype=np.float32)
    write_cohort(tmp_path / "three.zarr", list("abc"), maps.__getitem__, mask, np.eye(4))
    given = changed(
        tiny, tmp_path / "tiny.json",
        **dict.fromkeys(("scans", "qc", "examples", "joint", "history", "seconds")),
        cohort="three.zarr", quality="few.tsv", loci=None,
    )  # fmt: skip
    (tmp_path / "few.tsv").write_text(
        "sample_id\treconstruction_r2\tin_training\na\t0.5\t0\nb\t0.6\t1\nc\t\t\n"
    )
    assert make(given, tmp_path / "report.html", "--shareable").exit_code == 0
    parsed = Parsed((tmp_path / "report.html").read_text())
    assert parsed.pictures == []
    assert "fewer than 5 people is not shown" in parsed.text


def test_make__shareable_tells_no_error_of_the_group_stage(tmp_path: Path) -> None:
    reason = "The group stage failed: /data/private/g.fam: row 3: the IID '0021' occurs twice"
    (tmp_path / "inputs.json").write_text(json.dumps({"title": "Study", "group": reason}))
    pages = []
    for options in ([], ["--shareable"]):
        assert make(tmp_path / "inputs.json", tmp_path / "page.html", *options).exit_code == 0
        pages.append(Parsed((tmp_path / "page.html").read_text()).text)
    assert [text.count(reason) for text in pages] == [1, 0]
    assert [text.count("The group stage has not finished.") for text in pages] == [4, 5]
    assert not re.search("0021|private", pages[1])


def test_make__says_where_relatives_were_taken_as_unrelated(tmp_path: Path) -> None:
    flags = ["related"] * 6 + [""] * 20
    rows = "".join(f"i{i}\t{flag}\n" for i, flag in enumerate(flags))
    (tmp_path / "qc.tsv").write_text(f"IID\tflags\n{rows}")
    gwas = {
        **{"people": 26, "n_traits": 2, "n_variants": 9, "n_tested": 9, "n_pcs": 0},
        **{"covariates": [], "categorical": []},
    }
    for facts, told in (
        ({"gwas": gwas}, True),
        ({"gwas": gwas, "mixed_model": {"n_variants": 9}}, False),
    ):
        given = {"title": "Study", "samples_qc": "qc.tsv", "facts": facts}
        (tmp_path / "i.json").write_text(json.dumps(given))
        assert make(tmp_path / "i.json", tmp_path / "page.html").exit_code == 0
        text = Parsed((tmp_path / "page.html").read_text()).text
        assert ("mixed_model = true in [gwas] accounts for them" in text) == told


@pytest.mark.parametrize(
    ("flags", "n", "told", "shared"),
    [
        (["related"] * 6 + ["ancestry"] * 2, 30, "8 flagged (6 related, 2 ancestry)",
         "5 or more people flagged (6 related, <5 ancestry)"),
        (["related,ancestry"] * 2 + ["related"] * 6 + ["ancestry"] * 6, 30,
         "14 flagged (8 related, 8 ancestry)", "5 or more people flagged (8 related, 8 ancestry)"),
        (["related"] * 6, 30, "6 flagged (6 related)", "6 people flagged (6 related)"),
        (["related", "ancestry"], 30, "2 flagged (1 related, 1 ancestry)", "<5 people flagged."),
        ([], 6, "0 flagged.", "0 people flagged."),
    ],
)  # fmt: skip
def test_make__shareable_tells_no_flag_of_few(
    tmp_path: Path, flags: list[str], n: int, told: str, shared: str
) -> None:
    table = pd.DataFrame({"IID": range(n), "flags": [*flags, *["n/a"] * (n - len(flags))]})
    table.to_csv(tmp_path / "qc.tsv", sep="\t", index=False)
    (tmp_path / "i.json").write_text(json.dumps({"title": "Study", "samples_qc": "qc.tsv"}))
    for options, said in (([], f"of {n} people were checked: {told}"), (["--shareable"], shared)):
        assert make(tmp_path / "i.json", tmp_path / "page.html", *options).exit_code == 0
        text = Parsed((tmp_path / "page.html").read_text()).text
        assert said in text
        assert ("among fewer than 20 people" in text) == (n < 20)
    assert f"{n} people" not in text.replace("20 people", "")


def test_make__tells_the_methods_of_what_ran(inputs: Path, tmp_path: Path) -> None:
    facts = {
        "scans": {"finished": 29, "people": 29},
        "dti": {"method": "WLS", "max_bval": 1500.0, "higher_shells": False},
    }
    given = changed(inputs, inputs.parent / "facts.json", facts=facts)
    for options in ([], ["--shareable"]):
        assert make(given, tmp_path / "report.html", *options).exit_code == 0
        text = Parsed((tmp_path / "report.html").read_text()).text
        assert "weighted linear least squares [2] through DIPY's tensor model [3]" in text
        assert "exact F test of the canonical R²" in text  # the table of the joint test says so
        assert "autoencoder" not in text.split("Methods")[-1]
        assert "doi:10.3389/fninf.2014.00008" in text


def test_make__tells_means_of_labels_from_components(inputs: Path, tmp_path: Path) -> None:
    history = tmp_path / "history.tsv"
    history.write_text("component\tlabel\tn_voxels\ncomponent_000\t3\t70\ncomponent_001\t8\t5\n")
    given = changed(inputs, inputs.parent / "labels.json", history=str(history))
    assert make(given, tmp_path / "report.html").exit_code == 0
    assert "means of 2 labels of an atlas" in Parsed((tmp_path / "report.html").read_text()).text


def test_make__facts_that_lack_something_are_named(inputs: Path, tmp_path: Path) -> None:
    given = changed(inputs, inputs.parent / "wrong-facts.json", facts={"dti": {"method": "WLS"}})
    result = make(given, tmp_path / "report.html")
    assert result.exit_code == 1
    assert "facts: cannot be told" in result.output
    assert "max_bval" in result.output


def test_make__writes_the_same_bytes_again(inputs: Path, html: str, tmp_path: Path) -> None:
    assert make(inputs, tmp_path / "again.html").exit_code == 0
    assert (tmp_path / "again.html").read_text() == html


def test_make__survives_empty_tables(inputs: Path, tmp_path: Path) -> None:
    """No scan finished, no locus found."""
    for name in ("qc", "loci"):
        header = (inputs.parent / f"{name}.tsv").read_text().splitlines()[0]
        (tmp_path / f"{name}.tsv").write_text(header + "\n")
    empty = changed(
        inputs,
        inputs.parent / "empty.json",
        qc=str(tmp_path / "qc.tsv"),
        loci=str(tmp_path / "loci.tsv"),
    )
    result = make(empty, tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    text = Parsed((tmp_path / "report.html").read_text()).text
    assert "No scan has finished" in text
    assert "No variant reaches p\u00a0≤\u00a05 × 10⁻⁸." in text


@pytest.fixture(scope="module")
def of_both(inputs: Path) -> Path:
    """Inputs of a study with both representations, of a cohort whose truth is known."""
    kept = np.linspace(0.3, 0.7512, 8)
    names = [f"component_{k:03d}" for k in range(8)]
    table = pd.DataFrame({"component": names, "variance": kept, "variance_kept": kept})
    table.to_csv(inputs.parent / "components.tsv", sep="\t", index=False)
    loci = pd.read_csv(inputs.parent / "loci.tsv", sep="\t", dtype=str)[:1]
    loci["traits"] = "component_004,component_001"
    loci.to_csv(inputs.parent / "linear_loci.tsv", sep="\t", index=False)
    joint = pq.read_table(inputs.parent / "joint.parquet")
    about = {"axoloci": json.dumps({"lambda_gc": 0.991, "traits": names})}
    pq.write_table(joint.replace_schema_metadata(about), inputs.parent / "linear_joint.parquet")
    shared = {"examples": "examples.npz", "quality": "quality.tsv", "n_planted": 3}
    of_autoencoder = {"history": "history.tsv", "joint": "joint.parquet", "loci": "loci.tsv"}
    of_autoencoder |= {"n_found": 3, "n_false": 0, "seconds_learnt": 75.0}
    of_linear = {"history": "components.tsv", "joint": "linear_joint.parquet"}
    of_linear |= {"loci": "linear_loci.tsv", "n_found": 1, "n_false": 2, "seconds_learnt": 12.0}
    parts = {"autoencoder": shared | of_autoencoder, "linear": shared | of_linear}
    none = dict.fromkeys(("history", "joint", "loci", "examples", "quality"))
    return changed(inputs, inputs.parent / "both.json", representations=parts, **none)


def test_make__each_representation_has_its_sections(of_both: Path, tmp_path: Path) -> None:
    result = make(of_both, tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    html = (tmp_path / "report.html").read_text()
    parsed = Parsed(html)
    # quality, maps; of each: training, examples, Manhattan, quantiles
    assert len(parsed.pictures) == 10
    for title in ("Autoencoder", "Linear representation"):
        assert html.count(f"<h3>{title}</h3>") == 3
    text = " ".join(parsed.text.split())
    assert "60 epochs of training" in text
    assert "8 components of the smoothed maps with 75.1% of their variance" in text
    assert "004 ▼ 18.2, 001 ▲ 6.6" in text  # of the linear representation's only locus
    assert "loci, autoencoder" in text
    assert "locus, linear representation" in text


@pytest.mark.parametrize("shareable", [False, True])
def test_make__one_table_compares_the_representations(
    of_both: Path, inputs: Path, tmp_path: Path, shareable: bool
) -> None:
    result = make(of_both, tmp_path / "report.html", *(["--shareable"] if shareable else []))
    assert result.exit_code == 0, result.output
    (table,) = re.findall(
        r'aria-label="Representations">(.*?)</table>',
        (tmp_path / "report.html").read_text(),
        flags=re.DOTALL,
    )
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    quality = pd.read_csv(inputs.parent / "quality.tsv", sep="\t")
    r2 = quality["reconstruction_r2"][quality["in_training"] == 0].mean()
    assert rows == [
        ["Autoencoder", "8", f"{r2:.3f}", "1.013", "3", "3 of 3", "0", "75 s"],
        ["Linear representation", "8", f"{r2:.3f}", "0.991", "1", "1 of 3", "2", "12 s"],
    ]


def test_make__truth_is_not_told_where_it_is_not_known(of_both: Path, tmp_path: Path) -> None:
    content = json.loads(of_both.read_text())
    for own in content["representations"].values():
        del own["n_planted"]
    (of_both.parent / "no_truth.json").write_text(json.dumps(content))
    assert make(of_both.parent / "no_truth.json", tmp_path / "report.html").exit_code == 0
    page = (tmp_path / "report.html").read_text()
    assert "learning and encoding" in page
    assert "planted loci" not in page


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"title": None}, "title: Field required"),
        ({"representations": {"linear": {"loci": "x.tsv"}}}, r"no such file for linear\.loci: "),
        ({"history": "scans.tsv"}, "has no column epoch, variance_kept or label"),
        ({"manhattan": "x.png"}, "manhattan: Extra inputs are not permitted"),
        ({"qc": "absent.tsv", "loci": "gone.tsv"}, r"loci: .*gone\.tsv; qc: .*absent\.tsv"),
        ({"qc": "scans.tsv", "scans": "qc.tsv"}, "has no column status"),
        ({"joint": "loci.tsv"}, "not a table of axoloci-genetics joint"),
        ({"examples": "joint.parquet"}, "not examples of axoloci-encoder"),
    ],
)
def test_make__names_what_is_wrong(
    inputs: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    wrong = inputs.parent / "wrong.json"
    given = {"title": "Study", **values}
    wrong.write_text(json.dumps({name: value for name, value in given.items() if value}))
    result = make(wrong, tmp_path / "report.html")
    assert result.exit_code == 1
    assert re.search(message, result.output), result.output
    assert not (tmp_path / "report.html").exists()
