"""New rows of a structured model: their fixed effects, and which levels of each term they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray, Ids, align, columns_in_order, read, require_finite, require_length, shown
from pm_fastlmm.base.spelling import places
from pm_fastlmm.covariance.incidence import by_level, read_factor
from pm_fastlmm.covariance.levels import Levels
from pm_fastlmm.covariance.terms import Term, incidence_in_roles, over_roles
from pm_fastlmm.covariance.theta import RESIDUAL
from pm_fastlmm.engines.new_residuals import NewResiduals
from pm_fastlmm.engines.term_products import TermProducts
from pm_fastlmm.spectrum.sparse_projection import AnyProjection, read_large


@dataclass(frozen=True, slots=True, eq=False)
class NewTermRows:
    """
    New rows.

    Attributes
    ----------
    X : (m, r) array, dense or sparse
    Z : list of sparse (m, q_k) arrays
        Over the levels of each term.
    Z_new : list of sparse (m, levels · width) arrays
        Over levels that are new, whose effects are independent of the data.
    ids : tuple or None
    offset : (m,) array or None
        The offset of the formula there, None where the formula has none.
    weights : (m,) array or 1
        Of new observations.
    coordinate : (m,) int array
        Which coordinate of the residual each row has, 0 where there is one.
    record : (m,) int array or None
        Which record of the residual each row is of, from the number of records on those that are new; -1 is a record of
        its own.
    trials : (m,) array or None
        Of a binomial response; None is one trial in each row.
    """

    X: Any
    Z: list[Any]
    Z_new: list[Any]
    ids: Ids | None
    offset: FloatArray | None = None
    weights: Any = 1.0
    coordinate: Any = 0
    record: Any = None
    trials: Any = None

    @property
    def m(self) -> int:
        """Number of rows."""
        return int(self.X.shape[0])

    def residuals(self, products: TermProducts) -> NewResiduals:
        """Return their residuals, given those of the data that are of their records."""
        return NewResiduals.of(
            products.records, self.record, self.coordinate, self.m, products.weights.root, self.weights
        )

    def prior_variance(self, terms: Sequence[Term], sigma: list[FloatArray]) -> FloatArray:
        """Return the variance (m,) that the effects of new levels have."""
        out = np.zeros(self.m)
        for Z, term, S in zip(self.Z_new, terms, sigma, strict=False):
            if Z.shape[1]:
                G = sp.kron(sp.eye_array(Z.shape[1] // term.width), S, format="csr")
                out += np.asarray((Z @ G).multiply(Z).sum(axis=1)).ravel()
        return out


def read_rows(
    projection: AnyProjection, terms: Sequence[Term], *, X_new: Any = None, Z_new: Mapping[str, Any] | None = None,
    data: Any = None, design: Any = None, population: bool = False, residual: Term | None = None,
) -> NewTermRows:  # fmt: skip
    """
    Read new rows from a table (for a model from a formula), or from X and the levels of each term.

    A row whose Xβ the data do not determine is NaN in X, with one warning.

    Parameters
    ----------
    projection : Projection or SparseProjection
        Of the X of the fit.
    terms : sequence of Term
    X_new : (m, d) array or DataFrame
        All columns of X.
    Z_new : mapping
        By the name of the term, what the term was made of: labels; (labels, columns) for random slopes; or a matrix
        over the columns of Z. A term that is left out contributes nothing.
    data : DataFrame
        With the variables of the formula.
    design : MixedDesign
        Of the formula.
    residual : Term, optional
        Of the residuals, of several coordinates: `Z_new` has that of each row under "residual", or a pair of records
        and coordinates. A record that is known adds what the residuals of its other coordinates tell.
    population : bool
        Whether all terms contribute nothing: the table then needs the variables of the fixed effects alone.

    Raises
    ------
    ValueError
        If shapes do not fit, a term is unknown, or a level is new to a term whose levels are related.
    """
    given = dict(Z_new or {})
    own = None if residual is None else given.pop(RESIDUAL, None)
    if population and given:
        raise ValueError("effects='population' is Xβ without random effects: leave out Z_new.")
    offset, weights, trials = None, 1.0, None
    if unknown := [name for name in given if name not in {term.name for term in terms}]:
        raise ValueError(f"Z_new names {shown(unknown)}, but the terms are {', '.join(term.name for term in terms)}.")
    if data is None:
        m, ids = _length(X_new, given)
        coordinate, record = (0, None) if residual is None else _coordinates(residual, own, m)
        X = projection.new_rows(X_new, m)
        parts = [
            _incidence(term, given[term.name], m, ids) if term.name in given else _nothing(term, m) for term in terms
        ]
    else:
        design = _design_of(data, design, X_new, Z_new)
        m, ids = len(data), tuple(data.index.tolist())
        X = projection.new_rows(design.rows(data), m, cells=design.cells(data))
        offset, weights, coordinate = design.offset_of(data), design.weights_of(data), design.coordinate_of(data)
        trials = design.trials_of(data)
        record = None if residual is None or population else design.record_of(data, residual.levels)
        parts = [
            _nothing(term, m) if population else _split(term, *_encoded(term, random, data))
            for term, random in zip(terms, design.random, strict=True)
        ]
    known, new = [known for known, _ in parts], [new for _, new in parts]
    return NewTermRows(X, known, new, ids, offset, weights, coordinate, None if population else record, trials)


def _coordinates(residual: Term, given: Any, m: int) -> tuple[Any, Any]:
    """Return which coordinate of the residual each new row has, by its name, and of which record it is, if given."""
    record, given = given if isinstance(given, tuple) and len(given) == 2 and np.ndim(given[1]) > 0 else (None, given)
    if record is not None:
        record = read_factor(record, RESIDUAL, missing_allowed=True).recoded(residual.levels).codes
        require_length(len(record), m, f"the records of Z_new of {RESIDUAL!r}", "X_new")
    if given is None:
        raise ValueError(
            f"new rows need the coordinate of their residual, one of {shown(residual.columns)}: give it for each row "
            f"as Z_new={{{RESIDUAL!r}: [...]}}."
        )
    factor = read_factor(given, RESIDUAL)
    require_length(len(factor.codes), m, f"Z_new of {RESIDUAL!r}", "X_new")
    known = places(factor.levels, residual.columns)
    if strangers := [level for level, at in zip(factor.levels, known, strict=True) if at < 0]:
        raise ValueError(
            f"Z_new of {RESIDUAL!r} has {shown(strangers)}, but the residual has a variance for each of "
            f"{shown(residual.columns)} alone."
        )
    return np.array(known, dtype=np.intp)[factor.codes], record


def _design_of(data: Any, design: Any, X_new: Any, Z_new: Any) -> Any:
    if design is None:
        raise ValueError("data= needs a model that was made from a formula, flmm.lmm_model: give X_new and Z_new.")
    if not len(data):
        raise ValueError("data has no rows: there is nothing to predict.")
    if X_new is not None or Z_new is not None:
        raise ValueError("data= is given together with X_new or Z_new, which it determines.")
    return design


def _encoded(term: Term, random: Any, data: pd.DataFrame) -> tuple[Any, Levels]:
    """Return the incidence of the rows of a table and the levels that are new; each row must have a group."""
    if absent := [name for name in random.factors if name not in data.columns]:
        raise ValueError(
            f"data has no column {shown(absent)}, the grouping factor of term {term.name!r}: a level that is new has "
            "the effect 0 and adds its variance; effects='population' predicts without random effects, and needs none."
        )
    missing = data[list(random.factors)].isna().any(axis=1).to_numpy()
    _require_groups(term, data.index[missing].tolist())
    found = random.encode(data, term.levels)
    return found.Z, found.new


def _length(X_new: Any, given: Mapping[str, Any]) -> tuple[int, Ids | None]:
    if X_new is not None:
        labelled = read_large(X_new, "X_new")
        return int(labelled.values.shape[0]), labelled.ids
    for value in given.values():
        first, _ = _pair(next(iter(value.values())) if isinstance(value, Mapping) else value)
        return (first.shape[0] if hasattr(first, "shape") else len(first)), None
    raise ValueError("there are no new rows: give X_new and Z_new, or data=.")


def _nothing(term: Term, m: int) -> tuple[Any, Any]:
    return sp.csr_array((m, term.Z.shape[1])), sp.csr_array((m, 0))


def _incidence(term: Term, value: Any, m: int, ids: Ids | None) -> tuple[Any, Any]:
    """Return the incidence of new rows over known and new levels of a term; rows and columns go by their names."""
    called = f"Z_new of {term.name!r}"
    if isinstance(value, Mapping):
        return _split(term, *_in_roles(term, value, called, m))
    labels, columns = _pair(value)
    if sp.issparse(labels) or (np.ndim(labels) == 2 and not hasattr(labels, "dtypes")) or hasattr(labels, "columns"):
        values: Any = labels if sp.issparse(labels) else _table(term, labels, called, m, ids)
        Z = sp.csr_array(values, dtype=np.float64)
        if tuple(map(int, Z.shape)) != (m, int(term.Z.shape[1])):
            raise ValueError(f"{called} must be ({m}, {term.Z.shape[1]}), got shape {Z.shape}.")
        return Z, sp.csr_array((m, 0))
    if term.width > 1 and columns is None:
        raise ValueError(
            f"term {term.name!r} has the columns {', '.join(term.columns)} within a level: give (labels, columns)."
        )
    factor = read_factor(labels, term.name, missing_allowed=True)
    _require_groups(term, np.flatnonzero(factor.codes < 0).tolist())
    factor = factor.recoded(term.levels)
    require_length(len(factor.codes), m, called, "X_new")
    own = factor.ids if ids is None else ids
    incidence = factor.in_order(own, name=called, reference_name="X_new").matrix()
    values = np.ones((m, 1)) if columns is None else _slopes(term.name, term.columns, columns, called, m, own)
    return _split(term, by_level(incidence, values), factor.levels[len(term.levels) :])


def _in_roles(term: Term, value: Mapping[str, Any], called: str, m: int) -> tuple[Any, Levels]:
    """Return the incidence of new rows whose levels are in several roles, and which levels are new."""
    names = [tuple(own for own in term.columns if own == role or own.startswith(f"{role}[")) for role in value]
    if sum(names, ()) != term.columns:
        raise ValueError(f"{called} has the roles {shown(list(value))}, but the term has {', '.join(term.columns)}.")
    factors, values = [], []
    for (role, one), own in zip(value.items(), names, strict=True):
        labels, columns = _pair(one)
        if (columns is None) != (own == (role,)):
            given = "labels alone" if own == (role,) else f"(labels, columns) of {', '.join(own)}"
            raise ValueError(f"{called} has in the role {role!r} one thing for another: give {given}.")
        factors.append(read_factor(labels, f"{called}, {role!r}", missing_allowed=True))
        require_length(len(factors[-1].codes), m, called, "X_new")
        within = tuple(column.removeprefix(f"{role}[").removesuffix("]") for column in own)
        values.append(np.ones((m, 1)) if columns is None else _slopes(role, within, columns, called, m, None))
    levels = over_roles(factors, term.levels)
    return incidence_in_roles(factors, levels, values), levels[len(term.levels) :]


def _table(term: Term, labels: Any, called: str, m: int, ids: Ids | None) -> FloatArray:
    """Return the values of a table over the levels of a term."""
    given = read(labels, called, ndim=(2,))
    require_length(len(given.values), m, called, "X_new")
    names = tuple(map(str, term.levels)) if term.width == 1 and given.values.shape[1] == len(term.levels) else None
    ordered = replace(given, values=columns_in_order(given, names, name=called))
    return ordered.take(align(ids, given, name=called, reference_name="X_new"))


def _pair(value: Any) -> tuple[Any, Any]:
    """Return labels and columns, None where labels are given alone."""
    return value if isinstance(value, tuple) and len(value) == 2 and np.ndim(value[1]) > 0 else (value, None)


def _slopes(name: str, names: tuple[str, ...], columns: Any, called: str, m: int, ids: Ids | None) -> FloatArray:
    """Return the covariates of new rows within a level (m, width), which have these names."""
    what = f"the columns of {name!r}"
    given = read(columns, what, ndim=(1, 2))
    require_length(len(given.values), m, what, called)
    values = columns_in_order(given, names, name=called)
    if values.shape[1] != len(names):
        raise ValueError(f"{called} has {values.shape[1]} columns of {name!r}, but the fit has {len(names)}.")
    require_finite(values, what, "covariates of new rows must be known.")
    order = align(ids, given, name=what, reference_name="the new rows")
    return replace(given, values=values).take(order)


def _require_groups(term: Term, missing: list[Any]) -> None:
    if missing:
        raise ValueError(
            f"the group of term {term.name!r} is missing in rows {shown(missing)}: give rows of an unknown group a "
            "label of their own, a level that is new (effect 0, its variance added), or predict them apart with "
            "effects='population', without random effects."
        )


def _split(term: Term, Z: Any, new: Levels) -> tuple[Any, Any]:
    """Separate the columns of known and of new levels; new ones must be independent of the known."""
    q = term.Z.shape[1]
    if new and (term.blocks.relation is not None or term.blocks.levels != len(term.levels)):
        related = term.blocks.relation is not None and term.blocks.relation.precision is not None
        remedy = (
            "fit with a pedigree, tree or precision that has them."
            if related
            else "fit with them in K and as categories of the factor, pd.Categorical(labels, categories=K.index)."
        )
        raise ValueError(
            f"term {term.name!r} has no levels {shown(new)}, and its levels are related. To have their effects "
            f"predicted from those of their relatives, {remedy}"
        )
    columns = sp.csc_array(Z)
    return sp.csr_array(columns[:, :q]), sp.csr_array(columns[:, q:])
