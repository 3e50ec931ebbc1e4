"""β̂ that maximises Laplace's approximation at given variances (ML), by quasi-Newton steps from exact gradients."""

from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.latent.state import LatentState

_CONVERGED = 1e-15  # Newton decrement, beside the size of the log-likelihood, at which β̂ is at its rounding
_ITERATIONS, _HALVINGS = 60, 25


def with_coefficients(
    products: Any, y: FloatArray, offset: FloatArray, sigma: list[FloatArray], psi: FloatArray,
    last: dict[str, FloatArray],
) -> tuple[LatentState, FloatArray] | None:  # fmt: skip
    """
    Return the approximation at β̂ and the coordinates of β̂ along X; None where there is none.

    The gradient is Xᵀh, the first metric XᵀPX of the working response, updated by what successive gradients show.
    `last` holds where the last search ended, from where this one starts.
    """
    X = products.projection
    basis = X.basis
    start = last.get("x")
    along = last["along"] if "along" in last else _first(products, y, offset, sigma, psi)
    if along is None:
        return None
    state = products.laplace(y, offset + X.along(along), sigma, psi, start)
    if state is None:
        if "along" not in last:
            return None
        return with_coefficients(products, y, offset, sigma, psi, {})
    gradient = basis.T @ state.offset_gradient
    inverse = np.linalg.inv(state.information_of(basis.toarray() if hasattr(basis, "toarray") else basis))
    for _ in range(_ITERATIONS):
        step = inverse @ gradient
        decrement = float(step @ gradient)
        if decrement <= _CONVERGED * max(1.0, abs(state.loglik)):
            break
        moved = _moved(products, y, offset, sigma, psi, along, step, state, decrement)
        if moved is None:
            break
        along, new, length = moved
        slope = basis.T @ new.offset_gradient
        inverse = _updated(inverse, length * step, gradient - slope)
        state, gradient = new, slope
    last["along"] = along
    return state, along


def _first(
    products: Any, y: FloatArray, offset: FloatArray, sigma: list[FloatArray], psi: FloatArray
) -> FloatArray | None:
    """Return β̂ with β in the mode."""
    flat = products.treated(len(products.blocks), flat=True)
    state = flat.laplace(y, offset, sigma, psi)
    return None if state is None else np.asarray(state.solved[state.products.equations.part(-1)])


def _moved(
    products: Any, y: FloatArray, offset: FloatArray, sigma: list[FloatArray], psi: FloatArray, along: FloatArray,
    step: FloatArray, state: LatentState, decrement: float,
) -> tuple[FloatArray, LatentState, float] | None:  # fmt: skip
    length, slack = 1.0, 1e-13 * max(1.0, abs(state.loglik))
    for _ in range(_HALVINGS):
        moved = along + length * step
        new: LatentState | None = products.laplace(
            y, offset + products.projection.along(moved), sigma, psi, state.mode.x
        )
        if new is not None and new.loglik >= state.loglik + 1e-4 * length * decrement - slack:
            return moved, new, length
        length *= 0.5
    return None


def _updated(inverse: FloatArray, step: FloatArray, change: FloatArray) -> FloatArray:
    """Return the BFGS update of an inverse information, where the gradient fell along the step."""
    slope = float(step @ change)
    if slope <= 1e-12 * float(np.linalg.norm(step) * np.linalg.norm(change)):
        return inverse
    left = np.eye(len(step)) - np.outer(step, change) / slope
    return np.asarray(left @ inverse @ left.T + np.outer(step, step) / slope)
