"""What of a fit has a profile likelihood: parameters, and standard deviations and correlations that they are."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import block_diag
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammaincinv

from pm_fastlmm.aireml.iteration import Tolerances, maximise, maximise_given
from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.aireml.polar import Polar
from pm_fastlmm.base.arrays import FloatArray, lower_triangle
from pm_fastlmm.kernel.inference.extremes import Surface, ends
from pm_fastlmm.kernel.inference.function import Function

SD, CORR = "sd_", "corr_"
TOGETHER = (
    "flmm.compare_fits(without, with_) tests random slopes by a fit without and a fit with them, and fit.test_value "
    "one variance or correlation"
)
_SHORT = 1e-2  # of the signed root of the likelihood ratio, by which an end may be short of what is allowed
_NEAR = 2.0  # standard errors, within which a maximum is looked for
_ITERATIONS = 100
_REACH = 60  # doublings of a standard error in the search for an upper limit

type Maximum = Callable[[float, FloatArray], tuple[FloatArray, float]]
type Ends = Callable[[float], tuple[float, float] | None]


class Held(NamedTuple):
    """
    What is held at a value: its estimate, θ and ℓ there, its bounds, and how to maximise over all else.

    `maximum` takes the value and a θ to start from, and returns θ and ℓ, -inf where V is not positive definite. `ends`
    takes a level and returns the ends of the interval where these are found without holding it; None elsewhere.
    """

    estimate: float
    theta: FloatArray
    loglik: float
    lower: float
    upper: float
    maximum: Maximum
    ends: Ends


class _Element(NamedTuple):
    """An element of a matrix: where the matrix stands, and the effects whose variance or covariance it is."""

    place: slice
    effects: tuple[int, ...]


def derived(objective: Objective) -> dict[str, Function]:
    """Return standard deviations and correlations by name, as functions of θ by name, in the order of θ."""
    names, variances = objective.names, np.asarray(objective.variances)
    out: dict[str, Function] = {}
    for i, name in enumerate(names):
        element = _element(objective, i)
        if element is not None and len(element.effects) == 2:
            a, b = (names[_variance(element.place, effect)] for effect in element.effects)
            out[CORR + name] = partial(_correlation, name, a, b)
        elif variances[i]:
            out[SD + name] = partial(_deviation, name)
    return {name: function for name, function in out.items() if name not in names}


def shares_of(objective: Objective, theta: FloatArray) -> dict[str, float]:
    """Return the share of each component, in the rows of each coordinate of the residual where it has several."""
    if not objective.coordinates:
        return _normalised(objective.mean_variances(theta))
    out: dict[str, float] = {}
    for a, called in enumerate(objective.coordinates):
        own = _normalised(objective.variances_of(theta, a))
        out |= {f"{name}[{called}]": share for name, share in own.items()}
    return out


def _normalised(variances: Mapping[str, float]) -> dict[str, float]:
    total = np.float64(sum(variances.values()))
    with np.errstate(invalid="ignore"):  # of a trait without any variance a share is NaN
        return {name: float(variance / total) for name, variance in variances.items()}


def _deviation(name: str, v: Mapping[str, Any]) -> Any:
    return np.sqrt(v[name])


def _correlation(name: str, a: str, b: str, v: Mapping[str, Any]) -> Any:
    return v[name] / (np.sqrt(v[a]) * np.sqrt(v[b]))


def _element(objective: Objective, i: int) -> _Element | None:
    """Return what the i-th element of θ is in its matrix; None where it is in none of several effects."""
    for matrix in objective.matrices:
        if matrix.size > 1 and matrix.place.start <= i < matrix.place.stop:
            row, column = (int(part[i - matrix.place.start]) for part in lower_triangle(matrix.size, matrix.size))
            return _Element(matrix.place, (row,) if row == column else (column, row))
    return None


def _variance(place: slice, effect: int) -> int:
    return int(place.start) + effect * (effect + 3) // 2


def held_on_bound(objective: Objective, name: str) -> int:
    """
    Return how many elements of a matrix a value on the bound holds.

    A variance of 0 holds the c - 1 covariances of c effects too, a correlation of ±1 the c - 2 others of one effect to
    those of the other. Any other quantity is held alone.
    """
    correlation = name.startswith(CORR) and name not in objective.names
    base = name.removeprefix(CORR if correlation else SD)
    element = _element(objective, objective.names.index(base)) if base in objective.names else None
    if element is None:
        return 1
    c = int((np.sqrt(8 * (element.place.stop - element.place.start) + 1) - 1) / 2)
    return c - 1 if correlation else c


def free_place(objective: Objective, name: str, also: Mapping[str, Function]) -> int:
    """Return the place of a parameter that is estimated; `also` are other names that could be meant."""
    if name not in objective.names and name.removeprefix("beta[").removesuffix("]") in objective.coef:
        raise ValueError(
            f"{name} is a fixed effect, no parameter of V: fit.coefficients() has its t test and interval, "
            f"fit.interval('beta[…]') others, and fit.test_fixed tests several."
        )
    if name not in objective.names:
        elements = [element for element in objective.names if element.startswith(f"{name}[")]
        raise ValueError(
            f"there is no parameter {name!r}: they are {', '.join([*objective.names, *also])}."
            + (f" For all of {name}, {TOGETHER}." if elements else "")
            + (" Shares have fit.share_intervals(), functions fit.function(lambda v: …)." if name == "h2" else "")
        )
    place = objective.names.index(name)
    if objective.fixed[place]:
        raise ValueError(f"{name} is fixed: it has neither an interval nor a test.")
    return place


def held(objective: Objective, theta: FloatArray, loglik: float, information: FloatArray, name: str) -> Held:
    """
    Return what a name is the profile of.

    Raises
    ------
    ValueError
        If there is no such quantity, it is fixed, or it is the covariance of two effects.
    """
    if name.startswith("beta[") and name[5:-1] in objective.coef:
        place = objective.coef.index(name[5:-1])
        if (holding := objective.holding(place)) is not None:
            return _coefficient_held(objective, theta, loglik, place, holding)
        return _coefficient(objective, theta, loglik, information, place)
    also = derived(objective)
    base = name.removeprefix(SD if name.startswith(SD) else CORR) if name in also else name
    place = free_place(objective, base, also)
    element, estimate = _element(objective, place), float(theta[place])
    if element is None or len(element.effects) == 1:
        polar = Polar.at(objective, theta, information, element or (None, ()))
        own = place if element is None else int(element.place.start)
        maximum: Maximum = partial(maximise_given, objective, base)
        if element is not None:
            maximum = _in_matrix(polar, information, element)
        bounds = float(objective.lower[place]), float(objective.upper[place])
        ends = _ends(polar, theta, information, loglik, own, lambda x: float(polar.external(x)[place]))
        variance = Held(estimate, theta, loglik, *bounds, maximum, ends)
        return variance if name == base else _root(variance)
    if name == base:
        raise ValueError(
            f"{name} is a covariance, which is not held on its own: {CORR + name}, the correlation that it is, has "
            "a profile; kind='bootstrap' and kind='delta' have intervals of the covariance."
        )
    scale = float(np.prod([np.sqrt(theta[_variance(element.place, effect)]) for effect in element.effects]))
    correlation = float(np.clip(estimate / scale, -1.0, 1.0)) if scale > 0 else 0.0  # at which ℓ is as high
    polar, angle = Polar.at(objective, theta, information, element), int(element.place.start) + 2
    ends = _ends(polar, theta, information, loglik, angle, lambda x: float(np.cos(x[angle])))
    return Held(correlation, theta, loglik, -1.0, 1.0, _in_matrix(polar, information, element), ends)


def _root(of: Held) -> Held:
    estimate, lower, upper = (float(np.sqrt(value)) for value in (of.estimate, of.lower, of.upper))

    def maximum(value: float, start: FloatArray) -> tuple[FloatArray, float]:
        return of.maximum(value**2, start)

    def ends(level: float) -> tuple[float, float] | None:
        found = of.ends(level)
        return None if found is None else (float(np.sqrt(found[0])), float(np.sqrt(found[1])))

    return Held(estimate, of.theta, of.loglik, lower, upper, maximum, ends)


def _ends(
    polar: Polar, theta: FloatArray, information: FloatArray, loglik: float, place: int, of: Callable[[Any], float]
) -> Ends:
    """Return how the ends of a function of one coordinate are found, which rises or falls with it."""

    def found(level: float) -> tuple[float, float] | None:
        x = polar.internal(theta)
        J = polar.jacobian(x)
        surface = Surface(polar.evaluate, polar.external, polar.jacobian, x, x, polar.lower, polar.upper, loglik)
        ends_of = ends(surface, J.T @ information @ J, place, level)
        if ends_of is None:
            return None
        low, high = sorted(map(of, ends_of))
        return low, high

    return found


def _in_matrix(polar: Polar, information: FloatArray, element: _Element) -> Maximum:
    """Return the maximum given a variance, or a correlation, of effects of a matrix."""
    first = int(element.place.start)

    def maximum(value: float, start: FloatArray) -> tuple[FloatArray, float]:
        one = {first: float(np.sqrt(value)) / polar.size_of(element.place)} if len(element.effects) == 1 else None
        return polar.maximise(start, information, one or {first + 2: float(np.arccos(value))})

    return maximum


def _coefficient_held(
    objective: Objective, theta: FloatArray, loglik: float, place: int, holding: Callable[[float], Objective]
) -> Held:
    """
    Return a fixed effect whose likelihood is another one for each of its values.

    The others are at their best, or after REML integrated out. It is given less a constant that makes its maximum that
    of the fit.
    """
    beta, cov = objective.blue(theta)
    estimate, error = float(beta[place]), float(np.sqrt(cov[place, place]))

    def maximum(value: float, start: FloatArray) -> tuple[FloatArray, float]:
        given = holding(value)
        value_at_start = given.log_likelihood(start)
        if given.fixed.all() or not np.isfinite(value_at_start):
            return start, value_at_start + shift
        last = maximise(given, start, tolerances=Tolerances(), max_iterations=_ITERATIONS).iterations[-1]
        return last.theta, float(last.loglik) + shift

    shift = 0.0
    if objective.method == "REML":
        around = (estimate - _NEAR * error, estimate + _NEAR * error)
        options: Any = {"xatol": 1e-5 * error}
        found = minimize_scalar(lambda b: -maximum(b, theta)[1], bounds=around, method="bounded", options=options)
        estimate = float(found.x)
    best, highest = maximum(estimate, theta)
    shift = loglik - highest
    return Held(estimate, best, loglik, -np.inf, np.inf, maximum, lambda level: None)


def _coefficient(objective: Objective, theta: FloatArray, loglik: float, information: FloatArray, place: int) -> Held:
    """
    Return a fixed effect, which is held in closed form.

    With the others at their best, or after REML integrated out, the log-likelihood of b at θ is that of θ less
    ½(b - β̂)²/Φ, after REML also less ½ log Φ; Φ = var β̂ at θ. It is given less a constant that makes its maximum that
    of the fit.
    """
    polar = Polar.at(objective, theta, information)
    integrated = objective.method == "REML"

    def of(value: float | None, at: FloatArray) -> float:
        if (state := objective.state(at)) is None:
            return -np.inf
        beta, cov = objective.coefficients(state)
        beyond = 0.0 if value is None else (value - float(beta[place])) ** 2 / float(cov[place, place])
        return -0.5 * (beyond + (float(np.log(cov[place, place])) if integrated else 0.0))

    best, highest = polar.maximise(theta, information, also=partial(of, None))

    def maximum(value: float, start: FloatArray) -> tuple[FloatArray, float]:
        found, largest = polar.maximise(start, information, also=partial(of, value))
        return found, largest - highest + loglik

    estimate, at_best = float(objective.blue(best)[0][place]), float(objective.blue(best)[1][place, place])

    def surface() -> tuple[Surface, FloatArray]:
        """Return ℓ of x and, last, of b, and its curvature."""
        x = polar.internal(best)
        J, size = polar.jacobian(x), polar.sizes(x, information)

        def of_both(both: FloatArray) -> tuple[float, FloatArray]:
            value, slope = polar.value(partial(of, float(both[-1])), size)(both[:-1])
            if not np.isfinite(value):
                return value, np.append(slope, 0.0)
            beta, cov = objective.blue(polar.external(both[:-1]))
            return value - highest + loglik, np.append(slope, (beta[place] - both[-1]) / cov[place, place])

        low, high = np.append(polar.lower, -np.inf), np.append(polar.upper, np.inf)
        both = Surface(of_both, polar.external, polar.jacobian, np.append(x, estimate), x, low, high, loglik)
        return both, block_diag(J.T @ information @ J, np.array([[1 / at_best]]))

    def limits(level: float) -> tuple[float, float] | None:
        found = ends(*surface(), len(theta), level)
        return None if found is None else (float(found[0][-1]), float(found[1][-1]))

    return Held(estimate, best, loglik, -np.inf, np.inf, maximum, limits)


def profile(of: Held) -> Callable[[float], float]:
    """
    Return the profile log-likelihood as a function.

    Each maximum is started from the nearest that is known, and from the nearest towards the estimate: far out a
    standard deviation may be 0, from where a search does not come back.
    """
    known, found = {of.estimate: of.theta}, {of.estimate: float(of.loglik)}

    def at(value: float) -> float:
        if value not in found:
            within = [other for other in known if abs(other - of.estimate) <= abs(value - of.estimate)]
            starts = {min(some, key=lambda other: abs(other - value)) for some in (list(known), within)}
            best, found[value] = max((of.maximum(value, known[start]) for start in starts), key=lambda pair: pair[1])
            if np.isfinite(found[value]):
                known[value] = best
        return found[value]

    return at


def profile_limits(
    of: Held, at: Callable[[float], float], step: float, level: float, *, linear: bool
) -> tuple[float, float]:
    """
    Return where the profile likelihood falls by what is allowed, the bounds where it does not.

    Ends that were found without holding the value are those of a region, which need not be all where V is not linear
    in its parameters: where the profile itself is higher there, it is followed.
    """
    largest, allowed = at(of.estimate), float(np.sqrt(2 * gammaincinv(0.5, level)))

    def excess(value: float) -> float:  # of the signed root, nearly linear in the value, over what is allowed
        return float(np.sqrt(np.clip(2 * (largest - at(value)), 0.0, 1e300))) - allowed

    if (found := of.ends(level)) is not None and (linear or min(map(excess, found)) > -_SHORT):
        return found
    return _limit(excess, of.estimate, step, -1, of.lower), _limit(excess, of.estimate, step, 1, of.upper)


def _limit(excess: Callable[[float], float], inside: float, step: float, sign: int, bound: float) -> float:
    """Return the limit on one side: the bound where the likelihood does not fall so far."""
    for _ in range(_REACH):
        outside = inside + sign * step
        at_bound = sign * outside >= sign * bound
        outside = float(bound) if at_bound else outside
        if outside == inside:
            return inside
        if excess(outside) > 0:
            tolerance = 1e-9 * max(abs(inside), abs(outside), 1e-300)
            return float(brentq(excess, inside, outside, xtol=tolerance, rtol=1e-10))
        if at_bound:
            return outside
        inside, step = outside, 2 * step
    return sign * np.inf
