"""reml_traits: GEMMA's estimates, one trait as reml has it, gaps, and the edges of the parameter space."""

import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm


@pytest.fixture(scope="module")
def problem(mvlmm):
    K, Y, _ = mvlmm.data()
    return flmm.Spectrum.from_covariance(K, np.ones((len(K), 1))), pd.DataFrame(Y, columns=list(mvlmm.TRAITS))


def lower(rows):
    """The lower triangle row by row, of rows that GEMMA prints as such, or whole."""
    return [value for i, row in enumerate(rows) for value in row[: i + 1]]


@pytest.mark.parametrize("t", [2, 3])
@pytest.mark.parametrize(("method", "suffix"), [("REML", ""), ("ML", "_ml")])
def test_estimates_and_errors_are_those_of_gemma(t, method, suffix, problem, reference):
    spectrum, Y = problem
    theirs = reference.json("mvlmm_gemma.json")[str(t)]
    fit = flmm.reml_traits(spectrum, Y.iloc[:, :t], method=method)
    printed = lower(theirs[f"Vg{suffix}"]) + lower(theirs[f"Ve{suffix}"])
    np.testing.assert_allclose(fit.theta, printed, rtol=2e-5, atol=2e-6)  # of six digits
    if method == "REML":
        np.testing.assert_allclose(fit.beta, np.ravel(theirs["beta"]), rtol=2e-5)
        np.testing.assert_allclose(fit.beta_se, np.ravel(theirs["beta_se"]), rtol=2e-5)


def test_likelihood_is_no_lower_than_at_gemmas_matrices(problem, reference):
    spectrum, Y = problem
    theirs = reference.json("mvlmm_gemma.json")["2"]
    Vg, Ve = (np.array([[v[0][0], v[1][0]], v[1]]) for v in (theirs["Vg"], theirs["Ve"]))
    there = flmm.reml_traits(spectrum, Y[["a", "b"]], fixed={"K": Vg, "residual": Ve})
    assert flmm.reml_traits(spectrum, Y[["a", "b"]]).loglik >= there.loglik - 1e-8


def test_one_trait_is_reml(problem):
    spectrum, Y = problem
    fit, theirs = flmm.reml_traits(spectrum, Y["a"]), flmm.reml(spectrum, Y["a"])
    np.testing.assert_allclose(fit.theta, [theirs.sigma2_g, theirs.sigma2_e], rtol=1e-10)
    np.testing.assert_allclose(fit.loglik, theirs.loglik, rtol=1e-12)
    np.testing.assert_allclose(fit.beta, theirs.beta, rtol=1e-10)


def test_rows_are_brought_into_the_order_of_the_spectrum(mvlmm):
    K, Y, _ = mvlmm.data()
    ids = [f"id{i}" for i in range(len(K))]
    spectrum = flmm.Spectrum.from_covariance(pd.DataFrame(K, ids, ids), np.ones((len(K), 1)))
    Y = pd.DataFrame(Y[:, :2], ids, ["a", "b"])
    fit, shuffled = flmm.reml_traits(spectrum, Y), flmm.reml_traits(spectrum, Y.sample(frac=1, random_state=1))
    np.testing.assert_allclose(shuffled.theta, fit.theta, rtol=1e-10)
    with pytest.raises(ValueError, match="'id0'"):
        flmm.reml_traits(spectrum, Y.rename(index={"id0": "another"}))


def test_gaps_are_integrated_out(problem):
    """Equal to the model of rows of one trait each, which knows nothing of the missing ones."""
    spectrum, Y = problem
    Y = Y[["a", "b"]].iloc[:60].copy()
    rng = np.random.default_rng(4)
    Y = Y.mask(rng.uniform(size=Y.shape) < 0.1)
    Y.iloc[0] = [1.0, 2.0]
    K = spectrum.basis * spectrum.eigvals @ spectrum.basis.T
    K = pd.DataFrame(K[:60, :60] + 0.1 * np.eye(60))
    own = flmm.Spectrum.from_covariance(K.to_numpy(), np.ones((60, 1)))
    fit = flmm.reml_traits(own, Y)
    long = Y.rename_axis("id").reset_index().melt("id", var_name="trait").dropna()
    theirs = flmm.find_reml(
        "value ~ 0 + trait + (0 + trait | id)", long, known={"id": K}, residual="(0 + trait | id)", progressbar=False
    )
    np.testing.assert_allclose(fit.loglik, theirs.loglik, rtol=1e-10)
    np.testing.assert_allclose(fit.theta, theirs.theta, rtol=1e-4, atol=1e-6)


def test_a_correlation_of_one_is_a_result_with_its_label(problem):
    spectrum, _ = problem
    rng = np.random.default_rng(0)
    root = spectrum.basis * np.sqrt(spectrum.eigvals)
    u = 2 * root @ rng.normal(size=root.shape[1])
    Y = np.column_stack([u, -u]) + rng.normal(size=(spectrum.n, 2))
    fit = flmm.reml_traits(spectrum, Y)
    assert fit.converged
    assert fit.boundary == ("K[y0]", "K[y0, y1]", "K[y1]")
    assert "the covariance matrix of K is singular" in fit.message
    g = fit.theta[:3].to_numpy()
    np.testing.assert_allclose(g[1] / np.sqrt(g[0] * g[2]), -1, rtol=1e-9)
    near = fit.objective.state(fit.theta.to_numpy() - [0, 1e-3, 0, 0, 0, 0])
    assert near is None or near.loglik < fit.loglik


def test_the_model_of_a_fit_has_its_estimates(problem):
    spectrum, Y = problem
    fit = flmm.reml_traits(spectrum, Y[["a", "b"]])
    again = flmm.find_reml(fit.model, progressbar=False)
    np.testing.assert_allclose(again.loglik, fit.loglik, rtol=1e-12)
    np.testing.assert_allclose(again.point["chol_K"], fit.point["chol_K"], rtol=1e-5)


def test_what_a_spectrum_cannot_fit_is_refused(problem):
    spectrum, Y = problem
    with pytest.raises(ValueError, match="method must be 'REML' or 'ML', got 'MAP'"):
        flmm.reml_traits(spectrum, Y, method="MAP")
    with pytest.raises(TypeError, match="spectrum must be a Spectrum, got ndarray"):
        flmm.reml_traits(np.eye(200), Y)
    with pytest.raises(ValueError, match="the traits 'y0', 'y1' are collinear"):
        flmm.reml_traits(spectrum, np.column_stack([Y["a"], 3 - 2 * Y["a"]]))
    with pytest.raises(ValueError, match="y has 199 rows but the spectrum has 200"):
        flmm.reml_traits(spectrum, Y.to_numpy()[1:])
