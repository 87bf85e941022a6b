"""Heritability of voxels and their genetic correlations, from those of the traits of their maps.

Maps that are combinations of traits, x = mean + B'l, have the genetic covariance B'GB and the
phenotypic one B'PB, with G and P those of the traits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from axoloci.tasks.genetics.heritability import GeneticCovariance, jackknife_se

PRODUCTS_BYTES = 2**30  # memory for the products of pairs of a voxel's weights, three arrays


def voxel_heritability(
    covariance: GeneticCovariance,
    basis: NDArray[np.floating],
    voxel_sd: NDArray[np.floating] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """SNP heritability of each voxel, b'Gb / b'Pb, and its block jackknife standard error.

    By Haseman and Elston's regression, which is linear in products of traits, these are the
    estimates of the maps that the traits make: with all components, those of the voxels themselves.

    Parameters
    ----------
    covariance
        Of r traits.
    basis
        [shape: (r, n_voxels)] B: what one more of a trait adds to a map.
    voxel_sd
        [float, shape: (n_voxels,)] s: with it h² is b'Gb / max(b'Pb, s²), of the variance of the
        voxel itself, with what covariates explain in it.

    Returns
    -------
    (h2, se)
        [float64, shape: (n_voxels,)] each; NaN where a voxel does not vary.
    """
    whole = covariance.genetic[None], covariance.phenotypic[None]
    forms = np.concatenate([*whole, covariance.leave_one_out])  # (n_blocks + 2, r, r)
    h2, se = np.empty((2, basis.shape[1]))
    for place, of_form in _quadratic_forms(forms, basis):
        phenotype = of_form[1]
        if voxel_sd is not None:
            phenotype = np.maximum(phenotype, np.square(voxel_sd[place], dtype=np.float64))
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = np.where(phenotype > 0, of_form / phenotype, np.nan)  # (n_blocks + 2, part)
        h2[place], se[place] = shares[0], jackknife_se(shares[2:])
    return h2, se


def voxel_genetic_correlation(
    covariance: GeneticCovariance,
    direction: NDArray[np.float64],
    basis: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Genetic correlation of each voxel with one combination of traits, and its standard error.

    rg = a'Gb / √(a'Ga · b'Gb). The combination may be a voxel, a = b of it, or another trait.

    Parameters
    ----------
    covariance
        Of k traits, of which the maps are made of the first r.
    direction
        [float64, shape: (k,)] a.
    basis
        [shape: (r, n_voxels)] B of the first r traits.

    Returns
    -------
    (rg, se)
        [float64, shape: (n_voxels,)] each; NaN where a heritability is not above 0, with all
        variants or without one of the blocks. Not cut at ±1, which would bias it.
    """
    r = len(basis)
    # (n_blocks + 1, k, k)
    whole = np.concatenate([covariance.genetic[None], covariance.leave_one_out])
    toward = whole @ direction  # (n_blocks + 1, k)
    own = toward @ direction  # (n_blocks + 1,)
    own = np.where(own > 0, own, np.nan)[:, None]
    rg, se = np.empty((2, basis.shape[1]))
    for place, of_form in _quadratic_forms(whole[:, :r, :r], basis):
        shared = toward[:, :r] @ basis[:, place].astype(np.float64)  # (n_blocks + 1, part)
        found = shared / np.sqrt(own * np.where(of_form > 0, of_form, np.nan))
        rg[place], se[place] = found[0], jackknife_se(found[1:])
    return np.where(np.isnan(se), np.nan, rg), se


def _quadratic_forms(
    forms: NDArray[np.float64], basis: NDArray[np.floating]
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Values b'Fb of symmetric matrices (k, r, r) and voxels, (k, part), and where the part stands.

    One product of the matrices' upper triangles with the products of pairs of a voxel's weights:
    half the work of multiplying each matrix.
    """
    row, column = np.triu_indices(forms.shape[1])  # (r(r+1)/2,)
    upper = forms[:, row, column] * np.where(row == column, 1.0, 2.0)  # (k, r(r+1)/2)
    # the products, and the two factors that they are made of, are held at once
    at_once = max(1, PRODUCTS_BYTES // (3 * 8 * max(1, len(row))))
    for start in range(0, basis.shape[1], at_once):
        place = slice(start, start + at_once)
        b = basis[:, place].astype(np.float64)  # (r, part)
        yield place, upper @ (b[row] * b[column])
