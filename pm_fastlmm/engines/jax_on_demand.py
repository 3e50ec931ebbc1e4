"""The conversions of this package's operations for JAX: loaded when a graph is compiled for it."""

from importlib import import_module
from typing import Any

from pytensor.compile.mode import optdb
from pytensor.graph.rewriting.basic import graph_rewriter


@graph_rewriter  # type: ignore[untyped-decorator]
def _convert(fgraph: Any) -> None:
    """Change nothing: every graph for JAX passes here before it is converted, and importing JAX takes a second."""
    import_module("pm_fastlmm.engines.jax")


optdb.register("pm_fastlmm_jax", _convert, "jax", position=100)
