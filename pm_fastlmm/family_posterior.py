"""After sampling a FamilyLMM: draws of β and u, and predictions, from K at the lengthscale of each draw."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm._arrays import FloatArray, Ids
from pm_fastlmm._display import tracked
from pm_fastlmm.coefficients import draw_new_effects
from pm_fastlmm.effects import Coordinates, draw_effects, draw_prior_effects, new_rows
from pm_fastlmm.engines.draws import evaluate_draws
from pm_fastlmm.engines.lengthscale.node import FamilyNode
from pm_fastlmm.linalg.rotated import Rotated
from pm_fastlmm.linalg.spectrum import Spectrum


class NewKernel(NamedTuple):
    """New rows: X_new, and K_new and K_new_new as functions of ℓ; neither without random effects."""

    X: Any
    K: Callable[[float], Any]
    K_new: Callable[[float], Any]


class _Draw(NamedTuple):
    """One draw: its place, ℓ and the spectrum there, β and u, σ²_g and σ²_e, with a leading axis of length 1."""

    place: tuple[int, ...]
    lengthscale: float
    spectrum: Spectrum
    beta: FloatArray
    u: Coordinates
    g: FloatArray
    e: FloatArray


def recover_family(
    idata: xr.DataTree, model: pm.Model, node: FamilyNode, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return β (chain, draw, r) and u (chain, draw, n) from their joint posterior given y, ℓ and the variances."""
    shape = idata.posterior.sizes["chain"], idata.posterior.sizes["draw"]
    beta, u = np.empty((*shape, len(node.family.coef))), np.empty((*shape, node.n))
    for draw in _draws(idata, model, node, rng):
        beta[draw.place], u[draw.place] = draw.beta[0], draw.u.lift(draw.spectrum)[0]
    return beta, u


def predict_family(
    idata: xr.DataTree,
    model: pm.Model,
    node: FamilyNode,
    rng: np.random.Generator,
    new: NewKernel | None,
    *,
    given: bool,
) -> tuple[FloatArray, FloatArray, Ids | None]:
    """Return draws of f = Xβ + u and of y = f + e, of new rows or of the training rows, and the ids of new rows."""
    rows: list[FloatArray] = []
    y: list[FloatArray] = []
    ids = None
    for place, ell, s, beta, u, g, e in _draws(idata, model, node, rng):
        if new is None:
            u = u if given else draw_prior_effects(s, g, rng)
            f = Coordinates(u.a + beta @ s.projection.R.T, u.b).lift(s)
        else:
            read = new_rows(s, new.X, new.K(ell), K_new_new=new.K_new(ell), warn=not any(place))
            f, ids = draw_new_effects(s, read, u, g, rng) + beta @ (read.a @ s.projection.R).T, read.ids
        rows.append(f[0])
        y.append(f[0] + np.sqrt(e) * rng.standard_normal(f.shape[-1]))
    shape = idata.posterior.sizes["chain"], idata.posterior.sizes["draw"]
    return np.reshape(rows, (*shape, -1)), np.reshape(y, (*shape, -1)), ids


def _draws(idata: xr.DataTree, model: pm.Model, node: FamilyNode, rng: np.random.Generator) -> Iterator[_Draw]:
    """Draw (β, u) given y for each draw of ℓ and the variances, in their order; K is factored for each."""
    graphs = [node.lengthscale, node.sigma2_g, node.sigma2_e]
    ell, g, e = evaluate_draws(model, idata.posterior.to_dataset(), graphs)
    for place in tracked(list(np.ndindex(*ell.shape)), "Factoring K for each draw", show=node.family.progressbar):
        spectrum = node.family.at(float(ell[place]))
        variances = np.array([g[place]]), np.array([e[place]])
        beta, u = draw_effects(Rotated.from_values(spectrum, node.observed, None), *variances, rng)
        yield _Draw(place, float(ell[place]), spectrum, beta, u, *variances)
