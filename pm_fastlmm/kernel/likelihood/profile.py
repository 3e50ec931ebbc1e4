"""The profile likelihood of one kernel over log δ, and its global maximum, for one response or thousands."""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import EPS, FloatArray, slices
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.threads import in_threads, processors
from pm_fastlmm.kernel.likelihood.few import SEARCH, loops_for
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI
from pm_fastlmm.kernel.likelihood.tables import TableOf, tables
from pm_fastlmm.spectrum.spectrum import Rotated

_BLOCK = 125_000  # numbers for each thread in one block of responses: they stay in its cache
_NONE: FloatArray = np.empty((0, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Optima:
    """
    The global maxima over (σ²_g, σ²_e) of T responses, arrays of length T; `problem` says why there is none.

    `loglik` is the maximum as `REMLFit` reports it, `loglik_null` the one without the kernel; `at_zero` (T, 2) says
    which of the two variances is 0.
    """

    sigma2_g: FloatArray
    sigma2_e: FloatArray
    loglik: FloatArray
    loglik_null: FloatArray
    at_zero: npt.NDArray[np.bool_]
    problem: npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """
    f(δ) = -2 max_{σ²} ℓ(σ², δ), without constants, of responses scaled to unit size and unit largest eigenvalue.

        f(δ) = m log Q + Σ log(λ_i + δ) + ν log δ [+ log|S|],   Q = Σ w_i z_i² + rss/δ,   w_i = 1/(λ_i + δ)

    with m = p for REML; m = n and the term in brackets, S = S₀ + δI + Cᵀdiag(δw/λ)C, for ML. The sums are those of
    `likelihood.loops`.

    Attributes
    ----------
    eigvals : (k,) array
    z : (T, k) array
        In the units of y: `squares` scales them, so that no second copy of thousands of responses is kept.
    null : (T, 3) array
        rss, and two places for the sums over the null directions that a candidate adds.
    nullity, m : int
    restricted : bool
        REML, whose m falls by one with each candidate, and not ML.
    C, schur : (k, r) and (r, r) arrays
        In the eigenvectors of S₀ (`Spectrum.corner_axes`); of no columns for REML.
    singular : bool
        S₀ is singular, so that ML is unbounded when there are no null directions.
    norm2 : (T,) array
        ‖y orthogonal to X‖², the unit of y².
    largest : float
        Largest eigenvalue, the unit of K.
    """

    eigvals: FloatArray
    z: FloatArray
    null: FloatArray
    nullity: int
    m: int
    restricted: bool
    C: FloatArray
    schur: FloatArray
    singular: bool
    norm2: FloatArray
    largest: float

    @classmethod
    def from_rotated(cls, rotated: Rotated, method: Method) -> Self:
        """Scale z and rss to unit squared norm, K to a largest eigenvalue of 1."""
        s = rotated.spectrum
        largest = float(s.eigvals.max(initial=0.0)) or 1.0
        z = np.atleast_2d(rotated.z)
        rss = np.atleast_1d(rotated.rss)
        norm2 = np.where(rotated.norm2 > 0, rotated.norm2, 1.0).reshape(-1)
        null = np.zeros((len(z), 3))
        null[:, 0] = rss / norm2
        C, schur = s.corner_axes() if method == "ML" else (s.C[:, :0], s.schur[:0, :0])
        r = len(schur)
        return cls(
            eigvals=np.ascontiguousarray(s.eigvals / largest),
            z=z,
            null=null,
            nullity=s.nullity,
            m=s.df + r,
            restricted=method == "REML",
            C=np.ascontiguousarray(C / largest),
            schur=np.ascontiguousarray(schur / largest),
            singular=not np.diag(schur).all(),
            norm2=norm2,
            largest=largest,
        )

    def evaluate(self, x: FloatArray | float) -> FloatArray:
        """
        Return f, f', f'' (with respect to log δ) and Q at log δ = x (a vector), (4, T, len(x)).

        From δ = 1 on f is without rounding of the powers of δ; its derivatives do not cancel at either end. σ² is Q/m.
        """
        nodes = np.atleast_1d(np.asarray(x, dtype=float))
        loops = loops_for(len(self.z) * nodes.size)
        return np.asarray(loops.evaluate_rows(self.model(), self.squares(slice(None)), self.null, nodes))

    def heights(self, x: FloatArray) -> FloatArray:
        """Return f as `evaluate` does, without the others and on all processors."""
        nodes = np.atleast_1d(np.asarray(x, dtype=float))
        loops = loops_for(len(self.z) * nodes.size)
        out, model = np.empty((len(self.z), nodes.size)), self.model()

        def run(part: slice) -> None:
            loops.value_rows(model, self.squares(part), self.null[part], nodes, out[part])

        in_threads(run, len(out))
        return out

    def limits(self) -> FloatArray:
        """
        Return (f(0), c₀, f(∞), c_∞): the limits of f, and numbers with the sign of its slope just inside each of them.

        δ = 0 is a local minimum of f if c₀ ≥ 0, δ = ∞ if c_∞ ≤ 0. f(0) is infinite where f is not bounded.
        """
        return np.asarray(loops_for(len(self.z)).limit_rows(self.model(), self.squares(slice(None)), self.null))

    def rows(self) -> FloatArray:
        """Return z of all responses, each scaled to unit size."""
        return self.z / np.sqrt(self.norm2)[:, None]

    def squares(self, block: slice) -> FloatArray:
        """Return z² of a block of responses, each scaled to unit size."""
        squares = self.z[block] ** 2
        squares *= 1 / self.norm2[block, None]
        return squares

    def model(self, *, candidate: bool = False) -> Any:
        """Return what the compiled loops share, without or with a candidate."""
        m = self.m - (candidate and self.restricted)
        # the slope is a sum of terms that vanish as δ → ∞ above the median, of terms that vanish as δ → 0 below
        middle = float(np.median(self.eigvals))
        return loops_for(0).Model(
            self.eigvals, 1 / self.eigvals, self.C, self.schur, self.nullity, float(m), self.restricted, middle,
            self._ends(),
        )  # fmt: skip

    def _ends(self) -> tuple[float, float, float]:
        """Return the parts of c_∞, c₀ and f(0) that no response enters; f(0) is -inf where S₀ is singular."""
        inverse, S = 1 / self.eigvals, self.schur
        trace = float(self.eigvals.sum() + np.trace(S) + (self.C**2 * inverse[:, None]).sum())
        if self.singular:
            return trace, math.nan, -math.inf
        slope = np.eye(len(S)) + (self.C.T * inverse**2) @ self.C
        inverse_trace = float(inverse.sum() + np.trace(np.linalg.solve(S, slope)))
        return trace, inverse_trace, float(np.log(self.eigvals).sum() + np.linalg.slogdet(S)[1])


def search(profile: Profile, candidates: FloatArray = _NONE, null: FloatArray | None = None) -> FloatArray:
    """
    Search the profile likelihood of each response, or of the one response with each candidate as one more column of X.

    Blocks of rows share one matrix product of their squares with the weights at the nodes of a grid in log δ, which
    yields f' and f'' there; `loops.search_rows` does the rest.

    Parameters
    ----------
    profile : Profile
        Of one response when there are candidates.
    candidates : (T, k) array, optional
        Their rotations.
    null : (T, 3) array, optional
        With candidates: sums over the null directions of y², of y times the candidate, and of its square, as scaled.

    Returns
    -------
    (T, 5) array
        log δ, f, Q, and a and α of the candidate, all in scaled units. On a boundary, log δ = ±inf, only f is set.
    """
    null = profile.null if null is None else null
    out, model = np.empty((len(null), 5)), profile.model(candidate=len(candidates) > 0)
    loops, table_of = loops_for(SEARCH * len(null)), tables(model, len(null))
    size = max(64, _BLOCK * processors() // max(1, profile.eigvals.size))
    for block in slices(len(null), size):
        z = profile.rows() if len(candidates) else profile.squares(block)
        _search_block(loops, table_of, model, z, candidates[block], null[block], out[block])
    return out


def _search_block(
    loops: Any, table_of: TableOf, model: Any, z: FloatArray, g: FloatArray, null: FloatArray, out: FloatArray
) -> None:
    squares = z * z if len(g) else z
    table = table_of(squares, null[:, 0])
    zz = table.products(squares)
    zg, gg = (table.products(z * g), table.products(g * g)) if len(g) else (_NONE, _NONE)

    def run(part: slice) -> None:
        rows = [array[part] if len(array) == len(null) else array for array in (z, g, zz, zg, gg)]
        grid = loops.Grid(table.nodes, table.shared, *rows[2:])
        loops.search_rows(model, *rows[:2], null[part], grid, out[part])

    in_threads(run, len(null))


def maximise(rotated: Rotated, method: Method) -> Optima:
    """
    Maximise the (restricted) likelihood of every response over (σ²_g, σ²_e) globally.

    Every interior mode is found on a grid in log δ that spans all scales of the spectrum and compared with both
    boundaries, which are exact limits and not ends of the search.
    """
    s = rotated.spectrum
    rss, norm2 = np.atleast_1d(rotated.rss), np.atleast_1d(rotated.norm2)
    problem = _not_estimable(rotated, norm2, rss)
    profile = Profile.from_rotated(rotated, method)
    T, m = len(norm2), profile.m
    x, f, Q = (np.full(T, math.nan) for _ in range(3))
    if s.rank:  # without a kernel there is nothing to search
        x, f, Q = search(profile)[:, :3].T
    estimable = problem == np.array(None)
    if profile.singular and not s.nullity:
        problem[estimable] = (
            "the ML likelihood is unbounded as delta goes to 0, because K is singular within the span of X (a centred "
            "kinship matrix with an intercept is the common case); the values are its highest interior mode. Use REML"
        )
    constant = m * (LOG_2PI + 1) + m * np.log(profile.norm2 / m)
    log_scale = -s.log_flat if method == "REML" else -s.weights.logdet
    none, full = x == math.inf, x == -math.inf
    with np.errstate(all="ignore"):
        Q[full] = (profile.z[full] ** 2) @ (1 / profile.eigvals) / profile.norm2[full]
        sigma2 = np.where(none, 0.0, Q / m)
        sigma2_g = sigma2 * profile.norm2 / profile.largest
        sigma2_e = np.where(none, norm2 / m, np.where(full, 0.0, np.exp(x) * sigma2 * profile.norm2))
    return Optima(
        sigma2_g=np.where(estimable, sigma2_g, math.nan),
        sigma2_e=np.where(estimable, sigma2_e, math.nan),
        loglik=np.where(estimable, -0.5 * (constant + f) - log_scale, math.nan),
        loglik_null=np.where(norm2 > 0, -0.5 * constant - log_scale, math.nan),
        at_zero=np.stack([none, full], axis=-1) & estimable[:, None],
        problem=problem,
    )


def _not_estimable(rotated: Rotated, norm2: FloatArray, rss: FloatArray) -> npt.NDArray[Any]:
    """Return for each response why its data have no estimate of two variances, None if they have."""
    s = rotated.spectrum
    problem = np.full(norm2.size, None, dtype=object)
    if s.nullity:
        problem[rss == 0] = (
            "the likelihood is unbounded as delta goes to 0, because K and X explain y exactly (nothing of y is left "
            "in the null space of K). Use a K of lower rank or more observations"
        )
    if not s.rank:
        problem[:] = (
            "not identifiable: orthogonal to X, K is zero, so only the residual variance has information. "
            "Fit ordinary least squares"
        )
    elif not s.nullity and s.eigvals.min() >= s.eigvals.max() * (1 - 10 * s.n * EPS):
        problem[:] = (
            "not identifiable: orthogonal to X, K is a multiple of the identity, so only the sum of the two variances "
            "has information. Fit ordinary least squares, or check that K is the matrix you meant"
        )
    problem[norm2 == 0] = (
        "X explains y exactly, no residual is left: the likelihood is unbounded as the variances go to 0. "
        "Check for a constant y, or a column of X that equals it"
    )
    return problem
