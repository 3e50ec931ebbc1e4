"""The posterior of variance ratios by quadrature: that of one kernel, of dense algebra on a grid, and of its draws."""

from itertools import product
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import null_space
from scipy.special import gammaln
from scipy.stats import beta, ks_2samp

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.sparse.products import SparseProducts
from pm_fastlmm.engines.structured import choice
from pm_fastlmm.priors import SharePrior, VariancePrior
from pm_fastlmm.quadrature import integrate as quadrature

QUIET = {"progressbar": False}
N = 48


def small_is_sparse():
    return mock.patch.multiple(choice, _SMALL=-1)


@pytest.fixture(scope="module")
def pedigree():
    rng = np.random.default_rng(2)
    names = [f"i{k}" for k in range(40)]
    parents = [[None] * 8 + [f"i{rng.integers(0, k)}" for k in range(8, 40)] for _ in range(2)]
    return cov.Pedigree(names, *parents)


@pytest.fixture(scope="module")
def table(pedigree):
    rng = np.random.default_rng(6)
    own = rng.integers(0, 40, N)
    u = np.linalg.cholesky(pedigree.dense().to_numpy()) @ rng.normal(size=40)
    herd, x = rng.integers(0, 9, N), rng.normal(size=N)
    columns = {
        "animal": np.array(pedigree.labels)[own], "pe": np.array(pedigree.labels)[own], "herd": [f"h{k}" for k in herd],
        "side": np.where(np.arange(N) % 3, "left", "right"), "x": x, "w": rng.uniform(0.5, 2, N),
        "y": 3 + x + u[own] + 0.7 * rng.normal(size=9)[herd] + rng.normal(size=N),
        "noise": np.random.default_rng(11).normal(size=N),
    }  # fmt: skip
    return pd.DataFrame(columns)


def incidence(labels, levels=None):
    levels = sorted(set(labels)) if levels is None else list(levels)
    return (np.asarray(labels)[:, None] == np.array(levels)).astype(float)


def brute_force(y, X, matrices, weights, alpha, shape, scale, points):
    """
    Means, sds of the shares, means of contributions, log p(y), and nodes, from dense V on a Gauss-Legendre grid.

    The portions of a Dirichlet are independent Betas; V = total Σ s_j M_j / (mean variance of M_j).
    """
    t, w = np.polynomial.legendre.leggauss(points)
    t, w, d = (t + 1) / 2, w / 2, len(matrices)
    M = [*matrices, np.diag(1 / weights)]
    unit = np.array([(weights * np.diag(m)).sum() / weights.sum() for m in M])
    C = null_space(X.T)
    inner, z, p = [C.T @ m @ C / u for m, u in zip(M, unit, strict=True)], C.T @ y, C.shape[1]
    own, after = np.asarray(alpha[:-1]), np.cumsum(alpha[::-1])[::-1][1:]
    log_w, shares, scales = [], [], []
    for at in product(range(points), repeat=d):
        portion = t[list(at)]
        left = np.concatenate([[1.0], np.cumprod(1 - portion)])
        s = np.append(portion * left[:-1], left[-1])
        L = np.linalg.cholesky(sum(share * m for share, m in zip(s, inner, strict=True)))
        q = float((np.linalg.solve(L, z) ** 2).sum())
        density = -0.5 * p * np.log(2 * np.pi) - np.log(np.diag(L)).sum()
        density += shape * np.log(scale) - gammaln(shape) + gammaln(shape + p / 2)
        density -= (shape + p / 2) * np.log(scale + q / 2)
        log_w.append(density + np.log(w[list(at)]).sum() + beta.logpdf(portion, own, after).sum())
        shares.append(s)
        scales.append(scale + q / 2)
    log_w, shares, scales = np.array(log_w), np.array(shares), np.array(scales)
    top = log_w.max()
    mass = np.exp(log_w - top).sum()
    weight = np.exp(log_w - top) / mass
    evidence = top + np.log(mass) - 0.5 * np.linalg.slogdet(X.T @ X)[1]
    mean, total = weight @ shares, scales / (shape + p / 2 - 1)
    return mean, np.sqrt(weight @ (shares - mean) ** 2), weight @ (shares * total[:, None]) / unit, evidence


def matrices_of(table, pedigree, terms):
    A = pedigree.dense().to_numpy()
    own = incidence(table["animal"], pedigree.labels)
    Zh, x = incidence(table["herd"]), table["x"].to_numpy()
    all_of = {
        "animal": own @ A @ own.T, "pe": own @ own.T, "herd": Zh @ Zh.T,
        "side": incidence(table["side"]) @ incidence(table["side"]).T,
        "herd[Intercept]": Zh @ Zh.T, "herd[x]": np.outer(x, x) * (Zh @ Zh.T),
    }  # fmt: skip
    return [all_of[term] for term in terms]


CASES = {
    "two terms": ("y ~ x + (1 | animal) + (1 | herd)", "y", 40, {}),
    "no variance at all": ("noise ~ x + (1 | animal) + (1 | herd)", "noise", 40, {}),
    "animal and permanent environment": ("y ~ x + (1 | animal) + (1 | pe)", "y", 40, {}),
    "prior weights": ("y ~ x + (1 | animal) + (1 | herd)", "y", 40, {"weights": "w"}),
    "independent slopes": ("y ~ x + (x || herd)", "y", 60, {}),
    "a term of two levels": ("y ~ x + (1 | side) + (1 | herd)", "y", 60, {}),
    "three terms": ("y ~ x + (1 | animal) + (1 | pe) + (1 | herd)", "y", 16, {}),
}


ENGINES = [(case, engine) for case in CASES for engine in ("sparse", "blocked")]
DEAR = [("three terms", "sparse")]


@pytest.mark.parametrize(
    ("case", "engine"), [pytest.param(*own, marks=[pytest.mark.slow] * (own in DEAR)) for own in ENGINES]
)
def test_it_is_that_of_dense_algebra_on_a_grid(table, pedigree, case, engine):
    formula, response, points, options = CASES[case]
    options = QUIET | options
    with small_is_sparse() if engine == "sparse" else mock.patch.multiple(choice, _SMALL=10**6):
        fit = flmm.find_reml(formula, table, known={"animal": pedigree} if "animal" in formula else None, **options)
    terms = list(fit.theta.index[:-1])
    assert isinstance(fit.node.products, SparseProducts) == (engine == "sparse")
    alpha = {"residual": 2.0} | {name: 3.0 for name in terms if name == "herd"}
    posterior = fit.posterior(SharePrior(alpha, 1.5, 2.0), random_seed=1)
    weights = table["w"].to_numpy() if "weights" in options else np.ones(N)
    X = np.column_stack([np.ones(N), table["x"]])
    concentration = np.array([alpha.get(name, 1.0) for name in fit.theta.index])
    matrices = matrices_of(table, pedigree, terms)
    mean, sd, variances, evidence = brute_force(
        table[response].to_numpy(), X, matrices, weights, concentration, 1.5, 2.0, points
    )
    assert posterior.loglik_error < 1e-4
    for j, name in enumerate(fit.theta.index):
        assert posterior.mean(f"share[{name}]") == pytest.approx(mean[j], abs=2e-4 * sd[j])
        assert posterior.sd(f"share[{name}]") == pytest.approx(sd[j], rel=2e-4)
        assert posterior.mean(name) == pytest.approx(variances[j], rel=2e-4)
    assert posterior.log_evidence == pytest.approx(evidence, abs=2e-4)


def one_kernel(pedigree, table, response):
    own = incidence(table["animal"], pedigree.labels)
    K = own @ pedigree.dense().to_numpy() @ own.T
    X = np.column_stack([np.ones(N), table["x"]])
    return flmm.Spectrum.from_covariance(K, X), table[response].to_numpy()


@pytest.mark.parametrize("response", ["y", "noise"])
@pytest.mark.parametrize("alpha", [None, (0.5, 0.5), (3.0, 1.5)])
@pytest.mark.parametrize("engine", ["spectral", "sparse"])
def test_of_one_term_it_is_that_of_one_kernel(table, pedigree, response, alpha, engine):
    spectrum, y = one_kernel(pedigree, table, response)
    prior = None if alpha is None else VariancePrior(*alpha, 2.0, 1.2)
    exact = flmm.exact_posterior(spectrum, y, prior=prior)
    shares = None if alpha is None else SharePrior({"animal": alpha[0], "residual": alpha[1]}, 2.0, 1.2)
    with small_is_sparse() if engine == "sparse" else mock.patch.multiple(choice, _SMALL=10**6):
        fit = flmm.find_reml(f"{response} ~ x + (1 | animal)", table, known={"animal": pedigree}, **QUIET)
    posterior = fit.posterior(shares, tolerance=1e-7)
    names = {"h2": "h2", "total": "total", "animal": "sigma2_g", "residual": "sigma2_e", "share[animal]": "h2"}
    for own, of in names.items():
        sd = exact.sd(of)
        assert posterior.mean(own) == pytest.approx(exact.mean(of), abs=1e-6 * sd)
        assert posterior.sd(own) == pytest.approx(sd, rel=2e-6)
        for p in (0.001, 0.025, 0.5, 0.975, 0.999):
            assert posterior.quantile(own, p) == pytest.approx(exact.quantile(of, p), abs=1e-6 * sd)
        low, high = exact.quantile(of, 0.2), exact.quantile(of, 0.7)
        assert posterior.probability(own, low, high) == pytest.approx(0.5, abs=1e-6)
        if own in ("h2", "residual"):
            shortest = exact.interval(of, 0.9, kind="hdi")
            assert_allclose(posterior.interval(own, 0.9, kind="hdi"), shortest, atol=2e-3 * sd)
        assert_allclose(posterior.interval(own, 0.9), exact.interval(of, 0.9), atol=1e-6 * sd)
    assert posterior.log_evidence == pytest.approx(exact.log_evidence, abs=1e-6)
    assert posterior.quantile("share[residual]", 0.1) == pytest.approx(1 - exact.quantile("h2", 0.9), abs=1e-7)
    assert flmm.rope(posterior, 0, 0.1) == pytest.approx(flmm.rope(exact, 0, 0.1), abs=1e-6)


def test_a_fit_of_a_kernel_model_has_it_too(table, pedigree):
    spectrum, y = one_kernel(pedigree, table, "y")
    fit = flmm.find_reml(flmm.kernel_model(y, spectrum=spectrum), **QUIET)
    exact = flmm.exact_posterior(spectrum, y)
    posterior = fit.posterior(tolerance=1e-7)
    assert posterior.mean("h2") == pytest.approx(exact.mean("h2"), abs=1e-6)
    assert posterior.sd("sigma2_g") == pytest.approx(exact.sd("sigma2_g"), rel=1e-6)


def test_prior_weights_leave_the_total_that_of_an_observation_of_mean_weight(table):
    fits = [
        flmm.find_reml("y ~ x + (1 | herd)", table.assign(w=c * table["w"]), weights="w", **QUIET) for c in (1.0, 10.0)
    ]
    one, ten = (fit.posterior(SharePrior(1.0, 2.0, 1.2), tolerance=1e-7) for fit in fits)
    assert ten.mean("total") == pytest.approx(one.mean("total"), rel=1e-6)
    assert ten.mean("residual") == pytest.approx(10 * one.mean("residual"), rel=1e-6)
    Z, X = incidence(table["herd"]), np.column_stack([np.ones(N), table["x"]])
    y, w = table["y"].to_numpy(), table["w"].to_numpy()
    by_hand = brute_force(y, X, [Z @ Z.T], w, np.ones(2), 2.0, 1.2, 100)
    assert one.mean("herd") == pytest.approx(by_hand[2][0], rel=1e-5)


@pytest.fixture(scope="module")
def posterior():
    data = flmm.datasets.john_alpha()
    return flmm.find_reml("yield ~ rep + (1 | gen) + (1 | rep:block)", data, **QUIET).posterior(random_seed=1)


def test_draws_are_from_it(posterior):
    draws = posterior.draws(40_000, random_seed=3)
    for name, values in draws.items():
        assert values.mean() == pytest.approx(posterior.mean(name), abs=5 * posterior.sd(name) / 200)
        assert values.std() == pytest.approx(posterior.sd(name), rel=0.04)
        for p in (0.05, 0.5, 0.95):
            assert np.mean(values <= posterior.quantile(name, p)) == pytest.approx(p, abs=0.006)
    assert abs(np.corrcoef(draws["gen"][:-1], draws["gen"][1:])[0, 1]) < 0.03
    assert_allclose(draws["gen"] + draws["rep:block"] + draws["residual"], draws["total"])
    again = posterior.draws(40_000, random_seed=3)
    assert_allclose(draws["gen"], again["gen"], rtol=0)


def test_functions_of_the_variances_are_those_of_draws_and_of_the_quantities(posterior):
    same = posterior.function(lambda v: v["gen"], 0.9)
    assert same["mean"] == pytest.approx(posterior.mean("gen"), rel=1e-6)
    assert same["sd"] == pytest.approx(posterior.sd("gen"), rel=1e-6)
    assert_allclose(same.iloc[[2, 4]], posterior.interval("gen", 0.9), rtol=1e-3)
    share = posterior.function(lambda v: v["gen"] / (v["gen"] + v["rep:block"] + v["residual"]))
    assert share["mean"] == pytest.approx(posterior.mean("share[gen]"), rel=1e-9)
    assert posterior.function(lambda v: 2.0)["mean"] == pytest.approx(2.0)


def test_the_table_and_the_report_say_what_was_done(posterior):
    table = posterior.summary(0.9)
    assert list(table.columns) == ["mean", "sd", "eti_5.0%", "median", "eti_95.0%"]
    assert list(table.index) == [
        "gen", "rep:block", "residual", "total", "share[gen]", "share[rep:block]", "share[residual]",
    ]  # fmt: skip
    assert table.loc["gen", "median"] == posterior.quantile("gen", 0.5)
    text = repr(posterior)
    assert f"{posterior.evaluations} evaluations" in text
    assert "error of the log-likelihood" in text
    assert repr(posterior.prior) in text
    assert posterior.prior.total_scale == pytest.approx(0.29373, rel=1e-4)
    assert (posterior.ratios["lower"] < 0.01).all()
    assert posterior.mean("sd_gen") < np.sqrt(posterior.mean("gen"))


def test_draws_go_to_arviz(posterior):
    tree = posterior.to_datatree(50, random_seed=1)["posterior"]
    assert dict(tree.sizes) == {"chain": 1, "draw": 50, "component": 3}
    draws = posterior.draws(50, random_seed=1)
    assert_allclose(tree["variance"].sel(component="gen")[0], draws["gen"])
    assert_allclose(tree["share"].sum("component"), 1.0)
    assert_allclose(tree["total"][0], draws["total"])


def test_a_herd_takes_seven_nodes(pedigree):
    rng = np.random.default_rng(4)
    n = 3000
    names = [f"a{k}" for k in range(n)]
    sire = [None] * 300 + [f"a{300 * (k // 300 - 1) + rng.integers(0, 30)}" for k in range(300, n)]
    dam = [None] * 300 + [f"a{300 * (k // 300 - 1) + rng.integers(30, 300)}" for k in range(300, n)]
    herd = cov.Pedigree(names, sire, dam)
    known = dict(zip(names, range(n), strict=True))
    u = np.zeros(n)
    for k in range(n):
        parents = [known[p[k]] for p in (sire, dam) if p[k] is not None]
        u[k] = u[parents].sum() / 2 + np.sqrt(0.5 if parents else 1.0) * rng.normal()
    data = pd.DataFrame({"animal": names * 3, "y": np.tile(u, 3) + rng.normal(size=3 * n)})
    fit = flmm.find_reml("y ~ 1 + (1 | animal)", data, known={"animal": herd}, **QUIET)
    posterior = fit.posterior(random_seed=1)
    assert posterior.nodes == (7,)
    assert posterior.evaluations == 7 + 2  # nodes and checks
    at = np.random.default_rng(8).uniform(0.01, 0.99, size=(20, 1))
    r, pieces = posterior._found.interpolated.at(at)
    total = float(posterior._ratios.unit @ fit.theta)
    for row, level, log_q in zip(r, *pieces, strict=True):
        theta = total / (1 + row[0]) * np.array([row[0], 1.0]) / posterior._ratios.unit
        loglik = level - 0.5 * posterior._ratios.df * np.log(total) - 0.5 * np.exp(log_q) / total
        assert fit.objective.log_likelihood(theta) == pytest.approx(loglik, abs=1e-4)


def test_what_is_not_interpolated_well_enough_is_said(monkeypatch):
    fit = flmm.find_reml("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), **QUIET)
    monkeypatch.setattr(quadrature, "_MOST", {1: 9})
    with pytest.warns(UserWarning, match=r"the posterior is approximate. flmm.sample\(…, loglik_tolerance=0\) draws"):
        posterior = fit.posterior(random_seed=1)
    assert posterior.nodes == (7,)


def refused(fit, match, **options):
    with pytest.raises(ValueError, match=match):
        fit.posterior(**options)


def test_other_parameters_are_refused():
    sleep = flmm.datasets.sleepstudy()
    refused(
        flmm.find_reml("Reaction ~ Days + (Days | Subject)", sleep, **QUIET),
        r"the parameters of V are Subject\[Intercept\].*flmm.sample draws",
    )
    refused(flmm.find_reml("Reaction ~ Days + (1 | Subject)", sleep, method="ML", **QUIET), "fit by method='REML'")
    two = "Reaction ~ Days + (Days || Subject)"
    refused(flmm.find_reml(two, sleep, fixed={"residual": 600.0}, **QUIET), "are fixed")
    refused(flmm.find_reml(two, sleep, **QUIET), "concentration names 'plate'", prior=SharePrior({"plate": 2.0}))


def test_estimates_that_do_not_say_where_the_posterior_is_are_refused():
    sleep = flmm.datasets.sleepstudy()
    twice = flmm.find_reml(
        "Reaction ~ Days + (1 | Subject) + (1 | again)", sleep.assign(again=sleep["Subject"]), **QUIET
    )
    refused(twice, "because the information on the variances is singular")
    rng = np.random.default_rng(0)
    K = pd.DataFrame(np.cov(rng.normal(size=(60, 200))))
    y = np.linalg.cholesky(K) @ rng.normal(size=60)
    data = pd.DataFrame({"y": y, "id": range(60), "x": rng.normal(size=60)})
    fit = flmm.find_reml("y ~ x + (1 | id)", data, known={"id": K}, **QUIET)
    refused(fit, "because the residual variance is 0. flmm.sample draws")


def test_few_levels_are_interpolated_as_well():
    data = flmm.datasets.penicillin()
    fit = flmm.find_reml("diameter ~ 1 + (1 | plate) + (1 | sample)", data, **QUIET)
    assert fit.posterior(random_seed=1).loglik_error < 1e-4


def test_unknown_quantities_and_bounds_are_refused(posterior):
    with pytest.raises(ValueError, match="quantity must be one of gen, rep:block, residual, total, sd_gen"):
        posterior.mean("h2")
    with pytest.raises(ValueError, match="low must be below high, got 2 and 1"):
        posterior.probability("gen", 2, 1)
    with pytest.raises(ValueError, match="asks for 'block'"):
        posterior.function(lambda v: v["block"])


@pytest.mark.slow
def test_nuts_draws_from_it():
    data = flmm.datasets.john_alpha()
    formula, prior = "yield ~ rep + (1 | gen) + (1 | rep:block)", SharePrior({"residual": 2})
    posterior = flmm.find_reml(formula, data, **QUIET).posterior(prior, random_seed=1)
    model = flmm.lmm_model(formula, data, priors=prior)
    options = {"chains": 4, "cores": 1, "progressbar": False, "quiet": True}
    sampled = flmm.sample(1500, model=model, random_seed=7, **options)["posterior"]
    draws = posterior.draws(6000, random_seed=2)
    thin = slice(None, None, 3)  # nearly independent
    for name in ("gen", "rep:block", "residual"):
        shares = sampled["share"].sel(component=name).to_numpy()[:, thin].ravel()
        assert ks_2samp(shares, draws[f"share[{name}]"]).pvalue > 1e-3
        assert shares.mean() == pytest.approx(posterior.mean(f"share[{name}]"), abs=0.1 * shares.std())
    total = sampled["total"].to_numpy()[:, thin].ravel()
    assert ks_2samp(total, draws["total"]).pvalue > 1e-3
