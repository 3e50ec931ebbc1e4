"""The random variable behind FamilyLMM: its draws, and its log-density."""

from typing import Any

import pytensor.tensor as pt

from pm_fastlmm.engines.algebra import white_noise
from pm_fastlmm.engines.lengthscale.family import SpectrumFamily
from pm_fastlmm.engines.lengthscale.operations import FamilyContrasts, FamilyLoglik, FamilyStatistics
from pm_fastlmm.engines.random_variable import LMMRV


class FamilyRV(LMMRV):
    """Y ~ N(Xβ, σ²_gK(ℓ) + σ²_eI) with β integrated out under a flat prior: inputs ℓ, σ²_g, σ²_e."""

    name = "FamilyLMM"
    extended_signature = "[rng],[size],(),(),()->[rng],(n)"
    family: SpectrumFamily

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Return the next generator and a draw, for each of a batch."""
        family: SpectrumFamily = carried["family"]
        next_rng, (xi,) = white_noise(rng, batch, family.n)
        return next_rng, FamilyContrasts(family)(*params, xi)

    def logp(self, value: Any, *params: Any) -> Any:
        """Return the log-density."""
        ell, g, e = params
        statistics = FamilyStatistics(self.family)(value)
        return FamilyLoglik()(pt.log(ell), g, e, *statistics)[0] - self.projection.logdet_R
