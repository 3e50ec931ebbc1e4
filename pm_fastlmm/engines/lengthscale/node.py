"""The node of a FamilyLMM."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pymc as pm

from pm_fastlmm.distribution.family_variables import FamilyRV
from pm_fastlmm.engines.protocol import LMMNode, answers_for, observed_data
from pm_fastlmm.spectrum_family import SpectrumFamily


@answers_for(FamilyRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FamilyNode(LMMNode):
    """
    A FamilyLMM node.

    Attributes
    ----------
    family : SpectrumFamily
    lengthscale, sigma2_g, sigma2_e : TensorVariable
        As functions of the model's variables.
    """

    called: ClassVar[str] = "FamilyLMM"

    family: SpectrumFamily
    lengthscale: Any
    sigma2_g: Any
    sigma2_e: Any

    def _covariance_facts(self) -> dict[str, Any]:
        low, high = self.family.lengthscale
        return {"lengthscale": f"{low:.4g} to {high:.4g}"}

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, *params = rv.owner.inputs
        family, data = op.family, observed_data(model, rv)
        return cls(rv.name, rv, op.treatment, None, None, data, family.projection, family.ids, family, *params)
