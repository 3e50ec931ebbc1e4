"""Prior weights of rows of a function: they enter the sums, in any split of the rows."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

import pm_fastlmm as flmm

N = 400
RNG = np.random.default_rng(3)
TIME = RNG.uniform(size=N)
X = pd.DataFrame({"one": np.ones(N), "t": 50 + 1000 * TIME})
WEIGHTS = RNG.uniform(0.2, 6, N)
Y = 1e4 + 3 * TIME + np.sin(8 * TIME) + RNG.normal(size=N) / np.sqrt(WEIGHTS)
BASIS = flmm.FourierBasis(TIME, "se", lengthscale=(0.1, 0.6))
PRODUCTS = ("gram", "cross", "square", "fixed", "along", "log_flat", "mean_weight")


def products(statistics):
    """What a likelihood takes."""
    found = statistics.project()
    return [np.asarray(getattr(found, name)) for name in PRODUCTS] + [found.projection.R]


def same(one, other):
    for a, b in zip(products(one), products(other), strict=True):
        assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max(initial=1e-30))


@pytest.fixture(scope="module")
def whole():
    return flmm.FourierStatistics.from_arrays(BASIS, TIME, Y, X, WEIGHTS)


def model_of(statistics, **options):
    with pm.Model() as model:
        ell = pm.Uniform("ell", 0.1, 0.6)
        g, e = pm.HalfNormal("g", 2), pm.HalfNormal("e", 2)
        flmm.FourierLMM("y", statistics=statistics, lengthscale=ell, sigma2=g, sigma2_e=e, **options)
    return model


def test_products_are_those_of_rows_times_root_weights(whole):
    root = np.sqrt(WEIGHTS)
    Z, Q = root[:, None] * BASIS.features(TIME), np.linalg.qr(root[:, None] * X.to_numpy())[0]
    M = np.eye(N) - Q @ Q.T
    found = whole.project()
    assert_allclose(found.gram, Z.T @ M @ Z, atol=1e-8)
    rest = M @ (root * (Y - 1e4))  # without the offset, whose square would take its digits
    assert_allclose(found.cross, Z.T @ rest, atol=1e-7)
    assert_allclose(found.square, rest @ rest, rtol=1e-9)
    assert_allclose(found.mean_weight, WEIGHTS.mean())


def test_any_split_has_the_same_sums(whole):
    parts = [slice(0, 7), slice(7, 150), slice(150, N)]
    rows = [(TIME[s], Y[s], X[s], WEIGHTS[s]) for s in parts]
    same(flmm.FourierStatistics.from_blocks(BASIS, rows, progressbar=False), whole)
    first, *rest = (flmm.FourierStatistics.from_arrays(BASIS, *some) for some in rows)
    same(rest[1].merge(first).merge(rest[0]), whole)
    options = {"weights": WEIGHTS, "progressbar": False}
    same(flmm.FourierStatistics.from_rows(BASIS, TIME, Y, X.to_numpy(), block_rows=90, **options), whole)


def test_chunks_of_dask_arrays(whole):
    da = pytest.importorskip("dask.array")
    x, y, M, w = (da.from_array(np.asarray(part), chunks=(100, *np.shape(part)[1:])) for part in (TIME, Y, X, WEIGHTS))
    same(flmm.FourierStatistics.from_dask(BASIS, x, y, M, weights=w, progressbar=False), whole)


def test_a_checkpoint_keeps_them(whole, tmp_path):
    path = tmp_path / "sums.npz"
    rows = [(TIME[s], Y[s], X[s], WEIGHTS[s]) for s in (slice(0, 200), slice(200, N))]
    options = {"checkpoint": path, "checkpoint_every": 0.0, "progressbar": False}

    def interrupted():
        yield rows[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flmm.FourierStatistics.from_blocks(BASIS, interrupted(), **options)
    same(flmm.FourierStatistics.from_blocks(BASIS, rows, **options), whole)


def test_rows_without_a_weight_are_dropped_and_counted(whole):
    x, y = np.append(TIME, 0.5), np.append(Y, 7.0)
    M, w = pd.concat([X, X.iloc[:1]], ignore_index=True), np.append(WEIGHTS, np.nan)
    found = flmm.FourierStatistics.from_arrays(BASIS, x, y, M, w, missing="drop")
    assert (found.n, found.dropped) == (N, 1)
    same(found, whole)
    with pytest.raises(ValueError, match="weights has 1 values that are NaN or infinite"):
        flmm.FourierStatistics.from_arrays(BASIS, x, y, M, w)
    with pytest.raises(ValueError, match="weights are negative in rows 0: they must be positive numbers"):
        whole.update(TIME, Y, X, np.append(-1.0, WEIGHTS[1:]))
    with pytest.raises(ValueError, match=f"weights has 3 rows but x has {N}"):
        whole.update(TIME, Y, X, np.ones(3))


def test_the_likelihood_is_that_of_V(whole):
    fit = flmm.find_reml(model_of(whole, tolerance=1e-6), progressbar=False)
    ell, g, e = (float(fit.point[name]) for name in ("ell", "g", "e"))
    Z = BASIS.features(TIME)
    V = g * (Z * np.exp(BASIS.log_weights(ell))) @ Z.T + e * np.diag(1 / WEIGHTS)
    C = np.linalg.qr(X.to_numpy(), mode="complete")[0][:, 2:]
    contrasts = multivariate_normal(cov=C.T @ V @ C).logpdf(C.T @ Y)
    assert_allclose(fit.loglik, contrasts - 0.5 * np.linalg.slogdet(X.T @ X)[1], atol=1e-5)


def test_equal_weights_change_the_unit_of_the_residual_variance_alone():
    plain, equal = (
        flmm.find_reml(model_of(flmm.FourierStatistics.from_arrays(BASIS, TIME, Y, X, w)), progressbar=False)
        for w in (None, np.full(N, 100.0))
    )
    assert_allclose(equal.loglik, plain.loglik, rtol=1e-7)
    assert_allclose(equal.theta, plain.theta * [1, 1, 100], rtol=1e-4)
    assert equal.message == plain.message


def test_rows_given_for_leave_one_out_need_their_weights(whole):
    model = model_of(whole)
    with model:
        idata = flmm.sample(5, tune=5, chains=1, random_seed=1, progressbar=False, quiet=True)
        found = flmm.pointwise_log_likelihood(idata, rows=(TIME, Y, X, WEIGHTS), progressbar=False)
        assert found.log_likelihood["y"].shape == (1, 5, N)
        with pytest.raises(ValueError, match=r"the rows are not those of y: .*rows=\(x, y, X, weights\)"):
            flmm.pointwise_log_likelihood(idata, rows=(TIME, Y, X), progressbar=False)
