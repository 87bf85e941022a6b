"""The regression of `complete_case` on a GPU by torch: the same formulas, batched over variants."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from axoloci.tasks.gwas.complete_case import (
    COLLINEAR,
    MAX_VIF,
    MIN_PIVOT,
    MONOMORPHIC,
    TESTED,
    TOO_FEW,
)

MAX_GATHERED = 2**26  # values of y gathered at once for the missing people: 256 MB as float32


class TorchRegression:
    """Regression of traits on blocks of variants, on one torch device.

    Parameters
    ----------
    q : (n_samples, n_covariates)
        Orthonormal covariates.
    y : (n_samples, n_traits)
        Adjusted traits, y'y = n_samples each; its type is the precision of the products.
    scale : (n_traits,)
        Unit of y in units of the trait.
    device
        "cuda", "cuda:1" or "cpu".
    """

    def __init__(
        self,
        q: NDArray[np.float64],
        y: NDArray[np.floating],
        scale: NDArray[np.float64],
        device: str,
    ) -> None:
        self.device = torch.device(device)
        self.y = torch.as_tensor(y, device=self.device)
        self.q = torch.as_tensor(q, device=self.device).to(self.y.dtype)
        self.yq = torch.cat([self.y, self.q], dim=1)  # (n_samples, n_traits + n_covariates)
        self.scale = torch.as_tensor(scale, device=self.device)

    def regress(
        self, dosage: NDArray[np.int8]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.int32], NDArray[np.uint8]]:
        """Effects, standard errors, counts and status of a block; shapes as in `complete_case`."""
        n_samples, n_traits = self.y.shape
        n_covariates = self.q.shape[1]
        g = torch.as_tensor(dosage, device=self.device)  # (V, N) int8
        missing = g < 0
        counts = torch.stack([missing.sum(1), (g == 1).sum(1), (g == 2).sum(1)], dim=1)  # (V, 3)
        n_missing, n_one, n_two = counts.unbind(1)
        n = n_samples - n_missing
        flip = n_one + 2 * n_two > n
        n_homozygous = torch.where(flip, n - n_one - n_two, n_two)
        total = n_one + 2 * n_homozygous
        squares = (n_one + 4 * n_homozygous).double()
        counted = torch.where(flip[:, None], 2 - g, g).masked_fill_(missing, 0)
        products = (counted.to(self.y.dtype) @ self.yq).double()  # (V, K + C)
        gy, a = products[:, :n_traits], products[:, n_traits:]
        c = a.clone()  # (V, C)
        yy = torch.full_like(gy, float(n_samples))
        singular = torch.zeros_like(flip)

        touched = torch.nonzero(n_missing)[:, 0]
        if len(touched):
            widest = int(n_missing[touched].max())
            step = max(1, MAX_GATHERED // (widest * (n_traits + n_covariates)))
            for rows in torch.split(touched, step):
                c[rows], add, less, singular[rows] = self._correct(missing[rows], a[rows])
                gy[rows] += add
                yy[rows] -= less
        gg = squares - (a * c).sum(1)
        df = n - n_covariates - 1
        spread = squares - total.double() ** 2 / n

        status = torch.full_like(n, TESTED)
        status[singular | (gg * MAX_VIF < spread)] = COLLINEAR
        status[(n_one == n) | (n_homozygous == n) | (total == 0)] = MONOMORPHIC
        status[df < 1] = TOO_FEW
        effect = gy / gg[:, None]  # (V, K)
        variance = (yy / gg[:, None] - effect**2) / df[:, None]
        sign = torch.where(flip, -1.0, 1.0).double()
        untested = (status != TESTED)[:, None]
        beta = (effect * sign[:, None] * self.scale).masked_fill_(untested, torch.nan)
        se = (variance.clamp_min(0).sqrt() * self.scale).masked_fill_(untested, torch.nan)
        return (
            beta.to(self.y.dtype).cpu().numpy(),
            se.to(self.y.dtype).cpu().numpy(),
            counts.int().cpu().numpy(),
            status.byte().cpu().numpy(),
        )

    def _correct(
        self, missing: torch.Tensor, a: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """c, c'b, y_S'y_S + b'(I - Q_S'Q_S)^-1 b, and whether that matrix is singular."""
        n_missing = missing.sum(1)
        widest = int(n_missing.max())
        # positions of the missing people, padded by others whose weight is 0
        weight, people = torch.topk(missing.byte(), widest, dim=1)  # (V, M)
        weight = weight.to(self.y.dtype)[:, :, None]
        q = self.q[people] * weight  # (V, M, C)
        y = self.y[people] * weight  # (V, M, K)
        left = torch.eye(a.shape[1], dtype=torch.float64, device=self.device) - (
            q.double().transpose(1, 2) @ q.double()
        )  # (V, C, C)
        lower, failed = torch.linalg.cholesky_ex(left)
        singular = (failed > 0) | (lower.diagonal(dim1=1, dim2=2) ** 2 < MIN_PIVOT).any(1)
        lower[singular] = torch.eye(a.shape[1], dtype=torch.float64, device=self.device)
        c = torch.cholesky_solve(a[:, :, None], lower)[:, :, 0]
        b = (q.transpose(1, 2) @ y).double()  # (V, C, K)
        add = torch.einsum("vc,vck->vk", c, b)
        half = torch.linalg.solve_triangular(lower, b, upper=False)
        less = (y.double() ** 2).sum(1) + (half**2).sum(1)
        return c, add, less, singular
