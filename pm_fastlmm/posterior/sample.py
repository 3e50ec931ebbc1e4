"""Seeded NUTS: `sample` finds the node in the model, seeds the sampler, and reports variances, shares and β."""

import logging
import math
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pymc as pm
import xarray as xr
from pymc.model.transform.optimization import freeze_dims_and_data
from pymc.step_methods.hmc.quadpotential import QuadPotentialDiagAdapt, QuadPotentialFull, QuadPotentialFullAdapt

from pm_fastlmm.base.arrays import outside
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.graphs import initial_point, reaching
from pm_fastlmm.engines.labels import derived, over_coef
from pm_fastlmm.engines.nodes import find_node, lmm_nodes, model_here
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.posterior.interpolation import interpolate, report, to_interpolate
from pm_fastlmm.posterior.kept import Kept, lent
from pm_fastlmm.posterior.mode import SeedError
from pm_fastlmm.posterior.nutpie_draws import NUTPIE_OPTIONS, draw_by_nutpie
from pm_fastlmm.posterior.seed import Seed, complete, posterior_mode, posterior_seed

if TYPE_CHECKING:
    from pm_fastlmm.models.mixed_design import MixedDesign

_LOG = logging.getLogger("pymc")  # where PyMC says what it samples
_TUNE_SEEDED = 100  # the step size alone is left to adapt
_TUNE_STARTED = 300  # other samplers take a start but no covariance
_FULL_ADAPTATION = 100  # variables up to which the mass matrix of the others is adapted with its correlations


def sample(
    draws: int = 1000,
    *,
    tune: int | None = None,
    chains: int = 4,
    model: "pm.Model | str | MixedDesign | None" = None,
    data: pd.DataFrame | None = None,
    var_name: str | None = None,
    nuts_sampler: Literal["pymc", "nutpie", "numpyro"] = "pymc",
    effects: bool = True,
    loglik_tolerance: float = 1e-4,
    random_seed: Any = None,
    **kwargs: Any,
) -> xr.DataTree:
    r"""
    Sample a model with a mixed model node, such as a FastLMM, StructuredLMM or LatentLMM, by NUTS seeded by REML.

    REML gives the start. The posterior covariance of the variables that reach the node (on PyMC's unconstrained scale)
    is computed by quadrature around it and given to NUTS, so that the warm-up is short. All other variables keep PyMC's
    start and unit scale, and are adapted in a warm-up of PyMC's usual length. Other samplers than PyMC's own take no
    covariance; they start at the posterior mode of those variables, beside the REML estimate.

    **A likelihood that takes a factorisation**, such as that of a large pedigree, is interpolated in one to three
    ratios of variances for this run, whatever else the model has. With σ²_e in closed form it is

    .. math:: \ell(\theta) = -\tfrac12 [p \log \sigma^2_e + f(r) + g(r)/\sigma^2_e], \qquad r_k = \sigma^2_k/\sigma^2_e,

    with f and log g from Chebyshev nodes over the region where the posterior is. Some dozens to some hundreds of
    factorisations take the place of tens of thousands. Outside the region the likelihood is evaluated itself: nothing
    is extrapolated. `model.logp` stays exact. β has to be integrated out under a flat prior, and the variances to be
    numbers, not matrices; otherwise a message says why each step is an evaluation. Laplace's approximation of a
    LatentLMM is interpolated in the same way in its parameters themselves, one to three variances of terms or a
    dispersion among them, under a flat or a Gaussian prior of β.

    What was compiled for the last four models is kept: another model of the same structure, with other data or other
    constants in its priors, is sampled without compiling it again.

    Parameters
    ----------
    draws, chains, random_seed
        As in `pymc.sample`.
    tune : int, optional
        Warm-up. Default 100 when the node's parameters are all there is, 1000 otherwise; 300 and 1000 for other
        samplers, which take the start but not the covariance.
    model : pymc.Model, str or MixedDesign, optional
        Default the model of the context; or a formula with random terms, whose model `lmm_model` makes.
    data : DataFrame, optional
        The table of a formula.
    var_name : str, optional
        Which node to seed from, when the model has several.
    nuts_sampler : {"pymc", "nutpie", "numpyro"}
        "pymc" makes full use of the seed; the others have faster draws. (PyMC's fourth, "blackjax", PyMC 6.4.0
        cannot run with blackjax 1.7.1.)
    effects : bool
        Whether draws of the coefficients β that a node integrates out, `{name}_beta`, are added where they are quick:
        of one kernel, and of several terms of few effects. Elsewhere a message names `recover_effects`, which adds them
        and the random effects.
    loglik_tolerance : float
        Up to which error of the log-likelihood nodes of the interpolation are added; 0 interpolates nothing.
    **kwargs
        Passed to `pymc.sample`: cores, progressbar, target_accept, var_names … With `step=` or `initvals=` the seed is
        left out and PyMC does what it always does.

    Returns
    -------
    xarray.DataTree
        As from `pymc.sample`. A FastLMM node adds `{name}_sigma2`, `_delta`, `_sigma2_g`, `_sigma2_e`, `_h2` and `_pve`
        to the posterior; a LengthscaleLMM node `{name}_lengthscale` and the same without `_pve`; a StructuredLMM node
        `{name}_variance` and `{name}_share` of each term and the residual; a LatentLMM node `{name}_variance` that
        each term gives η; all `{name}_beta`, one draw for each of the variances; unless the model has variables of
        these names. Of an interpolated likelihood the attributes of the posterior have `{name}_loglik_error`, the
        largest at four draws, where it is evaluated itself; `_loglik_draws_outside`, which were evaluated exactly;
        `_loglik_nodes` and `_loglik_evaluations`.

    Raises
    ------
    ValueError
        If return_inferencedata=False: what is added needs a DataTree; or loglik_tolerance is negative.

    Warns
    -----
    UserWarning
        If the seed cannot be computed; PyMC's default initialisation is used then. If an interpolated log-likelihood is
        wrong by more than 1e-3 at a draw.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> batch = np.repeat(np.eye(3), 4, axis=0)
    >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    >>> with flmm.kernel_model(y, np.ones((12, 1)), W=batch):
    ...     idata = flmm.sample(200, chains=2, random_seed=1, progressbar=False, quiet=True)
    >>> sorted(idata.posterior.data_vars)
    ['h2', 'sigma2_e', 'total', 'y_beta', 'y_delta', 'y_h2', 'y_pve', 'y_sigma2', 'y_sigma2_e', 'y_sigma2_g']
    """
    if not kwargs.get("return_inferencedata", True):
        raise ValueError(
            "flmm.sample adds the variances of the nodes to a DataTree: leave return_inferencedata=False out, or call "
            "pm.sample."
        )
    if not 0 <= loglik_tolerance < math.inf:
        raise ValueError(
            f"loglik_tolerance must be a number from 0 on, got {loglik_tolerance}; 0 evaluates the likelihood itself."
        )
    if not isinstance(model, pm.Model | None):
        from pm_fastlmm.models.lmm_model import lmm_model  # a model needs no formulaic, which takes long to import

        model = lmm_model(model, data)
    model = model_here(model)
    node = find_node(model, var_name)
    arguments: dict[str, Any] = {"draws": draws, "tune": tune, "chains": chains}
    if "step" in kwargs or "initvals" in kwargs:
        options = {"model": model, "nuts_sampler": nuts_sampler, "random_seed": random_seed}
        idata = add_derived(pm.sample(**arguments, **options, **kwargs), model)
        return _with_coefficients(idata, model, random_seed, kwargs) if effects else idata
    frozen = freeze_dims_and_data(model)
    node = find_node(frozen, node.name)
    whole = "idata_kwargs" in kwargs  # which may ask for the log-likelihood of each variable
    say = (lambda message: None) if kwargs.get("quiet") else _LOG.info
    instead = to_interpolate(frozen, loglik_tolerance, say)
    *_, rng = np.random.default_rng(random_seed).spawn(4)  # the first are of the seed, the sampler and the coefficients
    with nullcontext(Kept.of(frozen, node)) if whole else lent(frozen, node, instead) as kept:
        show = bool(kwargs.get("progressbar", True)) and not kwargs.get("quiet")
        interpolate(instead.values(), kept, rng, say, progressbar=show)
        if not kept.compiled:
            say("Compiling the model, once for all of its structure")
        idata = _seeded(kept, instead.get(node.name, node), frozen, nuts_sampler, random_seed, arguments, kwargs)
    report(idata, frozen, instead.values(), rng)
    idata = add_derived(_with_data(idata, model), model)
    return _with_coefficients(idata, model, random_seed, kwargs) if effects else idata


def _seeded(
    kept: Kept, node: LMMNode, frozen: pm.Model, nuts_sampler: str, random_seed: Any, arguments: dict[str, Any],
    kwargs: dict[str, Any],
) -> xr.DataTree:  # fmt: skip
    """Sample a kept model from the seed of a node; `frozen` is the model itself, with its data."""
    seed_rng, sampling_rng = np.random.default_rng(random_seed).spawn(2)
    tune, alone = arguments["tune"], complete(kept)
    try:
        if nuts_sampler == "pymc":
            seed = posterior_seed(kept, node, chains=arguments["chains"], rng=seed_rng)
        else:
            start = posterior_mode(kept, node)
    except (SeedError, np.linalg.LinAlgError, NotImplementedError) as error:
        warnings.warn(
            f"NUTS could not be seeded for {node.name} ({error}); PyMC's default initialisation is used.",
            stacklevel=outside(),
        )
    else:
        if nuts_sampler == "pymc":
            step = _step(kept.model, seed, sampling_rng, kwargs)
            arguments |= {"step": step, "initvals": kept.starts(seed.starts)}
            if not {"trace", "var_names"} & kwargs.keys():
                arguments["trace"] = kept.once(_Trace.of)
            if tune is None and alone:
                arguments["tune"] = _TUNE_SEEDED if seed.exact else _TUNE_STARTED
        else:
            arguments["tune"] = tune if tune is not None else _TUNE_STARTED if alone else 1000
            if nuts_sampler == "nutpie" and kwargs.keys() <= NUTPIE_OPTIONS:
                return draw_by_nutpie(kept, frozen, start, sampling_rng, **arguments, **kwargs)
            arguments["initvals"] = start
    idata: xr.DataTree = pm.sample(
        **arguments, model=kept.model, nuts_sampler=nuts_sampler, random_seed=sampling_rng, **kwargs
    )
    return idata


def _step(model: pm.Model, seed: Seed, rng: np.random.Generator, kwargs: dict[str, Any]) -> Any:
    """Return NUTS with the covariance of the seed; its options move here from the arguments of `pymc.sample`."""
    values = model.continuous_value_vars
    initial = initial_point(model)
    sizes = {v.name: np.asarray(initial[v.name]).size for v in values}
    mean = np.concatenate([np.asarray(initial[name], dtype=float).ravel() for name in sizes])
    ends = dict(zip(sizes, np.cumsum(list(sizes.values())), strict=True))
    index = np.concatenate([np.arange(ends[name] - sizes[name], ends[name]) for name in seed.variables])
    cov = np.eye(mean.size)
    cov[np.ix_(index, index)] = seed.cov
    mean[index] = seed.mean
    options = kwargs.pop("nuts", {}) | {k: kwargs.pop(k) for k in ("target_accept", "max_treedepth") if k in kwargs}
    potential: Any
    if index.size == mean.size and seed.exact:
        potential = QuadPotentialFull(cov, rng=rng)
    elif mean.size <= _FULL_ADAPTATION:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "QuadPotentialFullAdapt is an experimental feature")
            potential = QuadPotentialFullAdapt(mean.size, mean, cov, 10, rng=rng)
    else:
        potential = QuadPotentialDiagAdapt(mean.size, mean, np.diag(cov), 10, rng=rng)
    return pm.NUTS(
        vars=values, potential=potential, model=model, rng=rng, initial_point=initial,
        logp_dlogp_func=seed.logp_dlogp, **options,
    )  # fmt: skip


class _Trace(pm.backends.NDArray):  # type: ignore[misc]
    """Draws of one chain; PyMC copies it for each, and would compile the variables anew for each without it."""

    @classmethod
    def of(cls, kept: Kept) -> "_Trace":
        """Return one of the model, without draws."""
        return cls(model=kept.model)

    def __copy__(self) -> "_Trace":
        """Return another, without draws."""
        return type(self)(
            model=self.model, vars=self.vars, fn=self.fn, var_shapes=self.var_shapes, var_dtypes=self.var_dtypes
        )


def _with_data(idata: xr.DataTree, model: pm.Model) -> xr.DataTree:
    """Put back the data, which are not in the model that was sampled."""
    groups = pm.to_inference_data(prior={}, model=model)
    for name in ("observed_data", "constant_data"):
        if name in groups.children:
            idata[name] = groups[name]
    for node in lmm_nodes(model):
        if (values := node.partly_observed) is not None:
            observed = idata["observed_data"].to_dataset()
            idata["observed_data"] = observed.assign({node.name: (observed[node.name].dims, values)})
    return idata


def add_derived(idata: xr.DataTree, model: pm.Model) -> xr.DataTree:
    """Add the variances of every node and their shares to the posterior, where the model has no such variable."""
    draws = Draws(model, idata.posterior.to_dataset())
    for node in lmm_nodes(model):
        for name, array in derived(draws, node).items():
            if name not in draws.posterior:
                idata.posterior[name] = array
    return idata


def _with_coefficients(idata: xr.DataTree, model: pm.Model, random_seed: Any, kwargs: dict[str, Any]) -> xr.DataTree:
    """Add draws of β of every node that integrates it out, or say how they are had where they take long."""
    draws = Draws(model, idata.posterior.to_dataset())
    *_, rng = np.random.default_rng(random_seed).spawn(3)  # the first two are of the seed and the sampler
    for node in lmm_nodes(model):
        name = f"{node.name}_beta"
        integrated = node.observed is not None and node.integrates_coefficients(model)
        kept = all(rv.name in draws.posterior for rv in reaching(model, node.rv))
        if not (integrated and kept) or name in draws.posterior:
            continue
        beta = node.coefficients(draws, rng) if node.treatment == "flat" else None
        if beta is not None:
            idata.posterior[name] = over_coef(model, node, beta)
        elif node.recovers and not kwargs.get("quiet"):
            _LOG.info(
                f"The coefficients of {node.name} are integrated out: flmm.recover_effects(idata, model=model) draws "
                f"{name}."
            )
    return idata
