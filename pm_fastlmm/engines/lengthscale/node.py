"""The node of a FamilyLMM."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from pm_fastlmm.aireml.family import FamilyObjective
from pm_fastlmm.aireml.objective import Method
from pm_fastlmm.distribution.family_variables import FamilyRV
from pm_fastlmm.engines.free_variables import Fitted, FreeVariables, Link
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

    def objective(self, model: pm.Model, method: Method = "REML") -> Fitted:
        """Return the restricted likelihood of the lengthscale and the two variances."""
        y = np.asarray(self.observed - self.known_mean(model).mu, dtype=float)
        if method != "REML":
            raise ValueError(
                f"{self.name} has a lengthscale, whose spectra give the restricted likelihood: method='REML'."
            )
        graph = pt.stack([self.lengthscale, self.sigma2_g, self.sigma2_e])
        variables = FreeVariables.of(model, self.name, [graph])
        link = Link.of(variables, graph)
        varying = link.varying
        if varying.sum() != len(variables.names):
            raise ValueError(
                f"{', '.join(variables.names)} do not determine lengthscale, sigma2_g and sigma2_e of {self.name} one "
                "by one: give each parameter variables of its own, as many as there are parameters."
            )
        return Fitted(FamilyObjective.of(self.family, y, held=link.theta(variables.initial), fixed=~varying), link)

    def _covariance_facts(self) -> dict[str, Any]:
        low, high = self.family.lengthscale
        return {"lengthscale": f"{low:.4g} to {high:.4g}"}

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, *params = rv.owner.inputs
        family, data = op.family, observed_data(model, rv)
        return cls(rv.name, rv, op.treatment, None, None, data, family.projection, family.ids, family, *params)
