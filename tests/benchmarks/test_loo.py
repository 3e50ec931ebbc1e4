"""Exact leave-one-out densities at 4000 draws, beside one eigendecomposition of K and beside dense algebra."""

import arviz_base
import numpy as np
import pytest
import scipy.linalg

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark

DRAWS = (4, 1000)
QUIET = {"progressbar": False}


def test_one_kernel_beside_eigh(measure, report):
    n, rng = 2000, np.random.default_rng(1)
    markers = rng.normal(size=(n, 2 * n))
    K, X = markers @ markers.T / (2 * n), np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    y = X @ [1.0, -0.5, 0.3] + markers @ rng.normal(size=2 * n) / np.sqrt(2 * n) + rng.normal(size=n)
    model = flmm.kernel_model(y, X, K=K)
    posterior = {"h2": rng.uniform(0.3, 0.6, size=DRAWS), "total": rng.uniform(1.8, 2.2, size=DRAWS)}
    idata = arviz_base.from_dict({"posterior": posterior})
    seconds = measure.take_turns(
        {
            "leave one out": measure.loop(lambda: flmm.pointwise_log_likelihood(idata, model=model, **QUIET)),
            "eigh": measure.loop(lambda: scipy.linalg.eigh(K)),
        },
        rounds=3,
    )
    assert np.isfinite(idata.log_likelihood["y"]).all()
    figure = f"pointwise_log_likelihood of 4000 draws / eigh(K), n = {n}"
    report(figure, seconds["leave one out"] / seconds["eigh"], "×")
    report(figure, seconds["leave one out"], "s", part="pointwise_log_likelihood")


def test_random_slopes_beside_dense_algebra(measure, report):
    """Each draw by cross-products and sparse rows, and by a Cholesky factorisation of V and its inverse."""
    model = flmm.lmm_model("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy())
    (node,) = flmm.lmm_nodes(model)
    fit = flmm.find_reml(model, **QUIET)
    V, X = fit.objective.covariance(fit.at()), node.projection.Q1 @ node.projection.R
    idata = flmm.sample(1000, model=model, random_seed=1, quiet=True, **QUIET)

    def dense():
        L = scipy.linalg.cholesky(V, lower=True)
        Vinv = scipy.linalg.cho_solve((L, True), np.eye(len(V)))
        VX = Vinv @ X
        P = Vinv - VX @ np.linalg.solve(X.T @ VX, VX.T)
        return P @ node.observed / np.diag(P)

    seconds = measure.take_turns(
        {
            "terms": measure.loop(lambda: flmm.pointwise_log_likelihood(idata, model=model, **QUIET)),
            "dense": measure.loop(dense),
        },
        rounds=3,
    )
    figure = "pointwise_log_likelihood of 4000 draws, random slopes of sleepstudy"
    report(figure, seconds["terms"], "s")
    report(figure, 4000 * seconds["dense"] / seconds["terms"], "times", part="dense algebra for each draw")
