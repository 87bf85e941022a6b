"""What the commands read: FA maps, templates, tables of maps; each refused where it is not that."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.nifti import read_nifti, scan_prefix

TEMPLATE = Path(__file__).parent / "MNI_FA_2mm.nii.gz"
"""TractSeg's FA template at 2 mm; TEMPLATE.md tells how it was made."""

MIN_TOP_FA = 0.1
"""Below this the 99th percentile of a map is no FA: white matter has 0.4 and more, MD 0.003."""


def read_fa(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """An FA map (x, y, z), 0 outside the brain, and its affine (4, 4)."""
    image, affine = read_nifti(path, ndim=3)
    if not (image > 0).any():
        raise InputError(f"{path}: no voxel above 0; was the tensor fitted inside a mask?")
    if image.max() > 1.001 or image.min() < 0:
        raise InputError(
            f"{path}: values from {image.min():g} to {image.max():g}; FA lies between 0 and 1"
        )
    top = np.quantile(image[image > 0], 0.99)
    if top < MIN_TOP_FA:
        raise InputError(
            f"{path}: hardly a value above {top:.2g}, too small for FA; is it MD in mm²/s?"
        )
    return image, affine


def read_template(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """An FA template, refused where it cannot be one."""
    image, affine = read_nifti(path, ndim=3)
    if not 0.2 < image.max() < 1.5 or image.min() < 0:
        raise InputError(
            f"{path}: values from {image.min():g} to {image.max():g}; an FA template is needed"
        )
    return image, affine


def read_maps(table: Path) -> tuple[list[str], list[Path], list[str]]:
    """Ids, paths and digests ("" if not given) of a table; every fault is named."""
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t")
        if not {"sample_id", "path"} <= set(reader.fieldnames or ()):
            raise InputError(f"{table}: needs the columns sample_id and path, tab-separated")
        rows = [(row["sample_id"], row["path"], row.get("sha256") or "") for row in reader]
    if not rows:
        raise InputError(f"{table}: no maps")
    problems, seen = [], set()
    for line, (name, path, _) in enumerate(rows, start=2):
        if not name or not path:
            problems.append(f"line {line}: sample_id or path is empty")
        elif name in seen:
            problems.append(f"line {line}: sample_id {name} occurs twice; keep one map a person")
        elif not (table.parent / path).is_file():
            problems.append(f"line {line}: {path} of {name} is not there")
        seen.add(name)
    if problems:
        raise InputError(f"{table}: " + "; ".join(problems[:20]))
    names, paths, digests = (list(column) for column in zip(*rows, strict=True))
    return names, [table.parent / path for path in paths], digests


def maps_below(folder: Path) -> dict[str, Path]:
    """FA maps in the scans' own spaces below a folder of BIDS derivatives, by scan."""
    found = {
        scan_prefix(path): path
        for path in sorted(folder.glob("sub-*/**/*param-fa_dwimap.nii*"))
        if "_space-" not in path.name
    }
    if not found:
        raise InputError(f"{folder}: no sub-*/**/*param-fa_dwimap.nii.gz below it; name a table")
    return found
