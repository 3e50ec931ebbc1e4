"""The node of a FastLMM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.distribution.variables import LMMRV, FlatLMMRV, ProperLMMRV, RotatedProperLMMRV, statistic
from pm_fastlmm.effects import new_rows
from pm_fastlmm.engines.prediction import Design, Effects, NewRows, Predictive
from pm_fastlmm.engines.protocol import LMMNode, Target, answers_for, observed_data
from pm_fastlmm.engines.spectral.posterior import known_rows, predict, recover
from pm_fastlmm.linalg.projection import no_rows
from pm_fastlmm.linalg.rotated import Rotated
from pm_fastlmm.linalg.spectrum import Spectrum
from pm_fastlmm.reml import reml


@answers_for(LMMRV)
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
    parts: ClassVar[tuple[str, ...]] = ("beta", "u", "a")
    predicts: ClassVar[tuple[Effects, ...]] = ("given", "new", "population")
    takes: ClassVar[tuple[str, ...]] = ("X_new", "K_new", "W_new", "K_new_new")

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

    @property
    def cheap(self) -> bool:
        """Whether thousands of evaluations take a second or two: they do."""
        return True

    def estimated(self) -> list[Any]:
        """Return σ²_g and σ²_e."""
        return [self.sigma2_g, self.sigma2_e]

    def target(self) -> Target | None:
        """Return the REML estimates, h² pulled off 0 and 1."""
        fit = reml(self.spectrum, self.rotated())
        total = np.atleast_1d(np.asarray(fit.total, dtype=float))
        share = np.clip(np.atleast_1d(np.asarray(fit.h2, dtype=float)), 0.02, 0.98)
        if not (np.isfinite(total).all() and (total > 0).all()):
            return None
        values = np.concatenate([share * total / self.spectrum.mean_diagonal, (1 - share) * total])
        return Target(values, np.ones(values.size, dtype=bool))

    @property
    def observes_statistic(self) -> bool:
        """Whether it was built with a `Rotated`."""
        return self.given is not None

    @property
    def keeps_rows(self) -> bool:
        """Whether the rotation has rows."""
        return self.spectrum.rotation is not None

    def recover(
        self, model: pm.Model, posterior: xr.Dataset, which: Sequence[str] | None, rng: np.random.Generator
    ) -> dict[str, xr.DataArray]:
        """Draw β, u and, from a factor, its coefficients a."""
        return recover(self, model, posterior, which, rng)

    def read(self, new: NewRows, effects: Effects) -> Any:
        """Read X, and covariances with the rows of the data or rows of the factor."""
        if new.in_sample:
            if not self.keeps_rows:
                raise no_rows()
            return None
        if effects == "population":
            return Design.read(self.projection, new.X_new)
        return new_rows(self.spectrum, new.X_new, new.K_new, W_new=new.W_new, K_new_new=new.K_new_new)

    def predict(
        self, model: pm.Model, posterior: xr.Dataset, rows: Any, effects: Effects, rng: np.random.Generator
    ) -> Predictive:
        """Draw f = Xβ + u and y."""
        return predict(self, model, posterior, rows, effects, rng)

    def known_rows(self, rows: Any) -> FloatArray | None:
        """Return y, rotated back."""
        return known_rows(self)

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node: what is among the parameters depends on the treatment of β and on what is observed."""
        _, _, *params = rv.owner.inputs
        mu = b = root = None
        if isinstance(op, ProperLMMRV):
            mu, b, root, g, e = params[:5]
        elif isinstance(op, RotatedProperLMMRV):
            b, root, g, e = params[:4]
        elif isinstance(op, FlatLMMRV):
            mu, g, e = params[:3]
        else:
            g, e = params[:2]
        s = op.spectrum
        data = observed_data(model, rv)
        return cls(rv.name, rv, op.treatment, mu, b, data, s.projection, s.ids, s, g, e, root, op.rotated)
