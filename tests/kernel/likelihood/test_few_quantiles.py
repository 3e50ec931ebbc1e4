"""The loops over posteriors in Python, which serve a few, return what the compiled ones do."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm.kernel.likelihood import few_quantiles, quantiles

RNG = np.random.default_rng(11)
N = 60
FACTOR = RNG.normal(size=(N, N)) / np.sqrt(N)
SPECTRUM = flmm.Spectrum.from_factor(FACTOR, np.ones((N, 1)))
Y = np.column_stack([np.sqrt(h) * FACTOR @ RNG.normal(size=N) + np.sqrt(1 - h) * RNG.normal(size=N) for h in (0, 0.6)])
POSTERIOR = flmm.exact_posterior(SPECTRUM, np.column_stack([Y, FACTOR @ RNG.normal(size=N)]))  # at both boundaries, too

ASKED = {
    "quantiles of a share": lambda p: p.quantile("h2", 0.3),
    "quantiles of a variance": lambda p: p.quantile("sigma2", 0.3),
    "probability of a share": lambda p: p.probability("h2", 0.1, 0.6),
    "probability of a variance": lambda p: p.probability("total", 0.5, 1.2),
    "equal-tailed interval": lambda p: np.stack(p.interval("sigma2_e", 0.9)),
    "shortest interval of a share": lambda p: np.stack(p.interval("pve", 0.9, kind="hdi")),
    "shortest interval of a variance": lambda p: np.stack(p.interval("sigma2", 0.9, kind="hdi")),
}


@pytest.mark.parametrize("what", ASKED)
def test_what_is_found_of_a_few_is_what_the_compiled_loops_find(what, monkeypatch):
    found = []
    for most in (10**6, -1):
        monkeypatch.setattr(few_quantiles, "_FEW", most)
        found.append(ASKED[what](POSTERIOR))
    assert np.isfinite(found[0]).all()
    assert_allclose(*found, rtol=1e-10, atol=1e-13)


def test_many_are_left_to_the_compiled_loops():
    assert few_quantiles.loop_for("shortest_rows", 2) is not quantiles.shortest_rows
    assert few_quantiles.loop_for("shortest_rows", 200) is not quantiles.shortest_rows
    assert few_quantiles.loop_for("shortest_rows", 400) is quantiles.shortest_rows
    assert few_quantiles.loop_for("node_quantile_rows", 4000) is quantiles.node_quantile_rows
