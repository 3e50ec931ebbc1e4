"""Intervals of a fit by average information: of variances, standard deviations, correlations, shares, coefficients."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pm_fastlmm.aireml.cone import errors, pack
from pm_fastlmm.aireml.objective import Objective, information_inverse
from pm_fastlmm.aireml.polar import Polar
from pm_fastlmm.aireml.refit import observed_information
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.display import tracked
from pm_fastlmm.base.tables import Table
from pm_fastlmm.fitting.profiles import CORR, SD, Held, derived, free_place, held, profile, profile_limits, shares_of
from pm_fastlmm.kernel.inference.bootstrap import Bootstrap, require_replicates
from pm_fastlmm.kernel.inference.estimates import InformationKind
from pm_fastlmm.kernel.inference.extremes import Smooth, Surface
from pm_fastlmm.kernel.inference.fit import Fit, IntervalKind
from pm_fastlmm.kernel.inference.function import Function, FunctionEstimate, Parameters, Scale, function_estimate
from pm_fastlmm.kernel.reml.fit import VARIANCES

_DEAR = 2e9  # multiplications, which take seconds
_REPLICATES = 1000  # by default


class VarianceIntervals(Fit):
    """The standard errors and intervals of `VarianceFit`, which has the fields that they are made of."""

    theta: pd.Series
    score: pd.Series
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
        surface = self._surface if self.converged else None
        return Parameters(o.names, self.theta.to_numpy(), cov, o.lower, o.upper, matrices, surface=surface)

    def _surface(self) -> Surface:
        theta, information = self.theta.to_numpy(), self.average_information.to_numpy()
        polar = Polar.at(self.objective, theta, information)
        x = polar.start(theta)
        size = polar.sizes(x, information)
        return Surface(
            polar.evaluate, polar.external, polar.jacobian, x, size, polar.lower, polar.upper, float(self.loglik)
        )

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

    @cached_property
    def _derived(self) -> dict[str, Function]:
        return derived(self.objective)

    def _values(self) -> dict[str, Any]:
        return self._and_beta(self._and_derived(self.theta.to_numpy()), self.blue)

    def _and_derived(self, theta: FloatArray) -> dict[str, Any]:
        """Return θ, standard deviations and correlations by name."""
        values = dict(zip(self.objective.names, theta.tolist(), strict=True))
        with np.errstate(invalid="ignore", divide="ignore"):
            found = {name: float(of(values)) for name, of in self._derived.items()}
        return values | {name: float(np.clip(value, *self._ends(name))) for name, value in found.items()}

    def _ends(self, name: str) -> tuple[float, float]:
        if name in self.objective.names:
            place = self.objective.names.index(name)
            return float(self.objective.lower[place]), float(self.objective.upper[place])
        if name in self._derived:
            return (0.0, np.inf) if name.startswith(SD) else (-1.0, 1.0)
        return -np.inf, np.inf

    def _quantities(self, kind: IntervalKind) -> list[str]:
        own = [name for name, fixed in zip(self.objective.names, self.objective.fixed, strict=True) if not fixed]
        also = [name for name in self._derived if name.removeprefix(SD) in own or name.removeprefix(CORR) in own]
        if kind == "profile":  # a covariance has none
            own = [name for name in own if CORR + name not in also]
        return [*own, *also, *(f"beta[{name}]" for name in self.coef)]

    def _delta_limits(self, names: Sequence[str], level: float) -> dict[str, tuple[Any, Any]]:
        also = {name: self._delta(name, level) for name in names if name in self._derived}
        limits = super()._delta_limits([name for name in names if name not in also], level)
        return limits | {name: (found.lower, found.upper) for name, found in also.items()}

    def _delta(self, name: str, level: float = 0.95) -> FunctionEstimate:
        """Return a standard deviation or correlation with its standard error, NaN on the boundary."""
        scale: Scale = "log" if name.startswith(SD) else "atanh"
        at = self._parameters()._replace(surface=None)
        return function_estimate(at.smooth(self._derived[name]), at, level, lambda: scale)

    def _limits(
        self, names: Sequence[str], kind: IntervalKind, level: float, n_sim: int | None, random_seed: Any
    ) -> dict[str, tuple[float, float]]:
        if self.objective.exact is not None:
            return self._exact_limits(names, kind, level, n_sim, random_seed)
        if kind == "profile":
            return self._all_profile_limits(names, level)
        if other := [name for name in names if name not in self._values()]:
            free_place(self.objective, other[0], self._derived)  # which says what there is
        if kind == "bootstrap":
            replicates = self.bootstrap(_REPLICATES if n_sim is None else n_sim, random_seed=random_seed)
            return {name: replicates.interval(name, level) for name in names}
        raise ValueError(
            f"intervals of kind {kind!r} are those of one kernel with both variances free: 'profile', 'bootstrap' and "
            "'delta' are for any fit."
        )

    def _all_profile_limits(self, names: Sequence[str], level: float) -> dict[str, tuple[float, float]]:
        """Return the limits of several quantities; those of a variance and of its root are the same search."""
        roots = {name: name.removeprefix(SD) for name in names if name in self._derived and name.startswith(SD)}
        found = {name: self._profile_limits(name, level) for name in {*names, *roots.values()} - {*roots}}
        return found | {name: tuple(np.sqrt(found[of]).tolist()) for name, of in roots.items()}

    def _exact_limits(self, names: Sequence[str], *options: Any) -> dict[str, tuple[float, float]]:
        """Return the limits that the fit of one kernel has, those of standard deviations as roots."""
        own = {name: self._in_exact(name) for name in names}
        limits = self.objective.exact._limits(list(own.values()), *options)
        return {
            name: tuple(np.sqrt(limits[of]).tolist()) if name in self._derived else limits[of]
            for name, of in own.items()
        }

    def _in_exact(self, name: str) -> str:
        """Return what a variance, its root or a coefficient is called in the fit of one kernel."""
        if name.startswith("beta[") and name[5:-1] in self.coef:
            return name
        base = name.removeprefix(SD) if name in self._derived else name
        return VARIANCES[free_place(self.objective, base, self._derived)]

    @abstractmethod
    def _redrawn(self, rng: np.random.Generator) -> "VarianceIntervals":
        """Return the fit of a response that is drawn from this one."""

    def bootstrap(self, n: int = _REPLICATES, *, random_seed: Any = None, progressbar: bool = False) -> Bootstrap:
        """
        Draw n responses from the fit and fit each of them by `refit`: a parametric bootstrap.

        Its draws are of all that `intervals` has: elements of θ, standard deviations and correlations, coefficients.
        The responses depend on the seed alone. One kernel is fitted in its rotated coordinates, 10 000 responses in a
        second; several components take as long as n fits, 5 ms each for the 180 rows of sleepstudy.

        Parameters
        ----------
        n : int
        random_seed : int, Generator or None
        progressbar : bool

        Raises
        ------
        ValueError
            If the fit has no estimate, the rows were not kept, n is below 2, or a function V(θ) was fitted.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy(), progressbar=False
        ... )
        >>> replicates = fit.bootstrap(20, random_seed=1)
        >>> replicates.summary(0.8).loc[["sd_Subject[Days]", "sd_residual"]].round(1)
                         estimate   sd lower upper
        sd_Subject[Days]      5.9  0.9   5.2   6.9
        sd_residual          25.6  1.2  23.7  26.8
        """
        if not self.converged:
            raise ValueError(f"the fit has no estimate to draw from: {self.message}.")
        if self.objective.exact is not None:
            return self._exact_bootstrap(n, random_seed)
        require_replicates(n)
        names, rng = list(self._values()), np.random.default_rng(random_seed)
        draws = np.full((n, len(names)), np.nan)
        for i in tracked(range(n), "Bootstrap", show=progressbar):
            again = self._redrawn(rng)
            if again.converged:
                draws[i] = list(again._values().values())
        return self._of_draws(dict(zip(names, draws.T, strict=True)))

    def _exact_bootstrap(self, n: int, random_seed: Any) -> Bootstrap:
        found = self.objective.exact.bootstrap(n, random_seed=random_seed).draws
        own = {name: found[self._in_exact(name)] for name in self._values()}
        return self._of_draws({name: np.sqrt(v) if name in self._derived else v for name, v in own.items()})

    def _of_draws(self, draws: dict[str, FloatArray]) -> Bootstrap:
        estimate = {name: float(value) for name, value in self._values().items()}
        return Bootstrap(draws, estimate, self.method, {name: self._ends(name) for name in draws})

    def profile(self, values: Any, name: str) -> FloatArray:
        """
        Return the profile log-likelihood at values (m,) of a parameter, maximised over all others and β.

        It is `loglik` at the estimate, and -inf where V is not positive definite; ratios of it give intervals and
        tests. A standard deviation, "sd_…", or correlation, "corr_…", of a covariance matrix is held while the rest of
        the matrix moves.

        Raises
        ------
        ValueError
            If there is no such parameter, it is fixed, or the covariance of two effects.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False
        ... )
        >>> print((fit.profile([0.0, fit.theta["Batch"], 10_000], "Batch") - fit.loglik).round(3))
        [-3.184  0.    -1.881]
        """
        given, of = np.asarray(values, dtype=float), self._held(name)
        at = profile(of)
        order = np.argsort(np.abs(given - of.estimate), axis=None)  # from the estimate outwards
        out = np.empty(given.size)
        for place in order:
            out[place] = at(float(given.flat[place]))
        return out.reshape(given.shape)

    def _held(self, name: str) -> Held:
        return held(self.objective, self.theta.to_numpy(), self.loglik, self.average_information.to_numpy(), name)

    def _profile_limits(self, name: str, level: float) -> tuple[float, float]:
        """Return where the profile likelihood falls by what is allowed."""
        of = self._held(name)
        linear = self.objective.linear(self.theta.to_numpy(), ~np.asarray(self.objective.fixed))
        return profile_limits(of, profile(of), self._step(name, of), level, linear=linear)

    def _step(self, name: str, of: Held) -> float:
        """Return the standard error of a parameter or a correlation, or what is like it where there is none."""
        errors = self._and_beta(self._errors("observed"), self._blue_se)
        error = self._delta(name).se if name in self._derived else errors[name]
        if error > 0:
            return float(error)
        if name in self._derived:
            return 0.25
        place = self.objective.names.index(name)
        information = self.average_information.to_numpy()[place, place]
        return 1 / float(np.sqrt(information)) if information > 0 else max(abs(of.estimate), 1e-3)

    def share_intervals(self, level: float = 0.95) -> Table:
        """
        Return the share that each component has of the variance, with an interval: estimate, lower, upper.

        The intervals are those of `function`: of the delta method on the logit scale, so that they stay between 0 and
        1; where a variance is on the boundary, of the profile likelihood, which `attrs["notes"]` and the printed table
        say.

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
                 estimate lower upper
        Batch        0.42  0.11   0.8
        residual     0.58   0.2  0.89
        """
        at, names = self._parameters(), list(self.shares.index)
        found = [function_estimate(self._share(k), at, level, lambda: "logit") for k in range(len(names))]
        rows = [(share.estimate, share.lower, share.upper) for share in found]
        table = Table(rows, names, ["estimate", "lower", "upper"])
        table.attrs["notes"] = {name: share.message for name, share in zip(names, found, strict=True) if share.message}
        return table

    def _share(self, k: int) -> Smooth:
        """Return the share of one component as a function of θ, with differences for its gradient."""
        o = self.objective
        size = errors(self.average_information.to_numpy() + np.diag(self.score.to_numpy() ** 2))

        def share(at: FloatArray) -> float:
            return list(shares_of(o, at).values())[k]

        def gradient(at: FloatArray) -> FloatArray:
            units = np.eye(len(at)) * np.where(o.fixed, 0.0, 1e-5 * size)
            ends = [(np.clip(at + unit, o.lower, o.upper), np.clip(at - unit, o.lower, o.upper)) for unit in units]
            steps = [float((above - below).sum()) for above, below in ends]
            return np.array(
                [
                    (share(above) - share(below)) / step if step else 0.0
                    for (above, below), step in zip(ends, steps, strict=True)
                ]
            )

        return Smooth(share, gradient)
