"""
Comparisons beside other packages: everyone by turns on the same data in one process, times as ratios, results checked.

A comparison is a task at some size. Each contestant builds what a user builds once and returns the call that is timed;
afterwards its result is read by the same yardstick for all. A package that is not installed, or cannot do the task, is
absent with the reason.
"""

import contextlib
import datetime
import importlib
import importlib.metadata
import math
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import Clock, cpu, loop, take_turns

OURS = "pm_fastlmm"
PACKAGES = {  # distribution names by the names of their modules
    "pm_fastlmm": "pm_fastlmm", "pymc": "pymc", "fastlmm": "fastlmm", "glimix_core": "glimix-core",
    "statsmodels": "statsmodels", "gpboost": "gpboost", "torch_openreml": "torch-openreml", "sklearn": "scikit-learn",
    "tinygp": "tinygp", "celerite2": "celerite2", "numpy": "numpy", "scipy": "scipy", "numba": "numba", "jax": "jax",
    "torch": "torch", "finufft": "finufft",
}  # fmt: skip


class Absent(Exception):
    """Why a contestant takes no part."""


@dataclass(frozen=True)
class Contestant:
    """
    What is timed, and how its result is read.

    Attributes
    ----------
    call : callable
        The work, without arguments.
    read : callable
        Result ↦ named numbers, beside which those of the others stand.
    clock : callable
        CPU seconds so far: of this process, or of the one that does the work.
    """

    call: Callable[[], Any]
    read: Callable[[Any], Mapping[str, float]]
    clock: Clock = time.process_time


@dataclass
class Comparison:
    """
    One task at one size.

    Attributes
    ----------
    task, title : str
        The task, which all sizes share, and what it is.
    size : dict
        Numbers, "n": 500.
    unit : str
        "ms" or "µs": of the times in tables.
    contestants : dict
        By name, functions that build a `Contestant` or raise `Absent`; the first is the one that ratios refer to.
    per : int
        How many of the unit one call does (responses, candidates).
    truth : callable, optional
        Named numbers ↦ a yardstick: what an independent dense computation makes of a result.
    rounds : int
    """

    task: str
    title: str
    size: dict[str, int]
    unit: str
    contestants: dict[str, Callable[[], Contestant]]
    per: dict[str, int] = field(default_factory=dict)
    truth: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None
    rounds: int = 5
    shortest: float = 0.02

    def measure(self) -> dict[str, Any]:
        """Build everyone, time them by turns, and read the results."""
        present, first, absent = build(self.contestants)
        loops = {name: loop(c.call) for name, c in present.items()}
        clocks = {name: c.clock for name, c in present.items()}
        once = {name: max(cpu(run, 1, clocks[name]), 1e-7) for name, run in loops.items()}
        counts = {name: math.ceil(self.shortest / seconds) for name, seconds in once.items()}
        taken = take_turns(loops, rounds=self.rounds, counts=counts, clocks=clocks)
        seconds = {name: values / self.per.get(name, 1) for name, values in taken.items()}
        results = {name: dict(c.read(first[name][1])) for name, c in present.items()}
        if self.truth is not None:
            results = {name: found | dict(self.truth(found)) for name, found in results.items()}
        return entry(self, seconds, first, results, absent)


def build(
    contestants: Mapping[str, Callable[[], Any]], call: Callable[[Any], Any] = lambda made: made.call()
) -> tuple[dict[str, Any], dict[str, tuple[float, Any]], dict[str, str]]:
    """Return those that take part, CPU seconds up to the first result and this result, and why the others do not."""
    present: dict[str, Any] = {}
    first: dict[str, tuple[float, Any]] = {}
    absent: dict[str, str] = {}
    for name, make in contestants.items():
        start = time.process_time()
        try:
            made = make()
            result = call(made)
            present[name], first[name] = made, (getattr(made, "clock", time.process_time)() - start, result)
        except Absent as reason:
            absent[name] = str(reason)
        except ImportError as error:
            absent[name] = f"not installed: {error}"
        except Exception as error:
            traceback.print_exc()
            absent[name] = f"fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return present, first, absent


def entry(
    comparison: Any,
    seconds: Mapping[str, Any],
    first: Mapping[str, tuple[float, Any]],
    results: Mapping[str, Mapping[str, float]],
    absent: Mapping[str, str],
) -> dict[str, Any]:
    """Return what is written of a comparison: times and ratios to the first, median and quartiles, and results."""
    ours = next(iter(seconds))
    rows = [
        {
            "name": name,
            "seconds": summary(values),
            "ratio": summary(np.asarray(values) / np.asarray(seconds[ours])),
            "rounds": len(values),
            "first result": first[name][0],
            "result": {key: float(value) for key, value in results[name].items()},
        }
        for name, values in seconds.items()
    ]
    said = {"task": comparison.task, "title": comparison.title, "size": comparison.size, "unit": comparison.unit}
    return said | {"rows": rows, "absent": dict(absent)}


def summary(values: Any) -> dict[str, float]:
    """Return the median and the quartiles."""
    low, median, high = np.quantile(np.asarray(values, dtype=float), [0.25, 0.5, 0.75])
    return {"median": float(median), "q1": float(low), "q3": float(high)}


def prepare() -> None:
    """Hold everyone to one thread, and import everyone, so that no first result has that time in it."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise SystemExit("run it as `make peers`, which holds every library to one thread (OMP_NUM_THREADS=1 …)")
    for module in (*PACKAGES, "celerite2.jax", "sklearn.gaussian_process", "statsmodels.formula.api"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
        sys.modules["torch"].set_default_dtype(sys.modules["torch"].float64)


def about() -> dict[str, Any]:
    """Return when, on what and with which versions it is measured; None for what is not installed."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "versions": {name: _version(name) for name in PACKAGES.values()} | {"lme4": _version_in_r("lme4")},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _version_in_r(package: str) -> str | None:
    try:
        asked = ["Rscript", "-e", f"cat(format(packageVersion('{package}')))"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
