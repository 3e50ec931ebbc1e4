"""Graphs of a model: what reaches what, and evaluation of small graphs without compilation."""

import warnings
from typing import Any

import pymc as pm
from pytensor.compile.mode import Mode
from pytensor.graph.traversal import ancestors

from pm_fastlmm.distribution.nodes import LMMNode

# PyTensor's own Python loops: small graphs that run a few times are not worth a compilation
INTERPRETED = Mode(linker="py", optimizer="fast_compile")


def reaching(model: pm.Model, *outputs: Any) -> list[Any]:
    """Return the free variables of the model that outputs depend on, or are, in the model's order."""
    reached = set(ancestors(outputs))
    return [rv for rv in model.free_RVs if rv in reached]


def parameters(model: pm.Model, node: LMMNode) -> list[Any]:
    """Return the free continuous variables of the model that reach the node, in the model's order."""
    return [rv for rv in reaching(model, node.rv) if rv.type.dtype.startswith("float") and rv is not node.rv]


def initial_point(model: pm.Model) -> dict[str, Any]:
    """
    Return PyMC's initial point, by name of the value variables.

    For some priors PyMC evaluates it in C, and PyTensor then warns when its C code has no BLAS, which none of this
    uses.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PyTensor could not link to a BLAS installation")
        point: dict[str, Any] = model.initial_point()
    return point
