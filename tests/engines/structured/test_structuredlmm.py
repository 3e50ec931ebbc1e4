"""StructuredLMM and DenseLMM: densities, gradients, draws, and their life inside PyMC models."""

from types import SimpleNamespace

import arviz as az
import cloudpickle
import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import scipy.linalg
from as_written import AS_WRITTEN
from pymc.model.transform.optimization import freeze_dims_and_data, freeze_model
from scipy.stats import multivariate_normal

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.covariance.theta import Theta

B = np.array([[2.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.9]])
b = np.array([1.0, -2.0, 0.5])
TREATMENTS = {"flat": {}, "explicit": {"beta": b}, "Gaussian": {"beta_mean": b, "beta_cov": B}}
POINT = {"v": np.array([1.3, 0.4]), "c": 0.5, "w": 0.6, "e": 0.9}
OTHER = {"v": np.array([0.2, 2.0]), "c": -0.3, "w": 3.0, "e": 0.1}

treated = pytest.mark.parametrize("treatment", TREATMENTS)
node_of = pytest.mark.parametrize("kind", ["structured", "dense"])


@pytest.fixture(scope="module")
def p():
    """Random slopes over subjects, crossed with items; X of three columns."""
    rng = np.random.default_rng(8)
    n = 24
    subject, item = rng.integers(0, 6, size=n), rng.integers(0, 4, size=n)
    t = np.linspace(-1, 2, n)
    X = np.column_stack([np.ones(n), 5 * t**2 + rng.normal(size=n), rng.exponential(size=n)])
    columns = np.column_stack([np.ones(n), t])
    Z1 = ((subject[:, None] == np.arange(6))[:, :, None] * columns[:, None, :]).reshape(n, -1)
    Z2 = (item[:, None] == np.arange(4)).astype(float)
    y = X @ [2.0, -0.5, 1.0] + Z1 @ rng.normal(size=12) + Z2 @ rng.normal(size=4) + rng.normal(size=n)
    return SimpleNamespace(n=n, subject=subject, item=item, columns=columns, X=X, Z1=Z1, Z2=Z2, y=y)


def sigma(point):
    return np.array([[point["v"][0], point["c"]], [point["c"], point["v"][1]]])


def V_of(p, point):
    G1 = p.Z1 @ np.kron(np.eye(6), sigma(point)) @ p.Z1.T
    return G1 + point["w"] * p.Z2 @ p.Z2.T + point["e"] * np.eye(p.n)


def expected(p, point, treatment, y=None, mu=0.0):
    """The density of y from the dense covariance."""
    residual, V = (p.y if y is None else y) - mu, V_of(p, point)
    if treatment == "flat":
        A = scipy.linalg.null_space(p.X.T)
        logp = multivariate_normal.logpdf(A.T @ residual, np.zeros(A.shape[1]), A.T @ V @ A)
        return logp - 0.5 * np.linalg.slogdet(p.X.T @ p.X)[1]
    cov_of_beta = B if treatment == "Gaussian" else np.zeros((3, 3))
    return multivariate_normal.logpdf(residual, p.X @ b, V + p.X @ cov_of_beta @ p.X.T)


def parameters(kind, p, v, c, w, e):
    """The arguments of a node that say its covariance, from numbers or tensors."""
    S = pt.stack([pt.stack([v[0], c]), pt.stack([c, v[1]])])
    if kind == "structured":
        slopes = flmm.Term(p.subject, cov.unstructured(S, size=2), columns=p.columns, name="subject")
        return {"terms": [slopes, flmm.Term(p.item, cov.scalar(w), name="item")], "sigma2_e": e}
    G = pt.linalg.kron(pt.eye(6), S)
    return {"V": pt.constant(p.Z1) @ G @ pt.constant(p.Z1.T) + w * (p.Z2 @ p.Z2.T) + e * np.eye(p.n)}


CLASSES = {"structured": flmm.StructuredLMM, "dense": flmm.DenseLMM}
symbols = {"v": pt.vector("v", shape=(2,)), "c": pt.dscalar("c"), "w": pt.dscalar("w"), "e": pt.dscalar("e")}


def dist(kind, p, treatment="flat", values=symbols, **kwargs):
    return CLASSES[kind].dist(X=p.X, **parameters(kind, p, **values), **TREATMENTS[treatment], **kwargs)


def given(point):
    return {symbols[name]: value for name, value in point.items()}


def make_model(kind, p, treatment="flat", *, observed="y", **kwargs):
    with pm.Model(coords={"obs": [f"id{i}" for i in range(p.n)]}) as model:
        v, w, e = pm.HalfNormal("v", 2, shape=2), pm.HalfNormal("w", 2), pm.HalfNormal("e", 2)
        c = pm.Normal("c", 0, 0.1)
        data = p.y if isinstance(observed, str) else observed
        arguments = parameters(kind, p, v, c, w, e) | TREATMENTS[treatment] | kwargs
        CLASSES[kind]("y", X=p.X, observed=data, dims="obs", **arguments)
    return model


def node_logp(model, evaluate, point):
    """The log-density of y at values of the model's variables."""
    [node] = flmm.lmm_nodes(model)
    [logp] = model.logp(vars=[node.rv], jacobian=False, sum=False)
    values = {}
    for rv in model.free_RVs:
        if rv.name in point:
            transform, value = model.rvs_to_transforms[rv], np.asarray(point[rv.name], dtype=float)
            values[model.rvs_to_values[rv]] = np.log(value) if transform is not None else value
    return evaluate(logp, values)


# --- densities ------------------------------------------------------------------------------------------------------


@treated
@node_of
def test_logp_is_a_multivariate_normal(p, evaluate, kind, treatment):
    mu = np.sin(np.arange(p.n))
    logps = [pm.logp(dist(kind, p, treatment, mu=m), p.y) for m in (0.0, mu)]
    for point in (POINT, OTHER):
        values = evaluate(logps, given(point))
        np.testing.assert_allclose(values[0], expected(p, point, treatment), rtol=1e-10)
        np.testing.assert_allclose(values[1], expected(p, point, treatment, mu=mu), rtol=1e-10)


@treated
@node_of
def test_gradient_is_the_central_difference(p, evaluate, kind, treatment):
    y, m = pt.vector("y", shape=(p.n,)), pt.dscalar("m")
    logp = pm.logp(dist(kind, p, treatment, mu=m * np.cos(np.arange(p.n))), y)
    wrt = {**symbols, "y": y, "m": m}
    gradients = pytensor.grad(logp, list(wrt.values()))
    at = {**POINT, "y": p.y, "m": 0.3}
    function = pytensor.function(list(wrt.values()), [logp, *gradients], mode=AS_WRITTEN)
    _, *analytic = function(*at.values())
    for (name, value), gradient in zip(at.items(), analytic, strict=True):
        for index in list(np.ndindex(np.shape(value)))[:5]:
            h, ends = 1e-5, []
            for sign in (1, -1):
                moved = np.array(value, dtype=float)
                moved[index] += sign * h
                ends.append(function(*(at | {name: moved}).values())[0])
            np.testing.assert_allclose(gradient[index], (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-7)


@node_of
def test_gradient_with_respect_to_a_prior_of_the_coefficients(p, kind):
    tau, mean = pt.dscalar("tau"), pt.vector("mean", shape=(3,))
    values = {name: pt.constant(value) for name, value in POINT.items()}
    node = CLASSES[kind].dist(X=p.X, **parameters(kind, p, **values), beta_mean=mean, beta_cov=tau**2 * pt.constant(B))
    logp = pm.logp(node, p.y)
    function = pytensor.function([tau, mean], [logp, *pytensor.grad(logp, [tau, mean])], mode=AS_WRITTEN)
    value, d_tau, d_mean = function(1.5, b)
    full = V_of(p, POINT) + 1.5**2 * p.X @ B @ p.X.T
    np.testing.assert_allclose(value, multivariate_normal.logpdf(p.y, p.X @ b, full), rtol=1e-10)
    h = 1e-5
    np.testing.assert_allclose(d_tau, (function(1.5 + h, b)[0] - function(1.5 - h, b)[0]) / (2 * h), rtol=1e-6)
    for i, E in enumerate(np.eye(3)):
        difference = (function(1.5, b + h * E)[0] - function(1.5, b - h * E)[0]) / (2 * h)
        np.testing.assert_allclose(d_mean[i], difference, rtol=1e-5, atol=1e-7)


@treated
def test_the_three_nodes_of_one_kernel_are_one_density(p, evaluate, treatment):
    K = p.Z2 @ p.Z2.T
    w, e = symbols["w"], symbols["e"]
    kwargs = TREATMENTS[treatment]
    spectrum = flmm.Spectrum.from_covariance(K, p.X)
    tiny = flmm.Term(p.subject, cov.scalar(0.0), name="none")  # a second term keeps the cross-product engine
    term = flmm.Term(p.item, cov.scalar(w), name="item")
    nodes = [
        flmm.FastLMM.dist(sigma2_g=w, sigma2_e=e, spectrum=spectrum, **kwargs),
        flmm.StructuredLMM.dist(X=p.X, terms=[term], sigma2_e=e, **kwargs),
        flmm.StructuredLMM.dist(X=p.X, terms=[term, tiny], sigma2_e=e, **kwargs),
        flmm.DenseLMM.dist(X=p.X, V=w * K + e * np.eye(p.n), **kwargs),
    ]
    graphs = []
    for node in nodes:
        logp = pm.logp(node, p.y)
        graphs += [logp, *pytensor.grad(logp, [w, e])]
    for point in ({w: 1.3, e: 0.7}, {w: 0.02, e: 2.0}, {w: 5.0, e: 0.01}):
        values = np.reshape(evaluate(graphs, point), (4, 3))
        for other in values[1:]:
            np.testing.assert_allclose(other, values[0], rtol=1e-7)


@pytest.mark.parametrize("rank", ["one", "zero"])
@pytest.mark.parametrize("engine", ["one kernel", "two terms", "dense"])
def test_a_singular_prior_covariance_of_the_coefficients(p, evaluate, engine, rank):
    singular = np.outer([1, 2, 3], [1, 2, 3]) / 7 * (rank == "one")
    V = 0.6 * p.Z2 @ p.Z2.T + np.eye(p.n)
    terms = [flmm.Term(p.item, cov.scalar(0.6), name="item"), flmm.Term(p.subject, cov.scalar(0.0), name="subject")]
    if engine == "dense":
        node = flmm.DenseLMM.dist(X=p.X, V=V, beta_mean=b, beta_cov=singular)
    else:
        own = terms[:1] if engine == "one kernel" else terms
        node = flmm.StructuredLMM.dist(X=p.X, terms=own, sigma2_e=1.0, beta_mean=b, beta_cov=singular)
    dense = multivariate_normal.logpdf(p.y, p.X @ b, V + p.X @ singular @ p.X.T)
    np.testing.assert_allclose(evaluate(pm.logp(node, p.y)), dense, rtol=1e-9)


@node_of
def test_outside_the_parameter_space_the_density_is_zero(p, evaluate, kind):
    logp = pm.logp(dist(kind, p), p.y)
    graphs = [logp, *pytensor.grad(logp, [symbols["w"], symbols["c"]])]
    value, d_w, d_c = evaluate(graphs, given(POINT | {"c": 50.0}))
    assert value == -np.inf
    assert (d_w, d_c) == (0, 0)
    assert evaluate(logp, given(POINT | {"w": -100.0})) == -np.inf


def test_a_negative_or_missing_parameter_is_reported(p, evaluate):
    logp = pm.logp(dist("structured", p), p.y)
    for wrong in ({"e": -1.0}, {"w": np.nan}):
        with pytest.raises(pm.logprob.utils.ParameterValueError, match="sigma2_e >= 0, no parameter NaN"):
            evaluate(logp, given(POINT | wrong))


# --- θ --------------------------------------------------------------------------------------------------------------


def structures(rng):
    A = rng.normal(size=(3, 4))
    L = np.tril(rng.normal(size=(3, 3)))
    return {
        "scalar": (cov.scalar(1.7), None),
        "unstructured": (cov.unstructured(A @ A.T), 3),
        "cholesky": (cov.unstructured(cholesky=L), 3),
        "diagonal": (cov.diagonal(rng.exponential(size=3)), 3),
        "ar1": (cov.ar1(0.8, 0.3), 3),
        "compound symmetry": (cov.compound_symmetry(0.7, 0.4), 3),
        "factor analytic": (cov.factor_analytic(rng.normal(size=(3, 1)), rng.exponential(size=3)), 3),
        "sum": (cov.scalar(0.5) + cov.ar1(0.8, 0.3), 3),
    }


@pytest.mark.parametrize("name", list(structures(np.random.default_rng(0))))
def test_theta_is_packed_and_unpacked_without_loss(name):
    rng = np.random.default_rng(3)
    structure, width = structures(rng)[name]
    columns = None if width is None else rng.normal(size=(20, width))
    group = rng.integers(0, 5, size=20)
    terms = [flmm.Term(group, structure, columns=columns, name="a"), flmm.Term(group // 2, cov.scalar(0.3), name="b")]
    layout = Theta.of_terms(terms, cov.scalar(0.9, 1))
    theta = layout.pack()
    assert theta.shape == (layout.size,) == layout.lower.shape == layout.upper.shape
    assert len(set(layout.names)) == layout.size
    assert layout.names[-1] == "residual"
    assert theta[-1] == 0.9
    assert (layout.lower <= theta).all()
    assert (theta <= layout.upper).all()
    for term, matrix in zip(terms, layout.matrices(theta)[0], strict=True):
        np.testing.assert_allclose(np.atleast_2d(matrix), term.blocks.block.dense(), rtol=1e-14)
    symbolic = pt.vector("theta", shape=(layout.size,))
    graphs = [pt.as_tensor(m) for m in layout.matrices(symbolic)[0]]
    evaluated = pytensor.function([symbolic], graphs, mode=AS_WRITTEN)(theta)
    for tensor, matrix in zip(evaluated, layout.matrices(theta)[0], strict=True):
        np.testing.assert_allclose(np.squeeze(tensor), np.squeeze(matrix), rtol=1e-14)


def test_names_of_theta():
    table = pd.DataFrame({"one": 1.0, "t": np.arange(12.0)})
    terms = [
        flmm.Term(np.arange(12) % 4, cov.unstructured(np.eye(2)), columns=table, name="g"),
        flmm.Term(np.arange(12) % 3, cov.scalar(1.0), name="h"),
        flmm.Term(np.arange(12) % 2, cov.diagonal([1.0, 2.0]), columns=table, name="d"),
        flmm.Term(np.arange(12) // 3, cov.ar1(1.0, 0.2), name="a"),
    ]
    layout = Theta.of_terms(terms, cov.scalar(1.0, 1))
    assert repr(layout) == "Theta(g[one], g[one, t], g[t], h, d[one], d[t], a.sigma2, a.rho, residual)"


def test_names_of_the_parts_of_a_block_diagonal_structure():
    """Variances and covariances by column, whatever a part is; other parameters by name."""
    S, table = np.array([[2.0, 1.0], [1.0, 3.0]]), pd.DataFrame(np.random.default_rng(0).normal(size=(12, 3)))
    table.columns = ["one", "t", "u"]
    parts = [
        (cov.block_diagonal(cov.scalar(1.0, size=1), cov.unstructured(cholesky=np.linalg.cholesky(S))), table, "f"),
        (cov.block_diagonal(cov.unstructured(S), cov.diagonal([4.0])), table, "g"),
        (cov.block_diagonal(cov.scalar(1.0, size=1), cov.ar1(1.0, 0.5, size=2)), table, "h"),
        (cov.kronecker(cov.unstructured(S), cov.ar1(1.0, 0.5, size=4)), None, "k"),
    ]
    terms = [
        flmm.Term(np.arange(12) % (8 if columns is None else 2), structure, columns=columns, name=name)
        for structure, columns, name in parts
    ]
    layout = Theta.of_terms(terms, cov.scalar(1.0, 1))
    assert repr(layout) == (
        "Theta(f[one], f[t], f[t, u], f[u], g[one], g[one, t], g[t], g[u], h[one], h.2.sigma2, h.2.rho, "
        "k.cov[0], k.cov[0, 1], k.cov[1], k.sigma2, k.rho, residual)"
    )
    theta = layout.pack()
    np.testing.assert_allclose(theta[:8], [1, 2, 1, 3, 2, 1, 3, 4], rtol=1e-14)
    np.testing.assert_allclose(layout.matrices(theta)[0][0], [[1, 0, 0], [0, 2, 1], [0, 1, 3]], rtol=1e-14)
    assert (layout.lower[[0, 1, 3]] == 0).all()
    assert layout.lower[2] == -np.inf


def test_a_parameter_of_unknown_shape_is_refused(p):
    v = pt.vector("v")
    with pytest.raises(ValueError, match=r"is a tensor of unknown shape .*give the random variable a shape="):
        flmm.StructuredLMM.dist(
            X=p.X, terms=[flmm.Term(p.subject, cov.diagonal(v, size=2), columns=p.columns)], sigma2_e=1.0
        )


# --- draws ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:draws of .* are error contrasts")
@treated
@node_of
def test_draws_have_the_moments_of_the_density(p, assert_moments, kind, treatment):
    mu = 3 * np.cos(np.arange(p.n))
    values = {name: pt.constant(value) for name, value in POINT.items()}
    node = CLASSES[kind].dist(
        X=p.X, **parameters(kind, p, **values), **TREATMENTS[treatment], mu=mu, shape=(20_000, p.n)
    )
    draws, V = pm.draw(node, mode=AS_WRITTEN, random_seed=20), V_of(p, POINT)
    if treatment == "flat":
        along = (draws - mu) @ p.X
        assert np.abs(along).max() < 1e-10 * np.abs(draws).max() * np.abs(p.X).sum()
        A = scipy.linalg.null_space(p.X.T)
        assert_moments(draws @ A, mu @ A, A.T @ V @ A)
    else:
        cov_of_beta = B if treatment == "Gaussian" else np.zeros((3, 3))
        assert_moments(draws, mu + p.X @ b, V + p.X @ cov_of_beta @ p.X.T)


@node_of
def test_pm_draw_of_a_node_without_a_shape(p, assert_moments, kind):
    values = {name: pt.constant(value) for name, value in POINT.items()}
    node = CLASSES[kind].dist(X=p.X, **parameters(kind, p, **values), beta=b)
    draws = pm.draw(node, draws=3000, random_seed=3, mode=AS_WRITTEN)
    assert_moments(draws, p.X @ b, V_of(p, POINT))
    assert not np.any(draws[0] == draws[1])


def whitened(p, y, draws, mean):
    """Each draw of y less its mean, divided by the root of the covariance of its own parameters."""
    out = []
    for i, row in enumerate(y):
        V = V_of(p, {name: values[i] for name, values in draws.items()})
        out.append(np.linalg.solve(np.linalg.cholesky(V), row - mean))
    return np.array(out)


@node_of
def test_prior_and_posterior_predictive_draws_follow_their_own_parameters(p, assert_moments, kind):
    model = make_model(kind, p, "explicit", observed=None)
    observed = pm.observe(model, {"y": p.y})
    rng = np.random.default_rng(6)
    size = (1, 1500)
    draws = {
        "v": rng.uniform(1, 2, size=(*size, 2)), "c": rng.uniform(-0.5, 0.5, size=size), "w": rng.gamma(2, size=size),
        "e": rng.gamma(2, size=size),
    }  # fmt: skip
    tree = pm.sample_posterior_predictive(
        az.from_dict({"posterior": draws}), model=observed, random_seed=5, progressbar=False,
        compile_kwargs={"mode": AS_WRITTEN},
    )  # fmt: skip
    y = tree.posterior_predictive.y
    assert y.dims == ("chain", "draw", "obs")
    noise = whitened(p, y.to_numpy()[0], {name: values[0] for name, values in draws.items()}, p.X @ b)
    assert_moments(noise, np.zeros(p.n), np.eye(p.n))
    with pm.Model() as narrow:  # a prior under which every matrix is definite
        v, w, e = pm.Uniform("v", 1, 2, shape=2), pm.HalfNormal("w"), pm.Uniform("e", 0.5, 2)
        c = pm.Uniform("c", -0.5, 0.5)
        CLASSES[kind]("y", X=p.X, **parameters(kind, p, v, c, w, e), beta=b)
    prior = pm.sample_prior_predictive(1500, model=narrow, random_seed=4, compile_kwargs={"mode": AS_WRITTEN}).prior
    own = {name: prior[name].to_numpy()[0] for name in ("v", "c", "w", "e")}
    assert_moments(whitened(p, prior.y.to_numpy()[0], own, p.X @ b), np.zeros(p.n), np.eye(p.n))


# --- life in a model ------------------------------------------------------------------------------------------------


@node_of
def test_the_node_of_a_model(p, evaluate, kind):
    model = make_model(kind, p)
    [node] = flmm.lmm_nodes(model)
    assert (node.name, node.treatment, node.n) == ("y", "flat", p.n)
    np.testing.assert_array_equal(node.observed, p.y)
    np.testing.assert_allclose(node_logp(model, evaluate, POINT), expected(p, POINT, "flat"), rtol=1e-10)
    assert list(model.named_vars_to_dims["y"]) == ["obs"]
    if kind == "structured":
        assert [term.name for term in node.terms] == ["subject", "item"]
        assert node.layout.names == ("subject[x0]", "subject[x0, x1]", "subject[x1]", "item", "residual")


@pytest.mark.parametrize(
    "change",
    [pm.Model.copy, freeze_dims_and_data, freeze_model, lambda m: cloudpickle.loads(cloudpickle.dumps(m))],
    ids=["copy", "freeze_dims_and_data", "freeze_model", "cloudpickle"],
)
@treated
@node_of
def test_node_and_density_survive(p, evaluate, change, kind, treatment):
    with pm.Model(coords={"obs": range(p.n)}) as model:
        y = pm.Data("data", p.y, dims="obs")
        v, w, e = pm.HalfNormal("v", 2, shape=2), pm.HalfNormal("w", 2), pm.HalfNormal("e", 2)
        arguments = parameters(kind, p, v, pm.Normal("c"), w, e) | TREATMENTS[treatment]
        CLASSES[kind]("y", X=p.X, observed=y, dims="obs", **arguments)
    changed = change(model)
    changed = getattr(changed, "model", changed)
    [node] = flmm.lmm_nodes(changed)
    np.testing.assert_array_equal(node.observed, p.y)
    np.testing.assert_allclose(node_logp(changed, evaluate, POINT), expected(p, POINT, treatment), rtol=1e-10)


@node_of
def test_set_data_changes_what_is_observed(p, evaluate, kind):
    with pm.Model() as model:
        y, offset = pm.Data("data", p.y), pm.Data("offset", np.zeros(p.n))
        v, w, e = pm.HalfNormal("v", 2, shape=2), pm.HalfNormal("w", 2), pm.HalfNormal("e", 2)
        CLASSES[kind]("y", X=p.X, observed=y, mu=offset, **parameters(kind, p, v, pm.Normal("c"), w, e))
        other, moved = p.y**2 / 5, np.sin(np.arange(p.n))
        pm.set_data({"data": other, "offset": moved})
    np.testing.assert_allclose(node_logp(model, evaluate, POINT), expected(p, POINT, "flat", other, moved), rtol=1e-10)


@node_of
def test_do_and_observe(p, evaluate, kind):
    model = make_model(kind, p)
    intervened = pm.do(model, {"w": 3.0})
    assert len(flmm.lmm_nodes(intervened)) == 1
    assert {rv.name for rv in intervened.free_RVs} == {"v", "e", "c"}
    np.testing.assert_allclose(
        node_logp(intervened, evaluate, POINT), expected(p, POINT | {"w": 3.0}, "flat"), rtol=1e-10
    )
    assert flmm.lmm_nodes(pm.do(model, {"y": p.y})) == []
    latent = make_model(kind, p, "explicit", observed=None)
    assert flmm.lmm_nodes(latent)[0].observed is None
    observed = pm.observe(latent, {"y": p.y})
    np.testing.assert_allclose(node_logp(observed, evaluate, POINT), expected(p, POINT, "explicit"), rtol=1e-10)


@node_of
def test_a_latent_node_is_a_free_variable_with_a_gradient(p, kind):
    latent = make_model(kind, p, "Gaussian", observed=None)
    assert "y" in [rv.name for rv in latent.free_RVs]
    point = latent.initial_point()
    np.testing.assert_array_equal(point["y"], 0)
    function = latent.logp_dlogp_function(ravel_inputs=True, mode=AS_WRITTEN)
    function.set_extra_values({})
    point = point | {"y": p.y, "v_log__": np.log([1.3, 0.4]), "c": np.array(0.1)}
    x = np.concatenate([np.ravel(point[v.name]) for v in latent.value_vars])
    value, gradient = function(x)
    step = np.random.default_rng(1).normal(size=x.size)
    ends = [function(x + sign * 1e-5 * step)[0] for sign in (1, -1)]
    np.testing.assert_allclose(gradient @ step, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)
    assert np.isfinite(value)


@node_of
def test_pictures_and_text(p, kind):
    model, name = make_model(kind, p), CLASSES[kind].__name__
    mermaid = pm.model_to_mermaid(model)
    for variable in ("v", "c", "w", "e"):
        assert f"{variable} --> y" in mermaid
    assert name in mermaid
    assert f"obs ({p.n})" in mermaid
    assert f"y ~ {name}(" in model.str_repr()
    pytest.importorskip("graphviz")
    assert name in pm.model_to_graphviz(model).source


def test_default_mode_and_interpreted_mode_agree(p, evaluate):
    """The compiled graph calls the same loops back: numbers and gradient are equal to the last digits."""
    model = make_model("structured", p)
    function = model.logp_dlogp_function(ravel_inputs=True)
    slow = model.logp_dlogp_function(ravel_inputs=True, mode=AS_WRITTEN)
    for f in (function, slow):
        f.set_extra_values({})
    x = np.array([0.1, -0.3, 0.4, 0.2, 0.05])
    for a, c in zip(function(x), slow(x), strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-12)


# --- bad input ------------------------------------------------------------------------------------------------------


def scalar_term(p, name="item", **kwargs):
    return flmm.Term(p.item, cov.scalar(1.0), name=name, **kwargs)


@pytest.mark.parametrize("kind", ["structured", "dense"])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"bata": 1.0}, TypeError, r"LMM takes no argument bata: it takes X"),
        ({"beta": b, "beta_cov": B}, ValueError, "give either beta .* or beta_mean and beta_cov .* not both"),
        ({"beta_mean": b}, ValueError, "beta_mean is given without beta_cov"),
        ({"beta": np.zeros(2)}, ValueError, "beta must have 3 values, one for each of x0, x1, x2"),
        ({"beta_cov": np.eye(2)}, ValueError, r"beta_cov must be \(3, 3\)"),
        ({"beta_cov": -np.eye(3)}, ValueError, "beta_cov is not positive semi-definite"),
        ({"mu": np.zeros(5)}, ValueError, "mu has 5 values in its last dimension, but there are 24 observations"),
        ({"X": np.ones((7, 1))}, ValueError, "X has 7|7 rows|length"),
        ({"X": None, "beta": b}, ValueError, "there are no fixed effects: give X"),
    ],
)
def test_arguments_that_do_not_fit(p, kind, changes, error, message):
    values = {name: pt.constant(value) for name, value in POINT.items()}
    with pytest.raises(error, match=message):
        CLASSES[kind].dist(**({"X": p.X} | parameters(kind, p, **values) | changes))


@node_of
def test_data_that_do_not_fit(p, kind):
    values = {name: pt.constant(value) for name, value in POINT.items()}
    arguments = {"X": p.X} | parameters(kind, p, **values)
    missing = np.r_[np.nan, p.y[1:]]
    with pm.Model():
        with pytest.raises(ValueError, match=r"observed has 1 values that are NaN.*lmm_model drop and count them"):
            CLASSES[kind]("a", observed=missing, **arguments)
        with pytest.raises(ValueError, match=r"observed has shape \(5,\), but the 24 observations must be its last"):
            CLASSES[kind]("b", observed=p.y[:5], **arguments)
        with pytest.raises(ValueError, match=r"c has no observed data.*improper along X: give observed="):
            CLASSES[kind]("c", **arguments)
        CLASSES[kind]("d", **(arguments | {"X": None}))


def test_terms_that_do_not_fit(p):
    common = {"X": p.X, "sigma2_e": 1.0}
    with pytest.raises(ValueError, match=r"terms is empty: give at least one flmm\.Term"):
        flmm.StructuredLMM.dist(terms=[], **common)
    with pytest.raises(TypeError, match=r"terms must be flmm\.Term objects, got ndarray"):
        flmm.StructuredLMM.dist(terms=[p.Z2], **common)
    with pytest.raises(ValueError, match=r"terms have the names item, item: give each a name of its own"):
        flmm.StructuredLMM.dist(terms=[scalar_term(p), scalar_term(p)], **common)
    short = flmm.Term(p.item[:5], cov.scalar(1.0), name="short")
    with pytest.raises(ValueError, match=r"term short .*5|5 .*term short"):
        flmm.StructuredLMM.dist(terms=[scalar_term(p), short], **common)


def test_ids_of_terms_data_and_design(p, evaluate):
    ids = [f"row{i}" for i in range(p.n)]
    order = np.random.default_rng(3).permutation(p.n)
    item = flmm.Term(pd.Series(p.item, ids), cov.scalar(0.6), name="item")
    subject = flmm.Term(pd.Series(p.subject, ids), cov.scalar(0.4), name="subject")
    X = pd.DataFrame(p.X, ids).iloc[order]
    with pm.Model() as model:
        flmm.StructuredLMM("y", X=X, terms=[item, subject], sigma2_e=1.0, observed=pd.Series(p.y, ids).iloc[order])
    [node] = flmm.lmm_nodes(model)
    np.testing.assert_array_equal(node.observed, p.y)
    assert node.ids == tuple(ids)
    plain = [flmm.Term(p.item, cov.scalar(0.6), name="item"), flmm.Term(p.subject, cov.scalar(0.4), name="subject")]
    expected_logp = evaluate(pm.logp(flmm.StructuredLMM.dist(X=p.X, terms=plain, sigma2_e=1.0), p.y))
    [logp] = model.logp(vars=[node.rv], sum=False)
    np.testing.assert_allclose(evaluate(logp), expected_logp, rtol=1e-12)
    other = flmm.Term(pd.Series(p.subject, ids[::-1]), cov.scalar(0.4), name="other")
    with pytest.raises(ValueError, match=r"the rows of term other and of .* have different ids or another order"):
        flmm.StructuredLMM.dist(X=X, terms=[item, other], sigma2_e=1.0)


def test_V_must_be_a_square_matrix(p):
    for V in (np.ones((24, 3)), pt.dvector("v"), pt.tensor3("v")):
        with pytest.raises(ValueError, match=r"V must be a square matrix, one row for each observation, got shape"):
            flmm.DenseLMM.dist(V=V)
    unknown = pt.dmatrix("V")
    with pytest.raises(ValueError, match="V must be a square matrix"):
        flmm.DenseLMM.dist(V=unknown)
    node = flmm.DenseLMM.dist(V=unknown, X=p.X)
    assert node.type.shape == (24,)


def test_a_structure_or_a_table_may_be_V(p, evaluate):
    ids = [f"row{i}" for i in range(6)]
    ar1 = cov.ar1(1.5, 0.4, size=6)
    y = p.y[:6]
    reference = multivariate_normal.logpdf(y, np.zeros(6), ar1.dense())
    np.testing.assert_allclose(evaluate(pm.logp(flmm.DenseLMM.dist(V=ar1), y)), reference, rtol=1e-12)
    table = pd.DataFrame(ar1.dense(), ids, ids)
    with pm.Model() as model:
        flmm.DenseLMM("y", V=table, observed=pd.Series(y, ids).iloc[::-1])
    np.testing.assert_array_equal(flmm.lmm_nodes(model)[0].observed, y)


def test_second_derivatives_are_refused(p):
    for kind in CLASSES:
        logp = pm.logp(dist(kind, p), p.y)
        first = pytensor.grad(logp, symbols["w"])
        with pytest.raises(NotImplementedError, match="likelihood has first derivatives only"):
            pytensor.grad(first, symbols["w"])
