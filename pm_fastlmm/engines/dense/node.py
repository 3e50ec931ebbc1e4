"""The node of a DenseLMM."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pymc as pm

from pm_fastlmm.engines.dense.denselmm import DenseRV
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.engines.protocol import answers_for, observed_data


@answers_for(DenseRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DenseNode(GaussianNode):
    """
    A DenseLMM node: all that it has follows from V as a matrix.

    Attributes
    ----------
    V : TensorVariable (n, n)
        The covariance as a function of the model's variables.
    beta_cov : TensorVariable
        Prior covariance of β, (0, 0) when it has none.
    """

    called: ClassVar[str] = "DenseLMM"

    V: Any
    beta_cov: Any

    def covariance(self) -> Any:
        """Return V."""
        return self.V

    def _prior_covariance(self) -> Any:
        return self.beta_cov

    @property
    def numbers(self) -> int:
        """How many numbers an evaluation of the density has to hold: those of V."""
        return self.n**2

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, mu, b, B, V = rv.owner.inputs
        return cls(rv.name, rv, op.treatment, mu, b, observed_data(model, rv), op.projection, op.ids, V, B)
