"""
One compiled unit: loops over the spectrum, the profile likelihood of many responses, or of one with many candidates.

With w_i = 1/(λ_i + δ), h = λw, 1 - h = δw and a response z (null directions: λ = 0, only ‖·‖² = rss is kept),

    f(δ) = m log Q + Σ log(λ_i + δ) + ν log δ [+ log a] [+ log|S|],   Q = Σ w (z - αg)² + (null)/δ

is -2 times the profile likelihood without constants: m = p and no brackets for REML, m = n and log|S| for ML. A
candidate g is one more column of X, given by its own rotation: α = b/a is its coefficient, a = Σwg² + …, b = Σwgz + …,
and REML counts one degree of freedom less and log a more, so that no candidate needs a rotation of its own. Where there
is no candidate, the squares of a response are all that its sums need, and what is passed as z is z².

All derivatives are with respect to x = log δ and are sums of positive terms, which keeps them exact at both ends: with
A = Σhwr², B = Σ(1-h)wr² + (null)/δ, E = Σh(1-h)wr² (so that Q = A + B),

    (log Q)' = -B/Q = A/Q - 1,   (log Q)'' = AB/Q² - 2E/Q - 2D²/(aQ),   D = Σ(1-h)w(z - αg)g + (null)/δ

This module is imported where it is first needed: Numba takes half a second to load, and the first call in an
installation compiles (the result is cached on disk). It is one long file because that cache sees changes of the
calling file alone (docs/contributing.md).
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from pm_fastlmm.base.arrays import FloatArray

type Triple = tuple[float, float, float]
type Levels = tuple[float, float, FloatArray]  # allowed rises of f from a first log δ on, in even steps

compiled = njit(cache=True, nogil=True, error_model="numpy")
# sums may be reordered; NaN and infinity keep their meaning
reordered = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"})

_CONVERGED = 2e-6  # a Newton step this short leaves an error of its square
_LONGEST = 200
_STEP_OUT = 2.0
_UNCERTAIN = 1e-7  # a slope from mixed weights, as a share of its terms
_CANCELLED = 0.9  # share of y that a candidate explains
_LOWEST, _HIGHEST = math.log(1e-300), math.log(1e15)  # of δ in units of the largest eigenvalue: beyond is the boundary


class Model(NamedTuple):
    """What no response or candidate enters; `middle` is the median eigenvalue, `ends` the parts of c_∞, c₀, f(0)."""

    eigvals: FloatArray
    inverse: FloatArray
    C: FloatArray
    schur: FloatArray
    nullity: int
    m: float
    restricted: bool
    middle: float
    ends: Triple


class Grid(NamedTuple):
    """
    Points of log δ: `shared` (6, G) has what no response enters there.

    zz, zg, gg (T, 3G) are the products of z², zg, g² with the weights hw, (1-h)w, h(1-h)w of the nodes.
    """

    nodes: FloatArray
    shared: FloatArray
    zz: FloatArray
    zg: FloatArray
    gg: FloatArray


@reordered
def _sums(eigvals: FloatArray, squares: FloatArray, delta: float) -> tuple[float, float, float, float, float, float]:
    """Return A, B, E of a response or candidate without null directions, and Σh, Σ(1-h), Σh(1-h) of the spectrum."""
    A, B, E = 0.0, 0.0, 0.0
    H, low, both = 0.0, 0.0, 0.0
    for i in range(eigvals.size):
        w = 1.0 / (eigvals[i] + delta)
        h = eigvals[i] * w
        c = delta * w
        q = squares[i] * w
        A += h * q
        B += c * q
        E += h * c * q
        H += h
        low += c
        both += h * c
    return A, B, E, H, low, both


@reordered
def _weighted(eigvals: FloatArray, products: FloatArray, delta: float) -> float:
    total = 0.0
    for i in range(eigvals.size):
        total += products[i] / (eigvals[i] + delta)
    return total


@reordered
def _residual_sums(
    eigvals: FloatArray, z: FloatArray, g: FloatArray, alpha: float, delta: float
) -> tuple[float, float, float, float]:
    """Return A, B, E of z - αg and D, without null directions."""
    A, B, E, D = 0.0, 0.0, 0.0, 0.0
    for i in range(eigvals.size):
        w = 1.0 / (eigvals[i] + delta)
        h = eigvals[i] * w
        c = delta * w
        r = z[i] - alpha * g[i]
        q = r * r * w
        A += h * q
        B += c * q
        E += h * c * q
        D += c * w * r * g[i]
    return A, B, E, D


@compiled
def _left(null: FloatArray, alpha: float) -> float:
    """Return ‖z - αg‖² in the null directions; all of `null` is 0 where there are none."""
    return max(null[0] - 2.0 * alpha * null[1] + alpha * alpha * null[2], 0.0)


@compiled
def _cholesky(S: FloatArray) -> FloatArray:
    """Return the lower Cholesky factor of a small matrix."""
    r = S.shape[0]
    L = np.zeros((r, r))
    for j in range(r):
        for i in range(j, r):
            total = S[i, j]
            for k in range(j):
                total -= L[i, k] * L[j, k]
            if i == j:
                L[j, j] = math.sqrt(total) if total > 0 else math.nan
            else:
                L[i, j] = total / L[j, j]
    return L


@compiled
def _solve(L: FloatArray, M: FloatArray) -> FloatArray:
    """Return (LLᵀ)⁻¹M."""
    r = L.shape[0]
    out = M.copy()
    for column in range(M.shape[1]):
        for i in range(r):
            for k in range(i):
                out[i, column] -= L[i, k] * out[k, column]
            out[i, column] /= L[i, i]
        for i in range(r - 1, -1, -1):
            for k in range(i + 1, r):
                out[i, column] -= L[k, i] * out[k, column]
            out[i, column] /= L[i, i]
    return out


@compiled
def corner_terms(
    eigvals: FloatArray, C: FloatArray, schur: FloatArray, delta: float
) -> tuple[float, float, float, float]:
    """
    Return log|S|, its slope tr S⁻¹S', r minus its slope, and its curvature, S = S₀ + δI + Cᵀdiag((1-h)/λ)C.

    Primes are derivatives with respect to log δ: S' = δI + Cᵀdiag(h(1-h)/λ)C and S - S' = S₀ + Cᵀdiag((1-h)²/λ)C.
    """
    r = schur.shape[0]
    S = schur.copy()
    first = np.zeros((r, r))
    rest = schur.copy()
    second = np.zeros((r, r))
    for i in range(eigvals.size):
        w = 1.0 / (eigvals[i] + delta)
        h = eigvals[i] * w
        c = delta * w
        for a in range(r):
            scaled = C[i, a] * c / eigvals[i]
            for b in range(a + 1):
                term = scaled * C[i, b]
                S[a, b] += term
                first[a, b] += h * term
                rest[a, b] += c * term
                second[a, b] += h * (h - c) * term
    for a in range(r):
        S[a, a] += delta
        first[a, a] += delta
        second[a, a] += delta
        for b in range(a):
            S[b, a] = S[a, b]
            first[b, a] = first[a, b]
            rest[b, a] = rest[a, b]
            second[b, a] = second[a, b]
    L = _cholesky(S)
    first, rest, second = _solve(L, first), _solve(L, rest), _solve(L, second)
    logdet, slope, other, curvature = 0.0, 0.0, 0.0, 0.0
    for a in range(r):
        logdet += 2.0 * math.log(L[a, a])
        slope += first[a, a]
        other += rest[a, a]
        curvature += second[a, a]
        for b in range(r):
            curvature -= first[a, b] * first[b, a]
    return logdet, slope, other, curvature


@compiled
def _combine(
    m: float, nullity: int, restricted: bool, upper: bool,
    shared: Triple, residual: Triple, D: float, candidate: Triple, corner: Triple,
) -> tuple[float, float]:  # fmt: skip
    """
    Return f' and f'' from the sums; null directions are included in the second of `residual` and `candidate`.

    `upper` chooses, of two equal forms of f', the one whose terms are small where δ is large. (The first arguments are
    numbers and not a `Model`: its arrays would be counted at every node of every response.)
    """
    H, low, both = shared
    A, B, E = residual
    Q = A + B
    slope = m * A / Q - H - corner[1] if upper else low + nullity - m * B / Q + corner[0]
    curvature = both - m * (2.0 * E / Q - (A / Q) * (B / Q)) + corner[2]
    gA, gB, gE = candidate
    a = gA + gB
    if a > 0.0:
        curvature -= 2.0 * m * D * D / (a * Q)
        if restricted:
            slope += gA / a if upper else -gB / a
            curvature += (gA / a) * (gB / a) - 2.0 * gE / a
    return slope, curvature


@compiled
def derivatives(model: Model, z: FloatArray, g: FloatArray, null: FloatArray, x: float) -> tuple[float, float]:
    """Return f' and f'' at log δ = x; `null` has z², zg and g² summed over the null directions."""
    delta, eigvals = math.exp(x), model.eigvals
    D, candidate = 0.0, (0.0, 0.0, 0.0)
    if g.size:
        gA, gB, gE, H, low, both = _sums(eigvals, g * g, delta)
        gB += null[2] / delta
        alpha = (_weighted(eigvals, z * g, delta) + null[1] / delta) / (gA + gB)
        A, B, E, D = _residual_sums(eigvals, z, g, alpha, delta)
        B += _left(null, alpha) / delta
        D += (null[1] - alpha * null[2]) / delta
        candidate = (gA, gB, gE)
    else:
        A, B, E, H, low, both = _sums(eigvals, z, delta)
        B += null[0] / delta
    corner = (0.0, 0.0, 0.0)
    if model.schur.size:
        corner = corner_terms(eigvals, model.C, model.schur, delta)[1:]
    return _combine(
        model.m, model.nullity, model.restricted, delta > model.middle, (H, low, both), (A, B, E), D, candidate, corner
    )


@reordered
def _log_shifted(eigvals: FloatArray, delta: float) -> float:
    """Return Σ log(λ + δ), or Σ log(1 + λ/δ) from δ = 1 on, of products that stay within 1e-270 and 2^256."""
    scale = 1.0 / delta if delta >= 1.0 else 1.0
    shift = 1.0 if delta >= 1.0 else delta
    total = 0.0
    k, size = eigvals.size, max(1, min(256, int(-620.0 / math.log(min(shift, 0.1)))))
    for start in range(0, k, size):
        product = 1.0
        for i in range(start, min(start + size, k)):
            product *= eigvals[i] * scale + shift
        total += math.log(product)
    return total


@compiled
def value(model: Model, z: FloatArray, g: FloatArray, null: FloatArray, x: float) -> tuple[float, float, float, float]:
    """
    Return f, Q, a and α at log δ = x.

    From δ = 1 on every term is taken relative to its limit, Q and a times δ and the rest over δ: the powers of δ cancel
    exactly, and f is as accurate beside the boundary as on it.
    """
    delta, eigvals, nullity, r = math.exp(x), model.eigvals, model.nullity, model.schur.shape[0]
    a, alpha = 0.0, 0.0
    if g.size:
        a = _weighted(eigvals, g * g, delta) + null[2] / delta
        alpha = (_weighted(eigvals, z * g, delta) + null[1] / delta) / a
        A, B, _, _ = _residual_sums(eigvals, z, g, alpha, delta)
        Q = A + B
    else:
        Q = _weighted(eigvals, z, delta)
    Q += _left(null, alpha) / delta
    far = delta if delta >= 1.0 else 1.0
    f = model.m * math.log(Q * far) + _log_shifted(eigvals, delta)
    if nullity and delta < 1.0:
        f += nullity * x
    if g.size and model.restricted:
        f += math.log(a * far)
    if r:
        f += corner_terms(eigvals, model.C, model.schur, delta)[0] - (r * x if delta >= 1.0 else 0.0)
    return f, Q, a, alpha


@reordered
def _sums_at_ends(eigvals: FloatArray, inverse: FloatArray, squares: FloatArray) -> tuple[float, float, float, float]:
    """Return Σz², Σλz², Σz²/λ, Σz²/λ²."""
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    for i in range(eigvals.size):
        q = squares[i]
        p = q * inverse[i]
        s0 += q
        s1 += q * eigvals[i]
        s2 += p
        s3 += p * inverse[i]
    return s0, s1, s2, s3


@reordered
def _cross_at_ends(inverse: FloatArray, z: FloatArray, g: FloatArray) -> tuple[float, float]:
    far, near = 0.0, 0.0
    for i in range(inverse.size):
        far += z[i] * g[i]
        near += z[i] * g[i] * inverse[i]
    return far, near


@compiled
def _end(Q: float, tilted: float, a: float, tilted_a: float, m: float, restricted: bool) -> tuple[float, float]:
    """Return f at δ = 0 or ∞ without what no response enters, and the size of its slope."""
    f, slope = m * math.log(Q), m * tilted / Q
    if a > 0.0 and restricted:
        f, slope = f + math.log(a), slope + tilted_a / a
    return f, slope


@compiled
def limits(model: Model, z: FloatArray, g: FloatArray, null: FloatArray) -> tuple[float, float, float, float]:
    """
    Return (f(0), c₀, f(∞), c_∞): the limits of f, and numbers with the sign of its slope just inside each of them.

    δ = 0 is a local minimum of f if c₀ ≥ 0, δ = ∞ if c_∞ ≤ 0. f(0) is infinite where f is not bounded.
    """
    eigvals, inverse, ends, m, restricted = model.eigvals, model.inverse, model.ends, model.m, model.restricted
    alpha, a_far, a_far_tilted, a_near, a_near_tilted = 0.0, 0.0, 0.0, 0.0, 0.0
    if g.size:
        a_far, a_far_tilted, a_near, a_near_tilted = _sums_at_ends(eigvals, inverse, g * g)
        a_far += null[2]
        b_far, b_near = _cross_at_ends(inverse, z, g)
        alpha = (b_far + null[1]) / a_far
        far, far_tilted, _, _ = _sums_at_ends(eigvals, inverse, (z - alpha * g) ** 2)
        _, _, near, near_tilted = _sums_at_ends(eigvals, inverse, (z - b_near / a_near * g) ** 2)
    else:
        far, far_tilted, near, near_tilted = _sums_at_ends(eigvals, inverse, z)
    far += _left(null, alpha)
    f_inf, slope = _end(far, far_tilted, a_far, a_far_tilted, m, restricted)
    c_inf = slope - ends[0]
    if model.nullity:
        return math.inf, -1.0, f_inf, c_inf
    if ends[2] == -math.inf:
        return -math.inf, 1.0, f_inf, c_inf
    f0, slope = _end(near, near_tilted, a_near, a_near_tilted, m, restricted)
    return f0 + ends[2], ends[1] - slope, f_inf, c_inf


@compiled
def hermite(u0: float, u1: float, m0: float, m1: float, s: float) -> float:
    """Return the cubic with values u and slopes m at 0 and 1."""
    t = 1.0 - s
    return t * t * ((1.0 + 2.0 * s) * u0 + s * m0) + s * s * ((1.0 + 2.0 * t) * u1 - t * m1)


@compiled
def _hermite_root(u0: float, u1: float, m0: float, m1: float, low: float, high: float) -> float:
    """Return the root of the cubic between a point where it is negative and one where it is not."""
    for _ in range(12):
        s = 0.5 * (low + high)
        if hermite(u0, u1, m0, m1, s) < 0.0:
            low = s
        else:
            high = s
    p, q = hermite(u0, u1, m0, m1, low), hermite(u0, u1, m0, m1, high)
    return low - p * (high - low) / (q - p) if q > p else low


@compiled
def _refined(j: int, nodes: FloatArray, slope: FloatArray, curvature: FloatArray, x: float) -> float:
    """Return the root beside x, in cell j, of the polynomial with f' and f'' at the four nodes around it."""
    if j < 1 or j > nodes.size - 3:
        return x
    step, c = nodes[1] - nodes[0], np.empty(8)
    for i in range(8):
        c[i] = slope[j - 1 + i // 2]
    for order in range(1, 8):  # divided differences, each node twice
        for i in range(7, order - 1, -1):
            width = i // 2 - (i - order) // 2
            c[i] = (c[i] - c[i - 1]) / width if width else step * curvature[j - 1 + i // 2]
    s = (x - nodes[j - 1]) / step
    for _ in range(3):
        p, slope_p = c[7], 0.0
        for i in range(6, -1, -1):
            t = s - i // 2
            slope_p = slope_p * t + p
            p = p * t + c[i]
        s -= p / slope_p
    refined = nodes[j - 1] + step * s
    return refined if nodes[j] < refined < nodes[j + 1] else x


@compiled
def _newton(model: Model, z: FloatArray, g: FloatArray, null: FloatArray, x: float, low: float, high: float) -> float:
    """
    Return the root of f' in a bracket where f' < 0 below and f' ≥ 0 above, from a start in it.

    An infinite end is searched for in steps, up to where δ is a boundary to all digits. An end that the cubic model put
    on the wrong side is returned: f falls beyond it, and a better minimum is there.
    """
    for _ in range(_LONGEST):
        slope, curvature = derivatives(model, z, g, null, x)
        if slope < 0.0:
            low = x
        else:
            high = x
        step = -slope / curvature if curvature > 0.0 else math.inf
        if abs(step) < _CONVERGED:
            return min(max(x + step, low), high)
        if x + step > low and x + step < high and abs(step) <= 2.0 * _STEP_OUT:
            x += step
        elif low == -math.inf:
            x -= _STEP_OUT
        elif high == math.inf:
            x += _STEP_OUT
        else:
            x = 0.5 * (low + high)
        if x < _LOWEST or x > _HIGHEST or high - low < 1e-14 * max(1.0, abs(x)):
            return x
    return x


@compiled
def _cell(u0: float, u1: float, m0: float, m1: float) -> tuple[float, float]:
    """Return where the cubic model of f' in a cell, from 0 to 1, is negative and then not; NaN if nowhere."""
    if u0 < 0.0 and u1 >= 0.0:
        return 0.0, 1.0
    if u0 < 0.0 and m0 > 0.0 and m1 < 0.0:  # both ends negative: up and down again inside?
        for i in range(1, 8):
            if hermite(u0, u1, m0, m1, i / 8) > 0.0:
                return 0.0, i / 8
    elif u0 >= 0.0 and u1 >= 0.0 and m0 < 0.0 and m1 > 0.0:
        for i in range(7, 0, -1):
            if hermite(u0, u1, m0, m1, i / 8) < 0.0:
                return i / 8, 1.0
    return math.nan, math.nan


@compiled
def _brackets(
    nodes: FloatArray, slope: FloatArray, curvature: FloatArray, c0: float, c_inf: float, out: FloatArray
) -> int:
    """
    Write (start, low, high) of every cell that has a root of f' at which it rises; return how many.

    The cells before the first node and after the last reach to the boundaries. (All cells in one call: arrays are
    counted at every call.)
    """
    last, step, count = nodes.size - 1, nodes[1] - nodes[0], 0
    if c0 < 0.0 and slope[0] >= 0.0:  # f' falls below 0 further on; else the boundary is a minimum
        out[0, 0], out[0, 1], out[0, 2] = nodes[0] - _STEP_OUT, -math.inf, nodes[0]
        count = 1
    for j in range(last):
        u0, u1, m0, m1 = slope[j], slope[j + 1], step * curvature[j], step * curvature[j + 1]
        low, high = _cell(u0, u1, m0, m1)
        if not math.isnan(low):
            start = nodes[j] + step * _hermite_root(u0, u1, m0, m1, low, high)
            out[count, 0] = _refined(j, nodes, slope, curvature, start)
            out[count, 1], out[count, 2] = nodes[j] + step * low, nodes[j] + step * high
            count += 1
    if c_inf > 0.0 and slope[last] < 0.0:
        out[count, 0], out[count, 1], out[count, 2] = nodes[last] + _STEP_OUT, nodes[last], math.inf
        count += 1
    return count


@compiled
def _at_nodes(
    model: Model, t: int, z: FloatArray, g: FloatArray, grid: Grid, null: FloatArray, slope: FloatArray,
    curvature: FloatArray,
) -> None:  # fmt: skip
    """
    Write f' and f'' at the nodes for row t, from the products with the weights that all rows share.

    Where those do not show the sign of f' for certain, or cancel, both are evaluated: the brackets are those of f'.
    """
    m, nullity, restricted, middle = model.m, model.nullity, model.restricted, model.middle
    nodes, shared, zz, zg, gg = grid
    G, row = nodes.size, t if zz.shape[0] > 1 else 0
    for j in range(G):
        delta = math.exp(nodes[j])
        A, B, E = zz[row, j], zz[row, G + j] + null[0] / delta, zz[row, 2 * G + j]
        D, a_sums, cancelled = 0.0, (0.0, 0.0, 0.0), False
        if gg.shape[0]:
            a_sums = (gg[t, j], gg[t, G + j] + null[2] / delta, gg[t, 2 * G + j])
            bA, bB, bE = zg[t, j], zg[t, G + j] + null[1] / delta, zg[t, 2 * G + j]
            alpha = (bA + bB) / (a_sums[0] + a_sums[1])
            D, cancelled = bB - alpha * a_sums[1], alpha * (bA + bB) > _CANCELLED * (A + B)
            A, B = A - 2.0 * alpha * bA + alpha**2 * a_sums[0], B - 2.0 * alpha * bB + alpha**2 * a_sums[1]
            E = E - 2.0 * alpha * bE + alpha**2 * a_sums[2]
        H, low, both = shared[0, j], shared[1, j], shared[2, j]
        upper, corner = delta > middle, (shared[3, j], shared[4, j], shared[5, j])
        slope[j], curvature[j] = _combine(m, nullity, restricted, upper, (H, low, both), (A, B, E), D, a_sums, corner)
        if cancelled or not abs(slope[j]) > _UNCERTAIN * (H if upper else low + nullity):
            slope[j], curvature[j] = derivatives(model, z, g, null, nodes[j])


@compiled
def search_rows(
    model: Model, Z: FloatArray, candidates: FloatArray, null: FloatArray, grid: Grid, out: FloatArray
) -> None:
    """
    Write (log δ, f, Q, a, α) at the global minimum of f, log δ = ±inf on the boundaries, into out (T, 5).

    For each row of Z, or of `candidates` when Z has one row. Every cell between nodes where f' changes from negative to
    positive, or where its cubic Hermite model does so twice, is searched by Newton's method in a bracket; then f is
    compared over all minima and both exact limits.
    """
    nodes, nothing = grid.nodes, np.empty(0)
    slope, curvature, brackets = np.empty(nodes.size), np.empty(nodes.size), np.empty((nodes.size + 1, 3))
    for t in range(out.shape[0]):
        z = Z[t if Z.shape[0] > 1 else 0]
        g = candidates[t] if candidates.shape[0] else nothing
        _at_nodes(model, t, z, g, grid, null[t], slope, curvature)
        f0, c0, f_inf, c_inf = limits(model, z, g, null[t])
        best, where, Q, a, alpha = math.inf, math.nan, math.nan, 0.0, 0.0
        for i in range(_brackets(nodes, slope, curvature, c0, c_inf, brackets)):
            x = _newton(model, z, g, null[t], brackets[i, 0], brackets[i, 1], brackets[i, 2])
            f, Q_x, a_x, alpha_x = value(model, z, g, null[t], x)
            if f < best:
                best, where, Q, a, alpha = f, x, Q_x, a_x, alpha_x
        # a boundary that is no local minimum has a better point beside it, so that it cannot win by being listed
        if f_inf < best:
            best, where = f_inf, math.inf
        if f0 > -math.inf and f0 < best:
            best, where = f0, -math.inf
        out[t, 0], out[t, 1], out[t, 2], out[t, 3], out[t, 4] = where, best, Q, a, alpha


@compiled
def evaluate_rows(model: Model, Z: FloatArray, null: FloatArray, x: FloatArray) -> FloatArray:
    """Return f, f', f'' and Q at each log δ in x, for each row of Z, (4, T, m)."""
    out, nothing = np.empty((4, Z.shape[0], x.size)), np.empty(0)
    for t in range(Z.shape[0]):
        for j in range(x.size):
            out[0, t, j], out[3, t, j], _, _ = value(model, Z[t], nothing, null[t], x[j])
            out[1, t, j], out[2, t, j] = derivatives(model, Z[t], nothing, null[t], x[j])
    return out


@compiled
def limit_rows(model: Model, Z: FloatArray, null: FloatArray) -> FloatArray:
    """Return what `limits` returns for each row of Z, (4, T)."""
    out, nothing = np.empty((4, Z.shape[0])), np.empty(0)
    for t in range(Z.shape[0]):
        out[0, t], out[1, t], out[2, t], out[3, t] = limits(model, Z[t], nothing, null[t])
    return out


@reordered
def _product(a: FloatArray, b: FloatArray) -> float:
    total = 0.0
    for i in range(b.size):
        total += a[i] * b[i]
    return total


@reordered
def estimate_rows(
    eigvals: FloatArray, Z: FloatArray, g: FloatArray, e: FloatArray, C: FloatArray, CC: FloatArray, out: FloatArray
) -> None:
    """
    Write Σz²λ²w³, Σz²λw³, Σz²w³, Σλ²w², Σλw², Σw², w = 1/(gλ + e), and ΣCwz, ΣCCw, for each row into out (T, 6 + …).

    Z with one row serves any number of pairs (g, e); C (r, k) and CC (q, k) have a sum for each of their rows.
    """
    weights, scaled, r = np.empty(eigvals.size), np.empty(eigvals.size), C.shape[0]
    for t in range(out.shape[0]):
        z = Z[t if Z.shape[0] > 1 else 0]
        s0, s1, s2 = 0.0, 0.0, 0.0
        s3, s4, s5 = 0.0, 0.0, 0.0
        for i in range(eigvals.size):
            w = 1.0 / (g[t] * eigvals[i] + e[t])
            v = eigvals[i] * w
            weights[i], scaled[i] = w, z[i] * w
            q = z[i] * z[i] * w
            s0 += q * v * v
            s1 += q * v * w
            s2 += q * w * w
            s3 += v * v
            s4 += v * w
            s5 += w * w
        out[t, 0], out[t, 1], out[t, 2], out[t, 3], out[t, 4], out[t, 5] = s0, s1, s2, s3, s4, s5
        for j in range(r):
            out[t, 6 + j] = _product(C[j], scaled)
        for j in range(CC.shape[0]):
            out[t, 6 + r + j] = _product(CC[j], weights)


@compiled
def value_rows(model: Model, Z: FloatArray, null: FloatArray, x: FloatArray, out: FloatArray) -> None:
    """Write f at each log δ in x for each row of Z, out (T, m)."""
    nothing = np.empty(0)
    for t in range(Z.shape[0]):
        for j in range(x.size):
            out[t, j] = value(model, Z[t], nothing, null[t], x[j])[0]


@compiled
def _allowed(x: float, allowed: Levels) -> float:
    """Return the allowed rise of f at log δ = x: levels on a grid, linear between, constant beyond it."""
    first, step, levels = allowed
    place = (x - first) / step
    if place <= 0.0:
        return levels[0]
    j = int(place)
    if j >= levels.size - 1:
        return levels[levels.size - 1]
    return levels[j] + (place - j) * (levels[j + 1] - levels[j])


@compiled
def _crossing(
    model: Model, z: FloatArray, null: FloatArray, best: float, allowed: Levels, x: float, beyond: float
) -> float:
    """Return where the rise of f passes what is allowed, between log δ = x where it is less and `beyond` where more."""
    nothing = np.empty(0)
    excess = value(model, z, nothing, null, x)[0] - best - _allowed(x, allowed)
    if excess >= 0.0:  # by rounding only
        return x
    while math.isinf(beyond):  # no node lies there: step out to one
        out = x + (_STEP_OUT if beyond > 0.0 else -_STEP_OUT)
        if out < _LOWEST or out > _HIGHEST:
            return x
        if value(model, z, nothing, null, out)[0] - best < _allowed(out, allowed):
            x = out
        else:
            beyond = out
    inside, outside = x, beyond
    low = value(model, z, nothing, null, inside)[0] - best - _allowed(inside, allowed)
    high = value(model, z, nothing, null, outside)[0] - best - _allowed(outside, allowed)
    for _ in range(_LONGEST):  # regula falsi, the weight of an end that stays halved (Illinois)
        middle = inside - low * (outside - inside) / (high - low)
        if not min(inside, outside) < middle < max(inside, outside):
            middle = 0.5 * (inside + outside)
        here = value(model, z, nothing, null, middle)[0] - best - _allowed(middle, allowed)
        if abs(here) < 1e-10 or abs(outside - inside) < 1e-12 * max(1.0, abs(middle)):
            return middle
        if here < 0.0:
            inside, low, high = middle, here, 0.5 * high
        else:
            outside, high, low = middle, here, 0.5 * low
    return middle


@compiled
def region_rows(
    model: Model, Z: FloatArray, null: FloatArray, grid: Grid, heights: FloatArray, optima: FloatArray,
    allowed: Levels, out: FloatArray,
) -> None:  # fmt: skip
    """
    Write the lowest and highest log δ at which f rises above its minimum by no more than allowed, for each row of Z.

    Nodes, local minima between them and both exact limits are looked at, so that a second mode is not overlooked; then
    the ends are found in brackets. out (T, 3): lowest, highest (±inf on a boundary), and whether all between is inside
    (1) or the region has gaps (0). `heights` (T, G) is f at the nodes, `optima` (T, 2) log δ and f at the minimum.
    """
    nodes, levels, nothing = grid.nodes, allowed[2], np.empty(0)
    G = nodes.size
    slope, curvature, inside = np.empty(G), np.empty(G), np.empty(G, dtype=np.bool_)
    brackets = np.empty((G + 1, 3))
    for t in range(out.shape[0]):
        z, best = Z[t], optima[t, 1]
        _at_nodes(model, t, z, nothing, grid, null[t], slope, curvature)
        f0, c0, f_inf, c_inf = limits(model, z, nothing, null[t])
        low, high = optima[t, 0], optima[t, 0]
        for j in range(G):
            inside[j] = heights[t, j] - best <= _allowed(nodes[j], allowed)
            if inside[j]:
                low, high = min(low, nodes[j]), max(high, nodes[j])
        for i in range(_brackets(nodes, slope, curvature, c0, c_inf, brackets)):
            x = _newton(model, z, nothing, null[t], brackets[i, 0], brackets[i, 1], brackets[i, 2])
            if value(model, z, nothing, null[t], x)[0] - best <= _allowed(x, allowed):
                low, high = min(low, x), max(high, x)
        low = -math.inf if f0 - best <= levels[0] else low
        high = math.inf if f_inf - best <= levels[levels.size - 1] else high
        below, above, gaps = -math.inf, math.inf, False
        for j in range(G):
            if nodes[j] < low:
                below = nodes[j]
            elif nodes[j] > high:
                above = min(above, nodes[j])
            elif not inside[j]:
                gaps = True
        out[t, 0] = low if math.isinf(low) else _crossing(model, z, null[t], best, allowed, low, below)
        out[t, 1] = high if math.isinf(high) else _crossing(model, z, null[t], best, allowed, high, above)
        out[t, 2] = 0.0 if gaps else 1.0
