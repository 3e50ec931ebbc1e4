"""Translation-invariant kernels as equispaced Fourier modes: K ≈ Z diag(d) Zᵀ, and what data contribute to it."""

from pm_fastlmm.covariance.fourier.basis import FourierBasis
from pm_fastlmm.covariance.fourier.kernels import SpectralKernel
from pm_fastlmm.covariance.fourier.statistics import FourierStatistics

__all__ = ["FourierBasis", "FourierStatistics", "SpectralKernel"]
