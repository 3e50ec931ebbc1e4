"""The node of a FastLMM."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm

from pm_fastlmm.distribution.variables import RotatedLMMRV, SpectralRV, statistic
from pm_fastlmm.engines.protocol import LMMNode, answers_for, observed_data
from pm_fastlmm.linalg.rotated import Rotated
from pm_fastlmm.linalg.spectrum import Spectrum


@answers_for(SpectralRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SpectralNode(LMMNode):
    """
    A FastLMM node.

    Attributes
    ----------
    spectrum : Spectrum
    sigma2_g, sigma2_e : TensorVariable
        The variances, as functions of the model's variables.
    beta_root : TensorVariable or None
        For "proper" a root of the prior covariance of β, 0 for an explicit β.
    given : Rotated or None
        The `Rotated` that the node was built with, which has y along X besides the statistic.
    """

    called: ClassVar[str] = "FastLMM"

    spectrum: Spectrum
    sigma2_g: Any
    sigma2_e: Any
    beta_root: Any
    given: Rotated | None

    @property
    def n(self) -> int:
        """Number of observations."""
        return self.spectrum.n

    def rotated(self, mu: Any = 0.0) -> Rotated:
        """Return the observed data less mu, rotated."""
        s = self.spectrum
        if self.given is not None:
            if np.array_equal(self.observed, statistic(self.given, self.treatment)):
                return self.given
            z = self.observed[..., : s.rank]
            rss = self.observed[..., s.rank] if s.nullity else np.zeros(z.shape[:-1])
            y1 = np.full((*z.shape[:-1], s.projection.rank), np.nan)
            if self.treatment == "proper":
                y1 = self.observed[..., s.rank + bool(s.nullity) :]
            return Rotated(s, z, rss, y1, (z**2).sum(-1) + rss, None)
        values = self.observed - mu
        names = tuple(map(str, range(values.shape[0]))) if values.ndim == 2 else None
        return Rotated.from_values(s, values.T, names)

    def _covariance_facts(self) -> dict[str, Any]:
        return {"rank of K": self.spectrum.rank}

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node: a `Rotated` has no mu, and a flat prior no β."""
        _, _, *params = rv.owner.inputs
        mu = None if isinstance(op, RotatedLMMRV) else params[0]
        *_, b, root, g, e = params
        if op.treatment == "flat":
            b = root = None
        s = op.spectrum
        data = observed_data(model, rv)
        return cls(rv.name, rv, op.treatment, mu, b, data, s.projection, s.ids, s, g, e, root, op.rotated)
