"""After sampling a FourierLMM: the function, averaged over posterior draws."""

import pymc as pm
import xarray as xr

from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.fourier.functions import FunctionPosterior
from pm_fastlmm.engines.nodes import find_node


def posterior_function(
    idata: xr.DataTree,
    *,
    draws: int = 400,
    model: pm.Model | None = None,
    var_name: str | None = None,
    progressbar: bool = False,
) -> FunctionPosterior:
    """
    Return the posterior of f = Xβ + Z(x)w, averaged over posterior draws of the parameters of a FourierLMM node.

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
    found: FunctionPosterior = node.function(Draws(model, idata.posterior.to_dataset()), draws, progressbar=progressbar)
    return found
