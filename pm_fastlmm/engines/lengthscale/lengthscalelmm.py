"""LengthscaleLMM: one kernel whose lengthscale is a parameter."""

from itertools import product
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pytensor.graph.traversal import ancestors

from pm_fastlmm.engines.algebra import white_noise
from pm_fastlmm.engines.graphs import INTERPRETED, support
from pm_fastlmm.engines.inputs import double, known_values, read_response, refuse_unknown
from pm_fastlmm.engines.lengthscale.operations import LengthscaleContrasts, LengthscaleLoglik, LengthscaleRotation
from pm_fastlmm.engines.lengthscale.spectrum import LengthscaleSpectrum
from pm_fastlmm.engines.random_variable import LMM, LMMRV
from pm_fastlmm.engines.spectral.fastlmm import variance_components

_CORNERS = 6  # variables whose ends are combined
_EDGE = 1e-6  # relative: by how much the ends of a prior's support may miss those of the range


class LengthscaleRV(LMMRV):
    """Y ~ N(Xβ, σ²_gK(ℓ) + σ²_eI) with β integrated out under a flat prior: inputs ℓ, σ²_g, σ²_e."""

    name = "LengthscaleLMM"
    extended_signature = "[rng],[size],(),(),()->[rng],(n)"
    spectrum: LengthscaleSpectrum

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Return the next generator and a draw, for each of a batch."""
        spectrum: LengthscaleSpectrum = carried["spectrum"]
        next_rng, (xi,) = white_noise(rng, batch, spectrum.n)
        return next_rng, LengthscaleContrasts(spectrum)(*params, xi)

    def logp(self, value: Any, *params: Any) -> Any:
        """Return the log-density."""
        ell, g, e = params
        statistics = LengthscaleRotation(self.spectrum)(value)
        return LengthscaleLoglik()(pt.log(ell), g, e, *statistics)[0] + self.spectrum.log_flat


class LengthscaleLMM:
    r"""
    Y ~ N(Xβ, σ²(K(ℓ) + δI)) with the lengthscale ℓ a parameter, by interpolation of its spectra.

    β is integrated out under a flat prior, and the logp is the restricted log-likelihood in the form that lme4 prints,
    to the tolerance of the spectrum. As for `FastLMM`, this density is improper along X: plain draws of the node are
    error contrasts, Xᵀy = 0, and cost a factorisation of K(ℓ) each. An evaluation with its gradient takes tens of
    microseconds, whatever n is.

    Parameters
    ----------
    name : str
    spectrum : LengthscaleSpectrum
        Kernel, X, the range of ℓ and, where there are any, prior weights: V is then σ²(K(ℓ) + δ diag(1/w)).
    lengthscale : tensor_like
        ℓ, whose prior lives inside the range; outside the density is 0.
    sigma2, delta, sigma2_g, sigma2_e, h2, total : tensor_like
        One pair, as in `FastLMM`; (h2, total) for kernels whose mean diagonal does not change with ℓ.
    observed : array, Series or pm.Data
        y (n,); a Series is aligned by id.
    **kwargs
        As in any PyMC distribution.

    Raises
    ------
    ValueError
        If the prior of ℓ reaches outside the range, not exactly one pair is given, y is missing or has missing values.

    Notes
    -----
    K is factored when the node is built, unless it was before. Below the smallest δ of the spectrum the density is that
    of the same formula, without a promise of its error.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(1)
    >>> x = np.linspace(0, 1, 80)
    >>> y = np.sin(6 * x) + 0.3 * rng.normal(size=80)
    >>> spectrum = flmm.LengthscaleSpectrum.from_coordinates(
    ...     x, kernel="matern52", lengthscale=(0.1, 2.0), X=np.ones((80, 1)), progressbar=False
    ... )
    >>> with pm.Model() as model:
    ...     lengthscale = pm.Truncated(
    ...         "lengthscale", pm.LogNormal.dist(-1, 1), lower=0.1, upper=2.0
    ...     )
    ...     sigma2_g, sigma2_e = pm.HalfNormal("sigma2_g", 2), pm.HalfNormal("sigma2_e", 1)
    ...     node = flmm.LengthscaleLMM(
    ...         "y",
    ...         spectrum=spectrum,
    ...         lengthscale=lengthscale,
    ...         sigma2_g=sigma2_g,
    ...         sigma2_e=sigma2_e,
    ...         observed=y,
    ...     )
    ...     fit = flmm.find_reml(progressbar=False)
    >>> fit.converged
    True
    """

    def __new__(cls, name: str, *, spectrum: LengthscaleSpectrum, observed: Any = None, **kwargs: Any) -> Any:
        """Register the distribution with the model of the context."""
        params, rest = _parametrise(spectrum, **kwargs)
        if observed is None:
            raise ValueError(
                f"{name} has no observed data: give observed=. A latent process with a lengthscale is a DenseLMM."
            )
        _check_range(name, pm.modelcontext(None), spectrum, params[0])
        data = read_response(observed, spectrum.ids, spectrum.n, ndim=(1,))
        spectrum.rotate(known_values(data))  # now, with its progress bar and its errors, not while a graph is compiled
        return LMM(name, params, observed=data, **rest)

    @classmethod
    def dist(cls, *, spectrum: LengthscaleSpectrum, **kwargs: Any) -> Any:
        """Return the distribution as a variable outside any model, for `pm.logp` and `pm.draw`."""
        params, rest = _parametrise(spectrum, **kwargs)
        return LMM.dist(params, **rest)


def _parametrise(
    spectrum: LengthscaleSpectrum, *, lengthscale: Any = None, **kwargs: Any
) -> tuple[list[Any], dict[str, Any]]:
    """Return the parameters of the random variable, and the other arguments of `LMM`."""
    if not isinstance(spectrum, LengthscaleSpectrum):
        raise TypeError(
            f"spectrum must be a LengthscaleSpectrum, got {type(spectrum).__name__}: build it with "
            "flmm.LengthscaleSpectrum.from_coordinates(x, kernel, lengthscale=(low, high)). A known K goes to FastLMM."
        )
    if lengthscale is None:
        raise ValueError("lengthscale is missing: give a random variable or a number in the range of the spectrum.")
    ell = double(lengthscale)
    if spectrum.mean_diagonal is None and kwargs.keys() & {"h2", "total"}:
        raise ValueError(
            "the mean diagonal of K changes with the lengthscale, so that (h2, total) would mean another variance at "
            "each: give (sigma2_g, sigma2_e) or (sigma2, delta)."
        )
    g, e = variance_components(spectrum.mean_diagonal, kwargs, spectrum.weights.mean)
    for what, value in (("lengthscale", ell), ("variances", g), ("variances", e)):
        if value.type.ndim:
            raise ValueError(
                f"{what} must be scalars, got {value.type.ndim} dimensions: LengthscaleLMM takes one response."
            )
    refuse_unknown(
        "LengthscaleLMM", kwargs,
        "X, weights and the kernel are in the spectrum; it takes lengthscale and one of (sigma2, delta), "
        "(sigma2_g, sigma2_e), (h2, total); β has a flat prior",
        weights="they are in the spectrum, flmm.LengthscaleSpectrum.from_coordinates(x, kernel, lengthscale=(low, "
        "high), weights=w).",
    )  # fmt: skip
    carried = {"treatment": "flat", "projection": spectrum.projection, "spectrum": spectrum}
    return [ell, g, e], {"kind": LengthscaleRV, "carried": carried, **kwargs}


def _check_range(name: str, model: pm.Model, spectrum: LengthscaleSpectrum, lengthscale: Any) -> None:
    """
    Refuse a prior of ℓ whose support reaches outside the range of the spectrum, and a number outside it.

    ℓ is evaluated at the ends of the support of the variables that it is a function of, all combinations of which
    contain its own ends where it is monotone in each. Where those ends are not known it is not checked: outside of the
    range the density is 0 in any case.
    """
    low, high = spectrum.lengthscale
    reached = set(ancestors([lengthscale], blockers=model.free_RVs))
    variables = [rv for rv in model.free_RVs if rv in reached]
    if len(variables) > _CORNERS or not all(_continuous(rv) for rv in variables):
        return
    try:
        ends = [support(rv, model.rvs_to_transforms.get(rv), np.zeros(rv.type.shape))[:2] for rv in variables]
    except ValueError:  # of a variable that is constrained as a whole, a simplex say
        return
    function = pytensor.function(variables, lengthscale, mode=INTERPRETED, allow_input_downcast=True)
    with np.errstate(all="ignore"):
        values = [float(function(*corner)) for corner in product(*ends)]
    outside = [v for v in values if not low * (1 - _EDGE) <= v <= high * (1 + _EDGE)]
    if outside:
        extent = f"from {min(values):.4g} to {max(values):.4g}" if variables else f"{values[0]:.4g}"
        raise ValueError(
            f"the lengthscale of {name} is {extent}, outside the range of the spectrum, {low:.4g} to {high:.4g}: "
            f"truncate its prior, pm.Truncated(..., lower={low:.4g}, upper={high:.4g}), or build the spectrum with a "
            "wider lengthscale=(low, high)."
        )


def _continuous(rv: Any) -> bool:
    return None not in rv.type.shape and rv.type.dtype.startswith("float")
