"""AdditiveStatistics: what rows contribute to a model, added up block by block, so that the rows need not be kept."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from pm_fastlmm.base.arrays import FloatArray, shown
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described
from pm_fastlmm.spectrum.streams.row_blocks import CheckedRows, Columns


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AdditiveStatistics(ReadOnlyArrays, Described, ABC):
    """
    Statistics of rows that come in three parts, in any split and in any order.

    What is common to all kinds is here: columns stay the same, rows that were dropped are counted, blocks are taken in
    pieces, streams go on from a checkpoint. A kind says what it sums of a piece, and how it adds the sums of others.

    Attributes
    ----------
    n : int
        Number of rows that were added up.
    dropped : int
        Number of rows that were left out for a missing value (`missing="drop"`).
    columns : Columns
        Names of the columns.
    """

    PARTS: ClassVar[tuple[str, str, str]]  # what the user calls the parts of a row
    OF_A_KIND: ClassVar[str]  # what two statistics must share to be merged

    n: int
    dropped: int
    columns: Columns

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of columns of the parts."""

    @property
    @abstractmethod
    def piece_rows(self) -> int:
        """How many rows are summed at a time."""

    @abstractmethod
    def pack(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arrays and the description that a checkpoint keeps."""

    @abstractmethod
    def update(self, *args: Any, **kwargs: Any) -> Self:
        """Return the statistics with one more block of rows."""

    @abstractmethod
    def _add_piece(self, first: FloatArray, second: FloatArray, third: FloatArray) -> Self:
        """Return the statistics with some rows more, of which there is one at least."""

    @abstractmethod
    def _same_kind(self, other: Self) -> bool:
        """Return whether the other statistics, of as many columns, can be merged with these."""

    @abstractmethod
    def _add_sums(self, other: Self) -> Self:
        """Return the statistics of the rows of both, of which either has some."""

    def _settled(self, before: int) -> Self:
        """Return the same once a block was added to so many rows."""
        return self

    @abstractmethod
    def _shown(self) -> str:
        """Return what there is besides the number of rows, as text."""

    def require_rows(self) -> None:
        """Raise a ValueError if there are no rows."""
        if not self.n:
            raise ValueError(f"no rows were added, {self.dropped} were dropped: there is nothing to fit.")

    def merge(self, other: Self) -> Self:
        """
        Return the statistics of both sets of rows together.

        Raises
        ------
        ValueError
            If they are of different kinds or columns.
        """
        kind = type(self).__name__
        if not isinstance(other, type(self)):
            raise TypeError(f"other must be {kind}, got {type(other).__name__}: use update for a block of rows.")
        if self.sizes != other.sizes or not self._same_kind(other):
            raise ValueError(
                f"the statistics are of different kinds, {self!r} and {other!r}: merge statistics of {self.OF_A_KIND}."
            )
        self._check_names(other.columns, "other")
        if not (self.n and other.n):
            some = self if self.n else other
            return replace(some, dropped=self.dropped + other.dropped)
        return self._add_sums(other)

    def _add(self, block: CheckedRows) -> Self:
        """Return the statistics with a block that was read, which is added piece by piece."""
        for name, found, size in zip(self.PARTS, block.sizes, self.sizes, strict=True):
            if found != size:
                raise ValueError(
                    f"{name} of this block has {found} columns but that of the blocks before had {size}: "
                    "all blocks have the same columns."
                )
        self._check_names(block.columns, "this block")
        out, size = replace(self, dropped=self.dropped + block.dropped), self.piece_rows
        for start in range(0, len(block.values[0]), size):
            out = out._add_piece(*(part[start : start + size] for part in block.values))
        return out._settled(self.n)

    def _check_names(self, columns: Columns, name: str) -> None:
        for part, ours, theirs in zip(self.PARTS, self.columns, columns, strict=True):
            if ours is not None and theirs is not None and ours != theirs:
                raise ValueError(
                    f"{part} of {name} has the columns {shown(theirs)}, before they were {shown(ours)}: "
                    "all blocks have the same columns in the same order."
                )

    def __repr__(self) -> str:
        """Show how many rows and columns there are."""
        left_out = f", {self.dropped} rows dropped" if self.dropped else ""
        return f"{type(self).__name__}({self.n} rows, {self._shown()}{left_out})"
