"""Sampling by NumPyro in another process."""

import pickle
import subprocess
import sys

import cloudpickle

_QUIET = {"progressbar": False, "quiet": True, "cores": 1, "chains": 2}

IN_ITS_OWN_PROCESS = """
import sys
import cloudpickle
import pm_fastlmm as flmm
model, options = cloudpickle.load(sys.stdin.buffer)
tree = flmm.predict(flmm.recover_effects(flmm.sample(model=model, **options), model=model), model=model)
sys.stdout.buffer.write(cloudpickle.dumps(tree.map_over_datasets(lambda group: group.as_numpy())))
"""


def sample_by_numpyro(model, draws, **options):
    """In another process: JAX starts threads, after which the chains of later tests could not be forked safely."""
    task = cloudpickle.dumps((model, {"draws": draws, "nuts_sampler": "numpyro", "random_seed": 3} | _QUIET | options))
    command = [sys.executable, "-W", "error", "-c", IN_ITS_OWN_PROCESS]
    done = subprocess.run(command, input=task, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)
