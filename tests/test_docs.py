"""The code of the guides runs as it stands there, in its order."""

import re
from pathlib import Path

import matplotlib
import numpy as np

DOCS = Path(__file__).parents[1] / "docs"


def run(guide):
    """Run the blocks of a guide one after the other and return the names that they leave."""
    matplotlib.use("Agg")
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / guide).read_text(), flags=re.DOTALL)
    assert len(blocks) > 3
    names = {}
    for block in blocks:
        exec(compile(block, guide, "exec"), names)
    return names


def test_the_guide_to_structured_models_runs():
    run("structured.md")


def test_the_guide_to_many_responses_runs():
    names = run("many_responses.md")
    assert np.isfinite(names["result"].p_value).all()
    assert names["fit"].converged


def test_the_guide_to_fourier_features_runs():
    names = run("fourier.md")
    assert names["fit"].converged
    truth = np.sin(names["grid"]) + 0.3 * names["grid"]
    assert np.abs(names["averaged"].mean - truth).max() < 5 * names["averaged"].se.max()
    assert np.abs(names["averaged"].mean - names["at_reml"].mean).max() < names["averaged"].se.max()
    assert names["curves"].shape == (20, 200)
