"""Log-density and gradient of y ~ N(0, σ²(K + δI)) at given σ² and δ, as a sampler calls it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from dense import logpdf
from harness import OURS, Comparison, Contestant
from one_fit import problem

import pm_fastlmm as flmm

SIZES = {200: 9, 500: 7, 1000: 5}  # rounds by n
AT = {"sigma2": 0.9, "delta": 1.2}
TITLE = "Log-density of y ~ N(0, σ²(K + δI)) with its gradient in σ² and δ"


def comparisons() -> Iterator[Comparison]:
    for n, rounds in SIZES.items():
        K, _, y = problem(n)
        yield comparison(K, y, rounds)


def comparison(K: Any, y: Any, rounds: int) -> Comparison:
    n = len(y)

    def truth(_: Any) -> dict[str, float]:
        return {"by a dense Cholesky": logpdf(y, AT["sigma2"] * (K + AT["delta"] * np.eye(n)))}

    everyone = {
        f"{OURS} FastLMM": lambda: of_pymc(fastlmm(K, y)),
        "pm.MvNormal": lambda: of_pymc(mvnormal(K, y)),
        "pm.gp.Marginal": lambda: of_pymc(gp_marginal(K, y)),
        "tinygp": lambda: tinygp(K, y),
    }
    return Comparison("density", TITLE, {"n": n}, "µs", everyone, truth=truth, rounds=rounds)


def of_pymc(model: Any, at: Any = AT) -> Contestant:
    """Return the density of the observed variables as PyTensor compiles it, with its gradient in the free ones."""
    import pytensor

    symbols = model.value_vars
    logp = model.logp(vars=model.observed_RVs, jacobian=False)
    function = pytensor.function(symbols, [logp, *pytensor.grad(logp, symbols)])
    function.trust_input = True
    point = [np.asarray(_unconstrained(model, rv, at[rv.name])) for rv in model.free_RVs]
    return Contestant(lambda: function(*point), lambda found: {"log-density": float(found[0])})


def _unconstrained(model: Any, rv: Any, value: float) -> float:
    """Return the value on the scale on which PyMC samples."""
    transform = model.rvs_to_transforms[rv]
    return value if transform is None else float(transform.forward(value, *rv.owner.inputs).eval())


def with_variances(add: Callable[[Any, Any], Any]) -> Any:
    import pymc as pm

    with pm.Model() as model:
        add(pm.HalfNormal("sigma2", 2.0), pm.HalfNormal("delta", 2.0))
    return model


def fastlmm(K: Any, y: Any) -> Any:
    spectrum = flmm.Spectrum.from_covariance(K)
    return with_variances(lambda s, d: flmm.FastLMM("y", sigma2=s, delta=d, spectrum=spectrum, observed=y))


def mvnormal(K: Any, y: Any) -> Any:
    import pymc as pm

    n = len(y)
    return with_variances(lambda s, d: pm.MvNormal("y", np.zeros(n), cov=s * (K + d * np.eye(n)), observed=y))


def gp_marginal(K: Any, y: Any) -> Any:
    import pymc as pm
    import pytensor.tensor as pt

    class Known(pm.gp.cov.Covariance):
        """The covariance function of observations 0 … n-1 whose covariance is a given matrix."""

        def __init__(self) -> None:
            super().__init__(1)

        def full(self, X: Any, Xs: Any = None) -> Any:
            return pt.constant(K)

        def diag(self, X: Any) -> Any:
            return pt.constant(np.diag(K))

    def add(sigma2: Any, delta: Any) -> None:
        gp = pm.gp.Marginal(cov_func=sigma2 * Known())
        noise = pt.sqrt(sigma2 * delta)
        gp.marginal_likelihood("y", X=np.arange(len(y))[:, None], y=y, sigma=noise, jitter=0.0)

    return with_variances(add)


def tinygp(K: Any, y: Any) -> Contestant:
    import jax
    import jax.numpy as jnp
    import tinygp

    jax.config.update("jax_enable_x64", True)
    matrix = jnp.asarray(K)

    class Known(tinygp.kernels.Kernel):  # type: ignore[misc]
        sigma2: Any

        def evaluate(self, i: Any, j: Any) -> Any:
            return self.sigma2 * matrix[i, j]

    def density(theta: Any) -> Any:
        gp = tinygp.GaussianProcess(Known(theta[0]), jnp.arange(len(y)), diag=theta[0] * theta[1])
        return gp.log_probability(y)

    function, theta = jax.jit(jax.value_and_grad(density)), jnp.array([AT["sigma2"], AT["delta"]])
    return Contestant(
        lambda: jax.block_until_ready(function(theta)), lambda found: {"log-density": float(found[0])}
    )  # fmt: skip
