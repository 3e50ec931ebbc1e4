"""What a comparison of fits needs to know of the data of each."""

from typing import NamedTuple, Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.spectrum.sparse_projection import AnyProjection
from pm_fastlmm.spectrum.spectrum import Rotated


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
    """

    n: int
    size: float
    y: FloatArray | None
    flat: bool
    projection: AnyProjection

    @classmethod
    def of_rotated(cls, rotated: Rotated) -> Self:
        """Read one response; it is whole where its rows were kept and K has no null space."""
        s, y = rotated.spectrum, None
        if s.rotation is not None and not s.nullity and s.projection.reflectors is not None:
            y = np.asarray(s.projection.Q1 @ rotated.y1 + s.basis @ rotated.z)
        return cls(s.n, float(rotated.norm2) + float(rotated.y1 @ rotated.y1), y, True, s.projection)
