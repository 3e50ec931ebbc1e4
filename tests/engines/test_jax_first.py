"""JAX as the first thing that a process does with a node: nothing has to run before it."""

import numpy as np
import pymc as pm
import pytest

import pm_fastlmm as flmm

N = 12
GROUP, DAY, TIME = np.repeat(list("abcd"), 3), np.tile(list("xyz"), 4), np.linspace(0, 1, N)
X = np.column_stack([np.ones(N), TIME**2])
Y = 3 + np.sin(np.arange(N)) + TIME
UNIFORM = {"lengthscale": (0.2, 1.0), "progressbar": False}


def structured():
    group, day = (flmm.covariance.scalar(pm.HalfNormal(name)) for name in ("v_group", "v_day"))
    terms = [flmm.Term(GROUP, group, name="group"), flmm.Term(DAY, day, name="day")]
    slope = pm.Normal("slope")
    data = pm.Data("data", Y)
    flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=pm.HalfNormal("e"), mu=slope * TIME, observed=data)


def structured_with_coefficients():
    terms = [flmm.Term(GROUP, flmm.covariance.scalar(pm.HalfNormal("v")), name="group")]
    terms += [flmm.Term(DAY, flmm.covariance.scalar(1.0), name="day")]
    flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=pm.HalfNormal("e"), beta_cov=np.eye(2), observed=Y)


def dense():
    V = flmm.covariance.ar1(pm.HalfNormal("v"), pm.Uniform("rho", -1, 1), size=N)
    flmm.DenseLMM("y", X=X, V=V, observed=Y)


def with_lengthscale():
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(TIME, X=X, **UNIFORM)
    variances = {"sigma2_g": pm.HalfNormal("g"), "sigma2_e": pm.HalfNormal("e")}
    flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=pm.Uniform("ell", 0.3, 0.9), observed=Y, **variances)


def fourier_statistics():
    basis = flmm.FourierBasis(lengthscale=(0.2, 1.0), domain=(0, 1), n=N, noise_ratio_min=0.1)
    return flmm.FourierStatistics.from_arrays(basis, TIME, Y, X)


def fourier():
    variances = {"sigma2": pm.HalfNormal("g"), "sigma2_e": pm.HalfNormal("e")}
    flmm.FourierLMM("y", statistics=fourier_statistics(), lengthscale=pm.Uniform("ell", 0.3, 0.9), **variances)


def fourier_kernel():
    kernel = pm.HalfNormal("g") * pm.gp.cov.Matern52(1, ls=pm.Uniform("ell", 0.3, 0.9))
    flmm.FourierLMM("y", statistics=fourier_statistics(), kernel=kernel, sigma2_e=pm.HalfNormal("e"))


def spectral():
    spectrum = flmm.Spectrum.from_factor(flmm.covariance.incidence(GROUP).Z.toarray(), X)
    variances = {"sigma2_g": pm.HalfNormal("g"), "sigma2_e": pm.HalfNormal("e")}
    flmm.FastLMM("y", spectrum=spectrum, observed=Y, beta=pm.Normal("beta", 0, 1, shape=2), **variances)


def traits(gaps=0):
    spectrum = flmm.Spectrum.from_factor(flmm.covariance.incidence(GROUP).Z.toarray(), X)
    v, data = pm.HalfNormal("v"), np.vstack([Y, 2 * Y[::-1] + TIME])
    data[0, :gaps] = np.nan
    sigma_g, sigma_e = v * np.array([[1.0, 0.4], [0.4, 0.7]]), flmm.covariance.diagonal(pm.HalfNormal("e", shape=2))
    beta = pm.Normal("beta", 0, 1, shape=(2, 2))
    flmm.MatrixLMM("y", spectrum=spectrum, Sigma_g=sigma_g, Sigma_e=sigma_e, beta=beta, observed=data)


def traits_with_gaps():
    traits(gaps=2)


ALL = (
    structured, structured_with_coefficients, dense, with_lengthscale, fourier, fourier_kernel, spectral, traits,
    traits_with_gaps,
)  # fmt: skip


@pytest.fixture(scope="module")
def models():
    out = {}
    for build in ALL:
        with pm.Model() as out[build.__name__]:
            build()
    return out


DENSITIES = """
import pytensor
warnings.filterwarnings("ignore", "Skipping Check")
result = {}
for name, model in models.items():
    values, logp = model.value_vars, model.logp(vars=[model["y"]])
    outputs = [logp, *pytensor.grad(logp, values, disconnected_inputs="ignore")]
    point = [value + 0.2 for value in model.initial_point().values()]
    functions = [pytensor.function(values, outputs, mode=mode, on_unused_input="ignore") for mode in ("JAX", "NUMBA")]
    result[name] = [[np.asarray(out) for out in function(*point)] for function in functions]
"""


def test_densities_and_gradients_are_those_without_jax(models, run_in_new_process):
    for name, (by_jax, other) in run_in_new_process(DENSITIES, models).items():
        for found, expected in zip(by_jax, other, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12, err_msg=name)


DRAWS = """
warnings.filterwarnings("ignore", "draws of .* are error contrasts")
warnings.filterwarnings("ignore", "The RandomType SharedVariables")
result = {}
for name, model in models.items():
    model = pm.do(model, {rv.name: 0.5 * np.ones(rv.type.shape) for rv in model.free_RVs})
    result[name] = [np.asarray(pm.draw(model["y"], 2000, mode=mode, random_seed=1)) for mode in ("JAX", None)]
"""


def test_draws_have_the_moments_of_those_without_jax(models, run_in_new_process):
    names = ("structured", "dense", "with_lengthscale", "spectral", "traits")
    for name, (drawn, other) in run_in_new_process(DRAWS, {name: models[name] for name in names}).items():
        sd = other.std(axis=0)
        np.testing.assert_array_less(np.abs(drawn.mean(axis=0) - other.mean(axis=0)), 6 * sd * np.sqrt(2 / 2000))
        np.testing.assert_allclose(drawn.std(axis=0), sd, rtol=0.12, err_msg=name)


SAMPLED = """
quiet = {"progressbar": False, "quiet": True, "chains": 1, "random_seed": 1, "compute_convergence_checks": False}
result = {}
for name, model in models.items():
    idata = pm.sample(20, tune=20, model=model, nuts_sampler=options["sampler"], **options["more"], **quiet)
    result[name] = idata.sample_stats["lp" if "lp" in idata.sample_stats else "logp"].values
"""


@pytest.mark.parametrize(
    ("sampler", "more"),
    [
        ("numpyro", {}),
        ("nutpie", {"backend": "jax"}),
        ("nutpie", {"backend": "jax", "compile_kwargs": {"gradient_backend": "jax"}}),
    ],
    ids=["numpyro", "nutpie", "nutpie with gradients by JAX"],
)
def test_pymc_samples_by_jax(models, run_in_new_process, sampler, more):
    names = ("dense", "traits") if more else ("structured", "fourier", "traits_with_gaps")
    found = run_in_new_process(SAMPLED, {name: models[name] for name in names}, sampler=sampler, more=more)
    assert all(np.isfinite(lp).all() and np.ptp(lp) > 0 for lp in found.values())
