"""Every verb of every engine against the dense V that it stands for; what a node does not give, it refuses."""

import copy
import pickle

import cloudpickle
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import scipy.linalg
from as_written import AS_WRITTEN
from scipy.optimize import minimize

import pm_fastlmm as flmm
from engines.contract import AFTER, CASES, RECORD_SHIFT, WEIGHTED_Y, X_NEW, N, X, counts_moments
from engines.toy_counts import CountsNode
from engines.toy_gaussian import WeightedNode
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.graphs import INTERPRETED
from pm_fastlmm.engines.labels import derived
from pm_fastlmm.engines.protocol import ENGINES

DRAWS = 1000
SAMPLED = (
    "latent",
    "spectral",
    "structured",
    "matrix",
    "lengthscale",
    "dense",
    "fourier",
    "toy, Gaussian",
    "toy, counts",
)
KINDS = ("given", "new", "population")
DENSE = [case for case in CASES if case.V is not None]  # the others have tests of what they draw in their own places
TOYS = [WeightedNode, CountsNode]
for toy in TOYS:  # registered by being imported, and listed while these tests run
    ENGINES.remove(toy)


@pytest.fixture(scope="module", autouse=True)
def _listed():
    ENGINES.extend(TOYS)
    yield
    for toy in TOYS:
        ENGINES.remove(toy)


@pytest.fixture(params=CASES, ids=repr)
def case(request):
    return request.param


def giving(*verbs):
    """The Gaussian cases that give all of some verbs."""
    return pytest.mark.parametrize("case", [c for c in DENSE if set(verbs) <= c.gives], ids=repr)


def fitted():
    """All cases that are fitted, Gaussian or not."""
    return pytest.mark.parametrize("case", [c for c in CASES if "find_reml" in c.gives], ids=repr)


def lacking(verb):
    """The cases that do not give a verb."""
    return pytest.mark.parametrize("case", [c for c in CASES if verb not in c.gives], ids=repr)


def refused(case, *words):
    """An error that names the node."""
    return pytest.raises(ValueError, match=rf"\by\b.*{'.*'.join(words)}")


def assert_moments(draws, mean, cov):
    """Compare draws (D, k) with mean and covariance, within five standard errors."""
    draws, sd = np.asarray(draws), np.sqrt(np.maximum(np.diag(cov), 0))
    tiny = 1e-7 * (1 + np.abs(mean))
    assert draws.shape[1:] == mean.shape
    assert (np.abs(draws.mean(0) - mean) <= 5 * sd / np.sqrt(len(draws)) + tiny).all()
    error = np.sqrt((cov**2 + np.outer(sd, sd) ** 2) / len(draws))
    assert (np.abs(np.cov(draws.T) - cov) <= 5 * error + 1e-7 * (1 + np.abs(cov).max())).all()


def parts_of(case, quantity):
    """Return a quantity of the values, for each response."""
    return quantity(case.values) if case.y.ndim > 1 else [quantity(case.values)]


def moved(values, name, index, step):
    """Return values with one element moved."""
    value = np.array(values[name], dtype=float)
    value[index] += step
    return values | {name: value}


def elements(values):
    return [(name, index) for name, value in values.items() for index in np.ndindex(np.shape(value))]


# ---------------------------------------------------------------- the density


def test_density_and_gradient(case):
    free = case.model.free_RVs
    density = pm.logp(case.node.rv, pt.constant(case.node.placed(case.node.observed))).sum()
    gradients = pytensor.grad(density, free)
    function = pytensor.function(free, [density, *gradients], mode=AS_WRITTEN)
    value, *found = function(*(np.asarray(case.values[rv.name], dtype=float) for rv in free))
    truth = case.density(case.values)
    np.testing.assert_allclose(value, truth, atol=10 * case.tolerance, rtol=case.tolerance)
    by_name = {rv.name: np.asarray(gradient) for rv, gradient in zip(free, found, strict=True)}
    for name, index in elements(case.values):
        h = 1e-5
        ends = [case.density(moved(case.values, name, index, sign * h)) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * h)
        np.testing.assert_allclose(by_name[name][index], slope, rtol=max(1e-5, 100 * case.tolerance), atol=1e-6)


# ---------------------------------------------------------------- fits


@fitted()
def test_the_restricted_likelihood_has_its_maximum_where_the_dense_one_has(case):
    fit = case.fit
    assert fit.converged
    assert not fit.boundary
    names = list(case.values)

    def minus(x):
        values = dict(zip(names, x, strict=True))
        allowed = [abs(v) < 1 if name.startswith("rho") else v > 0 for name, v in values.items()]
        return -case.density(values) if all(allowed) else np.inf

    estimate = np.array([float(fit.point[name]) for name in names])
    best = minimize(minus, estimate * 1.1, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10})
    np.testing.assert_allclose(minus(estimate), best.fun, atol=max(1e-7, 100 * case.tolerance))
    np.testing.assert_allclose(fit.loglik, -minus(estimate), atol=10 * case.tolerance)
    if case.tolerance < 1e-6:
        np.testing.assert_allclose(estimate, best.x, rtol=1e-3)


@giving("find_reml")
def test_generalised_least_squares(case):
    (truth,) = case.dense(case.fit.point)
    if truth.flat:
        np.testing.assert_allclose(case.fit.beta, truth.beta, rtol=max(1e-7, 100 * case.tolerance))
        np.testing.assert_allclose(case.fit.beta_cov, truth.beta_cov, rtol=max(1e-7, 100 * case.tolerance))


@giving("V")
def test_V_and_its_derivatives(case):
    theta, atol = case.fit.theta.to_numpy(), 100 * case.tolerance
    prior = case.X @ case.known["B"] @ case.X.T if "B" in case.known else 0.0
    V = case.V(case.fit.point)
    found = case.fit.objective.covariance(theta)
    assert min(np.abs(found - other).max() for other in (V, V + prior)) < atol  # some engines have the prior of β in V
    slopes = case.fit.objective.covariance_derivatives(theta)
    for i in range(len(theta)):
        h = np.zeros(len(theta))
        h[i] = 1e-5 * theta[i]
        slope = (case.fit.objective.covariance(theta + h) - case.fit.objective.covariance(theta - h)) / (2 * h[i])
        np.testing.assert_allclose(slopes[i], slope, rtol=1e-5, atol=1e-6)


def left_out(truth, y, rows):
    """Return the mean and covariance of y_S given the others."""
    P = truth.P[np.ix_(rows, rows)]
    cov = np.linalg.inv(P)
    return y[rows] - cov @ truth.Py[rows], cov


@giving("loo")
def test_leave_one_out_of_a_fit(case):
    (truth,) = case.dense(case.fit.point)
    found = case.fit.loo()
    for i in range(N):
        mean, cov = left_out(truth, case.y, [i])
        np.testing.assert_allclose(found["mean"].iloc[i], mean[0], atol=max(1e-7, 100 * case.tolerance))
        np.testing.assert_allclose(found["sd"].iloc[i], np.sqrt(cov[0, 0]), rtol=max(1e-7, 100 * case.tolerance))


@giving("simulate")
def test_replicates_of_a_fit(case):
    if "B" in case.known and case.known["B"].any():
        assert case.fit.simulate(3, random_seed=1).shape == (N, 3)
        return
    (truth,) = case.dense(case.fit.point)
    mean = case.X @ truth.beta if truth.flat else case.known.get("mu", 0.0) + case.X @ case.known["b"]
    assert_moments(case.fit.simulate(DRAWS, random_seed=1).to_numpy().T, mean, case.V(case.fit.point))


@giving("blup")
def test_effects_of_a_fit(case):
    (truth,) = case.dense(case.fit.point)
    sizes, cross, own = case.effects(case.fit.point)
    mean, cov = truth.given(np.zeros((len(own), case.X.shape[1])), cross, own)
    blup, pev = case.fit.blup(), case.fit.pev()
    assert set(blup) == set(sizes) - {"a"}  # coefficients of a factor are recovered at draws
    ends = np.cumsum(list(sizes.values()))[:-1]
    means, errors = (dict(zip(sizes, np.split(v, ends), strict=True)) for v in (mean, np.diag(cov)))
    for name in blup:
        for found, expected in ((blup[name], means[name]), (pev[name], errors[name])):
            np.testing.assert_allclose(np.ravel(np.transpose(found)), expected, rtol=1e-7, atol=1e-7)


@giving("fit.predict")
def test_predictions_of_a_fit(case):
    (truth,), (arguments, covariances) = case.dense(case.fit.point), case.new
    mean, cov = truth.given(case.X_new, *covariances(case.fit.point))
    found = case.fit.predict(**arguments)
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_allclose(found.variance, np.diag(cov), rtol=1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("matrix")], ids=repr)
def test_predictions_of_all_entries_of_traits(case):
    """Those that were observed have their fitted values; the dense truth is of all."""
    (truth,), (_, cross, own) = case.dense(case.fit.point), case.effects(case.fit.point)
    mean, cov = truth.given(np.kron(np.eye(2), case.node.kernel.X), cross, own)
    mean += RECORD_SHIFT[:, : case.node.kernel.n].ravel() if "mu" in case.known else 0.0
    found = case.fit.predict()
    np.testing.assert_allclose(found.mean, mean, atol=1e-7)
    np.testing.assert_allclose(found.variance, np.diag(cov), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(case.observed(found.mean.to_numpy().reshape(2, -1)), case.fit.fitted(), atol=1e-9)
    assert found.mean.index.names == ["trait", "obs"]


@pytest.mark.parametrize("case", [c for c in CASES if "compare_fits" in c.gives], ids=repr)
def test_a_comparison_of_fits(case):
    place = np.flatnonzero(~case.fit.objective.together)[-1]  # an element of a matrix cannot be held alone
    name, value = case.fit.theta.index[place], float(case.fit.theta.iloc[place])
    smaller = flmm.find_reml(case.model, fixed={name: 1.5 * value}, progressbar=False)
    table = flmm.compare_fits({"smaller": smaller, "larger": case.fit})
    np.testing.assert_allclose(table.loc["larger", "loglik"] - table.loc["smaller", "loglik"],
                               case.fit.loglik - smaller.loglik)  # fmt: skip


# ---------------------------------------------------------------- draws


def test_sampling_adds_what_it_claims(case):
    values = {name: 1.0 * np.asarray(value) for name, value in case.values.items()}
    added = derived(Draws(case.model, case.draws(2, values).posterior.to_dataset()), case.node)
    expected = case.derived(values)
    assert set(added) == {f"y_{suffix}" for suffix in expected}
    for suffix, value in expected.items():
        np.testing.assert_allclose(added[f"y_{suffix}"][0, 1], value, rtol=1e-3 if case.tolerance > 1e-8 else 1e-9)


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("case", [c for c in CASES if c.name in SAMPLED], ids=repr)
@pytest.mark.parametrize("seeded", [True, False])
def test_sampling(case, seeded):
    options = {} if seeded else {"initvals": {}}
    idata = flmm.sample(10, tune=10, chains=1, cores=1, model=case.model, random_seed=1, progressbar=False,
                        quiet=True, **options)  # fmt: skip
    assert {f"y_{suffix}" for suffix in case.derived(case.values)} <= set(idata.posterior.data_vars)


@pytest.mark.parametrize("case", [c for c in CASES if c.effects], ids=repr)
def test_recovered_effects_have_the_moments_of_their_conditional(case):
    sizes, _, _ = parts_of(case, case.effects)[0]
    which = ("beta", *sizes) if case.node.parts else None
    posterior = flmm.recover_effects(case.draws(DRAWS), which=which, model=case.model, random_seed=1).posterior
    known = "b" in case.known and not case.known["B"].any()  # an explicit β is not drawn
    drawn = [posterior[f"y_{name}"].to_numpy() for name in (*(() if known else ("beta",)), *sizes)]
    for t, (truth, (_, cross, own)) in enumerate(zip(case.dense(), parts_of(case, case.effects), strict=True)):
        r = case.X.shape[1]
        design = np.zeros((len(own), r))
        if not known:
            design, cross = np.vstack([np.eye(r), design]), np.vstack([np.zeros((r, N)), cross])
            own = scipy.linalg.block_diag(np.zeros((r, r)), own)
        draws = [(values[:, :, t] if case.y.ndim > 1 else values).reshape(DRAWS, -1) for values in drawn]
        assert_moments(np.hstack(draws), *truth.given(design, cross, own))


def test_effects_of_counts_have_the_moments_of_their_conditional():
    case = next(c for c in CASES if c.name == "toy, counts")
    idata = flmm.recover_effects(case.draws(DRAWS), model=case.model, random_seed=1)
    assert_moments(idata.posterior["y_u"][0], *counts_moments(case.values))


@pytest.mark.parametrize("case", [c for c in CASES if c.V is not None or not set(KINDS) & c.gives], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_in_sample(case, kind):
    if kind not in case.gives:
        with refused(case):
            flmm.predict(case.draws(2), effects=kind, model=case.model)
        return
    group = flmm.predict(case.draws(DRAWS), effects=kind, model=case.model, random_seed=2).posterior_predictive
    noises = parts_of(case, case.noise) if case.noise else [None]
    for t, (truth, V, noise) in enumerate(zip(case.dense(), parts_of(case, case.V), noises, strict=True)):
        f, y = (group[name].to_numpy()[0] for name in ("y_mean", "y"))
        f, y = (case.observed(values[:, t] if case.y.ndim > 1 else values) for values in (f, y))
        signal = V - noise if kind == "given" else np.zeros((N, N))
        mean, cov = truth.given(case.X, signal, signal)
        mean = mean + case.known.get("mu", 0.0)
        if kind != "new":
            assert_moments(f, mean, cov)
        assert_moments(y, mean, cov + (V if kind == "new" else noise))


@giving("new rows")
@pytest.mark.parametrize("kind", ["given", "population"])
def test_predictions_of_new_rows(case, kind):
    if kind == "population" and kind not in case.gives:
        return
    arguments, covariances = case.new
    if kind == "population":
        residual = {"residual"} & set(arguments.get("Z_new", {}))
        arguments = {"X_new": X_NEW} | (
            {"Z_new": {name: arguments["Z_new"][name] for name in residual}} if residual else {}
        )
    group = flmm.predict(case.draws(DRAWS), **arguments, effects=kind, model=case.model, random_seed=3).predictions
    pairs = zip(case.dense(), parts_of(case, case.noise), strict=True)
    for t, (truth, noise) in enumerate(pairs):
        f, y = (group[name].to_numpy()[0] for name in ("y_mean", "y"))
        f, y = ((values[:, t] if case.y.ndim > 1 else values).reshape(DRAWS, -1) for values in (f, y))
        m = len(case.X_new)
        cross, own = parts_of(case, covariances)[t] if kind == "given" else (np.zeros((m, N)), np.zeros((m, m)))
        mean, cov = truth.given(case.X_new, cross, own)
        assert_moments(f, mean, cov)
        new_noise = case.new_noise(case.values) if case.new_noise else noise[0, 0] * np.eye(m)
        assert_moments(y, mean, cov + new_noise)


# ---------------------------------------------------------------- P and Py


@giving("pointwise")
def test_P_and_Py(case):
    draws = Draws(case.model, case.draws(2).posterior.to_dataset())
    found = case.node.precisions(draws, largest=2, numbers=10**6, **case.rows)
    responses = len(case.dense())
    P, Py = np.full((2 * responses, N, N), np.nan), np.full((2 * responses, N), np.nan)
    for part in found.parts:
        P[part.index] = part.precision.block(np.arange(N))
        Py[part.index] = part.precision.weighted
        np.testing.assert_allclose(part.precision.diagonal, np.diagonal(P, axis1=-2, axis2=-1)[part.index], rtol=1e-8)
    for t, truth in enumerate(case.dense()):
        for d in range(2):
            np.testing.assert_allclose(P[d * responses + t], truth.P, atol=100 * case.tolerance)
            np.testing.assert_allclose(Py[d * responses + t], truth.Py, atol=100 * case.tolerance)


@giving("pointwise", "left_out")
def test_observations_and_groups_given_all_others(case):
    options = {"model": case.model, **case.rows}
    idata = flmm.pointwise_log_likelihood(case.draws(2), progressbar=False, **options)
    idata = flmm.pointwise_log_likelihood(idata, groups=case.groups, progressbar=False, **options)
    flmm.predict(idata, effects="left_out", random_seed=1, **options)

    def of(values, t):
        values = values.to_numpy()[0, 0]
        return values[t] if case.y.ndim > 1 else values

    for t, truth in enumerate(case.dense()):
        y = case.y[t] if case.y.ndim > 1 else case.y
        own = idata.log_likelihood["y"], idata.posterior_predictive["y_mean"]
        densities, means = (case.observed(of(values, t)) for values in own)
        for i in range(N):
            mean, cov = left_out(truth, y, [i])
            exact = -0.5 * (np.log(2 * np.pi * cov[0, 0]) + (y[i] - mean[0]) ** 2 / cov[0, 0])
            np.testing.assert_allclose(densities[i], exact, atol=100 * case.tolerance)
            np.testing.assert_allclose(means[i], mean[0], atol=100 * case.tolerance)
        for j in range(5):
            rows = np.flatnonzero(j == case.of_groups)
            mean, cov = left_out(truth, y, rows)
            off = y[rows] - mean
            exact = -0.5 * (len(rows) * np.log(2 * np.pi) + np.linalg.slogdet(cov)[1] + off @ np.linalg.solve(cov, off))
            np.testing.assert_allclose(of(idata.log_likelihood["y_by_group"], t)[j], exact, atol=1000 * case.tolerance)


# ---------------------------------------------------------------- the node itself


def test_copies(case):
    node = case.node
    copies = [copy.copy(node), copy.deepcopy(node), pickle.loads(pickle.dumps(node)),
              cloudpickle.loads(cloudpickle.dumps(node))]  # fmt: skip
    for other in copies:
        assert type(other) is type(node)
        assert repr(other) == repr(node)
        np.testing.assert_array_equal(other.observed, node.observed)


def test_repr_says_what_it_is(case):
    text = repr(case.node)
    assert text.startswith(f"{type(case.node).__name__}('y': observations: {N}, data: observed")


@lacking("find_reml")
def test_a_fit_is_refused(case):
    with refused(case):
        flmm.find_reml(case.model, progressbar=False)


@lacking("recover")
def test_effects_are_refused(case):
    with refused(case, case.node.called):
        flmm.recover_effects(case.draws(2), model=case.model)


@lacking("pointwise")
def test_densities_given_others_are_refused(case):
    with refused(case, case.node.called):
        flmm.pointwise_log_likelihood(case.draws(2), model=case.model)
    with refused(case, case.node.called):
        flmm.predict(case.draws(2), effects="left_out", model=case.model)


@lacking("function")
def test_a_function_is_refused(case):
    with refused(case, "FourierLMM"):
        flmm.posterior_function(case.draws(2), model=case.model)


OF_FITS = {
    "simulate": lambda fit: fit.simulate(),
    "loo": lambda fit: fit.loo(),
    "blup": lambda fit: fit.blup(),
    "fit.predict": lambda fit: fit.predict(X_NEW),
    "function": lambda fit: fit.posterior_function(),
}


@giving("find_reml")
@pytest.mark.parametrize("verb", OF_FITS)
def test_what_a_fit_has_not_is_refused(case, verb):
    if verb not in case.gives:
        with pytest.raises(
            ValueError,
            match=r"\by keeps no rows|its V holds|has no (terms|function)|one of K_new|mean mu besides",
        ):
            OF_FITS[verb](case.fit)


@pytest.mark.parametrize("case", [c for c in CASES if "recover" in c.gives], ids=repr)
def test_unknown_effects_are_refused(case):
    with pytest.raises(ValueError, match=r"which must be some of 'beta'|which= is for one kernel: y is"):
        flmm.recover_effects(case.draws(2), which=["nothing"], model=case.model)


ARGUMENTS = {
    "X_new": X_NEW, "K_new": np.zeros((3, N)), "W_new": np.zeros((3, 9)), "Z_new": {"g": [0, 1, 2]},
    "data": {"x": [1.0]}, "x_new": np.array([0.1, 0.2, 0.3]),
}  # fmt: skip


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_what_a_node_does_not_take_is_refused_before_anything_is_drawn(case, argument):
    if argument in case.node.takes:
        return
    rng = np.random.default_rng(1)
    before, idata = rng.bit_generator.state, case.draws(2)
    with refused(case, case.node.called):
        flmm.predict(idata, **{argument: ARGUMENTS[argument]}, model=case.model, random_seed=rng)
    assert rng.bit_generator.state == before
    assert set(idata.children) == {"posterior"}


# ---------------------------------------------------------------- registration


def test_errors_list_what_is_registered():
    with pm.Model() as model:
        pm.Normal("y")
    with pytest.raises(
        ValueError, match="no CountsLMM, DenseLMM, FastLMM, FourierLMM, LatentLMM, LengthscaleLMM, MatrixLMM, Str"
    ):
        flmm.find_reml(model)


def test_the_levels_of_the_toys_are_what_they_give():
    gives = {case.name: case.gives for case in CASES}
    assert gives["toy, Gaussian"] > AFTER
    assert not AFTER & gives["toy, counts"]


def test_draws_of_the_toy_are_error_contrasts():
    case = next(c for c in CASES if c.name == "toy, Gaussian")
    with pytest.warns(UserWarning, match="are error contrasts"):
        y = pm.draw(case.node.rv, 3, random_seed=1, mode=INTERPRETED)
    np.testing.assert_allclose(y @ X, 0, atol=1e-10)
    assert y.shape == (3, len(WEIGHTED_Y))
