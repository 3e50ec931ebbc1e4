"""InnerProducts: squares and products of the columns of [X W y], X projected out, and how they add up."""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, frozen
from pm_fastlmm.spectrum.streams.additive import AdditiveStatistics
from pm_fastlmm.spectrum.streams.row_blocks import CheckedRows, Columns
from pm_fastlmm.spectrum.streams.triangle import Parts, Triangle

type Route = Literal["gram", "tsqr"]

_SUMS = ("gram", "cross", "squares", "with_first")
_ARRAYS = (*_SUMS, "shift", "constants")
_CACHED = 2**18  # numbers in a piece of a block: what is done to them stays in the processor's cache
_PIECE = 1024  # rows of a piece at least, for which the sums are worth touching


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class InnerProducts(AdditiveStatistics):
    """
    The numbers of `KernelStatistics`, which documents them.

    A mean is subtracted, and X projected out of each block and of each sum of blocks, before anything is squared: every
    update adds positive numbers, and nothing cancels.
    """

    PARTS = ("X", "W", "y")
    OF_A_KIND = "the same columns and the same method"

    method: Route
    triangle: Triangle
    gram: FloatArray
    cross: FloatArray
    squares: FloatArray
    with_first: FloatArray
    shift: FloatArray
    constants: FloatArray

    @classmethod
    def empty(cls, block: CheckedRows, method: Route) -> Self:
        """Return empty statistics, with the columns of a block."""
        d, m, t = block.sizes
        head, inner = (d, m) if method == "gram" else (d + m, 0)
        return cls(
            n=0,
            dropped=0,
            columns=block.columns,
            method=method,
            triangle=Triangle(np.zeros((head, head)), np.zeros((head, inner + t))),
            gram=np.zeros((inner, inner)),
            cross=np.zeros((inner, t)),
            squares=np.zeros(t),
            with_first=np.zeros(t),
            shift=np.zeros(m + t),
            constants=np.full(d, np.nan),
        )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of columns of X, W and y."""
        d, t = self.constants.size, self.squares.size
        return d, self.shift.size - t, t

    @property
    def constant(self) -> int | None:
        """Which column of X is constant and not 0; None if there is none."""
        usable = np.flatnonzero(np.nan_to_num(self.constants) != 0)
        return int(usable[0]) if usable.size else None

    @property
    def ones(self) -> FloatArray:
        """Coordinates Qᵀ1 of a column of ones in the basis of the triangle, zeros where X has no constant."""
        j = self.constant
        return np.zeros(self.triangle.R.shape[0]) if j is None else self.triangle.R[:, j] / self.constants[j]

    def shifted(self, shift: FloatArray) -> Self:
        """
        Return the same statistics of rows from which `shift` (m + T,) was subtracted instead, exactly.

        Raises
        ------
        ValueError
            If X has no constant column, of which a shift is a multiple.
        """
        d = self.constants.size
        if (shift == self.shift).all():
            return self
        if self.constant is None:
            raise ValueError("X has no constant column, so that rows cannot be shifted without another model: shift 0.")
        by = np.r_[np.zeros(d), self.shift - shift]
        R, C = self.triangle
        moved = R + np.outer(self.ones, by[: len(R)]), C + np.outer(self.ones, by[len(R) :])
        return replace(self, triangle=Triangle(*map(frozen, moved)), shift=frozen(np.array(shift)))

    @property
    def piece_rows(self) -> int:
        """How many rows are summed at a time: they fit the processor's cache."""
        return max(4 * int(self.triangle.R.shape[0]), _CACHED // sum(self.sizes), _PIECE)

    def _add_piece(self, X: FloatArray, W: FloatArray, Y: FloatArray) -> Self:
        constants = np.where((X[0] == X).all(0), X[0], np.nan)
        if self.n:
            constants = np.where(constants == self.constants, constants, np.nan)
        if not (np.nan_to_num(constants) != 0).any():
            start = self.shifted(np.zeros_like(self.shift))
        elif self.n:
            start = self
        else:
            start = replace(self, shift=frozen(np.r_[W.mean(0), Y.mean(0)]))
        m = W.shape[1]
        parts: Parts = [(X, 0.0), (W, start.shift[:m]), (Y, start.shift[m:])]
        heads = 1 if self.method == "gram" else 2
        sums = start._append(parts[:heads], parts[heads:])
        return replace(sums, n=start.n + len(W), constants=frozen(constants))

    def _append(self, head: Parts, tail: Parts) -> Self:
        """Add rows less their shift, or the triangle of rows that have the same one."""
        triangle, rest = self.triangle.append(head, tail)
        m = self.gram.shape[0]
        W, Y = rest[:, :m], rest[:, m:]
        return replace(
            self,
            triangle=Triangle(*map(frozen, triangle)),
            gram=frozen(self.gram + W.T @ W),
            cross=frozen(self.cross + W.T @ Y),
            squares=frozen(self.squares + (Y**2).sum(0)),
            with_first=frozen(self.with_first + Y[:, 0] @ Y),
        )

    def _same_kind(self, other: Self) -> bool:
        return self.method == other.method

    def _add_sums(self, other: Self) -> Self:
        common = (self.constants == other.constants) & (np.nan_to_num(self.constants) != 0)
        shift = self.shift if common.any() else np.zeros_like(self.shift)
        left, right = self.shifted(shift), other.shifted(shift)
        out = left._append([(right.triangle.R, 0.0)], [(right.triangle.C, 0.0)])
        sums: dict[str, Any] = {name: frozen(getattr(out, name) + getattr(right, name)) for name in _SUMS}
        return replace(
            out,
            n=left.n + right.n,
            dropped=left.dropped + right.dropped,
            constants=frozen(np.where(common, self.constants, np.nan)),
            **sums,
        )

    def pack(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arrays and the description that a checkpoint keeps."""
        arrays = {name: getattr(self, name) for name in _ARRAYS} | self.triangle._asdict()
        columns = self.columns._asdict()
        return arrays, {"n": self.n, "dropped": self.dropped, "method": self.method, "columns": columns}

    @classmethod
    def unpack(cls, arrays: dict[str, Any], about: dict[str, Any]) -> Self:
        """Return the statistics of a checkpoint."""
        names = {part: None if of is None else tuple(of) for part, of in about["columns"].items()}
        return cls(
            n=about["n"],
            dropped=about["dropped"],
            columns=Columns(**names),
            method=about["method"],
            triangle=Triangle(frozen(arrays["R"]), frozen(arrays["C"])),
            **{name: frozen(arrays[name]) for name in _ARRAYS},
        )
