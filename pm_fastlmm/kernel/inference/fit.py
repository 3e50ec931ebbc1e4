"""Fit: what every REML or ML fit answers, by one vocabulary."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, Ids, require_fraction
from pm_fastlmm.base.choices import OF_REPLICATES, require_choice
from pm_fastlmm.base.labels import simulated
from pm_fastlmm.kernel.effects.effects import Prediction
from pm_fastlmm.kernel.inference.function import (
    Function,
    FunctionEstimate,
    Parameters,
    Scale,
    function_estimate,
)
from pm_fastlmm.kernel.inference.intervals import wald_limits
from pm_fastlmm.kernel.inference.marginal import MarginalMeans
from pm_fastlmm.kernel.inference.variance_test import VarianceTest

type IntervalKind = Literal["profile", "inversion", "bootstrap", "delta"]


class Fit(MarginalMeans):
    """A REML or ML fit: estimates, with tests, intervals and predictions."""

    __slots__ = ()

    @abstractmethod
    def test_no_variance(self, component: str, *, n_sim: int = 10_000, random_seed: Any = None) -> VarianceTest:
        """Test that the variance of one component is 0 by the (restricted) likelihood ratio."""

    @abstractmethod
    def predict(self, *args: Any, **kwargs: Any) -> Prediction:
        """Predict f = Xβ + Zu for new rows."""

    @abstractmethod
    def loo(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Predict each observation from all the others."""

    @abstractmethod
    def share_intervals(self, level: float = 0.95) -> pd.DataFrame:
        """Return the share of each component with an interval: estimate, lower, upper."""

    @abstractmethod
    def diagnostics(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return fitted value, residuals, leverage and leave-one-out prediction of each observation."""

    @abstractmethod
    def loo_groups(self, groups: Any, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return the joint density of each group of observations given all others."""

    @abstractmethod
    def _limits(
        self, names: Sequence[str], kind: IntervalKind, level: float, n_sim: int, random_seed: Any
    ) -> dict[str, tuple[Any, Any]]:
        """Return the limits of intervals other than "delta", () or (T,)."""

    @abstractmethod
    def _quantities(self, kind: IntervalKind) -> Sequence[str]:
        """Return what a table of intervals has by default."""

    @abstractmethod
    def _parameters(self) -> Parameters:
        """Return the parameters of V with their covariance and bounds, of one response."""

    @abstractmethod
    def _replicates(self, n_draws: int, effects: str, rng: np.random.Generator) -> FloatArray:
        """Draw new responses, (draws, n)."""

    @property
    @abstractmethod
    def _ids(self) -> Ids | None:
        """The ids of the observations."""

    def interval(
        self, name: str, kind: IntervalKind = "profile", level: float = 0.95, *, n_sim: int = 4000,
        random_seed: Any = None,
    ) -> tuple[Any, Any]:  # fmt: skip
        """
        Return an interval of a parameter, or of a function of parameters.

        Parameters
        ----------
        name : str
            As in `summary`.
        kind : {"profile", "inversion", "bootstrap", "delta"}
            "profile": where 2[max ℓ - ℓ] is below the quantile of χ²₁, the likelihood maximised again over all other
            parameters. It ends at a bound where the likelihood does not fall so far. That of one kernel is global, the
            smallest interval that contains all of the set; with several components the maxima are local ones. After
            REML a coefficient of one kernel has the restricted likelihood in which only the others are eliminated.
            "inversion", for h2, pve and delta of one kernel: the values that the exact likelihood-ratio test does not
            reject. The critical value is simulated under each h² instead of taken from χ²₁: coverage is the level at
            any h², 0 and 1 included, at any n, up to the number of draws. One simulation serves all responses.
            "bootstrap", for one response of one kernel: percentiles of replicates.
            "delta": estimate ± z · standard error from the observed information, undefined at a boundary; it may leave
            the range of a parameter.
        level : float
        n_sim : int
            Draws for each of some dozens of values of h² of the inversion, or replicates of the bootstrap.
        random_seed : int, Generator or None

        Returns
        -------
        low, high : floats or (T,) arrays
            NaN where the fit has no estimate.

        Raises
        ------
        ValueError
            If there is no such parameter, it is fixed, an element of an unstructured matrix, or its kind of interval is
            another; if the level is no probability, or a ML likelihood is unbounded.

        Notes
        -----
        The inversion of a test at every h² is as in Schweiger et al. (2016), doi:10.1016/j.ajhg.2016.04.016 (ALBI),
        whose acceptance regions order the estimates; the likelihood ratio orders them here, so that the interval always
        contains the estimate and is never empty.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> batch = np.repeat(np.eye(5), 3, axis=0)
        >>> spectrum = flmm.Spectrum.from_factor(batch, np.ones((15, 1)))
        >>> fit = flmm.reml(spectrum, np.array([1.0, 2, 1, 3, 3, 4, 2, 3, 1, 2, 4, 3, 1, 1, 2]))
        >>> print([round(limit, 3) for limit in fit.interval("h2")])
        [0.0, 0.907]

        >>> model = flmm.lmm_model("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff())
        >>> fit = flmm.find_reml(model, progressbar=False)
        >>> print([round(limit) for limit in fit.interval("Batch")])
        [245, 10214]
        """
        return self._interval_limits((name,), kind, level, n_sim, random_seed)[name]

    def intervals(
        self, kind: IntervalKind = "profile", level: float = 0.95, *, quantities: Sequence[str] | None = None,
        n_sim: int = 4000, random_seed: Any = None,
    ) -> pd.DataFrame:  # fmt: skip
        """
        Return estimates and intervals of the parameters as a table, with one block of rows per response.

        Parameters
        ----------
        kind : {"profile", "inversion", "bootstrap", "delta"}
            See `interval`.
        level : float
        quantities : sequence of str, optional
            Which; by default all that have such intervals, for several responses h2 and pve alone.
        n_sim, random_seed : optional
            Of the inversion and the bootstrap.

        Returns
        -------
        DataFrame
            Columns estimate, lower, upper; kind and level are in its attrs.

        Raises
        ------
        ValueError
            If the kind or a quantity is unknown or does not fit it.
        """
        chosen = self._quantities(kind) if quantities is None else tuple(quantities)
        limits = self._interval_limits(chosen, kind, level, n_sim, random_seed)
        estimates = self._and_beta(self._estimates(), self.blue)
        rows = [np.stack([estimates[name], *limits[name]], axis=-1) for name in chosen]
        values = np.stack(rows, axis=-2).reshape(-1, 3) if rows else np.empty((0, 3))
        table = pd.DataFrame(values, self._rows(chosen, "quantity"), ["estimate", "lower", "upper"], dtype=float)
        table.attrs.update(kind=kind, level=level)
        return table

    def _interval_limits(
        self, names: Sequence[str], kind: IntervalKind, level: float, n_sim: int, random_seed: Any
    ) -> dict[str, tuple[Any, Any]]:
        require_fraction(level, "level")
        require_choice("kind", kind, IntervalKind)
        if kind != "delta":
            return self._limits(names, kind, level, n_sim, random_seed)
        estimates, errors = self._and_beta(self._estimates(), self.blue), self.standard_errors()
        if other := [name for name in names if name not in estimates]:
            raise ValueError(f"there is no quantity {other[0]!r}: they are {', '.join(estimates)}.")
        return {name: self._known(wald_limits(estimates[name], np.asarray(errors[name]), level)) for name in names}

    def _known(self, limits: tuple[FloatArray, FloatArray]) -> tuple[Any, Any]:
        """Return numbers for one response; NaN where the fit has no estimate."""
        ends = [np.where(self.converged, np.reshape(v, np.shape(self.converged)), np.nan) for v in limits]
        low, high = (end if end.ndim else end.item() for end in ends)
        return low, high

    def function(self, function: Function, level: float = 0.95, *, scale: Scale | None = None) -> FunctionEstimate:
        """
        Return a function of the parameters of V, heritability for instance, with standard error and interval.

        The standard error is that of the delta method, √(gᵀCg), with C the inverse of the observed information. The
        interval is symmetrical on a scale on which the function has no ends: logit for a share, log for what is
        positive, atanh for a correlation; which of them is found out from values of the function far from the estimate.

        Parameters
        ----------
        function : callable
            Of a mapping v from the names of `theta` (after `reml` also those of `summary`) to numbers, in arithmetic
            and functions of NumPy: its derivatives are exact.
        level : float
        scale : {"identity", "log", "logit", "atanh"}, optional
            Of the interval, by default found out.

        Returns
        -------
        FunctionEstimate
            Where the function depends on a parameter on the boundary, se and limits are NaN and `message` names it.

        Raises
        ------
        ValueError
            If the fit has several responses, the function names what is no parameter, returns no number or has no
            derivative, or the estimate is outside the range of the scale.

        Notes
        -----
        The interval of one kernel's h² from `interval("h2", "inversion")` holds its level in small samples and at the
        boundary, which the delta method does not. Of posterior draws take the same function of `variances(idata)`.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False
        ... )
        >>> repeatability = fit.function(lambda v: v["Batch"] / (v["Batch"] + v["residual"]))
        >>> repeatability
        0.418487 ± 0.216205, 0.95 interval 0.112019 to 0.80413, made on the logit scale
        >>> fit.function(
        ...     lambda v: 100 * v["residual"] ** 0.5 / fit.beta["Intercept"]
        ... )  # coefficient of variation, %
        3.24125 ± 0.467834, 0.95 interval 2.4426 to 4.30103, made on the log scale
        """
        if self.names is not None:
            raise ValueError("a function is of the parameters of one response: fits.response(name).function(...).")
        return function_estimate(function, self._parameters(), level, scale)

    def simulate(
        self, n_draws: int = 1, *, effects: Literal["new", "given"] = "new", random_seed: Any = None
    ) -> pd.DataFrame:
        """
        Draw new responses y* = Xβ̂ + Zu + e from the fitted model, the parameters at their estimates.

        Parameters
        ----------
        n_draws : int
        effects : {"new", "given"}
            "new": effects drawn from their covariance, those of other individuals, which is the parametric bootstrap.
            "given": the û of the fit, which vary less than the effects did.
        random_seed : optional

        Returns
        -------
        DataFrame (n, n_draws)
            In the form in which `reml(fit.spectrum, …)` fits all of them in one call.

        Raises
        ------
        ValueError
            If the fit has several responses, or no estimate; if the rows were not kept, or there are no effects that
            could be given.

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
        require_choice("effects", effects, OF_REPLICATES)
        return simulated(self._replicates(n_draws, effects, np.random.default_rng(random_seed)), self._ids)
