"""FourierLMM: density, gradient, draws of statistics, life in a model, REML, NUTS, and messages."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from as_written import AS_WRITTEN
from numpy.testing import assert_allclose
from pymc.model.transform.optimization import freeze_dims_and_data

import pm_fastlmm as flmm
from pm_fastlmm.engines.fourier.fourierlmm import statistic
from pm_fastlmm.engines.fourier.likelihood import FourierLoglik
from pm_fastlmm.engines.lengthscale.operations import LengthscaleLoglik


@pytest.fixture(scope="module")
def case(fourier_cases):
    data = fourier_cases.make("matern52")
    data.statistics = flmm.FourierStatistics.from_arrays(data.basis, data.x, data.y, data.X)
    return data


@pytest.fixture(scope="module")
def plane(fourier_cases):
    data = fourier_cases.make("2-D se")
    data.statistics = flmm.FourierStatistics.from_arrays(data.basis, data.x, data.y, data.X)
    return data


def one_lengthscale(case):
    low, high = case.basis.lengthscale
    with pm.Model() as model:
        ell = pm.Uniform("ell", low, high)
        sigma2, sigma2_e = pm.HalfNormal("sigma2", 3), pm.HalfNormal("sigma2_e", 3)
        flmm.FourierLMM("y", statistics=case.statistics, lengthscale=ell, sigma2=sigma2, sigma2_e=sigma2_e)
    return model


def by_kernel(case, make):
    low, high = case.basis.lengthscale
    with pm.Model() as model:
        ell = pm.Uniform("ell", low, high)
        sigma2, sigma2_e = pm.HalfNormal("sigma2", 3), pm.HalfNormal("sigma2_e", 3)
        flmm.FourierLMM("y", statistics=case.statistics, kernel=make(ell), sigma2=sigma2, sigma2_e=sigma2_e)
    return model


def test_both_forms_have_the_dense_density_and_gradient(case, oracle, fourier_cases):
    models = one_lengthscale(case), by_kernel(case, lambda ell: pm.gp.cov.Matern52(1, ls=ell))
    operations = []
    for model in models:
        function = model.logp_dlogp_function(ravel_inputs=True)
        names = {type(node.op) for node in function._pytensor_function.maker.fgraph.apply_nodes}
        operations.append(names & {LengthscaleLoglik, FourierLoglik})
        _, gradient = function(np.array([0.1, 0.3, -1.0]))
        ends = [function(np.array([0.1 + s * 1e-4, 0.3, -1.0]))[0] for s in (1, -1)]
        assert gradient[0] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4)
    assert operations == [{LengthscaleLoglik}, {FourierLoglik}]
    for ell, g, e in ((0.2, 1.5, 0.3), (0.35, 0.7, 0.6)):
        exact = oracle.Dense(fourier_cases.correlation("matern52", case.x, case.x, ell), case.X, case.y, g, e)
        for given in ({"lengthscale": ell, "sigma2": g}, {"kernel": g * pm.gp.cov.Matern52(1, ls=ell)}):
            rv = flmm.FourierLMM.dist(statistics=case.statistics, sigma2_e=e, **given)
            logp = pm.logp(rv, statistic(case.statistics.project())).eval(mode=AS_WRITTEN)
            assert logp == pytest.approx(exact.loglik_reml, abs=0.1)


def test_the_density_of_other_statistics_is_the_exact_one(case):
    products = case.statistics.project()
    other = statistic(products) * 1.01
    values = [
        pm.logp(flmm.FourierLMM.dist(statistics=case.statistics, sigma2_e=0.3, **given), other).eval(mode=AS_WRITTEN)
        for given in (
            {"lengthscale": 0.2, "sigma2": 1.5},
            {"kernel": pm.gp.cov.Matern52(1, ls=0.2), "sigma2": 1.5},
        )
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-8)


def test_draws_are_statistics_with_their_mean_and_covariance(case):
    products, d = case.statistics.project(), np.exp(case.basis.log_weights(0.2))
    rv = flmm.FourierLMM.dist(statistics=case.statistics, lengthscale=0.2, sigma2=1.5, sigma2_e=0.3)
    draws = pm.draw(rv, 4000, random_seed=1)
    G = products.gram
    cov = 1.5 * (G * d) @ G + 0.3 * G
    scale = np.sqrt(np.diag(cov)[1:])  # the constant is projected out
    sample = draws[:, 1:-1] / scale
    assert np.abs(sample.mean(0)).max() < 5 / np.sqrt(4000)
    expected = cov[1:, 1:] / scale / scale[:, None]
    assert np.abs(sample.T @ sample / 4000 - expected).max() < 6 * np.sqrt(2 / 4000)
    square = 1.5 * (d * np.diag(G)).sum() + 0.3 * products.df
    assert draws[:, -1].mean() == pytest.approx(square, abs=5 * draws[:, -1].std() / np.sqrt(4000))


def test_the_node_is_found_in_copies_of_the_model(case):
    model = one_lengthscale(case)
    for copy in (model, freeze_dims_and_data(model), pm.do(model, {"sigma2_e": 0.3})):
        (node,) = flmm.lmm_nodes(copy)
        assert (node.name, node.n, node.treatment) == ("y", 500, "flat")
        assert node.basis is case.basis
        assert_allclose(node.observed, statistic(node.products))
    assert np.isfinite(model.point_logps()["y"])


def dense_reml(case, fourier_cases, oracle, x0):
    """The maximum of the dense restricted likelihood, by a method that knows nothing of it."""
    from scipy.optimize import minimize

    def negative(t):
        ell, g, e = np.exp(t)
        K = fourier_cases.correlation(case.kernel, case.x, case.x, ell)
        return -oracle.Dense(K, case.X, case.y, g, e).loglik_reml

    found = minimize(negative, np.log(x0), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-5})
    return np.exp(found.x), -found.fun


def test_reml_is_that_of_the_dense_model(case, fourier_cases, oracle):
    estimate, loglik = dense_reml(case, fourier_cases, oracle, [0.25, 1.0, 0.3])
    exact = oracle.Dense(
        fourier_cases.correlation("matern52", case.x, case.x, estimate[0]), case.X, case.y, *estimate[1:]
    )
    for model in (one_lengthscale(case), by_kernel(case, lambda ell: pm.gp.cov.Matern52(1, ls=ell))):
        fit = flmm.find_reml(model, progressbar=False)
        assert fit.converged
        assert fit.boundary == ()
        assert fit.loglik == pytest.approx(loglik, abs=0.02)
        assert np.abs(fit.theta.to_numpy() - estimate).max() < 0.05 * fit.standard_errors()[:3].min()
        assert_allclose(fit.beta, exact.beta, atol=0.02 * np.sqrt(np.diag(exact.beta_cov).min()))
        assert_allclose(fit.beta_cov, exact.beta_cov, rtol=0.02)
        assert set(fit.point) == {"ell", "sigma2", "sigma2_e"}


def test_reml_without_a_process_is_on_the_boundary(case):
    alternating = np.empty(case.n)  # from each point to the next: less alike than independent values
    alternating[np.argsort(case.x[:, 0])] = np.resize([1.0, -1.0], case.n)
    statistics = flmm.FourierStatistics.from_arrays(case.basis, case.x, alternating, case.X)
    low, _ = case.basis.lengthscale
    with pm.Model() as model:
        flmm.FourierLMM(
            "y", statistics=statistics, lengthscale=low,
            sigma2=pm.HalfNormal("sigma2", 1), sigma2_e=pm.HalfNormal("sigma2_e", 1),
        )  # fmt: skip
    fit = flmm.find_reml(model, progressbar=False)
    products = statistics.project()
    assert fit.converged
    assert fit.boundary == ("sigma2",)
    assert fit.theta["sigma2"] == 0
    assert fit.theta["sigma2_e"] == pytest.approx(products.square / products.df)


def test_anisotropic_lengthscales_and_sums_of_kernels(plane, oracle, fourier_cases):
    with pm.Model() as model:
        ls = pm.Uniform("ls", 0.2, 0.5, shape=2)
        amplitude = pm.HalfNormal("amplitude", 2)
        kernel = amplitude**2 * pm.gp.cov.ExpQuad(2, ls=ls) + 0.1 * pm.gp.cov.ExpQuad(2, ls=0.45)
        flmm.FourierLMM("y", statistics=plane.statistics, kernel=kernel, sigma2_e=pm.HalfNormal("sigma2_e", 1))
    function = model.logp_dlogp_function(ravel_inputs=True, mode=AS_WRITTEN)
    at = np.array([0.2, -0.4, 0.3, -1.2])
    _, gradient = function(at)
    numeric = [(function(at + h)[0] - function(at - h)[0]) / 2e-5 for h in 1e-5 * np.eye(4)]
    assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)
    fit = flmm.find_reml(model, progressbar=False)
    assert fit.converged
    a, b, s, e = fit.theta.to_numpy()
    K = s**2 * fourier_cases.correlation("se", plane.x / [a, b], plane.x / [a, b], 1.0)
    K += 0.1 * fourier_cases.correlation("se", plane.x, plane.x, 0.45)
    assert fit.loglik == pytest.approx(oracle.Dense(K, plane.X, plane.y, 1.0, e).loglik_reml, abs=0.1)


def test_nuts_has_the_posterior_of_quadrature(case):
    model = one_lengthscale(case)
    with model, pytest.warns(UserWarning, match=r"of the draws of y have a noise ratio .* below noise_ratio_min=0\.1"):
        idata = flmm.sample(500, chains=2, random_seed=1, progressbar=False, quiet=True)
    spectra = flmm.lmm_nodes(model)[0].spectra
    low, high = case.basis.lengthscale
    ell, g, e = np.meshgrid(
        np.linspace(low, high, 60), np.exp(np.linspace(-2.5, 2.5, 80)), np.linspace(0.2, 0.45, 60), indexing="ij"
    )
    log = spectra.loglik(ell, g, e) - 0.5 * (g / 3) ** 2 - 0.5 * (e / 3) ** 2 + np.log(g)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    for name, values in (("ell", ell), ("sigma2", g), ("sigma2_e", e)):
        mean = (weight * values).sum()
        sd = np.sqrt((weight * (values - mean) ** 2).sum())
        draws = idata.posterior[name].to_numpy().ravel()
        assert abs(draws.mean() - mean) < 5 * sd / np.sqrt(150)
        assert draws.std() == pytest.approx(sd, rel=0.2)
    assert_allclose(idata.posterior["y_delta"], idata.posterior["sigma2_e"] / idata.posterior["sigma2"])


def test_there_is_no_second_derivative(case):
    log_prior = pt.dvector()
    p = case.statistics.project()
    value = FourierLoglik()(log_prior, pt.constant(0.3), pt.constant(statistic(p)), p.gram, np.asarray(p.df))[0]
    gradient = pytensor.grad(value, log_prior)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        pytensor.grad(gradient.sum(), log_prior)


def test_jax_has_the_same_density(case):
    import pm_fastlmm.engines.jax  # noqa: F401

    log_prior, p = pt.dvector(), case.statistics.project()
    value = FourierLoglik()(log_prior, pt.constant(0.3), pt.constant(statistic(p)), p.gram, np.asarray(p.df))[0]
    at = case.basis.log_weights(0.2)
    outputs = [value, pytensor.grad(value, log_prior)]
    results = [pytensor.function([log_prior], outputs, mode=mode)(at) for mode in ("JAX", None)]
    assert float(results[0][0]) == pytest.approx(float(results[1][0]), rel=1e-12)
    assert_allclose(results[0][1], results[1][1], atol=1e-9)


def build(case, **given):
    arguments = {"statistics": case.statistics, "lengthscale": 0.2, "sigma2": 1.0, "sigma2_e": 1.0} | given
    with pm.Model():
        return flmm.FourierLMM("y", **arguments)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"statistics": 3}, TypeError, r"must be FourierStatistics, got int: flmm\.FourierStatistics\.from_arrays"),
        ({"lengthscale": None}, ValueError, "give either lengthscale"),
        ({"kernel": pm.gp.cov.ExpQuad(1, ls=1)}, ValueError, "give either lengthscale"),
        ({"sigma2_e": None}, ValueError, "give sigma2_e"),
        ({"sigma2": None}, ValueError, "give sigma2_e, the residual variance, and sigma2"),
        ({"lengthscale": np.ones(2)}, ValueError, "one for each dimension is given in a kernel"),
        ({"lengthscale": 0.7}, ValueError, "100.0% of the prior of the lengthscale is outside the range"),
        ({"lengthscale": None, "kernel": pm.gp.cov.ExpQuad(2, ls=1)}, ValueError, "kernel has 2 dimensions, but"),
        ({"lengthscale": None, "kernel": pm.gp.cov.Exponential(1, ls=1)}, ValueError, "has no spectral density"),
        ({"delta": 1.0}, TypeError, "FourierLMM takes no argument delta"),
    ],
)
def test_bad_arguments_are_refused(case, given, error, message):
    with pytest.raises(error, match=message):
        build(case, **given)


def test_a_prior_that_reaches_outside_the_range_is_said(case):
    with pm.Model():
        wide = pm.InverseGamma("wide", 3, 1)
        with pytest.raises(ValueError, match=r"of the prior of the lengthscale is outside the range of the basis"):
            flmm.FourierLMM("a", statistics=case.statistics, lengthscale=wide, sigma2=1.0, sigma2_e=1.0)
        nearly = pm.LogNormal("nearly", np.log(0.2), 0.3)
        with pytest.warns(UserWarning, match=r"of the prior of the lengthscale is outside"):
            flmm.FourierLMM("b", statistics=case.statistics, lengthscale=nearly, sigma2=1.0, sigma2_e=1.0)


def test_a_kernel_with_many_features_is_warned_of(fourier_cases):
    basis = flmm.FourierBasis(kernel="matern32", lengthscale=(0.03, 0.2), domain=(0, 1), n=10**4, noise_ratio_min=0.1)
    rng = np.random.default_rng(0)
    statistics = flmm.FourierStatistics.from_arrays(basis, rng.uniform(size=50), rng.normal(size=50))
    assert basis.size > 800
    with pm.Model(), pytest.warns(UserWarning, match="features are factored at each evaluation"):
        flmm.FourierLMM("y", statistics=statistics, kernel=pm.gp.cov.Matern32(1, ls=0.1), sigma2_e=1.0)


def test_maximum_likelihood_is_refused(case):
    with pytest.raises(ValueError, match="method='REML'"):
        flmm.find_reml(one_lengthscale(case), method="ML", progressbar=False)


def test_what_needs_rows_says_so(case):
    fit = flmm.find_reml(one_lengthscale(case), progressbar=False)
    with pytest.raises(ValueError, match="the rows were not kept"):
        fit.objective.covariance(fit.at())
    with pytest.raises(ValueError, match="the rows were not kept"):
        fit.objective.covariance_derivatives(fit.at())


def test_an_estimate_outside_of_what_the_basis_was_made_for_is_said():
    rng = np.random.default_rng(3)
    x = rng.uniform(size=300)
    basis = flmm.FourierBasis(x, "matern52", lengthscale=(0.2, 0.5), domain=(0, 1), noise_ratio_min=0.5)
    statistics = flmm.FourierStatistics.from_arrays(basis, x, np.sin(25 * x) + 0.1 * rng.normal(size=300), np.ones(300))
    with pm.Model() as model:
        flmm.FourierLMM(
            "y", statistics=statistics, lengthscale=pm.Uniform("ell", 0.2, 0.5), sigma2=pm.HalfNormal("sigma2", 9),
            sigma2_e=pm.HalfNormal("sigma2_e", 1),
        )  # fmt: skip
    message = flmm.find_reml(model, progressbar=False).message
    assert "is below noise_ratio_min=0.5" in message
    assert "at an end of the range of the basis, 0.2 to 0.5" in message
