"""
The likelihood of several traits on one kernel in the rotated coordinates, z_i ~ N(0, λ_iΣ_g + Σ_e), with its gradient.

With T such that TᵀΣ_eT = I and TᵀΣ_gT = diag(d), W = ZT, s_ij = λ_id_j + 1, q = w/s and R the (t, t) cross-products of
the response in the ν directions without variance of K,

    ℓ = -½[p t log 2π + p log|Σ_e| + Σ(log s + w²/s) + ν(t log 2π + log|Σ_e|) + tr(Σ_e⁻¹R)]
    ∂ℓ/∂Σ_g = ½T[qᵀΛq - diag_j Σ_i λ_i/s_ij]Tᵀ,   ∂ℓ/∂Σ_e = ½T[qᵀq + TᵀRT - diag_j(Σ_i 1/s_ij + ν)]Tᵀ
    ∂ℓ/∂Z = -qTᵀ,   ∂ℓ/∂R = -½Σ_e⁻¹

This is the log-density of the error contrasts, without -½t log|XᵀX|. Gradients in matrices are full and symmetric:
dℓ = Σ_ab G_ab dΣ_ab over all entries. Cost O(pt² + t³).
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray

_OWN: list[Literal["C", "W"]] = ["C", "W"]  # without gaps and not read-only


def traits_loglik_and_gradient(
    eigvals: Any, z: Any, outside: Any, nullity: int, sigma_g: Any, sigma_e: Any
) -> tuple[float, FloatArray, FloatArray]:
    """
    Return ℓ and its gradient in Σ_g and Σ_e, (t, t) each; -∞ and zeros where one of them is no covariance.

    λ (p,) is not negative, z is (p, t). Σ_e must be positive definite and Σ_g positive semi-definite, both beyond what
    rounding explains: a singular Σ_g is an ordinary point. Where ν = 0, `outside` is not looked at.
    """
    from pm_fastlmm.kernel.likelihood.traits_loops import in_variances

    loglik, *gradient = in_variances(*one_type(sigma_g, sigma_e, z, outside, eigvals, nullity))
    return (float(loglik), *gradient)


def one_type(
    sigma_g: Any, sigma_e: Any, z: Any, outside: Any, eigvals: Any, nullity: Any
) -> tuple[npt.NDArray[Any], ...]:
    """Return the arguments of the compiled loops as arrays of the one type that they are compiled for."""
    arrays = [np.require(v, np.float64, _OWN) for v in (sigma_g, sigma_e, z, outside, eigvals)]
    return *arrays, np.asarray(nullity, dtype=np.int64)
