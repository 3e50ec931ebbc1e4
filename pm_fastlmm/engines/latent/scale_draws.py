"""Heritability and repeatability at posterior draws of a latent model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from pm_fastlmm.base.display import listed
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.latent.node import LatentNode
from pm_fastlmm.engines.structured.effects import over_draws
from pm_fastlmm.families.scales import Fixed, data_scale


def shares_of_draws(
    node: Any, draws: Draws, terms: Sequence[str], of: str, *, fixed: Fixed, trials: float | None,
    rng: np.random.Generator,
) -> xr.Dataset:  # fmt: skip
    """
    Return the shares of terms on each scale, (chain, draw), of ordered responses (chain, draw, category).

    Raises
    ------
    ValueError
        If the node is that of a normal response, there is no such term, or draws of β are needed and dear.
    """
    if not isinstance(node, LatentNode):
        raise ValueError(
            f"{node.name} is a {node.called}, a normal response, whose shares are functions of its variances: "
            "v = flmm.variances(idata, model=model), v['g'] / (v['g'] + v['residual'])."
        )
    names = [term.name for term in node.terms]
    if unknown := [name for name in terms if name not in names]:
        raise ValueError(f"there is no term {unknown[0]!r}: the model has {listed(names)}.")
    theta, mu, b, _ = draws.evaluate([*node.estimated(), *node._mean_graphs()])
    theta = np.broadcast_to(theta, (*draws.shape, theta.shape[-1]))
    (variances,) = node.derived(theta).values()
    eta = mu + over_draws(node.projection.X, _coefficients(node, draws, b, rng))
    family = node.family if trials is None else node.family.of_rows(trials)
    scale = data_scale(family, theta[..., node.layout.size :], eta, variances.sum(axis=-1))
    own = variances[..., [names.index(name) for name in terms]].sum(axis=-1)
    found = scale.heritability(own, fixed=fixed) if of == "heritability" else scale.repeatability(own, fixed=fixed)
    dims = ("chain", "draw", "category")
    shares = xr.Dataset(
        {name: (dims[: np.ndim(part)], part) for name, part in found._asdict().items() if part is not None}
    )
    if node.categories is None or "category" not in shares.dims:
        return shares
    return shares.assign_coords(category=list(node.categories))


def _coefficients(node: Any, draws: Draws, b: Any, rng: np.random.Generator) -> Any:
    """Return draws of β (chain, draw, r): those of the posterior, or from the curvature at the mode."""
    explicit = node.treatment == "proper" and not node.constants().B.size
    if explicit:
        return np.broadcast_to(b, (*draws.shape, b.shape[-1]))
    if (name := f"{node.name}_beta") in draws.posterior:
        return draws.posterior[name].transpose("chain", "draw", ...).to_numpy()
    found = node.coefficients(draws, rng)
    if found is None:
        raise ValueError(
            f"the posterior has no draws of β, {name}: thin it and add them, flmm.recover_effects("
            "idata.sel(draw=slice(0, None, 10)), model=model)."
        )
    return found
