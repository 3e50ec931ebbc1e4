"""Effects, predictions and observations left out, as methods of a fit of one kernel."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import OF_NEW_ROWS, require_choice
from pm_fastlmm.base.labels import index_of, labelled
from pm_fastlmm.base.tables import Table
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
from pm_fastlmm.kernel.effects.individuals import (
    individual_blup,
    individual_conditional_variance,
    individual_pev,
)
from pm_fastlmm.kernel.effects.left_out import Predicted
from pm_fastlmm.kernel.effects.table import effect_table
from pm_fastlmm.kernel.inference.diagnostics import diagnostics
from pm_fastlmm.kernel.inference.of_fit import KernelInference


class KernelEffects(KernelInference):
    """What `REMLFit` says of u, of new rows, and of observations that are left out."""

    __slots__ = ()

    def blup(self) -> Any:
        """
        Return the best linear unbiased predictor û of the random effects, (n,) or (n, T).

        A Series, or a DataFrame for several responses, by id when the observations have ids (`spectrum.ids`); an array
        in the order of the observations otherwise. So are `pev` and what `predict` returns. With repeated records
        (`individual=`) û, `pev` and `conditional_variance` have a value for each individual of K, those without records
        too.

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
        if (individuals := self.spectrum.individuals) is not None:
            u = individual_blup(self._data, self.sigma2_g, self.sigma2_e)
            return labelled(u, individuals.ids, self.names, name="blup")
        u = blup(self._data, self.sigma2_g, self.sigma2_e).lift(self.spectrum).T
        return labelled(u, self.spectrum.ids, self.names, name="blup")

    def effects(self, level: float = 0.95) -> Table:
        """
        Return the random effects as a table: blup, se, lower, upper, reliability and accuracy.

        With PEV = Var(û - u), se is its root and the interval blup ± z · se. The reliability, the squared correlation
        of û_i with u_i, is

            r²_i = 1 - PEV_i/(σ²_gK_ii)

        and the accuracy r_i; K_ii is 1 + F_i of an inbred individual. Variances are taken as estimated.

        Parameters
        ----------
        level : float
            Of the interval.

        Returns
        -------
        DataFrame
            By id of the observation, of repeated records by individual, or by number; for several responses a block of
            rows each. reliability and accuracy are NaN where σ²_g = 0. Of individuals also `records`.

        References
        ----------
        Henderson (1975), doi:10.2307/2529430.

        Examples
        --------
        >>> import numpy as np
        >>> import pandas as pd
        >>> import pm_fastlmm as flmm
        >>> y = pd.Series([1.0, 2, 1, 5, 6, 5], index=list("abcdef"))
        >>> batch = pd.DataFrame(np.repeat(np.eye(2), 3, axis=0), index=y.index)
        >>> flmm.reml(flmm.Spectrum.from_factor(batch, np.ones((6, 1))), y).effects().iloc[[0, 5]]
               blup       se     lower    upper reliability accuracy
        a  -1.97222  1.99981  -5.89177  1.94733       0.493    0.702
        f   1.97222  1.99981  -1.94733  5.89177       0.493    0.702
        """
        s, names = self.spectrum, self.names
        of = s if s.individuals is None else s.individuals
        ids = pd.RangeIndex(len(of.diagonal)) if of.ids is None else index_of(of.ids)
        index = ids if names is None else pd.MultiIndex.from_product([names, ids], names=["response", "id"])
        prior = np.asarray(self.sigma2_g)[..., None] * of.diagonal
        records = None if s.individuals is None else np.tile(s.individuals.records, len(self.names or "y"))
        return effect_table(np.asarray(self.blup()).T, np.asarray(self.pev()).T, prior, index, level, records=records)

    def factor_effects(self) -> FactorEffects:
        """
        Return the coefficients a of the factor W, u = Wa with a ~ N(0, σ²I): marker effects, when W are markers.

        Their best linear unbiased predictor and its error variance, (m,) or (m, T), after `Spectrum.from_factor` or
        `KernelStatistics`; by name when the columns of W have names.

        Raises
        ------
        ValueError
            If K did not come from a factor, of individuals (`individual=`) neither.
        """
        coefficients.require_factor(self._data.spectrum)
        found = coefficients.factor_effects(self._data, np.asarray(self.sigma2_g), np.asarray(self.sigma2_e))
        names, responses = self.spectrum.factor_names, self.names
        return FactorEffects(*(labelled(values, names, responses) for values in (found.mean, found.variance)))

    def pev(self, *, full: bool = False) -> Any:
        """
        Return the prediction error variance Var(û - u).

        Its diagonal (n,) or (n, T), or on request the matrix (n, n), for one response; with ids as `blup`. It includes
        the uncertainty of β̂, which `conditional_variance` does not.
        """
        individuals, names = self.spectrum.individuals, self.names
        ids, variance = (self.spectrum.ids, pev) if individuals is None else (individuals.ids, individual_pev)
        if full and names is not None:
            raise ValueError("pev(full=True) is a matrix for one response: fit the response of interest alone.")
        errors = variance(self.spectrum, self.sigma2_g, self.sigma2_e, full=full).T
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
        individuals, of = self.spectrum.individuals, conditional_variance
        ids = self.spectrum.ids
        if individuals is not None:
            ids, of = individuals.ids, individual_conditional_variance
        variance = of(self.spectrum, self.sigma2_g, self.sigma2_e).T
        return labelled(variance, ids, self.names, name="conditional_variance")

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
            Covariance of the new effects with the training effects, on the scale of K; (m, q), with those of all
            individuals, after `individual=`.
        W_new : (m, q) array
            Rows of the factor instead, after `Spectrum.from_factor`.
        K_new_new : (m, m) or (m,) array, optional
            Covariance of the new effects or its diagonal; without it the variances are NaN.
            A new observation has the weight 1, where there are prior weights.
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
        >>> print(
        ...     f"{of_batch.mean[0]:.2f} ± {of_batch.se[0]:.2f}, {of_any.mean[0]:.2f} ± {of_any.se[0]:.2f}"
        ... )
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
        return self._each(found.table, "obs")

    def diagnostics(self, y: Any = None) -> pd.DataFrame:
        """
        Return what is looked at of each observation, which `plots.plot_diagnostics` and its parts draw.

        With P the projection of V⁻¹ and û of the fit: `fitted` Xβ̂ + û, `residual` ê, `standardised` (Py)_i/√P_ii, of
        variance 1, `leverage` h_ii = ∂ŷ_i/∂y_i = 1 - σ²_eP_ii, and what the others predict, `loo_mean` and
        `loo_sd`. With prior weights σ²_e is divided by w_i, the last column, `weight`.

        Parameters
        ----------
        y : (n,) array or Series, optional
            As in `loo`.

        Raises
        ------
        ValueError
            As `loo`, and if the fit has several responses.

        References
        ----------
        Hodges & Sargent (2001), doi:10.1093/biomet/88.2.367, of the leverage.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> batch = np.repeat(np.eye(3), 4, axis=0)
        >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 7])
        >>> fit = flmm.reml(flmm.Spectrum.from_factor(batch, np.ones((12, 1))), y)
        >>> fit.diagnostics(y).tail(2).round(3)
              y  fitted  residual  standardised  leverage  loo_mean  loo_sd
        10  3.0   4.208    -1.208        -1.161     0.236     4.581   1.362
        11  7.0   4.208     2.792         2.684     0.236     3.346   1.362
        """
        if self.names is not None:
            raise ValueError("diagnostics are those of one response: take fit.response(name).")
        weights = self.spectrum.weights
        return diagnostics(self.loo(y), self.predict().mean, None if weights.root is None else weights.values)

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
        return self._each(found.group_table, "group")

    def _each(self, table: Callable[[Any], pd.DataFrame], row: str) -> pd.DataFrame:
        """Return a table of one response, or those of all of them one below the other."""
        if self.names is None:
            return table(0)
        tables = [table(place) for place in range(len(self.names))]
        return pd.concat(tables, keys=list(self.names), names=["response", row])

    def _replicates(self, n_draws: int, effects: str, rng: np.random.Generator) -> FloatArray:
        if self.names is not None:
            raise ValueError("simulate is for one response: take fit.response(name).")
        s, e = self.spectrum, self.sigma2_e
        if not np.isfinite(e):
            raise ValueError(f"there is no estimate to simulate from: {self.message}.")
        g = np.full(n_draws, float(self.sigma2_g))
        u = draw_prior_effects(s, g, rng) if effects == "new" else blup(self._data, self.sigma2_g, e)
        noise = s.weights.unscaled(rng.standard_normal((n_draws, s.n)))
        return np.asarray(s.X @ self.blue + u.lift(s) + np.sqrt(e) * noise)
