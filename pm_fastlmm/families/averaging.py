"""Averages over records and over a normal distribution: few points with weights instead of all records."""

import numpy as np

from pm_fastlmm.base.arrays import FloatArray

_POINTS = 24  # a Gauss rule for the distribution of the records: exact for polynomials of degree 47
_SPACING, _FINE, _REACH = 0.45, 0.35, 9.0  # of the trapezoidal rule, see `normal_points`
_MOST = 2**17  # points on either side
_AT_ONCE = 2**15  # numbers, which stay in the cache
_NEGLIGIBLE = 1e-12  # of a subdiagonal, relative to the range of the records


def normal_points(sd: float, *, bounded: bool) -> tuple[FloatArray, FloatArray]:
    """
    Return points x and weights of E f(sd x), x ~ N(0, 1), for f with the smoothness of a link, bounded or not.

    The trapezoidal rule converges geometrically for analytic functions (Trefethen & Weideman 2014,
    doi:10.1137/130932132). For a logistic f(sd x) has poles at distance π/sd from the real line, and a spacing of
    0.35/sd leaves an error of e⁻⁵⁶; Gauss-Hermite points are too far apart there. Where f is not bounded, the rule
    reaches so far that the variance of exp(sd x) is in it. A standard deviation of thousands makes a step of a link,
    which a rule of 2¹⁸ points has to five digits.
    """
    reach = _REACH if bounded else _REACH + 2 * sd
    half = int(min(np.ceil(reach / min(_SPACING, _FINE / max(sd, 1e-300))), _MOST))
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
    block = max(1, _AT_ONCE // values.shape[1])
    starts = range(0, len(values), block)
    rows = [slice(start, start + block) for start in starts]
    jacobi = np.concatenate([_jacobi((values[r] - middle[r]) / half[r], weights) for r in rows])
    points, vectors = np.linalg.eigh(jacobi)
    return middle + half * points, vectors[:, 0, :] ** 2


def _jacobi(x: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the lower triangles of the Jacobi matrices (D, m, m) of the values in each row, weighted alike."""
    jacobi = np.zeros((len(x), _POINTS, _POINTS))
    before, now, norm = np.zeros_like(x), np.ones_like(x), np.zeros(len(x))
    for k in range(_POINTS):
        jacobi[:, k, k] = diagonal = (x * now * now) @ weights
        after = (x - diagonal[:, None]) * now - norm[:, None] * before
        norm = np.sqrt((after * after) @ weights)
        norm[norm < _NEGLIGIBLE] = 0.0
        if k + 1 < _POINTS:
            jacobi[:, k + 1, k] = norm
        before, now = now, after / np.where(norm > 0, norm, np.inf)[:, None]
    return jacobi
