"""Associations of voxels from those of the few traits that stand for them.

Maps that are combinations of traits, x = mean + B'l, have effects that are the same combinations of
the traits' effects: the genome is read once for the traits, and a voxel is a product with its
column of B. With all components of the maps this is the regression of each voxel itself; with
fewer, that of the maps projected on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def voxel_variances(sums: NDArray[np.float64], basis: NDArray[np.floating]) -> NDArray[np.float64]:
    """Residual sum of squares of each voxel on the covariates, b'Sb.

    Parameters
    ----------
    sums
        [float64, shape: (r, r)] S: sums of products of the traits' residuals on the covariates.
    basis
        [shape: (r, n_voxels)] B: what one more of a trait adds to a map.

    Returns
    -------
    [float64, shape: (n_voxels,)]
    """
    b = np.asarray(basis, dtype=np.float64)
    return np.asarray(np.einsum("rv,rv->v", b, sums @ b))


def voxel_effects(
    beta: NDArray[Any],
    se: NDArray[Any],
    df: NDArray[Any],
    sums: NDArray[np.float64],
    basis: NDArray[np.floating],
    variances: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Effect of variants on voxels, and its standard error, from those on the traits.

    β_v = b_v'β. A variant's own sum of squares g follows from each trait: 1/g = (df se² + β²)/S_jj;
    with the mean of these, se_v² = (b_v'S b_v / g − β_v²) / df. Exact where the people of a variant
    are those of S. Where some lack the genotype, S of everybody, in proportion, stands for theirs.

    Parameters
    ----------
    beta, se
        [float, shape: (n_variants, r)] Of the traits.
    df
        [float, shape: (n_variants,)] Residual degrees of freedom.
    sums
        [float64, shape: (r, r)] S, as for `voxel_variances`.
    basis
        [shape: (r, n_voxels)] B.
    variances
        [float64, shape: (n_voxels,)] From `voxel_variances`, if known.

    Returns
    -------
    (beta, se)
        [float64, shape: (n_variants, n_voxels)] each, in units of the maps; se is 0 where a voxel
        is a combination of covariates and variant, NaN where the variant was not tested.

    References
    ----------
    RVGA: Fang et al. 2026, doi:10.1038/s41467-026-69816-z; here without their approximation of se.
    """
    beta, se = np.asarray(beta, dtype=np.float64), np.asarray(se, dtype=np.float64)
    df = np.asarray(df, dtype=np.float64)[:, None]  # (m, 1)
    if variances is None:
        variances = voxel_variances(sums, basis)
    reciprocal = ((df * se**2 + beta**2) / np.diag(sums)).mean(axis=1, keepdims=True)  # (m, 1)
    effect = beta @ np.asarray(basis, dtype=np.float64)  # (m, n_voxels)
    squared = (reciprocal * variances - effect**2) / df
    return effect, np.sqrt(np.maximum(squared, 0.0))
