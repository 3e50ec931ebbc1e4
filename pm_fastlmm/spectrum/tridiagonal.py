"""Rotation of a few vectors into the eigenvectors of a dense covariance that are never formed."""

import numpy as np
from scipy.linalg import lapack

from pm_fastlmm.base.arrays import FloatArray


def coordinates(A: FloatArray, B: FloatArray) -> tuple[FloatArray, FloatArray]:
    """
    Return the eigenvalues λ of A = U diag(λ)Uᵀ, ascending, and UᵀB, without U.

    A is reduced to tridiagonal form by Householder reflectors, 4n³/3 operations; they are applied to B, and then the
    rotations of the QL algorithm, O(n²) for each column. An eigendecomposition costs twice to four times as much.

    Parameters
    ----------
    A : (n, n) array
        Symmetric; its lower triangle is read, and overwritten where it is in Fortran order.
    B : (n, c) array
        A few vectors.

    Raises
    ------
    RuntimeError
        If the QL algorithm does not converge; finite matrices are not known to do that.
    """
    from pm_fastlmm.spectrum.implicit_ql import implicit_ql

    n = A.shape[0]
    rows = np.array(B, dtype=np.float64, order="C")
    scale = float(np.abs(A).max()) or 1.0  # squares of its entries must stay within the range of floats
    if n == 1:
        return A[0].copy(), rows
    work = int(lapack.dsytrd_lwork(n, lower=1)[0])
    reflectors, d, e, tau, _ = lapack.dsytrd(A, lower=1, lwork=work, overwrite_a=1)
    below = np.asfortranarray(reflectors[1:, :-1])
    size = int(lapack.dormqr("L", "T", below, tau, rows[1:], -1)[1][0])
    rows[1:] = lapack.dormqr("L", "T", below, tau, rows[1:], size)[0]
    d, e = d / scale, np.append(e / scale, 0.0)
    if not implicit_ql(d, e, rows):
        raise RuntimeError("the QL algorithm did not converge: use flmm.reml(flmm.Spectrum.from_covariance(K, X), y).")
    order = np.argsort(d, kind="stable")
    return d[order] * scale, rows[order]
