"""Dimensions and coordinates of what is added to a posterior, as the node has them."""

from typing import Any

import numpy as np
import pymc as pm

from pm_fastlmm.engines.fourier.node import FourierNode
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.engines.spectral.node import SpectralNode


def node_dims(model: pm.Model, node: LMMNode, batch_ndim: int) -> tuple[list[str], str]:
    """Return the dimensions of a node: those of its batch (of responses), and that of the observations."""
    names = list(model.named_vars_to_dims.get(node.name) or [])
    if len(names) != batch_ndim + 1:
        names = [f"{node.name}_dim_{i}" for i in range(batch_ndim + 1)]
    # the last dimension of a node that observes a Rotated is that of the statistic
    return names[:batch_ndim], f"{node.name}_obs" if _observes_statistic(node) else names[batch_ndim]


def _observes_statistic(node: LMMNode) -> bool:
    return isinstance(node, FourierNode) or (isinstance(node, SpectralNode) and node.given is not None)


def batch_coords(model: pm.Model, batch: list[str]) -> dict[str, Any]:
    """Return the coordinates of the batch dimensions that have any."""
    return {dim: list(coords) for dim in batch if (coords := model.coords.get(dim)) is not None}


def obs_coords(model: pm.Model, node: LMMNode, obs: str) -> dict[str, Any]:
    """Return the coordinates of the observations, numbers where they have no labels."""
    known = node.ids if _observes_statistic(node) else model.coords.get(obs)
    return {obs: np.arange(node.n) if known is None else list(known)}  # without dims PyMC counts too
