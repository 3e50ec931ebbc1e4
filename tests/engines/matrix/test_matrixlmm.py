"""MatrixLMM as a distribution: its density against dense normal ones, its parameters, its data, and what it refuses."""

import cloudpickle
import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import xarray as xr
from as_written import AS_WRITTEN
from engines.truth import DenseTraits

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.graphs import INTERPRETED

N, R, T = 18, 2, 3
RNG = np.random.default_rng(3)
X = np.column_stack([np.ones(N), 2 * np.linspace(0, 1, N) ** 2 + RNG.normal(size=N)])
W = RNG.normal(size=(N, 40)) / 6 + 0.2
IDS, NAMES = [f"cow {i}" for i in range(N)], ["milk", "fat", "protein"]
WEIGHTS = RNG.uniform(0.4, 3, size=N)
K = {"full rank": W @ W.T, "low rank": W[:, :5] @ W[:, :5].T}
SPECTRA = {
    "full rank": flmm.Spectrum.from_covariance(K["full rank"], X, weights=WEIGHTS),
    "low rank": flmm.Spectrum.from_factor(W[:, :5], X),
}
Y = RNG.normal(size=(T, N)) + np.array([[2.0], [0.0], [-1.0]])
HALVES = RNG.normal(size=(2, T, T)) + np.eye(T)
SIGMA_G, SIGMA_E = HALVES @ np.swapaxes(HALVES, 1, 2)
B, HALF = RNG.normal(size=(T, R)), RNG.normal(size=(T * R, T * R))
B_COV, MU = HALF @ HALF.T, RNG.normal(size=(T, N))
GAPS = np.zeros((T, N), dtype=bool)
GAPS[[0, 2, 2, 1], [3, 3, 8, 11]] = True
GAPS[:, 13] = True  # a row without any trait
RANKS = pytest.mark.parametrize("rank", list(SPECTRA))
MISSING = pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
BETA = {"flat": {}, "explicit": {"beta": B}, "Gaussian": {"beta_mean": B, "beta_cov": B_COV}}
TREATMENT = pytest.mark.parametrize("treatment", list(BETA))


def seen_of(missing):
    return ~GAPS if missing else np.ones((T, N), dtype=bool)


def gapped(missing):
    return np.where(seen_of(missing), Y, np.nan)


def truth(rank, missing, treatment="flat", sigma_g=SIGMA_G, sigma_e=SIGMA_E, *, y=Y, mu=0.0, b=B):
    """Return the dense model of what was observed."""
    weights = WEIGHTS if rank == "full rank" else None
    known = {} if treatment == "flat" else {"b": b.ravel(), "B": B_COV * (treatment == "Gaussian")}
    return DenseTraits(K[rank], X, seen_of(missing), sigma_g, sigma_e, y - mu, weights=weights, **known)


def node(spectrum, Sigma_g=SIGMA_G, Sigma_e=SIGMA_E, observed=Y, name="Y", **kwargs):
    return flmm.MatrixLMM(name, spectrum=spectrum, Sigma_g=Sigma_g, Sigma_e=Sigma_e, observed=observed, **kwargs)


def built(*args, coords=None, **kwargs):
    with pm.Model(coords=coords) as model:
        node(*args, **kwargs)
    return model


def logp_of(model, evaluate, given=None):
    return float(evaluate(model.logp(vars=[model["Y"]]), given))


# ---------------------------------------------------------------- the density and its gradient


@RANKS
@MISSING
@TREATMENT
def test_density_and_gradient_in_all_that_it_depends_on(rank, missing, treatment):
    """Σ_g, Σ_e, mu and β as inputs of a graph; gradients are central differences of the dense density."""
    G, E, mu, b = pt.dmatrix("G"), pt.dmatrix("E"), pt.dmatrix("mu"), pt.dmatrix("b")
    own = {"flat": {}, "explicit": {"beta": b}, "Gaussian": {"beta_mean": b, "beta_cov": B_COV}}[treatment]
    sigma_g, sigma_e = pt.specify_shape(G @ G.T, (T, T)), pt.specify_shape(E @ E.T, (T, T))
    model = built(SPECTRA[rank], sigma_g, sigma_e, gapped(missing), mu=mu, **own)
    logp = model.logp(vars=[model["Y"]])
    inputs = [G, E, mu, *([b] if own else [])]
    function = pytensor.function(inputs, [logp, *pt.grad(logp, inputs)], mode=AS_WRITTEN)
    at = [*HALVES, MU, *([B] if own else [])]

    def density(G, E, mu, b=B):
        return truth(rank, missing, treatment, G @ G.T, E @ E.T, mu=mu, b=b).loglik

    value, *gradients = function(*at)
    np.testing.assert_allclose(value, density(*at), rtol=1e-10)
    for place, gradient in enumerate(gradients):
        for _ in range(3):
            way = RNG.normal(size=at[place].shape)
            ends = [density(*at[:place], at[place] + h * way, *at[place + 1 :]) for h in (1e-5, -1e-5)]
            np.testing.assert_allclose((gradient * way).sum(), (ends[0] - ends[1]) / 2e-5, rtol=2e-6, atol=1e-6)


@RANKS
def test_one_trait_is_a_fastlmm(rank, evaluate):
    own = {"spectrum": SPECTRA[rank]}
    with pm.Model() as model:
        flmm.FastLMM("y", sigma2_g=1.3, sigma2_e=0.7, observed=Y[0], **own)
        node(SPECTRA[rank], np.array([[1.3]]), np.array([[0.7]]), Y[:1])
    found, expected = evaluate([model.logp(vars=[model[name]]) for name in ("Y", "y")])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@RANKS
@MISSING
def test_y_along_X_does_not_matter_under_a_flat_prior(rank, missing, evaluate):
    moved = gapped(missing) + B @ X.T
    values = [logp_of(built(SPECTRA[rank], observed=y), evaluate) for y in (gapped(missing), moved)]
    np.testing.assert_allclose(*values, rtol=1e-11)


@MISSING
def test_a_singular_sigma_g_has_a_density_and_a_singular_sigma_e_none(missing, evaluate):
    flat = np.outer([1.0, 0.5, -0.4], [1.0, 0.5, -0.4])
    for sigma_g in (flat, np.zeros((T, T))):
        found = logp_of(built(SPECTRA["low rank"], sigma_g, observed=gapped(missing)), evaluate)
        np.testing.assert_allclose(found, truth("low rank", missing, sigma_g=sigma_g).loglik, rtol=1e-10)
    assert logp_of(built(SPECTRA["low rank"], SIGMA_G, flat, gapped(missing)), evaluate) == -np.inf


def test_a_negative_variance_and_one_that_is_nan_are_refused(evaluate):
    S = pt.dmatrix("S")
    model = built(SPECTRA["low rank"], SIGMA_G, pt.specify_shape(S, (T, T)))
    for wrong in (np.diag([1.0, 1.0, -1.0]), np.full((T, T), np.nan)):
        with pytest.raises(pm.logprob.utils.ParameterValueError, match="variances >= 0, no parameter NaN"):
            logp_of(model, evaluate, {S: wrong})


def test_mu_is_a_number_a_matrix_or_an_expression(evaluate):
    slope = pt.dscalar("slope")
    for mu, value in ((0.4, 0.4), (MU, MU), (MU[0], MU[0]), (slope * MU, -2.0 * MU)):
        found = logp_of(built(SPECTRA["full rank"], mu=mu), evaluate, {slope: np.array(-2.0)})
        np.testing.assert_allclose(found, truth("full rank", False, mu=value).loglik, rtol=1e-10)


def test_a_beta_mean_may_be_a_number(evaluate):
    found = logp_of(built(SPECTRA["low rank"], beta_mean=0.3, beta_cov=B_COV), evaluate)
    expected = truth("low rank", False, "Gaussian", b=np.full((T, R), 0.3)).loglik
    np.testing.assert_allclose(found, expected, rtol=1e-10)


# ---------------------------------------------------------------- covariances between traits


def lkj(name):
    chol, _, _ = pm.LKJCholeskyCov(name, n=T, eta=2, sd_dist=pm.HalfNormal.dist(2, shape=T))
    return chol @ chol.T


def equal_correlation(name):
    sd, r = pm.HalfNormal(f"{name}_sd", 1, shape=T), pm.Uniform(f"{name}_r", -0.4, 1)
    return (r + (1 - r) * pt.eye(T)) * pt.outer(sd, sd)


def by_factors(name):
    return cov.factor_analytic(pm.Normal(f"{name}_l", shape=(T, 1)), pm.HalfNormal(f"{name}_psi", 1, shape=T))


STRUCTURES = {
    "LKJ": lkj,
    "equal correlations, an expression": equal_correlation,
    "factor-analytic": by_factors,
    "diagonal": lambda name: cov.diagonal(pm.HalfNormal(f"{name}_v", 1, shape=T)),
    "equal correlations": lambda name: cov.equicorrelation(
        pm.HalfNormal(f"{name}_v", 1), pm.Uniform(f"{name}_r", -0.4, 1), size=T
    ),
    "compound symmetry": lambda name: cov.compound_symmetry(
        pm.HalfNormal(f"{name}_v", 1), pm.HalfNormal(f"{name}_c", 1), size=T
    ),
    "a matrix of numbers": lambda name: SIGMA_G,
    "scaled": lambda name: pm.HalfNormal(f"{name}_v", 1) * pt.constant(SIGMA_G),
}


@MISSING
@pytest.mark.parametrize("structure", STRUCTURES)
def test_any_expression_or_structure_of_both(structure, missing):
    """The matrices are those that the expressions of the user have at the same values."""
    with pm.Model() as model:
        parts = [STRUCTURES[structure](name) for name in ("g", "e")]
        node(SPECTRA["low rank"], *parts, gapped(missing))
    dense = [part.dense() if isinstance(part, cov.Covariance) else pt.as_tensor(part) for part in parts]
    logp = pm.logp(model["Y"], pt.constant(np.nan_to_num(Y)))
    function = pytensor.function(model.free_RVs, [logp, *dense], mode=AS_WRITTEN, on_unused_input="ignore")
    rng = np.random.default_rng(5)
    at = [rv.eval() if structure == "LKJ" else rng.uniform(0.2, 0.7, size=rv.type.shape) for rv in model.free_RVs]
    value, sigma_g, sigma_e = function(*at)
    expected = truth("low rank", missing, sigma_g=sigma_g, sigma_e=sigma_e).loglik
    np.testing.assert_allclose(value, expected, rtol=1e-9)


# ---------------------------------------------------------------- draws


@RANKS
@pytest.mark.parametrize("treatment", ["explicit", "Gaussian"])
def test_prior_predictive_draws(rank, treatment, assert_moments):
    """Draws have all entries, those too that were not observed."""
    model = built(SPECTRA[rank], observed=gapped(True), mu=MU, **BETA[treatment])
    draws = pm.draw(model["Y"], 2000, random_seed=1, mode=INTERPRETED)
    whole = truth(rank, False, treatment)
    mean = MU.ravel() + np.kron(np.eye(T), X) @ B.ravel()
    assert_moments(draws.reshape(2000, -1), mean, whole.V)


@RANKS
def test_draws_under_a_flat_prior_are_error_contrasts(rank, assert_moments):
    model = built(SPECTRA[rank], observed=gapped(True))
    with pytest.warns(UserWarning, match="draws of Y are error contrasts"):
        draws = pm.draw(model["Y"], 2000, random_seed=1, mode=INTERPRETED)
    whole = truth(rank, False)
    scale = whole.scale
    Q = np.linalg.qr(whole.design * scale[:, None])[0]
    M = np.eye(T * N) - Q @ Q.T
    assert_moments(draws.reshape(2000, -1) * scale, np.zeros(T * N), M @ (whole.V * np.outer(scale, scale)) @ M)


def test_posterior_predictive_draws_of_pymc(assert_moments):
    with pm.Model(coords={"trait": NAMES, "obs": IDS}) as model:
        scale = pm.HalfNormal("scale")
        node(SPECTRA["low rank"], scale * pt.constant(SIGMA_G), observed=gapped(True), beta=B, dims=("trait", "obs"))

    posterior = xr.Dataset({"scale": (("chain", "draw"), np.full((1, 1500), 0.7))})
    tree = xr.DataTree.from_dict({"posterior": posterior})
    drawn = pm.sample_posterior_predictive(
        tree, model=model, progressbar=False, random_seed=1, compile_kwargs={"mode": INTERPRETED}
    ).posterior_predictive["Y"]
    assert drawn.dims == ("chain", "draw", "trait", "obs")
    assert list(drawn["trait"]) == NAMES
    expected = truth("low rank", False, "explicit", sigma_g=0.7 * SIGMA_G)
    assert_moments(drawn.to_numpy().reshape(1500, -1), expected.design @ expected.b, expected.V)


def test_prior_predictive_draws_of_pymc():
    with pm.Model(coords={"trait": NAMES, "obs": IDS}) as model:
        scale = pm.HalfNormal("scale")
        node(SPECTRA["low rank"], scale * pt.constant(SIGMA_G), beta=B, dims=("trait", "obs"))
    drawn = pm.sample_prior_predictive(7, model=model, random_seed=1, compile_kwargs={"mode": INTERPRETED})
    assert drawn.prior_predictive["Y"].shape == (1, 7, T, N)


# ---------------------------------------------------------------- outside a model, and as a part of one


def test_a_distribution_outside_a_model(evaluate):
    own = {"spectrum": SPECTRA["low rank"], "Sigma_g": SIGMA_G, "Sigma_e": SIGMA_E}
    found = evaluate(pm.logp(flmm.MatrixLMM.dist(**own), pt.constant(Y)))
    np.testing.assert_allclose(found, truth("low rank", False).loglik, rtol=1e-10)
    drawn = pm.draw(flmm.MatrixLMM.dist(**own, beta=B), random_seed=1, mode=INTERPRETED)
    assert drawn.shape == (T, N)


def test_an_unobserved_variable(evaluate):
    """Y of a model may be latent: its value is a variable like others, and it starts at mu."""
    with pm.Model() as model:
        node(SPECTRA["low rank"], observed=None, mu=MU, beta=B)
    np.testing.assert_allclose(model.initial_point()["Y"], MU)
    value = model.rvs_to_values[model["Y"]]
    found = logp_of(model, evaluate, {value: Y})
    np.testing.assert_allclose(found, truth("low rank", False, "explicit", mu=MU).loglik, rtol=1e-10)
    logp = model.logp()
    gradient = evaluate(pt.grad(logp, value), {value: Y})
    np.testing.assert_allclose(gradient.ravel(), -truth("low rank", False, "explicit", mu=MU).Py, rtol=1e-9)


def test_a_model_that_was_pickled_has_the_same_density(evaluate):
    for missing in (False, True):
        model = built(SPECTRA["low rank"], observed=gapped(missing))
        again = cloudpickle.loads(cloudpickle.dumps(model))
        assert logp_of(again, evaluate) == logp_of(model, evaluate)


# ---------------------------------------------------------------- data


def test_rows_of_a_table_are_aligned_and_traits_have_the_names_of_its_columns(evaluate):
    X_named = pd.DataFrame(X, index=IDS, columns=["Intercept", "age"])
    spectrum = flmm.Spectrum.from_covariance(pd.DataFrame(K["full rank"], IDS, IDS), X_named)
    table = pd.DataFrame(gapped(True).T, index=IDS, columns=NAMES)
    plain = built(flmm.Spectrum.from_covariance(K["full rank"], X), observed=gapped(True))
    model = built(spectrum, observed=table.sample(frac=1, random_state=1))
    np.testing.assert_allclose(logp_of(model, evaluate), logp_of(plain, evaluate), rtol=1e-12)
    (found,) = flmm.lmm_nodes(model)
    assert found.traits == tuple(NAMES)
    assert found.ids[:2] == (("milk", IDS[0]), ("milk", IDS[1]))
    assert found.projection.coef[:2] == ("milk: Intercept", "milk: age")


def test_names_of_traits():
    """Those that are given, of the table, or the coordinates of the model; numbers otherwise."""
    coords = {"trait": NAMES, "obs": range(N)}

    def traits(observed=Y, **kwargs):
        (found,) = flmm.lmm_nodes(built(SPECTRA["low rank"], observed=observed, coords=coords, **kwargs))
        return found.traits

    assert traits() == ("0", "1", "2")
    assert traits(dims=("trait", "obs")) == tuple(NAMES)
    assert traits(traits=["a", "b", "c"], dims=("trait", "obs")) == ("a", "b", "c")
    assert traits(pd.DataFrame(Y.T, columns=["x", "y", "z"])) == ("x", "y", "z")


def test_data_that_are_set_later(evaluate):
    with pm.Model() as model:
        node(SPECTRA["low rank"], observed=pm.Data("data", Y))
    np.testing.assert_allclose(logp_of(model, evaluate), truth("low rank", False).loglik, rtol=1e-10)
    with model:
        pm.set_data({"data": 2 * Y})
    np.testing.assert_allclose(logp_of(model, evaluate), truth("low rank", False, y=2 * Y).loglik, rtol=1e-10)


SET_LATER = {
    "missing": (gapped(True), "the data of Y has 7 values that are NaN or infinite, the first at 3"),
    "fewer rows": (
        Y[:, :5],
        "the data of Y were set to 15 values in their last dimension, but its cov.* is of 54",
    ),
}


@pytest.mark.parametrize("case", SET_LATER)
def test_data_that_do_not_fit_later_are_named(case):
    values, message = SET_LATER[case]
    with pm.Model() as model:
        node(SPECTRA["low rank"], pm.HalfNormal("g") * pt.constant(SIGMA_G), observed=pm.Data("data", Y))
        pm.set_data({"data": values})
    with pytest.raises(ValueError, match=message):
        flmm.find_reml(model, progressbar=False)


def test_masked_entries_were_not_observed(evaluate):
    masked = np.ma.array(Y, mask=GAPS)
    model = built(SPECTRA["low rank"], observed=masked)
    np.testing.assert_allclose(logp_of(model, evaluate), truth("low rank", True).loglik, rtol=1e-10)


# ---------------------------------------------------------------- what is refused

SPECTRUM = SPECTRA["low rank"]
ONE_LESS = np.eye(T - 1)
REFUSED = {
    "K in place of a spectrum": (
        lambda: node(K["low rank"]), TypeError, r"spectrum must be a Spectrum, got ndarray: build it with flmm\.Spec"
    ),
    "rows and traits interchanged": (
        lambda: node(SPECTRUM, observed=Y.T), ValueError, r"observed has the shape \(18, 3\), but Y must be \(3, 18\)"
    ),
    "another number of traits": (
        lambda: node(SPECTRUM, observed=Y[:2]), ValueError, r"shape \(2, 18\), but Y must be \(3, 18\)"
    ),
    "matrices of different traits": (
        lambda: node(SPECTRUM, ONE_LESS), ValueError, "Sigma_g is of 2 traits and Sigma_e of 3: they are of the same"
    ),
    "a number in place of a matrix": (
        lambda: node(SPECTRUM, 1.5), ValueError, r"Sigma_g must be a matrix \(t, t\), or a structure such as .*diagonal"
    ),
    "a structure without a size": (
        lambda: node(SPECTRUM, Sigma_e=cov.ar1(1.0, 0.5)), ValueError, "Sigma_e is a structure without a size: give it"
    ),
    "names that do not fit": (
        lambda: node(SPECTRUM, traits=["a", "b"]), ValueError, "traits names 2 traits, 'a', 'b', but Sigma_e is of 3"
    ),
    "names that are not unique": (
        lambda: node(SPECTRUM, traits=["a", "b", "a"]), ValueError, "the names of the traits"
    ),
    "infinite values": (
        lambda: node(SPECTRUM, observed=np.where(GAPS, np.inf, Y)), ValueError, "infinite values: use NaN for entries"
    ),
    "a trait without data": (
        lambda: node(SPECTRUM, observed=np.where([[True], [False], [False]], np.nan, Y)), ValueError,
        r"of 18 rows these traits were observed in no more than there are traits: '?0 \(0\)'?\. Leave them out"
    ),
    "an expression as data": (
        lambda: node(SPECTRUM, observed=pm.Normal("z", shape=(T, N))), ValueError, "observed is an expression of the mo"
    ),
    "weights": (
        lambda: node(SPECTRUM, weights=WEIGHTS), ValueError, "they are in the spectrum: .*from_covariance"
    ),
    "an argument of another distribution": (
        lambda: node(SPECTRUM, sigma2_g=1.0), (TypeError, ValueError), "MatrixLMM .*sigma2_g.*it takes spectrum, Sigma"
    ),
    "ids that differ": (
        lambda: node(
            flmm.Spectrum.from_covariance(pd.DataFrame(K["full rank"], IDS, IDS), X),
            observed=pd.DataFrame(Y.T, index=[f"bull {i}" for i in range(N)]),
        ), ValueError, "observed"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_errors(case):
    build, kind, message = REFUSED[case]
    with pm.Model(), pytest.raises(kind, match=message):
        build()


def test_a_part_of_dependent_data_is_refused():
    with pm.Model(), pytest.raises(ValueError, match="total_size="):
        node(SPECTRUM, total_size=100)
