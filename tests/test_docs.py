"""The code of the guides runs, in their order."""

import re
from pathlib import Path

import matplotlib
import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("guide", ["structured.md"])
def test_the_code_of_a_guide_runs(guide):
    matplotlib.use("Agg")
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / guide).read_text(), flags=re.DOTALL)
    assert len(blocks) > 3
    names = {}
    for block in blocks:
        exec(compile(block, guide, "exec"), names)
