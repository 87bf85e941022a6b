"""The workflow of one study as a graph: cohorts, doors, jobs, and the files between them.

Jobs and what they hand on are read from the Pydra workflows themselves, so the picture is of what
would be run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydra.engine.lazy import LazyInField, LazyOutField
from pydra.engine.workflow import Workflow
from pydra.utils.general import attrs_values, get_fields

from axoloci.errors import InputError
from axoloci.job import read_record
from axoloci.scans import RAW
from axoloci.study import MADE_COVARIATES, StudyPaths, StudySettings, step_settings
from axoloci.workflows.engine import HASHES_VARIABLE
from axoloci.workflows.group import Group, Training
from axoloci.workflows.participant import PAGE, STEPS, Participant
from axoloci.workflows.records import GROUP

ANY_SCAN = "sub-*"


@dataclass
class StudyGraph:
    """Jobs and inputs of a study, and what goes from one to the other.

    Attributes
    ----------
    title
        Name of the study.
    inputs
        Files and folders that the study was given: name in the graph, text and path.
    jobs
        By cohort ("" for the whole study), the jobs: name in the graph, text.
    edges
        From, to: the names of the files.
    """

    title: str
    inputs: dict[str, tuple[str, Path]] = field(default_factory=dict)
    jobs: dict[str, dict[str, str]] = field(default_factory=dict)
    edges: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def give(self, path: Path | None, what: str) -> str | None:
        """An input, once however often it is read."""
        if path is None:
            return None
        known = {where: name for name, (_, where) in self.inputs.items()}
        name = known.get(path, f"in{len(self.inputs)}")
        self.inputs.setdefault(name, (f"{what}: {path.name}", path))
        return name

    def connect(self, source: str | None, target: str, *files: str) -> None:
        """Say that a job reads files of an input or of another job."""
        if source is not None:
            labels = self.edges.setdefault((source, target), [])
            labels += [file for file in files if file and file not in labels]


def _file_name(node: Any, output: str) -> str:
    """Name of a file that a job makes."""
    (made,) = (f for f in get_fields(node._task.Outputs) if f.name == output)
    values = {k: v for k, v in attrs_values(node._task).items() if isinstance(v, str)}
    return Path(made.callable(values, Path())).name


@contextmanager
def _no_home() -> Iterator[None]:
    """Keep Pydra from making its folder of digests in the user's home, which may not be there."""
    if HASHES_VARIABLE in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ[HASHES_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[HASHES_VARIABLE]


def _add(
    graph: StudyGraph,
    cohort: str,
    task: Any,
    lazy: tuple[str, ...],
    sources: dict[str, tuple[str | None, str]],
    times: str = "",
) -> dict[str, str]:
    """Add the jobs of one Pydra workflow.

    Parameters
    ----------
    graph
        Where they are added.
    cohort
        Name of the cohort.
    task
        The workflow.
    lazy
        Inputs that it is given when it is run.
    sources
        For each of them, the node that it comes from and the name of the file.
    times
        How often its jobs are run.

    Returns
    -------
    Names in the graph of its jobs.
    """
    with _no_home():
        workflow = Workflow.construct(task, dont_cache=True, lazy=lazy)
    jobs = graph.jobs.setdefault(cohort, {})
    names = {node.name: f"{cohort}_{node.name}" for node in workflow.nodes}
    for node in workflow.nodes:
        command = " ".join(node._task.executable)
        jobs[names[node.name]] = f"{node.name}{times}\n{command}"
        for field_ in get_fields(node._task):
            value = getattr(node._task, field_.name)
            if isinstance(value, LazyOutField):
                made = _file_name(value._node, value._field)
                graph.connect(names[value._node.name], names[node.name], made)
            elif isinstance(value, LazyInField):
                source, label = sources.get(value._field, (None, ""))
                graph.connect(source, names[node.name], label)
    return names


def study_graph(settings: StudySettings, n_scans: dict[str, int] | None = None) -> StudyGraph:
    """The graph of a study; its inputs need not be there.

    Parameters
    ----------
    settings
        The study.
    n_scans
        Number of scans of each cohort, where it is known.
    """
    graph = StudyGraph(settings.out.name)
    cohorts = settings.cohorts()
    maps: dict[str, tuple[str | None, str]] = {}
    last: dict[str, str] = {}  # step of a scan that ends with its map
    for name, cohort in cohorts.items():
        source = graph.give(getattr(cohort, cohort.sources[0]), cohort.sources[0])
        maps[name] = (source, "")
        if cohort.start in STEPS:
            template = graph.give(cohort.normalize.template, "template")
            number = (n_scans or {}).get(name)
            files = ("fa",) if cohort.start == "normalize" else RAW
            jobs = _add(
                graph,
                name,
                Participant(
                    start=cohort.start, prefix=ANY_SCAN, out_dir="", log_dir="",
                    settings=step_settings(cohort), extra=list(cohort.extra),
                ),
                (
                    *files,
                    *(["template"] if template else []),
                    *(["shown_template"] if cohort.qc.pages else []),
                ),
                {
                    **dict.fromkeys(files, (source, "")),
                    **dict.fromkeys(("template", "shown_template"), (template, "")),
                },
                f" × {number:,}" if number else " × scans",
            )  # fmt: skip
            last[name] = jobs["normalize"]
            maps[name] = (jobs["normalize"], "maps.tsv")

    teacher = settings.teacher()
    trained: dict[str, str] = {}
    if teacher:
        normalize = cohorts[teacher].normalize
        template = graph.give(normalize.template, "template")
        mask = graph.give(normalize.mask, "mask")
        atlas = graph.give(settings.atlas(), "atlas")
        images = {"template": template, "mask": mask, "atlas": atlas}
        trained = _add(
            graph,
            teacher,
            Training(
                representations=list(settings.representations()),
                out_dir="", work_dir="", log_dir="", settings=step_settings(cohorts[teacher]),
            ),
            ("maps", *(name for name, node in images.items() if node)),
            {"maps": maps[teacher], **{name: (node, "") for name, node in images.items()}},
        )  # fmt: skip

    report = "report"
    found: dict[str, str] = {}
    # how the names of the jobs of each representation end; of traits there are no such
    ends = {which: f"_{which}" for which in settings.representations()} or {"": ""}
    for name in ("discovery", "replication"):
        if name not in cohorts:
            continue
        cohort = cohorts[name]
        tables = graph.give(cohort.covariates, "covariates")
        made = [c for c in cohort.gwas.columns or () if c in MADE_COVARIATES]
        sources: dict[str, tuple[str | None, str]] = {
            "genotypes": (graph.give(cohort.genotypes, "genotypes"), ""),
            "covariates": (tables, ""),
        }
        lazy = ["genotypes", *(["covariates"] if tables or made else [])]
        if cohort.start == "gwas":
            lazy.append("traits")
            sources["traits"] = maps[name]
        else:
            lazy += ["maps", *settings.representations()]
            sources["maps"] = maps[name]
            for which in settings.representations():
                sources[which] = (trained[f"train_{which}"], "model.safetensors")
            store = (trained["pack"], "cohort.zarr")
            lazy.append("cohort" if name == teacher else "like")
            sources[lazy[-1]] = store
        given = dict(cohort.gwas.variant_lists)
        if name == "discovery":
            given |= cohort.genetics.files
        for key, path in given.items():
            lazy.append(key)
            sources[key] = (graph.give(path, key), "")
        if name == "replication":
            lazy.append("discovery")
            sources["discovery"] = (found["gwas"], "sumstats")
            for which, end in ends.items():
                lazy.append("discovery_linear_loci" if which == "linear" else "discovery_loci")
                sources[lazy[-1]] = (found[f"loci{end}"], "loci.tsv")
        jobs = _add(
            graph,
            name,
            Group(
                out_dir="", log_dir="", settings=step_settings(cohort), n_pcs=cohort.gwas.n_pcs,
                export=list(cohort.gwas.export), export_format=cohort.gwas.export_format,
                follows=cohort.follows,
            ),
            tuple(lazy),
            sources,
        )  # fmt: skip
        if made and name in last:
            for job in ("ridge", "gwas"):
                if job in jobs:
                    graph.connect(last[name], jobs[job], "qc.tsv")
        for end in ends.values():
            if name == "replication":
                graph.connect(jobs[f"replicate{end}"], report, "replication.tsv")
                continue
            graph.connect(jobs[f"loci{end}"], report, "loci.tsv")
            graph.connect(jobs[f"joint{end}"], report, "joint.parquet")
            for job, file in (
                ("signals", "signals.tsv"),
                ("heritability", "heritability.tsv"),
                ("ldsc", "ldsc"),
                ("voxels", "voxels"),
                ("voxelh2", "voxel_h2.nii.gz"),
            ):
                if f"{job}{end}" in jobs:
                    graph.connect(jobs[f"{job}{end}"], report, file)
            if f"ldsc{end}" in jobs:
                for path in settings.genetics.outside:
                    graph.connect(graph.give(path, "outside"), jobs[f"ldsc{end}"], "")
            found = jobs
    for name, job in last.items():
        graph.jobs[name][f"{name}_qc"] = "qc\naxoloci-report group"
        graph.connect(job, f"{name}_qc", "scans.tsv", "qc.tsv")
        if name == "discovery":
            graph.connect(job, report, "scans.tsv", "qc.tsv")
    graph.jobs[""] = {report: "report\naxoloci-report make"}
    return graph


def group_programs(settings: StudySettings) -> dict[str, dict[str, str]]:
    """Jobs of each cohort that are not of one scan, as their logs are named: their programs."""
    programs: dict[str, dict[str, str]] = {}
    of_scans = {*STEPS, *settings.extra, PAGE}
    for name, own in study_graph(settings).jobs.items():
        named = {job.removeprefix(f"{name}_"): text.splitlines()[1] for job, text in own.items()}
        programs[name] = {
            job: text.split()[0] for job, text in named.items() if job not in of_scans
        }
    if set(settings.cohorts()) == {"discovery"}:  # one folder for all
        programs["discovery"] |= programs.pop("")
    return programs


def group_jobs(settings: StudySettings) -> dict[str, list[str]]:
    """Names of the jobs of each cohort that are not of one scan."""
    return {name: list(jobs) for name, jobs in group_programs(settings).items()}


def finished_jobs(settings: StudySettings) -> dict[str, set[str]]:
    """Of `group_jobs` those whose results are of the run that began last.

    Each was run or found to be finished since then, and after all that it is made from. What older
    runs have left, which may be of other people or settings, is none.
    """
    edges, named, cohorts = study_graph(settings).edges, group_jobs(settings), settings.cohorts()
    begun = StudyPaths(settings.out).env.stat().st_mtime_ns
    when = {f"{cohort}_{job}": 0 for cohort, jobs in named.items() for job in jobs}
    for cohort, jobs in named.items():
        logs = StudyPaths(cohorts.get(cohort, settings).out).logs / GROUP
        for job in jobs:
            record = logs / f"{job}.json"
            if read_record(record).get("exit_code") == 0:
                when[f"{cohort}_{job}"] = record.stat().st_mtime_ns

    def is_finished(job: str) -> bool:
        sources = [source for source, target in edges if target == job and source in when]
        in_turn = all(when[source] <= when[job] for source in sources)
        return when[job] >= begun and in_turn and all(map(is_finished, sources))

    return {
        cohort: {job for job in jobs if is_finished(f"{cohort}_{job}")}
        for cohort, jobs in named.items()
    }


def group_parts(settings: StudySettings, *, in_parts: bool = False) -> list[tuple[str, str]]:
    """The group stage in its order: cohort and part, "train" or one of `Group`.

    Train, look for loci, replicate: each cohort in its turn, and as a whole unless `in_parts`.
    """
    mixed = ("ridge", "plan") if settings.gwas.mixed_model else ()
    parts = ("prepare", *mixed, "associate", "conclude") if in_parts else ("all",)
    tested = [name for name in ("discovery", "replication") if name in settings.cohorts()]
    teacher = settings.teacher()
    trained = [(teacher, "train")] if teacher else []
    return trained + [(name, part) for name in tested for part in parts]


def as_mermaid(graph: StudyGraph) -> str:
    """A graph as Mermaid text, which GitHub, GitLab and many editors show as a picture."""
    lines = ["flowchart LR"]
    lines += [f'  {name}[/"{_text(text)}"/]' for name, (text, _) in graph.inputs.items()]
    for cohort, jobs in graph.jobs.items():
        inside = "    " if cohort else "  "
        if cohort:
            lines.append(f'  subgraph {cohort}["{cohort}"]')
        lines += [f'{inside}{_id(name)}["{_text(text)}"]' for name, text in jobs.items()]
        if cohort:
            lines.append("  end")
    for (source, target), files in graph.edges.items():
        label = f'|"{_text(chr(10).join(files))}"|' if files else ""
        lines.append(f"  {_id(source)} -->{label} {_id(target)}")
    return "\n".join(lines) + "\n"


def _id(name: str) -> str:
    """A name that both languages take: traits that are exported may be called anything."""
    return re.sub(r"\W", "_", name)


def _text(text: str) -> str:
    """Text inside Mermaid's quotation marks."""
    escaped = text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;")
    return escaped.replace("\n", "<br/>")


def as_dot(graph: StudyGraph) -> str:
    """A graph in the language of graphviz."""

    def quoted(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'

    font = 'fontname="DejaVu Sans", fontsize=10'
    lines = [
        f"digraph {quoted(graph.title)} {{",
        f"  rankdir=LR; graph [{font}]; node [{font}, shape=box, style=rounded];",
        f'  edge [{font.replace("10", "8")}, color="#66717d"];',
    ]
    lines += [
        f"  {name} [label={quoted(text)}, shape=folder, style=solid];"
        for name, (text, _) in graph.inputs.items()
    ]
    for cohort, jobs in graph.jobs.items():
        if cohort:
            lines.append(f'  subgraph cluster_{cohort} {{ label={quoted(cohort)}; color="#d8dde3";')
        lines += [f"    {_id(name)} [label={quoted(text)}];" for name, text in jobs.items()]
        if cohort:
            lines.append("  }")
    for (source, target), files in graph.edges.items():
        lines.append(f"  {_id(source)} -> {_id(target)} [label={quoted(chr(10).join(files))}];")
    return "\n".join([*lines, "}"]) + "\n"


def draw(graph: StudyGraph) -> str:
    """A graph as SVG, drawn by graphviz.

    Raises
    ------
    InputError
        The program `dot` is not installed, or refused the graph.
    """
    program = shutil.which("dot")
    if program is None:
        raise InputError(
            "SVG needs graphviz (the program 'dot'); without it name a file that ends in .mmd"
        )
    done = subprocess.run(
        [program, "-Tsvg"], input=as_dot(graph), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise InputError(f"dot: {done.stderr.strip()}")
    return done.stdout
