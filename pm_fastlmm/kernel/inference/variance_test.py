"""VarianceTest: the result of testing that a variance is 0."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import chdtrc

from pm_fastlmm.base.arrays import EPS, FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.display import Described
from pm_fastlmm.base.labels import over_responses
from pm_fastlmm.kernel.inference.null import NullDistribution, alternatives_of, kernel_null, mixture_weights
from pm_fastlmm.kernel.likelihood.profile import Profile
from pm_fastlmm.spectrum.spectrum import Rotated

_COLUMNS = ("statistic", "p_value", "p_value_se", "p_value_mixture")
_FEWEST = 100


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class VarianceTest(Described):
    """
    A likelihood-ratio test that a variance is 0, for one response (numbers) or T of them (arrays of length T).

    Attributes
    ----------
    component : str
        What was tested.
    statistic : float or (T,) array
        2[max ℓ - max ℓ at variance 0], 0 where the estimate is on the boundary. NaN where there is no estimate.
    p_value : float or (T,) array
        From the simulated finite-sample null distribution; 1 where the statistic is 0. A valid p-value whatever n_sim:
        the response itself counts as one more draw, with its weight.
    p_value_se : float or (T,) array
        Monte-Carlo standard error of it.
    p_value_mixture : float or (T,) array
        From the asymptotic ½χ²₀ + ½χ²₁, for comparison; it is wrong where observations are few or levels unbalanced.
    mass_at_zero : float
        Null probability of a statistic of 0; the mixture takes it to be ½. NaN where nothing was simulated.
    n_sim : int
        Draws; 0 where no statistic is positive, so that all p-values are 1 and nothing was simulated.
    method : "REML" or "ML"
    approximation : str
        What is not exact about the null distribution, empty if nothing is but the number of draws.
    names : tuple of str or None
        Names of several responses.
    null : NullDistribution or None
        The weighted draws, where there are any.
    """

    component: str
    statistic: Any
    p_value: Any
    p_value_se: Any
    p_value_mixture: Any
    mass_at_zero: float
    n_sim: int
    method: Method
    approximation: str
    names: tuple[str, ...] | None
    null: NullDistribution | None

    def table(self) -> pd.DataFrame:
        """Return statistic and p-values, one row per response."""
        columns = {name: np.atleast_1d(getattr(self, name)) for name in _COLUMNS}
        index = [self.component] if self.names is None else pd.Index(self.names, name="response")
        return pd.DataFrame(columns, index=index)

    def to_dataset(self) -> xr.Dataset:
        """Return them as an xarray Dataset, with the dimension response for several, to merge with that of the fit."""
        over, coords = over_responses(self.names)
        attrs = {
            "component": self.component, "method": self.method, "n_sim": self.n_sim,
            "mass_at_zero": self.mass_at_zero, "approximation": self.approximation,
        }  # fmt: skip
        return xr.Dataset({name: (over, getattr(self, name)) for name in _COLUMNS}, coords=coords, attrs=attrs)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"variance of": self.component, "method": self.method, "null": self._draws}
        if self.approximation:
            facts["null distribution"] = self.approximation
        if self.names is not None:
            return facts | {"responses": len(self.names), "table": ".table(), .to_dataset()"}
        return facts | {
            "statistic": f"{self.statistic:.4f}",
            "p": f"{self.p_value:.3g} ± {self.p_value_se:.1g}",
            "p of ½χ²₀ + ½χ²₁": f"{self.p_value_mixture:.3g}",
        }

    @property
    def _draws(self) -> str:
        return f"{self.n_sim} draws of the null distribution" if self.n_sim else "nothing was simulated"

    def __repr__(self) -> str:
        """Report the test as text."""
        kind = "restricted likelihood-ratio" if self.method == "REML" else "likelihood-ratio"
        head = f"{kind} test of no variance of {self.component}, {self._draws}"
        lines = [head + (f" ({self.approximation})" if self.approximation else "")]
        if self.names is not None:
            return f"{lines[0]}, {len(self.names)} responses; .table() has them"
        if self.statistic == 0:
            return f"{lines[0]}\nstatistic 0, p = 1: the likelihood is highest without the variance"
        lines.append(f"statistic {self.statistic:.4f}, p = {self.p_value:.3g} ± {self.p_value_se:.1g}")
        lines.append(
            f"without a variance the statistic is 0 in {self.mass_at_zero:.1%} of the draws; ½χ²₀ + ½χ²₁, which has "
            f"50 %, gives p = {self.p_value_mixture:.3g}"
        )
        return "\n".join(lines)


def kernel_test(
    rotated: Rotated, statistic: FloatArray, method: Method, *, n_sim: int, random_seed: Any, component: str = "K",
    approximation: str = "",
) -> VarianceTest:  # fmt: skip
    """
    Compare statistics of σ²_g = 0, () or (T,), with their null distribution, which all responses share.

    `rotated` has the responses, from which their weights are. Where no statistic is positive nothing is simulated.

    Raises
    ------
    ValueError
        If there is no null distribution: nothing of K orthogonal to X, an unbounded likelihood, too few draws.
    """
    s = rotated.spectrum
    require_draws(n_sim)
    require_variation(rotated, method)
    null, p, se = None, np.where(np.isnan(statistic), np.nan, 1.0), np.where(np.isnan(statistic), np.nan, 0.0)
    if (statistic > 0).any():
        alternatives = alternatives_of(s)
        null = kernel_null(s, method, alternatives, n_sim, np.random.default_rng(random_seed))
        own = mixture_weights(alternatives, Profile.from_rotated(rotated, "REML")).reshape(rotated.batch_shape)
        p, se = null.p_value(statistic, own)
    # ½χ²₀ + ½χ²₁ (Self & Liang 1987, doi:10.1080/01621459.1987.10478472), 1 at 0
    mixture = np.where(statistic <= 0, 1.0, 0.5 * chdtrc(1, statistic))
    return VarianceTest(
        component=component, statistic=statistic[()], p_value=p[()], p_value_se=se[()], p_value_mixture=mixture[()],
        mass_at_zero=np.nan if null is None else null.mass_at_zero, n_sim=0 if null is None else n_sim, method=method,
        approximation="" if null is None else approximation, names=rotated.names, null=null,
    )  # fmt: skip


def require_draws(n_sim: int) -> None:
    """Raise a ValueError for too few draws to say anything."""
    if n_sim < _FEWEST:
        raise ValueError(f"n_sim must be {_FEWEST} or more, got {n_sim}: a few thousand resolve a p-value of 0.05.")


def require_variation(rotated: Rotated, method: Method) -> None:
    """Raise a ValueError where the spectrum leaves no ratio of two variances to test or to bound."""
    s = rotated.spectrum
    tolerance = 10 * s.n * EPS
    if not s.rank or (not s.nullity and s.eigvals.min() >= s.eigvals.max() * (1 - tolerance)):
        raise ValueError(
            "orthogonal to X, K is zero or a multiple of the identity, so that the data do not tell the two variances "
            "apart: there is nothing to test. Check that K is the matrix you meant."
        )
    if method == "ML" and not s.nullity and Profile.from_rotated(rotated, method).singular:
        raise ValueError(
            "the ML likelihood of this K and X is unbounded as delta goes to 0 (K is singular within the span of X, as "
            "a centred kinship matrix with an intercept is), so that its likelihood ratio has no distribution: "
            "fit flmm.reml(spectrum, y, method='REML')."
        )
