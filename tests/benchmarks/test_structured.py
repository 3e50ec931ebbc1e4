"""Several random-effects terms: milliseconds of an evaluation with its gradient, and seconds of a REML fit."""

import json
import os
import subprocess
import sys

import numpy as np
import pymc as pm
import pytest
import scipy.linalg
import scipy.sparse as sp

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.structured.loops import loglik_and_gradient
from pm_fastlmm.engines.structured.products import EffectBlock, MixedProducts
from pm_fastlmm.spectrum.projection import Projection

pytestmark = pytest.mark.benchmark

MS = 1e3


def crossed(n, *levels, seed=60):
    """Crossed factors in which every level occurs, an intercept, a factor of 14 departments and a binary column."""
    rng = np.random.default_rng([seed, n])
    codes = [rng.permutation(np.r_[np.arange(m), rng.integers(0, m, n - m)]) for m in levels]
    dept = rng.integers(0, 14, size=n)
    X = np.column_stack([np.ones(n), dept[:, None] == np.arange(1, 14), rng.integers(0, 2, size=n)]).astype(float)
    y = 3 + sum(0.4 * rng.normal(size=m)[code] for m, code in zip(levels, codes, strict=True)) + rng.normal(size=n)
    return codes, X, y


def model_of(codes, X, y):
    with pm.Model() as model:
        terms = [flmm.Term(code, cov.scalar(pm.HalfNormal(f"v{k}", 1.0)), name=f"f{k}") for k, code in enumerate(codes)]
        flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=pm.HalfNormal("v_e", 1.0), observed=y)
    return model


def evaluation(model):
    """The kernel that every evaluation with its gradient calls, and the factorisation alone."""
    objective, _ = flmm.lmm_nodes(model)[0].objective(model)
    theta, p, r = objective.start(), objective.products, objective.response
    sigma = [np.array([[v]]) for v in theta[:-1]]
    phi = np.concatenate([sigma[k].ravel() for k in p.order])
    arguments = phi, np.zeros(0), float(theta[-1]), r.within, r.between, r.rss, *p.constants
    return objective, theta, lambda: loglik_and_gradient(*arguments)


def floor(order, seed=61):
    """One dense Cholesky factorisation of the order of the dense block."""
    A = np.random.default_rng(seed).normal(size=(order, order))
    S = np.asfortranarray(A @ A.T + order * np.eye(order))
    return lambda: scipy.linalg.lapack.dpotrf(S, lower=1)


def test_crossed_effects_of_insteval_size(measure, report):
    """73 421 rows, 2972 students crossed with 1128 lecturers, 15 fixed effects: InstEval, simulated."""
    codes, X, y = crossed(73_421, 2972, 1128)
    report("crossed 2972 × 1128, n = 73 421: model set-up", measure.wall(lambda: model_of(codes, X, y), rounds=5), "s")
    model = model_of(codes, X, y)
    objective, theta, evaluate = evaluation(model)
    order = objective.products.W.shape[1]
    loops = {
        "evaluation": measure.loop(evaluate),
        "Cholesky": measure.loop(floor(order)),
        "state": measure.loop(lambda: objective.state(theta)),
    }
    seconds = measure.take_turns(loops)
    figure = "crossed 2972 × 1128, n = 73 421: log-likelihood and gradient"
    report(figure, MS * seconds["evaluation"], "ms")
    report(figure, seconds["evaluation"] / seconds["Cholesky"], "×", part=f"/ one Cholesky of order {order}")
    report(figure, MS * seconds["state"], "ms", part="factorisation alone")
    fit = flmm.find_reml(model, progressbar=False)
    assert fit.converged
    figure = "crossed 2972 × 1128, n = 73 421: find_reml"
    report(figure, measure.wall(lambda: flmm.find_reml(model, progressbar=False), rounds=5), "s")
    report(figure, fit.history.sizes["iteration"] - 1, "", part="iterations")


FIRST = """
import json, sys, time
sys.path.insert(0, {folder!r})
import test_structured as t
codes, X, y = t.crossed(73_421, 2972, 1128)
start = time.perf_counter()
model = t.model_of(codes, X, y)
fit = t.flmm.find_reml(model, progressbar=False)
assert fit.converged
print(json.dumps({{"seconds": time.perf_counter() - start}}))
"""


def test_first_fit_of_a_process(report, tmp_path):
    environment = os.environ | {
        "PYTENSOR_FLAGS": f"base_compiledir={tmp_path / 'pytensor'}", "NUMBA_CACHE_DIR": str(tmp_path / "numba"),
        "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
    script = FIRST.format(folder=os.path.dirname(os.path.abspath(__file__)))
    for caches in ("cold", "warm"):
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        seconds = json.loads(done.stdout.splitlines()[-1])["seconds"]
        report(f"crossed 2972 × 1128: model and find_reml in a new process, caches {caches}", seconds, "s")


@pytest.mark.parametrize("n", [180, 1000, 100_000])
@pytest.mark.parametrize("q", [36, 500, 2000])
def test_rows_and_effects(measure, report, n, q):
    """Two crossed factors, 2/3 and 1/3 of q effects; the floor is one Cholesky of the smaller."""
    if 2 * q // 3 > n:
        pytest.skip("more levels than rows")
    codes, X, y = crossed(n, 2 * q // 3, q - 2 * q // 3)
    objective, _, evaluate = evaluation(model_of(codes, X, y))
    order = objective.products.W.shape[1]
    seconds = measure.take_turns({"evaluation": measure.loop(evaluate), "Cholesky": measure.loop(floor(order))})
    figure = f"crossed, n = {n}, q = {q}: log-likelihood and gradient"
    report(figure, MS * seconds["evaluation"], "ms")
    report(figure, seconds["evaluation"] / seconds["Cholesky"], "×", part=f"/ one Cholesky of order {order}")


def test_a_hundred_thousand_groups(measure, report):
    """Random slopes of 10⁵ groups with ten rows each; the floor is the sparse cross-product [Z X y]ᵀ[Z X y]."""
    groups, size = 100_000, 10
    n = groups * size
    rng = np.random.default_rng(62)
    code, t = np.repeat(np.arange(groups), size), rng.normal(size=n)
    X = np.column_stack([np.ones(n), t])
    u = rng.normal(size=(groups, 2))
    y = X @ [1.0, 2.0] + u[code, 0] + u[code, 1] * t + rng.normal(size=n)
    columns = np.column_stack([np.ones(n), t])
    rows = np.repeat(np.arange(n), 2)
    Z = sp.csr_array((columns.ravel(), (rows, (2 * code[:, None] + np.arange(2)).ravel())), shape=(n, 2 * groups))
    block, projection = EffectBlock(Z, groups, 2), Projection.from_design(X)
    M = sp.hstack([Z, sp.csr_array(np.column_stack([X, y]))], format="csr")
    products = MixedProducts.from_rows([block], projection, flat=True)
    r, p = products.response(y), products
    phi = np.array([1.0, 0.2, 0.2, 0.8])

    def evaluate():
        return loglik_and_gradient(phi, np.zeros(0), 1.0, r.within, r.between, r.rss, *p.constants)

    loops = {
        "evaluation": measure.loop(evaluate),
        "cross-product": measure.loop(lambda: M.T @ M),
        "set-up": measure.loop(lambda: MixedProducts.from_rows([block], projection, flat=True).response(y)),
    }
    seconds = measure.take_turns(loops, rounds=3)
    figure = "slopes of 10⁵ groups, n = 10⁶: log-likelihood and gradient"
    report(figure, MS * seconds["evaluation"], "ms")
    report(figure, seconds["evaluation"] / seconds["cross-product"], "×", part="/ one sparse cross-product of the rows")
    report("slopes of 10⁵ groups, n = 10⁶: set-up", seconds["set-up"], "s")
    ratio = seconds["set-up"] / seconds["cross-product"]
    report("slopes of 10⁵ groups, n = 10⁶: set-up", ratio, "×", part="/ one sparse cross-product of the rows")
