"""Order statistics: what a sample of uniform variables is expected to be."""

import numpy as np
from scipy.special import betaincinv

from pm_fastlmm.base.arrays import FloatArray, require_fraction


def uniform_order(n: int, level: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return median, lower and upper limit of each of n ordered uniform variables: the i-th is Beta(i, n + 1 - i)."""
    require_fraction(level, "level")
    i = np.arange(1, n + 1)
    middle, low, high = (
        np.asarray(betaincinv(i, n + 1 - i, p), float) for p in (0.5, (1 - level) / 2, (1 + level) / 2)
    )
    return middle, low, high
