"""The function averaged over posterior draws, draws of it, and predictions."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.display import tracked
from pm_fastlmm.engines.draws import evaluate_draws
from pm_fastlmm.engines.fourier.functions import FunctionPosterior, draw_coefficients, functions_at
from pm_fastlmm.engines.fourier.likelihood import FourierFactor
from pm_fastlmm.engines.labels import labelled, over_coef
from pm_fastlmm.engines.prediction import Predictive

if TYPE_CHECKING:
    from pm_fastlmm.engines.fourier.node import FourierNode

_LARGEST = 100_000_000  # numbers of predictive draws


def recover(
    node: "FourierNode", model: pm.Model, posterior: xr.Dataset, rng: np.random.Generator
) -> dict[str, xr.DataArray]:
    """Draw β, where there are any, and the weights w of the features."""
    components = _components(node, model, posterior)
    w, beta = draw_coefficients(node.products, components, len(components), rng)
    shape = posterior.sizes["chain"], posterior.sizes["draw"]
    weights = labelled(model, node, w.reshape(*shape, -1), {f"{node.name}_feature": None})
    if not node.projection.coef:
        return {"weights": weights}
    return {"beta": over_coef(model, node, beta.reshape(*shape, -1)), "weights": weights}


def predict(
    node: "FourierNode",
    model: pm.Model,
    posterior: xr.Dataset,
    rows: tuple[FloatArray, FloatArray],
    rng: np.random.Generator,
) -> Predictive:
    """
    Draw f and y at new points, one for each draw of the parameters.

    Raises
    ------
    ValueError
        If there would be too many numbers.
    """
    points, X = rows
    shape = posterior.sizes["chain"], posterior.sizes["draw"]
    numbers = shape[0] * shape[1] * len(points)
    if numbers > _LARGEST:
        raise ValueError(
            f"predictions at {len(points)} points for {shape[0] * shape[1]} draws are {numbers:.1e} numbers, more than "
            f"{_LARGEST:.0e}: thin the posterior, idata.sel(draw=slice(None, None, 10)), or use "
            "flmm.posterior_function(idata, model=model).predict(x_new), which has their mean and variance."
        )
    components = _components(node, model, posterior)
    w, beta = draw_coefficients(node.products, components, len(components), rng)
    f = functions_at(node.basis, w, beta, points, X).reshape(*shape, -1)
    return Predictive.of(f, np.reshape([factor.sigma2_e for factor in components], shape), rng)


def function(
    node: "FourierNode", model: pm.Model, posterior: xr.Dataset, draws: int, *, progressbar: bool
) -> FunctionPosterior:
    """Return the function averaged over some draws, evenly spaced."""
    total = posterior.sizes["chain"] * posterior.sizes["draw"]
    chosen = np.unique(np.linspace(0, total - 1, min(draws, total)).astype(int))
    components = _components(node, model, posterior, chosen, progressbar=progressbar)
    return FunctionPosterior.of(node.basis, node.products, components)


def _components(
    node: "FourierNode", model: pm.Model, posterior: xr.Dataset, chosen: Any = None, *, progressbar: bool = False
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
