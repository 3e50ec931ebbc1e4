"""Ids of the rows of a known covariance: none missing, none twice, with all their digits."""

from collections.abc import Hashable, Iterable

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import repeated, shown
from pm_fastlmm.base.spelling import require_digits
from pm_fastlmm.covariance.incidence import require_distinct

type Labels = Iterable[Hashable]


def read_index(labels: Labels, name: str, n: int | None = None) -> pd.Index:
    """Names of n rows, none missing and none twice, as people read them."""
    index = labels if isinstance(labels, pd.Index) else pd.Index(elements(labels, name), tupleize_cols=False)
    index = index.to_flat_index()
    if len(index) != (n or max(len(index), 1)):
        raise ValueError(f"{name} has {len(index)} names, expected {n or 'at least 1'}: give one name per row.")
    if index.hasnans:
        raise ValueError(f"{name} is missing in row {shown(np.flatnonzero(index.isna()).tolist())}: name every row.")
    if twice := repeated(index):
        raise ValueError(
            f"{name} repeats {shown(twice)}: make the names unique. Records of one individual are rows of the data, "
            "not of its relationships; identical twins and clones have names of their own (clones= of pedigree). Of "
            "ids within a family, as in PLINK's files, join both: the individual, as FID + ':' + IID, and its parents, "
            "as (FID + ':' + PAT).where(PAT != '0', '0')."
        )
    require_digits(index.tolist(), name, index.dtype)
    require_distinct(tuple(index), name, index.dtype)
    return index


def elements(values: Labels, name: str) -> list[Hashable]:
    """Return the elements of a sequence; a lone string is not one, and floats must have all their digits."""
    if isinstance(values, str) or getattr(values, "ndim", 1) != 1:
        raise TypeError(
            f"{name} must be 1-D, one element per row, got {type(values).__name__}: use a list or a column."
        )
    out = values.tolist() if isinstance(values, np.ndarray | pd.Series | pd.Index) else list(values)
    require_digits(out, name, getattr(values, "dtype", None))
    return out
