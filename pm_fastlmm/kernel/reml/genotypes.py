"""Missing genotypes among the candidates of a scan: values that stand for them, and imputation by the mean."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray, shown
from pm_fastlmm.base.choices import Missing

# pgenlib and PLINK -9, bed-reader -127, sgkit -1, BLUPF90 5, two bits read as numbers 3, the largest of a byte 255
_EVIDENT = (-9999.0, -999.0, -128.0, -127.0, -99.0, -9.0, 99.0, 127.0, 128.0, 255.0)
_ALSO_COUNTS = (3.0, 5.0, 9.0)
_CODES = np.array([*_EVIDENT, -1.0, *_ALSO_COUNTS])
_RARE = 0.15  # share of the entries that may be missing; 3 is a count where it is as frequent as others
_FIRST_ROWS = 64


def require_no_codes(columns: FloatArray, names: Sequence[str]) -> None:
    """
    Refuse counts of an allele, 0 to 2, among which a number stands for missing ones.

    A column is such if all that is outside [0, 2] is one of the codes. -1 needs a 2 beside it, for there is a coding by
    -1, 0, 1; 3, 5 and 9 need two of 0, 1, 2 beside them, and are counts where they are frequent (copy numbers,
    parities), more than 0.15 of the entries of their columns, or other whole numbers above 2 occur.

    Raises
    ------
    ValueError
        If there is one.
    """
    if columns.size and np.fmin.reduce(columns, axis=None) >= 0 and np.fmax.reduce(columns, axis=None) <= 2:
        return
    suspects = np.flatnonzero(~_outside_codes(columns[:_FIRST_ROWS]).any(axis=0))  # a glance rules most others out
    chosen = columns[:, suspects]
    suspects = suspects[~_outside_codes(chosen).any(axis=0) & ((chosen >= 0) & (chosen <= 2)).any(axis=0)]
    chosen = columns[:, suspects]
    outside = (chosen < 0) | (chosen > 2)
    if not outside.any():
        return
    found = set(np.unique(chosen[outside]).tolist())
    wrong = found.intersection(_EVIDENT)
    if (chosen[:, (chosen == -1).any(axis=0)] == 2).any():
        wrong.add(-1.0)
    having = outside.any(axis=0)
    if len(found) == 1 and _are_counts(chosen[:, having], *found) and not _other_counts(columns, *found):
        wrong |= found.intersection(_ALSO_COUNTS if outside[:, having].mean() <= _RARE else ())
    if not wrong:
        return
    coded = np.isin(chosen, list(wrong))
    first = [names[j] for j in suspects[coded.any(axis=0)]]
    code = min(wrong, key=abs)
    raise ValueError(
        f"candidates are counts from 0 to 2 but for {', '.join(f'{v:g}' for v in sorted(wrong))}, which stands for "
        f"missing genotypes in other software ({int(coded.sum())} values in {len(first)} columns: {shown(first)}): set "
        f"it to NaN, candidates.replace({code:g}, np.nan), and it is imputed. If they are no genotypes, divide them by "
        "a number, candidates / 10: no test changes."
    )


def _outside_codes(columns: FloatArray) -> npt.NDArray[np.bool_]:
    """Return what is neither missing, nor in [0, 2], nor a code."""
    out = (columns < 0) | (columns > 2)
    out[out] = ~np.isin(columns[out], _CODES)
    return out


def _are_counts(columns: FloatArray, code: float) -> bool:
    """Return whether all is 0, 1, 2 or the code, and some column has two of these counts beside the code."""
    has = [(columns == value).any(axis=0) for value in (0, 1, 2)]
    whole = np.isin(columns, [0, 1, 2, code]) | np.isnan(columns)
    return bool(whole.all() and (np.sum(has, axis=0) > 1).any())


def _other_counts(columns: FloatArray, code: float) -> bool:
    """Return whether some column of whole numbers has a value above 2 that is not the code."""
    above = ((columns > 2) & (columns != code)).any(axis=0)
    rows = columns[:, above]
    return bool((np.isnan(rows) | ((rows == np.floor(rows)) & (rows >= 0))).all(axis=0).any())


def imputed(columns: FloatArray, names: Sequence[str], missing: Missing) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """
    Return columns with their missing values replaced by the mean of the others, and how many each had.

    Parameters
    ----------
    columns : (n, m) array
        Over the rows that are analysed.
    names : sequence of str
    missing : {"mean", "raise", "drop"}
        "drop" leaves the columns as they are.

    Raises
    ------
    ValueError
        For `missing="raise"`, if a value is missing.
    """
    holes = np.isnan(columns)
    count = holes.sum(axis=0)
    if not count.any() or missing == "drop":
        return columns, count
    if missing == "raise":
        some = [name for name, number in zip(names, count, strict=True) if number]
        raise ValueError(
            f"{len(some)} of {len(names)} candidates have missing values ({shown(some)}): impute them, or give "
            "missing='mean' for the mean of the analysed rows, or missing='drop' to leave these candidates out."
        )
    filled = columns.copy(order="K")
    np.copyto(filled, 0.0, where=holes)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / (len(columns) - count)
    np.copyto(filled, mean, where=holes)
    return filled, count
