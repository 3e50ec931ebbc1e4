"""Genomic control: how far the tests of a scan are inflated."""

from typing import Any

import numpy as np
from scipy.special import chdtri

_MEDIAN = float(chdtri(1, 0.5))  # of χ²₁, 0.4549


def genomic_inflation(p_value: Any) -> float:
    """
    Return λ_GC, the median of the χ²₁ statistics that belong to p-values over the median of χ²₁.

    It is 1 if most candidates have no effect and the tests hold their level; above it relatedness or structure may be
    left, or many candidates have small effects.

    Parameters
    ----------
    p_value : array, DataArray or xarray.Dataset
        Or what `scan` returned. Candidates that were not tested (NaN) are left out.

    Returns
    -------
    float
        NaN if none was tested.

    References
    ----------
    Devlin & Roeder (1999), doi:10.1111/j.0006-341X.1999.00997.x.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> print(round(flmm.genomic_inflation(np.linspace(0.001, 0.999, 999)), 3))
    1.0
    """
    p = np.asarray(getattr(p_value, "p_value", p_value), dtype=float).ravel()
    p = p[~np.isnan(p)]
    return float(chdtri(1, np.median(p)) / _MEDIAN) if p.size else float("nan")
