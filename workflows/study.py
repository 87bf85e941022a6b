"""The whole study: participants -> group -> report."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from axoloci import __version__
from axoloci.engines import folders_of
from axoloci.environments import StepEnvironment, StepError, image_identity
from axoloci.errors import InputError
from axoloci.io.files import write_json, write_text
from axoloci.io.genotype_files import genotype_set
from axoloci.io.tables import read_ids, read_table, read_traits
from axoloci.job import read_records
from axoloci.scans import TOLD_BY
from axoloci.study import COHORTS, MADE_COVARIATES, StudyPaths, StudySettings, step_settings
from axoloci.tasks.report.task import MakeQcPage, MakeReport
from axoloci.workflows.engine import followed, submit
from axoloci.workflows.graph import finished_jobs, group_jobs, group_parts
from axoloci.workflows.group import Group, Training
from axoloci.workflows.participant import STEPS
from axoloci.workflows.participants import (
    Cohort,
    Outcome,
    choose_scans,
    genotyped_people,
    read_outcomes,
    read_rows,
    run_participants,
    say_excluded,
    write_scan_tables,
    write_table,
)
from axoloci.workflows.preflight import Preflight, check, claim
from axoloci.workflows.provenance import (
    package_versions,
    study_facts,
    write_crate,
    write_whole_crate,
)
from axoloci.workflows.submission import forget_submission, own_study

log = logging.getLogger("axoloci")

# What the loci in a folder are worth by a known truth: `n_planted`, `n_found`, `n_false`.
Truth = Callable[[Path], dict[str, int]]

BIDS_VERSION = "1.9.0"
MAX_FOLDERS = 100  # that a container is given one by one


@dataclass(frozen=True)
class StudyResult:
    """What a run of a study leaves behind.

    Attributes
    ----------
    failed
        The scans that failed, each with its reason; logs are relative to the study's folder.
    all_failed
        None of the scans of this run is finished.
    scans
        Tables of all scans, one a cohort.
    report
        The page; `StudyPaths.shareable` lies beside it if it was asked for. None if only the scans
        of some people were run: neither page is touched then.
    group_error
        Why the group stage failed; empty if it did not.
    """

    failed: tuple[Outcome, ...]
    all_failed: bool
    scans: tuple[Path, ...]
    report: Path | None
    group_error: str


def describe_dataset(settings: StudySettings) -> None:
    """Write `dataset_description.json`, which makes the output a BIDS derivative data set."""
    write_json(
        settings.out / "dataset_description.json",
        {
            "Name": settings.title or f"axoloci: {settings.out.name}",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "axoloci", "Version": __version__}],
        },
    )


def map_rows(cohort: Cohort, out: Path) -> list[dict[str, str]]:
    """One row a person: the map that the group is made of, in the cohort's output folder `out`."""
    return [
        {
            "sample_id": outcome.sample_id,
            "path": str(out / outcome.fa),
            "sha256": outcome.fa_sha256,
        }
        for outcome in choose_scans(cohort.outcomes)
    ]


def left_out(cohort: Cohort) -> str:
    """A clause on the scans that the group does without."""
    n = sum(outcome.status == "ok" and bool(outcome.excluded) for outcome in cohort.outcomes)
    return f" ({n} finished scans are left out by {cohort.paths.exclude})" if n else ""


def write_maps(cohort: Cohort) -> None:
    """Keep the table of the maps that the group is made of, if it is made of maps.

    Raises
    ------
    InputError
        Fewer people than `min_participants`.
    """
    if cohort.settings.start == "gwas":
        return
    paths, fewest, rows = (
        cohort.paths,
        cohort.settings.min_participants,
        map_rows(cohort, cohort.paths.out),
    )
    if len(rows) < fewest:
        raise InputError(
            f"people with a finished scan: {len(rows)}, fewer than min_participants "
            f"({fewest}); see {paths.scans}{left_out(cohort)}"
        )
    write_table(paths.group_maps, rows)


def maps_changed(cohort: Cohort) -> bool:
    """Whether the group stage was run with other maps than it would be now."""
    if cohort.settings.start == "gwas" or not cohort.paths.group_maps.exists():
        return False
    return read_rows(cohort.paths.group_maps) != map_rows(cohort, cohort.paths.out)


def groups_behind(settings: StudySettings, outcomes: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """Cohorts whose group stage was run with other maps than it would be now."""
    cohorts = settings.cohorts()
    return [
        name for name, own in outcomes.items() if maps_changed(Cohort(cohorts[name], [], list(own)))
    ]


def made_covariates(settings: StudySettings, *, write: bool = True) -> Path | None:
    """Table of those covariates of the study that the steps themselves have made, if any.

    Written unless `write` is false: then it is there, and several processes may be reading it.

    Raises
    ------
    InputError
        One of them is known of no scan.
    """
    paths = StudyPaths(settings.out)
    names = [name for name in settings.gwas.columns or () if name in MADE_COVARIATES]
    if settings.covariates is not None:
        names = [name for name in names if name not in read_table(settings.covariates)]
    if not names:
        return None
    table = paths.work / "covariates.tsv"
    if not write:
        return table
    quality = {row["scan"]: row for row in read_rows(paths.qc)}
    rows = [
        {
            "sample_id": row["sample_id"],
            **{name: quality[row["scan"]].get(name, "n/a") for name in names},
        }
        for row in read_rows(paths.scans)
        if row["in_group"] == "yes"
    ]
    unknown = [name for name in names if all(row[name] == "n/a" for row in rows)]
    if unknown:
        raise InputError(
            f"the covariate {', '.join(unknown)} of 'gwas.{settings.gwas.key}' is known of no scan "
            f"(see {paths.qc}); leave it out, or give it in a table named by 'covariates'"
        )
    write_table(table, rows)
    return table


def group_settings(settings: StudySettings, tables: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Options of the steps, with scanner and site as categories though they look like numbers.

    Parameters
    ----------
    settings
        The cohort.
    tables
        Its tables of covariates.
    """
    chosen, used = step_settings(settings), settings.gwas.columns
    if used is None:
        used = tuple(str(name) for table in tables for name in read_table(table))
    named = settings.gwas.categorical
    if categories := [*named, *(n for n in TOLD_BY if n in used and n not in named)]:
        of_analyses = ("gwas", "mixed_model", "signals")
        for options in (chosen[name] for name in of_analyses if name in chosen):
            options["categorical"] = categories
    return chosen


def covariate_tables(settings: StudySettings, *, write: bool = True) -> list[Path]:
    """Tables of the covariates of a cohort: its own, and that of those that were made.

    `write` as for `made_covariates`.
    """
    given = None if settings.gwas.columns == () else settings.covariates
    return [table for table in (given, made_covariates(settings, write=write)) if table]


def check_people(cohort: Cohort, dropped: Collection[str] = ()) -> None:
    """Count the people whom the association can use.

    Parameters
    ----------
    cohort
        The cohort.
    dropped
        People who are left out of it, for the representations are learnt of their maps.

    Raises
    ------
    InputError
        Those with maps or traits, genotypes and all covariates are fewer than `min_participants`.
    """
    settings = cohort.settings
    if settings.start == "gwas":
        people, what = set(cohort.people), f"people in {settings.traits}"
    else:
        people = {outcome.sample_id for outcome in choose_scans(cohort.outcomes)}
        what = "people with a finished scan"
    counts = [f"{what}: {len(people)}{left_out(cohort)}"]
    if dropped:
        people -= set(dropped)
        counts.append(f"of these not in [train]: {len(people)}")
    assert settings.genotypes is not None
    genotypes = genotype_set(settings.genotypes)
    people &= set(genotypes.people.index)
    counts.append(f"of these in {genotypes.names_people}: {len(people)}")
    for path in covariate_tables(settings):
        table = read_table(path, (*settings.gwas.categorical, *TOLD_BY), genotypes.people)
        used = settings.gwas.columns or table.columns
        complete = table[[name for name in table if name in used]].notna().all(axis=1)
        people &= set(table.index[complete])
        counts.append(f"of these with all covariates in {path}: {len(people)}")
    if len(people) < settings.min_participants:
        raise InputError(
            f"{'; '.join(counts)}, fewer than min_participants ({settings.min_participants}); "
            "add people or lower min_participants"
        )


def prepare_group(cohorts: Mapping[str, Cohort]) -> None:
    """Write the tables of maps that the group stage begins with, if it has enough people.

    Raises
    ------
    InputError
        A cohort has fewer people than `min_participants`.
    """
    dropped: list[str] = []
    for name, cohort in cohorts.items():
        write_maps(cohort)
        if name == "train" and cohort.settings.encoder.training_people == "drop":
            dropped = [outcome.sample_id for outcome in choose_scans(cohort.outcomes)]
    for name, cohort in cohorts.items():
        if name != "train":
            check_people(cohort, dropped)


def _kept_traits(settings: StudySettings, *, write: bool = True) -> Path | None:
    """The table of traits that is tested: of those in `keep`; `write` as `made_covariates`."""
    if settings.traits is None or settings.keep is None:
        return settings.traits
    path = StudyPaths(settings.out).work / "traits.tsv"
    if not write:
        return path
    people = genotyped_people(settings)
    traits = read_traits(settings.traits, people, settings.gwas.traits)
    kept = traits[traits.index.isin(read_ids(settings.keep, people))]
    write_text(path, kept.to_csv(sep="\t", na_rep="NA", lineterminator="\n"))
    return path


def _folders(maps: Path, settings: StudySettings) -> list[str]:
    """Folders of the maps that a table names.

    Raises
    ------
    InputError
        They lie in too many folders that have no common one.
    """
    out = settings.out
    outside = (
        path for row in read_rows(maps) if not (path := Path(row["path"])).is_relative_to(out)
    )
    folders = folders_of(outside)
    if len(folders) > MAX_FOLDERS:
        folders = {Path(os.path.commonpath(folders))}
        if folders == {Path("/")}:
            raise InputError(
                f"{maps}: the maps have no common folder that a container could be given"
            )
    return sorted(map(str, {out, *folders}))


def _make_folders(settings: StudySettings) -> None:
    """The folders of the results of a cohort."""
    for name in settings.representations() or ("",):
        StudyPaths(settings.out).results(name).mkdir(parents=True, exist_ok=True)


def train_encoder(maps: Path, settings: StudySettings, env: str, n_procs: int) -> None:
    """Pack the maps of a cohort and learn its representations of them.

    Raises
    ------
    StepError
        A step failed.
    """
    paths = StudyPaths(settings.out)
    _make_folders(settings)
    submit(
        Training(
            maps=maps,
            readable=_folders(maps, settings),
            representations=list(settings.representations()),
            out_dir=str(paths.group),
            work_dir=str(paths.work),
            log_dir=str(paths.logs / "group"),
            template=followed(settings.normalize.template),
            mask=followed(settings.normalize.mask),
            atlas=followed(settings.atlas()),
            tensorboard=settings.encoder.tensorboard,
            settings=step_settings(settings),
            threads=n_procs,
            env=env,
        ),
        paths,
    )


def run_group(
    maps: Path | None,
    settings: StudySettings,
    env: str,
    n_procs: int,
    *,
    trained: StudyPaths | None,
    discovery: StudyPaths | None,
    part: str = "all",
    chromosome: str | None = None,
) -> None:
    """Run the association of a cohort, and look for loci or test those of the discovery.

    Parameters
    ----------
    maps
        Table of its maps; none if it has traits.
    settings
        The cohort.
    env, n_procs
        As for `run_study`.
    trained
        Cohort whose models are used.
    discovery
        Cohort whose loci are tested; without it loci are looked for.
    part, chromosome
        As for `Group`.

    Raises
    ------
    StepError
        A step failed.
    """
    paths, representations = StudyPaths(settings.out), settings.representations()
    _make_folders(settings)
    write = part in ("all", "prepare")
    model: dict[str, Any] = {}
    if trained is not None:
        model = {name: trained.results(name) / "model.safetensors" for name in representations}
        model["cohort" if trained == paths else "like"] = trained.group / "cohort.zarr"
    found: dict[str, Any] = {}
    if discovery is not None:
        found["discovery"] = discovery.group / "sumstats"
        for name in representations or ("",):
            key = "discovery_linear_loci" if name == "linear" else "discovery_loci"
            found[key] = discovery.results(name) / "loci.tsv"
    tables = covariate_tables(settings, write=write)
    assert settings.genotypes is not None
    submit(
        Group(
            genotypes=genotype_set(settings.genotypes).data,
            out_dir=str(paths.group),
            log_dir=str(paths.logs / "group"),
            maps=maps,
            readable=_folders(maps, settings) if maps else [],
            traits=_kept_traits(settings, write=write),
            covariates=tables or None,
            **{key: followed(path) for key, path in settings.gwas.variant_lists.items()},
            # as much as the part reads: all that is given is digested before it begins
            **(genetics_files(settings) if part in ("all", "conclude") and not discovery else {}),
            follows=settings.follows,
            settings=group_settings(settings, tables),
            n_pcs=settings.gwas.n_pcs,
            export=list(settings.gwas.export),
            export_format=settings.gwas.export_format,
            threads=n_procs,
            env=env,
            part=part,
            chromosome=chromosome,
            **model,
            **found,
        ),
        paths,
    )


def genetics_files(settings: StudySettings) -> dict[str, Any]:
    """What the loci are looked for with and what follows them, as `Group` takes it."""
    genetics = settings.genetics
    found: dict[str, Any] = {key: followed(path) for key, path in genetics.files.items()}
    if genetics.reference is not None:
        found["reference"] = genotype_set(genetics.reference).data
    if genetics.outside:
        from axoloci.io.outside_sumstats import trait_name  # only what a study names is imported

        # a link whose name, the trait's, is another than that of its end stays
        found["outside"] = [
            end
            if (end := followed(path)) and trait_name(end) == trait_name(path)
            else path.parent.resolve() / path.name
            for path in genetics.outside
        ]
    return found


def step_seconds(settings: StudySettings) -> list[dict[str, Any]]:
    """Jobs, seconds, CPU seconds and peak memory (MB) of each step, from the job records."""
    steps: dict[str, dict[str, Any]] = {}
    folders = {cohort.out: None for cohort in (*settings.cohorts().values(), settings)}
    for record in (r for out in folders for r in read_records(StudyPaths(out).logs)):
        if "seconds" not in record:  # killed before it ended
            continue
        zeros = {"jobs": 0, "seconds": 0.0, "cpu_seconds": 0.0, "max_rss_mb": 0.0}
        row = steps.setdefault(record["job"], {"step": record["job"], **zeros})
        row["jobs"] += 1
        row["seconds"] = round(row["seconds"] + record["seconds"], 3)
        row["cpu_seconds"] = round(row["cpu_seconds"] + record["cpu_seconds"], 3)
        row["max_rss_mb"] = max(row["max_rss_mb"], record["max_rss_mb"])
    return list(steps.values())


def representation_seconds(settings: StudySettings) -> dict[str, float]:
    """Seconds of learning and encoding of each representation, from the job records."""
    spent = {row["step"]: row["seconds"] for row in step_seconds(settings)}
    return {
        name: round(sum(spent.get(f"{job}_{name}", 0.0) for job in ("train", "encode")), 3)
        for name in settings.representations()
    }


def _results(
    cohorts: Mapping[str, Cohort],
    settings: StudySettings,
    name: str,
    jobs: Mapping[str, Collection[str]],
    truth: Truth | None,
) -> dict[str, Any]:
    """What some jobs have made of one representation, for the report; "" is of traits."""
    discovery = cohorts["discovery"].paths
    teacher, found = settings.teacher() or "discovery", discovery.results(name)
    end = f"_{name}" if name else ""
    made = {  # what the report shows: cohort, job and file
        "history": (teacher, f"train{end}", cohorts[teacher].paths.results(name) / "history.tsv"),
        "sumstats": ("discovery", "gwas", discovery.group / "sumstats"),
        **{
            key: ("discovery", f"{job}{end}", found / file)
            for key, job, file in (
                ("quality", "encode", "quality.tsv"),
                ("examples", "encode", "examples.npz"),
                ("joint", "joint", "joint.parquet"),
                ("loci", "loci", "loci.tsv"),
                ("regions", "loci", "regions.parquet"),
                ("signals", "signals", "signals.tsv"),
                ("heritability", "heritability", "heritability.tsv"),
                ("genetic_correlation", "heritability", "genetic_correlation.tsv"),
                ("ldsc", "ldsc", "ldsc"),
                ("voxels", "voxels", "voxels"),
                ("voxel_h2", "voxelh2", "voxel_h2.nii.gz"),
                ("voxel_h2_se", "voxelh2", "voxel_h2_se.nii.gz"),
            )
        },
    }
    if "replication" in cohorts:
        file = cohorts["replication"].paths.results(name) / "replication.tsv"
        made["replication"] = ("replication", f"replicate{end}", file)
    results: dict[str, Any] = {
        key: str(path)
        for key, (cohort, job, path) in made.items()
        if job in jobs.get(cohort, ()) and path.exists()
    }
    if name:
        results["seconds_learnt"] = representation_seconds(settings)[name]
    if truth is not None and "loci" in results:
        results |= truth(found)
    return results


def make_report(
    cohorts: Mapping[str, Cohort],
    settings: StudySettings,
    env: str,
    *,
    group: str,
    shareable: bool = False,
    truth: Truth | None = None,
) -> Path:
    """Make the report of what the study has so far; its loci are those of the discovery.

    Parameters
    ----------
    cohorts
        The cohorts by name.
    settings
        The study.
    env
        "native", "docker" or "singularity".
    group
        Why the group stage is not finished; empty if it is. The report shows what it has finished.
    shareable
        Make also the page without individual-level data, from the same inputs.
    truth
        As for `run_study`.
    """
    paths, discovery = StudyPaths(settings.out), cohorts["discovery"]
    seconds = paths.work / "seconds.tsv"
    write_table(seconds, step_seconds(settings))
    parts = {"seconds": seconds}
    if discovery.outcomes:
        parts |= {"scans": discovery.paths.scans, "qc": discovery.paths.qc}
    qc_page = discovery.paths.qc_page if discovery.settings.start in STEPS else None
    jobs = finished_jobs(settings) if group else group_jobs(settings)
    if "pack" in jobs["discovery"]:
        parts["cohort"] = discovery.paths.group / "cohort.zarr"
    if "samples" in jobs["discovery"]:
        parts["samples_qc"] = discovery.paths.group / "samples_qc.tsv"
    names = settings.representations() or ("",)
    results = {name: _results(cohorts, settings, name, jobs, truth) for name in names}
    others = {
        name: str(cohort.paths.scans)
        for name, cohort in cohorts.items()
        if cohort is not discovery and cohort.outcomes
    }
    facts = study_facts(discovery, jobs["discovery"])
    summaries = {
        name: json.loads(about.read_text(encoding="utf-8"))
        for name, own in results.items()
        if "replication" in own
        and (about := Path(own["replication"]).with_suffix(".json")).exists()
    }
    if summaries:
        several = len(names) > 1
        facts["replication"] = summaries if several else next(iter(summaries.values()))
    write_json(
        paths.report_inputs,
        {
            "title": settings.title or settings.out.name,
            "other_scans": others,
            **({"qc_page": str(qc_page.relative_to(paths.out))} if qc_page else {}),
            "out_dir": str(paths.out),
            "study_settings": settings.model_dump(mode="json", exclude_none=True),
            "versions": package_versions(env),
            "group": group,
            "facts": facts,
            **{name: str(path) for name, path in parts.items() if path.exists()},
            **({"representations": results} if settings.representations() else results[""]),
        },
    )
    image = image_identity(env, "report")
    for cohort in cohorts.values():
        if cohort.settings.start in STEPS:
            make_qc_page(cohort, env, title=settings.title or settings.out.name)
    pages = {paths.report: False, **({paths.shareable: True} if shareable else {})}
    for page, shared in pages.items():
        log_file = paths.logs / "group" / f"{page.stem}.log"
        submit(
            MakeReport(
                inputs_file=paths.report_inputs, out=str(page), shareable=shared, image=image
            ),
            paths,
            # the tables that it names may have changed under the same names
            environment=StepEnvironment(
                env, log_file, writable=[paths.out], announce=True, always=True
            ),
        )
    if not shareable and paths.shareable.exists():
        paths.shareable.unlink()
        log.info("%s is removed: it would be out of date; --shareable makes it", paths.shareable)
    return paths.report


def make_qc_page(cohort: Cohort, env: str, *, title: str) -> None:
    """Make the page of the quality of all scans of a cohort."""
    paths = cohort.paths
    several = paths.out.name if cohort.settings.out.name in COHORTS else ""
    submit(
        MakeQcPage(
            qc=paths.qc,
            scans=paths.scans,
            pages=cohort.settings.qc.pages,
            title=f"{title}, {several}" if several else title,
            out=str(paths.qc_page),
            image=image_identity(env, "report"),
        ),
        paths,
        environment=StepEnvironment(
            env, paths.logs / "group" / "qc.log", writable=[paths.out], announce=True
        ),
    )


def begin(found: Preflight, paths: StudyPaths, env: str) -> None:
    """Take the output folders of a study that has no faults; under the study's lock."""
    write_text(paths.env, env)
    for name, cohort in found.cohorts.items():
        claim(cohort.settings)
        lacking = cohort.paths.work / "lacking.tsv"
        lacking.unlink(missing_ok=True)
        if name in found.lacking:
            write_table(lacking, found.lacking[name])
        describe_dataset(cohort.settings)


def take_stock(cohort: Cohort, env: str) -> None:
    """Look at how each scan of a cohort ended, and write the tables that say so."""
    outcomes = read_outcomes(cohort.scans, cohort.settings, env)
    cohort.outcomes = write_scan_tables(cohort.scans, outcomes, cohort.settings)
    rows = map_rows(cohort, Path())  # beside the table, which may then move with its folder
    write_table(cohort.paths.maps, rows, first=("sample_id", "path", "sha256"))
    say_excluded(cohort.outcomes, cohort.paths)


def run_group_part(
    settings: StudySettings,
    name: str,
    part: str,
    env: str,
    n_procs: int,
    chromosome: str | None = None,
) -> None:
    """Run a part of the group stage, for which the parts before it are finished.

    Parameters
    ----------
    settings
        The study.
    name, part
        Cohort and part, from `group_parts`.
    env, n_procs
        As for `run_study`.
    chromosome
        The one that is associated, of the part "associate".

    Raises
    ------
    StepError
        A step failed.
    """
    cohorts, teacher = settings.cohorts(), settings.teacher()
    maps = StudyPaths(cohorts[name].out).group_maps if teacher else None
    if part == "train":
        assert maps is not None
        train_encoder(maps, cohorts[name], env, n_procs)
        return
    run_group(
        maps,
        cohorts[name],
        env,
        n_procs,
        trained=StudyPaths(cohorts[teacher].out) if teacher else None,
        discovery=StudyPaths(cohorts["discovery"].out) if name == "replication" else None,
        part=part,
        chromosome=chromosome,
    )


def run_study(
    settings: StudySettings,
    *,
    env: str = "native",
    n_procs: int = 1,
    stage: str = "all",
    participants: Sequence[str] = (),
    shareable: bool = False,
    truth: Truth | None = None,
) -> StudyResult:
    """Run a study, or go on with one.

    Parameters
    ----------
    settings
        The study.
    env
        "native", "docker" or "singularity".
    n_procs
        Scans that are processed at the same time; threads of the group's jobs.
    stage
        "participants", "group" (with the scans that are finished) or "all".
    participants
        Labels of the people to process; empty for all. The group takes all that are finished.
    shareable
        Make also the report without individual-level data.
    truth
        What the loci are worth, if that is known: the report tells it.

    Returns
    -------
    StudyResult
        What failed, the report, and why the group stage failed if it did.

    Raises
    ------
    InputError
        The study cannot start.
    """
    found = check(settings, env=env, stage=stage, n_procs=n_procs, participants=participants)
    found.stop()
    found.log()
    paths, cohorts = StudyPaths(settings.out), found.cohorts
    wanted = {label.removeprefix("sub-") for label in participants}
    attempted = []
    with own_study(paths):
        begin(found, paths, env)
        for cohort in cohorts.values():
            if cohort.settings.start == "gwas":
                continue
            chosen = [scan for scan in cohort.scans if not wanted or scan.sample_id in wanted]
            if stage in ("participants", "all"):
                log.info("%s: %d scans", cohort.paths.out, len(chosen))
                run_participants(chosen, cohort.settings, env, n_procs)
            take_stock(cohort, env)
            names = {scan.prefix for scan in chosen}
            attempted += [outcome for outcome in cohort.outcomes if outcome.scan in names]
        group_error = ""
        if stage in ("group", "all"):
            try:
                prepare_group(cohorts)
                for name, part in group_parts(settings):
                    run_group_part(settings, name, part, env, n_procs)
                forget_submission(paths)  # how its jobs ended no longer matters
            except (InputError, StepError) as error:
                group_error = str(error)
        group = f"The group stage failed: {group_error}" if group_error else ""
        if stage == "participants":
            group = "The group stage was not run."
        report = None
        if participants and stage == "participants":  # it would lack the results of the group
            log.info("the report is made by a run without --participant-label")
        else:
            report = make_report(
                cohorts, settings, env, group=group, shareable=shareable, truth=truth
            )
        for cohort in cohorts.values():
            write_crate(cohort, env)
        write_whole_crate(settings, env)
    failed = [
        replace(
            outcome,
            log=outcome.log and str(cohort.paths.out.relative_to(paths.out) / outcome.log),
        )
        for cohort in cohorts.values()
        for outcome in cohort.outcomes
        if outcome.status == "failed"
    ]
    return StudyResult(
        tuple(failed),
        bool(attempted) and all(outcome.status == "failed" for outcome in attempted),
        tuple(cohort.paths.scans for cohort in cohorts.values() if cohort.outcomes),
        report,
        group_error,
    )
