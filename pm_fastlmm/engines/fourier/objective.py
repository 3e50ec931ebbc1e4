"""The objective of a Gaussian process on Fourier features, over the free variables of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from pm_fastlmm.aireml.squares import SquaredObjective, enter_squared, smallest_squares
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.likelihood import FourierFactor, coefficients
from pm_fastlmm.engines.fourier.products import FourierProducts
from pm_fastlmm.engines.free_variables import FreeVariables

_EDGE = 1e-9  # of the range of the lengthscale, by how much rounding may carry one beyond it


class FourierState(NamedTuple):
    """A factored at θ, the prior variances s of the weights, and the log-likelihood."""

    factor: FourierFactor
    s: FloatArray
    loglik: float


@dataclass(frozen=True, slots=True, eq=False)
class FourierObjective(SquaredObjective):
    """
    ℓ(x) of y ~ N(Xβ, Z diag(s(x)) Zᵀ + σ²_e(x)I), from products of the features.

    `prior` is x ↦ [s, σ²_e], in which V is linear, and `slopes` its derivatives; `parameters` is x ↦ (ℓ, σ²_g, σ²_e)
    where the kernel has these alone, and None for other kernels.
    """

    prior: Callable[[FloatArray], FloatArray]
    slopes: Callable[[FloatArray], Sequence[FloatArray]]
    products: FourierProducts
    basis: FourierBasis
    parameters: Callable[[FloatArray], FloatArray] | None

    @classmethod
    def of(
        cls, prior: Callable[[FloatArray], FloatArray], slopes: Callable[[FloatArray], Sequence[FloatArray]],
        products: FourierProducts, basis: FourierBasis, parameters: Callable[[FloatArray], FloatArray] | None,
        variables: FreeVariables,
    ) -> Self:  # fmt: skip
        """Return the objective."""
        v, start = variables, variables.initial
        squared = enter_squared(slopes, start, v.lower)
        # the mean diagonal of ∂V/∂θ: the features have the mean square 1 over their period
        means = np.array([float(np.abs(slope).sum()) for slope in slopes(start)])
        return cls(
            names=v.names, lower=v.lower, upper=v.upper, initial=start, squared=squared,
            smallest=smallest_squares(squared, start, means, products.square / products.df),
            coef=products.projection.coef, split=v.split, fixed=np.zeros(len(start), dtype=bool), n=products.n,
            projection=products.projection, prior=prior, slopes=slopes, products=products, basis=basis,
            parameters=parameters,
        )  # fmt: skip

    @property
    def work(self) -> float:
        """The factorisation of the features."""
        return float(self.products.gram.shape[-1]) ** 3 / 10

    def state(self, theta: FloatArray) -> FourierState | None:
        """Return A factored at θ; None outside the range of the basis."""
        if self.parameters is not None:
            low, high = self.basis.lengthscale
            edge = _EDGE * (high - low)
            if not low - edge <= self.parameters(theta)[0] <= high + edge:
                return None
        p, values = self.products, np.asarray(self.prior(theta))
        s, e = values[:-1], float(values[-1])
        if not (s >= 0).all():
            return None
        with np.errstate(divide="ignore"):
            factor = FourierFactor.of(np.log(s), e, p.cross, p.square, p.gram, p.df)
        return None if factor is None else FourierState(factor, s, factor.loglik + p.log_flat)

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

    def remarks(self, theta: FloatArray) -> list[str]:
        """Return what the basis was not made for, and the remedy."""
        if self.parameters is None:
            return []
        lengthscale, sigma2_g, sigma2_e = self.parameters(theta)
        basis, (low, high), out = self.basis, self.basis.lengthscale, []
        noise = sigma2_e / self.products.mean_weight
        if noise < basis.noise_ratio_min * sigma2_g:
            out.append(
                f"sigma2_e/sigma2 = {noise / sigma2_g:.2g} is below noise_ratio_min={basis.noise_ratio_min:g}, "
                "where the error of the basis is larger than stated: make the basis for a smaller ratio"
            )
        if sigma2_g > 0 and (lengthscale < low * (1 + 1e-6) or lengthscale > high * (1 - 1e-6)):
            out.append(
                f"the lengthscale {lengthscale:.4g} is at an end of the range of the basis, {low:g} to {high:g}, which "
                "may have stopped it: make the basis for a wider range"
            )
        return out

    def rescaled(self, omega: FloatArray, state: FourierState) -> tuple[FloatArray, Any] | None:
        """Return ω and state with V times c = yᵀPy/p, where the parameters can multiply V by a constant."""
        c = state.factor.q / (state.factor.sigma2_e * self.products.df)
        return self.multiplied(omega, state, c, self.prior, self.slopes)
