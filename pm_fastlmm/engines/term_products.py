"""
What evaluates several random-effects terms: the rows reduced to products once, and V factored at each θ.

There are two: blocked elimination with a dense Schur complement (`structured`), and a sparse Cholesky factorisation of
the mixed-model equations (`sparse`). A `StructuredLMM` holds one of them, and asks for no more than what stands here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.semidefinite import eigen_root
from pm_fastlmm.engines.records import Records
from pm_fastlmm.kernel.likelihood.leave_out import Precision
from pm_fastlmm.spectrum.sparse_projection import AnyProjection
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum
from pm_fastlmm.spectrum.weights import PriorWeights

_LARGEST = 300_000_000  # numbers of the incidence matrix of a component that is tested, and of X
_PROBES = 16  # of the traces of large terms, and four of very many rows, over which a product is a mean already
_MANY = 50_000
_NOTHING = 1e-12  # size of y in a coordinate of the residual, beside the largest, below which it is that of rounding


@dataclass(frozen=True, eq=False)
class Gradient:
    """
    ∂ℓ/∂Σ_k (width, width) for each term, ∂ℓ/∂Σ_e (c, c), and what predicts the effects.

    Terms are in the order of the blocks.
    """

    sigma: list[FloatArray]
    noise: FloatArray
    find: Callable[[], list[FloatArray]]

    @cached_property
    def effects(self) -> list[FloatArray]:
        """
        A_kZ_kᵀPy (levels, width) for each term, û_k = (·)Σ_k, found where they are asked for.

        A_k is the covariance between levels, where it is not a part of Z_k.
        """
        return self.find()


class Moments(NamedTuple):
    """
    Quadratic forms of y and what they are expected to be, for the V_i of terms and last those of Σ_e.

    The latter are I, or the rows of each coordinate.

    Attributes
    ----------
    rows : list of sparse arrays
        Z_iᵀ.
    gram : array
        tr(MV_iMV_j), M takes X out.
    squares : array
        yᵀMV_iMy.
    unit : (c,) array
        By what the variances of Σ_e are to be multiplied.
    """

    rows: list[sp.csc_array]
    gram: FloatArray
    squares: FloatArray
    unit: FloatArray


class TermState(ABC):
    """
    V factored at (Σ_k, Σ_e), with a response.

    Attributes
    ----------
    products : TermProducts
    sigma : list of (width, width) arrays
        In the order of the blocks.
    noise : (c, c) array
        Σ_e, σ²_e alone where all residuals have one variance.
    loglik : float
        Of the error contrasts (flat β) or of y, without -½log|XᵀX|.
    yPy : float
    """

    products: Any
    sigma: list[FloatArray]
    noise: FloatArray
    loglik: float
    yPy: float

    @property
    @abstractmethod
    def gradient(self) -> Gradient:
        """The score with respect to the matrices, and ZᵀPy."""

    @abstractmethod
    def average_information(self, directions: list[tuple[int, FloatArray]]) -> FloatArray:
        """
        Return ½ q_iᵀPq_j for q_i = V̇_iPy: Z_k(A_k ⊗ Σ̇_i)Z_kᵀPy of `directions` (k, Σ̇_i), ṘPy where k is `NOISE`.

        Those of the residual are the last.
        """

    @abstractmethod
    def blue(self) -> tuple[FloatArray, Any]:
        """Return β̂ (r,) and its covariance (r, r), maybe sparse; of length 0 when β is not integrated out."""

    def beta(self) -> FloatArray:
        """Return β̂ alone."""
        return self.blue()[0]

    @abstractmethod
    def effects(self) -> list[FloatArray]:
        """Return û_k (levels, width) of each term."""

    @abstractmethod
    def prediction_error(self, k: int, root: FloatArray | None = None, *, beta_known: bool = False) -> FloatArray:
        """
        Return the diagonal of Var(û_k - u_k), (levels, width); with β known that of Var(u_k | y, β).

        For a term with a root `root` may be other rows of it, those of levels without data.
        """

    def leverage(self) -> FloatArray | None:
        """Return ∂ŷ_i/∂y_i = 1 - (RP)_ii, (n,), where residuals covary; None where it is 1 - R_iiP_ii."""
        return None

    @abstractmethod
    def predict(self, X_new: FloatArray, Z_new: list[Any], unknown: FloatArray) -> tuple[FloatArray, FloatArray]:
        """
        Return f̂* = X*β̂ + Σ Z*û and Var(f* - f̂*), (m,) each.

        Z* are those of the terms over their known levels, `unknown` is the prior variance (m,) of effects of new ones.
        """

    @abstractmethod
    def precision(self, residual: FloatArray, budget: int = 4_000_000) -> Precision:
        """Return P and Py, of y less its mean besides a β that is integrated out."""

    def alone(self, y: FloatArray, k: int, direction: FloatArray, variance: float) -> Rotated:
        """
        Return y less the predictions of all but variance · direction, a part of Σ_k, rotated by that part.

        Raises
        ------
        ValueError
            If the spectrum of that component would not fit in memory.
        """
        p = self.products
        block = p.blocks[k]
        values, vectors = np.linalg.eigh(direction)
        root = eigen_root(values, vectors)[:, values > 1e-12 * values.max()]
        n, width = block.Z.shape[0], root.shape[1]
        if n * (block.levels * width + p.fixed) > _LARGEST:
            raise ValueError(
                f"the component has {block.levels * width} effects in {n} rows: its spectrum would not fit in memory. "
                "2 * (fit.loglik - loglik without it) beside ½χ²₀ + ½χ²₁ is what is left."
            )
        W = (p.dense_incidence(k) @ root).reshape(n, -1)
        others = np.zeros(n)
        for j, weights in enumerate(self.gradient.effects):
            sigma = self.sigma[j] - (variance * direction if j == k else 0.0)
            others += p.blocks[j].Z @ (weights @ sigma).ravel()
        X = p.projection.X.toarray() if p.projection.sparse else p.projection.Q1
        W, X, rest = (self._independent(part) for part in (W, X, y - others))
        return Rotated.from_values(Spectrum.from_factor(W, X), rest, None)

    def _independent(self, rows: FloatArray) -> FloatArray:
        """Return rows whose residuals are independent, of one variance, from those of the data."""
        return rows


class TermProducts(ABC):
    """
    What several terms need of the rows, in the products that an engine works with.

    Attributes
    ----------
    n : int
        Number of observations.
    rows_kept : bool
        Whether the rows of Z, X and y are the observations. Otherwise they are fewer rows with the same inner products
        (`TermStatistics`), in a basis of their own.
    projection : Projection or SparseProjection
        Of X, with coordinates along it.
    flat : bool
        Whether β, under a flat prior, is integrated out.
    blocks : tuple
        The terms in the order that was given, a Gaussian prior of β last: Z (n, levels · width), levels, width.
    order : tuple of int
        The terms in the order of the engine.
    largest_ratio : float
        λ/σ²_e up to which the rows are precise: that of inner products where rows were made of them, inf otherwise.
    weights : PriorWeights
        What the rows of Z, X and y were scaled by.
    records : Records
        Which residuals covary.
    """

    n: int
    rows_kept: bool
    projection: AnyProjection
    flat: bool
    blocks: tuple[Any, ...]
    order: tuple[int, ...]
    largest_ratio: float
    weights: PriorWeights
    records: Records

    @property
    @abstractmethod
    def cheap(self) -> bool:
        """Whether thousands of evaluations take a second or two."""

    @property
    @abstractmethod
    def work(self) -> float:
        """About how many multiplications an evaluation takes, those of LAPACK, which are fast, as a tenth."""

    searchable: Any = False  # whether what X and the terms leave of y is affordable for a better start
    diagonalised: Any = True  # whether one kernel is worth an eigendecomposition
    scanned: Any = True  # whether many ratios of two variances are tried before the iteration starts

    @abstractmethod
    def treated(self, terms: int, *, flat: bool) -> Self:
        """Return the products of the same data and the first terms with another treatment of β."""

    @abstractmethod
    def response(self, y: FloatArray) -> Any:
        """Return what the likelihood needs of a response (n,); its `y1` are the coordinates of y along X."""

    @abstractmethod
    def shifted(self, response: Any, d: FloatArray) -> Any:
        """Return the same of y₂, y without its part along X, and what has the coordinates d; for a β that is given."""

    def response_to_known(self, y: FloatArray) -> Any:
        """Return the same of y less its known mean: of all of y where β is not integrated out."""
        response = self.response(y)
        return response if self.flat else self.shifted(response, response.y1)

    @abstractmethod
    def at(self, response: Any, sigma: list[FloatArray], noise: FloatArray) -> TermState | None:
        """Return V factored; None outside the parameter space."""

    @abstractmethod
    def log_density(self, phi: Any, noise: Any, residual: Any, b: Any) -> Any:
        """Return the graph of the log-likelihood of y less mu, without `constant`; b is the mean of β, if any."""

    @abstractmethod
    def random_effects(self, phi: FloatArray, xi: FloatArray) -> FloatArray:
        """Return Σ_k Z_ku_k (…, n) of effects made of white noise ξ (…, q)."""

    @abstractmethod
    def draw_prior(self, k: int, sigma: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Draw the effects (…, levels · width) of a term anew, for Σ_k (…, width, width)."""

    @abstractmethod
    def draw(
        self, y: FloatArray, sigma: list[FloatArray], noise: FloatArray, rng: np.random.Generator
    ) -> tuple[list[FloatArray], FloatArray]:
        """Draw the effects of each block, and β where it is integrated out, given y less its known mean."""

    @abstractmethod
    def propagated(self, k: int, sigma: FloatArray) -> FloatArray:
        """Return Z_k(A_k ⊗ Σ_k)Z_kᵀ (n, n)."""

    @abstractmethod
    def dense_incidence(self, k: int) -> FloatArray:
        """Return Z_kR_k (n, levels, width), R_kR_kᵀ = A_k ⊗ I, as an array."""

    def level_variances(self, k: int) -> Any:
        """Return the diagonal of A_k, (levels,), or 1."""
        return 1.0

    def starts(self, response: Any) -> list[tuple[FloatArray, FloatArray]]:
        """Return (Σ_1, Σ_e) from which an iteration may come to another maximum; none where that is dear."""
        return []

    def unexplained(self, response: Any) -> tuple[float, int] | None:
        """Return ‖·‖² of what X and the terms leave of y and in how many directions; None where it cannot be had."""
        return None

    def resolves(self, response: Any) -> bool:
        """Return whether a small σ²_e is seen in rows: in what X and the terms leave of y."""
        return False

    def imprecision(self, sigma: list[FloatArray], noise: FloatArray) -> str:
        """Return what an estimate loses because V is worse conditioned than the products are precise, or nothing."""
        return ""

    @property
    def rows(self) -> int:
        """Number of rows of Z, X and y."""
        return self.projection.n

    @property
    def fixed(self) -> int:
        """Number of fixed effects that are integrated out: r or 0."""
        return self.projection.rank if self.flat else 0

    @property
    def df(self) -> int:
        """Degrees of freedom, n - r with β integrated out."""
        return self.n - self.fixed

    @property
    def constant(self) -> float:
        """What the log-likelihood has besides the density of the rows: -½ log|XᵀX| of a flat β, and Σ log √w."""
        return self.weights.logdet - (self.projection.logdet_R if self.flat else 0.0)

    def packed(self, sigma: Sequence[FloatArray]) -> FloatArray:
        """Return phi, the Σ_k packed in the order of the engine."""
        return np.concatenate([np.zeros(0), *(np.ravel(sigma[k]) for k in self.order)])

    def unpacked(self, phi: FloatArray) -> list[FloatArray]:
        """Return Σ_k of each block from phi, packed in the order of the engine."""
        out: list[FloatArray] = [phi] * len(self.blocks)
        start = 0
        for k in self.order:
            c = self.blocks[k].width
            out[k] = phi[start : start + c * c].reshape(c, c)
            start += c * c
        return out

    @cached_property
    def _components(self) -> dict[tuple[int, ...], tuple[list[sp.csc_array], FloatArray]]:
        return {}

    def moments(self, strides: tuple[int, ...], y: FloatArray, response: Any = None) -> Moments:
        """
        Return what MINQUE needs of y without its part along X, for V_i = Z_iZ_iᵀ of every stride-th column of a term.

        No n × n matrix is formed. What an engine needs of y may be at hand, `response`. Where A_k is not a part of Z_k
        levels are taken to be unrelated. Coordinates of the residual may have very different units, and rows are then
        divided by the sizes of y in them.
        """
        records, unit = self.records, np.ones(self.records.width)
        X = self.projection if self.flat else None
        if records.width == 1:
            if strides not in self._components:
                parts = self._parts(strides)
                rows = [Z.T for Z in parts]
                self._components[strides] = rows, _traces(parts, rows, X, self.n)
            rows, gram = self._components[strides]
        else:
            unit = np.sqrt(np.bincount(records.coordinate, y**2, records.width) / records.counts)
            unit = np.where(unit > _NOTHING * unit.max(), unit, 1.0)
            scale = 1 / unit[records.coordinate]
            X = None if X is None else X.scaled(scale)
            y = scale * y if X is None else X.apart(scale * y)[1]
            parts = [sp.csr_array(sp.diags_array(scale) @ Z) for Z in self._parts(strides)] + records.incidences
            rows = [Z.T for Z in parts]
            gram = _traces(parts, rows, X, self.n)[:-1, :-1]
        squares = np.array([*(((Zt @ y) ** 2).sum() for Zt in rows), y @ y])
        return Moments(rows, gram, squares[: len(gram)], unit**2)

    def _parts(self, strides: tuple[int, ...]) -> list[sp.csr_array]:
        blocks = [block.Z for block, stride in zip(self.blocks, strides, strict=False) for _ in range(stride)]
        places = [(a, stride) for stride in strides for a in range(stride)]
        return [Z if s == 1 else Z[:, a::s] for Z, (a, s) in zip(blocks, places, strict=True)]

    def mean_gram(self, k: int, coordinate: int | None = None) -> FloatArray:
        """
        Return Σ_levels A_jjZ_jᵀZ_j / Σw of one term, (width, width): ⟨·, Σ_k⟩ is the mean variance of its Zu.

        It is that in all rows, or in those of one coordinate of the residual.
        """
        block, variances = self.blocks[k], self.level_variances(k)
        Z = block.Z if coordinate is None else block.Z[self.records.coordinate == coordinate]
        gram = (Z.T @ Z).tocoo()
        level = gram.row // block.width
        same = level == gram.col // block.width
        values = gram.data[same] * np.broadcast_to(variances, block.levels)[level[same]]
        out = np.zeros((block.width, block.width))
        np.add.at(out, (gram.row[same] % block.width, gram.col[same] % block.width), values)
        return out / (self.n * self.weights.mean if coordinate is None else self.total_weights[coordinate])

    @cached_property
    def total_weights(self) -> FloatArray:
        """Σw of the rows of each coordinate of the residual, (c,)."""
        weights = np.broadcast_to(self.weights.values, self.records.n)
        return np.bincount(self.records.coordinate, weights, self.records.width)


def _traces(
    components: list[sp.csr_array], transposed: list[sp.csc_array], X: AnyProjection | None, n: int
) -> FloatArray:
    """Return tr(MV_iMV_j), exactly or, where Z_iᵀQ of an orthonormal basis Q of X would be large, from probes."""
    found = [np.zeros((Zt.shape[0], 0)) if X is None else X.orthonormal(Zt) for Zt in transposed]
    along = [part for part in found if part is not None]
    if len(along) < len(found):
        return _probed(components, transposed, X, n)
    count = len(components)
    gram = np.zeros((count + 1, count + 1))
    for i, Zi in enumerate(components):
        for j in range(i + 1):
            cross = transposed[i] @ components[j]
            shared = np.vdot(cross @ along[j], along[i])
            projected = np.vdot(along[i].T @ along[i], along[j].T @ along[j])
            gram[i, j] = gram[j, i] = (cross.data**2).sum() - 2 * shared + projected
        gram[i, count] = gram[count, i] = (Zi.data**2).sum() - (along[i] ** 2).sum()
    gram[count, count] = n - (0 if X is None else X.rank)
    return gram


def _probed(components: list[sp.csr_array], transposed: list[sp.csc_array], X: Any, n: int) -> FloatArray:
    """
    Return the same as means of (MV_iw)ᵀV_jw over probes w = Mξ (Hutchinson 1989, doi:10.1080/03610918908812806).

    They start an iteration, for which some per cent are enough; the generator is the same for the same data. All
    entries are of the same probes: where two terms are the same matrix, their entries are the same numbers.
    """
    rng, count = np.random.default_rng(0), len(components)
    gram = np.zeros((count + 1, count + 1))
    probes = _PROBES if n < _MANY else 4
    for _ in range(probes):
        w = X.apart(rng.choice([-1.0, 1.0], size=n))[1]
        images = [*(Z @ (Zt @ w) for Z, Zt in zip(components, transposed, strict=True)), w]
        left = [*(X.apart(image)[1] for image in images[:-1]), w]
        gram += [[a @ b for b in images] for a in left]
    return (gram + gram.T) / (2 * probes)
