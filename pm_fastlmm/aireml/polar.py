"""
θ with standard deviations and a correlation among its coordinates, so that they can be held.

Σ = (TL)(TL)ᵀ with T the sizes of the effects and L lower triangular. With two effects put first, the first two rows of
L are (s₀, 0) and (s₁ cos φ, s₁ sin φ): s₀ and s₁ are standard deviations and cos φ the correlation, all within bounds
of their own, and the other rows are free. A Σ that is singular has such coordinates too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import Bounds, minimize

from pm_fastlmm.aireml.cone import PackedMatrix, errors, pack
from pm_fastlmm.aireml.objective import Objective, typical
from pm_fastlmm.base.arrays import FloatArray, lower_triangle

_ITERATIONS = 500
_SETBACK = 0.05  # from 0 deviations and from a singular matrix to a start: there ℓ is flat in these coordinates
_DIFFERENCE = 1e-6  # of a standard error
_REACHED = 1e-6  # slope at a maximum, in standard errors: the maximum is then good to its square
_UNDEFINED = 1e6  # below the best ℓ that is known


type Value = Callable[[FloatArray], tuple[float, FloatArray]]


class _Matrix(NamedTuple):
    """One matrix: its effects in the order of the rows of L, and their sizes."""

    matrix: PackedMatrix
    order: Any
    t: FloatArray

    def factor(self, x: FloatArray) -> FloatArray:
        L = np.zeros((self.matrix.size, self.matrix.size))
        L[lower_triangle(*L.shape)] = x
        if self.matrix.size > 1:
            L[1, :2] = x[1] * np.cos(x[2]), x[1] * np.sin(x[2])
        return L

    def slopes(self, x: FloatArray) -> FloatArray:
        """Return ∂L/∂x, (elements, c, c)."""
        rows, columns = lower_triangle(self.matrix.size, self.matrix.size)
        out = np.zeros((len(rows), self.matrix.size, self.matrix.size))
        out[np.arange(len(rows)), rows, columns] = 1.0
        if self.matrix.size > 1:
            out[1, 1, :2] = np.cos(x[2]), np.sin(x[2])
            out[2, 1, :2] = -x[1] * np.sin(x[2]), x[1] * np.cos(x[2])
        return out

    def sigma(self, M: FloatArray) -> FloatArray:
        """Return a matrix in the order and the units of θ, packed."""
        out = np.empty_like(M)
        out[np.ix_(self.order, self.order)] = M
        return pack(out * np.outer(self.t, self.t))

    def internal(self, theta: FloatArray) -> FloatArray:
        unit = (self.matrix.read(theta) / np.outer(self.t, self.t))[np.ix_(self.order, self.order)]
        values, vectors = np.linalg.eigh(unit)
        L = np.linalg.qr((vectors * np.sqrt(np.maximum(values, 0.0))).T)[1].T
        L *= np.where(np.diag(L) < 0, -1.0, 1.0)
        x = pack(L)
        if self.matrix.size > 1:
            x[1:3] = np.hypot(*L[1, :2]), np.arctan2(L[1, 1], L[1, 0]) if L[1, :2].any() else np.pi / 2
        return x


class Polar(NamedTuple):
    """
    Coordinates x of θ: those above in place of the elements of matrices that vary, the others as they are.

    Attributes
    ----------
    objective : Objective
    matrices : sequence of _Matrix
    lower, upper : (P,) arrays
        Bounds of x.
    """

    objective: Objective
    matrices: tuple[_Matrix, ...]
    lower: FloatArray
    upper: FloatArray

    @classmethod
    def at(
        cls,
        objective: Objective,
        theta: FloatArray,
        information: FloatArray,
        first: tuple[Any, Sequence[int]] = (None, ()),
    ) -> Self:
        """Return the coordinates about θ; `first` has the place of a matrix and the effects that come first in it."""
        lower, upper = objective.internal_lower.copy(), objective.internal_upper.copy()
        matrices, error = [], errors(information)
        for m in objective.semidefinite:
            leading = list(first[1]) if first[0] == m.place else []
            order = [*leading, *(i for i in range(m.size) if i not in leading)]
            matrices.append(_Matrix(m, np.array(order), m.unit(theta, error)))
            lower[m.place], upper[m.place] = -np.inf, np.inf
            lower[m.place][:3] = 0.0  # of one effect there is one
            if m.size > 1:
                upper[m.place][2] = np.pi
        fixed = np.asarray(objective.fixed)
        return cls(objective, tuple(matrices), np.where(fixed, theta, lower), np.where(fixed, theta, upper))

    def size_of(self, place: slice) -> float:
        """Return the size of the first effect of a matrix, the unit of its standard deviation in x."""
        (matrix,) = (m for m in self.matrices if m.matrix.place == place)
        return float(matrix.t[matrix.order[0]])

    def internal(self, theta: FloatArray) -> FloatArray:
        """Return x."""
        x = self.objective.internal(theta)
        for m in self.matrices:
            x[m.matrix.place] = m.internal(theta)
        return x

    def external(self, x: FloatArray) -> FloatArray:
        """Return θ."""
        theta = self.objective.external(x)
        for m in self.matrices:
            L = m.factor(x[m.matrix.place])
            theta[m.matrix.place] = m.sigma(L @ L.T)
        return theta

    def jacobian(self, x: FloatArray) -> FloatArray:
        """Return ∂θ/∂x."""
        J = self.objective.jacobian(x)
        for m in self.matrices:
            L, place = m.factor(x[m.matrix.place]), m.matrix.place
            halves = m.slopes(x[place]) @ L.T
            J[place, place] = np.column_stack([m.sigma(half + half.T) for half in halves])
        return J

    def start(self, theta: FloatArray) -> FloatArray:
        """Return x of a θ nearby, off the places where ℓ is flat in x."""
        x = self.internal(theta)
        for m in self.matrices:
            own, c = x[m.matrix.place], m.matrix.size
            diagonal = np.flatnonzero(np.equal(*lower_triangle(c, c)))
            own[diagonal] = np.maximum(own[diagonal], _SETBACK)
            if c > 1:
                own[1] = max(own[1], _SETBACK)
                own[2] = np.clip(own[2], _SETBACK, np.pi - _SETBACK)
            x[m.matrix.place] = own
        return np.clip(x, self.lower, self.upper)

    def evaluate(self, x: FloatArray) -> tuple[float, FloatArray]:
        """Return ℓ and ∂ℓ/∂x; -inf and 0 where V is not positive definite."""
        theta = self.external(x)
        state = self.objective.state(theta)
        if state is None:
            return -np.inf, np.zeros(len(x))
        return float(state.loglik), self.jacobian(x).T @ self.objective.gradient(theta, state)

    def value(self, also: Callable[[FloatArray], float] | None, size: FloatArray) -> Value:
        """Return ℓ, and what is added to it, with its slope; that of the addition by differences."""
        if also is None:
            return self.evaluate

        def value(x: FloatArray) -> tuple[float, FloatArray]:
            loglik, slope = self.evaluate(x)
            if not np.isfinite(loglik):
                return loglik, slope
            here = also(self.external(x))
            steps = np.where(x + _DIFFERENCE * size > self.upper, -1, 1) * _DIFFERENCE * size
            moved = np.array([also(self.external(x + step)) for step in np.diag(steps)])
            slopes = np.where(np.isfinite(moved), (moved - here) / steps, 0.0)  # V ends there: ℓ itself falls steeply
            return loglik + here, slope + slopes

        return value

    def sizes(self, x: FloatArray, information: FloatArray) -> FloatArray:
        """
        Return the sizes of steps in x that change ℓ by about 1, given the other coordinates.

        They are standard errors 1/√I where the score is 0, and 1/score at a bound; y may leave an effect no average
        information there.
        """
        J = self.jacobian(x)
        inner = J.T @ information @ J
        error = errors(inner + np.diag(self.evaluate(x)[1] ** 2))
        return np.where(error > 0, error, typical(x, inner))

    def maximise(
        self, start: FloatArray, information: FloatArray, held: Mapping[int, float] | None = None,
        also: Callable[[FloatArray], float] | None = None,
    ) -> tuple[FloatArray, float]:  # fmt: skip
        """
        Return θ and the maximum of ℓ, from a θ nearby.

        `held` has the values of coordinates that are held; `also` is a function of θ that is added to ℓ.
        """
        x, free = self.start(start), self.upper > self.lower
        for place, value in (held or {}).items():
            x[place], free[place] = value, False
        size = self.sizes(x, information)
        of = self.value(also, size)
        best, _ = of(x)
        if not np.isfinite(best) or not free.any():
            return self.external(x), best

        if (inside := self._inside(of, x, free, information)) is not None:
            return self.external(inside[0]), inside[1]

        def minus(scaled: Any, *_: Any) -> tuple[float, Any]:
            moved = x.copy()
            moved[free] = scaled * size[free]
            here, slope = of(moved)
            return (-here if np.isfinite(here) else _UNDEFINED - best), -(slope * size)[free]

        bounds = Bounds(self.lower[free] / size[free], self.upper[free] / size[free])
        found = minimize(
            minus, x[free] / size[free], jac=True, method="L-BFGS-B", bounds=bounds,
            options={"ftol": 1e-15, "gtol": 1e-7, "maxiter": _ITERATIONS},
        )  # fmt: skip
        x[free] = found.x * size[free]
        return self.external(x), float(-found.fun)

    def _inside(
        self, of: Value, start: FloatArray, free: Any, information: FloatArray
    ) -> tuple[FloatArray, float] | None:
        """Return x and the maximum by a search that knows the curvature, None where it meets a bound."""
        J = self.jacobian(start)
        try:
            root = np.linalg.cholesky((J.T @ information @ J)[np.ix_(free, free)])
        except np.linalg.LinAlgError:
            return None

        def at(z: Any) -> FloatArray:
            x = start.copy()
            x[free] += solve_triangular(root, z, lower=True, trans=1)
            return x

        def minus(z: Any, *_: Any) -> tuple[float, Any]:
            value, slope = of(at(z))
            return (-value if np.isfinite(value) else _UNDEFINED), -solve_triangular(root, slope[free], lower=True)

        found = minimize(minus, np.zeros(len(root)), jac=True, method="BFGS", options={"gtol": _REACHED / 10})
        x = at(found.x)
        reached = (
            np.linalg.norm(np.asarray(found.jac)) <= _REACHED
            and (x > self.lower)[free].all()
            and (x < self.upper)[free].all()
        )
        return (x, float(-found.fun)) if reached else None
