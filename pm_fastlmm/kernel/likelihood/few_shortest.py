"""Shortest intervals of variances of some posteriors: the search of `quantiles`, by NumPy in all of them at a time."""

from functools import partial
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.kernel.likelihood.quantiles import _GOLDEN, _STEPS, _hermite

_hermite_of = _hermite.py_func  # arithmetic alone, of arrays as well


def shortest_variances(points: list[Any], table: Any, probability: float, out: FloatArray) -> None:
    """Write what `quantiles.shortest_rows` writes of variances, from the points of each posterior."""
    size = max(places.size for places, _ in points)
    places = np.stack([np.pad(of, (0, size - of.size), mode="edge") for of, _ in points])
    weights = np.stack([np.pad(of, (0, size - of.size)) for _, of in points])
    with np.errstate(all="ignore"):
        out[:] = _shortest(partial(_ends, (places, weights), table, probability), 1.0 - probability, len(out))[:2].T


def _shortest(ends: Any, left: float, rows: int) -> FloatArray:
    """Return the ends of the shortest intervals and their width, (3, rows)."""
    best, width, at = np.zeros(rows), np.full(rows, np.inf), np.full((3, rows), np.nan)
    for i in range(9):
        at = ends(left * i / 8, at)
        best, width = np.where(at[2] < width, [np.full(rows, i), at[2]], [best, width])
    a, b = left * np.maximum(best - 1, 0) / 8, left * np.minimum(best + 1, 8) / 8
    p, q = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
    at_p = ends(p, at)
    at_q = ends(q, at_p)
    while (wide := b - a > 1e-5 * left).any():
        lower = at_p[2] <= at_q[2]
        a, b = np.where(wide & ~lower, p, a), np.where(wide & lower, q, b)
        new = np.where(lower, b - _GOLDEN * (b - a), a + _GOLDEN * (b - a))
        at = ends(new, np.where(lower, at_p, at_q))
        inner, around = np.where(lower, [new, p], [q, new]), np.where(lower, [at, at_p], [at_q, at])
        (p, q), (at_p, at_q) = np.where(wide, inner, [p, q]), np.where(wide, around, [at_p, at_q])
    last, first = (ends(tail, at_p) for tail in (left, 0.0))
    shortest: FloatArray = np.where(first[2] <= at_p[2], first, np.where(last[2] <= at_p[2], last, at_p))
    return shortest


def _ends(points: Any, table: Any, probability: float, p: Any, previous: FloatArray) -> FloatArray:
    """Return the logarithms of the ends of the intervals with the shares p below them, and their widths."""
    low, high = np.full_like(previous[0], -np.inf), np.full_like(previous[0], np.inf)
    if np.all(p > 0.0):
        low = _log_quantile(points, table, p, previous[0])
    if np.all(p + probability < 1.0):
        high = _log_quantile(points, table, p + probability, previous[1])
    return np.stack([low, high, np.exp(high) - np.exp(low)])


def _log_quantile(points: Any, table: Any, probability: Any, u: FloatArray) -> FloatArray:
    (places, _), (start, step, values, *_) = points, table
    low, high = places.min(-1) - (start + step * values.size), places.max(-1) - start
    u, found = np.where((low < u) & (u < high), u, 0.5 * (low + high)), np.zeros(len(places), dtype=bool)
    for _ in range(_STEPS):
        total, slope = _below(points, table, u)
        gap = total - probability
        low, high = np.where(gap < 0.0, u, low), np.where(gap < 0.0, high, u)
        move = np.where(slope > 0.0, -gap / slope, np.inf)
        close = np.abs(move) < 1e-9
        moved = np.where(close | ((low < u + move) & (u + move < high)), u + move, 0.5 * (low + high))
        u, found = np.where(found, u, moved), found | close | (high - low < 1e-13)
        if found.all():
            break
    return u


def _below(points: Any, table: Any, u: FloatArray) -> tuple[FloatArray, FloatArray]:
    (places, weights), (start, step, values, slopes, _) = points, table
    place = (places - u[:, None] - start) / step
    inside = (place > 0.0) & (place < values.size - 1)
    i, weighted = place[inside].astype(int), weights[inside]
    f, df = _hermite_of(i, place[inside] - i, step, values, slopes)
    total, slope = np.where(place <= 0.0, weights, 0.0), np.zeros(place.shape)
    total[inside], slope[inside] = weighted * f, weighted * df
    return total.sum(-1), -slope.sum(-1)
