"""Residual variances by group, and covariances within a record: dense algebra, estimates, verbs and refusals."""

import json
from pathlib import Path
from unittest import mock

import arviz as az
import numpy as np
import pandas as pd
import pymc as pm
import pytest
from engines.contract import Dense
from numpy.testing import assert_allclose
from scipy.optimize import minimize

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.aireml.polar import Polar
from pm_fastlmm.engines.nodes import find_node
from pm_fastlmm.engines.sparse.products import SparseProducts

QUIET = {"progressbar": False}
REFERENCE = Path(__file__).parents[2] / "reference"
LOWER = np.tril_indices(3)


def full(packed):
    """Return a symmetric matrix of its lower triangle."""
    out = np.zeros((3, 3))
    out[LOWER] = packed
    return out + np.tril(out, -1).T


@pytest.fixture(scope="module")
def herd():
    """Records of three traits of related animals, of four patterns, one of a single trait, in long form."""
    rng = np.random.default_rng(2)
    n, names = 60, [f"a{i}" for i in range(60)]
    sire, dam = ([None] * 12 + [names[j] for j in rng.integers(0, np.arange(12, n))] for _ in range(2))
    pedigree = cov.Pedigree(names, sire, dam)
    A = pedigree.dense(names).to_numpy()
    G, E = full([1.0, 0.4, 0.8, 0.2, -0.1, 0.6]), full([1.0, 0.3, 0.7, -0.2, 0.1, 0.9])
    u = np.linalg.cholesky(A) @ rng.normal(size=(n, 3)) @ np.linalg.cholesky(G).T
    rows = []
    for record in range(90):
        animal, e = rng.integers(n), np.linalg.cholesky(E) @ rng.normal(size=3)
        seen = [(0, 1, 2), (0, 1), (1, 2), (2,)][record % 4]
        rows += [(record, names[animal], "abc"[t], "FM"[animal % 2], u[animal, t] + e[t]) for t in seen]
    table = pd.DataFrame(rows, columns=["record", "animal", "trait", "sex", "y"])
    table["x"], table["w"] = rng.normal(size=len(table)), rng.uniform(0.5, 2.0, len(table))
    table["y"] += table["x"]
    return pedigree, A, table


def dense(herd, V, X):
    """Return the truth of y ~ N(Xβ, V)."""
    return Dense(V, X, herd[2]["y"].to_numpy())


def genetic(herd, covariance):
    """Return ZGZᵀ of animals, of a covariance between traits."""
    _, A, table = herd
    animal, trait = table["animal"].str[1:].astype(int), table["trait"].map("abc".index)
    return A[np.ix_(animal, animal)] * covariance[np.ix_(trait, trait)]


def of_sexes(herd, theta):
    """Return V of one genetic variance and residual variances by sex, with prior weights."""
    v, *e = theta
    own = np.where(herd[2]["sex"] == "F", *e)
    return genetic(herd, np.full((3, 3), v)) + np.diag(own / herd[2]["w"])


def of_traits(herd, theta):
    """Return V of genetic and residual covariances between traits, with prior weights."""
    _, _, table = herd
    trait, record, w = table["trait"].map("abc".index), table["record"].to_numpy(), table["w"].to_numpy()
    R = (record[:, None] == record) * full(theta[6:])[np.ix_(trait, trait)]
    return genetic(herd, full(theta[:6])) + R / np.sqrt(np.outer(w, w))


CASES = {
    "variances by sex": ("y ~ x + (1 | animal)", "sex", of_sexes, [0.7, 1.1, 0.6]),
    "traits of a record": (
        "y ~ 0 + trait + x + (0 + trait | animal)", "(0 + trait | record)", of_traits,
        [1.0, 0.4, 0.8, 0.2, -0.1, 0.6, 1.1, 0.3, 0.7, -0.2, 0.1, 0.9],
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request, herd):
    """A fit by REML, its V as a function of θ, X, and a θ elsewhere."""
    formula, residual, V, theta = CASES[request.param]
    fit = flmm.find_reml(formula, herd[2], known={"animal": herd[0]}, residual=residual, weights="w", **QUIET)
    assert isinstance(fit.node.products, SparseProducts)
    X = fit.node.projection.X
    return fit, lambda theta: V(herd, theta), X, np.array(theta)


def slopes_of(V, theta):
    """Return ∂V/∂θ of a V that is linear."""
    return [V(theta + unit) - V(theta) for unit in np.eye(len(theta))]


def test_likelihood_score_and_information_are_those_of_dense_algebra(case, herd):
    fit, V, X, theta = case
    truth, slopes = dense(herd, V(theta), X), slopes_of(V, theta)
    o, ml = fit.objective, fit.node.likelihood(fit.node.constants(), "ML")
    assert_allclose(o.log_likelihood(theta), truth.loglik, rtol=1e-12)
    score = [-0.5 * (np.vdot(truth.P, S) - truth.Py @ S @ truth.Py) for S in slopes]
    information = np.array([[0.5 * truth.Py @ S @ truth.P @ T @ truth.Py for T in slopes] for S in slopes])
    scale = np.sqrt(np.diag(information))
    assert_allclose(o.score(theta) / scale, score / scale, atol=1e-9)
    assert_allclose(
        o.average_information(theta) / np.outer(scale, scale), information / np.outer(scale, scale), atol=1e-9
    )
    e = herd[2]["y"].to_numpy() - X @ truth.beta
    profile = -0.5 * (len(e) * np.log(2 * np.pi) + np.linalg.slogdet(truth.V)[1] + e @ truth.inverse @ e)
    assert_allclose(ml.log_likelihood(theta), profile, rtol=1e-12)
    score = [-0.5 * (np.vdot(truth.inverse, S) - truth.Py @ S @ truth.Py) for S in slopes]
    assert_allclose(ml.score(theta) / scale, score / scale, atol=1e-9)
    assert_allclose(o.covariance(theta), V(theta), atol=1e-12)
    assert_allclose(o.covariance_derivatives(theta), slopes, atol=1e-12)


def test_the_estimate_is_the_maximum_of_the_dense_likelihood(case, herd):
    fit, V, X, start = case
    assert fit.converged
    assert not fit.boundary

    def minus(theta):
        own = V(theta)
        return -dense(herd, own, X).loglik if np.linalg.eigvalsh(own)[0] > 0 else 1e6

    def slope(theta):
        truth = dense(herd, V(theta), X)
        return np.array([0.5 * (np.vdot(truth.P, S) - truth.Py @ S @ truth.Py) for S in slopes_of(V, theta)])

    found = minimize(minus, start, jac=slope, method="BFGS", options={"gtol": 1e-7})
    assert_allclose(fit.loglik, -found.fun, rtol=1e-10)
    assert_allclose(fit.theta, found.x, rtol=1e-4, atol=1e-5)


def test_what_follows_from_a_fit_is_that_of_dense_algebra(case, herd):
    """Whatever is looked at of a row: left out, standardised, its leverage, the residual's standard deviation."""
    fit, V, X, _ = case
    truth, theta = dense(herd, V(fit.theta), X), fit.theta.to_numpy()
    table = fit.diagnostics()
    assert_allclose(table["standardised"], truth.Py / np.sqrt(np.diag(truth.P)), rtol=1e-8)
    assert_allclose(table["loo_sd"], 1 / np.sqrt(np.diag(truth.P)), rtol=1e-9)
    zero = np.where(np.arange(len(theta)) < fit.objective.of_residual.start, 0.0, theta)
    R = V(zero)
    assert_allclose(table["residual"], R @ truth.Py, rtol=1e-7, atol=1e-9)
    assert_allclose(table["leverage"], 1 - np.diag(R @ truth.P), rtol=1e-7)
    assert_allclose(fit.residuals(scaled=True), table["residual"] / np.sqrt(np.diag(R)), rtol=1e-10)
    coordinate, residual, whole = fit.objective.products.records.coordinate, np.diag(R), np.diag(truth.V)
    for a, name in enumerate(fit.objective.coordinates):
        w = np.where(coordinate == a, herd[2]["w"], 0.0)
        assert_allclose(fit.shares[f"residual[{name}]"], (residual @ w) / (whole @ w))


def test_a_model_is_the_formula(case, herd):
    """`lmm_model` has the same likelihood, with priors as of other terms, and a point that the fit gives."""
    fit, _, _, _ = case
    model = fit.model
    again = flmm.find_reml(model, **QUIET)
    assert_allclose(again.loglik, fit.loglik, rtol=1e-12)
    assert_allclose(again.theta, fit.theta, rtol=1e-4, atol=1e-6)
    assert set(fit.point) == {variable.name for variable in model.free_RVs}
    names = {variable.name for variable in model.unobserved_RVs}
    assert names >= ({"sigma_e"} if fit.node.residual.columns == ("F", "M") else {"chol_e", "sigma_e", "corr_e"})


# ---------------------------------------------------------------- variances by group


@pytest.fixture(scope="module")
def sexes():
    """Two residual variances in twenty groups."""
    rng = np.random.default_rng(5)
    table = pd.DataFrame({"g": np.repeat(np.arange(20), 8), "sex": np.tile(["F", "M"], 80)})
    table["x"] = rng.normal(size=160)
    table["y"] = table["x"] + rng.normal(size=20)[table["g"]] + rng.normal(size=160) * np.tile([1.0, 2.0], 80)
    return table


@pytest.fixture(scope="module")
def by_sex(sexes):
    return flmm.find_reml("y ~ x + (1 | g)", sexes, residual="sex", **QUIET)


def test_a_fit_prints_the_variances_of_its_groups(by_sex):
    assert list(by_sex.theta.index) == ["g", "residual[F]", "residual[M]"]
    text = repr(by_sex)
    assert "residual = sex" in text
    assert "residual[M]" in text
    ratio = by_sex.function(lambda v: v["residual[M]"] / v["residual[F]"])
    assert ratio.estimate == pytest.approx(by_sex.theta["residual[M]"] / by_sex.theta["residual[F]"])


def test_equal_variances_are_those_of_one(sexes):
    """The likelihood with variances that are equal is the plain one, which a comparison knows to be nested."""
    plain = flmm.find_reml("y ~ x + (1 | g)", sexes, **QUIET)
    several = flmm.find_reml("y ~ x + (1 | g)", sexes, residual="sex", **QUIET)
    g, e = plain.theta
    assert_allclose(several.objective.log_likelihood(np.array([g, e, e])), plain.loglik, rtol=1e-12)
    table = flmm.compare_fits({"plain": plain, "by sex": several})
    assert table.loc["by sex", "p_value"] < 1e-6


def test_new_rows_have_the_variance_of_their_group(by_sex, sexes):
    new = sexes.iloc[:4].drop(columns="y")
    found = by_sex.predict(data=new)
    e = by_sex.theta[["residual[F]", "residual[M]"]].to_numpy()
    assert_allclose(found.residual_variance, np.tile(e, 2), rtol=1e-12)
    assert_allclose(found.se_observation**2, found.variance + np.tile(e, 2), rtol=1e-12)
    population = by_sex.predict(data=new.drop(columns="g"), effects="population")
    assert_allclose(population.residual_variance, np.tile(e, 2), rtol=1e-12)
    with pytest.raises(ValueError, match=r"no column 'sex', each of whose levels has a residual variance"):
        by_sex.predict(data=new.drop(columns="sex"))
    with pytest.raises(ValueError, match=r"'sex' has 'X' in the new data, of which no residual variance"):
        by_sex.predict(data=new.assign(sex="X"))


def test_rows_without_a_group_are_dropped_and_counted(sexes):
    with pytest.warns(UserWarning, match=r"2 of 160 rows dropped, with missing values \(sex 2\)"):
        fit = flmm.find_reml(
            "y ~ x + (1 | g)", sexes.assign(sex=sexes["sex"].mask(sexes.index < 2)), residual="sex", **QUIET
        )
    assert fit.node.n == 158


def test_a_variance_of_a_group_that_is_0_is_on_the_boundary():
    """The group's rows lie on a line that their random effects allow: σ² = 0 there, and V is no more singular."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"g": np.repeat(np.arange(30), 4), "kind": np.tile(["exact", "noisy", "noisy", "noisy"], 30)})
    u = rng.normal(size=30)
    table["y"] = u[table["g"]] + np.where(table["kind"] == "noisy", rng.normal(size=120), 0.0)
    fit = flmm.find_reml("y ~ 1 + (1 | g)", table, residual="kind", **QUIET)
    assert fit.converged
    assert fit.boundary == ("residual[exact]",)
    assert "on the boundary: residual[exact]" in fit.message
    V = fit.objective.covariance(fit.theta.to_numpy())
    assert_allclose(fit.loglik, Dense(V, np.ones((120, 1)), table["y"].to_numpy()).loglik, rtol=1e-9)


def test_a_variance_that_the_likelihood_drives_to_0_is_no_estimate():
    """Where one group has two rows of its own in one level each direction of them can be explained."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"g": np.repeat(np.arange(10), 3), "kind": "many"})
    table.loc[:1, "kind"] = "few"
    table["y"] = rng.normal(size=30)
    table.loc[:1, "y"] = 0.5
    fit = flmm.find_reml("y ~ 1 + (1 | g)", table, residual="kind", **QUIET)
    assert not fit.converged
    assert "goes to 0 and the likelihood still rises" in fit.message


def test_a_group_that_x_explains_is_refused(sexes):
    alone = sexes.assign(sex=np.where(np.arange(160) == 7, "one", sexes["sex"]), own=(np.arange(160) == 7) * 1.0)
    with pytest.raises(ValueError, match=r"X explains the columns of residual\[one\]"):
        flmm.find_reml("y ~ x + own + (1 | g)", alone, residual="sex", **QUIET)


def test_the_test_of_a_term_weights_rows_by_their_residual(by_sex):
    assert by_sex.test_no_variance("g", random_seed=1, n_sim=500).p_value < 1e-5
    with pytest.raises(ValueError, match=r"residual\[F\] is no variance of a component"):
        by_sex.test_no_variance("residual[F]")


def test_quadrature_and_shared_priors_are_of_one_residual_variance(by_sex, sexes):
    with pytest.raises(ValueError, match=r"the residuals have the variances residual\[F\], residual\[M\]"):
        by_sex.posterior()
    with pytest.raises(ValueError, match=r"a SharePrior is of one residual variance"):
        flmm.lmm_model("y ~ x + (1 | g)", sexes, residual="sex", priors=flmm.priors.SharePrior())


def test_priors_have_the_scale_of_their_group(sexes):
    model = flmm.lmm_model("y ~ x + (1 | g)", sexes, residual="sex")
    assert model.coords["e_effects"] == ("F", "M")
    left = sexes["y"] - np.polynomial.Polynomial.fit(sexes["x"], sexes["y"], 1)(sexes["x"])
    squares = (left**2).groupby(sexes["sex"]).mean().to_numpy() * 160 / 158
    scale = model["sigma_e"].owner.inputs[-1].eval()
    assert_allclose(scale, 2 * np.sqrt(squares), rtol=1e-10)
    own = flmm.lmm_model("y ~ x + (1 | g)", sexes, residual="sex", priors={"sigma_e": pm.Exponential.dist(1, shape=2)})
    assert type(own["sigma_e"].owner.op).__name__ == "ExponentialRV"


# ---------------------------------------------------------------- records


def test_a_singular_covariance_of_residuals_is_labelled():
    """Traits that differ by what random effects explain alone: the residual correlation is 1."""
    rng = np.random.default_rng(12)
    n = 150
    e = rng.normal(size=n)
    a, b = (rng.normal(size=30)[np.arange(n) % 30] for _ in range(2))
    table = pd.DataFrame({
        "record": np.repeat(np.arange(n), 2), "trait": np.tile(["a", "b"], n), "g": np.repeat(np.arange(n) % 30, 2),
    })  # fmt: skip
    table["plot"] = np.where(table["trait"] == "a", table["record"], n + table["record"] // 2)
    table["y"] = np.column_stack([a + e, b + 1.3 * e + 0.3 * rng.normal(size=75).repeat(2)]).ravel()
    fit = flmm.find_reml("y ~ trait + (0 + trait | g) + (1 | plot)", table, residual="(0 + trait | record)", **QUIET)
    own = {"residual[trait[a]]", "residual[trait[a], trait[b]]", "residual[trait[b]]"}
    assert own <= set(fit.boundary)
    assert fit.converged == ("still rises" not in fit.message)


def test_independent_coordinates_make_records_of_their_own(herd):
    """`||` leaves covariances out: one pattern for each trait, whichever records have it."""
    options = {"known": {"animal": herd[0]}, **QUIET}
    formula = "y ~ 0 + trait + x + (1 | animal)"
    by_record = flmm.find_reml(formula, herd[2], residual="(0 + trait || record)", **options)
    by_trait = flmm.find_reml(formula, herd[2], residual="trait", **options)
    assert len(by_record.node.products.records.patterns) == 3
    assert list(by_record.theta.index[1:]) == [f"residual[trait[{t}]]" for t in "abc"]
    assert_allclose(by_record.theta, by_trait.theta, rtol=1e-7)


def test_units_of_traits_do_not_matter(herd):
    """Kilograms beside per cent: a fit on the boundary takes the same steps to the same maximum."""
    formula, options = "y ~ 0 + trait + (0 + trait | animal)", {"known": {"animal": herd[0]}, **QUIET}
    unit = herd[2]["trait"].map({"a": 1e4, "b": 1.0, "c": 1e-4}).to_numpy()
    scaled = herd[2].assign(y=unit * herd[2]["y"])
    one, other = (flmm.find_reml(formula, t, residual="(0 + trait | record)", **options) for t in (herd[2], scaled))
    assert one.boundary == other.boundary
    assert len(one.trace.iterations) == len(other.trace.iterations)
    assert_allclose(other.loglik + np.log(unit).sum(), one.loglik, rtol=1e-9)


def test_new_rows_of_a_record_have_the_variance_of_their_trait(herd):
    fit = flmm.find_reml(
        "y ~ 0 + trait + (1 | animal)", herd[2], known={"animal": herd[0]}, residual="(0 + trait | record)", **QUIET
    )
    new = pd.DataFrame({"trait": ["c", "a"], "animal": ["a1", "a2"]})
    assert_allclose(fit.predict(data=new).residual_variance, fit.theta[["residual[trait[c]]", "residual[trait[a]]"]])


def test_profile_intervals_of_a_dozen_covariances_take_few_evaluations(herd):
    formula, residual, _, _ = CASES["traits of a record"]
    fit = flmm.find_reml(formula, herd[2], known={"animal": herd[0]}, residual=residual, weights="w", **QUIET)
    counted = mock.Mock(wraps=Polar.evaluate)
    allowed = 3.841458820694124  # of χ²₁
    names = [
        "animal[trait[a]]", "corr_animal[trait[a], trait[b]]", "sd_residual[trait[b]]",
        "corr_residual[trait[b], trait[c]]", "beta[x]",
    ]  # fmt: skip
    for name in names:
        counted.reset_mock()
        with mock.patch.object(Polar, "evaluate", lambda self, x: counted(self, x)):
            ends = fit.interval(name)
        assert counted.call_count < 60
        assert_allclose(2 * (fit.loglik - fit.profile(list(ends), name)), allowed, atol=1e-7)
        assert_allclose(np.sqrt(fit.interval("residual[trait[b]]")), fit.interval("sd_residual[trait[b]]"), rtol=1e-9)


def with_new_traits(herd):
    """New rows: traits that known records lack, one that is measured again, and of records that are new or unknown."""
    new = pd.DataFrame(
        [(1, "c"), (2, "a"), (3, "a"), (3, "b"), (0, "a"), (500, "a"), (500, "c"), (None, "b")],
        columns=["record", "trait"],
    )
    new["animal"] = ["a1", "a2", "a40", "a40", "a5", "a59", "a59", "a3"]
    new["x"], new["w"] = np.linspace(-1, 1, 8), np.linspace(0.5, 1.5, 8)
    whole = pd.concat([herd[2], new], ignore_index=True)
    whole["record"] = [*herd[2]["record"], 1, 2, 3, 3, 901, 902, 902, 903]  # as they are told apart
    return new, whole


def conditional(herd, theta, X, X_new, whole):
    """Mean and covariance of new observations given y, of a flat β, by dense algebra."""
    n, y = len(herd[2]), herd[2]["y"].to_numpy()
    V = of_traits((*herd[:2], whole), theta)
    K = np.linalg.solve(V[:n, :n], V[:n, n:]).T
    H, left = np.linalg.inv(X.T @ np.linalg.solve(V[:n, :n], X)), X_new - K @ X
    beta = H @ X.T @ np.linalg.solve(V[:n, :n], y)
    return X_new @ beta + K @ (y - X @ beta), V[n:, n:] - K @ V[:n, n:] + left @ H @ left.T


def test_a_missing_trait_is_predicted_from_the_others_of_its_record(herd):
    formula, residual, _, theta = CASES["traits of a record"]
    options = {"known": {"animal": herd[0]}, "residual": residual, "weights": "w"}
    fit = flmm.find_reml(formula, herd[2], max_iterations=1, **options, **QUIET)
    new, whole = with_new_traits(herd)
    X, X_new = fit.node.projection.X, fit.node.design.encode(new).to_numpy()
    mean, covariance = conditional(herd, np.array(theta), X, X_new, whole)
    found = fit.predict(data=new, theta=theta)
    assert_allclose(found.mean, mean, atol=1e-9)
    assert_allclose(found.se_observation**2, np.diag(covariance), rtol=1e-9)
    E = full(theta[6:])
    two = [
        E[2, 2] - E[2, :2] @ np.linalg.solve(E[:2, :2], E[:2, 2]),
        E[0, 0] - E[0, 1:] @ np.linalg.solve(E[1:, 1:], E[1:, 0]),
    ]
    own = [*two, E[0, 0] - E[0, 2] ** 2 / E[2, 2], E[1, 1] - E[1, 2] ** 2 / E[2, 2], *np.diag(E)[[0, 0, 2, 1]]]
    assert_allclose(found.residual_variance, own / new["w"], rtol=1e-12)
    alone = fit.predict(data=new.drop(columns="record"), theta=theta)  # new records
    assert_allclose(
        alone.residual_variance, E[[2, 0, 0, 1, 0, 0, 2, 1], [2, 0, 0, 1, 0, 0, 2, 1]] / new["w"], rtol=1e-12
    )
    population = fit.predict(data=new, theta=theta, effects="population")
    assert_allclose(population.residual_variance, alone.residual_variance, rtol=1e-12)


def test_draws_of_missing_traits_are_of_their_joint_distribution(herd):
    formula, residual, _, theta = CASES["traits of a record"]
    options = {"known": {"animal": herd[0]}, "residual": residual, "weights": "w"}
    model = flmm.lmm_model(formula, herd[2], **options)
    design = find_node(model).design
    new, whole = with_new_traits(herd)
    X = find_node(model).projection.X
    mean, covariance = conditional(herd, np.array(theta), X, design.encode(new).to_numpy(), whole)
    roots = {name: np.linalg.cholesky(full(part))[LOWER] for name, part in (("animal", theta[:6]), ("e", theta[6:]))}
    draws = {f"chol_{name}": np.broadcast_to(root, (1, 1000, 6)) for name, root in roots.items()}
    idata = flmm.predict(az.from_dict({"posterior": draws}), data=new, model=model, random_seed=4)
    y = idata.predictions["y"].to_numpy()[0]
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((y.mean(axis=0) - mean) / sd).max() < 4 / np.sqrt(1000)
    assert np.abs((np.cov(y.T) - covariance) / np.outer(sd, sd)).max() < 4 * np.sqrt(2 / 1000)


def test_new_rows_by_hand_name_their_record(herd):
    formula, residual, _, theta = CASES["traits of a record"]
    options = {"known": {"animal": herd[0]}, "residual": residual, "weights": "w"}
    fit = flmm.find_reml(formula, herd[2], max_iterations=1, **options, **QUIET)
    new, _ = with_new_traits(herd)
    new, traits = new.assign(w=1.0), [f"trait[{t}]" for t in new["trait"]]
    Z = fit.node.design.random[0].encode(new, fit.node.terms[0].levels).Z
    by_hand = {"animal": Z, "residual": (new["record"].to_numpy(), traits)}
    X = fit.node.design.encode(new)
    found, told = fit.predict(X, by_hand, theta=theta), fit.predict(data=new, theta=theta)
    assert_allclose(found.mean, told.mean, rtol=1e-12)
    assert_allclose(found.se_observation, told.se_observation, rtol=1e-12)


def test_visits_of_a_subject_are_autoregressive_as_in_nlme():
    """Any structure may be that of Σ_e: gls(distance ~ age + Sex, correlation = corAR1(form = ~ 1 | Subject))."""
    rows = json.loads((REFERENCE / "lme4_nlme.json").read_text())
    row = next(row for row in rows if row["name"] == "orthodont_ar1_reml")
    table = pd.read_csv(REFERENCE / "orthodont.csv")
    X = np.column_stack([np.ones(len(table)), table["age"], table["Sex"] == "Male"])
    with pm.Model() as model:
        v, sigma2, rho = pm.HalfNormal("v", 1), pm.HalfNormal("sigma2", 1), pm.Uniform("rho", -1, 1)
        subject = flmm.Term(table["Subject"], cov.scalar(v), name="subject")
        visits = flmm.Term(table["Subject"], cov.ar1(sigma2, rho), columns=pd.get_dummies(table["age"]))
        flmm.StructuredLMM("y", X=X, terms=[subject], residual=visits, observed=table["distance"])
    fit = flmm.find_reml(model, fixed={"subject": 0.0}, start={"residual.sigma2": 4.0, "residual.rho": 0.5}, **QUIET)
    assert_allclose(fit.theta[["residual.sigma2", "residual.rho"]], [row["sigma2"], row["rho"]], rtol=1e-5)
    assert_allclose(fit.loglik, row["loglik"], rtol=1e-9)
    assert_allclose(fit.beta, row["beta"], rtol=1e-5)


# ---------------------------------------------------------------- what is refused


def term(values=None, **options):
    """A residual of six rows, three records of two traits."""
    given = {"by": np.repeat(np.arange(3), 2), "covariance": cov.unstructured(np.eye(2)), "columns": TWO} | options
    return flmm.Term(given.pop("by"), given.pop("covariance"), **given)


TWO = pd.DataFrame(np.tile(np.eye(2), (3, 1)), columns=["a", "b"])
RELATED = cov.known(pd.DataFrame(np.eye(3) + 0.1, index=range(3), columns=range(3)))
REFUSED = {
    "several rows are one coordinate of one record of the residual: '0 \\(a\\)'": lambda: term(
        by=np.zeros(6, dtype=int)
    ),
    "rows 1, 3, 5 of the residual term 'u' are not one coordinate": lambda: term(columns=TWO.assign(a=1.0)),
    "has no rows of 'c'": lambda: term(covariance=cov.diagonal(np.ones(3)), columns=TWO.assign(c=0.0)),
    "has records that are related": lambda: term(across=RELATED),
}


@pytest.mark.parametrize("message", REFUSED)
def test_residuals_that_are_none_are_refused(message):
    crossed = [flmm.Term(np.arange(6) % 2, cov.scalar(1.0), name="g")]
    with pytest.raises(ValueError, match=message):
        flmm.StructuredLMM.dist(X=np.ones((6, 1)), terms=crossed, residual=REFUSED[message]())


def test_exactly_one_residual_is_taken():
    crossed = [flmm.Term(np.arange(6) % 2, cov.scalar(1.0), name="g")]
    for both in ({}, {"sigma2_e": 1.0, "residual": term()}):
        with pytest.raises(ValueError, match="give exactly one of sigma2_e"):
            flmm.StructuredLMM.dist(X=np.ones((6, 1)), terms=crossed, **both)
    with pytest.raises(TypeError, match=r"residual must be a flmm\.Term, got str"):
        flmm.StructuredLMM.dist(X=np.ones((6, 1)), terms=crossed, residual="sex")
    with pytest.raises(ValueError, match="residual has 6 rows but term u has 8"):
        flmm.StructuredLMM.dist(terms=[flmm.Term(np.arange(8) % 2, cov.scalar(1.0))], residual=term())


def test_rows_that_were_not_kept_have_one_residual_variance():
    rng = np.random.default_rng(0)
    s = flmm.TermStatistics.from_arrays(np.ones((50, 1)), pd.DataFrame(rng.normal(size=(50, 2))), rng.normal(size=50))
    own = [flmm.Term(s.Z, cov.scalar(1.0), name="z")]
    with pm.Model(), pytest.raises(ValueError, match="rows of TermStatistics have one residual variance"):
        flmm.StructuredLMM("y", X=s.X, terms=own, residual=term(), observed=s)


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        ("colour", "residual='colour' is not among the columns"),
        ("(0 + sex | colour)", "the grouping factor 'colour' of formula"),
        ("0 + sex | g", "is not one bar in parentheses"),
        ("(0 + sex | g/sex)", "several grouping factors"),
        ("(1 | g)", "several rows are one coordinate of one record"),
    ],
)
def test_formulas_of_residuals_that_are_none(sexes, residual, message):
    with pytest.raises(ValueError, match=message):
        flmm.find_reml("y ~ x + (1 | g)", sexes, residual=residual, **QUIET)


def test_a_term_is_no_formula(sexes):
    with pytest.raises(TypeError, match="residual must be the name of a column or a bar"):
        flmm.find_reml("y ~ x + (1 | g)", sexes, residual=term(), **QUIET)


def test_new_rows_by_hand_name_their_coordinate(sexes):
    with pm.Model() as model:
        v, e = pm.HalfNormal("v", 1), pm.HalfNormal("e", 1, shape=2)
        own = flmm.Term(sexes["g"], cov.scalar(v), name="g")
        residual = flmm.Term(np.arange(160), cov.diagonal(e), columns=pd.get_dummies(sexes["sex"]))
        flmm.StructuredLMM("y", X=np.ones((160, 1)), terms=[own], residual=residual, observed=sexes["y"])
    fit, X = flmm.find_reml(model, **QUIET), np.ones((2, 1))
    assert find_node(model).residual is not None
    found = fit.predict(X, {"g": [0, 1], "residual": ["M", "F"]})
    assert_allclose(found.residual_variance, fit.theta[["residual[M]", "residual[F]"]])
    with pytest.raises(ValueError, match=r"new rows need the coordinate of their residual, one of 'F', 'M'"):
        fit.predict(X, {"g": [0, 1]})
    with pytest.raises(ValueError, match=r"has 'Q', but the residual has a variance for each of"):
        fit.predict(X, {"g": [0, 1], "residual": ["M", "Q"]})
