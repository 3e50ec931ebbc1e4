"""The profile likelihood of one kernel over log δ, and its global maximum."""

import math
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from scipy.optimize import brentq

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.linalg.rotated import Rotated

type Method = Literal["REML", "ML"]
type Boundary = Literal["no kernel variance", "no residual variance"]

# The derivative is a sum of logistic functions of log δ with poles at distance π from the real axis:
# a spacing of ¼ leaves no room for two roots inside a cell.
_SPACING = 0.25
_MARGIN = math.log(1e3)
_CHUNK = 2_000_000
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, eq=False)
class Optimum:
    """The global maximum over (σ²_g, σ²_e); `problem` says why there is none."""

    sigma2_g: float
    sigma2_e: float
    boundary: Boundary | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """
    f(δ) = -2 max_{σ²} ℓ(σ², δ), without constants, of one response scaled to unit size and unit largest eigenvalue.

        f(δ) = m log Q + Σ log(λ_i + δ) + ν log δ [+ log|S|],   Q = Σ w_i z_i² + rss/δ,   w_i = 1/(λ_i + δ)

    with m = p for REML; m = n and the term in brackets, S = S₀ + δI + Cᵀdiag(δw/λ)C, for ML.
    """

    eigvals: FloatArray
    z2: FloatArray
    rss: float
    nullity: int
    m: int
    C: FloatArray
    schur: FloatArray
    schur_singular: bool

    @classmethod
    def from_rotated(cls, z: FloatArray, rss: float, rotated: Rotated, method: Method) -> Self:
        """Scale one response of a `Rotated`: z and rss to unit squared norm, K to a largest eigenvalue of 1."""
        s = rotated.spectrum
        scale, norm2 = float(s.eigvals.max(initial=0.0)) or 1.0, float((z**2).sum() + rss) or 1.0
        r = s.projection.rank if method == "ML" else 0
        return cls(
            eigvals=s.eigvals / scale,
            z2=z**2 / norm2,
            rss=float(rss) / norm2,
            nullity=s.nullity,
            m=s.df + r,
            C=s.C[:, :r] / scale,
            schur=s.schur[:r, :r] / scale,
            schur_singular=r > 0 and not np.abs(s.corner_root).max(axis=0).all(),
        )

    def value(self, x: FloatArray | float) -> FloatArray:
        """Return f at log δ = x (a vector)."""
        delta = np.exp(np.atleast_1d(x))
        shifted = self.eigvals + delta[:, None]
        f = self.m * np.log((self.z2 / shifted).sum(-1) + self._over(delta)) + np.log(shifted).sum(-1)
        if self.nullity:
            f = f + self.nullity * np.log(delta)
        if self.schur.size:
            f = f + np.linalg.slogdet(self._corner(1 / shifted, delta))[1]
        return np.asarray(f)

    def slope(self, x: FloatArray | float) -> FloatArray:
        """
        Return df/d log δ at log δ = x (a vector), without cancellation at either end.

        With h = λw it is m Σhwz²/Q - Σh [+ tr S⁻¹(δS' - S)], and the same with 1 - h = δw; the form is used whose
        terms are small.
        """
        delta = np.exp(np.atleast_1d(x))
        w = 1 / (self.eigvals + delta[:, None])
        w2, eigvals_z2, over = w * w, self.eigvals * self.z2, self._over(delta)
        m_over_Q = self.m / (w @ self.z2 + over)
        upper = m_over_Q * (w2 @ eigvals_z2) - w @ self.eigvals
        lower = delta * w.sum(-1) + self.nullity - m_over_Q * (delta * (w2 @ self.z2) + over)
        if self.schur.size:
            co = delta[:, None] * w
            S = self._corner(w, delta)
            rest_of_S = self.schur + self._gram(co**2 / self.eigvals)  # S - δS', S' = dS/dδ
            upper = upper - np.trace(np.linalg.solve(S, rest_of_S), axis1=-2, axis2=-1)
            derivative = delta[:, None, None] * np.eye(self.schur.shape[0]) + self._gram(co * w)
            lower = lower + np.trace(np.linalg.solve(S, derivative), axis1=-2, axis2=-1)
        return np.where(delta > self.eigvals[self.rank // 2], upper, lower)

    def scale(self, delta: float) -> float:
        """Return the maximising σ² at δ, in the scaled units."""
        return float((self.z2 / (self.eigvals + delta)).sum() + (self.rss / delta if self.nullity else 0.0)) / self.m

    def limits(self) -> tuple[float, float, float, float]:
        """
        Return (f(0), c₀, f(∞), c_∞): the limits of f, and numbers with the sign of its slope just inside each of them.

        δ = 0 is a local minimum of f if c₀ ≥ 0, δ = ∞ if c_∞ ≤ 0. f(0) is infinite where f is not bounded.
        """
        trace = self.eigvals.sum()
        if self.schur.size:
            trace += np.trace(self.schur) + float((self.C**2 / self.eigvals[:, None]).sum())
        slope_inf = self.m * float((self.eigvals * self.z2).sum()) - trace * float(self.z2.sum() + self.rss)
        value_inf = self.m * math.log(float(self.z2.sum()) + self.rss)
        if self.nullity or not self.z2.any():
            return math.inf, -1.0, value_inf, slope_inf
        if self.schur_singular:
            return -math.inf, 1.0, value_inf, slope_inf
        w = 1 / self.eigvals
        Q = float((self.z2 * w).sum())
        value, slope = (
            self.m * math.log(Q) - float(np.log(w).sum()),
            w.sum() - self.m * float((self.z2 * w**2).sum()) / Q,
        )
        if self.schur.size:
            S = self.schur
            value += float(np.linalg.slogdet(S)[1])
            slope += float(np.trace(np.linalg.solve(S, np.eye(len(S)) + self._gram(w[None] ** 2)[0])))
        return value, slope, value_inf, slope_inf

    def interior_minima(self, c0: float, c_inf: float) -> list[float]:
        """Return every interior local minimum of f, as log δ."""
        lo = math.log(self.eigvals.min())
        if self.nullity:
            # far below this point rss/δ dominates Q and f falls with slope ν - m < 0 no more
            weight = float((self.z2 / self.eigvals).sum())
            if weight > 0:
                lo = min(lo, math.log(self.rss) - math.log(weight * self.nullity / self.rank))
        lo -= _MARGIN
        hi = _MARGIN
        while c0 < 0 and self.slope(lo)[0] >= 0 and lo > math.log(1e-300):
            lo -= _MARGIN
        while c_inf > 0 and self.slope(hi)[0] <= 0 and hi < math.log(1e15):
            hi += _MARGIN
        x = np.linspace(lo, hi, max(2, math.ceil((hi - lo) / _SPACING)))
        parts = max(1, x.size * self.rank // _CHUNK)
        slope = np.concatenate([self.slope(part) for part in np.array_split(x, parts)])
        return [self._root(x[i : i + 2], slope[i : i + 2]) for i in np.flatnonzero((slope[:-1] < 0) & (slope[1:] >= 0))]

    def _root(self, x: FloatArray, slope: FloatArray) -> float:
        """Return the zero of the slope in a cell where its sign changes, from its values at the two ends."""
        known = dict(zip(x.tolist(), slope.tolist(), strict=True))

        def evaluate(at: float) -> float:
            return known[at] if at in known else float(self.slope(at)[0])

        return float(brentq(evaluate, x[0], x[1], xtol=1e-15, rtol=4 * _EPS))

    @property
    def rank(self) -> int:
        """Number of positive eigenvalues."""
        return int(self.eigvals.size)

    def _over(self, delta: FloatArray) -> FloatArray | float:
        return self.rss / delta if self.nullity else 0.0

    def _gram(self, w: FloatArray) -> FloatArray:
        return np.asarray(np.einsum("ki,gk,kj->gij", self.C, w, self.C, optimize=True))

    def _corner(self, w: FloatArray, delta: FloatArray) -> FloatArray:
        diagonal = delta[:, None, None] * np.eye(self.schur.shape[0])
        return self.schur + diagonal + self._gram(delta[:, None] * w / self.eigvals)


def maximise(z: FloatArray, rss: float, rotated: Rotated, method: Method) -> Optimum:
    """
    Maximise the (restricted) likelihood of one response over (σ²_g, σ²_e) globally.

    Every interior mode is found on a grid in log δ that spans all scales of the spectrum and compared with both
    boundaries, which are exact limits and not ends of the search.
    """
    problem = _not_estimable(z, rss, rotated)
    if problem is not None:
        return Optimum(math.nan, math.nan, problem=problem)
    profile = Profile.from_rotated(z, rss, rotated, method)
    f0, c0, f_inf, c_inf = profile.limits()
    if f0 == -math.inf:
        problem = (
            "the ML likelihood is unbounded as delta goes to 0, because K is singular within the span of X (a centred "
            "kinship matrix with an intercept is the common case); the values are its highest interior mode. Use REML"
        )
    candidates = [(float(profile.value(x)[0]), math.exp(x)) for x in profile.interior_minima(c0, c_inf)]
    # a boundary that is no local maximum has a better point beside it, so that it cannot win by being listed
    candidates.append((f_inf, math.inf))
    if math.isfinite(f0):
        candidates.append((f0, 0.0))
    delta = min(candidates)[1]
    norm2 = float((z**2).sum() + rss)
    if math.isinf(delta):
        return Optimum(0.0, norm2 / profile.m, "no kernel variance", problem)
    largest = float(rotated.spectrum.eigvals.max())
    sigma2 = profile.scale(delta) * norm2 / largest
    return Optimum(sigma2, delta * largest * sigma2, "no residual variance" if delta == 0 else None, problem)


def _not_estimable(z: FloatArray, rss: float, rotated: Rotated) -> str | None:
    """Return why the data have no estimate of two variances, None if they have."""
    spectrum = rotated.spectrum
    if not (z.any() or rss > 0):
        return (
            "X explains y exactly, no residual is left: the likelihood is unbounded as the variances go to 0. "
            "Check for a constant y, or a column of X that equals it"
        )
    if not spectrum.rank:
        return (
            "not identifiable: orthogonal to X, K is zero, so only the residual variance has information. "
            "Fit ordinary least squares"
        )
    flat = spectrum.eigvals.min() >= spectrum.eigvals.max() * (1 - 10 * spectrum.n * _EPS)
    if not spectrum.nullity and flat:
        return (
            "not identifiable: orthogonal to X, K is a multiple of the identity, so only the sum of the two variances "
            "has information. Fit ordinary least squares, or check that K is the matrix you meant"
        )
    if spectrum.nullity and rss == 0:
        return (
            "the likelihood is unbounded as delta goes to 0, because K and X explain y exactly (nothing of y is left "
            "in the null space of K). Use a K of lower rank or more observations"
        )
    return None
