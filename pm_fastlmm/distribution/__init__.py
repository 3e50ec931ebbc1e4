"""The PyMC nodes: the only package that touches PyMC's internals."""

import pm_fastlmm.distribution.jax_on_demand  # noqa: F401  registers itself
from pm_fastlmm.distribution.dense import DenseLMM
from pm_fastlmm.distribution.family import FamilyLMM
from pm_fastlmm.distribution.fastlmm import FastLMM
from pm_fastlmm.distribution.fourier import FourierLMM
from pm_fastlmm.distribution.nodes import (
    DenseNode,
    FamilyNode,
    FourierNode,
    LMMNode,
    SpectralNode,
    StructuredNode,
    lmm_nodes,
)
from pm_fastlmm.distribution.structured import StructuredLMM

__all__ = [
    "DenseLMM",
    "DenseNode",
    "FamilyLMM",
    "FamilyNode",
    "FastLMM",
    "FourierLMM",
    "FourierNode",
    "LMMNode",
    "SpectralNode",
    "StructuredLMM",
    "StructuredNode",
    "lmm_nodes",
]
