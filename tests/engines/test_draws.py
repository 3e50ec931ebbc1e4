"""Draws of FastLMM: mean and covariance, not shapes; prior and posterior predictive draws whitened draw by draw."""

import arviz as az
import numpy as np
import pymc as pm
import pytest

import pm_fastlmm as flmm

N = 40_000
B = np.array([[2.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.9]])
b = np.array([1.0, -2.0, 0.5])
WITH_X, WITHOUT_X = ["full rank", "factor", "singular K"], ["full rank, no X", "factor, no X"]
needs_X = pytest.mark.parametrize("small", WITH_X, indirect=True)


@pytest.fixture(scope="module", params=WITH_X + WITHOUT_X)
def small(request, build):
    return build(request.param, n=10)


@pytest.fixture(scope="module")
def draws_of(small):
    def draw(**kwargs):
        batch = np.broadcast_shapes(np.shape(kwargs["sigma2_g"]), np.shape(kwargs["sigma2_e"]))
        node = flmm.FastLMM.dist(spectrum=small.spectrum, shape=(N, *batch, small.n), **kwargs)
        return pm.draw(node, mode="FAST_COMPILE", random_seed=20)

    return draw


@pytest.mark.filterwarnings("ignore:draws of .* are error contrasts")
def test_flat_draws_are_error_contrasts(small, draws_of, assert_moments):
    mu = 3 * np.cos(np.arange(small.n))
    draws = draws_of(sigma2_g=1.3, sigma2_e=0.7, mu=mu)
    if small.X is not None:
        along = (draws - mu) @ small.X
        assert np.abs(along).max() < 1e-11 * np.abs(draws).max() * np.abs(small.X).sum()
    A = small.dense.contrasts
    assert_moments(draws @ A, mu @ A, A.T @ small.dense.V(1.3, 0.7) @ A)


@needs_X
def test_explicit_beta_draws_have_mean_X_beta_and_covariance_V(small, draws_of, assert_moments):
    mu = 3 * np.cos(np.arange(small.n))
    draws = draws_of(sigma2_g=1.3, sigma2_e=0.7, beta=b, mu=mu)
    assert_moments(draws, small.X @ b + mu, small.dense.V(1.3, 0.7))


@needs_X
def test_gaussian_prior_draws_have_the_covariance_of_beta_too(small, draws_of, assert_moments):
    draws = draws_of(sigma2_g=0.3, sigma2_e=0.7, beta_mean=b, beta_cov=B)
    assert_moments(draws, small.X @ b, small.dense.V(0.3, 0.7) + small.X @ B @ small.X.T)


@pytest.mark.filterwarnings("ignore:draws of .* are error contrasts")
def test_responses_are_drawn_independently_each_with_its_variances(small, draws_of, assert_moments):
    A = small.dense.contrasts
    draws = draws_of(sigma2_g=np.array([2.0, 0.1]), sigma2_e=np.array([0.2, 1.5])) @ A
    zero = np.zeros((A.shape[1], A.shape[1]))
    covs = [A.T @ small.dense.V(*v) @ A for v in ((2.0, 0.2), (0.1, 1.5))]
    assert_moments(draws.reshape(N, -1), np.zeros(2 * A.shape[1]), np.block([[covs[0], zero], [zero, covs[1]]]))


@pytest.mark.filterwarnings("ignore:draws of .* are error contrasts")
def test_pm_draw_returns_independent_draws_of_proper_and_flat_nodes(build, assert_moments):
    p = build("factor", n=6)
    nodes = [
        flmm.FastLMM.dist(spectrum=p.spectrum, sigma2_g=1.3, sigma2_e=0.7, **t) for t in ({}, {"beta": b})
    ]  # fmt: skip
    flat, proper = pm.draw(nodes, draws=4000, random_seed=3)
    A = p.dense.contrasts
    assert_moments(flat @ A, 0 * A[0], A.T @ p.dense.V(1.3, 0.7) @ A)
    assert_moments(proper, p.X @ b, p.dense.V(1.3, 0.7))
    assert_moments(np.hstack([proper[1:], proper[:-1]]), np.tile(p.X @ b, 2), np.kron(np.eye(2), p.dense.V(1.3, 0.7)))
    again, other = (pm.draw(nodes[1], draws=2, random_seed=seed) for seed in (7, 8))
    np.testing.assert_array_equal(again, pm.draw(nodes[1], draws=2, random_seed=7))
    assert not np.any(again == other)


def whitened(values, h2, total, p, mean=0.0):
    """Error contrasts (or y itself, given its mean) of each draw, divided by the root of that draw's covariance."""
    A = np.eye(p.n) if np.ndim(mean) else p.dense.contrasts
    out = []
    for y, h, t, m in zip(values, h2, total, np.broadcast_to(mean, values.shape), strict=True):
        V = p.dense.V(h * t / p.dense.kbar, (1 - h) * t)
        out.append(np.linalg.solve(np.linalg.cholesky(A.T @ V @ A), A.T @ (y - m)))
    return np.array(out)


@pytest.fixture(scope="module")
def models(build):
    """A node with explicit β and one with flat β and data, of the same problem."""
    p = build("factor", n=8)
    with pm.Model(coords={"obs": np.arange(p.n)}) as explicit:
        h2, total = pm.Beta("h2", 1, 1), pm.Gamma("total", 2, 1)
        beta = pm.Normal("beta", 0, 2, shape=3)
        flmm.FastLMM("y", h2=h2, total=total, beta=beta, spectrum=p.spectrum, observed=p.y, dims="obs")
    with pm.Model(coords={"obs": np.arange(p.n)}) as flat:
        h2, total = pm.Beta("h2", 1, 1), pm.Gamma("total", 2, 1)
        flmm.FastLMM("y", h2=h2, total=total, spectrum=p.spectrum, observed=p.y, dims="obs")
    return p, explicit, flat


@pytest.mark.usefixtures("as_written")
@pytest.mark.filterwarnings("ignore:draws of .* are error contrasts")
def test_prior_predictive_draws_follow_the_parameters_of_their_own_draw(models, assert_moments):
    p, explicit, flat = models
    for model in (explicit, flat):
        tree = pm.sample_prior_predictive(4000, model=model, random_seed=5)
        prior, y = tree.prior, tree.prior_predictive.y.to_numpy()[0]
        mean = prior.beta.to_numpy()[0] @ p.X.T if "beta" in prior else 0.0
        noise = whitened(y, prior.h2.to_numpy()[0], prior.total.to_numpy()[0], p, mean)
        assert_moments(noise, np.zeros(noise.shape[1]), np.eye(noise.shape[1]))
        assert tree.prior_predictive.y.dims == ("chain", "draw", "obs")


@pytest.mark.usefixtures("as_written")
@pytest.mark.filterwarnings("ignore:draws of .* are error contrasts")
def test_posterior_predictive_draws_follow_the_parameters_of_their_own_draw(models, assert_moments):
    p, explicit, flat = models
    rng = np.random.default_rng(6)
    h2, total, beta = rng.uniform(size=(2, 2000)), rng.gamma(2, size=(2, 2000)), rng.normal(size=(2, 2000, 3))
    draws = az.from_dict({"posterior": {"h2": h2, "total": total, "beta": beta}})
    for model, mean in ((explicit, (beta @ p.X.T).reshape(-1, p.n)), (flat, 0.0)):
        tree = pm.sample_posterior_predictive(draws, model=model, random_seed=5, progressbar=False)
        y = tree.posterior_predictive.y.to_numpy().reshape(-1, p.n)
        noise = whitened(y, h2.ravel(), total.ravel(), p, mean)
        assert_moments(noise, np.zeros(noise.shape[1]), np.eye(noise.shape[1]))


def test_a_rotated_node_draws_the_sufficient_statistic(build, assert_moments):
    p = build("factor", n=9)
    with pm.Model() as model:
        flmm.FastLMM("y", sigma2_g=1.3, sigma2_e=0.7, spectrum=p.spectrum, observed=p.spectrum.rotate(p.y))
    statistic = pm.sample_prior_predictive(20_000, model=model, random_seed=9).prior_predictive.y.to_numpy()[0]
    nullity = p.spectrum.nullity
    mean = np.r_[np.zeros(p.spectrum.rank), 0.7 * nullity]
    assert nullity > 0
    np.testing.assert_array_less(0, statistic[:, -1])
    assert_moments(statistic, mean, np.diag(np.r_[1.3 * p.spectrum.eigvals + 0.7, 2 * nullity * 0.7**2]), z=8)


@pytest.mark.parametrize("B", [None, np.array([[2.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.9]])])
def test_a_rotated_node_with_a_proper_beta_draws_what_is_left_of_draws_of_y(build, assert_moments, B):
    p, beta = build("factor", n=9), np.array([1.0, -2.0, 0.5])
    treatment = {"beta": beta} if B is None else {"beta_mean": beta, "beta_cov": B}
    s, k = p.spectrum, p.spectrum.rank
    with pm.Model() as model:
        flmm.FastLMM("y", sigma2_g=1.3, sigma2_e=0.7, spectrum=s, observed=s.rotate(p.y), **treatment)
    statistic = pm.sample_prior_predictive(20_000, model=model, random_seed=9).prior_predictive.y.to_numpy()[0]
    Q = np.hstack([s.basis, s.projection.Q1])
    V = 1.3 * p.K + 0.7 * np.eye(9) + (0 if B is None else p.X @ B @ p.X.T)
    normal = np.delete(statistic, k, axis=1)
    assert_moments(normal, Q.T @ p.X @ beta, Q.T @ V @ Q)
    assert_moments(statistic[:, [k]], np.array([0.7 * s.nullity]), np.array([[2 * s.nullity * 0.7**2]]), z=8)


def test_the_graph_of_a_draw_is_built_when_it_is_asked_for(small):
    y = np.cos(np.arange(small.n))
    with pm.Model() as model:
        node = flmm.FastLMM("y", sigma2_g=pm.HalfNormal("g"), sigma2_e=1.0, spectrum=small.spectrum, observed=y)
    flmm.find_reml(model, progressbar=False)
    op = node.owner.op
    assert "fgraph" not in vars(op)
    assert [variable.type for variable in op.fgraph.outputs] == op.output_types
    assert op.update(node.owner) == {node.owner.inputs[0]: node.owner.outputs[0]}
    assert op.fgraph.bind(node.owner.inputs)[0].owner.inputs[0] is node.owner.inputs[0]  # the generator goes on
