"""Limits of intervals of the parameters of one kernel."""

from collections.abc import Callable

import numpy as np
from scipy.special import gammaincinv, ndtri

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.kernel.inference.projection import Projector
from pm_fastlmm.kernel.likelihood.profile import Profile
from pm_fastlmm.kernel.likelihood.region import Allowed, likelihood_region
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

SHARES = ("h2", "pve", "delta")  # functions of δ alone
VARIANCES = ("sigma2", "sigma2_g", "sigma2_e", "total")
_AT = 1e-6  # from a bound at which an estimate, of a correlation for instance, is on it


def share_limits(rotated: Rotated, method: Method, name: str, allowed: Allowed) -> tuple[FloatArray, FloatArray]:
    """Return the limits of h2, pve or delta, (T,): the region of δ, of which they are monotone functions."""
    profile = Profile.from_rotated(rotated, method)
    region = likelihood_region(profile, allowed)
    with np.errstate(over="ignore"):
        delta = profile.largest * np.exp([region.low, region.high])
    if name == "delta":
        return delta[0], delta[1]
    s = rotated.spectrum
    kbar = s.mean_diagonal if name == "h2" else s.mean_eigval
    share = kbar / (kbar + delta)
    return share[1], share[0]


def profile_limits(rotated: Rotated, method: Method, name: str, level: float) -> tuple[FloatArray, FloatArray]:
    """Return profile-likelihood limits of any parameter, (T,); see `projection` for all but functions of δ."""
    allowed = float(2 * gammaincinv(0.5, level))
    if name in SHARES:
        return share_limits(rotated, method, name, Allowed.constant(allowed))
    place = None if name in VARIANCES else coefficient_place(rotated.spectrum, name)
    limits = []
    for t in range(len(np.atleast_2d(rotated.z))):
        projector = Projector.of(rotated.one(t) if rotated.batch_shape else rotated, method, place)
        scale = variance_of(name, rotated.spectrum, projector.profile.largest) if place is None else None
        limits.append(projector.limits(scale, allowed))
    low, high = np.transpose(limits)
    return low, high


def variance_of(name: str, spectrum: Spectrum, largest: float) -> Callable[[FloatArray], FloatArray]:
    """Return a variance as a function of w, at τ = 1: σ²_g = w/λ₁, σ²_e = 1 - w, total = (k̄σ²_g + σ²_e)/w̄."""
    kbar = spectrum.mean_diagonal
    if name == "sigma2_e":
        return lambda w: 1 - w
    if name == "total":
        return lambda w: (kbar / largest * w + 1 - w) / spectrum.mean_weight
    return lambda w: w / largest


def wald_limits(estimate: FloatArray, se: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    """Return estimate ± z · se (delta method), not cut to the range of the parameter."""
    half = ndtri((1 + level) / 2) * np.asarray(se)
    return np.asarray(estimate) - half, np.asarray(estimate) + half


def ends_of(name: str) -> tuple[float, float]:
    """Return the bounds of a quantity of one kernel."""
    return (-np.inf, np.inf) if name.startswith("beta[") else (0.0, 1.0 if name in SHARES[:2] else np.inf)


def remark(kind: str, estimate: float, limits: tuple[float, float], ends: tuple[float, float]) -> str:
    """Return what is to be known of an interval that ends at a bound of its quantity, or is not there; else nothing."""
    if np.isnan(limits).any():
        known = ", on the boundary or without information: kind='profile' has an interval" if kind == "delta" else ""
        return "undefined" + known
    if kind == "delta":
        return ""
    if kind == "bootstrap":
        at = [end for end in ends if np.isfinite(end) and abs(end - estimate) < _AT]
        drawn = "a bound, and replicates were drawn as if it were the truth: kind='profile' has an interval"
        return f"the estimate is {at[0]:g}, {drawn}" if at else ""
    reached = [f"{end:g}" for end, limit in zip(ends, limits, strict=True) if limit == end]
    if len(reached) > 1:
        return f"the data exclude neither bound, {' and '.join(reached)}"
    return f"one-sided, the data do not exclude the bound {reached[0]}" if reached else ""


def coefficient_place(spectrum: Spectrum, name: str) -> int:
    """
    Return which fixed effect "beta[name]" is.

    Raises
    ------
    ValueError
        If it is none, naming all quantities that have intervals.
    """
    names = [f"beta[{coef}]" for coef in spectrum.coef]
    if name not in names:
        raise ValueError(f"there is no quantity {name!r}: they are {', '.join([*SHARES, *VARIANCES, *names])}.")
    return names.index(name)
