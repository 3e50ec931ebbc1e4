"""The likelihood over a range of lengthscales: dense densities, derivatives, the number of nodes, errors."""

from types import SimpleNamespace

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose

from pm_fastlmm import Spectrum
from pm_fastlmm.engines.lengthscale.interpolation import node_lengthscales
from pm_fastlmm.engines.lengthscale.operations import LengthscaleLoglik
from pm_fastlmm.engines.lengthscale.spectra import NodeStatistics, RotatedSpectra

RANGE = (0.05, 0.6)


def kernel(x, lengthscale, smooth):
    r = np.abs(x[:, None] - x) / lengthscale
    if smooth:
        return np.exp(-(r**2) / 2)
    a = np.sqrt(5) * r
    return (1 + a + a**2 / 3) * np.exp(-a)


@pytest.fixture(scope="module", params=["matern52", "se"])
def case(request):
    """Spectra with fixed effects, which have different ranks when the kernel is smooth."""
    rng = np.random.default_rng(3)
    n, smooth = 70, request.param == "se"
    x = np.sort(rng.uniform(size=n))
    X = np.column_stack([np.ones(n), x, rng.normal(size=n)])
    y = X @ [5.0, -3.0, 1.0] + rng.multivariate_normal(np.zeros(n), kernel(x, 0.15, smooth)) + 0.3 * rng.normal(size=n)
    calls = []

    def statistics(lengthscale):
        calls.append(lengthscale)
        s = Spectrum.from_covariance(kernel(x, lengthscale, smooth), X)
        rotated = s.rotate(y)
        return NodeStatistics(s.eigvals, rotated.z, float(rotated.rss), s.nullity)

    logdet_R = 0.5 * np.linalg.slogdet(X.T @ X)[1]
    spectra = RotatedSpectra.build(statistics, RANGE, delta=(1e-3, 1e2), tolerance=1e-4, log_flat=-logdet_R)
    K = lambda lengthscale: kernel(x, lengthscale, smooth)  # noqa: E731
    return SimpleNamespace(spectra=spectra, K=K, X=X, y=y, calls=calls, statistics=statistics)


def random_points(count, seed):
    rng = np.random.default_rng(seed)
    lengthscale = np.exp(rng.uniform(*np.log(RANGE), size=count))
    g = np.exp(rng.uniform(-1.5, 1.5, size=count))
    return lengthscale, g, g * np.exp(rng.uniform(np.log(2e-3), np.log(5), size=count))


def test_the_likelihood_is_the_exact_one_to_the_tolerance_at_random_points(case, oracle):
    points = random_points(25, 1)
    exact = [oracle.Dense(case.K(ell), case.X, case.y, g, e).loglik_reml for ell, g, e in zip(*points, strict=True)]
    best = max(*exact, case.spectra.profile(case.spectra.nodes, np.geomspace(1e-3, 1e2, 40))[0].max())
    # random points may be somewhat worse than those where the error was measured
    allowed = 5 * case.spectra.tolerance * np.maximum(1, best - np.array(exact))
    assert (np.abs(case.spectra.loglik(*points) - exact) < allowed).all()


def test_the_likelihood_is_exact_at_the_nodes(case, oracle):
    for ell in case.spectra.nodes[::7]:
        exact = oracle.Dense(case.K(ell), case.X, case.y, 1.3, 0.2).loglik_reml
        # eigenvalues left out at σ²_e/σ²_g = 0.15 are a 150th of what the tolerance allows at 0.001
        assert_allclose(case.spectra.loglik(ell, 1.3, 0.2), exact, atol=1e-6)


def test_the_gradient_is_that_of_central_differences(case):
    for ell, g, e in zip(*random_points(6, 2), strict=True):
        value, gradient = case.spectra.value_and_gradient(ell, g, e)
        h = 1e-6
        for i, factors in enumerate(np.exp(h * np.eye(3))):
            up, down = (case.spectra.loglik(*(np.array([ell, g, e]) * factors**sign)) for sign in (1, -1))
            scale = (1, g, e)[i]
            assert_allclose(gradient[i] * scale, (up - down) / (2 * h), rtol=1e-6, atol=1e-8 * abs(value))


def test_the_hessian_is_that_of_the_gradient(case):
    for ell, g, e in zip(*random_points(6, 3), strict=True):
        h, scale = 1e-5, np.array([1, g, e])
        ends = [
            [case.spectra.value_and_gradient(*(np.array([ell, g, e]) * factors**sign))[1] for sign in (1, -1)]
            for factors in np.exp(h * np.eye(3))
        ]
        differences = np.array([(up - down) / (2 * h) for up, down in ends]) / scale[:, None]
        H = case.spectra.hessian(ell, g, e)
        unit = scale[:, None] * scale
        assert_allclose(H * unit, differences * unit, atol=1e-6 * np.abs(H * unit).max())


def test_the_operation_and_its_gradient_are_those_of_numpy(case):
    theta = pt.dvector()
    operation = LengthscaleLoglik()
    loglik = operation(theta[0], pt.exp(theta[1]), pt.exp(theta[2]), *map(pt.constant, case.spectra.constants))[0]
    function = pytensor.function([theta], [loglik, pytensor.grad(loglik, theta)])
    value, gradient = function(np.log([0.2, 1.3, 0.2]))
    expected, slopes = case.spectra.value_and_gradient(0.2, 1.3, 0.2)
    assert_allclose(value + case.spectra.log_flat, expected, rtol=1e-13)
    assert_allclose(gradient, slopes * [1, 1.3, 0.2], rtol=1e-12)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        pytensor.grad(pytensor.grad(loglik, theta).sum(), theta)


def test_ranks_may_differ_between_the_nodes_and_no_node_is_factored_twice(case):
    spectra = case.spectra
    assert len(set(case.calls)) == len(case.calls)
    assert len({len(case.statistics(ell).eigvals) for ell in spectra.nodes}) > 1 or spectra.nullity == 0
    assert spectra.eigvals.shape[1] + spectra.nullity == spectra.df == len(case.y) - 3


def test_the_profile_is_the_maximum_over_the_variance(case):
    loglik, sigma2 = case.spectra.profile(np.array([0.1, 0.3]), np.array([0.05, 0.5]))
    for i, ell in enumerate((0.1, 0.3)):
        for j, delta in enumerate((0.05, 0.5)):
            at = case.spectra.loglik(
                ell, sigma2[i, j] * np.array([0.99, 1, 1.01]), delta * sigma2[i, j] * np.array([0.99, 1, 1.01])
            )
            assert_allclose(loglik[i, j], at[1], rtol=1e-12)
            assert at[1] > at[0]
            assert at[1] > at[2]


def test_outside_of_its_range_the_density_is_zero(case):
    low, high = RANGE
    value, gradient = case.spectra.value_and_gradient(np.array([low / 1.01, high * 1.01, -1.0, np.nan]), 1.0, 1.0)
    assert (value == -np.inf).all()
    assert (gradient == 0).all()
    assert np.isfinite(
        case.spectra.loglik(np.array([low * (1 - 1e-12), low, high, high * (1 + 1e-12)]), 1.0, 1.0)
    ).all()
    assert case.spectra.loglik(0.2, -1.0, 1.0) == case.spectra.loglik(0.2, 1.0, -0.1) == -np.inf
    assert case.spectra.loglik(0.2, 0.0, 0.0) == -np.inf
    if case.spectra.nullity:
        assert case.spectra.loglik(0.2, 1.0, 0.0) == -np.inf


def test_without_kernel_variance_the_lengthscale_does_not_matter(case, oracle):
    exact = oracle.Dense(case.K(0.2), case.X, case.y, 0.0, 0.7).loglik_reml
    assert_allclose(case.spectra.loglik(np.array([0.06, 0.2, 0.5]), 0.0, 0.7), exact, rtol=1e-12)


def test_logarithms_survive_variances_that_are_tiny_beside_the_kernel():
    eigvals = np.ones(16)
    spectra = RotatedSpectra.build(
        lambda ell: NodeStatistics(np.r_[1.0, 1e-200 * eigvals], np.r_[1.0, 0 * eigvals], 0.0, 0),
        (1.0, 2.0),
        delta=(1e-3, 1),
    )
    small = 1e-60
    expected = -0.5 * (17 * np.log(2 * np.pi) + 16 * np.log(small) + 1)
    assert_allclose(spectra.loglik(1.5, 1.0, small), expected, rtol=1e-12)


def test_nodes_of_each_number_contain_those_before():
    nodes = [set(node_lengthscales(0.07, 0.9, count)) for count in (9, 17, 33, 65)]
    assert nodes[0] < nodes[1] < nodes[2] < nodes[3]
    assert max(nodes[0]) == 0.9
    assert min(nodes[0]) == 0.07


def test_the_number_of_nodes_follows_the_tolerance(case):
    both = [RotatedSpectra.build(case.statistics, RANGE, delta=(1e-2, 10), tolerance=t) for t in (0.1, 1e-6)]
    assert both[0].n_nodes < both[1].n_nodes
    assert all(spectra.error <= spectra.tolerance for spectra in both)
    assert f"{both[0].n_nodes} nodes" in repr(both[0])


def test_too_few_nodes_are_refused_with_what_would_help(case):
    with pytest.raises(ValueError, match=r"off by .* with 9 lengthscales .*narrow the range of the lengthscale, raise"):
        RotatedSpectra.build(case.statistics, RANGE, max_nodes=9, tolerance=1e-5)


@pytest.mark.parametrize("bad", [(0.0, 1.0), (1.0, 0.5), (0.1, np.inf), 0.3])
def test_a_range_must_be_positive_and_increasing(case, bad):
    with pytest.raises(ValueError, match="lengthscale must be a range"):
        RotatedSpectra.build(case.statistics, bad)
    with pytest.raises(ValueError, match="delta must be a range"):
        RotatedSpectra.build(case.statistics, RANGE, delta=bad)


def test_a_tolerance_must_be_positive(case):
    with pytest.raises(ValueError, match="tolerance must be between 0 and 1"):
        RotatedSpectra.build(case.statistics, RANGE, tolerance=0.0)


def test_degrees_of_freedom_must_not_depend_on_the_lengthscale():
    def statistics(lengthscale):
        return NodeStatistics(np.ones(5), np.ones(5), 1.0, 3 if lengthscale < 0.3 else 4)

    with pytest.raises(ValueError, match="add up to"):
        RotatedSpectra.build(statistics, RANGE)
