"""
Compiled loops over nodes of logit h²: quantiles and shortest intervals of many posteriors.

Each row is the log-density of logit h² = x at shared nodes. Between them it is a cubic spline, whose exponential is
integrated by Gauss's rule, so that a quantile is not limited by the distance of the nodes.
"""

import math

import numpy as np
from numba import njit

from pm_fastlmm.base.arrays import FloatArray

type Cells = tuple[FloatArray, FloatArray, FloatArray, float, int, FloatArray]
type Points = tuple[FloatArray, FloatArray]
type Ends = tuple[float, float, float]  # of an interval, and its width
type Table = tuple[float, float, FloatArray, FloatArray, float]

compiled = njit(cache=True, nogil=True, error_model="numpy")

_DROP = 45.0  # log-density below the mode from where on a cell is left out: 3e-20
_FLOOR = 1e3  # what a zero density counts as, in the spline
_GAUSS = np.array([0.1127016653792583, 0.5, 0.8872983346207417])  # nodes and weights on (0, 1), exact to degree 5
_WEIGHTS = np.array([5.0 / 18.0, 8.0 / 18.0, 5.0 / 18.0])
_GOLDEN = 0.6180339887498949
_STEPS = 100


@compiled
def _spline(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the second derivatives at the nodes of the natural cubic spline."""
    m = x.size
    second, ratio = np.zeros(m), np.zeros(m)
    for i in range(1, m - 1):
        left, right = x[i] - x[i - 1], x[i + 1] - x[i]
        pivot = 2.0 * (left + right) - left * ratio[i - 1]
        ratio[i] = right / pivot
        target = 6.0 * ((y[i + 1] - y[i]) / right - (y[i] - y[i - 1]) / left)
        second[i] = (target - left * second[i - 1]) / pivot
    for i in range(m - 2, 0, -1):
        second[i] -= ratio[i] * second[i + 1]
    return second


@compiled
def _at(x: FloatArray, y: FloatArray, second: FloatArray, j: int, t: float) -> float:
    """Return the spline in cell j at a share t of its width."""
    h, s = x[j + 1] - x[j], 1.0 - t
    bend = (s * s * s - s) * second[j] + (t * t * t - t) * second[j + 1]
    return s * y[j] + t * y[j + 1] + h * h / 6.0 * bend


@compiled
def _part(x: FloatArray, y: FloatArray, second: FloatArray, j: int, t: float, top: float) -> float:
    """Return the integral of exp(spline - top) over the first share t of cell j."""
    total = 0.0
    for q in range(3):
        total += _WEIGHTS[q] * math.exp(_at(x, y, second, j, t * _GAUSS[q]) - top)
    return total * t * (x[j + 1] - x[j])


@compiled
def _cells(x: FloatArray, y: FloatArray) -> Cells:
    """Return x, the spline of a log-density, its maximum, the first cell that counts, the cumulative mass from it."""
    m = x.size
    top = y.max()
    floored = np.maximum(y, top - _FLOOR)
    second = _spline(x, floored)
    first, last = 0, m - 2
    while first < last and floored[first + 1] < top - _DROP:
        first += 1
    while last > first and floored[last] < top - _DROP:
        last -= 1
    return x, floored, second, top, first, _masses(x, floored, second, first, last, top)


@compiled
def _masses(x: FloatArray, y: FloatArray, second: FloatArray, first: int, last: int, top: float) -> FloatArray:
    """Return the cumulative mass of the cells from the first to the last, 0 before them."""
    cumulative = np.zeros(last - first + 2)
    for j in range(first, last + 1):
        cumulative[j - first + 1] = cumulative[j - first] + _part(x, y, second, j, 1.0, top)
    return cumulative


@compiled
def _node_quantile(cells: Cells, probability: float) -> float:
    """Return the x below which the share `probability` of the mass lies."""
    x, y, second, top, first, cumulative = cells
    target = probability * cumulative[-1]
    j = np.searchsorted(cumulative, target, side="right") - 1
    j = min(max(j, 0), cumulative.size - 2)
    rest, mass = target - cumulative[j], cumulative[j + 1] - cumulative[j]
    cell = first + j
    width = x[cell + 1] - x[cell]
    low, high, t = 0.0, 1.0, min(max(rest / mass, 0.0), 1.0) if mass > 0.0 else 0.5
    for _ in range(_STEPS):
        gap = _part(x, y, second, cell, t, top) - rest
        if gap < 0.0:
            low = t
        else:
            high = t
        density = math.exp(_at(x, y, second, cell, t) - top) * width
        step = -gap / density
        if abs(step) < 1e-12:
            break
        t = t + step if low < t + step < high else 0.5 * (low + high)
    return x[cell] + t * width


@compiled
def node_quantile_rows(x: FloatArray, log_density: FloatArray, probabilities: FloatArray, out: FloatArray) -> None:
    """Write quantiles of x for each row of log-densities; probabilities and out (T, P)."""
    for t in range(out.shape[0]):
        cells = _cells(x, log_density[t])
        for p in range(out.shape[1]):
            out[t, p] = _node_quantile(cells, probabilities[t, p])


@compiled
def node_below_rows(x: FloatArray, log_density: FloatArray, at: FloatArray, out: FloatArray) -> None:
    """Write the probability that x is below each value `at` (P,) for each row of log-densities, out (T, P)."""
    for t in range(out.shape[0]):
        _, y, second, top, first, cumulative = _cells(x, log_density[t])
        for p in range(out.shape[1]):
            cell = np.searchsorted(x, at[p], side="right") - 1
            j = cell - first
            if j < 0:
                out[t, p] = 0.0
            elif j >= cumulative.size - 1:
                out[t, p] = 1.0
            else:
                share = (at[p] - x[cell]) / (x[cell + 1] - x[cell])
                out[t, p] = (cumulative[j] + _part(x, y, second, cell, share, top)) / cumulative[-1]


@compiled
def _points(x: FloatArray, log_density: FloatArray, log_scale: FloatArray, sharpness: float) -> Points:
    """
    Return Gauss points of the cells that count: log-scales, and weights that sum to 1.

    Given h² the logarithm of the variance has a standard deviation of 1/sharpness, and a cell over which the log-scale
    moves by more is divided.
    """
    _, y, second, top, first, cumulative = _cells(x, log_density)
    bend = _spline(x, log_scale)
    cells, mass = cumulative.size - 1, cumulative[-1]
    parts = np.empty(cells, np.int64)
    for j in range(cells):
        share = (cumulative[j + 1] - cumulative[j]) / mass
        moved = abs(log_scale[first + j + 1] - log_scale[first + j]) * sharpness / 1.5
        parts[j] = 0 if share < 1e-14 else 1 if share < 1e-9 else math.ceil(max(moved, 1.0))
    places, weights = np.empty(3 * parts.sum()), np.empty(3 * parts.sum())
    count, total = 0, 0.0
    for j in range(cells):
        width = (x[first + j + 1] - x[first + j]) / max(parts[j], 1)
        for part in range(parts[j]):
            for q in range(3):
                t = (part + _GAUSS[q]) / parts[j]
                places[count] = _at(x, log_scale, bend, first + j, t)
                weights[count] = _WEIGHTS[q] * width * math.exp(_at(x, y, second, first + j, t) - top)
                total += weights[count]
                count += 1
    return places, weights / total


@compiled
def _upper_gamma(v: float, start: float, step: float, values: FloatArray, slopes: FloatArray) -> tuple[float, float]:
    """Return the tabulated share of a Gamma variable above exp(v), and its derivative in v: a cubic Hermite table."""
    place = (v - start) / step
    if place <= 0.0:
        return 1.0, 0.0
    if place >= values.size - 1:
        return 0.0, 0.0
    i = int(place)
    return _hermite(i, place - i, step, values, slopes)


@compiled
def _hermite(i: int, s: float, step: float, values: FloatArray, slopes: FloatArray) -> tuple[float, float]:
    """Return value and derivative of the table at a share s of its cell i."""
    t = 1.0 - s
    f0, f1, m0, m1 = values[i], values[i + 1], step * slopes[i], step * slopes[i + 1]
    value = t * t * ((1.0 + 2.0 * s) * f0 + s * m0) + s * s * ((1.0 + 2.0 * t) * f1 - t * m1)
    return value, (6.0 * s * t * (f1 - f0) + t * (t - 2.0 * s) * m0 + s * (s - 2.0 * t) * m1) / step


@compiled
def _below(points: Points, table: Table, u: float) -> tuple[float, float]:
    """Return Σ w_j P(Gamma > exp(v_j - u)), and its derivative in u."""
    places, weights = points
    start, step, values, slopes, _ = table
    total, slope = 0.0, 0.0
    for j in range(places.size):
        f, df = _upper_gamma(places[j] - u, start, step, values, slopes)
        total += weights[j] * f
        slope -= weights[j] * df
    return total, slope


@compiled
def _log_quantile(points: Points, table: Table, probability: float, u: float) -> float:
    """Return log t with Σ w_j P(Gamma > exp(v_j)/t) = probability, from a start."""
    places, _ = points
    start, step, values, _, _ = table
    low, high = float(places.min()) - (start + step * values.size), float(places.max()) - start
    if not (low < u < high):
        u = 0.5 * (low + high)
    for _ in range(_STEPS):
        total, slope = _below(points, table, u)
        gap = total - probability
        if gap < 0.0:
            low = u
        else:
            high = u
        move = -gap / slope if slope > 0.0 else math.inf
        if abs(move) < 1e-9:
            return u + move
        u = u + move if low < u + move < high else 0.5 * (low + high)
        if high - low < 1e-13:
            return u
    return u


@compiled
def variance_quantile_rows(
    x: FloatArray, log_density: FloatArray, log_scale: FloatArray, table: Table, probabilities: FloatArray,
    out: FloatArray,
) -> None:  # fmt: skip
    """Write log-quantiles of scale/Gamma for each row; `table` is (start, step, values, slopes, sharpness)."""
    start, step, values, _, sharpness = table
    for t in range(out.shape[0]):
        places, weights = _points(x, log_density[t], log_scale[t], sharpness)
        u = (places * weights).sum() - (start + 0.5 * step * values.size)
        for p in range(out.shape[1]):
            out[t, p] = _log_quantile((places, weights), table, probabilities[p], u)


@compiled
def variance_below_rows(
    x: FloatArray, log_density: FloatArray, log_scale: FloatArray, table: Table, at: FloatArray, out: FloatArray
) -> None:
    """Write the probability that scale/Gamma is below exp(at), at (P,), for each row, out (T, P)."""
    for t in range(out.shape[0]):
        points = _points(x, log_density[t], log_scale[t], table[4])
        for p in range(out.shape[1]):
            out[t, p] = min(_below(points, table, at[p])[0], 1.0)


@compiled
def _ends(
    p: float, probability: float, previous: Ends, variance: bool, shift: float, cells: Cells, points: Points,
    table: Table,
) -> Ends:  # fmt: skip
    """
    Return the ends of the interval with the share p below it and its width, from those of an interval like it.

    The ends are shifted x of a share of variance, or logarithms.
    """
    if not variance:
        low = _node_quantile(cells, p) + shift
        high = _node_quantile(cells, min(p + probability, 1.0)) + shift
        sign = -1.0 if low > 0.0 else 1.0  # so that the width is exact also where both shares are near 1
        return low, high, sign * (1.0 / (1.0 + math.exp(-sign * high)) - 1.0 / (1.0 + math.exp(-sign * low)))
    low = _log_quantile(points, table, p, previous[0]) if p > 0.0 else -math.inf
    if p + probability >= 1.0:
        return low, math.inf, math.inf
    high = _log_quantile(points, table, p + probability, previous[1])
    return low, high, math.exp(high) - math.exp(low)


@compiled
def _shortest(probability: float, variance: bool, shift: float, cells: Cells, points: Points, table: Table) -> Ends:
    """Return the shortest interval with a probability: a coarse search of its lower tail, then golden sections."""
    left = 1.0 - probability
    best, width, at = 0, math.inf, (math.nan, math.nan, math.nan)
    for i in range(9):
        at = _ends(left * i / 8, probability, at, variance, shift, cells, points, table)
        if at[2] < width:
            best, width = i, at[2]
    a, b = left * max(best - 1, 0) / 8, left * min(best + 1, 8) / 8
    p, q = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
    at_p = _ends(p, probability, at, variance, shift, cells, points, table)
    at_q = _ends(q, probability, at_p, variance, shift, cells, points, table)
    while b - a > 1e-5 * left:
        if at_p[2] <= at_q[2]:
            b, q, at_q = q, p, at_p
            p = b - _GOLDEN * (b - a)
            at_p = _ends(p, probability, at_q, variance, shift, cells, points, table)
        else:
            a, p, at_p = p, q, at_q
            q = a + _GOLDEN * (b - a)
            at_q = _ends(q, probability, at_p, variance, shift, cells, points, table)
    for tail in (0.0, left):
        edge = _ends(tail, probability, at_p, variance, shift, cells, points, table)
        if edge[2] <= at_p[2]:
            return edge
    return at_p


@compiled
def shortest_rows(
    x: FloatArray, log_density: FloatArray, log_scale: FloatArray, table: Table, probability: float, variance: bool,
    shift: float, out: FloatArray,
) -> None:  # fmt: skip
    """
    Write the shortest interval of each row into out (T, 2).

    Of the share expit(x + shift), as values of x + shift, or of a variance scale/Gamma, as logarithms.
    """
    nothing = np.empty(0), np.empty(0)
    for t in range(out.shape[0]):
        cells = _cells(x, log_density[t])
        points = _points(x, log_density[t], log_scale[t], table[4]) if variance else nothing
        out[t, 0], out[t, 1], _ = _shortest(probability, variance, shift, cells, points, table)
