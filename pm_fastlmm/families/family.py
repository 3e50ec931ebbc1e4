"""What a response distribution is asked for: its log-density in the linear predictor, derivatives, moments, draws."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, read


class Derivatives(NamedTuple):
    """log p and its first three derivatives in η, (..., n) each."""

    value: FloatArray
    first: FloatArray
    second: FloatArray
    third: FloatArray


class ParameterDerivatives(NamedTuple):
    """∂/∂ψ of log p, of ∂log p/∂η and of ∂²log p/∂η², (p, ..., n) each."""

    value: FloatArray
    first: FloatArray
    second: FloatArray


class Family(ABC):
    """
    A distribution of y given the linear predictor η and the family's own parameters ψ.

    Functions of `eta` (..., n) and `psi` (..., p) work element by element, and leading axes broadcast: y is (n,).
    Where a mean is beyond the range of floating point log p is -inf, without a warning.

    Attributes
    ----------
    name, link : str
    parameters : tuple of p str
        Names of ψ.
    concave : bool
        Whether log p is concave in η whatever y and ψ.
    categorical : bool
        Whether responses are codes of more than two categories, whose means say little.
    """

    name: str
    link: str
    concave: bool = True
    categorical: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of ψ."""
        return ()

    @property
    def lower(self) -> FloatArray:
        """Lower bounds of ψ, (p,)."""
        return np.full(len(self.parameters), -np.inf)

    @property
    def upper(self) -> FloatArray:
        """Upper bounds of ψ, (p,)."""
        return np.full(len(self.parameters), np.inf)

    @property
    def link_variance(self) -> float:
        """Variance of the latent variable whose distribution function the link is, 0 where there is none."""
        return 0.0

    @abstractmethod
    def log_density(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return log p(y | η, ψ), (..., n)."""

    @abstractmethod
    def derivatives(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> Derivatives:
        """Return log p and its derivatives in η."""

    def in_parameters(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> ParameterDerivatives:
        """Return the derivatives in ψ of log p and of its first two derivatives in η."""
        none = np.zeros((0, *np.broadcast_shapes(np.shape(y), np.shape(eta))))
        return ParameterDerivatives(none, none, none)

    @abstractmethod
    def read(self, y: Any) -> FloatArray:
        """
        Return responses as floats (n,); NaN is left in place.

        Raises
        ------
        ValueError
            If a response is outside the support.
        """

    @abstractmethod
    def start(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return η (n,) and ψ (p,) to begin a search at: of the smoothed data, and of moments."""

    @abstractmethod
    def mean(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return E(y | η, ψ), (..., n)."""

    @abstractmethod
    def variance(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return var(y | η, ψ), (..., n)."""

    @abstractmethod
    def draw(self, eta: FloatArray, psi: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return one draw of y for each η, (..., n)."""

    def probabilities(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """
        Return the probability of each category, (..., n, categories).

        Raises
        ------
        ValueError
            If responses of this family are no categories.
        """
        raise ValueError(
            f"family {self.name!r} has no categories: probabilities are those of 'bernoulli' and 'ordinal' responses; "
            "ask for the mean."
        )

    def of_rows(self, trials: Any = None) -> Self:
        """
        Return the family of other rows, with their numbers of trials where it has some.

        Raises
        ------
        ValueError
            If trials are given to a family without them.
        """
        if trials is not None:
            raise ValueError(f"trials are of family 'binomial', this one is {self.name!r}: leave trials= out.")
        return self


def in_support(
    y: Any, name: str, expected: str, remedy: str, *, whole: bool, least: float, most: Any = np.inf
) -> FloatArray:
    """
    Return responses as floats (n,), each between two values, or NaN.

    Raises
    ------
    ValueError
        If one is not, or is no integer where `whole`; it says what was expected, and the remedy.
    """
    labelled = read(y, name, ndim=(1,))
    values = labelled.values
    inside = (values >= least) & (values <= most) & np.isfinite(values)
    if whole:
        inside &= values == np.round(values)
    bad = np.flatnonzero(~inside & ~np.isnan(values))
    if bad.size:
        raise ValueError(
            f"{name} must be {expected}, but {bad.size} of {values.size} values are not, the first "
            f"{values[bad[0]]:g} in row {bad[0] if labelled.ids is None else repr(labelled.ids[bad[0]])}: {remedy}"
        )
    return values
