"""Which loops over posteriors are taken: the compiled ones, or for a few the same in Python with sums by NumPy."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.linalg import solveh_banded

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.interpreted import interpreted

_FEW = 500  # quantiles: up to a third of a second in Python; Numba takes as long to load its loops, and 6 s to compile
_COST = {"shortest_rows": 2.5}  # of an end of the shortest interval, in quantiles


def loop_for(name: str, quantiles: int) -> Any:
    """Return a function of `quantiles` for the number of quantiles that it has to find."""
    if quantiles * _COST.get(name, 1) <= _FEW:
        return getattr(_few(), name)
    from pm_fastlmm.kernel.likelihood import quantiles as loops

    return getattr(loops, name)


@cache
def _few() -> SimpleNamespace:
    from pm_fastlmm.kernel.likelihood import quantiles as loops
    from pm_fastlmm.kernel.likelihood.few_shortest import shortest_variances

    at, hermite = loops._at.py_func, loops._hermite.py_func  # arithmetic alone, of arrays as well
    gauss, gauss_weights = loops._GAUSS[:, None], loops._WEIGHTS[:, None]

    def _masses(x: FloatArray, y: FloatArray, second: FloatArray, first: int, last: int, top: float) -> FloatArray:
        j = np.arange(first, last + 1)
        mass = (gauss_weights * np.exp(at(x, y, second, j, gauss) - top)).sum(0) * (x[j + 1] - x[j])
        return np.append(0.0, np.cumsum(mass))

    def _points(x: FloatArray, log_density: FloatArray, log_scale: FloatArray, sharpness: float) -> Any:
        _, y, second, top, first, cumulative = functions._cells(x, log_density)
        share = np.diff(cumulative) / cumulative[-1]
        cells = first + np.arange(share.size)
        moved = np.maximum(np.abs(np.diff(log_scale)[cells]) * sharpness / 1.5, 1.0)
        parts = np.where(share < 1e-14, 0, np.where(share < 1e-9, 1, np.ceil(moved))).astype(int)
        j, of = np.repeat(cells, parts), np.repeat(parts, parts)
        t = (np.arange(j.size) - np.repeat(np.cumsum(parts) - parts, parts) + gauss) / of
        weights = gauss_weights * (x[j + 1] - x[j]) / of * np.exp(at(x, y, second, j, t) - top)
        return at(x, log_scale, _spline(x, log_scale), j, t).ravel(), (weights / weights.sum()).ravel()

    def _below(points: Any, table: Any, u: float) -> tuple[Any, Any]:
        (places, weights), (start, step, values, slopes, _) = points, table
        place = (places - u - start) / step
        inside = (place > 0.0) & (place < values.size - 1)
        i = place[inside].astype(int)
        f, df = hermite(i, place[inside] - i, step, values, slopes)
        return weights[place <= 0.0].sum() + weights[inside] @ f, -(weights[inside] @ df)

    def shortest_rows(
        x: FloatArray, log_density: FloatArray, log_scale: FloatArray, table: Any, probability: float, variance: bool,
        shift: float, out: FloatArray,
    ) -> None:  # fmt: skip
        if not variance:
            functions.shortest_rows(x, log_density, log_scale, table, probability, variance, shift, out)
        elif len(out):
            points = [functions._points(x, *row, table[4]) for row in zip(log_density, log_scale, strict=True)]
            shortest_variances(points, table, probability, out)

    functions = interpreted(loops, _spline, _masses, _points, _below)
    return SimpleNamespace(**vars(functions) | {"shortest_rows": shortest_rows})


def _spline(x: FloatArray, y: FloatArray) -> FloatArray:
    h = np.diff(x)
    bands = np.stack([2.0 * (h[:-1] + h[1:]), h[1:]])
    return np.pad(solveh_banded(bands, 6.0 * np.diff(np.diff(y) / h), lower=True), 1)
