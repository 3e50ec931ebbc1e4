"""What the prior does: the posterior of one kernel under several of them, and the probability of a small region."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pm_fastlmm.kernel.exact.deviation_prior import DeviationPrior, Prior
from pm_fastlmm.kernel.exact.exact import exact_posterior
from pm_fastlmm.kernel.likelihood.prior import VariancePrior, residual_scale
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum, as_rotated


def ready(rotated: Rotated) -> dict[str, Prior]:
    """
    Return a set of priors scaled to the data, by name: a sceptic's, an enthusiast's, and those in common use.

    s² is the residual variance of the least-squares fit, ‖y orthogonal to X‖²/p, the mean of several responses.

    * "uniform h2": h² ~ Beta(1, 1), total ~ InverseGamma(1, s²), the default of `kernel_model` and `exact_posterior`;
    * "small h2": h² ~ Beta(1, 4), the same total;
    * "large h2": h² ~ Beta(4, 1), the same total;
    * "half-normal", "half-t": on both standard deviations with scale s, ν = 3;
    * "penalised complexity": exponential on both, P(σ_K > s) = 0.05 and σ_e with mean s.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> spectrum = flmm.Spectrum.from_factor(np.repeat(np.eye(3), 4, axis=0), np.ones((12, 1)))
    >>> rotated = spectrum.rotate(np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4]))
    >>> list(flmm.priors.ready(rotated))
    ['uniform h2', 'small h2', 'large h2', 'half-normal', 'half-t', 'penalised complexity']
    """
    s2 = residual_scale(rotated)
    s = float(np.sqrt(s2))
    return {
        "uniform h2": VariancePrior(1.0, 1.0, 1.0, s2),
        "small h2": VariancePrior(1.0, 4.0, 1.0, s2),
        "large h2": VariancePrior(4.0, 1.0, 1.0, s2),
        "half-normal": DeviationPrior("half-normal", s, s),
        "half-t": DeviationPrior("half-t", s, s),
        "penalised complexity": DeviationPrior.penalised_complexity(s, 0.05, scale_residual=s),
    }


def sensitivity(
    spectrum: Spectrum,
    y: Any,
    priors: Mapping[str, Prior] | None = None,
    *,
    quantity: str = "h2",
    probability: float = 0.95,
) -> pd.DataFrame:
    """
    Compute the exact posterior of one kernel under each of several priors, in a table.

    Parameters
    ----------
    spectrum : Spectrum
        K and X, factored once.
    y : array, Series, DataFrame, DataArray or Rotated
        One response (n,), or several (n, T).
    priors : mapping of name to VariancePrior or DeviationPrior, optional
        Default `ready`.
    quantity : str
        h2, pve, total, sigma2 or sigma2_e.
    probability : float
        Of the highest-density interval.

    Returns
    -------
    pandas.DataFrame
        One row for each prior, or for each response and prior: mean, sd, the ends of the highest-density interval, and
        log_bayes_factor, that of the kernel against none under the same prior. A response without a posterior is NaN.

    Raises
    ------
    ValueError
        If there are no priors, the quantity is unknown or has no such interval (delta), or as in `exact_posterior`.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> spectrum = flmm.Spectrum.from_factor(np.repeat(np.eye(3), 4, axis=0), np.ones((12, 1)))
    >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    >>> flmm.priors.sensitivity(spectrum, y).round(2)
                          mean    sd  hdi_lower  hdi_upper  log_bayes_factor
    uniform h2            0.83  0.12       0.58       0.99              6.97
    small h2              0.56  0.19       0.20       0.89              4.21
    large h2              0.87  0.09       0.70       0.99              7.84
    half-normal           0.87  0.11       0.65       0.99              7.30
    half-t                0.88  0.11       0.66       1.00              7.30
    penalised complexity  0.81  0.14       0.54       0.99              6.34
    """
    rotated = as_rotated(spectrum, y)
    priors = ready(rotated) if priors is None else priors
    if not priors:
        raise ValueError("priors is empty: give at least one, or leave it out for flmm.priors.ready.")
    tables = {}
    for name, prior in priors.items():
        posterior = exact_posterior(spectrum, rotated, prior=prior)
        low, high = posterior.interval(quantity, probability, kind="hdi")
        values = {
            "mean": posterior.mean(quantity),
            "sd": posterior.sd(quantity),
            "hdi_lower": low,
            "hdi_upper": high,
            "log_bayes_factor": posterior.log_bayes_factor,
        }
        index = [0] if rotated.names is None else list(rotated.names)
        tables[name] = pd.DataFrame(values, index=pd.Index(index, name="response"), dtype=float)
    table = pd.concat(tables, names=["prior"])
    if rotated.names is None:
        table = table.droplevel("response")
        table.index.name = None
        return table
    return table.swaplevel().loc[list(rotated.names)]


def rope(posterior: Any, low: float, high: float, *, quantity: str = "h2") -> Any:
    """
    Return the posterior probability of a region of practical equivalence, low ≤ quantity ≤ high.

    Parameters
    ----------
    posterior : ExactPosterior, VariancePosterior, DataTree or DataArray
        By quadrature for the first two, by their own `probability`, without Monte-Carlo error; the share of the draws
        (chain, draw, …) otherwise.
    low, high : float
        The ends, both included; 0 and 0.05 of "h2" for a kernel that explains next to nothing.
    quantity : str
        h2, pve, total, sigma2, sigma2_e or delta; what a `VariancePosterior` has; a variable of the posterior group for
        a DataTree.

    Returns
    -------
    float, array (T,), or xarray.Dataset
        For draws a Dataset with `probability` and its Monte-Carlo standard error `mcse`, one for each element of the
        variable.

    Raises
    ------
    ValueError
        If low is not below high, or the draws have no such variable or no dimensions chain and draw.

    References
    ----------
    Kruschke (2018), doi:10.1177/2515245918771304.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> spectrum = flmm.Spectrum.from_factor(np.repeat(np.eye(3), 4, axis=0), np.ones((12, 1)))
    >>> posterior = flmm.exact_posterior(
    ...     spectrum, np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    ... )
    >>> print(f"{flmm.rope(posterior, 0, 0.5):.4f}")
    0.0233
    >>> draws = posterior.to_datatree(4000, random_seed=1)
    >>> print(f"{float(flmm.rope(draws, 0, 0.5).mcse):.3f}")
    0.002
    """
    if hasattr(type(posterior), "probability"):
        return posterior.probability(quantity, low, high)
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}.")
    if isinstance(posterior, xr.DataTree):
        group = posterior["posterior"]
        if quantity not in group.data_vars:
            found = ", ".join(map(str, group.data_vars))
            raise ValueError(f"the posterior has no variable {quantity!r}: name one of {found}.")
        posterior = group[quantity]
    if not {"chain", "draw"} <= set(getattr(posterior, "dims", ())):
        raise ValueError("draws need the dimensions chain and draw: give a DataTree, or a variable of its posterior.")
    import arviz_stats  # more than a second to import

    inside = ((posterior >= low) & (posterior <= high)).astype(float)
    probability = inside.mean(("chain", "draw"))
    varies = (inside != inside.isel(chain=0, draw=0)).any(("chain", "draw"))
    with np.errstate(all="ignore"):
        error = arviz_stats.mcse(xr.Dataset({"inside": inside}), method="mean")["inside"]
    return xr.Dataset({"probability": probability, "mcse": error.where(varies, 0.0)})
