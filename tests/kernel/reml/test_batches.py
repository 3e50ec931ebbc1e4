"""Many responses in blocks: the fits of `reml`, from any container, by any worker, in as many goes as it takes."""

import os
import signal
import threading
import time

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster

import pm_fastlmm as flmm
from pm_fastlmm.kernel.reml import batches

QUIET = {"progressbar": False}


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(4)
    W, X = np.repeat(np.eye(8), 5, axis=0), np.column_stack([np.ones(40), rng.normal(size=40)])
    Y = W @ rng.normal(size=(8, 70)) * np.linspace(0, 2, 70) + rng.normal(size=(40, 70))
    spectrum = flmm.Spectrum.from_factor(W, X)
    return spectrum, Y, flmm.reml(spectrum, Y).to_dataset()


def assert_same(fits, expected):
    """The width of a block changes the rounding of matrix products, and nothing else."""
    xr.testing.assert_allclose(fits, expected, rtol=1e-9)
    assert fits.attrs == expected.attrs
    assert fits.message.values.tolist() == expected.message.values.tolist()


@pytest.fixture
def counted(monkeypatch):
    """How many responses each call of `reml` had."""
    calls = []

    def reml(spectrum, y, **options):
        calls.append(y.values.shape[1])
        return flmm.reml(spectrum, y, **options)

    monkeypatch.setattr(batches, "reml", reml)
    return calls


def test_any_container_gives_the_fits_of_reml(problem, tmp_path, counted):
    spectrum, Y, expected = problem
    stored = zarr.create_array(store=tmp_path / "Y.zarr", shape=Y.shape, chunks=(40, 7), dtype="f8")
    stored[:] = Y
    mapped = np.lib.format.open_memmap(tmp_path / "Y.npy", "w+", shape=Y.shape)
    mapped[:] = Y
    for source in (Y, stored, mapped, da.from_array(Y, chunks=(13, 20)), Y.tolist()):
        counted.clear()
        assert_same(flmm.reml_blocks(spectrum, source, block=20, **QUIET), expected)
        assert sorted(counted) == [10, 20, 20, 20]
    assert dict(expected.sizes) == {"response": 70, "coef": 2}


def test_blocks_follow_the_chunks_unless_told_otherwise(problem, tmp_path, counted):
    spectrum, Y, expected = problem
    assert_same(flmm.reml_blocks(spectrum, da.from_array(Y, chunks=(13, 25)), **QUIET), expected)
    assert sorted(counted) == [20, 25, 25]
    counted.clear()
    assert_same(flmm.reml_blocks(spectrum, Y, method="REML", **QUIET), expected)
    assert counted == [70]
    stored = zarr.create_array(store=tmp_path / "Y.zarr", shape=Y.shape, chunks=(40, 7), dtype="f8")
    assert batches._Columns(stored, spectrum, None).at(0) == (0, 70)


def test_a_block_may_be_square(problem):
    spectrum, Y, expected = problem
    assert_same(flmm.reml_blocks(spectrum, Y, block=40, **QUIET), expected)


def test_maximum_likelihood(problem):
    spectrum, Y, _ = problem
    expected = flmm.reml(spectrum, Y, method="ML").to_dataset()
    assert_same(flmm.reml_blocks(spectrum, Y, method="ML", block=30, **QUIET), expected)


def test_tables_are_aligned_by_id_and_keep_their_names():
    rng = np.random.default_rng(1)
    ids, W = [f"i{k}" for k in range(20)], np.repeat(np.eye(4), 5, axis=0)
    spectrum = flmm.Spectrum.from_factor(pd.DataFrame(W, ids), np.ones((20, 1)))
    Y = pd.DataFrame(W @ rng.normal(size=(4, 9)) + rng.normal(size=(20, 9)), ids, [f"gene{j}" for j in range(9)])
    fits = flmm.reml_blocks(spectrum, Y.sample(frac=1, random_state=0), block=4, **QUIET)
    xr.testing.assert_allclose(fits, flmm.reml(spectrum, Y).to_dataset())
    assert fits.response.values.tolist() == list(Y.columns)


def test_bad_responses_are_refused(problem):
    spectrum, Y, _ = problem
    with pytest.raises(ValueError, match=r"Y must be \(n, T\) with one column or more, got shape \(40,\): use reml"):
        flmm.reml_blocks(spectrum, Y[:, 0], **QUIET)
    with pytest.raises(ValueError, match="Y has 39 rows but the spectrum has 40"):
        flmm.reml_blocks(spectrum, Y[1:], **QUIET)
    with pytest.raises(ValueError, match="block must be 1 response or more, got 0"):
        flmm.reml_blocks(spectrum, Y, block=0, **QUIET)
    with pytest.raises(ValueError, match="y has 1 values that are NaN or infinite"):
        flmm.reml_blocks(spectrum, np.where(np.arange(2800).reshape(40, 70) == 99, np.nan, Y), **QUIET)


@pytest.mark.parametrize("lazy", [False, True])
def test_an_interrupted_batch_goes_on_where_it_was(problem, tmp_path, monkeypatch, lazy):
    spectrum, Y, expected = problem
    calls = []

    def fails_at_the_third(spectrum, y, **options):
        calls.append(y.names[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return flmm.reml(spectrum, y, **options)

    monkeypatch.setattr(batches, "reml", fails_at_the_third)
    monkeypatch.setattr(batches, "_AT_ONCE", 1)
    source = da.from_array(Y, chunks=(40, 10)) if lazy else Y
    options = {"block": 10, "checkpoint": tmp_path / "fits", **QUIET}
    with pytest.raises(KeyboardInterrupt):
        flmm.reml_blocks(spectrum, source, **options)
    assert len(list((tmp_path / "fits").iterdir())) == 2
    assert_same(flmm.reml_blocks(spectrum, source, **options), expected)
    assert len(calls) == 8  # two done, one broken off, five after it
    assert_same(flmm.reml_blocks(spectrum, source, **options), expected)
    assert len(calls) == 8


def test_checkpoints_of_other_data_are_refused(problem, tmp_path):
    spectrum, Y, _ = problem
    options = {"block": 10, "checkpoint": tmp_path / "fits", **QUIET}
    flmm.reml_blocks(spectrum, Y, **options)
    other = flmm.Spectrum.from_factor(np.repeat(np.eye(4), 10, axis=0), np.ones((40, 1)))
    with pytest.raises(ValueError, match="is of other data: spectrum was"):
        flmm.reml_blocks(other, Y, **options)
    with pytest.raises(ValueError, match="is of other data: method was 'REML' and is 'ML'"):
        flmm.reml_blocks(spectrum, Y, method="ML", **options)
    with pytest.raises(ValueError, match="is of other data: names was"):
        flmm.reml_blocks(spectrum, pd.DataFrame(Y), **options)
    with pytest.raises(ValueError, match="is of other data: fingerprint was"):
        flmm.reml_blocks(spectrum, Y + 1, **options)
    with pytest.raises(ValueError, match=r"it has responses-000000000-000000010.npz, which is no block of these 70"):
        flmm.reml_blocks(spectrum, Y, **options | {"block": 20})


def test_the_progress_bar_counts_responses(problem, capsys):
    spectrum, Y, _ = problem
    flmm.reml_blocks(spectrum, Y, block=20)
    out = capsys.readouterr().out
    assert "70/70" in out
    assert "4 of 4 blocks" in out


def slowly(block, block_info=None):
    time.sleep(0.3)
    return block


def test_a_worker_that_is_killed_loses_nothing(problem):
    spectrum, Y, expected = problem
    lazy = da.from_array(Y, chunks=(40, 5)).map_blocks(slowly, dtype=float)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))
        killer = threading.Timer(1.0, os.kill, (victim, signal.SIGKILL))
        killer.start()
        fits = flmm.reml_blocks(spectrum, lazy, **QUIET)
        assert not killer.is_alive()
        assert victim not in client.run(os.getpid).values()
    assert_same(fits, expected)


def test_a_cluster_of_processes(problem, tmp_path):
    spectrum, Y, expected = problem
    stored = zarr.create_array(store=tmp_path / "Y.zarr", shape=Y.shape, chunks=(40, 7), dtype="f8")
    stored[:] = Y
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        lazy = flmm.reml_blocks(spectrum, da.from_array(Y, chunks=(40, 10)), checkpoint=tmp_path / "fits", **QUIET)
        given = flmm.reml_blocks(spectrum, Y, block=20, client=client, **QUIET)
        read_there = flmm.reml_blocks(spectrum, stored, block=21, client=client, **QUIET)
        table = flmm.reml_blocks(spectrum, pd.DataFrame(Y, columns=expected.response), client=client, **QUIET)
    for fits in (lazy, given, read_there, table):
        assert_same(fits, expected)
    again = flmm.reml_blocks(spectrum, Y, block=10, checkpoint=tmp_path / "fits", **QUIET)
    xr.testing.assert_identical(again, lazy)


def holes(Y):
    """Missing rows in a quarter of the responses, in three patterns, each of which several blocks have."""
    Y = Y.copy()
    Y[3, 5::7] = np.nan
    Y[[1, 20, 39], 2::10] = np.nan
    return Y


@pytest.mark.parametrize("source", ["array", "table", "dask"])
def test_responses_with_missing_rows_are_fitted_by_pattern(problem, source, tmp_path):
    spectrum, Y, _ = problem
    Y = holes(Y)
    expected = flmm.reml(spectrum, Y, missing="by_pattern").to_dataset()
    given = {"array": Y, "table": pd.DataFrame(Y).add_prefix("y"), "dask": da.from_array(Y, chunks=(20, 8))}[source]
    options = {"missing": "by_pattern", "block": 9, "checkpoint": tmp_path / "fits", **QUIET}
    for _ in range(2):  # the second time from the checkpoint
        fits = flmm.reml_blocks(spectrum, given, **options)
        assert_same(fits, expected)
        assert fits.pattern.values.tolist() == expected.pattern.values.tolist()
    assert fits.attrs["patterns"] == 4
    assert set(fits.n_obs.values) == {40, 39, 37, 36}
    with pytest.raises(ValueError, match="missing was 'by_pattern' and is 'raise'"):
        flmm.reml_blocks(spectrum, given, **options | {"missing": "raise"})
    with pytest.raises(ValueError, match="missing must be 'raise' or 'by_pattern', got 'drop'"):
        flmm.reml_blocks(spectrum, given, **options | {"missing": "drop"})


def test_a_coefficient_that_a_block_cannot_estimate_is_missing_there(problem):
    _, Y, _ = problem
    only = (np.arange(40) == 7).astype(float)
    spectrum = flmm.Spectrum.from_factor(np.repeat(np.eye(8), 5, axis=0), np.column_stack([np.ones(40), only]))
    Y = Y.copy()
    Y[7, :20] = np.nan
    with pytest.warns(UserWarning, match="'x1' dropped"):
        expected = flmm.reml(spectrum, Y, missing="by_pattern").to_dataset()
    with pytest.warns(UserWarning, match="'x1' dropped"):
        fits = flmm.reml_blocks(spectrum, Y, missing="by_pattern", block=10, **QUIET)
    assert_same(fits, expected)
    assert np.isnan(fits.beta.values[:20, 1]).all()
    assert np.isfinite(fits.beta.values[20:]).all()


def test_dask_and_stored_responses_are_read_into_memory_if_they_fit(problem, tmp_path):
    spectrum, Y, expected = problem
    stored = zarr.create_array(store=tmp_path / "Y.zarr", shape=Y.shape, chunks=(40, 7), dtype="f8")
    stored[:] = Y
    posterior = flmm.exact_posterior(spectrum, Y).mean("h2")
    for source in (da.from_array(Y, chunks=(13, 20)), stored):
        assert_same(flmm.reml(spectrum, source).to_dataset(), expected)
        np.testing.assert_array_equal(flmm.exact_posterior(spectrum, source).mean("h2"), posterior)
    np.testing.assert_array_equal(
        flmm.reml(spectrum, da.from_array(holes(Y)), missing="by_pattern").h2,
        flmm.reml(spectrum, holes(Y), missing="by_pattern").h2,
    )
    huge = da.zeros((40, 10**8), chunks=(40, 10**4))
    for fit in (flmm.reml, flmm.exact_posterior):
        with pytest.raises(
            ValueError, match=r"y, a Dask or stored array, has 29\.8 GB as floats: .* flmm\.reml_blocks"
        ):
            fit(spectrum, huge)
