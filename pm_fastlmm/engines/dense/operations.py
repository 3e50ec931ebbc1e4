"""The PyTensor operation of a dense V."""

from pm_fastlmm.engines.callbacks import GradientOp
from pm_fastlmm.kernel.likelihood.dense import dense_loglik_and_gradient


class DenseLoglik(GradientOp):
    """Log-likelihood of V, y and an orthonormal basis of X, with its gradient as further outputs."""

    likelihood = "the dense likelihood"
    differentiable = 2
    evaluate = staticmethod(dense_loglik_and_gradient)
