"""REML and ML point estimates for one kernel, one or thousands of responses."""

from typing import Any

import numpy as np

from pm_fastlmm.base.choices import Method, Missing, require_choice
from pm_fastlmm.kernel.effects import effects
from pm_fastlmm.kernel.likelihood.information import quantities, relative_information, standard_error
from pm_fastlmm.kernel.likelihood.profile import maximise
from pm_fastlmm.kernel.reml.fit import REMLFit, plain
from pm_fastlmm.kernel.reml.patterns import by_pattern
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum, as_rotated
from pm_fastlmm.spectrum.streams.factor import imprecision

_BOUNDS = (("kernel", "sigma2_g", "sigma2_e"), ("residual", "sigma2_e", "sigma2_g"))

ON_MISSING = ("raise", "by_pattern")


def reml(spectrum: Spectrum, y: Any, *, method: Method = "REML", missing: Missing = "raise") -> REMLFit:
    """
    Fit y ~ N(Xβ, σ²(K + δI)) by restricted maximum likelihood, or by maximum likelihood.

    The profile likelihood of δ is searched globally: all modes, and both boundaries as exact limits. Thousands of
    responses are fitted in one pass, each as if it were alone.

    Parameters
    ----------
    spectrum : Spectrum
        K and X, factored once.
    y : array, Series, DataFrame, DataArray or Rotated
        One response (n,), several (n, T), or what `spectrum.rotate` returned. Dask and stored arrays are read into
        memory, up to 2 GB; `reml_blocks` fits more.
    method : {"REML", "ML"}
    missing : {"raise", "by_pattern"}
        What to do with NaN in y. "by_pattern" fits the responses that miss the same rows together, on
        `spectrum.subset(rows)`: one factorisation for each pattern. The patterns are numbered in `fit.pattern`, the
        rows that are left counted in `fit.n_obs`.

    Returns
    -------
    REMLFit
        A fit on the boundary or one that has no maximum is labelled in `boundary`, `converged` and `message`.

    Raises
    ------
    ValueError
        If y has missing values, does not fit the spectrum, or is a Dask or stored array of more than 2 GB.

    Warns
    -----
    UserWarning
        If the spectrum is that of cross-products that are not precise enough for the estimate; `message` says it too.

    References
    ----------
    Patterson & Thompson (1971), doi:10.1093/biomet/58.3.545; Lippert et al. (2011), doi:10.1038/nmeth.1681.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> batch = np.repeat(np.eye(3), 4, axis=0)
    >>> spectrum = flmm.Spectrum.from_factor(batch, np.ones((12, 1)))
    >>> fit = flmm.reml(spectrum, np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4]))
    >>> print(f"{fit.sigma2_g:.4f} {fit.sigma2_e:.4f} {fit.boundary}")
    3.9167 0.3333 ()
    """
    require_choice("method", method, Method)
    require_choice("missing", missing, ON_MISSING)
    if missing == "raise" or isinstance(y, Rotated):
        return fit_rotated(as_rotated(spectrum, y), method)
    return by_pattern(spectrum, y, lambda rotated: fit_rotated(rotated, method))


def fit_rotated(rotated: Rotated, method: Method) -> REMLFit:
    """Fit rotated responses; see `reml`."""
    T, s = rotated.batch_shape, rotated.spectrum
    optima = maximise(rotated, method)
    sigma2_g, sigma2_e, problem = (v.reshape(T) for v in (optima.sigma2_g, optima.sigma2_e, optima.problem))
    at_zero = optima.at_zero.reshape(*T, 2)
    with np.errstate(all="ignore"):
        information = relative_information(rotated, sigma2_g, sigma2_e, method)
        estimate = effects.blue(rotated, sigma2_g, sigma2_e)
        h2 = quantities(s, sigma2_g, sigma2_e)["h2"]
        h2_se = standard_error(np.stack([1 - h2, -h2], axis=-1), information.observed)
    lost = np.array(imprecision(rotated, sigma2_g, sigma2_e), dtype=object).reshape(T)
    fine = ~at_zero.any(axis=-1) & (problem == np.array(None))
    messages = np.full(T, "", dtype=object)
    flat = fine & np.isnan(h2_se)
    for place in np.argwhere(flat | ~fine | (lost != "")):
        t = tuple(place)
        messages[t] = _message(problem[t], at_zero[t], bool(flat[t]), lost[t])
    return REMLFit(
        sigma2_g=plain(sigma2_g),
        sigma2_e=plain(sigma2_e),
        at_zero=at_zero,
        observed_information=information.observed,
        average_information=information.average,
        mean_diagonal=plain(np.full(T, s.mean_diagonal)),
        mean_eigval=plain(np.full(T, s.mean_eigval)),
        blue=estimate.beta,
        blue_cov=estimate.cov,
        loglik=plain(optima.loglik.reshape(T)),
        loglik_null=plain(optima.loglik_null.reshape(T)),
        converged=plain(np.asarray(problem == np.array(None))),
        message=plain(messages),
        n_obs=plain(np.full(T, s.n)),
        pattern=plain(np.zeros(T, dtype=int)),
        method=method,
        names=rotated.names,
        coef=s.coef,
        rotated=rotated,
    )


def _message(problem: str | None, at_zero: Any, flat: bool, lost: str) -> str:
    parts = [] if problem is None else [problem]
    parts += [lost] if lost else []
    if flat:
        parts.append(
            "the likelihood is so flat at its maximum that its curvature is lost to rounding: the standard errors of "
            "the variances and their shares are undefined (NaN). fit.intervals() and flmm.exact_posterior have some"
        )
    for zero, (variance, own, other) in zip(at_zero, _BOUNDS, strict=True):
        if zero:
            parts.append(
                f"no {variance} variance: the likelihood is highest at {own} = 0; the standard errors of {own} and of "
                f"what depends on it are undefined there (NaN), that of {other} takes it as known. "
                "fit.intervals('inversion') and flmm.exact_posterior give intervals"
            )
    return ". ".join(parts)
