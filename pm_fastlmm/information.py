"""Score and information of the (restricted) likelihood in (σ²_g, σ²_e), and standard errors of functions of them."""

from typing import NamedTuple

import numpy as np

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.likelihood.profile import Method
from pm_fastlmm.likelihood.spectral import corner, variances
from pm_fastlmm.linalg.rotated import Rotated
from pm_fastlmm.linalg.spectrum import Spectrum


class Information(NamedTuple):
    """Information matrices of (σ²_g, σ²_e), shape (…, 2, 2); observed = 2 · average - expected."""

    average: FloatArray
    expected: FloatArray
    observed: FloatArray


def score(rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray) -> FloatArray:
    """
    Return ∂ℓ_R/∂(σ²_g, σ²_e), shape (…, 2).

    ½ Σ (z_i²/d_i² - 1/d_i)(λ_i, 1), and ½(rss/σ⁴_e - ν/σ²_e) more for σ²_e.
    """
    s = rotated.spectrum
    d = variances(s.eigvals, sigma2_g, sigma2_e)
    terms = (rotated.z**2 / d - 1) / d
    out = np.stack([(terms * s.eigvals).sum(-1), terms.sum(-1)], axis=-1)
    if s.nullity:
        out[..., 1] += (rotated.rss / sigma2_e - s.nullity) / sigma2_e
    return 0.5 * out


def information(rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray, method: Method = "REML") -> Information:
    """
    Return average, expected and observed information at (σ²_g, σ²_e), with g_i = (λ_i, 1).

        average ½Σ(z_i²/d_i³) g_ig_iᵀ,   expected ½Σ(1/d_i²) g_ig_iᵀ,   observed = 2 · average - expected

    For ML the expected and observed ones gain ∓½∂²log|S|, the curvature of the part of log|V| along X.
    """
    s = rotated.spectrum
    d = variances(s.eigvals, sigma2_g, sigma2_e)
    g = np.stack([s.eigvals, np.ones_like(s.eigvals)])
    average = 0.5 * np.einsum("...i,ai,bi->...ab", rotated.z**2 / d**3, g, g)
    expected = 0.5 * np.einsum("...i,ai,bi->...ab", 1 / d**2, g, g)
    if s.nullity:
        average[..., 1, 1] += 0.5 * rotated.rss / sigma2_e**3
        expected[..., 1, 1] += 0.5 * s.nullity / sigma2_e**2
    if method == "ML":
        expected = expected - 0.5 * _corner_curvature(s, sigma2_g, sigma2_e)
    return Information(average, expected, 2 * average - expected)


def _corner_curvature(s: Spectrum, sigma2_g: FloatArray, sigma2_e: FloatArray) -> FloatArray:
    """Return ∂²log|S|/∂(σ²_g, σ²_e)² = tr(S⁻¹S_ab) - tr(S⁻¹S_aS⁻¹S_b)."""
    g, e = np.asarray(sigma2_g)[..., None, None], np.asarray(sigma2_e)[..., None, None]
    d = variances(s.eigvals, sigma2_g, sigma2_e)
    _, S = corner(np.zeros_like(d), eigvals=s.eigvals, C=s.C, K11=s.K11, sigma2_g=sigma2_g, sigma2_e=sigma2_e)

    def gram(weights: FloatArray) -> FloatArray:
        return np.asarray(np.matmul(s.C.T, s.C * weights[..., None]))

    g1, e1 = g[..., 0], e[..., 0]
    first = [
        s.K11 - g * gram((2 * e1 + g1 * s.eigvals) / d**2),
        np.eye(s.K11.shape[0]) + g**2 * gram(1 / d**2),
    ]
    cubic = gram(1 / d**3)
    second = [[-2 * e**2 * cubic, 2 * g * e * cubic], [2 * g * e * cubic, -2 * g**2 * cubic]]
    solved = [np.linalg.solve(S, matrix) for matrix in first]

    def trace(matrix: FloatArray) -> FloatArray:
        return np.asarray(np.trace(matrix, axis1=-2, axis2=-1))

    rows = [
        np.stack([trace(np.linalg.solve(S, second[a][b])) - trace(solved[a] @ solved[b]) for b in range(2)], axis=-1)
        for a in range(2)
    ]
    return np.stack(rows, axis=-2)


def standard_error(gradient: FloatArray, observed: FloatArray) -> FloatArray:
    """
    Return √(∇ᵀI⁻¹∇), the delta-method standard error of a function of (σ²_g, σ²_e); NaN where I is not definite.

    `gradient` is (…, 2) and `observed` (…, 2, 2).
    """
    a, b, c = observed[..., 0, 0], observed[..., 0, 1], observed[..., 1, 1]
    determinant = a * c - b**2
    u, v = gradient[..., 0], gradient[..., 1]
    with np.errstate(all="ignore"):
        variance = (c * u**2 - 2 * b * u * v + a * v**2) / determinant
        return np.where((a > 0) & (determinant > 0), np.sqrt(variance), np.nan)
