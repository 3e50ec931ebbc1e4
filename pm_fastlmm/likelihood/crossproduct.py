"""
The likelihood of several random-effects terms from cross-products, with its score: cost independent of n.

V = Σ_k Z_k(I ⊗ Σ_k)Z_kᵀ + σ²_eI. With N = (Z₁G₁Z₁ᵀ + σ²_eI)⁻¹ the eliminated term costs a width × width factorisation
for each level, M_j = C_jᵀΣ₁C_j + σ²_eI, and leaves the dense block F = σ²_eWᵀNW = within + σ²_e Σ_j B_jᵀM_j⁻¹B_j.
Then, with roots Λ = diag(I ⊗ R_k, I), R_kR_kᵀ = Σ_k, and J = diag(I, 0) (0 for the fixed effects),

    S = ΛᵀFΛ + σ²_eJ = LLᵀ
    log|V| + log|Q₁ᵀV⁻¹Q₁| = Σ_j log|M_j| + 2Σ log L_ii + (p - levels · width - q) log σ²_e
    yᵀPy = (σ²_eyᵀNy - ‖L⁻¹Λᵀf‖²)/σ²_e,   f = σ²_eWᵀNy;   effects of W: b = ΛS⁻¹Λᵀf

The score for Σ_k, ½ Σ_levels [w wᵀ - Z_jᵀPZ_j] with w = Z_jᵀPy, is defined when Σ_k is singular or 0. That for σ²_e
follows from Euler's identity, ℓ being a function of yᵀPy and log-determinants homogeneous in all the variances:

    σ²_e ∂ℓ/∂σ²_e = ½(yᵀPy - p) - Σ_k ⟨Σ_k, ∂ℓ/∂Σ_k⟩

References
----------
Bates et al. (2015), doi:10.18637/jss.v067.i01; Johnson & Thompson (1995), doi:10.3168/jds.S0022-0302(95)76654-1.
"""

import math
from typing import Any

import numba as nb
import numpy as np

from pm_fastlmm.likelihood.triangular import (
    cholesky,
    congruent,
    gram_lower,
    invert_lower,
    matrix_root,
    scale_rows,
    unscale,
)

LOG_2PI = math.log(2 * math.pi)

_TINY = 1e-3  # Σ_k F/σ²_e below which the score is taken in the form that needs no inverse of Σ_k
_DENSE = 0.25  # share of entries of B that are not 0 above which matrix products are faster than loops


@nb.njit(cache=True, nogil=True)
def _eliminate(phi: Any, e: float, C: Any) -> Any:
    """Return M_j⁻¹ of the eliminated term, Σ log|M_j|, and success."""
    L, c = C.shape[0], C.shape[1]
    Minv = np.empty((L, c, c))
    logdet = 0.0
    if c == 1:
        for j in range(L):
            M = phi[0] * C[j, 0, 0] ** 2 + e
            if not M > 0.0:
                return Minv, logdet, False
            Minv[j, 0, 0] = 1.0 / M
            logdet += math.log(M)
        return Minv, logdet, True
    sigma = phi[: c * c].reshape(c, c)
    for j in range(L):
        M = np.zeros((c, c))
        for s in range(c):
            for t in range(c):
                value = e if s == t else 0.0
                for a in range(c):
                    for b in range(c):
                        value += C[j, a, s] * sigma[a, b] * C[j, b, t]
                M[s, t] = value
        root, ok = cholesky(M)
        if not ok:
            return Minv, logdet, False
        inverse = invert_lower(root)
        for s in range(c):
            logdet += 2.0 * math.log(root[s, s])
            for t in range(c):
                value = 0.0
                for a in range(max(s, t), c):
                    value += inverse[a, s] * inverse[a, t]
                Minv[j, s, t] = value
    return Minv, logdet, True


@nb.njit(cache=True, nogil=True)
def _fills(indptr: Any, m: int) -> Any:
    """Return whether B, of m columns, is better taken as a dense matrix."""
    rows = indptr.size - 1
    return rows > 0 and indptr[rows] > _DENSE * rows * m


@nb.njit(cache=True, nogil=True)
def _filled(indptr: Any, indices: Any, data: Any, m: int) -> Any:
    """Return B as a dense matrix."""
    B = np.zeros((indptr.size - 1, m))
    for row in range(indptr.size - 1):
        for p in range(indptr[row], indptr[row + 1]):
            B[row, indices[p]] = data[p]
    return B


@nb.njit(cache=True, nogil=True)
def _dense_block(Minv: Any, e: float, between: Any, rss: float, fy: Any, indptr: Any, indices: Any, data: Any,
                 within: Any) -> Any:  # fmt: skip
    """Return F, f and σ²_eyᵀNy."""
    F, f, s = within.copy(), fy.copy(), rss
    L, c = Minv.shape[0], Minv.shape[1]
    dense = _fills(indptr, F.shape[0])
    if dense:
        B = _filled(indptr, indices, data, F.shape[0])
        weighted = np.empty(B.shape)
        for j in range(L):
            own = np.ascontiguousarray(B[j * c : (j + 1) * c])
            weighted[j * c : (j + 1) * c] = (e * Minv[j]) @ own
        F += np.ascontiguousarray(B.T) @ weighted
    for j in range(L):
        for a in range(c):
            row = j * c + a
            for b in range(c):
                weight = e * Minv[j, a, b]
                other = j * c + b
                s += weight * between[j, a] * between[j, b]
                for p in range(indptr[row], indptr[row + 1]):
                    scaled = weight * data[p]
                    f[indices[p]] += scaled * between[j, b]
                    if not dense:
                        for q in range(indptr[other], indptr[other + 1]):
                            F[indices[p], indices[q]] += scaled * data[q]
    return F, f, s


@nb.njit(cache=True, nogil=True)
def factorise(phi: Any, e: float, fy: Any, between: Any, rss: float, layout: Any, C: Any, indptr: Any, indices: Any,
              data: Any, within: Any) -> Any:  # fmt: skip
    """
    Factor V at Σ_k (packed in `phi`, in the order of the layout) and σ²_e = e.

    Returns
    -------
    ok, loglik, yPy, Minv, F, f, roots, Linv, v, b
        v = S⁻¹Λᵀf, b = Λv; the log-likelihood is that of the error contrasts, with an orthonormal X.
    """
    n, r, terms = layout[0], layout[1], (layout.size - 2) // 2
    first = 1 if C.shape[0] else 0
    m = within.shape[0]
    q = m - r
    v, empty, failed = np.zeros(m), np.zeros((0, 0)), -math.inf
    sizes = 0
    for k in range(first, terms):
        sizes += layout[3 + 2 * k] ** 2
    roots = np.zeros(sizes)
    Minv, logdet, ok = _eliminate(phi, e, C)
    if not (ok and e > 0.0):
        return False, failed, 0.0, Minv, empty, fy, roots, empty, v, v
    start = layout[3] ** 2 if first else 0
    if (first and layout[3] > 1) or not np.isfinite(phi).all():
        _, ok = matrix_root(phi[:start].copy().reshape(layout[3], layout[3]))
    elif first:
        ok = phi[0] >= 0.0
    packed = 0
    for k in range(first, terms):
        c = layout[3 + 2 * k]
        root, good = matrix_root(phi[start + packed : start + packed + c * c].copy().reshape(c, c))
        ok = ok and good
        roots[packed : packed + c * c] = root.ravel()
        packed += c * c
    if not ok:
        return False, failed, 0.0, Minv, empty, fy, roots, empty, v, v
    F, f, s = _dense_block(Minv, e, between, rss, fy, indptr, indices, data, within)
    S = congruent(F, roots, layout, first, True)
    for i in range(q):
        S[i, i] += e
    root, ok = cholesky(S)
    if not ok:
        return False, failed, 0.0, Minv, F, f, roots, empty, v, v
    Linv = invert_lower(root)
    g = scale_rows(f.reshape(m, 1).copy(), roots, layout, first)[:, 0].copy()
    a = Linv @ g
    explained = a @ a
    if explained > s > 0.0:  # by rounding alone: σ²_e is too small beside the other variances for any digit of yᵀPy
        return False, failed, 0.0, Minv, F, f, roots, empty, v, v
    yPy = (s - explained) / e
    for i in range(m):
        logdet += 2.0 * math.log(root[i, i])
    logdet += (n - r - C.shape[0] * C.shape[1] - q) * math.log(e)
    v = np.ascontiguousarray(Linv.T) @ a
    b = unscale(v.reshape(m, 1).copy(), roots, layout, first)[:, 0].copy()
    loglik = -0.5 * ((n - r) * LOG_2PI + logdet + yPy)
    return True, loglik, yPy, Minv, F, f, roots, Linv, v, b


@nb.njit(cache=True, nogil=True)
def _eliminated_score(grad: Any, e: float, between: Any, C: Any, indptr: Any, indices: Any, data: Any, Minv: Any,
                      H: Any, b: Any) -> Any:  # fmt: skip
    """Add the score of Σ₁ to grad, and return M_j⁻¹(ȳ_j - B_jb), of which C_j makes Z₁ᵀPy; H = ΛS⁻¹Λᵀ."""
    L, c = C.shape[0], C.shape[1]
    weighted = np.empty((L, c))
    dense = _fills(indptr, H.shape[0])
    B = _filled(indptr, indices, data, H.shape[0]) if dense else H[:0]
    BH = B @ H
    for j in range(L):
        residual = np.empty(c)
        middle = np.zeros((c, c))  # BHBᵀ: M⁻¹ - e M⁻¹BHBᵀM⁻¹ is that of which C makes Z₁ᵀPZ₁
        for a in range(c):
            row = j * c + a
            residual[a] = between[j, a]
            for p in range(indptr[row], indptr[row + 1]):
                residual[a] -= data[p] * b[indices[p]]
            for d in range(a + 1):
                other, value = j * c + d, 0.0
                if dense:
                    value = BH[row] @ B[other]
                else:
                    for p in range(indptr[row], indptr[row + 1]):
                        along = 0.0
                        for q in range(indptr[other], indptr[other + 1]):
                            along += data[q] * H[indices[p], indices[q]]
                        value += data[p] * along
                middle[a, d] = value
                middle[d, a] = value
        for a in range(c):
            value = 0.0
            for d in range(c):
                value += Minv[j, a, d] * residual[d]
            weighted[j, a] = value
        inner = Minv[j] - e * (Minv[j] @ middle @ Minv[j])
        for s in range(c):
            for t in range(c):
                value = 0.0
                for a in range(c):
                    for d in range(c):
                        value += C[j, s, a] * C[j, t, d] * (weighted[j, a] * weighted[j, d] - inner[a, d])
                grad[s * c + t] += 0.5 * value
    return weighted


@nb.njit(cache=True, nogil=True)
def _dense_score(grad: Any, e: float, F: Any, f: Any, roots: Any, layout: Any, first: int, Linv: Any, Sinv: Any,
                 v: Any, b: Any, start: int) -> Any:  # fmt: skip
    """Add the scores of the terms in the dense block to grad, and return WᵀPy."""
    w = (f - F @ b) / e
    offset, packed = 0, 0
    for k in range(first, (layout.size - 2) // 2):
        levels, c = layout[2 + 2 * k], layout[3 + 2 * k]
        R = roots[packed : packed + c * c].copy().reshape(c, c)
        width = levels * c
        smallest = math.inf
        for s in range(c):
            size = 0.0
            for level in range(levels):
                size += F[offset + level * c + s, offset + level * c + s] / levels
            smallest = min(smallest, R[s, s] ** 2 * size)
        ZPZ = np.zeros((c, c))
        if smallest > _TINY * e:  # Z_jᵀPZ_j = R⁻ᵀ(I - σ²_e(S⁻¹)_jj)R⁻¹, Z_jᵀPy = R⁻ᵀv_j
            Rinv = invert_lower(R)
            inner = np.zeros((c, c))
            for level in range(levels):
                at = offset + level * c
                inner += np.eye(c) - e * Sinv[at : at + c, at : at + c]
                w[at : at + c] = np.ascontiguousarray(Rinv.T) @ v[at : at + c]
            ZPZ = np.ascontiguousarray(Rinv.T) @ inner @ Rinv
        else:  # Z_jᵀPZ_j = (F_jj - F_j·ΛS⁻¹ΛᵀF_·j)/σ²_e
            Y = Linv @ scale_rows(np.ascontiguousarray(F[:, offset : offset + width]), roots, layout, first)
            for level in range(levels):
                at = level * c
                columns = np.ascontiguousarray(Y[:, at : at + c])
                block = F[offset + at : offset + at + c, offset + at : offset + at + c]
                ZPZ += (block - np.ascontiguousarray(columns.T) @ columns) / e
        for s in range(c):
            for t in range(c):
                value = -ZPZ[s, t]
                for level in range(levels):
                    value += w[offset + level * c + s] * w[offset + level * c + t]
                grad[start + packed + s * c + t] = 0.5 * value
        packed += c * c
        offset += width
    return w


@nb.njit(cache=True, nogil=True)
def gradient(phi: Any, e: float, between: Any, layout: Any, C: Any, indptr: Any, indices: Any, data: Any, yPy: float,
             Minv: Any, F: Any, f: Any, roots: Any, Linv: Any, v: Any, b: Any) -> Any:  # fmt: skip
    """Return ∂ℓ/∂phi, ∂ℓ/∂e, and from Z_kᵀPy of the eliminated term its C⁻¹ part (levels, width), of the others all."""
    first = 1 if C.shape[0] else 0
    grad, start = np.zeros(phi.size), C.shape[1] ** 2 * first
    weighted = np.zeros(between.shape)
    Sinv = gram_lower(Linv)
    if first:
        H = congruent(Sinv, roots, layout, first, False)
        weighted = _eliminated_score(grad, e, between, C, indptr, indices, data, Minv, H, b)
    w = _dense_score(grad, e, F, f, roots, layout, first, Linv, Sinv, v, b, start)
    return grad, (0.5 * (yPy - (layout[0] - layout[1])) - phi @ grad) / e, weighted, w


@nb.njit(cache=True, nogil=True)
def loglik_and_gradient(phi: Any, e: float, fy: Any, between: Any, rss: float, layout: Any, C: Any, indptr: Any,
                        indices: Any, data: Any, within: Any) -> Any:  # fmt: skip
    """
    Return the log-likelihood and its gradient with respect to phi, e, and the statistics of the response.

    Outside the parameter space (σ²_e ≤ 0, a Σ_k that is not positive semi-definite or overflows) it is -inf, with
    gradient 0.
    """
    if not (math.isfinite(e) and np.isfinite(phi).all()):
        return -math.inf, np.zeros(phi.size), 0.0, np.zeros(fy.size), np.zeros(between.shape), 0.0
    ok, loglik, yPy, Minv, F, f, roots, Linv, v, b = factorise(
        phi, e, fy, between, rss, layout, C, indptr, indices, data, within
    )
    if not ok:
        return -math.inf, np.zeros(phi.size), 0.0, np.zeros(fy.size), np.zeros(between.shape), 0.0
    grad, de, weighted, _ = gradient(
        phi, e, between, layout, C, indptr, indices, data, yPy, Minv, F, f, roots, Linv, v, b
    )
    return loglik, grad, de, b / e, -weighted, -0.5 / e
