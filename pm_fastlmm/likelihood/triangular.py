"""
Roots, triangular factors and products with Λ = diag(I ⊗ R_k, I), compiled.

Numba's cache on disk looks at the file of the caller: after an edit here, touch `crossproduct.py`, which calls it.
"""

import math
from typing import Any

import numba as nb
import numpy as np

SMALL = 32  # order up to which a plain loop factors faster than LAPACK
_BLOCK = 64  # rows that are worked on at a time in a triangular matrix: the rest are matrix products
_PIVOT_RTOL = 1e-12


@nb.njit(cache=True, nogil=True)
def semidefinite_root(A: Any) -> Any:
    """Return the Cholesky factor of a positive semi-definite matrix, columns of 0 for its null space, and success."""
    c = A.shape[0]
    L = np.zeros((c, c))
    for j in range(c):
        pivot = A[j, j]
        for k in range(j):
            pivot -= L[j, k] ** 2
        if not pivot >= -_PIVOT_RTOL * A[j, j] * c:  # beside its own variance: the columns may have any units
            return L, False
        singular = pivot <= _PIVOT_RTOL * A[j, j]
        root = 0.0 if singular else math.sqrt(pivot)
        L[j, j] = root
        for i in range(j + 1, c):
            value = A[i, j]
            for k in range(j):
                value -= L[i, k] * L[j, k]
            if singular:
                if abs(value) > 1e-6 * math.sqrt(max(A[i, i], 0.0) * max(A[j, j], 0.0)) + 1e-300:
                    return L, False
            else:
                L[i, j] = value / root
    return L, True


@nb.njit(cache=True, nogil=True)
def _root_of_eigenvectors(A: Any) -> Any:
    """
    Return the same of a matrix whose pivots ended below 0, from its eigenvalues, beside the variances.

    A small pivot that is no zero enlarges its rounding in those that follow.
    """
    c = A.shape[0]
    L, size = np.zeros((c, c)), np.ones(c)
    if not np.isfinite(A).all():
        return L, False
    for i in range(c):
        if A[i, i] > 0.0:
            size[i] = math.sqrt(A[i, i])
    scaled = np.empty((c, c))
    for i in range(c):
        for j in range(c):
            scaled[i, j] = 0.5 * (A[i, j] + A[j, i]) / size[i] / size[j]
    values, vectors = np.linalg.eigh(scaled)
    if not values[0] >= -_PIVOT_RTOL * c:
        return L, False
    for i in range(c):
        for j in range(c):
            scaled[j, i] = vectors[i, j] * math.sqrt(max(values[j], 0.0)) * size[i]
    _, R = np.linalg.qr(scaled)
    for i in range(c):
        sign = -1.0 if R[i, i] < 0.0 else 1.0
        for j in range(i, c):
            L[j, i] = sign * R[i, j]
    return L, True


@nb.njit(cache=True, nogil=True)
def matrix_root(A: Any) -> Any:
    """Return a lower-triangular root of a positive semi-definite matrix, by LAPACK where it is large, and success."""
    if A.shape[0] > SMALL:
        try:
            return np.linalg.cholesky(A), True
        except Exception:
            pass
    L, ok = semidefinite_root(A)
    return (L, True) if ok else _root_of_eigenvectors(A)


@nb.njit(cache=True, nogil=True)
def cholesky(A: Any) -> Any:
    """Return the Cholesky factor of a positive definite matrix, and success."""
    m = A.shape[0]
    if m > SMALL:
        try:
            return np.linalg.cholesky(A), True
        except Exception:
            return A, False
    L = np.zeros((m, m))
    for i in range(m):
        for j in range(i + 1):
            value = A[i, j]
            for k in range(j):
                value -= L[i, k] * L[j, k]
            if i == j:
                if not value > 0.0:
                    return L, False
                L[i, i] = math.sqrt(value)
            else:
                L[i, j] = value / L[j, j]
    return L, True


@nb.njit(cache=True, nogil=True)
def _invert_rows(L: Any, X: Any, start: int, end: int) -> None:
    """Invert a diagonal block of L into X by substitution."""
    for i in range(start, end):
        for k in range(start, i):
            for j in range(start, k + 1):
                X[i, j] -= L[i, k] * X[k, j]
        for j in range(start, i):
            X[i, j] /= L[i, i]
        X[i, i] = 1.0 / L[i, i]


@nb.njit(cache=True, nogil=True)
def invert_lower(L: Any) -> Any:
    """Return L⁻¹ of a lower-triangular matrix: diagonal blocks by substitution, the rest by matrix products."""
    m = L.shape[0]
    X = np.zeros((m, m))
    for start in range(0, m, _BLOCK):
        end = min(start + _BLOCK, m)
        _invert_rows(L, X, start, end)
        own = np.ascontiguousarray(X[start:end, start:end])
        for at in range(0, start, _BLOCK):  # the columns of X have no entries above row `at`
            part = np.ascontiguousarray(X[at:start, at : at + _BLOCK])
            X[start:end, at : at + _BLOCK] = -(own @ (np.ascontiguousarray(L[start:end, at:start]) @ part))
    return X


@nb.njit(cache=True, nogil=True)
def gram_lower(X: Any) -> Any:
    """Return XᵀX of a lower-triangular matrix."""
    m = X.shape[0]
    out = np.empty((m, m))
    for start in range(0, m, _BLOCK):
        end = min(start + _BLOCK, m)
        block = np.ascontiguousarray(X[start:, start:end].T) @ np.ascontiguousarray(X[start:, :end])
        out[start:end, :end] = block
        out[:end, start:end] = block.T
    return out


@nb.njit(cache=True, nogil=True)
def scale_rows(A: Any, roots: Any, layout: Any, first: int) -> Any:
    """Return ΛᵀA."""
    out = A.copy()
    offset, packed = 0, 0
    for k in range(first, (layout.size - 2) // 2):
        levels, c = layout[2 + 2 * k], layout[3 + 2 * k]
        R = roots[packed : packed + c * c].reshape(c, c)
        packed += c * c
        if c == 1:
            for i in range(offset, offset + levels):
                for j in range(A.shape[1]):
                    out[i, j] = R[0, 0] * A[i, j]
        elif c > SMALL:
            for at in range(offset, offset + levels * c, c):
                out[at : at + c] = np.ascontiguousarray(R.T) @ np.ascontiguousarray(A[at : at + c])
        else:
            for level in range(levels):
                at = offset + level * c
                for s in range(c):
                    for j in range(A.shape[1]):
                        value = 0.0
                        for t in range(s, c):
                            value += R[t, s] * A[at + t, j]
                        out[at + s, j] = value
        offset += levels * c
    return out


@nb.njit(cache=True, nogil=True)
def unscale(A: Any, roots: Any, layout: Any, first: int) -> Any:
    """Return ΛA."""
    out = A.copy()
    offset, packed = 0, 0
    for k in range(first, (layout.size - 2) // 2):
        levels, c = layout[2 + 2 * k], layout[3 + 2 * k]
        R = roots[packed : packed + c * c].reshape(c, c)
        packed += c * c
        if c > SMALL:
            for at in range(offset, offset + levels * c, c):
                out[at : at + c] = R @ np.ascontiguousarray(A[at : at + c])
        else:
            for level in range(levels):
                at = offset + level * c
                for s in range(c):
                    for j in range(A.shape[1]):
                        value = 0.0
                        for t in range(s + 1):
                            value += R[s, t] * A[at + t, j]
                        out[at + s, j] = value
        offset += levels * c
    return out


@nb.njit(cache=True, nogil=True)
def congruent(A: Any, roots: Any, layout: Any, first: int, transposed: bool) -> Any:
    """Return ΛᵀAΛ (transposed) or ΛAΛᵀ of a symmetric matrix."""
    m, offset, packed, widest = A.shape[0], 0, 0, 1
    scale = np.ones(m)
    for k in range(first, (layout.size - 2) // 2):
        levels, c = layout[2 + 2 * k], layout[3 + 2 * k]
        scale[offset : offset + levels * c] = roots[packed]
        offset, packed, widest = offset + levels * c, packed + c * c, max(widest, c)
    if widest == 1:  # Λ is diagonal
        out = np.empty((m, m))
        for i in range(m):
            for j in range(m):
                out[i, j] = scale[i] * A[i, j] * scale[j]
        return out
    if transposed:
        return scale_rows(np.ascontiguousarray(scale_rows(A, roots, layout, first).T), roots, layout, first)
    return unscale(np.ascontiguousarray(unscale(A, roots, layout, first).T), roots, layout, first)
