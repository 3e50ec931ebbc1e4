"""One REML fit from K, X and y: kinship-like K of full rank, an intercept and two covariates."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from dense import loglik
from harness import OURS, Absent, Comparison, Contestant

import pm_fastlmm as flmm

SIZES = {200: 11, 500: 9, 1000: 5, 2000: 3}  # rounds by n
SLOW = 1000  # beyond this dense average information is too slow to repeat
TITLE = "One REML fit of y ~ N(Xβ, σ²(K + δI)) from K, X and y"


def problem(n: int, seed: int = 20) -> tuple[Any, Any, Any]:
    """Return K, X and y, half of the variance explained by K."""
    rng = np.random.default_rng([seed, n])
    markers = rng.normal(size=(n, 2 * n)) + rng.normal(size=(1, 2 * n))
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    y = X @ [1.0, -0.5, 0.3] + markers @ rng.normal(size=2 * n) / np.sqrt(2 * n) + rng.normal(size=n)
    return markers @ markers.T / (2 * n), X, y


def comparisons() -> Iterator[Comparison]:
    for n, rounds in SIZES.items():
        yield comparison(n, rounds)


def comparison(n: int, rounds: int) -> Comparison:
    K, X, y = problem(n)

    def of_ours(fit: flmm.results.REMLFit) -> dict[str, float]:
        return {"sigma2_g": fit.sigma2_g, "sigma2_e": fit.sigma2_e}

    def ours() -> Contestant:
        return Contestant(lambda: flmm.reml(flmm.Spectrum.from_covariance(K, X), y), of_ours)

    def ours_point() -> Contestant:
        return Contestant(lambda: flmm.reml_point(K, y, X), of_ours)

    def statsmodels() -> Contestant:
        raise Absent("its random effects are those of groups: it takes no given K")

    def gpboost() -> Contestant:
        raise Absent("its random effects are those of groups and of coordinates: it takes no given K")

    def truth(found: Any) -> dict[str, float]:
        return {"loglik": loglik(y, X, found["sigma2_g"] * K + found["sigma2_e"] * np.eye(n))}

    everyone = {
        f"{OURS} reml": ours,
        f"{OURS} reml_point": ours_point,
        "fastlmm": lambda: fastlmm(K, X, y),
        "glimix-core": lambda: glimix_core(K, X, y),
        "torch-openreml": lambda: torch_openreml(K, X, y),
        "statsmodels": statsmodels,
        "gpboost": gpboost,
    }
    return Comparison("one_fit", TITLE, {"n": n}, "ms", everyone, truth=truth, rounds=rounds)


def fastlmm(K: Any, X: Any, y: Any) -> Contestant:
    from fastlmm.inference.lmm import LMM

    def fit() -> Any:
        lmm = LMM(forcefullrank=True)
        lmm.setK(K)
        lmm.setX(X)
        lmm.sety(y)
        return lmm.findH2(REML=True)

    return Contestant(
        fit, lambda r: {"sigma2_g": r["h2"] * r["sigma2"], "sigma2_e": (1 - r["h2"]) * r["sigma2"]}
    )  # fmt: skip


def glimix_core(K: Any, X: Any, y: Any) -> Contestant:
    from glimix_core.lmm import LMM
    from numpy_sugar.linalg import economic_qs

    def fit() -> Any:
        lmm = LMM(y, X, economic_qs(K), restricted=True)
        lmm.fit(verbose=False)
        return lmm

    return Contestant(fit, lambda lmm: {"sigma2_g": lmm.v0, "sigma2_e": lmm.v1})


def torch_openreml(K: Any, X: Any, y: Any) -> Contestant:
    import torch
    from torch_openreml import MarginalREML
    from torch_openreml.covariance import SimpleMatrix

    if len(y) > SLOW:
        raise Absent(f"left out beyond n = {SLOW} to keep the run short: it grows as n³")
    kernels = torch.stack([torch.tensor(K), torch.eye(len(y))])

    def V(theta: Any) -> Any:
        return torch.tensordot(torch.exp(theta), kernels, 1)

    def slopes(theta: Any) -> Any:
        return torch.exp(theta)[:, None, None] * kernels, ["g", "e"]

    def fit() -> Any:
        reml = MarginalREML(SimpleMatrix(2, V, manual_grad=slopes))
        return torch.exp(reml.optimize(torch.tensor(y), torch.tensor(X), torch.zeros(2))[0])

    return Contestant(fit, lambda v: {"sigma2_g": float(v[0]), "sigma2_e": float(v[1])})
