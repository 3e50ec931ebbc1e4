"""find_reml, the restricted maximum likelihood counterpart of `pm.find_MAP`, and the same for a function θ → V."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt

from pm_fastlmm.aireml.iteration import Tolerances
from pm_fastlmm.base.arrays import FloatArray, read, require_finite
from pm_fastlmm.base.choices import Method, Negative, require_choice
from pm_fastlmm.engines.free_variables import FreeVariables, tangents
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.engines.graphs import reaching
from pm_fastlmm.engines.nodes import find_node, model_here
from pm_fastlmm.engines.objective import DenseObjective
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.fitting.estimate import Options, estimate
from pm_fastlmm.fitting.fit import VarianceFit
from pm_fastlmm.spectrum.projection import read_design

if TYPE_CHECKING:
    from pm_fastlmm.models.mixed_design import MixedDesign


def find_reml(
    model: "pm.Model | str | MixedDesign | None" = None,
    data: pd.DataFrame | None = None,
    *,
    known: Mapping[str, Any] | None = None,
    K: Any = None,
    W: Any = None,
    individual: str | None = None,
    negative: Negative = "error",
    weights: Any = None,
    offset: Any = None,
    residual: str | None = None,
    family: Any = None,
    link: str | None = None,
    trials: Any = None,
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
    model : pymc.Model, str or MixedDesign, optional
        Default the model of the context; or a formula with random terms, "yield ~ rep + (1 | gen)", as for
        `lmm_model`, whose model is fitted and is built when `fit.model` is asked for. With several
        traits, "milk + fat ~ sex", or with K or W it is that of `traits_model`.
    data : DataFrame, optional
        The table of a formula.
    known : dict, optional
        With a formula, known covariances between the levels of grouping factors, as for `lmm_model`.
    K, W : array or DataFrame, optional
        With a formula, the covariance of the rows of its table, or its factor, as for `traits_model`.
    individual : str, optional
        With K or W, of individuals, the column that says whose record each row is.
    negative : {"error", "zero"}
        What becomes of negative eigenvalues of these covariances, as for `lmm_model`.
    weights, offset : str or array, optional
        With a formula, prior weights and a known part of the mean, as for `lmm_model`.
    residual : str, optional
        With a formula, the column of groups that have residual variances of their own, "sex", or a bar of records whose
        residuals covary, "(0 + trait | record)", as for `lmm_model`.
    family, link, trials : optional
        With a formula, the distribution of a response that is not normal, as for `lmm_model`: family="poisson". Its
        likelihood is Laplace's approximation, with β integrated out, or of method="ML" maximised over β, as glmer and
        glmmTMB have it.
    var_name : str, optional
        Which node, when the model has several.
    method : {"REML", "ML"}
    start : mapping or sequence, optional
        Values of θ by name (see `fit.theta`), the others by default; default MINQUE(0), for `DenseLMM` the initial
        values of its variables. An unstructured matrix may be given as a whole, by the name of its term.
    fixed : mapping, Series or sequence of names
        Parameters that keep a value: that of the mapping, or that of the start. With all of them fixed nothing is
        estimated, and the fit has effects, fixed effects and predictions at these values:
        `fixed={"animal": 20, "residual": 40}`, or, of correlated effects, `fixed={"animal": [[20, 5], [5, 9]], …}`.
    bounds : mapping, optional
        Narrower bounds of parameters, name → (lower, upper).
    max_iterations : int
    score_tol, step_tol, loglik_tol : float or None
        Newton decrement, relative step and predicted gain below which the iteration has converged, all of them
        together; None switches a criterion off. A gain below the rounding of the log-likelihood is none.
    progressbar : bool
    verbose : int
        1 prints a line for each iteration.

    Returns
    -------
    VarianceFit
        A fit on the boundary or one that failed is labelled in `boundary`, `converged` and `message`. Of a response
        that is not normal a `LaplaceFit`.

    Raises
    ------
    ValueError
        If the model has no such node, a free variable does not reach it, the mean has free variables, or V is not
        positive definite at the start.

    Notes
    -----
    Average-information steps (Gilmour, Thompson & Cullis 1995, doi:10.2307/2533274) under bounds (an active set),
    halved until the exact likelihood rises; an EM step is the last resort. A step that would make an unstructured
    matrix indefinite is replaced by the best one that does not, and where steps crawl, Newton's are taken along the
    matrices of the same rank. Convergence is judged by the Newton decrement, which does not depend on the
    parametrisation. A likelihood that rises for ever, as variance and range of a correlation go to infinity together,
    is said to do so. One kernel is fitted by the global search of `reml`, one with a lengthscale by Newton steps from
    the best point of a grid over ℓ and δ; with several components the maximum found is a local one, which other
    starting values can check.

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
    ...     node = flmm.StructuredLMM(
    ...         "y", X=np.ones((12, 1)), terms=[term], sigma2_e=sigma_e**2, observed=y
    ...     )
    >>> fit = flmm.find_reml(model, progressbar=False)
    >>> print(fit.theta.round(4).to_dict())
    {'batch': 3.9167, 'residual': 0.3333}
    >>> print({name: value.round(3).item() for name, value in fit.point.items()})
    {'sigma_batch': 1.979, 'sigma_e': 0.577}

    Residual variances of daughters and sons, in the families that Galton asked:

    >>> families = flmm.datasets.galton_families()
    >>> fit = flmm.find_reml(
    ...     "height ~ sex + (1 | family)", families, residual="sex", progressbar=False
    ... )
    >>> print(fit.theta.round(2).to_dict())
    {'family': 2.22, 'residual[female]': 3.53, 'residual[male]': 4.45}

    Counts, by Laplace's approximation:

    >>> import pandas as pd
    >>> litters = pd.DataFrame(
    ...     {"size": [9, 12, 11, 8, 13, 12, 6, 9, 7], "sow": list("aaabbbccc")}
    ... )
    >>> fit = flmm.find_reml(
    ...     "size ~ 1 + (1 | sow)", litters, family="poisson", progressbar=False
    ... )
    >>> print(fit.theta.round(3).to_dict())
    {'sow': 0.01}
    """
    require_choice("method", method, Method)
    tolerances = Tolerances(score_tol, step_tol, loglik_tol)
    options = Options(method, start, fixed, bounds, tolerances, max_iterations, progressbar, verbose)
    if not isinstance(model, pm.Model | None):
        from pm_fastlmm.fitting.formula import fit_formula  # a model needs no formulaic, which takes long to import

        of_formula = {"weights": weights, "offset": offset, "residual": residual}
        of_formula |= {"family": family, "link": link, "trials": trials}
        kernel = {"K": K, "W": W, "individual": individual}
        return fit_formula(model, data, known, options, negative=negative, **kernel, **of_formula)
    given = (data, known, K, W, individual, weights, offset, residual, family, link, trials)
    if any(value is not None for value in given) or negative != "error":
        raise ValueError(
            "data, known, K, W, individual, negative, weights, offset, residual, family, link and trials belong to a "
            "formula: a model has its own."
        )
    model = model_here(model)
    node = find_node(model, var_name)
    _refuse_unreached(model, node)
    return OfModel(model, options).fit(node)


class OfModel(NamedTuple):
    """A PyMC model, which a copy of the fit shares: PyMC cannot copy every model."""

    fitted: pm.Model
    options: Options

    def __deepcopy__(self, memo: Any) -> Self:
        """Return the same."""
        return self

    def model(self) -> pm.Model:
        """Return it."""
        return self.fitted

    def quiet(self) -> Self:
        """Return the same, whose fits show no progress."""
        return self._replace(options=self.options.quiet())

    def fit(self, node: LMMNode) -> VarianceFit:
        """Return the fit of its node."""
        return estimate(*node.objective(self.fitted, self.options.method), node, self.options, self)


def _refuse_unreached(model: pm.Model, node: LMMNode) -> None:
    reached = set(reaching(model, node.rv))
    if others := [rv.name for rv in model.free_RVs if rv not in reached]:
        raise ValueError(
            f"the free variables {', '.join(others)} do not reach {node.name}: the restricted likelihood says nothing "
            "about them. Fit a model of that node alone, or sample with flmm.sample."
        )


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
    ...     y,
    ...     np.ones((12, 1)),
    ...     start={"log_batch": 0.0, "log_residual": 0.0},
    ...     progressbar=False,
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
    theta, ends = pt.vector("theta", dtype="float64", shape=(len(names),)), np.full(len(names), np.inf)
    variables = FreeVariables((theta,), (theta.type.shape,), names, -ends, ends, initial)
    evaluate, differentiate = (V, derivative) if derivative is not None else _differentiated(V, variables)
    first = np.asarray(evaluate(initial))
    if first.shape != (n, n):
        raise ValueError(f"V must return an ({n}, {n}) matrix, one row for each observation; got shape {first.shape}.")
    objective = DenseObjective.of(
        evaluate, differentiate, response.values, projection, names=names, lower=-ends, upper=ends, start=initial,
        method=method,
    )  # fmt: skip
    tolerances = Tolerances(score_tol, step_tol, loglik_tol)
    options = Options(method, None, fixed, bounds, tolerances, max_iterations, progressbar, verbose)
    node = GaussianNode("y", None, "flat", None, None, response.values, objective.projection, None)
    return estimate(objective, None, node, options)


def _differentiated(
    V: Callable[[Any], Any], variables: FreeVariables
) -> tuple[Callable[[FloatArray], Any], Callable[[FloatArray], Any]]:
    """Return functions of numbers for V and its derivatives, from one call with a symbolic θ."""
    try:
        graph = pt.as_tensor(V(*variables.symbols))
        slopes = tangents(graph, variables)
    except Exception as error:
        raise TypeError(
            f"V could not be called with a symbolic theta ({type(error).__name__}: {error}): write it in operations of "
            "pytensor.tensor, or give its derivative=."
        ) from error
    evaluate = variables.compile([graph])
    return lambda x: evaluate(x)[0], variables.compile(slopes)
