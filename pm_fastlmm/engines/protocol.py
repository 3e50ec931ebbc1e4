"""What an engine owes: a node of a model answers every verb (fit, sample, recover, predict, leave out) itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import pymc as pm
from pymc.pytensorf import constant_fold
from pytensor.compile.sharedvalue import SharedVariable

from pm_fastlmm._arrays import Ids
from pm_fastlmm._copies import PartOfModel
from pm_fastlmm._display import Described, listed
from pm_fastlmm.distribution.random_variable import Treatment
from pm_fastlmm.linalg.projection import Projection


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
    projection : Projection
        QR of X.
    ids : tuple or None
    """

    called: ClassVar[str]  # the distribution, as users write it

    name: str
    rv: Any
    treatment: Treatment
    mu: Any
    beta_mean: Any
    observed: Any
    projection: Projection
    ids: Ids | None

    @property
    def n(self) -> int:
        """Number of observations."""
        return int(self.projection.V.shape[0])

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

    @classmethod
    @abstractmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node of a random variable with this op."""


N = TypeVar("N", bound=LMMNode)


@singledispatch
def node_of(op: Any, model: pm.Model, rv: Any) -> LMMNode | None:
    """Return the node of a random variable, by the type of its op; None where no engine answers for it."""
    return None


ENGINES: list[type[LMMNode]] = []


def answers_for(*ops: type) -> Callable[[type[N]], type[N]]:
    """Register a class of nodes, which its `of` makes, for the random variables with these ops."""

    def register(node: type[N]) -> type[N]:
        ENGINES.append(node)
        for op in ops:
            node_of.register(op, node.of)
        return node

    return register


def observed_data(model: pm.Model, rv: Any) -> Any:
    """Return the data of a random variable, None where it has none."""
    if rv not in model.observed_RVs:
        return None
    value = model.rvs_to_values[rv]
    data = value.get_value() if isinstance(value, SharedVariable) else constant_fold([value])[0]
    return np.ma.filled(data, np.nan)  # pm.Data masks what is NaN
