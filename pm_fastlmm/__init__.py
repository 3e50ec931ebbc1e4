"""Linear mixed models and Gaussian processes with a known covariance, for PyMC."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pm_fastlmm import covariance, datasets
from pm_fastlmm.aireml import VarianceFit, find_reml, fit_covariance
from pm_fastlmm.association import scan
from pm_fastlmm.batches import reml_blocks
from pm_fastlmm.comparison import compare_fits
from pm_fastlmm.covariance.fourier import FourierBasis, FourierStatistics
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.design import Design
from pm_fastlmm.deviation_prior import DeviationPrior
from pm_fastlmm.distribution import DenseLMM, FamilyLMM, FastLMM, FourierLMM, StructuredLMM
from pm_fastlmm.engines.nodes import lmm_nodes
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.equivalent import EquivalentRows, equivalent_rows
from pm_fastlmm.exact import exact_posterior
from pm_fastlmm.exact_result import ExactPosterior
from pm_fastlmm.fit import REMLFit
from pm_fastlmm.function_posterior import posterior_function
from pm_fastlmm.functions import FunctionPosterior
from pm_fastlmm.inference.bootstrap import Bootstrap
from pm_fastlmm.inference.fixed_effects import FixedTest
from pm_fastlmm.inference.variance_test import VarianceTest
from pm_fastlmm.likelihood.marginal import log_likelihood
from pm_fastlmm.linalg.crossproducts import CrossProducts
from pm_fastlmm.linalg.spectrum import Rotated, Spectrum
from pm_fastlmm.mixed_design import MixedDesign
from pm_fastlmm.mixed_model import lmm_model
from pm_fastlmm.model import kernel_model
from pm_fastlmm.point import reml_point
from pm_fastlmm.pointwise import pointwise_log_likelihood
from pm_fastlmm.posterior import predict, recover_effects
from pm_fastlmm.prior import VariancePrior
from pm_fastlmm.reml import reml
from pm_fastlmm.sampling import sample
from pm_fastlmm.sensitivity import prior_sensitivity, ready_priors, rope
from pm_fastlmm.spectrum_family import SpectrumFamily

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
