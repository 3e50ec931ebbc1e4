"""Tail probabilities of F and χ², with logarithms of those that are too small for floating point."""

import math
from typing import Any

import numpy as np
from scipy.special import betaln, chdtrc, fdtrc, gammaln

from pm_fastlmm.base.arrays import FloatArray

_SMALL = 1e-280
_TERMS = 40  # of a series whose terms fall by hundreds below _SMALL


def tail(statistic: Any, q: int, nu: float = math.inf) -> tuple[FloatArray, FloatArray]:
    """
    Return P(x > statistic) and log₁₀ of it, for x/q ~ F(q, ν), or x ~ χ²_q where ν is infinite.

    Notes
    -----
    Far out, the incomplete beta function with a = ν/2, b = q/2 and x = ν/(ν + statistic) is

        I_x(a, b) = xᵃ(1-x)ᵇ⁻¹/(aB(a, b)) · Σ_k Π_{i<k} (b-1-i)/(a+1+i) · x/(1-x)

    Examples
    --------
    >>> from pm_fastlmm.kernel.reml.tails import tail
    >>> p, log10 = tail(5000.0, 2)  # χ²₂ is exponential
    >>> float(p), float(log10.round(3))
    (0.0, -1085.736)
    """
    x = np.asarray(statistic, dtype=float)
    with np.errstate(all="ignore"):
        p = np.asarray(chdtrc(q, x) if nu == math.inf else fdtrc(q, nu, x / q))
        log10 = np.asarray(np.log10(p))
        far = (p < _SMALL) & np.isfinite(x)
        if far.any():
            log10[far] = _log_far(x[far], q / 2, nu / 2) / math.log(10)
    return p, log10


def _log_far(x: FloatArray, b: float, a: float) -> FloatArray:
    if a == math.inf:
        ratio = 2 / x
        log = -x / 2 + (b - 1) * np.log(x / 2) - gammaln(b)
        factors = [(b - 1 - i) * ratio for i in range(_TERMS)]
    else:
        ratio = 2 * a / x
        log = -(a + b - 1) * np.log1p(1 / ratio) - (b - 1) * np.log(ratio) - math.log(a) - betaln(a, b)
        factors = [(b - 1 - i) / (a + 1 + i) * ratio for i in range(_TERMS)]
    return np.asarray(log + np.log1p(np.cumprod(factors, axis=0).sum(axis=0)))
