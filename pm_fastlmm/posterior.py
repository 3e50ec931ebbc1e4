"""After sampling: exact draws of β and u, and predictions, from the draws of the variances."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm._arrays import FloatArray, read
from pm_fastlmm._choices import require_choice
from pm_fastlmm.coefficients import draw_factor_effects, draw_new_effects
from pm_fastlmm.coordinates import require_labels_of
from pm_fastlmm.dense_posterior import predict_dense
from pm_fastlmm.effects import (
    Coordinates,
    draw_effects,
    draw_prior_effects,
    given_coefficients,
    new_rows,
)
from pm_fastlmm.engines.dense.node import DenseNode
from pm_fastlmm.engines.draws import evaluate_draws, over_batch
from pm_fastlmm.engines.fourier.node import FourierNode
from pm_fastlmm.engines.lengthscale.node import FamilyNode
from pm_fastlmm.engines.nodes import find_node
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.engines.spectral.node import SpectralNode
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.equivalent import require_rows
from pm_fastlmm.family_posterior import NewKernel, predict_family, recover_family
from pm_fastlmm.function_posterior import predict_functions, recover_functions
from pm_fastlmm.linalg.rotated import Rotated
from pm_fastlmm.linalg.spectrum import Spectrum
from pm_fastlmm.mixed_posterior import draw_mixed, predict_mixed, recover_mixed
from pm_fastlmm.mixed_rows import read_rows
from pm_fastlmm.node_labels import batch_coords, node_dims, obs_coords
from pm_fastlmm.pointwise import draw_left_out
from pm_fastlmm.precisions import observed_rows

type Effect = Literal["beta", "u", "a"]
type Effects = Literal["given", "new", "left_out", "population"]

_EFFECTS = {
    "given": "the u of y", "population": "none", "new": "another u with the same covariance",
    "left_out": "each y given the others",
}  # fmt: skip

_BUDGET = 4_000_000  # numbers in flight at a time: 32 MB for each of a handful of arrays


def recover_effects(
    idata: xr.DataTree,
    *,
    which: Sequence[Effect] | None = None,
    model: pm.Model | None = None,
    var_name: str | None = None,
    random_seed: Any = None,
) -> xr.DataTree:
    """
    Add exact posterior draws of the fixed effects β and the random effects u, one for each draw of the variances.

    With K = WWᵀ, u = Wa, also of the coefficients a (marker effects, when W are markers).

    Under the flat prior (β, u) are drawn from their joint Gaussian given y and the variances (Matheron's rule); with an
    explicit β u is drawn given it, with a Gaussian prior β is drawn from its conditional first. For a StructuredLMM
    node that costs one evaluation of the likelihood for each draw, for a FamilyLMM node one factorisation of K: thin a
    long posterior first, ``idata.sel(draw=slice(0, None, 10))``.

    Parameters
    ----------
    idata : xarray.DataTree
        From `sample`, or any with draws of what the node's variances depend on.
    which : sequence of "beta", "u", "a", optional
        For one kernel. Default β and u; β and a when the rows of the data were not kept (`CrossProducts`), where u is a
        value for each of them.
    model : pymc.Model, optional
        Default the model of the context.
    var_name : str, optional
        Which node, when the model has several.
    random_seed : optional

    Returns
    -------
    xarray.DataTree
        The same tree, with `{name}_beta` (dimension coef), `{name}_u` (dimension obs) or `{name}_a` (dimension factor)
        in the posterior; for a StructuredLMM node `{name}_{term}` over the levels of each term (and their columns),
        for a FourierLMM node `{name}_weights` of the features.

    Raises
    ------
    ValueError
        If u is asked for without rows, or a without a factor, or some effects of a StructuredLMM node.

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
    model = pm.modelcontext(model)
    node, rng = find_node(model, var_name), np.random.default_rng(random_seed)
    if isinstance(node, StructuredNode):
        if which is not None:
            raise ValueError(f"which= is for one kernel: for {node.name} β and the effects of all terms are added.")
        return recover_mixed(idata, model, node, rng)
    if isinstance(node, FamilyNode):
        return _recover_family(idata, model, node, which, rng)
    if isinstance(node, FourierNode):
        return recover_functions(idata, model, node, rng)
    node = _spectral(node)
    rows = node.spectrum.rotation is not None
    which = (("beta", "u") if rows else ("beta", "a")) if which is None else which
    if unknown := set(which) - set(get_args(Effect.__value__)):
        raise ValueError(f"which must be some of 'beta', 'u' and 'a', got {', '.join(map(repr, sorted(unknown)))}.")
    beta, u, (g, _, _) = _draw(idata, model, node, rng)
    batch, obs = node_dims(model, node, beta.ndim - 3)
    labels = batch_coords(model, batch)

    def add(effect: Effect, draws: FloatArray, dim: str, names: dict[str, Any]) -> None:
        dims = ("chain", "draw", *batch, dim)
        idata.posterior[f"{node.name}_{effect}"] = xr.DataArray(draws, dims=dims, coords=labels | names)

    if "beta" in which:
        add("beta", beta, f"{node.name}_coef", {f"{node.name}_coef": list(node.spectrum.coef)})
    if "u" in which:
        add("u", _lift(node.spectrum, u), obs, obs_coords(model, node, obs))
    if "a" in which:
        a, names = draw_factor_effects(node.spectrum, u, g, rng), node.spectrum.factor_names
        dim = f"{node.name}_factor"
        add("a", a, dim, {dim: np.arange(a.shape[-1]) if names is None else list(names)})
    return idata


def _recover_family(
    idata: xr.DataTree, model: pm.Model, node: FamilyNode, which: Any, rng: np.random.Generator
) -> xr.DataTree:
    which = ("beta", "u") if which is None else which
    if unknown := set(which) - {"beta", "u"}:
        raise ValueError(f"which must be some of 'beta' and 'u', got {', '.join(map(repr, sorted(unknown)))}.")
    beta, u = recover_family(idata, model, node, rng)
    _, obs = node_dims(model, node, 0)
    if "beta" in which:
        coords = {f"{node.name}_coef": list(node.family.coef)}
        idata.posterior[f"{node.name}_beta"] = xr.DataArray(beta, dims=("chain", "draw", *coords), coords=coords)
    if "u" in which:
        coords = obs_coords(model, node, obs)
        idata.posterior[f"{node.name}_u"] = xr.DataArray(u, dims=("chain", "draw", obs), coords=coords)
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

    For each draw of the variances one draw of f = Xβ + u (β and u from their exact conditional) and one of y = f + e.
    In sample there are three kinds of replicates; plain draws of a node with flat β are none of them.

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
        Covariance of the new effects with the training effects, on the scale of K. For a FamilyLMM node a function of
        the lengthscale, and K_new_new as well: see `SpectrumFamily.new_kernels`.
    W_new : (m, q) array
        Rows of the factor instead, after `Spectrum.from_factor`.
    K_new_new : (m, m) or (m,) array
        Covariance of the new effects: with the matrix the draws of new effects are joint, with the diagonal each has
        the right variance but they are independent given u. Required with K_new.
    Z_new : mapping, optional
        For a StructuredLMM node, by the name of a term what the term was made of: labels, (labels, columns) for random
        slopes, or a matrix. A term that is left out contributes nothing; new levels are drawn from their prior.
    data : DataFrame, optional
        For a model from a formula (`lmm_model`), a table with its variables, in place of X_new and Z_new.
    x_new : (m,) or (m, D) array, optional
        For a FourierLMM node, the points; at very many of them `posterior_function` has mean and variance.
    rows : tuple (x, y) or (x, y, X), optional
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
        observations) and `{name}_mean`: f, or with effects="left_out" the mean of y_i given the others. A node that
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
    new_rows_given = any(part is not None for part in (X_new, K_new, W_new, Z_new, data, x_new))
    _check_effects(effects, in_sample=not new_rows_given)
    require_labels_of(X_new=X_new, K_new=K_new, W_new=W_new, data=data)
    model = pm.modelcontext(model)
    node = find_node(model, var_name)
    rng = np.random.default_rng(random_seed)
    if effects == "left_out":
        f, y = draw_left_out(idata, model, node, rows, rng)
        return _add_predictions(idata, model, node, f, y, new=False, ids=None, rows=rows)
    if rows is not None:
        raise ValueError("rows= are the data of a FourierLMM, which effects='left_out' needs: leave them out.")
    if effects == "population":
        _check_population(node, K_new=K_new, W_new=W_new, K_new_new=K_new_new, Z_new=Z_new, x_new=x_new)
    if isinstance(node, DenseNode) and effects == "new":
        f, y = predict_dense(idata, model, node, rng)
        return _add_predictions(idata, model, node, f, y, new=False, ids=None)
    if isinstance(node, FourierNode):
        if any(part is not None for part in (K_new, W_new, K_new_new, Z_new, data)):
            raise ValueError(f"{node.name} is a FourierLMM: new points are x_new and X_new.")
        f, y = predict_functions(idata, model, node, x_new, X_new, rng)
        return _add_predictions(idata, model, node, f, y, new=True, ids=None)
    if x_new is not None:
        raise ValueError(f"{node.name} is no FourierLMM: x_new are the points of one.")
    if isinstance(node, StructuredNode):
        if K_new is not None or W_new is not None or K_new_new is not None:
            raise ValueError(
                f"{node.name} has terms: new rows are X_new and Z_new, or data= for a model from a formula."
            )
        if not new_rows_given:
            require_rows(node.products)
        rows = None
        if new_rows_given:  # read before the draws, which take seconds
            rows = read_rows(
                node.projection,
                node.terms,
                X_new=X_new,
                Z_new=Z_new,
                data=data,
                design=node.design,
                population=effects == "population",
            )
        draws = draw_mixed(idata, model, node, rng)
        if rows is not None:
            _require_no_mean(node, draws.mu)
        f, y = predict_mixed(draws, node, rows, effects, rng)
        return _add_predictions(idata, model, node, f, y, new=rows is not None, ids=None if rows is None else rows.ids)
    if effects == "population":
        f, y, ids = _population(idata, model, node, X_new, rng)
        return _add_predictions(idata, model, node, f, y, new=new_rows_given, ids=ids)
    if isinstance(node, FamilyNode):
        if any(part is not None for part in (W_new, Z_new, data)):
            raise ValueError(f"{node.name} is one kernel: new rows are X_new, and K_new and K_new_new.")
        kernel = _new_kernel(node, X_new, K_new, K_new_new) if new_rows_given else None
        f, y, ids = predict_family(idata, model, node, rng, kernel, given=effects == "given")
        return _add_predictions(idata, model, node, f, y, new=new_rows_given, ids=ids)
    if Z_new is not None or data is not None:
        raise ValueError(f"{node.name} is one kernel: new rows are X_new with K_new or W_new.")
    node = _spectral(node)
    beta, u, (g, e, mu) = _draw(idata, model, node, rng)
    s = node.spectrum
    if not new_rows_given:
        u = u if effects == "given" else draw_prior_effects(s, np.broadcast_to(g, beta.shape[:-1]), rng)
        f = _lift(s, Coordinates(u.a + beta @ s.projection.R.T, u.b)) + mu
        ids = None
    else:
        _require_no_mean(node, mu)
        new = new_rows(s, X_new, K_new, W_new=W_new, K_new_new=K_new_new)
        f = draw_new_effects(s, new, u, g, rng) + beta @ (new.a @ s.projection.R).T
        ids = new.ids
    y = f + np.sqrt(e)[..., None] * rng.standard_normal(f.shape)
    return _add_predictions(idata, model, node, f, y, new=new_rows_given, ids=ids)


def _population(
    idata: xr.DataTree, model: pm.Model, node: LMMNode, X_new: Any, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, Any]:
    """Return draws of f = Xβ and y = f + e for one kernel, of new rows or those of the data, and ids of new rows."""
    if X_new is None:
        X, ids = node.projection.Q1 @ node.projection.R, None
    else:
        given = read(X_new, "X_new", ndim=(1, 2))
        X, ids = node.projection.new_rows(given, len(given.values)), given.ids
    if isinstance(node, FamilyNode):
        beta, _ = recover_family(idata, model, node, rng)
        e, mu = evaluate_draws(model, idata.posterior.to_dataset(), [node.sigma2_e])[0], np.zeros(1)
    else:
        beta, _, (_, e, mu) = _draw(idata, model, _spectral(node), rng)
    if X_new is not None:
        _require_no_mean(node, mu)
        mu = np.zeros(1)
    f = beta @ X.T + mu
    return f, f + np.sqrt(e)[..., None] * rng.standard_normal(f.shape), ids


def _check_population(node: LMMNode, **given: Any) -> None:
    if isinstance(node, DenseNode | FourierNode):
        raise ValueError(
            f"{node.name} is a {type(node).__name__.removesuffix('Node')}LMM, whose mean without random effects is not "
            "predicted: effects='population' is for FastLMM, FamilyLMM and StructuredLMM."
        )
    if extra := [name for name, value in given.items() if value is not None]:
        raise ValueError(
            f"effects='population' is Xβ without random effects: leave out {', '.join(extra)}; new rows are X_new, or "
            "data= for a model from a formula."
        )


def _new_kernel(node: FamilyNode, X_new: Any, K_new: Any, K_new_new: Any) -> NewKernel:
    if not (callable(K_new) and callable(K_new_new)):
        raise ValueError(
            f"{node.name} has a lengthscale: K_new and K_new_new are functions of it, for new coordinates "
            "K_new, K_new_new = family.new_kernels(x_new)."
        )
    return NewKernel(X_new, K_new, K_new_new)


def _require_no_mean(node: LMMNode, mu: FloatArray) -> None:
    if np.any(mu):
        raise ValueError(
            f"{node.name} has a mean mu besides Xβ, which is not known at new rows: put its columns into X."
        )


def _spectral(node: LMMNode) -> SpectralNode:
    if not isinstance(node, SpectralNode):
        raise ValueError(
            f"{node.name} is a DenseLMM: its V is not split into effects and residuals, so there are none to draw. "
            "Replicates of y as a whole are flmm.predict(idata, effects='new', model=model); for effects, write them "
            "as terms of a StructuredLMM."
        )
    return node


def _add_predictions(
    idata: xr.DataTree, model: pm.Model, node: LMMNode, f: FloatArray, y: FloatArray, *, new: bool, ids: Any,
    rows: Any = None,
) -> xr.DataTree:  # fmt: skip
    """Add draws of y and of its mean f to the group for new rows, or to that for the rows of the data."""
    batch, obs = node_dims(model, node, f.ndim - 3)
    if new:
        group, dim = "predictions", f"{node.name}_new"
        coords: dict[str, Any] = {dim: np.arange(f.shape[-1]) if ids is None else list(ids)}
    else:
        group, dim, coords = "posterior_predictive", obs, obs_coords(model, node, obs)
    dims = ("chain", "draw", *batch, dim)
    coords = (
        coords | batch_coords(model, batch) | {name: idata.posterior[name].to_numpy() for name in ("chain", "draw")}
    )
    dataset = xr.Dataset({node.name: (dims, y), f"{node.name}_mean": (dims, f)}, coords=coords)
    if group in idata.children:  # what is there of other nodes stays
        others = idata[group].to_dataset().drop_vars(list(dataset.data_vars), errors="ignore")
        dataset = (others.drop_dims(dim, errors="ignore") if group == "predictions" else others).merge(dataset)
    idata[group] = xr.DataTree(dataset)
    if not new and (known := observed_rows(node, rows)) is not None:
        _observe_rows(idata, node, xr.DataArray(known, dims=(*batch, dim), coords={dim: coords[dim]}))
    return idata


def _observe_rows(idata: xr.DataTree, node: LMMNode, y: xr.DataArray) -> None:
    """Put y in the place of the statistic that a node observes: what its replicates and their PIT are compared with."""
    observed = idata["observed_data"].to_dataset() if "observed_data" in idata.children else xr.Dataset()
    statistic = f"{node.name}_statistic"
    if node.name in observed and statistic not in observed:
        observed = observed.rename({node.name: statistic})
    idata["observed_data"] = xr.DataTree(observed.drop_vars(node.name, errors="ignore").assign({node.name: y}))


def _check_effects(effects: str, in_sample: bool) -> None:
    require_choice("effects", effects, _EFFECTS)
    if effects in ("new", "left_out") and not in_sample:
        what = "with other random effects" if effects == "new" else "one by one"
        raise ValueError(
            f"effects='{effects}' repeats the training rows {what}: leave out X_new, K_new and W_new. "
            "New rows are predicted given y."
        )


def _draw(
    idata: xr.DataTree, model: pm.Model, node: SpectralNode, rng: np.random.Generator
) -> tuple[FloatArray, Coordinates, tuple[FloatArray, FloatArray, FloatArray]]:
    """Return draws of β, of u in rotated coordinates, and (σ²_g, σ²_e, mu) of the draws."""
    if node.observed is None:
        raise ValueError(f"{node.name} has no observed data: effects and predictions are given y.")
    posterior = idata.posterior.to_dataset()
    outputs = [node.sigma2_g, node.sigma2_e]
    outputs += [v for v in (node.mu, node.beta_mean, node.beta_root) if v is not None]
    g, e, *rest = evaluate_draws(model, posterior, outputs)
    mu = rest.pop(0) if node.mu is not None else np.zeros((1, 1, 1))
    batch = node.observed.ndim - 1
    g, e, mu = over_batch(g, batch + 2), over_batch(e, batch + 2), over_batch(mu, batch + 3)
    rotated = _rotate_draws(node, mu) if np.ptp(mu, axis=(0, 1)).any() else node.rotated(mu[0, 0])
    if np.isnan(rotated.y1).any():
        raise ValueError(
            f"{node.name} observes other z and rss than those of the Rotated it was built with, so that y along X is "
            "not known, which β and u depend on: build the model with the Rotated of these data."
        )
    shape = np.broadcast_shapes(g.shape, e.shape, rotated.batch_shape)
    g, e = np.broadcast_to(g, shape), np.broadcast_to(e, shape)
    beta, u = draw_effects(rotated, g, e, rng)
    if node.treatment == "proper":
        mean, root = over_batch(rest[0], batch + 3), over_batch(rest[1], batch + 4)
        beta, u = given_coefficients(rotated, g, e, beta, u, mean, root, rng)
    return beta, u, (g, e, mu)


def _rotate_draws(node: SpectralNode, mu: FloatArray) -> Rotated:
    """Rotate y - mu for each draw of mu."""
    values = np.broadcast_to(node.observed - mu, np.broadcast_shapes(node.observed.shape, mu.shape))
    flat = Rotated.from_values(node.spectrum, values.reshape(-1, values.shape[-1]).T, None)
    batch = values.shape[:-1]
    z, rss, y1, norm2 = (a.reshape(*batch, *a.shape[1:]) for a in (flat.z, flat.rss, flat.y1, flat.norm2))
    return Rotated(node.spectrum, z, rss, y1, norm2, None)


def _lift(s: Spectrum, u: Coordinates) -> FloatArray:
    """Return the vectors of coordinates (chain, draw, …), in blocks of draws under the memory budget."""
    count = math.prod(u.b.shape[:-1])
    a, b = u.a.reshape(count, u.a.shape[-1]), u.b.reshape(count, u.b.shape[-1])
    out = np.empty((a.shape[0], s.n))
    for rows in np.array_split(np.arange(a.shape[0]), max(1, a.shape[0] * s.n // _BUDGET)):
        out[rows] = Coordinates(a[rows], b[rows]).lift(s)
    return out.reshape(*u.a.shape[:-1], s.n)
