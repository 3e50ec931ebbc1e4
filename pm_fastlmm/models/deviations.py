"""The variables of `lmm_model` under priors on standard deviations, and the covariances of its terms made of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

from pm_fastlmm.base.arrays import FloatArray, shown
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.matrices import CholeskyFactored
from pm_fastlmm.covariance.structures import Diagonal, Scalar
from pm_fastlmm.models.correlated_terms import CorrelatedTerms
from pm_fastlmm.models.mixed_parts import Part
from pm_fastlmm.models.mixed_terms import column_root
from pm_fastlmm.models.random_terms import RandomTerm
from pm_fastlmm.models.residual_term import ResidualTerm

_ETA = 2.0  # of the LKJ prior: it favours small correlations without excluding large ones
WIDTH = 2.0  # of a half-normal prior, in residual standard deviations


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
    scales : dict
        Of half-normal priors, by the name of the variable, in place of those that follow from s.
    """

    residual_sd: float
    priors: Mapping[str, Any]
    mean_weight: float = 1.0
    scales: Mapping[str, FloatArray] = MappingProxyType({})

    def residual(self) -> Any:
        """Register σ_e, and return its square."""
        width = WIDTH * self.residual_sd * math.sqrt(self.mean_weight)
        return pt.square(self._standard_deviation("sigma_e", width))

    def within(self, random: RandomTerm | CorrelatedTerms, part: Part, weights: Mapping[str, FloatArray]) -> Covariance:
        """
        Register the variables of a part, and return the covariance of its effects within a level.

        Weights are those of rows for each grouping factor, K_ii of its level at the relative weight of the row.
        """
        scales = [
            WIDTH * self.residual_sd / math.sqrt(weights[member.group].mean()) * column_scales(member, columns)
            for member, columns in random.by_member(part.columns)
        ]
        return self._named(part, np.concatenate(scales), random.columns)

    def noise(self, residual: ResidualTerm, sd: FloatArray) -> Covariance:
        """Register the variables of Σ_e, of the residual standard deviation of each coordinate at the mean weight."""
        scales = np.asarray(WIDTH * sd * math.sqrt(self.mean_weight))
        return self._named(residual.part, scales, residual.random.columns)

    def _named(self, part: Part, scales: FloatArray, columns: Sequence[str]) -> Covariance:
        scales = self.scales.get(f"sigma_{part.suffix}", scales)
        if len(part.columns) == 1:
            return Scalar(pt.square(self._standard_deviation(f"sigma_{part.suffix}", scales[0])), size=1)
        return self.matrix(part, scales, columns, f"{part.suffix}_effects")

    def matrix(self, part: Part, scales: FloatArray, columns: Sequence[str], dim: str) -> Covariance:
        """
        Register the variables of a covariance matrix, and return it.

        Parameters
        ----------
        part : Part
            Whether they are correlated, and what follows their names, "sigma_" and "chol_".
        scales : (c,) array
            Of the half-normal standard deviations.
        columns : sequence of str
            Names of all columns, of which the part has some.
        dim : str
            The dimension of the standard deviations.
        """
        sigma = f"sigma_{part.suffix}"
        part.add_coords(columns, dim)
        if not part.correlated:
            return Diagonal(pt.square(self._standard_deviation(sigma, scales, dims=dim)))
        sd = pm.HalfNormal.dist(scales, shape=scales.shape)
        if sigma in self.priors:
            sd = checked_prior(sigma, self.priors[sigma], scales.shape)
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
        return pm.modelcontext(None).register_rv(checked_prior(name, self.priors[name], shape), name, dims=dims)


def require_priors(given: Iterable[str], names: Sequence[str]) -> None:
    """Raise a ValueError for priors of variables that the model has not."""
    if unknown := [prior for prior in given if prior not in names]:
        raise ValueError(f"priors names {shown(unknown)}, but there are {', '.join(names)}.")


def checked_prior(name: str, prior: Any, shape: tuple[int, ...]) -> Any:
    """Return a prior of the user; an error says what it should be where it is no distribution of this shape."""
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


def column_scales(random: RandomTerm, columns: Sequence[int]) -> FloatArray:
    """Return c, the square roots of the diagonal of (UᵀU/n)⁻¹ = R⁻¹R⁻ᵀ, which is 1 for an intercept."""
    if random.intercept_only:
        return np.ones(1)
    inverse = np.linalg.inv(column_root(random, columns, np.ones(len(random.values))))
    return np.asarray(np.linalg.norm(inverse, axis=1))
