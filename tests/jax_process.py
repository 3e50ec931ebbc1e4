"""JAX in a process of its own: it starts threads, and what is registered once stays."""

import subprocess
import sys

import cloudpickle

PRELUDE = """
import pickle, sys, warnings
import cloudpickle
import numpy as np
import pymc as pm
import pm_fastlmm as flmm
assert "pytensor.link.jax.dispatch" not in sys.modules, "importing the package has imported PyTensor's JAX"
models, options = cloudpickle.load(sys.stdin.buffer)
"""


def run_in_new_process(code, models, **options):
    """Return what the code leaves in `result`; it finds `models` and `options`."""
    task = cloudpickle.dumps((models, options))
    command = [sys.executable, "-W", "error", "-c", PRELUDE + code + "\nsys.stdout.buffer.write(pickle.dumps(result))"]
    done = subprocess.run(command, input=task, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return cloudpickle.loads(done.stdout)
