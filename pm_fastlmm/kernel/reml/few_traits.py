"""The loops of several traits in Python, with sums by NumPy: for one fit, done before Numba would have loaded."""

import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.interpreted import interpreted


@cache
def few() -> SimpleNamespace:
    """Return the functions of `trait_loops`."""
    from pm_fastlmm.kernel.reml import trait_loops

    return interpreted(
        trait_loops, _inverse_root, _rotate, _times, _whitened, _sums, _slopes, _cross, _corner, _dot, _step, _learn
    )


def _inverse_root(A: FloatArray) -> tuple[FloatArray, Any]:
    try:
        root = np.linalg.cholesky(A)
    except np.linalg.LinAlgError:
        return np.zeros_like(A), math.inf
    return np.linalg.inv(root), 2 * np.log(np.diag(root)).sum()


def _rotate(A: FloatArray, B: FloatArray) -> None:
    B[:] = np.linalg.eigh(A)[1].T @ B


def _times(A: FloatArray, B: FloatArray, transposed: bool) -> FloatArray:
    return A @ (B.T if transposed else B)


def _whitened(T: FloatArray, z: FloatArray) -> FloatArray:
    return T @ z


def _sums(eigvals: FloatArray, w: FloatArray, g: FloatArray, k: int, gamma: float, epsilon: float) -> tuple[Any, ...]:
    s = eigvals * gamma + epsilon
    v = w / s
    return np.log(s[:k]).sum(), v @ w, v @ g, (g / s) @ g


def _slopes(
    eigvals: FloatArray, w: FloatArray, g: FloatArray, k: int, gamma: float, epsilon: float, alpha: float, q: FloatArray
) -> tuple[Any, ...]:
    v = 1 / (eigvals * gamma + epsilon)
    q[:] = (w - alpha * g) * v
    share = (g * v) ** 2
    return eigvals[:k] @ v[:k], v[:k].sum(), eigvals @ share, share.sum()


def _cross(eigvals: FloatArray, a: FloatArray, b: FloatArray) -> tuple[Any, ...]:
    return (eigvals * a) @ b, a @ b


def _corner(eigvals: FloatArray, C: FloatArray, schur: FloatArray, gamma: float, epsilon: float) -> tuple[Any, ...]:
    v = 1 / (eigvals[: len(C)] * gamma + epsilon)
    over = v / eigvals[: len(C)]
    M = epsilon * np.eye(len(schur)) + gamma * schur + gamma * epsilon * (C.T * over) @ C
    of_g = schur + epsilon**2 * (C.T * (over * v)) @ C
    of_e = np.eye(len(schur)) + gamma**2 * (C.T * v**2) @ C
    inverse, log = _inverse_root(M)
    P = inverse.T @ inverse
    return log, (P * of_g).sum(), (P * of_e).sum()


def _dot(a: FloatArray, b: FloatArray) -> Any:
    return a @ b


def _step(H: FloatArray, gradient: FloatArray, step: FloatArray) -> Any:
    step[:] = -(H @ gradient)
    return step @ gradient


def _learn(H: FloatArray, change: FloatArray, bend: FloatArray, product: float) -> None:
    v = -(H @ bend)
    H += (1 - bend @ v / product) / product * np.outer(change, change)
    H += (np.outer(v, change) + np.outer(change, v)) / product
