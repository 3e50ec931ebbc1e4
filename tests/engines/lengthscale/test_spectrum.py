"""LengthscaleSpectrum: the ways to build one, labels, what is kept, and bad input."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from as_written import AS_WRITTEN
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm.covariance.lengthscale_kernels import CORRELATIONS

RANGE = (0.1, 1.0)
QUIET = {"lengthscale": RANGE, "progressbar": False}
PYMC = {
    "se": pm.gp.cov.ExpQuad,
    "matern52": pm.gp.cov.Matern52,
    "matern32": pm.gp.cov.Matern32,
    "matern12": pm.gp.cov.Matern12,
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(2)
    x = rng.uniform(size=(40, 2))
    X = np.column_stack([np.ones(40), rng.normal(size=40)])
    return x, X, np.sin(4 * x[:, 0]) + X[:, 1] + 0.3 * rng.normal(size=40)


@pytest.fixture(scope="module")
def spectrum(data):
    x, X, _ = data
    return flmm.LengthscaleSpectrum.from_coordinates(x, X=X, **QUIET)


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("name", CORRELATIONS)
def test_kernels_by_name_are_those_of_pymc(data, name):
    x = data[0]
    by_name = flmm.LengthscaleSpectrum.from_coordinates(x, name, **QUIET)
    by_class = flmm.LengthscaleSpectrum.from_coordinates(x, PYMC[name], **QUIET)
    for lengthscale in (0.12, 0.7):
        # PyMC adds 1e-12 to squared distances, whose root a Matérn-1/2 shows
        assert_allclose(by_name.covariance(lengthscale), by_class.covariance(lengthscale), atol=2e-5)
        assert_allclose(
            by_name.covariance(lengthscale), PYMC[name](2, ls=lengthscale)(x).eval(mode=AS_WRITTEN), atol=2e-5
        )
    new, within = by_class.new_kernels(x[:3] + 0.01)
    assert_allclose(new(0.4), by_name.new_kernels(x[:3] + 0.01)[0](0.4), atol=1e-6)
    assert within(0.4).shape == (3, 3)


def test_distances_and_functions_give_the_same_spectra(data, spectrum):
    x, X, y = data
    D = np.sqrt(((x[:, None] - x) ** 2).sum(-1))
    others = [
        flmm.LengthscaleSpectrum.from_distances(D, "matern52", X=X, **QUIET),
        flmm.LengthscaleSpectrum.from_function(spectrum.covariance, RANGE, X, progressbar=False),
    ]
    for other in others:
        assert_allclose(other.rotate(y).loglik(0.33, 1.2, 0.1), spectrum.rotate(y).loglik(0.33, 1.2, 0.1), rtol=1e-12)


def test_it_agrees_with_its_exact_spectrum(data, spectrum, oracle):
    _, X, y = data
    exact = flmm.log_likelihood(spectrum.at(0.37).rotate(y), 1.2, 0.1)
    assert_allclose(spectrum.rotate(y).loglik(0.37, 1.2, 0.1), exact, atol=5 * spectrum.tolerance)
    dense = oracle.Dense(spectrum.covariance(0.37), X, y, 1.2, 0.1)
    assert_allclose(exact, dense.loglik_reml, rtol=1e-10)


def test_another_response_factors_nothing_anew(data):
    x, X, y = data
    calls = []

    def kernel(lengthscale):
        calls.append(lengthscale)
        return np.exp(-((x[:, :1] - x[:, 0]) ** 2) / (2 * lengthscale**2))

    spectrum = flmm.LengthscaleSpectrum.from_function(kernel, RANGE, X, delta=(1e-2, 1e2), progressbar=False)
    first = spectrum.rotate(y)
    count = len(calls)
    second = spectrum.rotate(y[::-1] * 2)
    if second.n_nodes <= first.n_nodes:
        assert len(calls) == count
    assert len(set(calls)) == len(calls)
    assert spectrum.rotate(y[::-1] * 2) is second


def test_rows_are_matched_by_id(data, spectrum):
    x, X, y = data
    ids = [f"i{j}" for j in range(len(y))]
    shuffled = np.random.default_rng(0).permutation(len(y))
    labelled = flmm.LengthscaleSpectrum.from_coordinates(
        pd.DataFrame(x, ids), X=pd.DataFrame(X, ids, ["one", "slope"]).iloc[shuffled], **QUIET
    )
    response = pd.Series(y, ids).iloc[shuffled[::-1]]
    assert_allclose(labelled.rotate(response).loglik(0.3, 1, 0.2), spectrum.rotate(y).loglik(0.3, 1, 0.2), rtol=1e-12)
    assert labelled.coef == ("one", "slope")

    def frame(lengthscale):
        return pd.DataFrame(spectrum.covariance(lengthscale), ids, ids).iloc[shuffled, shuffled]

    reordered = flmm.LengthscaleSpectrum.from_function(frame, RANGE, pd.DataFrame(X, ids), progressbar=False)
    assert_allclose(reordered.rotate(response).loglik(0.3, 1, 0.2), spectrum.rotate(y).loglik(0.3, 1, 0.2), rtol=1e-9)
    assert_allclose(
        reordered.covariance(0.4), spectrum.covariance(0.4)[np.ix_(shuffled, shuffled)], rtol=1e-12
    )  # fmt: skip


def test_draws_of_error_contrasts_have_their_covariance(spectrum):
    rng = np.random.default_rng(1)
    draws = np.array(
        [spectrum.draw_contrasts(0.3, 1.5, 0.4, noise) for noise in rng.standard_normal((20000, spectrum.n))]
    )
    M = np.eye(spectrum.n) - spectrum.projection.Q1 @ spectrum.projection.Q1.T
    expected = M @ (1.5 * spectrum.covariance(0.3) + 0.4 * np.eye(spectrum.n)) @ M
    sd = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / len(draws))
    assert (np.abs(draws.T @ draws / len(draws) - expected) < 5 * sd + 1e-12).all()
    assert_allclose(spectrum.projection.Q1.T @ draws[0], 0, atol=1e-12)


def test_the_mean_diagonal_is_one_number_or_none(spectrum):
    assert spectrum.mean_diagonal == pytest.approx(1)
    growing = flmm.LengthscaleSpectrum.from_function(
        lambda v: v * spectrum.covariance(v), RANGE, progressbar=False, delta=(1e-2, 10)
    )
    assert growing.mean_diagonal is None


def test_sizes_and_range_are_shown(spectrum):
    assert repr(spectrum) == "LengthscaleSpectrum(n=40, lengthscale from 0.1 to 1, fixed effects: x0, x1)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengthscale": (1.0, 0.1)}, r"lengthscale must be a range \(low, high\)"),
        ({"delta": (0.0, 1.0)}, r"delta must be a range"),
        ({"tolerance": 2}, "tolerance must be between 0 and 1"),
        ({"kernel": "matern72"}, "kernel 'matern72' is not known: it is one of se, matern52"),
        ({"x": np.full(40, np.nan)}, "x has"),
        ({"X": np.ones((39, 1))}, "X has 39 rows"),
    ],
)
def test_bad_input_is_refused(data, change, message):
    arguments = {"x": data[0], "X": data[1], **QUIET} | change
    with pytest.raises(ValueError, match=message):
        flmm.LengthscaleSpectrum.from_coordinates(**arguments)


def test_a_kernel_must_be_a_function_or_a_class(data):
    with pytest.raises(TypeError, match="kernel must be a function of the lengthscale that returns K, got ndarray"):
        flmm.LengthscaleSpectrum.from_function(np.eye(3), RANGE)
    with pytest.raises(TypeError, match=r"kernel must be one of se, .* or a class of pm.gp.cov"):
        flmm.LengthscaleSpectrum.from_coordinates(data[0], 3, **QUIET)


def test_kernels_that_are_no_covariance_or_change_size_are_refused(data):
    with pytest.raises(ValueError, match="at a lengthscale of 1: K is not positive semi-definite"):
        flmm.LengthscaleSpectrum.from_function(lambda v: np.diag([1.0, -0.5 * v, 1.0]), RANGE)
    with pytest.raises(ValueError, match=r"kernel returns K of 3 rows at 1 and of 2 at 0.1"):
        flmm.LengthscaleSpectrum.from_function(lambda v: np.eye(3 if v > 0.5 else 2), RANGE)


def test_responses_that_do_not_fit_are_refused(data, spectrum):
    y = data[2]
    with pytest.raises(ValueError, match="y has 39 rows but the spectrum has 40"):
        spectrum.rotate(y[1:])
    with pytest.raises(ValueError, match=r"y has 1 values that are NaN .* leave those rows out of y, X and the kernel"):
        spectrum.rotate(np.where(np.arange(40) == 3, np.nan, y))


def test_new_coordinates_need_coordinates_of_the_same_kind(data, spectrum):
    with pytest.raises(ValueError, match="x_new has 1 columns but x had 2"):
        spectrum.new_kernels(np.zeros(3))
    other = flmm.LengthscaleSpectrum.from_function(spectrum.covariance, RANGE, progressbar=False)
    with pytest.raises(ValueError, match="was not built from coordinates"):
        other.new_kernels(data[0])


def test_a_lengthscale_outside_the_range_has_no_draws(spectrum):
    with pytest.raises(ValueError, match=r"a lengthscale of 2 is outside the range of the spectrum, 0.1 to 1"):
        spectrum.draw_contrasts(2.0, 1.0, 1.0, np.zeros(40))
