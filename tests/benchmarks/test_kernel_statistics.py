"""One pass over blocks of rows, beside the bare product AᵀA of the same blocks; a million rows and their fits."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import pm_fastlmm as flmm
from pm_fastlmm import KernelStatistics

pytestmark = pytest.mark.benchmark

ROWS = 20_000
MS = 1e3


def block(m, n=ROWS, seed=0):
    rng = np.random.default_rng([30, seed, m])
    X, W = np.column_stack([np.ones(n), rng.normal(size=(n, 2))]), rng.normal(size=(n, m)) / np.sqrt(m)
    return X, W, X @ [1.0, -0.5, 0.3] + W @ rng.normal(size=m) + rng.normal(size=n)


def passes(m):
    """Loops over blocks: sums by either route, and AᵀA of [X W y], which any method must compute."""
    parts = block(m)
    A = np.column_stack(parts)
    started = {route: KernelStatistics.from_arrays(*parts, method=route) for route in ("gram", "tsqr")}

    def updates(route):
        def run(count):
            c = started[route]
            for _ in range(count):
                c = c.update(*parts)

        return run

    def bare(count):
        total = np.zeros((A.shape[1], A.shape[1]))
        for _ in range(count):
            total += A.T @ A

    return {"gram": updates("gram"), "tsqr": updates("tsqr"), "bare": bare}


@pytest.mark.parametrize("m", [25, 50, 100, 200, 400])
def test_one_pass_beside_the_bare_product(m, measure, report):
    seconds = measure.take_turns(passes(m), rounds=5)
    figure = f"KernelStatistics / AᵀA of the same blocks, m = {m}"
    report(figure, seconds["gram"] / seconds["bare"], "×")
    report(figure, seconds["tsqr"] / seconds["bare"], "×", part="method='tsqr' / AᵀA")
    report(figure, 1e6 / ROWS * seconds["gram"], "s", part="a million rows")
    report(figure, 1e6 / ROWS * seconds["tsqr"], "s", part="a million rows, method='tsqr'")


def test_twice_the_rows_and_twice_the_columns(measure, report):
    rows = {n: block(100, n) for n in (100_000, 200_000)}
    loops = {n: measure.loop(lambda parts=parts: KernelStatistics.from_arrays(*parts)) for n, parts in rows.items()}
    seconds = measure.take_turns(loops, rounds=5)
    report("KernelStatistics, n = 200 000 / n = 100 000, m = 100", seconds[200_000] / seconds[100_000], "×")
    columns = {m: block(m) for m in (100, 200)}
    loops = {m: measure.loop(lambda parts=parts: KernelStatistics.from_arrays(*parts)) for m, parts in columns.items()}
    seconds = measure.take_turns(loops, rounds=5)
    report("KernelStatistics, m = 200 / m = 100", seconds[200] / seconds[100], "×")


def test_fits_of_a_million_rows(measure, report):
    c = KernelStatistics.from_arrays(*block(100))
    for seed in range(1, 50):
        c = c.update(*block(100, seed=seed))
    spectrum, rotated = c.factor()
    assert spectrum.n == 1_000_000
    assert flmm.reml(spectrum, rotated).converged
    seconds = measure.take_turns(
        {
            "factor": measure.loop(c.factor),
            "reml": measure.loop(lambda: flmm.reml(spectrum, rotated)),
            "exact": measure.loop(lambda: flmm.exact_posterior(spectrum, rotated)),
        },
        rounds=5,
    )
    figure = "reml of a million rows from their cross-products, m = 100"
    report(figure, MS * seconds["reml"], "ms")
    report(figure, MS * seconds["factor"], "ms", part="factor")
    report(figure, MS * seconds["exact"], "ms", part="exact_posterior")

    def sample():
        with flmm.kernel_model(rotated, spectrum=spectrum):
            flmm.sample(random_seed=1, cores=1, progressbar=False, quiet=True, compute_convergence_checks=False)

    sample()
    report(figure, measure.wall(sample, rounds=3), "s", part="sample, 4 × 1000 draws, compiled before")


MEMORY = textwrap.dedent("""
    import json, resource, sys, time
    import numpy as np
    from pm_fastlmm import KernelStatistics

    def block(seed, n=20_000, m=100):
        rng = np.random.default_rng(seed)
        return np.ones((n, 1)), rng.normal(size=(n, m)), rng.normal(size=n)

    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    c = KernelStatistics.from_blocks([block(0)], progressbar=False)
    one = peak()
    c = KernelStatistics.from_blocks((block(seed) for seed in range(50)), progressbar=False)
    print(json.dumps({"n": c.n, "one": one, "all": peak()}))
""")


def test_memory_of_a_million_rows(report):
    """In a process of its own, whose peak nothing else has raised."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert found["n"] == 1_000_000
    figure = "peak memory of a process, a million rows in 50 blocks / one block, m = 100"
    report(figure, found["all"] / found["one"], "×")
    report(figure, found["all"], "MB", part="a million rows, which are 808 MB as floats")
    report(figure, found["one"], "MB", part="one block, the libraries included")
