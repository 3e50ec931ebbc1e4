"""Products of a known matrix with columns, in graphs of PyTensor: each is the derivative of the other."""

from typing import Any

from pm_fastlmm.engines.callbacks import CalledBack, Shape


class Forward(CalledBack):
    """Mx of a `LinearMap` M, (n, m), and columns x (m, c)."""

    def linked(self) -> Any:
        """Return the compiled product."""
        compiled = self.data.compiled()
        return compiled and compiled[0]

    def evaluate(self, x: Any) -> Any:
        """Return Mx."""
        return [self.data.forward(x)]

    def shapes(self, x: Any) -> list[Shape]:
        """Return (n, c)."""
        return [(self.data.shape[0], x[1])]

    def gradients(self, apply: Any, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return Mᵀg."""
        return [apply(Adjoint(self.held))(*cotangents)]


class Adjoint(CalledBack):
    """Mᵀg of a `LinearMap` M, (n, m), and columns g (n, c)."""

    def linked(self) -> Any:
        """Return the compiled product."""
        compiled = self.data.compiled()
        return compiled and compiled[1]

    def evaluate(self, g: Any) -> Any:
        """Return Mᵀg."""
        return [self.data.adjoint(g)]

    def shapes(self, g: Any) -> list[Shape]:
        """Return (m, c)."""
        return [(self.data.shape[1], g[1])]

    def gradients(self, apply: Any, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return Mx of the cotangent x."""
        return [apply(Forward(self.held))(*cotangents)]
