"""What of the mean of a node is known, as numbers."""

from typing import NamedTuple

from pm_fastlmm.base.arrays import FloatArray


class Constants(NamedTuple):
    """
    A known mean.

    Attributes
    ----------
    mu : array or 0
        The mean besides Xβ.
    b : (r,) array
        An explicit β, or the mean of its prior; of size 0 for a flat one.
    B : (r, r) array
        Covariance of the prior of β, of size 0 where it has none.
    """

    mu: FloatArray
    b: FloatArray
    B: FloatArray
