"""What ArviZ makes of exact conditional densities: elpd against exact refits, PIT, comparison, figures."""

import arviz as az
import arviz_plots as azp
import matplotlib
import numpy as np
import pymc as pm
import pytest
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
            spectrum = flmm.Spectrum.from_factor(W, self.X)
            flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=spectrum, observed=self.y, dims="obs")
            self.idata = flmm.sample(2000, chains=2, random_seed=1, progressbar=False, quiet=True)

    def log_evidence(self, oracle, keep):
        """log ∫∫ p(y_keep | g, e) p(g) p(e) by a grid that is fine in log e and √g."""
        roots, logs = np.linspace(0, np.sqrt(12), 90)[1:], np.linspace(np.log(0.08), np.log(9), 90)
        cells = []
        for g in roots**2:
            for e in np.exp(logs):
                dense = oracle.Dense(self.K[np.ix_(keep, keep)], self.X[keep], self.y[keep], g, e)
                C = dense.beta_cov
                loglik = 0.5 * (np.linalg.slogdet(C)[1] - np.linalg.slogdet(dense.V)[1])
                loglik -= 0.5 * (dense.y @ dense.Py + (len(keep) - 2) * np.log(2 * np.pi))
                prior = halfnorm(scale=2).logpdf(g) + halfnorm(scale=2).logpdf(e)
                cells.append(loglik + prior + np.log(2 * np.sqrt(g)) + np.log(e))
        return logsumexp(cells)


@pytest.fixture(scope="module")
def p():
    problem = Problem()
    problem.idata = flmm.pointwise_log_likelihood(problem.idata, model=problem.model, **QUIET)
    problem.idata = flmm.pointwise_log_likelihood(problem.idata, groups=GROUP, model=problem.model, **QUIET)
    problem.idata = flmm.predict(problem.idata, effects="left_out", model=problem.model, random_seed=5)
    return problem


def test_elpd_of_observations_and_groups_equals_that_of_exact_refits(p, oracle):
    everything = np.arange(p.n)
    whole = p.log_evidence(oracle, everything)
    loo = az.loo(p.idata, var_name="y", pointwise=True)
    assert float(loo.pareto_k.max()) < 0.7
    for i in (0, 1, 5, 12, 19):
        exact = whole - p.log_evidence(oracle, np.delete(everything, i))
        assert abs(float(loo.elpd_i[i]) - exact) < 0.03
    by_group = az.loo(p.idata, var_name="y_by_group", pointwise=True)
    for j in (0, 3, 5):
        exact = whole - p.log_evidence(oracle, everything[j != GROUP])
        assert abs(float(by_group.elpd_i[j]) - exact) < 0.06


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
