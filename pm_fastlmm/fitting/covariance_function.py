"""reml_covariance: the fit of a user's own function θ → V."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import pushforward

from pm_fastlmm.aireml.iteration import Tolerances
from pm_fastlmm.base.arrays import FloatArray, read, require_finite
from pm_fastlmm.base.choices import Method, require_choice
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.engines.graphs import INTERPRETED
from pm_fastlmm.engines.objective import DenseObjective
from pm_fastlmm.fitting.estimate import Options, estimate
from pm_fastlmm.fitting.fit import VarianceFit
from pm_fastlmm.spectrum.projection import read_design


def reml_covariance(
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
    >>> fit = flmm.reml_covariance(
    ...     lambda theta: np.exp(1) ** theta[0] * J + np.exp(1) ** theta[1] * np.eye(12),
    ...     y, np.ones((12, 1)), start={"log_batch": 0.0, "log_residual": 0.0}, progressbar=False,
    ... )
    >>> print(np.exp(fit.theta).round(4).to_dict())
    {'log_batch': 3.9167, 'log_residual': 0.3333}
    """
    require_choice("method", method, Method)
    names = tuple(map(str, start)) if isinstance(start, Mapping) else tuple(f"theta{i}" for i in range(len(start)))
    initial = np.array(list(start.values()) if isinstance(start, Mapping) else start, dtype=float)
    response = read(y, "y", ndim=(1,))
    require_finite(response.values, "y", "leave those rows out.")
    n = response.values.size
    projection = read_design(X, n, response.ids, "y")[1]
    evaluate, differentiate = (V, derivative) if derivative is not None else _differentiated(V, len(names))
    first = np.asarray(evaluate(initial))
    if first.shape != (n, n):
        raise ValueError(f"V must return an ({n}, {n}) matrix, one row for each observation; got shape {first.shape}.")
    objective = DenseObjective.of(
        evaluate, differentiate, response.values, projection, names=names,
        lower=np.full(len(names), -np.inf), upper=np.full(len(names), np.inf), start=initial, method=method,
    )  # fmt: skip
    tolerances = Tolerances(score_tol, step_tol, loglik_tol)
    node = GaussianNode("y", None, "flat", None, None, response.values, objective.projection, None)
    options = Options(method, None, fixed, bounds, tolerances, max_iterations, progressbar, verbose)
    return estimate(objective, None, node, options)


def _differentiated(
    V: Callable[[Any], Any], size: int
) -> tuple[Callable[[FloatArray], Any], Callable[[FloatArray], Any]]:
    """Return functions of numbers for V and its derivatives, from one call with a symbolic θ."""
    theta = pt.vector("theta", dtype="float64", shape=(size,))
    try:
        graph = pt.as_tensor(V(theta))
        tangents = [pushforward(graph, theta, pt.constant(np.eye(size)[i])) for i in range(size)]
    except Exception as error:
        raise TypeError(
            f"V could not be called with a symbolic theta ({type(error).__name__}: {error}): write it in operations of "
            "pytensor.tensor, or give its derivative=."
        ) from error

    def compiled(outputs: Any) -> Callable[[FloatArray], Any]:
        function = pytensor.function([theta], outputs, mode=INTERPRETED)

        def quiet(values: FloatArray) -> Any:
            with np.errstate(all="ignore"):
                return function(np.asarray(values, dtype=float))

        return quiet

    return compiled(graph), compiled(tangents)
