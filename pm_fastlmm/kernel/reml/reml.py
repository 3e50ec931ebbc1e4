"""REML and ML point estimates for one kernel, one or thousands of responses."""

from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method, Missing, require_choice
from pm_fastlmm.kernel.effects import effects
from pm_fastlmm.kernel.likelihood.information import quantities, relative_information, standard_error
from pm_fastlmm.kernel.likelihood.profile import Boundary, maximise
from pm_fastlmm.kernel.reml.fit import REMLFit, plain
from pm_fastlmm.kernel.reml.patterns import by_pattern
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum, as_rotated
from pm_fastlmm.spectrum.streams.factor import imprecision

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
    3.9167 0.3333 None
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
    sigma2_g, sigma2_e, boundary, problem = (
        v.reshape(T) for v in (optima.sigma2_g, optima.sigma2_e, optima.boundary, optima.problem)
    )
    with np.errstate(all="ignore"):
        shares, errors = _shares(rotated, sigma2_g, sigma2_e, boundary, method)
        beta = effects.blue(rotated, sigma2_g, sigma2_e)
        beta_se = np.sqrt(np.diagonal(beta.cov, axis1=-2, axis2=-1))
    lost = np.array(imprecision(rotated, sigma2_g, sigma2_e), dtype=object).reshape(T)
    fine = (boundary == np.array(None)) & (problem == np.array(None))
    messages = np.full(T, "", dtype=object)
    flat = fine & np.isnan(errors["h2"])
    for place in np.argwhere(flat | ~fine | (lost != "")):
        t = tuple(place)
        messages[t] = _message(problem[t], boundary[t], bool(flat[t]), lost[t])
    return REMLFit(
        **{name: plain(value) for name, value in shares.items()},
        **{f"{name}_se": plain(value) for name, value in errors.items()},
        beta=beta.beta,
        beta_se=beta_se,
        beta_cov=beta.cov,
        loglik=plain(optima.loglik.reshape(T)),
        loglik_null=plain(optima.loglik_null.reshape(T)),
        boundary=plain(boundary),
        converged=plain(np.asarray(problem == np.array(None))),
        message=plain(messages),
        n_obs=plain(np.full(T, s.n)),
        pattern=plain(np.zeros(T, dtype=int)),
        method=method,
        names=rotated.names,
        coef=s.coef,
        rotated=rotated,
    )


def _shares(
    rotated: Rotated, g: FloatArray, e: FloatArray, boundary: Any, method: Method
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Return the functions of (σ²_g, σ²_e) that are reported, and their standard errors (NaN on the boundary)."""
    s = rotated.spectrum
    values = quantities(s, g, e)
    kbar, total, a = s.mean_diagonal, values["total"], values["h2"]
    b, lbar = e / total, np.divide(s.mean_eigval, kbar)
    zero, t = np.zeros_like(a), lbar * a + b
    gradients: dict[str, tuple[FloatArray, FloatArray, Any]] = {
        "h2": (b, -a, 1.0),
        "pve": (lbar * b / t**2, -lbar * a / t**2, 1.0),
        "delta": (-b / a**2, 1 / a, kbar),
        "sigma2": (zero + 1, zero, total / kbar),
        "sigma2_g": (zero + 1, zero, total / kbar),
        "sigma2_e": (zero, zero + 1, total),
        "total": (zero + 1, zero + 1, total),
    }
    observed = relative_information(rotated, g, e, method).observed
    interior = boundary == np.array(None)
    errors = {
        name: np.where(interior, unit * standard_error(np.stack([u, v], axis=-1), observed), np.nan)
        for name, (u, v, unit) in gradients.items()
    }
    return values, errors


def _message(problem: str | None, boundary: Boundary | None, flat: bool, lost: str) -> str:
    parts = [] if problem is None else [problem]
    parts += [lost] if lost else []
    if flat:
        parts.append(
            "the likelihood is so flat at its maximum that its curvature is lost to rounding: the standard errors of "
            "the variances and their shares are undefined (NaN). fit.intervals() and flmm.exact_posterior have some"
        )
    if boundary is not None:
        end = "sigma2_g = 0" if boundary == "no kernel variance" else "sigma2_e = 0"
        parts.append(
            f"{boundary}: the likelihood is highest at {end}; the standard errors of the variances and their shares "
            "are undefined there (NaN). fit.intervals('inversion') and flmm.exact_posterior give intervals"
        )
    return ". ".join(parts)
