"""VarianceFit: what AI-REML found, labelled."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
import pymc as pm
import xarray as xr

from pm_fastlmm.aireml.iteration import Trace
from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.aireml.steps import propose
from pm_fastlmm.base.arrays import FloatArray, Ids
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.copies import PartOfModel
from pm_fastlmm.base.display import listed
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.fitting.checks import VarianceChecks
from pm_fastlmm.fitting.posterior import VariancePosterior
from pm_fastlmm.fitting.profiles import shares_of
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
class VarianceFit(VarianceChecks, PartOfModel):
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
        Generalised least squares at the estimate; `beta`, `beta_se` and `beta_cov` by name. Of thousands of
        coefficients `blue_cov` is a sparse matrix of some entries, the diagonal among them.
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
    blue_cov: Any
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
            In the order of the rows that were fitted; ids, if it has any, must be theirs. Of several traits of one
            kernel also Y (n, t), as `reml_traits` takes it.

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

        Where traits or groups have residual variances of their own, the shares of each: "animal[milk]".

        Raises
        ------
        ValueError
            If V is not a sum of components whose variances are known.
        """
        return pd.Series(shares_of(self.objective, self.theta.to_numpy()), name="share")

    @property
    def h2(self) -> Any:
        """
        The share of the one component beside the residual; of one kernel that of `REMLFit`.

        Where traits or groups have residual variances of their own, a Series of that of each.

        Raises
        ------
        ValueError
            If there are several components.
        """
        shares, coordinates = self.shares, list(self.objective.coordinates)
        if len(shares) > 2 * max(1, len(coordinates)):
            raise ValueError(
                f"h2 is the share of one component, and here are {listed(list(shares.index[:-1]))}: take "
                "fit.shares, fit.share_intervals() or fit.function(lambda v: …)."
            )
        if coordinates:
            return pd.Series(shares.iloc[::2].to_numpy(), pd.Index(coordinates), name="h2")
        return 1 - float(shares.iloc[-1])

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

    def step(self, theta: Any = None) -> pd.Series:
        """Return the result of one full average-information step from θ, without step control."""
        objective, at = self.objective, self.at(theta)
        omega = objective.internal(at)
        J = objective.jacobian(omega)
        step, _ = propose(objective, omega, J.T @ objective.score(at), J.T @ objective.average_information(at) @ J)
        return pd.Series(objective.external(omega + step), self.theta.index, name="theta")

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
    def _rows_dropped(self) -> str:
        return self.node.rows_dropped

    @property
    def _iterations(self) -> str:
        count = len(self.trace.iterations) - 1
        held = np.asarray(self.objective.fixed)
        fixed = "all parameters" if held.all() else listed(list(self.theta.index[held]), none="")
        return f" in {count} iteration{'s' * (count > 1)}" * bool(count) + f", with {fixed} fixed" * bool(fixed)
