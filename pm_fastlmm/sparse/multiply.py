"""
Compiled products of known matrices with a few columns, for what is compiled for one model.

A call of BLAS takes PyTensor some ten seconds to compile into a model; these loops take none, and are as fast where the
matrix does not stay in the cache. The module is imported where it is first needed, as Numba takes half a second to
load.
"""

from typing import Any

import numpy as np
from numba import njit

_inner = njit(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})  # NaN and infinity keep their meaning


def by_columns(indptr: Any, indices: Any, data: Any) -> Any:
    """Return x ↦ Qx, x (n, c), for a sparse symmetric Q with both triangles, by columns."""

    @_inner
    def multiply(x):  # type: ignore[no-untyped-def]
        n, c = x.shape
        out = np.empty((n, c))
        for j in range(n):
            for k in range(c):
                total = 0.0
                for a in range(indptr[j], indptr[j + 1]):
                    total += data[a] * x[indices[a], k]
                out[j, k] = total
        return out

    return multiply


def by_rows(R: Any) -> tuple[Any, Any]:
    """Return x ↦ Rx and g ↦ Rᵀg, for a dense R (n, m)."""
    n, m = R.shape

    @_inner
    def forward(x):  # type: ignore[no-untyped-def]
        columns = np.ascontiguousarray(x.T)
        out = np.empty((n, len(columns)))
        for i in range(n):
            for k in range(len(columns)):
                total = 0.0
                for j in range(m):
                    total += R[i, j] * columns[k, j]
                out[i, k] = total
        return out

    @_inner
    def adjoint(g):  # type: ignore[no-untyped-def]
        out = np.zeros((g.shape[1], m))
        for i in range(n):
            for k in range(len(out)):
                for j in range(m):
                    out[k, j] += R[i, j] * g[i, k]
        return out.T

    return forward, adjoint
