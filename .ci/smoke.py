"""What the installed wheel must do, run by an isolated interpreter of an environment that has nothing else."""

import inspect
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np

import pm_fastlmm as flmm

assert "site-packages" in Path(flmm.__file__).parts, flmm.__file__
assert flmm.__version__ == version("pm_fastlmm")
assert files("pm_fastlmm").joinpath("py.typed").is_file()

loaders = {
    name: load
    for name, load in inspect.getmembers(flmm.datasets, inspect.isfunction)
    if load.__module__ == "pm_fastlmm.datasets" and not name.startswith("_")
}
tables = {name: load() for name, load in loaders.items()}
assert len(tables) >= 5
assert all(len(table) for table in tables.values())

sleep = tables["sleepstudy"]
groups = flmm.covariance.incidence(sleep["Subject"]).Z.toarray()
X, y = np.column_stack([np.ones(len(sleep)), sleep["Days"]]), sleep["Reaction"].to_numpy()
spectrum = flmm.Spectrum.from_factor(groups, X)
fit = flmm.reml(spectrum, y)
assert fit.converged
assert 0 < flmm.exact_posterior(spectrum, y).mean("h2") < 1
model = flmm.lmm_model("Reaction ~ Days + (1 | Subject)", sleep)
np.testing.assert_allclose(flmm.find_reml(model, progressbar=False).loglik, fit.loglik, rtol=1e-9)
assert flmm.sample(5, tune=5, chains=1, model=model, progressbar=False, quiet=True).posterior.sizes["draw"] == 5
assert set(flmm.__all__) <= set(dir(flmm)) | {"plots"}
assert flmm.plots.plot_h2_posterior
print(f"pm_fastlmm {flmm.__version__} from the wheel: {len(tables)} data sets, REML log-likelihood {fit.loglik:.4f}")
