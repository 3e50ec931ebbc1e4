"""The objective of a Gaussian process on Fourier features, over the free variables of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pm_fastlmm.aireml.squares import SquaredObjective, enter_squared, smallest_squares
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.engines.fourier.features import FourierProducts
from pm_fastlmm.engines.fourier.likelihood import FourierFactor, coefficients
from pm_fastlmm.spectrum.projection import Projection


class FourierState(NamedTuple):
    """A factored at θ, the prior variances s of the weights, and the log-likelihood."""

    factor: FourierFactor
    s: FloatArray
    loglik: float


@dataclass(frozen=True, slots=True, eq=False)
class FourierObjective(SquaredObjective):
    """
    ℓ(x) of y ~ N(Xβ, Z diag(s(x)) Zᵀ + σ²_e(x)I), from products of the features.

    `prior` is x ↦ [s, σ²_e], in which V is linear, and `slopes` its derivatives; `inside` is where the basis is, and
    `noted` says where an estimate is outside of what it was made for.
    """

    prior: Callable[[FloatArray], FloatArray]
    slopes: Callable[[FloatArray], Sequence[FloatArray]]
    products: FourierProducts
    inside: Callable[[FloatArray], bool]
    method: Method
    fixed: Any
    names: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    coef: tuple[str, ...]
    squared: Any
    smallest: FloatArray
    initial: FloatArray
    split: Callable[[FloatArray], dict[str, Any]]
    noted: Callable[[FloatArray], list[str]] = lambda x: []

    @classmethod
    def of(
        cls, prior: Callable[[FloatArray], FloatArray], slopes: Callable[[FloatArray], Sequence[FloatArray]],
        products: FourierProducts, *, names: tuple[str, ...], lower: FloatArray, upper: FloatArray, start: FloatArray,
        split: Callable[[FloatArray], dict[str, Any]], inside: Callable[[FloatArray], bool] = lambda x: True,
        noted: Callable[[FloatArray], list[str]] = lambda x: [], method: Method = "REML",
    ) -> "FourierObjective":  # fmt: skip
        """
        Return the objective.

        Raises
        ------
        ValueError
            For method="ML".
        """
        if method != "REML":
            raise ValueError("a FourierLMM integrates β out, and X is projected out of its statistics: method='REML'.")
        squared = enter_squared(slopes, start, lower)
        return cls(
            prior=prior, slopes=slopes, products=products, inside=inside, method=method,
            fixed=np.zeros(len(names), dtype=bool), names=names, lower=lower, upper=upper,
            coef=products.projection.coef, squared=squared,
            smallest=smallest_squares(
                squared, start, np.array([_mean(slope) for slope in slopes(start)]), products.square / products.df
            ),
            initial=np.asarray(start, dtype=float), split=split, noted=noted,
        )  # fmt: skip

    @property
    def n(self) -> int:
        """Number of observations."""
        return self.products.n

    @property
    def projection(self) -> Projection:
        """The projection by X."""
        return self.products.projection

    def state(self, theta: FloatArray) -> FourierState | None:
        """Return A factored at θ; None outside the range of the basis."""
        if not self.inside(theta):
            return None
        p, values = self.products, np.asarray(self.prior(theta))
        s, e = values[:-1], float(values[-1])
        if not (s >= 0).all():
            return None
        with np.errstate(divide="ignore"):
            factor = FourierFactor.of(np.log(s), e, p.cross, p.square, p.gram, p.df)
        return None if factor is None else FourierState(factor, s, factor.loglik - p.projection.logdet_R)

    def derivatives(self, theta: FloatArray, state: FourierState) -> tuple[FloatArray, FloatArray]:
        """Return score and average information."""
        slopes = np.column_stack([np.asarray(slope) for slope in self.slopes(theta)])
        by_s, by_e = slopes[:-1], slopes[-1]
        score, information = state.factor.score_and_information(state.s, by_s, self.products)
        chain = np.vstack([np.eye(len(theta)), by_e])
        return chain.T @ score, chain.T @ information @ chain

    def coefficients(self, state: FourierState) -> tuple[FloatArray, FloatArray]:
        """Return β̂ and its covariance."""
        return coefficients(state.factor, self.products)

    def covariance(self, theta: FloatArray) -> FloatArray:
        """Raise: there are no rows."""
        raise ValueError("V has a row for each observation, and the rows were not kept: predict() does not need it.")

    def covariance_derivatives(self, theta: FloatArray) -> FloatArray:
        """Raise: there are no rows."""
        return self.covariance(theta)

    def point(self, theta: FloatArray) -> dict[str, Any]:
        """Return the values of the model's free variables."""
        return self.split(theta)

    def remarks(self, theta: FloatArray) -> list[str]:
        """Return what the basis was not made for."""
        return self.noted(theta)

    def rescaled(self, omega: FloatArray, state: FourierState) -> tuple[FloatArray, Any] | None:
        """Return ω and state with V times c = yᵀPy/p, where the parameters can multiply V by a constant."""
        c = state.factor.q / (state.factor.sigma2_e * self.products.df)
        return self.multiplied(omega, state, c, self.prior, self.slopes)


def _mean(slope: FloatArray) -> float:
    """Return the mean diagonal of ∂V/∂θ: the features have the mean square 1 over their period."""
    return float(np.abs(slope).sum())
