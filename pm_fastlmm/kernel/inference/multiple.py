"""p-values and intervals of several t tests at once."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.polynomial import Chebyshev
from scipy.special import stdtrit

from pm_fastlmm.base.arrays import FloatArray

type Adjustment = Literal["tukey", "holm", "bonferroni", "none"]

_DEGREE = 8  # of the quantile in 1/df: an error of 1e-6, and less where the degrees of freedom are alike
_INFINITE = 1e7  # degrees of freedom


def adjusted(
    tests: Mapping[str, FloatArray], adjust: Adjustment, level: float, *, means: int, family: int
) -> dict[str, FloatArray]:
    """
    Return p-values and limits of t tests (…, k), that are families of the same size one after the other.

    With m tests of a family and a means, Tukey's p is that of the studentized range of a means at √2|t|; Bonferroni's
    is mp; Holm's, of ordered p, the largest min(1, (m - i + 1)p_i) so far, with Bonferroni's limits.
    """
    if adjust == "none":
        return {}
    estimate, se, t, df, p = (np.asarray(tests[name]) for name in ("estimate", "se", "t", "df", "p_value"))
    if adjust == "tukey":
        p, factor = _tukey(t, df, level, means)
    else:
        by_family = p.reshape(*p.shape[:-1], -1, family)
        corrected = _holm(by_family) if adjust == "holm" else np.minimum(1.0, family * by_family)
        p, factor = corrected.reshape(p.shape), stdtrit(df, 1 - (1 - level) / (2 * family))
    return {"p_value": p, "lower": estimate - factor * se, "upper": estimate + factor * se}


def _holm(p: FloatArray) -> FloatArray:
    order = np.argsort(p, axis=-1)  # NaN last, which count as tests
    m = p.shape[-1]
    corrected = np.take_along_axis(p, order, -1) * np.arange(m, 0, -1)
    out = np.empty_like(p)
    np.put_along_axis(out, order, np.minimum(1.0, np.maximum.accumulate(corrected, axis=-1)), -1)
    return out


def _tukey(t: FloatArray, df: FloatArray, level: float, means: int) -> tuple[FloatArray, FloatArray]:
    """Return p-values and the factors of the standard errors."""
    from scipy.stats import studentized_range  # takes long to import

    known = np.isfinite(t) & ~np.isnan(df)
    p, factor, at = np.full(t.shape, np.nan), np.full(t.shape, np.nan), np.minimum(df[known], _INFINITE)
    p[known] = studentized_range.sf(np.sqrt(2) * np.abs(t[known]), means, at)
    factor[known] = _of_few(lambda v: studentized_range.ppf(level, means, v), at) / np.sqrt(2)
    return p, factor


def _of_few(quantile: Callable[[FloatArray], Any], df: FloatArray) -> FloatArray:
    """Return quantiles, each of which takes a quarter of a second, interpolated in 1/df if they are many."""
    distinct, place = np.unique(np.round(df, 9), return_inverse=True)
    if len(distinct) <= _DEGREE + 1:
        return np.asarray(quantile(distinct))[place]
    inverse = 1 / distinct
    curve = Chebyshev.interpolate(lambda v: np.log(quantile(1 / v)), _DEGREE, [inverse.min(), inverse.max()])
    return np.asarray(np.exp(curve(1 / distinct)))[place]
