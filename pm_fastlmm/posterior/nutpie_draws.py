"""Draws by nutpie from a kept model: `pymc.sample` would compile it anew each time."""

import multiprocessing
import time
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr
from pymc.backends.arviz import patch_nutpie_idata
from pymc.progress_bar import NutpieProgressBarManager

from pm_fastlmm.posterior.kept import Kept

NUTPIE_OPTIONS = {
    "cores", "progressbar", "quiet", "var_names", "nuts", "target_accept", "discard_tuned_samples",
    "compute_convergence_checks",
}  # fmt: skip


def draw_by_nutpie(
    kept: Kept, model: pm.Model, start: dict[str, Any], rng: np.random.Generator, *, draws: int, tune: int, chains: int,
    cores: int | None = None, progressbar: Any = True, quiet: bool = False, var_names: list[str] | None = None,
    nuts: dict[str, Any] | None = None, discard_tuned_samples: bool = True, **options: Any,
) -> xr.DataTree:  # fmt: skip
    """Draw as `pymc.sample(nuts_sampler="nutpie")` does; `model` has the data, which the kept model has not."""
    import nutpie

    options.pop("compute_convergence_checks", None)  # which pymc.sample leaves out too
    names = None if var_names is None else tuple(var_names)
    (initial,) = kept.starts([start])
    compiled = kept.once(_compile, initial, var_names=names)
    compiled = compiled.with_data(**{v.name: v.get_value(borrow=True) for v in compiled.shared_var_keys})
    bars = NutpieProgressBarManager(chains=chains, draws=draws, progressbar=progressbar and not quiet)
    before = time.time()
    with bars:
        idata: xr.DataTree = nutpie.sample(
            compiled, draws=draws, tune=max(tune, 1), chains=chains,
            cores=min(4, multiprocessing.cpu_count(), chains) if cores is None else min(cores, chains),
            seed=int(rng.spawn(chains)[0].integers(2**30)), save_warmup=not discard_tuned_samples, progress_bar=False,
            progress_callback=bars.update, **(nuts or {}), **options,
        )  # fmt: skip
    patch_nutpie_idata(idata, model, sampling_time=time.time() - before)
    return idata


def _compile(kept: Kept, initial: dict[str, Any], *, var_names: tuple[str, ...] | None) -> Any:
    import nutpie

    return nutpie.compile_pymc_model(kept.model, var_names=var_names, initial_points=initial)
