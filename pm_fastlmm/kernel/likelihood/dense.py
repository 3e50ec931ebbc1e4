"""
The likelihood of any covariance V of the observations, by one Cholesky factorisation.

V = LLᵀ, X̃ = L⁻¹Q₁ = AT (QR), ỹ = (I - AAᵀ)L⁻¹y:   Py = L⁻ᵀỹ,   P = V⁻¹ - (L⁻ᵀA)(L⁻ᵀA)ᵀ

    ℓ = -½[p log 2π + 2Σ log L_ii + 2Σ log|T_ii| + ‖ỹ‖²],   ∂ℓ/∂V = ½(Py yᵀP - P),   ∂ℓ/∂y = -Py

with an orthonormal Q₁ (n, r), of no columns when β is not integrated out. Nothing is added to the diagonal of V.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.linalg import lapack, qr, solve_triangular

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI


@dataclass(frozen=True, slots=True, eq=False)
class DenseFactor:
    """
    V factored, with the response.

    Attributes
    ----------
    L : (n, n) array
        Cholesky factor of V.
    A : (n, r) array
        L⁻ᵀA, so that P = V⁻¹ - AAᵀ.
    T : (r, r) array
        Q₁ᵀV⁻¹Q₁ = TᵀT.
    Py : (n,) array
    loglik, yPy : float
    """

    L: FloatArray
    A: FloatArray
    T: FloatArray
    Py: FloatArray
    loglik: float
    yPy: float

    @classmethod
    def of(cls, V: FloatArray, y: FloatArray, Q1: FloatArray) -> Self | None:
        """Factor V; None if it is not positive definite."""
        if not np.isfinite(V).all():
            return None
        L, info = lapack.dpotrf(np.array(V, order="F"), lower=1, clean=1, overwrite_a=1)
        if info:
            return None
        r = Q1.shape[1]
        whitened = solve_triangular(L, np.column_stack([Q1, y]), lower=True, check_finite=False)
        A, T = qr(whitened[:, :r], mode="economic", check_finite=False) if r else (whitened[:, :0], np.zeros((0, 0)))
        residual = whitened[:, r] - A @ (A.T @ whitened[:, r])
        residual -= A @ (A.T @ residual)
        back = solve_triangular(L, np.column_stack([A, residual]), lower=True, trans="T", check_finite=False)
        yPy = float(residual @ residual)
        with np.errstate(divide="ignore"):
            logdet = 2 * float(np.log(np.diag(L)).sum() + np.log(np.abs(np.diag(T))).sum())
        loglik = -0.5 * ((len(y) - r) * LOG_2PI + logdet + yPy)
        return cls(L, back[:, :r], T, back[:, r], loglik, yPy) if math.isfinite(loglik) else None

    def P(self) -> FloatArray:
        """Return P (n, n)."""
        inverse, _ = lapack.dpotri(self.L, lower=1)
        lower = np.tril(inverse)
        return np.asarray(lower + np.tril(inverse, -1).T - self.A @ self.A.T)

    def apply(self, M: FloatArray) -> FloatArray:
        """Return PM."""
        solved, _ = lapack.dpotrs(self.L, np.asfortranarray(M), lower=1)
        return np.asarray(solved - self.A @ (self.A.T @ M))

    def coefficients(self, y1: FloatArray, Q1: FloatArray, R: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return β̂ = R⁻¹(y₁ - Q₁ᵀVPy), where VPy = y - Xβ̂, and R⁻¹T⁻¹, a root of its covariance."""
        residual = self.L @ (self.L.T @ self.Py)
        return np.linalg.solve(R, y1 - Q1.T @ residual), np.linalg.solve(self.T @ R, np.eye(len(R)))


def dense_loglik_and_gradient(V: FloatArray, y: FloatArray, Q1: FloatArray) -> tuple[Any, FloatArray, FloatArray]:
    """Return the log-likelihood and its gradient for V and y; -inf and 0 where V is not positive definite."""
    factor = DenseFactor.of(V, y, Q1)
    if factor is None:
        return -math.inf, np.zeros_like(V), np.zeros_like(y)
    return factor.loglik, 0.5 * (np.outer(factor.Py, factor.Py) - factor.P()), -factor.Py
