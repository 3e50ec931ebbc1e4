"""SparseColumns: which of thousands of columns of X carry the coefficients, found by pivots of their inner products."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from pm_fastlmm.base.arrays import EPS, FloatArray, Labelled, frozen, require_finite, shown, slices
from pm_fastlmm.sparse.cholesky import dependent_columns, factorised
from pm_fastlmm.spectrum.columns import COLLINEAR_RTOL, DesignColumns, require_rows_left, warn_dropped

_PIVOT = 1e-12  # share of a column's square that other columns leave, below which it depends on them: squares have half
# of the digits, so that this is 1e-6 of its length
_ROUNDING = 1e3 * EPS
_NEGLIGIBLE = 1e-11  # of the largest weight of a combination, what rounding leaves of those that are 0
_BUDGET = 4_000_000  # numbers of right-hand sides at a time


@dataclass(frozen=True, slots=True, eq=False)
class SparseColumns(DesignColumns):
    """Columns of a sparse X; B is sparse too."""

    B: Any

    @classmethod
    def of_sparse(cls, X: sp.csc_array, names: tuple[str, ...] | None) -> Self:
        """
        Find the independent columns of a sparse X (n, d).

        Warns
        -----
        UserWarning
            If a column is dropped, with its name.

        Raises
        ------
        ValueError
            If X leaves no residual degrees of freedom, or a column is nearly a combination of others.
        """
        n, d = (int(size) for size in X.shape)
        names = tuple(f"x{j}" for j in range(d)) if names is None else names
        lengths = np.sqrt(np.asarray(X.multiply(X).sum(axis=0)).ravel())
        unit = sp.csc_array(X @ sp.diags_array(1 / np.where(lengths > 0, lengths, 1.0)))
        some = np.flatnonzero(lengths > 0)
        gram = sp.csc_array(unit[:, some].T @ unit[:, some])
        dependent = dependent_columns(gram, _PIVOT) if some.size else np.zeros(0, dtype=np.int64)
        left = np.union1d(np.flatnonzero(lengths == 0), some[dependent]).astype(np.int64)
        kept = np.setdiff1d(np.arange(d), left)
        require_rows_left(len(kept), n)
        B, residual = _combinations(unit[:, kept], unit[:, left])
        if (nearly := np.flatnonzero(residual > COLLINEAR_RTOL)).size:
            raise ValueError(
                f"columns {shown([names[left[j]] for j in nearly])} of X are combinations of others but for "
                f"{residual.max():.1e} of their length, less than the {np.sqrt(_PIVOT):.0e} that a sparse X can tell "
                "from 0: centre and scale these covariates, x - x.mean(), or leave them out."
            )
        warn_dropped(names, left.tolist(), len(kept))
        B = sp.csc_array(sp.diags_array(1 / lengths[kept]) @ B @ sp.diags_array(lengths[left]))
        size, size_left = lengths[kept] / np.sqrt(n), lengths[left] / np.sqrt(n)
        rounding = _ROUNDING * (abs(B).T @ size)
        tolerance = np.maximum.reduce([COLLINEAR_RTOL * size_left, residual * lengths[left], rounding])
        places = tuple(kept.tolist()), tuple(left.tolist())
        return cls(names, n, *places, B, frozen(size), frozen(tolerance))

    @property
    def E(self) -> Any:
        """All columns as combinations of those that are kept, X = X₁E, sparse (r, d)."""
        r = len(self.kept)
        blocks = sp.hstack([sp.eye_array(r), self.B], format="csc")
        return sp.csc_array(blocks[:, np.argsort([*self.kept, *self.left])])

    def within(self, outer: DesignColumns) -> Self:
        """Return the columns of `outer`, these being found among those that it keeps (in fewer rows)."""
        if not self.left:  # all that were kept are kept again
            own = {field.name: getattr(outer, field.name) for field in fields(outer)}
            return type(self)(**own | {"n": self.n, "size": self.size, "B": sp.csc_array(outer.B)})
        places, within = np.array(outer.kept), np.zeros(len(self.names))
        within[list(self.left)] = self.tolerance
        left = np.concatenate([places[list(self.left)], np.array(outer.left, dtype=int)])
        order = np.argsort(left)
        B = sp.hstack([self.B, self.E @ sp.csc_array(outer.B)], format="csc")[:, order]
        tolerance = np.concatenate([self.tolerance, outer.tolerance + abs(sp.csc_array(outer.B)).T @ within])[order]
        kept = tuple(places[list(self.kept)].tolist())
        parts = tuple(left[order].tolist()), sp.csc_array(B), self.size, frozen(tolerance)
        return type(self)(outer.names, self.n, kept, *parts, outer.terms)

    def _weights(self, j: int) -> FloatArray:
        return np.asarray(self.B[:, [j]].toarray()[:, 0])


def departing(
    columns: DesignColumns, X: sp.csr_array, leverage: Callable[[npt.NDArray[np.intp]], FloatArray]
) -> npt.NDArray[np.intp]:
    """
    Return (row, number of the dropped column), (k, 2), where that column of sparse rows X is not what kept ones make.

    As `DesignColumns.departs`; `leverage` of some rows is x₁ᵀ(X₁ᵀX₁)⁻¹x₁.
    """
    if not columns.left:
        return np.zeros((0, 2), dtype=np.intp)
    gap = sp.coo_array(X[:, list(columns.left)] - X[:, list(columns.kept)] @ sp.csc_array(columns.B))
    row, column, size = gap.row, gap.col, np.abs(gap.data)
    some = size > columns.tolerance[column]  # a row of usual size has this tolerance, larger ones more
    row, column, size = row[some], column[some], size[some]
    rows, own = np.unique(np.asarray(row, dtype=np.intp), return_inverse=True)
    limit = np.sqrt(1 + columns.n * leverage(rows))[own] * columns.tolerance[column]
    return np.stack([row, column], axis=1)[size > limit].astype(np.intp)


def in_order(columns: DesignColumns, X: Labelled, m: int) -> sp.csr_array:
    """
    Return all columns (m, d) of new rows in the order of the fit, by name where both have names, as a sparse matrix.

    Raises
    ------
    ValueError
        If some are not there, or a value is missing.
    """
    names, d = columns.names, len(columns.names)
    values = sp.csr_array(X.values if X.values.ndim == 2 else X.values[:, None])
    unnamed = names == tuple(f"x{j}" for j in range(d))
    if X.names is not None and X.names != names and not unnamed:
        place = {name: j for j, name in enumerate(X.names)}
        if absent := [name for name in names if name not in place]:
            raise ValueError(f"X_new has no column {shown(absent)}, and the fit has: give all {d} columns of X.")
        values = values[:, [place[name] for name in names]]
    if values.shape != (m, d):
        raise ValueError(
            f"X_new must be ({m}, {d}), one row for each new observation and the columns {shown(names)}; got shape "
            f"{values.shape}."
        )
    require_finite(values.data, "X_new", "fixed effects of new rows must be known.")
    return values


def _combinations(kept: sp.csc_array, left: sp.csc_array) -> tuple[sp.csc_array, FloatArray]:
    """Return B of left = kept B for columns of length 1, and the length of what is not."""
    r, c = kept.shape[1], left.shape[1]
    residual, some = np.zeros(c), np.flatnonzero(np.diff(left.indptr))  # columns of zeros are combinations of nothing
    if not some.size:
        return sp.csc_array((r, c)), residual
    transposed = sp.csr_array(kept.T)
    factor = factorised(sp.csc_array(transposed @ kept))
    parts = []
    for part in slices(len(some), max(1, _BUDGET // max(1, r))):
        own, B = left[:, some[part]], sp.csc_array((r, len(some[part])))
        rest = own
        for _ in range(2):  # the second is a step of refinement
            B = _without_rounding(B + factor.solve((transposed @ rest).toarray()))
            rest = sp.csc_array(own - kept @ B)
        parts.append(B)
        residual[some[part]] = np.sqrt(np.asarray(rest.multiply(rest).sum(axis=0)).ravel())
    B = sp.csc_array(sp.hstack(parts, format="csc"))
    indptr = np.zeros(c + 1, dtype=B.indptr.dtype)
    indptr[some + 1] = np.diff(B.indptr)
    return sp.csc_array((B.data, B.indices, np.cumsum(indptr)), shape=(r, c)), residual


def _without_rounding(B: Any) -> sp.csc_array:
    B = np.asarray(B)
    B[np.abs(B) <= _NEGLIGIBLE * np.abs(B).max(axis=0)] = 0.0
    return sp.csc_array(B)
