"""
Compiled loops: the likelihood of several traits with one candidate, and its maximum from a start that is near.

The rotated traits z (t, K) are independent over the K directions, cov z_i = λ_iΣ_g + Σ_e. In the basis T of the traits
with Tᵀ(Σ_g + Σ_e)T = I and TᵀΣ_gT = diag(γ), TᵀΣ_eT = diag(ε), the rows of w = Tᵀz are independent too, with variances
s_ij = λ_iγ_j + ε_j, and

    -2ℓ = m log|Σ_g + Σ_e| + Σ log s_ij + ν Σ log ε_j + Σ (w_ij - g_iα_j)²/s_ij [+ Σ log A_j] [+ Σ log|M_j|]

without constants. A candidate g is one more column of X, α_j = b_j/A_j, b_j = Σ g_iw_ij/s_ij, A_j = Σ g_i²/s_ij; REML
counts log A_j, and m = p - 1 instead of p = k + ν. ML has m = n and M = εI + γS₀ + Cᵀdiag(γε/(λs))C of each trait. With
a direction h of the traits the candidate has one effect α = ha, which ML alone takes.

ν directions have λ = 0. Those among them that traits and candidate know stand at the end of z and g, from k on, with
eigenvalues of 0. The likelihood is climbed in the factors of Σ_g = LLᵀ and Σ_e, in which a singular Σ_g is an ordinary
point, by the BFGS method from the curvature at the model without a candidate. This module is imported where it is first
needed (Numba), and is one file because Numba's cache sees changes of the calling file alone.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from pm_fastlmm.base.arrays import FloatArray

compiled = njit(cache=True, nogil=True, error_model="numpy")
# what only compiled code calls needs no wrappers, and is kept on disk as a part of what calls it
inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
# sums may be reordered; NaN and infinity keep their meaning
reordered = njit(
    error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True,
    fastmath={"reassoc", "contract", "nsz", "arcp"},
)  # fmt: skip

_END = 1e-12  # decrement of -2ℓ at which the step that is being taken is the last
_LONGEST = 150
_HALVINGS = 25
_NEAR = 1e-7  # decrement below which a step that does not raise ℓ is one of rounding
_SWEEPS = 30
_ARMIJO = 1e-4
_ROUNDING = 1e-13  # of -2ℓ


class Model(NamedTuple):
    """
    What no candidate enters.

    `eigvals` (K,) ends with zeros from `k` on; z is (t, K); `size` is how often log|Σ_g + Σ_e| counts without a
    candidate; `restricted` says REML, where C and schur have no columns.
    """

    eigvals: FloatArray
    z: FloatArray
    k: int
    nullity: int
    size: float
    restricted: bool
    C: FloatArray
    schur: FloatArray


class Axes(NamedTuple):
    """The basis of the traits at Σ_g, Σ_e: T here is Tᵀ, `shares` (2, t) has γ and ε, `logdet` is log|Σ_g + Σ_e|."""

    T: FloatArray
    shares: FloatArray
    logdet: float


@inner
def factors(x: FloatArray, t: int) -> FloatArray:
    """Return the lower-triangular factors of Σ_g and Σ_e, (2, t, t), of a point."""
    L = np.zeros((2, t, t))
    place = 0
    for part in range(2):
        for i in range(t):
            for j in range(i + 1):
                L[part, i, j] = x[place]
                place += 1
    return L


@inner
def _inverse_root(A: FloatArray) -> tuple[FloatArray, float]:
    """Return L⁻¹ of A = LLᵀ and log|A|, infinite where A is singular."""
    size = len(A)
    root, inverse = np.zeros((size, size)), np.zeros((size, size))
    logdet = 0.0
    for j in range(size):
        left = A[j, j]
        for k in range(j):
            left -= root[j, k] ** 2
        if not left > 1e-15 * A[j, j]:
            return inverse, np.inf
        root[j, j] = math.sqrt(left)
        logdet += math.log(left)
        for i in range(j + 1, size):
            product = A[i, j]
            for k in range(j):
                product -= root[i, k] * root[j, k]
            root[i, j] = product / root[j, j]
    for j in range(size):
        inverse[j, j] = 1.0 / root[j, j]
        for i in range(j + 1, size):
            product = 0.0
            for k in range(j, i):
                product += root[i, k] * inverse[k, j]
            inverse[i, j] = -product / root[i, i]
    return inverse, logdet


@inner
def _rotate(A: FloatArray, B: FloatArray) -> None:
    """Make a small symmetric A diagonal by Jacobi's rotations QᵀAQ, in place, and B into QᵀB."""
    size = len(A)
    for _ in range(_SWEEPS):
        off, on = 0.0, 0.0
        for i in range(size):
            on += A[i, i] ** 2
            for j in range(i):
                off += A[i, j] ** 2
        if off <= 1e-34 * on:
            break
        for i in range(1, size):
            for j in range(i):
                if A[i, j] == 0.0:
                    continue
                ratio = (A[i, i] - A[j, j]) / (2.0 * A[i, j])
                tangent = (1.0 if ratio >= 0 else -1.0) / (abs(ratio) + math.sqrt(1.0 + ratio * ratio))
                c = 1.0 / math.sqrt(1.0 + tangent * tangent)
                s = tangent * c
                for k in range(size):
                    A[k, j], A[k, i] = c * A[k, j] - s * A[k, i], s * A[k, j] + c * A[k, i]
                for k in range(size):
                    A[j, k], A[i, k] = c * A[j, k] - s * A[i, k], s * A[j, k] + c * A[i, k]
                    B[j, k], B[i, k] = c * B[j, k] - s * B[i, k], s * B[j, k] + c * B[i, k]


@inner
def _times(A: FloatArray, B: FloatArray, transposed: bool) -> FloatArray:
    """Return AB or ABᵀ of small matrices: a call of BLAS would take longer, and far longer to compile."""
    size = len(A)
    out = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            for k in range(size):
                out[i, j] += A[i, k] * (B[j, k] if transposed else B[k, j])
    return out


@inner
def axes_of(L: FloatArray) -> Axes:
    """Return the basis of the traits; logdet is infinite where Σ_g + Σ_e is singular."""
    t = L.shape[1]
    shares, both = np.zeros((2, t)), _times(L[0], L[0], True)
    other = _times(L[1], L[1], True)
    both += other
    T, logdet = _inverse_root(both)
    if logdet == np.inf:
        return Axes(T, shares, logdet)
    half = _times(T, L[0], False)
    _rotate(_times(half, half, True), T)
    for part in range(2):
        root = _times(T, L[part], False)
        for j in range(t):
            for k in range(t):
                shares[part, j] += root[j, k] ** 2
    return Axes(T, shares, logdet)


@reordered
def _whitened(T: FloatArray, z: FloatArray) -> FloatArray:
    """Return the traits in their basis, (t, K)."""
    out = np.zeros(z.shape)
    for j in range(len(T)):
        for k in range(len(T)):
            scale = T[j, k]
            for i in range(z.shape[1]):
                out[j, i] += scale * z[k, i]
    return out


@reordered
def _sums(
    eigvals: FloatArray, w: FloatArray, g: FloatArray, k: int, gamma: float, epsilon: float
) -> tuple[float, float, float, float]:
    """Return Σ log s over the first k, and Q, b, A of one axis."""
    log, Q, b, A = 0.0, 0.0, 0.0, 0.0
    product = 1.0
    for i in range(k):
        s = eigvals[i] * gamma + epsilon
        product *= s
        if product < 1e-100 or product > 1e100:
            log += math.log(product)
            product = 1.0
        v = 1.0 / s
        Q += v * w[i] * w[i]
        b += v * w[i] * g[i]
        A += v * g[i] * g[i]
    for i in range(k, w.size):
        Q += w[i] * w[i] / epsilon
        b += w[i] * g[i] / epsilon
        A += g[i] * g[i] / epsilon
    return log + math.log(product), Q, b, A


@reordered
def _slopes(
    eigvals: FloatArray, w: FloatArray, g: FloatArray, k: int, gamma: float, epsilon: float, alpha: float, q: FloatArray
) -> tuple[float, float, float, float]:
    """Write q = (w - gα)/s, and return Σλ/s and Σ1/s over the first k, Σλg²/s² and Σg²/s²."""
    of_g, of_e, along_g, along_e = 0.0, 0.0, 0.0, 0.0
    for i in range(w.size):
        v = 1.0 / (eigvals[i] * gamma + epsilon)
        q[i] = (w[i] - alpha * g[i]) * v
        share = g[i] * g[i] * v * v
        along_g += eigvals[i] * share
        along_e += share
        if i < k:
            of_g += eigvals[i] * v
            of_e += v
    return of_g, of_e, along_g, along_e


@reordered
def _cross(eigvals: FloatArray, a: FloatArray, b: FloatArray) -> tuple[float, float]:
    """Return Σλab and Σab."""
    of_g, of_e = 0.0, 0.0
    for i in range(a.size):
        product = a[i] * b[i]
        of_g += eigvals[i] * product
        of_e += product
    return of_g, of_e


@inner
def _corner(
    eigvals: FloatArray, C: FloatArray, schur: FloatArray, gamma: float, epsilon: float
) -> tuple[float, float, float]:
    """Return log|M| of one axis and its slopes in γ and ε."""
    r = len(schur)
    M, of_g, of_e = np.zeros((r, r)), np.zeros((r, r)), np.zeros((r, r))
    for i in range(r):
        for j in range(r):
            M[i, j], of_g[i, j] = gamma * schur[i, j], schur[i, j]
        M[i, i] += epsilon
        of_e[i, i] = 1.0
    for k in range(len(C)):
        v = 1.0 / (eigvals[k] * gamma + epsilon)
        both, first, second = gamma * epsilon * v / eigvals[k], epsilon * epsilon * v * v / eigvals[k], gamma * gamma
        second *= v * v
        for i in range(r):
            for j in range(r):
                product = C[k, i] * C[k, j]
                M[i, j] += both * product
                of_g[i, j] += first * product
                of_e[i, j] += second * product
    inverse, log = _inverse_root(M)
    slope_g, slope_e = 0.0, 0.0
    for k in range(r):
        for i in range(r):
            for j in range(r):
                product = inverse[k, i] * inverse[k, j]
                slope_g += product * of_g[i, j]
                slope_e += product * of_e[i, j]
    return log, slope_g, slope_e


@inner
def evaluate(model: Model, g: FloatArray, candidate: bool, h: FloatArray, x: FloatArray, gradient: FloatArray) -> float:
    """Return -2ℓ at a point and write its gradient; infinite where it is not defined."""
    t = len(model.z)
    L = factors(x, t)
    axes = axes_of(L)
    if not axes.logdet < np.inf:
        return np.inf
    w, hw = _whitened(axes.T, model.z), np.zeros(t)
    for j in range(t):
        for k in range(h.size):
            hw[j] += axes.T[j, k] * h[k]
    own = candidate and model.restricted
    f = (model.size - (1.0 if own else 0.0)) * axes.logdet
    sums = np.empty((t, 4))
    top, bottom = 0.0, 0.0
    for j in range(t):
        gamma, epsilon = axes.shares[0, j], axes.shares[1, j]
        log, Q, b, A = _sums(model.eigvals, w[j], g, model.k, gamma, epsilon)
        sums[j, 0], sums[j, 1], sums[j, 2], sums[j, 3] = log, Q, b, A
        top += hw[j] * b
        bottom += hw[j] * hw[j] * A
        f += log + Q + (model.nullity * math.log(epsilon) if model.nullity else 0.0)
        if own:
            f += math.log(A)
        if candidate and not h.size:
            f -= b * b / A
    if candidate and h.size:
        f -= top * top / bottom
    slope, q = np.zeros((2, t, t)), np.empty(w.shape)
    for j in range(t):
        gamma, epsilon = axes.shares[0, j], axes.shares[1, j]
        b, A = sums[j, 2], sums[j, 3]
        alpha = 0.0 if not candidate else hw[j] * top / bottom if h.size else b / A
        of_g, of_e, along_g, along_e = _slopes(model.eigvals, w[j], g, model.k, gamma, epsilon, alpha, q[j])
        if own:
            of_g -= along_g / A
            of_e -= along_e / A
        if model.nullity:
            of_e += model.nullity / epsilon
        if len(model.schur):
            log, more_g, more_e = _corner(model.eigvals, model.C, model.schur, gamma, epsilon)
            f += log
            of_g += more_g
            of_e += more_e
        slope[0, j, j], slope[1, j, j] = of_g, of_e
    for i in range(t):
        for j in range(i + 1):
            of_g, of_e = _cross(model.eigvals, q[i], q[j])
            slope[0, i, j] -= of_g
            slope[1, i, j] -= of_e
            slope[0, j, i], slope[1, j, i] = slope[0, i, j], slope[1, i, j]
    place = 0
    for part in range(2):
        half = _times(slope[part], _times(axes.T, L[part], False), False)
        of_factor = _times(np.ascontiguousarray(axes.T.T), half, False)
        for i in range(t):
            for j in range(i + 1):
                gradient[place] = 2.0 * of_factor[i, j]
                place += 1
    return f if f == f else np.inf


@inner
def _dot(a: FloatArray, b: FloatArray) -> float:
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@inner
def _step(H: FloatArray, gradient: FloatArray, step: FloatArray) -> float:
    """Write -H times the gradient, and return the slope along it."""
    for i in range(step.size):
        step[i] = -_dot(H[i], gradient)
    return _dot(step, gradient)


@inner
def climb(
    model: Model, g: FloatArray, candidate: bool, h: FloatArray, x: FloatArray, inverse: FloatArray
) -> tuple[float, bool]:
    """Move x to the maximum from near it, given the inverse of the curvature of -2ℓ; return -2ℓ and success."""
    size = x.size
    H, step, v = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    gradient, other, moved, change = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size)
    for i in range(size):
        H[i] = inverse[i]
    f = evaluate(model, g, candidate, h, x, gradient)
    for _ in range(_LONGEST):
        slope = _step(H, gradient, step)
        if not slope < 0:
            for i in range(size):
                H[i] = inverse[i]
            slope = _step(H, gradient, step)
            if not slope < 0:
                return f, slope == 0
        length, value, stuck = 1.0, f, True
        for _ in range(_HALVINGS):
            for i in range(size):
                moved[i] = x[i] + length * step[i]
            value = evaluate(model, g, candidate, h, moved, other)
            if value <= f + _ARMIJO * length * slope + _ROUNDING * abs(f):
                stuck = False
                break
            length *= 0.5
        if stuck:
            return f, -slope < _NEAR
        for i in range(size):
            change[i] = length * step[i]
            x[i] = moved[i]
            v[i] = other[i] - gradient[i]
            gradient[i] = other[i]
        f = value
        if -slope < _END:
            return f, True
        product = _dot(change, v)
        if product > 1e-10 * math.sqrt(_dot(change, change) * _dot(v, v)):
            _learn(H, change, v, product)
    return f, False


@inner
def _learn(H: FloatArray, change: FloatArray, bend: FloatArray, product: float) -> None:
    """Make H take the change of a gradient, `bend`, to the step that it came from."""
    v = np.zeros(bend.size)
    _step(H, bend, v)
    scale = (1.0 - _dot(bend, v) / product) / product
    for i in range(v.size):
        for j in range(v.size):
            H[i, j] += scale * change[i] * change[j] + (v[i] * change[j] + change[i] * v[j]) / product


@compiled
def refit_rows(
    model: Model, G: FloatArray, h: FloatArray, start: FloatArray, inverse: FloatArray, points: FloatArray,
    values: FloatArray,
) -> None:  # fmt: skip
    """Write the point of the maximum with each candidate (m, N), and -2ℓ and whether it was reached (m, 2)."""
    for row in range(len(G)):
        for i in range(start.size):
            points[row, i] = start[i]
        f, reached = climb(model, G[row], True, h, points[row], inverse)
        values[row, 0], values[row, 1] = f, 1.0 if reached else 0.0


@compiled
def rows_at(model: Model, G: FloatArray, points: FloatArray, bases: FloatArray, sums: FloatArray) -> None:
    """Write T (m, t, t) at each point, and Q, b and A of its candidate in it (m, 3, t)."""
    t = len(model.z)
    for row in range(len(G)):
        axes = axes_of(factors(points[row], t))
        w = _whitened(axes.T, model.z)
        for j in range(t):
            gamma, epsilon = axes.shares[0, j], axes.shares[1, j]
            _, Q, b, A = _sums(model.eigvals, w[j], G[row], model.k, gamma, epsilon)
            sums[row, 0, j], sums[row, 1, j], sums[row, 2, j] = Q, b, A
            for k in range(t):
                bases[row, k, j] = axes.T[j, k]
