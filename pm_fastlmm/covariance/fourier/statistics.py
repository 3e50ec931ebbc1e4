"""FourierStatistics: what rows of (x, y, X) contribute to a Gaussian process, added up by nonuniform FFTs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from pm_fastlmm._arrays import FloatArray, Labelled, columns_in_order, frozen, shown
from pm_fastlmm._choices import Missing
from pm_fastlmm._copies import ReadOnlyArrays
from pm_fastlmm._display import Described
from pm_fastlmm.covariance.fourier.basis import FourierBasis
from pm_fastlmm.covariance.fourier.frame import Frame
from pm_fastlmm.covariance.fourier.nufft import ComplexArray, to_modes
from pm_fastlmm.covariance.fourier.products import project
from pm_fastlmm.linalg.blocks import RowBlocks, read_block
from pm_fastlmm.linalg.checkpoint import fingerprint
from pm_fastlmm.linalg.dask_blocks import DaskBlocks
from pm_fastlmm.linalg.feature_products import FourierProducts
from pm_fastlmm.linalg.streaming import Checkpoint, Sums, add_up

_SETTLED = 10_000  # rows after which the frame is good enough for all that come
_PIECE = 2**21  # rows of one nonuniform FFT: some 200 MB while it runs


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FourierStatistics(ReadOnlyArrays, Described):
    """
    Additive statistics of (x, y, X), from which y = Xβ + f(x) + e is fitted without its rows.

    `s.update(x, y, X)` adds a block of rows, `s.merge(other)` the statistics of other rows, in any split and any order;
    each returns a new object. Build the first with `basis.statistics` or one of the constructors.

    Attributes
    ----------
    basis : FourierBasis
    n, dropped : int
        Rows that were added up, and left out for a missing value (`missing="drop"`).
    coef : tuple of str or None
        Names of the columns of X, None where they had none.
    frame : Frame
        In which coordinates X and y are added up.
    toeplitz : (4m₁ + 1, …) complex array
        Σ_i exp(-2πi (h∘j)ᵀx_i): the products of the features with each other.
    modes : (r + 1, 2m₁ + 1, …) complex array
        The same sums weighted with the columns of X and with y: their products with the features.
    gram : (r + 1, r + 1) array
        Inner products of the columns of X and y.

    Notes
    -----
    One FFT for the features and y together, and one for each two columns of X. What is added up is y less the least
    squares fit of the first block, and the columns of X orthogonalised on it (`frame`), so that nothing is lost to an
    offset or a trend that is large beside the noise.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(size=2000)
    >>> y = np.sin(6 * x) + rng.normal(size=2000)
    >>> basis = flmm.FourierBasis(x, "se", lengthscale=(0.1, 1.0))
    >>> first = basis.statistics(x[:500], y[:500], np.ones(500))
    >>> first.update(x[500:], y[500:], np.ones(1500))
    FourierStatistics(2000 rows, X: 1 column, 85 features)
    """

    basis: FourierBasis
    n: int
    dropped: int
    coef: tuple[str, ...] | None
    frame: Frame
    toeplitz: ComplexArray
    modes: ComplexArray
    gram: FloatArray

    @classmethod
    def from_arrays(cls, basis: FourierBasis, x: Any, y: Any, X: Any = None, *, missing: Missing = "raise") -> Self:
        """
        Return the statistics of a first block of rows.

        Parameters
        ----------
        basis : FourierBasis
        x : (n,) or (n, D) array
        y : (n,) array or Series
        X : (n, r) array or DataFrame, optional
            Fixed-effects design; an intercept is not added.
        missing : {"raise", "drop"}
            Whether a NaN is an error, or its row is left out and counted in `dropped`.

        Raises
        ------
        ValueError
            If lengths differ, values are not finite, or points lie outside the domain of the basis.
        """
        rows = read_rows(basis, x, y, X, missing)
        basis = basis.named(rows.coordinates)
        big = tuple(4 * m + 1 for m in basis.grid.largest)
        small = tuple(2 * m + 1 for m in basis.grid.largest)
        r = rows.design.shape[1]
        empty = cls(
            basis, 0, 0, rows.coef, Frame.of_block(rows.design, rows.y),
            np.zeros(big, dtype=complex), np.zeros((r + 1, *small), dtype=complex), np.zeros((r + 1, r + 1)),
        )  # fmt: skip
        return empty._add(rows)

    @classmethod
    def from_blocks(
        cls,
        basis: FourierBasis,
        blocks: Iterable[tuple[Any, ...]],
        *,
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
        basis : FourierBasis
        blocks : iterable of (x, y) or (x, y, X)
        missing
            As in `from_arrays`.
        checkpoint, checkpoint_every, total_rows, progressbar
            As in `CrossProducts.from_blocks`.

        Raises
        ------
        ValueError
            As `update`, if there are no blocks, or the checkpoint is of other data.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> basis = flmm.FourierBasis(lengthscale=(0.1, 1.0), domain=(0, 1), n=300)
        >>> def blocks():
        ...     for seed in range(3):
        ...         rng = np.random.default_rng(seed)
        ...         yield rng.uniform(size=100), rng.normal(size=100)
        >>> flmm.FourierStatistics.from_blocks(basis, blocks(), progressbar=False).n
        300
        """
        sums: Sums[Self] = Sums(
            first=lambda block: cls.from_arrays(basis, *block, missing=missing),
            add=lambda s, block: s.update(*block, missing=missing),
            rows=_rows,
            pack=cls._pack,
            unpack=partial(cls._unpack, basis),
        )
        kept = _checkpoint(basis, checkpoint, checkpoint_every, missing)
        return add_up(blocks, sums, checkpoint=kept, total_rows=total_rows, show=progressbar)

    @classmethod
    def from_rows(
        cls, basis: FourierBasis, x: Any, y: Any, X: Any = None, *, block_rows: int = _PIECE, **options: Any
    ) -> Self:
        """
        Add up the rows of arrays that are sliced from where they are stored: memory-mapped, Zarr, HDF5.

        `block_rows` are read at a time; the options are those of `from_blocks`.
        """
        rows = RowBlocks(X, x, y, block_rows=block_rows, name="x")
        return cls.from_blocks(basis, _Reordered(rows), total_rows=rows.n, **options)

    @classmethod
    def from_dask(
        cls,
        basis: FourierBasis,
        x: Any,
        y: Any,
        X: Any = None,
        *,
        missing: Missing = "raise",
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: float = 60.0,
        progressbar: bool = True,
    ) -> Self:
        """
        Add up Dask arrays, chunk by chunk: on the cluster of the active `distributed.Client`, or on threads.

        x is a Dask array (n,) or (n, D), whose chunks are those of the work; the other arguments are those of
        `from_blocks`.

        Examples
        --------
        >>> import dask.array as da
        >>> import pm_fastlmm as flmm
        >>> basis = flmm.FourierBasis(lengthscale=(0.1, 1.0), domain=(0, 1), n=1000)
        >>> x = da.random.default_rng(0).random(size=1000, chunks=100)
        >>> flmm.FourierStatistics.from_dask(basis, x, da.sin(x), progressbar=False).n
        1000
        """
        leaf = partial(_reduced, cls, basis, missing)
        groups = DaskBlocks(X, x[:, None] if x.ndim == 1 else x, y, reduce=leaf, merge=cls.merge, name="x")
        sums: Sums[Self] = Sums(
            first=lambda part: part,
            add=lambda s, part: s.merge(part),
            rows=_rows,
            pack=cls._pack,
            unpack=partial(cls._unpack, basis),
        )
        kept = _checkpoint(basis, checkpoint, checkpoint_every, missing)
        return add_up(groups, sums, checkpoint=kept, total_rows=groups.n, show=progressbar)

    def update(self, x: Any, y: Any, X: Any = None, *, missing: Missing = "raise") -> Self:
        """
        Return the statistics with one more block of rows.

        Raises
        ------
        ValueError
            As `from_arrays`, and if the columns of X are not those of the blocks before.
        """
        rows = read_rows(self.basis, x, y, X, missing)
        if rows.design.shape[1] != self.frame.size:
            raise ValueError(
                f"X of this block has {rows.design.shape[1]} columns but that of the blocks before had "
                f"{self.frame.size}: all blocks have the same columns."
            )
        self._check_columns(rows.coef, "this block")
        return self._add(rows)

    def merge(self, other: Self) -> Self:
        """
        Return the statistics of the rows of both.

        Raises
        ------
        ValueError
            If the bases or the columns differ.
        """
        if not isinstance(other, FourierStatistics):
            raise TypeError(
                f"other must be FourierStatistics, got {type(other).__name__}: use update for a block of rows."
            )
        if not self.basis.same_as(other.basis) or self.frame.size != other.frame.size:
            raise ValueError(
                f"the statistics are of different kinds, {self!r} and {other!r}: "
                "merge statistics of one basis and the same columns of X."
            )
        self._check_columns(other.coef, "other")
        if not self.n or not other.n:
            some = self if self.n else other
            return replace(some, dropped=self.dropped + other.dropped)
        if other.n > self.n:
            return other.merge(self)
        move = other.frame.to(self.frame)
        return replace(
            self,
            n=self.n + other.n,
            dropped=self.dropped + other.dropped,
            coef=self.coef if self.coef is not None else other.coef,
            toeplitz=frozen(self.toeplitz + other.toeplitz),
            modes=frozen(self.modes + np.tensordot(move.T, other.modes, axes=1)),
            gram=frozen(self.gram + move.T @ other.gram @ move),
        )._settled(self.n)

    def project(self) -> FourierProducts:
        """
        Return the products of the features with each other and with y, once X is projected out.

        Raises
        ------
        ValueError
            If there are no rows, or X leaves no degrees of freedom.
        """
        if not self.n:
            raise ValueError(f"no rows were added, {self.dropped} were dropped: there is nothing to fit.")
        return project(self)

    def _add(self, rows: "FourierRows") -> Self:
        out = replace(self, dropped=self.dropped + rows.dropped)
        for start in range(0, len(rows.points), _PIECE):
            piece = slice(start, start + _PIECE)
            out = out._add_piece(rows.points[piece], self.frame.columns(rows.design[piece], rows.y[piece]))
        return out._settled(self.n)

    def _settled(self, before: int) -> Self:
        """Return the same in the frame of all rows, where the one that there was is of few."""
        if not self.frame.size or not 0 < before < min(_SETTLED, self.n):
            return self
        frame = self.frame.improved(self.gram, self.n)
        move = self.frame.to(frame)
        return replace(
            self,
            frame=frame,
            modes=frozen(np.tensordot(move.T, self.modes, axes=1)),
            gram=frozen(move.T @ self.gram @ move),
        )

    def _add_piece(self, x: FloatArray, columns: FloatArray) -> Self:
        """Add rows; real strengths go through the FFT in pairs, told apart by the symmetry of real sums."""
        angles, shape = self.basis.grid.angles(x), self.modes.shape[1:]
        scale = np.sqrt((columns**2).mean(axis=0))
        scale[scale == 0] = 1.0
        scaled = columns / scale
        toeplitz, with_y = _pair(to_modes(angles, 1 + 1j * scaled[:, -1], self.toeplitz.shape))
        crop = tuple(slice(m, 3 * m + 1) for m in self.basis.grid.largest)
        modes = np.empty((columns.shape[1], *shape), dtype=complex)
        modes[-1] = with_y[crop]
        r = columns.shape[1] - 1
        for k in range(0, r, 2):
            both = scaled[:, k] + (1j * scaled[:, k + 1] if k + 1 < r else 0)
            modes[k], second = _pair(to_modes(angles, both, shape))
            if k + 1 < r:
                modes[k + 1] = second
        modes *= scale.reshape(-1, *[1] * len(shape))
        return replace(
            self,
            n=self.n + len(x),
            toeplitz=frozen(self.toeplitz + toeplitz),
            modes=frozen(self.modes + modes),
            gram=frozen(self.gram + columns.T @ columns),
        )

    def _check_columns(self, coef: tuple[str, ...] | None, name: str) -> None:
        if self.coef is not None and coef is not None and self.coef != coef:
            raise ValueError(
                f"X of {name} has the columns {shown(coef)}, before they were {shown(self.coef)}: "
                "all blocks have the same columns in the same order."
            )

    def _pack(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arrays, and what else there is, as a checkpoint keeps them."""
        arrays = {"toeplitz": self.toeplitz, "modes": self.modes, "gram": self.gram} | self.frame._asdict()
        return arrays, {"n": self.n, "dropped": self.dropped, "coef": self.coef, "coordinates": self.basis.coordinates}

    @classmethod
    def _unpack(cls, basis: FourierBasis, arrays: dict[str, Any], about: dict[str, Any]) -> Self:
        frame = Frame(frozen(arrays["transform"]), frozen(arrays["offset"]))
        coef = None if about["coef"] is None else tuple(about["coef"])
        kept = (frozen(arrays[name]) for name in ("toeplitz", "modes", "gram"))
        names = about.get("coordinates")
        basis = basis.named(None if names is None else tuple(names))
        return cls(basis, about["n"], about["dropped"], coef, frame, *kept)

    def __repr__(self) -> str:
        """Show how many rows, columns and features there are."""
        left_out = f", {self.dropped} rows dropped" if self.dropped else ""
        r = self.frame.size
        return (
            f"FourierStatistics({self.n} rows, X: {r} column{'s' if r != 1 else ''}, {self.basis.size} features"
            f"{left_out})"
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "rows": self.n,
            "rows dropped": self.dropped,
            "columns of X": self.frame.size,
            "features": self.basis.size,
            "kernel": self.basis.kernel.name,
        }


class _Reordered(Sequence[tuple[Any, ...]]):
    """Blocks (X, x, y) as (x, y, X)."""

    def __init__(self, rows: RowBlocks) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        X, x, y = self.rows[i]
        return (x, y, X)


def _pair(both: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
    """Return the sums of two real strengths from those of the first plus i times the second."""
    mirrored = np.conj(both[(slice(None, None, -1),) * both.ndim])
    return 0.5 * (both + mirrored), -0.5j * (both - mirrored)


class FourierRows(NamedTuple):
    """Rows that were read and put in order: points (n, D), y (n,), all columns of X (n, d) and their names."""

    points: FloatArray
    y: FloatArray
    design: FloatArray
    coef: tuple[str, ...] | None
    coordinates: tuple[str, ...] | None
    dropped: int


def read_rows(basis: FourierBasis, x: Any, y: Any, X: Any, missing: Missing) -> FourierRows:
    """Read rows: y and X are aligned to x by id, the coordinates of x to those of the basis by name."""
    design = X[:, None] if X is not None and getattr(X, "ndim", 2) == 1 and not hasattr(X, "index") else X
    block = read_block(design, x, y, missing, name="x", ndim=(1, 2))
    values, points, response = block.values
    if response.shape[1] != 1:
        raise ValueError(f"y must be one response, got {response.shape[1]}: add up the statistics of each.")
    names = block.columns.factor
    points = columns_in_order(Labelled(points, None, names), basis.coordinates, name="x")
    basis.require_inside(points, "x")
    return FourierRows(points, response[:, 0], values, block.columns.coef, names, block.dropped)


def _reduced(cls: type[FourierStatistics], basis: FourierBasis, missing: Missing, X: Any, x: Any, y: Any) -> Any:
    return cls.from_arrays(basis, x, y, X, missing=missing)


def _rows(s: FourierStatistics) -> int:
    return s.n + s.dropped


def _checkpoint(basis: FourierBasis, path: Any, every: float, missing: Missing) -> Checkpoint | None:
    if path is None:
        return None
    grid = fingerprint(basis.grid.h[None], basis.grid.centre[None], basis.grid.j)
    return Checkpoint(Path(path), every, {"missing": missing, "grid": grid})
