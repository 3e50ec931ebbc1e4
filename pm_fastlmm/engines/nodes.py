"""The nodes of a model; here alone the engines are listed."""

from importlib import import_module

import pymc as pm

from pm_fastlmm.engines.inputs import check_data
from pm_fastlmm.engines.protocol import ENGINES, LMMNode, node_of

_PACKAGES = [
    f"pm_fastlmm.engines.{engine}"
    for engine in ("spectral", "lengthscale", "structured", "matrix", "latent", "dense", "fourier")
]


def _load(package: str) -> None:
    """Let an engine register its node: a model takes the time to import those engines alone that it has."""
    if package in _PACKAGES:
        import_module(f"{package}.node")


def model_here(model: pm.Model | None) -> pm.Model:
    """
    Return the model, or that of the `with` around the call.

    Raises
    ------
    TypeError
        If there is neither.
    """
    if model is None and pm.Model.get_context(error_if_none=False) is None:
        raise TypeError(
            "there is no model here: call it within `with model:`, or give model=; of a fit of find_reml it is "
            "model=fit.model."
        )
    return pm.modelcontext(model)


def lmm_nodes(model: pm.Model) -> list[LMMNode]:
    """
    Return the linear mixed model nodes of a model, whichever engine answers for them.

    They are found in its order, also after `do`, `observe`, freezing and copying.
    """
    for rv in model.basic_RVs:
        _load(type(rv.owner.op).__module__.rpartition(".")[0])
    nodes = [node_of(rv.owner.op, model, rv) for rv in model.basic_RVs]
    return [node for node in nodes if node is not None]


def find_node(model: pm.Model, var_name: str | None = None) -> LMMNode:
    """
    Return the LMM node of a model, by name when there are several.

    Raises
    ------
    ValueError
        If there is none, none of that name, or several and no name was given; or if its data were replaced by others
        that are missing, or not as many.
    """
    nodes = {node.name: node for node in lmm_nodes(model)}
    if not nodes:
        for package in _PACKAGES:
            _load(package)
        *others, last = sorted(engine.called for engine in ENGINES)
        raise ValueError(
            f"the model has no {', '.join(others)} or {last} node: add one, or use pymc.sample. "
            "With RelatedEffects or effects='sampled' all effects are variables of PyMC, for pymc.sample and "
            "pymc.sample_posterior_predictive; find_reml, predict and leave-one-out need effects='integrated'."
        )
    if var_name is None:
        if len(nodes) > 1:
            raise ValueError(f"the model has several LMM nodes ({', '.join(nodes)}): name one with var_name=.")
        var_name = next(iter(nodes))
    if var_name not in nodes:
        raise ValueError(f"no LMM node is called {var_name!r}: the model has {', '.join(nodes)}.")
    node = nodes[var_name]
    if node.observed is not None:
        check_data(node.name, node.observed, node.last_length)
    return node
