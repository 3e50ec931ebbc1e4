"""The mode of the posterior of a node's parameters, sought from its REML estimates, on PyMC's unconstrained scale."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.protocol import LMMNode

type Density = Callable[[FloatArray], tuple[float, FloatArray]]  # log-density and gradient
type Units = Callable[[Density, FloatArray], FloatArray]  # sizes of the coordinates at x

_FACTOR = 4.0
_REACH = _FACTOR ** np.arange(35)  # how far along a coordinate its unit is sought
_MOST_STEPS = 10  # of Newton's method
_CLOSE = 1e-8  # to the mode: squared, in standard deviations
_DIFFERENCE = 1e-6  # of a coordinate, for slopes
_MATCHED = 1e-4  # length of a step towards the REML estimates after which none follows


class SeedError(RuntimeError):
    """The posterior moments of the node's parameters could not be computed; the text says why."""


def ones(logp: Density, x: FloatArray) -> FloatArray:
    """Return 1 for each coordinate, which is right for logarithms and logits."""
    return np.ones(x.size)


def units_of(logp: Density, x: FloatArray) -> FloatArray:
    """
    Return how far along each coordinate, on both sides, the log-density is lower by ½: 1 where it never is, or unknown.

    An unconstrained coordinate need not be a logarithm of size 1: the elements of a Cholesky factor off its diagonal
    have the units of y and of the slope.
    """
    value, out = logp(x)[0], np.ones(x.size)
    if not math.isfinite(value):
        return out
    for i, axis in enumerate(np.eye(x.size)):

        def fallen(t: float, axis: FloatArray = axis) -> bool:
            return max(logp(x + t * axis)[0], logp(x - t * axis)[0]) < value - 0.5

        far = next((t for t in _REACH if fallen(t)), None)
        if far is None:
            continue
        out[i] = far
        while far == 1.0 and out[i] > 1 / _REACH[-1] and fallen(out[i] / _FACTOR):
            out[i] /= _FACTOR
    return out


def match_reml(node: LMMNode, constrain: Any, unit: FloatArray, x0: FloatArray) -> FloatArray:
    """Return coordinates near x0 at which the variances are the REML estimates, pulled off the boundary."""
    sought = node.target()
    if sought is None:
        return x0
    target, positive = sought
    size = np.maximum(np.abs(target), 1e-3 * np.abs(target).max())
    log_target = np.log(np.where(positive, target, 1.0))

    def gap(z: FloatArray) -> FloatArray:
        components = constrain(x0 + unit * z)[1]
        with np.errstate(all="ignore"):
            if components.size == target.size:
                residual = np.where(positive, np.log(components) - log_target, (components - target) / size)
            else:  # several responses share their variances
                residual = np.log(components) - log_target.mean()
        # a weak pull to x0 settles the directions that the variances do not depend on
        return np.concatenate([np.nan_to_num(residual, nan=1e3, posinf=1e3, neginf=-1e3), 1e-3 * z])

    return np.asarray(x0 + unit * _smallest(gap, np.zeros_like(x0)))


def _smallest(gap: Callable[[FloatArray], FloatArray], z: FloatArray) -> FloatArray:
    """Return where the squares of a gap are least, by Gauss and Newton's steps."""
    for _ in range(_MOST_STEPS):
        now = gap(z)
        slopes = np.stack([gap(z + h) - now for h in _DIFFERENCE * np.eye(z.size)], axis=1) / _DIFFERENCE
        moved = _higher(lambda z: -(gap(z) ** 2).sum(), z, np.linalg.lstsq(slopes, -now)[0])
        step, z = np.abs(moved - z).max(), moved
        if step < _MATCHED:
            break
    return z


def _higher(value: Callable[[FloatArray], float], x: FloatArray, step: FloatArray) -> FloatArray:
    """Return x after a step, halved until the value is higher there; x itself where it never is."""
    now = value(x)
    moved = (x + step / half for half in 2.0 ** np.arange(_MOST_STEPS))
    return next((trial for trial in moved if value(trial) > now), x)


def mode_near(logp: Density, x0: FloatArray, units: Units, few: bool) -> tuple[FloatArray, FloatArray]:
    """
    Return the mode near x0 and the inverse curvature there.

    Newton's method has it in some steps from the REML estimates; SciPy's search, which is longer to import than these
    take, is for many coordinates, and where steps lead nowhere. Its end is checked by Newton's steps: with millions of
    observations a standard deviation of log σ²_e is far shorter than what a quasi-Newton search, which stops on
    relative changes of a log-density of millions, takes for the end.
    """
    if few:
        mode, cov, left = _newton(logp, x0, units, _CLOSE)
        if left < _CLOSE:
            return mode, cov
    mode, cov, _ = _newton(logp, _searched(logp, x0, units), units, 1.0)
    return mode, cov


def _newton(logp: Density, x: FloatArray, units: Units, close: float) -> tuple[FloatArray, FloatArray, float]:
    """Return x after Newton's steps, the inverse curvature, and the distance to the mode, squared, in its units."""
    cov = _inverse_curvature(logp, x, units)
    for _ in range(_MOST_STEPS):
        value, gradient = logp(x)
        left = float(gradient @ cov @ gradient) if math.isfinite(value) else math.inf
        if left < close or (moved := _higher(lambda x: logp(x)[0], x, cov @ gradient)) is x:
            break
        x, cov = moved, _inverse_curvature(logp, moved, units)
    return x, cov, left


def _searched(logp: Density, x0: FloatArray, units: Units) -> FloatArray:
    """Return the mode near x0 by a quasi-Newton search."""
    from scipy.optimize import minimize  # a fifth of a second to import

    unit = units(logp, x0)

    def objective(z: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = logp(x0 + unit * z)
        return (-value, -unit * gradient) if math.isfinite(value) else (1e300, gradient)

    z = minimize(objective, np.zeros_like(x0), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    mode = x0 + unit * np.asarray(z)
    if not math.isfinite(logp(mode)[0]):
        raise SeedError("the log-posterior is not finite at the REML estimate")
    return mode


def _inverse_curvature(logp: Density, mode: FloatArray, units: Units) -> FloatArray:
    """Return the inverse curvature at the mode, from differences of the gradient: the Laplace approximation."""
    unit = units(logp, mode)
    steps = 1e-3 * np.diag(unit)
    hessian = np.stack([unit * (logp(mode - h)[1] - logp(mode + h)[1]) / 2e-3 for h in steps])
    curvature, axes = np.linalg.eigh((hessian + hessian.T) / 2)
    # a direction that is flat or convex at the mode gets the scale of a vague prior
    variance = 1 / np.maximum(curvature, 0.05)
    return np.asarray(unit[:, None] * ((axes * variance) @ axes.T) * unit)
