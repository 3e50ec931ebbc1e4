"""Labels of results: what came in with ids leaves with them."""

from collections.abc import Iterable
from typing import Any, Self

import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, Ids


class Entries(tuple[Any, ...]):
    """
    Ids (trait, row) of the entries of several traits.

    Examples
    --------
    >>> from pm_fastlmm.base.labels import Entries
    >>> Entries.of(("milk", "fat"), ("cow", "heifer"), [0, 0, 1], [0, 1, 1])
    (('milk', 'cow'), ('milk', 'heifer'), ('fat', 'heifer'))
    """

    __slots__ = ()

    @classmethod
    def of(cls, traits: Ids, rows: Ids, trait: Iterable[int], row: Iterable[int]) -> Self:
        """Return the entries at some places."""
        return cls((traits[a], rows[i]) for a, i in zip(trait, row, strict=True))


def index_of(ids: Ids) -> pd.Index:
    """Return ids as an index, of entries one of two levels."""
    if isinstance(ids, Entries):
        return pd.MultiIndex.from_tuples(ids, names=("trait", "obs"))
    return pd.Index(ids, tupleize_cols=False)


def labelled(
    values: FloatArray, ids: Ids | None, columns: Ids | None, *, name: str | None = None
) -> FloatArray | pd.Series | pd.DataFrame:
    """
    Return values (n,) as a Series by id, (n, m) as a DataFrame with these columns; the array itself without ids.

    Examples
    --------
    >>> import numpy as np
    >>> from pm_fastlmm.base.labels import labelled
    >>> labelled(np.array([0.5, -0.5]), ("dam", "sire"), None, name="blup")
    dam     0.5
    sire   -0.5
    Name: blup, dtype: float64
    """
    if ids is None:
        return values
    index = index_of(ids)
    if columns is None:
        return pd.Series(values, index=index, name=name)
    return pd.DataFrame(values, index=index, columns=pd.Index(columns, tupleize_cols=False))


def simulated(y: FloatArray, ids: Ids | None) -> pd.DataFrame:
    """Return draws (draws, n) as a table with a column for each."""
    index = pd.RangeIndex(y.shape[-1]) if ids is None else index_of(ids)
    return pd.DataFrame(y.T, index=index, columns=pd.RangeIndex(len(y), name="draw"))


def over_responses(names: tuple[str, ...] | None) -> tuple[tuple[str, ...], dict[str, list[str]]]:
    """Return the dimension of several responses and its labels, none of one response."""
    return ((), {}) if names is None else (("response",), {"response": list(names)})
