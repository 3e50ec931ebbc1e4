"""Contrasts Lβ as users give them: arrays, weights by name, names of coefficients or of whole terms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.display import listed
from pm_fastlmm.kernel.inference.hypotheses import term_hypotheses
from pm_fastlmm.spectrum.sparse_projection import AnyProjection


def read_contrasts(L: Any, projection: AnyProjection) -> FloatArray:
    """
    Return contrasts (q, r) of the kept columns: from an array, a mapping, or names of what is 0, terms or coefficients.

    Names of kept columns are the coefficients as they are estimated, without the dropped ones, as in R. A contrast that
    names a dropped column, or has a number for every column, must be one that the data determine.

    Raises
    ------
    ValueError
        If a name is unknown, the shape does not fit, the rows are collinear, or the data do not determine one.
    """
    columns = projection.columns
    kept, d = list(columns.kept), len(columns.names)
    rows, named = np.zeros((1, d)), True
    if isinstance(L, Mapping):
        for name, weight in L.items():
            rows[0, _place(name, projection)] = weight
    elif isinstance(L, str):
        rows = _named(L, projection)
    elif isinstance(L, Sequence) and len(L) and all(isinstance(name, str) for name in L):
        rows = np.vstack([_named(name, projection) for name in L])
    else:
        named, rows = False, np.atleast_2d(np.asarray(L, dtype=float))
    if rows.ndim != 2 or rows.shape[1] not in (d, len(kept)) or not np.isfinite(rows).all():
        all_of_them = f", or {d} for all of {', '.join(columns.names)}" if columns.left else ""
        raise ValueError(
            f"L must be finite with {len(kept)} columns, one for each of {', '.join(columns.coef)}{all_of_them}; "
            f"got shape {rows.shape}."
        )
    if rows.shape[1] == d and columns.left:
        checked = rows[:, columns.left].any(axis=1) if named else np.ones(len(rows), dtype=bool)
        _require_determined(projection, rows[checked])
        rows = rows[:, kept]
    size = np.linalg.norm(rows, axis=1)
    if not size.all() or np.linalg.matrix_rank(rows / size[:, None]) < len(rows):
        raise ValueError("the rows of L are collinear or zero: give each hypothesis once.")
    return rows


def _require_determined(projection: AnyProjection, rows: FloatArray) -> None:
    """Raise a ValueError if a contrast of all columns is outside the row space of X."""
    broken = projection.columns.departs(rows, projection.R, usual=0.0).any(axis=0)
    if broken.any():
        relations = [projection.columns.relation(j) for j in np.flatnonzero(broken).tolist()]
        raise ValueError(
            f"the data do not determine L: in all rows of the fit {'; '.join(relations)}, and in L it is not. Test a "
            "difference of cells that have data, or names of kept columns alone, whose coefficients are those of a "
            "model without the dropped ones."
        )


def _named(name: str, projection: AnyProjection) -> FloatArray:
    """Return the contrasts of a term of the formula, its type III hypothesis, or of a coefficient."""
    formula, columns = projection.columns.terms, projection.columns
    if formula is None or (term := formula.find(name)) is None:
        row = np.eye(len(columns.names))[[_place(name, projection)]]
        if row[:, columns.left].any():
            _require_determined(projection, row)
        return row[:, columns.kept]
    rows = term_hypotheses(formula.complete(), projection, only=term)[term]
    if not len(rows):
        raise ValueError(f"the data do not determine {term!r}: all that it does other terms do in all rows of the fit.")
    return rows


def _place(name: Any, projection: AnyProjection) -> int:
    columns = projection.columns
    if name not in columns.names:
        coefficients = f"the coefficients are {listed(columns.names)}"
        if columns.terms is None:
            raise ValueError(f"L names {name!r}, which is no coefficient: {coefficients}.")
        raise ValueError(
            f"L names {name!r}, which is no term or coefficient: the terms are {listed(columns.terms.names)}; "
            f"{coefficients}."
        )
    return columns.names.index(name)
