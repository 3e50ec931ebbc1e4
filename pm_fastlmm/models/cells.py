"""How rows of a table are named in a message: by the values of the variables that matter, "a = y, b = q"."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.models.formulas.names import columns_in, names_of

_SHOWN = 4


def cells(spec: Any, data: pd.DataFrame, rows: npt.NDArray[np.bool_], columns: Sequence[int]) -> str:
    """
    Return the different values that rows have in the variables of some columns of their design.

    Parameters
    ----------
    spec : formulaic.ModelSpec
        Which made the design.
    data : DataFrame
    rows : (m,) array of bool
    columns : sequence of int
        Places in the design.

    Examples
    --------
    >>> from formulaic import model_matrix
    >>> table = pd.DataFrame({"dose": [1.0, 2.0, 2.0], "drug": ["a", "b", "b"]})
    >>> spec = model_matrix("~ drug + dose", table).model_spec
    >>> cells(spec, table, np.array([False, True, True]), columns=[1, 2])
    'dose = 2, drug = b'
    """
    terms = [term for term, places in spec.term_slices.items() if any(places.start <= j < places.stop for j in columns)]
    variables = columns_in(names_of(terms))
    named = [name for name in data.columns if str(name) in variables]
    if not named:
        return ""
    different = data.loc[rows, named].drop_duplicates()
    texts = [
        ", ".join(f"{name} = {_text(value)}" for name, value in zip(named, row, strict=True))
        for row in different.head(_SHOWN).itertuples(index=False)
    ]
    more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return "; ".join(texts) + more


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
