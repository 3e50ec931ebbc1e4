"""MixedProducts: what several random-effects terms need of the rows, with the largest grouping factor eliminated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray, frozen
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.engines.records import Records
from pm_fastlmm.engines.term_products import TermProducts
from pm_fastlmm.spectrum.orthonormal import LARGEST, Remainder, column_squares, orthonormal_blocks, remainder_of
from pm_fastlmm.spectrum.sparse_projection import AnyProjection
from pm_fastlmm.spectrum.weights import UNWEIGHTED, PriorWeights

type IntArray = npt.NDArray[np.int64]

_DENSE_BLOCK = 64  # columns of the dense block, and numbers of the eliminated term, of a cheap likelihood
_LEVELS = 8000
_WORK = 2e10  # of a QR factorisation for a better start
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
    root: Any = None


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
class MixedProducts(TermProducts):
    """
    Cross-products of [Z₁ Z₂ … Z_K Q₁], Z₁ the eliminated term and W = [Z₂ … Z_K Q₁] the dense block.

    Each row belongs to one level of Z₁, so that Z₁ = O diag(C_jᵀ) with orthonormal O, block by block. What is formed
    when it is first needed, and kept:

        C (levels, width, width),   B = OᵀW (sparse),   within = Wᵀ(I - OOᵀ)W

    from which Wᵀ(Z₁G₁Z₁ᵀ + σ²_eI)⁻¹W = within/σ²_e + Σ_j B_jᵀ(C_jᵀΣ₁C_j + σ²_eI)⁻¹B_j, a sum in which nothing cancels.

    Attributes
    ----------
    blocks : tuple of EffectBlock
    order : tuple of int
        The eliminated term first.
    eliminated : bool
        Whether there is a term that can be eliminated.
    sizes : (terms, 2) int array
        Levels and width of each term in the dense block, in the engine's order.
    """

    n: int
    rows_kept: bool
    projection: AnyProjection
    flat: bool
    blocks: tuple[EffectBlock, ...]
    order: tuple[int, ...]
    eliminated: bool
    sizes: IntArray
    largest_ratio: float = np.inf
    weights: PriorWeights = UNWEIGHTED

    @classmethod
    def from_rows(
        cls, blocks: Sequence[EffectBlock], projection: AnyProjection, *, flat: bool, observations: int | None = None,
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
        order, eliminated = elimination_order(blocks)
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
    def records(self) -> Records:  # type: ignore[override]
        """Residuals of one variance."""
        return Records.single(self.rows)

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
    def _term(self) -> IntArray:
        """Which of the terms of the dense block each column of W is of, those of Q₁ of one more."""
        return np.repeat(np.arange(len(self.sizes) + 1), [*self.sizes.prod(axis=1), self.fixed])

    @property
    def columns(self) -> int:
        """Number of columns of W."""
        return len(self._term)

    @cached_property
    def _shared(self) -> tuple[sp.csr_array, FloatArray]:
        """OᵀZ for the other terms, and OᵀQ₁."""
        Ot = self.O.T
        return Ot @ self._Z, Ot @ self._Q

    @cached_property
    def B(self) -> sp.csr_array:
        """OᵀW."""
        shared, along = self._shared
        return _beside(shared, sp.csr_array(along))

    @cached_property
    def within(self) -> FloatArray:
        """Wᵀ(I - OOᵀ)W."""
        (shared, along), (_, Zt, shared_t) = self._shared, self._transposed
        q, m, left = Zt.shape[0], self.columns, self._Q - self.O @ along
        out = np.empty((m, m))
        out[:q, :q] = (Zt @ self._Z - shared_t @ shared).toarray()
        out[:q, q:] = Zt @ left
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

    @property
    def cheap(self) -> bool:
        """Whether thousands of evaluations take a second or two."""
        return self.columns <= _DENSE_BLOCK and self.C.size <= _LEVELS

    @property
    def work(self) -> float:
        """The factorisation of the dense block, and its products with the eliminated term."""
        return float(self.columns) ** 3 + float(self.B.nnz + self.C.size) * self.columns

    def treated(self, terms: int, *, flat: bool) -> Self:
        """Return the products of the same data and the first terms with another treatment of β."""
        observations = None if self.rows_kept else self.n
        return self.from_rows(
            self.blocks[:terms], self.projection, flat=flat, observations=observations,
            largest_ratio=self.largest_ratio, weights=self.weights,
        )  # fmt: skip

    @cached_property
    def by_row(self) -> Any:
        """What the rows are to the products, for P and Py."""
        from pm_fastlmm.engines.structured.precision import PrecisionRows

        return PrecisionRows.of(self)

    @cached_property
    def constants(self) -> tuple[Any, ...]:
        """
        What the compiled likelihood reads beside the parameters and the response, in the order of its arguments.

        SciPy chooses the integers of indices by the size; each choice would be compiled.
        """
        indptr, indices = (places.astype(np.int64, copy=False) for places in (self.B.indptr, self.B.indices))
        return self.df, self.sizes, self.C, indptr, indices, self.B.data, self.within

    @cached_property
    def small(self) -> bool:
        """Whether NumPy evaluates the likelihood in a fraction of the time that Numba takes to load or compile it."""
        m = self.columns
        return self.O.shape[1] * m * max(m, 1) <= _SMALL

    @cached_property
    def _transposed(self) -> tuple[sp.csc_array, sp.csc_array, sp.csc_array]:
        """Oᵀ, Zᵀ, ZᵀO: SciPy makes an array of them each time, which takes longer than a product of a few rows."""
        return self.O.T, self._Z.T, self._shared[0].T

    def across(self, v: FloatArray) -> FloatArray:
        """Return Bᵀv."""
        return np.concatenate([self._transposed[2] @ v, self._shared[1].T @ v])

    @cached_property
    def filled(self) -> FloatArray:
        """B as a dense matrix."""
        shared, along = self._shared
        return np.hstack([shared.toarray(), along])

    @cached_property
    def largest(self) -> FloatArray:
        """The largest squared length of a column of Z for each element of phi that is a variance, 0 for covariances."""
        squares = [column_squares(self.blocks[k].Z).max(initial=0.0) for k in self.order]
        parts = [z * np.eye(self.blocks[k].width).ravel() for k, z in zip(self.order, squares, strict=True)]
        return np.concatenate([np.zeros(0), *parts])

    @cached_property
    def lengths(self) -> FloatArray:
        """Lengths of the columns of W (m,)."""
        return np.sqrt(column_squares(self.W))

    @cached_property
    def remainder(self) -> Remainder | None:
        """What O leaves of W, formed when inner products lose digits; None if it would be too large."""
        return remainder_of(self.W, self.O, self.lengths)

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
            return np.asarray(A * np.append(roots, 1.0)[self._term])
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

    def at(self, response: Response, sigma: list[FloatArray], noise: FloatArray) -> Any:
        """Return V factored; None outside the parameter space."""
        from pm_fastlmm.engines.structured.state import MixedState

        return MixedState.at(self, response, sigma, float(noise[0, 0]))

    def log_density(self, phi: Any, noise: Any, residual: Any, b: Any) -> Any:
        """Return the graph of the log-likelihood of y less mu, without `constant`."""
        from pm_fastlmm.engines.structured.operations import mixed_log_density

        return mixed_log_density(self, phi, noise[0, 0], residual, b)

    def random_effects(self, phi: FloatArray, xi: FloatArray) -> FloatArray:
        """Return Σ_k Z_k(I ⊗ R_k)ξ_k, R_kR_kᵀ = Σ_k, of white noise ξ (…, q)."""
        out = np.zeros((*xi.shape[:-1], self.rows))
        sigma, place = self.unpacked(phi), 0
        for k in self.order:
            Z, levels, c, _ = self.blocks[k]
            noise = xi[..., place : place + levels * c].reshape(*xi.shape[:-1], levels, c)
            u = np.einsum("ij,...lj->...li", semidefinite_root(sigma[k]), noise).reshape(-1, levels * c)
            out += (Z @ u.T).T.reshape(out.shape)
            place += levels * c
        return out

    def draw_prior(self, k: int, sigma: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Draw the effects of a term anew."""
        return self.rooted(k, independent(sigma, self.blocks[k].levels, rng))

    def draw(
        self, y: FloatArray, sigma: list[FloatArray], noise: FloatArray, rng: np.random.Generator
    ) -> tuple[list[FloatArray], FloatArray]:
        """
        Draw the effects of each block, and β, from their joint posterior given y.

        Conditional simulation (Matheron's rule): with u⁺, e⁺ drawn from the prior and y⁺ = Σ Z_ku_k⁺ + e⁺,
        β = β̂(y - y⁺) and u = u⁺ + û(y - y⁺) have exactly that distribution. A Gaussian prior of β is one term more.
        """
        drawn = []
        # of rows that were not kept, e⁺ in the directions left out is not needed: û and β̂ depend on y along X and Z
        left = y - self.records.coloured(noise, rng.standard_normal(self.rows))
        for block, S in zip(self.blocks, sigma, strict=True):
            drawn.append(independent(S, block.levels, rng))
            left = left - block.Z @ drawn[-1].ravel()
        state = self.at(self.response_to_known(left), sigma, noise)
        if state is None:
            raise ValueError("a posterior draw has a covariance that is not positive definite: its variances are 0.")
        estimate = zip(drawn, state.gradient.effects, sigma, strict=True)
        return [self.rooted(k, u + w @ S) for k, (u, w, S) in enumerate(estimate)], state.blue()[0]

    def propagated(self, k: int, sigma: FloatArray) -> FloatArray:
        """Return Z_k(I ⊗ Σ_k)Z_kᵀ (n, n)."""
        block = self.blocks[k]
        G = sp.kron(sp.eye_array(block.levels), sigma, format="csr")
        return np.asarray((block.Z @ G @ block.Z.T).todense())

    def dense_incidence(self, k: int) -> FloatArray:
        """Return Z_k (n, levels, width), of which a root of a known covariance is a part."""
        block = self.blocks[k]
        return np.asarray(block.Z.toarray()).reshape(-1, block.levels, block.width)

    def unexplained(self, response: Response) -> tuple[float, int] | None:
        """Return ‖·‖² of what X and the terms leave of y and in how many directions; None where it cannot be had."""
        if self.remainder is None or response.rows is None:
            return None
        _, rest = self.remainder.split(response.rows)
        used = int(np.count_nonzero(np.linalg.norm(self.C, axis=1))) + self.remainder.U.shape[1]
        return float(rest @ rest), self.n - used

    def resolves(self, response: Response) -> bool:
        """Return whether a small σ²_e is seen in rows: in what X and the terms leave of y, if that is anything."""
        if np.isfinite(self.largest_ratio) or self.rows * self.columns > LARGEST:
            return False
        if self.n > self.columns + self.O.shape[1]:
            return True
        found = self.unexplained(response) if self.searchable else None
        return found is not None and found[1] > 0

    @property
    def searchable(self) -> bool:
        """Whether a QR factorisation of the rows is affordable for a better start."""
        return self.rows * self.columns**2 < _WORK

    def imprecision(self, sigma: list[FloatArray], noise: FloatArray) -> str:
        """Return whether λ_max/δ is above what the cross-products were collected for."""
        if not np.isfinite(self.largest_ratio):
            return ""
        if ratio(self, self.packed(sigma), float(noise[0, 0])) <= self.largest_ratio:
            return ""
        return (
            f"λ_max/δ is above {self.largest_ratio:.0e}, up to which cross-products are precise: collect them again "
            "with method='tsqr'"
        )

    def response(self, y: FloatArray) -> Response:
        """Return the statistics of a response (n,), from its rows."""
        Q = self.projection.Q1
        Ot, Zt, _ = self._transposed
        y1 = Q.T @ y
        residual = y - Q @ y1
        along = Ot @ residual
        inside = residual - self.O @ along
        between = along.reshape(-1, self.C.shape[-1])
        within = np.concatenate([Zt @ inside, self._Q.T @ inside])
        return Response(within, between, float(inside @ inside), y1, residual)

    def shifted(self, response: Response, d: FloatArray) -> Response:
        """Return the statistics of y₂ + Q₁d, for products without the fixed effects in the dense block."""
        response = response._replace(within=response.within[: self.columns])  # the last are those of the fixed effects
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


def ratio(products: MixedProducts, phi: FloatArray, e: float) -> float:
    """Return the largest variance of an effect times the squared length of its column, over σ²_e."""
    with np.errstate(invalid="ignore"):  # of a variance that is infinite there is none
        return float((products.largest * phi).max(initial=0.0)) / e if e > 0 else math.nan


def independent(sigma: FloatArray, levels: int, rng: np.random.Generator) -> FloatArray:
    """Draw effects (…, levels, width) that are independent between levels, with the covariance (…, width, width)."""
    noise = rng.standard_normal((*sigma.shape[:-2], levels, sigma.shape[-1]))
    return np.asarray(noise @ np.swapaxes(semidefinite_root(sigma), -1, -2))


def _beside(*parts: sp.csr_array) -> sp.csr_array:
    out: sp.csr_array = parts[0] if len(parts) == 1 else sp.hstack(parts, format="csr")
    return out


def elimination_order(blocks: Sequence[EffectBlock]) -> tuple[tuple[int, ...], bool]:
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
