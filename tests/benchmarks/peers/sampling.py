"""CPU time per effective draw of PyMC's NUTS, without compilation: the slowest parameter of each model counts."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from density import fastlmm, gp_marginal, mvnormal
from harness import OURS, build, entry
from one_fit import problem
from process import RANGE, points

import pm_fastlmm as flmm

KERNEL = "Posterior of σ² and δ of y ~ N(0, σ²(K + δI)): time per effective draw"
PROCESS = "Posterior of ℓ, σ² and σ²_e of a Matérn-3/2 process on a line: time per effective draw"
KERNEL_ROWS, PROCESS_ROWS = 100, 500
RUN = {"draws": 500, "chains": 2, "cores": 1, "progressbar": False, "quiet": True}
ROUNDS = 3


class Clock:
    """CPU time from the first draw, of tuning, to the last, as PyMC calls back after each."""

    def __init__(self) -> None:
        self.first = self.last = 0.0

    def __call__(self, **_: Any) -> None:
        self.last = time.process_time()
        self.first = self.first or self.last


@dataclass
class SamplingComparison:
    """One posterior, sampled by everyone in turn, once with each seed."""

    task: str
    title: str
    size: dict[str, int]
    names: tuple[str, ...]
    contestants: dict[str, Callable[[], Callable[[int, Clock], Any]]]
    unit: str = "ms"
    rounds: int = ROUNDS
    results: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def measure(self) -> dict[str, Any]:
        """Sample by turns; the first result, with what is compiled, is counted apart."""
        present, first, absent = build(self.contestants, lambda sample: sample(self.rounds, Clock()))
        seconds: dict[str, list[float]] = {name: [] for name in present}
        draws: dict[str, list[dict[str, float]]] = {name: [] for name in present}
        for seed in range(self.rounds):
            for name, sample in list(present.items()):
                clock = Clock()
                cost, found = self._read(sample(seed, clock), clock)
                seconds[name].append(cost)
                draws[name].append(found)
        results = {
            name: {key: float(np.mean([f[key] for f in found])) for key in found[0]} for name, found in draws.items()
        }
        return entry(self, seconds, first, results, absent)

    def _read(self, idata: Any, clock: Clock) -> tuple[float, dict[str, float]]:
        """Return seconds per effective draw, and posterior means."""
        import arviz_stats

        chosen = list(self.names)
        ess = min(float(v.min()) for v in arviz_stats.ess(idata, var_names=chosen).data_vars.values())
        means = {f"mean of {name}": float(idata.posterior[name].mean()) for name in chosen}
        divergences = float(idata.sample_stats["diverging"].sum())
        return (clock.last - clock.first) / ess, means | {"effective draws": ess, "divergences": divergences}


def comparisons() -> Iterator[SamplingComparison]:
    yield kernel()
    yield process()


def by_ours(model: Any) -> Callable[[int, Clock], Any]:
    return lambda seed, clock: flmm.sample(model=model, random_seed=seed, callback=clock, **RUN)


def by_pymc(model: Any) -> Callable[[int, Clock], Any]:
    import pymc as pm

    def sample(seed: int, clock: Clock) -> Any:
        return pm.sample(model=model, tune=500, random_seed=seed, callback=clock, nuts_sampler="pymc", **RUN)

    return sample


def kernel() -> SamplingComparison:
    K, _, y = problem(KERNEL_ROWS)
    y = y - y.mean()
    everyone = {
        f"{OURS} FastLMM, flmm.sample": lambda: by_ours(fastlmm(K, y)),
        f"{OURS} FastLMM, pm.sample": lambda: by_pymc(fastlmm(K, y)),
        "pm.MvNormal, pm.sample": lambda: by_pymc(mvnormal(K, y)),
        "pm.gp.Marginal, pm.sample": lambda: by_pymc(gp_marginal(K, y)),
    }
    return SamplingComparison("sampling_kernel", KERNEL, {"n": len(y)}, ("sigma2", "delta"), everyone)


def process() -> SamplingComparison:
    x, y = points(PROCESS_ROWS)

    def model_of(add: Any) -> Any:
        import pymc as pm

        with pm.Model() as model:
            add(pm.Uniform("lengthscale", *RANGE), pm.HalfNormal("sigma2", 3.0), pm.HalfNormal("sigma2_e", 1.0))
        return model

    def fourier() -> Any:
        basis = flmm.FourierBasis(x, "matern32", lengthscale=RANGE, noise_ratio_min=0.02)
        rows = flmm.FourierStatistics.from_arrays(basis, x, y)
        return model_of(
            lambda ell, g, e: flmm.FourierLMM("y", statistics=rows, lengthscale=ell, sigma2=g, sigma2_e=e)
        )  # fmt: skip

    def hsgp() -> Any:
        import pymc as pm
        import pytensor.tensor as pt

        def add(ell: Any, g: Any, e: Any) -> None:
            # L and m by pm.gp.hsgp_approx.approx_hsgp_hyperparams for these ranges
            m, c = pm.gp.hsgp_approx.approx_hsgp_hyperparams([0.0, 10.0], list(RANGE), "matern32")
            gp = pm.gp.HSGP(m=[m], c=c, cov_func=g * pm.gp.cov.Matern32(1, ls=ell), parametrization="noncentered")
            pm.Normal("y", gp.prior("f", X=x[:, None]), pt.sqrt(e), observed=y)

        return model_of(add)

    def celerite2() -> Any:
        import celerite2.pymc as c
        import pytensor.tensor as pt

        def add(ell: Any, g: Any, e: Any) -> None:
            gp = c.GaussianProcess(c.terms.Matern32Term(sigma=pt.sqrt(g), rho=ell, eps=1e-4), mean=0.0)
            gp.compute(x, diag=e * np.ones(len(x)), check_sorted=False)
            gp.marginal("y", observed=y)

        return model_of(add)

    everyone = {
        f"{OURS} FourierLMM, flmm.sample": lambda: by_ours(fourier()),
        f"{OURS} FourierLMM, pm.sample": lambda: by_pymc(fourier()),
        "celerite2.pymc, pm.sample": lambda: by_pymc(celerite2()),
        "pm.gp.HSGP, pm.sample": lambda: by_pymc(hsgp()),
    }
    names = ("lengthscale", "sigma2", "sigma2_e")
    return SamplingComparison("sampling_process", PROCESS, {"n": len(y)}, names, everyone)
