"""The PyTensor operation of Fourier features."""

from pm_fastlmm.engines.callbacks import GradientOp
from pm_fastlmm.engines.fourier.likelihood import fourier_loglik_and_gradient


class FourierLoglik(GradientOp):
    """
    Log-likelihood from products of Fourier features, with its gradient as further outputs: one factorisation for both.

    Inputs: log σ²d (M,), σ²_e, the data [b̃, c̃] (M + 1,), and the constants G̃ and p. -½log|XᵀX| is left out. There is
    no second derivative.
    """

    likelihood = "the likelihood of Fourier features"
    differentiable = 3
    evaluate = staticmethod(fourier_loglik_and_gradient)
