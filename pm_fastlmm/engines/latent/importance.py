r"""
How far Laplace's approximation is from the likelihood at one θ, by importance sampling about the mode.

    p(y|θ) = p̃(y|θ) E_q w,   w = exp{f(x)}/q(x) / (exp{f(x̂)} (2π)^{N/2} |C|^{-½})

Given β the integral over the effects is a product over groups of effects that no record joins, and so is its estimate,
a product of means of independent draws, which is unbiased. A β that is integrated out is drawn itself, and each draw
has an estimate of the product from draws of its own: the mean over draws of β is unbiased too (a pseudo-marginal
estimate). Effects that are all joined are drawn together with β.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from pm_fastlmm.base.arrays import FloatArray, slices
from pm_fastlmm.base.display import Described
from pm_fastlmm.engines.latent.independent import (
    GivenCoefficients,
    Independent,
    Points,
    prior_precision,
    quadrature_points,
    random_points,
    white,
)
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI

FEWEST = 100  # effective draws up to which nothing is judged
CANNOT = "importance sampling cannot judge at this size"
RELIABLE = 0.7  # Pareto k up to which weighted draws stand for the posterior (Vehtari et al. 2024)
_BUDGET = 4_000_000  # numbers at a time
_SMALL, _DF = 5, 10.0  # effects of a block up to which draws are of a t distribution by default, with these df
_LARGEST = 1_000  # effects of a block up to which it is drawn as such
_LEAST, _MOST = 4, 100  # draws of the effects for each of β
_PILOT, _FEW, _STEPS = 64, 20, 8  # points, coefficients and steps with which the mode of β is found
_DIFFERENCE, _CLOSE = 0.5, 0.05  # standard errors of β
_DEAR = 400_000_000  # densities
_BY_NODES = "integrate groups by quadrature, nodes=15"
_NODES = 20_000  # points of a block
_NOTHING = -1e300  # log of a density that is 0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Importance(Described):
    """
    The log-likelihood at one θ, corrected.

    Attributes
    ----------
    loglik : float
        Corrected; NaN where `ess` is 100 or less.
    correction : float
        loglik less Laplace's approximation.
    se : float
        Monte Carlo error of both, 0 of quadrature.
    ess : float
        Effective number of draws, the least over the blocks and β: (Σw)²/Σw²; infinite of quadrature.
    k : float
        Shape of the generalised Pareto distribution of the largest weights, the largest over the blocks and β. Up to
        0.7 the estimate and its error can be trusted (Vehtari et al. 2024, jmlr.org/papers/v25/19-556.html).
    laplace : float
        The approximation.
    n : int
        Draws, or nodes.
    blocks : int
        Groups of effects that are independent given β; 1 where all are drawn together.
    method : str
        Which estimate it is.
    message : str
        Why there is none, or what is doubtful about it; empty otherwise.
    """

    loglik: float
    correction: float
    se: float
    ess: float
    k: float
    laplace: float
    n: int
    blocks: int
    method: str
    message: str

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"method": self.method, "Laplace": f"{self.laplace:.6f}"}
        if not math.isnan(self.loglik):
            error = f" ± {self.se:.2g}" if self.se else ""
            facts |= {"correction": f"{self.correction:.6g}{error}", "log-likelihood": f"{self.loglik:.6f}"}
        if math.isfinite(self.ess):
            facts |= {"effective draws": f"{self.ess:.0f} of {self.n}", "Pareto k": f"{self.k:.2f}"}
        return facts | ({"note": self.message} if self.message else {})

    def __repr__(self) -> str:
        """Report the correction, or why there is none."""
        return "\n".join(f"{name}: {value}" for name, value in self._facts().items())


def corrected(
    state: Any, constant: float, terms: int, *, n: int, df: float | None, nodes: int | None, rng: np.random.Generator
) -> Importance:
    """
    Return the corrected log-likelihood of a state, Laplace's approximation being its own plus a constant.

    Raises
    ------
    ValueError
        If there are fewer than two draws, or too many nodes for the effects of a block.
    """
    if n < 2:
        raise ValueError(f"n must be 2 draws or more, got {n}: a few hundred are needed for {FEWEST} effective ones.")
    blocks = Independent.of(state.products.equations, terms)
    together = (blocks.count == 1 and nodes is None) or blocks.largest > _LARGEST
    if nodes is not None:
        _require_few(nodes, blocks)
        together = False
    df = (_DF if blocks.largest <= _SMALL else math.inf) if df is None else df
    laplace = state.loglik + constant
    if together:
        log = _whole(state, n, df, rng)
        return _result([log[None]], [0.0], laplace, n, 1, f"{_drawn(df)} of all unknowns together")
    given = GivenCoefficients(state, blocks)
    height = state.mode.value + 0.5 * len(state.mode.x) * LOG_2PI - 0.5 * state.factor.logdet
    r = len(state.mode.x) - blocks.effects
    by_node = f"adaptive Gauss-Hermite quadrature with {nodes} nodes"
    points = random_points(blocks.groups, n, df, rng) if nodes is None else quadrature_points(blocks.groups, nodes)
    log, alone = _integrands(given, points, np.zeros(r))
    if not r:
        at = float(logsumexp(log, axis=1).sum() + alone[0]) - height
        if nodes is not None:
            return Importance(laplace + at, at, 0.0, math.inf, math.nan, laplace, nodes, blocks.count, by_node, "")
        return _result([log], [at], laplace, n, blocks.count, f"{_drawn(df)} by block")
    if nodes is None:
        spread = float(_spread(log).sum())
        m = int(np.clip(math.ceil(spread), _LEAST, _MOST))
        # the variance of log-estimates of the product, of which few draws are left, or minutes of work
        if spread / m > math.log(n / FEWEST) or n * m * len(state.y) > _DEAR:
            instead = f", or {_BY_NODES}" if blocks.largest <= _SMALL else ""
            why = f"{CANNOT}: {blocks.count} groups are too many for draws of β{instead}. fit.check_laplace() simulates"
            nothing = (math.nan,) * 3
            return Importance(*nothing, n * math.exp(-spread / m), math.nan, laplace, n, blocks.count, "none", why)
        how = f"{_drawn(df)} by block, {m} for each draw of β"
    else:
        m, how = points.weight.shape[1], f"{by_node} for each draw of β"
    z, density = white((1, r), n, df, rng)
    centre, root = _recentred(given, points if nodes is not None else _some(points, _PILOT))
    moved = centre[:, None] + root @ z[0]
    weights = -density[0] + float(np.log(np.abs(np.diag(root))).sum()) - height
    for some in slices(n, max(1, _BUDGET // (m * max(len(state.y), blocks.effects)))):
        weights[some] += products(given, moved[:, some], m, df, rng, None if nodes is None else points)[0]
    parts = [weights[None]] if nodes is not None else [weights[None], log]
    return _result(parts, [float(logsumexp(weights)) - math.log(n)], laplace, n, blocks.count, how)


def _some(points: Points, most: int) -> Points:
    """Return the first points, with the weight of all."""
    m = points.weight.shape[1]
    few = min(m, most)
    return Points([z[..., :few] for z in points.z], points.weight[:, :few] + math.log(m / few))


def _recentred(given: GivenCoefficients, points: Points) -> tuple[FloatArray, FloatArray]:
    """
    Return the mode of p(y, β) by these points, and a root of the covariance of β about it.

    With many groups the small corrections of each move β by more than its error, and draws about Laplace's mode would
    miss it. Steps are Newton's by differences, in the coordinates of Laplace's curvature.
    """
    root = np.linalg.inv(np.linalg.cholesky(given.curvature[2])).T
    r, m = len(root), points.weight.shape[1]
    at, scale = np.zeros(r), np.ones(r)
    if r > _FEW:
        return at, root
    around = _DIFFERENCE * np.hstack([np.zeros((r, 1)), np.eye(r), -np.eye(r)])
    each = max(1, _BUDGET // (m * max(len(given.state.y), given.blocks.effects)))
    for _ in range(_STEPS):
        moved = root @ (at[:, None] + around)
        found = np.concatenate([
            products(given, moved[:, some], m, math.inf, np.random.default_rng(0), points)[0]
            for some in slices(2 * r + 1, each)
        ])  # fmt: skip
        up, down = found[1 : r + 1], found[r + 1 :]
        curvature = np.clip((2 * found[0] - up - down) / _DIFFERENCE**2, 0.2, 5.0)
        step = np.clip((up - down) / (2 * _DIFFERENCE) / curvature, -2.0, 2.0)
        at, scale = at + step, 1 / np.sqrt(curvature)
        if np.abs(step).max() < _CLOSE:
            break
    return root @ at, root * scale


def products(
    given: GivenCoefficients,
    moved: FloatArray,
    m: int,
    df: float,
    rng: np.random.Generator,
    points: Points | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """
    Return log-estimates (S,) of p(y, β) for S values of β, from m points each, with the log-weights and the points.

    Without `points` they are drawn, others for each value; weights are (blocks, S, m), points x (effects, S, m).
    """
    S = moved.shape[1]
    if points is None:
        points = random_points(given.blocks.groups, S * m, df, rng)
        weight = points.weight + math.log(S)  # each value has m of them
    else:
        weight = np.tile(points.weight, S)
    z = [part if part.shape[2] == S * m else np.tile(part, S) for part in points.z]
    log, x, besides = given.at(Points(z, weight), np.repeat(moved, m, axis=1))
    log = log.reshape(len(log), S, m)
    total = logsumexp(log, axis=2).sum(axis=0) + besides.reshape(S, m)[:, 0]
    return total, log, x.reshape(len(x), S, m)


def _require_few(nodes: int, blocks: Independent) -> None:
    if not 1 <= nodes**blocks.largest <= _NODES:
        raise ValueError(
            f"quadrature is over the effects of a block together, and the largest has {blocks.largest}: {nodes} nodes "
            f"each are more than {_NODES} points. Leave nodes= out, for importance sampling, or give fewer."
        )


def _drawn(df: float) -> str:
    return "importance sampling, normal draws" if math.isinf(df) else f"importance sampling, draws of t with {df:g} df"


def _integrands(given: GivenCoefficients, points: Points, moved: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the log-weights of all points, some points at a time."""
    m = points.weight.shape[1]
    out, alone = np.empty(points.weight.shape), np.zeros(1)
    for some in slices(m, max(1, _BUDGET // max(len(given.state.y), given.blocks.effects))):
        part = Points([z[..., some] for z in points.z], points.weight[:, some])
        out[:, some], _, alone = given.at(part, np.repeat(moved[:, None], part.weight.shape[1], axis=1))
    return out, alone


def _whole(state: Any, n: int, df: float, rng: np.random.Generator) -> FloatArray:
    """Return the log-weights of draws of all unknowns, relative to the approximation."""
    N, family = len(state.mode.x), state.products.family
    rows, precision = state.problem.rows, prior_precision(state.products.equations)
    offset = np.broadcast_to(state.offset, state.y.shape)[:, None]
    log = np.empty(n)
    for some in slices(n, max(1, _BUDGET // max(len(state.y), N, 1))):
        z, density = white((1, N), len(range(n)[some]), df, rng)
        x = state.mode.x[:, None] + state.factor.draw(z[0])
        with np.errstate(all="ignore"):
            log[some] = family.log_density(state.y, (offset + rows @ x).T, state.psi).sum(axis=1) - density[0]
        log[some] -= 0.5 * (x * (precision @ x)).sum(axis=0)
    log = np.where(np.isfinite(log), log, _NOTHING)
    return np.asarray(log - state.mode.value - 0.5 * N * LOG_2PI)


def _spread(log: FloatArray) -> FloatArray:
    """Return the squared coefficient of variation of the weights of each block."""
    w = np.exp(log - log.max(axis=1, keepdims=True))
    return np.asarray(w.var(axis=1) / w.mean(axis=1) ** 2)


def pareto_k(log: FloatArray) -> FloatArray:
    """Return Pareto k of log-weights (blocks, draws); -inf where all weights are equal."""
    from arviz_stats.base import array_stats  # a second to import

    out = np.full(len(log), -np.inf)
    for i in np.flatnonzero(np.ptp(log, axis=1) > 1e-8):
        try:
            out[i] = array_stats.psislw(-log[i])[1]  # which takes the log-densities that weights are reciprocals of
        except ValueError:  # the largest weights are equal
            continue
    return out


def _result(parts: list[FloatArray], at: list[float], laplace: float, n: int, blocks: int, method: str) -> Importance:
    """Judge the weights; those of the first part are what the error is of."""
    first = parts[0]
    spread = np.concatenate([_spread(part) for part in parts])
    ess = float(n / (1 + spread.max()))
    k = float(np.concatenate([pareto_k(part) for part in parts]).max())
    correction = float(logsumexp(first)) - math.log(n) if method.endswith("together") else at[0]
    se = math.sqrt(float(_spread(first).sum()) / n)
    message = ""
    if not ess > FEWEST:
        correction, se = math.nan, math.nan
        message = f"{CANNOT}: the weights of {n} draws are worth {ess:.0f}. fit.check_laplace() simulates instead"
    elif k > RELIABLE:
        message = f"Pareto k is above {RELIABLE}: the error may be larger than it is said to be; take more draws, n="
    return Importance(laplace + correction, correction, se, ess, k, laplace, n, blocks, method, message)
