"""REML and ML point estimates for one kernel, one or several responses."""

from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pandas as pd
import xarray as xr

from pm_fastlmm import coefficients, effects
from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.coefficients import FactorEffects
from pm_fastlmm.effects import Prediction
from pm_fastlmm.information import relative_information, standard_error
from pm_fastlmm.labels import labelled
from pm_fastlmm.likelihood.profile import Boundary, Method, maximise
from pm_fastlmm.likelihood.spectral import LOG_2PI, contrast_loglik, corner
from pm_fastlmm.linalg.lowrank import imprecision
from pm_fastlmm.linalg.rotated import Rotated
from pm_fastlmm.linalg.spectrum import Spectrum, as_rotated

_VARIANCE_FIELDS = ("h2", "pve", "sigma2", "delta", "sigma2_g", "sigma2_e", "total")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class REMLFit:
    """
    Estimates of y ~ N(Xβ, σ²(K + δI)), for one response (numbers) or T of them (arrays of length T).

    Attributes
    ----------
    sigma2, delta : float or (T,) array
        σ² multiplies K, δ = σ²_e/σ².
    sigma2_g, sigma2_e : float or (T,) array
        σ² and δσ². At "no kernel variance" sigma2_g = 0, delta = inf and sigma2_e is the estimate.
    h2, pve : float or (T,) array
        k̄/(k̄ + δ) with k̄ = tr(K)/n (the share of variance of ASReml and brms), and with k̄ = Σλ/p (GEMMA's pve).
        The likelihood and pve do not change when K is centred by X, h² does.
    total : float or (T,) array
        σ²(k̄ + δ), the variance that h2 divides.
    sigma2_se, … : float or (T,) array
        Standard errors from the observed information (delta method); NaN where they are undefined, said in `message`.
    beta, beta_se, beta_cov : arrays (…, r), (…, r), (…, r, r)
        Generalised least squares at the estimate.
    loglik : float or (T,) array
        The maximum as lme4 and nlme print it (for REML: Patterson–Thompson, with -½log|XᵀX| and the 2π term).
    boundary : None, "no kernel variance" or "no residual variance" (an object array for several responses)
    converged : bool or (T,) array
    message : str (an object array for several responses)
    method : "REML" or "ML"
    rotated : Rotated
        The data that were fitted.
    """

    sigma2: Any
    delta: Any
    sigma2_g: Any
    sigma2_e: Any
    h2: Any
    pve: Any
    total: Any
    sigma2_se: Any
    delta_se: Any
    sigma2_g_se: Any
    sigma2_e_se: Any
    h2_se: Any
    pve_se: Any
    total_se: Any
    beta: FloatArray
    beta_se: FloatArray
    beta_cov: FloatArray
    loglik: Any
    boundary: Any
    converged: Any
    message: Any
    method: Method
    rotated: Rotated

    @property
    def spectrum(self) -> Spectrum:
        """The spectrum that was used."""
        return self.rotated.spectrum

    @property
    def coef(self) -> tuple[str, ...]:
        """Names of the fixed effects."""
        return self.spectrum.coef

    def summary(self) -> pd.DataFrame:
        """
        Return the estimates and standard errors as a table; for several responses with one block of rows each.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> batch = np.repeat(np.eye(3), 4, axis=0)
        >>> spectrum = flmm.Spectrum.from_factor(batch, np.ones((12, 1)))
        >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
        >>> flmm.reml(spectrum, y).summary().round(3)
                  estimate     se
        h2           0.922  0.082
        pve          0.895  0.106
        sigma2       3.917  4.000
        delta        0.085  0.096
        sigma2_g     3.917  4.000
        sigma2_e     0.333  0.157
        total        4.250  4.002
        beta[x0]     3.500  1.155
        """
        if self.rotated.names is not None:
            tables = {name: self._one(t).summary() for t, name in enumerate(self.rotated.names)}
            return pd.concat(tables, names=["response", "quantity"])
        rows = {name: (getattr(self, name), getattr(self, f"{name}_se")) for name in _VARIANCE_FIELDS}
        for j, name in enumerate(self.coef):
            rows[f"beta[{name}]"] = (self.beta[j], self.beta_se[j])
        return pd.DataFrame.from_dict(rows, orient="index", columns=["estimate", "se"]).astype(float)

    def to_dataset(self) -> xr.Dataset:
        """
        Return the estimates as an xarray Dataset with dimensions "response" (for several) and "coef".

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> rng = np.random.default_rng(3)
        >>> W = np.repeat(np.eye(6), 4, axis=0)
        >>> Y = W @ rng.normal(size=(6, 50)) + rng.normal(size=(24, 50))
        >>> fits = flmm.reml(flmm.Spectrum.from_factor(W, np.ones((24, 1))), Y).to_dataset()
        >>> dict(fits.sizes)
        {'response': 50, 'coef': 1}
        """
        names = self.rotated.names
        over = () if names is None else ("response",)
        numbers = [*_VARIANCE_FIELDS, *(f"{name}_se" for name in _VARIANCE_FIELDS), "loglik", "converged"]
        variables: dict[str, Any] = {name: (over, getattr(self, name)) for name in numbers}
        for name in ("beta", "beta_se"):
            variables[name] = ((*over, "coef"), getattr(self, name))
        boundary = np.asarray(self.boundary, dtype=object)
        variables["boundary"] = (over, np.where(boundary == np.array(None), "", boundary).astype(str))
        variables["message"] = (over, np.asarray(self.message, dtype=str))
        coords = {"coef": list(self.coef)} | ({} if names is None else {"response": list(names)})
        return xr.Dataset(variables, coords=coords, attrs={"method": self.method, "model": "y ~ N(Xβ, σ²(K + δI))"})

    def blup(self) -> Any:
        """
        Return the best linear unbiased predictor û of the random effects, (n,) or (n, T).

        A Series, or a DataFrame for several responses, by id when the observations have ids (`spectrum.ids`); an array
        in the order of the observations otherwise. So are `pev` and what `predict` returns.

        Examples
        --------
        >>> import numpy as np
        >>> import pandas as pd
        >>> import pm_fastlmm as flmm
        >>> y = pd.Series([1.0, 2, 1, 5, 6, 5], index=list("abcdef"))
        >>> batch = pd.DataFrame(np.repeat(np.eye(2), 3, axis=0), index=y.index)
        >>> fit = flmm.reml(flmm.Spectrum.from_factor(batch, np.ones((6, 1))), y)
        >>> print(f"{fit.blup()['e']:.4f}")
        1.9722
        """
        u = effects.blup(self.rotated, self.sigma2_g, self.sigma2_e).lift(self.spectrum).T
        return labelled(u, self.spectrum.ids, self.rotated.names, name="blup")

    def factor_effects(self) -> FactorEffects:
        """
        Return the coefficients a of the factor W, u = Wa with a ~ N(0, σ²I): marker effects, when W are markers.

        Their best linear unbiased predictor and its error variance, (m,) or (m, T), after `Spectrum.from_factor` or
        `CrossProducts`; by name when the columns of W have names.
        """
        found = coefficients.factor_effects(self.rotated, np.asarray(self.sigma2_g), np.asarray(self.sigma2_e))
        names, responses = self.spectrum.factor_names, self.rotated.names
        return FactorEffects(*(labelled(values, names, responses) for values in (found.mean, found.variance)))

    def pev(self, *, full: bool = False) -> Any:
        """
        Return the prediction error variance Var(û - u).

        Its diagonal (n,) or (n, T), or on request the matrix (n, n), for one response; with ids as `blup`.
        """
        ids, names = self.spectrum.ids, self.rotated.names
        if full and names is not None:
            raise ValueError("pev(full=True) is a matrix for one response: fit the response of interest alone.")
        pev = effects.pev(self.spectrum, self.sigma2_g, self.sigma2_e, full=full).T
        return labelled(pev, ids, ids if full else names, name="pev")

    def predict(self, X_new: Any = None, K_new: Any = None, *, W_new: Any = None, K_new_new: Any = None) -> Prediction:
        """
        Predict f = Xβ + u for new rows, or for the training rows when nothing is given.

        Parameters
        ----------
        X_new : (m, r) array or DataFrame
            Fixed-effects design of the new rows.
        K_new : (m, n) array or DataFrame
            Covariance of the new effects with the training effects, on the scale of K.
        W_new : (m, q) array
            Rows of the factor instead, after `Spectrum.from_factor`.
        K_new_new : (m, m) or (m,) array, optional
            Covariance of the new effects or its diagonal; without it the variances are NaN.

        Returns
        -------
        Prediction
            With `mean`, `variance`, `se`, `se_observation`; by id when the rows have ids, as `blup`.
        """
        g, e = np.asarray(self.sigma2_g), np.asarray(self.sigma2_e)
        if X_new is None and K_new is None and W_new is None:
            ids, prediction = self.spectrum.ids, effects.fitted(self.rotated, g, e)
        else:
            new = effects.new_rows(self.spectrum, X_new, K_new, W_new=W_new, K_new_new=K_new_new)
            ids, prediction = new.ids, effects.predict(self.rotated, g, e, new)
        names = self.rotated.names
        mean, variance = (labelled(values, ids, names) for values in (prediction.mean, prediction.variance))
        return replace(prediction, mean=mean, variance=variance)

    def profile(self, h2: Any) -> FloatArray:
        """
        Return the profile log-likelihood at values (m,) of h², maximised over the total variance and β.

        It is `loglik` at the estimate; ratios of it give intervals and tests. For one response.

        Raises
        ------
        ValueError
            If h2 is outside [0, 1], or the fit has several responses.
        """
        s, h = self.spectrum, np.asarray(h2, dtype=float)
        if self.rotated.names is not None:
            raise ValueError("the profile is that of one response: fit the response of interest alone.")
        if not ((h >= 0) & (h <= 1)).all():
            raise ValueError("h2 must be between 0 and 1.")
        m = s.df if self.method == "REML" else s.n
        with np.errstate(all="ignore"):
            e = h[..., None] * (s.eigvals / s.mean_diagonal) + (1 - h)[..., None]
            quadratic = (self.rotated.z**2 / e).sum(-1)
            total = (quadratic + self.rotated.rss / (1 - h) if s.nullity else quadratic) / m
            total = np.where(np.isfinite(total), total, 0.0)  # at h2 = 1 with a null space the likelihood is 0
            return log_likelihood(self.rotated, h * total / s.mean_diagonal, (1 - h) * total, method=self.method)

    def _one(self, t: int) -> "REMLFit":
        r = self.rotated
        assert r.names is not None
        rotated = Rotated(r.spectrum, r.z[t], r.rss[t], r.y1[t], r.norm2[t], None)
        values = {f: getattr(self, f) for f in self.__dataclass_fields__}
        taken = {f: v[t] for f, v in values.items() if f not in ("method", "rotated")}
        return REMLFit(**taken, method=self.method, rotated=rotated)

    def __repr__(self) -> str:
        """Report the fit as text."""
        s = self.spectrum
        head = f"{self.method} fit of y ~ N(Xβ, σ²(K + δI)): {s.n} observations"
        if self.rotated.names is not None:
            return f"{head}, {len(self.rotated.names)} responses; .summary() has the table"
        lines = [head, self.summary().to_string(float_format=lambda v: f"{v:.6g}", na_rep="undefined")]
        lines.append(f"log-likelihood {self.loglik:.7f}")
        if self.boundary:
            lines.append(f"at the boundary: {self.boundary}")
        lines.append(
            ("converged" if self.converged else "NOT CONVERGED") + (f": {self.message}" if self.message else "")
        )
        return "\n".join(lines)


def reml(spectrum: Spectrum, y: Any, *, method: Method = "REML") -> REMLFit:
    """
    Fit y ~ N(Xβ, σ²(K + δI)) by restricted maximum likelihood, or by maximum likelihood.

    The profile likelihood of δ is searched globally: all modes, and both boundaries as exact limits.

    Parameters
    ----------
    spectrum : Spectrum
        K and X, factored once.
    y : array, Series, DataFrame or Rotated
        One response (n,), several (n, T), or what `spectrum.rotate` returned.
    method : {"REML", "ML"}

    Returns
    -------
    REMLFit
        A fit on the boundary or one that has no maximum is labelled in `boundary`, `converged` and `message`.

    Raises
    ------
    ValueError
        If y has missing values or does not fit the spectrum.

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
    _check_method(method)
    rotated = as_rotated(spectrum, y)
    k, T = rotated.spectrum.rank, rotated.batch_shape
    optima = [
        maximise(z, float(rss), rotated, method)
        for z, rss in zip(rotated.z.reshape(rotated.rss.size, k), rotated.rss.reshape(-1), strict=True)
    ]
    sigma2_g = np.array([o.sigma2_g for o in optima]).reshape(T)
    sigma2_e = np.array([o.sigma2_e for o in optima]).reshape(T)
    boundary = np.array([o.boundary for o in optima], dtype=object).reshape(T)
    with np.errstate(all="ignore"):
        loglik = log_likelihood(rotated, sigma2_g, sigma2_e, method=method)
        shares, errors = _shares(rotated, sigma2_g, sigma2_e, boundary, method)
        beta = effects.blue(rotated, sigma2_g, sigma2_e)
        beta_se = np.sqrt(np.diagonal(beta.cov, axis1=-2, axis2=-1))
    problems = np.array([o.problem for o in optima], dtype=object).reshape(T)
    flat = (boundary == np.array(None)) & (problems == np.array(None)) & np.isnan(errors["h2"])
    lost = imprecision(rotated, sigma2_g, sigma2_e)
    rows = zip(problems.flat, boundary.flat, flat.flat, lost, strict=True)
    messages = np.array([_message(*row) for row in rows], dtype=object)
    return REMLFit(
        **{name: _plain(value) for name, value in shares.items()},
        **{f"{name}_se": _plain(value) for name, value in errors.items()},
        beta=beta.beta,
        beta_se=beta_se,
        beta_cov=beta.cov,
        loglik=_plain(loglik),
        boundary=_plain(boundary),
        converged=_plain(problems == np.array(None)),
        message=_plain(messages.reshape(T)),
        method=method,
        rotated=rotated,
    )


def log_likelihood(
    rotated: Rotated, sigma2_g: FloatArray | float, sigma2_e: FloatArray | float, *, method: Method = "REML"
) -> FloatArray:
    """
    Return the restricted or full log-likelihood with β at its estimate, as lme4 prints it.

    ℓ_PT = ℓ_R - ½log|XᵀX|, which is log ∫ p(y | β) dβ; and ℓ_ML = ℓ_R - ½(r log 2π + log|S|).
    """
    _check_method(method)
    if not isinstance(rotated, Rotated):
        raise TypeError(f"rotated must be a Rotated, got {type(rotated).__name__}: rotate y first, spectrum.rotate(y).")
    s = rotated.spectrum
    g, e = np.asarray(sigma2_g, dtype=float), np.asarray(sigma2_e, dtype=float)
    if (g < 0).any() or (e < 0).any():
        raise ValueError("variances must not be negative.")
    with np.errstate(all="ignore"):
        loglik = contrast_loglik(rotated.z, rotated.rss, eigvals=s.eigvals, nullity=s.nullity, sigma2_g=g, sigma2_e=e)
        if method == "REML":
            loglik = loglik - s.projection.logdet_R
        else:
            _, S = corner(rotated.z, eigvals=s.eigvals, C=s.C, schur=s.schur, sigma2_g=g, sigma2_e=e)
            loglik = loglik - 0.5 * (s.projection.rank * LOG_2PI + np.linalg.slogdet(S)[1])
    impossible = (g + e == 0) | ((e == 0) & bool(s.nullity))  # y has a direction without variance
    return np.where(impossible, -np.inf, loglik)


def _shares(
    rotated: Rotated, g: FloatArray, e: FloatArray, boundary: Any, method: Method
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Return the functions of (σ²_g, σ²_e) that are reported, and their standard errors (NaN on the boundary)."""
    s = rotated.spectrum
    kbar, total = s.mean_diagonal, s.mean_diagonal * g + e
    # in the pure numbers a = h² and b = 1 - h², so that no unit of y or K can leave the range of floats
    a, b = kbar * g / total, e / total
    lbar = np.divide(s.mean_eigval, kbar)
    zero, t = np.zeros_like(a), lbar * a + b
    values = {"sigma2": g, "sigma2_g": g, "sigma2_e": e, "delta": e / g, "h2": a, "pve": lbar * a / t, "total": total}
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
    directions = np.moveaxis(np.array([(u, v) for u, v, _ in gradients.values()]), 1, -1)
    relative = np.where(interior, standard_error(directions, observed), np.nan)
    errors = {name: gradients[name][2] * error for name, error in zip(gradients, relative, strict=True)}
    return values, errors


def _check_method(method: str) -> None:
    if method not in get_args(Method.__value__):
        raise ValueError(f"method must be 'REML' or 'ML', got {method!r}.")


def _message(problem: str | None, boundary: Boundary | None, flat: bool, lost: str) -> str:
    parts = [] if problem is None else [problem]
    parts += [lost] if lost else []
    if flat:
        parts.append(
            "the likelihood is so flat at its maximum that its curvature is lost to rounding: the standard errors of "
            "the variances and their shares are undefined (NaN). flmm.exact_posterior gives intervals"
        )
    if boundary is not None:
        end = "sigma2_g = 0" if boundary == "no kernel variance" else "sigma2_e = 0"
        parts.append(
            f"{boundary}: the likelihood is highest at {end}; the standard errors of the variances and their shares "
            "are undefined there (NaN). flmm.exact_posterior gives intervals"
        )
    return ". ".join(parts)


def _plain(value: Any) -> Any:
    """Return a Python number, string or None for one response, the array for several."""
    return value.item() if np.ndim(value) == 0 else value
