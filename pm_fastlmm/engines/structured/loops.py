"""
One compiled unit: the likelihood of several random-effects terms from cross-products, with its score.

The cost is independent of n. All that compiled code calls is in this file, because Numba's cache sees no other
(docs/contributing.md).

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

import numpy as np
from numba import njit

compiled = njit(cache=True, nogil=True)

_LOG_2PI = math.log(2 * math.pi)
_SMALL = 32  # order up to which a plain loop is faster than LAPACK or BLAS
_BLOCK = 64  # rows that are worked on at a time in a triangular matrix: the rest are matrix products
_TINY = 1e-3  # Σ_k F/σ²_e below which the score is taken in the form that needs no inverse of Σ_k
PIVOT_RTOL = 1e-12
_DENSE = 0.25  # share of entries of B that are not 0 above which matrix products are faster than loops


@compiled
def semidefinite_root(A: Any) -> Any:
    """Return the Cholesky factor of a positive semi-definite matrix, columns of 0 for its null space, and success."""
    c = A.shape[0]
    L = np.zeros((c, c))
    for j in range(c):
        pivot = A[j, j]
        for k in range(j):
            pivot -= L[j, k] ** 2
        if not pivot >= -PIVOT_RTOL * A[j, j] * c:  # beside its own variance: the columns may have any units
            return L, False
        singular = pivot <= PIVOT_RTOL * A[j, j]
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


@compiled
def cholesky(A: Any) -> Any:
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


@compiled
def matrix_root(A: Any) -> Any:
    """Return a lower-triangular root of a positive semi-definite matrix, by LAPACK where it is large, and success."""
    if A.shape[0] > _SMALL:
        L, ok = cholesky(A)
        if ok:
            return L, ok
    return semidefinite_root(A)


@compiled
def _put(out: Any, row: int, column: int, block: Any) -> None:
    """Write a matrix into another: the check of shapes that an assignment has takes Numba four seconds."""
    for i in range(block.shape[0]):
        for j in range(block.shape[1]):
            out[row + i, column + j] = block[i, j]


@compiled
def _invert_rows(L: Any, X: Any, start: int, end: int) -> None:
    """Invert a diagonal block of L into X by substitution."""
    for i in range(start, end):
        for k in range(start, i):
            for j in range(start, k + 1):
                X[i, j] -= L[i, k] * X[k, j]
        for j in range(start, i):
            X[i, j] /= L[i, i]
        X[i, i] = 1.0 / L[i, i]


@compiled
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
            _put(X, start, at, -(own @ (np.ascontiguousarray(L[start:end, at:start]) @ part)))
    return X


@compiled
def gram_lower(X: Any) -> Any:
    """Return XᵀX of a lower-triangular matrix."""
    m = X.shape[0]
    out = np.empty((m, m))
    for start in range(0, m, _BLOCK):
        end = min(start + _BLOCK, m)
        block = np.ascontiguousarray(X[start:, start:end].T) @ np.ascontiguousarray(X[start:, :end])
        _put(out, start, 0, block)
        _put(out, 0, start, block.T)
    return out


@compiled
def times_roots(A: Any, roots: Any, sizes: Any, transposed: bool) -> Any:
    """Return ΛA, or ΛᵀA (transposed)."""
    out = A.copy()
    offset, packed = 0, 0
    for k in range(sizes.shape[0]):
        levels, c = sizes[k, 0], sizes[k, 1]
        R = roots[packed : packed + c * c].reshape(c, c)
        factor = np.ascontiguousarray(R.T) if transposed else R
        for at in range(offset, offset + levels * c, c):
            if c > _SMALL:
                _put(out, at, 0, factor @ np.ascontiguousarray(A[at : at + c]))
                continue
            for s in range(c):
                for j in range(A.shape[1]):
                    out[at + s, j] = 0.0
                for t in range(s if transposed else 0, c if transposed else s + 1):
                    for j in range(A.shape[1]):
                        out[at + s, j] += factor[s, t] * A[at + t, j]
        offset, packed = offset + levels * c, packed + c * c
    return out


@compiled
def _congruent(A: Any, roots: Any, sizes: Any, transposed: bool) -> Any:
    """Return ΛᵀAΛ (transposed) or ΛAΛᵀ of a symmetric matrix."""
    m = A.shape[0]
    if roots.size == sizes.shape[0]:  # each is 1 × 1: Λ is diagonal
        scale, out, at = np.ones(m), np.empty((m, m)), 0
        for k in range(sizes.shape[0]):
            for _ in range(sizes[k, 0]):
                scale[at] = roots[k]
                at += 1
        for i in range(m):
            for j in range(m):
                out[i, j] = scale[i] * A[i, j] * scale[j]
        return out
    half = times_roots(A, roots, sizes, transposed)
    return times_roots(np.ascontiguousarray(half.T), roots, sizes, transposed)


@compiled
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
    sigma = phi[: c * c].copy().reshape(c, c)
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


@compiled
def _filled(indptr: Any, indices: Any, data: Any, m: int) -> Any:
    """Return B, of m columns, as a dense matrix where it is better taken so, of no rows where it is not."""
    rows = indptr.size - 1
    B = np.zeros((rows if indptr[rows] > _DENSE * rows * m else 0, m))
    for row in range(B.shape[0]):
        for p in range(indptr[row], indptr[row + 1]):
            B[row, indices[p]] = data[p]
    return B


@compiled
def _dense_block(Minv: Any, e: float, between: Any, rss: float, fy: Any, indptr: Any, indices: Any, data: Any,
                 within: Any) -> Any:  # fmt: skip
    """Return F, f and σ²_eyᵀNy."""
    F, f, s = within.copy(), fy.copy(), rss
    L, c = Minv.shape[0], Minv.shape[1]
    B = _filled(indptr, indices, data, F.shape[0])
    dense = B.shape[0] > 0
    if dense:
        weighted = np.empty(B.shape)
        for j in range(L):
            own = np.ascontiguousarray(B[j * c : (j + 1) * c])
            _put(weighted, j * c, 0, (e * Minv[j]) @ own)
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


@compiled
def _roots(phi: Any, sizes: Any, C: Any) -> Any:
    """Return the roots R_k of all Σ_k, packed as they are in phi, and success."""
    roots, ok, start = np.zeros(phi.size), True, 0
    for k in range(-1 if C.shape[0] else 0, sizes.shape[0]):
        c = C.shape[1] if k < 0 else sizes[k, 1]
        end = start + c * c
        root, good = matrix_root(phi[start:end].copy().reshape(c, c))
        for i in range(c * c):
            roots[start + i] = root[i // c, i % c]
        ok, start = ok and good, end
    return roots, ok


@compiled
def _outside() -> Any:
    """Return what `factorise` does outside the parameter space."""
    v, empty = np.zeros(0), np.zeros((0, 0))
    return -math.inf, 0.0, np.zeros((0, 0, 0)), empty, v, v, empty, v, v


@compiled
def factorise(phi: Any, roots: Any, e: float, fy: Any, between: Any, rss: float, df: int, sizes: Any, C: Any,
              indptr: Any, indices: Any, data: Any, within: Any) -> Any:  # fmt: skip
    """
    Factor V at Σ_k (packed in `phi`, the eliminated one first) and σ²_e = e.

    `roots` are those of the Σ_k, or empty: Cholesky factors are taken. `sizes` (terms, 2) has the levels and the width
    of each term in the dense block.

    Returns
    -------
    loglik, yPy, Minv, F, f, roots, Linv, v, b
        v = S⁻¹Λᵀf, b = Λv; the log-likelihood is that of the error contrasts, with an orthonormal X, or
        -inf outside the parameter space and where a Σ_k has no Cholesky factor; `roots` of the dense block.
    """
    m, (levels, c, _) = within.shape[0], C.shape
    for value in phi:
        if not math.isfinite(value):
            return _outside()
    if not 0.0 < e < math.inf:
        return _outside()
    if roots.size < phi.size:
        roots, ok = _roots(phi, sizes, C)
        if not ok:
            return _outside()
    roots = roots[c * c if levels else 0 :]
    Minv, logdet, ok = _eliminate(phi, e, C)
    if not ok:
        return _outside()
    F, f, s = _dense_block(Minv, e, between, rss, fy, indptr, indices, data, within)
    S = _congruent(F, roots, sizes, True)
    q = (sizes[:, 0] * sizes[:, 1]).sum()
    for i in range(q):
        S[i, i] += e
    root, ok = cholesky(S)
    if not ok:
        return _outside()
    Linv = invert_lower(root)
    a = Linv @ times_roots(f.reshape(m, 1), roots, sizes, True).reshape(m)
    explained = a @ a
    if explained > s > 0.0:  # by rounding alone: σ²_e is too small beside the other variances for any digit of yᵀPy
        return _outside()
    yPy = (s - explained) / e
    for i in range(m):
        logdet += 2.0 * math.log(root[i, i])
    logdet += (df - levels * c - q) * math.log(e)
    v = np.ascontiguousarray(Linv.T) @ a
    b = times_roots(v.reshape(m, 1), roots, sizes, False).reshape(m)
    return -0.5 * (df * _LOG_2PI + logdet + yPy), yPy, Minv, F, f, roots, Linv, v, b


@compiled
def _eliminated_score(grad: Any, e: float, between: Any, C: Any, indptr: Any, indices: Any, data: Any, Minv: Any,
                      H: Any, b: Any) -> Any:  # fmt: skip
    """Add the score of Σ₁ to grad, and return M_j⁻¹(ȳ_j - B_jb), of which C_j makes Z₁ᵀPy; H = ΛS⁻¹Λᵀ."""
    L, c = C.shape[0], C.shape[1]
    weighted = np.empty((L, c))
    B = _filled(indptr, indices, data, H.shape[0])
    BH, dense = B @ H, B.shape[0] > 0
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


@compiled
def _dense_score(grad: Any, e: float, F: Any, f: Any, roots: Any, sizes: Any, Linv: Any, Sinv: Any, v: Any,
                 b: Any) -> Any:  # fmt: skip
    """Write the scores of the terms in the dense block into grad, and return WᵀPy."""
    w = (f - F @ b) / e
    offset, packed = 0, 0
    for k in range(sizes.shape[0]):
        levels, c = sizes[k, 0], sizes[k, 1]
        R = roots[packed : packed + c * c].copy().reshape(c, c)
        width = levels * c
        size = np.zeros(c)
        for i in range(width):
            size[i % c] += F[offset + i, offset + i] / levels
        ZPZ = np.zeros((c, c))
        smallest = math.inf
        for s in range(c):
            smallest = min(smallest, R[s, s] ** 2 * size[s])
        if smallest > _TINY * e:  # Z_jᵀPZ_j = R⁻ᵀ(I - σ²_e(S⁻¹)_jj)R⁻¹, Z_jᵀPy = R⁻ᵀv_j
            Rinv = invert_lower(R)
            inner = np.zeros((c, c))
            for at in range(offset, offset + width, c):
                for s in range(c):
                    w[at + s] = 0.0
                    for t in range(c):
                        inner[s, t] += (1.0 if s == t else 0.0) - e * Sinv[at + s, at + t]
                        w[at + s] += Rinv[t, s] * v[at + t]
            ZPZ = np.ascontiguousarray(Rinv.T) @ inner @ Rinv
        else:  # Z_jᵀPZ_j = (F_jj - F_j·ΛS⁻¹ΛᵀF_·j)/σ²_e
            Y = Linv @ times_roots(np.ascontiguousarray(F[:, offset : offset + width]), roots, sizes, True)
            for at in range(0, width, c):
                columns = np.ascontiguousarray(Y[:, at : at + c])
                block = F[offset + at : offset + at + c, offset + at : offset + at + c]
                ZPZ += (block - np.ascontiguousarray(columns.T) @ columns) / e
        for s in range(c):
            for t in range(c):
                value = -ZPZ[s, t]
                for at in range(offset, offset + width, c):
                    value += w[at + s] * w[at + t]
                grad[packed + s * c + t] = 0.5 * value
        offset, packed = offset + width, packed + c * c
    return w


@compiled
def gradient(phi: Any, e: float, between: Any, df: int, sizes: Any, C: Any, indptr: Any, indices: Any, data: Any,
             yPy: float, Minv: Any, F: Any, f: Any, roots: Any, Linv: Any, v: Any, b: Any) -> Any:  # fmt: skip
    """Return ∂ℓ/∂phi, ∂ℓ/∂e, and from Z_kᵀPy of the eliminated term its C⁻¹ part (levels, width), of the others all."""
    grad, weighted, start = np.zeros(phi.size), np.zeros(between.shape), 0
    Sinv = gram_lower(Linv)
    if C.shape[0]:
        start = C.shape[1] ** 2
        H = _congruent(Sinv, roots, sizes, False)
        weighted = _eliminated_score(grad, e, between, C, indptr, indices, data, Minv, H, b)
    w = _dense_score(grad[start:], e, F, f, roots, sizes, Linv, Sinv, v, b)
    return grad, (0.5 * (yPy - df) - phi @ grad) / e, weighted, w


@compiled
def loglik_and_gradient(phi: Any, roots: Any, e: float, fy: Any, between: Any, rss: float, df: int, sizes: Any, C: Any,
                        indptr: Any, indices: Any, data: Any, within: Any) -> Any:  # fmt: skip
    """
    Return the log-likelihood and its gradient with respect to phi, e, and the statistics of the response.

    It is -inf where `factorise` says so, with gradient 0.
    """
    factored = factorise(phi, roots, e, fy, between, rss, df, sizes, C, indptr, indices, data, within)
    if factored[0] == -math.inf:
        return -math.inf, np.zeros(phi.size), 0.0, np.zeros(fy.size), np.zeros(between.shape), 0.0
    grad, de, weighted, _ = gradient(phi, e, between, df, sizes, C, indptr, indices, data, *factored[1:])
    return factored[0], grad, de, factored[8] / e, -weighted, -0.5 / e
