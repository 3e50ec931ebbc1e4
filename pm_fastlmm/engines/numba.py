"""Conversion of operations for Numba: called back, in object mode, unless they have a compiled function."""

from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import numba
import numpy as np
from pytensor.link.numba.dispatch.basic import get_numba_type, numba_funcify_and_cache_key, numba_njit

from pm_fastlmm.engines.callbacks import CalledBack

_NUMBERS = count()


class _ByNumber:
    """
    An operation that is pickled as a number.

    Numba pickles what compiled code calls back, and copies the pickle at each call: with its data it may be gigabytes.
    """

    def __init__(self, op: CalledBack) -> None:
        self.op, self.number = op, next(_NUMBERS)
        _OPERATIONS[self.number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return _known, (self.number,)

    def evaluate(self, inputs: Any) -> tuple[Any, ...]:
        return tuple(np.asarray(value, dtype=float) for value in self.op.evaluate(*inputs))


_OPERATIONS: WeakValueDictionary[int, _ByNumber] = WeakValueDictionary()


def _known(number: int) -> _ByNumber:
    return _OPERATIONS[number]


def _call_back(op: CalledBack, node: Any = None, **kwargs: Any) -> tuple[Any, None]:
    linked = op.linked()
    if linked is not None:
        return numba_njit(lambda *inputs: linked(*inputs)), None
    operation = _ByNumber(op)
    kinds = numba.types.Tuple([get_numba_type(output.type) for output in node.outputs])
    single = len(node.outputs) == 1

    def evaluate(inputs: Any) -> Any:
        return operation.evaluate(inputs)

    @numba_njit  # type: ignore[untyped-decorator]
    def perform(*inputs: Any) -> Any:
        with numba.objmode(found=kinds):
            found = evaluate(inputs)
        return found[0] if single else found

    return perform, None


numba_funcify_and_cache_key.register(CalledBack, _call_back)
