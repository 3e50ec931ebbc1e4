"""What features of any kind and y are to each other, once X is projected out."""

from dataclasses import dataclass

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.spectrum.projection import Projection


@dataclass(frozen=True, slots=True, eq=False)
class FourierProducts:
    """
    G̃ = ZᵀMZ, b̃ = ZᵀMy, c̃ = yᵀMy with M = I - QQᵀ, X = QR.

    Attributes
    ----------
    gram : (M, M) array
        G̃.
    cross : (M,) array
        b̃.
    square : float
        c̃.
    n, df : int
        n, and p = n - r.
    projection : Projection
        R and the names of the columns of X, without rows.
    fixed : (M, r) array
        ZᵀQ.
    along : (r,) array
        Qᵀy.
    """

    gram: FloatArray
    cross: FloatArray
    square: float
    n: int
    df: int
    projection: Projection
    fixed: FloatArray
    along: FloatArray
