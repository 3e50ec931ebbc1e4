"""Tests and intervals as methods of a fit of one kernel."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, Ids, require_fraction
from pm_fastlmm.base.tables import Table
from pm_fastlmm.kernel.inference.bootstrap import Bootstrap, bootstrap
from pm_fastlmm.kernel.inference.fit import Fit, IntervalKind
from pm_fastlmm.kernel.inference.fixed_effects import (
    DegreesOfFreedom,
    FixedEffects,
    ZeroVariances,
    spectral_fixed_effects,
)
from pm_fastlmm.kernel.inference.intervals import SHARES, VARIANCES, ends_of, profile_limits, remark, share_limits
from pm_fastlmm.kernel.inference.null import critical_values
from pm_fastlmm.kernel.inference.variance_test import VarianceTest, kernel_test, require_draws, require_variation
from pm_fastlmm.kernel.likelihood.prior import read_h2
from pm_fastlmm.spectrum.sparse_projection import AnyProjection
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_DRAWS = 4000  # by default, of an inversion or a bootstrap


class KernelInference(Fit):
    """The tests and intervals of `REMLFit`, which adds the fields that they are made of."""

    __slots__ = ()

    sigma2_g: Any
    sigma2_e: Any
    at_zero: Any
    loglik_null: Any
    rotated: Rotated | None

    @property
    def _data(self) -> Rotated:
        if self.rotated is None:
            raise ValueError(
                "this fit keeps no eigenvectors, or its responses had different missing rows, so that it has neither "
                "random effects nor predictions, tests or intervals: fit flmm.reml(spectrum, y), or "
                "reml(spectrum.subset(rows), y[rows])."
            )
        return self.rotated

    @property
    def spectrum(self) -> Spectrum:
        """The spectrum that was used."""
        return self._data.spectrum

    @property
    def _ids(self) -> Ids | None:
        return self.spectrum.ids

    @property
    def _projection(self) -> AnyProjection:
        return self.spectrum.projection

    @property
    def _residual_variance(self) -> Any:
        return self.sigma2_e

    def test_no_variance(self, component: str = "K", *, n_sim: int = 10_000, random_seed: Any = None) -> VarianceTest:
        """
        Test σ²_g = 0 by the likelihood ratio, with its exact finite-sample null distribution.

        The distribution depends on the eigenvalues alone and is simulated from them once for all responses; p-values
        far below 1/n_sim are resolved by importance sampling, each with a standard error.

        Parameters
        ----------
        component : {"K", "sigma2_g"}
            There is one.
        n_sim : int
            Draws of the null distribution.
        random_seed : int, Generator or None

        Returns
        -------
        VarianceTest

        Raises
        ------
        ValueError
            If there is no such component, or nothing to test: K is zero or a multiple of the identity orthogonal to X,
            or a ML likelihood is unbounded.

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
        >>> test = flmm.reml(spectrum, y).test_no_variance(random_seed=1)
        >>> print(f"{test.statistic:.2f} {test.p_value:.3f} {test.p_value_mixture:.3f}")
        3.50 0.027 0.031
        """
        if component not in ("K", "sigma2_g"):
            raise ValueError(f"the one variance that may be 0 is that of 'K', or 'sigma2_g', got {component!r}.")
        statistic = np.maximum(2 * (np.asarray(self.loglik) - np.asarray(self.loglik_null)), 0.0)
        statistic = np.where(self.converged, np.where(self.at_zero[..., 0], 0.0, statistic), np.nan)
        return kernel_test(self._data, statistic, self.method, n_sim=n_sim, random_seed=random_seed)

    def critical_values(
        self, h2: Any, level: float = 0.95, *, n_sim: int = 4000, random_seed: Any = None
    ) -> FloatArray:
        """
        Return the `level` quantile of 2[max ℓ - ℓ(h²)] if h² is the truth, at values (m,) of h².

        The inversion of `interval` compares the profile with it. It depends on the spectrum alone, is below the
        quantile of χ²₁ near the boundaries and close to it far from them.

        Raises
        ------
        ValueError
            If h2 is outside [0, 1], the level is no probability, or there is no likelihood ratio.
        """
        require_fraction(level, "level")
        require_draws(n_sim)
        require_variation(self._data, self.method)
        h = read_h2(h2)
        s, allowed = self.spectrum, critical_values(self.spectrum, self.method, level, n_sim, random_seed)
        with np.errstate(divide="ignore"):
            x = np.log(s.mean_diagonal * (1 - h) / h / s.eigvals.max())
        return np.interp(x, allowed.first + allowed.step * np.arange(allowed.levels.size), allowed.levels)

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
            raise ValueError(f"the fit has no estimate to draw from: {self.message}.")
        return bootstrap(self._data, self.method, self.blue, self.sigma2_g, self.sigma2_e, n, random_seed)

    def share_intervals(self, level: float = 0.95) -> Table:
        """
        Return the shares h² and 1 - h² with their profile-likelihood intervals: estimate, lower, upper.

        Raises
        ------
        ValueError
            If the fit has several responses, or no estimate.
        """
        if self.names is not None:
            raise ValueError("intervals of shares are those of one response: take fit.response(name).")
        low, high = self.interval("h2", "profile", level)
        rows = [[self.h2, low, high], [1 - self.h2, 1 - high, 1 - low]]
        table, names = Table(rows, list(self.shares.index), ["estimate", "lower", "upper"]), self.shares.index
        notes = [remark("profile", estimate, (low, high), (0.0, 1.0)) for estimate, low, high in rows]
        table.attrs["notes"] = {name: note for name, note in zip(names, notes, strict=True) if note}
        return table

    def _limits(
        self, names: Sequence[str], kind: IntervalKind, level: float, n_sim: int | None, random_seed: Any
    ) -> dict[str, tuple[Any, Any]]:
        """Return the limits of intervals, NaN where the fit has no estimate."""
        n_sim = _DRAWS if n_sim is None else n_sim
        if kind == "bootstrap":
            replicates = self.bootstrap(n_sim, random_seed=random_seed)
            return {name: replicates.interval(name, level) for name in names}
        if kind == "inversion":
            require_draws(n_sim)
            if other := [name for name in names if name not in SHARES]:
                raise ValueError(
                    f"the test is inverted for functions of delta, {', '.join(SHARES)}, not for {other[0]!r}: its null "
                    "distribution would depend on a second parameter. kind='profile' takes any quantity."
                )
        require_variation(self._data, self.method)
        if kind == "inversion":
            allowed = critical_values(self.spectrum, self.method, level, n_sim, random_seed)
            found = {name: share_limits(self._data, self.method, name, allowed) for name in names}
        else:
            found = {name: profile_limits(self._data, self.method, name, level) for name in names}
        return {name: self._known(limits) for name, limits in found.items()}

    def _ends(self, name: str) -> tuple[float, float]:
        return ends_of(name)

    def _quantities(self, kind: IntervalKind) -> tuple[str, ...]:
        if self.names is not None:
            return SHARES[:2]
        return SHARES if kind == "inversion" else (*SHARES, *VARIANCES, *(f"beta[{name}]" for name in self.coef))

    def _fixed_effects(self, df: DegreesOfFreedom, zero_variances: ZeroVariances) -> FixedEffects:
        inside = ~self.at_zero.any(axis=-1)
        return spectral_fixed_effects(self._data, self.sigma2_g, self.sigma2_e, inside, self.method, zero_variances)
