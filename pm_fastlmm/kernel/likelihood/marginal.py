"""The log-likelihood at given variances, β at its estimate."""

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method, require_choice
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI, contrast_loglik, corner
from pm_fastlmm.spectrum.spectrum import Rotated


def log_likelihood(
    rotated: Rotated, sigma2_g: FloatArray | float, sigma2_e: FloatArray | float, *, method: Method = "REML"
) -> FloatArray:
    """
    Return the restricted or full log-likelihood with β at its estimate, as lme4 prints it.

    ℓ_PT = ℓ_R - ½log|XᵀX|, which is log ∫ p(y | β) dβ; and ℓ_ML = ℓ_R - ½(r log 2π + log|S|).
    """
    require_choice("method", method, Method)
    if not isinstance(rotated, Rotated):
        raise TypeError(f"rotated must be a Rotated, got {type(rotated).__name__}: rotate y first, spectrum.rotate(y).")
    s = rotated.spectrum
    g, e = np.asarray(sigma2_g, dtype=float), np.asarray(sigma2_e, dtype=float)
    if (g < 0).any() or (e < 0).any():
        raise ValueError("variances must not be negative.")
    with np.errstate(all="ignore"):
        loglik = contrast_loglik(rotated.z, rotated.rss, eigvals=s.eigvals, nullity=s.nullity, sigma2_g=g, sigma2_e=e)
        if method == "REML":
            loglik = loglik - s.projection.logdet_R
        else:
            C, schur = s.corner_axes()
            _, S = corner(rotated.z, eigvals=s.eigvals, C=C, schur=schur, sigma2_g=g, sigma2_e=e)
            loglik = loglik - 0.5 * (s.projection.rank * LOG_2PI + np.linalg.slogdet(S)[1])
    impossible = (g + e == 0) | ((e == 0) & bool(s.nullity))  # y has a direction without variance
    return np.where(impossible, -np.inf, loglik)
