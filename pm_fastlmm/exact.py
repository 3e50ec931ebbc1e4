"""The exact posterior of one kernel by quadrature over h²: the reference for NUTS, and its alternative."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq
from scipy.special import gammaincc, gammaincinv

from pm_fastlmm import effects
from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.linalg.lowrank import imprecision
from pm_fastlmm.linalg.rotated import Rotated
from pm_fastlmm.linalg.spectrum import Spectrum, as_rotated
from pm_fastlmm.prior import VariancePrior, shares

_DROP = 45.0  # log-density below the mode where the tails are cut: 3e-20
_NODES = 800
_LIMIT = 700.0  # of logit h², where 1 - h² leaves the range of floats
_CHUNK = 2_000_000
_QUANTITIES = ("h2", "pve", "delta", "total", "sigma2", "sigma2_e")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExactPosterior:
    """
    Posterior of (h², total) and of what they determine, as weights on nodes of logit h².

    Given h², the total variance is InverseGamma(shape, scale(h²)), so every mean, quantile and draw is exact up to the
    one-dimensional quadrature, whose error is far below 1e-6 posterior standard deviations.

    Attributes
    ----------
    x : (m,) array
        Equally spaced nodes of logit h².
    weights : (m,) array
        Posterior probabilities of the nodes.
    shape : float
        a + p/2.
    scale : (m,) array
        b + ½Σz²/e at the nodes.
    log_evidence : float
        log p(y) in the convention of `REMLFit.loglik`; NaN when the prior of the total is improper.
    prior : VariancePrior
    rotated : Rotated
    """

    x: FloatArray
    weights: FloatArray
    shape: float
    scale: FloatArray
    log_evidence: float
    prior: VariancePrior
    rotated: Rotated

    @property
    def spectrum(self) -> Spectrum:
        """The spectrum that was used."""
        return self.rotated.spectrum

    def mean(self, quantity: str) -> float:
        """Return the posterior mean of h2, pve, delta, total, sigma2 (= sigma2_g) or sigma2_e; inf for delta."""
        power = self._share(quantity)
        if quantity == "delta":
            return math.inf if self.prior.h2_alpha <= 1 else float(self.weights @ power)
        if quantity in ("h2", "pve"):
            return float(self.weights @ power)
        return float(self.weights @ (power * self.scale)) / (self.shape - 1) if self.shape > 1 else math.inf

    def sd(self, quantity: str) -> float:
        """Return the posterior standard deviation."""
        share, mean = self._share(quantity), self.mean(quantity)
        if quantity in ("h2", "pve"):
            return math.sqrt(self.weights @ (share - mean) ** 2)
        if quantity == "delta":
            return math.inf if self.prior.h2_alpha <= 2 else math.sqrt(self.weights @ (share - mean) ** 2)
        if self.shape <= 2:
            return math.inf
        conditional = share * self.scale / (self.shape - 1)
        within = conditional**2 / (self.shape - 2)
        return math.sqrt(self.weights @ (within + (conditional - mean) ** 2))

    def quantile(self, quantity: str, probability: float) -> float:
        """Return a posterior quantile."""
        if not 0 < probability < 1:
            raise ValueError(f"probability must be between 0 and 1, got {probability}.")
        share = self._share(quantity)
        if quantity in ("h2", "pve", "delta"):
            p = 1 - probability if quantity == "delta" else probability
            return float(self._monotone(quantity, np.array([self._x_quantile(p)]))[0])
        positive = (self.weights > 0) & (share * self.scale > 0)
        w, scales = self.weights[positive], (share * self.scale)[positive]
        centre = scales / gammaincinv(self.shape, 1 - probability)  # the quantile if h² were each node

        def excess(log_t: float) -> float:
            with np.errstate(over="ignore"):
                return float(w @ gammaincc(self.shape, scales / math.exp(log_t))) - probability

        low, high = math.log(centre.min()) - 1e-9, math.log(centre.max()) + 1e-9
        return math.exp(brentq(excess, low, high, xtol=1e-13))

    def interval(self, quantity: str, probability: float = 0.95) -> tuple[float, float]:
        """Return the equal-tailed interval of a probability between 0 and 1."""
        if not 0 < probability < 1:
            raise ValueError(f"probability must be between 0 and 1, got {probability}.")
        tail = (1 - probability) / 2
        return self.quantile(quantity, tail), self.quantile(quantity, 1 - tail)

    def h2_density(self, h2: FloatArray) -> FloatArray:
        """Return the posterior density of h² at some values from 0 to 1."""
        h = np.asarray(h2, dtype=float)
        if not ((h >= 0) & (h <= 1)).all():
            raise ValueError("h2 must be between 0 and 1.")
        with np.errstate(divide="ignore"):
            x = np.clip(np.log(h) - np.log1p(-h), self.x[0], self.x[-1])  # at 0 and 1 the limit
        at, one_minus = shares(x)
        return np.asarray(np.exp(self._log_density()(x)) / (at * one_minus))

    def beta(self) -> tuple[FloatArray, FloatArray]:
        """Return posterior mean (r,) and covariance (r, r) of the fixed effects."""
        if self.shape <= 1:
            raise ValueError("the posterior has no mean: there is one residual degree of freedom or fewer.")
        g, e = self._components(self.scale / (self.shape - 1))
        fits = effects.blue(self.rotated, g, e)
        mean = self.weights @ fits.beta
        deviation = fits.beta - mean
        between = np.einsum("i,ij,ik->jk", self.weights, deviation, deviation)
        return mean, np.einsum("i,ijk->jk", self.weights, fits.cov) + between

    def draws(self, n: int = 4000, *, random_seed: Any = None) -> dict[str, FloatArray]:
        """Return n independent posterior draws of h2, pve, delta, total, sigma2, sigma2_g, sigma2_e."""
        rng = np.random.default_rng(random_seed)
        x = self._x_quantile(rng.uniform(size=n))
        h, one_minus = shares(x)
        total = np.exp(np.interp(x, self.x, np.log(self.scale))) / rng.gamma(self.shape, size=n)
        kbar = self.spectrum.mean_diagonal
        out = {"h2": h, "total": total, "sigma2": h * total / kbar, "sigma2_e": one_minus * total}
        out["sigma2_g"] = out["sigma2"]
        return out | {name: self._monotone(name, x) for name in ("pve", "delta")}

    def to_datatree(self, n: int = 4000, *, random_seed: Any = None) -> xr.DataTree:
        """Return independent draws as a DataTree with a posterior group of one chain, for ArviZ."""
        draws = self.draws(n, random_seed=random_seed)
        posterior = {name: (("chain", "draw"), values[None]) for name, values in draws.items()}
        coords = {"chain": [0], "draw": np.arange(n)}
        return xr.DataTree.from_dict({"posterior": xr.Dataset(posterior, coords=coords)})

    def summary(self, probability: float = 0.95) -> pd.DataFrame:
        """Return means, standard deviations, medians and equal-tailed intervals as a table."""
        tail = (1 - probability) / 2
        columns = ("mean", "sd", f"eti_{tail:.1%}", "median", f"eti_{1 - tail:.1%}")
        rows = {
            q: (self.mean(q), self.sd(q), self.quantile(q, tail), self.quantile(q, 0.5), self.quantile(q, 1 - tail))
            for q in _QUANTITIES
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(columns))

    def _share(self, quantity: str) -> FloatArray:
        """Return h2, pve or delta at the nodes; for a variance its share of the total."""
        h, one_minus = shares(self.x)
        if quantity in ("h2", "pve", "delta"):
            return self._monotone(quantity, self.x)
        variances = {"total": np.ones_like(h), "sigma2_e": one_minus}
        variances["sigma2"] = variances["sigma2_g"] = h / self.spectrum.mean_diagonal
        if quantity not in variances:
            raise ValueError(f"quantity must be one of {', '.join(_QUANTITIES)}, got {quantity!r}.")
        return variances[quantity]

    def _monotone(self, quantity: str, x: FloatArray) -> FloatArray:
        s = self.spectrum
        if quantity == "h2":
            return shares(x)[0]
        if quantity == "delta":
            return s.mean_diagonal * np.exp(-x)
        return shares(x + math.log(s.mean_eigval / s.mean_diagonal))[0]

    def _components(self, total: FloatArray) -> tuple[FloatArray, FloatArray]:
        h, one_minus = shares(self.x)
        return h * total / self.spectrum.mean_diagonal, one_minus * total

    def _x_quantile(self, probability: FloatArray | float) -> Any:
        """Return quantiles of logit h²: the integral of the interpolated density, inverted."""
        fine = np.linspace(self.x[0], self.x[-1], 20 * self.x.size)
        density = CubicSpline(fine, np.exp(self._log_density()(fine)))
        cumulative = density.antiderivative()
        mass = np.maximum.accumulate(cumulative(fine))
        target = np.asarray(probability) * mass[-1]
        x = np.interp(target, mass, fine)
        step = fine[1] - fine[0]
        with np.errstate(divide="ignore", invalid="ignore"):  # one Newton step, within the cell
            newton = np.clip(np.nan_to_num((target - cumulative(x)) / density(x)), -step, step)
        return x + newton

    def _log_density(self) -> CubicSpline:
        """Return the log-density of logit h², which is smooth, between the nodes."""
        return CubicSpline(self.x, np.log(np.maximum(self.weights, 1e-300) / (self.x[1] - self.x[0])))

    def __repr__(self) -> str:
        """Report the posterior as text."""
        return f"Exact posterior, {self.prior}\n{self.summary().to_string(float_format=lambda v: f'{v:.5g}')}"


def exact_posterior(
    spectrum: Spectrum, y: Any, *, prior: VariancePrior | None = None
) -> ExactPosterior | dict[str, ExactPosterior]:
    """
    Compute the posterior of y ~ N(Xβ, σ²(K + δI)) by quadrature, β flat.

    Parameters
    ----------
    spectrum : Spectrum
        K and X, factored once.
    y : array, Series, DataFrame or Rotated
        One response (n,), or several (n, T).
    prior : VariancePrior, optional
        Default `VariancePrior.scaled_to` for each response, the prior of `kernel_model`.

    Returns
    -------
    ExactPosterior
        For several responses a dict of them by name.

    Raises
    ------
    ValueError
        If y does not fit the spectrum, or has no residual variance.

    Warns
    -----
    UserWarning
        If the spectrum is that of cross-products, and they are not precise enough where the density is highest.

    Notes
    -----
    With e_i = h²λ_i/k̄ + 1 - h² the total variance integrates out (Zellner 1971), and the integral over logit h² is a
    trapezoidal sum, which converges geometrically; its range reaches to where the density has fallen by e⁻⁴⁵.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> batch = np.repeat(np.eye(3), 4, axis=0)
    >>> spectrum = flmm.Spectrum.from_factor(batch, np.ones((12, 1)))
    >>> posterior = flmm.exact_posterior(spectrum, np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4]))
    >>> print(f"{posterior.mean('h2'):.3f} {posterior.sd('h2'):.3f}")
    0.826 0.122
    """
    rotated = as_rotated(spectrum, y)
    if rotated.names is None:
        return _one(rotated, prior)
    return {
        name: _one(Rotated(spectrum, rotated.z[t], rotated.rss[t], rotated.y1[t], rotated.norm2[t], None), prior)
        for t, name in enumerate(rotated.names)
    }


def _one(rotated: Rotated, prior: VariancePrior | None) -> ExactPosterior:
    s = rotated.spectrum
    prior = VariancePrior.scaled_to(rotated) if prior is None else prior
    if not s.rank:
        raise ValueError("K is zero orthogonal to X: the data say nothing about h², whose posterior is its prior.")
    if s.nullity and rotated.rss == 0 and (s.nullity >= 2 * prior.h2_beta or not prior.proper):
        raise ValueError(
            "the posterior is improper, because K and X explain y exactly and nothing bounds h² away from 1: "
            "use a K of lower rank, or more observations."
        )

    def log_posterior(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        with np.errstate(over="ignore", divide="ignore"):
            logdet, quadratic = _sums(rotated, x)
        density = prior.log_marginal(x, logdet, quadratic, s.df)
        return np.where(np.isfinite(quadratic), density, -np.inf), prior.total_scale + 0.5 * quadratic

    low, high = _range(lambda x: log_posterior(x)[0])
    x = np.linspace(low, high, _NODES)
    density, scale = log_posterior(x)
    imprecision(rotated, *(share[[density.argmax()]] for share in (shares(x)[0] / s.mean_diagonal, shares(x)[1])))
    weights = np.exp(density - density.max())
    evidence = density.max() + math.log(weights.sum() * (x[1] - x[0])) - s.projection.logdet_R
    return ExactPosterior(
        x=x,
        weights=weights / weights.sum(),
        shape=prior.total_shape + s.df / 2,
        scale=scale,
        log_evidence=float(evidence) if prior.proper else math.nan,
        prior=prior,
        rotated=rotated,
    )


def _range(log_density: Callable[[FloatArray], FloatArray]) -> tuple[float, float]:
    """Return where the log-density of logit h² is within `_DROP` of its maximum: found coarsely, then closed in on."""
    low, high = -50.0, 50.0
    while True:
        x = np.arange(low, high, 0.25)
        density = log_density(x)
        floor = density.max() - _DROP
        if density[0] > floor and low > -_LIMIT:
            low = max(-_LIMIT, 2 * low)
        elif density[-1] > floor and high < _LIMIT:
            high = min(_LIMIT, 2 * high)
        else:
            break
    for _ in range(3):
        inside = np.flatnonzero(density > density.max() - _DROP)
        step = x[1] - x[0]
        low, high = max(low, x[inside[0]] - step), min(high, x[inside[-1]] + step)
        x = np.linspace(low, high, 200)
        density = log_density(x)
    return low, high


def _sums(rotated: Rotated, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return Σ log e and Σ z²/e (null directions included) with e = h²λ/k̄ + 1 - h², at the nodes."""
    s = rotated.spectrum
    logdet, quadratic = np.empty_like(x), np.empty_like(x)
    for part in np.array_split(np.arange(x.size), max(1, x.size * s.rank // _CHUNK)):
        h, one_minus = shares(x[part])
        e = h[:, None] * (s.eigvals / s.mean_diagonal) + one_minus[:, None]
        logdet[part], quadratic[part] = np.log(e).sum(-1), (rotated.z**2 / e).sum(-1)
    if s.nullity:
        one_minus = shares(x)[1]
        logdet += s.nullity * np.log(one_minus)
        quadratic += rotated.rss / one_minus
    return logdet, quadratic
