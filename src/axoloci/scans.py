"""The scans of a study: found in a BIDS data set or listed in a table.

Of a BIDS data set only the `dwi` and `fmap` folders are listed, each once, and names are parsed by
bids2table: its index of all files takes a minute for 50,000 people, and takes a folder with a dot
in its name for none. The inheritance principle for `.bval`, `.bvec` and `.json` is applied here.

A fault of one scan is no fault of the list: a file that is not there, or no gradient table, fails
that scan when it is run.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import bids2table

from axoloci.errors import InputError, raise_all
from axoloci.io.files import unreadable
from axoloci.io.gradients import B0_THRESHOLD
from axoloci.io.nifti import read_header
from axoloci.io.reverse import begins_with_b0, is_reverse, readout_ratio, step_mm
from axoloci.io.sidecars import phase_encoding
from axoloci.io.tables import read_ids
from axoloci.study import Inputs, whole_path

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


TELLING = {"PhaseEncodingDirection", "PhaseEncodingAxis"}  # metadata of the phase encoding

# Columns of a table of scans, by the source that names it; those in the second tuple may be absent.
COLUMNS = {
    "scans": (("dwi", "bval", "bvec"), ("mask", "json", "reverse_b0", "reverse_json")),
    "preprocessed": (("dwi", "bval", "bvec", "mask"), ()),
    "fa": (("fa",), ()),
    "fa_common": (("fa",), ()),
}
# What a scan must have at each step at which data enter.
NEEDED = {
    "preprocess": ("dwi", "bval", "bvec"),
    "dti": ("dwi", "bval", "bvec", "mask"),
    "normalize": ("fa",),
    "encoder": ("fa",),
}
RAW = ("dwi", "bval", "bvec", "mask")  # files of a scan itself
PAIR = ("json", "reverse_b0", "reverse_json")  # files that tell its distortion
FILES = (*RAW, "fa", *PAIR)
THREADS = 8  # that list folders: a network file system answers several as fast as one
SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")  # a person's folder
SUFFIXES = ("dwi", "sbref", "epi")  # of scans and of images that tell their distortion
LABEL = "{participant_id}"  # what stands for the label in a pattern of file names

# Covariates in words that sidecars tell, and the metadata that tell them.
TOLD_BY = {
    "scanner": ("Manufacturer", "ManufacturersModelName", "DeviceSerialNumber"),
    "site": ("InstitutionName",),
}


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
    # Image of reverse phase encoding whose first volume is a b0; the sidecars that tell the phase
    # encoding of the scan and of that image.
    reverse_b0: Path | None = None
    json: Path | None = None
    reverse_json: Path | None = None
    # Scanner and sequence, where a sidecar tells; the quality table shows them.
    acquisition: Mapping[str, str | float] = field(default_factory=dict, compare=False)
    place: str = field(default="", compare=False)  # row of the table that names it
    # Why it cannot be used, where that is seen only beside other files or scans.
    fault: str = field(default="", compare=False)
    pair_fault: str = field(default="", compare=False)  # why the reverse b0 cannot, likewise
    unpaired: str = field(default="", compare=False)  # what names a pair, and not this scan's

    @property
    def folder(self) -> Path:
        """Folder of the scan's derivatives, relative to the study's output folder."""
        session = re.search(r"_(ses-[^_]+)", self.prefix)
        return Path(f"sub-{self.sample_id}", *([session[1]] if session else []), "dwi")

    def raw_files(self, distortion: bool) -> dict[str, Path | None]:
        """The files that correction takes, those of a reverse pair only to correct distortion."""
        paired = distortion and self.reverse_b0 is not None
        return {name: getattr(self, name) for name in (*RAW, *(PAIR if paired else ()))}


def _scan(prefix: str, sample_id: str, files: Mapping[str, Path], place: str = "") -> Scan:
    """A scan of the files given by name."""
    return Scan(prefix, sample_id, place=place, **files)  # type: ignore[arg-type]


def _natural(scan: Scan) -> list[tuple[int, str]]:
    """Order in which run-2 comes before run-10."""
    return [
        (int(word), "") if word.isdigit() else (0, word) for word in re.split(r"(\d+)", scan.prefix)
    ]


@lru_cache(maxsize=1024)  # an image and its sidecars have one stem
def _entities(name: str) -> Mapping[str, str]:
    """BIDS entities of a file name, with or without its extension."""
    entities = bids2table.parse_bids_entities(name)
    return {key: str(value) for key, value in entities.items() if key not in ("ext", "datatype")}


Sidecars = dict[str, list[tuple[Mapping[str, str], str]]]  # entities and path, by extension


def _sidecars(folder: str, names: Sequence[str]) -> Sidecars:
    """Gradient tables and JSON of one folder."""
    found: Sidecars = {".bval": [], ".bvec": [], ".json": []}
    for name in names:
        stem, extension = os.path.splitext(name)
        if extension in found and stem.endswith(SUFFIXES):
            found[extension].append((_entities(stem), f"{folder}/{name}"))
    return found


def _applicable(wanted: Mapping[str, str], levels: Sequence[Sidecars], extension: str) -> list[str]:
    """Files that apply to an image by the BIDS inheritance principle, the nearest first.

    A file applies when its entities are a subset of the image's; nearer folders win, then the file
    with more entities.

    Parameters
    ----------
    wanted
        Entities of the image.
    levels
        Of each folder from the image's own up to the data set's.
    extension
        Such as ".bval".
    """
    return [
        path
        for level in levels
        for _, path in sorted(
            ((len(has), path) for has, path in level[extension] if has.items() <= wanted.items()),
            reverse=True,
        )
    ]


def _metadata(paths: Sequence[str]) -> dict[str, Any]:
    """Content of sidecars, the first of them counting most; what cannot be read tells nothing."""
    metadata: dict[str, Any] = {}
    for path in reversed(paths):
        try:
            with open(path, encoding="utf-8-sig") as file:
                content = json.load(file)
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            metadata |= content
    return metadata


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
        Sorted by name. Field maps (`dwi` files without a weighted volume of people who have others)
        and phase images are passed over and said in the log.

    Raises
    ------
    InputError
        No data set, or no scan of a person who is asked for.
    """
    root = root.absolute()
    if not (root / "dataset_description.json").is_file():
        raise InputError(
            f"{root}: no dataset_description.json, so this is not the top folder of a BIDS data "
            'set; if it is, write {"Name": "a name of yours", "BIDSVersion": "1.9.0"} into one'
        )
    labels = {f"sub-{label.removeprefix('sub-')}" for label in participants}
    names = sorted(os.listdir(root))
    shared = _sidecars(str(root), names)
    subjects = [
        name for name in names if SUBJECT.fullmatch(name) and (not labels or name in labels)
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda name: _subject_scans(f"{root}/{name}", shared), subjects)
        scans = [scan for of_one in found for scan in of_one]
    missing = labels - {f"sub-{scan.sample_id}" for scan in scans}
    if missing:
        raise InputError(f"{root}: no DWI found for {', '.join(sorted(missing))}")
    if not scans:
        raise InputError(f"{root}: no DWI found (files named sub-*_dwi.nii.gz in dwi folders)")
    return sorted(scans, key=_natural)


def _subject_scans(folder: str, shared: Sidecars) -> list[Scan]:
    """Scans of one person's folder; `shared` is what lies above it."""
    try:
        names = sorted(os.listdir(folder))
    except NotADirectoryError:
        return []
    scans: list[Scan] = []
    above = [_sidecars(folder, names), shared]
    if "dwi" in names:
        scans += _session_scans(folder, names, above)
    for name in names:
        if name.startswith("ses-"):
            session = f"{folder}/{name}"
            try:
                within = sorted(os.listdir(session))
            except NotADirectoryError:
                continue
            if "dwi" in within:
                scans += _session_scans(session, within, [_sidecars(session, within), *above])
    field_maps = [scan for scan in scans if scan.bval is not None and not _is_weighted(scan.bval)]
    if len(field_maps) == len(scans):  # more likely b-values of another unit: that is to be said
        return scans
    for scan in field_maps:
        log.info("%s: only b=0 volumes, passed over", scan.dwi)
    return [scan for scan in scans if scan not in field_maps]


@dataclass(frozen=True)
class _Image:
    """An image of a `dwi` or `fmap` folder, and what its sidecars tell."""

    path: Path
    entities: Mapping[str, str]
    tables: Mapping[str, str]  # nearest .bval and .bvec, where there are
    metadata: Mapping[str, Any]
    json: Path | None  # the nearest sidecar that tells its phase encoding
    sidecars: Sequence[str]  # all that apply to it, the nearest first

    @property
    def prefix(self) -> str:
        return self.path.name.removesuffix(".gz").removesuffix(".nii").rpartition("_")[0]

    @property
    def axis(self) -> str:
        """Of the phase encoding, i, j or k; empty where it is not told."""
        told = self.metadata.get("PhaseEncodingDirection", self.metadata.get("PhaseEncodingAxis"))
        return str(told or "")[:1]


def _images(folder: str, above: Sequence[Sidecars]) -> list[_Image]:
    """Magnitude images of one folder whose suffix is of `SUFFIXES`."""
    try:
        names = sorted(os.listdir(folder))
    except NotADirectoryError:
        return []
    levels = [_sidecars(folder, names), *above]
    images = []
    for name in names:
        stem = name.removesuffix(".gz").removesuffix(".nii")
        if stem == name or not stem.endswith(tuple(f"_{suffix}" for suffix in SUFFIXES)):
            continue
        wanted = _entities(stem)
        if wanted.get("part", "mag") != "mag":
            continue
        found = {ext: _applicable(wanted, levels, ext) for ext in (".bval", ".bvec", ".json")}
        tables = {ext: found[ext][0] for ext in (".bval", ".bvec") if found[ext]}
        metadata = _metadata(found[".json"])
        telling = (p for p in found[".json"] if TELLING & _metadata([p]).keys())
        json = next(map(Path, telling), None) if TELLING & metadata.keys() else None
        images.append(_Image(Path(folder, name), wanted, tables, metadata, json, found[".json"]))
    return images


def _session_scans(folder: str, names: Sequence[str], above: Sequence[Sidecars]) -> list[Scan]:
    """Scans of the dwi folder of one person or session."""
    beside = _images(f"{folder}/dwi", above)
    maps = _images(f"{folder}/fmap", above) if "fmap" in names else []
    label = re.search(r"/sub-([A-Za-z0-9]+)(?:/|$)", folder[folder.rindex("/sub-") :])
    assert label is not None
    scans: dict[str, Scan] = {}
    weighted = [image for image in beside if image.entities["suffix"] == "dwi"]
    astray = [image for image in maps if not any(_named(dwi, image) for dwi in weighted)]
    for image in weighted:
        dwi, prefix = image.path, image.prefix
        bval, bvec = (
            Path(image.tables[ext]) if ext in image.tables else None for ext in (".bval", ".bvec")
        )
        lacking = [ext for ext in (".bval", ".bvec") if ext not in image.tables]
        fault = ""
        if lacking:
            fault = f"{dwi}: no {' and no '.join(lacking)} applies to it; put one beside it"
        elif image.entities.get("sub") != label[1]:
            fault = (
                f"{dwi}: is named of sub-{image.entities.get('sub')}, but lies in sub-{label[1]}"
            )
        elif prefix in scans:
            fault = f"{dwi}: {scans[prefix].dwi} is there as well; keep one of them"
        acquisition = {key: image.metadata[key] for key in ACQUISITION if key in image.metadata}
        reverse, pair_fault = _reverse(image, beside, maps)
        unpaired = (_astray(image, other) for other in astray if _opposite(image, other))
        scans[prefix] = Scan(
            prefix,
            label[1],
            dwi,
            bval,
            bvec,
            reverse_b0=reverse.path if reverse else None,
            json=image.json,
            reverse_json=reverse.json if reverse else None,
            acquisition=acquisition,
            fault=fault,
            pair_fault=pair_fault,
            unpaired="" if reverse else next(filter(None, unpaired), ""),
        )
    return list(scans.values())


def _named(dwi: _Image, image: _Image) -> int:
    """Whether metadata name two images as a pair: 2 by `B0FieldSource`, 1 by `IntendedFor`."""
    sources = set(_listed(dwi.metadata.get("B0FieldSource")))
    if sources & set(_listed(image.metadata.get("B0FieldIdentifier"))):
        return 2
    return int(any(_is_intended(uri, dwi) for uri in _listed(image.metadata.get("IntendedFor"))))


def _astray(dwi: _Image, image: _Image) -> str:
    """How a field map that fits a scan names others that are not there; empty if it does not."""
    targets = [uri for uri in _listed(image.metadata.get("IntendedFor")) if "dwi" in uri]
    identifiers = _listed(image.metadata.get("B0FieldIdentifier"))
    if targets:
        key, told = "IntendedFor", f"IntendedFor is '{targets[0]}', and no such DWI lies beside it"
    elif identifiers and "IntendedFor" not in image.metadata:
        key = "B0FieldIdentifier"
        told = f"B0FieldIdentifier is '{identifiers[0]}', which no DWI beside it has as its source"
    else:
        return ""
    sidecar = next(path for path in image.sidecars if key in _metadata([path]))
    return f"{sidecar}: {told}; name {dwi.path} if {image.path.name} is its reverse"


def _reverse(
    dwi: _Image, beside: Sequence[_Image], maps: Sequence[_Image]
) -> tuple[_Image | None, str]:
    """The image of reverse phase encoding that goes with a scan; none where nothing tells it.

    Metadata that name the pair (`B0FieldSource`, then `IntendedFor`) go before an image of the
    same folder whose direction is the opposite. Of several, a field map goes before a scan, whose
    contrast is that of this one, and that before a single-band reference; then the one that has
    most in common with the scan's name. One that lies oblique to the scan is passed over.

    Returns
    -------
    (image, fault)
        Why the two cannot be used, if that is seen here; else empty.
    """

    def rank(image: _Image) -> tuple[int, ...]:
        kind = ("sbref", "dwi", "epi").index(image.entities["suffix"])
        return (_named(dwi, image), kind, len(image.entities.items() & dwi.entities.items()))

    fitting = [
        image
        for image in (*beside, *maps)
        if image.path != dwi.path and _opposite(dwi, image) and _begins_with_b0(image)
        if _named(dwi, image) or image in beside
    ]
    for image in sorted(fitting, key=rank, reverse=True):
        try:  # headers are read only of these few
            one, two = (read_header(path, 3, 4).affine for path in (dwi.path, image.path))
            own, other = (phase_encoding(metadata) for metadata in (dwi.metadata, image.metadata))
        except InputError:  # of one of them, and named when the scan is checked or run
            return image, ""
        assert own is not None  # for they are opposite
        assert other is not None
        if is_reverse(one, own, two, other):
            return image, _lost_readout(
                dwi, image, (step_mm(one, own.axis), step_mm(two, other.axis))
            )
        log.info("%s: lies otherwise than %s, passed over as its reverse", image.path, dwi.path)
    return None, ""


def _lost_readout(dwi: _Image, reverse: _Image, voxel_mm: tuple[float, float]) -> str:
    """What to do where the two sidecars that are given lack readout times that others tell.

    The correction takes one sidecar of each image. Nothing is lost where the ratio of the readout
    times comes out the same, as it does of most pairs.

    Parameters
    ----------
    dwi, reverse
        The pair.
    voxel_mm
        As `Reverse` has it.
    """
    ratios = []
    for told in (
        [image.metadata for image in (dwi, reverse)],
        [_metadata([str(image.json)]) for image in (dwi, reverse)],
    ):
        try:
            own, other = map(phase_encoding, told)
        except InputError:  # named when the sidecar is read
            return ""
        ratios.append(readout_ratio(own, other, voxel_mm) or 1.0)
    if math.isclose(*ratios, rel_tol=0.01):
        return ""
    return (
        f"{reverse.path}: the same field displaces its signal {ratios[0]:.3g} times as far as that"
        f" of {dwi.path}, by readout times that {dwi.json} and {reverse.json} do not hold"
        " themselves; copy TotalReadoutTime (or EffectiveEchoSpacing and ReconMatrixPE) into both"
        " from the sidecars above them"
    )


def _listed(value: Any) -> list[str]:
    """One string, or a list of them, as a list."""
    return [str(part) for part in (value if isinstance(value, list) else [value]) if part]


def _is_intended(uri: str, dwi: _Image) -> bool:
    """Whether an entry of `IntendedFor` names a scan.

    "bids::sub-01/dwi/x.nii.gz", with a data set's name between the colons, or as older versions of
    BIDS have it relative to the person's folder.
    """
    name = re.sub(r"^bids:[^:]*:", "", uri).removeprefix("./")
    person = f"sub-{dwi.entities.get('sub')}"
    return dwi.path.as_posix().endswith(f"/{person}/{name.removeprefix(f'{person}/')}")


def _opposite(one: _Image, other: _Image) -> bool:
    """Whether the sidecars tell opposite phase encodings, or one axis and the names directions."""
    a, b = (image.metadata.get("PhaseEncodingDirection") for image in (one, other))
    if not one.axis or one.axis != other.axis:
        return False
    if a and b:
        return str(a).endswith("-") != str(b).endswith("-")
    direction = one.entities.get("dir", "")
    return len(set(direction)) > 1 and other.entities.get("dir") == direction[::-1]


def _begins_with_b0(image: _Image) -> bool:
    """Whether the first volume is unweighted: single-band references and field maps are."""
    if image.entities["suffix"] != "dwi":
        return True
    return ".bval" in image.tables and begins_with_b0(Path(image.tables[".bval"]))


def scan_faults(scan: Scan, start: str, distortion: bool = False) -> list[str]:
    """What a scan lacks, and why it is refused whatever its files hold.

    Parameters
    ----------
    scan
        The scan.
    start
        Step at which its data enter.
    distortion
        With its reverse b0, if it has one.

    Returns
    -------
    One sentence each, with the file and what to do.
    """
    faults = [scan.fault] if scan.fault else []
    if distortion and scan.pair_fault:
        faults.append(scan.pair_fault)
    for name, path in {**scan.raw_files(distortion), "fa": scan.fa}.items():
        if path is None:
            if name in NEEDED[start] and not faults:
                faults.append(f"{scan.prefix}: no {name}")
        elif why := unreadable(path):
            faults.append(f"{scan.place}: {name} {why}" if scan.place else why)
    return faults


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
    known = {"participant_id"}.union(*chain.from_iterable(COLUMNS.values()))
    unknown = [name for name in reader.fieldnames or () if name not in known]
    if unknown:
        raise InputError(
            f"{path}: unknown column {', '.join(unknown)}; remove it: what it says would be left "
            f"out (several scans of a person are rows of their own; known: "
            f"{', '.join(sorted(known))})"
        )
    for row in reader:
        if None in row or None in row.values():  # too many fields, too few
            raise InputError(
                f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} fields"
            )
        yield reader.line_num, row


def read_scan_table(
    path: Path, participants: Sequence[str] = (), source: str = "scans"
) -> list[Scan]:
    """Scans listed in a table, separated by tabs or commas.

    Relative paths start at the table's folder. `reverse_b0` is an image of reverse phase encoding
    that begins with a b0; `json` and `reverse_json` tell the phase encoding. A person with several
    rows has several scans, which are numbered as runs.

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
        Missing or unknown columns, ragged rows, labels that BIDS does not allow, empty fields, one
        image in two rows.
    """
    needed, optional = COLUMNS[source]
    rows: dict[str, list[tuple[int, dict[str, Path]]]] = {}
    problems = []
    first_line: dict[str, int] = {}  # of each image
    for line, row in _table_rows(path, ("participant_id", *needed)):
        where = f"{path}, line {line}"
        label = row["participant_id"].strip().removeprefix("sub-")
        if not re.fullmatch(r"[A-Za-z0-9]+", label):
            problems.append(
                f"{where}: participant_id '{row['participant_id']}' must be letters and digits"
            )
        problems += [f"{where}: {name} is empty" for name in needed if not row[name].strip()]
        image = row[needed[0]].strip()
        if image and first_line.setdefault(image, line) != line:
            problems.append(
                f"{where}: {needed[0]} '{image}' is that of line {first_line[image]}; keep one row "
                "an image"
            )
        files = {
            name: whole_path(named, path.parent)
            for name in (*needed, *optional)
            if (named := (row.get(name) or "").strip())
        }
        rows.setdefault(label, []).append((line, files))
    raise_all(problems, f"{path}: the table has faults:")
    if not rows:
        raise InputError(f"{path}: the table has no rows")
    scans = []
    for label, runs in rows.items():
        for number, (line, files) in enumerate(runs, start=1):
            prefix = f"sub-{label}" + (f"_run-{number}" if len(runs) > 1 else "")
            scans.append(_scan(prefix, label, files, place=f"{path}, line {line}"))
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
        Nothing found, or a scan found twice.
    """
    ending = "desc-preproc_dwi" if source == "preprocessed" else "param-fa_dwimap"
    scans = []
    for path in sorted(root.glob(f"sub-*/**/*{ending}.nii*")):
        entities = _entities(path.name)
        if not SUBJECT.fullmatch(path.relative_to(root).parts[0]):
            continue  # `passed_over` names it
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
        scans.append(_scan(prefix, entities["sub"], files))
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


def pattern_folder(pattern: Path) -> Path:
    """The folder in which a pattern's files lie, or the folders that are named by a label."""
    return Path(str(pattern).partition(LABEL)[0] + "x").parent


def _fits(pattern: Path) -> Iterator[tuple[Path, str | None]]:
    """Files like a pattern, each with its label; none where it is no label, or not one alone."""
    first, *others = map(re.escape, str(pattern).split(LABEL))
    again = "(?:sub-)?(?P=label)".join(others)
    expression = re.compile(f"{first}(?:sub-)?(?P<label>[A-Za-z0-9]+){again}")
    folder = pattern_folder(pattern)
    # the label may be a folder as well as a part of a file's name
    within = str(Path(str(pattern).replace(LABEL, "*")).relative_to(folder))
    for path in sorted(folder.glob(within)):
        fits = expression.fullmatch(str(path))
        yield path, fits and fits["label"]


def find_by_pattern(pattern: Path, participants: Sequence[str] = ()) -> list[Scan]:
    """FA maps by a pattern in which `{participant_id}` stands for the label, with "sub-" or not.

    Raises
    ------
    InputError
        No file fits the pattern, or two fit for one person.
    """
    scans: dict[str, Scan] = {}
    problems, unfit = [], []
    for path, label in _fits(pattern):
        if label is None:
            unfit.append(str(path))
            continue
        scan = scans.setdefault(label, Scan(f"sub-{label}", label, fa=path))
        if scan.fa != path:
            problems.append(f"{scan.fa} and {path} are both of {label}; keep one of them")
    raise_all(problems, f"{pattern}: several files of one person:")
    if not scans:
        hint = "; a label is of letters and digits only, unlike that of " if unfit else ""
        raise InputError(f"{pattern}: no file fits this pattern{hint}{', '.join(unfit[:3])}")
    return _chosen(list(scans.values()), participants, pattern)


def passed_over(inputs: Inputs) -> list[str]:
    """Files and folders that look like a person's of a cohort and are not, for their labels."""
    (source,) = inputs.sources
    where: Path = getattr(inputs, source)
    if source in ("fa", "fa_common") and LABEL in str(where):
        return [str(path) for path, label in _fits(where) if label is None]
    if source in ("bids", "preprocessed", "fa", "fa_common") and where.is_dir():
        with os.scandir(where) as entries:
            return [
                entry.path
                for entry in entries
                if entry.name.startswith("sub-") and not SUBJECT.fullmatch(entry.name)
                if entry.is_dir()
            ]
    return []


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
        wanted = set(read_ids(inputs.keep))
        scans = [scan for scan in scans if scan.sample_id in wanted]
        if not scans:
            raise InputError(f"{inputs.keep}: none of these people has a scan in {where}")
    return scans
