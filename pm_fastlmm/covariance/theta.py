"""Theta: the parameters of all terms and of the residual, in which V is linear wherever the structures allow it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, frozen, packed_places
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.parameters import Dual
from pm_fastlmm.covariance.terms import Term

RESIDUAL = "residual"
NOISE = -1  # stands for the residual where terms are numbered
_STEP = 1e-100
_KEPT = 1_000_000  # numbers of ∂Σ_k/∂θ that are kept, where they are the same at every θ


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """
    One parameter of one term, or of the residual, `NOISE`.

    Its place in θ, what its elements are called, its shape, and which columns within a level it is about.
    """

    term: int
    name: str
    start: int
    shape: tuple[int, ...]
    matrix: bool
    called: str
    part: slice = slice(None)

    @property
    def size(self) -> int:
        """Number of elements of θ that it takes."""
        c = self.shape[0] if self.shape else 1
        return c * (c + 1) // 2 if self.matrix else int(np.prod(self.shape, dtype=int))

    @property
    def place(self) -> slice:
        """Its elements of θ."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False, repr=False)
class Theta:
    """
    The vector θ of a list of terms and of the residual, with names, bounds and the map to the matrices Σ_k and Σ_e.

    An unstructured Σ enters by its variances and covariances (lower triangle, row by row) however it was given, also
    as a part of another structure; every other structure enters by its parameters. Variances of columns within a level
    are named by them, "Subject[Days]". The last elements are those of Σ_e, "residual[F]", or σ²_e alone, "residual".

    Attributes
    ----------
    names : tuple of str
    lower, upper : (P,) arrays
    entries : tuple of Entry
    blocks : tuple of Covariance
        The structure of Σ_k of each term.
    terms : tuple of str
        Names of the terms.
    noise : Covariance or None
        The structure of Σ_e, of size 1 for residuals of one variance; None where the response has no residuals.
    coordinates : tuple of str
        Names of its rows, where it has several.
    """

    names: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    entries: tuple[Entry, ...]
    blocks: tuple[Covariance, ...]
    terms: tuple[str, ...]
    noise: Covariance | None
    coordinates: tuple[str, ...] = ()

    @classmethod
    def of_terms(cls, terms: Sequence[Term], noise: Covariance | None, coordinates: tuple[str, ...] = ()) -> Self:
        """Lay out the parameters of the terms, and of Σ_e between coordinates, where there are residuals."""
        entries: list[Entry] = []
        names: list[str] = []
        lower: list[float] = []
        upper: list[float] = []
        blocks = tuple(term.blocks.block._by_elements() for term in terms)
        own = [term.name for term in terms]
        if noise is not None and RESIDUAL in own:
            raise ValueError(
                f"a term is called {RESIDUAL!r}, the name of the residual among the variances: give it another name."
            )
        structures = [*zip(range(len(terms)), own, (t.columns for t in terms), blocks, strict=True)]
        if noise is not None:
            noise = noise._by_elements()
            structures.append((NOISE, RESIDUAL, coordinates, noise))
        for k, term, within, block in structures:
            parts = block._parts()
            for name, value in block.parameters.items():
                structure, part = parts.get(name, (block, slice(None)))
                shape, matrix = _shape(value, f"{term}.{name}"), name in block.semidefinite
                columns = within[part] if len(within) == block.size else ()
                places = _elements(shape[0], columns) if matrix else _places(structure, shape, columns, name in parts)
                alone = len(block.parameters) == 1 or (name in parts and places[0] in _elements(1, columns[:1]))
                entry = Entry(k, name, len(names), shape, matrix, term if alone else f"{term}.{name}", part)
                entries.append(entry)
                names += [entry.called + place for place in places]
                low, high = block.bounds[name]
                variances = [i == j for i in range(shape[0]) for j in range(i + 1)] if matrix else [False] * entry.size
                lower += [0.0 if variance else low for variance in variances]
                upper += [high] * entry.size
        return cls(
            tuple(names), np.array(lower), np.array(upper), tuple(entries), blocks, tuple(own), noise, coordinates
        )

    @property
    def size(self) -> int:
        """Number of elements."""
        return len(self.names)

    @property
    def noise_place(self) -> slice:
        """The elements of θ that Σ_e has."""
        return slice(min((e.start for e in self.entries if e.term == NOISE), default=self.size), self.size)

    def structure(self, k: int) -> Covariance:
        """Return that of Σ_k, or of Σ_e."""
        if k != NOISE:
            return self.blocks[k]
        assert self.noise is not None  # entries of it are
        return self.noise

    def pack(self, xp: Any = np) -> Any:
        """Return θ of the values that the structures hold."""
        values = [self.structure(entry.term).parameters[entry.name] for entry in self.entries]
        if not any(entry.shape for entry in self.entries):
            return xp.stack(values)  # a single node of a graph
        parts = []
        for entry, value in zip(self.entries, values, strict=True):
            if entry.matrix:
                rows, columns = np.tril_indices(entry.shape[0])
                parts.append(value[rows, columns])
            else:
                parts.append(xp.reshape(value, (entry.size,)))
        return xp.concatenate(parts)

    def matrices(self, theta: Any) -> tuple[list[Any], Any]:
        """Return Σ_k for each term, and Σ_e, from numbers or from a tensor θ; Σ_e is empty without residuals."""
        noise = np.zeros((0, 0)) if self.noise is None else self._matrix(NOISE, theta)
        return [self._matrix(k, theta) for k in range(len(self.blocks))], noise

    def _matrix(self, k: int, theta: Any) -> Any:
        values = {e.name: _value(e, theta) for e in self.entries if e.term == k}
        return self.structure(k).with_parameters(values).dense()

    def slopes(self, theta: FloatArray) -> list[tuple[int, FloatArray]]:
        """Return (k, ∂Σ_k/∂θ_i) of each element θ_i, in their order, at any numbers; k is `NOISE` for Σ_e."""
        if self._linear is not None:
            return [(k, slope) for k, (_, slopes) in zip(self._numbered, self._linear, strict=True) for slope in slopes]
        return [(entry.term, slope) for entry in self.entries for slope in self._slopes(entry, theta)]

    def _slopes(self, entry: Entry, theta: FloatArray) -> list[FloatArray]:
        out, c = [], self.structure(entry.term).size
        with np.errstate(all="ignore"):
            for place in range(entry.start, entry.start + entry.size):
                stepped = np.array(theta, dtype=complex)
                stepped[place] += _STEP * 1j
                slope = self._matrix(entry.term, stepped.view(Dual)).imag / _STEP
                out.append(np.broadcast_to(slope, (c, c)))
        return out

    @cached_property
    def _linear(self) -> list[tuple[slice, FloatArray]] | None:
        """
        The elements of θ of each term and ∂Σ_k/∂θ (elements, c, c), if every Σ_k is the sum of their products.

        Those of Σ_e are the last.
        """
        sizes = sum(e.size * self.structure(e.term).size ** 2 for e in self.entries)
        if sizes > _KEPT or not all(self.structure(k)._linear for k in self._numbered):
            return None
        out = []
        for k in self._numbered:
            own = [e for e in self.entries if e.term == k]
            slopes = [slope for e in own for slope in self._slopes(e, np.ones(self.size))]
            out.append((slice(own[0].start, own[-1].place.stop), frozen(np.array(slopes))))
        return out

    @property
    def _numbered(self) -> list[int]:
        return [*range(len(self.blocks)), *([] if self.noise is None else [NOISE])]

    def numbers(self, theta: FloatArray) -> tuple[list[FloatArray], FloatArray]:
        """Return Σ_k of each term, and Σ_e, at any numbers."""
        values = np.array(theta, dtype=float)
        if self._linear is not None:
            found = [(values[at] @ s.reshape(len(s), -1)).reshape(s.shape[1:]) for at, s in self._linear]
            return (found, np.zeros((0, 0))) if self.noise is None else (found[:-1], found[-1])
        with np.errstate(all="ignore"):
            sigma, noise = self.matrices(values.view(Dual))
        return [np.asarray(matrix) for matrix in sigma], np.asarray(noise)

    def __repr__(self) -> str:
        """Show the names."""
        return f"Theta({', '.join(self.names)})"


def _value(entry: Entry, theta: Any) -> Any:
    values = theta[entry.place]
    if entry.matrix:
        return values[packed_places(entry.shape[0]).ravel()].reshape(entry.shape)
    return values.reshape(entry.shape) if entry.shape or isinstance(theta, Dual) else theta[entry.start]


def _elements(c: int, columns: tuple[str, ...]) -> list[str]:
    """Return what the variances and covariances of a matrix are called: by columns, or by number."""
    labels = columns if len(columns) == c else tuple(map(str, range(c)))
    return [f"[{labels[j]}{'' if i == j else ', ' + labels[i]}]" for i in range(c) for j in range(i + 1)]


def _places(structure: Covariance, shape: tuple[int, ...], columns: tuple[str, ...], is_part: bool) -> list[str]:
    """Return what follows the name of a parameter: nothing for a number, the column of a variance, or the index."""
    one = is_part and not shape and len(columns) == 1
    if structure._variances and (one or shape == (len(columns),)):
        return [f"[{column}]" for column in columns]
    return [f"[{', '.join(map(str, i))}]" for i in np.ndindex(*shape)] if shape else [""]


def _shape(value: Any, name: str) -> tuple[int, ...]:
    shape = value.type.shape if hasattr(value, "type") else np.shape(value)
    if None in shape:
        raise ValueError(
            f"{name} is a tensor of unknown shape {shape}: give the random variable a shape=, or pt.specify_shape."
        )
    return tuple(int(s) for s in shape)
