"""Fixed effects of thousands of columns, mostly 0, projected out by a sparse factor of XᵀX: X is never dense."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from pm_fastlmm.base.arrays import (
    EPS,
    FloatArray,
    Ids,
    Labelled,
    align,
    labels_of,
    read,
    require_finite,
    require_length,
    require_range,
    shown,
    slices,
)
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.sparse.cholesky import Factor, factorised
from pm_fastlmm.spectrum.columns import DesignColumns, warn_unknown
from pm_fastlmm.spectrum.projection import Cells, Projection, read_design
from pm_fastlmm.spectrum.sparse_columns import SparseColumns, departing, in_order

LARGEST = 20_000_000  # numbers of an X up to which it is dense, whatever it has of zeros
_ZEROS = 0.25  # share of entries that are not 0 below which a dense X is worth a sparse factor
_BUDGET = 4_000_000  # numbers of right-hand sides at a time

type AnyProjection = Projection | SparseProjection


@dataclass(frozen=True, eq=False)
class SparseProjection(ReadOnlyArrays):
    """
    A sparse fixed-effects design, with what `Projection` has besides the factors Q and R.

    Coordinates along X are those of its columns at length 1, X = BD, BᵀB factored; of a `Projection` they are Q₁ᵀy.

    Attributes
    ----------
    X : sparse (n, r) array
        The columns that are kept.
    columns : DesignColumns
        Which columns of X are kept, and what the others are made of.
    """

    sparse: ClassVar[bool] = True

    X: sp.csr_array
    columns: DesignColumns

    @classmethod
    def from_design(cls, X: Any, names: tuple[str, ...] | None = None) -> Self:
        """
        Factor a sparse X (n, d); collinear columns are dropped with a warning that names them.

        Raises
        ------
        ValueError
            If X leaves no residual degrees of freedom, or a column is nearly a combination of others.
        """
        X = sp.csc_array(X, dtype=np.float64)
        columns = SparseColumns.of_sparse(X, names)
        return cls(sp.csr_array(X[:, list(columns.kept)] if columns.left else X), columns)

    @classmethod
    def worthwhile(cls, projection: AnyProjection) -> AnyProjection:
        """Return a projection of the same columns whose coordinates are sparse, if most entries of X are 0."""
        if isinstance(projection, SparseProjection) or not projection.rank:
            return projection
        X = projection.X
        X[np.abs(X) <= 100 * projection.rank * EPS * np.abs(X).max(axis=0)] = 0.0  # Q₁R is X but for rounding
        return projection if np.count_nonzero(X) > _ZEROS * X.size else cls(sp.csr_array(X), projection.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, r)."""
        return self.n, self.rank

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.X.shape[0])

    @property
    def rank(self) -> int:
        """Number of columns kept, r."""
        return int(self.X.shape[1])

    @property
    def coef(self) -> tuple[str, ...]:
        """Names of the columns that are kept."""
        return self.columns.coef

    @cached_property
    def _lengths(self) -> FloatArray:
        return np.sqrt(np.bincount(self.X.indices, self.X.data**2, minlength=self.rank))

    @cached_property
    def basis(self) -> sp.csr_array:
        """B, the columns of X at length 1, (n, r)."""
        basis: sp.csr_array = self.over(self.X)
        return basis

    @cached_property
    def _Bt(self) -> sp.csr_array:
        return sp.csr_array(self.basis.T)

    @cached_property
    def _factor(self) -> Factor:
        """BᵀB factored."""
        return factorised(sp.csc_array(self._Bt @ self.basis))

    @property
    def logdet_basis(self) -> float:
        """log|BᵀB|."""
        return self._factor.logdet

    @property
    def logdet_R(self) -> float:
        """½ log|XᵀX|."""
        return 0.5 * self.logdet_basis + float(np.log(self._lengths).sum())

    def apart(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the coordinates of y (n, …) along X, and what is orthogonal to X."""
        along = np.zeros((self.rank, *y.shape[1:]))
        rest = y
        for _ in range(2):  # the second is a step of refinement
            along = along + self._factor.solve(self._Bt @ rest)
            rest = y - self.basis @ along
        return along, rest

    def along(self, d: FloatArray) -> FloatArray:
        """Return Bd, what has these coordinates."""
        return np.asarray(self.basis @ d)

    def times(self, beta: FloatArray) -> FloatArray:
        """Return Xβ of β (r,)."""
        return np.asarray(self.X @ beta)

    def transposed(self, v: FloatArray) -> FloatArray:
        """Return Xᵀv of v (n, …)."""
        return np.asarray(self.X.T @ v)

    def coordinates(self, beta: FloatArray) -> FloatArray:
        """Return the coordinates of Xβ."""
        return self._lengths * beta

    def coefficients(self, d: FloatArray) -> FloatArray:
        """Return β of coordinates."""
        return d / self._lengths

    def covariance(self, inverse: Any) -> Any:
        """Return cov β̂ from that of the coordinates, an array or its known entries."""
        if not sp.issparse(inverse):
            return inverse / np.outer(self._lengths, self._lengths)
        D: Any = sp.diags_array(1 / self._lengths)
        return sp.csr_array(D @ inverse @ D)

    def over(self, rows: Any) -> Any:
        """Return rows of X (m, r) over the coordinates, xᵀβ = rows · coordinates."""
        return sp.csr_array(sp.csr_array(rows) @ sp.diags_array(1 / self._lengths))

    def orthonormal(self, rows: Any) -> FloatArray | None:
        """Return ZᵀQ (q, r) for sparse Zᵀ and orthonormal columns Q; None where it would take too much memory."""
        if rows.shape[0] * self.rank > _BUDGET:
            return None
        return self._factor.half((self._Bt @ rows.T).toarray()).T

    def shares(self, groups: Sequence[npt.NDArray[np.intp]] | None) -> FloatArray:
        """Return how much of an observation, or of a direction of a group's at most, lies along X: ‖Q₁ᵀv‖²."""
        if groups is not None:
            halves = (self._factor.half(self.basis[rows].toarray().T) for rows in groups)
            return np.array([np.linalg.norm(half, 2) ** 2 if half.size else 0.0 for half in halves])
        return self._leverage(self.basis)

    def _leverage(self, rows: Any) -> FloatArray:
        out = np.empty(rows.shape[0])
        for some in slices(len(out), max(1, _BUDGET // max(1, self.rank))):
            out[some] = (self._factor.half(rows[some].toarray().T) ** 2).sum(axis=0)
        return out

    def within(self, columns: DesignColumns) -> Self:
        """Return this projection of the columns that were kept of a wider X as one of all columns of that."""
        return replace(self, columns=self.columns.within(columns))

    def made_from(self, terms: Any) -> Self:
        """Return this projection with the formula that made the columns of X."""
        return replace(self, columns=replace(self.columns, terms=terms))

    def scaled(self, root: FloatArray) -> Self:
        """Return the projection of the rows of X times √w."""
        return type(self).from_design(sp.diags_array(root) @ self.X, self.coef).within(self.columns)

    def new_rows(self, X_new: Any, m: int, *, cells: Cells | None = None, warn: bool = True) -> sp.csr_array:
        """Return the kept columns of m new rows as `Projection.new_rows`, a row that is not determined holding NaN."""
        columns = self.columns
        if X_new is None:
            raise ValueError(f"X_new is missing: the model has the fixed effects {shown(columns.names)}.")
        labelled = read_large(X_new, "X_new")
        X = in_order(columns, labelled, m)
        out = sp.csr_array(X[:, list(columns.kept)])
        gaps = departing(columns, X, lambda rows: self._leverage(self.over(out[rows])))
        if not len(gaps):
            return out
        rows = np.unique(gaps[:, 0])
        if warn:
            labels = labelled.ids or range(m)

            def named(j: int) -> str:
                own = np.isin(np.arange(m), gaps[gaps[:, 1] == j, 0])
                cell = "" if cells is None else cells(own, columns.involved(j))
                return cell or f"rows {shown([labels[i] for i in np.flatnonzero(own)])}"

            warn_unknown(columns, np.unique(gaps[:, 1]), len(rows), m, named)
        unknown = sp.csr_array((np.full(len(rows), np.nan), (rows, np.zeros_like(rows))), shape=out.shape)
        return sp.csr_array(out + unknown)

    def _refuse(self, what: str) -> ValueError:
        return not_formed(self.n, self.rank, what)

    @property
    def Q1(self) -> FloatArray:
        """An orthonormal basis is not formed."""
        raise self._refuse("an orthonormal basis of its columns")

    @property
    def R(self) -> FloatArray:
        """The triangular factor is not formed."""
        raise self._refuse("its triangular factor")

    @property
    def V(self) -> FloatArray:
        """Reflectors are not formed."""
        raise self._refuse("its reflectors")

    @property
    def T(self) -> FloatArray:
        """Reflectors are not formed."""
        raise self._refuse("its reflectors")


def projection_of(X: Any, names: tuple[str, ...] | None = None) -> AnyProjection:
    """Return the projection of a design as it is, dense or sparse."""
    return (SparseProjection if sp.issparse(X) else Projection).from_design(X, names)


def not_formed(n: int, r: int, what: str) -> ValueError:
    """Return the error of what needs more of a large X, or of the covariance of β̂, than its sparse factor gives."""
    return ValueError(
        f"X, {n} × {r}, is kept sparse, and this needs {what}, {r} × {r} numbers or more that are not formed. "
        "fit.coefficients() has estimates, standard errors and t tests; for contrasts and F tests let a factor of so "
        "many levels be a random term, (1 | factor), or give an X of fewer columns."
    )


def read_large(X: Any, name: str) -> Labelled:
    """Read a matrix as `read` does, but one that is large and sparse, of SciPy or of pandas, stays so."""
    if isinstance(X, Labelled):
        return X
    columns = None if sp.issparse(X) else getattr(X, "sparse", None)  # of a DataFrame whose columns are all sparse
    if columns is None and not sp.issparse(X):
        return read(X, name, ndim=(1, 2))
    if X.shape[0] * X.shape[1] <= LARGEST:
        return read(X, name, ndim=(1, 2))
    values: Any = sp.csr_array(X if columns is None else columns.to_coo())
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got {values.dtype}: convert it, X.astype(float).")
    names = None if columns is None else tuple(map(str, X.columns))
    return Labelled(values.astype(np.float64), None if columns is None else labels_of(X), names)


def read_fixed_effects(X: Any, n: int, ids: Ids | None, name: str) -> tuple[Ids | None, AnyProjection]:
    """Return what `read_design` does, of an X that may be large and sparse."""
    design = None if X is None else read_large(X, "X")
    if design is None or not sp.issparse(design.values):
        return read_design(design, n, ids, name)
    require_length(design.values.shape[0], n, "X", name)
    values: Any = design.take(align(ids, design, name="X", reference_name=name))
    require_finite(values.data, "X", "drop those rows everywhere or impute them.")
    require_range(values.data, "X")
    return ids or design.ids, SparseProjection.from_design(values, design.names)
