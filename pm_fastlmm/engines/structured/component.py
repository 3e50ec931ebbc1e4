"""One component of a structured model on its own: the other ones known, or there are none."""

from dataclasses import dataclass

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.semidefinite import eigen_root
from pm_fastlmm.engines.spectral.objective import SpectralObjective
from pm_fastlmm.engines.structured.products import MixedProducts
from pm_fastlmm.engines.structured.state import MixedState
from pm_fastlmm.spectrum.projection import Projection
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_LARGEST = 300_000_000  # numbers of the incidence matrix of a component that is tested


@dataclass(frozen=True, slots=True, eq=False)
class OneTermObjective(SpectralObjective):
    """ℓ(σ²_g, σ²_e) of a model of one term, which the spectral engine fits and the structured one predicts."""

    products: MixedProducts
    y: FloatArray

    @property
    def projection(self) -> Projection:
        """The projection by X, with the columns that were dropped; the spectrum has the others."""
        return self.products.projection

    def terms(self, theta: FloatArray) -> MixedState | None:
        """Return the term at θ."""
        sigma = [np.array([[theta[0]]])]
        return MixedState.at(self.products, self.products.response(self.y), sigma, float(theta[1]))


def alone(state: MixedState, y: FloatArray, k: int, direction: FloatArray, variance: float) -> Rotated:
    """
    Return y less the predictions of all but variance · direction, a part of Σ_k, rotated by that part.

    Raises
    ------
    ValueError
        If the spectrum of that component would not fit in memory.
    """
    block = state.products.blocks[k]
    values, vectors = np.linalg.eigh(direction)
    root = eigen_root(values, vectors)[:, values > 1e-12 * values.max()]
    n, width = block.Z.shape[0], root.shape[1]
    if n * block.levels * width > _LARGEST:
        raise ValueError(
            f"the component has {block.levels * width} effects in {n} rows: its spectrum would not fit in memory. "
            "2 * (fit.loglik - loglik without it) beside ½χ²₀ + ½χ²₁ is what is left."
        )
    Z = block.Z.toarray().reshape(n, block.levels, block.width)
    W = (Z @ root).reshape(n, -1)
    others = np.zeros(n)
    for j, weights in enumerate(state.gradient.effects):
        sigma = state.sigma[j] - (variance * direction if j == k else 0.0)
        others += state.products.blocks[j].Z @ (weights @ sigma).ravel()
    spectrum = Spectrum.from_factor(W, state.products.projection.Q1)
    return Rotated.from_values(spectrum, y - others, None)
