"""QR of rows that arrive in blocks (TSQR; Demmel et al. 2012, doi:10.1137/080731992): only the triangle is kept."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from pm_fastlmm.base.arrays import FloatArray

type Parts = Sequence[tuple[FloatArray, FloatArray | float]]

_BLOCK = 64  # columns at a time, for which LAPACK needs the room


class Triangle(NamedTuple):
    """
    What the rows [head, tail] are in the basis Q of the columns of the head: head = QR, Qᵀtail = C.

    Attributes
    ----------
    R : (h, h) array
        Upper triangular, its diagonal not negative; rows of zeros below where there were fewer than h rows.
    C : (h, t) array
    """

    R: FloatArray
    C: FloatArray

    def append(self, head: Parts, tail: Parts) -> tuple["Triangle", FloatArray]:
        """
        Return the triangle of more rows, and the coordinates of their tail that are orthogonal to every head.

        Parameters
        ----------
        head, tail : sequences of pairs
            New rows, or the R and C of other ones: arrays with n rows that stand side by side, h and t columns in all,
            and what is subtracted from each of their rows.

        Returns
        -------
        triangle : Triangle
        rest : (n, t) array
            Its inner products are those of the tails of all rows with the heads projected out, less what the rest of
            earlier calls had: sums of it over calls never subtract.
        """
        h, t = self.C.shape
        rows = h + tail[0][0].shape[0]
        stacked, rotated = np.empty((rows, h), order="F"), np.empty((rows, t))
        stacked[:h], rotated[:h] = self.R, self.C
        _fill(stacked[h:], head)
        _fill(rotated[h:], tail)
        if not h:
            return self, rotated
        factored, tau, _, _ = lapack.dgeqrf(stacked, lwork=_BLOCK * h, overwrite_a=True)
        if t:
            # the buffer in C order is its transpose in Fortran order: (Qᵀ tail)ᵀ = tailᵀ Q, in place
            work = _BLOCK * (t + _BLOCK + 1)
            rotated = lapack.dormqr("R", "N", factored, tau, rotated.T, work, overwrite_c=True)[0].T
        sign = np.where(np.diag(factored) < 0, -1.0, 1.0)[:, None]
        return Triangle(np.triu(factored[:h]) * sign, rotated[:h] * sign), rotated[h:]


def _fill(out: FloatArray, columns: Parts) -> None:
    """Write arrays side by side, less their shifts: one pass, no copy in between."""
    start = 0
    for values, shift in columns:
        np.subtract(values, shift, out=out[:, start : start + values.shape[1]])
        start += values.shape[1]
