"""What is shared is about five people or more."""

from __future__ import annotations

import numpy as np
import pytest

from axoloci.tasks.report.sharing import (
    KINDS,
    OTHER,
    count_failures,
    histogram,
    kind_of_failure,
    say_count,
    summary,
)

NIFTI = (
    "axoloci-preprocess run, exit 1: /d/sub-9/x.nii.gz: the image data cannot be read, the file "
    "may be truncated: 3"
)


@pytest.mark.parametrize(("n", "text"), [(0, "0"), (1, "<5"), (4, "<5"), (5, "5"), (9999, "9,999")])
def test_say_count__hides_one_to_four(n: int, text: str) -> None:
    assert say_count(n) == text


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (NIFTI, "image file truncated or unreadable"),
        ("axoloci-dti fit, killed by SIGKILL: x", "killed, as when memory runs out"),
        ("/d/a.nii: the image has 3 volumes and the bval file 4 b-values", "b-values, directions "
         "and volumes do not match"),
        ("/d/a.nii: 3 values are NaN or infinite; mask them first", "values that are not finite"),
        ("the map of 4711 changed since it was made", OTHER),
        ("", OTHER),
    ],
)  # fmt: skip
def test_kind_of_failure__is_one_of_a_list(reason: str, kind: str) -> None:
    assert kind_of_failure(reason) == kind
    assert kind in (*KINDS, OTHER)


def test_count_failures__hides_small_kinds_and_what_would_tell_them() -> None:
    many = ["killed by SIGKILL"] * 6
    assert count_failures(many) == ([("killed, as when memory runs out", 6)], True)
    counts, exact = count_failures([*many, NIFTI, NIFTI])
    assert counts == [("killed, as when memory runs out", 6), (OTHER, 2)]
    assert not exact
    counts, exact = count_failures([*many, *[NIFTI] * 3, *["strange"] * 3])
    assert counts[1] == (OTHER, 6)
    assert exact
    assert count_failures([]) == ([], True)


def test_histogram__has_no_bar_of_fewer_than_five() -> None:
    values = np.append(np.random.default_rng(0).normal(0, 1, 400), [9.0, 9.1, -30.0])
    drawn = histogram(values)
    assert drawn is not None
    counts, edges = drawn
    assert ((counts == 0) | (counts >= 5)).all()
    assert counts.sum() > 350
    # neither end is the value of somebody
    assert np.abs(edges[[0, -1], None] - values).min() > 1e-3
    np.testing.assert_allclose(edges[[0, -1]].mean(), values.mean())


@pytest.mark.parametrize("values", [[], [1.0, 2, 3, 4], [1.0, 2, 3, 4, np.nan], [2.0] * 20])
def test_histogram__is_none_of_few_or_equal_values(values: list[float]) -> None:
    assert histogram(np.array(values)) is None


def test_summary__equals_numpy_and_is_none_of_few() -> None:
    values = np.random.default_rng(1).normal(size=50)
    found = summary(np.append(values, np.nan))
    assert found is not None
    np.testing.assert_allclose(found, (50, values.mean(), values.std(ddof=1)))
    assert summary(values[:4]) is None
