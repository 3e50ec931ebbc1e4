"""The posterior with Fourier features is that with the dense kernel: importance weights of its draws are all alike."""

import numpy as np
import pymc as pm
import pytest

import pm_fastlmm as flmm

pytestmark = pytest.mark.slow

DRAWS = 60


def posterior(case):
    statistics = flmm.FourierStatistics.from_arrays(case.basis, case.x, case.y, case.X)
    with pm.Model() as model:
        ell = pm.Uniform("ell", *case.basis.lengthscale)
        sigma2, sigma2_e = pm.Uniform("sigma2", 0, 2), pm.Uniform("sigma2_e", 0.2, 0.5)  # ratios the basis is made for
        flmm.FourierLMM("y", statistics=statistics, lengthscale=ell, sigma2=sigma2, sigma2_e=sigma2_e)
        idata = flmm.sample(1000, chains=2, random_seed=3, progressbar=False, quiet=True)
    names = ["ell", "sigma2", "sigma2_e"]
    draws = np.column_stack([idata.posterior[name].to_numpy().ravel() for name in names])
    spectra = flmm.lmm_nodes(model)[0].spectra
    return draws, spectra.loglik(*draws.T)


@pytest.mark.parametrize(("name", "n"), [
    ("se", 500), ("matern52", 500), ("matern32", 500), ("2-D se", 500), ("2-D matern52", 500),
    ("se", 2000), ("matern52", 2000), ("matern32", 1500), ("2-D se", 2000),
])  # fmt: skip
def test_importance_weights_leave_the_posterior_as_it_is(name, n, oracle, fourier_cases, capsys):
    case = fourier_cases.make(name, n=n)
    draws, loglik = posterior(case)
    sd = draws.std(axis=0)
    chosen = np.linspace(0, len(draws) - 1, DRAWS).astype(int)
    dense = np.array([
        oracle.Dense(fourier_cases.correlation(case.kernel, case.x, case.x, ell), case.X, case.y, g, e).loglik_reml
        for ell, g, e in draws[chosen]
    ])  # fmt: skip
    gap = dense - loglik[chosen]
    weights = np.exp(gap - gap.max())
    weights /= weights.sum()
    effective = 1 / (weights @ weights) / DRAWS
    shift = np.abs(weights @ draws[chosen] - draws[chosen].mean(axis=0)) / sd
    with capsys.disabled():
        print(
            f"\n{name}, n = {n}, {case.basis.size} features: log-likelihoods differ by {np.abs(gap).max():.2g}, "
            f"{effective:.2%} of the weighted draws are effective, means move by {shift.max():.2g} sd"
        )
    assert np.var(gap) / 2 < 0.01  # divergence of the two posteriors; the basis promises 0.01 for the whole likelihood
    assert effective > 0.99
    assert shift.max() < 0.02
