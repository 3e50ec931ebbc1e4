"""The variables of a model at an estimate: a system of equations whose solution may lie where slopes vanish."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray

_MATCHED = 1e-5
EXACT = 1e-13  # up to which there is no gap
_TRIALS = 60  # of values in a search, before one of the variables is put to 0


def solved(
    gap: Callable[[FloatArray], FloatArray], slopes: Callable[[FloatArray], FloatArray], initial: FloatArray,
    lower: FloatArray, upper: FloatArray,
) -> FloatArray | None:  # fmt: skip
    """
    Return x between its bounds where the gap is 0, None if none is found; `slopes` is the Jacobian of the gap.

    A singular matrix has a factor with zeros, near which squares have no slope and steps only halve the distance: one
    after the other, what matters least is put to 0, or to its bound, and the rest is solved for again. What may be at
    its bound is put on it: a variance of exactly 0 has its variable at exactly 0.
    """
    x, held = np.clip(initial, lower, upper), np.zeros(len(lower), dtype=bool)
    ends = np.where(np.isfinite(lower), lower, np.clip(0.0, lower, upper))
    while True:
        left = np.abs(gap(x)).max(initial=0.0)
        if left > EXACT and not held.all():
            x = _closest(gap, slopes, x, held, lower, upper)
            left = np.abs(gap(x)).max(initial=0.0)
        if left <= _MATCHED:
            break
        if held.all():
            return None
        weight = np.abs(x - ends) * np.linalg.norm(slopes(x), axis=0)
        least = int(np.argmin(np.where(held, np.inf, weight)))
        x[least], held[least] = ends[least], True
    for i in np.flatnonzero(np.isfinite(lower)):
        snapped = x.copy()
        snapped[i] = lower[i]
        if x[i] != lower[i] and (nearer := np.abs(gap(snapped)).max()) <= left:
            x, left = snapped, nearer
    return x


def _closest(
    gap: Callable[[FloatArray], FloatArray], slopes: Callable[[FloatArray], FloatArray], x: FloatArray, held: Any,
    lower: FloatArray, upper: FloatArray,
) -> FloatArray:  # fmt: skip
    """Return x with the smallest gap, some of its elements held."""
    from scipy.optimize import least_squares  # a fifth of a second to import

    free = ~held

    def whole(part: Any) -> FloatArray:
        out = x.copy()
        out[free] = part
        return out

    def jacobian(part: Any) -> FloatArray:
        return slopes(whole(part))[:, free]

    def residual(part: Any) -> FloatArray:
        return gap(whole(part))

    options: dict[str, Any] = {"x_scale": "jac", "xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": _TRIALS}
    solution = least_squares(residual, x[free], jac=jacobian, bounds=(lower[free], upper[free]), **options)
    return whole(solution.x)
