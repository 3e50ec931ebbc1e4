"""β̂ that maximises Laplace's approximation at given variances (ML), by quasi-Newton steps from exact gradients."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.latent.state import LatentState

_CONVERGED = 1e-16  # Newton decrement, beside the size of the log-likelihood, at which β̂ is at its rounding
_SURE = 1e-4  # decrement below which a full step is taken, whose gain may be less than the rounding of log p̃
_ITERATIONS, _HALVINGS = 60, 25
_DIFFERENCE = 1e-2  # of a standard error


@dataclass(slots=True, eq=False)
class Search:
    """
    Where the last search for β̂ ended, from where the next one starts.

    Attributes
    ----------
    x : (N,) array or None
        The mode.
    theta, along : arrays or None
        The parameters, and the coordinates of β̂ along X there.
    inverse : (r, r) array or None
        Of the information, as successive gradients show it.
    slopes : (r, P) array or None
        ∂β̂/∂θ, as successive estimates show it (Broyden).
    """

    x: FloatArray | None = None
    theta: FloatArray | None = None
    along: FloatArray | None = None
    inverse: FloatArray | None = None
    slopes: FloatArray | None = None

    def expected(self, theta: FloatArray) -> FloatArray | None:
        """Return what β̂ is expected to be at θ."""
        if self.along is None or self.theta is None or self.slopes is None:
            return self.along
        return np.asarray(self.along + self.slopes @ (theta - self.theta))

    def ended(self, theta: FloatArray, along: FloatArray, inverse: FloatArray) -> None:
        """Keep where a search ended."""
        if self.theta is None or self.along is None or self.slopes is None:
            self.slopes = np.zeros((len(along), len(theta)))
        else:
            size = np.abs(self.theta) + np.abs(theta) + 1e-300
            moved = (theta - self.theta) / size
            if (length := float(moved @ moved)) > 0:
                error = along - self.along - self.slopes @ (theta - self.theta)
                self.slopes = self.slopes + np.outer(error, moved / size) / length
        self.theta, self.along, self.inverse = np.array(theta), along, inverse


def with_coefficients(
    products: Any, y: FloatArray, offset: FloatArray, sigma: list[FloatArray], psi: FloatArray, theta: FloatArray,
    last: Search,
) -> tuple[LatentState, FloatArray] | None:  # fmt: skip
    """
    Return the approximation at β̂ and the coordinates of β̂ along X; None where there is none.

    The gradient is Xᵀh, the first metric XᵀPX of the working response, updated by what successive gradients show
    (BFGS).
    """
    X = products.projection
    along = last.expected(theta)
    known = along is not None
    if along is None:
        along = _first(products, y, offset, sigma, psi)
    state = None if along is None else products.laplace(y, offset + X.along(along), sigma, psi, last.x)
    if along is None or state is None:
        return with_coefficients(products, y, offset, sigma, psi, theta, Search()) if known else None
    gradient = X.basis.T @ state.offset_gradient
    inverse = last.inverse if last.inverse is not None else np.linalg.inv(state.information_of(basis_of(X)))
    for _ in range(_ITERATIONS):
        step = inverse @ gradient
        decrement = float(step @ gradient)
        if decrement <= _CONVERGED * max(1.0, abs(state.loglik)):
            break
        moved = _moved(products, y, offset, sigma, psi, along, step, state, decrement)
        if moved is None:
            break
        along, new, length = moved
        slope = X.basis.T @ new.offset_gradient
        inverse = _updated(inverse, length * step, gradient - slope)
        state, gradient = new, slope
    last.ended(theta, along, inverse)
    return state, along


def observed_information(products: Any, state: LatentState, offset: FloatArray, along: FloatArray) -> FloatArray:
    """Return minus the Hessian of log p̃ in the coordinates of β̂, by differences of the gradient."""
    X, r = products.projection, len(along)
    steps = _DIFFERENCE / np.sqrt(np.diag(state.information_of(basis_of(X))))
    out = np.zeros((r, r))
    for j in range(r):
        move = steps[j] * (np.arange(r) == j)
        ends = [
            products.laplace(state.y, offset + X.along(along + sign * move), state.sigma, state.psi, state.mode.x)
            for sign in (-1, 1)
        ]
        if any(end is None for end in ends):
            return np.full((r, r), np.nan)
        low, high = (X.basis.T @ end.offset_gradient for end in ends)
        out[j] = (low - high) / (2 * steps[j])
    return (out + out.T) / 2


def basis_of(X: Any) -> FloatArray:
    """Return the basis of X as an array."""
    return np.asarray(X.basis.toarray())


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
    """Return coordinates, state and length of a step, halved until log p̃ rises; None where it does not."""
    length, slack = 1.0, 1e-13 * max(1.0, abs(state.loglik))
    for attempt in range(_HALVINGS):
        moved = along + length * step
        new: LatentState | None = products.laplace(
            y, offset + products.projection.along(moved), sigma, psi, state.mode.x
        )
        if new is not None:
            gain = new.loglik - state.loglik
            sure = not attempt and decrement < _SURE and abs(gain) < _SURE
            if sure or gain >= 1e-4 * length * decrement - slack:
                return moved, new, length
        length *= 0.5
    return None


def _updated(inverse: FloatArray, step: FloatArray, change: FloatArray) -> FloatArray:
    """Return the BFGS update of an inverse information, where the gradient fell along the step."""
    slope = float(step @ change)
    if slope <= 1e-6 * float(np.linalg.norm(step) * np.linalg.norm(change)):
        return inverse
    left = np.eye(len(step)) - np.outer(step, change) / slope
    return np.asarray(left @ inverse @ left.T + np.outer(step, step) / slope)
