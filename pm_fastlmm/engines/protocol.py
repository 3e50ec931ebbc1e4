"""What an engine owes: a node of a model answers every verb (fit, sample, recover, predict, leave out) itself."""

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.basic import get_underlying_scalar_constant_value
from pytensor.tensor.exceptions import NotScalarConstantError
from pytensor.tensor.variable import TensorConstant

from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.base.arrays import FloatArray, Ids, shown
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.copies import PartOfModel
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.engines.constants import Constants
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.free_variables import Fitted
from pm_fastlmm.engines.graphs import evaluated, is_random, reaching
from pm_fastlmm.engines.precisions import GivenOthers, Precisions
from pm_fastlmm.engines.prediction import Effects, NewRows, Predictive
from pm_fastlmm.engines.random_variable import Treatment
from pm_fastlmm.kernel.effects.left_out import Groups
from pm_fastlmm.spectrum.sparse_projection import AnyProjection


class Target(NamedTuple):
    """Values of what a node estimates, one after the other, and which of them are positive."""

    values: FloatArray
    positive: Any


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LMMNode(PartOfModel, Described, ABC):
    """
    What a linear mixed model node of a model has, whichever engine evaluates it.

    Attributes
    ----------
    name : str
    rv : TensorVariable
        The random variable.
    treatment : "flat" or "proper"
        How β is treated: "proper" is an explicit β or one with a Gaussian prior.
    mu, beta_mean : TensorVariable or None
        The mean besides Xβ; for "proper" the mean of β.
    observed : array or None
        The data: y (…, n), or the statistic of a `Rotated`, [z, rss] or [z, rss, y₁].
    projection : Projection or SparseProjection
        Of X.
    ids : tuple or None
    """

    called: ClassVar[str]  # the distribution, as users write it
    law: ClassVar[str] = "N(Xβ, V(θ))"  # and as it is printed above a fit
    parts: ClassVar[tuple[str, ...]] = ()  # what `recover` can be asked for alone
    recovers: ClassVar[bool] = False  # whether `recover` draws β and effects
    predicts: ClassVar[tuple[Effects, ...]] = ()  # effects= of predictions, besides "left_out"
    takes: ClassVar[tuple[str, ...]] = ()  # what of the rows, new or its own, a user may give
    takes_of_population: ClassVar[tuple[str, ...]] = ("X_new", "data")  # and for effects="population"
    refusal: ClassVar[str] = "its effects and predictions are not drawn."  # what a user reads of other effects

    name: str
    rv: Any
    treatment: Treatment
    mu: Any
    beta_mean: Any
    observed: Any
    projection: AnyProjection
    ids: Ids | None

    @property
    def n(self) -> int:
        """Number of observations."""
        return self.projection.n

    @property
    def last_length(self) -> int | None:
        """How many values the data have in their last dimension; None where it is not known."""
        length: int | None = self.rv.type.shape[-1]
        return length

    @property
    def partly_observed(self) -> FloatArray | None:
        """The data, NaN where nothing was observed; None where everything was."""
        return None

    def placed(self, values: FloatArray) -> FloatArray:
        """Return values (…, n) of what was observed in the shape of the variable."""
        return values

    @property
    def formula(self) -> str:
        """The formula that the model was made from, or its distribution."""
        return f"{self.name} ~ {self.law}"

    @property
    def rows_dropped(self) -> str:
        """In words how many rows of the table were dropped for a missing value; nothing if none was."""
        return ""

    @property
    def levels(self) -> dict[str, int]:
        """How many levels each random-effects term has."""
        return {}

    @property
    def observes_statistic(self) -> bool:
        """Whether a statistic of y is observed, so that the last dimension is not that of the rows."""
        return False

    def read_groups(self, groups: Any) -> Groups:
        """Read a label for each row; the observations of a group are left out together."""
        return Groups.read(groups, self.ids, self.n)

    def recover(self, draws: Draws, which: Sequence[str] | None, rng: np.random.Generator) -> dict[str, xr.DataArray]:
        """Draw β and the random effects given y at each posterior draw; by what follows the name of the node."""
        raise self.refused()

    def recover_by_importance(self, draws: Draws, rng: np.random.Generator) -> dict[str, xr.DataArray]:
        """Draw the same with importance weights that correct an approximation, where the node has one."""
        raise ValueError(f"{self.name} is a {self.called}, whose effects are drawn exactly: leave by='importance' out.")

    def coefficients(self, draws: Draws, rng: np.random.Generator) -> FloatArray | None:
        """Draw β (chain, draw, …, r) under a flat prior where that takes no longer than sampling; None elsewhere."""
        return None

    def read(self, new: NewRows, effects: Effects) -> Any:
        """Read new rows as `predict` takes them, None in sample; what cannot be predicted is refused here."""
        return None

    def predict(self, draws: Draws, rows: Any, effects: Effects, rng: np.random.Generator) -> Predictive:
        """Draw f and y of rows that were read, or of those of the data, at each posterior draw."""
        raise self.refused()

    def known_rows(self, rows: Any) -> FloatArray | None:
        """Return y (…, n) of a node that observes a statistic, where `rows` have it or it follows; else None."""
        return None

    def function(self, draws: Draws, count: int, *, progressbar: bool) -> Any:
        """Return the posterior of f as a function of x, averaged over some draws."""
        raise ValueError(f"{self.name} is no FourierLMM: flmm.predict has its predictions.")

    def refused(self) -> ValueError:
        """Return the error of effects that are not drawn."""
        return ValueError(f"{self.name} is a {self.called}: {self.refusal}")

    def mean_at(self, rows: Any, mu: FloatArray) -> Any:
        """Return what is added to Xβ: mu in sample, and at new rows 0, since mu is not known there."""
        if rows is None:
            return mu
        if np.any(mu):
            raise ValueError(
                f"{self.name} has a mean mu besides Xβ, which is not known at new rows: put its columns into X."
            )
        return 0.0

    def constants(self) -> Constants:
        """Return mu, and mean and covariance of β's prior, where no variable reaches them."""
        mu, b, B = (np.asarray(_value(graph), dtype=float) for graph in self._mean())
        return Constants(mu, b if self.treatment == "proper" else np.zeros(0), B)

    def known_mean(self, model: pm.Model) -> Constants:
        """
        Return the same of a node with data that is fitted.

        Raises
        ------
        ValueError
            If the node has no data, or variables reach them.
        """
        if self.observed is None:
            raise ValueError(f"{self.name} has no observed data to fit.")
        if free := reaching(model, *self._mean_graphs()):
            raise ValueError(
                f"free variables are in the mean of {self.name} or in the prior of β "
                f"({shown([rv.name for rv in free])}): REML is for variances. Put covariates into X, whose "
                "coefficients are integrated out."
            )
        return self.constants()

    def mean_or_zero(self) -> FloatArray:
        """Return mu, or 0 where a random variable reaches it: what a start takes it to be."""
        mu = self._mean_graphs()[0]
        return np.zeros(()) if is_random(mu) else np.asarray(_value(mu), dtype=float)

    def _mean_graphs(self) -> list[Any]:
        """Return mu, and mean and covariance of β's prior, with constants for what the node has not."""
        return [pt.as_tensor(part) for part in self._mean()]

    def _mean(self) -> list[Any]:
        pairs = (self.mu, np.zeros(())), (self.beta_mean, np.zeros(0)), (self._prior_covariance(), np.zeros((0, 0)))
        return [none if graph is None else graph for graph, none in pairs]

    def _prior_covariance(self) -> Any:
        """Return the graph of the covariance of β's prior, None where the node has none."""
        return None

    def integrates_coefficients(self, model: pm.Model) -> bool:
        """Return whether β is integrated out of the likelihood, under a flat or a Gaussian prior; not one given."""
        if not self.projection.rank or self.treatment == "flat":
            return bool(self.projection.rank)
        spread = pt.as_tensor(self._prior_spread())
        return bool(reaching(model, spread)) or bool(np.any(_value(spread)))

    def _prior_spread(self) -> Any:
        """Return the covariance of β's prior, or a root of it."""
        covariance = self._prior_covariance()
        return np.zeros((0, 0)) if covariance is None else covariance

    def objective(self, model: pm.Model, method: Method = "REML") -> Fitted:
        """
        Return what AI-REML maximises, and the link to the free variables.

        Raises
        ------
        ValueError
            If there is no such likelihood, the node has no data, its mean has free variables, or they are discrete.
        """
        raise ValueError(
            f"{self.name} is a {self.called}, which has no restricted likelihood to maximise: sample it with "
            "flmm.sample."
        )

    def __repr__(self) -> str:
        """Show the name, the sizes and what the covariance is made of."""
        facts = self._facts()
        return f"{type(self).__name__}({facts.pop('name')!r}: {', '.join(f'{k}: {v}' for k, v in facts.items())})"

    def _facts(self) -> dict[str, Any]:
        treatment = "flat prior" if self.treatment == "flat" else "explicit, or Gaussian prior"
        return {
            "name": self.name,
            "observations": self.n,
            "data": "none" if self.observed is None else "observed",
            "fixed effects": listed(self.projection.coef),
            "β": treatment,
            **self._covariance_facts(),
        }

    def _covariance_facts(self) -> dict[str, Any]:
        return {}

    @property
    def cheap(self) -> bool:
        """Whether thousands of evaluations take a second or two."""
        return False

    def estimated(self) -> list[Any]:
        """Return the graphs of what `target` has values for."""
        return []

    def target(self) -> Target | None:
        """Return where the likelihood is highest, pulled inside all bounds: a sampler starts there."""
        return None

    def to_interpolate(self, model: pm.Model) -> Objective | None:
        """
        Return the likelihood over what `estimated` gives, for `sample` to interpolate; None where that is no gain.

        Raises
        ------
        ValueError
            If the likelihood is dear, but depends on more than that; the text says on what.
        """
        return None

    def density(self, model: pm.Model) -> Any:
        """Return the graph of the log-density of the data, as `sample` takes it."""
        return pm.logp(self.rv, model.rvs_to_values[self.rv])

    def reaches(self, values: FloatArray) -> bool:
        """Return whether `density` is quick at values of `estimated`, where it is quick at all."""
        return True

    def adapt(self, values: Callable[[], FloatArray]) -> bool:
        """Be told values (m, …) of `estimated` at which the posterior is; return whether the density has changed."""
        return False

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context in which the density may be 0 where a posterior has next to no mass, if that saves time."""
        return nullcontext()

    @property
    def numbers(self) -> int:
        """How many numbers an evaluation of the density has to hold."""
        return int(self.observed.size)

    def deriving(self) -> list[Any]:
        """Return the graphs of what `derived` is a function of."""
        return self.estimated()

    def derived(self, *values: FloatArray) -> dict[str, FloatArray]:
        """Return the variances, and what they are shares of, by suffix, at draws (chain, draw, …) of those graphs."""
        return {}

    def variances(self, draws: Draws) -> dict[str, Any]:
        """Return the parameters of V at the draws, over chain and draw, by the names of a fit: here the variables."""
        names = [rv.name for rv in reaching(draws.model, self.rv)]
        return {name: draws.posterior[name] for name in names if name in draws.posterior}

    def components(self) -> dict[str, list[str]]:
        """Return the labels of a last dimension of what is derived, by the name of that dimension."""
        return {}

    def precisions(self, draws: Draws, *, largest: int, numbers: int, rows: Any = None) -> Precisions:
        """
        Return P and Py at the draws, in parts of about so many numbers; `largest` is the largest group left out.

        Raises
        ------
        ValueError
            If there are no rows, or V is not positive definite at a draw.
        """
        raise ValueError(f"{self.name} is a {self.called}, which has no density of single observations given others.")

    def flat_basis(self) -> Any:
        """Return the basis of the fixed effects under a flat prior, of no columns for another treatment of β."""
        if self.projection.sparse and self.treatment == "flat":
            return self.projection
        Q1 = self.projection.Q1  # raises where the rows were not kept
        return Q1 if self.treatment == "flat" else Q1[:, :0]

    def given_others(self, draws: Draws, groups: Groups | None) -> Iterator[GivenOthers] | None:
        """
        Return what all others say of each observation, or group, at each draw; None where P says it.

        That is of a response that is not normal, whose β the others determine.
        """
        return None

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node of a random variable with this op; one that belongs to no model is not read."""
        raise NotImplementedError(cls.__name__)


N = TypeVar("N", bound=LMMNode)


@singledispatch
def node_of(op: Any, model: pm.Model, rv: Any) -> LMMNode | None:
    """Return the node of a random variable, by the type of its op; None where no engine answers for it."""
    return None


ENGINES: list[type[LMMNode]] = []


def answers_for(op: type) -> Callable[[type[N]], type[N]]:
    """Register a class of nodes, which its `of` makes, for the random variables with this op."""

    def register(node: type[N]) -> type[N]:
        ENGINES.append(node)
        node_of.register(op, node.of)
        return node

    return register


def _value(part: Any) -> Any:
    if isinstance(part, np.ndarray):
        return part
    if isinstance(part, TensorConstant):
        return part.data
    if None not in part.type.shape:
        with suppress(NotScalarConstantError):  # one number throughout, as of a mean that is not given
            return np.full(part.type.shape, get_underlying_scalar_constant_value(part))
    return evaluated([], [part])()[0]


def observed_data(model: pm.Model, rv: Any) -> Any:
    """Return the data of a random variable, None where it has none."""
    if rv not in model.observed_RVs:
        return None
    value = model.rvs_to_values[rv]
    if isinstance(value, TensorConstant):
        data = value.data
    else:
        data = value.get_value() if isinstance(value, SharedVariable) else evaluated([], [value])()[0]
    return np.ma.filled(data, np.nan)  # pm.Data masks what is NaN
