"""log p(y_i | y_-i, θ) of every kind of node against refits without the row, and what ArviZ makes of it."""

import arviz as az
import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
import scipy.linalg
from scipy.stats import multivariate_normal, norm

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

B = np.array([[2.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.9]])
b = np.array([1.0, -2.0, 0.5])
CODES = np.r_[0, np.random.default_rng(8).integers(1, 5, size=22)]
LABELS = np.array(["lone", "a", "b", "c", "d"])[CODES]
QUIET = {"progressbar": False}


def draws(**values):
    """A posterior of 2 chains and 3 draws; of variances around these values, or of what is given by draw."""
    rng = np.random.default_rng(4)
    posterior = {
        name: np.asarray(value)[None, None] * rng.uniform(0.5, 2, size=(2, 3) + (1,) * np.ndim(value))
        for name, value in values.items()
    }
    return az.from_dict({"posterior": posterior})


def expected(oracle, V, X, y, groups=False):
    """Refits without each row, or each group in the order of its label."""
    X = np.zeros((len(y), 0)) if X is None else X
    rows = [np.flatnonzero(label == LABELS) for label in sorted(set(LABELS))] if groups else np.arange(len(y))[:, None]
    out = []
    for own in rows:
        mean, cov_ = oracle.left_out(V, X, y, own)
        out.append(multivariate_normal(mean, (cov_ + cov_.T) / 2).logpdf(y[own]))
    return np.array(out)


def joint(V, X, y):
    """log p(y | θ); with X in lme4's form of the restricted likelihood."""
    if X is None:
        return multivariate_normal(cov=V).logpdf(y)
    A = scipy.linalg.null_space(X.T)
    return multivariate_normal(cov=A.T @ V @ A).logpdf(A.T @ y) - 0.5 * np.linalg.slogdet(X.T @ X)[1]


def assert_adds_up(group, truth, tolerance=1e-9):
    """What reads the group as the parts of a likelihood has the likelihood, whichever parts there are."""
    total = sum(part.sum([d for d in part.dims if d not in ("chain", "draw")]) for part in group.data_vars.values())
    for place in ((0, 0), (1, 1)):
        np.testing.assert_allclose(total[place], joint(*truth(*place)), rtol=1e-9, atol=tolerance)


def assert_exact(oracle, idata, model, truth, tolerance=1e-9, **kwargs):
    """`truth(chain, draw)` returns V, X and y less its mean; both forms equal refits."""
    tree = flmm.pointwise_log_likelihood(idata, model=model, **QUIET, **kwargs)
    assert_adds_up(tree.log_likelihood, truth, tolerance)
    tree = flmm.pointwise_log_likelihood(tree, groups=LABELS, model=model, **QUIET, **kwargs)
    assert_adds_up(tree.log_likelihood, truth, tolerance)
    found, grouped = tree.log_likelihood["y"], tree.log_likelihood["y_by_group"]
    assert grouped.dims == ("chain", "draw", "group")
    assert grouped["group"].values.tolist() == ["a", "b", "c", "d", "lone"]
    for chain, draw in ((0, 0), (0, 2), (1, 1)):
        V, X, y = truth(chain, draw)
        np.testing.assert_allclose(found[chain, draw], expected(oracle, V, X, y), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(grouped[chain, draw], expected(oracle, V, X, y, True), rtol=1e-9, atol=1e-9)
    return tree


def at(idata, name, *place):
    return idata.posterior[name].to_numpy()[place]


TREATMENTS = {"flat": {}, "explicit": {"beta": b}, "Gaussian": {"beta_mean": b, "beta_cov": B}}


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_one_kernel(oracle, build_problem, kind, treatment):
    p, kwargs = build_problem(kind), TREATMENTS[treatment]
    with pm.Model(coords={"obs": [f"id{i}" for i in range(23)]}) as model:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=p.spectrum, observed=p.y, dims="obs", **kwargs)
    idata = draws(g=1.3, e=0.7)
    prior = p.X @ B @ p.X.T if treatment == "Gaussian" else 0.0

    def truth(*place):
        V = at(idata, "g", *place) * p.K + at(idata, "e", *place) * np.eye(23) + prior
        return (V, p.X, p.y) if treatment == "flat" else (V, None, p.y - p.X @ b)

    tree = assert_exact(oracle, idata, model, truth)
    assert tree.log_likelihood["y"].dims == ("chain", "draw", "obs")
    assert tree.log_likelihood["obs"].values[3] == "id3"


def test_one_kernel_with_coefficients_and_a_mean_that_are_drawn(oracle, build_problem):
    p = build_problem("low-K")
    x = np.linspace(-1, 1, 23)
    with pm.Model() as model:
        g, e, slope = pm.HalfNormal("g"), pm.HalfNormal("e"), pm.Normal("slope")
        beta = pm.Normal("beta", shape=3)
        flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=p.spectrum, observed=p.y, beta=beta, mu=slope * x)
    idata = draws(g=1.3, e=0.7, slope=2.0, beta=b)

    def truth(*place):
        V = at(idata, "g", *place) * p.K + at(idata, "e", *place) * np.eye(23)
        return V, None, p.y - p.X @ at(idata, "beta", *place) - at(idata, "slope", *place) * x

    assert_exact(oracle, idata, model, truth)
    little = flmm.pointwise_log_likelihood(
        draws(g=1.3, e=0.7, slope=2.0, beta=b), model=model, memory_budget=1, **QUIET
    )
    np.testing.assert_allclose(little.log_likelihood["y"], idata.log_likelihood["y"], rtol=1e-12)


@pytest.mark.parametrize("mean", [False, True])
def test_one_kernel_with_several_responses(oracle, build_problem, mean):
    p = build_problem("low-W")
    Y = np.stack([p.y, p.y[::-1] + 1, np.sin(p.y)])
    coords = {"obs": range(23), "response": list("abc")}
    with pm.Model(coords=coords) as model:
        g, e, slope = pm.HalfNormal("g", dims="response"), pm.HalfNormal("e"), pm.Normal("slope")
        mu = {"mu": slope * p.y} if mean else {}
        flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=p.spectrum, observed=Y, dims=("response", "obs"), **mu)
    idata = draws(g=np.array([0.4, 1.3, 2.0]), e=0.7, slope=1.0)
    tree = flmm.pointwise_log_likelihood(idata, model=model, memory_budget=100_000, **QUIET)
    tree = flmm.pointwise_log_likelihood(tree, groups=LABELS, model=model, **QUIET)
    found, grouped = tree.log_likelihood["y"], tree.log_likelihood["y_by_group"]
    assert found.dims == ("chain", "draw", "response", "obs")
    assert grouped.dims == ("chain", "draw", "response", "group")
    for t in range(3):
        V = at(idata, "g", 1, 2, t) * p.K + at(idata, "e", 1, 2) * np.eye(23)
        y = Y[t] - (at(idata, "slope", 1, 2) * p.y if mean else 0.0)
        np.testing.assert_allclose(found[1, 2, t], expected(oracle, V, p.X, y), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(grouped[1, 2, t], expected(oracle, V, p.X, y, True), rtol=1e-9, atol=1e-9)


def test_a_rotated_response_has_rows_where_K_is_of_full_rank(oracle, build_problem):
    p = build_problem("full-K")
    for kwargs in ({}, {"beta_mean": b, "beta_cov": B}):
        with pm.Model() as model:
            g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
            flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=p.spectrum, observed=p.rotated, **kwargs)
        idata = draws(g=1.3, e=0.7)
        tree = flmm.pointwise_log_likelihood(idata, model=model, **QUIET)
        V = at(idata, "g", 0, 1) * p.K + at(idata, "e", 0, 1) * np.eye(23)
        truth = (V + p.X @ B @ p.X.T, None, p.y - p.X @ b) if kwargs else (V, p.X, p.y)
        np.testing.assert_allclose(tree.log_likelihood["y"][0, 1], expected(oracle, *truth), rtol=1e-9, atol=1e-9)


def structured(p, treatment, terms):
    with pm.Model() as model:
        v, w, e = pm.HalfNormal("v"), pm.HalfNormal("w"), pm.HalfNormal("e")
        flmm.StructuredLMM("y", X=p.X, terms=terms(v, w), sigma2_e=e, observed=p.y, **TREATMENTS[treatment])
    return model, draws(v=1.3, w=0.6, e=0.7)


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_several_terms(oracle, build_problem, treatment):
    p = build_problem("full-K")
    day = np.arange(23) % 4
    A = np.array([[1.0, 0.3, 0, 0], [0.3, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

    def terms(v, w):
        return [
            flmm.Term(LABELS, cov.scalar(v), name="group"),
            flmm.Term(pd.Categorical(day), cov.known(A, w), name="day"),
        ]

    model, idata = structured(p, treatment, terms)
    (node,) = flmm.lmm_nodes(model)
    assert node.spectrum is None
    prior = p.X @ B @ p.X.T if treatment == "Gaussian" else 0.0
    Z, D = cov.incidence(LABELS).Z.toarray(), cov.incidence(day).Z.toarray()

    def truth(*place):
        v, w, e = (at(idata, name, *place) for name in "vwe")
        V = v * Z @ Z.T + w * D @ A @ D.T + e * np.eye(23) + prior
        return (V, p.X, p.y) if treatment == "flat" else (V, None, p.y - p.X @ b)

    assert_exact(oracle, idata, model, truth)


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_one_term_that_is_one_kernel(oracle, build_problem, treatment):
    p = build_problem("full-K")
    model, idata = structured(p, treatment, lambda v, w: [flmm.Term(LABELS, cov.scalar(v))])
    (node,) = flmm.lmm_nodes(model)
    assert node.spectrum is not None
    prior = p.X @ B @ p.X.T if treatment == "Gaussian" else 0.0
    Z = cov.incidence(LABELS).Z.toarray()

    def truth(*place):
        V = at(idata, "v", *place) * Z @ Z.T + at(idata, "e", *place) * np.eye(23) + prior
        return (V, p.X, p.y) if treatment == "flat" else (V, None, p.y - p.X @ b)

    assert_exact(oracle, idata, model, truth)


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_any_covariance(oracle, build_problem, treatment):
    p = build_problem("full-K")
    with pm.Model() as model:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.DenseLMM("y", X=p.X, V=g * p.K + e * pt.eye(23), observed=p.y, **TREATMENTS[treatment])
    idata = draws(g=1.3, e=0.7)
    prior = p.X @ B @ p.X.T if treatment == "Gaussian" else 0.0

    def truth(*place):
        V = at(idata, "g", *place) * p.K + at(idata, "e", *place) * np.eye(23) + prior
        return (V, p.X, p.y) if treatment == "flat" else (V, None, p.y - p.X @ b)

    assert_exact(oracle, idata, model, truth, memory_budget=8 * 4 * 23**2 * 4)  # four draws at a time


def test_a_lengthscale(oracle, build_problem):
    p = build_problem("full-K")
    x = np.linspace(0, 1, 23)
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(x, "matern52", lengthscale=(0.05, 2), X=p.X, progressbar=False)
    with pm.Model() as model:
        ell, g, e = pm.Uniform("ell", 0.05, 2), pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=ell, sigma2=g, delta=e, observed=p.y)
    idata = draws(ell=0.3, g=1.3, e=0.7)

    def truth(*place):
        ell, g, e = (at(idata, name, *place) for name in ("ell", "g", "e"))
        return g * spectrum.covariance(ell) + g * e * np.eye(23), p.X, p.y

    assert_exact(oracle, idata, model, truth)


def test_fourier_features_with_the_rows_that_were_given(oracle, build_problem):
    p = build_problem("full-K")
    x = np.linspace(0, 1, 23) ** 2
    basis = flmm.FourierBasis(x, "matern52", lengthscale=(0.2, 1.0), noise_ratio_min=0.1)
    with pm.Model() as model:
        ell, g, e = pm.Uniform("ell", 0.2, 1.0), pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.FourierLMM(
            "y",
            statistics=flmm.FourierStatistics.from_arrays(basis, x, p.y, p.X),
            lengthscale=ell,
            sigma2=g,
            sigma2_e=e,
        )
    idata = az.from_dict(
        {"posterior": {"ell": np.full((2, 3), 0.5), "g": np.full((2, 3), 1.3), "e": np.full((2, 3), 0.7)}}
    )
    Z = basis.features(x)
    V = 1.3 * (Z * np.exp(basis.log_weights(0.5))) @ Z.T + 0.7 * np.eye(23)
    tree = assert_exact(oracle, idata, model, lambda *place: (V, p.X, p.y), 1e-3, rows=(x, p.y, p.X))
    assert tree.log_likelihood["y"].dims == ("chain", "draw", "y_obs")
    tree = flmm.predict(tree, effects="left_out", rows=(x, p.y, p.X), model=model, random_seed=1)
    mean = [oracle.left_out(V, p.X, p.y, np.array([i]))[0][0] for i in range(23)]
    np.testing.assert_allclose(tree.posterior_predictive["y_mean"][0, 0], mean, rtol=1e-8)
    np.testing.assert_allclose(tree.observed_data["y"], p.y)
    assert tree.observed_data["y"].dims == ("y_obs",)
    with pytest.raises(ValueError, match="keeps no rows: give them"):
        flmm.pointwise_log_likelihood(idata, model=model, **QUIET)
    with pytest.raises(ValueError, match="do not add up to its statistics"):
        flmm.pointwise_log_likelihood(idata, model=model, rows=(x, p.y + x, p.X), **QUIET)


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("several", [False, True])
def test_the_pit_of_nodes_that_observe_a_statistic_is_that_of_their_rows(build_problem, several):
    """With the statistic's 160 numbers, or 23 in other coordinates, in the place of y there is none."""
    p = build_problem("full-K")
    x = np.linspace(0, 1, 23)
    basis = flmm.FourierBasis(x, "matern52", lengthscale=(0.2, 1.0), noise_ratio_min=0.1)
    Y = np.column_stack([p.y, 2 - p.y[::-1]]) if several else p.y
    with pm.Model() as model:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.FourierLMM(
            "f",
            statistics=flmm.FourierStatistics.from_arrays(basis, x, p.y, p.X),
            lengthscale=0.5,
            sigma2=g,
            sigma2_e=e,
        )
        flmm.FastLMM("y", spectrum=p.spectrum, sigma2_g=g, sigma2_e=e, observed=p.spectrum.rotate(Y))
        idata = pm.sample(50, tune=50, chains=2, random_seed=1, nuts_sampler="pymc", cores=1, quiet=True, **QUIET)
    statistics = idata.observed_data.to_dataset()
    for name, rows in (("f", (x, p.y, p.X)), ("y", None)):
        idata = flmm.pointwise_log_likelihood(idata, rows=rows, var_name=name, model=model, **QUIET)
        idata = flmm.predict(idata, effects="left_out", rows=rows, var_name=name, model=model, random_seed=1)
        truth = Y.T if name == "y" else p.y
        np.testing.assert_allclose(idata.observed_data[name], truth, rtol=1e-9)
        np.testing.assert_array_equal(idata.observed_data[f"{name}_statistic"], statistics[name])
        pit = az.loo_pit(idata, var_names=name)[name]
        assert pit.shape == truth.shape
        assert 0.2 < float(pit.mean()) < 0.8
        again = flmm.predict(idata, effects="left_out", rows=rows, var_name=name, model=model, random_seed=1)
        np.testing.assert_array_equal(again.observed_data[f"{name}_statistic"], statistics[name])


def kernel(p, count=4000, treatment="flat", dims=True):
    with pm.Model(coords={"obs": [f"id{i}" for i in range(23)]}) as model:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.FastLMM(
            "y", sigma2_g=g, sigma2_e=e, spectrum=p.spectrum, observed=p.y, dims="obs" if dims else None,
            **TREATMENTS[treatment],
        )  # fmt: skip
    shape = (2, count // 2)
    return model, az.from_dict({"posterior": {"g": np.full(shape, 1.3), "e": np.full(shape, 0.7)}})


def test_draws_of_what_is_left_out_have_its_mean_and_variance(oracle, build_problem):
    p = build_problem("low-W")
    model, idata = kernel(p, 40_000)
    tree = flmm.predict(idata, effects="left_out", model=model, random_seed=3)
    y = tree.posterior_predictive["y"].to_numpy().reshape(-1, 23)
    V = 1.3 * p.K + 0.7 * np.eye(23)
    moments = [oracle.left_out(V, p.X, p.y, np.array([i])) for i in range(23)]
    mean, variance = (np.array([np.ravel(m[k])[0] for m in moments]) for k in (0, 1))
    np.testing.assert_allclose(tree.posterior_predictive["y_mean"][1, 7], mean, rtol=1e-9)
    assert np.abs((y.mean(0) - mean) / np.sqrt(variance / len(y))).max() < 4.5
    assert np.abs((y.var(0) / variance - 1) / np.sqrt(2 / len(y))).max() < 4.5
    assert np.abs(np.corrcoef(y.T)[np.triu_indices(23, 1)]).max() < 6 / np.sqrt(len(y))


def test_what_is_there_of_other_nodes_and_draws_is_kept_or_replaced(build_problem):
    p = build_problem("full-K")
    with pm.Model() as model:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        for name in ("y", "z"):
            flmm.FastLMM(name, sigma2_g=g, sigma2_e=e, spectrum=p.spectrum, observed=p.y)
    tree = draws(g=1.3, e=0.7)
    for name in ("y", "z"):
        tree = flmm.pointwise_log_likelihood(tree, model=model, var_name=name, **QUIET)
    tree = flmm.pointwise_log_likelihood(tree, model=model, groups=LABELS, var_name="y", **QUIET)
    assert set(tree.log_likelihood.data_vars) == {"y", "y_remainder", "z", "z_remainder", "y_by_group"}
    tree = flmm.pointwise_log_likelihood(tree, model=model, groups=LABELS == "a", var_name="y", **QUIET)
    assert tree.log_likelihood["y_by_group"]["group"].values.tolist() == [False, True]
    assert set(tree.log_likelihood.data_vars) == {"y", "y_remainder", "z", "z_remainder", "y_by_group"}


def test_groups_are_matched_by_id(build_problem):
    p = build_problem("full-K")
    ids = [f"id{i}" for i in range(23)]
    spectrum = flmm.Spectrum.from_covariance(pd.DataFrame(p.K, ids, ids), p.X)
    with pm.Model() as model:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=spectrum, observed=p.y)
    idata = draws(g=1.3, e=0.7)
    labels = pd.Series(LABELS, index=ids)
    plain = flmm.pointwise_log_likelihood(idata, groups=LABELS, model=model, **QUIET).log_likelihood["y_by_group"]
    moved = flmm.pointwise_log_likelihood(idata, groups=labels[::-1], model=model, **QUIET).log_likelihood["y_by_group"]
    assert plain.equals(moved)


def test_bad_input_is_refused_with_the_remedy(build_problem):
    p = build_problem("low-W")
    X = np.column_stack([p.X, np.arange(23) == 5])
    spectrum = flmm.Spectrum.from_factor(pd.DataFrame(p.W, index=[f"id{i}" for i in range(23)]), X)
    with pm.Model() as model:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=spectrum, observed=p.y)
    idata = draws(g=1.3, e=0.7)

    def refused(match, model=model, **kwargs):
        with pytest.raises(ValueError, match=match):
            flmm.pointwise_log_likelihood(idata, model=model, **QUIET, **kwargs)

    refused(r"observations 'id5' of y alone determine a fixed effect.*beta_cov=")
    refused("groups 'lone' of y alone determine", groups=np.where(np.arange(23) == 5, "lone", np.arange(23) % 2))
    refused("groups has 22 rows but y has 23", groups=LABELS[1:])
    refused("groups has one group", groups=["a"] * 23)
    refused("groups is missing in 1 rows", groups=[None, *LABELS[1:]])
    refused("y keeps its rows: rows= is for a FourierLMM", rows=(p.y, p.y))
    with pm.Model() as rotated:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=p.spectrum, observed=p.rotated)
    refused("the rows of y are not known from them: build the model with spectrum= and observed=y", model=rotated)
    with pm.Model() as unobserved:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=p.spectrum, beta=b)
    refused("y has no observed data", model=unobserved)
    streamed, response = flmm.KernelStatistics.from_arrays(W=p.W, X=p.X, y=p.y).factor()
    with pm.Model() as no_rows:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=streamed, observed=response)
    refused("rows", model=no_rows)
    with pytest.raises(ValueError, match="'left_out' repeats the training rows one by one"):
        flmm.predict(idata, X_new=X, W_new=p.W, effects="left_out", model=model)
    with pytest.raises(ValueError, match="rows= are the data of a FourierLMM"):
        flmm.predict(idata, rows=(p.y, p.y), model=model)


def test_a_draw_without_variance_is_refused(build_problem):
    p = build_problem("full-K")
    with pm.Model() as model:
        v = pm.Normal("v")
        flmm.DenseLMM("y", X=p.X, V=v * pt.eye(23), observed=p.y)
    idata = az.from_dict({"posterior": {"v": np.array([[1.0, -1.0]] * 2)}})
    with pytest.raises(ValueError, match="a posterior draw of y has a covariance that is not positive definite"):
        flmm.pointwise_log_likelihood(idata, model=model, **QUIET)


def test_densities_are_normal_in_each_observation(build_problem):
    """A check that needs no refit: p(y_i | y_-i, θ) integrates to one, and its mean and sd are those that are drawn."""
    p = build_problem("full-W")
    model, idata = kernel(p, 4)
    tree = flmm.predict(idata, effects="left_out", model=model, random_seed=1)
    mean = tree.posterior_predictive["y_mean"][0, 0].to_numpy()
    logp = flmm.pointwise_log_likelihood(tree, model=model, **QUIET).log_likelihood["y"][0, 0].to_numpy()
    P = np.linalg.inv(1.3 * p.K + 0.7 * np.eye(23))
    P -= P @ p.X @ np.linalg.inv(p.X.T @ P @ p.X) @ p.X.T @ P
    sd = 1 / np.sqrt(np.diag(P))
    np.testing.assert_allclose(norm(mean, sd).logpdf(p.y), logp, rtol=1e-9)
