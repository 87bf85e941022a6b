"""The page, section by section: from the study's files to sentences, tables and pictures."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.cohort import Cohort, read_cohort
from axoloci.quality import figure_of, level_of
from axoloci.tasks.report import figures, kernel
from axoloci.tasks.report.document import (
    LAST,
    Cell,
    Picture,
    Table,
    duration,
    number_cell,
    photo,
    picture,
    plural,
    render,
    to_ras,
    value_cell,
    voxel_size,
)
from axoloci.tasks.report.inputs import (
    Inputs,
    Joint,
    LooseMaps,
    Results,
    evenly,
    find_maps,
    read_examples,
    read_joint,
    read_joint_about,
    read_threshold,
    read_tsv,
)
from axoloci.tasks.report.methods import methods_text, power, trait_word
from axoloci.tasks.report.qc_page import RULE_SENTENCE, Judged, judged
from axoloci.tasks.report.sharing import (
    SMALLEST,
    count_failures,
    histogram,
    say_count,
    summary,
)

MAX_ROWS = 1000  # of one table; the files that the page is made of have all
MAX_MEAN = 200  # people in the group's mean
BLOCK = 10  # people in memory at a time
SHOWN_PEOPLE = 4
SHOWN_EXAMPLES = 4
SHOWN_LATENTS = 6
MIN_TO_COMPARE = 20  # people whom axoloci-gwas samples compares with each other
FILES = {"out", "bids", "scans", "genotypes", "covariates", "normalize.template"}  # settings


TITLES = {"autoencoder": "Autoencoder", "linear": "Linear representation"}


@dataclass
class Part:
    """Results of one representation; of a study without any, all of its results."""

    title: str
    loci: Table | None = None
    replication: Table | None = None
    pictures: dict[str, Picture] = field(default_factory=dict)
    sentences: dict[str, str] = field(default_factory=lambda: defaultdict(str))

    def of(self, what: str) -> str:
        """What a tile is about, with the representation where there are several."""
        return f"{what}, {self.title.lower()}" if self.title else what


@dataclass
class Page:
    """All that the template shows."""

    title: str
    shareable: bool
    out_dir: str | None
    images: bool = True  # whether the study has any
    tiles: list[tuple[str, str, str]] = field(default_factory=list)  # figure, name, remark
    failed: Table | None = None
    excluded: Table | None = None
    reasons: Table | None = None
    qc: Table | None = None
    qc_rule: str = ""
    qc_page: str = ""
    methods: str = ""
    parts: dict[str, Part] = field(default_factory=dict)
    comparison: Table | None = None
    seconds: Table | None = None
    settings: Table | None = None
    versions: Table | None = None
    pictures: dict[str, Picture] = field(default_factory=dict)
    sentences: dict[str, str] = field(default_factory=lambda: defaultdict(str))


def make_page(given: Inputs, *, shareable: bool = False) -> str:
    """The page as HTML.

    Parameters
    ----------
    given
        What to show.
    shareable
        Show nothing of a single person, of fewer than 5 people, or of the machine.

    Raises
    ------
    InputError
        A file is not what it should be.
    """
    page = Page(given.title, shareable, None if shareable else given.out_dir, _has_images(given))
    page.parts = {name: Part(TITLES.get(name, name)) for name in given.parts}
    if shareable and given.group:  # the error of a step, with paths and ids
        given = given.model_copy(update={"group": "The group stage has not finished."})
    sections = (
        *(add_scans, add_qc, add_cohort, add_comparison, add_encoder, add_samples),
        *(add_association, add_replication, add_methods, add_about),
    )
    for add in sections:
        add(page, given)
    return render("page.html.jinja", page=page)


def _has_images(given: Inputs) -> bool:
    """Whether the study is one of images: not if it is known to be of the user's own traits."""
    some = [given.scans, given.qc, given.cohort, *given.representations]
    some += [given.history, given.quality, given.examples]
    of_traits = given.joint or given.loci or (given.study_settings or {}).get("traits")
    return any(some) or not of_traits


def _facts(given: Inputs) -> dict[str, Mapping[str, Any]]:
    """What ran and how, with what the joint test noted: its inflation by representation if several.

    Raises
    ------
    InputError
        Not a table of the joint test.
    """
    facts: dict[str, Mapping[str, Any]] = dict(given.facts or {})
    noted = {
        name: read_joint_about(own.joint)
        for name, own in given.parts.items()
        if own.joint is not None
    }
    if noted:
        facts["joint"] = dict(next(iter(noted.values())))
    if len(noted) > 1:
        inflation = {name: about.get("lambda_gc") for name, about in noted.items()}
        facts["joint"] = {**facts["joint"], "lambda_gc": inflation}
    return facts


def add_scans(page: Page, given: Inputs) -> None:
    """What went in, and what failed by name and reason."""
    if given.scans is None:
        page.sentences["scans"] = "No table of scans was given."
        return
    scans = read_tsv(given.scans, "scans")
    for name, file in given.other_scans.items():
        other = read_tsv(file, "scans")
        scans = pd.concat([scans, other.assign(scan=f"{name}/" + other["scan"])])
    failed = scans[scans["status"] == "failed"]
    waiting = int((scans["status"] == "not run").sum())
    reason = failed["reason"].fillna(failed["status"]) if "reason" in failed else failed["status"]
    if page.shareable:
        _add_shared_scans(page, scans, reason)
        return
    n_ok = len(scans) - len(failed) - waiting
    counts = {"finished": n_ok, "failed": len(failed), "not run": waiting}
    remark = ", ".join(f"{n:,} {state}" for state, n in counts.items() if n)
    remark = "all finished" if n_ok == len(scans) else remark
    page.tiles.append((f"{len(scans):,}", plural(len(scans), "scan"), remark))
    people = scans["sample_id"].nunique() if "sample_id" in scans else None
    of_people = f" of {people:,} {'person' if people == 1 else 'people'}" if people else ""
    page.sentences["scans"] = (
        f"{len(scans):,} {plural(len(scans), 'scan')}{of_people} went in; {n_ok:,} finished, "
        + (f"{len(failed):,} failed" if len(failed) else "none failed")
        + (f", {waiting:,} are not run yet." if waiting else ".")
        + (f" {_cohorts_sentence(given.other_scans)}" if given.other_scans else "")
    )
    _add_excluded(page, scans)
    if failed.empty:
        return
    logs = failed["log"].fillna("") if "log" in failed else pd.Series("", index=failed.index)
    page.failed = Table(
        ["scan", "reason", "log"],
        [
            [Cell(name, kind="name"), Cell(str(why), kind="text"), Cell(str(path), kind="path")]
            for name, why, path in zip(failed["scan"], reason, logs, strict=True)
        ][:MAX_ROWS],
        len(failed),
    )


def _add_excluded(page: Page, scans: pd.DataFrame) -> None:
    """Scans that the group does without, by `exclude.tsv`."""
    told = scans[scans["excluded"].notna()] if "excluded" in scans else scans[:0]
    if told.empty:
        return
    reasons = told["excluded"].astype(str)
    by_rule = int(reasons.str.startswith("by rule").sum())
    page.tiles.append((f"{len(told):,}", f"{plural(len(told), 'scan')} left out", "of the group"))
    page.sentences["excluded"] = (
        f"The group does without {len(told):,} {plural(len(told), 'scan')}: {by_rule:,} by rule, "
        f"{len(told) - by_rule:,} by the user. exclude.tsv lists them, and what is written there "
        "counts."
    )
    rows = [
        [Cell(str(name), kind="name"), Cell(why, kind="text")]
        for name, why in zip(told["scan"], reasons, strict=True)
    ]
    page.excluded = Table(["scan", "left out"], rows[:MAX_ROWS], len(rows))


def _cohorts_sentence(others: Mapping[str, Path]) -> str:
    """That the scans are of several cohorts, and of which the rest of the page tells."""
    return (
        f"Counted with those of {' and '.join(others)}; quality, maps and loci below are of the "
        "discovery."
    )


def _add_shared_scans(page: Page, scans: pd.DataFrame, reason: pd.Series[Any]) -> None:
    """Numbers of scans; that of all is not told, for less the finished ones it is that of a few."""
    n_ok = len(scans) - len(reason)
    counts, exact = count_failures(map(str, reason))
    n_failed = say_count(len(reason)) if exact or len(reason) < SMALLEST else f"{SMALLEST} or more"
    remark = f"{n_failed} failed" if len(reason) else "all"
    page.tiles.append((say_count(n_ok), f"{plural(n_ok, 'scan')} finished", remark))
    page.sentences["scans"] = (
        f"{say_count(n_ok)} {plural(n_ok, 'scan')} finished and {n_failed} failed."
        if len(reason)
        else f"{say_count(n_ok)} {plural(n_ok, 'scan')} finished, none failed."
    )
    if counts:
        rows = [[Cell(why, kind="text"), Cell(say_count(n), kind="number")] for why, n in counts]
        page.reasons = Table(["reason", "scans"], rows, len(rows))


def add_qc(page: Page, given: Inputs) -> None:
    """Quality figures of each scan, those that break a rule first."""
    if given.qc is None:
        page.sentences["qc"] = "No table of quality figures was given."
        return
    found = judged(given.qc)
    if found.table.empty:
        page.sentences["qc"] = "No scan has finished, so there are no quality figures."
        return
    if not found.names:
        page.sentences["qc"] = "The maps came in a common space, so no step has quality figures."
        return
    say = say_count if page.shareable else "{:,}".format
    n = len(found.table)
    page.qc_rule = (
        f"{say(found.count())} of {say(n)} scans break a rule, {say(found.count('exclude'))} of "
        f"them one by which the data are wrong. {RULE_SENTENCE}"
    )
    if page.shareable:
        _add_shared_qc(page, found)
        return
    page.qc_page = given.qc_page or ""
    if (histograms := found.histograms()) is not None:
        page.pictures["qc"] = histograms
    hidden = (*found.names, "scan", "sample_id", "flags")
    others = [str(name) for name in found.table if name not in hidden and str(name)[:1] != "_"]
    names = list(map(str, found.table["scan"]))
    ranks = {"exclude": 0, "look": 1, None: 2}
    order = sorted(range(n), key=lambda row: (ranks[level_of(found.flags[row])], names[row]))
    flagged = {name: found.flagged(name) for name in found.names}
    values = {name: found.values(name) * figure_of(name).factor for name in found.names}
    rows = []
    for row in order[:MAX_ROWS]:
        cells = [
            Cell(names[row], kind="name"),
            Cell("; ".join(map(str, found.flags[row])), kind="flags"),
        ]
        for name in found.names:
            kind = "flag" if flagged[name][row] else "number"
            cells.append(number_cell(values[name][row], figure_of(name).decimals, kind))
        cells += [value_cell(found.table[name][row]) for name in others]
        rows.append(cells)
    head = ["scan", "flags", *(figure_of(name).label for name in found.names)]
    page.qc = Table([*head, *(name.replace("_", " ") for name in others)], rows, n)


def _add_shared_qc(page: Page, found: Judged) -> None:
    """Quality figures of all scans together: mean, standard deviation, histograms without few.

    How many scans have a figure is not told: it would tell how few lack it.
    """
    rows, bars, labels = [], [], []
    for name in found.names:
        told = figure_of(name)
        value = found.values(name) * told.factor
        if (of_all := summary(value)) is not None:
            numbers = (number_cell(number, told.decimals) for number in of_all[1:])
            rows.append([Cell(told.label, kind="name"), *numbers])
        if (drawn := histogram(value)) is not None:
            bars.append(drawn)
            labels.append(told.label)
    if rows:
        page.qc = Table(["figure", "mean", "SD"], rows, len(rows))
    if bars:
        page.pictures["qc"] = picture(
            figures.shared_distributions(bars, labels),
            f"Histograms of {', '.join(labels)}, without bars of fewer than {SMALLEST} scans.",
            f"Each figure over all scans, three standard deviations about the mean; bars of fewer "
            f"than {SMALLEST} scans are not drawn.",
        )


def add_cohort(page: Page, given: Inputs) -> None:
    """Maps in common space: mean and spread of the group, and some people.

    Before the group stage has packed them, the maps are read one by one.
    """
    cohort: Cohort | LooseMaps | None = None
    if given.cohort is not None:
        cohort = read_cohort(given.cohort)
    else:
        page.sentences["cohort"] = given.group or "No cohort store was given."
        if given.scans is not None:
            cohort = find_maps(given.scans, MAX_MEAN)
        if cohort is None:
            page.sentences["cohort"] += " So no maps are shown."
            return
    say = say_count if page.shareable else "{:,}".format
    if isinstance(cohort, LooseMaps):  # what voxels the group has is not known yet
        n_people, remark = cohort.n_people, "not packed yet"
    else:
        n_people, remark = cohort.n_samples, f"{cohort.n_voxels:,} voxels each"
    page.tiles.append((say(n_people), "people mapped", remark))
    if page.shareable and cohort.n_samples < SMALLEST:
        page.sentences["cohort"] = f"The mean of fewer than {SMALLEST} people is not shown."
        return
    chosen = evenly(cohort.n_samples, MAX_MEAN)
    total = np.zeros(cohort.n_voxels)
    squares = np.zeros(cohort.n_voxels)
    for start in range(0, len(chosen), BLOCK):
        rows = cohort.rows(chosen[start : start + BLOCK]).astype(np.float64)  # (BLOCK, n_voxels)
        total += rows.sum(axis=0)
        squares += np.square(rows).sum(axis=0)
    mean = total / len(chosen)
    spread = np.sqrt(np.maximum(squares / len(chosen) - mean**2, 0))
    parts = {"mean": mean} if page.shareable else {"mean": mean, "SD": spread}
    group = np.zeros((len(parts), *cohort.mask.shape), dtype=np.float32)
    group[:, cohort.mask] = np.stack(list(parts.values()))
    white = [max(float(np.percentile(part, 99.5)), 1e-6) for part in parts.values()]
    labels = [f"{name}\nwhite {value:.2g}" for name, value in zip(parts, white, strict=True)]
    volumes = [*group]
    if not page.shareable:
        people = evenly(cohort.n_samples, SHOWN_PEOPLE)
        volumes += [*cohort.volumes(people)]
        labels += [_short(cohort.sample_id[row]) for row in people]
        white += [white[0]] * len(people)
    canonical = [to_ras(volume, cohort.affine) for volume in volumes]
    mask = to_ras(cohort.mask, cohort.affine)
    measure = cohort.measure.upper()
    of = f"{len(chosen)} of the {n_people:,}" if len(chosen) < n_people else "all"
    page.pictures["cohort"] = photo(
        figures.brains(np.stack(canonical), labels, white, mask, voxel_size(cohort.affine)),
        f"Slices of {measure} maps in common space: group mean"
        + ("" if page.shareable else f", standard deviation and {len(people)} people")
        + ", five axial, one coronal, one sagittal.",
        f"{measure} in common space; "
        + (
            f"mean over {of} people."
            if page.shareable
            else f"mean and standard deviation over {of} people, then people at even steps through "
            "the cohort."
        )
        + " Left of the picture is left of the person.",
    )


def add_comparison(page: Page, given: Inputs) -> None:
    """The representations side by side."""
    rows = []
    for name, own in given.representations.items():
        about = {} if own.joint is None else read_joint_about(own.joint)
        r2 = None if own.quality is None else summary(_r2(own.quality)[0])
        loci = None if own.loci is None else len(read_tsv(own.loci, "loci"))
        found = [own.n_found, own.n_planted]
        rows.append(
            [
                Cell(TITLES.get(name, name), kind="name"),
                number_cell(len(about["traits"]) if about else None, 0),
                number_cell(None if r2 is None else r2[1], 3),
                number_cell(about.get("lambda_gc"), 3),
                number_cell(loci, 0),
                Cell("–") if None in found else Cell(" of ".join(map(str, found)), kind="number"),
                number_cell(own.n_false, 0),
                Cell("–")
                if own.seconds_learnt is None
                else Cell(duration(own.seconds_learnt), own.seconds_learnt, "number"),
            ]
        )
    head = [
        *("representation", "latents", "mean R²", "λ", "loci", "planted loci found"),
        *("false leads", "learning and encoding"),
    ]
    told = [own.n_planted is not None for own in given.representations.values()]
    shown = [k for k, name in enumerate(head) if any(told) or name not in head[5:7]]
    if rows:
        page.comparison = Table(
            [head[k] for k in shown], [[row[k] for k in shown] for row in rows], len(rows)
        )


FEWEST_UNSEEN = 10  # people whose reconstruction tells something of others


def _r2(quality: Path) -> tuple[NDArray[np.float64], str]:
    """Reconstruction R² of people, and of whom: those not in training, if they are enough."""
    table = read_tsv(quality, "quality").dropna(subset="reconstruction_r2")
    r2 = table["reconstruction_r2"].to_numpy(np.float64)
    known = table["in_training"].to_numpy(np.float64) > 0
    if (~known).sum() >= FEWEST_UNSEEN or not known.any():
        return r2[~known], " who were not in training" if known.any() else ""
    return r2, f", {known.sum():,} of them in training"


def _not_encoded(quality: Path) -> list[str]:
    """Whose maps could not be encoded."""
    table = read_tsv(quality, "quality")
    return table["sample_id"][table["reconstruction_r2"].isna()].tolist()


def add_encoder(page: Page, given: Inputs) -> None:
    """Training, reconstruction, examples of each representation."""
    for name, own in given.parts.items():
        _add_representation(page, page.parts[name], given, own)


def _add_representation(page: Page, part: Part, given: Inputs, own: Results) -> None:
    """Training, reconstruction, examples."""
    if own.history is own.quality is own.examples is None:
        part.sentences["encoder"] = given.group or "No representation was trained."
        return
    losses: dict[str, NDArray[Any]] = {}
    epoch: NDArray[Any] = np.empty(0)
    kept = r2 = bars = None
    said = []
    if own.history is not None:
        history = read_tsv(own.history, "history")
        if "variance_kept" in history:
            kept = history["variance_kept"].to_numpy(np.float64)
            said.append(
                f"{len(history):,} {plural(len(history), 'component')} of the smoothed maps with "
                f"{100 * kept[-1]:.1f}% of their variance"
            )
        elif "epoch" in history:
            epoch = history["epoch"].to_numpy(np.float64)
            for name, label in (("train_loss", "training"), ("validation_loss", "validation")):
                if name in history and history[name].notna().any():
                    losses[label] = history[name].to_numpy(np.float64)
            said.append(f"{len(history):,} {plural(len(history), 'epoch')} of training")
        elif "label" in history:
            said.append(f"means of {len(history):,} {plural(len(history), 'label')} of an atlas")
        else:
            raise InputError(f"{own.history}: has no column epoch, variance_kept or label")
    if own.quality is not None:
        r2, of_whom = _r2(own.quality)
        r2 = r2 if r2.size else None
        if r2 is not None and page.shareable:
            bars, of_all, r2 = histogram(r2), summary(r2), None
            if of_all is not None:
                said.append(
                    f"reconstruction R² {of_all[1]:.3f} ± {of_all[2]:.3f} (mean and standard "
                    f"deviation over {of_all[0]:,} people{of_whom})"
                )
        if r2 is not None:
            said.append(
                f"median reconstruction R² {np.median(r2):.3f} over {r2.size:,} people{of_whom}"
            )
    part.sentences["encoder"] = f"{'; '.join(said)}." if said else ""
    if own.quality is not None:
        part.sentences["encoder"] += (
            " R² is the share of a z-scored map's squared distance from the mean map that the "
            "latents give back; what is noise from voxel to voxel they cannot, so it stays well "
            "below 1 in unsmoothed maps."
        )
        if missing := _not_encoded(own.quality):
            few = page.shareable and len(missing) < SMALLEST
            part.sentences["encoder"] += (
                f" {f'Fewer than {SMALLEST}' if few else f'{len(missing):,}'} "
                f"{'people' if few else plural(len(missing), 'person', 'people')} could not be "
                + ("encoded" if page.shareable else f"encoded ({', '.join(missing[:SMALLEST])})")
                + ": the log of the encoder says why."
            )
    if kept is not None:
        part.pictures["training"] = picture(
            figures.components(kept, r2, bars),
            "Variance kept by components and histogram of reconstruction R² over people.",
            "Left: share of the variance of the smoothed maps that the first components keep. "
            "Right: share of each person's map that they explain"
            + ("." if bars is None else f"; bars of fewer than {SMALLEST} people are not drawn.")
            if r2 is not None or bars is not None
            else "",
        )
    elif losses or r2 is not None or bars is not None:
        part.pictures["training"] = picture(
            figures.training(epoch, losses, r2, bars),
            "Loss by epoch and histogram of reconstruction R² over people.",
            "Left: loss by epoch. Right: share of each person's map that the latents explain"
            + ("." if bars is None else f"; bars of fewer than {SMALLEST} people are not drawn.")
            if losses and (r2 is not None or bars is not None)
            else "",
        )
    if own.examples is None or page.shareable:
        return
    who, original, reconstruction = read_examples(own.examples)
    keep = slice(0, SHOWN_EXAMPLES)
    affine = np.eye(4) if given.cohort is None else read_cohort(given.cohort).affine
    before, after = (
        np.stack([to_ras(volume.astype(np.float32), affine) for volume in volumes[keep]])
        for volumes in (original, reconstruction)
    )
    part.pictures["examples"] = photo(
        figures.examples(before, after, [_short(name) for name in who[keep]], voxel_size(affine)),
        f"Original maps, their reconstructions and the differences of {len(who[keep])} people.",
        "What the latents keep: original, reconstruction and difference (red: too high, blue: too "
        "low).",
    )


def add_association(page: Page, given: Inputs) -> None:
    """Manhattan and quantile plots of the joint test, and the loci, of each representation."""
    facts = _facts(given)
    _add_people(page, given, facts)
    for name, own in given.parts.items():
        _add_results(page, page.parts[name], given, own, trait_word(facts))


def _add_results(page: Page, part: Part, given: Inputs, own: Results, word: str) -> None:
    """Plots of one joint test, and its loci; `word` is what was tested."""
    loci = read_tsv(own.loci, "loci") if own.loci is not None else None
    threshold = read_threshold(own.loci)
    reached = f"p\u00a0≤\u00a0{power(threshold)}"
    if own.joint is None:
        part.sentences["joint"] = given.group or "No joint test was given."
    else:
        joint = read_joint(own.joint)
        if joint.neg_log10_p.size == 0:
            part.sentences["joint"] = "The joint test has no variant that could be tested."
        else:
            _add_joint(page, part, joint, loci, threshold, word)
    if loci is None:
        part.sentences["loci"] = given.group or "No table of loci was given."
        return
    page.tiles.append((f"{len(loci):,}", part.of(plural(len(loci), "locus", "loci")), reached))
    if loci.empty:
        part.sentences["loci"] = f"No variant reaches {reached}."
        return
    part.sentences["loci"] = (
        f"Lead variant of each locus, most significant first; {word}s are those with p < 0.05 "
        "divided by their number at the lead variant, ▲ where the effect allele raises them."
        + ("" if word == "latent" else " Each trait is tested in the people who have it.")
    )
    ordered = loci.sort_values("neg_log10_p", ascending=False, kind="stable")
    part.loci = Table(
        ["variant", "place", "span, kb", "alleles", "frequency", "people", "−log₁₀ p", "R², %",
         "leads", "in LD", f"{word}s"],
        [_locus_row(row, page.shareable) for row in ordered.head(MAX_ROWS).to_dict("records")],
        len(loci),
    )  # fmt: skip


def add_samples(page: Page, given: Inputs) -> None:
    """How many people's genotypes are flagged, by reason."""
    if given.samples_qc is None:
        return
    facts = given.facts or {}
    table = read_tsv(given.samples_qc, "samples_qc")
    flags = table["flags"].dropna().astype(str).str.split(",")
    counts = flags.explode().value_counts()
    if page.shareable:
        # The number checked would tell how few of those mapped were not; that of all flagged, how
        # few have a flag that is not told, or several flags.
        few = len(flags) < SMALLEST
        said = say_count(len(flags)) if few or len(counts) == 1 else f"{SMALLEST} or more"
        reasons = [] if few else [f"{say_count(n)} {flag}" for flag, n in counts.items()]
        page.sentences["samples"] = f"Genotypes were checked: {said} people flagged"
    else:
        reasons = [f"{n:,} {flag}" for flag, n in counts.items()]
        page.sentences["samples"] = (
            f"Genotypes of {len(table):,} people were checked: {len(flags):,} flagged"
        )
    page.sentences["samples"] += (
        (f" ({', '.join(reasons)})" if reasons else "")
        + ". Nobody was left out for it; samples_qc.tsv and related.tsv tell who, and a study's "
        "'keep' leaves people out."
    )
    unheeded = "related" in counts and "gwas" in facts and "mixed_model" not in facts
    if unheeded and not page.shareable:
        page.sentences["samples"] += (
            " Relatives were tested as if they were unrelated; mixed_model = true in [gwas] "
            "accounts for them."
        )
    if len(table) < MIN_TO_COMPARE:
        page.sentences["samples"] += (
            f" Heterozygosity, ancestry and relatives are not judged among fewer than "
            f"{MIN_TO_COMPARE} people."
        )


def add_replication(page: Page, given: Inputs) -> None:
    """The lead variants of each representation in other people."""
    for name, own in given.parts.items():
        if own.replication is not None:
            _add_replicated(page, page.parts[name], own.replication)


def _add_replicated(page: Page, part: Part, replication: Path) -> None:
    """The lead variants of one representation in other people."""
    table = read_tsv(replication, "replication")
    if table.empty:
        return
    tested = table[table["replicated"].isin(["yes", "no"])]
    n_yes = int((tested["replicated"] == "yes").sum())
    n_same = int((tested["r"] > 0).sum())
    page.tiles.append(
        (f"{n_yes:,} of {len(tested):,}", part.of("loci replicated"), "one-sided, Bonferroni")
    )
    part.sentences["replication"] = (
        "Each lead variant was tested in other people by the combination of traits that it changed "
        f"in the discovery: {n_yes:,} of {len(tested):,} replicated, {n_same:,} had the same "
        "direction. The correlation r is above 0 where the direction is the discovery's."
    )
    part.replication = Table(
        ["variant", "place", "people", "r", "−log₁₀ p, one-sided", "replicated"],
        [
            [
                Cell(str(row["variant_id"]), kind="name"),
                Cell(f"{row['chromosome']}:{int(row['base_pair_location']):,}", kind="text"),
                number_cell(row["n"], 0),
                number_cell(row["r"], 3),
                number_cell(row["neg_log10_p"], 2),
                Cell(str(row["replicated"]), kind="text"),
            ]
            for row in table.head(MAX_ROWS).to_dict("records")
        ],
        len(table),
    )


def _add_people(page: Page, given: Inputs, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """The number of people in the association, or whose genotypes were checked.

    On a shared page it would tell, beside the number mapped, how few of them lack genotypes.
    """
    n = facts.get("gwas", {}).get("people")
    tested = any(own.joint is not None for own in given.parts.values())
    if n is None and tested and given.samples_qc is not None:
        n = len(read_tsv(given.samples_qc, "samples_qc"))
    if n is not None and not (page.shareable and page.images):
        said = say_count(n) if page.shareable else f"{n:,}"
        page.tiles.append((said, plural(n, "person", "people"), "in the association"))


def _add_joint(
    page: Page, part: Part, joint: Joint, loci: pd.DataFrame | None, threshold: float, word: str
) -> None:
    """Pictures and figures of a joint test with at least one variant."""
    reached = f"p\u00a0≤\u00a0{power(threshold)}"
    line = float(-np.log10(threshold))
    names = kernel.order_chromosomes(joint.names)
    rank = np.array([names.index(name) for name in joint.names])[joint.chromosome]
    place, edges = kernel.place_variants(rank, joint.position)
    kept = kernel.thin_points(place, joint.neg_log10_p)
    leads = []
    if loci is not None and not loci.empty:
        first = np.full(len(names), np.inf)
        np.minimum.at(first, rank, joint.position)
        ordered = loci.sort_values("neg_log10_p", ascending=False, kind="stable")
        for row in ordered.to_dict("records"):
            if row["chromosome"] in names:
                k = names.index(row["chromosome"])
                x = float(edges[k, 0] + row["base_pair_location"] - first[k])
                leads.append((x, float(row["neg_log10_p"]), str(row["variant_id"])))
    n = joint.neg_log10_p.size
    n_hits = int((joint.neg_log10_p >= line).sum())
    inflation = joint.about.get("lambda_gc")
    traits = len(joint.about.get("traits", []))
    of_traits = f" over {traits} {plural(traits, word)}" if traits else ""
    said = "" if inflation is None else f"inflation λ = {inflation:.3f}"
    page.tiles.append((f"{n:,}", part.of(f"{plural(n, 'variant')} tested"), said))
    test = "Exact F test of the canonical R²"
    if joint.about.get("mixed_model"):
        test = "Hotelling's T² of the statistics of a mixed model"
    part.sentences["joint"] = (
        f"{test} of each variant{of_traits}: {n:,} variants, {n_hits:,} "
        f"with {reached}{f', genomic {said}' if said else ''}."
    )
    more = len(leads) - figures.MAX_LABELS
    part.pictures["manhattan"] = picture(
        figures.manhattan(
            place[kept],
            rank[kept],
            joint.neg_log10_p[kept].astype(np.float64),
            edges,
            kernel.label_chromosomes(names),
            leads,
            line,
        ),
        f"Manhattan plot of the joint test: {n_hits:,} of {n:,} variants reach {reached}"
        + (f"; lead variants {', '.join(lead[2] for lead in leads[:8])}." if leads else "."),
        f"Joint test along the genome. Dashed line: p\u00a0=\u00a0{power(threshold)}"
        + ("; lead variants are named" if leads else "")
        + (f", the {figures.MAX_LABELS} most significant of {len(leads)}" if more > 0 else "")
        + ". Every variant with p\u00a0<\u00a010⁻³ is drawn; the others one per pixel.",
    )
    part.pictures["quantiles"] = picture(
        figures.quantiles(*kernel.quantile_points(joint.neg_log10_p)),
        f"Quantile-quantile plot of the joint test{f', {said}' if said else ''}.",
        "Quantiles against the null, with the 95% band of each rank for independent variants"
        + (f"; {said}." if said else "."),
        wide=False,
    )


def _locus_row(row: Mapping[Any, Any], shareable: bool) -> list[Cell]:
    """One locus as cells; on a shared page no frequency that tells of fewer than 5 carriers."""
    position = int(row["base_pair_location"])
    start, end = row.get("start", position), row.get("end", position)
    names, betas, ps = (
        [part for part in str(row.get(column, "")).split(",") if part and part != "nan"]
        for column in ("traits", "traits_beta", "traits_neg_log10_p")
    )
    shown = [
        f"{re.sub('^(latent|component)_', '', name)} {'▼' if beta.startswith('-') else '▲'} "
        f"{float(p):.1f}"
        for name, beta, p in zip(names, betas, ps, strict=True)
    ]
    more = f", and {len(shown) - SHOWN_LATENTS} more" if len(shown) > SHOWN_LATENTS else ""
    alleles = f"{_clip(row.get('effect_allele', ''))} / {_clip(row.get('other_allele', ''))}"
    chromosome = str(row["chromosome"])
    frequency = number_cell(row.get("effect_allele_frequency"), 3)
    if shareable and {"effect_allele_frequency", "n"} <= row.keys():
        rarer = min(row["effect_allele_frequency"], 1 - row["effect_allele_frequency"])
        if round(2 * row["n"] * rarer) < SMALLEST:
            frequency = Cell(f"<{SMALLEST} copies", LAST, "number")
    place = 1e10 * (int(chromosome) if chromosome.isdigit() else 99) + position
    return [
        Cell(str(row["variant_id"]), kind="name"),
        Cell(f"{chromosome}:{position:,}", place),
        number_cell((end - start) / 1e3, 0),
        Cell(alleles),
        frequency,
        Cell(say_count(int(row["n"])), float(row["n"]) if row["n"] >= SMALLEST else LAST, "number")
        if shareable and "n" in row
        else number_cell(row.get("n"), 0),
        number_cell(row["neg_log10_p"], 1),
        Cell(f"{100 * row['joint_r2']:.3g}", float(row["joint_r2"]), "number")
        if "joint_r2" in row
        else Cell("–"),
        number_cell(row.get("n_leads"), 0),
        number_cell(row.get("n_clumped"), 0),
        Cell(", ".join(shown[:SHOWN_LATENTS]) + more if shown else "several, weakly", kind="text"),
    ]


def add_methods(page: Page, given: Inputs) -> None:
    """The methods section, of the parts that ran.

    Raises
    ------
    InputError
        Facts that lack what their part must have.
    """
    if given.facts is None:
        page.sentences["methods"] = "No account of what ran was given."
        return
    try:
        page.methods = methods_text(_facts(given), given.versions).text
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"facts: cannot be told, {type(error).__name__}: {error}") from error
    page.sentences["methods"] = (
        "For the paper: what this study did, made from its own records. Check it, and add what "
        "these do not know, such as the scanner, the sequence and who took part."
        if page.methods
        else "No part of the study has finished yet."
    )


def add_about(page: Page, given: Inputs) -> None:
    """Settings, versions, time."""
    if given.study_settings is not None:
        settings = _flatten(given.study_settings)
        if page.shareable:
            settings = [row for row in settings if row[0] not in FILES and "/" not in row[1]]
        page.settings = Table(
            ["setting", "value"],
            [[Cell(name, kind="name"), Cell(value, kind="path")] for name, value in settings],
            len(settings),
        )
    if given.versions is not None:
        page.versions = Table(
            ["package", "version"],
            [[Cell(name, kind="name"), Cell(value)] for name, value in given.versions.items()],
            len(given.versions),
        )
    if given.seconds is None:
        page.sentences["seconds"] = "No times were given."
        return
    table = read_tsv(given.seconds, "seconds")
    cpu = "cpu_seconds" if "cpu_seconds" in table else "seconds"
    total = float(table[cpu].sum())
    jobs = int(table["jobs"].sum())
    # The number of jobs is that of all scans, and less the finished ones that of a few.
    said = "" if page.shareable else f"{jobs:,} {plural(jobs, 'job')}"
    page.sentences["seconds"] = f"{said}{', ' if said else ''}{duration(total)} of CPU time."
    page.tiles.append((duration(total), "of CPU time", said))
    rows = []
    for row in table.to_dict("records"):
        share = row[cpu] / total if total else 0.0
        rows.append(
            [
                Cell(str(row["step"]), kind="name"),
                number_cell(row["jobs"], 0),
                Cell(duration(row["seconds"]), float(row["seconds"]), "number"),
                Cell(duration(row[cpu]), float(row[cpu]), "number"),
                number_cell(row[cpu] / max(row["jobs"], 1), 1),
                number_cell(row.get("max_rss_mb"), 0),
                Cell(f"{100 * share:.1f}", share, "bar"),
            ]
        )
    head = ["step", "jobs", "elapsed", "CPU", "CPU s a job", "peak memory, MB", "share of CPU, %"]
    shown = (0, 2, 3, 6) if page.shareable else range(len(head))
    page.seconds = Table(
        [head[k] for k in shown], [[row[k] for k in shown] for row in rows], len(rows)
    )


def _flatten(settings: Mapping[str, Any], within: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{within}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((f"{within}{name}", text))
    return rows


def _is_numeric(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and bool(column.notna().any())


def _clip(allele: Any) -> str:
    return str(allele) if len(str(allele)) <= 6 else f"{str(allele)[:5]}…"


def _short(name: str) -> str:
    return name if len(name) <= 12 else f"{name[:11]}…"
