"""Data that a node cannot have: missing after `pm.set_data`, masked, or a part; and what `sample` cannot return."""

import numpy as np
import pymc as pm
import pytest

import pm_fastlmm as flmm

N = 12
GROUP, DAY = np.repeat(list("abcd"), 3), np.tile(list("xyz"), 4)
Y = np.random.default_rng(2).normal(size=N) + 5
X = np.ones((N, 1))
W = flmm.covariance.incidence(GROUP).Z.toarray()


def spectral(observed, **kwargs):
    spectrum = flmm.Spectrum.from_factor(W, X)
    flmm.FastLMM("y", spectrum=spectrum, sigma2_g=pm.HalfNormal("g"), sigma2_e=1.0, observed=observed, **kwargs)


def one_term(observed, **kwargs):
    term = flmm.Term(GROUP, flmm.covariance.scalar(pm.HalfNormal("g")), name="group")
    flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=1.0, observed=observed, **kwargs)


def two_terms(observed, **kwargs):
    group, day = (flmm.covariance.scalar(pm.HalfNormal(name)) for name in "gd")
    terms = [flmm.Term(GROUP, group, name="group"), flmm.Term(DAY, day, name="day")]
    flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=1.0, observed=observed, **kwargs)


def dense(observed, **kwargs):
    flmm.DenseLMM("y", X=X, V=pm.HalfNormal("g") * np.eye(N), observed=observed, **kwargs)


def with_lengthscale(observed, **kwargs):
    x = np.linspace(0, 1, N)
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(x, lengthscale=(0.2, 1), X=X, progressbar=False)
    variances = {"sigma2_g": pm.HalfNormal("g"), "sigma2_e": 1.0}
    flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=0.5, observed=observed, **variances, **kwargs)


every_node = pytest.mark.parametrize("node", [spectral, one_term, two_terms, dense, with_lengthscale])
MISSING = r"the data of y has 1 values that are NaN or infinite, the first at 3: pm\.set_data .*kernel_model"
USES = {
    "sample": lambda model: flmm.sample(5, tune=5, chains=1, model=model, progressbar=False, quiet=True),
    "find_reml": lambda model: flmm.find_reml(model, progressbar=False),
}


@every_node
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_values_that_were_set_later_are_named(node, use, value):
    with pm.Model() as model:
        node(pm.Data("data", Y))
        pm.set_data({"data": np.where(np.arange(N) == 3, value, Y)})
    with pytest.raises(ValueError, match=MISSING):
        USES[use](model)


@every_node
def test_another_number_of_values_that_were_set_later_is_named(node):
    with pm.Model() as model:
        node(pm.Data("data", Y))
        pm.set_data({"data": Y[:5]})
    with pytest.raises(ValueError, match=r"(set to 5 values.*covariance is of 12: build the model anew|y has 5 rows)"):
        USES["find_reml"](model)


@every_node
def test_masked_values_are_missing_ones(node):
    masked = np.ma.array(Y, mask=np.arange(N) == 3)
    with pm.Model(), pytest.raises(ValueError, match=r"observed has 1 values that are NaN.*first at 3.*subset\(rows\)"):
        node(masked)


@every_node
def test_a_part_of_dependent_data_is_refused(node):
    with pm.Model(), pytest.raises(ValueError, match=r"total_size= .*as if its observations were independent.*all of"):
        node(Y, total_size=100)


def test_a_multitrace_is_refused_before_sampling():
    with pm.Model() as model:
        spectral(Y)
    with pytest.raises(ValueError, match=r"leave return_inferencedata=False out, or call pm\.sample"):
        flmm.sample(model=model, return_inferencedata=False)
