"""`lmm_nodes`: the only way to find the nodes of a model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
from pymc.pytensorf import constant_fold
from pytensor.compile.sharedvalue import SharedVariable

from pm_fastlmm.distribution.variables import LMMRV, FlatLMMRV, ProperLMMRV, RotatedProperLMMRV, Treatment, statistic
from pm_fastlmm.linalg.rotated import Rotated
from pm_fastlmm.linalg.spectrum import Spectrum


@dataclass(frozen=True, slots=True, eq=False)
class LMMNode:
    """
    A FastLMM node of a model.

    Attributes
    ----------
    name : str
    rv : TensorVariable
        The random variable.
    spectrum : Spectrum
    treatment : "flat" or "proper"
        How β is treated: "proper" is an explicit β or one with a Gaussian prior.
    sigma2_g, sigma2_e : TensorVariable
        The variances, as functions of the model's variables.
    mu, beta_mean, beta_root : TensorVariable or None
        The mean besides Xβ; for "proper" the mean of β and a root of its covariance (0 for an explicit β).
    observed : array or None
        The data: y (…, n), or the statistic of a Rotated, [z, rss] or [z, rss, y₁].
    given : Rotated or None
        The `Rotated` that the node was built with, which has y along X besides the statistic.
    """

    name: str
    rv: Any
    spectrum: Spectrum
    treatment: Treatment
    sigma2_g: Any
    sigma2_e: Any
    mu: Any
    beta_mean: Any
    beta_root: Any
    observed: Any
    given: Rotated | None

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


def lmm_nodes(model: pm.Model) -> list[LMMNode]:
    """Return the FastLMM nodes of a model, in its order; also after `do`, `observe`, freezing and copying."""
    nodes = []
    for rv in model.basic_RVs:
        op = rv.owner.op
        if not isinstance(op, LMMRV):
            continue
        _, _, *params = rv.owner.inputs
        mu = beta_mean = beta_root = None
        if isinstance(op, ProperLMMRV):
            mu, beta_mean, beta_root, g, e = params[:5]
        elif isinstance(op, RotatedProperLMMRV):
            beta_mean, beta_root, g, e = params[:4]
        elif isinstance(op, FlatLMMRV):
            mu, g, e = params[:3]
        else:
            g, e = params[:2]
        value = model.rvs_to_values[rv]
        data = None
        if rv in model.observed_RVs:
            data = value.get_value() if isinstance(value, SharedVariable) else constant_fold([value])[0]
        nodes.append(LMMNode(rv.name, rv, op.spectrum, op.treatment, g, e, mu, beta_mean, beta_root, data, op.rotated))
    return nodes
