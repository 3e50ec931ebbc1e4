"""Bad input to FastLMM: each message is asserted."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr

import pm_fastlmm as flmm

PAIR = {"h2": 0.5, "total": 1.0}
b = np.array([1.0, -2.0, 0.5])


@pytest.fixture(scope="module")
def p(build):
    return build("factor", n=12)


@pytest.fixture(scope="module")
def without_X(build):
    return build("factor, no X", n=12)


@pytest.fixture
def observe(p):
    """Register a node of y in a fresh model."""

    def register(observed=None, spectrum=p.spectrum, **kwargs):
        with pm.Model():
            return flmm.FastLMM("y", spectrum=spectrum, observed=observed, **(PAIR | kwargs))

    return register


@pytest.mark.parametrize(
    ("given", "got"),
    [
        ({}, "got none"),
        ({"h2": 0.5}, "got h2"),
        ({"h2": 0.5, "sigma2": 1.0}, "got h2, sigma2"),
        ({"sigma2": 1.0, "sigma2_e": 1.0}, "got sigma2, sigma2_e"),
        (PAIR | {"sigma2": 1.0, "delta": 1.0}, "got delta, h2, sigma2, total"),
        ({"h2": 0.5, "total": None}, "got h2"),
    ],
)
def test_exactly_one_pair_of_variance_parameters(p, given, got):
    with pytest.raises(ValueError, match=rf"^give exactly one pair of variance parameters, .*; {got}\.$"):
        flmm.FastLMM.dist(spectrum=p.spectrum, **given)


def test_spectrum_must_be_one(p):
    with pytest.raises(TypeError, match=r"spectrum must be a Spectrum, got ndarray: build it with flmm\.Spectrum"):
        flmm.FastLMM.dist(spectrum=p.K, **PAIR)


def test_an_unknown_argument_is_named(p):
    with pytest.raises(TypeError, match="bata"):
        flmm.FastLMM.dist(spectrum=p.spectrum, bata=b, **PAIR)


def test_flat_beta_without_data_is_improper(observe, without_X):
    with pytest.raises(ValueError, match=r"y has no observed data.*improper along X: give observed=.*beta_cov="):
        observe()
    observe(beta=b)
    observe(beta_cov=np.eye(3))
    observe(spectrum=without_X.spectrum)


def test_beta_and_its_prior_exclude_each_other(p):
    for prior in ({"beta_cov": np.eye(3)}, {"beta_mean": b}):
        with pytest.raises(
            ValueError, match=r"give either beta \(coefficients\) or beta_mean and beta_cov .*, not both"
        ):
            flmm.FastLMM.dist(spectrum=p.spectrum, beta=b, **prior, **PAIR)


def test_beta_mean_needs_beta_cov(p):
    with pytest.raises(ValueError, match="beta_mean is given without beta_cov: give the prior covariance"):
        flmm.FastLMM.dist(spectrum=p.spectrum, beta_mean=b, **PAIR)


def test_beta_needs_fixed_effects(without_X):
    for treatment in ({"beta": b}, {"beta_cov": np.eye(3)}):
        with pytest.raises(ValueError, match="there are no fixed effects: give X"):
            flmm.FastLMM.dist(spectrum=without_X.spectrum, **treatment, **PAIR)


@pytest.mark.parametrize("beta", [np.zeros(2), 1.0, np.zeros((2, 4))])
def test_beta_has_one_value_for_each_column(p, beta):
    with pytest.raises(ValueError, match=r"beta must have 3 values, one for each of x0, x1, x2; got shape"):
        flmm.FastLMM.dist(spectrum=p.spectrum, beta=beta, **PAIR)


def test_beta_cov_is_a_covariance_of_the_coefficients(p):
    with pytest.raises(ValueError, match=r"beta_cov must be \(3, 3\), for x0, x1, x2; got shape \(2, 2\)"):
        flmm.FastLMM.dist(spectrum=p.spectrum, beta_cov=np.eye(2), **PAIR)
    indefinite, asymmetric = "beta_cov is not positive semi-definite", "beta_cov must be symmetric, but differs"
    triangle, hollow = np.triu(np.ones((3, 3))), np.ones((3, 3)) - np.eye(3)
    for wrong, message in ((-np.eye(3), indefinite), (triangle, asymmetric), (hollow, indefinite)):
        with pytest.raises(ValueError, match=message):
            flmm.FastLMM.dist(spectrum=p.spectrum, beta_cov=wrong, **PAIR)


def test_mu_has_the_length_of_y(p):
    with pytest.raises(ValueError, match="mu has 11 values in its last dimension, but there are 12 observations"):
        flmm.FastLMM.dist(spectrum=p.spectrum, mu=np.zeros(11), **PAIR)


@pytest.mark.parametrize("shape", [7, (2, 7), [12, 2]])
def test_shape_ends_in_the_observations(p, shape):
    with pytest.raises(ValueError, match=r"shape ends in \d+, but the spectrum has 12 observations"):
        flmm.FastLMM.dist(spectrum=p.spectrum, beta=b, shape=shape, **PAIR)


@pytest.mark.parametrize("kind", [np.asarray, pd.Series, lambda y: y[None]])
def test_missing_y_is_refused_and_subset_is_named(p, observe, kind):
    y = p.y.copy()
    y[[2, 5]] = np.nan
    with pytest.raises(ValueError, match=r"observed has 2 values that are NaN.*PyMC would impute.*spectrum\.subset"):
        observe(kind(y))


def test_missing_and_wrong_data_containers_are_refused(p):
    y = p.y.copy()
    y[2] = np.inf
    with pm.Model():
        infinite, short = pm.Data("infinite", y), pm.Data("short", y[:5])
        with pytest.raises(ValueError, match=r"observed has 1 values that are NaN or infinite, the first at 2"):
            flmm.FastLMM("a", spectrum=p.spectrum, observed=infinite, **PAIR)
        with pytest.raises(ValueError, match=r"observed has shape \(5,\), but the 12 observations must be its last"):
            flmm.FastLMM("b", spectrum=p.spectrum, observed=short, **PAIR)


@pytest.mark.parametrize("shape", [(11,), (2, 11), (12, 2)])
def test_y_of_another_length_is_refused(observe, shape):
    with pytest.raises(ValueError, match=r"observed has shape .*, but the 12 observations must be its last dimension"):
        observe(np.zeros(shape))


def test_a_square_array_without_labels_is_refused(observe):
    with pytest.raises(ValueError, match=r"observed is a square array, shape \(12, 12\), without labels"):
        observe(np.ones((12, 12)))


def test_ids_align_y_with_the_spectrum(build):
    p = build("full rank", n=12)
    ids = [f"id{i}" for i in range(12)]
    spectrum = flmm.Spectrum.from_covariance(pd.DataFrame(p.K, ids, ids), p.X)
    order = np.random.default_rng(3).permutation(12)
    series = pd.Series(p.y, ids).iloc[order]
    table = pd.DataFrame({"u": p.y, "v": p.y**2}, ids).iloc[order]
    array = xr.DataArray(table.to_numpy().T, dims=("response", "obs"), coords={"obs": list(table.index)})
    for observed, aligned in ((series, p.y), (table, np.stack([p.y, p.y**2])), (array, np.stack([p.y, p.y**2]))):
        with pm.Model() as model:
            flmm.FastLMM("y", spectrum=spectrum, observed=observed, **PAIR)
        np.testing.assert_array_equal(flmm.lmm_nodes(model)[0].observed, aligned)
    with pytest.raises(
        ValueError, match=r"observed and the spectrum do not have the same ids: 1 ids .*'stranger'.*'id3'"
    ):
        flmm.FastLMM("y", spectrum=spectrum, observed=pd.Series(p.y, [*ids[:3], "stranger", *ids[4:]]), **PAIR)


def test_rotated_must_be_of_this_spectrum(p, observe, without_X):
    with pytest.raises(ValueError, match=r"observed was rotated by another spectrum: pass spectrum=observed\.spectrum"):
        observe(without_X.spectrum.rotate(p.y))


def test_rotated_has_no_other_mean(p, observe):
    with pytest.raises(ValueError, match="a Rotated has no rows that mu could be the mean of: put its columns into X"):
        observe(p.spectrum.rotate(p.y), mu=1.0)
