"""
The likelihood of one kernel in the rotated coordinates, one definition for NumPy and PyTensor (`xp`).

Everything is written in (σ²_g, σ²_e) = (σ², δσ²), where nothing diverges at either boundary:

    d_i = σ²_gλ_i + σ²_e,   z_i ~ N(0, d_i),   rss ~ σ²_e χ²_ν,   y₁ | z ~ N(Q₁ᵀXβ + σ²_gCᵀ(z/d), S)
    S = σ²_gS₀ + σ²_eI + Cᵀdiag(σ²_gσ²_e/(λd))C,   S₀ = K₁₁ - CᵀΛ⁻¹C

S is σ²_gK₁₁ + σ²_eI - σ⁴_gCᵀdiag(1/d)C, written as a sum of positive semi-definite terms: nothing cancels.

The first two factors are the restricted likelihood; the third is what β adds. Batch axes lead, the core axis is last.
"""

import math
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray

LOG_2PI = math.log(2 * math.pi)


def variances(eigvals: Any, sigma2_g: Any, sigma2_e: Any, xp: Any = np) -> Any:
    """Return d = σ²_gλ + σ²_e, the variances of z."""
    return xp.expand_dims(sigma2_g, -1) * eigvals + xp.expand_dims(sigma2_e, -1)


def contrast_loglik(z: Any, rss: Any, *, eigvals: Any, nullity: int, sigma2_g: Any, sigma2_e: Any, xp: Any = np) -> Any:
    """
    Return the log-density of the error contrasts Q₂ᵀy.

    ℓ_R = -½[p log 2π + Σ(log d_i + z_i²/d_i) + ν log σ²_e + rss/σ²_e]
    """
    d = variances(eigvals, sigma2_g, sigma2_e, xp)
    terms = (xp.log(d) + z**2 / d).sum(-1)
    if nullity:
        terms = terms + nullity * xp.log(sigma2_e) + rss / sigma2_e
    return -0.5 * ((eigvals.shape[-1] + nullity) * LOG_2PI + terms)


def elementwise_sum(w: Any, A: Any) -> Any:
    """Return Σ_i w_iA_i as a sum of elementwise products."""
    return (w[(..., *[None] * (A.ndim - 1))] * A).sum(-A.ndim)


def corner(
    z: Any, *, eigvals: Any, C: Any, schur: Any, sigma2_g: Any, sigma2_e: Any, xp: Any = np,
    weighted: Any = elementwise_sum,
) -> tuple[Any, Any]:  # fmt: skip
    """
    Return the mean σ²_gCᵀ(z/d) and the covariance S of y₁ given z when β = 0.

    S is the inverse of Q₁ᵀV⁻¹Q₁: cov β̂ = R⁻¹SR⁻ᵀ. `schur` is S₀. `weighted(w, A)` returns Σ_i w_iA_i; the default sums
    the elementwise products, see `products`.
    """
    w = 1 / variances(eigvals, sigma2_g, sigma2_e, xp)
    along, gram = weighted(z * w, C), weighted(w, products(C, xp) / eigvals[:, None, None])
    return corner_of_sums(along, gram, schur, sigma2_g, sigma2_e, xp)


def corner_of_sums(along: Any, gram: Any, schur: Any, sigma2_g: Any, sigma2_e: Any, xp: Any = np) -> tuple[Any, Any]:
    """Return `corner` from Cᵀ(z/d) and Cᵀdiag(1/(λd))C."""
    g, e = (xp.expand_dims(v, (-1, -2)) for v in (sigma2_g, sigma2_e))
    return xp.expand_dims(sigma2_g, -1) * along, g * schur + e * xp.eye(schur.shape[-1]) + g * e * gram


def products(C: Any, xp: Any = np) -> Any:
    """
    Return C_ia C_ib, (k, r, r), whose weighted sum over i is Cᵀdiag(w)C.

    Sums of elementwise products replace matrix products in what becomes a graph: PyTensor takes 20 s to compile each
    layout of a matrix product, and fuses a sum into the loop that makes its terms.
    """
    return xp.expand_dims(C, -1) * xp.expand_dims(C, -2)


def gaussian_loglik(residual: Any, inverse: Any, logdet: Any, xp: Any = np) -> Any:
    """
    Return log N(residual; 0, A) over the last axis from A⁻¹ and log|A|, for the few dimensions of fixed effects.

    The inverse of this r × r matrix is formed on purpose: it is the gradient of log|A| and makes that of the quadratic
    form, so that a graph with its gradient needs one inverse in all.
    """
    outer = xp.expand_dims(residual, -1) * xp.expand_dims(residual, -2)
    return -0.5 * (inverse.shape[-1] * LOG_2PI + logdet + (inverse * outer).sum((-1, -2)))


def weighted_sum(w: FloatArray, A: FloatArray) -> FloatArray:
    """Return Σ_i w_iA_i as one matrix product, for `corner` of many draws in NumPy."""
    return np.asarray((w @ A.reshape(len(A), math.prod(A.shape[1:]))).reshape(*w.shape[:-1], *A.shape[1:]))
