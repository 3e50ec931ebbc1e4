"""Bootstrap: the parametric bootstrap in the rotated coordinates, where a replicate costs O(k)."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray, require_fraction
from pm_fastlmm.base.choices import Method, require_choice
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.base.tables import Table
from pm_fastlmm.kernel.effects import effects
from pm_fastlmm.kernel.inference.intervals import ends_of
from pm_fastlmm.kernel.inference.simulation import blocks, simulate_responses
from pm_fastlmm.kernel.likelihood.information import quantities
from pm_fastlmm.kernel.likelihood.profile import maximise
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

type BootstrapKind = Literal["percentile", "basic"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Bootstrap(Described):
    """
    Estimates from responses that were drawn from a fit and fitted again.

    Attributes
    ----------
    draws : dict of (n,) arrays
        By quantity, those of `intervals`: of one kernel h2, pve, sigma2, delta, sigma2_g, sigma2_e, total and beta[…].
        Replicates that have no estimate are NaN, and correlations of an effect whose variance is 0.
    estimate : dict of float
        The fit that was drawn from.
    method : "REML" or "ML"
    ends : dict of (float, float)
        The bounds of the quantities.
    """

    draws: dict[str, FloatArray]
    estimate: dict[str, float]
    method: Method
    ends: dict[str, tuple[float, float]]

    def interval(
        self, quantity: str, level: float = 0.95, *, kind: BootstrapKind = "percentile"
    ) -> tuple[float, float]:
        """
        Return quantiles of the draws ("percentile"), or 2 · estimate minus them ("basic", cut to the range).

        Neither is correct where the estimate is near a boundary: draws from σ²_g = 0 know nothing of a larger one.
        `REMLFit.interval(quantity, "inversion")` is.

        Raises
        ------
        ValueError
            If the quantity or the kind is unknown, or the level is not between 0 and 1.
        """
        require_fraction(level, "level")
        require_choice("kind", kind, BootstrapKind)
        if quantity not in self.draws:
            raise ValueError(f"there is no quantity {quantity!r}: the draws are of {', '.join(self.draws)}.")
        draws = self.draws[quantity]
        tail = (1 - level) / 2
        known = draws[~np.isnan(draws)]
        if not known.size:
            return np.nan, np.nan
        # an order statistic, which may be infinite, and not a value between two
        low, high = np.quantile(known, [tail, 1 - tail], method="inverted_cdf")
        if kind == "basic":
            centre = self.estimate[quantity]
            low, high = (np.nan, np.nan) if np.isinf(centre) else (2 * centre - high, 2 * centre - low)
            low, high = np.clip([low, high], *self.ends[quantity])
        return float(low), float(high)

    def summary(self, level: float = 0.95, *, kind: BootstrapKind = "percentile") -> Table:
        """Return estimates, standard deviations of the draws and intervals as a table."""
        rows = {}
        for name, draws in self.draws.items():
            known = draws[np.isfinite(draws)]
            sd = float(np.std(known, ddof=1)) if known.size == draws.size else np.nan
            rows[name] = (self.estimate[name], sd, *self.interval(name, level, kind=kind))
        return Table.from_dict(rows, orient="index", columns=["estimate", "sd", "lower", "upper"])

    def to_dataset(self) -> xr.Dataset:
        """Return the draws as an xarray Dataset with the dimensions draw and, for beta, coef."""
        coef = [name for name in self.draws if name.startswith("beta[")]
        variables = {name: ("draw", values) for name, values in self.draws.items() if name not in coef}
        dataset = xr.Dataset(variables, coords={"draw": np.arange(len(self))}, attrs={"method": self.method})
        if coef:
            labels = [name.removeprefix("beta[").removesuffix("]") for name in coef]
            values = np.stack([self.draws[name] for name in coef], axis=-1)
            dataset = dataset.assign(beta=(("draw", "coef"), values)).assign_coords(coef=labels)
        return dataset

    def _facts(self) -> dict[str, Any]:
        return {"replicates": len(self), "method": self.method, **self._on_bounds, "table": ".summary()"}

    @property
    def _on_bounds(self) -> dict[str, str]:
        """How many replicates are at bounds, by the first of quantities that are so together, or lack an estimate."""
        at = {
            f"{name} = {end:g}": draws == end
            for name, draws in self.draws.items()
            for end in self.ends[name]
            if np.isfinite(end)
        }
        at["no estimate"] = np.all([np.isnan(draws) for draws in self.draws.values()], axis=0)
        first = {which.tobytes(): what for what, which in reversed(at.items()) if which.any()}
        return {what: f"{at[what].mean():.1%}" for what in reversed(first.values())}

    def __len__(self) -> int:
        """Return the number of replicates."""
        return int(next(iter(self.draws.values())).size)

    def __repr__(self) -> str:
        """Report the number of replicates and how many are on a boundary."""
        at = listed([f"{share} have {what}" for what, share in self._on_bounds.items()], none="none at a bound")
        return f"Bootstrap({len(self)} replicates of a {self.method} fit: {at}; .summary() has the table)"


def bootstrap(
    rotated: Rotated, method: Method, beta: FloatArray, sigma2_g: float, sigma2_e: float, n: int, random_seed: object
) -> Bootstrap:
    """Draw n responses of a fit and fit each; see `REMLFit.bootstrap`."""
    require_replicates(n)
    s, rng = rotated.spectrum, np.random.default_rng(random_seed)  # type: ignore[arg-type]
    parts: dict[str, list[FloatArray]] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for size in blocks(n, s.rank + s.projection.rank):
            drawn = simulate_responses(s, beta, sigma2_g, sigma2_e, size, rng)
            optima = maximise(drawn, method)
            blue = effects.blue(drawn, optima.sigma2_g, optima.sigma2_e)
            for name, values in _by_name(s, optima.sigma2_g, optima.sigma2_e, blue.beta).items():
                parts.setdefault(name, []).append(values)
        found = _by_name(s, np.asarray(sigma2_g), np.asarray(sigma2_e), beta)
    estimate = {name: float(value) for name, value in found.items()}
    draws = {name: np.concatenate(values) for name, values in parts.items()}
    return Bootstrap(draws, estimate, method, {name: ends_of(name) for name in draws})


def require_replicates(n: int) -> None:
    """Raise a ValueError if quantiles of so few replicates are none."""
    if n < 2:
        raise ValueError(f"n must be 2 replicates or more, got {n}.")


def _by_name(s: Spectrum, g: FloatArray, e: FloatArray, beta: FloatArray) -> dict[str, FloatArray]:
    return quantities(s, g, e) | {f"beta[{name}]": beta[..., j] for j, name in enumerate(s.coef)}
