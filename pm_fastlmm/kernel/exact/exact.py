"""The exact posterior of one kernel by quadrature over h², for one response or thousands."""

from typing import Any

import numpy as np

from pm_fastlmm.kernel.exact.deviation import DeviationPosterior
from pm_fastlmm.kernel.exact.deviation_prior import Prior, check_prior
from pm_fastlmm.kernel.exact.quadrature import integrate
from pm_fastlmm.kernel.exact.result import ExactPosterior
from pm_fastlmm.kernel.likelihood.prior import VariancePrior, shares
from pm_fastlmm.kernel.reml.fit import plain
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum, as_rotated
from pm_fastlmm.spectrum.streams.factor import imprecision


def exact_posterior(spectrum: Spectrum, y: Any, *, prior: Prior | None = None) -> ExactPosterior:
    """
    Compute the posterior of y ~ N(Xβ, σ²(K + δI)) by quadrature, β flat, for one response or thousands.

    Parameters
    ----------
    spectrum : Spectrum
        K and X, factored once, with the prior weights where there are any; h2 and total are then those of an
        observation of mean weight, sigma2_e and delta at weight 1.
    y : array, Series, DataFrame, DataArray or Rotated
        One response (n,), or several (n, T); Dask and stored arrays are read into memory, up to 2 GB.
    prior : VariancePrior or DeviationPrior, optional
        Default `VariancePrior.scaled_to` for each response, the prior of `kernel_model`. On the standard deviations
        instead: `DeviationPrior`.

    Returns
    -------
    ExactPosterior
        One object, also for several responses, whose methods then return arrays. A response of several that has no
        posterior is labelled in `message`.

    Raises
    ------
    ValueError
        If y does not fit the spectrum or is a Dask or stored array of more than 2 GB, K is zero orthogonal to X, or one
        response has no posterior.

    Notes
    -----
    With e_i = h²λ_i/k̄ + 1 - h² the total variance integrates out (Zellner 1971), and the integral over logit h² is a
    trapezoidal sum, which converges geometrically. Its nodes follow the width that a posterior can have, about n^-½.
    Under a `DeviationPrior` the total is integrated out by a second sum, over log total at each node.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> batch = np.repeat(np.eye(3), 4, axis=0)
    >>> spectrum = flmm.Spectrum.from_factor(batch, np.ones((12, 1)))
    >>> posterior = flmm.exact_posterior(
    ...     spectrum, np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    ... )
    >>> print(f"{posterior.mean('h2'):.3f} {posterior.sd('h2'):.3f}")
    0.826 0.122
    """
    rotated = as_rotated(spectrum, y)
    s = rotated.spectrum
    check_prior(prior)
    several = rotated.names is not None
    if not s.rank:
        raise ValueError("K is zero orthogonal to X: the data say nothing about h², whose posterior is its prior.")
    if prior is None:
        prior = VariancePrior.scaled_to_each(rotated) if several else VariancePrior.scaled_to(rotated)
    message = _improper(rotated, prior)
    if not several and message[0]:
        raise ValueError(f"{message[0]}.")
    x, dx, log_density, scale, log_mass, log_none = integrate(rotated, prior.at_weight_1(s.mean_weight))
    failed = message != ""
    at_mode = x[np.argmax(np.where(np.isfinite(log_density), log_density, -np.inf), axis=-1)]
    imprecision(rotated, *(np.squeeze(v) for v in (shares(at_mode)[0] / s.mean_diagonal, shares(at_mode)[1])))
    log_density[failed] = np.nan
    evidence, factor = log_mass + s.log_flat, log_mass - log_none
    evidence[failed | (not prior.proper)] = factor[failed] = np.nan
    weights = np.exp(log_density) * dx
    weights /= weights.sum(axis=-1, keepdims=True)  # the logarithm of a mass far from 1 has rounding of its own
    own = slice(None) if several else 0
    kind: type[ExactPosterior] = ExactPosterior if isinstance(prior, VariancePrior) else DeviationPosterior
    return kind(
        x=x,
        weights=weights[own],
        log_density=log_density[own],
        shape=(prior.total_shape if isinstance(prior, VariancePrior) else 0.0) + s.df / 2,
        scale=scale[own],
        log_evidence=plain(evidence[own]),
        log_bayes_factor=plain(factor[own]),
        message=message[own],
        names=rotated.names,
        prior=prior,
        rotated=rotated,
    )


def _improper(rotated: Rotated, prior: Prior) -> Any:
    """Return for each response why it has no posterior, empty where it has one."""
    s = rotated.spectrum
    message = np.full(np.atleast_1d(rotated.rss).shape, "", dtype=object)
    if s.nullity and (s.nullity >= 2 * prior.h2_beta or not prior.proper):
        message[np.atleast_1d(rotated.rss) == 0] = (
            "the posterior is improper, because K and X explain y exactly and nothing bounds h² away from 1: "
            "use a K of lower rank, or more observations"
        )
    message[np.atleast_1d(rotated.norm2) == 0] = (
        "y has no residual variance after X: there is nothing to estimate a variance from"
    )
    return message
