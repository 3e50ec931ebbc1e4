"""AI-REML over a PyMC model, or over a function V(θ): find_reml, fit_covariance."""

from pm_fastlmm.aireml.covariance_function import fit_covariance
from pm_fastlmm.aireml.find import find_reml
from pm_fastlmm.aireml.fit import VarianceFit

__all__ = ["VarianceFit", "find_reml", "fit_covariance"]
