"""A known covariance that is negative along fixed effects alone is one everywhere; another is refused, or cut."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.base.across import root_across

Q, RECORDS = 30, 80
PEOPLE = [f"p{i:02d}" for i in range(Q)]


def _frame(K):
    return pd.DataFrame((K + K.T) / 2, PEOPLE, PEOPLE)


@pytest.fixture(scope="module")
def K():
    """A covariance, positive along the mean."""
    W = np.random.default_rng(4).normal(size=(Q, 2 * Q))
    return _frame(W @ W.T / (2 * Q) + 0.2)


@pytest.fixture(scope="module")
def along_mean(K):
    """It differs by what lies along the mean, -0.4 · 11ᵀ, and is no covariance any more."""
    shifted = K - 0.4
    assert np.linalg.eigvalsh(shifted)[:2].round(3).tolist()[0] < -1 < 0 < np.linalg.eigvalsh(shifted)[1]
    return shifted


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(5)
    first = rng.permutation(PEOPLE)
    data = pd.DataFrame({"id": [*first, *rng.choice(PEOPLE, RECORDS - Q)], "x": rng.normal(size=RECORDS)})
    effect = pd.Series(rng.normal(size=Q), PEOPLE)
    data["y"] = data["id"].map(effect) + data["x"] + rng.normal(size=RECORDS)
    return data


def by_formula(K, data, **options):
    fit = flmm.find_reml("y ~ x + (1 | id)", data, known={"id": K}, progressbar=False, **options)
    return fit.loglik, *fit.theta, fit.blup()["id"]


def by_model(K, data, **options):
    model = flmm.lmm_model("y ~ x + (1 | id)", data, known={"id": K}, **options)
    fit = flmm.find_reml(model, progressbar=False)
    return fit.loglik, *fit.theta, fit.blup()["id"]


def by_design(K, data, **options):
    design = flmm.Design.from_formula("y ~ x", data, K=K, individual="id")
    fit = flmm.reml(design.spectrum(**options), design.y)
    return fit.loglik, fit.sigma2_g, fit.sigma2_e, fit.blup()


def by_kernel_model(K, data, **options):
    model = flmm.kernel_model("y ~ x", K=K, data=data, individual="id", **options)
    fit = flmm.find_reml(model, progressbar=False)
    (effects,) = fit.blup().values()
    return fit.loglik, *fit.theta, effects


WAYS = [by_formula, by_model, by_design, by_kernel_model]


def assert_same(found, expected, rtol=1e-7):
    assert_allclose(np.array(found[:3], dtype=float), np.array(expected[:3], dtype=float), rtol=rtol)
    u, v = (part[3].loc[PEOPLE] for part in (found, expected))
    assert_allclose(u - u.mean(), v - v.mean(), atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_what_lies_along_the_mean_changes_nothing(way, K, along_mean, table):
    assert_same(way(along_mean, table), way(K, table), rtol=2e-6)


@pytest.mark.parametrize("way", WAYS)
def test_relatives_without_records_are_predicted_as_with_the_covariance(way, K, along_mean, table):
    part = table[~table["id"].isin(PEOPLE[:5])]
    found, expected = way(along_mean, part), way(K, part)
    own = PEOPLE[5:]
    assert_allclose(np.array(found[:3], dtype=float), np.array(expected[:3], dtype=float), rtol=2e-6)
    assert_allclose(found[3][own] - found[3][own].mean(), expected[3][own] - expected[3][own].mean(), atol=1e-5)


def test_one_record_each_is_the_spectrum_of_the_matrix(along_mean, table):
    data = table.iloc[:Q].set_index("id", drop=False)
    plain = flmm.reml(flmm.Design.from_formula("y ~ x", data, K=along_mean).spectrum(), data["y"])
    repeated = flmm.reml(flmm.Design.from_formula("y ~ x", data, K=along_mean, individual="id").spectrum(), data["y"])
    for name in ("loglik", "sigma2_g", "sigma2_e", "h2", "pve"):
        assert_allclose(getattr(repeated, name), getattr(plain, name), rtol=1e-7)


def test_a_covariate_of_the_levels_and_slopes_are_fixed_effects_too(K, table):
    """K is negative along a covariate that all records of a person share, and along the mean of slopes."""
    age = pd.Series(np.random.default_rng(6).normal(size=Q), PEOPLE)
    data = table.assign(age=table["id"].map(age).to_numpy())
    one = np.ones((Q, 1))
    F = np.linalg.qr(np.column_stack([one, age]))[0]
    A = np.array([[-12.0, 1.0], [1.0, -8.0]])
    negative = _frame(K.to_numpy() + F @ A @ F.T)
    fits = [
        flmm.find_reml("y ~ x + age + (1 | id)", data, known={"id": each}, progressbar=False) for each in (negative, K)
    ]
    assert_allclose(fits[0].theta, fits[1].theta, rtol=2e-6)
    with pytest.raises(ValueError, match="K is not positive semi-definite"):
        flmm.find_reml("y ~ x + (1 | id)", data, known={"id": negative}, progressbar=False)
    slopes = "y ~ x + (x || id)"
    fits = [flmm.find_reml(slopes, data, known={"id": each}, progressbar=False) for each in (K - 0.4, K)]
    assert_allclose(fits[0].theta, fits[1].theta, rtol=1e-5, atol=1e-8)
    with pytest.raises(
        ValueError, match="K is not positive semi-definite"
    ):  # x is no fixed effect, its mean slope none
        flmm.find_reml("y ~ 1 + (x || id)", data, known={"id": K - 0.4}, progressbar=False)


# ---------------------------------------------------------------- negative across X


@pytest.fixture(scope="module")
def across(K):
    """Two eigenvalues across the mean are negative, as where each pair has its own number of markers."""
    C = np.eye(Q) - 1 / Q
    values, U = np.linalg.eigh(C @ K.to_numpy() @ C)
    changed = values.copy()
    changed[1:3] = -0.02, -0.01
    cut = np.maximum(changed, 0)
    along = 0.2 * np.ones((Q, Q))
    return _frame(U * changed @ U.T + along), _frame(U * cut @ U.T + along)


@pytest.mark.parametrize("way", WAYS)
def test_others_are_refused_with_their_size_and_the_remedies(way, across, table):
    message = (
        r"smallest eigenvalue is -0\.02, .* divided by its own number of markers \(plink2 and GCTA .* "
        r"--make-rel meanimpute, .* or give negative='zero', which cuts 2 negative eigenvalues, 0\.\d+ % of all"
    )
    with pytest.raises(ValueError, match=message):
        way(across[0], table)
    with pytest.raises(ValueError, match="negative must be 'error' or 'zero', got 'cut'"):
        way(across[0], table, negative="cut")


@pytest.mark.parametrize("way", WAYS)
def test_others_are_cut_where_that_is_asked_for(way, across, table):
    assert_same(way(across[0], table, negative="zero"), way(across[1], table), rtol=1e-6)


def test_a_structure_and_a_scan_cut_them_too(across, table):
    negative, cut = across
    values, U = np.linalg.eigh(negative)
    assert_allclose(cov.known(negative, negative="zero").dense(), U * np.maximum(values, 0) @ U.T, atol=1e-12)
    with pytest.raises(ValueError, match="give negative='zero', which cuts 2 negative"):
        cov.known(negative)
    rng = np.random.default_rng(8)
    counts = pd.DataFrame(rng.binomial(2, 0.4, (Q, 12)), PEOPLE, [f"rs{j}" for j in range(12)])
    data = table.iloc[:Q].set_index("id")
    found = flmm.genome_scan("y ~ 1", data, counts, K=negative, negative="zero", progressbar=False)
    expected = flmm.genome_scan("y ~ 1", data, counts, K=cut, progressbar=False)
    assert_allclose(found["p_value"], expected["p_value"], rtol=1e-8)
    with pytest.raises(ValueError, match="give negative='zero', which cuts 2 negative"):
        flmm.genome_scan("y ~ 1", data, counts, K=negative, progressbar=False)


def test_it_belongs_to_a_matrix_that_is_given(K, table):
    design = flmm.Design.from_formula("y ~ x", table, K=K, individual="id")
    with pytest.raises(ValueError, match="individual, weights or negative: it holds them already"):
        flmm.kernel_model(design.y, spectrum=design.spectrum(), negative="zero")
    with pytest.raises(ValueError, match=r"data, known, .* negative, .* belong to a formula"):
        flmm.find_reml(flmm.kernel_model(design.y, spectrum=design.spectrum()), negative="zero")


def test_a_matrix_whose_levels_are_all_fixed_effects_is_none_of_them(along_mean, table):
    """Nothing of K is left across X, negative or not."""
    root = root_across(along_mean.to_numpy(), np.eye(Q), "error")
    assert np.linalg.eigvalsh(root @ root.T)[0] > -1e-12
    for known in (along_mean, along_mean + 0.4):
        with pytest.raises(ValueError, match=r"no column of Z|explained by X|not identifiable|no information"):
            flmm.find_reml("y ~ id + (1 | id)", table, known={"id": known}, progressbar=False)
