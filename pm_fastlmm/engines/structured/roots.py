"""
Lower-triangular roots of the Σ_k, which may be singular, in Python.

Compiled code has the first of two ways. Eigenvectors are needed so rarely that Numba's six seconds for them are saved.
"""

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.interpreted import interpreted
from pm_fastlmm.engines.structured import loops
from pm_fastlmm.engines.structured.products import MixedProducts

_loops = interpreted(loops)


def packed_roots(p: MixedProducts, phi: FloatArray) -> FloatArray | None:
    """Return the roots R_k of all Σ_k, packed as they are in phi; None if one is not positive semi-definite."""
    roots, start = np.empty(phi.size), 0
    if p.eliminated and p.C.shape[1] == 1 and not phi[0] >= 0.0:
        return None
    for k in p.order:
        c = p.blocks[k].width
        end = start + c * c
        root, ok = matrix_root(phi[start:end].reshape(c, c))
        if not ok:
            return None
        roots[start:end], start = root.ravel(), end
    return roots


def matrix_root(A: FloatArray) -> tuple[FloatArray, bool]:
    """Return a lower-triangular root of a positive semi-definite matrix, and success."""
    L, ok = _loops.matrix_root(A)
    return (L, True) if ok else _root_of_eigenvectors(A)


def _root_of_eigenvectors(A: FloatArray) -> tuple[FloatArray, bool]:
    """
    Return the same of a matrix whose pivots ended below 0, from its eigenvalues, beside the variances.

    A small pivot that is no zero enlarges its rounding in those that follow.
    """
    c = len(A)
    if not np.isfinite(A).all():
        return np.zeros((c, c)), False
    variances = np.diag(A)
    size = np.sqrt(np.where(variances > 0.0, variances, 1.0))[:, None]
    values, vectors = np.linalg.eigh(0.5 * (A + A.T) / size / size[:, 0])
    if not values[0] >= -loops.PIVOT_RTOL * c:
        return np.zeros((c, c)), False
    R = np.linalg.qr((vectors * np.sqrt(np.maximum(values, 0.0)) * size).T, mode="r")
    return np.ascontiguousarray(R.T) * np.where(np.diag(R) < 0.0, -1.0, 1.0), True
