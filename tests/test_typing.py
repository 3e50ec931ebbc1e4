"""The package is typed for its users: `py.typed`, and a script of theirs that mypy passes in strict mode."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_a_script_of_a_user_is_typed():
    pytest.importorskip("mypy")
    assert (ROOT / "pm_fastlmm" / "py.typed").is_file()
    command = [sys.executable, "-m", "mypy", "--strict", "tests/typed/user_script.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_argument_is_found(tmp_path):
    pytest.importorskip("mypy")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import pm_fastlmm as flmm\n\nflmm.find_reml(1)\nflmm.priors.VariancePrior(h2=3)\n")
    command = [sys.executable, "-m", "mypy", "--strict", str(wrong)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "VariancePrior" in done.stdout
