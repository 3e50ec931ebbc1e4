"""Hostile inputs end in a result whose promises hold or in a reasoned refusal; what they found once, by name."""

import importlib
import math
from collections import deque

import numpy as np
import pytest
from fuzz import compositions, formulas, hostile, kernels, pedigrees, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm.spectrum import columns


@pytest.fixture(scope="module")
def recipes():
    """Recipes that hypothesis can make smaller: simple kinds come first."""
    exponents = st.sampled_from([0, -1, 1, -4, 5, -9, 10, -12, 12, -60, 60])
    return st.builds(
        hostile.Recipe,
        seed=st.integers(1, 49),  # not a multiple of 50: no graph is compiled
        n=st.integers(1, 30),
        kernel=st.sampled_from(hostile.KERNELS),
        design=st.sampled_from(hostile.DESIGNS),
        response=st.sampled_from(hostile.RESPONSES),
        factor=st.booleans(),
        dtype=st.sampled_from(["float64", "float32", "int64", "bool"]),
        layout=st.sampled_from(hostile.LAYOUTS),
        scale_y=exponents,
        scale_K=exponents,
        scale_X=exponents,
    )


def test_hostile_inputs_keep_every_promise(recipes):
    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(recipes)
    def run(recipe):
        assert kernels.check_problem(hostile.build(recipe))

    run()


def test_the_compiled_engines_keep_their_promises():
    outcomes = [outcome for seed in (0, 50) for outcome in kernels.check(seed)]
    assert any(outcome.startswith("FastLMM") for outcome in outcomes)
    assert any(outcome.startswith("StructuredLMM") for outcome in outcomes)


def test_pedigrees_trees_and_genotypes_are_what_a_person_reads():
    outcomes = [outcome for seed in range(90) for outcome in pedigrees.check(seed)]
    for kind in ("pedigree, code", "pedigree refused", "tree, root", "tree refused", "scan, missing", "scan refused"):
        assert any(outcome.startswith(kind) for outcome in outcomes), kind


def test_an_ancestor_of_everybody_is_noticed(monkeypatch):
    module = importlib.import_module("pm_fastlmm.covariance.parentage")
    monkeypatch.setattr(module, "_is_code", lambda label, codes: False)
    monkeypatch.setattr(module, "_refuse_mistaken", lambda added, parents, spelling: None)
    with pytest.raises(AssertionError):
        [pedigrees.check(seed) for seed in range(0, 90, 3)]


def test_formulas_have_the_spaces_of_their_terms():
    pytest.importorskip("pyarrow")
    outcomes = [outcome for seed in range(40) for outcome in formulas.check(seed)]
    assert outcomes.count("the space of its terms") > 35


def test_another_meaning_of_a_formula_is_noticed(monkeypatch):
    monkeypatch.setattr(formulas, "columns_of", lambda terms, atoms, intercept, rows: np.ones((len(rows), 1)))
    with pytest.raises(AssertionError, match="from the space of its terms"):
        formulas.check(2)


def test_compositions_of_structures_are_those_of_their_definitions():
    outcomes = [outcome for seed in range(60) for outcome in compositions.check(seed)]
    assert {"likelihood from rows", "likelihood from inner products"} <= set(outcomes)
    assert any(outcome.startswith("refused: ar# needs equally spaced") for outcome in outcomes)
    assert any("sum of kroneckers" in outcome for outcome in outcomes)


def test_a_broken_promise_is_noticed(monkeypatch):
    module = importlib.import_module("pm_fastlmm.kernel.likelihood.information")
    monkeypatch.setattr(module, "standard_error", lambda gradient, observed: -np.ones(gradient.shape[:-1]))
    problem = hostile.build(hostile.Recipe(1, 20, "full", "intercept", "model", False, "float64", "C", 0, 0, 0))
    with pytest.raises(AssertionError, match=r"the standard error of \w+ is -1"):
        kernels.check_problem(problem)


def test_new_rows_are_predicted_exactly_or_are_nan():
    outcomes = {outcome for seed in range(60) for outcome in rows.check(seed)}
    expected = {f"arrays: {end}" for end in ("all known", "some NaN")} | {"contrast: estimated", "contrast: refused"}
    assert outcomes > expected
    assert any(outcome.startswith("draws, ") for outcome in outcomes)
    assert any(outcome.startswith("table, terms: ") for outcome in outcomes)


@pytest.mark.parametrize("answer", [False, True])
def test_a_row_that_is_taken_for_what_it_is_not_is_noticed(monkeypatch, answer):
    def departs(self, X, R, usual=1.0):
        return np.full((len(X), len(self.left)), answer)

    monkeypatch.setattr(columns.DesignColumns, "departs", departs)
    with pytest.raises(AssertionError):
        deque(map(rows.check, range(12)), maxlen=0)


# ---------------------------------------------------------------- what was found


def test_ml_of_a_delta_below_the_rounding_of_the_corner_is_that_of_the_closed_form():
    # balanced groups: σ²_e = SSW/(n - k) and σ²_e + mσ²_g = SSB/k, however small SSW is; S₀ is singular here, since the
    # intercept is a sum of the columns of W
    k, m = 5, 6
    rng = np.random.default_rng(8)
    W, X = np.repeat(np.eye(k), m, axis=0), np.ones((k * m, 1))
    means = W @ rng.normal(size=k)
    within = rng.normal(size=k * m)
    within -= W @ (W.T @ within) / m
    for size in (1e-3, 1e-8, 1e-10):
        y = means + size * within
        ssw, ssb = size**2 * (within**2).sum(), ((means - means.mean()) ** 2).sum()
        fit = flmm.reml(flmm.Spectrum.from_factor(W, X), y, method="ML")
        assert fit.boundary == ()
        assert_allclose(fit.sigma2_e, ssw / (k * (m - 1)), rtol=1e-5)
        assert_allclose(fit.sigma2_g, (ssb / k - fit.sigma2_e) / m, rtol=1e-9)
        terms = k * (m - 1) * math.log(fit.sigma2_e) + k * math.log(ssb / k) + k * m * (1 + math.log(2 * math.pi))
        assert_allclose(fit.loglik, -terms / 2, rtol=1e-6)
        rotated, at = fit.rotated, (fit.sigma2_g, fit.sigma2_e)
        assert_allclose(flmm.log_likelihood(rotated, *at, method="ML"), fit.loglik, rtol=1e-9)


def test_the_posterior_of_beta_without_fixed_effects_is_empty():
    spectrum = flmm.Spectrum.from_factor(np.repeat(np.eye(3), 4, axis=0))
    y = np.random.default_rng(1).normal(size=(12, 2))
    mean, cov = flmm.exact_posterior(spectrum, y).beta()
    assert (mean.shape, cov.shape) == ((2, 0), (2, 0, 0))
    mean, cov = flmm.exact_posterior(spectrum, y[:, 0]).beta()
    assert (mean.shape, cov.shape) == ((0,), (0, 0))


@pytest.mark.parametrize("seed", [51, 93, 145])
def test_a_posterior_at_one_has_its_mean_there_and_not_beyond(seed):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(38, 4)) * 10.0 ** np.arange(4)
    posterior = flmm.exact_posterior(flmm.Spectrum.from_factor(W), W @ rng.normal(size=4) + 1e-9 * rng.normal(size=38))
    assert 0.999 < posterior.mean("h2") <= 1
    assert_allclose(posterior.weights.sum(), 1, rtol=1e-15)


@pytest.mark.parametrize("delta", ["each", "null"])
@pytest.mark.parametrize("test", ["wald", "lrt"])
def test_a_candidate_that_is_a_multiple_of_y_has_p_zero_whatever_rounding_leaves(test, delta):
    W = np.repeat(np.eye(10), 3, axis=0)
    for y in (np.full(30, 1.7e12), np.r_[1.0, np.zeros(29)], W @ np.arange(10.0) + 0.1):
        candidates = np.column_stack([3 * y, y / 7, np.sqrt(2) * y])
        result = flmm.scan(flmm.Spectrum.from_factor(W[:, :1]), y, candidates, test=test, delta=delta)
        assert_allclose(result.beta, [1 / 3, 7, 1 / math.sqrt(2)], rtol=1e-12)
        assert (result.se >= 0).all()
        assert_allclose(result.p_value, 0, atol=1e-100)


def test_a_scan_with_one_degree_of_freedom_is_refused():
    spectrum = flmm.Spectrum.from_factor([[1.0], [2], [4]], np.column_stack([np.ones(3), [0.0, 1, 3]]))
    with pytest.raises(ValueError, match="3 observations and 2 columns of X leave one degree of freedom"):
        flmm.scan(spectrum, [1.0, 2, 0], np.arange(3.0) ** 2)


@pytest.mark.parametrize("delta", ["each", "null"])
def test_a_candidate_that_leaves_little_of_y_keeps_the_digits_of_its_error(delta):
    # orthonormal directions with variances 1e-20 … 1, so that a difference of quadratic forms has no digits left
    rng = np.random.default_rng(6)
    eigvals = np.array([1e-20, 1.0, 1.3, 2.0, 3.0])
    spectrum = flmm.Spectrum.from_factor(np.diag(np.sqrt(eigvals)))
    y = np.r_[1.0, rng.normal(size=4)]
    g = np.r_[1.0, 0.1 * rng.normal(size=4)]
    result = flmm.scan(spectrum, y, g[:, None], test="lrt", delta=delta, progressbar=False)
    d = float(result.delta[0])
    w = 1 / (eigvals + d)
    alpha = (w * g) @ y / ((w * g) @ g)
    assert_allclose(result.beta[0], alpha, rtol=1e-9)
    assert_allclose(result.se[0], math.sqrt((w * (y - alpha * g) ** 2).sum() / 5 / ((w * g) @ g)), rtol=1e-6)
