"""The page, section by section: from the study's files to sentences, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.cohort import Cohort, read_cohort
from axoloci.quality import figure_of, level_of
from axoloci.tasks.report import figures
from axoloci.tasks.report.association_page import (
    add_association,
    add_replication,
    add_samples,
    facts_of,
)
from axoloci.tasks.report.content import MAX_ROWS, TITLES, UNFINISHED, Page, Part
from axoloci.tasks.report.document import (
    Cell,
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
from axoloci.tasks.report.genetics_page import (
    add_correlations,
    add_heritability,
    add_regions,
    add_traits,
    add_voxels,
)
from axoloci.tasks.report.inputs import (
    Inputs,
    LooseMaps,
    Results,
    evenly,
    find_maps,
    read_examples,
    read_joint_about,
    read_tsv,
)
from axoloci.tasks.report.methods import methods_text
from axoloci.tasks.report.qc_page import RULE_SENTENCE, Judged, judged
from axoloci.tasks.report.sharing import (
    SMALLEST,
    count_failures,
    histogram,
    say_count,
    summary,
)

MAX_MEAN = 200  # people in the group's mean
BLOCK = 10  # people in memory at a time
SHOWN_PEOPLE = 4
SHOWN_EXAMPLES = 4
FILES = {"out", "bids", "scans", "genotypes", "covariates", "normalize.template"}  # settings


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
    if given.group:  # the error of a step may have paths and ids
        page.sentences["group"] = UNFINISHED if shareable else given.group
        if any(own.history or own.sumstats for own in given.parts.values()):
            page.sentences["shown"] = "What it has finished is shown."
    sections = (
        *(add_scans, add_qc, add_cohort, add_comparison, add_encoder, add_samples),
        *(add_association, add_traits, add_regions, add_replication, add_heritability),
        *(add_correlations, add_voxels, add_methods, add_about),
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
        page.sentences["cohort"] = UNFINISHED if given.group else "No cohort store was given."
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
    page.background, page.measure = (group[0], cohort.affine), cohort.measure.upper()
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
    measure = page.measure
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
        part.sentences["encoder"] = UNFINISHED if given.group else "No representation was trained."
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
        page.methods = methods_text(facts_of(given), given.versions).text
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


def _short(name: str) -> str:
    return name if len(name) <= 12 else f"{name[:11]}…"
