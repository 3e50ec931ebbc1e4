"""Fits of more responses than fit in memory: block by block, on threads or a cluster, written down as they finish."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from pm_fastlmm.base.arrays import Labelled, read, require_length
from pm_fastlmm.base.choices import Method, Missing, require_choice
from pm_fastlmm.base.display import progress
from pm_fastlmm.kernel.reml.reml import ON_MISSING, reml
from pm_fastlmm.spectrum.spectrum import Spectrum
from pm_fastlmm.spectrum.streams import checkpoint as checkpoints
from pm_fastlmm.spectrum.streams.dask_blocks import active_client

_MEMORY = 2**28  # bytes of a block of responses with its copies: as floats, along and across X, rotated
_COPIES = 4
_MARK = "fingerprint"  # of the responses of a block, in the attributes of its fits
_AT_ONCE = 32  # blocks that threads are given between two looks at what has finished


def reml_blocks(
    spectrum: Spectrum,
    Y: Any,
    *,
    method: Method = "REML",
    missing: Missing = "raise",
    block: int | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progressbar: bool = True,
    client: Any = None,
) -> xr.Dataset:
    """
    Fit many responses as `reml` does, block by block.

    Parameters
    ----------
    spectrum : Spectrum
        K and X, factored once.
    Y : (n, T) array, DataFrame, Dask array, Zarr array or memory map
        Responses in columns, read one block of columns at a time. A DataFrame is aligned by id; anything else is in the
        order of the spectrum.
    method : {"REML", "ML"}
    missing : {"raise", "by_pattern"}
        As in `reml`. Each block factors K anew for each pattern of missing rows that it has: put responses that miss
        the same rows next to each other.
    block : int, optional
        Number of responses in a block; by default the chunks of a Dask array, or what takes some 256 MB.
    checkpoint : path, optional
        A directory in which every block is written as it finishes. Called again with it, what is there is not fitted
        again.
    progressbar : bool
    client : distributed.Client, optional
        Fit on its workers; the active client by default when Y is a Dask array, whose blocks are fitted on threads
        when there is none.

    Returns
    -------
    xarray.Dataset
        That of `REMLFit.to_dataset`, with the dimensions response and coef.

    Raises
    ------
    ValueError
        If Y does not fit the spectrum or (with missing="raise") has missing values, or the checkpoint is of other data.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(0)
    >>> W = np.repeat(np.eye(10), 5, axis=0)
    >>> spectrum = flmm.Spectrum.from_factor(W, np.ones((50, 1)))
    >>> Y = W @ rng.normal(size=(10, 300)) + rng.normal(size=(50, 300))
    >>> fits = flmm.reml_blocks(spectrum, Y, block=100, progressbar=False)
    >>> dict(fits.sizes), fits.h2.median().round(2).item()
    ({'response': 300, 'coef': 1}, 0.48)
    """
    columns = _Columns(Y, spectrum, block, lazy=client is not None)
    require_choice("missing", missing, ON_MISSING)
    of_spectrum = checkpoints.fingerprint(spectrum.eigvals, spectrum.C, spectrum.projection.R)
    about = {"method": method, "missing": missing, "spectrum": of_spectrum}
    store = None if checkpoint is None else _Store(Path(checkpoint), columns, about)
    done: dict[int, xr.Dataset] = {} if store is None else store.load()
    todo = [i for i in range(len(columns)) if i not in done]
    fit = partial(_fit, method=method, missing=missing)
    with progress("responses", columns.T, show=progressbar) as advance:
        for i, fits in _results(fit, spectrum, columns, todo, client):
            done[i] = fits
            if store is not None:
                store.save(i, fits)
            advance(sum(d.sizes["response"] for d in done.values()), f"{len(done)} of {len(columns)} blocks")
    ordered = [done[i] for i in range(len(columns))]
    fits = xr.concat(ordered, "response", data_vars="all", coords="minimal", compat="override", join="override")
    fits.attrs = {key: value for key, value in ordered[0].attrs.items() if key != _MARK}
    if missing == "raise":
        return fits
    number, patterns = pd.factorize(fits["pattern"].to_numpy())  # in the order of their appearance in all blocks
    return fits.assign(pattern=("response", number)).assign_attrs(patterns=len(patterns))


class _Columns:
    """Blocks of columns of Y, with names, of any container."""

    def __init__(self, Y: Any, spectrum: Spectrum, block: int | None, *, lazy: bool = False) -> None:
        shape = getattr(Y, "shape", None) or np.shape(Y)
        if len(shape) != 2 or not shape[1]:
            raise ValueError(f"Y must be (n, T) with one column or more, got shape {tuple(shape)}: use reml for one.")
        require_length(int(shape[0]), spectrum.n, "Y", "the spectrum")
        if block is not None and block < 1:
            raise ValueError(f"block must be 1 response or more, got {block}.")
        self.T, self.dask = int(shape[1]), hasattr(Y, "dask")
        labelled = hasattr(Y, "columns") or hasattr(Y, "dims")
        chunks = getattr(Y, "chunks", None)
        chunk = int(np.max(chunks[1])) if chunks else None
        if block is None:
            block = max(1, _MEMORY // (8 * _COPIES * spectrum.n))
            if self.dask:
                block = chunk or block
            elif chunk:
                block = max(chunk, block // chunk * chunk)
        named = getattr(Y, "columns", None)
        self.names = tuple(f"y{t}" for t in range(self.T)) if named is None else tuple(map(str, named))
        if lazy and not (self.dask or labelled):  # what is stored is read where it is fitted
            import dask.array as da

            Y, self.dask = da.from_array(Y if hasattr(Y, "shape") else np.asarray(Y)), True
        self._Y: Any = Y.rechunk((-1, block)) if self.dask else Y if hasattr(Y, "shape") else np.asarray(Y)
        self._edges = [*range(0, self.T, block), self.T]

    def __len__(self) -> int:
        return len(self._edges) - 1

    def at(self, i: int) -> tuple[int, int]:
        return self._edges[i], self._edges[i + 1]

    def names_of(self, i: int) -> tuple[str, ...]:
        return self.names[slice(*self.at(i))]

    def values(self, i: int) -> Any:
        """Return the responses of a block: read, or delayed for a Dask array."""
        a, b = self.at(i)
        if isinstance(self._Y, pd.DataFrame):
            return self._Y.iloc[:, a:b]
        return self._Y[:, a:b].to_delayed().ravel()[0] if self.dask else self._Y[:, a:b]

    def read(self, i: int) -> Any:
        """Return the responses of a block in memory."""
        values = self.values(i)
        return values.compute() if self.dask else values


def _fit(spectrum: Spectrum, values: Any, names: Sequence[str], *, method: Method, missing: Missing) -> xr.Dataset:
    """Fit one block of responses."""
    block = read(values, "Y", ndim=(2,))
    # a block may happen to be square: that its columns are the responses is settled
    ids = block.ids or spectrum.ids or tuple(range(spectrum.n))
    responses = Labelled(block.values, ids, block.names or tuple(names))
    fits = reml(spectrum, responses, method=method, missing=missing).to_dataset()
    if missing == "by_pattern":
        # a block whose only pattern lacks a coefficient has it as NaN, as others have
        fits = fits.reindex(coef=list(spectrum.coef)).assign(pattern=("response", _keys(np.isnan(block.values))))
    return fits.assign_attrs({_MARK: checkpoints.fingerprint(values)})


def _keys(absent: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return a number for the missing rows of each response, the same in all blocks for the same rows."""
    packed = np.packbits(absent, axis=0).T
    digests = [blake2b(row.tobytes(), digest_size=8).digest() for row in packed]
    return np.array([int.from_bytes(digest, signed=True) for digest in digests], dtype=np.int64)


def _results(
    fit: Callable[..., xr.Dataset], spectrum: Spectrum, columns: _Columns, todo: list[int], client: Any
) -> Iterator[tuple[int, xr.Dataset]]:
    """Yield the number and the fits of each block as it finishes."""
    client = active_client() if client is None and columns.dask else client
    if client is None and not columns.dask:
        for i in todo:
            yield i, fit(spectrum, columns.values(i), columns.names_of(i))
        return
    import dask

    # one node of the graph, whose value Dask gives to any worker, and again to one that takes another's place
    shared = dask.delayed(spectrum, traverse=False)
    tasks = [dask.delayed(fit)(shared, columns.values(i), columns.names_of(i)) for i in todo]
    if client is None:
        for first in range(0, len(todo), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            yield from zip(todo[some], dask.compute(*tasks[some], scheduler="threads"), strict=True)
        return
    from distributed import as_completed

    # the spectrum is meant to be in the graph: no warning of its size
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PB"}):
        futures = dict(zip(client.compute(tasks), todo, strict=True))
    with client.as_current():
        for future in as_completed(list(futures)):
            yield futures.pop(future), future.result()


class _Store:
    """A directory with one file for each block of responses that is done."""

    def __init__(self, path: Path, columns: _Columns, about: dict[str, Any]) -> None:
        self.path, self.columns, self.about = path, columns, about

    def save(self, i: int, fits: xr.Dataset) -> None:
        arrays = {str(name): np.asarray(values) for name, values in fits.variables.items()}
        dims = {str(name): list(values.dims) for name, values in fits.variables.items()}
        about = self._about(i) | {"dims": dims, "coords": list(fits.coords), "attrs": fits.attrs}
        checkpoints.save(self._file(i), arrays, about)

    def load(self) -> dict[int, xr.Dataset]:
        """Return the blocks that are there, once they were found to be of these data."""
        numbers = [i for i in range(len(self.columns)) if self._file(i).exists()]
        others = sorted({f.name for f in self.path.glob("responses-*.npz")} - {self._file(i).name for i in numbers})
        if others:
            raise ValueError(
                f"the checkpoint {self.path} is of other data: it has {others[0]}, which is no block of these "
                f"{self.columns.T} responses. Give the same block=, name another directory, or remove it to begin anew."
            )
        out = {}
        for i in numbers:
            arrays, about = checkpoints.load(self._file(i))
            checkpoints.require_same(self._file(i), about, self._about(i))
            variables = {name: (about["dims"][name], array) for name, array in arrays.items()}
            out[i] = xr.Dataset(variables, attrs=about["attrs"]).set_coords(about["coords"])
        if out:  # one is compared with what is there now
            first = min(out)
            expected = {_MARK: checkpoints.fingerprint(self.columns.read(first))}
            checkpoints.require_same(self._file(first), out[first].attrs, expected)
        return out

    def _about(self, i: int) -> dict[str, Any]:
        return self.about | {"names": list(self.columns.names_of(i))}

    def _file(self, i: int) -> Path:
        a, b = self.columns.at(i)
        return self.path / f"responses-{a:09d}-{b:09d}.npz"
