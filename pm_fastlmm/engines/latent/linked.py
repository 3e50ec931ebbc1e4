"""The objective of a latent model over the model's own variables, where several parts of θ depend on one of them."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from pm_fastlmm.aireml.objective import NoEstimate, Objective
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.free_variables import Link, LinkedObjective


@dataclass(frozen=True, slots=True, eq=False)
class LinkedLaplace(LinkedObjective):
    """log p̃(y | θ(x)) over free variables x, such as a standard deviation that two terms share."""

    laplace: ClassVar[bool] = True

    @classmethod
    def of(cls, inner: Objective, link: Link, start: FloatArray | None = None) -> Self:
        """Return the objective over x; where there is no start, which `start` says, of where the variables are."""
        try:
            return super(LinkedLaplace, cls).of(inner, link, inner.start() if start is None else start)
        except NoEstimate:
            return super(LinkedLaplace, cls).of(inner, link, link.initial)

    def start(self) -> FloatArray:
        """Return x; `NoEstimate` where the inner objective has none."""
        self.inner.start()
        return super(LinkedLaplace, self).start()

    def of_parts(self, theta: FloatArray, cov: FloatArray) -> tuple[Objective, FloatArray]:
        """Return the inner objective, and the covariance of θ(x) from that of x, NaN where x has none."""
        J = self.link.jacobian(theta)
        found = J @ np.nan_to_num(cov) @ J.T
        unknown = (np.abs(J) @ np.isnan(np.diag(cov)).astype(float)) > 0
        found[unknown], found[:, unknown] = np.nan, np.nan
        return self.inner, np.asarray(found)

    @property
    def of_residual(self) -> slice:
        """None: the residuals have no variances of their own."""
        return slice(len(self.names), len(self.names))

    def settled(self, state: Any) -> Any:
        """Return the state at β̂."""
        inner: Any = self.inner
        return inner.settled(state)

    def estimate(self, state: Any) -> FloatArray:
        """Return β̂ alone."""
        return self.inner.estimate(state)

    def coefficient_cov(self, theta: FloatArray) -> Any:
        """Return cov β̂ at x, as the inner objective has it."""
        inner: Any = self.inner
        return inner.coefficient_cov(self.link.theta(theta))

    def unbounded(self, theta: FloatArray, score: FloatArray) -> str:
        """Return what it means that a variance of η has left all bounds of what responses can show."""
        return self.inner.unbounded(self.link.theta(theta), score)
