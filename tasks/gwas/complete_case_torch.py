"""The regression of `complete_case` on a GPU by torch: the same formulas, batched over variants."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from axoloci.io.genotypes import MAX_UNCERTAINTY, MISSING, PackedCalls
from axoloci.tasks.gwas.complete_case import (
    COLLINEAR,
    CONSTANT_SPREAD,
    LITTLE_LEFT,
    MAX_VIF,
    MIN_PIVOT,
    MONOMORPHIC,
    STRONG,
    TESTED,
    TOO_FEW,
    Fit,
    centred_sums,
    middles,
    subset_of,
)
from axoloci.tasks.gwas.null_model import NullModel, TraitGroup

MAX_GATHERED = 2**26  # values of y gathered at once for the missing people: 256 MB as float32


class TorchRegression:
    """As `complete_case.CpuRegression`, on one torch device.

    On a GPU each thread works on a stream of its own, so that copies and arithmetic of different
    blocks overlap.

    Parameters
    ----------
    model, extra
        As there.
    precision
        Its numpy type.
    device
        "cuda:0" or "cpu".
    """

    def __init__(
        self,
        model: NullModel,
        precision: np.dtype[Any],
        device: str,
        extra: NDArray[Any] | None = None,
    ) -> None:
        self.model = model
        self.device = torch.device(device)
        self.pinned = self.device.type == "cuda"  # memory that copies to the device need not wait
        columns = [model.y, model.q] if extra is None else [model.y, model.q, extra]
        # (n_samples, n_tested + n_covariates + n_extra)
        self.factors = self._to_device(np.concatenate(columns, axis=1).astype(precision))
        n_tested, n_covariates = model.y.shape[1], model.q.shape[1]
        self.y = self.factors[:, :n_tested]
        self.q = self.factors[:, n_tested : n_tested + n_covariates]
        self.exact_y, self.exact_q = self._to_device(model.y), self._to_device(model.q)
        self.scale = self._to_device(model.scale)
        self.people = [subset_of(group) for group in model.groups]
        self.index = [None if s is None else self._to_device(s.people) for s in self.people]
        self._own = threading.local()
        if self.pinned:
            torch.cuda.synchronize(self.device)  # before other streams use what is there

    def running(self) -> AbstractContextManager[Any]:
        """What a thread works within: its own stream."""
        if not self.pinned:
            return nullcontext()
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._own.stream)

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.pinned:
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def load(self, dosage: NDArray[Any] | PackedCalls) -> torch.Tensor:
        """A block on the device, (n_variants, n_samples) int8 or float32."""
        if not isinstance(dosage, PackedCalls):
            return self._to_device(dosage)
        packed = self._to_device(dosage.read())  # (V, bytes)
        shift = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=self.device)
        codes = ((packed[:, :, None] >> shift) & 3).to(torch.int8)  # (V, bytes, 4)
        # of four people a byte; the last byte may hold fewer
        codes = codes.reshape(len(packed), -1)[:, : dosage.n_samples]
        if dosage.sample_index is not None:
            codes = codes[:, self._to_device(dosage.sample_index)]
        calls = 2 - (codes >> 1) - (codes & 1)  # 0, 2, 3 are two, one and no copies of allele 1
        return calls.masked_fill_(codes == 1, MISSING)

    def take(self, g: torch.Tensor, chosen: NDArray[np.bool_]) -> torch.Tensor:
        """Some of the variants."""
        return g[self._to_device(chosen)]

    def summarize(self, g: torch.Tensor) -> NDArray[np.float64]:
        """As `variant_qc.summarize`."""
        return self._moments(g).cpu().numpy()

    def _moments(self, g: torch.Tensor) -> torch.Tensor:
        missing = g < 0
        known = g.masked_fill(missing, 0)
        most, least = known.amax(1), g.masked_fill(missing, 3).amin(1)
        exact = known.double() if known.is_floating_point() else known
        moments = [
            missing.sum(1),
            known.sum(1, dtype=torch.float64),
            (exact * exact).sum(1, dtype=torch.float64),
            missing.all(1) | (least == most),
            *(((g - copies).abs() <= MAX_UNCERTAINTY).sum(1) for copies in (0, 1, 2)),
        ]
        return torch.stack([column.double() for column in moments], dim=1)

    def regress(self, g: torch.Tensor, moments: NDArray[np.float64]) -> Fit:
        """All traits against the variants; as `CpuRegression.regress`."""
        n_tested, n_covariates = self.y.shape[1], self.q.shape[1]
        missing = g < 0
        middle = middles(moments, g.shape[1])
        sums_of_all = self._to_device(centred_sums(moments, g.shape[1], middle))
        shift = self._to_device(middle)[:, None]
        centred = (g - shift.to(self.factors.dtype)).masked_fill_(missing, 0)  # (V, N)
        if g.is_floating_point():  # what moments do not tell exactly
            sums_of_all[:, 1:] = _sums(centred)
        products = centred @ self.factors
        # by trait, so that a column of the result is in one piece
        effects = torch.full((2, n_tested, len(g)), torch.nan, dtype=torch.float64, device=g.device)
        n_of, status_of = [], []
        for group, subset, index in zip(self.model.groups, self.people, self.index, strict=True):
            a = products[:, n_tested : n_tested + n_covariates]
            sums = sums_of_all
            if subset is not None:
                assert index is not None
                part = centred[:, index]
                a_part = part @ self.q[index]
                n_missing = missing[:, index].sum(1).double()
                sums_part = torch.cat([n_missing[:, None], _sums(part)], dim=1)
                a = a - a_part if subset.lacks else a_part
                sums = sums - sums_part if subset.lacks else sums_part
            n, status, effects[:, group.columns] = self._regress_group(
                group, missing, sums, centred, products[:, group.columns], a.double()
            )
            n_of.append(n)
            status_of.append(status)
        beta, se = effects.to(self.factors.dtype).cpu().numpy()
        return Fit(
            beta=beta.T,
            se=se.T,
            n=_stacked(n_of, len(g), np.int32),
            status=_stacked(status_of, len(g), np.uint8),
            centred=centred,
            explained=products[:, n_tested : n_tested + n_covariates],
            extra=products[:, n_tested + n_covariates :],
            factors=self.factors,
        )

    def _regress_group(
        self,
        group: TraitGroup,
        missing: torch.Tensor,
        sums: torch.Tensor,
        centred: torch.Tensor,
        gy: torch.Tensor,
        a: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """People (V,), status (V,), effects and standard errors (2, K, V)."""
        n_covariates = self.q.shape[1]
        n_missing, total, squares = sums.T
        n = group.n_samples - n_missing
        gram = self._to_device(group.gram)
        a = torch.cat([(total * self.exact_q[0, 0])[:, None], a[:, 1:]], dim=1)  # known exactly
        gy = gy.double()
        more = torch.zeros_like(gy)  # of those who lack the genotype
        yy = torch.full_like(gy, float(group.n_samples))
        singular = torch.zeros_like(n, dtype=torch.bool)
        c = a if group.is_whole else torch.cholesky_solve(a.T, torch.linalg.cholesky(gram)).T

        touched = torch.nonzero(n_missing)[:, 0]
        if len(touched):
            has = self._to_device(group.has)
            widest = int(missing[touched].sum(1).max())
            step = max(1, MAX_GATHERED // (widest * (gy.shape[1] + n_covariates)))
            c = c.clone()
            for rows in torch.split(touched, step):
                c[rows], more[rows], less, singular[rows] = self._correct(
                    missing[rows], a[rows], group.columns, has, gram
                )
                yy[rows] -= less
        gg = squares - (a * c).sum(1)
        spread = squares - total**2 / n
        exact_gg = gg[:, None].expand_as(gy).clone()
        if self.factors.dtype != torch.float64:
            strong = (gy + more) ** 2 > STRONG * gg[:, None] * yy
            strong |= ((gg < LITTLE_LEFT * spread) & (gg * MAX_VIF >= spread))[:, None]
            if strong.any():
                self._take_again(group, missing, squares, centred, strong, gy, more, exact_gg)
        df = n - n_covariates - 1

        status = torch.full_like(n, TESTED, dtype=torch.uint8)
        status[singular | (gg * MAX_VIF < spread)] = COLLINEAR
        status[spread <= CONSTANT_SPREAD * squares] = MONOMORPHIC
        status[df < 1] = TOO_FEW
        effect = (gy + more) / exact_gg  # (V, K)
        variance = (yy / exact_gg - effect**2) / df[:, None]
        results = torch.stack([effect, variance.clamp_min(0).sqrt()])  # (2, V, K)
        results *= self.scale[group.columns]
        results.masked_fill_((status != TESTED)[:, None], torch.nan)
        return n, status, results.transpose(1, 2)

    def _take_again(
        self,
        group: TraitGroup,
        missing: torch.Tensor,
        squares: torch.Tensor,
        centred: torch.Tensor,
        strong: torch.Tensor,
        gy: torch.Tensor,
        more: torch.Tensor,
        gg: torch.Tensor,
    ) -> None:
        """Products in float64: of variants of which the covariates or a trait explain much.

        `gy`, what the missing people add to it (`more`), and `gg`, all (V, K), are written where
        `strong`.
        """
        variants = torch.nonzero(strong.any(1))[:, 0]
        has = self._to_device(group.has)
        gram = self._to_device(group.gram)
        y = self.exact_y[:, group.columns]
        step = max(1, MAX_GATHERED // (2 * len(centred[0]) * max(gy.shape[1], 1)))
        for rows in torch.split(variants, step):
            g = centred[rows].double()  # (v, N)
            a = (g * has) @ self.exact_q
            c, add, _, singular = self._correct(missing[rows], a, group.columns, has, gram)
            exact = squares[rows] - (a * c).sum(1)
            mine = strong[rows] & ~singular[:, None]
            traits = torch.nonzero(mine.any(0))[:, 0]
            products = g @ y[:, traits]
            whole = torch.zeros_like(gy[rows])
            whole[:, traits] = products
            gy[rows] = torch.where(mine, whole, gy[rows])
            more[rows] = torch.where(mine, add, more[rows])
            gg[rows] = torch.where(mine, exact[:, None], gg[rows])

    def _correct(
        self,
        missing: torch.Tensor,
        a: torch.Tensor,
        traits: slice,
        has: torch.Tensor,
        gram: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """c, c'b, y_S'y_S + b'(Q_P'Q_P - Q_S'Q_S)^-1 b, and whether that matrix is singular."""
        n_missing = missing.sum(1)
        widest = int(n_missing.max())
        # positions of the missing people, padded by others whose weight is 0
        weight, people = torch.topk(missing.byte(), widest, dim=1)  # (V, M)
        weight = (weight * has[people]).to(self.factors.dtype)[:, :, None]
        q = self.q[people] * weight  # (V, M, C)
        y = self.y[:, traits][people] * weight  # (V, M, K)
        left = gram - q.double().transpose(1, 2) @ q.double()  # (V, C, C)
        lower, failed = torch.linalg.cholesky_ex(left)
        pivots = lower.diagonal(dim1=1, dim2=2) ** 2
        singular = (failed > 0) | (pivots < MIN_PIVOT * gram.diagonal()).any(1)
        lower[singular] = torch.eye(a.shape[1], dtype=torch.float64, device=self.device)
        c = torch.cholesky_solve(a[:, :, None], lower)[:, :, 0]
        b = (q.transpose(1, 2) @ y).double()  # (V, C, K)
        add = torch.einsum("vc,vck->vk", c, b)
        half = torch.linalg.solve_triangular(lower, b, upper=False)
        less = (y.double() ** 2).sum(1) + (half**2).sum(1)
        return c, add, less, singular


def _sums(centred: torch.Tensor) -> torch.Tensor:
    """Sum and sum of squares of each row, (V, 2) float64."""
    exact = centred.double()
    return torch.stack([exact.sum(1), (exact * exact).sum(1)], dim=1)


def _stacked(columns: list[torch.Tensor], n_rows: int, dtype: Any) -> NDArray[Any]:
    """Columns on the host, (n_rows, n_columns)."""
    if not columns:
        return np.empty((n_rows, 0), dtype=dtype)
    return torch.stack(columns).cpu().numpy().astype(dtype).T
