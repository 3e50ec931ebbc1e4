"""The objective of a structured model: θ of the terms and of the residual, from cross-products."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.aireml.cone import pack
from pm_fastlmm.aireml.objective import RESCALE, Observed, elsewhere, moment_start
from pm_fastlmm.base.arrays import EPS, FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.covariance.theta import NOISE, RESIDUAL, Theta
from pm_fastlmm.engines.laid_out import LaidOut
from pm_fastlmm.engines.starting import starting_values
from pm_fastlmm.engines.structured.least import RESOLVED, VANISHED, at_least, inside, least_variances, rises
from pm_fastlmm.engines.structured.statistics import require_rows
from pm_fastlmm.engines.term_products import TermProducts, TermState
from pm_fastlmm.spectrum.sparse_projection import AnyProjection
from pm_fastlmm.spectrum.spectrum import Rotated

_ROUNDED = 64 * EPS  # of the length of y, to which its entries are rounded
_EXPLAINED = 1e-12  # share of the squares of a component that X leaves, below which it leaves nothing
_RATIOS = 16.0  # of log(σ²/σ²_e) about the moment estimate, where the search for the best mode looks
_NONE, _NO_PRIOR = np.zeros(0), np.zeros((0, 0))


class StructuredState(NamedTuple):
    """V factored at θ, what the score is taken of, and the log-likelihood."""

    mixed: TermState
    scored: TermState
    loglik: float


@dataclass(frozen=True, eq=False)
class StructuredObjective(LaidOut):
    """
    ℓ(θ) of Z G(θ) Zᵀ + R(θ), R = σ²_eI unless the residual has groups or records.

    Attributes
    ----------
    products, unprojected : TermProducts
        With β integrated out, and with a given one (for ML); the same if β is not integrated out.
    y : (n,) array
        y - mu, without what is along X.
    response : what the products need of y
        Of y - mu, moved to y - mu - Xb where the prior mean of β is b.
    layout : Theta
    held : (P,) array
        The numbers at which elements of θ are fixed by the model, NaN for the others.
    """

    products: TermProducts
    unprojected: TermProducts
    y: FloatArray
    response: Any
    prior: FloatArray
    held: FloatArray

    @classmethod
    def of(
        cls, products: TermProducts, layout: Theta, y: FloatArray, *, offset: FloatArray = _NONE,
        prior: FloatArray = _NO_PRIOR, method: Method = "REML", projection: AnyProjection | None = None,
    ) -> Self:  # fmt: skip
        """
        Return the objective of a response less its known mean; `offset` and `prior` are those of a Gaussian β.

        Of rows with prior weights the response is scaled as they are, and `projection` is that of X as it was given.
        """
        response, scaled = products.response(y), products.projection
        if offset.size:
            response = products.shifted(response, response.y1 - scaled.coordinates(offset))
        unprojected = products
        if method == "ML" and products.flat:
            unprojected = products.treated(len(products.blocks), flat=False)
        return cls(
            products=products, unprojected=unprojected, y=scaled.apart(y)[1],
            response=response, layout=layout, prior=prior, method=method, fixed=np.zeros(layout.size, dtype=bool),
            names=layout.names, lower=layout.lower, upper=layout.upper,
            coef=scaled.coef if products.flat else (), n=products.n,
            projection=scaled if projection is None else projection,
            held=np.full(layout.size, np.nan),
        )  # fmt: skip

    @property
    def observed(self) -> Observed:
        """The response by row."""
        return Observed(self.y, self.products.projection.along(self.response.y1), self.products.flat)

    @property
    def least_squares(self) -> float | None:
        """What least squares leave."""
        return float(self.y @ self.y) if self.products.flat else None

    @property
    def work(self) -> float:
        """About how many multiplications an evaluation takes."""
        return self.products.work

    def require_residual(self) -> None:
        """Refuse a response of which X leaves nothing, or whose squares leave the range of floating point."""
        self.observed.require_residual()

    def linear(self, theta: FloatArray, free: Any) -> bool:
        """Return whether ∂V/∂θ is the same at another θ."""
        slopes = zip(self.layout.slopes(theta), self.layout.slopes(elsewhere(theta, free)), free, strict=True)
        return all(np.allclose(a, b, rtol=1e-9, atol=0) for (_, a), (_, b), moves in slopes if moves)

    def terms(self, theta: FloatArray) -> TermState | None:
        """Return the terms at θ."""
        return self.products.at(self.response, *self._covariances(theta))

    def mean_variances(self, theta: FloatArray) -> dict[str, float]:
        """
        Return tr(WZ_kG_kZ_kᵀ)/Σw of each term, and tr(WR)/Σw of the residual: with equal weights divided by n.

        The last is σ²_e/w̄ where residuals have one variance, else its mean over the rows.
        """
        matrices, noise = self.layout.numbers(theta)
        variances = [float((self.products.mean_gram(k) * m).sum()) for k, m in enumerate(matrices)]
        residual = float(self.products.records.mean(noise)) / self.products.weights.mean
        return dict(zip([*self.layout.terms, RESIDUAL], [*variances, residual], strict=True))

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of traits or groups whose residuals have variances of their own, none of one variance."""
        return self.layout.coordinates if self.products.records.width > 1 else ()

    def variances_of(self, theta: FloatArray, coordinate: int) -> dict[str, float]:
        """Return the same of the rows of one coordinate."""
        matrices, noise = self.layout.numbers(theta)
        p, a = self.products, coordinate
        variances = [float((p.mean_gram(k, a) * m).sum()) for k, m in enumerate(matrices)]
        residual = float(noise[a, a] * p.records.counts[a] / p.total_weights[a])
        return dict(zip([*self.layout.terms, RESIDUAL], [*variances, residual], strict=True))

    def alone(self, theta: FloatArray, place: int) -> Rotated:
        """Return y less the other components' predictions, rotated by the component that is tested."""
        if not self.products.flat or self.method != "REML":
            return super().alone(theta, place)
        require_rows(self.products)
        state = self.terms(theta)
        assert state is not None  # θ is an estimate
        k, direction = self.layout.slopes(theta)[place]
        return state.alone(self.y, k, direction, float(theta[place]))

    def _covariances(self, theta: FloatArray) -> tuple[list[FloatArray], FloatArray]:
        """
        Return Σ_k of each term, with the prior covariance of β last where it has one, and Σ_e.

        A Σ_e with covariances that is singular is taken just inside its cone, where V is not.
        """
        matrices, noise = self.layout.numbers(theta)
        if not self.products.records.independent:
            noise = inside(noise, self._least)
        return [*matrices, self.prior] if self.prior.size else matrices, noise

    def state(self, theta: FloatArray) -> StructuredState | None:
        """Return V factored at θ; for ML with β̂ in place of the integral, whose score is that at fixed β."""
        mixed, products, response = self.terms(theta), self.unprojected, self.response
        if mixed is None:
            return None
        if self.method == "REML" or not self.products.flat:
            return StructuredState(mixed, mixed, mixed.loglik + self.products.constant)
        left = products.shifted(response, response.y1 - products.projection.coordinates(mixed.beta()))
        full = products.at(left, mixed.sigma, mixed.noise)
        return None if full is None else StructuredState(mixed, full, full.loglik + products.constant)

    def quadratic(self, theta: FloatArray, state: StructuredState) -> float:
        """Return yᵀPy."""
        return float(state.mixed.yPy)

    def derivatives(self, theta: FloatArray, state: StructuredState) -> tuple[FloatArray, FloatArray]:
        """Return score and average information; the structures give ∂Σ_k/∂θ, in which V is linear."""
        return self.gradient(theta, state), state.mixed.average_information(self.layout.slopes(theta))

    def gradient(self, theta: FloatArray, state: StructuredState) -> FloatArray:
        """Return the score."""
        gradient = state.scored.gradient
        parts = {NOISE: gradient.noise} | dict(enumerate(gradient.sigma))
        return np.array([float((parts[k] * direction).sum()) for k, direction in self.layout.slopes(theta)])

    def coefficients(self, state: StructuredState) -> tuple[FloatArray, FloatArray]:
        """Return β̂ and its covariance."""
        return state.mixed.blue()

    def estimate(self, state: StructuredState) -> FloatArray:
        """Return β̂ alone."""
        return state.mixed.beta()

    def covariance(self, theta: FloatArray) -> FloatArray:
        """Return V(θ), (n, n)."""
        require_rows(self.products)
        matrices, noise = self._covariances(theta)
        V: FloatArray = self.products.records.matrix(noise).toarray()
        for k, sigma in enumerate(matrices):
            V += self.products.propagated(k, sigma)
        return self.products.weights.unscaled_matrix(V)

    def covariance_derivatives(self, theta: FloatArray) -> FloatArray:
        """Return ∂V/∂θ, (P, n, n)."""
        require_rows(self.products)
        p, out = self.products, np.zeros((self.layout.size, self.n, self.n))
        for place, (k, direction) in enumerate(self.layout.slopes(theta)):
            own = k == NOISE
            out[place] = p.records.matrix(direction).toarray() if own else p.propagated(k, direction)
        return self.products.weights.unscaled_matrix(out)

    def start(self) -> FloatArray:
        """
        Return MINQUE(0) variances, uncorrelated.

        Raises
        ------
        ValueError
            If X explains all columns of a component, so that the data say nothing about its variance.
        """
        strides, c = self._strides(), self.products.records.width
        owners = [(k, a) for k, stride in enumerate(strides) for a in range(stride)] + [(NOISE, a) for a in range(c)]
        components, gram, squares, unit = self.products.moments(strides, self.y, self.response)
        self._require_information(components, owners, gram[-c:].sum(axis=0))
        estimate = moment_start(gram, squares, c)
        estimate[-c:] *= unit
        if c == 1:
            estimate[-1] = self._residual_start(estimate[-1], total=float(squares[-1]) / self.n)
        theta = np.zeros(self.layout.size)
        for entry in self.layout.entries:
            own = estimate[[i for i, (k, _) in enumerate(owners) if k == entry.term]]
            theta[entry.place] = starting_values(entry, own, self.lower[entry.place], self.upper[entry.place])
        theta = np.where(self.fixed & np.isfinite(self.held), self.held, theta)
        many = self.layout.size > 2 or self.fixed.any() or not self.products.scanned
        return theta if many else self._best_ratio(theta)

    def other_starts(self) -> list[FloatArray]:
        """Return those that the products know, of a covariance matrix and one of the residuals that both vary."""
        entries = self.layout.entries
        if self.fixed.any() or len(entries) != 2 or not all(e.matrix and e.shape[0] > 1 for e in entries):
            return []
        return [np.concatenate([pack(sigma), pack(noise)]) for sigma, noise in self.products.starts(self.response)]

    def _residual_start(self, estimate: float, *, total: float) -> float:
        """Return the variance of what X and the terms leave of y, if MINQUE's is at its least."""
        if estimate > 0.02 * total or not self.products.searchable or (found := self.unexplained()) is None:
            return estimate
        rest, directions = found
        return min(estimate, max(rest / directions, self.internal_lower[-1])) if directions > 0 else estimate

    def _best_ratio(self, theta: FloatArray) -> FloatArray:
        """Return the best of many ratios of two variances, each with its best total: one kernel can have two modes."""
        best, highest = theta, -np.inf
        for factor in np.exp(np.linspace(-_RATIOS, _RATIOS, 2 * int(_RATIOS) + 1)):
            candidate = theta * np.array([factor, 1.0])
            state = self.state(candidate)
            if state is None:
                continue
            candidate, state = self.rescaled(candidate, state) or (candidate, state)
            if state.loglik > highest:
                best, highest = candidate, state.loglik
        return best

    def _require_information(
        self, components: list[sp.csc_array], owners: list[tuple[int, int]], traces: FloatArray
    ) -> None:
        """Refuse a component that vanishes orthogonal to X, if its variance is a parameter."""
        for Zt, (k, a), trace in zip(components, owners, traces, strict=False):  # I, the last, is not a component
            own = [e for e in self.layout.entries if e.term == k]
            if trace > _EXPLAINED * float((Zt.data**2).sum()) or all(self.fixed[e.place].all() for e in own):
                continue
            about = next((e for e in own if a in range(self.layout.structure(k).size)[e.part]), own[0])
            a -= about.part.start or 0
            place = a * (a + 3) // 2 if about.matrix else a if about.shape else 0
            raise ValueError(
                f"X explains the columns of {self.names[about.start + place]}, or they are zero: the data say nothing "
                "about their variance. Leave the term out, or the columns of X that span it."
            )

    def _strides(self) -> tuple[int, ...]:
        """Return how many columns apart those of one variance of the start are: of a column within a level, or all."""
        strides = []
        for k, block in enumerate(self.products.blocks[: len(self.layout.blocks)]):
            own = [e for e in self.layout.entries if e.term == k]
            by_column = any(e.matrix or e.part.stop or e.shape == (block.width,) for e in own) and block.width <= 50
            strides.append(block.width if by_column else 1)
        return tuple(strides)

    @property
    def of_residual(self) -> slice:
        """The elements of θ that Σ_e has."""
        return self.layout.noise_place

    @cached_property
    def _least(self) -> FloatArray:
        """The least variance of each coordinate of the residual, (c,)."""
        return least_variances(self.products, self.products.resolves(self.response), self.y, self._rounding)

    @cached_property
    def internal_lower(self) -> FloatArray:
        """Bounds of θ, but variances of the residual stay just above 0, where V may be singular."""
        lower = self.lower.copy()
        for entry in self.layout.entries:
            if entry.term == NOISE and not entry.matrix and (self.variances & ~self.fixed)[entry.place].all():
                least = self._least if entry.shape == self._least.shape else self._least.min()
                lower[entry.place] = np.maximum(lower[entry.place], least)
        return lower

    @property
    def _rounding(self) -> float:
        return float(_ROUNDED * np.hypot(np.linalg.norm(self.y), np.linalg.norm(self.response.y1)))

    def unexplained(self) -> tuple[float, int] | None:
        """Return ‖·‖² of what X and the terms leave of y and in how many directions; None where it cannot be had."""
        return self.products.unexplained(self.response)

    def unbounded(self, theta: FloatArray, score: FloatArray) -> str:
        """Return what it means that ℓ rises as a residual variance goes to 0, nothing where it does not."""
        noise = self._covariances(theta)[1]
        if self.fixed[self.layout.noise_place].any() or not at_least(noise, self._least):
            return ""
        state = self.state(theta)
        if state is None or not rises(noise, state.scored.gradient.noise, self._least):
            return ""
        if len(noise) > 1:
            return (
                "a variance of the residuals, or of a combination of them, goes to 0 and the likelihood still rises "
                "towards that, so that there is no estimate: groups or traits have too few rows for variances of their "
                "own. Pool them, take independent residuals, or fewer terms"
            )
        p, found = self.products, self.unexplained()
        if np.isfinite(p.largest_ratio):
            return (
                "the residual variance is below the rounding of cross-products: collect them again with method='tsqr'"
            )
        if found is not None and not found[1]:
            return (
                f"the residual variance is below {VANISHED:.0e} of the variance of y, where it is taken to be 0: the "
                "likelihood still rises towards that, and is bounded"
            )
        if found is not None and found[0] > self._rounding**2:
            return (
                f"the residual variance is below {RESOLVED:.0e} of the variance of y, beside which double precision "
                "cannot tell it from 0: check whether y is a function of X and the groups"
            )
        if found is None:
            return (
                "the residual variance is below what inner products resolve, and rows and effects are too many to work "
                "without them: it is not known whether the likelihood is bounded. Use fewer terms"
            )
        return (
            "the residual variance goes to 0 and the likelihood is not bounded: X and the random effects explain y "
            "exactly. Use fewer terms or more observations"
        )

    def remarks(self, theta: FloatArray) -> list[str]:
        """Return what an estimate loses to the inner products that it was made of."""
        return [*filter(None, [self.products.imprecision(*self._covariances(theta))])]

    def rescaled(self, omega: FloatArray, state: Any) -> tuple[FloatArray, Any] | None:
        """Return ω and state with all variances times c = yᵀPy/p, the best factor, which is in closed form."""
        variance = (self.lower == 0) & np.isinf(self.upper)  # others are loadings, or scale nothing
        degree = np.where(variance, 1.0, np.where(np.isinf(self.lower), 0.5, 0.0))
        for matrix in self.matrices:
            degree[matrix.place] = 1.0
        p = self.n if self.method == "ML" else self.products.df
        c = state.mixed.yPy / p
        if not c > 0 or abs(np.log(c)) < RESCALE or (self.fixed & (degree > 0)).any() or self.prior.size:
            return None
        return self.first_better([omega * c**degree], state)
