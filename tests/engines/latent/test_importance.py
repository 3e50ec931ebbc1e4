"""What importance sampling adds to Laplace's approximation, against quadrature."""

import numpy as np
import pytest
from latent_cases import grouped, log_likelihood, model_of
from scipy.special import logsumexp

import pm_fastlmm as flmm
from pm_fastlmm.engines.latent.importance import FEWEST, corrected, pareto_k
from pm_fastlmm.engines.latent.independent import Independent
from pm_fastlmm.engines.latent.resampling import resampled
from tests.engines.latent.reference import CASES, node_of, theta_of

FAMILIES = ["bernoulli", "poisson", "negative_binomial", "gamma"]


def at_estimate(seed=1, family="bernoulli", method="ML", **made):
    """Return what comes after a fit at a variance that is given, with the data."""
    label, X, y = grouped(np.random.default_rng(seed), family, **made)
    fixed = {"g": 1.3} | ({"dispersion": 0.4} if family in ("negative_binomial", "gamma") else {})
    given = {name: made[name] for name in ("trials",) if name in made}
    fit = flmm.find_reml(model_of(label, X, y, family, **given), method=method, fixed=fixed, progressbar=False)
    return fit, fit._node_at(None), label, X, y


def exact_given_beta(at, fit, label, X, y):
    eta = X @ fit.blue
    return float(log_likelihood(at.family, at.psi, label, y, 1.3, eta))


@pytest.mark.parametrize("family", FAMILIES)
def test_quadrature_over_groups_is_the_likelihood(family):
    fit, at, label, X, y = at_estimate(family=family, covariate=True)
    found = at.importance(10, nodes=25)
    assert found.loglik == pytest.approx(exact_given_beta(at, fit, label, X, y), abs=1e-7)
    assert found.laplace == pytest.approx(fit.loglik, abs=1e-10)
    assert found.se == 0


def test_one_node_is_laplace():
    found = at_estimate()[1].importance(10, nodes=1)
    assert found.correction == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize(("family", "df"), [("bernoulli", None), ("poisson", None), ("gamma", None), ("gamma", np.inf)])
def test_draws_by_block_are_unbiased(family, df):
    fit, at, label, X, y = at_estimate(family=family)
    exact = exact_given_beta(at, fit, label, X, y)
    found = [at.importance(400, df=df, random_seed=seed) for seed in range(60)]
    ratio = np.exp([one.loglik - exact for one in found])
    assert np.mean(ratio) == pytest.approx(1, abs=4 * ratio.std() / np.sqrt(60))
    said = np.sqrt(np.mean([one.se**2 for one in found]))
    assert said == pytest.approx(np.std([one.loglik for one in found]), rel=0.35)


def over_beta(at, label, X, y):
    """Return log ∫p(y|β)dβ - ½log|XᵀX| + ... of a flat β, an intercept, by the trapezoid rule."""
    b = np.linspace(-12, 12, 1201)
    values = log_likelihood(at.family, at.psi, label, y, 1.3, b[:, None] * X[:, 0])
    return float(logsumexp(values) + np.log(b[1] - b[0]))


@pytest.mark.parametrize("family", ["bernoulli", "negative_binomial"])
def test_coefficients_are_integrated_too(family):
    _, at, label, X, y = at_estimate(family=family, method="REML")
    exact = over_beta(at, label, X, y)
    by_nodes = at.importance(4000, nodes=25, random_seed=2)
    assert by_nodes.loglik == pytest.approx(exact, abs=4 * by_nodes.se)
    found = [at.importance(300, random_seed=seed) for seed in range(25)]
    ratio = np.exp([one.loglik - exact for one in found])
    assert np.mean(ratio) == pytest.approx(1, abs=4 * ratio.std() / np.sqrt(25))
    assert {one.blocks for one in found} == {6}


def test_a_prior_of_coefficients_is_part_of_the_integral():
    label, X, y = grouped(np.random.default_rng(4))
    fit = flmm.find_reml(model_of(label, X, y, beta_cov=4 * np.eye(1)), fixed={"g": 1.3}, progressbar=False)
    at = fit._node_at(None)
    b = np.linspace(-12, 12, 1201)
    values = log_likelihood(at.family, at.psi, label, y, 1.3, b[:, None] * X[:, 0]) - b**2 / 8 - np.log(8 * np.pi) / 2
    exact = float(logsumexp(values) + np.log(b[1] - b[0]))
    found = at.importance(4000, random_seed=1)
    assert found.loglik == pytest.approx(exact, abs=4 * found.se)
    assert found.se < 0.02


def test_joined_effects_are_drawn_together():
    label, X, y = grouped(np.random.default_rng(2), "poisson")
    A = 0.5 * np.eye(6) + 0.5
    with flmm_model(label, X, y, A) as model:
        fit = flmm.find_reml(model, fixed={"g": 1.3}, progressbar=False)
    at = fit._node_at(None)
    found = at.importance(4000, random_seed=1)
    assert found.blocks == 1
    assert "together" in found.method
    # u = √½ (v + w) with w common to all, and what is common to all is taken up by a flat β
    b = np.linspace(-12, 12, 1201)
    values = log_likelihood(at.family, at.psi, label, y, 0.65, b[:, None] * X[:, 0])
    assert found.loglik == pytest.approx(float(logsumexp(values) + np.log(b[1] - b[0])), abs=4 * found.se)
    other = [at.importance(4000, random_seed=seed).loglik for seed in range(2, 5)]
    assert np.ptp([found.loglik, *other]) < 6 * found.se


def flmm_model(label, X, y, A):
    import pymc as pm

    from pm_fastlmm.engines.latent.latentlmm import LatentLMM

    with pm.Model() as model:
        sigma = pm.HalfNormal("sigma_g", 1)
        term = flmm.Term(label, flmm.covariance.known(A, sigma**2), name="g")
        LatentLMM("y", family="poisson", X=X, terms=[term], observed=y)
    return model


def test_slopes_are_a_block_with_their_intercept():
    label, X, y = grouped(np.random.default_rng(3), "binomial", trials=12, covariate=True)
    fixed = {"g": [[1.0, 0.3], [0.3, 0.5]]}
    model = model_of(label, X, y, "binomial", slope=True, trials=12)
    at = flmm.find_reml(model, method="ML", fixed=fixed, progressbar=False)._node_at(None)
    exact, found = at.importance(10, nodes=30), at.importance(4000, random_seed=1)
    assert exact.blocks == found.blocks == 6
    assert exact.correction == pytest.approx(at.importance(10, nodes=40).correction, abs=1e-9)
    assert found.loglik == pytest.approx(exact.loglik, abs=4 * found.se)


def test_too_few_effective_draws_are_no_number():
    rng = np.random.default_rng(0)
    label, X, y = grouped(rng, groups=300, each=2, sd=2.0)
    A = 0.9 * np.eye(300) + 0.1
    fit = flmm.find_reml(flmm_model(label, X, np.round(np.exp(y)), A), fixed={"g": 4.0}, progressbar=False)
    found = fit._node_at(None).importance(150, random_seed=1)
    assert found.ess <= FEWEST
    assert np.isnan([found.loglik, found.correction, found.se]).all()
    assert "importance sampling cannot judge at this size" in found.message
    assert "check_laplace" in repr(found)


def test_crossed_terms_join_groups_and_rows_without_effects_stand_alone():
    import scipy.sparse as sp

    from pm_fastlmm.engines.latent.dense_equations import DenseEquations
    from pm_fastlmm.engines.sparse.equations import SparseBlock

    one = sp.csr_array(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1.0]]))
    other = sp.csr_array(np.array([[1, 0], [1, 0], [0, 1], [0, 0], [0, 0.0]]))
    equations = DenseEquations((SparseBlock(one, 3, 1), SparseBlock(other, 2, 1)), sp.csr_array((5, 0)), None)
    found = Independent.of(equations, 2)
    assert [sorted(map(tuple, group.tolist())) for group in found.groups] == [[(2, 4)], [(0, 1, 3)]]
    np.testing.assert_array_equal(found.of_rows.toarray(), [[0, 0, 1, 0, 1], [1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(found.alone, [False, False, False, True, False])


def test_pareto_k_is_that_of_the_weights():
    u = np.random.default_rng(0).random((3, 4000))
    k = pareto_k(np.log(np.stack([u[0] ** -0.3, u[1] ** -1.2, np.ones(4000)])))
    assert k[:2] == pytest.approx([0.3, 1.2], abs=0.15)
    assert k[2] == -np.inf


def test_resampled_effects_have_the_moments_of_the_posterior():
    _, at, label, X, y = at_estimate(method="REML")
    state = at.whole.mixed
    blocks, rng = Independent.of(state.products.equations, 1), np.random.default_rng(1)
    draws = [resampled(state, blocks, rng) for _ in range(2000)]
    beta = np.array([b[0] for _, b in draws])
    b, u = np.linspace(-8, 8, 401), np.linspace(-6, 6, 241)
    rest = log_likelihood(at.family, at.psi, label[label > 0], y[label > 0], 1.3, b[:, None] * X[label > 0, 0])
    own = at.family.log_density(y[label == 0], b[:, None, None] + u[:, None], at.psi).sum(-1) - u**2 / 2.6
    joint = np.exp(rest[:, None] + own - (rest[:, None] + own).max())
    joint /= joint.sum()
    mean_b, mean_u = joint.sum(1) @ b, joint.sum(0) @ u
    sd_b, sd_u = np.sqrt(joint.sum(1) @ b**2 - mean_b**2), np.sqrt(joint.sum(0) @ u**2 - mean_u**2)
    first = np.array([effects[0].ravel()[0] for effects, _ in draws])
    assert beta.mean() == pytest.approx(mean_b, abs=5 * sd_b / np.sqrt(2000))
    assert beta.std() == pytest.approx(sd_b, rel=0.08)
    assert first.mean() == pytest.approx(mean_u, abs=5 * sd_u / np.sqrt(2000))
    assert first.std() == pytest.approx(sd_u, rel=0.08)


def test_few_draws_and_many_nodes_are_refused():
    at = at_estimate()[1]
    with pytest.raises(ValueError, match="n must be 2 draws or more, got 1"):
        at.importance(1)
    label, X, y = grouped(np.random.default_rng(2), "poisson")
    fit = flmm.find_reml(flmm_model(label, X, y, 0.5 * np.eye(6) + 0.5), fixed={"g": 1.0}, progressbar=False)
    with pytest.raises(ValueError, match="the largest has 6: 25 nodes each are more than 20000 points"):
        fit._node_at(None).importance(10, nodes=25)


def test_many_groups_are_integrated_by_nodes_about_the_mode_of_beta():
    rng = np.random.default_rng(1)
    label, X, y = grouped(rng, "poisson", 200, 3, covariate=True)
    at = flmm.find_reml(model_of(label, X, y, "poisson"), fixed={"g": 1.0}, progressbar=False)._node_at(None)
    found = at.importance(400, nodes=9, random_seed=1)
    assert found.blocks == 200
    assert found.correction > 1  # each group has a little
    assert found.ess > 350  # draws of β are about the corrected mode
    assert at.importance(400, nodes=15, random_seed=2).loglik == pytest.approx(found.loglik, abs=6 * found.se)


def test_what_would_take_minutes_or_have_no_draws_left_is_not_begun():
    rng = np.random.default_rng(1)
    label, X, y = grouped(rng, "poisson", 4000, 3)
    at = flmm.find_reml(model_of(label, X, y, "poisson"), fixed={"g": 1.0}, progressbar=False)._node_at(None)
    found = at.importance(1000, random_seed=1)
    assert np.isnan(found.loglik)
    assert "4000 groups are too many for draws of β, or integrate groups by quadrature, nodes=15" in found.message


POINTS = [
    (name, kind, at, point)
    for name, case in CASES.items()
    for at, point in enumerate(case["points"])
    for kind in ("agq25_glmer", "agq25_clmm")
    if kind in point
]


@pytest.mark.parametrize(("name", "kind", "at", "point"), POINTS)
def test_quadrature_is_that_of_lme4_and_ordinal(name, kind, at, point):
    node = node_of(name)
    given = node.products.treated(len(node.terms), flat=False)
    theta = theta_of(point)
    sigma, _ = node.layout.numbers(theta[: node.layout.size])
    offset = node.constants().mu + node.projection.X @ np.asarray(point["beta"])
    state = given.laplace(node.rows(), offset, sigma, theta[node.layout.size :])
    found = corrected(state, 0.0, len(node.terms), n=10, df=None, nodes=25, rng=np.random.default_rng(0))
    assert found.loglik == pytest.approx(point[kind], abs=1e-9)
