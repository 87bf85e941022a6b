"""A new study file: the data that lie in a folder, and every key of the schema with its text.

Keys, types, limits and descriptions come from `axoloci.study`, and defaults from there or from the
commands of the steps; nothing of them is written here.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from axoloci.errors import InputError
from axoloci.io.genotype_files import CHROMOSOME, CHROMOSOME_NAME, FORMATS, genotype_set
from axoloci.io.nifti import check_grid, read_header
from axoloci.io.tables import ID_COLUMNS, split_header
from axoloci.scans import LABEL, in_common_space
from axoloci.slurm_profile import Profile, SlurmSettings, StepRequests
from axoloci.study import COHORTS, DOORS, Inputs, Section, StudySettings

# The step and command whose defaults hold where a table of the study file leaves out a key.
COMMANDS = {
    "dti": ("dti", "fit"),
    "normalize": ("normalize", "store"),
    "encoder": ("encoder", "train"),
    "linear": ("encoder", "fit-linear"),
    "gwas": ("gwas", "associate"),
    "genetics": ("genetics", "loci"),
}
WRITTEN = {"training_people"}  # keys that have a default, and that a person shall have decided on

DEPTH = 4
"""Folders below the one that is looked at."""

TOLD_OF_PEOPLE = {"age", "sex"}  # columns, in any case, that tell covariates from traits
WIDTH = 100
OUT = "derivatives/axoloci"
FA_MAP = re.compile(
    r"(?:sub-)?[A-Za-z0-9]+(?P<rest>[_.-](?:.*[_.-])?(?i:fa)(?:[_.-].*)?\.nii(\.gz)?)"
)
# "ukb_chr7.bed", "ukb22828_c7_b0_v3.bgen"
OF_CHROMOSOME = re.compile(rf"(?:(?<=(?i:chr))|(?<=[_.-]c)){CHROMOSOME_NAME}(?![A-Za-z0-9])")
# What is in the way of a search, or is of a study that was run there.
PASSED_OVER = ("work", "logs", "group", "node_modules", "sourcedata", "code")


@dataclass
class FoundData:
    """What lies in a folder.

    Attributes
    ----------
    choices
        By key of the study file, what could be named there, the nearest first, with what it is.
    notes
        What was found, one line each.
    missing
        What a study needs and was not found, one line each.
    with_age
        Tables of people with a column age or sex.
    """

    choices: dict[str, dict[Path, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    with_age: set[Path] = field(default_factory=set)

    @property
    def source(self) -> str | None:
        """The key of the source of images: that nearest to the scanner."""
        return next((key for key in DOORS if key != "traits" and key in self.choices), None)

    @property
    def covariates(self) -> Path | None:
        """The table that is of covariates without doubt: traits taken for them would be lost."""
        tables = list(self.choices.get("covariates", ()))
        if len(tables) > 1:
            tables = [path for path in tables if path in self.with_age]
        if len(tables) > 1:  # a table beside the data set is meant for this, BIDS's own is not
            tables = [path for path in tables if path.name != "participants.tsv"]
        return tables[0] if len(tables) == 1 else None

    @property
    def chosen(self) -> dict[str, Path]:
        """What a study file of these data names, by key."""
        keys = [key for key in (self.source, "genotypes") if key and key in self.choices]
        chosen = {key: next(iter(self.choices[key])) for key in keys}
        return chosen | ({"covariates": self.covariates} if self.covariates else {})

    def add(self, key: str, path: Path, note: str) -> None:
        """One more choice."""
        self.choices.setdefault(key, {})[path] = note
        self.notes.append(f"{path}: {note}")


def _folders(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folders, not those of single people, with the names in them; sorted, the nearest first."""
    todo = [(root, 0)]
    while todo:
        folder, depth = todo.pop(0)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        inside = [entry.name for entry in entries if entry.is_dir()]
        yield folder, inside, [entry.name for entry in entries if entry.is_file()]
        if depth < DEPTH:
            todo += [
                (folder / name, depth + 1)
                for name in inside
                if not name.startswith((".", "sub-")) and name not in PASSED_OVER
                and not name.endswith(".zarr")
            ]  # fmt: skip


def _has(folder: Path, people: list[str], pattern: str) -> bool:
    """Whether any of the first people of a data set has such a file."""
    return any(next((folder / name).glob(pattern), None) is not None for name in people[:20])


def _look_at_people(found: FoundData, folder: Path, people: list[str]) -> bool:
    """What a folder of `sub-*` folders holds: raw DWI, or what a pipeline made (then true)."""
    number = f"{len(people):,} people"
    try:
        described = json.loads((folder / "dataset_description.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        described = None
    derived = isinstance(described, dict) and described.get("DatasetType") == "derivative"
    if isinstance(described, dict) and not derived and _has(folder, people, "**/dwi/*_dwi.nii*"):
        found.add("bids", folder, f"BIDS data set with raw DWI, {number}")
        return False
    if _has(folder, people, "**/*desc-preproc_dwi.nii*"):
        found.add("preprocessed", folder, f"corrected DWI, {number}")
    spaces = {
        in_common_space(path)
        for name in people[:20]
        for path in (folder / name).glob("**/*param-fa_dwimap.nii*")
    }
    if True in spaces:
        found.add("fa_common", folder, f"FA maps in a common space, {number}")
    if False in spaces:
        found.add("fa", folder, f"FA maps in the scans' own spaces, {number}")
    if described is None and _has(folder, people, "**/dwi/*_dwi.nii*"):
        found.missing.append(
            f"{folder}/dataset_description.json: the folder looks like a BIDS data set but for it; "
            'write {"Name": "a name of yours", "BIDSVersion": "1.9.0"} into it'
        )
    return derived


def _look_at_table(found: FoundData, path: Path) -> None:
    """What a table with a column of ids may be: scans, or covariates."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = file.readline()
            n_rows = sum(1 for line in file if line.strip())
    except (OSError, UnicodeDecodeError):
        return
    columns, _ = split_header(first)
    ids = {name.casefold() for name in ID_COLUMNS}
    others = [name for name in columns if name.casefold() not in ids | {"fid"}]
    if not ids & {name.casefold() for name in columns}:
        if ids & set(re.split(r"[;\"'#]+", first.casefold())):
            found.notes.append(
                f"{path}: looks like a table of people, but its columns are separated by "
                "semicolons; save it with tabs, as .tsv"
            )
        return
    if not others or not n_rows:
        return
    if {"dwi", "bval", "bvec"} <= set(others):
        found.add("scans", path, f"table of {n_rows:,} scans")
    elif "fa" in others:
        found.add("fa", path, f"table of {n_rows:,} FA maps")
    else:
        names = ", ".join(others[:6]) + (", …" if len(others) > 6 else "")
        found.add("covariates", path, f"table of {n_rows:,} people: {names}")
        if TOLD_OF_PEOPLE & {name.lower() for name in others}:
            found.with_age.add(path)


def _on_one_grid(maps: list[Path]) -> bool:
    """Whether the headers of images can be read and have one shape and affine."""
    try:
        first = read_header(maps[0], 3)
        for path in maps[1:]:
            own = read_header(path, 3)
            check_grid(path, own.shape, own.affine, first.shape, first.affine, maps[0])
    except InputError:
        return False
    return True


def _look_at_maps(found: FoundData, folder: Path, names: list[str]) -> None:
    """FA maps of single people that lie in one folder, such as 0011_FA.nii.gz."""
    kinds: dict[str, list[Path]] = {}
    for name in names:
        if match := FA_MAP.fullmatch(name):
            kinds.setdefault(match["rest"], []).append(folder / name)
    for rest, maps in kinds.items():
        if len(maps) > 1:
            grid = ", all of one grid (shape and affine)" if _on_one_grid(maps) else ""
            note = f"FA maps{grid}; name them by fa_common if they are in one space already"
            found.add("fa", folder / f"{LABEL}{rest}", f"{len(maps):,} {note}")


def _raw_dwi(folder: Path, names: list[str]) -> Iterator[Path]:
    """Images of one folder with gradient tables of their names beside them."""
    there = set(names)
    for name in names:
        stem = name.removesuffix(".gz").removesuffix(".nii")
        if stem != name and {f"{stem}.bval", f"{stem}.bvec"} <= there:
            yield folder / name


def _genotype_names(names: list[str]) -> list[str]:
    """Files of genotypes, those of one file a chromosome as their pattern.

    >>> _genotype_names(["a.bed", "b_chr1.bgen", "b_chrX.bgen", "b_chrX.sample"])
    ['a.bed', 'b_chr{chromosome}.bgen']
    """
    patterns: dict[str, list[str]] = {}
    for name in names:
        if name.endswith(tuple(FORMATS)):
            patterns.setdefault(OF_CHROMOSOME.sub(CHROMOSOME, name, count=1), []).append(name)
    return [pattern if len(own) > 1 else own[0] for pattern, own in patterns.items()]


def _look_at_genotypes(found: FoundData, path: Path) -> None:
    """A set of genotypes, or what it lacks."""
    try:
        genotypes = genotype_set(path)
    except InputError as error:
        found.missing.append(str(error))
        return
    lacking = [file.name for file in genotypes.files if not file.exists()]
    if lacking:
        found.missing.append(f"{path}: no {' and no '.join(lacking)}")
        return
    try:
        n_people = len(genotypes.people)
    except InputError as error:
        found.missing.append(str(error))
        return
    several = f", {len(genotypes.parts)} files" if len(genotypes.parts) > 1 else ""
    found.add("genotypes", path, f"{genotypes.format} genotypes{several}, {n_people:,} people")


def find_data(folder: Path) -> FoundData:
    """Look for the data of a study in a folder and in the folders below, but for those of people.

    Nothing is written; of tables only the columns are read, of FA maps the headers.
    """
    found = FoundData()
    dwi: list[Path] = []
    for where, inside, names in _folders(folder):
        people = [name for name in inside if name.startswith("sub-")]
        derived = bool(people) and _look_at_people(found, where, people)
        for name in _genotype_names(names):
            _look_at_genotypes(found, where / name)
        for name in names:
            of_bids = name.endswith(("_scans.tsv", "_sessions.tsv"))
            is_table = name.endswith((".tsv", ".txt", ".csv"))
            if is_table and not of_bids and not derived:  # those are tables of a pipeline's own
                _look_at_table(found, where / name)
        _look_at_maps(found, where, names)
        dwi += _raw_dwi(where, names)
    known = StudySettings.model_fields
    tables = found.choices.get("covariates", {})
    if found.source is None:
        if dwi:
            found.notes.append(
                f"{dwi[0]}: one of {len(dwi):,} DWI with .bval and .bvec beside them, but not in a "
                f"BIDS data set; name them by scans ({known['scans'].description})"
            )
        doors = "; ".join(f"{key} ({known[key].description})" for key in DOORS if key != "traits")
        found.missing.append(
            f"images; name one of: {doors}; or study a table of traits without images, by the key "
            "traits"
        )
        if tables:
            found.choices["traits"] = tables
    for key in ("genotypes", "covariates"):
        if key not in found.choices:
            found.missing.append(f"{key} ({known[key].description})")
    if tables and found.covariates is None:
        found.missing.append(
            f"covariates: which of {', '.join(map(str, tables))} holds them is not clear (a column "
            "age or sex in one of them alone would tell); in the study file remove the # of one"
        )
    return found


def _limits(schema: dict[str, Any]) -> str:
    """The kind of value that a key takes, in words, from its JSON schema."""
    if "anyOf" in schema:
        kinds = [_limits(part) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(kinds)
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list: {_limits(schema.get('items', {}))}"
    names = {"integer": "whole number", "number": "number", "boolean": "true or false"}
    names["object"] = "table"
    kind = "path" if schema.get("format") == "path" else names.get(schema.get("type", ""), "text")
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return " ".join([kind, " and ".join(limits)]).strip()


def _toml(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        value = list(value)
    return json.dumps(value, ensure_ascii=False)  # of these types JSON is TOML


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="#   ")


def _step_defaults(name: str, kind: type[Section]) -> dict[str, Any]:
    """What the command of a step takes where the study file says nothing, by key.

    The defaults stand in the commands alone. A step that is not installed tells none, and a default
    that no study file may hold means that the command decides.
    """
    if name not in COMMANDS:
        return {}
    try:
        package, command = COMMANDS[name]
        step = importlib.import_module(f"axoloci.tasks.{package}.cli")
    except ImportError:
        return {}
    options = {option.name: option.default for option in step.main.commands[command].params}
    found = {}
    for key, info in kind.model_fields.items():
        if info.default is None and isinstance(options.get(key), str | int | float):
            try:
                kind.model_validate({key: options[key]})
            except ValidationError:
                continue
            found[key] = options[key]
    return found


def _key(
    name: str, info: FieldInfo, schema: dict[str, Any], value: Any = None, default: Any = None
) -> list[str]:
    """Lines of one key: what it is, and the key itself, as a comment unless it has a value."""
    lines = _comment(f"{info.description} ({_limits(schema)})")
    if value is not None:
        return [*lines, f"{name} = {_toml(value)}"]
    default = default if info.is_required() or info.default is None else info.default
    return [*lines, f"#{name} =" if default is None else f"#{name} = {_toml(default)}"]


def _sections() -> list[tuple[str, type[Section]]]:
    """Tables of the study file for the steps."""
    found = []
    for name, info in StudySettings.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found.append((name, kind))
    return found


def profile_text() -> str:
    """A profile of a Slurm cluster with all keys as comments."""
    lines = [
        *_comment("A Slurm cluster, written by `axoloci init --slurm`."),
        *_comment(
            "A key behind # has the value that is shown, or is left to axoloci; remove the # to "
            "set it."
        ),
        "",
        *_table("slurm", SlurmSettings),
    ]
    described: set[Any] = set()
    for name, info in StepRequests.model_fields.items():
        kind = info.annotation
        assert isinstance(kind, type)
        # the keys of all steps are the same, and are shown once
        lines += [f"[steps.{name}]", ""] if kind in described else _table(f"steps.{name}", kind)
        described.add(kind)
    lines += _comment(str(Profile.model_fields["extra"].description))
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(name: str, kind: type[Section], defaults: Mapping[str, Any] | None = None) -> list[str]:
    """Lines of a table whose keys have no value; `defaults` are those of the step."""
    properties = kind.model_json_schema()["properties"]
    lines = [*_comment((kind.__doc__ or "").strip()), f"[{name}]"]
    for key, info in kind.model_fields.items():
        value = info.default if key in WRITTEN else None
        lines += _key(key, info, properties[key], value, (defaults or {}).get(key))
    return [*lines, ""]


def study_text(found: FoundData, folder: Path) -> str:
    """A study file with what was found, and all other keys as comments.

    Parameters
    ----------
    found
        From `find_data`.
    folder
        Of the study file: paths in it start there.
    """
    fields = StudySettings.model_fields
    schema = StudySettings.model_json_schema()["properties"]

    def relative(path: Path) -> str:
        whole = path.absolute()
        return str(whole.relative_to(folder)) if whole.is_relative_to(folder) else str(whole)

    lines = [
        *_comment("A study, written by `axoloci init`. Paths start at the folder of this file."),
        *_comment(
            "A key behind # has the value that is shown, or is left to the step; remove the # to "
            "set it."
        ),
        "",
    ]
    tables = {name for name, _ in _sections()} | {*COHORTS, "extra"}
    order = ["out", *Inputs.model_fields, *(k for k in fields if k not in Inputs.model_fields)]
    for name in dict.fromkeys(order):
        if name in tables:
            continue
        *about, key = _key(name, fields[name], schema[name], OUT if name == "out" else None)
        choices = found.choices.get(name, {})
        lines += about if choices else [*about, key]
        for path, note in choices.items():
            sign = "" if found.chosen.get(name) == path else "#"
            lines += [*_comment(f"found: {note}"), f"{sign}{name} = {_toml(relative(path))}"]
        lines.append("")
    for name in COHORTS:
        lines += [*_comment(f"{fields[name].description}: keys as above, instead of those above")]
        lines += [f"#[{name}]", ""]
    for name, kind in _sections():
        lines += _table(name, kind, _step_defaults(name, kind))
    lines += [*_comment(str(fields["extra"].description)), "#[extra.NAME]"]
    return "\n".join(lines).rstrip("\n") + "\n"
