"""Functions of the parameters of V, such as heritability and repeatability: standard errors and intervals."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri

from pm_fastlmm.base.arrays import FloatArray, require_fraction
from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.kernel.inference.extremes import Smooth, Surface, extremes

type Scale = Literal["identity", "log", "logit", "atanh"]

_STEP = 1e-100  # imaginary: derivatives are exact to rounding
_PROBES, _SPREAD = 100, 3.0  # parameter values at which the range is looked for; standard deviation of their logarithms
_NEAR = 1e-6  # of an interval, by which an estimate is off its end but for rounding
_AGREES = 1e-3  # relative, of the derivative with a difference
_RANGES: dict[Scale, tuple[float, float]] = {"logit": (0.0, 1.0), "log": (0.0, np.inf), "atanh": (-1.0, 1.0)}
_TO: dict[Scale, Callable[[Any], Any]] = {"log": np.log, "logit": lambda p: np.log(p / (1 - p)), "atanh": np.arctanh}
_FROM: dict[Scale, Callable[[Any], Any]] = {"log": np.exp, "logit": lambda x: 1 / (1 + np.exp(-x)), "atanh": np.tanh}
_SLOPE: dict[Scale, Callable[[Any], Any]] = {
    "log": lambda p: 1 / p, "logit": lambda p: 1 / (p * (1 - p)), "atanh": lambda p: 1 / (1 - p * p),
}  # fmt: skip

type Function = Callable[[Mapping[str, Any]], Any]


class Parameters(NamedTuple):
    """
    Estimated parameters of V, with what functions of them need.

    Attributes
    ----------
    values : (P,) array
    cov : (P, P) array
        0 for a fixed parameter, NaN for one on its boundary, or without an estimate of its error.
    lower, upper : (P,) arrays
    matrices : sequence of (slice, size)
        Where covariance matrices stand, by their lower triangles, row by row.
    derived : callable
        From the parameters by name to all that a function may be of.
    surface : callable or None
        Returns the likelihood about the estimate, where intervals may be made of it.
    """

    names: Sequence[str]
    values: FloatArray
    cov: FloatArray
    lower: FloatArray
    upper: FloatArray
    matrices: Sequence[tuple[slice, int]] = ()
    derived: Callable[[dict[str, Any]], Mapping[str, Any]] = dict
    surface: Callable[[], Surface] | None = None

    def apply(self, function: Function, values: Any) -> Any:
        """Return the function at values of the parameters."""
        with np.errstate(all="ignore"):
            return function(Named(self.derived(dict(zip(self.names, values, strict=True)))))

    def smooth(self, function: Function) -> Smooth:
        """Return a function of the values, differentiated by imaginary steps."""
        return Smooth(
            lambda values: _number(self.apply(function, values)),
            lambda values: np.array([_slope(function, self, values, i) for i in range(len(values))]),
        )

    def elsewhere(self, rng: np.random.Generator) -> FloatArray:
        """Return other values inside the bounds, far from the estimate."""
        size = np.where(self.values == 0, np.abs(self.values).max(initial=0.0) or 1.0, np.abs(self.values))
        out = np.where(np.isfinite(self.upper), self.upper, size * np.exp(_SPREAD * rng.standard_normal(size.size)))
        free = np.isinf(self.lower) & np.isinf(self.upper)
        out[free] = (self.values + _SPREAD * size * rng.standard_normal(size.size))[free]
        both = np.isfinite(self.lower) & np.isfinite(self.upper)
        out[both] = rng.uniform(self.lower[both], self.upper[both])
        for place, c in self.matrices:
            rows, columns = np.tril_indices(c)
            root = rng.standard_normal((c, c)) * np.sqrt(out[place][rows == columns])[:, None]
            out[place] = (root @ root.T)[rows, columns]
        return out


class Named(dict[str, Any]):
    """Values by name; a name that is not there is refused with those that are."""

    def __missing__(self, name: str) -> Any:
        raise ValueError(
            f"the function asks for {name!r}, which is no parameter of this fit: they are {listed([*self])}."
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FunctionEstimate(Described):
    """
    A function of the parameters of V at the estimate.

    Attributes
    ----------
    estimate, se : float
        se by the delta method, √(gᵀCg), from the exact gradient g and the covariance C of the estimates.
    lower, upper : float
        The interval.
    level : float
    kind : "delta" or "profile"
        By the delta method, made on a scale and brought back from it; or by the profile likelihood of the function.
    scale : "identity", "log", "logit" or "atanh"
    gradient : Series
        Of the function, by parameter.
    message : str
        Why there is no standard error, empty if there is one, and what the interval is.
    """

    estimate: float
    se: float
    lower: float
    upper: float
    level: float
    kind: Literal["delta", "profile"]
    scale: Scale
    gradient: pd.Series
    message: str

    def __repr__(self) -> str:
        """Report the estimate, its standard error and the interval, or why there are none."""
        if np.isnan(self.lower):
            return f"{self.estimate:.6g}: {self.message}"
        error = f", {self._interval}: {self.message}" if self.message else f" ± {self.se:.6g}, {self._interval}"
        return f"{self.estimate:.6g}{error}"

    @property
    def _interval(self) -> str:
        where = "" if self.scale == "identity" else f", made on the {self.scale} scale"
        return f"{self.level:.4g} interval {self.lower:.6g} to {self.upper:.6g}{where}"

    def _facts(self) -> dict[str, Any]:
        error = {"no standard error": self.message} if self.message else {"se": f"{self.se:.6g}"}
        interval = {} if np.isnan(self.lower) else {"interval": self._interval}
        return {"estimate": f"{self.estimate:.6g}", **error, **interval}


def function_estimate(smooth: Smooth, at: Parameters, level: float, scale: Callable[[], Scale]) -> FunctionEstimate:
    """Return a function of parameters with its error; see `Fit.function`. `scale` returns that of its range."""
    require_fraction(level, "level")
    estimate, gradient = smooth.value(at.values), smooth.gradient(at.values)
    matters = gradient != 0
    unknown = [name for name, m, var in zip(at.names, matters, np.diag(at.cov), strict=True) if m and np.isnan(var)]
    slopes = pd.Series(gradient, list(at.names), name="gradient")
    if unknown or not np.isfinite(estimate):
        low, high, message = _without_error(smooth, at, level, estimate, unknown)
        return FunctionEstimate(estimate, np.nan, low, high, level, "profile", "identity", slopes, message)
    se = float(np.sqrt(gradient[matters] @ at.cov[np.ix_(matters, matters)] @ gradient[matters]))
    made_on = scale()
    low, high = _limits(estimate, se, float(ndtri((1 + level) / 2)), made_on)
    return FunctionEstimate(estimate, se, low, high, level, "delta", made_on, slopes, "")


def differentiated(function: Function, at: Parameters, scale: Scale | None) -> tuple[Smooth, Callable[[], Scale]]:
    """Return a user's function with its gradient, which is compared with differences, and the scale of its range."""
    if scale is not None:
        require_choice("scale", scale, Scale)
    smooth = at.smooth(function)
    smooth.value(at.values)
    for i in range(len(at.names)):
        _check_derivative(function, at, i)
    return smooth, lambda: _fitting(function, at) if scale is None else scale


def _without_error(
    smooth: Smooth, at: Parameters, level: float, estimate: float, unknown: Sequence[str]
) -> tuple[float, float, str]:
    """Return the interval of a function without a standard error, and why it has none."""
    if not np.isfinite(estimate):
        return (
            np.nan,
            np.nan,
            "it is not finite with parameters on the boundary: take its inverse, which has an interval",
        )
    reason = f"no standard error, {listed(unknown)} being on the boundary or without information"
    low, high = (np.nan, np.nan) if at.surface is None else extremes(at.surface(), smooth, level)
    if np.isnan([low, high]).any():
        return np.nan, np.nan, f"{reason}; flmm.sample gives intervals there"
    near = _NEAR * (high - low)
    low, high = (estimate if abs(estimate - end) < near else end for end in (low, high))
    sides = "one-sided " if estimate in (low, high) else ""
    return low, high, f"{reason}; {sides}interval of the profile likelihood"


def _number(value: Any) -> float:
    value = np.asarray(value)
    if value.ndim or value.dtype.kind not in "fiu":
        raise ValueError(f"the function must return one number, got an array of shape {value.shape} and {value.dtype}.")
    return float(value)


_HOW = "write it in arithmetic and functions of NumPy that have a derivative, np.sqrt and not math.sqrt or abs."


def _slope(function: Function, at: Parameters, values: FloatArray, i: int) -> float:
    """Return the derivative in one parameter, by an imaginary step too small to have a square."""
    moved = values.astype(complex)
    moved[i] += 1j * _STEP
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)  # math.sqrt and others drop the derivative
            return float(np.imag(at.apply(function, moved)) / _STEP)
    except (TypeError, np.exceptions.ComplexWarning) as error:
        raise ValueError(f"the function could not be differentiated ({error}): {_HOW}") from error


def _check_derivative(function: Function, at: Parameters, i: int) -> None:
    """Compare the derivative in one parameter with a difference, inside its bounds."""
    exact = _slope(function, at, at.values, i)
    if not (np.isfinite(at.cov[i, i]) and at.cov[i, i] > 0):
        return
    step = 1e-4 * min(np.sqrt(at.cov[i, i]), *_room(at, i))
    ends = [at.apply(function, at.values + sign * step * (np.arange(len(at.values)) == i)) for sign in (1, -1)]
    if not np.isfinite(ends).all():
        return
    difference = float((ends[0] - ends[1]) / (2 * step))
    rounding = 1e-6 * abs(ends[0]) / abs(at.values[i] or 1)
    if abs(exact - difference) > _AGREES * max(abs(exact), abs(difference)) + rounding:
        raise ValueError(f"the derivative of the function in {at.names[i]} is not that of its values: {_HOW}")


def _room(at: Parameters, i: int) -> tuple[float, float]:
    return float(at.values[i] - at.lower[i]), float(at.upper[i] - at.values[i])


def _fitting(function: Function, at: Parameters) -> Scale:
    """Return the scale that the range of the function has: found at many values of the parameters."""
    rng = np.random.default_rng(0)
    found = np.array([_number(at.apply(function, at.elsewhere(rng))) for _ in range(_PROBES)])
    found = found[np.isfinite(found)]
    for scale, (low, high) in _RANGES.items():
        if found.size and low <= found.min() and found.max() <= high:
            return scale
    return "identity"


def _limits(estimate: float, se: float, z: float, scale: Scale) -> tuple[float, float]:
    if scale == "identity" or se == 0:
        return estimate - z * se, estimate + z * se
    low, high = _RANGES[scale]
    if not low < estimate < high:
        raise ValueError(f"scale={scale!r} is for values between {low:g} and {high:g}, got {estimate:.6g}.")
    centre, half = _TO[scale](estimate), z * se * _SLOPE[scale](estimate)
    return float(_FROM[scale](centre - half)), float(_FROM[scale](centre + half))
