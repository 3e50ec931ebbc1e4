"""FastLMM: the public distribution. It reads and checks what the user gives, and picks the random variable."""

from typing import Any

import numpy as np
import pymc as pm

from pm_fastlmm.base.coordinates import require_labels
from pm_fastlmm.engines.inputs import double, read_mean, read_response, refuse_unknown, treat_coefficients
from pm_fastlmm.engines.random_variable import LMM, Treatment
from pm_fastlmm.engines.spectral.variables import FastLMMRV, RotatedLMMRV, statistic
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum, require_spectrum

PAIRS = (("sigma2", "delta"), ("sigma2_g", "sigma2_e"), ("h2", "total"))


class FastLMM:
    r"""
    Y ~ N(Xβ, σ²(K + δI)) with a known K, evaluated in the rotated coordinates of a `Spectrum`.

    Give exactly one pair of variance parameters: `sigma2, delta`, or `sigma2_g, sigma2_e` (σ² and δσ²), or `h2, total`
    with h² = k̄/(k̄ + δ), total = σ²(k̄ + δ), k̄ = tr(K)/n. Three treatments of β:

    * by default β is integrated out under a flat prior: the logp is the restricted log-likelihood log ∫ p(y | β) dβ, in
      the form that lme4 prints. **This density of y is improper along X**: the value of y along X does not enter it,
      and draws of the node (prior and posterior predictive) are error contrasts, Xᵀ(y - mu) = 0. Predictive draws of y
      itself come from `flmm.predict(idata, model=model)` afterwards. Such a node must be observed.
    * `beta=` takes coefficients of the model (numbers or random variables): a proper density.
    * `beta_cov=`, `beta_mean=` integrate β ~ N(beta_mean, beta_cov) out: a proper density.

    Parameters
    ----------
    name : str
        Name of the variable.
    spectrum : Spectrum
        K and X, factored once. Prior weights w are given to it, `Spectrum.from_covariance(K, X, weights=w)`: V is then
        σ²(K + δ diag(1/w)), and k̄ and total are as said there.
    sigma2, delta, sigma2_g, sigma2_e, h2, total : tensor_like
        One pair, of shape () or (T,) for T responses.
    mu : tensor_like, optional
        Mean besides Xβ, (n,) or (T, n), in the order of the spectrum; a Series is aligned by id. One that depends on
        random variables costs a product with the rotation at each evaluation, O(n²): put columns whose coefficients are
        estimated into X instead.
    beta : tensor_like, optional
        Coefficients (r,) of the columns of `spectrum.X`, or (T, r).
    beta_mean, beta_cov : tensor_like, optional
        Prior mean, (r,) or a number, and covariance (r, r).
    observed : array, Series, DataFrame, pm.Data or Rotated, optional
        y (n,); several responses as (T, n), or as the columns of a DataFrame. A Series or DataFrame is aligned by id;
        an array or `pm.Data`, which carry none, are in the order of the spectrum. A `Rotated` observes the sufficient
        statistic instead: [z, rss], and y along X unless β is flat. It is all there is of rows that do not fit in
        memory (`KernelStatistics`); its density is that of y, and β, u and predictions are recovered from it all the
        same.
    **kwargs
        As in any PyMC distribution: dims ("obs", or ("response", "obs")), shape, initval …

    Raises
    ------
    ValueError
        If not exactly one pair is given, shapes do not fit, y has missing values, or the improper treatment is used
        without data.

    Notes
    -----
    The rotation of observed data is a constant of the compiled graph: an evaluation with its gradient costs O(rank) for
    the flat prior, O(rank · r²) for the others, whatever n is. `pm.Data` defeats that unless the data are frozen, as
    `flmm.sample` does.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> batch = np.repeat(np.eye(3), 4, axis=0)
    >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    >>> spectrum = flmm.Spectrum.from_factor(batch, np.ones((12, 1)))
    >>> with pm.Model() as model:
    ...     h2 = pm.Beta("h2", 1, 1)
    ...     total = pm.HalfNormal("total", 10)
    ...     node = flmm.FastLMM("y", h2=h2, total=total, spectrum=spectrum, observed=y)
    >>> logp = pm.logp(
    ...     flmm.FastLMM.dist(sigma2_g=3.9167, sigma2_e=1 / 3, spectrum=spectrum), y
    ... ).eval()
    >>> print(f"{logp:.4f} {flmm.reml(spectrum, y).loglik:.4f}")
    -14.6796 -14.6796
    """

    def __new__(cls, name: str, *, spectrum: Spectrum, observed: Any = None, mu: Any = None, **kwargs: Any) -> Any:
        """Register the distribution with the model of the context."""
        params, rest = _parametrise(spectrum, observed=observed, mu=mu, **kwargs)
        values = _observed(spectrum, observed, rest["carried"]["treatment"])
        _check_coords(name, spectrum, rest.get("dims"))
        return LMM(name, params, observed=values, **rest)

    @classmethod
    def dist(cls, *, spectrum: Spectrum, mu: Any = None, **kwargs: Any) -> Any:
        """Return the distribution as a variable outside any model, for `pm.logp`, `pm.draw` or another distribution."""
        params, rest = _parametrise(spectrum, observed=None, mu=mu, **kwargs)
        return LMM.dist(params, **rest)


def _parametrise(
    spectrum: Spectrum, *, observed: Any, mu: Any, beta: Any = None, beta_mean: Any = None, beta_cov: Any = None,
    **kwargs: Any,
) -> tuple[list[Any], dict[str, Any]]:  # fmt: skip
    """Return the parameters of the random variable, and the other arguments of `LMM`."""
    require_spectrum(spectrum)
    g, e = variance_components(spectrum.mean_diagonal, kwargs, spectrum.mean_weight)
    _check_shape(kwargs.get("shape"), spectrum.n)
    refuse_unknown(
        "FastLMM", kwargs,
        "X, K and prior weights are in the spectrum; the variances are one of (sigma2, delta), (sigma2_g, sigma2_e), "
        "(h2, total); β is beta=, or beta_mean= and beta_cov=",
        weights="they are in the spectrum, which is that of rows times √w: flmm.Spectrum.from_covariance(K, X, "
        "weights=w) or .from_factor(W, X, weights=w).",
    )  # fmt: skip
    given = isinstance(observed, Rotated)
    if given and mu is not None:
        raise ValueError(
            "a Rotated has no rows that mu could be the mean of: put its columns into X, or observe y itself."
        )
    mean = [] if given else [read_mean(mu, spectrum.ids, spectrum.n)]
    treatment, b, L = treat_coefficients(spectrum.design, beta, beta_mean, beta_cov)
    carried = {
        "treatment": treatment,
        "spectrum": spectrum,
        "projection": spectrum.design,
        "rotated": observed if given else None,
    }
    return [*mean, b, L, g, e], {"kind": RotatedLMMRV if given else FastLMMRV, "carried": carried, **kwargs}


def variance_components(
    mean_diagonal: float | None, kwargs: dict[str, Any], mean_weight: float = 1.0
) -> tuple[Any, Any]:
    """
    Take exactly one pair of parameters out of the arguments, and return tensors (σ²_g, σ²_e).

    The pair (h2, total) needs the mean diagonal of K; w̄ · total is σ²_g k̄ + σ²_e.

    Raises
    ------
    ValueError
        If another set of parameters is given.
    """
    given = {name: kwargs.pop(name, None) for pair in PAIRS for name in pair}
    values = {name: double(value) for name, value in given.items() if value is not None}
    pair = next((pair for pair in PAIRS if set(pair) == set(values)), None)
    if pair is None:
        got = ", ".join(sorted(values)) or "none"
        raise ValueError(
            "give exactly one pair of variance parameters, (sigma2, delta), (sigma2_g, sigma2_e) or (h2, total); "
            f"got {got}."
        )
    first, second = (values[name] for name in pair)
    if pair == ("sigma2", "delta"):
        return first, first * second
    if pair == ("sigma2_g", "sigma2_e"):
        return first, second
    second = second if mean_weight == 1 else second * np.float64(mean_weight)
    return first * second / mean_diagonal, (1 - first) * second


def _check_coords(name: str, spectrum: Spectrum, dims: Any) -> None:
    """Refuse coordinates that are the spectrum's ids in another order: the values would carry wrong labels."""
    last = dims if isinstance(dims, str) or dims is None else dims[-1]
    coords = pm.modelcontext(None).coords.get(last) if last is not None else None
    if coords is None or spectrum.ids is None or tuple(coords) == spectrum.ids:
        return
    if set(coords) == set(spectrum.ids):
        raise ValueError(
            f"the coordinates of {last!r} are the ids of the spectrum in another order, so that {name} would be "
            f"labelled wrongly: use coords={{{last!r}: spectrum.ids}}, the order of K."
        )


def _check_shape(shape: Any, n: int) -> None:
    if shape is None:
        return
    last = shape[-1] if isinstance(shape, tuple | list) else shape
    if isinstance(last, int | np.integer) and last != n:
        raise ValueError(f"shape ends in {last}, but the spectrum has {n} observations, which are the last dimension.")


def _observed(spectrum: Spectrum, observed: Any, treatment: Treatment) -> Any:
    """Return the data as PyMC takes them, (…, n), aligned by id, or the statistic of a `Rotated`."""
    if not isinstance(observed, Rotated):
        return read_response(observed, spectrum.ids, spectrum.n)
    if observed.spectrum is not spectrum:
        raise ValueError("observed was rotated by another spectrum: pass spectrum=observed.spectrum, or rotate y anew.")
    require_labels(spectrum.ids, "the ids of the spectrum")
    return statistic(observed, treatment)
