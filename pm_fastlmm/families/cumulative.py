"""Distribution functions of responses given η, and averaged over a normal η: probabilities up to y, and quantiles."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, gammainc, gammaincc

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.families.bernoulli import Bernoulli, Binomial
from pm_fastlmm.families.counts import NegativeBinomial, Poisson
from pm_fastlmm.families.family import Family
from pm_fastlmm.families.gamma import Gamma
from pm_fastlmm.families.ordinal import Ordinal

_POISSON = 1e-10  # dispersion below which a negative binomial is one
_REACH, _WIDEST, _FINEST = 8.0, 0.25, 0.004  # standard deviations of η; between points, at most and at least
_STEEP = 0.5  # between points, beside the change of η by which the mean of y moves by its standard deviation
_DIFFERENCE = 1e-5
_BUDGET = 2_000_000  # numbers at a time
_AT_ONCE = 500  # rows, which have the points that one of them needs
_BISECTIONS = 60
_MOST = 1e15  # counts beyond are not told apart


def whole(family: Family) -> bool:
    """Return whether responses are integers."""
    return not isinstance(family, Gamma)


def cumulative(family: Family, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
    """
    Return P(Y ≤ y | η, ψ), (..., n).

    Raises
    ------
    ValueError
        If the family is not one of those that have a name.

    Examples
    --------
    >>> import numpy as np
    >>> from pm_fastlmm.families.counts import Poisson
    >>> from pm_fastlmm.families.cumulative import cumulative
    >>> cumulative(Poisson(), np.array([-1.0, 0.0, 2.0]), np.zeros(3), np.zeros(0)).round(4)
    array([0.    , 0.3679, 0.9197])
    """
    kind: Any = next((own for own in _OF if isinstance(family, own)), None)
    if kind is None:
        raise ValueError(
            f"family {family.name!r} has no distribution function here, which intervals of new responses and residuals "
            "by quantiles are made of: take fit.simulate()."
        )
    with np.errstate(all="ignore"):
        return np.asarray(_OF[kind](family, np.asarray(y, dtype=float), np.asarray(eta), np.asarray(psi)))


def has_cumulative(family: Family) -> bool:
    """Return whether `cumulative` knows the family."""
    return isinstance(family, tuple(_OF))


def _successes(family: Any, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
    k, m = np.floor(y), np.asarray(family.tried)
    failure = np.exp(family.of_link.log_above(eta))
    inside = np.clip(k, 0, np.maximum(m - 1, 0))
    return np.where(k < 0, 0.0, np.where(k >= m, 1.0, betainc(m - inside, inside + 1, failure)))


def _counts(family: Any, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
    k = np.floor(y)
    return np.where(k < 0, 0.0, gammaincc(np.maximum(k, 0) + 1, np.exp(eta)))


def _overdispersed(family: Any, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
    k, phi = np.floor(y), psi[..., 0, None]
    few = np.where(phi > _POISSON, phi, 1.0)
    found = betainc(1 / few, np.maximum(k, 0) + 1, 1 / (1 + few * np.exp(eta)))
    return np.where(k < 0, 0.0, np.where(phi > _POISSON, found, _counts(family, y, eta, psi)))


def _positive(family: Any, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
    shape = 1 / psi[..., 0, None]
    return np.where(y <= 0, 0.0, gammainc(shape, np.maximum(y, 0) * np.exp(-eta) * shape))


def _ordered(family: Any, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
    below = np.cumsum(family.probabilities(eta, psi), axis=-1)
    code = np.clip(np.floor(y), 0, family.categories - 1).astype(np.intp)
    found = np.take_along_axis(below, np.broadcast_to(code, eta.shape)[..., None], axis=-1)[..., 0]
    return np.where(y < 0, 0.0, np.where(y >= family.categories - 1, 1.0, found))


_OF: dict[type, Callable[..., FloatArray]] = {
    Bernoulli: _successes, Binomial: _successes, Poisson: _counts, NegativeBinomial: _overdispersed, Gamma: _positive,
    Ordinal: _ordered,
}  # fmt: skip


def averaged(
    function: Callable[[Any, FloatArray], FloatArray], mean: FloatArray, sd: FloatArray, steep: FloatArray
) -> FloatArray:
    """
    Return E f(η_i) of η_i ~ N(mean_i, sd_i²), by the trapezoidal rule; f takes rows and their η (points, rows).

    `steep` is √(information of η) of each row: by points farther apart steps of f would be lost.
    """
    need = np.clip(_STEEP / np.maximum(steep * sd, 1e-300), _FINEST, _WIDEST)
    order = np.argsort(-need, kind="stable")
    parts, start = [], 0
    while start < len(mean):
        some = order[start : start + _AT_ONCE]
        half = int(np.ceil(_REACH / need[some[-1]]))
        some = some[: max(1, _BUDGET // (2 * half + 1))]
        x = np.linspace(-_REACH, _REACH, 2 * half + 1)
        weight = np.exp(-(x**2) / 2)
        parts.append(
            np.tensordot(weight / weight.sum(), function(some, mean[some] + sd[some] * x[:, None]), axes=(0, 0))
        )
        start += len(some)
    return np.concatenate(parts)[np.argsort(order)] if parts else np.zeros(0)


def steepness(family: Family, eta: FloatArray, psi: FloatArray) -> FloatArray:
    """Return the change of E(y | η) with η, in standard deviations of y: √information of a response, (n,)."""
    with np.errstate(all="ignore"):
        change = (family.mean(eta + _DIFFERENCE, psi) - family.mean(eta - _DIFFERENCE, psi)) / (2 * _DIFFERENCE)
        found = np.abs(change) / np.sqrt(family.variance(eta, psi))
    return np.asarray(np.where(np.isfinite(found), found, 0.0))


def of_rows(family: Family, some: Any) -> Family:
    """Return the family of some of its rows."""
    trials = getattr(family, "trials", None)
    return family if trials is None or not np.ndim(trials) else family.of_rows(trials[some])


def mixture(family: Family, y: FloatArray, psi: FloatArray, mean: FloatArray, sd: FloatArray) -> FloatArray:
    """Return P(Y ≤ y) with η_i ~ N(mean_i, sd_i²), (n,)."""
    steep = steepness(family, mean + sd, psi)
    return averaged(lambda some, eta: cumulative(of_rows(family, some), y[some], eta, psi), mean, sd, steep)


def mixture_quantile(
    family: Family, probability: float, psi: FloatArray, mean: FloatArray, sd: FloatArray
) -> FloatArray:
    """
    Return the smallest y with P(Y ≤ y) ≥ probability, η_i ~ N(mean_i, sd_i²), (n,).

    Between ends that bracket it, by halves: of integers to the integer, of positive numbers on the log scale.
    """
    known = np.isfinite(mean) & np.isfinite(sd)
    mean, sd = np.where(known, mean, 0.0), np.where(known, sd, 0.0)
    discrete = whole(family)
    low = np.full(len(mean), -1.0) if discrete else np.log(np.finfo(float).tiny) * np.ones(len(mean))
    high = np.zeros(len(mean)) if discrete else mean + _REACH * sd
    back: Callable[[FloatArray], FloatArray] = (lambda v: v) if discrete else np.exp
    for _ in range(_BISECTIONS):
        short = (mixture(family, back(high), psi, mean, sd) < probability) & (high < _MOST)
        if not short.any():
            break
        low, high = np.where(short, high, low), np.where(short, 2 * high + 1, high)
    wide: npt.NDArray[np.bool_] = np.ones(len(mean), dtype=bool)
    for _ in range(_BISECTIONS):
        middle = np.floor((low + high) / 2) if discrete else (low + high) / 2
        wide = high - low > 1 if discrete else high - low > 1e-9
        if not wide.any():
            break
        below = mixture(family, back(middle), psi, mean, sd) < probability
        low, high = np.where(wide & below, middle, low), np.where(wide & ~below, middle, high)
    return np.where(known, back(high), np.nan)
