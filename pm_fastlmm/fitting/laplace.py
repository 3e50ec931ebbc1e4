"""LaplaceFit: the fit of a response that is not normal."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pm_fastlmm.fitting.laplace_checks import LaplaceChecks
from pm_fastlmm.kernel.inference.fixed_effects import DegreesOfFreedom, FixedEffects, ZeroVariances

_NOT_ADJUSTED = (
    "Kenward and Roger's adjustment is that of normal responses: take the z tests of the default, or fit.bootstrap()."
)


@dataclass(frozen=True, eq=False, repr=False)
class LaplaceFit(LaplaceChecks):
    """
    Estimates of a generalised linear mixed model by Laplace's approximation.

    It has what `VarianceFit` has: `theta` are the variances of the effects on the scale of η, and the parameters of the
    family. With β integrated out ("REML") log p̃ is the counterpart of the restricted likelihood; of "ML" β̂ maximises
    it, as in glmer and glmmTMB. Tests of fixed effects are Wald's z.
    """

    _tests: ClassVar[str] = "Wald z tests"
    _of_parameters: ClassVar[str] = "Variances of the effects, and parameters of the family"

    @property
    def _residual_variance(self) -> float:
        return 0.0

    def _fixed_effects(self, df: DegreesOfFreedom, zero_variances: ZeroVariances) -> FixedEffects:
        r = len(self.objective.coef)
        if not r:
            raise ValueError(
                "this fit estimates no fixed effects: β is explicit, has a prior, or there is none. Leave out beta= and "
                "beta_cov= of the node."
            )
        none = np.zeros((1, r, r))
        zero = np.zeros((1, 1))
        return FixedEffects(
            self.blue, self.blue_cov, none, none[None], zero, zero, np.inf, self.objective.coef,  # type: ignore[arg-type]
            unavailable=_NOT_ADJUSTED,
        )  # fmt: skip

    def posterior(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: the total variance of a response that is not normal is not integrated in closed form."""
        raise ValueError(
            "the posterior by quadrature is that of normal responses: flmm.sample(model=fit.model) draws from that of "
            "the approximation."
        )
