"""The scans of a study: found in a BIDS data set or listed in a table.

BIDS data sets are indexed by bids2table rather than pybids: it keeps no database, reads only
folder listings (a large cohort in seconds) and gives one Arrow row a file. What it lacks, the
inheritance principle for `.bval` and `.bvec`, is added here with its own entity parser; that for
JSON it has.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import bids2table

from axoloci.errors import InputError
from axoloci.io.gradients import B0_THRESHOLD

log = logging.getLogger("axoloci")

# BIDS metadata that explain differences between scans.
ACQUISITION = (
    "Manufacturer",
    "ManufacturersModelName",
    "MagneticFieldStrength",
    "EchoTime",
    "RepetitionTime",
    "PhaseEncodingDirection",
    "TotalReadoutTime",
)


@dataclass(frozen=True)
class Scan:
    """One diffusion-weighted acquisition of one person."""

    prefix: str  # BIDS name without suffix, sub-01_ses-1_run-2: unique in the study
    sample_id: str  # participant label without "sub-", the IID of genotypes and tables
    dwi: Path
    bval: Path
    bvec: Path
    mask: Path | None = None
    # Scanner and sequence, where a sidecar tells; the quality table shows them.
    acquisition: Mapping[str, str | float] = field(default_factory=dict, compare=False)

    @property
    def folder(self) -> Path:
        """Folder of the scan's derivatives, relative to the study's output folder."""
        session = re.search(r"_(ses-[^_]+)", self.prefix)
        return Path(f"sub-{self.sample_id}", *([session[1]] if session else []), "dwi")


def _natural(scan: Scan) -> list[tuple[int, str]]:
    """Order in which run-2 comes before run-10."""
    return [
        (int(word), "") if word.isdigit() else (0, word) for word in re.split(r"(\d+)", scan.prefix)
    ]


@cache
def _gradient_files(folder: Path, extension: str) -> tuple[tuple[Path, dict[str, str]], ...]:
    """Gradient files of one folder with their BIDS entities."""
    return tuple((path, _entities(path.name)) for path in sorted(folder.glob(f"*dwi{extension}")))


def _entities(name: str) -> dict[str, str]:
    """BIDS entities of a file name, without its extension and data type."""
    entities = bids2table.parse_bids_entities(name)
    return {key: str(value) for key, value in entities.items() if key not in ("ext", "datatype")}


def _inherited(dwi: Path, root: Path, extension: str) -> Path | None:
    """Nearest file that applies to `dwi` by the BIDS inheritance principle.

    A file applies when its entities are a subset of the image's; nearer folders win, then the
    file with more entities.
    """
    wanted = _entities(dwi.name)
    folder = dwi.parent
    while True:
        applicable = [
            (len(entities), path)
            for path, entities in _gradient_files(folder, extension)
            if entities.items() <= wanted.items()
        ]
        if applicable:
            return max(applicable)[1]
        if folder == root or folder == folder.parent:
            return None
        folder = folder.parent


def _is_weighted(bval: Path) -> bool:
    """Whether any volume is weighted; an unreadable table counts, the step names its fault."""
    try:
        values = [float(word.replace(",", ".")) for word in bval.read_text().split()]
    except (OSError, ValueError):
        return True
    return any(value > B0_THRESHOLD for value in values)


def find_bids_scans(root: Path, participants: Sequence[str] = ()) -> list[Scan]:
    """All diffusion-weighted scans of a BIDS data set.

    Parameters
    ----------
    root
        Folder with `dataset_description.json`.
    participants
        Labels to keep, with or without "sub-"; empty keeps all.

    Returns
    -------
    list of Scan
        Sorted by name. Field maps (`dwi` files without a weighted volume) and phase images are
        passed over and said in the log.

    Raises
    ------
    InputError
        No data set, no scan, or scans without gradient tables (all named at once).
    """
    root = root.absolute()
    if not (root / "dataset_description.json").is_file():
        raise InputError(
            f"{root}: no dataset_description.json, so this is not the top folder of a BIDS data set"
        )
    labels = {f"sub-{label.removeprefix('sub-')}" for label in participants}
    index = bids2table.index_dataset(root, include_subjects=sorted(labels) or None)
    scans, problems = [], []
    for row in index.select(["root", "path", "sub", "suffix", "ext", "part"]).to_pylist():
        if row["suffix"] != "dwi" or row["ext"] not in (".nii", ".nii.gz"):
            continue
        if row["part"] not in (None, "mag"):
            continue
        dwi = root / row["path"]
        found = {ext: _inherited(dwi, root, ext) for ext in (".bval", ".bvec")}
        lacking = [ext for ext, path in found.items() if path is None]
        if lacking:
            problems.append(f"{dwi}: no {' and no '.join(lacking)} applies to it")
            continue
        bval, bvec = found[".bval"], found[".bvec"]
        assert bval is not None
        assert bvec is not None
        if not _is_weighted(bval):
            log.info("%s: only b=0 volumes, passed over", dwi)
            continue
        prefix = dwi.name.removesuffix(row["ext"]).removesuffix("_dwi")
        sidecars = bids2table.load_bids_metadata(dwi)
        acquisition = {key: sidecars[key] for key in ACQUISITION if key in sidecars}
        scans.append(Scan(prefix, str(row["sub"]), dwi, bval, bvec, acquisition=acquisition))
    if problems:
        raise InputError("\n  ".join([f"{root}: scans without gradient tables", *problems]))
    missing = labels - {f"sub-{scan.sample_id}" for scan in scans}
    if missing:
        raise InputError(f"{root}: no DWI found for {', '.join(sorted(missing))}")
    if not scans:
        raise InputError(f"{root}: no DWI found (files named sub-*_dwi.nii.gz in dwi folders)")
    return sorted(scans, key=_natural)


def _table_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields of each row of a tab- or comma-separated table."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    lines = text.splitlines()
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    reader = csv.DictReader(lines, delimiter=delimiter)
    wanted = {"participant_id", "dwi", "bval", "bvec"}
    lacking = wanted - set(reader.fieldnames or ())
    if lacking:
        raise InputError(
            f"{path}: column {', '.join(sorted(lacking))} missing; "
            "wanted are participant_id, dwi, bval, bvec and, if there are masks, mask"
        )
    for row in reader:
        if None in row or None in row.values():
            raise InputError(
                f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} fields"
            )
        yield reader.line_num, row


def read_scan_table(path: Path, participants: Sequence[str] = ()) -> list[Scan]:
    """Scans listed in a table `participant_id, dwi, bval, bvec[, mask]`, tabs or commas.

    Relative paths start at the table's folder. A person with several rows has several scans,
    which are numbered as runs.

    Raises
    ------
    InputError
        Missing columns, ragged rows, labels that BIDS does not allow, files that do not exist.
    """
    labels = {label.removeprefix("sub-") for label in participants}
    rows: dict[str, list[dict[str, str]]] = {}
    problems = []
    for line, row in _table_rows(path):
        label = row["participant_id"].strip().removeprefix("sub-")
        if not re.fullmatch(r"[A-Za-z0-9]+", label):
            problems.append(
                f"line {line}: participant_id '{row['participant_id']}' must be letters and digits"
            )
        for name in ("dwi", "bval", "bvec", "mask"):
            if row.get(name) and not Path(path.parent, row[name]).is_file():
                problems.append(f"line {line}: {name} '{row[name]}' does not exist")
            elif name != "mask" and not row[name]:
                problems.append(f"line {line}: {name} is empty")
        rows.setdefault(label, []).append(row)
    if problems:
        raise InputError("\n  ".join([f"{path}:", *problems]))
    missing = labels - rows.keys()
    if missing:
        raise InputError(f"{path}: no row for {', '.join(sorted(missing))}")
    scans = []
    for label, runs in rows.items():
        if labels and label not in labels:
            continue
        for number, row in enumerate(runs, start=1):
            dwi, bval, bvec = (
                Path(path.parent, row[name]).absolute() for name in ("dwi", "bval", "bvec")
            )
            mask = Path(path.parent, row["mask"]).absolute() if row.get("mask") else None
            prefix = f"sub-{label}" + (f"_run-{number}" if len(runs) > 1 else "")
            scans.append(Scan(prefix, label, dwi, bval, bvec, mask))
    if not scans:
        raise InputError(f"{path}: the table has no rows")
    return sorted(scans, key=_natural)
