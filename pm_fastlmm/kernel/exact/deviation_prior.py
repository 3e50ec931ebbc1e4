"""Priors on the two standard deviations, that of what K explains and that of the residual."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.base.display import Described
from pm_fastlmm.kernel.exact.conditional import Deviations, Family, log_integral
from pm_fastlmm.kernel.likelihood.prior import VariancePrior, residual_scale, residual_scales, shares, short
from pm_fastlmm.spectrum.spectrum import Rotated

type Prior = VariancePrior | DeviationPrior

_LOG_2PI = math.log(2 * math.pi)
_STEP = 0.05  # of log total, where the prior alone is integrated over it


@dataclass(frozen=True, slots=True)
class DeviationPrior(Described):
    """
    σ_K ~ family(scale_kernel) and, independently, σ_e ~ family(scale_residual): priors on standard deviations.

    σ_K = √(σ²_g k̄), k̄ = tr(K)/n, is the standard deviation of what K explains of an observation on average, so that
    h² = σ²_K/(σ²_K + σ²_e) and total = σ²_K + σ²_e. It is in the units of y whatever the scale of K. With prior weights
    σ_e is the standard deviation of e at the mean weight, and k̄ the average of K_ii by weight.

    Attributes
    ----------
    family : {"half-normal", "half-t", "exponential"}
        Densities on σ > 0 ∝ exp(-σ²/2s²), (1 + σ²/νs²)^-(ν+1)/2 (Gelman 2006), and exp(-σ/s), the penalised-complexity
        prior of a standard deviation (Simpson et al. 2017).
    scale_kernel, scale_residual : float, or (T,) array
        s; one for each of T responses, if arrays.
    df : float
        ν of "half-t".

    References
    ----------
    Gelman (2006), doi:10.1214/06-BA117A; Simpson, Rue, Riebler, Martins & Sørbye (2017), doi:10.1214/16-STS576.

    Examples
    --------
    >>> import pm_fastlmm as flmm
    >>> flmm.priors.DeviationPrior("half-normal", 2.0, 2.0)
    DeviationPrior(family='half-normal', scale_kernel=2.0, scale_residual=2.0, df=3.0)
    >>> prior = flmm.priors.DeviationPrior.penalised_complexity(
    ...     upper=3.0, probability=0.05, scale_residual=2.0
    ... )
    >>> print(f"{prior.scale_kernel:.4f}")  # P(σ_K > 3) = 0.05
    1.0014
    """

    family: Family
    scale_kernel: float | FloatArray
    scale_residual: float | FloatArray
    df: float = 3.0
    proper: ClassVar[bool] = True  # each family has a total probability of 1
    h2_alpha: ClassVar[float] = 0.5  # exponents with which the density of h² leaves 0 and 1: those of σ are finite at 0
    h2_beta: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        """Check that the parameters are those of the family."""
        require_choice("family", self.family, Family)
        for name in ("scale_kernel", "scale_residual"):
            scale = np.asarray(getattr(self, name), dtype=float)
            if not ((scale > 0) & np.isfinite(scale)).all():
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}: it is in units of y.")
        if not self.df > 0:
            raise ValueError(f"df must be positive, got {self.df}: 1 is the half-Cauchy, 3 a common choice.")

    @classmethod
    def penalised_complexity(
        cls, upper: float, probability: float = 0.05, *, scale_residual: float | FloatArray
    ) -> Self:
        """
        Return the penalised-complexity prior, P(σ_K > upper) = probability; σ_e has the mean `scale_residual`.

        It shrinks towards the model without the kernel, at a constant rate in σ_K (Simpson et al. 2017, section 3.3).
        """
        if not (0 < probability < 1 and upper > 0):
            raise ValueError(
                f"upper must be positive and probability between 0 and 1, got {upper} and {probability}: "
                "P(σ_K > upper) = probability says how large σ_K may well be."
            )
        return cls("exponential", -upper / math.log(probability), scale_residual)

    @classmethod
    def scaled_to(cls, rotated: Rotated, family: Family = "half-normal", *, df: float = 3.0) -> Self:
        """
        Return the prior whose scales are s, s² = ‖y orthogonal to X‖²/p, for both standard deviations.

        For several responses s² is their mean, as of `VariancePrior.scaled_to`.
        """
        scale = math.sqrt(residual_scale(rotated))
        return cls(family, scale, scale, df)

    @classmethod
    def scaled_to_each(cls, rotated: Rotated, family: Family = "half-normal", *, df: float = 3.0) -> Self:
        """Return the prior of each response, `scaled_to` it alone; where nothing is left of y, of a scale of 1."""
        scale = np.sqrt(residual_scales(rotated))
        return cls(family, scale, scale, df)

    def _facts(self) -> dict[str, str]:
        return {
            "σ_K": f"{self.family}({short(self.scale_kernel)})",
            "σ_e": f"{self.family}({short(self.scale_residual)})",
        } | ({"ν": f"{self.df:g}"} if self.family == "half-t" else {})

    def part(self, block: slice | int) -> "DeviationPrior":
        """Return the prior of a block of responses, or of one."""
        kernel, residual = (
            scale if np.ndim(scale) == 0 else np.asarray(scale)[block]
            for scale in (self.scale_kernel, self.scale_residual)
        )
        return replace(self, scale_kernel=kernel, scale_residual=residual)

    def at_weight_1(self, mean_weight: float) -> "DeviationPrior":
        """Return the prior of √w̄ σ_K and √w̄ σ_e, whose squares are σ²_g k̄ and σ²_e of the weight 1."""
        if mean_weight == 1:
            return self
        unit = math.sqrt(mean_weight)
        return replace(self, scale_kernel=self.scale_kernel * unit, scale_residual=self.scale_residual * unit)

    def given_h2(self, x: FloatArray) -> Deviations:
        """Return the density of log total, joint with that of logit h², at given x."""
        with np.errstate(divide="ignore"):
            log_shares = [np.log(share) for share in shares(x)]
        scales = [np.log(scale) for scale in (self.scale_kernel, self.scale_residual)]
        return Deviations(self.family, self.df, log_shares, [s if s.ndim == 0 else s[:, None] for s in scales])

    def log_joint(self, x: FloatArray, quadratic: FloatArray, df: int) -> tuple[FloatArray, FloatArray]:
        """Return ½Q and the log of ∫ p(z, rss | h², total) p(x, total) d total + ½ Σ log e, Q = Σz²/e (…, m)."""
        density = self.given_h2(x)
        with np.errstate(all="ignore"):
            value = log_integral(density, quadratic, df) - 0.5 * df * _LOG_2PI
        return 0.5 * quadratic, value

    def log_none(self, norm2: FloatArray, df: int) -> FloatArray:
        """Return log p(z, rss | σ_K = 0), σ_e integrated out under its own prior, given ‖y orthogonal to X‖² (T,)."""
        with np.errstate(all="ignore"):
            alone = Deviations(self.family, self.df, [np.zeros(())], [np.log(self.scale_residual)])  # of log σ²_e
            return np.asarray(log_integral(alone, norm2, df) - 0.5 * df * _LOG_2PI)

    def log_h2(self, x: FloatArray) -> FloatArray:
        """Return the log-density of logit h² at x (m,) under the prior."""
        given = self.given_h2(np.asarray(x, dtype=float)[:, None])
        low, high = given.log_scales
        reach = 80.0 if self.family == "half-t" else 40.0
        span = np.abs(x).max(initial=0.0) + reach / min(1.0, self.df if self.family == "half-t" else 1.0)
        t = np.arange(float(np.min(low)) - span, float(np.max(high)) + span, _STEP)
        with np.errstate(over="ignore"):
            values = given.log_density(t)
        top = values.max(-1, keepdims=True)
        return np.asarray(top[:, 0] + np.log(np.exp(values - top).sum(-1) * _STEP))


def check_prior(prior: object) -> None:
    """Raise a TypeError for what is no prior of one kernel."""
    if not (prior is None or isinstance(prior, VariancePrior | DeviationPrior)):
        raise TypeError(
            f"prior must be a VariancePrior or a DeviationPrior, got {type(prior).__name__}: for example "
            "flmm.priors.DeviationPrior('half-normal', 1.0, 1.0)."
        )
