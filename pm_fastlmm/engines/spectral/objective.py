"""The objective of one kernel, in the rotated coordinates."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from pm_fastlmm.aireml.objective import RESCALE, Evaluated, Objective
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.kernel.effects import effects
from pm_fastlmm.kernel.likelihood.information import information, log_likelihood, score
from pm_fastlmm.kernel.likelihood.spectral import variances
from pm_fastlmm.kernel.reml.fit import REMLFit
from pm_fastlmm.kernel.reml.reml import reml
from pm_fastlmm.spectrum.spectrum import Rotated

NAMES = ("sigma2_g", "sigma2_e")


@dataclass(frozen=True, slots=True, eq=False)
class SpectralObjective(Objective):
    """ℓ(σ²_g, σ²_e) of one kernel; it starts at the global maximum that `reml` finds."""

    rotated: Rotated
    fit: REMLFit

    @classmethod
    def of(
        cls, rotated: Rotated, method: Method, names: tuple[str, ...] = NAMES, *, projection: Any = None,
        **more: Any,
    ) -> Self:  # fmt: skip
        """
        Return the objective of one response; names are those of the two variances, `more` fields of a subclass.

        `projection` is that of a wider X, some columns of which were dropped before the spectrum was made.
        """
        s = rotated.spectrum
        return cls(
            rotated=rotated, fit=reml(s, rotated, method=method), method=method, names=names, lower=np.zeros(2),
            upper=np.full(2, np.inf), fixed=np.zeros(2, dtype=bool), coef=s.coef, n=s.n,
            projection=s.design if projection is None else projection, **more,
        )  # fmt: skip

    @property
    def exact(self) -> REMLFit | None:
        """The fit by `reml`, unless a variance is held."""
        return None if np.asarray(self.fixed).any() else self.fit

    @property
    def variances(self) -> Any:
        """Both."""
        return np.ones(2, dtype=bool)

    @property
    def work(self) -> float:
        """Sums over the eigenvalues, for each pair of coefficients."""
        return float(self.rotated.spectrum.eigvals.size * (1 + len(self.coef)) ** 2)

    def linear(self, theta: FloatArray, free: Any) -> bool:
        """Return that V = σ²_gK + σ²_eI is linear."""
        return True

    def terms(self, theta: FloatArray) -> Any:
        """Return what effects at θ are made of, here the `REMLFit` with its variances there."""
        g, e = (float(value) for value in theta)
        beta = effects.blue(self.rotated, np.asarray(g), np.asarray(e))
        return replace(self.fit, sigma2_g=g, sigma2_e=e, blue=beta.beta, blue_cov=beta.cov)

    def mean_variances(self, theta: FloatArray) -> dict[str, float]:
        """Return k̄σ²_g and σ²_e, with prior weights those of an observation of mean weight."""
        s = self.rotated.spectrum
        variances = (s.mean_diagonal * theta[0] / s.mean_weight, theta[1] / s.mean_weight)
        return dict(zip(self.names, map(float, variances), strict=True))

    def state(self, theta: FloatArray) -> Evaluated | None:
        """Return the log-likelihood at θ; None where y has a direction without variance."""
        if not (np.isfinite(theta).all() and (theta >= 0).all()):
            return None
        loglik = float(log_likelihood(self.rotated, theta[0], theta[1], method=self.method))
        return Evaluated(np.asarray(theta, dtype=float), loglik) if np.isfinite(loglik) else None

    def quadratic(self, theta: FloatArray, state: Evaluated) -> float:
        """Return Σz²/d, and what lies outside the eigenvectors over σ²_e."""
        r = self.rotated
        with np.errstate(all="ignore"):
            inside = float((r.z**2 / variances(r.spectrum.eigvals, theta[0], theta[1])).sum())
            return inside + (float(r.rss / theta[1]) if r.spectrum.nullity else 0.0)

    def derivatives(self, theta: FloatArray, state: Evaluated) -> tuple[FloatArray, FloatArray]:
        """Return score and average information."""
        g, e = np.asarray(theta[0]), np.asarray(theta[1])
        average = information(self.rotated, g, e, self.method).average
        return score(self.rotated, g, e, self.method), np.asarray(average)

    def coefficients(self, state: Evaluated) -> tuple[FloatArray, FloatArray]:
        """Return β̂ and its covariance."""
        estimate = effects.blue(self.rotated, np.asarray(state.theta[0]), np.asarray(state.theta[1]))
        return estimate.beta, estimate.cov

    def covariance(self, theta: FloatArray) -> FloatArray:
        """Return V(θ), (n, n)."""
        return np.asarray(theta[0] * self._kernel() + theta[1] * self._residual())

    def covariance_derivatives(self, theta: FloatArray) -> FloatArray:
        """Return ∂V/∂θ: K and I, with prior weights diag(1/w)."""
        return np.stack([self._kernel(), self._residual()])

    def _residual(self) -> FloatArray:
        return self.rotated.spectrum.weights.unscaled_matrix(np.eye(self.n))

    def _kernel(self) -> FloatArray:
        root, corner = self.rotated.spectrum.covariance_root()
        return np.asarray(root @ root.T + corner @ corner.T)

    def start(self) -> FloatArray:
        """
        Return the estimate, the global maximum.

        Raises
        ------
        ValueError
            If there is none; the message of `reml` says why.
        """
        if not np.isfinite(self.fit.sigma2_e):
            raise ValueError(f"the model has no estimate: {self.fit.message}.")
        return np.array([self.fit.sigma2_g, self.fit.sigma2_e], dtype=float)

    def rescaled(self, omega: FloatArray, state: Any) -> tuple[FloatArray, Any] | None:
        """Return ω and state with both variances times c = yᵀPy/p, the best factor, which is in closed form."""
        p = self.n if self.method == "ML" else self.rotated.spectrum.df
        c = self.quadratic(omega, state) / p
        if self.fixed.any() or not 0 < c < np.inf or abs(np.log(c)) < RESCALE:
            return None
        return self.first_better([omega * c], state)
