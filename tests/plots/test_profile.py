"""The profile that is drawn is that of the likelihood maximised over the other parameters."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar
from scipy.stats import chi2, multivariate_normal

import pm_fastlmm as flmm


def dense_profile(batch):
    """Max over σ²_e of the restricted log-likelihood of dyestuff, from contrasts, at a variance of batches."""
    data = flmm.datasets.dyestuff()
    Z = pd.get_dummies(data["Batch"]).to_numpy(dtype=float)
    contrasts = np.linalg.qr(np.column_stack([np.ones(30), np.eye(30)[:, :29]]))[0][:, 1:]
    y, K = contrasts.T @ data["Yield"].to_numpy(), contrasts.T @ Z @ Z.T @ contrasts

    def deviance(log_e):
        return -2 * multivariate_normal(cov=batch * K + np.exp(log_e) * np.eye(29)).logpdf(y)

    return -minimize_scalar(deviance, bounds=(5, 11), method="bounded", options={"xatol": 1e-8}).fun / 2


def test_the_curve_of_a_variance_is_the_maximum_over_the_other():
    fit = flmm.find_reml("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False)
    ax = flmm.plots.plot_profile(fit, "Batch", points=9)
    values, height = ax.lines[0].get_data()
    best = dense_profile(fit.theta["Batch"])
    assert_allclose(height, [np.exp(dense_profile(v) - best) for v in values], rtol=1e-6)
    assert fit.theta["Batch"] in values
    assert_allclose(ax.lines[1].get_ydata(), np.exp(-chi2(1).ppf(0.95) / 2))
    assert_allclose(ax.lines[2].get_xdata(), fit.interval("Batch"))


def test_the_interval_of_one_of_several_variances_ends_where_the_curve_meets_the_threshold(penicillin):
    ax = flmm.plots.plot_profile(penicillin, "sample", level=0.8, points=61)
    (values, height), cut = ax.lines[0].get_data(), ax.lines[1].get_ydata()[0]
    low, high = ax.lines[2].get_xdata()
    inside = values[height >= cut]
    step = values[1] - values[0]
    assert_allclose([inside.min(), inside.max()], [low, high], atol=step)
    assert_allclose(np.interp([low, high], values, height), cut, atol=0.01)


def test_h2_has_its_posterior_beside_it():
    data = flmm.datasets.dyestuff()
    batch = pd.get_dummies(data["Batch"]).astype(float)
    spectrum = flmm.Spectrum.from_factor(batch, np.ones((30, 1)))
    fit, exact = flmm.reml(spectrum, data["Yield"]), flmm.exact_posterior(spectrum, data["Yield"])
    ax = flmm.plots.plot_profile(fit, exact=exact)
    lines = {line.get_label(): line for line in ax.lines}
    h2, density = lines["posterior density"].get_data()
    assert_allclose(density, exact.h2_density(h2) / exact.h2_density(h2).max())
    assert_allclose(lines["95% posterior interval"].get_xdata(), exact.interval("h2", 0.95))
    h2, likelihood = lines["REML profile likelihood"].get_data()
    assert_allclose(likelihood, np.exp(fit.profile(h2) - fit.loglik))


def test_what_has_no_profile_is_refused(sleep):
    data = flmm.datasets.dyestuff()
    batch = pd.get_dummies(data["Batch"]).astype(float)
    fit = flmm.reml(flmm.Spectrum.from_factor(batch, np.ones((30, 1))), data["Yield"])
    with pytest.raises(ValueError, match=r"that of h2, got 'sigma2_g': flmm.find_reml"):
        flmm.plots.plot_profile(fit, "sigma2_g")
    with pytest.raises(ValueError, match="there is no parameter"):
        flmm.plots.plot_profile(sleep, "h2")
    with pytest.raises(ValueError, match="that of h2, got 'Subject'"):
        flmm.plots.plot_profile(sleep, "Subject", exact=object())
