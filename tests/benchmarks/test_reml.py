"""A REML fit from K, X and y, beside the eigendecomposition of K that any spectral method begins with."""

import numpy as np
import pytest
import scipy.linalg

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark

GROUPS = 50
MS = 1e3


def problem(n, seed=20):
    """Kinship-like K of full rank, an intercept and two covariates, half of the variance explained by K."""
    rng = np.random.default_rng([seed, n])
    markers = rng.normal(size=(n, 2 * n)) + rng.normal(size=(1, 2 * n))
    K = markers @ markers.T / (2 * n)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    y = X @ [1.0, -0.5, 0.3] + markers @ rng.normal(size=2 * n) / np.sqrt(2 * n) + rng.normal(size=n)
    return K, X, y


@pytest.mark.parametrize(("n", "rounds"), [(500, 15), (1000, 7), (2000, 3)])
def test_reml_beside_eigh(n, rounds, measure, report):
    K, X, y = problem(n)
    spectrum = flmm.Spectrum.from_covariance(K, X)
    rotated = spectrum.rotate(y)
    assert flmm.reml(spectrum, rotated).converged
    seconds = measure.take_turns(
        {
            "fit": measure.loop(lambda: flmm.reml(flmm.Spectrum.from_covariance(K, X), y)),
            "eigh": measure.loop(lambda: scipy.linalg.eigh(K)),
            "spectrum": measure.loop(lambda: flmm.Spectrum.from_covariance(K, X)),
        },
        rounds=rounds,
    )
    after = measure.take_turns(
        {"rotate": measure.loop(lambda: spectrum.rotate(y)), "reml": measure.loop(lambda: flmm.reml(spectrum, rotated))}
    )
    figure = f"from_covariance + reml / eigh(K), n = {n}"
    report(figure, seconds["fit"] / seconds["eigh"], "×")
    report(figure, MS * seconds["eigh"], "ms", part="eigh(K)")
    report(figure, MS * seconds["spectrum"], "ms", part="from_covariance")
    report(figure, MS * after["rotate"], "ms", part="rotate")
    report(figure, MS * after["reml"], "ms", part="reml of what was rotated")


def test_reml_with_fifty_groups(measure, report):
    n = 1000
    rng = np.random.default_rng(21)
    group = rng.integers(GROUPS, size=n)
    W = np.eye(GROUPS)[group]
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    y = X @ [1.0, -0.5, 0.3] + rng.normal(size=GROUPS)[group] + rng.normal(size=n)
    spectrum = flmm.Spectrum.from_factor(W, X)
    rotated = spectrum.rotate(y)
    assert flmm.reml(spectrum, rotated).converged
    seconds = measure.take_turns(
        {
            "fit": measure.loop(lambda: flmm.reml(flmm.Spectrum.from_factor(W, X), y)),
            "spectrum": measure.loop(lambda: flmm.Spectrum.from_factor(W, X)),
            "rotate": measure.loop(lambda: spectrum.rotate(y)),
            "reml": measure.loop(lambda: flmm.reml(spectrum, rotated)),
        }
    )
    figure = f"from_factor + reml, n = {n}, {GROUPS} groups"
    report(figure, MS * seconds["fit"], "ms")
    report(figure, MS * seconds["spectrum"], "ms", part="from_factor")
    report(figure, MS * seconds["rotate"], "ms", part="rotate")
    report(figure, MS * seconds["reml"], "ms", part="reml of what was rotated")
