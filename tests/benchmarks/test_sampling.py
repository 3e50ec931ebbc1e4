"""Seconds and effective draws of 4 × 1000 draws at n = 300: nutpie, NUTS seeded by REML, and PyMC as it comes."""

import arviz_stats
import numpy as np
import pymc as pm
import pytest

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark

# chains one after the other: PyMC's guess of the number of cores is half of the CPUs, which differs between machines
RUN = {"chains": 4, "cores": 1, "progressbar": False, "quiet": True}


@pytest.fixture(scope="module")
def model():
    n = 300
    rng = np.random.default_rng(40)
    markers = rng.normal(size=(n, 2 * n)) / np.sqrt(2 * n)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    y = X @ [1.0, -0.5, 0.3] + markers @ rng.normal(size=2 * n) + rng.normal(size=n)
    return flmm.kernel_model(y, X, markers @ markers.T)


def minimum_ess(idata):
    ess = arviz_stats.ess(idata, var_names=["h2", "total"])
    return min(float(value) for value in ess.data_vars.values())


def test_nutpie_after_compilation(model, measure, report):
    nutpie = pytest.importorskip("nutpie")
    compiled = nutpie.compile_pymc_model(model)
    for tune in (300, 1000):
        results = []

        def draw(tune=tune, results=results):
            options = {"tune": tune, "chains": 4, "seed": len(results), "progress_bar": False}
            results.append(nutpie.sample(compiled, draws=1000, **options))

        draw()
        figure = f"nutpie, 4 × ({tune} + 1000) draws after compilation"
        report(figure, measure.wall(draw, rounds=5), "s")
        report(figure, [minimum_ess(idata) for idata in results[1:]], "draws", part="min ESS")


def test_seeded_nuts_beside_pymc(model, measure, report):
    ways = {
        "flmm.sample, 4 × (100 + 1000)": lambda seed: flmm.sample(model=model, random_seed=seed, **RUN),
        "pm.sample(tune=1000), 4 × (1000 + 1000)": lambda seed: pm.sample(
            tune=1000, model=model, nuts_sampler="pymc", random_seed=seed, **RUN
        ),
        "flmm.sample(nuts_sampler='nutpie'), 4 × (300 + 1000)": lambda seed: flmm.sample(
            model=model, nuts_sampler="nutpie", random_seed=seed, **RUN
        ),
        "flmm.sample(4, tune=4), all but the draws": lambda seed: flmm.sample(
            4, tune=4, model=model, random_seed=seed, **RUN
        ),
    }
    seconds = {name: [] for name in ways}
    results = {name: [] for name in ways}
    for seed in range(3):
        for name, way in ways.items():
            elapsed = measure.wall(lambda way=way, seed=seed, kept=results[name]: kept.append(way(seed)))
            if seed:  # the first round fills the caches on disk
                seconds[name].extend(elapsed)
    for name in ways:
        report(f"{name}, second use", seconds[name], "s")
        if results[name][0].posterior.sizes["draw"] == 1000:
            ess = [minimum_ess(idata) for idata in results[name][1:]]
            report(f"{name}, second use", ess, "draws", part="min ESS")


@pytest.mark.parametrize("sampler", ["nutpie", "pymc"])
def test_another_response_of_a_model_that_was_sampled(sampler, measure, report):
    n, rng = 300, np.random.default_rng(41)
    markers = rng.normal(size=(n, 2 * n)) / np.sqrt(2 * n)
    spectrum = flmm.Spectrum.from_covariance(markers @ markers.T, np.ones((n, 1)))
    options = RUN | {"nuts_sampler": sampler, "random_seed": 1}

    def simulated():
        return markers @ rng.normal(size=2 * n) + rng.normal(size=n)

    def sample(draws):
        flmm.sample(draws, model=flmm.kernel_model(simulated(), spectrum=spectrum), **options)

    def fit_and_sample():
        y = simulated()
        flmm.reml(spectrum, y)
        flmm.sample(250, model=flmm.kernel_model(y, spectrum=spectrum), **options)

    def toy(tune):
        with pm.Model():
            pm.Normal("y", pm.Normal("mu"), pm.HalfNormal("sigma"), observed=simulated())
            pm.sample(1000, tune=tune, **options)

    ways = {
        f"another y, 4 × 1000 draws, {sampler}": lambda: sample(1000),
        f"another y, REML and 4 × 250 draws, {sampler}": fit_and_sample,
        f"pm.sample of a model with two parameters, 4 × 1000 draws, {sampler}": lambda: toy(
            100 if sampler == "pymc" else 300
        ),
    }
    for name, way in ways.items():
        way()  # compiles
        report(name, measure.wall(way, rounds=3), "s")
