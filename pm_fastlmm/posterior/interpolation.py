"""Likelihoods that cost a factorisation, replaced by their interpolants while a model is sampled, and nowhere else."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.base.arrays import FloatArray, warn
from pm_fastlmm.base.display import progress
from pm_fastlmm.engines.callbacks import GradientOp
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.graphs import reaching
from pm_fastlmm.engines.nodes import lmm_nodes
from pm_fastlmm.engines.protocol import LMMNode, Target
from pm_fastlmm.posterior.kept import Kept
from pm_fastlmm.quadrature.likelihood import DEAR
from pm_fastlmm.quadrature.over_parameters import InterpolatedLaplace
from pm_fastlmm.quadrature.over_theta import InterpolatedLikelihood

_CHECKS = 4  # draws at which the likelihood is evaluated at the end
_LARGEST = 1e-3  # error of a log-likelihood that no posterior shows

type Say = Callable[[str], None]


class InterpolatedLoglik(GradientOp):
    """An `InterpolatedLikelihood` of θ, with its gradient as a further output."""

    likelihood: ClassVar[str] = "the interpolated likelihood"
    differentiable = 1

    def evaluate(self, *inputs: Any) -> Any:
        """Return the log-likelihood and its gradient."""
        likelihood: InterpolatedLikelihood = self.data
        return likelihood(np.asarray(inputs[0], dtype=float))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class InterpolatedNode(LMMNode):
    """
    What `sample` needs of a node whose density is interpolated.

    Attributes
    ----------
    node : LMMNode
    likelihood : InterpolatedLikelihood
    """

    node: LMMNode
    interpolated: InterpolatedLikelihood

    @classmethod
    def in_place_of(cls, node: LMMNode, objective: Objective, tolerance: float) -> Self:
        """Return a node with the same data; NotInterpolated if θ is more than a few variances."""
        common = (node.name, node.rv, node.treatment, node.mu, node.beta_mean, node.observed, node.projection, node.ids)
        kind = InterpolatedLaplace if objective.laplace else InterpolatedLikelihood
        return cls(*common, node, kind(objective, tolerance))

    @property
    def cheap(self) -> bool:
        """Whether the interpolant is there."""
        return self.interpolated.smooth is not None or self.node.cheap

    def estimated(self) -> list[Any]:
        """Return what the node has."""
        return self.node.estimated()

    def target(self) -> Target | None:
        """Return the REML estimate that the interpolant is about."""
        theta = self.interpolated.estimate
        return self.node.target() if theta is None else Target(theta, theta > 0)

    def density(self, model: pm.Model) -> Any:
        """Return the interpolated log-likelihood."""
        (theta,) = self.estimated()
        return InterpolatedLoglik(self.interpolated)(theta)[0]

    def reaches(self, values: FloatArray) -> bool:
        """Return whether they are in the region."""
        smooth = self.interpolated.smooth
        return smooth is None or smooth(values) is not None

    def adapt(self, values: Callable[[], FloatArray]) -> bool:
        """Let the interpolant cover the posterior."""
        return self.interpolated.smooth is not None and self.interpolated.adapt(values())

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Spare evaluations outside the region."""
        self.interpolated.guarded = True
        try:
            yield
        finally:
            self.interpolated.guarded = False


def to_interpolate(model: pm.Model, tolerance: float, say: Say) -> dict[str, InterpolatedNode]:
    """Return what takes the place of nodes of the model, by name; say of others with a dear likelihood why not."""
    found: dict[str, InterpolatedNode] = {}
    for node in lmm_nodes(model) if tolerance else ():
        try:
            objective = node.to_interpolate(model)
            if objective is not None:
                found[node.name] = InterpolatedNode.in_place_of(node, objective, tolerance)
        except ValueError as error:
            if not node.cheap:
                say(_exact(node.name, error))
    return found


def interpolate(
    nodes: Iterable[InterpolatedNode], kept: Kept, rng: np.random.Generator, say: Say, *, progressbar: bool
) -> None:
    """Make the interpolants of the nodes that a kept model has, or say why they stay exact."""
    for node in nodes:
        likelihood = node.interpolated
        if not kept.holds(likelihood):
            say(_exact(node.name, "idata_kwargs=, symbolic initial values and variables of pymc.dims leave no place."))
            continue
        show = progressbar and likelihood.objective.work > DEAR
        with progress(f"Likelihood of {node.name}", None, show=show) as tell:
            try:
                likelihood.make(rng, tell)
            except ValueError as error:
                say(_exact(node.name, error))
                continue
        on = " × ".join(map(str, likelihood.nodes))
        say(f"The likelihood of {node.name} is interpolated on {on} nodes, of {likelihood.evaluations} evaluations")


def _exact(name: str, why: object) -> str:
    return f"The likelihood of {name} is not interpolated, and each step of NUTS is one exact evaluation or more: {why}"


def report(idata: xr.DataTree, model: pm.Model, nodes: Iterable[InterpolatedNode], rng: np.random.Generator) -> None:
    """
    Compare the interpolants with the likelihoods at some draws, and write what was found among the attributes.

    Warns
    -----
    UserWarning
        If an error is so large that the posterior may show it.
    """
    draws = Draws(model, idata.posterior.to_dataset())
    for node in nodes:
        likelihood, smooth = node.interpolated, node.interpolated.smooth
        if smooth is None:
            continue
        attributes: dict[str, Any] = {"nodes": list(likelihood.nodes), "evaluations": likelihood.evaluations}
        lost = [rv.name for rv in reaching(model, *node.estimated()) if rv.name not in draws.posterior]
        if not lost:
            (theta,) = draws.evaluate(node.estimated())
            theta = theta.reshape(-1, theta.shape[-1])
            error = likelihood.error(theta[rng.choice(len(theta), size=min(_CHECKS, len(theta)), replace=False)])
            attributes |= {"error": error, "draws_outside": sum(smooth(row) is None for row in theta)}
            if error > _LARGEST:
                warn(
                    f"the log-likelihood of {node.name} is interpolated with an error of {error:.1e} at draws, which "
                    "the posterior may show: sample again with loglik_tolerance=0, which interpolates nothing and "
                    "takes a factorisation or more for each step; a smaller loglik_tolerance adds nodes only while "
                    "they are affordable."
                )
        idata.posterior.attrs |= {f"{node.name}_loglik_{key}": value for key, value in attributes.items()}
