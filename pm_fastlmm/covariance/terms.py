"""Term: one random-effects term Zu of a linear mixed model, its incidence and the covariance of its effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, issparse

from pm_fastlmm.base.arrays import FloatArray, Ids, Labelled, align, read, require_finite, require_length, shown
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.base.spelling import spelling_hint
from pm_fastlmm.covariance.algebra import Covariance, Kronecker
from pm_fastlmm.covariance.blocks import Blocks, blocks
from pm_fastlmm.covariance.incidence import Factor, Incidence, SparseMatrix, by_level, read_factor
from pm_fastlmm.covariance.levels import Levels, LevelSet
from pm_fastlmm.covariance.structures import Identity


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class Term(ReadOnlyArrays, Described):
    """
    One term Zu, u ~ N(0, G), of y = Xβ + Σ Zu + e.

    Parameters
    ----------
    by : grouping factor, mapping of several, or matrix
        A sequence, Series or Categorical of n labels; a list or tuple of several for their interaction; what
        `covariance.incidence` returns; or a matrix Z (n, q), an array, a DataFrame or a sparse matrix. A mapping has
        factors with the same levels, which have an effect in each of these roles: {"direct": animal, "maternal": dam},
        or giver and receiver. A row without a label, as of an unknown dam, has no effect in that role.
    covariance : Covariance
        That of the effects of the levels (or of the columns of the matrix). With `columns` or roles, that of the
        effects within one level, over these.
    columns : array, Series or DataFrame, (n,) or (n, c), or mapping, optional
        Covariates whose coefficients vary from level to level: the random slopes, with a column of ones for the
        intercept. With roles a mapping of those that have covariates, whose effects are then called "direct[age]".
    across : Covariance, optional
        With `columns` or roles, a covariance over the levels, which are independent by default. G is
        across ⊗ covariance.
    name : str, optional
        Default: that of the factor, joined by ":" for an interaction, or "u".

    Attributes
    ----------
    Z : scipy.sparse.csr_array, (n, q)
        Its column for a level and a column is level · width + column.
    levels : tuple
        Sorted, or in the order of the categories; the names of the columns of a matrix.
    columns : tuple of str
        Names of the columns or roles within a level, ("1",) without.
    covariance : Covariance
        G, of all q effects.
    between : Covariance
        The part of G that is over the levels.
    blocks : Blocks
        G taken apart into equal blocks.
    ids : tuple or None
        The index of `by` or `columns`, by which rows are aligned with y and X.

    Raises
    ------
    ValueError
        If a label or an entry is missing, lengths differ, a size does not fit, or a known K lacks levels (they are
        named).

    Notes
    -----
    A labelled K (`covariance.known` of a DataFrame) is matched to the levels by its labels, as people read them (1 is
    "1"), and may have more of them, which have no rows: fits predict their effects from those of their relatives, and
    the likelihood costs nothing more. An array has no labels: its rows are the levels in order only where these are the
    numbers from 0 or 1 on. Categories that do not occur in the data are left out, except those that a labelled K has
    (draws of `recover_effects` are of these) and all of an `ar1`, of which they are steps.

    Of an interaction the levels are the combinations that occur, "a:b". With a Kronecker product, a structure for each
    factor in their order, they are all combinations of the levels that these structures have: each is matched to its
    own factor, so that `kronecker(identity(), ar1(v, rho))` over [subject, time] has the steps of time.

    Examples
    --------
    >>> import pandas as pd
    >>> import pm_fastlmm as flmm
    >>> from pm_fastlmm import covariance as cov
    >>> table = pd.DataFrame(
    ...     {"subject": ["s1", "s1", "s2", "s2"], "one": 1.0, "days": [0.0, 1.0, 0.0, 1.0]}
    ... )
    >>> term = flmm.Term(
    ...     table["subject"],
    ...     cov.unstructured([[4.0, 1.0], [1.0, 2.0]]),
    ...     columns=table[["one", "days"]],
    ... )
    >>> term
    Term('subject': 2 levels × (one, days), Kronecker(Identity(size=2), Unstructured(cov=<2 × 2>, size=2)))
    >>> term.Z.toarray()
    array([[1., 0., 0., 0.],
           [1., 1., 0., 0.],
           [0., 0., 1., 0.],
           [0., 0., 1., 1.]])

    A lamb's weight has a part of its own genes and one of its dam's, of one pedigree and correlated:

    >>> flock = cov.Pedigree(["ram", "ewe", "lamb"], [0, 0, "ram"], [0, 0, "ewe"])
    >>> flmm.Term(
    ...     {"direct": ["ewe", "lamb"], "maternal": [None, "ewe"]},
    ...     cov.unstructured([[1.0, -0.2], [-0.2, 0.5]]),
    ...     across=cov.known(flock),
    ...     name="genes",
    ... ).Z.toarray()
    array([[0., 0., 1., 0., 0., 0.],
           [0., 0., 0., 1., 1., 0.]])
    """

    name: str
    Z: SparseMatrix
    levels: Levels
    columns: tuple[str, ...]
    covariance: Covariance
    between: Covariance
    blocks: Blocks
    ids: Ids | None

    def __init__(
        self, by: Any, covariance: Covariance, *, columns: Any = None, across: Covariance | None = None,
        name: str | None = None,
    ) -> None:  # fmt: skip
        for structure, argument in ((covariance, "covariance"), (across, "across")):
            if not isinstance(structure, Covariance | None) or (argument == "covariance" and structure is None):
                raise TypeError(
                    f"{argument} must be a covariance structure, got {type(structure).__name__}: wrap a variance as "
                    "flmm.covariance.scalar(v), a matrix or a pedigree as flmm.covariance.known(K)."
                )
        roles = tuple(map(str, by)) if isinstance(by, Mapping) else ()
        if across is not None and columns is None and not roles:
            raise ValueError("across= is the covariance over levels of a term with columns=: give it as covariance.")
        over_levels = across if roles or columns is not None else covariance
        names: tuple[str, ...] = ("1",)
        if roles:
            Z, level_set, names, ids = _in_roles(by, columns, over_levels, name)
            own_name = name
        else:
            Z, level_set, own_name, ids = _incidence(by, over_levels, name)
        levels, called = level_set.labels, level_set.name
        if over_levels is not None:
            over_levels = over_levels.over(level_set)
        between = over_levels or Identity(len(levels))
        if columns is not None and not roles:
            values, names, ids = _columns(columns, Z.shape[0], ids)
            Z = by_level(Z, values)
        if columns is not None or roles:
            within = covariance.over(LevelSet(names, called, "columns"))
            over_levels = Kronecker(between, within)
        assert over_levels is not None
        values_of = {
            "name": str(name if name is not None else own_name or "u"), "Z": Z, "levels": levels, "columns": names,
            "covariance": over_levels, "between": between, "blocks": blocks(over_levels), "ids": ids,
        }  # fmt: skip
        for attribute, value in values_of.items():
            object.__setattr__(self, attribute, value)

    @property
    def n(self) -> int:
        """The number of rows."""
        return int(self.Z.shape[0])

    @property
    def width(self) -> int:
        """The number of columns within a level."""
        return len(self.columns)

    def __repr__(self) -> str:
        """Show the name, how many levels, which columns, and the covariance."""
        columns = "" if self.columns == ("1",) else f" × ({', '.join(self.columns)})"
        return f"Term({self.name!r}: {len(self.levels)} levels{columns}, {self.covariance!r})"

    def _facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "rows": self.n,
            "levels": f"{len(self.levels)}: {listed(self.levels)}",
            "columns": "" if self.columns == ("1",) else listed(self.columns),
            "covariance": repr(self.covariance),
        }


def _incidence(
    by: Any, over_levels: Covariance | None, name: str | None
) -> tuple[SparseMatrix, LevelSet, str | None, Ids | None]:
    """Return Z over the levels, their labels, the name of the factor and the ids of the rows."""
    called = name or "u"
    if isinstance(by, Incidence):
        return by.Z, LevelSet(by.levels, called, unused=by.unused, sorted_from=by.sorted_from), None, None
    if issparse(by) or (not isinstance(by, list | tuple) and (hasattr(by, "columns") or np.ndim(by) == 2)):
        matrix: Any = by
        given: Any = Labelled(matrix, None, None) if issparse(by) else read(by, "by", ndim=(2,))
        Z: SparseMatrix = csr_array(given.values, dtype=np.float64, copy=True)
        Z.sum_duplicates()
        require_finite(Z.data, "by", "a design of random effects has no missing entries: drop those rows.")
        labels: Levels = given.names or tuple(range(Z.shape[1]))
        return Z, LevelSet(labels, called), None, given.ids
    factor = by if isinstance(by, Factor) else read_factor(by, "by")
    called = factor.name or called
    factor = _with_effects(factor, over_levels or Identity(), called)
    return factor.matrix(), factor.level_set(called), factor.name, factor.ids


def _in_roles(
    by: Mapping[str, Any], columns: Any, over_levels: Covariance | None, name: str | None
) -> tuple[SparseMatrix, LevelSet, tuple[str, ...], Ids | None]:
    """Return Z of factors with the same levels, these, the names of the columns within a level and the ids of rows."""
    factors = [
        one if isinstance(one, Factor) else read_factor(one, f"by[{role!r}]", missing_allowed=True)
        for role, one in by.items()
    ]
    for factor, role in zip(factors, by, strict=True):
        require_length(len(factor.codes), len(factors[0].codes), f"by[{role!r}]", "the other factors")
        if None not in (factor.ids, factors[0].ids) and factor.ids != factors[0].ids:
            raise ValueError("the factors of by= have different indexes: take them from one table.")
    called, ids = name or "u", next((factor.ids for factor in factors if factor.ids is not None), None)
    values, names, ids = _columns_of_roles(columns, [*map(str, by)], len(factors[0].codes), ids)
    occurring = over_roles(factors, ())
    recoded = [factor.subset(factor.used()).recoded(occurring) for factor in factors]
    if over_levels is not None and (everything := over_levels.over_all(occurring)) is not None:
        recoded = [_among(factor, *everything, called) for factor in recoded]
    levels = recoded[0].levels
    return incidence_in_roles(recoded, levels, values), LevelSet(levels, called), names, ids


def _columns_of_roles(
    columns: Any, roles: Sequence[str], n: int, ids: Ids | None
) -> tuple[list[FloatArray], tuple[str, ...], Ids | None]:
    """Return the columns that a level has in each role, ones without covariates, their names and the ids of rows."""
    columns = {} if columns is None else columns
    if not isinstance(columns, Mapping) or (strangers := [role for role in columns if role not in roles]):
        got = f"it has {shown(strangers)}" if isinstance(columns, Mapping) else f"got {type(columns).__name__}"
        raise ValueError(
            f"by= has several factors, so columns= is a mapping from some of their roles, {', '.join(roles)}, to "
            f"covariates, but {got}: leave a role out of it that has one effect without a covariate."
        )
    values, names = [], []
    for role in roles:
        if role in columns:
            own, called, ids = _columns(columns[role], n, ids)
            names += [f"{role}[{column}]" for column in called]
        else:
            own = np.ones((n, 1))
            names.append(role)
        values.append(own)
    return values, tuple(names), ids


def over_roles(factors: Sequence[Factor], known: Levels) -> Levels:
    """Return known levels, and those that occur in factors besides."""
    for factor in factors:
        known = factor.subset(factor.used()).recoded(known).levels
    return known


def incidence_in_roles(factors: Sequence[Factor], levels: Levels, values: Sequence[FloatArray]) -> SparseMatrix:
    """
    Return Z (n, levels · width) of factors, all of whose levels are among these.

    Within a level stand the columns (n, c) of the first factor, then those of the next.
    """
    width, start = sum(own.shape[1] for own in values), 0
    rows, places, entries = [], [], []
    for factor, own in zip(factors, values, strict=True):
        codes = factor.codes if factor.levels == levels else factor.subset(factor.used()).recoded(levels).codes
        inside, c = np.flatnonzero(codes >= 0), own.shape[1]
        rows.append(np.repeat(inside, c))
        places.append((codes[inside, None] * width + np.arange(start, start + c)).ravel())
        entries.append(own[inside].ravel())
        start += c
    coordinates = np.concatenate(rows), np.concatenate(places)
    return csr_array((np.concatenate(entries), coordinates), shape=(len(factors[0].codes), len(levels) * width))


def _with_effects(factor: Factor, over_levels: Covariance, name: str) -> Factor:
    """Return the factor over the levels that have effects: those that occur, and others that the covariance needs."""
    occurs = factor.subset(factor.used())
    if (everything := over_levels.over_all(occurs.levels)) is not None:
        return _among(occurs, *everything, name)
    if factor.parts:
        parts = [(part.levels, part.used()) for part in factor.parts]
        if (kept := over_levels.kept_of(parts, name)) is not None:
            return factor.crossed(kept)
    return factor.subset(over_levels.kept(factor.levels, factor.used()))


def _among(factor: Factor, labels: Levels, place: npt.NDArray[np.intp], name: str) -> Factor:
    """Return the factor over labels among which its levels have these places; a row that has none is refused."""
    if strangers := [level for level, at in zip(factor.levels, place, strict=True) if at < 0]:
        hint = spelling_hint(strangers, labels).removesuffix(".") or "leave their rows out, or add them to it"
        raise ValueError(
            f"the pedigree, tree or precision of term {name!r} lacks {len(strangers)} of the {len(factor.levels)} "
            f"levels in the data ({shown(strangers)}): {hint}."
        )
    codes = np.append(place, -1)[factor.codes]
    return Factor(codes, labels, factor.name, factor.ids, order_given=True)


def _columns(columns: Any, n: int, ids: Ids | None) -> tuple[FloatArray, tuple[str, ...], Ids | None]:
    """Return the columns within a level, in the order of the rows of the incidence, and their names."""
    labelled = read(columns, "columns", ndim=(1, 2))
    require_length(labelled.values.shape[0], n, "columns", "by")
    values = labelled.take(align(ids, labelled, name="columns", reference_name="by"))
    require_finite(values, "columns", "random slopes have no missing covariates: drop those rows.")
    names = labelled.names
    if values.ndim == 1:
        values, names = values[:, None], (str(getattr(columns, "name", None) or "x0"),)
    return values, names or tuple(f"x{j}" for j in range(values.shape[1])), ids if ids is not None else labelled.ids
