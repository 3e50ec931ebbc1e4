"""Exact draws of β and u given y, and predictions: at the variances of each posterior draw, in rotated coordinates."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.draws import evaluate_draws, over_batch
from pm_fastlmm.engines.labels import labelled, over_coef, over_obs
from pm_fastlmm.engines.prediction import Effects, Predictive
from pm_fastlmm.kernel.effects.coefficients import draw_factor_effects, draw_new_effects
from pm_fastlmm.kernel.effects.effects import Coordinates, draw_effects, draw_prior_effects, given_coefficients
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

if TYPE_CHECKING:
    from pm_fastlmm.engines.spectral.node import SpectralNode

_BUDGET = 4_000_000  # numbers in flight at a time: 32 MB for each of a handful of arrays


def recover(
    node: "SpectralNode",
    model: pm.Model,
    posterior: xr.Dataset,
    which: Sequence[str] | None,
    rng: np.random.Generator,
) -> dict[str, xr.DataArray]:
    """Draw β and u, or a where the rows were not kept, of which u has a value for each."""
    if which is None:
        which = ("beta", "u") if node.spectrum.rotation is not None else ("beta", "a")
    beta, u, (g, _, _) = _draw(node, model, posterior, rng)
    effects = {}
    if "beta" in which:
        effects["beta"] = over_coef(model, node, beta)
    if "u" in which:
        effects["u"] = over_obs(model, node, _lift(node.spectrum, u))
    if "a" in which:
        a, names = draw_factor_effects(node.spectrum, u, g, rng), node.spectrum.factor_names
        labels = range(a.shape[-1]) if names is None else names
        effects["a"] = labelled(model, node, a, {f"{node.name}_factor": labels})
    return effects


def predict(
    node: "SpectralNode",
    model: pm.Model,
    posterior: xr.Dataset,
    rows: Any,
    effects: Effects,
    rng: np.random.Generator,
) -> Predictive:
    """Draw f = Xβ + u, with the u of y, with another or with none, and y = f + e."""
    beta, u, (g, e, mu) = _draw(node, model, posterior, rng)
    s, mean = node.spectrum, node.mean_at(rows, mu)
    if effects == "population":
        f = beta @ (s.projection.X if rows is None else rows.X).T
    elif rows is None:
        u = u if effects == "given" else draw_prior_effects(s, np.broadcast_to(g, beta.shape[:-1]), rng)
        f = _lift(s, Coordinates(u.a + beta @ s.projection.R.T, u.b))
    else:
        f = draw_new_effects(s, rows, u, g, rng) + beta @ (rows.a @ s.projection.R).T
    return Predictive.of(f + mean, e, rng, None if rows is None else rows.ids)


def known_rows(node: "SpectralNode") -> FloatArray | None:
    """Return y (…, n) of a node that observes z and rss, where no part of y is known by its norm alone."""
    s = node.spectrum
    if node.given is None or s.nullity:
        return None
    rotated = node.rotated()
    return rotated.y1 @ s.projection.Q1.T + rotated.z @ s.basis.T


def parameters(
    node: "SpectralNode", model: pm.Model, posterior: xr.Dataset
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray | None, FloatArray | None]:
    """Return draws of σ²_g, σ²_e, mu, and mean and root of the prior of a proper β, with axes for all responses."""
    sigma2, prior = [node.sigma2_g, node.sigma2_e], [v for v in (node.beta_mean, node.beta_root) if v is not None]
    means = [] if node.mu is None else [node.mu]
    g, e, *rest = evaluate_draws(model, posterior, [*sigma2, *means, *prior])
    over = node.observed.ndim + 1
    mu = over_batch(rest[0] if means else np.zeros((1, 1, 1)), over + 1)
    b, root = (over_batch(rest[-2], over + 1), over_batch(rest[-1], over + 2)) if prior else (None, None)
    return over_batch(g, over), over_batch(e, over), mu, b, root


def _draw(
    node: "SpectralNode", model: pm.Model, posterior: xr.Dataset, rng: np.random.Generator
) -> tuple[FloatArray, Coordinates, tuple[FloatArray, FloatArray, FloatArray]]:
    """Return draws of β, of u in rotated coordinates, and (σ²_g, σ²_e, mu) of the draws."""
    g, e, mu, b, root = parameters(node, model, posterior)
    rotated = _rotate_draws(node, mu) if np.ptp(mu, axis=(0, 1)).any() else node.rotated(mu[0, 0])
    if np.isnan(rotated.y1).any():
        raise ValueError(
            f"{node.name} observes other z and rss than those of the Rotated it was built with, so that y along X is "
            "not known, which β and u depend on: build the model with the Rotated of these data."
        )
    shape = np.broadcast_shapes(g.shape, e.shape, rotated.batch_shape)
    g, e = np.broadcast_to(g, shape), np.broadcast_to(e, shape)
    beta, u = draw_effects(rotated, g, e, rng)
    if b is not None and root is not None:
        beta, u = given_coefficients(rotated, g, e, beta, u, b, root, rng)
    return beta, u, (g, e, mu)


def _rotate_draws(node: "SpectralNode", mu: FloatArray) -> Rotated:
    """Rotate y - mu for each draw of mu."""
    values = np.broadcast_to(node.observed - mu, np.broadcast_shapes(node.observed.shape, mu.shape))
    flat = Rotated.from_values(node.spectrum, values.reshape(-1, values.shape[-1]).T, None)
    batch = values.shape[:-1]
    z, rss, y1, norm2 = (a.reshape(*batch, *a.shape[1:]) for a in (flat.z, flat.rss, flat.y1, flat.norm2))
    return Rotated(node.spectrum, z, rss, y1, norm2, None)


def _lift(s: Spectrum, u: Coordinates) -> FloatArray:
    """Return the vectors of coordinates (chain, draw, …), in blocks of draws under the memory budget."""
    count = math.prod(u.b.shape[:-1])
    a, b = u.a.reshape(count, u.a.shape[-1]), u.b.reshape(count, u.b.shape[-1])
    out = np.empty((a.shape[0], s.n))
    for rows in np.array_split(np.arange(a.shape[0]), max(1, a.shape[0] * s.n // _BUDGET)):
        out[rows] = Coordinates(a[rows], b[rows]).lift(s)
    return out.reshape(*u.a.shape[:-1], s.n)
