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

LOG_2PI = math.log(2 * math.pi)

_SMALL = 32  # order up to which a plain loop factors faster than LAPACK
_BLOCK = 64  # rows that are worked on at a time in a triangular matrix: the rest are matrix products
_TINY = 1e-3  # Σ_k F/σ²_e below which the score is taken in the form that needs no inverse of Σ_k
_PIVOT_RTOL = 1e-12


@nb.njit(cache=True, nogil=True)
def _semidefinite_root(A: Any) -> Any:
    """Return the Cholesky factor of a positive semi-definite matrix, columns of 0 for its null space, and success."""
    c = A.shape[0]
    L = np.zeros((c, c))
    scale = 0.0
    for i in range(c):
        scale = max(scale, A[i, i])
    for j in range(c):
        pivot = A[j, j]
        for k in range(j):
            pivot -= L[j, k] ** 2
        if not pivot >= -_PIVOT_RTOL * scale * c:
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
def _root(A: Any) -> Any:
    if A.shape[0] > _SMALL:
        try:
            return np.linalg.cholesky(A), True
        except Exception:
            pass
    return _semidefinite_root(A)


@nb.njit(cache=True, nogil=True)
def _factor(A: Any) -> Any:
    """Return the Cholesky factor of a positive definite matrix, and success."""
    m = A.shape[0]
    if m > _SMALL:
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
def _invert_lower(L: Any) -> Any:
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
def _gram_lower(X: Any) -> Any:
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
def _scale_rows(A: Any, roots: Any, layout: Any, first: int) -> Any:
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
        elif c > _SMALL:
            out[offset : offset + c] = np.ascontiguousarray(R.T) @ np.ascontiguousarray(A[offset : offset + c])
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
def _unscale(A: Any, roots: Any, layout: Any, first: int) -> Any:
    """Return ΛA."""
    out = A.copy()
    offset, packed = 0, 0
    for k in range(first, (layout.size - 2) // 2):
        levels, c = layout[2 + 2 * k], layout[3 + 2 * k]
        R = roots[packed : packed + c * c].reshape(c, c)
        packed += c * c
        if c > _SMALL:
            out[offset : offset + c] = R @ np.ascontiguousarray(A[offset : offset + c])
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
def _congruent(A: Any, roots: Any, layout: Any, first: int, transposed: bool) -> Any:
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
        return _scale_rows(np.ascontiguousarray(_scale_rows(A, roots, layout, first).T), roots, layout, first)
    return _unscale(np.ascontiguousarray(_unscale(A, roots, layout, first).T), roots, layout, first)


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
        root, ok = _factor(M)
        if not ok:
            return Minv, logdet, False
        inverse = _invert_lower(root)
        for s in range(c):
            logdet += 2.0 * math.log(root[s, s])
            for t in range(c):
                value = 0.0
                for a in range(max(s, t), c):
                    value += inverse[a, s] * inverse[a, t]
                Minv[j, s, t] = value
    return Minv, logdet, True


@nb.njit(cache=True, nogil=True)
def _dense_block(Minv: Any, e: float, between: Any, rss: float, fy: Any, indptr: Any, indices: Any, data: Any,
                 within: Any) -> Any:  # fmt: skip
    """Return F, f and σ²_eyᵀNy."""
    F, f, s = within.copy(), fy.copy(), rss
    L, c = Minv.shape[0], Minv.shape[1]
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
        _, ok = _semidefinite_root(phi[:start].reshape(layout[3], layout[3]))
    elif first:
        ok = phi[0] >= 0.0
    packed = 0
    for k in range(first, terms):
        c = layout[3 + 2 * k]
        root, good = _root(phi[start + packed : start + packed + c * c].copy().reshape(c, c))
        ok = ok and good
        roots[packed : packed + c * c] = root.ravel()
        packed += c * c
    if not ok:
        return False, failed, 0.0, Minv, empty, fy, roots, empty, v, v
    F, f, s = _dense_block(Minv, e, between, rss, fy, indptr, indices, data, within)
    S = _congruent(F, roots, layout, first, True)
    for i in range(q):
        S[i, i] += e
    root, ok = _factor(S)
    if not ok:
        return False, failed, 0.0, Minv, F, f, roots, empty, v, v
    Linv = _invert_lower(root)
    g = _scale_rows(f.reshape(m, 1).copy(), roots, layout, first)[:, 0].copy()
    a = Linv @ g
    explained = a @ a
    if explained > s > 0.0:  # by rounding alone: σ²_e is too small beside the other variances for any digit of yᵀPy
        return False, failed, 0.0, Minv, F, f, roots, empty, v, v
    yPy = (s - explained) / e
    for i in range(m):
        logdet += 2.0 * math.log(root[i, i])
    logdet += (n - r - C.shape[0] * C.shape[1] - q) * math.log(e)
    v = np.ascontiguousarray(Linv.T) @ a
    b = _unscale(v.reshape(m, 1).copy(), roots, layout, first)[:, 0].copy()
    loglik = -0.5 * ((n - r) * LOG_2PI + logdet + yPy)
    return True, loglik, yPy, Minv, F, f, roots, Linv, v, b


@nb.njit(cache=True, nogil=True)
def _eliminated_score(grad: Any, e: float, between: Any, C: Any, indptr: Any, indices: Any, data: Any, Minv: Any,
                      H: Any, b: Any) -> Any:  # fmt: skip
    """Add the score of Σ₁ to grad, and return M_j⁻¹(ȳ_j - B_jb), of which C_j makes Z₁ᵀPy; H = ΛS⁻¹Λᵀ."""
    L, c = C.shape[0], C.shape[1]
    weighted = np.empty((L, c))
    for j in range(L):
        residual = np.empty(c)
        middle = np.zeros((c, c))  # BHBᵀ: M⁻¹ - e M⁻¹BHBᵀM⁻¹ is that of which C makes Z₁ᵀPZ₁
        for a in range(c):
            row = j * c + a
            residual[a] = between[j, a]
            for p in range(indptr[row], indptr[row + 1]):
                residual[a] -= data[p] * b[indices[p]]
            for d in range(a + 1):
                value = 0.0
                for p in range(indptr[row], indptr[row + 1]):
                    inner_value = 0.0
                    for q in range(indptr[j * c + d], indptr[j * c + d + 1]):
                        inner_value += data[q] * H[indices[p], indices[q]]
                    value += data[p] * inner_value
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
        smallest, size = math.inf, 0.0
        for s in range(c):
            smallest = min(smallest, R[s, s] ** 2)
        for i in range(offset, offset + width):
            size += F[i, i] / width
        ZPZ = np.zeros((c, c))
        if smallest * size > _TINY * e:  # Z_jᵀPZ_j = R⁻ᵀ(I - σ²_e(S⁻¹)_jj)R⁻¹, Z_jᵀPy = R⁻ᵀv_j
            Rinv = _invert_lower(R)
            inner = np.zeros((c, c))
            for level in range(levels):
                at = offset + level * c
                inner += np.eye(c) - e * Sinv[at : at + c, at : at + c]
                w[at : at + c] = np.ascontiguousarray(Rinv.T) @ v[at : at + c]
            ZPZ = np.ascontiguousarray(Rinv.T) @ inner @ Rinv
        else:  # Z_jᵀPZ_j = (F_jj - F_j·ΛS⁻¹ΛᵀF_·j)/σ²_e
            Y = Linv @ _scale_rows(np.ascontiguousarray(F[:, offset : offset + width]), roots, layout, first)
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
    Sinv = _gram_lower(Linv)
    if first:
        H = _congruent(Sinv, roots, layout, first, False)
        weighted = _eliminated_score(grad, e, between, C, indptr, indices, data, Minv, H, b)
    w = _dense_score(grad, e, F, f, roots, layout, first, Linv, Sinv, v, b, start)
    return grad, (0.5 * (yPy - (layout[0] - layout[1])) - phi @ grad) / e, weighted, w


@nb.njit(cache=True, nogil=True)
def loglik_and_gradient(phi: Any, e: float, fy: Any, between: Any, rss: float, layout: Any, C: Any, indptr: Any,
                        indices: Any, data: Any, within: Any) -> Any:  # fmt: skip
    """
    Return the log-likelihood and its gradient with respect to phi, e, and the statistics of the response.

    Outside the parameter space (σ²_e ≤ 0, a Σ_k that is not positive semi-definite) it is -inf, with gradient 0.
    """
    ok, loglik, yPy, Minv, F, f, roots, Linv, v, b = factorise(
        phi, e, fy, between, rss, layout, C, indptr, indices, data, within
    )
    if not ok:
        return -math.inf, np.zeros(phi.size), 0.0, np.zeros(fy.size), np.zeros(between.shape), 0.0
    grad, de, weighted, _ = gradient(
        phi, e, between, layout, C, indptr, indices, data, yPy, Minv, F, f, roots, Linv, v, b
    )
    return loglik, grad, de, b / e, -weighted, -0.5 / e
