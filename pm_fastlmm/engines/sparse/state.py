"""SparseState: several terms at one θ, from a sparse factor of the mixed-model equations."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.sparse as sp
from scipy.linalg import solve_triangular

from pm_fastlmm.base.arrays import FloatArray, slices
from pm_fastlmm.base.semidefinite import lower_root, zero_tolerance
from pm_fastlmm.covariance.theta import NOISE
from pm_fastlmm.engines.records import Whitening
from pm_fastlmm.engines.sparse.equations import Equations
from pm_fastlmm.engines.term_products import Gradient, TermState
from pm_fastlmm.kernel.likelihood.leave_out import Precision, Rows
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI
from pm_fastlmm.sparse.cholesky import Factor, NotPositiveDefinite

_SMALLEST = 1e-9  # eigenvalue of Σ, in units of σ²_e of an observation, below which its score is taken inside the cone
_RESOLVED = 1e-12  # the same as a share of the largest one, to whose digits Σ is known
_INSIDE = 100.0  # how many times so far inside, where it has nine digits and is as near to that on the boundary
_SOLVED = 1e-11  # share of Qv̂, which equals ΛᵀWᵀê/σ²_e, up to which their difference is no loss of digits
_BUDGET = 4_000_000  # numbers of right-hand sides at a time
_TOGETHER = 16  # new rows whose ways to the root of the elimination tree are gone together
_WHOLE = 100_000_000  # numbers of the solutions by which the whole covariance of β̂ is formed, up to which it is


class SparseResponse(NamedTuple):
    """y₂, y without its part along X, or with another; and the coordinates of y along X."""

    y: FloatArray
    y1: FloatArray


@dataclass(frozen=True, eq=False)
class SparseState(TermState):
    """
    V factored at (Σ_k, Σ_e), with a response.

    Attributes
    ----------
    products : SparseProducts
    response : SparseResponse
    roots : list of (width, width) arrays
        L_k, lower triangular.
    factor : Factor
        Of C.
    white : Whitening
        R⁻¹ and its root.
    first : (N,) array
        v̂ with the coordinates of X last, by one solve.
    """

    products: Any
    response: SparseResponse
    sigma: list[FloatArray]
    noise: FloatArray
    roots: list[FloatArray]
    factor: Factor
    white: Whitening
    first: FloatArray
    loglik: float
    yPy: float

    @classmethod
    def at(cls, products: Any, response: SparseResponse, sigma: list[FloatArray], noise: FloatArray) -> Self | None:
        """Factor V; None outside the parameter space."""
        roots = [root_of(np.asarray(S, dtype=float)) for S in sigma]
        p, white = products, products.records.whitening(noise)
        if white is None or any(root is None for root in roots):
            return None
        known = [root for root in roots if root is not None]
        eq: Equations = p.equations
        try:
            factor = eq.factorise(known, white.coefficients)
        except NotPositiveDefinite:
            return None
        first = factor.solve(eq.scaled([root.T for root in known], eq.across(white.times(response.y))))
        half = white.root @ (response.y - eq.along(eq.scaled(known, first)))
        # a sum, in which nothing cancels; and a minimum over v, whose error is the square of that of v̂
        yPy = float(half @ half) + float(first @ eq.penalised(first))
        logdet = white.logdet + p.known_logdet + factor.logdet
        if p.fixed:
            logdet -= p.projection.logdet_basis
        loglik = -0.5 * (p.df * LOG_2PI + logdet + yPy)
        if not math.isfinite(loglik):
            return None
        return cls(p, response, list(sigma), noise, known, factor, white, first, loglik, yPy)

    @property
    def _eq(self) -> Equations:
        equations: Equations = self.products.equations
        return equations

    @cached_property
    def _refined(self) -> tuple[FloatArray, FloatArray]:
        eq, y, white = self._eq, self.response.y, self.white
        weighted = white.times(y - eq.along(eq.scaled(self.roots, self.first)))
        penalty = eq.penalised(self.first)
        left = eq.scaled([root.T for root in self.roots], eq.across(weighted)) - penalty
        if np.abs(left).max(initial=0.0) <= _SOLVED * np.abs(penalty).max(initial=0.0):
            return self.first, weighted
        solved = self.first + self.factor.solve(left)
        return solved, white.times(y - eq.along(eq.scaled(self.roots, solved)))

    @property
    def solved(self) -> FloatArray:
        """v̂ after a step of refinement where that changes digits, (N,)."""
        return self._refined[0]

    @property
    def weighted(self) -> FloatArray:
        """Py = R⁻¹ê of that, ê = y - WΛv̂, (n,)."""
        return self._refined[1]

    @cached_property
    def _inverse(self) -> FloatArray:
        """C⁻¹ at the places of its pattern."""
        return self.factor.inverse()

    @cached_property
    def _traces(self) -> list[FloatArray]:
        """T_k = [tr(Q_kC^ab)] for each term, in the coordinates v."""
        return self._eq.traces(self._inverse)

    @cached_property
    def _weighted(self) -> list[FloatArray]:
        """Z_kᵀPy (levels, width)."""
        along = self._eq.across(self.weighted)
        return [along[self._eq.part(k)].reshape(b.levels, b.width) for k, b in enumerate(self._eq.blocks)]

    @cached_property
    def _related(self) -> list[FloatArray]:
        """m_k = A_kZ_kᵀPy (levels, width), of which û_k = m_kΣ_k."""
        out = []
        for k, (block, root, w) in enumerate(zip(self._eq.blocks, self.roots, self._weighted, strict=True)):
            if block.precision is None:
                out.append(w)
            elif regular(root):  # v̂ = m L
                v = self.solved[self._eq.part(k)].reshape(block.levels, block.width)
                out.append(solve_triangular(root.T, v.T, check_finite=False).T)
            else:
                out.append(self.products.between(k).solve(w))
        return out

    @cached_property
    def gradient(self) -> Gradient:
        """
        The score ½[wᵀm - L⁻ᵀ(qI - T)L⁻¹], w = ZᵀPy and m = Aw, and what predicts the effects.

        T is a trace over the pattern of Q alone. The second part has L⁻¹: where Σ is on the boundary of the cone, it is
        taken a little inside.
        """
        inside = self._inside or self
        slopes = []
        for k, block in enumerate(self._eq.blocks):
            left = block.levels * np.eye(block.width) - inside._traces[k]
            half = solve_triangular(inside.roots[k], left, lower=True, trans="T", check_finite=False)
            second = solve_triangular(inside.roots[k], half.T, lower=True, trans="T", check_finite=False)
            slope = 0.5 * (self._weighted[k].T @ self._related[k] - second)
            slopes.append((slope + slope.T) / 2)
        return Gradient(slopes, self._noise_score, lambda: self._related)

    @property
    def _noise_score(self) -> FloatArray:
        """∂ℓ/∂Σ_e, (c, c)."""
        t = self.white.coefficients
        if len(t) > 1:
            traces = self._eq.residual_traces(self.roots, self._inverse)
        else:  # Σ_κ t_κ ∂log|C|/∂t_κ = N - tr(C⁻¹ blockdiag(Q_k ⊗ I, 0)), which has more digits at a small σ²_e
            traces = (len(self.first) - sum(np.trace(T) for T in self._traces)) / t
        return np.asarray(self.products.records.score(self.noise, traces, self.weighted))

    @cached_property
    def _inside(self) -> Self | None:
        """A state at Σ_k that are positive definite, where these are not."""
        moved = self._moved_inside(self.noise)
        if moved is None:
            return None
        state = type(self).at(self.products, self.response, moved, self.noise)
        assert state is not None  # it is further inside than this one
        return state

    def _moved_inside(self, noise: FloatArray) -> list[FloatArray] | None:
        """Return Σ_k that are positive definite, in units of the noise; None where these are."""
        moved = []
        for sigma, unit in zip(self.sigma, self.products.column_units(noise), strict=True):
            values = np.linalg.eigvalsh(sigma / np.outer(unit, unit))
            limit = max(_SMALLEST, _RESOLVED * values[-1])
            moved.append(sigma if values[0] > limit else sigma + _INSIDE * limit * np.diag(unit**2))
        same = all(new is old for new, old in zip(moved, self.sigma, strict=True))
        return None if same else moved  # a state that refers to itself would stay in memory

    def average_information(self, directions: list[tuple[int, FloatArray]]) -> FloatArray:
        """Return ½ q_iᵀPq_j; P q takes one half solve with the factor."""
        eq = self._eq
        q = np.empty((len(self.weighted), len(directions)))
        for i, (k, direction) in enumerate(directions):
            if k == NOISE:
                q[:, i] = self.products.records.times(direction, self.weighted)
            else:
                q[:, i] = eq.blocks[k].Z @ (self._related[k] @ direction).ravel()
        white = self.white.root @ q
        half = self.factor.half(eq.scaled([root.T for root in self.roots], eq.across(self.white.root.T @ white)))
        return np.asarray(0.5 * (white.T @ white - half.T @ half))

    def _independent(self, rows: FloatArray) -> FloatArray:
        """Return R^-½ times rows where residuals differ."""
        return np.asarray(self.white.root @ rows) if self.products.records.width > 1 else rows

    def beta(self) -> FloatArray:
        """Return β̂ alone."""
        if not self.products.fixed:
            return np.zeros(0)
        return np.asarray(self.products.projection.coefficients(self.response.y1 + self.solved[self._eq.part(-1)]))

    def blue(self) -> tuple[FloatArray, Any]:
        """Return β̂ and its covariance; of many coefficients, sparse, the entries that are in the pattern of C."""
        X, part, N = self.products.projection, self._eq.part(-1), len(self.solved)
        if not self.products.fixed:
            return np.zeros(0), np.zeros((0, 0))
        if X.sparse and X.rank * N > _WHOLE:
            return self.beta(), X.covariance(self._eq.inverse_matrix(self._inverse, part.start))
        inverse = np.empty((X.rank, X.rank))
        for some in slices(X.rank, max(1, _BUDGET // N)):
            inverse[:, some] = self.factor.solve(self._units(np.arange(part.start, part.stop)[some]))[part]
        return self.beta(), X.covariance((inverse + inverse.T) / 2)

    def _units(self, unknowns: Any) -> FloatArray:
        units = np.zeros((self._eq.ends[-1], len(unknowns)))
        units[unknowns, np.arange(len(unknowns))] = 1.0
        return units

    def _half(self, unknowns: Any) -> FloatArray:
        """Return L⁻¹P of the unit vectors of some unknowns."""
        return self.factor.half(self._units(unknowns))

    def effects(self) -> list[FloatArray]:
        """Return û_k (levels, width) of each term."""
        return [self.products.rooted(k, m @ self.sigma[k]).reshape(m.shape) for k, m in enumerate(self._related)]

    def prediction_error(self, k: int, root: FloatArray | None = None, *, beta_known: bool = False) -> FloatArray:
        """Return the diagonal of LC⁻¹Lᵀ; with β known of equations without X."""
        p = self.products
        if beta_known and p.fixed:
            known = p.treated(len(p.blocks), flat=False)
            state = known.at(self.response, self.sigma, self.noise)
            assert state is not None  # this one is
            return np.asarray(state.prediction_error(k, root))
        root = p.blocks[k].root if root is None else root
        if root is not None:
            return self._error_of_rooted(k, root)
        errors = self.roots[k] @ self._eq.level_blocks(k, self._inverse) @ self.roots[k].T
        return np.asarray(np.einsum("jaa->ja", errors))

    def _error_of_rooted(self, k: int, root: FloatArray) -> FloatArray:
        """Return the same of effects Ru, whose covariance with each other is needed."""
        block, part = self.products.blocks[k], self._eq.part(k)
        columns = self._half(np.arange(part.start, part.stop))
        scaled = (columns.reshape(-1, block.levels, block.width) @ self.roots[k].T).reshape(len(columns), -1)
        return np.asarray(((scaled @ root.T) ** 2).sum(axis=0).reshape(-1, block.width))

    def predict(self, X_new: FloatArray, Z_new: list[Any], unknown: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return f̂* and Var(f* - f̂*), which is ‖L⁻¹PΛᵀ[z*, x*]‖²."""
        p, eq, m = self.products, self._eq, len(unknown)
        parts = [p.over_unknowns(k, Z) for k, Z in enumerate(Z_new)]
        mean = sum((Z @ (w @ S).ravel() for Z, w, S in zip(parts, self._related, self.sigma, strict=True)), np.zeros(m))
        if p.fixed:
            mean = mean + X_new @ self.beta()
            parts.append(p.projection.over(X_new))
        rows, variance = eq.rows(self.roots, parts), np.array(unknown, dtype=float)
        for some in slices(m, _TOGETHER):
            variance[some] += (self.factor.reached(rows[some].T) ** 2).sum(axis=0)
        return np.asarray(mean), variance

    @property
    def _rows(self) -> sp.csr_array:
        """WΛ."""
        return self._eq.rows(self.roots, [*(block.Z for block in self._eq.blocks), self._eq.basis])

    def leverage(self) -> FloatArray | None:
        """Return the diagonal of WΛC⁻¹ΛᵀWᵀR⁻¹, where residuals covary."""
        if self.products.records.independent:
            return None
        rows = self._rows
        along = rows @ self._eq.inverse_matrix(self._inverse)
        return np.asarray(along.multiply(self.white.root.T @ (self.white.root @ rows)).sum(axis=1)).ravel()

    def precision(self, residual: FloatArray, budget: int = _BUDGET) -> Precision:
        """Return P and Py."""
        return SparsePrecision(self, budget)

    def draw(self, rng: np.random.Generator) -> tuple[list[FloatArray], FloatArray]:
        """Draw the effects of each term, and β, from their joint posterior."""
        eq, p = self._eq, self.products
        drawn = self.solved + self.factor.draw(rng.standard_normal(eq.ends[-1]))
        u = []
        for k, (block, root) in enumerate(zip(eq.blocks, self.roots, strict=True)):
            v = drawn[eq.part(k)].reshape(block.levels, block.width)
            u.append(p.rooted(k, v @ root.T))
        return u, p.projection.coefficients(self.response.y1 + drawn[eq.part(-1)]) if p.fixed else np.zeros(0)


@dataclass(frozen=True, eq=False)
class SparsePrecision:
    """P = R⁻¹ - R⁻¹WΛC⁻¹ΛᵀWᵀR⁻¹ and Py of a state."""

    state: SparseState
    budget: int

    @property
    def weighted(self) -> FloatArray:
        """Py, (n,)."""
        return self.state.weighted

    @cached_property
    def _residual(self) -> Any:
        """R⁻¹."""
        root = self.state.white.root
        return sp.csr_array(root.T @ root)

    @cached_property
    def _rows(self) -> Any:
        """R⁻¹WΛ."""
        return self._residual @ self.state._rows

    @property
    def diagonal(self) -> FloatArray:
        """Diagonal of P: the products of the entries of rows of a record are in the pattern of C."""
        rows, inverse = self._rows, self.state._eq.inverse_matrix(self.state._inverse)
        return np.asarray(self._residual.diagonal() - (rows @ inverse).multiply(rows).sum(axis=1))

    def block(self, rows: Rows) -> FloatArray:
        """Return P_SS (s, s)."""
        half = self.state.factor.reached(self._rows[rows].T)
        return np.asarray(self._residual[rows][:, rows].toarray() - half.T @ half)


def root_of(sigma: FloatArray) -> FloatArray | None:
    """Return the lower triangular L of Σ = LLᵀ; None where Σ is not positive semi-definite."""
    if not np.isfinite(sigma).all():
        return None
    if sigma.size == 1:
        return np.sqrt(sigma) if sigma[0, 0] >= 0 else None
    try:
        return np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError:
        unit = np.sqrt(np.where(np.diag(sigma) > 0, np.diag(sigma), 1.0))  # effects may have very different units
        scaled = sigma / np.outer(unit, unit)
        values = np.linalg.eigvalsh(scaled)
        return unit[:, None] * lower_root(scaled) if values[0] >= -zero_tolerance(values) else None


def regular(root: FloatArray) -> bool:
    """Return whether a triangular matrix can be divided by."""
    diagonal = np.abs(np.diag(root))
    return bool(diagonal.min() > 1e-6 * max(float(diagonal.max()), float(np.abs(root).max())))
