"""P and Py of one kernel in the rotated coordinates, at one pair of variances or thousands: matrix products."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from pm_fastlmm.base.arrays import EPS, FloatArray
from pm_fastlmm.kernel.likelihood.leave_out import Precision, Rows, of_data
from pm_fastlmm.kernel.likelihood.spectral import corner, variances, weighted_sum
from pm_fastlmm.spectrum.spectrum import Spectrum


class Coefficients(NamedTuple):
    """
    A proper prior of β, seen along X: y₁ - Rb (D, r), and RBRᵀ (D, r, r), 0 for an explicit β; D may be 1.

    b and B are the mean and the covariance of β.
    """

    deviation: FloatArray
    covariance: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class SpectralRows:
    """
    What the observations are in the basis, once for all variances.

    Attributes
    ----------
    spectrum : Spectrum
    squares : (n, k) array
        (Q₂U)²_ij.
    null : (n,) array
        Squared length of the part of e_i in the directions with λ = 0; what is rounding is 0, because it is divided by
        σ²_e, which may be small.
    """

    spectrum: Spectrum
    squares: FloatArray
    null: FloatArray

    @classmethod
    def of(cls, spectrum: Spectrum) -> Self:
        """Square the basis."""
        squares = spectrum.basis**2
        null = np.zeros(spectrum.n)
        if spectrum.nullity:
            null = 1 - (spectrum.projection.Q1**2).sum(-1) - squares.sum(-1)
            null[null < spectrum.n * EPS] = 0.0
        return cls(spectrum, squares, null)

    def at(
        self, z: FloatArray, rest: FloatArray | None, sigma2_g: FloatArray, sigma2_e: FloatArray,
        beta: Coefficients | None = None,
    ) -> Precision:  # fmt: skip
        """
        Return P and Py at D pairs of variances (D,), of y itself where rows have weights.

        Parameters
        ----------
        z : (D, k) or (1, k) array
        rest : (D, n) or (1, n) array, or None
            The part of y, times √w, in the directions with λ = 0; None when there are none.
        beta : Coefficients or None
            None for a flat prior.
        """
        s = self.spectrum
        d = variances(s.eigvals, sigma2_g, sigma2_e)
        weighted, diagonal = (z / d) @ s.basis.T, (1 / d) @ self.squares.T
        if rest is not None:
            weighted += rest / sigma2_e[:, None]
            diagonal += self.null / sigma2_e[:, None]
        along = None
        if beta is not None and s.projection.rank:
            along, white = self._along_X(z, d, sigma2_g, sigma2_e, beta)
            weighted += np.matmul(white[:, None, :], along)[:, 0]
            diagonal += (along**2).sum(1)
        return of_data(SpectralPrecision(self, weighted, diagonal, 1 / d, sigma2_e, along), s.weights.root)

    def _along_X(
        self, z: FloatArray, d: FloatArray, g: FloatArray, e: FloatArray, beta: Coefficients
    ) -> tuple[FloatArray, FloatArray]:
        """
        Return H (D, r, n) and h (D, r) with V⁻¹ = P + HᵀH and V⁻¹y = Py + Hᵀh for the covariance of y with that of β.

        V⁻¹Q₁ = [Q₁ - (Q₂U)diag(σ²_g/d)C]S⁻¹, S the covariance of y₁ given z, to which RBRᵀ adds.
        """
        s = self.spectrum
        mean, S = corner(
            z, eigvals=s.eigvals, C=s.C, schur=s.schur, sigma2_g=g, sigma2_e=e, weighted=weighted_sum
        )  # fmt: skip
        root = np.linalg.cholesky(S + beta.covariance)
        scaled = (g[:, None] / d)[:, None, :] * s.C.T  # (D, r, k)
        G = s.projection.Q1.T - (scaled.reshape(-1, s.rank) @ s.basis.T).reshape(len(d), -1, s.n)
        white = np.linalg.solve(root, np.concatenate([G, (beta.deviation - mean)[..., None]], axis=-1))
        return white[..., :-1], white[..., -1]


@dataclass(frozen=True, slots=True, eq=False)
class SpectralPrecision:
    """P and Py at D pairs of variances; `along` is H where β has a proper prior, so that V⁻¹ = P + HᵀH."""

    rows: SpectralRows
    weighted: FloatArray
    diagonal: FloatArray
    inverse: FloatArray
    sigma2_e: FloatArray
    along: FloatArray | None

    def block(self, rows: Rows) -> FloatArray:
        """Return P_SS (D, s, s)."""
        s = self.rows.spectrum
        basis, Q1 = s.basis[rows], s.projection.Q1[rows]
        P = (basis * self.inverse[:, None, :]) @ basis.T
        if s.nullity:
            # the block of the projection on the directions with λ = 0, without eigenvalues that are rounding
            values, vectors = np.linalg.eigh(np.eye(len(rows)) - Q1 @ Q1.T - basis @ basis.T)
            null = (vectors * np.where(values < s.n * EPS, 0.0, values)) @ vectors.T
            P += null / self.sigma2_e[:, None, None]
        if self.along is not None:
            H = self.along[:, :, rows]
            P += np.swapaxes(H, -1, -2) @ H
        return np.asarray(P)
