"""The PyMC nodes: the only package that touches PyMC's internals."""

from pm_fastlmm.distribution.fastlmm import FastLMM
from pm_fastlmm.distribution.nodes import LMMNode, lmm_nodes

__all__ = ["FastLMM", "LMMNode", "lmm_nodes"]
