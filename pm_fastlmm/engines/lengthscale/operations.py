"""The PyTensor operations of one kernel with a lengthscale."""

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Apply

from pm_fastlmm.engines.callbacks import CalledBack, GradientOp, Shape
from pm_fastlmm.engines.lengthscale.spectra import interpolated_loglik_and_gradient


class LengthscaleLoglik(GradientOp):
    """
    Log-likelihood at one lengthscale by interpolation, with its gradient in (log ℓ, σ²_g, σ²_e).

    Inputs: log ℓ, σ²_g, σ²_e, and the constants of a `RotatedSpectra`. -½log|XᵀX| is left out. There is no second
    derivative.
    """

    likelihood = "the likelihood of a kernel with a lengthscale"
    differentiable = 3
    evaluate = staticmethod(interpolated_loglik_and_gradient)


class LengthscaleRotation(CalledBack):
    """The statistics of a response, from a `LengthscaleSpectrum`, at the nodes of ℓ; PyTensor folds those of data."""

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to a response (n,)."""
        shapes: list[Shape] = [(None, None), (None, None), (None,), (3,)]
        return Apply(self, [*map(pt.as_tensor, inputs)], [pt.tensor(dtype="float64", shape=s) for s in shapes])

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Raise: how many nodes of the lengthscale are needed depends on y."""
        raise NotImplementedError(
            "JAX takes no pm.Data as the y of a LengthscaleLMM, whose arrays have other sizes for other y: sample with "
            "flmm.sample, or freeze the data, pymc.model.transform.optimization.freeze_dims_and_data(model)."
        )

    def evaluate(self, *inputs: Any) -> Any:
        """Return the statistics."""
        return [np.array(value) for value in self.data.rotate(np.asarray(inputs[0], dtype=float)).constants]


class LengthscaleContrasts(CalledBack):
    """
    Error contrasts of N(0, σ²_gK(ℓ) + σ²_eI) from white noise ξ (…, n); K is factored for each lengthscale.

    Inputs: ℓ, σ²_g, σ²_e and ξ.
    """

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return that of the noise."""
        return [inputs[-1]]

    def evaluate(self, *inputs: Any) -> Any:
        """Return the draws."""
        *parameters, xi = inputs
        parameters = [np.broadcast_to(v, xi.shape[:-1]) for v in parameters]
        out = np.empty(xi.shape)
        for place in np.ndindex(*xi.shape[:-1]):
            lengthscale, g, e = (float(v[place]) for v in parameters)
            out[place] = self.data.draw_contrasts(lengthscale, g, e, xi[place])
        return [out]
