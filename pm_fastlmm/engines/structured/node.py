"""The node of a StructuredLMM."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import scipy.sparse as sp
import xarray as xr

from pm_fastlmm.aireml.iteration import Tolerances, maximise
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.display import listed
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import RESIDUAL, Theta
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.constants import Constants
from pm_fastlmm.engines.draws import DrawFunction, Draws
from pm_fastlmm.engines.free_variables import Fitted, through_variables
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.engines.graphs import reaching
from pm_fastlmm.engines.inputs import read_response
from pm_fastlmm.engines.labels import labelled, over_coef
from pm_fastlmm.engines.precisions import Part, Precisions, require_definite
from pm_fastlmm.engines.prediction import Effects, NewRows, Predictive
from pm_fastlmm.engines.protocol import LMMNode, Target, answers_for, observed_data
from pm_fastlmm.engines.spectral.leave_out import kernel_parts
from pm_fastlmm.engines.spectral.objective import SpectralObjective
from pm_fastlmm.engines.structured.effects import EffectDraws, TermsAtTheta, over_draws
from pm_fastlmm.engines.structured.nested import nested
from pm_fastlmm.engines.structured.new_rows import NewTermRows, read_rows
from pm_fastlmm.engines.structured.objective import StructuredObjective
from pm_fastlmm.engines.structured.products import independent
from pm_fastlmm.engines.structured.statistics import require_rows
from pm_fastlmm.engines.structured.structuredlmm import StructuredRV, carried_by
from pm_fastlmm.engines.term_products import TermProducts, TermState
from pm_fastlmm.kernel.effects.coefficients import draw_factor_effects
from pm_fastlmm.kernel.effects.effects import draw_effects
from pm_fastlmm.kernel.likelihood.leave_out import of_data
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_ITERATIONS = 30  # towards where a sampler starts
_WEIGHTED = {"σ²_eI": "σ²_eW⁻¹", "R": "W^-½RW^-½"}


@dataclass(frozen=True, slots=True, eq=False)
class OneTermObjective(SpectralObjective):
    """ℓ(σ²_g, σ²_e) of a model of one term, which the spectral engine fits and the structured one predicts."""

    products: TermProducts
    y: FloatArray

    def terms(self, theta: FloatArray) -> TermState | None:
        """Return the term at θ."""
        sigma, noise = ([np.array([[theta[0]]])], np.array([[theta[1]]]))
        return self.products.at(self.products.response(self.y), sigma, noise)


@answers_for(StructuredRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StructuredNode(GaussianNode):
    """
    A StructuredLMM node.

    Attributes
    ----------
    terms : tuple of Term
    residual : Term or None
        Of the residuals, where they have several coordinates.
    layout : Theta
        Names, bounds and structure of θ.
    theta : TensorVariable
        θ as a function of the model's variables.
    products : TermProducts
    beta_cov : TensorVariable
        Prior covariance of β, (0, 0) when it has none.
    design : MixedDesign or None
        The formula that the terms were made from.
    spectrum : Spectrum or None
        Of the kernel, when the terms are σ²(K + δI).
    """

    called: ClassVar[str] = "StructuredLMM"
    law: ClassVar[str] = "N(Xβ, ΣZGZᵀ + σ²_eI)"
    at_theta: ClassVar[type[AtTheta]] = TermsAtTheta
    recovers: ClassVar[bool] = True
    predicts: ClassVar[tuple[Effects, ...]] = ("given", "new", "population")
    takes: ClassVar[tuple[str, ...]] = ("X_new", "Z_new", "data")
    takes_of_population: ClassVar[tuple[str, ...]] = takes  # of Z_new the residual alone

    terms: tuple[Term, ...]
    layout: Theta
    theta: Any
    products: TermProducts
    beta_cov: Any
    design: Any
    spectrum: Spectrum | None
    residual: Term | None = None

    @property
    def n(self) -> int:
        """Number of observations."""
        return self.products.n

    @property
    def formula(self) -> str:
        """The formula, or the distribution."""
        if self.design is not None:
            return str(self.design.described)
        plain = super(StructuredNode, self).formula
        R = "σ²_eI" if self.residual is None else "R"
        return plain.replace("σ²_eI", R if self.prior_weights is None else _WEIGHTED[R])

    @property
    def rows_dropped(self) -> str:
        """In words how many rows of the table were dropped."""
        return self.design.rows_dropped if self.design is not None and self.design.dropped else ""

    @property
    def prior_weights(self) -> FloatArray | None:
        """Prior weights of the rows."""
        root = self.products.weights.root
        return None if root is None else np.asarray(root**2)

    @property
    def levels(self) -> dict[str, int]:
        """How many levels each term has."""
        return {term.name: len(term.levels) for term in self.terms}

    def _prior_covariance(self) -> Any:
        return self.beta_cov

    def objective(self, model: pm.Model, method: Method = "REML") -> Fitted:
        """Return the likelihood of the parameters of the terms; one kernel is fitted by its spectrum."""
        objective = self.likelihood(self.known_mean(model), method)
        hold = _held if isinstance(objective, StructuredObjective) else None
        return through_variables(model, self.name, self.theta, objective, hold)

    def likelihood(self, mean: Constants, method: Method = "REML") -> StructuredObjective | OneTermObjective:
        """Return the same over θ itself."""
        mu, b, B = mean
        residual = np.asarray(self.observed - mu, dtype=float)
        y = self._scaled(residual)
        if self.spectrum is None or self.treatment != "flat":
            return StructuredObjective.of(
                self.products, self.layout, y, projection=self.projection, offset=b, prior=B, method=method
            )
        rotated = Rotated.from_values(self.spectrum, residual, None)
        return OneTermObjective.of(
            rotated, method, self.layout.names, projection=self.projection, products=self.products, y=y
        )

    def _scaled(self, residual: Any) -> FloatArray:
        """Return y less its mean in the coordinates of the cross-products, times √w."""
        return np.asarray(self.products.weights.scaled(residual), dtype=float)

    def rows(self) -> FloatArray:
        """Return y by row."""
        require_rows(self.products)
        return np.asarray(self.observed, dtype=float)

    def nested_in(self, other: LMMNode) -> bool:
        """Return whether each term is a special case of one of the other node."""
        return isinstance(other, StructuredNode) and nested(self, other)

    def flat_objective(self) -> StructuredObjective:
        """Return the restricted likelihood of the terms, whatever the treatment of β: where a sampler may start."""
        products = self.products if self.products.flat else self.products.treated(len(self.terms), flat=True)
        return StructuredObjective.of(products, self.layout, self._scaled(self.observed - self.mean_or_zero()))

    def _covariance_facts(self) -> dict[str, Any]:
        own = self.residual
        several = {} if own is None else {"residual": f"{len(own.levels)} records × ({listed(own.columns)})"}
        return {"terms": "; ".join(f"{term.name} ({len(term.levels)} levels)" for term in self.terms)} | several

    @property
    def cheap(self) -> bool:
        """Whether thousands of evaluations take a second or two."""
        return self.products.cheap

    def to_interpolate(self, model: pm.Model) -> StructuredObjective | None:
        """Return the likelihood over θ where an evaluation is a large factorisation."""
        if self.cheap or self.spectrum is not None or self.observed is None:
            return None
        if self.treatment != "flat":
            raise ValueError("its β is not integrated out under a flat prior: leave beta= and beta_cov= out.")
        objective = self.likelihood(self.known_mean(model))
        assert isinstance(objective, StructuredObjective)  # it has no spectrum
        return objective

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

    def recover(self, draws: Draws, which: Sequence[str] | None, rng: np.random.Generator) -> dict[str, xr.DataArray]:
        """Draw β, and the effects of each term over its levels; without columns those of a matrix Z are its columns."""
        return self._labelled(draws, self._draw(draws, rng))

    def _labelled(self, draws: Draws, drawn: EffectDraws) -> dict[str, xr.DataArray]:
        effects = {"beta": over_coef(draws.model, self, drawn.beta)}
        for term, u in zip(self.terms, drawn.u, strict=True):
            own = {term.name: term.levels}
            if term.width > 1:
                own[f"{term.name}_effects"] = term.columns
            effects[term.name] = labelled(draws.model, self, u if term.width > 1 else u[..., 0], own)
        return effects

    def coefficients(self, draws: Draws, rng: np.random.Generator) -> FloatArray | None:
        """Draw β from N(β̂, cov β̂) at each draw of θ, of one kernel all at once."""
        if not self.cheap or reaching(draws.model, *self._mean_graphs()):
            return None
        if self.spectrum is not None:
            return self._draw(draws, rng).beta
        (theta,) = draws.evaluate([self.theta])
        objective: Any = self.likelihood(self.constants())
        r = self.projection.rank
        mean, cov = np.empty((*draws.shape, r)), np.empty((*draws.shape, r, r))
        for at in np.ndindex(*draws.shape):
            state = objective.state(theta[at])
            if state is None:
                raise ValueError(f"V of {self.name} is not positive definite at draw {at}.")
            found = objective.coefficients(state)
            if sp.issparse(found[1]):  # of so many coefficients that β is drawn with the effects alone
                return None
            mean[at], cov[at] = found
        noise = rng.standard_normal(mean.shape)
        return np.asarray(mean + np.einsum("...ij,...j->...i", semidefinite_root(cov), noise))

    def read(self, new: NewRows, effects: Effects) -> Any:
        """Read X and the levels of each term, or a table."""
        if new.in_sample:
            require_rows(self.products)
            return None
        return read_rows(
            self.projection, self.terms, X_new=new.X_new, Z_new=new.Z_new, data=new.data, design=self.design,
            population=effects == "population", residual=self.residual,
        )  # fmt: skip

    def predict(self, draws: Draws, rows: Any, effects: Effects, rng: np.random.Generator) -> Predictive:
        """Draw f = Xβ + Σ Zu of new rows or of those of the data, and y = f + e."""
        drawn, in_sample = self._draw(draws, rng), rows is None
        mean = self.mean_at(rows, drawn.mu)
        ids = None if rows is None else rows.ids
        if rows is None:
            none = [term.Z[:, :0] for term in self.terms]
            rows = NewTermRows(self.projection.X, [term.Z for term in self.terms], none, self.ids)
        f = self.linear_predictor(drawn, rows, mean, effects, rng)
        if in_sample:
            white = rng.standard_normal(f.shape)
            e = self.products.weights.unscaled(self.products.records.coloured(drawn.noise, white))
        else:
            new = rows.residuals(self.products)
            expected, e = new.draw(drawn.noise, drawn.residuals(self, new.rows), rng)
            f = f + expected
        return Predictive(f, f + e, ids)

    def linear_predictor(
        self, drawn: EffectDraws, rows: NewTermRows, mean: Any, effects: Effects, rng: np.random.Generator
    ) -> FloatArray:
        """Return draws of Xβ + Σ Zu and a known mean, of effects that are given or drawn anew, or of none."""
        f = over_draws(rows.X, drawn.beta) + mean
        for k, term in enumerate(self.terms if effects != "population" else ()):
            u, sigma = drawn.u[k], drawn.sigma[k]
            if effects == "new":
                u = self.products.draw_prior(k, sigma, rng)
            f = f + over_draws(rows.Z[k], u)
            if fresh := rows.Z_new[k].shape[1]:
                f = f + over_draws(rows.Z_new[k], independent(sigma, fresh // term.width, rng))
        return np.asarray(f)

    def mean_at(self, rows: Any, mu: FloatArray) -> Any:
        """Return what is added to Xβ: at new rows the offset of the formula, where there is one."""
        known = rows is not None and rows.offset is not None
        return rows.offset if known else super(StructuredNode, self).mean_at(rows, mu)

    def _draw(self, draws: Draws, rng: np.random.Generator) -> EffectDraws:
        """Draw (β, u) from their joint posterior given y, once for each draw of θ."""
        theta, mu, b, B = draws.evaluate([self.theta, *self._mean_graphs()])
        if self.spectrum is not None and self.treatment == "flat" and not np.ptp(mu, axis=(0, 1)).any():
            return self._draw_kernel(self.spectrum, theta, mu, rng)
        shape, products, terms = draws.shape, self.products, self.terms
        X = self.projection
        beta = np.empty((*shape, X.rank))
        u = [np.empty((*shape, t.Z.shape[1] // t.width, t.width)) for t in terms]
        sigma = [np.empty((*shape, t.blocks.width, t.blocks.width)) for t in terms]
        noise = np.empty((*shape, products.records.width, products.records.width))
        for at in np.ndindex(*shape):
            values, noise[at] = self.layout.numbers(theta[at])
            own = [*values, B[at]] if B[at].size else values
            response = self.observed - mu[at]
            if not products.flat:
                response = response - X.times(b[at])
            drawn, coefficients = products.draw(self._scaled(response), own, noise[at], rng)
            for k, term in enumerate(terms):
                u[k][at] = drawn[k].reshape(-1, term.width)
                sigma[k][at] = values[k]
            beta[at] = coefficients if products.flat else b[at] + (drawn[-1].ravel() if B[at].size else 0.0)
        return EffectDraws(beta, u, sigma, noise, mu)

    def _draw_kernel(
        self, spectrum: Spectrum, theta: FloatArray, mu: FloatArray, rng: np.random.Generator
    ) -> EffectDraws:
        """Draw all at once in the rotated coordinates: the effects are the coefficients of the factor Z of K."""
        g, e = theta[..., 0], theta[..., 1]
        beta, u = draw_effects(Rotated.from_values(spectrum, self.observed - mu[0, 0], None), g, e, rng)
        effects, width = draw_factor_effects(spectrum, u, g, rng), self.terms[0].width
        root = self.terms[0].blocks.root
        levels = (effects if root is None else effects @ root.T).reshape(*theta.shape[:2], -1, width)
        return EffectDraws(beta, [levels], [g[..., None, None]], e[..., None, None], mu)

    def derived(self, *values: FloatArray) -> dict[str, FloatArray]:
        """
        Return the variance of each term in an observation on average, tr(Z_kG_kZ_kᵀ)/n, and its share of the sum.

        With prior weights it is the average by weight, tr(WZ_kG_kZ_kᵀ)/Σw, and of e that of an observation of mean
        weight, σ²_e/w̄; where residuals have several variances, that of these on average.
        """
        (theta,) = values
        grams, weight = [self.products.mean_gram(k) for k in range(len(self.terms))], self.products.weights.mean
        variance = np.empty((*theta.shape[:2], len(grams) + 1))
        for at in np.ndindex(*theta.shape[:2]):
            sigma, noise = self.layout.numbers(theta[at])
            own = [float((gram * v).sum()) for gram, v in zip(grams, sigma, strict=True)]
            variance[at] = [*own, self.products.records.mean(noise) / weight]
        return {"variance": variance, "share": variance / variance.sum(axis=-1, keepdims=True)}

    def variances(self, draws: Draws) -> dict[str, xr.DataArray]:
        """Return the elements of θ at the draws."""
        (theta,) = draws.evaluate([self.theta])
        values = np.broadcast_to(theta, (*draws.shape, self.layout.size))
        return {name: labelled(draws.model, self, values[..., i], {}) for i, name in enumerate(self.layout.names)}

    def components(self) -> dict[str, list[str]]:
        """Return the names of the terms, and last the residual."""
        return {f"{self.name}_component": [*(term.name for term in self.terms), RESIDUAL]}

    def precisions(self, draws: Draws, *, largest: int, numbers: int, rows: Any = None) -> Precisions:
        """Return P and Py at the draws; one kernel in its rotated coordinates, many draws at a time."""
        require_rows(self.products)
        Q1, shape = self.flat_basis(), draws.shape
        graphs = [self.theta, *self._mean_graphs()]
        if self.spectrum is None:
            return Precisions(shape, self.n, Q1, self._parts(DrawFunction(draws, graphs), numbers))
        theta, mu, b, B = draws.evaluate(graphs)
        if not B.size:  # β is flat or explicit
            B = np.zeros((1, 1, b.shape[-1], b.shape[-1]))
        g, e = np.moveaxis(theta, -1, 0)
        found = kernel_parts(self.spectrum, shape, self.observed, mu, g, e, b, B, largest=largest, numbers=numbers)
        return Precisions(shape, self.n, Q1, found)

    def _parts(self, function: DrawFunction, numbers: int) -> Iterator[Part]:
        """Return P and Py at the draws of θ, mu, and mean and covariance of β, one after the other."""
        theta, mu, b, B = function()
        p, y = self.products, self.observed
        X = self.projection
        mean: Any = None
        for i, values in enumerate(theta):
            own = mu[i] if p.flat else mu[i] + X.times(b[i])
            if mean is None or not np.array_equal(own, mean):
                mean, residual = own, self._scaled(y - own)
                response = p.response_to_known(residual)
            sigma, noise = self.layout.numbers(values)
            state = p.at(response, [*sigma, B[i]] if B[i].size else sigma, noise)
            require_definite(state, self.name)
            assert state is not None
            yield Part(i, of_data(state.precision(residual, numbers), p.weights.root), y)

    @classmethod
    def from_terms(
        cls, name: str, terms: Sequence[Term], X: Any, observed: Any, design: Any, *, mu: Any = None,
        weights: Any = None, residual: Term | None = None,
    ) -> Self:  # fmt: skip
        """Return the node of terms whose parameters are to be fitted: of no variable and no model."""
        op = SimpleNamespace(**carried_by(terms, X, design, weights, residual))
        y = read_response(observed, op.ids, op.products.rows)
        common = (name, None, op.treatment, mu, None, y, op.projection, op.ids)
        return cls(*common, op.terms, op.theta, None, op.products, None, op.design, op.spectrum, op.residual)

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, mu, b, B, theta = rv.owner.inputs
        common = (rv.name, rv, op.treatment, mu, b, observed_data(model, rv), op.projection, op.ids)
        return cls(*common, op.terms, op.theta, theta, op.products, B, op.design, op.spectrum, op.residual)


def _held(objective: StructuredObjective, constants: FloatArray, fixed: Any) -> StructuredObjective:
    """Return the objective with elements of θ held at the numbers of the model."""
    partly = [e for e in objective.layout.entries if e.matrix and fixed[e.place].any() and not fixed[e.place].all()]
    if partly:
        raise ValueError("a matrix of the terms has constant and free elements: use a structure with fewer parameters.")
    return replace(objective, fixed=fixed, held=np.where(fixed, constants, np.nan))
