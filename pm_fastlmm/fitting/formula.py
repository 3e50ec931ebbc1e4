"""The fit of a formula, without a PyMC model."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import pandas as pd
import pymc as pm

from pm_fastlmm.base.choices import Negative
from pm_fastlmm.base.display import activity
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.fitting.estimate import Options, estimate
from pm_fastlmm.fitting.fit import VarianceFit
from pm_fastlmm.models.lmm_model import lmm_model
from pm_fastlmm.models.mixed_design import MixedDesign
from pm_fastlmm.models.mixed_terms import FormulaVariables, mixed_node, read_formula, relations


class OfFormula(NamedTuple):
    """Where the fit of a formula comes from."""

    design: MixedDesign
    known: Mapping[str, Covariance]
    options: Options

    def model(self) -> pm.Model:
        """Build the model."""
        return lmm_model(self.design, known=self.known)

    def quiet(self) -> Self:
        """Return the same, whose fits show no progress."""
        return self._replace(options=self.options.quiet())

    def fit(self, node: StructuredNode) -> VarianceFit:
        """Return the fit of the node."""
        objective = node.likelihood(node.constants(), self.options.method)
        return estimate(objective, FormulaVariables(self.design, node.layout), node, self.options, self)


def fit_formula(
    formula: str | MixedDesign, data: pd.DataFrame | None, known: Mapping[str, Any] | None, options: Options, *,
    negative: Negative = "error", weights: Any = None, offset: Any = None, residual: Any = None,
) -> VarianceFit:  # fmt: skip
    """Return the fit of a formula with random terms."""
    with activity("Reading the formula and its table", show=options.progressbar) as say:
        design = read_formula(formula, data, weights, offset, residual)
        say(f"Arranging the equations of {len(design.y)} observations")
        between = relations(design, known, negative)
        node = mixed_node(design, between)
    covariances = {random.group: K for random, K in zip(design.random, between, strict=True) if K is not None}
    return OfFormula(design, covariances, options).fit(node)
