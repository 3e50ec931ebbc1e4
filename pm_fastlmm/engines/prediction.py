"""What is asked of a node's predictions, and what it answers."""

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, Ids, read
from pm_fastlmm.spectrum.sparse_projection import AnyProjection

type Effects = Literal["given", "new", "left_out", "population"]


@dataclass(frozen=True, slots=True, eq=False)
class NewRows:
    """What a user gave of new rows, by the arguments of `predict`; a node says in `takes` which it understands."""

    X_new: Any = None
    K_new: Any = None
    W_new: Any = None
    K_new_new: Any = None
    Z_new: Any = None
    data: Any = None
    x_new: Any = None

    @property
    def given(self) -> tuple[str, ...]:
        """Names of what was given."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    @property
    def in_sample(self) -> bool:
        """Whether there are none, so that the rows of the data are predicted; K_new_new alone makes none."""
        return not set(self.given) - {"K_new_new"}


class Design(NamedTuple):
    """New rows without random effects: the kept columns of X (m, r), and ids."""

    X: FloatArray
    ids: Ids | None

    @classmethod
    def read(cls, projection: AnyProjection, X_new: Any) -> Self:
        """Read the columns of X of new rows."""
        rows = read(X_new, "X_new", ndim=(1, 2))
        return cls(np.asarray(projection.new_rows(rows, len(rows.values))), rows.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Predictive:
    """
    Predictive draws, one for each posterior draw.

    Attributes
    ----------
    f, y : (chain, draw, …, m) arrays
        The mean, and observations.
    ids : tuple or None
        Of new rows.
    eta : (chain, draw, …, m) array, optional
        Where the mean is not linear in the effects, what is: the linear predictor.
    probabilities : (chain, draw, …, m, categories) array, optional
        Of ordered categories.
    """

    f: FloatArray
    y: FloatArray
    ids: Ids | None = None
    eta: FloatArray | None = None
    probabilities: FloatArray | None = None

    @classmethod
    def of(
        cls, f: FloatArray, sigma2_e: FloatArray, rng: np.random.Generator, ids: Ids | None = None, weights: Any = 1.0
    ) -> Self:
        """Draw y = f + e, Var(e_i) = σ²_e/w_i."""
        return cls(f, f + np.sqrt(sigma2_e[..., None] / weights) * rng.standard_normal(f.shape), ids)
