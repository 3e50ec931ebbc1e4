"""Rows of y where a node observes a statistic."""

from typing import Any

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.engines.fourier.leave_out import given_rows
from pm_fastlmm.engines.fourier.node import FourierNode
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.engines.spectral.node import SpectralNode


def observed_rows(node: LMMNode, rows: Any) -> FloatArray | None:
    """Return y (…, n) of a node that observes a statistic, where it is given or follows from that; else None."""
    if isinstance(node, FourierNode):
        return None if rows is None else given_rows(node.basis, rows).values[2][:, 0]
    if not isinstance(node, SpectralNode) or node.given is None or node.spectrum.nullity:
        return None
    rotated, s = node.rotated(), node.spectrum
    return rotated.y1 @ s.projection.Q1.T + rotated.z @ s.basis.T
