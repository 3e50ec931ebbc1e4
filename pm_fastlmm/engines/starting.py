"""Starting values of the parameters of terms from variances."""

import numpy as np

from pm_fastlmm.aireml.cone import pack
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.covariance.theta import Entry


def starting_values(entry: Entry, own: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Return uncorrelated starting values of one parameter from the variances of its term, by column if it has them."""
    own = own[entry.part] if own.size > 1 else own
    variance = float(own.mean())
    if entry.matrix:
        return pack(np.diag(own if own.size == entry.shape[0] else np.full(entry.shape[0], variance)))
    if (lower == 0).all() and np.isinf(upper).all():
        return own if own.size == entry.size else np.full(entry.size, variance)
    if np.isinf(lower).all():
        return np.full(entry.size, np.sqrt(variance / 2))
    inside = (lower < 0) & (upper > 0)
    return np.where(inside, 0.0, (lower + upper) / 2)
