"""Weights at the nodes that are mixtures of a few of them, and the fits that follow from them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pm_fastlmm import Spectrum, reml
from pm_fastlmm.kernel.likelihood.tables import mixture, weights_at


@pytest.mark.parametrize("low", [-0.1, -3.5, -9.2, -12.0])
def test_a_mixture_is_the_weight_to_a_billionth_of_what_the_slope_is_made_of(low):
    delta = np.exp(np.arange(low - 7, 7.5, 0.5))
    eigvals = np.exp(low * np.random.default_rng(3).beta(0.7, 0.3, size=300))
    chosen, mix = mixture(low, delta)
    weights, h = weights_at(eigvals, delta)
    assert len(chosen) < weights.shape[1] / 2
    off = np.abs(weights[:, chosen] @ mix - weights) * np.tile(eigvals[:, None] + delta, 3)
    shares = np.concatenate([h.mean(0), (1 - h).mean(0), (h * (1 - h)).mean(0)])
    assert (off.max(0) < 2e-9 * shares).all()


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e3])
def test_many_responses_have_the_fits_of_each_alone(method, spread):
    rng = np.random.default_rng(4)
    W = rng.normal(size=(40, 60)) * spread ** rng.uniform(size=60)
    K = W @ W.T / 60 if spread != 1.0 else np.eye(40) + 1e-4 * W @ W.T
    spectrum = Spectrum.from_covariance(K, np.column_stack([np.ones(40), rng.normal(size=40)]))
    h2 = rng.uniform(-0.3, 1.3, size=260).clip(0, 1)
    Y = np.linalg.cholesky(K / np.diag(K).mean()) @ rng.normal(size=(40, 260)) * np.sqrt(h2)
    Y += np.sqrt(1 - h2) * rng.normal(size=(40, 260))
    together = reml(spectrum, Y, method=method)
    for t in range(0, 260, 5):
        alone = reml(spectrum, Y[:, t], method=method)
        assert_allclose(together.h2[t], alone.h2, rtol=1e-9, atol=1e-11)
        assert_allclose(together.loglik[t], alone.loglik, rtol=1e-11)
        assert_allclose(together.blue_cov[t], alone.blue_cov, rtol=1e-9)
