"""Ordered categories: cumulative probabilities between cutpoints."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.families.family import Derivatives, Family, ParameterDerivatives, in_support
from pm_fastlmm.families.intervals import INTERVALS, Interval
from pm_fastlmm.families.links import LINKS


@dataclass(frozen=True, slots=True, eq=False)
class Ordinal(Family):
    """
    Ordered categories 0 … C - 1 with P(y <= k) = F(c_k+1 - η); ψ holds the C - 1 cutpoints, increasing.

    F is the logistic ("logit", proportional odds) or the normal ("probit", the threshold model). An intercept in η is
    not told from a shift of all cutpoints. Where cutpoints do not increase log p is -inf and its derivatives are 0.

    Examples
    --------
    >>> import numpy as np
    >>> from pm_fastlmm.families.ordinal import Ordinal
    >>> family = Ordinal(3, "probit")
    >>> family.parameters
    ('cutpoint[1]', 'cutpoint[2]')
    >>> family.probabilities(np.zeros(1), np.array([0.0, 1.0])).round(3)
    array([[0.5  , 0.341, 0.159]])
    """

    categories: int
    link: str = "logit"

    name = "ordinal"
    categorical = True

    @property
    def parameters(self) -> tuple[str, ...]:
        """The cutpoints."""
        return tuple(f"cutpoint[{k}]" for k in range(1, self.categories))

    @property
    def link_variance(self) -> float:
        """π²/3 or 1."""
        return LINKS[self.link].variance

    def log_density(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return log p(y | η, c), (..., n)."""
        return self.derivatives(y, eta, psi).value

    def derivatives(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> Derivatives:
        """Return log p and its derivatives in η."""
        increasing = _increasing(psi)
        value, *others = self._between(y, eta, psi).eta
        return Derivatives(np.where(increasing, value, -np.inf), *(np.where(increasing, d, 0.0) for d in others))

    def in_parameters(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> ParameterDerivatives:
        """Return the derivatives in the cutpoints of log p and of its first two derivatives in η."""
        increasing, between = _increasing(psi), self._between(y, eta, psi)
        k = np.arange(self.categories - 1).reshape(-1, *(1,) * between.eta.value.ndim)

        def by_cutpoint(of_lower: FloatArray, of_upper: FloatArray) -> FloatArray:
            found = np.where(y == k, of_upper, 0.0) + np.where(y == k + 1, of_lower, 0.0)
            return np.where(increasing, found, 0.0)

        return ParameterDerivatives(*map(by_cutpoint, between.lower, between.upper))

    def _between(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> Interval:
        psi = np.where(_increasing(psi), psi, np.arange(self.categories - 1.0))
        infinite = np.full((*psi.shape[:-1], 1), np.inf)
        ends = np.concatenate([-infinite, psi, infinite], axis=-1)
        code = y.astype(np.intp)
        return INTERVALS[self.link](ends[..., code], ends[..., code + 1], eta)

    def read(self, y: Any) -> FloatArray:
        """
        Return codes as floats.

        Raises
        ------
        ValueError
            If one is no integer from 0 to C - 1.
        """
        last = self.categories - 1
        remedy = (
            "categories are coded from 0 in their order, pd.Categorical(y, categories=[...], ordered=True).codes; "
            "categories= says how many there are."
        )
        return in_support(y, "y", f"codes 0 … {last} for family 'ordinal'", remedy, whole=True, least=0, most=last)

    def start(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return η = 0, and the cutpoints that the shares of the categories have, half a record added to each."""
        counts = np.bincount(y.astype(np.intp), minlength=self.categories) + 0.5
        shares = np.cumsum(counts)[:-1] / counts.sum()
        return np.zeros(y.shape), np.asarray(LINKS[self.link].quantile(shares))

    def probabilities(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return the probability of each category, (..., n, C)."""
        eta = np.asarray(eta)
        codes = np.arange(self.categories, dtype=float)
        return np.exp(self.log_density(codes, eta[..., None], np.asarray(psi)[..., None, :]))

    def mean(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return the mean of the codes."""
        return np.asarray(self.probabilities(eta, psi) @ np.arange(self.categories))

    def variance(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return the variance of the codes."""
        p, codes = self.probabilities(eta, psi), np.arange(self.categories)
        mean = p @ codes
        return np.asarray((p * (codes - mean[..., None]) ** 2).sum(axis=-1))

    def draw(self, eta: FloatArray, psi: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return codes."""
        below = np.cumsum(self.probabilities(eta, psi), axis=-1)[..., :-1]
        return (rng.random(below.shape[:-1])[..., None] > below).sum(axis=-1).astype(float)


def _increasing(psi: FloatArray) -> Any:
    return (np.diff(psi, axis=-1) > 0).all(axis=-1)[..., None]
