"""Conversions of operations for JAX: called back, the likelihoods with their closed-form gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pytensor.link.jax.dispatch.basic import jax_funcify

from pm_fastlmm.distribution.operations import CalledBack, LoglikOp, ResponsePullback, ResponseStatistics


@jax_funcify.register(CalledBack)  # type: ignore[untyped-decorator]
def _called_back(op: CalledBack, node: Any, **kwargs: Any) -> Any:
    """Return a function of JAX arrays that calls `perform`."""
    dtypes = [out.type.dtype for out in node.outputs]

    def on_host(*values: Any) -> tuple[Any, ...]:
        storage: list[list[Any]] = [[None] for _ in dtypes]
        op.perform(node, [np.array(value) for value in values], storage)
        return tuple(np.asarray(out, dtype=dtype) for (out,), dtype in zip(storage, dtypes, strict=True))

    def call(*inputs: Any) -> Any:
        inputs = tuple(map(jnp.asarray, inputs))  # PyTensor hands scalar constants over as numbers
        out = [jax.ShapeDtypeStruct(s, d) for s, d in zip(op.shapes(*inputs), dtypes, strict=True)]  # type: ignore[no-untyped-call]
        values = jax.pure_callback(on_host, tuple(out), *inputs, vmap_method="sequential")
        return values if len(values) > 1 else values[0]

    return call


@jax_funcify.register(LoglikOp)  # type: ignore[untyped-decorator]
def _loglik(op: LoglikOp, node: Any, **kwargs: Any) -> Any:
    """Return a function whose first output has the other outputs as its gradient."""
    call = _called_back(op, node)
    function = jax.custom_vjp(call)

    def forward(*inputs: Any) -> Any:
        outputs = call(*inputs)
        return outputs, (outputs, inputs[op.differentiable :])

    def backward(saved: Any, cotangents: Any) -> Any:
        outputs, constants = saved
        gradients = tuple(cotangents[0] * out for out in outputs[1:])
        return (*gradients, *map(_no_gradient, constants))

    function.defvjp(forward, backward)
    return lambda *inputs: function(*map(jnp.asarray, inputs))


@jax_funcify.register(ResponseStatistics)  # type: ignore[untyped-decorator]
def _response_statistics(op: ResponseStatistics, node: Any, **kwargs: Any) -> Any:
    """Return a function with the transpose of what is linear in y, and quadratic for one output."""
    call = _called_back(op, node)
    pullback = ResponsePullback(op.products)
    transpose = _called_back(pullback, pullback(node.inputs[0], *node.outputs).owner)
    function = jax.custom_vjp(call)
    function.defvjp(lambda y: (call(y), y), lambda y, cotangents: (transpose(y, *cotangents),))
    return lambda y: function(jnp.asarray(y))


def _no_gradient(constant: Any) -> Any:
    if jnp.issubdtype(constant.dtype, jnp.floating):
        return jnp.zeros_like(constant)
    return np.zeros(constant.shape, dtype=jax.dtypes.float0)
