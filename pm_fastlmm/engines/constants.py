"""What of the mean of a node is known, as numbers."""

from typing import Any, NamedTuple, Self

import numpy as np
import pytensor

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.graphs import INTERPRETED


class Constants(NamedTuple):
    """
    A known mean.

    Attributes
    ----------
    mu : array or 0
        The mean besides Xβ.
    b : (r,) array
        An explicit β, or the mean of its prior; of size 0 for a flat one.
    B : (r, r) array
        Covariance of the prior of β, of size 0 where it has none.
    """

    mu: FloatArray
    b: FloatArray
    B: FloatArray

    @classmethod
    def of(cls, mu: Any, b: Any, B: Any) -> Self:
        """Evaluate graphs without free variables, each of which may be None."""
        graphs = (mu, b, B)
        values = iter(pytensor.function([], [graph for graph in graphs if graph is not None], mode=INTERPRETED)())
        absent = (np.zeros(()), np.zeros(0), np.zeros((0, 0)))
        return cls(
            *(
                none if graph is None else np.asarray(next(values), dtype=float)
                for graph, none in zip(graphs, absent, strict=True)
            )
        )
