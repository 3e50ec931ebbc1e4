"""Fourier features: the kernel they stand for, the choice of the grid, additive statistics, and messages."""

import functools
import itertools

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from as_written import AS_WRITTEN
from numpy.testing import assert_allclose
from scipy.special import gamma

import pm_fastlmm as flmm


def dense_products(case, X=None):
    """G̃, b̃, c̃ from the features of all rows."""
    Z, X = case.basis.features(case.x), case.X if X is None else X
    Q = np.linalg.qr(X)[0]
    residual = case.y - Q @ (Q.T @ case.y)
    M = Z - Q @ (Q.T @ Z)
    return M.T @ M, Z.T @ residual, residual @ residual


def test_features_reproduce_the_kernel_between_lengthscales_of_the_range(process, fourier_cases):
    basis = process.basis
    Z = basis.features(process.x)
    for ell in (1.5 * basis.lengthscale[0], basis.lengthscale[1]):
        K = fourier_cases.correlation(process.kernel, process.x, process.x, ell)
        error = np.abs((Z * np.exp(basis.log_weights(ell))) @ Z.T - K).max()
        # a point meets its image in the next period, of which there are eight in two dimensions
        images = {1: 2, 2: 8}[process.x.shape[1]]
        assert error < images * (1e-4 if process.kernel == "se" else 1e-3) + 1e-3


def test_products_are_those_of_the_features_with_x_projected_out(process):
    p = process.statistics.project()
    gram, cross, square = dense_products(process)
    assert_allclose(p.gram, gram, atol=1e-13 * process.n * 10)
    assert_allclose(p.cross, cross, atol=1e-13 * process.n * 10)
    assert p.square == pytest.approx(square, rel=1e-12)
    assert_allclose(p.projection.R, np.abs(np.linalg.qr(process.X)[1]) * np.sign(p.projection.R), rtol=1e-10)
    assert_allclose(p.projection.R.T @ p.projection.R, process.X.T @ process.X, rtol=1e-11)


def test_statistics_add_up_in_any_split_and_any_order(process):
    whole = process.statistics.project()
    ends = [0, 3, 20, 21, 190, 300, 301, 302, 450, 460, process.n]
    parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
    blocks = [(process.x[s], process.y[s], process.X[s]) for s in parts]
    first = flmm.FourierStatistics.from_arrays(process.basis, *blocks[0])
    for block in blocks[1:]:
        first = first.update(*block)
    merged = functools.reduce(
        lambda a, b: b.merge(a), [flmm.FourierStatistics.from_arrays(process.basis, *b) for b in blocks[1:]]
    )
    merged = merged.merge(flmm.FourierStatistics.from_arrays(process.basis, *blocks[0]))
    scale = np.abs(whole.gram).max()
    for s in (first.project(), merged.project()):
        assert s.n == process.n
        assert_allclose(s.gram, whole.gram, atol=1e-13 * scale)
        assert_allclose(s.cross, whole.cross, atol=1e-12 * np.abs(whole.cross).max())
        assert s.square == pytest.approx(whole.square, rel=1e-11)
        assert_allclose(s.along, whole.along, rtol=1e-10, atol=1e-10)


def test_an_offset_of_a_million_standard_deviations_costs_nothing(process):
    whole = process.statistics.project()
    far = process.X @ [1e6, 1e6, -1e6]
    moved = flmm.FourierStatistics.from_arrays(process.basis, process.x, process.y + far, process.X).project()
    assert moved.square == pytest.approx(whole.square, rel=1e-9)
    assert_allclose(moved.cross, whole.cross, atol=1e-9 * np.abs(whole.cross).max())


def test_rows_come_from_blocks_arrays_and_dask_with_a_checkpoint(process, tmp_path):
    da = pytest.importorskip("dask.array")
    basis, whole = process.basis, process.statistics.project()
    x = process.x if process.x.shape[1] > 1 else process.x[:, 0]
    arrays = (x, process.y, process.X)
    chunked = [da.from_array(a, chunks=(120, *a.shape[1:])) for a in arrays]
    path = tmp_path / "statistics.npz"
    blocks = [tuple(a[i : i + 100] for a in arrays) for i in range(0, process.n, 100)]

    def interrupted():
        yield from blocks[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flmm.FourierStatistics.from_blocks(basis, interrupted(), checkpoint=path, progressbar=False)
    resumed = flmm.FourierStatistics.from_blocks(basis, blocks, checkpoint=path, progressbar=False)
    others = [
        flmm.FourierStatistics.from_rows(basis, *arrays, block_rows=77, progressbar=False),
        flmm.FourierStatistics.from_dask(basis, *chunked, progressbar=False),
    ]
    for statistics in (resumed, *others):
        s = statistics.project()
        assert s.n == process.n
        assert_allclose(s.gram, whole.gram, atol=1e-12 * np.abs(whole.gram).max())
        assert_allclose(s.cross, whole.cross, atol=1e-11 * np.abs(whole.cross).max())
    coarser = flmm.FourierBasis(
        kernel="se", lengthscale=(0.3, 0.5), domain=basis.domain, n=process.n, noise_ratio_min=0.5
    )
    with pytest.raises(ValueError, match=r"the checkpoint .* is of other data: grid was"):
        flmm.FourierStatistics.from_blocks(coarser, blocks, checkpoint=path, progressbar=False)


def test_rows_with_missing_values_are_refused_or_dropped_and_counted(process):
    y = process.y.copy()
    y[[2, 7]] = np.nan
    with pytest.raises(ValueError, match="y has 2 values that are NaN"):
        flmm.FourierStatistics.from_arrays(process.basis, process.x, y, process.X)
    statistics = flmm.FourierStatistics.from_arrays(process.basis, process.x, y, process.X, missing="drop")
    assert (statistics.n, statistics.dropped) == (process.n - 2, 2)
    assert "2 rows dropped" in repr(statistics)


def test_a_collinear_column_is_dropped_by_name(process):
    X = pd.DataFrame({"one": 1.0, "slope": process.x[:, 0], "double": 2 * process.x[:, 0] - 1})
    with pytest.warns(UserWarning, match="X has rank 2 but 3 columns: 'double' dropped"):
        p = flmm.FourierStatistics.from_arrays(process.basis, process.x, process.y, X).project()
    gram, cross, square = dense_products(process, X.to_numpy()[:, :2])
    assert p.projection.coef == ("one", "slope")
    assert_allclose(p.gram, gram, atol=1e-9)
    assert_allclose(p.cross, cross, atol=1e-9)
    assert p.square == pytest.approx(square, rel=1e-11)


def test_an_indicator_that_is_absent_from_the_first_block_is_no_loss(process):
    late = (np.arange(process.n) > 300).astype(float)
    X = np.column_stack([np.ones(process.n), late])
    first = flmm.FourierStatistics.from_arrays(process.basis, process.x[:100], process.y[:100], X[:100])
    p = first.update(process.x[100:], process.y[100:], X[100:]).project()
    gram, cross, square = dense_products(process, X)
    assert_allclose(p.gram, gram, atol=1e-10)
    assert_allclose(p.cross, cross, atol=1e-10)
    assert p.square == pytest.approx(square, rel=1e-12)


def test_the_divergence_from_the_dense_model_is_below_the_expected_one(process, fourier_cases):
    """At the shortest lengthscale and the smallest noise ratio, where the features left out are heaviest."""
    basis, n = process.basis, process.n
    (ell, _), noise = basis.lengthscale, basis.noise_ratio_min * np.eye(process.n)
    V = fourier_cases.correlation(process.kernel, process.x, process.x, ell) + noise
    coarse = flmm.FourierBasis(
        kernel=process.kernel, lengthscale=basis.lengthscale, domain=basis.domain, n=n, noise_ratio_min=0.1, tolerance=3
    )

    def divergence(basis):
        Z = basis.features(process.x)
        ratio = np.linalg.solve((Z * np.exp(basis.log_weights(ell))) @ Z.T + noise, V)
        return 0.5 * (np.trace(ratio) - n - np.linalg.slogdet(ratio)[1])

    # the rule takes the data to be spread evenly; these are random, and have clusters
    assert divergence(basis) < 3 * basis.divergence
    assert divergence(coarse) > 10 * divergence(basis)


@pytest.mark.parametrize(("kernel", "exponent"), [("matern32", 2 / 7), ("matern52", 2 / 11)])
def test_the_number_of_features_grows_with_the_rows_as_the_smoothness_says(kernel, exponent):
    sizes = [
        flmm.FourierBasis(kernel=kernel, lengthscale=(0.2, 0.3), domain=(0, 1), n=n, noise_ratio_min=0.1).size
        for n in (10**4, 10**7)
    ]
    assert np.log(sizes[1] / sizes[0]) / np.log(1000) == pytest.approx(exponent, rel=0.05)


@pytest.mark.parametrize("cov", [pm.gp.cov.Matern52, pm.gp.cov.ExpQuad, functools.partial(pm.gp.cov.RatQuad, alpha=2)])
def test_a_kernel_of_pymc_is_read(cov):
    x = np.linspace(0, 1, 60)
    basis = flmm.FourierBasis(x, cov, lengthscale=(0.2, 0.3), noise_ratio_min=0.1, domain=(0, 1))
    Z = basis.features(x)
    K = cov(1, ls=0.25)(x[:, None]).eval(mode=AS_WRITTEN)
    # the rational quadratic kernel has a peak at frequency 0 that decays slowly
    assert_allclose((Z * np.exp(basis.log_weights(0.25))) @ Z.T, K, atol=2e-2)


def test_named_and_generic_spectral_densities_agree():
    from pm_fastlmm.engines.fourier.spectral_kernels import SpectralKernel

    omega = np.array([[0.0, 0.0], [1.0, -2.0], [8.0, 3.0]])
    for name, cov in {"se": pm.gp.cov.ExpQuad, "matern32": pm.gp.cov.Matern32, "matern52": pm.gp.cov.Matern52}.items():
        named = SpectralKernel.of(name, 2)
        generic = SpectralKernel("generic", 2, cov)
        # PyMC's constants are in single precision
        assert_allclose(named.log_density(omega, 0.4), generic.log_density(omega, 0.4), atol=1e-6)
        assert_allclose(named.correlation(np.array([0.0, 0.7])), generic.correlation(np.array([0.0, 0.7])), rtol=1e-7)
        graph = named.log_density_graph(omega, 0.4)
        assert_allclose(graph.eval(mode=AS_WRITTEN), named.log_density(omega, 0.4), rtol=1e-13)


SQUARE = {"x": np.random.default_rng(2).uniform(0, 10, (1500, 2)), "lengthscale": (1.0, 5.0)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengthscale": None}, r"lengthscale must be a range \(low, high\)"),
        ({"lengthscale": (0.5, 0.1)}, "of positive numbers, 0 < low < high"),
        ({"x": None}, "neither x nor domain= is given"),
        ({"x": None, "domain": (0, 1)}, "give x, or n="),
        ({"domain": (1, 0)}, "domain must be finite and increasing"),
        ({"domain": (0.2, 1)}, "points of x lie outside the domain of the basis"),
        ({"domain": [(0, 1)] * 3}, "inducing points are for those"),
        ({"kernel": "matern12"}, "kernel must be 'se', 'matern32', 'matern52'"),
        ({"kernel": pm.gp.cov.Exponential}, "Exponential has no spectral density"),
        ({"kernel": lambda D, ls: 2 * pm.gp.cov.ExpQuad(D, ls=ls)}, "has the variance 2"),
        ({"kernel": "matern32", "lengthscale": (1e-3, 1.0)}, "features, more than max_features=2300. Fewer are needed"),
        ({"kernel": "se", "max_features": 11}, "more than max_features=11"),
        (
            SQUARE | {"domain": (0, 10)},
            r"x has 2 coordinates, but domain= has .* for 1: .*domain=\[\(0, 10\), \(0, 10\)\]",
        ),
        ({"domain": [(0, 1), (0, 2)]}, r"x has 1 coordinates, but domain= .* for 2: .*domain=\[\(0, 1\)\]"),
        (SQUARE | {"noise_ratio_min": 0.02}, "needs 27153 features, more than max_features=2300"),
        (
            SQUARE | {"lengthscale": (0.01, 5.0), "max_features": 10**8},
            r"needs at least \d{7} features, and more frequencies matter than can be looked at. Fewer are needed with",
        ),
        ({"noise_ratio_min": 0}, "noise_ratio_min must be positive"),
        ({"tolerance": -1}, "tolerance must be positive"),
    ],
)
def test_bad_bases_are_refused(arguments, message):
    given = {"x": np.linspace(0, 1, 50), "lengthscale": (0.1, 0.5)} | arguments
    with pytest.raises(ValueError, match=message):
        flmm.FourierBasis(**given)


@pytest.mark.parametrize(
    ("dimensions", "low", "ratio"), [(2, 1.0, 0.03), (2, 1.0, 0.02), (2, 0.7, 0.02), (1, 1e-3, 0.02)]
)
def test_what_is_left_out_of_a_large_basis_is_what_all_other_modes_add_up_to(dimensions, low, ratio):
    """The search ended at 200 000 features with an infinite divergence, ten times too many."""
    D, nu, n = dimensions, 2.5, 1500
    basis = flmm.FourierBasis(
        kernel="matern52", lengthscale=(low, 5.0), domain=[(0, 10)] * D, n=n, noise_ratio_min=ratio, max_features=10**7
    )
    h, reach = basis.grid.h[0], 8 * max(basis.grid.largest)
    axis = np.arange(reach + 1) * h
    radius2 = axis**2 if D == 1 else axis[:, None] ** 2 + axis**2
    times = 1.0 if D == 1 else np.where(axis > 0, 2.0, 1.0) * np.where(axis > 0, 2.0, 1.0)[:, None] / 2  # half a plane
    density = (
        2**D * np.pi ** (D / 2) * gamma(nu + D / 2) * (2 * nu) ** nu / (gamma(nu) * low ** (2 * nu))
        * (2 * nu / low**2 + 4 * np.pi**2 * radius2) ** -(nu + D / 2)
    )  # fmt: skip
    ratios = n / (10 * h) ** D * h**D * density / ratio
    lost = times * (ratios - np.log1p(ratios))
    outside = radius2 > (basis.grid.j[-1] ** 2).sum() * h**2 * (1 + 1e-9)
    rim = lost[~outside & (radius2 > (basis.grid.j[-1] ** 2).sum() * h**2 * (1 - 1e-9))].sum()
    assert basis.divergence <= 0.01 < lost[outside].sum() + rim
    assert basis.divergence == pytest.approx(lost[outside].sum(), abs=rim + 1e-4)


def test_bad_rows_are_refused(process):
    basis, statistics = process.basis, process.statistics
    with pytest.raises(ValueError, match="lie outside the domain of the basis, the first is"):
        flmm.FourierStatistics.from_arrays(basis, process.x + 0.5, process.y)
    with pytest.raises(ValueError, match="y has 499 rows but x has 500"):
        flmm.FourierStatistics.from_arrays(basis, process.x, process.y[1:])
    with pytest.raises(ValueError, match="y must be one response, got 2"):
        flmm.FourierStatistics.from_arrays(basis, process.x, np.column_stack([process.y] * 2))
    with pytest.raises(ValueError, match="x has 3 coordinates"):
        flmm.FourierStatistics.from_arrays(basis, np.zeros((5, 3)), np.zeros(5))
    with pytest.raises(ValueError, match="X of this block has 0 columns but that of the blocks before had 3"):
        statistics.update(process.x, process.y)
    with pytest.raises(TypeError, match="other must be FourierStatistics, got int"):
        statistics.merge(3)
    with pytest.raises(ValueError, match="merge statistics of one basis and the same columns"):
        statistics.merge(flmm.FourierStatistics.from_arrays(basis, process.x, process.y))
    named = flmm.FourierStatistics.from_arrays(
        basis, process.x, process.y, pd.DataFrame(process.X, columns=list("abc"))
    )
    with pytest.raises(ValueError, match="before they were 'a', 'b', 'c'"):
        named.update(process.x, process.y, pd.DataFrame(process.X, columns=list("acb")))
    empty = flmm.FourierStatistics.from_arrays(basis, process.x[:2], np.full(2, np.nan), missing="drop")
    with pytest.raises(ValueError, match="no rows were added, 2 were dropped"):
        empty.project()
    assert empty.merge(flmm.FourierStatistics.from_arrays(basis, process.x, process.y)).n == process.n
