"""What of the mean of a node is known, as numbers."""

from typing import Any, NamedTuple, Self

import numpy as np
import pytensor
import pytensor.tensor as pt

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
    def of(cls, *graphs: Any) -> Self:
        """Evaluate graphs without free variables, each of which may be None."""
        values = pytensor.function([], present(*graphs), mode=INTERPRETED)()
        return cls(*(np.asarray(value, dtype=float) for value in values))


def present(mu: Any, b: Any, B: Any) -> list[Any]:
    """Return the graphs, with constants in place of those that are None."""
    absent = np.zeros(()), np.zeros(0), np.zeros((0, 0))
    pairs = zip((mu, b, B), absent, strict=True)
    return [pt.constant(none) if graph is None else graph for graph, none in pairs]
