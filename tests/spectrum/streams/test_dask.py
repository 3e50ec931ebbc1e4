"""Dask arrays: threads, worker processes, a worker that dies, a scheduler by its address, and checkpoints."""

import os
import signal
import sys
import threading
import time

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm import KernelStatistics

QUIET = {"progressbar": False}
N, M = 3000, 5


def simulated(block_info=None, seconds=0.0, columns=M):
    """Rows of W that exist where they are made, and nowhere else."""
    start, stop = block_info[None]["array-location"][0]
    time.sleep(seconds)
    return np.random.default_rng([7, start]).normal(size=(stop - start, columns)) + 0.3


def arrays(chunk=50, seconds=0.0):
    W = da.map_blocks(simulated, chunks=((chunk,) * (N // chunk), (M,)), dtype=float, seconds=seconds)
    X = da.ones((N, 1), chunks=(chunk, 1))
    return X, W, W @ np.arange(1.0, M + 1) + da.random.default_rng(5).normal(size=N, chunks=chunk)


@pytest.fixture(scope="module")
def whole():
    return KernelStatistics.from_arrays(*dask.compute(*arrays()))


def assert_equal_statistics(a, b):
    b = b.shifted(a.shift)
    assert (a.n, a.dropped, a.method) == (b.n, b.dropped, b.method)
    for field in ("gram", "cross", "squares", "constants"):
        assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-10, atol=1e-8)
    for mine, theirs in zip(a.triangle, b.triangle, strict=True):
        assert_allclose(mine, theirs, rtol=1e-9, atol=1e-8)


def test_threads_of_this_process(whole):
    for method in ("gram", "tsqr"):
        c = KernelStatistics.from_dask(*arrays(), method=method, **QUIET)
        assert_equal_statistics(c, KernelStatistics.from_arrays(*dask.compute(*arrays()), method=method))
    X, W, y = arrays()
    in_memory = KernelStatistics.from_dask(None, W, y.compute(), **QUIET)
    assert_equal_statistics(in_memory, KernelStatistics.from_arrays(None, W.compute(), y.compute()))
    several = KernelStatistics.from_dask(X, W, da.stack([y, 2 * y], axis=1), **QUIET)
    assert several.columns.responses == ("y0", "y1")


def test_columns_in_several_chunks_and_rows_that_do_not_match_are_rechunked(whole):
    X, W, y = arrays()
    c = KernelStatistics.from_dask(X.rechunk((700, 1)), W.rechunk((250, 2)), y.rechunk(431), **QUIET)
    assert_equal_statistics(c, whole)


def test_missing_values_of_chunks():
    X, W, y = arrays()
    holed = da.where(da.arange(N, chunks=50) % 1000 == 5, np.nan, y)
    c = KernelStatistics.from_dask(X, W, holed, missing="drop", **QUIET)
    assert (c.n, c.dropped) == (2997, 3)
    with pytest.raises(ValueError, match="y has 1 values that are NaN or infinite"):
        KernelStatistics.from_dask(X, W, holed, **QUIET)


def test_bad_arrays_are_refused():
    X, W, y = arrays()
    with pytest.raises(TypeError, match="W must be a Dask array, got ndarray: use from_rows for anything else"):
        KernelStatistics.from_dask(X, np.ones((N, 2)), y, **QUIET)
    with pytest.raises(ValueError, match="y has 2999 rows but W has 3000"):
        KernelStatistics.from_dask(X, W, y[1:], **QUIET)
    with pytest.raises(ValueError, match=r"the chunks of W have unknown sizes: call W.compute_chunk_sizes\(\) first"):
        KernelStatistics.from_dask(None, W[y > 0], y, **QUIET)


def test_dask_is_an_extra(monkeypatch):
    arguments = arrays()
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(ImportError, match=r"Dask arrays need Dask: pip install 'pm_fastlmm\[distributed\]'"):
        KernelStatistics.from_dask(*arguments, **QUIET)


def test_an_interrupted_pass_goes_on_where_it_was(tmp_path, whole):
    path, calls = tmp_path / "pass.npz", []

    def fails(block, block_info=None):
        calls.append(1)
        if len(calls) > 40 and not path.exists():
            raise OSError("the disk went away")
        return block

    X, W, y = arrays()
    broken = da.map_blocks(fails, W, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(OSError, match="the disk went away"):
        KernelStatistics.from_dask(X, broken, y, checkpoint=path, **QUIET)
    before = len(calls)
    c = KernelStatistics.from_dask(X, broken, y, checkpoint=path, **QUIET)
    assert len(calls) - before < N // 50  # not all of it again
    assert_equal_statistics(c, whole)
    assert_array_equal(c.gram, KernelStatistics.from_dask(X, W, y, **QUIET).gram)
    with pytest.raises(ValueError, match=r"pass\.npz is of other data: first was"):
        KernelStatistics.from_dask(X, W + 1, y, checkpoint=path, **QUIET)


def test_the_progress_bar_says_how_far_it_is(capsys):
    KernelStatistics.from_dask(*arrays())
    assert "3000/3000" in capsys.readouterr().out


# ---------------------------------------------------------------- a cluster of processes


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", worker_dashboard_address=None
    ) as cluster:
        yield cluster


def test_a_cluster_of_processes_found_by_its_address(cluster):
    with Client(cluster.scheduler_address):
        c = KernelStatistics.from_dask(*arrays(), **QUIET)
        holed = KernelStatistics.from_dask(*arrays()[:2], arrays()[2] * np.nan, missing="drop", **QUIET)
    assert (holed.n, holed.dropped) == (0, N)
    threads = KernelStatistics.from_dask(*arrays(), **QUIET)  # the client is closed: this process again
    assert_array_equal(c.gram, threads.gram)
    assert_array_equal(c.triangle.R, threads.triangle.R)
    assert flmm.reml(*c.factor()).h2 == flmm.reml(*threads.factor()).h2


def test_a_worker_that_is_killed_loses_nothing(cluster):
    expected = KernelStatistics.from_dask(*arrays(), **QUIET)
    with Client(cluster.scheduler_address) as client:
        victim = next(iter(client.run(os.getpid).values()))
        killer = threading.Timer(0.8, os.kill, (victim, signal.SIGKILL))
        killer.start()
        c = KernelStatistics.from_dask(*arrays(seconds=0.1), **QUIET)
        assert not killer.is_alive()
        assert victim not in client.run(os.getpid).values()
    assert_array_equal(c.gram, expected.gram)


def test_a_fingerprint_is_that_of_the_data_wherever_it_is_computed(tmp_path):
    from pm_fastlmm.spectrum.streams.dask_blocks import DaskBlocks

    X, W, y = arrays()
    parts, how = {"X": X, "W": W, "y": y}, {"reduce": KernelStatistics.from_arrays, "merge": KernelStatistics.merge}
    computed, asked = (DaskBlocks(parts, "W", **how) for _ in "ab")
    for i in range(len(computed)):
        computed[i]
        assert computed.mark(i) == asked.mark(i)
    assert computed.mark(0) != computed.mark(1)
    with pytest.raises(IndexError):
        computed[len(computed)]
