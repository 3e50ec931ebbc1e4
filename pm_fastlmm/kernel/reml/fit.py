"""REMLFit: the labelled result of a REML or ML fit, for one response or thousands."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.base.labels import over_responses
from pm_fastlmm.kernel.inference.estimates import InformationKind
from pm_fastlmm.kernel.inference.extremes import Surface
from pm_fastlmm.kernel.inference.function import Parameters
from pm_fastlmm.kernel.likelihood.information import (
    errors,
    information,
    log_likelihood,
    quantities,
    score,
    variance_covariance,
)
from pm_fastlmm.kernel.likelihood.prior import read_h2
from pm_fastlmm.kernel.reml.effects_of_fit import KernelEffects
from pm_fastlmm.spectrum.spectrum import Rotated

VARIANCES = ("sigma2_g", "sigma2_e")
_WHOLE = ("method", "names", "coef", "rotated")  # fields that are not one value for each response


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class REMLFit(KernelEffects, Described):
    """
    Estimates of y ~ N(Xβ, σ²(K + δI)), for one response (numbers) or T of them (arrays of length T).

    Attributes
    ----------
    sigma2_g, sigma2_e : float or (T,) array
        σ² and δσ². Where there is no kernel variance sigma2_g = 0, delta = inf and sigma2_e is the estimate.
    at_zero : (…, 2) bool array
        Which of the two is on its boundary, 0.
    observed_information, average_information : (…, 2, 2) arrays
        Of (k̄σ²_g, σ²_e) over their total: pure numbers, whatever the units of y and K.
    mean_diagonal, mean_eigval : float or (T,) array
        tr(K)/n, and Σλ/p.
    blue, blue_cov : arrays (…, r), (…, r, r)
        Generalised least squares at the estimate; `beta`, `beta_se` and `beta_cov` by name.
    loglik, loglik_null : float or (T,) array
        The maximum as lme4 and nlme print it (for REML: Patterson–Thompson, with -½log|XᵀX| and the 2π term), and the
        maximum without the kernel, σ²_g = 0.
    converged : bool or (T,) array
    message : str (an object array for several responses)
    n_obs : int or (T,) array
        Number of observations that were fitted.
    pattern : int or (T,) array
        Number of the pattern of missing rows of each response, 0, 1, …; all 0 when nothing was missing.
    method : "REML" or "ML"
    names : tuple of str or None
        Names of several responses; None for one.
    coef : tuple of str
        Names of the fixed effects.
    rotated : Rotated or None
        The data that were fitted. None after `reml_point`, which has no eigenvectors, and where responses with
        different missing rows had a spectrum each: random effects and predictions need `reml(spectrum, y)`.
    """

    sigma2_g: Any
    sigma2_e: Any
    at_zero: Any
    observed_information: FloatArray
    average_information: FloatArray
    mean_diagonal: Any
    mean_eigval: Any
    blue: FloatArray
    blue_cov: FloatArray
    loglik: Any
    loglik_null: Any
    converged: Any
    message: Any
    n_obs: Any
    pattern: Any
    method: Method
    names: tuple[str, ...] | None
    coef: tuple[str, ...]
    rotated: Rotated | None

    @property
    def h2(self) -> Any:
        """
        k̄/(k̄ + δ) with k̄ = tr(K)/n, the share of variance of ASReml and brms.

        The likelihood and pve do not change when K is centred by X, h² does.
        """
        return self._estimates()["h2"]

    @property
    def pve(self) -> Any:
        """
        k̄/(k̄ + δ) with k̄ = Σλ/p.

        GEMMA's pve has k̄ = tr(CKC)/n, C = I - 11ᵀ/n, whatever the covariates: it is the h² of CKC, with K of the
        analysed people.
        """
        return self._estimates()["pve"]

    @property
    def sigma2(self) -> Any:
        """σ², by which K is multiplied: sigma2_g."""
        return self.sigma2_g

    @property
    def delta(self) -> Any:
        """δ = σ²_e/σ²."""
        return self._estimates()["delta"]

    @property
    def total(self) -> Any:
        """σ²(k̄ + δ), the variance that h2 divides."""
        return self._estimates()["total"]

    @property
    def shares(self) -> pd.Series | pd.DataFrame:
        """The shares h2 of sigma2_g and 1 - h2 of sigma2_e; for several responses a row each."""
        h2 = np.asarray(self.h2)
        return self._by_response({"sigma2_g": h2, "sigma2_e": 1 - h2}, "share")

    @property
    def boundary(self) -> Any:
        """The variances that are 0: a tuple of names; for several responses an object array of tuples."""
        found = np.empty(self.at_zero.shape[:-1], dtype=object)
        for place in np.ndindex(found.shape):
            found[place] = tuple(name for name, zero in zip(VARIANCES, self.at_zero[place], strict=True) if zero)
        return plain(found)

    def _estimates(self) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            found = quantities(self, self.sigma2_g, self.sigma2_e)
        return {name: plain(values) for name, values in found.items()}

    def _errors(self, information: InformationKind) -> dict[str, Any]:
        matrix = self.observed_information if information == "observed" else self.average_information
        with np.errstate(all="ignore"):
            found = errors(self, self.sigma2_g, self.sigma2_e, self.at_zero, matrix)
        return {name: plain(values) for name, values in found.items()}

    def _parameters(self) -> Parameters:
        values = np.array([self.sigma2_g, self.sigma2_e])
        cov = variance_covariance(self, self.sigma2_g, self.sigma2_e, self.at_zero, self.observed_information)
        return Parameters(
            VARIANCES, values, cov, np.zeros(2), np.full(2, np.inf),
            derived=lambda v: quantities(self, v["sigma2_g"], v["sigma2_e"]),
            surface=self._surface if self.converged and self.rotated is not None else None,
        )  # fmt: skip

    def _surface(self) -> Surface:
        """Return the likelihood in (σ²_g, σ²_e), the latter off 0, where y may have a direction without variance."""
        data, estimate = self._data, np.array([self.sigma2_g, self.sigma2_e])
        units = self.total / np.array([self.mean_diagonal, 1.0])
        g, e = np.maximum(estimate, 0.05 * units)
        curvature = np.diagonal(information(data, g, e, self.method).average) + score(data, g, e, self.method) ** 2

        def loglik(x: FloatArray) -> tuple[float, FloatArray]:
            g, e = x
            return float(log_likelihood(data, g, e, method=self.method)), score(data, g, e, self.method)

        return Surface(
            loglik, np.asarray, lambda x: np.eye(2), estimate, 1 / np.sqrt(curvature), np.array([0.0, 1e-12]) * units,
            np.full(2, np.inf), float(self.loglik),
        )  # fmt: skip

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
        >>> dict(fits.sizes), bool((fits.loglik >= fits.loglik_null).all())
        ({'response': 50, 'coef': 1}, True)
        """
        over, responses = over_responses(self.names)
        errors = {f"{name}_se": values for name, values in self._errors("observed").items()}
        numbers = ("loglik", "loglik_null", "converged", "n_obs", "pattern")
        values = self._estimates() | errors | {name: getattr(self, name) for name in numbers}
        variables: dict[str, Any] = {name: (over, value) for name, value in values.items()}
        variables |= {"beta": ((*over, "coef"), self.blue), "beta_se": ((*over, "coef"), self._blue_se)}
        boundary = np.where(self.at_zero[..., 0], "sigma2_g", np.where(self.at_zero[..., 1], "sigma2_e", ""))
        variables["boundary"] = (over, boundary)
        variables["message"] = (over, np.asarray(self.message, dtype=str))
        coords = {"coef": list(self.coef)} | responses
        attrs = {"method": self.method, "model": "y ~ N(Xβ, σ²(K + δI))", "patterns": int(np.max(self.pattern)) + 1}
        return xr.Dataset(variables, coords=coords, attrs=attrs)

    def response(self, name: str) -> "REMLFit":
        """
        Return the fit of one of several responses by its name.

        Raises
        ------
        ValueError
            If there is no response of that name, or several.
        """
        if self.names is None or name not in self.names:
            raise ValueError(f"there is no response {name!r}: the names are those of the columns of y, see fit.names.")
        if self.names.count(name) > 1:
            raise ValueError(f"several responses are called {name!r}: rename the columns of y.")
        t, r = self.names.index(name), self.rotated
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        taken = {f: plain(v[t]) if np.ndim(v) == 1 else v[t] for f, v in values.items() if f not in _WHOLE}
        return replace(self, **taken, names=None, rotated=None if r is None else r.one(t))

    def profile(self, values: Any, name: str = "h2") -> FloatArray:
        """
        Return the profile log-likelihood at values (m,) of h², maximised over the total variance and β.

        It is `loglik` at the estimate; ratios of it give intervals and tests. For one response.

        Parameters
        ----------
        values : (m,) array
        name : "h2"
            What they are values of; that of a variance is `find_reml(...).profile(values, name)`.

        Raises
        ------
        ValueError
            If h2 is outside [0, 1], the name is another, or the fit has several responses.
        """
        if self.names is not None:
            raise ValueError("the profile is that of one response: fit the response of interest alone.")
        if name != "h2":
            raise ValueError(
                f"the profile of one kernel is that of h2, got {name!r}: flmm.find_reml has those of its variances."
            )
        s, h = self.spectrum, read_h2(values)
        m = s.df if self.method == "REML" else s.n
        with np.errstate(all="ignore"):
            e = h[..., None] * (s.eigvals / s.mean_diagonal) + (1 - h)[..., None]
            quadratic = (self._data.z**2 / e).sum(-1)
            total = (quadratic + self._data.rss / (1 - h) if s.nullity else quadratic) / m
            total = np.where(np.isfinite(total), total, 0.0)  # at h2 = 1 with a null space the likelihood is 0
            return log_likelihood(self._data, h * total / s.mean_diagonal, (1 - h) * total, method=self.method)

    def __repr__(self) -> str:
        """Report the fit as text."""
        if self.names is not None:
            return (
                f"{self.method} fit of {self._model}: {self._counts}, {len(self.names)} responses; .summary() has the "
                "table"
            )
        return super(REMLFit, self).__repr__()

    def _repr_html_(self) -> str:
        """Show the table of one response, the names of several."""
        return Described._repr_html_(self) if self.names is not None else super(REMLFit, self)._repr_html_()

    def _facts(self) -> dict[str, Any]:
        assert self.names is not None
        return {
            "method": self.method,
            "observations": self._counts.replace(" observations", ""),
            "responses": f"{len(self.names)}: {listed(self.names)}",
            "fixed effects": listed(self.coef),
            "on the boundary": int(self.at_zero.any(axis=-1).sum()),
            "not converged": int((~np.asarray(self.converged)).sum()),
            "table": ".summary(), .to_dataset()",
        }

    @property
    def _counts(self) -> str:
        n = np.unique(self.n_obs)
        individuals = None if self.rotated is None else self.rotated.spectrum.individuals
        levels = "" if individuals is None else f", {len(individuals.root)} levels of individual"
        return (f"{n[0]} to {n[-1]} observations" if n.size > 1 else f"{n[0]} observations") + levels

    @property
    def _rows_dropped(self) -> str:
        return "" if self.rotated is None else self.rotated.spectrum.rows_dropped

    @property
    def _model(self) -> str:
        return (
            "y ~ N(Xβ, σ²(K + δI))"
            if self.rotated is None
            else self.rotated.spectrum.model_of(self.rotated.response or "y")
        )

    @property
    def _variances(self) -> tuple[str, ...]:
        return ("sigma2", "sigma2_g", "sigma2_e", "total")

    @property
    def _tested(self) -> bool:
        return bool(self.coef) and self.rotated is not None


def plain(value: Any) -> Any:
    """Return a Python number, string or None for one response, the array for several."""
    return value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value
