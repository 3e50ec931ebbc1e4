"""REMLFit: the labelled result of a REML or ML fit, for one response or thousands."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import OF_NEW_ROWS, OF_REPLICATES, Method, require_choice
from pm_fastlmm.base.display import Described, listed, report
from pm_fastlmm.base.labels import labelled, simulated
from pm_fastlmm.kernel.effects import coefficients
from pm_fastlmm.kernel.effects.coefficients import FactorEffects
from pm_fastlmm.kernel.effects.effects import (
    Prediction,
    blup,
    conditional_variance,
    draw_prior_effects,
    fitted,
    new_rows,
    pev,
    population_rows,
    predict,
)
from pm_fastlmm.kernel.effects.left_out import Predicted
from pm_fastlmm.kernel.inference.of_fit import FitInference
from pm_fastlmm.kernel.likelihood.marginal import log_likelihood
from pm_fastlmm.kernel.likelihood.prior import read_h2
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

VARIANCE_FIELDS = ("h2", "pve", "sigma2", "delta", "sigma2_g", "sigma2_e", "total")
_WHOLE = ("method", "names", "coef", "rotated")  # fields that are not one value for each response


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class REMLFit(FitInference, Described):
    """
    Estimates of y ~ N(Xβ, σ²(K + δI)), for one response (numbers) or T of them (arrays of length T).

    Attributes
    ----------
    sigma2, delta : float or (T,) array
        σ² multiplies K, δ = σ²_e/σ².
    sigma2_g, sigma2_e : float or (T,) array
        σ² and δσ². At "no kernel variance" sigma2_g = 0, delta = inf and sigma2_e is the estimate.
    h2, pve : float or (T,) array
        k̄/(k̄ + δ) with k̄ = tr(K)/n (the share of variance of ASReml and brms), and with k̄ = Σλ/p. The likelihood and
        pve do not change when K is centred by X, h² does. GEMMA's pve has k̄ = tr(CKC)/n, C = I - 11ᵀ/n, whatever the
        covariates: it is the h² of CKC, with K of the analysed people.
    total : float or (T,) array
        σ²(k̄ + δ), the variance that h2 divides.
    sigma2_se, … : float or (T,) array
        Standard errors from the observed information (delta method); NaN where they are undefined, said in `message`.
    beta, beta_se, beta_cov : arrays (…, r), (…, r), (…, r, r)
        Generalised least squares at the estimate.
    loglik, loglik_null : float or (T,) array
        The maximum as lme4 and nlme print it (for REML: Patterson–Thompson, with -½log|XᵀX| and the 2π term), and the
        maximum without the kernel, σ²_g = 0.
    boundary : None, "no kernel variance" or "no residual variance" (an object array for several responses)
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
    loglik_null: Any
    boundary: Any
    converged: Any
    message: Any
    n_obs: Any
    pattern: Any
    method: Method
    names: tuple[str, ...] | None
    coef: tuple[str, ...]
    rotated: Rotated | None

    @property
    def spectrum(self) -> Spectrum:
        """The spectrum that was used."""
        return self._data.spectrum

    @property
    def _data(self) -> Rotated:
        if self.rotated is None:
            raise ValueError(
                "this fit keeps no eigenvectors, or its responses had different missing rows, so that it has neither "
                "random effects nor predictions, tests or intervals: fit flmm.reml(spectrum, y), or "
                "reml(spectrum.subset(rows), y[rows])."
            )
        return self.rotated

    def summary(self) -> pd.DataFrame:
        """
        Return the estimates and standard errors as a table, with one block of rows per response.

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
        quantities = [*VARIANCE_FIELDS, *(f"beta[{name}]" for name in self.coef)]
        index: pd.Index = pd.Index(quantities)
        if self.names is not None:
            index = pd.MultiIndex.from_product([self.names, quantities], names=["response", "quantity"])
        columns = {}
        for column, end, beta in (("estimate", "", self.beta), ("se", "_se", self.beta_se)):
            variances = np.stack([getattr(self, f + end) for f in VARIANCE_FIELDS], axis=-1)
            columns[column] = np.concatenate([variances, beta], axis=-1).ravel()
        return pd.DataFrame(columns, index=index, dtype=float)

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
        over = () if self.names is None else ("response",)
        numbers = [*VARIANCE_FIELDS, *(f"{name}_se" for name in VARIANCE_FIELDS), "loglik", "loglik_null", "converged"]
        variables: dict[str, Any] = {name: (over, getattr(self, name)) for name in (*numbers, "n_obs", "pattern")}
        for name in ("beta", "beta_se"):
            variables[name] = ((*over, "coef"), getattr(self, name))
        boundary = np.asarray(self.boundary, dtype=object)
        variables["boundary"] = (over, np.where(boundary == np.array(None), "", boundary).astype(str))
        variables["message"] = (over, np.asarray(self.message, dtype=str))
        coords = {"coef": list(self.coef)} | ({} if self.names is None else {"response": list(self.names)})
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
        rotated = None if r is None else Rotated(r.spectrum, r.z[t], r.rss[t], r.y1[t], r.norm2[t], None)
        return REMLFit(**taken, method=self.method, names=None, coef=self.coef, rotated=rotated)

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
        u = blup(self._data, self.sigma2_g, self.sigma2_e).lift(self.spectrum).T
        return labelled(u, self.spectrum.ids, self.names, name="blup")

    def factor_effects(self) -> FactorEffects:
        """
        Return the coefficients a of the factor W, u = Wa with a ~ N(0, σ²I): marker effects, when W are markers.

        Their best linear unbiased predictor and its error variance, (m,) or (m, T), after `Spectrum.from_factor` or
        `CrossProducts`; by name when the columns of W have names.
        """
        found = coefficients.factor_effects(self._data, np.asarray(self.sigma2_g), np.asarray(self.sigma2_e))
        names, responses = self.spectrum.factor_names, self.names
        return FactorEffects(*(labelled(values, names, responses) for values in (found.mean, found.variance)))

    def pev(self, *, full: bool = False) -> Any:
        """
        Return the prediction error variance Var(û - u).

        Its diagonal (n,) or (n, T), or on request the matrix (n, n), for one response; with ids as `blup`. It includes
        the uncertainty of β̂, which `conditional_variance` does not.
        """
        ids, names = self.spectrum.ids, self.names
        if full and names is not None:
            raise ValueError("pev(full=True) is a matrix for one response: fit the response of interest alone.")
        errors = pev(self.spectrum, self.sigma2_g, self.sigma2_e, full=full).T
        return labelled(errors, ids, ids if full else names, name="pev")

    def conditional_variance(self) -> Any:
        """
        Return Var(u | y, β), (n,) or (n, T), β and the variances at their estimates; with ids as `blup`.

        It is the diagonal of σ²_gK - σ²_gK V⁻¹ σ²_gK, what lme4 calls `condVar`. `pev` is larger by what the
        uncertainty of β̂ adds, and is the one that intervals of u need.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> batch = np.repeat(np.eye(3), 4, axis=0)
        >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
        >>> fit = flmm.reml(flmm.Spectrum.from_factor(batch, np.ones((12, 1))), y)
        >>> print(f"{fit.conditional_variance()[0]:.4f} {fit.pev()[0]:.4f}")
        0.0816 1.3600
        """
        variance = conditional_variance(self.spectrum, self.sigma2_g, self.sigma2_e).T
        return labelled(variance, self.spectrum.ids, self.names, name="conditional_variance")

    def predict(
        self,
        X_new: Any = None,
        K_new: Any = None,
        *,
        W_new: Any = None,
        K_new_new: Any = None,
        effects: Literal["given", "population"] = "given",
    ) -> Prediction:
        """
        Predict f = Xβ + u for new rows, or for the training rows when nothing is given.

        Parameters
        ----------
        X_new : (m, d) array or DataFrame
            Fixed-effects design of the new rows: all columns of X, by name where both have names.
        K_new : (m, n) array or DataFrame
            Covariance of the new effects with the training effects, on the scale of K.
        W_new : (m, q) array
            Rows of the factor instead, after `Spectrum.from_factor`.
        K_new_new : (m, m) or (m,) array, optional
            Covariance of the new effects or its diagonal; without it the variances are NaN.
        effects : {"given", "population"}
            "population": f = Xβ, the population mean, which needs X_new alone.

        Returns
        -------
        Prediction
            With `mean`, `variance`, `se`, `se_observation`; by id when the rows have ids, as `blup`.

        Raises
        ------
        ValueError
            If shapes or ids do not fit.

        Warns
        -----
        UserWarning
            If the data do not determine Xβ of some rows: a column of X was dropped as a linear combination of others,
            and in those rows it is not that. They are NaN.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> batch = np.repeat(np.eye(3), 4, axis=0)
        >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
        >>> fit = flmm.reml(flmm.Spectrum.from_factor(batch, np.ones((12, 1))), y)
        >>> of_batch = fit.predict([[1.0]], W_new=[[0, 1, 0]])
        >>> of_any = fit.predict([[1.0]], effects="population")
        >>> print(f"{of_batch.mean[0]:.2f} ± {of_batch.se[0]:.2f}, {of_any.mean[0]:.2f} ± {of_any.se[0]:.2f}")
        5.46 ± 0.29, 3.50 ± 1.15
        """
        require_choice("effects", effects, OF_NEW_ROWS)
        g, e = np.asarray(self.sigma2_g), np.asarray(self.sigma2_e)
        if effects == "population":
            if not (K_new is None and W_new is None and K_new_new is None):
                raise ValueError(
                    "effects='population' is Xβ without random effects: leave out K_new, W_new, K_new_new."
                )
            new = population_rows(self.spectrum, X_new)
            ids, prediction = new.ids, predict(self._data, g, e, new)
        elif X_new is None and K_new is None and W_new is None:
            ids, prediction = self.spectrum.ids, fitted(self._data, g, e)
        else:
            new = new_rows(self.spectrum, X_new, K_new, W_new=W_new, K_new_new=K_new_new)
            ids, prediction = new.ids, predict(self._data, g, e, new)
        names = self.names
        mean = labelled(prediction.mean, ids, names, name="mean")
        variance = labelled(prediction.variance, ids, names, name="variance")
        return replace(prediction, mean=mean, variance=variance)

    def loo(self, y: Any = None, *, groups: Any = None) -> pd.DataFrame:
        """
        Predict each observation from all others, or with `groups` from the other groups.

        The variances stay at their estimates, which single observations move little; β̂ and û are those of the others,
        exactly, and nothing is fitted again:

            y_i | y_-i ~ N(y_i - (Py)_i/P_ii, 1/P_ii)

        Parameters
        ----------
        y : (n,) or (n, T) array, Series or DataFrame, optional
            The responses that were fitted; needed where K has a null space, in which the fit keeps their length alone.
        groups : sequence, Series or Categorical of labels, or a list of several factors, optional

        Returns
        -------
        DataFrame
            By observation (for several responses by response and observation): y, its `mean` and `sd` given the others,
            `log_density`, and `pit` = P(ỹ_i ≤ y_i | y_-i), uniform under the model; first the `group` if there are any.

        Raises
        ------
        ValueError
            If y is needed, or is not what was fitted; if there is no estimate; if groups do not fit.

        Warns
        -----
        UserWarning
            If an observation (or group) alone determines a fixed effect: the others do not predict it.

        References
        ----------
        Sundararajan & Keerthi (2001), doi:10.1162/08997660151134343.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> batch = np.repeat(np.eye(3), 4, axis=0)
        >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 7])
        >>> fit = flmm.reml(flmm.Spectrum.from_factor(batch, np.ones((12, 1))), y)
        >>> fit.loo(y).tail(2).round(3)
              y   mean     sd  log_density    pit
        10  3.0  4.581  1.362       -1.901  0.123
        11  7.0  3.346  1.362       -4.829  0.996
        """
        found = Predicted.of_rotated(self._data, self.sigma2_g, self.sigma2_e, y, groups)
        return self._by_response([found.table(place) for place in self._places()], "obs")

    def loo_groups(self, groups: Any, y: Any = None) -> pd.DataFrame:
        """
        Return the joint density of each group of observations given all others, as `loo` does for single ones.

        Returns
        -------
        DataFrame
            By group (for several responses by response and group): `n_obs`, `log_density`, `chi2`, the squared length
            of the group's deviations in units of their covariance, and `pit`, its χ² probability with n_obs degrees of
            freedom: near 1 for a group that the others do not expect.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> batch = np.repeat(np.arange(3), 4)
        >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 7])
        >>> fit = flmm.reml(flmm.Spectrum.from_factor(np.eye(3)[batch], np.ones((12, 1))), y)
        >>> fit.loo_groups(batch, y).round(2)
               n_obs  log_density  chi2   pit
        group
        0          4        -7.07  2.52  0.36
        1          4        -6.71  1.80  0.23
        2          4        -9.65  7.68  0.90
        """
        found = Predicted.of_rotated(self._data, self.sigma2_g, self.sigma2_e, y, groups)
        return self._by_response([found.group_table(place) for place in self._places()], "group")

    def _places(self) -> list[Any]:
        return [()] if self.names is None else list(range(len(self.names)))

    def _by_response(self, tables: list[pd.DataFrame], row: str) -> pd.DataFrame:
        if self.names is None:
            return tables[0]
        return pd.concat(tables, keys=list(self.names), names=["response", row])

    def simulate(
        self, n_draws: int = 1, *, effects: Literal["new", "given"] = "new", random_seed: Any = None
    ) -> pd.DataFrame:
        """
        Draw new responses from the fitted model, y* = Xβ̂ + u + e with the variances at their estimates.

        Parameters
        ----------
        n_draws : int
        effects : {"new", "given"}
            "new": u ~ N(0, σ²_gK), other individuals, which is the parametric bootstrap. "given": the û of the fit,
            which vary less than u did.
        random_seed : optional

        Returns
        -------
        DataFrame (n, n_draws)
            In the form in which `reml(fit.spectrum, …)` fits all of them in one call.

        Raises
        ------
        ValueError
            If the fit has several responses, or no estimate.

        Examples
        --------
        The sampling distribution of h², by parametric bootstrap.

        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> batch = np.repeat(np.eye(5), 4, axis=0)
        >>> y = np.repeat([1.0, 5.0, 3.0, 2.0, 4.0], 4) + np.tile([0.0, 1.0], 10)
        >>> fit = flmm.reml(flmm.Spectrum.from_factor(batch, np.ones((20, 1))), y)
        >>> again = flmm.reml(fit.spectrum, fit.simulate(200, random_seed=1))
        >>> low, high = np.quantile(again.h2, [0.05, 0.95])
        >>> bool(low < fit.h2 < high)
        True
        """
        if self.names is not None:
            raise ValueError("simulate is for one response: take fit.response(name).")
        s, e = self.spectrum, self.sigma2_e
        require_choice("effects", effects, OF_REPLICATES)
        if not np.isfinite(e):
            raise ValueError(f"there is no estimate to simulate from: {self.message}.")
        rng = np.random.default_rng(random_seed)
        g = np.full(n_draws, float(self.sigma2_g))
        u = draw_prior_effects(s, g, rng) if effects == "new" else blup(self._data, self.sigma2_g, e)
        y = s.X @ self.beta + u.lift(s) + np.sqrt(e) * rng.standard_normal((n_draws, s.n))
        return simulated(y, s.ids)

    def profile(self, h2: Any) -> FloatArray:
        """
        Return the profile log-likelihood at values (m,) of h², maximised over the total variance and β.

        It is `loglik` at the estimate; ratios of it give intervals and tests. For one response.

        Raises
        ------
        ValueError
            If h2 is outside [0, 1], or the fit has several responses.
        """
        if self.names is not None:
            raise ValueError("the profile is that of one response: fit the response of interest alone.")
        s, h = self.spectrum, read_h2(h2)
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
            return f"{self._head}, {len(self.names)} responses; .summary() has the table"
        table = self.summary().to_string(float_format=lambda v: f"{v:.6g}", na_rep="undefined")
        return "\n".join([self._head, table, *self._notes])

    def _repr_html_(self) -> str:
        """Show the table of one response, the names of several."""
        if self.names is not None:
            return super(REMLFit, self)._repr_html_()
        return report(self._head, self.summary(), self._notes)

    def _facts(self) -> dict[str, Any]:
        assert self.names is not None
        return {
            "method": self.method,
            "observations": self._count,
            "responses": f"{len(self.names)}: {listed(self.names)}",
            "fixed effects": listed(self.coef),
            "on the boundary": int(sum(bool(b) for b in self.boundary)),
            "not converged": int((~np.asarray(self.converged)).sum()),
            "table": ".summary(), .to_dataset()",
        }

    @property
    def _count(self) -> str:
        n = np.unique(self.n_obs)
        return f"{n[0]} to {n[-1]}" if n.size > 1 else f"{n[0]}"

    @property
    def _head(self) -> str:
        return f"{self.method} fit of y ~ N(Xβ, σ²(K + δI)): {self._count} observations"

    @property
    def _notes(self) -> list[str]:
        """What stands below the table of one response."""
        notes = [f"log-likelihood {self.loglik:.7f}"]
        if self.boundary:
            notes.append(f"at the boundary: {self.boundary}")
        return [
            *notes,
            ("converged" if self.converged else "NOT CONVERGED") + (f": {self.message}" if self.message else ""),
        ]


def plain(value: Any) -> Any:
    """Return a Python number, string or None for one response, the array for several."""
    return value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value
