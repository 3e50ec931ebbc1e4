"""Incidence of grouping factors: which row of the data belongs to which level."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress, product
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array

from pm_fastlmm.base.arrays import FloatArray, Ids, Labelled, align, labels_of, require_length, shown
from pm_fastlmm.base.choices import Missing, require_choice
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import listed, table
from pm_fastlmm.base.spelling import as_read, level_text, places, require_digits
from pm_fastlmm.covariance.levels import Levels, LevelSet

type SparseMatrix = csr_array[np.float64, tuple[int, int]]


class _Columns(NamedTuple):
    Z: SparseMatrix
    levels: Levels


class Incidence(_Columns):
    """
    An incidence matrix (n, levels) and the labels of its columns; a term takes it as it is.

    Attributes
    ----------
    Z : scipy.sparse.csr_array, (n, levels)
    levels : tuple
    unused : tuple
        Categories that have no column, because they do not occur.
    sorted_from : str or None
        The factor whose labels were sorted, as nobody gave their order.
    """

    unused: Levels
    sorted_from: str | None

    def __new__(cls, Z: SparseMatrix, levels: Levels, unused: Levels = (), sorted_from: str | None = None) -> Self:
        """Keep what was left out, and where the order is from, beside the pair."""
        self = super().__new__(cls, Z, levels)
        self.unused, self.sorted_from = unused, sorted_from
        return self

    def __repr__(self) -> str:
        """Show the sizes and the first levels."""
        return f"Incidence({self.Z.shape[0]} rows, {len(self.levels)} levels: {listed(self.levels)})"

    def _repr_html_(self) -> str:
        return table("Incidence", {"rows": self.Z.shape[0], "levels": f"{len(self.levels)}: {listed(self.levels)}"})


@dataclass(frozen=True, slots=True, eq=False)
class Factor(ReadOnlyArrays):
    """
    A grouping factor, or the interaction of several, as codes into its levels.

    Attributes
    ----------
    codes : (n,) array of int
        Position of each row's level, -1 where a row has none.
    levels : tuple
        Categories in their order, or sorted; those of an interaction are text, "a:b", and occur in the data.
    name : str or None
    ids : tuple or None
        The index of the Series that it was read from.
    parts : tuple of Factor
        Those of an interaction, with all their levels.
    order_given : bool
        Whether somebody chose the order of the levels: the labels are those of an ordered Categorical, or of one whose
        categories are not merely sorted.
    """

    codes: npt.NDArray[np.intp]
    levels: Levels
    name: str | None
    ids: Ids | None
    parts: tuple["Factor", ...] = ()
    order_given: bool = False

    @property
    def sorted_from(self) -> str | None:
        """The name under which messages ask for an order, None if there is one."""
        return None if self.order_given else self.name or "factor"

    def counts(self) -> dict[Hashable, int]:
        """Return how many rows belong to each level that occurs."""
        counts = np.bincount(self.codes[self.codes >= 0], minlength=len(self.levels)).tolist()
        return {level: count for level, count in zip(self.levels, counts, strict=True) if count}

    def subset(self, keep: npt.NDArray[np.bool_]) -> Self:
        """Return the factor with only some of its levels, in their order; no row may belong to another."""
        if keep.all():
            return self
        codes = np.append(np.cumsum(keep) - 1, -1)[self.codes]  # -1, a row without a level, stays
        levels = tuple(compress(self.levels, keep.tolist()))
        return replace(self, codes=codes, levels=levels)

    def crossed(self, keep: Sequence[npt.NDArray[np.bool_]]) -> Self:
        """Return the interaction over all combinations of some levels of its parts, those that do not occur too."""
        parts = tuple(part.subset(kept) for part, kept in zip(self.parts, keep, strict=True))
        codes, missing = np.zeros(len(self.codes), dtype=np.intp), np.zeros(len(self.codes), dtype=bool)
        for part in parts:
            codes = codes * len(part.levels) + part.codes
            missing |= part.codes < 0
        levels = _combined(parts, product(*(range(len(part.levels)) for part in parts)), self.name or "by")
        return type(self)(np.where(missing, -1, codes), levels, self.name, self.ids, parts)

    def level_set(self, name: str) -> LevelSet:
        """Return the labels to which the rows of a covariance belong."""
        parts = tuple(part.level_set(name) for part in self.parts)
        return LevelSet(self.levels, name, parts=parts, sorted_from=self.sorted_from)

    def recoded(self, levels: Levels) -> Self:
        """Return the factor over other levels, followed by those of its own that are not among them."""
        position = np.array(places(self.levels, levels), dtype=np.intp)
        new = position < 0
        position[new] = len(levels) + np.arange(new.sum())
        together = levels + tuple(level for level, is_new in zip(self.levels, new, strict=True) if is_new)
        codes = np.append(position, -1)[self.codes]
        return type(self)(codes, together, self.name, self.ids, order_given=self.order_given)

    def in_order(self, ids: Ids | None, *, name: str, reference_name: str) -> Self:
        """Return the factor with its rows in the order of these ids."""
        order = align(ids, Labelled(np.empty(0), self.ids, None), name=name, reference_name=reference_name)
        return self if order is None else replace(self, codes=self.codes[order], ids=ids)

    def used(self) -> npt.NDArray[np.bool_]:
        """Return for each level whether it occurs."""
        occurs = np.zeros(len(self.levels), dtype=bool)
        occurs[self.codes[self.codes >= 0]] = True
        return occurs

    def matrix(self) -> SparseMatrix:
        """Return the incidence matrix, with a row of zeros where a row has no level."""
        inside = self.codes >= 0
        indptr = np.concatenate([[0], np.cumsum(inside)])
        shape = (len(self.codes), len(self.levels))
        return csr_array((np.ones(int(indptr[-1])), self.codes[inside], indptr), shape=shape)


def incidence(
    factors: Any, *, drop_first: bool = False, missing: Missing = "raise",
    unused: Literal["drop", "keep"] = "drop",
) -> Incidence:  # fmt: skip
    """
    Code a factor, or the interaction of several, by one column of zeros and ones per level.

    Parameters
    ----------
    factors : sequence, Series or Categorical of labels; or a list, tuple or DataFrame of several
        Levels are sorted, or in the order of the categories. Levels of an interaction are text, "a:b".
    drop_first : bool
        Leave out the column of the first level, for an X with an intercept.
    missing : {"raise", "no level"}
        What becomes of a row whose label is missing: an error, or a row of zeros.
    unused : {"drop", "keep"}
        Whether categories, and combinations of levels, that do not occur have a column of zeros: they are steps of
        `ar1`.

    Returns
    -------
    Z : scipy.sparse.csr_array, (n, levels)
    levels : tuple

    Raises
    ------
    ValueError
        If a label is missing, factors differ in length, or labels of an interaction would be ambiguous.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> Z, levels = cov.incidence(["b", "a", "b"])
    >>> levels
    ('a', 'b')
    >>> Z.toarray()
    array([[0., 1.],
           [1., 0.],
           [0., 1.]])
    >>> cov.incidence([["b", "a", "b"], [1, 1, 2]]).levels
    ('a:1', 'b:1', 'b:2')
    """
    require_choice("missing", missing, ("raise", "no level"))
    require_choice("unused", unused, ("drop", "keep"))
    factor = read_factor(factors, missing_allowed=missing == "no level")
    left_out: Levels = ()
    if unused == "drop":
        used = factor.used()
        left_out = tuple(level for level, u in zip(factor.levels, used, strict=True) if not u)
        factor = factor.subset(used)
    elif factor.parts:
        factor = factor.crossed([np.ones(len(part.levels), dtype=bool) for part in factor.parts])
    Z, start = factor.matrix(), int(drop_first)
    return Incidence(Z[:, start:], factor.levels[start:], left_out, factor.sorted_from)


def read_factor(factors: Any, name: str = "the factor", *, missing_allowed: bool = False) -> Factor:
    """
    Read a factor or the interaction of several.

    Raises
    ------
    TypeError
        If it is not a sequence of labels.
    ValueError
        As `incidence`.
    """
    parts = _several(factors)
    if parts is None:
        return _read_one(factors, name, missing_allowed)
    if not parts:
        raise ValueError(f"{name} is an interaction of no factors: give at least one.")
    read = [_read_one(part, name, missing_allowed) for part in parts]
    for other in read[1:]:
        require_length(len(other.codes), len(read[0].codes), f"a factor of {name}", "another")
        if None not in (other.ids, read[0].ids) and other.ids != read[0].ids:
            raise ValueError(f"the factors of {name} have different indexes: take them from one table.")
    return read[0] if len(read) == 1 else _interaction(read, name)


def _several(factors: Any) -> list[Any] | None:
    """Return the factors of an interaction, None for a single factor."""
    if isinstance(factors, pd.DataFrame):
        return [factors[column] for column in factors.columns]
    if isinstance(factors, list | tuple) and factors and all(isinstance(p, list) or _is_array(p) for p in factors):
        return list(factors)
    return None


def _is_array(values: Any) -> bool:
    """Return whether it is an array of any library, of one dimension or more."""
    return hasattr(values, "__array__") and bool(np.ndim(values))


def _read_one(values: Any, name: str, missing_allowed: bool) -> Factor:
    if isinstance(values, str) or not (isinstance(values, Sequence) or _is_array(values)):
        raise TypeError(
            f"{name} must be a sequence of labels, one for each row, got {type(values).__name__}: give the column "
            "itself, table['group'] and not 'group'."
        )
    if np.ndim(values) != 1 and not isinstance(values, pd.Categorical):
        raise TypeError(f"{name} must be 1-dimensional, got {np.ndim(values)} dimensions.")
    ids, label = labels_of(values), getattr(values, "name", None)
    if not isinstance(values, Sequence | np.ndarray | pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        values = np.asarray(values)
    column = values if isinstance(values, pd.Series) else pd.Series(values)
    label = None if label is None else str(label)
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, levels = np.asarray(column.cat.codes, dtype=np.intp), column.cat.categories
        order_given = bool(column.cat.ordered) or not _merely_sorted(levels)
    else:
        codes, levels = factorize(column)
        order_given = False
    if not missing_allowed and (codes < 0).any():
        rows = np.flatnonzero(codes < 0).tolist()
        raise ValueError(
            f"{label or name} is missing in {len(rows)} rows ({shown(rows)}): drop those rows, or keep them without an "
            "effect by giving incidence(factor, missing='no level')."
        )
    names = tuple(levels.tolist())
    require_distinct(names, label or name, column.dtype)
    if column.dtype.kind == "f" and all(map(float.is_integer, map(float, names))):
        names = tuple(map(int, names))  # numbers of groups, floating point for the sake of one that is missing
    return Factor(codes, names, label, ids, order_given=order_given)


def _merely_sorted(categories: pd.Index) -> bool:
    """Return whether categories are in the order that pandas makes: sorted, that of appearance if they have none."""
    try:
        return bool((categories == categories.sort_values()).all())
    except TypeError:
        return True


def require_distinct(levels: Levels, name: str, dtype: Any) -> None:
    """Refuse levels that people read as one: a column read in pieces has 1 in one of them and "1" in another."""
    if dtype.kind in "iub" or all(type(level) is int for level in levels):
        return
    require_digits(levels, name, dtype)
    if all(as_read(level) is level for level in levels):
        return
    read: dict[Hashable, Hashable] = {}
    for level in levels:
        if (other := read.setdefault(as_read(level), level)) is not level:
            raise ValueError(
                f"{name} has {other!r} and {level!r}, which read the same: give the column one type and "
                "strip its blanks, column.astype(str).str.strip()."
            )


def factorize(column: "pd.Series[Any]") -> tuple[npt.NDArray[np.intp], pd.Index]:
    """Return codes and sorted levels; levels that have no order are left in that of their appearance."""
    codes, levels = pd.factorize(column)
    try:
        order = np.asarray(levels.argsort())
    except TypeError:
        return codes, levels
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = np.arange(len(order))
    return np.where(codes < 0, -1, rank[codes] if len(rank) else codes), levels[order]


def _interaction(factors: list[Factor], name: str) -> Factor:
    """Return the combinations that occur, the first factor varying slowest."""
    seen = np.logical_and.reduce([factor.codes >= 0 for factor in factors])
    place, first = factors[0].codes[seen], np.zeros(0, dtype=np.intp)
    for factor in factors[1:]:
        key = place.astype(np.int64) * len(factor.levels) + factor.codes[seen]
        _, first, place = np.unique(key, return_index=True, return_inverse=True)
    codes = np.full(len(seen), -1, dtype=np.intp)
    codes[seen] = place
    levels = _combined(factors, zip(*(factor.codes[seen][first] for factor in factors), strict=True), name)
    names = [factor.name for factor in factors]
    label = None if None in names else ":".join(map(str, names))
    ids = next((factor.ids for factor in factors if factor.ids is not None), None)
    return Factor(codes, levels, label, ids, tuple(factors))


def _combined(factors: Sequence[Factor], combinations: Iterable[tuple[int, ...]], name: str) -> Levels:
    """Return what combinations of levels are called, given by the places of these among the levels of each factor."""
    texts = [[level_text(level) for level in factor.levels] for factor in factors]
    levels = tuple(":".join(text[k] for text, k in zip(texts, row, strict=True)) for row in combinations)
    if len(set(levels)) < len(levels):
        raise ValueError(f"two levels of the interaction {name} have one name, as 'a:b' with 'c' and 'a' with 'b:c'.")
    return levels


def by_level(Z: SparseMatrix, columns: FloatArray) -> SparseMatrix:
    """Return the row-wise products of Z (n, levels) and columns (n, c), in column level · c + column."""
    c = columns.shape[1]
    row = np.repeat(np.arange(Z.shape[0]), np.diff(Z.indptr))
    data = (Z.data[:, None] * columns[row]).ravel()
    indices = (Z.indices[:, None].astype(np.int64) * c + np.arange(c)).ravel()
    return csr_array((data, indices, Z.indptr.astype(np.int64) * c), shape=(Z.shape[0], Z.shape[1] * c))
