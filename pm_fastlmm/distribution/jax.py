"""The likelihoods that are operations of their own, for JAX: called back, with their closed-form gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pytensor.link.jax.dispatch.basic import jax_funcify

from pm_fastlmm.distribution.operations import DenseLoglik, FamilyLoglik, FourierLoglik, MixedLoglik
from pm_fastlmm.likelihood.dense import dense_loglik_and_gradient
from pm_fastlmm.likelihood.family import family_loglik_and_gradient
from pm_fastlmm.likelihood.fourier import fourier_loglik_and_gradient
from pm_fastlmm.likelihood.mixed import mixed_loglik_and_gradient


def _called_back(evaluate: Callable[..., tuple[Any, ...]], differentiable: int) -> Callable[..., Any]:
    """Return a function of JAX arrays whose first output has the other outputs as its gradient."""

    def call(*inputs: Any) -> Any:
        sizes = [(), *(x.shape for x in inputs[:differentiable])]
        shapes = [jax.ShapeDtypeStruct(size, jnp.float64) for size in sizes]  # type: ignore[no-untyped-call]

        def on_host(*values: Any) -> tuple[Any, ...]:
            arrays = [np.array(value) for value in values]
            return tuple(np.asarray(out, dtype=np.float64) for out in evaluate(*arrays))

        return tuple(jax.pure_callback(on_host, tuple(shapes), *inputs, vmap_method="sequential"))

    function = jax.custom_vjp(call)

    def forward(*inputs: Any) -> Any:
        outputs = call(*inputs)
        return outputs, (outputs, inputs[differentiable:])

    def backward(saved: Any, cotangents: Any) -> Any:
        outputs, constants = saved
        gradients = tuple(cotangents[0] * out for out in outputs[1:])
        return (*gradients, *(_no_gradient(constant) for constant in constants))

    function.defvjp(forward, backward)
    return lambda *inputs: function(*map(jnp.asarray, inputs))  # PyTensor hands scalar constants over as numbers


def _no_gradient(constant: Any) -> Any:
    if jnp.issubdtype(constant.dtype, jnp.floating):
        return jnp.zeros_like(constant)
    return np.zeros(constant.shape, dtype=jax.dtypes.float0)


def _family(*inputs: Any) -> tuple[Any, ...]:
    return tuple(family_loglik_and_gradient(*inputs))


def _fourier(log_prior: Any, e: Any, data: Any, gram: Any, df: Any) -> tuple[Any, ...]:
    return fourier_loglik_and_gradient(log_prior, float(e), data, gram, int(df))


@jax_funcify.register(MixedLoglik)  # type: ignore[untyped-decorator]
def _mixed_loglik(op: MixedLoglik, **kwargs: Any) -> Any:
    return _called_back(partial(mixed_loglik_and_gradient, op.products), 7)


@jax_funcify.register(DenseLoglik)  # type: ignore[untyped-decorator]
def _dense_loglik(op: DenseLoglik, **kwargs: Any) -> Any:
    return _called_back(dense_loglik_and_gradient, 2)


@jax_funcify.register(FamilyLoglik)  # type: ignore[untyped-decorator]
def _family_loglik(op: FamilyLoglik, **kwargs: Any) -> Any:
    return _called_back(_family, 3)


@jax_funcify.register(FourierLoglik)  # type: ignore[untyped-decorator]
def _fourier_loglik(op: FourierLoglik, **kwargs: Any) -> Any:
    return _called_back(_fourier, 3)
