"""LevelSet: the labels to which the rows of a structure belong, and whether they are equal steps of an order."""

import datetime
import math
import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, shown

type Levels = tuple[Hashable, ...]

_NUMBERED = re.compile(r"(.*?)(\d+(?:\.\d+)?)(\D*)")


@dataclass(frozen=True, slots=True)
class LevelSet:
    """
    What the rows of a covariance structure are called.

    Attributes
    ----------
    labels : tuple
    name : str
        That of the term, for messages.
    what : str
        "levels" or "columns".
    unused : tuple
        Categories that were left out because they do not occur.
    parts : tuple of LevelSet
        The factors of whose combinations the labels are, the first varying slowest; empty for a single factor.
    sorted_from : str or None
        The factor whose labels were sorted, as nobody gave their order; None if somebody did.
    """

    labels: Levels
    name: str
    what: str = "levels"
    unused: Levels = ()
    parts: tuple["LevelSet", ...] = ()
    sorted_from: str | None = None

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.labels)

    @property
    def crossed(self) -> bool:
        """Whether the rows are all combinations of several factors."""
        return len(self.parts) > 1 and math.prod(map(len, self.parts)) == len(self)

    def pick(self, places: Sequence[int]) -> Self:
        """Return some of the rows."""
        return replace(self, labels=tuple(self.labels[i] for i in places))

    def require_size(self, size: int | None, described: str) -> None:
        """Raise a ValueError if a structure has another size."""
        if size is not None and size != len(self):
            raise ValueError(
                f"the covariance of term {self.name!r} has size {size}, but there are {len(self)} {self.what} "
                f"({shown(self.labels)}): {described}."
            )

    def require_steps(self) -> None:
        """
        Raise a ValueError if the rows are not one step apart, as the neighbours of `ar1` are.

        Numbers, dates and text that differs in a number alone are where they say. Other text has the order that it was
        given, and none if it was only sorted: April is not the first month.
        """
        if len(self.parts) > 1:
            raise ValueError(
                f"ar1 is over the {self.what} of term {self.name!r}, combinations of {len(self.parts)} factors, of "
                "which neighbours are not one step apart: give a structure for each factor, "
                "covariance.kronecker(covariance.identity(), covariance.ar1(...))."
            )
        if self.unused:
            raise ValueError(
                f"ar1 needs all steps, but {len(self.unused)} categories of term {self.name!r} without data were left "
                f"out ({shown(self.unused)}): give the factor itself, or incidence(factor, unused='keep')."
            )
        if self.sorted_from and _without_order(self.labels):
            raise ValueError(
                f"ar1 needs the order of the {self.what} of term {self.name!r}, which are text that nobody has put in "
                f"order; sorted, they are {shown(self.labels)}. Give them in their order: "
                f'pd.Categorical({self.sorted_from}, ["first", "second", ...], ordered=True).'
            )
        if not _equally_spaced(self.labels):
            remedy = (
                "give a Categorical whose categories are all the steps, those without data too."
                if self.what == "levels"
                else "give a column of zeros for each step without data, and the columns in the order of the steps."
            )
            raise ValueError(
                f"ar1 needs equally spaced {self.what}, but those of term {self.name!r} are not "
                f"({shown(self.labels)}): {remedy}"
            )


def _without_order(labels: Levels) -> bool:
    """Return whether sorting labels says nothing of their order: text that has no positions, of more than two."""
    return len(labels) > 2 and any(isinstance(label, str) for label in labels) and positions_of(labels) is None


def _equally_spaced(labels: Levels) -> bool:
    """Return whether labels that have positions are equally far from each other."""
    if len(labels) > 2 and all(isinstance(label, datetime.date) for label in labels):
        return any(map(_equal_steps, _calendars(pd.DatetimeIndex(labels))))
    positions = positions_of(labels)
    return positions is None or _equal_steps(positions)


def _equal_steps(positions: Any) -> bool:
    steps = np.diff(positions)
    return not len(steps) or bool(np.allclose(steps, steps[0], rtol=1e-6, atol=0))


def _calendars(dates: pd.DatetimeIndex) -> Iterator[Any]:
    """Yield dates by their time, in months if they are of one day of the month or of its last, in working days."""
    start = dates[0]
    yield (dates - start).total_seconds()
    if (dates.day == start.day).all() or dates.is_month_end.all():
        yield 12 * dates.year + dates.month
    if (dates.day_of_week < 5).all():
        yield np.busday_count(start.date(), dates.date.astype("datetime64[D]"))


def positions_of(labels: Levels) -> FloatArray | None:
    """Return where labels stand on a line, None if they do not say."""
    values: Any = [_number(label) for label in labels]
    if None in values:
        found = [_NUMBERED.fullmatch(label) if isinstance(label, str) else None for label in labels]
        if None in found or len({(m[1], m[3]) for m in found if m}) != 1:
            return None
        values = [float(m[2]) for m in found if m]
    return np.array(values, dtype=float)


def _number(label: Any) -> float | None:
    if isinstance(label, pd.Period):
        return float(label.ordinal)
    if isinstance(label, pd.Interval):
        return _number(label.mid)
    if isinstance(label, datetime.timedelta):
        return label.total_seconds()
    try:
        value = float(label)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None
