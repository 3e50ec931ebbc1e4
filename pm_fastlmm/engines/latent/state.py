r"""
LatentState: Laplace's approximation of log p(y | θ) at one θ, with its exact derivatives.

    log p̃ = Σ log p(y_i | η̂_i) - ½x̂ᵀPx̂ - ½log|C| + ½Σ width_k log|Q_k| + ½ r log 2π

of the mode x̂. With g = ∂log p/∂η, s the diagonal of WΛC⁻¹ΛᵀWᵀ (the variances of η given y), c = C⁻¹ΛᵀWᵀ(s ∘ ∂³log p)
and η_a = WΛc, the movement of the mode adds ½(s ∘ ∂³log p - D ∘ η_a) to g:

    ∂/∂offset = h = g + ½(s ∘ ∂³log p - D ∘ η_a)
    ∂/∂Σ_k    = ½[wᵀm + sym(wᵀm_a) - L⁻ᵀ(qI - T)L⁻¹],   w = Zᵀg,  m = Aw,  m_a = A Zᵀ(s ∘ ∂³log p - D ∘ η_a)
    ∂/∂ψ      = Σ ∂_ψ log p + ½ s·∂_ψ∂²log p + ½ η_a·∂_ψ∂log p
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from scipy.linalg import solve_triangular

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.latent.mode import Mode, Problem, find_mode
from pm_fastlmm.engines.records import Whitening
from pm_fastlmm.engines.sparse.state import SparseResponse, SparseState, root_of
from pm_fastlmm.engines.term_products import Gradient
from pm_fastlmm.families.family import ParameterDerivatives
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI

_STEP = 1e-5  # of ψ, of differences that steps are scaled by


@dataclass(frozen=True, eq=False)
class LatentState(SparseState):
    """
    What `SparseState` has with the weights D at the mode in place of R⁻¹, and g in place of Py.

    Attributes
    ----------
    problem : Problem
        The response, its family with ψ, and the offset of η.
    mode : Mode
    """

    problem: Problem
    mode: Mode

    @classmethod
    def laplace(
        cls, products: Any, y: FloatArray, offset: Any, sigma: list[FloatArray], psi: FloatArray,
        start: FloatArray | None = None, enough: float = 0.0,
    ) -> Self | None:  # fmt: skip
        """Return the approximation, its mode as `find_mode` has it; None outside the parameter space or without one."""
        roots = [root_of(np.asarray(S, dtype=float)) for S in sigma]
        family, eq = products.family, products.equations
        psi = np.asarray(psi, dtype=float)
        inside = np.isfinite(psi).all() and (psi >= family.lower).all() and (psi <= family.upper).all()
        if not (inside and np.isfinite(offset).all()) or any(root is None for root in roots):
            return None
        known = [root for root in roots if root is not None]
        problem = Problem(eq, known, family, y, psi, offset)
        mode = find_mode(problem, start, enough)
        if mode is None:
            return None
        weights = -mode.derivatives.second
        logdet = mode.factor.logdet + products.known_logdet
        if products.fixed:
            logdet -= products.projection.logdet_basis
        loglik = mode.value - 0.5 * logdet + 0.5 * products.fixed * LOG_2PI
        if not math.isfinite(loglik):
            return None
        white = Whitening(sp.csr_array((0, 0)), weights, 0.0)
        response = SparseResponse(np.zeros(0), np.zeros(products.projection.rank))
        noise = np.zeros((0, 0))
        return cls(
            products, response, list(sigma), noise, known, mode.factor, white, mode.x, loglik, math.nan,
            problem, mode,
        )  # fmt: skip

    def with_coefficients(self, along: FloatArray) -> Self:
        """Return the same point with coefficients of X, which were a part of the offset, among the unknowns."""
        flat, m = self.products.treated(len(self.products.blocks), flat=True), self.mode
        x = np.concatenate([m.x, along])
        offset = self.offset - flat.projection.along(along)
        problem = Problem(flat.equations, self.roots, self.problem.family, self.y, self.psi, offset)
        factor = problem.factorise(self.white.coefficients)
        mode = m._replace(x=x, factor=factor)
        return replace(self, products=flat, factor=factor, first=x, problem=problem, mode=mode)

    @property
    def psi(self) -> FloatArray:
        """Parameters of the family."""
        return self.problem.psi

    @property
    def offset(self) -> Any:
        """The part of η that is known, (n,)."""
        return self.problem.offset

    @property
    def y(self) -> FloatArray:
        """The response, (n,)."""
        return self.problem.y

    @property
    def solved(self) -> FloatArray:
        """x̂, (N,)."""
        return self.mode.x

    @property
    def weighted(self) -> FloatArray:
        """The slopes g = ∂log p/∂η, (n,)."""
        return self.mode.derivatives.first

    @property
    def eta(self) -> FloatArray:
        """η̂, (n,)."""
        return self.mode.eta

    @cached_property
    def eta_variances(self) -> FloatArray:
        """s, the variances of η given y and θ, (n,)."""
        return self._eq.residual_traces(self.roots, self._inverse)

    @cached_property
    def _cubic(self) -> FloatArray:
        """S ∘ ∂³log p, (n,)."""
        return self.eta_variances * self.mode.derivatives.third

    @cached_property
    def _movement(self) -> FloatArray:
        """η_a, (n,)."""
        return np.asarray(self.problem.rows @ self.factor.solve(self.problem.columns @ self._cubic))

    @cached_property
    def _moved(self) -> FloatArray:
        """S ∘ ∂³log p - D ∘ η_a, (n,)."""
        return self._cubic + self.mode.derivatives.second * self._movement

    @property
    def offset_gradient(self) -> FloatArray:
        """The gradient h = ∂log p̃/∂offset, (n,)."""
        return self.weighted + 0.5 * self._moved

    @cached_property
    def gradient(self) -> Gradient:
        """
        The score with respect to Σ_k; the residual has none.

        The part with L⁻¹ is taken, where a Σ is singular, at two points inside the cone, and extrapolated.
        """
        inside, along = self._inside_points, self._eq.across(self._moved)
        slopes = []
        for k, block in enumerate(self._eq.blocks):
            second = 2 * inside[0].spread(k) - inside[1].spread(k) if inside else self.spread(k)
            moved = along[self._eq.part(k)].reshape(block.levels, block.width)
            slope = self._weighted[k].T @ self._related[k] + moved.T @ self._related[k] - second
            slopes.append((slope + slope.T) / 4)
        return Gradient(slopes, np.zeros((0, 0)), lambda: self._related)

    def spread(self, k: int) -> FloatArray:
        """Return L⁻ᵀ(qI - T)L⁻¹, by which the spread of the effects given y falls short of Σ."""
        left = self._eq.blocks[k].levels * np.eye(self._eq.blocks[k].width) - self._traces[k]
        half = solve_triangular(self.roots[k], left, lower=True, trans="T", check_finite=False)
        return np.asarray(solve_triangular(self.roots[k], half.T, lower=True, trans="T", check_finite=False))

    @cached_property
    def _inside_points(self) -> list[Self]:
        """States at Σ_k that are positive definite, where these are not, and twice as far from these."""
        near = self._moved_inside(1.0 / max(float(self.white.coefficients.mean()), 1e-300) * np.ones((1, 1)))
        if near is None:
            return []
        far = [2 * S - own for S, own in zip(near, self.sigma, strict=True)]
        states = [
            type(self).laplace(self.products, self.y, self.offset, moved, self.psi, self.mode.x)
            for moved in (near, far)
        ]
        found = [state for state in states if state is not None]
        assert len(found) == 2  # they are further inside than this one
        return found

    @cached_property
    def _of_family(self) -> ParameterDerivatives:
        found: ParameterDerivatives = self.products.family.in_parameters(self.y, self.eta, self.psi)
        return found

    @property
    def family_gradient(self) -> FloatArray:
        """∂log p̃/∂ψ."""
        if not len(self.psi):
            return np.zeros(0)
        d = self._of_family
        return np.asarray(d.value.sum(axis=1) + 0.5 * (d.second @ self.eta_variances + d.first @ self._movement))

    def family_information(self) -> FloatArray:
        """
        Return minus the Hessian of log p in ψ with the mode maximised out, by differences of ∂log p/∂ψ.

        Where that is not definite, far from the estimate, it is the sum of squares of the rows' own slopes.
        """
        p, family = len(self.psi), self.products.family
        out, d = np.zeros((p, p)), self._of_family
        for i in range(p):
            step = _STEP * max(1.0, abs(self.psi[i]))
            moved = self.psi + step * (np.arange(p) == i)
            out[i] = -(family.in_parameters(self.y, self.eta, moved).value - d.value).sum(axis=1) / step
        half = self.factor.half(self.problem.columns @ np.ascontiguousarray(d.first.T))
        own = (out + out.T) / 2 - half.T @ half
        definite = np.diag(own).min(initial=1.0) > 0 and np.linalg.eigvalsh(own).min(initial=1.0) > 0
        return own if definite else d.value @ d.value.T

    def average_information(self, directions: list[tuple[int, FloatArray]]) -> FloatArray:
        """Return that of the working response, ½ q_iᵀPq_j with P = D - DWΛC⁻¹ΛᵀWᵀD and q = V̇g."""
        q = np.empty((len(self.weighted), len(directions)))
        for i, (k, direction) in enumerate(directions):
            q[:, i] = self._eq.blocks[k].Z @ (self._related[k] @ direction).ravel()
        return 0.5 * self._projected(q)

    def _projected(self, q: FloatArray) -> FloatArray:
        """Return qᵀPq."""
        weighted = self.white.coefficients[:, None] * q
        half = self.factor.half(self.problem.columns @ weighted)
        return np.asarray(q.T @ weighted - half.T @ half)

    def information_of(self, X: FloatArray) -> FloatArray:
        """Return XᵀPX, the information of coefficients that are given (those of ML)."""
        return self._projected(np.asarray(X, dtype=float))

    def prediction_error(self, k: int, root: FloatArray | None = None, *, beta_known: bool = False) -> FloatArray:
        """Return the curvature's Var(u | y); with β known of equations without X."""
        p = self.products
        if beta_known and p.fixed:
            known = p.treated(len(p.blocks), flat=False)
            offset = self.offset + p.projection.times(self.beta())
            state = type(self).laplace(known, self.y, offset, self.sigma, self.psi)
            assert state is not None  # this one is
            return state.prediction_error(k, root)
        return super().prediction_error(k, root)

    def leverage(self) -> FloatArray:
        """Return D_i s_i, what an observation adds to its own fitted η."""
        return np.asarray(self.white.coefficients * self.eta_variances)
