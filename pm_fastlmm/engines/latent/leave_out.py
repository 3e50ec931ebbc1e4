r"""
Leave-one-out of a latent model, θ as it is.

The posterior of η_i is near N(η̂_i, s_i), and of it the likelihood of y_i is near a Gaussian of precision D_i, which is
divided out (Vehtari et al. 2016, jmlr.org/papers/v17/14-540.html, equation 24):

    η_i | y_-i ~ N(m_i, v_i),   v_i = 1/(1/s_i - D_i),   m_i = η̂_i - v_i ∂log p(y_i|η̂_i)/∂η

and p(y_i | y_-i) = ∫p(y_i|η)N(η; m_i, v_i)dη by quadrature about (η̂_i, s_i). Groups are left out exactly: the mode is
found again without their rows, and p(y_S | y_-S) is the ratio of the two approximations of the likelihood.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from scipy.special import logsumexp

from pm_fastlmm.base.arrays import FloatArray, Ids
from pm_fastlmm.base.labels import index_of
from pm_fastlmm.engines.latent.mode import Mode, Problem, find_mode
from pm_fastlmm.families.cumulative import averaged, has_cumulative, mixture, of_rows, steepness, whole
from pm_fastlmm.families.family import Derivatives, Family
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI

type Rows = npt.NDArray[np.intp]

_X, _W = np.polynomial.hermite_e.hermegauss(41)
_LEAST = 1e-20  # variance of η
_DETERMINES = 1e-8  # share of its own fitted η that an observation leaves to others, up to which they say nothing


@dataclass(frozen=True, slots=True, eq=False)
class Without(Family):
    """A family of which some rows say nothing."""

    inner: Any
    kept: FloatArray

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the family."""
        return str(self.inner.name)

    def log_density(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return log p, 0 of the rows that are left out."""
        return np.where(self.kept, self.inner.log_density(y, eta, psi), 0.0)

    def derivatives(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> Derivatives:
        """Return log p and its derivatives, 0 of the rows that are left out."""
        return Derivatives(*(np.where(self.kept, part, 0.0) for part in self.inner.derivatives(y, eta, psi)))

    def read(self, y: Any) -> FloatArray:
        """Return responses as the family does."""
        return np.asarray(self.inner.read(y))

    def start(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the start of the family."""
        eta, psi = self.inner.start(y)
        return np.asarray(eta), np.asarray(psi)

    def mean(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return E(y | η)."""
        return np.asarray(self.inner.mean(eta, psi))

    def variance(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return var(y | η)."""
        return np.asarray(self.inner.variance(eta, psi))

    def draw(self, eta: FloatArray, psi: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return draws."""
        return np.asarray(self.inner.draw(eta, psi, rng))


@dataclass(frozen=True, eq=False)
class LeftOut:
    """
    What the others say of the η of each observation, and of the response.

    Attributes
    ----------
    family : Family
    y, psi : arrays
    mean, variance : (n,) arrays
        Of η_i given y without i, or without the group of i; NaN where they do not say.
    log_density : (n,) array
    ids : tuple or None
    groups : Groups or None
    joint : (G,) array or None
        log p(y_S | y_-S) of each group.
    """

    family: Family
    y: FloatArray
    psi: FloatArray
    mean: FloatArray
    variance: FloatArray
    log_density: FloatArray
    ids: Ids | None
    groups: Any = None
    joint: FloatArray | None = None

    def pit(self, rng: np.random.Generator) -> FloatArray:
        """Return P(ỹ_i ≤ y_i | y_-i), of integers drawn between P(ỹ_i < y_i) and that; NaN where it is not known."""
        known = np.isfinite(self.mean)
        out, shown = np.full(len(self.y), np.nan), rng.random(len(self.y))
        if not has_cumulative(self.family) or not known.any():
            return out
        at = np.flatnonzero(known)
        family, given = of_rows(self.family, at), (self.psi, self.mean[at], np.sqrt(self.variance[at]))
        upper = mixture(family, self.y[at], *given)
        lower = mixture(family, self.y[at] - 1, *given) if whole(family) else upper
        out[at] = np.clip(lower + shown[at] * (upper - lower), 0.0, 1.0)
        return out

    def moments(self) -> tuple[FloatArray, FloatArray]:
        """Return E(ỹ_i | y_-i) and its standard deviation."""
        return moments(self.family, self.psi, self.mean, self.variance)[::2]

    def table(self, random_seed: Any = 0) -> pd.DataFrame:
        """Return a row for each observation."""
        mean, sd = self.moments()
        columns = {
            "y": self.y, "mean": mean, "sd": sd, "log_density": self.log_density,
            "pit": self.pit(np.random.default_rng(random_seed)),
        }  # fmt: skip
        table = pd.DataFrame(columns, index=pd.RangeIndex(len(self.y)) if self.ids is None else index_of(self.ids))
        if self.groups is not None:
            code = np.empty(len(self.y), dtype=np.intp)
            for j, rows in enumerate(self.groups.members):
                code[rows] = j
            table.insert(0, "group", [self.groups.labels[j] for j in code])
        return table

    def group_table(self) -> pd.DataFrame:
        """Return a row for each group: n_obs and log_density."""
        index = pd.Index(self.groups.labels, name="group", tupleize_cols=False)
        return pd.DataFrame({"n_obs": self.groups.sizes, "log_density": self.joint}, index=index)


def moments(
    family: Family, psi: FloatArray, mean: FloatArray, variance: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return E g⁻¹(η), its standard deviation, and that of y, of η_i ~ N(mean_i, variance_i); NaN where η is."""
    known = np.isfinite(mean) & np.isfinite(variance)
    m, sd = np.where(known, mean, 0.0), np.sqrt(np.where(known, variance, 0.0))
    steep = steepness(family, m, psi)

    def of(some: Any, eta: FloatArray) -> FloatArray:
        own = of_rows(family, some)
        mu = own.mean(eta, psi)
        return np.stack([mu, mu**2, own.variance(eta, psi)], axis=-1)

    with np.errstate(over="ignore", invalid="ignore"):
        first, second, within = averaged(of, m, sd, steep).reshape(-1, 3).T
        between = np.maximum(second - first**2, 0.0)
        found = first, np.sqrt(between), np.sqrt(between + within)
    one, two, three = (np.where(known, values, np.nan) for values in found)
    return one, two, three


def density_of(
    family: Family, y: FloatArray, psi: FloatArray, mean: FloatArray, variance: FloatArray, about: FloatArray,
    spread: FloatArray,
) -> FloatArray:  # fmt: skip
    """Return log ∫p(y_i|η)N(η; mean_i, variance_i)dη, (n,), by nodes about a normal distribution near the integrand."""
    s = np.maximum(spread, _LEAST)
    v = np.maximum(variance, _LEAST)
    eta = about + np.sqrt(s) * _X[:, None]
    normal = -0.5 * ((eta - mean) ** 2 / v + np.log(v / s) + LOG_2PI)
    with np.errstate(all="ignore"):
        log = family.log_density(y, eta, psi) + normal + (np.log(_W) + _X**2 / 2)[:, None]
    return np.asarray(logsumexp(np.where(np.isnan(log), -np.inf, log), axis=0))


def leave_one_out(state: Any, ids: Ids | None) -> LeftOut:
    """Leave each observation out of a state whose unknowns are all those that the others estimate."""
    at, s = state.mode.derivatives, state.eta_variances
    precision = 1 - s * state.white.coefficients
    known = precision > _DETERMINES
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(known, s / precision, np.nan)
        mean = state.eta - variance * at.first
    family: Family = state.products.family
    density = density_of(family, state.y, state.psi, mean, variance, state.eta, s)
    return LeftOut(family, state.y, state.psi, mean, variance, np.where(known, density, np.nan), ids)


def leave_groups_out(state: Any, ids: Ids | None, groups: Any, known: Sequence[bool]) -> LeftOut:
    """Leave groups out one after the other, the mode found anew; `known` says of which the others estimate β."""
    family: Family = state.products.family
    own, W = state.problem, sp.csr_array(state.problem.rows)
    offset = np.broadcast_to(own.offset, state.y.shape)
    mean, variance, density = (np.full(len(state.y), np.nan) for _ in range(3))
    joint = np.full(len(groups.members), np.nan)
    whole_value = _value(state.mode)
    for j, rows in enumerate(groups.members):
        if not known[j]:
            continue
        kept = np.ones(len(state.y))
        kept[rows] = 0
        mode = find_mode(Problem(own.equations, own.roots, Without(family, kept), own.y, own.psi, offset), state.mode.x)
        if mode is None:
            continue
        half = mode.factor.reached(sp.csc_array(W[rows].T))
        mean[rows] = offset[rows] + W[rows] @ mode.x
        variance[rows] = (half**2).sum(axis=0)
        part, psi = of_rows(family, rows), state.psi
        centre, spread = _tilted(part, state.y[rows], psi, mean[rows], variance[rows])
        density[rows] = density_of(part, state.y[rows], psi, mean[rows], variance[rows], centre, spread)
        joint[j] = whole_value - _value(mode)
    return LeftOut(family, state.y, state.psi, mean, variance, density, ids, groups, joint)


def _value(mode: Mode) -> float:
    return float(mode.value - 0.5 * mode.factor.logdet)


def _tilted(
    family: Family, y: FloatArray, psi: FloatArray, mean: FloatArray, variance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return mode and inverse curvature of p(y_i|η)N(η; mean_i, variance_i) by Newton steps, row by row."""
    eta, v = mean.copy(), np.maximum(variance, _LEAST)
    for _ in range(50):
        with np.errstate(all="ignore"):
            at = family.derivatives(y, eta, psi)
        curvature = 1 / v + np.maximum(-at.second, 0.0)
        step = np.clip((at.first - (eta - mean) / v) / curvature, -3 * np.sqrt(v), 3 * np.sqrt(v))
        step = np.where(np.isfinite(step), step, 0.0)
        eta = eta + step
        if np.abs(step).max(initial=0.0) < 1e-8:
            break
    return eta, 1 / curvature
