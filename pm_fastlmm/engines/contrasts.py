"""The warning that draws of y are error contrasts, or NaN, where β has a flat prior."""

from functools import singledispatch
from typing import Any

from pytensor.compile.mode import optdb
from pytensor.graph.rewriting.basic import graph_rewriter
from pytensor.tensor.shape import Shape, Shape_i

from pm_fastlmm.base.arrays import warn

_BEFORE_INLINING = -0.02  # PyTensor replaces random variables by the graphs of their draws at -0.01


@singledispatch
def draws_contrasts(op: Any) -> bool:
    """Return whether draws leave out what is along X: y has no distribution there if β has a flat prior."""
    return False


@graph_rewriter  # type: ignore[untyped-decorator]
def _warn(fgraph: Any) -> None:
    """
    Change nothing: every graph that PyTensor compiles passes here.

    Log-densities, and all that this package does after sampling, do without draws, and are not warned of.
    """
    for node in fgraph.apply_nodes:
        if draws_contrasts(node.op) and _is_drawn(fgraph, node.outputs[1]):
            warn(
                f"draws of {node.outputs[1].name or node.op.name} are {node.op.drawn}: β has a flat prior, under which "
                f"{node.op.no_distribution}. Predictive draws given the data are those of flmm.predict(idata, "
                "model=model); for draws before the data give β a proper prior, beta_cov=, or coefficients of the "
                "model, beta=."
            )


def _is_drawn(fgraph: Any, rv: Any) -> bool:
    """Whether anything but the shape of a variable is asked for, as graphs of models do."""
    return any(not isinstance(client.op, Shape | Shape_i) for client, _ in fgraph.clients[rv])


optdb.register("pm_fastlmm_contrasts", _warn, "fast_run", "fast_compile", position=_BEFORE_INLINING)
