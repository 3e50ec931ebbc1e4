"""
TraitState: several traits of one kernel at one Σ_g and Σ_e.

With rows rotated by U and traits by T all entries are independent, with the variances s_ij = λ_id_j + 1:

    V⁻¹M = ((MT)/s)Tᵀ of an M (p, t),   ℓ = -½[pt log 2π + p log|Σ_e| + Σ log s + Σ (ZT)²/s]

Columns W = (u ⊗ τ) of entries that were not observed (a flat prior) and of β ~ N(b, B) come besides:

    P = V⁻¹ - V⁻¹WL(D + LᵀWᵀV⁻¹WL)⁻¹LᵀWᵀV⁻¹

with L = I and D = 0 for the former, LLᵀ = B and D = I for the latter; log|D + LᵀWᵀV⁻¹WL| joins log|V|.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.linalg

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.covariance.theta import NOISE
from pm_fastlmm.engines.term_products import Gradient, TermState
from pm_fastlmm.kernel.likelihood.leave_out import Precision, Rows
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI
from pm_fastlmm.kernel.likelihood.trait_basis import TraitBasis


class Besides(NamedTuple):
    """
    What the columns W take away, by J with JJᵀ = L(D + LᵀWᵀV⁻¹WL)⁻¹Lᵀ.

    Attributes
    ----------
    J : (m, k) array
    half : (k, p, t) array
        JᵀWᵀV⁻¹, in the rotated traits.
    response : (k,) array
        The same of y.
    logdet : float
        log|D + LᵀWᵀV⁻¹WL|.
    """

    J: FloatArray
    half: FloatArray
    response: FloatArray
    logdet: float

    @classmethod
    def of(cls, columns: Any, basis: TraitBasis, s: FloatArray, zT: FloatArray, B: FloatArray | None) -> Self | None:
        """Return it; None where what is missing cannot be told from what was observed."""
        m, missing = len(columns.u), columns.missing
        tau = columns.tau @ basis.T
        solved = columns.u[:, :, None] * tau[:, None, :] / s
        gram = sum((solved[:, :, j] @ columns.u.T) * tau[:, j] for j in range(len(basis.d)))
        L = np.eye(m) if B is None else scipy.linalg.block_diag(np.eye(missing), semidefinite_root(B))
        core = np.diag((np.arange(m) >= missing).astype(float)) + L.T @ gram @ L
        try:
            root = scipy.linalg.cholesky((core + core.T) / 2, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return None
        J = scipy.linalg.solve_triangular(root, L.T, lower=True, check_finite=False).T
        half = np.tensordot(J.T, solved, axes=1)
        return cls(J, half, np.tensordot(half, zT, axes=2), 2 * float(np.log(np.diag(root)).sum()))


@dataclass(frozen=True, eq=False)
class TraitState(TermState):
    """
    V factored at (Σ_g, Σ_e), with a response.

    Attributes
    ----------
    products : TraitProducts
    response : TraitResponse
    basis : TraitBasis
    s : (p, t) array
        The variances in the rotated traits.
    besides : Besides or None
    weighted : (p, t) array
        UᵀPy.
    """

    products: Any
    response: Any
    sigma: list[FloatArray]
    noise: FloatArray
    basis: TraitBasis
    s: FloatArray
    besides: Besides | None
    weighted: FloatArray
    loglik: float
    yPy: float

    @classmethod
    def at(cls, products: Any, response: Any, sigma: list[FloatArray], noise: FloatArray) -> Self | None:
        """Factor V; None outside the parameter space."""
        basis = products.basis(sigma, noise)
        if basis is None:
            return None
        rotation, columns = products.rotation, products.columns
        s = rotation.eigvals[:, None] * basis.d + 1.0
        zT = response.z @ basis.T
        solved = zT / s
        outside = float((basis.inverse_covariance * response.outside).sum())
        yPy = float((zT * solved).sum()) + outside
        logdet = (len(s) + rotation.nullity) * basis.logdet + float(np.log(s).sum())
        besides = None
        if columns is not None:
            besides = Besides.of(columns, basis, s, zT, sigma[1] if len(sigma) > 1 else None)
            if besides is None:
                return None
            solved = solved - np.tensordot(besides.response, besides.half, axes=1)
            yPy -= float(besides.response @ besides.response)
            logdet += besides.logdet
        loglik = -0.5 * (products.df * LOG_2PI + logdet + yPy)
        if not math.isfinite(loglik):
            return None
        weighted = solved @ basis.T.T
        return cls(products, response, list(sigma), noise, basis, s, besides, weighted, loglik, yPy)

    def _spread(self, scale: Any) -> FloatArray:
        """Return Σ_i scale_i P_ii (t, t) of the rows in rotated coordinates."""
        inner = np.diag((scale[:, None] / self.s).sum(axis=0))
        if self.besides is not None:
            half = self.besides.half
            inner = inner - np.einsum("kpa,p,kpb->ab", half, scale, half, optimize=True)
        return np.asarray(self.basis.T @ inner @ self.basis.T.T)

    @cached_property
    def gradient(self) -> Gradient:
        """½[MᵀΛM - Σ_i λ_iP_ii] and ½[MᵀM - Σ_i P_ii], M = UᵀPy, and what is outside of the rotation."""
        p, M, eigvals = self.products, self.weighted, self.products.rotation.eigvals
        sigma = [0.5 * (M.T @ (eigvals[:, None] * M) - self._spread(eigvals))]
        noise = 0.5 * (M.T @ M - self._spread(np.ones(len(eigvals))))
        if nullity := p.rotation.nullity:
            inverse = self.basis.inverse_covariance
            noise = noise + 0.5 * (inverse @ self.response.outside @ inverse - nullity * inverse)
        if p.prior:
            w, variance = self._along_prior
            sigma.append(0.5 * (np.outer(w, w) - variance))
        return Gradient(sigma, noise, self._related)

    def _related(self) -> list[FloatArray]:
        """Return KPy by row, and WᵀPy of β."""
        own = [self.products.rotation.covariance_times(self.weighted)]
        return own + ([self._along_prior[0][None]] if self.products.prior else [])

    @cached_property
    def _along_prior(self) -> tuple[FloatArray, FloatArray]:
        """WᵀPy and WᵀPW of the columns of β."""
        columns = self.products.columns
        u, tau = columns.u[columns.missing :], columns.tau[columns.missing :]
        w = np.einsum("mp,pt,mt->m", u, self.weighted, tau, optimize=True)
        rotated = tau @ self.basis.T
        along = u[:, :, None] * rotated[:, None, :]
        return w, self._products(along, along)

    def _products(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Return aᵀPb of a and b (…, p, t) that were rotated by T, as a matrix."""
        out = np.tensordot(a, b / self.s, axes=([1, 2], [1, 2]))
        if self.besides is not None:
            out = out - self._halves(a) @ self._halves(b).T
        return np.asarray(out)

    def _halves(self, a: FloatArray) -> FloatArray:
        """Return JᵀWᵀV⁻¹a, (…, k)."""
        assert self.besides is not None
        return np.asarray(np.tensordot(a, self.besides.half, axes=([1, 2], [1, 2])))

    def average_information(self, directions: list[tuple[int, FloatArray]]) -> FloatArray:
        """Return ½ q_iᵀPq_j."""
        p, M = self.products, self.weighted
        scale = {0: p.rotation.eigvals[:, None] * M, NOISE: M}
        q = np.empty((len(directions), *M.shape))
        for i, (k, direction) in enumerate(directions):
            if k == 1:
                columns = p.columns
                w = direction @ self._along_prior[0]
                q[i] = (columns.u[columns.missing :] * w[:, None]).T @ columns.tau[columns.missing :]
            else:
                q[i] = scale[k] @ direction
        out = self._products(rotated := q @ self.basis.T, rotated)
        if p.rotation.nullity:
            inverse = self.basis.inverse_covariance
            own = [inverse @ d if k == NOISE else np.zeros_like(inverse) for k, d in directions]
            last = inverse @ self.response.outside
            out = out + np.array([[np.trace(a @ b @ last) for b in own] for a in own])
        return 0.5 * (out + out.T) / 2

    @property
    def _missing(self) -> FloatArray:
        """What is expected of the entries that were not observed, less what they were taken to be."""
        assert self.besides is not None
        return -(self.besides.J @ self.besides.response)[: self.products.columns.missing]

    def draw_missing(self, rng: np.random.Generator) -> FloatArray:
        """Draw the entries that were not observed given the others, less what they were taken to be."""
        assert self.besides is not None
        J = self.besides.J[: self.products.columns.missing]
        return np.asarray(self._missing + J @ rng.standard_normal(J.shape[1]))

    @cached_property
    def _along_x(self) -> FloatArray:
        """Cov of Q₁ᵀ(y less what W predicts of it) with the columns of missing entries, (r, t, missing)."""
        p, columns = self.products, self.products.columns
        m = columns.missing
        solved = (columns.u[:m, :, None] * (columns.tau[:m] @ self.basis.T)[:, None, :] / self.s) @ self.basis.T.T
        predicted = np.einsum("pr,mpt->rtm", p.rotation.C, solved @ self.sigma[0], optimize=True)
        return np.asarray(np.einsum("mr,mt->rtm", columns.along[:m], columns.tau[:m]) - predicted)

    def beta(self) -> FloatArray:
        """Return β̂, that of each trait after another."""
        p = self.products
        if not p.flat:
            return np.zeros(0)
        along = p.rotation.Q1.T @ self.response.rows - p.rotation.C.T @ self.weighted @ self.sigma[0]
        if self.besides is not None:  # the prediction of missing entries moves it
            columns = p.columns
            along = along + np.einsum("mr,mt,m->rt", columns.along, columns.tau, self._missing)
        own = p.spectrum.projection.coefficients(along).T.ravel()
        return np.asarray(own + p.projection.coefficients(self.response.y1))

    def blue(self) -> tuple[FloatArray, FloatArray]:
        """Return β̂ and its covariance."""
        p, basis = self.products, self.basis
        if not p.flat:
            return np.zeros(0), np.zeros((0, 0))
        back = np.linalg.inv(basis.T).T
        k, own = len(p.spectrum.eigvals), p.spectrum
        weights = basis.d / (own.eigvals[:, None] * self.s[:k])
        parts = [
            d * own.schur + np.eye(own.projection.rank) + (own.C.T * w) @ own.C
            for d, w in zip(basis.d, weights.T, strict=True)
        ]
        cov = np.einsum("ac,bc,crs->arbs", back, back, np.array(parts), optimize=True)
        if self.besides is not None:
            J = self.besides.J[: p.columns.missing]
            moved = np.tensordot(self._along_x, J, axes=1)
            cov = cov + np.einsum("rak,sbk->arbs", moved, moved, optimize=True)
        t, r = cov.shape[:2]
        R = np.kron(np.eye(t), np.linalg.inv(own.projection.R)) if r else np.zeros((0, 0))
        return self.beta(), R @ cov.reshape(t * r, t * r) @ R.T

    def effects(self) -> list[FloatArray]:
        """Return û of each block, (levels, width)."""
        return [m @ S for m, S in zip(self.gradient.effects, self.sigma, strict=True)]

    def prediction_error(self, k: int, root: FloatArray | None = None, *, beta_known: bool = False) -> FloatArray:
        """Return the diagonal of Var(û - u), (n, t); a β with a prior has that of its coefficients, (1, r · t)."""
        p = self.products
        if beta_known and p.flat:
            known = p.treated(1, flat=False)
            state = known.at(known.response_to_known(p.entries(self.response.rows)), self.sigma, self.noise)
            assert state is not None  # this one is
            return np.asarray(state.prediction_error(k))
        if k:
            B, (_, gram) = self.sigma[1], self._along_prior
            return np.asarray(np.diag(B - B @ gram @ B))[None]
        turned = self.sigma[0] @ self.basis.T
        explained = p.rotation.covariance**2 @ (1 / self.s) @ (turned**2).T
        if self.besides is not None:
            for half in self.besides.half:
                explained -= (p.rotation.covariance_times(half) @ turned.T) ** 2
        return np.asarray(np.outer(p.spectrum.diagonal, np.diag(self.sigma[0])) - explained)

    def predict(self, X_new: FloatArray, Z_new: list[Any], unknown: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return f̂* and Var(f* - f̂*)."""
        p, basis, m, t = self.products, self.basis, len(unknown), len(self.basis.d)
        n, rotation = p.spectrum.n, p.rotation
        Z = Z_new[0].toarray() if hasattr(Z_new[0], "toarray") else np.asarray(Z_new[0])
        mean = Z @ self.effects()[0].ravel()
        Z = np.moveaxis(Z.reshape(m, n, t), 1, 0).reshape(n, -1)
        cov = (rotation.covariance.T @ Z).reshape(-1, m, t)
        spread = (p.root[0].T @ Z).reshape(-1, m, t)
        variance = np.array(unknown, dtype=float)
        X = np.zeros((m, t, 0))
        if p.flat:
            mean = mean + X_new @ self.beta()
            R = p.spectrum.projection.R
            X = np.linalg.solve(R.T, X_new.reshape(m, t, len(R)).transpose(2, 0, 1).reshape(len(R), -1))
            X = X.reshape(len(R), m, t).transpose(1, 2, 0)
            cov = cov - np.einsum("pr,mtr->pmt", rotation.C, X, optimize=True)
            spread = spread - np.einsum("kr,mtr->kmt", p.root[1], X, optimize=True)
            variance += np.einsum("mar,ab,mbr->m", X, self.noise, X, optimize=True)
        variance += np.einsum("kma,ab,kmb->m", spread, self.sigma[0], spread, optimize=True)
        turned = np.moveaxis(cov @ self.sigma[0] @ basis.T, 1, 0)
        if p.prior:
            columns, own = p.columns, np.asarray(Z_new[1])
            mean = mean + own @ self.effects()[1].ravel()
            spread_beta = own @ self.sigma[1]
            variance += (own * spread_beta).sum(axis=1)
            tau = columns.tau[columns.missing :] @ basis.T
            turned = turned + np.einsum("mq,qp,qt->mpt", spread_beta, columns.u[columns.missing :], tau, optimize=True)
        variance -= (turned**2 / self.s).sum(axis=(1, 2))
        if self.besides is not None:
            moved = self._halves(turned)
            if p.flat:
                count = p.columns.missing
                along = np.einsum("qr,qt,mtr->mq", p.columns.along[:count], p.columns.tau[:count], X, optimize=True)
                moved = moved + along @ self.besides.J[:count]
            variance += (moved**2).sum(axis=1)
        return mean, variance

    @cached_property
    def _rows(self) -> FloatArray:
        """JᵀWᵀV⁻¹ by row and trait, (k, n, t)."""
        p = self.products
        if self.besides is None:
            return np.zeros((0, p.spectrum.n, len(self.basis.d)))
        return np.asarray(p.rotation.U @ (self.besides.half @ self.basis.T.T))

    def _own_rows(self) -> FloatArray:
        """Return the blocks (t, t) of P of each row, (n, t, t)."""
        p, T = self.products, self.basis.T
        own = np.einsum("at,nt,bt->nab", T, p.rotation.U**2 @ (1 / self.s), T, optimize=True)
        if p.rotation.nullity:
            own += p.rotation.remainder[:, None, None] * self.basis.inverse_covariance
        return np.asarray(own - np.einsum("kna,knb->nab", self._rows, self._rows, optimize=True))

    def leverage(self) -> FloatArray | None:
        """Return the diagonal of I - RP."""
        if self.products.records.independent:
            return None
        along = np.einsum("ab,nba->na", self.noise, self._own_rows())
        return np.asarray(self.products.entries(1 - along))

    def precision(self, residual: FloatArray, budget: int = 4_000_000) -> Precision:
        """Return P and Py."""
        return TraitPrecision(self)


@dataclass(frozen=True, eq=False)
class TraitPrecision:
    """P and Py of the entries that were observed."""

    state: TraitState

    @cached_property
    def weighted(self) -> FloatArray:
        """Py, (N,)."""
        state, rotation = self.state, self.state.products.rotation
        rows = rotation.U @ state.weighted
        if rotation.nullity:
            rows += rotation.apart(state.response.rows)[1] @ state.basis.inverse_covariance
        return np.asarray(state.products.entries(rows))

    @cached_property
    def diagonal(self) -> FloatArray:
        """Diagonal of P, (N,)."""
        own = np.einsum("naa->na", self.state._own_rows())
        return np.asarray(self.state.products.entries(own))

    def block(self, rows: Rows) -> FloatArray:
        """Return P_SS (s, s)."""
        state, p = self.state, self.state.products
        rotation, T = p.rotation, state.basis.T
        i, a = p.records.record[rows], p.records.coordinate[rows]
        U, Q1 = rotation.U[i], rotation.Q1[i]
        out = sum(np.outer(T[a, j], T[a, j]) * ((U / state.s[:, j]) @ U.T) for j in range(len(T)))
        if rotation.nullity:
            left = (i[:, None] == i) - U @ U.T - Q1 @ Q1.T
            out = out + state.basis.inverse_covariance[np.ix_(a, a)] * left
        along = state._rows[:, i, a]
        return np.asarray(out - along.T @ along)
