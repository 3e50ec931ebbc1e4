"""The node of a StructuredLMM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.aireml.iteration import Tolerances, maximise
from pm_fastlmm.aireml.structured import StructuredObjective
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import Theta
from pm_fastlmm.distribution.structured import StructuredRV
from pm_fastlmm.engines.prediction import Effects, NewRows, Predictive
from pm_fastlmm.engines.protocol import LMMNode, Target, answers_for, observed_data
from pm_fastlmm.engines.structured.new_rows import read_rows
from pm_fastlmm.engines.structured.posterior import predict, recover
from pm_fastlmm.equivalent import require_rows
from pm_fastlmm.linalg.mixed import MixedProducts
from pm_fastlmm.linalg.spectrum import Spectrum

_DENSE_BLOCK = 64  # columns of the dense block, and numbers of the eliminated term, of a cheap likelihood
_LEVELS = 8000
_ITERATIONS = 30  # towards where a sampler starts


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
    predicts: ClassVar[tuple[Effects, ...]] = ("given", "new", "population")
    takes: ClassVar[tuple[str, ...]] = ("X_new", "Z_new", "data")

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

    @property
    def cheap(self) -> bool:
        """Whether thousands of evaluations take a second or two."""
        return self.products.W.shape[1] <= _DENSE_BLOCK and self.products.C.size <= _LEVELS

    def estimated(self) -> list[Any]:
        """Return θ."""
        return [self.theta]

    def target(self) -> Target | None:
        """Return θ between the REML estimate, under a flat β, and the moment estimate, which is inside all bounds."""
        products = self.products if self.products.flat else self.products.treated(len(self.terms), flat=True)
        objective = StructuredObjective.of(products, self.layout, np.asarray(self.observed, dtype=float))
        try:
            start = objective.start()
            trace = maximise(objective, start, tolerances=Tolerances(), max_iterations=_ITERATIONS)
        except ValueError:
            return None
        values = 0.95 * trace.iterations[-1].theta + 0.05 * start
        return Target(values, (objective.lower == 0) & (values > 0))

    @property
    def keeps_rows(self) -> bool:
        """Whether the products were made of rows in memory."""
        return self.products.rows_kept

    def recover(
        self, model: pm.Model, posterior: xr.Dataset, which: Sequence[str] | None, rng: np.random.Generator
    ) -> dict[str, xr.DataArray]:
        """Draw β and the effects of each term."""
        return recover(self, model, posterior, rng)

    def read(self, new: NewRows, effects: Effects) -> Any:
        """Read X and the levels of each term, or a table."""
        if new.in_sample:
            require_rows(self.products)
            return None
        return read_rows(
            self.projection, self.terms, X_new=new.X_new, Z_new=new.Z_new, data=new.data, design=self.design,
            population=effects == "population",
        )  # fmt: skip

    def predict(
        self, model: pm.Model, posterior: xr.Dataset, rows: Any, effects: Effects, rng: np.random.Generator
    ) -> Predictive:
        """Draw f = Xβ + Σ Zu and y."""
        return predict(self, model, posterior, rows, effects, rng)

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, mu, b, B, theta = rv.owner.inputs
        common = (rv.name, rv, op.treatment, mu, b, observed_data(model, rv), op.products.projection, op.ids)
        return cls(*common, op.terms, op.theta, theta, op.products, B, op.design, op.spectrum)
