"""Tests as methods of a fit by average information."""

from dataclasses import replace
from typing import Any

import numpy as np

from pm_fastlmm.aireml.iteration import maximise_given
from pm_fastlmm.aireml.linear import linear_derivatives, require_small
from pm_fastlmm.aireml.objective import Objective, information_inverse
from pm_fastlmm.aireml.refit import along_face, first_differences, second_differences, steps_of
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.fitting.intervals import VarianceIntervals
from pm_fastlmm.fitting.profiles import TOGETHER, Held, free_place, held_on_bound
from pm_fastlmm.kernel.inference.estimates import whole_covariance
from pm_fastlmm.kernel.inference.fixed_effects import NOT_OF_ML, DegreesOfFreedom, FixedEffects, ZeroVariances
from pm_fastlmm.kernel.inference.value_test import ValueTest
from pm_fastlmm.kernel.inference.variance_test import VarianceTest, kernel_test
from pm_fastlmm.kernel.reml.fit import REMLFit
from pm_fastlmm.spectrum.sparse_projection import AnyProjection

_SINGULAR = "a covariance matrix of this fit is singular, where the expansion of Kenward and Roger fails"
_NEARLY = (
    "a covariance matrix of this fit is so nearly singular that its elements cannot move by a share of their errors"
)
_OVERLAPPING = (
    "terms of this fit overlap, and the expansion of Kenward and Roger needs parameters that have information"
)
_PSEUDO = "pseudo-likelihood: the other components taken as known"


class VarianceInference(VarianceIntervals):
    """The tests of `VarianceFit`, which has the fields that they are made of."""

    def test_no_variance(self, component: str, *, n_sim: int = 10_000, random_seed: Any = None) -> VarianceTest:
        """
        Test that the variance of one component is 0 by the restricted likelihood ratio.

        With one component the null distribution is exact, that of `REMLFit.test_no_variance`. With several, the
        likelihood is maximised again without it, and the null distribution is that of the model in which the other
        components are known and subtracted: an approximation, said in `approximation`.

        Parameters
        ----------
        component : str
            A name of θ that is a variance.
        n_sim : int
            Draws of the null distribution.
        random_seed : int, Generator or None

        Raises
        ------
        ValueError
            If that is no variance with a bound of 0, belongs to an unstructured matrix, the fit is by ML with several
            components or has no rows, or the component has too many effects.

        References
        ----------
        Greven, Crainiceanu, Küchenhoff & Peters (2008), doi:10.1198/106186008X386599.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> model = flmm.lmm_model(
        ...     "diameter ~ 1 + (1 | plate) + (1 | sample)", flmm.datasets.penicillin()
        ... )
        >>> test = flmm.find_reml(model, progressbar=False).test_no_variance(
        ...     "sample", random_seed=1
        ... )
        >>> print(f"{test.statistic:.1f} {test.p_value < 1e-30} {test.approximation}")
        282.4 True pseudo-likelihood: the other components taken as known
        """
        objective = self.objective
        place = self._place_of_variance(component)
        exact: REMLFit | None = objective.exact
        if exact is not None:
            return replace(exact.test_no_variance(n_sim=n_sim, random_seed=random_seed), component=component)
        rotated = objective.alone(self.theta.to_numpy(), place)
        statistic = 0.0
        if component not in self.boundary:
            _, null = maximise_given(objective, component, 0.0, self.theta.to_numpy())
            statistic = max(2 * (self.loglik - null), 0.0)
        single = np.count_nonzero(~objective.fixed) == 2
        return kernel_test(
            rotated, np.asarray(statistic), "REML", n_sim=n_sim, random_seed=random_seed, component=component,
            approximation="" if single else _PSEUDO,
        )  # fmt: skip

    def _place_of_variance(self, component: str) -> int:
        """Return the place of a variance that can be 0 on its own."""
        objective = self.objective
        place = _alone(objective, component)
        residual = component in objective.names[objective.of_residual]
        if objective.lower[place] != 0 or np.isfinite(objective.upper[place]) or residual:
            raise ValueError(
                f"{component} is no variance of a component, whose only bound is 0: name one of the random terms."
            )
        return place

    def test_value(self, name: str, value: float) -> ValueTest:
        """
        Test that a parameter has a value, by the likelihood ratio with all others maximised.

        It is for what has a profile: variances, correlations "corr_…", standard deviations "sd_…", coefficients
        "beta[…]". A genetic correlation of 0, and of 1, are `test_value("corr_K[milk, fat]", 0)` and `…, 1)`. On a
        bound the null distribution is a mixture (`ValueTest.df`), which is asymptotic: for one variance
        `test_no_variance` has that of the sample at hand.

        Parameters
        ----------
        name : str
        value : float

        Returns
        -------
        ValueTest

        Raises
        ------
        ValueError
            If there is no such parameter, it is fixed, a covariance, or the value is beyond its bounds.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy(), progressbar=False
        ... )
        >>> test = fit.test_value("corr_Subject[Intercept, Days]", 0)
        >>> print(f"{test.statistic:.3f} {test.p_value:.2f}")
        0.041 0.84
        """
        of = self._held(name)
        if not of.lower <= value <= of.upper:
            raise ValueError(f"{name} is between {of.lower:g} and {of.upper:g}: it cannot be tested to be {value:g}.")
        loglik = float(self.profile([value], name)[0])
        statistic = max(2 * (self.loglik - loglik), 0.0)
        return ValueTest(name, float(value), of.estimate, statistic, self._df_at(name, value, of), self.method)

    def _df_at(self, name: str, value: float, of: Held) -> tuple[int, ...]:
        """Return the degrees of freedom of a value: of a mixture where it is on a bound."""
        if value not in (of.lower, of.upper):
            return (1,)
        count = held_on_bound(self.objective, name)
        return (count - 1, count)

    @property
    def _projection(self) -> AnyProjection:
        return self.objective.projection

    @property
    def _residual_variance(self) -> float:
        return next(reversed(self.objective.mean_variances(self.theta.to_numpy()).values()))

    def _fixed_effects(self, df: DegreesOfFreedom, zero_variances: ZeroVariances) -> FixedEffects:
        objective = self.objective
        if not objective.coef:
            raise ValueError(
                "this fit estimates no fixed effects by REML: β is explicit, has a prior, or there is none. Leave out "
                "beta= and beta_cov= of the node."
            )
        exact: REMLFit | None = objective.exact
        if exact is not None:
            return exact._fixed_effects(df, zero_variances)
        if self._many:
            return self._of_many()
        theta, free = self.theta.to_numpy(), self._interior
        if zero_variances == "free":
            return self._with_all_free(theta)
        if _singular(objective, theta, self.boundary):
            return self._along_face(theta, _SINGULAR)
        cov = self.cov.to_numpy()
        has_face = objective.face(theta, self.average_information.to_numpy()) is not None
        if has_face and np.isnan(cov[np.ix_(free, free)]).any():
            return self._along_face(theta, _OVERLAPPING)
        unavailable = "" if df != "kenward-roger" else why_not_adjusted(objective, theta, free)
        known = np.where(np.outer(free, free), cov, 0.0)
        steps = steps_of(objective, theta, np.where(free, np.sqrt(np.diag(cov)), np.nan))
        slopes = first_differences(objective, theta, steps)
        if has_face and np.isnan(slopes).any():
            return self._along_face(theta, _NEARLY)
        if df != "kenward-roger" or unavailable:
            return self._estimable(slopes, observed_cov=known, unavailable=unavailable)
        observed = np.zeros_like(cov)
        observed[np.ix_(free, free)] = np.linalg.inv(cov[np.ix_(free, free)])
        # where V is linear in θ the average information is the mean of the other two
        inverse = information_inverse(2 * self.average_information.to_numpy() - observed, free)
        return self._estimable(
            slopes, second_differences(objective, theta, steps), known, np.where(np.outer(free, free), inverse, 0.0)
        )

    def _of_many(self) -> FixedEffects:
        r = len(self.objective.coef)
        none = np.zeros((0, 0))
        return FixedEffects(
            self.blue, self.blue_cov, none, none, none, none, self.objective.residual_df, self.objective.coef,
            unavailable=str(whole_covariance(r)),
        )  # fmt: skip

    def _estimable(
        self, slopes: FloatArray, curvatures: FloatArray | None = None, observed_cov: FloatArray | None = None,
        expected_cov: FloatArray | None = None, unavailable: str = "",
    ) -> FixedEffects:  # fmt: skip
        """Return the fixed effects; what is not given is undefined, NaN."""
        size, r = slopes.shape[:2]
        undefined = np.full((size, size), np.nan)
        return FixedEffects(
            beta=self.blue, cov=self.blue_cov, slopes=slopes,
            curvatures=np.full((size, size, r, r), np.nan) if curvatures is None else curvatures,
            observed_cov=undefined if observed_cov is None else observed_cov,
            expected_cov=undefined if expected_cov is None else expected_cov,
            residual_df=self.objective.residual_df, coef=self.objective.coef, unavailable=unavailable,
        )  # fmt: skip

    def _with_all_free(self, theta: FloatArray) -> FixedEffects:
        objective = self.objective
        free = ~np.asarray(objective.fixed)
        if unavailable := why_not_adjusted(objective, theta, free):
            raise ValueError(unavailable)
        require_small(objective.projection.Q1.shape[0], len(theta))
        slopes, curvatures, expected = linear_derivatives(
            objective.covariance(theta), objective.covariance_derivatives(theta), objective.projection, free
        )
        return self._estimable(slopes, curvatures, expected_cov=expected)

    def _along_face(self, theta: FloatArray, reason: str) -> FixedEffects:
        slopes, cov = along_face(self.objective, theta, self.average_information.to_numpy())
        remedy = "take df='satterthwaite', zero_variances='free', which pbkrtest has, or leave a term out."
        return self._estimable(slopes, observed_cov=cov, unavailable=f"{reason}: {remedy}")


def _singular(objective: Objective, theta: FloatArray, boundary: tuple[str, ...]) -> bool:
    """Return whether a matrix that is not 0 is on the boundary."""
    matrices = (m for m in objective.matrices if m.size > 1)
    return any(objective.names[m.place][0] in boundary and theta[m.place].any() for m in matrices)


def _alone(objective: Objective, name: str) -> int:
    """Return the place of a parameter that may be 0 on its own."""
    place = free_place(objective, name, {})
    if objective.together[place]:
        raise ValueError(
            f"{name} is an element of an unstructured matrix, without which the others cannot be: {TOGETHER}. "
            "Independent effects, (x || g), have variances that are tested alone."
        )
    return place


def why_not_adjusted(objective: Objective, theta: FloatArray, free: FloatArray) -> str:
    """Return why there is no Kenward–Roger adjustment, nothing if there is."""
    if objective.method != "REML":
        return NOT_OF_ML
    if objective.linear(theta, free):
        return ""
    return (
        "Kenward and Roger's adjustment is formed here for a V that is linear in its parameters, variances and "
        "covariances, and this one is not: take df='satterthwaite', or a structure of variances and covariances."
    )
