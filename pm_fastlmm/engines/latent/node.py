"""The node of a LatentLMM."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray, shown
from pm_fastlmm.base.choices import Method
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.constants import Constants
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.free_variables import Fitted, through_variables
from pm_fastlmm.engines.graphs import reaching
from pm_fastlmm.engines.labels import labelled
from pm_fastlmm.engines.latent.at_theta import LatentAtTheta
from pm_fastlmm.engines.latent.fixed import Search
from pm_fastlmm.engines.latent.importance import FEWEST, RELIABLE, corrected
from pm_fastlmm.engines.latent.independent import Independent
from pm_fastlmm.engines.latent.latentlmm import LatentRV, carried_by
from pm_fastlmm.engines.latent.leave_out import LeftOut, leave_groups_out, leave_one_out
from pm_fastlmm.engines.latent.linked import LinkedLaplace
from pm_fastlmm.engines.latent.normal_draws import drawn_about_the_mean
from pm_fastlmm.engines.latent.objective import LatentObjective
from pm_fastlmm.engines.latent.order import ahead, along_a_line
from pm_fastlmm.engines.latent.resampling import resampled
from pm_fastlmm.engines.latent.state import LatentState
from pm_fastlmm.engines.precisions import GivenOthers, Precisions
from pm_fastlmm.engines.prediction import Effects, NewRows, Predictive
from pm_fastlmm.engines.protocol import LMMNode, answers_for, observed_data
from pm_fastlmm.engines.random_variable import Treatment
from pm_fastlmm.engines.structured.effects import EffectDraws
from pm_fastlmm.engines.structured.new_rows import NewTermRows, read_rows
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.engines.structured.structuredlmm import aligned_rows, checked_terms
from pm_fastlmm.families.family import Family
from pm_fastlmm.kernel.effects.left_out import Groups

_QUICK = 1e9  # multiplications, of which coefficients are drawn with variances
_ENOUGH = 1e-6  # decrement of the last step to a mode that effects are drawn about: a thousandth of their errors
_JUDGED = 1000  # draws by which importance weights are judged


@answers_for(LatentRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LatentNode(StructuredNode):
    """
    A LatentLMM node: terms of η, and a family.

    Attributes
    ----------
    psi : TensorVariable
        Parameters of the family as a function of the model's variables.
    """

    called: ClassVar[str] = "LatentLMM"
    law: ClassVar[str] = "family(g⁻¹(Xβ + ΣZu))"
    at_theta: ClassVar[type[AtTheta]] = LatentAtTheta

    psi: Any = None

    @property
    def family(self) -> Family:
        """The family, of the rows of the data."""
        own: Family = self.products.family  # type: ignore[attr-defined]
        return own

    @property
    def categories(self) -> tuple[Any, ...] | None:
        """What the numbers 0, 1, … of y stand for, where the response of a formula has categories."""
        return None if self.design is None else self.design.of_family.labels

    @property
    def formula(self) -> str:
        """The formula, or the distribution."""
        if self.design is not None:
            return f"{self.design.described}, {self.family.name} ({self.family.link})"
        return f"{self.name} ~ {self.family.name}({self.family.link}⁻¹(Xβ + ΣZu))"

    @property
    def prior_weights(self) -> FloatArray | None:
        """None: rows have no weights."""
        return None

    def _covariance_facts(self) -> dict[str, Any]:
        own = {"family": f"{self.family.name} ({self.family.link})"}
        return own | {"terms": "; ".join(f"{term.name} ({len(term.levels)} levels)" for term in self.terms)}

    def rows(self) -> FloatArray:
        """Return y by row; a ValueError if a data container holds by now what is outside the support."""
        return self.family.read(np.asarray(self.observed, dtype=float))

    def observing(self, y: Any) -> Self:
        """Return the node with another response of the same family."""
        other = super(StructuredNode, self).observing(y)
        return replace(other, observed=self.family.read(other.observed))

    def nested_in(self, other: LMMNode) -> bool:
        """Return whether each term is a special case of one of the other node, of the same family."""
        same = isinstance(other, LatentNode) and other.family.name == self.family.name
        return same and super(LatentNode, self).nested_in(other)

    def objective(self, model: pm.Model, method: Method = "REML") -> Fitted:
        """Return the approximate likelihood of the parameters of terms and family."""
        objective = self.likelihood(self.known_mean(model), method)
        return through_variables(model, self.name, self.estimated()[0], objective, _held, LinkedLaplace)

    def at(self, objective: Any, theta: FloatArray, mu: Any, prior_mean: FloatArray) -> AtTheta:
        """Return the node at θ, or at variables of the model that θ is made of."""
        if isinstance(objective, LinkedLaplace):
            objective, theta = objective.inner, objective.link.theta(theta)
        return super(LatentNode, self).at(objective, theta, mu, prior_mean)

    def likelihood(self, mean: Constants, method: Method = "REML") -> LatentObjective:  # type: ignore[override]
        """Return the same over θ and ψ themselves."""
        mu, b, B = mean
        products: Any = self.products
        return LatentObjective.of(
            products, self.layout, self.rows(), mu, b=b, prior=B, method=method, projection=self.projection
        )

    def flat_objective(self) -> Any:
        """Return the approximation with β integrated out, whatever its treatment is: where a sampler may start."""
        own: Any = self.products
        products = own if own.flat else own.treated(len(self.terms), flat=True)
        return LatentObjective.of(products, self.layout, self.rows(), self.mean_or_zero())

    def to_interpolate(self, model: pm.Model) -> LatentObjective | None:  # type: ignore[override]
        """
        Return log p̃ over θ and ψ.

        Raises
        ------
        ValueError
            If it depends on other variables.
        """
        if self.observed is None or self.rv is None:
            return None
        if free := reaching(model, *self._mean_graphs()):
            raise ValueError(
                f"it depends on {shown([rv.name for rv in free])} besides the parameters of the terms and the family: "
                "coefficients that X has are integrated out, under a flat prior or with numbers in beta_cov=."
            )
        return self.likelihood(self.constants())

    def estimated(self) -> list[Any]:
        """Return θ and ψ as one vector."""
        return [pt.concatenate([self.theta, self.psi]) if self.family.parameters else self.theta]

    def coefficients(self, draws: Draws, rng: np.random.Generator) -> FloatArray | None:
        """Draw β with the effects at each draw of θ, where that is quick."""
        products: Any = self.products
        count = draws.shape[0] * draws.shape[1]
        quick = products.work * count < _QUICK and not reaching(draws.model, *self._mean_graphs())
        return self._draw(draws, rng).beta if quick else None

    def read(self, new: NewRows, effects: Effects) -> Any:
        """Read X and the levels of each term, or a table."""
        if new.in_sample:
            return None
        return read_rows(
            self.projection, self.terms, X_new=new.X_new, Z_new=new.Z_new, data=new.data, design=self.design,
            population=effects == "population",
        )  # fmt: skip

    def predict(self, draws: Draws, rows: Any, effects: Effects, rng: np.random.Generator) -> Predictive:
        """Draw η = Xβ + Σ Zu of new rows or of those of the data, and y given η; the mean is E(y | η)."""
        drawn, family = self._draw(draws, rng), self.family
        mean = self.mean_at(rows, drawn.mu)
        ids = None if rows is None else rows.ids
        if rows is None:
            none = [term.Z[:, :0] for term in self.terms]
            rows = NewTermRows(self.projection.X, [term.Z for term in self.terms], none, self.ids)
        else:
            family = self.family_of_rows(rows)
        f = self.linear_predictor(drawn, rows, mean, effects, rng)
        psi = self._family_parameters(draws)
        probabilities = family.probabilities(f, psi) if family.name == "ordinal" else None
        return Predictive(family.mean(f, psi), family.draw(f, psi, rng), ids, f, probabilities)

    def _family_parameters(self, draws: Draws) -> FloatArray:
        """Return ψ (chain, draw, p)."""
        (theta,) = draws.evaluate(self.estimated())
        return np.broadcast_to(theta[..., self.layout.size :], (*draws.shape, len(self.family.parameters)))

    def given_others(self, draws: Draws, groups: Groups | None) -> Iterator[GivenOthers]:
        """Return what the others say of each observation, or group, at each draw, by `leave_out`."""
        products: Any = self.products
        for at, state in self._states(draws):
            if groups is None:
                left = leave_one_out(state, None)
                density, mean = left.log_density, left.moments()[0]
            else:
                left = leave_groups_out(state, None, groups, [True] * len(groups.labels))
                density, mean = np.asarray(left.joint), np.empty(0)
            yield GivenOthers(at, density, mean, partial(_drawn, left), state.loglik + products.constant)

    def family_of_rows(self, rows: NewTermRows) -> Family:
        """Return the family of new rows, whose trials are those of their table, or one each."""
        if not hasattr(self.family, "trials"):
            return self.family.of_rows(rows.trials)
        return self.family.of_rows(np.ones(rows.m) if rows.trials is None else rows.trials)

    def recover_by_importance(self, draws: Draws, rng: np.random.Generator) -> dict[str, xr.DataArray]:
        """Draw β and the effects from the curvature at their mode, resampled by their importance weights."""
        products: Any = self.products
        blocks = Independent.of(products.equations, len(self.terms))
        self._require_reliable(draws, rng)
        return self._labelled(draws, self._draw(draws, rng, partial(resampled, blocks=blocks, rng=rng)))

    def _require_reliable(self, draws: Draws, rng: np.random.Generator) -> None:
        """Refuse weights, at the middle one of the draws of θ, that say that they stand for nothing."""
        (theta,) = draws.evaluate(self.estimated())
        order = along_a_line(np.broadcast_to(theta, (*draws.shape, theta.shape[-1])))
        chain, draw = order[len(order) // 2]
        one = Draws(draws.model, draws.posterior.isel(chain=[chain], draw=[draw]))
        [(_, state)] = self._states(one)
        judged = corrected(state, 0.0, len(self.terms), n=_JUDGED, df=None, nodes=None, rng=rng)
        if not (judged.ess > FEWEST and judged.k <= RELIABLE):
            raise ValueError(
                f"importance weights do not stand for the effects of {self.name} given its parameters: {_JUDGED} draws "
                f"are worth {judged.ess:.0f}, Pareto k is {judged.k:.2f}; they should be worth over {FEWEST}, with k "
                f"up to {RELIABLE}. by='curvature' draws from the approximation; exact draws are those of NUTS over "
                "the effects themselves, flmm.RelatedEffects with a likelihood of PyMC, or lmm_model(…, "
                "effects='sampled')."
            )

    def _draw(
        self, draws: Draws, rng: np.random.Generator, draw: Callable[[LatentState], Any] | None = None
    ) -> EffectDraws:
        """Draw (β, u) from their normal approximation, once for each draw of θ, or by a function of the state."""
        _, mu, b, B = draws.evaluate([*self.estimated(), *self._mean_graphs()])
        shape, terms, products = draws.shape, self.terms, self.products
        beta = np.empty((*shape, self.projection.rank))
        u = [np.empty((*shape, t.Z.shape[1] // t.width, t.width)) for t in terms]
        sigma = [np.empty((*shape, t.blocks.width, t.blocks.width)) for t in terms]
        for at, state in self._states(draws, _ENOUGH if draw is None else 0.0):
            drawn, coefficients = drawn_about_the_mean(state, rng) if draw is None else draw(state)
            for k, term in enumerate(terms):
                u[k][at] = drawn[k].reshape(-1, term.width)
                sigma[k][at] = state.sigma[k]
            beta[at] = coefficients if products.flat else b[at] + (drawn[-1].ravel() if B[at].size else 0.0)
        return EffectDraws(beta, u, sigma, np.zeros((*shape, 0, 0)), mu)

    def _states(self, draws: Draws, enough: float = 0.0) -> Iterator[tuple[tuple[int, ...], LatentState]]:
        """
        Return where a draw is, and the approximation there, for all draws, near ones after each other.

        A mode is sought as `find_mode` does, up to a decrement that is enough.

        A mode that is sought from one near it takes a factorisation or two; that of a draw that is repeated none.
        """
        theta, mu, b, B = draws.evaluate([*self.estimated(), *self._mean_graphs()])
        theta = np.broadcast_to(theta, (*draws.shape, theta.shape[-1]))
        size, last = self.layout.size, None
        modes: list[tuple[FloatArray, FloatArray]] = []
        products: Any = self.products
        for at in along_a_line(theta):
            values, _ = self.layout.numbers(theta[at][:size])
            offset = mu[at] if products.flat else mu[at] + self.projection.times(b[at])
            own = theta[at], np.asarray(offset), B[at]
            if last is None or not all(map(np.array_equal, own, last)):
                sigma = [*values, B[at]] if B[at].size else values
                response = self.rows(), own[1], sigma, theta[at][size:]
                state = products.laplace(*response, ahead(theta[at], modes), enough)
                last = own
            if state is None:
                raise ValueError(
                    f"the likelihood of {self.name} has no mode at draw {at}, where its parameters are {theta[at]}: a "
                    "prior without mass there avoids that."
                )
            modes = [*modes[-1:], (theta[at], state.mode.x)]
            yield at, state

    def derived(self, *values: FloatArray) -> dict[str, FloatArray]:
        """Return the variance that each term gives η on average, tr(Z_kG_kZ_kᵀ)/n."""
        (theta,) = values
        grams = [self.products.mean_gram(k) for k in range(len(self.terms))]
        variance = np.empty((*theta.shape[:2], len(grams)))
        for at in np.ndindex(*theta.shape[:2]):
            sigma, _ = self.layout.numbers(theta[at][: self.layout.size])
            variance[at] = [float((gram * v).sum()) for gram, v in zip(grams, sigma, strict=True)]
        return {"variance": variance}

    def variances(self, draws: Draws) -> dict[str, Any]:
        """Return the elements of θ and ψ at the draws."""
        (theta,) = draws.evaluate(self.estimated())
        names = (*self.layout.names, *self.family.parameters)
        values = np.broadcast_to(theta, (*draws.shape, len(names)))
        return {name: labelled(draws.model, self, values[..., i], {}) for i, name in enumerate(names)}

    def components(self) -> dict[str, list[str]]:
        """Return the names of the terms."""
        return {f"{self.name}_component": [term.name for term in self.terms]}

    def precisions(self, draws: Draws, *, largest: int, numbers: int, rows: Any = None) -> Precisions:
        """Raise: what others say of a response that is not normal is in `given_others`."""
        return LMMNode.precisions(self, draws, largest=largest, numbers=numbers, rows=rows)

    @classmethod
    def from_terms(  # type: ignore[override]
        cls, name: str, terms: Sequence[Term], X: Any, observed: Any, design: Any, *, family: Family, mu: Any = None
    ) -> Self:
        """Return the node of terms whose parameters are to be fitted: of no variable and no model."""
        terms = checked_terms(terms)
        ids, projection = aligned_rows(terms, X)
        op = carried_by(terms, projection, family, ids, design)
        flat: Treatment = "flat"
        common = (name, None, flat, mu, None, family.read(observed), op["projection"], ids)
        return cls(*common, op["terms"], op["theta"], None, op["products"], None, design, None)

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, mu, b, B, theta, psi = rv.owner.inputs
        common = (rv.name, rv, op.treatment, mu, b, observed_data(model, rv), op.projection, op.ids)
        return cls(*common, op.terms, op.theta, theta, op.products, B, op.design, None, None, psi)


def _drawn(left: LeftOut, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Draw each η_i and y_i given the others."""
    eta = left.mean + np.sqrt(left.variance) * rng.standard_normal(len(left.mean))
    return eta, left.family.draw(eta, left.psi, rng)


def _held(objective: LatentObjective, constants: FloatArray, fixed: Any) -> LatentObjective:
    """Return the objective with elements of θ held at the numbers of the model."""
    partly = [e for e in objective.layout.entries if e.matrix and fixed[e.place].any() and not fixed[e.place].all()]
    if partly:
        raise ValueError("a matrix of the terms has constant and free elements: use a structure with fewer parameters.")
    return replace(objective, fixed=fixed, held=np.where(fixed, constants, np.nan), last=Search())
