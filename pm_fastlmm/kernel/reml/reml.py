"""REML and ML point estimates for one kernel, one or thousands of responses."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import read_covariance
from pm_fastlmm.base.choices import Method, Missing, require_choice
from pm_fastlmm.kernel.effects import effects
from pm_fastlmm.kernel.likelihood.information import information_and_corner, quantities, standard_error
from pm_fastlmm.kernel.likelihood.profile import maximise
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI
from pm_fastlmm.kernel.reml.band import BandOptimum, maximise_band
from pm_fastlmm.kernel.reml.fit import REMLFit, plain
from pm_fastlmm.kernel.reml.patterns import by_pattern
from pm_fastlmm.spectrum.projection import Projection, kernel_design
from pm_fastlmm.spectrum.responses import read_response
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum, as_rotated, spectrum_of_eigenvalues, squares
from pm_fastlmm.spectrum.streams.factor import imprecision
from pm_fastlmm.spectrum.tridiagonal import coordinates
from pm_fastlmm.spectrum.weights import PriorWeights

_LARGE = 700  # rows from which on a band is faster than a tridiagonal matrix
_WIDTH = 32  # of the band: the products are faster with more, each evaluation with less
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
        K and X, factored once, with the prior weights where there are any.
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


def reml_point(
    K: Any, y: Any, X: Any = None, *, weights: Any = None, method: Method = "REML", rtol: float | None = None
) -> REMLFit:
    """
    Fit y ~ N(Xβ, σ²(K + δI)) once, without the eigenvectors of K: the estimates of `reml` in a fraction of the time.

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
    weights : (n,) array or Series, optional
        Prior weights, Var(e_i) = σ²_e/w_i.
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
        If K, y, X and weights do not fit each other, or K is no covariance.

    Notes
    -----
    From some hundred rows on, Householder reflectors reduce K to a band whose last coordinates are y and X (Bischof,
    Lang & Sun 2000). Its Cholesky factors at some fifty δ give the likelihood at all of them, by polynomials in log δ,
    and those at the estimate the rest.

    Small or several y, and whatever that does not show clearly (a maximum beside σ²_e = 0, a flat likelihood), are
    left to a tridiagonal matrix. The rotations of the QL algorithm turn the few vectors that the likelihood needs,
    y and QᵀKQ₁, into their coordinates in the eigenvectors, which are never formed (Golub & Welsch 1969). From there on
    it is the code of `reml`.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(1)
    >>> W = rng.normal(size=(50, 80)) / 9
    >>> y = W @ rng.normal(size=80) + rng.normal(size=50)
    >>> fit = flmm.reml_point(W @ W.T, y, np.ones((50, 1)))
    >>> bool(
    ...     np.isclose(
    ...         fit.h2,
    ...         flmm.reml(flmm.Spectrum.from_covariance(W @ W.T, np.ones((50, 1))), y).h2,
    ...     )
    ... )
    True
    """
    require_choice("method", method, Method)
    covariance = read_covariance(K)
    n = covariance.values.shape[0]
    ids, design = kernel_design(covariance, X, "K")
    w = PriorWeights.read(weights, n, ids, "K")
    kernel, projection = w.matrix(covariance.values), w.projection(design)
    values, names = read_response(y, n, ids)
    values = w.rows(values)
    columns = values if values.ndim == 2 else values[:, None]
    trace = float(np.trace(kernel))
    double = rtol is None and np.asarray(getattr(K, "values", K)).dtype not in (np.float16, np.float32)
    if double and values.ndim == 1 and n >= _LARGE and projection.rank < _WIDTH:
        found = maximise_band(kernel, projection.X, values, method, _WIDTH)
        if found is not None:
            return _of_band(found, projection, w, trace / n, method)
    K11, K21, K22 = projection.two_sided(kernel)
    y1, y2 = projection.split(columns)
    T = columns.shape[1]
    eigvals, rows = coordinates(K22, np.hstack([y2, K21]))
    spectrum = spectrum_of_eigenvalues(projection, eigvals, K11, rows[:, T:], rtol, K, ids, trace)
    # y is rotated here
    spectrum, first = replace(spectrum, rotation=np.zeros((n, 0)), weights=w, unweighted=design), spectrum.nullity
    rotated = Rotated.from_coordinates(
        spectrum, names, values.shape[1:], z=np.ascontiguousarray(rows[first:, :T].T), rss=squares(rows[:first, :T]),
        y1=np.ascontiguousarray(y1.T), norm2=squares(y2),
    )  # fmt: skip
    return replace(fit_rotated(rotated, method), rotated=None)


def _of_band(found: BandOptimum, projection: Projection, w: PriorWeights, kbar: float, method: Method) -> REMLFit:
    """Return what `fit_rotated` returns, from the maximum that was found in a band."""
    n = projection.V.shape[0]
    m, log_scale = (n - projection.rank, projection.logdet_R) if method == "REML" else (n, 0.0)
    null = -0.5 * m * (LOG_2PI + 1 + math.log(found.norm2 / m)) - log_scale + w.logdet
    at_zero = np.array([found.sigma2_g == 0, found.sigma2_e == 0])
    return REMLFit(
        sigma2_g=found.sigma2_g, sigma2_e=found.sigma2_e, at_zero=at_zero,
        observed_information=2 * found.average - found.expected, average_information=found.average,
        mean_diagonal=kbar, mean_eigval=found.mean_eigval, mean_weight=w.mean, blue=found.beta, blue_cov=found.beta_cov,
        loglik=null - 0.5 * found.f, loglik_null=null, converged=True, message=_message(None, at_zero, False, ""),
        n_obs=n, pattern=0, method=method, names=None, coef=projection.coef, rotated=None,
    )  # fmt: skip


def fit_rotated(rotated: Rotated, method: Method) -> REMLFit:
    """Fit rotated responses; see `reml`."""
    T, s = rotated.batch_shape, rotated.spectrum
    optima = maximise(rotated, method)
    sigma2_g, sigma2_e, problem = (v.reshape(T) for v in (optima.sigma2_g, optima.sigma2_e, optima.problem))
    at_zero = optima.at_zero.reshape(*T, 2)
    with np.errstate(all="ignore"):
        information, corner = information_and_corner(rotated, sigma2_g, sigma2_e, method)
        estimate = effects.blue_of_corner(rotated, *corner)
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
        mean_weight=plain(np.full(T, s.mean_weight)),
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
