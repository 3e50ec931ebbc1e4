"""Labels of rows that are no observations, so that nobody takes them for some."""

from dataclasses import dataclass

from pm_fastlmm.base.arrays import Ids


@dataclass(frozen=True, slots=True, order=True)
class Direction:
    """The label of an equivalent row, which is no observation."""

    number: int
    observations: int


def are_directions(ids: Ids | None) -> bool:
    """Return whether labels are those of equivalent rows."""
    return bool(ids) and isinstance(next(iter(ids or ())), Direction)
