"""After sampling: draws of β and u, predictions and functions, from the draws of the variances."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.base.coordinates import require_labels_of
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.fourier.functions import FunctionPosterior
from pm_fastlmm.engines.labels import add_predictions, observe_rows
from pm_fastlmm.engines.nodes import find_node, model_here
from pm_fastlmm.engines.prediction import Effects, NewRows
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.posterior.pointwise import draw_left_out

type Effect = Literal["beta", "u", "a"]
type Way = Literal["curvature", "importance"]

_WAYS = {"curvature": "from the normal approximation", "importance": "and resampled by their weights"}
_EFFECTS = {
    "given": "the u of y", "population": "none", "new": "another u with the same covariance",
    "left_out": "each y given the others",
}  # fmt: skip


def recover_effects(
    idata: xr.DataTree,
    *,
    which: Sequence[Effect] | None = None,
    by: Way = "curvature",
    model: pm.Model | None = None,
    var_name: str | None = None,
    random_seed: Any = None,
) -> xr.DataTree:
    """
    Add posterior draws of the fixed effects β and the random effects u, one per draw of the variances.

    With K = WWᵀ, u = Wa, also of the coefficients a (marker effects, when W are markers).

    Under the flat prior (β, u) are drawn from their joint Gaussian given y and the variances (Matheron's rule); with an
    explicit β u is drawn given it, with a Gaussian prior β is drawn from its conditional first. For a StructuredLMM
    node that costs one evaluation of the likelihood for each draw, for a LengthscaleLMM node one factorisation of K:
    thin a long posterior first, ``idata.sel(draw=slice(0, None, 10))``.

    These draws are exact, but for a LatentLMM: its β and u are drawn from a normal distribution with the curvature at
    their mode, about their mean to the first order (Tierney & Kadane 1986). With ``by="importance"`` some hundreds of
    draws are made for each, and one is taken by their importance weights, in each group of effects that are independent
    of the others given β. That is nearer to the posterior given θ; the draws of θ stay those of the approximate
    likelihood.

    Parameters
    ----------
    idata : xarray.DataTree
        From `sample`, or any with draws of what the node's variances depend on.
    which : sequence of "beta", "u", "a", optional
        For one kernel. Default β and u; β and a when the rows of the data were not kept (`KernelStatistics`), where u
        is a value for each of them.
    by : {"curvature", "importance"}
        How those of a LatentLMM are drawn.
    model : pymc.Model, optional
        Default the model of the context.
    var_name : str, optional
        Which node, when the model has several.
    random_seed : optional

    Returns
    -------
    xarray.DataTree
        The same tree, with `{name}_beta` (dimension coef), `{name}_u` (dimension obs; individual, where these have
        repeated records) or `{name}_a` (dimension factor) in the posterior; for a StructuredLMM node `{name}_{term}`
        over the levels of each term (and their columns), for a FourierLMM node `{name}_weights` of the features.

    Raises
    ------
    ValueError
        If u is asked for without rows, or a without a factor, or some effects of a StructuredLMM node; if importance
        weights are not reliable (Pareto k above 0.7), as of many effects that are all related, or not needed.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> batch = np.repeat(np.eye(3), 4, axis=0)
    >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    >>> with flmm.kernel_model(y, np.ones((12, 1)), W=batch) as model:
    ...     idata = flmm.sample(200, chains=2, random_seed=1, progressbar=False, quiet=True)
    >>> idata = flmm.recover_effects(idata, model=model, random_seed=2)
    >>> idata.posterior["y_u"].shape
    (2, 200, 12)
    """
    model = model_here(model)
    node, rng = find_node(model, var_name), np.random.default_rng(random_seed)
    if which is not None:
        _require_parts(node, which)
    require_choice("by", by, _WAYS)
    _require_data(node)
    posterior = Draws(model, idata.posterior.to_dataset())
    drawn = node.recover(posterior, which, rng) if by == "curvature" else node.recover_by_importance(posterior, rng)
    for part, draws in drawn.items():
        idata.posterior[f"{node.name}_{part}"] = draws
    return idata


def predict(
    idata: xr.DataTree,
    X_new: Any = None,
    K_new: Any = None,
    *,
    W_new: Any = None,
    K_new_new: Any = None,
    Z_new: Mapping[str, Any] | None = None,
    data: Any = None,
    x_new: Any = None,
    rows: Any = None,
    effects: Effects = "given",
    model: pm.Model | None = None,
    var_name: str | None = None,
    random_seed: Any = None,
) -> xr.DataTree:
    """
    Add posterior predictive draws: of new observations, or of the training ones when no new rows are given.

    For each draw of the variances one draw of f = Xβ + u, β and u as `recover_effects` draws them, and one of
    y = f + e. In sample there are three kinds of replicates; plain draws of a node with flat β are none of them.

    * ``effects="given"``: the same individuals measured again, y_rep = Xβ + u + e with the u of y. They check the
      residuals, and follow y closely where K explains much of it.
    * ``effects="new"``: the experiment repeated with other individuals of the same design and the same K,
      y_rep = Xβ + u_new + e with u_new ~ N(0, σ²_gK) independent of y. They check the model of u as well.
    * ``effects="left_out"``: each observation drawn given all the others, from p(y_i | y_-i, θ). With the weights of
      Pareto-smoothed leave-one-out they become draws from p(y_i | y_-i): what `az.loo_pit` and `az.plot_loo_pit` need,
      after `pointwise_log_likelihood`. Draws with the u of y know y_i, and their PIT is not uniform.

    Parameters
    ----------
    idata : xarray.DataTree
        From `sample`.
    X_new : (m, d) array or DataFrame
        Fixed-effects design of the new rows: all columns of X, by name where both have names.
    K_new : (m, n) array or DataFrame
        Covariance of the new effects with the training effects, on the scale of K. For a LengthscaleLMM node a function
        of the lengthscale, and K_new_new as well: see `LengthscaleSpectrum.new_kernels`.
    W_new : (m, q) array
        Rows of the factor instead, after `Spectrum.from_factor`.
    K_new_new : (m, m) or (m,) array
        Covariance of the new effects: with the matrix the draws of new effects are joint, with the diagonal each has
        the right variance but they are independent given u. Required with K_new.
    Z_new : mapping, optional
        For a StructuredLMM node, by the name of a term what the term was made of: labels, (labels, columns) for random
        slopes, or a matrix. A term that is left out contributes nothing; new levels are drawn from their prior. Under
        "residual" the coordinates of residuals that have several, or (records, coordinates).
    data : DataFrame, optional
        For a model from a formula (`lmm_model`), a table with its variables, in place of X_new and Z_new.
    x_new : (m,) or (m, D) array, optional
        For a FourierLMM node, the points; at very many of them `posterior_function` has mean and variance.
    rows : tuple (x, y), (x, y, X) or (x, y, X, weights), optional
        The data of a FourierLMM node, for effects="left_out".
    effects : {"given", "new", "left_out", "population"}
        Which replicates, in sample. A DenseLMM node has no u that could be given. "population", of new rows too, is
        f = Xβ and y = f + e without random effects (lme4's `re.form = NA`), for which data needs no groups; somebody
        new is a level that is new.
    model, var_name, random_seed
        As in `recover_effects`.

    Returns
    -------
    xarray.DataTree
        The same tree, with the groups `posterior_predictive` (in sample) or `predictions`, which hold `{name}` (new
        observations) and `{name}_mean`: f, or with effects="left_out" the mean of y_i given the others. A LatentLMM
        has three scales: `{name}_eta` is the linear predictor η = Xβ + Σ Zu, `{name}_mean` E(y | η), a probability,
        rate or expected count, and `{name}` the response; of ordered categories, whose mean is that of their numbers
        from 0 on, `{name}_probability` has one for each `{name}_category`. A node that
        observes a statistic gets its y, where the rows are known, in `observed_data`, beside `{name}_statistic`.

    Raises
    ------
    ValueError
        If a mean `mu` besides Xβ would be needed at new rows, K_new_new is missing, the group of a new row is missing,
        or new rows are given with effects="new" or "left_out".

    Warns
    -----
    UserWarning
        If the data do not determine Xβ of some new rows, whose draws are then NaN: see `REMLFit.predict`.

    References
    ----------
    Gelman, Meng & Stern (1996), Posterior predictive assessment of model fitness, Statistica Sinica 6, 733-807:
    replicates with the same or with new values of the group effects.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> batch = np.repeat(np.eye(3), 4, axis=0)
    >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    >>> with flmm.kernel_model(y, np.ones((12, 1)), W=batch) as model:
    ...     idata = flmm.sample(200, chains=2, random_seed=1, progressbar=False, quiet=True)
    ...     idata = flmm.predict(idata, effects="new", random_seed=2)
    >>> idata.posterior_predictive["y"].shape
    (2, 200, 12)
    """
    new = NewRows(X_new, K_new, W_new, K_new_new, Z_new, data, x_new)
    _check_effects(effects, new.in_sample)
    require_labels_of(X_new=X_new, K_new=K_new, W_new=W_new, data=data)
    model = model_here(model)
    node, rng = find_node(model, var_name), np.random.default_rng(random_seed)
    if effects == "left_out":
        drawn = draw_left_out(idata, model, node, rows, rng)
    else:
        if rows is not None:
            raise ValueError("rows= are the data of a FourierLMM, which effects='left_out' needs: leave them out.")
        _require_predicted(node, new, effects)
        _require_data(node)
        found = node.read(new, effects)  # before the draws, which take seconds
        drawn = node.predict(Draws(model, idata.posterior.to_dataset()), found, effects, rng)
    add_predictions(idata, model, node, drawn, new=not new.in_sample)
    if new.in_sample and (known := node.known_rows(rows)) is not None:
        observe_rows(idata, model, node, known)
    return idata


def posterior_function(
    idata: xr.DataTree,
    *,
    draws: int = 400,
    model: pm.Model | None = None,
    var_name: str | None = None,
    progressbar: bool = False,
) -> FunctionPosterior:
    """
    Return the posterior of f = Xβ + Z(x)w, averaged over posterior draws of the parameters of a FourierLMM node.

    Parameters
    ----------
    idata : xarray.DataTree
        From `sample`.
    draws : int
        How many draws, evenly spaced, are taken; each costs one factorisation of the features.
    model, var_name
        As in `recover_effects`.
    progressbar : bool

    Returns
    -------
    FunctionPosterior
        Its `predict` gives mean and variance at any number of points, its `draw` whole functions.

    Raises
    ------
    ValueError
        If the node is no FourierLMM.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(size=1000)
    >>> basis = flmm.FourierBasis(
    ...     lengthscale=(0.1, 1.0), domain=(0, 1), n=1000, noise_ratio_min=0.1
    ... )
    >>> statistics = flmm.FourierStatistics.from_arrays(
    ...     basis, x, np.sin(6 * x) + rng.normal(size=1000)
    ... )
    >>> with pm.Model() as model:
    ...     ell, v, v_e = (
    ...         pm.Uniform("ell", 0.1, 1.0),
    ...         pm.HalfNormal("v", 1),
    ...         pm.HalfNormal("v_e", 1),
    ...     )
    ...     node = flmm.FourierLMM(
    ...         "y", statistics=statistics, lengthscale=ell, sigma2=v, sigma2_e=v_e
    ...     )
    ...     idata = flmm.sample(200, chains=2, random_seed=1, progressbar=False, quiet=True)
    >>> f = flmm.posterior_function(idata, model=model, draws=100)
    >>> f.predict(np.linspace(0, 1, 5)).mean.round(0) + 0.0
    array([ 0.,  1.,  0., -1.,  0.])
    """
    model = model_here(model)
    node = find_node(model, var_name)
    found: FunctionPosterior = node.function(Draws(model, idata.posterior.to_dataset()), draws, progressbar=progressbar)
    return found


def variances(idata: xr.DataTree, *, model: pm.Model | None = None, var_name: str | None = None) -> xr.Dataset:
    """
    Return the draws of the parameters of V by the names that a fit has, for any function of them.

    Heritability, repeatability and other functions are arithmetic on this: the function that `fit.function` takes.

    Parameters
    ----------
    idata : DataTree
        What `sample` returns.
    model, var_name
        As in `recover_effects`.

    Returns
    -------
    Dataset
        Variables over chain and draw, as `fit.theta` names them after `find_reml`: variances, covariances,
        correlations. Of one kernel sigma2_g, sigma2_e and what follows from them; of a `DenseLMM` or `FourierLMM` the
        model's variables.

    Raises
    ------
    ValueError
        If a variable that they depend on was not kept in the posterior.

    Examples
    --------
    >>> import pm_fastlmm as flmm
    >>> model = flmm.lmm_model("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff())
    >>> with model:
    ...     idata = flmm.sample(200, chains=2, random_seed=1, progressbar=False, quiet=True)
    >>> v = flmm.variances(idata, model=model)
    >>> repeatability = v["Batch"] / (v["Batch"] + v["residual"])
    >>> repeatability.dims, bool(0.3 < repeatability.mean() < 0.5)
    (('chain', 'draw'), True)
    """
    model = model_here(model)
    node, posterior = find_node(model, var_name), idata.posterior.to_dataset()
    found = node.variances(Draws(model, posterior))
    return xr.Dataset(found).assign_coords({name: posterior[name] for name in ("chain", "draw")})


def _require_parts(node: LMMNode, which: Sequence[str]) -> None:
    if not node.parts:
        raise ValueError(
            f"which= is for one kernel: {node.name} is a {node.called}, whose effects are added all together."
        )
    if unknown := set(which) - set(node.parts):
        *others, last = map(repr, node.parts)
        raise ValueError(
            f"which must be some of {', '.join(others)} and {last}, got {', '.join(map(repr, sorted(unknown)))}."
        )


def _require_data(node: LMMNode) -> None:
    if node.observed is None:
        raise ValueError(f"{node.name} has no observed data: effects and predictions are given y.")


def _require_predicted(node: LMMNode, new: NewRows, effects: Effects) -> None:
    if effects not in node.predicts:
        raise node.refused()
    if effects == "population" and (extra := [name for name in new.given if name not in node.takes_of_population]):
        raise ValueError(
            f"effects='population' is Xβ without random effects: leave out {', '.join(extra)}; new rows are X_new, or "
            "data= for a model from a formula."
        )
    if extra := [name for name in new.given if name not in node.takes]:
        raise ValueError(
            f"{node.name} is a {node.called}: leave out {', '.join(extra)}. Its new rows are given by "
            f"{', '.join(name for name in node.takes if name != 'rows') or 'no argument'}."
        )


def _check_effects(effects: str, in_sample: bool) -> None:
    require_choice("effects", effects, _EFFECTS)
    if effects in ("new", "left_out") and not in_sample:
        what = "with other random effects" if effects == "new" else "one by one"
        raise ValueError(
            f"effects='{effects}' repeats the training rows {what}: leave out X_new, K_new and W_new. "
            "New rows are predicted given y."
        )
