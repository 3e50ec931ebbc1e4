"""Which loops a fit takes: the compiled ones, or for a few responses the same in Python with sums by NumPy."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.interpreted import interpreted

_FEW = 3000  # evaluations, a hundred searches: a tenth of a second in Python; Numba takes more to load its loops
SEARCH = 30  # evaluations in the search of one response


def loops_for(evaluations: int) -> Any:
    """Return the functions of `loops` for a number of evaluations of the likelihood."""
    if evaluations <= _FEW:
        return _few()
    from pm_fastlmm.kernel.likelihood import loops

    return loops


@cache
def _few() -> SimpleNamespace:
    from pm_fastlmm.kernel.likelihood import loops

    return interpreted(
        loops,
        _sums,
        _weighted,
        _residual_sums,
        corner_terms,
        _log_shifted,
        _sums_at_ends,
        _cross_at_ends,
        estimate_rows,
    )


def _sums(eigvals: FloatArray, squares: FloatArray, delta: float) -> tuple[Any, ...]:
    w = 1 / (eigvals + delta)
    h, c, q = eigvals * w, delta * w, squares * w
    return h @ q, c @ q, h @ (c * q), h.sum(), c.sum(), h @ c


def _weighted(eigvals: FloatArray, products: FloatArray, delta: float) -> Any:
    return (products / (eigvals + delta)).sum()


def _residual_sums(eigvals: FloatArray, z: FloatArray, g: FloatArray, alpha: float, delta: float) -> tuple[Any, ...]:
    w, r = 1 / (eigvals + delta), z - alpha * g
    h, c, q = eigvals * w, delta * w, r * r * w
    return h @ q, c @ q, h @ (c * q), (c * w * r) @ g


def corner_terms(eigvals: FloatArray, C: FloatArray, schur: FloatArray, delta: float) -> tuple[Any, ...]:
    """Return what `loops.corner_terms` returns."""
    w = 1 / (eigvals + delta)
    h, c = eigvals * w, delta * w
    scaled, one = C.T * (c / eigvals), delta * np.eye(len(schur))
    S, rest = schur + scaled @ C + one, schur + (scaled * c) @ C
    try:
        np.linalg.cholesky(S)
    except np.linalg.LinAlgError:
        return np.nan, np.nan, np.nan, np.nan
    first, second = (scaled * h) @ C + one, (scaled * (h * (h - c))) @ C + one
    solved = np.linalg.solve(S, np.stack([first, rest, second]))
    slope, other, curvature = np.trace(solved, axis1=1, axis2=2)
    return np.linalg.slogdet(S)[1], slope, other, curvature - (solved[0] * solved[0].T).sum()


def _log_shifted(eigvals: FloatArray, delta: float) -> Any:
    return np.log1p(eigvals / delta).sum() if delta >= 1.0 else np.log(eigvals + delta).sum()


def _sums_at_ends(eigvals: FloatArray, inverse: FloatArray, squares: FloatArray) -> tuple[Any, ...]:
    p = squares * inverse
    return squares.sum(), squares @ eigvals, p.sum(), p @ inverse


def _cross_at_ends(inverse: FloatArray, z: FloatArray, g: FloatArray) -> tuple[Any, ...]:
    return z @ g, (z * g) @ inverse


def estimate_rows(
    eigvals: FloatArray, Z: FloatArray, g: FloatArray, e: FloatArray, C: FloatArray, CC: FloatArray, out: FloatArray
) -> None:
    """Write what `loops.estimate_rows` writes."""
    w = 1 / (g[:, None] * eigvals + e[:, None])
    q, v = Z * Z * w, eigvals * w
    pairs = (q * v, v), (q * v, w), (q * w, w), (v, v), (v, w), (w, w)
    out[:, :6] = np.stack([np.einsum("ti,ti->t", *pair) for pair in pairs], axis=-1)
    out[:, 6:] = np.hstack([(Z * w) @ C.T, w @ CC.T])
