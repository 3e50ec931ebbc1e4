"""Conversion of operations for JAX: called back, with their closed-form gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pytensor.link.jax.dispatch.basic import jax_funcify

from pm_fastlmm.engines.callbacks import CalledBack


@jax_funcify.register(CalledBack)  # type: ignore[untyped-decorator]
def _called_back(op: CalledBack, **kwargs: Any) -> Any:
    """Return a function of JAX arrays that calls `evaluate`, with the gradients of the operation."""

    def on_host(*values: Any) -> tuple[Any, ...]:
        return tuple(np.asarray(out, dtype=float) for out in op.evaluate(*map(np.array, values)))

    @jax.custom_vjp
    def call(*inputs: Any) -> Any:
        out = [jax.ShapeDtypeStruct(s, np.float64) for s in op.shapes(*(x.shape for x in inputs))]  # type: ignore[no-untyped-call]
        return jax.pure_callback(on_host, tuple(out), *inputs, vmap_method="sequential")

    def forward(*inputs: Any) -> Any:
        outputs = call(*inputs)
        return outputs, (inputs, outputs)

    def backward(saved: Any, cotangents: Any) -> Any:
        inputs, outputs = saved
        gradients = op.gradients(_called_back, inputs, outputs, cotangents)
        return (*gradients, *map(_no_gradient, inputs[len(gradients) :]))

    call.defvjp(forward, backward)

    def apply(*inputs: Any) -> Any:
        values = call(*map(jnp.asarray, inputs))  # PyTensor hands scalar constants over as numbers
        return values if len(values) > 1 else values[0]

    return apply


def _no_gradient(constant: Any) -> Any:
    if jnp.issubdtype(constant.dtype, jnp.floating):
        return jnp.zeros_like(constant)
    return np.zeros(constant.shape, dtype=jax.dtypes.float0)
