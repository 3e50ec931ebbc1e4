"""Draws of coefficients and effects of several traits given Y: in the traits' own rotation, where each is a model."""

from typing import Any, NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.traits.products import TraitProducts
from pm_fastlmm.kernel.effects.coefficients import draw_new_effects
from pm_fastlmm.kernel.effects.effects import (
    Coordinates,
    draw_effects,
    draw_prior_effects,
    given_coefficients,
)
from pm_fastlmm.kernel.likelihood.trait_basis import TraitBasis
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum


class TraitDraws(NamedTuple):
    """
    Draws of B and of U, in the rotated traits.

    Attributes
    ----------
    spectrum : Spectrum
    beta : (…, t, r) array
    u : Coordinates
        Of (…, t) vectors.
    d : (…, t) array
    back : (…, t, t) array
        T⁻ᵀ, by which traits are those of the data.
    """

    spectrum: Spectrum
    beta: FloatArray
    u: Coordinates
    d: FloatArray
    back: FloatArray

    @property
    def coefficients(self) -> FloatArray:
        """B (…, t, r) of the traits."""
        return self.back @ self.beta

    def effects(self, rng: np.random.Generator, *, anew: bool = False) -> FloatArray:
        """Return U (…, t, n), those of Y or others."""
        u = draw_prior_effects(self.spectrum, self.d, rng) if anew else self.u
        return self.spectrum.lift(self.back @ u.a, self.back @ u.b)

    def new_effects(self, rows: Any, rng: np.random.Generator) -> FloatArray:
        """Return those of new rows (…, t, m), given U."""
        return np.asarray(self.back @ draw_new_effects(self.spectrum, rows, self.u, self.d, rng))


def draw_traits(
    p: TraitProducts, sigma: FloatArray, noise: FloatArray, y: FloatArray, b: FloatArray, rng: np.random.Generator
) -> TraitDraws:
    """
    Draw B and U from their joint posterior given y, once for each Σ_g and Σ_e (…, t, t).

    Entries that were not observed are drawn first, so that the others of their row follow as if they had been.

    Parameters
    ----------
    y : (N,) or (…, N) array
        Less its mean besides XB, times √w.
    b : (…, r · t) array
        An explicit β; of length 0 where it is integrated out under a flat prior.
    """
    s, t, shape = p.spectrum, len(p.traits), sigma.shape[:-2]
    X, r = s.projection.X, s.projection.rank
    back, d = np.empty((*shape, t, t)), np.empty((*shape, t))
    z, y1, rss = np.empty((*shape, t, s.rank)), np.empty((*shape, t, r)), np.zeros((*shape, t))
    known: Any = None
    for at in np.ndindex(shape):
        basis = TraitBasis.of(sigma[at], noise[at])
        if basis is None:
            raise ValueError("a posterior draw has a covariance that is not positive definite: its variances are 0.")
        own = y if y.ndim == 1 else y[at]
        if known is None or y.ndim > 1 or p.columns is not None or b.size:
            known = s.projection.apart(_rows(p, own, sigma[at], noise[at], b[at] if b.size else b, X, rng))
            along, left = known
            across = s.basis.T @ left
            outside = left - s.basis @ across if s.nullity else left[:0]
        z[at], y1[at] = (across @ basis.T).T, (along @ basis.T).T
        rss[at] = ((outside @ basis.T) ** 2).sum(axis=0)
        back[at], d[at] = np.linalg.inv(basis.T).T, basis.d
    rotated, one = Rotated(s, z, rss, y1, (z**2).sum(axis=-1) + rss, None), np.ones_like(d)
    beta, u = draw_effects(rotated, d, one, rng)
    if b.size:
        given = np.linalg.solve(back, b.reshape(*shape, t, r))
        beta, u = given_coefficients(rotated, d, one, beta, u, given, np.zeros((r, r)), rng)
    return TraitDraws(s, beta, u, d, back)


def _rows(
    p: TraitProducts, y: FloatArray, sigma: FloatArray, noise: FloatArray, b: FloatArray, X: FloatArray,
    rng: np.random.Generator,
) -> FloatArray:  # fmt: skip
    """Return Y (n, t) times √w, with a draw of what was not observed."""
    if p.columns is None:
        return p.filled(y)
    given = p.projection.R @ b if b.size else None
    response = p.response(y)
    if given is not None:
        response = p.shifted(response, response.y1 - given)
    state = p.at(response, [sigma], noise)
    assert state is not None  # its basis was found
    rows, beta = response.rows.copy(), b if b.size else p.projection.coefficients(response.y1)
    trait, row = np.nonzero(~p.seen)
    rows[row, trait] += state.draw_missing(rng)
    return np.asarray(rows + X @ beta.reshape(len(p.traits), -1).T)
