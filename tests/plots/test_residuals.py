"""What is drawn of residuals is what dense matrices say of them."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.stats import beta, norm

import pm_fastlmm as flmm


@pytest.fixture(scope="module")
def dense(sleep):
    """P, Py, σ²_e and y of the sleep study."""
    V = sleep.objective.covariance(sleep.theta.to_numpy())
    X = np.column_stack([np.ones(180), flmm.datasets.sleepstudy()["Days"]])
    inverse = np.linalg.inv(V)
    P = inverse - inverse @ X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
    y = flmm.datasets.sleepstudy()["Reaction"].to_numpy()
    return P, P @ y, sleep.theta.iloc[-1], y


def test_diagnostics_are_those_of_the_dense_projection(sleep, dense):
    P, Py, sigma2_e, y = dense
    found = sleep.diagnostics()
    assert_allclose(found["residual"], sigma2_e * Py, rtol=1e-7, atol=1e-8)
    assert_allclose(found["standardised"], Py / np.sqrt(np.diag(P)), rtol=1e-7, atol=1e-9)
    assert_allclose(found["leverage"], 1 - sigma2_e * np.diag(P), rtol=1e-6)
    assert_allclose(found["fitted"] + found["residual"], y)


def test_diagnostics_of_one_kernel_are_those_of_its_terms():
    data = flmm.datasets.dyestuff()
    spectrum = flmm.Spectrum.from_factor(pd.get_dummies(data["Batch"]).astype(float), np.ones((30, 1)))
    fit = flmm.reml(spectrum, data["Yield"])
    terms = flmm.find_reml("Yield ~ 1 + (1 | Batch)", data, progressbar=False)
    assert_allclose(fit.diagnostics(data["Yield"]), terms.diagnostics(), rtol=1e-5)
    two = flmm.reml(spectrum, np.column_stack([data["Yield"]] * 2))
    with pytest.raises(ValueError, match="diagnostics are those of one response"):
        two.diagnostics()


def points(ax):
    return np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections if len(c.get_offsets()) > 1])


def test_the_four_figures_show_the_same_observations(sleep, dense):
    P, Py, sigma2_e, y = dense
    z, residual = Py / np.sqrt(np.diag(P)), sigma2_e * Py
    first, qq, scale, leverage = flmm.plots.plot_diagnostics(sleep).ravel()
    assert_allclose(points(first), np.column_stack([y - residual, residual]), atol=1e-6)
    assert_allclose(points(scale), np.column_stack([y - residual, np.sqrt(np.abs(z))]), atol=1e-6)
    assert_allclose(points(leverage), np.column_stack([1 - sigma2_e * np.diag(P), z]), atol=1e-6)
    assert_allclose(points(qq)[:, 1], np.sort(z), atol=1e-8)
    named = np.argsort(-np.abs(z))[:3]
    assert [text.get_text() for text in first.texts] == [str(row) for row in named]
    draws = np.sqrt(np.abs(np.random.default_rng(1).normal(size=400_000)))
    assert_allclose(scale.lines[0].get_ydata(), draws.mean(), atol=2e-3)


def test_the_line_joins_the_means_of_tenths(sleep):
    ax = flmm.plots.plot_residuals(sleep)
    table = sleep.diagnostics().sort_values("fitted")
    tenths = table.groupby(np.repeat(np.arange(10), 18))[["fitted", "residual"]].mean()
    assert_allclose(np.column_stack(ax.lines[1].get_data()), tenths, rtol=1e-9)


def test_the_envelope_of_quantiles_is_that_of_ordered_normal_variables(sleep):
    ax = flmm.plots.plot_residual_qq(sleep, level=0.9)
    middle = ax.lines[0].get_xdata()
    assert_allclose(middle, norm.ppf(beta(np.arange(1, 181), np.arange(180, 0, -1)).median()), rtol=1e-9)
    band = ax.collections[0].get_paths()[0].vertices
    ordered = np.sort(np.random.default_rng(1).normal(size=(20_000, 180)), axis=1)
    for place in (0, 50, 179):
        ends = np.sort(np.unique(band[np.isclose(band[:, 0], middle[place])][:, 1]))
        assert_allclose(ends, np.quantile(ordered[:, place], [0.05, 0.95]), atol=0.03)


def test_observations_outside_their_interval_are_told_apart(sleep):
    ax = flmm.plots.plot_loo(sleep, level=0.9)
    loo = sleep.loo()
    outside = (loo["pit"] < 0.05) | (loo["pit"] > 0.95)
    drawn = np.asarray(ax.collections[2].get_offsets())
    assert_allclose(drawn, loo.loc[outside, ["mean", "y"]])
    assert ax.get_legend().get_texts()[2].get_text() == f"outside ({outside.mean():.1%})"
