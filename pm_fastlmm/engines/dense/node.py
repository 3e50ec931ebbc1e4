"""The node of a DenseLMM."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.distribution.dense import DenseRV
from pm_fastlmm.engines.dense.posterior import predict
from pm_fastlmm.engines.prediction import Effects, Predictive
from pm_fastlmm.engines.protocol import LMMNode, answers_for, observed_data


@answers_for(DenseRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DenseNode(LMMNode):
    """
    A DenseLMM node.

    Attributes
    ----------
    V : TensorVariable (n, n)
        The covariance as a function of the model's variables.
    beta_cov : TensorVariable
        Prior covariance of β, (0, 0) when it has none.
    """

    called: ClassVar[str] = "DenseLMM"
    predicts: ClassVar[tuple[Effects, ...]] = ("new",)
    refusal: ClassVar[str] = (
        "its V is not split into effects and residuals, so there are none to draw. Replicates of y as a whole are "
        "flmm.predict(idata, effects='new', model=model); for effects, write them as terms of a StructuredLMM."
    )

    V: Any
    beta_cov: Any

    def predict(
        self, model: pm.Model, posterior: xr.Dataset, rows: Any, effects: Effects, rng: np.random.Generator
    ) -> Predictive:
        """Draw Xβ and y anew, as a whole."""
        return predict(self, model, posterior, rng)

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, mu, b, B, V = rv.owner.inputs
        return cls(rv.name, rv, op.treatment, mu, b, observed_data(model, rv), op.projection, op.ids, V, B)
