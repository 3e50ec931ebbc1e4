"""P and Py of several terms at posterior draws, one draw after the other."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.draws import DrawFunction
from pm_fastlmm.engines.precisions import Part, require_definite
from pm_fastlmm.engines.structured.precision import MixedPrecision, PrecisionRows
from pm_fastlmm.engines.structured.products import MixedProducts
from pm_fastlmm.engines.structured.state import MixedState


def parts(
    name: str, p: MixedProducts, y: FloatArray, function: DrawFunction, matrices: Callable[[FloatArray], Any],
    numbers: int,
) -> Iterator[Part]:  # fmt: skip
    """Return the draws of `function`, which gives θ, mu, and mean and covariance of β; `matrices` are Σ_k(θ)."""
    theta, mu, b, B = function()
    rows, X = PrecisionRows.of(p), p.projection.Q1 @ p.projection.R
    mean, response = None, None
    for i, values in enumerate(theta):
        own = mu[i] if p.flat else mu[i] + X @ b[i]
        if mean is None or not np.array_equal(own, mean):
            mean, residual = own, y - own
            response = p.response(residual)
            response = response if p.flat else p.shifted(response, response.y1)
        sigma = [np.atleast_2d(m) for m in matrices(values)[0]]
        assert response is not None
        state = MixedState.at(p, response, [*sigma, B[i]] if B[i].size else sigma, float(values[-1]))
        require_definite(state, name)
        assert state is not None
        yield Part(i, MixedPrecision.of(state, residual, rows, budget=numbers), y)
