"""The variables of `lmm_model` under priors on standard deviations, and the covariances of its terms made of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.matrices import CholeskyFactored
from pm_fastlmm.covariance.structures import Diagonal, Scalar
from pm_fastlmm.models.correlated_terms import CorrelatedTerms
from pm_fastlmm.models.mixed_parts import Part
from pm_fastlmm.models.mixed_terms import column_root
from pm_fastlmm.models.random_terms import RandomTerm
from pm_fastlmm.models.residual_term import ResidualTerm

_ETA = 2.0  # of the LKJ prior: it favours small correlations without excluding large ones
_WIDTH = 2.0  # of a half-normal prior, in residual standard deviations


class Deviations(NamedTuple):
    """
    Half-normal standard deviations on the scale of the data, or priors of the user.

    Attributes
    ----------
    residual_sd : float
        s of the least-squares fit.
    priors : dict
        By the name of the variable.
    mean_weight : float
        The prior weight of the observation that s belongs to: σ²_e is the variance of e at weight 1.
    """

    residual_sd: float
    priors: Mapping[str, Any]
    mean_weight: float = 1.0

    def residual(self) -> Any:
        """Register σ_e, and return its square."""
        width = _WIDTH * self.residual_sd * math.sqrt(self.mean_weight)
        return pt.square(self._standard_deviation("sigma_e", width))

    def within(self, random: RandomTerm | CorrelatedTerms, part: Part, weights: Mapping[str, FloatArray]) -> Covariance:
        """
        Register the variables of a part, and return the covariance of its effects within a level.

        Weights are those of rows for each grouping factor, K_ii of its level at the relative weight of the row.
        """
        scales = [
            _WIDTH * self.residual_sd / math.sqrt(weights[member.group].mean()) * _column_scales(member, columns)
            for member, columns in random.by_member(part.columns)
        ]
        return self._of_scales(random, part, np.concatenate(scales))

    def noise(self, residual: ResidualTerm, sd: FloatArray) -> Covariance:
        """Register the variables of Σ_e, of the residual standard deviation of each coordinate at the mean weight."""
        scales = np.asarray(_WIDTH * sd * math.sqrt(self.mean_weight))
        return self._of_scales(residual.random, residual.part, scales)

    def _of_scales(self, random: RandomTerm | CorrelatedTerms, part: Part, scales: FloatArray) -> Covariance:
        sigma, dim = f"sigma_{part.suffix}", f"{part.suffix}_effects"
        if len(part.columns) == 1:
            return Scalar(pt.square(self._standard_deviation(sigma, scales[0])), size=1)
        part.add_coords(random)
        if not part.correlated:
            return Diagonal(pt.square(self._standard_deviation(sigma, scales, dims=dim)))
        sd = pm.HalfNormal.dist(scales, shape=scales.shape)
        if sigma in self.priors:
            sd = _checked_prior(sigma, self.priors[sigma], scales.shape)
        eta = self.priors.get(f"eta_{part.suffix}", _ETA)
        # start at independent effects of a fourth of the scale: PyMC's own takes seconds to compile, and a C compiler
        start = np.diag(scales / 4)[np.tril_indices(len(scales))].astype(pytensor.config.floatX)
        options = {"n": len(scales), "sd_dist": sd, "compute_corr": True, "store_in_trace": False, "initval": start}
        chol, corr, stds = pm.LKJCholeskyCov(f"chol_{part.suffix}", eta=eta, **options)
        pm.Deterministic(sigma, stds, dims=dim)
        # one number for each pair: ones along a diagonal would have no r-hat, and warn in every summary
        pm.Deterministic(f"corr_{part.suffix}", corr[part.pairs], dims=f"{part.suffix}_pairs")
        return CholeskyFactored(chol)

    def _standard_deviation(self, name: str, scale: Any, dims: str | None = None) -> Any:
        """Register σ with its default prior or with that of the user."""
        shape = np.shape(scale)
        if name not in self.priors:
            return pm.HalfNormal(name, scale, shape=shape, dims=dims)
        return pm.modelcontext(None).register_rv(_checked_prior(name, self.priors[name], shape), name, dims=dims)


def _checked_prior(name: str, prior: Any, shape: tuple[int, ...]) -> Any:
    if not hasattr(prior, "owner") or not hasattr(prior, "type"):
        raise TypeError(
            f"the prior of {name} must be an unregistered distribution, such as pm.Exponential.dist(1), "
            f"got {type(prior).__name__}."
        )
    if prior.type.shape != shape:
        raise ValueError(
            f"the prior of {name} has shape {prior.type.shape}, but {name} has shape {shape}: give its distribution "
            f"shape={shape}."
        )
    return prior


def _column_scales(random: RandomTerm, columns: Sequence[int]) -> FloatArray:
    """Return c, the square roots of the diagonal of (UᵀU/n)⁻¹ = R⁻¹R⁻ᵀ, which is 1 for an intercept."""
    if random.intercept_only:
        return np.ones(1)
    inverse = np.linalg.inv(column_root(random, columns, np.ones(len(random.values))))
    return np.asarray(np.linalg.norm(inverse, axis=1))
