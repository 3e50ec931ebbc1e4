"""Likelihoods without a maximum: parameters that go to infinity together, as variance and range of a correlation do."""

from typing import Any

import numpy as np

from pm_fastlmm.aireml.iteration import Trace, maximise_given
from pm_fastlmm.base.arrays import FloatArray

_GROWN = 10.0  # times its start: a parameter that may be on its way to infinity
_ALONG = 2.0  # times where the iteration ended: a parameter that follows another to a hundred times
_FACTORS = (1e-2, 10.0, 100.0)  # times where an iteration ended: less, and more of it
_LEVEL = 1e-6  # of the log-likelihood: what it may fall by rounding


def without_maximum(objective: Any, trace: Trace) -> str:
    """
    Return what to say where the likelihood rises for ever as some parameters grow, nothing where it does not.

    Parameters without an upper bound that the iteration made much larger are multiplied further, the others maximised
    again: the likelihood must not fall there, and must have risen on the way.
    """
    first, last = trace.iterations[0], trace.iterations[-1]
    away = _logarithms(objective, last.theta) - _logarithms(objective, first.theta)
    single = ~np.asarray(objective.fixed) & np.isinf(objective.upper)
    for matrix in objective.semidefinite:
        single[matrix.place] = False
    grown = np.flatnonzero(single & (away > np.log(_GROWN)))
    if not grown.size:
        return ""
    leader = int(grown[np.argmax(away[grown])])
    (_, less), (_, more), (theta, most) = (_held_at(objective, last.theta, grown, leader, f) for f in _FACTORS)
    if less > last.loglik - _LEVEL or min(more, most) < last.loglik - _LEVEL:
        return ""
    along = single & (_logarithms(objective, theta) - _logarithms(objective, last.theta) > np.log(_ALONG))
    names = " and ".join(objective.names[i] for i in np.flatnonzero(along))
    return (
        f"the likelihood has no maximum: it rises for ever, to about {more:.2f}, as {names} "
        f"{'go to infinity together' if along.sum() > 1 else 'goes to infinity'}, and these are no estimates. The data "
        "do not show a scale beyond which observations are uncorrelated: hold one of them at a value that you can "
        "justify with fixed=, bound it, or take a structure without it"
    )


def _logarithms(objective: Any, theta: FloatArray) -> FloatArray:
    """Return logarithms of parameters that are positive, and as they are those without bounds, which may be such."""
    positive = objective.lower == 0
    return np.where(positive, np.log(np.maximum(theta, 1e-300)), np.where(np.isinf(objective.lower), theta, 0.0))


def _held_at(objective: Any, theta: FloatArray, grown: Any, leader: int, factor: float) -> tuple[FloatArray, float]:
    """Return the maximum with the leader at a multiple of what it is, started where all have grown as much."""
    start = theta.copy()
    start[grown] = np.where(objective.lower[grown] == 0, theta[grown] * factor, theta[grown] + np.log(factor))
    return maximise_given(objective, objective.names[leader], float(start[leader]), start)
