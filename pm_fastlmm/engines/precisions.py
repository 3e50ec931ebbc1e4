"""P and Py at posterior draws, from which observations and groups are left out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True, eq=False)
class EachGivenOthers:
    """
    All draws, of a response that is not normal and has no P.

    Attributes
    ----------
    Q1 : (n, r) array, or a SparseProjection
        As of `Precisions`.
    each : iterator
        For a draw, in any order: (chain, draw), what has `log_density`, `mean` and `draw` of each observation given all
        others, and the joint log-density.
    """

    Q1: Any
    each: Iterator[tuple[tuple[int, ...], Any, float]]


def require_definite(factored: Any, name: str) -> None:
    """Refuse a draw at which V could not be factored."""
    if factored is None:
        raise ValueError(
            f"a posterior draw of {name} has a covariance that is not positive definite: one of its variances is "
            "0 there. A prior without mass at 0 avoids that."
        )
