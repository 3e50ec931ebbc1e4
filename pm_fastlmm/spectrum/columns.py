"""
DesignColumns: which columns of X carry the coefficients, and what the others are made of.

The data determine x*ᵀβ exactly when x* is in the row space of X. With the independent columns X₁ and the dropped ones
X₂ = X₁B that space is {(v, vB)}, so that a new row is in it when its dropped columns are what B makes of the kept ones.
Then x*ᵀβ = x₁*ᵀβ₁, whatever generalised inverse is taken; in any other row it can be any number.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.linalg

from pm_fastlmm.base.arrays import EPS, FloatArray, Labelled, columns_in_order, frozen, outside, require_finite, shown
from pm_fastlmm.base.copies import ReadOnlyArrays

# A column that keeps less than this share of its length once the columns before it are projected out is collinear:
# its coefficient would carry a relative error of eps / 1e-10 = 2e-6.
COLLINEAR_RTOL = 1e-10
_ROUNDING = 1e3 * EPS
_SHOWN = 3


@dataclass(frozen=True, slots=True, eq=False)
class DesignColumns(ReadOnlyArrays):
    """
    The columns of X: X₂ = X₁B with those that are kept and those that are dropped.

    Attributes
    ----------
    names : tuple of str
        Of all columns.
    n : int
        Number of rows.
    kept, left : tuple of int
        Places of the r columns that are kept, and of the c that are linear combinations of the ones before them.
    B : (r, c) array
    size : (r,) array
        Root mean square of the columns that are kept.
    tolerance : (c,) array
        How far a dropped column may be from X₁B in a row of usual size.
    terms : FixedTerms or None
        The formula that all columns were made from, and its table.
    """

    names: tuple[str, ...]
    n: int
    kept: tuple[int, ...]
    left: tuple[int, ...]
    B: FloatArray
    size: FloatArray
    tolerance: FloatArray
    terms: Any = None

    @classmethod
    def of(cls, X: FloatArray, names: tuple[str, ...] | None, n: int) -> Self:
        """
        Find the independent columns of X, which has n rows or is any matrix with the same inner products.

        Warns
        -----
        UserWarning
            If a column is dropped, with its name.

        Raises
        ------
        ValueError
            If X leaves no residual degrees of freedom.
        """
        d = X.shape[1]
        names = tuple(f"x{j}" for j in range(d)) if names is None else names
        kept = _independent_columns(X)
        left = [j for j in range(d) if j not in set(kept)]
        warn_dropped(names, left, len(kept))
        require_rows_left(len(kept), n)
        B, residual = _combinations(X[:, kept], X[:, left])
        size, size_left = (np.linalg.norm(X[:, c], axis=0) / np.sqrt(n) for c in (kept, left))
        # not below the collinearity that was allowed, what the rows of the fit showed, and the rounding of x₁ᵀB
        tolerance = np.maximum.reduce([COLLINEAR_RTOL * size_left, residual, _ROUNDING * (size @ np.abs(B))])
        return cls(names, n, tuple(kept), tuple(left), frozen(B), frozen(size), frozen(tolerance))

    @property
    def coef(self) -> tuple[str, ...]:
        """Names of the columns that are kept."""
        return tuple(self.names[j] for j in self.kept)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the columns that are linear combinations of the ones before them."""
        return tuple(self.names[j] for j in self.left)

    @property
    def E(self) -> FloatArray:
        """All columns as combinations of those that are kept, X = X₁E, (r, d)."""
        E = np.zeros((len(self.kept), len(self.names)))
        E[:, self.kept], E[:, self.left] = np.eye(len(self.kept)), self.B
        return E

    def within(self, outer: "DesignColumns") -> "DesignColumns":
        """Return the columns of `outer`, these being found among those that it keeps (in fewer rows)."""
        slack = np.zeros(len(self.names))
        slack[list(self.left)] = self.tolerance
        places = np.array(outer.kept, dtype=int)
        left = (*places[list(self.left)].tolist(), *outer.left)
        order = np.argsort(left, kind="stable")
        B = np.hstack([self.B, self.E @ outer.B])[:, order]
        tolerance = np.concatenate([self.tolerance, outer.tolerance + slack @ np.abs(outer.B)])[order]
        kept = tuple(places[list(self.kept)].tolist())
        parts = frozen(B), self.size, frozen(tolerance)
        return DesignColumns(outer.names, self.n, kept, tuple(sorted(left)), *parts, outer.terms)

    def of_traits(self, traits: tuple[str, ...]) -> "DesignColumns":
        """Return the columns of I ⊗ X, those of one trait after another, called "milk: age" if there are several."""
        t, d = len(traits), len(self.names)
        names = tuple(f"{trait}: {name}" for trait in traits for name in self.names) if t > 1 else self.names
        kept, left = (tuple(a * d + j for a in range(t) for j in places) for places in (self.kept, self.left))
        B = frozen(np.kron(np.eye(t), self.B))
        return DesignColumns(names, self.n, kept, left, B, np.tile(self.size, t), np.tile(self.tolerance, t))

    def departs(self, X: FloatArray, R: FloatArray, *, usual: float = 1.0) -> npt.NDArray[np.bool_]:
        """
        Return (m, c), whether a dropped column of rows X (m, d) is not what the kept ones make of it.

        R is the triangular factor of the kept columns in the rows of the fit. √(n x₁ᵀ(X₁ᵀX₁)⁻¹x₁) is how many times a
        new row is as large as those, so that no unit, offset or extrapolation counts. A smaller row has the tolerance
        of a usual one, in which that was measured; contrasts have no usual size, 0.
        """
        kept, left = X[:, self.kept], X[:, self.left]
        leverage = (np.linalg.solve(R.T, kept.T) ** 2).sum(axis=0) if len(R) else np.zeros(len(X))
        return np.asarray(np.abs(left - kept @ self.B) > np.sqrt(usual + self.n * leverage)[:, None] * self.tolerance)

    def involved(self, j: int) -> list[int]:
        """Return the places of the dropped column with number j and of the columns that it is made of."""
        return [*(self.kept[k] for k in self._made_of(j)), self.left[j]]

    def _made_of(self, j: int) -> npt.NDArray[np.intp]:
        share = np.abs(self._weights(j)) * self.size
        return np.flatnonzero(share > COLLINEAR_RTOL * share.max(initial=0.0))

    def _weights(self, j: int) -> FloatArray:
        return np.asarray(self.B[:, j])

    def relation(self, j: int) -> str:
        """Return what the dropped column with number j is in the rows of the fit, as text."""
        weights, used = self._weights(j), self._made_of(j)
        if not used.size:
            return f"{self.dropped[j]!r} is 0"
        if used.size > _SHOWN:
            return f"{self.dropped[j]!r} is a combination of {shown([self.coef[k] for k in used])}"
        terms = " ".join(f"{'-' if weights[k] < 0 else '+'} {_times(weights[k])}{self.coef[k]!r}" for k in used)
        return f"{self.dropped[j]!r} is {terms.removeprefix('+ ')}"


def warn_dropped(names: tuple[str, ...], left: list[int], rank: int) -> None:
    """Warn of columns that are linear combinations of others, by name."""
    if left:
        warnings.warn(
            f"X has rank {rank} but {len(names)} columns: {shown([names[j] for j in left])} dropped, being a linear "
            "combination of the columns before. Predictions do not change where the columns of a new row are so "
            "related as well; any other row, such as one of a cell without data, will be predicted as NaN.",
            UserWarning,
            stacklevel=outside(),
        )


def require_rows_left(rank: int, n: int) -> None:
    """Raise a ValueError if X leaves no residual degrees of freedom."""
    if rank >= n:
        raise ValueError(
            f"X has rank {rank} for {n} observations: nothing is left to estimate variances from. "
            "Use fewer columns or more observations."
        )


def _times(weight: float) -> str:
    return "" if abs(abs(weight) - 1) < COLLINEAR_RTOL else f"{abs(weight):.4g}·"


def _combinations(kept: FloatArray, left: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return B of left = kept B, and the length of what is not."""
    if not kept.shape[1] or not left.shape[1]:
        return np.zeros((kept.shape[1], left.shape[1])), np.linalg.norm(left, axis=0)
    scale = np.linalg.norm(kept, axis=0)
    Q, R = scipy.linalg.qr(kept / scale, mode="economic", check_finite=False)
    B = scipy.linalg.solve_triangular(R, Q.T @ left) / scale[:, None]
    return B, np.linalg.norm(left - kept @ B, axis=0)


def read_columns(columns: DesignColumns, X: Labelled, m: int) -> FloatArray:
    """
    Return all columns (m, d) of new rows in the order of the fit, by name where both have names.

    Raises
    ------
    ValueError
        If some are not there, or a value is missing.
    """
    names, d = columns.names, len(columns.names)
    unnamed = names == tuple(f"x{j}" for j in range(d)) and not set(names) & set(X.names or ())
    values = columns_in_order(X, None if unnamed else names, name="X_new")
    if values.shape != (m, d):
        why = (
            f" The dropped {shown(columns.dropped)} belong to them: without these nobody knows whether the data "
            "determine a new row."
        )
        raise ValueError(
            f"X_new must be ({m}, {d}), one row for each new observation and the columns {', '.join(names) or 'none'}; "
            f"got shape {values.shape}.{why if columns.left else ''}"
        )
    require_finite(values, "X_new", "fixed effects of new rows must be known.")
    return values


def warn_unknown(
    columns: DesignColumns,
    broken: Any,
    count: int,
    m: int,
    named: Callable[[int], str],
) -> None:
    """Warn, once, of `count` of m new rows that the data do not determine, `named` by a dropped column's number."""
    reasons = [f"{named(j)} ({columns.relation(j)} in all rows of the fit, but not there)" for j in broken[:_SHOWN]]
    more = f", and {len(broken) - _SHOWN} more such relations" if len(broken) > _SHOWN else ""
    warnings.warn(
        f"the data do not determine the fixed effects of {count} of {m} new rows, which are predicted as "
        f"NaN: {'; '.join(reasons)}{more}. Leave them out, or fit a model without those columns.",
        UserWarning,
        stacklevel=outside(),
    )


def _independent_columns(X: FloatArray) -> list[int]:
    """Return the columns that are not linear combinations of the columns before them, as R's lm keeps them."""
    norms = np.linalg.norm(X, axis=0)
    if not norms.size or (norms > 0).all():
        scaled = X / norms
        pivots: Any = scipy.linalg.qr(scaled, mode="r", pivoting=True, check_finite=False)[0]
        diagonal = np.abs(np.diag(pivots))
        if diagonal.size == X.shape[1] and (diagonal > np.sqrt(COLLINEAR_RTOL)).all():
            return list(range(X.shape[1]))
    basis = np.zeros((X.shape[0], 0))
    kept: list[int] = []
    for j, norm in enumerate(norms):
        if norm == 0 or len(kept) == X.shape[0]:
            continue
        column = X[:, j] / norm
        for _ in range(2):  # twice is enough (Kahan)
            column = column - basis @ (basis.T @ column)
        left = np.linalg.norm(column)
        if left > COLLINEAR_RTOL:
            kept.append(j)
            basis = np.column_stack([basis, column / left])
    return kept
