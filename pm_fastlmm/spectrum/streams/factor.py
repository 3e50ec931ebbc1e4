"""
What the cross-products of [X W y] determine: the spectrum of K = WWᵀ with the rotated y, and a few rows like all.

The first are as `Spectrum.from_factor` has them; of the others a likelihood of [X W y] is that of the data.
"""

import warnings
from typing import NamedTuple

import numpy as np
import scipy.linalg

from pm_fastlmm.base.arrays import EPS, FloatArray, frozen, outside
from pm_fastlmm.spectrum.columns import DesignColumns
from pm_fastlmm.spectrum.factoring import factor_corner_root
from pm_fastlmm.spectrum.projection import Projection
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum
from pm_fastlmm.spectrum.streams.inner_products import InnerProducts

_LOST = 1e-6  # share of ‖y‖² that may be missing in z
GRAM_RATIO = 1e8  # λ_max/δ up to which the log-likelihood from a Gram matrix is right to 1e-6


class _Split(NamedTuple):
    """W and y along X (r rows), and orthogonal to it: rows [W2 Y2], to which the Gram part of the statistics adds."""

    projection: Projection
    W1: FloatArray
    y1: FloatArray
    W2: FloatArray
    Y2: FloatArray
    size: float


class Directions(NamedTuple):
    """Right singular vectors of Q₂ᵀW with λ > 0 in ascending order, z of the responses, rss, and `null_first`."""

    eigvals: FloatArray
    Vt: FloatArray
    z: FloatArray
    rss: FloatArray
    null_first: FloatArray
    tolerance: float


def factor_statistics(c: InnerProducts) -> tuple[Spectrum, Rotated]:
    """Return the `Spectrum` without rows and the `Rotated` of cross-products."""
    parts = _project(c)
    rounding = rounding_of(c)
    found = _from_gram(c, parts, rounding) if c.method == "gram" else _from_triangle(c, parts, rounding)
    loadings = np.sqrt(found.eigvals)[:, None] * found.Vt
    nullity = c.n - parts.projection.rank - found.eigvals.size
    spectrum = Spectrum(
        eigvals=frozen(found.eigvals),
        rotation=None,
        projection=parts.projection,
        C=frozen(loadings @ parts.W1.T),
        corner_root=frozen(factor_corner_root(parts.W1, found.Vt, found.tolerance)),
        nullity=nullity,
        mean_diagonal=float((parts.W1**2).sum() + found.eigvals.sum()) / c.n,
        ids=None,
        loadings=frozen(loadings),
        loadings_fixed=frozen(parts.W1),
        factor_names=c.columns.factor,
        largest_ratio=GRAM_RATIO if c.method == "gram" else np.inf,
    )
    return spectrum, _rotated(c, spectrum, parts, found, rounding)


def rounding_of(c: InnerProducts) -> float:
    """Return the relative rounding of sums over many rows: errors of either sign, that grow as √n."""
    return 4 * (c.sizes[1] + float(np.sqrt(c.n))) * EPS


def imprecision(rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray) -> list[str]:
    """
    Return for each response what its estimates lose to the Gram matrix that they came from, "" if nothing; warn of it.

    What is small beside λ_max is lost in a Gram matrix, in eigenvalues and in rss: δ must be far above its rounding.
    """
    s = rotated.spectrum
    if not np.isfinite(s.largest_ratio):
        return [""] * rotated.rss.size
    largest = float(s.eigvals.max(initial=0.0))
    high = np.atleast_1d(largest * np.asarray(sigma2_g) > s.largest_ratio * np.asarray(sigma2_e))
    lost = np.atleast_1d((rotated.rss == 0) & (rotated.norm2 > 0) & bool(s.nullity))
    remedy = "collect them again with method='tsqr'"
    above = f"λ_max/δ is above {s.largest_ratio:.0e}, up to which cross-products are precise: {remedy}"
    below = f"what K and X leave of y is below the rounding of cross-products: {remedy}"
    messages = np.where(lost, below, np.where(high, above, "")).ravel().tolist()
    first = next(filter(None, messages), None)
    if first is not None:
        count = sum(map(bool, messages))
        of = f" ({count} of {len(messages)} responses)" if len(messages) > 1 else ""
        warnings.warn(first + of + ".", UserWarning, stacklevel=outside())
    return messages


def _project(c: InnerProducts) -> _Split:
    """Factor X from its triangle, without collinear columns, and rotate the rows of W and y along."""
    d, m, _ = c.sizes
    whole = np.hstack([c.triangle.R, c.triangle.C])  # its columns: X, W, y
    X, along, below = whole[:d, :d], np.hstack([whole[:d, d:], c.ones[:d, None]]), whole[d:, d:]
    columns = DesignColumns.of(X, c.columns.coef, c.n)
    r, R = len(columns.kept), np.zeros((0, 0))
    if r:
        Q, R = scipy.linalg.qr(X[:, columns.kept], check_finite=False)
        along, R = Q.T @ along, R[:r]
    size = float(np.abs(along[:, :m]).max(initial=0.0))  # of W without its shift, to which rounding is relative
    first = along[:r, :-1] + along[:r, -1:] * c.shift
    off = np.vstack([along[r:, :-1], below])
    return _Split(Projection(None, frozen(R), columns), first[:, :m], first[:, m:], off[:, :m], off[:, m:], size)


def _from_triangle(c: InnerProducts, parts: _Split, rounding: float) -> Directions:
    """Return the directions from the singular values of the rows of Q₂ᵀW, as precise as in memory."""
    U, s, Vt = scipy.linalg.svd(parts.W2, full_matrices=False, check_finite=False)
    largest = max(float(s.max(initial=0.0)), parts.size)
    rank = min(int(np.count_nonzero(s > rounding * largest)), c.n - parts.projection.rank)
    U, s, Vt = U[:, :rank][:, ::-1], s[:rank][::-1], Vt[:rank][::-1]
    z = U.T @ parts.Y2
    left = parts.Y2 - U @ z
    rss, null_first = (left**2).sum(0) + c.squares, left[:, 0] @ left + c.with_first
    size2 = (parts.y1**2).sum(0) + (parts.Y2**2).sum(0) + c.squares
    rss = np.where(rss <= rounding**2 * size2, 0.0, rss)
    return Directions(s**2, Vt, z, rss, null_first, (rounding * largest) ** 2)


def _from_gram(c: InnerProducts, parts: _Split, rounding: float) -> Directions:
    """
    Return the directions from the eigenvalues of WᵀQ₂Q₂ᵀW.

    It resolves λ to `rounding` · λ_max; and rss, a difference of squares, no better than to the error of z, which grows
    as 1/√λ.
    """
    return resolve_gram(
        c.gram + parts.W2.T @ parts.W2, c.cross + parts.W2.T @ parts.Y2, c.squares + (parts.Y2**2).sum(0),
        c.with_first + parts.Y2[:, 0] @ parts.Y2,
        size=parts.size, rounding=rounding, df=c.n - parts.projection.rank,
    )  # fmt: skip


def resolve_gram(
    gram: FloatArray,
    cross: FloatArray,
    norm2: FloatArray,
    with_first: FloatArray,
    *,
    size: float,
    rounding: float,
    df: int,
) -> Directions:
    """Return the directions of WᵀW, Wᵀy, ‖y‖² and y₁ᵀy; `size` is what W was before it lost its part along X."""
    values, vectors = scipy.linalg.eigh(gram, driver="evd", check_finite=False)
    largest = max(float(values[-1]), size**2)
    rank = min(int(np.count_nonzero(values > rounding * largest)), df)
    values, vectors = values[values.size - rank :], vectors[:, values.size - rank :]
    z = (vectors.T @ cross) / np.sqrt(values)[:, None]
    rss = norm2 - (z**2).sum(0)
    resolved = max(rounding, EPS * float(np.sqrt(largest / values.min()))) if rank else rounding
    rss = np.where(rss <= resolved * norm2, 0.0, rss)
    return Directions(values, vectors.T, z, rss, with_first - z[:, 0] @ z, rounding * largest)


def _warn_lost(spectrum: Spectrum, rotated: FloatArray, squares: FloatArray) -> None:
    """Warn where z, along small eigenvalues, is not the ‖y‖² that it must be when no null directions are left."""
    if not spectrum.nullity and (np.abs(rotated - squares) > _LOST * squares).any():
        warnings.warn(
            f"W spans all {spectrum.df} directions that X leaves, with eigenvalues from {spectrum.eigvals[0]:.1e} to "
            f"{spectrum.eigvals[-1]:.1e}: cross-products have lost digits of y along the small ones. Take "
            "KernelStatistics(..., method='tsqr'), rows that fit in memory to flmm.Spectrum.from_factor, or scale W.",
            UserWarning,
            stacklevel=outside(),
        )


def _rotated(c: InnerProducts, spectrum: Spectrum, parts: _Split, found: Directions, rounding: float) -> Rotated:
    rss = found.rss if spectrum.nullity else np.zeros_like(found.rss)
    _warn_lost(spectrum, (found.z**2).sum(0), c.squares + (parts.Y2**2).sum(0))
    norm2 = (found.z**2).sum(0) + rss
    # without its shift y is rounded to what is left: a mean of any size does not count
    rotated_size = norm2 + (parts.y1**2).sum(0)
    explained = norm2 <= rounding**2 * rotated_size
    rss = np.where(explained, 0.0, rss)
    rotated = Rotated(
        spectrum=spectrum,
        z=frozen(np.ascontiguousarray(np.where(explained, 0.0, found.z).T)),
        rss=frozen(rss),
        y1=frozen(np.ascontiguousarray(parts.y1.T)),
        norm2=frozen(np.where(explained, 0.0, norm2)),
        names=c.columns.responses,
        null_first=frozen(np.where((rss > 0) & (rss[0] > 0), found.null_first, 0.0)),
    )
    return rotated.one(0) if rotated.names is None else rotated


class Equivalent(NamedTuple):
    """Rows of X, W and one response: X (k, d), W (k, m) and y (k,), k ≤ d + m + 1."""

    X: FloatArray
    W: FloatArray
    y: FloatArray


def reduce_rows(c: InnerProducts, t: int) -> Equivalent:
    """
    Return rows with [X W y]ᵀ[X W y] of all rows, y the response with number t.

    They are coordinates of the data in an orthonormal basis: along X, then along W, and last the length of what y has
    in all other directions, where X and W are 0.
    """
    d, m, _ = c.sizes
    X, W, y = _along(c, t)
    below, z, rss = _below(c, t, c.n - X.shape[0])
    rows = X.shape[0] + below.shape[0]
    last = min(c.n - rows, 1)  # none where X and W have as many directions as there are rows
    return Equivalent(
        np.vstack([X, np.zeros((rows + last - X.shape[0], d))]),
        np.vstack([W, below, np.zeros((last, m))]),
        np.r_[y, z, np.full(last, np.sqrt(rss))],
    )


def _along(c: InnerProducts, t: int) -> Equivalent:
    """Return the rows of the triangle: those along X, and for "tsqr" those along W."""
    d, m, _ = c.sizes
    triangle = c.shifted(np.zeros_like(c.shift)).triangle
    whole = np.hstack([triangle.R, triangle.C])[: c.n]
    return Equivalent(whole[:, :d], whole[:, d : d + m], whole[:, d + m + t])


def _below(c: InnerProducts, t: int, left: int) -> tuple[FloatArray, FloatArray, float]:
    """
    Return rows of W and y orthogonal to the triangle, at most `left`, and the squared length of y beyond them.

    The columns of W may be those of terms in different units, so that each is scaled before its rank is judged.
    """
    m = c.sizes[1]
    if c.method == "tsqr":
        return np.zeros((0, m)), np.zeros(0), float(c.squares[t]) if left else 0.0
    size = np.sqrt((c.triangle.C[:, :m] ** 2).sum(0) + np.diag(c.gram))
    size = np.where(size > 0, size, 1.0)
    found = resolve_gram(
        c.gram / np.outer(size, size), c.cross[:, t : t + 1] / size[:, None], c.squares[t : t + 1],
        c.squares[t : t + 1],
        size=1.0, rounding=rounding_of(c), df=max(left, 0),
    )  # fmt: skip
    rss = float(found.rss[0])
    if left > found.eigvals.size and c.squares[t] > 0 and not rss:
        warnings.warn(
            "what X and W leave of y is below the rounding of cross-products: collect them again with method='tsqr'.",
            UserWarning,
            stacklevel=outside(),
        )
    return np.sqrt(found.eigvals)[:, None] * found.Vt * size, found.z[:, 0], rss
