"""MixedState: several random-effects terms at one θ, factored once; score, information, effects and predictions."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray, read_only
from pm_fastlmm.covariance.theta import NOISE
from pm_fastlmm.engines.structured import vectorised
from pm_fastlmm.engines.structured.from_rows import LOST, Rows, block_diagonal, digits_lost, loud, roots_beside
from pm_fastlmm.engines.structured.loops import factorise, gradient, loglik_and_gradient
from pm_fastlmm.engines.structured.precision import MixedPrecision
from pm_fastlmm.engines.structured.products import MixedProducts, Response
from pm_fastlmm.engines.structured.roots import matrix_root, packed_roots
from pm_fastlmm.engines.term_products import Gradient, TermState
from pm_fastlmm.kernel.likelihood.leave_out import Precision


@dataclass(frozen=True, eq=False)
class MixedState(TermState):
    """
    V factored at (Σ_k, σ²_e), with a response.

    Attributes
    ----------
    products : MixedProducts
    response : Response
    rows : Rows or None
        The factorisation from rows, where inner products lose digits.
    """

    products: MixedProducts
    response: Response
    sigma: list[FloatArray]
    noise: FloatArray
    loglik: float
    yPy: float
    factor: tuple[Any, ...]
    rows: Rows | None = None

    @classmethod
    def at(cls, products: MixedProducts, response: Response, sigma: list[FloatArray], sigma2_e: float) -> Self | None:
        """Factor V; None outside the parameter space."""
        p = products
        phi = p.packed(sigma)
        e, statistics = float(sigma2_e), (response.within, response.between, response.rss)
        noise = np.array([[e]])
        if p.small:
            loglik, yPy, *rest = vectorised.factorise(p, phi, e, *statistics)
        else:
            loglik, yPy, *rest = _compiled(factorise, p, phi, e, *statistics)
        ok, factor = math.isfinite(loglik), (phi, *rest)
        if loud(p, phi, e) and not (ok and digits_lost(p, response, sigma, factor, e, yPy) < LOST):
            rows = Rows.of(p, response, sigma, e, phi)
            if rows is not None:
                return cls(p, response, list(sigma), noise, rows.loglik, rows.yPy, rows.factor, rows)
        return cls(p, response, list(sigma), noise, float(loglik), float(yPy), factor) if ok else None

    @property
    def sigma2_e(self) -> float:
        """σ²_e, all of Σ_e."""
        return float(self.noise[0, 0])

    @property
    def gradient(self) -> Gradient:
        """The score with respect to the matrices, and ZᵀPy."""
        return self._differentiated[0]

    @property
    def between(self) -> FloatArray:
        """M_j⁻¹(ȳ_j - B_jb) of the eliminated term."""
        return self._differentiated[1]

    @cached_property
    def _differentiated(self) -> tuple[Gradient, FloatArray]:
        if self.rows is not None:
            return self._gradient_of_rows(self.rows)
        p, (phi, *factor) = self.products, self.factor
        e, between = self.sigma2_e, self.response.between
        if p.small:
            grad, de, weighted, w = vectorised.gradient(p, phi, e, between, self.yPy, *factor)
        else:
            grad, de, weighted, w = gradient(phi, e, *read_only(between), *p.constants[:-1], self.yPy, *factor)
        effects = [
            np.einsum("jab,jb->ja", p.C, weighted) if at is None else w[at : at + levels * c].reshape(levels, c)
            for at, (_, levels, c, _) in zip(p.offsets(), p.blocks, strict=True)
        ]
        return Gradient(p.unpacked(grad), np.array([[de]], dtype=float), lambda: effects), weighted

    def _gradient_of_rows(self, rows: Rows) -> tuple[Gradient, FloatArray]:
        places = zip(self.products.offsets(), self.products.blocks, strict=True)
        scores = [
            rows.eliminated_score() if at is None else rows.dense_score(at, levels, c)
            for at, (_, levels, c, _) in places
        ]
        sigma, effects = map(list, zip(*scores, strict=True))
        return Gradient(sigma, np.array([[rows.residual_score()]]), lambda: effects), rows.between

    def average_information(self, directions: list[tuple[int, FloatArray]]) -> FloatArray:
        """
        Return ½ q_iᵀPq_j for q_i = Z_k(I ⊗ Σ̇_i)Z_kᵀPy, and last for q_e = Py times the direction of σ²_e.

        Pq_e needs no rows: σ²_ePy + Σ Z_kG_kZ_kᵀPy = y - Xβ̂, so that Pq_e = (Py - P Σ Z_kG_kZ_kᵀPy)/σ²_e.
        """
        of_noise = [float(direction[0, 0]) for k, direction in directions if k == NOISE]
        terms = self._information_of_terms(directions[: len(directions) - len(of_noise)])
        J = np.zeros((len(directions), len(terms)))
        np.fill_diagonal(J, 1.0)
        J[len(terms) - 1 :, -1] = of_noise
        return np.asarray(0.5 * J @ terms @ J.T)

    def _information_of_terms(self, directions: list[tuple[int, FloatArray]]) -> FloatArray:
        """Return q_iᵀPq_j of directions of terms, and last of Py."""
        w, e = self.gradient.effects, self.sigma2_e
        vectors = [{k: w[k] @ direction} for k, direction in directions]
        if self.rows is not None:
            return self.rows.products_with_P(*self._stack(vectors))
        fitted = {k: w[k] @ sigma for k, sigma in enumerate(self.sigma)}
        quadratic = self._quadratic([*vectors, fitted])
        count = len(directions)
        linear = np.array([sum(float((v[k] * w[k]).sum()) for k in v) for v in [*vectors, fitted]])
        out = np.empty((count + 1, count + 1))
        out[:count, :count] = quadratic[:count, :count]
        with_fitted = (linear - quadratic[count]) / e
        out[count, :count] = out[:count, count] = with_fitted[:count]
        out[count, count] = ((self.yPy - linear[count]) / e - with_fitted[count]) / e
        return out

    def _quadratic(self, vectors: list[dict[int, FloatArray]]) -> FloatArray:
        """Return gᵀPg for all pairs of g = Σ_k Z_kx_k, each given by its x_k (levels, width)."""
        p, e = self.products, self.sigma2_e
        _, Minv, F, *_ = self.factor
        first, dense = self._stack(vectors)
        count = first.shape[-1]
        half = np.swapaxes(p.C, 1, 2) @ first  # Cᵀx
        weighted = (Minv @ half).reshape(-1, count)
        cross = p.across(weighted)
        Fx = F @ dense
        mixed = cross.T @ dense
        plain = half.reshape(-1, count).T @ weighted + mixed + mixed.T + dense.T @ Fx / e
        projected = self.scaled @ (cross + Fx / e)  # L⁻¹ΛᵀWᵀNg
        return np.asarray(plain - e * projected.T @ projected)

    def _stack(self, vectors: list[dict[int, FloatArray]]) -> tuple[FloatArray, FloatArray]:
        """Return the coordinates along the eliminated term (levels, width, s) and the dense block (m, s)."""
        p = self.products
        levels, c = p.C.shape[:2]
        first = np.zeros((levels, c, len(vectors)))
        dense = np.zeros((p.columns, len(vectors)))
        offsets = p.offsets()
        for s, vector in enumerate(vectors):
            for k, x in vector.items():
                offset = offsets[k]
                if offset is None:
                    first[:, :, s] = x.reshape(levels, c)
                else:
                    dense[offset : offset + x.size, s] = x.ravel()
        return first, dense

    @cached_property
    def scaled(self) -> FloatArray:
        """L⁻¹Λᵀ (m, m)."""
        return self.products.times_roots(self.factor[5], self.factor[4], transposed=True)

    def blue(self) -> tuple[FloatArray, FloatArray]:
        """Return β̂ (r,) and its covariance (r, r); of length 0 when β is not integrated out."""
        p = self.products
        if not p.fixed:
            return np.zeros(0), np.zeros((0, 0))
        m = p.columns
        corner = self.factor[5][m - p.fixed :, m - p.fixed :]
        R = p.projection.R
        # LAPACK's triangular solver starts its threads for any size, which costs milliseconds on a busy machine
        along = self.response.y1 + self.factor[7][m - p.fixed :]
        solved = np.linalg.solve(R, np.column_stack([along, corner.T]))
        return solved[:, 0], self.sigma2_e * solved[:, 1:] @ solved[:, 1:].T

    def effects(self) -> list[FloatArray]:
        """Return û_k = R_k(I ⊗ Σ_k)Z_kᵀPy (levels, width) of each term, R_k the root of a known covariance."""
        p, found = self.products, enumerate(self.gradient.effects)
        return [p.rooted(k, w @ self.sigma[k]).reshape(w.shape) for k, w in found]

    def prediction_error(self, k: int, root: FloatArray | None = None, *, beta_known: bool = False) -> FloatArray:
        """
        Return the diagonal of Var(û_k - u_k), (levels, width); with β known that of Var(u_k | y, β).

        For a term with a root `root` may be other rows of it, those of levels without data.

        In the dense block it is σ²_e ΛS⁻¹Λᵀ; for the eliminated term see `_given_dense`. X is the last block of S: the
        rows of L⁻¹ that are not its own make the inverse of S without it.
        """
        p, e = self.products, self.sigma2_e
        scaled = self.scaled[: len(self.scaled) - p.fixed] if beta_known else self.scaled
        block, offset = p.blocks[k], p.offsets()[k]
        if offset is None:
            direct, through = self._given_dense(np.broadcast_to(np.eye(p.C.shape[1]), p.C.shape))
            rows = sp.csr_array(block_diagonal(np.swapaxes(through, 1, 2)) @ p.B) @ scaled.T
            return np.asarray(direct + e * (rows**2).sum(axis=-1).reshape(direct.shape))
        columns = scaled[:, offset : offset + block.Z.shape[1]]
        root = block.root if root is None else root
        if root is not None:
            columns = columns @ root.T
        return np.asarray(e * (columns**2).sum(axis=0).reshape(-1, block.width))

    def _given_dense(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """
        Return the variance of zᵀu_j of the eliminated term given y and the dense block, and how it follows that block.

        With Σ₁ = GGᵀ and GᵀC_jC_jᵀG + σ²_eI = TᵀT they are σ²_e‖T⁻ᵀGᵀz‖² and B_jᵀC_jᵀG(TᵀT)⁻¹Gᵀz, the latter without
        B_jᵀ: sums, where Σ₁ - Σ₁C_jM_j⁻¹C_jᵀΣ₁ is a difference.

        Parameters
        ----------
        z : (levels, width, s) array

        Returns
        -------
        variance : (levels, s) array
        through : (levels, width, s) array
        """
        p = self.products
        G = matrix_root(np.array(self.sigma[p.order[0]], dtype=float))[0] if p.eliminated else np.zeros((1, 1))
        CG = np.swapaxes(p.C, 1, 2) @ G
        T = roots_beside(CG, self.sigma2_e)
        half = np.linalg.solve(np.swapaxes(T, 1, 2), G.T @ z)
        return self.sigma2_e * (half**2).sum(axis=1), CG @ np.linalg.solve(T, half)

    def precision(self, residual: FloatArray, budget: int = 4_000_000) -> Precision:
        """Return P and Py, of y less its mean besides a β that is integrated out."""
        return MixedPrecision.of(self, residual, budget=budget)

    def predict(self, X_new: FloatArray, Z_new: list[Any], unknown: FloatArray) -> tuple[FloatArray, FloatArray]:
        """
        Return f̂* = X*β̂ + Σ Z*û and Var(f* - f̂*), (m,) each.

        Z* are those of the terms over their known levels, `unknown` is the prior variance (m,) of effects of new ones.

        Given y the dense block has the variance σ²_eΛS⁻¹Λᵀ, and the eliminated term follows it: all of Var(f* - f̂*)
        is a sum of squares. As z*ᵀGz* - k*ᵀPk* + … it would lose what a wide prior of β or of a slope on an uncentred
        column has more than the posterior.
        """
        p, w = self.products, self.gradient.effects
        beta, _ = self.blue()
        # over the independent effects, whose image under the root of a known covariance are those of the levels
        rooted = [Z if block.root is None else Z @ block.root for Z, block in zip(Z_new, p.blocks, strict=True)]
        vectors = [Z.toarray() if hasattr(Z, "toarray") else Z for Z in rooted]
        first, dense = self._stack([dict(enumerate(row)) for row in zip(*vectors, strict=True)])
        m, q = len(dense), len(dense) - p.fixed
        mean = dense[:q].T @ self.factor[7][:q]
        if p.eliminated:
            k = p.order[0]
            mean += np.einsum("jas,ja->s", first, w[k] @ self.sigma[k])
        if p.fixed:
            mean += X_new @ beta
            dense[q:m] = np.linalg.solve(p.projection.R.T, X_new.T)
        variance, through = self._given_dense(first)
        left = dense - p.across(through.reshape(-1, through.shape[-1]))
        return mean, unknown + variance.sum(axis=0) + self.sigma2_e * ((self.scaled @ left) ** 2).sum(axis=0)


def _compiled(
    function: Callable[..., Any], p: MixedProducts, phi: FloatArray, e: float, within: FloatArray, between: FloatArray,
    rss: float,
) -> Any:  # fmt: skip
    """Return what a compiled function does; where a Σ_k has no Cholesky factor, with roots of its eigenvectors."""
    arguments = e, *read_only(within, between), rss, *p.constants
    found = function(phi, np.zeros(0), *arguments)
    if found[0] == -math.inf and (roots := packed_roots(p, phi)) is not None:
        return function(phi, roots, *arguments)
    return found


def mixed_loglik_and_gradient(
    p: MixedProducts, phi: FloatArray, sigma2_e: Any, within: FloatArray, between: FloatArray, rss: Any,
    rows: FloatArray, d: FloatArray,
) -> tuple[Any, ...]:  # fmt: skip
    """
    Return the log-likelihood of y₂ + Q₁d, and its gradient with respect to phi, σ²_e, the statistics, y₂ and d.

    The response is there twice: as statistics, and as y₂ (n,) and d (empty where β is integrated out), which take their
    place where inner products lose digits. The gradient is with respect to one of the two, 0 for the other.
    """
    e, none = float(sigma2_e), np.zeros(rows.shape)
    if not loud(p, phi, e):
        values = _compiled(loglik_and_gradient, p, phi, e, within, between, float(rss))
        return (*values, none, np.zeros(d.shape))
    moved = rows + p.projection.Q1 @ d if d.size else rows
    state = MixedState.at(p, Response(within, between, float(rss), d, moved), p.unpacked(phi), e)
    statistics = np.zeros(within.shape), np.zeros(between.shape), 0.0
    if state is None:
        return -math.inf, np.zeros(phi.shape), 0.0, *statistics, none, np.zeros(d.shape)
    g = state.gradient
    scores = np.concatenate([g.sigma[k].ravel() for k in p.order])
    if state.rows is None:
        statistics = state.factor[7] / e, -state.between, -0.5 / e
        return state.loglik, scores, float(g.noise[0, 0]), *statistics, none, np.zeros(d.shape)
    Py = state.rows.weighted_response(state.between)
    along = -state.rows.inner(p.projection.Q1) if d.size else np.zeros(0)
    return state.loglik, scores, float(g.noise[0, 0]), *statistics, -Py, along
