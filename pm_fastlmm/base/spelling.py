"""
Labels as people read them, however a table happens to store them.

7, 7.0, "7", "7.0" and " 7 " are one id: which of them a column holds depends on its blanks and on who read the file.
"007" and 7, "Rex" and "rex", "Homo sapiens" and "Homo_sapiens" are different texts that may be meant as one: nothing
is done to them, but where an id is not found, such a look-alike is shown.
"""

import re
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

_WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0+)?")
_DECIMAL = re.compile(r"[+-]?[0-9]*\.[0-9]+")
_SCIENTIFIC = re.compile(r"[+-]?[0-9](?:\.[0-9]*)?[eE][+-]?[0-9]{1,2}")
_APART = re.compile(r"[\s_.\-]+")
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d\u2060"))
_OF_NUMBERS = {*"0123456789+-."}
_SHOWN = 5


def level_text(level: Any) -> str:
    """Return a level as text; a whole number has no decimal point: it is a float where other rows are missing."""
    whole = isinstance(level, float | np.floating) and float(level).is_integer()
    return str(int(level)) if whole else str(level)


def as_read(label: Hashable) -> Hashable:
    """
    Return what people read, a text; a tuple is read part by part.

    Examples
    --------
    >>> [as_read(label) for label in (7, 7.0, " 7", "7.0", 7.5, "007")]
    ['7', '7', '7', '7', '7.5', '007']
    """
    if type(label) is str and label.isascii() and "." not in label and label == label.strip():
        return label  # most are, and there may be millions
    if isinstance(label, tuple):
        return tuple(map(as_read, label))
    text = label.decode(errors="replace") if isinstance(label, bytes) else level_text(label)
    text = unicodedata.normalize("NFC", text).strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def resemblance(label: Hashable) -> Hashable:
    """
    Return what labels share that may be meant as one: but for case, leading zeros, separators and ways of writing.

    Examples
    --------
    >>> [
    ...     resemblance(label)
    ...     for label in ("007", "1e+05", "Homo sapiens", "homo_sapiens", "7.50")
    ... ]
    ['7', '100000', 'homo_sapiens', 'homo_sapiens', '7.5']
    """
    read = as_read(label)
    if isinstance(read, tuple):
        return tuple(map(resemblance, read))
    text = str(read)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_INVISIBLE)
    text = text.strip().casefold().removesuffix(" 00:00:00")  # of a date that was read as a time
    if ":" in text:  # FID:IID
        return ":".join(str(resemblance(part)) for part in text.split(":"))
    if text[:1] not in _OF_NUMBERS:
        return _APART.sub("_", text)
    if _SCIENTIFIC.fullmatch(text) and float(text).is_integer():
        return str(int(float(text)))
    if _WHOLE.fullmatch(text):
        sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text.lstrip("+"))
        return sign + (digits.lstrip("0") or "0")
    if _DECIMAL.fullmatch(text):
        return repr(float(text))
    return _APART.sub("_", text)


def places(wanted: Sequence[Hashable], labels: Sequence[Hashable]) -> list[int]:
    """
    Return where each wanted label stands among others, -1 where it does not; the same object first, then as read.

    Raises
    ------
    ValueError
        If two labels read the same, so that it is not clear which is meant, or a number has lost its last digits.
    """
    exact = {label: i for i, label in enumerate(labels)}
    found = [exact.get(label, -1) for label in wanted]
    if min(found, default=0) >= 0:
        return found
    require_digits(wanted)
    require_digits(labels)
    read: dict[Hashable, list[int]] = {}
    for i, label in enumerate(labels):
        read.setdefault(as_read(label), []).append(i)
    taken = {place: label for place, label in zip(found, wanted, strict=True) if place >= 0}
    for k, label in enumerate(wanted):
        if found[k] >= 0 or not (same := read.get(as_read(label))):
            continue
        twice = [labels[i] for i in same] if len(same) > 1 else [taken[same[0]], label] if same[0] in taken else []
        if twice:
            raise ValueError(
                f"{' and '.join(map(repr, twice[:2]))} read the same, and {label!r} may be either: write them "
                "differently, or all ids as one type."
            )
        found[k] = same[0]
        taken[same[0]] = label
    return found


def require_digits(labels: Iterable[Hashable], name: str = "ids", dtype: object = None) -> None:
    """
    Refuse whole numbers in floating point that are so large that neighbours are one number.

    Raises
    ------
    ValueError
        If there is one; `dtype` is that of the column, for floats of fewer bits.
    """
    if isinstance(dtype, np.dtype) and dtype.kind in "iu":
        return
    limit = 2.0 ** (np.finfo(dtype).nmant + 1) if isinstance(dtype, np.dtype) and dtype.kind == "f" else 2.0**53
    for label in labels:
        if isinstance(label, float | np.floating) and limit <= abs(float(label)) < np.inf:
            raise ValueError(
                f"{name} has {label!r}, a number in floating point from 2^{int(np.log2(limit))} on, where different "
                "ids become one: read the column as text (dtype=str in pd.read_csv) or as 'Int64'."
            )


def look_alikes(strangers: Iterable[Hashable], labels: Iterable[Hashable]) -> list[tuple[Hashable, Hashable]]:
    """Return each label that was not found with one that it may be meant to be."""
    like: dict[Hashable, Hashable] = {}
    for label in labels:
        like.setdefault(resemblance(label), label)
    return [(stranger, like[key]) for stranger in strangers if (key := resemblance(stranger)) in like]


def spelling_hint(strangers: Iterable[Hashable], labels: Iterable[Hashable]) -> str:
    """Return a sentence that names look-alikes, empty if there are none."""
    return said_of_pairs(look_alikes(strangers, labels))


def said_of_pairs(pairs: Sequence[tuple[Hashable, Hashable]]) -> str:
    """Return a sentence about pairs that look alike, empty if there are none."""
    if not pairs:
        return ""
    more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    shown = ", ".join(f"{stranger!r} and {label!r}" for stranger, label in pairs[:_SHOWN])
    if all(_without_zeros(stranger) == _without_zeros(label) for stranger, label in pairs):
        return f"{shown}{more} differ only in leading zeros: read both as text, dtype=str in pd.read_csv."
    return f"{shown}{more} differ only in their spelling: write them alike."


def _without_zeros(label: Hashable) -> str:
    return ":".join(part.lstrip("0") for part in str(as_read(label)).split(":"))
