"""Prior weights and offsets of a formula: lme4's numbers, replicated rows, priors that know of them, new rows."""

import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar

import pm_fastlmm as flmm

SLEEP = "Reaction ~ Days + (Days | Subject)"


def table(name="sleepstudy"):
    """A data set with the weights and the offset of reference/make_weights.R."""
    data = getattr(flmm.datasets, name)()
    i = np.arange(1, len(data) + 1)
    return data.assign(w=1 + (7 * i) % 5, z=np.round(3 * np.sin(i), 6))


def fitted(formula, data, **options):
    """A fit."""
    return flmm.find_reml(formula, data, progressbar=False, **options)


@pytest.fixture(scope="module")
def sleep():
    return fitted(SLEEP, table(), weights="w", offset="z")


# ---------------------------------------------------------------- lme4


NEW = {
    "sleepstudy": {"Days": [0, 4], "Subject": ["308", "new"]},
    "dyestuff": {"Batch": ["A", "new"]},
    "penicillin": {"plate": ["a", "new"], "sample": ["F", "A"]},
}


@pytest.mark.parametrize("k", range(6))
def test_fits_are_those_of_lme4(reference, k):
    case = reference.json("weights_lme4.json")[k]
    fit = fitted(case["formula"], table(case["data"]), weights="w", method=case["method"])
    assert_allclose(fit.loglik, case["loglik"], atol=2e-7)
    assert_allclose(np.sort(fit.theta), np.sort(case["vcov"]), rtol=2e-5)
    assert_allclose(fit.beta, case["beta"], rtol=1e-6)
    if case["method"] == "REML":  # lme4 takes the ML variances as they are, as this does
        assert_allclose(fit.beta_se, case["beta_se"], rtol=1e-5)
    for found, name in (
        (fit.fitted(), "fitted"), (fit.residuals(), "residuals"), (fit.residuals(scaled=True), "scaled"),
        (fit.diagnostics()["leverage"], "leverage"),
    ):  # fmt: skip
        assert_allclose(found.iloc[:6], case[name], rtol=1e-4, atol=1e-5)
    new = pd.DataFrame(NEW[case["data"]] | {"z": [1.0, 2.0], "w": 1})
    assert_allclose(fit.predict(data=new, effects="population").mean, case["population"], rtol=1e-6)
    assert_allclose(fit.predict(data=new).mean, case["predicted"], rtol=1e-5)


def test_degrees_of_freedom_are_those_of_lmerTest_and_of_scaled_rows(reference):
    case = reference.json("weights_lme4.json")[6]
    fit = fitted(case["formula"], table(case["data"]), weights="w")
    assert_allclose(fit.coefficients("satterthwaite")["df"].astype(float), case["satterthwaite"], rtol=1e-5)
    found = fit.coefficients("kenward-roger").astype(float)
    assert_allclose(found["df"], case["kenward_roger"], rtol=1e-5)
    assert_allclose(found["se"], case["kenward_roger_se"], rtol=1e-6)


# ---------------------------------------------------------------- what weights mean


def test_a_mean_of_several_measurements_has_the_fit_of_its_measurements():
    rng = np.random.default_rng(1)
    group, count = np.repeat(np.arange(8), 4), rng.integers(1, 5, 32)
    y = rng.normal(size=8)[group] + rng.normal(size=32) / np.sqrt(count)
    means = pd.DataFrame({"y": y, "g": group.astype(str), "count": count, "x": rng.normal(size=32)})
    same = means.loc[means.index.repeat(count)].reset_index(drop=True)
    fits = fitted("y ~ x + (1 | g)", means, weights="count"), fitted("y ~ x + (1 | g)", same)
    at = {"g": 0.7, "residual": 0.4}  # replicates without error: the same V̂ would make σ²_e smaller
    betas = [fit.objective.blue(fit.at(at))[0] for fit in fits]
    assert_allclose(betas[0], betas[1], rtol=1e-10)
    assert_allclose(fits[0].blup("g", at), fits[1].blup("g", at), rtol=1e-9)


def test_the_unit_of_weights_changes_the_unit_of_the_residual_variance_alone(sleep):
    other = fitted(SLEEP, table().assign(w=lambda d: 4 * d["w"]), weights="w", offset="z")
    assert_allclose(other.theta, sleep.theta * [1, 1, 1, 4], rtol=1e-6)
    assert_allclose([other.loglik, *other.shares], [sleep.loglik, *sleep.shares], rtol=1e-9)
    assert_allclose(other.loo(), sleep.loo(), rtol=1e-6)
    assert_allclose(flmm.find_reml(other.model, progressbar=False).loglik, sleep.loglik, rtol=1e-9)


def test_shares_are_those_of_an_observation_of_mean_weight():
    data = table()
    fit = fitted("Reaction ~ Days + (1 | Subject)", data, weights="w")
    v = fit.theta["Subject"], fit.theta["residual"] / data["w"].mean()
    assert_allclose(fit.shares, np.array(v) / sum(v))


def test_priors_follow_the_weights():
    data = table()
    scales = {}
    for unit in (1.0, 9.0):
        model = flmm.lmm_model("Reaction ~ Days + (1 | Subject)", data.assign(w=unit * data["w"]), weights="w")
        scales[unit] = [model[name].owner.inputs[3].eval() for name in ("sigma_Subject", "sigma_e")]
    X = np.column_stack([np.ones(180), data["Days"]])
    v = data["w"] / data["w"].mean()
    root = np.sqrt(v.to_numpy())
    residual = np.linalg.lstsq(root[:, None] * X, root * data["Reaction"])[1][0]
    s = np.sqrt(residual / 178)
    assert_allclose(scales[1.0], [2 * s, 2 * s * np.sqrt(data["w"].mean())], rtol=1e-6)
    assert_allclose(scales[9.0], scales[1.0] * np.array([1, 3]), rtol=1e-6)


def test_a_prior_on_shares_is_on_those_of_the_mean_weight():
    data = table()
    model = flmm.lmm_model("Reaction ~ Days + (1 | Subject)", data, weights="w", priors=flmm.priors.SharePrior())
    at = {model["total"]: 2000.0, model["h2"]: 0.4}
    sigma, sigma_e = (model[name].eval(at) for name in ("sigma_Subject", "sigma_e"))
    assert_allclose([sigma**2, sigma_e**2], [800.0, 1200.0 * data["w"].mean()], rtol=1e-6)


def test_sampled_draws_and_predictions_of_new_rows(sleep):
    new = pd.DataFrame({"Days": [3.0, 3.0], "Subject": ["308", "309"], "z": [0.0, 50.0], "w": [1.0, 100.0]})
    model = sleep.model
    with model:
        idata = flmm.sample(10, tune=20, chains=1, random_seed=1, progressbar=False, quiet=True)
        idata = idata.isel(draw=np.zeros(2000, dtype=int))
        idata = flmm.predict(idata, data=new, random_seed=2)
        other = flmm.predict(idata.copy(), data=new.assign(z=0.0), random_seed=2)
    noise = (idata.predictions["Reaction"] - idata.predictions["Reaction_mean"])[0]
    sd = float(idata.posterior["sigma_e"][0, 0])
    assert_allclose(noise.std("draw"), [sd, sd / 10], rtol=0.08)
    shift = (idata.predictions["Reaction_mean"] - other.predictions["Reaction_mean"])[0, 0]
    assert_allclose(shift, [0.0, 50.0], atol=1e-9)
    assert_allclose(sleep.predict(data=new).residual_variance, sleep.theta["residual"] / new["w"])
    assert_allclose(sleep.predict(data=new.drop(columns="w")).residual_variance, sleep.theta["residual"])


# ---------------------------------------------------------------- offsets


@pytest.mark.parametrize(
    ("formula", "response"),
    [
        ("y ~ x + offset(z) + (1 | g)", "I(y - z)"),
        ("y ~ offset(2*z) + x + (1 | g)", "I(y - 2*z)"),
        ("y ~ x + (1 | g) + offset(log(e)) + offset(z^2)", "I(y - log(e) - z^2)"),
        ("y ~ x + stats::offset(-z) + (1 | g)", "I(y + z)"),
    ],
)
def test_an_offset_is_taken_from_the_response(formula, response):
    rng = np.random.default_rng(3)
    data = pd.DataFrame(rng.normal(size=(40, 3)), columns=list("yxz")).assign(e=rng.exponential(size=40))
    data["g"] = list("abcde") * 8
    fit, other = fitted(formula, data), fitted(f"{response} ~ x + (1 | g)", data)
    assert_allclose(fit.loglik, other.loglik, rtol=1e-10)
    assert_allclose(fit.beta, other.beta, rtol=1e-8)
    assert_allclose(fit.residuals(), other.residuals(), rtol=1e-8, atol=1e-12)
    known = data["y"] - flmm.MixedDesign.from_formula(f"{response} ~ x + (1 | g)", data).y
    assert_allclose(fit.fitted() - other.fitted(), known, atol=1e-10)
    assert_allclose(fit.predict(data=data).mean - other.predict(data=data).mean, known, atol=1e-10)
    with pm.Model() as by_hand:
        v, e = pm.HalfNormal("v"), pm.HalfNormal("e")
        term = flmm.Term(data["g"], flmm.covariance.scalar(v), name="g")
        X = pd.DataFrame({"one": 1.0, "x": data["x"]})
        flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=e, mu=known.to_numpy(), observed=data["y"])
    assert_allclose(flmm.find_reml(by_hand, progressbar=False).loglik, fit.loglik, rtol=1e-8)


def test_a_refit_keeps_weights_and_offset(sleep):
    again = sleep.refit(sleep.node.observed + 100.0)
    assert_allclose(again.theta, sleep.theta, rtol=1e-6)
    assert_allclose(again.beta - sleep.beta, [100.0, 0.0], atol=1e-5)


def test_a_comparison_of_fits_with_other_weights_is_not_nested(sleep):
    intercepts = fitted("Reaction ~ Days + (1 | Subject)", table(), weights="w", offset="z")
    table_ = flmm.compare_fits(intercepts, sleep)
    assert table_["chi2"].iloc[1] == pytest.approx(2 * (sleep.loglik - intercepts.loglik))
    plain = fitted("Reaction ~ Days + (1 | Subject)", table(), offset="z")
    found = flmm.compare_fits({"plain": plain, "weighted": sleep})
    assert found["reference"].iloc[1].startswith("not known to be nested")


def test_what_is_printed_names_them(sleep):
    assert str(sleep).startswith("REML fit of Reaction ~ Days + (Days | Subject), weights = w, offset = z\n")
    assert "weights: w; offset: z; 0 rows dropped" in repr(sleep.node.design)
    array = flmm.MixedDesign.from_formula("Reaction ~ offset(2 * z) + (1 | Subject)", table(), weights=np.ones(180))
    assert "weights: an array; offset: 2 * z;" in repr(array)


# ---------------------------------------------------------------- what is wrong


def test_rows_without_a_weight_or_an_offset_are_dropped_and_counted():
    data = table().astype({"w": float})
    data.loc[3, "w"], data.loc[5, "z"] = np.nan, np.nan
    with pytest.warns(UserWarning, match=r"2 of 180 rows dropped, with missing values [(]z 1, w 1[)]: 3, 5"):
        design = flmm.MixedDesign.from_formula("Reaction ~ Days + offset(z) + (1 | Subject)", data, weights="w")
    assert design.dropped == (3, 5)
    assert len(design.weights) == len(design.offset) == 178


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("weight", r"weights='weight' is not among the columns Reaction, Days, Subject, w, z"),
        ("Subject", "weights='Subject' is a column of .*: it must be numbers"),
        (np.ones(3), "weights has 3 rows but data has 180"),
        (
            np.arange(180.0),
            "weights are 0 in rows 0: they must be positive numbers; an observation of weight 0 .* leave",
        ),
        (np.arange(180.0) - 0.5, "weights are negative in rows 0: .*variance of an observation is σ²/w"),
        (np.where(np.arange(180) == 7, np.inf, 1.0), "weights are infinite in rows 7"),
    ],
)
def test_weights_that_are_none(weights, message):
    with pytest.raises(ValueError, match=message):
        fitted(SLEEP, table(), weights=weights)


def test_offsets_that_are_none(sleep):
    with pytest.raises(ValueError, match="the offset is infinite in rows 4"):
        fitted(SLEEP, table(), offset=np.where(np.arange(180) == 4, np.inf, 0.0))
    with pytest.raises(ValueError, match=r"has an offset of nothing: offset\(x\) is a column or a call"):
        fitted("Reaction ~ offset() + (1 | Subject)", table())
    with pytest.raises(ValueError, match="joins an offset by another sign than"):
        fitted("Reaction ~ Days:offset(z) + (1 | Subject)", table())
    new = pd.DataFrame({"Days": [0.0], "Subject": ["308"]})
    with pytest.raises(ValueError, match="offset='z' is not among the columns Days, Subject"):
        sleep.predict(data=new)
    with pytest.raises(ValueError, match="the offset 'z' is missing or infinite in rows 0 of the new data"):
        sleep.predict(data=new.assign(z=np.nan))
    array = fitted(SLEEP, table(), offset=table()["z"])
    with pytest.raises(ValueError, match=r"offset= was given as an array, .* and give its name"):
        array.predict(data=new)
    with pytest.raises(ValueError, match="has a mean mu besides Xβ, which is not known at new rows"):
        sleep.predict([[1.0, 0.0]])
    with pytest.raises(ValueError, match="scaled=True divides by the standard deviation of e"):
        sleep.residuals("marginal", scaled=True)


def test_weights_belong_to_a_formula(sleep):
    with pytest.raises(ValueError, match="negative, weights, offset, residual, family, link and trials belong"):
        flmm.find_reml(sleep.model, weights="w")
    with pytest.raises(ValueError, match="'weights' is given together with a MixedDesign, which holds it already"):
        flmm.lmm_model(sleep.node.design, weights="w")


def test_weights_of_statistics_are_in_their_rows():
    rng = np.random.default_rng(0)
    Z = pd.DataFrame(rng.normal(size=(50, 3)), columns=list("abc"))
    s = flmm.TermStatistics.from_arrays(np.ones((50, 1)), Z, rng.normal(size=50))
    term = flmm.Term(s.Z, flmm.covariance.scalar(1.0), name="Z")
    with pm.Model(), pytest.raises(ValueError, match="multiply the rows of X, Z and y by √w"):
        flmm.StructuredLMM("y", X=s.X, terms=[term], sigma2_e=1.0, observed=s, weights=np.ones(50))


def test_nodes_say_where_weights_go():
    K = np.eye(6) + 0.5
    spectrum = flmm.Spectrum.from_covariance(K, np.ones((6, 1)))
    options = {"sigma2_g": 1.0, "sigma2_e": 1.0, "observed": np.arange(6.0)}
    with pm.Model():
        with pytest.raises(
            ValueError,
            match=r"FastLMM takes no weights=: they are in the spectrum, .*from_covariance\(K, X, weights=w\)",
        ):
            flmm.FastLMM("y", spectrum=spectrum, weights=np.ones(6), **options)
        with pytest.raises(
            ValueError, match="FastLMM takes no offset=: an offset is a known part of the mean, mu=offset"
        ):
            flmm.FastLMM("y", spectrum=spectrum, offset=np.ones(6), **options)
        with pytest.raises(ValueError, match=r"DenseLMM takes no weights=: .*with sigma2_e / w along its diagonal"):
            flmm.DenseLMM("y", V=K, weights=np.ones(6), observed=np.arange(6.0))
        lengths = flmm.LengthscaleSpectrum.from_coordinates(np.arange(6.0), lengthscale=(1, 2), progressbar=False)
        with pytest.raises(
            ValueError, match=r"LengthscaleLMM takes no weights=: they are in the spectrum, .*weights=w"
        ):
            flmm.LengthscaleLMM("y", spectrum=lengths, lengthscale=1.5, weights=np.ones(6), **options)
        basis = flmm.FourierBasis(lengthscale=(0.1, 1.0), domain=(0, 1), n=10)
        statistics = flmm.FourierStatistics.from_arrays(basis, np.linspace(0, 1, 10), np.arange(10.0))
        with pytest.raises(ValueError, match=r"FourierLMM takes no weights=: they are in the statistics, .*weights=w"):
            flmm.FourierLMM("y", statistics=statistics, lengthscale=0.5, sigma2=1.0, sigma2_e=1.0, weights=np.ones(10))


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(4)
    ids = [f"i{j}" for j in range(60)]
    A = rng.normal(size=(60, 90))
    K = pd.DataFrame(A @ A.T / 90, ids, ids)
    data = pd.DataFrame({"x": rng.normal(size=60), "id": ids, "w": rng.uniform(0.5, 3, 60)}, index=ids)
    data["y"] = 1 + data["x"] + np.linalg.cholesky(K) @ rng.normal(size=60) + rng.normal(size=60) / np.sqrt(data["w"])
    return K, data


def test_a_model_of_one_kernel_is_that_of_its_term(records):
    K, data = records
    model = flmm.kernel_model("y ~ x", data=data, K=K, weights="w")
    fit = flmm.find_reml(model, progressbar=False)
    term = fitted("y ~ x + (1 | id)", data, weights="w", known={"id": K})
    assert_allclose(fit.theta, term.theta, rtol=1e-6)
    assert_allclose([fit.loglik, *fit.beta, *fit.beta_se], [term.loglik, *term.beta, *term.beta_se], rtol=1e-7)
    assert_allclose(fit.shares, term.shares, rtol=1e-6)
    assert_allclose(fit.anova().astype(float), term.anova().astype(float), rtol=1e-5)
    columns = ["se", "df"]
    tables = [f.coefficients("kenward-roger")[columns].astype(float) for f in (fit, term)]
    assert_allclose(*tables, rtol=1e-5)
    assert_allclose(fit.blup()["u"], term.blup("id")[data.index], rtol=1e-5, atol=1e-8)
    assert_allclose(fit.pev()["u"], term.pev("id")[data.index], rtol=1e-5)
    assert_allclose(fit.loo(), term.loo(), rtol=1e-6)
    assert_allclose(fit.diagnostics(), term.diagnostics(), rtol=1e-5, atol=1e-8)
    assert_allclose(fit.residuals(scaled=True), term.residuals(scaled=True), rtol=1e-5, atol=1e-8)
    assert_allclose(fit.predict().residual_variance, fit.theta["sigma2_e"] / data["w"])
    assert str(fit).startswith("REML fit of y ~ x + u, u ~ N(0, σ²K), Var(e) = σ²_e/w\n")
    assert flmm.plots.plot_residuals(fit).get_ylabel() == "residual × √weight"


@pytest.mark.parametrize("rank", ["full", "low"])
@pytest.mark.parametrize("unit", [1.0, 9.0])
def test_priors_of_one_kernel_follow_the_weights(records, rank, unit):
    K, data = records
    W = np.linalg.cholesky(K)[:, :10]
    kernel, other = ({"K": K}, {"K": K}) if rank == "full" else ({"W": pd.DataFrame(W, K.index)}, {"W": W})
    X, w = np.column_stack([np.ones(60), data["x"]]), unit * data["w"].to_numpy()
    model = flmm.kernel_model("y ~ x", data=data.assign(w=w), **kernel, weights="w")
    by_hand = flmm.kernel_model(  # rows times √(w/w̄): σ²_e is that of the mean weight
        (root := np.sqrt(w / w.mean())) * data["y"].to_numpy(), root[:, None] * X,
        **{name: root[:, None] * np.asarray(M) * (root if name == "K" else 1.0) for name, M in other.items()},
    )  # fmt: skip
    at = {"h2": 0.4, "total": 1.7, "sigma2_e": 1.2}
    differences = []
    for h2 in (0.4, 0.8):
        at["h2"] = h2
        logps = []
        for some, scale in ((model, w.mean()), (by_hand, 1.0)):
            values = at | {"sigma2_e": scale * at["sigma2_e"]}
            point = {
                rv.name: np.log(values[rv.name]) if rv.name != "h2" else np.log(h2 / (1 - h2)) for rv in some.free_RVs
            }
            named = {f"{name}_{'logodds' if name == 'h2' else 'log'}__": v for name, v in point.items()}
            logps.append(float(some.compile_logp()(named)))
        differences.append(logps[0] - logps[1])
    assert_allclose(differences, np.log(root).sum(), rtol=1e-8)


def test_a_prior_on_deviations_is_on_that_of_the_mean_weight(records):
    K, data = records
    prior = flmm.priors.DeviationPrior("half-normal", 1.5, 0.8)
    model = flmm.kernel_model("y ~ x", data=data, K=K, weights="w", prior=prior)
    w = data["w"].to_numpy()
    kbar, at = (w * np.diag(K)).sum() / w.sum(), {model["sigma_K"]: 1.1, model["sigma_e"]: 0.7}
    g, e = pytensor.function(list(at), model["y"].owner.inputs[-2:])(*at.values())
    assert_allclose([g * kbar, e], [1.21, 0.49])
    assert_allclose(model["total"].eval(at), 1.21 + 0.49 / w.mean())
    assert_allclose(model["h2"].eval(at), 1.21 / (1.21 + 0.49 / w.mean()))
    assert_allclose(model["sigma_e"].owner.inputs[3].eval(), 0.8 * np.sqrt(w.mean()), rtol=1e-6)


def test_a_design_drops_rows_without_a_weight(records):
    K, data = records
    data = data.copy()
    data.loc["i3", "w"] = np.nan
    with pytest.warns(UserWarning, match=r"1 of 60 rows dropped, with missing values \(w 1\): 'i3'\."):
        design = flmm.Design.from_formula("y ~ x", data, K=K, weights="w")
    assert design.dropped == ("i3",)
    assert_allclose(design.spectrum().weights.values, data["w"].dropna())
    assert f"{data['w'].min():.6g} to {data['w'].max():.6g}" in design._repr_html_()
    with pytest.warns(UserWarning, match=r"with missing values \(w 1\)"):
        design = flmm.Design.from_formula("y ~ x", data, K=K, individual="id", weights="w")
    assert len(design.weights) == 59
    assert design.spectrum().individuals is not None
    with pytest.raises(ValueError, match="weights='v' is not among the columns"):
        flmm.Design.from_formula("y ~ x", data, K=K, weights="v")
    with pytest.raises(ValueError, match="weights are negative in rows 'i0'"):
        flmm.Design.from_arrays(data["y"], K=K, weights=pd.Series(np.arange(60.0) - 0.5, data.index))
    with pytest.raises(ValueError, match="spectrum is given together with X, K, W, data, individual, weights or neg"):
        flmm.kernel_model(data["y"], spectrum=flmm.Spectrum.from_covariance(K), weights=np.ones(60))


def test_a_known_covariance_with_weights_is_one_spectrum():
    rng = np.random.default_rng(4)
    A = rng.normal(size=(60, 90))
    K = pd.DataFrame(A @ A.T / 90, index=range(60), columns=range(60))
    data = pd.DataFrame({"x": rng.normal(size=60), "id": range(60), "w": rng.uniform(0.5, 3, 60)})
    data["y"] = 1 + data["x"] + np.linalg.cholesky(K) @ rng.normal(size=60) + rng.normal(size=60) / np.sqrt(data["w"])
    fit = fitted("y ~ x + (1 | id)", data, weights="w", known={"id": K})
    root = np.sqrt(data["w"].to_numpy())
    X = np.column_stack([np.ones(60), data["x"]])
    scaled = flmm.Spectrum.from_covariance(root[:, None] * K.to_numpy() * root, root[:, None] * X)
    by_hand = flmm.reml(scaled, root * data["y"].to_numpy())
    assert fit.node.spectrum is not None
    assert_allclose(fit.theta, [by_hand.sigma2_g, by_hand.sigma2_e], rtol=1e-6)
    assert_allclose(fit.loglik, by_hand.loglik + np.log(root).sum(), rtol=1e-9)
    assert_allclose(fit.h2, by_hand.h2, rtol=1e-6)
    assert_allclose(root * fit.blup("id"), by_hand.blup(), rtol=1e-5, atol=1e-8)
    assert fit.test_no_variance("id", n_sim=2000, random_seed=1).p_value == pytest.approx(
        by_hand.test_no_variance(n_sim=2000, random_seed=1).p_value
    )


def test_studies_with_known_standard_errors():
    se = np.array([0.12, 0.35, 0.2, 0.41, 0.16, 0.28, 0.5, 0.22])
    studies = pd.DataFrame({"y": [0.41, -0.2, 0.9, 0.05, 0.33, 0.7, 1.2, -0.1], "study": list("abcdefgh")})
    fit = fitted("y ~ 1 + (1 | study)", studies, weights=1 / se**2, fixed={"residual": 1.0})

    def minus(tau2):
        w = 1 / (tau2 + se**2)
        mean = (w * studies["y"]).sum() / w.sum()
        return 0.5 * (
            7 * np.log(2 * np.pi) - np.log(w).sum() + np.log(w.sum()) + (w * (studies["y"] - mean) ** 2).sum()
        )

    best = minimize_scalar(minus, bounds=(1e-6, 2), method="bounded", options={"xatol": 1e-10})
    assert_allclose(fit.theta["study"], best.x, rtol=1e-5)
    assert_allclose(fit.loglik, -best.fun, rtol=1e-9)
    with pytest.raises(ValueError, match="the term of 'study' has 8 effects for 8 observations"):
        fitted("y ~ 1 + (1 | study)", studies, weights=np.full(8, 2.0))


def test_intervals_of_predictions(sleep):
    new = pd.DataFrame({"Days": [0.0, 7.0], "Subject": ["308", "new"], "z": 0.0, "w": [1.0, 4.0]}, index=["a", "b"])
    found = sleep.predict(data=new)
    se = np.sqrt(found.variance + sleep.theta["residual"] / new["w"])
    for kind, error in ((False, found.se), (True, se)):
        lower, upper = found.interval(0.9, observation=kind)
        assert_allclose(lower, found.mean - 1.6448536269514722 * error)
        assert_allclose(upper, found.mean + 1.6448536269514722 * error)
        assert (lower.name, list(upper.index)) == ("lower", ["a", "b"])
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        found.interval(95)
    spectrum = flmm.Spectrum.from_covariance(np.eye(6) + np.diag(np.arange(6.0)), np.ones((6, 1)))
    Y = pd.DataFrame(np.random.default_rng(0).normal(size=(6, 2)), columns=["p", "q"])
    several = flmm.reml(spectrum, Y).predict([[1.0]], np.zeros((1, 6)), K_new_new=[1.0])
    lower, upper = several.interval()
    assert_allclose((np.asarray(upper) - np.asarray(lower)) / 2, 1.959963984540054 * np.asarray(several.se))


def test_figures_of_residuals_have_equal_variances(sleep):
    table_ = sleep.diagnostics()
    assert_allclose(table_["weight"], table()["w"])
    ax = flmm.plots.plot_residuals(sleep)
    assert ax.get_ylabel() == "residual × √weight"
    drawn = ax.collections[0].get_offsets()[:, 1]
    assert_allclose(drawn, sleep.residuals(scaled=True) * np.sqrt(sleep.theta["residual"]), rtol=1e-6, atol=1e-9)
    assert "weight" not in fitted(SLEEP, table()).diagnostics()


def test_a_node_says_that_it_has_weights():
    with pm.Model() as model:
        term = flmm.Term(list("aabbcc"), flmm.covariance.scalar(pm.HalfNormal("v")), name="g")
        flmm.StructuredLMM("y", terms=[term], sigma2_e=1.0, observed=np.arange(6.0), weights=np.arange(1.0, 7.0))
    (node,) = flmm.lmm_nodes(model)
    assert node.formula == "y ~ N(Xβ, ΣZGZᵀ + σ²_eW⁻¹)"
    assert_allclose(node.prior_weights, np.arange(1.0, 7.0))


def test_draws_of_a_node_have_the_variances_of_the_weights():
    w, group = np.array([0.2, 1.0, 5.0, 1.0]), list("aabb")
    with pm.Model():
        term = flmm.Term(group, flmm.covariance.scalar(0.5), name="g")
        beta = {"X": np.ones((4, 1)), "beta": np.array([2.0]), "mu": np.array([0.0, 1.0, 2.0, 3.0])}
        node = flmm.StructuredLMM("y", terms=[term], sigma2_e=2.0, weights=w, **beta)
    draws = pm.draw(node, 20_000, random_seed=1, mode="FAST_COMPILE")
    V = 0.5 * np.equal.outer(group, group) + np.diag(2.0 / w)
    assert_allclose(draws.mean(0), [2.0, 3.0, 4.0, 5.0], atol=0.1)
    assert_allclose(np.cov(draws.T), V, atol=5 * V.max() / np.sqrt(20_000))
    assert_allclose(draws.var(0), np.diag(V), rtol=0.05)
