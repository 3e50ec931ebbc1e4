"""Fixed effects of a V that is linear in θ, every variance counted as estimated, those that came out 0 too."""

from typing import Any

import numpy as np

from pm_fastlmm.aireml.objective import information_inverse
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.spectrum.sparse_projection import AnyProjection

_LARGEST = 300_000_000  # numbers of all ∂V/∂θ


def linear_derivatives(
    V: FloatArray, slopes: FloatArray, projection: AnyProjection, free: Any
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """
    Return Φ_i = ΦXᵀV⁻¹V_iV⁻¹XΦ, Φ_ij and the covariance of θ̂, the inverse of the expected information ½ tr(PV_iPV_j).

    Φ_ij = -Φ(Q_ij + Q_ji)Φ + Φ_iΦ⁻¹Φ_j + Φ_jΦ⁻¹Φ_i with Q_ij = XᵀV⁻¹V_iV⁻¹V_jV⁻¹X. They are defined where θ lies on
    its boundary, in closed form, O(n³) for each element of θ.
    """
    X = projection.Q1 @ projection.R
    L = np.linalg.cholesky(V)
    A = np.linalg.solve(L, X)
    Q, R = np.linalg.qr(A)
    Rinv = np.linalg.solve(R, np.eye(len(R)))
    root = Q @ Rinv.T  # L⁻¹XΦ
    whitened = [np.linalg.solve(L, np.linalg.solve(L, slope).T) for slope in slopes]
    first = np.stack([root.T @ W @ root for W in whitened])
    outside = np.eye(len(V)) - Q @ Q.T
    inner = [outside @ W @ outside for W in whitened]
    # Q_ij less what β takes of it: W_i(I - QQᵀ)W_j, since Φ_iΦ⁻¹Φ_j = rootᵀW_iQQᵀW_j root
    size = len(slopes)
    second, information = np.empty((size, size, *first.shape[1:])), np.empty((size, size))
    for i in range(size):
        for j in range(i + 1):
            cross = root.T @ whitened[i] @ outside @ whitened[j] @ root
            second[i, j] = second[j, i] = -(cross + cross.T)
            information[i, j] = information[j, i] = 0.5 * float(np.vdot(inner[i], inner[j]))
    covariance = information_inverse(information, free)
    return first, second, np.where(np.outer(free, free), covariance, 0.0)


def require_small(n: int, parameters: int) -> None:
    """Raise a ValueError if all ∂V/∂θ would not fit in memory."""
    if n * n * parameters > _LARGEST:
        raise ValueError(
            f"zero_variances='free' works with dense matrices, and {parameters} of {n} rows would not fit in memory: "
            "take 'known'."
        )
