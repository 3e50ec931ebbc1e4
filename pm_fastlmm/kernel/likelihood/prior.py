"""The default prior of one kernel: one object for `kernel_model`, `exact_posterior` and the seed of the sampler."""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.special import betaln, expit, gammaln, log_expit

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.display import Described
from pm_fastlmm.spectrum.spectrum import Rotated


@dataclass(frozen=True, slots=True)
class VariancePrior(Described):
    """
    h² ~ Beta(h2_alpha, h2_beta) and, independently, total ~ InverseGamma(total_shape, total_scale).

    total = σ²(k̄ + δ) = σ²_g k̄ + σ²_e is the variance that h² divides, k̄ = tr(K)/n; with prior weights that of an
    observation of mean weight, see `Spectrum`.

    Attributes
    ----------
    h2_alpha, h2_beta : float
        Beta(1, 1), uniform on (0, 1), by default.
    total_shape, total_scale : float
        Density ∝ total^(-shape - 1) exp(-scale/total): worth 2 · shape observations with mean square scale/shape.
        Shape and scale 0 give the improper 1/total, which `exact_posterior` takes but a PyMC model does not.
        In the default prior of several responses the scale is an array (T,), one for each.

    Examples
    --------
    >>> import pm_fastlmm as flmm
    >>> flmm.priors.VariancePrior(h2_alpha=1, h2_beta=1, total_shape=1, total_scale=2.5)
    VariancePrior(h2_alpha=1, h2_beta=1, total_shape=1, total_scale=2.5)
    """

    h2_alpha: float = 1.0
    h2_beta: float = 1.0
    total_shape: float = 0.0
    total_scale: float | FloatArray = 0.0

    def __post_init__(self) -> None:
        """Check that the parameters are those of a Beta and an InverseGamma."""
        if not (self.h2_alpha > 0 and self.h2_beta > 0):
            raise ValueError(f"h2_alpha and h2_beta must be positive, got {self.h2_alpha} and {self.h2_beta}.")
        scale = np.asarray(self.total_scale)
        if not (self.total_shape >= 0 and (scale >= 0).all()) or ((scale > 0) != (self.total_shape > 0)).any():
            raise ValueError(
                "total_shape and total_scale must both be positive, or both 0 for the improper 1/total; "
                f"got {self.total_shape} and {self.total_scale}."
            )

    @classmethod
    def scaled_to(cls, rotated: Rotated) -> Self:
        """
        Return the default: h² ~ Beta(1, 1), total ~ InverseGamma(1, s²) with s² = ‖y orthogonal to X‖²/p.

        It is worth two observations at the residual variance of the least-squares fit; 95 % of it lies in
        (0.27, 39.5) s². For several responses s² is their mean.
        """
        return cls(1.0, 1.0, 1.0, residual_scale(rotated))

    @classmethod
    def scaled_to_each(cls, rotated: Rotated) -> Self:
        """Return the default of each response, `scaled_to` it alone; where nothing is left of y, of a scale of 1."""
        return cls(1.0, 1.0, 1.0, residual_scales(rotated))

    def part(self, block: slice) -> "VariancePrior":
        """Return the prior of a block of responses."""
        return (
            self if np.ndim(self.total_scale) == 0 else replace(self, total_scale=np.asarray(self.total_scale)[block])
        )

    def at_weight_1(self, mean_weight: float) -> "VariancePrior":
        """Return the prior of w̄ · total = σ²_g k̄ + σ²_e."""
        return self if mean_weight == 1 else replace(self, total_scale=self.total_scale * mean_weight)

    def _facts(self) -> dict[str, str]:
        total = f"InverseGamma({self.total_shape:g}, {short(self.total_scale)})"
        return {
            "h²": f"Beta({self.h2_alpha:g}, {self.h2_beta:g})",
            "total": total if self.proper else "1/total, improper",
        }

    @property
    def proper(self) -> bool:
        """Whether the prior on the total variance can be normalised."""
        return self.total_shape > 0

    def log_h2(self, x: FloatArray) -> FloatArray:
        """Return the log-density of logit h² at x: the Beta density times the Jacobian h²(1 - h²)."""
        return np.asarray(
            self.h2_alpha * log_expit(x) + self.h2_beta * log_expit(-x) - betaln(self.h2_alpha, self.h2_beta)
        )

    def log_joint(self, x: FloatArray, quadratic: FloatArray, df: int) -> tuple[FloatArray, FloatArray]:
        """Return the scale of the total given h², and log p(z, rss, logit h² = x) + ½ Σ log e, given Σz²/e (…, m)."""
        scale, given = self.log_given_h2(quadratic, df)
        return scale, self.log_h2(x) + given

    def log_none(self, norm2: FloatArray, df: int) -> FloatArray:
        """Return log p(z, rss | h² = 0), given ‖y orthogonal to X‖² (T,)."""
        return self.log_given_h2(norm2[:, None], df)[1][:, 0]

    def log_given_h2(self, quadratic: FloatArray, df: int) -> tuple[FloatArray, FloatArray]:
        """
        Return the scale of the total given h² and log p(z, rss | h²) + ½ Σ log e, given Σz²/e (…, m).

        The total is integrated out: (2π)^{-p/2} bᵃ Γ(a + p/2)/Γ(a) · Π e_i^{-1/2} (b + ½Σz²/e)^{-(a + p/2)}. When the
        prior is improper, b = a = 0, the factor bᵃ/Γ(a) is left out.
        """
        a, b = self.total_shape, np.asarray(self.total_scale)[..., None]
        scale = b + 0.5 * quadratic
        constant = np.asarray(gammaln(a + df / 2) - df / 2 * math.log(2 * math.pi))
        if self.proper:
            constant = constant + a * np.log(b) - gammaln(a)
        return scale, np.asarray(constant - (a + df / 2) * np.log(scale))


def residual_scale(rotated: Rotated) -> float:
    """
    Return s² = ‖y orthogonal to X‖²/p, the mean of several responses; with prior weights by w/w̄.

    Raises
    ------
    ValueError
        If it is 0.
    """
    scale = float(np.mean(rotated.norm2)) / rotated.spectrum.df / rotated.spectrum.mean_weight
    if scale == 0:
        raise ValueError("y has no residual variance after X: there is nothing to estimate a variance from.")
    return scale


def residual_scales(rotated: Rotated) -> FloatArray:
    """Return s² of each response, 1 where nothing is left of it."""
    scale = rotated.norm2 / rotated.spectrum.df / rotated.spectrum.mean_weight
    return np.where(scale > 0, scale, 1.0)


def short(value: float | FloatArray) -> str:
    """Return a number, or the range of several."""
    low, high = float(np.min(value)), float(np.max(value))
    if np.ndim(value) == 0:
        return f"{low:.6g}"
    return f"{low:.6g} to {high:.6g}, one for each of {np.size(value)} responses"


def read_h2(h2: Any) -> FloatArray:
    """Return values of h² as an array; raise a ValueError if one is outside [0, 1]."""
    h = np.asarray(h2, dtype=float)
    if not ((h >= 0) & (h <= 1)).all():
        raise ValueError("h2 must be between 0 and 1.")
    return h


def shares(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return h² and 1 - h² at logit h² = x, each to full relative precision."""
    return expit(x), expit(-x)
