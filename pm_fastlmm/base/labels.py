"""Labels of results: what came in with ids leaves with them."""

import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, Ids


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
    index = pd.Index(ids, tupleize_cols=False)
    if columns is None:
        return pd.Series(values, index=index, name=name)
    return pd.DataFrame(values, index=index, columns=pd.Index(columns, tupleize_cols=False))


def simulated(y: FloatArray, ids: Ids | None) -> pd.DataFrame:
    """Return draws (draws, n) as a table with a column for each."""
    index = pd.RangeIndex(y.shape[-1]) if ids is None else pd.Index(ids, tupleize_cols=False)
    return pd.DataFrame(y.T, index=index, columns=pd.RangeIndex(len(y), name="draw"))


def over_responses(names: tuple[str, ...] | None) -> tuple[tuple[str, ...], dict[str, list[str]]]:
    """Return the dimension of several responses and its labels, none of one response."""
    return ((), {}) if names is None else (("response",), {"response": list(names)})
