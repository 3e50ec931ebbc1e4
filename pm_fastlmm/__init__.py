"""Linear mixed models and Gaussian processes with a known covariance, for PyMC."""

from pm_fastlmm import covariance
from pm_fastlmm.distribution import FastLMM, LMMNode, lmm_nodes
from pm_fastlmm.exact import ExactPosterior, exact_posterior
from pm_fastlmm.linalg.spectrum import Rotated, Spectrum
from pm_fastlmm.prior import VariancePrior
from pm_fastlmm.reml import REMLFit, log_likelihood, reml

__version__ = "0.1.0"
