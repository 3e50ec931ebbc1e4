"""Successes among trials: bernoulli (one trial) and binomial."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.special import betaln

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.families.family import Derivatives, Family, in_support
from pm_fastlmm.families.links import LINKS, Link

_EMPTY = np.zeros(0)


class _Successes(Family):
    """
    y successes among m trials of probability F(η).

        log p = log C(m, y) + y log F(η) + (m - y) log(1 - F(η))
    """

    @property
    def of_link(self) -> Link:
        """The distribution function F."""
        return LINKS[self.link]

    @property
    def link_variance(self) -> float:
        """π²/3, 1 or π²/6."""
        return self.of_link.variance

    @property
    @abstractmethod
    def tried(self) -> Any:
        """m, a number or (n,)."""

    @abstractmethod
    def log_choose(self, y: FloatArray) -> Any:
        """Return log C(m, y)."""

    def log_density(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return log p(y | η), (..., n)."""
        link = self.of_link
        both = _times(y, link.log_below(eta)) + _times(self.tried - y, link.log_above(eta))
        return np.asarray(self.log_choose(y) + both)

    def derivatives(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> Derivatives:
        """Return log p and its derivatives in η."""
        link, failures = self.of_link, self.tried - y
        value, *others = (
            _times(y, below) + _times(failures, above)
            for below, above in zip(link.below(eta), link.above(eta), strict=True)
        )
        return Derivatives(np.asarray(value + self.log_choose(y)), *others)

    def start(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return F⁻¹((y + ½)/(m + 1)), and no parameters."""
        return np.asarray(self.of_link.quantile((y + 0.5) / (self.tried + 1))), _EMPTY

    def mean(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return the expected number of successes, m F(η)."""
        return np.asarray(self.tried * self.of_link.cdf(eta))

    def variance(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return the variance of the number of successes, m F(η)(1 - F(η))."""
        return np.asarray(self.mean(eta, psi) * np.exp(self.of_link.log_above(eta)))

    def draw(self, eta: FloatArray, psi: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return numbers of successes."""
        return rng.binomial(np.asarray(self.tried).astype(np.int64), self.of_link.cdf(eta)).astype(float)


def _times(count: Any, logarithm: FloatArray) -> FloatArray:
    """Return count times a logarithm or its derivative, 0 where the count is: the other may be infinite."""
    with np.errstate(invalid="ignore"):
        return np.where(count == 0, 0.0, count * logarithm)


@dataclass(frozen=True, slots=True, eq=False)
class Bernoulli(_Successes):
    """
    y ∈ {0, 1}, P(y = 1) = F(η); F is the logistic ("logit"), the normal ("probit") or 1 - exp(-exp(η)) ("cloglog").

    Examples
    --------
    >>> import numpy as np
    >>> from pm_fastlmm.families.bernoulli import Bernoulli
    >>> family, none = Bernoulli("probit"), np.zeros(0)
    >>> family.derivatives(np.array([0.0, 1.0]), np.array([40.0, 40.0]), none).first
    array([-40.02496885,   0.        ])
    """

    link: str = "logit"

    name = "bernoulli"

    @property
    def tried(self) -> float:
        """One trial."""
        return 1.0

    def log_choose(self, y: FloatArray) -> float:
        """Return 0."""
        return 0.0

    def derivatives(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> Derivatives:
        """Return log p and its derivatives in η."""
        if not self.of_link.symmetric:
            return _Successes.derivatives(self, y, eta, psi)
        sign = 2 * y - 1
        value, first, second, third = self.of_link.below(sign * eta)
        return Derivatives(value, sign * first, second, sign * third)

    def read(self, y: Any) -> FloatArray:
        """
        Return responses as floats.

        Raises
        ------
        ValueError
            If one is not 0 or 1.
        """
        remedy = "code the categories as 0 and 1; counts of successes are family='binomial' with trials="
        return in_support(y, "y", "0 or 1 for family 'bernoulli'", f"{remedy}.", whole=True, least=0, most=1)

    def probabilities(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return the probabilities of 0 and 1, (..., n, 2)."""
        return np.stack([np.exp(self.of_link.log_above(eta)), self.of_link.cdf(eta)], axis=-1)


@dataclass(frozen=True, slots=True, eq=False)
class Binomial(_Successes):
    """
    y successes among `trials` (n,), with the links of `Bernoulli`; means, variances and draws are of the count.

    Examples
    --------
    >>> import numpy as np
    >>> from pm_fastlmm.families.bernoulli import Binomial
    >>> family = Binomial(np.array([4.0, 10.0]))
    >>> family.mean(np.zeros(2), np.zeros(0))
    array([2., 5.])
    """

    trials: FloatArray
    link: str = "logit"

    name = "binomial"

    @property
    def tried(self) -> FloatArray:
        """The trials."""
        return self.trials

    def log_choose(self, y: FloatArray) -> FloatArray:
        """Return log C(m, y)."""
        return np.asarray(-np.log1p(self.trials) - betaln(self.trials - y + 1, y + 1))

    def read(self, y: Any) -> FloatArray:
        """
        Return numbers of successes as floats.

        Raises
        ------
        ValueError
            If one is no integer from 0 to its trials, or there are as many trials as other rows.
        """
        expected = "successes, integers from 0 to the trials, for family 'binomial'"
        remedy = "proportions are multiplied by their trials, and trials= counts successes and failures."
        shape = np.shape(y)
        if self.trials.ndim and len(shape) == 1 and self.trials.shape != shape:
            raise ValueError(
                f"trials has {self.trials.size} values, y has {shape[0]}: give one number for each row, or one for all."
            )
        return in_support(y, "y", expected, remedy, whole=True, least=0, most=self.trials)

    def of_rows(self, trials: Any = None) -> Self:
        """
        Return the family of other rows, with their numbers of trials.

        Raises
        ------
        ValueError
            If there are none, or one is no positive integer.
        """
        return replace(self, trials=read_trials(trials))


def read_trials(trials: Any) -> FloatArray:
    """
    Return numbers of trials as floats, (n,) or () for one that is the same in all rows.

    Raises
    ------
    ValueError
        If there are none, or one is no positive integer.
    """
    if trials is None:
        raise ValueError(
            "family 'binomial' needs trials=, the number of trials of each row, or one number for all; responses of "
            "0 and 1 are family='bernoulli'."
        )
    remedy = "trials= counts successes and failures; leave rows without trials out."
    single = np.ndim(trials) == 0
    values = in_support(
        np.atleast_1d(trials) if single else trials, "trials", "positive integers", remedy, whole=True, least=1
    )
    if np.isnan(values).any():
        raise ValueError(f"trials has {int(np.isnan(values).sum())} missing values: {remedy}")
    return values[0] if single else values
