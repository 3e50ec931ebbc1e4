"""The bivariate animal model in two engines: rows rotated by a spectrum, and mixed-model equations of a long table."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

N, TRAITS = 30, ["milk", "fat"]
IDS = [f"cow {i:02d}" for i in range(N)]


def animals(missing=True, seed=13):
    """K of half sibs, a covariate, and Y of two traits, some of whose entries were not observed."""
    rng = np.random.default_rng(seed)
    sire = np.arange(N) % 6
    K = pd.DataFrame(0.75 * np.eye(N) + 0.25 * np.equal.outer(sire, sire), IDS, IDS)
    age = rng.normal(size=N)
    root = np.linalg.cholesky(K)
    u = root @ rng.normal(size=(N, 2)) @ [[1.5, 0.7], [0.0, 1.0]]
    Y = 2 + np.outer(age, [0.5, -1.0]) + u + rng.normal(size=(N, 2)) @ [[0.8, 0.2], [0.0, 0.7]]
    if missing:
        Y[[2, 11, 17], [0, 1, 1]] = np.nan
    return K, age, pd.DataFrame(Y, IDS, TRAITS)


@pytest.fixture(scope="module", params=["complete", "missing"])
def fits(request):
    K, age, Y = animals(request.param == "missing")
    X = pd.DataFrame({"one": 1.0, "age": age}, index=IDS)
    spectrum = flmm.Spectrum.from_covariance(K, X)
    with pm.Model() as wide:
        g, e = (
            (root := pm.LKJCholeskyCov(name, n=2, eta=2, sd_dist=pm.HalfNormal.dist(2, shape=2))[0]) @ root.T
            for name in "ge"
        )
        flmm.MatrixLMM("Y", spectrum=spectrum, Sigma_g=g, Sigma_e=e, observed=Y)
    table = Y.assign(age=age, animal=IDS, record=IDS).melt(
        ["age", "animal", "record"], var_name="trait", value_name="y"
    )
    table["trait"] = pd.Categorical(table["trait"], TRAITS)
    long = flmm.find_reml(
        "y ~ 0 + trait + trait:age + (0 + trait | animal)",
        table.dropna(),
        known={"animal": K},
        residual="(0 + trait | record)",
        progressbar=False,
    )
    return flmm.find_reml(wide, progressbar=False), long, table.dropna()


def test_likelihoods_are_the_same_at_any_point(fits):
    """That of the long table has the same -½log|XᵀX| where all was observed: rows of X are the same."""
    wide, long, _ = fits
    for theta in ([2.0, 0.5, 1.0, 0.6, 0.1, 0.5], [0.3, -0.2, 0.4, 1.5, 0.6, 0.9]):
        a, b = (fit.objective.log_likelihood(np.array(theta)) for fit in (wide, long))
        assert_allclose(a, b, rtol=1e-10)
        for what in ("score", "average_information"):
            a, b = (getattr(fit.objective, what)(np.array(theta)) for fit in (wide, long))
            assert_allclose(a, b, rtol=1e-7, atol=1e-8)


def test_estimates_and_effects_are_the_same(fits):
    wide, long, table = fits
    assert wide.converged
    assert long.converged
    assert_allclose(wide.loglik, long.loglik, rtol=1e-9)
    assert_allclose(wide.theta, long.theta, rtol=2e-4, atol=2e-4)
    at = long.theta.to_numpy()
    assert_allclose(wide.objective.log_likelihood(at), long.loglik, rtol=1e-10)
    blup, other = wide.blup("K", theta=at), long.blup("animal")
    assert_allclose(blup.loc[IDS], other.loc[IDS], atol=1e-8)
    assert_allclose(wide.pev("K", theta=at).loc[IDS], long.pev("animal").loc[IDS], atol=1e-8)
    fitted = wide.fitted(theta=at)
    assert_allclose(fitted.to_numpy(), long.fitted().to_numpy(), atol=1e-8)
    assert list(fitted.index) == list(zip(table["trait"], table["animal"], strict=True))


def test_coefficients_are_the_same(fits):
    wide, long, _ = fits
    at = long.theta.to_numpy()
    beta, cov_beta = wide.objective.coefficients(wide.objective.state(at))
    names = [name.replace("trait[", "").replace("]", "") for name in long.beta.index]
    order = [0, 2, 1, 3]  # the intercepts come first in the formula
    assert [names[i].split(":")[0] for i in order] == ["milk", "milk", "fat", "fat"]
    assert_allclose(beta, long.beta.to_numpy()[order], atol=1e-8)
    assert_allclose(cov_beta, np.asarray(long.beta_cov)[np.ix_(order, order)], atol=1e-8)


def test_tests_of_coefficients_are_the_same(fits):
    """Kenward and Roger's need the derivatives of V, in which all records count."""
    wide, long, _ = fits
    for df in ("satterthwaite", "kenward-roger"):
        a, b = (fit.coefficients(df).to_numpy(dtype=float) for fit in (wide, long))
        assert_allclose(a, b[[0, 2, 1, 3]], rtol=2e-3, atol=1e-4)


def test_a_term_with_the_same_structures_has_the_same_density(evaluate):
    """Two nodes of one pair of matrices, written by hand."""
    K, age, Y = animals()
    X = np.column_stack([np.ones(N), age])
    seen = Y.notna().to_numpy().T
    trait, row = np.nonzero(seen)
    indicators = pd.DataFrame(np.eye(2)[trait], columns=TRAITS)
    with pm.Model() as model:
        g, e = (cov.unstructured(np.array(values)) for values in ([[2.0, 0.5], [0.5, 1.0]], [[0.6, 0.1], [0.1, 0.5]]))
        flmm.MatrixLMM("wide", spectrum=flmm.Spectrum.from_covariance(K, X), Sigma_g=g, Sigma_e=e, observed=Y)
        ids = np.array(IDS)[row]
        term = flmm.Term(
            ids, cov.unstructured(np.array([[2.0, 0.5], [0.5, 1.0]])), columns=indicators, across=cov.known(K)
        )
        residual = flmm.Term(ids, e, columns=indicators, name="record")
        y = Y.to_numpy().T[seen]
        flmm.StructuredLMM("long", X=np.kron(np.eye(2), X)[seen.ravel()], terms=[term], residual=residual, observed=y)
    wide, long = evaluate([model.logp(vars=[model[name]]) for name in ("wide", "long")])
    assert_allclose(wide, long, rtol=1e-10)
