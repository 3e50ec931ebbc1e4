"""The posterior of random slopes: NUTS through lmm_model beside quadrature over the sufficient statistics, and lme4."""

import arviz_stats
import numpy as np
import pytest
from scipy.stats import halfnorm

import pm_fastlmm as flmm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def idata():
    model = flmm.lmm_model("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy())
    options = {"chains": 4, "cores": 1, "progressbar": False, "quiet": True}
    draws = flmm.sample(2000, model=model, random_seed=2003, **options)
    return flmm.recover_effects(draws, model=model, random_seed=2003)


def quadrature():
    """
    Posterior means of σ (2), ρ and σ_e by the midpoint rule, from nothing but NumPy.

    All subjects have the same days U, so that their own least-squares lines b_i and the residual sum of squares are
    sufficient: Σ (b_i - b̄)(b_i - b̄)ᵀ ~ Wishart(17, Σ + σ²_e (UᵀU)⁻¹), and independent of it rss ~ σ²_e χ²(144). The
    priors are those that lmm_model documents.
    """
    data = flmm.datasets.sleepstudy().sort_values(["Subject", "Days"])
    Y = data["Reaction"].to_numpy().reshape(18, 10)
    U = np.column_stack([np.ones(10), np.arange(10)])
    M = np.linalg.inv(U.T @ U)
    B = Y @ U @ M
    rss = float(((Y - B @ U.T) ** 2).sum())
    S = (B - B.mean(0)).T @ (B - B.mean(0))
    least_squares = Y.ravel() - np.tile(U @ B.mean(0), 18)
    s = np.sqrt(least_squares @ least_squares / 178)
    scale = 2 * s * np.sqrt(10 * np.diag(M))
    middle = (np.arange(70) + 0.5) / 70
    s0, s1, r = 110 * middle[:, None, None], 24 * middle[:, None], 2 * middle - 1
    prior = halfnorm(scale=scale[0]).logpdf(s0) + halfnorm(scale=scale[1]).logpdf(s1) + np.log1p(-(r**2))
    total, sums = 0.0, np.zeros(4)
    shift = None
    for e in np.linspace(18, 38, 81):
        a, b, c = s0**2 + e**2 * M[0, 0], s1**2 + e**2 * M[1, 1], r * s0 * s1 + e**2 * M[0, 1]
        det = a * b - c**2
        quadratic = (S[0, 0] * b + S[1, 1] * a - 2 * S[0, 1] * c) / det
        log_density = prior - 17 / 2 * np.log(det) - quadratic / 2 - 144 * np.log(e) - rss / (2 * e**2)
        log_density += halfnorm(scale=2 * s).logpdf(e)
        shift = log_density.max() if shift is None else shift
        w = np.exp(log_density - shift)
        total += w.sum()
        sums += [(w * s0).sum(), (w * s1).sum(), (w * r).sum(), w.sum() * e]
    return sums / total


def mean_and_error(draws):
    """The posterior mean and its Monte-Carlo standard error."""
    x = draws.to_numpy()
    return x.mean(), x.std() / np.sqrt(float(arviz_stats.ess(draws)))


def test_nuts_converges_without_divergences(idata):
    assert int(idata.sample_stats["diverging"].sum()) == 0
    worst = {name: float(values.max()) for name, values in arviz_stats.rhat(idata).data_vars.items()}
    print({name: round(value, 4) for name, value in worst.items()})
    assert len(worst) >= 8
    assert max(worst.values()) < 1.01


def test_standard_deviations_and_correlation_are_those_of_quadrature(idata):
    posterior = idata.posterior
    sigma, corr = posterior["sigma_Subject"], posterior["corr_Subject"]
    draws = [sigma[..., 0], sigma[..., 1], corr[..., 0], posterior["sigma_e"]]
    for array, expected in zip(draws, quadrature(), strict=True):
        mean, error = mean_and_error(array)
        print(f"{array.name}: {mean:.4f} ± {error:.4f}, quadrature {expected:.4f}")
        assert abs(mean - expected) < 4 * error


def test_posterior_stands_by_the_estimates_of_lme4(idata, reference):
    """
    β: the days are the same for all, so that generalised least squares does not depend on the variances and the mean of
    the posterior, under its flat prior, is lme4's estimate. σ²_e: 144 degrees of freedom leave the posterior mean
    within ν/(ν - 3) of it. The variances between 18 subjects have skewed posteriors whose means lie above the maximum;
    the estimate is within their central half.
    """
    row = next(row for row in reference.json("lme4_nlme.json") if row["name"] == "sleepstudy_slope_reml")
    for k, expected in enumerate(row["beta"]):
        mean, error = mean_and_error(idata.posterior["Reaction_beta"][..., k])
        assert abs(mean - expected) < 4 * error
    intercept, slope, _, residual = row["vcov"]
    assert 1 < (idata.posterior["sigma_e"] ** 2).mean() / residual < 1.04
    for k, expected in enumerate((intercept, slope)):
        draws = idata.posterior["sigma_Subject"][..., k].to_numpy() ** 2
        assert 0.25 < (draws < expected).mean() < 0.75
        assert draws.mean() > expected
