"""Discovery of scans: BIDS with inheritance, and plain tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.nifti import write_nifti
from axoloci.scans import (
    Scan,
    find_bids_scans,
    find_by_pattern,
    find_scans,
    passed_over,
    read_scan_table,
    scan_faults,
)
from axoloci.study import Inputs

BVAL = "0 1000 1000\n"
BVEC = "0 1 0\n0 0 1\n0 0 0\n"


def make_bids(root: Path, files: dict[str, str]) -> Path:
    """A BIDS data set with the named files; images are empty, discovery does not open them."""
    root.mkdir(parents=True)
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "test", "BIDSVersion": "1.9.0"})
    )
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_find_bids_scans__sessions_and_runs(tmp_path: Path) -> None:
    names = [
        "sub-01/ses-a/dwi/sub-01_ses-a_run-1_dwi",
        "sub-01/ses-a/dwi/sub-01_ses-a_run-2_dwi",
        "sub-02/dwi/sub-02_dwi",
    ]
    files = {
        f"{name}{ext}": content
        for name in names
        for ext, content in ((".nii.gz", ""), (".bval", BVAL), (".bvec", BVEC))
    }
    scans = find_bids_scans(make_bids(tmp_path / "bids", files))
    assert [scan.prefix for scan in scans] == [
        "sub-01_ses-a_run-1",
        "sub-01_ses-a_run-2",
        "sub-02",
    ]
    assert [scan.sample_id for scan in scans] == ["01", "01", "02"]
    assert scans[0].folder == Path("sub-01/ses-a/dwi")
    assert scans[1].bval.name == "sub-01_ses-a_run-2_dwi.bval"


def test_find_bids_scans__gradient_tables_are_inherited(tmp_path: Path) -> None:
    root = make_bids(
        tmp_path / "bids",
        {
            "dwi.bval": BVAL,
            "dwi.bvec": BVEC,
            "sub-01/sub-01_dwi.bvec": BVEC,
            "sub-01/dwi/sub-01_acq-x_dwi.nii.gz": "",
            "sub-02/dwi/sub-02_acq-x_dwi.nii.gz": "",
            "sub-02/dwi/sub-02_acq-y_dwi.bval": BVAL,  # another acquisition's
        },
    )
    first, second = find_bids_scans(root)
    assert first.bval == root / "dwi.bval"
    assert first.bvec == root / "sub-01/sub-01_dwi.bvec"
    assert second.bval == root / "dwi.bval"


def test_find_bids_scans__the_most_specific_of_one_folder_wins(tmp_path: Path) -> None:
    root = make_bids(
        tmp_path / "bids",
        {
            "dwi.bval": "0 1\n",
            "acq-x_dwi.bval": BVAL,
            "dwi.bvec": BVEC,
            "sub-01/dwi/sub-01_acq-x_dwi.nii.gz": "",
        },
    )
    (scan,) = find_bids_scans(root)
    assert scan.bval == root / "acq-x_dwi.bval"


def test_find_bids_scans__field_maps_and_phase_are_passed_over(tmp_path: Path) -> None:
    root = make_bids(
        tmp_path / "bids",
        {
            "dwi.bval": BVAL,
            "dwi.bvec": BVEC,
            "sub-01/dwi/sub-01_dir-AP_dwi.nii.gz": "",
            "sub-01/dwi/sub-01_dir-PA_dwi.nii.gz": "",
            "sub-01/dwi/sub-01_dir-PA_dwi.bval": "0 5 0\n",
            "sub-01/dwi/sub-01_dir-AP_part-phase_dwi.nii.gz": "",
            "sub-01/dwi/sub-01_dir-AP_sbref.nii.gz": "",
        },
    )
    assert [scan.prefix for scan in find_bids_scans(root)] == ["sub-01_dir-AP"]
    (root / "dwi.bval").write_text("0 1 1\n")  # then it is no field map, but a fault
    assert [scan.prefix for scan in find_bids_scans(root)] == ["sub-01_dir-AP", "sub-01_dir-PA"]


def test_find_bids_scans__sidecars_are_inherited(tmp_path: Path) -> None:
    root = make_bids(
        tmp_path / "bids",
        {
            "dwi.bval": BVAL,
            "dwi.bvec": BVEC,
            "dwi.json": '{"Manufacturer": "A", "EchoTime": 0.1, "Other": 1}',
            "sub-01/dwi/sub-01_dwi.nii.gz": "",
            "sub-01/dwi/sub-01_dwi.json": '{"EchoTime": 0.08}',
        },
    )
    (scan,) = find_bids_scans(root)
    assert scan.acquisition == {"Manufacturer": "A", "EchoTime": 0.08}


AP = '{"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05'
PA = '{"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05'
DWI = "sub-01/dwi/sub-01_dir-AP_dwi"
EPI = "sub-01/fmap/sub-01_dir-PA_epi"


@pytest.mark.parametrize(
    ("scan", "epi", "found"),
    [
        (AP + ', "B0FieldSource": "pe"}', PA + ', "B0FieldIdentifier": ["x", "pe"]}', True),
        (AP + ', "B0FieldSource": "other"}', PA + ', "B0FieldIdentifier": "pe"}', False),
        (AP + "}", PA + ', "IntendedFor": "bids::sub-01/dwi/sub-01_dir-AP_dwi.nii.gz"}', True),
        (AP + "}", PA + ', "IntendedFor": ["bids:raw:sub-01/dwi/sub-01_dir-AP_dwi.nii.gz"]}', True),
        (AP + "}", PA + ', "IntendedFor": ["dwi/sub-01_dir-AP_dwi.nii.gz"]}', True),
        (AP + "}", PA + ', "IntendedFor": "bids::sub-02/dwi/sub-01_dir-AP_dwi.nii.gz"}', False),
        (AP + "}", PA + "}", False),  # of another image perhaps
        (AP + "}", AP + ', "IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}', False),
        ("{}", PA + ', "IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}', False),
        (  # as dcm2niix writes where a scanner keeps the sign for itself
            '{"PhaseEncodingAxis": "j"}',
            '{"PhaseEncodingAxis": "j", "IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}',
            True,
        ),
        (
            '{"PhaseEncodingAxis": "i"}',
            '{"PhaseEncodingAxis": "j", "IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}',
            False,
        ),
    ],
)
def test_find_bids_scans__field_map_of_reverse_phase_encoding(
    tmp_path: Path, scan: str, epi: str, found: bool
) -> None:
    files = {f"{DWI}.nii.gz": "", f"{DWI}.json": scan, f"{EPI}.nii.gz": "", f"{EPI}.json": epi}
    root = make_bids(tmp_path / "sub-x" / "bids", {"dwi.bval": BVAL, "dwi.bvec": BVEC, **files})
    (of_one,) = find_bids_scans(root)
    assert of_one.reverse_b0 == (root / f"{EPI}.nii.gz" if found else None)
    assert of_one.reverse_json == (root / f"{EPI}.json" if found else None)
    assert of_one.json == (None if scan == "{}" else root / f"{DWI}.json")


@pytest.mark.parametrize(
    ("scan", "epi", "words"),
    [
        ("", '"IntendedFor": "dwi/sub-01_dir-AP_run-1_dwi.nii.gz"', "IntendedFor is 'dwi/sub-01_"),
        ('"B0FieldSource": "pe"', '"B0FieldIdentifier": "pepolar"', "Identifier is 'pepolar'"),
        ("", '"IntendedFor": "func/sub-01_task-rest_bold.nii.gz", "B0FieldIdentifier": "a"', ""),
        ("", '"IntendedFor": ["dwi/no.nii.gz", "dwi/sub-01_dir-AP_dwi.nii.gz"]', ""),
        ("", "", ""),
    ],
)
def test_find_bids_scans__a_field_map_that_names_no_scan_is_told(
    tmp_path: Path, scan: str, epi: str, words: str
) -> None:
    told = {DWI: f"{AP}{', ' * bool(scan)}{scan}}}", EPI: f"{PA}{', ' * bool(epi)}{epi}}}"}
    files = {f"{name}.json": text for name, text in told.items()}
    files |= {f"{DWI}.nii.gz": "", f"{EPI}.nii.gz": ""}
    root = make_bids(tmp_path / "bids", {"dwi.bval": BVAL, "dwi.bvec": BVEC, **files})
    (of_one,) = find_bids_scans(root)
    assert bool(of_one.unpaired) is bool(words)
    if words:
        assert of_one.unpaired.startswith(f"{root / EPI}.json: ")
        assert words in of_one.unpaired


def test_find_bids_scans__reverse_phase_encoding_in_the_same_folder(tmp_path: Path) -> None:
    session = "sub-01/ses-1/dwi/sub-01_ses-1"
    files = {
        "dwi.bval": BVAL,
        "dwi.bvec": BVEC,
        "dir-AP_dwi.json": AP + "}",
        "dir-PA_dwi.json": PA + "}",
        "dir-PA_sbref.json": PA + "}",
        f"{session}_dir-AP_run-1_dwi.nii.gz": "",
        f"{session}_dir-AP_run-2_dwi.nii.gz": "",
        f"{session}_dir-PA_run-1_dwi.nii.gz": "",
        f"{session}_dir-PA_run-1_dwi.bval": "0 0\n",
        f"{session}_dir-PA_run-2_sbref.nii.gz": "",
        "sub-01/ses-2/dwi/sub-01_ses-2_dir-AP_dwi.nii.gz": "",
    }
    root = make_bids(tmp_path / "bids", files)
    one, two, alone = find_bids_scans(root)
    assert one.json == root / "dir-AP_dwi.json"
    assert alone.reverse_b0 is None  # not of another session
    b0 = root / f"{session}_dir-PA_run-1_dwi.nii.gz"
    assert one.reverse_b0 == two.reverse_b0 == b0
    assert one.reverse_json == root / "dir-PA_dwi.json"
    b0.unlink()
    one, two, _ = find_bids_scans(root)
    assert one.reverse_b0 == root / f"{session}_dir-PA_run-2_sbref.nii.gz"
    assert one.reverse_json == root / "dir-PA_sbref.json"


def test_find_bids_scans__whole_scans_of_both_directions_serve_each_other(tmp_path: Path) -> None:
    names = {way: f"sub-01/dwi/sub-01_dir-{way}_dwi" for way in ("AP", "PA")}
    files = {f"{names['AP']}.json": AP + "}", f"{names['PA']}.json": PA + "}"}
    files |= {f"{name}.nii.gz": "" for name in names.values()}
    root = make_bids(tmp_path / "bids", {"dwi.bval": BVAL, "dwi.bvec": BVEC, **files})
    one, other = find_bids_scans(root)
    assert (one.reverse_b0, other.reverse_b0) == (other.dwi, one.dwi)
    (root / f"{names['PA']}.bval").write_text("1000 0 1000\n")  # does not begin with a b0
    one, other = find_bids_scans(root)
    assert (one.reverse_b0, other.reverse_b0) == (None, one.dwi)


def tilted(degrees: float) -> NDArray[np.float64]:
    """An affine whose second axis is turned about the first."""
    a = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    return affine


@pytest.mark.parametrize(
    ("affine", "found"),
    [(tilted(9), True), (tilted(11), False), (np.diag([1.0, -1, 1, 1]), False)],
)
def test_find_bids_scans__a_pair_must_lie_alike(
    tmp_path: Path, affine: NDArray[np.float64], found: bool
) -> None:
    """Letters of the axes alone do not tell it: an image may lie oblique, or be stored turned."""
    epi = PA + ', "IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}'
    files = {f"{DWI}.json": AP + "}", f"{EPI}.json": epi, f"{EPI}.nii.gz": ""}
    root = make_bids(tmp_path / "bids", {"dwi.bval": BVAL, "dwi.bvec": BVEC, **files})
    (root / "sub-01/dwi").mkdir(exist_ok=True)
    write_nifti(root / f"{DWI}.nii.gz", np.ones((3, 3, 3, 3), np.float32), np.eye(4))
    write_nifti(root / f"{EPI}.nii.gz", np.ones((3, 3, 3), np.float32), affine)
    (scan,) = find_bids_scans(root)
    assert scan.reverse_b0 == (root / f"{EPI}.nii.gz" if found else None)
    assert scan_faults(scan, "preprocess", distortion=True) == []


@pytest.mark.parametrize(
    ("shared", "own", "epi", "lost"),
    [
        ({"TotalReadoutTime": 0.05}, {}, {}, False),  # the same of both: nothing is lost
        ({}, {}, {}, False),
        ({}, {"TotalReadoutTime": 0.05}, {"TotalReadoutTime": 0.1}, False),
        ({"TotalReadoutTime": 0.05}, {}, {"TotalReadoutTime": 0.1}, True),
        ({"EffectiveEchoSpacing": 1e-3, "ReconMatrixPE": 51}, {}, {"TotalReadoutTime": 0.1}, True),
    ],
)
def test_find_bids_scans__readout_times_that_are_inherited(
    tmp_path: Path, shared: dict[str, float], own: dict[str, float], epi: dict[str, Any], lost: bool
) -> None:
    """The correction reads one sidecar of each image: a ratio that it would miss is refused."""
    told = {
        "dwi.json": shared,
        f"{DWI}.json": {"PhaseEncodingDirection": "j-", **own},
        f"{EPI}.json": {
            "PhaseEncodingDirection": "j",
            "IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz",
            **epi,
        },
    }
    if not epi:
        told["epi.json"] = shared
    files = {name: json.dumps(content) for name, content in told.items()}
    images = {f"{DWI}.nii.gz": "", f"{EPI}.nii.gz": ""}
    root = make_bids(tmp_path / "bids", {"dwi.bval": BVAL, "dwi.bvec": BVEC, **files, **images})
    write_nifti(root / f"{DWI}.nii.gz", np.ones((3, 3, 3, 3), np.float32), np.eye(4))
    write_nifti(root / f"{EPI}.nii.gz", np.ones((3, 3, 3), np.float32), np.eye(4))
    (scan,) = find_bids_scans(root)
    assert scan.reverse_b0 == root / f"{EPI}.nii.gz"
    faults = scan_faults(scan, "preprocess", distortion=True)
    assert len(faults) == lost
    assert all("2 times as far" in f and "copy TotalReadoutTime" in f for f in faults)
    assert scan_faults(scan, "preprocess") == []


def test_find_bids_scans__runs_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    runs = {f"sub-01/dwi/sub-01_run-{run}_dwi.nii.gz": "" for run in (10, 2, 1)}
    root = make_bids(tmp_path / "bids", {"dwi.bval": BVAL, "dwi.bvec": BVEC, **runs})
    assert [scan.prefix for scan in find_bids_scans(root)] == [
        "sub-01_run-1",
        "sub-01_run-2",
        "sub-01_run-10",
    ]


def test_find_bids_scans__participants(tmp_path: Path) -> None:
    root = make_bids(
        tmp_path / "bids",
        {
            "dwi.bval": BVAL,
            "dwi.bvec": BVEC,
            "sub-01/dwi/sub-01_dwi.nii.gz": "",
            "sub-02/dwi/sub-02_dwi.nii.gz": "",
        },
    )
    assert [scan.sample_id for scan in find_bids_scans(root, ["sub-02"])] == ["02"]
    with pytest.raises(InputError, match="no DWI found for sub-03"):
        find_bids_scans(root, ["02", "03"])


def test_find_bids_scans__faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no dataset_description\.json"):
        find_bids_scans(tmp_path)
    root = make_bids(tmp_path / "bids", {"README/x": "", "sub-01": "", "sub-02/dwi": ""})
    with pytest.raises(InputError, match="no DWI found"):
        find_bids_scans(root)
    empty = make_bids(tmp_path / "empty", {"sub-01/anat/sub-01_T1w.nii.gz": ""})
    with pytest.raises(InputError, match="no DWI found"):
        find_bids_scans(empty)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"sub-01_dwi.nii.gz": ""}, r"sub-01_dwi\.nii\.gz: no \.bval and no \.bvec applies"),
        ({"sub-01_dwi.nii.gz": "", "sub-01_dwi.bval": BVAL}, r"dwi\.nii\.gz: no \.bvec applies"),
        (
            {"sub-02_dwi.nii": "", "sub-02_dwi.bval": BVAL, "sub-02_dwi.bvec": BVEC},
            "named of sub-02, but lies in sub-01",
        ),
        (
            {
                "sub-01_dwi.nii": "",
                "sub-01_dwi.nii.gz": "",
                "sub-01_dwi.bval": BVAL,
                "sub-01_dwi.bvec": BVEC,
            },
            r"sub-01_dwi\.nii is there as well; keep one of them",
        ),
    ],
)
def test_scan_faults__of_one_scan_stop_no_other(
    tmp_path: Path, files: dict[str, str], words: str
) -> None:
    """They are the scan's own: the list holds it and goes on."""
    files = {f"sub-01/dwi/{name}": content for name, content in files.items()}
    sound = {"sub-03/dwi/sub-03_dwi.nii": "", "sub-03/dwi/sub-03_dwi.bval": BVAL}
    sound["sub-03/dwi/sub-03_dwi.bvec"] = BVEC
    faulty, whole = find_bids_scans(make_bids(tmp_path / "bids", files | sound))
    (fault,) = scan_faults(faulty, "preprocess")
    assert re.search(words, fault)
    assert scan_faults(whole, "preprocess") == []


def test_scan_faults__links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.nii").write_text("")
    (tmp_path / "sound.nii").symlink_to("elsewhere.nii")
    (tmp_path / "a broken.nii").symlink_to(".git/annex/objects/x.nii")
    assert scan_faults(Scan("sub-1", "1", fa=tmp_path / "sound.nii"), "normalize") == []
    (fault,) = scan_faults(Scan("sub-1", "1", fa=tmp_path / "a broken.nii"), "normalize")
    assert "a link to .git/annex/objects/x.nii, which is not there" in fault
    assert f"datalad get '{tmp_path}/a broken.nii'" in fault


def test_find_bids_scans__folders_with_dots_and_links(tmp_path: Path) -> None:
    files = {"dwi.bval": BVAL, "dwi.bvec": BVEC, "dwi.json": "no JSON"}
    root = make_bids(tmp_path / "ds.v1" / "été 1", files)
    store = tmp_path / "store" / "dwi"
    store.mkdir(parents=True)
    (store / "sub-01_dwi.nii.gz").write_text("")
    (root / "sub-01").symlink_to(store.parent)
    (scan,) = find_bids_scans(root)
    assert scan.dwi == root / "sub-01/dwi/sub-01_dwi.nii.gz"
    assert scan.acquisition == {}


@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_read_scan_table__runs_masks_and_relative_paths(tmp_path: Path, delimiter: str) -> None:
    rows = [
        ["participant_id", "dwi", "bval", "bvec", "mask"],
        ["sub-02", "a b.nii.gz", "a.bval", "a.bvec", ""],
        ["01", "1.nii.gz", "a.bval", "a.bvec", "m.nii"],
        ["01", "2.nii.gz", "a.bval", "a.bvec", ""],
    ]
    table = tmp_path / "scans.tsv"
    text = "\r\n".join(delimiter.join(row) for row in rows) + "\r\n"
    table.write_bytes("\ufeff".encode() + text.encode())
    scans = read_scan_table(table)
    assert [scan.prefix for scan in scans] == ["sub-01_run-1", "sub-01_run-2", "sub-02"]
    assert scans[0].mask == tmp_path / "m.nii"
    assert scans[2].dwi == tmp_path / "a b.nii.gz"
    assert [scan.sample_id for scan in read_scan_table(table, ["sub-02"])] == ["02"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("participant_id\tdwi\tbval\n", "column bvec missing"),
        ("participant_id\tdwi\tbval\tbvec\n", "no rows"),
        ("participant_id\tdwi\tbval\tbvec\n01\tx.nii\n", "line 2: expected 4 fields"),
        ("participant_id\tdwi\tbval\tbvec\n0_1\t\ta\tb\n", "must be letters and digits"),
        ("participant_id\tdwi\tbval\tbvec\n01\t\ta\tb\n", "line 2: dwi is empty"),
        (
            "participant_id\tdwi\tbval\tbvec\n01\tx.nii\ta\tb\n02\tx.nii\ta\tb\n",
            "line 3: dwi 'x.nii' is that of line 2; keep one row an image",
        ),
    ],
)
def test_read_scan_table__faults_are_named(tmp_path: Path, text: str, words: str) -> None:
    table = tmp_path / "scans.tsv"
    table.write_text(text)
    with pytest.raises(InputError, match=words):
        read_scan_table(table)


def test_read_scan_table__reverse_phase_encoding(tmp_path: Path) -> None:
    table = tmp_path / "scans.csv"
    table.write_text(
        "participant_id,dwi,bval,bvec,json,reverse_b0,reverse_json\n"
        "01,d.nii,b.bval,b.bvec,d.json,r.nii,r.json\n"
        "02,e.nii,b.bval,b.bvec,,,\n"
    )
    one, other = read_scan_table(table)
    assert (one.json, one.reverse_b0) == (tmp_path / "d.json", tmp_path / "r.nii")
    assert one.reverse_json == tmp_path / "r.json"
    assert (other.json, other.reverse_b0, other.reverse_json) == (None, None, None)
    touch(*(tmp_path / name for name in ("d.nii", "b.bval", "b.bvec", "d.json", "r.json")))
    (fault,) = scan_faults(one, "preprocess", distortion=True)
    assert "reverse_b0" in fault
    assert "r.nii" in fault
    assert scan_faults(one, "preprocess") == []  # which does not use it


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def test_find_scans__a_pattern_of_names(tmp_path: Path) -> None:
    touch(*(tmp_path / f"maps/{who}_FA.nii.gz" for who in ("sub-02", "sub-01", "x_3")))
    scans = find_scans(Inputs(fa_common=tmp_path / "maps/{participant_id}_FA.nii.gz"))
    assert [(scan.sample_id, scan.fa) for scan in scans] == [
        ("01", tmp_path / "maps/sub-01_FA.nii.gz"),
        ("02", tmp_path / "maps/sub-02_FA.nii.gz"),
    ]
    touch(tmp_path / "people/7/FA.nii.gz")
    (scan,) = find_scans(Inputs(fa=tmp_path / "people/{participant_id}/FA.nii.gz"))
    assert scan.prefix == "sub-7"
    with pytest.raises(InputError, match="no file fits this pattern"):
        find_scans(Inputs(fa=tmp_path / "none/{participant_id}.nii.gz"))


def test_find_scans__derivatives_of_other_pipelines(tmp_path: Path) -> None:
    folder = tmp_path / "sub-01/ses-a/dwi"
    stem = folder / "sub-01_ses-a_space-ACPC_desc-preproc_dwi"
    mask = folder / "sub-01_ses-a_space-ACPC_desc-brain_mask.nii.gz"
    touch(*(Path(f"{stem}{ext}") for ext in (".nii.gz", ".bval", ".bvec")))
    (scan,) = find_scans(Inputs(preprocessed=tmp_path))
    (fault,) = scan_faults(scan, "dti")
    assert f"{mask}" in fault
    touch(mask)
    (scan,) = find_scans(Inputs(preprocessed=tmp_path))
    assert (scan.prefix, scan.mask) == ("sub-01_ses-a", mask)
    assert scan.bvec == Path(f"{stem}.bvec")

    own = folder / "sub-01_ses-a_model-tensor_param-fa_dwimap.nii.gz"
    common = folder / "sub-01_ses-a_space-template_model-tensor_param-fa_dwimap.nii.gz"
    touch(own, common)
    assert [scan.fa for scan in find_scans(Inputs(fa=tmp_path))] == [own]
    assert [scan.fa for scan in find_scans(Inputs(fa_common=tmp_path))] == [common]
    touch(folder / "sub-01_ses-a_space-MNI_model-tensor_param-fa_dwimap.nii.gz")
    with pytest.raises(InputError, match="sub-01_ses-a has several such files"):
        find_scans(Inputs(fa_common=tmp_path))


def test_find_scans__tables_of_each_door(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("d.nii", "b.bval", "b.bvec", "m.nii", "fa.nii")))
    table = tmp_path / "t.tsv"
    table.write_text("participant_id\tfa\nsub-01\tfa.nii\n")
    assert find_scans(Inputs(fa=table))[0].fa == tmp_path / "fa.nii"
    with pytest.raises(InputError, match="column bval, bvec, dwi, mask missing"):
        find_scans(Inputs(preprocessed=table))
    table.write_text("participant_id,dwi,bval,bvec,mask\n01,d.nii,b.bval,b.bvec,\n")
    with pytest.raises(InputError, match="line 2: mask is empty"):
        find_scans(Inputs(preprocessed=table))
    assert find_scans(Inputs(scans=table))[0].mask is None


def test_find_scans__only_the_people_to_keep(tmp_path: Path) -> None:
    touch(*(tmp_path / f"{who}.nii.gz" for who in ("01", "02", "03")))
    keep = tmp_path / "keep.tsv"
    keep.write_text("IID\n03\n01\n")
    inputs = Inputs(fa=tmp_path / "{participant_id}.nii.gz", keep=keep)
    assert [scan.sample_id for scan in find_scans(inputs)] == ["01", "03"]
    assert [scan.sample_id for scan in find_scans(inputs, ["sub-03"])] == ["03"]
    keep.write_text("IID\n99\n")
    with pytest.raises(InputError, match="none of these people has a scan"):
        find_scans(inputs)
    assert find_scans(Inputs(traits=tmp_path / "t.tsv")) == []


def test_find_by_pattern__a_label_named_twice_is_one(tmp_path: Path) -> None:
    for name in ("01/01_FA.nii", "sub-02/sub-02_FA.nii", "03/04_FA.nii"):
        path = tmp_path / name
        path.parent.mkdir()
        path.touch()
    pattern = tmp_path / "{participant_id}/{participant_id}_FA.nii"
    assert [scan.sample_id for scan in find_by_pattern(pattern)] == ["01", "02"]
    settings = Inputs(fa=pattern)
    assert passed_over(settings) == [str(tmp_path / "03/04_FA.nii")]


def test_read_scan_table__unknown_columns_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "scans.tsv"
    table.write_text("participant_id\tsession_id\tfa\n01\t1\ta.nii\n")
    with pytest.raises(InputError, match="unknown column session_id; remove it"):
        read_scan_table(table, source="fa")
