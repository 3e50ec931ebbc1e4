"""Many responses on one K, which everyone factors once beforehand; and a scan of candidate columns."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from dense import loglik
from harness import OURS, Absent, Comparison, Contestant
from one_fit import problem

import pm_fastlmm as flmm

N, RESPONSES, FEW = 500, 2000, 40  # the peers fit one response at a time, so that a few tell the time of each
CANDIDATES = 2000
MANY = "REML fits of many responses on one K that is factored beforehand: time per response"
SCAN = "Wald or likelihood-ratio test of one candidate column, δ of the null model: time per candidate"


def comparisons() -> Iterator[Comparison]:
    yield responses()
    yield scan()


def responses() -> Comparison:
    K, X, _ = problem(N)
    rng = np.random.default_rng(41)
    root = np.linalg.cholesky(K + 1e-9 * np.trace(K) / N * np.eye(N))
    share = rng.uniform(0.05, 0.9, RESPONSES)
    Y = np.sqrt(share) * (root @ rng.normal(size=(N, RESPONSES))) + np.sqrt(1 - share) * rng.normal(size=(N, RESPONSES))

    def shown(g: Any, e: Any) -> dict[str, float]:
        """Return the estimates of the response whose fit is compared, and the sum of the first few."""
        return {"sigma2_g": g[0], "sigma2_e": e[0], "sum of the first σ²_g": sum(g[:FEW])}

    def ours() -> Contestant:
        spectrum = flmm.Spectrum.from_covariance(K, X)
        return Contestant(lambda: flmm.reml(spectrum, Y), lambda fit: shown(fit.sigma2_g, fit.sigma2_e))

    def fastlmm() -> Contestant:
        from fastlmm.inference.lmm import LMM

        lmm = LMM(forcefullrank=True)
        lmm.setK(K)
        lmm.setX(X)

        def fit() -> Any:
            found = []
            for t in range(FEW):
                lmm.sety(Y[:, t])
                found.append(lmm.findH2(REML=True))
            return found

        return Contestant(
            fit, lambda f: shown([r["h2"] * r["sigma2"] for r in f], [(1 - r["h2"]) * r["sigma2"] for r in f])
        )

    def glimix_core() -> Contestant:
        from glimix_core.lmm import LMM
        from numpy_sugar.linalg import economic_qs

        QS = economic_qs(K)

        def fit() -> Any:
            found = []
            for t in range(FEW):
                lmm = LMM(Y[:, t], X, QS, restricted=True)
                lmm.fit(verbose=False)
                found.append(lmm)
            return found

        return Contestant(fit, lambda f: shown([lmm.v0 for lmm in f], [lmm.v1 for lmm in f]))

    def truth(found: Any) -> dict[str, float]:
        return {"loglik": loglik(Y[:, 0], X, found["sigma2_g"] * K + found["sigma2_e"] * np.eye(N))}

    everyone = {f"{OURS} reml": ours, "fastlmm": fastlmm, "glimix-core": glimix_core}
    per = {f"{OURS} reml": RESPONSES, "fastlmm": FEW, "glimix-core": FEW}
    return Comparison("many", MANY, {"n": N, "responses": RESPONSES}, "µs", everyone, per=per, truth=truth)


def scan() -> Comparison:
    K, X, y = problem(N)
    candidates = np.random.default_rng(42).binomial(2, 0.3, size=(N, CANDIDATES)).astype(float)

    def ours() -> Contestant:
        spectrum = flmm.Spectrum.from_covariance(K, X)

        def run() -> Any:
            return flmm.scan(spectrum, y, candidates, delta="null", progressbar=False)

        return Contestant(run, lambda found: {"effect of the first": float(found["beta"][0])})

    def glimix_core() -> Contestant:
        from glimix_core.lmm import LMM
        from numpy_sugar.linalg import economic_qs

        lmm = LMM(y, X, economic_qs(K), restricted=True)
        lmm.fit(verbose=False)
        scanner = lmm.get_fast_scanner()
        return Contestant(
            lambda: scanner.fast_scan(candidates, verbose=False),
            lambda found: {"effect of the first": found["effsizes1"][0]},
        )

    def fastlmm() -> Contestant:
        raise Absent("single_snp reads genotypes from files of its own formats and reports p-values only")

    everyone = {f"{OURS} scan": ours, "glimix-core": glimix_core, "fastlmm": fastlmm}
    per = dict.fromkeys(everyone, CANDIDATES)
    return Comparison("scan", SCAN, {"n": N, "candidates": CANDIDATES}, "µs", everyone, per=per)
