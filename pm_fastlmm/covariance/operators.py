"""Operators beside `+`, `*` and `@`: structures along a diagonal, and carried through a known matrix."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, frozen, read, require_finite
from pm_fastlmm.covariance.algebra import Covariance, Operator, total_size
from pm_fastlmm.covariance.levels import LevelSet


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class BlockDiagonal(Operator):
    """
    The matrix with the given covariances along its diagonal: independent groups of levels, each with its structure.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.block_diagonal(cov.scalar(2.0, size=1), cov.ar1(1.0, 0.5, size=2)).dense()
    array([[2. , 0. , 0. ],
           [0. , 1. , 0.5],
           [0. , 0.5, 1. ]])
    """

    _least: ClassVar[int] = 1
    _additive: ClassVar[bool] = True

    def __init__(self, *operands: Covariance) -> None:
        Operator.__init__(self, *operands)
        if self.size is None:
            raise ValueError(f"the sizes of all blocks of {self!r} must be known: give size=.")

    @property
    def size(self) -> int | None:
        """The sum of the sizes."""
        return total_size(sum, self.operands)

    def over(self, levels: LevelSet) -> Self:
        """Return the blocks over the levels that each of them has."""
        levels.require_size(self.size, repr(self))
        if levels.parts and self.ordered:
            levels.require_steps()
        ends = zip(self.operands, self._ends, strict=True)
        return self._of(*(operand.over(levels.pick(range(*own))) for operand, own in ends))

    @property
    def _ends(self) -> list[tuple[int, int]]:
        """The first row of each block, and the one after its last."""
        return list(pairwise(np.cumsum([0, *(operand.size for operand in self.operands)]).tolist()))

    def _parts(self) -> dict[str, tuple[Covariance, slice]]:
        named = zip(self._named_operands(), self._ends, strict=True)
        return {name: (o, slice(*ends)) for (o, names), ends in named for name in names.values()}

    def _matrix(self, xp: Any) -> Any:
        rows, n = [], int(self.size or 0)
        for operand, (start, stop) in zip(self.operands, self._ends, strict=True):
            before, after = np.zeros((stop - start, start)), np.zeros((stop - start, n - stop))
            rows.append(xp.concatenate([before, operand.dense(), after], axis=1))
        return xp.concatenate(rows, axis=0)


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class Propagate(Operator):
    """
    The covariance Z G Zᵀ of Z u, where G is the covariance of u and Z (n, q) is known.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.propagate([[1, 0], [1, 0], [0, 1]], cov.scalar(2.0)).dense()
    array([[2., 2., 0.],
           [2., 2., 0.],
           [0., 0., 2.]])
    """

    _associative: ClassVar[bool] = False
    _least: ClassVar[int] = 1
    _additive: ClassVar[bool] = True
    ordered = False  # an order, or labels, are those of the columns of Z
    named = False
    Z: FloatArray

    def __init__(self, Z: Any, G: Covariance) -> None:
        labelled = read(Z, "Z", ndim=(2,))
        matrix = labelled.values
        require_finite(matrix, "Z", "a design of random effects has no missing entries.")
        object.__setattr__(self, "Z", frozen(matrix.copy()))
        Operator.__init__(self, G)
        names = None if labelled.names is None else LevelSet(tuple(labelled.names), "Z", "columns")
        sized = G.with_size(matrix.shape[1]) if names is None else G.over(names)
        object.__setattr__(self, "operands", (sized,))

    @property
    def size(self) -> int:
        """The number of rows of Z."""
        return len(self.Z)

    def _of(self, *operands: Covariance) -> Self:
        return type(self)(self.Z, *operands)

    def _matrix(self, xp: Any) -> Any:
        return self.Z @ self.operands[0].dense() @ self.Z.T
