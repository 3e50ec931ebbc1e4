"""
Simulation-based calibration of the animal model, animal and permanent environment, on sparse mixed-model equations.

Parameters are drawn from the prior, breeding values down the pedigree, records from both, all with NumPy alone; then
come a fit, its posterior by quadrature, and the ranks of the truth among its draws. β, whose prior is flat, is fixed.
NUTS on the interpolated likelihood is calibrated in the same way, on fewer replicates.
"""

from unittest import mock

import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.sparse.products import SparseProducts
from pm_fastlmm.engines.structured import choice

pytestmark = pytest.mark.slow

PRIOR = flmm.priors.SharePrior({"animal": 2.0, "pe": 1.5, "residual": 2.0}, 3.0, 3.0)
ALPHA = np.array([2.0, 1.5, 2.0])
FORMULA = "y ~ x + (1 | animal) + (1 | pe)"
ANIMALS, FOUNDERS, RECORDS = 300, 30, 2
NAMES = np.array([f"a{k}" for k in range(ANIMALS)])
L = 199


@pytest.fixture(scope="module")
def herd():
    """A pedigree of overlapping generations with some inbreeding, a table without y, and F of each animal."""
    rng = np.random.default_rng(1)
    early = [(max(0, k - 80), k) for k in range(FOUNDERS, ANIMALS)]
    sire, dam = (np.array([-1] * FOUNDERS + [rng.integers(*ends) for ends in early]) for _ in range(2))
    dam = np.where((dam == sire) & (dam >= 0), np.maximum(dam - 1, 0), dam)
    pedigree = cov.Pedigree(NAMES, *(np.where(p < 0, None, NAMES[p]) for p in (sire, dam)))
    animal = np.repeat(NAMES, RECORDS)
    table = pd.DataFrame({"animal": animal, "pe": animal, "x": rng.normal(size=len(animal))})
    return pedigree, sire, dam, table


def inbreeding(sire, dam):
    """F by the tabular method: A is dense here."""
    A = np.zeros((ANIMALS, ANIMALS))
    for i, (s, d) in enumerate(zip(sire, dam, strict=True)):
        if s < 0:
            A[i, i] = 1.0
            continue
        A[i, :i] = A[:i, i] = (A[s, :i] + A[d, :i]) / 2
        A[i, i] = 1 + A[s, d] / 2
    return np.diag(A) - 1


def replicates(herd, count, seed):
    """Yield variances of the mean record from the prior, shares and total, and a table with y."""
    _, sire, dam, table = herd
    rng, F = np.random.default_rng(seed), inbreeding(sire, dam)
    mean = np.array([1 + F.mean(), 1.0, 1.0])  # what a variance of 1 gives a record on average
    within = np.where(sire < 0, 1.0, 0.5 - 0.25 * (F[sire] + F[dam]))
    for _ in range(count):
        shares, total = rng.dirichlet(ALPHA), PRIOR.total_scale / rng.gamma(PRIOR.total_shape)
        a, pe, e = shares * total / mean
        u = np.sqrt(a * within) * rng.normal(size=ANIMALS)
        for i in range(FOUNDERS, ANIMALS):
            u[i] += (u[sire[i]] + u[dam[i]]) / 2
        own = np.repeat(u + np.sqrt(pe) * rng.normal(size=ANIMALS), RECORDS)
        y = 1 - 0.5 * table["x"] + own + np.sqrt(e) * rng.normal(size=len(own))
        truth = {"animal": a, "pe": pe, "residual": e, "total": total}
        yield truth | {f"share[{k}]": s for k, s in zip(("animal", "pe", "residual"), shares, strict=True)}, y


@pytest.fixture(scope="module", autouse=True)
def sparse():
    with mock.patch.multiple(choice, _SMALL=-1):
        yield


def assert_within(sbc, ranks):
    for name, values in ranks.items():
        points = sbc.outside(values, L)
        print(f"{name}: {len(values)} ranks, mean {np.mean(values) / L:.3f}, {points} points outside the envelope")
        assert points == 0, name


def test_the_posterior_by_quadrature_is_calibrated(herd, sbc):
    pedigree, *_, table = herd
    ranks = {}
    for k, (truth, y) in enumerate(replicates(herd, 200, seed=2)):
        fit = flmm.find_reml(FORMULA, table.assign(y=y), known={"animal": pedigree}, progressbar=False)
        assert isinstance(fit.node.products, SparseProducts)
        draws = fit.posterior(PRIOR, random_seed=k).draws(L, random_seed=k)
        for name, value in truth.items():
            ranks.setdefault(name, []).append(int((draws[name] < value).sum()))
    assert_within(sbc, ranks)


def test_nuts_on_the_interpolated_likelihood_is_calibrated(herd, sbc):
    """Every tenth draw is nearly independent."""
    pedigree, *_, table = herd
    ranks = {}
    for k, (truth, y) in enumerate(replicates(herd, 40, seed=3)):
        model = flmm.lmm_model(FORMULA, table.assign(y=y), known={"animal": pedigree}, priors=PRIOR)
        options = {"chains": 2, "cores": 1, "progressbar": False, "quiet": True, "random_seed": k}
        posterior = flmm.sample(1000, model=model, **options).posterior
        assert "y_loglik_error" in posterior.attrs
        thinned = posterior.isel(draw=slice(None, None, 10))
        shares = thinned["share"].stack(sample=("chain", "draw")).transpose("component", "sample").to_numpy()[:, :L]
        total = thinned["total"].to_numpy().ravel()[:L]
        names = [f"share[{name}]" for name in ("animal", "pe", "residual")]
        for name, values in zip([*names, "total"], [*shares, total], strict=True):
            ranks.setdefault(name, []).append(int((values < truth[name]).sum()))
    assert_within(sbc, ranks)
