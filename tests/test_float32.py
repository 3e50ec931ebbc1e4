"""PyTensor's floatX=float32: likelihoods are computed in double precision all the same, and everything runs."""

import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytest

import pm_fastlmm as flmm

QUIET = {"chains": 1, "cores": 1, "progressbar": False, "quiet": True, "random_seed": 1}
N = 30
RNG = np.random.default_rng(5)
GROUP, DAY, TIME = np.repeat(list("abcdef"), 5), np.tile(list("xyz"), 10), np.linspace(0, 1, N)
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
Y = 100 + 2 * RNG.normal(size=6)[np.repeat(range(6), 5)] + np.sin(6 * TIME) + 0.5 * RNG.normal(size=N)
W = flmm.covariance.incidence(GROUP).Z.toarray()


def fast():
    return flmm.kernel_model(Y, X, W=W)


def structured():
    return flmm.lmm_model("y ~ x + (1|g) + (1|h)", pd.DataFrame({"y": Y, "x": X[:, 1], "g": GROUP, "h": DAY}))


def slopes():
    y = Y + np.repeat([-3, 2, 0, -1, 4, 1], 5) * X[:, 1]
    return flmm.lmm_model("y ~ x + (x|g)", pd.DataFrame({"y": y, "x": X[:, 1], "g": GROUP}))


def dense():
    with pm.Model() as model:
        V = flmm.covariance.ar1(pm.HalfNormal("v", 3), pm.Uniform("rho", -1, 1), size=N)
        flmm.DenseLMM("y", X=X, V=V, observed=Y)
    return model


def with_lengthscale():
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(TIME, lengthscale=(0.1, 1), X=X, progressbar=False)
    with pm.Model() as model:
        variances = {"sigma2_g": pm.HalfNormal("g", 5), "sigma2_e": pm.HalfNormal("e", 5)}
        ell = pm.Uniform("ell", 0.1, 1)
        flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=ell, observed=Y, **variances)
    return model


def fourier():
    basis = flmm.FourierBasis(lengthscale=(0.1, 1.0), domain=(0, 1), n=N, noise_ratio_min=0.01)
    with pm.Model() as model:
        variances = {"sigma2": pm.HalfNormal("g", 5), "sigma2_e": pm.HalfNormal("e", 5)}
        ell = pm.Uniform("ell", 0.1, 1)
        flmm.FourierLMM(
            "y", statistics=flmm.FourierStatistics.from_arrays(basis, TIME, Y, X), lengthscale=ell, **variances
        )
    return model


every_model = pytest.mark.parametrize("build", [fast, structured, slopes, dense, with_lengthscale, fourier])


@pytest.fixture
def single():
    with pytensor.config.change_flags(floatX="float32"):
        yield


@every_model
def test_the_estimate_is_that_of_double_precision(build):
    expected = flmm.find_reml(build(), progressbar=False)
    with pytensor.config.change_flags(floatX="float32"):
        fit = flmm.find_reml(build(), progressbar=False)
    assert fit.loglik == pytest.approx(expected.loglik, abs=1e-5)
    np.testing.assert_allclose(fit.beta, expected.beta, rtol=1e-4)


@pytest.mark.parametrize(
    ("build", "sampler"), [(fast, "pymc"), (dense, "pymc"), (with_lengthscale, "pymc"), (structured, "nutpie")]
)
def test_sampling_and_what_follows_it_run(build, sampler, single):
    model = build()
    idata = flmm.sample(30, tune=30, model=model, nuts_sampler=sampler, **QUIET)
    flmm.pointwise_log_likelihood(idata, model=model, progressbar=False)
    flmm.predict(idata, effects="new", model=model, random_seed=1)
    if build is not dense:
        flmm.recover_effects(idata, model=model, random_seed=1)
    assert all(np.isfinite(group).all() for group in idata.posterior.data_vars.values())
    assert np.isfinite(idata.log_likelihood["y"]).all()
    assert abs(float(idata.posterior_predictive["y"].mean()) - 100) < 5


def test_the_density_is_that_of_double_precision(single):
    spectrum = flmm.Spectrum.from_factor(W, X)
    node = flmm.FastLMM.dist(sigma2_g=0.3, sigma2_e=0.1, spectrum=spectrum)
    expected = flmm.log_likelihood(spectrum.rotate(Y), 0.3, 0.1)
    assert float(pm.logp(node, Y).eval()) == pytest.approx(float(expected), rel=1e-7)  # constants are of floatX
