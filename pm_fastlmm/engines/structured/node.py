"""The node of a StructuredLMM."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pymc as pm

from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import Theta
from pm_fastlmm.distribution.structured import StructuredRV
from pm_fastlmm.engines.protocol import LMMNode, answers_for, observed_data
from pm_fastlmm.linalg.mixed import MixedProducts
from pm_fastlmm.linalg.spectrum import Spectrum


@answers_for(StructuredRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StructuredNode(LMMNode):
    """
    A StructuredLMM node.

    Attributes
    ----------
    terms : tuple of Term
    layout : Theta
        Names, bounds and structure of θ.
    theta : TensorVariable
        θ as a function of the model's variables.
    products : MixedProducts
    beta_cov : TensorVariable
        Prior covariance of β, (0, 0) when it has none.
    design : MixedDesign or None
        The formula that the terms were made from.
    spectrum : Spectrum or None
        Of the kernel, when the terms are σ²(K + δI).
    """

    called: ClassVar[str] = "StructuredLMM"

    terms: tuple[Term, ...]
    layout: Theta
    theta: Any
    products: MixedProducts
    beta_cov: Any
    design: Any
    spectrum: Spectrum | None

    @property
    def n(self) -> int:
        """Number of observations."""
        return self.products.n

    def _covariance_facts(self) -> dict[str, Any]:
        return {"terms": "; ".join(f"{term.name} ({len(term.levels)} levels)" for term in self.terms)}

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, mu, b, B, theta = rv.owner.inputs
        common = (rv.name, rv, op.treatment, mu, b, observed_data(model, rv), op.products.projection, op.ids)
        return cls(*common, op.terms, op.theta, theta, op.products, B, op.design, op.spectrum)
