"""What AI-REML maximises of a FourierLMM, and the function at what it found."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.functions import FunctionPosterior
from pm_fastlmm.engines.fourier.objective import FourierObjective
from pm_fastlmm.engines.free_variables import FreeVariables, Link, nearest, slopes


def fourier_objective(model: pm.Model, node: Any, method: Method) -> FourierObjective:
    """Return the objective over x; it starts at the best lengthscale of all nodes where there is one lengthscale."""
    graph = pt.concatenate([pt.exp(node.log_weights) * node.sigma2_g, pt.expand_dims(node.sigma2_e, 0)])
    estimated = [] if node.lengthscale is None else [pt.stack([node.lengthscale, node.sigma2_g, node.sigma2_e])]
    variables = FreeVariables.of(model, node.name, [graph, *estimated])
    (prior,) = variables.substitute([graph])
    evaluate, differentiate = variables.compile([prior]), slopes(prior, variables)
    lower, upper, start = variables.lower, variables.upper, variables.initial
    inside: Callable[[FloatArray], bool] = lambda x: True  # noqa: E731
    noted: Callable[[FloatArray], list[str]] = lambda x: []  # noqa: E731
    if node.spectra is not None:
        link, (low, high) = Link.of(variables, estimated[0]), node.basis.lengthscale
        same = [bool(link.jacobian(x)[0, i] == 1 and link.theta(x)[0] == x[i]) for x in (start,) for i in range(len(x))]
        lower, upper = np.where(same, np.maximum(lower, low), lower), np.where(same, np.minimum(upper, high), upper)
        edge = 1e-9 * (high - low)
        inside = lambda x: low - edge <= link.theta(x)[0] <= high + edge  # noqa: E731
        noted = lambda x: _outside_basis(node.basis, *link.theta(x))  # noqa: E731
        start = np.clip(nearest(link, node.spectra.best()), lower, upper)
    return FourierObjective.of(
        lambda x: evaluate(x)[0], differentiate, node.products, names=variables.names, lower=lower, upper=upper,
        start=start, split=variables.split, inside=inside, noted=noted, method=method,
    )  # fmt: skip


class FunctionAtTheta(AtTheta):
    """A function with V at θ."""

    def function(self) -> FunctionPosterior:
        """Return the posterior of the function."""
        state = self.objective.state(self.theta)
        if state is None:
            raise ValueError(f"the likelihood is not defined at {self.objective.described(self.theta)}.")
        return FunctionPosterior.of(self.node.basis, self.node.products, [state.factor])


def _outside_basis(basis: FourierBasis, lengthscale: float, sigma2_g: float, sigma2_e: float) -> list[str]:
    """Return what a basis was not made for, and the remedy."""
    (low, high), out = basis.lengthscale, []
    if sigma2_e < basis.noise_ratio_min * sigma2_g:
        out.append(
            f"sigma2_e/sigma2 = {sigma2_e / sigma2_g:.2g} is below noise_ratio_min={basis.noise_ratio_min:g}, where "
            "the error of the basis is larger than stated: make the basis for a smaller ratio"
        )
    if sigma2_g > 0 and (lengthscale < low * (1 + 1e-6) or lengthscale > high * (1 - 1e-6)):
        out.append(
            f"the lengthscale {lengthscale:.4g} is at an end of the range of the basis, {low:g} to {high:g}, which may "
            "have stopped it: make the basis for a wider range"
        )
    return out
