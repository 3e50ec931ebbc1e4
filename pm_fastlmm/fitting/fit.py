"""VarianceFit: what AI-REML found, labelled."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, Self

import numpy as np
import pandas as pd
import pymc as pm
import xarray as xr

from pm_fastlmm.aireml.iteration import Trace
from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.aireml.steps import propose
from pm_fastlmm.base.arrays import FloatArray, Ids
from pm_fastlmm.base.choices import OF_NEW_ROWS, Method, require_choice
from pm_fastlmm.base.copies import PartOfModel
from pm_fastlmm.base.display import listed
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.fourier.functions import FunctionPosterior
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.fitting.inference import VarianceInference
from pm_fastlmm.fitting.quadrature.result import VariancePosterior
from pm_fastlmm.fitting.variogram import require_pairs, variogram
from pm_fastlmm.kernel.effects.effects import Prediction
from pm_fastlmm.kernel.inference.diagnostics import diagnostics
from pm_fastlmm.models.share_prior import SharePrior


class Source(Protocol):
    """Where a fit comes from."""

    def model(self) -> pm.Model:
        """Return the model that was fitted."""

    def fit(self, node: Any) -> "VarianceFit":
        """Return the fit of its node with another response."""

    def quiet(self) -> Self:
        """Return the same, whose fits show no progress."""


@dataclass(frozen=True, eq=False, repr=False)
class VarianceFit(VarianceInference, PartOfModel):
    """
    Estimates of the parameters θ of V by restricted maximum likelihood, or maximum likelihood.

    Attributes
    ----------
    theta : Series
        Estimates, in terms in which V is linear where the structure allows: variances, covariances, correlations.
    point : dict
        The values of the model's free variables at which θ is reached; for `pm.Model` use, the seed of NUTS.
    loglik : float
        The maximum as lme4 and nlme print it (for REML: Patterson–Thompson, with -½log|XᵀX| and the 2π term).
    score : Series
        ∂ℓ/∂θ at the estimate; not zero for parameters on the boundary.
    average_information : DataFrame
    blue, blue_cov : (r,), (r, r) arrays
        Generalised least squares at the estimate; `beta`, `beta_se` and `beta_cov` by name.
    boundary : tuple of str
        Parameters that are on the boundary of their space. Their standard errors are undefined (NaN).
    converged : bool
    message : str
        Why an iteration failed, what lies on the boundary, and what to do.
    method : "REML" or "ML"
    coef : tuple of str
        Names of the fixed effects.
    trace : Trace
        The iterations; `history` is a table of them.
    objective : Objective
        The likelihood, for single evaluations and steps at any θ.
    node : GaussianNode
        The node of the model; for a function V(θ) what has its y and X in place of one.
    mu : array or 0
        The mean besides Xβ and Zu.
    prior_mean : array
        b of an explicit β or of its Gaussian prior, of length 0 for a flat one.
    source : object or None
        What `model` and `refit` are made by.
    """

    theta: pd.Series
    point: dict[str, Any]
    loglik: float
    score: pd.Series
    average_information: pd.DataFrame
    blue: FloatArray
    blue_cov: FloatArray
    boundary: tuple[str, ...]
    converged: bool
    message: str
    trace: Trace
    method: Method
    coef: tuple[str, ...]
    objective: Objective
    node: GaussianNode
    mu: Any = 0.0
    prior_mean: FloatArray = field(default_factory=lambda: np.zeros(0))
    source: Source | None = None

    @cached_property
    def model(self) -> pm.Model:
        """
        The PyMC model that was fitted; of a formula `lmm_model` builds it when it is first asked for.

        Raises
        ------
        ValueError
            If a function V(θ) was fitted, which is no model.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False
        ... )
        >>> [variable.name for variable in fit.model.free_RVs]
        ['sigma_Batch', 'sigma_e']
        """
        return self._source.model()

    @property
    def _source(self) -> Source:
        if self.source is None:
            raise ValueError("a function V(θ) was fitted, not a model: flmm.DenseLMM makes a model of such a V.")
        return self.source

    def refit(self, y: Any) -> "VarianceFit":
        """
        Return the fit of another response to the same model, by the same options.

        What depends on the model and on X is not computed again: a parametric bootstrap, or a study of simulated
        responses, is a loop over this.

        Parameters
        ----------
        y : array or Series (n,)
            In the order of the rows that were fitted; ids, if it has any, must be theirs.

        Raises
        ------
        ValueError
            If y does not fit the rows or has missing values, the model observes a statistic of its response, or a
            function V(θ) was fitted.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False
        ... )
        >>> again = fit.refit(fit.node.observed / 1000)
        >>> bool(np.isclose(again.theta["Batch"] * 1000**2, fit.theta["Batch"]))
        True
        """
        return self._source.fit(self.node.observing(y))

    @property
    def shares(self) -> pd.Series:
        """
        The share that each component has of the variance of an observation, tr(Z_kG_kZ_kᵀ)/n on average.

        Raises
        ------
        ValueError
            If V is not a sum of components whose variances are known.
        """
        variances = pd.Series(self.objective.mean_variances(self.theta.to_numpy()), name="share")
        return variances / variances.sum()

    @property
    def h2(self) -> float:
        """
        The share of the one component beside the residual; of one kernel that of `REMLFit`.

        Raises
        ------
        ValueError
            If there are several components.
        """
        if len(self.shares) > 2:
            raise ValueError(
                f"h2 is the share of one component, and here are {listed(list(self.shares.index[:-1]))}: take "
                "fit.shares, fit.share_intervals() or fit.function(lambda v: …)."
            )
        return 1 - float(self.shares.iloc[-1])

    @cached_property
    def history(self) -> xr.Dataset:
        """By iteration: theta, beta, loglik, score, average_information, proposed and taken step, decrement, kind."""
        its, names = self.trace.iterations, list(self.objective.names)
        over: dict[str, tuple[str, ...]] = dict.fromkeys(("theta", "score", "proposed", "taken"), ("parameter",))
        over |= {"beta": ("coef",), "average_information": ("parameter", "parameter_")}
        over |= dict.fromkeys(("loglik", "decrement", "kind"), ())
        columns = {
            name: (("iteration", *dims), np.stack([getattr(i, name) for i in its])) for name, dims in over.items()
        }
        coords = {"iteration": np.arange(len(its)), "parameter": names, "parameter_": names, "coef": list(self.coef)}
        return xr.Dataset(columns, coords=coords)

    @property
    def best(self) -> xr.Dataset:
        """The iteration with the highest log-likelihood."""
        return self.history.isel(iteration=int(np.argmax(self.history["loglik"].to_numpy())))

    @property
    def last(self) -> xr.Dataset:
        """The last iteration."""
        return self.history.isel(iteration=-1)

    def at(self, theta: Any = None) -> FloatArray:
        """
        Return θ of a mapping from names to values, the others as estimated, of a sequence, or the estimate.

        The methods of `fit.objective` take it: log_likelihood, score, average_information, covariance,
        covariance_derivatives, blue.

        Raises
        ------
        ValueError
            If a name is unknown, the length does not fit, or a value is not finite.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> model = flmm.lmm_model("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff())
        >>> fit = flmm.find_reml(model, progressbar=False)
        >>> lower = fit.objective.log_likelihood(fit.at({"Batch": 0.0}))
        >>> print(f"{2 * (fit.loglik - lower):.3f}")
        10.363
        """
        return self.theta.to_numpy() if theta is None else self.objective.read(theta, self.theta.to_numpy(), "theta")

    def _node_at(self, theta: Any) -> AtTheta:
        return self.node.at(self.objective, self.at(theta), self.mu, self.prior_mean)

    def step(self, theta: Any = None) -> pd.Series:
        """Return the result of one full average-information step from θ, without step control."""
        objective, at = self.objective, self.at(theta)
        omega = objective.internal(at)
        J = objective.jacobian(omega)
        step, _ = propose(objective, omega, J.T @ objective.score(at), J.T @ objective.average_information(at) @ J)
        return pd.Series(objective.external(omega + step), self.theta.index, name="theta")

    def blup(self, term: str | None = None, theta: Any = None) -> Any:
        """
        Return the best linear unbiased predictors û of the effects of a term, or of all of them by name.

        A Series by level; for a term with columns a DataFrame.
        """
        return _chosen(self._node_at(theta).terms.blup(), term)

    def effects(self, term: str | None = None, level: float = 0.95, theta: Any = None) -> Any:
        """
        Return the effects of a term as a table, or tables of all of them by name.

        Of a FastLMM there is one, "u", by id of the row, of repeated records by individual.

        With PEV = Var(û - u), se is its root and the interval blup ± z · se. The reliability, the squared correlation
        of û_i with u_i, is r² = 1 - PEV_i/G_ii, with G_ii the variance of the effect (σ²A_ii of a known A, where A_ii
        is 1 + F_i of an inbred individual), and the accuracy r.

        Parameters
        ----------
        term : str, optional
        level : float
            Of the interval.
        theta : optional
            Another θ than the estimate.

        Returns
        -------
        DataFrame, or a dict of them
            By level, of a term with columns by level and column: blup, se, lower, upper, reliability, accuracy. The
            last two are NaN where the variance of the effect is 0.

        Raises
        ------
        ValueError
            If there is no such term, or the model has no terms.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> oats = flmm.datasets.john_alpha()
        >>> fit = flmm.find_reml(
        ...     "yield ~ rep + (1 | gen) + (1 | rep:block)", oats, progressbar=False
        ... )
        >>> fit.effects("gen").nlargest(3, "blup")
                 blup        se      lower     upper reliability accuracy
        G01  0.501184  0.179167   0.150023  0.852344       0.775    0.881
        G05   0.47495  0.179123   0.123875  0.826025       0.775    0.881
        G15    0.4247  0.179123  0.0736246  0.775775       0.775    0.881
        """
        return _chosen(self._node_at(theta).terms.tables(level), term)

    def pev(self, term: str | None = None, theta: Any = None) -> Any:
        """
        Return the prediction error variances Var(û - u), the uncertainty of β̂ included, as `blup` does.

        They are the squared standard errors of û. Those of lme4 are without that part: `conditional_variance`.
        """
        return _chosen(self._node_at(theta).terms.pev(), term)

    def conditional_variance(self, term: str | None = None, theta: Any = None) -> Any:
        """
        Return Var(u | y, β, θ), as `blup` does: the diagonals of lme4's `ranef(fit, condVar = TRUE)`.

        With G the covariance of a term it is the diagonal of G - GZᵀV⁻¹ZG. `pev` is larger by what the uncertainty of β̂
        adds, and is the one that intervals of u need.

        Raises
        ------
        ValueError
            If the model has no terms, or β has a prior, so that it is not known.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> sleep = flmm.datasets.sleepstudy()
        >>> fit = flmm.find_reml(
        ...     flmm.lmm_model("Reaction ~ Days + (Days | Subject)", sleep), progressbar=False
        ... )
        >>> fit.conditional_variance("Subject").head(1).round(2)
             Intercept  Days
        308     145.71   5.31
        """
        return _chosen(self._node_at(theta).terms.conditional_variance(), term)

    def fitted(self, kind: Literal["conditional", "marginal"] = "conditional", theta: Any = None) -> Any:
        """Return Xβ̂ + Σ Zû + mu ("conditional"), or Xβ̂ + mu ("marginal"), by id of the row."""
        require_choice("kind", kind, {"conditional": "Xβ̂ + Zû", "marginal": "Xβ̂"})
        return self._node_at(theta).terms.fitted(conditional=kind == "conditional")

    def residuals(
        self, kind: Literal["conditional", "marginal"] = "conditional", theta: Any = None, *, scaled: bool = False
    ) -> Any:
        """
        Return y minus the fitted values of that kind, by id of the row.

        With `scaled` conditional ones are divided by the standard deviation of e, σ_e/√w_i with prior weights (lme4's
        Pearson residuals, `scaled = TRUE`). They are still shrunk by what an observation adds to its own fitted value;
        `diagnostics` has them standardised.

        Raises
        ------
        ValueError
            If marginal residuals are to be scaled, whose variances are those of V.
        """
        residual = np.asarray(self.node.observed) - self.fitted(kind, theta)
        if scaled:
            if kind == "marginal":
                raise ValueError("scaled=True divides by the standard deviation of e, for kind='conditional'.")
            residual = residual / self._node_at(theta).terms.residual_sd()
        return residual.rename("residual") if isinstance(residual, pd.Series) else residual

    def predict(
        self,
        X_new: Any = None,
        Z_new: Mapping[str, Any] | None = None,
        *,
        data: Any = None,
        x_new: Any = None,
        K_new: Any = None,
        W_new: Any = None,
        K_new_new: Any = None,
        effects: Literal["given", "population"] = "given",
        theta: Any = None,
    ) -> Prediction:
        """
        Predict f = Xβ + Σ Zu for new rows.

        Parameters
        ----------
        X_new : (m, d) array or DataFrame
            All columns of the X of the fit, by name where both have names.
        Z_new : mapping
            By the name of a term what the term was made of: labels, (labels, columns), or a matrix. Levels that are new
            have the effect 0 and add their variance; a term that is left out contributes nothing.
        data : DataFrame
            For a model from a formula, in place of X_new and Z_new.
        x_new : (m,) or (m, D) array
            For a FourierLMM, the points.
        K_new, W_new, K_new_new : arrays or DataFrames
            For a FastLMM, as `REMLFit.predict` takes them; without them and X_new the rows of the data.
        effects : {"given", "population"}
            "population": f = Xβ, the population mean (lme4's `re.form = NA`), for which data needs no groups.
        theta : optional
            Another θ than the estimate.

        Returns
        -------
        Prediction
            With `mean`, `variance`, `se`, `se_observation`, and `interval(level)`.

        Raises
        ------
        ValueError
            If rows do not fit the model, or the group of a row is missing.

        Warns
        -----
        UserWarning
            If the data do not determine Xβ of some rows, which are then NaN: see `REMLFit.predict`.

        Examples
        --------
        >>> import pandas as pd
        >>> import pm_fastlmm as flmm
        >>> sleep = flmm.datasets.sleepstudy()
        >>> fit = flmm.find_reml(
        ...     flmm.lmm_model("Reaction ~ Days + (Days | Subject)", sleep), progressbar=False
        ... )
        >>> somebody = fit.predict(data=pd.DataFrame({"Days": [10], "Subject": ["new"]}))
        >>> mean = fit.predict(data=pd.DataFrame({"Days": [10]}), effects="population")
        >>> print(
        ...     f"{somebody.mean[0]:.1f} ± {somebody.se[0]:.1f}, {mean.mean[0]:.1f} ± {mean.se[0]:.1f}"
        ... )
        356.1 ± 67.6, 356.1 ± 16.0
        """
        require_choice("effects", effects, OF_NEW_ROWS)
        if x_new is not None:
            if effects == "population":
                raise ValueError("effects='population' is Xβ of a model with terms: the function of x_new is left out.")
            return self.posterior_function(theta).predict(x_new, X_new)
        rows = {"X_new": X_new, "Z_new": Z_new, "data": data, "population": effects == "population"}
        kernel = {"K_new": K_new, "W_new": W_new, "K_new_new": K_new_new}
        return self._node_at(theta).terms.predict(**rows, **kernel)  # type: ignore[no-any-return]

    def posterior_function(self, theta: Any = None) -> FunctionPosterior:
        """
        Return the posterior of the function of a FourierLMM, at the estimate or at another θ.

        Raises
        ------
        ValueError
            If the node is no FourierLMM.
        """
        return self._node_at(theta).function()  # type: ignore[no-any-return]

    def posterior(
        self, prior: SharePrior | None = None, *, tolerance: float = 1e-4, random_seed: Any = None,
        progressbar: bool = True,
    ) -> VariancePosterior:  # fmt: skip
        """
        Return the exact posterior of the variances of one to three terms and of the residual, without sampling.

        β is flat and integrated out, and so is the total variance, in closed form. What is left is a function of one to
        three ratios of variances: log-determinants and log yᵀPy are interpolated at Chebyshev nodes over the region in
        which its mass is, 8 standard errors about the estimate, or from a variance of 0 on. So it takes about ten
        evaluations of the likelihood for one term, a hundred for two; more where data say little. The interpolant is
        compared with the likelihood at draws from the posterior; nodes are added until they agree.

        Parameters
        ----------
        prior : SharePrior, optional
            Of the shares and the total; default `SharePrior()`, α = 1 for all shares and the scale of the total that of
            the least-squares fit. It is the posterior that `flmm.sample` draws of
            `lmm_model(…, priors=SharePrior(…))`, and with one term that of `exact_posterior`.
        tolerance : float
            Of the interpolated log-likelihood.
        random_seed : int, Generator or None
            Of the draws at which the interpolant is checked.
        progressbar : bool
            Count the evaluations where they take long.

        Returns
        -------
        VariancePosterior

        Raises
        ------
        ValueError
            If the parameters of V are others than up to four variances, some are fixed, β has a prior or is a variable
            of the model, the fit is by ML, has no estimate or one without residual variance, or V is singular where the
            posterior has mass.

        Warns
        -----
        UserWarning
            If the interpolant does not agree with the likelihood with as many nodes as are affordable.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "yield ~ rep + (1 | gen) + (1 | rep:block)",
        ...     flmm.datasets.john_alpha(),
        ...     progressbar=False,
        ... )
        >>> posterior = fit.posterior(random_seed=1)
        >>> posterior.summary().loc[["gen", "share[gen]"]].round(2)
                    mean    sd eti_2.5% median eti_97.5%
        gen         0.14  0.05     0.07   0.14      0.27
        share[gen]  0.45  0.11     0.25   0.45      0.66
        >>> posterior.loglik_error < 1e-4
        True
        """
        if self.method != "REML" or self.prior_mean.size:
            raise ValueError(
                "the posterior by quadrature has β integrated out under a flat prior: fit by method='REML', without "
                "beta= and beta_cov= of the node, or take flmm.sample."
            )
        if not self.converged:
            raise ValueError(f"the fit has no estimate about which the posterior lies: {self.message}.")
        given = SharePrior() if prior is None else prior
        theta, information = self.theta.to_numpy(), self.average_information.to_numpy()
        return VariancePosterior.of(
            self.objective, theta, information, given, tolerance=tolerance, random_seed=random_seed,
            progressbar=progressbar,
        )  # fmt: skip

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
        `leverage` h_ii = ∂ŷ_i/∂y_i = 1 - σ²_eP_ii/w_i, and what the others predict, `loo_mean` and `loo_sd`. With prior
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
        return diagnostics(self.loo(theta=theta), self.fitted(theta=theta), self.node.prior_weights)

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

    def _replicates(self, n_draws: int, effects: str, rng: np.random.Generator) -> FloatArray:
        at = self._node_at(None)
        given = effects == "given"
        return np.asarray(at.terms.with_given_effects(n_draws, rng) if given else at.replicates(n_draws, rng))

    def _redrawn(self, rng: np.random.Generator) -> "VarianceFit":
        return self._source.quiet().fit(self.node.observing(self._replicates(1, "new", rng)[0]))

    @property
    def _ids(self) -> Ids | None:
        return self.node.ids

    @property
    def _model(self) -> str:
        return self.node.formula

    @property
    def _counts(self) -> str:
        levels = [f"{count} levels of {name}" for name, count in self.node.levels.items()]
        return ", ".join([f"{self.objective.n} observations", *levels])

    @property
    def _iterations(self) -> str:
        count = len(self.trace.iterations) - 1
        return f" in {count} iteration{'s' * (count > 1)}" if count else ""


def _chosen(values: dict[str, Any], term: str | None) -> Any:
    if term is None:
        return values
    if term not in values:
        raise ValueError(f"there is no term {term!r}: the model has {', '.join(values)}.")
    return values[term]
