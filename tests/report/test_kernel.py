"""Outliers, thinning, quantiles, places: against closed forms, SciPy and planted truth."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from axoloci.tasks.report import figures, kernel


def test_order_chromosomes__goes_by_number_then_by_custom() -> None:
    names = ["MT", "10", "X", "2", "scaffold_b", "1", "scaffold_a", "2"]
    ordered = ["1", "2", "10", "X", "MT", "scaffold_b", "scaffold_a"]
    assert kernel.order_chromosomes(names) == ordered


def test_label_chromosomes__names_those_of_people_alone() -> None:
    human = kernel.order_chromosomes(["26", "25", "23", "2", "24", "MT"])
    assert kernel.label_chromosomes(human) == ["2", "X", "Y", "XY", "MT", "MT"]
    assert kernel.label_chromosomes(["1", "23", "30"]) == ["1", "23", "30"]


def test_place_variants__keeps_distances_and_separates_chromosomes() -> None:
    chromosome = np.array([1, 0, 0, 1])
    place, edges = kernel.place_variants(chromosome, np.array([500, 1000, 3000, 700]))
    assert place[2] - place[1] == 2000
    assert place[3] - place[0] == 200
    assert edges[1, 0] > edges[0, 1]
    np.testing.assert_array_equal(edges[1], [place[0], place[3]])


def test_thin_points__keeps_all_that_is_small_and_one_per_pixel_of_the_rest() -> None:
    rng = np.random.default_rng(1)
    place = np.sort(rng.random(1_000_000))
    neg_log10_p = -np.log10(rng.random(1_000_000))
    kept = kernel.thin_points(place, neg_log10_p)
    assert set(np.flatnonzero(neg_log10_p >= 3)) <= set(kept.tolist())
    assert len(kept) < 0.35 * len(place)
    # the picture is the same: the same pixels are covered
    width, height = kernel.GRID[0] - 1, kernel.GRID[1] / 3
    span = place[neg_log10_p < 3]

    def pixels(rows: NDArray[np.int64]) -> set[tuple[int, int]]:
        low = rows[neg_log10_p[rows] < 3]
        across = (place[low] - place[0]) / (span - place[0]).max() * width
        up = neg_log10_p[low] * height
        return set(zip(across.astype(int).tolist(), up.astype(int).tolist(), strict=True))

    assert pixels(kept) == pixels(np.arange(len(place)))


def test_quantile_points__band_is_that_of_simulated_order_statistics() -> None:
    p = np.random.default_rng(2).random((4000, 200))
    ordered = np.sort(-np.log10(p), axis=1)[:, ::-1]
    expected, observed, band = kernel.quantile_points(-np.log10(p[0]))
    np.testing.assert_allclose(observed[:100], ordered[0, :100])
    assert (np.diff(expected) < 0).all()
    for rank in (1, 5, 50):
        inside = (ordered[:, rank - 1] >= band[rank - 1, 0]) & (
            ordered[:, rank - 1] <= band[rank - 1, 1]
        )
        assert inside.mean() == pytest.approx(0.95, abs=0.015)


def test_quantile_points__thins_many_variants() -> None:
    neg_log10_p = -np.log10(np.linspace(0, 1, 300_001)[1:])
    expected, observed, _ = kernel.quantile_points(neg_log10_p)
    assert len(expected) < 2100
    assert observed[0] == pytest.approx(np.log10(300_000))
    np.testing.assert_allclose(observed[100:], expected[100:], atol=0.005)


def test_spread_labels__moves_no_more_than_needed() -> None:
    place = np.array([1.0, 50.0, 50.5, 51.0, 99.5])
    spread = kernel.spread_labels(place, 5, 0, 100)
    assert np.diff(spread).min() >= 5 - 1e-9
    np.testing.assert_allclose(spread, [1, 45.5, 50.5, 55.5, 99.5])


def test_spread_labels__stays_within_its_range_even_if_crowded() -> None:
    spread = kernel.spread_labels(np.full(30, 97.0), 5, 0, 100)
    assert spread[0] >= 0
    assert spread[-1] <= 100 + 1e-9
    assert np.diff(spread).min() > 3
    assert kernel.spread_labels(np.empty(0), 5, 0, 100).size == 0


def test_cut__puts_left_left_and_front_up() -> None:
    volume = np.zeros((4, 5, 6))
    volume[0, 4, 2] = 1  # left, anterior
    assert np.argwhere(kernel.cut(volume, 2, 2)).tolist() == [[0, 0]]
    volume[3, 1, 5] = 2  # right, superior
    assert np.argwhere(kernel.cut(volume, 1, 1)).tolist() == [[0, 3]]


def test_choose_slices__lie_within_the_mask() -> None:
    mask = np.zeros((30, 30, 30), dtype=bool)
    mask[10:20, 5:12, 18:28] = True
    slices = kernel.choose_slices(mask)
    assert [axis for axis, _ in slices] == [2, 2, 2, 2, 2, 1, 0]
    for axis, index in slices:
        assert np.take(mask, index, axis=axis).any()


def test_compress__is_inverted_by_expand() -> None:
    y = np.array([0.0, 5, 20, 20.1, 300, 4000])
    np.testing.assert_allclose(figures._expand(figures._compress(y)), y)
    assert figures._compress(np.array([4000.0]))[0] < 150


@pytest.mark.parametrize("highest", [0.5, 9.0, 400.0])
def test_manhattan__draws_labels_without_overlap(highest: float) -> None:
    """Also with one variant, none significant, and p-values beyond underflow."""
    rng = np.random.default_rng(3)
    place = np.sort(rng.random(40)) * 1e8
    neg_log10_p = np.linspace(0.1, highest, 40)
    leads = [(float(place[i]), float(neg_log10_p[i]), f"rs{i}") for i in range(39, 9, -1)]
    edges = np.array([[0, 1e8]])
    figure = figures.manhattan(place, np.zeros(40, int), neg_log10_p, edges, ["1"], leads)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png")
    (axes,) = figure.axes
    starts = sorted(text.get_position()[0] for text in axes.texts)
    assert len(starts) == figures.MAX_LABELS
    assert np.diff(starts).min() > 0.02e8
    figures.manhattan(np.zeros(1), np.zeros(1, int), np.ones(1), np.zeros((1, 2)), ["1"]).savefig(
        io.BytesIO(), format="png"
    )


def test_through_brain__spreads_slices_over_the_mask() -> None:
    mask = np.zeros((20, 30, 40), dtype=bool)
    mask[5:16, 10:21, 4:25] = True
    assert kernel.through_brain(mask, 0, 1) == [10]
    assert kernel.through_brain(mask, 2, 3) == [9, 14, 19]
    assert kernel.through_brain(np.zeros((4, 4, 9), dtype=bool), 2, 1) == [4]


def test_cut__turns_colours_as_values() -> None:
    volume = np.random.default_rng(0).random((4, 5, 6, 3))
    for axis in range(3):
        coloured = kernel.cut(volume, axis, 2)
        for colour in range(3):
            alone = kernel.cut(volume[..., colour], axis, 2)
            np.testing.assert_array_equal(coloured[..., colour], alone)
