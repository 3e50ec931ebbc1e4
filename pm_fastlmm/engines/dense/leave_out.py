"""P and Py of a V that is factored as a whole."""

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.protocol import require_definite
from pm_fastlmm.kernel.likelihood.dense import DenseFactor
from pm_fastlmm.kernel.likelihood.leave_out import MatrixPrecision


def matrix_precision(name: str, V: FloatArray, y: FloatArray, Q1: FloatArray) -> MatrixPrecision:
    """Return P and Py of a draw of V, with Q₁ projected out."""
    factor = DenseFactor.of(V, y, Q1)
    require_definite(factor, name)
    assert factor is not None
    return MatrixPrecision(factor.P(), factor.Py)
