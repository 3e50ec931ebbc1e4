"""A symmetric matrix as a band, in coordinates that begin with those of a few columns: matrix products alone."""

import numpy as np
from scipy.linalg import blas, lapack

from pm_fastlmm.base.arrays import FloatArray, slices

_PANELS = 3  # times `width` columns are kept in one array
_WIDTHS = np.array([1, 1, 2, 2])  # of V, Y, [V Z] and [Z V], relative to that of the panel

type Pair = tuple[FloatArray, FloatArray]  # [V Z] and [Z V] of a turn


def banded(K: FloatArray, head: FloatArray, width: int) -> tuple[FloatArray, FloatArray]:
    """
    Return R of head = Q[R; 0], and QᵀKQ as a band, for an orthogonal Q.

    Householder reflectors eliminate `width` columns below the band at once (Bischof, Lang & Sun 2000,
    doi:10.1145/365723.365735): as many operations as to tridiagonal form, but the matrix is read once for each block
    of columns instead of once for each column. The first rows, those of R, are not turned again.

    Parameters
    ----------
    K : (n, n) array
        Symmetric.
    head : (n, c) array
        Columns, c ≤ width.
    width : int
        Number of diagonals below the main one.

    Returns
    -------
    R : (c, c) array
    band : (width + 1, n) array
        Diagonal k of the matrix is band[k, : n - k]; what is beyond has no meaning.
    """
    n = len(K)
    step = _PANELS * width
    blocks = [np.array(K.T[part.start :, part], order="F") for part in slices(n, step)]  # from the diagonal down
    columns = np.zeros((2 * width, n))  # each from the first row of its panel down
    memory = [np.empty(n * size) for size in width * _WIDTHS]  # new memory costs more than a copy
    R, last = _turn(blocks, 0, head, memory, (K[:0], K[:0]))
    for start in range(0, n, width):
        block, first = divmod(start, step)
        panel = blocks[block][first:, first : first + width]
        part = slice(start, start + width)
        columns[: panel.shape[1], part] = panel[:width]
        if len(panel) > width:
            block, first = divmod(start + width, step)
            triangle, last = _turn(blocks[block:], first, panel[width:], memory, last)
            columns[width : width + len(triangle), part] = triangle
    places = np.arange(n)
    band = columns[np.arange(width + 1)[:, None] + places % width, places]
    return np.triu(R), np.asfortranarray(band)


def _turn(
    blocks: list[FloatArray], first: int, panel: FloatArray, memory: list[FloatArray], last: Pair
) -> tuple[FloatArray, Pair]:
    """
    Return R of panel = Q[R; 0], in the upper triangle, and apply Q from both sides.

    What is turned are the rows and columns of `blocks` from `first` on. A - VZᵀ - ZVᵀ is QᵀAQ for Q = I - VTVᵀ with
    Z = YT - ½V Tᵀ VᵀYT and Y = AV. The first block, which has the next panel, is turned at once; the others by the
    next call, when each is read for Y.
    """
    n, size = len(blocks[0]), min(panel.shape)
    factored, T, _ = lapack.dgeqrt(size, np.array(panel, order="F"), overwrite_a=1)
    V, Y, VZ, ZV = (row[: n * width].reshape(n, width) for row, width in zip(memory, size * _WIDTHS, strict=True))
    V[:first], V[first:], Y[:] = 0.0, factored[:, :size], 0.0
    V[first : first + size] = np.tril(V[first : first + size], -1) + np.eye(size)
    for block in blocks:
        start = n - len(block)
        part = slice(max(start, first), start + block.shape[1])
        C = block[:, part.start - start :]
        if len(C) < len(last[0]):
            _apply(last, C, 0)
        blas.dgemm(1.0, V[part].T, C, beta=1.0, c=Y[start:].T, trans_b=1, overwrite_c=1)
        Y[part] += C[part.stop - start :].T @ V[part.stop :] if part.stop < n else 0.0
    Y[:first] = 0.0
    ZV[:, :size], ZV[:, size:], VZ[:, :size] = Y, V, V
    np.matmul(ZV, np.vstack([T, -0.5 * T.T @ (V.T @ Y) @ T]), out=VZ[:, size:])
    ZV[:, :size] = VZ[:, size:]
    _apply((VZ, ZV), blocks[0][:, first:], first)
    return np.asarray(factored[:size]), (VZ, ZV)


def _apply(turn: Pair, C: FloatArray, first: int) -> None:
    """Turn a block, or its columns from `first` on."""
    VZ, ZV = (rows[-len(C) :] for rows in turn)
    blas.dgemm(-1.0, VZ.T, ZV[first : first + C.shape[1]].T, beta=1.0, c=C, trans_a=1, overwrite_c=1)
