"""MixedProducts: what several random-effects terms need of the rows, with the largest grouping factor eliminated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from pm_fastlmm._arrays import FloatArray, frozen
from pm_fastlmm.linalg.projection import Projection

type IntArray = npt.NDArray[np.int64]

_MAX_DENSE = 20_000  # columns of the dense block: 3.2 GB for each of a few matrices
_RANK_RTOL = 1e-12


class Block(NamedTuple):
    """
    One random-effects term as the engine sees it: Z (n, levels · width), u ~ N(0, I ⊗ Σ), Σ (width, width).

    `root` is the R of a known covariance, effects Ru of the levels, that was moved into Z; None for the identity.
    """

    Z: sp.csr_array
    levels: int
    width: int
    root: FloatArray | None = None


class Response(NamedTuple):
    """
    What the likelihood needs of a response y₂ = y - Q₁Q₁ᵀy. X is taken out first, so that no digits are lost to a mean.

    Attributes
    ----------
    within : (m,) array
        Wᵀ(I - OOᵀ)y₂.
    between : (levels, width) array
        Oᵀy₂, along the eliminated term.
    rss : float
        ‖(I - OOᵀ)y₂‖².
    y1 : (r,) array
        Q₁ᵀy.
    """

    within: FloatArray
    between: FloatArray
    rss: float
    y1: FloatArray


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MixedProducts:
    """
    Cross-products of [Z₁ Z₂ … Z_K Q₁], Z₁ the eliminated term and W = [Z₂ … Z_K Q₁] the dense block.

    Each row belongs to one level of Z₁, so that Z₁ = O diag(C_jᵀ) with orthonormal O, block by block. What is kept:

        C (levels, width, width),   B = OᵀW (sparse),   within = Wᵀ(I - OOᵀ)W

    from which Wᵀ(Z₁G₁Z₁ᵀ + σ²_eI)⁻¹W = within/σ²_e + Σ_j B_jᵀ(C_jᵀΣ₁C_j + σ²_eI)⁻¹B_j, a sum in which nothing cancels.

    Attributes
    ----------
    n : int
        Number of observations.
    rows_kept : bool
        Whether the rows of Z, X and y are the observations. Otherwise they are fewer rows with the same inner products
        (`linalg.equivalent`), in a basis of their own.
    projection : Projection
        QR of X.
    flat : bool
        Whether Q₁ is in the dense block: β under a flat prior, integrated out.
    blocks : tuple of Block
        The terms in the order that was given.
    order : tuple of int
        The terms in the order of the engine: the eliminated one first.
    eliminated : bool
        Whether there is a term that can be eliminated.
    layout : (2 + 2K,) int array
        n, number of fixed effects in the dense block, then levels and width of each term in the engine's order.
    Q_within, Q_between : (m, r) and (levels · width, r) arrays
        Wᵀ(I - OOᵀ)Q₁ and OᵀQ₁: what moves the statistics of y to those of y₂ + Q₁d.
    """

    n: int
    rows_kept: bool
    projection: Projection
    flat: bool
    blocks: tuple[Block, ...]
    order: tuple[int, ...]
    eliminated: bool
    layout: IntArray
    C: FloatArray
    O: sp.csr_array  # noqa: E741 - the orthonormal factor of the formula
    W: sp.csr_array
    B: sp.csr_array
    within: FloatArray
    Q_within: FloatArray
    Q_between: FloatArray

    @classmethod
    def from_rows(
        cls, blocks: Sequence[Block], projection: Projection, *, flat: bool, observations: int | None = None
    ) -> Self:
        """
        Form the products from the rows of the incidence matrices and the projection of X.

        `observations` is their number where the rows are equivalent ones, fewer than the data had.

        Raises
        ------
        ValueError
            If the dense block, all terms but the one that is eliminated, would not fit in memory.
        """
        rows = projection.V.shape[0]
        n = rows if observations is None else observations
        order, eliminated = _elimination_order(blocks)
        rest = order[1:] if eliminated else order
        Q = projection.Q1 if flat else np.zeros((rows, 0))
        q, r = sum(blocks[k].Z.shape[1] for k in rest), Q.shape[1]
        if q + r > _MAX_DENSE:
            columns = ", ".join(str(block.Z.shape[1]) for block in blocks)
            raise ValueError(
                f"the terms have {columns} random effects: one grouping factor is eliminated, but the other {q} fill a "
                f"dense matrix of that order, and {_MAX_DENSE} is the limit. Use fewer levels, or a low-rank term."
            )
        first = blocks[order[0]] if eliminated else Block(sp.csr_array((rows, 0)), 0, 1)
        C, O = _orthonormal(first)  # noqa: E741
        Z = sp.hstack([sp.csr_array((rows, 0)), *(blocks[k].Z for k in rest)], format="csr")
        along = O.T @ Q
        Q_within = Q - O @ along
        B = sp.hstack([O.T @ Z, sp.csr_array(along)], format="csr")
        within = np.empty((q + r, q + r))
        shared = B[:, :q]
        within[:q, :q] = (Z.T @ Z - shared.T @ shared).toarray()
        within[:q, q:] = Z.T @ Q_within
        within[q:, :q] = within[:q, q:].T
        within[q:, q:] = Q_within.T @ Q_within
        sizes = [size for k in order for size in (blocks[k].levels, blocks[k].width)]
        W = sp.hstack([Z, sp.csr_array(Q)], format="csr")
        Q_between = np.asarray(O.T @ projection.Q1)
        return cls(
            n=n,
            rows_kept=observations is None,
            projection=projection,
            flat=flat,
            blocks=tuple(blocks),
            order=order,
            eliminated=eliminated,
            layout=frozen(np.array([n, r, *sizes], dtype=np.int64)),
            C=frozen(C),
            O=O,
            W=W,
            B=B,
            within=frozen(within),
            Q_within=frozen(np.asarray(W.T @ (projection.Q1 - O @ Q_between))),
            Q_between=frozen(Q_between),
        )

    def treated(self, terms: int, *, flat: bool) -> Self:
        """Return the products of the same data and the first terms with another treatment of β."""
        observations = None if self.rows_kept else self.n
        return self.from_rows(self.blocks[:terms], self.projection, flat=flat, observations=observations)

    @property
    def rows(self) -> int:
        """Number of rows of Z, X and y."""
        return int(self.W.shape[0])

    @property
    def fixed(self) -> int:
        """Number of fixed effects in the dense block: r, or 0 when β is not integrated out."""
        return int(self.layout[1])

    @property
    def df(self) -> int:
        """Degrees of freedom, n - r with β integrated out."""
        return self.n - self.fixed

    @property
    def logdet_R(self) -> float:
        """½ log|XᵀX| when β is integrated out, 0 otherwise."""
        return self.projection.logdet_R if self.flat else 0.0

    def mean_gram(self, k: int) -> FloatArray:
        """Return Σ_levels Z_jᵀZ_j / n of one term, (width, width): ⟨·, Σ_k⟩ is the mean variance of its Zu."""
        block = self.blocks[k]
        gram = (block.Z.T @ block.Z).tocoo()
        same = gram.row // block.width == gram.col // block.width
        out = np.zeros((block.width, block.width))
        np.add.at(out, (gram.row[same] % block.width, gram.col[same] % block.width), gram.data[same])
        return out / self.n

    def response(self, y: FloatArray) -> Response:
        """Return the statistics of a response (n,), from its rows."""
        Q = self.projection.Q1
        y1 = Q.T @ y
        residual = y - Q @ y1
        along = self.O.T @ residual
        inside = residual - self.O @ along
        return Response(self.W.T @ inside, along.reshape(-1, self.C.shape[-1]), float(inside @ inside), y1)

    def shifted(self, response: Response, d: FloatArray) -> Response:
        """Return the statistics of y₂ + Q₁d, for products without the fixed effects in the dense block."""
        along, between = self.Q_between @ d, response.between.ravel()
        return Response(
            response.within + self.Q_within @ d,
            (between + along).reshape(response.between.shape),
            float(response.rss - 2 * along @ between + d @ d - along @ along),
            response.y1,
        )

    def response_pullback(
        self, y: FloatArray, within: FloatArray, between: FloatArray, rss: float, y1: FloatArray
    ) -> FloatArray:
        """Return the gradient with respect to y from those with respect to the statistics of `response`."""
        Q = self.projection.Q1
        residual = y - Q @ (Q.T @ y)
        inside = residual - self.O @ (self.O.T @ residual)
        direct = self.W @ within + 2 * rss * inside
        total = direct - self.O @ (self.O.T @ direct) + self.O @ between.ravel()
        return np.asarray(total + Q @ (y1 - Q.T @ total))

    def __repr__(self) -> str:
        """Show the sizes."""
        terms = ", ".join(f"{block.levels} × {block.width}" for block in self.blocks)
        return f"MixedProducts(n={self.n}, terms of {terms} effects, {self.fixed} fixed effects)"


def _elimination_order(blocks: Sequence[Block]) -> tuple[tuple[int, ...], bool]:
    """Return the order of the terms, the largest with one level in each row first, and whether there is one."""
    sizes = [block.Z.shape[1] if block.root is None and _one_level_each(block) else 0 for block in blocks]
    largest = int(np.argmax(sizes)) if sizes else 0
    if not sizes or not sizes[largest]:
        return tuple(range(len(blocks))), False
    return (largest, *(k for k in range(len(blocks)) if k != largest)), True


def _one_level_each(block: Block) -> bool:
    if block.levels == 1:
        return False
    level = block.Z.indices // block.width
    starts, ends = block.Z.indptr[:-1], block.Z.indptr[1:]
    filled = np.flatnonzero(ends > starts)
    if not filled.size:
        return False
    low = np.minimum.reduceat(level, starts[filled])
    high = np.maximum.reduceat(level, starts[filled])
    return bool((low == high).all())


def _orthonormal(block: Block) -> tuple[FloatArray, sp.csr_array]:
    """Return C (levels, width, width) and the sparse O with Z = O blockdiag(C_jᵀ), OᵀO = I on the range of Z."""
    n, c, L = block.Z.shape[0], block.width, block.levels
    if not L:
        return np.zeros((0, 1, 1)), sp.csr_array((n, 0))
    if c == 1:
        counts = np.sqrt(np.asarray(block.Z.multiply(block.Z).sum(axis=0)).ravel())
        inverse = np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)
        return counts.reshape(L, 1, 1), (block.Z @ sp.diags_array(inverse)).tocsr()
    gram = (block.Z.T @ block.Z).tocoo()
    H = np.zeros((L, c, c))
    H[gram.row // c, gram.row % c, gram.col % c] = gram.data
    # columns of any units within a level: the rank is that of the columns at length 1
    size = np.sqrt(np.maximum(np.diagonal(H, axis1=1, axis2=2), 0.0))
    size = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(H / (size[:, :, None] * size[:, None, :]))
    kept = values > _RANK_RTOL * values[:, -1:]
    roots = np.sqrt(np.where(kept, values, 0.0))
    inverse = np.divide(1.0, roots, out=np.zeros_like(roots), where=kept)
    C = size[:, :, None] * vectors * roots[:, None, :]
    blocks = vectors / size[:, :, None] * inverse[:, None, :]  # C_j⁻ᵀ on the range
    transform = sp.bsr_array((blocks, np.arange(L), np.arange(L + 1)), shape=(L * c, L * c))
    return C, (block.Z @ transform).tocsr()
