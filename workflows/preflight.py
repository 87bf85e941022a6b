"""Before any work: every fault of a study that can be seen without it, all at once.

Faults of the study stop it. Faults of single scans do not: such a scan fails by name when it is its
turn. Of images only the headers are read, unless all is asked for.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import logging
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.care import size
from axoloci.covariates import design_matrix, formula_columns, formula_variables
from axoloci.engines import has_gpu
from axoloci.environments import die_with_parent, environment_problems, memory_limit
from axoloci.errors import InputError, raise_all
from axoloci.extra import table_problems, task_fields
from axoloci.images import locked_images
from axoloci.io.atlas import read_atlas
from axoloci.io.files import unreadable, write_json
from axoloci.io.genotype_files import (
    GenotypeSet,
    count_variants,
    genotype_problems,
    genotype_set,
)
from axoloci.io.gradients import gradient_problems, read_gradients
from axoloci.io.nifti import check_grid, read_header
from axoloci.io.reverse import check_reverse
from axoloci.io.sidecars import read_phase_encoding
from axoloci.io.tables import (
    alike_hint,
    minus_nine_warnings,
    read_ids,
    read_table,
    read_traits,
)
from axoloci.io.variant_choice import VariantChoice
from axoloci.scans import LABEL, TOLD_BY, Scan, find_scans, passed_over, pattern_folder, scan_faults
from axoloci.study import (
    COHORTS,
    GeneticsSettings,
    GwasSettings,
    Inputs,
    LinearSettings,
    StudyPaths,
    StudySettings,
    beyond_pcs,
    not_made,
    step_settings,
)
from axoloci.tasks.gwas.ploidy import Ploidy, ploidy_of
from axoloci.workflows.exclusion import read_exclusions
from axoloci.workflows.graph import group_jobs, study_graph
from axoloci.workflows.participant import AT_HAND, STEPS
from axoloci.workflows.participants import Cohort, check_map, genotyped_people
from axoloci.workflows.plan import plan_study, template_grid
from axoloci.workflows.provenance import CODE, CRATE

logger = logging.getLogger("axoloci")

GROUP_STEPS = ["normalize", "encoder", "gwas", "genetics"]
SHOWN = 3  # examples in a message
MOST_IDS = 50  # of people who must be taken out one by one
CHUNK = 250  # scans that a thread or process checks in one go
MANY = 2000  # scans from which on several processes are worth their start
THREADS = 8  # of each process: a network file system answers several as fast as one
GPU_IMAGE = "gwas-cuda"
HELD_OUT = 0.1  # of the people who train the encoder, as axoloci-encoder holds them out
FEW_FREE = 10  # degrees of freedom that are worth a warning
FAR = 10  # times the interquartile range from the median
MOST_COVARIATES, MOST_LEVELS = 20, 8  # that are described
MANY_PREDICTORS = 1_000_000  # variants of a mixed model from which on a warning is worth it
MAX_LEVELS = 200  # of a covariate of words: beyond, its columns are counted and not computed

Grid = tuple[tuple[int, ...], tuple[float, ...]]


@dataclass
class Preflight:
    """What was found.

    Attributes
    ----------
    problems
        Faults of the study, each with file, place and what to do: it cannot start.
    scan_problems
        Faults of single scans, by the scan's name.
    warnings
        What is done with data that lack something.
    counts
        One line a cohort or table: how many people and scans there are.
    cohorts
        The cohorts by name, with their scans; only those whose source could be read.
    lacking
        By cohort, one row a person who is not tested: `sample_id`, and for each table "yes", "no"
        or, where a value is missing that is needed, "incomplete".
    """

    problems: list[str] = field(default_factory=list)
    scan_problems: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    counts: list[str] = field(default_factory=list)
    cohorts: dict[str, Cohort] = field(default_factory=dict)
    lacking: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def n_problems(self) -> int:
        """Faults of the study and of its scans."""
        return len(self.problems) + sum(map(len, self.scan_problems.values()))

    def stop(self) -> None:
        """Raise an `InputError` of all faults of the study, if there are any."""
        if self.problems:
            raise InputError("the study cannot start:", self.problems)

    def log(self) -> None:
        """Say counts and warnings in the log; of the faulty scans their number and the first."""
        for line in self.counts:
            logger.info("%s", line)
        for line in self.warnings:
            logger.warning("%s", line)
        if self.scan_problems:
            first = [problems[0] for problems in self.scan_problems.values()]
            logger.warning(
                "scans with faults, which will fail: %d, such as %s (axoloci check names all)",
                *(len(self.scan_problems), "; ".join(first[:SHOWN])),
            )

    def collect(self, call: Callable[..., Any], *arguments: Any, where: str = "") -> Any:
        """The value of a call, or none and its faults among the problems."""
        try:
            return call(*arguments)
        except InputError as error:
            self.problems += [f"{where}{problem}" for problem in error.problems]
            return None


def check(
    settings: StudySettings,
    *,
    env: str = "native",
    stage: str = "all",
    n_procs: int = 1,
    participants: Sequence[str] = (),
    read_all: bool = False,
    loads_engine: bool = False,
) -> Preflight:
    """Look for every fault of a study; nothing is written.

    Parameters
    ----------
    settings
        The study.
    env
        "native", "docker" or "singularity".
    stage
        "participants", "group" or "all"; images are looked at unless it is "group".
    n_procs
        Processes that read headers.
    participants
        Labels of the people whose scans are looked at; empty for all.
    read_all
        Read all images in full.
    loads_engine
        As for `environment_problems`.
    """
    found = Preflight()
    found.problems += extra_problems(settings)
    if found.problems:  # the rest is looked at without these steps
        settings = settings.model_copy(update={"extra": {}})
    found.problems += environment_problems(
        env, steps_needed(settings, stage), loads_engine=loads_engine
    )
    found.problems += _output_problems(settings)
    if settings.gwas.device == "cuda" and stage != "participants" and (why := no_gpu(env)):
        found.problems.append(f"'gwas.device' is 'cuda': {why}; set device = \"auto\" or \"cpu\"")
    compiles = settings.encoder.compile and "autoencoder" in settings.representations()
    if compiles and stage != "participants" and (why := no_compiler(env)):
        found.problems.append(f"'encoder.compile' is true: {why}; set compile = false")
    for key in ("template", "mask"):
        path = getattr(settings.normalize, key)
        if path is not None:
            if why := unreadable(path):
                found.problems.append(f"normalize.{key}: {why}")
            else:
                found.collect(read_header, path, 3, where=f"normalize.{key}: ")
    labels = _read_labels(found, settings)
    for key, path in settings.gwas.variant_lists.items():
        if why := unreadable(path):
            found.problems.append(f"gwas.{key}: {why}")
    if (genes := settings.genetics.genes) is not None and (why := unreadable(genes)):
        found.problems.append(f"genetics.genes: {why}")
    if settings.genetics.ldsc:
        _check_ldsc(found, settings.genetics)
    if (panel := settings.genetics.reference) is not None:
        found.collect(genotype_set, panel, where="genetics.reference: ")
    gwas = settings.gwas
    if gwas.model and gwas.pcs and not gwas.mixed_model and not _names_pcs(gwas):
        found.warnings.append(
            f"'gwas.model' names none of the components PC1 to PC{gwas.n_pcs}, so ancestry is not "
            "adjusted for; add PC1:PC10, say, or set mixed_model = true, if people differ in it"
        )
    made = settings.representations()
    if made and gwas.transforms and settings.genetics.voxels:
        found.warnings.append(
            f"no maps of voxels are made, for 'gwas.{gwas.transforms[0]}' changes the latents, and "
            "voxels are combinations of the latents as they are; set voxels = false in [genetics]"
        )
    if made and "linear" not in made and settings.linear != LinearSettings():
        found.warnings.append(
            "'linear' is of no use: 'encoder.representations' does not name the linear one"
        )
    if settings.normalize.mask is not None and settings.cohorts()["discovery"].start != "gwas":
        _check_grids(found, settings)
    several = bool(settings.train or settings.replication)
    for name, cohort in settings.cohorts().items():
        where = f"[{name}] " if several else ""
        kept = True
        if cohort.keep is not None:
            kept = found.collect(read_ids, cohort.keep, where=f"{where}keep: ") is not None
        scans = found.collect(find_scans, cohort, where=where) if kept else None
        if scans is not None:
            found.cohorts[name] = own = Cohort(cohort, scans)
            known = {scan.prefix for scan in scans}
            found.collect(read_exclusions, own.paths.exclude, known)
            _check_directions(found, scans, where)
            if unfit := passed_over(cohort):
                found.warnings.append(
                    f"{where}passed over, for a label in BIDS is of letters and digits only, and "
                    f"the same wherever a pattern names it: {len(unfit)}, such as "
                    f"{_examples(unfit)}; rename them, or name them in a table"
                )
        _check_tables(found, name, cohort, stage, where)
    if stage != "group":
        _check_scans(found, settings, stage, env, n_procs, participants, read_all)
    _check_overlaps(found)
    if stage != "participants":
        _check_leakage(found, settings)
        _check_batch(found, settings)
        if labels is not None:
            _check_labels(found, settings, *labels)
    wanted = {label.removeprefix("sub-") for label in participants}
    known = {scan.sample_id for cohort in found.cohorts.values() for scan in cohort.scans}
    if found.cohorts and wanted - known:
        found.problems.append(f"no scan of {', '.join(sorted(wanted - known))}")
    found.problems = list(dict.fromkeys(found.problems))  # cohorts may share a table
    found.warnings = list(dict.fromkeys(found.warnings))
    return found


def _names_pcs(gwas: GwasSettings) -> bool:
    """Whether a formula takes one of the components that are made."""
    return gwas.model is not None and bool(set(formula_variables(gwas.model)) & set(gwas.pcs))


def _examples(names: Iterable[str]) -> str:
    """The first of them, and whether there are more."""
    names = sorted(names)
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


# --- steps from outside -------------------------------------------------------------------------


def extra_problems(settings: StudySettings) -> list[str]:
    """What keeps the steps from outside from being run for each scan of a study."""
    if not settings.extra:
        return []
    problems = []
    bare = settings.model_copy(update={"extra": {}})
    taken = {*chain(*group_jobs(bare).values()), *step_settings(bare)}
    for name, table in settings.extra.items():
        try:
            faults = table_problems(name, table)
        except InputError as error:
            faults = list(error.problems)
        else:
            if name in taken:
                faults.append("a job of axoloci has the same name; the step must be renamed")
            faults += _lacking_inputs(settings, name, table)
            faults += [] if faults else _misfits(settings, name, table)
        problems += [f"[extra.{name}]: {fault}" for fault in faults]
    return problems


def _lacking_inputs(settings: StudySettings, name: str, table: dict[str, Any]) -> list[str]:
    """What an outside step needs and neither the scans of a cohort nor the study give."""
    needed = {key for key, field in task_fields(name).items() if field.mandatory} - table.keys()
    unknown = sorted(needed - set(AT_HAND["preprocess"]))
    faults = [f"the step '{name}' needs {', '.join(unknown)}; name it here"] if unknown else []
    for cohort in settings.cohorts().values():
        by = f"a study by '{cohort.sources[0]}'"
        if cohort.start not in STEPS:
            faults.append(f"{by} has no scans for it, for its maps or traits are taken as they are")
        elif absent := sorted(needed - set(unknown) - set(AT_HAND[cohort.start])):
            faults.append(f"the step '{name}' needs {', '.join(absent)}, which {by} does not have")
    return faults


def _misfits(settings: StudySettings, name: str, table: dict[str, Any]) -> list[str]:
    """Why the task of an outside step cannot take the files of a scan, such as for their format."""
    try:
        study_graph(settings.model_copy(update={"extra": {name: table}}))
    except Exception as error:  # of whatever kind, for the task is another's
        return [f"its task cannot take a scan's files: {' '.join(str(error).split())}"]
    return []


# --- where the results go -----------------------------------------------------------------------


def _existing(path: Path) -> Path:
    """The nearest folder or file above a path, or itself, that is there."""
    return next(p for p in (path, *path.parents) if p.exists())


def free_bytes(path: Path) -> int:
    """Free space where a path is, or will be."""
    return shutil.disk_usage(_existing(path)).free


def no_gpu(env: str) -> str:
    """Why nothing can be computed on a GPU of this machine; empty if it can."""
    if not has_gpu():
        return "this machine has no NVIDIA GPU"
    if env != "native":
        if GPU_IMAGE in locked_images():
            return ""
        return f"no image {GPU_IMAGE} is pinned (axoloci images build {GPU_IMAGE} --lock makes one)"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    program = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    if subprocess.run([sys.executable, "-c", program], capture_output=True).returncode:
        return "torch finds no GPU (make setup TORCH=cuda installs it with CUDA)"
    return ""


def no_compiler(env: str) -> str:
    """Why torch.compile cannot make programs for a CPU; empty if it can."""
    if env != "native":
        return "the images hold no C++ compiler"
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return "" if shutil.which(name) else f"the C++ compiler {name} is not installed"


def steps_needed(settings: StudySettings, stage: str) -> list[str]:
    """The steps that a stage of a study runs."""
    starts = {cohort.start for cohort in settings.cohorts().values()}
    own = ["report"]
    if stage != "group":
        own += STEPS[min((STEPS.index(s) for s in starts if s in STEPS), default=len(STEPS)) :]
        own += settings.extra
    if stage != "participants":
        own += ["gwas", "genetics"] if starts == {"gwas"} else GROUP_STEPS
    return sorted(set(own))


def _output_problems(settings: StudySettings) -> list[str]:
    """What keeps the results from being put where they are wanted."""
    out = settings.out
    above = _existing(out)
    if not above.is_dir():
        return [f"'out' {out}: {above} is a file; choose another folder"]
    problems = []
    if "\n" in str(out):  # tables and scripts are of lines
        problems.append(f"'out' {str(out)!r}: has a line break in its name; choose another folder")
    if not os.access(above, os.W_OK | os.X_OK):
        problems.append(f"'out' {out}: {above} cannot be written to; choose another folder")
    for cohort in settings.cohorts().values():
        problems += _inside_inputs(cohort, out)
        problems += _other_owner(cohort)
    return problems + _overwritten(settings)


def _inside_inputs(cohort: StudySettings, out: Path) -> list[str]:
    """Why results must not lie in the folder of a cohort's images."""
    if not cohort.sources or cohort.start == "gwas":
        return []
    given: Path = getattr(cohort, cohort.sources[0])
    by_pattern = LABEL in str(given)
    folder = pattern_folder(given) if by_pattern else given
    if not folder.is_dir():  # a table
        return []
    place, data = out.resolve(), folder.resolve()
    if place != data and (by_pattern or data not in place.parents):
        return []  # a pattern takes nothing of what lies deeper in a folder of results
    within = place.relative_to(data).parts
    if within[:1] == ("derivatives",) and len(within) > 1:
        return []
    what = "the raw data set" if cohort.bids else "the folder of the cohort's images"
    return [
        f"'out' {out}: lies inside {what} {folder}; results belong into {folder}/derivatives/NAME "
        "or elsewhere"
    ]


def _check_ldsc(found: Preflight, genetics: GeneticsSettings) -> None:
    """LD scores, and the headers of other studies' statistics."""
    # only what a study names is imported
    from axoloci.io.outside_sumstats import outside_columns, trait_name
    from axoloci.tasks.genetics.commands.ld_scores import check_ld_scores

    scores = genetics.ld_scores
    assert scores is not None
    if not scores.is_dir() and (why := unreadable(scores)):
        found.problems.append(f"genetics.ld_scores: {why}")
    else:
        found.collect(check_ld_scores, scores, where="genetics.ld_scores: ")
    for file in genetics.outside:
        columns = found.collect(outside_columns, file, where="genetics.outside: ")
        if (
            columns is not None
            and "n" not in columns
            and trait_name(file) not in genetics.outside_n
        ):
            found.problems.append(
                f"genetics.outside: {file}: does not say n; give it by outside_n = "
                f"{{{trait_name(file)} = NUMBER}}"
            )


def _overwritten(settings: StudySettings) -> list[str]:
    """Inputs that the study would write over."""
    cohorts = settings.cohorts().values()
    inputs: dict[Path, str] = {}
    for cohort in cohorts:
        for key in Inputs.model_fields:
            path = getattr(cohort, key)
            if path is None:
                continue
            inputs |= dict.fromkeys(_genotype_files(path) if key == "genotypes" else [path], key)
    for key in ("template", "mask"):
        if (path := getattr(settings.normalize, key)) is not None:
            inputs[path] = f"normalize.{key}"
    if (atlas := settings.atlas()) is not None:
        inputs[atlas] = "linear.atlas"
    inputs |= {path: f"gwas.{key}" for key, path in settings.gwas.variant_lists.items()}
    for key, path in settings.genetics.files.items():
        files = _genotype_files(path) if key == "reference" else [path]
        inputs |= dict.fromkeys(files, f"genetics.{key}")
    inputs |= dict.fromkeys(settings.genetics.outside, "genetics.outside")
    problems = []
    for out in dict.fromkeys([settings.out, *(cohort.out for cohort in cohorts)]):
        paths = StudyPaths(out)
        files = [paths.scans, paths.qc, paths.exclude, paths.maps]
        files += [paths.qc_page, paths.report, paths.shareable]
        files += [out / "dataset_description.json", out / CRATE]
        folders = {f.resolve() for f in (paths.group, paths.logs, paths.work, out / CODE)}
        taken = {file.resolve() for file in files} | folders
        problems += [
            f"'{key}' {path}: the study writes its own results there ('out' is {out}); put the "
            "input or the output elsewhere"
            for path, key in inputs.items()
            if path.resolve() in taken or folders & set(path.resolve().parents)
        ]
    return problems


def _genotype_files(path: Path) -> list[Path]:
    """All files of a set; none where it is not clear which these are, which is named elsewhere."""
    try:
        return genotype_set(path).files
    except InputError:
        return []


def _other_owner(cohort: StudySettings) -> list[str]:
    """Why the output folder belongs to something else."""
    out = cohort.out
    marker = _marker(cohort)
    try:
        before = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if isinstance(before, dict) and before != _source(cohort):
        old, new = (f"{of.get('source')} = {of.get('path')}" for of in (before, _source(cohort)))
        return [
            f"'out' {out}: holds a study of {old}, and this one is of {new}; choose another "
            f"folder, or delete {marker} if the data were only moved"
        ]
    try:
        description = json.loads((out / "dataset_description.json").read_text(encoding="utf-8"))
        made_by = [program.get("Name") for program in description.get("GeneratedBy", [])]
    except (OSError, ValueError, AttributeError):
        return []
    if "axoloci" not in made_by:
        return [f"'out' {out}: is another BIDS data set; choose a folder of its own"]
    return []


def _marker(cohort: StudySettings) -> Path:
    return StudyPaths(cohort.out).work / "source.json"


def _source(cohort: StudySettings) -> dict[str, str]:
    """What makes a cohort the one that it is."""
    (source,) = cohort.sources
    return {"source": source, "path": str(getattr(cohort, source).resolve())}


def claim(cohort: StudySettings) -> None:
    """Mark a cohort's output folder as that of its source; other studies are refused there."""
    marker = _marker(cohort)
    marker.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json(marker, _source(cohort))


# --- tables of people ---------------------------------------------------------------------------


def _check_tables(
    found: Preflight, name: str, settings: StudySettings, stage: str, where: str
) -> None:
    """Genotypes, covariates and traits of one cohort, and who is in all of them."""
    cohort, traits = found.cohorts.get(name), None
    known = genotyped_people(settings)
    if settings.traits is not None:
        traits = found.collect(_read_traits, settings, known, found.warnings, where=where)
        if traits is None:
            cohort = None
            found.cohorts.pop(name, None)
        elif name == "discovery" and settings.genetics.outside:
            from axoloci.io.outside_sumstats import trait_name  # only what a study names

            found.problems += [
                f"genetics.outside: {file}: is named by the file up to its first dot, as a trait "
                f"of {settings.traits} is; rename the file"
                for file in settings.genetics.outside
                if trait_name(file) in traits.columns
            ]
    if cohort is not None and settings.keep is not None:
        kept = set(read_ids(settings.keep, known if settings.traits else None))
        unknown = kept - cohort.people
        if unknown:
            hint = alike_hint(unknown, cohort.people)
            found.warnings.append(
                f"{where}{settings.keep}: {len(unknown)} of {len(kept)} people are not in "
                f"{getattr(settings, settings.sources[0])}, such as {_examples(unknown)}"
                f"{f'; {hint}' if hint else ''}"
            )
    if name == "train":  # who trains the encoder needs neither genotypes nor covariates
        if cohort is not None:
            found.counts.append(f"{where}{len(cohort.people)} people, {len(cohort.scans)} scans")
            _check_size(found, settings, len(cohort.people), "have a scan", stage, where)
        return
    tables: dict[Path, set[str]] = {}
    if settings.genotypes is None:
        if stage != "participants":
            found.problems.append(f"{where}'genotypes' is missing: the group stage needs genotypes")
    else:
        tables |= _check_genotypes(found, settings, where, stage)
        if cohort is not None and cohort.scans and known is not None:
            shared_iids = set(known["iid"][known["iid"].duplicated()])
            if namesakes := cohort.people & shared_iids:
                found.problems.append(
                    f"{where}genotypes: people of several families have the IID "
                    f"{_examples(namesakes)}, and a scan names its person by one label: give each "
                    "an IID of its own (plink2 --update-ids)"
                )
    columns = _read_covariates(found, settings, known, where)
    if columns is not None and settings.covariates is not None:
        whole = columns.notna().all(axis=1)
        if not whole.all():
            found.warnings.append(
                f"{where}{settings.covariates}: {int((~whole).sum())} people have a missing "
                f"covariate and are left out, such as {_examples(columns.index[~whole])}"
            )
        tables[settings.covariates] = set(columns.index)
        columns = columns[whole]
    if cohort is None:
        return
    _check_sidecars(found, cohort, columns, where)
    shared = _match(found, cohort, tables, where)
    if shared is None:
        return
    complete = dict(tables)
    if columns is not None and settings.covariates is not None:
        complete[settings.covariates] = set(columns.index)
        shared &= complete[settings.covariates]
    if traits is not None and settings.traits is not None:
        tables[settings.traits] = cohort.people
        tested = _check_missing(found, settings, traits.loc[sorted(shared)], where)
        # of who is not in all tables, the traits are not what is amiss
        complete[settings.traits] = cohort.people - (shared - tested)
        shared = tested
        found.warnings += far_values(traits.loc[sorted(shared)], f"{where}{settings.traits}")
    if columns is not None and settings.covariates is not None:
        columns = columns.loc[sorted(shared)]
        found.counts += [f"{where}covariate {line}" for line in described(columns)]
        found.warnings += far_values(columns, f"{where}{settings.covariates}")
        found.warnings += alike_levels(columns, f"{where}{settings.covariates}")
    if left_out := sorted(cohort.people - shared):
        found.lacking[name] = [
            {"sample_id": person}
            | {
                path.name: "no"
                if person not in people
                else ("yes" if person in complete[path] else "incomplete")
                for path, people in tables.items()
            }
            for person in left_out
        ]
    _check_size(found, settings, len(shared), "are in all tables", stage, where)
    if shared and stage != "participants":
        _check_design(found, settings, columns, len(shared), where)


def _check_genotypes(
    found: Preflight, settings: StudySettings, where: str, stage: str
) -> dict[Path, set[str]]:
    """The file that names the people of the genotypes, and these; none if there are faults."""
    assert settings.genotypes is not None
    genotypes = found.collect(genotype_set, settings.genotypes, where=f"{where}genotypes: ")
    if genotypes is None:
        return {}
    if faults := genotype_problems(genotypes):
        found.problems += [f"{where}genotypes: {fault}" for fault in faults]
        return {}
    if len(genotypes.parts) > 1:
        found.counts.append(f"{where}genotypes: {len(genotypes.parts)} files of {genotypes.data}")
    if genotypes.absent:
        found.warnings.append(
            f"{where}genotypes: no file of chromosome {', '.join(genotypes.absent)} is there for "
            f"{genotypes.data}; these are not tested"
        )
    if stage != "participants":
        _check_variants(found, settings, genotypes, where)
    return {genotypes.names_people: set(genotypes.people.index)}


def _check_variants(
    found: Preflight, settings: StudySettings, genotypes: GenotypeSet, where: str
) -> None:
    """Whether regions and lists leave a variant, and enough of them for a mixed model."""
    gwas = settings.gwas
    if any(map(unreadable, gwas.variant_lists.values())):
        return  # named already
    tested = VariantChoice(gwas.region, gwas.extract, gwas.exclude)
    if not tested.is_all:
        found.collect(tested.count, genotypes, where=f"{where}gwas: ")
    if not gwas.mixed_model:
        return
    predict = VariantChoice(extract=gwas.mixed_model_extract)
    if predict.is_all:
        counts = count_variants(genotypes)
    else:
        counts = found.collect(predict.count, genotypes, where=f"{where}gwas: ")
    if counts is None:
        return
    counts = {name: n for name, n in counts.items() if ploidy_of(name) is Ploidy.DIPLOID}
    if len(counts) < 2:
        found.problems.append(
            f"{where}'gwas.mixed_model': {genotypes.data} has variants of {len(counts)} autosomes "
            "for it, and those of others predict what is taken off; give genotypes of more "
            "chromosomes, or leave the key out"
        )
    elif sum(counts.values()) > MANY_PREDICTORS:
        found.warnings.append(
            f"{where}'gwas.mixed_model': {sum(counts.values()):,} variants predict, and its time "
            "grows with them: 200,000 to 500,000 are enough; name some by mixed_model_extract "
            "(such as those of plink2 --indep-pairwise)"
        )


def _check_size(
    found: Preflight, settings: StudySettings, n_people: int, what: str, stage: str, where: str
) -> None:
    """Enough people for the group stage."""
    if n_people < settings.min_participants and stage != "participants":
        found.problems.append(
            f"{where}{n_people} people {what}, and min_participants is "
            f"{settings.min_participants}; add people or lower min_participants"
        )


def _training_people(found: Preflight, settings: StudySettings) -> tuple[int, str] | None:
    """How many people the representations are learnt of, and how many not; none if unknown."""
    teacher = settings.teacher()
    if teacher not in found.cohorts or not found.cohorts[teacher].scans:
        return None
    n_people = len(found.cohorts[teacher].people)
    held_out = max(1, round(HELD_OUT * n_people))
    return n_people - held_out, f"({held_out} of {n_people} are held out)"


def _check_batch(found: Preflight, settings: StudySettings) -> None:
    """Whether the people who train the encoder fill a batch."""
    batch, training = settings.encoder.decided.batch_size, _training_people(found, settings)
    if batch is None or training is None or "autoencoder" not in settings.representations():
        return
    n_people, others = training
    if n_people < batch:
        mend = "lower it, or leave it out"
        if settings.encoder.batch_size is None:
            mend = "as udip_fa has it: set a smaller one, or leave udip_fa out"
        found.problems.append(
            f"'[encoder] batch_size' is {batch}, and {n_people} people train the encoder {others}; "
            f"{mend}"
        )


def _read_labels(
    found: Preflight, settings: StudySettings
) -> tuple[NDArray[np.int32], NDArray[np.float64]] | None:
    """The labels that make the linear representation, and their affine; none if none do."""
    atlas = settings.atlas()
    if atlas is None:
        return None
    if why := unreadable(atlas):
        found.problems.append(f"linear.atlas: {why}")
        return None
    labels: tuple[NDArray[np.int32], NDArray[np.float64]] | None = found.collect(
        read_atlas, atlas, where="linear.atlas: "
    )
    return labels


def _check_labels(
    found: Preflight,
    settings: StudySettings,
    labels: NDArray[np.int32],
    affine: NDArray[np.float64],
) -> None:
    """Whether all labels lie in the common space, and whether there are people enough for them."""
    numbers = np.unique(labels[labels > 0])
    where = f"linear.atlas: {settings.atlas()}"
    made = {f"component_{k:03d}" for k in range(len(numbers))}
    exported = [name for name in settings.gwas.export if name.startswith("component_")]
    for name in exported:
        if name not in made:
            found.problems.append(
                f"'gwas.export': there will be no trait '{name}'; {where} has {len(numbers)} "
                f"labels, which make component_000 to component_{len(numbers) - 1:03d}"
            )
    training = _training_people(found, settings)
    if training is None:
        return
    n_people, others = training
    if n_people <= len(numbers):
        found.problems.append(
            f"{where} has {len(numbers)} labels, and their means are fitted to {n_people} people "
            f"{others}, who must be more; merge labels, or leave the key out"
        )
    teacher = settings.cohorts()[settings.teacher()]
    try:
        if teacher.start in STEPS:
            shape, space = template_grid(teacher)
        else:
            header = read_header(found.cohorts[settings.teacher()].scans[0].fa or Path(), 3)
            shape, space = header.shape, header.affine
    except InputError:
        return  # named already
    if outside := np.setdiff1d(numbers, _labels_inside(labels, affine, shape, space)).tolist():
        some = ", ".join(map(str, outside[:SHOWN])) + (", …" if len(outside) > SHOWN else "")
        found.problems.append(
            f"{where}: {len(outside)} of {len(numbers)} labels lie outside of the maps' common "
            f"space, such as {some}; give an atlas in the space of the template"
        )


def _labels_inside(
    labels: NDArray[np.int32],
    affine: NDArray[np.float64],
    shape: Sequence[int],
    space: NDArray[np.float64],
) -> NDArray[np.int32]:
    """Labels of an atlas, by number, that have a voxel inside another grid.

    >>> labels = np.array([[[1, 1, 2, 3]]], dtype=np.int32)
    >>> _labels_inside(labels, np.eye(4), (1, 1, 3), np.eye(4)).tolist()
    [1, 2]
    """
    to_grid = np.linalg.inv(space) @ affine
    place = np.argwhere(labels) @ to_grid[:3, :3].T + to_grid[:3, 3]  # (n, 3) voxels of the grid
    inside = ((place > -0.5) & (place < np.array(shape) - 0.5)).all(axis=1)
    return np.unique(labels[labels > 0][inside])


def _read_traits(
    settings: StudySettings, people: pd.DataFrame | None, warnings: list[str]
) -> pd.DataFrame:
    """The table of traits; traits that cannot be tested are said among the warnings.

    `people` are those of the genotypes.
    """
    path = settings.traits
    assert path is not None
    if why := unreadable(path):
        raise InputError(f"traits: {why}")
    traits = read_traits(path, people, settings.gwas.traits)
    problems = [
        f"{path}: 'gwas.export' names '{name}', which is no column; "
        f"{_nearest(name, traits.columns)}"
        for name in settings.gwas.export
        if name not in traits
    ]
    empty = [str(name) for name in traits.columns if traits[name].isna().all()]
    flat = [str(n) for n in traits.columns if n not in empty and traits[n].min() == traits[n].max()]
    if len(empty) + len(flat) == traits.shape[1]:
        problems.append(f"{path}: every trait is missing or constant; none can be tested")
    for names, what in ((empty, "missing for everyone"), (flat, "the same for everyone")):
        if names:
            warnings.append(f"{path}: left out, for {what}: {_examples(names)}")
    warnings += minus_nine_warnings(traits, path)
    raise_all(problems, f"{path}:")
    return traits


def _check_missing(
    found: Preflight, settings: StudySettings, traits: pd.DataFrame, where: str
) -> set[str]:
    """Who of the people with genotypes and covariates is tested, and with which traits jointly."""
    known = traits.loc[:, traits.min() < traits.max()].notna()  # of the others it is said already
    tested = traits.index[traits.notna().any(axis=1)]
    if settings.gwas.complete_traits:
        tested = traits.index[known.all(axis=1)]
    # a person without any trait is left out, and makes no trait one that some lack
    lacking = [str(name) for name in known.columns[~known.loc[tested].all()]]
    if len(tested) < len(traits):
        which = "a trait" if settings.gwas.complete_traits else "all traits"
        found.warnings.append(
            f"{where}{settings.traits}: {len(traits) - len(tested)} people lack {which} and are "
            f"left out, such as {_examples(traits.index.difference(tested))}"
        )
    if lacking:  # the association would do, not what follows
        mend = "complete_traits = true in [gwas] leaves out the people instead"
        if len(lacking) == known.shape[1]:
            found.problems.append(
                f"{where}{settings.traits}: each trait is lacked by someone, and the joint test "
                f"needs traits of the same people: {mend}"
            )
        else:
            found.warnings.append(
                f"{where}{settings.traits}: left out of the joint test, for some people lack them: "
                f"{_examples(lacking)}; {mend}"
            )
    return set(tested)


def _nearest(name: str, known: Iterable[Any]) -> str:
    """The known name that was probably meant, else all of them."""
    known = list(map(str, known))
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not nearest:
        nearest = [other for other in known if other.casefold() == name.casefold()]
    if nearest:
        return f"did you mean '{nearest[0]}'?"
    return f"found {', '.join(known[:20]) or 'none'}{', …' if len(known) > 20 else ''}"


def _read_covariates(
    found: Preflight, settings: StudySettings, people: pd.DataFrame | None, where: str
) -> pd.DataFrame | None:
    """The covariates that the study uses, one row a person; none if there is no sound table.

    `people` are those of the genotypes.
    """
    path, gwas = settings.covariates, settings.gwas
    if path is None:
        return None
    if why := unreadable(path):
        found.problems.append(f"{where}covariates: {why}")
        return None
    if gwas.columns == ():
        return None
    table = found.collect(read_table, path, gwas.categorical, people, where=where)
    if table is None:
        return None
    made = settings.made_covariates & set(gwas.columns or ())
    n_before = len(found.problems)
    for key, names in ((gwas.key, gwas.columns), ("categorical", gwas.categorical)):
        found.problems += [
            f"{where}{path}: no column '{name}', which 'gwas.{key}' names; "
            f"{_nearest(name, table.columns)}{not_made([name], settings)}"
            f"{beyond_pcs([name], gwas.n_pcs)}"
            for name in names or ()
            if name not in table and name not in made
        ]
    components = [name for k in range(gwas.n_pcs) if (name := f"PC{k + 1}") in table]
    if components:
        found.problems.append(
            f"{where}{path}: has columns {_examples(components)}, and n_pcs = {gwas.n_pcs} makes "
            "components of the same names; set n_pcs = 0 under [gwas] to use yours, or rename them"
        )
    columns = table if gwas.columns is None else table[[n for n in gwas.columns if n in table]]
    found.warnings += [f"{where}{line}" for line in minus_nine_warnings(columns, path)]
    for name in columns.columns:
        if columns[name].isna().all():
            found.problems.append(
                f"{where}{path}: column '{name}' is missing for everyone; leave it out by naming "
                f"the others in [gwas] {gwas.key}"
            )
    return columns if len(found.problems) == n_before else None


def _check_sidecars(
    found: Preflight, cohort: Cohort, columns: pd.DataFrame | None, where: str
) -> None:
    """Covariates that are made of the sidecars, and scans whose sidecars do not tell them."""
    settings = cohort.settings
    if columns is None and settings.covariates is not None:
        return  # the table's fault is named
    for name in settings.gwas.columns or ():
        of_table = columns is not None and name in columns
        if name not in TOLD_BY or name not in settings.made_covariates or of_table:
            continue
        lacking = [s.prefix for s in cohort.scans if not set(TOLD_BY[name]) & set(s.acquisition)]
        keys = " or ".join(TOLD_BY[name])
        if len(lacking) == len(cohort.scans):
            found.problems.append(
                f"{where}'gwas.{settings.gwas.key}' names '{name}', and no scan's JSON sidecar has "
                f"{keys}; add it to the sidecars or as a column of the covariates, or leave "
                f"'{name}' out"
            )
        elif lacking:
            found.warnings.append(
                f"{where}{len(lacking)} of {len(cohort.scans)} scans have no {keys} in their JSON "
                f"sidecars and so no '{name}', such as {_examples(lacking)}; their people are left "
                "out of the association"
            )


def described(columns: pd.DataFrame) -> list[str]:
    """A line a covariate: the range of numbers, the levels of words.

    >>> described(pd.DataFrame({"age": [50.0, 60, 70], "sex": ["F", "M", "F"]}))
    ['age: 50 to 70, median 60', 'sex: F 2, M 1']
    """
    lines = []
    for name, values in columns.iloc[:, :MOST_COVARIATES].items():
        if values.dtype != object:
            low, middle, high = values.min(), values.median(), values.max()
            lines.append(f"{name}: {low:g} to {high:g}, median {middle:g}")
            continue
        counts = values.value_counts()
        levels = ", ".join(f"{level} {n}" for level, n in counts.iloc[:MOST_LEVELS].items())
        more = f" and {len(counts) - MOST_LEVELS} levels more" if len(counts) > MOST_LEVELS else ""
        lines.append(f"{name}: {levels}{more}")
    if columns.shape[1] > MOST_COVARIATES:
        lines.append(f"columns: {columns.shape[1] - MOST_COVARIATES} more")
    return lines


def far_values(table: pd.DataFrame, where: str) -> list[str]:
    """What to say of values that are so far from the others that they may be codes or slips.

    >>> far_values(pd.DataFrame({"age": [50.0, 55, 60, 65, 999]}, index=list("abcde")), "t")
    ["t: column 'age': 999 of e is far from the others (half: 55 to 65); NA means missing"]
    """
    warnings = []
    numbers = table.select_dtypes("number")
    quarters = numbers.quantile([0.25, 0.5, 0.75])
    for name, values in numbers.items():
        low, middle, high = quarters[name]
        far = values[(values - middle).abs() > FAR * (high - low)].dropna()
        if high > low and len(far):
            what = f"{far.iloc[0]:g} of {far.index[0]}"
            what += f" and {len(far) - 1} more are" if len(far) > 1 else " is"
            what += f" far from the others (half: {low:g} to {high:g})"
            warnings.append(f"{where}: column '{name}': {what}; NA means missing")
    return warnings


def alike_levels(columns: pd.DataFrame, where: str) -> list[str]:
    """What to say of words that differ only by case: each is a level of its own.

    >>> alike_levels(pd.DataFrame({"sex": ["F", "f", "M"]}), "t.tsv")
    ["t.tsv: column 'sex': F and f are levels of their own; write them alike if they mean the same"]
    """
    warnings = []
    for name, values in columns.select_dtypes("object").items():
        spellings = pd.Series(sorted(values.unique()))
        for _, alike in spellings.groupby(spellings.str.casefold()):
            if len(alike) > 1:
                warnings.append(
                    f"{where}: column '{name}': {' and '.join(alike)} are levels of their own; "
                    "write them alike if they mean the same"
                )
    return warnings


def _match(
    found: Preflight, cohort: Cohort, tables: dict[Path, set[str]], where: str
) -> set[str] | None:
    """People in the images or traits and in all tables; none if a table shares no one with them."""
    first = str(cohort.settings.traits or "the scans")
    ours = cohort.people
    sound = True
    for path, people in tables.items():
        lacking = ours - people
        hint = alike_hint(lacking, people)
        if lacking == ours:
            sound = False
            found.problems.append(
                f"{where}no person is both in {first} and in {path}: {first} are of "
                f"{_examples(ours)}; the file has {_examples(people)}; "
                f"{hint or 'its IID must be the participant label without sub-'}"
            )
        elif lacking:
            found.warnings.append(
                f"{where}{len(lacking)} of {len(ours)} people of {first} are not in {path} and are "
                f"left out of the association, such as {_examples(lacking)}"
                f"{f'; {hint}' if hint else ''}"
            )
    shared = ours.intersection(*tables.values())
    if sound and tables and not shared:
        sound = False
        found.problems.append(
            f"{where}no person is in {first} and in all of {', '.join(map(str, tables))}, though "
            "each two share some; give tables of the same people"
        )
    scans = f", {len(cohort.scans)} scans" if cohort.scans else ""
    found.counts.append(
        f"{where}{len(ours)} people in {first}{scans}; "
        + "".join(f"{len(people)} in {path}; " for path, people in tables.items())
        + f"{len(shared)} in all"
    )
    return shared if sound else None


def _check_design(
    found: Preflight,
    settings: StudySettings,
    columns: pd.DataFrame | None,
    n_people: int,
    where: str,
) -> None:
    """Covariates that say nothing, and whether there are more of them than people."""
    gwas = settings.gwas
    n_words = 0  # levels of columns that are not looked at in detail
    if columns is None:
        columns = pd.DataFrame(index=range(n_people))
    for name in columns.select_dtypes("object").columns:
        if (n := int(columns[name].nunique())) > MAX_LEVELS:
            found.warnings.append(
                f"{where}{settings.covariates}: column '{name}' has {n} different words, each a "
                "covariate of its own; if they are no categories, leave it out"
            )
            columns = columns.drop(columns=name)
            n_words += n - 1
    if gwas.model is None:
        _, names, left_out = design_matrix(columns)
        n_columns = len(names) + n_words + gwas.n_pcs  # with the intercept
        what = f"an intercept and {gwas.n_pcs} components"
        if n_columns > 1 + gwas.n_pcs:
            what += f" and {n_columns - 1 - gwas.n_pcs} columns of {settings.covariates}"
    else:
        if not set(gwas.columns or ()) <= set(columns.columns):
            return  # some are made on the way, or have too many levels: nothing can be told yet
        noise = np.random.default_rng(0).standard_normal((len(columns), gwas.n_pcs))
        stand_in = pd.DataFrame(noise, index=columns.index, columns=[*gwas.pcs])
        made = found.collect(
            formula_columns, gwas.model, columns.join(stand_in), where=f"{where}gwas.model: "
        )
        if made is None:
            return
        _, names, left_out = design_matrix(made)
        n_columns, what = len(names), "those of 'gwas.model'"
    for name, why in left_out.items():
        found.warnings.append(
            f"{where}{gwas.model or settings.covariates}: '{name}' is left out: it is {why}"
        )
    mend = f"name fewer in [gwas] {gwas.key}, or lower n_pcs"
    if n_people < n_columns + 2:
        found.problems.append(
            f"{where}{n_people} people are in all tables, too few for {n_columns} covariates "
            f"({what}); {mend}"
        )
    elif (free := n_people - n_columns - 1) < FEW_FREE:
        found.warnings.append(
            f"{where}{n_people} people and {n_columns} covariates ({what}) leave {free} degrees of "
            f"freedom: effects will look large by chance; {mend}"
        )


def _check_overlaps(found: Preflight) -> None:
    """Cohorts that must not share people."""
    people = {name: cohort.people for name, cohort in found.cohorts.items()}
    for one, other in combinations(COHORTS, 2):
        both = sorted(people.get(one, set()) & people.get(other, set()))
        if not both or (one, other) == ("train", "discovery"):
            continue
        found.problems.append(
            f"{_shared(both, one, other)}; a replication needs other people: name in 'keep' (a "
            f"table with IID) of [{one}] or [{other}] only the others"
        )


def _shared(both: Sequence[str], one: str, other: str) -> str:
    """A clause on people who are in two cohorts."""
    listed = ", ".join(both[:MOST_IDS])
    if len(both) > MOST_IDS:
        listed += f" and {len(both) - MOST_IDS} more, whose ids are in the tables of both"
    return f"{len(both)} people are in [{one}] and in [{other}]: {listed}"


def _check_leakage(found: Preflight, settings: StudySettings) -> None:
    """People of the association on whose maps the representations are learnt."""
    choice, teacher = settings.encoder.training_people, settings.teacher()
    if not teacher or choice == "keep" or not {teacher, "discovery"} <= found.cohorts.keys():
        return
    tested = found.cohorts["discovery"].people
    both = tested & found.cohorts[teacher].people
    if choice == "drop":
        what = 'are in [discovery] and not in [train], as training_people = "drop" has it'
        _check_size(found, settings, len(tested - both), what, "group", "")
    elif both:
        who = (
            "the encoder is trained on the people of the association themselves"
            if teacher == "discovery"
            else _shared(sorted(both), "train", "discovery")
        )
        found.problems.append(
            f'{who}: choose by training_people in [encoder], or --training-people. "keep" tests '
            "them all the same: the encoder never sees genotypes, so this makes no false "
            "associations, but reconstruction and power are then judged on people whom it has "
            'seen. "drop" leaves those out who are in both. Or name only others in [train], such '
            "as by 'keep' (a table with IID)"
        )


# --- scans --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """What was found in one scan."""

    problems: tuple[str, ...]
    shape: tuple[int, ...] | None = None  # of its image
    grid: Grid | None = None  # of a map in the common space


def check_scan(scan: Scan, start: str, read_all: bool = False, distortion: bool = False) -> Finding:
    """Everything wrong with a scan that its headers and gradient table tell.

    Parameters
    ----------
    scan
        The scan.
    start
        Step at which it enters.
    read_all
        Read the images in full, where the headers have no fault.
    distortion
        With its reverse b0, if it has one.
    """
    problems = scan_faults(scan, start, distortion)
    if problems:
        return Finding(tuple(problems))

    def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except InputError as error:
            problems.extend(error.problems)
            return None

    if start not in ("preprocess", "dti"):
        assert scan.fa is not None
        header = attempt(read_header, scan.fa, 3)
        if header is not None and read_all:
            attempt(check_map, scan.fa)
        if problems or start != "encoder":
            return Finding(tuple(problems), None if header is None else header.shape)
        affine = tuple(round(float(x), 3) + 0.0 for x in header.affine.ravel())
        return Finding((), header.shape, (header.shape, affine))
    assert scan.dwi is not None
    header = attempt(read_header, scan.dwi, 4)
    tables = attempt(read_gradients, scan.bval, scan.bvec)
    if tables is not None:
        bval, bvec = tables
        n_volumes = None if header is None else header.shape[3]
        problems += [f"{scan.bval}: {text}" for text in gradient_problems(bval, bvec, n_volumes)]
    if scan.mask is not None:
        mask = attempt(read_header, scan.mask, 3)
        if header is not None and mask is not None:
            attempt(
                check_grid,
                *(scan.mask, mask.shape, mask.affine, header.shape[:3], header.affine, scan.dwi),
            )
    if distortion and scan.reverse_b0 is not None and header is not None:
        own = None if scan.json is None else attempt(read_phase_encoding, scan.json)
        attempt(
            *(check_reverse, scan.dwi, header.affine, own, scan.reverse_b0, scan.reverse_json),
        )
    if read_all and not problems:
        problems += _read_in_full(scan.raw_files(distortion))
    return Finding(tuple(problems), None if header is None else header.shape)


def _read_in_full(files: Mapping[str, Path | None]) -> list[str]:
    """What the command that reads a scan first finds in its files."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("axoloci-preprocess", path=search)
    if program is None:
        raise InputError("axoloci-preprocess is not installed: pip install 'axoloci[dwi]'")
    given = {name.replace("_", "-"): path for name, path in files.items() if path is not None}
    options = [word for name, path in given.items() for word in (f"--{name}", str(path))]
    done = subprocess.run([program, "check", *options], capture_output=True, text=True)
    if done.returncode == 0:
        return []
    lines = [line for line in done.stdout.splitlines() if line.startswith("/")]
    return lines or [f"{files['dwi']}: cannot be read: {done.stderr.strip()[-200:]}"]


def _check_shares(
    shares: Sequence[Sequence[Scan]], start: str, distortion: bool
) -> list[list[Finding]]:
    """Chunks of scans, by the threads of this process."""

    def check_share(share: Sequence[Scan]) -> list[Finding]:
        return [check_scan(scan, start, distortion=distortion) for scan in share]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(check_share, shares))


def check_scans(
    scans: Sequence[Scan],
    start: str,
    n_procs: int = 1,
    read_all: bool = False,
    distortion: bool = False,
) -> list[Finding]:
    """What is wrong with each scan, many at a time."""
    if read_all:  # images are read by processes of their own, or in C
        with ThreadPoolExecutor(n_procs) as threads:
            return list(threads.map(lambda scan: check_scan(scan, start, True, distortion), scans))
    chunk = CHUNK if len(scans) > MANY else max(1, len(scans) // THREADS)
    shares = [scans[i : i + chunk] for i in range(0, len(scans), chunk)]
    if len(scans) <= MANY or n_procs == 1:
        return list(chain.from_iterable(_check_shares(shares, start, distortion)))
    with ProcessPoolExecutor(
        n_procs,
        multiprocessing.get_context("spawn"),
        initializer=die_with_parent,
        initargs=(os.getpid(),),
    ) as pool:
        groups = [shares[i : i + THREADS] for i in range(0, len(shares), THREADS)]
        results = pool.map(
            _check_shares, groups, *zip(*[(start, distortion)] * len(groups), strict=True)
        )
        return list(chain.from_iterable(chain.from_iterable(results)))


def _check_scans(
    found: Preflight,
    settings: StudySettings,
    stage: str,
    env: str,
    n_procs: int,
    participants: Sequence[str],
    read_all: bool,
) -> None:
    """The scans of all cohorts, and whether what is made of them has room."""
    wanted = {label.removeprefix("sub-") for label in participants}
    findings: dict[str, list[Finding]] = {}
    chosen: dict[str, list[Scan]] = {}
    for name, cohort in found.cohorts.items():
        if cohort.settings.start == "gwas":
            continue
        # which grid is the common one, all maps decide
        everyone = not wanted or cohort.settings.start == "encoder"
        chosen[name] = [s for s in cohort.scans if everyone or s.sample_id in wanted]
        own = cohort.settings
        paired = own.start == "preprocess" and own.preprocess.corrects_distortion
        if paired:
            _check_pairs(found, chosen[name])
        findings[name] = check_scans(chosen[name], own.start, n_procs, read_all, paired)
    for name, scans in chosen.items():
        if found.cohorts[name].settings.start in ("normalize", "encoder"):
            _look_at_values(found, name, scans, findings[name])
    common = _mark_odd_grids(found, chosen, findings)
    if common is not None:
        _check_grids(found, settings, common)
    for name, scans in chosen.items():
        cohort = found.cohorts[name]
        prefix = f"[{name}] " if len(found.cohorts) > 1 else ""
        faulty = {
            f"{prefix}{scan.prefix}": list(finding.problems)
            for scan, finding in zip(scans, findings[name], strict=True)
            if finding.problems and (not wanted or scan.sample_id in wanted)
        }
        found.scan_problems |= faulty
        sound = {s.sample_id for s in scans if f"{prefix}{s.prefix}" not in faulty}
        if faulty and not sound and not wanted:
            first = next(iter(faulty.values()))[0]
            found.problems.append(
                f"{prefix}none of the {len(scans)} scans can be used; the first: {first}"
            )
    _check_room(found, settings, stage, env, chosen, findings)


def _look_at_values(
    found: Preflight, name: str, scans: list[Scan], findings: list[Finding]
) -> None:
    """Read the first maps of a cohort: FA that is scaled is scaled in all of them."""
    looked = [i for i, finding in enumerate(findings) if not finding.problems][:SHOWN]
    faults = []
    for i in looked:
        try:
            check_map(scans[i].fa or Path())
        except InputError as error:
            faults.append(str(error))
            findings[i] = replace(findings[i], problems=tuple(error.problems))
    if faults and len(faults) == len(looked):
        found.problems.append(
            f"[{name}]: the first {len(faults)} maps are no FA, such as {faults[0]}; divide the "
            "maps by their scale"
        )


def _check_directions(found: Preflight, scans: Sequence[Scan], where: str) -> None:
    """People with scans of several phase encodings, of which one enters the cohort."""
    directions: dict[str, list[str]] = {}
    for scan in scans:
        if named := re.search(r"_dir-([A-Za-z0-9]+)", scan.prefix):
            directions.setdefault(scan.sample_id, []).append(named[1])
    several = {who: names for who, names in directions.items() if len(set(names)) > 1}
    if several:
        taken = Counter(names[0] for names in several.values())
        found.warnings.append(
            f"{where}{len(several)} people have scans of several phase encodings, such as "
            f"{_examples(several)}: of them {' and '.join(f'{d} ({n})' for d, n in taken.items())} "
            "is taken for the cohort, if it can be processed; the others are not combined with it"
        )


def _check_pairs(found: Preflight, scans: Sequence[Scan]) -> None:
    """Scans without a reverse b0, beside a field map that names another one."""
    unpaired = [scan.unpaired for scan in scans if scan.unpaired]
    if unpaired:
        found.warnings.append(
            f"{len(unpaired)} scans stay without the b0 of reverse phase encoding beside them,"
            f" whose sidecar names no scan that is there: {unpaired[0]}"
        )


def _check_room(
    found: Preflight,
    settings: StudySettings,
    stage: str,
    env: str,
    chosen: dict[str, list[Scan]],
    findings: dict[str, list[Finding]],
) -> None:
    """Whether what is to be made has room on the disk and in memory, as `axoloci plan` has it."""
    sound: dict[str, list[Scan]] = {}
    shapes: dict[Path, tuple[int, ...]] = {}
    for name, cohort in found.cohorts.items():
        sound[name] = []
        pairs = zip(chosen.get(name, []), findings.get(name, []), strict=True)
        for scan, finding in pairs:
            image = scan.dwi or scan.fa
            if finding.shape is not None and not finding.problems and image is not None:
                sound[name].append(scan)
                shapes[image] = finding.shape
        if not sound[name] and cohort.scans:
            return  # nothing can be told of it, and that is said
    planned = plan_study(settings, env, scans_of=sound, shapes=shapes)
    steps = [step for step in planned.steps if stage != "participants" or step.of_scans]
    needed, free = sum(step.n_bytes_to_come for step in steps), free_bytes(settings.out)
    if needed > free:
        largest = max(steps, key=lambda step: step.n_bytes_to_come)
        found.problems.append(
            f"'out' {settings.out}: {size(free)} are free, and about {size(needed)} are needed, "
            f"most of them by {largest.job} ({size(largest.n_bytes_to_come)}; axoloci plan tells "
            "the others); choose a larger disk, or process fewer people"
        )
    limit = memory_limit(env)
    if limit is not None:
        large = {s.job: s.memory_mb * 1e6 for s in steps if s.memory_mb > 1000 * limit}
        if large:
            found.warnings.append(
                f"--memory-gb {limit:g}: may be too little, and what takes more is killed; "
                f"{', '.join(f'{job} {size(taken)}' for job, taken in large.items())} "
                "by the estimate of axoloci plan, which may be wrong by a factor of three"
            )


def _mark_odd_grids(
    found: Preflight, chosen: dict[str, list[Scan]], findings: dict[str, list[Finding]]
) -> Grid | None:
    """Maps in the common space that are not on the grid of most of them are faulty.

    Returns that grid, if there are such maps.
    """
    grids = Counter(f.grid for of_one in findings.values() for f in of_one if f.grid)
    if not grids:
        return None
    (common, n_common), *_ = grids.most_common(1)
    for name, of_one in findings.items():
        cohort = found.cohorts[name]
        place = {scan.prefix: i for i, scan in enumerate(cohort.scans)}
        for i, (scan, finding) in enumerate(zip(chosen[name], of_one, strict=True)):
            if finding.grid and finding.grid != common:
                other = "another affine" if finding.grid[0] == common[0] else "another shape"
                fault = (
                    f"{scan.fa}: grid {finding.grid[0]} ({other}), but {n_common} of "
                    f"{grids.total()} maps have {common[0]}; resample it to that grid"
                )
                of_one[i] = replace(finding, problems=(fault,))
                cohort.scans[place[scan.prefix]] = replace(scan, fault=fault)
    return common


def _check_grids(found: Preflight, settings: StudySettings, maps: Grid | None = None) -> None:
    """Template, given mask and maps that are in the common space already must share one grid.

    Parameters
    ----------
    found, settings
        As in `check`.
    maps
        Grid of the maps that are given in the common space, once it is known.
    """
    registered = any(c.sources and c.start in STEPS for c in settings.cohorts().values())
    mask = settings.normalize.mask
    grids: dict[str, tuple[tuple[int, ...], Any]] = {}
    try:
        if registered:
            voxel_size = settings.normalize.voxel_size
            name = str(settings.normalize.template or "the shipped template")
            if voxel_size is not None:
                name += f" at {voxel_size:g} mm"
            grids[name] = template_grid(settings)
        if maps is not None:
            grids["most maps of 'fa_common'"] = (maps[0], np.reshape(maps[1], (4, 4)))
        if mask is not None:
            header = read_header(mask, 3)
            grids[f"normalize.mask {mask}"] = (header.shape, header.affine)
    except InputError:
        return  # named already
    (reference, (shape, affine)), *others = grids.items()
    for name, (own_shape, own) in others:
        found.collect(check_grid, name, own_shape, own, shape, affine, reference)
