"""The code of the guides runs as it stands there, in its order."""

import re
from pathlib import Path

import matplotlib
import numpy as np

import pm_fastlmm as flmm

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


def test_the_readme_runs():
    names = run("../README.md")
    assert names["fit"].converged
    assert names["idata"].posterior.sizes["chain"] == 4


def test_the_changelog_lists_what_is_public():
    text = (DOCS / "changelog.md").read_text()
    assert [name for name in flmm.__all__ if f"`{name}" not in text] == []
