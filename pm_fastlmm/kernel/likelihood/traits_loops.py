"""
The compiled loops of several traits on one kernel: the log-likelihood and its gradient in one pass over the spectrum.

With T such that TᵀΣ_eT = I and TᵀΣ_gT = diag(d), w = ZT, s_ij = λ_id_j + 1 and q = w/s (`traits.py` has the formulas),

    -2ℓ = pt log 2π + p log|Σ_e| + Σ(log s + wq) + ν(t log 2π + log|Σ_e|) + tr TᵀRT,    Σ_e⁻¹ = TTᵀ.

T comes from a Cholesky factor and Jacobi's rotations, which for the few traits of an analysis take less than a call of
LAPACK. Rows of Z are taken in blocks that stay in the cache; arrays in a block are (t, rows), so that inner loops run
along the rows and are vectorised.

The pass has a name in the process, by which compiled code calls it. A model that linked it in would compile it anew,
for more than a second; one that called back into Python would wait for the interpreter, which chains in threads share.

One file, because Numba's cache sees changes of the calling file alone; imported where it is first needed.
"""

import math
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import carray, cfunc, njit, types

from pm_fastlmm.base.arrays import FloatArray

# what only compiled code calls needs no wrappers, and is kept on disk as a part of what calls it
_inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
# sums may be reordered; NaN and infinity keep their meaning
_reordered = njit(
    error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True,
    fastmath={"reassoc", "contract", "nsz", "arcp"},
)  # fmt: skip
_compiled = njit(cache=True, nogil=True, error_model="numpy")

_EPS = float(np.finfo(np.float64).eps)
_LOG_2PI = math.log(2 * math.pi)
_SWEEPS = 40  # of Jacobi's rotations: fewer than ten are needed
_NUMBERS = 768  # in one array of a block: three of them fit into the fastest cache
_LARGEST_LOG = 690.0  # of a product of s


@_inner
def _inverse_root(S: FloatArray, out: FloatArray) -> float:
    """Write L⁻¹ of S = LLᵀ and return log|S|; NaN where S is not positive definite beyond rounding."""
    t = S.shape[0]
    L = np.zeros((t, t))
    logdet = 0.0
    for j in range(t):
        for i in range(j, t):
            total = S[i, j]
            for k in range(j):
                total -= L[i, k] * L[j, k]
            if i > j:
                L[i, j] = total / L[j, j]
            elif total > t * _EPS * S[j, j] and total < math.inf:
                L[j, j] = math.sqrt(total)
                logdet += math.log(total)
            else:
                return math.nan
    for j in range(t):
        for i in range(t):
            total = 1.0 if i == j else 0.0
            for k in range(j, i):
                total -= L[i, k] * out[k, j]
            out[i, j] = total / L[i, i] if i >= j else 0.0
    return logdet


@_inner
def _rotate(A: FloatArray, B: FloatArray) -> None:
    """Make A diagonal by Jacobi's rotations QᵀAQ, in place, and B into QᵀB."""
    t = A.shape[0]
    for _ in range(_SWEEPS):
        done = True
        for p in range(t - 1):
            for q in range(p + 1, t):
                a, b, off = A[p, p], A[q, q], A[p, q]
                if not abs(off) > 0.25 * _EPS * math.sqrt(abs(a)) * math.sqrt(abs(b)):
                    continue
                done = False
                ratio = 0.5 * (b - a) / off
                tangent = math.copysign(1.0, ratio) / (abs(ratio) + math.hypot(1.0, ratio))
                c = 1.0 / math.sqrt(1.0 + tangent * tangent)
                s = tangent * c
                for k in range(t):
                    if k != p and k != q:
                        x, y = A[p, k], A[q, k]
                        A[p, k] = A[k, p] = c * x - s * y
                        A[q, k] = A[k, q] = s * x + c * y
                    x, y = B[p, k], B[q, k]
                    B[p, k], B[q, k] = c * x - s * y, s * x + c * y
                A[p, p], A[q, q] = a - tangent * off, b + tangent * off
                A[p, q] = A[q, p] = 0.0
        if done:
            return


@_inner
def _common_basis(sigma_g: FloatArray, sigma_e: FloatArray, T: FloatArray, d: FloatArray) -> float:
    """
    Write Tᵀ and d, and return log|Σ_e|; NaN where Σ_e is not positive definite or Σ_g has a negative eigenvalue.

    Rounding of Σ_g moves d by no more than some ε tr(diag(Σ_e)Σ_e⁻¹) Σd: negative values of that size are 0.
    """
    t = d.size
    E, G, half, A = np.empty((t, t)), np.empty((t, t)), np.zeros((t, t)), np.zeros((t, t))
    for i in range(t):
        for j in range(t):
            E[i, j] = 0.5 * (sigma_e[i, j] + sigma_e[j, i])
            G[i, j] = 0.5 * (sigma_g[i, j] + sigma_g[j, i])
    logdet = _inverse_root(E, T)
    if math.isnan(logdet):
        return math.nan
    condition = 0.0
    for i in range(t):  # L⁻¹ is lower triangular
        for j in range(t):
            for k in range(i + 1):
                half[i, j] += T[i, k] * G[k, j]
        for j in range(i + 1):
            condition += E[j, j] * T[i, j] * T[i, j]
    for i in range(t):
        for j in range(i + 1):
            for k in range(j + 1):
                A[i, j] += half[i, k] * T[j, k]
            A[j, i] = A[i, j]
    _rotate(A, T)
    total, least = 0.0, 0.0
    for j in range(t):
        d[j] = max(A[j, j], 0.0)
        total += abs(A[j, j])
        least = min(least, A[j, j])
    # a comparison that NaN and infinity fail
    return logdet if total < math.inf and least >= -8.0 * _EPS * condition * total else math.nan


@_reordered
def _whiten(T: FloatArray, Z: FloatArray, start: int, rows: int, w: FloatArray) -> None:
    """Write W of a block of rows."""
    t = T.shape[0]
    for j in range(t):
        out = w[j]
        for i in range(rows):
            out[i] = 0.0
        for k in range(t):
            scale, z = T[j, k], Z[k, start : start + rows]
            for i in range(rows):
                out[i] += scale * z[i]


@_reordered
def _pull(T: FloatArray, q: FloatArray, start: int, rows: int, d_Z: FloatArray) -> None:
    """Write -qTᵀ of a block of rows."""
    t = T.shape[0]
    for k in range(t):
        out = d_Z[k, start : start + rows]
        for j in range(t):
            scale, own = T[j, k], q[j]
            for i in range(rows):
                out[i] -= scale * own[i]


@_reordered
def _trait(eigvals: FloatArray, d: float, w: FloatArray) -> tuple[float, float, float]:
    """Turn w into q, and return Σwq, Σ1/s and Σλ/s."""
    total, low, high = 0.0, 0.0, 0.0
    for i in range(eigvals.size):
        v = 1.0 / (eigvals[i] * d + 1.0)
        q = w[i] * v
        total += w[i] * q
        low += v
        high += eigvals[i] * v
        w[i] = q
    return total, low, high


@_reordered
def _products(eigvals: FloatArray, a: FloatArray, b: FloatArray) -> tuple[float, float]:
    """Return Σab and Σλab."""
    low, high = 0.0, 0.0
    for i in range(eigvals.size):
        v = a[i] * b[i]
        low += v
        high += eigvals[i] * v
    return low, high


@_reordered
def _log_shifted(eigvals: FloatArray, largest: float, d: float) -> float:
    """Return Σ log(λd + 1), from products of as many as stay below 10³⁰⁰."""
    total = 0.0
    group = max(1, int(_LARGEST_LOG / max(math.log(largest * d + 1.0), 1.0)))
    for start in range(0, eigvals.size, group):
        product = 1.0
        for i in range(start, min(start + group, eigvals.size)):
            product *= eigvals[i] * d + 1.0
        total += math.log(product)
    return total


@_inner
def _outside(T: FloatArray, outside: FloatArray, nullity: int, low: FloatArray, d_outside: FloatArray) -> float:
    """Add TᵀRT - νI to the lower triangle of what ½T·Tᵀ takes, write -½Σ_e⁻¹, and return tr TᵀRT."""
    t = T.shape[0]
    trace = 0.0
    for i in range(t):
        for j in range(i + 1):
            total = 0.0
            for a in range(t):
                for b in range(t):
                    total += T[i, a] * T[j, b] * 0.5 * (outside[a, b] + outside[b, a])
            low[i, j] += total
        low[i, i] -= nullity
        trace += total
        for a in range(t):
            for b in range(t):
                d_outside[a, b] -= 0.5 * T[i, a] * T[i, b]
    return trace


@_inner
def _back(T: FloatArray, M: FloatArray, out: FloatArray) -> None:
    """Write ½TMTᵀ; of M the lower triangle is given."""
    t = T.shape[0]
    half = np.zeros((t, t))
    for i in range(t):
        for j in range(t):
            m = 0.5 * (M[i, j] if i >= j else M[j, i])
            for a in range(t):
                half[i, a] += m * T[j, a]
    for a in range(t):
        for b in range(a + 1):
            for i in range(t):
                out[a, b] += T[i, a] * half[i, b]
            out[b, a] = out[a, b]


_SIGNATURE = types.float64(*[types.CPointer(types.float64)] * 9, *[types.intp] * 4)


@cfunc(_SIGNATURE, cache=True, error_model="numpy")
def _at(
    sigma_g: Any, sigma_e: Any, z: Any, outside: Any, values: Any, d_sigma_g: Any, d_sigma_e: Any, d_z: Any,
    d_outside: Any, t: int, p: int, columns: int, nullity: int,
) -> float:  # fmt: skip
    """
    Return ℓ and add its gradient to what is at the addresses, nothing where ℓ is -∞.

    z and its gradient are (t, p); `columns` of the latter are p, or 0 if it is not asked for.
    """
    T, d = np.zeros((t, t)), np.zeros(t)
    logdet = _common_basis(carray(sigma_g, (t, t)), carray(sigma_e, (t, t)), T, d)
    if math.isnan(logdet):
        return -math.inf
    Z, d_Z, eigvals = carray(z, (t, p)), carray(d_z, (t, columns)), carray(values, (p,))
    total = (p + nullity) * (t * _LOG_2PI + logdet)
    largest = 0.0
    for i in range(p):
        largest = max(largest, eigvals[i])
    for j in range(t):
        total += _log_shifted(eigvals, largest, d[j])
    size = max(16, _NUMBERS // t)
    low, high, q = np.zeros((t, t)), np.zeros((t, t)), np.empty((t, size))
    for start in range(0, p, size):
        rows = min(size, p - start)
        part = eigvals[start : start + rows]
        _whiten(T, Z, start, rows, q)
        for j in range(t):
            quadratic, of_e, of_g = _trait(part, d[j], q[j])
            total += quadratic
            low[j, j] -= of_e
            high[j, j] -= of_g
            for k in range(j + 1):
                a, b = _products(part, q[j], q[k])
                low[j, k] += a
                high[j, k] += b
        if columns:
            _pull(T, q, start, rows, d_Z)
    if nullity:
        total += _outside(T, carray(outside, (t, t)), nullity, low, carray(d_outside, (t, t)))
    _back(T, high, carray(d_sigma_g, (t, t)))
    _back(T, low, carray(d_sigma_e, (t, t)))
    return -0.5 * total


llvm.add_symbol("pm_fastlmm_traits", _at.address)
_by_name = types.ExternalFunction("pm_fastlmm_traits", _SIGNATURE)


@_inner
def _called(
    sigma_g: FloatArray, sigma_e: FloatArray, z: FloatArray, outside: FloatArray, eigvals: FloatArray, nullity: Any,
    columns: int,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:  # fmt: skip
    """Return ℓ as an array without dimensions, and its gradient; that in z for 0 or all of the columns of zᵀ."""
    p, t = z.shape
    G, E, R = np.ascontiguousarray(sigma_g), np.ascontiguousarray(sigma_e), np.ascontiguousarray(outside)
    Z, values = np.ascontiguousarray(z.T), np.ascontiguousarray(eigvals)
    d_sigma_g, d_sigma_e, d_outside, d_Z = np.zeros((t, t)), np.zeros((t, t)), np.zeros((t, t)), np.zeros((t, columns))
    loglik = _by_name(
        G.ctypes, E.ctypes, Z.ctypes, R.ctypes, values.ctypes, d_sigma_g.ctypes, d_sigma_e.ctypes, d_Z.ctypes,
        d_outside.ctypes, t, p, columns, nullity.item(),
    )  # fmt: skip
    return np.array(loglik), d_sigma_g, d_sigma_e, d_Z.T, d_outside


@_compiled
def in_variances(
    sigma_g: FloatArray, sigma_e: FloatArray, z: FloatArray, outside: FloatArray, eigvals: FloatArray, nullity: Any
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return ℓ and its gradient in Σ_g and Σ_e."""
    return _called(sigma_g, sigma_e, z, outside, eigvals, nullity, 0)[:3]


@_compiled
def in_all(
    sigma_g: FloatArray, sigma_e: FloatArray, z: FloatArray, outside: FloatArray, eigvals: FloatArray, nullity: Any
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return ℓ and its gradient in Σ_g, Σ_e, z and the products outside."""
    return _called(sigma_g, sigma_e, z, outside, eigvals, nullity, z.shape[0])
