"""Heritability of a response that is not normal, from posterior draws."""

from typing import Any, Literal

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.latent.scale_draws import shares_of_draws
from pm_fastlmm.engines.nodes import find_node, model_here
from pm_fastlmm.families.scales import Fixed


def heritability(
    idata: xr.DataTree,
    term: str | tuple[str, ...],
    of: Literal["heritability", "repeatability"] = "heritability",
    *,
    fixed: Fixed = "left out",
    trials: float | None = None,
    model: pm.Model | None = None,
    var_name: str | None = None,
    random_seed: Any = None,
) -> xr.Dataset:
    """
    Return draws of the heritability that a term gives, on the latent, the expected-data and the observed scale.

    It is `LaplaceFit.heritability` at each draw of the variances, of β and of the parameters of the family, so that
    intervals are those of the posterior and need no approximation near 0.

    Parameters
    ----------
    idata : DataTree
        What `sample` returns of a model with a `LatentLMM`.
    term : str or tuple of str
        One, or several whose variances are summed.
    of : {"heritability", "repeatability"}
    fixed : {"left out", "counted"}
        Whether the variance of the fixed effects between rows is in what is divided by.
    trials : number, optional
        Of a binomial response, of how many trials the count is that is observed.
    model, var_name
        As in `recover_effects`.
    random_seed : optional
        Of draws of β, where the posterior has none.

    Returns
    -------
    Dataset
        Variables latent, liability (of links of probabilities), expected and observed over chain and draw, and of
        ordered responses category.

    Raises
    ------
    ValueError
        If the response is normal, there is no such term, rows have different numbers of trials, or the posterior lacks
        draws.

    References
    ----------
    de Villemereuil, Schielzeth, Nakagawa & Morrissey (2016), doi:10.1534/genetics.115.186536.

    Examples
    --------
    >>> import pm_fastlmm as flmm
    >>> herds = flmm.datasets.cattle_herds()
    >>> model = flmm.lmm_model(
    ...     "incidence ~ period + (1 | herd)", herds, family="binomial", trials="size"
    ... )
    >>> options = {"chains": 2, "random_seed": 1, "progressbar": False, "quiet": True}
    >>> idata = flmm.sample(100, model=model, **options)
    >>> h2 = flmm.heritability(idata, "herd", trials=1, model=model)
    >>> list(h2.data_vars), bool((h2["observed"] < h2["expected"]).all())
    (['latent', 'liability', 'expected', 'observed'], True)
    """
    require_choice("of", of, ("heritability", "repeatability"))
    model = model_here(model)
    node, posterior = find_node(model, var_name), idata.posterior.to_dataset()
    names = (term,) if isinstance(term, str) else tuple(term)
    rng = np.random.default_rng(random_seed)
    found = shares_of_draws(node, Draws(model, posterior), names, of, fixed=fixed, trials=trials, rng=rng)
    return found.assign_coords({name: posterior[name] for name in ("chain", "draw")})
