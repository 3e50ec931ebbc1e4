"""A pass over blocks of rows: how far it is, and how it goes on after an interruption."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pm_fastlmm._display import progress
from pm_fastlmm.linalg import checkpoint as checkpoints


@dataclass(frozen=True, slots=True, eq=False)
class Sums[S]:
    """How statistics S are made: of a first block, with one more block, and as arrays with a description."""

    first: Callable[[Any], S]
    add: Callable[[S, Any], S]
    rows: Callable[[S], int]
    pack: Callable[[S], tuple[dict[str, Any], dict[str, Any]]]
    unpack: Callable[[dict[str, Any], dict[str, Any]], S]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Where a pass is written down and how often, in seconds; `about` is what must be the same when it goes on."""

    path: Path
    every: float
    about: Mapping[str, Any]


class _Position[S](NamedTuple):
    """The statistics of the blocks that are done, how many, and the fingerprints of the first and the last of them."""

    state: S | None
    done: int
    marks: Mapping[str, str]


def add_up[S](
    blocks: Iterable[Any], sums: Sums[S], *, checkpoint: Checkpoint | None, total_rows: int | None, show: bool
) -> S:
    """
    Return the statistics of all blocks; with a checkpoint, go on where an earlier pass over them was interrupted.

    Raises
    ------
    ValueError
        If there is no block, or the checkpoint is of other data.
    """
    at: _Position[S] = _Position(None, 0, {})
    if checkpoint is not None and checkpoint.path.exists():
        at = _resume(checkpoint, sums.unpack)
    saved, written = at.done, time.monotonic()
    count = f" of {len(blocks)}" if isinstance(blocks, Sequence) else ""
    with progress("rows", total_rows, show=show) as advance:
        if at.state is not None:
            advance(sums.rows(at.state), f"{at.done}{count} blocks, resumed")
        try:
            for block in _after(blocks, at, checkpoint):
                state = sums.first(block) if at.state is None else sums.add(at.state, block)
                marks = {}
                if checkpoint is not None:
                    mark = _mark(blocks, at.done, block)
                    marks = {"first": at.marks.get("first", mark), "last": mark}
                at = _Position(state, at.done + 1, marks)  # at once: an interrupt finds the old or the new
                advance(sums.rows(state), f"{at.done}{count} blocks")
                if checkpoint is not None and time.monotonic() - written >= checkpoint.every:
                    _save(checkpoint, at, sums)
                    saved, written = at.done, time.monotonic()
        finally:
            if checkpoint is not None and at.done > saved:
                _save(checkpoint, at, sums)
    if at.state is None:
        raise ValueError("there are no blocks: the iterable that was given is empty, or was used up before.")
    return at.state


def _save[S](checkpoint: Checkpoint, at: _Position[S], sums: Sums[S]) -> None:
    assert at.state is not None
    arrays, about = sums.pack(at.state)
    checkpoints.save(checkpoint.path, arrays, {**about, **checkpoint.about, "blocks": at.done, "marks": at.marks})


def _resume[S](checkpoint: Checkpoint, unpack: Callable[[dict[str, Any], dict[str, Any]], S]) -> _Position[S]:
    arrays, about = checkpoints.load(checkpoint.path)
    checkpoints.require_same(checkpoint.path, about, checkpoint.about)
    return _Position(unpack(arrays, about), about["blocks"], about["marks"])


def _after(blocks: Iterable[Any], at: _Position[Any], checkpoint: Checkpoint | None) -> Iterator[Any]:
    """Return the blocks that are not done, once those that are were found to be the ones of the checkpoint."""
    done = at.done
    if not done:
        return iter(blocks)
    assert checkpoint is not None
    passed: dict[str, str] = {}
    rest: Iterator[Any]
    if isinstance(blocks, Sequence):
        if len(blocks) >= done:
            passed = {"first": _mark(blocks, 0), "last": _mark(blocks, done - 1)}
        rest = (blocks[i] for i in range(done, len(blocks)))
    else:
        rest = iter(blocks)
        for i, block in enumerate(itertools.islice(rest, done)):
            if i in (0, done - 1):
                mark = _mark(blocks, i, block)
                passed = {"first": passed.get("first", mark)} | ({"last": mark} if i == done - 1 else {})
    if "last" not in passed:
        raise ValueError(
            f"the checkpoint {checkpoint.path} is of other data: it has {done} blocks, and there are fewer. "
            "Name another file, or remove it to begin anew."
        )
    checkpoints.require_same(checkpoint.path, at.marks, passed)
    return rest


def _mark(blocks: Iterable[Any], i: int, block: Any = None) -> str:
    """Return the fingerprint of block i, as its source gives it or from its rows."""
    if hasattr(blocks, "mark"):
        return str(blocks.mark(i))
    if block is None:
        assert isinstance(blocks, Sequence)
        block = blocks[i]
    return checkpoints.fingerprint(*block)
