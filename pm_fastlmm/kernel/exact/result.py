"""ExactPosterior: the posterior of one kernel on nodes of logit h², for one response or thousands."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from scipy.interpolate import CubicSpline
from scipy.special import gammaincc, gammaincinv, gammaln

from pm_fastlmm.base.arrays import FloatArray, require_fraction, slices
from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.base.labels import over_responses
from pm_fastlmm.base.tables import Report, Table
from pm_fastlmm.base.threads import in_threads
from pm_fastlmm.kernel.exact.deviation_prior import Prior
from pm_fastlmm.kernel.likelihood.few_quantiles import loop_for
from pm_fastlmm.kernel.likelihood.prior import read_h2, shares
from pm_fastlmm.kernel.likelihood.spectral import corner
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

type Kind = Literal["eti", "hdi"]

_QUANTITIES = ("h2", "pve", "delta", "total", "sigma2", "sigma2_e")
SHARES = ("h2", "pve", "delta")
_BLOCK = 500_000
_TABLE = 8001


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExactPosterior(Described):
    """
    Posterior of (h², total) and of what they determine, as weights on nodes of logit h².

    Given h², the total variance is InverseGamma(shape, scale(h²)), so every mean, quantile and draw is exact up to the
    one-dimensional quadrature. Methods return a number for one response and an array (T,) for several. Quantities are
    h2, pve, delta, total, sigma2 (= sigma2_g) and sigma2_e.

    Attributes
    ----------
    x : (m,) array
        Nodes of logit h², shared by all responses.
    weights : (m,) or (T, m) array
        Posterior probabilities of the nodes.
    log_density : (m,) or (T, m) array
        Log-density of logit h² at the nodes.
    shape : float
        a + p/2.
    scale : (m,) or (T, m) array
        b + ½Σz²/e at the nodes.
    log_evidence : float or (T,) array
        log p(y) in the convention of `REMLFit.loglik`; NaN when the prior of the total is improper.
    log_bayes_factor : float or (T,) array
        log of ∫ p(y | h²) p(h²) dh² / p(y | h² = 0): the model with the kernel, under its prior of h², against the one
        without, both under the same prior of the total variance. It exists when that prior is improper too, being the
        same in both.
    message : str (an object array for several responses)
        Why there is no posterior, empty if there is; everything of such a response is NaN.
    names : tuple of str or None
        Names of several responses; None for one.
    prior : VariancePrior or DeviationPrior
    rotated : Rotated
    """

    x: FloatArray
    weights: FloatArray
    log_density: FloatArray
    shape: float
    scale: FloatArray
    log_evidence: Any
    log_bayes_factor: Any
    message: Any
    names: tuple[str, ...] | None
    prior: Prior
    rotated: Rotated

    @property
    def spectrum(self) -> Spectrum:
        """The spectrum that was used."""
        return self.rotated.spectrum

    def mean(self, quantity: str) -> Any:
        """Return the posterior mean; inf where it diverges, as that of delta under a uniform h²."""
        return self._moments(quantity)[0]

    def sd(self, quantity: str) -> Any:
        """Return the posterior standard deviation."""
        return self._moments(quantity)[1]

    def quantile(self, quantity: str, probability: float) -> Any:
        """Return a posterior quantile."""
        require_fraction(probability, "probability")
        return self._quantiles(quantity, np.array([probability]))[..., 0][()]

    def interval(self, quantity: str, probability: float = 0.95, *, kind: Kind = "eti") -> tuple[Any, Any]:
        """
        Return an interval with a probability between 0 and 1.

        Equal-tailed ("eti"), or the shortest one, that of highest density ("hdi"), which reaches to h² = 0 or 1 where
        the density is highest there.

        Raises
        ------
        ValueError
            If the kind is unknown, or for the highest-density interval of delta: its density is that of a ratio, whose
            shortest interval says little; take the one of h2.
        """
        levels = _levels(probability)
        require_choice("kind", kind, Kind)
        ends = self._shortest(quantity, probability) if kind == "hdi" else self._quantiles(quantity, levels[[0, 2]])
        return ends[..., 0][()], ends[..., 1][()]

    def probability(self, quantity: str, low: float, high: float) -> Any:
        """
        Return the posterior probability that a quantity lies between two values, `low` and `high` included.

        That of a region of practical equivalence, for example: `probability("h2", 0, 0.05)`.

        Raises
        ------
        ValueError
            If the quantity is unknown, or low is not below high.
        """
        if not low < high:
            raise ValueError(f"low must be below high, got {low} and {high}.")
        below = self._below(quantity, np.array([low, high], dtype=float))
        return (below[..., 1] - below[..., 0])[()]

    def h2_density(self, h2: FloatArray) -> FloatArray:
        """Return the posterior density of h² at some values (m,) from 0 to 1, (m,) or (T, m)."""
        h = read_h2(h2)
        with np.errstate(divide="ignore"):
            x = np.clip(np.log(h) - np.log1p(-h), self.x[0], self.x[-1])  # at 0 and 1 the limit
        at, one_minus = shares(x)
        floored = np.maximum(self.log_density, np.max(self.log_density, axis=-1, keepdims=True) - 1e3)
        return np.asarray(np.exp(CubicSpline(self.x, floored, axis=-1)(x)) / (at * one_minus))

    def beta(self) -> tuple[FloatArray, FloatArray]:
        """Return posterior mean (…, r) and covariance (…, r, r) of the fixed effects."""
        if self.shape <= 1:
            raise ValueError("the posterior has no mean: there is one residual degree of freedom or fewer.")
        s, r = self.spectrum, self.spectrum.projection.rank
        h, one_minus = shares(self.x)
        g = h / s.mean_diagonal
        d = np.multiply.outer(g, s.eigvals) + one_minus[:, None]
        Rinv = np.linalg.inv(s.projection.R) if r else np.zeros((0, 0))
        # given h² the estimate is R⁻¹(y₁ - Cᵀ(gz/d)) and its covariance the total times R⁻¹SR⁻ᵀ: products with weights
        # that all responses share
        S = corner(np.zeros_like(d), eigvals=s.eigvals, C=s.C, schur=s.schur, sigma2_g=g, sigma2_e=one_minus)[1]
        within = Rinv @ S @ Rinv.T
        lift = ((g[:, None] / d)[:, :, None] * s.C).transpose(1, 0, 2).reshape(s.rank, len(h) * r)
        z, y1 = np.atleast_2d(self.rotated.z), np.atleast_2d(self.rotated.y1)
        along = y1[:, None] - (z @ lift).reshape(len(z), len(h), r)
        estimates, w = along @ Rinv.T, np.atleast_2d(self.weights)
        mean = np.einsum("tm,tmr->tr", w, estimates)
        deviation = estimates - mean[:, None]
        cov = np.einsum("tm,tmr,tmq->trq", w, deviation, deviation)
        cov += np.einsum("tm,mrq->trq", w * self._total_given_h2(slice(None))[0], within)
        return (mean, cov) if self.names is not None else (mean[0], cov[0])

    def draws(self, n: int = 4000, *, random_seed: Any = None) -> dict[str, FloatArray]:
        """Return n independent posterior draws of each quantity, and of sigma2_g: (n,), or (n, T) for several."""
        rng = np.random.default_rng(random_seed)
        x = self._node_quantiles(rng.uniform(size=(len(np.atleast_2d(self.weights)), n)))
        total = self._draw_total(x, rng)
        names = ("h2", "total", "sigma2", "sigma2_e", "sigma2_g", "pve", "delta")
        out = {name: self._share(name, x) * (1.0 if name in SHARES else total) for name in names}
        return {name: values.T if self.names is not None else values[0] for name, values in out.items()}

    def to_datatree(self, n: int = 4000, *, random_seed: Any = None) -> xr.DataTree:
        """Return independent draws as a DataTree with a posterior group of one chain, for ArviZ."""
        over, responses = over_responses(self.names)
        draws = self.draws(n, random_seed=random_seed).items()
        posterior = {name: (("chain", "draw", *over), values[None]) for name, values in draws}
        coords = {"chain": [0], "draw": np.arange(n)} | responses
        return xr.DataTree.from_dict({"posterior": xr.Dataset(posterior, coords=coords)})

    def to_dataset(self, probability: float = 0.95, *, quantities: tuple[str, ...] = _QUANTITIES) -> xr.Dataset:
        """
        Return means, standard deviations, medians and intervals as an xarray Dataset.

        Variables h2_mean, h2_sd, h2_median, h2_eti, h2_hdi, … for each quantity, the intervals over a dimension
        "bound"; log_evidence, log_bayes_factor and message.

        Parameters
        ----------
        probability : float
            Of the intervals.
        quantities : tuple of str
            Highest-density intervals of variances cost most; leave out what is not needed for many responses.
        """
        over, responses = over_responses(self.names)
        levels = _levels(probability)
        variables: dict[str, Any] = {}
        for name in quantities:
            mean, sd = self._moments(name)
            ends = self._quantiles(name, levels)
            for of, values in {"mean": mean, "sd": sd, "median": ends[..., 1]}.items():
                variables[f"{name}_{of}"] = (over, values)
            variables[f"{name}_eti"] = ((*over, "bound"), ends[..., [0, 2]])
            if name != "delta":
                variables[f"{name}_hdi"] = ((*over, "bound"), self._shortest(name, probability))
        for name in ("log_evidence", "log_bayes_factor"):
            variables[name] = (over, getattr(self, name))
        variables["message"] = (over, np.asarray(self.message, dtype=str))
        coords = {"bound": ["lower", "upper"]} | responses
        return xr.Dataset(variables, coords=coords, attrs={"probability": probability, "prior": repr(self.prior)})

    def summary(self, probability: float = 0.95) -> Table:
        """Return means, standard deviations, medians and equal-tailed intervals, for several a block of rows each."""
        levels = _levels(probability)
        columns = ("mean", "sd", f"eti_{levels[0]:.1%}", "median", f"eti_{levels[2]:.1%}")
        rows = np.stack(
            [np.concatenate([np.stack(self._moments(q), -1), self._quantiles(q, levels)], -1) for q in _QUANTITIES], -2
        )
        index: pd.Index = pd.Index(_QUANTITIES)
        if self.names is not None:
            index = pd.MultiIndex.from_product([self.names, _QUANTITIES], names=["response", "quantity"])
        return Table(rows.reshape(-1, len(columns)), index=index, columns=list(columns))

    def _moments(self, quantity: str) -> tuple[Any, Any]:
        """Return mean and standard deviation, in blocks."""
        weights, share = np.atleast_2d(self.weights), self._share(quantity, self.x)
        variance = quantity not in SHARES
        means, sds = np.empty(len(weights)), np.empty(len(weights))
        rows = max(1, _BLOCK // self.x.size)
        for part in slices(len(weights), rows):
            w, conditional, within = weights[part], share[None], None
            if variance:
                with np.errstate(all="ignore"):
                    mean_total, variance_total = self._total_given_h2(part)
                    conditional, within = share * mean_total, share**2 * variance_total
            with np.errstate(over="ignore", invalid="ignore"):  # far out a ratio leaves the range, its weight is 0
                mean = np.einsum("tm,tm->t", w, np.broadcast_to(conditional, w.shape))
                if quantity in ("h2", "pve"):
                    mean = np.minimum(mean, share[-1])  # a sum of weights that are 1 up to rounding
                square = (conditional - mean[:, None]) ** 2
                if within is not None:
                    square = square + within
                square[w == 0] = 0.0
            means[part], sds[part] = mean, np.sqrt(np.einsum("tm,tm->t", w, square))
        a = self.prior.h2_alpha
        if (a <= 1) if quantity == "delta" else variance and self._moment_order <= 1:
            means[:] = math.inf
        if (a <= 2) if quantity == "delta" else variance and self._moment_order <= 2:
            sds[:] = math.inf
        sds[np.isnan(np.atleast_1d(self.log_bayes_factor))] = np.nan
        means[np.isnan(sds)] = np.nan
        return (means, sds) if self.names is not None else (float(means[0]), float(sds[0]))

    def _quantiles(self, quantity: str, probabilities: FloatArray) -> FloatArray:
        """Return quantiles (…, P)."""
        if quantity in SHARES:
            p = 1 - probabilities if quantity == "delta" else probabilities
            out = self._share(quantity, self._node_quantiles(p[None]))
        else:
            out = self._variance_quantiles(quantity, probabilities)
        return out if self.names is not None else out[0]

    def _variance_quantiles(self, quantity: str, probabilities: FloatArray) -> FloatArray:
        share, table = self._share(quantity, self.x), self._table()
        return np.exp(self._rows("variance_quantile_rows", share, probabilities.size, table, probabilities))

    def _below(self, quantity: str, values: FloatArray) -> FloatArray:
        """Return the probabilities (…, P) that a quantity is below each value."""
        self._share(quantity, self.x)  # an unknown quantity is refused
        with np.errstate(divide="ignore"):
            logs = np.log(np.clip(values, 0.0, None))
        if quantity in SHARES:
            s = self.spectrum
            if quantity == "delta":
                at = math.log(s.mean_diagonal) - logs
            else:
                with np.errstate(divide="ignore"):
                    at = logs - np.log1p(-np.clip(values, 0.0, 1.0))
                at = at - (math.log(s.mean_eigval / s.mean_diagonal) if quantity == "pve" else 0.0)

            out = self._rows("node_below_rows", None, values.size, at)
            out = 1 - out if quantity == "delta" else out
        else:
            out = self._variance_below(quantity, logs)
        return out if self.names is not None else out[0]

    def _variance_below(self, quantity: str, logs: FloatArray) -> FloatArray:
        share = self._share(quantity, self.x)
        return self._rows("variance_below_rows", share, logs.size, self._table(), logs)

    def _shortest(self, quantity: str, probability: float) -> FloatArray:
        """Return the shortest interval (…, 2)."""
        share = self._share(quantity, self.x)
        if quantity == "delta":
            raise ValueError("delta has no highest-density interval here: take the one of h2, or the equal-tailed one.")
        variance, s = quantity not in SHARES, self.spectrum
        shift = math.log(s.mean_eigval / s.mean_diagonal) if quantity == "pve" else 0.0
        ends = self._rows("shortest_rows", share, 2, self._table(), probability, variance, shift)
        ends = np.exp(ends) if variance else shares(ends)[0]
        return ends if self.names is not None else ends[0]

    def _rows(
        self, loop: str, share: FloatArray | None, columns: int, *args: Any, each: FloatArray | None = None
    ) -> FloatArray:
        """
        Run a loop of `quantiles` over blocks of responses, NaN for those without a posterior.

        It takes their log-densities and, where given, the log-scales of a share of the total, and `each` (T, …).
        """
        density, scale = np.atleast_2d(self.log_density), np.atleast_2d(self.scale)
        fine = np.flatnonzero(np.isfinite(np.atleast_1d(self.log_bayes_factor)))
        run = loop_for(loop, fine.size * columns)
        out = np.full((len(density), columns), np.nan)

        def part(block: slice) -> None:
            rows = fine[block]
            values, inputs = np.empty((rows.size, columns)), [np.ascontiguousarray(density[rows])]
            if share is not None:
                with np.errstate(over="ignore", divide="ignore"):
                    inputs.append(np.clip(np.log(scale[rows]) + np.log(share), -1e3, 1e3))
            if each is not None:
                inputs.append(each[rows])
            run(self.x, *inputs, *args, values)
            out[rows] = values

        in_threads(part, fine.size)
        return out

    @property
    def _moment_order(self) -> float:
        """Of a variance moments below this order exist."""
        return self.shape

    def _total_given_h2(self, part: slice) -> tuple[FloatArray, FloatArray]:
        """Return mean and variance of the total given h² at the nodes, (T, m), 0 where the variance is infinite."""
        mean = np.atleast_2d(self.scale)[part] / (self.shape - 1)
        return mean, mean**2 / (self.shape - 2) if self.shape > 2 else np.zeros_like(mean)

    def _draw_total(self, x: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return a draw of the total given each logit h² (T, n)."""
        logs = np.log(np.atleast_2d(self.scale))
        log_scale = np.stack([np.interp(at, self.x, row) for at, row in zip(x, logs, strict=True)])
        return np.asarray(np.exp(log_scale) / rng.gamma(self.shape, size=x.shape))

    def _node_quantiles(self, probabilities: FloatArray) -> FloatArray:
        """Return quantiles of logit h², (T, P), for probabilities (T, P) or (1, P)."""
        each = np.broadcast_to(probabilities, (len(np.atleast_2d(self.weights)), probabilities.shape[1]))
        return self._rows("node_quantile_rows", None, each.shape[1], each=each)

    def _table(self) -> tuple[float, float, FloatArray, FloatArray, float]:
        """Return the share of a Gamma(shape) variable above exp(v), and its derivative, on a grid of v; and √shape."""
        low, high = (math.log(float(gammaincinv(self.shape, p)) or 1e-300) for p in (1e-16, 1 - 1e-15))
        v = np.linspace(low - 0.1, high + 0.1, _TABLE)
        slope = -np.exp(self.shape * v - np.exp(v) - gammaln(self.shape))
        return float(v[0]), float(v[1] - v[0]), gammaincc(self.shape, np.exp(v)), slope, math.sqrt(self.shape)

    def _share(self, quantity: str, x: FloatArray) -> FloatArray:
        """Return h2, pve or delta at logit h² = x; for a variance its share of σ²_g k̄ + σ²_e, the total at weight 1."""
        s = self.spectrum
        if quantity == "delta":
            return np.asarray(s.mean_diagonal * np.exp(-x))
        if quantity == "pve":
            return shares(x + math.log(s.mean_eigval / s.mean_diagonal))[0]
        h, one_minus = shares(x)
        values = {"h2": h, "total": np.full_like(h, 1 / s.mean_weight), "sigma2_e": one_minus}
        values["sigma2"] = values["sigma2_g"] = h / s.mean_diagonal
        if quantity not in values:
            raise ValueError(f"quantity must be one of {', '.join(_QUANTITIES)}, got {quantity!r}.")
        return values[quantity]

    def __repr__(self) -> str:
        """Report the posterior as text."""
        if self.names is not None:
            failed = int((self.message != "").sum())
            without = f", {failed} without a posterior (see .message)" if failed else ""
            return f"Exact posterior of {len(self.names)} responses{without}; .to_dataset() has the intervals"
        return self._report.text()

    def _facts(self) -> dict[str, Any]:
        assert self.names is not None
        return {
            "responses": f"{len(self.names)}: {listed(self.names)}",
            "without a posterior": int((self.message != "").sum()),
            "prior": self.prior,
            "table": ".summary(), .to_dataset()",
        }

    def _repr_html_(self) -> str:
        """Show the table of one response, the names of several."""
        if self.names is not None:
            return super(ExactPosterior, self)._repr_html_()
        return self._report.html()

    @property
    def _report(self) -> Report:
        return Report("Exact posterior", [("", self.summary())], above=[str(self.prior)])


def _levels(probability: float) -> FloatArray:
    """Return the probabilities below an equal-tailed interval, its middle and its upper end."""
    require_fraction(probability, "probability")
    tail = (1 - probability) / 2
    return np.array([tail, 0.5, 1 - tail])
