"""Covariance structures of variances and correlations; each says its matrix once, for numbers and for tensors."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from pm_fastlmm.covariance.algebra import Covariance, Mask
from pm_fastlmm.covariance.levels import Levels, LevelSet
from pm_fastlmm.covariance.parameters import CORRELATION, VARIANCE, VARIANCES, Domain


class Exchangeable(Covariance):
    """A structure whose covariances do not depend on which levels, or how many, there are."""

    __slots__ = ()

    def kept(self, levels: Levels, used: Mask) -> Mask:
        """Return those that occur."""
        return used if self.size is None else Covariance.kept(self, levels, used)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Identity(Exchangeable):
    """
    The identity matrix: independent effects with variance 1. It has no parameters.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.identity(2).dense()
    array([[1., 0.],
           [0., 1.]])
    """

    size: int | None = None

    def _repeated(self) -> tuple[Any, int, Covariance]:
        return None, int(self.size or 0), Identity(1)

    def _matrix(self, xp: Any) -> Any:
        return np.eye(self.size or 0)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Scalar(Exchangeable):
    """
    σ²I: independent effects with one variance.

    Parameters
    ----------
    sigma2 : float or scalar tensor
    size : int, optional
        That of the term by default.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.scalar(2.0).dense(2)
    array([[2., 0.],
           [0., 2.]])
    """

    sigma2: Any
    size: int | None = None
    _parameters: ClassVar = {"sigma2": VARIANCE}
    _variances: ClassVar[bool] = True
    _linear = True

    def _repeated(self) -> tuple[Any, int, Covariance]:
        return None, int(self.size or 0), Scalar(self.sigma2, 1)

    def _matrix(self, xp: Any) -> Any:
        return self.sigma2 * np.eye(self.size or 0)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Diagonal(Covariance):
    """
    diag(v₁, …, v_n): independent effects, each with a variance of its own.

    Parameters
    ----------
    variances : array or tensor, (n,)
    size : int, optional
        Needed only for a tensor whose length PyTensor does not know.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.diagonal([1.0, 4.0]).dense()
    array([[1., 0.],
           [0., 4.]])
    """

    variances: Any
    size: int | None = None
    _parameters: ClassVar = {"variances": VARIANCES}
    _variances: ClassVar[bool] = True
    _linear = True

    def _matrix(self, xp: Any) -> Any:
        return xp.expand_dims(self.variances, -1) * np.eye(self.size or 0)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Equicorrelation(Exchangeable):
    """
    σ²[(1 - ρ)I + ρJ], J the matrix of ones: one variance and one correlation between any two effects.

    ρ may be negative, down to -1/(n - 1), where the matrix becomes singular; so its bound depends on the size. With
    ρ ≥ 0 this is `CompoundSymmetry` in other coordinates, σ²_between = ρσ² and σ²_within = (1 - ρ)σ².

    Parameters
    ----------
    sigma2, rho : float or scalar tensor
    size : int, optional
        That of the term by default.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.equicorrelation(2.0, -0.25).dense(3)
    array([[ 2. , -0.5, -0.5],
           [-0.5,  2. , -0.5],
           [-0.5, -0.5,  2. ]])
    """

    sigma2: Any
    rho: Any
    size: int | None = None

    @property
    def _domains(self) -> dict[str, Domain]:
        """-1/(n - 1) ≤ ρ ≤ 1; while n is not known -1 ≤ ρ ≤ 1, which two effects allow."""
        lower = -1.0 if self.size in (None, 1, 2) else -1 / (self.size - 1)
        return {"sigma2": VARIANCE, "rho": Domain((lower, 1.0))}

    def _matrix(self, xp: Any) -> Any:
        n = self.size or 0
        return self.sigma2 * (np.eye(n) + self.rho * (1 - np.eye(n)))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CompoundSymmetry(Exchangeable):
    """
    σ²_between J + σ²_within I: a common effect, and independent ones besides.

    Both parameters are variances, so that the matrix is linear in them and any values ≥ 0 of any size are valid; the
    effects cannot be correlated negatively. Where they may be, use `Equicorrelation`.

    Parameters
    ----------
    sigma2_between, sigma2_within : float or scalar tensor
        The covariance between effects, and what the variance of each has in addition.
    size : int, optional
        That of the term by default.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.compound_symmetry(1.0, 2.0).dense(2)
    array([[3., 1.],
           [1., 3.]])
    """

    sigma2_between: Any
    sigma2_within: Any
    size: int | None = None
    _parameters: ClassVar = {"sigma2_between": VARIANCE, "sigma2_within": VARIANCE}
    _linear = True

    def _matrix(self, xp: Any) -> Any:
        n = self.size or 0
        return self.sigma2_between * np.ones((n, n)) + self.sigma2_within * np.eye(n)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AR1(Covariance):
    """
    σ²ρ^|i - j|: an autoregressive process of first order over ordered, equally spaced levels.

    In a term the levels are the steps, wherever the structure stands (in a sum, a product, a block): categories without
    data count as steps; numbers, dates and numbered names ("week 2", "week 4") that are not equally spaced are refused.
    So is other text ("Jan", "Feb", "Mar") that was merely sorted: give its order by an ordered Categorical.

    Parameters
    ----------
    sigma2, rho : float or scalar tensor
        The stationary variance, and the correlation of neighbours.
    size : int, optional
        That of the term by default.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.ar1(1.0, -0.5).dense(3)
    array([[ 1.  , -0.5 ,  0.25],
           [-0.5 ,  1.  , -0.5 ],
           [ 0.25, -0.5 ,  1.  ]])
    """

    sigma2: Any
    rho: Any
    size: int | None = None
    _parameters: ClassVar = {"sigma2": VARIANCE, "rho": CORRELATION}
    ordered = True  # distances are counted in steps

    def over(self, levels: LevelSet) -> Self:
        """Return the process over these levels, which must be one step apart."""
        levels.require_size(self.size, repr(self))
        levels.require_steps()
        return self.with_size(len(levels))

    def _matrix(self, xp: Any) -> Any:
        position = np.arange(self.size or 0)
        lag = np.abs(position[:, None] - position)
        # lags 0 and 1 apart: the derivative of ρ^lag there, lag · ρ^(lag - 1), would be 0 · 0⁻¹ at ρ = 0
        near = (lag == 0) + (lag == 1) * self.rho
        return self.sigma2 * xp.where(lag < 2, near, self.rho ** np.maximum(lag, 2))
