"""P and Py at posterior draws, from which observations and groups are left out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.kernel.likelihood.leave_out import Precision


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """
    Some of the draws.

    Attributes
    ----------
    index : int or slice
        Where they are among all, chain by chain, the responses of a draw one after the other.
    precision : Precision
    y : (n,) or (D, n) array
        The data, where D may be 1.
    """

    index: Any
    precision: Precision
    y: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Precisions:
    """
    All draws.

    Attributes
    ----------
    shape : tuple
        (chain, draw) and that of the responses.
    n : int
    Q1 : (n, r) array, or a SparseProjection
        Basis of the fixed effects under a flat prior, of no columns when β is explicit or has a proper prior.
    parts : iterator of Part
    """

    shape: tuple[int, ...]
    n: int
    Q1: Any
    parts: Iterator[Part]


class GivenOthers(NamedTuple):
    """
    What the others say at one draw, of a response that is not normal.

    Attributes
    ----------
    at : (chain, draw)
    log_density : (n,) or (G,) array
        Of each observation, or group.
    mean : (n,) array
        E(y_i | y_-i).
    draw : function of a Generator
        Draws of each η_i and y_i given the others.
    loglik : float
        The joint log-density.
    """

    at: tuple[int, ...]
    log_density: FloatArray
    mean: FloatArray
    draw: Callable[[np.random.Generator], tuple[FloatArray, FloatArray]]
    loglik: float


def require_definite(factored: Any, name: str) -> None:
    """Refuse a draw at which V could not be factored."""
    if factored is None:
        raise ValueError(
            f"a posterior draw of {name} has a covariance that is not positive definite: one of its variances is "
            "0 there. A prior without mass at 0 avoids that."
        )
