"""
Simulation-based calibration of Laplace's approximation: ranks of the truth among draws of the posterior it makes.

σ ~ half-normal, β ~ N(0, B) integrated out with the effects. The posterior of σ is by sums over a fine grid of log p̃,
no NUTS; β and the effects are drawn given σ from a normal distribution. What Laplace's method gets wrong is seen.
"""

import numpy as np
import pymc as pm
import pytest
import xarray as xr

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.nodes import find_node

pytestmark = pytest.mark.slow

DRAWS, SCALE = 199, 1.0
B = np.diag([1.0, 0.5])
GRID = SCALE * np.linspace(0.005, 4.2, 60)
FINE = SCALE * np.linspace(0.005, 4.2, 4000)


def posterior_of_sigma(objective, rng):
    """Draw σ from its half-normal prior times exp(log p̃), interpolated between the points of a grid."""
    log = np.array([objective.log_likelihood(np.array([sd**2])) for sd in GRID])
    density = np.interp(FINE, GRID, log - log.max()) - 0.5 * (FINE / SCALE) ** 2
    mass = np.cumsum(np.exp(density - density.max()))
    return np.interp(rng.uniform(size=DRAWS), mass / mass[-1], FINE)


def ranks_of(family, levels, records, *, replicates, seed=1):
    """Return the ranks of σ, β and two effects."""
    rng = np.random.default_rng([seed, levels, records])
    group = np.repeat(np.arange(levels), records)
    X = np.column_stack([np.ones(len(group)), rng.normal(size=len(group))])
    with pm.Model() as model:
        sd = pm.HalfNormal("sd", SCALE)
        term = flmm.Term(group, cov.scalar(sd**2), name="g")
        flmm.LatentLMM("y", family=family, X=X, beta_cov=B, terms=[term], observed=np.arange(len(group)) % 2)
    node, out = find_node(model), {"sd": [], "beta 0": [], "beta 1": [], "u 0": [], "u 1": []}
    for _ in range(replicates):
        sigma, beta = abs(SCALE * rng.normal()), np.sqrt(np.diag(B)) * rng.normal(size=2)
        u = sigma * rng.normal(size=levels)
        eta = X @ beta + u[group]
        y = rng.poisson(np.exp(eta)) if family == "poisson" else rng.binomial(1, 1 / (1 + np.exp(-eta)))
        own = node.observing(y.astype(float))
        drawn = posterior_of_sigma(own.likelihood(own.constants()), rng)
        posterior = xr.Dataset({"sd": (("chain", "draw"), drawn[None])}, coords={"chain": [0], "draw": range(DRAWS)})
        found = own.recover(Draws(model, posterior), None, rng)
        out["sd"].append((drawn < sigma).sum())
        for j in range(2):
            out[f"beta {j}"].append(int((found["beta"][0, :, j] < beta[j]).sum()))
            out[f"u {j}"].append(int((found["g"][0, :, j] < u[j]).sum()))
    return {name: np.array(ranks) for name, ranks in out.items()}


@pytest.mark.parametrize(
    ("family", "levels", "records"), [("poisson", 10, 4), ("poisson", 15, 1), ("bernoulli", 12, 10)]
)
def test_the_posterior_is_calibrated(sbc, family, levels, records):
    for name, ranks in ranks_of(family, levels, records, replicates=200).items():
        assert sbc.outside(ranks, DRAWS) == 0, name


def test_binary_data_with_a_record_or_two_a_level_are_not(sbc):
    """σ is too low: where it is large the truth has ranks above almost all draws."""
    ranks = ranks_of("bernoulli", 40, 2, replicates=200)["sd"]
    assert sbc.outside(ranks, DRAWS) > 0
    assert ranks.mean() / DRAWS > 0.5
