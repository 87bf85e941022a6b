"""Command line of the encoder step."""

from __future__ import annotations

import csv
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from click.core import ParameterSource
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import distributed

from axoloci import __version__
from axoloci.command import step_group
from axoloci.errors import InputError
from axoloci.io.cohort import Cohort, read_cohort
from axoloci.io.files import sha256, whole_file, write_text
from axoloci.io.tables import write_latents
from axoloci.tasks.encoder import kernel, linear
from axoloci.tasks.encoder.model_file import Model, check_fits, read_model, write_model
from axoloci.tasks.encoder.representation import Rows, encode_maps, outliers, reconstruct

N_EXAMPLES = 4
CHECKPOINT_SECONDS = 600.0  # between two states that are kept within an epoch

log = logging.getLogger("axoloci")
main = step_group(__name__, "Learn latent phenotypes of FA maps without labels, and encode maps.")


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
            type=click.Path(exists=True, path_type=Path),
            required=True,
            help="Cohort store of axoloci-normalize store.",
        ),
    ):
        command = option(command)
    return command


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
    type=click.IntRange(min=1),
    default=kernel.Config.epochs,
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
    cohort = read_cohort(cohort_path)
    settings["precision"] = settings["precision"] or kernel.Config.precision
    given = {
        name: value
        for name, value in settings.items()
        if not udip_fa or context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    config = replace(kernel.UDIP_FA if udip_fa else kernel.Config(), **given)
    device = _device(device, threads)
    if deterministic:
        torch.use_deterministic_algorithms(True)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks for
    with _together(device) as first:
        rows = _rows(cohort)
        training = kernel.Training(rows, cohort.n_samples, cohort.mask, config, device, compiled)
        log.info(
            "training on %d people, %d held out; channels %s, %d latents, %d parameters, %s",
            *(len(training.train_index), len(training.validation_index)),
            *(training.config.channels, training.config.n_latents),
            *(sum(w.numel() for w in training.model.parameters()), training.config.precision),
        )
        identity = {
            "config": asdict(training.config),
            "content_sha256": cohort.content_sha256,
            "device": device,
            "threads": torch.get_num_threads(),
            "n_processes": training.n_ranks,
            # the code that runs the step: a training half by one, half by another is of neither
            "axoloci_version": __version__,
            "image": os.environ.get("AXOLOCI_IMAGE"),
        }
        if checkpoint is not None:
            _take_up(training, checkpoint, identity)
        _run(training, checkpoint if first else None, identity, tensorboard if first else None)
    if not first:
        return
    _write_table(
        history,
        ("epoch", "train_loss", "validation_loss", "learning_rate"),
        (tuple(asdict(epoch).values()) for epoch in training.history),
    )
    about = {
        "device": device,
        "threads": torch.get_num_threads(),
        "n_processes": training.n_ranks,
        "mean_map_loss": float(training.model.scale) ** 2,  # what the mean map alone gives
        **asdict(training.history[-1]),
        "weights_of_epoch": training.best_epoch,  # 0: those of the start
    }
    write_model(
        *(out, "autoencoder", training.model, asdict(training.config), cohort),
        *(training.train_index, training.validation_index, about),
    )


def _run(
    training: kernel.Training,
    checkpoint: Path | None,
    identity: dict[str, Any],
    tensorboard: Path | None,
) -> None:
    """All epochs that are left; the state is kept on the way."""
    kept = time.monotonic()

    def keep() -> None:
        nonlocal kept
        if checkpoint is not None:
            with whole_file(checkpoint) as temporary:
                torch.save({"identity": identity, **training.state_dict()}, temporary)
        kept = time.monotonic()

    start, waited = time.monotonic(), training.seconds_waiting
    with _progress(training) as (advance, say), _curves(tensorboard) as draw:

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
    training.finish()
    seconds = time.monotonic() - start
    log.info(
        "%d epochs; best on the people held out after epoch %d; %.1f%% of %.0f s went by waiting "
        "for maps",
        *(len(training.history), training.best_epoch),
        *(100 * (training.seconds_waiting - waited) / max(seconds, 1e-9), seconds),
    )


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
    help="Share of the smoothed maps' variance to keep, instead of a number of components.",
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
    "--seed",
    type=click.IntRange(min=0),
    default=linear.Config.seed,
    help="Seed of the people held out, and of those who choose the bandwidth.",
)
def fit_linear(
    cohort_path: Path,
    out: Path,
    history: Path,
    device: str,
    threads: int | None,
    **settings: Any,
) -> None:
    """Fit the linear representation: principal components of smoothed maps."""
    device = _device(device, threads)
    cohort = read_cohort(cohort_path)
    config = linear.Config(**settings)
    size = np.linalg.norm(cohort.affine[:3, :3], axis=0)  # (3,) mm
    fit = linear.fit(
        *(_rows(cohort), cohort.n_samples, cohort.mask),
        *((float(size[0]), float(size[1]), float(size[2])), config, device),
    )
    log.info(
        "%d components of %d people keep %.1f%% of the variance (bandwidth %.2f mm); effective "
        "rank %.1f; maps of the %d people held out correlate with their reconstructions by %.3f",
        *(fit.model.n_latents, len(fit.train_index), 100 * fit.variance_kept[-1], fit.bandwidth),
        *(fit.components.effective_rank, len(fit.validation_index), fit.reconstruction.mean()),
    )
    _write_table(
        history,
        ("component", "variance", "variance_kept"),
        (
            (name, float(variance), float(kept))
            for name, variance, kept in zip(
                [f"component_{k:03d}" for k in range(fit.model.n_latents)],
                *(fit.components.variance, fit.variance_kept),
                strict=True,
            )
        ),
    )
    about = {
        "device": device,
        "threads": torch.get_num_threads(),
        "bandwidth_mm": fit.bandwidth,
        "gcv": {f"{each.bandwidth:.6g}": each.gcv for each in fit.candidates},
        "variance_kept": float(fit.variance_kept[-1]),
        "effective_rank": fit.components.effective_rank,
        "reconstruction_correlation": float(fit.reconstruction.mean()),
    }
    write_model(
        *(out, "linear", fit.model, asdict(config), cohort),
        *(fit.train_index, fit.validation_index, about),
    )


@main.command()
@_shared_options
@click.option(
    "--model",
    "model_path",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="Model of axoloci-encoder train or fit-linear.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Table of latents, .parquet."
)
@click.option(
    "--quality",
    type=click.Path(path_type=Path),
    required=True,
    help="Table of each person's reconstruction: the mean squared error of the map, the share of "
    "its distance from the mean map that was made again (R2), and whether its error stands out.",
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
    "again better than others); or drop them from the latents.",
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
    device = _device(device, threads)
    cohort = read_cohort(cohort_path)
    model = read_model(model_path)
    check_fits(model, cohort, model_path)
    index = _to_encode(cohort, model, model_path, training_people)
    who = [cohort.sample_id[row] for row in index]
    representation = model.representation
    if isinstance(representation, kernel.Autoencoder):
        representation.config = replace(representation.config, precision=precision)
        representation = representation.folded().on(device)
    else:
        representation = representation.to(device)
    rows = _rows(cohort)
    encoded = encode_maps(representation, rows, index)
    write_latents(out, who, encoded.latents, model.latent_names, model_sha256=sha256(model_path))
    outlier = outliers(encoded.mse)
    _write_table(
        quality,
        ("sample_id", "reconstruction_mse", "reconstruction_r2", "outlier"),
        zip(who, encoded.mse, encoded.r2, outlier.astype(int), strict=True),
    )
    for k in np.flatnonzero(outlier):
        log.warning("%s: the reconstruction error stands out; look at the map", who[k])
    some = index[np.unique(np.linspace(0, len(index) - 1, N_EXAMPLES).astype(np.int64))]
    originals = cohort.volumes(some)  # (k, x, y, z)
    again = np.zeros_like(originals)
    again[:, cohort.mask] = reconstruct(representation, rows(some))
    with whole_file(examples) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            sample_id=np.array([cohort.sample_id[row] for row in some]),
            original=originals.astype(np.float16),
            reconstruction=again.astype(np.float16),
        )
    log.info("encoded %d people; mean R2 %.3f", len(index), encoded.r2.mean())


def _to_encode(
    cohort: Cohort, model: Model, model_path: Path, training_people: str
) -> NDArray[np.int64]:
    """Places of the people to encode."""
    trained = np.array([name in model.seen for name in cohort.sample_id])
    if training_people == "keep" or not trained.any():
        return np.arange(cohort.n_samples)
    told = (
        f"{cohort.path}: {model_path} was trained on {trained.sum()} of its {len(trained)} people"
    )
    if training_people == "refuse":
        raise InputError(
            f"{told}; keep them by --training-people keep (associations stay valid, for the "
            "model never saw genotypes), drop them by --training-people drop, or train on others"
        )
    if trained.all():
        raise InputError(f"{told}: nobody is left to encode; train on others")
    log.info("%s, who are left out", told)
    return np.flatnonzero(~trained)


def _take_up(training: kernel.Training, path: Path, identity: dict[str, Any]) -> None:
    """Go on from a checkpoint if it is of this training; say so and why if it is not."""
    if not path.exists():
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state.pop("identity")
    except Exception as error:  # a damaged zip or pickle raises many kinds
        log.warning("%s cannot be read (%s): training from the start", path, error)
        return
    if found != identity:
        differs = [name for name in identity if found.get(name) != identity[name]]
        log.warning("%s is of another %s: training from the start", path, ", ".join(differs))
        return
    training.load_state_dict(state)
    place = f" and {training.step} steps of the next" if training.step else ""
    log.info("%s: going on after epoch %d%s", path, len(training.history), place)


def _rows(cohort: Cohort) -> Rows:
    """Reader of maps that names a person whose map cannot be z-scored."""

    def rows(index: NDArray[np.int64]) -> NDArray[np.float32]:
        maps = cohort.rows(index)
        constant = np.ptp(maps, axis=1) == 0
        if constant.any():
            who = ", ".join(cohort.sample_id[row] for row in index[constant])
            raise InputError(
                f"{cohort.path}: the map of {who} has one value in the whole mask; leave it out"
            )
        return maps

    return rows


def _device(device: str, threads: int | None) -> str:
    """The device to use; sets the number of threads."""
    if threads is not None:
        torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("no GPU that CUDA can use; choose --device cpu")
    return "cuda" if available and device != "cpu" else "cpu"


@contextmanager
def _together(device: str) -> Iterator[bool]:
    """Join the processes that torchrun began, if it did; whether this is the first of them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    first = distributed.get_rank() == 0
    if not first:
        log.setLevel(logging.ERROR)  # they would say the same
    try:
        yield first
    finally:
        distributed.destroy_process_group()


@contextmanager
def _progress(
    training: kernel.Training,
) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """What to call after a step, and what to say after an epoch: a bar, or lines in a log."""
    if not sys.stderr.isatty() or training.rank > 0:
        yield lambda: None, log.info
        return
    done = len(training.history) * training.n_steps + training.step
    with Progress(console=Console(stderr=True)) as bar:
        total = training.config.epochs * training.n_steps
        task = bar.add_task("training", total=total, completed=done)
        yield lambda: bar.advance(task), lambda text: bar.update(task, description=text)


@contextmanager
def _curves(folder: Path | None) -> Iterator[Callable[[kernel.Epoch], None]]:
    """What draws an epoch for TensorBoard."""
    if folder is None:
        yield lambda _: None
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def draw(epoch: kernel.Epoch) -> None:
            writer.add_scalar("loss/training", epoch.train_loss, epoch.epoch)
            writer.add_scalar("loss/held_out", epoch.validation_loss, epoch.epoch)
            writer.add_scalar("learning_rate", epoch.learning_rate, epoch.epoch)
            writer.flush()

        yield draw


def _write_table(path: Path, header: Sequence[str], rows: Any) -> None:
    """Tab-separated text; numbers with the digits that float32 holds."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"{x:.7g}" if isinstance(x, float) else x for x in row])
    write_text(path, text.getvalue())


if __name__ == "__main__":
    main()
