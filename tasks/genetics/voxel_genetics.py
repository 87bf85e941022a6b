"""Heritability of voxels and their genetic correlations, from those of the traits of their maps.

Maps that are combinations of traits, x = mean + B'l, have the genetic covariance B'GB and the
phenotypic one B'PB, with G and P those of the traits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 1024  # voxels whose products of pairs of traits are held in memory


def voxel_heritability(
    genetic: NDArray[np.float64],
    phenotypic: NDArray[np.float64],
    leave_one_out: NDArray[np.float64],
    basis: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """SNP heritability of each voxel, b'Gb / b'Pb, and its block jackknife standard error.

    Parameters
    ----------
    genetic, phenotypic
        [float64, shape: (r, r)] G and P of the traits.
    leave_one_out
        [float64, shape: (n_blocks, r, r)] G without each block of the genome.
    basis
        [shape: (r, n_voxels)] B: what one more of a trait adds to a map.

    Returns
    -------
    (h2, se)
        [float64, shape: (n_voxels,)] each; NaN where a voxel does not vary.
    """
    forms = np.concatenate([genetic[None], phenotypic[None], leave_one_out])
    h2, se = np.empty((2, basis.shape[1]))
    for place, of_form in _quadratic_forms(forms, basis):
        phenotype = of_form[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = np.where(phenotype > 0, of_form / phenotype, np.nan)  # (n_blocks + 2, part)
        h2[place], se[place] = shares[0], jackknife_se(shares[2:])
    return h2, se


def voxel_genetic_correlation(
    genetic: NDArray[np.float64],
    leave_one_out: NDArray[np.float64],
    direction: NDArray[np.float64],
    basis: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Genetic correlation of each voxel with one combination of traits, and its standard error.

    rg = a'Gb / √(a'Ga · b'Gb). The combination may be a voxel, a = b of it, or another trait.

    Parameters
    ----------
    genetic
        [float64, shape: (k, k)] G of all traits.
    leave_one_out
        [float64, shape: (n_blocks, k, k)] G without each block of the genome.
    direction
        [float64, shape: (k,)] a.
    basis
        [shape: (r, n_voxels)] B of the first r of these traits, which the maps are made of.

    Returns
    -------
    (rg, se)
        [float64, shape: (n_voxels,)] each; NaN where either heritability is not positive, se also
        where it is not in a block left out. Not drawn in to ±1.
    """
    r = len(basis)
    whole = np.concatenate([genetic[None], leave_one_out])  # (n_blocks + 1, k, k)
    toward = whole @ direction  # (n_blocks + 1, k)
    own = toward @ direction  # (n_blocks + 1,)
    rg, se = np.empty((2, basis.shape[1]))
    for place, of_form in _quadratic_forms(whole[:, :r, :r], basis):
        covariance = toward[:, :r] @ basis[:, place].astype(np.float64)  # (n_blocks + 1, part)
        scale = own[:, None] * of_form
        with np.errstate(invalid="ignore", divide="ignore"):
            found = covariance / np.sqrt(scale)
            found[(own <= 0)[:, None] | (of_form <= 0)] = np.nan
        rg[place], se[place] = found[0], jackknife_se(found[1:])
    se[np.isnan(rg)] = np.nan
    return rg, se


def jackknife_se(left_out: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard error from estimates that leave out one block each.

    Parameters
    ----------
    left_out
        [float64, shape: (n_blocks, n)]

    Returns
    -------
    [float64, shape: (n,)]

    References
    ----------
    Block jackknife: doi:10.1214/aos/1176347265
    """
    n_blocks = len(left_out)
    apart = left_out - left_out.mean(axis=0)  # (n_blocks, n)
    return np.asarray(np.sqrt((n_blocks - 1) / n_blocks * np.square(apart).sum(axis=0)))


def _quadratic_forms(
    forms: NDArray[np.float64], basis: NDArray[np.floating]
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Values b'Fb of symmetric matrices (k, r, r) and voxels, (k, part), and where the part stands.

    One product of the matrices' upper triangles with the products of pairs of a voxel's weights:
    half the work of multiplying each matrix.
    """
    row, column = np.triu_indices(forms.shape[1])  # (r(r+1)/2,)
    upper = forms[:, row, column] * np.where(row == column, 1.0, 2.0)  # (k, r(r+1)/2)
    for start in range(0, basis.shape[1], AT_ONCE):
        place = slice(start, start + AT_ONCE)
        b = basis[:, place].astype(np.float64)  # (r, part)
        yield place, upper @ (b[row] * b[column])
