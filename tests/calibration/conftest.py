"""The calibration runs share how ranks are made and judged."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sbc():
    """Ranks by quadrature, priors and envelopes."""
    path = Path(__file__).with_name("sbc.py")
    spec = importlib.util.spec_from_file_location("sbc", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
