"""Numbers that stand for a missing value: PLINK's -9 and its like, told from values by the gap to all others."""

import warnings
from collections.abc import Sequence

import numpy as np

from pm_fastlmm._arrays import FloatArray, outside

CODES = (-99999.0, -9999.0, -999.0, -99.0, -9.0, 99.0, 999.0, 9999.0, 99999.0)
_GAP = 3.0  # standard deviations of the other values, from the nearest of them
_FEWEST = 4


def warn_of_missing_codes(values: FloatArray, names: Sequence[str], *, remedy: str) -> None:
    """
    Warn of each column (n, T) whose smallest or largest value looks like a code for missing ones.

    Parameters
    ----------
    values : (n,) or (n, T) array
    names : sequence of str
        Of the columns.
    remedy : str
        How the user replaces the number {code} by NaN, with np.
    """
    columns = values.reshape(len(values), -1)
    if not len(columns):
        return
    suspect = np.isin(np.fmin.reduce(columns), CODES) | np.isin(np.fmax.reduce(columns), CODES)
    for j in np.flatnonzero(suspect).tolist():
        _warn(columns[:, j], names[j], remedy)


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
            replaced = remedy.replace("{code}", f"{code:g}")
            warnings.warn(
                f"{name} is {code:g} in {count} of {len(column)} rows, and {low:g} to {high:g} in the others: it is "
                "taken as a value. If it stands for a missing one, as PLINK's -9, replace it by NaN, "
                f"{replaced}: flmm.Design, lmm_model and kernel_model leave such rows out and "
                "count them.",
                UserWarning,
                stacklevel=outside(),
            )
