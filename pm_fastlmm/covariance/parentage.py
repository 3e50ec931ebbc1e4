"""One reading of the columns of a pedigree: who is whose parent, which parents are unknown, and what looks mistaken."""

import re
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.arrays import outside, shown
from pm_fastlmm.base.spelling import as_read, look_alikes, said_of_pairs
from pm_fastlmm.covariance.distinct import Column, Keys, is_missing, keys_of, objects, read_column, texts, whole_numbers
from pm_fastlmm.covariance.ids import Labels, read_index
from pm_fastlmm.sparse.genealogy import parents_first

type IntArray = npt.NDArray[np.intp]

UNKNOWN_PARENTS: tuple[Hashable, ...] = (
    0, ".", "*", "?", "-", "NA", "N/A", "#N/A", "<NA>", "NaN", "NaT", "None", "null", "unk", "unknown", "missing",
    -1, -9, -99, -998, -999, -9999,
)  # fmt: skip
"""Codes of unknown parents: 0 (PLINK, GCTA, BLUPF90, DMU, WOMBAT, ASReml), NA (R), -998 (nadiv), * (ASReml), …"""

_MANY = 5  # offspring of one parent without a row, from which on it is asked whether it is a code
_SHARE = 0.1  # of all that have parents, which is also needed where others have ancestors
_FEW = 3  # enough of a text among numbers, with several mates and half of all offspring
_WHOLE = re.compile(r"[0-9]+")
_SCIENTIFIC = re.compile(r"[0-9](?:\.[0-9]+)?[eE]\+[0-9]+")


@dataclass(frozen=True, slots=True, eq=False)
class Parentage:
    """
    A pedigree, as read.

    Attributes
    ----------
    ids : Index
        Individuals with a row, spelled as they are there.
    people : tuple
        Everybody, spelled as they first are: those with a row in their order, then parents without one.
    parents : (people, 2) array of int
        Sire and dam of everybody by their places among `people`, -1 where unknown.
    codes : dict of str to int
        Which codes stood for an unknown parent, and how often; "missing" counts None and NaN.
    original : (people,) array of int
        The individual whose genes everybody has: itself, unless it is a clone.
    """

    ids: pd.Index
    people: tuple[Hashable, ...]
    parents: IntArray
    codes: dict[str, int]
    original: IntArray

    def of_originals(self) -> tuple[IntArray, IntArray, IntArray]:
        """
        Return the parents of all but the clones as places among these, their order, and where everybody is among these.

        Raises
        ------
        ValueError
            If somebody descends from itself.
        """
        kept = self.original == np.arange(len(self.original))
        rows = (np.cumsum(kept) - 1)[self.original]
        parents = np.append(rows, -1)[self.parents[kept]]
        order, loop = parents_first(parents)
        if loop.size:
            people = np.flatnonzero(kept)
            named = " → ".join(repr(self.people[people[i]]) for i in [*loop, loop[0]])
            raise ValueError(f"The pedigree has a loop, {named} (parent → offspring): correct one of them.")
        return parents, order, rows

    def account(self) -> dict[str, Any]:
        """Return the counts that go with a matrix."""
        nobody = (self.parents < 0).all(axis=1) & (self.original == np.arange(len(self.original)))
        return {
            "founders_added": len(self.people) - len(self.ids), "founders": int(nobody.sum()),
            "unknown_codes": self.codes,
        }  # fmt: skip

    def table(self) -> pd.DataFrame:
        """Return sire and dam of everybody, parents without a row at the end."""
        written = objects((*self.people, None))
        index = pd.Index(written[:-1], dtype=object, name="id", tupleize_cols=False)
        columns = {
            name: pd.Series(written[self.parents[:, k]], index=index, dtype=object)
            for k, name in enumerate(("sire", "dam"))
        }
        out = pd.DataFrame(columns | {"row": np.arange(len(index)) < len(self.ids)}, index=index)
        out.attrs.update(self.account())
        return out


def parents_as_read(id: Labels, sire: Labels, dam: Labels, *, unknown: Any = UNKNOWN_PARENTS) -> pd.DataFrame:
    """
    Return the pedigree as `pedigree` reads these columns, to check relationships that look wrong.

    Parameters
    ----------
    id, sire, dam, unknown
        As in `pedigree`.

    Returns
    -------
    pandas.DataFrame
        Over everybody, parents without a row at the end: ``sire`` and ``dam``, None where unknown, and whether there
        is a ``row``. ``attrs`` count ``founders`` (both parents unknown), ``founders_added`` (parents without a row)
        and ``unknown_codes`` (which codes stood for an unknown parent, how often).

    Raises
    ------
    ValueError
        As `pedigree`.

    Examples
    --------
    >>> table = parents_as_read([1, 2, 3], ["-9", "1", "1.0"], ["*", "7", "2"])
    >>> table
        sire   dam    row
    id
    1   None  None   True
    2      1     7   True
    3      1     2   True
    7   None  None  False
    >>> table.attrs["unknown_codes"]
    {'-9': 1, '*': 1}
    """
    return read_parents(id, sire, dam, unknown=unknown).table()


def read_parents(
    id: Labels, sire: Labels, dam: Labels, *, unknown: Any = UNKNOWN_PARENTS, clones: Mapping[Any, Any] | None = None
) -> Parentage:
    """
    Read the columns of a pedigree.

    Raises
    ------
    ValueError
        As `pedigree`.
    """
    ids = read_index(id, "id")
    columns = [read_column(values, name) for values, name in ((sire, "sire"), (dam, "dam"))]
    if len(set(lengths := [len(ids), *(len(column.places) for column in columns)])) > 1:
        raise ValueError(f"id, sire and dam must be equally long, got {lengths}: give None for an unknown parent.")
    codes = _codes(unknown)
    keys = Keys(ids.to_numpy())
    if coded := ids[_coded(keys.keys, codes)].tolist():
        raise ValueError(
            f"id {shown(coded)} stands for an unknown parent: rename it, drop its row, or name the codes of unknown "
            "parents in unknown=, such as unknown=['*']."
        )
    listed = len(ids)
    parents, added, counts = _parents_by_place(columns, keys, codes)
    original = _originals(clones or {}, parents, keys, ids)
    people = (*ids.tolist(), *added)
    _refuse_mistaken(people, parents, listed)
    _ask_about_codes(people, parents, listed)
    founders = np.full((len(added), 2), -1)
    return Parentage(
        ids, people, np.concatenate([parents, founders]), counts, np.append(original, listed + np.arange(len(added)))
    )


def _parents_by_place(
    columns: Sequence[Column], keys: Keys, codes: frozenset[str]
) -> tuple[IntArray, list[Hashable], dict[str, int]]:
    """Return both parents of all rows as places, first among the ids; those without a row; and the codes met."""
    listed = len(keys)
    labels: list[Hashable] = []
    strangers: list[Hashable] = []
    met: list[tuple[Any, str, int]] = []
    who = []
    for side, column in enumerate(columns):
        read = keys_of(column.labels)
        place = keys.find(read, numbers=column.numbers)
        coded = np.array(_coded(read, codes), dtype=np.intp)
        place[coded] = -1
        strange = np.setdiff1d(np.flatnonzero(place < 0), coded)
        place[strange] = listed + len(labels) + np.arange(len(strange))
        strangers += texts(read[strange])
        labels += column.labels[strange].tolist()
        met += _codes_met(column, read, coded, side)
        who.append(np.append(place, -1)[column.places])
    parents = np.stack(who, axis=1)
    rank, spelled = _by_appearance(parents, listed, strangers)
    parents = np.append(np.arange(listed), np.append(rank, -1))[parents]
    counts: Counter[str] = Counter()
    for _, text, count in sorted(met):
        counts[text] += count
    return parents, [labels[i] for i in spelled], dict(counts)


def _by_appearance(parents: IntArray, listed: int, strangers: list[Hashable]) -> tuple[IntArray, IntArray]:
    """Return the places of parents without a row, in the order of their appearance, and where each is spelled first."""
    flat = parents.ravel()
    seen = pd.unique(flat[flat >= listed]) - listed
    key, _ = pd.factorize(objects([strangers[i] for i in seen.tolist()]))
    rank = np.zeros(len(strangers), dtype=np.intp)
    rank[seen] = listed + key
    first = np.zeros(key.max(initial=-1) + 1, dtype=np.intp)
    first[key[::-1]] = seen[::-1]
    return rank, first


def _codes_met(column: Column, read: npt.NDArray[Any], coded: IntArray, side: int) -> list[tuple[Any, str, int]]:
    """Return each code of a column by its first place (row, side), as text, and how often it occurs."""
    names = {int(i): _last_text(read[i]) or "blank" for i in coded} | {-1: "missing"}
    out = []
    for i, text in names.items():
        rows = np.flatnonzero(column.places == i)
        if rows.size:
            out.append(((int(rows[0]), side), text, len(rows)))
    return out


def _codes(unknown: Any) -> frozenset[str]:
    """Return codes as they are compared: as read, in lower case, zeros as one."""
    given = [unknown] if isinstance(unknown, str | int | float) or unknown is None else list(unknown)
    read = (_last_text(as_read(code)).casefold() for code in given if not is_missing(code))
    return frozenset("0" if text and not text.strip("0") else text for text in read)


def _last_text(read: Any) -> str:
    """Return a label as read; of a family and an individual within it, the individual."""
    return str(read[-1] if isinstance(read, tuple) else read)


def _is_code(label: Any, codes: frozenset[str]) -> bool:
    text = label if type(label) is str else _last_text(label)
    if not text.strip("0"):  # zeros are one code, and a blank always is
        return not text or "0" in codes
    return text.casefold() in codes


def _coded(read: npt.NDArray[Any], codes: frozenset[str]) -> list[int]:
    """Return which labels, as read, are codes."""
    if read.dtype.kind == "i":  # numbers: few are as short as a code
        numbers = [int(code) for code in codes if re.fullmatch(r"-?[0-9]{1,18}", code)]
        return [i for i in np.flatnonzero(np.isin(read, numbers)).tolist() if _is_code(str(read[i]), codes)]
    longest = max(map(len, codes), default=0)
    short = (i for i, x in enumerate(read.tolist()) if type(x) is not str or len(x) <= longest or x[0] == "0")
    return [i for i in short if _is_code(read[i], codes)]


def _originals(given: Mapping[Any, Any], parents: IntArray, keys: Keys, ids: pd.Index) -> IntArray:
    """Return whose copy each individual with a row is, itself if nobody's; clones share their parents."""
    original = np.arange(len(ids))
    if not given:
        return original
    pairs = np.stack(
        [keys.find(keys_of(whole_numbers(objects(labels)))) for labels in (given.keys(), given.values())], axis=1
    )
    names = ids.tolist()
    for (copy, other), places in zip(given.items(), pairs, strict=True):
        if unlisted := [label for label, place in zip((copy, other), places, strict=True) if place < 0]:
            raise ValueError(f"clones names {shown(unlisted)}, without a row in the pedigree: add it.")
    original[pairs[:, 0]] = pairs[:, 1]
    for k in pairs[:, 0]:
        seen, other = {k}, original[k]
        while original[other] != other and other not in seen:
            seen.add(other)
            other = original[other]
        if other in seen:
            raise ValueError(f"clones has {names[k]!r} as a copy of itself: name one of them the original.")
        if (parents[k] != parents[other]).any() and (parents[k] >= 0).any():
            raise ValueError(
                f"{names[k]!r} is a clone of {names[other]!r} but has other parents: give both the same, "
                "or those of the clone as unknown."
            )
    while (original != original[original]).any():
        original = original[original]
    return original


def _refuse_mistaken(people: Sequence[Hashable], parents: IntArray, listed: int) -> None:
    """Refuse parents without a row that are probably an individual in another spelling, or no individual at all."""
    strangers = people[listed:]
    if not strangers:
        return
    pairs = look_alikes(strangers, people[:listed])
    pairs += [(later, first) for later, first in look_alikes(strangers, strangers) if later is not first]
    if pairs:
        raise ValueError(
            f"Parents without a row of their own look like another individual: {said_of_pairs(pairs)} Read all three "
            "columns as text (dtype=str in pd.read_csv). If they are different individuals, give each a row with "
            "unknown parents."
        )
    if lost := [label for label in strangers if _SCIENTIFIC.fullmatch(str(label))]:
        raise ValueError(
            f"{_said('Parent', lost, 'is a number', 'are numbers')} in scientific notation, without all digits: write "
            "ids in full."
        )
    if both := [people[i] for i in np.intersect1d(*parents.T) if i >= listed]:
        one, several = "is sire and dam but has no row of its own", "are sire and dam but have no row of their own"
        raise ValueError(
            f"{_said('Parent', both, one, several)}, as a code of unknown parents has none: name "
            f"{_them(both)} in unknown=, such as unknown={_with_codes(both)}, or give the individual"
            f"{'s' * (len(both) > 1)} a row with unknown parents. Effects of groups of unknown parents are columns "
            "of X."
        )
    if groups := [label for label in strangers if re.fullmatch(r"-[0-9]+", str(as_read(label)))]:
        raise ValueError(
            f"{_said('Parent', groups, 'is a negative number', 'are negative numbers')} without a row, as BLUPF90 and "
            f"DMU write groups of unknown parents: name {_them(groups)} in unknown=, such as "
            f"unknown={_with_codes(groups)}; effects of groups are columns of X."
        )


def _ask_about_codes(people: Sequence[Hashable], parents: IntArray, listed: int) -> None:
    """
    Warn of a parent without a row that most individuals have whose parents are unknown or without a row.

    It is looked for among the individuals without other ancestors, and on the side of the sire and of the dam, whatever
    the other parent is.
    """
    if len(people) == listed:
        return
    pairs = parents[(parents >= 0).any(axis=1)]
    without_row = (pairs < 0) | (pairs >= listed)
    tops = pairs[without_row.all(axis=1)]
    counts = np.bincount(tops[tops >= 0], minlength=len(people))
    many = [i for i in range(listed, len(people)) if counts[i] >= _MANY and 2 * counts[i] > len(tops)]
    if many:
        numbers = " and ".join(str(counts[i]) for i in many)
        have = f"of the {len(tops)} individuals without other ancestors {numbers} have"
        _warn_of_codes([people[i] for i in many], f"{have} {_them(many)}")
    for side, name in enumerate(("sire", "dam")):
        open_ends = pairs[without_row[:, side]]
        counts = np.bincount(open_ends[open_ends[:, side] >= 0, side], minlength=len(people))
        most = int(counts.argmax())
        count = int(counts[most])
        if most in many or count < _FEW or 2 * count <= len(open_ends):
            continue
        mates = open_ends[open_ends[:, side] == most, 1 - side]
        mates = np.unique(mates[(mates >= 0) & (mates < listed)])
        word = len(mates) > 1 and _is_text_among_numbers(people[most], people[:listed])
        if count >= (max(_FEW, len(pairs) / 2) if word else max(_MANY, _SHARE * len(pairs))):
            whose = f"individuals whose {name} is unknown or has no row"
            _warn_of_codes([people[most]], f"is the {name} of {count} of the {len(open_ends)} {whose}")


def _is_text_among_numbers(label: Hashable, others: Sequence[Hashable]) -> bool:
    return not _WHOLE.fullmatch(str(as_read(label))) and all(_WHOLE.fullmatch(str(as_read(other))) for other in others)


def _warn_of_codes(labels: list[Hashable], said: str) -> None:
    warnings.warn(
        f"{_said('Parent', labels, 'has no row', 'have no row')}, and {said}: they are taken as half-sibs or full "
        f"sibs. If this is a code of unknown parents, name it in unknown=, such as unknown={_with_codes(labels)}; if "
        "an individual, give it a row with unknown parents.",
        UserWarning,
        stacklevel=outside(),
    )


def _said(noun: str, labels: list[Hashable], one: str, several: str) -> str:
    """Return a subject with its predicate, in the singular or plural."""
    return f"{noun} {shown(labels)} {one}" if len(labels) == 1 else f"{noun}s {shown(labels)} {several}"


def _them(labels: Sequence[object]) -> str:
    return "it" if len(labels) == 1 else "them"


def _with_codes(labels: list[Hashable]) -> str:
    """Return the argument that reads these as unknown, too, as the user writes it."""
    return f"[*flmm.covariance.UNKNOWN_PARENTS, {', '.join(map(repr, labels))}]"
