"""
Profile-likelihood limits of variances and coefficients: shadows of one region of (δ, σ²).

The limits of a parameter q are its extremes over the region {-2ℓ ≤ min + c}. Given δ, that region is an interval of the
other parameter in closed form, so that each limit is an extreme over δ alone, and no likelihood is maximised again. In
the coordinates V = τ(wK/λ₁ + (1 - w)I), w = 1/(1 + δ/λ₁), where both boundaries are ordinary points, with Q_w the
quadratic form at τ = 1 and r = c - (f - min f) the rise that δ leaves over,

    τ from Q_w/(m u₊) to Q_w/(m u₋), u - 1 - log u = r/m, u₋ ≤ 1 ≤ u₊;      |b - β̂| ≤ √(v Q_w (e^{r/m} - 1))

v being var β̂ at τ = 1. The likelihood of a coefficient is the restricted one that keeps it, where the *other* ones are
eliminated: m = p + 1, and f gains log v. For ML it is the full likelihood, m = n.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import lambertw

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.kernel.effects import effects
from pm_fastlmm.kernel.likelihood.profile import Profile
from pm_fastlmm.kernel.likelihood.region import Allowed, Scale, likelihood_region
from pm_fastlmm.spectrum.spectrum import Rotated

_SPACING, _POINTS = 0.15, 300  # standard deviations of log δ between the points where an extreme is looked for
_INSIDE, _LOWEST = 41, 600.0
_FAR = 25.0  # of log δ beyond the last point, to a boundary
_PEAKS, _ZOOM, _ZOOMS = 2, 25, 6  # each zoom is twelve times closer, and the error of an extreme is its square


@dataclass(frozen=True, slots=True, eq=False)
class _Curve:
    """
    What the limits of one response are made of, at points of log δ.

    Attributes
    ----------
    w, f, Q : (m,) arrays
        Weight of K, -2 log of the profile likelihood (of a coefficient, with log v), quadratic form at τ = 1.
    beta, v : (m,) arrays
        Estimate of the coefficient and its variance at τ = 1; of size 0 for a variance.
    """

    w: FloatArray
    f: FloatArray
    Q: FloatArray
    beta: FloatArray
    v: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Projector:
    """Limits of the parameters of one response, or of one coefficient (`coefficient` its place)."""

    rotated: Rotated
    profile: Profile
    coefficient: int | None = None

    @classmethod
    def of(cls, rotated: Rotated, method: Method, coefficient: int | None = None) -> "Projector":
        """Return that of a variance, or of a coefficient."""
        profile = Profile.from_rotated(rotated, method)
        if coefficient is not None and method == "REML":
            profile = replace(profile, m=profile.m + 1)
        return cls(rotated, profile, coefficient)

    def curve(self, x: FloatArray) -> _Curve:
        """Return the curve at log δ = x, ±inf included."""
        p, finite = self.profile, np.isfinite(x)
        with np.errstate(over="ignore"):
            w = np.where(finite, 1 / (1 + np.exp(np.where(finite, x, 0.0))), x < 0)
        f, Q = np.empty(x.size), np.empty(x.size)
        if finite.any():
            f[finite], _, _, Q[finite] = p.evaluate(x[finite])[:, 0]
            Q[finite] /= w[finite]
        f0, _, f_inf, _ = (limit[0] for limit in p.limits())
        f[x == -np.inf], f[x == np.inf] = f0, f_inf
        Q[x == np.inf] = 1.0
        if (x == -np.inf).any():
            Q[x == -np.inf] = float((p.squares(slice(None)) @ (1 / p.eigvals))[0]) if not p.nullity else np.inf
        if self.coefficient is None:
            return _Curve(w, f, Q, np.zeros(0), np.zeros(0))
        blue = effects.blue(self.rotated, w / p.largest, 1 - w)
        v = blue.cov[:, self.coefficient, self.coefficient]
        if p.restricted:  # f is relative to δ = 1 from there on, and so is v = v_w/w
            possible = np.isfinite(f)  # not where y has a direction without variance
            f[possible] += np.log(v[possible] / np.maximum(w, 1 - w)[possible])
        return _Curve(w, f, Q, blue.beta[:, self.coefficient], v)

    def limits(self, quantity: Callable[[FloatArray], FloatArray] | None, allowed: float) -> tuple[float, float]:
        """
        Return the lowest and highest value of a coefficient, or of τ times a function of w, in the region.

        `allowed` is the rise of -2ℓ, a quantile of χ²₁.
        """
        x = self._points(allowed)
        curve = self.curve(x)
        if not np.isfinite(curve.f[1:]).all():
            return np.nan, np.nan
        lowest = -self._highest(x, curve, lambda c: -c.f)

        def end(sign: float) -> float:
            return sign * self._highest(x, curve, lambda c: sign * self._extreme(c, quantity, lowest, allowed, sign))

        return end(-1.0), end(1.0)

    def _points(self, allowed: float) -> FloatArray:
        """Return log δ over the whole spectrum and, more closely, over the region of δ."""
        nodes = Scale.of(self.profile).nodes(_SPACING, _POINTS)
        region = likelihood_region(self.profile, Allowed.constant(allowed))
        low, high = max(float(region.low[0]), -_LOWEST), min(float(region.high[0]), float(nodes[-1]))
        return np.unique(np.concatenate([[-np.inf], nodes, np.linspace(min(low, high), high, _INSIDE), [np.inf]]))

    def _extreme(
        self, c: _Curve, quantity: Callable[[FloatArray], FloatArray] | None, lowest: float, allowed: float, sign: float
    ) -> FloatArray:
        """Return the lowest (sign -1) or highest value (+1) at each point, ∓inf outside the region."""
        rise = allowed - (c.f - lowest)
        inside, m = rise >= 0, self.profile.m
        rise = np.where(inside, rise, 0.0)
        unit = float(self.profile.norm2[0])
        with np.errstate(invalid="ignore"):
            if quantity is None:
                value = c.beta + sign * np.sqrt(c.v * c.Q * unit * np.expm1(rise / m))
            else:
                u = -lambertw(-np.exp(-1 - rise / m), 0 if sign > 0 else -1).real
                value = quantity(c.w) * c.Q * unit / (m * u)
        return np.where(inside, value, -sign * np.inf)

    def _highest(self, x: FloatArray, curve: _Curve, function: Callable[[_Curve], FloatArray]) -> float:
        """Return the highest value of a function of the curve, known at x, refined about its highest few points."""
        values = function(curve)
        values = np.where(np.isnan(values), -np.inf, values)
        best = float(values.max())
        inner = np.r_[-np.inf, values, -np.inf]
        peaks = np.flatnonzero((inner[1:-1] >= inner[:-2]) & (inner[1:-1] >= inner[2:]) & np.isfinite(values))
        for i in peaks[np.argsort(values[peaks])[::-1][:_PEAKS]]:
            low, high = x[max(i - 1, 0)], x[min(i + 1, x.size - 1)]
            low = x[i if i else 1] - _FAR if np.isinf(low) else low
            high = x[i if i < x.size - 1 else -2] + _FAR if np.isinf(high) else high
            for _ in range(_ZOOMS):
                points = np.linspace(low, high, _ZOOM)
                found = np.nan_to_num(function(self.curve(points)), nan=-np.inf, neginf=-np.inf)
                at = int(np.argmax(found))
                best = max(best, float(found[at]))
                low, high = points[max(at - 1, 0)], points[min(at + 1, _ZOOM - 1)]
        return best
