"""The profile-likelihood interval of a function of parameters: its extremes where the likelihood is high enough."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import gammaincinv

from pm_fastlmm.base.arrays import FloatArray

_OFF = (0.1, 0.5, 1.0)  # standard errors from a bound to the starts of a search
_SLACK = 1e-5  # of 2[max ℓ - ℓ], beyond what is allowed
_FAR = 1e8  # standard errors from the start at which there is no end
_ROUNDING = 1e-12  # of ℓ, relative
_STATIONARY = 1e-5  # gradient across a coordinate in parts of that along it: the end is then good to its square
_NOTHING = -1e6  # in place of ℓ where it is not defined


class Smooth(NamedTuple):
    """A function of parameters (P,), and its gradient (P,)."""

    value: Callable[[FloatArray], float]
    gradient: Callable[[FloatArray], FloatArray]


class Surface(NamedTuple):
    """
    A log-likelihood over coordinates x of the parameters, which bounds suffice to keep valid.

    Attributes
    ----------
    loglik : callable
        Of x: ℓ, -inf where it is not defined, and its gradient.
    external, jacobian : callables
        Of x: the parameters, and their derivatives.
    estimate, size, lower, upper : arrays
        x of the maximum, or near it, standard errors of x or what is like them, and bounds.
    highest : float
        The maximum of ℓ.
    """

    loglik: Callable[[FloatArray], tuple[float, FloatArray]]
    external: Callable[[FloatArray], FloatArray]
    jacobian: Callable[[FloatArray], FloatArray]
    estimate: FloatArray
    size: FloatArray
    lower: FloatArray
    upper: FloatArray
    highest: float


def extremes(surface: Surface, function: Smooth, level: float) -> tuple[float, float]:
    """
    Return the least and the largest value of a function where 2[max ℓ - ℓ] is below the quantile of χ²₁.

    They are the ends of the profile-likelihood interval of the function, found without holding it at a value: at a
    boundary of the parameters that is no special case. Sequential quadratic programming (Kraft 1988); NaN where it
    finds no end.
    """
    allowed, ends = float(2 * gammaincinv(0.5, level)), []
    for sign in (-1, 1):
        found = [sign * _extreme(surface, function, start, allowed, sign) for start in _starts(surface)]
        known = [value for value in found if not np.isnan(value)]
        ends.append(sign * max(known) if known else np.nan)
    return ends[0], ends[1]


def ends(surface: Surface, curvature: FloatArray, place: int, level: float) -> tuple[FloatArray, FloatArray] | None:
    """
    Return x at the ends of the profile-likelihood interval of one coordinate, None where a bound is in the way.

    In z = Rᵀ(x - x̂), with RRᵀ the curvature of -ℓ, 2[max ℓ - ℓ] is about ‖z‖² in all directions. The ends are then near
    ±cu, u along the gradient of the coordinate, and sequential quadratic programming starts with the right curvature:
    an end takes about a dozen evaluations, however many other coordinates there are.

    Parameters
    ----------
    surface : Surface
        Of a maximum that is not on a bound.
    curvature : (P, P) array
        Of -ℓ, the information about x.
    place : int
        Of the coordinate.
    level : float
    """
    free = surface.upper > surface.lower
    x, low, high = surface.estimate, surface.lower[free], surface.upper[free]
    try:
        root = np.linalg.cholesky(curvature[np.ix_(free, free)])
    except np.linalg.LinAlgError:
        return None
    if not free[place] or (x[free] <= low).any() or (x[free] >= high).any():
        return None
    along = solve_triangular(root, (np.flatnonzero(free) == place).astype(float), lower=True)
    c, u = float(np.sqrt(2 * gammaincinv(0.5, level))), along / np.linalg.norm(along)
    found = []
    for direction in (-u, u):
        end = _end(surface, root, free, c, direction)
        if end is None or (end[free] < low).any() or (end[free] > high).any():
            return None
        found.append(end)
    return found[0], found[1]


def _end(surface: Surface, root: FloatArray, free: Any, c: float, u: FloatArray) -> FloatArray | None:
    """Return x where uᵀz is largest with 2[max ℓ - ℓ] at most c², None where the search does not find it."""
    from scipy.optimize import minimize  # takes long to import

    known: dict[bytes, tuple[float, FloatArray]] = {}
    rounding = _ROUNDING * (1 + abs(surface.highest))

    def at(z: Any) -> FloatArray:
        x = surface.estimate.copy()
        x[free] += solve_triangular(root, z, lower=True, trans=1)
        return x

    def room(z: Any) -> tuple[float, FloatArray]:  # half of it, whose curvature is that of ½‖z‖²
        if z.tobytes() not in known:
            loglik, gradient = surface.loglik(at(z))
            gradient = np.where(np.isfinite(gradient), gradient, 0.0)
            left = loglik - surface.highest + c**2 / 2 if np.isfinite(loglik) else _NOTHING
            known[z.tobytes()] = left, solve_triangular(root, gradient[free], lower=True)
        return known[z.tobytes()]

    def minus(z: Any, *_: Any) -> float:
        return -c * float(u @ z)

    constraint: Any = {"type": "ineq", "fun": lambda z: room(z)[0], "jac": lambda z: room(z)[1]}
    options: Any = {"ftol": rounding, "maxiter": 100}
    with np.errstate(all="ignore"):  # a step may go where a parameter leaves the range of floating point
        found = minimize(minus, c * u, jac=lambda *_: -c * u, method="SLSQP", constraints=[constraint], options=options)
        z = np.asarray(found.x)
        left, gradient = room(z)
        along = float(gradient @ u)
        across = float(np.linalg.norm(gradient - along * u))
    return at(z) if abs(left) <= 1e3 * rounding and across <= _STATIONARY * abs(along) else None


def _starts(surface: Surface) -> list[FloatArray]:
    """Return x near the maximum, off its bounds, where a coordinate may have lost its influence."""
    middle = np.where(np.isfinite(surface.upper), (surface.lower + surface.upper) / 2, np.inf)
    starts = []
    for off in _OFF:
        low = np.minimum(surface.lower + off * surface.size, middle)
        high = np.maximum(surface.upper - off * surface.size, np.where(np.isfinite(middle), middle, -np.inf))
        starts.append(np.clip(surface.estimate, low, high))
    return starts


def _extreme(surface: Surface, function: Smooth, start: FloatArray, allowed: float, sign: int) -> float:
    from scipy.optimize import Bounds, minimize  # takes long to import, and few fits are on the boundary

    free = surface.upper > surface.lower

    def at(z: FloatArray) -> FloatArray:
        x = start.copy()
        x[free] += surface.size[free] * z
        return np.clip(x, surface.lower, surface.upper)

    def slope(z: FloatArray) -> FloatArray:
        x = at(z)
        gradient = surface.jacobian(x).T @ function.gradient(surface.external(x))
        return np.asarray(gradient * surface.size)[free]

    def room(z: FloatArray) -> tuple[float, FloatArray]:
        loglik, gradient = surface.loglik(at(z))
        inside = 2 * (loglik - surface.highest) + allowed if np.isfinite(loglik) else _NOTHING
        return inside, 2 * (gradient * surface.size)[free]

    unit = float(np.linalg.norm(slope(np.zeros(free.sum())))) or 1.0
    constraint: Any = {"type": "ineq", "fun": lambda z: room(z)[0], "jac": lambda z: room(z)[1]}
    below, above = ((end - start)[free] / surface.size[free] for end in (surface.lower, surface.upper))

    def minus(z: Any, *_: Any) -> float:
        return -sign * function.value(surface.external(at(z))) / unit

    z = np.zeros(free.sum())
    for _ in range(3):  # again from where it ended, with what it knows of the curvature left behind
        found = minimize(
            minus, z, jac=lambda z, *_: -sign * slope(z) / unit, method="SLSQP", bounds=Bounds(below, above),
            constraints=[constraint], options={"ftol": 1e-10, "maxiter": 200},
        )  # fmt: skip
        z = np.asarray(found.x)
        if np.abs(z).max(initial=0.0) > _FAR:  # without an end, or lost where the likelihood is too low
            return sign * np.inf if room(z)[0] > -_SLACK else np.nan
        if found.success and room(z)[0] > -_SLACK:
            return function.value(surface.external(at(z)))
    return np.nan
