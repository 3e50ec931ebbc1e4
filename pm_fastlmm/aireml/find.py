"""find_reml: the restricted maximum likelihood counterpart of `pm.find_MAP`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import pushforward
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from pm_fastlmm._arrays import FloatArray, Labelled, align, read, require_finite, require_length
from pm_fastlmm.aireml.dense import DenseObjective
from pm_fastlmm.aireml.fit import VarianceFit, history_of
from pm_fastlmm.aireml.iteration import Iteration, Tolerances, Trace, maximise
from pm_fastlmm.aireml.mapping import Link, constants_of, objective_of
from pm_fastlmm.aireml.objective import Method, Objective, check_method, information_inverse, typical
from pm_fastlmm.aireml.structured import StructuredObjective
from pm_fastlmm.distribution import FourierNode, LMMNode, lmm_nodes
from pm_fastlmm.distribution.graphs import INTERPRETED, reaching
from pm_fastlmm.linalg.projection import read_design

_SMALLEST = 1e-70  # of the length of y, and 1/_SMALLEST the largest: the information has fourth powers of it
_SLOPE = 0.25  # of ℓ in -log σ²_e at σ²_e = 0; it is ν/2 where ν directions of y have no other variance


def find_reml(
    model: pm.Model | None = None,
    *,
    var_name: str | None = None,
    method: Method = "REML",
    start: Any = None,
    fixed: Mapping[str, float] | Sequence[str] = (),
    bounds: Mapping[str, tuple[float, float]] | None = None,
    max_iterations: int = 100,
    score_tol: float | None = 1e-12,
    step_tol: float | None = 1e-5,
    loglik_tol: float | None = 1e-9,
    progressbar: bool = True,
    verbose: int = 0,
) -> VarianceFit:
    """
    Maximise the restricted likelihood of a model's LMM node over its free variables, without priors and Jacobians.

    The iteration walks in quantities in which V is linear (variances and covariances), whatever variables the model
    has (standard deviations, logarithms, Cholesky factors): there the score does not vanish at 0, and no false zero
    stops it.

    Parameters
    ----------
    model : pymc.Model, optional
        Default the model of the context.
    var_name : str, optional
        Which node, when the model has several.
    method : {"REML", "ML"}
    start : mapping or sequence, optional
        Values of θ by name (see `fit.theta`), the others by default; default MINQUE(0), for `DenseLMM` the initial
        values of its variables.
    fixed : mapping or sequence of names
        Parameters that keep a value: that of the mapping, or that of the start.
    bounds : mapping, optional
        Narrower bounds of parameters, name → (lower, upper).
    max_iterations : int
    score_tol, step_tol, loglik_tol : float or None
        Newton decrement, relative step and predicted gain below which the iteration has converged, all of them
        together; None switches a criterion off.
    progressbar : bool
    verbose : int
        1 prints a line for each iteration.

    Returns
    -------
    VarianceFit
        A fit on the boundary or one that failed is labelled in `boundary`, `converged` and `message`.

    Raises
    ------
    ValueError
        If the model has no such node, a free variable does not reach it, the mean has free variables, or V is not
        positive definite at the start.

    Notes
    -----
    Average-information steps (Gilmour, Thompson & Cullis 1995, doi:10.2307/2533274) under bounds (an active set),
    halved until the exact likelihood rises; an EM step is the last resort. Convergence is judged by the Newton
    decrement, which does not depend on the parametrisation. One kernel is fitted by the global search of `reml`, one
    with a lengthscale by Newton steps from the best point of a grid over ℓ and δ; with several components the maximum
    found is a local one, which other starting values can check.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> batch = np.repeat(list("abc"), 4)
    >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    >>> with pm.Model() as model:
    ...     sigma_batch, sigma_e = pm.HalfNormal("sigma_batch", 5), pm.HalfNormal("sigma_e", 5)
    ...     term = flmm.Term(batch, flmm.covariance.scalar(sigma_batch**2), name="batch")
    ...     node = flmm.StructuredLMM("y", X=np.ones((12, 1)), terms=[term], sigma2_e=sigma_e**2, observed=y)
    >>> fit = flmm.find_reml(model, progressbar=False)
    >>> print(fit.theta.round(4).to_dict())
    {'batch': 3.9167, 'residual': 0.3333}
    >>> print({name: value.round(3).item() for name, value in fit.point.items()})
    {'sigma_batch': 1.979, 'sigma_e': 0.577}
    """
    check_method(method)
    model = pm.modelcontext(model)
    node = find_node(model, var_name)
    _refuse_unreached(model, node)
    objective, link, _ = objective_of(model, node, method)
    tolerances = Tolerances(score_tol, step_tol, loglik_tol)
    return _fit(objective, node, link, start, fixed, bounds, tolerances, max_iterations, progressbar, verbose)


def fit_covariance(
    V: Callable[[Any], Any],
    y: Any,
    X: Any = None,
    *,
    start: Mapping[str, float] | Sequence[float],
    derivative: Callable[[FloatArray], Sequence[FloatArray]] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    method: Method = "REML",
    fixed: Mapping[str, float] | Sequence[str] = (),
    max_iterations: int = 100,
    score_tol: float | None = 1e-12,
    step_tol: float | None = 1e-5,
    loglik_tol: float | None = 1e-9,
    progressbar: bool = True,
    verbose: int = 0,
) -> VarianceFit:
    """
    Fit y ~ N(Xβ, V(θ)) by REML or ML for a function θ ↦ V of your own, without a PyMC model.

    Parameters
    ----------
    V : callable
        Of a vector θ. Without `derivative` it is called once with a symbolic θ and must be written in operations of
        PyTensor (arithmetic, `theta[0] * K`, pytensor.tensor functions), which are differentiated; with it, it is
        called with numbers and returns an (n, n) array.
    y, X : arrays, Series, DataFrames
        As in `FastLMM`; an intercept is not added.
    start : mapping or sequence
        Starting values; the keys of a mapping are the names of θ.
    derivative : callable, optional
        Of θ, returning the ∂V/∂θ_i.
    bounds : mapping, optional
        name → (lower, upper); without bounds a parameter may take any value, a variance too.
    method, fixed, max_iterations, score_tol, step_tol, loglik_tol, progressbar, verbose
        As in `find_reml`.

    Returns
    -------
    VarianceFit

    Raises
    ------
    TypeError
        If V cannot be differentiated and there is no `derivative`.
    ValueError
        If shapes do not fit or V is not positive definite at the start.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> J = np.kron(np.eye(3), np.ones((4, 4)))
    >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    >>> fit = flmm.fit_covariance(
    ...     lambda theta: np.exp(1) ** theta[0] * J + np.exp(1) ** theta[1] * np.eye(12),
    ...     y, np.ones((12, 1)), start={"log_batch": 0.0, "log_residual": 0.0}, progressbar=False,
    ... )
    >>> print(np.exp(fit.theta).round(4).to_dict())
    {'log_batch': 3.9167, 'log_residual': 0.3333}
    """
    check_method(method)
    names = tuple(map(str, start)) if isinstance(start, Mapping) else tuple(f"theta{i}" for i in range(len(start)))
    initial = np.array(list(start.values()) if isinstance(start, Mapping) else start, dtype=float)
    response = read(y, "y", ndim=(1,))
    require_finite(response.values, "y", "leave those rows out.")
    n = response.values.size
    design = None if X is None else read(X, "X", ndim=(1, 2))
    if design is not None:
        require_length(design.values.shape[0], n, "X", "y")
        values = design.take(align(response.ids, design, name="X", reference_name="y"))
        design = Labelled(values[:, None] if values.ndim == 1 else values, None, design.names)
    evaluate, differentiate = (V, derivative) if derivative is not None else _differentiated(V, len(names))
    first = np.asarray(evaluate(initial))
    if first.shape != (n, n):
        raise ValueError(f"V must return an ({n}, {n}) matrix, one row for each observation; got shape {first.shape}.")
    objective = DenseObjective.of(
        evaluate, differentiate, response.values, read_design(design, n), names=names,
        lower=np.full(len(names), -np.inf), upper=np.full(len(names), np.inf), start=initial, method=method,
    )  # fmt: skip
    tolerances = Tolerances(score_tol, step_tol, loglik_tol)
    return _fit(objective, None, None, None, fixed, bounds, tolerances, max_iterations, progressbar, verbose)


def find_node(model: pm.Model, var_name: str | None = None) -> LMMNode:
    """
    Return the LMM node of a model, by name when there are several.

    Raises
    ------
    ValueError
        If there is none, none of that name, or several and no name was given.
    """
    nodes = {node.name: node for node in lmm_nodes(model)}
    if not nodes:
        raise ValueError(
            "the model has no FastLMM, FamilyLMM, StructuredLMM, DenseLMM or FourierLMM node: add one, or use "
            "pymc.sample."
        )
    if var_name is None:
        if len(nodes) > 1:
            raise ValueError(f"the model has several LMM nodes ({', '.join(nodes)}): name one with var_name=.")
        return next(iter(nodes.values()))
    if var_name not in nodes:
        raise ValueError(f"no LMM node is called {var_name!r}: the model has {', '.join(nodes)}.")
    return nodes[var_name]


def _refuse_unreached(model: pm.Model, node: LMMNode) -> None:
    reached = set(reaching(model, node.rv))
    if others := [rv.name for rv in model.free_RVs if rv not in reached]:
        raise ValueError(
            f"the free variables {', '.join(others)} do not reach {node.name}: the restricted likelihood says nothing "
            "about them. Fit a model of that node alone, or sample with flmm.sample."
        )


def _differentiated(
    V: Callable[[Any], Any], size: int
) -> tuple[Callable[[FloatArray], Any], Callable[[FloatArray], Any]]:
    """Return functions of numbers for V and its derivatives, from one call with a symbolic θ."""
    theta = pt.vector("theta", shape=(size,))
    try:
        graph = pt.as_tensor(V(theta))
        tangents = [pushforward(graph, theta, pt.constant(np.eye(size)[i])) for i in range(size)]
    except Exception as error:
        raise TypeError(
            f"V could not be called with a symbolic theta ({type(error).__name__}: {error}): write it in operations of "
            "pytensor.tensor, or give its derivative=."
        ) from error
    value = pytensor.function([theta], graph, mode=INTERPRETED)
    slopes = pytensor.function([theta], tangents, mode=INTERPRETED)

    def quiet(function: Callable[[FloatArray], Any]) -> Callable[[FloatArray], Any]:
        def call(values: FloatArray) -> Any:
            with np.errstate(all="ignore"):
                return function(np.asarray(values, dtype=float))

        return call

    return quiet(value), quiet(slopes)


def _fit(
    objective: Objective, node: LMMNode | None, link: Link | None, start: Any, fixed: Any, bounds: Any,
    tolerances: Tolerances, max_iterations: int, progressbar: bool, verbose: int,
) -> VarianceFit:  # fmt: skip
    _require_residual(objective)
    objective, theta = _prepared(objective, start, fixed, bounds)
    trace = _run(objective, theta, tolerances, max_iterations, progressbar, verbose)
    last = trace.iterations[-1]
    state = objective.state(last.theta)
    beta, beta_cov = objective.coefficients(state)
    boundary = _boundary(objective, last)
    coef, names = list(objective.coef), list(objective.names)
    point, problem = _point(objective, link, last)
    converged, message = _verdict(objective, trace, last, boundary)
    return VarianceFit(
        theta=pd.Series(last.theta, names, name="theta"),
        point=point,
        loglik=last.loglik,
        score=pd.Series(last.score, names, name="score"),
        average_information=pd.DataFrame(last.average_information, names, names),
        beta=pd.Series(beta, coef, name="beta"),
        beta_cov=pd.DataFrame(beta_cov, coef, coef),
        boundary=boundary,
        converged=converged,
        message=". ".join(part for part in (message, problem) if part),
        history=history_of(objective, trace),
        method=objective.method,
        objective=objective,
        node=node,
        **_constants(node),
    )


def _constants(node: LMMNode | None) -> dict[str, Any]:
    if node is None or isinstance(node, FourierNode):
        return {}
    mu, b, _ = constants_of(node)
    return {"mu": mu, "prior_mean": b if node.treatment == "proper" else np.zeros(0)}


def _require_residual(objective: Any) -> None:
    """Refuse a response of which X leaves nothing, or whose squares leave the range of floating point."""
    inner = getattr(objective, "inner", objective)
    if not isinstance(inner, StructuredObjective | DenseObjective):
        return
    along = inner.y1 if isinstance(inner, DenseObjective) else inner.response.y1
    flat = inner.flat if isinstance(inner, DenseObjective) else inner.products.flat
    left, whole = float(np.linalg.norm(inner.y)), float(np.hypot(np.linalg.norm(inner.y), np.linalg.norm(along)))
    if not (whole == 0 or _SMALLEST < whole < 1 / _SMALLEST):
        raise ValueError(
            f"y has values of size {whole:.1e}, whose squares leave the range of floating point: choose another unit."
        )
    if flat and left <= len(inner.y) * np.finfo(float).eps * whole:
        raise ValueError(
            "X explains y exactly, no residual is left: there is nothing to estimate a variance from. Check for a "
            "constant y, or a column of X that equals it."
        )


def _prepared(objective: Any, start: Any, fixed: Any, bounds: Any) -> tuple[Any, FloatArray]:
    """Return the objective with narrower bounds and fixed parameters, and the start inside them."""
    lower, upper = objective.lower.copy(), objective.upper.copy()
    matrix = _matrix_elements(objective)
    for name, (low, high) in (bounds or {}).items():
        i = _index(objective, name, "bounds")
        if not low < high or low < lower[i] or high > upper[i]:
            raise ValueError(
                f"bounds of {name} are ({low}, {high}): they must be increasing and inside ({lower[i]}, {upper[i]})."
            )
        if matrix[i]:
            raise ValueError(
                f"{name} is an element of an unstructured matrix, whose elements have no bounds of their own."
            )
        lower[i], upper[i] = low, high
    mask = np.array(objective.fixed, dtype=bool)
    for name in fixed:
        i = _index(objective, name, "fixed")
        if matrix[i]:
            raise ValueError(
                f"{name} is an element of an unstructured matrix: fix it by another structure, for instance diagonal."
            )
        mask[i] = True
    if mask.all():
        raise ValueError("every parameter is fixed: there is nothing to estimate. fit.log_likelihood(theta) evaluates.")
    changed = replace(objective, lower=lower, upper=upper, fixed=mask)
    theta = changed.start() if start is None else changed.read(start, changed.start(), "start")
    if isinstance(fixed, Mapping):
        theta = changed.read(fixed, theta, "fixed")
    outside = (theta < objective.lower) | (theta > objective.upper)
    if outside.any():
        raise ValueError(f"start is outside the bounds: {changed.described(theta)}.")
    return changed, np.where(mask, theta, np.clip(theta, lower, upper))


def _index(objective: Objective, name: str, what: str) -> int:
    if name not in objective.names:
        raise ValueError(f"{what} names {name!r}, which is no parameter: they are {', '.join(objective.names)}.")
    return objective.names.index(name)


def _matrix_elements(objective: Objective) -> Any:
    mask = np.zeros(len(objective.names), dtype=bool)
    if isinstance(objective, StructuredObjective):
        for entry in objective.layout.entries:
            mask[entry.place] = entry.matrix and entry.shape[0] > 1
    return mask


def _run(
    objective: Objective,
    theta: FloatArray,
    tolerances: Tolerances,
    max_iterations: int,
    progressbar: bool,
    verbose: int,
) -> Trace:
    console = Console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not progressbar) as progress:
        task = progress.add_task(f"{objective.method}: starting")

        def report(count: int, i: Iteration) -> None:
            progress.update(task, description=f"{objective.method}: iteration {count}, log-likelihood {i.loglik:.6f}")
            if verbose:
                console.print(
                    f"{count:3d}  loglik {i.loglik:.8f}  decrement {i.decrement:.2e}  {i.kind:10s} "
                    f"{objective.described(i.theta)}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )

        return maximise(objective, theta, tolerances=tolerances, max_iterations=max_iterations, report=report)


def _boundary(objective: Objective, last: Iteration) -> tuple[str, ...]:
    """Return the parameters on a bound; an unstructured matrix is on it as a whole when it is singular."""
    omega = objective.internal(last.theta)
    J = objective.jacobian(omega)
    information = J.T @ last.average_information @ J
    tiny = 1e-9 * typical(omega, information)
    at = ((omega <= objective.internal_lower + tiny) | (omega >= objective.internal_upper - tiny)) & ~objective.fixed
    at |= objective.inactive(omega, J.T @ last.score, information)
    if isinstance(objective, StructuredObjective):
        for entry in objective.layout.entries:
            if entry.matrix and at[entry.place].any():
                at[entry.place] = True
    return tuple(name for name, is_at in zip(objective.names, at, strict=True) if is_at)


def _verdict(objective: Objective, trace: Trace, last: Iteration, boundary: tuple[str, ...]) -> tuple[bool, str]:
    parts = [trace.reason] if trace.reason else []
    converged = trace.converged
    if isinstance(objective, StructuredObjective) and not objective.fixed[-1]:
        at_zero = last.theta[-1] <= objective.internal_lower[-1] * (1 + 1e-9)
        if at_zero and -last.theta[-1] * last.score[-1] > _SLOPE:
            converged = False
            parts.append(
                "the residual variance goes to 0 and the likelihood is not bounded: X and the random effects explain y "
                "exactly. Use fewer terms or more observations"
            )
    parts += objective.remarks(last.theta)
    if unresolved := _unresolved(objective, last, boundary):
        parts.append(
            f"the data do not tell {', '.join(unresolved)} apart, only combinations of them have information: standard "
            "errors are undefined (NaN). Leave a term out, or fix one of them with fixed="
        )
    if boundary:
        parts.append(
            f"on the boundary: {', '.join(boundary)}; standard errors of these are undefined there (NaN). "
            "fit.profile_interval and posterior draws, flmm.sample, give intervals"
        )
    return converged, ". ".join(parts)


def _unresolved(objective: Objective, last: Iteration, boundary: tuple[str, ...]) -> list[str]:
    """Return the free parameters off the boundary if their information is singular, nothing otherwise."""
    free = ~np.asarray(objective.fixed) & ~np.isin(objective.names, boundary)
    cov = information_inverse(last.average_information, free)
    return [name for name, f, v in zip(objective.names, free, np.diag(cov), strict=True) if f and np.isnan(v)]


def _point(objective: Objective, link: Link | None, last: Iteration) -> tuple[dict[str, Any], str]:
    """Return the free variables at θ, and what is wrong with them."""
    theta = last.theta
    if link is None:
        return objective.point(theta), ""
    varying = ~np.asarray(objective.fixed)
    size = typical(theta, last.average_information)
    x = link.invert(np.where(np.isfinite(theta), theta, 0.0), size, objective.lower, varying)
    if x is None or not math.isfinite(float(np.abs(x).sum())):
        return {}, (
            "the estimate lies outside the support of the model's free variables, so that fit.point is empty: "
            "look at their priors' bounds"
        )
    return link.variables.split(x), ""
