"""The variogram of residuals, and what a fitted V expects of it."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist

from pm_fastlmm.base.arrays import FloatArray, require_length
from pm_fastlmm.covariance.lengthscale_kernels import read_coordinates

_ROWS = 5000  # up to which matrices of all pairs are formed


def variogram(
    residual: FloatArray, covariance: FloatArray, x: Any, *, bins: int, max_distance: float | None
) -> pd.DataFrame:
    """
    Return the mean of ½(r_i - r_j)² over pairs of rows by their distance, and its expectation under Cov r = C.

    The expectation is the mean of ½(C_ii + C_jj) - C_ij over the same pairs.

    Raises
    ------
    ValueError
        If x does not fit the rows, or there are no bins or pairs in them.
    """
    points = read_coordinates(x).values
    require_length(len(points), len(residual), "x", "the fit")
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, got {bins}.")
    distance = pdist(points)
    reach = distance.max() / 2 if max_distance is None else max_distance
    i, j = np.triu_indices(len(points), 1)  # in the order of pdist
    near = distance <= reach
    if not near.any():
        raise ValueError(f"no two rows are within max_distance={reach:g}: the closest are {distance.min():g} apart.")
    i, j, distance = i[near], j[near], distance[near]
    place = np.minimum((distance / reach * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    diagonal = np.diag(covariance)
    columns = {
        "distance": distance,
        "semivariance": (residual[i] - residual[j]) ** 2 / 2,
        "expected": (diagonal[i] + diagonal[j]) / 2 - covariance[i, j],
    }
    with np.errstate(invalid="ignore"):
        means = {name: np.bincount(place, values, bins) / count for name, values in columns.items()}
    return pd.DataFrame({"distance": means.pop("distance"), "pairs": count, **means})[count > 0].reset_index(drop=True)


def require_pairs(n: int) -> None:
    """Raise a ValueError where the matrices of all pairs would be too large."""
    if n > _ROWS:
        raise ValueError(
            f"a variogram forms V and all pairs of {n} rows, {_ROWS} at most: fit a part of the rows for it."
        )
