"""SparseState: several terms at one θ, from a sparse factor of the mixed-model equations."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import solve_triangular

from pm_fastlmm.base.arrays import FloatArray, slices
from pm_fastlmm.base.semidefinite import lower_root, zero_tolerance
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
    V factored at (Σ_k, σ²_e), with a response.

    Attributes
    ----------
    products : SparseProducts
    response : SparseResponse
    roots : list of (width, width) arrays
        L_k, lower triangular.
    factor : Factor
        Of C.
    first : (N,) array
        v̂ with the coordinates of X last, by one solve.
    """

    products: Any
    response: SparseResponse
    sigma: list[FloatArray]
    sigma2_e: float
    roots: list[FloatArray]
    factor: Factor
    first: FloatArray
    loglik: float
    yPy: float

    @classmethod
    def at(cls, products: Any, response: SparseResponse, sigma: list[FloatArray], sigma2_e: float) -> Self | None:
        """Factor V; None outside the parameter space."""
        roots = [_root(np.asarray(S, dtype=float)) for S in sigma]
        if not 0 < sigma2_e < math.inf or any(root is None for root in roots):
            return None
        p, e, known = products, float(sigma2_e), [root for root in roots if root is not None]
        eq: Equations = p.equations
        try:
            factor = eq.factorise(known, e)
        except NotPositiveDefinite:
            return None
        first = factor.solve(eq.scaled([root.T for root in known], eq.across(response.y)) / e)
        residual = response.y - eq.along(eq.scaled(known, first))
        # a sum, in which nothing cancels; and a minimum over v, whose error is the square of that of v̂
        yPy = float(residual @ residual) / e + float(first @ eq.penalised(first))
        logdet = p.df * math.log(e) + p.fixed * math.log(e) + p.known_logdet + factor.logdet
        if p.fixed:
            logdet -= p.projection.logdet_basis
        loglik = -0.5 * (p.df * LOG_2PI + logdet + yPy)
        if not math.isfinite(loglik):
            return None
        return cls(p, response, list(sigma), e, known, factor, first, loglik, yPy)

    @property
    def _eq(self) -> Equations:
        equations: Equations = self.products.equations
        return equations

    @cached_property
    def _refined(self) -> tuple[FloatArray, FloatArray]:
        eq, y = self._eq, self.response.y
        residual = y - eq.along(eq.scaled(self.roots, self.first))
        penalty = eq.penalised(self.first)
        left = eq.scaled([root.T for root in self.roots], eq.across(residual)) / self.sigma2_e - penalty
        if np.abs(left).max(initial=0.0) <= _SOLVED * np.abs(penalty).max(initial=0.0):
            return self.first, residual
        solved = self.first + self.factor.solve(left)
        return solved, y - eq.along(eq.scaled(self.roots, solved))

    @property
    def solved(self) -> FloatArray:
        """v̂ after a step of refinement where that changes digits, (N,)."""
        return self._refined[0]

    @property
    def residual(self) -> FloatArray:
        """ê = y - WΛv̂ of that, (n,)."""
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
        along = self._eq.across(self.residual / self.sigma2_e)
        return [along[self._eq.part(k)].reshape(b.levels, b.width) for k, b in enumerate(self._eq.blocks)]

    @cached_property
    def _related(self) -> list[FloatArray]:
        """m_k = A_kZ_kᵀPy (levels, width), of which û_k = m_kΣ_k."""
        out = []
        for k, (block, root, w) in enumerate(zip(self._eq.blocks, self.roots, self._weighted, strict=True)):
            if block.precision is None:
                out.append(w)
            elif _regular(root):  # v̂ = m L
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
        return Gradient(slopes, self._residual_score, self._related)

    @property
    def _residual_score(self) -> float:
        e, ee = self.sigma2_e, float(self.residual @ self.residual)
        pairs = zip(self._eq.blocks, self._traces, strict=True)
        left = self.products.df - sum(block.levels * block.width - np.trace(T) for block, T in pairs)
        return -0.5 * float(left / e - ee / e**2)

    @cached_property
    def _inside(self) -> Self | None:
        """A state at Σ_k that are positive definite, where these are not."""
        moved, size = [], self.products.column_squares
        for k, sigma in enumerate(self.sigma):
            unit = np.sqrt(self.sigma2_e / size[k])
            values = np.linalg.eigvalsh(sigma / np.outer(unit, unit))
            limit = max(_SMALLEST, _RESOLVED * values[-1])
            moved.append(sigma if values[0] > limit else sigma + _INSIDE * limit * np.diag(unit**2))
        if all(new is old for new, old in zip(moved, self.sigma, strict=True)):
            return None  # a state that refers to itself would stay in memory
        state = type(self).at(self.products, self.response, moved, self.sigma2_e)
        assert state is not None  # it is further inside than this one
        return state

    def average_information(self, directions: list[tuple[int, FloatArray]]) -> FloatArray:
        """Return ½ q_iᵀPq_j; P q takes one half solve with the factor."""
        eq, e = self._eq, self.sigma2_e
        q = np.empty((len(self.residual), len(directions) + 1))
        for i, (k, direction) in enumerate(directions):
            q[:, i] = eq.blocks[k].Z @ (self._related[k] @ direction).ravel()
        q[:, -1] = self.residual / e
        half = self.factor.half(eq.scaled([root.T for root in self.roots], eq.across(q)) / e)
        return np.asarray(0.5 * (q.T @ q / e - half.T @ half))

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
            state = known.at(self.response, self.sigma, self.sigma2_e)
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
    """P = (I - WΛC⁻¹ΛᵀWᵀ/σ²_e)/σ²_e and Py of a state."""

    state: SparseState
    budget: int

    @property
    def weighted(self) -> FloatArray:
        """Py, (n,)."""
        return self.state.residual / self.state.sigma2_e

    @property
    def _rows(self) -> Any:
        eq = self.state._eq
        return eq.rows(self.state.roots, [*(block.Z for block in eq.blocks), eq.basis])

    @property
    def diagonal(self) -> FloatArray:
        """Diagonal of P: the products of the entries of a row are in the pattern of C."""
        rows, e = self._rows, self.state.sigma2_e
        inverse = self.state._eq.inverse_matrix(self.state._inverse)
        return np.asarray((1 - (rows @ inverse).multiply(rows).sum(axis=1) / e) / e)

    def block(self, rows: Rows) -> FloatArray:
        """Return P_SS (s, s)."""
        e = self.state.sigma2_e
        half = self.state.factor.reached(self._rows[rows].T)
        return np.asarray((np.eye(len(rows)) - half.T @ half / e) / e)


def _root(sigma: FloatArray) -> FloatArray | None:
    """Return the lower triangular L of Σ = LLᵀ; None where Σ is not positive semi-definite."""
    if not np.isfinite(sigma).all():
        return None
    if sigma.size == 1:
        return np.sqrt(sigma) if sigma[0, 0] >= 0 else None
    try:
        return np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError:
        values = np.linalg.eigvalsh(sigma)
        return lower_root(sigma) if values[0] >= -zero_tolerance(values) else None


def _regular(root: FloatArray) -> bool:
    """Return whether a triangular matrix can be divided by."""
    diagonal = np.abs(np.diag(root))
    return bool(diagonal.min() > 1e-6 * max(float(diagonal.max()), float(np.abs(root).max())))
