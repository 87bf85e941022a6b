"""Atlases: images of labelled regions, and the names of their labels."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.nifti import read_nifti


def read_atlas(path: Path) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """An image of labels (x, y, z), 0 for none, and its affine (4, 4)."""
    image, affine = read_nifti(path, ndim=3, dtype=np.float64)
    labels = np.rint(image).astype(np.int32)
    if (labels != image).any() or labels.min() < 0 or not labels.any():
        raise InputError(
            f"{path}: values from {image.min():g} to {image.max():g}; an atlas has a whole number "
            "for each region and 0 elsewhere"
        )
    return labels, affine


def read_label_names(path: Path) -> dict[int, str]:
    """Names of labels, fit for the columns of a table, from what atlases come with.

    A line begins with a number, and its name follows: in quotation marks (ITK-SNAP), or up to the
    next tab, comma or run of numbers (FreeSurfer's colours). XML has `<label index="1">Name`.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if text.lstrip().startswith("<"):
        try:
            found = [
                (element.get("index", ""), element.text or "")
                for element in ET.fromstring(text).iter("label")
            ]
        except ET.ParseError as error:
            raise InputError(f"{path}: cannot be read as XML: {error}") from error
    else:
        found = []
        for line in text.splitlines():
            quoted = re.match(r'\s*(\d+)\s.*"([^"]+)"\s*$', line)
            plain = re.match(r"\s*(\d+)[\s,;:]+([^\t,;]+?)(\s+-?\d+)*\s*([\t,;].*)?$", line)
            if match := quoted or plain:
                found.append((match[1], match[2]))
    names = {
        int(number): re.sub(r"\W+", "_", name.strip()).strip("_")
        for number, name in found
        if number.isdigit() and int(number) > 0
    }
    if not names:
        raise InputError(f"{path}: no lines of a number and a name")
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    if twice:
        raise InputError(f"{path}: several labels are called {', '.join(sorted(twice))}")
    return names


def labels_at(
    atlas: NDArray[np.int32], affine: NDArray[np.float64], world: NDArray[np.floating]
) -> NDArray[np.int32]:
    """Label of the nearest voxel of an atlas at each place, 0 outside it.

    Parameters
    ----------
    atlas
        (x', y', z') labels, 0 for none.
    affine
        (4, 4) voxel to world, mm.
    world
        (x, y, z, 3) in the atlas's space, mm.
    """
    from scipy import ndimage  # which the driver, who reads atlases too, may lack

    to_voxel = np.linalg.inv(affine)
    voxel = np.moveaxis(world @ to_voxel[:3, :3].T + to_voxel[:3, 3], -1, 0)
    found: NDArray[np.int32] = ndimage.map_coordinates(
        atlas, voxel, np.int32, order=0, mode="constant"
    )
    return found
