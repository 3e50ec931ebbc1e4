"""The prior of a model with several random terms on its total variance and on the shares of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, shown
from pm_fastlmm.base.display import Described


@dataclass(frozen=True, slots=True)
class SharePrior(Described):
    r"""
    (shares of the terms and the residual) ~ Dirichlet(α) and, independently, total ~ InverseGamma: for `lmm_model`.

    The variance that a term gives an observation on average is tr(ZGZᵀ)/n, σ² for (1 | group). The total is the sum of
    these and of σ²_e, a share is one of them divided by it. Share j has the prior Beta(α_j, Σα - α_j), a sum of shares
    the Beta of the sum of their α. With one term, and α = 1, this is the default prior of `kernel_model`: h² uniform.

    * (1 | group), with a known K or without, and (0 + x | group) have one share.
    * (x || group) has one for each column.
    * (x | group) has one for each column less what the columns before it explain: of the intercept at the mean of x,
      and of the slope around that. So the prior depends neither on the unit of x nor on where its 0 lies. The effects
      of these columns are correlated by LKJ(η).

    Attributes
    ----------
    concentration : float or dict of str to float
        α, one number for all, or by the name of the share, as `model.coords["component"]` has them: "gen",
        "Subject[Days]", "residual"; those that are not named have 1. Larger numbers keep shares nearer to their mean
        α_j/Σα, numbers below 1 favour shares near 0.
    total_shape, total_scale : float
        Density ∝ total^(-shape - 1) exp(-scale/total). The scale is s² by default, the residual variance of the
        least-squares fit: 95 % lie in (0.27, 39.5) s².
    eta : float
        η of the LKJ prior of correlations: 1 is uniform, above it favours small ones.

    Raises
    ------
    ValueError
        If a number is not positive.

    References
    ----------
    Fuglstad et al. (2020), Intuitive joint priors for variance parameters, doi:10.1214/19-BA1185.

    Examples
    --------
    >>> import pm_fastlmm as flmm
    >>> prior = flmm.priors.SharePrior({"residual": 2})
    >>> model = flmm.lmm_model(
    ...     "yield ~ rep + (1|gen) + (1|rep:block)", flmm.datasets.john_alpha(), priors=prior
    ... )
    >>> [variable.name for variable in model.free_RVs]
    ['total', 'portion']
    >>> model.coords["component"]
    ('gen', 'rep:block', 'residual')
    """

    concentration: float | Mapping[str, float] = 1.0
    total_shape: float = 1.0
    total_scale: float | None = None
    eta: float = 2.0

    def __post_init__(self) -> None:
        """Check that all numbers are positive."""
        given = self.concentration
        numbers = {f"concentration of {name!r}": a for name, a in given.items()} if isinstance(given, Mapping) else {}
        numbers |= {} if isinstance(given, Mapping) else {"concentration": given}
        numbers |= {"total_shape": self.total_shape, "eta": self.eta}
        numbers |= {} if self.total_scale is None else {"total_scale": self.total_scale}
        for name, number in numbers.items():
            if not (number > 0 and np.isfinite(number)):
                raise ValueError(f"{name} must be positive and finite, got {number}.")

    def alpha(self, components: Sequence[str]) -> FloatArray:
        """
        Return α of shares by name.

        Raises
        ------
        ValueError
            If `concentration` names another share.
        """
        if not isinstance(self.concentration, Mapping):
            return np.full(len(components), self.concentration, dtype=float)
        if unknown := [name for name in self.concentration if name not in components]:
            raise ValueError(f"concentration names {shown(unknown)}, but the shares are {', '.join(components)}.")
        return np.array([self.concentration.get(name, 1.0) for name in components], dtype=float)

    def _facts(self) -> dict[str, str]:
        given = self.concentration
        alpha = ", ".join(f"{k}: {v:g}" for k, v in given.items()) if isinstance(given, Mapping) else f"{given:g}"
        scale = "s²" if self.total_scale is None else f"{self.total_scale:g}"
        return {
            "shares": f"Dirichlet({alpha})",
            "total": f"InverseGamma({self.total_shape:g}, {scale})",
            "correlations": f"LKJ({self.eta:g})",
        }
