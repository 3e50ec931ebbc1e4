"""The random variable behind LengthscaleLMM: its draws, and its log-density."""

from typing import Any

import pytensor.tensor as pt

from pm_fastlmm.engines.algebra import white_noise
from pm_fastlmm.engines.lengthscale.operations import LengthscaleContrasts, LengthscaleLoglik, LengthscaleRotation
from pm_fastlmm.engines.lengthscale.spectrum import LengthscaleSpectrum
from pm_fastlmm.engines.random_variable import LMMRV


class LengthscaleRV(LMMRV):
    """Y ~ N(Xβ, σ²_gK(ℓ) + σ²_eI) with β integrated out under a flat prior: inputs ℓ, σ²_g, σ²_e."""

    name = "LengthscaleLMM"
    extended_signature = "[rng],[size],(),(),()->[rng],(n)"
    spectrum: LengthscaleSpectrum

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Return the next generator and a draw, for each of a batch."""
        spectrum: LengthscaleSpectrum = carried["spectrum"]
        next_rng, (xi,) = white_noise(rng, batch, spectrum.n)
        return next_rng, LengthscaleContrasts(spectrum)(*params, xi)

    def logp(self, value: Any, *params: Any) -> Any:
        """Return the log-density."""
        ell, g, e = params
        statistics = LengthscaleRotation(self.spectrum)(value)
        return LengthscaleLoglik()(pt.log(ell), g, e, *statistics)[0] - self.projection.logdet_R
