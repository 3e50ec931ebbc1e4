"""Priors of variances: two kinds of one kernel, what they do to a posterior, and one of a model of several terms."""

from pm_fastlmm.kernel.exact.deviation_prior import DeviationPrior
from pm_fastlmm.kernel.exact.sensitivity import ready, sensitivity
from pm_fastlmm.kernel.likelihood.prior import VariancePrior
from pm_fastlmm.models.share_prior import SharePrior

__all__ = ["DeviationPrior", "SharePrior", "VariancePrior", "ready", "sensitivity"]
