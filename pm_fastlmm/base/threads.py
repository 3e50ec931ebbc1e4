"""Compiled loops over many responses or candidates, on all processors."""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def processors() -> int:
    """Return how many threads to use: the processors there are, or fewer when NUMBA_NUM_THREADS says so."""
    limit = os.environ.get("NUMBA_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, int(limit)) if limit.isdigit() and int(limit) else available


def in_threads(run: Callable[[slice], None], rows: int, *, smallest: int = 64) -> None:
    """
    Run a compiled loop that releases the interpreter over parts of the rows.

    Plain threads instead of Numba's own: those need a threading layer, which does not survive the fork of a sampler's
    processes, and compile three times as long.
    """
    threads = processors()
    parts = min(4 * threads, rows // smallest)  # more parts than threads: some rows take longer
    if threads < 2 or parts < 2:
        run(slice(0, rows))
        return
    edges = np.linspace(0, rows, parts + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]))
