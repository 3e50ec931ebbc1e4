"""
The exact finite-sample distribution of likelihood-ratio statistics of one kernel, simulated from its spectrum alone.

Under σ²_g = 0 the rotated response is z ~ N(0, σ²_eI) and rss ~ σ²_eχ²_ν, and the statistic does not depend on σ²_e or
β (Crainiceanu & Ruppert 2004, doi:10.1111/j.1467-9868.2004.00438.x):

    RLRT = sup_{γ ≥ 0} { p log[(Σz² + rss)/(Σz²/(1 + γλ) + rss)] - Σ log(1 + γλ) }

What is simulated is fitted as data are: the search over γ is that of `reml`, global and with exact boundaries.

Plain simulation resolves no p-value below 1/(B + 1). Half of the draws come from alternatives γ_j instead, and each has
the weight of the null density of its direction z/‖z‖ relative to that of the mixture it is drawn from,

    w = 1/Σ_j π_j e^{T_j/2},   T_j = the braces above at γ_j

which is at most 2, and tiny where the statistic is large. The p-value of a response with statistic t and weight w₀,

    p = (w₀ + Σ_b w_b 1{RLRT_b ≥ t})/(B + 1),

is valid at any B (Harrison 2012, doi:10.1093/biomet/asr079); with w = 1 it is the usual (1 + #)/(B + 1).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.kernel.inference.simulation import blocks, simulate_contrasts
from pm_fastlmm.kernel.likelihood.profile import Profile, search
from pm_fastlmm.kernel.likelihood.region import Allowed, Scale
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_APART = 1.0  # standard deviations between alternatives: each is well inside the reach of the next
_ALTERNATIVES = 48
_SPACING, _POINTS = 0.3, 80  # of the values of h² at which the statistic is simulated, in standard deviations


@dataclass(frozen=True, slots=True, eq=False)
class NullDistribution:
    """
    Weighted draws of a likelihood-ratio statistic under its null hypothesis.

    Attributes
    ----------
    statistic, weight : (B,) arrays
        In ascending order of the statistic; a probability is the mean of the weights of its event.
    """

    statistic: FloatArray
    weight: FloatArray

    def p_value(self, statistic: FloatArray, weight: FloatArray | float = 1.0) -> tuple[FloatArray, FloatArray]:
        """
        Return p-values and their Monte-Carlo standard errors, for statistics with weights of their own.

        1 where the statistic is 0; NaN where it is.
        """
        count = self.statistic.size
        place = np.searchsorted(self.statistic, statistic, side="left")
        tail, squares = (np.append(np.cumsum(v[::-1])[::-1], 0.0)[place] for v in (self.weight, self.weight**2))
        p = np.minimum((np.asarray(weight) + tail) / (count + 1), 1.0)
        # where no draw is beyond, all that is known is the response's own share
        own = np.asarray(weight) / (count + 1)
        se = np.sqrt(np.maximum(squares / count - (tail / count) ** 2, 0.0) / count + own**2)
        known = np.where(np.isnan(statistic), np.nan, 1.0)
        certain = np.asarray(statistic) <= 0
        return known * np.where(certain, 1.0, p), known * np.where(certain, 0.0, se)

    @property
    def mass_at_zero(self) -> float:
        """The probability that the statistic is 0, that the estimate is on the boundary."""
        return float(self.weight[self.statistic <= 0].sum() / self.weight.sum())

    def quantile(self, probability: float) -> float:
        """Return a quantile of the null distribution."""
        cumulative = np.cumsum(self.weight) / self.weight.sum()
        place = int(np.searchsorted(cumulative, probability, side="left"))
        return float(self.statistic[min(place, self.statistic.size - 1)])


def alternatives_of(spectrum: Spectrum) -> FloatArray:
    """
    Return the -log γ (J,), in the units of `Profile`, of the mixture that is drawn from.

    Half of it is σ²_g = 0, half of it these values an even distance apart. It depends on no response.
    """
    return Scale.of(Profile.from_rotated(_nothing(spectrum), "REML")).nodes(_APART, _ALTERNATIVES)


def mixture_weights(alternatives: FloatArray, profile: Profile) -> FloatArray:
    """Return the weights of the responses of a restricted profile."""
    # the restricted profile is -2 log of the density of the direction, relative to that at γ = 0 where f is 0
    relative = -0.5 * profile.heights(alternatives)
    mixture = logsumexp(relative, axis=1) - np.log(2 * alternatives.size)
    return np.asarray(np.exp(-np.logaddexp(np.log(0.5), mixture)))


def kernel_null(
    spectrum: Spectrum, method: Method, alternatives: FloatArray, n_sim: int, rng: np.random.Generator
) -> NullDistribution:
    """Simulate the statistic of σ²_g = 0 n_sim times; it serves all responses of the spectrum."""
    largest = float(spectrum.eigvals.max())
    statistics, weights = [], []
    for size in blocks(n_sim, spectrum.rank):
        gamma = np.exp(-alternatives[rng.integers(alternatives.size, size=size)]) / largest
        drawn = simulate_contrasts(spectrum, np.where(rng.random(size) < 0.5, 0.0, gamma), 1.0, size, rng)
        restricted = Profile.from_rotated(drawn, "REML")
        profile = restricted if method == "REML" else Profile.from_rotated(drawn, method)
        x, f, *_ = search(profile).T
        statistics.append(np.where(x == np.inf, 0.0, np.maximum(-f, 0.0)))  # f is 0 at δ = ∞: there exactly
        weights.append(mixture_weights(alternatives, restricted))
    statistic, weight = np.concatenate(statistics), np.concatenate(weights)
    order = np.argsort(statistic, kind="stable")
    return NullDistribution(statistic[order], weight[order])


def critical_values(spectrum: Spectrum, method: Method, level: float, n_sim: int, random_seed: Any) -> Allowed:
    """
    Return the quantile of 2[max ℓ - ℓ(h²)] under h², for all h² from 0 to 1.

    It is simulated at values of h² that are an even distance apart, from the same normal numbers, so that it is a
    smooth curve; between them it is interpolated.
    """
    base = Profile.from_rotated(_nothing(spectrum), method)
    scale = Scale.of(base)
    nodes = scale.nodes(_SPACING, _POINTS)
    ends = [-np.inf, *nodes[1:-1], np.inf] if not spectrum.nullity else [*nodes[:-1], np.inf]
    seed = int(np.random.default_rng(random_seed).integers(2**63))
    levels = [_critical_value(spectrum, method, x, base.largest, level, n_sim, seed) for x in ends]
    return scale.allowed(nodes, np.array(levels))


def _critical_value(
    spectrum: Spectrum, method: Method, x: float, largest: float, level: float, n_sim: int, seed: int
) -> float:
    """Return the quantile of the statistic of log δ = x, drawn at that δ."""
    rng = np.random.default_rng(seed)
    delta = largest * np.exp(x)
    g, e = (0.0, 1.0) if np.isinf(delta) else (1 / (largest + delta), delta / (largest + delta))
    statistics = []
    for size in blocks(n_sim, spectrum.rank):
        profile = Profile.from_rotated(simulate_contrasts(spectrum, g, e, size, rng), method)
        if np.isinf(x):
            f0, _, f_inf, _ = profile.limits()
            here = f_inf if x > 0 else f0
        else:
            here = profile.heights(np.array([x]))[:, 0]
        statistics.append(np.maximum(here - search(profile)[:, 1], 0.0))
    # the order statistic of which a further draw is below with this probability
    rank = min(int(np.ceil(level * (n_sim + 1))), n_sim) - 1
    return float(np.partition(np.concatenate(statistics), rank)[rank])


def _nothing(spectrum: Spectrum) -> Rotated:
    return simulate_contrasts(spectrum, 0.0, 1.0, 0, np.random.default_rng(0))
