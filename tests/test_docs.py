"""The code in the guides runs as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("guide", ["many_responses.md"])
def test_the_code_of_a_guide_runs(guide, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / guide).read_text(), re.S)
    assert len(blocks) >= 5
    names = {}
    for block in blocks:
        exec(compile(block, guide, "exec"), names)
    assert np.isfinite(names["result"].p_value).all()
    assert names["fit"].converged
