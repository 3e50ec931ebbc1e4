"""
PyTensor operations of the structured and the dense likelihood, with closed-form gradients.

They call back into Python from compiled graphs: that costs some 20 µs for each evaluation, but the compiled loop of the
likelihood is shared by all models. Linked into each graph it would save those, and take 10 s and more to compile anew
for each model.
"""

import warnings
from typing import Any

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
from pm_fastlmm.spectrum_family import SpectrumFamily


def called_back(op: type[Op]) -> type[Op]:
    """Have Numba call an operation's `perform`, without a warning: here that is intended."""

    @numba_funcify_and_cache_key.register(op)  # type: ignore[untyped-decorator]
    def _(op: Op, node: Any = None, **kwargs: Any) -> tuple[Any, None]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Numba will use object mode")
            return generate_fallback_impl(op, node=node, **kwargs), None

    return op


@called_back
class MixedLoglik(Op):  # type: ignore[misc]
    """
    Log-likelihood from cross-products, with its gradient as further outputs: both come from one factorisation.

    Inputs: phi, σ²_e, the statistics of the response y₂ + Q₁d (within, between, rss), and y₂ and d themselves, which
    are looked at where inner products lose digits. There is no second derivative.
    """

    __props__ = ("products",)

    def __init__(self, products: MixedProducts) -> None:
        self.products = products

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to inputs."""
        variables = list(map(pt.as_tensor, inputs))
        return Apply(self, variables, [pt.dscalar(), *(variable.type() for variable in variables)])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        for out, value in zip(outputs, mixed_loglik_and_gradient(self.products, *inputs), strict=True):
            out[0] = np.asarray(value)

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient, which the outputs hold already."""
        g, *others = cotangents
        if any(not isinstance(other.type, type(disconnected_type)) for other in others):
            raise NotImplementedError("the structured likelihood has first derivatives only.")
        return [g * d for d in outputs[1:]]


@called_back
class ResponseStatistics(Op):  # type: ignore[misc]
    """The statistics of a response, and y₂ itself; PyTensor folds those of observed data when it compiles."""

    __props__ = ("products",)

    def __init__(self, products: MixedProducts) -> None:
        self.products = products

    def make_node(self, y: Any) -> Apply:
        """Apply to a response (n,)."""
        p = self.products
        shapes = ((p.W.shape[1],), p.C.shape[:2], (), p.Q_within.shape[1:], (p.rows,))
        types = [pt.tensor(dtype="float64", shape=shape) for shape in shapes]
        return Apply(self, [pt.as_tensor(y)], types)

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        response = self.products.response(np.asarray(inputs[0], dtype=float))
        for out, value in zip(outputs, (*response, response.rows), strict=True):
            out[0] = np.asarray(value, dtype=float)

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient with respect to the response."""
        given = [
            pt.zeros_like(out) if isinstance(g.type, type(disconnected_type)) else g
            for out, g in zip(outputs, cotangents, strict=True)
        ]
        return [ResponsePullback(self.products)(inputs[0], *given)]


@called_back
class ResponsePullback(Op):  # type: ignore[misc]
    """The transpose of `ResponseStatistics`."""

    __props__ = ("products",)

    def __init__(self, products: MixedProducts) -> None:
        self.products = products

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to the response and the gradients of its statistics."""
        variables = list(map(pt.as_tensor, inputs))
        return Apply(self, variables, [variables[0].type()])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        y, within, between, rss, y1, rows = inputs
        outputs[0][0] = self.products.response_pullback(y, within, between, float(rss), y1, rows)


@called_back
class RandomEffects(Op):  # type: ignore[misc]
    """Σ_k Z_k(I ⊗ R_k)ξ_k, R_kR_kᵀ = Σ_k, from white noise ξ (…, q): draws of what the terms contribute."""

    __props__ = ("products",)

    def __init__(self, products: MixedProducts) -> None:
        self.products = products

    def make_node(self, phi: Any, xi: Any) -> Apply:
        """Apply to the packed Σ_k, in the order of the engine, and to noise."""
        phi, xi = pt.as_tensor(phi), pt.as_tensor(xi)
        batch = max(phi.type.ndim, xi.type.ndim) - 1
        return Apply(self, [phi, xi], [pt.tensor(dtype="float64", shape=(None,) * batch + (self.products.rows,))])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        phi, xi = inputs
        shape = np.broadcast_shapes(phi.shape[:-1], xi.shape[:-1])
        out = np.zeros((*shape, self.products.rows))
        start = place = 0
        for k in self.products.order:
            Z, levels, c, _ = self.products.blocks[k]
            sigma = phi[..., start : start + c * c].reshape(*phi.shape[:-1], c, c)
            values, vectors = np.linalg.eigh(sigma)
            root = vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]
            noise = xi[..., place : place + levels * c].reshape(*xi.shape[:-1], levels, c)
            u = np.einsum("...ij,...lj->...li", root, noise)
            u = u.reshape(-1, levels * c)
            out += (Z @ u.T).T.reshape(*np.broadcast_shapes(phi.shape[:-1], xi.shape[:-1]), -1)
            start, place = start + c * c, place + levels * c
        outputs[0][0] = out


@called_back
class DenseLoglik(Op):  # type: ignore[misc]
    """Log-likelihood of V, y and an orthonormal basis of X, with its gradient as further outputs."""

    __props__ = ()

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to V, y and Q₁."""
        V, y, Q1 = map(pt.as_tensor, inputs)
        return Apply(self, [V, y, Q1], [pt.dscalar(), V.type(), y.type()])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        for out, value in zip(outputs, dense_loglik_and_gradient(*inputs), strict=True):
            out[0] = np.asarray(value)

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient, which the outputs hold already."""
        g, *others = cotangents
        if any(not isinstance(other.type, type(disconnected_type)) for other in others):
            raise NotImplementedError("the dense likelihood has first derivatives only.")
        return [g * outputs[1], g * outputs[2], disconnected_type()]

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        """V and y reach the log-likelihood, the basis of X is constant."""
        return [[True] * 3, [True] * 3, [False] * 3]


@called_back
class FamilyLoglik(Op):  # type: ignore[misc]
    """
    Log-likelihood at one lengthscale of a family of spectra, with its gradient in (log ℓ, σ²_g, σ²_e).

    Inputs: log ℓ, σ²_g, σ²_e, and the constants of a `FamilySpectra`. -½log|XᵀX| is left out. There is no second
    derivative.
    """

    __props__ = ()

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to inputs."""
        return Apply(self, list(map(pt.as_tensor, inputs)), [pt.dscalar() for _ in range(4)])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        for out, value in zip(outputs, family_loglik_and_gradient(*inputs), strict=True):
            out[0] = np.asarray(value)

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient, which the outputs hold already."""
        g, *others = cotangents
        if any(not isinstance(other.type, type(disconnected_type)) for other in others):
            raise NotImplementedError("the likelihood of a family of spectra has first derivatives only.")
        return [g * d for d in outputs[1:]] + [disconnected_type() for _ in inputs[3:]]

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        """Parameters reach the log-likelihood, the constants do not."""
        return [[i < 3] * 4 for i in range(len(node.inputs))]


@called_back
class FamilyStatistics(Op):  # type: ignore[misc]
    """The statistics of a response at the nodes of a family; PyTensor folds those of observed data when it compiles."""

    __props__ = ("family",)

    def __init__(self, family: SpectrumFamily) -> None:
        self.family = family

    def make_node(self, y: Any) -> Apply:
        """Apply to a response (n,)."""
        types = [pt.tensor(dtype="float64", shape=shape) for shape in ((None, None), (None, None), (None,), (3,))]
        return Apply(self, [pt.as_tensor(y)], types)

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        for out, value in zip(outputs, self.family.rotate(np.asarray(inputs[0], dtype=float)).constants, strict=True):
            out[0] = np.array(value)


@called_back
class FamilyContrasts(Op):  # type: ignore[misc]
    """Error contrasts of N(0, σ²_gK(ℓ) + σ²_eI) from white noise ξ (…, n); K is factored for each lengthscale."""

    __props__ = ("family",)

    def __init__(self, family: SpectrumFamily) -> None:
        self.family = family

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to ℓ, σ²_g, σ²_e and noise."""
        variables = list(map(pt.as_tensor, inputs))
        return Apply(self, variables, [variables[-1].type()])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        *parameters, xi = inputs
        parameters = [np.broadcast_to(v, xi.shape[:-1]) for v in parameters]
        out = np.empty(xi.shape)
        for place in np.ndindex(*xi.shape[:-1]):
            lengthscale, g, e = (float(v[place]) for v in parameters)
            out[place] = self.family.draw_contrasts(lengthscale, g, e, xi[place])
        outputs[0][0] = out


@called_back
class FourierLoglik(Op):  # type: ignore[misc]
    """
    Log-likelihood from products of Fourier features, with its gradient as further outputs: one factorisation for both.

    Inputs: log σ²d (M,), σ²_e, the data [b̃, c̃] (M + 1,), and the constants G̃ and p. -½log|XᵀX| is left out. There is
    no second derivative.
    """

    __props__ = ()

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

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient, which the outputs hold already."""
        g, *others = cotangents
        if any(not isinstance(other.type, type(disconnected_type)) for other in others):
            raise NotImplementedError("the likelihood of Fourier features has first derivatives only.")
        return [g * d for d in outputs[1:]] + [disconnected_type() for _ in inputs[3:]]

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        """Parameters and data reach the log-likelihood, the constants do not."""
        return [[i < 3] * 4 for i in range(len(node.inputs))]
