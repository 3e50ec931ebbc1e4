"""ValueTest: a likelihood-ratio test that a parameter has some value, on a bound of it too."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import chdtrc

from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.display import Described


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ValueTest(Described):
    """
    A likelihood-ratio test that a parameter has a value.

    Attributes
    ----------
    name : str
    value : float
    estimate : float
    statistic : float
        2[max ℓ - max ℓ at that value].
    p_value : float
        From χ²₁; on a bound from a mixture, and 1 where the statistic is 0.
    df : tuple of int
        Degrees of freedom: (1,) inside, of the two halves of the mixture on a bound. (0, 1) for a variance of its own.
        Of c effects that covary (c - 1, c) for a variance, whose covariances go with it, and (c - 2, c - 1) for a
        correlation of ±1, with which the two correlate equally with all others.
    method : "REML" or "ML"

    References
    ----------
    Self and Liang (1987), doi:10.1080/01621459.1987.10478472. Stram and Lee (1994), doi:10.2307/2533455.
    """

    name: str
    value: float
    estimate: float
    statistic: float
    df: tuple[int, ...]
    method: Method

    @property
    def p_value(self) -> float:
        """The p-value."""
        return tail_of_mixture(self.statistic, self.df)

    @property
    def _null(self) -> str:
        return " + ".join(f"{'½' if len(self.df) > 1 else ''}χ²({df})" for df in self.df)

    def _facts(self) -> dict[str, Any]:
        return {
            "value of": f"{self.name} = {self.value:g}",
            "estimate": f"{self.estimate:.6g}",
            "statistic": f"{self.statistic:.4f}",
            "null distribution": self._null,
            "p": f"{self.p_value:.3g}",
        }

    def __repr__(self) -> str:
        """Report the test as text."""
        kind = "restricted likelihood-ratio" if self.method == "REML" else "likelihood-ratio"
        return (
            f"{kind} test of {self.name} = {self.value:g}, estimate {self.estimate:.4g}\n"
            f"statistic {self.statistic:.4f}, p = {self.p_value:.3g} by {self._null}"
        )


def tail_of_mixture(statistic: float, df: tuple[int, ...]) -> float:
    """Return the mean of the tails of χ² with these degrees of freedom, 1 at 0; χ²₀ is 0."""
    if statistic <= 0:
        return 1.0
    return float(np.mean([chdtrc(d, statistic) if d else 0.0 for d in df]))
