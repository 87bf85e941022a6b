"""`axoloci-encoder --self-test`: latents that hold what makes tiny maps differ."""

from __future__ import annotations

import numpy as np

from axoloci.tasks.encoder import linear
from axoloci.tasks.encoder.kernel import Config, Training
from axoloci.tasks.encoder.representation import encode_maps


def self_test() -> None:
    """Train on 40 maps of 8³ voxels in which two regions vary; the latents must hold both."""
    rng = np.random.default_rng(0)
    mask = np.ones((8, 8, 8), dtype=bool)
    place = np.argwhere(mask)  # (512, 3)
    region = np.stack([place[:, 0] < 3, place[:, 0] > 5], axis=1)  # (512, 2)
    factors = rng.normal(size=(40, 2))
    mean = 0.4 + 0.1 * np.sin(place.sum(axis=1))
    noise = 0.005 * rng.normal(size=(40, len(place)))
    rows = (mean + 0.03 * factors @ region.T + noise).astype(np.float32)
    config = Config(n_latents=2, channels=(4, 8), epochs=1)
    training = Training(rows.__getitem__, np.arange(len(rows)), mask, config)
    training.run_epoch()
    components = linear.fit(
        rows.__getitem__,
        np.arange(len(rows)),
        mask,
        (2.0, 2.0, 2.0),
        linear.Config(n_latents=2, bandwidth=0),
    )
    for model in (training.model, components.model):
        latents = encode_maps(model, rows.__getitem__, np.arange(40)).latents
        design = np.column_stack([np.ones(40), latents])
        residual = factors - design @ np.linalg.lstsq(design, factors, rcond=None)[0]
        r2 = 1 - residual.var(axis=0) / factors.var(axis=0)
        assert (r2 > 0.9).all(), f"latents explain {r2} of what varies, not 0.9"
