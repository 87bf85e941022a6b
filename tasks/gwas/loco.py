"""The mixed model of a study: what relatives share is taken off each trait, by chromosome."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from axoloci.command import progress
from axoloci.covariates import design_matrix
from axoloci.errors import InputError
from axoloci.io.genotypes import Genotypes
from axoloci.io.loco import ALL
from axoloci.tasks.gwas import kernel, mixed_model, variant_qc
from axoloci.tasks.gwas.inputs import Study
from axoloci.tasks.gwas.ploidy import Ploidy, ploidy_of
from axoloci.tasks.gwas.variant_qc import VariantFilter

log = logging.getLogger("axoloci")

MIN_MAF, MAX_MISSING = 0.01, 0.01  # of variants that predict
BLOCK_VARIANTS = 1024
MAX_KEPT_BYTES = 2 * 2**30  # of relationships that are kept in memory
# Columns of noise of each group of people, and variants of each chromosome, that means are taken
# over: more among few people, where they tell less each.
MIN_PROBES, MAX_PROBES, PROBE_VALUES = 30, 100, 100_000


@dataclass(frozen=True)
class MixedFit:
    """What is left of each trait for the tests of each chromosome.

    Attributes
    ----------
    traits
        Names of those that can be tested.
    residuals
        By the chromosome that is tested, and `ALL` for those that were not there: float32,
        (n_samples, n_traits), in units of the trait, NaN for who lacks it. Its regression on a
        variant of that chromosome has the effect of the mixed model.
    se_scale
        By chromosome as well: float64, (n_traits,). The standard error of that regression times
        this is that of the mixed model.
    trait_correlation
        By chromosome as well: float64, (n_traits, n_traits). Of the traits' statistics for a
        variant without an effect that relatives share as they share the others.
    h2
        Share of each trait's variance that all autosomal variants explain.
    n_variants
        Variants of the relationship.
    """

    traits: list[str]
    residuals: dict[str, NDArray[np.float32]]
    se_scale: dict[str, NDArray[np.float64]]
    trait_correlation: dict[str, NDArray[np.float64]]
    h2: NDArray[np.float64]
    n_variants: int


@dataclass(frozen=True)
class _Group:
    """People who have the same traits, or are tested on a chromosome.

    Attributes
    ----------
    people : (n_people,)
        Positions among all people.
    q : float32, (n_people, n_covariates)
        Orthonormal covariates of theirs.
    n_samples
        All people.
    """

    people: NDArray[np.int64]
    q: NDArray[np.float32]
    n_samples: int

    @property
    def is_whole(self) -> bool:
        """Whether it is everyone."""
        return len(self.people) == self.n_samples

    @property
    def n_free(self) -> int:
        """Dimensions that the covariates leave."""
        return len(self.people) - int(self.q.shape[1])

    def adjust(self, b: NDArray[np.float32]) -> NDArray[np.float32]:
        """Columns of all people: 0 for others than these, adjusted for the covariates."""
        out = np.zeros_like(b)
        mine = b[self.people]
        out[self.people] = mine - self.q @ (self.q.T @ mine)
        return out


class Relationship:
    """Products with the relationship of the people, by all variants but a chromosome's.

    Parameters
    ----------
    blocks
        A new iterator each time: number of the chromosome and standardised variants (n_variants,
        n_samples) of each block.
    n_variants : (n_chromosomes,)
        Of each chromosome.
    n_samples
        Number of people.
    """

    def __init__(
        self,
        blocks: Callable[[], Iterator[tuple[int, NDArray[np.float32]]]],
        n_variants: NDArray[np.int64],
        n_samples: int,
    ) -> None:
        self.blocks = blocks
        self.n_variants = n_variants
        n_chromosomes = len(n_variants)
        self.kept: NDArray[np.float32] | None = None
        if 4 * (n_chromosomes + 1) * n_samples**2 <= MAX_KEPT_BYTES:
            kept = np.zeros((n_chromosomes + 1, n_samples, n_samples), dtype=np.float32)
            for chromosome, x in blocks():
                kept[chromosome] += x.T @ x
            kept[-1] = kept[:-1].sum(axis=0)
            np.subtract(kept[-1], kept[:-1], out=kept[:-1])  # in place, for it is large
            kept /= self._counts()[:, None, None].astype(np.float32)
            self.kept = kept

    def _counts(self) -> NDArray[np.int64]:
        """Variants of all chromosomes but each, and of all."""
        total = self.n_variants.sum()
        return np.append(total - self.n_variants, total)

    def product(self, left_out: NDArray[np.int64]) -> mixed_model.Product:
        """K times columns, for each column without the chromosome of that number, −1 for none."""
        left_out = np.where(left_out < 0, len(self.n_variants), left_out)

        def from_memory(b: NDArray[np.float32]) -> NDArray[np.float32]:
            assert self.kept is not None
            out = np.empty_like(b)
            for chromosome in np.unique(left_out):
                mine = left_out == chromosome
                out[:, mine] = self.kept[chromosome] @ b[:, mine]
            return out

        def from_blocks(b: NDArray[np.float32]) -> NDArray[np.float32]:
            out = np.zeros_like(b)
            for chromosome, x in self.blocks():
                scores = x @ b  # (V, columns)
                scores[:, left_out == chromosome] = 0
                out += x.T @ scores
            return np.asarray(out / self._counts()[left_out].astype(np.float32))

        return from_blocks if self.kept is None else from_memory


@dataclass(frozen=True)
class _Columns:
    """Columns that are multiplied with the relationship.

    Attributes
    ----------
    values : float32, (n_samples, n_columns)
        0 for who does not belong to the column's group.
    group : (n_columns,) or one for all
        Number of the group of people within which it is multiplied; −1 for everyone.
    left_out : (n_columns,) or one for all
        Number of the chromosome that is left out; −1 for none.
    """

    values: NDArray[np.float32]
    group: NDArray[np.int64] | int = -1
    left_out: NDArray[np.int64] | int = -1

    @classmethod
    def joined(cls, batches: Iterable[_Columns]) -> _Columns:
        """Side by side."""
        batches = list(batches)
        values, group, left_out = zip(
            *((b.values, b._each(b.group), b._each(b.left_out)) for b in batches), strict=True
        )
        return cls(np.concatenate(values, axis=1), np.concatenate(group), np.concatenate(left_out))

    def __getitem__(self, columns: slice | NDArray[np.bool_]) -> _Columns:
        """Some of them."""
        return _Columns(
            self.values[:, columns],
            self._each(self.group)[columns],
            self._each(self.left_out)[columns],
        )

    def _each(self, of_column: NDArray[np.int64] | int) -> NDArray[np.int64]:
        return np.broadcast_to(np.asarray(of_column, dtype=np.int64), self.values.shape[1:])

    def product(self, relationship: Relationship, groups: list[_Group]) -> mixed_model.Product:
        """Products with what is like these columns, among the people of their groups."""
        whole = relationship.product(self._each(self.left_out))
        number = self._each(self.group)
        part = [g for g in np.unique(number) if g >= 0 and not groups[g].is_whole]

        def within(b: NDArray[np.float32]) -> NDArray[np.float32]:
            out = whole(b)
            for g in part:
                out[:, number == g] = groups[g].adjust(out[:, number == g])
            return out

        return within


def fit_mixed(study: Study, limits: VariantFilter, seed: int) -> MixedFit:
    """Fit the mixed model of all traits, without each chromosome in turn.

    The variance of a test, x'V⁻¹x, is that of a variant x with the mean ratio of it to x'x
    (GRAMMAR-Gamma): the mean over variants of the chromosome that is tested, which take no part in
    V, among the people who have the trait. Variants of X, Y and mitochondria are inherited in
    another way than V says, so they have a ratio of their own.

    Parameters
    ----------
    study
        People, traits, covariates and genotypes, of which only the variants that are used are left.
    limits
        Of these variants.
    seed
        Of the noise, and of the choice of variants for the mean ratio.

    Raises
    ------
    InputError
        No trait can be tested, there are less than two autosomes, or the model is not solved.
    """
    source, n_samples = study.source, len(study.people)
    index = source.sample_index(study.people)
    sex = source.samples["sex"].to_numpy()[index]
    matrix, _, _ = design_matrix(study.columns)
    model = kernel.fit_null(study.trait_values, matrix)
    tested = [k for k in range(len(study.traits)) if k not in model.excluded]
    if not tested:
        raise InputError(f"no trait can be tested: {next(iter(model.excluded.values()))}")
    groups = [
        _Group(people, np.linalg.qr(matrix[people])[0].astype(np.float32), n_samples)
        for people in (np.flatnonzero(group.has) for group in model.groups)
    ]
    y = np.zeros((n_samples, len(study.traits)), dtype=np.float32)  # of unit variance; 0 missing
    y[:, model.trait_index] = model.y
    group_of = np.zeros(len(study.traits), dtype=np.int64)
    for g, group in enumerate(model.groups):
        group_of[group.trait_index] = g
    y, group_of = y[:, tested], group_of[tested]

    _keep_variants(source, index, sex, limits)
    pieces = _pieces(source)
    autosomal = [piece for piece in pieces if ploidy_of(piece[0]) is Ploidy.DIPLOID]
    chromosomes = list(dict.fromkeys(name for name, _, _ in autosomal))
    if len(chromosomes) < 2:
        raise InputError(
            f"{source.path}: variants of {len(chromosomes)} autosomes; to leave one out, two are "
            "needed"
        )
    number = {name: c for c, name in enumerate(chromosomes)}
    q = np.linalg.qr(matrix)[0].astype(np.float32)

    def blocks() -> Iterator[tuple[int, NDArray[np.float32]]]:
        for name, start, stop in autosomal:
            yield number[name], mixed_model.standardize(source.read(start, stop, index), q)

    of_piece = np.array([number[name] for name, _, _ in autosomal])
    sizes = np.array([stop - start for _, start, stop in autosomal])
    n_variants = np.bincount(of_piece, weights=sizes).astype(np.int64)
    relationship = Relationship(blocks, n_variants, n_samples)

    rng = np.random.default_rng(seed)
    tested_there = dict.fromkeys(chromosomes, _Group(np.arange(n_samples), q, n_samples))
    tested_there |= _others(study, sex, pieces)
    variants = {
        name: _Columns(
            _random_variants(source, index, group, [p for p in pieces if p[0] == name], rng),
            left_out=number.get(name, -1),
        )
        for name, group in tested_there.items()
    }
    h2, ratio = _fit_variances(relationship, groups, _Columns(y, group_of), variants, rng)

    # every trait without each chromosome, and with all
    n_fits = len(chromosomes) + 1
    every = _Columns(
        np.tile(y, n_fits),
        np.tile(group_of, n_fits),
        np.repeat([*range(len(chromosomes)), -1], len(tested)),
    )
    product = every.product(relationship, groups)
    try:
        solved = mixed_model.solve(product, every.values, np.tile(h2, n_fits))
    except ArithmeticError as error:
        raise InputError(
            f"{source.path}: the mixed model is not solved ({error}); name more variants, "
            "independent and of good quality, by --extract"
        ) from error
    shared = product(solved).reshape(n_samples, n_fits, len(tested))
    solved = solved.reshape(shared.shape)

    residuals, se_scale, trait_correlation = {}, {}, {}
    sd = model.trait_residual_sd[tested]
    has = np.isfinite(study.trait_values[:, tested])
    n_free = np.array([groups[g].n_free for g in group_of])  # (T,)
    for name, gamma in ratio.items():
        fit = number.get(name, -1)
        p = solved[:, fit]  # (N, T)
        variance = (y * p).sum(axis=0, dtype=np.float64) / n_free
        spread = np.square(p).sum(axis=0, dtype=np.float64) / n_free
        residuals[name] = np.where(has, p / gamma * sd, np.nan).astype(np.float32)
        se_scale[name] = np.sqrt(variance * gamma / spread)
        trait_correlation[name] = mixed_model.score_correlation(p, shared[:, fit])
    return MixedFit(
        [study.traits[k] for k in tested],
        *(residuals, se_scale, trait_correlation, h2, int(n_variants.sum())),
    )


def _others(
    study: Study, sex: NDArray[np.int8], pieces: list[tuple[str, int, int]]
) -> dict[str, _Group]:
    """Who is tested on each chromosome that is not diploid, adjusted for what; not too few."""
    groups = {}
    for name in dict.fromkeys(name for name, _, _ in pieces):
        ploidy = ploidy_of(name)
        chosen = ploidy.people(sex)
        if ploidy is Ploidy.DIPLOID or chosen.sum() < study.columns.shape[1] + 3:
            continue
        design, _, _ = design_matrix(ploidy.covariates(study.columns[chosen], sex[chosen]))
        if len(design) > design.shape[1] + 1:
            q = np.linalg.qr(design)[0].astype(np.float32)
            groups[name] = _Group(np.flatnonzero(chosen), q, len(sex))
    return groups


def _fit_variances(
    relationship: Relationship,
    groups: list[_Group],
    traits: _Columns,
    variants: dict[str, _Columns],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Heritability of each trait, and the mean of x'V⁻¹x / x'x over variants x.

    All that is needed comes from one quadrature, and so from the same readings of the genotypes.

    Parameters
    ----------
    relationship, groups
        Of the people, and who has the same traits.
    traits
        Of unit variance, each within its group.
    variants
        By chromosome, some of those that are tested there.
    rng
        Of the noise that determinants are estimated from.

    Returns
    -------
    (h2, ratio)
        (n_traits,), and by chromosome and `ALL` (n_traits,).
    """
    n_samples = len(traits.values)
    kinds = {ALL: [name for name, columns in variants.items() if np.all(columns.left_out != -1)]}
    kinds |= {name: [name] for name in variants if name not in kinds[ALL]}
    batches: dict[tuple[str, ...], _Columns] = {("traits",): traits}
    batches |= {("variants", name): columns for name, columns in variants.items()}
    for g, group in enumerate(groups):
        noise = rng.standard_normal((n_samples, _n_probes(len(group.people))))
        batches["noise", str(g)] = _Columns(group.adjust(noise.astype(np.float32)), g)
        if group.is_whole:
            continue
        for kind, names in kinds.items():  # few variants, among everyone and among the group
            few = -(-_n_probes(n_samples) // len(names))
            some = _Columns.joined(variants[name][:few] for name in names)
            own = _Columns(group.adjust(some.values), g, some.left_out)
            varies = np.square(own.values).sum(axis=0) > 1e-3 * len(group.people)
            batches["everyone", kind, str(g)] = some[varies]
            batches["group", kind, str(g)] = own[varies]
    joined = _Columns.joined(batches.values())
    quadrature = mixed_model.lanczos(joined.product(relationship, groups), joined.values)
    ends = np.cumsum([columns.values.shape[1] for columns in batches.values()])
    found = {
        key: quadrature[end - columns.values.shape[1] : end]
        for (key, columns), end in zip(batches.items(), ends, strict=True)
    }

    h2 = np.empty(traits.values.shape[1])
    # the mean within a trait's group, relative to everyone's
    relative = {kind: np.ones(len(h2)) for kind in kinds}
    for g, group in enumerate(groups):
        members = np.flatnonzero(np.equal(traits.group, g))
        h2[members] = mixed_model.heritability(found["traits",][members], found["noise", str(g)])
        if not group.is_whole:
            for kind in kinds:
                relative[kind][members] = _mean_ratio(
                    found["group", kind, str(g)], h2[members]
                ) / _mean_ratio(found["everyone", kind, str(g)], h2[members])
    ratio = {
        name: relative[kind] * _mean_ratio(found["variants", name], h2)
        for kind, names in kinds.items()
        for name in names
    }
    return h2, ratio | {ALL: np.mean([ratio[name] for name in kinds[ALL]], axis=0)}


def _mean_ratio(variants: mixed_model.Quadrature, h2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of x'V⁻¹x / x'x at each h; 1 where there is no variant to tell."""
    if len(variants.squares) == 0:
        return np.ones(len(h2))
    return np.array([(variants.inverse(h) / variants.squares).mean() for h in h2])


def _n_probes(n_people: int) -> int:
    """Columns that a mean is taken over."""
    return min(max(MIN_PROBES, -(-PROBE_VALUES // n_people)), MAX_PROBES)


def _random_variants(
    source: Genotypes,
    index: NDArray[np.int64],
    group: _Group,
    pieces: list[tuple[str, int, int]],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Some variants of a chromosome as columns, as the people who are tested there have them."""
    rows = np.concatenate([np.arange(start, stop) for _, start, stop in pieces])
    chosen = rng.choice(rows, min(_n_probes(group.n_samples), len(rows)), replace=False)
    # in random order: the first few are random as well
    people = index[group.people]
    x = np.concatenate(
        [
            mixed_model.standardize(source.read(row, row + 1, people), group.q)
            for row in map(int, chosen)
        ]
    )
    columns = np.zeros((group.n_samples, len(x)), dtype=np.float32)
    columns[group.people] = x.T
    return columns


def _keep_variants(
    source: Genotypes, index: NDArray[np.int64], sex: NDArray[np.int8], limits: VariantFilter
) -> None:
    """Go on with the variants that vary among the people who are tested, within the limits."""
    pieces = _pieces(source)
    chosen = np.zeros(source.n_variants, dtype=bool)
    counts = np.zeros(len(variant_qc.REASON_NAMES), dtype=np.int64)
    for name, start, stop in progress(pieces, "variants", len(pieces)):
        ploidy = ploidy_of(name)
        tested = ploidy.people(sex)
        moments = variant_qc.summarize(source.read(start, stop, index[tested]))
        reasons = limits.reasons(moments, int(tested.sum()), copies=ploidy.copies(sex[tested]))
        counts += np.bincount(reasons, minlength=len(counts))
        chosen[start:stop] = (reasons == variant_qc.KEPT) & (moments[:, variant_qc.CONSTANT] == 0)
    for name, count in zip(variant_qc.REASON_NAMES, counts, strict=True):
        if count:
            log.info("variants, %s: %d", name.replace("_", " "), count)
    source.select_variants(chosen)


def _pieces(source: Genotypes) -> list[tuple[str, int, int]]:
    """Chromosome, first and last row (exclusive) of blocks of about equal size."""
    names = source.variants["chromosome"].to_numpy()
    if len(names) == 0:
        return []
    edges = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1), len(names)]
    pieces = []
    for begin, end in pairwise(map(int, edges)):
        n_blocks = -(-(end - begin) // BLOCK_VARIANTS)
        inner = np.linspace(begin, end, n_blocks + 1).astype(int)
        pieces += [(str(names[begin]), int(a), int(b)) for a, b in pairwise(inner)]
    return pieces
