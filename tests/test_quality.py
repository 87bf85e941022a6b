"""The rules of quality: what they flag, and that a sound cohort has no flag."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from axoloci.quality import (
    FEWEST,
    LIMITS,
    PAIR_UNFIT,
    RELATIVE,
    Relative,
    absolute_flags,
    derived_figures,
    figure_of,
    judge,
    level_of,
    outliers,
    quality_figures,
    volume_faults,
)
from axoloci.statistics import robust_z

SOUND = {
    "mean_framewise_displacement": 1.0,
    "share_outlier_slices": 0.004,
    "neighbour_correlation_raw": 0.85,
    "neighbour_correlation": 0.9,
    "pair_correlation": 0.95,
    "mask_ml": 1450.0,
    "mean_fa": 0.25,
    "median_md": 7.9e-4,
    "share_implausible_voxels": 0.015,
    "similarity_warp": 0.85,
    "dice_brain": 0.93,
    "dice_white_matter": 0.75,
    "share_in_view": 0.98,
    "head_scale": 1.0,
    "gradient_frame_best": "as given",
    "shells_b1000": 30,
    "scanner": "A",
}


def cohort(n: int = 40, seed: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Sound scans that differ as people do."""
    rng = np.random.default_rng(seed)
    spread = {name: 0.03 for name, value in SOUND.items() if isinstance(value, float)}
    near_one = ("dice", "similarity", "pair_correlation", "neighbour_correlation", "share_in_view")
    spread |= {name: 0.01 for name in spread if name.startswith(near_one)}
    rows: list[dict[str, Any]] = []
    for _ in range(n):
        row = {k: SOUND[k] * (1 + s * rng.standard_normal()) for k, s in spread.items()}
        rows.append({**SOUND, **row, **more})
    return rows


def test_judge__a_sound_cohort_has_no_flag() -> None:
    assert all(flags == [] for seed in range(20) for flags in judge(cohort(seed=seed)))


def test_judge__scans_that_are_all_alike_have_no_outliers() -> None:
    """The spread is next to nothing: what is far by it is near by any other measure."""
    rows = [{**SOUND, "mean_fa": 0.25 + 1e-6 * k} for k in range(20)]
    rows[3]["mean_fa"] = 0.26
    rows[4]["mean_fa"] = 0.32
    flagged = [k for k, flags in enumerate(judge(rows)) if flags]
    assert flagged == [4]


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit.figure}-{limit.level}")
@pytest.mark.parametrize("side", ["low", "high"])
def test_absolute_flags__each_limit_holds_on_its_sides(limit: Any, side: str) -> None:
    at = getattr(limit, side)
    if at is None:
        return
    outward = 1 if side == "high" else -1
    for step, level in ((1e-6, limit.level), (-1e-6, None)):
        value = at * (1 + outward * step)
        flags = absolute_flags({**SOUND, limit.figure: value})
        if level is None:  # inside this limit; the graver one is not reached either
            assert all(f.level != limit.level for f in flags)
        else:
            assert [(f.figure, f.level) for f in flags] == [(limit.figure, level)]
            assert flags[0].why == limit.why


@pytest.mark.parametrize("frame", ["flip x", "permute xy, flip z"])
def test_absolute_flags__gradients_that_do_not_fit_are_wrong(frame: str) -> None:
    (flag,) = absolute_flags({**SOUND, "gradient_frame_best": frame})
    assert (flag.level, flag.text) == ("exclude", f"gradients: {frame}")


def test_absolute_flags__gradients_that_may_not_fit_are_to_be_looked_at() -> None:
    row = {**SOUND, "gradient_frame_best": "flip x", "gradient_frame_margin": 1.2}
    assert [flag.level for flag in absolute_flags(row)] == ["look"]
    assert absolute_flags({**row, "gradient_frame_best": "cannot be told"}) == []


def test_absolute_flags__a_pair_that_correction_does_not_make_alike() -> None:
    (flag,) = absolute_flags({**SOUND, "pair_correlation_raw": 0.5, "pair_correlation": 0.7})
    assert (flag.level, flag.text) == ("look", "correlation of the two b0s 0.700 (< 0.9)")
    assert flag.why.startswith("the b0 of reverse phase encoding is unlike the scan's")


def test_absolute_flags__a_pair_that_does_not_fit() -> None:
    """It may be as alike before as can be: the scan's own direction."""
    for correlation in (0.99, 0.5):
        row = {**SOUND, "pair_correlation": correlation, "distortion": PAIR_UNFIT}
        (flag,) = absolute_flags(row)
        assert str(flag) == "look: distortion: the reverse-phase b0 does not fit"
    assert absolute_flags({**SOUND, "distortion": "corrected"}) == []


def test_absolute_flags__a_field_of_view_that_ends_within_the_brain() -> None:
    (flag,) = absolute_flags({**SOUND, "share_in_view": 0.81})
    assert flag.level == "look"
    assert flag.text == "template's brain in the field of view 81.0 % (< 90)"


def test_absolute_flags__what_is_missing_breaks_no_rule() -> None:
    assert absolute_flags({}) == []
    assert absolute_flags(dict.fromkeys(SOUND, "n/a")) == []
    assert absolute_flags({"mean_fa": math.nan, "gradient_frame_best": math.nan}) == []


@pytest.mark.parametrize("rule", RELATIVE, ids=lambda rule: rule.figure)
def test_judge__relative_rules_look_at_the_side_that_matters(rule: Relative) -> None:
    rows = cohort(60)
    values = [row[rule.figure] for row in rows]
    far = max(2 * rule.least, 8 * 1.4826 * float(stats.median_abs_deviation(values)))
    rows[0][rule.figure] = np.median(values) + far
    rows[1][rule.figure] = np.median(values) - far
    expected = {"high": [0], "low": [1], "both": [0, 1]}[rule.side]
    found = [k for k, flags in enumerate(judge(rows)) if rule.figure in {f.figure for f in flags}]
    assert found == expected


def test_judge__compares_within_scanner_and_shells() -> None:
    """Scans of another scanner or shell have other figures, and are no outliers for it."""
    one, other = cohort(60, scanner="A"), cohort(10, 1, scanner="B", shells_b1000=0, shells_b3000=9)
    for row in other:
        row["median_md"] *= 0.7
    assert all(flags == [] for flags in judge([*one, *other]))
    mixed = [{**row, "scanner": "A", "shells_b1000": 30, "shells_b3000": 0} for row in other]
    assert sum(map(bool, judge([*one, *mixed]))) > 6
    assert all(flags == [] for flags in judge([*one, *other[: FEWEST - 1]]))


def test_judge__the_graver_flag_comes_first_and_counts() -> None:
    rows = cohort(20)
    rows[5] |= {"mean_fa": 0.7, "mean_framewise_displacement": 6.0}
    flags = judge(rows)[5]
    assert [flag.level for flag in flags] == ["exclude", "look"]
    assert level_of(flags) == "exclude"
    assert level_of(flags[1:]) == "look"
    assert level_of([]) is None
    assert str(flags[1]) == "look: mean motion 6.000 mm (> 3)"


def test_robust_z__equals_the_distance_in_scipys_mad() -> None:
    values = np.random.default_rng(0).gamma(2, 1, 101)
    scale = stats.median_abs_deviation(values, scale="normal")
    truth = (values - np.median(values)) / scale
    np.testing.assert_allclose(robust_z(values), truth, rtol=1e-4)


def test_robust_z__stands_missing_and_equal_values() -> None:
    assert np.isnan(robust_z(np.full(3, np.nan))).all()
    z = robust_z(np.array([1.0, 1, 1, 9, 0, np.nan]))
    assert z[:5].tolist() == [0, 0, 0, math.inf, -math.inf]
    assert np.isnan(z[5])


def test_outliers__calls_none_among_few_scans() -> None:
    rule = Relative("mean_fa", "both", 0.01)
    values = np.array([0.2] * (FEWEST - 2) + [0.9])
    assert not outliers(values, rule).any()
    assert outliers(np.append(values, 0.2), rule).tolist().count(True) == 1


def test_quality_figures__are_numbers_and_words_of_lower_case_keys() -> None:
    description = {
        "Description": "words",
        "Settings": {"max_bval": 1500},
        "mean_fa": 0.3,
        "distortion": "corrected",
        "gradient_frame": {"best": "as given", "margin": 0.1, "all": [1, 2]},
        "shells": [{"bval": 0.0, "n_volumes": 5}, {"bval": 995.0, "n_volumes": 30}],
        "snr": [{"bval": 0.0, "snr": 20.5}],
        "cnr": [{"bval": 995.0, "cnr": 2.5}],
        "steps": [{"name": "denoise", "seconds": 3.0}],
        "is_sound": True,
    }
    assert quality_figures(description) == {
        "mean_fa": 0.3,
        "distortion": "corrected",
        "gradient_frame_best": "as given",
        "gradient_frame_margin": 0.1,
        "shells_b0": 5,
        "shells_b1000": 30,
        "snr_b0": 20.5,
        "cnr_b1000": 2.5,
    }


def test_derived_figures__share_of_implausible_voxels() -> None:
    given = {"n_voxels": "2000", "n_implausible_voxels": "50"}
    assert derived_figures(given) == {"share_implausible_voxels": 0.025}
    assert derived_figures({"n_implausible_voxels": 3}) == {}
    assert derived_figures({"n_voxels": 0, "n_implausible_voxels": 0}) == {}


def test_volume_faults__names_what_is_wrong_with_a_volume() -> None:
    assert volume_faults(0.4, 0.1) == volume_faults(0.4, math.nan) == ""
    assert volume_faults(6.0, 0.5) == "50% of its slices replaced, moved by 6.0 mm"


def test_figure_of__has_words_for_every_rule() -> None:
    for rule in (*LIMITS, *RELATIVE):
        assert "_" not in figure_of(rule.figure).label
    assert figure_of("snr_b0").label == "SNR at b = 0"
    assert figure_of("cnr_b1000").label == "CNR at b = 1000"
