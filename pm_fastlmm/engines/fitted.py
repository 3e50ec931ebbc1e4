"""FittedNode: a node that has a fit, and what comes after it."""

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.base.arrays import FloatArray, align, read, require_finite, require_length
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.engines.response import Response


class FittedNode(LMMNode):
    """A node with one response, whose parameters are fitted, and which is fitted again with other responses."""

    __slots__ = ()

    at_theta: ClassVar[type[AtTheta]] = AtTheta  # what comes after a fit

    def at(self, objective: Objective, theta: FloatArray, mu: Any, prior_mean: FloatArray) -> AtTheta:
        """Return the node with V at θ, for what comes after a fit."""
        return self.at_theta(self, objective, theta, mu, prior_mean)

    def observing(self, y: Any) -> Self:
        """
        Return the node with another response y (n,).

        Raises
        ------
        ValueError
            If it does not fit the rows or has missing values, or a statistic of the response is observed.
        """
        if self.observes_statistic:
            raise ValueError(f"{self.name} observes a statistic of y: rotate the other y, and make a model of that.")
        labelled = read(y, "y", ndim=(1,))
        values = labelled.take(align(self.ids, labelled, name="y", reference_name=self.name))
        require_length(len(values), self.n, "y", self.name)
        require_finite(values, "y", "a refit is of the same rows; leave rows out of the table, and fit it anew.")
        return replace(self, observed=values)

    @property
    def prior_weights(self) -> FloatArray | None:
        """Prior weights of the rows; None where the residuals have one variance, or V is written as a whole."""
        return None

    def rows(self) -> FloatArray:
        """
        Return y by row, which results with one value for each observation need.

        Raises
        ------
        ValueError
            If the rows were not kept.
        """
        return np.asarray(self.observed, dtype=float)

    def response(self) -> Response:
        """Return what a comparison of fits needs to know of the data."""
        y = np.asarray(self.observed, dtype=float)
        size, by_row = float(np.square(y).sum()), y if y.shape == (self.n,) else None
        return Response(self.n, size, by_row, self.treatment == "flat", self.projection)

    def nested_in(self, other: LMMNode) -> bool:
        """Return whether V is known to be a special case of that of another node."""
        return False
