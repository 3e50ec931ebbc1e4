"""Numbers and texts that stand for a missing value: PLINK's -9 and its like, told from values by the gap to others."""

import warnings
from collections.abc import Hashable, Sequence
from itertools import islice

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, outside

CODES = (-99999.0, -9999.0, -999.0, -99.0, -9.0, 99.0, 999.0, 9999.0, 99999.0)
_GAP = 3.0  # standard deviations of the other values, from the nearest of them
_FEWEST = 4
_LARGE_COUNT = 5  # up to which -1 may be the next step of a coding, such as -1, 0, 1 or a logarithm
_TEXTS = {"na", "n/a", "#n/a", "<na>", "nan", "nat", "null", "missing", "unknown", ".", "?", "-", ""}


def warn_of_missing_codes(
    columns: FloatArray, names: Sequence[str], low: FloatArray, high: FloatArray, *, remedy: str, response: bool = False
) -> None:
    """
    Warn of each column (n, T) whose smallest or largest value looks like a code for missing ones.

    Parameters
    ----------
    columns : (n, T) array
    names : sequence of str
    low, high : (T,) arrays
        The smallest and the largest value of each column.
    remedy : str
        How the user replaces the number {code} by NaN, with np.
    response : bool
        Whether -1 among counts is such a code, too; as a covariate it may be the visit before the first.
    """
    suspect = np.isin(low, CODES) | np.isin(high, CODES)
    for j in np.flatnonzero(suspect).tolist():
        _warn(columns[:, j], names[j], remedy)
    for j in np.flatnonzero(response & (low == -1) & (high >= _LARGE_COUNT)).tolist():
        _warn_of_minus_one(columns[:, j], names[j], remedy)


def warn_of_coded_level(counts: dict[Hashable, int], name: str) -> None:
    """
    Warn of each level of a grouping factor that looks like a code for missing ones; one of a single row does no harm.

    Parameters
    ----------
    counts : dict
        How often each level occurs.
    name : str
        The column of the table.
    """
    kinds = set(map(type, counts))  # there may be a million levels
    texts = [label for label in counts if isinstance(label, str)] if any(issubclass(k, str) for k in kinds) else []
    coded: list[Hashable] = [label for label in texts if label.strip().casefold() in _TEXTS]
    if len(texts) > 1 and all(len(label) == 2 and label.isupper() for label in texts):
        coded = []  # NA is North America or Namibia among such
    if len(counts) >= _FEWEST and all(issubclass(k, int | float) for k in kinds):
        below = np.flatnonzero(np.fromiter(counts, dtype=float, count=len(counts)) < 0)
        if len(below) == 1 and (code := next(islice(counts, int(below[0]), None))) in (*CODES, -1.0):
            coded.append(code)
    for label in (label for label in coded if counts[label] > 1):
        warnings.warn(
            f"the grouping factor {name!r} has the level {label!r}, {counts[label]} of {sum(counts.values())} rows: "
            "they are taken as one group. If it stands for a missing one, replace it by NaN, "
            f"data[{name!r}].replace({label!r}, np.nan): such rows are left out and counted.",
            UserWarning,
            stacklevel=outside(),
        )


def _warn_of_minus_one(column: FloatArray, name: str, remedy: str) -> None:
    column = column[np.isfinite(column)]
    count = int((column == -1).sum())
    others = column[column != -1]
    if count > 1 and len(others) >= _FEWEST and others.min() >= 0 and (others == np.floor(others)).all():
        _say(column, -1.0, others, name, remedy)


def _warn(column: FloatArray, name: str, remedy: str) -> None:
    column = column[np.isfinite(column)]
    others = column[~np.isin(column, CODES)]
    if len(others) < _FEWEST:
        return
    low, high, spread = float(others.min()), float(others.max()), float(others.std())
    for code in sorted({float(column.min()), float(column.max())} & set(CODES)):
        count = int((column == code).sum())
        gap = low - code if code < low else code - high
        far = gap > _GAP * spread > 0
        below = code < 0 and low >= 0 < gap and count > 1  # the only negative number there is
        if (far and (code < 0 or code > 99 or count > 1)) or below:
            _say(column, code, others, name, remedy)


def _say(column: FloatArray, code: float, others: FloatArray, name: str, remedy: str) -> None:
    replaced = remedy.replace("{code}", f"{code:g}")
    warnings.warn(
        f"{name} is {code:g} in {int((column == code).sum())} of {len(column)} rows, and {others.min():g} to "
        f"{others.max():g} in the others: it is taken as a value. If it stands for a missing one, as PLINK's -9, "
        f"replace it by NaN, {replaced}: flmm.Design, lmm_model and kernel_model leave such rows out and count them.",
        UserWarning,
        stacklevel=outside(),
    )
