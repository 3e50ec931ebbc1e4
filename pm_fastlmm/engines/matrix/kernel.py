"""The kernel of a spectrum as the known covariance of a term, whose levels are its rows."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray, Ids, frozen
from pm_fastlmm.base.spelling import places
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.levels import Levels, LevelSet
from pm_fastlmm.covariance.relation import Relation
from pm_fastlmm.covariance.structures import Scalar
from pm_fastlmm.spectrum.spectrum import Spectrum


@dataclass(frozen=True, eq=False)
class OfSpectrum(Relation):
    """The relation between the rows of a spectrum; its root is made when something asks for it."""

    spectrum: Spectrum
    between: ClassVar[bool] = True

    @cached_property
    def _root(self) -> FloatArray:
        n, root = self.spectrum.n, np.hstack(self.spectrum.covariance_root())
        triangular = np.linalg.qr(root.T, mode="r").T
        return frozen(np.pad(triangular, ((0, 0), (0, n - triangular.shape[1]))))

    def root(self, width: int) -> FloatArray:
        """Return L ⊗ I, K = LLᵀ."""
        return self._root if width == 1 else np.asarray(np.kron(self._root, np.eye(width)))

    def variances(self, block: FloatArray) -> FloatArray:
        """Return the diagonal of K ⊗ B."""
        return np.asarray(np.kron(self.spectrum.diagonal, np.diag(block)))

    def same(self, other: Any) -> bool:
        """Return whether it is of the same spectrum."""
        return isinstance(other, OfSpectrum) and self.spectrum is other.spectrum


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class KernelOfSpectrum(Covariance):
    """
    K of a spectrum.

    Attributes
    ----------
    spectrum : Spectrum
    """

    spectrum: Spectrum
    _linear = True
    named = True

    def __post_init__(self) -> None:
        """Settle nothing: there is no parameter."""

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.spectrum.n

    @property
    def labels(self) -> Ids:
        """Ids of the rows, or their numbers."""
        return tuple(range(self.spectrum.n)) if self.spectrum.ids is None else self.spectrum.ids

    def over_all(self, levels: Levels) -> tuple[Levels, npt.NDArray[np.intp]]:
        """Return all rows, and the places of some levels among them."""
        return self.labels, np.array(places(levels, self.labels), dtype=np.intp)

    def over(self, levels: LevelSet) -> Self:
        """Return itself: the levels are its rows."""
        return self

    def _repeated(self) -> tuple[Any, int, Covariance]:
        return OfSpectrum(self.spectrum), self.size, Scalar(1.0, 1)

    def _matrix(self, xp: Any) -> Any:
        root, corner = self.spectrum.covariance_root()
        return root @ root.T + corner @ corner.T
