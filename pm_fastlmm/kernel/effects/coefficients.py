"""
The coefficients a of a factor: K = WWᵀ is u = Wa with a ~ N(0, σ²_gI). They are marker effects when W are markers.

With L = (Q₂U)ᵀW and W₁ = Q₁ᵀW all that is needed has m columns and no rows of observations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from pm_fastlmm.base.arrays import EPS, FloatArray
from pm_fastlmm.base.display import Described
from pm_fastlmm.base.semidefinite import eigen_root
from pm_fastlmm.kernel.effects.effects import Coordinates, NewRows
from pm_fastlmm.kernel.likelihood.spectral import variances
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum


@dataclass(frozen=True, slots=True, eq=False)
class FactorEffects(Described):
    """
    Predicted coefficients of the columns of W.

    Attributes
    ----------
    mean : (m,) or (m, T) array
        â = σ²_gLᵀ(z/d): the ridge regression of y on W, X unpenalised. From `REMLFit.factor_effects` it is a Series or
        DataFrame where the columns of W have names, and so are the other quantities.
    variance : (m,) or (m, T) array
        Var(a - â) = σ²_g(1 - Σ_k L²_k σ²_g/d_k), the uncertainty of β̂ included.
    """

    mean: Any
    variance: Any

    @property
    def se(self) -> Any:
        """Standard error of a - â."""
        return np.sqrt(self.variance)

    def __repr__(self) -> str:
        """Show how many coefficients there are."""
        return f"FactorEffects({self.mean.shape[0]} columns of W: .mean, .variance, .se)"

    def _facts(self) -> dict[str, Any]:
        return {"columns of W": self.mean.shape[0], "quantities": ".mean, .variance, .se"}


def factor_effects(rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray) -> FactorEffects:
    """
    Return the best linear unbiased predictor of the coefficients of W and its error variance.

    Raises
    ------
    ValueError
        If the spectrum was not built from a factor.
    """
    s = rotated.spectrum
    L, _ = loadings(s)
    g, e = np.expand_dims(sigma2_g, -1), np.expand_dims(sigma2_e, -1)
    d = variances(s.eigvals, sigma2_g, sigma2_e)
    squares = L**2 / s.eigvals[:, None]  # squared right singular vectors: 1 less their sum is what y says nothing of
    variance = g * (np.maximum(1 - squares.sum(0), 0.0) + (e / d) @ squares)
    return FactorEffects(((g * rotated.z / d) @ L).T, variance.T)


def draw_factor_effects(
    spectrum: Spectrum, u: Coordinates, sigma2_g: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """
    Draw a given u = Wa, one for each draw of u: a prior draw, moved to where W maps it to u (Matheron's rule).

    a = ξ + Wᵀ K⁺(u - Wξ),   ξ ~ N(0, σ²_gI)
    """
    L, W1 = loadings(spectrum)
    xi = np.sqrt(sigma2_g)[..., None] * rng.standard_normal((*u.b.shape[:-1], L.shape[1]))
    missing = kernel_inverse(spectrum)(u.a - xi @ W1.T, u.b - xi @ L.T)
    return np.asarray(xi + missing.a @ W1 + missing.b @ L)


def kernel_inverse(s: Spectrum) -> Callable[[FloatArray, FloatArray], Coordinates]:
    """
    Return the map of coordinates by K⁺.

    In the basis [Q₁ | Q₂U] K is [K₁₁ Cᵀ; C Λ], whose pseudo-inverse is applied through its Schur complement.
    """
    left, vectors = np.linalg.eigh(s.schur) if s.projection.rank else (np.zeros(0), s.schur)
    kept = left > s.n * EPS * max(float(s.eigvals.max(initial=0.0)), float(left.max(initial=0.0)))
    inverse = (vectors[:, kept] / left[kept]) @ vectors[:, kept].T

    def solve(a: FloatArray, b: FloatArray) -> Coordinates:
        corner = (a - (b / s.eigvals) @ s.C) @ inverse
        return Coordinates(corner, (b - corner @ s.C.T) / s.eigvals)

    return solve


def require_factor(spectrum: Spectrum) -> None:
    """Raise a ValueError if K did not come from a factor: of repeated records it has a root without a meaning."""
    loadings(spectrum)
    if spectrum.individuals is not None and not spectrum.individuals.is_factor:
        raise ValueError(
            "coefficients of W need a factor, this spectrum is that of a K between individuals: build it with "
            "Spectrum.from_factor(W, X, individual=…), W with a row for each individual. The effects of individuals "
            "are fit.effects(), and after sampling recover_effects(idata, which=['u'])."
        )


def loadings(spectrum: Spectrum) -> tuple[FloatArray, FloatArray]:
    """Return (Q₂U)ᵀW and Q₁ᵀW, or raise a ValueError if K did not come from a factor."""
    if spectrum.loadings is None or spectrum.loadings_fixed is None:
        raise ValueError(
            "coefficients of W need a factor, this spectrum is that of a K: build it with Spectrum.from_factor(W, X)."
        )
    return spectrum.loadings, spectrum.loadings_fixed


def new_given_effects(s: Spectrum, new: NewRows) -> tuple[Coordinates, FloatArray]:
    """Return K*ᵀK⁺, as coordinates by row, and K** - K*ᵀK⁺K*, the matrix or its diagonal as K** was given."""
    weights = kernel_inverse(s)(new.H.T, new.A.T)
    if new.prior is None or new.prior.ndim < 2:
        explained = np.einsum("ij,ji->i", weights.a, new.H) + np.einsum("ij,ji->i", weights.b, new.A)
        return weights, np.asarray(new.prior_diagonal - explained)
    return weights, np.asarray(new.prior - weights.a @ new.H - weights.b @ new.A)


def draw_new_effects(s: Spectrum, new: NewRows, u: Coordinates, g: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Draw the effects of new rows given u: mean K*ᵀK⁺u, covariance σ²_g(K** - K*ᵀK⁺K*)."""
    if new.prior is None:
        raise ValueError("draws of new effects need their prior variance: give K_new_new, the matrix or its diagonal.")
    weights, left_over = new_given_effects(s, new)
    mean = u.a @ weights.a.T + u.b @ weights.b.T
    if new.prior.ndim == 1:
        root = np.diag(np.sqrt(np.maximum(left_over, 0.0)))
    else:
        values, vectors = scipy.linalg.eigh((left_over + left_over.T) / 2)
        # not the rounding of K alone: K⁺ enlarges that by the condition of K, and K_new comes from other blocks
        tolerance = 1e-8 * float(np.abs(np.diag(new.prior)).max())
        if values[0] < -tolerance:
            raise ValueError(
                "K_new_new and K_new do not fit K: together they are not positive semi-definite "
                f"(smallest eigenvalue {values[0]:.3g}). Take all blocks from one covariance matrix."
            )
        root = eigen_root(values, vectors)
    return np.asarray(mean + np.sqrt(g)[..., None] * (rng.standard_normal(mean.shape) @ root.T))
