"""Several traits whose columns, mean or response are given in another way are the same traits."""

import re

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

N = 24
RNG = np.random.default_rng(5)
G = RNG.normal(size=(N, 40))
IDS = [f"cow {i}" for i in range(N)]
K = pd.DataFrame(G @ G.T / 40, IDS, IDS)
Y = pd.DataFrame(RNG.normal(size=(N, 2)) * [1.0, 9.0] + G[:, :1], index=IDS, columns=["milk", "fat"])
SPECTRUM = flmm.Spectrum.from_covariance(K, pd.DataFrame({"one": np.ones(N)}, index=IDS))


def node_of(observed, **kwargs):
    with pm.Model(coords={"swapped": ["fat", "milk"], "obs": IDS}) as model:
        g, e = pm.HalfNormal("g", 1, shape=2), pm.HalfNormal("e", 1, shape=2)
        flmm.MatrixLMM(
            "Y", spectrum=SPECTRUM, Sigma_g=cov.diagonal(g), Sigma_e=cov.diagonal(e), observed=observed, **kwargs
        )
    return flmm.lmm_nodes(model)[0]


@pytest.mark.parametrize("kwargs", [{"traits": ["fat", "milk"]}, {"dims": ("swapped", "obs")}], ids=["traits", "dims"])
def test_columns_of_a_table_go_by_the_names_of_the_traits(kwargs):
    node = node_of(Y, **kwargs)
    assert node.traits == ("fat", "milk")
    assert_allclose(node.placed(node.observed), Y[["fat", "milk"]].T)
    with pytest.raises(ValueError, match="observed has no column 'fat'"):
        node_of(Y.rename(columns={"fat": "protein"}), **kwargs)


def test_a_sampler_starts_as_if_a_known_mean_had_been_subtracted():
    mu = 1000.0 * RNG.normal(size=(2, N))
    with pm.Model():
        shift = pm.Data("shift", mu)
    for given in (mu, shift):
        assert_allclose(node_of(Y.T.to_numpy() + mu, mu=given).target().values, node_of(Y).target().values, rtol=1e-6)


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
def test_a_refit_takes_traits_as_the_fit_did(missing):
    gaps = np.zeros((N, 2), dtype=bool)
    gaps[:3, 0] = missing
    fit = flmm.reml_traits(SPECTRUM, Y.mask(gaps))
    other = (Y.iloc[::-1] ** 2).set_axis(IDS).mask(gaps)
    expected = flmm.reml_traits(SPECTRUM, other)
    for y in (other, other.iloc[::-1, ::-1], other.to_numpy()):
        assert_allclose(fit.refit(y).loglik, expected.loglik, rtol=1e-12)
    gaps[5, 1] = True
    with pytest.raises(ValueError, match="a refit is of the same; fit it anew"):
        fit.refit(other.mask(gaps))
    with pytest.raises(ValueError, match=r"but Y must be \(2, 24\)"):
        fit.refit(other[["milk"]].to_numpy())


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [("mu", np.zeros((N, 2)), (2, N)), ("beta", np.zeros((1, 2)), (2, 1)), ("beta_mean", np.zeros((1, 2)), (2, 1))],
)
def test_a_mean_with_traits_in_its_columns_is_refused(name, given, wanted):
    cov_of_beta = {"beta_cov": np.eye(2)} if name == "beta_mean" else {}
    with pytest.raises(ValueError, match=f"{name} must be {re.escape(str(wanted))}, a trait in each row, got shape"):
        node_of(Y, **{name: given}, **cov_of_beta)
    node_of(Y, **{name: given.T}, **cov_of_beta)


def fit_with_both_matrices_singular():
    rng = np.random.default_rng(3)
    G = rng.normal(size=(50, 60))
    rng.normal(size=(50, 2)), rng.normal(size=(50, 2)), rng.random((50, 2))
    u = np.linalg.cholesky(G @ G.T / 60 + 1e-9 * np.eye(50)) @ rng.normal(size=50)
    Y = pd.DataFrame(2 * u[:, None] + 0.3 * rng.normal(size=(50, 2)), columns=["milk", "fat"])
    fit = flmm.reml_traits(flmm.Spectrum.from_covariance(G @ G.T / 60, np.ones((50, 1))), Y)
    assert len(fit.boundary) == 6
    return fit


def test_coefficients_have_profile_intervals_where_both_matrices_are_singular():
    fit = fit_with_both_matrices_singular()
    lower, upper = fit.interval("beta[milk: x0]")
    assert lower < fit.beta.iloc[0] < upper


@pytest.mark.slow
def test_intervals_of_two_shares_mirror_each_other_where_both_matrices_are_singular():
    shares = fit_with_both_matrices_singular().share_intervals()
    assert_allclose(shares.lower.iloc[2:], 1 - shares.upper.iloc[2:][::-1], atol=1e-3)
