"""The matrices Σ_k(θ) of the terms and their derivatives, as functions of numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import pushforward

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.covariance.theta import Theta
from pm_fastlmm.engines.graphs import INTERPRETED


def compile_matrices(layout: Theta) -> Callable[[FloatArray], Any]:
    """Return a function of θ: Σ_k of each term, and (place in θ, k, ∂Σ_k/∂θ_place) of each element."""
    theta = pt.vector("theta", dtype="float64", shape=(layout.size,))
    matrices = [pt.as_tensor(m) for m in layout.matrices(theta)]
    places: list[tuple[int, int]] = []
    tangents = []
    for entry in layout.entries:
        for place in range(entry.start, entry.start + entry.size):
            direction = np.zeros(layout.size)
            direction[place] = 1.0
            places.append((place, entry.term))
            tangents.append(pushforward(matrices[entry.term], theta, pt.constant(direction)))
    compiled = pytensor.function([theta], [*matrices, *tangents], mode=INTERPRETED, on_unused_input="ignore")
    count = len(matrices)

    def evaluate(values: FloatArray) -> tuple[list[FloatArray], list[tuple[int, int, FloatArray]]]:
        with np.errstate(all="ignore"):
            out = [np.atleast_2d(matrix) for matrix in compiled(np.asarray(values, dtype=float))]
        return out[:count], [(place, k, slope) for (place, k), slope in zip(places, out[count:], strict=True)]

    return evaluate
