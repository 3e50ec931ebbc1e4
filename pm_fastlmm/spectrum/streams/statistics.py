"""KernelStatistics: what [X W y] contribute to the model of K = WWᵀ, added up over blocks of rows."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any, Self

from pm_fastlmm.base.choices import Missing, require_choice
from pm_fastlmm.base.display import listed
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum
from pm_fastlmm.spectrum.streams.dask_blocks import DaskBlocks
from pm_fastlmm.spectrum.streams.factor import factor_statistics
from pm_fastlmm.spectrum.streams.inner_products import InnerProducts, Route
from pm_fastlmm.spectrum.streams.row_blocks import RowBlocks, read_block
from pm_fastlmm.spectrum.streams.streaming import Checkpoint, add_up


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class KernelStatistics(InnerProducts):
    """
    Additive statistics of [X W y], from which y ~ N(Xβ, σ²(WWᵀ + δI)) is fitted without its rows.

    Of n rows only matrices remain whose sizes are the numbers of columns, so that n is bounded by patience and not by
    memory. The rows come in blocks, in any split and in any order: `c.update(X, W, y)` adds a block, `c.merge(other)`
    the statistics of other rows, and each returns a new object. Then

        spectrum, rotated = c.factor()

    are what `reml`, `exact_posterior`, `FastLMM` and, of several responses, `scan` take; `TermStatistics`
    are for `StructuredLMM` with several terms. Build the first with `from_arrays`.

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
    ...     X, W = (
    ...         np.column_stack([np.ones(rows), rng.normal(size=rows)]),
    ...         rng.normal(size=(rows, 20)) / np.sqrt(20),
    ...     )
    ...     return X, W, X @ [5.0, 1.0] + W @ effects + rng.normal(size=rows)
    >>> c = flmm.KernelStatistics.from_arrays(*block(1000))
    >>> for _ in range(9):
    ...     c = c.update(*block(1000))
    >>> c
    KernelStatistics(10000 rows, X: 2 columns, W: 20 columns, 1 response, method='gram')
    >>> spectrum, rotated = c.factor()
    >>> fit = flmm.reml(spectrum, rotated)
    >>> fit.converged, fit.beta.round(1).tolist()
    (True, [5.0, 1.0])
    """

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
        if not block.sizes[1]:
            raise ValueError("W has no columns: without a factor of K there is nothing but ordinary least squares.")
        return cls.empty(block, method)._add(block)

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
        >>> flmm.KernelStatistics.from_blocks(blocks(), progressbar=False).n
        300
        """
        start = partial(cls.from_arrays, method=method, missing=missing)
        kept = Checkpoint.at(checkpoint, checkpoint_every, method=method, missing=missing)
        return add_up(
            blocks, start, cls.unpack,
            missing=missing, checkpoint=kept, total_rows=total_rows, progressbar=progressbar,
        )  # fmt: skip

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
        >>> flmm.KernelStatistics.from_rows(X, W, y, block_rows=300, progressbar=False).n
        1000
        """
        blocks = RowBlocks({"X": X, "W": W, "y": y}, "W", block_rows=block_rows, memory=memory)
        return cls.from_blocks(blocks, total_rows=blocks.n, **options)

    @classmethod
    def from_dask(
        cls, X: Any, W: Any, y: Any, *, method: Route = "gram", missing: Missing = "raise", **options: Any
    ) -> Self:
        """
        Add up Dask arrays, chunk by chunk: on the cluster of the active `distributed.Client`, or on threads.

        Each chunk of rows is reduced where it is, and statistics, not rows, travel. What a lost worker had is computed
        again by Dask.

        Parameters
        ----------
        X, W, y : dask arrays
            As in `from_arrays`; the chunks of rows of W are those of the work. X and y may be arrays in memory.
        method, missing, **options
            As in `from_blocks`.

        Examples
        --------
        >>> import dask.array as da
        >>> import pm_fastlmm as flmm
        >>> W = da.random.default_rng(0).normal(size=(1000, 5), chunks=(100, 5))
        >>> X, y = da.ones((1000, 1), chunks=(100, 1)), W.sum(axis=1)
        >>> flmm.KernelStatistics.from_dask(X, W, y, progressbar=False).n
        1000
        """
        leaf = partial(cls.from_arrays, method=method, missing=missing)
        chunks = DaskBlocks({"X": X, "W": W, "y": y}, "W", reduce=leaf, merge=cls.merge)
        return cls.from_blocks(chunks, method=method, missing=missing, total_rows=chunks.n, **options)

    def update(self, X: Any, W: Any, y: Any, *, missing: Missing = "raise") -> Self:
        """
        Return the statistics with one more block of rows.

        Raises
        ------
        ValueError
            As `from_arrays`, and if the columns are not those of the blocks before.
        """
        return self._add(read_block(X, W, y, missing))

    def factor(self) -> tuple[Spectrum, Rotated]:
        """
        Return the results of `Spectrum.from_factor(W, X)` and `spectrum.rotate(y)`, except what has one value per row.

        Raises
        ------
        ValueError
            If there are no rows, or X leaves no degrees of freedom.

        Notes
        -----
        Costs O(m³). The spectrum fits, samples and predicts any rows that are given to it; it has no basis, so that
        `blup()`, `pev()` and predictions of the training rows raise an error that says what to do.
        """
        self.require_rows()
        return factor_statistics(self)

    def _shown(self) -> str:
        d, m, t = self.sizes
        return f"X: {d} columns, W: {m} columns, {t} response{'s' if t != 1 else ''}, method={self.method!r}"

    def _facts(self) -> dict[str, Any]:
        parts = zip(self.PARTS, self.columns, self.sizes, strict=True)
        columns = {
            f"columns of {part}": size if names is None else f"{size}: {listed(names)}" for part, names, size in parts
        }
        return {"rows": self.n, "rows dropped": self.dropped, **columns, "method": self.method}
