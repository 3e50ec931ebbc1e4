"""
BLAS and LAPACK of SciPy for compiled functions, which Numba can keep on disk.

A symbol is found by its name when compiled code is loaded, whatever its address is in that process. Arguments are those
of Fortran, by reference: `ref(x)` points to the value of a number, `at(array, i)` to an element.
Letters are their ASCII codes.
"""

from typing import Any

import llvmlite.binding as llvm
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

for _name in ("dgemm", "dsyrk", "dsymm", "dtrsm"):
    llvm.add_symbol(f"pm_fastlmm_{_name}", get_cython_function_address("scipy.linalg.cython_blas", _name))
for _name in ("dpotrf", "dpotri"):
    llvm.add_symbol(f"pm_fastlmm_{_name}", get_cython_function_address("scipy.linalg.cython_lapack", _name))

dgemm = types.ExternalFunction("pm_fastlmm_dgemm", types.void(*[types.voidptr] * 13))
dsyrk = types.ExternalFunction("pm_fastlmm_dsyrk", types.void(*[types.voidptr] * 10))
dsymm = types.ExternalFunction("pm_fastlmm_dsymm", types.void(*[types.voidptr] * 12))
dtrsm = types.ExternalFunction("pm_fastlmm_dtrsm", types.void(*[types.voidptr] * 11))
dpotrf = types.ExternalFunction("pm_fastlmm_dpotrf", types.void(*[types.voidptr] * 5))
dpotri = types.ExternalFunction("pm_fastlmm_dpotri", types.void(*[types.voidptr] * 5))


@intrinsic
def ref(typingctx: Any, number: Any) -> Any:
    """Return a pointer to a copy of a number: int as 32 bits, float as 64."""
    integer = isinstance(number, types.Integer)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target = types.int32 if integer else types.float64
        value = context.cast(builder, arguments[0], number, target)
        place = cgutils.alloca_once_value(builder, value)
        return builder.bitcast(place, cgutils.voidptr_t)

    return types.voidptr(number), codegen


@intrinsic
def at(typingctx: Any, array: Any, index: Any) -> Any:
    """Return a pointer to an element of an array without gaps."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(array)(context, builder, arguments[0]).data
        offset = context.cast(builder, arguments[1], index, types.int64)
        return builder.bitcast(builder.gep(data, [offset]), cgutils.voidptr_t)

    return types.voidptr(array, index), codegen
