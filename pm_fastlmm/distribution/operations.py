"""
PyTensor operations of the structured and the dense likelihood, with closed-form gradients.

They call back into Python from compiled graphs: that costs some 20 µs for each evaluation, but the compiled loop of the
likelihood is shared by all models. Linked into each graph it would save those, and take 10 s and more to compile anew
for each model.
"""

import warnings
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
    """An operation whose `perform` compiled graphs call, of Numba and, once it is asked for, of JAX."""

    def shapes(self, *inputs: Any) -> list[tuple[int, ...]]:
        """Return the shapes of the outputs, from inputs that have theirs."""
        raise NotImplementedError


@numba_funcify_and_cache_key.register(CalledBack)  # type: ignore[untyped-decorator]
def _call_back(op: CalledBack, node: Any = None, **kwargs: Any) -> tuple[Any, None]:
    with warnings.catch_warnings():  # of the callback, which is intended here
        warnings.filterwarnings("ignore", "Numba will use object mode")
        return generate_fallback_impl(op, node=node, **kwargs), None


class LoglikOp(CalledBack):
    """
    A log-likelihood with its gradient as further outputs, in as many of the first inputs: the others are constants.

    There is no second derivative.
    """

    __props__ = ()
    likelihood: ClassVar[str]
    differentiable: ClassVar[int]

    def shapes(self, *inputs: Any) -> list[tuple[int, ...]]:
        """Return those of the log-likelihood and of the inputs that it is differentiated in."""
        return [(), *(x.shape for x in inputs[: self.differentiable])]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient, which the outputs hold already."""
        g, *others = cotangents
        if any(map(_connected, others)):
            raise _no_hessian(self.likelihood)
        return [g * d for d in outputs[1:]] + [disconnected_type() for _ in inputs[self.differentiable :]]

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        """Return that the constants do not reach the outputs."""
        return [[i < self.differentiable] * len(node.outputs) for i in range(len(node.inputs))]


class MixedLoglik(LoglikOp):
    """
    Log-likelihood from cross-products, with its gradient as further outputs: both come from one factorisation.

    Inputs: phi, σ²_e, the statistics of the response y₂ + Q₁d (within, between, rss), and y₂ and d themselves, which
    are looked at where inner products lose digits. There is no second derivative.
    """

    __props__ = ("products",)  # type: ignore[assignment]
    likelihood = _STRUCTURED
    differentiable = 7

    def __init__(self, products: MixedProducts) -> None:
        self.products = products

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to inputs."""
        variables = list(map(pt.as_tensor, inputs))
        outputs = [pt.tensor(dtype="float64", shape=variable.type.shape) for variable in variables]
        return Apply(self, variables, [pt.dscalar(), *outputs])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        phi, *rest = inputs
        phi = np.ascontiguousarray(phi)  # the compiled loop is for one layout
        for out, value in zip(outputs, mixed_loglik_and_gradient(self.products, phi, *rest), strict=True):
            out[0] = np.asarray(value, dtype=float)


class ResponseStatistics(CalledBack):
    """The statistics of a response, and y₂ itself; PyTensor folds those of observed data when it compiles."""

    __props__ = ("products",)

    def __init__(self, products: MixedProducts) -> None:
        self.products = products

    def make_node(self, y: Any) -> Apply:
        """Apply to a response (n,)."""
        y = pt.as_tensor(y)
        return Apply(self, [y], [pt.tensor(dtype="float64", shape=shape) for shape in self.shapes(y)])

    def shapes(self, *inputs: Any) -> list[tuple[int, ...]]:
        """Return those of the statistics."""
        p = self.products
        return [(p.W.shape[1],), p.C.shape[:2], (), p.Q_within.shape[1:], (p.rows,)]

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        response = self.products.response(np.asarray(inputs[0], dtype=float))
        for out, value in zip(outputs, (*response, response.rows), strict=True):
            out[0] = np.asarray(value, dtype=float)

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient with respect to the response."""
        return [ResponsePullback(self.products)(inputs[0], *given_or_zero(outputs, cotangents))]


class ResponsePullback(CalledBack):
    """The transpose of `ResponseStatistics`."""

    __props__ = ("products",)

    def __init__(self, products: MixedProducts) -> None:
        self.products = products

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to the response and the gradients of its statistics."""
        variables = list(map(pt.as_tensor, inputs))
        return Apply(self, variables, [variables[0].type()])

    def shapes(self, *inputs: Any) -> list[tuple[int, ...]]:
        """Return that of the response."""
        return [inputs[0].shape]

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        y, within, between, rss, y1, rows = inputs
        outputs[0][0] = self.products.response_pullback(y, within, between, float(rss), y1, rows)

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Raise: this is part of a gradient."""
        raise _no_hessian(_STRUCTURED)


class RandomEffects(CalledBack):
    """Σ_k Z_k(I ⊗ R_k)ξ_k, R_kR_kᵀ = Σ_k, from white noise ξ (…, q): draws of what the terms contribute."""

    __props__ = ("products",)

    def __init__(self, products: MixedProducts) -> None:
        self.products = products

    def make_node(self, phi: Any, xi: Any) -> Apply:
        """Apply to the packed Σ_k, in the order of the engine, and to noise."""
        phi, xi = pt.as_tensor(phi), pt.as_tensor(xi)
        batch = max(phi.type.ndim, xi.type.ndim) - 1
        return Apply(self, [phi, xi], [pt.tensor(dtype="float64", shape=(None,) * batch + (self.products.rows,))])

    def shapes(self, *inputs: Any) -> list[tuple[int, ...]]:
        """Return that of the rows, for each draw."""
        phi, xi = inputs
        return [(*np.broadcast_shapes(phi.shape[:-1], xi.shape[:-1]), self.products.rows)]

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        phi, xi = inputs
        shape = np.broadcast_shapes(phi.shape[:-1], xi.shape[:-1])
        out = np.zeros((*shape, self.products.rows))
        start = place = 0
        for k in self.products.order:
            Z, levels, c, _ = self.products.blocks[k]
            sigma = phi[..., start : start + c * c].reshape(*phi.shape[:-1], c, c)
            noise = xi[..., place : place + levels * c].reshape(*xi.shape[:-1], levels, c)
            u = np.einsum("...ij,...lj->...li", semidefinite_root(sigma), noise)
            u = u.reshape(-1, levels * c)
            out += (Z @ u.T).T.reshape(*np.broadcast_shapes(phi.shape[:-1], xi.shape[:-1]), -1)
            start, place = start + c * c, place + levels * c
        outputs[0][0] = out


class DenseLoglik(LoglikOp):
    """Log-likelihood of V, y and an orthonormal basis of X, with its gradient as further outputs."""

    likelihood = "the dense likelihood"
    differentiable = 2

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to V, y and Q₁."""
        V, y, Q1 = map(pt.as_tensor, inputs)
        return Apply(self, [V, y, Q1], [pt.dscalar(), V.type(), y.type()])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        for out, value in zip(outputs, dense_loglik_and_gradient(*inputs), strict=True):
            out[0] = np.asarray(value)


class FamilyLoglik(LoglikOp):
    """
    Log-likelihood at one lengthscale of a family of spectra, with its gradient in (log ℓ, σ²_g, σ²_e).

    Inputs: log ℓ, σ²_g, σ²_e, and the constants of a `FamilySpectra`. -½log|XᵀX| is left out. There is no second
    derivative.
    """

    likelihood = "the likelihood of a family of spectra"
    differentiable = 3

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to inputs."""
        return Apply(self, list(map(pt.as_tensor, inputs)), [pt.dscalar() for _ in range(4)])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        for out, value in zip(outputs, family_loglik_and_gradient(*inputs), strict=True):
            out[0] = np.asarray(value)


class FamilyStatistics(CalledBack):
    """The statistics of a response at the nodes of a family; PyTensor folds those of observed data when it compiles."""

    __props__ = ("family",)

    def __init__(self, family: SpectrumFamily) -> None:
        self.family = family

    def make_node(self, y: Any) -> Apply:
        """Apply to a response (n,)."""
        types = [pt.tensor(dtype="float64", shape=shape) for shape in ((None, None), (None, None), (None,), (3,))]
        return Apply(self, [pt.as_tensor(y)], types)

    def shapes(self, *inputs: Any) -> list[tuple[int, ...]]:
        """Raise: how many nodes of the lengthscale are needed depends on y."""
        raise NotImplementedError(
            "JAX takes no pm.Data as the y of a FamilyLMM, whose arrays have other sizes for other y: sample with "
            "flmm.sample, or freeze the data, pymc.model.transform.optimization.freeze_dims_and_data(model)."
        )

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        for out, value in zip(outputs, self.family.rotate(np.asarray(inputs[0], dtype=float)).constants, strict=True):
            out[0] = np.array(value)


class FamilyContrasts(CalledBack):
    """Error contrasts of N(0, σ²_gK(ℓ) + σ²_eI) from white noise ξ (…, n); K is factored for each lengthscale."""

    __props__ = ("family",)

    def __init__(self, family: SpectrumFamily) -> None:
        self.family = family

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to ℓ, σ²_g, σ²_e and noise."""
        variables = list(map(pt.as_tensor, inputs))
        return Apply(self, variables, [variables[-1].type()])

    def shapes(self, *inputs: Any) -> list[tuple[int, ...]]:
        """Return that of the noise."""
        return [inputs[-1].shape]

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        *parameters, xi = inputs
        parameters = [np.broadcast_to(v, xi.shape[:-1]) for v in parameters]
        out = np.empty(xi.shape)
        for place in np.ndindex(*xi.shape[:-1]):
            lengthscale, g, e = (float(v[place]) for v in parameters)
            out[place] = self.family.draw_contrasts(lengthscale, g, e, xi[place])
        outputs[0][0] = out


class FourierLoglik(LoglikOp):
    """
    Log-likelihood from products of Fourier features, with its gradient as further outputs: one factorisation for both.

    Inputs: log σ²d (M,), σ²_e, the data [b̃, c̃] (M + 1,), and the constants G̃ and p. -½log|XᵀX| is left out. There is
    no second derivative.
    """

    likelihood = "the likelihood of Fourier features"
    differentiable = 3

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to inputs."""
        log_prior, e, data, gram, df = map(pt.as_tensor, inputs)
        outputs = [pt.dscalar(), log_prior.type(), pt.dscalar(), data.type()]
        return Apply(self, [log_prior, e, data, gram, df], outputs)

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        log_prior, e, data, gram, df = inputs
        values = fourier_loglik_and_gradient(log_prior, float(e), data, gram, int(df))
        for out, value in zip(outputs, values, strict=True):
            out[0] = np.asarray(value)
