"""How small variances of the residuals may be: V may be singular where they are 0, and y is rounded."""

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.semidefinite import zero_tolerance
from pm_fastlmm.engines.term_products import TermProducts

VANISHED = 1e-8  # share of the variance of y at which σ²_e is 0 where only inner products are to be had, half of whose
# digits yᵀPy has lost there
RESOLVED = 1e-24  # the same with rows: σ_e is 1e-12 of the standard deviation of y
_DEFINITE = (
    1e-6  # the same of combinations of residuals that covary: R⁻¹ is a sum that cancels, and ℓ has ten digits there
)
_AT = 1 + 1e-9  # in units of the least variances
_SLOPE = 0.25  # of ℓ in -log σ²_e at σ²_e = 0; it is ν/2 where ν directions of y have no other variance


def least_variances(products: TermProducts, resolved: bool, y: FloatArray, rounding: float) -> FloatArray:
    """
    Return the least variance of each coordinate of Σ_e, just above 0 and above the rounding of y, (c,).

    Parameters
    ----------
    products : TermProducts
    resolved : bool
        Whether a small σ²_e is seen in rows.
    y : (n,) array
        What X leaves of the response.
    rounding : float
        Of the length of y.
    """
    records, share = products.records, RESOLVED if resolved else VANISHED
    if not records.independent:
        share = _DEFINITE
    left = np.bincount(records.coordinate, y**2, records.width)
    counts = records.counts * (products.n / records.n)
    return np.maximum(share * left / counts, max((rounding / 8) ** 2, 1e-288) / products.n)


def inside(noise: FloatArray, least: FloatArray) -> FloatArray:
    """Return Σ_e whose eigenvalues are at least 1 in units of the least variances; one that is indefinite as it is."""
    unit = np.sqrt(least)
    values, vectors = np.linalg.eigh(noise / np.outer(unit, unit))
    if not -zero_tolerance(values) <= values[0] < 1:
        return noise
    return np.asarray((vectors * np.maximum(values, 1.0)) @ vectors.T * np.outer(unit, unit))


def at_least(noise: FloatArray, least: FloatArray) -> bool:
    """Return whether a variance in Σ_e, of a combination of coordinates, is at its least."""
    unit = np.sqrt(least)
    return bool(np.linalg.eigvalsh(noise / np.outer(unit, unit))[0] <= _AT)


def rises(noise: FloatArray, slope: FloatArray, least: FloatArray) -> bool:
    """Return whether ℓ rises as a variance in Σ_e that is at its least, of a combination of coordinates, falls."""
    unit = np.sqrt(least)
    values, vectors = np.linalg.eigh(noise / np.outer(unit, unit))
    slopes = np.einsum("ai,ab,bi->i", vectors, slope * np.outer(unit, unit), vectors)
    return bool((-values * slopes)[values <= _AT].max(initial=0.0) > _SLOPE)
