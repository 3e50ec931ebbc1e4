"""
Prior weights: observations whose residual variance is σ²_e/w_i.

With W = diag(w), rows times √w have one residual variance, √w y ~ N(√w Xβ, √w ZGZᵀ√w + σ²_eI): an engine of equal
variances works with them, and its log-density lacks Σ log √w, the Jacobian of y ↦ √w y. What it says of √w y is divided
by √w.
"""

from typing import Any, NamedTuple, Self

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray, Ids, align, frozen, read, require_length, shown
from pm_fastlmm.spectrum.projection import Projection


class PriorWeights(NamedTuple):
    """
    What weights do to rows; without any, nothing.

    Attributes
    ----------
    root : (n,) array or None
        √w; None where all weights are 1.
    """

    root: FloatArray | None = None

    @classmethod
    def read(cls, weights: Any, n: int, ids: Ids | None = None, reference_name: str = "the terms") -> Self:
        """
        Read weights, a labelled array in the order of the ids; None are no weights.

        Raises
        ------
        ValueError
            If a weight is missing, infinite or not positive, or their number or ids do not fit.
        """
        if weights is None:
            return cls()
        given = read(weights, "weights", ndim=(1,))
        require_length(given.values.size, n, "weights", reference_name)
        given_ids = ids if ids is not None else given.ids
        values = given.take(align(ids, given, name="weights", reference_name=reference_name))
        require_weights(values, given_ids)
        return cls(frozen(np.sqrt(values)))

    @property
    def values(self) -> Any:
        """The weights (n,), or 1."""
        return 1.0 if self.root is None else self.root**2

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.values))

    @property
    def logdet(self) -> float:
        """Σ log √w, which the log-density of √w y lacks to be that of y."""
        return 0.0 if self.root is None else float(np.log(self.root).sum())

    def scaled(self, y: Any) -> Any:
        """Return √w y, of values (…, n)."""
        return y if self.root is None else y * self.root

    def unscaled(self, y: Any) -> Any:
        """Return what stands for y where `y` (…, n) stands for √w y."""
        return y if self.root is None else y / self.root

    def rows(self, Z: Any) -> Any:
        """Return √w Z of an array (n, …) or a sparse matrix (n, q)."""
        if self.root is None:
            return Z
        if isinstance(Z, np.ndarray):
            return Z * self.root.reshape(-1, *[1] * (Z.ndim - 1))
        return sp.csr_array(sp.diags_array(self.root) @ Z)

    def unscaled_rows(self, Z: FloatArray) -> FloatArray:
        """Return Z (n, q) from √w Z."""
        return Z if self.root is None else Z / self.root[:, None]

    def matrix(self, V: FloatArray) -> FloatArray:
        """Return the covariance (n, n) of √w y from that of y."""
        return V if self.root is None else V * (self.root[:, None] * self.root)

    def projection(self, projection: Projection) -> Projection:
        """Return the projection of √w X."""
        return projection if self.root is None else projection.scaled(self.root)

    def unscaled_matrix(self, V: FloatArray) -> FloatArray:
        """Return the covariance (…, n, n) of y from that of √w y."""
        return V if self.root is None else V / (self.root[:, None] * self.root)

    def same(self, other: "PriorWeights") -> bool:
        """Return whether other weights are the same."""
        return bool(np.all(self.values == other.values))


UNWEIGHTED = PriorWeights()


def require_weights(values: FloatArray, ids: Ids | None) -> None:
    """Raise a ValueError that names the rows whose weight is missing, infinite or not positive."""
    names: Any = range(len(values)) if ids is None else ids
    wrong = {
        "missing": (np.isnan(values), "leave those rows out, or give them a weight"),
        "infinite": (np.isinf(values), "an observation without residual variance is none of this model"),
        "0": (values == 0, "an observation of weight 0 has an infinite variance and says nothing: leave the row out"),
        "negative": (values < 0, "the residual variance of an observation is σ²/w"),
    }
    for what, (rows, remedy) in wrong.items():
        if rows.any():
            raise ValueError(
                f"weights are {what} in rows {shown([names[i] for i in np.flatnonzero(rows)])}: they must be positive "
                f"numbers; {remedy}."
            )
