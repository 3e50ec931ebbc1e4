"""REML and ML point estimates for one kernel, one or thousands of responses."""

from dataclasses import replace
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import read_covariance
from pm_fastlmm.base.choices import Method, Missing, require_choice
from pm_fastlmm.kernel.effects import effects
from pm_fastlmm.kernel.likelihood.information import quantities, relative_information, standard_error
from pm_fastlmm.kernel.likelihood.profile import maximise
from pm_fastlmm.kernel.reml.fit import REMLFit, plain
from pm_fastlmm.kernel.reml.patterns import by_pattern
from pm_fastlmm.spectrum.projection import kernel_design
from pm_fastlmm.spectrum.responses import read_response
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum, as_rotated, spectrum_of_eigenvalues
from pm_fastlmm.spectrum.streams.factor import imprecision
from pm_fastlmm.spectrum.tridiagonal import coordinates

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


def reml_point(K: Any, y: Any, X: Any = None, *, method: Method = "REML", rtol: float | None = None) -> REMLFit:
    """
    Fit y ~ N(Xβ, σ²(K + δI)) once, without the eigenvectors of K: the estimates of `reml` in less than half the time.

    Estimates, standard errors, β, log-likelihood, boundaries and messages are those of
    `reml(Spectrum.from_covariance(K, X), y)`. Random effects, predictions, NUTS and further responses need the
    eigenvectors: use that for them, and this where one number is wanted from each of many different K.

    Parameters
    ----------
    K : (n, n) array or DataFrame
        Symmetric positive semi-definite; it is not scaled.
    y : array, Series, DataFrame or DataArray
        One response (n,), or a few (n, T).
    X : (n, d) array or DataFrame, optional
        Fixed-effects design; None for no fixed effects (an intercept is not added).
    method : {"REML", "ML"}
    rtol : float, optional
        Eigenvalues within ±rtol of the largest one count as zero, as in `Spectrum.from_covariance`.

    Returns
    -------
    REMLFit
        Its `rotated` is None.

    Raises
    ------
    ValueError
        If K, y and X do not fit each other, or K is no covariance.

    Notes
    -----
    Householder reflectors reduce K, orthogonal to X, to tridiagonal form. The rotations of the QL algorithm then turn
    the few vectors that the likelihood needs, y and QᵀKQ₁, into their coordinates in the eigenvectors, which are never
    formed (Golub & Welsch 1969). From there on it is the code of `reml`.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(1)
    >>> W = rng.normal(size=(50, 80)) / 9
    >>> y = W @ rng.normal(size=80) + rng.normal(size=50)
    >>> fit = flmm.reml_point(W @ W.T, y, np.ones((50, 1)))
    >>> bool(np.isclose(fit.h2, flmm.reml(flmm.Spectrum.from_covariance(W @ W.T, np.ones((50, 1))), y).h2))
    True
    """
    require_choice("method", method, Method)
    covariance = read_covariance(K)
    n = covariance.values.shape[0]
    ids, projection = kernel_design(covariance, X, "K")
    K11, K21, K22 = projection.two_sided(covariance.values)
    values, names = read_response(y, n, ids)
    columns = values if values.ndim == 2 else values[:, None]
    y1, y2 = projection.split(columns)
    T = columns.shape[1]
    eigvals, rows = coordinates(K22, np.hstack([y2, K21]))
    trace = float(np.trace(covariance.values))
    spectrum = spectrum_of_eigenvalues(projection, eigvals, K11, rows[:, T:], rtol, K, ids, trace)
    spectrum, first = replace(spectrum, rotation=np.zeros((n, 0))), spectrum.nullity  # y is rotated here
    rotated = Rotated.from_coordinates(spectrum, values, names, z=rows[first:, :T], null=rows[:first, :T], y1=y1, y2=y2)
    return replace(fit_rotated(rotated, method), rotated=None)


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
