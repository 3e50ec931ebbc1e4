"""The node of a StructuredLMM."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.aireml.iteration import Tolerances, maximise
from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import RESIDUAL, Theta
from pm_fastlmm.engines.draws import DrawFunction, evaluate_draws, evaluate_kept
from pm_fastlmm.engines.free_variables import Fitted, through_variables
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.engines.precisions import Precisions
from pm_fastlmm.engines.prediction import Effects, NewRows, Predictive
from pm_fastlmm.engines.protocol import LMMNode, Target, answers_for, observed_data
from pm_fastlmm.engines.spectral.leave_out import KernelDraws
from pm_fastlmm.engines.structured.component import OneTermObjective
from pm_fastlmm.engines.structured.effects import TermsAtTheta
from pm_fastlmm.engines.structured.leave_out import parts
from pm_fastlmm.engines.structured.matrices import compile_matrices
from pm_fastlmm.engines.structured.nested import nested
from pm_fastlmm.engines.structured.new_rows import read_rows
from pm_fastlmm.engines.structured.objective import StructuredObjective
from pm_fastlmm.engines.structured.posterior import predict, recover
from pm_fastlmm.engines.structured.products import MixedProducts
from pm_fastlmm.engines.structured.statistics import require_rows
from pm_fastlmm.engines.structured.structuredlmm import StructuredRV
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_DENSE_BLOCK = 64  # columns of the dense block, and numbers of the eliminated term, of a cheap likelihood
_LEVELS = 8000
_ITERATIONS = 30  # towards where a sampler starts


@answers_for(StructuredRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StructuredNode(GaussianNode):
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

    def _mean_graphs(self) -> tuple[Any, Any, Any]:
        return self.mu, self.beta_mean, self.beta_cov

    def objective(self, model: pm.Model, method: Method = "REML") -> Fitted:
        """Return the likelihood of the parameters of the terms; one kernel is fitted by its spectrum."""
        mu, b, B = self.known_mean(model)
        y = np.asarray(self.observed - mu, dtype=float)
        if self.spectrum is not None and self.treatment == "flat":
            rotated = Rotated.from_values(self.spectrum, y, None)
            one = OneTermObjective.of(rotated, method, self.layout.names, products=self.products, y=y)
            return through_variables(model, self.name, self.theta, one)
        offset = b if b.size else None
        terms = StructuredObjective.of(self.products, self.layout, y, offset=offset, prior=B, method=method)
        return through_variables(model, self.name, self.theta, terms, _held)

    def rows(self) -> FloatArray:
        """Return y by row."""
        require_rows(self.products)
        return np.asarray(self.observed, dtype=float)

    def nested_in(self, other: LMMNode) -> bool:
        """Return whether each term is a special case of one of the other node."""
        return isinstance(other, StructuredNode) and nested(self, other)

    def at(self, objective: Objective, theta: FloatArray, mu: Any, prior_mean: FloatArray) -> TermsAtTheta:
        """Return the node with V at θ, and the effects of its terms."""
        return TermsAtTheta(self, objective, theta, mu, prior_mean)

    def flat_objective(self) -> StructuredObjective:
        """Return the restricted likelihood of the terms, whatever the treatment of β: where a sampler may start."""
        products = self.products if self.products.flat else self.products.treated(len(self.terms), flat=True)
        return StructuredObjective.of(products, self.layout, np.asarray(self.observed, dtype=float))

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
        objective = self.flat_objective()
        try:
            start = objective.start()
            trace = maximise(objective, start, tolerances=Tolerances(), max_iterations=_ITERATIONS)
        except ValueError:
            return None
        values = 0.95 * trace.iterations[-1].theta + 0.05 * start
        return Target(values, (objective.lower == 0) & (values > 0))

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

    def derived(self, model: pm.Model, posterior: xr.Dataset) -> dict[str, xr.DataArray]:
        """
        Return the variance of each term in an observation on average, tr(Z_kG_kZ_kᵀ)/n, and its share of their sum.

        The last component is the residual.
        """
        kept = evaluate_kept(model, posterior, [self.theta])
        if kept is None:
            return {}
        (theta,) = kept
        matrices = compile_matrices(self.layout)
        weights = [self.products.mean_gram(k) for k in range(len(self.terms))]
        variance = np.empty((*theta.shape[:2], len(weights) + 1))
        for at in np.ndindex(*theta.shape[:2]):
            values = matrices(theta[at])[0]
            variance[at] = [*(float((w * v).sum()) for w, v in zip(weights, values, strict=True)), theta[at][-1]]
        component = f"{self.name}_component"
        coords = {component: [*(term.name for term in self.terms), RESIDUAL]}
        share = variance / variance.sum(axis=-1, keepdims=True)
        return {
            f"{self.name}_{suffix}": xr.DataArray(values, dims=("chain", "draw", component), coords=coords)
            for suffix, values in (("variance", variance), ("share", share))
        }

    def precisions(
        self, model: pm.Model, posterior: xr.Dataset, *, largest: int, numbers: int, rows: Any = None
    ) -> Precisions:
        """Return P and Py at the draws; one kernel in its rotated coordinates, many draws at a time."""
        require_rows(self.products)
        Q1 = self.flat_basis()
        graphs = [self.theta, self.mu, self.beta_mean, self.beta_cov]
        if self.spectrum is None:
            function = DrawFunction(model, posterior, graphs)
            shape = (posterior.sizes["chain"], posterior.sizes["draw"])
            matrices = compile_matrices(self.layout)
            return Precisions(
                shape, self.n, Q1, parts(self.name, self.products, self.observed, function, matrices, numbers)
            )
        theta, mu, b, B = evaluate_draws(model, posterior, graphs)
        if self.treatment == "flat":
            b = B = None
        elif not B.size:  # β is explicit
            B = np.zeros((1, 1, b.shape[-1], b.shape[-1]))
        shape, (g, e) = theta.shape[:2], np.moveaxis(theta, -1, 0)
        kernel = KernelDraws(self.spectrum, shape, self.observed, None, mu, g, e, b, B)
        return Precisions(shape, self.n, Q1, kernel.parts(largest, numbers))

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, mu, b, B, theta = rv.owner.inputs
        common = (rv.name, rv, op.treatment, mu, b, observed_data(model, rv), op.products.projection, op.ids)
        return cls(*common, op.terms, op.theta, theta, op.products, B, op.design, op.spectrum)


def _held(objective: StructuredObjective, constants: FloatArray, fixed: Any) -> StructuredObjective:
    """Return the objective with elements of θ held at the numbers of the model."""
    partly = [e for e in objective.layout.entries if e.matrix and fixed[e.place].any() and not fixed[e.place].all()]
    if partly:
        raise ValueError("a matrix of the terms has constant and free elements: use a structure with fewer parameters.")
    return replace(objective, fixed=fixed, held=np.where(fixed, constants, np.nan))
