"""Conversion of operations for Numba: called back, in object mode."""

import warnings
from typing import Any

from pytensor.link.numba.dispatch.basic import generate_fallback_impl, numba_funcify_and_cache_key

from pm_fastlmm.engines.callbacks import CalledBack


def _call_back(op: CalledBack, node: Any = None, **kwargs: Any) -> tuple[Any, None]:
    with warnings.catch_warnings():  # of the callback, which is intended here
        warnings.filterwarnings("ignore", "Numba will use object mode")
        return generate_fallback_impl(op, node=node, **kwargs), None


numba_funcify_and_cache_key.register(CalledBack, _call_back)
