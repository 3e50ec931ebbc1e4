"""After sampling a FourierLMM: the function averaged over posterior draws, and draws of it."""

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm._display import tracked
from pm_fastlmm.engines.draws import evaluate_draws
from pm_fastlmm.engines.fourier.node import FourierNode
from pm_fastlmm.engines.nodes import find_node
from pm_fastlmm.functions import FunctionPosterior, draw_coefficients, functions_at, read_new
from pm_fastlmm.likelihood.fourier import FourierFactor

_LARGEST = 100_000_000  # numbers of predictive draws


def posterior_function(
    idata: xr.DataTree,
    *,
    draws: int = 400,
    model: pm.Model | None = None,
    var_name: str | None = None,
    progressbar: bool = False,
) -> FunctionPosterior:
    """
    Return what the data tell of f = Xβ + Z(x)w, averaged over posterior draws of the parameters of a FourierLMM node.

    Parameters
    ----------
    idata : xarray.DataTree
        From `sample`.
    draws : int
        How many draws, evenly spaced, are taken; each costs one factorisation of the features.
    model, var_name
        As in `recover_effects`.
    progressbar : bool

    Returns
    -------
    FunctionPosterior
        Its `predict` gives mean and variance at any number of points, its `draw` whole functions.

    Raises
    ------
    ValueError
        If the node is no FourierLMM.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(size=1000)
    >>> basis = flmm.FourierBasis(lengthscale=(0.1, 1.0), domain=(0, 1), n=1000, noise_ratio_min=0.1)
    >>> statistics = flmm.FourierStatistics.from_arrays(basis, x, np.sin(6 * x) + rng.normal(size=1000))
    >>> with pm.Model() as model:
    ...     ell, v, v_e = pm.Uniform("ell", 0.1, 1.0), pm.HalfNormal("v", 1), pm.HalfNormal("v_e", 1)
    ...     node = flmm.FourierLMM("y", statistics=statistics, lengthscale=ell, sigma2=v, sigma2_e=v_e)
    ...     idata = flmm.sample(200, chains=2, random_seed=1, progressbar=False, quiet=True)
    >>> f = flmm.posterior_function(idata, model=model, draws=100)
    >>> f.predict(np.linspace(0, 1, 5)).mean.round(0) + 0.0
    array([ 0.,  1.,  0., -1.,  0.])
    """
    model = pm.modelcontext(model)
    node = find_node(model, var_name)
    if not isinstance(node, FourierNode):
        raise ValueError(f"{node.name} is no FourierLMM: flmm.predict has its predictions.")
    posterior = idata.posterior.to_dataset()
    total = posterior.sizes["chain"] * posterior.sizes["draw"]
    chosen = np.unique(np.linspace(0, total - 1, min(draws, total)).astype(int))
    factors = components(node, model, posterior, chosen, progressbar=progressbar)
    return FunctionPosterior.of(node.basis, node.products, factors)


def components(
    node: FourierNode, model: pm.Model, posterior: xr.Dataset, chosen: Any = None, *, progressbar: bool = False
) -> list[FourierFactor]:
    """Return the factorisations at posterior draws, counted chain by chain."""
    log_prior, e = evaluate_draws(model, posterior, [node.log_weights + pt.log(node.sigma2_g), node.sigma2_e])
    log_prior, e = log_prior.reshape(-1, node.basis.size), e.reshape(-1)
    rows = np.arange(len(e)) if chosen is None else chosen
    p, out = node.products, []
    cross, square = node.observed[:-1], float(node.observed[-1])
    for i in tracked(rows, f"functions of {node.name}", show=progressbar):
        factor = FourierFactor.of(log_prior[i], float(e[i]), cross, square, p.gram, p.df)
        if factor is None:
            raise ValueError(f"draw {i} of {node.name} has variances at which its covariance is not positive definite.")
        out.append(factor)
    return out


def recover_functions(idata: xr.DataTree, model: pm.Model, node: FourierNode, rng: np.random.Generator) -> xr.DataTree:
    """Add a draw of β and of the weights w for each draw of the parameters."""
    factors = components(node, model, idata.posterior.to_dataset())
    w, beta = draw_coefficients(node.products, factors, len(factors), rng)
    shape = idata.posterior.sizes["chain"], idata.posterior.sizes["draw"]
    feature, coef = f"{node.name}_feature", f"{node.name}_coef"
    names = list(node.products.projection.coef)
    if names:
        idata.posterior[f"{node.name}_beta"] = xr.DataArray(
            beta.reshape(*shape, -1), dims=("chain", "draw", coef), coords={coef: names}
        )
    idata.posterior[f"{node.name}_weights"] = xr.DataArray(w.reshape(*shape, -1), dims=("chain", "draw", feature))
    return idata


def predict_functions(
    idata: xr.DataTree, model: pm.Model, node: FourierNode, x_new: Any, X_new: Any, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """
    Return draws of f and of y at new points, (chain, draw, m), one for each draw of the parameters.

    Raises
    ------
    ValueError
        If x_new is missing, or there would be too many numbers.
    """
    if x_new is None:
        raise ValueError(f"{node.name} keeps no rows: give x_new (and X_new), the points where y is to be predicted.")
    shape = idata.posterior.sizes["chain"], idata.posterior.sizes["draw"]
    numbers = shape[0] * shape[1] * len(x_new)
    if numbers > _LARGEST:
        raise ValueError(
            f"predictions at {len(x_new)} points for {shape[0] * shape[1]} draws are {numbers:.1e} numbers, more than "
            f"{_LARGEST:.0e}: thin the posterior, idata.sel(draw=slice(None, None, 10)), or use "
            "flmm.posterior_function(idata, model=model).predict(x_new), which has their mean and variance."
        )
    points, X = read_new(node.basis, node.products.projection, x_new, X_new)
    factors = components(node, model, idata.posterior.to_dataset())
    f = functions_at(node.basis, *draw_coefficients(node.products, factors, len(factors), rng), points, X)
    e = np.array([factor.sigma2_e for factor in factors])
    y = f + np.sqrt(e)[:, None] * rng.standard_normal(f.shape)
    return f.reshape(*shape, -1), y.reshape(*shape, -1)
