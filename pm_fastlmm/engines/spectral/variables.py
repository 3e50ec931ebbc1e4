"""The random variables behind FastLMM: their draws as graphs, and their log-densities."""

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pymc.distributions.dist_math import check_parameters
from pytensor.tensor.random.basic import chisquare

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.algebra import along_columns, col, inverse_logdet, less_columns, product, times, white_noise
from pm_fastlmm.engines.random_variable import LMMRV, Treatment
from pm_fastlmm.kernel.likelihood.spectral import contrast_loglik, corner, gaussian_loglik, variances
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum


class SpectralRV(LMMRV):
    """What the variable of y and that of its statistic share."""

    name = "FastLMM"
    spectrum: Spectrum
    rotated: Rotated | None


class FastLMMRV(SpectralRV):
    """Y with β integrated out under a flat prior, or β ~ N(b, LLᵀ), L = 0 for an explicit β: mu, b, L, σ²_g, σ²_e."""

    extended_signature = "[rng],[size],(n),(r),(s,s),(),()->[rng],(n)"

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Return the next generator and a draw, for each of a batch."""
        mu, b, L, g, e = params
        s: Spectrum = carried["spectrum"]
        if carried["treatment"] == "proper":
            return _draw_proper(s, rng, batch, mu, b, L, g, e)
        basis = pt.constant(s.basis)
        sd = pt.sqrt(variances(pt.constant(s.eigvals), g, e, pt))
        if not s.nullity:
            next_rng, (xi,) = white_noise(rng, batch, s.rank)
            return next_rng, mu + _contrasts(s, times(basis, sd * xi))
        # white noise, with its part along the basis rescaled and its part along X taken out
        next_rng, (xi,) = white_noise(rng, batch, s.n)
        Q1, sd_e = pt.constant(s.projection.Q1), col(pt.sqrt(e))
        along = times(basis, times(basis.mT, xi) * (sd - sd_e)) - sd_e * times(Q1, times(Q1.mT, xi))
        return next_rng, mu + _contrasts(s, sd_e * xi + along)

    def center(self, *params: Any) -> Any:
        """Return where an unobserved variable starts."""
        mu, b, *_ = params
        return mu if self.treatment == "flat" else mu + along_columns(self.projection, b)

    def logp(self, value: Any, *params: Any) -> Any:
        """Return the log-density."""
        return spectral_logp(self.spectrum, self.treatment, value, *params)


def _contrasts(s: Spectrum, scaled: Any) -> Any:
    """Return error contrasts of y from those of √w y, orthogonal to X and not to √w X."""
    return scaled if s.weights.root is None else less_columns(s.design, s.weights.unscaled(scaled))


def _draw_proper(s: Spectrum, rng: Any, batch: Any, mu: Any, b: Any, L: Any, g: Any, e: Any) -> tuple[Any, Any]:
    next_rng, (xi_e, xi_k, xi_u, xi_b) = white_noise(rng, batch, s.n, s.rank, s.projection.rank, s.projection.rank)
    sd_g = col(pt.sqrt(g))
    along = times(pt.constant(s.projection.R), b + times(L, xi_b)) + sd_g * _random_corner(s, xi_k, xi_u)
    u = times(pt.constant(s.projection.Q1), along) + sd_g * times(pt.constant(s.basis), xi_k * np.sqrt(s.eigvals))
    return next_rng, mu + s.weights.unscaled(u + col(pt.sqrt(e)) * xi_e)


def _random_corner(s: Spectrum, xi_k: Any, xi_u: Any) -> Any:
    """Return Q₁ᵀu/σ of the random effects u whose rotation is λ^½ξ_k, with more noise for what that leaves open."""
    return times(pt.constant(s.C.T), xi_k / np.sqrt(s.eigvals)) + times(pt.constant(s.corner_root), xi_u)


class RotatedLMMRV(SpectralRV):
    """
    The statistic of y: b, L, σ²_g, σ²_e.

    It is [z, rss] with β integrated out under a flat prior, and [z, rss, y₁] with β ~ N(b, LLᵀ).
    """

    extended_signature = "[rng],[size],(r),(s,s),(),()->[rng],(v)"
    of_statistic = True

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Return the next generator and a draw, for each of a batch."""
        b, L, g, e = params
        s: Spectrum = carried["spectrum"]
        k, r = s.rank, s.projection.rank
        if carried["treatment"] == "flat":
            rng, (xi,) = white_noise(rng, batch, k)
            parts = [xi * pt.sqrt(variances(pt.constant(s.eigvals), g, e, pt))]
        else:
            rng, (xi_k, e_k, xi_u, xi_b, e_r) = white_noise(rng, batch, k, k, r, r, r)
            sd_g, sd_e = col(pt.sqrt(g)), col(pt.sqrt(e))
            y1 = times(pt.constant(s.projection.R), b + times(L, xi_b)) + sd_g * _random_corner(s, xi_k, xi_u)
            parts = [sd_g * np.sqrt(s.eigvals) * xi_k + sd_e * e_k, y1 + sd_e * e_r]
        if s.nullity:
            rng, chi2 = chisquare(s.nullity, size=(*batch, 1), rng=rng, return_next_rng=True)
            parts.insert(1, col(e) * chi2)
        return rng, pt.concatenate(parts, axis=-1)

    def logp(self, value: Any, *params: Any) -> Any:
        """Return the log-density."""
        k, nullity = self.spectrum.rank, self.spectrum.nullity
        z, rss, y1 = value[..., :k], value[..., k] if nullity else 0.0, value[..., k + bool(nullity) :]
        return _statistic_logp(self.spectrum, self.treatment, z, rss, y1, *params)


def statistic(rotated: Rotated, treatment: Treatment) -> FloatArray:
    """Return what a node observes of a `Rotated`: [z, rss, y₁], rss where K has a null space, y₁ unless β is flat."""
    parts = [rotated.z]
    if rotated.spectrum.nullity:
        parts.append(rotated.rss[..., None])
    if treatment == "proper":
        parts.append(rotated.y1)
    return np.concatenate(parts, axis=-1)


def spectral_logp(s: Spectrum, treatment: Treatment, value: Any, mu: Any, *params: Any) -> Any:
    """
    Return the log-density of y; the other parameters are b, L, σ²_g and σ²_e.

    With an observed constant and a constant mu PyTensor folds the rotation away at compilation.
    """
    residual, basis, Q1 = s.weights.scaled(value - mu), pt.constant(s.basis), pt.constant(s.projection.Q1)
    z, y1 = pt.dot(residual, basis), pt.dot(residual, Q1)
    rss = ((residual - pt.dot(z, basis.T) - pt.dot(y1, Q1.T)) ** 2).sum(-1) if s.nullity else 0.0
    return _statistic_logp(s, treatment, z, rss, y1, *params)


def _statistic_logp(
    s: Spectrum, treatment: Treatment, z: Any, rss: Any, y1: Any, b: Any, L: Any, g: Any, e: Any
) -> Any:
    """Return the restricted log-likelihood, and for β ~ N(b, LLᵀ) the log-density of y₁ given z besides."""
    eigvals, nullity = pt.constant(s.eigvals), s.nullity
    v = pt.switch(e > 0, e, 1.0) if nullity else e  # a 0 at which the density is 0 is not computed
    logp = contrast_loglik(z, rss, eigvals=eigvals, nullity=nullity, sigma2_g=g, sigma2_e=v, xp=pt)
    if treatment == "flat":
        logp = logp + s.log_flat
    else:
        C, root, R = (pt.constant(a) for a in (s.C, s.corner_root, s.projection.R))
        schur = product(root, root.mT)
        mean, S = corner(z, eigvals=eigvals, C=C, schur=schur, sigma2_g=g, sigma2_e=v, xp=pt)
        RL = product(R, L)
        inverse, logdet = inverse_logdet(S + product(RL, RL.mT))
        logp = logp + s.weights.logdet + gaussian_loglik(y1 - times(R, b) - mean, inverse, logdet, pt)
    if nullity:  # where λ = 0 nothing but σ²_e is left
        logp = pt.switch(e > 0, logp, -np.inf)
    return check_parameters(logp, g >= 0, e >= 0, g + e > 0, msg="sigma2_g >= 0, sigma2_e >= 0, not both 0")
