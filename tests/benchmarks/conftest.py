"""Benchmarks print their figures and append them to benchmark-results.json; no time makes them fail."""

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

PACKAGES = ("pm_fastlmm", "pymc", "pytensor", "numpy", "scipy", "numba", "nutpie", "cvxopt")


@pytest.fixture(scope="session")
def measure():
    """The module measure.py (the tests are no package, so that it cannot be imported by name)."""
    spec = importlib.util.spec_from_file_location("measure", Path(__file__).with_name("measure.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread():
    with threadpool_limits(limits=1):
        yield


def _short(value):
    """Three digits, or all that stand before the decimal point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.fixture(scope="session")
def run(one_blas_thread):
    """What is recorded once in a run: when, on what, with which versions."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "blas_threads": max((pool["num_threads"] for pool in threadpool_info()), default=None),
        "versions": {package: version for package in PACKAGES if (version := _version(package))},
        "figures": [],
    }


@pytest.fixture(scope="session")
def report(run, pytestconfig):
    """
    `report(figure, values, unit)` prints the median with the range of the values and keeps them; `part=` names a part
    or a property of the figure, printed below it.

    The file is a list of runs, benchmark-results.json in the root directory or what the environment variable
    BENCHMARK_RESULTS names. It is written after each figure, so that a run that is broken off has what it measured.
    """
    path = pytestconfig.rootpath / os.environ.get("BENCHMARK_RESULTS", "benchmark-results.json")
    earlier = json.loads(path.read_text()) if path.exists() else []

    def add(figure, values, unit, part=None):
        values = np.atleast_1d(np.asarray(values, dtype=float))
        value, low, high = float(np.median(values)), float(values.min()), float(values.max())
        spread = f"{_short(low)} – {_short(high)} in {values.size}" if values.size > 1 else ""
        print(
            f"\n{figure if part is None else '  ' + part:<72}{_short(value):>8} {unit:<6}{spread}", end="", flush=True
        )
        name = {"figure": figure} if part is None else {"figure": figure, "part": part}
        run["figures"].append(name | {"value": value, "unit": unit, "low": low, "high": high, "rounds": values.size})
        path.write_text(json.dumps([*earlier, run], indent=1) + "\n")

    return add
