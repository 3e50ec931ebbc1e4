"""
Hypotheses Lβ = 0 of whole terms of a formula, of types I, II and III, whatever the contrasts of the factors.

A complete design has a column for each level of a factor and for each cell of an interaction. With the columns X of the
fit it is XM, so that lᵀβ = eᵀγ with e = Mᵀl the same function of the parameters γ of the complete design. Whatever the
coding of X, the e are the row space of the complete design: hypotheses that are defined by e do not depend on it.

    Type III  e of the term and of those that contain it, 0 elsewhere, and orthogonal to those that have no part in the
              term itself (SAS). Where all cells have data they are differences of means with equal weights for all
              cells (Yates 1934).
    Type II   what the term explains of Xβ beyond all terms that do not contain it.
    Type I    what it explains beyond the terms before it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import scipy.linalg

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.spectrum.projection import Projection

type TypeOfTest = Literal[1, 2, 3]

_RTOL = 1e-8


class CompleteDesign(NamedTuple):
    """
    The terms of a formula in a complete design XM, without the intercept among their names.

    Attributes
    ----------
    M : (d, P) array
    sizes : (P,) array
        Root mean square of the columns in the table, of which a fit may have some rows.
    labels : tuple of str
        Of the columns.
    places : dict of str to slice
        The columns of each term, and of the intercept.
    contained : dict of str to tuple of str
        The terms that contain a term: by its factors and others, with the same covariates.
    """

    M: FloatArray
    sizes: FloatArray
    labels: tuple[str, ...]
    places: dict[str, slice]
    contained: dict[str, tuple[str, ...]]

    @property
    def intercept(self) -> tuple[str, ...]:
        """The name of the intercept in `places`, if there is one."""
        return tuple(name for name in self.places if name not in self.contained)


class Marginal(NamedTuple):
    """
    Averages of rows of X over a reference grid.

    Attributes
    ----------
    cells : DataFrame
        The levels of which there is an average each, the last column varying fastest.
    rows : (k, d) array
    over : str
        What else the grid has, ", averaged over B, at x = 20.1".
    """

    cells: Any
    rows: FloatArray
    over: str


class Formula(Protocol):
    """What is asked of a formula that made the columns of X."""

    @property
    def names(self) -> tuple[str, ...]:
        """The terms but the intercept."""

    def codings(self) -> list[str]:
        """Return in words, a line each, against what the coefficients of factors compare."""

    def find(self, name: str) -> str | None:
        """Return the term that a text means, a:b or b:a; None if there is none."""

    def complete(self) -> CompleteDesign:
        """Return the complete design."""

    def marginal(self, names: tuple[str, ...], at: Mapping[str, Any]) -> Marginal:
        """Return the averages of rows of X over a reference grid, for the levels of some columns."""


def require_formula(projection: Projection) -> Formula:
    """Return the formula of the columns of X; raise a ValueError if there was none."""
    terms: Formula | None = projection.columns.terms
    if terms is None:
        raise ValueError(
            "this fit is of an X without a formula, of which nobody knows what columns belong together: fit a formula, "
            "flmm.find_reml('y ~ a*b + (1 | g)', data), or with one kernel design = flmm.Design.from_formula('y ~ a*b',"
            " data, K=K) and flmm.reml(design.spectrum(), design.y). Of an X, fit.test_fixed(['x1', 'x2']) tests "
            "columns together."
        )
    return terms


def term_hypotheses(
    complete: CompleteDesign, projection: Projection, kind: TypeOfTest = 3, *, only: str | None = None
) -> dict[str, FloatArray]:
    """
    Return the contrasts L (q, r) of each term over the columns that are kept, or of one term.

    Of all bases of a hypothesis they are the one that R's treatment contrasts give, in which lmerTest takes them:
    Satterthwaite's degrees of freedom of several contrasts depend on it.
    """
    M, R = _in_rows(complete, projection), projection.R
    terms = list(complete.contained)
    found = {}
    for name in terms if only is None else (only,):
        above = complete.contained[name]
        if kind == 1:
            found[name] = _beyond(complete, M, R, name, terms[: terms.index(name)])
        elif kind == 2 and above:
            found[name] = _beyond(complete, M, R, name, [term for term in terms if term not in (name, *above)])
        else:  # types II and III are one where nothing contains the term
            found[name] = _type_three(complete, M, R, name)
    return found


def missing_cells(complete: CompleteDesign, projection: Projection) -> list[str]:
    """Return the columns of the complete design that are 0 in all rows: cells without data."""
    some = _in_rows(complete, projection).any(axis=0)
    return [label for label, any_ in zip(complete.labels, some, strict=True) if not any_]


def _in_rows(complete: CompleteDesign, projection: Projection) -> FloatArray:
    """Return M of the columns that are kept; columns that are 0 in all rows of the fit are exactly 0."""
    M = projection.columns.E @ complete.M
    M[:, np.linalg.norm(projection.R @ M, axis=0) <= _RTOL * np.sqrt(projection.columns.n) * complete.sizes] = 0.0
    return M


def _type_three(complete: CompleteDesign, M: FloatArray, R: FloatArray, name: str) -> FloatArray:
    own, above = complete.places[name], _columns(complete, complete.contained[name])
    size = np.linalg.norm(R, axis=0)
    scaled = M * size[:, None]
    norms = np.linalg.norm(scaled, axis=0)
    scaled = scaled / np.where(norms > 0, norms, 1.0)
    outside = np.ones(M.shape[1], dtype=bool)
    outside[above] = False
    within = _null(scaled[:, outside & ~_mask(own, outside)].T)  # of functions of β times its size
    without = _null(scaled[:, outside].T)
    e = M.T @ (within * size[:, None]), M.T @ (without * size[:, None])
    basis = within @ _null(e[1].T @ e[0]) if without.shape[1] else within
    L = basis.T * size
    pivots = _last_independent(basis.T @ scaled[:, own])
    return np.linalg.solve((L @ M[:, own])[:, pivots], L) if len(L) else L


def _beyond(complete: CompleteDesign, M: FloatArray, R: FloatArray, name: str, others: Sequence[str]) -> FloatArray:
    own, columns = complete.places[name], R @ M
    columns = columns / np.where((norms := np.linalg.norm(columns, axis=0)) > 0, norms, 1.0)
    before = columns[:, _columns(complete, (*complete.intercept, *others))]
    basis = scipy.linalg.orth(before, rcond=_RTOL) if before.size else np.zeros((len(R), 0))
    left = columns[:, own] - basis @ (basis.T @ columns[:, own])
    left = left - basis @ (basis.T @ left)
    pivots = sorted(_last_independent(left))
    Q, triangle = scipy.linalg.qr(left[:, pivots] * norms[own][pivots], mode="economic")
    return (Q.T @ R) / np.diag(triangle)[:, None]


def _columns(complete: CompleteDesign, names: Sequence[str]) -> list[int]:
    return [j for name in names for j in range(*complete.places[name].indices(len(complete.labels)))]


def _mask(place: slice, like: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    mask = np.zeros_like(like)
    mask[place] = True
    return mask


def _null(A: FloatArray) -> FloatArray:
    """Return an orthonormal basis of the x with Ax = 0."""
    return scipy.linalg.null_space(A, rcond=_RTOL) if A.size else np.eye(A.shape[1])


def _last_independent(columns: FloatArray) -> list[int]:
    """Return which columns, of length 1 once, are no combinations of those after them: those without a first level."""
    basis, pivots = np.zeros((len(columns), 0)), []
    for j in reversed(range(columns.shape[1])):
        left = columns[:, j] - basis @ (basis.T @ columns[:, j])
        left = left - basis @ (basis.T @ left)
        if (norm := np.linalg.norm(left)) > _RTOL:
            basis = np.column_stack([basis, left / norm])
            pivots.append(j)
    return pivots
