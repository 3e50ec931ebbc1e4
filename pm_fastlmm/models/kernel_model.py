"""Ready-made models with documented default priors."""

from typing import Any

import numpy as np
import pymc as pm

from pm_fastlmm.base.choices import Negative
from pm_fastlmm.base.coordinates import require_labels, require_unique
from pm_fastlmm.engines.spectral.fastlmm import FastLMM
from pm_fastlmm.kernel.exact.deviation_prior import DeviationPrior, Prior, check_prior
from pm_fastlmm.kernel.likelihood.prior import VariancePrior
from pm_fastlmm.models.design import Design
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum, as_rotated


def kernel_model(
    y: Any,
    X: Any = None,
    K: Any = None,
    *,
    W: Any = None,
    data: Any = None,
    individual: Any = None,
    weights: Any = None,
    negative: Negative = "error",
    spectrum: Spectrum | None = None,
    prior: Prior | None = None,
    name: str = "y",
) -> pm.Model:
    r"""
    Build a PyMC model of y ~ N(Xβ, σ²(K + δI)), in coordinates that NUTS samples well.

    The prior is that of `exact_posterior`: h² ~ Beta(1, 1) and total ~ InverseGamma(1, s²), s² the residual variance of
    the least-squares fit (`VariancePrior.scaled_to`); β is flat and integrated out. Of two parameterisations of that
    same prior the better one is taken: (h², total) when K has full rank, and (h², σ²_e), with
    σ²_e | h² ~ InverseGamma(1, (1 - h²)s²), when its rank is less than half of the observations, whose residual
    variance is then known far better than the total.

    Parameters
    ----------
    y : array, Series, str or Rotated
        Response; or the formula "y ~ sex + age" when `data` is given; or what `spectrum.rotate` or
        `KernelStatistics.factor` returned, when `spectrum` is given.
    X : array or DataFrame, optional
        Fixed-effects design; an intercept is not added.
    K, W : array or DataFrame
        Covariance or its factor (K = WWᵀ); exactly one, unless `spectrum` is given.
    data : DataFrame, optional
        Table for the formula; its index are the ids.
    individual : str or sequence of labels, optional
        For repeated records: the column of `data` (or the labels themselves) that says whose record each row is. K or W
        is then of individuals, and so are the effects that `recover_effects` adds, those without records too.
    weights : str or (n,) array or Series, optional
        Prior weights w, Var(e_i) = σ²_e/w_i: a column of `data`, or a value for each row (for each record, where they
        are repeated). total, h2 and their priors are those of an observation of mean weight.
    negative : {"error", "zero"}
        What becomes of negative eigenvalues of K, as in `Spectrum.from_covariance`.
    spectrum : Spectrum, optional
        In place of X, K and W, when they were factored before.
    prior : VariancePrior or DeviationPrior, optional
        Another prior; it must be proper. A `DeviationPrior` makes a model of (sigma_K, sigma_e), its two standard
        deviations.
    name : str
        Name of the response in the model.

    Returns
    -------
    pymc.Model
        With variables h2, total (or sigma2_e and the deterministic total; sigma_K, sigma_e and the deterministic h2 and
        total under a `DeviationPrior`), and the node. Rows with a missing y or X are
        dropped, with a warning that counts them.

    Notes
    -----
    One spectrum serves many responses, which have the same weights then. An offset is subtracted from y.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    >>> model = flmm.kernel_model(y, np.ones((12, 1)), W=np.repeat(np.eye(3), 4, axis=0))
    >>> [variable.name for variable in model.free_RVs]
    ['h2', 'sigma2_e']

    Means of counts of measurements, which have the variances σ²_e/count:

    >>> count = np.tile([1.0, 2, 5, 2], 3)
    >>> weighted = flmm.kernel_model(
    ...     y, np.ones((12, 1)), W=np.repeat(np.eye(3), 4, axis=0), weights=count
    ... )
    """
    responses = None
    if spectrum is None:
        kernel = {"K": K, "W": W, "individual": individual, "weights": weights}
        design = Design.from_formula(y, data, **kernel) if data is not None else Design.from_arrays(y, X, **kernel)
        spectrum, y, responses = design.spectrum(negative=negative), design.y, design.responses
    elif any(given is not None for given in (X, K, W, data, individual, weights)) or negative != "error":
        raise ValueError(
            "spectrum is given together with X, K, W, data, individual, weights or negative: it holds them already."
        )
    rotated = as_rotated(spectrum, y)
    responses = responses or rotated.names
    check_prior(prior)
    prior = VariancePrior.scaled_to(rotated) if prior is None else prior
    if not prior.proper:
        raise ValueError("the prior of a PyMC model must be proper: give total_shape and total_scale, both positive.")
    coords: dict[str, Any] = {}
    last = "statistic" if isinstance(y, Rotated) else "obs"
    if last == "obs":
        require_labels(spectrum.ids, "the ids of the observations")
        coords["obs"] = list(spectrum.ids if spectrum.ids is not None else range(spectrum.n))
    else:
        coords["statistic"] = [f"z{i}" for i in range(spectrum.rank)] + ["rss"] * bool(spectrum.nullity)
    batch = {}
    if responses is not None:
        require_unique(responses, "the names of the responses")
        coords["response"] = list(responses)
        batch = {"dims": "response"}
        if not (last == "statistic" or hasattr(y, "columns") or hasattr(y, "dims")):
            y = np.asarray(y).T  # the node's observations come last
    with pm.Model(coords=coords) as model:
        if isinstance(prior, DeviationPrior):
            variances = _deviations(prior, spectrum, batch)
        else:
            variances = _shares(prior, spectrum, batch)
        FastLMM(name, spectrum=spectrum, **variances, observed=y, dims=("response", last) if batch else last)
    return model


def _shares(prior: VariancePrior, spectrum: Spectrum, batch: dict[str, str]) -> dict[str, Any]:
    """Return the variances of a node from h² and the total, or from h² and σ²_e where the rank is low."""
    # NumPy scalars: PyTensor takes a Python float as float32, and computes the constants of a prior in that precision
    h2_alpha, h2_beta, total_shape = np.array([prior.h2_alpha, prior.h2_beta, prior.total_shape], dtype=float)
    total_scale = np.asarray(prior.total_scale, dtype=float)[()]
    h2 = pm.Beta("h2", h2_alpha, h2_beta, **batch)
    if 2 * spectrum.rank >= spectrum.df:
        return {"h2": h2, "total": pm.InverseGamma("total", total_shape, total_scale, **batch)}
    w = np.float64(spectrum.mean_weight)
    sigma2_e = pm.InverseGamma("sigma2_e", total_shape, (1 - h2) * total_scale * w, **batch)
    pm.Deterministic("total", sigma2_e / (1 - h2) / w, **batch)
    return {"sigma2_g": h2 / (1 - h2) * sigma2_e / spectrum.mean_diagonal, "sigma2_e": sigma2_e}


def _deviations(prior: DeviationPrior, spectrum: Spectrum, batch: dict[str, str]) -> dict[str, Any]:
    """Return the variances of a node from the two standard deviations, that of e at the weight 1."""
    sigmas, w = [], np.float64(spectrum.mean_weight)
    for name, scale in (("sigma_K", prior.scale_kernel), ("sigma_e", prior.scale_residual * np.sqrt(w))):
        s = np.asarray(scale, dtype=float)[()]
        if prior.family == "half-normal":
            sigmas.append(pm.HalfNormal(name, s, **batch))
        elif prior.family == "half-t":
            sigmas.append(pm.HalfStudentT(name, nu=np.float64(prior.df), sigma=s, **batch))
        else:
            sigmas.append(pm.Exponential(name, scale=s, **batch))
    kernel, residual = sigmas[0] ** 2, sigmas[1] ** 2 / w
    pm.Deterministic("h2", kernel / (kernel + residual), **batch)
    pm.Deterministic("total", kernel + residual, **batch)
    return {"sigma2_g": kernel * w / spectrum.mean_diagonal, "sigma2_e": residual * w}
