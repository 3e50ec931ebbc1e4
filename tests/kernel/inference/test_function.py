"""Functions of the parameters of V: textbook variances of intraclass correlations, dense gradients, scales, errors."""

import math

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit, logit, ndtri

import pm_fastlmm as flmm


def share(v):
    return v["Batch"] / (v["Batch"] + v["residual"])


@pytest.fixture(scope="module")
def batches():
    return flmm.find_reml("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False)


@pytest.fixture(scope="module")
def kernel():
    data = flmm.datasets.dyestuff()
    W = pd.get_dummies(data["Batch"]).astype(float) * np.arange(1, 7)  # so that tr(K)/n is not 1
    return flmm.reml(flmm.Spectrum.from_factor(W, np.ones((30, 1))), data["Yield"])


@pytest.fixture(scope="module")
def slopes():
    return flmm.find_reml("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy(), progressbar=False)


def test_repeatability_has_the_error_of_the_textbook(batches):
    """Swiger et al. (1964), doi:10.2307/2528398: N groups of k, n observations in all."""
    found = batches.function(share)
    N, k, n, t = 6, 5, 30, found.estimate
    between = flmm.datasets.dyestuff().groupby("Batch")["Yield"].mean().var() * k
    within = flmm.datasets.dyestuff().groupby("Batch")["Yield"].var().mean()
    assert_allclose(t, (between - within) / (between + (k - 1) * within), rtol=1e-6)
    error = math.sqrt(2 * (n - 1) * (1 - t) ** 2 * (1 + (k - 1) * t) ** 2 / (k**2 * (n - N) * (N - 1)))
    # their (n - 1) stands for (n - N) + (N - 1)
    assert_allclose(found.se, error, rtol=1e-4)
    assert found.scale == "logit"
    half = ndtri(0.975) * found.se / (t * (1 - t))
    assert_allclose([found.lower, found.upper], expit([logit(t) - half, logit(t) + half]))


def test_a_kernel_has_the_errors_of_its_own_shares(kernel):
    s, errors = kernel.spectrum, kernel.standard_errors()
    for name, function in {
        "h2": lambda v: s.mean_diagonal * v["sigma2_g"] / (s.mean_diagonal * v["sigma2_g"] + v["sigma2_e"]),
        "pve": lambda v: v["pve"], "total": lambda v: v["total"], "delta": lambda v: v["sigma2_e"] / v["sigma2_g"],
    }.items():  # fmt: skip
        found = kernel.function(function)
        assert_allclose([found.estimate, found.se], [getattr(kernel, name), errors[name]], rtol=1e-8)


def test_the_gradient_is_that_of_the_formula(slopes):
    a, c, b, _ = slopes.theta
    found = slopes.function(
        lambda v: v["Subject[Intercept, Days]"] / np.sqrt(v["Subject[Intercept]"] * v["Subject[Days]"])
    )
    root = math.sqrt(a * b)
    expected = np.array([-c / (2 * a * root), 1 / root, -c / (2 * b * root), 0.0])
    assert_allclose(found.gradient, expected, rtol=1e-12, atol=1e-18)
    assert_allclose(found.se, math.sqrt(expected @ slopes.cov.to_numpy() @ expected), rtol=1e-12)
    assert (found.scale, found.level) == ("atanh", 0.95)
    assert -1 < found.lower < found.estimate < found.upper < 1


def test_the_scale_fits_the_range_or_is_given(batches):
    assert batches.function(lambda v: v["Batch"] + v["residual"]).scale == "log"
    assert batches.function(lambda v: v["Batch"] - v["residual"]).scale == "identity"
    wald = batches.function(share, 0.9, scale="identity")
    assert_allclose(wald.upper - wald.lower, 2 * ndtri(0.95) * wald.se)
    with pytest.raises(ValueError, match="scale='logit' is for values between 0 and 1"):
        batches.function(lambda v: v["Batch"], scale="logit")


def test_a_fixed_parameter_is_known():
    model = flmm.lmm_model("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff())
    fit = flmm.find_reml(model, fixed={"residual": 2000.0}, progressbar=False)
    assert fit.function(lambda v: v["residual"]).se == 0
    t = fit.theta["Batch"]
    slope = 2000 / (t + 2000) ** 2
    assert_allclose(fit.function(share).se, slope * fit.standard_errors()["Batch"], rtol=1e-10)


def test_at_the_boundary_the_interval_is_one_sided_and_the_message_says_so():
    data = flmm.datasets.dyestuff().assign(Yield=np.tile([1.0, 2, 3, 4, 5], 6))
    fit = flmm.find_reml("Yield ~ 1 + (1 | Batch)", data, progressbar=False)
    found = fit.function(share)
    assert (found.estimate, found.lower, found.kind) == (0.0, 0.0, "profile")
    assert found.message.startswith("no standard error, Batch being on the boundary")
    assert "one-sided interval of the profile likelihood" in repr(found)
    assert np.isnan(found.se)
    spectrum = flmm.Spectrum.from_factor(pd.get_dummies(data["Batch"]).astype(float), np.ones((30, 1)))
    exact = flmm.reml(spectrum, data["Yield"])
    assert_allclose(found.upper, exact.interval("h2")[1], rtol=1e-5)
    assert_allclose(exact.function(lambda v: v["h2"]).upper, exact.interval("h2")[1], rtol=1e-5)
    assert_allclose(fit.function(lambda v: np.sqrt(v["Batch"])).upper, fit.interval("sd_Batch")[1], rtol=1e-5)
    total = exact.function(lambda v: v["total"])
    assert_allclose([total.lower, total.upper], exact.interval("total"), rtol=1e-5)
    assert "one-sided" not in total.message
    assert fit.function(lambda v: np.sqrt(v["residual"])).kind == "delta"
    with np.errstate(divide="ignore"):
        assert "take its inverse" in fit.function(lambda v: v["residual"] / v["Batch"]).message


@pytest.mark.parametrize("seed", [1, 4])
def test_at_a_singular_matrix_the_extremes_are_the_limits_of_the_profile(seed):
    """Two ways to the same interval: the largest value where ℓ is high enough, and the value at which ℓ falls."""
    rng = np.random.default_rng(seed)
    g, x = np.repeat(np.arange(10), 6), np.tile(np.linspace(-1, 1, 6), 10)
    u = rng.normal(size=10)
    y = u[g] * (1 + (seed == 4) * x) + rng.normal(size=60)
    fit = flmm.find_reml("y ~ x + (x | g)", pd.DataFrame({"y": y, "x": x, "g": g.astype(str)}), progressbar=False)
    assert "g[x]" in fit.boundary
    for name, function in {
        "sd_g[Intercept]": lambda v: np.sqrt(v["g[Intercept]"]),
        "g[x]": lambda v: v["g[x]"],
        "corr_g[Intercept, x]": lambda v: v["g[Intercept, x]"] / np.sqrt(v["g[Intercept]"] * v["g[x]"]),
    }.items():
        found = fit.function(function)
        assert_allclose([found.lower, found.upper], fit.interval(name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda v: v["batch"], "'batch', which is no parameter of this fit: they are Batch, residual"),
        (lambda v: [v["Batch"], v["residual"]], "must return one number"),
        (lambda v: math.sqrt(v["Batch"]), r"could not be differentiated .*np.sqrt and not math.sqrt"),
        (lambda v: np.abs(v["Batch"]), "the derivative of the function in Batch is not that of its values"),
    ],
)
def test_what_has_no_derivative_is_refused(batches, function, match):
    with pytest.raises(ValueError, match=match):
        batches.function(function)


def test_several_responses_are_taken_one_by_one(kernel):
    fits = flmm.reml(kernel.spectrum, np.random.default_rng(1).normal(size=(30, 2)))
    with pytest.raises(ValueError, match="of one response"):
        fits.function(lambda v: v["h2"])
