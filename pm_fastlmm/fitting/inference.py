"""Tests and intervals as methods of a fit by average information."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, gammaincinv, ndtri

from pm_fastlmm.aireml.cone import pack
from pm_fastlmm.aireml.iteration import maximise_given
from pm_fastlmm.aireml.linear import linear_derivatives, require_small
from pm_fastlmm.aireml.objective import Objective, information_inverse
from pm_fastlmm.aireml.refit import along_face, first_differences, observed_information, second_differences, steps_of
from pm_fastlmm.base.arrays import FloatArray, require_fraction
from pm_fastlmm.kernel.inference.estimates import InformationKind
from pm_fastlmm.kernel.inference.fit import Fit, IntervalKind
from pm_fastlmm.kernel.inference.fixed_effects import NOT_OF_ML, DegreesOfFreedom, FixedEffects, ZeroVariances
from pm_fastlmm.kernel.inference.function import Parameters
from pm_fastlmm.kernel.inference.variance_test import VarianceTest, kernel_test
from pm_fastlmm.kernel.reml.fit import VARIANCES, REMLFit
from pm_fastlmm.spectrum.projection import Projection

_DEAR = 2e9  # multiplications, which take seconds
_REACH = 60  # doublings of a standard error in the search for an upper limit
_SINGULAR = "a covariance matrix of this fit is singular, where the expansion of Kenward and Roger fails"
_NEARLY = (
    "a covariance matrix of this fit is so nearly singular that its elements cannot move by a share of their errors"
)
_OVERLAPPING = (
    "terms of this fit overlap, and the expansion of Kenward and Roger needs parameters that have information"
)
_TOGETHER = "flmm.compare_fits(without, with_) tests random slopes by a fit without and a fit with them"
_PSEUDO = "pseudo-likelihood: the other components taken as known"


class VarianceInference(Fit):
    """The tests and intervals of `VarianceFit`, which has the fields that they are made of."""

    theta: pd.Series
    average_information: pd.DataFrame
    boundary: tuple[str, ...]
    objective: Objective
    names: tuple[str, ...] | None = None  # the fits are of one response

    @cached_property
    def cov(self) -> pd.DataFrame:
        """
        Covariance of the estimates: the inverse of the observed information, the curvature of the likelihood.

        It is made of differences of the exact score when it is first asked for. NaN for parameters that are fixed or on
        the boundary, and where the likelihood is flat.
        """
        free, names = self._interior, list(self.theta.index)
        expected = information_inverse(self.average_information.to_numpy(), free)
        observed = observed_information(self.objective, self.theta.to_numpy(), np.sqrt(np.diag(expected)))
        usable = np.isfinite(observed[np.ix_(free, free)]).all()
        return pd.DataFrame(information_inverse(observed, free) if usable else expected, names, names)

    @property
    def _interior(self) -> Any:
        return ~np.isin(self.theta.index, self.boundary) & ~np.asarray(self.objective.fixed)

    def _estimates(self) -> dict[str, Any]:
        return dict(zip(self.objective.names, self.theta, strict=True))

    def _parameters(self) -> Parameters:
        o, fixed = self.objective, np.asarray(self.objective.fixed)
        cov = np.where(fixed[:, None] | fixed, 0.0, self.cov.to_numpy())
        matrices = [(m.place, m.size) for m in o.matrices]
        return Parameters(o.names, self.theta.to_numpy(), cov, o.lower, o.upper, matrices)

    @property
    def _variances(self) -> list[str]:
        return [name for name, own in zip(self.objective.names, self.objective.variances, strict=True) if own]

    @property
    def _correlations(self) -> dict[str, float]:
        out: dict[str, float] = {}
        for m in self.objective.matrices:
            matrix = m.read(self.theta.to_numpy())
            with np.errstate(invalid="ignore", divide="ignore"):
                corr = pack(matrix / np.sqrt(np.outer(np.diag(matrix), np.diag(matrix))))
            lower = pack(~np.eye(m.size, dtype=bool))
            out |= {name: r for name, r, own in zip(self.objective.names[m.place], corr, lower, strict=True) if own}
        return out

    @property
    def _tested(self) -> bool:
        return bool(self.coef) and self.converged

    @property
    def _dear(self) -> bool:
        # differences for the information and for the covariance of β̂ take about six evaluations of each parameter
        return self.objective.exact is None and 6 * len(self.theta) * self.objective.work > _DEAR

    def _errors(self, information: InformationKind) -> dict[str, Any]:
        if information == "observed":
            cov = self.cov.to_numpy()
        else:
            cov = information_inverse(self.average_information.to_numpy(), self._interior)
        return dict(zip(self.objective.names, np.sqrt(np.diag(cov)), strict=True))

    def _quantities(self, kind: IntervalKind) -> list[str]:
        if kind == "delta":
            return [*self.theta.index, *(f"beta[{name}]" for name in self.coef)]
        return list(self.theta.index[~(self.objective.fixed | self.objective.together)])

    def _limits(
        self, names: Sequence[str], kind: IntervalKind, level: float, n_sim: int, random_seed: Any
    ) -> dict[str, tuple[float, float]]:
        exact: REMLFit | None = self.objective.exact
        if exact is not None:
            own = {name: VARIANCES[_free_place(self.objective, name)] for name in names}
            limits = exact._limits(list(own.values()), kind, level, n_sim, random_seed)
            return {name: limits[variance] for name, variance in own.items()}
        if kind == "profile":
            return {name: self._profile_limits(name, level) for name in names}
        raise ValueError(
            f"intervals of kind {kind!r} are those of one kernel with both variances free: 'profile' and 'delta' "
            "are for any fit."
        )

    def profile(self, values: Any, name: str) -> FloatArray:
        """
        Return the profile log-likelihood at values (m,) of a parameter, maximised over all others and β.

        It is `loglik` at the estimate, and -inf where V is not positive definite; ratios of it give intervals and
        tests.

        Raises
        ------
        ValueError
            If there is no such parameter, it is fixed, or it is an element of an unstructured matrix.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False
        ... )
        >>> print((fit.profile([0.0, fit.theta["Batch"], 10_000], "Batch") - fit.loglik).round(3))
        [-3.184  0.    -1.881]
        """
        given = np.asarray(values, dtype=float)
        estimate, at = float(self.theta.iloc[_free_place(self.objective, name)]), self._profile(name)
        order = np.argsort(np.abs(given - estimate), axis=None)  # from the estimate outwards
        out = np.empty(given.size)
        for place in order:
            out[place] = at(float(given.flat[place]))
        return out.reshape(given.shape)

    def _profile(self, name: str) -> Callable[[float], float]:
        """Return the profile log-likelihood as a function, each maximum started from the nearest known."""
        objective, theta = self.objective, self.theta.to_numpy()
        estimate = float(theta[_free_place(objective, name)])
        known = {estimate: theta}

        def loglik(value: float) -> float:
            if value == estimate:
                return float(self.loglik)
            nearest = min(known, key=lambda at: abs(at - value))
            found, maximum = maximise_given(objective, name, value, known[nearest])
            if np.isfinite(maximum):
                known[value] = found
            return float(maximum)

        return loglik

    def _profile_limits(self, name: str, level: float) -> tuple[float, float]:
        """Return where the profile likelihood falls by what is allowed."""
        objective, theta = self.objective, self.theta.to_numpy()
        place, allowed = _free_place(objective, name), float(2 * gammaincinv(0.5, level))
        estimate, profile = float(theta[place]), self._profile(name)

        def excess(value: float) -> float:  # of 2[max ℓ - ℓ(value)] over what is allowed
            return float(min(2 * (self.loglik - profile(value)), 1e300)) - allowed

        step = float(self._errors("observed")[name])
        if not step > 0:
            information = self.average_information.to_numpy()[place, place]
            step = 1 / float(np.sqrt(information)) if information > 0 else max(abs(estimate), 1e-3)
        lower, upper = objective.lower[place], objective.upper[place]
        return _limit(excess, estimate, step, -1, lower), _limit(excess, estimate, step, 1, upper)

    def share_intervals(self, level: float = 0.95) -> pd.DataFrame:
        """
        Return the share that each component has of the variance, with an interval: estimate, lower, upper.

        The interval is of the delta method on the logit scale, so that it stays between 0 and 1: with s the share,
        J = ∂s/∂θ by differences and C the inverse of the observed information, logit s ± z√(JCJᵀ)/(s(1 - s)). It is NaN
        where s is 0 or 1, or depends on nothing that the data determine.

        Raises
        ------
        ValueError
            If V is not a sum of components whose variances are known, or the level is no probability.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False
        ... )
        >>> fit.share_intervals().round(2)
                  estimate  lower  upper
        Batch         0.42   0.11   0.80
        residual      0.58   0.20   0.89
        """
        require_fraction(level, "level")
        theta, cov = self.theta.to_numpy(), np.nan_to_num(self.cov.to_numpy())

        def shares(at: FloatArray) -> FloatArray:
            variances = np.array(list(self.objective.mean_variances(at).values()))
            return np.asarray(variances / variances.sum())

        step = 1e-4 * np.sqrt(np.diag(cov))
        slopes = [
            (shares(theta + h * e) - shares(theta - h * e)) / (2 * h) if h > 0 else np.zeros(len(self.shares))
            for h, e in zip(step, np.eye(len(theta)), strict=True)
        ]
        J, s = np.column_stack(slopes), self.shares.to_numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            se = np.sqrt(np.einsum("kp,pq,kq->k", J, cov, J)) / (s * (1 - s))
            half = np.where(se > 0, ndtri((1 + level) / 2) * se, np.nan)
            ends = expit(np.log(s) - np.log1p(-s) + np.array([-half, half]))
        return pd.DataFrame({"estimate": s, "lower": ends[0], "upper": ends[1]}, index=list(self.shares.index))

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
        place = _free_place(objective, component)
        if objective.lower[place] != 0 or np.isfinite(objective.upper[place]) or component == objective.names[-1]:
            raise ValueError(
                f"{component} is no variance of a component, whose only bound is 0: name one of the random terms."
            )
        exact: REMLFit | None = objective.exact
        if exact is not None:
            return replace(exact.test_no_variance(n_sim=n_sim, random_seed=random_seed), component=component)
        rotated = objective.alone(self.theta.to_numpy(), place)
        _, null = maximise_given(objective, component, 0.0, self.theta.to_numpy())
        statistic = 0.0 if component in self.boundary else max(2 * (self.loglik - null), 0.0)
        single = np.count_nonzero(~objective.fixed) == 2
        return kernel_test(
            rotated, np.asarray(statistic), "REML", n_sim=n_sim, random_seed=random_seed, component=component,
            approximation="" if single else _PSEUDO,
        )  # fmt: skip

    @property
    def _projection(self) -> Projection:
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


def _limit(excess: Callable[[float], float], inside: float, step: float, sign: int, bound: float) -> float:
    """Return the limit on one side: the bound where the likelihood does not fall so far."""
    for _ in range(_REACH):
        outside = inside + sign * step
        at_bound = sign * outside >= sign * bound
        outside = float(bound) if at_bound else outside
        if outside == inside:
            return inside
        if excess(outside) > 0:
            tolerance = 1e-9 * max(abs(inside), abs(outside), 1e-300)
            return float(brentq(excess, inside, outside, xtol=tolerance, rtol=1e-10))
        if at_bound:
            return outside
        inside, step = outside, 2 * step
    return sign * np.inf


def _singular(objective: Objective, theta: FloatArray, boundary: tuple[str, ...]) -> bool:
    """Return whether a matrix that is not 0 is on the boundary."""
    matrices = (m for m in objective.matrices if m.size > 1)
    return any(objective.names[m.place][0] in boundary and theta[m.place].any() for m in matrices)


def _free_place(objective: Objective, name: str) -> int:
    """Return the place of a parameter that may be held on its own."""
    if name not in objective.names and name.removeprefix("beta[").removesuffix("]") in objective.coef:
        raise ValueError(
            f"{name} is a fixed effect, which this likelihood has no parameter for: fit.coefficients() has its t test "
            "and interval, fit.test_fixed tests several."
        )
    elements = [element for element in objective.names if element.startswith(f"{name}[")]
    if name not in objective.names:
        raise ValueError(
            f"there is no parameter {name!r}: they are {', '.join(objective.names)}."
            + (f" For all of {name}, {_TOGETHER}." if elements else "")
            + (" Shares have fit.share_intervals(), functions fit.function(lambda v: …)." if name == "h2" else "")
        )
    place = objective.names.index(name)
    if objective.fixed[place]:
        raise ValueError(f"{name} is fixed: it has neither an interval nor a test.")
    if objective.together[place]:
        raise ValueError(
            f"{name} is an element of an unstructured matrix, which cannot be held without the others: {_TOGETHER}. "
            "Independent effects, (x || g), have variances that can be held; flmm.sample has intervals of both."
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
