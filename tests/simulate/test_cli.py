"""The command writes BIDS, PLINK and truth that outside tools read, the same at every run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from dipy.core.gradients import gradient_table
from dipy.io.gradients import read_bvals_bvecs
from dipy.reconst.dti import TensorModel
from plink_files import unpack

from axoloci.io.nifti import read_nifti
from axoloci.io.sidecars import read_phase_encoding
from axoloci.scans import find_bids_scans
from axoloci.tasks.simulate.cli import main

SMALL = ("--n-subjects", "8", "--n-variants", "800", "--voxel-size", "10")


def simulate(out: Path, *options: object) -> Result:
    """Run the command; the small options first, so that a test may override them."""
    return CliRunner().invoke(main, ["cohort", str(out), *SMALL, *map(str, options)])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight still people without noise, and their truth."""
    out = tmp_path_factory.mktemp("simulate") / "cohort"
    still = ("--snr", "inf", "--motion-mm", 0, "--motion-deg", 0, "--missing-rate", 0.05)
    done = simulate(out, *still, "--families", 1, "--write-truth")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    return out


def test_cohort__writes_bids_that_dipy_fits_to_the_planted_fa(cohort: Path) -> None:
    description = json.loads((cohort / "bids" / "dataset_description.json").read_text())
    assert description["DatasetType"] == "raw"
    people = pd.read_csv(cohort / "bids" / "participants.tsv", sep="\t")
    assert people.participant_id.tolist() == [f"sub-{i:04d}" for i in range(1, 9)]
    for label in people.participant_id[:3]:
        stem = cohort / "bids" / label / "dwi" / f"{label}_dwi"
        dwi, affine = read_nifti(f"{stem}.nii.gz", 4)
        bval, bvec = read_bvals_bvecs(f"{stem}.bval", f"{stem}.bvec")
        planted, planted_affine = read_nifti(cohort / "truth" / f"{label}_fa.nii.gz", 3)
        np.testing.assert_array_equal(affine, planted_affine)
        fit = TensorModel(gradient_table(bval, bvecs=bvec)).fit(dwi, mask=planted > 0)
        assert np.abs(fit.fa - planted)[planted > 0].max() < 2e-6


def test_cohort__planted_fa_is_the_table_of_offsets_above_the_template(cohort: Path) -> None:
    truth = json.loads((cohort / "truth.json").read_text())
    region = read_nifti(cohort / "regions.nii.gz", 3)[0].astype(int)
    template = read_nifti(cohort / "template.nii.gz", 3)[0]
    assert np.bincount(region.ravel())[1:].tolist() == [r["n_voxels"] for r in truth["regions"]]
    names = [r["name"] for r in truth["regions"]]
    offset = pd.read_csv(cohort / "truth" / "fa_offset.tsv", sep="\t", dtype={"IID": str})
    assert offset.columns.tolist() == ["IID", "population", "ancestry", *names]
    assert template[region > 0].min() > 0.2
    mean_fa = []
    for sample in offset.IID:
        fa = read_nifti(cohort / "truth" / f"sub-{sample}_fa.nii.gz", 3)[0]
        mean_fa.append(fa[fa > 0.3].mean())
    weight = np.bincount(region.ravel())[1:-1]
    shared = offset[names[:-1]].to_numpy() @ weight / weight.sum()
    assert np.corrcoef(mean_fa, shared)[0, 1] > 0.7


def test_cohort__plink2_reads_the_genotypes(
    cohort: Path, tool: Callable[[str], str], tmp_path: Path
) -> None:
    plink2 = tool("plink2")
    out = tmp_path / "plink"
    subprocess.run(
        f"{plink2} --bfile {cohort}/genotypes --freq --missing --nonfounders --out {out}".split(),
        check=True,
        capture_output=True,
    )
    table = pd.read_csv(f"{out}.afreq", sep="\t", index_col="ID")
    assert len(table) == 800
    truth = json.loads((cohort / "truth.json").read_text())
    assert len(truth["loci"]) == 3
    for locus in truth["loci"]:
        row = table.loc[locus["variant_id"]]
        assert row["ALT"] == locus["effect_allele"]
        assert row["REF"] == locus["other_allele"]
        assert row["ALT_FREQS"] == pytest.approx(locus["effect_allele_frequency"], abs=1e-5)
    missing = pd.read_csv(f"{out}.vmiss", sep="\t")
    assert missing["F_MISS"].mean() == pytest.approx(0.05, abs=0.015)


def test_cohort__covariates_agree_with_the_other_tables(cohort: Path) -> None:
    covariates = pd.read_csv(cohort / "covariates.tsv", sep="\t", dtype={"IID": str})
    fam = pd.read_csv(cohort / "genotypes.fam", sep="\t", header=None, dtype=str)
    people = pd.read_csv(cohort / "bids" / "participants.tsv", sep="\t")
    assert covariates.columns.tolist() == ["IID", "age", "sex", "site"]
    assert covariates.IID.tolist() == fam[1].tolist()
    assert covariates.sex.map({1: "1", 0: "2"}).tolist() == fam[4].tolist()
    assert covariates.sex.map({1: "M", 0: "F"}).tolist() == people.sex.tolist()
    assert fam.loc[2, [0, 2, 3]].tolist() == ["0001", "0001", "0002"]  # a child of the family


def test_cohort__is_the_same_at_every_run_and_number_of_processes(tmp_path: Path) -> None:
    noisy = ("--seed", 7, "--n-populations", 2, "--ancestry-effect", 0.01)
    for name, n_procs in (("one", 1), ("two", 2)):
        done = simulate(tmp_path / name, *noisy, "--n-procs", n_procs)
        assert done.exit_code == 0, done.output
    first, second = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert len(first) > 8 * 4
    assert first == second
    third = tmp_path / "other"
    simulate(third, *noisy[2:], "--seed", 8)
    scan = "bids/sub-0001/dwi/sub-0001_dwi.nii.gz"
    assert files_of(third)[scan] != first[scan]
    dwi = read_nifti(tmp_path / "one" / scan, 4, np.int16)[0]
    assert dwi.dtype == np.int16
    assert (dwi[0, 0, 0] > 0).any()  # noise in air
    motion = pd.read_csv(tmp_path / "one" / "truth" / "motion.tsv", sep="\t")
    assert len(motion) == 8 * 9
    assert (motion[motion.volume == 0].iloc[:, 2:] == 0).all(axis=None)


def test_cohort__artefacts_come_with_their_truth(tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    asked = ("--distortion-mm", 8, "--dropped-slices", 0.1, "--ringing", "--write-truth")
    done = simulate(out, *asked)
    assert done.exit_code == 0, done.output
    scans = find_bids_scans(out / "bids")
    assert len(scans) == 8
    for scan in scans:
        encoding, reverse = (read_phase_encoding(path) for path in (scan.json, scan.reverse_json))
        assert (encoding.axis, encoding.sign, reverse.sign) == (1, -1, 1)
        assert encoding.readout_time == reverse.readout_time
        b0, affine = read_nifti(scan.reverse_b0, 3)
        dwi, of_dwi = read_nifti(scan.dwi, 4)
        np.testing.assert_array_equal(affine, of_dwi)
        assert 0.5 < np.corrcoef(b0.ravel(), dwi[..., 0].ravel())[0, 1] < 0.99
    truth = out / "truth"
    distortion = pd.read_csv(truth / "distortion.tsv", sep="\t", dtype={"IID": str})
    displacement = read_nifti(truth / "sub-0001_displacement.nii.gz", 3)[0]
    fa = read_nifti(truth / "sub-0001_fa.nii.gz", 3)[0]
    assert distortion.max_mm[0] == pytest.approx(np.abs(displacement[fa > 0]).max())
    assert distortion.max_mm.between(4, 9).all()
    assert (distortion.reverse_trans_x != 0).all()
    dropped = pd.read_csv(truth / "dropped_slices.tsv", sep="\t", dtype={"IID": str})
    assert set(dropped.IID) == {scan.sample_id for scan in scans}
    assert dropped.volume.min() >= 1
    assert dropped.signal_left.max() <= 0.5
    assert not (truth.parent / "bids/sub-0001/fmap/sub-0001_dir-PA_epi.bval").exists()


def test_cohort__samples_real_genotypes_and_keeps_their_structure(
    data_dir: Path, tool: Callable[[str], str], tmp_path: Path
) -> None:
    plink2 = tool("plink2")
    prefix = unpack(data_dir / "genotypes" / "hapmap3-957", "data", tmp_path / "hapmap")
    out = tmp_path / "cohort"
    arguments = ["cohort", out, "--genotypes", prefix, "--n-subjects", 60, "--voxel-size", 16]
    done = CliRunner().invoke(main, [str(a) for a in [*arguments, "--ancestry-effect", 0.03]])
    assert done.exit_code == 0, done.output
    kept = pd.read_csv(out / "genotypes.fam", sep="\t", header=None, dtype=str)
    assert len(kept) == 60
    kept[[0, 1]].to_csv(tmp_path / "keep", sep="\t", header=False, index=False)
    for name, source in (("ours", out / "genotypes"), ("theirs", prefix)):
        subprocess.run(
            f"{plink2} --bfile {source} --keep keep --geno-counts --out {name}".split(),
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
    ours = (tmp_path / "ours.gcount").read_text()
    assert ours == (tmp_path / "theirs.gcount").read_text()
    assert ours.count("\n") == 14_390
    offset = pd.read_csv(out / "truth" / "fa_offset.tsv", sep="\t", dtype={"IID": str})
    assert offset.IID.tolist() == kept[1].tolist()
    # The leading PC of HapMap separates West Africans from the others.
    slope = np.polyfit(offset.ancestry, offset.other_white_matter, 1)[0]
    assert slope == pytest.approx(0.03, abs=0.01)
    groups = pd.read_csv(
        data_dir / "genotypes" / "hapmap3-957" / "relationships_w_pops_121708.txt", sep="\t"
    ).set_index("IID")["population"]
    africa = offset.IID.map(groups).isin(["YRI", "LWK", "ASW", "MKK"])
    assert abs(np.corrcoef(offset.ancestry, africa)[0, 1]) > 0.8


def test_cohort__scans_the_anatomy_of_a_real_scan(data_dir: Path, tmp_path: Path) -> None:
    dwi = data_dir / "dwi" / "mappertrac-sub-011591" / "sub-011591_dwi.nii.gz"
    still = ("--snr", "inf", "--motion-mm", 0, "--motion-deg", 0, "--write-truth")
    out = tmp_path / "cohort"
    done = simulate(out, "--anatomy", dwi, *still, "--voxel-size", 8)
    assert done.exit_code == 0, done.output
    truth = json.loads((out / "truth.json").read_text())
    names = {region["name"] for region in truth["regions"]}
    assert {"projection_left_anterior", "projection_right_anterior"} <= names
    assert truth["settings"]["anatomy"] == "sub-011591_dwi.nii.gz"
    template = read_nifti(out / "template.nii.gz", 3)[0]
    region = read_nifti(out / "regions.nii.gz", 3)[0]
    # 1,473 ml by another tool's mask; an ordinary brain's white matter
    assert (template > 0).sum() * 0.8**3 == pytest.approx(1473, rel=0.15)
    assert 0.3 < template[region > 0].mean() < 0.5
    stem = out / "bids" / "sub-0001" / "dwi" / "sub-0001_dwi"
    scan = read_nifti(f"{stem}.nii.gz", 4)[0]
    bval, bvec = read_bvals_bvecs(f"{stem}.bval", f"{stem}.bvec")
    planted = read_nifti(out / "truth" / "sub-0001_fa.nii.gz", 3)[0]
    fit = TensorModel(gradient_table(bval, bvecs=bvec)).fit(scan, mask=planted > 0)
    assert np.abs(fit.fa - planted)[planted > 0].max() < 2e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ancestry-effect", 0.01), "--n-populations 2 or more"),
        (("--families", 3), "more than --n-subjects 8"),
        (("--genotypes", "g", "--families", 1), "--families: only for simulated genotypes"),
        (("--anatomy-bval", "x.bval"), "need --anatomy"),
        (("--anatomy", "absent.nii.gz"), "absent.bval: cannot be read"),
        (("--n-variants", 1, "--n-loci", 2), "ask for fewer loci"),
        (("--n-loci", 12), "the anatomy has 11"),
    ],
)
def test_cohort__refuses_options_that_cannot_be_met(
    tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    done = simulate(tmp_path / "cohort", *options)
    assert done.exit_code == 1
    assert message in done.output
    assert not (tmp_path / "cohort" / "truth.json").exists()


def test_cohort__refuses_genotypes_that_are_not_there(tmp_path: Path) -> None:
    arguments = ["cohort", str(tmp_path / "out"), "--genotypes", str(tmp_path / "absent")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "absent.bed: no such file" in done.output


def test_cohort__refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("")
    done = simulate(tmp_path)
    assert done.exit_code == 1
    assert "not empty" in done.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((".fam", "i0", "i_0"), "IID 'i_0' cannot be a BIDS label"),
        ((".fam", "f1\ti1", "f0\ti0"), "the IID 'i0' occurs twice"),
        ((".fam", "i1\t", "i0\t"), "IID 'f0 i0' cannot be a BIDS label"),
        ((".bed", "l", "m"), "not a PLINK 1 bed file"),
    ],
)
def test_cohort__refuses_faulty_genotypes(
    tmp_path: Path, change: tuple[str, str, str], message: str
) -> None:
    prefix = tmp_path / "g"
    (tmp_path / "g.fam").write_text("".join(f"f{i}\ti{i}\t0\t0\t1\t-9\n" for i in range(8)))
    (tmp_path / "g.bim").write_text("".join(f"1\trs{i}\t0\t{1000 + i}\tA\tC\n" for i in range(5)))
    (tmp_path / "g.bed").write_bytes(b"l\x1b\x01" + bytes(10))
    suffix, old, new = change
    path = Path(f"{prefix}{suffix}")
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1))
    out = tmp_path / "out"
    arguments = ["cohort", str(out), "--genotypes", str(prefix), "--n-subjects", "8"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert message in done.output
