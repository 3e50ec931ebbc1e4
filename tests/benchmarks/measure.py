"""
Timing by turns: A B A B …, so that every side of a ratio meets the same machine.

`take_turns` counts the CPU time of this process (`time.process_time`), which other processes disturb little; BLAS is
held to one thread by conftest.py. What a user waits for, with its worker processes, is `wall` (`time.perf_counter`).
"""

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

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


def through_nutpie(
    model: Any, x: NDArray[np.float64] | None = None, expected: tuple[float, NDArray[np.float64]] | None = None
) -> Loop:
    """
    Return the C function whose address nutpie gives to its sampler, called in a compiled loop as the sampler does.

    It takes (dimension, x, gradient, value, user data) and returns 0 when all went well. Value and gradient at x, by
    default 0.1 everywhere, must be as expected.
    """
    import numba  # here, as processes whose imports are timed import this file
    import pytest

    compiled = pytest.importorskip("nutpie").compile_pymc_model(model)
    signature = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)
    evaluate = signature(compiled.compiled_logp_func.address)
    x = np.full(compiled.n_dim, 0.1) if x is None else x
    gradient, value = np.empty(x.size), np.empty(1)
    user_data = np.frombuffer(compiled.user_data.tobytes() or bytes(1), dtype=np.uint8).copy()

    @numba.njit
    def repeat(count, x, gradient, value, user_data):  # type: ignore[no-untyped-def]
        failures = 0
        for _ in range(count):
            failures += evaluate(x.size, x.ctypes, gradient.ctypes, value.ctypes, user_data.ctypes) != 0
        return failures

    def run(count: int, compiled: Any = compiled) -> None:  # the closure keeps the compiled model alive
        assert repeat(count, x, gradient, value, user_data) == 0

    run(1)
    if expected is not None:
        np.testing.assert_allclose(value[0], expected[0], rtol=1e-9)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-7, atol=1e-9)
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
