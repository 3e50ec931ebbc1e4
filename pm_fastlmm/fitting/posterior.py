"""VariancePosterior: the posterior of the variances of a fit with several terms, by quadrature."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pandas as pd
import xarray as xr
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammaincc, gammainccinv, gammaincinv, gammaln

from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.base.arrays import FloatArray, require_fraction, warn
from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.base.display import Described, listed, progress
from pm_fastlmm.base.tables import Report, Table
from pm_fastlmm.kernel.inference.function import Named
from pm_fastlmm.models.share_prior import SharePrior
from pm_fastlmm.quadrature.integrate import Found, integrate
from pm_fastlmm.quadrature.likelihood import DEAR, Likelihood, require_scalar_variances, unit_variances
from pm_fastlmm.quadrature.ratios import NotInterpolated, Ratios, shares_of
from pm_fastlmm.quadrature.region import Region

_TOTALS = 20  # nodes of the total given the ratios, for functions of all variances
_FAR = 1e-13  # probability beyond them


class _Quantity(NamedTuple):
    """(coefficient · total)^power, with a coefficient at each node: a variance, its root, or a share (power 0)."""

    coefficient: FloatArray
    power: float


@dataclass(frozen=True, eq=False, repr=False)
class VariancePosterior(Described):
    """
    Posterior of the variances of one to three terms and of the residual, as weights on nodes of their ratios.

    Given the ratios the total variance is InverseGamma(shape, scale), so that means and standard deviations are exact
    up to the quadrature over the ratios. Quantities are the names of `fit.theta`, which are variances, "sd_…" of each,
    "share[…]" of each, "total", and with one term "h2", which is its share.

    Attributes
    ----------
    names : tuple of str
        Of the variances.
    prior : SharePrior
        With the scale of the total that was used.
    log_evidence : float
        log p(y) in the convention of `VarianceFit.loglik`.
    loglik_error : float
        The largest error of the interpolated log-likelihood at draws from the posterior.
    nodes : tuple of int
        Of the interpolation, along each axis.
    evaluations : int
        How often the likelihood was evaluated, for nodes, for the check and where the region grew.
    ratios : DataFrame
        Which ratios of a term's share to that of the residual the region covers: lower, upper.
    """

    names: tuple[str, ...]
    prior: SharePrior
    log_evidence: float
    loglik_error: float
    evaluations: int
    _ratios: Ratios
    _found: Found

    @classmethod
    def of(
        cls, objective: Objective, theta: FloatArray, information: FloatArray, prior: SharePrior, *, tolerance: float,
        random_seed: Any, progressbar: bool,
    ) -> Self:  # fmt: skip
        """Return the posterior about an estimate."""
        try:
            require_scalar_variances(objective)
            unit, alpha = unit_variances(objective), prior.alpha(objective.names)
            with progress("Posterior", None, show=progressbar and objective.work > DEAR) as tell:
                likelihood = Likelihood(objective, unit, float(unit @ theta), tell)
                scale = likelihood.residual_variance() if prior.total_scale is None else prior.total_scale
                ratios = Ratios(unit, objective.residual_df, alpha, prior.total_shape, scale)
                region = Region.about(*ratios.estimate(theta, information), likelihood.smallest)
                found, _ = integrate(ratios, likelihood, region, tolerance, np.random.default_rng(random_seed))
        except NotInterpolated as error:
            raise ValueError(f"{error} flmm.sample draws from the posterior of any model.") from error
        own, count = replace(prior, total_scale=scale), likelihood.evaluations
        if found.reason:
            warn(
                f"the log-likelihood is interpolated with an error of {found.error:.1e} after {count} evaluations, "
                f"because {found.reason}: the posterior is approximate. flmm.sample(…, loglik_tolerance=0) draws from "
                "it without interpolation."
            )
        return cls(objective.names, own, found.log_evidence, found.error, count, ratios, found)

    @property
    def nodes(self) -> tuple[int, ...]:
        """Numbers of nodes of the interpolation along each axis."""
        return self._found.interpolated.interpolant.counts

    @property
    def ratios(self) -> Table:
        """Which ratios of a term's share to that of the residual have a weight: lower, upper."""
        r = self._found.nodes.r
        return Table({"lower": r.min(axis=0), "upper": r.max(axis=0)}, list(self.names[:-1]))

    @cached_property
    def _quantities(self) -> dict[str, _Quantity]:
        shares, unit = shares_of(self._found.nodes.r), self._ratios.unit
        variances = {name: _Quantity(shares[:, j] / unit[j], 1.0) for j, name in enumerate(self.names)}
        roots = {f"sd_{name}": quantity._replace(power=0.5) for name, quantity in variances.items()}
        parts = {f"share[{name}]": _Quantity(shares[:, j], 0.0) for j, name in enumerate(self.names)}
        h2 = {"h2": _Quantity(shares[:, 0], 0.0)} if len(self.names) == 2 else {}
        return variances | {"total": _Quantity(np.ones(len(shares)), 1.0)} | roots | parts | h2

    def _quantity(self, name: str) -> _Quantity:
        if name not in self._quantities:
            raise ValueError(
                f"quantity must be one of {listed(list(self._quantities))}, got {name!r}. Functions of them: "
                "posterior.function(lambda v: …)."
            )
        return self._quantities[name]

    def mean(self, quantity: str) -> float:
        """Return the posterior mean."""
        return self._moments(quantity)[0]

    def sd(self, quantity: str) -> float:
        """Return the posterior standard deviation."""
        return self._moments(quantity)[1]

    def _moments(self, quantity: str) -> tuple[float, float]:
        """Return mean and standard deviation, from E totalᵏ = scaleᵏ Γ(shape - k)/Γ(shape); inf where it diverges."""
        of, weights, shape = self._quantity(quantity), self._found.nodes.weights, self._ratios.shape
        if of.power == 0:
            mean = float(weights @ of.coefficient)
            return mean, math.sqrt(float(weights @ (of.coefficient - mean) ** 2))
        k, log_x = of.power, np.log(of.coefficient) + self._found.nodes.log_scale
        if shape <= k:
            return math.inf, math.inf
        given = np.exp(k * log_x + gammaln(shape - k) - gammaln(shape))
        mean = float(weights @ given)
        if shape <= 2 * k:
            return mean, math.inf
        relative = math.expm1(gammaln(shape - 2 * k) + gammaln(shape) - 2 * gammaln(shape - k))
        return mean, math.sqrt(float(weights @ ((given - mean) ** 2 + relative * given**2)))

    def quantile(self, quantity: str, probability: float) -> float:
        """Return a posterior quantile."""
        require_fraction(probability, "probability")
        of, shape = self._quantity(quantity), self._ratios.shape
        if of.power == 0:
            return self._share_quantile(of, probability)
        log_x = np.log(of.coefficient) + self._found.nodes.log_scale
        guess = _weighted_quantiles(log_x, self._found.nodes.weights, [probability])[0] - math.log(shape)
        low = high = guess
        while self._below(log_x, low) > probability:
            low -= 2 / math.sqrt(shape)
        while self._below(log_x, high) < probability:
            high += 2 / math.sqrt(shape)
        log_variance = brentq(lambda v: self._below(log_x, v) - probability, low, high, xtol=1e-12, rtol=1e-12)
        return math.exp(of.power * log_variance)

    def _share_quantile(self, of: _Quantity, probability: float) -> float:
        """Return a quantile of a share: of a single ratio by the quadrature below it, of several by sorted nodes."""
        nodes, found = self._found.nodes, self._found
        if nodes.r.shape[1] > 1:
            return _weighted_quantiles(of.coefficient, nodes.weights, [probability])[0]
        rises = of.coefficient[-1] > of.coefficient[0]
        p = probability if rises else 1 - probability
        t = brentq(lambda t: found.interpolated.below(t, found.log_evidence) - p, 0.0, 1.0, xtol=1e-14, rtol=1e-12)
        share = shares_of(found.interpolated.at(np.array([[t]]))[0])[0]
        return float(share[0] if rises else share[1])

    def _share_below(self, of: _Quantity, value: float) -> float:
        nodes, found = self._found.nodes, self._found
        if nodes.r.shape[1] > 1 or not 0 < value < 1:
            return _weighted_cdf(of.coefficient, nodes.weights, value)
        rises = of.coefficient[-1] > of.coefficient[0]
        share = value if rises else 1 - value
        p = found.interpolated.below(found.interpolated.place(share / (1 - share)), found.log_evidence)
        return p if rises else 1 - p

    def _below(self, log_x: FloatArray, log_variance: float) -> float:
        """Return the probability of a variance, exp(log_x)/Gamma(shape) at each node, below a value."""
        return float(self._found.nodes.weights @ gammaincc(self._ratios.shape, np.exp(log_x - log_variance)))

    def probability(self, quantity: str, low: float, high: float) -> float:
        """
        Return the posterior probability that a quantity lies between two values, `low` and `high` included.

        Raises
        ------
        ValueError
            If the quantity is unknown, or low is not below high.
        """
        if not low < high:
            raise ValueError(f"low must be below high, got {low} and {high}.")
        of = self._quantity(quantity)
        return self._cdf(of, high) - self._cdf(of, low)

    def _cdf(self, of: _Quantity, value: float) -> float:
        if of.power == 0:
            return self._share_below(of, value)
        if value <= 0:
            return 0.0
        return self._below(np.log(of.coefficient) + self._found.nodes.log_scale, math.log(value) / of.power)

    def interval(
        self, quantity: str, probability: float = 0.95, *, kind: Literal["eti", "hdi"] = "eti"
    ) -> tuple[float, float]:
        """Return an interval, equal-tailed ("eti") or the shortest one ("hdi")."""
        require_fraction(probability, "probability")
        require_choice("kind", kind, {"eti": "equal tails", "hdi": "the shortest"})
        left = 1 - probability
        below = left / 2
        if kind == "hdi":
            edge = 1e-6 * left

            def length(p: float) -> float:
                return self.quantile(quantity, p + probability) - self.quantile(quantity, p)

            found = minimize_scalar(
                length, bounds=(edge, left - edge), method="bounded", options={"xatol": 1e-4 * left}
            )
            below = float(found.x)
        return self.quantile(quantity, below), self.quantile(quantity, below + probability)

    def function(self, function: Callable[[Mapping[str, Any]], Any], probability: float = 0.95) -> pd.Series:
        """
        Return mean, sd, median and equal-tailed interval of a function of the variances, as `fit.function` takes it.

        Parameters
        ----------
        function : callable
            Of a mapping from names of θ to arrays of values, with NumPy functions.
        probability : float
            Of the interval.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "yield ~ rep + (1 | gen) + (1 | rep:block)",
        ...     flmm.datasets.john_alpha(),
        ...     progressbar=False,
        ... )
        >>> posterior = fit.posterior()
        >>> line_mean = posterior.function(lambda v: v["gen"] / (v["gen"] + v["residual"] / 3))
        >>> print(f"{line_mean['mean']:.2f} ± {line_mean['sd']:.2f}")
        0.81 ± 0.07
        """
        require_fraction(probability, "probability")
        nodes, (factor, share) = self._found.nodes, _totals(self._ratios.shape)
        total = np.exp(nodes.log_scale)[:, None] * factor
        values = Named({name: (self._quantities[name].coefficient[:, None] * total).ravel() for name in self.names})
        weights = (nodes.weights[:, None] * share).ravel()
        found = np.broadcast_to(np.asarray(function(values), dtype=float), weights.shape)
        mean = float(weights @ found)
        tail = (1 - probability) / 2
        quantiles = _weighted_quantiles(found, weights, [tail, 0.5, 1 - tail])
        return pd.Series([mean, math.sqrt(float(weights @ (found - mean) ** 2)), *quantiles], _columns(probability))

    def summary(self, probability: float = 0.95) -> Table:
        """Return means, standard deviations, medians and equal-tailed intervals of variances, total and shares."""
        names = [name for name in self._quantities if not name.startswith("sd_") and name != "h2"]
        tail = (1 - probability) / 2
        require_fraction(probability, "probability")
        rows = [[*self._moments(name), *(self.quantile(name, p) for p in (tail, 0.5, 1 - tail))] for name in names]
        return Table(rows, names, _columns(probability))

    def draws(self, n: int = 4000, *, random_seed: Any = None) -> dict[str, FloatArray]:
        """Return n independent posterior draws (n,) of each quantity."""
        rng, ratios = np.random.default_rng(random_seed), self._ratios
        r, pieces = self._found.interpolated.at(self._found.interpolated.draw(self._found.nodes, n, rng))
        order = rng.permutation(n)
        shares = shares_of(r[order])
        total = np.exp(ratios.log_scale(pieces)[order]) / rng.gamma(ratios.shape, size=n)
        variances = {name: shares[:, j] * total / ratios.unit[j] for j, name in enumerate(self.names)}
        parts = {f"share[{name}]": shares[:, j] for j, name in enumerate(self.names)}
        roots = {f"sd_{name}": np.sqrt(values) for name, values in variances.items()}
        h2 = {"h2": shares[:, 0]} if len(self.names) == 2 else {}
        return variances | {"total": total} | roots | parts | h2

    def to_datatree(self, n: int = 4000, *, random_seed: Any = None) -> xr.DataTree:
        """
        Return independent draws as a DataTree with a posterior group of one chain, for ArviZ.

        Its variables are `total`, and over the dimension component `variance` and `share`; with one term `h2`.
        """
        draws = self.draws(n, random_seed=random_seed)
        over = ("chain", "draw", "component")
        variables: dict[str, Any] = {"total": (over[:2], draws["total"][None])}
        for called, name in {"variance": "{}", "share": "share[{}]"}.items():
            variables[called] = (over, np.stack([draws[name.format(k)] for k in self.names], axis=-1)[None])
        if "h2" in draws:
            variables["h2"] = (over[:2], draws["h2"][None])
        coords = {"chain": [0], "draw": np.arange(n), "component": list(self.names)}
        return xr.DataTree.from_dict({"posterior": xr.Dataset(variables, coords=coords)})

    @property
    def _done(self) -> str:
        nodes = " × ".join(map(str, self.nodes))
        return (
            f"likelihood interpolated on {nodes} nodes, {self.evaluations} evaluations; "
            f"error of the log-likelihood {self.loglik_error:.0e}"
        )

    @property
    def _report(self) -> Report:
        title = f"Posterior of the variances of {listed(self.names)}"
        return Report(title, [("", self.summary())], [self._done], [str(self.prior)])

    def _facts(self) -> dict[str, Any]:
        return {"variances": listed(self.names), "prior": self.prior, "done": self._done}

    def __repr__(self) -> str:
        """Report the posterior as text."""
        return self._report.text()

    def _repr_html_(self) -> str:
        return self._report.html()


def _columns(probability: float) -> list[str]:
    tail = (1 - probability) / 2
    return ["mean", "sd", f"eti_{tail:.1%}", "median", f"eti_{1 - tail:.1%}"]


def _totals(shape: float) -> tuple[FloatArray, FloatArray]:
    """Return values of 1/Gamma(shape) and their weights, by the trapezoidal rule in its logarithm."""
    ends = [math.log(max(inverse(shape, _FAR), 1e-300)) for inverse in (gammaincinv, gammainccinv)]
    x = np.linspace(ends[0], ends[1], _TOTALS)
    log_weight = shape * x - np.exp(x)
    weight = np.exp(log_weight - log_weight.max())
    return np.exp(-x), weight / weight.sum()


def _weighted_cdf(values: FloatArray, weights: FloatArray, at: float) -> float:
    order = np.argsort(values)
    return float(np.interp(at, values[order], _cumulated(weights[order]), left=0.0, right=1.0))


def _weighted_quantiles(values: FloatArray, weights: FloatArray, probabilities: list[float]) -> list[float]:
    order = np.argsort(values)
    found: list[float] = np.interp(probabilities, _cumulated(weights[order]), values[order]).tolist()
    return found


def _cumulated(weights: FloatArray) -> FloatArray:
    """Return the probability below each value: half of its own weight lies there."""
    return np.asarray(np.cumsum(weights) - weights / 2)
