"""The log-density of FastLMM: against dense normal densities, NumPy, closed-form scores and central differences."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from as_written import AS_WRITTEN
from pymc.testing import assert_support_point_is_expected
from pytensor.graph.basic import Constant
from scipy.stats import norm

import pm_fastlmm as flmm
from pm_fastlmm.kernel.likelihood.information import score
from pm_fastlmm.kernel.likelihood.spectral import contrast_loglik

POINTS = ((1.3, 0.7), (0.02, 2.0), (5.0, 0.01))
B = np.array([[2.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.9]])
b = np.array([1.0, -2.0, 0.5])
g, e = pt.dscalar("g"), pt.dscalar("e")


def logp_of(spectrum, y, **kwargs):
    kwargs = kwargs or {"sigma2_g": g, "sigma2_e": e}
    return pm.logp(flmm.FastLMM.dist(spectrum=spectrum, **kwargs), y)


def close(actual, expected, tolerance=1e-10):
    """Equal to an absolute 1e-10, or to the same in proportion where a density is in the thousands."""
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_flat_logp_is_the_density_of_the_error_contrasts_in_the_form_of_lme4(problem, evaluate):
    logp = logp_of(problem.spectrum, problem.y)
    for point in POINTS:
        value = evaluate(logp, dict(zip((g, e), point, strict=True)))
        close(value, problem.dense.flat(problem.y, *point))
        close(value, flmm.log_likelihood(problem.spectrum.rotate(problem.y), *point))


def test_flat_logp_at_the_reml_estimate_is_its_loglik(full, evaluate):
    fit = flmm.reml(full.spectrum, full.y)
    close(evaluate(logp_of(full.spectrum, full.y), {g: fit.sigma2_g, e: fit.sigma2_e}), fit.loglik)


def test_flat_logp_ignores_y_along_X(low, evaluate):
    values = evaluate([logp_of(low.spectrum, low.y), logp_of(low.spectrum, low.y + low.X @ b)], {g: 1.0, e: 2.0})
    close(values[0], values[1])


def test_explicit_beta_is_a_multivariate_normal(problem_with_X, evaluate):
    p, beta = problem_with_X, pt.dvector("beta")
    logp = logp_of(p.spectrum, p.y, sigma2_g=g, sigma2_e=e, beta=beta)
    for point in POINTS:
        close(evaluate(logp, {g: point[0], e: point[1], beta: b}), p.dense.proper(p.y, *point, b))


@pytest.mark.parametrize("cov", [B, np.outer([1, 2, 3], [1, 2, 3]) / 7, np.zeros((3, 3))], ids=["full", "rank 1", "0"])
def test_gaussian_prior_on_beta_is_integrated_out(problem_with_X, evaluate, cov):
    p = problem_with_X
    logps = [
        logp_of(p.spectrum, p.y, sigma2_g=g, sigma2_e=e, beta_cov=cov),
        logp_of(p.spectrum, p.y, sigma2_g=g, sigma2_e=e, beta_cov=cov, beta_mean=b),
        logp_of(p.spectrum, p.y, sigma2_g=g, sigma2_e=e, beta_cov=cov, beta_mean=0.7),
    ]
    for point in POINTS:
        values = evaluate(logps, {g: point[0], e: point[1]})
        for value, mean in zip(values, (0 * b, b, 0.7 + 0 * b), strict=True):
            close(value, p.dense.proper(p.y, *point, mean, cov), 1e-9)


def test_beta_cov_may_be_a_tensor(low, evaluate):
    tau, mean = pt.dscalar("tau"), pt.dvector("mean")
    logp = logp_of(low.spectrum, low.y, sigma2_g=g, sigma2_e=e, beta_mean=mean, beta_cov=tau**2 * pt.constant(B))
    for value in (0.1, 3.0):
        expected = low.dense.proper(low.y, 1.3, 0.7, b, value**2 * B)
        close(evaluate(logp, {g: 1.3, e: 0.7, tau: value, mean: b}), expected)


def test_vague_gaussian_prior_tends_to_the_flat_one_less_its_density_at_zero(full, evaluate):
    tau = 1e5
    logp = evaluate(logp_of(full.spectrum, full.y, sigma2_g=1.3, sigma2_e=0.7, beta_cov=tau**2 * np.eye(3)))
    close(logp + 1.5 * np.log(2 * np.pi * tau**2), full.dense.flat(full.y, 1.3, 0.7), 1e-7)


@pytest.mark.parametrize("treatment", [{}, {"beta": b}, {"beta_cov": B}], ids=["flat", "explicit", "Gaussian"])
def test_mu_is_subtracted_as_constant_number_or_tensor(low, evaluate, treatment):
    m, slope = np.sin(np.arange(low.n)), pt.dscalar("slope")
    variances = {"sigma2_g": 1.3, "sigma2_e": 0.7} | treatment
    values = evaluate(
        [logp_of(low.spectrum, low.y, mu=mu, **variances) for mu in (m, 0.1, slope * m)], {slope: np.array(-2.5)}
    )
    for value, mu in zip(values, (m, 0.1, -2.5 * m), strict=True):
        if treatment:
            expected = low.dense.proper(
                low.y - mu, 1.3, 0.7, treatment.get("beta", 0 * b), treatment.get("beta_cov", 0)
            )
        else:
            expected = low.dense.flat(low.y - mu, 1.3, 0.7)
        close(value, expected)


def test_the_three_pairs_are_one_model(problem, evaluate):
    h2, total, kbar = 0.37, 2.2, problem.dense.kbar
    sigma2, delta = h2 * total / kbar, kbar * (1 - h2) / h2
    pairs = (
        {"h2": h2, "total": total}, {"sigma2": sigma2, "delta": delta}, {"sigma2_g": sigma2, "sigma2_e": sigma2 * delta}
    )  # fmt: skip
    expected = problem.dense.flat(problem.y, sigma2, sigma2 * delta)
    close(evaluate([logp_of(problem.spectrum, problem.y, **pair) for pair in pairs]), expected)


@pytest.mark.parametrize("treatment", [{}, {"beta_cov": B, "beta_mean": b}], ids=["flat", "Gaussian"])
def test_gradient_in_each_pair_is_the_central_difference(low, evaluate, treatment):
    kbar = low.dense.kbar
    to_components = {
        ("sigma2", "delta"): lambda u, v: (u, u * v),
        ("sigma2_g", "sigma2_e"): lambda u, v: (u, v),
        ("h2", "total"): lambda u, v: (u * v / kbar, (1 - u) * v),
    }
    density = (lambda *v: low.dense.proper(low.y, *v, b, B)) if treatment else (lambda *v: low.dense.flat(low.y, *v))
    for pair, components in to_components.items():
        logp = logp_of(low.spectrum, low.y, **dict(zip(pair, (g, e), strict=True)), **treatment)
        at = np.array([0.6, 1.7])
        gradient = evaluate(pytensor.grad(logp, [g, e]), {g: at[0], e: at[1]})
        steps = 1e-6 * np.eye(2)
        differences = [(density(*components(*at + h)) - density(*components(*at - h))) / 2e-6 for h in steps]
        np.testing.assert_allclose(gradient, differences, rtol=1e-6)


def test_flat_gradient_is_the_closed_form_score(problem, evaluate):
    gradient = pytensor.grad(logp_of(problem.spectrum, problem.y), [g, e])
    for point in POINTS:
        expected = score(problem.spectrum.rotate(problem.y), *map(np.asarray, point))
        np.testing.assert_allclose(evaluate(gradient, {g: point[0], e: point[1]}), expected, rtol=1e-10)


def test_gradient_in_beta_mu_and_y_is_that_of_the_multivariate_normal(full, evaluate):
    beta, y, mu = pt.dvector("beta"), pt.dvector("y"), pt.dvector("mu")
    logp = logp_of(full.spectrum, y, sigma2_g=1.3, sigma2_e=0.7, beta=beta, mu=mu)
    m = np.cos(np.arange(full.n))
    of_beta, of_y, of_mu = evaluate(pytensor.grad(logp, [beta, y, mu]), {beta: b, y: full.y, mu: m})
    solved = np.linalg.solve(full.dense.V(1.3, 0.7), full.y - m - full.X @ b)
    close(of_beta, full.X.T @ solved)
    close(of_y, -solved)
    close(of_mu, solved)


@pytest.fixture(scope="module")
def compiled(low):
    """Three nodes with data, one for each treatment of β, compiled by PyTensor's default backend."""
    with pm.Model() as model:
        sigma2_g, sigma2_e = pm.Flat("sigma2_g"), pm.Flat("sigma2_e")
        beta = pm.Flat("beta", shape=3)
        for name, treatment in {"flat": {}, "explicit": {"beta": beta}, "gaussian": {"beta_cov": B}}.items():
            flmm.FastLMM(name, spectrum=low.spectrum, sigma2_g=sigma2_g, sigma2_e=sigma2_e, observed=low.y, **treatment)
    terms = model.logp(sum=False, jacobian=False)[-3:]
    values = model.value_vars
    return pytensor.function(values, [*terms, *pytensor.grad(pt.add(*terms), values)], on_unused_input="ignore")


def test_compiled_densities_and_gradient_are_those_of_numpy(low, compiled):
    rotated = low.spectrum.rotate(low.y)
    s = low.spectrum
    for point in POINTS:
        flat, explicit, gaussian, of_g, of_e, of_beta = compiled(*point, b)
        contrasts = contrast_loglik(
            rotated.z, rotated.rss, eigvals=s.eigvals, nullity=s.nullity, sigma2_g=point[0], sigma2_e=point[1]
        )
        close(flat, contrasts - 0.5 * np.linalg.slogdet(low.X.T @ low.X)[1])
        close(explicit, low.dense.proper(low.y, *point, b))
        close(gaussian, low.dense.proper(low.y, *point, 0 * b, B))
        np.testing.assert_allclose(
            of_beta, low.X.T @ np.linalg.solve(low.dense.V(*point), low.y - low.X @ b), rtol=1e-9
        )

        def total(u, v):
            dense = low.dense
            return dense.flat(low.y, u, v) + dense.proper(low.y, u, v, b) + dense.proper(low.y, u, v, 0 * b, B)

        u, v = point
        h, k = 1e-5 * u, 1e-5 * v
        np.testing.assert_allclose(of_g, (total(u + h, v) - total(u - h, v)) / (2 * h), rtol=2e-5)
        np.testing.assert_allclose(of_e, (total(u, v + k) - total(u, v - k)) / (2 * k), rtol=2e-5)


@pytest.mark.parametrize("treatment", [{}, {"beta": b}, {"beta_cov": B}], ids=["flat", "explicit", "Gaussian"])
def test_observed_data_are_rotated_once_not_in_each_evaluation(full, treatment):
    logp = logp_of(full.spectrum, full.y, sigma2_g=g, sigma2_e=e, **treatment)
    gradient = pytensor.grad(logp, [g, e])
    function = pytensor.function([g, e], [logp, *gradient])
    constants = [v for node in function.maker.fgraph.toposort() for v in node.inputs if isinstance(v, Constant)]
    largest = max(np.size(v.data) for v in constants)
    r = full.spectrum.projection.rank
    assert largest <= full.spectrum.rank * (r**2 if treatment else 1)
    assert largest < full.n * full.spectrum.rank


def test_a_row_of_parameters_for_each_response(problem_with_X, evaluate):
    p, rng = problem_with_X, np.random.default_rng(8)
    Y = np.stack([p.y, -2 * p.y + rng.normal(size=p.n), rng.normal(size=p.n)])
    G, E, betas, mus = (
        np.array([1.0, 2, 0.3]),
        np.array([0.5, 0.1, 4]),
        rng.normal(size=(3, 3)),
        rng.normal(size=Y.shape),
    )
    variances = {"sigma2_g": G, "sigma2_e": E}
    values = evaluate(
        [
            logp_of(p.spectrum, Y, **variances),
            logp_of(p.spectrum, Y, **variances, beta=betas),
            logp_of(p.spectrum, Y, **variances, beta_cov=B, beta_mean=betas),
            logp_of(p.spectrum, Y, **variances, mu=mus),
            logp_of(p.spectrum, Y, h2=np.array([0.1, 0.5, 0.9]), total=2.0),
            logp_of(p.spectrum, Y, sigma2_g=1.3, sigma2_e=0.7),
            logp_of(p.spectrum, Y, sigma2_g=1.3, sigma2_e=0.7, beta=b),
            logp_of(p.spectrum, Y, sigma2_g=1.3, sigma2_e=0.7, beta_cov=B),
        ]
    )
    dense, kbar = p.dense, p.dense.kbar
    for t, (y, *v) in enumerate(zip(Y, G, E, strict=True)):
        h2 = (0.1, 0.5, 0.9)[t]
        expected = [
            dense.flat(y, *v),
            dense.proper(y, *v, betas[t]),
            dense.proper(y, *v, betas[t], B),
            dense.flat(y - mus[t], *v),
            dense.flat(y, h2 * 2 / kbar, (1 - h2) * 2),
            dense.flat(y, 1.3, 0.7),
            dense.proper(y, 1.3, 0.7, b),
            dense.proper(y, 1.3, 0.7, 0 * b, B),
        ]
        close([value[t] for value in values], expected, 1e-9)


def test_rotated_observes_the_same_density_as_y(problem, evaluate):
    Y = np.column_stack([problem.y, 0.3 * problem.y + np.cos(np.arange(problem.n))])
    for y in (problem.y, Y):
        with pm.Model() as model:
            variances = {"sigma2_g": pm.Flat("sigma2_g"), "sigma2_e": pm.Flat("sigma2_e")}
            rotated = problem.spectrum.rotate(y)
            flmm.FastLMM("rotated", spectrum=problem.spectrum, observed=rotated, **variances)
            flmm.FastLMM("plain", spectrum=problem.spectrum, observed=y.T, **variances)
        of_rotated, plain = model.logp(sum=False)[-2:]
        values = evaluate([of_rotated, plain], dict(zip(model.value_vars, (1.3, 0.7), strict=True)))
        assert values[0].shape == y.shape[1:]
        close(values[0], values[1])
        densities = [problem.dense.flat(column, 1.3, 0.7) for column in np.atleast_2d(y.T)]
        close(values[0], densities[0] if y.ndim == 1 else densities)


@pytest.mark.parametrize("treatment", [{"beta": b}, {"beta_mean": b, "beta_cov": B}])
def test_rotated_observes_the_same_proper_density_as_y(problem_with_X, evaluate, treatment):
    p = problem_with_X
    for y in (p.y, np.column_stack([p.y, 0.3 * p.y + np.cos(np.arange(p.n))])):
        with pm.Model() as model:
            variances = {"sigma2_g": pm.Flat("sigma2_g"), "sigma2_e": pm.Flat("sigma2_e")}
            flmm.FastLMM("rotated", spectrum=p.spectrum, observed=p.spectrum.rotate(y), **variances, **treatment)
            flmm.FastLMM("plain", spectrum=p.spectrum, observed=y.T, **variances, **treatment)
        of_rotated, plain = model.logp(sum=False)[-2:]
        values = evaluate([of_rotated, plain], dict(zip(model.value_vars, (1.3, 0.7), strict=True)))
        close(values[0], values[1])
        densities = [
            p.dense.proper(column, 1.3, 0.7, b, treatment.get("beta_cov", 0.0)) for column in np.atleast_2d(y.T)
        ]
        close(values[0], densities[0] if y.ndim == 1 else densities)


def test_at_h2_zero_y_is_white_noise(problem_with_X, evaluate):
    p, h2 = problem_with_X, pt.dscalar("h2")
    flat = logp_of(p.spectrum, p.y, h2=h2, total=2.0)
    explicit = logp_of(p.spectrum, p.y, h2=h2, total=2.0, beta=b)
    gradients = [pytensor.grad(logp, h2) for logp in (flat, explicit)]
    values = evaluate([flat, explicit, *gradients], {h2: 0.0})
    close(values[0], p.dense.flat(p.y, 0.0, 2.0))
    close(values[1], norm.logpdf(p.y, p.X @ b, np.sqrt(2)).sum())
    assert np.isfinite(values).all()


def test_at_h2_one_y_has_covariance_K(full, evaluate):
    h2 = pt.dscalar("h2")
    flat = logp_of(full.spectrum, full.y, h2=h2, total=2.0)
    explicit = logp_of(full.spectrum, full.y, h2=h2, total=2.0, beta=b)
    values = evaluate([flat, explicit, pytensor.grad(flat, h2), pytensor.grad(explicit, h2)], {h2: 1.0})
    np.testing.assert_allclose(values[0], full.dense.flat(full.y, 2 / full.dense.kbar, 0.0), rtol=1e-9)
    np.testing.assert_allclose(values[1], full.dense.proper(full.y, 2 / full.dense.kbar, 0.0, b), rtol=1e-9)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("kind", ["factor", "singular K"])
def test_at_h2_one_a_singular_K_cannot_have_made_y(build, evaluate, kind):
    p, h2 = build(kind), pt.dscalar("h2")
    logps = [logp_of(p.spectrum, p.y, h2=h2, total=2.0, **t) for t in ({}, {"beta": b}, {"beta_cov": B})]
    density = pm.compile([h2], logps, mode=AS_WRITTEN)
    with np.errstate(all="ignore"):
        assert [float(v) for v in density(1.0)] == [-np.inf] * 3
    assert np.isfinite(density(1 - 1e-12)).all()


@pytest.mark.parametrize("point", [(-1.0, 2.0), (2.0, -0.1), (0.0, 0.0)])
@pytest.mark.parametrize("treatment", [{}, {"beta": b}], ids=["flat", "explicit"])
def test_impossible_variances_are_refused(full, evaluate, point, treatment):
    logp = logp_of(full.spectrum, full.y, sigma2_g=g, sigma2_e=e, **treatment)
    with np.errstate(all="ignore"), pytest.raises(pm.logprob.utils.ParameterValueError, match="sigma2_g >= 0"):
        evaluate(logp, {g: point[0], e: point[1]})


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_units_of_y_shift_the_density_by_the_log_of_their_ratio(problem_with_X, evaluate, scale):
    p = problem_with_X
    df = p.n - 3
    flat, gaussian = evaluate(
        [
            logp_of(p.spectrum, scale * p.y, sigma2_g=1.3 * scale**2, sigma2_e=0.7 * scale**2),
            logp_of(p.spectrum, scale * p.y, sigma2_g=1.3 * scale**2, sigma2_e=0.7 * scale**2, beta_cov=scale**2 * B),
        ]
    )
    np.testing.assert_allclose(flat + df * np.log(scale), p.dense.flat(p.y, 1.3, 0.7), rtol=1e-10)
    np.testing.assert_allclose(gaussian + p.n * np.log(scale), p.dense.proper(p.y, 1.3, 0.7, 0 * b, B), rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_units_of_K_do_not_matter_to_h2_and_total(low, evaluate, scale):
    scaled = flmm.Spectrum.from_covariance(scale * low.K, low.X)
    values = evaluate([logp_of(s, low.y, h2=0.4, total=3.0) for s in (scaled, low.spectrum)])
    np.testing.assert_allclose(*values, rtol=1e-9)


def test_python_numbers_keep_double_precision(low, evaluate):
    """PyTensor reads 3.0 as a float32, whose logarithm is wrong in the eighth digit."""
    kbar = low.dense.kbar
    components = {
        ("h2", "total"): (0.25 * 3 / kbar, 0.75 * 3),
        ("sigma2", "delta"): (0.25, 0.75),
        ("sigma2_g", "sigma2_e"): (0.25, 3.0),
    }
    logps = []
    for pair in components:
        pairs = dict(zip(pair, (0.25, 3.0), strict=True))
        logps += [
            logp_of(low.spectrum, low.y, **pairs),
            logp_of(low.spectrum, low.y, **pairs, beta=[1, 0.1, 2.0], mu=0.1),
        ]
    assert {logp.dtype for logp in logps} == {"float64"}
    values = iter(evaluate(logps))
    for variances in components.values():
        close(next(values), low.dense.flat(low.y, *variances), 1e-12)
        close(next(values), low.dense.proper(low.y - 0.1, *variances, np.array([1, 0.1, 2.0])), 1e-12)


@pytest.mark.usefixtures("as_written")
def test_the_support_point_is_the_mean(low):
    with pm.Model() as model:
        flmm.FastLMM("x", spectrum=low.spectrum, h2=0.3, total=1.0, beta=b, mu=np.arange(low.n), shape=(2, low.n))
    assert_support_point_is_expected(model, np.tile(low.X @ b + np.arange(low.n), (2, 1)))
