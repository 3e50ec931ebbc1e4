"""Rows of Dask arrays, whose statistics are computed and merged where the chunks are."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import require_length
from pm_fastlmm.spectrum.streams.checkpoint import fingerprint

# Chunks are merged in groups, where they are computed, before the result is fetched: at most so many groups, and none
# smaller than so many chunks. No number of processors is in it: a checkpoint may go on elsewhere.
_GROUPS, _SMALLEST = 100, 32


class DaskBlocks(Sequence[Any]):
    """
    Rows of Dask arrays, in groups of chunks; the statistics of a group are computed and merged by Dask's scheduler.

    `parts` are the arrays by the names that `reduce` has for them; the chunks of rows of `lead` are those of the work.
    Asking for group i computes it: with the active `distributed.Client` on its workers, otherwise on threads of this
    process. All groups from the first that was asked for are submitted to a cluster at once.
    """

    def __init__(
        self, parts: Mapping[str, Any], lead: str, *, reduce: Callable[..., Any], merge: Callable[[Any, Any], Any]
    ) -> None:
        try:
            import dask.array as da
            from dask import delayed
        except ImportError as error:
            raise ImportError("Dask arrays need Dask: pip install 'pm_fastlmm[distributed]'.") from error
        if not isinstance(parts[lead], da.Array):
            raise TypeError(
                f"{lead} must be a Dask array, got {type(parts[lead]).__name__}: use from_rows for anything else."
            )
        rows = parts[lead].chunks[0]
        if any(np.isnan(rows)):
            raise ValueError(f"the chunks of {lead} have unknown sizes: call {lead}.compute_chunk_sizes() first.")
        chunks = [_chunks(part, rows, name, lead) for name, part in parts.items()]
        self._blocks = list(zip(*chunks, strict=True))
        reduce = partial(_reduced, reduce, tuple(parts))
        leaves = [delayed(reduce)(*block) for block in self._blocks]
        self._size = max(_SMALLEST, -(-len(leaves) // _GROUPS))
        starts = range(0, len(leaves), self._size)
        self._groups = [_tree(leaves[i : i + self._size], partial(delayed(_merged), merge)) for i in starts]
        self.n = sum(rows)
        self._futures, self._marks = dict[int, Any](), dict[int, str]()

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self._groups)

    def mark(self, i: int) -> str:
        """Return the fingerprint of group i, which is that of its first chunk."""
        if i not in self._marks:
            from dask import delayed

            self._marks[i] = delayed(fingerprint)(*self._blocks[i * self._size]).compute()
        return self._marks[i]

    def __getitem__(self, i: Any) -> Any:
        """Return the statistics of group i."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        client = active_client()
        if client is None:
            statistics, self._marks[i] = self._groups[i].compute(scheduler="threads")
            return statistics
        if not self._futures:
            self._futures = dict(enumerate(client.compute(self._groups[i:]), start=i))
        statistics, self._marks[i] = self._futures.pop(i).result()
        return statistics


def _reduced(reduce: Callable[..., Any], names: tuple[str, ...], *block: Any) -> tuple[Any, str]:
    """Return the statistics of a chunk and its fingerprint."""
    return reduce(**dict(zip(names, block, strict=True))), fingerprint(*block)


def _merged(merge: Callable[[Any, Any], Any], a: tuple[Any, str], b: tuple[Any, str]) -> tuple[Any, str]:
    """Return the statistics of both, and the fingerprint of the first."""
    return merge(a[0], b[0]), a[1]


def active_client() -> Any:
    """Return the `distributed.Client` that was made in this process, None if there is none."""
    if "distributed" not in sys.modules:  # nobody can have made one
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def _chunks(part: Any, rows: tuple[int, ...], name: str, lead: str) -> Any:
    """Return an array as delayed chunks of so many rows, with all columns; None for each where there is no array."""
    import dask.array as da

    if part is None:
        return [None] * len(rows)
    array = part if isinstance(part, da.Array) else da.from_array(part)
    require_length(array.shape[0], sum(rows), name, lead)
    return array.rechunk((rows, *((size,) for size in array.shape[1:]))).to_delayed().ravel()


def _tree(leaves: list[Any], merge: Callable[[Any, Any], Any]) -> Any:
    """Merge neighbours in pairs, so that no task waits for more than two others."""
    while len(leaves) > 1:
        pairs = [leaves[i : i + 2] for i in range(0, len(leaves), 2)]
        leaves = [merge(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return leaves[0]
