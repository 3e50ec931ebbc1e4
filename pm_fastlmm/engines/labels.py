"""Dimensions and coordinates of what is added to a posterior, as the node has them."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.graphs import reaching
from pm_fastlmm.engines.prediction import Predictive

if TYPE_CHECKING:
    from pm_fastlmm.engines.protocol import LMMNode


def node_dims(model: pm.Model, node: "LMMNode", batch_ndim: int) -> tuple[list[str], str]:
    """Return the dimensions of a node: those of its batch (of responses), and that of the observations."""
    names = list(model.named_vars_to_dims.get(node.name) or [])
    if len(names) != batch_ndim + 1:
        names = [f"{node.name}_dim_{i}" for i in range(batch_ndim + 1)]
    # the last dimension of a node that observes a statistic is that of the statistic
    return names[:batch_ndim], f"{node.name}_obs" if node.observes_statistic else names[batch_ndim]


def obs_coords(model: pm.Model, node: "LMMNode", obs: str, n: int) -> dict[str, Any]:
    """Return the coordinates of the observations, numbers where they have no labels."""
    known = node.ids if node.observes_statistic else model.coords.get(obs)
    return {obs: np.arange(n) if known is None else list(known)}  # without dims PyMC counts too


def labelled(
    model: pm.Model, node: "LMMNode", draws: FloatArray, own: Mapping[str, Iterable[Any] | None]
) -> xr.DataArray:
    """Return draws (chain, draw, …) over the batch of the node and dimensions of their own, with labels or without."""
    batch, _ = node_dims(model, node, draws.ndim - 2 - len(own))
    known = {dim: model.coords.get(dim) for dim in batch} | dict(own)
    coords = {dim: list(labels) for dim, labels in known.items() if labels is not None}
    return xr.DataArray(draws, dims=("chain", "draw", *batch, *own), coords=coords)


def derived(draws: Draws, node: "LMMNode") -> dict[str, xr.DataArray]:
    """Return what a node derives from its variances, by name, at draws of a posterior that has what they need."""
    graphs, own = node.deriving(), node.components()
    if not graphs or any(rv.name not in draws.posterior for rv in reaching(draws.model, *graphs)):
        return {}
    with np.errstate(divide="ignore"):
        arrays = node.derived(*draws.evaluate(graphs))
    batch = {suffix: node_dims(draws.model, node, v.ndim - 2 - len(own))[0] for suffix, v in arrays.items()}
    return {
        f"{node.name}_{suffix}": xr.DataArray(v, dims=("chain", "draw", *batch[suffix], *own), coords=own)
        for suffix, v in arrays.items()
    }


def over_coef(model: pm.Model, node: "LMMNode", beta: FloatArray) -> xr.DataArray:
    """Return draws (chain, draw, …, r) over the fixed effects."""
    return labelled(model, node, beta, {f"{node.name}_coef": node.projection.coef})


def over_obs(model: pm.Model, node: "LMMNode", values: FloatArray) -> xr.DataArray:
    """Return draws (chain, draw, …, n) over the observations."""
    _, obs = node_dims(model, node, values.ndim - 3)
    return labelled(model, node, values, obs_coords(model, node, obs, values.shape[-1]))


def over_new(model: pm.Model, node: "LMMNode", values: FloatArray, ids: Iterable[Any] | None) -> xr.DataArray:
    """Return draws (chain, draw, …, m) over new rows."""
    return labelled(model, node, values, {f"{node.name}_new": range(values.shape[-1]) if ids is None else ids})


def add_predictions(
    idata: xr.DataTree, model: pm.Model, node: "LMMNode", drawn: Predictive, *, new: bool
) -> xr.DataTree:
    """
    Add draws of y and of its mean f to the group for new rows, or to that for the rows of the data.

    Where f is not linear in the effects the linear predictor is added, and probabilities of ordered categories.
    """
    group, name = "predictions" if new else "posterior_predictive", node.name

    def over_rows(values: FloatArray) -> xr.DataArray:
        return over_new(model, node, values, drawn.ids) if new else over_obs(model, node, values)

    arrays = {name: over_rows(drawn.y), f"{name}_mean": over_rows(drawn.f)}
    if drawn.eta is not None:
        arrays[f"{name}_eta"] = over_rows(drawn.eta)
    if drawn.probabilities is not None:
        each = [over_rows(p) for p in np.moveaxis(drawn.probabilities, -1, 0)]
        category = f"{name}_category"
        labels = list(model.coords.get(category) or range(len(each)))  # a formula has their names
        whole = xr.concat(each, category).assign_coords({category: labels})
        arrays[f"{name}_probability"] = whole.transpose(..., category)
    idata[group] = xr.DataTree(beside_others(idata, group, arrays))
    return idata


def beside_others(idata: xr.DataTree, group: str, arrays: Mapping[str, xr.DataArray]) -> xr.Dataset:
    """Return a group with these draws in it: what is there of other nodes stays, but for rows that are no more."""
    posterior = idata.posterior.to_dataset()  # where a dimension without coordinates is numbered
    coords = {name: posterior[name].to_numpy() for name in ("chain", "draw")}
    dataset = xr.Dataset(arrays).assign_coords(coords)
    if group not in idata.children:
        return dataset
    others = idata[group].to_dataset().drop_vars(list(arrays), errors="ignore")
    stale = [dim for dim in dataset.dims if dim in others.dims and not others[dim].equals(dataset[dim])]
    return others.drop_dims(stale).merge(dataset)


def observe_rows(idata: xr.DataTree, model: pm.Model, node: "LMMNode", y: FloatArray) -> None:
    """
    Put y (…, n) in the place of the statistic that a node observes, which is kept under a name of its own.

    It is what replicates and their PIT are compared with.
    """
    observed = idata["observed_data"].to_dataset() if "observed_data" in idata.children else xr.Dataset()
    statistic, (batch, obs) = f"{node.name}_statistic", node_dims(model, node, y.ndim - 1)
    values = xr.DataArray(y, dims=(*batch, obs), coords=obs_coords(model, node, obs, y.shape[-1]))
    if node.name in observed and statistic not in observed:
        observed = observed.rename({node.name: statistic})
    idata["observed_data"] = xr.DataTree(observed.drop_vars(node.name, errors="ignore").assign({node.name: values}))
