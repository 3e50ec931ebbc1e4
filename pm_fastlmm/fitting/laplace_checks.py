"""How far Laplace's approximation can be trusted: importance sampling, simulation; tests by parametric bootstrap."""

import math
from typing import Any

import numpy as np
from scipy.special import chdtrc, stdtrit

from pm_fastlmm.aireml.iteration import maximise_given
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.display import tracked
from pm_fastlmm.base.tables import Table
from pm_fastlmm.engines.latent.importance import Importance
from pm_fastlmm.fitting.laplace_effects import LaplaceEffects
from pm_fastlmm.fitting.profiles import SD
from pm_fastlmm.kernel.inference.null import NullDistribution
from pm_fastlmm.kernel.inference.variance_test import VarianceTest

_SURE = 0.975  # quantile of t, in Monte Carlo errors, beyond which a bias is seen
_FEWEST = 19  # draws of a null distribution, of which the smallest p-value is 0.05
_SAME = 1e-7  # of a log-likelihood: ratios below are those of rounding


class LaplaceChecks(LaplaceEffects):
    """What a `LaplaceFit` says of its own approximation, and tests that do not count on it."""

    def importance(
        self, n: int = 1000, *, df: float | None = None, nodes: int | None = None, theta: Any = None,
        random_seed: Any = None,
    ) -> Importance:  # fmt: skip
        """
        Return the log-likelihood at the estimate without Laplace's approximation, by importance sampling.

        Given β it is a product over groups of effects that no record joins, and each is sampled on its own, where that
        is sharp: terms of crossed factors, and relatives, are one group. A β that is integrated out ("REML") is drawn,
        and for each draw the effects of the groups anew. Of "ML" β is β̂.

        Parameters
        ----------
        n : int
            Draws; of "REML" of β.
        df : float, optional
            Of the t distribution about the mode that is drawn from, `numpy.inf` for the normal one. By default 10 where
            no group has more than five effects, else normal.
        nodes : int, optional
            Integrate each group by adaptive Gauss-Hermite quadrature instead of draws, with so many nodes for each
            effect: lme4's `nAGQ`, for groups of few effects, where it is faster and exact but for β that is drawn.
            `nodes=1` is Laplace's approximation.
        theta : optional
            Another θ than the estimate.
        random_seed : int, Generator or None

        Returns
        -------
        Importance
            `loglik`, `correction` with its Monte Carlo error `se`, effective draws `ess` and Pareto `k`. Where there
            are 100 effective draws or less it has no number, and says that importance sampling cannot judge at this
            size.

        Raises
        ------
        ValueError
            If there are fewer than two draws, or too many nodes.

        Examples
        --------
        >>> import numpy as np
        >>> import pymc as pm
        >>> import pm_fastlmm as flmm
        >>> herd = np.repeat(list("abcdef"), 4)
        >>> ill = np.array([1, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0])
        >>> with pm.Model() as model:
        ...     sigma = pm.HalfNormal("sigma_herd", 1)
        ...     herds = flmm.Term(herd, flmm.covariance.scalar(sigma**2), name="herd")
        ...     node = flmm.LatentLMM(
        ...         "ill", family="bernoulli", X=np.ones((24, 1)), terms=[herds], observed=ill
        ...     )
        >>> fit = flmm.find_reml(model, method="ML", progressbar=False)
        >>> found = fit.importance(nodes=25)
        >>> print(f"{found.laplace:.4f} {found.correction:.4f}")
        -15.6388 0.1087
        """
        found: Importance = self._node_at(theta).terms.importance(n, df=df, nodes=nodes, random_seed=random_seed)
        return found

    def check_laplace(self, simulations: int = 20, *, random_seed: Any = None, progressbar: bool = True) -> Table:
        """
        Return how the estimates of data that are simulated from this fit deviate from it: their bias.

        The bias is that of the whole estimator: of Laplace's approximation, which makes variances of binary data with
        few records for each level too small, and of "ML", which does not count the coefficients. It works at any size,
        by as many fits as there are simulations.

        Parameters
        ----------
        simulations : int
            The Monte Carlo error of a bias falls with its root.
        random_seed : int, Generator or None
        progressbar : bool

        Returns
        -------
        DataFrame
            By parameter: estimate, the mean of the re-estimates, bias and its Monte Carlo error `mc_error`, `percent`,
            the bias as a share of the estimate, and a `verdict`. Simulations without an estimate are left out, and
            counted below.

        Raises
        ------
        ValueError
            If the fit has no estimate, or there are fewer than two simulations.
        """
        replicates = self.bootstrap(simulations, random_seed=random_seed, progressbar=progressbar)
        free = dict(zip(self.objective.names, ~np.asarray(self.objective.fixed), strict=True))
        wanted = [name for name in replicates.draws if free.get(name.removeprefix(SD), name.startswith("beta["))]
        rows, failed = {}, 0
        for name in wanted:
            draws = replicates.draws[name]
            known = draws[np.isfinite(draws)]
            failed = max(failed, len(draws) - len(known))
            rows[name] = _bias(replicates.estimate[name], known, replicates.ends[name])
        columns = ["estimate", "mean", "bias", "mc_error", "percent", "verdict"]
        table = Table.from_dict(rows, orient="index", columns=columns)
        table.attrs["above"] = [f"Bias of the estimates, by {simulations} simulations from the fit"]
        if failed:
            table.attrs["below"] = [f"{failed} of {simulations} simulations have no estimate and are left out"]
        return table

    def test_no_variance(
        self, component: str, *, n_sim: int = 200, random_seed: Any = None, progressbar: bool = False
    ) -> VarianceTest:
        """
        Test that the variance of one component is 0 by the likelihood ratio and a parametric bootstrap.

        Responses are drawn from the estimate without the component, and both models are fitted to each: the null
        distribution is that of the approximate likelihoods themselves, in samples of this size. The p-value is
        (1 + #)/(1 + n) with # the draws whose ratio is as large.

        Parameters
        ----------
        component : str
            A name of θ that is a variance, or "dispersion" of the negative binomial.
        n_sim : int
            Draws, of which each takes two fits.
        random_seed : int, Generator or None
        progressbar : bool

        Raises
        ------
        ValueError
            If that is no variance with a bound of 0, belongs to an unstructured matrix, or n_sim is below 19.
        """
        place = self._place_of_variance(component)
        if n_sim < _FEWEST:
            raise ValueError(f"n_sim must be {_FEWEST} or more, of which the smallest p-value is 0.05, got {n_sim}.")
        if not self.converged:
            raise ValueError(f"the fit has no estimate to test: {self.message}.")
        theta, null = _without(self, component)
        if not math.isfinite(null):
            raise ValueError(
                f"there is no likelihood at {component} = 0, so that there is nothing to test: the dispersion of a "
                "'gamma' response is never 0, that of a 'negative_binomial' one may be."
            )
        statistic = 0.0 if self.theta.iloc[place] == 0 else _ratio(self.loglik, null)
        found = np.zeros(0)
        if statistic > 0:
            found = self._null_ratios(component, theta, n_sim, np.random.default_rng(random_seed), progressbar)
        failed = n_sim - len(found) if statistic > 0 else 0
        p = (1 + float((found >= statistic).sum())) / (1 + len(found)) if statistic > 0 else 1.0
        distribution = NullDistribution(np.sort(found), np.ones(len(found))) if len(found) else None
        note = "parametric bootstrap" + (f", {failed} of {n_sim} draws without an estimate left out" if failed else "")
        return VarianceTest(
            component=component, statistic=statistic, p_value=p,
            p_value_se=math.sqrt(p * (1 - p) / len(found)) if len(found) else 0.0,
            p_value_mixture=0.5 * float(chdtrc(1, statistic)) if statistic > 0 else 1.0,
            mass_at_zero=math.nan if distribution is None else distribution.mass_at_zero, n_sim=len(found),
            method=self.method, approximation=note if len(found) else "", names=None, null=distribution,
        )  # fmt: skip

    def _null_ratios(
        self, component: str, theta: FloatArray, n_sim: int, rng: np.random.Generator, progressbar: bool
    ) -> FloatArray:
        """Return the ratios of responses that are drawn at θ, without those that have no likelihood."""
        source, at, found = self._source.quiet(), self._node_at(theta), []
        for _ in tracked(range(n_sim), "Null distribution", show=progressbar):
            try:
                again = source.fit(self.node.observing(at.replicates(1, rng)[0]))
                _, null = _without(again, component)
            except ValueError:  # of responses that are all alike, for instance
                continue
            if math.isfinite(again.loglik) and math.isfinite(null):  # what has not converged is near the boundary
                found.append(_ratio(again.loglik, null))
        return np.array(found)


def _without(fit: Any, component: str) -> tuple[FloatArray, float]:
    """Return θ and the log-likelihood at the maximum with a variance of 0."""
    theta, _ = maximise_given(fit.objective, component, 0.0, fit.theta.to_numpy())
    fit.objective.log_likelihood(theta)  # from far away β̂ of ML is searched less precisely than from where it is
    return theta, float(fit.objective.log_likelihood(theta))


def _ratio(loglik: float, null: float) -> float:
    ratio = 2 * (float(loglik) - null)
    return ratio if ratio > _SAME * max(1.0, abs(null)) else 0.0


def _bias(
    estimate: float, draws: FloatArray, ends: tuple[float, float]
) -> tuple[float, float, float, float, float, str]:
    """Return a row of the table."""
    if len(draws) < 2:
        return estimate, math.nan, math.nan, math.nan, math.nan, "too few re-estimates"
    mean, error = float(draws.mean()), float(draws.std(ddof=1)) / math.sqrt(len(draws))
    bias = mean - estimate
    percent, plus_minus = (100 * bias / abs(estimate), 100 * error / abs(estimate)) if estimate else (math.nan,) * 2
    seen = float(stdtrit(len(draws) - 1, _SURE))
    if estimate in ends:
        verdict = "the estimate is on its bound, and re-estimates are on one side of it"
    elif abs(bias) <= seen * error:
        verdict = "no bias seen" + (f", within ±{seen * plus_minus:.0f} %" if estimate else "")
    else:
        size = f" by {abs(percent):.0f} ± {plus_minus:.0f} %" if estimate else ""
        verdict = f"too {'low' if bias < 0 else 'high'}{size}"
    return estimate, mean, bias, error, percent, verdict
