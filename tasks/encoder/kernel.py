"""Convolutional autoencoder of FA maps after UDIP-FA: the network, its training, encoding.

Maps come as rows: the voxels inside the cohort's mask, C order. Everything here is in units of the
z-score of each map over its mask, as in UDIP-FA (Zhao et al., Nature Communications 2026).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from axoloci.errors import InputError

Rows = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Gives the maps of some people, (b, n_voxels), by their places in the cohort."""

ENCODE_BATCH = 16  # people encoded at once; the latents hardly depend on it (1e-6)
PEOPLE_PER_LATENT = 15
BATCH = 10  # people a step, where so many are in training
START_PEOPLE = 512  # whose maps give the first latents: enough for 128 components
START_RIDGE = 2.0  # of the features' mean variance: the first latents of people never seen are near
# those of a projection on the components then, and those in training are not merely learnt by heart
SMALLEST_GRID = 12  # voxels: levels are added until the shortest axis is this short, as published


@dataclass(frozen=True)
class Config:
    """What is learnt and how: one config and one cohort give one model (on a CPU, to the bit)."""

    n_latents: int = 0  # 0: the published 128, or what a small cohort supports (`latents_for`)
    channels: tuple[int, ...] = ()  # of each level, each half the grid; empty: follow from the grid
    leak: float = 0.2  # LeakyReLU's slope below 0: 0.01, as published, learns half as fast here
    crop: bool = True  # leave out the margin around the mask: no information, half the time
    center: bool = True  # learn what differs from the mean map: that map costs no epochs then
    mean_pool: bool = True  # halve grids by the mean, not by the maximum as published: where most
    # of a map is noise of single voxels, a mean averages it away and a maximum picks it
    fixed_norm: bool = True  # batch norm's moments are measured once, before training: those of a
    # few noisy maps differ from step to step by more than the people do
    pca_start: bool = True  # latents start as principal components of the maps, and the components
    # stay as a linear path from latents to map beside the decoder, which learns what they leave: a
    # random start stays at the mean map where the signal is a tenth of the variance
    rate_by_inputs: bool = True  # divide the step size of the layer that gives the latents by its
    # inputs: Adam moves each weight alike, and 20,000 moved together throw the latents far off
    keep_best: bool = True  # end with the weights, the first ones included, that are best on the
    # people held out: a small cohort is soon learnt by heart
    learning_rate: float = 5e-4  # first step size of Adam, as published; 2e-3 loses a weak signal
    batch_size: int = 0  # people a step: fewer make noisy steps, more make few steps; 0: 10, or
    # all in training where they are fewer
    epochs: int = 6  # passes over the people in training
    validation_fraction: float = 0.1  # people held out to steer the learning rate
    plateau_patience: int = 4  # epochs without improvement before the step is cut, as published
    plateau_factor: float = 0.5  # by how much it is cut, as published
    seed: int = 0  # of the first weights, the held-out people and the order of each epoch


UDIP_FA = Config(
    n_latents=128,
    channels=(16, 32, 64, 128, 256),
    leak=0.01,
    crop=False,
    center=False,
    mean_pool=False,
    fixed_norm=False,
    pca_start=False,
    rate_by_inputs=False,
    keep_best=False,
    learning_rate=5e-4,
    batch_size=36,
    epochs=100,
)
"""The published network and training, for 182×218×182 voxels of 1 mm and thousands of people."""


def latents_for(n_samples: int) -> int:
    """Latents that a cohort supports: the published 128, in a small one one per 15 people.

    More would describe single people, and cost the joint test its degrees of freedom.

    >>> latents_for(50_000), latents_for(150)
    (128, 10)
    """
    return max(1, min(128, n_samples // PEOPLE_PER_LATENT))


def channels_for(shape: Sequence[int]) -> tuple[int, ...]:
    """Channels that a grid deserves: the published ones at 182×218×182, fewer on coarser grids.

    Parameters
    ----------
    shape
        Voxels along x, y, z.

    Returns
    -------
    One number per level, each twice the one before.

    >>> channels_for((182, 218, 182))
    (16, 32, 64, 128, 256)
    >>> channels_for((32, 40, 32))
    (8, 16, 32)
    """
    shortest = min(shape)
    n_halvings = max(0, math.ceil(math.log2(shortest / SMALLEST_GRID)))
    first = min(16, max(8, 2 ** round(math.log2(shortest / SMALLEST_GRID))))
    return tuple(first * 2**level for level in range(n_halvings + 1))


def grids_for(shape: Sequence[int], channels: Sequence[int]) -> list[tuple[int, ...]]:
    """Grid at each level: half of the one above, odd axes padded by one voxel.

    Parameters
    ----------
    shape
        Voxels along x, y, z.
    channels
        Channels of each level.

    Returns
    -------
    One (x, y, z) per level.

    Raises
    ------
    InputError
        The grid is too small to be halved that often.

    >>> grids_for((182, 218, 182), (16, 32, 64, 128, 256))[-1]
    (12, 14, 12)
    """
    grids = [tuple(int(n) for n in shape)]
    for _ in channels[1:]:
        grids.append(tuple(-(-n // 2) for n in grids[-1]))
    if min(shape) < 2 ** (len(channels) - 1):
        raise InputError(
            f"the grid {'×'.join(map(str, shape))} is too small for {len(channels)} levels, each "
            f"half of the one above; give at most {int(math.log2(min(shape))) + 1} channels"
        )
    return grids


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Smallest box around a mask; the voxels inside keep their order.

    Parameters
    ----------
    mask
        [bool, shape: (x, y, z)] Not empty.
    """
    x, y, z = (slice(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(mask))
    return x, y, z


def masked_loss(x: Tensor, reconstruction: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error inside the mask: Σ mask·(x − x̂)² / Σ mask.

    Parameters
    ----------
    x, reconstruction
        [shape: (b, 1, x, y, z)] Maps.
    mask
        [shape: (x, y, z)] 1 inside, 0 outside.

    Returns
    -------
    Tensor
        One number, the mean over the maps too.
    """
    squared = (x - reconstruction).square() * mask  # (b, 1, x, y, z)
    return squared.sum() / (mask.sum() * len(x))


def zscore(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Standardise each map over its voxels.

    Parameters
    ----------
    rows
        [float32, shape: (b, n_voxels)] Maps inside the mask, none of them constant.

    Returns
    -------
    (z, moments)
        [shape: (b, n_voxels)] mean 0 and variance 1 a row; [shape: (b, 2)] mean and standard
        deviation of each map.
    """
    moments = np.stack((rows.mean(axis=1), rows.std(axis=1)), axis=1)  # (b, 2)
    return (rows - moments[:, :1]) / moments[:, 1:], moments


def _block(n_in: int, n_out: int, leak: float) -> nn.Sequential:
    """Twice a 3×3×3 convolution, batch norm and LeakyReLU. (b, n_in, …) -> (b, n_out, …)."""
    return nn.Sequential(
        nn.Conv3d(n_in, n_out, 3, padding=1, bias=False),  # batch norm has the bias
        nn.BatchNorm3d(n_out),
        nn.LeakyReLU(leak, inplace=True),
        nn.Conv3d(n_out, n_out, 3, padding=1, bias=False),
        nn.BatchNorm3d(n_out),
        nn.LeakyReLU(leak, inplace=True),
    )


def _norms(module: nn.Module) -> Iterator[nn.BatchNorm3d]:
    """All batch norms inside."""
    return (part for part in module.modules() if isinstance(part, nn.BatchNorm3d))


class Autoencoder(nn.Module):
    """Maps to latents and back; the way up mirrors the way down.

    Parameters
    ----------
    config
        Size of the network; channels that are left empty follow from the grid.
    mask
        [bool, shape: (x, y, z)] Voxels that a row holds.
    """

    mask: Tensor
    inside: Tensor
    mean: Tensor
    scale: Tensor
    components: Tensor

    def __init__(self, config: Config, mask: NDArray[np.bool_]) -> None:
        super().__init__()
        box = bounding_box(mask) if config.crop else (slice(None),) * 3
        inside = torch.from_numpy(np.ascontiguousarray(mask[box]))  # (x, y, z), the network's grid
        config = replace(config, channels=config.channels or channels_for(inside.shape))
        channels = config.channels
        self.config = config
        self.grids = grids_for(inside.shape, channels)
        n_bottom = channels[-1] * math.prod(self.grids[-1])
        # down: 1 -> channels[0] on the full grid, then half the grid and the next channels
        self.down = nn.ModuleList(
            _block(n_in, n_out, config.leak)
            for n_in, n_out in zip((1, *channels[:-1]), channels, strict=True)
        )
        self.to_latents = nn.Linear(n_bottom, config.n_latents)
        self.from_latents = nn.Linear(config.n_latents, n_bottom)
        # up: twice the grid and the channels of the level above, then that level's block
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(below, above, 2, stride=2)
            for below, above in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.refine = nn.ModuleList(_block(above, above, config.leak) for above in channels[-2::-1])
        self.to_map = nn.Conv3d(channels[0], 1, 1)
        if config.center:  # answer with the mean map at first, not with noise to be unlearnt
            nn.init.zeros_(self.to_map.weight)
            nn.init.zeros_(self.to_map.bias)  # type: ignore[arg-type]
        if config.pca_start:  # the map that one more of a latent adds, (n_latents, 1, x, y, z)
            self.register_buffer("components", torch.zeros(config.n_latents, 1, *self.grids[0]))
        # the mean map of the people in training, and how far a voxel is from it (root mean square)
        self.register_buffer("mean", torch.zeros(1, 1, *self.grids[0]))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("mask", torch.from_numpy(mask))  # on the cohort's grid
        self.register_buffer("inside", inside, persistent=False)  # on the network's grid

    def on(self, device: str) -> Autoencoder:
        """Move to a device, channels last: convolutions then take two thirds of the time."""
        return self.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]

    def train(self, mode: bool = True) -> Autoencoder:
        """Switch to training, in which batch norm's moments may stay fixed."""
        super().train(mode)
        if self.config.fixed_norm:
            for norm in _norms(self):
                norm.eval()
        return self

    def volumes(self, rows: NDArray[np.float32]) -> Tensor:
        """z-scored rows (b, n_voxels) -> volumes (b, 1, x, y, z), 0 outside the mask."""
        volumes = torch.zeros(len(rows), 1, *self.grids[0], device=self.mean.device)
        volumes[:, 0, self.inside] = torch.from_numpy(rows).to(self.mean.device)
        return volumes

    def features(self, x: Tensor) -> Tensor:
        """z-scored maps (b, 1, x, y, z) -> features of the lowest level (b, n_features)."""
        pool = F.avg_pool3d if self.config.mean_pool else F.max_pool3d
        h = (x - self.mean) / self.scale if self.config.center else x  # (b, 1, x, y, z)
        for level, block in enumerate(self.down):
            if level:
                h = pool(h, 2, ceil_mode=True)  # (b, channels[level - 1], grids[level])
            h = block(h)  # (b, channels[level], grids[level])
        return h.flatten(1)  # (b, channels[-1] * voxels of grids[-1])

    def encode(self, x: Tensor) -> Tensor:
        """z-scored maps (b, 1, x, y, z) -> latents (b, n_latents)."""
        latents: Tensor = self.to_latents(self.features(x))
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, n_latents) -> z-scored maps (b, 1, x, y, z)."""
        h = self.from_latents(latents)  # (b, channels[-1] * voxels of grids[-1])
        h = h.unflatten(1, (-1, *self.grids[-1]))  # (b, channels[-1], grids[-1])
        for up, refine, (x, y, z) in zip(self.up, self.refine, self.grids[-2::-1], strict=True):
            h = up(h)[:, :, :x, :y, :z]  # (b, channels of the level above, its grid)
            h = refine(h)
        h = self.to_map(h)  # (b, 1, x, y, z)
        if self.config.pca_start:
            h = h + torch.tensordot(latents, self.components, dims=1)
        maps: Tensor = self.mean + self.scale * h if self.config.center else h
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """z-scored maps (b, 1, x, y, z) -> their reconstructions, same shape."""
        return self.decode(self.encode(x))


@dataclass(frozen=True)
class Epoch:
    """What one pass over the people in training came to."""

    epoch: int  # from 1
    train_loss: float
    validation_loss: float
    learning_rate: float  # during the epoch


class Training:
    """A training between two epochs; its state can be kept and taken up again.

    The order of people in an epoch follows from the seed and the epoch's number, so weights,
    optimiser, schedule and history are the whole state: a training that is taken up again equals
    one that never stopped.

    Parameters
    ----------
    rows
        Gives the maps of some people, (b, n_voxels), none of them constant.
    n_samples
        People in the cohort.
    mask
        [bool, shape: (x, y, z)] Voxels that a row holds.
    config
        Network and training.
    device
        `cpu` or `cuda`.

    Raises
    ------
    InputError
        Fewer people than one batch, or a grid too small for the network.
    """

    def __init__(
        self,
        rows: Rows,
        n_samples: int,
        mask: NDArray[np.bool_],
        config: Config,
        device: str = "cpu",
    ) -> None:
        order = np.random.default_rng(config.seed).permutation(n_samples)
        n_validation = max(1, round(config.validation_fraction * n_samples))
        self.validation_index = np.sort(order[:n_validation])
        self.train_index = np.sort(order[n_validation:])
        n_train = len(self.train_index)
        if n_train < max(1, config.batch_size):
            raise InputError(
                f"{n_train} people to train on ({n_validation} are held out) are "
                f"fewer than a batch of {max(1, config.batch_size)}; choose a smaller batch size"
            )
        config = replace(
            config,
            n_latents=config.n_latents or latents_for(n_samples),
            batch_size=config.batch_size or min(BATCH, n_train),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = Autoencoder(config, mask)
        self._rows = rows
        self._set_mean_map()
        self.model.on(device)
        if config.fixed_norm:
            self._measure_norms(self.model.features)
        if config.pca_start:
            self._start_from_components()
        if config.fixed_norm:
            self._measure_norms(self.model)  # of the decoder's too, now that it has its input
        self.config = self.model.config
        self.optimizer = torch.optim.Adam(self._rates())
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=config.plateau_factor, patience=config.plateau_patience
        )
        self.history: list[Epoch] = []
        self.best_epoch, self.best_loss = 0, math.inf  # whose weights count; 0: the start
        self.best_weights: dict[str, Tensor] = {}
        if config.keep_best:
            self._keep_if_best(self.validation_loss())

    def run_epoch(self) -> Epoch:
        """Pass over all people in training once, then measure the loss on those held out.

        Raises
        ------
        InputError
            The loss is no longer finite: the state of the epoch before is the last good one.
        """
        epoch = len(self.history) + 1
        order = np.random.default_rng((self.config.seed, epoch)).permutation(self.train_index)
        self.model.train()
        train_loss = torch.zeros((), device=self.model.mean.device)
        for index, x in self._batches(order, self.config.batch_size):
            self.optimizer.zero_grad()
            loss = masked_loss(x, self.model(x), self.model.inside)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            train_loss += loss.detach() * len(index) / len(order)
        done = Epoch(
            epoch, train_loss.item(), self.validation_loss(), self.optimizer.param_groups[0]["lr"]
        )
        if not math.isfinite(done.train_loss + done.validation_loss):
            raise InputError(
                f"training diverged in epoch {epoch}: the loss is not finite; choose a learning "
                f"rate below {self.config.learning_rate:g}, or look for maps with extreme values"
            )
        self.schedule.step(done.validation_loss)
        self.history.append(done)
        if not self.config.keep_best:
            self.best_epoch, self.best_loss = epoch, done.validation_loss
        else:
            self._keep_if_best(done.validation_loss)
        return done

    def finish(self) -> None:
        """Go back to the weights that were best on the people held out, if those are kept."""
        if self.config.keep_best:
            self.model.load_state_dict(self.best_weights)

    def validation_loss(self) -> float:
        """Loss on the people held out."""
        self.model.eval()
        loss = 0.0
        with torch.inference_mode():
            for index, x in self._batches(self.validation_index, ENCODE_BATCH):
                batch = masked_loss(x, self.model(x), self.model.inside).item()
                loss += batch * len(index) / len(self.validation_index)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "best": (self.best_epoch, self.best_loss, self.best_weights),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a training of the same config and cohort."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.best_epoch, self.best_loss, self.best_weights = state["best"]

    def _keep_if_best(self, loss: float) -> None:
        """Keep a copy of the weights if they are the best so far on the people held out."""
        if loss < self.best_loss:
            self.best_epoch, self.best_loss = len(self.history), loss
            weights = self.model.state_dict().items()
            self.best_weights = {name: tensor.clone() for name, tensor in weights}

    def _rates(self) -> list[dict[str, Any]]:
        """Weights and their step sizes, as Adam takes them."""
        wide = list(self.model.to_latents.parameters())
        others = [w for w in self.model.parameters() if all(w is not one for one in wide)]
        rate = self.model.config.learning_rate
        # as if the layer had as many inputs as the convolutions around it have channels
        inputs = self.model.to_latents.in_features / self.model.config.channels[0]
        by_inputs = rate / inputs if self.model.config.rate_by_inputs else rate
        return [{"params": others, "lr": rate}, {"params": wide, "lr": by_inputs}]

    def _batches(
        self, index: NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """People and their z-scored maps (b, 1, x, y, z)."""
        for start in range(0, len(index), batch_size):
            batch = index[start : start + batch_size]
            yield batch, self.model.volumes(zscore(self._rows(batch))[0])

    def _set_mean_map(self) -> None:
        """Mean of the z-scored maps in training, and the root mean square distance from it."""
        total = torch.zeros_like(self.model.mean, dtype=torch.float64)  # (1, 1, x, y, z)
        for _, x in self._batches(self.train_index, ENCODE_BATCH):
            total += x.sum(dim=0, dtype=torch.float64)
        mean = total / len(self.train_index)
        # a z-scored map has mean square 1, so what is not the mean map is 1 - its mean square
        shared = (mean.square().sum() / self.model.inside.sum()).clamp(max=1 - 1e-6)
        self.model.mean.copy_(mean)
        self.model.scale.copy_((1 - shared).sqrt())

    @torch.no_grad()
    def _measure_norms(self, forward: Callable[[Tensor], Tensor]) -> None:
        """Set batch norm's moments to the mean of those of batches of people in training."""
        norms = [(norm, norm.momentum) for norm in _norms(self.model)]
        for norm, _ in norms:
            norm.reset_running_stats()
            norm.train().momentum = None  # a mean over all batches
        for _, x in self._batches(self.train_index[:START_PEOPLE], ENCODE_BATCH):
            forward(x)
        for norm, momentum in norms:
            norm.eval().momentum = momentum

    @torch.no_grad()
    def _start_from_components(self) -> None:
        """Make the first latents the scores of the maps on their leading principal components.

        The encoder gets them by ridge regression on its untrained features. The decoder starts
        with the regression of features and maps on these latents.
        """
        model = self.model.eval()
        some = self.train_index[:START_PEOPLE]
        maps, features = [], []
        for _, x in self._batches(some, ENCODE_BATCH):
            maps.append(x[:, 0, model.inside])  # (b, n_voxels in the mask)
            features.append(model.features(x))
        y, h = torch.cat(maps), torch.cat(features)
        mean = h.mean(dim=0)  # (n_features,)
        y, h = (y - y.mean(dim=0)) / model.scale, h - mean
        n = min(model.config.n_latents, len(h) - 1)  # centred people span one dimension less
        # people are fewer than voxels or features: all follows from their products, (m, m)
        scores = torch.linalg.eigh((y @ y.T).double())[1][:, -n:].flip(1)  # leading first
        scores = scores.float() * math.sqrt(len(h) - 1)  # (m, n), variance 1
        products = (h @ h.T).double()  # (m, m)
        products.diagonal().add_(START_RIDGE * products.diagonal().mean())
        weight = torch.linalg.solve(products, scores.double()).float().T @ h  # (n, n_features)
        model.to_latents.weight[:n] = weight
        model.to_latents.bias[:n] = -(weight @ mean)
        # the way back is fitted to the latents that the encoder gives, smaller than the scores
        back = torch.linalg.pinv(h @ weight.T)  # (n, m)
        model.from_latents.weight[:, :n] = (back @ h).T
        model.from_latents.bias.zero_()
        model.components[:n, 0, model.inside] = back @ y


@dataclass(frozen=True)
class Encoded:
    """Latents of people, and how well their maps are made again from them."""

    latents: NDArray[np.float32]  # (n_samples, n_latents)
    mse: NDArray[np.float64]  # (n_samples,) mean squared error of the z-scored map in the mask
    r2: NDArray[np.float64]  # (n_samples,) share of the distance from the mean map made again


@torch.inference_mode()
def encode_maps(model: Autoencoder, rows: Rows, n_samples: int) -> Encoded:
    """Encode everybody.

    Parameters
    ----------
    model
        A trained network; its grid and mask are those of the rows.
    rows
        Gives the maps of some people, (b, n_voxels), none of them constant.
    n_samples
        People in the cohort.

    Returns
    -------
    Encoded
    """
    model.eval()
    latents = np.empty((n_samples, model.config.n_latents), dtype=np.float32)
    error, distance = np.empty(n_samples), np.empty(n_samples)
    for start in range(0, n_samples, ENCODE_BATCH):
        index = np.arange(start, min(start + ENCODE_BATCH, n_samples))
        x = model.volumes(zscore(rows(index))[0])  # (b, 1, x, y, z)
        code = model.encode(x)  # (b, n_latents)
        latents[index] = code.cpu().numpy()
        for values, guess in ((error, model.decode(code)), (distance, model.mean)):
            squared = (x - guess).square() * model.inside  # (b, 1, x, y, z)
            values[index] = squared.sum(dim=(1, 2, 3, 4)).cpu().numpy()  # (b,)
    return Encoded(latents, error / int(model.inside.sum()), 1 - error / distance)


@torch.inference_mode()
def reconstruct(model: Autoencoder, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps made again from their latents, in the maps' own units.

    Parameters
    ----------
    model
        A trained network.
    rows
        [float32, shape: (b, n_voxels)] Maps inside the mask, none of them constant.

    Returns
    -------
    [float32, shape: (b, n_voxels)]
    """
    model.eval()
    z, moments = zscore(rows)
    again = model(model.volumes(z))[:, 0, model.inside].cpu().numpy()  # (b, n_voxels)
    return np.asarray(again * moments[:, 1:] + moments[:, :1], dtype=np.float32)
