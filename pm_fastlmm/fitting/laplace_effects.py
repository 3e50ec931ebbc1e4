"""Predictions, fitted values and residuals of a response that is not normal, by scale; leave-one-out; heritability."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from pm_fastlmm.aireml.refit import coefficient_slopes
from pm_fastlmm.base.choices import OF_NEW_ROWS, require_choice
from pm_fastlmm.base.tables import Table
from pm_fastlmm.engines.latent.on_scale import PredictionScale, ScalePrediction
from pm_fastlmm.engines.latent.residuals import KINDS, Residual, diagnostics_of, residuals_of
from pm_fastlmm.families.scales import Fixed
from pm_fastlmm.fitting.data_scale import Of, heritability_table
from pm_fastlmm.fitting.fit import VarianceFit

_ON = {"link": "η", "mean": "E(y | η)"}


class LaplaceEffects(VarianceFit):
    """What of a `LaplaceFit` is on a scale: that of η, of the mean of y, or of y."""

    def predict(
        self,
        X_new: Any = None,
        Z_new: Mapping[str, Any] | None = None,
        *,
        data: Any = None,
        effects: Literal["given", "population"] = "given",
        scale: PredictionScale = "link",
        trials: Any = None,
        theta: Any = None,
        **others: Any,
    ) -> ScalePrediction:
        """
        Predict η, the mean of y, or a new y, for new rows or for those of the data.

        Parameters
        ----------
        X_new, Z_new, data : optional
            New rows, as of `VarianceFit.predict`; without them those of the data.
        effects : {"given", "population"}
            "population": η = Xβ, a row whose random effects are 0. Its mean g⁻¹(Xβ) is not the mean over the population
            if the link is curved: rows of new levels, which have the variance of their effects, have that.
        scale : {"link", "mean", "response"}
            "link": η̂, its standard error and its interval. "mean": E g⁻¹(η) over the error of η, which of a curved link
            is not g⁻¹(η̂), with its standard error. "response": a new y with its standard deviation, and an interval of
            quantiles. Those of binomial responses are counts, of as many trials as the row has.
        trials : (m,) array or number, optional
            Of a binomial response, the trials of the rows; by default those of the table of new rows, or one each, and
            of the rows of the data their own. With 1 means are probabilities.
        theta : optional
            Another θ than the estimate.

        Returns
        -------
        ScalePrediction
            With `mean`, `variance`, `se`, `interval(level)`, `to_frame()`, and `probabilities` of categories.

        Raises
        ------
        ValueError
            If rows do not fit the model, or the group of a row is missing.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> herds = flmm.datasets.cattle_herds()
        >>> fit = flmm.find_reml(
        ...     "incidence ~ period + (1 | herd)",
        ...     herds,
        ...     family="binomial",
        ...     trials="size",
        ...     progressbar=False,
        ... )
        >>> fit.predict(data=herds[:2], scale="mean")
              mean        se     lower    upper se_observation
        0  4.43717   1.10803   2.49693  6.79646        2.04228
        1  1.82449  0.648649  0.826859  3.33641        1.39024
        """
        require_choice("effects", effects, OF_NEW_ROWS)
        rows = {"X_new": X_new, "Z_new": Z_new, "data": data, "population": effects == "population"}
        if others.pop("x_new", None) is not None:
            raise ValueError("x_new= is of a FourierLMM: new rows of this fit are X_new and Z_new, or data=.")
        if others.keys() - {"K_new", "W_new", "K_new_new"}:
            raise TypeError(f"predict() got an unexpected keyword argument {sorted(others)[0]!r}")
        found: ScalePrediction = self._node_at(theta).terms.predict(scale=scale, trials=trials, **rows, **others)
        return found

    def fitted(
        self, kind: Literal["conditional", "marginal"] = "conditional", theta: Any = None, *,
        scale: Literal["link", "mean"] = "link",
    ) -> Any:  # fmt: skip
        """
        Return η̂ = Xβ̂ + Σ Zû + mu ("conditional") or Xβ̂ + mu ("marginal"), or on the scale "mean" g⁻¹ of it.

        On the scale "mean" they are what lme4's `fitted` has, for binomial responses the expected counts; `predict` has
        the means over the error of η.
        """
        require_choice("scale", scale, _ON)
        eta = super().fitted(kind, theta)
        if scale == "link":
            return eta
        at = self._node_at(theta).terms
        mean = at.family.mean(np.asarray(eta), at.psi)
        return pd.Series(mean, eta.index, name="fitted") if isinstance(eta, pd.Series) else mean

    def residuals(  # type: ignore[override]
        self, kind: Residual = "response", theta: Any = None, *, random_seed: Any = 0
    ) -> Any:
        """
        Return residuals about the conditional means μ̂ = g⁻¹(Xβ̂ + Zû), by id of the row.

        Parameters
        ----------
        kind : {"response", "pearson", "deviance", "working", "quantile"}
            "response": y - μ̂. "pearson": that over √Var(y | η̂). "deviance": ±√(2 log[p(y | μ = y)/p(y | μ̂)]), the
            default of R's `residuals`; ordered responses have none. "working": (y - μ̂) dη/dμ. "quantile": normal
            quantiles of the probabilities P(ỹ_i ≤ y_i) given the other observations, `loo().pit`, which under the model
            are normal whatever the family is (Dunn & Smyth 1996, doi:10.1080/10618600.1996.10474708).
        theta : optional
            Another θ than the estimate.
        random_seed : int, Generator or None
            Of quantile residuals of integers, which are drawn between two probabilities.

        Raises
        ------
        ValueError
            If the family has no such residuals.
        """
        require_choice("kind", kind, KINDS)
        return residuals_of(self._node_at(theta).terms, kind, random_seed)

    def loo(self, *, groups: Any = None, theta: Any = None, random_seed: Any = 0) -> pd.DataFrame:
        """
        Predict each observation from all others, or with `groups` from the other groups, θ as it is.

        Without groups what the others say of η_i is the Gaussian approximation with the observation divided out of it,
        at no cost (Vehtari et al. 2016, jmlr.org/papers/v17/14-540.html). With groups the mode is found again without
        each: so are those of single observations with `groups=range(n)`, whose joint densities, `loo_groups(range(n))`,
        are the most precise.

        Parameters
        ----------
        groups : sequence, Series or Categorical of labels, or a list of several factors, optional
        theta : optional
            Another θ than the estimate.
        random_seed : int, Generator or None
            Of `pit`, of responses that are integers.

        Returns
        -------
        DataFrame
            By observation: y, `mean` and `sd` of ỹ_i given the others, `log_density`, and `pit` = P(ỹ_i ≤ y_i | y_-i),
            of integers a draw between P(ỹ_i < y_i | y_-i) and that: uniform under the model; first the `group` if there
            are any.

        Raises
        ------
        ValueError
            If groups do not fit.

        Warns
        -----
        UserWarning
            If an observation (or group) alone determines a fixed effect: the others do not predict it.
        """
        table: pd.DataFrame = self._node_at(theta).left_out(groups).table(random_seed)
        return table

    def loo_groups(self, groups: Any, *, theta: Any = None) -> pd.DataFrame:
        """
        Return the joint density of each group of observations given all others, as `loo` leaves them out.

        It is the ratio of the approximations of the likelihood with the group and without it.

        Returns
        -------
        DataFrame
            By group: `n_obs`, `log_density`.
        """
        return super().loo_groups(groups, theta=theta)

    def diagnostics(self, *, theta: Any = None, random_seed: Any = 0) -> pd.DataFrame:
        """
        Return what is looked at of each observation, which `plots.plot_diagnostics` and its parts draw.

        `fitted` are conditional means, `residual` y less them, `standardised` the quantile residuals, normal under the
        model, `leverage` = D_i s_i the share of its own η̂_i that an observation has, `loo_mean` and `loo_sd` what the
        others predict, `pit` the probability that `standardised` is made of.
        """
        return diagnostics_of(self._node_at(theta).terms, random_seed)

    def heritability(
        self, term: str | tuple[str, ...], of: Of = "heritability", *, level: float = 0.95,
        fixed: Fixed = "left out", trials: float | None = None,
    ) -> Table:  # fmt: skip
        """
        Return the heritability that a term gives, on the latent, the expected-data and the observed scale.

        With V_A the variance that the term gives η, averages over the fixed effects of the rows, and derivatives of
        the inverse link (de Villemereuil et al. 2016):

            latent V_A/Var η,  expected Ψ²V_A/Var g⁻¹(η),  observed Ψ²V_A/Var y,  Ψ = E dg⁻¹(η)/dη

        and "liability", V_A over Var η with the variance of the link, π²/3 of "logit" and 1 of "probit", which a
        threshold model calls heritability.

        Parameters
        ----------
        term : str or tuple of str
            One, or several whose variances are summed: for a repeatability all terms of an individual.
        of : {"heritability", "repeatability"}
            "repeatability": the correlation of two records of an individual, in which what is not linear in its value
            is repeated, too.
        level : float
            Of the interval.
        fixed : {"left out", "counted"}
            Whether the variance of the fixed effects between rows is in what is divided by.
        trials : number, optional
            Of a binomial response, of how many trials the count is that is observed, by default that of the rows.

        Returns
        -------
        DataFrame
            By scale, and of ordered responses by category: estimate, se, lower, upper. Errors are those of the delta
            method, from the covariances of θ̂ and of β̂ given θ̂, which moves with θ; intervals are made on the logit
            scale. Where the variance of the term is on its boundary they are NaN, others there are taken as known.

        Raises
        ------
        ValueError
            If there is no such term, or rows have different numbers of trials.

        References
        ----------
        de Villemereuil, Schielzeth, Nakagawa & Morrissey (2016), doi:10.1534/genetics.115.186536.

        Examples
        --------
        >>> import numpy as np
        >>> import pymc as pm
        >>> import pm_fastlmm as flmm
        >>> sire = np.repeat(list("abcdefgh"), 5)
        >>> ill = np.tile([1, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0], 2)
        >>> with pm.Model() as model:
        ...     sigma = pm.HalfNormal("sigma_sire", 1)
        ...     sires = flmm.Term(sire, flmm.covariance.scalar(sigma**2), name="sire")
        ...     what = {"family": "bernoulli", "link": "probit", "X": np.ones((40, 1))}
        ...     node = flmm.LatentLMM("ill", **what, terms=[sires], observed=ill)
        >>> fit = flmm.find_reml(model, progressbar=False)
        >>> fit.heritability("sire").round(2)
        Heritability, sire, fixed effects left out
                  estimate    se lower upper
        scale
        latent           1     0     1     1
        liability     0.42  0.25  0.09  0.84
        expected      0.94  0.06  0.65  0.99
        observed      0.26  0.15  0.07  0.62
        """
        at = self._node_at(None).terms
        objective, cov = self.objective.of_parts(self.theta.to_numpy(), self._parameters().cov)
        errors = np.sqrt(np.where(np.isnan(np.diag(cov)), 0.0, np.diag(cov)))
        moved = coefficient_slopes(objective, at.theta, errors) if len(self.blue) else None
        return heritability_table(
            at, pd.Series(at.theta, at.objective.names), cov, self.blue, self.blue_cov, term, of, level=level,
            fixed=fixed, trials=trials, moved=moved,
        )  # fmt: skip
