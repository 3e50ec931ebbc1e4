"""Fixed effects of so many levels that X is kept sparse: when that is so, and X as formulaic encodes it then."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from formulaic import model_matrix

from pm_fastlmm.models.formulas.names import calls_in, columns_in, names_of_factor
from pm_fastlmm.models.formulas.sparse_encoding import MATERIALIZER
from pm_fastlmm.spectrum import sparse_projection
from pm_fastlmm.spectrum.sparse_projection import not_formed

_FACTORS = {"C", "factor", "as.factor", "ordered", "relevel", "interaction", "as.character"}


def is_large(terms: Iterable[Any], data: pd.DataFrame) -> bool:
    """Return whether the levels of the factors of some terms make an X that is kept sparse."""
    n = len(data)
    if n * n <= sparse_projection.LARGEST:  # more columns than rows would be combinations of others
        return False
    return n * sum(math.prod(_levels(factor, data) for factor in term.factors) for term in terms) > (
        sparse_projection.LARGEST
    )


def _levels(factor: Any, data: pd.DataFrame) -> int:
    """Return how many levels a factor has, 1 for a number."""
    called = {name for name, _ in calls_in(factor.expr)}
    columns = [name for name in columns_in(names_of_factor(factor)) if name in data]
    if called & _FACTORS or (not called and columns and not pd.api.types.is_numeric_dtype(data[columns[0]])):
        return math.prod(data[name].nunique() for name in columns)
    return 1


@dataclass(frozen=True, slots=True, eq=False)
class SparseMatrix:
    """
    Encoded rows, by what is asked of formulaic's tables.

    Attributes
    ----------
    values : sparse (m, d) array
    index : (m,) array of int
        Places in the table, without rows in which a transform is not defined.
    model_spec : formulaic.ModelSpec
    """

    values: sp.csr_array
    index: npt.NDArray[np.intp]
    model_spec: Any

    @classmethod
    def of(cls, formula: Any, table: pd.DataFrame, context: Mapping[str, Any], dropped: set[int] | None = None) -> Self:
        """Encode the right-hand side of a formula without the rows `dropped`, or new rows by a specification."""
        out = set() if dropped is None else dropped
        first = {"na_action": "drop", "output": "sparse", "materializer": MATERIALIZER}
        options = {} if hasattr(formula, "encoder_state") else first
        made = model_matrix(formula, table, context=context, drop_rows=out, **options)
        values = sp.csr_array(made.__wrapped__, dtype=np.float64)
        return cls(values, np.delete(np.arange(len(table), dtype=np.intp), sorted(out)), made.model_spec)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(map(str, self.model_spec.column_names))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.index)

    def placed(self, complete: npt.NDArray[np.bool_]) -> sp.csr_array:
        """Return the rows in their places among all, of which some are complete; NaN is in the others."""
        rows = np.flatnonzero(complete)[self.index]
        counts = np.zeros(len(complete) + 1, dtype=np.int64)
        counts[rows + 1] = np.diff(self.values.indptr)
        parts = self.values.data, self.values.indices, np.cumsum(counts)
        placed = sp.csr_array(parts, shape=(len(complete), self.values.shape[1]))
        others = np.delete(np.arange(len(complete)), rows)
        if not len(others):
            return placed
        gaps = np.full(len(others), np.nan), (others, np.zeros(len(others), dtype=np.int64))
        return sp.csr_array(placed + sp.csr_array(gaps, shape=placed.shape))


def rows_where(condition: Any, X: Any) -> npt.NDArray[np.bool_]:
    """Return the rows of X, dense or sparse, that have a number of which a condition holds, as it does not of 0."""
    if isinstance(X, np.ndarray):
        return np.asarray(condition(X).any(axis=1))
    bad = condition(X.data)
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    return np.bincount(rows[bad], minlength=X.shape[0]) > 0 if bad.any() else np.zeros(X.shape[0], dtype=np.bool_)


def require_dense(spec: Any, n: int) -> None:
    """Raise a ValueError where the columns of a specification are kept sparse."""
    if spec.output == "sparse":
        raise not_formed(n, len(spec.column_names), "hypotheses of all its columns")
