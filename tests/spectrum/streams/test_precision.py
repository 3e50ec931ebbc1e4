"""What is lost to floating point, against arithmetic with 60 digits: plain sums of products, and the two routes."""

import warnings

import mpmath as mp
import numpy as np
import pytest

import pm_fastlmm as flmm
from pm_fastlmm import KernelStatistics

N, M, BLOCK = 300, 8, 50
CASES = {  # λ_max/δ up to the spread of W, mean of y in standard deviations
    "benign": (1e2, 0.0),
    "the ratio up to which a Gram matrix is trusted": (1e8, 0.0),
    "ratio 1e10": (1e10, 0.0),
    "ratio 4e14": (4e14, 0.0),
    "mean 1e6 sd": (1e2, 1e6),
    "mean 1e8 sd": (1e2, 1e8),
}
# errors of the log-likelihood: a few times the largest of five seeds
PLAIN = {"ratio 1e10": 1e-7, "ratio 4e14": 1e-2, "mean 1e6 sd": 1e-2, "mean 1e8 sd": 1e2}  # at least
GRAM = {"benign": 1e-12, "the ratio up to which a Gram matrix is trusted": 1e-6, "mean 1e6 sd": 1e-12,
        "mean 1e8 sd": 1e-12}  # fmt: skip
TSQR = {"benign": 1e-12, "the ratio up to which a Gram matrix is trusted": 1e-10, "ratio 1e10": 1e-9,
        "ratio 4e14": 2e-7, "mean 1e6 sd": 1e-12, "mean 1e8 sd": 1e-12}  # fmt: skip


def data(ratio, mean, seed):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(N), rng.normal(size=N)])
    W = rng.normal(size=(N, M)) / np.sqrt(N) + 0.02
    y = W @ rng.normal(size=M) + rng.normal(size=N) / np.sqrt(ratio)
    return X, W, y + mean * y.std(), 1.0, 1 / ratio


def exact(X, W, y, g, e):
    """The restricted log-likelihood from the formulas of the model, with 60 digits."""
    with mp.workdps(60):
        X, W, y = (mp.matrix(part.tolist()) for part in (X, W, y))
        g, e, r, m = mp.mpf(g), mp.mpf(e), X.cols, W.cols
        L = mp.cholesky(X.T * X)
        W1, y1 = L**-1 * (X.T * W), L**-1 * (X.T * y)
        G, c, q = W.T * W - W1.T * W1, W.T * y - W1.T * y1, (y.T * y - y1.T * y1)[0]
        A = g * G + e * mp.eye(m)
        root = mp.cholesky(A)
        logdet = 2 * sum(mp.log(root[i, i]) for i in range(m)) + (y.rows - r - m) * mp.log(e)
        quadratic = (q - g * (c.T * mp.lu_solve(A, c))[0]) / e
        logdet_R = sum(mp.log(L[i, i]) for i in range(r))
        return -((y.rows - r) * mp.log(2 * mp.pi) + logdet + quadratic) / 2 - logdet_R


def plain(X, W, y, g, e):
    """The same formulas from a sum of Gram matrices, in floating point."""
    A = np.column_stack([X, W, y])
    gram = sum(A[i : i + BLOCK].T @ A[i : i + BLOCK] for i in range(0, N, BLOCK))
    d, df = X.shape[1], N - X.shape[1]
    L = np.linalg.cholesky(gram[:d, :d])
    along = np.linalg.solve(L, gram[:d, d:])
    rest = gram[d:, d:] - along.T @ along
    eigvals, E = np.linalg.eigh(rest[:M, :M])
    z = E.T @ rest[:M, M] / np.sqrt(eigvals)
    v = g * eigvals + e
    logdet = np.log(v).sum() + (df - M) * np.log(e)
    quadratic = (z**2 / v).sum() + (rest[M, M] - z @ z) / e
    return -0.5 * (df * np.log(2 * np.pi) + logdet + quadratic) - np.log(np.diag(L)).sum()


def in_blocks(X, W, y, method):
    blocks = [[part[i : i + BLOCK] for part in (X, W, y)] for i in range(0, N, BLOCK)]
    c = KernelStatistics.from_arrays(*blocks[0], method=method)
    for block in blocks[1:]:
        c = c.update(*block)
    return c.factor()


def error(value, reference):
    return float(abs(mp.mpf(float(value)) - reference))


@pytest.mark.parametrize("case", CASES)
def test_log_likelihood_against_sixty_digits(case):
    for seed in range(3):
        X, W, y, g, e = data(*CASES[case], seed)
        reference = exact(X, W, y, g, e)
        assert error(plain(X, W, y, g, e), reference) >= PLAIN.get(case, 0.0)
        for method, bounds in (("gram", GRAM), ("tsqr", TSQR)):
            loglik = flmm.log_likelihood(in_blocks(X, W, y, method)[1], g, e)
            assert error(loglik, reference) <= bounds.get(case, np.inf), (method, seed)


def test_tsqr_is_as_precise_as_the_factorisation_in_memory():
    X, W, y, g, e = data(4e14, 0.0, 1)
    reference = exact(X, W, y, g, e)
    in_memory = flmm.log_likelihood(flmm.Spectrum.from_factor(W, X).rotate(y), g, e)
    assert error(flmm.log_likelihood(in_blocks(X, W, y, "tsqr")[1], g, e), reference) <= 10 * error(
        in_memory, reference
    )


# ---------------------------------------------------------------- the guard


@pytest.mark.parametrize("ratio", [1e10, 4e14])
def test_a_fit_from_a_gram_matrix_beyond_its_precision_says_so(ratio):
    X, W, y, *_ = data(ratio, 0.0, 0)
    message = r"λ_max/δ is above 1e\+08, up to which cross-products are precise: collect them again with method='tsqr'"
    with pytest.warns(UserWarning, match=message):
        fit = flmm.reml(*in_blocks(X, W, y, "gram"))
    assert "method='tsqr'" in fit.message
    with pytest.warns(UserWarning, match=message):
        flmm.exact_posterior(*in_blocks(X, W, y, "gram"))


@pytest.mark.parametrize(("ratio", "method"), [(1e2, "gram"), (1e6, "gram"), (1e10, "tsqr"), (4e14, "tsqr")])
def test_a_fit_within_its_precision_does_not(ratio, method):
    X, W, y, *_ = data(ratio, 0.0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = flmm.reml(*in_blocks(X, W, y, method))
        flmm.exact_posterior(*in_blocks(X, W, y, method))
    assert fit.converged
    assert fit.message == ""
    in_memory = flmm.reml(flmm.Spectrum.from_factor(W, X), y)
    assert fit.delta == pytest.approx(in_memory.delta, rel=1e-5)


def test_of_several_responses_those_beyond_precision_are_counted():
    X, W, y, *_ = data(1e12, 0.0, 0)
    noise = np.random.default_rng(5).normal(size=N)
    with pytest.warns(UserWarning, match=r"method='tsqr' \(1 of 2 responses\)"):
        fit = flmm.reml(*KernelStatistics.from_arrays(X, W, np.column_stack([y + noise, y])).factor())
    assert ["tsqr" in message for message in fit.message] == [False, True]
