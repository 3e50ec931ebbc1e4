"""The relation between the levels of an effect by a root of its covariance, A = RRᵀ, in graphs of PyTensor."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import EPS, FloatArray, Ids, frozen, read, require_finite
from pm_fastlmm.covariance.matrices import Known, known
from pm_fastlmm.covariance.parameters import is_tensor
from pm_fastlmm.covariance.places import effects_of
from pm_fastlmm.covariance.precision import Descended, Precision, factor_of
from pm_fastlmm.engines.algebra import product
from pm_fastlmm.engines.related.operations import Forward
from pm_fastlmm.sparse.maps import Dense, Descent, HalfSolve, LinearMap, Symmetric, TriangularSolve


@dataclass(frozen=True, slots=True, eq=False)
class Root:
    """
    R of A = RRᵀ, (q, m), and A⁻¹ where there is one.

    Attributes
    ----------
    labels : tuple or None
        What the q levels are called.
    size, innovations : int
        q and m.
    root : LinearMap or None
        R; None is the identity.
    inverse, whitening : LinearMap or None
        A⁻¹, or M with A⁻¹ = MᵀM; one of them, unless A = I.
    logdet : float or None
        log|A|, None of a singular A.
    """

    labels: Ids | None
    size: int
    innovations: int
    root: LinearMap | None = None
    inverse: LinearMap | None = None
    whitening: LinearMap | None = None
    logdet: float | None = None

    def forward(self, z: Any) -> Any:
        """Return Rz of white noise z (m, c)."""
        return z if self.root is None else Forward(self.root)(z)

    def squares(self, u: Any) -> Any:
        """Return uᵀA⁻¹u of u (q, c)."""
        if self.inverse is not None:
            return product(u.T, Forward(self.inverse)(u))
        white = u if self.whitening is None else Forward(self.whitening)(u)
        return product(white.T, white)


def root_of(relation: Any, W: Any) -> Root:
    """
    Return the root of a relation, or of the covariance WWᵀ.

    Raises
    ------
    ValueError
        If not exactly one is given, or it is not what it should be.
    """
    if (relation is None) == (W is None):
        raise ValueError(
            "give exactly one of relation (a pedigree, a tree, another precision, a covariance K, or the column of "
            "groups) and W= (a factor of the covariance, K = WWᵀ)."
        )
    if W is not None:
        return _of_factor(W)
    if isinstance(relation, Precision):
        return _of_precision(relation)
    if np.ndim(relation) == 2:
        return _of_covariance(relation)
    labels = effects_of(relation)
    q = len(labels or ())
    return Root(labels, q, q, logdet=0.0)


def _of_precision(precision: Precision) -> Root:
    q = len(precision)
    root: LinearMap
    if isinstance(precision, Descended):
        root = Descent(precision.genealogy)
    else:
        root = HalfSolve(factor_of(precision.Q, precision.labels))
    return Root(precision.labels, q, q, root, inverse=Symmetric(precision.Q), logdet=precision.logdet)


def _of_covariance(K: Any) -> Root:
    if not is_tensor(K) and np.shape(K)[0] != np.shape(K)[1]:
        raise ValueError(
            f"relation has shape {np.shape(K)}, and is no covariance: a factor of it, K = WWᵀ, is given as W=."
        )
    read_in = known(K)
    assert isinstance(read_in, Known)
    R, K = read_in.root, read_in.K
    if (np.diag(R) ** 2 <= len(R) * EPS * np.diag(K)).any() or np.triu(R, 1).any():  # singular but for rounding
        return Root(read_in.labels, len(R), len(R), Dense(R))
    logdet = 2 * float(np.log(np.diag(R)).sum())
    return Root(read_in.labels, len(R), len(R), Dense(R), whitening=TriangularSolve(R), logdet=logdet)


def _of_factor(W: Any) -> Root:
    labelled = read(W, "W", ndim=(2,))
    require_finite(labelled.values, "W", "a factor of a covariance has no missing entries.")
    values: FloatArray = frozen(np.array(labelled.values, order="C"))
    return Root(labelled.ids, len(values), values.shape[1], Dense(values))
