"""The node of a FastLMM."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray, slices
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.draws import Draws, over_batch
from pm_fastlmm.engines.free_variables import Fitted, through_variables
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.engines.graphs import reaching
from pm_fastlmm.engines.labels import derived, labelled, over_coef, over_obs
from pm_fastlmm.engines.precisions import Precisions
from pm_fastlmm.engines.prediction import Design, Effects, NewRows, Predictive
from pm_fastlmm.engines.protocol import Target, answers_for, observed_data
from pm_fastlmm.engines.response import Response
from pm_fastlmm.engines.spectral.effects import KernelAtTheta
from pm_fastlmm.engines.spectral.leave_out import kernel_parts
from pm_fastlmm.engines.spectral.objective import SpectralObjective
from pm_fastlmm.engines.spectral.variables import SpectralRV, statistic
from pm_fastlmm.kernel.effects.coefficients import draw_factor_effects, draw_new_effects, require_factor
from pm_fastlmm.kernel.effects.effects import (
    Coordinates,
    blue,
    draw_effects,
    draw_prior_effects,
    given_coefficients,
    new_rows,
)
from pm_fastlmm.kernel.effects.individuals import draws_of_individuals
from pm_fastlmm.kernel.reml.reml import reml
from pm_fastlmm.spectrum.projection import no_rows
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_BUDGET = 4_000_000  # numbers in flight at a time: 32 MB for each of a handful of arrays


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
    beta_root : TensorVariable
        For "proper" a root of the prior covariance of β, 0 for an explicit β.
    given : Rotated or None
        The `Rotated` that the node was built with, which has y along X besides the statistic.
    """

    called: ClassVar[str] = "FastLMM"
    law: ClassVar[str] = "N(Xβ, σ²(K + δI))"
    cheap: ClassVar[bool] = True
    at_theta: ClassVar[type[AtTheta]] = KernelAtTheta
    parts: ClassVar[tuple[str, ...]] = ("beta", "u", "a")
    recovers: ClassVar[bool] = True
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

    @property
    def formula(self) -> str:
        """The formula of the fixed effects with u, or the distribution."""
        source = self.spectrum.source
        return self.spectrum.model_of((source and source.named(self.observed)) or self.name)

    @property
    def rows_dropped(self) -> str:
        """In words how many rows of the table were dropped."""
        return self.spectrum.rows_dropped

    @property
    def levels(self) -> dict[str, int]:
        """How many individuals there are, where they have repeated records."""
        individuals = self.spectrum.individuals
        return {} if individuals is None else {"individual": len(individuals.root)}

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

    def _prior_spread(self) -> Any:
        return self.beta_root

    @property
    def observes_statistic(self) -> bool:
        """Whether it was built with a `Rotated`."""
        return self.given is not None

    def recover(self, draws: Draws, which: Sequence[str] | None, rng: np.random.Generator) -> dict[str, xr.DataArray]:
        """Draw β and u, or a where the rows were not kept, of which u has a value for each; u of individuals is La."""
        s = self.spectrum
        if which is None:
            which = ("beta", "u") if s.rotation is not None else ("beta", "a")
        if "a" in which:
            require_factor(s)
        beta, u, (g, _, _) = self._draw(draws, rng)
        effects = {}
        if "beta" in which:
            effects["beta"] = over_coef(draws.model, self, beta)
        if "a" in which or s.individuals is not None:
            a = draw_factor_effects(s, u, g, rng)
        if "u" in which and s.individuals is None:
            effects["u"] = over_obs(draws.model, self, _lift(s, u))
        elif "u" in which and s.individuals is not None:
            own = {f"{self.name}_individual": s.individuals.labels}
            effects["u"] = labelled(draws.model, self, draws_of_individuals(s, a), own)
        if "a" in which:
            labels = range(a.shape[-1]) if s.factor_names is None else s.factor_names
            effects["a"] = labelled(draws.model, self, a, {f"{self.name}_factor": labels})
        return effects

    def coefficients(self, draws: Draws, rng: np.random.Generator) -> FloatArray | None:
        """Draw β from N(β̂, cov β̂), many draws of the variances at a time; None if y along X or mu is not known."""
        if reaching(draws.model, self.mu):
            return None
        g, e, mu, *_ = self._parameters(draws)
        rotated = self.rotated(mu[0, 0])
        if np.isnan(rotated.y1).any():
            return None
        shape = np.broadcast_shapes(g.shape, e.shape, (1, 1, *rotated.batch_shape))
        g, e = (np.broadcast_to(v, shape).reshape(-1, *shape[2:]) for v in (g, e))
        beta = rng.standard_normal((*g.shape, self.projection.rank))
        for block in slices(len(g), max(1, _BUDGET // max(1, rotated.z.size))):
            found = blue(rotated, g[block], e[block])
            beta[block] = found.beta + np.einsum("...ij,...j->...i", semidefinite_root(found.cov), beta[block])
        return beta.reshape(*shape, -1)

    def read(self, new: NewRows, effects: Effects) -> Any:
        """Read X, and covariances with the rows of the data or rows of the factor."""
        if new.in_sample:
            if self.spectrum.rotation is None:
                raise no_rows()
            return None
        if effects == "population":
            return Design.read(self.projection, new.X_new)
        return new_rows(self.spectrum, new.X_new, new.K_new, W_new=new.W_new, K_new_new=new.K_new_new)

    def predict(self, draws: Draws, rows: Any, effects: Effects, rng: np.random.Generator) -> Predictive:
        """Draw f = Xβ + u, with the u of y, with another or with none, and y = f + e."""
        beta, u, (g, e, mu) = self._draw(draws, rng)
        s, mean = self.spectrum, self.mean_at(rows, mu)
        if effects == "population":
            f = beta @ (s.projection.X if rows is None else rows.X).T
        else:
            f = with_effects(s, rows, effects, beta, u, g, rng)
        return Predictive.of(f + mean, e, rng, None if rows is None else rows.ids)

    def _draw(
        self, draws: Draws, rng: np.random.Generator
    ) -> tuple[FloatArray, Coordinates, tuple[FloatArray, FloatArray, FloatArray]]:
        """Return draws of β, of u in rotated coordinates, and (σ²_g, σ²_e, mu) of the draws."""
        g, e, mu, b, root = self._parameters(draws)
        rotated = self._rotate_draws(mu) if np.ptp(mu, axis=(0, 1)).any() else self.rotated(mu[0, 0])
        if np.isnan(rotated.y1).any():
            raise ValueError(
                f"{self.name} observes other z and rss than those of the Rotated it was built with, so that y along X "
                "is not known, which β and u depend on: build the model with the Rotated of these data."
            )
        shape = np.broadcast_shapes(g.shape, e.shape, rotated.batch_shape)
        g, e = np.broadcast_to(g, shape), np.broadcast_to(e, shape)
        beta, u = draw_effects(rotated, g, e, rng)
        if self.treatment == "proper":
            beta, u = given_coefficients(rotated, g, e, beta, u, b, root, rng)
        return beta, u, (g, e, mu)

    def _parameters(self, draws: Draws) -> list[FloatArray]:
        """Return draws of σ²_g, σ²_e, mu, and mean and root of the prior of β, with axes for all responses."""
        graphs = [self.sigma2_g, self.sigma2_e, self.mu, self.beta_mean, self.beta_root]
        over = self.observed.ndim + 1
        pairs = zip(draws.evaluate(graphs), (0, 0, 1, 1, 2), strict=True)
        return [over_batch(values, over + own) for values, own in pairs]

    def _rotate_draws(self, mu: FloatArray) -> Rotated:
        """Rotate y - mu for each draw of mu."""
        values = np.broadcast_to(self.observed - mu, np.broadcast_shapes(self.observed.shape, mu.shape))
        flat = Rotated.from_values(self.spectrum, values.reshape(-1, values.shape[-1]).T, None)
        batch = values.shape[:-1]
        z, rss, y1, norm2 = (a.reshape(*batch, *a.shape[1:]) for a in (flat.z, flat.rss, flat.y1, flat.norm2))
        return Rotated(self.spectrum, z, rss, y1, norm2, None)

    def known_rows(self, rows: Any) -> FloatArray | None:
        """Return y (…, n), rotated back from z and y along X where no part of it is known by its norm alone."""
        s = self.spectrum
        if self.given is None or s.nullity:
            return None
        rotated = self.rotated()
        return rotated.y1 @ s.projection.Q1.T + rotated.z @ s.basis.T

    def variances(self, draws: Draws) -> dict[str, xr.DataArray]:
        """Return what is derived, by name."""
        return {name.removeprefix(f"{self.name}_"): array for name, array in derived(draws, self).items()}

    def derived(self, *values: FloatArray) -> dict[str, FloatArray]:
        """Return σ², δ, σ²_g, σ²_e, h² and pve."""
        ndim = max(v.ndim for v in values)
        g, e = np.broadcast_arrays(*(over_batch(v, ndim) for v in values))
        return shares(g, e, {"h2": self.spectrum.mean_diagonal, "pve": self.spectrum.mean_eigval})

    def precisions(self, draws: Draws, *, largest: int, numbers: int, rows: Any = None) -> Precisions:
        """Return P and Py at the draws, of all responses."""
        s, Q1 = self.spectrum, self.flat_basis()
        g, e, mu, b, root = self._parameters(draws)
        shape, y, fixed = (*draws.shape, *self.observed.shape[:-1]), self.observed, None
        if self.given is not None:
            rotated = self.rotated()
            if s.nullity:
                raise ValueError(
                    f"{self.name} observes z and rss, and where K has {s.nullity} directions without variance the rows "
                    "of y are not known from them: build the model with spectrum= and observed=y."
                )
            y, fixed = self.known_rows(None), (rotated.z, None, rotated.y1)
        found = kernel_parts(s, shape, y, mu, g, e, b, root @ root.mT, fixed, largest=largest, numbers=numbers)
        return Precisions(shape, self.n, Q1, found)

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node; a `Rotated` has no mu."""
        _, _, *params = rv.owner.inputs
        *mean, b, root, g, e = params
        s, mu = op.spectrum, mean[0] if mean else pt.zeros((), dtype="float64")
        data = observed_data(model, rv)
        return cls(rv.name, rv, op.treatment, mu, b, data, s.projection, s.ids, s, g, e, root, op.rotated)


def with_effects(
    s: Spectrum, rows: Any, effects: Effects, beta: FloatArray, u: Coordinates, g: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Return draws of f = Xβ + u at new rows, or at those of the data with the u of y or another."""
    if rows is not None:
        return np.asarray(draw_new_effects(s, rows, u, g, rng) + beta @ (rows.a @ s.projection.R).T)
    u = u if effects == "given" else draw_prior_effects(s, np.broadcast_to(g, beta.shape[:-1]), rng)
    return _lift(s, Coordinates(u.a + beta @ s.projection.R.T, u.b))


def shares(g: FloatArray, e: FloatArray, scales: dict[str, float]) -> dict[str, FloatArray]:
    """Return the variances of one kernel, their ratio, and the shares of what σ²_g is multiplied by."""
    derived = {"sigma2": g, "sigma2_g": g, "sigma2_e": e, "delta": e / g}
    return derived | {name: scale * g / (scale * g + e) for name, scale in scales.items()}


def _lift(s: Spectrum, u: Coordinates) -> FloatArray:
    """Return the vectors of coordinates (chain, draw, …), in blocks of draws under the memory budget."""
    count = math.prod(u.b.shape[:-1])
    a, b = u.a.reshape(count, u.a.shape[-1]), u.b.reshape(count, u.b.shape[-1])
    out = np.empty((count, s.n))
    for rows in np.array_split(np.arange(count), max(1, count * s.n // _BUDGET)):
        out[rows] = Coordinates(a[rows], b[rows]).lift(s)
    return out.reshape(*u.a.shape[:-1], s.n)
