"""
Records: which rows have residuals that covary, and by which elements of Σ_e.

vec e ~ N(0, I ⊗ Σ_e) over records and c coordinates (traits, groups), of which each row has one: R_ij = Σ_e[a_i, a_j]
where rows i and j are of one record, and 0 elsewhere. R is block-diagonal, with one block for all records that have the
same coordinates, a pattern. Coordinates that cannot covary make records of their own, so that a diagonal Σ_e has as
many patterns as coordinates. Residuals of one variance are the case c = 1, each row a record.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from pm_fastlmm.base.arrays import FloatArray, Ids, lower_triangle, shown
from pm_fastlmm.base.semidefinite import lower_root
from pm_fastlmm.covariance.structures import Diagonal, Identity, Scalar
from pm_fastlmm.covariance.terms import Term

type IntArray = npt.NDArray[np.intp]


class Pattern(NamedTuple):
    """
    Records with the same coordinates.

    Attributes
    ----------
    coordinates : (p,) int array
    rows : (records, p) int array
        The rows of each record, in the order of the coordinates.
    """

    coordinates: IntArray
    rows: IntArray

    def of(self, sigma: FloatArray) -> FloatArray:
        """Return its block of Σ_e."""
        return np.asarray(sigma[np.ix_(self.coordinates, self.coordinates)])

    @property
    def lower(self) -> Any:
        """Places of the lower triangle of its block, row by row."""
        return lower_triangle(len(self.coordinates), len(self.coordinates))


class Whitening(NamedTuple):
    """
    R at a Σ_e that is positive definite.

    Attributes
    ----------
    root : sparse (n, n) array
        T, lower triangular within records, TᵀT = R⁻¹.
    coefficients : (K,) array
        The elements of the inverse blocks, which R⁻¹ is a sum of known matrices times; see `Records.pairs`.
    logdet : float
        log|R|.
    """

    root: sp.csr_array
    coefficients: FloatArray
    logdet: float

    def times(self, x: FloatArray) -> FloatArray:
        """Return R⁻¹x."""
        return np.asarray(self.root.T @ (self.root @ x))


@dataclass(frozen=True, eq=False)
class Records:
    """
    The record and the coordinate of each row.

    Attributes
    ----------
    record, coordinate : (n,) int arrays
    mixes : (c, c) bool array
        Which coordinates can covary.
    """

    record: IntArray
    coordinate: IntArray
    mixes: npt.NDArray[np.bool_]

    by_row: ClassVar[bool] = False  # whether R⁻¹ has a coefficient for each row

    @classmethod
    def single(cls, n: int) -> Self:
        """Return those of residuals of one variance."""
        return cls(np.arange(n), np.zeros(n, dtype=np.intp), np.ones((1, 1), dtype=bool))

    @classmethod
    def of(cls, term: Term, ids: Ids | None) -> Self:
        """
        Return those of a term whose effects are the residuals.

        Raises
        ------
        ValueError
            If records are related, or a row is not one coordinate of one record that no other row has.
        """
        if term.blocks.relation is not None:
            raise ValueError(
                f"the residual term {term.name!r} has records that are related: residuals of different records are "
                "independent. Put what relates them into terms=, and give residual=flmm.Term(record, covariance)."
            )
        Z = term.Z.copy()
        Z.eliminate_zeros()
        called: Any = range(term.n) if ids is None else ids
        if (wrong := np.flatnonzero(np.diff(Z.indptr) != 1)).size or (wrong := np.flatnonzero(Z.data != 1)).size:
            raise ValueError(
                f"rows {shown([called[i] for i in wrong])} of the residual term {term.name!r} are not one coordinate "
                "of one record: give columns= that are 1 for the trait or group of a row and 0 for the others, as "
                "pd.get_dummies has them; in a formula, (0 + trait | record)."
            )
        width = term.blocks.width
        if (unused := np.setdiff1d(np.arange(width), Z.indices % width)).size:
            labels = term.columns if len(term.columns) == width else range(width)
            raise ValueError(
                f"the residual term {term.name!r} has no rows of {shown([labels[a] for a in unused])}, whose variance "
                "the data say nothing of: leave these columns out."
            )
        places, count = np.unique(Z.indices, return_counts=True)
        if (twice := places[count > 1]).size:
            levels = [f"{term.levels[k // term.width]} ({term.columns[k % term.width]})" for k in twice]
            first = [called[i] for i in np.flatnonzero(Z.indices == twice[0])]
            raise ValueError(
                f"several rows are one coordinate of one record of the residual: {shown(levels)}, the first of them "
                f"rows {shown(first)}. Give each row a record of its own, or one for each occasion; what rows of a "
                "record share is a random term."
            )
        return cls((Z.indices // width).astype(np.intp), (Z.indices % width).astype(np.intp), _mixes(term))

    @property
    def width(self) -> int:
        """Number of coordinates, c."""
        return len(self.mixes)

    @property
    def independent(self) -> bool:
        """Whether no residuals covary."""
        return bool(self.mixes.sum() == len(self.mixes))

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.record)

    @cached_property
    def total(self) -> int:
        """Number of records."""
        return len(np.unique(self.record))

    @cached_property
    def counts(self) -> FloatArray:
        """How many rows each coordinate has, (c,)."""
        return np.bincount(self.coordinate, minlength=self.width).astype(float)

    @cached_property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns that occur."""
        if self.width == 1:  # each row is a record
            return (Pattern(np.zeros(1, dtype=np.intp), np.arange(self.n)[:, None]),)
        count, part = connected_components(self.mixes, directed=False)
        label = self.record.astype(np.int64) * count + part[self.coordinate]
        order = np.lexsort((self.coordinate, label))
        starts = np.flatnonzero(np.diff(label[order], prepend=-1))
        sizes = np.diff(starts, append=self.n)
        out = []
        for size in np.unique(sizes):
            rows = order[starts[sizes == size][:, None] + np.arange(size)]
            found, which = np.unique(self.coordinate[rows], axis=0, return_inverse=True)
            out += [Pattern(found[k], rows[which.ravel() == k]) for k in range(len(found))]
        return tuple(out)

    @property
    def incidences(self) -> list[sp.csr_array]:
        """D_a of each coordinate, (n, n_a): D_aD_aᵀ has its rows along the diagonal."""
        return [sp.eye_array(self.n, format="csc")[:, self.coordinate == a].tocsr() for a in range(self.width)]

    def variances(self, sigma: FloatArray) -> FloatArray:
        """Return the variance of each residual, (…, n), of Σ_e (…, c, c)."""
        return np.asarray(np.diagonal(sigma, axis1=-2, axis2=-1)[..., self.coordinate])

    def mean(self, sigma: FloatArray) -> Any:
        """Return their mean."""
        return np.diagonal(sigma, axis1=-2, axis2=-1) @ self.counts / self.n

    def matrix(self, sigma: FloatArray) -> sp.csr_array:
        """Return R, or what it is linear in, of a symmetric matrix (c, c)."""
        lower = self._spread([p.of(sigma) for p in self.patterns])
        return sp.csr_array(lower + lower.T - sp.diags_array(lower.diagonal()))

    def times(self, sigma: FloatArray, x: FloatArray) -> FloatArray:
        """Return Rx of a vector (n,)."""
        out = np.empty(self.n)
        for p in self.patterns:
            out[p.rows] = x[p.rows] @ p.of(sigma)
        return out

    def coloured(self, sigma: FloatArray, noise: FloatArray) -> FloatArray:
        """Return draws (…, n) of the residuals of one Σ_e, or one for each (…, c, c), made of white noise (…, n)."""
        if self.width == 1:
            return np.asarray(np.sqrt(sigma[..., 0]) * noise)
        if sigma.ndim > 2:
            each = (self.coloured(sigma[at], noise[at]) for at in np.ndindex(sigma.shape[:-2]))
            return np.reshape(list(each), noise.shape)
        root = self._spread([lower_root(p.of(sigma)) for p in self.patterns])
        return np.asarray((root @ noise.reshape(-1, self.n).T).T.reshape(noise.shape))

    def whitening(self, sigma: FloatArray) -> Whitening | None:
        """Return R⁻¹ and its root at Σ_e; None where it is not positive definite."""
        halves, coefficients, logdet = [], [], 0.0
        if not np.isfinite(sigma).all():
            return None
        for p in self.patterns:
            try:
                root = np.linalg.cholesky(p.of(sigma))
            except np.linalg.LinAlgError:
                return None
            half = np.linalg.inv(root) * np.tri(len(root))
            halves.append(half)
            coefficients.append((half.T @ half)[p.lower])
            logdet += 2 * len(p.rows) * float(np.log(np.diag(root)).sum())
        return Whitening(self._spread(halves), np.concatenate(coefficients), logdet)

    def pairs(self) -> Iterator[tuple[IntArray, IntArray, int]]:
        """
        Yield rows i, rows j and k of the k-th coefficient: R⁻¹ has it at all (i, j).

        Coefficients are the elements of the lower triangles of the inverse blocks, pattern by pattern; one off the
        diagonal is yielded twice, for both triangles.
        """
        k = 0
        for p in self.patterns:
            for a, b in zip(*p.lower, strict=True):
                yield p.rows[:, a], p.rows[:, b], k
                if a != b:
                    yield p.rows[:, b], p.rows[:, a], k
                k += 1

    def score(self, sigma: FloatArray, traces: FloatArray, weighted: FloatArray) -> FloatArray:
        """
        Return ∂ℓ/∂Σ_e = -½ Σ_p [n_pS_p⁻¹ - S_p⁻¹T_pS_p⁻¹ - r_pᵀr_p], S_p = Σ_e[p, p], (c, c).

        Parameters
        ----------
        traces : (K,) array
            ∂log|C|/∂ of each coefficient of R⁻¹, from which T_p = ∂log|C|/∂S_p⁻¹.
        weighted : (n,) array
            Py, whose rows of the records of a pattern are r_p.
        """
        out, start = np.zeros(sigma.shape), 0
        for p in self.patterns:
            inverse, T, r = np.linalg.inv(p.of(sigma)), np.zeros((len(p.coordinates),) * 2), weighted[p.rows]
            stop = start + len(p.lower[0])
            T[p.lower] = traces[start:stop]
            own = len(p.rows) * inverse - inverse @ ((T + T.T) / 2) @ inverse - r.T @ r
            out[np.ix_(p.coordinates, p.coordinates)] -= (own + own.T) / 4
            start = stop
        return out

    @cached_property
    def _places(self) -> tuple[Any, Any, IntArray]:
        """Where the lower triangles of the blocks of all records stand, and which of all elements each entry is."""
        row, column, code, k = [], [], [], 0
        for p in self.patterns:
            for a, b in zip(*p.lower, strict=True):
                row.append(p.rows[:, a])
                column.append(p.rows[:, b])
                code.append(np.full(len(p.rows), k))
                k += 1
        places = sp.csr_array(
            (np.concatenate(code) + 1.0, (np.concatenate(row), np.concatenate(column))), (self.n,) * 2
        )
        return places.indptr, places.indices, places.data.astype(np.intp) - 1

    def _spread(self, blocks: list[FloatArray]) -> sp.csr_array:
        """Return the matrix (n, n) of lower triangular blocks, one for each pattern."""
        indptr, indices, code = self._places
        values = np.concatenate([block[p.lower] for block, p in zip(blocks, self.patterns, strict=True)])
        return sp.csr_array((values[code], indices, indptr), shape=(self.n, self.n))


class RowWeights(Records):
    """Rows whose R⁻¹ is any diagonal matrix: what a likelihood that is not Gaussian has in its place."""

    by_row: ClassVar[bool] = True


def _mixes(term: Term) -> npt.NDArray[np.bool_]:
    """Return which coordinates a structure lets covary: any two, unless it is diagonal at all its parameters."""
    c = term.blocks.width
    independent = isinstance(term.blocks.block, Diagonal | Identity | Scalar)
    return np.eye(c, dtype=bool) if independent else np.ones((c, c), dtype=bool)
