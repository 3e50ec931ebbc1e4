"""What a user waits for: from `import` to the first posterior draw in a new process, caches empty and full."""

import json
import os
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.benchmark

IMPORT = """
import json, time
start = time.perf_counter()
import {package}
print(json.dumps({{"import {package}": time.perf_counter() - start}}))
"""

# a script as a user writes it; the stages are timed, the data are not
FIRST_DRAW = """
import json, time
import numpy as np

rng = np.random.default_rng(50)
n = 300
markers = rng.normal(size=(n, 2 * n)) / np.sqrt(2 * n)
K = markers @ markers.T
X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
y = X @ [1.0, -0.5, 0.3] + markers @ rng.normal(size=2 * n) + rng.normal(size=n)

cpu, times = time.process_time(), [time.perf_counter()]
import pm_fastlmm as flmm
times.append(time.perf_counter())
model = flmm.kernel_model(y, X, K)
times.append(time.perf_counter())
idata = flmm.sample(draws=1, tune=1, chains=1, model=model, random_seed=1, progressbar=False, quiet=True, {options})
times.append(time.perf_counter())
assert np.isfinite(idata.posterior["h2"].to_numpy()).all()
stages = dict(zip(("import", "kernel_model", "sample"), np.diff(times), strict=True))
stages["CPU time of it"] = time.process_time() - cpu
print(json.dumps({{"from import to the first draw": times[-1] - times[0]}} | stages))
"""

FIRST_FIT = """
import json, time
import numpy as np

rng = np.random.default_rng(51)
W, Y = rng.normal(size=(200, 300)), rng.normal(size=(200, 100))
times = [time.perf_counter()]
import pm_fastlmm as flmm
times.append(time.perf_counter())
spectrum = flmm.Spectrum.from_factor(W, np.ones((200, 1)))
flmm.reml(spectrum, Y)
times.append(time.perf_counter())
posterior = flmm.exact_posterior(spectrum, Y)
posterior.mean("h2")
times.append(time.perf_counter())
posterior.interval("sigma2", kind="hdi")
times.append(time.perf_counter())
flmm.scan(spectrum, Y[:, 0], Y[:, 1:])
times.append(time.perf_counter())
flmm.reml_point(W @ W.T, Y[:, 0], np.ones((200, 1)))
times.append(time.perf_counter())
stages = ("import", "reml", "exact_posterior", "intervals", "scan", "reml_point")
print(json.dumps({"from import through the first fits": times[-1] - times[0]} | dict(zip(stages, np.diff(times)))))
"""


@pytest.fixture
def user(tmp_path):
    """Run a script in a new process; all that is cached on disk goes to a folder of the test, empty at first."""
    places = {name: tmp_path / name for name in ("pytensor", "numba", "matplotlib", "cache")}
    for place in places.values():
        place.mkdir()
    environment = os.environ | {
        "PYTENSOR_FLAGS": f"base_compiledir={places['pytensor']}",  # the numba cache of PyTensor is inside it
        "NUMBA_CACHE_DIR": str(places["numba"]),
        "MPLCONFIGDIR": str(places["matplotlib"]),
        "XDG_CACHE_HOME": str(places["cache"]),
        "MPLBACKEND": "Agg",
    }

    def run(script):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        whole = time.perf_counter() - start
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]) | {"the process": whole}

    return run


@pytest.mark.parametrize("sampler", ["pymc", "nutpie"])
def test_first_posterior_draw(sampler, user, report):
    if sampler == "nutpie":
        pytest.importorskip("nutpie")
    script = FIRST_DRAW.format(options=f"nuts_sampler={sampler!r}")
    for caches in ("cold", "warm"):
        total, *parts = user(script).items()
        figure = f"{total[0]}, {sampler}, {caches}"
        report(figure, total[1], "s")
        for stage, seconds in parts:
            report(figure, seconds, "s", part=stage)


def test_first_fits(user, report):
    for caches in ("cold", "warm"):
        total, *parts = user(FIRST_FIT).items()
        figure = f"{total[0]}, {caches}"
        report(figure, total[1], "s")
        for stage, seconds in parts:
            report(figure, seconds, "s", part=stage)


def test_import_alone(user, report):
    def seconds(package):
        return user(IMPORT.format(package=package))[f"import {package}"]

    report("import pm_fastlmm, cold", seconds("pm_fastlmm"), "s")
    ours, theirs = zip(*[(seconds("pm_fastlmm"), seconds("pymc")) for _ in range(3)], strict=True)
    report("import pm_fastlmm, warm", ours, "s")
    report("import pymc, warm", theirs, "s")
