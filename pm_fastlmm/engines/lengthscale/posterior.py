"""Draws of β and u, and predictions, from K at the lengthscale of each posterior draw."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.display import tracked
from pm_fastlmm.engines.draws import evaluate_draws
from pm_fastlmm.engines.prediction import Effects, NewRows, Predictive
from pm_fastlmm.kernel.effects.coefficients import draw_new_effects
from pm_fastlmm.kernel.effects.effects import Coordinates, draw_effects, draw_prior_effects, new_rows
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

if TYPE_CHECKING:
    from pm_fastlmm.engines.lengthscale.node import LengthscaleNode


class _Draw(NamedTuple):
    """One draw: its place, ℓ and the spectrum there, β and u, σ²_g and σ²_e, with a leading axis of length 1."""

    place: tuple[int, ...]
    lengthscale: float
    spectrum: Spectrum
    beta: FloatArray
    u: Coordinates
    g: FloatArray
    e: FloatArray


def draw(
    node: "LengthscaleNode", model: pm.Model, posterior: xr.Dataset, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return β (chain, draw, r) and u (chain, draw, n) from their joint posterior given y, ℓ and the variances."""
    shape = posterior.sizes["chain"], posterior.sizes["draw"]
    beta, u = np.empty((*shape, len(node.spectrum.coef))), np.empty((*shape, node.n))
    for drawn in _draws(node, model, posterior, rng):
        beta[drawn.place], u[drawn.place] = drawn.beta[0], drawn.u.lift(drawn.spectrum)[0]
    return beta, u


def predict_population(
    node: "LengthscaleNode", model: pm.Model, posterior: xr.Dataset, rows: Any, rng: np.random.Generator
) -> Predictive:
    """Draw f = Xβ, and y = f + e."""
    beta, _ = draw(node, model, posterior, rng)
    (e,) = evaluate_draws(model, posterior, [node.sigma2_e])
    X, ids = (node.projection.X, None) if rows is None else rows
    return Predictive.of(beta @ X.T, e, rng, ids)


def predict(
    node: "LengthscaleNode",
    model: pm.Model,
    posterior: xr.Dataset,
    new: NewRows | None,
    effects: Effects,
    rng: np.random.Generator,
) -> Predictive:
    """Draw f = Xβ + u, with the u of y or another, and y = f + e; K_new and K_new_new are functions of ℓ."""
    rows: list[FloatArray] = []
    y: list[FloatArray] = []
    ids = None
    for place, ell, s, beta, u, g, e in _draws(node, model, posterior, rng):
        if new is None:
            u = u if effects == "given" else draw_prior_effects(s, g, rng)
            f = Coordinates(u.a + beta @ s.projection.R.T, u.b).lift(s)
        else:
            read = new_rows(s, new.X_new, new.K_new(ell), K_new_new=new.K_new_new(ell), warn=not any(place))
            f, ids = draw_new_effects(s, read, u, g, rng) + beta @ (read.a @ s.projection.R).T, read.ids
        rows.append(f[0])
        y.append(f[0] + np.sqrt(e) * rng.standard_normal(f.shape[-1]))
    shape = posterior.sizes["chain"], posterior.sizes["draw"]
    return Predictive(np.reshape(rows, (*shape, -1)), np.reshape(y, (*shape, -1)), ids)


def _draws(
    node: "LengthscaleNode", model: pm.Model, posterior: xr.Dataset, rng: np.random.Generator
) -> Iterator[_Draw]:
    """Draw (β, u) given y for each draw of ℓ and the variances, in their order; K is factored for each."""
    ell, g, e = evaluate_draws(model, posterior, [node.lengthscale, node.sigma2_g, node.sigma2_e])
    for place in tracked(list(np.ndindex(*ell.shape)), "Factoring K for each draw", show=node.spectrum.progressbar):
        spectrum = node.spectrum.at(float(ell[place]))
        variances = np.array([g[place]]), np.array([e[place]])
        beta, u = draw_effects(Rotated.from_values(spectrum, node.observed, None), *variances, rng)
        yield _Draw(place, float(ell[place]), spectrum, beta, u, *variances)
