"""
PyTensor operations of the likelihoods, with closed-form gradients.

They call back into Python from compiled graphs: that costs some 20 µs for each evaluation, but the compiled loop of the
likelihood is shared by all models. Linked into each graph it would save those, and take 10 s and more to compile anew
for each model.
"""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch.basic import generate_fallback_impl, numba_funcify_and_cache_key

from pm_fastlmm.likelihood.dense import dense_loglik_and_gradient
from pm_fastlmm.likelihood.family import family_loglik_and_gradient
from pm_fastlmm.likelihood.fourier import fourier_loglik_and_gradient
from pm_fastlmm.likelihood.mixed import mixed_loglik_and_gradient
from pm_fastlmm.linalg.mixed import MixedProducts
from pm_fastlmm.linalg.semidefinite import semidefinite_root
from pm_fastlmm.spectrum_family import SpectrumFamily

type Shape = tuple[int | None, ...]

_STRUCTURED = "the structured likelihood"


def _connected(variable: Any) -> bool:
    return not isinstance(variable.type, type(disconnected_type))


def given_or_zero(outputs: Any, cotangents: Any) -> list[Any]:
    """Return the cotangents of outputs, 0 for those that what is differentiated does not depend on."""
    return [g if _connected(g) else pt.zeros_like(out) for out, g in zip(outputs, cotangents, strict=True)]


def _no_hessian(likelihood: str) -> NotImplementedError:
    return NotImplementedError(
        f"{likelihood} has first derivatives only, and no Hessian: flmm.find_reml(model) has the information of the "
        "variances; flmm.sample, pm.find_MAP and pm.fit do without. One kernel has second derivatives as a FastLMM."
    )


class CalledBack(Op):  # type: ignore[misc]
    """
    An operation whose `evaluate` compiled graphs call, of Numba and, once it is asked for, of JAX.

    It is made of the values of its `__props__`, in their order. Outputs are in double precision.
    """

    __props__: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *values: Any) -> None:
        for name, value in zip(self.__props__, values, strict=True):
            setattr(self, name, value)

    def evaluate(self, *inputs: Any) -> Any:
        """Return the outputs, one after the other."""
        raise NotImplementedError

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return the shapes of the outputs from those of the inputs, None for a length that is not known."""
        raise NotImplementedError

    def gradients(self, apply: Callable[..., Any], inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """
        Return the cotangents of the first inputs, those that have one, from those of the outputs.

        All are tensors of PyTensor, or arrays of JAX; `apply(op)` is a function of them that evaluates an operation.
        """
        raise NotImplementedError(f"{self} has no derivative.")

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to inputs."""
        variables = list(map(pt.as_tensor, inputs))
        shapes = self.shapes(*(variable.type.shape for variable in variables))
        return Apply(self, variables, [pt.tensor(dtype="float64", shape=shape) for shape in shapes])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        for out, value in zip(outputs, self.evaluate(*inputs), strict=True):
            out[0] = np.asarray(value, dtype=float)

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient with respect to the inputs."""
        gradients = self.gradients(lambda op: op, inputs, outputs, given_or_zero(outputs, cotangents))
        return gradients + [disconnected_type() for _ in inputs[len(gradients) :]]


@numba_funcify_and_cache_key.register(CalledBack)  # type: ignore[untyped-decorator]
def _call_back(op: CalledBack, node: Any = None, **kwargs: Any) -> tuple[Any, None]:
    with warnings.catch_warnings():  # of the callback, which is intended here
        warnings.filterwarnings("ignore", "Numba will use object mode")
        return generate_fallback_impl(op, node=node, **kwargs), None


class GradientOp(CalledBack):
    """
    A log-likelihood with its gradient as further outputs, in as many of the first inputs: the others are constants.

    There is no second derivative.
    """

    likelihood: ClassVar[str]
    differentiable: ClassVar[int]

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return those of the log-likelihood and of the inputs that it is differentiated in."""
        return [(), *inputs[: self.differentiable]]

    def gradients(self, apply: Callable[..., Any], inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient, which the outputs hold already."""
        return [cotangents[0] * d for d in outputs[1:]]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient, and raise for that of the gradient."""
        if any(map(_connected, cotangents[1:])):
            raise _no_hessian(self.likelihood)
        return super().pullback(inputs, outputs, cotangents)

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        """Return that the constants do not reach the outputs."""
        return [[i < self.differentiable] * len(node.outputs) for i in range(len(node.inputs))]


class MixedLoglik(GradientOp):
    """
    Log-likelihood from cross-products, with its gradient as further outputs: both come from one factorisation.

    Inputs: phi, σ²_e, the statistics of the response y₂ + Q₁d (within, between, rss), and y₂ and d themselves, which
    are looked at where inner products lose digits. There is no second derivative.
    """

    __props__ = ("products",)
    products: MixedProducts
    likelihood = _STRUCTURED
    differentiable = 7

    def evaluate(self, *inputs: Any) -> Any:
        """Return the log-likelihood and its gradient."""
        phi, *rest = inputs
        return mixed_loglik_and_gradient(self.products, np.ascontiguousarray(phi), *rest)  # compiled for one layout


class ResponseStatistics(CalledBack):
    """The statistics of a response, and y₂ itself; PyTensor folds those of observed data when it compiles."""

    __props__ = ("products",)
    products: MixedProducts

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return those of the statistics."""
        p = self.products
        return [(p.W.shape[1],), p.C.shape[:2], (), p.Q_within.shape[1:], (p.rows,)]

    def evaluate(self, *inputs: Any) -> Any:
        """Return the statistics of a response (n,)."""
        response = self.products.response(np.asarray(inputs[0], dtype=float))
        return (*response, response.rows)

    def gradients(self, apply: Callable[..., Any], inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient with respect to the response."""
        return [apply(ResponsePullback(self.products))(inputs[0], *cotangents)]


class ResponsePullback(CalledBack):
    """The transpose of `ResponseStatistics`: inputs are the response and the gradients of its statistics."""

    __props__ = ("products",)
    products: MixedProducts

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return that of the response."""
        return [inputs[0]]

    def evaluate(self, *inputs: Any) -> Any:
        """Return the gradient with respect to the response."""
        y, within, between, rss, y1, rows = inputs
        return [self.products.response_pullback(y, within, between, float(rss), y1, rows)]

    def gradients(self, apply: Callable[..., Any], inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Raise: this is part of a gradient."""
        raise _no_hessian(_STRUCTURED)


class RandomEffects(CalledBack):
    """
    Σ_k Z_k(I ⊗ R_k)ξ_k, R_kR_kᵀ = Σ_k, from white noise ξ (…, q): draws of what the terms contribute.

    Inputs: the packed Σ_k, in the order of the engine, and ξ.
    """

    __props__ = ("products",)
    products: MixedProducts

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return that of the rows, for each draw."""
        _, noise = inputs
        return [(*noise[:-1], self.products.rows)]

    def evaluate(self, *inputs: Any) -> Any:
        """Return the draws."""
        phi, xi = inputs
        out = np.zeros((*xi.shape[:-1], self.products.rows))
        start = place = 0
        for k in self.products.order:
            Z, levels, c, _ = self.products.blocks[k]
            root = semidefinite_root(phi[start : start + c * c].reshape(c, c))
            noise = xi[..., place : place + levels * c].reshape(*xi.shape[:-1], levels, c)
            u = np.einsum("ij,...lj->...li", root, noise).reshape(-1, levels * c)
            out += (Z @ u.T).T.reshape(out.shape)
            start, place = start + c * c, place + levels * c
        return [out]


class DenseLoglik(GradientOp):
    """Log-likelihood of V, y and an orthonormal basis of X, with its gradient as further outputs."""

    likelihood = "the dense likelihood"
    differentiable = 2
    evaluate = staticmethod(dense_loglik_and_gradient)


class FamilyLoglik(GradientOp):
    """
    Log-likelihood at one lengthscale of a family of spectra, with its gradient in (log ℓ, σ²_g, σ²_e).

    Inputs: log ℓ, σ²_g, σ²_e, and the constants of a `FamilySpectra`. -½log|XᵀX| is left out. There is no second
    derivative.
    """

    likelihood = "the likelihood of a family of spectra"
    differentiable = 3
    evaluate = staticmethod(family_loglik_and_gradient)


class FamilyStatistics(CalledBack):
    """The statistics of a response at the nodes of a family; PyTensor folds those of observed data when it compiles."""

    __props__ = ("family",)
    family: SpectrumFamily

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to a response (n,)."""
        shapes: list[Shape] = [(None, None), (None, None), (None,), (3,)]
        return Apply(self, [*map(pt.as_tensor, inputs)], [pt.tensor(dtype="float64", shape=s) for s in shapes])

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Raise: how many nodes of the lengthscale are needed depends on y."""
        raise NotImplementedError(
            "JAX takes no pm.Data as the y of a FamilyLMM, whose arrays have other sizes for other y: sample with "
            "flmm.sample, or freeze the data, pymc.model.transform.optimization.freeze_dims_and_data(model)."
        )

    def evaluate(self, *inputs: Any) -> Any:
        """Return the statistics."""
        return [np.array(value) for value in self.family.rotate(np.asarray(inputs[0], dtype=float)).constants]


class FamilyContrasts(CalledBack):
    """
    Error contrasts of N(0, σ²_gK(ℓ) + σ²_eI) from white noise ξ (…, n); K is factored for each lengthscale.

    Inputs: ℓ, σ²_g, σ²_e and ξ.
    """

    __props__ = ("family",)
    family: SpectrumFamily

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
            out[place] = self.family.draw_contrasts(lengthscale, g, e, xi[place])
        return [out]


class FourierLoglik(GradientOp):
    """
    Log-likelihood from products of Fourier features, with its gradient as further outputs: one factorisation for both.

    Inputs: log σ²d (M,), σ²_e, the data [b̃, c̃] (M + 1,), and the constants G̃ and p. -½log|XᵀX| is left out. There is
    no second derivative.
    """

    likelihood = "the likelihood of Fourier features"
    differentiable = 3

    def evaluate(self, *inputs: Any) -> Any:
        """Return the log-likelihood and its gradient."""
        log_prior, e, data, gram, df = inputs
        return fourier_loglik_and_gradient(log_prior, float(e), data, gram, int(df))
