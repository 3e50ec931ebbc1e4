"""From cross-products to NUTS, effects and predictions: what a user does with rows that are not in memory."""

import arviz as az
import numpy as np
import pymc as pm
import pytest

import pm_fastlmm as flmm


@pytest.fixture(scope="module")
def streamed():
    """Twenty blocks, their rows kept here to compare with."""
    rng = np.random.default_rng(8)
    n, m = 4000, 8
    X, W = np.column_stack([np.ones(n), rng.normal(size=n)]), rng.normal(size=(n, m)) / np.sqrt(m) + 0.2
    a = rng.normal(size=m)
    y = X @ [10.0, 1.0] + W @ a + rng.normal(size=n)
    blocks = [[part[i : i + 200] for part in (X, W, y)] for i in range(0, n, 200)]
    c = flmm.KernelStatistics.from_arrays(*blocks[0])
    for block in blocks[1:]:
        c = c.update(*block)
    return X, W, y, a, *c.factor()


@pytest.fixture(scope="module")
def sampled(streamed):
    *_, spectrum, rotated = streamed
    model = flmm.kernel_model(rotated, spectrum=spectrum)
    with model:
        idata = flmm.sample(
            1000, chains=2, cores=1, random_seed=1, progressbar=False, quiet=True, compute_convergence_checks=False
        )
    return model, idata


def test_nuts_agrees_with_the_exact_posterior(streamed, sampled):
    *_, spectrum, rotated = streamed
    exact = flmm.exact_posterior(spectrum, rotated)
    for name in ("h2", "sigma2_e"):
        draws = sampled[1].posterior[name]
        error = exact.sd(name) / np.sqrt(az.ess(draws).item())
        assert abs(draws.mean().item() - exact.mean(name)) < 5 * error
        assert draws.std().item() == pytest.approx(exact.sd(name), rel=0.1)


def test_beta_and_the_coefficients_of_W_are_recovered(streamed, sampled):
    X, W, y, a, *_ = streamed
    model, idata = sampled
    tree = flmm.recover_effects(idata.copy(), model=model, random_seed=2)
    assert "y_u" not in tree.posterior
    assert tree.posterior.y_a.dims == ("chain", "draw", "y_factor")
    # the truth is inside 5 posterior standard deviations, which are what ridge regression leaves
    for name, truth in (("y_beta", [10.0, 1.0]), ("y_a", a)):
        draws = tree.posterior[name].to_numpy().reshape(2000, -1)
        assert (np.abs(draws.mean(0) - truth) < 5 * draws.std(0)).all()
    in_memory = flmm.reml(flmm.Spectrum.from_factor(W, X), y).factor_effects()
    draws = tree.posterior.y_a.to_numpy().reshape(2000, -1)
    np.testing.assert_allclose(draws.mean(0), in_memory.mean, atol=0.2 * in_memory.se.max())
    np.testing.assert_allclose(draws.std(0), in_memory.se, rtol=0.15)
    with pytest.raises(ValueError, match="the rows of X, W and y were not kept"):
        flmm.recover_effects(idata.copy(), model=model, which=["u"])


def test_rows_that_are_given_are_predicted(streamed, sampled):
    X, W, *_, spectrum, rotated = streamed
    model, idata = sampled
    tree = flmm.predict(idata.copy(), X[:50], W_new=W[:50], model=model, random_seed=3)
    point = flmm.reml(spectrum, rotated).predict(X[:50], W_new=W[:50])
    draws = tree.predictions.y_mean.to_numpy().reshape(2000, -1)
    np.testing.assert_allclose(draws.mean(0), point.mean, atol=0.2 * point.se.max())
    np.testing.assert_allclose(draws.std(0), point.se, rtol=0.15)
    new = tree.predictions.y.to_numpy().reshape(2000, -1)
    np.testing.assert_allclose(new.std(0), point.se_observation, rtol=0.1)
    with pytest.raises(ValueError, match="the rows of X, W and y were not kept"):
        flmm.predict(idata.copy(), model=model)


def test_several_responses_and_a_proper_beta_sample_too(streamed):
    X, W, y, *_ = streamed
    spectrum, rotated = flmm.KernelStatistics.from_arrays(X, W, np.column_stack([y, -y])).factor()
    model = flmm.kernel_model(rotated, spectrum=spectrum)
    assert model.named_vars_to_dims["y"] == ("response", "statistic")
    assert model["h2"].eval().shape == (2,)
    with pm.Model() as explicit:
        beta = pm.Normal("beta", 0, 20, shape=2)
        variances = {"sigma2_g": pm.HalfNormal("sigma2_g", 3), "sigma2_e": pm.HalfNormal("sigma2_e", 3)}
        single = flmm.KernelStatistics.from_arrays(X, W, y).factor()
        flmm.FastLMM("y", spectrum=single[0], observed=single[1], beta=beta, **variances)
        idata = flmm.sample(
            300, chains=2, cores=1, random_seed=1, progressbar=False, quiet=True, compute_convergence_checks=False
        )
    fit = flmm.reml(*single)
    draws = idata.posterior.beta.to_numpy().reshape(-1, 2)
    np.testing.assert_allclose(draws.mean(0), fit.beta, atol=0.5 * fit.beta_se.max())
    np.testing.assert_allclose(draws.std(0), fit.beta_se, rtol=0.3)
    tree = flmm.recover_effects(idata, model=explicit, random_seed=1)
    np.testing.assert_allclose(tree.posterior.y_beta, tree.posterior.beta.to_numpy(), rtol=1e-8)
