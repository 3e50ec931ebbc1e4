"""LengthscaleSpectrum: what depends on X and on a kernel with a lengthscale, factored once over a range of it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np

from pm_fastlmm.base.arrays import (
    FloatArray,
    Ids,
    Labelled,
    align,
    columns_in_order,
    frozen,
    read,
    read_covariance,
    require_finite,
    require_fraction,
    require_length,
)
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described, listed, tracked
from pm_fastlmm.covariance.lengthscale_kernels import Kernel, OfDistances, between, read_coordinates
from pm_fastlmm.engines.lengthscale.spectra import NodeStatistics, RotatedSpectra, rank_that_matters, read_range
from pm_fastlmm.kernel.likelihood.spectral import variances
from pm_fastlmm.spectrum.projection import Projection
from pm_fastlmm.spectrum.spectrum import Spectrum
from pm_fastlmm.spectrum.weights import UNWEIGHTED, PriorWeights

_EDGE = 1e-9  # by how much rounding may carry a lengthscale beyond the range
_SAME = 1e-6  # relative difference of mean diagonals at the ends of the range that are one number


class Eigenpairs(NamedTuple):
    """K at one lengthscale: eigenvalues that are not negligible, and their eigenvectors Q₂U (n, k)."""

    eigvals: FloatArray
    rotation: FloatArray


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LengthscaleSpectrum(ReadOnlyArrays, Described):
    """
    Spectra of a kernel K(ℓ) over a range of its lengthscale, for y ~ N(Xβ, σ²(K(ℓ) + δI)) with ℓ a parameter.

    K is factored at Chebyshev nodes in log ℓ; between them the restricted likelihood is interpolated, and an evaluation
    with its gradient costs O(C k) for C nodes of rank k, tens of microseconds. σ² and δ stay exact. The number of nodes
    (9, 17, 33 …) is the first at which the error at random lengthscales is below the tolerance, for the y at hand.

    Build it with `from_coordinates`, `from_distances` or `from_function`. Instances are immutable; a factorisation is
    done when it is first needed and kept, so that other responses cost a rotation each.

    Attributes
    ----------
    lengthscale : (float, float)
        The range of ℓ. A prior must live inside it.
    delta : (float, float)
        The range of δ, in units of K, over which the tolerance holds.
    tolerance : float
        Largest error of the log-likelihood, in log units near its maximum and relative to the distance from it below.
    mean_diagonal : float or None
        k̄ = tr(K)/n, with weights as in `Spectrum`; None if it changes with ℓ.
    projection : Projection
        Of X itself.
    ids : tuple or None
    weights : PriorWeights
        √w, None where the residuals have one variance; as in `Spectrum`.

    References
    ----------
    Trefethen (2013), Approximation Theory and Approximation Practice, doi:10.1137/1.9781611975949.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(1)
    >>> x = np.linspace(0, 1, 80)
    >>> y = np.sin(6 * x) + 0.3 * rng.normal(size=80)
    >>> spectrum = flmm.LengthscaleSpectrum.from_coordinates(
    ...     x, kernel="matern52", lengthscale=(0.1, 2.0), X=np.ones((80, 1)), progressbar=False
    ... )
    >>> spectra = spectrum.rotate(y)
    >>> spectra.n_nodes
    33
    >>> exact = flmm.log_likelihood(spectrum.at(0.4).rotate(y), 1.0, 0.1)
    >>> bool(abs(spectra.loglik(0.4, 1.0, 0.1) - exact) < spectrum.tolerance)
    True
    """

    kernel: Callable[[float], Any]
    lengthscale: tuple[float, float]
    delta: tuple[float, float]
    tolerance: float
    mean_diagonal: float | None
    projection: Projection
    ids: Ids | None
    coordinates: tuple[Any, Labelled] | None
    rtol: float | None
    progressbar: bool
    _factors: dict[float, Eigenpairs]
    _recent: dict[str, Any]
    weights: PriorWeights = UNWEIGHTED

    @classmethod
    def from_function(
        cls,
        kernel: Callable[[float], Any],
        lengthscale: tuple[float, float],
        X: Any = None,
        *,
        weights: Any = None,
        delta: tuple[float, float] = (1e-4, 1e2),
        tolerance: float = 1e-3,
        rtol: float | None = None,
        progressbar: bool = True,
    ) -> Self:
        """
        Take any covariance of one positive parameter.

        Parameters
        ----------
        kernel : callable
            ℓ ↦ K, an (n, n) array or DataFrame, symmetric positive semi-definite and smooth in log ℓ.
        lengthscale : (float, float)
            Range of ℓ. Wide ranges need more nodes.
        X : (n, d) array or DataFrame, optional
            Fixed-effects design, as in `Spectrum.from_covariance`.
        weights : (n,) array or Series, optional
            Prior weights w, Var(e_i) = σ²_e/w_i, as in `Spectrum.from_covariance`.
        delta : (float, float)
            Range of δ over which the tolerance shall hold, in units of the mean diagonal of K. A smaller lower end
            needs more nodes.
        tolerance : float
        rtol : float, optional
            What counts as a zero eigenvalue of K, as in `Spectrum.from_covariance`.
        progressbar : bool
            While K is factored.

        Raises
        ------
        ValueError
            If a range, the tolerance or a weight is not positive, K is no covariance at an end of the range, or X does
            not fit.
        """
        if not callable(kernel):
            raise TypeError(
                f"kernel must be a function of the lengthscale that returns K, got {type(kernel).__name__}: one K that "
                "is known goes to flmm.Spectrum.from_covariance, coordinates to LengthscaleSpectrum.from_coordinates."
            )
        low, high = read_range(lengthscale, "lengthscale")
        small, large = read_range(delta, "delta")
        require_fraction(tolerance, "tolerance", "in log units")
        first = _factored(kernel, high, X, rtol, weights)
        K = read_covariance(kernel(low))
        if len(K.values) != first.n:
            raise ValueError(f"kernel returns K of {first.n} rows at {high:.4g} and of {len(K.values)} at {low:.4g}.")
        of_rows = Labelled(first.X, first.ids, first.coef), rtol, _labelled(first.weights, first.ids)
        second = _factored(lambda _: K, low, *of_rows)
        scale = first.mean_diagonal
        same = abs(second.mean_diagonal / scale - 1) < _SAME
        spectrum = cls(
            kernel, (low, high), (small * scale, large * scale), float(tolerance), scale if same else None,
            first.design, first.ids, None, rtol, progressbar, {}, {}, first.weights,
        )  # fmt: skip
        spectrum._factors.update({v: spectrum._truncated(s) for v, s in ((high, first), (low, second))})
        return spectrum

    @classmethod
    def from_coordinates(
        cls, x: Any, kernel: Any = "matern52", *, lengthscale: tuple[float, float], X: Any = None, **kwargs: Any
    ) -> Self:
        """
        Take a stationary kernel of the Euclidean distance between the rows of x.

        Parameters
        ----------
        x : (n,) or (n, D) array, Series or DataFrame
            Coordinates, in units in which one lengthscale fits all of them.
        kernel : {"se", "matern52", "matern32", "matern12"} or class
            Or a class of `pm.gp.cov` that takes the number of dimensions and ls.
        lengthscale : (float, float)
        X, **kwargs
            As in `from_function`.
        """
        points = read_coordinates(x)
        K = between(kernel, points.values, points.values)
        spectrum = cls.from_function(partial(_with_ids, K, points.ids), lengthscale, X, **kwargs)
        return replace(spectrum, coordinates=(kernel, replace(points, values=frozen(points.values.copy()))))

    @classmethod
    def from_distances(
        cls, distances: Any, kernel: str = "matern52", *, lengthscale: tuple[float, float], X: Any = None, **kwargs: Any
    ) -> Self:
        """
        Take a stationary kernel of given distances (n, n), which must make it positive semi-definite.

        Parameters
        ----------
        distances : (n, n) array or DataFrame
        kernel, lengthscale, X, **kwargs
            As in `from_coordinates`.
        """
        given = read(distances, "distances", ndim=(2,))
        K = OfDistances(kernel, given.values)
        require_finite(given.values, "distances", "all of them must be known.")
        return cls.from_function(partial(_with_ids, K, given.ids), lengthscale, X, **kwargs)

    @property
    def n(self) -> int:
        """Number of observations."""
        return int(self.projection.V.shape[0])

    @property
    def coef(self) -> tuple[str, ...]:
        """Names of the fixed effects."""
        return self.projection.coef

    @property
    def log_flat(self) -> float:
        """As `Spectrum.log_flat`, the same at each lengthscale."""
        return self.weights.logdet - self.weights.projection(self.projection).logdet_R

    def at(self, lengthscale: float) -> Spectrum:
        """
        Return the exact spectrum at one lengthscale, as `reml` takes it, at the cost of its factorisation.

        Raises
        ------
        ValueError
            If K is not positive semi-definite there.
        """
        key = float(lengthscale)
        if self._recent.get("lengthscale") != key:
            spectrum = _factored(self.kernel, key, *self._of_rows)
            spectrum = spectrum.with_projections(lambda projection: projection.within(self.projection.columns))
            self._recent.update(lengthscale=key, spectrum=spectrum)
        found: Spectrum = self._recent["spectrum"]
        return found

    def covariance(self, lengthscale: float) -> FloatArray:
        """Return K at one lengthscale, (n, n), its rows in the order of `ids`."""
        K = read_covariance(self.kernel(float(lengthscale)))
        order = align(self.ids, K, name="K", reference_name="the spectrum")
        return K.values if order is None else K.values[np.ix_(order, order)]

    def rotate(self, y: Any) -> RotatedSpectra:
        """
        Rotate one response (n,) at as many lengthscales as its likelihood needs.

        Raises
        ------
        ValueError
            If y does not fit (see `Spectrum.rotate`), or no number of nodes up to 257 brings the error below the
            tolerance.
        """
        values = self.read_response(y)
        if not np.array_equal(values, self._recent.get("y", np.zeros(0))):
            self._recent.update(y=values, rotated=self._rotate(values))
        found: RotatedSpectra = self._recent["rotated"]
        return found

    def draw_contrasts(self, lengthscale: float, sigma2_g: float, sigma2_e: float, noise: FloatArray) -> FloatArray:
        """
        Return error contrasts (n,) of N(0, V), whose part along X is 0, from white noise (n,).

        Raises
        ------
        ValueError
            If ℓ is outside the range.
        """
        low, high = self.lengthscale
        if not low * (1 - _EDGE) <= lengthscale <= high * (1 + _EDGE):
            raise ValueError(
                f"a lengthscale of {lengthscale:.4g} is outside the range of the spectrum, {low:.4g} to {high:.4g}: "
                "there is nothing to draw."
            )
        s = self.at(lengthscale)
        white = noise - s.projection.Q1 @ (s.projection.Q1.T @ noise)
        scaled = np.sqrt(variances(s.eigvals, np.asarray(sigma2_g), np.asarray(sigma2_e))) - np.sqrt(sigma2_e)
        y = s.weights.unscaled(np.sqrt(sigma2_e) * white + s.basis @ (scaled * (s.basis.T @ white)))
        Q1 = self.projection.Q1
        return np.asarray(y if s.weights.root is None else y - Q1 @ (Q1.T @ y))

    def read_response(self, y: Any) -> FloatArray:
        """Return one response in the order of K, checked."""
        response = read(y, "y", ndim=(1,))
        require_length(response.values.size, self.n, "y", "the spectrum")
        require_finite(response.values, "y", "leave those rows out of y, X and the kernel.")
        return response.take(align(self.ids, response, name="y", reference_name="the spectrum"))

    def new_kernels(self, x_new: Any) -> tuple[Callable[[float], FloatArray], Callable[[float], FloatArray]]:
        """
        Return K_new and K_new_new as functions of ℓ for new coordinates (m, D), which `predict` takes.

        Raises
        ------
        ValueError
            If the spectrum was not built from coordinates, or x_new has another number of columns.
        """
        if self.coordinates is None:
            raise ValueError("the spectrum was not built from coordinates: give K_new and K_new_new as functions of ℓ.")
        kernel, x = self.coordinates
        new = columns_in_order(read_coordinates(x_new, "x_new"), x.names, name="x_new")
        if new.shape[1] != x.values.shape[1]:
            raise ValueError(
                f"x_new has {new.shape[1]} columns but x had {x.values.shape[1]}: they are the same coordinates."
            )
        cross, within = between(kernel, new, x.values), between(kernel, new, new)
        return lambda v: np.asarray(cross(v)), lambda v: np.asarray(within(v))

    @property
    def _of_rows(self) -> tuple[Labelled, float | None, Labelled | None]:
        return Labelled(self.projection.X, self.ids, self.coef), self.rtol, _labelled(self.weights, self.ids)

    def _truncated(self, spectrum: Spectrum) -> Eigenpairs:
        """Return what is kept of a factorisation: without eigenvalues too small to matter at the smallest δ."""
        eigvals = spectrum.eigvals[::-1]
        rank = rank_that_matters(eigvals, self.tolerance, self.delta)
        return Eigenpairs(
            frozen(eigvals[:rank].copy()), frozen(np.ascontiguousarray(spectrum.basis[:, ::-1][:, :rank]))
        )  # fmt: skip

    def _factor(self, lengthscale: float) -> Eigenpairs:
        if lengthscale not in self._factors:
            spectrum = _factored(self.kernel, lengthscale, *self._of_rows)
            self._factors[lengthscale] = self._truncated(spectrum)
        return self._factors[lengthscale]

    def _rotate(self, values: FloatArray) -> RotatedSpectra:
        Q1, values = self.weights.projection(self.projection).Q1, self.weights.scaled(values)
        y2 = values - Q1 @ (Q1.T @ values)

        def statistics(lengthscale: float) -> NodeStatistics:
            factor = self._factor(lengthscale)
            z = y2 @ factor.rotation
            rest = y2 - factor.rotation @ z
            return NodeStatistics(factor.eigvals, z, float(rest @ rest), self.n - self.projection.rank - len(z))

        def shown(points: Iterable[float], description: str) -> Iterator[float]:
            wanted = list(points)
            show = self.progressbar and any(v not in self._factors for v in wanted)
            return tracked(wanted, description, show=show)

        return RotatedSpectra.build(
            statistics, self.lengthscale, delta=self.delta, tolerance=self.tolerance,
            log_flat=self.log_flat, progress=shown,
        )  # fmt: skip

    def __repr__(self) -> str:
        """Show sizes, the range and the names of the fixed effects."""
        extent = "lengthscale from {:.4g} to {:.4g}".format(*self.lengthscale)
        weighted = "" if self.weights.root is None else ", prior weights"
        return f"LengthscaleSpectrum(n={self.n}, {extent}, fixed effects: {listed(self.coef)}{weighted})"

    def _facts(self) -> dict[str, Any]:
        return {
            "observations": self.n,
            "lengthscale": "{:.4g} to {:.4g}".format(*self.lengthscale),
            "delta": "{:.4g} to {:.4g}".format(*self.delta),
            "tolerance": self.tolerance,
            "fixed effects": listed(self.coef),
        }


def _with_ids(kernel: Kernel, ids: Ids | None, lengthscale: float) -> Labelled:
    """Return K of a kernel whose rows have ids."""
    return Labelled(np.asarray(kernel(lengthscale)), ids, None)


def _labelled(weights: PriorWeights, ids: Ids | None) -> Labelled | None:
    """Return the weights as `Spectrum` reads them."""
    return None if weights.root is None else Labelled(weights.values, ids, None)


def _factored(kernel: Callable[[float], Any], lengthscale: float, X: Any, rtol: float | None, weights: Any) -> Spectrum:
    """Return the spectrum at a lengthscale, which an error names."""
    try:
        return Spectrum.from_covariance(kernel(lengthscale), X, weights=weights, rtol=rtol)
    except ValueError as error:
        raise ValueError(f"at a lengthscale of {lengthscale:.4g}: {error}") from error
