"""
Timing by turns: A B A B …, so that every side of a ratio meets the same machine.

`take_turns` counts the CPU time of this process (`time.process_time`), which other processes disturb little; BLAS is
held to one thread by conftest.py. What a user waits for, with its worker processes, is `wall` (`time.perf_counter`).
"""

import gc
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

type Loop = Callable[[int], object]  # does its work as many times as it is told
type Clock = Callable[[], float]

_LONGEST_LOOP = 1_000_000


def loop(function: Callable[[], object]) -> Loop:
    """Return the Python loop over a call without arguments."""

    def run(count: int) -> None:
        for _ in range(count):
            function()

    return run


def take_turns(
    loops: Mapping[str, Loop],
    *,
    rounds: int = 7,
    shortest: float = 0.05,
    counts: Mapping[str, int] | None = None,
    clocks: Mapping[str, Clock] = MappingProxyType({}),
) -> dict[str, NDArray[np.float64]]:
    """
    Return CPU seconds per repetition, one value for each round.

    In each round every loop runs once, long enough to take `shortest` seconds. The runs that find out how long that is
    come before the first round and warm everything up; `counts` are given in their place of what is warm already.
    `clocks` are those of work that another process does.
    """
    if counts is None:
        counts = {name: count(run, shortest) for name, run in loops.items()}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in loops.items():
                seconds[name].append(cpu(run, counts[name], clocks.get(name, time.process_time)) / counts[name])
    finally:
        gc.enable()
    return {name: np.array(values) for name, values in seconds.items()}


def wall(function: Callable[[], object], *, rounds: int = 1) -> NDArray[np.float64]:
    """Return wall-clock seconds of a call, one value for each round."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return np.array(seconds)


def cpu(run: Loop, count: int, clock: Clock = time.process_time) -> float:
    """Return the CPU seconds of a loop."""
    start = clock()
    run(count)
    return clock() - start


def count(run: Loop, shortest: float = 0.05) -> int:
    """Return how often a loop must run to take `shortest` seconds, after a run that warms it up."""
    run(1)
    times = 1
    while (elapsed := cpu(run, times)) < shortest and times < _LONGEST_LOOP:
        times = min(_LONGEST_LOOP, max(2 * times, round(times * shortest / max(elapsed, 1e-9))))
    return times
