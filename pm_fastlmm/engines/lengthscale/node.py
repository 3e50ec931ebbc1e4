"""The node of a LengthscaleLMM."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray, warn
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.display import tracked
from pm_fastlmm.engines.constants import Constants
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.free_variables import Fitted, FreeVariables, Link
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.engines.labels import derived, over_coef, over_obs
from pm_fastlmm.engines.lengthscale.lengthscalelmm import LengthscaleRV
from pm_fastlmm.engines.lengthscale.objective import LengthscaleObjective
from pm_fastlmm.engines.lengthscale.spectrum import LengthscaleSpectrum
from pm_fastlmm.engines.prediction import Design, Effects, NewRows, Predictive
from pm_fastlmm.engines.protocol import Target, answers_for, observed_data
from pm_fastlmm.engines.spectral.node import shares, with_effects
from pm_fastlmm.kernel.effects.effects import Coordinates, draw_effects, new_rows
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_UNCHECKED = 1e-3  # share of draws outside of what was checked that is worth a warning


class _Draw(NamedTuple):
    """One draw: its place, ℓ and the spectrum there, β and u, σ²_g and σ²_e, with a leading axis of length 1."""

    place: tuple[int, ...]
    lengthscale: float
    spectrum: Spectrum
    beta: FloatArray
    u: Coordinates
    g: FloatArray
    e: FloatArray


@answers_for(LengthscaleRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LengthscaleNode(GaussianNode):
    """
    A LengthscaleLMM node.

    Attributes
    ----------
    spectrum : LengthscaleSpectrum
    lengthscale, sigma2_g, sigma2_e : TensorVariable
        As functions of the model's variables.
    """

    called: ClassVar[str] = "LengthscaleLMM"
    law: ClassVar[str] = "N(Xβ, σ²(K(ℓ) + δI))"
    cheap: ClassVar[bool] = True
    parts: ClassVar[tuple[str, ...]] = ("beta", "u")
    recovers: ClassVar[bool] = True
    predicts: ClassVar[tuple[Effects, ...]] = ("given", "new", "population")
    takes: ClassVar[tuple[str, ...]] = ("X_new", "K_new", "K_new_new")

    spectrum: LengthscaleSpectrum
    lengthscale: Any
    sigma2_g: Any
    sigma2_e: Any

    def objective(self, model: pm.Model, method: Method = "REML") -> Fitted:
        """Return the restricted likelihood of the lengthscale and the two variances."""
        y = np.asarray(self.observed - self.known_mean(model).mu, dtype=float)
        if method != "REML":
            raise ValueError(
                f"{self.name} has a lengthscale, whose spectra give the restricted likelihood: method='REML'."
            )
        graph = pt.stack([self.lengthscale, self.sigma2_g, self.sigma2_e])
        variables = FreeVariables.of(model, self.name, [graph])
        link = Link.of(variables, graph)
        varying = link.varying
        if varying.sum() != len(variables.names):
            raise ValueError(
                f"{', '.join(variables.names)} do not determine lengthscale, sigma2_g and sigma2_e of {self.name} one "
                "by one: give each parameter variables of its own, as many as there are parameters."
            )
        return Fitted(
            LengthscaleObjective.of(self.spectrum, y, held=link.theta(variables.initial), fixed=~varying), link
        )

    @property
    def prior_weights(self) -> FloatArray | None:
        """Prior weights of the rows."""
        weights = self.spectrum.weights
        return None if weights.root is None else weights.values

    def _covariance_facts(self) -> dict[str, Any]:
        return {"lengthscale": "{:.4g} to {:.4g}".format(*self.spectrum.lengthscale)}

    def estimated(self) -> list[Any]:
        """Return ℓ, σ²_g and σ²_e."""
        return [self.lengthscale, self.sigma2_g, self.sigma2_e]

    def target(self) -> Target | None:
        """Return the best point of a grid over ℓ and δ, pulled inside the range of ℓ and off σ²_g = 0."""
        none = np.zeros(3, dtype=bool)
        values = LengthscaleObjective.of(self.spectrum, np.asarray(self.observed), held=np.zeros(3), fixed=none).start()
        low, high = np.log(self.spectrum.lengthscale)
        middle, half = (low + high) / 2, (high - low) / 2
        values[0] = np.exp(np.clip(np.log(values[0]), middle - 0.95 * half, middle + 0.95 * half))
        values[1] = max(values[1], 0.02 * values[2])
        return Target(values, ~none)

    def recover(self, draws: Draws, which: Sequence[str] | None, rng: np.random.Generator) -> dict[str, xr.DataArray]:
        """Draw β and u from their joint posterior given y, ℓ and the variances."""
        beta, u = np.empty((*draws.shape, self.projection.rank)), np.empty((*draws.shape, self.n))
        for drawn in self._draws(draws, rng):
            beta[drawn.place], u[drawn.place] = drawn.beta[0], drawn.u.lift(drawn.spectrum)[0]
        effects = {"beta": over_coef(draws.model, self, beta), "u": over_obs(draws.model, self, u)}
        return {part: effects[part] for part in self.parts if which is None or part in which}

    def read(self, new: NewRows, effects: Effects) -> Any:
        """Read X; covariances are functions of the lengthscale, which are read at each draw."""
        if new.in_sample:
            return None
        if effects == "population":
            return Design.read(self.projection, new.X_new)
        if not (callable(new.K_new) and callable(new.K_new_new)):
            raise ValueError(
                f"{self.name} has a lengthscale: K_new and K_new_new are functions of it, for new coordinates "
                "K_new, K_new_new = spectrum.new_kernels(x_new)."
            )
        return new

    def predict(self, draws: Draws, rows: Any, effects: Effects, rng: np.random.Generator) -> Predictive:
        """Draw f = Xβ + u, with the u of y, with another or with none, and y = f + e."""
        if effects == "population":
            beta = np.stack([drawn.beta[0] for drawn in self._draws(draws, rng)])
            (e,) = draws.evaluate([self.sigma2_e])
            X, ids = (self.projection.X, None) if rows is None else rows
            weights = self.spectrum.weights.values if rows is None else 1.0
            return Predictive.of(beta.reshape(*e.shape, -1) @ X.T, e, rng, ids, weights)
        means: list[FloatArray] = []
        y: list[FloatArray] = []
        read = None
        for place, ell, s, beta, u, g, e in self._draws(draws, rng):
            if rows is not None:
                read = new_rows(s, rows.X_new, rows.K_new(ell), K_new_new=rows.K_new_new(ell), warn=not any(place))
            f = with_effects(s, read, effects, beta, u, g, rng)
            means.append(f[0])
            noise = np.sqrt(e) * rng.standard_normal(f.shape[-1])
            y.append(f[0] + (self.spectrum.weights.unscaled(noise) if rows is None else noise))
        ids = None if read is None else read.ids
        return Predictive(np.reshape(means, (*draws.shape, -1)), np.reshape(y, (*draws.shape, -1)), ids)

    def _draws(self, draws: Draws, rng: np.random.Generator) -> Iterator[_Draw]:
        """Draw (β, u) given y for each draw of ℓ and the variances, in their order; K is factored for each."""
        ell, g, e = draws.evaluate(self.estimated())
        for place in tracked(list(np.ndindex(*ell.shape)), "Factoring K for each draw", show=self.spectrum.progressbar):
            spectrum = self.spectrum.at(float(ell[place]))
            variances = np.array([g[place]]), np.array([e[place]])
            beta, u = draw_effects(Rotated.from_values(spectrum, self.observed, None), *variances, rng)
            yield _Draw(place, float(ell[place]), spectrum, beta, u, *variances)

    def variances(self, draws: Draws) -> dict[str, xr.DataArray]:
        """Return what is derived, by name."""
        return {name.removeprefix(f"{self.name}_"): array for name, array in derived(draws, self).items()}

    def derived(self, *values: FloatArray) -> dict[str, FloatArray]:
        """Return ℓ, σ², δ, σ²_g, σ²_e and h²; warn of draws where the likelihood was not checked."""
        ell, g, e = values
        smallest, kbar = self.spectrum.delta[0], self.spectrum.mean_diagonal
        if (share := float((e < smallest * g).mean())) > _UNCHECKED:
            warn(
                f"{share:.1%} of the draws of {self.name} have a delta below {smallest:.2g}, where its likelihood was "
                "not checked: build the spectrum with a smaller delta=(low, high)."
            )
        return {"lengthscale": ell} | shares(g, e, {} if kbar is None else {"h2": kbar})

    def at_draws(self, draws: Draws, numbers: int) -> Iterator[tuple[FloatArray, Constants]]:
        """Return V at each draw, whose K is no graph."""
        ell, g, e = (v.ravel() for v in draws.evaluate(self.estimated()))
        known, residual = self.constants(), self.spectrum.weights.unscaled_matrix(np.eye(self.n))
        for i in range(ell.size):
            yield g[i] * self.spectrum.covariance(float(ell[i])) + e[i] * residual, known

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, *params = rv.owner.inputs
        spectrum, data = op.spectrum, observed_data(model, rv)
        return cls(rv.name, rv, op.treatment, None, None, data, spectrum.projection, spectrum.ids, spectrum, *params)
