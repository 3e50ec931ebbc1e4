"""Rotation: K in coordinates in which rows are independent, beside X or without it."""

from typing import NamedTuple, Self

import numpy as np
import scipy.linalg

from pm_fastlmm.base.arrays import EPS, FloatArray
from pm_fastlmm.spectrum.spectrum import Spectrum


class Rotation(NamedTuple):
    """
    Coordinates Uᵀ of rows times √w, in which K is diag(λ).

    Attributes
    ----------
    U : (n, p) array
        Orthonormal, and orthogonal to X where β is integrated out.
    eigvals : (p,) array
        λ, zeros included: those of directions that something besides y needs.
    nullity : int
        Number of directions with λ = 0 that are not among them.
    scale : (n,) array or None
        √w, by which rows of u are multiplied.
    Q1 : (n, r) array
        Basis of X, of no columns where β is not integrated out.
    C : (p, r) array
        UᵀKQ₁.
    """

    U: FloatArray
    eigvals: FloatArray
    nullity: int
    scale: FloatArray | None
    Q1: FloatArray
    C: FloatArray

    @classmethod
    def of(cls, s: Spectrum, *, flat: bool, besides: FloatArray) -> Self:
        """Return that of a spectrum, with the coordinates of some vectors (n, m) complete."""
        n = s.n
        if flat:
            U, eigvals, nullity, Q1, C = s.basis, s.eigvals, s.nullity, s.projection.Q1, s.C
        else:
            root = s.weights.rows(np.hstack(s.covariance_root()))
            alone = Spectrum.from_factor(root)
            U, eigvals, nullity = alone.basis, alone.eigvals, alone.nullity
            Q1, C = np.zeros((n, 0)), np.zeros((len(eigvals), 0))
        if nullity and besides.shape[1]:
            left = besides - U @ (U.T @ besides) - Q1 @ (Q1.T @ besides)
            more, R, _ = scipy.linalg.qr(left, mode="economic", pivoting=True)
            more = more[:, np.abs(np.diag(R)) > n * EPS * np.linalg.norm(besides, axis=0).max()]
            more -= U @ (U.T @ more) + Q1 @ (Q1.T @ more)
            m = more.shape[1]
            U, eigvals, nullity = np.hstack([U, more]), np.append(eigvals, np.zeros(m)), nullity - m
            C = np.vstack([C, np.zeros((m, C.shape[1]))])
        return cls(U, eigvals, nullity, s.weights.root, Q1, C)

    def covariance_times(self, M: FloatArray) -> FloatArray:
        """Return the covariances of u with Uᵀy, (n, p), times M (…, p, t)."""
        rows = self.U @ (self.eigvals[:, None] * M) + self.Q1 @ (self.C.T @ M)
        return rows if self.scale is None else rows / self.scale[:, None]

    @property
    def covariance(self) -> FloatArray:
        """The covariances of u with Uᵀy, (n, p)."""
        rows = self.U * self.eigvals + self.Q1 @ self.C.T
        return rows if self.scale is None else rows / self.scale[:, None]

    def apart(self, Y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return UᵀY (p, t), and the part of Y (n, t) that lies neither along U nor along X, 0 where there is none."""
        z = self.U.T @ Y
        return z, Y - self.U @ z - self.Q1 @ (self.Q1.T @ Y) if self.nullity else np.zeros_like(Y)

    @property
    def remainder(self) -> FloatArray:
        """Diagonal of I - UUᵀ - Q₁Q₁ᵀ, (n,)."""
        return 1 - (self.U**2).sum(axis=1) - (self.Q1**2).sum(axis=1)
