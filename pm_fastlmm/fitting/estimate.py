"""From an objective to its VarianceFit: start, bounds, the iteration, and the verdict on where it ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from rich.console import Console

from pm_fastlmm.aireml.cone import SINGULAR, all_semidefinite, errors, smallest_eigenvalue
from pm_fastlmm.aireml.iteration import Iteration, Tolerances, Trace, maximise
from pm_fastlmm.aireml.objective import NoEstimate, Objective, typical
from pm_fastlmm.aireml.ridge import without_maximum
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.display import activity, listed
from pm_fastlmm.fitting.fit import Source, VarianceFit
from pm_fastlmm.fitting.inference import why_not_adjusted
from pm_fastlmm.fitting.laplace import LaplaceFit

_NOTHING = 1e-12  # eigenvalue of the information, scaled to unit diagonal, of a direction without any
_HIGHER = 1e-6  # of the log-likelihood, by which another maximum is one
_SHARE = 1e-3  # of such a direction that a parameter must have to be named


class Options(NamedTuple):
    """How a fit is made, as `find_reml` takes it."""

    method: Method
    start: Any
    fixed: Any
    bounds: Any
    tolerances: Tolerances
    max_iterations: int
    progressbar: bool
    verbose: int

    def quiet(self) -> Self:
        """Return the same without progress."""
        return self._replace(progressbar=False, verbose=0)


def estimate(objective: Objective, link: Any, node: Any, options: Options, source: Source | None = None) -> VarianceFit:
    """
    Return the fit of an objective; `link` gives the free variables of a model, where there is one.

    Raises
    ------
    ValueError
        If y has no estimate, or `start`, `fixed` or `bounds` name what is no parameter or exclude all values.
    """
    with activity(f"{objective.method}: finding a start", show=options.progressbar):
        try:
            objective, theta = _prepared(objective, options.start, options.fixed, options.bounds)
        except NoEstimate as error:
            return _without_estimate(objective, node, str(error), source)
    with _reporting(objective, options.progressbar, options.verbose) as report:
        trace = _highest(objective, theta, options, report)
    last = trace.iterations[-1]
    boundary = _boundary(objective, last)
    names = _index(objective.names)
    point, problem = _point(objective, link, last)
    converged, message = _verdict(objective, trace, last, boundary)
    mu, b, _ = node.constants()
    kind = LaplaceFit if objective.laplace else VarianceFit
    return kind(
        theta=pd.Series(last.theta, names.view(), name="theta"),
        point=point,
        loglik=last.loglik,
        score=pd.Series(last.score, names.view(), name="score"),
        average_information=pd.DataFrame(last.average_information, names.view(), names.view()),
        blue=trace.blue[0],
        blue_cov=trace.blue[1],
        boundary=boundary,
        converged=converged,
        message=". ".join(filter(None, (message, problem))),
        trace=trace,
        method=objective.method,
        coef=objective.coef,
        objective=objective,
        node=node,
        mu=mu,
        prior_mean=b,
        source=source,
    )


def _without_estimate(objective: Objective, node: Any, message: str, source: Source | None) -> VarianceFit:
    """Return a fit that failed, of numbers that are not there."""
    P, r = len(objective.names), len(objective.coef)
    theta, matrix, names = np.full(P, np.nan), np.full((P, P), np.nan), _index(objective.names)
    blue = np.full(r, np.nan), np.full((r, r), np.nan)
    only = Iteration(theta, np.nan, theta, matrix, blue[0], np.nan, theta, theta)
    mu, b, _ = node.constants()
    kind = LaplaceFit if objective.laplace else VarianceFit
    return kind(
        pd.Series(theta, names.view(), name="theta"), {}, np.nan, pd.Series(theta, names.view(), name="score"),
        pd.DataFrame(matrix, names.view(), names.view()), *blue, (), False, message, Trace([only], blue),
        objective.method, objective.coef, objective, node, mu, b, source,
    )  # fmt: skip


def _highest(
    objective: Objective, theta: FloatArray, options: Options, report: Callable[[int, Iteration], None]
) -> Trace:
    """Return the iteration from a start, or, where it ends on the boundary, from another one that ends higher."""
    limits = {"tolerances": options.tolerances, "max_iterations": options.max_iterations, "report": report}
    best = maximise(objective, theta, **limits)  # type: ignore[arg-type]
    if options.start is None and _boundary(objective, best.iterations[-1]):
        for start in objective.other_starts():
            found = maximise(objective, start, **limits)  # type: ignore[arg-type]
            if found.iterations[-1].loglik > best.iterations[-1].loglik + _HIGHER:
                best = found
    return best


@lru_cache(maxsize=64)
def _index(names: tuple[str, ...]) -> pd.Index:
    """Return names as labels, which pandas is slow to make; a view of them has a name of its own."""
    return pd.Index(names)


def _prepared(objective: Any, start: Any, fixed: Any, bounds: Any) -> tuple[Any, FloatArray]:
    """Return the objective with narrower bounds and fixed parameters, and the start inside them."""
    lower, upper = objective.lower.copy(), objective.upper.copy()
    for name, (low, high) in (bounds or {}).items():
        i = objective.place(name, "bounds")
        if objective.together[i].any():
            raise ValueError(
                f"{name} is of an unstructured matrix, whose elements have no bounds of their own: fix the matrix, or "
                "take another structure."
            )
        if not low < high or low < lower[i] or high > upper[i]:
            raise ValueError(
                f"bounds of {name} are ({low}, {high}): they must be increasing and inside ({lower[i]}, {upper[i]})."
            )
        lower[i], upper[i] = low, high
    mask = objective.fixed | _named(objective, fixed)
    if partly := [m.called for m in objective.matrices if mask[m.place].any() and not mask[m.place].all()]:
        raise ValueError(
            f"fixed names an element of the matrix of {listed(partly)}, whose elements vary together: fix all of them, "
            f"fixed={{{partly[0]!r}: [[…], …]}}, or take another structure, for instance diagonal."
        )
    changed = replace(objective, lower=lower, upper=upper, fixed=mask)
    theta = _started(changed, start, fixed)
    if (outside := (theta < objective.lower) | (theta > objective.upper)).any():
        what = "fixed" if mask[outside].all() else "start"
        raise ValueError(f"{what} is outside the bounds: {changed.described(theta)}.")
    if not all_semidefinite(theta, changed.matrices):
        raise ValueError(
            f"a matrix of start or fixed has correlations beyond ±1, or is not positive semi-definite in another way: "
            f"{changed.described(theta)}."
        )
    return changed, np.where(mask, theta, np.clip(theta, lower, upper))


def _named(objective: Any, names: Any) -> Any:
    """Return which elements of θ are named."""
    out = np.zeros(len(objective.names), dtype=bool)
    for name in [names] if isinstance(names, str) else getattr(names, "keys", lambda: names)():
        out[objective.place(name, "fixed")] = True
    return out


def _started(objective: Any, start: Any, fixed: Any) -> FloatArray:
    """Return θ of the values that are fixed and, where they are not all of it, of a start, which needs a residual."""
    values = fixed if hasattr(fixed, "items") else {}
    if _named(objective, values).all():
        return np.asarray(objective.read(values, np.zeros(len(objective.names)), "fixed"))
    objective.require_residual()
    theta = objective.start() if start is None else objective.read(start, objective.start(), "start")
    return np.asarray(objective.read(values, theta, "fixed"))


@contextmanager
def _reporting(objective: Objective, progressbar: bool, verbose: int) -> Iterator[Callable[[int, Iteration], None]]:
    """Show a spinner, and print a line for each iteration that the function is told of."""
    if not (progressbar or verbose):
        yield lambda count, i: None
        return
    console = Console()
    with activity(f"{objective.method}: iteration 0", show=progressbar, console=console) as say:

        def report(count: int, i: Iteration) -> None:
            say(f"{objective.method}: iteration {count + 1}, log-likelihood {i.loglik:.6f} so far")
            if verbose:
                numbers = f"{count:3d}  loglik {i.loglik:.8f}  decrement {i.decrement:.2e}  {i.kind:10s}"
                text = f"{numbers} {objective.described(i.theta)}"
                console.print(text, highlight=False, markup=False, soft_wrap=True)

        yield report


def _boundary(objective: Objective, last: Iteration) -> tuple[str, ...]:
    """Return the parameters on a bound; an unstructured matrix is on it as a whole when it is singular."""
    omega = objective.internal(last.theta)
    J = objective.jacobian(omega)
    information = J.T @ last.average_information @ J
    tiny = 1e-9 * typical(omega, information)
    at = ((omega <= objective.internal_lower + tiny) | (omega >= objective.internal_upper - tiny)) & ~objective.fixed
    at |= objective.inactive(omega, J.T @ last.score, information)
    for matrix in objective.matrices:
        if at[matrix.place].any() or smallest_eigenvalue(matrix.read(last.theta)) < SINGULAR:
            at[matrix.place] = ~objective.fixed[matrix.place]
    return tuple(name for name, is_at in zip(objective.names, at, strict=True) if is_at)


def _verdict(objective: Objective, trace: Trace, last: Iteration, boundary: tuple[str, ...]) -> tuple[bool, str]:
    unbounded = objective.unbounded(last.theta, last.score)
    converged = trace.converged and not unbounded
    parts = [trace.reason, unbounded, "" if converged else objective.advice(), *objective.remarks(last.theta)]
    unresolved = _unresolved(objective, last, boundary)
    if (unresolved or not trace.converged) and (endless := without_maximum(objective, trace)):
        return False, endless
    if unresolved:
        undefined = ": standard errors are undefined (NaN)" if converged else ""
        parts.append(
            f"the data do not tell {listed(unresolved)} apart, only combinations of them have information{undefined}. "
            "Leave a term out, or fix one of them with fixed="
        )
    if converged and boundary:
        parts += _on_the_boundary(objective, last, boundary)
    return converged, ". ".join(filter(None, parts))


def _on_the_boundary(objective: Objective, last: Iteration, boundary: tuple[str, ...]) -> list[str]:
    """Return what an estimate on the boundary has instead of standard errors, and what its tests are."""
    parts, matrices, alone = [], [], list(boundary)
    for matrix in objective.matrices:
        names = objective.names[matrix.place]
        if matrix.size > 1 and names[0] in boundary:
            matrices.append(matrix.called)
            alone = [name for name in alone if name not in names]
    if alone:
        parts.append(
            f"on the boundary: {listed(alone)}; standard errors of these are undefined (NaN), fit.interval(name) "
            "gives one"
        )
    if matrices:
        parts.append(
            f"the covariance matrix of {listed(list(dict.fromkeys(matrices)))} is singular; standard errors of its "
            "elements are undefined (NaN), fit.intervals() gives intervals of sd and correlations"
        )
    free = ~np.asarray(objective.fixed)
    if objective.coef and not why_not_adjusted(objective, last.theta, free):
        parts.append(
            "fixed effects are tested with what is on the boundary known; "
            "as estimated: coefficients('kenward-roger', zero_variances='free')"
        )
    return parts


def _unresolved(objective: Objective, last: Iteration, boundary: tuple[str, ...]) -> list[str]:
    """Return the free parameters off the boundary that directions without information are made of."""
    free = ~np.asarray(objective.fixed) & ~np.isin(objective.names, boundary)
    block = last.average_information[np.ix_(free, free)]
    scale = errors(block)
    values, vectors = np.linalg.eigh(block * scale[:, None] * scale)
    none = (np.abs(vectors[:, values <= _NOTHING]) > _SHARE).any(axis=1) | (scale == 0)
    names = [name for name, is_free in zip(objective.names, free, strict=True) if is_free]
    return [name for name, without in zip(names, none, strict=True) if without]


def _point(objective: Objective, link: Any, last: Iteration) -> tuple[dict[str, Any], str]:
    """Return the free variables at θ, and what is wrong with them."""
    theta = last.theta
    if link is None:
        return objective.point(theta), ""
    size = typical(theta, last.average_information, objective.semidefinite)
    point = link.point(np.where(np.isfinite(theta), theta, 0.0), size, objective.lower)
    if point is None:
        return {}, (
            "the estimate lies outside the support of the model's free variables, so that fit.point is empty: "
            "look at their priors' bounds"
        )
    return point, ""
