"""What is looked at of each observation of a fit: leave-one-out, residuals, and how they vary with distance."""

from typing import Any

import pandas as pd

from pm_fastlmm.fitting.effects import VarianceEffects
from pm_fastlmm.fitting.variogram import require_pairs, variogram
from pm_fastlmm.kernel.inference.diagnostics import diagnostics


class VarianceChecks(VarianceEffects):
    """The checks of `VarianceFit` by observation."""

    def loo(self, *, groups: Any = None, theta: Any = None) -> pd.DataFrame:
        """
        Predict each observation from all others, or with `groups` from the other groups.

        θ stays at its estimate, which single observations move little; β̂ and û are those of the others, exactly, and
        nothing is fitted again:

            y_i | y_-i ~ N(y_i - (Py)_i/P_ii, 1/P_ii)

        Parameters
        ----------
        groups : sequence, Series or Categorical of labels, or a list of several factors, optional
        theta : optional
            Another θ than the estimate.

        Returns
        -------
        DataFrame
            By observation: y, its `mean` and `sd` given the others, `log_density`, and `pit` = P(ỹ_i ≤ y_i | y_-i),
            uniform under the model; first the `group` if there are any.

        Raises
        ------
        ValueError
            If the rows were not kept, or groups do not fit.

        Warns
        -----
        UserWarning
            If an observation (or group) alone determines a fixed effect: the others do not predict it.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> sleep = flmm.datasets.sleepstudy()
        >>> model = flmm.lmm_model("Reaction ~ Days + (Days | Subject)", sleep)
        >>> fit = flmm.find_reml(model, progressbar=False)
        >>> fit.loo().nsmallest(2, "log_density")[["y", "mean", "sd"]].round(1)
                y   mean    sd
        56  454.2  303.2  27.3
        59  253.9  393.0  30.4
        """
        return self._node_at(theta).left_out(groups).table()

    def diagnostics(self, *, theta: Any = None) -> pd.DataFrame:
        """
        Return what is looked at of each observation, which `plots.plot_diagnostics` and its parts draw.

        With P the projection of V⁻¹: `fitted` Xβ̂ + Zû, `residual` ê, `standardised` (Py)_i/√P_ii, of variance 1,
        `leverage` h_ii = ∂ŷ_i/∂y_i = 1 - (RP)_ii, with R the covariance of the residuals, 1 - σ²_eP_ii/w_i of those of
        one variance, and what the others predict, `loo_mean` and `loo_sd`. With prior
        weights there is a column `weight`.

        Raises
        ------
        ValueError
            If the rows were not kept, or the model has no terms.

        References
        ----------
        Hodges & Sargent (2001), doi:10.1093/biomet/88.2.367, of the leverage.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False
        ... )
        >>> fit.diagnostics().head(2).round(2)
                y   fitted  residual  standardised  leverage  loo_mean  loo_sd
        0  1545.0  1509.89     35.11          0.78      0.16   1503.02   54.14
        1  1440.0  1509.89    -69.89         -1.54      0.16   1523.58   54.14
        """
        at = self._node_at(theta).terms
        fitted = at.fitted(conditional=True)
        return diagnostics(self.loo(theta=theta), fitted, self.node.prior_weights, leverage=at.leverage())

    def variogram(self, x: Any, *, bins: int = 15, max_distance: float | None = None) -> pd.DataFrame:
        """
        Return the empirical variogram of r = y - Xβ̂, and what the fit expects of it.

        By bins of the distance ‖x_i - x_j‖: the mean of ½(r_i - r_j)², and its expectation at θ̂, the mean of
        ½(C_ii + C_jj) - C_ij with C = Cov r = V - X cov(β̂) Xᵀ. Where the two differ, V decays with distance otherwise
        than the data.

        Parameters
        ----------
        x : (n,) or (n, D) array or DataFrame
            Coordinates, in the order of the rows.
        bins : int
        max_distance : float, optional
            Half the largest distance by default: pairs beyond are few, and of the same rows.

        Returns
        -------
        DataFrame
            By bin that has pairs: mean `distance`, number of `pairs`, `semivariance`, `expected`.

        Raises
        ------
        ValueError
            If x does not fit the rows, they were not kept or are more than 5000, or no pairs are so close.

        References
        ----------
        Cressie (1993), Statistics for Spatial Data, section 2.4, doi:10.1002/9781119115151.
        """
        at = self._node_at(None)
        y = self.node.rows()
        require_pairs(len(y))
        residual, C = y - at.known_mean(), self.objective.covariance(self.theta.to_numpy())
        if self.node.treatment == "flat":
            X = self.node.projection.Q1 @ self.node.projection.R
            residual, C = residual - X @ self.blue, C - X @ self.blue_cov @ X.T
        return variogram(residual, C, x, bins=bins, max_distance=max_distance)

    def loo_groups(self, groups: Any, *, theta: Any = None) -> pd.DataFrame:
        """
        Return the joint density of each group of observations given all others, as `loo` does for single ones.

        Returns
        -------
        DataFrame
            By group: `n_obs`, `log_density`, `chi2`, the squared length of the group's deviations in units of their
            covariance, and `pit`, its χ² probability with n_obs degrees of freedom: near 1 for a group that the others
            do not expect.
        """
        return self._node_at(theta).left_out(groups).group_table()
