"""Labels that the coordinates of a posterior would change: refused when a model is made, and not after sampling."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pm_fastlmm.base.arrays import Ids, labels_of, repeated, shown

_LARGE = 2**63  # where integers are no longer of one type


def require_labels(labels: Sequence[Any] | None, what: str, *, written: str = "table.index") -> None:
    """
    Refuse labels that xarray does not give back as they are.

    A coordinate is an array of one type: xarray makes text of numbers among text, floats of large integers among
    floats, "nan" of a missing label, and takes tuples for a table. `written` is how the user writes the labels.

    Raises
    ------
    ValueError
        If a label is missing, is a tuple, or comes back as another; or True and False stand beside numbers.

    Examples
    --------
    >>> require_labels(("a", 1), "the ids")
    Traceback (most recent call last):
    ValueError: the ids are of several types, and the coordinates of a posterior, which have one, would change 1 into
    '1': make them alike, all text say, table.index = [str(label) for label in table.index].
    """
    if labels is None or _alike(labels):
        return
    if missing := [i for i, label in enumerate(labels) if not isinstance(label, tuple) and pd.isna(label) is True]:
        raise ValueError(
            f"{what} are missing at {shown(missing)}: a posterior is labelled by them, and each needs its own. Fill "
            "them in, or reset_index()."
        )
    if tuples := [label for label in labels if isinstance(label, tuple)]:
        raise ValueError(
            f"{what} are tuples ({shown(tuples)}), of a MultiIndex perhaps, and the coordinates of a posterior hold "
            f'none: join their parts, {written} = [" ".join(map(str, label)) for label in {written}]'
            + (", or reset_index()." if written.startswith(("table.index", "coords")) else ".")
        )
    alike = f"make them alike, all text say, {written} = [str(label) for label in {written}]."
    held = xr.DataArray(range(len(labels)), coords={"label": list(labels)}, dims="label").indexes["label"].tolist()
    if changed := [(old, new) for old, new in zip(labels, held, strict=True) if old != new]:
        old, new = changed[0]
        raise ValueError(
            f"{what} are of several types, and the coordinates of a posterior, which have one, would change {old!r} "
            f"into {new!r}: {alike}"
        )
    booleans = [label for label in labels if isinstance(label, bool | np.bool_)]
    if 0 < len(booleans) < len(labels):
        raise ValueError(f"{what} are of several types, {booleans[0]!r} beside numbers, where True is 1: {alike}")


def _alike(labels: Sequence[Any]) -> bool:
    """Return whether labels are all text, or all integers, of which xarray changes none: no array is made of these."""
    kinds = set(map(type, labels))
    if kinds == {int}:
        return bool(min(labels) > -_LARGE and max(labels) < _LARGE)
    return kinds == {str} and "\0" not in "".join(labels)  # NumPy cuts a text at its end


def require_labels_of(**tables: Any) -> None:
    """Refuse the row labels of tables, by the name of the argument, as `require_labels`."""
    for name, table in tables.items():
        if table is not None:
            require_labels(labels_of(table), f"the ids of {name}")


def require_unique(names: Ids | None, what: str) -> None:
    """Raise a ValueError for names that cannot be told apart as text."""
    if twice := repeated(names or ()):
        raise ValueError(f"{what} are the same as text for several ({shown(twice)}): rename them.")
