"""
The same likelihood from rows in place of inner products, for a residual variance far below the other variances.

Inner products have the square of the condition of what they are made of: of S = ΛᵀFΛ + σ²_eJ about ε σ²/σ²_e is lost,
and of yᵀPy, a difference, as much. Rows lose ε σ/σ_e, which is what the rounding of y costs anyway. With
(I - OOᵀ)W = UR, U orthonormal, and M_j = T_jᵀT_j from the rows [GᵀC_j; σ_eI], GGᵀ = Σ₁, eliminated levels are the rows
σ_eT_j⁻ᵀ[B_j ȳ_j], and

    A = [R; σ_eT⁻ᵀB],  t = [z; σ_eT⁻ᵀȳ],   [AΛ; σ_eJ] = QLᵀ,   S = LLᵀ
    E = (I - QQᵀ)[A t; 0 0]:   [W y]ᵀP[W y] = EᵀE/σ²_e, and what U leaves of y besides
    Z_jᵀPZ_j = X_jᵀ(I - Q_jQ_jᵀ)X_j,  Z_jᵀPy = X_jᵀE_jy/σ_e  of the eliminated levels, X_j = T_j⁻ᵀC_jᵀ

so that nothing is a difference of squares.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.structured.products import MixedProducts, Response, ratio
from pm_fastlmm.engines.structured.roots import matrix_root
from pm_fastlmm.engines.structured.vectorised import inverse_lower
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI
from pm_fastlmm.spectrum.orthonormal import LARGEST, without

LOST = 1e6  # factor of rounding from which rows are taken: inner products have ten digits left there


def loud(products: MixedProducts, phi: FloatArray, e: float) -> bool:
    """Return whether σ²_e can be so far below the other variances that inner products lose digits."""
    return math.inf > ratio(products, phi, e) > LOST


def digits_lost(
    p: MixedProducts, response: Response, sigma: list[FloatArray], factor: tuple[Any, ...], e: float, yPy: float
) -> float:
    """
    Return by what factor rounding is enlarged in log|V| and yᵀPy.

    Inner products are rounded by their own size, W_iᵀW_i and yᵀy, whatever is left of them in F; tr S⁻¹Λᵀ(δF)Λ is what
    that does to log|S|.
    """
    _, Minv, F, _, roots, Linv, _, _ = factor
    shares = math.inf if not yPy > 0 or response.rows is None else float(response.rows @ response.rows) / (e * yPy)
    size = 0.0
    if F.size:
        lengths = p.times_roots(p.lengths[None], np.abs(roots))[0]
        size = float((lengths**2 * (Linv**2).sum(axis=0)).max())
    if p.C.shape[1] > 1:
        within = np.einsum("jba,bc,jca->ja", p.C, sigma[p.order[0]], p.C) + e
        size = max(size, float((within * np.diagonal(Minv, axis1=1, axis2=2)).max()))
    return max(size, shares)


@dataclass(frozen=True, eq=False)
class Rows:
    """
    V factored from rows.

    Attributes
    ----------
    products : MixedProducts
    e : float
        σ²_e.
    A : (rows, m) array
    Q : (rows + q, m) array
    root : (width, width) array
        G.
    T, halves : (levels, width, width) arrays
        T_j and σ_eT_j⁻ᵀ.
    rest : (n,) array
        What O and U leave of y.
    residual : (rows + q,) array
        The last column of E.
    yPy, loglik : float
    factor : tuple
        What `crossproduct.factorise` returns.
    """

    products: MixedProducts
    e: float
    A: FloatArray
    Q: FloatArray
    root: FloatArray
    T: FloatArray
    halves: FloatArray
    rest: FloatArray
    residual: FloatArray
    yPy: float
    loglik: float
    factor: tuple[Any, ...]

    @classmethod
    def of(
        cls, p: MixedProducts, response: Response, sigma: list[FloatArray], e: float, phi: FloatArray
    ) -> Self | None:
        """Return V at Σ_k, packed in phi, and σ²_e; None where a Σ_k has no root, or rows are not to be had."""
        remainder, rows, (levels, c), m = p.remainder, response.rows, p.C.shape[:2], p.columns
        packed = [matrix_root(np.array(sigma[k], dtype=float)) for k in p.order]
        if remainder is None or rows is None or levels * c * m > LARGEST or not all(ok for _, ok in packed):
            return None
        roots = np.concatenate([np.zeros(0), *(root.ravel() for root, _ in packed[p.eliminated :])])
        root = packed[0][0] if p.eliminated else np.zeros((1, 1))
        T = roots_beside(root.T @ p.C, e)
        halves = math.sqrt(e) * np.swapaxes(np.linalg.inv(T), 1, 2)
        z, rest = remainder.split(rows)
        A = np.vstack([remainder.R, np.asarray((block_diagonal(halves) @ p.B).todense())])
        t = np.concatenate([z, np.einsum("jab,jb->ja", halves, response.between).ravel()])
        q = m - p.fixed
        Q, R = np.linalg.qr(np.vstack([p.times_roots(A, roots), math.sqrt(e) * np.eye(q, m)]))
        sign = np.where(np.diag(R) < 0, -1.0, 1.0)
        Q, L = Q * sign, np.ascontiguousarray((R * sign[:, None]).T)
        if not (np.diag(L) > 0).all():
            return None
        residual = without(Q, np.concatenate([t, np.zeros(q)]))
        Linv = inverse_lower(L)
        v = Linv.T @ (Q[: len(t)].T @ t)
        b = p.times_roots(v[None], roots, transposed=True)[0]
        yPy = float(rest @ rest + residual @ residual) / e
        logdet = 2 * float(np.log(np.abs(np.diagonal(T, axis1=1, axis2=2))).sum() + np.log(np.diag(L)).sum())
        logdet += (p.df - levels * c - q) * math.log(e)
        loglik = -0.5 * (p.df * LOG_2PI + logdet + yPy)
        Minv = np.swapaxes(halves, 1, 2) @ halves / e
        factor = (phi, Minv, A.T @ A, A.T @ t, roots, Linv, v, b)
        return cls(p, e, A, Q, root, T, halves, rest, residual, yPy, loglik, factor)

    @cached_property
    def _columns(self) -> FloatArray:
        """E without its last column, (rows + q, m)."""
        return self._projected(self.A)

    def _projected(self, columns: FloatArray) -> FloatArray:
        below = np.zeros((len(self.Q) - len(columns), columns.shape[1]))
        return without(self.Q, np.vstack([columns, below]))

    def dense_score(self, at: int, levels: int, c: int) -> tuple[FloatArray, FloatArray]:
        """Return ½ Σ_levels [w wᵀ - Z_jᵀPZ_j] and w = Z_jᵀPy (levels, width) of a term in the dense block."""
        E = self._columns[:, at : at + levels * c]
        w = (E.T @ self.residual / self.e).reshape(levels, c)
        by_level = E.reshape(len(E), levels, c)
        return 0.5 * (w.T @ w - np.einsum("rja,rjb->ab", by_level, by_level) / self.e), w

    @property
    def _level_rows(self) -> slice:
        size = self.T.shape[0] * self.T.shape[1]
        return slice(len(self.A) - size, len(self.A))

    @property
    def between(self) -> FloatArray:
        """M_j⁻¹(ȳ_j - B_jb), (levels, width)."""
        residual = self.residual[self._level_rows].reshape(self.T.shape[:2])
        return np.asarray(np.einsum("jba,jb->ja", self.halves, residual) / self.e)

    def eliminated_score(self) -> tuple[FloatArray, FloatArray]:
        """Return the same of the eliminated term."""
        X, QX, residual = self._along_eliminated(np.swapaxes(self.products.C, 1, 2))
        w = np.einsum("jab,ja->jb", X, residual / math.sqrt(self.e))
        ZPZ = np.einsum("jab,jac->bc", X, X) - np.einsum("jmb,jmc->bc", QX, QX)
        return 0.5 * (w.T @ w - ZPZ), w

    def _along_eliminated(self, columns: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return X_j = T_j⁻ᵀ times columns C_jᵀ, Q_jᵀX_j and E_jy."""
        X = np.linalg.solve(np.swapaxes(self.T, 1, 2), columns)
        Q = self.Q[self._level_rows].reshape(*self.T.shape[:2], self.Q.shape[1])
        residual = self.residual[self._level_rows].reshape(self.T.shape[:2])
        return X, np.einsum("jam,jab->jmb", Q, X), residual

    def residual_score(self) -> float:
        """
        Return ∂ℓ/∂σ²_e by Euler's identity, σ²_e ∂ℓ/∂σ²_e = ½(yᵀPy - p) - Σ_k ⟨Σ_k, ∂ℓ/∂Σ_k⟩.

        The products are taken with the roots of Σ_k inside: a score of the size 1/σ²_e may stand beside a null space.
        """
        p = self.products
        scaled = self._projected(p.times_roots(self.A, self.factor[4])[:, : len(self.Q) - len(self.A)])
        products = ((scaled.T @ self.residual / self.e) ** 2).sum() - (scaled**2).sum() / self.e
        if p.eliminated:
            XG, QXG, residual = self._along_eliminated(np.swapaxes(p.C, 1, 2) @ self.root)
            along = np.einsum("jab,ja->jb", XG, residual)
            products += (along**2).sum() / self.e - (XG**2).sum() + (QXG**2).sum()
        return float(0.5 * (self.yPy - p.df - products) / self.e)

    def products_with_P(self, first: FloatArray, dense: FloatArray) -> FloatArray:
        """Return gᵀPg for all pairs of g = Z₁x₁ + Wx, x₁ (levels, width, s) and x (m, s), and last g = Py."""
        along = np.einsum("jab,jcb,jcs->jas", self.halves, self.products.C, first)
        rows = self.A @ dense
        rows[self._level_rows] += along.reshape(-1, dense.shape[1])
        top = self.residual[: len(self.A) - self.T.shape[0] * self.T.shape[1]] / self.e
        levels = np.einsum("jab,jb->ja", self.halves, self.between).ravel()
        E = self._projected(np.column_stack([rows, np.concatenate([top, levels])]))
        out = np.asarray(E.T @ E / self.e)
        out[-1, -1] += float(self.rest @ self.rest) / self.e**3
        return out

    def inner(self, columns: FloatArray) -> FloatArray:
        """Return aᵀPy of columns a (n, s), which may have little of P left."""
        p = self.products
        assert p.remainder is not None
        z, rest = p.remainder.split(columns)
        levels, c = self.T.shape[:2]
        along = np.einsum("jab,jbs->jas", self.halves, (p.O.T @ columns).reshape(levels, c, -1))
        E = self._projected(np.vstack([z, along.reshape(levels * c, -1)]))
        return np.asarray((rest.T @ self.rest + E.T @ self.residual) / self.e)

    def weighted_response(self, between: FloatArray) -> FloatArray:
        """Return Py (n,), of M_j⁻¹(ȳ_j - B_jb)."""
        p = self.products
        assert p.remainder is not None
        inside = self.rest + p.remainder.U @ self.residual[: p.remainder.U.shape[1]]
        return np.asarray(inside / self.e + p.O @ between.ravel())


def roots_beside(rows: FloatArray, e: float) -> FloatArray:
    """Return the triangular T_j of the rows [A_j; σ_eI], A_jᵀA_j + σ²_eI = T_jᵀT_j, of A (levels, c, c)."""
    levels, c = rows.shape[:2]
    if not levels:
        return np.zeros((0, 1, 1))
    if c == 1:
        return np.asarray(np.hypot(rows, math.sqrt(e)))
    below = np.broadcast_to(math.sqrt(e) * np.eye(c), rows.shape)
    return np.asarray(np.linalg.qr(np.concatenate([rows, below], axis=1), mode="r"))


def block_diagonal(blocks: FloatArray) -> sp.csr_array:
    """Return the sparse matrix with blocks (levels, c, c) along its diagonal."""
    levels, c = blocks.shape[:2]
    return sp.csr_array(
        sp.bsr_array((blocks, np.arange(levels), np.arange(levels + 1)), shape=(levels * c, levels * c))
    )
