"""A symmetric matrix as a band, in coordinates that begin with those of a few columns: matrix products alone."""

import numpy as np
from scipy.linalg import blas, lapack

from pm_fastlmm.base.arrays import FloatArray, slices

_PART = 200  # columns whose upper triangle is copied with the lower one


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
    rest = np.array(K.T, order="F")
    n = len(rest)
    free, used = np.empty(n * n), rest.ravel(order="K")  # two matrices by turns: new memory costs more than a copy
    band = np.zeros((width + 1, n), order="F")
    diagonals = np.arange(width + 1)[:, None]
    R, rest = _turned(rest, head)
    for start in range(0, n, width):
        corner = rest[:width, :width]
        columns = np.zeros((2 * width, len(corner)))
        columns[: len(corner)] = corner
        if (m := len(rest) - width) > 0:
            smaller = free[: m * m].reshape(m, m, order="F")
            for part in slices(m, _PART):
                smaller[part.start :, part] = rest[width + part.start :, width + part.start : width + part.stop]
            triangle, rest = _turned(smaller, rest[width:, :width])
            columns[width : width + len(triangle)] = triangle
            free, used = used, free
        places = np.arange(len(corner))
        band[:, start : start + width] = columns[diagonals + places, places]
    return R, band


def _turned(A: FloatArray, panel: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the triangle of panel = Q[R; 0], and QᵀAQ in place of A: both in their lower triangle, see `two_sided`."""
    factored, tau, _, _ = lapack.dgeqrf(np.array(panel, order="F"), lwork=64 * panel.shape[1], overwrite_a=1)
    size = tau.size
    R, V = np.triu(factored[:size]), factored[:, :size]
    V[:size] = np.tril(V[:size], -1)
    V[range(size), range(size)] = tau != 0
    V[:, tau == 0] = 0.0
    # T⁻¹ has 1/τ on its diagonal and the products of the vectors above
    inverse = np.triu(blas.dsyrk(1.0, V, trans=1), 1)
    inverse[range(size), range(size)] = 1 / np.where(tau == 0, 1.0, tau)
    T = lapack.dtrtri(inverse)[0]
    W = blas.dsymm(1.0, A, V, lower=1)
    half = 0.5 * T.T @ blas.dgemm(1.0, V, W, trans_a=1) @ T
    Z = blas.dgemm(-1.0, V, half, beta=1.0, c=blas.dgemm(1.0, W, T), overwrite_c=1)  # NumPy's products are transposed
    return R, blas.dsyr2k(-1.0, Z, V, beta=1.0, c=A, lower=1, overwrite_c=1)
