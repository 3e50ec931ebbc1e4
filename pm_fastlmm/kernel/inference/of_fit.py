"""Tests and intervals as methods of a fit of one kernel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, require_fraction
from pm_fastlmm.base.choices import Method, require_choice
from pm_fastlmm.kernel.inference import fixed_effects as fixed
from pm_fastlmm.kernel.inference.bootstrap import Bootstrap, bootstrap
from pm_fastlmm.kernel.inference.fixed_effects import DegreesOfFreedom, FixedTest, ZeroVariances
from pm_fastlmm.kernel.inference.intervals import (
    SHARES,
    VARIANCES,
    IntervalMethod,
    coefficient_place,
    critical_levels,
    inversion_limits,
    profile_limits,
    wald_limits,
)
from pm_fastlmm.kernel.inference.variance_test import VarianceTest, kernel_test, require_draws, require_variation
from pm_fastlmm.kernel.likelihood.prior import read_h2
from pm_fastlmm.spectrum.spectrum import Rotated


class FitInference:
    """The tests and intervals of `REMLFit`, which adds the fields that they are made of."""

    __slots__ = ()

    sigma2_g: Any
    sigma2_e: Any
    beta: FloatArray
    beta_se: FloatArray
    loglik: Any
    loglik_null: Any
    boundary: Any
    converged: Any
    method: Method
    names: tuple[str, ...] | None
    coef: tuple[str, ...]

    @property
    def _data(self) -> Rotated:
        raise NotImplementedError

    def test_no_kernel_variance(self, *, n_sim: int = 10_000, random_seed: Any = None) -> VarianceTest:
        """
        Test σ²_g = 0 by the likelihood ratio, with its exact finite-sample null distribution.

        The distribution depends on the eigenvalues alone and is simulated from them once for all responses; p-values
        far below 1/n_sim are resolved by importance sampling, each with a standard error.

        Parameters
        ----------
        n_sim : int
            Draws of the null distribution.
        random_seed : int, Generator or None

        Returns
        -------
        VarianceTest

        Raises
        ------
        ValueError
            If there is nothing to test: K is zero or a multiple of the identity orthogonal to X, or a ML likelihood is
            unbounded.

        References
        ----------
        Crainiceanu & Ruppert (2004), doi:10.1111/j.1467-9868.2004.00438.x; Harrison (2012), doi:10.1093/biomet/asr079.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> batch = np.repeat(np.eye(5), 3, axis=0)
        >>> spectrum = flmm.Spectrum.from_factor(batch, np.ones((15, 1)))
        >>> y = np.array([1.0, 2, 1, 3, 3, 4, 2, 3, 1, 2, 4, 3, 1, 1, 2])
        >>> test = flmm.reml(spectrum, y).test_no_kernel_variance(random_seed=1)
        >>> print(f"{test.statistic:.2f} {test.p_value:.3f} {test.p_value_mixture:.3f}")
        3.50 0.027 0.031
        """
        statistic = 2 * (np.asarray(self.loglik) - np.asarray(self.loglik_null))
        none = np.asarray(self.boundary, dtype=object) == np.array("no kernel variance", dtype=object)
        statistic = np.where(self.converged, np.where(none, 0.0, np.maximum(statistic, 0.0)), np.nan)
        return kernel_test(self._data, statistic, self.method, n_sim=n_sim, random_seed=random_seed)

    def profile_interval(self, name: str, level: float = 0.95) -> tuple[Any, Any]:
        """
        Return the profile-likelihood interval of a quantity: where 2[max ℓ - ℓ] is below the quantile of χ²₁.

        It ends at 0, 1 or inf where the likelihood does not fall so far, and is the smallest interval that contains the
        set where a likelihood has several modes.

        Parameters
        ----------
        name : str
            h2, pve, delta, sigma2, sigma2_g, sigma2_e, total or beta[…]. The first three take microseconds for each
            response, the others some hundredths of a second. After REML a coefficient has the restricted likelihood in
            which only the others are eliminated.
        level : float

        Returns
        -------
        low, high : floats or (T,) arrays
            NaN where the fit has no estimate.

        Raises
        ------
        ValueError
            If there is no such quantity, the level is no probability, or a ML likelihood is unbounded.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> batch = np.repeat(np.eye(5), 3, axis=0)
        >>> spectrum = flmm.Spectrum.from_factor(batch, np.ones((15, 1)))
        >>> fit = flmm.reml(spectrum, np.array([1.0, 2, 1, 3, 3, 4, 2, 3, 1, 2, 4, 3, 1, 1, 2]))
        >>> print([round(limit, 3) for limit in fit.profile_interval("h2")])
        [0.0, 0.907]
        """
        require_fraction(level, "level")
        require_variation(self._data, self.method)
        return self._known(profile_limits(self._data, self.method, name, level))

    def inversion_interval(
        self, name: str = "h2", level: float = 0.95, *, n_sim: int = 4000, random_seed: Any = None
    ) -> tuple[Any, Any]:
        """
        Return the values of h2, pve or delta that the exact likelihood-ratio test does not reject.

        The critical value of 2[max ℓ - ℓ(h²)] is simulated under each h² instead of taken from χ²₁: coverage is the
        level at any h², 0 and 1 included, at any n, up to the number of draws. One simulation serves all responses.

        Parameters
        ----------
        name : "h2", "pve" or "delta"
        level : float
        n_sim : int
            Draws for each of some dozens of values of h².
        random_seed : int, Generator or None

        Returns
        -------
        low, high : floats or (T,) arrays

        Raises
        ------
        ValueError
            If the quantity is another one, the level is no probability, or there is no likelihood ratio.

        Notes
        -----
        The inversion of a test at every h², as in Schweiger et al. (2016), doi:10.1016/j.ajhg.2016.04.016 (ALBI), whose
        acceptance regions order the estimates; the likelihood ratio orders them here, so that the interval always
        contains the estimate and is never empty.
        """
        return self._inverted((name,), level, n_sim, random_seed)[name]

    def critical_values(
        self, h2: Any, level: float = 0.95, *, n_sim: int = 4000, random_seed: Any = None
    ) -> FloatArray:
        """
        Return the `level` quantile of 2[max ℓ - ℓ(h²)] if h² is the truth, at values (m,) of h².

        `inversion_interval` compares the profile with it. It depends on the spectrum alone, is below the quantile of
        χ²₁ near the boundaries and close to it far from them.

        Raises
        ------
        ValueError
            If h2 is outside [0, 1], the level is no probability, or there is no likelihood ratio.
        """
        require_fraction(level, "level")
        require_draws(n_sim)
        require_variation(self._data, self.method)
        h = read_h2(h2)
        return critical_levels(self._data.spectrum, self.method, h, level, n_sim, random_seed)

    def bootstrap(self, n: int = 10_000, *, random_seed: Any = None) -> Bootstrap:
        """
        Draw n responses from the fit and fit each of them: a parametric bootstrap, O(rank) per replicate.

        Raises
        ------
        ValueError
            If the fit has several responses or no estimate, or n is below 2.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> batch = np.repeat(np.eye(5), 3, axis=0)
        >>> spectrum = flmm.Spectrum.from_factor(batch, np.ones((15, 1)))
        >>> fit = flmm.reml(spectrum, np.array([1.0, 2, 1, 3, 3, 4, 2, 3, 1, 2, 4, 3, 1, 1, 2]))
        >>> replicates = fit.bootstrap(2000, random_seed=1)
        >>> print(f"{replicates.interval('h2')[1]:.2f} {len(replicates)}")
        0.86 2000
        """
        if self.names is not None:
            raise ValueError("replicates are drawn of one response: fits.response(name).bootstrap().")
        if not self.converged:
            raise ValueError(f"the fit has no estimate to draw from: {getattr(self, 'message', '')}.")
        return bootstrap(self._data, self.method, self.beta, self.sigma2_g, self.sigma2_e, n, random_seed)

    def intervals(
        self,
        method: IntervalMethod = "profile",
        level: float = 0.95,
        *,
        quantities: Sequence[str] | None = None,
        n_sim: int = 4000,
        random_seed: Any = None,
    ) -> pd.DataFrame:
        """
        Return estimates and intervals of the parameters as a table, with one block of rows per response.

        Parameters
        ----------
        method : {"profile", "inversion", "bootstrap", "delta"}
            Profile likelihood; the exact test inverted (h2, pve, delta alone); percentiles of `n_sim` bootstrap
            replicates (one response); estimate ± z · standard error from the observed information (delta method), which
            is undefined at a boundary and may leave the range of a parameter.
        level : float
        quantities : sequence of str, optional
            Which; by default all that the method has, for several responses h2 and pve alone.
        n_sim, random_seed : optional
            Of the inversion and the bootstrap.

        Returns
        -------
        DataFrame
            Columns estimate, lower, upper; method and level are in its attrs.

        Raises
        ------
        ValueError
            If the method or a quantity is unknown or does not fit it.
        """
        require_fraction(level, "level")
        require_choice("method", method, IntervalMethod)
        chosen = self._default_quantities(method) if quantities is None else tuple(quantities)
        replicates = self.bootstrap(n_sim, random_seed=random_seed) if method == "bootstrap" else None
        inverted = self._inverted(chosen, level, n_sim, random_seed) if method == "inversion" else {}
        rows = []
        for name in chosen:
            estimate, se = self._estimate(name)
            if method == "profile":
                limits = self.profile_interval(name, level)
            elif method == "inversion":
                limits = inverted[name]
            elif replicates is not None:
                limits = replicates.interval(name, level)
            else:
                limits = self._known(wald_limits(estimate, se, level))
            rows.append(np.stack([np.asarray(estimate, dtype=float), *map(np.asarray, limits)], axis=-1))
        index: pd.Index = pd.Index(chosen, name="quantity")
        if self.names is not None:
            index = pd.MultiIndex.from_product([self.names, chosen], names=["response", "quantity"])
        values = np.stack(rows, axis=-2).reshape(-1, 3)
        table = pd.DataFrame(values, index=index, columns=["estimate", "lower", "upper"])
        table.attrs.update(method=method, level=level)
        return table

    def coefficients(
        self, df: DegreesOfFreedom = "satterthwaite", level: float = 0.95, *, zero_variances: ZeroVariances = "known"
    ) -> pd.DataFrame:
        """
        Return a table of the fixed effects: estimate, se, df, t, p_value, lower, upper.

        Parameters
        ----------
        df : {"satterthwaite", "kenward-roger", "residual"}
            Degrees of freedom of t. Kenward–Roger also enlarges the standard errors by what the estimation of the
            variances adds; "residual" is n - r, which ignores it.
        level : float
            Of the interval.
        zero_variances : {"known", "free"}
            What Kenward–Roger makes of a variance that is estimated as 0. "known": it is 0, and costs no degrees of
            freedom, as in Satterthwaite's method and lmerTest. "free": it is one of the variances that were estimated,
            as in pbkrtest, with fewer degrees of freedom: 5 for 29 on lme4's Dyestuff2. Of a test at .05 with 6 × 5
            observations "known" rejects .031 to .051 of all data sets and "free" .011 to .048, as the true variance
            grows from 0; among those that are estimated at 0, "known" rejects more than .05 unless it is 0 indeed.

        Raises
        ------
        ValueError
            If df is unknown, or "kenward-roger" after ML; if zero_variances="free" with another df.

        References
        ----------
        Satterthwaite (1946), doi:10.2307/3002019; Kenward & Roger (1997), doi:10.2307/2533558.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> sleep = flmm.datasets.sleepstudy()
        >>> X = np.column_stack([np.ones(180), sleep["Days"]])
        >>> subject = (np.asarray(sleep["Subject"])[:, None] == np.unique(sleep["Subject"])).astype(float)
        >>> fit = flmm.reml(flmm.Spectrum.from_factor(subject, X), np.asarray(sleep["Reaction"]))
        >>> fit.coefficients("kenward-roger")[["estimate", "se", "df", "t"]].round(3)
              estimate     se      df       t
        coef
        x0     251.405  9.747   22.81  25.794
        x1      10.467  0.804  161.00  13.015
        """
        fixed.check_zero_variances(zero_variances, df)
        effects = self._fixed_effects(zero_variances)
        return fixed.coefficient_table(effects, df, level, self._data.spectrum.projection)

    def test_fixed(
        self, L: Any, df: DegreesOfFreedom = "satterthwaite", *, zero_variances: ZeroVariances = "known"
    ) -> FixedTest:
        """
        Test Lβ = 0 by an F test.

        Parameters
        ----------
        L : str, sequence of str, mapping, or (r,) or (q, r) array
            A coefficient, or several that are all 0; a mapping of names to weights, one contrast; contrasts in rows,
            of the columns that were kept, or of all columns of X where some were dropped.
        df : {"satterthwaite", "kenward-roger", "residual"}
            Denominator degrees of freedom, as in `coefficients`; several contrasts as in lmerTest and pbkrtest.
        zero_variances : {"known", "free"}
            As in `coefficients`.

        Returns
        -------
        FixedTest

        Raises
        ------
        ValueError
            If a name is unknown, L does not fit or is collinear, the data do not determine a contrast, or df is not
            available.
        """
        fixed.check_zero_variances(zero_variances, df)
        return fixed.contrast_test(self._fixed_effects(zero_variances), L, df, self._data.spectrum.projection)

    def _inverted(self, names: Sequence[str], level: float, n_sim: int, random_seed: Any) -> dict[str, tuple[Any, Any]]:
        require_fraction(level, "level")
        require_draws(n_sim)
        if other := [name for name in names if name not in SHARES]:
            raise ValueError(
                f"the test is inverted for functions of delta, {', '.join(SHARES)}, not for {other[0]!r}: its null "
                "distribution would depend on a second parameter. profile_interval takes any quantity."
            )
        require_variation(self._data, self.method)
        found = inversion_limits(self._data, self.method, names, level, n_sim, random_seed)
        return {name: self._known(limits) for name, limits in found.items()}

    def _fixed_effects(self, zero_variances: ZeroVariances) -> fixed.FixedEffects:
        """Return β̂ with what its tests need of the derivatives of its covariance."""
        return fixed.spectral_fixed_effects(
            self._data, self.sigma2_g, self.sigma2_e, self.boundary, self.method, zero_variances
        )

    def _known(self, limits: tuple[FloatArray, FloatArray]) -> tuple[Any, Any]:
        """Return numbers for one response; NaN where the fit has no estimate."""
        ends = [np.where(self.converged, np.reshape(v, np.shape(self.converged)), np.nan) for v in limits]
        low, high = (end if end.ndim else end.item() for end in ends)
        return low, high

    def _default_quantities(self, method: IntervalMethod) -> tuple[str, ...]:
        if self.names is not None:
            return SHARES[:2]
        return SHARES if method == "inversion" else (*SHARES, *VARIANCES, *(f"beta[{name}]" for name in self.coef))

    def _estimate(self, name: str) -> tuple[Any, Any]:
        if name in (*SHARES, *VARIANCES):
            return getattr(self, name), getattr(self, f"{name}_se")
        place = coefficient_place(self._data.spectrum, name)
        return self.beta[..., place], self.beta_se[..., place]
