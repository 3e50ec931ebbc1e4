"""Labels of rows that are no observations, so that nobody takes them for some."""

from dataclasses import dataclass

from pm_fastlmm.base.arrays import Ids


@dataclass(frozen=True, slots=True, order=True)
class Direction:
    """The label of a row of `TermStatistics`, which is no observation."""

    number: int
    observations: int


def are_directions(ids: Ids | None) -> bool:
    """Return whether labels are those of `TermStatistics`."""
    return bool(ids) and isinstance(next(iter(ids or ())), Direction)
