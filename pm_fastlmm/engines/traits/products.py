"""TraitProducts: several traits of the rows of one kernel, Σ_g ⊗ K + Σ_e ⊗ I."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray, shown
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.engines.records import Records
from pm_fastlmm.engines.term_products import Moments, TermProducts
from pm_fastlmm.engines.traits.rotation import Rotation
from pm_fastlmm.engines.traits.state import TraitState
from pm_fastlmm.kernel.likelihood.trait_basis import TraitBasis
from pm_fastlmm.spectrum.projection import Projection
from pm_fastlmm.spectrum.spectrum import Spectrum
from pm_fastlmm.spectrum.weights import PriorWeights

_SHARE = 0.95  # of the kernel, at which an iteration begins anew: near the other end than most boundaries

type Mask = npt.NDArray[np.bool_]


class TraitBlock(NamedTuple):
    """One term as the others see it: Z (N, levels · width), of rows times √w."""

    Z: sp.csr_array
    levels: int
    width: int
    root: Any = None


class TraitResponse(NamedTuple):
    """
    What the likelihood needs of a response.

    Attributes
    ----------
    rows : (n, t) array
        Y without its part along X, or with another; 0 where it was not observed.
    y1 : (r · t,) array
        The coordinates of y along X.
    z : (p, t) array
        UᵀY.
    outside : (t, t) array
        Cross-products of what is left of Y in the directions without variance of K.
    """

    rows: FloatArray
    y1: FloatArray
    z: FloatArray
    outside: FloatArray


class Columns(NamedTuple):
    """
    Columns u ⊗ τ of effects that the rotation knows nothing of: of entries that were not observed, or of β.

    The former have a flat prior, so that they add a direction each in which nothing was observed.

    Attributes
    ----------
    u : (m, p) array
        In the coordinates of the rows.
    tau : (m, t) array
        Over the traits.
    missing : int
        How many are of missing entries; these are the first.
    along : (m, r) array
        Q₁ᵀ of the same rows.
    """

    u: FloatArray
    tau: FloatArray
    missing: int
    along: FloatArray


@dataclass(frozen=True, eq=False, repr=False)
class TraitProducts(TermProducts):
    """
    The rotation of the rows, which all traits have in common, and what was observed.

    Rows are those of one trait after those of another; with entries missing the others are left.

    Attributes
    ----------
    spectrum : Spectrum
    traits : tuple of str
    seen : (t, n) bool array
    records : Records
    projection : Projection
        Of I ⊗ X in the rows that were observed.
    prior : bool
        Whether β has a Gaussian prior, which is the second block.
    """

    spectrum: Spectrum
    traits: tuple[str, ...]
    seen: Mask
    records: Records
    projection: Projection
    flat: bool
    weights: PriorWeights
    prior: bool = False
    rows_kept: bool = True

    @classmethod
    def of(cls, spectrum: Spectrum, traits: tuple[str, ...], seen: Mask, *, flat: bool, prior: bool = False) -> Self:
        """
        Return the products of traits that were observed where `seen` (t, n), and whose residuals covary.

        Raises
        ------
        ValueError
            If the rows of a trait do not determine its fixed effects.
        """
        t = len(traits)
        trait, row = np.nonzero(seen)
        projection = _projection(spectrum, spectrum.projection.X, traits, seen)
        root = spectrum.weights.root
        weights = PriorWeights(None if root is None else root[row])
        return cls(
            spectrum, traits, seen, Records(row, trait, np.ones((t, t), dtype=bool)), projection, flat, weights, prior
        )

    @cached_property
    def complete(self) -> Self:
        """The products of all entries."""
        if self.seen.all():
            return self
        return type(self).of(self.spectrum, self.traits, np.ones_like(self.seen), flat=self.flat, prior=self.prior)

    @cached_property
    def unweighted(self) -> Projection:
        """The projection of I ⊗ X itself, without weights."""
        if self.weights.root is None:
            return self.projection
        return _projection(self.spectrum, self.spectrum.X, self.traits, self.seen)

    @property
    def n(self) -> int:  # type: ignore[override]
        """Number of entries that were observed."""
        return len(self.records.record)

    @property
    def largest_ratio(self) -> float:  # type: ignore[override]
        """That of the spectrum."""
        return self.spectrum.largest_ratio

    @cached_property
    def blocks(self) -> tuple[TraitBlock, ...]:  # type: ignore[override]
        """The kernel, whose levels are the rows, and β where it has a Gaussian prior."""
        t, n, own = len(self.traits), self.spectrum.n, self.records
        root = np.ones(self.n) if self.weights.root is None else self.weights.root
        Z = sp.csr_array((root, own.record * t + own.coordinate, np.arange(self.n + 1)), shape=(self.n, n * t))
        kernel = TraitBlock(Z, n, t)
        if not self.prior:
            return (kernel,)
        return kernel, TraitBlock(sp.csr_array(self.projection.X), 1, self.projection.rank)

    @property
    def order(self) -> tuple[int, ...]:  # type: ignore[override]
        """The blocks as they are."""
        return tuple(range(1 + self.prior))

    @cached_property
    def rotation(self) -> Rotation:
        """K in coordinates of its own."""
        X, missing = self.spectrum.projection.X, np.flatnonzero(~self.seen.all(axis=0))
        units = np.zeros((self.spectrum.n, len(missing)))
        units[missing, np.arange(len(missing))] = 1.0
        besides = np.hstack([units, X]) if self.prior else units
        return Rotation.of(self.spectrum, flat=self.flat, besides=besides)

    @cached_property
    def columns(self) -> Columns | None:
        """What the rotation knows nothing of; None where that is nothing."""
        trait, row = np.nonzero(~self.seen)
        U, Q1, t = self.rotation.U, self.rotation.Q1, len(self.traits)
        u, tau = [U[row]], [np.eye(t)[trait]]
        along = Q1[row]
        if self.prior:
            X = self.spectrum.projection.X
            u.append(np.tile(X.T @ U, (t, 1)))
            tau.append(np.repeat(np.eye(t), X.shape[1], axis=0))
            along = np.zeros((len(row) + t * X.shape[1], 0))
        columns = Columns(np.vstack(u), np.vstack(tau), len(row), along)
        return columns if len(columns.u) else None

    @cached_property
    def root(self) -> tuple[FloatArray, FloatArray]:
        """F (n, m) of K = FFᵀ, and FᵀQ₁ of the same times √w."""
        s = self.spectrum
        return np.hstack(s.covariance_root()), np.vstack([s.C / np.sqrt(s.eigvals)[:, None], s.corner_root.T])

    @cached_property
    def K11(self) -> FloatArray:
        """Q₁ᵀKQ₁."""
        half = self.root[1]
        return half.T @ half

    @property
    def cheap(self) -> bool:
        """Whether thousands of evaluations take a second or two."""
        return self.work < 1e7

    @property
    def work(self) -> float:
        """About how many multiplications an evaluation takes."""
        p, t = len(self.rotation.eigvals), len(self.traits)
        m = 0 if self.columns is None else len(self.columns.u)
        return 20.0 * p * t**2 + m**2 * p * t / 5

    def treated(self, terms: int, *, flat: bool) -> Self:
        """Return the products of the same data with another treatment of β."""
        return replace(self, flat=flat, prior=self.prior and terms > 1)

    def filled(self, y: FloatArray) -> FloatArray:
        """Return values (N,) of what was observed as (n, t), 0 elsewhere."""
        out = np.zeros((self.spectrum.n, len(self.traits)))
        out[self.records.record, self.records.coordinate] = y
        return out

    def entries(self, rows: FloatArray) -> FloatArray:
        """Return what was observed, (…, N), of values (…, n, t)."""
        return np.asarray(rows[..., self.records.record, self.records.coordinate])

    def response(self, y: FloatArray) -> TraitResponse:
        """Return what the likelihood needs of y without its part along X."""
        y1, y2 = self.projection.apart(y)
        return self._rotated(self.filled(y2), y1)

    def shifted(self, response: TraitResponse, d: FloatArray) -> TraitResponse:
        """Return the same of y₂ and what has the coordinates d."""
        return self._rotated(response.rows + self.filled(self.projection.along(d)), response.y1)

    def _rotated(self, rows: FloatArray, y1: FloatArray) -> TraitResponse:
        z, left = self.rotation.apart(rows)
        outside = left.T @ left if self.rotation.nullity else np.zeros((len(self.traits),) * 2)
        return TraitResponse(rows, y1, z, outside)

    def at(self, response: TraitResponse, sigma: list[FloatArray], noise: FloatArray) -> TraitState | None:
        """Return V factored; None outside the parameter space."""
        return TraitState.at(self, response, sigma, noise)

    def log_density(self, phi: Any, noise: Any, residual: Any, b: Any) -> Any:
        """Return the graph of the log-likelihood of y less mu, without `constant`."""
        from pm_fastlmm.engines.traits.density import trait_log_density

        return trait_log_density(self, phi, noise, residual, b)

    def moments(self, strides: tuple[int, ...], y: FloatArray, response: Any = None) -> Moments:
        """Return what MINQUE needs, of each trait alone: entries that are missing are 0."""
        t, eigvals = len(self.traits), self.rotation.eigvals
        response = self.response(y) if response is None else response
        own = [[a] for a in range(t)] if strides[0] > 1 or t == 1 else [list(range(t))]
        count, c = len(own), t
        gram, squares = np.zeros((count + c,) * 2), np.zeros(count + c)
        along = (eigvals[:, None] * response.z**2).sum(axis=0)
        p = len(eigvals) + self.rotation.nullity
        for i, traits in enumerate(own):
            gram[i, i], squares[i] = len(traits) * (eigvals**2).sum(), along[traits].sum()
            gram[i, [count + a for a in traits]] = gram[[count + a for a in traits], i] = eigvals.sum()
        gram[count:, count:] = p * np.eye(c)
        squares[count:] = (response.z**2).sum(axis=0) + np.diag(response.outside)
        whole = np.sqrt(self.spectrum.mean_diagonal * self.spectrum.n)
        rows = [sp.csc_array(np.full((1, len(traits)), whole)) for traits in own]
        return Moments(rows + [sp.csc_array(np.full((1, 1), np.sqrt(p)))] * c, gram, squares, np.ones(c))

    def starts(self, response: TraitResponse) -> list[tuple[FloatArray, FloatArray]]:
        """Return a share of the covariance of what X leaves of the traits."""
        covariance = (response.z.T @ response.z + response.outside) / (len(response.z) + self.rotation.nullity)
        return [(_SHARE / self.spectrum.mean_eigval * covariance, (1 - _SHARE) * covariance)]

    @cached_property
    def _prior_root(self) -> FloatArray:
        """A root (n, k) of K of no more columns than rows, by row."""
        alone = Rotation.of(self.spectrum, flat=False, besides=np.zeros((self.spectrum.n, 0)))
        return self.spectrum.weights.unscaled_rows(alone.U * np.sqrt(alone.eigvals))

    def random_effects(self, phi: FloatArray, xi: FloatArray) -> FloatArray:
        """Return Σ_k Z_ku_k (…, N) of effects made of white noise ξ (…, q)."""
        sigma, t, root = self.unpacked(phi), len(self.traits), self._prior_root
        batch, (_, k) = xi.shape[:-1], root.shape
        u = root @ xi[..., : k * t].reshape(*batch, k, t) @ semidefinite_root(sigma[0]).T
        out = self.weights.scaled(self.entries(u))
        if self.prior:
            noise = xi[..., self.blocks[0].Z.shape[1] :]
            out = out + noise @ semidefinite_root(sigma[1]).T @ self.projection.X.T
        return np.asarray(out)

    def draw_prior(self, k: int, sigma: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Draw the effects of a block anew."""
        half = np.swapaxes(semidefinite_root(sigma), -1, -2)
        batch = sigma.shape[:-2]
        if k:
            return (rng.standard_normal((*batch, 1, half.shape[-1])) @ half).reshape(*batch, -1)
        root = self._prior_root
        u = root @ (rng.standard_normal((*batch, root.shape[1], len(self.traits))) @ half)
        return np.asarray(u.reshape(*batch, -1))

    def draw(
        self, y: FloatArray, sigma: list[FloatArray], noise: FloatArray, rng: np.random.Generator
    ) -> tuple[list[FloatArray], FloatArray]:
        """Draw the effects of each block, and β, given y: a draw a priori, moved by what y differs from it."""
        u = [self.draw_prior(k, own, rng) for k, own in enumerate(sigma)]
        e = self.records.coloured(noise, rng.standard_normal(self.n))
        own = sum((block.Z @ part for block, part in zip(self.blocks, u, strict=True)), e)
        state = self.at(self.response_to_known(y - own), sigma, noise)
        if state is None:
            raise ValueError("a posterior draw has a covariance that is not positive definite: its variances are 0.")
        moved = [part + found.ravel() for part, found in zip(u, state.effects(), strict=True)]
        return moved, state.beta()

    def propagated(self, k: int, sigma: FloatArray) -> FloatArray:
        """Return Z_k(A_k ⊗ Σ_k)Z_kᵀ (N, N)."""
        if k:
            X = self.projection.X
            return np.asarray(X @ sigma @ X.T)
        rows, trait = self.records.record, self.records.coordinate
        root = self.root[0][rows]
        values = (root @ root.T) * sigma[np.ix_(trait, trait)]
        return self.weights.matrix(values)

    def dense_incidence(self, k: int) -> FloatArray:
        """Return Z_kR_k (N, levels, width)."""
        block = self.blocks[k]
        Z = block.Z.toarray().reshape(self.n, block.levels, block.width)
        return Z if k else np.asarray(np.einsum("nla,lm->nma", Z, self.root[0], optimize=True))

    def level_variances(self, k: int) -> Any:
        """Return the diagonal of K, or 1."""
        return 1.0 if k else self.spectrum.diagonal

    @property
    def constant(self) -> float:
        """Σ log √w, and of a flat β -½ log|XᵀX| of each trait as if it had been observed throughout."""
        flat = len(self.traits) * self.spectrum.projection.logdet_R if self.flat else 0.0
        return self.weights.logdet - flat

    def basis(self, sigma: list[FloatArray], noise: FloatArray) -> TraitBasis | None:
        """Return the rotation of the traits."""
        return TraitBasis.of(np.asarray(sigma[0], dtype=float), np.asarray(noise, dtype=float))

    def __repr__(self) -> str:
        """Show the sizes."""
        return f"TraitProducts({len(self.traits)} traits of {self.spectrum.n} rows, {self.n} entries observed)"


def _projection(spectrum: Spectrum, X: FloatArray, traits: tuple[str, ...], seen: Mask) -> Projection:
    """Return the projection of I ⊗ X in the entries that were observed."""
    t, (n, r) = len(traits), X.shape
    names = tuple(f"{trait}: {column}" for trait in traits for column in spectrum.coef) if t > 1 else spectrum.coef
    out = np.zeros((t, n, t, r))
    for a, trait in enumerate(traits):
        own = X[seen[a]]
        out[a, :, a] = X
        if len(own) < n and r and (lost := _undetermined(X, own)):
            raise ValueError(
                f"the {len(own)} rows of {trait!r} do not determine its coefficient of "
                f"{shown([spectrum.coef[j] for j in lost])}: leave that column or that trait out, or the rows in which "
                "it differs from the others."
            )
    return Projection.from_design(out[seen].reshape(-1, t * r), names)


def _undetermined(X: FloatArray, own: FloatArray) -> list[int]:
    """Return columns of X that are combinations of the others in some of its rows."""
    scale = np.linalg.norm(X, axis=0)
    if not len(own):
        return list(range(X.shape[1]))
    _, values, Vt = np.linalg.svd(own / scale, full_matrices=True)
    padded = np.zeros(len(Vt))
    padded[: len(values)] = values
    none = np.abs(Vt[padded <= 1e-10 * padded.max()])
    return [int(j) for j in np.flatnonzero((none > 1e-6).any(axis=0))]
