"""
Effects of individuals that have several records, or none: u = La with a ~ N(0, σ²_gI), K = LLᵀ between individuals.

With V the right singular vectors of Q₂ᵀZL, of squared singular values λ, all follows from those of a
(`coefficients.factor_effects`): Var(a - â) = σ²_g(I - V diag(1 - δ'/(λ + δ'))Vᵀ), δ' = σ²_e/σ²_g.
"""

from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import EPS, FloatArray
from pm_fastlmm.kernel.effects.coefficients import factor_effects, loadings
from pm_fastlmm.kernel.likelihood.spectral import variances
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum


def individual_blup(rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray) -> FloatArray:
    """Return û = Lâ, (q,) or (q, T)."""
    a = factor_effects(rotated, np.asarray(sigma2_g), np.asarray(sigma2_e)).mean
    return np.asarray(_root(rotated.spectrum) @ a)


def individual_pev(spectrum: Spectrum, sigma2_g: FloatArray, sigma2_e: FloatArray, *, full: bool = False) -> FloatArray:
    """Return Var(û - u), its diagonal (…, q) or the matrix (q, q)."""
    L, (load, _) = _root(spectrum), loadings(spectrum)
    seen = L @ (load.T / np.sqrt(spectrum.eigvals))  # LV
    g = np.expand_dims(sigma2_g, -1)
    left = np.expand_dims(sigma2_e, -1) / variances(spectrum.eigvals, sigma2_g, sigma2_e)
    if full:
        return np.asarray(g * (L @ L.T - (seen * (1 - left)) @ seen.T))
    unseen = np.maximum((L**2).sum(-1) - (seen**2).sum(-1), 0.0)  # what y says nothing of
    return np.asarray(g * (unseen + left @ (seen**2).T))


def individual_conditional_variance(spectrum: Spectrum, sigma2_g: FloatArray, sigma2_e: FloatArray) -> FloatArray:
    """Return the diagonal of Var(u | y, β) = L(I/σ²_g + (ZL)ᵀZL/σ²_e)⁻¹Lᵀ, (…, q)."""
    load, fixed = loadings(spectrum)
    values, vectors = np.linalg.eigh(load.T @ load + fixed.T @ fixed)
    values = np.where(values > len(values) * EPS * values[-1], values, 0.0)
    g, e = np.expand_dims(sigma2_g, -1), np.expand_dims(sigma2_e, -1)
    weights = np.where(values > 0, e / np.where(values > 0, g * values + e, 1.0), 1.0)
    return np.asarray(g * (weights @ ((_root(spectrum) @ vectors) ** 2).T))


def draws_of_individuals(spectrum: Spectrum, a: FloatArray) -> FloatArray:
    """Return draws of u = La, (…, q)."""
    return np.asarray(a @ _root(spectrum).T)


def _root(spectrum: Spectrum) -> Any:
    assert spectrum.individuals is not None
    return spectrum.individuals.root
