"""Responses as a spectrum takes them: floats in the order of its rows, and what is refused."""

import math
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, Ids, align, read, require_finite, require_length, require_range
from pm_fastlmm.base.missing_codes import warn_of_missing_codes

_LARGEST = 2**31  # bytes of responses that are read from a Dask or stored array at once


def read_response(
    y: Any, n: int, ids: Ids | None, *, missing: bool = False
) -> tuple[FloatArray, tuple[str, ...] | None]:
    """Return y in the order of the ids, checked, and the names of several responses; NaN stays if allowed."""
    _require_memory(y)
    response = read(y, "y", ndim=(1, 2))
    values = response.values
    if values.ndim == 2 and values.shape[0] == values.shape[1] == n and response.ids is None:
        raise ValueError(
            f"y is a square array, shape {values.shape}, without labels: rows or columns could be the responses. "
            "Pass a DataFrame indexed by observation, or a DataArray with a dimension 'obs'."
        )
    order = align(ids, response, name="y", reference_name="the spectrum")
    require_length(values.shape[0], n, "y", "the spectrum")
    if values.size == 0:
        raise ValueError("y has no columns: give at least one response.")
    columns = values.reshape(n, -1)
    low, high = (np.fmin, np.fmax) if missing else (np.minimum, np.maximum)
    extremes = low.reduce(columns), high.reduce(columns)  # NaN where a column has one that is not allowed
    if not np.isfinite(extremes).all():
        require_finite(
            np.where(np.isnan(values), 0.0, values) if missing else values,
            "y",
            "infinite values are not missing values: use NaN for those."
            if missing
            else "leave those rows out of y and of the spectrum, spectrum.subset(rows), "
            "let flmm.Design or flmm.kernel_model drop and count them, or fit flmm.reml(..., missing='by_pattern').",
        )
    require_range(np.nan_to_num(extremes), "y")
    names = response.names if values.ndim == 2 else None
    if values.ndim == 2 and names is None:
        names = tuple(f"y{t}" for t in range(values.shape[1]))
    remedy = "y.replace({code}, np.nan)" if hasattr(y, "replace") else "np.where(y == {code}, np.nan, y)"
    warn_of_missing_codes(columns, names or ("y",), *extremes, remedy=remedy, response=True)
    return response.take(order), names


def response_name(y: Any) -> str | None:
    """Return the name of one response, a Series or a DataArray, None if it has none."""
    name = getattr(y, "name", None)
    return None if name is None or np.ndim(y) != 1 else str(name)


def _require_memory(y: Any) -> None:
    """Raise a ValueError for responses that are read from chunks, if reading them would take very much memory."""
    size = math.prod(getattr(y, "shape", ())) * np.dtype(np.float64).itemsize
    if getattr(y, "chunks", None) and size > _LARGEST:
        raise ValueError(
            f"y, a Dask or stored array, has {size / 2**30:.1f} GB as floats: fit it block by block with "
            "flmm.reml_blocks(spectrum, y), or give some of its columns, in memory, at a time."
        )
