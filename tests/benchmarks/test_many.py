"""Many responses, many candidates and one point estimate, beside the matrix products that nothing can avoid."""

import tracemalloc

import numpy as np
import pytest
import scipy.linalg
from quantities import quantity

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark

US, MB = 1e6, 2.0**-20


def problem(n, T, m=None, seed=40):
    """A kinship of full rank, or of rank m, an intercept and two covariates, and T responses with h² from 0 to 1."""
    rng = np.random.default_rng([seed, n, T])
    W = rng.normal(size=(n, m or 2 * n)) / np.sqrt(m or 2 * n)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    h2 = rng.uniform(size=T)
    Y = np.sqrt(h2) * (W @ rng.normal(size=(W.shape[1], T))) + np.sqrt(1 - h2) * rng.normal(size=(n, T))
    return W, X, Y


@pytest.mark.parametrize(("n", "T", "rounds"), [(500, 10_000, 5), (1000, 10_000, 5), (2000, 4000, 3)])
def test_many_responses_beside_their_rotation(n, T, rounds, measure, report):
    W, X, Y = problem(n, T)
    spectrum = flmm.Spectrum.from_covariance(W @ W.T, X)
    rotated = spectrum.rotate(Y)
    basis = np.array(spectrum.basis)
    seconds = measure.take_turns(
        {
            "fit": measure.loop(lambda: flmm.reml(spectrum, rotated)),
            "product": measure.loop(lambda: Y.T @ basis),
            "rotate": measure.loop(lambda: spectrum.rotate(Y)),
            "posterior": measure.loop(lambda: flmm.exact_posterior(spectrum, rotated)),
        },
        rounds=rounds,
    )
    figure = f"REML of {T} responses / matrix product of their rotation, n = {n}"
    report(figure, seconds["fit"] / seconds["product"], "×")
    report(figure, US / T * seconds["product"], "µs", part="matrix product, for each response")
    report(figure, US / T * seconds["rotate"], "µs", part="rotate")
    report(figure, US / T * seconds["fit"], "µs", part="reml of what was rotated, with standard errors and β")
    report(figure, US / T * seconds["posterior"], "µs", part="exact posterior of what was rotated")
    report(figure, seconds["posterior"] / seconds["fit"], "×", part="exact posterior / reml")
    if n == 1000:
        fits = flmm.reml(spectrum, rotated)
        for name in ("h2", "sigma2_e", "loglik", "h2_se"):
            together = quantity(fits, name)
            alone = [quantity(flmm.reml(spectrum, Y[:, t]), name) for t in range(0, T, 1 if name == "h2" else 50)]
            np.testing.assert_allclose(together[:: T // len(alone)], alone, rtol=1e-9)


@pytest.mark.parametrize("n", [1000, 2000])
def test_a_scan_beside_the_rotation_of_its_candidates(n, measure, report):
    M = 5000
    W, X, Y = problem(n, 1)
    candidates = np.random.default_rng(41).binomial(2, 0.3, size=(n, M)).astype(float)
    spectrum = flmm.Spectrum.from_covariance(W @ W.T, X)
    basis = np.array(spectrum.basis)

    def scanned(**options):
        return measure.loop(lambda: flmm.scan(spectrum, Y[:, 0], candidates, progressbar=False, **options))

    seconds = measure.take_turns(
        {
            "product": measure.loop(lambda: candidates.T @ basis),
            "each": scanned(),
            "null": scanned(delta="null"),
            "lrt": scanned(test="lrt"),
        },
        rounds=3,
    )
    figure = f"scan, δ of each candidate / matrix product of their rotation, n = {n}"
    report(figure, seconds["each"] / seconds["product"], "×")
    report(figure, US / M * seconds["product"], "µs", part="matrix product, for each candidate")
    report(figure, US / M * seconds["each"], "µs", part="Wald test, δ of each candidate")
    report(figure, US / M * seconds["null"], "µs", part="Wald test, δ of the null")
    report(figure, US / M * seconds["lrt"], "µs", part="likelihood-ratio test, δ of each candidate")


@pytest.mark.parametrize(("n", "rounds"), [(500, 15), (1000, 7), (2000, 3)])
def test_a_point_estimate_beside_eigh(n, rounds, measure, report):
    W, X, Y = problem(n, 1)
    K, y = W @ W.T, Y[:, 0]
    point, fit = flmm.reml_point(K, y, X), flmm.reml(flmm.Spectrum.from_covariance(K, X), y)
    np.testing.assert_allclose([point.h2, point.loglik, *point.beta], [fit.h2, fit.loglik, *fit.beta], rtol=1e-9)
    seconds = measure.take_turns(
        {
            "point": measure.loop(lambda: flmm.reml_point(K, y, X)),
            "eigh": measure.loop(lambda: scipy.linalg.eigh(K)),
        },
        rounds=rounds,
    )
    figure = f"reml_point / eigh(K), n = {n}"
    report(figure, seconds["point"] / seconds["eigh"], "×")
    report(figure, 1e3 * seconds["point"], "ms", part="reml_point")


SCALING = [
    ("n", 500, 4000, None), ("n", 1000, 4000, None), ("n", 2000, 4000, None),
    ("T", 1000, 2500, None), ("T", 1000, 5000, None), ("T", 1000, 10_000, None),
    ("m", 2000, 4000, 100), ("m", 2000, 4000, 200), ("m", 2000, 4000, 400),
]  # fmt: skip


def test_time_and_memory_as_sizes_double(measure, report):
    earlier = {}
    for what, n, T, m in SCALING:
        W, X, Y = problem(n, T, m)
        spectrum = flmm.Spectrum.from_factor(W, X) if m else flmm.Spectrum.from_covariance(W @ W.T, X)
        rotated = spectrum.rotate(Y)
        flmm.reml(spectrum, rotated)  # what is loaded once is not counted
        tracemalloc.start()
        flmm.reml(spectrum, rotated)
        memory = tracemalloc.get_traced_memory()[1] * MB
        tracemalloc.stop()
        seconds = measure.take_turns(
            {
                "reml": measure.loop(lambda s=spectrum, r=rotated: flmm.reml(s, r)),
                "rotate": measure.loop(lambda s=spectrum, y=Y: s.rotate(y)),
                "posterior": measure.loop(lambda s=spectrum, r=rotated: flmm.exact_posterior(s, r)),
            },
            rounds=3,
        ) | {"memory of reml": np.array([memory])}
        figure = f"scaling in {what}: n = {n}, T = {T}" + (f", rank {m}" if m else "")
        report(figure, 1e3 * seconds["reml"], "ms")
        for part in ("rotate", "posterior"):
            report(figure, 1e3 * seconds[part], "ms", part=part)
        report(figure, memory, "MB", part="memory of reml")
        if what in earlier:
            for part, value in seconds.items():
                report(figure, np.median(value) / np.median(earlier[what][part]), "×", part=f"{part} / half the {what}")
        earlier[what] = seconds
