"""Linear mixed models and Gaussian processes with a known covariance, for PyMC."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pm_fastlmm import covariance, datasets, priors, results
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.engines.dense.denselmm import DenseLMM
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.fourierlmm import FourierLMM
from pm_fastlmm.engines.fourier.statistics import FourierStatistics
from pm_fastlmm.engines.lengthscale.lengthscalelmm import LengthscaleLMM
from pm_fastlmm.engines.lengthscale.spectrum import LengthscaleSpectrum
from pm_fastlmm.engines.nodes import lmm_nodes
from pm_fastlmm.engines.spectral.fastlmm import FastLMM
from pm_fastlmm.engines.structured.statistics import TermStatistics
from pm_fastlmm.engines.structured.structuredlmm import StructuredLMM
from pm_fastlmm.fitting.compare import compare_fits
from pm_fastlmm.fitting.find import find_reml, reml_covariance
from pm_fastlmm.kernel.exact.exact import exact_posterior
from pm_fastlmm.kernel.exact.sensitivity import rope
from pm_fastlmm.kernel.likelihood.information import log_likelihood
from pm_fastlmm.kernel.reml.batches import reml_blocks
from pm_fastlmm.kernel.reml.reml import reml, reml_point
from pm_fastlmm.kernel.reml.scan import scan
from pm_fastlmm.models.design import Design
from pm_fastlmm.models.kernel_model import kernel_model
from pm_fastlmm.models.lmm_model import lmm_model
from pm_fastlmm.models.mixed_design import MixedDesign
from pm_fastlmm.posterior.pointwise import pointwise_log_likelihood
from pm_fastlmm.posterior.predict import posterior_function, predict, recover_effects
from pm_fastlmm.posterior.sample import sample
from pm_fastlmm.spectrum.spectrum import Spectrum
from pm_fastlmm.spectrum.streams.statistics import KernelStatistics

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pm_fastlmm import plots

__all__ = [
    "DenseLMM",
    "Design",
    "FastLMM",
    "FourierBasis",
    "FourierLMM",
    "FourierStatistics",
    "KernelStatistics",
    "LengthscaleLMM",
    "LengthscaleSpectrum",
    "MixedDesign",
    "Spectrum",
    "StructuredLMM",
    "Term",
    "TermStatistics",
    "compare_fits",
    "covariance",
    "datasets",
    "exact_posterior",
    "find_reml",
    "kernel_model",
    "lmm_model",
    "lmm_nodes",
    "log_likelihood",
    "plots",
    "pointwise_log_likelihood",
    "posterior_function",
    "predict",
    "priors",
    "recover_effects",
    "reml",
    "reml_blocks",
    "reml_covariance",
    "reml_point",
    "results",
    "rope",
    "sample",
    "scan",
]


def __dir__() -> list[str]:
    """Return what a user may want to complete: the public names, and not the modules that they come from."""
    return [*__all__, "__version__", "__doc__"]


def __getattr__(name: str) -> Any:
    """Import `plots` when it is first used: the figures' libraries take longer to load than all the rest."""
    if name == "plots":
        return import_module("pm_fastlmm.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
