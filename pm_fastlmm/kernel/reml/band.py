"""
The maximum of the likelihood of one response from K as a band, without eigenvalues.

With K + δI = LLᵀ in coordinates that end with y orthogonal to X, and then X, the diagonal is all that is needed:

    f(δ) = Σ log(l_ii²/δ) - m log(l_yy²/δ),   σ̂² = ‖y₂‖²/(m l_yy²),   f(∞) = 0

is -2 times the profile likelihood: over the p pivots without X and m = p for REML, over all and m = n for ML. Both
terms are analytic in log δ within π of the real axis, so that polynomials at Chebyshev's nodes are exact to all digits:
one beside the best mode, with the derivatives of the first term (sums over eigenvalues of h and h(1-h), h = λ/(λ + δ)),
and one over the whole range, which shows every mode. That is one in log δ/(δ + c) with c above all λ, where they are as
analytic, and the range of δ > c is short.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Chebyshev
from scipy.linalg import blas, lapack, solve_triangular

from pm_fastlmm.base.arrays import EPS, FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.spectrum.banded import banded

# of δ, relative to a bound of the eigenvalues: the lowest one below all of them, or else the rounding of K
_LOWEST, _HIGHEST = (2e-6, 1e-8), 300.0
_ERROR = 0.05  # of the polynomial over the whole range, m exp(-2π degree / range)
_CLEAR = 1e-3  # by how much f is below f(∞), at least
_FLAT = 0.05  # of the second derivative, below which rounding moves the maximum
_SETTLED = 0.25  # Σ(1-h) at the lowest δ, below which no eigenvalue is 0
_NULL = 0.99  # of Q there, in the directions with λ = 0
_SHARP = 1e-5  # of δ at the maximum, relative to the bound: from there on rounding leaves ten digits
_BESIDE, _DEGREE = 0.5, 12  # of the polynomial at the maximum
_SMALLEST = 1e-3  # mean of (λ_min/λ)², roughly, from which on it shows Σ1/λ²


class _Mode(NamedTuple):
    """Log δ at a minimum of f, infinite at the boundaries, f, and the sums over eigenvalues of (λ², λ, 1)/(λ + δ)².

    f rises from a boundary at 0 up to the other log δ.
    """

    x: float
    f: float
    sums: tuple[float, float, float]
    rises: float = -math.inf


class BandOptimum(NamedTuple):
    """The estimates; f there; average and expected information of the shares, see `relative_information`; Σλ/p."""

    sigma2_g: float
    sigma2_e: float
    f: float
    norm2: float
    average: FloatArray
    expected: FloatArray
    beta: FloatArray
    beta_cov: FloatArray
    mean_eigval: float


class _Band(NamedTuple):
    """QᵀKQ by its diagonals, the order of the coordinates reversed; the R of [X y]; how many of the pivots count, m."""

    K: FloatArray
    R: FloatArray
    m: int

    @property
    def p(self) -> int:
        """How many coordinates are orthogonal to X."""
        return int(self.K.shape[1]) - len(self.R) + 1

    def factor(self, delta: float, count: int) -> FloatArray | None:
        """Return L of the first rows and columns of K + δI, None if that is not positive definite."""
        shifted = self.K[:, :count].copy(order="F")
        shifted[0] += delta
        L, failed = lapack.dpbtrf(shifted, lower=1, overwrite_ab=1)
        return None if failed else L

    def times(self, v: FloatArray) -> FloatArray:
        """Return as many rows and columns of QᵀKQ as v has times v."""
        return np.asarray(blas.dsbmv(len(self.K) - 1, 1.0, self.K[:, : v.size], v, lower=1))

    def logs(self, x: FloatArray) -> FloatArray:
        """Return Σ log(l_ii²/δ) and log(l_yy²/δ) at each log δ, (2, …); NaN where K + δI is not positive definite."""
        out = np.full((2, len(x)), math.nan)
        for j, log_delta in enumerate(x):
            L = self.factor(math.exp(log_delta), self.m)
            if L is not None:
                pivots = 2 * np.log(L[0]) - log_delta
                out[:, j] = pivots.sum(), pivots[self.p - 1]
        return out


def maximise_band(K: FloatArray, X: FloatArray, y: FloatArray, method: Method, width: int) -> BandOptimum | None:
    """
    Return the global maximum; None wherever anything is not clear.

    Not clear is: K that may be indefinite, or is a multiple of the identity orthogonal to X; y without a residual; a
    flat likelihood; and a maximum close to σ²_e = 0, or there with an ill-conditioned K.
    """
    n, r = X.shape
    R, diagonals = banded(K, np.column_stack([X, y]), width)
    if abs(R[r, r]) < 1e-8 * np.linalg.norm(R[:, r]):
        return None
    for k, diagonal in enumerate(diagonals):
        diagonal[: n - k] = diagonal[: n - k][::-1]
    band = _Band(diagonals, R, n - r if method == "REML" else n)
    found = _search(band)
    return None if found is None else _optimum(band, found, float(np.trace(K)) / n)


def _search(band: _Band) -> _Mode | None:
    """Return the lowest of all; None where it is not clear."""
    m, n = band.m, band.K.shape[1]
    bound = float(band._replace(K=np.abs(band.K)).times(np.ones(m)).max())
    rounding = n * EPS * bound  # at which `Spectrum.from_covariance` counts eigenvalues as zero
    K22 = band.K[:, : band.p]
    varies = max(np.ptp(K22[0]), *(np.abs(K22[k, :-k]).max(initial=0.0) for k in range(1, len(K22))))
    if varies <= 10 * rounding or band.factor(n * EPS * float(band.K[0].max()), n) is None:
        return None
    lowest, left = _range(band, bound)
    if left is None:
        return None

    def log_delta(t: FloatArray) -> FloatArray:
        return np.asarray(math.log(bound) - np.log(np.expm1(-t)))

    low, high = (-math.log1p(1 / ratio) for ratio in (lowest, _HIGHEST))
    t = np.linspace(low, high, 500)
    degree = math.ceil((high - low) * math.log(m / _ERROR) / (2 * math.pi))
    nodes, sums, of_y = _polynomials(lambda t: band.logs(log_delta(t)), low, high, degree)
    nodes = nodes[0] - m * nodes[1]
    if min(nodes.min(), nodes[-1] - left) > 0:
        # nothing is below f(∞); the slope there has the sign of tr K - m y'Ky/y'y
        steep = m * band.K[0, band.p - 1] < (1 - 1 / _HIGHEST) * band.K[0, :m].sum()
        return _Mode(math.inf, 0.0, (0.0, 0.0, 0.0)) if steep else None
    f = (sums - m * of_y)(t)
    inner = (f[1:-1] <= f[:-2]) & (f[1:-1] <= f[2:]) & (f[1:-1] < f.min() + 4 * _ERROR)
    starts, lowest_f = log_delta(t[1:-1][inner]), f[0] - left
    zero = _at_zero(band, bound) if left and f[0] < f.min() + 4 * _ERROR else None
    if zero is not None:
        starts, lowest_f = starts[starts > zero.rises], zero.f
    modes = [_beside(band, start) for start in starts]
    best = zero
    for mode in modes:
        if mode is None:
            return None
        if mode.f < lowest_f:
            best, lowest_f = mode, mode.f
    clear = best is not None and best.f < -_CLEAR and (best is zero or best.x > math.log(_SHARP * bound))
    return best if clear else None


def _range(band: _Band, bound: float) -> tuple[float, float | None]:
    """Return the lowest δ of the range, relative to the bound, and what f falls by below; None where it has no end."""
    m, n = band.m, band.K.shape[1]
    for lowest in (*_LOWEST, n * EPS):
        sums, of_y = band.logs(math.log(lowest * bound) + np.arange(2.0))
        # the means over a step of Σ(1-h) and B/Q: how many eigenvalues are 0, and whether their directions make up Q
        null, share = m + sums[1] - sums[0], 1 + of_y[1] - of_y[0]
        if null < _SETTLED:
            return lowest, null + m * share
    # nothing where rss/δ is in Q alone
    return lowest, 0.0 if null < m * share > m * _NULL else None


def _beside(band: _Band, start: float) -> _Mode | None:
    """Return the minimum of f beside a start."""
    _, sums, of_y = _polynomials(band.logs, start - _BESIDE, start + _BESIDE, _DEGREE)
    f = sums - band.m * of_y
    slope, curvature = f.deriv(), f.deriv(2)
    x = start
    for _ in range(10):
        if not (abs(x - start) < _BESIDE and curvature(x) > _FLAT):
            return None
        x -= slope(x) / curvature(x)
    delta, H, both = math.exp(x), -float(sums.deriv()(x)), float(sums.deriv(2)(x))
    return _Mode(float(x), float(f(x)), (H - both, both / delta, (band.m - H - both) / delta**2))


def _at_zero(band: _Band, bound: float) -> _Mode | None:
    """Return δ = 0 if f rises from there; log(δ + s) with s below all eigenvalues is inside the range for K - sI."""
    shifts = (bound / 2.0**k for k in range(1, 12))
    s = next((s for s in shifts if band.factor(-s, band.K.shape[1]) is not None), None)
    if s is None:
        return None
    less, x = band._replace(K=band.K.copy(order="F")), math.log(s)
    less.K[0] -= s
    _, sums, of_y = _polynomials(less.logs, x - _BESIDE, x + _BESIDE, _DEGREE)
    f = sums - band.m * of_y
    first = band.m + float(sums.deriv()(x))  # Σs/λ
    second = first - float(sums.deriv(2)(x))
    slopes = f.deriv()(x + np.linspace(0.0, _BESIDE, 50))
    if not (slopes.min() > _FLAT and second > _SMALLEST * band.m):
        return None
    return _Mode(-math.inf, float(f(x)), (float(band.m), first / s, second / s**2), x + math.log(math.expm1(_BESIDE)))


def _polynomials(
    logs: Callable[[FloatArray], FloatArray], low: float, high: float, degree: int
) -> tuple[FloatArray, Chebyshev, Chebyshev]:
    """Return `logs` at the nodes, and its two rows as polynomials."""
    angles = np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1)
    values = logs(low + (high - low) * (1 + np.cos(angles)) / 2)
    coefficients = 2 / (degree + 1) * values @ np.cos(np.outer(angles, np.arange(degree + 1)))
    coefficients[:, 0] /= 2
    sums, of_y = (Chebyshev(c, [low, high]) for c in coefficients)
    return values, sums, of_y


def _optimum(band: _Band, mode: _Mode, kbar: float) -> BandOptimum:
    """Return the estimates at a mode."""
    (K, R, m), p = band, band.p
    r, y = len(R) - 1, np.zeros(p)
    y[-1] = R[r, r]
    norm2, Rinv = float(y[-1] ** 2), solve_triangular(R[:r, :r], np.eye(r))
    if mode.x == math.inf:
        g, e, total = 0.0, norm2 / m, norm2 / m
        pair = np.column_stack([band.times(y) / kbar, y])
        sums, along, root = pair.T @ pair, 0.0, math.sqrt(e) * np.eye(r)
        squares = 2 * sum((K[k, : m - k] ** 2).sum() for k in range(len(K))) - (K[0, :m] ** 2).sum()
        counts = [squares / kbar**2, K[0, :m].sum() / kbar, m]
    else:
        delta = math.exp(mode.x)
        L = band.factor(delta, p + r)
        assert L is not None  # it was, with less on the diagonal
        g = norm2 / m / float(L[0, p - 1]) ** 2
        e, total, t = delta * g, g * (kbar + delta), kbar + delta
        v = t * lapack.dpbtrs(L[:, :p], y[:, None], lower=1)[0][:, 0]
        pair = np.column_stack([band.times(v) / kbar, v])
        sums = t * pair.T @ lapack.dpbtrs(L[:, :p], pair, lower=1)[0]
        i = np.arange(p + r - 1, p - 1, -1)  # X in its own order
        along = L[i - p + 1, p - 1] / L[0, p - 1] * y[-1]
        root = math.sqrt(g) * np.where(i[:, None] >= i, L[np.maximum(i[:, None] - i, 0), i], 0.0)
        counts = [t**2 * one / kbar**k for k, one in zip((2, 1, 0), mode.sums, strict=True)]
    return BandOptimum(
        sigma2_g=g, sigma2_e=e, f=mode.f, norm2=norm2,
        average=0.5 / total * sums, expected=0.5 * np.array([counts[:2], counts[1:]]),
        beta=Rinv @ (R[:r, r] - along), beta_cov=Rinv @ (root @ root.T) @ Rinv.T,
        mean_eigval=float(K[0, :p].sum()) / p,
    )  # fmt: skip
