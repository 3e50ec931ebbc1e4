"""The objective of a latent model: θ of the terms and ψ of the family, under Laplace's approximation."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import scipy.sparse as sp
from scipy.optimize import nnls

from pm_fastlmm.aireml.objective import NoEstimate
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.display import listed
from pm_fastlmm.covariance.theta import Theta
from pm_fastlmm.engines.laid_out import LaidOut
from pm_fastlmm.engines.latent.fixed import Search, basis_of, observed_information, with_coefficients
from pm_fastlmm.engines.latent.products import LatentProducts
from pm_fastlmm.engines.latent.state import LatentState
from pm_fastlmm.engines.starting import starting_values
from pm_fastlmm.families.separation import separated
from pm_fastlmm.spectrum.projection import Projection
from pm_fastlmm.spectrum.sparse_projection import AnyProjection

_LEAST = 0.02  # of the variance that the working residuals of an observation have: where no variance is seen
_FAR = 400.0  # a variance of η, 20 units of log odds or logarithms on either side
_EXACT = 1e-8  # dispersion of a gamma response from where its errors may be those of rounding
_ROUNDING = 1e-10  # of log y
_COLUMNS = 50  # of a level that have variances of their own at the start

_FITTED = (
    "the dispersion goes to 0: {} the response without error, and the likelihood rises for ever. Check how it was "
    "measured, and whether it varies within levels: of numbers that are the same for all records of a level take one"
)
_NONE, _NO_PRIOR = np.zeros(0), np.zeros((0, 0))


class LaplaceState(NamedTuple):
    """
    The approximation at θ.

    Attributes
    ----------
    mixed : LatentState
        Of ML with β̂ as a part of the offset.
    loglik : float
    along : (r,) array
        Coordinates of β̂ along X; of length 0 where β is not estimated.
    """

    mixed: LatentState
    loglik: float
    along: FloatArray


@dataclass(frozen=True, eq=False)
class LatentObjective(LaidOut):
    """
    log p̃(y | θ, ψ); with `method` "ML" maximised over β in place of integrated.

    Attributes
    ----------
    products : LatentProducts
        As β is treated; without X for ML.
    y, offset : (n,) arrays
    prior : (r, r) array
        Covariance of a Gaussian prior of β, empty without one.
    held : (P,) array
        The numbers at which elements of θ are fixed by the model, NaN for the others.
    """

    products: LatentProducts
    y: FloatArray
    offset: FloatArray
    prior: FloatArray
    held: FloatArray
    last: Search = field(default_factory=Search)

    laplace: ClassVar[bool] = True

    @classmethod
    def of(
        cls, products: LatentProducts, layout: Theta, y: FloatArray, offset: FloatArray, *, b: FloatArray = _NONE,
        prior: FloatArray = _NO_PRIOR, method: Method = "REML", projection: AnyProjection | None = None,
    ) -> Self:  # fmt: skip
        """Return the objective; `b` and `prior` are mean and covariance of a Gaussian β, or b is an explicit one."""
        own, family = products.projection if projection is None else projection, products.family
        coef = own.coef if products.flat else ()
        mean = offset + own.times(b) if b.size else offset
        if method == "ML" and products.flat:
            products = products.treated(len(products.blocks), flat=False)
        names = (*layout.names, *family.parameters)
        return cls(
            products=products, layout=layout, y=y, offset=np.broadcast_to(mean, y.shape), prior=prior, method=method,
            names=names, lower=np.concatenate([layout.lower, family.lower]),
            upper=np.concatenate([layout.upper, family.upper]), fixed=np.zeros(len(names), dtype=bool), coef=coef,
            n=products.n, projection=own, held=np.full(len(names), np.nan),
        )  # fmt: skip

    @property
    def _estimates_coefficients(self) -> bool:
        return self.method == "ML" and bool(self.coef)

    @property
    def of_residual(self) -> slice:
        """None: the residuals have no variances of their own."""
        return slice(len(self.names), len(self.names))

    @property
    def work(self) -> float:
        """About how many multiplications an evaluation takes."""
        return self.products.work

    def parts(self, theta: FloatArray) -> tuple[list[FloatArray], FloatArray]:
        """Return Σ_k of each term, the prior covariance of β last where it has one, and ψ."""
        sigma, _ = self.layout.numbers(theta[: self.layout.size])
        return [*sigma, self.prior] if self.prior.size else sigma, np.array(theta[self.layout.size :], dtype=float)

    def terms(self, theta: FloatArray) -> LatentState | None:
        """Return the terms at θ."""
        state = self.state(theta)
        return None if state is None else state.mixed

    def state(self, theta: FloatArray) -> LaplaceState | None:
        """Return the approximation at θ; the mode is searched from the last one."""
        if not np.isfinite(theta).all():
            return None
        sigma, psi = self.parts(theta)
        if self._estimates_coefficients:
            found = with_coefficients(self.products, self.y, self.offset, sigma, psi, theta, self.last)
            if found is None:
                return None
            mixed, along = found
        else:
            only = self.products.laplace(self.y, self.offset, sigma, psi, self.last.x)
            if only is None:
                return None
            mixed, along = only, np.zeros(0)
        self.last.x = mixed.mode.x
        return LaplaceState(mixed, mixed.loglik + self.products.constant, along)

    def gradient(self, theta: FloatArray, state: LaplaceState) -> FloatArray:
        """Return the score."""
        slopes = state.mixed.gradient.sigma
        directions = self.layout.slopes(theta[: self.layout.size])
        own = [float((slopes[k] * direction).sum()) for k, direction in directions]
        return np.concatenate([own, state.mixed.family_gradient])

    def derivatives(self, theta: FloatArray, state: LaplaceState) -> tuple[FloatArray, FloatArray]:
        """
        Return score and information.

        That of Σ_k is the average information of the working response, that of ψ the curvature of log p with the mode
        maximised out. Near the end steps learn from successive scores.
        """
        size, P = self.layout.size, len(self.names)
        information = np.zeros((P, P))
        information[:size, :size] = state.mixed.average_information(self.layout.slopes(theta[:size]))
        if size < P:
            information[size:, size:] = state.mixed.family_information()
        return self.gradient(theta, state), information

    def linear(self, theta: FloatArray, free: Any) -> bool:
        """Return False: the likelihood is not that of a normal response."""
        return False

    @cached_property
    def _given(self) -> LatentProducts:
        """The products with β a part of the offset."""
        return self.products.treated(len(self.products.blocks), flat=False) if self.products.flat else self.products

    def settled(self, state: LaplaceState) -> LaplaceState:
        """
        Return the state at β̂, the maximum of log p̃ over β given θ, also where β is integrated out.

        The mode of (β, u) jointly, which integrating over β is about, is PQL's β, far off where records say little of
        each effect. Of an X that is kept sparse it stays the mode.
        """
        if not self.coef or len(state.along) or self.products.projection.sparse:
            return state
        mixed, effects = state.mixed, self.products.equations.ends[-2]
        search = Search(x=mixed.solved[:effects], along=mixed.solved[effects:])
        found = with_coefficients(self._given, self.y, self.offset, mixed.sigma, mixed.psi, np.zeros(0), search)
        return state if found is None else LaplaceState(found[0], state.loglik, found[1])

    def coefficients(self, state: LaplaceState) -> tuple[FloatArray, Any]:
        """Return β̂ and its covariance, the curvature of the working response there."""
        settled = self.settled(state)
        if not len(settled.along):
            return state.mixed.blue()
        X = self.products.projection
        information = settled.mixed.information_of(basis_of(X))
        return X.coefficients(settled.along), X.covariance(np.linalg.inv(information))

    def holding(self, place: int) -> Callable[[float], "LatentObjective"]:
        """Return the approximation with a coefficient held, a part of the offset; the others as they are treated."""
        X = self.projection.X.toarray() if sp.issparse(self.projection.X) else np.asarray(self.projection.X)
        coef = tuple(name for j, name in enumerate(self.coef) if j != place)
        others, column = Projection.from_design(np.delete(X, place, axis=1), coef), X[:, place]
        flat = self.products.flat and bool(coef)
        products = LatentProducts.of(self.products.blocks, others, self.products.family, flat=flat)

        def held(value: float) -> LatentObjective:
            offset = self.offset + value * column
            return replace(self, products=products, offset=offset, coef=coef, projection=others, last=Search())

        return held

    def coefficient_cov(self, theta: FloatArray) -> Any:
        """Return cov β̂ at θ from the curvature of log p̃ itself, by differences."""
        state = self.settled(self._factored(theta))
        if not len(state.along):
            return self.coefficients(state)[1]
        information = observed_information(self._given, state.mixed, self.offset, state.along)
        definite = np.isfinite(information).all() and np.linalg.eigvalsh(information)[0] > 0
        X = self.products.projection
        return X.covariance(np.linalg.inv(information)) if definite else self.coefficients(state)[1]

    def estimate(self, state: LaplaceState) -> FloatArray:
        """Return β̂ alone, of a state that is not settled the mode."""
        if len(state.along):
            return np.asarray(self.products.projection.coefficients(state.along))
        return state.mixed.beta()

    def covariance(self, theta: FloatArray) -> FloatArray:
        """Return the covariance of the working response at the mode, V = ZGZᵀ + D⁻¹."""
        state = self._factored(theta)
        weights = state.mixed.white.coefficients
        V = np.diag(1 / weights)
        for k, sigma in enumerate(self.parts(theta)[0]):
            V = V + self.products.propagated(k, sigma)
        return np.asarray(V)

    def covariance_derivatives(self, theta: FloatArray) -> FloatArray:
        """Raise: D changes with θ, so that no V of an observation has derivatives of its own."""
        raise ValueError("a response that is not normal has no V(θ) whose derivatives could be given.")

    def mean_variances(self, theta: FloatArray) -> dict[str, float]:
        """Raise: of which variance an effect is a share depends on the scale."""
        raise ValueError(
            "shares of the variance of an observation depend on the scale, latent or observed, of a response that is "
            "not normal: fit.heritability() has both."
        )

    def latent_variances(self, theta: FloatArray) -> dict[str, float]:
        """Return the variance that each term gives η on average, by name."""
        matrices, _ = self.layout.numbers(theta[: self.layout.size])
        values = [float((self.products.mean_gram(k) * m).sum()) for k, m in enumerate(matrices)]
        return dict(zip(self.layout.terms, values, strict=True))

    def start(self) -> FloatArray:
        """
        Return variances of one scoring step from 0, uncorrelated, and moment estimates of ψ.

        Raises
        ------
        NoEstimate
            If there is no mode without random effects, as under separation.
        """
        layout, family = self.layout, self.products.family
        psi = np.asarray(family.start(self.y)[1], dtype=float)
        theta = np.concatenate([np.zeros(layout.size), psi])
        blocks = self.products.blocks[: len(layout.blocks)]
        none = [np.zeros((b.width, b.width)) for b in blocks] + ([self.prior] if self.prior.size else [])
        at = self._at_zero(none, psi)
        if at is None:
            raise NoEstimate(self.impossible())
        if family.name == "gamma" and np.abs(np.log(self.y) - at.eta).max() <= _ROUNDING:
            raise NoEstimate(_FITTED.format("X fits"))
        directions, owners = [], []
        for k, block in enumerate(blocks):
            own = range(block.width) if block.width <= _COLUMNS else [None]
            for a in own:
                unit = np.eye(block.width) if a is None else np.diag((np.arange(block.width) == a).astype(float))
                directions.append((k, unit))
                owners.append(k)
        score = np.array([float((at.gradient.sigma[k] * unit).sum()) for k, unit in directions])
        information = at.average_information(directions)
        scale = np.sqrt(np.maximum(np.diag(information), 1e-300))
        found = nnls(information / np.outer(scale, scale), np.maximum(score / scale, 0.0))[0] / scale
        noise = np.full((1, 1), 1 / max(float(at.white.coefficients.mean()), 1e-300))
        units = [unit**2 for unit in self.products.column_units(noise)]
        least = np.concatenate([_LEAST * (u if b.width <= _COLUMNS else u.mean(keepdims=True))
                                for u, b in zip(units, blocks, strict=False)])  # fmt: skip
        found = np.clip(found, least, 100 * least / _LEAST)
        for entry in layout.entries:
            own_values = found[[i for i, k in enumerate(owners) if k == entry.term]]
            theta[entry.place] = starting_values(entry, own_values, self.lower[entry.place], self.upper[entry.place])
        return np.where(self.fixed & np.isfinite(self.held), self.held, theta)

    def _at_zero(self, sigma: list[FloatArray], psi: FloatArray) -> LatentState | None:
        if not self._estimates_coefficients:
            return self.products.laplace(self.y, self.offset, sigma, psi)
        found = with_coefficients(self.products, self.y, self.offset, sigma, psi, np.zeros(0), Search())
        return None if found is None else found[0]

    def impossible(self) -> str:
        """Return why there is no mode without random effects."""
        found = ""
        if self.coef:
            X = self.projection.X
            family = self.products.family
            found = separated(family, self.y, X.toarray() if sp.issparse(X) else np.asarray(X), self.coef)
        return found or (
            "the approximation has no mode without random effects: check whether the offset is finite and the response "
            "varies"
        )

    def unbounded(self, theta: FloatArray, score: FloatArray) -> str:
        """Return what it means that a variance of η has left all bounds of what responses can show."""
        if far := [name for name, value in self.latent_variances(theta).items() if value > _FAR]:
            return (
                f"the variance of {listed(far)} on the scale of η has no finite estimate: the responses within a level "
                "are so much alike that effects go to infinity (separation by the random effects). Give the standard "
                "deviation a prior and sample, fix the variance with fixed=, or leave the term out"
            )
        return _FITTED.format("X and the levels of the terms fit") if self._exactly_fitted(theta) else ""

    def _exactly_fitted(self, theta: FloatArray) -> bool:
        """Return whether a gamma response is fitted without error: its density rises for ever as φ tends to 0."""
        if self.products.family.name != "gamma" or theta[-1] > _EXACT:
            return False
        if theta[-1] <= _ROUNDING**2:  # where rounding is all that is left of errors
            return True
        half = np.append(theta[:-1], theta[-1] / 2)  # raises each log-density by ½ log 2 where nothing is left over
        return self.log_likelihood(half) > self.log_likelihood(theta) + 0.1 * self.n

    def rescaled(self, omega: FloatArray, state: Any) -> tuple[FloatArray, Any] | None:
        """Return None: a response that is not normal has no scale."""
        return None

    def log_likelihood(self, theta: FloatArray) -> float:
        """Return log p̃; -inf outside the parameter space."""
        state = self.state(theta)
        return -math.inf if state is None else float(state.loglik)
