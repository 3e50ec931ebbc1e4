"""Heritability and repeatability on the latent, the expected-data and the observed scale."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.families.averaging import few_points, normal_points
from pm_fastlmm.families.bernoulli import Binomial
from pm_fastlmm.families.family import Family
from pm_fastlmm.families.links import LINKS

type Fixed = Literal["left out", "counted"]  # the variance of fixed effects between records, in what shares divide

_TERMS = 60  # of the series of covariances
_LEAST = 1e-10  # variance of η below which functions of it are straight lines
_AT_ONCE = 2_000_000  # numbers


class Shares(NamedTuple):
    """
    Shares of variance on four scales, (...) or (..., C); `liability` is None for links of means.

    latent : of the variance of η. The variance of the link is not in it.
    liability : of the variance of η and of the latent variable that the link is the distribution function of, π²/3 of
        "logit", 1 of "probit", π²/6 of "cloglog": what a threshold model calls heritability.
    expected : of the variance of E(y | η).
    observed : of the variance of y.
    """

    latent: FloatArray
    liability: FloatArray | None
    expected: FloatArray
    observed: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class DataScale:
    """
    What becomes of variances of the linear predictor on the scale of the data, averaged over the fixed effects.

    With η = ℓ_i + t, t ~ N(0, V), and averages over records i (de Villemereuil et al. 2016,
    doi:10.1534/genetics.115.186536):

        z̄ = E g⁻¹(η),  Ψ = E dg⁻¹/dη,  V_exp = var g⁻¹(η),  V_dist = E var(y | η),  V_P = V_exp + V_dist

    Ordered categories have these of the indicator of each category, on a last axis.

    Attributes
    ----------
    mean, slope : array
        z̄ and Ψ.
    expected_variance, distribution_variance : array
        V_exp of the random effects, within records, and V_dist.
    fixed_variance : array
        Variance of g⁻¹ between records, by their fixed effects; V_exp of all is its sum with `expected_variance`.
    latent_variance, latent_fixed_variance : array
        V, and the variance of ℓ_i between records.
    link_variance : float
        Variance of the link's latent variable, 0 where it has none.
    spectrum : (..., K) array
        Squared Hermite coefficients c_k² of t ↦ E_i g⁻¹(ℓ_i + t): two values of t of correlation ρ have the covariance
        Σ ρ^k c_k², whose first term is ρΨ²V. The last one holds all beyond.
    """

    mean: FloatArray
    slope: FloatArray
    expected_variance: FloatArray
    distribution_variance: FloatArray
    fixed_variance: FloatArray
    latent_variance: FloatArray
    latent_fixed_variance: FloatArray
    link_variance: float
    spectrum: FloatArray

    def heritability(self, additive: Any, *, fixed: Fixed = "left out") -> Shares:
        """
        Return h² of an additive genetic variance V_A of η: Ψ²V_A over V_exp and over V_P.

        Parameters
        ----------
        additive : (...) array
            V_A; of several terms, their sum.
        fixed : {"left out", "counted"}
            Whether the variance between records by their fixed effects is in what is divided by, as in QGglmm with
            `predict`. On the latent scale it is that of ℓ_i.

        Raises
        ------
        ValueError
            If `fixed` is another word.
        """
        additive = np.asarray(additive, dtype=float)
        return self._shares(additive, self.slope**2 * self._by_category(additive), fixed)

    def repeatability(self, individual: Any, *, fixed: Fixed = "left out") -> Shares:
        """
        Return the correlation of two records that share terms with this variance: all terms of an individual.

        On the data scales it is Cov(g⁻¹(η), g⁻¹(η')) of two records at average fixed effects, which is more than Ψ²
        times the variance: what is not linear in the individual's value is repeated, too (QGglmm's QGicc).

        Parameters
        ----------
        individual : (...) array
            Sum of the variances of the individual's terms, additive and permanent ones.
        fixed : {"left out", "counted"}
            As in `heritability`.

        Raises
        ------
        ValueError
            If `fixed` is another word.
        """
        individual = np.asarray(individual, dtype=float)
        with np.errstate(invalid="ignore"):
            correlation = self._by_category(individual / self.latent_variance)[..., None]
        shared = (self.spectrum * correlation ** np.arange(1, _TERMS + 1)).sum(axis=-1)
        return self._shares(individual, shared, fixed)

    def _shares(self, variance: FloatArray, on_data: FloatArray, fixed: Fixed) -> Shares:
        require_choice("fixed", fixed, ("left out", "counted"))
        counted = float(fixed == "counted")
        latent = self.latent_variance + counted * self.latent_fixed_variance
        expected = self.expected_variance + counted * self.fixed_variance
        with np.errstate(invalid="ignore", divide="ignore"):
            return Shares(
                variance / latent,
                variance / (latent + self.link_variance) if self.link_variance else None,
                on_data / expected,
                on_data / (expected + self.distribution_variance),
            )

    def _by_category(self, variance: FloatArray) -> FloatArray:
        return variance[..., None] if self.mean.ndim > self.latent_variance.ndim else variance


def data_scale(family: Family, psi: Any, fixed: Any, latent_variance: Any) -> DataScale:
    """
    Return means and variances on the scale of the data.

    Parameters
    ----------
    family : Family
        Of binomial ones, with one number of trials: what is observed is the count of as many.
    psi : (..., p) array
        The family's parameters, for each draw.
    fixed : (..., n) array
        Xβ and offsets of each record, for each draw.
    latent_variance : (...) array
        Sum of the variances of all random terms of η, at a record.

    Raises
    ------
    ValueError
        If rows have different numbers of trials.

    Examples
    --------
    A threshold trait with a prevalence of 0.1 and a heritability of liability of 0.5 (Dempster & Lerner 1950):

    >>> import numpy as np
    >>> from pm_fastlmm.families.bernoulli import Bernoulli
    >>> from pm_fastlmm.families.scales import data_scale
    >>> scale = data_scale(Bernoulli("probit"), [], [-1.2816 * np.sqrt(2)], 1.0)
    >>> h2 = scale.heritability(1.0)
    >>> print(f"{scale.mean:.3f} {h2.latent:.3f} {h2.liability:.3f} {h2.observed:.3f}")
    0.100 1.000 0.500 0.171
    """
    family = _of_one_size(family)
    psi, fixed, variance = (np.asarray(v, dtype=float) for v in (psi, fixed, latent_variance))
    shape = np.broadcast_shapes(psi.shape[:-1], fixed.shape[:-1], variance.shape)
    draws = int(np.prod(shape))
    psi = np.broadcast_to(psi, (*shape, psi.shape[-1])).reshape(draws, psi.shape[-1])
    fixed = np.broadcast_to(fixed, (*shape, fixed.shape[-1])).reshape(draws, -1)
    variance = np.broadcast_to(variance, shape).reshape(draws)
    sd = np.sqrt(np.maximum(variance, _LEAST))
    points, weights = few_points(fixed)
    order = np.argsort(sd)
    pieces = []
    for part in _batches(family, sd[order], points.shape[1]):
        rows = order[part]
        pieces.append(_averages(family, psi[rows], points[rows], weights[rows], sd[rows]))
    back = np.argsort(order)
    mean, slope, within, between, distribution, spectrum = (
        np.concatenate(p)[back].reshape((*shape, *p[0].shape[1:])) for p in zip(*pieces, strict=True)
    )
    shrunk = np.asarray(variance / sd**2).reshape(shape)  # below the least variance functions are straight lines
    if family.categorical:
        shrunk = shrunk[..., None]
    return DataScale(
        mean=mean,
        slope=slope,
        expected_variance=within * shrunk,
        distribution_variance=distribution,
        fixed_variance=between,
        latent_variance=variance.reshape(shape),
        latent_fixed_variance=fixed.var(axis=1).reshape(shape),
        link_variance=family.link_variance,
        spectrum=spectrum * shrunk[..., None],
    )


def _of_one_size(family: Family) -> Family:
    if not isinstance(family, Binomial) or family.trials.ndim == 0:
        return family
    sizes = np.unique(family.trials)
    if sizes.size > 1:
        raise ValueError(
            f"rows have from {sizes[0]:g} to {sizes[-1]:g} trials: heritability on the observed scale is that of a "
            "count of one number of trials, family.of_rows(trials); of a single trial with trials=1."
        )
    return family.of_rows(sizes[0])


def _points(family: Family, sd: float) -> tuple[FloatArray, FloatArray]:
    return normal_points(sd, bounded=family.link in LINKS)


def _batches(family: Family, sd: FloatArray, points: int) -> list[slice]:
    """Return slices of increasing standard deviations, each of which needs not too many numbers."""
    found, start = [], 0
    while start < sd.size:
        stop = sd.size
        while stop - start > 1 and (stop - start) * points * _points(family, sd[stop - 1])[0].size > _AT_ONCE:
            stop = start + (stop - start) // 2
        found.append(slice(start, stop))
        start = stop
    return found


def _averages(
    family: Family, psi: FloatArray, points: FloatArray, weights: FloatArray, sd: FloatArray
) -> tuple[FloatArray, ...]:
    """Return z̄, Ψ, the variances within and between records, V_dist and the spectrum: draws lead, categories follow."""
    x, density = _points(family, float(sd[-1]))
    eta = points[:, :, None] + sd[:, None, None] * x  # (draws, points, x)
    if family.categorical:
        values = family.probabilities(eta, psi[:, None, :])
        spread = values * (1 - values)
    else:
        values = family.mean(eta, psi[:, None, :])[..., None]
        spread = family.variance(eta, psi[:, None, :])[..., None]
    of_point = np.einsum("x,dpxc->dpc", density, values)
    mean = np.einsum("dp,dpc->dc", weights, of_point)
    between = np.einsum("dp,dpc->dc", weights, (of_point - mean[:, None]) ** 2)
    within = np.einsum("dp,x,dpxc->dc", weights, density, (values - of_point[:, :, None]) ** 2, optimize=True)
    distribution = np.einsum("dp,x,dpxc->dc", weights, density, spread, optimize=True)
    average = np.einsum("dp,dpxc->dxc", weights, values) - mean[:, None]
    coefficients = np.einsum("kx,x,dxc->dck", _hermite(x), density, average, optimize=True)
    spectrum = coefficients**2
    rest = np.einsum("x,dxc->dc", density, average**2) - spectrum.sum(axis=-1)
    spectrum[..., -1] += np.maximum(rest, 0)
    found = (mean, coefficients[..., 0] / sd[:, None], within, between, distribution, spectrum)
    return found if family.categorical else tuple(part[:, 0] for part in found)


def _hermite(x: FloatArray) -> FloatArray:
    """Return He_k(x)/√k! for k = 1 … K: orthonormal under N(0, 1)."""
    rows = [np.ones_like(x), x]
    for k in range(1, _TERMS):
        rows.append((x * rows[k] - np.sqrt(k) * rows[k - 1]) / np.sqrt(k + 1))
    return np.array(rows[1:])
