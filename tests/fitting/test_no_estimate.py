"""Data that have no estimate are refused with the reason, and what has several is labelled."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

N = 40
RNG = np.random.default_rng(1)
GROUP = np.resize(list("abcdefgh"), N)
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
Y = X @ [1, 2] + np.resize(RNG.normal(size=8), N) + RNG.normal(size=N)
EXPLAINED = r"X explains the columns of odd, or they are zero: the data say nothing about their variance"


def terms_model(y, *factors, X=X):
    """One variance for each factor, the first called "odd"."""
    with pm.Model() as model:
        terms = [
            flmm.Term(factor, cov.scalar(pm.HalfNormal(f"v{k}", 2.0)), name=name)
            for k, (name, factor) in enumerate(zip(("odd", "group"), factors, strict=False))
        ]
        flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=pm.HalfNormal("v_e", 2.0), observed=y)
    return model


def dense_model(y, V=None):
    with pm.Model() as model:
        v, v_e = pm.HalfNormal("v", 2.0), pm.HalfNormal("v_e", 2.0)
        kernel = (GROUP[:, None] == GROUP).astype(float) if V is None else V
        flmm.DenseLMM("y", V=v * kernel + v_e * np.eye(N), X=X, observed=y)
    return model


@pytest.mark.parametrize("factor", [["one level"] * N, np.zeros((N, 3))])
def test_a_term_that_X_explains_is_named(fit, factor):
    with pytest.raises(ValueError, match=EXPLAINED):
        fit(terms_model(Y, factor, GROUP))
    with pytest.raises(ValueError, match=r"the model has no estimate: not identifiable: orthogonal to X, K is zero"):
        fit(terms_model(Y, factor))


def test_a_column_within_a_level_that_X_explains_is_named(fit):
    columns = pd.DataFrame({"one": 1.0, "nothing": np.zeros(N)})
    with pm.Model() as model:
        v = pm.HalfNormal("v", 2.0, shape=2)
        term = flmm.Term(GROUP, cov.diagonal(v), columns=columns, name="g")
        flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=pm.HalfNormal("v_e", 2.0), observed=Y)
    with pytest.raises(ValueError, match=r"X explains the columns of g\[nothing\], or they are zero"):
        fit(model)


def test_a_level_for_each_row_is_the_residual(fit):
    with pytest.raises(ValueError, match="K is a multiple of the identity, so only the sum of the two variances"):
        fit(terms_model(Y, np.arange(N)))


@pytest.mark.parametrize(("odd", "apart"), [(np.arange(N), ("odd", "residual")), (GROUP, ("odd", "group"))])
def test_variances_of_which_only_a_sum_has_information_are_named(fit, odd, apart):
    expected, found = fit(terms_model(Y, GROUP)), fit(terms_model(Y, odd, GROUP))
    assert_allclose(found.loglik, expected.loglik, rtol=0, atol=1e-8)
    assert found.standard_errors().isna().any()
    assert "only combinations of them have information: standard errors are undefined (NaN)" in found.message
    assert all(name in found.message for name in apart)


@pytest.mark.parametrize("y", [np.full(N, 2.0), X @ [1.0, 2.0], np.zeros(N)])
def test_a_response_that_X_explains_is_refused(fit, y):
    for model in (terms_model(y, np.resize(list("uvw"), N), GROUP), dense_model(y), terms_model(y, GROUP)):
        with pytest.raises(ValueError, match=r"X explains y exactly, no residual is left.*Check for a constant y"):
            fit(model)


def test_a_response_beyond_floating_point_is_refused(fit):
    for c in (1e-150, 1e150):
        with pytest.raises(ValueError, match="whose squares leave the range of floating point: choose another unit"):
            fit(dense_model(c * Y))


def test_a_covariance_must_be_symmetric(fit):
    with pytest.raises(ValueError, match="V must be symmetric, but differs from its transpose by up to"):
        fit(dense_model(Y, np.triu(np.ones((N, N)))))
    with pytest.raises(ValueError, match="V must be symmetric"):
        flmm.reml_covariance(lambda t: t[0] * np.triu(np.ones((N, N))), Y, X, start=[1.0], progressbar=False)


def test_a_term_called_as_the_residual_is_refused():
    data = flmm.datasets.sleepstudy().rename(columns={"Subject": "residual"})
    with pytest.raises(ValueError, match="a term is called 'residual', the name of the residual among the variances"):
        flmm.lmm_model("Reaction ~ Days + (1 | residual)", data)
