"""FourierStatistics: what rows of (x, y, X) contribute to a Gaussian process, added up by nonuniform FFTs."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Any, Self

import numpy as np

from pm_fastlmm.base.arrays import EPS, FloatArray, Labelled, columns_in_order, frozen
from pm_fastlmm.base.choices import Missing
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.frame import Frame
from pm_fastlmm.engines.fourier.products import ComplexArray, FourierProducts, feature_gram, feature_sums, to_modes
from pm_fastlmm.spectrum.columns import DesignColumns
from pm_fastlmm.spectrum.projection import Projection
from pm_fastlmm.spectrum.streams.additive import AdditiveStatistics
from pm_fastlmm.spectrum.streams.checkpoint import fingerprint
from pm_fastlmm.spectrum.streams.dask_blocks import DaskBlocks
from pm_fastlmm.spectrum.streams.row_blocks import CheckedRows, Columns, RowBlocks, read_block
from pm_fastlmm.spectrum.streams.streaming import Checkpoint, add_up

_ARRAYS = ("toeplitz", "modes", "gram")
_SETTLED = 10_000  # rows after which the frame is good enough for all that come
_PIECE = 2**21  # rows of one nonuniform FFT: some 200 MB while it runs


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FourierStatistics(AdditiveStatistics):
    """
    Additive statistics of (x, y, X), from which y = Xβ + f(x) + e is fitted without its rows.

    With prior weights w, Var(e_i) = σ²_e/w_i, they are those of rows times √w, and log-likelihoods are of y itself.

    `s.update(x, y, X)` adds a block of rows, `s.merge(other)` the statistics of other rows, in any split and any order;
    each returns a new object. Build the first with one of the constructors.

    Attributes
    ----------
    n, dropped : int
        Rows that were added up, and left out for a missing value (`missing="drop"`).
    columns : Columns
        Names of the columns of X and of x, None where they had none.
    basis : FourierBasis
    frame : Frame
        In which coordinates X and y are added up.
    toeplitz : (4m₁ + 1, …) complex array
        Σ_i w_i exp(-2πi (h∘j)ᵀx_i): the products of the features with each other.
    modes : (r + 1, 2m₁ + 1, …) complex array
        The same sums weighted with the columns of X and with y: their products with the features.
    gram : (r + 1, r + 1) array
        Inner products of the columns of X and y, by w.
    weight, log_root : float
        Σw, n without prior weights, and Σ log √w.

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
    >>> first = flmm.FourierStatistics.from_arrays(basis, x[:500], y[:500], np.ones(500))
    >>> first.update(x[500:], y[500:], np.ones(1500))
    FourierStatistics(2000 rows, X: 1 column, 85 features)
    """

    PARTS = ("X", "x", "y")
    OF_A_KIND = "one basis and the same columns of X"

    basis: FourierBasis
    frame: Frame
    toeplitz: ComplexArray
    modes: ComplexArray
    gram: FloatArray
    weight: float
    log_root: float

    @classmethod
    def from_arrays(
        cls, basis: FourierBasis, x: Any, y: Any, X: Any = None, weights: Any = None, *, missing: Missing = "raise"
    ) -> Self:
        """
        Return the statistics of a first block of rows.

        Parameters
        ----------
        basis : FourierBasis
        x : (n,) or (n, D) array
        y : (n,) array or Series
        X : (n, r) array or DataFrame, optional
            Fixed-effects design; an intercept is not added.
        weights : (n,) array or Series, optional
            Prior weights w, Var(e_i) = σ²_e/w_i: positive numbers, 1 by default.
        missing : {"raise", "drop"}
            Whether a NaN is an error, or its row is left out and counted in `dropped`.

        Raises
        ------
        ValueError
            If lengths differ, values are not finite, a weight is not positive, or points lie outside the domain of the
            basis.
        """
        block = read_rows(basis, x, y, X, missing, weights)
        design, _, response = block.values
        big = tuple(4 * m + 1 for m in basis.grid.largest)
        small = tuple(2 * m + 1 for m in basis.grid.largest)
        r, (response, root) = design.shape[1], response.T
        empty = cls(
            0, 0, block.columns, basis.named(block.columns.factor),
            Frame.of_block(design * root[:, None], response * root), np.zeros(big, dtype=complex),
            np.zeros((r + 1, *small), dtype=complex), np.zeros((r + 1, r + 1)), 0.0, 0.0,
        )  # fmt: skip
        return empty._add(block)

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
        blocks : iterable of (x, y), (x, y, X) or (x, y, X, weights)
        missing
            As in `from_arrays`.
        checkpoint, checkpoint_every, total_rows, progressbar
            As in `KernelStatistics.from_blocks`.

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
        start = partial(cls.from_arrays, basis, missing=missing)
        grid = fingerprint(basis.grid.h[None], basis.grid.centre[None], basis.grid.j)
        kept = Checkpoint.at(checkpoint, checkpoint_every, missing=missing, grid=grid)
        return add_up(
            blocks, start, partial(cls.unpack, basis),
            missing=missing, checkpoint=kept, total_rows=total_rows, progressbar=progressbar,
        )  # fmt: skip

    @classmethod
    def from_rows(
        cls, basis: FourierBasis, x: Any, y: Any, X: Any = None, *, weights: Any = None, block_rows: int = _PIECE,
        **options: Any,
    ) -> Self:  # fmt: skip
        """
        Add up the rows of arrays that are sliced from where they are stored: memory-mapped, Zarr, HDF5.

        `block_rows` are read at a time; the options are those of `from_blocks`.
        """
        blocks = RowBlocks({"x": x, "y": y, "X": X, "weights": weights}, "x", block_rows=block_rows)
        return cls.from_blocks(basis, blocks, total_rows=blocks.n, **options)

    @classmethod
    def from_dask(
        cls, basis: FourierBasis, x: Any, y: Any, X: Any = None, *, weights: Any = None, missing: Missing = "raise",
        **options: Any,
    ) -> Self:  # fmt: skip
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
        leaf = partial(cls.from_arrays, basis, missing=missing)
        parts = {"X": X, "x": x[:, None] if x.ndim == 1 else x, "y": y, "weights": weights}
        chunks = DaskBlocks(parts, "x", reduce=leaf, merge=cls.merge)
        return cls.from_blocks(basis, chunks, missing=missing, total_rows=chunks.n, **options)

    def update(self, x: Any, y: Any, X: Any = None, weights: Any = None, *, missing: Missing = "raise") -> Self:
        """
        Return the statistics with one more block of rows.

        Raises
        ------
        ValueError
            As `from_arrays`, and if the columns of X are not those of the blocks before.
        """
        return self._add(read_rows(self.basis, x, y, X, missing, weights))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of columns of X, x, and y with √w."""
        return self.frame.size, self.basis.grid.dimensions, 2

    @property
    def piece_rows(self) -> int:
        """How many rows are in one nonuniform FFT."""
        return _PIECE

    def _same_kind(self, other: Self) -> bool:
        return self.basis.same_as(other.basis)

    def _add_sums(self, other: Self) -> Self:
        if other.n > self.n:
            return other._add_sums(self)
        other = other._in_frame(self.frame)
        return replace(
            self,
            n=self.n + other.n,
            dropped=self.dropped + other.dropped,
            columns=self.columns._replace(coef=self.columns.coef or other.columns.coef),
            toeplitz=frozen(self.toeplitz + other.toeplitz),
            modes=frozen(self.modes + other.modes),
            gram=frozen(self.gram + other.gram),
            weight=self.weight + other.weight,
            log_root=self.log_root + other.log_root,
        )._settled(self.n)

    def project(self) -> FourierProducts:
        """
        Return the products of the features with each other and with y, once X is projected out.

        Raises
        ------
        ValueError
            If there are no rows, or X leaves no degrees of freedom.
        """
        self.require_rows()
        grid, n, r = self.basis.grid, self.n, self.frame.size
        gram, inner = feature_gram(self.toeplitz, grid, self.weight), self.gram[:r, :r]
        cross = np.stack([feature_sums(column, grid) for column in self.modes], axis=1)  # Zᵀ[X̃ ỹ]
        values, vectors = np.linalg.eigh(inner) if r else (np.zeros(0), np.zeros((0, 0)))
        present = values > r * EPS * values.max(initial=0.0)
        root = np.sqrt(values[present])[:, None] * vectors[:, present].T  # rootᵀroot = X̃ᵀX̃
        original = np.linalg.solve(self.frame.transform.T, root.T).T if r else root  # of X, with equal inner products
        columns = DesignColumns.of(original, self.columns.coef, n)
        Q, R = np.linalg.qr(original[:, columns.kept])
        signs = np.where(np.diag(R) < 0, -1.0, 1.0)
        Q, R = Q * signs, R * signs[:, None]
        A = (vectors[:, present] / np.sqrt(values[present])) @ Q  # X̃A is orthonormal, a basis of the columns of X
        fixed, along = cross[:, :r] @ A, A.T @ self.gram[:r, r]
        gram -= fixed @ fixed.T
        projection = Projection(None, frozen(R), columns)
        return FourierProducts(
            gram=frozen((gram + gram.T) / 2),
            cross=frozen(cross[:, r] - fixed @ along),
            square=float(self.gram[r, r] - along @ along),
            n=n,
            df=n - len(columns.kept),
            projection=projection,
            log_flat=self.log_root - projection.logdet_R,
            mean_weight=self.weight / n,
            fixed=frozen(fixed),
            along=frozen(along + Q.T @ (original @ self.frame.offset)),
        )

    def _settled(self, before: int) -> Self:
        """Return the same in the frame of all rows, where the one that there was is of few."""
        if not self.frame.size or not 0 < before < min(_SETTLED, self.n):
            return self
        return self._in_frame(self.frame.improved(self.gram, self.n))

    def _in_frame(self, frame: Frame) -> Self:
        """Return the same sums in other coordinates of X and y."""
        move = self.frame.to(frame)
        modes, gram = np.tensordot(move.T, self.modes, axes=1), move.T @ self.gram @ move
        return replace(self, frame=frame, modes=frozen(modes), gram=frozen(gram))

    def _add_piece(self, X: FloatArray, x: FloatArray, y: FloatArray) -> Self:
        """Add rows; real strengths go through the FFT in pairs, told apart by the symmetry of real sums."""
        y, root = y.T
        columns = self.frame.columns(X, y) * root[:, None]
        angles, shape = self.basis.grid.angles(x), self.modes.shape[1:]
        weight, strengths = float((root**2).mean()), columns * root[:, None]
        scale = np.sqrt((strengths**2).mean(axis=0))
        scale[scale == 0] = 1.0
        scaled = strengths / scale
        toeplitz, with_y = _pair(to_modes(angles, root**2 / weight + 1j * scaled[:, -1], self.toeplitz.shape))
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
            toeplitz=frozen(self.toeplitz + weight * toeplitz),
            modes=frozen(self.modes + modes),
            gram=frozen(self.gram + columns.T @ columns),
            weight=self.weight + float((root**2).sum()),
            log_root=self.log_root + float(np.log(root).sum()),
        )

    def pack(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arrays and the description that a checkpoint keeps."""
        arrays = {name: getattr(self, name) for name in _ARRAYS} | self.frame._asdict()
        names = {"coef": self.columns.coef, "coordinates": self.basis.coordinates}
        sums = {"n": self.n, "dropped": self.dropped, "weight": self.weight, "log_root": self.log_root}
        return arrays, sums | names

    @classmethod
    def unpack(cls, basis: FourierBasis, arrays: dict[str, Any], about: dict[str, Any]) -> Self:
        """Return the statistics of a checkpoint."""
        coef, coordinates = (None if of is None else tuple(of) for of in (about["coef"], about.get("coordinates")))
        columns, basis = Columns(coef, coordinates, None), basis.named(coordinates)
        frame = Frame(frozen(arrays["transform"]), frozen(arrays["offset"]))
        toeplitz, modes, gram = (frozen(arrays[name]) for name in _ARRAYS)
        # one that was stored before there were weights has none
        sums = toeplitz, modes, gram, about.get("weight", float(about["n"])), about.get("log_root", 0.0)
        return cls(about["n"], about["dropped"], columns, basis, frame, *sums)

    def _shown(self) -> str:
        r = self.frame.size
        return f"X: {r} column{'s' if r != 1 else ''}, {self.basis.size} features"

    def _facts(self) -> dict[str, Any]:
        return {
            "rows": self.n,
            "rows dropped": self.dropped,
            "columns of X": self.frame.size,
            "features": self.basis.size,
            "kernel": self.basis.kernel.name,
        }


def _pair(both: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
    """Return the sums of two real strengths from those of the first plus i times the second."""
    mirrored = np.conj(both[(slice(None, None, -1),) * both.ndim])
    return 0.5 * (both + mirrored), -0.5j * (both - mirrored)


def read_rows(basis: FourierBasis, x: Any, y: Any, X: Any, missing: Missing, weights: Any = None) -> CheckedRows:
    """
    Read a block of X, x, and y beside √w, 1 where there are no weights.

    y, X and weights are aligned to x by id, the coordinates of x to those of the basis by name.
    """
    design = X[:, None] if X is not None and getattr(X, "ndim", 2) == 1 and not hasattr(X, "index") else X
    block = read_block(design, x, y, missing, weights=weights, name="x", ndim=(1, 2))
    values, points, response = block.values
    if response.shape[1] != 1:
        raise ValueError(f"y must be one response, got {response.shape[1]}: add up the statistics of each.")
    points = columns_in_order(Labelled(points, None, block.columns.factor), basis.coordinates, name="x")
    basis.require_inside(points, "x")
    columns = Columns(block.columns.coef, basis.coordinates or block.columns.factor, None)
    root = np.ones(len(response)) if block.weights is None else np.sqrt(block.weights)
    return CheckedRows((values, points, np.column_stack([response, root])), columns, block.dropped, block.weights)
