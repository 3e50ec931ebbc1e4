"""Ids of the rows of a known covariance: none missing, none twice, with all their digits; and rows without ids."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import repeated, shown
from pm_fastlmm.base.spelling import require_digits
from pm_fastlmm.covariance.incidence import require_distinct

type Labels = Iterable[Hashable]

_INTEGERS = [np.dtype(kind) for kind in ("int8", "int16", "int32", "int64")]
_REMEDY = "pd.DataFrame(K, index=names, columns=names) with the names in the order of the rows of K"


def read_index(labels: Labels, name: str, n: int | None = None) -> pd.Index:
    """Names of n rows, none missing and none twice, as people read them."""
    if isinstance(labels, np.ndarray | pd.Series) and labels.ndim == 1 and labels.dtype in _INTEGERS:
        labels = pd.Index(np.asarray(labels, dtype=np.int64))  # at once, there may be millions
    index = labels if isinstance(labels, pd.Index) else pd.Index(elements(labels, name), tupleize_cols=False)
    index = index.to_flat_index()
    if len(index) != (n or max(len(index), 1)):
        raise ValueError(f"{name} has {len(index)} names, expected {n or 'at least 1'}: give one name per row.")
    if index.hasnans:
        raise ValueError(f"{name} is missing in row {shown(np.flatnonzero(index.isna()).tolist())}: name every row.")
    if not index.is_unique and (twice := repeated(index)):
        raise ValueError(
            f"{name} repeats {shown(twice)}: make the names unique. Of a row that a file has twice, "
            "table.drop_duplicates() keeps one. Records of one individual are rows of the data, not of its "
            "relationships; identical twins and clones have names of their own (clones= of pedigree). Of "
            "ids within a family, as in PLINK's files, join both: the individual, as FID + ':' + IID, and its parents, "
            "as (FID + ':' + PAT).where(PAT != '0', '0')."
        )
    require_distinct(tuple(index.tolist()), name, index.dtype)  # of their digits, too
    return index


def elements(values: Labels, name: str) -> list[Hashable]:
    """Return the elements of a sequence; a lone string is not one, and floats must have all their digits."""
    require_sequence(values, name)
    out = values.tolist() if isinstance(values, np.ndarray | pd.Series | pd.Index) else list(values)
    require_digits(out, name, getattr(values, "dtype", None))
    return out


def require_sequence(values: Labels, name: str) -> None:
    """Refuse a lone string, and tables."""
    if isinstance(values, str) or getattr(values, "ndim", 1) != 1:
        raise TypeError(
            f"{name} must be 1-D, one element per row, got {type(values).__name__}: use a list or a column."
        )


def require_positions(levels: Sequence[Hashable], name: str) -> None:
    """
    Refuse levels that do not say which row of an array is theirs; the whole numbers from 0 or 1 on do.

    Levels are sorted, or in the order of categories, and K is in that of a tree or pedigree: matched by position each
    would get the relatives of another.

    Raises
    ------
    ValueError
        If they are names, or numbers that are not counted.
    """
    whole = all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)
    if whole and list(levels) in (list(range(len(levels))), list(range(1, len(levels) + 1))):
        return
    raise ValueError(
        f"K of term {name!r} is an array without labels, but the levels have names ({shown(levels)}): which row is "
        f"whose? Give {_REMEDY}."
    )


def default_index_hint(labels: Sequence[Hashable]) -> str:
    """Return what to do about a K whose labels are the default index, an empty text for others."""
    if list(labels) != list(range(len(labels))):
        return ""
    return f"K has the default index 0, 1, 2 … in place of names: give {_REMEDY}"
