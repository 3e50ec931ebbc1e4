"""MixedProducts: what several random-effects terms need of the rows, with the largest grouping factor eliminated."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray, frozen
from pm_fastlmm.spectrum.orthonormal import Remainder, orthonormal_blocks, remainder_of
from pm_fastlmm.spectrum.projection import Projection
from pm_fastlmm.spectrum.weights import UNWEIGHTED, PriorWeights

type IntArray = npt.NDArray[np.int64]

_SMALL = 1e9  # multiplications of BᵀDB: a tenth of a second
_MAX_DENSE = 20_000  # columns of the dense block: 3.2 GB for each of a few matrices


class EffectBlock(NamedTuple):
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
    rows : (n,) array or None
        y₂ itself, for where inner products lose digits.
    """

    within: FloatArray
    between: FloatArray
    rss: float
    y1: FloatArray
    rows: FloatArray | None = None


@dataclass(frozen=True, eq=False, repr=False)
class MixedProducts:
    """
    Cross-products of [Z₁ Z₂ … Z_K Q₁], Z₁ the eliminated term and W = [Z₂ … Z_K Q₁] the dense block.

    Each row belongs to one level of Z₁, so that Z₁ = O diag(C_jᵀ) with orthonormal O, block by block. What is formed
    when it is first needed, and kept:

        C (levels, width, width),   B = OᵀW (sparse),   within = Wᵀ(I - OOᵀ)W

    from which Wᵀ(Z₁G₁Z₁ᵀ + σ²_eI)⁻¹W = within/σ²_e + Σ_j B_jᵀ(C_jᵀΣ₁C_j + σ²_eI)⁻¹B_j, a sum in which nothing cancels.

    Attributes
    ----------
    n : int
        Number of observations.
    rows_kept : bool
        Whether the rows of Z, X and y are the observations. Otherwise they are fewer rows with the same inner products
        (`TermStatistics`), in a basis of their own.
    projection : Projection
        QR of X.
    flat : bool
        Whether Q₁ is in the dense block: β under a flat prior, integrated out.
    blocks : tuple of EffectBlock
        The terms in the order that was given.
    order : tuple of int
        The terms in the order of the engine: the eliminated one first.
    eliminated : bool
        Whether there is a term that can be eliminated.
    sizes : (terms, 2) int array
        Levels and width of each term in the dense block, in the engine's order.
    largest_ratio : float
        λ/σ²_e up to which the rows are precise: that of inner products where rows were made of them, inf otherwise.
    weights : PriorWeights
        What the rows of Z, X and y were scaled by.
    """

    n: int
    rows_kept: bool
    projection: Projection
    flat: bool
    blocks: tuple[EffectBlock, ...]
    order: tuple[int, ...]
    eliminated: bool
    sizes: IntArray
    largest_ratio: float = np.inf
    weights: PriorWeights = UNWEIGHTED

    @classmethod
    def from_rows(
        cls, blocks: Sequence[EffectBlock], projection: Projection, *, flat: bool, observations: int | None = None,
        largest_ratio: float = np.inf, weights: PriorWeights = UNWEIGHTED,
    ) -> Self:  # fmt: skip
        """
        Return the products of the rows of the incidence matrices and the projection of X.

        `observations` is their number where the rows are those of `TermStatistics`, fewer than the data had. `weights`
        are those by which all rows were scaled.

        Raises
        ------
        ValueError
            If the dense block, all terms but the one that is eliminated, would not fit in memory.
        """
        rows = projection.V.shape[0]
        order, eliminated = _elimination_order(blocks)
        rest = order[eliminated:]
        q, r = sum(blocks[k].Z.shape[1] for k in rest), projection.rank if flat else 0
        if q + r > _MAX_DENSE:
            columns = ", ".join(str(block.Z.shape[1]) for block in blocks)
            raise ValueError(
                f"the terms have {columns} random effects: one grouping factor is eliminated, but the other {q} fill a "
                f"dense matrix of that order, and {_MAX_DENSE} is the limit. Use fewer levels, or a low-rank term."
            )
        sizes = np.array([(blocks[k].levels, blocks[k].width) for k in rest], dtype=np.int64)
        return cls(
            n=rows if observations is None else observations,
            rows_kept=observations is None,
            projection=projection,
            flat=flat,
            blocks=tuple(blocks),
            order=order,
            eliminated=eliminated,
            sizes=frozen(sizes.reshape(-1, 2)),
            largest_ratio=largest_ratio,
            weights=weights,
        )

    @cached_property
    def _orthonormal(self) -> tuple[FloatArray, sp.csr_array]:
        none = EffectBlock(sp.csr_array((self.rows, 0)), 0, 1)
        first = self.blocks[self.order[0]] if self.eliminated else none
        C, O = orthonormal_blocks(first.Z, first.levels, first.width)  # noqa: E741
        return frozen(C), O

    @property
    def C(self) -> FloatArray:
        """C_j of the levels of Z₁."""
        return self._orthonormal[0]

    @property
    def O(self) -> sp.csr_array:  # noqa: E743 - the orthonormal factor of the formula
        """O (n, levels · width)."""
        return self._orthonormal[1]

    @cached_property
    def _Z(self) -> sp.csr_array:
        """[Z₂ … Z_K]."""
        rest = [self.blocks[k].Z for k in self.order[self.eliminated :]]
        return _beside(*rest) if rest else sp.csr_array((self.rows, 0))

    @property
    def _Q(self) -> FloatArray:
        return self.projection.Q1 if self.flat else np.zeros((self.rows, 0))

    @cached_property
    def W(self) -> sp.csr_array:
        """The dense block [Z₂ … Z_K Q₁]."""
        return _beside(self._Z, sp.csr_array(self._Q))

    @cached_property
    def B(self) -> sp.csr_array:
        """OᵀW."""
        Ot = self.O.T
        return _beside(Ot @ self._Z, sp.csr_array(Ot @ self._Q))

    @cached_property
    def within(self) -> FloatArray:
        """Wᵀ(I - OOᵀ)W."""
        Z, Q = self._Z, self._Q
        q, m = Z.shape[1], self.B.shape[1]
        left, shared = Q - self.O @ self.B[:, q:].toarray(), self.B[:, :q]
        out = np.empty((m, m))
        out[:q, :q] = (Z.T @ Z - shared.T @ shared).toarray()
        out[:q, q:] = Z.T @ left
        out[q:, :q] = out[:q, q:].T
        out[q:, q:] = left.T @ left
        return frozen(out)

    @cached_property
    def Q_between(self) -> FloatArray:
        """OᵀQ₁: with `Q_within` what moves the statistics of y to those of y₂ + Q₁d."""
        return frozen(np.asarray(self.O.T @ self.projection.Q1))

    @cached_property
    def Q_within(self) -> FloatArray:
        """Wᵀ(I - OOᵀ)Q₁."""
        return frozen(np.asarray(self.W.T @ (self.projection.Q1 - self.O @ self.Q_between)))

    def treated(self, terms: int, *, flat: bool) -> Self:
        """Return the products of the same data and the first terms with another treatment of β."""
        observations = None if self.rows_kept else self.n
        return self.from_rows(
            self.blocks[:terms], self.projection, flat=flat, observations=observations,
            largest_ratio=self.largest_ratio, weights=self.weights,
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Number of rows of Z, X and y."""
        return int(self.projection.V.shape[0])

    @property
    def fixed(self) -> int:
        """Number of fixed effects in the dense block: r, or 0 when β is not integrated out."""
        return self.projection.rank if self.flat else 0

    @property
    def df(self) -> int:
        """Degrees of freedom, n - r with β integrated out."""
        return self.n - self.fixed

    @property
    def constant(self) -> float:
        """What the log-likelihood has besides the density of the rows: -½ log|XᵀX| of a flat β, and Σ log √w."""
        return self.weights.logdet - (self.projection.logdet_R if self.flat else 0.0)

    @cached_property
    def constants(self) -> tuple[Any, ...]:
        """
        What the compiled likelihood reads beside the parameters and the response, in the order of its arguments.

        SciPy chooses the integers of indices by the size; each choice would be compiled.
        """
        indptr, indices = (places.astype(np.int64, copy=False) for places in (self.B.indptr, self.B.indices))
        return self.df, self.sizes, self.C, indptr, indices, self.B.data, self.within

    @property
    def small(self) -> bool:
        """Whether NumPy evaluates the likelihood in a fraction of the time that Numba takes to load or compile it."""
        rows, m = self.B.shape
        return rows * m * max(m, 1) <= _SMALL

    @cached_property
    def transposed(self) -> tuple[sp.csc_array, sp.csc_array, sp.csc_array]:
        """Oᵀ, Wᵀ and Bᵀ: SciPy makes an array of them each time, which takes longer than a product of a few rows."""
        return self.O.T, self.W.T, self.B.T

    @cached_property
    def filled(self) -> FloatArray:
        """B as a dense matrix."""
        return np.asarray(self.B.toarray())

    @cached_property
    def largest(self) -> FloatArray:
        """The largest squared length of a column of Z for each element of phi that is a variance, 0 for covariances."""
        squares = [self.blocks[k].Z.multiply(self.blocks[k].Z).sum(axis=0).max(initial=0.0) for k in self.order]
        parts = [z * np.eye(self.blocks[k].width).ravel() for k, z in zip(self.order, squares, strict=True)]
        return np.concatenate([np.zeros(0), *parts])

    def packed(self, sigma: Sequence[FloatArray]) -> FloatArray:
        """Return phi, the Σ_k packed in the order of the engine."""
        return np.concatenate([np.zeros(0), *(np.ravel(sigma[k]) for k in self.order)])

    @cached_property
    def lengths(self) -> FloatArray:
        """Lengths of the columns of W (m,)."""
        return np.sqrt(np.asarray(self.W.multiply(self.W).sum(axis=0)).ravel())

    @cached_property
    def remainder(self) -> Remainder | None:
        """What O leaves of W, formed when inner products lose digits; None if it would be too large."""
        return remainder_of(self.W, self.O, self.lengths)

    def unpacked(self, phi: FloatArray) -> list[FloatArray]:
        """Return Σ_k of each block from phi, packed in the order of the engine."""
        out: list[FloatArray] = [phi] * len(self.blocks)
        start = 0
        for k in self.order:
            c = self.blocks[k].width
            out[k] = phi[start : start + c * c].reshape(c, c)
            start += c * c
        return out

    def offsets(self) -> list[int | None]:
        """Return where each term starts in the dense block, None for the eliminated one."""
        out: list[int | None] = [None] * len(self.blocks)
        offset = 0
        for k in self.order[self.eliminated :]:
            out[k] = offset
            offset += self.blocks[k].Z.shape[1]
        return out

    def times_roots(self, A: FloatArray, roots: FloatArray, *, transposed: bool = False) -> FloatArray:
        """Return AΛ, or AΛᵀ, of the packed roots of the terms of the dense block."""
        if not roots.size:
            return A
        if roots.size == len(self.sizes):  # each is 1 × 1: Λ is diagonal
            diagonal = np.repeat(roots, self.sizes[:, 0])
            return np.asarray(A * np.concatenate([diagonal, np.ones(A.shape[1] - diagonal.size)]))
        out = A.copy()
        at = start = 0
        for levels, c in self.sizes.tolist():
            R = roots[start : start + c * c].reshape(c, c)
            columns = A[:, at : at + levels * c].reshape(len(A), levels, c)
            out[:, at : at + levels * c] = (columns @ (R.T if transposed else R)).reshape(len(A), -1)
            at, start = at + levels * c, start + c * c
        return out

    def rooted(self, k: int, u: FloatArray) -> FloatArray:
        """Return effects (…, levels · width) of a term from independent ones (…, levels, width)."""
        flat, root = u.reshape(*u.shape[:-2], -1), self.blocks[k].root
        return flat if root is None else np.asarray(flat @ root.T)

    @cached_property
    def _components(self) -> dict[tuple[int, ...], tuple[list[sp.csr_array], FloatArray]]:
        return {}

    def components(self, strides: tuple[int, ...]) -> tuple[list[sp.csr_array], FloatArray]:
        """
        Return Z_i of every stride-th column of a term, and tr(MV_iMV_j) for V_i = Z_iZ_iᵀ and, last, I.

        M takes X out, and no n × n matrix is formed.
        """
        if strides not in self._components:
            blocks = [block.Z for block, stride in zip(self.blocks, strides, strict=False) for _ in range(stride)]
            places = [(a, stride) for stride in strides for a in range(stride)]
            parts = [sp.csr_array(Z[:, np.arange(a, Z.shape[1], s)]) for Z, (a, s) in zip(blocks, places, strict=True)]
            Q = self.projection.Q1 if self.flat else self.projection.Q1[:, :0]
            self._components[strides] = parts, _traces(parts, Q, self.n)
        return self._components[strides]

    def mean_gram(self, k: int) -> FloatArray:
        """Return Σ_levels Z_jᵀZ_j / Σw of one term, (width, width): ⟨·, Σ_k⟩ is the mean variance of its Zu."""
        block = self.blocks[k]
        gram = (block.Z.T @ block.Z).tocoo()
        same = gram.row // block.width == gram.col // block.width
        out = np.zeros((block.width, block.width))
        np.add.at(out, (gram.row[same] % block.width, gram.col[same] % block.width), gram.data[same])
        return out / (self.n * self.weights.mean)

    def response(self, y: FloatArray) -> Response:
        """Return the statistics of a response (n,), from its rows."""
        Q = self.projection.Q1
        Ot, Wt, _ = self.transposed
        y1 = Q.T @ y
        residual = y - Q @ y1
        along = Ot @ residual
        inside = residual - self.O @ along
        between = along.reshape(-1, self.C.shape[-1])
        return Response(Wt @ inside, between, float(inside @ inside), y1, residual)

    def response_to_known(self, y: FloatArray) -> Response:
        """Return the statistics of y less its known mean: those of all of y where β is not integrated out."""
        response = self.response(y)
        return response if self.flat else self.shifted(response, response.y1)

    def shifted(self, response: Response, d: FloatArray) -> Response:
        """Return the statistics of y₂ + Q₁d, for products without the fixed effects in the dense block."""
        along, between = self.Q_between @ d, response.between.ravel()
        return Response(
            response.within + self.Q_within @ d,
            (between + along).reshape(response.between.shape),
            float(response.rss - 2 * along @ between + d @ d - along @ along),
            response.y1,
            None if response.rows is None else response.rows + self.projection.Q1 @ d,
        )

    def response_pullback(
        self, y: FloatArray, within: FloatArray, between: FloatArray, rss: float, y1: FloatArray, rows: FloatArray
    ) -> FloatArray:
        """Return the gradient with respect to y from those with respect to the statistics of `response`, and y₂."""
        Q = self.projection.Q1
        residual = y - Q @ (Q.T @ y)
        inside = residual - self.O @ (self.O.T @ residual)
        direct = self.W @ within + 2 * rss * inside
        total = direct - self.O @ (self.O.T @ direct) + self.O @ between.ravel()
        total = total + rows
        return np.asarray(total + Q @ (y1 - Q.T @ total))

    def __repr__(self) -> str:
        """Show the sizes."""
        terms = ", ".join(f"{block.levels} × {block.width}" for block in self.blocks)
        return f"MixedProducts(n={self.n}, terms of {terms} effects, {self.fixed} fixed effects)"


def _beside(*parts: sp.csr_array) -> sp.csr_array:
    out: sp.csr_array = parts[0] if len(parts) == 1 else sp.hstack(parts, format="csr")
    return out


def _traces(components: list[sp.csr_array], Q: FloatArray, n: int) -> FloatArray:
    along = [Z.T @ Q for Z in components]
    count = len(components)
    gram = np.zeros((count + 1, count + 1))
    for i, Zi in enumerate(components):
        for j in range(i + 1):
            cross = sp.coo_array(Zi.T @ components[j])
            shared = np.einsum("kr,kr->k", along[i][cross.row], along[j][cross.col])
            projected = np.sum((along[i].T @ along[i]) * (along[j].T @ along[j]))
            gram[i, j] = gram[j, i] = (cross.data**2).sum() - 2 * (cross.data * shared).sum() + projected
        gram[i, count] = gram[count, i] = (Zi.data**2).sum() - (along[i] ** 2).sum()
    gram[count, count] = n - Q.shape[1]
    return gram


def _elimination_order(blocks: Sequence[EffectBlock]) -> tuple[tuple[int, ...], bool]:
    """Return the order of the terms, the largest with one level in each row first, and whether there is one."""
    sizes = [block.Z.shape[1] if block.root is None and _one_level_each(block) else 0 for block in blocks]
    largest = int(np.argmax(sizes)) if sizes else 0
    if not sizes or not sizes[largest]:
        return tuple(range(len(blocks))), False
    return (largest, *(k for k in range(len(blocks)) if k != largest)), True


def _one_level_each(block: EffectBlock) -> bool:
    level, starts = block.Z.indices // block.width, block.Z.indptr
    first = level[np.repeat(starts[:-1], np.diff(starts))]  # of the row
    return bool(block.levels > 1 and level.size and (level == first).all())
