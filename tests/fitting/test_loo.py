"""What ArviZ makes of exact conditional densities: elpd against exact refits, PIT, comparison, figures."""

import arviz as az
import arviz_plots as azp
import matplotlib
import numpy as np
import pymc as pm
import pytest
import xarray as xr
from arviz_stats import psense
from scipy.special import logsumexp
from scipy.stats import halfnorm, kstest

import pm_fastlmm as flmm

matplotlib.use("Agg")
QUIET = {"progressbar": False}
GROUP = np.repeat(np.arange(6), [1, 2, 3, 4, 4, 6])


class Problem:
    """Groups of different sizes; the priors of the two variances are half normal."""

    def __init__(self, seed=2):
        rng = np.random.default_rng(seed)
        self.n = len(GROUP)
        self.X = np.column_stack([np.ones(self.n), rng.normal(size=self.n)])
        W = (GROUP[:, None] == np.arange(6)).astype(float)
        self.K, self.y = W @ W.T, self.X @ [1.0, 0.5] + W @ rng.normal(size=6) + rng.normal(size=self.n)
        with pm.Model(coords={"obs": [f"row {i}" for i in range(self.n)]}) as self.model:
            g, e = pm.HalfNormal("g", 2), pm.HalfNormal("e", 2)
            self.spectrum = flmm.Spectrum.from_factor(W, self.X)
            flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=self.spectrum, observed=self.y, dims="obs")
            self.idata = flmm.sample(2000, chains=2, random_seed=1, progressbar=False, quiet=True)

    def log_joint(self, keep, size=300):
        """g, e and log p(y_keep, g, e) on a grid that is even in √g and log e, whose sum is log p(y_keep)."""
        rotated = self.spectrum.subset(keep).rotate(self.y[keep])
        root, log_e = np.meshgrid(np.linspace(0, np.sqrt(12), size)[1:], np.linspace(np.log(0.05), np.log(9), size))
        g, e = root.ravel() ** 2, np.exp(log_e.ravel())
        prior = halfnorm(scale=2).logpdf(g) + halfnorm(scale=2).logpdf(e)
        return g, e, flmm.log_likelihood(rotated, g, e) + prior + np.log(2 * np.sqrt(g)) + np.log(e)

    def elpd(self, labels, size=300):
        """log p(y_i | y without i) for each label: the ratio of two evidences."""
        whole = logsumexp(self.log_joint(np.arange(self.n), size)[2])
        rest = [logsumexp(self.log_joint(np.arange(self.n)[labels != i], size)[2]) for i in np.unique(labels)]
        return whole - np.array(rest)


@pytest.fixture(scope="module")
def p():
    problem = Problem()
    problem.idata = flmm.pointwise_log_likelihood(problem.idata, model=problem.model, **QUIET)
    problem.idata = flmm.pointwise_log_likelihood(problem.idata, groups=GROUP, model=problem.model, **QUIET)
    problem.idata = flmm.predict(problem.idata, effects="left_out", model=problem.model, random_seed=5)
    return problem


def monte_carlo_error(log_density):
    """Of -log mean(1/p), by the delta method, from the effective sample size of 1/p."""
    inverse = np.exp(-log_density)
    return float(inverse.std() / inverse.mean()) / np.sqrt(float(az.ess(inverse.to_dataset(name="w"))["w"]))


LABELS = {"y": np.arange(len(GROUP)), "y_by_group": GROUP}


def test_densities_of_observations_and_groups_are_those_of_exact_refits(p):
    """On a grid, whose weights are the posterior: E(1/p(y_i | rest, θ)) is the ratio of two evidences."""
    g, e, log_joint = p.log_joint(np.arange(p.n), 60)
    grid = xr.DataTree.from_dict(
        {"posterior": xr.Dataset({k: (("chain", "draw"), [v]) for k, v in (("g", g), ("e", e))})}
    )
    grid = flmm.pointwise_log_likelihood(grid, model=p.model, **QUIET)
    grid = flmm.pointwise_log_likelihood(grid, groups=GROUP, model=p.model, **QUIET)
    for name, labels in LABELS.items():
        density = grid.log_likelihood[name].to_numpy()[0]
        found = logsumexp(log_joint) - logsumexp(log_joint[:, None] - density, axis=0)
        np.testing.assert_allclose(found, p.elpd(labels, 60), rtol=1e-9)


def test_elpd_of_observations_and_groups_equals_that_of_exact_refits(p):
    checked = 0
    for name, labels in LABELS.items():
        found, exact = az.loo(p.idata, var_name=name, pointwise=True), p.elpd(labels)
        for i in np.flatnonzero(found.pareto_k.to_numpy() < 0.5):  # 1/p has a variance, and its mean an error
            error = monte_carlo_error(p.idata.log_likelihood[name][..., i])
            assert abs(float(found.elpd_i[i]) - exact[i]) < 4 * error
            checked += 1
    assert checked >= len(GROUP)


def test_arviz_compares_and_plots(p):
    with pm.Model() as null:
        e = pm.HalfNormal("e", 2)
        flmm.DenseLMM("y", X=p.X, V=e * np.eye(p.n), observed=p.y)
        idata = pm.sample(300, chains=2, random_seed=1, **QUIET)
    idata = flmm.pointwise_log_likelihood(idata, model=null, **QUIET)
    table = az.compare({"groups": p.idata, "none": idata}, var_name="y")
    assert table.index.tolist() == ["groups", "none"]
    assert az.loo_pit(p.idata, var_names="y")["y"].shape == (p.n,)
    for plot in (azp.plot_ppc_dist, azp.plot_loo_pit, azp.plot_ppc_pit, azp.plot_ppc_tstat):
        plot(p.idata, var_names="y")
    azp.plot_khat(az.loo(p.idata, var_name="y", pointwise=True))


def test_power_scaling_reads_the_group_as_the_likelihood_of_all_observations(p):
    joint = xr.DataTree.from_dict({"posterior": p.idata.posterior.to_dataset()})
    pm.compute_log_likelihood(joint, model=p.model, **QUIET)
    found, expected = (psense(tree, var_names=["g", "e"], group="likelihood") for tree in (p.idata, joint))
    xr.testing.assert_allclose(found, expected, rtol=1e-6)
    conditional = psense(p.idata, var_names=["g", "e"], group="likelihood", group_var_names="y")
    assert abs(float(conditional["e"] / expected["e"]) - 1) > 0.1  # which these densities alone are not


def test_leave_one_out_is_told_which_densities_are_meant(p):
    with pytest.raises(TypeError, match=r"y_remainder.*var_name cannot be None"):
        az.loo(p.idata)


def test_the_pit_of_left_out_draws_is_uniform_and_that_of_given_effects_is_not():
    rng = np.random.default_rng(6)
    n = 300
    x = np.sort(rng.uniform(size=n))
    K = np.exp(-np.abs(np.subtract.outer(x, x)) / 0.01)  # rough: u follows each y closely
    y = np.linalg.cholesky(K + 0.2 * np.eye(n)) @ rng.normal(size=n)
    with pm.Model() as model:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        spectrum = flmm.Spectrum.from_covariance(K, np.ones((n, 1)))
        flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=spectrum, observed=y)
        idata = flmm.sample(500, chains=2, random_seed=1, quiet=True, **QUIET)
    idata = flmm.pointwise_log_likelihood(idata, model=model, **QUIET)
    p_value = {}
    for effects in ("left_out", "given"):
        tree = flmm.predict(idata, effects=effects, model=model, random_seed=3)
        pit = az.loo_pit(tree, var_names="y")["y"].to_numpy()
        p_value[effects] = kstest(pit, "uniform").pvalue
    assert p_value["left_out"] > 0.05
    assert p_value["given"] < 1e-6
