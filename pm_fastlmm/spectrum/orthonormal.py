"""Orthonormal columns for the eliminated term and, from the rows themselves, for what it leaves of the others."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.linalg import qr

from pm_fastlmm.base.arrays import FloatArray

_RANK_RTOL = 1e-12
_ROUNDING = 1e-14  # of columns of length 1
LARGEST = 30_000_000  # numbers of a dense matrix of rows


class Remainder(NamedTuple):
    """(I - OOᵀ)W = UR, what O leaves of W, with orthonormal U (n, k) orthogonal to O, and R (k, m)."""

    O: sp.csr_array  # noqa: E741 - the letter of the formula
    U: FloatArray
    R: FloatArray

    def split(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return Uᵀv and what O and U leave of v, orthogonal to both beside its own size."""
        v = without(self.O, v)
        z = self.U.T @ v
        rest = v - self.U @ z
        again = self.U.T @ rest
        return z + again, without(self.O, rest - self.U @ again)


def remainder_of(W: sp.csr_array, O: sp.csr_array, lengths: FloatArray) -> Remainder | None:  # noqa: E741
    """
    Return what O leaves of W, whose columns have these lengths; None where its rows would fill too much memory.

    Directions that are rounding alone are left out. They are small by the square of what rounding is beside σ_e.
    """
    n, m = W.shape
    if n * m > LARGEST:
        return None
    size = np.where(lengths > 0, lengths, 1.0)
    U, R, order = qr(without(O, W.toarray() / size), mode="economic", pivoting=True)
    kept = np.abs(np.diag(R)) > _ROUNDING
    U, again = np.linalg.qr(without(O, U[:, kept]))
    R = again @ R[kept]
    return Remainder(O, U, R[:, np.argsort(order)] * size)


def column_squares(Z: sp.csr_array) -> FloatArray:
    """Return the squared lengths of the columns."""
    return np.bincount(Z.indices, Z.data**2, minlength=Z.shape[1])


def without(Q: Any, columns: FloatArray) -> FloatArray:
    """Return (I - QQᵀ) times columns, Q orthonormal; twice, so that little that is left is orthogonal to Q as well."""
    for _ in range(2):
        columns = columns - Q @ (Q.T @ columns)
    return columns


def orthonormal_blocks(Z: sp.csr_array, levels: int, width: int) -> tuple[FloatArray, sp.csr_array]:
    """
    Return C (levels, width, width) and the sparse O with Z = O blockdiag(C_jᵀ), OᵀO = I on the range of Z.

    Inner products of several columns within a level leave O orthonormal up to their rounding times the condition of the
    columns; a second pass over O itself removes that.
    """
    if not levels:
        return np.zeros((0, 1, 1)), sp.csr_array((Z.shape[0], 0))
    if width == 1:
        lengths = np.sqrt(column_squares(Z))
        inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        return lengths.reshape(levels, 1, 1), sp.csr_array((Z.data * inverse[Z.indices], Z.indices, Z.indptr), Z.shape)
    C, O = _pass(Z, levels, width)  # noqa: E741
    again, O = _pass(O, levels, width)  # noqa: E741
    return C @ again, O


def _pass(Z: sp.csr_array, L: int, c: int) -> tuple[FloatArray, sp.csr_array]:
    gram = (Z.T @ Z).tocoo()
    H = np.zeros((L, c, c))
    H[gram.row // c, gram.row % c, gram.col % c] = gram.data
    # columns of any units within a level: the rank is that of the columns at length 1
    size = np.sqrt(np.maximum(np.diagonal(H, axis1=1, axis2=2), 0.0))
    size = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(H / (size[:, :, None] * size[:, None, :]))
    kept = values > _RANK_RTOL * values[:, -1:]
    roots = np.sqrt(np.where(kept, values, 0.0))
    inverse = np.divide(1.0, roots, out=np.zeros_like(roots), where=kept)
    C = size[:, :, None] * vectors * roots[:, None, :]
    blocks = vectors / size[:, :, None] * inverse[:, None, :]  # C_j⁻ᵀ on the range
    transform = sp.bsr_array((blocks, np.arange(L), np.arange(L + 1)), shape=(L * c, L * c))
    return C, (Z @ transform).tocsr()
