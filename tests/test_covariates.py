"""Covariates as a formula makes them, against statsmodels' reading of R's formulas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from axoloci.covariates import design_matrix, formula_columns, formula_variables, plain_formula
from axoloci.errors import InputError


@pytest.fixture
def covariates() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 60
    table = pd.DataFrame({"age": rng.uniform(20, 80, n), "sex": rng.integers(0, 2, n) * 1.0})
    table["site"] = pd.Series(rng.choice(["b", "a", "c"], n, p=[0.6, 0.2, 0.2]), dtype=object)
    table["batch"] = rng.integers(3, 6, n) * 1.0
    return table.join(pd.DataFrame(rng.normal(size=(n, 12))).rename(columns=lambda k: f"PC{k + 1}"))


def test_plain_formula__powers_and_ranges() -> None:
    assert plain_formula("age + age**2+sex") == "age + {age**2}+sex"
    assert plain_formula("PC1:PC3 + sex:age") == "(PC1 + PC2 + PC3) + sex:age"
    assert plain_formula("PC3:PC1") == "PC3:PC1"
    assert plain_formula("(a + b)**2") == "(a + b)**2"
    assert plain_formula("log(age)**2") == "log(age)**2"
    assert plain_formula("age^2 + (sex + age ^ 3)") == "{age**2} + (sex + {age**3})"
    assert plain_formula("I(age^2) + log( (age**2) ) + age**2") == (
        "I(age**2) + log( (age**2) ) + {age**2}"
    )


def test_formula_variables__are_the_columns_that_are_read() -> None:
    found = formula_variables("age + age**2 + sex*age + C(batch) + PC9:PC10")
    assert found == ["PC10", "PC9", "age", "batch", "sex"]
    with pytest.raises(InputError, match=r"formula 'age \+ \('"):
        formula_variables("age + (")
    with pytest.raises(InputError, match=r"Unknown operator ','; join covariates by \+"):
        formula_variables("age, sex")
    with pytest.raises(InputError, match="'PC1-PC10' is PC1 without PC10; write PC1:PC10"):
        formula_variables("age + PC1-PC10")
    with pytest.raises(InputError, match="is empty; write 1 for no covariates"):
        formula_variables(" ")
    assert formula_variables("1") == []


def test_formula_columns__are_those_of_the_terms(covariates: pd.DataFrame) -> None:
    found = formula_columns("age + age**2 + sex*age + site + C(batch) + PC1:PC10", covariates)
    age, sex, site, batch = (covariates[name] for name in ("age", "sex", "site", "batch"))
    expected = np.column_stack(
        [age, age**2, sex, age * sex, site == "a", site == "c", batch == 4, batch == 5]
        + [covariates[f"PC{k}"] for k in range(1, 11)]
    ).astype(float)
    assert found.shape == (60, 18)
    # the same space, in whatever order
    for one, other in ((found.to_numpy(), expected), (expected, found.to_numpy())):
        basis = np.column_stack([np.ones(60), other])
        left = one - basis @ np.linalg.lstsq(basis, one)[0]
        np.testing.assert_allclose(left, 0, atol=1e-8)
    assert "site[T.a]" in found  # b is the most frequent one
    matrix, names, left_out = design_matrix(found)
    assert matrix.shape == (60, 19)
    assert not left_out
    assert names[0] == "intercept"


@pytest.mark.parametrize(
    ("formula", "function"),
    [
        ("age^2", np.square),
        ("I(age**2)", np.square),
        ("I(age^2)", np.square),
        ("log(age)", np.log),
        ("np.sqrt(age)", np.sqrt),
    ],
)
def test_formula_columns__functions_of_numbers(
    covariates: pd.DataFrame, formula: str, function: np.ufunc
) -> None:
    [found] = formula_columns(formula, covariates).to_numpy().T
    np.testing.assert_allclose(found, function(covariates["age"]))


def test_formula_columns__names_what_is_wrong(covariates: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="no covariate 'aeg'; did you mean 'age'"):
        formula_columns("aeg + sex", covariates)
    with pytest.raises(InputError, match="formula 'nothing_of_it"):
        formula_columns("nothing_of_it(age)", covariates)
