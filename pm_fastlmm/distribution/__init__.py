"""The PyMC nodes: the only package that touches PyMC's internals."""

import pm_fastlmm.distribution.contrasts
import pm_fastlmm.distribution.jax_on_demand  # noqa: F401  both register themselves
from pm_fastlmm.distribution.dense import DenseLMM
from pm_fastlmm.distribution.family import FamilyLMM
from pm_fastlmm.distribution.fastlmm import FastLMM
from pm_fastlmm.distribution.fourier import FourierLMM
from pm_fastlmm.distribution.structured import StructuredLMM

__all__ = [
    "DenseLMM",
    "FamilyLMM",
    "FastLMM",
    "FourierLMM",
    "StructuredLMM",
]
