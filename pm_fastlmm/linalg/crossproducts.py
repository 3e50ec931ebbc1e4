"""CrossProducts: what [X W y] contribute to the model of K = WWᵀ, added up over blocks of rows."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from pm_fastlmm._arrays import FloatArray, frozen, shown
from pm_fastlmm._choices import Missing, require_choice
from pm_fastlmm._copies import ReadOnlyArrays
from pm_fastlmm._display import Described, listed
from pm_fastlmm.linalg.blocks import CheckedRows, Columns, RowBlocks, read_block
from pm_fastlmm.linalg.dask_blocks import DaskBlocks
from pm_fastlmm.linalg.lowrank import factor_cross_products
from pm_fastlmm.linalg.rotated import Rotated
from pm_fastlmm.linalg.spectrum import Spectrum
from pm_fastlmm.linalg.streaming import Checkpoint, Sums, add_up
from pm_fastlmm.linalg.triangle import Parts, Triangle

type Route = Literal["gram", "tsqr"]

_ARRAYS = ("gram", "cross", "squares", "with_first", "shift", "constants")
_CACHED = 2**18  # numbers in a piece of a block: what is done to them stays in the processor's cache
_PIECE = 1024  # rows of a piece at least, for which the sums are worth touching


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CrossProducts(ReadOnlyArrays, Described):
    """
    Additive statistics of [X W y], from which y ~ N(Xβ, σ²(WWᵀ + δI)) is fitted without its rows.

    Of n rows only matrices remain whose sizes are the numbers of columns, so that n is bounded by patience and not by
    memory. The rows come in blocks, in any split and in any order: `c.update(X, W, y)` adds a block, `c.merge(other)`
    the statistics of other rows, and each returns a new object. Then

        spectrum, rotated = c.factor()

    are what `reml`, `exact_posterior`, `FastLMM` and, of several responses, `scan` take; `equivalent_rows(c)` is what
    `StructuredLMM` takes for several terms. Build the first with `from_arrays`.

    Attributes
    ----------
    n : int
        Number of rows that were added up.
    dropped : int
        Number of rows that were left out for a missing value (`missing="drop"`).
    method : "gram" or "tsqr"
        "gram" adds up inner products of W and y once X is projected out, block by block; it is fast, and precise up to
        λ_max/δ of about 1e8. "tsqr" projects W out as well, and keeps the triangle of the QR factorisation of [X W]: it
        is as precise as the factorisation in memory, for some times the arithmetic.
    columns : Columns
        Names of the columns.
    triangle : Triangle
        R of X ("gram") or of [X W] ("tsqr"), and Qᵀ times the other columns.
    gram, cross : (m, m) and (m, T) arrays, or (0, 0) and (0, T)
        Inner products WᵀW and Wᵀy, their part along X left out; none for "tsqr", whose triangle has W.
    squares : (T,) array
        Squared norms of the responses, their part along X (and W, for "tsqr") left out.
    with_first : (T,) array
        Inner products of the responses with the first of them, in the same way.
    shift : (m + T,) array
        What was subtracted from each row of [W y]: the means of the first rows, which loses no digits to a mean that is
        large beside the standard deviation. X must have a constant column for that, 0 otherwise.
    constants : (d,) array
        The value of each column of X that has been the same in all rows so far, NaN for the others.

    Notes
    -----
    A mean is subtracted, and X projected out of each block and of each sum of blocks, before anything is squared: every
    update adds positive numbers, and nothing cancels. n rows cost n(m + T)² multiplications and additions (half of them
    saved by symmetry), plus 4nd(m + T) for the projection; "tsqr" 2n(d + m)². Ids of rows are not kept.

    References
    ----------
    Chan, Golub & LeVeque (1983), doi:10.1080/00031305.1983.10483115, for the shift; Demmel et al. (2012),
    doi:10.1137/080731992, for TSQR.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(1)
    >>> effects = rng.normal(size=20)
    >>> def block(rows):
    ...     X, W = np.column_stack([np.ones(rows), rng.normal(size=rows)]), rng.normal(size=(rows, 20)) / np.sqrt(20)
    ...     return X, W, X @ [5.0, 1.0] + W @ effects + rng.normal(size=rows)
    >>> c = flmm.CrossProducts.from_arrays(*block(1000))
    >>> for _ in range(9):
    ...     c = c.update(*block(1000))
    >>> c
    CrossProducts(10000 rows, X: 2 columns, W: 20 columns, 1 response, method='gram')
    >>> spectrum, rotated = c.factor()
    >>> fit = flmm.reml(spectrum, rotated)
    >>> fit.converged, fit.beta.round(1).tolist()
    (True, [5.0, 1.0])
    """

    n: int
    dropped: int
    method: Route
    columns: Columns
    triangle: Triangle
    gram: FloatArray
    cross: FloatArray
    squares: FloatArray
    with_first: FloatArray
    shift: FloatArray
    constants: FloatArray

    @classmethod
    def from_arrays(cls, X: Any, W: Any, y: Any, *, method: Route = "gram", missing: Missing = "raise") -> Self:
        """
        Return the statistics of a first block of rows.

        Parameters
        ----------
        X : (n, d) array or DataFrame, or None
            Fixed-effects design; an intercept is not added. None for no fixed effects.
        W : (n, m) array or DataFrame
            Rows of the factor of K = WWᵀ: standardised markers divided by √m, an incidence matrix, basis functions.
            Scale it with constants that are the same for all blocks.
        y : (n,) or (n, T) array, Series or DataFrame
            One response, or several.
        method : {"gram", "tsqr"}
            See the class.
        missing : {"raise", "drop"}
            Whether a NaN is an error, or its row is left out and counted in `dropped`.

        Raises
        ------
        ValueError
            If lengths differ, a value is infinite or (with missing="raise") NaN, or the columns are none.
        """
        require_choice("method", method, Route)
        block = read_block(X, W, y, missing)
        d, m, t = (part.shape[1] for part in block.values)
        if not m:
            raise ValueError("W has no columns: without a factor of K there is nothing but ordinary least squares.")
        head, inner = (d, m) if method == "gram" else (d + m, 0)
        empty = cls(
            n=0,
            dropped=0,
            method=method,
            columns=block.columns,
            triangle=Triangle.empty(head, inner + t),
            gram=np.zeros((inner, inner)),
            cross=np.zeros((inner, t)),
            squares=np.zeros(t),
            with_first=np.zeros(t),
            shift=np.zeros(m + t),
            constants=np.full(d, np.nan),
        )
        return empty._add(block)

    @classmethod
    def from_blocks(
        cls,
        blocks: Iterable[tuple[Any, Any, Any]],
        *,
        method: Route = "gram",
        missing: Missing = "raise",
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: float = 60.0,
        total_rows: int | None = None,
        progressbar: bool = True,
    ) -> Self:
        """
        Add up blocks of rows as they come, with one block in memory at a time.

        Parameters
        ----------
        blocks : iterable of (X, W, y)
            A generator that reads files, or a sequence. After an interruption the same blocks are given again, from the
            first: those that are done are passed over (those of a sequence are not even read).
        method, missing
            As in `from_arrays`.
        checkpoint : path, optional
            A file in which the statistics are kept, so that an interrupted pass goes on where it was. It is replaced as
            a whole, and refused when its data are not those of the blocks.
        checkpoint_every : float
            Seconds between two writings of it; it is written too when an exception or the end comes.
        total_rows : int, optional
            For the progress bar.
        progressbar : bool

        Raises
        ------
        ValueError
            As `update`, if there are no blocks, or the checkpoint is of other data.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> def blocks():
        ...     for seed in range(3):
        ...         rng = np.random.default_rng(seed)
        ...         yield np.ones((100, 1)), rng.normal(size=(100, 5)), rng.normal(size=100)
        >>> flmm.CrossProducts.from_blocks(blocks(), progressbar=False).n
        300
        """
        sums: Sums[Self] = Sums(
            first=lambda block: cls.from_arrays(*block, method=method, missing=missing),
            add=lambda c, block: c.update(*block, missing=missing),
            rows=_rows,
            pack=cls._pack,
            unpack=cls._unpack,
        )
        kept = _checkpoint(checkpoint, checkpoint_every, method, missing)
        return add_up(blocks, sums, checkpoint=kept, total_rows=total_rows, show=progressbar)

    @classmethod
    def from_rows(
        cls, X: Any, W: Any, y: Any, *, block_rows: int | None = None, memory: int = 2**28, **options: Any
    ) -> Self:
        """
        Add up the rows of arrays that are sliced from where they are stored: memory-mapped, Zarr, HDF5.

        Parameters
        ----------
        X, W, y
            As in `from_arrays`: anything with a shape that can be sliced by rows.
        block_rows : int, optional
            Rows to read at a time. By default what fills `memory`, in whole chunks of W where it has chunks.
        memory : int
            Bytes that a block may take, with its copy as floats.
        **options
            As in `from_blocks`.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> rng = np.random.default_rng(0)
        >>> X, W, y = np.ones((1000, 1)), rng.normal(size=(1000, 5)), rng.normal(size=1000)
        >>> flmm.CrossProducts.from_rows(X, W, y, block_rows=300, progressbar=False).n
        1000
        """
        blocks = RowBlocks(X, W, y, block_rows=block_rows, memory=memory)
        return cls.from_blocks(blocks, total_rows=blocks.n, **options)

    @classmethod
    def from_dask(
        cls,
        X: Any,
        W: Any,
        y: Any,
        *,
        method: Route = "gram",
        missing: Missing = "raise",
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: float = 60.0,
        progressbar: bool = True,
    ) -> Self:
        """
        Add up Dask arrays, chunk by chunk: on the cluster of the active `distributed.Client`, or on threads.

        Each chunk of rows is reduced where it is, and statistics, not rows, travel. What a lost worker had is computed
        again by Dask.

        Parameters
        ----------
        X, W, y : dask arrays
            As in `from_arrays`; the chunks of rows of W are those of the work. X and y may be arrays in memory.
        method, missing, checkpoint, checkpoint_every, progressbar
            As in `from_blocks`.

        Examples
        --------
        >>> import dask.array as da
        >>> import pm_fastlmm as flmm
        >>> W = da.random.default_rng(0).normal(size=(1000, 5), chunks=(100, 5))
        >>> X, y = da.ones((1000, 1), chunks=(100, 1)), W.sum(axis=1)
        >>> flmm.CrossProducts.from_dask(X, W, y, progressbar=False).n
        1000
        """
        leaf = partial(cls.from_arrays, method=method, missing=missing)
        groups = DaskBlocks(X, W, y, reduce=leaf, merge=cls.merge)
        sums: Sums[Self] = Sums(
            first=lambda part: part,
            add=lambda c, part: c.merge(part),
            rows=_rows,
            pack=cls._pack,
            unpack=cls._unpack,
        )
        kept = _checkpoint(checkpoint, checkpoint_every, method, missing)
        return add_up(groups, sums, checkpoint=kept, total_rows=groups.n, show=progressbar)

    def update(self, X: Any, W: Any, y: Any, *, missing: Missing = "raise") -> Self:
        """
        Return the statistics with one more block of rows.

        Raises
        ------
        ValueError
            As `from_arrays`, and if the columns are not those of the blocks before.
        """
        block = read_block(X, W, y, missing)
        d, m, t = self.sizes
        for name, part, size in zip(("X", "W", "y"), block.values, (d, m, t), strict=True):
            if part.shape[1] != size:
                raise ValueError(
                    f"{name} of this block has {part.shape[1]} columns but that of the blocks before had {size}: "
                    "all blocks have the same columns."
                )
        self._check_columns(block.columns, "this block")
        return self._add(block)

    def merge(self, other: Self) -> Self:
        """
        Return the statistics of the rows of both.

        Raises
        ------
        ValueError
            If the columns or the methods differ.
        """
        if not isinstance(other, CrossProducts):
            raise TypeError(f"other must be CrossProducts, got {type(other).__name__}: use update for a block of rows.")
        if other.method != self.method or other.sizes != self.sizes:
            raise ValueError(
                f"the statistics are of different kinds, {self!r} and {other!r}: "
                "merge statistics of the same columns and the same method."
            )
        self._check_columns(other.columns, "other")
        if not (self.n and other.n):
            some = self if self.n else other
            return replace(some, dropped=self.dropped + other.dropped)
        common = (self.constants == other.constants) & (np.nan_to_num(self.constants) != 0)
        shift = self.shift if common.any() else np.zeros_like(self.shift)
        left, right = self.shifted(shift), other.shifted(shift)
        sums = left._append([(right.triangle.R, 0.0)], [(right.triangle.C, 0.0)])
        return replace(
            sums,
            n=left.n + right.n,
            dropped=left.dropped + right.dropped,
            gram=frozen(sums.gram + right.gram),
            cross=frozen(sums.cross + right.cross),
            squares=frozen(sums.squares + right.squares),
            with_first=frozen(sums.with_first + right.with_first),
            constants=frozen(np.where(common, self.constants, np.nan)),
        )

    def factor(self) -> tuple[Spectrum, Rotated]:
        """
        Return what `Spectrum.from_factor(W, X)` and `spectrum.rotate(y)` would, without anything that has rows.

        Raises
        ------
        ValueError
            If there are no rows, or X leaves no degrees of freedom.

        Notes
        -----
        Costs O(m³). The spectrum fits, samples and predicts any rows that are given to it; it has no basis, so that
        `blup()`, `pev()` and predictions of the training rows raise an error that says what to do.
        """
        if not self.n:
            raise ValueError(f"no rows were added, {self.dropped} were dropped: there is nothing to fit.")
        return factor_cross_products(self)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of columns of X, W and y."""
        d, t = self.constants.size, self.squares.size
        return d, self.shift.size - t, t

    @property
    def constant(self) -> int | None:
        """Which column of X is the same number, not 0, in all rows; None if there is none."""
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
        h = self.triangle.R.shape[0]
        moved = self.triangle.add_column_multiples(self.ones, by[:h], by[h:])
        return replace(self, triangle=Triangle(*map(frozen, moved)), shift=frozen(np.array(shift)))

    def _add(self, block: CheckedRows) -> Self:
        """Add a block in pieces that fit the processor's cache."""
        out, n = replace(self, dropped=self.dropped + block.dropped), block.values[0].shape[0]
        size = max(4 * self.triangle.R.shape[0], _CACHED // sum(self.sizes), _PIECE)
        for start in range(0, n, size):
            out = out._add_piece(*(part[start : start + size] for part in block.values))
        return out

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

    def _pack(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arrays, and what else there is, as a checkpoint keeps them."""
        arrays = {name: getattr(self, name) for name in _ARRAYS} | self.triangle._asdict()
        names = {"coef": self.columns.coef, "factor": self.columns.factor, "responses": self.columns.responses}
        return arrays, {"n": self.n, "dropped": self.dropped, "method": self.method, "columns": names}

    @classmethod
    def _unpack(cls, arrays: dict[str, Any], about: dict[str, Any]) -> Self:
        names = {part: None if of is None else tuple(of) for part, of in about["columns"].items()}
        return cls(
            n=about["n"],
            dropped=about["dropped"],
            method=about["method"],
            columns=Columns(**names),
            triangle=Triangle(frozen(arrays["R"]), frozen(arrays["C"])),
            **{name: frozen(arrays[name]) for name in _ARRAYS},
        )

    def _check_columns(self, columns: Columns, name: str) -> None:
        pairs = {
            "X": (self.columns.coef, columns.coef),
            "W": (self.columns.factor, columns.factor),
            "y": (self.columns.responses, columns.responses),
        }
        for part, (ours, theirs) in pairs.items():
            if ours is not None and theirs is not None and ours != theirs:
                raise ValueError(
                    f"{part} of {name} has the columns {shown(theirs)}, before they were {shown(ours)}: "
                    "all blocks have the same columns in the same order."
                )

    def __repr__(self) -> str:
        """Show how many rows and columns there are."""
        d, m, t = self.sizes
        left_out = f", {self.dropped} rows dropped" if self.dropped else ""
        return (
            f"CrossProducts({self.n} rows, X: {d} columns, W: {m} columns, "
            f"{t} response{'s' if t != 1 else ''}, method={self.method!r}{left_out})"
        )

    def _facts(self) -> dict[str, Any]:
        parts = zip("XWy", (self.columns.coef, self.columns.factor, self.columns.responses), self.sizes, strict=True)
        columns = {
            f"columns of {part}": size if names is None else f"{size}: {listed(names)}" for part, names, size in parts
        }
        return {"rows": self.n, "rows dropped": self.dropped, **columns, "method": self.method}


def _rows(c: CrossProducts) -> int:
    return c.n + c.dropped


def _checkpoint(path: Any, every: float, method: Route, missing: Missing) -> Checkpoint | None:
    return None if path is None else Checkpoint(Path(path), every, {"method": method, "missing": missing})
