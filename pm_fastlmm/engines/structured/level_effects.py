"""The effects of one term at θ, by level: those of the data, and relatives without data that a labelled K has."""

from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.tables import Table
from pm_fastlmm.covariance.algebra import Relatives
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.engines.term_products import TermState
from pm_fastlmm.kernel.effects.table import effect_table


class LevelEffects(NamedTuple):
    """
    u of the levels of a term and, below, of relatives that have no data: u_o = Aũ + ε, ε independent of the data.

    With ũ the independent coordinates of the effects, u = Rũ, and ṽ = E(ũ | y), û_o = Aṽ and Var(û_o - u_o) is
    A Var(ṽ - ũ)Aᵀ + Var(ε). That is σ²K_oaZᵀV⁻¹(y - Xβ̂) with its error, what they would have as levels of the term,
    and the likelihood has the cost of the others alone.

    Attributes
    ----------
    state : TermState
    k : int
        Place of the term.
    term : Term
    relatives : Relatives or None
    """

    state: TermState
    k: int
    term: Term
    relatives: Relatives | None

    @classmethod
    def of(cls, state: TermState, k: int, term: Term) -> Self:
        """Return those of a term."""
        return cls(state, k, term, term.between.relatives())

    @property
    def levels(self) -> tuple[Any, ...]:
        """The levels, those with data first."""
        return self.term.levels if self.relatives is None else (*self.term.levels, *self.relatives.labels)

    def blup(self) -> FloatArray:
        """Return û, (levels, width)."""
        own = self.state.effects()[self.k]
        if self.relatives is None:
            return own
        return np.vstack([own, self.relatives.root @ (self.state.gradient.effects[self.k] @ self.state.sigma[self.k])])

    def errors(self, *, beta_known: bool = False) -> FloatArray:
        """Return Var(û - u), (levels, width); with β known Var(u | y, β)."""
        own = self.state.prediction_error(self.k, beta_known=beta_known)
        if self.relatives is None:
            return own
        root = np.kron(self.relatives.root, np.eye(self.term.width)).astype(np.float64, copy=False)
        return np.vstack([own, self.state.prediction_error(self.k, root, beta_known=beta_known) + self._unseen()])

    def _unseen(self) -> FloatArray:
        """Return Var(ε), (relatives, width)."""
        assert self.relatives is not None
        return np.outer(self.relatives.variance, np.diag(self.state.sigma[self.k]))

    def prior(self) -> FloatArray:
        """Return Var(u), (levels, width)."""
        sigma = self.state.sigma[self.k]
        own = self.term.blocks.variances(sigma).reshape(-1, self.term.width)
        if self.relatives is None:
            return own
        seen = np.outer((self.relatives.root**2).sum(axis=1), np.diag(sigma))
        return np.vstack([own, seen + self._unseen()])

    def records(self) -> FloatArray:
        """Return how many rows each level has."""
        count = np.diff(self.term.Z.tocsc().indptr).reshape(-1, self.term.width).max(axis=1)
        return np.append(count, np.zeros(len(self.levels) - len(count), dtype=count.dtype))

    def labelled(self, values: FloatArray, name: str) -> Any:
        """Return values (levels, width) as a Series by level, as a DataFrame for a term with columns."""
        index = pd.Index(self.levels, tupleize_cols=False)
        if self.term.width == 1:
            return pd.Series(values.ravel(), index=index, name=name)
        return pd.DataFrame(values.reshape(len(index), -1), index=index, columns=list(self.term.columns))

    def table(self, level: float) -> Table:
        """Return blup, se, interval, reliability and accuracy, and of a labelled K the number of records."""
        index: pd.Index = pd.Index(self.levels, tupleize_cols=False)
        if self.term.width > 1:
            index = pd.MultiIndex.from_product([self.levels, self.term.columns], names=["level", "column"])
        records = np.repeat(self.records(), self.term.width) if self.term.between.named else None
        return effect_table(
            self.blup().ravel(), self.errors().ravel(), self.prior().ravel(), index, level, records=records
        )
