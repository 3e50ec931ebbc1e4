"""The node of a FastLMM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.engines.draws import evaluate_kept, over_batch
from pm_fastlmm.engines.free_variables import Fitted, through_variables
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.engines.precisions import Precisions
from pm_fastlmm.engines.prediction import Design, Effects, NewRows, Predictive
from pm_fastlmm.engines.protocol import Target, answers_for, observed_data
from pm_fastlmm.engines.response import Response
from pm_fastlmm.engines.spectral.leave_out import KernelDraws
from pm_fastlmm.engines.spectral.objective import SpectralObjective
from pm_fastlmm.engines.spectral.posterior import known_rows, parameters, predict, recover
from pm_fastlmm.engines.spectral.variables import RotatedLMMRV, SpectralRV, statistic
from pm_fastlmm.kernel.effects.effects import new_rows
from pm_fastlmm.kernel.reml.reml import reml
from pm_fastlmm.spectrum.projection import no_rows
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum


@answers_for(SpectralRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SpectralNode(GaussianNode):
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

    def objective(self, model: pm.Model, method: Method = "REML") -> Fitted:
        """Return the likelihood of the two variances, started at its global maximum."""
        mu, _, _ = self.known_mean(model)
        if np.ndim(self.observed) > 1:
            raise ValueError(f"{self.name} has several responses: flmm.reml(spectrum, Y) fits them all at once.")
        if self.treatment == "proper":
            raise ValueError(
                f"{self.name} has an explicit β or a prior on it: REML integrates β out, leave out beta= and beta_cov=."
            )
        objective = SpectralObjective.of(self.rotated(mu), method)
        return through_variables(model, self.name, pt.stack([self.sigma2_g, self.sigma2_e]), objective)

    def rows(self) -> FloatArray:
        """Return y by row."""
        if self.given is not None:
            raise ValueError(f"{self.name} observes a Rotated, which has no rows: fit a model with observed=y.")
        return np.asarray(self.observed, dtype=float)

    def response(self) -> Response:
        """Return what a comparison of fits needs to know of the data."""
        return GaussianNode.response(self) if self.given is None else Response.of_rotated(self.rotated())

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

    def recover(
        self, model: pm.Model, posterior: xr.Dataset, which: Sequence[str] | None, rng: np.random.Generator
    ) -> dict[str, xr.DataArray]:
        """Draw β, u and, from a factor, its coefficients a."""
        return recover(self, model, posterior, which, rng)

    def read(self, new: NewRows, effects: Effects) -> Any:
        """Read X, and covariances with the rows of the data or rows of the factor."""
        if new.in_sample:
            if self.spectrum.rotation is None:
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

    def derived(self, model: pm.Model, posterior: xr.Dataset) -> dict[str, xr.DataArray]:
        """Return σ², δ, σ²_g, σ²_e, h² and pve."""
        kept = evaluate_kept(model, posterior, [self.sigma2_g, self.sigma2_e])
        if kept is None:
            return {}
        ndim = max(v.ndim for v in kept)
        g, e = np.broadcast_arrays(*(over_batch(v, ndim) for v in kept))
        kbar, lbar = self.spectrum.mean_diagonal, self.spectrum.mean_eigval
        with np.errstate(divide="ignore"):
            derived = {
                "sigma2": g, "sigma2_g": g, "sigma2_e": e, "delta": e / g,
                "h2": kbar * g / (kbar * g + e), "pve": lbar * g / (lbar * g + e),
            }  # fmt: skip
        batch = (model.named_vars_to_dims.get(self.name) or ())[: ndim - 2]
        dims = ("chain", "draw", *(batch or [f"{self.name}_dim_{i}" for i in range(ndim - 2)]))
        return {f"{self.name}_{suffix}": xr.DataArray(value, dims=dims) for suffix, value in derived.items()}

    def precisions(
        self, model: pm.Model, posterior: xr.Dataset, *, largest: int, numbers: int, rows: Any = None
    ) -> Precisions:
        """Return P and Py at the draws, of all responses."""
        s, Q1 = self.spectrum, self.flat_basis()
        g, e, mu, b, root = parameters(self, model, posterior)
        shape = (posterior.sizes["chain"], posterior.sizes["draw"], *self.observed.shape[:-1])
        B = None if root is None else root @ np.swapaxes(root, -1, -2)
        fixed = None
        if self.given is not None:
            rotated = self.rotated()
            if s.nullity:
                raise ValueError(
                    f"{self.name} observes z and rss, and where K has {s.nullity} directions without variance the rows "
                    "of y are not known from them: build the model with spectrum= and observed=y."
                )
            fixed = rotated.z, rotated.y1
        kernel = KernelDraws(s, shape, None if fixed is not None else self.observed, fixed, mu, g, e, b, B)
        return Precisions(shape, self.n, Q1, kernel.parts(largest, numbers))

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
