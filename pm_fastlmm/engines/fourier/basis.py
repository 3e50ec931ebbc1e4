"""FourierBasis: the modes that stand for a stationary kernel on a domain, whatever its lengthscale in a range."""

import math
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, Labelled, columns_in_order, frozen
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described
from pm_fastlmm.covariance.lengthscale_kernels import read_coordinates
from pm_fastlmm.engines.fourier.grid import Grid, choose_modes
from pm_fastlmm.engines.fourier.spectral_kernels import SpectralKernel
from pm_fastlmm.engines.lengthscale.spectra import read_range

_WRAPPED = {"se": 1e-4}  # correlation with the next period at the largest lengthscale
_WRAPPED_OTHERS = 1e-3
_MAX_FEATURES = 2300
_WHY_RANGE = ": the grid is made for all lengthscales in it, and priors must keep inside it"


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class FourierBasis(ReadOnlyArrays, Described):
    """
    Equispaced Fourier features Z(x) with K_ℓ ≈ Z diag(d_ℓ) Zᵀ for every lengthscale ℓ of a range.

    f(x) = Σ_j w_j Z_j(x), w_j ~ N(0, σ²d_j), d_j = h^D S_ℓ(ω_j), with the features 1, √2 cos and √2 sin at frequencies
    on a grid of step h. The data enter by their products with the features alone, which one nonuniform FFT adds up
    (`FourierStatistics`); afterwards nothing grows with the number of rows.

    Parameters
    ----------
    x : (n,) or (n, D) array, optional
        Where the data are, D = 1 or 2: for the domain and n, when these are not given.
    kernel : "se", "matern32", "matern52", or a class of `pymc.gp.cov`
        Of one lengthscale and variance 1. A function `kernel(D, ls=)` is as good: functools.partial(RatQuad, alpha=2).
    lengthscale : (float, float)
        The range [ℓ_min, ℓ_max]; priors must keep inside it. A narrower range needs fewer features.
    domain : (low, high), or one such pair for each dimension; optional
        All points, of data and of predictions, lie inside it; default the range of x. f repeats outside.
    n : int, optional
        How many rows are expected, when x is not all of them.
    noise_ratio_min : float
        The smallest δ = σ²_e/σ² for which the representation is as exact as `tolerance` says.
    tolerance : float
        Kullback-Leibler divergence that the modes left out may add up to, in units of the log-likelihood.
    max_features : int
        The budget for M. A fit costs a few M³ once, or at each evaluation if there are several lengthscales.

    Attributes
    ----------
    grid : Grid
    size : int
        M, the number of features.
    divergence : float
        The Kullback-Leibler divergence of what was left out, at (ℓ_min, noise_ratio_min), where it is largest.
    loglik_error : float
        The standard deviation of what that does to the log-likelihood there, of data that the model describes. About
        √(2 divergence), which is far more than the divergence, its mean. Rougher data lose more: see Notes.
    coordinates : tuple of str or None
        Names of the columns of x, by which other points are put in order.

    Raises
    ------
    ValueError
        If the range or the domain is no range, or more features would be needed than the budget allows.

    Notes
    -----
    Two rules choose the grid. The period is 1/h = R + ρ: the width R of the domain, and the distance ρ at which the
    correlation at ℓ_max has fallen to 1e-3 (1e-4 for "se"), so that f does not meet itself. The frequencies reach as
    far as the data can tell: a feature with λ = nd/δ ≪ 1 is drowned in noise, and leaving it out costs ½[λ - log(1+λ)]
    of divergence; those left out cost `tolerance` in all. M grows as n^{2D/(4ν+D)} for a Matérn kernel of smoothness ν,
    and hardly for "se".

    The divergence is the mean, over data that the model describes, of the error of the log-likelihood; a single one is
    off by ± `loglik_error`. Both are those at ℓ_min and the smallest noise ratio, and fall quickly from there. Data
    that have more power at high frequencies than the kernel has are off by more, at those parameters even by log units.
    To measure it, fit again with a tolerance a hundred times smaller, and compare.

    References
    ----------
    Greengard, Rachh & Barnett (2025), Equispaced Fourier representations for efficient Gaussian process regression from
    a billion data points, SIAM/ASA J. Uncertainty Quantification 13; arXiv:2210.10210.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> x = np.linspace(0, 1, 1000)
    >>> basis = flmm.FourierBasis(x, "se", lengthscale=(0.1, 0.5))
    >>> print(basis)
    FourierBasis('se', 49 features of at most 2300, lengthscales 0.1 to 0.5, domain [0, 1];
                 divergence 0.0051, log-likelihood ± 0.1, for 1000 rows and noise ratios from 0.01)
    """

    kernel: SpectralKernel
    lengthscale: tuple[float, float]
    domain: FloatArray
    grid: Grid
    n: int
    noise_ratio_min: float
    divergence: float
    loglik_error: float
    max_features: int
    coordinates: tuple[str, ...] | None

    def __init__(
        self,
        x: Any = None,
        kernel: Any = "matern52",
        lengthscale: tuple[float, float] | None = None,
        *,
        domain: Any = None,
        n: int | None = None,
        noise_ratio_min: float = 0.01,
        tolerance: float = 0.01,
        max_features: int = _MAX_FEATURES,
    ) -> None:
        given = None if x is None else read_coordinates(x)
        points = None if given is None else given.values
        domain = _read_domain(domain, given)
        _require_pairs(domain, points)
        low, high = read_range(lengthscale, "lengthscale", _WHY_RANGE)
        n = _read_count(n, points)
        for name, value in (("noise_ratio_min", noise_ratio_min), ("tolerance", tolerance)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive, got {value}.")
        read_kernel = SpectralKernel.of(kernel, len(domain))
        width = domain[:, 1] - domain[:, 0]
        apart = high * read_kernel.radius(_WRAPPED.get(read_kernel.name, _WRAPPED_OTHERS))
        filled = float(np.prod(1 + apart / width))
        grid, divergence, spread, found = choose_modes(
            lambda omega: read_kernel.log_density(omega, low), 1 / (width + apart), domain.mean(axis=1),
            n=n * filled, noise_ratio=noise_ratio_min, tolerance=tolerance,
        )  # fmt: skip
        if grid.size > max_features or not found:
            needed = f"{grid.size} features" if found else f"at least {grid.size} features"
            budget = f"more than max_features={max_features}"
            if grid.size <= max_features:
                budget = "and more frequencies matter than can be looked at"
            raise ValueError(
                f"a {read_kernel.name} kernel with lengthscales from {low:g} on a domain of widths "
                f"{', '.join(f'{w:g}' for w in width)} needs {needed}, {budget}. "
                f"Fewer are needed with a larger smallest lengthscale (now {low:g}), a smoother kernel, a smaller "
                f"domain, or a larger noise_ratio_min (now {noise_ratio_min:g}); a larger max_features costs time as "
                "its cube."
            )
        values = {
            "kernel": read_kernel, "lengthscale": (low, high), "domain": frozen(domain), "grid": grid, "n": n,
            "noise_ratio_min": float(noise_ratio_min), "divergence": divergence,
            "loglik_error": spread, "max_features": max_features,
            "coordinates": None if given is None else given.names,
        }  # fmt: skip
        for attribute, part in values.items():
            object.__setattr__(self, attribute, part)
        self.require_inside(points, "x")

    @property
    def size(self) -> int:
        """M, the number of features."""
        return self.grid.size

    def log_weights(self, lengthscale: float) -> FloatArray:
        """Return log d_j, (M,), at a lengthscale."""
        by_mode = self.kernel.log_density(self.grid.omega, lengthscale) + self.grid.log_volume
        return np.concatenate([by_mode, by_mode[1:]])  # cosine and sine of a mode have the same

    def features(self, x: Any) -> FloatArray:
        """Return Z, (n, M), at points of the domain."""
        return self.grid.features(self.read(x, "x"))

    def read(self, x: Any, name: str) -> FloatArray:
        """
        Return points (n, D) of the domain, their columns by name where both have names; rows keep their order.

        Raises
        ------
        ValueError
            If a coordinate is missing, or points lie outside the domain.
        """
        points = columns_in_order(read_coordinates(x, name), self.coordinates, name=name)
        self.require_inside(points, name)
        return points

    def named(self, coordinates: tuple[str, ...] | None) -> "FourierBasis":
        """Return the basis with names of the coordinates, if it has none."""
        if self.coordinates is not None or coordinates is None or len(coordinates) != len(self.domain):
            return self
        other = copy(self)
        object.__setattr__(other, "coordinates", coordinates)
        return other

    def require_inside(self, points: FloatArray | None, name: str) -> None:
        """Raise a ValueError for points outside the domain, where f would repeat itself."""
        if points is None or not points.size:
            return
        if points.shape[1] != len(self.domain):
            raise ValueError(f"{name} has {points.shape[1]} coordinates, but the basis has {len(self.domain)}.")
        outside = ((points < self.domain[:, 0]) | (points > self.domain[:, 1])).any(axis=1)
        if outside.any():
            first = ", ".join(f"{v:g}" for v in points[outside.argmax()])
            raise ValueError(
                f"{int(outside.sum())} points of {name} lie outside the domain of the basis, the first is ({first}): "
                "f repeats itself out there. Give FourierBasis a domain= that holds all data and all predictions."
            )

    def same_as(self, other: "FourierBasis") -> bool:
        """Return whether the features are the same functions."""
        mine, its = self.grid, other.grid
        return bool(
            np.array_equal(mine.h, its.h) and np.array_equal(mine.centre, its.centre) and np.array_equal(mine.j, its.j)
            and (None in (self.coordinates, other.coordinates) or self.coordinates == other.coordinates)
        )  # fmt: skip

    def __repr__(self) -> str:
        """Show the kernel, the features of the budget, the domain and the error."""
        box = " x ".join(f"[{low:g}, {high:g}]" for low, high in self.domain)
        low, high = self.lengthscale
        grid = f"{self.size} features of at most {self.max_features}, lengthscales {low:g} to {high:g}, domain {box}"
        error = f"divergence {self.divergence:.2g}, log-likelihood ± {self.loglik_error:.1g}"
        rows = f"for {self.n} rows and noise ratios from {self.noise_ratio_min:g}"
        return f"FourierBasis({self.kernel.name!r}, {grid};\n             {error}, {rows})"

    def _facts(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel.name,
            "features": f"{self.size} of at most {self.max_features}",
            "lengthscale": "{:g} to {:g}".format(*self.lengthscale),
            "domain": " × ".join(f"[{low:g}, {high:g}]" for low, high in self.domain),
            "divergence": f"{self.divergence:.2g}",
            "error of the log-likelihood": f"± {self.loglik_error:.1g}",
        }


def _read_domain(domain: Any, points: Labelled | None) -> FloatArray:
    if domain is None:
        if points is None or not len(points.values):
            raise ValueError("neither x nor domain= is given: the domain holds all data and all predictions.")
        box = np.column_stack([points.values.min(axis=0), points.values.max(axis=0)])
    else:
        box = np.atleast_2d(np.asarray(domain, dtype=float))
    if box.ndim != 2 or box.shape[1] != 2 or len(box) not in (1, 2):
        raise ValueError(
            f"domain must be (low, high), or one such pair for each of two dimensions, got shape {box.shape}: "
            "in three dimensions and more the grid would be too large; inducing points are for those."
        )
    for axis, (low, high) in enumerate(box):
        if domain is None and low == high:
            raise _no_width(points, axis, low)
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise ValueError(
                f"domain must be finite and increasing, but that of coordinate {axis} is ({low:g}, {high:g}): give "
                "(low, high) for each, with low < high."
            )
    return box


def _require_pairs(domain: FloatArray, points: FloatArray | None) -> None:
    """Refuse a domain without a pair for each coordinate of x."""
    if points is None or points.shape[1] == len(domain):
        return
    pairs = ["({:g}, {:g})".format(*domain[min(k, len(domain) - 1)]) for k in range(points.shape[1])]
    raise ValueError(
        f"x has {points.shape[1]} coordinates, but domain= has a pair (low, high) for {len(domain)}: give one for "
        f"each, such as domain=[{', '.join(pairs)}]."
    )


def _no_width(points: Any, axis: int, value: float) -> ValueError:
    """Return the error of a coordinate that does not vary."""
    names, x = points.names, points.values
    varying = [k for k in range(x.shape[1]) if np.ptp(x[:, k]) > 0]
    remedy = "x is one point, from which no lengthscale is learnt. domain= says how far the function reaches."
    if varying:
        other = f"x[:, {varying}]" if names is None else f"x[{[names[k] for k in varying]}]"
        remedy = (
            f"the points lie on a line. Leave that coordinate out, x = {other}, or give domain=, a pair (low, high) "
            "for each coordinate, if f is to be predicted elsewhere."
        )
    called = axis if names is None else repr(names[axis])
    return ValueError(f"coordinate {called} of x is {value:g} in all rows, so that the domain has no width: {remedy}")


def _read_count(n: int | None, points: FloatArray | None) -> int:
    n = n if n is not None else 0 if points is None else len(points)
    if n < 1:
        raise ValueError("give x, or n=, the number of rows that are expected: more rows can tell higher frequencies.")
    return int(n)
