"""
Compare the time of an evaluation of log p with its gradient, and of REML, between two checkouts.

    python tests/house/evaluation_ratio.py /path/to/earlier /path/to/later [beginnings of names]

One process for each checkout; short batches alternate between them, so that both meet the same machine. A ratio is that
of the later to the earlier: of the least CPU time of a batch, and the median over pairs of neighbouring batches with
three standard errors. The exit status is 1 if both are above 1.02 by more than these. The noise is what a checkout has
against itself.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

BATCH = 0.03  # seconds
ALLOWED = 1.02
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


# ---------------------------------------------------------------- what is timed, in a worker


def public(*names):
    """Return the first of these that the package has: a later name, and the earlier one."""
    import pm_fastlmm as flmm

    return next(getattr(flmm, name) for name in names if hasattr(flmm, name))


def data(n):
    """Rows with a design, two crossed factors and a coordinate."""
    rng = np.random.default_rng(n)
    X, x = np.column_stack([np.ones(n), rng.normal(size=n)]), np.sort(rng.uniform(size=n))
    g, h = rng.integers(0, n // 10, size=n), rng.integers(0, n // 25, size=n)
    y = X @ [1.0, 2.0] + rng.normal(size=n // 10)[g] + rng.normal(size=n // 25)[h] + np.sin(9 * x) + rng.normal(size=n)
    K = np.exp(-8 * np.abs(np.subtract.outer(x, x))) if n <= 500 else None
    return SimpleNamespace(n=n, X=X, x=x, g=g, h=h, y=y, K=K)


def with_gradient(build):
    """Compile log p and its gradient."""
    import pymc as pm

    with pm.Model() as model:
        build(pm)
    function, at = model.logp_dlogp_function(ravel_inputs=True), np.full(len(model.free_RVs), 0.1)
    return lambda: function(at)


def kernel(d):
    """One known K."""
    spectrum = public("Spectrum").from_covariance(d.K, d.X)
    return with_gradient(lambda pm: public("FastLMM")(
        "y", spectrum=spectrum, sigma2_g=pm.HalfNormal("g"), sigma2_e=pm.HalfNormal("e"), observed=d.y
    ))  # fmt: skip


def crossed(d):
    """Two crossed factors."""
    from pm_fastlmm.covariance import scalar

    def build(pm):
        terms = [public("Term")(by, scalar(pm.HalfNormal(name)), name=name) for name, by in (("g", d.g), ("h", d.h))]
        public("StructuredLMM")("y", X=d.X, terms=terms, sigma2_e=pm.HalfNormal("e"), observed=d.y)

    return with_gradient(build)


def lengthscale(d):
    """A kernel with a lengthscale."""
    options = {"lengthscale": (0.1, 1.0), "X": d.X, "progressbar": False}
    spectrum = public("LengthscaleSpectrum", "SpectrumFamily").from_coordinates(d.x, "matern52", **options)
    return with_gradient(lambda pm: public("LengthscaleLMM", "FamilyLMM")(
        "y", spectrum=spectrum, lengthscale=pm.Uniform("ell", 0.1, 1.0), sigma2_g=pm.HalfNormal("g"),
        sigma2_e=pm.HalfNormal("e"), observed=d.y,
    ))  # fmt: skip


def dense(d):
    """A covariance that is an expression."""
    return with_gradient(lambda pm: public("DenseLMM")(
        "y", X=d.X, V=pm.HalfNormal("g") * d.K + pm.HalfNormal("e") * np.eye(d.n), observed=d.y
    ))  # fmt: skip


def fourier(d):
    """A Gaussian process on Fourier features."""
    basis = public("FourierBasis")(d.x, "matern52", lengthscale=(0.1, 1.0), noise_ratio_min=0.1)
    statistics = public("FourierStatistics").from_arrays(basis, d.x, d.y, d.X)
    return with_gradient(lambda pm: public("FourierLMM")(
        "y", statistics=statistics, lengthscale=pm.Uniform("ell", 0.1, 1.0), sigma2=pm.HalfNormal("g"),
        sigma2_e=pm.HalfNormal("e"),
    ))  # fmt: skip


def factored(d):
    """Factoring K and X, and REML."""
    return lambda: public("reml")(public("Spectrum").from_covariance(d.K, d.X), d.y)


def estimated(d):
    """REML of a response whose K is factored."""
    spectrum = public("Spectrum").from_covariance(d.K, d.X)
    return lambda: public("reml")(spectrum, d.y)


CASES = {
    "kernel, n = 500": (kernel, 500),
    "crossed, n = 500": (crossed, 500),
    "crossed, n = 2000": (crossed, 2000),
    "lengthscale, n = 200": (lengthscale, 200),
    "dense, n = 200": (dense, 200),
    "fourier, n = 2000": (fourier, 2000),
    "spectrum and reml, n = 300": (factored, 300),
    "reml, n = 300": (estimated, 300),
}


def work():
    """Answer lines on stdin: a name alone prepares its case, with a count it is run as often and timed."""
    sys.path.pop(0)
    import warnings

    warnings.simplefilter("ignore")
    for line in sys.stdin:
        name, count = line.rstrip("\n").split("\t")
        if not int(count):
            make, n = CASES[name]
            call = make(data(n))
            call()
            print("ready", flush=True)
            continue
        start = time.process_time()
        for _ in range(int(count)):
            call()
        print(time.process_time() - start, flush=True)


# ---------------------------------------------------------------- the comparison


class Worker:
    """A process with the package of one checkout."""

    def __init__(self, checkout):
        environment = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": str(checkout.resolve())}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work"], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, name, count=0):
        self.process.stdin.write(f"{name}\t{count}\n")
        self.process.stdin.flush()
        if not (answer := self.process.stdout.readline()):
            raise SystemExit(f"the process of {name!r} ended")
        return answer if count == 0 else float(answer)


def compare(name, old, new, rounds):
    """Return least times and the ratios of pairs of batches."""
    for worker in (old, new):
        worker.ask(name)
    once = old.ask(name, 3) / 3
    count = max(1, round(BATCH / max(once, 1e-6)))
    times = []
    for i in range(rounds):
        order = (old, new) if i % 2 else (new, old)
        pair = {worker: worker.ask(name, count) / count for worker in order}
        times.append((pair[old], pair[new]))
    times = np.array(times)
    return times.min(0), times[:, 1] / times[:, 0]


def main():
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("only", nargs="*")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    old, new = Worker(arguments.old), Worker(arguments.new)
    slower = 0
    for name in CASES:
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        least, ratios = compare(name, old, new, arguments.rounds)
        median, ratio = np.median(ratios), least[1] / least[0]
        error = 3 * 1.2533 * 1.4826 * np.median(np.abs(ratios - median)) / np.sqrt(len(ratios))
        bad = bool(min(median, ratio) > ALLOWED + error)
        slower += bad
        print(f"{name:28s} {1e6 * least[0]:9.1f} us -> {1e6 * least[1]:9.1f} us  least {ratio:.3f}  "
              f"median {median:.3f} +- {error:.3f}{'  SLOWER' * bad}", flush=True)  # fmt: skip
    for worker in (old, new):
        worker.process.stdin.close()
        worker.process.wait()
    return 1 if slower else 0


if __name__ == "__main__":
    if "--work" in sys.argv:
        work()
    else:
        sys.exit(main())
