"""The fixed effects are projected out once: QR of X, and QᵀKQ through its compact-WY form (Q is never formed)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp
from scipy.linalg import blas

from pm_fastlmm.base.arrays import (
    FloatArray,
    Ids,
    Labelled,
    align,
    frozen,
    labels_of,
    read,
    require_finite,
    require_length,
    require_range,
    shown,
)
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.directions import are_directions
from pm_fastlmm.base.remedies import selection
from pm_fastlmm.spectrum.columns import DesignColumns, read_columns, warn_unknown

type Cells = Callable[[npt.NDArray[np.bool_], Sequence[int]], str]


class Reflectors(NamedTuple):
    """Q₁ (n, r) and the compact-WY form V (n, r), T (r, r): what of a `Projection` has a row for each observation."""

    Q1: FloatArray
    V: FloatArray
    T: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Projection(ReadOnlyArrays):
    """
    QR of the fixed-effects design: X = Q₁R, with Q = [Q₁ Q₂] = I - V T Vᵀ orthogonal.

    Attributes
    ----------
    reflectors : Reflectors or None
        The factors with n rows; None when the rows of X were not kept (`KernelStatistics`).
    Q1 : (n, r) array
        Orthonormal basis of the columns of X.
    R : (r, r) array
        Upper triangular factor.
    X : (n, r) array
        The columns that are kept.
    V, T : (n, r) and (r, r) arrays
        Compact-WY form of the Householder reflectors (Schreiber & Van Loan 1989, doi:10.1137/0910005).
    columns : DesignColumns
        Which columns of X are kept, and what the others are made of.
    """

    sparse: ClassVar[bool] = False

    reflectors: Reflectors | None
    R: FloatArray
    columns: DesignColumns

    @classmethod
    def from_design(cls, X: FloatArray, names: tuple[str, ...] | None = None) -> Self:
        """
        Factor X (n, d); collinear columns are dropped with a warning that names them.

        Raises
        ------
        ValueError
            If X leaves no residual degrees of freedom.
        """
        n = len(X)
        columns = DesignColumns.of(X, names, n)
        r = len(columns.kept)
        V, T, R = _compact_wy(X[:, columns.kept]) if r else (np.zeros((n, 0)), np.zeros((0, 0)), np.zeros((0, 0)))
        Q1 = -V @ (T @ V[:r].T)
        Q1[np.arange(r), np.arange(r)] += 1.0
        return cls(Reflectors(frozen(Q1), frozen(V), frozen(T)), frozen(R), columns)

    @property
    def coef(self) -> tuple[str, ...]:
        """Names of the columns that are kept."""
        return self.columns.coef

    @property
    def Q1(self) -> FloatArray:
        """Orthonormal basis of the columns of X, (n, r)."""
        return self._rows.Q1

    @property
    def X(self) -> FloatArray:
        """The columns that are kept, Q₁R, (n, r)."""
        return np.asarray(self.Q1 @ self.R)

    @property
    def V(self) -> FloatArray:
        """Householder vectors, (n, r)."""
        return self._rows.V

    @property
    def T(self) -> FloatArray:
        """Triangular factor of the compact-WY form, (r, r)."""
        return self._rows.T

    @property
    def _rows(self) -> Reflectors:
        if self.reflectors is None:
            raise no_rows()
        return self.reflectors

    @property
    def rank(self) -> int:
        """Number of columns kept, r."""
        return int(self.R.shape[0])

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.V.shape[0])

    @property
    def basis(self) -> sp.csr_array:
        """Q₁, whose coordinates are those along X."""
        return sp.csr_array(self.Q1)

    @property
    def logdet_basis(self) -> float:
        """log|Q₁ᵀQ₁|."""
        return 0.0

    @property
    def logdet_R(self) -> float:
        """½ log|XᵀX|."""
        return float(np.log(np.abs(np.diag(self.R))).sum())

    def apart(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return Q₁ᵀy, the coordinates of y (n, …) along X, and what is orthogonal to X."""
        along = self.Q1.T @ y
        return along, y - self.Q1 @ along

    def along(self, d: FloatArray) -> FloatArray:
        """Return Q₁d, what has these coordinates."""
        return np.asarray(self.Q1 @ d)

    def times(self, beta: FloatArray) -> FloatArray:
        """Return Xβ of β (r,)."""
        return np.asarray(self.Q1 @ (self.R @ beta))

    def coordinates(self, beta: FloatArray) -> FloatArray:
        """Return Rβ, the coordinates of Xβ."""
        return np.asarray(self.R @ beta)

    def coefficients(self, d: FloatArray) -> FloatArray:
        """Return β of coordinates."""
        return np.linalg.solve(self.R, d)

    def covariance(self, inverse: FloatArray) -> FloatArray:
        """Return cov β̂ from that of the coordinates."""
        half = np.linalg.solve(self.R, inverse)
        return np.linalg.solve(self.R, half.T)

    def over(self, rows: FloatArray) -> FloatArray:
        """Return rows of X (m, r) over the coordinates, xᵀβ = rows · coordinates."""
        return np.linalg.solve(self.R.T, rows.T).T

    def orthonormal(self, rows: Any) -> FloatArray:
        """Return ZᵀQ₁ of Zᵀ (q, n)."""
        return np.asarray(rows @ self.Q1)

    def scaled(self, root: FloatArray) -> Self:
        """Return the projection of the rows of X times √w."""
        return type(self).from_design(self.X * root[:, None], self.coef).within(self.columns)

    def within(self, columns: DesignColumns) -> Self:
        """Return this projection of the columns that were kept of a wider X as one of all columns of that."""
        return replace(self, columns=self.columns.within(columns))

    def made_from(self, terms: Any) -> Self:
        """Return this projection with the formula that made the columns of X."""
        return replace(self, columns=replace(self.columns, terms=terms))

    def split(self, Y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return Q₁ᵀY (r, …) and the coordinates Q₂ᵀY (n - r, …)."""
        rotated = Y - self.V @ (self.T.T @ (self.V.T @ Y))
        return rotated[: self.rank], rotated[self.rank :]

    def lift(self, U: FloatArray) -> FloatArray:
        """Return Q₂U (n, …) for coordinates U (n - r, …)."""
        r, n = self.rank, self.V.shape[0]
        padded = np.zeros((n, *U.shape[1:]), order="F")  # the order of LAPACK's eigenvectors: a copy without a stride
        padded[r:] = U
        if not (r and U.size):
            return padded
        update = self.T @ (self.V[r:].T @ U)
        if U.ndim == 1:
            return np.asarray(padded - self.V @ update)
        return np.asarray(blas.dgemm(-1.0, self.V, update, beta=1.0, c=padded, overwrite_c=1))

    def new_rows(self, X_new: Any, m: int, *, cells: Cells | None = None, warn: bool = True) -> FloatArray:
        """
        Return the kept columns (m, r) of m new rows; NaN, with one warning, where the data do not determine x*ᵀβ.

        Parameters
        ----------
        X_new : Labelled, or what `read` takes; None where X has no columns
            All columns of X, those that were dropped as well.
        m : int
        cells : function, optional
            Of a mask of rows and the places of columns: what those rows are called in the warning. Without it they are
            called by their labels or numbers.
        warn : bool
            False where the same rows are read again.

        Raises
        ------
        ValueError
            If columns are missing, or all of them were 0 in the fit and are not in the new rows.
        """
        columns = self.columns
        if X_new is None and not columns.names:
            return np.zeros((m, 0))
        if X_new is None:
            raise ValueError(f"X_new is missing: the model has the fixed effects {', '.join(columns.names)}.")
        labelled = read(X_new, "X_new", ndim=(1, 2))
        X = read_columns(columns, labelled, m)
        out = X[:, columns.kept]
        departs = columns.departs(X, self.R)
        if departs.any() and not columns.kept:
            raise ValueError(
                f"all columns of X ({shown(columns.names)}) were 0 in the fit, and are not in "
                f"{int(departs.any(axis=1).sum())} of {m} new rows, of whose fixed effects the data say nothing: leave "
                "those rows out."
            )
        out[departs.any(axis=1)] = np.nan
        if warn and departs.any():
            labels = labelled.ids or range(m)

            def named(j: int) -> str:
                cell = "" if cells is None else cells(departs[:, j], columns.involved(j))
                return cell or f"rows {shown([labels[i] for i in np.flatnonzero(departs[:, j])])}"

            count = int(departs.any(axis=1).sum())
            warn_unknown(columns, np.flatnonzero(departs.any(axis=0)), count, m, named)
        return out

    def two_sided(self, K: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """
        Return K₁₁ = Q₁ᵀKQ₁, K₂₁ = Q₂ᵀKQ₁ and K₂₂ = Q₂ᵀKQ₂ (its lower triangle) at the cost of 4 n² r.

        QᵀKQ = K - ZVᵀ - VZᵀ with W = KVT, Z = W - ½V(TᵀVᵀW): one symmetric rank-2r update.
        """
        r, V = self.rank, self.V
        K22 = np.array(K.T[r:, r:], order="F")  # K is symmetric: its transpose copies without a stride
        if not r:
            return np.zeros((0, 0)), np.zeros((K.shape[0], 0)), K22
        W = (K @ V) @ self.T
        Z = W - 0.5 * V @ (self.T.T @ (V.T @ W))
        K22 = blas.dsyr2k(
            -1.0, np.asfortranarray(Z[r:]), np.asfortranarray(V[r:]), beta=1.0, c=K22, lower=1, overwrite_c=1
        )
        left = K[:, :r] - Z @ V[:r].T - V @ Z[:r].T
        corner = np.tril(left[:r])
        return corner + np.tril(corner, -1).T, left[r:], K22


def read_design(
    X: Any, n: int, ids: Ids | None, name: str, *, where_smaller: str = ""
) -> tuple[Ids | None, Projection]:
    """
    Return the ids of n rows, those of `name` or of X, and the projection of X, aligned by them; None has no columns.

    `where_smaller` is the advice where X has some of the ids only.
    """
    if X is None:
        return ids, Projection.from_design(np.zeros((n, 0)))
    design = read(X, "X", ndim=(1, 2))
    values = design.take(align(ids, design, name="X", reference_name=name, where_smaller=where_smaller))
    require_length(len(values), n, "X", name)
    values = values if values.ndim == 2 else values[:, None]
    require_finite(values, "X", "drop those rows everywhere (flmm.Design does, and counts them) or impute them.")
    for column, called in zip(values.T, design.names or [f"x{j}" for j in range(values.shape[1])], strict=True):
        require_range(column, f"column {called!r} of X")
    return ids or design.ids, Projection.from_design(values, design.names)


def kernel_design(kernel: Labelled, X: Any, name: str) -> tuple[Ids | None, Projection]:
    """Return the ids of the rows of K or W, and the projection of X in their order."""
    if isinstance(X, str):
        raise TypeError(
            f"X is the text {X!r}: a formula needs a table, flmm.Design.from_formula('y ~ ...', data, K=K)."
        )
    if are_directions(kernel.ids or labels_of(X)):
        raise ValueError(
            f"{name} or X is of TermStatistics, whose rows are fewer than the observations: they are for "
            "StructuredLMM. For one kernel take spectrum, rotated = c.factor() of KernelStatistics c."
        )
    return read_design(X, len(kernel.values), kernel.ids, name, where_smaller=selection(name, kernel.ids))


def no_rows() -> ValueError:
    """Return the error of what needs a row for each observation when the rows were not kept."""
    return ValueError(
        "the rows of X, W and y were not kept, only their statistics: nothing with one value for each observation "
        "is there. Stream the rows again and predict them block by block, fit.predict(X_block, W_new=W_block); the "
        "coefficients of W are fit.factor_effects(); another y needs KernelStatistics of its own."
    )


def _compact_wy(X: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    (reflectors, tau), R = scipy.linalg.qr(X, mode="raw", check_finite=False)
    r = X.shape[1]
    V = np.tril(reflectors, -1)
    V[np.arange(r), np.arange(r)] = 1.0
    T = np.zeros((r, r))
    gram = V.T @ V
    for i in range(r):
        T[i, i] = tau[i]
        T[:i, i] = -tau[i] * (T[:i, :i] @ gram[:i, i])
    return V, T, R[:r]
