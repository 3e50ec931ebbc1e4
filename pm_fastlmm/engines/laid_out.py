"""LaidOut: what a likelihood over the parameters of terms has, whatever the response."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pm_fastlmm.aireml.cone import PackedMatrix, pack
from pm_fastlmm.aireml.face import Face
from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.display import listed
from pm_fastlmm.covariance.theta import NOISE, Theta

_CLOSE = 1e-3  # smallest eigenvalue of the products of columns of length 1 that are nearly collinear


@dataclass(frozen=True, eq=False)
class LaidOut(Objective):
    """
    ℓ over θ whose first elements are those of a layout.

    An unstructured Σ is walked in its elements, in which V is linear, so that the score does not vanish where Σ becomes
    singular; steps keep it in the cone of positive semi-definite matrices (`cone`) or on a face of it (`face`).

    Attributes
    ----------
    products : TermProducts
    layout : Theta
    """

    products: Any
    layout: Theta

    @property
    def variances(self) -> Any:
        """Which elements of θ are variances: diagonals of matrices, and what has a variance's bounds."""
        own = (self.layout.lower == 0) & np.isinf(self.layout.upper)
        return np.concatenate([own, np.zeros(len(self.names) - self.layout.size, dtype=bool)])

    @cached_property
    def matrices(self) -> list[PackedMatrix]:
        """The unstructured matrices among θ."""
        return [PackedMatrix(e.place, e.shape[0], e.called) for e in self.layout.entries if e.matrix]

    def face(self, theta: FloatArray, information: FloatArray) -> Face | None:
        """Return coordinates in which the matrices keep the rank that they have at θ."""
        return Face.of(theta, information, self.semidefinite, self.internal_lower, self.internal_upper, self.fixed)

    def advice(self) -> str:
        """Name terms whose columns within a level are nearly collinear, which makes their matrix hard to find."""
        close = []
        for entry in (e for e in self.layout.entries if e.matrix and e.term != NOISE):
            gram = self.products.mean_gram(entry.term)[entry.part, entry.part]
            scale = 1 / np.sqrt(np.diag(gram))
            if np.linalg.eigvalsh(gram * scale[:, None] * scale)[0] < _CLOSE:
                close.append(entry.called)
        if not close:
            return ""
        return (
            f"the columns of {listed(close)} are nearly collinear, as intercept and slope of a covariate far from 0 "
            "are: centre it, as center(x) does"
        )

    def em(self, omega: FloatArray, score: FloatArray) -> FloatArray | None:
        """
        Return the EM step of variances and unstructured matrices, Σ + (2/levels) Σ(∂ℓ/∂Σ)Σ.

        It never lowers a Gaussian likelihood and keeps Σ definite (Foulley & van Dyk 2000,
        doi:10.1186/1297-9686-32-2-129).
        """
        theta = self.external(omega)
        new, variance = theta.copy(), self.variances
        for entry in self.layout.entries:
            if self.fixed[entry.place].any():
                continue
            if entry.matrix:
                matrix, own = PackedMatrix(entry.place, entry.shape[0]), entry.term == NOISE
                levels = self.products.records.total if own else self.products.blocks[entry.term].levels
                S, G = matrix.read(theta), matrix.read(score)
                G = (G + np.diag(np.diag(G))) / 2  # elements off the diagonal stand for two
                new[entry.place] = pack(S + 2 / levels * S @ G @ S)
            elif variance[entry.place].all():
                effects = self._effects(entry.term)[entry.part]
                count = effects if entry.shape == effects.shape else effects.sum()
                old = theta[entry.place]
                least = 1e-12 * old if entry.term == NOISE else 0.0
                new[entry.place] = np.maximum(old + 2 / count * old**2 * score[entry.place], least)
        return self.internal(new)

    def _effects(self, k: int) -> FloatArray:
        """Return how many effects each column of a term has, or residuals each coordinate, (width,)."""
        if k == NOISE:
            records = self.products.records
            return np.asarray(records.counts * (self.n / records.n))
        block = self.products.blocks[k]
        return np.full(block.width, float(block.levels))
