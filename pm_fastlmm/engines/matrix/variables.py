"""The random variable behind MatrixLMM."""

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pymc.distributions.dist_math import check_parameters

from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import Theta
from pm_fastlmm.engines.algebra import along_columns, less_columns, white_noise
from pm_fastlmm.engines.random_variable import LMM, LMMRV
from pm_fastlmm.engines.structured.operations import RandomEffects, Residuals
from pm_fastlmm.engines.structured.structuredlmm import packed
from pm_fastlmm.engines.traits.products import TraitProducts
from pm_fastlmm.spectrum.spectrum import Spectrum


class MatrixLMMRV(LMMRV):
    """
    Y (t, n) = mu + XB + U + E: inputs mu, b and B (mean and covariance of β, empty if it has none) and θ.

    The op carries the products of the entries that were observed, and those of all, which draws are of.
    """

    _ndim_supp = 2
    name = "MatrixLMM"
    extended_signature = "[rng],[size],(t,n),(r),(s,s),(p)->[rng],(t,n)"
    terms: tuple[Term, ...]
    residual: Term
    theta: Theta
    products: TraitProducts
    complete: TraitProducts
    spectrum: Spectrum
    design: Any

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Return the next generator and a draw, for each of a batch, of entries that were not observed as well."""
        mu, b, B, theta = params
        p: TraitProducts = carried["complete"]
        rng, (xi, noise) = white_noise(rng, batch, sum(block.Z.shape[1] for block in p.blocks), p.n)
        own = p.records.width, p.records.width
        sigma_e = pt.specify_shape(carried["theta"].matrices(theta)[1], own)
        y = RandomEffects(p)(packed(carried["theta"], p, theta, B), xi) + Residuals(p)(sigma_e, noise)
        white = less_columns(p.projection, y) if p.flat else y + along_columns(p.projection, b)
        values = p.weights.unscaled(white)
        return rng, mu + values.reshape((*batch, len(p.traits), p.spectrum.n))

    def center(self, *params: Any) -> Any:
        """Return where an unobserved variable starts."""
        return params[0]

    def logp(self, value: Any, *params: Any) -> Any:
        """Return the log-density of what was observed."""
        mu, b, B, theta = params
        p = self.products
        residual = p.weights.scaled(entries(p, value - mu))
        noise = self.theta.matrices(theta)[1]
        logp = p.log_density(packed(self.theta, p, theta, B), noise, residual, b)
        allowed = pt.all(pt.diag(noise) >= 0), pt.all(~pt.isnan(theta))
        return check_parameters(logp + p.constant, *allowed, msg="variances >= 0, no parameter NaN")


def entries(p: TraitProducts, values: Any) -> Any:
    """Return the entries (N,) of (t, n) values that were observed."""
    flat = values.reshape((len(p.traits) * p.spectrum.n,))
    return flat if p.seen.all() else flat[np.flatnonzero(p.seen)]


class MatrixDistribution(LMM):
    """The distribution as PyMC takes it, of a matrix."""

    rv_type = MatrixLMMRV
    rv_op = LMM.rv_op  # PyMC looks for it in each class
