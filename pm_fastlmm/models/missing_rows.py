"""Rows with a missing value: which they are, how many values each column lacks, and what is said of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, Ids, shown, warn

type Gaps = dict[str, npt.NDArray[np.bool_]]
"""Where values are missing, by the name of the column; columns without a gap are not there."""


def gaps_in(data: pd.DataFrame, columns: Iterable[Any]) -> Gaps:
    """Return the gaps of some columns of a table."""
    return _some((str(name), np.asarray(data[name].array.isna())) for name in columns)


def gaps_of(values: FloatArray, names: Sequence[str]) -> Gaps:
    """Return the gaps of an array (n, …) with these columns."""
    missing = np.isnan(values.reshape(len(values), -1))
    return _some((name, missing[:, j]) for j, name in enumerate(names)) if missing.any() else {}


def _some(columns: Iterable[tuple[str, npt.NDArray[np.bool_]]]) -> Gaps:
    return {name: missing for name, missing in columns if missing.any()}


def complete(gaps: Gaps, n: int) -> npt.NDArray[np.bool_]:
    """
    Return which of n rows have a value in each column.

    Raises
    ------
    ValueError
        If none has.
    """
    seen = np.ones(n, dtype=bool)
    for missing in gaps.values():
        seen &= ~missing
    if not seen.any():
        raise ValueError(f"every row has a missing value ({listed_counts(counts_of(gaps))}): nothing is left to fit.")
    return seen


def dropped_rows(seen: npt.NDArray[np.bool_], gaps: Gaps, ids: Ids | None) -> tuple[Any, ...]:
    """Return the ids, or numbers, of the rows that are not seen, and warn of them."""
    left_out = np.flatnonzero(~seen)
    dropped = tuple(left_out.tolist() if ids is None else [ids[i] for i in left_out])
    if dropped:
        counts = listed_counts(counts_of(gaps))
        warn(f"{len(dropped)} of {len(seen)} rows dropped, with missing values ({counts}): {shown(dropped)}.")
    return dropped


def counts_of(gaps: Gaps) -> dict[str, int]:
    """Return how many values each column lacks, the column that lacks most first."""
    counts = {name: int(missing.sum()) for name, missing in gaps.items()}
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def listed_counts(counts: Mapping[str, int]) -> str:
    """Return counts as text, "weight 3, sex 1"."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def rows_dropped(dropped: Sequence[Any], missing: Mapping[str, int]) -> str:
    """Return in words how many rows were dropped, and how many values each column lacks."""
    plural = "" if len(dropped) == 1 else "s"
    return f"{len(dropped)} row{plural} dropped" + (f" ({listed_counts(missing)})" if missing else "")
