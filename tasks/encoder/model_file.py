"""The file of a fitted representation: weights as safetensors, and in their header what they are.

Nothing in it is executed when it is read. Its card, in Markdown, tells people the same.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from axoloci import __version__
from axoloci.errors import InputError
from axoloci.io.bases import MODEL_FORMAT, MODEL_VERSION
from axoloci.io.cohort import Cohort
from axoloci.io.files import whole_file, write_text
from axoloci.tasks.encoder.kernel import Autoencoder, Config
from axoloci.tasks.encoder.linear import Linear

N_MEASURED = 64  # people whose maps tell the scale of the intensities
OTHER_SCALE = 2.0  # ratio of mean or spread beyond which maps are on another scale: scanners differ
# by a tenth, percent from shares by a hundred
OTHER_MEAN = 1.0  # spreads within which means are alike whatever their ratio, as it is around zero

LATENT_NAMES = {"autoencoder": "latent", "linear": "component"}


@dataclass(frozen=True)
class Model:
    """A fitted representation and what its header says.

    Attributes
    ----------
    representation
        Ready to encode.
    kind
        `autoencoder` or `linear`.
    about
        The header.
    """

    representation: Autoencoder | Linear
    kind: str
    about: dict[str, Any]

    @property
    def seen(self) -> frozenset[str]:
        """People whose maps were used to fit it, or to choose when to stop."""
        return self.trained | frozenset(self.about["training"]["validation_sample_id"])

    @property
    def trained(self) -> frozenset[str]:
        """People whose maps were used to fit it."""
        return frozenset(self.about["training"]["train_sample_id"])

    @property
    def latent_names(self) -> list[str]:
        """Column of each latent."""
        name = LATENT_NAMES[self.kind]
        return [f"{name}_{k:03d}" for k in range(self.representation.n_latents)]


def write_model(
    path: Path,
    kind: str,
    representation: Autoencoder | Linear,
    config: dict[str, Any],
    cohort: Cohort,
    train_index: NDArray[np.int64],
    validation_index: NDArray[np.int64],
    training: dict[str, Any],
) -> None:
    """Write a model and, beside it, its card (`.md`).

    Parameters
    ----------
    path
        A `.safetensors` file.
    kind
        `autoencoder` or `linear`.
    representation
        What was fitted.
    config
        By which settings, JSON.
    cohort
        On whose maps.
    train_index, validation_index
        [int64] Places of the people it was fitted on, and of those held out.
    training
        How it went, JSON.
    """
    about = {
        "format": MODEL_FORMAT,
        "format_version": MODEL_VERSION,
        "axoloci_version": __version__,
        "kind": kind,
        "config": config,
        "measure": cohort.measure,
        "shape": list(cohort.mask.shape),
        "affine": cohort.affine.tolist(),
        "mask_sha256": cohort.mask_sha256,
        "intensity": _intensity(cohort, train_index),
        "training": {
            "content_sha256": cohort.content_sha256,
            "n_train": len(train_index),
            "n_validation": len(validation_index),
            # who must not be taken for unseen when the model is judged
            "train_sample_id": [cohort.sample_id[row] for row in train_index],
            "validation_sample_id": [cohort.sample_id[row] for row in validation_index],
            "n_parameters": sum(weights.numel() for weights in representation.parameters()),
            **training,
        },
    }
    weights = {name: w.cpu().contiguous() for name, w in representation.state_dict().items()}
    with whole_file(path) as temporary:
        # one key: the order of several is not fixed, and equal trainings must make equal files
        temporary.write_bytes(save(weights, {"axoloci": json.dumps(about, sort_keys=True)}))
    write_text(path.with_suffix(".md"), card(about))


def read_model(path: str | os.PathLike[str]) -> Model:
    """Read a model.

    Raises
    ------
    InputError
        Not a model of axoloci, damaged, or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("axoloci", "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a safetensors model: {error}") from error
    if about.get("format") != MODEL_FORMAT:
        raise InputError(f"{path}: is not a model of axoloci-encoder")
    if about["format_version"] != MODEL_VERSION:
        newer = about["format_version"] > MODEL_VERSION
        raise InputError(
            f"{path}: format_version {about['format_version']} is {'newer' if newer else 'older'} "
            f"than {MODEL_VERSION}; {'update axoloci' if newer else 'train the model again'}"
        )
    mask = weights["mask"].numpy()
    representation: Autoencoder | Linear
    if about["kind"] == "autoencoder":
        settings = {**about["config"], "channels": tuple(about["config"]["channels"])}
        representation = Autoencoder(Config(**settings), mask)
        representation.load_state_dict(weights)
    else:
        representation = Linear(**{name: array.numpy() for name, array in weights.items()})
    return Model(representation.eval(), about["kind"], about)


def check_fits(model: Model, cohort: Cohort, model_path: Path) -> None:
    """Refuse a cohort store that does not hold what the model was fitted on; no map is read.

    Raises
    ------
    InputError
        Another measure, grid or mask.
    """
    about = model.about
    for key, here in (
        ("measure", cohort.measure),
        ("shape", list(cohort.mask.shape)),
        ("mask_sha256", cohort.mask_sha256),
    ):
        if about[key] != here:
            raise InputError(
                f"{cohort.path}: its {key} is {here}, that of {model_path} is {about[key]}; bring "
                "the maps to the model's grid and mask (axoloci-normalize store --like), or train "
                "a model on this cohort"
            )
    if not np.allclose(about["affine"], cohort.affine, atol=1e-3):
        raise InputError(
            f"{cohort.path}: its affine is {cohort.affine.tolist()}, that of {model_path} is "
            f"{about['affine']}; bring the maps to the model's space"
        )


def check_scale(model: Model, cohort: Cohort, model_path: Path) -> None:
    """Refuse maps whose intensities are on another scale than those the model was fitted on.

    Spreads are compared by their ratio. Means may differ by as much or by a spread, so that those
    of signed measures, which are around zero or below, can agree.

    Raises
    ------
    InputError
        They are, as percent and shares.
    """
    ours, known = _intensity(cohort, np.arange(cohort.n_samples)), model.about["intensity"]
    spread = known["spread_of_maps"]
    alike = {key: known[key] / OTHER_SCALE < ours[key] < known[key] * OTHER_SCALE for key in known}
    alike["mean_of_maps"] |= abs(ours["mean_of_maps"] - known["mean_of_maps"]) < OTHER_MEAN * spread
    for key in known:
        if not alike[key]:
            raise InputError(
                f"{cohort.path}: the {key.replace('_', ' ')} is {ours[key]:.4g}, that of the "
                f"people who trained {model_path} {known[key]:.4g}: the maps are scaled "
                "differently; bring them to the same units"
            )


def card(about: dict[str, Any]) -> str:
    """What a model is, for people: Markdown of its header."""
    training, config = about["training"], about["config"]
    shape = "×".join(map(str, about["shape"]))
    voxel = np.linalg.norm(np.array(about["affine"])[:3, :3], axis=0)
    people = ("train_sample_id", "validation_sample_id")
    sections = {
        "Settings": config,
        "Training": {name: value for name, value in training.items() if name not in people},
    }
    kind = {"autoencoder": "Convolutional autoencoder", "linear": "Linear representation"}
    lines = [
        f"# {kind[about['kind']]} of {about['measure'].upper()} maps",
        "",
        f"Made by axoloci {about['axoloci_version']} from the maps of {training['n_train']} people"
        f" without labels; {training['n_validation']} people were held out. It encodes maps of "
        f"{shape} voxels of {' × '.join(f'{size:g}' for size in voxel)} mm, inside the mask with "
        f"the SHA-256 {about['mask_sha256']}, whose mean is about "
        f"{about['intensity']['mean_of_maps']:.3g} and whose spread about "
        f"{about['intensity']['spread_of_maps']:.3g}.",
        "",
        "Its latents describe how people differ from the mean of those it was trained on; in other "
        "scanners, ages or diseases they may stand for something else, and are to be judged there "
        "anew (`axoloci-encoder judge`). They are research phenotypes, not diagnoses.",
    ]
    for title, values in sections.items():
        lines += ["", f"## {title}", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {_shown(value)} |" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(own)}" for key, own in value.items())
    return (
        "by default"
        if value is None
        else f"{value:.6g}"
        if isinstance(value, float)
        else str(value)
    )


def _intensity(cohort: Cohort, index: NDArray[np.int64]) -> dict[str, float]:
    """Mean and spread over the voxels of a map, in the median of some people."""
    some = index[np.unique(np.linspace(0, len(index) - 1, N_MEASURED).astype(np.int64))]
    moments = [(row.mean(), row.std()) for row in (cohort.rows([k])[0] for k in some)]
    mean, spread = np.median(moments, axis=0)
    return {"mean_of_maps": float(mean), "spread_of_maps": float(spread)}
