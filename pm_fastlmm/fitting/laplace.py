"""LaplaceFit: the fit of a response that is not normal."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from pm_fastlmm.aireml.refit import coefficient_slopes
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.tables import Table
from pm_fastlmm.families.cumulative import whole
from pm_fastlmm.fitting.laplace_checks import LaplaceChecks
from pm_fastlmm.kernel.inference.estimates import whole_covariance
from pm_fastlmm.kernel.inference.fixed_effects import DegreesOfFreedom, FixedEffects, FixedTest, ZeroVariances
from pm_fastlmm.kernel.inference.term_tests import METHODS

_NOT_ADJUSTED = (
    "Kenward and Roger's adjustment is that of normal responses: take the z tests of the default, or fit.bootstrap()."
)


class Law(NamedTuple):
    """What a response is distributed as: its family and link, whether it is integers, and the trials of its rows."""

    family: str
    link: str
    whole: bool
    trials: Any = None

    def __str__(self) -> str:
        """Return family and link."""
        return f"{self.family} ({self.link})"


NORMAL = Law("normal", "identity", whole=False)


@dataclass(frozen=True, eq=False, repr=False)
class LaplaceFit(LaplaceChecks):
    """
    Estimates of a generalised linear mixed model by Laplace's approximation.

    It has what `VarianceFit` has: `theta` are the variances of the effects on the scale of η, and the parameters of the
    family. With β integrated out ("REML") log p̃ is the counterpart of the restricted likelihood. β̂ maximises log p̃
    given θ, as in glmer and glmmTMB's ML, and not jointly with u, which is PQL's β. Tests of fixed effects are Wald's
    z, and their errors have what the estimation of θ adds, as those of glmmTMB and clmm do; `blue_cov` is the part at
    known θ.
    """

    _tests: ClassVar[str] = "Wald z tests"
    _of_parameters: ClassVar[str] = "Variances of the effects, and parameters of the family"

    @property
    def law(self) -> Law:
        """Family, link and trials of the response."""
        family = self._node_at(None).terms.family
        return Law(family.name, family.link, whole(family), getattr(family, "trials", None))

    @property
    def _residual_variance(self) -> float:
        return 0.0

    @cached_property
    def _whole_cov(self) -> Any:
        """
        Cov β̂ with what the estimation of θ adds: Φ + J cov(θ̂)Jᵀ, J = ∂β̂/∂θ by differences.

        Where evaluations take long, or β has thousands of coefficients, it is Φ alone, the curvature at θ̂.
        """
        if self._dear or self._many or not self.converged:
            return self.blue_cov
        cov = np.where(np.outer(self._interior, self._interior), self.cov.to_numpy(), 0.0)
        if not np.isfinite(cov).all():
            return self.blue_cov
        theta, objective = self.theta.to_numpy(), self.objective
        J = coefficient_slopes(objective, theta, np.sqrt(np.diag(cov)))
        return objective.coefficient_cov(theta) + J.T @ cov @ J if np.isfinite(J).all() else self.blue_cov

    @property
    def _blue_se(self) -> FloatArray:
        return np.asarray(np.sqrt(self._whole_cov.diagonal()))

    @property
    def beta_cov(self) -> pd.DataFrame:
        """Covariance of the fixed effects, with what the estimation of θ adds."""
        if self._many:
            raise whole_covariance(len(self.coef))
        return pd.DataFrame(self._whole_cov, list(self.coef), list(self.coef))

    def _fixed_effects(self, df: DegreesOfFreedom, zero_variances: ZeroVariances) -> FixedEffects:
        r = len(self.objective.coef)
        if not r:
            raise ValueError(
                "this fit estimates no fixed effects: β is explicit, has a prior, or there is none. Leave out beta= "
                "and beta_cov= of the node."
            )
        none = np.zeros((1, r, r))
        zero = np.zeros((1, 1))
        return FixedEffects(
            self.blue, self._whole_cov, none, none[None], zero, zero, np.inf, self.objective.coef,  # type: ignore[arg-type]
            unavailable=_NOT_ADJUSTED,
        )  # fmt: skip

    def test_fixed(self, *args: Any, **kwargs: Any) -> FixedTest:
        """
        Test linear hypotheses Lβ = 0 by Wald's χ², as `VarianceFit.test_fixed` takes them.

        The statistic is χ²/q on q and infinite degrees of freedom, the square of z for one contrast.
        """
        return replace(super().test_fixed(*args, **kwargs), df="Wald")  # type: ignore[arg-type]

    def anova(self, *args: Any, **kwargs: Any) -> Table:
        """Return Wald tests of the terms of the formula, as `VarianceFit.anova` does: F is χ²/q."""
        return self._on_eta(super().anova(*args, **kwargs).drop(columns=["sum_sq", "mean_sq"]))

    def marginal_means(self, *args: Any, **kwargs: Any) -> Table:
        """
        Return estimated marginal means on the scale of η, as `VarianceFit.marginal_means` does.

        Means of E(y | η) at rows of your own are `predict(data=…, effects="population", scale="mean")`.
        """
        return self._on_eta(super().marginal_means(*args, **kwargs))

    def contrasts(self, *args: Any, **kwargs: Any) -> Table:
        """
        Return contrasts of marginal means on the scale of η, as `VarianceFit.contrasts` does.

        Of a "logit" link they are logarithms of odds ratios, of "log" of ratios of means.
        """
        return self._on_eta(super().contrasts(*args, **kwargs))

    def _on_eta(self, table: Table) -> Table:
        family = self._node_at(None).terms.family
        words = f"Wald tests on the scale of η ({family.link})"
        for method in METHODS.values():
            table.attrs["above"] = [line.replace(method, words) for line in table.attrs.get("above", ())]
        return table

    def variogram(self, x: Any, *, bins: int = 15, max_distance: float | None = None) -> pd.DataFrame:
        """Raise: what is expected of differences of responses is not that of differences of η."""
        raise ValueError(
            "the variogram of y - Xβ̂ is that of normal responses, here they are on another scale than Xβ̂: plot "
            "fit.residuals('quantile') by distance, or add a spatial term and flmm.compare_fits the two."
        )

    def posterior(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: the total variance of a response that is not normal is not integrated in closed form."""
        raise ValueError(
            "the posterior by quadrature is that of normal responses: flmm.sample(model=fit.model) draws from that of "
            "the approximation."
        )
