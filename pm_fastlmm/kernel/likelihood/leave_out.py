"""
The predictive density of observations given all the others, from P and Py; exact, and without a fit for each of them.

For y ~ N(m, V) with β integrated out, whatever its prior, p(y_S | y_-S) of some observations S is normal, with

    y_S - E(y_S | y_-S) = P_SS⁻¹(Py)_S,   Var(y_S | y_-S) = P_SS⁻¹

where P is V⁻¹ - V⁻¹X(XᵀV⁻¹X)⁻¹XᵀV⁻¹ for a flat β, and the inverse of the covariance of y, with Py that inverse times
y less its mean, for one that is known or has a proper prior. A single observation is N(y_i - (Py)_i/P_ii, 1/P_ii).

An engine states its P as a `Precision`. Batch axes (responses, posterior draws) lead.

References
----------
Sundararajan & Keerthi (2001), doi:10.1162/08997660151134343; Bürkner, Gabry & Vehtari (2021),
doi:10.1007/s00180-020-01045-4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from pm_fastlmm.base.arrays import EPS, FloatArray
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI

type Rows = npt.NDArray[np.intp]


class Precision(Protocol):
    """P and Py at one set of variances, or at many."""

    @property
    def weighted(self) -> FloatArray:
        """Py, (…, n)."""
        ...

    @property
    def diagonal(self) -> FloatArray:
        """Diagonal of P, (…, n)."""
        ...

    def block(self, rows: Rows) -> FloatArray:
        """Return P_SS, (…, s, s)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class MatrixPrecision:
    """A P that is at hand as a matrix (n, n)."""

    P: FloatArray
    weighted: FloatArray

    @property
    def diagonal(self) -> FloatArray:
        """Diagonal of P."""
        return np.diag(self.P)

    def block(self, rows: Rows) -> FloatArray:
        """Return P_SS."""
        return self.P[np.ix_(rows, rows)]


@dataclass(frozen=True, slots=True, eq=False)
class ScaledPrecision:
    """DPD and DPy, D = diag(root), from P and Py of Dy: those of y."""

    inner: Precision
    root: FloatArray

    @property
    def weighted(self) -> FloatArray:
        """DPy, (…, n)."""
        return self.inner.weighted * self.root

    @property
    def diagonal(self) -> FloatArray:
        """Diagonal of DPD, (…, n)."""
        return self.inner.diagonal * self.root**2

    def block(self, rows: Rows) -> FloatArray:
        """Return the block of some rows, (…, s, s)."""
        return self.inner.block(rows) * (self.root[rows, None] * self.root[rows])


def of_data(precision: Precision, root: FloatArray | None) -> Precision:
    """Return P and Py of y from those of √w y; the same where there are no weights."""
    return precision if root is None else ScaledPrecision(precision, root)


class LeftOut(NamedTuple):
    """
    Every observation given those that were not left out with it.

    Attributes
    ----------
    deviation : (…, n) array
        y_i - E(y_i | y_-S).
    variance : (…, n) array
        Var(y_i | y_-S).
    """

    deviation: FloatArray
    variance: FloatArray

    @property
    def log_density(self) -> FloatArray:
        """Log p(y_i | y_-S) of each observation alone."""
        return np.asarray(-0.5 * (LOG_2PI + np.log(self.variance) + self.deviation**2 / self.variance))

    @property
    def pit(self) -> FloatArray:
        """P(ỹ_i ≤ y_i | y_-S), uniform if the model is true."""
        return np.asarray(ndtr(self.deviation / np.sqrt(self.variance)))


class Joint(NamedTuple):
    """
    Whole groups given the others.

    Attributes
    ----------
    log_density : (…, G) array
        log p(y_S | y_-S).
    quadratic : (…, G) array
        (y_S - E)ᵀ Var⁻¹ (y_S - E), χ² with as many degrees of freedom as observations if the model is true.
    """

    log_density: FloatArray
    quadratic: FloatArray


def leave_one_out(precision: Precision) -> LeftOut:
    """Return every observation given all the others."""
    diagonal = precision.diagonal
    return LeftOut(precision.weighted / diagonal, 1 / diagonal)


def leave_groups_out(precision: Precision, groups: Sequence[Rows], known: Any = None) -> tuple[LeftOut, Joint]:
    """
    Return every observation given all those of other groups, and every group jointly given the others.

    NaN for groups that are not `known`, those of which the others have no predictive density.
    """
    weighted = precision.weighted
    deviation, variance = np.full(weighted.shape, np.nan), np.full(weighted.shape, np.nan)
    shape = (*weighted.shape[:-1], len(groups))
    log_density, quadratic = np.full(shape, np.nan), np.full(shape, np.nan)
    for j, rows in enumerate(groups):
        if known is not None and not known[j]:
            continue
        inverse_root = np.linalg.inv(np.linalg.cholesky(precision.block(rows)))  # its rows make P_SS⁻¹ and log|P_SS|
        white = np.einsum("...ij,...j->...i", inverse_root, weighted[..., rows])
        deviation[..., rows] = np.einsum("...ij,...i->...j", inverse_root, white)
        variance[..., rows] = (inverse_root**2).sum(-2)
        logdet = -2 * np.log(np.diagonal(inverse_root, axis1=-2, axis2=-1)).sum(-1)
        quadratic[..., j] = (white**2).sum(-1)
        log_density[..., j] = 0.5 * (logdet - len(rows) * LOG_2PI - quadratic[..., j])
    return LeftOut(deviation, variance), Joint(log_density, quadratic)


def predictable(Q1: Any, groups: Sequence[Rows] | None) -> npt.NDArray[np.bool_]:
    """
    Return of which observations, or groups, the others leave β an estimate: X without them has its rank.

    Under a flat prior the others have no proper predictive density (P_SS is singular): a column of X is 0 outside of
    them, or only they tell it from other columns. That is where ‖Q₁ᵀv‖ = 1 for a unit vector v in the directions of S.
    Q₁ is an array (n, r), or what knows these `shares`, as a `SparseProjection`.
    """
    n = Q1.shape[0]
    if not isinstance(Q1, np.ndarray):
        largest = Q1.shares(groups)
    elif groups is None:
        largest = (Q1**2).sum(-1)
    else:
        largest = np.array([np.linalg.norm(Q1[rows], 2) ** 2 if Q1.shape[1] else 0.0 for rows in groups])
    return np.asarray(1 - largest > 10 * math.sqrt(n) * EPS * max(1, Q1.shape[1]))
