"""Figures by which representations are judged, beside those of statsmodels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from statsmodels.formula.api import ols
from statsmodels.multivariate.cancorr import CanCorr

from axoloci.errors import InputError
from axoloci.io.cohort import Cohort, Faults, read_cohort
from axoloci.io.nifti import write_nifti
from axoloci.io.packing import write_cohort
from axoloci.tasks.encoder import inputs
from axoloci.tasks.encoder.cli import main
from axoloci.tasks.encoder.judge import (
    canonical_correlations,
    correlation_by_chance,
    intraclass_correlation,
    root_mean_square,
    variance_explained,
)
from axoloci.tasks.encoder.model_file import read_model
from axoloci.tasks.encoder.representation import encode_maps


def test_canonical_correlations__equal_those_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 3))
    y = x @ rng.standard_normal((3, 5)) * 0.5 + rng.standard_normal((80, 5))
    expected = CanCorr(y - y.mean(axis=0), x - x.mean(axis=0)).cancorr
    np.testing.assert_allclose(canonical_correlations(x, y), expected, atol=1e-10)


def test_canonical_correlations__ignore_rotation_scale_shift_and_repeated_columns() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, 4))
    mixed = 3 + x @ rng.standard_normal((4, 4)) * 100
    np.testing.assert_allclose(canonical_correlations(x, mixed), np.ones(4), atol=1e-10)
    twice = np.column_stack((mixed, mixed[:, 0]))
    np.testing.assert_allclose(canonical_correlations(x, twice), np.ones(4), atol=1e-10)
    unlike = canonical_correlations(x, rng.standard_normal((60, 2)))
    assert unlike.shape == (2,)
    assert unlike.max() < 0.6


def test_canonical_correlations__refuse_too_few_people() -> None:
    x = np.random.default_rng(2).standard_normal((9, 8))
    with pytest.raises(InputError, match=r"9 people are too few to compare 4 and 4 .* 28 are"):
        canonical_correlations(x[:, :4], x[:, 4:])


def test_canonical_correlations__a_column_of_one_value_is_in_common_with_nothing() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((60, 2)), rng.standard_normal((60, 3))
    same = np.full(60, 45.3)  # its mean is off by rounding
    found = canonical_correlations(np.column_stack((x, same)), np.column_stack((y, same)))
    np.testing.assert_allclose(found, canonical_correlations(x, y), atol=1e-12)
    assert canonical_correlations(same[:, None], y).shape == (0,)
    assert np.isnan(root_mean_square(canonical_correlations(same[:, None], y)))


@pytest.mark.parametrize("n_repeated", [0, 5])
def test_correlation_by_chance__is_the_root_mean_square_of_shuffled_people(n_repeated: int) -> None:
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((90, 20)), rng.standard_normal((90, 30))
    y = np.column_stack((y, y[:, :n_repeated], np.full(90, 45.3)))  # columns that tell nothing new
    by_chance = correlation_by_chance(x, y)
    shuffled = [canonical_correlations(x, rng.permutation(y)) for _ in range(40)]
    found = [root_mean_square(correlations) for correlations in shuffled]
    assert by_chance == pytest.approx(np.mean(found), abs=0.01)
    assert np.mean(shuffled) < by_chance - 0.03  # which is why it is not their mean
    alike = np.column_stack((y[:, :3], x[:, 3:]))  # three of one's 20 in common with the other
    assert root_mean_square(canonical_correlations(alike, y)) > max(found)


def test_intraclass_correlation__follows_from_statsmodels_analysis_of_variance() -> None:
    rng = np.random.default_rng(3)
    sessions = rng.standard_normal((24, 1)) + 0.6 * rng.standard_normal((24, 2)) + [0, 0.4]
    table = pd.DataFrame(
        [(person, k, sessions[person, k]) for person in range(24) for k in range(2)],
        columns=["person", "session", "latent"],
    )
    anova = sm.stats.anova_lm(ols("latent ~ C(person) + C(session)", table).fit())
    between, shift, error = anova["sum_sq"] / anova["df"]
    expected = (between - error) / (between + error + 2 * (shift - error) / 24)
    found = intraclass_correlation(sessions[:, :1], sessions[:, 1:])
    np.testing.assert_allclose(found, [expected], rtol=1e-10)


def test_intraclass_correlation__is_the_planted_share_of_variance_and_counts_a_shift() -> None:
    rng = np.random.default_rng(3)
    person = rng.standard_normal((20_000, 2))
    noise = rng.standard_normal((2, 20_000, 2)) * [0.5, 1.0]
    found = intraclass_correlation(person + noise[0], person + noise[1])
    np.testing.assert_allclose(found, [0.8, 0.5], atol=0.01)
    moved = intraclass_correlation(person + noise[0], person + noise[1] + 1.0)
    np.testing.assert_allclose(moved, [1 / (1.25 + 0.5), 1 / 2.5], atol=0.01)
    with pytest.raises(InputError, match="19 people are too few with two sessions"):
        intraclass_correlation(person[:19], person[:19])


def test_variance_explained__equals_adjusted_r2_of_statsmodels() -> None:
    rng = np.random.default_rng(4)
    covariates = rng.standard_normal((50, 3))
    latents = covariates @ rng.standard_normal((3, 4)) + rng.standard_normal((50, 4))
    expected = [sm.OLS(y, sm.add_constant(covariates)).fit().rsquared_adj for y in latents.T]
    np.testing.assert_allclose(variance_explained(latents, covariates), expected, atol=1e-12)
    again = np.column_stack((covariates, covariates[:, 0] - covariates[:, 1]))  # says nothing new
    np.testing.assert_allclose(variance_explained(latents, again), expected, atol=1e-12)
    with pytest.raises(InputError, match=r"23 people .* 4 independent covariates .* 24 are"):
        variance_explained(latents[:23], rng.standard_normal((23, 4)))


def test_variance_explained__asks_for_no_more_people_because_of_levels_that_nobody_has() -> None:
    rng = np.random.default_rng(8)
    site = np.repeat([0, 1], 12)
    latents = rng.standard_normal((24, 2)) + site[:, None]
    levels = np.zeros((24, 9))  # of nine sites two are here
    levels[np.arange(24), 3 + site] = 1
    same = np.full((24, 1), 45.3)  # its mean is off by rounding
    covariates = np.column_stack((levels, same))
    expected = [sm.OLS(y, sm.add_constant(site)).fit().rsquared_adj for y in latents.T]
    np.testing.assert_allclose(variance_explained(latents, covariates), expected, atol=1e-12)
    np.testing.assert_allclose(variance_explained(latents, same), [0, 0], atol=1e-12)
    assert np.isnan(variance_explained(same, levels)).all()
    with pytest.raises(InputError, match="0 people are too few"):
        variance_explained(latents[:0], covariates[:0])


# --- the command ----------------------------------------------------------------------------------

INSIDE = np.ones((8, 9, 7), dtype=bool)
HALF = (np.argwhere(INSIDE)[:, 0] >= 4).astype(np.intp)  # (n_voxels,)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
MEASURED = [
    "reconstruction_r2",
    "test_retest_icc",
    "covariates_r2",
    "n_with_repeats",
    "n_with_covariates",
]


def people(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{k:03d}" for k in range(n)]


def maps(factors: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Maps in which two halves of a box vary by factors (n, 2)."""
    noise = 0.01 * np.random.default_rng(seed).standard_normal((len(factors), len(HALF)))
    base = 0.4 + 0.1 * np.sin(np.arange(len(HALF)))
    return np.asarray(base + 0.02 * (factors * [1.5, 0.7])[:, HALF] + noise)


def drawn(n: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((n, 2))


def store(path: Path, ids: Sequence[str], rows: NDArray[np.float64]) -> Path:
    write_cohort(path, ids, rows.__getitem__, INSIDE, AFFINE)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def fit(cohort: Path, model: Path, *more: object) -> Path:
    files = ("--out", model, "--history", model.with_suffix(".tsv"), "--device", "cpu")
    size = () if "--atlas" in more else ("--n-latents", 2)
    result = run("fit-linear", "--cohort", cohort, *files, *size, *more)
    assert result.exit_code == 0, result.output
    return model


def judge(cohort: Path, models: Sequence[Path], out: Path, *more: object) -> Result:
    given = [part for model in models for part in ("--model", model)]
    return run("judge", "--cohort", cohort, *given, "--out", out, "--device", "cpu", *more)


def judged(cohort: Path, models: Sequence[Path], *more: object) -> pd.DataFrame:
    out = cohort.with_suffix(".judged")
    result = judge(cohort, models, out, *more)
    assert result.exit_code == 0, result.output
    return pd.read_csv(out / "representations.tsv", sep="\t")


def write_pairs(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    pd.DataFrame(pairs, columns=["first", "second"]).to_csv(path, sep="\t", index=False)
    return path


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """People who are trained on: 90, and 10 held out."""
    return store(tmp_path / "known.zarr", people("p", 100), maps(drawn(100, 0), 0))


def test_judge__finds_what_is_planted_in_people_none_of_the_models_has_seen(
    known: Path, tmp_path: Path
) -> None:
    atlas = np.where(np.arange(8)[:, None, None] < 4, 1, 2) * np.ones((8, 9, 7), dtype=np.float32)
    write_nifti(tmp_path / "atlas.nii.gz", atlas.astype(np.float32), AFFINE)
    models = [
        fit(known, tmp_path / "one.safetensors", "--bandwidth", 0),
        fit(known, tmp_path / "two.safetensors", "--bandwidth", 0),
        fit(known, tmp_path / "tracts.safetensors", "--atlas", tmp_path / "atlas.nii.gz"),
    ]
    factors, changed = drawn(60, 1), 0.5 * drawn(30, 2)
    both = np.concatenate((factors, factors[:30] + changed))  # 30 people come again, changed
    first, second = people("q", 60), people("again", 30)
    others = store(tmp_path / "others.zarr", [*first, *second], maps(both, 1))
    pairs = write_pairs(tmp_path / "pairs.tsv", list(zip(first, second, strict=False)))
    covariates = pd.DataFrame({"IID": first, "age": factors[:, 0]})
    covariates.to_csv(tmp_path / "c.tsv", sep="\t", index=False)
    tables = ("--covariates", tmp_path / "c.tsv", "--repeats", pairs)
    table = judged(others, models, *tables)
    assert set(table.people) == {"unseen"}
    assert set(table.n_people) == {60}  # a person counts once
    assert set(table.n_with_repeats) == {30}
    assert set(table.n_with_covariates) == {60}
    # what differs between z-scored maps is the halves' difference, a little more than the noise
    assert (table.reconstruction_r2.between(0.55, 0.7)).all()
    latents = pd.read_csv(tmp_path / "others.judged" / "latents.tsv", sep="\t")
    assert list(latents.latent) == ["component_000", "component_001"] * 3
    assert set(latents.people) == {"unseen"}
    assert latents.test_retest_icc.between(0.6, 0.95).all()  # 1 / (1 + 0.25 / 2), more or less
    of_tracts = latents[latents.model == str(models[2])]
    assert of_tracts.covariates_r2.iloc[0] > 0.9  # the first half's factor is the covariate
    assert of_tracts.covariates_r2.iloc[1] < 0.1
    stability = pd.read_csv(tmp_path / "others.judged" / "stability.tsv", sep="\t")
    assert list(stability.n_people) == [60] * 3
    assert (stability.rms_canonical_correlation > 0.99).all()  # all find the halves
    np.testing.assert_allclose(stability.rms_by_chance, np.sqrt(2 / 59), rtol=1e-6)


def test_judge__tells_stability_and_chance_by_the_same_statistic(
    known: Path, tmp_path: Path
) -> None:
    more = store(tmp_path / "more.zarr", people("m", 100), maps(drawn(100, 4), 4))
    others = store(tmp_path / "others.zarr", people("q", 60), maps(drawn(60, 1), 1))
    size = ("--bandwidth", 0, "--n-latents", 4)  # the last two are noise: unlike in both
    models = [fit(cohort, cohort.with_suffix(".safetensors"), *size) for cohort in (known, more)]
    judged(others, models)
    (stability,) = pd.read_csv(tmp_path / "others.judged" / "stability.tsv", sep="\t").itertuples()
    one, other = (
        encode_maps(read_model(model).representation, read_cohort(others).rows, np.arange(60))
        for model in models
    )
    latents = [each.latents - each.latents.mean(axis=0) for each in (one, other)]
    correlations = CanCorr(*latents).cancorr
    expected = np.sqrt((correlations**2).mean())
    assert expected > correlations.mean() + 0.05
    assert stability.rms_canonical_correlation == pytest.approx(expected, abs=1e-4)
    assert stability.rms_by_chance == pytest.approx(np.sqrt(4 / 59))


def test_judge__takes_no_figure_of_people_in_training(known: Path, tmp_path: Path) -> None:
    models = [fit(known, tmp_path / f"{name}.safetensors") for name in "ab"]
    unseen, rows = [*people("q", 60), *people("r", 25)], maps(drawn(85, 1), 1)
    alone = store(tmp_path / "alone.zarr", unseen, rows)
    seen, theirs = [*people("p", 100), *people("s", 40)], maps(drawn(140, 3), 3)
    mixed = store(tmp_path / "mixed.zarr", [*seen, *unseen], np.concatenate((theirs, rows)))
    pairs = [*zip(people("q", 25), people("r", 25), strict=True)]
    tables = []
    for name, more in (
        ("alone", []),
        ("mixed", [*zip(people("p", 40), people("s", 40), strict=True)]),
    ):
        pairs_path = write_pairs(tmp_path / f"{name}.pairs.tsv", [*more, *pairs])
        ids = unseen if name == "alone" else [*seen, *unseen]
        age = np.random.default_rng(5).standard_normal(85)
        ages = pd.DataFrame({"IID": ids, "age": [*np.zeros(len(ids) - 85), *age]})
        ages.to_csv(tmp_path / f"{name}.c.tsv", sep="\t", index=False)
        tables.append(("--repeats", pairs_path, "--covariates", tmp_path / f"{name}.c.tsv"))
    np.testing.assert_array_equal(
        judged(alone, models, *tables[0])[[*MEASURED, "n_people"]],
        judged(mixed, models, *tables[1])[[*MEASURED, "n_people"]],
    )
    for name in ("stability.tsv", "latents.tsv"):
        one, other = (path.with_suffix(".judged") / name for path in (alone, mixed))
        assert one.read_text() == other.read_text()


def test_judge__takes_other_sessions_of_people_in_training_for_seen(
    known: Path, tmp_path: Path
) -> None:
    model = [fit(known, tmp_path / "m.safetensors")]
    rows = maps(drawn(90, 1), 1)
    by_id = [f"sub-p{k:03d}_ses-2" for k in range(40)]  # BIDS: of those in training
    by_table = people("visit", 20)
    strangers = [f"q{k:03d}_ses-{session}" for k in range(25) for session in (1, 2)][:30]
    cohort = store(tmp_path / "c.zarr", [*by_id, *by_table, *strangers], rows)
    assert judged(cohort, model).n_people.item() == 20 + 15
    # p050, who was trained on, is not in the store, but says whose the visits are
    chain = [("p050", "visit000"), *pairwise(by_table)]
    pairs = write_pairs(tmp_path / "pairs.tsv", chain)
    result = judge(cohort, model, tmp_path / "out", "--repeats", pairs)
    assert result.exit_code == 1  # 15 people of two sessions each are left
    assert "15 of its people are unseen by the models" in result.output
    assert "knows a person's sessions by ids such as 01_ses-2, not by --repeats" in result.output


def test_judge__falls_back_on_people_held_out_and_refuses_fewer_than_20(tmp_path: Path) -> None:
    ids, rows = people("p", 200), maps(drawn(219, 0), 0)
    cohort = store(tmp_path / "c.zarr", ids, rows[:200])
    models = [fit(cohort, tmp_path / f"{name}.safetensors") for name in "ab"]
    table = judged(cohort, models)
    assert list(table.people) == ["held out"] * 2
    assert list(table.n_people) == [20] * 2
    assert table.test_retest_icc.isna().all()
    more = store(tmp_path / "more.zarr", [*ids, *people("q", 19)], rows)
    table = judged(more, models)
    assert list(table.people) == ["held out"] * 2  # 19 unseen are too few, who count here too
    assert list(table.n_people) == [39] * 2
    other_seed = fit(cohort, tmp_path / "c.safetensors", "--seed", 1)
    result = judge(cohort, [*models, other_seed], tmp_path / "out")
    assert result.exit_code == 1
    assert "0 of its people are unseen by the models" in result.output
    assert "at least 20 are needed: judge them on other people" in result.output
    assert "all on one store and with one seed" in result.output
    assert "--repeats" not in result.output
    assert not (tmp_path / "out").exists()


def test_judge__people_held_out_are_so_in_all_their_sessions(tmp_path: Path) -> None:
    first, second = ([f"sub-{k:03d}_ses-{session}" for k in range(200)] for session in (1, 2))
    factors = drawn(200, 0)
    rows = maps(np.concatenate((factors, factors + 0.3 * drawn(200, 1))), 0)
    cohort = store(tmp_path / "c.zarr", first, rows[:200])
    models = [fit(cohort, tmp_path / f"{name}.safetensors") for name in "ab"]  # one seed
    both = store(tmp_path / "both.zarr", [*first, *second], rows)
    pairs = list(zip(first, second, strict=True))
    table = judged(both, models, "--repeats", write_pairs(tmp_path / "pairs.tsv", pairs))
    assert list(table.people) == ["held out"] * 2
    assert list(table.n_people) == list(table.n_with_repeats) == [20] * 2


def test_judge__checks_no_map_twice_and_takes_people_held_out_where_others_are_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ids, rows = people("p", 200), maps(drawn(220, 0), 0)
    cohort = store(tmp_path / "c.zarr", ids, rows[:200])
    model = [fit(cohort, tmp_path / "m.safetensors")]
    rows[200:] = 0.5
    more = store(tmp_path / "more.zarr", [*ids, *people("q", 20)], rows)
    checked: list[str] = []
    check = inputs.check_cohort

    def watched(cohort: Cohort, watch: Any) -> Faults:
        checked.extend(cohort.sample_id)
        return check(cohort, watch)

    monkeypatch.setattr(inputs, "check_cohort", watched)
    table = judged(more, model)  # none of the 20 unseen can be used
    assert list(table.people) == ["held out"]
    assert list(table.n_people) == [20]
    fitted = read_model(model[0])
    assert sorted(checked) == sorted({*(fitted.seen - fitted.trained), *people("q", 20)})
    assert caplog.text.count("who are left out: q000") == 1


def test_judge__figures_of_too_few_are_not_available_and_the_log_says_why(
    known: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = [fit(known, tmp_path / "a.safetensors"), fit(known, tmp_path / "b.safetensors")]
    ids = people("q", 21)
    cohort = store(tmp_path / "c.zarr", [*ids, *people("p", 100)], maps(drawn(121, 1), 1))
    pairs = write_pairs(
        tmp_path / "pairs.tsv", list(zip(people("p", 50), people("p", 100)[50:], strict=True))
    )
    covariates = pd.DataFrame({"IID": people("p", 100), "age": drawn(100, 0)[:, 0]})
    covariates.to_csv(tmp_path / "c.tsv", sep="\t", index=False)
    table = judged(cohort, models, "--repeats", pairs, "--covariates", tmp_path / "c.tsv")
    assert list(table.n_people) == [21] * 2
    assert table.reconstruction_r2.notna().all()
    for column in ("test_retest_icc", "covariates_r2"):
        assert table[column].isna().all()
        assert f"a.safetensors: {column} is n/a: 0 people are too few" in caplog.text
    text = (tmp_path / "c.judged" / "stability.tsv").read_text()
    assert "\t21\tn/a\t" in text
    assert "rms_canonical_correlation is n/a: 21 people are too few to compare 2 and 2" in (
        caplog.text
    )


def test_judge__leaves_out_whose_maps_have_one_value(
    known: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = [fit(known, tmp_path / "m.safetensors")]
    rows = maps(drawn(30, 1), 1)
    rows[7] = 0.5
    cohort = store(tmp_path / "c.zarr", people("q", 30), rows)
    pairs = write_pairs(tmp_path / "pairs.tsv", [("q007", "q008")])
    assert judged(cohort, model, "--repeats", pairs).n_people.item() == 29
    assert "who are left out: q007" in caplog.text
