"""The default priors of lmm_model: intervals of the share of variance cover it at its boundaries and between."""

import numpy as np
import pytest
from scipy.stats import halfnorm

import pm_fastlmm as flmm
from pm_fastlmm.kernel.likelihood.spectral import contrast_loglik

pytestmark = pytest.mark.slow

REPLICATES = 600
GRID = np.linspace(1e-3, 6, 240)  # of both standard deviations, in units of the residual's of least squares


def intervals(Z, X, Y, level):
    """Equal-tailed intervals of σ²_g/(σ²_g + σ²_e) under σ_g, σ_e ~ HalfNormal(2s), by quadrature."""
    spectrum = flmm.Spectrum.from_factor(Z, X)
    g, e = np.meshgrid(GRID, GRID, indexing="ij")
    share = (g**2 / (g**2 + e**2)).ravel()
    order = np.argsort(share)
    prior = (halfnorm(scale=2).logpdf(g) + halfnorm(scale=2).logpdf(e)).ravel()
    for y in Y.T:
        rotated = spectrum.rotate(y)
        s2 = rotated.norm2 / spectrum.df
        loglik = contrast_loglik(
            rotated.z, rotated.rss, eigvals=spectrum.eigvals, nullity=spectrum.nullity,
            sigma2_g=s2 * g.ravel() ** 2, sigma2_e=s2 * e.ravel() ** 2,
        )  # fmt: skip
        weights = np.exp(prior + loglik - (prior + loglik).max())[order]
        cumulative = (np.cumsum(weights) - weights / 2) / weights.sum()
        yield np.interp([(1 - level) / 2, (1 + level) / 2], cumulative, share[order])


@pytest.mark.parametrize(("groups", "size"), [(30, 6), (10, 20)])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_ninety_per_cent_intervals_cover_the_share_of_variance(groups, size, share):
    rng = np.random.default_rng([groups, int(100 * share)])
    Z = np.repeat(np.eye(groups), size, axis=0)
    X = np.column_stack([np.ones(groups * size), rng.normal(size=groups * size)])
    u = np.sqrt(share) * rng.normal(size=(groups, REPLICATES))
    Y = Z @ u + np.sqrt(1 - share) * rng.normal(size=(len(Z), REPLICATES))
    covered = np.mean([low <= share <= high for low, high in intervals(Z, X, Y, 0.9)])
    print(f"{groups} groups of {size}, share {share}: {100 * covered:.1f} % of the 90 % intervals cover it")
    assert 0.86 < covered < 0.99
