"""log p̃(θ) with its gradient in microseconds, from an interpolant in θ itself; exact outside its region."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.quadrature.interpolant import Interpolant
from pm_fastlmm.quadrature.interpolated import Interpolated
from pm_fastlmm.quadrature.over_theta import InterpolatedLikelihood
from pm_fastlmm.quadrature.parameters import LaplaceLikelihood, Parameters, require_parameters
from pm_fastlmm.quadrature.region import Region


@dataclass(frozen=True, slots=True, eq=False)
class OverParameters:
    """
    log p̃(θ) and its gradient.

    Attributes
    ----------
    region : Region
        Its ratios are θ.
    arguments : tuple
        What the compiled loop takes besides θ.
    """

    region: Region
    arguments: tuple[Any, ...]

    @classmethod
    def of(cls, interpolated: Interpolated) -> Self:
        """Return the interpolated likelihood."""
        region, value = interpolated.region, Interpolant(interpolated.interpolant.coefficients[:1]).with_slopes
        rates, shift = region.to_square()
        return cls(region, (region.kappa, rates, shift, np.ravel(value.coefficients), np.array(value.counts)))

    def ratios(self, theta: FloatArray) -> FloatArray:
        """Return θ, in which it is interpolated."""
        return theta

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray] | None:
        """Return log p̃(θ) and its gradient; None outside the region."""
        from pm_fastlmm.quadrature.loops import value_and_gradient

        inside, value, gradient = value_and_gradient(np.ascontiguousarray(theta), *self.arguments)
        return (value, gradient) if inside else None


@dataclass(slots=True, eq=False)
class InterpolatedLaplace(InterpolatedLikelihood):
    """Laplace's approximation, which has no scale that could be integrated out; otherwise as of a normal response."""

    def _require(self) -> None:
        require_parameters(self.objective)

    def _about(
        self, theta: FloatArray, information: FloatArray, tell: Callable[[int, str], None]
    ) -> tuple[Any, Any, Region]:
        likelihood, parameters = LaplaceLikelihood(self.objective, theta, tell), Parameters.of(self.objective)
        about = parameters.estimate(theta, information)
        return parameters, likelihood, Region.about(*about, likelihood.smallest, likelihood.may_be_0)

    def _state(self, theta: FloatArray) -> Any:
        return self.objective.state(theta)

    def _compiled(self, interpolated: Interpolated) -> Any:
        return OverParameters.of(interpolated)
