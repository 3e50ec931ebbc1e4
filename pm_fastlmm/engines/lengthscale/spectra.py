"""
Spectra of one kernel over a range of lengthscales: the likelihood at any of them by interpolation.

The restricted log-likelihood of y ~ N(Xβ, σ²_gK(ℓ) + σ²_eI) needs log|V| and yᵀPy. At C Chebyshev nodes in log ℓ both
are sums over the eigenvalues of K there, exact in σ²_g and σ²_e; between the nodes they are smooth in log ℓ, and the
polynomial through the nodes gives them with their derivatives. An evaluation costs O(C k) and factors nothing.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, frozen, read_only, require_fraction
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described
from pm_fastlmm.engines.lengthscale.interpolation import chebyshev_transform, interpolation_weights, node_lengthscales
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI

MAX_NODES = 257
_FIRST = 9  # nodes; the next numbers are 2C - 1, whose nodes contain those before
_CHECKS = 10  # lengthscales at which the interpolation is compared with the exact likelihood
_CHECK_DELTAS = 24
_DELTAS = 40  # of the grid on which the best point is sought
_DROPPED = 0.1  # share of the tolerance that eigenvalues left out may cost


type _Values = FloatArray | float
type _OfNode = tuple[FloatArray, FloatArray, float, int]  # λ, z², rss and ν


class NodeStatistics(NamedTuple):
    """What one lengthscale contributes: eigenvalues (k,), rotated response z (k,), rss, and ν; k + ν is the same."""

    eigvals: FloatArray
    z: FloatArray
    rss: float
    nullity: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RotatedSpectra(ReadOnlyArrays, Described):
    """
    Spectral statistics of one response at Chebyshev nodes in log ℓ, and the likelihood between them.

        log L(ℓ, σ²_g, σ²_e) = -½[p log 2π + ν log σ²_e + Σ_c w_c(log ℓ) F_c] - ½log|XᵀX|,
        F_c = Σ_i (log d_ci + z²_ci/d_ci) + rss_c/σ²_e,   d_ci = σ²_gλ_ci + σ²_e

    Nodes of lower rank are filled up with λ = 0 and z = 0, which is the same density. Build it with `build`.

    Attributes
    ----------
    lengthscale : (float, float)
        The range of ℓ. Outside the density is 0.
    eigvals, squares : (C, k) arrays
        λ_c, descending, and z²_c at the nodes ℓ_c = exp(midpoint + half-width · cos(πc/(C - 1))).
    rss : (C,) array
        Squared norm of y outside the eigenvectors.
    nullity, df : int
        ν, common to all nodes, and p = k + ν.
    log_flat : float
        -½log|XᵀX|, with prior weights that of √w X and Σ log √w more.
    delta : (float, float)
        The range of δ = σ²_e/σ²_g over which the interpolation was checked.
    tolerance, error : float
        What was asked for, and the largest error found; both as in `build`.

    References
    ----------
    Trefethen (2013), Approximation Theory and Approximation Practice, chapters 2, 5 and 8.

    Examples
    --------
    >>> import numpy as np
    >>> from pm_fastlmm.engines.lengthscale.spectra import RotatedSpectra, NodeStatistics
    >>> z = np.array([2.0, -1.0, 0.5, 0.1])
    >>> spectra = RotatedSpectra.build(
    ...     lambda ell: NodeStatistics(np.exp(-np.arange(4) * ell), z, rss=0.3, nullity=6),
    ...     (0.5, 2.0),
    ... )
    >>> spectra.df, spectra.error <= spectra.tolerance
    (10, True)
    >>> value, gradient = spectra.value_and_gradient(1.0, sigma2_g=2.0, sigma2_e=0.1)
    >>> print(f"{value:.2f}", gradient.round(2))
    -4.67 [  0.86   0.08 -17.49]
    """

    lengthscale: tuple[float, float]
    eigvals: FloatArray
    squares: FloatArray
    rss: FloatArray
    nullity: int
    df: int
    log_flat: float
    delta: tuple[float, float]
    tolerance: float
    error: float

    @classmethod
    def build(
        cls,
        statistics: Callable[[float], NodeStatistics],
        lengthscale: tuple[float, float],
        *,
        delta: tuple[float, float] = (1e-4, 1e2),
        tolerance: float = 1e-3,
        log_flat: float = 0.0,
        max_nodes: int = MAX_NODES,
        progress: Callable[[Iterable[float], str], Iterable[float]] = lambda points, description: points,
    ) -> Self:
        """
        Choose the number of nodes: 9, 17, 33 … until the error is below the tolerance.

        The error at a point is ``|log L - exact| / max(1, maximum - exact)``: in log units near the maximum, and
        relative to the distance from it where the likelihood is lower and matters less. The largest counts, over random
        lengthscales and over δ in its range, with σ² at its best for each.

        Parameters
        ----------
        statistics : callable
            ℓ ↦ (λ, z, rss, ν); called once for each lengthscale. The nodes of each number contain those before.
        lengthscale : (float, float)
        delta : (float, float)
            In units of K. The smaller end decides on the number of nodes.
        tolerance : float
        log_flat : float
            -½log|XᵀX|, the constant of lme4, with prior weights as in `Spectrum.log_flat`.
        max_nodes : int
        progress : callable
            Wraps (lengthscales, description), for a progress bar.

        Raises
        ------
        ValueError
            If a range or the tolerance is not positive, or `max_nodes` nodes are not enough.
        """
        low, high = read_range(lengthscale, "lengthscale")
        delta = read_range(delta, "delta")
        require_fraction(tolerance, "tolerance", "in log units")
        checks = _check_points(low, high)
        largest_error = _compared(checks, [statistics(v) for v in progress(checks, "Spectra to check with")], delta)
        known: dict[float, NodeStatistics] = {}
        count, error = _FIRST, math.inf
        while count <= max_nodes:
            points = [float(v) for v in node_lengthscales(low, high, count)]
            for v in progress([v for v in points if v not in known], f"Spectra at {count} lengthscales"):
                known[v] = statistics(v)
            arrays = _stack([known[v] for v in points], tolerance, delta)
            spectra = cls((low, high), *arrays, log_flat, delta, tolerance, math.nan)
            error = largest_error(spectra)
            if error <= tolerance:
                return cls((low, high), *arrays, log_flat, delta, tolerance, error)
            count = 2 * count - 1
        raise ValueError(
            f"the likelihood is off by {error:.2g} with {(count + 1) // 2} lengthscales from {low:.4g} to {high:.4g}, "
            f"more than the tolerance of {tolerance:.2g}: narrow the range of the lengthscale, raise the smallest "
            f"delta ({delta[0]:.2g}; a squared-exponential kernel with little noise needs most), or the tolerance."
        )

    @property
    def n_nodes(self) -> int:
        """Number of nodes, C."""
        return int(self.eigvals.shape[0])

    @property
    def nodes(self) -> FloatArray:
        """The lengthscales of the nodes, descending."""
        return node_lengthscales(*self.lengthscale, self.n_nodes)

    def loglik(self, lengthscale: _Values, sigma2_g: _Values, sigma2_e: _Values) -> FloatArray:
        """Return the restricted log-likelihood as lme4 prints it, broadcast; -inf outside the range of ℓ."""
        return self.value_and_gradient(lengthscale, sigma2_g, sigma2_e)[0]

    def value_and_gradient(
        self, lengthscale: _Values, sigma2_g: _Values, sigma2_e: _Values
    ) -> tuple[FloatArray, FloatArray]:
        """Return the log-likelihood (…) and its gradient in (log ℓ, σ²_g, σ²_e), (…, 3); 0 where it is -inf."""
        points = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (lengthscale, sigma2_g, sigma2_e)))
        shape = points[0].shape
        ell, g, e = (np.ascontiguousarray(v.reshape(-1)) for v in points)
        out = interpolated_loglik(ell, g, e, *self.constants)
        return out[:, 0].reshape(shape) + self.log_flat, out[:, 1:].reshape(*shape, 3)

    @property
    def constants(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """What `interpolated_loglik` takes besides the point: λ, z², rss, and [log ℓ_min, log ℓ_max, ν]."""
        return self.eigvals, self.squares, self.rss, np.array([*np.log(self.lengthscale), self.nullity])

    def profile(self, lengthscale: FloatArray, delta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return max over σ² of the log-likelihood, and that σ², at each lengthscale (L,) and δ (D,), (L, D)."""
        logs, quadratic = _sums(self._at_nodes, delta)
        weights = interpolation_weights(*self.lengthscale, self.n_nodes, lengthscale)
        return _profiled(weights @ logs, weights @ quadratic, self.df, self.log_flat)

    def best(self, lengthscale: FloatArray | None = None, delta: FloatArray | None = None) -> FloatArray:
        """Return (ℓ, σ²_g, σ²_e) where the likelihood is highest on a grid of lengthscales and values of δ."""
        if lengthscale is None:
            low, high = np.log(self.lengthscale)
            lengthscale = np.exp(np.linspace(low, high, 4 * self.n_nodes + 2)[1:-1])
        delta = np.geomspace(*self.delta, _DELTAS) if delta is None else delta
        loglik, sigma2 = self.profile(lengthscale, delta)
        i, j = np.unravel_index(np.argmax(np.where(np.isnan(loglik), -np.inf, loglik)), loglik.shape)
        return np.array([lengthscale[i], sigma2[i, j], sigma2[i, j] * delta[j]])

    def hessian(self, lengthscale: float, sigma2_g: float, sigma2_e: float) -> FloatArray:
        """Return the second derivatives of the log-likelihood in (log ℓ, σ²_g, σ²_e), (3, 3)."""
        weights, first, second = (
            interpolation_weights(*self.lengthscale, self.n_nodes, np.array([lengthscale]), order)[0]
            for order in range(3)
        )
        d = sigma2_g * self.eigvals + sigma2_e
        t = self.squares / d
        slope, bend = (1 - t) / d, (2 * t - 1) / d**2
        values = (np.log(d) + t).sum(-1) + self.rss / sigma2_e
        by_g, by_e = (slope * self.eigvals).sum(-1), slope.sum(-1) - self.rss / sigma2_e**2
        out = np.empty((3, 3))
        out[0] = second @ values, first @ by_g, first @ by_e
        out[1, 1], out[1, 2] = weights @ (bend * self.eigvals**2).sum(-1), weights @ (bend * self.eigvals).sum(-1)
        out[2, 2] = weights @ (bend.sum(-1) + 2 * self.rss / sigma2_e**3) - self.nullity / sigma2_e**2
        out[np.tril_indices(3)] = out.T[np.tril_indices(3)]
        return -0.5 * out

    @property
    def _at_nodes(self) -> list[_OfNode]:
        own = zip(self.eigvals, self.squares, self.rss, strict=True)
        return [(eigvals, squares, float(rss), self.nullity) for eigvals, squares, rss in own]

    def __repr__(self) -> str:
        """Show the range, the sizes and the error."""
        return (
            f"RotatedSpectra(lengthscale from {self.lengthscale[0]:.4g} to {self.lengthscale[1]:.4g}, "
            f"{self.n_nodes} nodes of rank {self.eigvals.shape[1]}, error {self.error:.1g})"
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "lengthscale": f"{self.lengthscale[0]:.4g} to {self.lengthscale[1]:.4g}",
            "nodes": self.n_nodes,
            "rank": self.eigvals.shape[1],
            "error, tolerance": f"{self.error:.1g}, {self.tolerance:.1g}",
        }


def interpolated_loglik(
    lengthscale: FloatArray, sigma2_g: FloatArray, sigma2_e: FloatArray,
    eigvals: FloatArray, squares: FloatArray, rss: FloatArray, extent: FloatArray,
) -> FloatArray:  # fmt: skip
    """
    Return log L (without ½log|XᵀX|) and its derivatives in (log ℓ, σ²_g, σ²_e) at B points, (B, 4).

    `extent` is [log ℓ_min, log ℓ_max, ν]. Where the density is 0 the row is (-inf, 0, 0, 0): outside the range of ℓ,
    at a negative variance, and at σ²_e = 0 where a direction of y has no other variance.
    """
    from pm_fastlmm.engines.lengthscale.loops import interpolated_rows

    out = np.empty((lengthscale.size, 4))
    transform = chebyshev_transform(len(eigvals))
    read = read_only(eigvals, squares, rss, extent, transform)
    interpolated_rows(lengthscale, sigma2_g, sigma2_e, *read, out)
    return out


def interpolated_loglik_and_gradient(
    log_lengthscale: Any, sigma2_g: Any, sigma2_e: Any,
    eigvals: FloatArray, squares: FloatArray, rss: FloatArray, extent: FloatArray,
) -> FloatArray:  # fmt: skip
    """Return the same at one point, (4,), given log ℓ."""
    lengthscale, g, e = (np.full(1, v, dtype=float) for v in (math.exp(log_lengthscale), sigma2_g, sigma2_e))
    return np.asarray(interpolated_loglik(lengthscale, g, e, eigvals, squares, rss, extent)[0])


def read_range(given: Any, name: str, remark: str = "") -> tuple[float, float]:
    """
    Return (low, high) as numbers.

    Raises
    ------
    ValueError
        If they are not two positive, finite, increasing numbers.
    """
    values = np.asarray(given, dtype=float)
    if values.shape != (2,) or not (np.isfinite(values).all() and 0 < values[0] < values[1]):
        raise ValueError(
            f"{name} must be a range (low, high) of positive numbers, 0 < low < high, got {given!r}{remark}."
        )
    return float(values[0]), float(values[1])


def _check_points(low: float, high: float) -> FloatArray:
    """Return random lengthscales, the same each time, one in each of as many parts of the range."""
    share = (np.arange(_CHECKS) + np.random.default_rng(0).uniform(size=_CHECKS)) / _CHECKS
    return np.asarray(low * (high / low) ** share)


def _compared(
    points: FloatArray, exact: list[NodeStatistics], delta: tuple[float, float]
) -> Callable[[RotatedSpectra], float]:
    """Return the largest error of an interpolation as a function of it: at lengthscales where the sums are known."""
    values = np.geomspace(*delta, _CHECK_DELTAS)
    logs, quadratic = _sums([(p.eigvals, np.asarray(p.z) ** 2, p.rss, p.nullity) for p in exact], values)
    loglik, sigma2 = _profiled(logs, quadratic, len(exact[0].eigvals) + exact[0].nullity, 0.0)
    drop = loglik.max() - loglik

    def largest_error(spectra: RotatedSpectra) -> float:
        own_logs, own_quadratic = _sums(spectra._at_nodes, values)
        weights = interpolation_weights(*spectra.lengthscale, spectra.n_nodes, points)
        error = 0.5 * (weights @ own_logs - logs + (weights @ own_quadratic - quadratic) / sigma2)
        return float((np.abs(error) / np.maximum(1.0, drop)).max())

    return largest_error


def _sums(nodes: Iterable[_OfNode], delta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return log|V| and yᵀPy at nodes and values of δ, (C, D), with σ² = 1."""
    logs, quadratic = [], []
    for eigvals, squares, rss, nullity in nodes:
        d = np.asarray(eigvals, dtype=float) + delta[:, None]
        logs.append(np.log(d).sum(-1) + nullity * np.log(delta))
        quadratic.append((squares / d).sum(-1) + rss / delta)
    return np.array(logs), np.array(quadratic)


def _profiled(logs: FloatArray, quadratic: FloatArray, df: int, log_flat: float) -> tuple[FloatArray, FloatArray]:
    """Return the log-likelihood at the best σ² = yᵀPy/p, and that σ²."""
    sigma2 = quadratic / df
    with np.errstate(all="ignore"):
        return -0.5 * (df * (LOG_2PI + 1) + logs + df * np.log(sigma2)) + log_flat, sigma2


def rank_that_matters(eigvals: FloatArray, tolerance: float, delta: tuple[float, float]) -> int:
    """
    Return how many of descending eigenvalues to keep: the sum of the others is negligible beside the smallest δ.

    With Σλ ≤ εδ over those left out, neither log|V| nor yᵀPy changes by much more than ε.
    """
    tails = np.cumsum(eigvals[::-1])[::-1]
    return int(np.count_nonzero(tails > _DROPPED * tolerance * delta[0]))


def _stack(
    nodes: list[NodeStatistics], tolerance: float, delta: tuple[float, float]
) -> tuple[FloatArray, FloatArray, FloatArray, int, int]:
    """Return λ, z² (C, k), rss (C,), ν and p; the smallest eigenvalues, which are negligible, join the null space."""
    df = len(nodes[0].eigvals) + nodes[0].nullity
    kept: list[tuple[FloatArray, FloatArray, float]] = []
    for node in nodes:
        order = np.argsort(np.asarray(node.eigvals, dtype=float))[::-1]
        eigvals, squares = np.asarray(node.eigvals, dtype=float)[order], np.asarray(node.z, dtype=float)[order] ** 2
        if len(eigvals) + node.nullity != df:
            raise ValueError(
                f"rank and nullity add up to {len(eigvals) + node.nullity} at one lengthscale and to {df} at another: "
                "the residual degrees of freedom do not depend on the lengthscale."
            )
        rank = rank_that_matters(eigvals, tolerance, delta)
        kept.append((eigvals[:rank], squares[:rank], float(node.rss) + float(squares[rank:].sum())))
    k = max(len(eigvals) for eigvals, _, _ in kept)
    eigvals, squares = np.zeros((2, len(nodes), k))
    for c, (values, squared, _) in enumerate(kept):
        eigvals[c, : values.size], squares[c, : values.size] = values, squared
    return frozen(eigvals), frozen(squares), frozen(np.array([rss for _, _, rss in kept])), df - k, df
