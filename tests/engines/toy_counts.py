"""
A seventh engine, which is not Gaussian: y_i ~ Poisson(exp(x_iβ + u_j)), u_j ~ N(0, σ²), by quadrature over each u_j.

It has a density and no V, and joins at the first level: it is sampled and draws its effects; all else is refused.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.random.basic import normal, poisson

from pm_fastlmm.engines.labels import labelled
from pm_fastlmm.engines.protocol import LMMNode, Target, answers_for, observed_data
from pm_fastlmm.engines.random_variable import LMM, LMMRV
from pm_fastlmm.spectrum.projection import Projection

POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(100)  # of a standard normal u
LOG_WEIGHTS = np.log(WEIGHTS / WEIGHTS.sum())


class CountsRV(LMMRV):
    """Inputs β and σ."""

    name = "CountsLMM"
    extended_signature = "[rng],[size],(r),()->[rng],(n)"
    groups: Any

    @classmethod
    def draw(cls, rng, batch, beta, sigma, *, projection, groups, treatment):
        """Return counts, with an effect of each group."""
        rng, u = normal(0.0, 1.0, size=(*batch, groups.max() + 1), rng=rng, return_next_rng=True)
        rate = pt.exp(beta @ projection.X.T + sigma[..., None] * u[..., groups])
        return poisson(rate, rng=rng, return_next_rng=True)

    def logp(self, value, beta, sigma):
        """Return the log of the sum over the points, group by group."""
        return pt.logsumexp(self.at_points(value, beta, sigma) + LOG_WEIGHTS[:, None], axis=0).sum()

    def at_points(self, value, beta, sigma):
        """Return log p(y_j | u_j) at each point, (points, groups)."""
        eta = self.projection.X @ beta + sigma * POINTS[:, None]
        each = value * eta - pt.exp(eta) - pt.gammaln(value + 1)
        return each @ (self.groups[:, None] == np.arange(self.groups.max() + 1)).astype(float)


def counts_lmm(name, *, X, groups, beta, sigma, observed):
    """Register the distribution with the model of the context."""
    carried = {"treatment": "proper", "projection": Projection.from_design(X), "groups": groups}
    return LMM(name, [beta, sigma], kind=CountsRV, carried=carried, observed=observed)


@answers_for(CountsRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CountsNode(LMMNode):
    """The node: where a sampler starts, the variance of the effects, and these themselves."""

    called: ClassVar[str] = "CountsLMM"
    sigma: Any

    @property
    def cheap(self):
        """Whether thousands of evaluations take a second or two: they do."""
        return True

    def estimated(self):
        """Return σ."""
        return [self.sigma]

    def target(self):
        """Return a guess of it."""
        means = [np.log1p(self.observed[self.rv.owner.op.groups == j].mean()) for j in range(self._count)]
        return Target(np.array([np.std(means) + 0.1]), np.ones(1, dtype=bool))

    def recover(self, draws, which, rng):
        """Draw u_j from its conditional given y, on the points."""
        op, graphs = self.rv.owner.op, [self.beta_mean, self.sigma]
        log_p = op.at_points(pt.constant(self.observed), *graphs) + LOG_WEIGHTS[:, None]
        p, sigma = draws.evaluate([pt.special.softmax(log_p, axis=0), self.sigma])
        at = (p.cumsum(axis=-2) < rng.uniform(size=(*p.shape[:2], 1, self._count))).sum(axis=-2)
        u = sigma[..., None] * POINTS[np.minimum(at, len(POINTS) - 1)]
        return {"u": labelled(draws.model, self, u, {f"{self.name}_group": range(self._count)})}

    def derived(self, sigma):
        """Return σ²."""
        return {"variance": sigma**2}

    @property
    def _count(self):
        return int(self.rv.owner.op.groups.max()) + 1

    @classmethod
    def of(cls, op, model, rv):
        """Read the node."""
        _, _, beta, sigma = rv.owner.inputs
        return cls(rv.name, rv, op.treatment, None, beta, observed_data(model, rv), op.projection, None, sigma)
