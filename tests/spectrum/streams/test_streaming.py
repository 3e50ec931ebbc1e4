"""Passes over blocks: every source of rows gives the same statistics, and an interruption loses nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm import KernelStatistics
from pm_fastlmm.spectrum.streams import checkpoint as checkpoints
from pm_fastlmm.spectrum.streams.row_blocks import RowBlocks, choose_block_rows

QUIET = {"progressbar": False}
FIELDS = ("gram", "cross", "squares", "shift", "constants")


def rows(n=600, m=7, T=None, seed=2):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.normal(50, 3, size=n)])
    W = rng.normal(size=(n, m)) + 0.5
    Y = X @ rng.normal(size=(2, T or 1)) + W @ rng.normal(size=(m, T or 1)) + rng.normal(size=(n, T or 1))
    return X, W, Y if T else Y[:, 0]


def in_blocks(parts, size=50):
    return [tuple(part[i : i + size] for part in parts) for i in range(0, len(parts[1]), size)]


def assert_identical(a, b):
    """To the bit."""
    assert (a.n, a.dropped, a.method) == (b.n, b.dropped, b.method)
    assert a.columns.coef == b.columns.coef
    assert a.columns.factor == b.columns.factor
    assert a.columns.responses == b.columns.responses
    for field in FIELDS:
        assert_array_equal(getattr(a, field), getattr(b, field))
    for mine, theirs in zip(a.triangle, b.triangle, strict=True):
        assert_array_equal(mine, theirs)


def assert_equal_statistics(a, b):
    """To rounding, whatever the shifts are."""
    b = b.shifted(a.shift)
    assert (a.n, a.dropped, a.method) == (b.n, b.dropped, b.method)
    for field in FIELDS:
        assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-10, atol=1e-9)
    for mine, theirs in zip(a.triangle, b.triangle, strict=True):
        assert_allclose(mine, theirs, rtol=1e-10, atol=1e-9)


# ---------------------------------------------------------------- sources


@pytest.mark.parametrize("method", ["gram", "tsqr"])
def test_a_generator_of_blocks(method):
    parts = rows(T=3)
    c = KernelStatistics.from_blocks((block for block in in_blocks(parts)), method=method, **QUIET)
    assert_equal_statistics(c, KernelStatistics.from_arrays(*parts, method=method))


def test_missing_values_of_blocks_are_dropped_and_counted():
    X, W, y = rows()
    y[[3, 77, 401]] = np.nan
    c = KernelStatistics.from_blocks(in_blocks((X, W, y)), missing="drop", **QUIET)
    assert (c.n, c.dropped) == (597, 3)
    with pytest.raises(ValueError, match="y has 1 values that are NaN or infinite"):
        KernelStatistics.from_blocks(in_blocks((X, W, y)), **QUIET)


def test_rows_are_sliced_from_memory_maps_zarr_and_tables(tmp_path):
    X, W, y = rows()
    expected = KernelStatistics.from_arrays(X, W, y)
    stored = np.lib.format.open_memmap(tmp_path / "W.npy", "w+", shape=W.shape)
    stored[:] = W
    compressed = zarr.create_array(store=tmp_path / "W.zarr", shape=W.shape, chunks=(64, 7), dtype="f8")
    compressed[:] = W
    for source in (np.load(tmp_path / "W.npy", mmap_mode="r"), compressed, pd.DataFrame(W)):
        assert_equal_statistics(expected, KernelStatistics.from_rows(X, source, y, block_rows=100, **QUIET))
        assert_equal_statistics(expected, KernelStatistics.from_rows(X, source, y, **QUIET))
    without = KernelStatistics.from_rows(None, compressed, y, **QUIET)
    assert_equal_statistics(without, KernelStatistics.from_arrays(None, W, y))


def test_blocks_fit_the_memory_and_the_chunks_of_the_storage(tmp_path):
    assert choose_block_rows(100, memory=2**28) == 2**28 // 1600
    assert choose_block_rows(100, memory=2**28, chunk_rows=1000) == 167_000
    assert choose_block_rows(100, memory=10, chunk_rows=1000) == 1000
    assert choose_block_rows(10**9, memory=1) == 1
    X, W, y = rows()
    compressed = zarr.create_array(store=tmp_path / "W.zarr", shape=W.shape, chunks=(64, 7), dtype="f8")
    blocks = RowBlocks({"X": X, "W": compressed, "y": y}, "W", memory=64 * 10 * 16 * 2)
    assert (blocks.block_rows, len(blocks)) == (128, 5)
    assert [len(y) for _, _, y in blocks] == [128, 128, 128, 128, 88]


def test_bad_sources_are_refused():
    X, W, y = rows()
    with pytest.raises(ValueError, match="there are no blocks"):
        KernelStatistics.from_blocks([], **QUIET)
    with pytest.raises(ValueError, match="y has 599 rows but W has 600"):
        KernelStatistics.from_rows(X, W, y[1:], **QUIET)
    with pytest.raises(ValueError, match="block_rows must be 1 or more, got 0"):
        KernelStatistics.from_rows(X, W, y, block_rows=0, **QUIET)


def test_the_progress_bar_says_how_far_it_is(capsys):
    X, W, y = rows()
    KernelStatistics.from_rows(X, W, y, block_rows=100)
    out = capsys.readouterr().out
    assert "600/600" in out
    assert "6 of 6 blocks" in out
    KernelStatistics.from_rows(X, W, y, block_rows=100, progressbar=False)
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- interruption


class Interrupted(Exception):
    pass


def broken(blocks, after):
    for i, block in enumerate(blocks):
        if i == after:
            raise Interrupted
        yield block


@pytest.mark.parametrize("method", ["gram", "tsqr"])
@pytest.mark.parametrize("source", ["generator", "sequence"])
def test_an_interrupted_pass_goes_on_where_it_was(tmp_path, method, source):
    blocks, path = in_blocks(rows(T=2)), tmp_path / "pass.npz"
    whole = KernelStatistics.from_blocks(blocks, method=method, **QUIET)
    options = {"method": method, "checkpoint": path, **QUIET}
    for after in (5, 5, 9):
        with pytest.raises(Interrupted):
            KernelStatistics.from_blocks(broken(blocks, after), **options)
    read = []

    class Counted(list):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)

    rest = Counted(blocks) if source == "sequence" else iter(blocks)
    assert_identical(KernelStatistics.from_blocks(rest, **options), whole)
    if source == "sequence":  # those that are done are not read, but for the two that are compared
        assert read == [0, 8, 9, 10, 11]
    assert_identical(KernelStatistics.from_blocks(blocks, **options), whole)


def test_a_keyboard_interrupt_loses_nothing_either(tmp_path):
    blocks, path = in_blocks(rows()), tmp_path / "pass.npz"

    def interrupt():
        yield from blocks[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        KernelStatistics.from_blocks(interrupt(), checkpoint=path, **QUIET)
    assert checkpoints.load(path)[1]["blocks"] == 4
    whole = KernelStatistics.from_blocks(blocks, **QUIET)
    assert_identical(KernelStatistics.from_blocks(blocks, checkpoint=path, **QUIET), whole)


def test_a_process_that_is_killed_has_its_last_checkpoint(tmp_path):
    path = tmp_path / "pass.npz"
    script = textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(os.path.dirname(__file__))!r})
        from test_streaming import in_blocks, rows
        from pm_fastlmm import KernelStatistics

        def blocks():
            yield from in_blocks(rows())[:7]
            os.kill(os.getpid(), signal.SIGKILL)

        KernelStatistics.from_blocks(blocks(), checkpoint={str(path)!r}, checkpoint_every=0, progressbar=False)
    """)
    root = os.path.dirname(os.path.dirname(flmm.__file__))
    ended = subprocess.run([sys.executable, "-c", script], cwd=root, timeout=100, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert checkpoints.load(path)[1]["blocks"] == 7
    whole = KernelStatistics.from_blocks(in_blocks(rows()), **QUIET)
    assert_identical(KernelStatistics.from_blocks(in_blocks(rows()), checkpoint=path, **QUIET), whole)
    assert [file.name for file in tmp_path.iterdir()] == ["pass.npz"]


def test_checkpoints_of_other_data_are_refused(tmp_path):
    parts, path = rows(), tmp_path / "pass.npz"
    X, W, y = parts
    with pytest.raises(Interrupted):
        KernelStatistics.from_blocks(broken(in_blocks(parts), 6), checkpoint=path, **QUIET)
    named = pd.DataFrame(X, columns=["one", "age"])
    other = [
        ("first was", in_blocks((X, W + 1, y))),
        ("last was", in_blocks((X, np.where(np.arange(600)[:, None] < 250, W, W + 1), y))),
        ("first was .*last was", in_blocks(parts, size=40)),
        ("it has 6 blocks, and there are fewer", in_blocks(parts)[:5]),
        ("first was", [(named.iloc[i : i + 50], W[i : i + 50], y[i : i + 50]) for i in range(0, 600, 50)]),
    ]
    for message, blocks in other:
        for source in (blocks, iter(blocks)):
            with pytest.raises(ValueError, match=f"pass.npz is of other data: .*{message}"):
                KernelStatistics.from_blocks(source, checkpoint=path, **QUIET)
    with pytest.raises(ValueError, match="is of other data: method was 'gram' and is 'tsqr'"):
        KernelStatistics.from_blocks(in_blocks(parts), method="tsqr", checkpoint=path, **QUIET)
    with pytest.raises(ValueError, match="is of other data: missing was 'raise' and is 'drop'"):
        KernelStatistics.from_blocks(in_blocks(parts), missing="drop", checkpoint=path, **QUIET)
    np.savez(path, about=np.array('{"format": 0}'))
    with pytest.raises(ValueError, match=r"pass.npz was written by another version: remove it to begin anew"):
        KernelStatistics.from_blocks(in_blocks(parts), checkpoint=path, **QUIET)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"pass.npz is no checkpoint .*: name another file, or remove it"):
        KernelStatistics.from_blocks(in_blocks(parts), checkpoint=path, **QUIET)


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "pass.npz"
    checkpoints.save(path, {"a": np.arange(3)}, {"n": 1})

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(path, {"a": np.arange(4)}, {"n": 2})
    arrays, about = checkpoints.load(path)
    assert_array_equal(arrays["a"], np.arange(3))
    assert about == json.loads('{"n": 1}')
    assert [file.name for file in path.parent.iterdir()] == ["pass.npz"]


# ---------------------------------------------------------------- files that were written before


STORED = Path(__file__).parents[1].parent / "reference" / "checkpoints"  # of the first three of six blocks


def numbers(n, columns, step):
    return ((np.arange(n)[:, None] * step + np.arange(columns) * 7919) ** 2 % 1009) / 1009


@pytest.mark.parametrize("method", ["gram", "tsqr"])
def test_a_stored_checkpoint_of_kernel_statistics_goes_on(tmp_path, method):
    W = numbers(300, 5, 17)
    parts = (
        np.column_stack([np.ones(300), numbers(300, 1, 31)]),
        W,
        3 + W @ np.arange(5.0) + numbers(300, 1, 53)[:, 0],
    )
    path = shutil.copy(STORED / f"kernel_statistics_{method}.npz", tmp_path)
    resumed = KernelStatistics.from_blocks(in_blocks(parts), method=method, checkpoint=path, **QUIET)
    assert_equal_statistics(resumed, KernelStatistics.from_arrays(*parts, method=method))


def test_a_stored_checkpoint_of_fourier_statistics_goes_on(tmp_path):
    x = numbers(300, 1, 31)[:, 0]
    parts = (x, 3 + np.round(4 * x) + numbers(300, 1, 53)[:, 0], np.ones((300, 1)))
    basis = flmm.FourierBasis(kernel="se", lengthscale=(0.3, 1.0), domain=(0, 1), n=300)
    path = shutil.copy(STORED / "fourier.npz", tmp_path)
    resumed = flmm.FourierStatistics.from_blocks(basis, in_blocks(parts), checkpoint=path, **QUIET)
    mine, whole = (s.project() for s in (resumed, flmm.FourierStatistics.from_arrays(basis, *parts)))
    assert mine.n == whole.n == 300
    for field in ("gram", "cross", "square", "along"):
        assert_allclose(getattr(mine, field), getattr(whole, field), rtol=1e-10, atol=1e-10)
