"""The node of a MatrixLMM."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pymc as pm

from pm_fastlmm.engines.matrix.variables import MatrixLMMRV, entries
from pm_fastlmm.engines.protocol import answers_for, observed_data
from pm_fastlmm.engines.structured.node import StructuredNode


@answers_for(MatrixLMMRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MatrixNode(StructuredNode):
    """A MatrixLMM node: that of a term in rows of one trait each, with another engine."""

    called: ClassVar[str] = "MatrixLMM"
    law: ClassVar[str] = "N(XB, Σ_g ⊗ K + Σ_e ⊗ I)"

    @property
    def last_length(self) -> int:
        """How many entries were observed."""
        return self.products.n

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, mu, b, B, theta = rv.owner.inputs
        p, data = op.products, observed_data(model, rv)
        observed = None if data is None else data[op.products.seen]
        common = (rv.name, rv, op.treatment, entries(p, mu), b, observed, op.projection, op.ids)
        return cls(*common, op.terms, op.theta, theta, p, B, op.design, None, op.residual)
