"""What a comparison of fits needs to know of the data of each."""

from typing import NamedTuple, Self

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.spectrum.sparse_projection import AnyProjection
from pm_fastlmm.spectrum.spectrum import Rotated
from pm_fastlmm.spectrum.weights import UNWEIGHTED, PriorWeights


class Response(NamedTuple):
    """
    The data of a fit.

    Attributes
    ----------
    n : int
        Observations.
    size : float
        ‖y‖².
    y : (n,) array or None
        By observation, where the fit has it.
    flat : bool
        Whether β was integrated out or estimated, not explicit or under a prior.
    projection : Projection or SparseProjection
    weights : PriorWeights
        Of the rows of y in ‖y‖², where y is not known by observation.
    """

    n: int
    size: float
    y: FloatArray | None
    flat: bool
    projection: AnyProjection
    weights: PriorWeights = UNWEIGHTED

    @classmethod
    def of_rotated(cls, rotated: Rotated) -> Self:
        """Read one response; it is whole where its rows were kept and K has no null space."""
        s = rotated.spectrum
        if s.rotation is not None and not s.nullity and s.projection.reflectors is not None:
            y = s.lift(rotated.y1, rotated.z)
            return cls(s.n, float(y @ y), y, True, s.design)
        return cls(s.n, float(rotated.norm2) + float(rotated.y1 @ rotated.y1), None, True, s.design, s.weights)
