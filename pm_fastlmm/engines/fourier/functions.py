"""The function that data of a Gaussian process tell of: its mean, its variance and draws of it, at any points."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, frozen, read, require_length
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.likelihood import FourierFactor
from pm_fastlmm.engines.fourier.products import FourierProducts, at_points, function_modes, square_modes
from pm_fastlmm.kernel.effects.effects import Prediction
from pm_fastlmm.spectrum.sparse_projection import AnyProjection

_DIRECT = 1_000_000  # numbers of the features of few points, which are then multiplied as they are
_BUDGET = 40_000_000  # complex numbers of the modes and values of draws at a time


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FunctionPosterior(ReadOnlyArrays, Described):
    """
    Posterior of f(x, X) = Xβ + Z(x)w: at given parameters, or averaged over posterior draws of them.

    Both are mixtures of Gaussians of (w, β), of one component or many, whose first two moments are added up: a million
    predictions cost two nonuniform FFTs, whatever the number of components. It comes from `fit.posterior_function()` or
    `flmm.posterior_function(idata, model=model)`.

    Attributes
    ----------
    basis : FourierBasis
    coef : tuple of str
        Names of the columns of X.
    mean : (M + r,) array
        Of (w, β).
    cov : (M + r, M + r) array
        Of (w, β), over draws of the parameters as well.
    residual_variance : float
        σ²_e, its mean over draws.
    components : tuple of FourierFactor
    products : FourierProducts
    """

    basis: FourierBasis
    coef: tuple[str, ...]
    mean: FloatArray
    cov: FloatArray
    residual_variance: float
    components: tuple[FourierFactor, ...]
    products: FourierProducts

    @classmethod
    def of(cls, basis: FourierBasis, products: FourierProducts, components: Sequence[FourierFactor]) -> Self:
        """Return the mixture of components with equal weights: means, and covariances within and between them."""
        M, R, F = basis.size, products.projection.R, products.fixed
        r, count = len(R), len(components)
        total, square = np.zeros(M + r), np.zeros((M + r, M + r))
        means = np.empty((count, M + r))
        inverse = np.linalg.solve(R, np.eye(r)) if r else R
        for i, factor in enumerate(components):
            w = factor.weights(M)
            root = factor.weights_root(np.eye(M))
            joint = np.hstack([root, -root @ F @ inverse.T])  # β = R⁻¹(Qᵀy - Fᵀw) + noise
            square += joint.T @ joint
            square[M:, M:] += factor.sigma2_e * inverse @ inverse.T
            means[i] = np.concatenate([w, inverse @ (products.along - F.T @ w)])
        total = means.mean(axis=0)
        spread = means - total
        return cls(
            basis, products.projection.coef, frozen(total), frozen((square + spread.T @ spread) / count),
            float(np.mean([factor.sigma2_e for factor in components])), tuple(components), products,
        )  # fmt: skip

    def predict(self, x_new: Any, X_new: Any = None) -> Prediction:
        """
        Return mean and variance of f at new points.

        Parameters
        ----------
        x_new : (m,) or (m, D) array
            Inside the domain of the basis.
        X_new : (m, r) array or DataFrame
            Fixed effects of the new points.

        Returns
        -------
        Prediction
            With `mean`, `variance`, `se`, `se_observation`.
        """
        points, X = read_new(self.basis, self.products.projection, x_new, X_new)
        grid, M = self.basis.grid, self.basis.size
        angles = grid.angles(points)
        modes = np.concatenate([self.mean[None, :M], self.cov[M:, :M]])
        values = at_points(angles, function_modes(modes, grid)).real.reshape(len(modes), -1)
        mean, variance = values[0], at_points(angles, square_modes(self.cov[:M, :M], grid)).real
        if X.shape[1]:
            mean = mean + X @ self.mean[M:]
            variance = variance + 2 * (X.T * values[1:]).sum(axis=0) + ((X @ self.cov[M:, M:]) * X).sum(axis=1)
        return Prediction(mean, np.maximum(variance, 0.0), np.asarray(self.residual_variance))

    def draw(self, x_new: Any, X_new: Any = None, *, draws: int = 100, random_seed: Any = None) -> FloatArray:
        """
        Return draws of the whole function at new points, (draws, m), each from one of the components in turn.

        Raises
        ------
        ValueError
            If X_new is missing, or points lie outside the domain.
        """
        points, X = read_new(self.basis, self.products.projection, x_new, X_new)
        w, beta = draw_coefficients(self.products, self.components, draws, np.random.default_rng(random_seed))
        return functions_at(self.basis, w, beta, points, X)

    def __repr__(self) -> str:
        """Show how many features, coefficients and components there are."""
        count = len(self.components)
        return (
            f"FunctionPosterior({self.basis.size} features, {len(self.coef)} coefficients, "
            f"{count} draw{'s' if count != 1 else ''} of the parameters: .predict, .draw)"
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "features": self.basis.size,
            "coefficients": listed(self.coef),
            "draws of the parameters": len(self.components),
            "residual variance": f"{self.residual_variance:.6g}",
        }


class FunctionAtTheta(AtTheta):
    """A function with V at θ."""

    def function(self) -> FunctionPosterior:
        """Return the posterior of the function."""
        state = self.objective.state(self.theta)
        if state is None:
            raise ValueError(f"the likelihood is not defined at {self.objective.described(self.theta)}.")
        return FunctionPosterior.of(self.node.basis, self.node.products, [state.factor])


def draw_coefficients(
    products: FourierProducts, components: Sequence[FourierFactor], draws: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return draws of w (draws, M) and of β (draws, r), from the components in turn."""
    R, w, e = products.projection.R, np.empty((draws, len(products.cross))), np.empty(draws)
    for i, factor in enumerate(components):
        own = np.arange(i, draws, len(components))
        if own.size:
            w[own], e[own] = factor.draw_weights(rng, own.size), factor.sigma2_e
    if not R.size:
        return w, np.zeros((draws, 0))
    noise = np.sqrt(e)[:, None] * rng.standard_normal((draws, len(R)))
    return w, np.linalg.solve(R, (products.along - w @ products.fixed + noise).T).T


def functions_at(basis: FourierBasis, w: FloatArray, beta: FloatArray, points: FloatArray, X: FloatArray) -> FloatArray:
    """Return Xβ + Z(x)w for each row of w and β, (draws, m)."""
    grid = basis.grid
    if len(points) * grid.size <= _DIRECT:
        return np.asarray(beta @ X.T + w @ grid.features(points).T)
    angles, out = grid.angles(points), beta @ X.T
    size = len(points) + int(np.prod([2 * m + 1 for m in grid.largest]))
    for rows in np.array_split(np.arange(len(w)), max(1, len(w) * size // _BUDGET)):
        if rows.size:
            out[rows] += at_points(angles, function_modes(w[rows], grid)).real.reshape(rows.size, -1)
    return np.asarray(out)


def read_new(basis: FourierBasis, projection: AnyProjection, x_new: Any, X_new: Any) -> tuple[FloatArray, FloatArray]:
    """Return new points (m, D) inside the domain, and their fixed effects (m, r), NaN where they are unknown."""
    points = basis.read(x_new, "x_new")
    coef = projection.columns.names
    if X_new is None and coef:
        raise ValueError(
            f"the model has fixed effects ({', '.join(coef)}): give X_new, their values at the new points."
        )
    if X_new is not None:
        X_new = read(X_new, "X_new", ndim=(1, 2))
        require_length(len(X_new.values), len(points), "X_new", "x_new")
        given = X_new.values.size // max(1, len(points))
        if given < len(coef):
            raise ValueError(
                f"X_new has {given} columns, but the model has {len(coef)} ({', '.join(coef)}), those included that "
                "were dropped."
            )
    return points, np.asarray(projection.new_rows(X_new, len(points)))
