"""The exact test, intervals and the bootstrap beside the fits that they belong to."""

import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark

MS, US = 1e3, 1e6


def problem(n, T, seed=44):
    """A kinship of full rank, an intercept and two covariates, and T responses with h² from 0 to 1."""
    rng = np.random.default_rng([seed, n])
    W = rng.normal(size=(n, 2 * n)) / np.sqrt(2 * n)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    h2 = rng.uniform(size=T)
    Y = np.sqrt(h2) * (W @ rng.normal(size=(2 * n, T))) + np.sqrt(1 - h2) * rng.normal(size=(n, T))
    spectrum = flmm.Spectrum.from_covariance(W @ W.T, X)
    return spectrum, spectrum.rotate(Y)


@pytest.mark.parametrize(("n", "T"), [(200, 20_000), (1000, 20_000)])
def test_tests_and_intervals_of_many_responses_beside_their_fits(n, T, measure, report):
    spectrum, rotated = problem(n, T)
    fits = flmm.reml(spectrum, rotated)
    seconds = measure.take_turns(
        {
            "fit": measure.loop(lambda: flmm.reml(spectrum, rotated)),
            "test": measure.loop(lambda: fits.test_no_variance(random_seed=1)),
            "profile": measure.loop(lambda: fits.interval("h2")),
            "inversion": measure.loop(lambda: fits.interval("h2", "inversion", random_seed=1)),
        },
        rounds=3,
    )
    figure = f"exact test of {T} responses, 10 000 draws of the null / their REML fits, n = {n}"
    report(figure, seconds["test"] / seconds["fit"], "×")
    report(figure, seconds["fit"], "s", part="REML fits")
    report(figure, seconds["test"], "s", part="exact test")
    report(figure, seconds["profile"] / seconds["fit"], "×", part="profile intervals of h² / REML fits")
    report(figure, US / T * seconds["profile"], "µs", part="profile interval of h², each response")
    report(figure, seconds["inversion"] / seconds["fit"], "×", part="inverted tests / REML fits")
    report(figure, seconds["inversion"], "s", part="inverted tests")


@pytest.mark.parametrize("n", [200, 1000])
def test_a_bootstrap_beside_one_fit(n, measure, report):
    spectrum, rotated = problem(n, 2)
    one = rotated.first()
    fit = flmm.reml(spectrum, one)
    seconds = measure.take_turns(
        {
            "fit": measure.loop(lambda: flmm.reml(spectrum, one)),
            "bootstrap": measure.loop(lambda: fit.bootstrap(10_000, random_seed=1)),
            "table": measure.loop(lambda: fit.intervals("profile")),
        },
        rounds=3,
    )
    figure = f"bootstrap of 10 000 replicates / one REML fit after the rotation, n = {n}"
    report(figure, seconds["bootstrap"] / seconds["fit"], "×")
    report(figure, seconds["bootstrap"], "s", part="bootstrap")
    report(figure, MS * seconds["fit"], "ms", part="one REML fit")
    report(figure, MS * seconds["table"], "ms", part="profile intervals of all parameters")


def test_degrees_of_freedom_beside_the_fit_of_a_trial(measure, report):
    trial = flmm.lmm_model("yield ~ rep + (1 | gen) + (1 | rep:block)", flmm.datasets.john_alpha())
    fit = flmm.find_reml(trial, progressbar=False)
    assert isinstance(fit.coefficients("kenward-roger"), pd.DataFrame)
    seconds = measure.take_turns(
        {
            "fit": measure.loop(lambda: flmm.find_reml(trial, progressbar=False)),
            "satterthwaite": measure.loop(lambda: fit.coefficients()),
            "kenward-roger": measure.loop(lambda: fit.coefficients("kenward-roger")),
        },
        rounds=3,
    )
    figure = "Kenward–Roger table of the alpha trial / find_reml"
    report(figure, seconds["kenward-roger"] / seconds["fit"], "×")
    report(figure, MS * seconds["kenward-roger"], "ms", part="Kenward–Roger")
    report(figure, MS * seconds["satterthwaite"], "ms", part="Satterthwaite")
