"""A pass over blocks of rows: how far it is, and how it goes on after an interruption."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Self

from pm_fastlmm.base.choices import Missing
from pm_fastlmm.base.display import progress
from pm_fastlmm.spectrum.streams import checkpoint as checkpoints
from pm_fastlmm.spectrum.streams.additive import AdditiveStatistics


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Where a pass is written down and how often, in seconds; `about` is what must be the same when it goes on."""

    path: Path
    every: float
    about: Mapping[str, Any]

    @classmethod
    def at(cls, path: str | PathLike[str] | None, every: float, **about: Any) -> Self | None:
        """Return the checkpoint at a path, None where there is none."""
        return None if path is None else cls(Path(path), every, about)


class _Position[S: AdditiveStatistics](NamedTuple):
    """The statistics of the blocks that are done, how many, and the fingerprints of the first and the last of them."""

    state: S | None
    done: int
    marks: Mapping[str, str]


def add_up[S: AdditiveStatistics](
    blocks: Iterable[Any],
    start: Callable[..., S],
    unpack: Callable[[dict[str, Any], dict[str, Any]], S],
    *,
    missing: Missing,
    checkpoint: Checkpoint | None,
    total_rows: int | None,
    progressbar: bool,
) -> S:
    """
    Return the statistics of all blocks; with a checkpoint, go on where an earlier pass over them was interrupted.

    A block is rows, of which `start` makes the first statistics, or statistics of rows. `unpack` undoes `pack`.

    Raises
    ------
    ValueError
        If there is no block, or the checkpoint is of other data.
    """
    at: _Position[S] = _Position(None, 0, {})
    if checkpoint is not None and checkpoint.path.exists():
        arrays, about = checkpoints.load(checkpoint.path)
        checkpoints.require_same(checkpoint.path, about, checkpoint.about)
        at = _Position(unpack(arrays, about), about["blocks"], about["marks"])
    saved, written = at.done, time.monotonic()
    count = f" of {len(blocks)}" if isinstance(blocks, Sequence) else ""
    with progress("rows", total_rows, show=progressbar) as advance:
        if at.state is not None:
            advance(at.state.n + at.state.dropped, f"{at.done}{count} blocks, resumed")
        try:
            for block in _after(blocks, at, checkpoint):
                state = _fold(at.state, block, start, missing)
                marks = {}
                if checkpoint is not None:
                    mark = _mark(blocks, at.done, block)
                    marks = {"first": at.marks.get("first", mark), "last": mark}
                at = _Position(state, at.done + 1, marks)  # at once: an interrupt finds the old or the new
                advance(state.n + state.dropped, f"{at.done}{count} blocks")
                if checkpoint is not None and time.monotonic() - written >= checkpoint.every:
                    _save(checkpoint, at)
                    saved, written = at.done, time.monotonic()
        finally:
            if checkpoint is not None and at.done > saved:
                _save(checkpoint, at)
    if at.state is None:
        raise ValueError("there are no blocks: the iterable that was given is empty, or was used up before.")
    return at.state


def _fold(state: Any, block: Any, start: Callable[..., Any], missing: Missing) -> Any:
    """Return the statistics with one more block; there are none before the first."""
    if isinstance(block, AdditiveStatistics):
        return block if state is None else state.merge(block)
    return start(*block) if state is None else state.update(*block, missing=missing)


def _save(checkpoint: Checkpoint, at: _Position[Any]) -> None:
    assert at.state is not None
    arrays, about = at.state.pack()
    checkpoints.save(checkpoint.path, arrays, {**about, **checkpoint.about, "blocks": at.done, "marks": at.marks})


def _after(blocks: Iterable[Any], at: _Position[Any], checkpoint: Checkpoint | None) -> Iterator[Any]:
    """Return the blocks that are not done, once those that are were found to be the ones of the checkpoint."""
    done = at.done
    if not done:
        return iter(blocks)
    assert checkpoint is not None
    marks: dict[int, str]
    rest: Iterator[Any]
    if isinstance(blocks, Sequence):
        marks = {i: _mark(blocks, i) for i in (0, done - 1) if done <= len(blocks)}
        rest = (blocks[i] for i in range(done, len(blocks)))
    else:
        rest = iter(blocks)
        passed = enumerate(itertools.islice(rest, done))
        marks = {i: _mark(blocks, i, block) for i, block in passed if i in (0, done - 1)}
    if done - 1 not in marks:
        raise ValueError(
            f"the checkpoint {checkpoint.path} is of other data: it has {done} blocks, and there are fewer. "
            "Name another file, or remove it to begin anew."
        )
    checkpoints.require_same(checkpoint.path, at.marks, {"first": marks[0], "last": marks[done - 1]})
    return rest


def _mark(blocks: Iterable[Any], i: int, block: Any = None) -> str:
    """Return the fingerprint of block i, as its source gives it or from its rows."""
    if hasattr(blocks, "mark"):
        return str(blocks.mark(i))
    if block is None:
        assert isinstance(blocks, Sequence)
        block = blocks[i]
    return checkpoints.fingerprint(*block)
