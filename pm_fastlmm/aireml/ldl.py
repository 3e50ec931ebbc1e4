"""
Symmetric matrices as UDUᵀ, packed: coordinates in which positive semi-definite is D ≥ 0.

Where the first variance of a matrix goes to 0 and others do not, U has no limit; `reverse` takes the columns from the
last to the first, in which it has.
"""

import numpy as np

from pm_fastlmm._arrays import FloatArray


def lower(packed: FloatArray, c: int) -> FloatArray:
    """Return the lower triangle (c, c) of its elements row by row."""
    out = np.zeros((c, c))
    out[np.tril_indices(c)] = packed
    return out


def unpack_ldl(packed: FloatArray, c: int) -> tuple[FloatArray, FloatArray]:
    """Return U, with ones on its diagonal, and the diagonal of D."""
    L = lower(packed, c)
    return np.tril(L, -1) + np.eye(c), np.diag(L).copy()


def to_ldl(packed: FloatArray, c: int, *, reverse: bool = False) -> FloatArray:
    """Return D on the diagonal and U below it, of a positive semi-definite matrix; zero columns where D is 0."""
    S = lower(packed, c)
    S = S + np.tril(S, -1).T
    S = S[::-1, ::-1].copy() if reverse else S
    scale = np.diag(S).copy()
    out = np.zeros((c, c))
    for j in range(c):
        pivot = S[j, j] if S[j, j] > 1e-12 * scale[j] else 0.0
        out[j, j] = pivot
        if pivot:
            column = S[j + 1 :, j] / pivot
            out[j + 1 :, j] = column
            S[j + 1 :, j + 1 :] -= pivot * np.outer(column, column)
    return out[np.tril_indices(c)]


def from_ldl(packed: FloatArray, c: int, *, reverse: bool = False) -> FloatArray:
    """Return UDUᵀ, packed."""
    U, D = unpack_ldl(packed, c)
    S = (U * D) @ U.T
    return np.asarray((S[::-1, ::-1] if reverse else S)[np.tril_indices(c)])


def ldl_jacobian(packed: FloatArray, c: int, *, reverse: bool = False) -> FloatArray:
    """Return ∂vech(UDUᵀ)/∂(D, U): U_kU_kᵀ for D_k, D_j(e_iU_jᵀ + U_je_iᵀ) for U_ij."""
    U, D = unpack_ldl(packed, c)
    rows, columns = np.tril_indices(c)
    out = np.empty((len(rows), len(rows)))
    for a, (i, j) in enumerate(zip(rows, columns, strict=True)):
        if i == j:
            change = np.outer(U[:, i], U[:, i])
        else:
            change = np.zeros((c, c))
            change[i] += D[j] * U[:, j]
            change[:, i] += D[j] * U[:, j]
        out[:, a] = (change[::-1, ::-1] if reverse else change)[rows, columns]
    return out
