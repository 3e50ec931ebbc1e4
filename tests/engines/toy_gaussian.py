"""
A sixth engine: y ~ N(Xβ, σ²_g K + σ²_e diag(w)) with known weights w and a flat prior of β.

It writes its V, and joins at the Gaussian level: fits, replicates, what is left out and comparisons follow from V.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import scipy.linalg
from pytensor.tensor.random.basic import normal

from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.engines.protocol import answers_for, observed_data
from pm_fastlmm.engines.random_variable import LMM, LMMRV
from pm_fastlmm.spectrum.projection import Projection


class WeightedRV(LMMRV):
    """Inputs σ²_g and σ²_e; draws are error contrasts."""

    name = "WeightedLMM"
    extended_signature = "[rng],[size],(),()->[rng],(n)"
    K: Any
    weights: Any

    @classmethod
    def draw(cls, rng, batch, g, e, *, K, weights, projection, treatment):
        """Return a root of V times white noise, less what is along X."""
        next_rng, noise = normal(0.0, 1.0, size=(*batch, len(weights)), rng=rng, return_next_rng=True)
        y = (pt.linalg.cholesky(g * K + e * np.diag(weights)) * noise[..., None, :]).sum(-1)
        return next_rng, y - y @ projection.Q1 @ projection.Q1.T

    def logp(self, value, g, e):
        """Return the density of the error contrasts, with -½log|XᵀX|."""
        N = scipy.linalg.null_space(self.projection.X.T)
        V = g * self.K + e * np.diag(self.weights)
        contrasts = pm.MvNormal.dist(np.zeros(N.shape[1]), cov=N.T @ V @ N)
        return pm.logp(contrasts, value @ N) - self.projection.logdet_R


def weighted_lmm(name, *, K, weights, X, sigma2_g, sigma2_e, observed):
    """Register the distribution with the model of the context."""
    carried = {"treatment": "flat", "projection": Projection.from_design(X), "K": K, "weights": weights}
    return LMM(name, [sigma2_g, sigma2_e], kind=WeightedRV, carried=carried, observed=observed)


@answers_for(WeightedRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WeightedNode(GaussianNode):
    """The node: V, and the share of σ²_gK."""

    called: ClassVar[str] = "WeightedLMM"

    K: Any
    weights: Any
    sigma2_g: Any
    sigma2_e: Any

    def covariance(self):
        """Return V."""
        return self.sigma2_g * self.K + self.sigma2_e * np.diag(self.weights)

    def deriving(self):
        """Return σ²_g and σ²_e."""
        return [self.sigma2_g, self.sigma2_e]

    def derived(self, sigma2_g, sigma2_e):
        """Return what K explains of the variance, on average over the rows."""
        g, e = np.trace(self.K) * sigma2_g, self.weights.sum() * sigma2_e
        return {"share": g / (g + e)}

    @classmethod
    def of(cls, op, model, rv):
        """Read the node."""
        _, _, g, e = rv.owner.inputs
        common = (rv.name, rv, op.treatment, None, None, observed_data(model, rv), op.projection, None)
        return cls(*common, op.K, op.weights, g, e)
