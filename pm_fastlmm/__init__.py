"""Linear mixed models and Gaussian processes with a known covariance, for PyMC."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pm_fastlmm import covariance, datasets
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.engines.dense.denselmm import DenseLMM
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.fourierlmm import FourierLMM
from pm_fastlmm.engines.fourier.functions import FunctionPosterior
from pm_fastlmm.engines.fourier.statistics import FourierStatistics
from pm_fastlmm.engines.lengthscale.family import SpectrumFamily
from pm_fastlmm.engines.lengthscale.familylmm import FamilyLMM
from pm_fastlmm.engines.nodes import lmm_nodes
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.engines.spectral.fastlmm import FastLMM
from pm_fastlmm.engines.structured.equivalent import EquivalentRows, equivalent_rows
from pm_fastlmm.engines.structured.structuredlmm import StructuredLMM
from pm_fastlmm.fitting.compare import compare_fits
from pm_fastlmm.fitting.covariance_function import fit_covariance
from pm_fastlmm.fitting.find import find_reml
from pm_fastlmm.fitting.fit import VarianceFit
from pm_fastlmm.kernel.exact.deviation_prior import DeviationPrior
from pm_fastlmm.kernel.exact.exact import exact_posterior
from pm_fastlmm.kernel.exact.result import ExactPosterior
from pm_fastlmm.kernel.exact.sensitivity import prior_sensitivity, ready_priors, rope
from pm_fastlmm.kernel.inference.bootstrap import Bootstrap
from pm_fastlmm.kernel.inference.fixed_effects import FixedTest
from pm_fastlmm.kernel.inference.variance_test import VarianceTest
from pm_fastlmm.kernel.likelihood.marginal import log_likelihood
from pm_fastlmm.kernel.likelihood.prior import VariancePrior
from pm_fastlmm.kernel.reml.batches import reml_blocks
from pm_fastlmm.kernel.reml.fit import REMLFit
from pm_fastlmm.kernel.reml.point import reml_point
from pm_fastlmm.kernel.reml.reml import reml
from pm_fastlmm.kernel.reml.scan import scan
from pm_fastlmm.models.design import Design
from pm_fastlmm.models.kernel_model import kernel_model
from pm_fastlmm.models.lmm_model import lmm_model
from pm_fastlmm.models.mixed_design import MixedDesign
from pm_fastlmm.posterior.functions import posterior_function
from pm_fastlmm.posterior.pointwise import pointwise_log_likelihood
from pm_fastlmm.posterior.predict import predict, recover_effects
from pm_fastlmm.posterior.sample import sample
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum
from pm_fastlmm.spectrum.streams.statistics import CrossProducts

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pm_fastlmm import plots

__all__ = [
    "Bootstrap",
    "CrossProducts",
    "DenseLMM",
    "Design",
    "DeviationPrior",
    "EquivalentRows",
    "ExactPosterior",
    "FamilyLMM",
    "FastLMM",
    "FixedTest",
    "FourierBasis",
    "FourierLMM",
    "FourierStatistics",
    "FunctionPosterior",
    "LMMNode",
    "MixedDesign",
    "REMLFit",
    "Rotated",
    "Spectrum",
    "SpectrumFamily",
    "StructuredLMM",
    "Term",
    "VarianceFit",
    "VariancePrior",
    "VarianceTest",
    "compare_fits",
    "covariance",
    "datasets",
    "equivalent_rows",
    "exact_posterior",
    "find_reml",
    "fit_covariance",
    "kernel_model",
    "lmm_model",
    "lmm_nodes",
    "log_likelihood",
    "plots",
    "pointwise_log_likelihood",
    "posterior_function",
    "predict",
    "prior_sensitivity",
    "ready_priors",
    "recover_effects",
    "reml",
    "reml_blocks",
    "reml_point",
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
