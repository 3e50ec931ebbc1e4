"""Averages over records and over a normal distribution: few points with weights instead of all records."""

import numpy as np

from pm_fastlmm.base.arrays import FloatArray

_POINTS = 24  # a Gauss rule for the distribution of the records: exact for polynomials of degree 47
_SPACING, _FINE, _REACH = 0.45, 0.35, 9.0  # of the trapezoidal rule, see `normal_points`
_NEGLIGIBLE = 1e-12  # of a subdiagonal, relative to the range of the records


def normal_points(sd: float) -> tuple[FloatArray, FloatArray]:
    """
    Return points x and weights of E f(sd x), x ~ N(0, 1), for f with the smoothness of a link.

    The trapezoidal rule converges geometrically for analytic functions (Trefethen & Weideman 2014,
    doi:10.1137/130932132). For a logistic f(sd x) has poles at distance π/sd from the real line, and a spacing of
    0.35/sd leaves an error of e⁻⁵⁶; Gauss-Hermite points are too far apart there. It reaches so far that the variance
    of exp(sd x) is in it.
    """
    reach = _REACH + 2 * sd
    half = int(np.ceil(reach / min(_SPACING, _FINE / max(sd, 1e-300))))
    x = np.linspace(-reach, reach, 2 * half + 1)
    density = np.exp(-(x**2) / 2)
    return x, density / density.sum()


def few_points(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """
    Return points and weights (D, m), m small, that have the averages of smooth functions over values (D, n).

    Records whose values are equal in all rows are grouped. If there are many groups left, the points are those of
    Gauss's rule for the distribution of the values in each row: eigenvalues of the Jacobi matrix that Stieltjes's
    procedure finds (Gautschi 2004, Orthogonal Polynomials, section 2.2).
    """
    _, first, inverse, counts = np.unique(values[0], return_index=True, return_inverse=True, return_counts=True)
    if first.size < values.shape[1] and np.array_equal(values, values[:, first[inverse]]):
        values, weights = values[:, first], counts / values.shape[1]
    else:
        weights = np.full(values.shape[1], 1 / values.shape[1])
    if values.shape[1] <= _POINTS:
        return values, np.broadcast_to(weights, values.shape)
    return _gauss(values, weights)


def _gauss(values: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    middle, half = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
    x = (values - middle) / half
    diagonal = np.zeros((len(x), _POINTS))
    beside = np.zeros((len(x), _POINTS))
    before, now = np.zeros_like(x), np.ones_like(x)
    for k in range(_POINTS):
        diagonal[:, k] = (x * now**2) @ weights
        after = (x - diagonal[:, [k]]) * now - beside[:, [k - 1]] * before
        norm = np.sqrt(after**2 @ weights)
        beside[:, k] = np.where(norm > _NEGLIGIBLE, norm, 0.0)
        before, now = now, after / np.where(norm > _NEGLIGIBLE, norm, np.inf)[:, None]
    jacobi = np.zeros((len(x), _POINTS, _POINTS))
    place = np.arange(_POINTS)
    jacobi[:, place, place] = diagonal
    jacobi[:, place[1:], place[:-1]] = beside[:, :-1]  # the lower triangle is what eigh reads
    points, vectors = np.linalg.eigh(jacobi)
    return middle + half * points, vectors[:, 0, :] ** 2
