"""Functions of a model's variables, evaluated at posterior draws."""

import math
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import pytensor
import xarray as xr
from pytensor.graph.replace import vectorize_graph

from pm_fastlmm.engines.graphs import INTERPRETED, reaching


def over_batch(draws: Any, ndim: int) -> Any:
    """Return draws (chain, draw, …) with axes of length 1 for the batch dimensions that they lack."""
    return draws.reshape(*draws.shape[:2], *(1,) * (ndim - draws.ndim), *draws.shape[2:])


def _as_draws_of(rv: Any, draws: Any) -> Any:
    """Return draws as a variable like rv: with named dimensions for a variable of pymc.dims, whose type has them."""
    if not hasattr(rv.type, "dims"):
        return draws
    from pytensor.xtensor import as_xtensor  # which adds rewritings to every compilation

    return as_xtensor(draws, dims=("__draw__", *rv.type.dims))


class Draws(NamedTuple):
    """Posterior draws of a model's variables, at which functions of them are evaluated."""

    model: pm.Model
    posterior: xr.Dataset

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of chains and of draws."""
        return self.posterior.sizes["chain"], self.posterior.sizes["draw"]

    def evaluate(self, outputs: list[Any]) -> list[Any]:
        """
        Return the values of functions of the variables, (chain, draw, …).

        Raises
        ------
        ValueError
            If a variable that they depend on was not kept in the posterior.
        """
        return [_by_chain(value, self.shape) for value in DrawFunction(self, outputs)()]


class DrawFunction:
    """
    Functions of the model's variables over flat posterior draws, chain by chain: compiled once, evaluated in parts.

    Raises
    ------
    ValueError
        If a variable that they depend on was not kept in the posterior.
    """

    def __init__(self, draws: Draws, outputs: list[Any]) -> None:
        model, posterior = draws
        needed = reaching(model, *outputs)
        missing = [rv.name for rv in needed if rv.name not in posterior]
        if missing:
            raise ValueError(f"the posterior has no draws of {', '.join(missing)}: sample without leaving them out.")
        batched = {
            rv: pytensor.tensor.TensorType(rv.type.dtype, shape=(None, *rv.type.shape))(rv.name) for rv in needed
        }
        replace = {rv: _as_draws_of(rv, draws) for rv, draws in batched.items()}
        vectorised = vectorize_graph(outputs, replace=replace)
        self._function = pytensor.function(
            list(batched.values()), vectorised, mode=INTERPRETED, on_unused_input="ignore"
        )  # fmt: skip
        kept = (posterior[rv.name].transpose("chain", "draw", ...).to_numpy().astype(rv.type.dtype) for rv in needed)
        self._draws = [array.reshape(-1, *array.shape[2:]) for array in kept]
        self._varies = [bool(reaching(model, output)) for output in outputs]
        self.size = math.prod(draws.shape)

    def __call__(self, rows: slice = slice(None)) -> list[Any]:
        """Return the values at these draws, (draws, …)."""
        count = len(range(self.size)[rows])
        values = self._function(*(array[rows] for array in self._draws))
        return [
            value if varies else np.broadcast_to(value, (count, *value.shape))
            for value, varies in zip(values, self._varies, strict=True)
        ]


def _by_chain(value: Any, shape: tuple[int, int]) -> Any:
    """Return (draws, …) as (chain, draw, …), without a copy of what is the same in all draws."""
    if value.strides and value.strides[0] == 0:
        return np.broadcast_to(value[0], (*shape, *value.shape[1:]))
    return value.reshape(*shape, *value.shape[1:])
