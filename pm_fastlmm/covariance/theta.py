"""Theta: the parameters of all terms as one vector, in which V is linear wherever the structures allow it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.blocks import Blocks
from pm_fastlmm.covariance.matrices import CholeskyFactored, Unstructured
from pm_fastlmm.covariance.structures import Diagonal

RESIDUAL = "residual"


class TermLike(Protocol):
    """What a term must say of itself."""

    @property
    def name(self) -> str:
        """Name of the term."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns within a level."""

    @property
    def blocks(self) -> Blocks:
        """Its covariance as root · (I ⊗ Σ) · rootᵀ."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One parameter of one term: its place in θ, and its shape."""

    term: int
    name: str
    start: int
    shape: tuple[int, ...]
    matrix: bool

    @property
    def size(self) -> int:
        """Number of elements of θ that it takes."""
        c = self.shape[0] if self.shape else 1
        return c * (c + 1) // 2 if self.matrix else int(np.prod(self.shape, dtype=int))

    @property
    def place(self) -> slice:
        """Its elements of θ."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Theta:
    """
    The vector θ of a list of terms and σ²_e, with names, bounds and the map to the matrices Σ_k.

    An unstructured Σ enters by its variances and covariances (lower triangle, row by row) however it was given, every
    other structure by its parameters. Variances of columns within a level are named by them, "Subject[Days]". The last
    element is σ²_e.

    Attributes
    ----------
    names : tuple of str
    lower, upper : (P,) arrays
    entries : tuple of Entry
    blocks : tuple of Covariance
        The structure of Σ_k of each term.
    """

    names: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    entries: tuple[Entry, ...]
    blocks: tuple[Covariance, ...]

    @classmethod
    def of_terms(cls, terms: Sequence[TermLike]) -> Self:
        """Lay out the parameters of the terms."""
        entries: list[Entry] = []
        names: list[str] = []
        lower: list[float] = []
        upper: list[float] = []
        for k, term in enumerate(terms):
            block = term.blocks.block
            if isinstance(block, CholeskyFactored | Unstructured):
                c = int(block.size or 0)
                labels = term.columns if len(term.columns) == c else tuple(map(str, range(c)))
                entries.append(Entry(k, "", len(names), (c, c), True))
                pairs = [(i, j) for i in range(c) for j in range(i + 1)]
                names += [f"{term.name}[{labels[j]}{'' if i == j else ', ' + labels[i]}]" for i, j in pairs]
                lower += [0.0 if i == j else -np.inf for i, j in pairs]
                upper += [np.inf] * len(pairs)
                continue
            for name, value in block.parameters.items():
                shape = _shape(value, f"{term.name}.{name}")
                entry = Entry(k, name, len(names), shape, False)
                entries.append(entry)
                label = term.name if len(block.parameters) == 1 else f"{term.name}.{name}"
                names += [label + place for place in _places(block, shape, term.columns)]
                low, high = block.bounds[name]
                lower += [low] * entry.size
                upper += [high] * entry.size
        if RESIDUAL in names:
            raise ValueError(
                f"a term is called {RESIDUAL!r}, the name of sigma2_e among the variances: give it another name."
            )
        names.append(RESIDUAL)
        bounds = np.array([*lower, 0.0]), np.array([*upper, np.inf])
        return cls(tuple(names), *bounds, tuple(entries), tuple(term.blocks.block for term in terms))

    @property
    def size(self) -> int:
        """Number of elements."""
        return len(self.names)

    def pack(self, sigma2_e: Any, xp: Any = np) -> Any:
        """Return θ of the values that the structures hold, and σ²_e."""
        parts = []
        for entry in self.entries:
            block = self.blocks[entry.term]
            if entry.matrix:
                rows, columns = np.tril_indices(entry.shape[0])
                parts.append(block.dense()[rows, columns])
            else:
                parts.append(xp.reshape(block.parameters[entry.name], (entry.size,)))
        return xp.concatenate([*parts, xp.reshape(sigma2_e, (1,))])

    def matrices(self, theta: Any) -> list[Any]:
        """Return Σ_k for each term, from numbers or from a tensor θ."""
        out = []
        for k, block in enumerate(self.blocks):
            own = [entry for entry in self.entries if entry.term == k]
            if own and own[0].matrix:
                out.append(theta[own[0].place][_square(own[0].shape[0]).ravel()].reshape(own[0].shape))
                continue
            values = {e.name: theta[e.place].reshape(e.shape) if e.shape else theta[e.start] for e in own}
            out.append(block.with_parameters(values).dense())
        return out

    def __repr__(self) -> str:
        """Show the names."""
        return f"Theta({', '.join(self.names)})"


def _places(block: Covariance, shape: tuple[int, ...], columns: tuple[str, ...]) -> list[str]:
    """Return what follows the name of a parameter: nothing for a number, the column of a variance, or the index."""
    if isinstance(block, Diagonal) and shape == (len(columns),):
        return [f"[{column}]" for column in columns]
    return [f"[{', '.join(map(str, i))}]" for i in np.ndindex(*shape)] if shape else [""]


def _shape(value: Any, name: str) -> tuple[int, ...]:
    shape = value.type.shape if hasattr(value, "type") else np.shape(value)
    if None in shape:
        raise ValueError(
            f"{name} is a tensor of unknown shape {shape}: give the random variable a shape=, or pt.specify_shape."
        )
    return tuple(int(s) for s in shape)


def _square(c: int) -> npt.NDArray[np.intp]:
    """Return the places in the packed lower triangle of the entries of a symmetric matrix."""
    place = np.zeros((c, c), dtype=np.intp)
    rows, columns = np.tril_indices(c)
    place[rows, columns] = np.arange(rows.size)
    return np.maximum(place, place.T)
