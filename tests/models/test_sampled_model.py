"""Models in which effects are sampled: their density by hand, and its Laplace approximation that of `LatentLMM`."""

import logging

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
import scipy.optimize
from scipy import stats
from scipy.special import expit

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.latent.user_family import CustomFamily

N = 24
HERDS = np.repeat(list("abcd"), 6)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(7)
    x = rng.normal(1, 1, N)
    eta = 0.3 + 0.4 * x + np.repeat([0.8, -0.5, 0.1, -0.9], 6)
    return pd.DataFrame(
        {
            "herd": HERDS, "x": x, "sick": rng.binomial(1, expit(eta)), "ill": rng.binomial(6, expit(eta)),
            "dam": np.tile(list("badc"), 6), "cases": rng.poisson(np.exp(eta)),
            "eggs": rng.poisson(np.exp(eta) * rng.gamma(2.0, 0.5, N)), "weight": rng.gamma(3.0, np.exp(eta) / 3),
            "grade": np.digitize(eta + rng.logistic(size=N), [0.0, 1.5]), "days": rng.uniform(1, 2, N),
            "known": rng.uniform(-0.5, 0.5, N),
        }
    )  # fmt: skip


def _ordered(y, eta):
    below = expit(np.array([-0.2, 1.4]) - eta[:, None])
    return np.log(np.diff(below, prepend=0, append=1)[np.arange(N), y])


DENSITIES = {
    "bernoulli": ("sick", {"family": "bernoulli"}, lambda y, eta: stats.bernoulli.logpmf(y, expit(eta))),
    "probit": ("sick", {"family": "bernoulli", "link": "probit"},
               lambda y, eta: stats.bernoulli.logpmf(y, stats.norm.cdf(eta))),
    "cloglog": ("sick", {"family": "bernoulli", "link": "cloglog"},
                lambda y, eta: stats.bernoulli.logpmf(y, 1 - np.exp(-np.exp(eta)))),
    "binomial": ("ill", {"family": "binomial", "trials": 6}, lambda y, eta: stats.binom.logpmf(y, 6, expit(eta))),
    "poisson": ("cases", {"family": "poisson"}, lambda y, eta: stats.poisson.logpmf(y, np.exp(eta))),
    "negative_binomial": ("eggs", {"family": "negative_binomial"},
                          lambda y, eta: stats.nbinom.logpmf(y, 1.7, 1.7 / (1.7 + np.exp(eta)))),
    "gamma": ("weight", {"family": "gamma"}, lambda y, eta: stats.gamma.logpdf(y, 1.7, scale=np.exp(eta) / 1.7)),
    "ordinal": ("grade", {"family": "ordinal"}, lambda y, eta: _ordered(y, eta)),
}  # fmt: skip
PSI = {"alpha": ("alpha_log__", np.log(1.7)), "cutpoints": ("cutpoints_ordered__", np.array([-0.2, np.log(1.6)]))}


def point_of(model, **given):
    """Return a point of the model with these values, and of the family's parameter 1.7 or (-0.2, 1.4)."""
    point = model.initial_point()
    for name, value in [*given.items(), *(PSI[name] for name in PSI if name in model.named_vars)]:
        assert name in point
        point[name] = np.asarray(value, dtype=float)
    return point


@pytest.mark.parametrize("case", DENSITIES)
def test_the_density_is_that_of_scipy(table, case):
    response, given, density = DENSITIES[case]
    prior = {"beta": pm.Normal.dist(0, 2)}
    model = flmm.lmm_model(
        f"{response} ~ x + (1 | herd)", table, **given, effects="sampled", priors=prior, offset="known"
    )
    ordinal = case == "ordinal"
    z, beta = np.array([0.4, -1.0, 0.2, 0.7]), np.array([-0.5, 0.3])[ordinal:]
    point = point_of(model, **{"sigma_herd_log__": np.log(0.8), f"{response}_herd_raw": z, f"{response}_beta": beta})
    eta = table.known + table.x * 0.3 + (0.0 if ordinal else -0.5) + np.repeat(0.8 * z, 6)
    expected = density(table[response].to_numpy(), eta.to_numpy()).sum()
    assert model.compile_logp(vars=model[response])(point) == pytest.approx(expected, rel=1e-10)
    assert model.compile_logp(vars=model[f"{response}_herd_raw"])(point) == pytest.approx(stats.norm.logpdf(z).sum())
    assert model.compile_logp(vars=model[f"{response}_beta"])(point) == pytest.approx(
        stats.norm.logpdf(beta, 0, 2).sum(), rel=1e-6
    )


def laplace_of(model, walked, point):
    """Approximate the integral over variables of a model by a normal density at their mode, by differences."""
    logp = model.compile_logp()
    sizes = {name: point[name].shape for name in walked}

    def at(v):
        here, start = dict(point), 0
        for name, shape in sizes.items():
            end = start + int(np.prod(shape))
            here[name] = v[start:end].reshape(shape)
            start = end
        return -float(logp(here))

    d = sum(int(np.prod(shape)) for shape in sizes.values())
    options = {"xtol": 1e-12, "ftol": 1e-14, "maxiter": 500}
    mode = scipy.optimize.minimize(at, np.zeros(d), method="Powell", options=options).x
    mode = scipy.optimize.minimize(at, mode, method="BFGS", options={"gtol": 1e-8}).x
    h, eye = 2e-3, np.eye(d)
    H = np.empty((d, d))
    for i in range(d):
        for j in range(i + 1):
            signs = [(a, b) for a in (1, -1) for b in (1, -1)]
            near = sum(a * b * at(mode + h * (a * eye[i] + b * eye[j])) for a, b in signs) / (4 * h * h)
            far = sum(a * b * at(mode + 2 * h * (a * eye[i] + b * eye[j])) for a, b in signs) / (16 * h * h)
            H[i, j] = H[j, i] = (4 * near - far) / 3
    return -at(mode) + d / 2 * np.log(2 * np.pi) - np.linalg.slogdet(H)[1] / 2


@pytest.mark.parametrize("case", ["bernoulli", "negative_binomial", "ordinal"])
def test_its_laplace_approximation_is_the_density_of_the_integrated_model(table, case):
    response, given, _ = DENSITIES[case]

    def made(**more):
        prior = {"beta": pm.Normal.dist(0, 2)}
        return flmm.lmm_model(f"{response} ~ x + (1 | herd)", table, **given, priors=prior, **more)

    sampled, integrated = made(effects="sampled"), made()
    assert {v.name for v in integrated.free_RVs} < {v.name for v in sampled.free_RVs}
    sigma = {"sigma_herd_log__": np.log(0.8)}
    expected = integrated.compile_logp()(point_of(integrated, **sigma))
    walked = [f"{response}_beta", f"{response}_herd_raw"]
    found = laplace_of(sampled, walked, point_of(sampled, **sigma))
    assert found == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("slopes", ["x", "1"])
def test_related_effects_of_both_models_have_one_covariance(table, slopes):
    flock = cov.Pedigree([*"abcd", "ram"], ["ram", None, None, "ram", None], [None, None, None, "b", None])
    formula = f"cases ~ x + ({slopes} | herd)"
    known = {"family": "poisson", "known": {"herd": flock}, "priors": {"beta": pm.Normal.dist(0, 2)}}
    sampled = flmm.lmm_model(formula, table, effects="sampled", **known)
    integrated = flmm.lmm_model(formula, table, **known)
    if slopes == "x":
        given = {"chol_herd_cholesky-cov-packed__": np.array([np.log(0.8), 0.2, np.log(0.5)])}
    else:
        given = {"sigma_herd_log__": np.log(0.8)}
    expected = integrated.compile_logp()(point_of(integrated, **given))
    found = laplace_of(sampled, ["cases_beta", "cases_herd_raw"], point_of(sampled, **given))
    assert found == pytest.approx(expected, abs=5e-5)
    assert sampled.coords["herd"] == integrated.coords["herd"]


ROLES = {
    "independent": ("cases ~ x + (x || herd)", {}),
    "one slope": ("cases ~ x + (0 + x | herd)", {}),
    "covariance": ("cases ~ x + (1 | herd)", {"herd": 0.6}),
    "maternal": ("cases ~ x + (1 |g| herd) + (1 |g| dam)", {"herd": 0.6, "dam": 0.6}),
    "numbered": ("cases ~ x + (x | herd) + (0 + days | herd)", {}),
    "nested": ("cases ~ x + (1 | herd/dam)", {}),
}


@pytest.mark.parametrize("case", ROLES)
def test_effects_of_every_kind_are_as_in_the_node(table, case):
    """η at drawn effects is Xβ + Σ Zu of the terms of the integrated model, whose variances are the same variables."""
    formula, related = ROLES[case]
    K = pd.DataFrame(0.6 ** np.abs(np.subtract.outer(range(4), range(4))), list("abcd"), list("abcd"))
    known = dict.fromkeys(related, K)
    given = {"family": "poisson", "known": known}
    sampled, integrated = (flmm.lmm_model(formula, table, **given, **more) for more in ({"effects": "sampled"}, {}))
    node = flmm.find_reml(formula, table, progressbar=False, **given).node
    variances = {v.name for v in integrated.free_RVs}
    assert variances <= {v.name for v in sampled.free_RVs}
    eta = pm.math.log(sampled["cases"].owner.inputs[-1])
    names = [f"cases_{term.name}" for term in node.terms]
    drawn = pm.draw([eta, sampled["cases_beta"], *(sampled[name] for name in names)], draws=3, random_seed=1)
    for i in range(3):
        expected = node.projection.X @ drawn[1][i]
        for term, u in zip(node.terms, drawn[2:], strict=True):
            expected = expected + term.Z @ u[i].ravel()
        np.testing.assert_allclose(drawn[0][i], expected, rtol=1e-6, atol=1e-7)
    for term in node.terms:
        assert tuple(sampled.coords[term.name]) == term.levels


def test_drawn_effects_have_the_covariance_of_the_term(table):
    K = pd.DataFrame(0.6 ** np.abs(np.subtract.outer(range(4), range(4))), list("abcd"), list("abcd"))
    model = flmm.lmm_model(
        "cases ~ x + (x | herd) + (0 + days | herd)", table, family="poisson", known={"herd": K}, effects="sampled"
    )
    names = ["cases_herd", "chol_herd_1", "sigma_herd_2"]
    drawn = pm.draw([model[name] for name in names], draws=4000, random_seed=3)
    white = np.empty((4000, 4, 3))
    for i, (u, (a, b, c), sd) in enumerate(zip(*drawn, strict=True)):
        within = np.array([[a, 0, 0], [b, c, 0], [0, 0, sd]])
        white[i] = np.linalg.solve(np.linalg.cholesky(K), np.linalg.solve(within, u.T).T)
    found = np.cov(white.reshape(4000, -1), rowvar=False)
    np.testing.assert_allclose(found, np.eye(12), atol=5 / np.sqrt(4000) * np.sqrt(2))


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="pm_fastlmm")
    return caplog


@pytest.mark.parametrize(("each", "form"), [(10, "centred"), (6, "non-centred")])
def test_effects_with_more_than_forty_events_are_centred(said, each, form):
    """A Poisson record has the information of its count: five records of ten are 50 events, of six 30."""
    table = pd.DataFrame({"herd": np.repeat(list("abcdef"), 5), "cases": each})
    table.loc[::2, "cases"] += 1
    table.loc[1::2, "cases"] -= 1
    model = flmm.lmm_model("cases ~ 1 + (1 | herd)", table, family="poisson", effects="sampled")
    much = "much" if form == "centred" else "little"
    assert said.messages == [f"cases_herd: {form}, by records that say {much} of each level"]
    assert ("cases_herd" in [v.name for v in model.free_RVs]) == (form == "centred")


@pytest.mark.parametrize("link", ["logit", "probit"])
@pytest.mark.parametrize(("share", "form"), [(2, "centred"), (20, "non-centred")])
def test_rare_outcomes_say_less_of_a_level_than_even_ones(said, share, link, form):
    """Of 80 outcomes of a logit, D = p(1 - p) each, ΣD s² is 66 at p = 1/2, and 12 at 1/20."""
    table = pd.DataFrame({"herd": np.repeat(list("abcdef"), 80), "sick": np.tile(np.arange(80) % share == 0, 6)})
    flmm.lmm_model("sick ~ 1 + (1 | herd)", table, family="bernoulli", link=link, effects="sampled")
    assert said.messages[-1].startswith(f"sick_herd: {form},")


def test_the_choice_does_not_depend_on_the_unit_of_a_slope(said):
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"herd": np.repeat(list("abcdef"), 5), "cases": 12, "x": rng.normal(size=30)})
    for unit in (1.0, 1000.0):
        flmm.lmm_model(
            "cases ~ 1 + (0 + x | herd)", table.assign(x=unit * table.x), family="poisson", effects="sampled"
        )
    assert len(set(said.messages)) == 1


def test_relatives_without_records_count_among_the_effects(said):
    table = pd.DataFrame({"herd": np.repeat(list("ab"), 10), "cases": np.tile([9, 11], 10)})
    tree = cov.Pedigree([*"abcdefg"], [None] * 7, [None] * 7)
    given = {"family": "poisson", "effects": "sampled"}
    flmm.lmm_model("cases ~ 1 + (1 | herd)", table, **given)
    flmm.lmm_model("cases ~ 1 + (1 | herd)", table, known={"herd": tree}, **given)
    forms = [m for m in said.messages if "entred" in m]
    assert "cases_herd: centred" in forms[0]
    assert "cases_herd: non-centred, by records that say little of each level" in forms[1]


def test_a_singular_covariance_is_not_centred(said):
    table = pd.DataFrame({"herd": np.repeat(list("abc"), 10), "cases": np.tile([9, 11], 15)})
    K = pd.DataFrame(np.ones((3, 3)) + np.diag([1.0, 0, 0]), list("abc"), list("abc"))
    flmm.lmm_model("cases ~ 1 + (1 | herd)", table, known={"herd": K}, family="poisson", effects="sampled")
    assert "cases_herd: non-centred, by a covariance that is singular" in said.messages


def test_the_prior_of_coefficients_is_the_same_in_any_coding_of_x(table):
    """Xβ has mean η of the mean response and, on average over rows, a variance of (5s)² for each coefficient."""
    offset = np.log(table.days)
    variances = []
    for x in (table.x, 2000 + 10 * table.x):
        model = flmm.lmm_model(
            "cases ~ x + (1 | herd)", table.assign(x=x), family="poisson", effects="sampled", offset=offset
        )
        beta = pm.draw(model["cases_beta"], draws=4000, random_seed=5)
        fixed = beta @ np.column_stack([np.ones(N), x]).T
        np.testing.assert_allclose(fixed.mean(axis=0), np.log(table.cases.mean()) - offset.mean(), atol=0.6)
        variances.append(fixed.var(axis=0).mean())
    np.testing.assert_allclose(variances, 25 * 2, rtol=0.08)


def test_the_prior_of_slopes_of_an_ordered_response_is_about_the_mean_of_x(table):
    s2 = np.pi**2 / 3
    for x in (table.x, table.x + 50):
        model = flmm.lmm_model("grade ~ x + (1 | herd)", table.assign(x=x), family="ordinal", effects="sampled")
        beta = pm.draw(model["grade_beta"], draws=4000, random_seed=5)[:, 0]
        assert beta.std() == pytest.approx(5 * np.sqrt(s2) / table.x.std(ddof=0), rel=0.05)
        assert abs(beta.mean()) < 5 * beta.std() / np.sqrt(4000)


def test_categories_and_coefficients_have_names(table):
    ordered = table.assign(grade=pd.Categorical.from_codes(table.grade, ["low", "mid", "high"], ordered=True))
    model = flmm.lmm_model("grade ~ x + (1 | herd)", ordered, family="ordinal", effects="sampled")
    assert model.coords["grade_category"] == ("low", "mid", "high")
    assert model.coords["cutpoint"] == ("low | mid", "mid | high")
    assert model.coords["grade_coef"] == ("x",)
    assert model.named_vars_to_dims["grade_herd"] == ("herd",)
    assert model.named_vars_to_dims["grade"] == ("obs",)


def test_a_family_of_the_user_has_no_distribution_to_sample_from(table):
    own = CustomFamily(lambda y, eta: y * eta - pt.exp(eta) - pt.gammaln(y + 1), name="counts")
    message = r"family 'counts' of your own has no distribution of PyMC: .*RelatedEffects"
    with pytest.raises(ValueError, match=message):
        flmm.lmm_model("cases ~ x + (1 | herd)", table, family=own, effects="sampled")


@pytest.mark.slow
def test_nuts_over_effects_finds_the_posterior_of_the_integrated_model():
    """Counts of a dozen each, where Laplace's approximation is close."""
    rng = np.random.default_rng(3)
    herd = np.repeat(np.arange(15), 8)
    x = rng.normal(size=120)
    table = pd.DataFrame({"herd": herd, "x": x})
    table["cases"] = rng.poisson(np.exp(2 + 0.3 * x + (0.6 * rng.normal(size=15))[herd]))
    options = {"draws": 1000, "chains": 4, "cores": 1, "progressbar": False, "random_seed": 2}
    sampled = flmm.lmm_model("cases ~ x + (1 | herd)", table, family="poisson", effects="sampled")
    integrated = flmm.lmm_model("cases ~ x + (1 | herd)", table, family="poisson")
    first = pm.sample(model=sampled, tune=1000, **options).posterior
    other = flmm.sample(model=integrated, quiet=True, **options).posterior
    for name, coords in (("sigma_herd", {}), ("cases_beta", {"cases_coef": "x"})):
        a, b = (group[name].sel(coords).to_numpy().ravel() for group in (first, other))
        error = np.sqrt(a.var() / 800 + b.var() / 800)  # at an effective size of 800 each
        assert abs(a.mean() - b.mean()) < 4 * error
        assert a.std() == pytest.approx(b.std(), rel=0.15)


def test_far_probabilities_of_probit_do_not_cancel(table):
    model = flmm.lmm_model(
        "sick ~ 1 + (1 | herd)", table, family="bernoulli", link="probit", effects="sampled",
        offset=np.full(N, 12.0), priors={"beta": pm.Normal.dist(0, 2)},
    )  # fmt: skip
    point = {name: np.zeros_like(value) for name, value in model.initial_point().items()}
    found = model.compile_logp(vars=[model["sick"]], sum=False)(point)[0]
    sign = np.where(table["sick"] == 1, 1, -1)
    np.testing.assert_allclose(found, stats.norm.logcdf(12.0 * sign), rtol=1e-7)  # Φ(12) is 1 in floating point
    assert np.isfinite(model.compile_dlogp()(point)).all()
