"""Blocks of rows of X, W and y: how one is read and checked, and arrays that are read block by block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, Labelled, align, read, require_finite, require_length, require_range
from pm_fastlmm.base.choices import Missing, require_choice
from pm_fastlmm.spectrum.weights import require_weights

_FLOAT = 8


class Columns(NamedTuple):
    """Names of the columns of X and of W or x, None where they carried none, and of several responses, None for one."""

    coef: tuple[str, ...] | None
    factor: tuple[str, ...] | None
    responses: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class CheckedRows:
    """Rows of X, W and y that were read and checked; prior weights (n,), None where they have none."""

    values: tuple[FloatArray, FloatArray, FloatArray]
    columns: Columns
    dropped: int
    weights: FloatArray | None = None

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of columns of the parts."""
        first, second, third = self.values
        return first.shape[1], second.shape[1], third.shape[1]


def read_block(
    X: Any, W: Any, y: Any, missing: Missing, *, weights: Any = None, name: str = "W", ndim: tuple[int, ...] = (2,)
) -> CheckedRows:
    """
    Read a block of rows: X, y and weights aligned to W by id where they carry one, rows with NaN dropped if asked.

    `name` is what the user calls W.
    """
    require_choice("missing", missing, ("raise", "drop"))
    factor, response = read(W, name, ndim=ndim), read(y, "y", ndim=(1, 2))
    n = factor.values.shape[0]
    design = Labelled(np.zeros((n, 0)), None, None) if X is None else read(X, "X", ndim=(1, 2))
    given = {"X": design, name: factor, "y": response}
    if weights is not None:
        given["weights"] = read(weights, "weights", ndim=(1,))
    parts, called = [], tuple(given)
    for own, part in given.items():
        require_length(part.values.shape[0], n, own, name)
        values = part.take(align(factor.ids, part, name=own, reference_name=name))
        parts.append(values if values.ndim == 2 else values[:, None])
    names = response.names
    if response.values.ndim == 2 and names is None:
        names = tuple(f"y{t}" for t in range(response.values.shape[1]))
    columns = Columns(design.names, factor.names, names if response.values.ndim == 2 else None)
    extremes, dropped = [_extremes(part) for part in parts], 0
    if missing == "drop" and not np.isfinite(extremes).all():
        kept = ~np.logical_or.reduce([np.isnan(part).any(1) for part in parts])
        parts, dropped = [part[kept] for part in parts], n - int(kept.sum())
        extremes = [_extremes(part) for part in parts]
    for own, values, ends in zip(called, parts, extremes, strict=True):
        if not np.isfinite(ends).all():
            require_finite(values, own, "leave those rows out; missing='drop' drops rows with NaN, and counts them.")
        require_range(ends, own)
    w = parts[3][:, 0] if weights is not None else None
    if w is not None:
        require_weights(w, None)
    return CheckedRows((parts[0], parts[1], parts[2]), columns, dropped, w)


def _extremes(part: FloatArray) -> FloatArray:
    """Return the smallest and the largest entry: NaN and infinities show in them, without a temporary array."""
    return np.array([part.min(initial=0.0), part.max(initial=0.0)])


def choose_block_rows(columns: int, *, memory: int, chunk_rows: int | None = None) -> int:
    """
    Return how many rows of `columns` numbers fill half of `memory` bytes: a block, and its copy as floats.

    A multiple of the rows of a stored chunk, where the storage has chunks, so that each is read once.
    """
    rows = max(1, memory // (2 * _FLOAT * max(columns, 1)))
    if chunk_rows:
        rows = max(chunk_rows, rows // chunk_rows * chunk_rows)
    return rows


class RowBlocks(Sequence[tuple[Any, ...]]):
    """
    Blocks of consecutive rows of arrays, anything that can be sliced by rows; a block is read when it is asked for.

    `parts` are the arrays by their names, None for one that is not there, and `lead` is the one with the number of rows
    and the chunks.

    Raises
    ------
    ValueError
        If the lengths differ.
    """

    def __init__(
        self, parts: Mapping[str, Any], lead: str, *, block_rows: int | None = None, memory: int = 2**28
    ) -> None:
        self.parts, self.n = tuple(parts.values()), int(parts[lead].shape[0])
        given = {name: part for name, part in parts.items() if part is not None}
        for name, part in given.items():
            require_length(part.shape[0], self.n, name, lead)
        columns = sum(int(np.prod(part.shape[1:])) for part in given.values())
        chunks = getattr(parts[lead], "chunks", None)
        chosen = choose_block_rows(columns, memory=memory, chunk_rows=int(chunks[0]) if chunks else None)
        if block_rows is not None and block_rows < 1:
            raise ValueError(f"block_rows must be 1 or more, got {block_rows}: {chosen} rows fill {memory} bytes.")
        self.block_rows = chosen if block_rows is None else int(block_rows)

    def __len__(self) -> int:
        """Return the number of blocks."""
        return -(-self.n // self.block_rows)

    def __getitem__(self, i: Any) -> Any:
        """Read block i."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        rows = slice(i * self.block_rows, (i + 1) * self.block_rows)
        return tuple(None if part is None else _rows(part, rows) for part in self.parts)


def _rows(part: Any, rows: slice) -> Any:
    return part.iloc[rows] if hasattr(part, "iloc") else part[rows]
