"""The objective of one kernel with a lengthscale: Newton steps on the interpolated restricted likelihood."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pm_fastlmm.aireml.objective import Evaluated, Objective
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.lengthscale.spectra import RotatedSpectra
from pm_fastlmm.engines.lengthscale.spectrum import LengthscaleSpectrum
from pm_fastlmm.kernel.effects import effects
from pm_fastlmm.spectrum.spectrum import Rotated

_LENGTHSCALES, _DELTAS = 200, 80  # of the grid on which the global search begins
_SPREAD = 1e4  # beyond the range of δ, upwards: there is no more kernel variance
_DIFFERENCE = 1e-5  # of log ℓ, for ∂K/∂ℓ


@dataclass(frozen=True, slots=True, eq=False)
class LengthscaleObjective(Objective):
    """
    log L(ℓ, σ²_g, σ²_e) by interpolation over ℓ; it starts at the best point of a grid over ℓ and δ.

    The internal coordinates are (log ℓ, σ²_g, σ²_e). In place of the average information it has the observed one, with
    negative curvature turned round, so that the steps are Newton's where the likelihood is concave.
    """

    spectrum: LengthscaleSpectrum
    spectra: RotatedSpectra
    y: FloatArray
    held: FloatArray

    @classmethod
    def of(
        cls, spectrum: LengthscaleSpectrum, y: FloatArray, *, held: FloatArray, fixed: Any
    ) -> "LengthscaleObjective":
        """Return the objective of one response; elements of θ that are fixed have the values `held`."""
        low, high = spectrum.lengthscale
        return cls(
            spectrum=spectrum, spectra=spectrum.rotate(y), y=y, held=held, fixed=np.asarray(fixed), method="REML",
            names=("lengthscale", "sigma2_g", "sigma2_e"), lower=np.array([low, 0.0, 0.0]),
            upper=np.array([high, np.inf, np.inf]), coef=spectrum.coef, n=spectrum.n, projection=spectrum.projection,
        )  # fmt: skip

    @property
    def variances(self) -> Any:
        """All but the lengthscale."""
        return np.array([False, True, True])

    def mean_variances(self, theta: FloatArray) -> dict[str, float]:
        """Return k̄σ²_g and σ²_e, with prior weights those of an observation of mean weight."""
        kbar, weight = self.spectrum.at(theta[0]).mean_diagonal, self.spectrum.weights.mean
        return {"sigma2_g": float(kbar * theta[1] / weight), "sigma2_e": float(theta[2] / weight)}

    def state(self, theta: FloatArray) -> Evaluated | None:
        """Return the log-likelihood at θ; None where it is not finite."""
        loglik = float(self.spectra.loglik(*theta))
        return Evaluated(np.array(theta, dtype=float), loglik) if np.isfinite(loglik) else None

    def derivatives(self, theta: FloatArray, state: Evaluated) -> tuple[FloatArray, FloatArray]:
        """Return the score and the observed information, made positive definite."""
        to_log = np.array([theta[0], 1.0, 1.0])
        score = self.spectra.value_and_gradient(*theta)[1] / to_log
        total = max(float(theta[1] + theta[2]), np.finfo(float).tiny)
        unit = np.array([1.0, total, total])
        curvature = -self.spectra.hessian(*theta) * unit[:, None] * unit
        if theta[1] == 0:  # ℓ has no influence, and no curvature but rounding
            curvature[0] = curvature[:, 0] = 0.0
        values, vectors = np.linalg.eigh(curvature)
        scale = unit * to_log
        return score, (vectors * np.abs(values)) @ vectors.T / scale[:, None] / scale

    def coefficients(self, state: Evaluated) -> tuple[FloatArray, FloatArray]:
        """Return β̂ and its covariance, from K(ℓ) itself."""
        if not self.coef:
            return np.zeros(0), np.zeros((0, 0))
        rotated = Rotated.from_values(self.spectrum.at(state.theta[0]), self.y, None)
        estimate = effects.blue(rotated, np.asarray(state.theta[1]), np.asarray(state.theta[2]))
        return estimate.beta, estimate.cov

    def covariance(self, theta: FloatArray) -> FloatArray:
        """Return V(θ), (n, n)."""
        return np.asarray(theta[1] * self.spectrum.covariance(theta[0]) + theta[2] * self._residual())

    def _residual(self) -> FloatArray:
        return self.spectrum.weights.unscaled_matrix(np.eye(self.n))

    def covariance_derivatives(self, theta: FloatArray) -> FloatArray:
        """Return ∂V/∂θ: σ²_g∂K/∂ℓ by a difference, K and I, with prior weights diag(1/w)."""
        ell, K = float(theta[0]), self.spectrum.covariance
        ends = [ell * np.exp(sign * _DIFFERENCE) for sign in (1, -1)]
        slope = (K(ends[0]) - K(ends[1])) / (ends[0] - ends[1])
        return np.stack([theta[1] * slope, K(ell), self._residual()])

    def internal(self, theta: FloatArray) -> FloatArray:
        """Return (log ℓ, σ²_g, σ²_e)."""
        return np.array([np.log(theta[0]), theta[1], theta[2]])

    def external(self, omega: FloatArray) -> FloatArray:
        """Return (ℓ, σ²_g, σ²_e), ℓ inside its bounds to the last bit."""
        return np.array([np.clip(np.exp(omega[0]), self.lower[0], self.upper[0]), omega[1], omega[2]])

    def jacobian(self, omega: FloatArray) -> FloatArray:
        """Return ∂θ/∂ω."""
        return np.diag([np.exp(omega[0]), 1.0, 1.0])

    @property
    def internal_lower(self) -> FloatArray:
        """Lower bounds of ω."""
        return self.internal(self.lower)

    @property
    def internal_upper(self) -> FloatArray:
        """Upper bounds of ω."""
        return self.internal(self.upper)

    def inactive(self, omega: FloatArray, score: FloatArray, information: FloatArray) -> Any:
        """Return that ℓ has no influence where there is no kernel variance."""
        return np.array([omega[1] == 0, False, False])

    def remarks(self, theta: FloatArray) -> list[str]:
        """Say what of the estimate is due to the range of the spectrum."""
        low, high = self.spectrum.lengthscale
        out = []
        if theta[1] == 0:
            out.append("sigma2_g is 0, so that the lengthscale has no influence and no estimate")
        elif not self.fixed[0] and not low * (1 + 1e-8) < theta[0] < high * (1 - 1e-8):
            out.append(
                f"the lengthscale is at an end of the range of the spectrum, {low:.4g} to {high:.4g}: build the "
                "spectrum with a wider one to see whether the maximum lies outside"
            )
        if theta[2] < self.spectrum.delta[0] * theta[1]:
            out.append(
                f"delta = {theta[2] / theta[1]:.2g} is below the range of the spectrum, where its likelihood was not "
                "checked: build it with a smaller delta=(low, high)"
            )
        return out

    def start(self) -> FloatArray:
        """Return the best point of a grid; ℓ and δ, or, where a variance is held, ℓ and the other variance."""
        low, high = self.spectrum.lengthscale
        ell = self.held[:1] if self.fixed[0] else np.geomspace(low, high, _LENGTHSCALES)
        small, large = self.spectrum.delta
        delta = np.geomspace(small, large * _SPREAD, _DELTAS)
        if not self.fixed[1:].any():
            return self.spectra.best(ell, delta)
        g, e = self._variance_grid(delta)
        loglik = self.spectra.loglik(ell[:, None], g, e)
        i, j = np.unravel_index(np.argmax(loglik), loglik.shape)
        return np.array([ell[i], g[j], e[j]])

    def _variance_grid(self, delta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return pairs of variances of which one or both are held."""
        g, e = self.held[1:]
        if self.fixed[1:].all():
            return np.array([g]), np.array([e])
        spread = float(np.var(self.y)) or 1.0  # the unit, where a variance that is held is 0
        if self.fixed[1]:
            residual = g * delta if g > 0 else spread * np.geomspace(1e-4, 1e2, delta.size)
            return np.full(delta.size, g), residual
        return (e if e > 0 else spread * delta[0]) / delta, np.full(delta.size, e)
