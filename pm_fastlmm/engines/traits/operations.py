"""What PyTensor does for several traits of one kernel."""

from typing import Any

from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.tensor.rewriting.basic import register_specialize

from pm_fastlmm.engines.callbacks import GradientOp
from pm_fastlmm.kernel.likelihood.traits import one_type


class TraitsLoglik(GradientOp):
    """
    Log-likelihood of several traits, with its gradient as further outputs.

    Inputs: Σ_g, Σ_e, z (p, t) and the products outside the eigenvectors (t, t), and the constants λ and ν; see
    `kernel/likelihood/traits.py`. There is no second derivative. PyTensor leaves the gradient in z and outside out
    where nothing asks for it.
    """

    likelihood = "the likelihood of several traits"
    differentiable = 4

    def linked(self) -> Any:
        """Return the compiled loops."""
        from pm_fastlmm.kernel.likelihood.traits_loops import in_all

        return in_all

    def evaluate(self, *inputs: Any) -> Any:
        """Return the log-likelihood and its gradient."""
        return self.linked()(*one_type(*inputs))


class _OfVariances(TraitsLoglik):
    """The same with the gradient in Σ_g and Σ_e alone."""

    differentiable = 2

    def linked(self) -> Any:
        """Return the compiled loops."""
        from pm_fastlmm.kernel.likelihood.traits_loops import in_variances

        return in_variances


@register_specialize  # type: ignore[untyped-decorator]
@node_rewriter([TraitsLoglik])  # type: ignore[untyped-decorator]
def _without_response(fgraph: Any, node: Any) -> Any:
    """Leave out the gradient in what comes from data, a third of the work."""
    if isinstance(node.op, _OfVariances) or any(fgraph.clients[out] for out in node.outputs[3:]):
        return False
    return dict(zip(node.outputs, _OfVariances()(*node.inputs), strict=False))
