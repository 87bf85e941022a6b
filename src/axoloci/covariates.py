"""Covariates of every kind as one matrix of numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError, nearest

MOST_NAMED = 20  # covariates, in a sentence
_POWER = re.compile(r"(?<![\w.)])([A-Za-z_]\w*)\s*(?:\*\*|\^)\s*(\d+)")
_RANGE = re.compile(r"\b([A-Za-z_]+)(\d+)\s*:\s*\1(\d+)\b")
_DASHED_RANGE = re.compile(r"\b([A-Za-z_]+)(\d+)\s*-\s*\1(\d+)\b")


def plain_formula(formula: str) -> str:
    """A formula in which powers are of numbers, and PC1:PC10 are ten columns.

    Without this, `age**2` and `age^2` would be the interaction of age with itself, which is age,
    and `PC1:PC10` the product of two columns. In the brackets of a function, as in `log(age**2)`,
    powers are of numbers anyway.
    """

    def columns(match: re.Match[str]) -> str:
        stem, first, last = match[1], int(match[2]), int(match[3])
        if last <= first:
            return match[0]
        return "(" + " + ".join(f"{stem}{k}" for k in range(first, last + 1)) + ")"

    formula = _RANGE.sub(columns, formula)
    in_function = _in_function(formula)

    def power(match: re.Match[str]) -> str:
        number = f"{match[1]}**{match[2]}"
        return number if in_function[match.start()] else f"{{{number}}}"

    return _POWER.sub(power, formula)


def _in_function(formula: str) -> list[bool]:
    """Whether each character stands in the brackets of a function."""
    inside: list[bool] = []
    open_brackets: list[bool] = []  # those of a function are True
    for k, character in enumerate(formula):
        if character == "(":
            open_brackets.append(re.search(r"[\w.]\s*$", formula[:k]) is not None)
        elif character == ")" and open_brackets:
            open_brackets.pop()
        inside.append(any(open_brackets))
    return inside


def formula_variables(formula: str) -> list[str]:
    """Columns that a formula needs.

    Raises
    ------
    InputError
        It is malformed, or the library of formulas is not installed.
    """
    try:
        from formulaic import Formula
        from formulaic.errors import FormulaicError
    except ModuleNotFoundError as error:
        raise InputError(
            f"formula '{formula}': needs the library formulaic; pip install 'axoloci[gwas]'"
        ) from error

    if "~" in formula:
        raise InputError(f"formula '{formula}': holds a ~; write the covariates alone")
    if not formula.strip():
        raise InputError("the formula is empty; write 1 for no covariates")
    dashed = _DASHED_RANGE.search(formula)
    if dashed is not None and int(dashed[2]) < int(dashed[3]):
        first, last = dashed[1] + dashed[2], dashed[1] + dashed[3]
        raise InputError(
            f"formula '{formula}': '{dashed[0]}' is {first} without {last}; write {first}:{last} "
            "for all columns from the one to the other"
        )
    try:
        parsed: Any = Formula(plain_formula(formula))
        return sorted(map(str, parsed.required_variables))
    except (FormulaicError, SyntaxError) as error:
        reason = str(error).partition("\n")[0]  # then comes a picture for terminals
        raise InputError(
            f"formula '{formula}': {reason.rstrip('.')}; join covariates by +, as in "
            "'age + age**2 + C(site) + PC1:PC10'"
        ) from error


def formula_columns(formula: str, covariates: pd.DataFrame) -> pd.DataFrame:
    """Columns of numbers that a formula makes of covariates, without an intercept.

    Parameters
    ----------
    formula
        Terms joined by +, such as `age + age**2 + sex*age + C(site) + PC1:PC10`: a*b is both and
        their product, a:b the product alone, C(a) takes numbers as categories, `log(a)`, `exp(a)`,
        `scale(a)`, `poly(a, 2)` and `bs(a, df=4)` are known, and functions of numpy, as
        `np.sqrt(a)`. Of PC1:PC10 all columns from the first to the last are taken.
    covariates : pandas.DataFrame, (n_samples, any)
        Columns of float64, or of strings, whose most frequent level is the reference (the first in
        sorted order among equals); no value missing.

    Returns
    -------
    pandas.DataFrame
        float64, (n_samples, any).

    Raises
    ------
    InputError
        A malformed formula or an unknown column.
    """
    from formulaic import model_matrix
    from formulaic.errors import FormulaicError

    unknown = [name for name in formula_variables(formula) if name not in covariates]
    if unknown:
        raise InputError(
            f"formula '{formula}': no covariate '{unknown[0]}'; "
            f"{nearest(unknown[0], list(covariates.columns))}"
        )
    table = covariates.copy()
    for name, values in covariates.items():
        if values.dtype == object:
            table[name] = pd.Categorical(values, categories=ordered_levels(values))
    try:
        # without a context the names of this function would be known to the formula
        matrix = model_matrix(plain_formula(formula), table, context={}, na_action="raise")
    except (FormulaicError, SyntaxError, ValueError) as error:
        raise InputError(f"formula '{formula}': {error}") from error
    columns = pd.DataFrame(matrix).astype(np.float64)
    return columns.drop(columns="Intercept", errors="ignore")


def ordered_levels(values: pd.Series) -> list[str]:
    """Levels of a categorical covariate: the reference, which is the most frequent one, and others.

    Parameters
    ----------
    values : (n_samples,)
        Strings; one or more.

    Examples
    --------
    >>> ordered_levels(pd.Series(["b", "a", "c", "c"]))
    ['c', 'a', 'b']
    """
    counts = values.value_counts()
    reference = min(counts.index, key=lambda level: (-counts[level], level))
    return [reference, *sorted(level for level in counts.index if level != reference)]


def design_matrix(
    covariates: pd.DataFrame,
) -> tuple[NDArray[np.float64], list[str], dict[str, str]]:
    """Covariates as columns of numbers, with an intercept.

    Numbers stay as they are. Words become one indicator per level but the most frequent one, the
    reference (the first in sorted order among equals). Columns that are constant or a combination
    of those before them are left out.

    Parameters
    ----------
    covariates : pandas.DataFrame, (n_samples, any)
        Columns of float64, or of strings; no value missing.

    Returns
    -------
    (matrix, names, left_out)
        float64 (n_samples, n_covariates), intercept first; the names of its columns; why each
        column that was left out is.
    """
    columns: dict[str, NDArray[np.float64]] = {"intercept": np.ones(len(covariates))}
    for name, values in covariates.items():
        if values.dtype != object:
            columns[str(name)] = values.to_numpy(dtype=np.float64)
            continue
        for level in ordered_levels(values)[1:]:
            columns[f"{name}={level}"] = np.asarray(values == level, dtype=np.float64)

    kept: list[str] = []
    left_out: dict[str, str] = {}
    basis = np.empty((len(covariates), 0))  # orthonormal: what the kept columns span
    for name, column in columns.items():
        centred = column - column.mean() if kept else column
        length = np.linalg.norm(centred)
        constant = kept and length <= 1e-10 * np.linalg.norm(column)
        residual = centred
        for _ in range(2):  # twice: once loses digits where columns are nearly collinear
            residual = residual - basis @ (basis.T @ residual)
        if constant or np.linalg.norm(residual) <= 1e-7 * length:
            others = ", ".join(kept[:MOST_NAMED]) + (", …" if len(kept) > MOST_NAMED else "")
            left_out[name] = "constant" if constant else f"a combination of {others}"
            continue
        kept.append(name)
        basis = np.column_stack([basis, residual / np.linalg.norm(residual)])
    return np.column_stack([columns[name] for name in kept]), kept, left_out
