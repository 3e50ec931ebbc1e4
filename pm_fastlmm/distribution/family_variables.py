"""The random variable behind FamilyLMM: its draws, and its log-density."""

from typing import Any, Literal

import pytensor.tensor as pt
from pymc.distributions.distribution import Continuous
from pymc.logprob.abstract import _logprob
from pytensor.tensor.random.basic import normal

from pm_fastlmm.distribution.contrasts import ContrastsRV
from pm_fastlmm.distribution.operations import FamilyContrasts, FamilyLoglik, FamilyStatistics
from pm_fastlmm.distribution.variables import prepared
from pm_fastlmm.linalg.projection import Projection
from pm_fastlmm.spectrum_family import SpectrumFamily


class FamilyRV(ContrastsRV):
    """Y ~ N(Xβ, σ²_gK(ℓ) + σ²_eI) with β integrated out under a flat prior: inputs ℓ, σ²_g, σ²_e."""

    name = "FamilyLMM"
    _print_name = ("FamilyLMM", r"\operatorname{FamilyLMM}")
    extended_signature = "[rng],[size],(),(),()->[rng],(n)"
    treatment: Literal["flat"] = "flat"
    family: SpectrumFamily

    @property
    def projection(self) -> Projection:
        """QR of X."""
        return self.family.projection

    @classmethod
    def rv_op(cls, *params: Any, family: SpectrumFamily, size: Any = None, rng: Any = None) -> Any:
        """Build the graph of a draw: error contrasts."""
        params, size, rng, batch = prepared(cls.ndims_params, params, size, rng)
        next_rng, xi = normal(0.0, 1.0, size=(*batch, family.n), rng=rng, return_next_rng=True)
        op = cls([rng, size, *params], [next_rng, FamilyContrasts(family)(*params, xi)])
        op.family = family
        return op(rng, size, *params)

    def rebuild_rv(self, *params: Any, **kwargs: Any) -> Any:
        """Build the variable anew, for another size."""
        return self.rv_op(*params, family=self.family, **kwargs)


@_logprob.register(FamilyRV)  # type: ignore[untyped-decorator]
def _family_logp(op: FamilyRV, values: Any, rng: Any, size: Any, ell: Any, g: Any, e: Any, **kwargs: Any) -> Any:
    (value,) = values
    statistics = FamilyStatistics(op.family)(value)
    return FamilyLoglik()(pt.log(ell), g, e, *statistics)[0] - op.family.projection.logdet_R


class Family(Continuous):  # type: ignore[misc]
    rv_type = FamilyRV
    rv_op = FamilyRV.rv_op

    @classmethod
    def dist(cls, params: Any, **kwargs: Any) -> Any:
        return super().dist(params, **kwargs)

    def support_point(rv: Any, size: Any, *params: Any) -> Any:
        return pt.zeros_like(rv)
