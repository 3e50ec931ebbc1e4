"""After sampling: the density of each observation, or group, given all the others; exact at each posterior draw."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray, shown, slices
from pm_fastlmm.base.coordinates import require_labels
from pm_fastlmm.base.display import progress
from pm_fastlmm.engines.draws import DrawFunction, Draws
from pm_fastlmm.engines.labels import beside_others, labelled, over_obs
from pm_fastlmm.engines.nodes import find_node, model_here
from pm_fastlmm.engines.precisions import GivenOthers, Precisions
from pm_fastlmm.engines.prediction import Predictive
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.kernel.effects.left_out import Groups, unpredictable
from pm_fastlmm.kernel.likelihood.leave_out import leave_groups_out, leave_one_out

GROUP = "group"
MEMORY_BUDGET = 2**28
_PRECISIONS = 4  # arrays of the size of the largest that are alive at a time
_ARRAYS = 8  # of a draw's numbers that are alive at a time where the joint density is evaluated


def pointwise_log_likelihood(
    idata: xr.DataTree,
    *,
    groups: Any = None,
    rows: Any = None,
    model: pm.Model | None = None,
    var_name: str | None = None,
    memory_budget: float = MEMORY_BUDGET,
    progressbar: bool = True,
) -> xr.DataTree:
    r"""
    Add log p(y_i | y_-i, θ) at each draw of θ to the group `log_likelihood`, for `az.loo` and `az.compare`.

    The observations of a mixed model are dependent given its parameters, so that the density of y does not split into
    a product of terms, one for each of them; PyMC's `compute_log_likelihood` has the density of all of y as a single
    value. What leaving one out needs is its density given all the others, here with u and β integrated out:

        y_i | y_-i, θ ~ N(y_i - (Py)_i/P_ii, 1/P_ii)

    Since p(y | θ) = p(y_-i | θ) p(y_i | y_-i, θ), the ratio of the posterior without y_i to that with it is
    1/p(y_i | y_-i, θ): the importance weights of Pareto-smoothed leave-one-out are right, for dependent data as well,
    and what is exact here at each draw is averaged over the posterior of θ by `az.loo`.

    Of a LatentLMM p(y_i | y_-i, θ) is that of Laplace's approximation: from the normal approximation of η_i given y the
    part of y_i is taken out, and p(y_i | η_i) is integrated over what is left (Vehtari et al. 2016). For groups the
    mode is found without each, at each draw, and the approximations of p(y) and p(y_-S) are compared.

    Not a likelihood in parts: the sum over i is not log p(y | θ). What it lacks is added as `{name}_remainder`, one
    number for each draw, so that the group as a whole adds up to log p(y | θ), which is what power scaling
    (`arviz_stats.psense`) makes of it. ArviZ is therefore told which variable is meant: `az.loo(idata, var_name="y")`.

    Parameters
    ----------
    idata : xarray.DataTree
        From `sample`, or any with draws of what the node depends on.
    groups : sequence, Series or Categorical of labels, or a list of several factors, optional
        Leave whole groups out: log p(y_S | y_-S, θ), the joint density of each group given all others, under the name
        `{name}_by_group` with a dimension "group". Of a MatrixLMM a label for each row, all of whose traits are left
        out together.
    rows : tuple (x, y), (x, y, X) or (x, y, X, weights), optional
        The data of a FourierLMM node, which keeps none of them.
    model : pymc.Model, optional
        Default the model of the context.
    var_name : str, optional
        Which node, when the model has several.
    memory_budget : float
        Bytes of the arrays of the draws that are in work at a time; the result, chains × draws × n numbers, is not
        among them.
    progressbar : bool

    Returns
    -------
    xarray.DataTree
        The same tree, with the group `log_likelihood`: `{name}` with the dimensions of the node, or over the entries
        that were observed where some were not, and `{name}_remainder`.

    Raises
    ------
    ValueError
        If β is flat and X without an observation (or group) does not have its rank, so that the others have no
        predictive density; if the node has no data or keeps no rows; if groups do not fit.

    References
    ----------
    Vehtari, Mononen, Tolvanen, Sivula & Winther (2016), Bayesian leave-one-out cross-validation approximations for
    Gaussian latent variable models, https://jmlr.org/papers/v17/14-540.html.

    Bürkner, Gabry & Vehtari (2021), Efficient leave-one-out cross-validation for Bayesian non-factorized normal and
    Student-t models, doi:10.1007/s00180-020-01045-4.

    Examples
    --------
    >>> import arviz as az
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> batch = np.repeat(list("abcd"), 4)
    >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4, 2, 2, 3, 1])
    >>> with flmm.kernel_model(
    ...     y, np.ones((16, 1)), W=flmm.covariance.incidence(batch).Z.toarray()
    ... ) as model:
    ...     idata = flmm.sample(200, chains=2, random_seed=1, progressbar=False, quiet=True)
    >>> idata = flmm.pointwise_log_likelihood(idata, model=model, progressbar=False)
    >>> idata.log_likelihood["y"].shape
    (2, 200, 16)
    >>> print(az.loo(idata, var_name="y").n_data_points)
    16
    >>> idata = flmm.pointwise_log_likelihood(
    ...     idata, groups=batch, model=model, progressbar=False
    ... )
    >>> idata.log_likelihood["y_by_group"].shape
    (2, 200, 4)
    """
    model = model_here(model)
    node = find_node(model, var_name)
    left_out = None if groups is None else node.read_groups(groups)
    draws = Draws(model, idata.posterior.to_dataset())
    require_labels(None if left_out is None else left_out.labels, "groups", written="groups")
    if (others := _given_others(draws, node, left_out, rows)) is not None:
        _require_predictable(node.flat_basis(), node, left_out)
        return _of_family(idata, draws, node, others, left_out, progressbar=progressbar)
    largest = 1 if left_out is None else int(left_out.sizes.max())
    found = _precisions(idata, model, node, largest=largest, memory_budget=memory_budget, rows=rows)
    _require_predictable(found.Q1, node, left_out)
    out = np.empty((int(np.prod(found.shape)), found.n if left_out is None else len(left_out.labels)))
    what = "Leaving out observations" if left_out is None else "Leaving out groups"
    with progress(what, len(out), show=progressbar) as done:
        for part in found.parts:
            if left_out is None:
                out[part.index] = leave_one_out(part.precision).log_density
            else:
                out[part.index] = leave_groups_out(part.precision, left_out.members)[1].log_density
            done(part.index.stop if isinstance(part.index, slice) else part.index + 1, "")
    values = out.reshape(*found.shape, -1)
    if left_out is None and node.partly_observed is None:
        density, name = over_obs(model, node, node.placed(values)), node.name
    elif left_out is None:  # of what was observed alone: ArviZ takes no gaps
        ids: Any = node.ids
        entries = [f"{trait}: {row}" for trait, row in ids]
        density, name = labelled(model, node, values, {f"{node.name}_entry": entries}), node.name
    else:
        density, name = labelled(model, node, values, {GROUP: left_out.labels}), f"{node.name}_by_{GROUP}"
    return _add(idata, model, node, name, density, memory_budget)


def _precisions(
    idata: xr.DataTree, model: pm.Model, node: LMMNode, *, memory_budget: float, largest: int = 1, rows: Any = None
) -> Precisions:
    if node.observed is None:
        raise ValueError(f"{node.name} has no observed data: there is nothing to leave out.")
    _require_own_rows(node, rows)
    numbers = int(memory_budget / (8 * _PRECISIONS))
    return node.precisions(Draws(model, idata.posterior.to_dataset()), largest=largest, numbers=numbers, rows=rows)


def _given_others(draws: Draws, node: LMMNode, groups: Groups | None, rows: Any) -> Iterator[GivenOthers] | None:
    """Return what the others say at each draw, of a response that is not normal."""
    if node.observed is None or (found := node.given_others(draws, groups)) is None:
        return None
    _require_own_rows(node, rows)
    return found


def _of_family(
    idata: xr.DataTree, draws: Draws, node: LMMNode, found: Iterator[GivenOthers], groups: Groups | None, *,
    progressbar: bool,
) -> xr.DataTree:  # fmt: skip
    """Add the densities given the others of a response that is not normal, and what is lacking to the joint one."""
    values = np.empty((*draws.shape, node.n if groups is None else len(groups.labels)))
    joint = np.empty(draws.shape)
    with progress("Leaving out observations", joint.size, show=progressbar) as done:
        for count, given in enumerate(found, 1):
            values[given.at], joint[given.at] = given.log_density, given.loglik
            done(count, "")
    if groups is None:
        name, density = node.name, over_obs(draws.model, node, values)
    else:
        name, density = f"{node.name}_by_{GROUP}", labelled(draws.model, node, values, {GROUP: groups.labels})
    return _with_remainder(idata, node, beside_others(idata, "log_likelihood", {name: density}), joint)


def draw_left_out(
    idata: xr.DataTree, model: pm.Model, node: LMMNode, rows: Any, rng: np.random.Generator
) -> Predictive:
    """Return the mean of y_i given all the others at each draw, and a draw of it, (chain, draw, …, n)."""
    draws = Draws(model, idata.posterior.to_dataset())
    if (others := _given_others(draws, node, None, rows)) is not None:
        _require_predictable(node.flat_basis(), node, None)
        mean, y, eta = (np.empty((*draws.shape, node.n)) for _ in range(3))
        for given in others:
            mean[given.at], (eta[given.at], y[given.at]) = given.mean, given.draw(rng)
        return Predictive(mean, y, None, eta)
    found = _precisions(idata, model, node, memory_budget=MEMORY_BUDGET, rows=rows)
    _require_predictable(found.Q1, node, None)
    mean = np.empty((int(np.prod(found.shape)), found.n))
    y = np.empty(mean.shape)
    for part in found.parts:
        left = leave_one_out(part.precision)
        mean[part.index] = part.y - left.deviation
        y[part.index] = mean[part.index] + np.sqrt(left.variance) * rng.standard_normal(left.variance.shape)
    return Predictive(node.placed(mean.reshape(*found.shape, -1)), node.placed(y.reshape(*found.shape, -1)))


def _require_own_rows(node: LMMNode, rows: Any) -> None:
    if rows is not None and "rows" not in node.takes:
        raise ValueError(f"{node.name} keeps its rows: rows= is for a FourierLMM.")


def _require_predictable(Q1: Any, node: LMMNode, groups: Groups | None) -> None:
    if bad := unpredictable(Q1, node.ids, groups):
        what = "observations" if groups is None else "groups"
        raise ValueError(
            f"{what} {shown(bad)} of {node.name} alone determine a fixed effect: under a flat prior of β the others "
            "have no predictive density for them. Give β a prior, beta_cov=, or leave that column out of X."
        )


def _add(
    idata: xr.DataTree, model: pm.Model, node: LMMNode, name: str, density: xr.DataArray, memory_budget: float
) -> xr.DataTree:
    """Put a density into the group, where those of other nodes stay, and what makes all add up to log p(y | θ)."""
    dataset = beside_others(idata, "log_likelihood", {name: density})
    function = DrawFunction(
        Draws(model, idata.posterior.to_dataset()), [pm.logp(node.rv, pt.constant(node.placed(node.observed)))]
    )
    size = max(1, int(memory_budget / (8 * _ARRAYS * node.numbers)))
    joint = np.concatenate([function(part)[0] for part in slices(function.size, size)])
    return _with_remainder(idata, node, dataset, joint.reshape(*density.shape[:2], *joint.shape[1:]))


def _with_remainder(idata: xr.DataTree, node: LMMNode, dataset: xr.Dataset, joint: FloatArray) -> xr.DataTree:
    """Add what the densities lack to the joint one, (chain, draw, …)."""
    parts = [dataset[part] for part in (node.name, f"{node.name}_by_{GROUP}") if part in dataset]
    sample = parts[0].dims[: joint.ndim]
    pointwise = sum(part.sum([d for d in part.dims if d not in sample]) for part in parts)
    dataset[f"{node.name}_remainder"] = xr.DataArray(joint, dims=sample) - pointwise
    idata["log_likelihood"] = xr.DataTree(dataset)
    return idata
