"""Fourier features beside HSGP (time per effective draw), and beside tinygp and celerite2 (the same likelihood)."""

import arviz_stats
import numpy as np
import pymc as pm
import pytest

import pm_fastlmm as flmm
from pm_fastlmm.engines.fourier.likelihood import fourier_spectra

pytestmark = pytest.mark.benchmark

ROWS = 5000
LENGTHSCALE = (0.3, 2.0)
NAMES = ["ell", "sigma", "sigma_e"]
ROUNDS = 2
SAMPLED = 1000  # rows of the model that HSGP samples too


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(4)
    x = np.sort(rng.uniform(0, 10, size=ROWS))
    return x, np.sin(x) + 0.4 * np.sin(3.1 * x) + 0.5 * rng.normal(size=ROWS)


def priors():
    return pm.Uniform("ell", *LENGTHSCALE), pm.HalfNormal("sigma", 2), pm.HalfNormal("sigma_e", 1)


def fourier(x, y):
    basis = flmm.FourierBasis(x, "matern52", lengthscale=LENGTHSCALE, domain=(0, 10), noise_ratio_min=0.02)
    with pm.Model() as model:
        ell, sigma, sigma_e = priors()
        flmm.FourierLMM(
            "y",
            statistics=flmm.FourierStatistics.from_arrays(basis, x, y),
            lengthscale=ell,
            sigma2=sigma**2,
            sigma2_e=sigma_e**2,
        )
    return model


def hilbert(x, y):
    """HSGP as its documentation recommends: m and c for the range of lengthscales, centred where data are strong."""
    m, c = pm.gp.hsgp_approx.approx_hsgp_hyperparams(
        x_range=[0, 10], lengthscale_range=list(LENGTHSCALE), cov_func="matern52"
    )
    with pm.Model() as model:
        ell, sigma, sigma_e = priors()
        gp = pm.gp.HSGP(m=[m], c=c, parametrization="centered", cov_func=sigma**2 * pm.gp.cov.Matern52(1, ls=ell))
        pm.Normal("y", gp.prior("f", X=x[:, None]), sigma_e, observed=y)
    return model


@pytest.mark.filterwarnings("ignore:Cannot cache compiled function")  # large constants in the graph of HSGP
@pytest.mark.filterwarnings("ignore:overflow encountered")  # and its first steps
def test_time_per_effective_draw_beside_hsgp(data, report):
    """The time that PyMC records for tuning and draws, without what it compiles; each as its users call it."""
    x, y = (part[:: ROWS // SAMPLED] for part in data)
    models = {"FourierLMM": fourier(x, y), "HSGP": hilbert(x, y)}
    cost, means = {name: [] for name in models}, {name: [] for name in models}
    for seed in range(ROUNDS):
        for name, model in models.items():
            draw = flmm.sample if name == "FourierLMM" else pm.sample
            idata = draw(
                300, model=model, random_seed=seed, nuts_sampler="pymc", chains=2, cores=1, progressbar=False,
                quiet=True,
            )  # fmt: skip
            ess = min(float(v.min()) for v in arviz_stats.ess(idata, var_names=NAMES).data_vars.values())
            cost[name].append(1e3 * idata.sample_stats.attrs["sampling_time"] / ess)
            means[name].append([float(idata.posterior[v].mean()) for v in NAMES])
    figure = f"PyMC's NUTS, a Gaussian process over {SAMPLED} rows, per effective draw"
    for name, values in cost.items():
        report(figure + f", {name}", values, "ms")
    report(figure + ", HSGP", np.array(cost["HSGP"]) / cost["FourierLMM"], "times", part="as long as FourierLMM")
    assert np.mean(means["FourierLMM"], axis=0) == pytest.approx(np.mean(means["HSGP"], axis=0), rel=0.15)


def interpolated(x, y, kernel):
    basis = flmm.FourierBasis(x, kernel, lengthscale=LENGTHSCALE, domain=(0, 10), noise_ratio_min=0.05)
    return basis, fourier_spectra(
        flmm.FourierStatistics.from_arrays(basis, x, y).project(),
        basis,
        delta_min=basis.noise_ratio_min,
    )


def test_the_likelihood_is_that_of_tinygp_and_an_evaluation_costs_less(data, report, measure):
    pytest.importorskip("tinygp")
    import jax
    from tinygp import GaussianProcess
    from tinygp.kernels import quasisep

    x, y = data
    jax.config.update("jax_enable_x64", True)

    def loglik(parameters):
        ell, g, e = parameters
        return GaussianProcess(g * quasisep.Matern52(scale=ell), x, diag=e).log_probability(y)

    peer = jax.jit(jax.value_and_grad(loglik))
    basis, spectra = interpolated(x, y, "matern52")
    error = 3 * np.sqrt(2 * basis.divergence) + basis.divergence
    for point in ((0.7, 1.0, 0.25), (1.5, 0.5, 0.3)):
        assert spectra.loglik(*point) == pytest.approx(float(peer(np.array(point))[0]), abs=error)
    at = np.array([0.7, 1.0, 0.25])
    seconds = measure.take_turns(
        {
            "FourierLMM": measure.loop(lambda: spectra.value_and_gradient(*at)),
            "tinygp": measure.loop(lambda: jax.block_until_ready(peer(at))),
        },
        rounds=5,
    )
    figure = f"value and gradient, a Matérn-5/2 process over {ROWS} rows"
    for name, values in seconds.items():
        report(f"{figure}, {name}", 1e6 * values, "µs")
    report(f"{figure}, tinygp", seconds["tinygp"] / seconds["FourierLMM"], "times", part="as long as FourierLMM")


def test_the_likelihood_is_that_of_celerite2(data, report, measure):
    celerite2 = pytest.importorskip("celerite2")
    x, y = data
    basis, spectra = interpolated(x, y, "matern32")
    gp = celerite2.GaussianProcess(celerite2.terms.Matern32Term(sigma=1.0, rho=0.7, eps=1e-5), mean=0.0)

    def evaluate():
        gp.compute(x, diag=np.full(ROWS, 0.25))
        return gp.log_likelihood(y)

    error = 3 * np.sqrt(2 * basis.divergence) + basis.divergence
    assert spectra.loglik(0.7, 1.0, 0.25) == pytest.approx(evaluate(), abs=error)
    seconds = measure.take_turns(
        {
            "FourierLMM": measure.loop(lambda: spectra.loglik(0.7, 1.0, 0.25)),
            "celerite2": measure.loop(evaluate),
        },
        rounds=5,
    )
    figure = f"value without gradient, a Matérn-3/2 process over {ROWS} rows"
    for name, values in seconds.items():
        report(f"{figure}, {name}", 1e6 * values, "µs")
    report(f"{figure}, celerite2", seconds["celerite2"] / seconds["FourierLMM"], "times", part="as long as FourierLMM")
