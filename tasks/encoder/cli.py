"""Command line of the encoder step."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import sys
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from axoloci import __version__
from axoloci.command import step_group
from axoloci.errors import InputError
from axoloci.io.cohort import Cohort, read_cohort
from axoloci.io.files import sha256, whole_file, write_text
from axoloci.io.tables import write_latents
from axoloci.tasks.encoder import kernel

FORMAT = "axoloci-encoder"
FORMAT_VERSION = 1
N_EXAMPLES = 4

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
    """Options of both commands."""
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


@main.command()
@_shared_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Model, .safetensors.")
@click.option(
    "--history", type=click.Path(path_type=Path), required=True, help="Table of losses by epoch."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="State after the last whole epoch; a training that was killed goes on from it.",
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
@click.pass_context
def train(
    context: click.Context,
    /,
    cohort_path: Path,
    out: Path,
    history: Path,
    checkpoint: Path | None,
    udip_fa: bool,
    device: str,
    threads: int | None,
    **settings: Any,
) -> None:
    """Train the autoencoder on a cohort."""
    device = _device(device, threads)
    cohort = read_cohort(cohort_path)
    given = {
        name: value
        for name, value in settings.items()
        if not udip_fa or context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    config = replace(kernel.UDIP_FA if udip_fa else kernel.Config(), **given)
    training = kernel.Training(_rows(cohort), cohort.n_samples, cohort.mask, config, device)
    log.info(
        "training on %d people, %d held out; channels %s, %d latents, %d parameters",
        *(len(training.train_index), len(training.validation_index)),
        *(training.config.channels, training.config.n_latents, _n_parameters(training.model)),
    )
    identity = {
        "config": asdict(training.config),
        "content_sha256": cohort.content_sha256,
        "device": device,
        "threads": torch.get_num_threads(),
        # the code that runs the step: a training half by one, half by another is of neither
        "axoloci_version": __version__,
        "image": os.environ.get("AXOLOCI_IMAGE"),
    }
    if checkpoint is not None:
        _take_up(training, checkpoint, identity)
    with _progress(config.epochs, len(training.history)) as advance:
        while len(training.history) < config.epochs:
            epoch = training.run_epoch()
            if checkpoint is not None:
                with whole_file(checkpoint) as temporary:
                    torch.save({"identity": identity, **training.state_dict()}, temporary)
            advance(
                f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, "
                f"of people held out {epoch.validation_loss:.4f}"
            )
    _write_table(
        history,
        ("epoch", "train_loss", "validation_loss", "learning_rate"),
        (tuple(asdict(epoch).values()) for epoch in training.history),
    )
    training.finish()
    _write_model(out, training, cohort)


@main.command()
@_shared_options
@click.option(
    "--model",
    "model_path",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="Model of axoloci-encoder train.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Table of latents, .parquet."
)
@click.option(
    "--quality",
    type=click.Path(path_type=Path),
    required=True,
    help="Table of each person's reconstruction: the mean squared error of the z-scored map, and "
    "the share of its distance from the mean map that was made again (R2).",
)
@click.option(
    "--examples",
    type=click.Path(path_type=Path),
    required=True,
    help=f"{N_EXAMPLES} maps and their reconstructions, .npz, for the report.",
)
def encode(
    cohort_path: Path,
    model_path: Path,
    out: Path,
    quality: Path,
    examples: Path,
    device: str,
    threads: int | None,
) -> None:
    """Encode the maps of a cohort by a trained model."""
    device = _device(device, threads)
    cohort = read_cohort(cohort_path)
    model, about = read_model(model_path)
    for key, here in (
        ("measure", cohort.measure),
        ("shape", list(cohort.mask.shape)),
        ("mask_sha256", cohort.mask_sha256),
    ):
        if about[key] != here:
            raise InputError(
                f"{cohort_path}: its {key} is {here}, that of {model_path} is {about[key]}; bring "
                "the maps to the model's grid and mask, or train a model on this cohort"
            )
    model.on(device)
    encoded = kernel.encode_maps(model, _rows(cohort), cohort.n_samples)
    write_latents(out, cohort.sample_id, encoded.latents, model_sha256=sha256(model_path))
    _write_table(
        quality,
        ("sample_id", "reconstruction_mse", "reconstruction_r2"),
        zip(cohort.sample_id, encoded.mse, encoded.r2, strict=True),
    )
    index = np.unique(np.linspace(0, cohort.n_samples - 1, N_EXAMPLES).astype(np.int64))
    originals = cohort.volumes(index)  # (k, x, y, z)
    again = np.zeros_like(originals)
    again[:, cohort.mask] = kernel.reconstruct(model, cohort.rows(index))
    with whole_file(examples) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            sample_id=np.array([cohort.sample_id[row] for row in index]),
            original=originals.astype(np.float16),
            reconstruction=again.astype(np.float16),
        )
    log.info("encoded %d people; mean R2 %.3f", cohort.n_samples, encoded.r2.mean())


def read_model(path: str | os.PathLike[str]) -> tuple[kernel.Autoencoder, dict[str, Any]]:
    """Read a trained network and what its header says about it.

    Raises
    ------
    InputError
        Not a model of axoloci, damaged, or of a newer format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("axoloci", "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a safetensors model: {error}") from error
    if about.get("format") != FORMAT:
        raise InputError(f"{path}: is not a model of axoloci-encoder train")
    if about["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {about['format_version']} is newer than {FORMAT_VERSION}; "
            "update axoloci"
        )
    settings = {**about["config"], "channels": tuple(about["config"]["channels"])}
    model = kernel.Autoencoder(kernel.Config(**settings), weights["mask"].numpy())
    model.load_state_dict(weights)
    return model, about


def _write_model(path: Path, training: kernel.Training, cohort: Cohort) -> None:
    """Weights as safetensors; what they are and how they came about in its header."""
    about = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "axoloci_version": __version__,
        "config": asdict(training.config),
        "measure": cohort.measure,
        "shape": list(cohort.mask.shape),
        "affine": cohort.affine.tolist(),
        "mask_sha256": cohort.mask_sha256,
        "training": {
            "content_sha256": cohort.content_sha256,
            "n_train": len(training.train_index),
            "n_validation": len(training.validation_index),
            # who must not be taken for unseen when the model is judged
            "train_sample_id": [cohort.sample_id[row] for row in training.train_index],
            "validation_sample_id": [cohort.sample_id[row] for row in training.validation_index],
            "threads": torch.get_num_threads(),
            "device": training.model.mean.device.type,
            "n_parameters": _n_parameters(training.model),
            "mean_map_loss": float(training.model.scale) ** 2,  # what the mean map alone gives
            **asdict(training.history[-1]),
            "weights_of_epoch": training.best_epoch,  # 0: those of the start
        },
    }
    # one key: the order of several is not fixed, and equal trainings must make equal files
    weights = {name: w.cpu().contiguous() for name, w in training.model.state_dict().items()}
    with whole_file(path) as temporary:
        temporary.write_bytes(save(weights, {"axoloci": json.dumps(about, sort_keys=True)}))


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
    log.info("%s: going on after epoch %d", path, len(training.history))


def _rows(cohort: Cohort) -> kernel.Rows:
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


def _n_parameters(model: torch.nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, lines in a log file; the function given moves on by one."""
    if not sys.stderr.isatty():
        yield log.info
        return
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total, completed=done)
        yield lambda text: bar.update(task, advance=1, description=text)


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
