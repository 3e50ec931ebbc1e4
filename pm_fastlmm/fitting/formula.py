"""The fit of a formula, or of the traits of a spectrum, without a PyMC model."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, Self

import pandas as pd
import pymc as pm

from pm_fastlmm.base.arrays import shown
from pm_fastlmm.base.choices import Negative
from pm_fastlmm.base.display import activity
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.families.choice import is_normal
from pm_fastlmm.fitting.estimate import Options, estimate
from pm_fastlmm.fitting.fit import VarianceFit
from pm_fastlmm.models.latent_model import latent_model
from pm_fastlmm.models.lmm_model import mixed_model
from pm_fastlmm.models.mixed_design import MixedDesign
from pm_fastlmm.models.mixed_terms import FormulaVariables, mixed_node, read_formula, relations
from pm_fastlmm.models.traits_design import several
from pm_fastlmm.models.traits_routes import read_traits_model


class Described(Protocol):
    """What a model is made of."""

    def model(self, priors: Mapping[str, Any], name: str | None) -> pm.Model:
        """Build the model."""

    def node(self) -> StructuredNode:
        """Return its node, whose parameters are numbers to fit."""

    def variables(self, node: StructuredNode) -> FormulaVariables:
        """Return the map from θ to the free variables of the model."""


class OneResponse(NamedTuple):
    """A formula with one response and random terms, and the known covariance of each."""

    design: MixedDesign
    between: list[Covariance | None]

    def model(self, priors: Mapping[str, Any], name: str | None) -> pm.Model:
        """Build the model."""
        if self.design.of_family is not None:
            return latent_model(self.design, self.between, priors, name)
        return mixed_model(self.design, self.between, priors, name)

    def node(self) -> StructuredNode:
        """Return its node, whose parameters are numbers to fit."""
        return mixed_node(self.design, self.between)

    def variables(self, node: StructuredNode) -> FormulaVariables:
        """Return the map from θ to the free variables of the model."""
        return FormulaVariables.of(self.design, node.layout)


class OfFormula(NamedTuple):
    """Where the fit of a formula comes from."""

    described: Described
    options: Options

    def model(self) -> pm.Model:
        """Build the model."""
        return self.described.model({}, None)

    def quiet(self) -> Self:
        """Return the same, whose fits show no progress."""
        return self._replace(options=self.options.quiet())

    def fit(self, node: StructuredNode) -> VarianceFit:
        """Return the fit of the node."""
        objective = node.likelihood(node.constants(), self.options.method)
        return estimate(objective, self.described.variables(node), node, self.options, self)


def fit_formula(
    formula: Any, data: pd.DataFrame | None, known: Mapping[str, Any] | None, options: Options, *,
    weights: Any = None, offset: Any = None, residual: Any = None, K: Any = None, W: Any = None,
    individual: str | None = None, negative: Negative = "error", family: Any = None, link: str | None = None,
    trials: Any = None,
) -> VarianceFit:  # fmt: skip
    """Return the fit of a formula with random terms, with a kernel, or with several traits."""
    of_family = {"family": family, "link": link, "trials": trials}
    with activity("Reading the formula and its table", show=options.progressbar) as say:
        if not is_normal(family) and any(given is not None for given in (K, W, individual)):
            raise ValueError(
                "K, W and individual are of normal responses, whose rows have this covariance. With family= the known "
                "covariance is that of a grouping factor: (1 | animal) with known={'animal': K}."
            )
        if (several(formula) and is_normal(family)) or any(given is not None for given in (K, W, individual)):
            given = {"offset": offset, "residual": residual}
            if names := [name for name, value in given.items() if value is not None]:
                raise ValueError(
                    f"{shown(names)} is given with several traits, or with K or W: residuals are those of a record, "
                    "which covary, and a known mean is subtracted from y."
                )
            described: Described = read_traits_model(
                formula, data, K=K, W=W, individual=individual, known=known, weights=weights, negative=negative
            )
            say("Arranging the equations")
        else:
            design = read_formula(formula, data, weights=weights, offset=offset, residual=residual, **of_family)
            say(f"Arranging the equations of {len(design.y)} observations")
            described = OneResponse(design, relations(design, known, negative))
        node = described.node()
    return OfFormula(described, options).fit(node)
