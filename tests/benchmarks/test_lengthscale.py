"""A lengthscale as a parameter: an evaluation with its gradient beside one dense Cholesky factorisation."""

import time

import numpy as np
import pymc as pm
import pytest
from scipy.linalg import lapack

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark

RANGE = (0.05, 1.0)


@pytest.mark.parametrize("kernel", ["matern52", "matern32", "se"])
def test_value_and_gradient_beside_a_cholesky_factorisation(measure, report, kernel):
    n = 1000
    rng = np.random.default_rng([41, n])
    x = np.sort(rng.uniform(size=n))
    y = np.sin(6 * x) + 0.3 * rng.normal(size=n)
    start = time.process_time()
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(
        x, kernel, lengthscale=RANGE, X=np.ones((n, 1)), progressbar=False
    )
    spectra = spectrum.rotate(y)
    report(f"lengthscale, {kernel}, n = {n}: spectra at {spectra.n_nodes} nodes", time.process_time() - start, "s")
    with pm.Model() as model:
        ell = pm.Truncated("ell", pm.LogNormal.dist(-1, 1), lower=RANGE[0], upper=RANGE[1])
        g, e = pm.HalfNormal("g", 2), pm.HalfNormal("e", 1)
        flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=y)
    function = model.logp_dlogp_function(ravel_inputs=True)
    function.set_extra_values({})
    point = np.array([0.1, 0.2, -1.5])
    V = np.asfortranarray(spectrum.covariance(0.3) + 0.1 * np.eye(n))
    seconds = measure.take_turns(
        {
            "PyMC": measure.loop(lambda: function(point)),
            "alone": measure.loop(lambda: spectra.value_and_gradient(0.3, 1.0, 0.1)),
            "Cholesky": measure.loop(lambda: lapack.dpotrf(V, lower=1)),
        }
    )
    figure = f"lengthscale, {kernel}, n = {n}: value and gradient through PyMC"
    report(figure, 1e6 * seconds["PyMC"], "µs")
    report(figure, 1e6 * seconds["alone"], "µs", part="the likelihood alone")
    report(figure, 1e6 * seconds["Cholesky"], "µs", part="one Cholesky factorisation of V")
    report(figure, seconds["Cholesky"] / seconds["PyMC"], "×", part="as fast as that")
    exact = flmm.log_likelihood(spectrum.at(0.3).rotate(y), 1.0, 0.1)
    assert abs(spectra.loglik(0.3, 1.0, 0.1) - exact) < 0.05


def test_seconds_for_a_posterior(report):
    """NUTS for a model of a lengthscale and two variances at n = 1000, from the data to 4000 draws."""
    n = 1000
    rng = np.random.default_rng([42, n])
    x = np.sort(rng.uniform(size=n))
    y = np.sin(6 * x) + 0.3 * rng.normal(size=n)
    start = time.perf_counter()
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(x, lengthscale=RANGE, X=np.ones((n, 1)), progressbar=False)
    with pm.Model() as model:
        ell = pm.Truncated("ell", pm.LogNormal.dist(-1, 1), lower=RANGE[0], upper=RANGE[1])
        g, e = pm.HalfNormal("g", 2), pm.HalfNormal("e", 1)
        flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=y)
    built = time.perf_counter()
    idata = flmm.sample(1000, model=model, random_seed=1, cores=1, progressbar=False, quiet=True)
    done = time.perf_counter()
    figure = f"lengthscale, matern52, n = {n}: from the data to 4000 draws"
    report(figure, done - start, "s")
    report(figure, built - start, "s", part="of that the model")
    report(figure, float(idata.posterior.attrs["sampling_time"]), "s", part="of that NUTS")
