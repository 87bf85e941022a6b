"""Command line of the encoder step."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from click.core import ParameterSource
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.progress import Progress
from torch import distributed

from axoloci import __version__
from axoloci.command import step_group, tally
from axoloci.errors import InputError, nearest
from axoloci.io.atlas import labels_at, read_atlas, read_label_names
from axoloci.io.bases import MODEL_VERSION
from axoloci.io.cohort import Cohort, read_cohort
from axoloci.io.files import check_outputs, sha256, whole_file
from axoloci.io.nifti import write_nifti
from axoloci.io.tables import write_latents, write_tsv
from axoloci.tasks.encoder import explain as explaining
from axoloci.tasks.encoder import judge as judging
from axoloci.tasks.encoder import kernel, linear
from axoloci.tasks.encoder.inputs import (
    chosen_device,
    draw_people,
    faulty_people,
    read_covariates,
    read_repeats,
    sound_cohort,
    watched,
)
from axoloci.tasks.encoder.linearise import linearise
from axoloci.tasks.encoder.model_file import (
    Model,
    check_fits,
    check_scale,
    read_model,
    write_model,
)
from axoloci.tasks.encoder.pictures import overlays
from axoloci.tasks.encoder.representation import (
    encode_maps,
    held_out,
    outliers,
    reconstruct,
    spread,
)
from axoloci.tasks.encoder.seen import Pairs, first_of_each, is_seen, number_people, two_sessions

N_EXAMPLES = 4
N_EXPLAINED = 500  # people whose maps are changed, as published
N_DERIVATIVE = 32  # of them at whose latents the derivative is taken: its mean hardly moves after
N_SHOWN = 24  # latents in the picture
SMOOTHING_MM = 3.0  # of the t maps, as published
CHECKPOINT_SECONDS = 600.0  # between two states that are kept within an epoch

BY_IDS = "; a training knows a person's sessions by ids such as 01_ses-2, not by --repeats"
ZIP = b"PK\3\4"  # how a checkpoint begins
LONGEST_WAIT = timedelta(hours=6)  # of a process for the first, before it gives up

log = logging.getLogger("axoloci")
main = step_group(__name__, "Learn latent phenotypes of FA maps without labels, and encode maps.")
main.add_command(linearise)


def _channels(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    """`16,32,64` as numbers."""
    try:
        channels = tuple(int(number) for number in value.split(",") if number)
    except ValueError as error:
        raise click.BadParameter(f"'{value}' is not a list such as 16,32,64") from error
    if any(number < 1 for number in channels):
        raise click.BadParameter("channels must be positive")
    return channels


def _shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of all commands that read maps."""
    for option in (
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            help="CPU threads; all cores, or OMP_NUM_THREADS, if not given. One count repeats to "
            "the bit, another differs by rounding, which training amplifies. Use 1 where other "
            "programs share the cores: threads that wait for each other cost more than they give.",
        ),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            help="Where to compute; auto is a GPU if there is one.",
        ),
        click.option(
            "--cohort",
            "cohort_path",
            type=click.Path(path_type=Path),
            required=True,
            help="Cohort store of axoloci-normalize store.",
        ),
    ):
        command = option(command)
    return command


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_model_path_option = click.option(
    "--model",
    "model_path",
    type=_FILE,
    required=True,
    help="Model of axoloci-encoder train or fit-linear.",
)

_models_option = click.option(
    "--model",
    "model_paths",
    type=_FILE,
    required=True,
    multiple=True,
    help="Model of axoloci-encoder train or fit-linear; several times.",
)

_model_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Model, .safetensors; a card that tells people what it is is written beside it, .md.",
)


@main.command()
@_shared_options
@_model_option
@click.option(
    "--history", type=click.Path(path_type=Path), required=True, help="Table of losses by epoch."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="State of the training, kept after each epoch and every ten minutes; one that was killed "
    "goes on from it and ends in the same model.",
)
@click.option(
    "--udip-fa",
    is_flag=True,
    help="Start from the published network and training (UDIP-FA) instead of the defaults shown; "
    "meant for 1 mm, thousands of people and a GPU.",
)
@click.option(
    "--n-latents",
    type=click.IntRange(min=0),
    default=kernel.Config.n_latents,
    show_default="128, or one per 15 people where they are few",
    help="Latents a person. More keep more of a map and cost the joint test degrees of freedom.",
)
@click.option(
    "--channels",
    callback=_channels,
    default="",
    show_default="follow from the grid",
    help="Channels of each level, such as 16,32,64; every level halves the grid. Time grows with "
    "the first, size of the model with the last.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=0),
    default=kernel.Config.epochs,
    show_default="6 to 20, as many as make 1,000 steps",
    help="Passes over the people; fewer are enough the more people there are.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=0),
    default=kernel.Config.batch_size,
    show_default="10, or all in training where they are fewer",
    help="People a step. More use a GPU better; fewer learn more an epoch.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=kernel.Config.learning_rate,
    help="First step size of Adam. Halve it if the training diverges.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=kernel.Config.seed,
    help="Seed of the first weights, the people held out and the order of people.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default=None,
    show_default="bfloat16 on a GPU that has it, else float32",
    help="Of products. bfloat16 takes about half the time and memory where the device has it, and "
    "rounds to three digits; moments, losses and weights stay float32.",
)
@click.option(
    "--recompute",
    is_flag=True,
    help="Keep less in memory and compute it again: a third more time, the same model. For batches "
    "that do not fit.",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Let torch.compile fuse operations: minutes before the first step (a C++ compiler is "
    "needed), less time for each. Measured on a CPU: none less in float32, a sixth in bfloat16.",
)
@click.option(
    "--deterministic",
    is_flag=True,
    help="On a GPU, only algorithms that repeat to the bit, which are slower. On a CPU training "
    "always repeats.",
)
@click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the losses as TensorBoard reads them, epoch by epoch.",
)
@click.pass_context
def train(
    context: click.Context,
    /,
    cohort_path: Path,
    out: Path,
    history: Path,
    checkpoint: Path | None,
    udip_fa: bool,
    compiled: bool,
    deterministic: bool,
    tensorboard: Path | None,
    device: str,
    threads: int | None,
    **settings: Any,
) -> None:
    """Train the autoencoder on a cohort.

    On several GPUs: torchrun --nproc-per-node=N -m axoloci.tasks.encoder.cli train … ; each takes
    its share of every batch. (Batch norm, where it follows the batch as in --udip-fa, is of each
    share.)
    """
    settings["precision"] = settings["precision"] or kernel.Config.precision
    given = {
        name: value
        for name, value in settings.items()
        if not udip_fa or context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    config = replace(kernel.UDIP_FA if udip_fa else kernel.Config(), **given)
    check_outputs({"--out": out, "--history": history, "--checkpoint": checkpoint})
    if checkpoint is not None and checkpoint.exists():
        with open(checkpoint, "rb") as file:
            if file.read(len(ZIP)) != ZIP:
                raise InputError(f"{checkpoint} is no checkpoint; give another --checkpoint")
    device = chosen_device(device, threads)
    if deterministic:
        torch.use_deterministic_algorithms(True)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks for
    with _together(device) as first:
        # the first decides who is sound: another may see a file system that falters
        cohort = read_cohort(cohort_path)
        if first:
            cohort = sound_cohort(cohort)
        sound = set(_from_first(cohort.sample_id))
        cohort = cohort.subset([k for k, who in enumerate(cohort.sample_id) if who in sound])
        training = kernel.Training(
            cohort.rows, _person_numbers(cohort), cohort.mask, config, device, compiled
        )
        log.info(
            "training on %d maps, %d held out; channels %s, %d latents, %d parameters, %s, at most "
            "%d epochs",
            *(len(training.train_index), len(training.validation_index)),
            *(training.config.channels, training.config.n_latents),
            *(sum(w.numel() for w in training.model.parameters()), training.config.precision),
            training.config.epochs,
        )
        if compiled:
            log.info("the first steps wait for torch.compile, a minute or more")
        identity = {
            **asdict(training.config),
            "content_sha256": cohort.content_sha256,
            "device": device,
            "threads": torch.get_num_threads(),
            "n_processes": training.n_ranks,
            "compiled": compiled,
            "deterministic": deterministic,
            # the code that runs the step: a training half by one, half by another is of neither
            "axoloci_version": __version__,
            "format_version": MODEL_VERSION,
            "image": os.environ.get("AXOLOCI_IMAGE"),
        }
        if checkpoint is not None:
            _take_up(training, checkpoint, identity)
        epoch, loss = _run(
            training, checkpoint if first else None, identity, tensorboard if first else None
        )
    if not first:
        return
    mean_map_loss = training.mean_map_loss()
    if loss >= mean_map_loss:
        log.warning(
            "the autoencoder makes maps of people held out no better than their mean map does "
            "(loss %.4f, mean map %.4f): its latents may be noise; train on more people or for "
            "more epochs, or with fewer latents",
            *(loss, mean_map_loss),
        )
    if training.model.n_latents < training.config.n_latents:
        log.info(
            "%d of %d latents are left: the others change no map",
            *(training.model.n_latents, training.config.n_latents),
        )
    write_tsv(history, pd.DataFrame([asdict(epoch) for epoch in training.history]))
    about = {
        "device": device,
        "threads": torch.get_num_threads(),
        "n_processes": training.n_ranks,
        "mean_map_loss": mean_map_loss,
        "epochs_trained": len(training.history),
        "weights_of_epoch": epoch,  # 0: those of the start
        "validation_loss": loss,  # of these weights
        "n_latents_in_training": training.config.n_latents,
    }
    write_model(
        *(out, "autoencoder", training.model, asdict(training.model.config), cohort),
        *(training.train_index, training.validation_index, about),
    )


def _run(
    training: kernel.Training,
    checkpoint: Path | None,
    identity: dict[str, Any],
    tensorboard: Path | None,
) -> tuple[int, float]:
    """All epochs that are left; the state is kept on the way.

    Returns the epoch that the weights are of, and their loss on the people held out.
    """
    kept = time.monotonic()

    def keep() -> None:
        nonlocal kept
        if checkpoint is not None:
            with whole_file(checkpoint) as temporary:
                torch.save({"identity": identity, **training.state_dict()}, temporary)
        kept = time.monotonic()

    start, waited, done = time.monotonic(), training.seconds_waiting, len(training.history)
    with _progress(training) as (advance, say), _curves(tensorboard, done) as draw:

        def after_step() -> None:
            advance()
            if time.monotonic() - kept > CHECKPOINT_SECONDS:
                keep()

        while not training.finished:
            epoch = training.run_epoch(after_step)
            keep()
            draw(epoch)
            say(
                f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, "
                f"of people held out {epoch.validation_loss:.4f}"
            )
    best, loss = training.finish()
    seconds = time.monotonic() - start
    n_epochs, of = len(training.history), training.config.epochs
    log.info(
        "%s %d of %d epochs%s; the weights are %s, with a loss of %.4f of the people held out; "
        "%.1f%% of %.0f s went by waiting for maps",
        *("ended early after" if n_epochs < of else "done", n_epochs, of),
        ", the last of which brought them nothing" if n_epochs < of else "",
        f"those after epoch {best}" if best else "the first ones: training added nothing to them",
        *(loss, 100 * (training.seconds_waiting - waited) / max(seconds, 1e-9), seconds),
    )
    return best, loss


@main.command("fit-linear")
@_shared_options
@_model_option
@click.option(
    "--history",
    type=click.Path(path_type=Path),
    required=True,
    help="Table of the components and the variance that each keeps.",
)
@click.option(
    "--n-latents",
    type=click.IntRange(min=0),
    default=linear.Config.n_latents,
    show_default="128, or one per 15 people where they are few",
    help="Components a person. More keep more of a map and cost the joint test degrees of freedom.",
)
@click.option(
    "--variance",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=linear.Config.variance,
    show_default="as many as --n-latents",
    help="Share of the smoothed maps' variance to keep, instead of a number of components; goes "
    "without --n-latents.",
)
@click.option(
    "--bandwidth",
    type=click.FloatRange(min=0),
    default=linear.Config.bandwidth,
    show_default="by generalised cross-validation",
    help="Of the Gaussian kernel that smooths maps before their components, mm (its standard "
    "deviation). Wider ones lose small regions, narrower ones noise gets in; 0 is plain PCA.",
)
@click.option(
    "--atlas",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Image of labels in the maps' space, mm: latents are the means of its labels instead, the "
    "simplest representation there is; goes without --n-latents, --variance and --bandwidth.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=linear.Config.seed,
    help="Seed of the people held out, and of those who choose the bandwidth.",
)
@click.pass_context
def fit_linear(
    context: click.Context,
    /,
    cohort_path: Path,
    out: Path,
    history: Path,
    atlas: Path | None,
    device: str,
    threads: int | None,
    **settings: Any,
) -> None:
    """Fit the linear representation: principal components of smoothed maps, or means of tracts."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("n_latents", "variance", "bandwidth")
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if atlas is not None and given:
        raise click.UsageError(
            f"--atlas goes without {' and '.join(given)}: the labels are the latents"
        )
    if {"--n-latents", "--variance"} <= set(given):
        raise click.UsageError("--n-latents and --variance both tell how many components; keep one")
    device = chosen_device(device, threads)
    cohort = sound_cohort(read_cohort(cohort_path))
    config = linear.Config(**settings)
    if atlas is not None:
        _fit_tract_means(cohort, atlas, config, device, out, history)
        return
    size = np.linalg.norm(cohort.affine[:3, :3], axis=0)  # (3,) mm
    fit = linear.fit(
        *(watched(cohort, "components"), _person_numbers(cohort), cohort.mask),
        *((float(size[0]), float(size[1]), float(size[2])), config, device),
    )
    components = fit.components
    if fit.model.n_latents < config.n_latents:
        log.warning(
            "%d components, not %d: the %d people in training have no more",
            *(fit.model.n_latents, config.n_latents, len(fit.train_index)),
        )
    log.info(
        "%d components of %d people keep %.1f%% of the variance (bandwidth %.2f mm); effective "
        "rank %.1f; maps of the %d people held out correlate with their reconstructions by %.3f",
        *(fit.model.n_latents, len(fit.train_index), 100 * fit.variance_kept[-1], fit.bandwidth),
        *(components.effective_rank, len(fit.validation_index), fit.reconstruction.mean()),
    )
    if components.angle > linear.TOLERANCE:
        settled, error = components.n_settled, components.residual / components.variance  # (r,)
        log.info(
            "the leading %d of %d components are settled after %d passes: their space is within "
            "%.0e radians of the exact one; that of all within %.2g, where 1.6 says nothing. "
            "The others differ too little in variance to be told apart so far, as is usual where "
            "components are noise; each has the variance of an exact one to within %.2g%%. The "
            "model can be used; more people, or fewer components, leave fewer of them open",
            *(settled, fit.model.n_latents, components.n_passes, linear.TOLERANCE),
            *(components.angle, 100 * error[settled:].max(initial=0.0)),
        )
    write_tsv(
        history,
        pd.DataFrame(
            {
                "component": [f"component_{k:03d}" for k in range(fit.model.n_latents)],
                "variance": components.variance,
                "variance_kept": fit.variance_kept,
            }
        ),
    )
    about = {
        "device": device,
        "threads": torch.get_num_threads(),
        "bandwidth_mm": fit.bandwidth,
        # of those that reach a neighbour
        "gcv": {f"{c.bandwidth:.6g}": c.gcv for c in fit.candidates if not np.isnan(c.gcv)},
        "variance_kept": float(fit.variance_kept[-1]),
        "effective_rank": components.effective_rank,
        "subspace_angle": components.angle,  # radians, at most
        "n_settled": components.n_settled,
        "n_passes": components.n_passes,
        "reconstruction_correlation": float(fit.reconstruction.mean()),
    }
    write_model(
        *(out, "linear", fit.model, asdict(config), cohort),
        *(fit.train_index, fit.validation_index, about),
    )


def _fit_tract_means(
    cohort: Cohort, atlas: Path, config: linear.Config, device: str, out: Path, history: Path
) -> None:
    """The linear representation by the means of an atlas's labels."""
    labels = labels_at(*read_atlas(atlas), _places(cohort))  # (n_voxels,)
    volume = np.zeros(cohort.mask.shape, dtype=np.int32)
    volume[cohort.mask] = labels
    train, validation = held_out(_person_numbers(cohort), config.validation_fraction, config.seed)
    rows = watched(cohort, "tract means")
    model = linear.tract_means(rows, train, cohort.mask, volume, device)
    numbers = np.unique(labels[labels > 0])
    write_tsv(
        history,
        pd.DataFrame(
            {
                "component": [f"component_{k:03d}" for k in range(len(numbers))],
                "label": numbers,
                "n_voxels": [int((labels == number).sum()) for number in numbers],
            }
        ),
    )
    correlation = linear.reconstruction_correlation(model, rows, validation)
    about = {
        "device": device,
        "threads": torch.get_num_threads(),
        "atlas": atlas.name,
        "atlas_sha256": sha256(atlas),
        "reconstruction_correlation": float(correlation.mean()),
    }
    write_model(out, "linear", model, asdict(config), cohort, train, validation, about)
    log.info("%d labels of %s", len(numbers), atlas)


@main.command()
@_shared_options
@_model_path_option
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Table of latents, .parquet."
)
@click.option(
    "--quality",
    type=click.Path(path_type=Path),
    required=True,
    help="Table of each person's reconstruction: the mean squared error of the map as the model "
    "sees it (z-scored by an autoencoder), the share of its distance from the mean map that was "
    "made again (R2, of z-scored maps for all models), whether its error stands out, and whether "
    "the model knows the person from training, whose R2 is larger for it. Who could not be encoded "
    "has n/a.",
)
@click.option(
    "--examples",
    type=click.Path(path_type=Path),
    required=True,
    help=f"{N_EXAMPLES} maps and their reconstructions, .npz, for the report.",
)
@click.option(
    "--training-people",
    type=click.Choice(["refuse", "keep", "drop"]),
    default="refuse",
    help="What to do where the model was trained on people of this cohort: refuse; keep them (the "
    "model never saw genotypes, so that associations stay valid, but maps that it knows are made "
    "again better than others); or drop them from the latents. Other sessions of theirs, as their "
    "ids tell (01_ses-2 is of 01), are theirs as well.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    help="Of an autoencoder's products: bfloat16 takes about half the time where the device has "
    "it, and its latents are rounded to two or three digits.",
)
def encode(
    cohort_path: Path,
    model_path: Path,
    out: Path,
    quality: Path,
    examples: Path,
    training_people: str,
    precision: str,
    device: str,
    threads: int | None,
) -> None:
    """Encode the maps of a cohort by a trained model."""
    device = chosen_device(device, threads)
    whole = read_cohort(cohort_path)
    model, representation = _model_for(model_path, whole, device, precision)
    wanted = whole.subset(_to_encode(whole, model, model_path, training_people))
    cohort = sound_cohort(wanted)
    check_scale(model, cohort, model_path)
    who = cohort.sample_id
    rows = watched(cohort, "latents")
    encoded = encode_maps(representation, rows, np.arange(cohort.n_samples))
    write_latents(out, who, encoded.latents, model.latent_names, model_sha256=sha256(model_path))
    outlier = outliers(encoded.mse)
    known = is_seen(who, model.trained, ())
    table = pd.DataFrame(
        {
            "sample_id": who,
            "reconstruction_mse": encoded.mse,
            "reconstruction_r2": encoded.r2,
            "outlier": outlier.astype(int),
            "in_training": known.astype(int),
        }
    ).set_index("sample_id")
    table = table.reindex(wanted.sample_id).astype({"outlier": "Int64", "in_training": "Int64"})
    write_tsv(quality, table.reset_index())
    for k in np.flatnonzero(outlier):
        log.warning("%s: the reconstruction error stands out; look at the map", who[k])
    some = np.unique(np.linspace(0, len(who) - 1, N_EXAMPLES).astype(np.int64))
    originals = cohort.volumes(some)  # (k, x, y, z)
    again = np.zeros_like(originals)
    again[:, cohort.mask] = reconstruct(representation, cohort.rows(some))
    with whole_file(examples) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            sample_id=np.array([who[row] for row in some]),
            original=originals.astype(np.float16),
            reconstruction=again.astype(np.float16),
        )
    for told, those in (("in training", known), ("others", ~known)):
        if those.any():
            log.info("%d people (%s): mean R2 %.3f", those.sum(), told, encoded.r2[those].mean())


@main.command("judge")
@_shared_options
@_models_option
@click.option(
    "--covariates",
    type=_FILE,
    help="Table of people, or of their sessions: the share of each latent's variance that its "
    "columns explain.",
)
@click.option(
    "--repeats",
    type=_FILE,
    help="Table (TSV) with the columns first and second: sample_ids of two sessions of a person, "
    "who are seen by a model if one of them is. Ids of BIDS need no table for that: 01_ses-2 and "
    "01_acq-b are of the same person as 01_ses-1; other ids do.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder."
)
def judge_models(
    cohort_path: Path,
    model_paths: tuple[Path, ...],
    covariates: Path | None,
    repeats: Path | None,
    out: Path,
    device: str,
    threads: int | None,
) -> None:
    """Compare representations on people of one cohort whom none of them was trained on.

    These are the people whom none of the models has seen, or else, where they are fewer than 20,
    all whom none was trained on ("held out": the training may have stopped by them). Every figure
    is of them alone, and n/a where they are too few for it.

    OUT/representations.tsv has a row a model: how well it makes maps again (R2 of z-scored maps),
    how far two sessions of a person agree (ICC(2,1), mean over latents), what covariates explain
    (adjusted R2), and of how many people each is. latents.tsv has a row a latent, stability.tsv
    one for each pair of models: rms_canonical_correlation, the root mean square of the canonical
    correlations of their latents, which is 1 for two that tell the same, as of two seeds, and
    rms_by_chance, what the same comes to where they have nothing in common.
    """
    device = chosen_device(device, threads)
    whole = read_cohort(cohort_path)
    if len({path.resolve() for path in model_paths}) < len(model_paths):
        raise click.UsageError("a --model is given twice")
    models = [_model_for(path, whole, device) for path in model_paths]
    headers, representations = [each for each, _ in models], [each for _, each in models]
    known = frozenset(whole.sample_id).union(*(model.seen for model in headers))
    pairs = [] if repeats is None else read_repeats(repeats, known)
    given = pd.DataFrame() if covariates is None else read_covariates(covariates, whole)
    cohort, group = _to_judge(whole, headers, pairs)
    for path, model in zip(model_paths, headers, strict=True):
        check_scale(model, cohort, path)
    number = number_people(cohort.sample_id, pairs)
    once = first_of_each(number)  # (n_people,) who count once, whatever their sessions
    first, second = two_sessions(cohort.sample_id, pairs, number).T  # (n_with_repeats,) each
    told = np.flatnonzero([name in given.index for name in cohort.sample_id])
    told = told[first_of_each(number[told])]  # (n_with_covariates,)
    values_told = given.loc[[cohort.sample_id[k] for k in told]].to_numpy()
    everyone = np.arange(cohort.n_samples)
    rows = watched(cohort, f"{len(models)} models")
    encoded = [encode_maps(each, rows, everyone) for each in representations]
    latents = [each.latents for each in encoded]
    whole_spread = spread(rows, once, representations[0].mean_rows.device)
    r2 = [1 - each.zscored_mse[once].mean() / whole_spread for each in encoded]
    table, of_latents = [], []
    for path, model, values, share in zip(model_paths, headers, latents, r2, strict=True):
        agreement = explained = np.full(values.shape[1], np.nan)
        if repeats is not None or len(first):
            sessions = values[first], values[second]
            agreement = _figure(
                judging.intraclass_correlation, f"{path}: test_retest_icc", *sessions
            )
        if covariates is not None:
            of_told = values[told], values_told
            explained = _figure(judging.variance_explained, f"{path}: covariates_r2", *of_told)
        of_whom = {"n_with_repeats": len(first), "n_with_covariates": len(told)}
        table.append(
            {
                "model": str(path),
                "kind": model.kind,
                "n_latents": values.shape[1],
                "people": group,
                "n_people": len(once),
                "reconstruction_r2": share,
                "test_retest_icc": agreement.mean(),
                "covariates_r2": explained.mean(),
                **of_whom,
            }
        )
        of_latents += [
            {
                "model": str(path),
                "latent": name,
                "people": group,
                "test_retest_icc": icc,
                "covariates_r2": by,
                **of_whom,
            }
            for name, icc, by in zip(model.latent_names, agreement, explained, strict=True)
        ]
        log.info("%s: R2 %.3f of %d people (%s)", path, share, len(once), group)
    likeness = []
    for a, b in combinations(range(len(models)), 2):
        one, other = latents[a][once], latents[b][once]  # (n_people, n_latents) each
        what = f"{model_paths[a]} and {model_paths[b]}: rms_canonical_correlation"
        correlations = _figure(judging.canonical_correlations, what, one, other)
        likeness.append(
            {
                "model": str(model_paths[a]),
                "other": str(model_paths[b]),
                "people": group,
                "n_people": len(once),
                "rms_canonical_correlation": judging.root_mean_square(correlations),
                "rms_by_chance": judging.correlation_by_chance(one, other),
            }
        )
    write_tsv(out / "representations.tsv", pd.DataFrame(table))
    write_tsv(out / "latents.tsv", pd.DataFrame(of_latents))
    if likeness:
        write_tsv(out / "stability.tsv", pd.DataFrame(likeness))


@main.command("explain")
@_shared_options
@_model_path_option
@click.option(
    "--latent",
    "chosen",
    multiple=True,
    help="Name of a latent, such as latent_003; several times; all of them if not given.",
)
@click.option(
    "--n-people",
    type=click.IntRange(min=2),
    default=N_EXPLAINED,
    help="People whose maps are changed; those of the cohort, by chance if there are more.",
)
@click.option("--atlas", type=_FILE, help="Image of labels in the maps' space: ranks its regions.")
@click.option("--names", type=_FILE, help="Names of the labels, as of axoloci-normalize tracts.")
@click.option(
    "--permutations",
    type=click.IntRange(min=1),
    default=1000,
    help="Random places that a region is compared with; the smallest p is 1 / (these + 1).",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the people and places.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder."
)
def explain_latents(
    cohort_path: Path,
    model_path: Path,
    chosen: tuple[str, ...],
    n_people: int,
    atlas: Path | None,
    names: Path | None,
    permutations: int,
    seed: int,
    out: Path,
    device: str,
    threads: int | None,
) -> None:
    """Show what latents mean in the brain.

    OUT/effect.nii.gz: what one standard deviation more of a latent adds to a map, the mean over
    people, one volume a latent in the order of latents.tsv (of an autoencoder in units of z-scored
    maps, else in the maps' own). Peaks, pictures and regions are of it. effect_t.nii.gz, of an
    autoencoder: its paired t over people, smoothed by 3 mm, as published. It tells where people
    change alike, not by how much: of a decoder that is nearly linear it is large everywhere.
    derivative.nii.gz: the decoder's derivative, a unit of a latent, mean over people; of a linear
    model its components. latents.png: the strongest voxels of each. latents.tsv: where each is
    strongest, mm. regions.tsv: labels of the atlas, ranked by the mean of the absolute effect.
    """
    device = chosen_device(device, threads)
    whole = read_cohort(cohort_path)
    model, representation = _model_for(model_path, whole, device)
    index = _chosen_latents(model, chosen, model_path)
    cohort = draw_people(whole, n_people, seed)
    if names is not None and atlas is None:
        raise click.UsageError("--names are those of an --atlas, which is not given")
    labels = labels_at(*read_atlas(atlas), _places(cohort)) if atlas is not None else None
    check_scale(model, cohort, model_path)
    rows = watched(cohort, "latents")
    latents = encode_maps(representation, rows, np.arange(cohort.n_samples)).latents
    made = tally(f"{len(index)} latents, {cohort.n_samples} people: maps made")

    def decode(codes: torch.Tensor) -> torch.Tensor:
        made(len(codes))
        return representation.decode_rows(codes.to(representation.mean_rows.device))

    effect, t = explaining.perturb(decode, latents, index)  # (k, n_voxels) each
    maps = {"effect": effect}
    if model.kind == "autoencoder":
        size = np.linalg.norm(cohort.affine[:3, :3], axis=0)  # (3,) mm
        maps["effect_t"] = explaining.smooth(t, cohort.mask, size, SMOOTHING_MM)
    maps["derivative"] = explaining.derivative(decode, latents[:N_DERIVATIVE], index)
    called = [model.latent_names[k] for k in index]
    for name, values in maps.items():
        volume = np.zeros((*cohort.mask.shape, len(index)), dtype=np.float32)
        volume[cohort.mask] = values.T
        write_nifti(out / f"{name}.nii.gz", volume, cohort.affine)
    mean = np.zeros(cohort.mask.shape, dtype=np.float32)
    mean[cohort.mask] = cohort.rows(range(len(latents[:N_DERIVATIVE]))).mean(axis=0)
    shown = np.zeros((len(index[:N_SHOWN]), *cohort.mask.shape), dtype=np.float32)
    shown[:, cohort.mask] = effect[:N_SHOWN]
    unit = "z-score" if model.kind == "autoencoder" else cohort.measure.upper()
    picture = overlays(mean, list(shown), called[:N_SHOWN], cohort.affine, unit)
    with whole_file(out / "latents.png") as temporary:
        picture.save(temporary, format="png")
    peak = np.abs(effect).argmax(axis=1)  # (k,)
    where = _places(cohort)[peak]  # (k, 3) mm
    write_tsv(
        out / "latents.tsv",
        pd.DataFrame(
            {
                "volume": range(len(called)),
                "latent": called,
                "peak_effect": effect[np.arange(len(peak)), peak],
                **dict(zip("xyz", where.T, strict=True)),
            }
        ),
    )
    if labels is not None:
        _write_regions(
            out / "regions.tsv", effect, called, cohort, labels, names, permutations, seed
        )
    log.info("%s: %d latents", out, len(index))


def _write_regions(
    path: Path,
    strength: NDArray[np.float32],
    called: Sequence[str],
    cohort: Cohort,
    labels: NDArray[np.int32],
    names: Path | None,
    permutations: int,
    seed: int,
) -> None:
    """Regions of an atlas for each latent, those that stand out most first."""
    regions = explaining.rank_regions(strength, labels, _places(cohort), permutations, seed)
    known = read_label_names(names) if names else {}
    table = []
    for k, name in enumerate(called):
        order = np.lexsort((-regions.strength[k], regions.p[k]))
        table += [
            {
                "latent": name,
                "rank": rank,
                "region": known.get(int(regions.label[r]), f"label_{regions.label[r]}"),
                "label": regions.label[r],
                "n_voxels": regions.n_voxels[r],
                "mean_effect": regions.strength[k, r],
                "p": regions.p[k, r],
            }
            for rank, r in enumerate(order, start=1)
        ]
    write_tsv(path, pd.DataFrame(table))


def _model_for(
    path: Path, cohort: Cohort, device: str, precision: str = "float32"
) -> tuple[Model, kernel.Autoencoder | linear.Linear]:
    """A model that fits a cohort, and its representation, ready on a device."""
    model = read_model(path)
    check_fits(model, cohort, path)
    representation = model.representation
    if isinstance(representation, kernel.Autoencoder):
        representation.config = replace(representation.config, precision=precision)
        return model, representation.folded().on(device)
    return model, representation.to(device)


def _chosen_latents(model: Model, chosen: Sequence[str], path: Path) -> NDArray[np.int64]:
    """Places of the latents that are named; all if none is."""
    known = model.latent_names
    for name in chosen:
        if name not in known:
            raise InputError(f"{path}: has no '{name}'; {nearest(name, known)}")
    return np.array([known.index(name) for name in chosen or known], dtype=np.int64)


def _places(cohort: Cohort) -> NDArray[np.float64]:
    """Where the voxels of a row are, (n_voxels, 3) mm."""
    return np.argwhere(cohort.mask) @ cohort.affine[:3, :3].T + cohort.affine[:3, 3]


def _figure(
    compute: Callable[[ArrayLike, ArrayLike], NDArray[np.float64]],
    what: str,
    latents: NDArray[np.floating],
    others: NDArray[np.floating],
) -> NDArray[np.float64]:
    """A figure of each latent; NaN, and the log says why, where people are too few for it."""
    try:
        return compute(latents, others)
    except InputError as error:
        log.warning(
            "%s is n/a: %s, whom no model was trained on; judge on a cohort that has them",
            *(what, error),
        )
        return np.full(latents.shape[1], np.nan)


def _to_judge(cohort: Cohort, models: Sequence[Model], pairs: Pairs) -> tuple[Cohort, str]:
    """The people on whom models are judged, whose maps are sound, and what these people are.

    No map is read twice, and none of people who are too few anyway.
    """
    counts, checked, faulty = [], np.zeros(cohort.n_samples, dtype=bool), frozenset[str]()
    groups = {  # all of the first are in the second
        "unseen": frozenset().union(*(model.seen for model in models)),
        "held out": frozenset().union(*(model.trained for model in models)),
    }
    for group, known in groups.items():
        unknown = ~is_seen(cohort.sample_id, known, pairs)  # (n_samples,)
        everyone = cohort.subset(np.flatnonzero(unknown))
        people = everyone.without(faulty)
        if _n_people(people, pairs) >= judging.FEWEST_PEOPLE:
            faulty |= faulty_people(cohort.subset(np.flatnonzero(unknown & ~checked)))
            checked |= unknown
            people = everyone.without(faulty)
        counts.append(_n_people(people, pairs))
        if counts[-1] >= judging.FEWEST_PEOPLE:
            return people, group
    raise InputError(
        f"{cohort.path}: {counts[0]} of its people are unseen by the models, and {counts[1]} were "
        f"in no training of theirs; at least {judging.FEWEST_PEOPLE} are needed: judge them on "
        "other people, or train them on more, all on one store and with one seed, which holds out "
        f"the same tenth of its people{BY_IDS if pairs else ''}"
    )


def _person_numbers(cohort: Cohort) -> NDArray[np.int64]:
    """Number of each map's person, (n_samples,)."""
    return number_people(cohort.sample_id, ())


def _n_people(cohort: Cohort, pairs: Pairs) -> int:
    """Number of people in a cohort, each with all sessions."""
    return len(first_of_each(number_people(cohort.sample_id, pairs)))


def _to_encode(
    cohort: Cohort, model: Model, model_path: Path, training_people: str
) -> NDArray[np.int64]:
    """Places of the people to encode."""
    seen = is_seen(cohort.sample_id, model.seen, ())
    if training_people == "keep" or not seen.any():
        return np.arange(cohort.n_samples)
    n_trained = int(is_seen(cohort.sample_id, model.trained, ()).sum())
    n_held_out = int(seen.sum()) - n_trained
    told = f"{cohort.path}: {model_path} was trained on {n_trained} of its {len(seen)} people" + (
        f" and saw {n_held_out} more, held out of training" if n_held_out else ""
    )
    if training_people == "refuse":
        raise InputError(
            f"{told}; keep them by --training-people keep (associations stay valid, for the "
            "model never saw genotypes), drop them by --training-people drop, or train on others"
        )
    if seen.all():
        raise InputError(f"{told}: nobody is left to encode; train on others")
    log.info("%s, who are left out", told)
    return np.flatnonzero(~seen)


def _take_up(training: kernel.Training, path: Path, identity: dict[str, Any]) -> None:
    """Go on from a checkpoint if it is of this training; if it is not, say why and put it aside.

    A training may be given more epochs than it had. Of several processes the first decides, lest
    some go on and others begin.
    """
    why, state = "", {}
    if path.exists():
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            found, n_done = state.pop("identity"), len(state["history"])
        except Exception:  # a damaged zip or pickle raises many kinds
            log.debug("%s", path, exc_info=True)
            why = "is damaged"
        else:
            differs = [
                f"{name} {found.get(name)} → {value}"
                for name, value in identity.items()
                if name != "epochs" and found.get(name) != value
            ]
            if n_done > training.config.epochs:
                differs.append(f"{n_done} epochs are done → {training.config.epochs}")
            why = f"is of another training ({', '.join(differs)})" if differs else ""
    begins = _from_first(why if path.exists() else "not there")
    if begins:
        if path.exists() and training.rank == 0:
            aside = path.with_name(f"{path.name}.old")
            os.replace(path, aside)
            log.warning("%s %s; kept as %s, training from the start", path, begins, aside)
        return
    if why:
        raise InputError(f"{path} {why}, while the first process goes on from it; start again")
    training.load_state_dict(state)
    place = f" and {training.step} steps of the next" if training.step else ""
    log.info("%s: going on after epoch %d%s", path, len(training.history), place)


@contextmanager
def _together(device: str) -> Iterator[bool]:
    """Join the processes that torchrun began, if it did; whether this is the first of them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # the others wait as long as the first checks the maps of a large cohort
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=LONGEST_WAIT)
    first = distributed.get_rank() == 0
    if not first:
        log.setLevel(logging.ERROR)  # they would say the same
    try:
        yield first
    finally:
        distributed.destroy_process_group()


def _from_first(value: Any) -> Any:
    """The value that the first process has, in all of them."""
    if not distributed.is_initialized():
        return value
    shared = [value]
    distributed.broadcast_object_list(shared, src=0)
    return shared[0]


@contextmanager
def _progress(
    training: kernel.Training,
) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """What to call after a step, and what to say after an epoch: a bar, or lines in a log."""
    if not sys.stderr.isatty() or training.rank > 0:
        add = tally(f"training, epochs of {training.n_steps} steps: steps done")
        yield lambda: add(1), log.info
        return
    done = len(training.history) * training.n_steps + training.step
    with Progress(console=Console(stderr=True)) as bar:
        total = training.config.epochs * training.n_steps
        task = bar.add_task("training", total=total, completed=done)
        yield lambda: bar.advance(task), lambda text: bar.update(task, description=text)


@contextmanager
def _curves(folder: Path | None, n_done: int) -> Iterator[Callable[[kernel.Epoch], None]]:
    """What draws an epoch for TensorBoard; epochs that are trained again hide their curves."""
    if folder is None:
        yield lambda _: None
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder), purge_step=n_done + 1) as writer:

        def draw(epoch: kernel.Epoch) -> None:
            writer.add_scalar("loss/training", epoch.train_loss, epoch.epoch)
            writer.add_scalar("loss/held_out", epoch.validation_loss, epoch.epoch)
            writer.add_scalar("learning_rate", epoch.learning_rate, epoch.epoch)
            writer.flush()

        yield draw


if __name__ == "__main__":
    main()
