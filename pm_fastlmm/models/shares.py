"""The variables of `lmm_model` under a `SharePrior`, and the covariances of its terms made of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.matrices import Unstructured
from pm_fastlmm.covariance.structures import Diagonal, Scalar
from pm_fastlmm.covariance.theta import RESIDUAL
from pm_fastlmm.models.correlated_terms import CorrelatedTerms
from pm_fastlmm.models.mixed_design import MixedDesign
from pm_fastlmm.models.mixed_parts import Part, parts_of
from pm_fastlmm.models.mixed_terms import column_root
from pm_fastlmm.models.random_terms import RandomTerm
from pm_fastlmm.models.share_prior import SharePrior

VARIABLES = ("total", "portion", "h2", "share", "component")


class Shares(NamedTuple):
    """
    The variances of all components, registered in the model of the context.

    A Dirichlet is a product of Betas: portion_j ~ Beta(α_j, Σ_{i > j} α_i) is what component j takes of what those
    before it leave. Portions vary on their own, as the elements of a simplex do not, and REML is a point of them.
    """

    variance: dict[str, Any]
    eta: float
    mean_weight: float

    @classmethod
    def of(cls, design: MixedDesign, prior: SharePrior, residual_variance: float, mean_weight: float) -> Self:
        """Register total, portions and shares; with prior weights they are those of an observation of mean weight."""
        components = [name for random in design.random for name in components_of(random)] + [RESIDUAL]
        alpha = prior.alpha(components)
        scale = residual_variance if prior.total_scale is None else prior.total_scale
        total = pm.InverseGamma("total", np.float64(prior.total_shape), np.float64(scale))
        after = np.cumsum(alpha[::-1])[::-1][1:]
        one = len(after) == 1
        name, a, b = ("h2", alpha[0], after[0]) if one else ("portion", alpha[:-1], after)
        portions = pm.Beta(name, a, b)
        left: Any = pt.constant(1.0, dtype="float64")
        shares = []
        for portion in [portions] if one else [portions[j] for j in range(len(after))]:
            shares.append(portion * left)
            left = (1 - portion) * left
        shares.append(left)
        pm.modelcontext(None).add_coord("component", components)
        pm.Deterministic("share", pt.stack(shares), dims="component")
        variances = {name: share * total for name, share in zip(components, shares, strict=True)}
        return cls(variances, prior.eta, mean_weight)

    def residual(self) -> Any:
        """Report σ_e, and return its square."""
        sigma2_e = self.variance[RESIDUAL] * np.float64(self.mean_weight)
        pm.Deterministic("sigma_e", pt.sqrt(sigma2_e))
        return sigma2_e

    def within(self, random: RandomTerm | CorrelatedTerms, part: Part, weights: Mapping[str, FloatArray]) -> Covariance:
        """Return the covariance of the effects of a part within a level; K_ii of row i is its weight."""
        assert isinstance(random, RandomTerm)  # others were refused
        root = column_root(random, part.columns, weights[random.group])
        variances = [self.variance[component] for component in _components(random, part)]
        sigma, dim = f"sigma_{part.suffix}", f"{part.suffix}_effects"
        if len(variances) == 1:
            own = variances[0] / root[0, 0] ** 2
            pm.Deterministic(sigma, pt.sqrt(own))
            return Scalar(own, size=1)
        part.add_coords(random)
        if not part.correlated:
            own = pt.stack(variances) / (root**2).sum(axis=0)
            pm.Deterministic(sigma, pt.sqrt(own), dims=dim)
            return Diagonal(own)
        cov = self._correlated(part, root, pt.sqrt(pt.stack(variances)))
        sd = pt.sqrt(pt.diag(cov))
        pm.Deterministic(sigma, sd, dims=dim)
        pm.Deterministic(f"corr_{part.suffix}", (cov / sd / sd[:, None])[part.pairs], dims=f"{part.suffix}_pairs")
        return Unstructured(cov, size=len(variances))

    def _correlated(self, part: Part, root: FloatArray, deviations: Any) -> Any:
        """Return TTᵀ, T = R⁻¹ diag(deviations) C: the columns UR⁻¹ are orthogonal, of mean square 1."""
        c = len(part.columns)
        # LKJ(η) by partial correlations 2x - 1, those given the columns before the first (Lewandowski et al. 2009)
        a = self.eta + (c - 2 - part.pairs[0]) / 2
        partial = 2 * pm.Beta(f"partial_{part.suffix}", a, a, shape=a.shape, dims=f"{part.suffix}_pairs") - 1
        T = pt.constant(np.linalg.inv(root)) @ (deviations[:, None] * _correlation_root(partial, part))
        return T @ T.T


def components_of(random: RandomTerm | CorrelatedTerms) -> list[str]:
    """Return the names of the shares of a term."""
    return [name for part in parts_of(random) for name in _components(random, part)]


def _components(random: RandomTerm | CorrelatedTerms, part: Part) -> list[str]:
    if len(random.columns) == 1:
        return [random.group]
    return [f"{random.group}[{random.columns[j]}]" for j in part.columns]


def _correlation_root(partial: Any, part: Part) -> Any:
    """Return the Cholesky factor of the correlation matrix of partial correlations."""
    c, place = len(part.columns), {pair: k for k, pair in enumerate(zip(*part.pairs, strict=True))}
    rows = []
    for i in range(c):
        left, row = pt.constant(1.0, dtype="float64"), []
        for j in range(i):
            p = partial[place[j, i]]
            row.append(p * left)
            left = left * pt.sqrt(1 - p**2)
        rows.append(pt.stack([*row, left, *[pt.zeros_like(left)] * (c - 1 - i)]))
    return pt.stack(rows)
