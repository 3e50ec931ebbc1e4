"""What follows a fit of several traits: rows left out, other data, new rows, and what is refused."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from engines.truth import DenseTraits
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

N, TRAITS = 20, ["milk", "fat"]
IDS = [f"cow {i}" for i in range(N)]


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(4)
    W = rng.normal(size=(N, 30)) / np.sqrt(30) + 0.1
    X = np.column_stack([np.ones(N), rng.normal(size=N)])
    Y = 3 + 2 * (W @ rng.normal(size=(30, 2)) @ [[1.0, 0.5], [0.0, 0.9]]) + rng.normal(size=(N, 2))
    Y[[2, 9, 9], [0, 0, 1]] = np.nan  # of one row nothing was observed
    return pd.DataFrame(W @ W.T, IDS, IDS), X, pd.DataFrame(Y, IDS, TRAITS)


def fitted(problem, Y):
    K, X, _ = problem
    with pm.Model() as model:
        g, e = (pm.HalfNormal(name, 3, shape=2) for name in "ge")
        r = pm.Uniform("r", -1, 1)
        both = r * pm.math.sqrt(g.prod())
        sigma_g = pm.math.stack([pm.math.stack([g[0], both]), pm.math.stack([both, g[1]])])
        spectrum = flmm.Spectrum.from_covariance(K, X)
        flmm.MatrixLMM("Y", spectrum=spectrum, Sigma_g=sigma_g, Sigma_e=cov.diagonal(e), observed=Y)
    return flmm.find_reml(model, progressbar=False)


@pytest.fixture(scope="module")
def fit(problem):
    return fitted(problem, problem[2])


@pytest.fixture(scope="module")
def truth(problem, fit):
    K, X, Y = problem
    g, both, h, e, f = fit.theta
    seen = Y.notna().to_numpy().T
    return DenseTraits(K.to_numpy(), X, seen, np.array([[g, both], [both, h]]), np.diag([e, f]), Y.to_numpy().T)


def test_rows_are_left_out_with_all_their_traits(fit, truth):
    """A label for each row; that of the row without any trait has nothing to leave out."""
    rows = np.nonzero(truth.seen)[1]
    table = fit.loo(groups=pd.Series(range(N), index=IDS))
    y = truth.r
    assert len(table) == len(rows)
    for i in (0, 2, 19):
        out = np.flatnonzero(rows == i)
        C = np.linalg.inv(truth.P[np.ix_(out, out)])
        assert_allclose(table["mean"].iloc[out], y[out] - C @ truth.Py[out], atol=1e-8)
        assert_allclose(table["sd"].iloc[out], np.sqrt(np.diag(C)), atol=1e-8)
    assert 9 not in set(table["group"])
    with pytest.raises(ValueError, match=r"groups has 3 rows but y has 20"):
        fit.loo(groups=["a", "b", "b"])


def test_results_have_the_labels_of_trait_and_row(fit):
    tables = (
        fit.fitted(),
        fit.residuals(),
        fit.loo(),
        fit.diagnostics(),
        fit.simulate(2, random_seed=1),
        fit.predict().mean,
    )
    for table in tables:
        assert table.index.names == ["trait", "obs"]
        assert table.index[0] == ("milk", IDS[0])
    assert list(fit.blup("K").columns) == TRAITS
    assert list(fit.blup("K").index) == IDS
    assert fit.effects("K").loc[(IDS[9], "fat"), "records"] == 0


def test_a_refit_is_a_fit_of_the_other_data(problem, fit):
    _, _, Y = problem
    other = 2 + Y.iloc[:, ::-1].set_axis(TRAITS, axis=1).where(Y.notna())
    other = other.fillna(1.5).where(Y.notna())
    expected = fitted(problem, other)
    values = other.to_numpy()
    entries = values.T[Y.notna().to_numpy().T]
    for given in (other.sample(frac=1, random_state=1), other[["fat", "milk"]], values, values.T, entries):
        again = fit.refit(given)
        assert_allclose(again.loglik, expected.loglik, rtol=1e-9)
        assert_allclose(again.theta, expected.theta, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="y was observed in other entries than Y: a refit is of the same; fit it anew"):
        fit.refit(other.fillna(0.0))
    with pytest.raises(ValueError, match="fat"):
        fit.refit(other.rename(columns={"fat": "fet"}))


def test_without_their_prior_variance_new_rows_have_a_mean_alone(problem, fit):
    K, X, _ = problem
    K_new = K.iloc[:3].set_axis(["x", "y", "z"])
    found = fit.predict(X[:3], K_new=K_new)
    assert np.isnan(found.variance).all()
    assert list(found.mean.loc["fat"].index) == ["x", "y", "z"]
    assert_allclose(found.mean.to_numpy().reshape(2, 3), fit.predict().mean.to_numpy().reshape(2, N)[:, :3], atol=1e-8)


def test_a_row_that_the_data_do_not_determine_is_nan(problem):
    K, _, Y = problem
    X = np.column_stack([np.ones(N), np.arange(N) < 10, np.arange(N) >= 10])
    with pytest.warns(UserWarning, match="dropped"):
        spectrum = flmm.Spectrum.from_covariance(K, X)
    with pm.Model() as model:
        g, e = (cov.diagonal(pm.HalfNormal(name, 3, shape=2)) for name in "ge")
        flmm.MatrixLMM("Y", spectrum=spectrum, Sigma_g=g, Sigma_e=e, observed=Y)
    fit = flmm.find_reml(model, progressbar=False)
    with pytest.warns(UserWarning, match="do not determine"):
        found = fit.predict([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], effects="population")
    assert np.isnan(found.mean).to_list() == [False, True] * 2
    assert np.isnan(found.variance).to_list() == [False, True] * 2


def test_what_predictions_do_not_take_is_refused(problem, fit):
    with pytest.raises(ValueError, match="Y is a MatrixLMM, which takes X_new, K_new, W_new, K_new_new, data, not"):
        fit.predict(problem[1], {"K": IDS})
    with pytest.raises(ValueError, match=r"give exactly one of K_new .* and W_new"):
        fit.predict(problem[1])


@pytest.mark.parametrize("gaps", [0, 2])
def test_one_trait_is_a_fit_of_reml(problem, gaps):
    """Rows in which it was not observed are left out, as a subset of the data leaves them."""
    K, X, Y = problem
    y = Y["fat"].fillna(2.0).to_numpy()
    observed = np.where(np.arange(N) < gaps, np.nan, y)[None]
    with pm.Model() as model:
        g, e = (pm.HalfNormal(name, 3) for name in "ge")
        spectrum = flmm.Spectrum.from_covariance(K, X)
        flmm.MatrixLMM("Y", spectrum=spectrum, Sigma_g=g * np.eye(1), Sigma_e=e * np.eye(1), observed=observed)
    fit = flmm.find_reml(model, progressbar=False)
    left = flmm.Spectrum.from_covariance(K.to_numpy()[gaps:, gaps:], X[gaps:])
    expected = flmm.reml(left, y[gaps:])
    assert_allclose(fit.loglik, expected.loglik, rtol=1e-10)
    assert_allclose(fit.theta, [expected.sigma2_g, expected.sigma2_e], rtol=1e-5, atol=1e-8)
    assert_allclose(fit.objective.log_likelihood([1.3, 0.7]), flmm.log_likelihood(left.rotate(y[gaps:]), 1.3, 0.7))
