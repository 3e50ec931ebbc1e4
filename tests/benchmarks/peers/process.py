"""A Gaussian process on a line with a Matérn-3/2 kernel whose lengthscale is a parameter: log-density and gradient."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from dense import logpdf
from density import of_pymc
from harness import OURS, Absent, Comparison, Contestant

import pm_fastlmm as flmm

SIZES = {300: 9, 1000: 5, 10_000: 5, 100_000: 3}  # rounds by n
DENSE = 1000  # rows up to which K is factored
RANGE = (0.5, 2.0)
AT = {"lengthscale": 1.0, "sigma2": 1.0, "sigma2_e": 0.25}
ELSEWHERE = {"lengthscale": 1.5, "sigma2": 0.8, "sigma2_e": 0.3}
TITLE = "Matérn-3/2 process at points on a line: log-density with its gradient in ℓ, σ² and σ²_e"
DIFFERENCE = "log-density here less elsewhere"


def points(n: int) -> tuple[Any, Any]:
    """Return n irregular points of (0, 10) in order, and noisy values of a smooth function."""
    rng = np.random.default_rng([43, n])
    x = np.sort(rng.uniform(0, 10, n))
    return x, np.sin(2 * x) + 0.5 * rng.normal(size=n)


def matern32(x: Any, lengthscale: float) -> Any:
    a = np.sqrt(3) * np.abs(x[:, None] - x) / lengthscale
    return (1 + a) * np.exp(-a)


def comparisons() -> Iterator[Comparison]:
    for n, rounds in SIZES.items():
        yield comparison(*points(n), rounds)


def comparison(x: Any, y: Any, rounds: int) -> Comparison:
    n = len(y)

    def truth(_: Any) -> dict[str, float]:
        if n > DENSE:
            return {}
        here, there = (
            logpdf(y, at["sigma2"] * matern32(x, at["lengthscale"]) + at["sigma2_e"] * np.eye(n))
            for at in (AT, ELSEWHERE)
        )
        return {"by a dense Cholesky": here - there}

    everyone = {
        f"{OURS} FourierLMM": lambda: fourier(x, y),
        f"{OURS} LengthscaleLMM": lambda: with_lengthscale(x, y),
        "celerite2": lambda: celerite2(x, y),
        "tinygp": lambda: tinygp(x, y),
        "pm.gp.Marginal": lambda: gp_marginal(x, y),
        "scikit-learn": lambda: scikit_learn(x, y),
    }
    return Comparison("process", TITLE, {"n": n}, "µs", everyone, truth=truth, rounds=rounds)


def require_small(y: Any) -> None:
    if len(y) > DENSE:
        raise Absent(f"left out beyond n = {DENSE} to keep the run short: it factors K, at O(n³)")


def of_model(add: Any) -> Contestant:
    """Return the compiled density of a model with ℓ, σ² and σ²_e; it is read as a difference, free of constants."""
    import pymc as pm

    with pm.Model() as model:
        add(pm.Uniform("lengthscale", *RANGE), pm.HalfNormal("sigma2", 5.0), pm.HalfNormal("sigma2_e", 5.0))
    here, there = of_pymc(model, AT), of_pymc(model, ELSEWHERE)
    return Contestant(here.call, lambda found: {DIFFERENCE: float(found[0]) - float(there.call()[0])})


def fourier(x: Any, y: Any) -> Contestant:
    basis = flmm.FourierBasis(x, "matern32", lengthscale=RANGE, noise_ratio_min=0.1)
    rows = flmm.FourierStatistics.from_arrays(basis, x, y)
    return of_model(
        lambda ell, g, e: flmm.FourierLMM("y", statistics=rows, lengthscale=ell, sigma2=g, sigma2_e=e)
    )  # fmt: skip


def with_lengthscale(x: Any, y: Any) -> Contestant:
    require_small(y)
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(x, "matern32", lengthscale=RANGE, progressbar=False)

    def add(ell: Any, g: Any, e: Any) -> None:
        flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=y)

    return of_model(add)


def gp_marginal(x: Any, y: Any) -> Contestant:
    require_small(y)

    def add(ell: Any, g: Any, e: Any) -> None:
        import pymc as pm
        import pytensor.tensor as pt

        gp = pm.gp.Marginal(cov_func=g * pm.gp.cov.Matern32(1, ls=ell))
        gp.marginal_likelihood("y", X=x[:, None], y=y, sigma=pt.sqrt(e), jitter=0.0)

    return of_model(add)


def celerite2(x: Any, y: Any) -> Contestant:
    import celerite2.jax as c
    import jax.numpy as jnp

    def density(theta: Any) -> Any:
        kernel = c.terms.Matern32Term(sigma=jnp.sqrt(theta[1]), rho=theta[0], eps=1e-4)
        gp = c.GaussianProcess(kernel, mean=0.0)
        gp.compute(x, diag=theta[2] * jnp.ones(len(y)), check_sorted=False)
        return gp.log_likelihood(y)

    return of_jax(density)


def tinygp(x: Any, y: Any) -> Contestant:
    import tinygp as t

    def density(theta: Any) -> Any:
        kernel = theta[1] * t.kernels.quasisep.Matern32(scale=theta[0])
        return t.GaussianProcess(kernel, x, diag=theta[2]).log_probability(y)

    return of_jax(density)


def of_jax(density: Any) -> Contestant:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    function = jax.jit(jax.value_and_grad(density))
    here, there = (jnp.array([at["lengthscale"], at["sigma2"], at["sigma2_e"]]) for at in (AT, ELSEWHERE))
    return Contestant(
        lambda: jax.block_until_ready(function(here)),
        lambda found: {DIFFERENCE: float(found[0]) - float(function(there)[0])},
    )


def scikit_learn(x: Any, y: Any) -> Contestant:
    require_small(y)
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel(1.0) * Matern(length_scale=1.0, nu=1.5) + WhiteKernel(0.25)
    gp = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(x[:, None], y)
    here, there = (np.log([at["sigma2"], at["lengthscale"], at["sigma2_e"]]) for at in (AT, ELSEWHERE))
    return Contestant(
        lambda: gp.log_marginal_likelihood(here, eval_gradient=True, clone_kernel=False),
        lambda found: {DIFFERENCE: float(found[0]) - float(gp.log_marginal_likelihood(there))},
    )
