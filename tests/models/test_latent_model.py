"""Models of formulas with a family: that of the distribution by hand, its priors, its names, and new rows."""

import copy
import pickle
from typing import Any

import arviz as az
import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
from scipy import stats

import pm_fastlmm as flmm
from pm_fastlmm.engines.latent.user_family import CustomFamily
from pm_fastlmm.models.latent_model import SCALE, latent_sd

HERDS = np.repeat(list("abcdefgh"), 6)
N = len(HERDS)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(11)
    x = rng.normal(2, 1, N)
    eta = 0.4 * (x - 2) + np.repeat(rng.normal(size=8), 6) + np.repeat(rng.normal(size=8), 6) * (x - 2) * 0.7
    born = rng.integers(3, 9, N)
    grade = np.digitize(eta + rng.logistic(size=N), [-1, 0.5, 2])
    return pd.DataFrame(
        {
            "herd": HERDS, "x": x, "f": np.tile(list("uvw"), N // 3), "born": born, "days": rng.uniform(1, 5, N),
            "ill": rng.binomial(born, 1 / (1 + np.exp(-eta))), "sick": (eta + rng.logistic(size=N) > 0).astype(int),
            "cases": rng.poisson(np.exp(eta)), "eggs": rng.poisson(np.exp(eta) * rng.gamma(2.0, 0.8, N)),
            "weight": rng.gamma(3.0, np.exp(eta)),
            "grade": pd.Categorical.from_codes(grade, ["no", "some", "much", "all"], ordered=True),
        }
    )  # fmt: skip


FAMILIES = {
    "bernoulli": ("sick", {"family": "bernoulli"}),
    "probit": ("sick", {"family": "bernoulli", "link": "probit"}),
    "binomial": ("ill", {"family": "binomial", "trials": "born"}),
    "poisson": ("cases", {"family": "poisson", "offset": "days"}),
    "negative binomial": ("eggs", {"family": "negative_binomial"}),
    "gamma": ("weight", {"family": "gamma"}),
    "ordinal": ("grade", {"family": "ordinal"}),
}


def by_hand(table, family, link=None, trials=None, offset=None, slopes=False):
    """Build the model of `LatentLMM` itself."""
    response = next(name for name, given in FAMILIES.values() if given["family"] == family)
    X = np.column_stack([np.ones(N), table.x, table.f == "v", table.f == "w"])
    more = {"trials": table.born.to_numpy()} if trials else {}
    more |= {"mu": table[offset].to_numpy()} if offset else {}
    y = table[response].cat.codes.to_numpy() if family == "ordinal" else table[response].to_numpy()
    with pm.Model() as model:
        if slopes:
            chol, _, _ = pm.LKJCholeskyCov("chol_herd", eta=2, n=2, sd_dist=pm.HalfNormal.dist(1, shape=2))
            within, columns = flmm.covariance.unstructured(cholesky=chol), X[:, :2]
        else:
            within, columns = flmm.covariance.scalar(pm.HalfNormal("sigma_herd", 1) ** 2), None
        if family in ("negative_binomial", "gamma"):
            more["alpha"] = pm.Exponential("alpha", 1)
        if family == "ordinal":
            more["cutpoints"] = pm.Normal("cutpoints", 0, 9, shape=3, transform=pm.distributions.transforms.ordered,
                                          initval=[-1, 0, 1])  # fmt: skip
            X = X[:, 1:]
        flmm.LatentLMM(
            "y", family=family, link=link, X=X, terms=[flmm.Term(table.herd.to_numpy(), within, columns=columns)],
            observed=y, **more,
        )  # fmt: skip
    return model


def likelihood(model, name, point):
    """Return the log-likelihood of a model at values of its variables, without priors."""
    values = {model.rvs_to_values[rv]: point[rv.name] for rv in model.free_RVs}
    (logp,) = model.logp(vars=[model[name]], sum=False, jacobian=False)
    f = model.compile_fn(logp.sum(), inputs=list(values), on_unused_input="ignore")
    transformed = {}
    for rv in model.free_RVs:
        value, transform = model.rvs_to_values[rv], model.rvs_to_transforms[rv]
        given: Any = np.asarray(point[rv.name], dtype=float)
        if transform is not None:
            given = transform.forward(pt.as_tensor(given), *rv.owner.inputs).eval()
        transformed[value.name] = given
    return float(f(transformed))


@pytest.mark.parametrize("case", FAMILIES)
def test_the_model_of_a_formula_is_that_by_hand(table, case):
    response, given = FAMILIES[case]
    model = flmm.lmm_model(f"{response} ~ x + f + (1 | herd)", table, **given)
    hand = by_hand(table, **given)
    assert [v.name for v in model.free_RVs] == [v.name for v in hand.free_RVs]
    point = {"sigma_herd": 0.7, "alpha": 1.9, "cutpoints": np.array([-0.4, 0.9, 2.0])}
    assert likelihood(model, response, point) == pytest.approx(likelihood(hand, "y", point), rel=1e-10)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("case", FAMILIES)
def test_the_fit_of_a_formula_is_that_by_hand_and_that_of_its_model(table, case, method):
    response, given = FAMILIES[case]
    fit = flmm.find_reml(f"{response} ~ x + f + (1 | herd)", table, method=method, progressbar=False, **given)
    hand = flmm.find_reml(by_hand(table, **given), method=method, progressbar=False)
    assert fit.converged
    assert fit.loglik == pytest.approx(hand.loglik, abs=1e-7)
    np.testing.assert_allclose(fit.theta, hand.theta, rtol=2e-3)
    np.testing.assert_allclose(fit.blue, hand.blue, rtol=2e-3, atol=1e-4)
    model = fit.model
    assert fit.point.keys() == {v.name for v in model.free_RVs}
    # the point is where the model's likelihood is that of the fit, of REML
    if method == "REML":
        assert likelihood(model, response, fit.point) == pytest.approx(fit.loglik, abs=1e-8)


def test_correlated_slopes_are_those_by_hand(table):
    fit = flmm.find_reml("cases ~ x + f + (x | herd)", table, family="poisson", progressbar=False)
    hand = flmm.find_reml(by_hand(table, "poisson", slopes=True), progressbar=False)
    assert fit.loglik == pytest.approx(hand.loglik, abs=1e-7)
    np.testing.assert_allclose(fit.theta, hand.theta, rtol=5e-3, atol=1e-5)
    assert list(fit.theta.index) == ["herd[Intercept]", "herd[Intercept, x]", "herd[x]"]
    assert likelihood(fit.model, "cases", fit.point) == pytest.approx(fit.loglik, abs=1e-8)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog", None])
def test_half_of_the_prior_of_a_variance_is_below_that_of_the_latent_outcome(table, link):
    given = {"family": "poisson"} if link is None else {"family": "bernoulli", "link": link}
    model = flmm.lmm_model(f"{'cases' if link is None else 'sick'} ~ x + (1 | herd)", table, **given)
    latent = {"logit": stats.logistic, "probit": stats.norm, "cloglog": stats.gumbel_l, None: stats.norm}[link]
    scale = float(model["sigma_herd"].owner.inputs[-1].eval())
    assert scale == pytest.approx(SCALE * latent.std())
    share = stats.halfnorm(0, scale).median() ** 2
    assert share / (share + latent.var()) == pytest.approx(0.5, abs=0.01)
    family = flmm.MixedDesign.from_formula(
        f"{'cases' if link is None else 'sick'} ~ 1 + (1 | herd)", table, **given
    ).of_family.family
    assert latent_sd(family) == pytest.approx(latent.std())


def test_the_prior_of_alpha_is_half_normal_in_the_coefficient_of_variation(table):
    model = flmm.lmm_model("weight ~ x + (1 | herd)", table, family="gamma")
    logp = model.compile_logp(vars=model["alpha"], jacobian=False)
    for cv in (0.1, 1.0, 2.5):
        # p(alpha) dalpha = p(cv) dcv, cv = alpha^(-1/2)
        expected = stats.halfnorm.logpdf(cv) + np.log(cv**3 / 2)
        point = model.initial_point() | {"alpha_log__": np.log(cv**-2.0)}
        assert logp(point) == pytest.approx(expected)


def test_slopes_have_the_prior_of_their_unit_and_a_known_K_that_of_its_diagonal(table):
    first = flmm.lmm_model("cases ~ x + (0 + x | herd)", table, family="poisson")
    other = flmm.lmm_model("cases ~ x + (0 + x | herd)", table.assign(x=100 * table.x), family="poisson")
    scales = [float(m["sigma_herd"].owner.inputs[-1].eval()) for m in (first, other)]
    assert scales[0] == pytest.approx(100 * scales[1])
    K = pd.DataFrame(4.0 * np.eye(8), list("abcdefgh"), list("abcdefgh"))
    related = flmm.lmm_model("cases ~ x + (1 | herd)", table, family="poisson", known={"herd": K})
    assert float(related["sigma_herd"].owner.inputs[-1].eval()) == pytest.approx(SCALE / 2)


def test_cutpoints_have_names_and_a_flat_prior(table):
    model = flmm.lmm_model("grade ~ x + (1 | herd)", table, family="ordinal")
    assert model.coords["cutpoint"] == ("no | some", "some | much", "much | all")
    assert model.coords["grade_category"] == ("no", "some", "much", "all")
    assert model.named_vars_to_dims["cutpoints"] == ("cutpoint",)
    logp = model.compile_logp(vars=model["cutpoints"], jacobian=False)
    for shift in (0.0, 7.0):
        point = model.initial_point()
        point["cutpoints_ordered__"] = point["cutpoints_ordered__"] + shift
        assert logp(point) == 0


def test_other_priors_take_the_place_of_the_default(table):
    given = {"sigma_herd": pm.Exponential.dist(3), "alpha": pm.Gamma.dist(2, 1)}
    model = flmm.lmm_model("weight ~ x + (1 | herd)", table, family="gamma", priors=given)
    assert model["sigma_herd"].owner.op.name == "exponential"
    assert model["alpha"].owner.op.name == "gamma"
    cutpoints = pm.Normal.dist([-1.0, 0, 1], 3)
    model = flmm.lmm_model("grade ~ x + (1 | herd)", table, family="ordinal", priors={"cutpoints": cutpoints})
    assert model["cutpoints"].owner.op.name == "normal"
    assert np.isfinite(model.point_logps()["cutpoints"])


@pytest.mark.parametrize(
    ("prior", "mean", "cov"),
    [(lambda: pm.Normal.dist(1, 2), [1, 1], np.diag([4.0, 4])),
     (lambda: pm.Normal.dist([1, 2], [2, 3]), [1, 2], np.diag([4.0, 9])),
     (lambda: pm.MvNormal.dist([1, 2], [[4, 1], [1, 3]]), [1, 2], [[4.0, 1], [1, 3]])],
)  # fmt: skip
def test_a_normal_prior_of_beta_is_integrated_out(table, prior, mean, cov):
    model = flmm.lmm_model("cases ~ x + (1 | herd)", table, family="poisson", priors={"beta": prior()})
    herds = table.herd.to_numpy()
    with pm.Model() as hand:
        term = flmm.Term(herds, flmm.covariance.scalar(pm.HalfNormal("sigma_herd", 1) ** 2), name="herd")
        X = np.column_stack([np.ones(N), table.x])
        flmm.LatentLMM("y", family="poisson", X=X, terms=[term], observed=table.cases.to_numpy(),
                       beta_mean=np.array(mean, dtype=float), beta_cov=np.array(cov))  # fmt: skip
    point = {"sigma_herd": 0.6}
    assert likelihood(model, "cases", point) == pytest.approx(likelihood(hand, "y", point), rel=1e-10)


def test_another_prior_of_beta_than_a_normal_one_is_of_sampled_effects(table):
    def of(prior, **given):
        return flmm.lmm_model("cases ~ x + (1 | herd)", table, family="poisson", priors={"beta": prior}, **given)

    with pytest.raises(ValueError, match=r"the prior of beta is laplace.*effects='sampled'"):
        of(pm.Laplace.dist(0, 1))
    with pytest.raises(ValueError, match=r"not 2 of them, for Intercept, x: give pm.Normal.dist"):
        of(pm.Normal.dist([0, 1, 2], 1))
    sampled = of(pm.Laplace.dist(0, 1), effects="sampled")
    assert sampled["cases_beta"].owner.op.name == "laplace"
    assert sampled["cases_beta"].type.shape == (2,)


def test_separation_is_labelled_and_a_prior_of_beta_is_a_remedy(table):
    separated = table.assign(sick=(table.x > 2).astype(int))
    fit = flmm.find_reml("sick ~ x + (1 | herd)", separated, family="bernoulli", progressbar=False)
    assert not fit.converged
    assert "separated by a combination of Intercept (to -∞), x (to +∞)" in fit.message
    given = {"family": "bernoulli", "priors": {"beta": pm.Normal.dist(0, 3)}}
    model = flmm.lmm_model("sick ~ x + (1 | herd)", separated, **given)
    assert np.isfinite(model.compile_logp()(model.initial_point()))
    assert flmm.find_reml(model, progressbar=False).converged


def test_a_fit_is_copied_and_pickled_with_its_family(table):
    fit = flmm.find_reml("grade ~ x + (1 | herd)", table, family="ordinal", progressbar=False)
    new = table.head(3)
    for other in (copy.deepcopy(fit), pickle.loads(pickle.dumps(fit))):
        assert other.node.design.of_family.labels == ("no", "some", "much", "all")
        np.testing.assert_array_equal(other.predict(data=new).mean, fit.predict(data=new).mean)


def test_counts_without_overdispersion_have_an_infinite_alpha(table):
    rng = np.random.default_rng(0)
    table = table.assign(cases=rng.binomial(6, 0.5, N))  # less than the variance of counts
    fit = flmm.find_reml("cases ~ x + (1 | herd)", table, family="negative_binomial", progressbar=False)
    poisson = flmm.find_reml("cases ~ x + (1 | herd)", table, family="poisson", progressbar=False)
    assert "dispersion" in fit.boundary
    assert fit.point["alpha"] == np.inf
    assert fit.loglik == pytest.approx(poisson.loglik, abs=1e-8)


def test_a_family_of_the_user_takes_the_priors_of_its_parameters(table):
    def log_density(y, eta, scale):
        return -0.5 * ((y - eta) / scale) ** 2 - pt.log(scale) - 0.5 * np.log(2 * np.pi)

    own = CustomFamily(log_density, parameters={"scale": (0.0, np.inf, 1.0)}, name="own", concave=True)
    fit = flmm.find_reml("weight ~ x + (1 | herd)", table, family=own, progressbar=False)
    normal = flmm.find_reml("weight ~ x + (1 | herd)", table, progressbar=False)
    assert fit.loglik == pytest.approx(normal.loglik, abs=1e-7)  # Laplace's approximation is exact
    assert fit.point["scale"] == pytest.approx(np.sqrt(normal.theta["residual"]), rel=1e-3)
    given = {"scale": pm.HalfNormal.dist(2)}
    model = flmm.lmm_model("weight ~ x + (1 | herd)", table, family=own, priors=given)
    assert [v.name for v in model.free_RVs] == ["sigma_herd", "scale"]
    assert likelihood(model, "weight", fit.point) == pytest.approx(fit.loglik, abs=1e-8)
    with pytest.raises(ValueError, match=r"'own' of your own has parameters without a default prior, 'scale': give"):
        flmm.lmm_model("weight ~ x + (1 | herd)", table, family=own)


def test_new_rows_have_the_offset_of_their_table(table):
    fit = flmm.find_reml("cases ~ x + offset(log(days)) + (1 | herd)", table, family="poisson", progressbar=False)
    new = table.head(3)
    doubled = fit.predict(data=new.assign(days=2 * new.days)).mean - fit.predict(data=new).mean
    np.testing.assert_allclose(doubled, np.log(2))
    np.testing.assert_allclose(fit.predict(data=new).mean, fit.fitted()[:3], rtol=1e-8)


def test_new_rows_have_the_trials_of_their_table(table):
    given = {"family": "binomial", "trials": "born"}
    model = flmm.lmm_model("ill ~ x + (1 | herd)", table, **given)
    options = {"draws": 500, "tune": 100, "chains": 2, "cores": 1, "progressbar": False, "quiet": True}
    idata = flmm.sample(model=model, random_seed=3, **options)
    new = table.head(2).drop(columns="ill")

    def drawn(rows):
        tree = flmm.predict(idata, model=model, data=rows, random_seed=4)
        group = tree.predictions if "predictions" in tree else tree.posterior_predictive
        return group["ill"].to_numpy().reshape(-1, 2)

    many, one = drawn(new.assign(born=[40, 1000])), drawn(new.drop(columns="born"))
    assert set(np.unique(one)) == {0.0, 1.0}
    assert many[:, 0].max() <= 40
    p = one.mean(axis=0)
    error = 4 * np.sqrt(p * (1 - p) / len(one)) + 0.02
    assert (np.abs(many.mean(axis=0) / [40, 1000] - p) < error).all()


def test_contrasts_of_a_factor_are_tested_without_an_intercept(table):
    fit = flmm.find_reml("grade ~ x + f + (1 | herd)", table, family="ordinal", progressbar=False)
    assert list(fit.coef) == ["x", "f[T.v]", "f[T.w]"]
    hand = flmm.find_reml(by_hand(table, "ordinal"), progressbar=False)
    np.testing.assert_allclose(fit.blue, hand.blue, rtol=2e-3)
    complete = fit.node.design.fixed.complete()
    X = fit.node.design.X
    # XM is the complete design but for a constant, which cutpoints take up
    apart = X @ complete.M - np.column_stack([np.ones(N), table.x, *(table.f == level for level in "uvw")])
    np.testing.assert_allclose(apart - apart[0], 0, atol=1e-10)


@pytest.mark.parametrize("coded", ["categorical", "from 1 on"])
def test_probabilities_and_shares_of_categories_go_by_their_names(table, coded):
    names = ["no", "some", "much", "all"] if coded == "categorical" else [1, 2, 3, 4]
    data = table if coded == "categorical" else table.assign(grade=table.grade.cat.codes + 1)
    fit = flmm.find_reml("grade ~ x + (1 | herd)", data, family="ordinal", progressbar=False)
    plain = flmm.find_reml(
        "grade ~ x + (1 | herd)", table.assign(grade=table.grade.cat.codes), family="ordinal", progressbar=False
    )
    for found, wanted in [
        (fit.predict(data=data.head(3)).probabilities, plain.predict(data=table.head(3)).probabilities),
        (fit.predict().probabilities, plain.predict().probabilities),
    ]:
        assert list(found) == names
        np.testing.assert_allclose(found, wanted)
    shares = fit.heritability("herd")
    np.testing.assert_allclose(shares, plain.heritability("herd"))
    assert list(shares.loc["observed"].index) == names
    idata = az.from_dict({"posterior": {name: value[None, None] for name, value in fit.point.items()}})
    idata = flmm.recover_effects(idata, model=fit.model, random_seed=1)
    assert flmm.heritability(idata, "herd", model=fit.model)["observed"].coords["category"].to_numpy().tolist() == names
    drawn = flmm.predict(idata, data=data.head(3), model=fit.model, random_seed=2).predictions["grade_probability"]
    assert drawn.coords["grade_category"].to_numpy().tolist() == names
    np.testing.assert_allclose(drawn.sum("grade_category"), 1)
