"""
The likelihood of `loops.py` and its score by NumPy: for models that are fitted before Numba has compiled those.

The formulas and what is returned are the same; B is a dense matrix, of which many levels have too much.
"""

import math
from typing import Any

import numpy as np
from scipy.linalg import lapack

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.structured import loops
from pm_fastlmm.engines.structured.products import MixedProducts
from pm_fastlmm.engines.structured.roots import packed_roots
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI

_TINY = loops._TINY
_OUTSIDE = -math.inf, math.nan


def factorise(
    p: MixedProducts, phi: FloatArray, e: float, fy: FloatArray, between: FloatArray, rss: float
) -> tuple[Any, ...]:
    """Factor V at Σ_k, packed in `phi`, and σ²_e = e."""
    levels, c = p.C.shape[:2]
    if not (0.0 < e < math.inf and np.isfinite(phi).all()):
        return _OUTSIDE
    start, packed = c * c if levels else 0, packed_roots(p, phi)
    eliminated = _eliminate(phi[:start].reshape(c, c), e, p.C) if levels else (np.empty((0, c, c)), 0.0)
    if packed is None or eliminated is None:
        return _OUTSIDE
    roots = packed[start:]
    Minv, logdet = eliminated
    B = p.filled
    weighted = ((e * Minv) @ B.reshape(levels, c, fy.size)).reshape(B.shape)
    F, f = p.within + B.T @ weighted, fy + between.ravel() @ weighted
    s = rss + e * float(np.einsum("ja,jab,jb->", between, Minv, between))
    S = p.times_roots(p.times_roots(F, roots).T, roots)
    q = len(S) - p.fixed
    S[np.arange(q), np.arange(q)] += e
    try:
        L = np.linalg.cholesky(S)
    except np.linalg.LinAlgError:
        return _OUTSIDE
    Linv = inverse_lower(L)
    a = Linv @ p.times_roots(f[None], roots)[0]
    explained = float(a @ a)
    if explained > s > 0.0:  # by rounding alone: σ²_e is too small beside the other variances for any digit of yᵀPy
        return _OUTSIDE
    yPy = (s - explained) / e
    logdet += 2 * float(np.log(np.diagonal(L)).sum()) + (p.df - levels * c - q) * math.log(e)
    v = Linv.T @ a
    b = p.times_roots(v[None], roots, transposed=True)[0]
    return -0.5 * (p.df * LOG_2PI + logdet + yPy), yPy, Minv, F, f, roots, Linv, v, b


def _eliminate(sigma: FloatArray, e: float, C: FloatArray) -> tuple[FloatArray, float] | None:
    """Return M_j⁻¹ of the eliminated term and Σ log|M_j|; None where they are not to be had."""
    M = np.swapaxes(C, 1, 2) @ sigma @ C + e * np.eye(len(sigma))
    if len(sigma) == 1:
        return (1 / M, float(np.log(M).sum())) if (M > 0.0).all() else None
    try:
        L = np.linalg.cholesky(M)
    except np.linalg.LinAlgError:
        return None
    half = np.linalg.inv(L)
    return np.swapaxes(half, 1, 2) @ half, 2 * float(np.log(np.diagonal(L, axis1=1, axis2=2)).sum())


def inverse_lower(L: FloatArray) -> FloatArray:
    """Return L⁻¹ of a lower-triangular matrix."""
    return np.ascontiguousarray(lapack.dtrtri(L, lower=1)[0]) if L.size else L


def gradient(
    p: MixedProducts, phi: FloatArray, e: float, between: FloatArray, yPy: float, Minv: FloatArray, F: FloatArray,
    f: FloatArray, roots: FloatArray, Linv: FloatArray, v: FloatArray, b: FloatArray,
) -> tuple[FloatArray, float, FloatArray, FloatArray]:  # fmt: skip
    """Return ∂ℓ/∂phi, ∂ℓ/∂e, and from Z_kᵀPy of the eliminated term its C⁻¹ part (levels, width), of the others all."""
    levels, c = p.C.shape[:2]
    Sinv, weighted, grads = Linv.T @ Linv, np.zeros(between.shape), []
    if levels:
        H = p.times_roots(p.times_roots(Sinv, roots, transposed=True).T, roots, transposed=True)
        weighted = np.einsum("jab,jb->ja", Minv, between - (p.filled @ b).reshape(levels, c))
        B, BH = (rows.reshape(levels, c, b.size) for rows in (p.filled, p.filled @ H))
        middle = np.einsum("jam,jbm->jab", BH, B)  # BHBᵀ
        left = weighted[:, :, None] * weighted[:, None] - Minv + e * (Minv @ middle @ Minv)
        grads.append(0.5 * (p.C @ left @ np.swapaxes(p.C, 1, 2)).sum(axis=0).ravel())
    w, start, packed = (f - F @ b) / e, 0, 0
    for count, c in p.sizes.tolist():
        here, end = slice(start, start + count * c), packed + c * c
        R = roots[packed:end].reshape(c, c)
        by_level = F[here, here].reshape(count, c, count, c)
        size = np.einsum("iaia->a", by_level) / count
        if (np.diag(R) ** 2 * size).min() > _TINY * e:  # Z_jᵀPZ_j = R⁻ᵀ(I - σ²_e(S⁻¹)_jj)R⁻¹, Z_jᵀPy = R⁻ᵀv_j
            Rinv = inverse_lower(R)
            inner = count * np.eye(c) - e * np.einsum("iaib->ab", Sinv[here, here].reshape(count, c, count, c))
            w[here] = (v[here].reshape(count, c) @ Rinv).ravel()
            ZPZ = Rinv.T @ inner @ Rinv
        else:  # Z_jᵀPZ_j = (F_jj - F_j·ΛS⁻¹ΛᵀF_·j)/σ²_e
            Y = (Linv @ p.times_roots(F[here], roots).T).reshape(len(Linv), count, c)
            ZPZ = (np.einsum("iaib->ab", by_level) - np.einsum("mia,mib->ab", Y, Y)) / e
        own = w[here].reshape(count, c)
        grads.append(0.5 * (own.T @ own - ZPZ).ravel())
        start, packed = here.stop, end
    grad = np.concatenate([np.zeros(0), *grads])
    return grad, (0.5 * (yPy - p.df) - float(phi @ grad)) / e, weighted, w
