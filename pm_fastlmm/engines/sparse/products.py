"""SparseProducts: several terms whose effects are related by a sparse inverse, or are many and cross sparsely."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.engines.records import Records
from pm_fastlmm.engines.sparse.equations import Equations, SparseBlock
from pm_fastlmm.engines.sparse.state import SparseResponse, SparseState
from pm_fastlmm.engines.term_products import TermProducts
from pm_fastlmm.sparse.cholesky import Factor, factorised
from pm_fastlmm.spectrum.sparse_projection import AnyProjection, SparseProjection
from pm_fastlmm.spectrum.weights import UNWEIGHTED, PriorWeights

_CHEAP = 1e5  # multiplications of a factorisation that thousands take a second or two of
_SCANNED = 1e8  # of one that a scan of ratios takes a few seconds of
_PRECISE = 1e9  # times σ²_e, of a term's variance in an observation, up to which equations keep five digits
_INVERSE = 3.0  # work of an evaluation with its gradient, in factorisations


@dataclass(frozen=True, eq=False, repr=False)
class SparseProducts(TermProducts):
    """
    The mixed-model equations of several terms, with X as a further block where β is integrated out.

    The unknowns of X are the coordinates of its projection, which is sparse where most entries of X are 0.

    Attributes
    ----------
    blocks : tuple of SparseBlock
    """

    n: int
    projection: AnyProjection
    flat: bool
    blocks: tuple[SparseBlock, ...]
    records: Records
    weights: PriorWeights = UNWEIGHTED
    rows_kept: bool = True
    largest_ratio: float = np.inf

    @classmethod
    def from_rows(
        cls, blocks: Sequence[SparseBlock], projection: AnyProjection, *, flat: bool,
        weights: PriorWeights = UNWEIGHTED, records: Records | None = None,
    ) -> Self:  # fmt: skip
        """Return the products of the rows of the incidence matrices and the projection of X."""
        n, own = projection.n, SparseProjection.worthwhile(projection)
        return cls(n, own, flat, tuple(blocks), records or Records.single(n), weights)

    @cached_property
    def order(self) -> tuple[int, ...]:  # type: ignore[override]
        """The terms as they were given."""
        return tuple(range(len(self.blocks)))

    @cached_property
    def equations(self) -> Equations:
        """C, analysed."""
        basis = self.projection.basis if self.flat else sp.csr_array((self.n, 0))
        return Equations.of(self.blocks, basis, self.records)

    @cached_property
    def known_logdet(self) -> float:
        """Σ_k width_k log|A_k|."""
        return sum(b.width * b.precision.logdet for b in self.blocks if b.precision is not None)

    def column_units(self, noise: FloatArray) -> list[FloatArray]:
        """Return the standard deviations (width,) of effects that add as much variance as the residuals have."""
        precision = 1 / np.diag(noise)
        information = [precision @ squares for squares in self._column_squares]
        return [1 / np.sqrt(np.where(own > 0, own, precision.mean() / self.n)) for own in information]

    @cached_property
    def _column_squares(self) -> list[FloatArray]:
        """Σ z²/n of the columns of each term, over the rows of each coordinate of the residual, (c, width)."""
        out, c = [], self.records.width
        for block in self.blocks:
            own = np.repeat(self.records.coordinate, np.diff(block.Z.indptr)) * block.width
            size = c * block.width
            squares = np.bincount(own + block.Z.indices % block.width, block.Z.data**2, minlength=size)
            out.append(squares.reshape(c, block.width) / self.n)
        return out

    @property
    def cheap(self) -> bool:
        """Whether thousands of evaluations take a second or two."""
        return self.equations.analysis.flops < _CHEAP

    @property
    def work(self) -> float:
        """About how many multiplications an evaluation takes."""
        return _INVERSE * self.equations.analysis.flops

    @property
    def diagonalised(self) -> bool:
        """No kernel is: a factorisation takes less than a product with its eigenvectors."""
        return False

    @property
    def scanned(self) -> bool:
        """Whether many ratios of two variances are tried before the iteration starts."""
        return self.equations.analysis.flops < _SCANNED

    def imprecision(self, sigma: list[FloatArray], noise: FloatArray) -> str:
        """Return that effects have lost digits beside a small σ²_e: of errors 5e-14 times the ratio of variances."""
        own = [float((self.mean_gram(k) * S).sum()) for k, S in enumerate(sigma)]
        if max(own) <= _PRECISE * float(self.records.mean(noise)):
            return ""
        return (
            f"the residual variance is below {1 / _PRECISE:.0e} of that of a term, beside which sparse equations lose "
            "digits: effects and their errors have fewer than five"
        )

    def treated(self, terms: int, *, flat: bool) -> Self:
        """Return the products of the same data and the first terms with another treatment of β."""
        return type(self).from_rows(
            self.blocks[:terms], self.projection, flat=flat, weights=self.weights, records=self.records
        )

    def response(self, y: FloatArray) -> SparseResponse:
        """Return y₂, and the coordinates of y along X."""
        y1, y2 = self.projection.apart(y)
        return SparseResponse(y2, y1)

    def shifted(self, response: SparseResponse, d: FloatArray) -> SparseResponse:
        """Return the same of y₂ and what has the coordinates d."""
        return response._replace(y=response.y + self.projection.along(d))

    def at(self, response: SparseResponse, sigma: list[FloatArray], noise: FloatArray) -> SparseState | None:
        """Return V factored; None outside the parameter space."""
        return SparseState.at(self, response, sigma, noise)

    def log_density(self, phi: Any, noise: Any, residual: Any, b: Any) -> Any:
        """Return the graph of the log-likelihood of y less mu, without `constant`."""
        from pm_fastlmm.engines.sparse.operations import sparse_log_density

        return sparse_log_density(self, phi, noise, residual, b)

    def between(self, k: int) -> Factor:
        """Return Q_k factored."""
        return self._between[k]

    @cached_property
    def _between(self) -> dict[int, Factor]:
        known = ((k, block.precision) for k, block in enumerate(self.blocks))
        return {k: factorised(precision.Q) for k, precision in known if precision is not None}

    def _spread(self, k: int, noise: FloatArray) -> FloatArray:
        """Return effects (…, levels, width) with the covariance A_k between levels, of white noise."""
        if self.blocks[k].precision is None:
            return noise
        levels = np.moveaxis(noise, -2, 0)
        drawn = self.between(k).draw(levels.reshape(len(levels), -1))
        return np.moveaxis(drawn.reshape(levels.shape), 0, -2)

    def rooted(self, k: int, u: FloatArray) -> FloatArray:
        """Return effects (…, levels · width) over the levels, where a root was moved into Z."""
        flat, root = u.reshape(*u.shape[:-2], -1), self.blocks[k].root
        return flat if root is None else np.asarray(flat @ root.T)

    def over_unknowns(self, k: int, Z: Any) -> Any:
        """Return Z* (m, …) of new rows over the unknowns of the equations."""
        root = self.blocks[k].root if k < len(self.blocks) else None
        return Z if root is None else Z @ root

    def random_effects(self, phi: FloatArray, xi: FloatArray) -> FloatArray:
        """Return Σ_k Z_ku_k (…, n) of effects made of white noise ξ (…, q)."""
        out, place = np.zeros((*xi.shape[:-1], self.n)), 0
        for k, (block, sigma) in enumerate(zip(self.blocks, self.unpacked(phi), strict=True)):
            q = block.levels * block.width
            noise = self._spread(k, xi[..., place : place + q].reshape(*xi.shape[:-1], block.levels, block.width))
            u = (noise @ semidefinite_root(sigma).T).reshape(-1, q)
            out += (block.Z @ u.T).T.reshape(out.shape)
            place += q
        return out

    def draw_prior(self, k: int, sigma: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Draw the effects of a term anew."""
        block = self.blocks[k]
        noise = rng.standard_normal((*sigma.shape[:-2], block.levels, block.width))
        return self.rooted(k, self._spread(k, noise) @ np.swapaxes(semidefinite_root(sigma), -1, -2))

    def draw(
        self, y: FloatArray, sigma: list[FloatArray], noise: FloatArray, rng: np.random.Generator
    ) -> tuple[list[FloatArray], FloatArray]:
        """Draw the effects of each block, and β, from their joint posterior given y: ŵ plus L⁻ᵀ times white noise."""
        state = self.at(self.response_to_known(y), sigma, noise)
        if state is None:
            raise ValueError("a posterior draw has a covariance that is not positive definite: its variances are 0.")
        return state.draw(rng)

    def propagated(self, k: int, sigma: FloatArray) -> FloatArray:
        """Return Z_k(A_k ⊗ Σ_k)Z_kᵀ (n, n)."""
        ZR = self.dense_incidence(k)
        return np.asarray(np.einsum("nla,ab,mlb->nm", ZR, sigma, ZR, optimize=True))

    def dense_incidence(self, k: int) -> FloatArray:
        """Return Z_kR_k (n, levels, width)."""
        block = self.blocks[k]
        Z = np.asarray(block.Z.toarray()).reshape(self.n, block.levels, block.width)
        if block.precision is None:
            return Z
        root = np.linalg.cholesky(block.precision.dense(block.precision.labels).to_numpy())
        return np.asarray(np.einsum("nla,lm->nma", Z, root, optimize=True))

    def level_variances(self, k: int) -> Any:
        """Return the diagonal of A_k, or 1."""
        precision = self.blocks[k].precision
        return 1.0 if precision is None else precision.variances

    def __repr__(self) -> str:
        """Show the sizes."""
        terms = ", ".join(f"{block.levels} × {block.width}" for block in self.blocks)
        return f"SparseProducts(n={self.n}, terms of {terms} effects, {self.fixed} fixed effects)"
