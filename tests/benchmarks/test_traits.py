"""Several traits on one kernel: value and gradient beside PyMC's normal distribution of all traits at once."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

from pm_fastlmm.engines.traits.operations import TraitsLoglik

pytestmark = pytest.mark.benchmark

N, SEED = 1000, 44


def covariances(t):
    """Σ_g and Σ_e of correlated traits."""
    found = []
    for name in ("g", "e"):
        scales = pm.HalfNormal.dist(1, shape=t)
        L, _, _ = pm.LKJCholeskyCov(name, n=t, eta=2, sd_dist=scales, compute_corr=True, store_in_trace=False)
        found.append(L @ L.T)
    return found


def rotated_model(t):
    rng = np.random.default_rng([SEED, t])
    eigvals, z = rng.exponential(size=N), rng.normal(size=(t, N))
    with pm.Model() as model:
        g, e = covariances(t)
        pm.Potential("y", TraitsLoglik()(g, e, pt.constant(z).T, np.zeros((t, t)), eigvals, 0)[0])
    return model


def dense_model(t):
    rng = np.random.default_rng([SEED, t])
    W = rng.normal(size=(N, N)) / np.sqrt(N)
    K = W @ W.T
    with pm.Model() as model:
        g, e = covariances(t)
        V = (g[:, None, :, None] * K[:, None]).reshape((t * N, t * N))
        V += (e[:, None, :, None] * np.eye(N)[:, None]).reshape((t * N, t * N))
        pm.MvNormal("y", np.zeros(t * N), V, observed=rng.normal(size=t * N))
    return model


def test_value_and_gradient_beside_a_normal_distribution_of_all_traits(measure, report):
    rotated = measure.take_turns({t: measure.through_nutpie(rotated_model(t)) for t in (2, 5)})
    dense = dense_model(2).logp_dlogp_function(ravel_inputs=True)
    dense.set_extra_values({})
    x = np.full(6, 0.1)
    whole = measure.take_turns({"dense": measure.loop(lambda: dense(x))}, rounds=3, counts={"dense": 1})["dense"]
    for t, seconds in rotated.items():
        report(f"several traits, n = {N}, t = {t}: value and gradient through nutpie", 1e6 * seconds, "µs")
    report(f"several traits, n = {N}, t = 2: beside pm.MvNormal of {2 * N}", np.median(whole) / rotated[2], "×")
