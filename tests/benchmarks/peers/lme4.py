"""lme4, in a process of R that stays; its fits are timed by the CPU clock of that process."""

import atexit
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd
from harness import Absent, Contestant

SCRIPT = Path(__file__).with_suffix(".R")


def lmer(formula: str, table: pd.DataFrame, names: dict[str, str], method: str = "REML") -> Contestant:
    """
    Return the fit of a formula by `lmer`.

    `names` are those of the variances, by what lme4's table of them has in its first three columns: "Subject,Days,NA".
    """
    process = started(formula, table, method)
    clock = (~process.pid << 3) | 2  # Linux's number for the CPU clock of a process

    def fit() -> dict[str, float]:
        print(file=process.stdin, flush=True)
        found = dict(row.rsplit(",", 1) for row in process.stdout.readline().split())
        assert process.stdout.readline() == "ready\n"
        return {name: float(found[theirs]) for theirs, name in names.items()}

    return Contestant(fit, lambda found: found, lambda: time.process_time() + time.clock_gettime(clock))


def started(formula: str, table: pd.DataFrame, method: str) -> subprocess.Popen:
    """Return a process of R that has read the table; it ends with this one."""
    if shutil.which("Rscript") is None:
        raise Absent("R is not installed")
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name) / "table.csv"
    table.to_csv(file, index=False)
    process = subprocess.Popen(
        ["Rscript", SCRIPT, file, formula, method],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    ready = process.stdout.readline() == "ready\n"
    folder.cleanup()
    if not ready:
        raise Absent("R has no package lme4")
    atexit.register(process.kill)
    return process
