"""One reading of the columns of a pedigree: who is whose parent, which parents are unknown, and what looks mistaken."""

import re
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import outside, shown
from pm_fastlmm.base.spelling import as_read, look_alikes, resemblance, said_of_pairs
from pm_fastlmm.covariance.ids import Labels, elements, read_index

type Parents = dict[Hashable, tuple[Hashable, Hashable]]

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
    parents : dict
        Sire and dam of everybody (parents without a row come with None for both), None where unknown; by the texts
        that people read.
    spelling : dict
        How each of those texts is written.
    codes : dict of str to int
        Which codes stood for an unknown parent, and how often; "missing" counts None and NaN.
    clones : dict
        The individual that each clone is a copy of.
    """

    ids: pd.Index
    parents: Parents
    spelling: dict[Hashable, Hashable]
    codes: dict[str, int]
    clones: dict[Hashable, Hashable]

    def original(self, key: Hashable) -> Hashable:
        """Return the individual whose genes someone has: itself, unless it is a clone."""
        while key in self.clones:
            key = self.clones[key]
        return key

    def order(self) -> list[Hashable]:
        """Return everybody but the clones, parents before offspring; a loop is refused."""
        known = {key: [self.original(p) for p in pair if p is not None] for key, pair in self.parents.items()}
        try:
            return list(TopologicalSorter({k: v for k, v in known.items() if k not in self.clones}).static_order())
        except CycleError as error:
            loop = " → ".join(repr(self.spelling[key]) for key in error.args[1])
            raise ValueError(f"The pedigree has a loop, {loop} (parent → offspring): correct one of them.") from None

    def account(self) -> dict[str, Any]:
        """Return the counts that go with a matrix."""
        founders = sum(pair == (None, None) for key, pair in self.parents.items() if key not in self.clones)
        return {
            "founders_added": len(self.parents) - len(self.ids), "founders": founders, "unknown_codes": self.codes,
        }  # fmt: skip

    def table(self) -> pd.DataFrame:
        """Return sire and dam of everybody, parents without a row at the end."""
        write = {None: None} | self.spelling
        index = pd.Index([write[key] for key in self.parents], dtype=object, name="id", tupleize_cols=False)
        columns = {
            name: pd.Series([write[pair[k]] for pair in self.parents.values()], index=index, dtype=object)
            for k, name in enumerate(("sire", "dam"))
        }
        out = pd.DataFrame(columns | {"row": np.arange(len(index)) < len(self.ids)}, index=index)
        out.attrs.update(self.account())
        return out


def read_pedigree(id: Labels, sire: Labels, dam: Labels, *, unknown: Any = UNKNOWN_PARENTS) -> pd.DataFrame:
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
    >>> table = read_pedigree([1, 2, 3], ["-9", "1", "1.0"], ["*", "7", "2"])
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
    columns = [[*map(_present, elements(values, name))] for values, name in ((sire, "sire"), (dam, "dam"))]
    if len(set(lengths := [len(ids), *map(len, columns)])) > 1:
        raise ValueError(f"id, sire and dam must be equally long, got {lengths}: give None for an unknown parent.")
    codes = _codes(unknown)
    spelling = _spelling_of(ids, codes)
    padded = [_by_number(spelling) if _are_numbers(column) else {} for column in columns]
    counts: Counter[str] = Counter()
    parents: Parents = {}
    for key, pair in zip(list(spelling), zip(*columns, strict=True), strict=True):
        read = [_parent(label, codes, counts) for label in pair]
        parents[key] = tuple(known.get(p, p) for known, p in zip(padded, read, strict=True))  # type: ignore[assignment]
        for label, parent in zip(pair, parents[key], strict=True):
            if parent is not None:
                spelling.setdefault(parent, label)
    listed = len(ids)
    copies = _clones(clones or {}, parents, spelling)
    added = list(spelling)[listed:]
    _refuse_mistaken(added, parents, spelling)
    _ask_about_codes(added, parents, spelling)
    return Parentage(ids, parents | dict.fromkeys(added, (None, None)), spelling, dict(counts), copies)


def _present(label: Any) -> Any:
    """Return None for what is missing in any of its types."""
    last = label[-1] if isinstance(label, tuple) and label else label
    return None if last is None or (np.ndim(last) == 0 and bool(pd.isna(last))) else label


def _codes(unknown: Any) -> frozenset[str]:
    """Return codes as they are compared: as read, in lower case."""
    given = [unknown] if isinstance(unknown, str | int | float) or unknown is None else list(unknown)
    return frozenset(_folded(code) for code in given if _present(code) is not None)


def _folded(label: Hashable) -> str:
    """Return a label in lower case, zeros as one; of a family and an individual within it, the individual."""
    text = _text(label).casefold()
    return "0" if text and not text.strip("0") else text


def _text(label: Any) -> str:
    return str(as_read(label[-1] if isinstance(label, tuple) else label))


def _is_code(label: Any, codes: frozenset[str]) -> bool:
    return (folded := _folded(label)) == "" or folded in codes


def _parent(label: Any, codes: frozenset[str], counts: Counter[str]) -> Hashable:
    """Return a parent as read, None for an unknown one, which is counted."""
    if label is None:
        counts["missing"] += 1
        return None
    if _is_code(label, codes):
        counts[_text(label) or "blank"] += 1
        return None
    return as_read(label)


def _spelling_of(ids: pd.Index, codes: frozenset[str]) -> dict[Hashable, Hashable]:
    """Return how each id is spelled, by what people read."""
    if coded := [label for label in ids if _is_code(label, codes)]:
        raise ValueError(
            f"id {shown(coded)} stands for an unknown parent: rename it, drop its row, or name the codes of unknown "
            "parents in unknown=, such as unknown=['*']."
        )
    return {as_read(label): label for label in ids.tolist()}


def _are_numbers(column: list[Any]) -> bool:
    return all(label is None or (isinstance(label, Real) and not isinstance(label, bool)) for label in column)


def _by_number(spelling: dict[Hashable, Hashable]) -> dict[Hashable, Hashable]:
    """
    Return the ids of digits with leading zeros by their number, if all ids are digits and one alone is that number.

    A column of numbers cannot carry leading zeros: its 1 is the "0001" of a column of text. A text "1" is not.
    """
    if not all(isinstance(key, str) and key.isascii() and key.isdigit() for key in spelling):
        return {}
    numbers = Counter(map(resemblance, spelling))
    return {resemblance(key): key for key in spelling if numbers[resemblance(key)] == 1}


def _clones(given: Mapping[Any, Any], parents: Parents, spelling: dict[Hashable, Hashable]) -> dict[Hashable, Hashable]:
    """Return whose copy each clone is, as read; they share their parents."""
    copies: dict[Hashable, Hashable] = {}
    for copy, original in given.items():
        key, other = as_read(copy), as_read(original)
        if unlisted := [label for label, k in ((copy, key), (original, other)) if k not in parents]:
            raise ValueError(f"clones names {shown(unlisted)}, without a row in the pedigree: add it.")
        copies[key] = other
    for key in copies:
        seen = {key}
        original = copies[key]
        while original in copies and original not in seen:
            seen.add(original)
            original = copies[original]
        if original in seen:
            raise ValueError(f"clones has {spelling[key]!r} as a copy of itself: name one of them the original.")
        if parents[key] not in (parents[original], (None, None)):
            raise ValueError(
                f"{spelling[key]!r} is a clone of {spelling[original]!r} but has other parents: give both the same, "
                "or those of the clone as unknown."
            )
    return copies


def _refuse_mistaken(added: list[Hashable], parents: Parents, spelling: dict[Hashable, Hashable]) -> None:
    """Refuse parents without a row that are probably an individual in another spelling, or no individual at all."""
    listed = [spelling[key] for key in parents]
    strangers = [spelling[key] for key in added]
    pairs = look_alikes(strangers, listed)
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
    sires, dams = ({pair[k] for pair in parents.values()} for k in (0, 1))
    if both := [spelling[key] for key in added if key in sires and key in dams]:
        raise ValueError(
            f"{_said('Parent', both, 'is sire and dam but has', 'are sire and dam but have')} no row of its own, as a "
            f"code of unknown parents has none: name it in unknown=, such as unknown={_with_codes(both)}, or give the "
            "individual a row with unknown parents."
        )
    if groups := [label for label in strangers if re.fullmatch(r"-[0-9]+", str(as_read(label)))]:
        raise ValueError(
            f"{_said('Parent', groups, 'is a negative number', 'are negative numbers')} without a row, as BLUPF90 and "
            f"DMU write groups of unknown parents: name it in unknown=, such as unknown={_with_codes(groups)}."
        )


def _ask_about_codes(added: list[Hashable], parents: Parents, spelling: dict[Hashable, Hashable]) -> None:
    """
    Warn of a parent without a row that most individuals have whose parents are unknown or without a row.

    It is looked for among the individuals without other ancestors, and on the side of the sire and of the dam, whatever
    the other parent is.
    """
    without_row = set(added)
    pairs = [pair for pair in parents.values() if pair != (None, None)]
    tops = [pair for pair in pairs if all(p is None or p in without_row for p in pair)]
    counts = Counter(p for pair in tops for p in pair if p is not None)
    many = [key for key in added if counts[key] >= _MANY and 2 * counts[key] > len(tops)]
    if many:
        numbers = " and ".join(str(counts[key]) for key in many)
        have = f"of the {len(tops)} individuals without other ancestors {numbers} have"
        _warn_of_codes(many, f"{have} {'it' if len(many) == 1 else 'them'}", spelling)
    numbered = all(_WHOLE.fullmatch(str(key)) for key in parents)
    for side, name in enumerate(("sire", "dam")):
        open_ends = [pair for pair in pairs if pair[side] is None or pair[side] in without_row]
        counts = Counter(pair[side] for pair in open_ends if pair[side] is not None)
        for key, count in counts.most_common(1):
            mates = {pair[1 - side] for pair in open_ends if pair[side] == key} & parents.keys()
            word = numbered and len(mates) > 1 and not _WHOLE.fullmatch(str(key))
            enough = max(_FEW, len(pairs) / 2) if word else max(_MANY, _SHARE * len(pairs))
            if key not in many and count >= enough and 2 * count > len(open_ends):
                whose = f"individuals whose {name} is unknown or has no row"
                _warn_of_codes([key], f"is the {name} of {count} of the {len(open_ends)} {whose}", spelling)


def _warn_of_codes(keys: list[Hashable], said: str, spelling: dict[Hashable, Hashable]) -> None:
    labels = [spelling[key] for key in keys]
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


def _with_codes(labels: list[Hashable]) -> str:
    """Return the argument that reads these as unknown, too, as the user writes it."""
    return f"[*flmm.covariance.UNKNOWN_PARENTS, {', '.join(map(repr, labels))}]"
