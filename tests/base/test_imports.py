"""What an import loads: each name of the package what it needs, and no more."""

import subprocess
import sys

import pytest

HEAVY = {
    "arviz_plots", "arviz_stats", "dask", "finufft", "formulaic", "jax", "matplotlib", "nutpie", "numba", "pymc",
    "pytensor", "scipy.interpolate", "scipy.optimize", "scipy.stats", "xarray", "zarr",
}  # fmt: skip


def loaded(code):
    """The heavy modules that a new process has after it ran this."""
    script = f"import sys\n{code}\nprint(*({HEAVY!r} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert loaded("import pm_fastlmm, numpy") == set()


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("pm_fastlmm.Spectrum", set()),
        ("pm_fastlmm.plots", set()),
        ("pm_fastlmm.reml", {"xarray"}),
        ("pm_fastlmm.kernel_model", {"pymc", "pytensor", "xarray"}),
        ("pm_fastlmm.sample", {"pymc", "pytensor", "xarray"}),
        ("pm_fastlmm.FastLMM", {"pymc", "pytensor", "xarray"}),
    ],
)
def test_a_name_loads_what_it_needs(code, allowed):
    assert loaded(f"import pm_fastlmm; {code}") - allowed == set()


def test_a_first_fit_of_one_response_compiles_nothing():
    code = """
import numpy as np
import pm_fastlmm as flmm
y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
spectrum = flmm.Spectrum.from_factor(np.repeat(np.eye(3), 4, axis=0), np.ones((12, 1)))
flmm.reml(spectrum, y)
flmm.find_reml("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False)
flmm.find_reml("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy(), progressbar=False)
from numba.core.dispatcher import Dispatcher
import gc
assert not [d for d in gc.get_objects() if isinstance(d, Dispatcher) and d.nopython_signatures and
            d.py_func.__module__.startswith("pm_fastlmm")]
"""
    loaded(code)


def test_a_first_draw_searches_for_no_mode_by_scipy():
    code = """
import warnings
import numpy as np
import pm_fastlmm as flmm
y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
model = flmm.kernel_model(y, np.ones((12, 1)), W=np.repeat(np.eye(3), 4, axis=0))
warnings.simplefilter("ignore")  # of one draw
flmm.sample(1, tune=1, chains=1, cores=1, model=model, progressbar=False, quiet=True)
"""
    assert "scipy.optimize" not in loaded(code)
