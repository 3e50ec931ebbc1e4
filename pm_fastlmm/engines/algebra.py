"""Graphs that the random variables share: products of small matrices, noise, and what is along X."""

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.builders import OpFromGraph
from pytensor.tensor.random.basic import normal

from pm_fastlmm.engines.callbacks import CalledBack, Shape, given_or_zero
from pm_fastlmm.spectrum.sparse_projection import AnyProjection


def times(M: Any, v: Any) -> Any:
    """Return Mv as a sum of products, which compiles in a second where a matrix product takes twenty."""
    return (M * v[..., None, :]).sum(-1)


def product(A: Any, B: Any) -> Any:
    """Return AB in the same way."""
    return (A[..., :, :, None] * B[..., None, :, :]).sum(-2)


def inverse_logdet(A: Any) -> Any:
    """
    Return A⁻¹ and log|A| of a small symmetric matrix, with the closed-form gradient.

    The automatic gradient of an inverse is rewritten into four triangular solves, which take 40 s to compile; this one,
    log|A| ↦ A⁻¹ and A⁻¹ ↦ -A⁻¹(·)A⁻¹, reuses the inverse and can itself be differentiated.
    """

    def pullback(inputs: Any, outputs: Any, gradients: Any) -> list[Any]:
        inverse, _ = outputs
        d_inverse, d_logdet = given_or_zero(outputs, gradients)
        return [d_logdet[..., None, None] * inverse - product(product(inverse, d_inverse), inverse)]

    matrix = A.type()
    outputs = [pt.linalg.inv(matrix), pt.linalg.slogdet(matrix)[1]]
    return OpFromGraph([matrix], outputs, inline=True, pullback=pullback, name="InverseLogdet")(A)


def col(v: Any) -> Any:
    """Return numbers as factors of vectors."""
    return v[..., None]


def white_noise(rng: Any, batch: Any, *lengths: int) -> tuple[Any, list[Any]]:
    """Return the next generator, and white noise in parts of these lengths."""
    next_rng, xi = normal(0.0, 1.0, size=(*batch, sum(lengths)), rng=rng, return_next_rng=True)
    ends = np.cumsum(lengths)
    return next_rng, [xi[..., end - length : end] for end, length in zip(ends, lengths, strict=True)]


class SparseColumnsTimes(CalledBack):
    """Xb of a sparse X, b (…, r)."""

    def evaluate(self, b: Any) -> Any:
        """Return Xb."""
        return [_by_columns(self.data.times, b)]

    def shapes(self, b: Shape) -> list[Shape]:
        """Return that of Xb."""
        return [(*b[:-1], self.data.n)]

    def gradients(self, apply: Any, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return Xᵀ times the cotangent."""
        return [apply(SparseRowsTimes(self.held))(cotangents[0])]


class SparseRowsTimes(CalledBack):
    """Xᵀv of a sparse X, v (…, n)."""

    def evaluate(self, v: Any) -> Any:
        """Return Xᵀv."""
        return [_by_columns(self.data.transposed, v)]

    def shapes(self, v: Shape) -> list[Shape]:
        """Return that of Xᵀv."""
        return [(*v[:-1], self.data.rank)]

    def gradients(self, apply: Any, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return X times the cotangent."""
        return [apply(SparseColumnsTimes(self.held))(cotangents[0])]


class LessSparseColumns(CalledBack):
    """What of y (…, n) is orthogonal to a sparse X; it is drawn, and not differentiated."""

    def evaluate(self, y: Any) -> Any:
        """Return My."""
        return [_by_columns(lambda v: self.data.apart(v)[1], y)]

    def shapes(self, y: Shape) -> list[Shape]:
        """Return that of y."""
        return [y]


def _by_columns(function: Any, v: Any) -> Any:
    """Return a function of columns (k, m) of the last axis of v."""
    values = np.asarray(v, dtype=float)
    out = function(values.reshape(-1, values.shape[-1]).T).T
    return out.reshape(*values.shape[:-1], -1)


def along_columns(projection: AnyProjection, b: Any) -> Any:
    """Return Xb."""
    if projection.sparse:
        return SparseColumnsTimes(projection)(b)
    return times(pt.constant(projection.Q1), times(pt.constant(projection.R), b))


def less_columns(projection: AnyProjection, y: Any) -> Any:
    """Return My, what of y is orthogonal to X."""
    if projection.sparse:
        return LessSparseColumns(projection)(y)
    Q = pt.constant(projection.Q1)
    return y - times(Q, times(Q.T, y))
