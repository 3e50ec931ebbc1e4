"""
Newton steps along the face of a covariance matrix: where its factor goes while its rank stays.

Average information is far from the curvature of ℓ where effects do not have the mean 0 or the distribution of the
model, and where Σ is nearly singular ridges of ℓ are curved. Steps in the elements of Σ then crawl. On Σ = FFᵀ, with as
many columns as Σ has rank, they do not: F has no bounds, and the observed information is that of F, with the curvature
of FFᵀ in it. It comes from differences of the exact score of F, one for each element.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from pm_fastlmm.aireml.cone import SINGULAR, PackedMatrix, errors, pack
from pm_fastlmm.base.arrays import FloatArray, lower_triangle

_STEP = 1e-5  # of a standard error: differences lose as many digits to rounding as to the step
_FLOOR = 1e-6  # of the average information: the least that an observed one is taken to be


@dataclass(frozen=True, slots=True, eq=False)
class _Root:
    """Σ = V(D + M)(D + M)ᵀVᵀ: V = TQ of the eigenvectors of Σ in units T of its effects, D the roots of eigenvalues."""

    matrix: PackedMatrix
    place: slice
    V: FloatArray
    D: FloatArray
    rows: Any
    columns: Any

    @classmethod
    def of(cls, matrix: PackedMatrix, theta: FloatArray, error: FloatArray, start: int) -> Self:
        t = matrix.unit(theta, error)
        values, vectors = np.linalg.eigh(matrix.read(theta) / np.outer(t, t))
        values, vectors = values[::-1], vectors[:, ::-1]
        D = np.diag(np.sqrt(np.maximum(values, 0.0)))[:, values > SINGULAR]
        rows, columns = lower_triangle(*D.shape)  # the rest would only rotate the columns
        return cls(matrix, slice(start, start + len(rows)), t[:, None] * vectors, D, rows, columns)

    def factor(self, x: FloatArray) -> FloatArray:
        M = np.zeros(self.D.shape)
        M[self.rows, self.columns] = x[self.place]
        return np.asarray(self.V @ (self.D + M))

    def slopes(self, x: FloatArray) -> FloatArray:
        """Return ∂Σ/∂M, packed, as columns."""
        F = self.factor(x)
        halves = [np.outer(self.V[:, i], F[:, j]) for i, j in zip(self.rows, self.columns, strict=True)]
        slopes = [pack(half + half.T) for half in halves]
        return np.reshape(slopes, (len(slopes), len(self.D) * (len(self.D) + 1) // 2)).T


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """
    Coordinates x around a θ in which its matrices keep their rank: elements of factors, 0 at θ, and other parameters.

    Attributes
    ----------
    theta : (P,) array
        Where x is `origin`.
    roots : tuple
    others : (K,) int array
        The parameters that are no elements of a matrix that varies; they stand last in x.
    origin, internal_lower, internal_upper : arrays
    fixed : bool array
    """

    semidefinite: ClassVar[tuple[PackedMatrix, ...]] = ()  # none has to be kept so, they are products

    theta: FloatArray
    roots: tuple[_Root, ...]
    others: Any
    origin: FloatArray
    internal_lower: FloatArray
    internal_upper: FloatArray
    fixed: Any

    @classmethod
    def of(
        cls, theta: FloatArray, information: FloatArray, matrices: Sequence[PackedMatrix], lower: FloatArray,
        upper: FloatArray, fixed: Any,
    ) -> Self:  # fmt: skip
        """Return the face of θ; the information gives units to effects whose variance is 0."""
        error, roots, start = errors(information), [], 0
        other = np.ones(len(theta), dtype=bool)
        for m in matrices:
            roots.append(_Root.of(m, theta, error, start))
            start, other[m.place] = roots[-1].place.stop, False
        free = np.full(start, np.inf)
        return cls(
            theta, tuple(roots), np.flatnonzero(other), np.concatenate([np.zeros(start), theta[other]]),
            np.concatenate([-free, lower[other]]), np.concatenate([free, upper[other]]),
            np.concatenate([np.zeros(start, dtype=bool), fixed[other]]),
        )  # fmt: skip

    def inactive(self, x: FloatArray, score: FloatArray, information: FloatArray) -> Any:
        """Return which coordinates have no influence: none that is known of."""
        return np.zeros(len(x), dtype=bool)

    def external(self, x: FloatArray) -> FloatArray:
        """Return θ."""
        theta = self.theta.copy()
        theta[self.others] = x[len(x) - len(self.others) :]
        for root in self.roots:
            F = root.factor(x)
            theta[root.matrix.place] = pack(F @ F.T)
        return theta

    def jacobian(self, x: FloatArray) -> FloatArray:
        """Return ∂θ/∂x."""
        J = np.zeros((len(self.theta), len(x)))
        J[self.others, np.arange(len(x) - len(self.others), len(x))] = 1.0
        for root in self.roots:
            J[root.matrix.place, root.place] = root.slopes(x)
        return J


def curvature(
    objective: Any, face: Face, steps: FloatArray, *, central: bool = False, start: FloatArray | None = None
) -> FloatArray:
    """
    Return -∂²ℓ/∂x² at the origin from differences of the score, 0 where a step is; NaN where V fails.

    Forward differences take one score for each element, central ones two, and these are more exact. `start` is the
    score at the origin where it is known.
    """

    def score(x: FloatArray) -> FloatArray:
        return np.asarray(face.jacobian(x).T @ score_at(objective, face.external(x)))

    out, x = np.zeros((len(steps), len(steps))), face.origin
    start = None if central else score(x) if start is None else start
    for k in np.flatnonzero(steps):
        move = steps[k] * (np.arange(len(steps)) == k)
        if not central and x[k] + steps[k] > face.internal_upper[k]:
            move = -move
        other = x - move if central else x
        fall = (score(other) if start is None else start) - score(x + move)
        with np.errstate(divide="ignore", invalid="ignore"):  # of a step below the rounding of x
            out[:, k] = fall / (x[k] + move[k] - other[k])
    return (out + out.T) / 2


def score_at(objective: Any, theta: FloatArray) -> FloatArray:
    """Return ∂ℓ/∂θ, NaN where V is not positive definite."""
    state = objective.state(theta)
    return np.full(len(theta), np.nan) if state is None else objective.gradient(theta, state)


def observed_information(
    objective: Any, face: Face, average: FloatArray, score: FloatArray | None = None
) -> FloatArray | None:
    """Return the observed information of x at the origin, its eigenvalues made positive; None where V fails."""
    free = ~face.fixed & (np.diag(average) > 0)
    inside = np.ix_(free, free)
    observed = curvature(objective, face, np.where(free, _STEP * errors(average), 0.0), start=score)[inside]
    if not np.isfinite(observed).all():
        return None
    out = np.diag(np.diag(average))
    out[inside] = _positive(observed, average[inside])
    return out


def _positive(observed: FloatArray, average: FloatArray) -> FloatArray:
    """Return the observed information with the eigenvalues that it has in units of the average one made positive."""
    scale = np.sqrt(np.diag(average))
    values, vectors = np.linalg.eigh(average / scale[:, None] / scale)
    root = scale[:, None] * vectors * np.sqrt(np.maximum(values, 1e-12 * values.max(initial=0.0)))
    inverse = np.linalg.inv(root)
    values, vectors = np.linalg.eigh(inverse @ observed @ inverse.T)
    W = root @ vectors
    return np.asarray((W * np.maximum(np.abs(values), _FLOOR)) @ W.T)
