"""The objective of any V(θ): a function with its derivative, or a graph that is differentiated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from pm_fastlmm.aireml.objective import Observed, elsewhere
from pm_fastlmm.aireml.squares import SquaredObjective, enter_squared, smallest_squares
from pm_fastlmm.base.arrays import FloatArray, require_symmetric
from pm_fastlmm.base.choices import Method
from pm_fastlmm.kernel.likelihood.dense import DenseFactor
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI
from pm_fastlmm.spectrum.sparse_projection import AnyProjection

_FLAT = 1e-15  # information of one unit of a parameter without bounds below which V has stopped depending on it


class DenseState(NamedTuple):
    """V factored at θ, and its log-likelihood."""

    factor: DenseFactor
    loglik: float


@dataclass(frozen=True, slots=True, eq=False)
class DenseObjective(SquaredObjective):
    """
    ℓ(θ) of y ~ N(Xβ, V(θ)).

    Score ½(yᵀPV_iPy - tr PV_i) and average information ½qᵢᵀPqⱼ, qᵢ = V_iPy, with V_i = ∂V/∂θ_i. A parameter that enters
    by its square, as a standard deviation does, is walked by that square, in which the score does not vanish at 0.
    """

    V: Callable[[FloatArray], FloatArray]
    dV: Callable[[FloatArray], Sequence[FloatArray]]
    y: FloatArray
    y1: FloatArray
    flat: bool

    @classmethod
    def of(
        cls, V: Callable[[FloatArray], FloatArray], dV: Callable[[FloatArray], Sequence[FloatArray]], y: FloatArray,
        projection: AnyProjection, *, names: tuple[str, ...], lower: FloatArray, upper: FloatArray, start: FloatArray,
        flat: bool = True, method: Method = "REML", split: Callable[[FloatArray], dict[str, Any]] = lambda x: {},
    ) -> Self:  # fmt: skip
        """Return the objective of a response less its known mean."""
        y1 = projection.Q1.T @ y
        start = np.asarray(start, dtype=float)
        first = np.asarray(V(start), dtype=float)
        require_symmetric(first, "V", float(np.abs(first).max(initial=0.0)))  # Cholesky reads one triangle only
        dV = _completed(V, dV)
        squared = enter_squared(dV, start, lower)
        slopes = np.array([np.trace(np.atleast_2d(slope)) / len(y) for slope in dV(start)])
        y2 = y - projection.Q1 @ y1 if flat else y
        return cls(
            names=names, lower=lower, upper=upper, initial=start, squared=squared,
            smallest=smallest_squares(squared, start, slopes, float(y2 @ y2) / len(y)), method=method,
            coef=projection.coef if flat else (), split=split, fixed=np.zeros(len(names), dtype=bool), n=len(y),
            projection=projection, V=V, dV=dV, y=y2, y1=y1, flat=flat,
        )  # fmt: skip

    @property
    def observed(self) -> Observed:
        """The response by row."""
        return Observed(self.y, self.y1, self.flat)

    def require_residual(self) -> None:
        """Refuse a response of which X leaves nothing, or whose squares leave the range of floating point."""
        self.observed.require_residual()

    def linear(self, theta: FloatArray, free: Any) -> bool:
        """Return whether ∂V/∂θ is the same at another θ."""
        slopes = zip(self.dV(theta), self.dV(elsewhere(theta, free)), free, strict=True)
        return all(np.allclose(a, b, rtol=1e-9) for a, b, is_free in slopes if is_free)

    @property
    def _basis(self) -> FloatArray:
        return self.projection.Q1 if self.flat else np.zeros((len(self.y), 0))

    def state(self, theta: FloatArray) -> DenseState | None:
        """Return V factored at θ; for ML with β̂ in place of the integral."""
        factor = DenseFactor.of(np.asarray(self.V(theta), dtype=float), self.y, self._basis)
        if factor is None:
            return None
        if self.method == "REML" or not self.flat:
            return DenseState(factor, factor.loglik - (self.projection.logdet_R if self.flat else 0.0))
        logdet = 2 * float(np.log(np.diag(factor.L)).sum())
        return DenseState(factor, -0.5 * (len(self.y) * LOG_2PI + logdet + factor.yPy))

    def derivatives(self, theta: FloatArray, state: DenseState) -> tuple[FloatArray, FloatArray]:
        """Return score and average information."""
        factor = state.factor
        P = factor.P()
        if self.method == "ML" and self.flat:
            P += factor.A @ factor.A.T
        slopes = self.dV(theta)  # arrays, after `_completed`
        q = np.column_stack([slope @ factor.Py for slope in slopes])
        score = 0.5 * (factor.Py @ q - np.array([np.vdot(P, slope) for slope in slopes]))
        return score, 0.5 * q.T @ factor.apply(q)

    def coefficients(self, state: DenseState) -> tuple[FloatArray, FloatArray]:
        """Return β̂ and its covariance."""
        if not self.coef:
            return np.zeros(0), np.zeros((0, 0))
        beta, root = state.factor.coefficients(self.y1, self.projection.Q1, self.projection.R)
        return beta, root @ root.T

    def covariance(self, theta: FloatArray) -> FloatArray:
        """Return V(θ), (n, n)."""
        return np.asarray(self.V(theta), dtype=float)

    def covariance_derivatives(self, theta: FloatArray) -> FloatArray:
        """Return ∂V/∂θ, (P, n, n)."""
        return np.stack(self.dV(theta))

    def inactive(self, omega: FloatArray, score: FloatArray, information: FloatArray) -> Any:
        """
        Return which parameters without bounds V has stopped depending on, the score pointing where it depends less.

        They are the boundary of a logarithmic parametrisation.
        """
        size = np.maximum(np.abs(omega), 1.0)
        slopes = np.array([np.trace(slope) for slope in self.dV(self.external(omega))])
        return (
            np.isinf(self.lower)
            & np.isinf(self.upper)
            & (np.diag(information) * size**2 < _FLAT)
            & (score * slopes <= 0)
        )

    def rescaled(self, omega: FloatArray, state: Any) -> tuple[FloatArray, Any] | None:
        """Return ω and state with V times c = yᵀPy/p, where the parameters can multiply V by a constant."""
        p = len(self.y) - (self._basis.shape[1] if self.method == "REML" else 0)
        return self.multiplied(omega, state, state.factor.yPy / p, self.V, self.dV)


def _completed(
    V: Callable[[FloatArray], FloatArray], dV: Callable[[FloatArray], Sequence[FloatArray]]
) -> Callable[[FloatArray], Sequence[FloatArray]]:
    """
    Return the derivative with differences of V in place of what is not finite.

    Automatic differentiation makes 0 · ∞ of removable singularities, of ρ^lag at ρ = 0 for instance.
    """

    def differentiate(theta: FloatArray) -> Sequence[FloatArray]:
        slopes = [np.asarray(slope, dtype=float) for slope in dV(theta)]
        for i, slope in enumerate(slopes):
            if not np.isfinite(slope).all():
                h = np.zeros(len(theta))
                h[i] = 1e-5 * max(1.0, abs(theta[i]))
                difference = (np.asarray(V(theta + h)) - np.asarray(V(theta - h))) / (2 * h[i])
                slopes[i] = np.where(np.isfinite(slope), slope, difference)
        return slopes

    return differentiate
