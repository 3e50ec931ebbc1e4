"""Classes of what functions return, to read, to annotate and to test for; none of them is built by hand."""

from pm_fastlmm.engines.fourier.functions import FunctionPosterior
from pm_fastlmm.engines.latent.importance import Importance
from pm_fastlmm.engines.latent.on_scale import ScalePrediction
from pm_fastlmm.engines.lengthscale.spectra import RotatedSpectra
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.fitting.fit import VarianceFit
from pm_fastlmm.fitting.laplace import LaplaceFit
from pm_fastlmm.fitting.posterior import VariancePosterior
from pm_fastlmm.kernel.effects.coefficients import FactorEffects
from pm_fastlmm.kernel.effects.effects import Prediction
from pm_fastlmm.kernel.exact.result import ExactPosterior
from pm_fastlmm.kernel.inference.bootstrap import Bootstrap
from pm_fastlmm.kernel.inference.fit import Fit
from pm_fastlmm.kernel.inference.fixed_effects import FixedTest
from pm_fastlmm.kernel.inference.function import FunctionEstimate
from pm_fastlmm.kernel.inference.value_test import ValueTest
from pm_fastlmm.kernel.inference.variance_test import VarianceTest
from pm_fastlmm.kernel.reml.fit import REMLFit
from pm_fastlmm.models.correlated_terms import CorrelatedTerms
from pm_fastlmm.models.random_terms import RandomTerm
from pm_fastlmm.spectrum.spectrum import Rotated

__all__ = [
    "Bootstrap",
    "CorrelatedTerms",
    "ExactPosterior",
    "FactorEffects",
    "Fit",
    "FixedTest",
    "FunctionEstimate",
    "FunctionPosterior",
    "Importance",
    "LMMNode",
    "LaplaceFit",
    "Prediction",
    "REMLFit",
    "RandomTerm",
    "Rotated",
    "RotatedSpectra",
    "ScalePrediction",
    "ValueTest",
    "VarianceFit",
    "VariancePosterior",
    "VarianceTest",
]
