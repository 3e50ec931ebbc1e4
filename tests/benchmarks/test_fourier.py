"""Gaussian processes on Fourier features: one pass beside the bare transform, an evaluation beside a factorisation."""

import numpy as np
import pytest

import pm_fastlmm as flmm
from pm_fastlmm.engines.fourier.likelihood import fourier_loglik_and_gradient, fourier_spectra
from pm_fastlmm.engines.fourier.products import to_modes

pytestmark = pytest.mark.benchmark

ROWS = 200_000


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    x = rng.uniform(size=ROWS)
    basis = flmm.FourierBasis(x, "matern52", lengthscale=(0.1, 0.4), domain=(0, 1), noise_ratio_min=0.1)
    return basis, x, np.sin(9 * x) + rng.normal(size=ROWS)


def test_a_pass_costs_little_beside_its_fourier_transform(data, measure):
    basis, x, y = data
    angles, shape = basis.grid.angles(x[:, None]), tuple(4 * m + 1 for m in basis.grid.largest)
    seconds = measure.take_turns(
        {
            "statistics": measure.loop(lambda: flmm.FourierStatistics.from_arrays(basis, x, y)),
            "transform": measure.loop(lambda: to_modes(angles, 1 + 1j * y, shape)),
        },
        rounds=5,
    )
    ratio = np.median(seconds["statistics"] / seconds["transform"])
    print(f"\none pass over {ROWS} rows: {ratio:.2f} times the bare transform")
    assert ratio < 3


def test_an_interpolated_likelihood_is_far_faster_than_a_factorisation(data, measure):
    basis, x, y = data
    p = flmm.FourierStatistics.from_arrays(basis, x, y, np.ones(ROWS)).project()
    spectra = fourier_spectra(p, basis, delta_min=0.1)
    observed, log_prior = np.append(p.cross, p.square), basis.log_weights(0.2)
    seconds = measure.take_turns(
        {
            "interpolated": measure.loop(lambda: spectra.value_and_gradient(0.2, 1.0, 1.0)),
            "factored": measure.loop(lambda: fourier_loglik_and_gradient(log_prior, 1.0, observed, p.gram, p.df)),
        },
        rounds=5,
    )
    ratio = np.median(seconds["factored"] / seconds["interpolated"])
    micro = {name: 1e6 * np.median(values) for name, values in seconds.items()}
    print(
        f"\nvalue and gradient with {basis.size} features: {micro['interpolated']:.0f} µs interpolated, "
        f"{micro['factored']:.0f} µs factored, ratio {ratio:.0f}"
    )
    assert ratio > 10
