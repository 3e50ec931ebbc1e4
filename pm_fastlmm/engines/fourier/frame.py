"""The coordinates in which X and y are added up, so that sums of squares lose nothing to offsets and trends."""

from typing import NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, frozen

_RTOL = 1e-8  # of a singular value of X in the first block, below which its direction keeps its own scale


class Frame(NamedTuple):
    """
    X̃ = X T, orthonormal columns (times √n) on the first block; ỹ = y - Xb, b its least squares coefficients.

    The restricted likelihood is that of (X, y) but for log|T|. Statistics in two frames are brought into one exactly:
    [X̃ ỹ] of the one is [X̃ ỹ] of the other times a small matrix.

    Attributes
    ----------
    transform : (r, r) array
        T.
    offset : (r,) array
        b.
    """

    transform: FloatArray
    offset: FloatArray

    @classmethod
    def of_block(cls, X: FloatArray, y: FloatArray) -> "Frame":
        """Return the frame of a first block; directions that X does not have there keep the scale of its columns."""
        r = X.shape[1]
        if not r or not len(X):
            return cls(frozen(np.eye(r)), frozen(np.zeros(r)))
        scale = np.sqrt((X**2).mean(axis=0))
        scale[scale == 0] = 1.0
        triangle = np.linalg.qr(X / (scale * np.sqrt(len(X))), mode="r")
        _, s, Vt = np.linalg.svd(triangle, full_matrices=True)
        s = np.concatenate([s, np.zeros(r - len(s))])
        present = s > _RTOL * s[0]
        T = (Vt.T / np.where(present, s, 1.0)) / scale[:, None]
        along = (X @ T[:, present]).T @ y / len(X)
        return cls(frozen(T), frozen(T[:, present] @ along))

    def improved(self, gram: FloatArray, n: int) -> "Frame":
        """Return the frame of all n rows that have the inner products `gram` of [X̃ ỹ] in this one."""
        r = self.size
        values, vectors = np.linalg.eigh(gram[:r, :r] / n)
        present = values > _RTOL**2 * values.max(initial=0.0)
        turned = vectors / np.sqrt(np.where(present, values, 1.0))
        along = turned[:, present] @ (turned[:, present].T @ gram[:r, r] / n)
        return Frame(frozen(self.transform @ turned), frozen(self.offset + self.transform @ along))

    @property
    def size(self) -> int:
        """r, the number of columns of X."""
        return int(self.offset.size)

    def columns(self, X: FloatArray, y: FloatArray) -> FloatArray:
        """Return [X̃ ỹ], (n, r + 1)."""
        return np.column_stack([X @ self.transform, y - X @ self.offset])

    def to(self, other: "Frame") -> FloatArray:
        """Return the (r + 1, r + 1) matrix by which [X̃ ỹ] of this frame becomes that of the other."""
        r = self.size
        move = np.eye(r + 1)
        if r:
            right = np.column_stack([other.transform, self.offset - other.offset])
            move[:r] = np.linalg.solve(self.transform, right)
        return move
