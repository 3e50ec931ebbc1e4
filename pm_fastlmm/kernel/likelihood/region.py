"""Likelihood regions of δ: where the profile likelihood is within an allowed distance of its maximum."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray, slices
from pm_fastlmm.base.threads import in_threads
from pm_fastlmm.kernel.likelihood.few import SEARCH, loops_for
from pm_fastlmm.kernel.likelihood.profile import Profile, search
from pm_fastlmm.kernel.likelihood.tables import TableOf, tables

_STEP = 0.05  # of log δ, of the integral that measures distances
_MARGIN = 7.0  # of log δ beyond the spectrum: e⁻⁷ of the information is left there
_BLOCK = 500_000


class Allowed(NamedTuple):
    """
    By how much -2ℓ may rise above its minimum: `levels` at log δ = first, first + step, …, constant beyond the ends.

    The first level is that of δ = 0, the last that of δ = ∞.
    """

    first: float
    step: float
    levels: FloatArray

    @classmethod
    def constant(cls, level: float) -> Self:
        """Return the same level everywhere."""
        return cls(0.0, 1.0, np.full(2, float(level)))


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """
    Distance along log δ in standard deviations of its estimate: s(x) = ∫ √I dx, I = (p/2) var(h), h_i = λ_i/(λ_i + δ).

    I is the expected information of log δ when σ² is estimated, the variance is over the p values of h, zeros included.
    In s the estimate has the same precision everywhere, so that few points serve the whole range.

    Attributes
    ----------
    x, s : (m,) arrays
        A grid of log δ in the units of `Profile`, evenly spaced, and the distance from its lower end.
    """

    x: FloatArray
    s: FloatArray

    @classmethod
    def of(cls, profile: Profile) -> Self:
        """Measure the whole range of the spectrum of a profile."""
        low = np.log(profile.eigvals.min()) - _MARGIN
        x = np.arange(low, _MARGIN + _STEP, _STEP)
        p = profile.eigvals.size + profile.nullity
        total, squares = np.empty_like(x), np.empty_like(x)
        size = max(1, _BLOCK // profile.eigvals.size)
        for part in slices(x.size, size):
            h = profile.eigvals / (profile.eigvals + np.exp(x[part])[:, None])
            total[part], squares[part] = h.sum(-1), np.einsum("ij,ij->i", h, h)
        density = np.sqrt(np.maximum(0.5 * (squares - total**2 / p), 0.0))
        return cls(x, np.concatenate([[0.0], np.cumsum(0.5 * _STEP * (density[1:] + density[:-1]))]))

    def nodes(self, spacing: float, most: int) -> FloatArray:
        """Return values of log δ that are evenly spaced in s, both ends included."""
        count = int(np.clip(np.ceil(self.s[-1] / spacing), 2, most - 1)) + 1
        return np.asarray(np.interp(np.linspace(0, self.s[-1], count), self.s, self.x))

    def allowed(self, nodes: FloatArray, levels: FloatArray) -> Allowed:
        """Return levels at some nodes interpolated in s, by cubics without overshoot."""
        from scipy.interpolate import PchipInterpolator  # a third of a second to import

        values = PchipInterpolator(np.interp(nodes, self.x, self.s), levels)(self.s)
        return Allowed(float(self.x[0]), _STEP, values)


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """
    Likelihood regions of T responses.

    Attributes
    ----------
    best, minimum : (T,) arrays
        log δ at the maximum of the likelihood, ±inf on a boundary, and f there.
    low, high : (T,) arrays
        The lowest and the highest log δ of the region, -inf and inf where a boundary belongs to it.
    whole : (T,) bool array
        False where a part between the two lies outside: a likelihood with several modes.
    """

    best: FloatArray
    minimum: FloatArray
    low: FloatArray
    high: FloatArray
    whole: npt.NDArray[np.bool_]


def likelihood_region(profile: Profile, allowed: Allowed) -> Region:
    """Return where -2ℓ rises above its minimum by no more than allowed, for every response of a profile."""
    optima = search(profile)[:, :2]
    out, model = np.empty((len(optima), 3)), profile.model()
    table_of = tables(model, len(out))
    size = max(64, _BLOCK // max(1, profile.eigvals.size))
    for block in slices(len(out), size):
        rows = profile.squares(block), profile.null[block], optima[block], out[block]
        _region_block(table_of, model, allowed, *rows)
    return Region(optima[:, 0], optima[:, 1], out[:, 0], out[:, 1], out[:, 2] == 1)


def _region_block(
    table_of: TableOf, model: Any, allowed: Allowed, squares: FloatArray, null: FloatArray, optima: FloatArray,
    out: FloatArray,
) -> None:  # fmt: skip
    loops, table = loops_for(3 * SEARCH * len(squares)), table_of(squares, null[:, 0])
    zz, nodes, G = table.products(squares), table.nodes, table.nodes.size
    # the responses' f differ by m log Q alone: the rest of it is that of the first one
    with np.errstate(divide="ignore", invalid="ignore"):
        log_Q = np.log(zz[:, :G] + zz[:, G : 2 * G] + null[:, :1] * np.exp(-nodes))
        heights = np.empty((1, G))
        loops.value_rows(model, squares[:1], null[:1], nodes, heights)
        heights = heights + model.m * (log_Q - log_Q[0])

    def run(part: slice) -> None:
        grid = loops.Grid(nodes, table.shared, zz[part], zz[:0], zz[:0])
        loops.region_rows(model, squares[part], null[part], grid, heights[part], optima[part], allowed, out[part])

    in_threads(run, len(squares))
