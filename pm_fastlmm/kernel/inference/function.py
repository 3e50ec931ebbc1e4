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

type Scale = Literal["identity", "log", "logit", "atanh"]

_STEP = 1e-100  # imaginary: derivatives are exact to rounding
_PROBES, _SPREAD = 100, 3.0  # parameter values at which the range is looked for; standard deviation of their logarithms
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
    """

    names: Sequence[str]
    values: FloatArray
    cov: FloatArray
    lower: FloatArray
    upper: FloatArray
    matrices: Sequence[tuple[slice, int]] = ()
    derived: Callable[[dict[str, Any]], Mapping[str, Any]] = dict

    def apply(self, function: Function, values: Any) -> Any:
        """Return the function at values of the parameters."""
        with np.errstate(all="ignore"):
            return function(_Named(self.derived(dict(zip(self.names, values, strict=True)))))

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


class _Named(dict[str, Any]):
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
        The interval, made on a scale and brought back from it.
    level : float
    scale : "identity", "log", "logit" or "atanh"
    gradient : Series
        Of the function, by parameter.
    message : str
        Why there is no standard error, empty if there is one.
    """

    estimate: float
    se: float
    lower: float
    upper: float
    level: float
    scale: Scale
    gradient: pd.Series
    message: str

    def __repr__(self) -> str:
        """Report the estimate, its standard error and the interval, or why there are none."""
        if self.message:
            return f"{self.estimate:.6g}: {self.message}"
        return f"{self.estimate:.6g} ± {self.se:.6g}, {self._interval}"

    @property
    def _interval(self) -> str:
        where = "" if self.scale == "identity" else f", made on the {self.scale} scale"
        return f"{self.level:.4g} interval {self.lower:.6g} to {self.upper:.6g}{where}"

    def _facts(self) -> dict[str, Any]:
        if self.message:
            return {"estimate": f"{self.estimate:.6g}", "no standard error": self.message}
        return {"estimate": f"{self.estimate:.6g}", "se": f"{self.se:.6g}", "interval": self._interval}


def function_estimate(function: Function, at: Parameters, level: float, scale: Scale | None) -> FunctionEstimate:
    """Return a function of parameters with its error; see `Fit.function`."""
    require_fraction(level, "level")
    if scale is not None:
        require_choice("scale", scale, Scale)
    estimate = _number(at.apply(function, at.values))
    gradient = np.array([_derivative(function, at, i) for i in range(len(at.names))])
    scale = _fitting(function, at) if scale is None else scale
    matters = gradient != 0
    unknown = [name for name, m, var in zip(at.names, matters, np.diag(at.cov), strict=True) if m and np.isnan(var)]
    se, low, high, message = np.nan, np.nan, np.nan, ""
    if unknown or not np.isfinite(estimate):
        what = f"{listed(unknown)} has no standard error, being" if unknown else "it is not finite with parameters"
        message = f"{what} on the boundary or without information; flmm.sample gives intervals there"
    else:
        se = float(np.sqrt(gradient[matters] @ at.cov[np.ix_(matters, matters)] @ gradient[matters]))
        low, high = _limits(estimate, se, float(ndtri((1 + level) / 2)), scale)
    return FunctionEstimate(
        estimate, se, low, high, level, scale, pd.Series(gradient, list(at.names), name="gradient"), message
    )


def _number(value: Any) -> float:
    value = np.asarray(value)
    if value.ndim or value.dtype.kind not in "fiu":
        raise ValueError(f"the function must return one number, got an array of shape {value.shape} and {value.dtype}.")
    return float(value)


def _derivative(function: Function, at: Parameters, i: int) -> float:
    """Return the derivative in one parameter, by an imaginary step too small to have a square."""
    how = "write it in arithmetic and functions of NumPy that have a derivative, np.sqrt and not math.sqrt or abs."
    moved = at.values.astype(complex)
    moved[i] += 1j * _STEP
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)  # math.sqrt and others drop the derivative
            exact = float(np.imag(at.apply(function, moved)) / _STEP)
    except (TypeError, np.exceptions.ComplexWarning) as error:
        raise ValueError(f"the function could not be differentiated ({error}): {how}") from error
    if np.isfinite(at.cov[i, i]) and at.cov[i, i] > 0:  # inside its bounds
        step = 1e-4 * min(np.sqrt(at.cov[i, i]), *_room(at, i))
        ends = [at.apply(function, at.values + sign * step * (np.arange(len(at.values)) == i)) for sign in (1, -1)]
        difference = float((ends[0] - ends[1]) / (2 * step))
        if abs(exact - difference) > _AGREES * max(abs(exact), abs(difference)) + 1e-6 * abs(ends[0]) / abs(
            at.values[i] or 1
        ):
            raise ValueError(f"the derivative of the function in {at.names[i]} is not that of its values: {how}")
    return exact


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
    if scale == "identity":
        return estimate - z * se, estimate + z * se
    low, high = _RANGES[scale]
    if not low < estimate < high:
        raise ValueError(f"scale={scale!r} is for values between {low:g} and {high:g}, got {estimate:.6g}.")
    centre, half = _TO[scale](estimate), z * se * _SLOPE[scale](estimate)
    return float(_FROM[scale](centre - half)), float(_FROM[scale](centre + half))
