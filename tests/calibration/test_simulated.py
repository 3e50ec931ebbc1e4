"""Ranks of a thousand replicates by quadrature, and of fewer by NUTS through simuk, stay in their envelopes."""

import numpy as np
import pymc as pm
import pytest
import simuk

import pm_fastlmm as flmm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

DRAWS = 400


def assert_calibrated(ranks, draws, sbc):
    for name, values in ranks.items():
        assert sbc.outside(values, draws) == 0, name


@pytest.mark.parametrize("m", [60, 5], ids=["full rank", "low rank"])
@pytest.mark.parametrize("prior", ["uniform h²", "Beta(2, 4)", "half-normal", "half-t", "penalised complexity"])
def test_the_posterior_by_quadrature_is_calibrated(prior, m, sbc):
    assert_calibrated(sbc.exact_ranks(sbc.PRIORS[prior], m), sbc.DRAWS, sbc)


def test_a_posterior_under_another_prior_is_seen_to_be_miscalibrated(sbc, monkeypatch):
    monkeypatch.setattr(sbc, "draw_prior", lambda prior, size, rng: (np.full(size, 0.05), np.full(size, 1.0)))
    ranks = sbc.exact_ranks(sbc.PRIORS["uniform h²"], 60, replicates=200)
    assert sbc.outside(ranks["h2"], sbc.DRAWS) > 20


def ranks_of(model, simulations, seed):
    """Return the ranks of simuk by name."""
    options = {"draws": DRAWS, "tune": 300, "chains": 1, "cores": 1, "progressbar": False, "quiet": True}
    runs = simuk.SBC(
        model, num_simulations=simulations, seed=seed, sample_kwargs=options, keep_fits=False, progress_bar=False
    )
    runs.run_simulations()
    return {str(name): values.to_numpy() for name, values in runs.simulations["prior_sbc"].data_vars.items()}


def test_fastlmm_is_calibrated(sbc):
    """Forty responses in each of 25 models: a thousand replicates."""
    rng = np.random.default_rng(1)
    spectrum = flmm.Spectrum.from_factor(rng.normal(size=(24, 30)) / np.sqrt(30), np.ones((24, 1)))
    prior = flmm.priors.VariancePrior(1.5, 1.0, 3.0, 3.0)
    model = flmm.kernel_model(rng.normal(size=(24, 40)), spectrum=spectrum, prior=prior)
    assert_calibrated(ranks_of(model, 25, seed=1), DRAWS, sbc)


def test_structured_lmm_is_calibrated(sbc):
    rng = np.random.default_rng(2)
    with pm.Model() as model:
        a, b, e = (pm.HalfNormal(name, 1) for name in ("a", "b", "e"))
        terms = [
            flmm.Term(np.repeat(np.arange(8), 6), flmm.covariance.scalar(a**2), name="a"),
            flmm.Term(rng.integers(0, 10, size=48), flmm.covariance.scalar(b**2), name="b"),
        ]
        flmm.StructuredLMM("y", X=np.ones((48, 1)), terms=terms, sigma2_e=e**2, observed=rng.normal(size=48))
    assert_calibrated(ranks_of(model, 60, seed=2), DRAWS, sbc)


def test_lengthscale_lmm_is_calibrated(sbc, lengthscales):
    assert_calibrated(ranks_of(lengthscales.Example().model(), 60, seed=3), DRAWS, sbc)


def test_dense_lmm_is_calibrated(sbc):
    rng = np.random.default_rng(4)
    x = np.linspace(0, 1, 20)
    with pm.Model() as model:
        ell, g, e = pm.Gamma("ell", 5, 12), pm.HalfNormal("g", 1), pm.HalfNormal("e", 1)
        V = g**2 * pm.math.exp(-(((x[:, None] - x) / ell) ** 2) / 2) + e**2 * np.eye(20)
        flmm.DenseLMM("y", V=V, X=np.ones((20, 1)), observed=rng.normal(size=20))
    assert_calibrated(ranks_of(model, 60, seed=4), DRAWS, sbc)


def test_fourier_lmm_is_calibrated(sbc):
    """What is simulated and observed are statistics."""
    rng = np.random.default_rng(5)
    x = rng.uniform(size=200)
    basis = flmm.FourierBasis(x, "matern52", lengthscale=(0.15, 0.6), domain=(0, 1), noise_ratio_min=0.05)
    with pm.Model() as model:
        ell, g, e = pm.Uniform("ell", 0.15, 0.6), pm.Uniform("g", 0.5, 2), pm.Uniform("e", 0.1, 1)
        statistics = flmm.FourierStatistics.from_arrays(basis, x, rng.normal(size=200), np.ones(200))
        flmm.FourierLMM("y", statistics=statistics, lengthscale=ell, sigma2=g, sigma2_e=e)
    assert_calibrated(ranks_of(model, 60, seed=5), DRAWS, sbc)
