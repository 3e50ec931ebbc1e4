"""Where the iteration of a structured model starts: moments of the data, and parameters from variances of terms."""

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.covariance.theta import Entry


def moments(components: list[sp.csr_array], Q: FloatArray, y: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    """Return tr(MV_iMV_j) and yᵀMV_iMy for V_i = Z_iZ_iᵀ and, last, I: M takes X out, and no n × n matrix is formed."""
    along = [Z.T @ Q for Z in components]
    count = len(components)
    gram, squares = np.zeros((count + 1, count + 1)), np.zeros(count + 1)
    for i, Zi in enumerate(components):
        for j in range(i + 1):
            cross = sp.coo_array(Zi.T @ components[j])
            shared = np.einsum("kr,kr->k", along[i][cross.row], along[j][cross.col])
            projected = np.sum((along[i].T @ along[i]) * (along[j].T @ along[j]))
            gram[i, j] = gram[j, i] = (cross.data**2).sum() - 2 * (cross.data * shared).sum() + projected
        trace = (Zi.data**2).sum() - (along[i] ** 2).sum()
        gram[i, count] = gram[count, i] = trace
        squares[i] = ((Zi.T @ y) ** 2).sum()
    gram[count, count], squares[count] = n - Q.shape[1], y @ y
    return gram, squares


def starting_values(entry: Entry, own: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Return uncorrelated starting values of one parameter from the variances of its term, by column if it has them."""
    own = own[entry.part] if own.size > 1 else own
    variance = float(own.mean())
    if entry.matrix:
        return np.diag(own if own.size == entry.shape[0] else np.full(entry.shape[0], variance))[
            np.tril_indices(entry.shape[0])
        ]
    if (lower == 0).all() and np.isinf(upper).all():
        return own if own.size == entry.size else np.full(entry.size, variance)
    if np.isinf(lower).all():
        return np.full(entry.size, np.sqrt(variance / 2))
    inside = (lower < 0) & (upper > 0)
    return np.where(inside, 0.0, (lower + upper) / 2)
