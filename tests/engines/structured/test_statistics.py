"""Several terms of rows that were not kept: every result is that of the same model on the rows themselves."""

from functools import partial
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from as_written import AS_WRITTEN
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

N, COEF = 300, ("one", "x", "t")
MARKERS, SLOPES = [f"m{j}" for j in range(5)], ["s1_a", "s1_b", "s2_a", "s2_b", "s3_a", "s3_b"]
GROUPS = ["g1", "g2", "g3"]
B, b = np.array([[2.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.9]]), np.array([100.0, -2.0, 0.5])
TREATMENTS = {"flat": {}, "explicit": {"beta": b}, "Gaussian": {"beta_mean": b, "beta_cov": B}}
METHODS = ("gram", "tsqr")

methods = pytest.mark.parametrize("method", METHODS)
treated = pytest.mark.parametrize("treatment", TREATMENTS)


@pytest.fixture(scope="module")
def p():
    """Markers with means, random slopes in other units, and groups that add up to the constant; y with a large mean."""
    rng = np.random.default_rng(4)
    X = pd.DataFrame({"one": 1.0, "x": rng.exponential(size=N), "t": np.linspace(0, 1, N) ** 2})
    level, a = rng.integers(0, 3, size=N), 1e-3 * rng.normal(size=N)
    slopes = ((level[:, None] == np.arange(3))[:, :, None] * np.column_stack([np.ones(N), a])[:, None, :]).reshape(N, 6)
    group = (rng.integers(0, 3, size=N)[:, None] == np.arange(3)).astype(float)
    markers = rng.binomial(2, 0.3, size=(N, 5)) + 0.1 * rng.normal(size=(N, 5))
    W = pd.DataFrame(np.hstack([markers, slopes, group]), columns=[*MARKERS, *SLOPES, *GROUPS])
    effects = np.r_[rng.normal(size=5), np.tile([1.0, 800.0], 3) * rng.normal(size=6), 0.7 * rng.normal(size=3)]
    y = X.to_numpy() @ b + W.to_numpy() @ effects + rng.normal(size=N)
    rows = {}
    for method in METHODS:
        c = flmm.KernelStatistics.from_arrays(X[:70], W[:70], y[:70], method=method)
        other = flmm.KernelStatistics.from_arrays(X[70:150], W[70:150], y[70:150], method=method)
        c = c.update(X[150:], W[150:], y[150:]).merge(other)
        rows[method] = flmm.TermStatistics.from_statistics(c)
    return SimpleNamespace(X=X, W=W, y=y, rows=rows, c=c)


def model_of(X, W, observed, **treatment):
    """Markers, correlated slopes within a level, groups."""
    with pm.Model() as model:
        v, w, e = (pm.HalfNormal(name, 3) for name in ("v", "w", "e"))
        d = pm.HalfNormal("d", [2.0, 1000.0])
        terms = [
            flmm.Term(W[MARKERS], cov.scalar(v), name="markers"),
            flmm.Term(W[SLOPES], cov.kronecker(cov.identity(3), cov.diagonal(d)), name="slopes"),
            flmm.Term(W[GROUPS], cov.scalar(w), name="groups"),
        ]
        flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=e, observed=observed, **treatment)
    return model


def both(p, method="gram", **treatment):
    rows = p.rows[method]
    return model_of(p.X, p.W, p.y, **treatment), model_of(rows.X, rows.Z, rows, **treatment)


def density(model):
    """The log-density of y at the initial point."""
    return model.compile_logp(vars=[model["y"]], mode=AS_WRITTEN)(model.initial_point())


@methods
@treated
def test_density_and_gradient_are_those_of_the_rows(p, method, treatment):
    whole, few = both(p, method, **TREATMENTS[treatment])
    values = [model.compile_fn([model.logp(), model.dlogp()], mode=AS_WRITTEN) for model in (whole, few)]
    for v, w, d, e in ((1.0, 0.4, (1.0, 700.0), 0.9), (0.01, 5.0, (3.0, 20.0), 0.2)):
        point = {"v_log__": np.log(v), "w_log__": np.log(w), "d_log__": np.log(d), "e_log__": np.log(e)}
        (logp, gradient), (got, slope) = (f(point) for f in values)
        assert_allclose(got, logp, rtol=1e-9)
        assert_allclose(slope, gradient, rtol=1e-9, atol=1e-9 * np.abs(gradient).max())


@methods
@pytest.mark.parametrize("criterion", ["REML", "ML"])
def test_the_fit_is_that_of_the_rows(p, method, criterion):
    whole, few = both(p, method)
    fits = [flmm.find_reml(model, method=criterion, progressbar=False) for model in (whole, few)]
    expected, got = fits
    assert_allclose(got.objective.start(), expected.objective.start(), rtol=1e-9)
    assert got.converged
    assert list(got.beta.index) == list(COEF)
    assert_allclose(got.loglik, expected.loglik, rtol=1e-10)
    assert_allclose(got.theta, expected.theta, rtol=1e-5)  # where the iterations end; the rest at one and the same θ
    theta = expected.theta.to_numpy()
    mine, theirs = got.objective, expected.objective
    assert_allclose(mine.log_likelihood(theta), expected.loglik, rtol=1e-10)
    size = np.sqrt(np.diag(expected.average_information))
    assert_allclose(mine.score(theta) / size, theirs.score(theta) / size, atol=1e-9)
    assert_allclose(mine.average_information(theta), theirs.average_information(theta), rtol=1e-9)
    assert_allclose(got.step(theta), expected.step(theta), rtol=1e-9)
    for of_few, of_all in zip(mine.blue(theta), theirs.blue(theta), strict=True):
        assert_allclose(of_few, of_all, rtol=1e-9, atol=1e-10)
    for term in ("markers", "slopes", "groups"):
        mine, theirs = got.blup(term, theta), expected.blup(term, theta)
        assert list(mine.index) == list(theirs.index)
        assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())
        assert_allclose(got.pev(term, theta), expected.pev(term, theta), rtol=1e-9)
    new = {"markers": p.W[MARKERS][:20].to_numpy(), "slopes": p.W[SLOPES][:20], "groups": p.W[GROUPS][:20]}
    mine, theirs = (fit.predict(p.X[:20], new, theta=theta) for fit in (got, expected))
    assert_allclose(mine.mean, theirs.mean, rtol=1e-9)
    assert_allclose(mine.variance, theirs.variance, rtol=1e-9)


def test_the_restricted_likelihood_of_a_proper_beta_knows_n(p):
    """NUTS is seeded by it."""
    whole, few = (flmm.lmm_nodes(model)[0].flat_objective() for model in both(p, **TREATMENTS["Gaussian"]))
    theta = np.array([0.5, 2.0, 300.0, 0.2, 1.3])
    assert_allclose(few.state(theta).loglik, whole.state(theta).loglik, rtol=1e-10)
    assert few.products.df == N - 3


def test_other_columns_and_collinear_ones_of_the_same_rows(p):
    """A model of some columns, and of combinations of them."""
    rows = p.rows["gram"]

    def fit(X, W, observed):
        with pm.Model() as model:
            v, e = pm.HalfNormal("v", 3), pm.HalfNormal("e", 3)
            Z = W[MARKERS] @ np.array([[1.0, 0], [2, 1], [0, 1], [1, 1], [0, 3]]) / 5
            term = flmm.Term(Z, cov.scalar(v), name="scores")
            flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=e, observed=observed)
        return flmm.find_reml(model, progressbar=False)

    expected, got = fit(p.X[["one", "t"]], p.W, p.y), fit(rows.X[["one", "t"]], rows.Z, rows)
    assert_allclose(got.loglik, expected.loglik, rtol=1e-9)
    assert_allclose(got.theta, expected.theta, rtol=1e-5)
    c = flmm.KernelStatistics.from_arrays(p.X.assign(twice=2 * p.X["x"] + 1), p.W, p.y)
    rows = flmm.TermStatistics.from_statistics(c)
    with pytest.warns(UserWarning, match="'twice' dropped"):
        model = model_of(rows.X, rows.Z, rows)
    assert_allclose(density(model), density(model_of(p.X, p.W, p.y)), rtol=1e-9)


@pytest.mark.parametrize("treatment", ["flat", "Gaussian"])
def test_effects_are_drawn_from_their_posterior(p, treatment):
    whole, few = both(p, **TREATMENTS[treatment])
    draws = 4000
    point = {"v": 0.8, "w": 0.3, "e": 1.1, "d": np.array([1.5, 600.0])}
    posterior = {name: np.broadcast_to(value, (1, draws, *np.shape(value))) for name, value in point.items()}
    dims = {name: ("chain", "draw", *(["k"] if np.ndim(value) > 2 else [])) for name, value in posterior.items()}
    tree = xr.DataTree.from_dict(
        {"posterior": xr.Dataset({n: (dims[n], v) for n, v in posterior.items()},
                                 coords={"chain": [0], "draw": np.arange(draws)})}
    )  # fmt: skip
    tree = flmm.recover_effects(tree, model=few, random_seed=1)
    fit = flmm.find_reml(whole, progressbar=False)
    theta = [0.8, 1.5, 600.0, 0.3, 1.1]
    for term in ("markers", "slopes", "groups"):
        mean, sd = fit.blup(term, theta).to_numpy(), np.sqrt(fit.pev(term, theta).to_numpy())
        got = tree.posterior[f"y_{term}"].to_numpy()[0]
        assert_allclose((got.mean(0) - mean) / sd, 0, atol=5 / np.sqrt(draws))
        assert_allclose(got.std(0), sd, rtol=0.06)
    if treatment == "flat":
        beta, covariance = fit.objective.blue(fit.at(theta))
        got = tree.posterior["y_beta"].to_numpy()[0]
        assert_allclose((got.mean(0) - beta) / np.sqrt(np.diag(covariance)), 0, atol=5 / np.sqrt(draws))
        assert_allclose(np.corrcoef(got.T), covariance / np.sqrt(np.outer(*[np.diag(covariance)] * 2)), atol=0.06)
    new = {"markers": p.W[MARKERS][:9], "slopes": p.W[SLOPES][:9], "groups": p.W[GROUPS][:9]}
    tree = flmm.predict(tree, p.X[:9], Z_new=new, model=few, random_seed=2)
    expected = fit.predict(p.X[:9], new, theta=theta)
    got = tree.predictions["y_mean"].to_numpy()[0]
    assert_allclose((got.mean(0) - expected.mean) / expected.se, 0, atol=5 / np.sqrt(draws))
    assert_allclose(got.std(0), expected.se, rtol=0.06)
    with pytest.raises(ValueError, match="rows of X, Z and y were not kept"):
        flmm.predict(tree, model=few)


def test_nuts_runs_and_shares_of_variance_are_those_of_n_rows(p):
    _, few = both(p)
    idata = flmm.sample(
        50, tune=200, chains=1, cores=1, model=few, random_seed=1, progressbar=False, quiet=True,
        compute_convergence_checks=False,
    )  # fmt: skip
    post = idata.posterior.isel(chain=0)
    mean_square = (p.W.to_numpy() ** 2).mean(0)
    d = mean_square[5:11].reshape(3, 2).sum(0)
    expected = [
        mean_square[:5].sum() * post["v"], d[0] * post["d"][:, 0] + d[1] * post["d"][:, 1], post["w"], post["e"]
    ]  # fmt: skip
    assert_allclose(post["y_variance"], np.column_stack(expected), rtol=1e-9)


def test_draws_of_the_rows_have_their_covariance_and_the_last_is_a_chi(p):
    rows = p.rows["gram"]
    model = model_of(rows.X, rows.Z, rows, beta=b)
    node = model["y"]
    point = {"v": 0.8, "w": 0.3, "e": 2.0, "d": np.array([1.5, 600.0])}
    fixed = pm.do(model, point)
    draws = pm.draw(fixed["y"], draws=20_000, random_seed=3)
    scale = np.r_[np.full(5, 0.8), np.tile([1.5, 600.0], 3), np.full(3, 0.3)]
    V = (rows.Z.to_numpy() * scale) @ rows.Z.to_numpy().T + 2.0 * np.eye(len(rows.y))
    mean = rows.X.to_numpy() @ b
    sd = np.sqrt(np.diag(V))[:-1]
    assert_allclose((draws.mean(0) - mean)[:-1] / sd, 0, atol=5 / np.sqrt(20_000))
    scaled = np.cov(draws[:, :-1].T) / np.outer(sd, sd)
    assert_allclose(scaled, V[:-1, :-1] / np.outer(sd, sd), atol=0.05)
    left = N - len(rows.y) + 1
    chi2 = draws[:, -1] ** 2 / 2.0
    assert_allclose(chi2.mean(), left, atol=5 * np.sqrt(2 * left / 20_000))
    assert_allclose(chi2.var(), 2 * left, rtol=0.06)
    assert node.type.shape == (len(rows.y),)


def test_fewer_rows_than_columns_are_rotated(p):
    X, W, y = p.X[:9], p.W[:9], p.y[:9]
    for method in METHODS:
        rows = flmm.TermStatistics.from_arrays(X, W, y, method=method)
        assert len(rows.y) == rows.n == 9
        whole, few = model_of(X, W, y), model_of(rows.X, rows.Z, rows)
        assert_allclose(density(few), density(whole), rtol=1e-9)
        with pytest.raises(ValueError, match="not kept"):
            flmm.find_reml(few, progressbar=False, max_iterations=1).fitted()


def test_one_of_several_responses_without_fixed_effects(p):
    Y = pd.DataFrame({"first": p.y, "second": p.y[::-1] - 100})
    c = flmm.KernelStatistics.from_arrays(None, p.W, Y)
    rows = flmm.TermStatistics.from_statistics(c, "second")
    whole = model_of(None, p.W, Y["second"])
    assert_allclose(density(model_of(None, rows.Z, rows)), density(whole), rtol=1e-9)
    for response, message in ((None, "2 responses"), ("third", "no response 'third'")):
        with pytest.raises(ValueError, match=message):
            flmm.TermStatistics.from_statistics(c, response)


def test_kernel_statistics_are_data_too_and_a_model_survives_pickling(p):
    rows = p.rows["tsqr"]
    model = cloudpickle.loads(cloudpickle.dumps(model_of(rows.X, rows.Z, p.c)))
    assert_allclose(density(model), density(model_of(rows.X, rows.Z, rows)), rtol=1e-12)
    [node] = flmm.lmm_nodes(model)
    assert node.n == N


def test_what_has_a_value_for_each_row_is_an_error(p):
    _, few = both(p)
    fit = flmm.find_reml(few, progressbar=False)
    objective = fit.objective
    asks = (objective.covariance, objective.covariance_derivatives)
    for ask in (fit.fitted, fit.residuals, *(partial(ask, fit.at()) for ask in asks)):
        with pytest.raises(ValueError, match="nothing with one value for each observation"):
            ask()


def test_other_rows_are_refused(p):
    rows = p.rows["gram"]
    k = len(rows.y)
    cases = [
        ({"X": np.ones((k, 1)), "W": rows.Z, "observed": rows}, "X and the data are of different rows"),
        (
            {"X": rows.X, "W": pd.DataFrame(rows.Z.to_numpy(), columns=rows.Z.columns), "observed": rows},
            "do not have the same ids",
        ),
        ({"X": None, "W": p.W, "observed": rows}, "'markers', .* are of different rows"),
        ({"X": rows.X, "W": rows.Z, "observed": rows.y}, "give observed=statistics"),
        ({"X": rows.X, "W": rows.Z, "observed": None, "beta": b}, "give observed=statistics"),
        ({"X": rows.X, "W": rows.Z, "observed": rows, "mu": 1.0}, "mu has a value for each observation"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            model_of(**arguments)
    term = flmm.Term(rows.Z[GROUPS], cov.diagonal([1.0, 1.0]), columns=rows.Z[MARKERS[:2]], name="crossed")
    with pm.Model(), pytest.raises(ValueError, match="'crossed' has columns="):
        flmm.StructuredLMM("y", X=rows.X, terms=[term], sigma2_e=1.0, observed=rows)
    factor = flmm.Term(rows.Z["m1"], cov.scalar(1.0))
    with pm.Model(), pytest.raises(ValueError, match=r"'m1' is no linear combination .* statistics\.Z\[\['a'\]\]"):
        flmm.StructuredLMM("y", X=rows.X, terms=[factor], sigma2_e=1.0, observed=rows)
    with pytest.raises(ValueError, match=r"whose rows are fewer .* c\.factor\(\)"):
        flmm.Spectrum.from_factor(rows.Z, rows.X)
    with pytest.raises(ValueError, match="without a name"):
        flmm.TermStatistics.from_statistics(p.c, "y")
    nothing = flmm.KernelStatistics.from_arrays(p.X[:1], p.W[:1] * np.nan, p.y[:1], missing="drop")
    with pytest.raises(ValueError, match="no rows were added"):
        flmm.TermStatistics.from_statistics(nothing)


def test_a_rest_below_the_rounding_of_inner_products_is_named(p):
    y = p.X.to_numpy() @ b + p.W.to_numpy() @ np.arange(1.0, 15)
    with pytest.warns(UserWarning, match="below the rounding"):
        rows = flmm.TermStatistics.from_arrays(p.X, p.W, y)
    assert rows.y[-1] == 0
