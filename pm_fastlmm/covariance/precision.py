"""A known covariance of labelled effects by its sparse inverse, which a million of them allow."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csc_array, issparse

from pm_fastlmm.base.arrays import FloatArray, frozen, shown
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.base.memory import require_memory
from pm_fastlmm.base.spelling import places, spelling_hint
from pm_fastlmm.covariance.distinct import Keys, keys_of, objects, read_column
from pm_fastlmm.covariance.ids import Labels, read_index
from pm_fastlmm.covariance.scaled import Scale, require_dense, scaled
from pm_fastlmm.sparse.cholesky import Analysis, Factor, NotPositiveDefinite
from pm_fastlmm.sparse.genealogy import Genealogy, IntArray, SparseMatrix

_SYMMETRIC = 1e-10  # relative to the largest entry
_AGREES = 1e-6


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Precision(ReadOnlyArrays, Described):
    """
    A known covariance A of labelled effects, u ~ N(0, σ²A), by its sparse inverse Q = A⁻¹.

    `Pedigree` and `Tree` make theirs; this is for any other, such as H⁻¹ of single-step genomic prediction. ``known=``
    takes all of them. A itself is never formed.

    Parameters
    ----------
    Q : DataFrame or scipy.sparse matrix, (q, q)
        Symmetric positive definite, both triangles given.
    labels : sequence of length q, optional
        What the rows of Q are called; of a DataFrame its index. All are effects of a term that has this precision,
        those without records, too.
    logdet : float, optional
        log|A| = -log|Q|, where it is known from how Q was made (log|H| = log|A| + log|G| - log|A₂₂|); it must agree
        with Q to 1e-6. Default: from a factorisation of Q.

    Attributes
    ----------
    labels : tuple
        Of all rows of Q.
    Q : scipy.sparse.csc_array, (q, q)
    logdet : float
        log|A|.
    aliases : dict
        Other names of a row: {label: position}. A clone is its original, and two nodes of a tree without a branch
        between them are one.
    variances : array, (q,)
        Diagonal of A.

    Raises
    ------
    ValueError
        If Q is not square, finite, symmetric and positive definite; if labels are missing, repeated, or not one for
        each row; if `logdet` is not that of A.

    Examples
    --------
    A random walk of three steps from 0:

    >>> import pandas as pd
    >>> from pm_fastlmm import covariance as cov
    >>> days = ["mon", "tue", "wed"]
    >>> Q = pd.DataFrame([[2.0, -1, 0], [-1, 2, -1], [0, -1, 1]], index=days, columns=days)
    >>> walk = cov.Precision(Q)
    >>> walk.dense()
         mon  tue  wed
    mon  1.0  1.0  1.0
    tue  1.0  2.0  2.0
    wed  1.0  2.0  3.0
    >>> abs(round(walk.logdet, 10))
    0.0
    """

    labels: tuple[Hashable, ...]
    Q: SparseMatrix
    logdet: float
    aliases: Mapping[Hashable, int]

    def __init__(self, Q: Any, labels: Labels | None = None, logdet: float | None = None) -> None:
        index, matrix = _read(Q, labels)
        names = tuple(index.tolist())
        own = -factor_of(matrix, names).logdet
        if logdet is not None and not abs(logdet - own) <= _AGREES * (1 + abs(own)):
            raise ValueError(
                f"logdet is {logdet:.10g}, but log|A| = -log|Q| is {own:.10g}: give the log-determinant of the "
                "covariance, not that of Q, or leave it out."
            )
        self._set(names, matrix, own if logdet is None else float(logdet), {})

    def _set(self, labels: tuple[Hashable, ...], Q: SparseMatrix, logdet: float, aliases: Mapping[Any, int]) -> None:
        for array in (Q.data, Q.indices, Q.indptr):
            frozen(array)
        parts = {"labels": labels, "Q": Q, "logdet": logdet, "aliases": aliases}
        for name, part in parts.items():
            object.__setattr__(self, name, part)

    def __len__(self) -> int:
        """Return the number q of effects."""
        return len(self.labels)

    def __repr__(self) -> str:
        """Show the sizes and the first labels."""
        return f"{type(self).__name__}({len(self)} effects, {self.Q.nnz} entries: {listed(self.labels)})"

    def _facts(self) -> dict[str, Any]:
        labels = f"{len(self)}: {listed(self.labels)}"
        return {"effects": labels, "entries of Q": self.Q.nnz, "log|A|": f"{self.logdet:.10g}"}

    @property
    def variances(self) -> FloatArray:
        """The diagonal of A, (q,)."""
        factor = factor_of(self.Q, self.labels)
        own = factor.analysis.entries(self.Q)
        diagonal = own.row == own.column
        out = np.empty(len(self))
        out[own.row[diagonal]] = factor.inverse()[own.place[diagonal]]
        return out

    def rows(self, ids: Iterable[Hashable]) -> IntArray:
        """Return the row of Q of each label, compared as people read them, -1 where there is none; they may repeat."""
        column = read_column(ids, "ids")
        found = Keys(objects((*self.labels, *self.aliases))).find(keys_of(column.labels))
        where = np.append(found, -1)[column.places]
        other = where >= len(self)
        where[other] = np.array([*self.aliases.values()], dtype=np.intp)[where[other] - len(self)]
        return where

    def dense(self, ids: Labels | None = None, *, scale: Scale = "none") -> pd.DataFrame:
        """
        Return A of some effects.

        Parameters
        ----------
        ids : sequence, optional
            Labels, in the order of the result. Default: all.
        scale : {"none", "mean_diagonal"}
            "mean_diagonal" divides by the mean of the diagonal.

        Raises
        ------
        ValueError
            If a label is not among those of the rows.
        """
        index = self._default_ids() if ids is None else read_index(ids, "ids")
        rows = self.rows(index.tolist())
        if (rows < 0).any():
            strangers = index[rows < 0].tolist()
            hint = spelling_hint(strangers, self.labels)
            raise ValueError(f"ids {shown(strangers)} {self._strange}: correct or drop them. {hint}".strip())
        require_dense(len(rows))
        A = self._covariance(rows)
        return scaled(A, index, scale, **self._account(A))

    _strange = "are not labels of Q"

    def _default_ids(self) -> pd.Index:
        return pd.Index(list(self.labels), tupleize_cols=False)

    def _account(self, A: FloatArray) -> dict[str, Any]:
        """Return what ``attrs`` of a dense matrix say besides its scale."""
        return {}

    def _covariance(self, rows: IntArray) -> FloatArray:
        """Return A of these rows of Q, in their order."""
        unit = np.zeros((len(self), len(rows)))
        unit[rows, np.arange(len(rows))] = 1
        half = factor_of(self.Q, self.labels).half(unit)
        return half.T @ half


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Descended(Precision):
    """The precision of effects that descend from parents, whose covariance needs no factorisation."""

    genealogy: Genealogy

    def _descend(self, genealogy: Genealogy, labels: tuple[Hashable, ...], aliases: Mapping[Any, int]) -> None:
        object.__setattr__(self, "genealogy", genealogy)
        self._set(labels, genealogy.precision(), genealogy.logdet(), aliases)

    @property
    def variances(self) -> FloatArray:
        """The diagonal of A, (q,)."""
        return self.genealogy.variances

    def _covariance(self, rows: IntArray) -> FloatArray:
        return self.genealogy.covariance(rows)


def _read(Q: Any, labels: Labels | None) -> tuple[pd.Index, SparseMatrix]:
    """Return labels and values of a precision, once it is square, finite and symmetric."""
    if isinstance(Q, pd.DataFrame):
        columns = places(Q.index.tolist(), Q.columns.tolist())
        if len(Q.columns) != len(Q) or min(columns) < 0:
            raise ValueError("Q has other labels in its columns than in its rows: give both the same.")
        labels = Q.index if labels is None else labels
        Q = Q.to_numpy(dtype=float)[:, columns]
    a_matrix = issparse(Q) or isinstance(Q, np.ndarray)
    if not a_matrix:
        raise TypeError(f"Q must be a DataFrame or a scipy.sparse matrix, got {type(Q).__name__}.")
    if Q.ndim != 2 or Q.shape[0] != Q.shape[1]:
        raise ValueError(f"Q must be square, got shape {Q.shape}: give both triangles.")
    if labels is None:
        raise ValueError("Q has no labels: give labels=, one for each of its rows, or a DataFrame.")
    index = read_index(labels, "labels", Q.shape[0])
    matrix: SparseMatrix = csc_array(Q, dtype=np.float64, copy=True)
    matrix.sum_duplicates()
    if not np.isfinite(matrix.data).all():
        raise ValueError("Q has values that are NaN or infinite: correct them.")
    apart = abs(matrix - matrix.T)
    if apart.nnz and apart.max() > _SYMMETRIC * abs(matrix).max():
        worst = apart.tocoo()
        i, j = (int(place[worst.data.argmax()]) for place in worst.coords)
        raise ValueError(
            f"Q must be symmetric, but differs by {apart.max():.3g} from its transpose at {index[i]!r} and "
            f"{index[j]!r}: give both triangles."
        )
    return index, matrix


def factor_of(Q: SparseMatrix, labels: Sequence[Hashable]) -> Factor:
    """Return the Cholesky factor of Q, whose pivots must be positive by more than rounding."""
    analysis = Analysis.of(Q)
    what = f"The Cholesky factor of Q, of {analysis.n} effects,"
    require_memory(8.0 * analysis.stored, what, "it fills in too much; leave out effects that are not needed.")
    own = analysis.entries(Q)
    values = np.zeros(analysis.size)
    values[own.place] = own.value
    diagonal = analysis.start[:-1]
    try:
        factor = analysis.factorise(values)
    except NotPositiveDefinite as error:
        raise _not_definite(labels[error.index]) from None
    left = factor.L[analysis.place[diagonal]] ** 2
    if (lost := np.flatnonzero(left <= len(left) * np.finfo(float).eps * values[diagonal])).size:
        raise _not_definite(labels[int(analysis.row[diagonal[lost[0]]])])
    return factor


def _not_definite(label: Hashable) -> ValueError:
    return ValueError(
        f"Q is not positive definite: given others, {label!r} has no positive precision left. Give the inverse of a "
        "covariance with all its digits; an intrinsic precision, whose rows sum to 0, has none."
    )
