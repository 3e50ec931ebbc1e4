"""Problems that an error of sign, transpose or index cannot survive, the dense oracle, and the reference files."""

import csv
import gc
import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

# PyTensor folds constants in Python: to compile C for them takes longer than all of them
os.environ["PYTENSOR_FLAGS"] = ",".join(filter(None, (os.environ.get("PYTENSOR_FLAGS"), "cxx=")))

from pm_fastlmm import FourierStatistics, Spectrum  # imports PyTensor

HERE = Path(__file__).parent
# the first registers a rewriting when it is imported, and tests import it; the others are scripts that tests run
collect_ignore = ["as_written.py", "users/modeller.py", "users/ecologist.py", "users/geneticist.py"]


def pytest_collection_finish():
    """What was imported and collected stays to the end: the garbage collector need not walk it again and again."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def as_written(monkeypatch):
    """Graphs are evaluated as written where no mode is given: for tests of few values, not of compiled code."""
    from as_written import AS_WRITTEN
    from pytensor import config
    from pytensor.compile.mode import predefined_modes

    monkeypatch.setitem(predefined_modes, config.mode.upper(), AS_WRITTEN)


@pytest.fixture(scope="session")
def oracle():
    return _load(HERE / "oracle.py")


@pytest.fixture(scope="session")
def sample_by_numpyro():
    return _load(HERE / "numpyro_process.py").sample_by_numpyro


@pytest.fixture(scope="session")
def run_in_new_process():
    return _load(HERE / "jax_process.py").run_in_new_process


@pytest.fixture(scope="session")
def lengthscales():
    """A kernel over a range of lengthscales, with data: `Example()`, RANGE, `matern52`."""
    return _load(HERE / "lengthscales.py")


@pytest.fixture(scope="session")
def structures():
    """Random sets of terms with dense matrices: `Structured(kinds, …)`, `basis`, `exact_loglik`."""
    return _load(HERE / "structures.py")


@pytest.fixture(scope="session")
def build_terms(structures, oracle):
    def build(*kinds, **kwargs):
        return structures.Structured(kinds, oracle=oracle, **kwargs)

    return build


@pytest.fixture(scope="session")
def cases():
    return _load(HERE / "reference" / "cases.py")


@pytest.fixture(scope="session")
def mvlmm():
    """Three traits of one kinship, `data()`, which GEMMA fitted."""
    return _load(HERE / "reference" / "make_mvlmm.py")


@pytest.fixture(scope="session")
def reference():
    """The reference files: `json(name)` and `table(name)`, columns as float arrays where they are numbers."""

    def read_json(name):
        return json.loads((HERE / "reference" / name).read_text())

    def read_table(name):
        with (HERE / "reference" / name).open(newline="") as file:
            rows = list(csv.DictReader(file))

        def column(values):
            try:
                return np.array(values, dtype=float)
            except ValueError:
                return np.array(values)

        return {key: column([row[key] for row in rows]) for key in rows[0]}

    return SimpleNamespace(json=read_json, table=read_table)


def make_problem(kind, seed=17, n=23):
    """y, X (three columns of different size, oblique), an uncentred K that reaches into the span of X, and new rows."""
    rng = np.random.default_rng([seed, n])
    time = np.linspace(0, 1, n) ** 2
    X = np.column_stack([np.ones(n), 40 * time + rng.normal(size=n), rng.exponential(size=n)])
    m = {"full": 60, "low": 6}[kind.split("-")[0]]
    total, q = n + 4, 4
    W = rng.normal(size=(total, m)) * rng.exponential(size=m) + 0.7 + np.r_[time, rng.normal(size=q)][:, None]
    X_new = np.column_stack([np.ones(q), rng.normal(20, 12, size=q), rng.exponential(size=q)])
    W, W_new = W[:n] / 3, W[n:] / 3
    y = X @ [3.0, -0.2, 1.5] + W @ rng.normal(size=m) + 2 * rng.normal(size=n)
    if kind.endswith("noX"):
        X = X_new = None
    K = W @ W.T
    spectrum = Spectrum.from_factor(W, X) if "-W" in kind else Spectrum.from_covariance(K, X)
    return SimpleNamespace(
        kind=kind,
        K=K,
        W=W,
        X=X,
        y=y,
        X_new=X_new,
        W_new=W_new,
        K_new=W_new @ W.T,
        K_new_new=W_new @ W_new.T,
        spectrum=spectrum,
        rotated=spectrum.rotate(y),
        rng=np.random.default_rng(seed),
    )


KINDS = ("full-K", "full-W", "low-K", "low-W", "full-K-noX", "low-W-noX")


@pytest.fixture(params=KINDS)
def problem(request):
    return make_problem(request.param)


@pytest.fixture(scope="session")
def build_problem():
    return make_problem


@pytest.fixture(scope="session")
def fourier_cases():
    """Gaussian processes in one and two dimensions: CASES, `make(name)`, `correlation`, SIGMA2, SIGMA2_E."""
    return _load(HERE / "fourier_cases.py")


@pytest.fixture(scope="session", params=["se", "matern52", "matern32", "2-D se", "2-D matern52"])
def process(request, fourier_cases):
    """Data of one of them, with their statistics."""
    case = fourier_cases.make(request.param)
    case.statistics = FourierStatistics.from_arrays(case.basis, case.x, case.y, case.X)
    return case
