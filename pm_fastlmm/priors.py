"""Priors of the variances of one kernel: two kinds, a set scaled to the data, and what they do to a posterior."""

from pm_fastlmm.kernel.exact.deviation_prior import DeviationPrior
from pm_fastlmm.kernel.exact.sensitivity import ready, sensitivity
from pm_fastlmm.kernel.likelihood.prior import VariancePrior

__all__ = ["DeviationPrior", "VariancePrior", "ready", "sensitivity"]
