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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import bids2table

from axoloci.errors import InputError
from axoloci.io.gradients import B0_THRESHOLD
from axoloci.io.tables import read_table
from axoloci.study import Inputs

log = logging.getLogger("axoloci")

# BIDS metadata that explain differences between scans.
ACQUISITION = (
    "Manufacturer",
    "ManufacturersModelName",
    "DeviceSerialNumber",
    "InstitutionName",
    "MagneticFieldStrength",
    "EchoTime",
    "RepetitionTime",
    "PhaseEncodingDirection",
    "TotalReadoutTime",
)


# Columns of a table of scans, by the source that names it; those in the second tuple may be absent.
COLUMNS = {
    "scans": (("dwi", "bval", "bvec"), ("mask",)),
    "preprocessed": (("dwi", "bval", "bvec", "mask"), ()),
    "fa": (("fa",), ()),
    "fa_common": (("fa",), ()),
}
LABEL = "{participant_id}"  # what stands for the label in a pattern of file names


@dataclass(frozen=True)
class Scan:
    """One diffusion-weighted acquisition of one person, or what was made of it elsewhere."""

    prefix: str  # BIDS name without suffix, sub-01_ses-1_run-2: unique in the study
    sample_id: str  # participant label without "sub-", the IID of genotypes and tables
    dwi: Path | None = None
    bval: Path | None = None
    bvec: Path | None = None
    mask: Path | None = None
    fa: Path | None = None
    # Scanner and sequence, where a sidecar tells; the quality table shows them.
    acquisition: Mapping[str, str | float] = field(default_factory=dict, compare=False)

    @property
    def folder(self) -> Path:
        """Folder of the scan's derivatives, relative to the study's output folder."""
        session = re.search(r"_(ses-[^_]+)", self.prefix)
        return Path(f"sub-{self.sample_id}", *([session[1]] if session else []), "dwi")


def _scan(prefix: str, sample_id: str, files: Mapping[str, Path]) -> Scan:
    """A scan of the files given by name."""
    dwi, bval, bvec, mask, fa = map(files.get, ("dwi", "bval", "bvec", "mask", "fa"))
    return Scan(prefix, sample_id, dwi, bval, bvec, mask, fa)


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


def _table_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields of each row of a tab- or comma-separated table."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    lines = text.splitlines()
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    reader = csv.DictReader(lines, delimiter=delimiter)
    wanted = set(columns)
    lacking = wanted - set(reader.fieldnames or ())
    if lacking:
        raise InputError(
            f"{path}: column {', '.join(sorted(lacking))} missing; wanted are "
            f"{', '.join(columns)}; found {', '.join(reader.fieldnames or ()) or 'nothing'}"
        )
    for row in reader:
        if None in row or None in row.values():
            raise InputError(
                f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} fields"
            )
        yield reader.line_num, row


def read_scan_table(
    path: Path, participants: Sequence[str] = (), source: str = "scans"
) -> list[Scan]:
    """Scans listed in a table, separated by tabs or commas.

    Relative paths start at the table's folder. A person with several rows has several scans,
    which are numbered as runs.

    Parameters
    ----------
    path
        The table: `participant_id` and the columns of `COLUMNS[source]`.
    participants
        Labels to keep, with or without "sub-"; empty keeps all.
    source
        Key of the study file that names the table.

    Raises
    ------
    InputError
        Missing columns, ragged rows, labels that BIDS does not allow, files that do not exist.
    """
    needed, optional = COLUMNS[source]
    rows: dict[str, list[dict[str, str]]] = {}
    problems = []
    for line, row in _table_rows(path, ("participant_id", *needed)):
        label = row["participant_id"].strip().removeprefix("sub-")
        if not re.fullmatch(r"[A-Za-z0-9]+", label):
            problems.append(
                f"line {line}: participant_id '{row['participant_id']}' must be letters and digits"
            )
        for name in (*needed, *optional):
            if row.get(name) and not Path(path.parent, row[name]).is_file():
                problems.append(f"line {line}: {name} '{row[name]}' does not exist")
            elif name in needed and not row[name]:
                problems.append(f"line {line}: {name} is empty")
        rows.setdefault(label, []).append(row)
    if problems:
        raise InputError("\n  ".join([f"{path}:", *problems]))
    if not rows:
        raise InputError(f"{path}: the table has no rows")
    scans = []
    for label, runs in rows.items():
        for number, row in enumerate(runs, start=1):
            files = {
                name: Path(path.parent, row[name]).absolute()
                for name in (*needed, *optional)
                if row.get(name)
            }
            prefix = f"sub-{label}" + (f"_run-{number}" if len(runs) > 1 else "")
            scans.append(_scan(prefix, label, files))
    return _chosen(scans, participants, path)


def _chosen(scans: list[Scan], participants: Sequence[str], source: Path) -> list[Scan]:
    """Scans of the people asked for, sorted."""
    labels = {label.removeprefix("sub-") for label in participants}
    missing = labels - {scan.sample_id for scan in scans}
    if missing:
        raise InputError(f"{source}: nothing of {', '.join(sorted(missing))}")
    return sorted((scan for scan in scans if not labels or scan.sample_id in labels), key=_natural)


def in_common_space(path: Path) -> bool:
    """Whether the name of a BIDS derivative says that people share its space."""
    return _entities(path.name).get("space", "dwi") not in ("ACPC", "T1w", "orig", "dwi")


def find_derivatives(
    root: Path, participants: Sequence[str] = (), source: str = "preprocessed"
) -> list[Scan]:
    """Scans that another pipeline has worked on, by the names of BIDS derivatives.

    Parameters
    ----------
    root
        Folder with `sub-*` folders, such as QSIPrep's or axoloci's own.
    participants
        Labels to keep, with or without "sub-"; empty keeps all.
    source
        "preprocessed" looks for `*desc-preproc_dwi.nii.gz` with `.bval`, `.bvec` and brain mask,
        "fa" for `*param-fa_dwimap.nii.gz` without a space, "fa_common" for those with one.

    Raises
    ------
    InputError
        Nothing found, or files that belong to a scan are missing (all named at once).
    """
    ending = "desc-preproc_dwi" if source == "preprocessed" else "param-fa_dwimap"
    scans, problems = [], []
    for path in sorted(root.glob(f"sub-*/**/*{ending}.nii*")):
        entities = _entities(path.name)
        if source != "preprocessed" and in_common_space(path) != (source == "fa_common"):
            continue
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        named = {key: entities[key] for key in ("ses", "acq", "dir", "run") if key in entities}
        prefix = "_".join([f"sub-{entities['sub']}", *(f"{k}-{v}" for k, v in named.items())])
        files = {"fa": path}
        if source == "preprocessed":
            mask = f"{stem.removesuffix('desc-preproc_dwi')}desc-brain_mask.nii.gz"
            files = {
                "dwi": path,
                "bval": path.with_name(f"{stem}.bval"),
                "bvec": path.with_name(f"{stem}.bvec"),
                "mask": path.with_name(mask),
            }
        problems += [f"{file}: does not exist" for file in files.values() if not file.is_file()]
        scans.append(_scan(prefix, entities["sub"], files))
    if problems:
        raise InputError("\n  ".join([f"{root}: scans that are not whole", *problems]))
    if not scans:
        raise InputError(
            f"{root}: no file sub-*/…{'_space-*' * (source == 'fa_common')}*{ending}.nii.gz; "
            f"give a table with the columns participant_id, {', '.join(COLUMNS[source][0])}"
        )
    repeated = [name for name, n in Counter(scan.prefix for scan in scans).items() if n > 1]
    if repeated:
        raise InputError(
            f"{root}: {repeated[0]} has several such files; give a table that names one of them"
        )
    return _chosen(scans, participants, root)


def find_by_pattern(pattern: Path, participants: Sequence[str] = ()) -> list[Scan]:
    """FA maps by a pattern in which `{participant_id}` stands for the label.

    Raises
    ------
    InputError
        No file fits the pattern.
    """
    before, _, after = str(pattern).partition(LABEL)
    expression = re.compile(f"{re.escape(before)}(?:sub-)?([A-Za-z0-9]+){re.escape(after)}")
    folder = Path(before + "x").parent
    # the label may be a folder as well as a part of a file's name
    within = str(Path(str(pattern).replace(LABEL, "*")).relative_to(folder))
    scans = [
        Scan(f"sub-{fits[1]}", fits[1], fa=path)
        for path in sorted(folder.glob(within))
        if (fits := expression.fullmatch(str(path)))
    ]
    if not scans:
        raise InputError(f"{pattern}: no file fits this pattern")
    return _chosen(scans, participants, pattern)


def find_scans(inputs: Inputs, participants: Sequence[str] = ()) -> list[Scan]:
    """The scans of a cohort: in its data set, folder or table, of the people in `keep`.

    Raises
    ------
    InputError
        The source cannot be read, or no scan is of the people in `keep`.
    """
    (source,) = inputs.sources
    where: Path = getattr(inputs, source)
    if source == "traits":
        return []
    if source == "bids":
        scans = find_bids_scans(where, participants)
    elif LABEL in str(where) and source in ("fa", "fa_common"):
        scans = find_by_pattern(where, participants)
    elif where.is_dir() and source != "scans":
        scans = find_derivatives(where, participants, source)
    else:
        scans = read_scan_table(where, participants, source)
    if inputs.keep is not None:
        wanted = set(read_table(inputs.keep).index)
        scans = [scan for scan in scans if scan.sample_id in wanted]
        if not scans:
            raise InputError(f"{inputs.keep}: none of these people has a scan in {where}")
    return scans
