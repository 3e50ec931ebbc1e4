"""What the iteration maximises: the (restricted) likelihood over θ, in coordinates whose bounds are those of V."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pm_fastlmm.aireml.cone import PackedMatrix, errors, pack, read_matrix
from pm_fastlmm.aireml.face import Face
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.spectrum.sparse_projection import AnyProjection
from pm_fastlmm.spectrum.spectrum import Rotated

_SMALLEST = 1e-70  # of the length of y, and 1/_SMALLEST the largest: the information has fourth powers of it
RESCALE = 0.05  # |log c| above which V is multiplied by its best factor c = yᵀPy/p


class Observed(NamedTuple):
    """
    The response of an objective that keeps it by row.

    Attributes
    ----------
    y : (n,) array
        Without its part along X where β is integrated out.
    along : (n,) or (r,) array
        What lies along X, or its coordinates Q₁ᵀy, which have the same length.
    flat : bool
        Whether β is integrated out, or estimated.
    """

    y: FloatArray
    along: FloatArray
    flat: bool

    def require_residual(self) -> None:
        """Refuse a response of which X leaves nothing, or whose squares leave the range of floating point."""
        left = float(np.linalg.norm(self.y))
        whole = float(np.hypot(left, np.linalg.norm(self.along)))
        if not (whole == 0 or _SMALLEST < whole < 1 / _SMALLEST):
            raise ValueError(
                f"y has values of size {whole:.1e}, whose squares leave the range of floating point: choose another "
                "unit."
            )
        if self.flat and left <= len(self.y) * np.finfo(float).eps * whole:
            raise ValueError(
                "X explains y exactly, no residual is left: there is nothing to estimate a variance from. Check for a "
                "constant y, or a column of X that equals it."
            )


class NoEstimate(ValueError):
    """The likelihood has no maximum whatever the variances are, as where fixed effects go to infinity."""


class Evaluated(NamedTuple):
    """θ and the log-likelihood there, of an objective that keeps no factorisation."""

    theta: FloatArray
    loglik: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Objective(ABC):
    """
    A likelihood over θ with score and average information.

    The iteration walks in internal coordinates ω, θ itself unless a subclass says otherwise.

    Attributes
    ----------
    names : tuple of str
        Of the elements of θ.
    lower, upper : (P,) arrays
        Bounds of θ.
    fixed : (P,) bool array
        Elements that keep their value.
    coef : tuple of str
        Names of the fixed effects.
    method : "REML" or "ML"
    n : int
        Number of observations.
    projection : Projection or SparseProjection
        The projection by X.
    """

    names: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    fixed: Any
    coef: tuple[str, ...]
    method: Method = "REML"
    n: int
    projection: AnyProjection

    laplace: ClassVar[bool] = False  # whether the likelihood is Laplace's approximation of that of a response

    @abstractmethod
    def state(self, theta: FloatArray) -> Any:
        """Return V factored at θ, with its `loglik`; None where V is not positive definite."""

    @abstractmethod
    def derivatives(self, theta: FloatArray, state: Any) -> tuple[FloatArray, FloatArray]:
        """Return the score (P,) and the average information (P, P)."""

    def gradient(self, theta: FloatArray, state: Any) -> FloatArray:
        """Return the score alone."""
        return self.derivatives(theta, state)[0]

    @abstractmethod
    def coefficients(self, state: Any) -> tuple[FloatArray, FloatArray]:
        """Return β̂ and its covariance."""

    def estimate(self, state: Any) -> FloatArray:
        """Return β̂ alone."""
        return self.coefficients(state)[0]

    @abstractmethod
    def covariance(self, theta: FloatArray) -> FloatArray:
        """Return V(θ), (n, n)."""

    @abstractmethod
    def covariance_derivatives(self, theta: FloatArray) -> FloatArray:
        """Return ∂V/∂θ, (P, n, n)."""

    @abstractmethod
    def start(self) -> FloatArray:
        """Return a starting value."""

    def other_starts(self) -> list[FloatArray]:
        """Return starts from which an iteration that ended on the boundary may come to another maximum."""
        return []

    def log_likelihood(self, theta: FloatArray) -> float:
        """Return ℓ(θ); -inf where V is not positive definite."""
        state = self.state(theta)
        return -math.inf if state is None else float(state.loglik)

    def score(self, theta: FloatArray) -> FloatArray:
        """Return ∂ℓ/∂θ, (P,)."""
        return self.gradient(theta, self._factored(theta))

    def average_information(self, theta: FloatArray) -> FloatArray:
        """Return the average information ½ qᵢᵀPqⱼ, qᵢ = (∂V/∂θ_i)Py, (P, P)."""
        return self.derivatives(theta, self._factored(theta))[1]

    def blue(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the generalised least squares estimate of β and its covariance, with V at θ."""
        return self.coefficients(self._factored(theta))

    def of_parts(self, theta: FloatArray, cov: FloatArray) -> tuple["Objective", FloatArray]:
        """Return the objective of the terms that this one is made of, and the covariance of its θ from its own."""
        return self, cov

    def holding(self, place: int) -> Callable[[float], "Objective"] | None:
        """Return the likelihood with a coefficient held, as a function of its value; None if it is in closed form."""
        return None

    def coefficient_cov(self, theta: FloatArray) -> Any:
        """Return the covariance of β̂ at θ by the curvature of the likelihood in β."""
        return self.blue(theta)[1]

    def _factored(self, theta: FloatArray) -> Any:
        state = self.state(theta)
        if state is None:
            raise ValueError(f"V is not positive definite at {self.described(theta)}.")
        return state

    def quadratic(self, theta: FloatArray, state: Any) -> float:
        """Return yᵀPy of a state, which a total variance is integrated out with."""
        raise ValueError(f"the likelihood of {', '.join(self.names)} does not keep yᵀPy.")

    @property
    def least_squares(self) -> float | None:
        """What β̂ of least squares leaves of the squares of y, where β is integrated out and y is kept; else None."""
        return None

    def mean_variances(self, theta: FloatArray) -> dict[str, float]:
        """
        Return the variance that each component gives an observation on average, by name; the residual is last.

        Raises
        ------
        ValueError
            If V is not a sum of components whose variances are known.
        """
        raise ValueError(
            f"the likelihood of {', '.join(self.names)} does not say which part of V is a component of its own: shares "
            "are those of one kernel or of the terms of a StructuredLMM."
        )

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of traits or groups whose residuals have variances of their own, none of one variance."""
        return ()

    def variances_of(self, theta: FloatArray, coordinate: int) -> dict[str, float]:
        """Return the same of the rows of one of these coordinates."""
        return self.mean_variances(theta)

    def point(self, theta: FloatArray) -> dict[str, Any]:
        """Return the free variables of the model by name where θ is made of them, otherwise nothing."""
        return {}

    def internal(self, theta: FloatArray) -> FloatArray:
        """Return ω of θ."""
        return np.array(theta, dtype=float)

    def external(self, omega: FloatArray) -> FloatArray:
        """Return θ of ω."""
        return np.array(omega, dtype=float)

    def jacobian(self, omega: FloatArray) -> FloatArray:
        """Return ∂θ/∂ω."""
        return np.eye(len(omega))

    @property
    def internal_lower(self) -> FloatArray:
        """Lower bounds of ω."""
        return self.lower

    @property
    def internal_upper(self) -> FloatArray:
        """Upper bounds of ω."""
        return self.upper

    def inactive(self, omega: FloatArray, score: FloatArray, information: FloatArray) -> Any:
        """Return which elements of ω have no more influence on V, in the direction of their score."""
        return np.zeros(len(omega), dtype=bool)

    def em(self, omega: FloatArray, score: FloatArray) -> FloatArray | None:
        """Return an EM step from ω, None where there is none."""
        return None

    @property
    def observed(self) -> Observed:
        """
        The response by row.

        Raises
        ------
        ValueError
            If only statistics of it are kept.
        """
        raise ValueError("this likelihood keeps statistics of y, not y by row.")

    def require_residual(self) -> None:  # noqa: B027, most likelihoods see it themselves
        """Raise a ValueError if y has no estimate, where the likelihood itself does not see that."""

    @property
    def residual_df(self) -> int:
        """Degrees of freedom that the estimated coefficients leave."""
        return self.n - len(self.coef)

    @property
    def exact(self) -> Any:
        """The `REMLFit` of one kernel whose two variances are both free: its tests and intervals are exact; or None."""
        return None

    @property
    def work(self) -> float:
        """About how many multiplications an evaluation takes, those of LAPACK, which are fast, as a tenth."""
        return float(self.n) ** 3 / 10

    @property
    def variances(self) -> Any:
        """Which elements of θ are variances, as far as the likelihood knows."""
        return np.zeros(len(self.names), dtype=bool)

    @property
    def of_residual(self) -> slice:
        """The elements of θ that are variances and covariances of the residuals."""
        return slice(len(self.names) - 1, len(self.names))

    @property
    def matrices(self) -> Sequence[PackedMatrix]:
        """The unstructured matrices among the coordinates, those that are held as well."""
        return ()

    @property
    def together(self) -> Any:
        """Which elements of θ are those of a matrix of several effects: none can be held, or bounded, on its own."""
        out = np.zeros(len(self.names), dtype=bool)
        for matrix in self.matrices:
            out[matrix.place] = matrix.size > 1
        return out

    @property
    def semidefinite(self) -> Sequence[PackedMatrix]:
        """The matrices that vary, and must stay positive semi-definite."""
        return [m for m in self.matrices if not self.fixed[m.place].any()]

    def linear(self, theta: FloatArray, free: Any) -> bool:
        """Return whether V is known to be linear in the free elements of θ."""
        return False

    def alone(self, theta: FloatArray, place: int) -> Rotated:
        """
        Return y less the predictions of all components but one, whose variance is θ_place, rotated by that one.

        Raises
        ------
        ValueError
            If the components cannot be told apart so.
        """
        raise ValueError(
            "the null distribution of one of several components is that of the restricted likelihood of terms: "
            "fit flmm.find_reml of a StructuredLMM without a prior on beta, method='REML'."
        )

    def unbounded(self, theta: FloatArray, score: FloatArray) -> str:
        """Return what it means that the likelihood still rises where the iteration ended, nothing if it does not."""
        return ""

    def face(self, theta: FloatArray, information: FloatArray) -> Face | None:
        """Return coordinates of matrices that keep their rank, None where θ has no matrices."""
        return None

    def rescaled(self, omega: FloatArray, state: Any) -> tuple[FloatArray, Any] | None:
        """Return ω and state with V multiplied by its best factor, None if that is not possible or no gain."""
        return None

    def within_bounds(self, omega: FloatArray) -> bool:
        """Return whether ω is within its bounds."""
        return bool(((omega >= self.internal_lower) & (omega <= self.internal_upper)).all())

    def first_better(self, targets: Iterable[FloatArray], state: Any) -> tuple[FloatArray, Any] | None:
        """Return the first ω within its bounds that has a higher likelihood than a state, and its own state."""
        for target in filter(self.within_bounds, targets):
            candidate = self.state(self.external(target))
            if candidate is not None and candidate.loglik > state.loglik:
                return target, candidate
        return None

    def remarks(self, theta: FloatArray) -> list[str]:
        """Return what a user should know of this θ as an estimate."""
        return []

    def advice(self) -> str:
        """Return what may keep an iteration from its end, and how that is mended."""
        return ""

    def described(self, theta: FloatArray) -> str:
        """Return θ as text."""
        return ", ".join(f"{name} = {value:.4g}" for name, value in zip(self.names, theta, strict=True))

    def place(self, name: str, what: str) -> int | slice:
        """Return which element of θ an argument names, or, by the name of a matrix, which elements."""
        matrices = [m.place for m in self.matrices if m.called == name]
        if name not in self.names and len(matrices) != 1:
            raise ValueError(f"{what} names {name!r}, which is no parameter: they are {', '.join(self.names)}.")
        return self.names.index(name) if name in self.names else matrices[0]

    def read(self, values: Any, default: FloatArray, what: str) -> FloatArray:
        """
        Return θ of a mapping from names to values (the others as in `default`), or of a sequence.

        Raises
        ------
        ValueError
            If a name is unknown, the length does not fit, or a value is not finite, or no matrix where one is named.
        """
        theta = np.array(default, dtype=float)
        if hasattr(values, "items"):
            for name, value in values.items():
                place = self.place(name, what)
                one = isinstance(place, int)
                theta[place] = _number(value, name, what) if one else read_matrix(value, self.names[place], name, what)
        else:
            theta = np.array(values, dtype=float)
            if theta.shape != np.shape(default):
                raise ValueError(
                    f"{what} must have {len(self.names)} values, {', '.join(self.names)}, got shape {theta.shape}."
                )
        if not np.isfinite(theta).all():
            raise ValueError(f"{what} must be finite, got {self.described(theta)}.")
        return theta


def _number(value: Any, name: str, what: str) -> float:
    if np.ndim(value) != 0:
        raise ValueError(f"{what} must have one number for {name!r}, got an array of shape {np.shape(value)}.")
    return float(value)


def moment_start(gram: FloatArray, squares: FloatArray, residuals: int = 1) -> FloatArray:
    """
    Return MINQUE(0) estimates of variances, at least a hundredth of the total each.

    Solves Σ_j tr(MV_iMV_j) θ_j = yᵀMV_iMy, M = I - Q₁Q₁ᵀ (Rao 1971, doi:10.1016/0047-259X(71)90001-7); the last V, as
    many as `residuals`, add up to I, so that the sum of these rows of `gram` are the traces tr(MV_j).
    """
    traces = gram[-residuals:].sum(axis=0)
    p = float(traces[-residuals:].sum())
    scale = np.maximum(traces / p, 1e-300)
    total = float(squares[-residuals:].sum()) / p
    estimate = np.linalg.lstsq(gram / np.outer(scale, scale), squares / scale, rcond=None)[0]  # shares of the variance
    shares = np.maximum(np.where(np.isfinite(estimate), estimate, 0.0), 0.01 * total)
    return np.asarray(shares * (total / shares.sum()) / scale)


def typical(theta: FloatArray, information: FloatArray, matrices: Sequence[PackedMatrix] = ()) -> FloatArray:
    """
    Return sizes of parameters against which differences are measured: their own, or a thousandth of 1/√AI_ii.

    Parameters have units, those of y, of a kernel and of columns within a level, and may not be measured by another's;
    the information follows all of them. A covariance may have no information, of effects that no level has both of: it
    is measured by the variances of its matrix.
    """
    error = errors(information)
    size = np.maximum(np.maximum(np.abs(theta), 1e-3 * error), 1e-300)
    for m in matrices:
        t = m.unit(theta, error)
        size[m.place] = np.maximum(size[m.place], 1e-3 * pack(np.outer(t, t)))
    return size


def elsewhere(theta: FloatArray, free: Any) -> FloatArray:
    """Return another θ, at which a V that is linear has the derivatives that it has at θ."""
    return np.where(free, theta + 0.1 * np.abs(theta), theta)


def information_inverse(information: FloatArray, free: Any) -> FloatArray:
    """Return the covariance of the free parameters, NaN for the others and where the information is not definite."""
    out = np.full(information.shape, math.nan)
    index = np.flatnonzero(free)
    block = information[np.ix_(index, index)]
    scale = 1 / np.sqrt(np.where(np.diag(block) > 0, np.diag(block), np.nan))
    if not index.size or not np.isfinite(scale).all():
        return out
    scaled = block * scale[:, None] * scale
    if np.linalg.eigvalsh(scaled)[0] > 1e-12:
        out[np.ix_(index, index)] = np.linalg.inv(scaled) * scale[:, None] * scale
    return out
