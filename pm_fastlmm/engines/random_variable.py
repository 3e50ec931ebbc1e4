"""
What an engine's random variable owes, and what its operations owe.

The random variable is a subclass of `LMMRV`, which builds, rebuilds and registers it with PyMC. It gives

* `name`, that of the public distribution, and `extended_signature`, the core dimensions of its parameters as PyMC
  writes them;
* what it carries besides its parameters, as annotated attributes. The public distribution hands them over by name, they
  are the same in every rebuilding, and nodes read them there. `treatment` of β and `projection` of X are among them;
* `draw`, the graph of a draw from the parameters and what is carried;
* `logp`, the log-density of a value, -½log|XᵀX| included where β has a flat prior;
* `center`, where an unobserved variable starts, and `of_statistic` if its value is no y but a statistic of it.

What has no graph in PyTensor is an operation that is called back (`operations.py`). A likelihood is a `GradientOp`: it
gives `evaluate`, which returns the log-likelihood and its gradient, and how many of its inputs it is differentiated in.
Any other is a `CalledBack`: it gives `evaluate`, `shapes` and, if it has a derivative, `gradients`. Numba and JAX need
nothing more.
"""

from functools import cached_property
from typing import Any, ClassVar, Literal

import pymc as pm
import pytensor.tensor as pt
from pymc.distributions.distribution import Continuous, SymbolicRandomVariable, _support_point
from pymc.distributions.shape_utils import implicit_size_from_params, maybe_resize, rv_size_is_none
from pymc.logprob.abstract import _logprob
from pymc.pytensorf import normalize_rng_param
from pytensor.compile.builders import construct_nominal_fgraph
from pytensor.graph.basic import Apply
from pytensor.tensor.random.utils import normalize_size_param

from pm_fastlmm.base.coordinates import require_labels
from pm_fastlmm.engines.contrasts import draws_contrasts
from pm_fastlmm.spectrum.projection import Projection

type Treatment = Literal["flat", "proper"]


class LMMRV(SymbolicRandomVariable):  # type: ignore[misc]
    """
    The random variable behind a node, with its draws as a graph.

    Equality of ops does not look at what they carry.
    """

    _ndim_supp = 1
    name: str
    of_statistic: ClassVar[bool] = False
    drawn: ClassVar[str] = "error contrasts, Xᵀ(y - mu) = 0, and no predictions of y"  # where β has a flat prior
    no_distribution: ClassVar[str] = "y has no distribution along X"
    treatment: Treatment
    projection: Projection
    carried: dict[str, Any]

    @property
    def _print_name(self) -> tuple[str, str]:
        return self.name, rf"\operatorname{{{self.name}}}"

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Return the next generator and a draw, for each of a batch."""
        raise NotImplementedError

    def logp(self, value: Any, *params: Any) -> Any:
        """Return the log-density."""
        raise NotImplementedError

    def center(self, *params: Any) -> Any:
        """Return where an unobserved variable starts: at 0, or at 1 for a statistic, which has squares."""
        return float(self.of_statistic)

    @classmethod
    def rv_op(cls, *params: Any, carried: dict[str, Any], size: Any = None, rng: Any = None) -> Any:
        """
        Build the variable.

        The graph of a draw of one y, whose shape is that of mu, is built when something asks for it (`fgraph`): that
        takes longer than the rest of a small model, and neither a fit nor a sampler asks.
        """
        params = tuple(map(pt.as_tensor, params))
        inputs = [normalize_rng_param(rng), normalize_size_param(size), *params]
        of_y = cls.signature.startswith(("(n),", "(t,n),"))
        shape = params[0].type.shape if of_y else (None,) * cls._ndim_supp
        single = rv_size_is_none(inputs[1]) or inputs[1].type.shape == (0,)
        if single and None not in shape and [p.type.ndim for p in params] == list(cls.ndims_params):
            op = cls(inputs, [inputs[0], pt.tensor(dtype="float64", shape=shape)], fgraph=())
            del op.fgraph  # in favour of the cached property
        else:
            op = cls(inputs, cls._drawn(inputs, carried))
        op.carried = carried
        for name, value in carried.items():
            setattr(op, name, value)
        return Apply(op, inputs, [kind() for kind in op.output_types]).outputs[1]

    @classmethod
    def _drawn(cls, inputs: list[Any], carried: dict[str, Any]) -> list[Any]:
        rng, size, *params = inputs
        batch = implicit_size_from_params(*params, ndims_params=cls.ndims_params) if rv_size_is_none(size) else size
        return list(cls.draw(rng, batch, *params, **carried))

    @cached_property
    def fgraph(self) -> Any:
        """The graph of a draw, as PyTensor holds that of its operations."""
        inputs = [kind() for kind in self.input_types]
        return construct_nominal_fgraph(inputs, self._drawn(inputs, self.carried)).freeze()

    def update(self, node: Any) -> dict[Any, Any]:
        """Return which generator follows which, without the graph of a draw."""
        return {node.inputs[0]: node.outputs[0]}

    def __hash__(self) -> int:
        """Agree with the equality of inner graphs, which PyTensor asks for more seldom than for this."""
        return hash((type(self), *self.output_types))

    def rebuild_rv(self, *params: Any, **kwargs: Any) -> Any:
        """Build the variable anew, for another size or rank of its parameters."""
        return self.rv_op(*params, carried=self.carried, **kwargs)

    def make_node(self, *inputs: Any) -> Any:
        """Apply to inputs; parameters with another number of dimensions (`pymc.dims`) need another inner graph."""
        rng, size, *params = inputs
        if any(p.type.ndim != t.ndim for p, t in zip(params, self.input_types[2:], strict=True)):
            return self.rebuild_rv(*params, size=size, rng=rng).owner
        return super().make_node(*inputs)


@draws_contrasts.register
def _of_lmm(op: LMMRV) -> bool:
    return bool(op.treatment == "flat" and op.projection.rank and not op.of_statistic)


class LMM(Continuous):  # type: ignore[misc]
    """The distribution of `LMMRV`s as PyMC takes it: `kind` is which."""

    rv_type = LMMRV

    def __new__(
        cls, name: str, params: list[Any], *, kind: type[LMMRV], carried: dict[str, Any], observed: Any = None,
        dims: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """
        Register a variable with the model of the context.

        Raises
        ------
        ValueError
            If there are no data and the density is improper, or the posterior could not hold the coordinates.
        """
        if observed is None and carried["treatment"] == "flat" and carried["projection"].rank:
            raise ValueError(
                f"{name} has no observed data, but with β integrated out under a flat prior its density is improper "
                "along X: give observed=, or a proper treatment of β (beta= or beta_cov=), or leave X out."
            )
        coords = pm.modelcontext(None).coords
        for dim in [dims] if isinstance(dims, str) else dims or ():
            what = f"the coordinates of {dim!r}, a dimension of {name},"
            require_labels(coords.get(dim), what, written=f"coords[{dim!r}]")
        return super().__new__(cls, name, params, kind=kind, carried=carried, observed=observed, dims=dims, **kwargs)

    def rv_op(*params: Any, kind: type[LMMRV], **kwargs: Any) -> Any:
        """Build the variable."""
        return kind.rv_op(*params, **kwargs)


@_logprob.register(LMMRV)  # type: ignore[untyped-decorator]
def _logp(op: LMMRV, values: Any, rng: Any, size: Any, *params: Any, **kwargs: Any) -> Any:
    (value,) = values
    return maybe_resize(op.logp(value, *params), size)


@_support_point.register(LMMRV)  # type: ignore[untyped-decorator]
def _start(op: LMMRV, rv: Any, rng: Any, size: Any, *params: Any) -> Any:
    return pt.zeros_like(rv) + op.center(*params)
