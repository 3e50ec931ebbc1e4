"""Covariance: what every structure shares, and the operations that make one structure from others.

A structure is a small immutable object: its kind, its size and its parameters, which are numbers or tensors. It says
what its matrix is once, in `_matrix`, for NumPy and PyTensor (`xp`); `dense` picks the namespace. What terms, fits and
comparisons need besides are members with defaults, so that a structure is one class.
"""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray, shown
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described
from pm_fastlmm.covariance.levels import Levels, LevelSet
from pm_fastlmm.covariance.parameters import Domain, Interval, is_tensor, lengths, namespace, settle, settle_size

type Mask = npt.NDArray[np.bool_]


class Relatives(NamedTuple):
    """
    Effects that have no rows and are related to those that have, ũ their independent coordinates: u = Aũ + ε.

    Attributes
    ----------
    labels : tuple
    root : (m, q) array
        A, for one column within a level and a variance of 1.
    variance : (m,) array
        The variances of ε, which the data say nothing of.
    """

    labels: Levels
    root: FloatArray
    variance: FloatArray


class Covariance(ReadOnlyArrays, Described, ABC):
    """
    A covariance matrix with parameters that are numbers, arrays or random variables.

    Attributes
    ----------
    size : int or None
        Number of rows; None if it is that of the term in which the structure stands.
    ordered : bool
        Whether the rows are steps of an order, so that none may be left out.
    named : bool
        Whether its rows have labels, by which they are matched.

    Notes
    -----
    `+` is the sum, `*` the elementwise (Hadamard) product and `@` the Kronecker product of two structures.

    If two operands have a parameter of the same name, the names of all of them get the operand's position as a prefix,
    "1.sigma2", "2.sigma2"; otherwise names stay as they are.
    """

    __slots__ = ()
    __array_ufunc__ = None  # array + structure is refused like structure + array, not tried entry by entry
    _parameters: ClassVar[Mapping[str, Domain]] = {}
    _variances: ClassVar[bool] = False  # whether its parameter is the variances of its rows, and named by them
    _identified: ClassVar[bool] = True  # whether other values of the parameters are another matrix
    size: Any
    _linear: Any = False  # whether the matrix is a sum of known ones times the elements of its parameters
    ordered: Any = False
    named: Any = False

    def __post_init__(self) -> None:
        settle_size(self)  # before the values, whose bounds may depend on it
        for name, domain in self._domains.items():
            settle(self, name, domain)
        shaped = [getattr(self, name) for name, domain in self._domains.items() if domain.ndim]
        settle_size(self, *(lengths(value)[0] for value in shaped))

    @property
    def _domains(self) -> Mapping[str, Domain]:
        return self._parameters

    @property
    def parameters(self) -> dict[str, Any]:
        """The values of the parameters by name, in order."""
        return {name: getattr(self, name) for name in self._domains}

    @property
    def bounds(self) -> dict[str, Interval]:
        """The interval of each parameter's entries; matrices named by `semidefinite` have a further condition."""
        return {name: domain.interval for name, domain in self._domains.items()}

    @property
    def semidefinite(self) -> tuple[str, ...]:
        """Names of the parameters that are matrices and must be symmetric positive semi-definite."""
        return tuple(name for name, domain in self._domains.items() if domain.semidefinite)

    def with_parameters(self, values: Mapping[str, Any]) -> Self:
        """
        Return the same structure with other values, numbers or tensors, of some or all of its parameters.

        Raises
        ------
        ValueError
            If a name is not one of `parameters`, or a number is not allowed there.
        """
        if unknown := [name for name in values if name not in self.parameters]:
            raise ValueError(
                f"{self._kind} has no parameter {shown(unknown)}: it has {', '.join(self.parameters) or 'none'}."
            )
        return self._with(values) if values else self

    def with_size(self, size: int) -> Self:
        """
        Return the same structure with its size settled.

        Raises
        ------
        ValueError
            If it has another size.
        """
        if self.size is None:
            return self._sized(int(size))
        if self.size != size:
            raise ValueError(f"{self!r} has size {self.size}, but {size} is needed here: one row per level or column.")
        return self

    def kept(self, levels: Levels, used: Mask) -> Mask:
        """Return which levels of a factor have effects, where `used` are those that occur in the data."""
        return np.ones(len(used), dtype=bool) if self.ordered or self.size in (None, len(used)) else used

    def over_all(self, levels: Levels) -> tuple[Levels, npt.NDArray[np.intp]] | None:
        """Return labels that have effects whether they occur or not, and the places of levels among them; or None."""
        return None

    def kept_of(self, factors: Sequence[tuple[Levels, Mask]], name: str) -> list[Mask] | None:
        """Return the same for each factor of an interaction; None if the structure is over combinations that occur."""
        return None

    def relatives(self) -> Relatives | None:
        """Return labels that have no row here but are related to those that have; None where there are none."""
        return None

    def over(self, levels: LevelSet) -> Self:
        """
        Return the structure of these levels: its size settled, rows with labels in their order, steps checked.

        Raises
        ------
        ValueError
            If it has another size, lacks a label, or takes steps between levels that are not one step apart.
        """
        levels.require_size(self.size, repr(self))
        return self.with_size(len(levels))

    def dense(self, size: int | None = None) -> Any:
        """
        Return the matrix: an array if every parameter is a number or an array, a tensor otherwise.

        Parameters
        ----------
        size : int, optional
            Number of rows, for a structure that has no size of its own.

        Raises
        ------
        ValueError
            If the size is neither known nor given, or is given and differs.
        """
        sized = self._of_known_size(size)
        return sized._matrix(namespace(*sized.parameters.values()))

    def _of_known_size(self, size: int | None = None) -> Self:
        sized = self if size is None else self.with_size(size)
        if sized.size is None:
            raise ValueError(f"the size of {self!r} is not known: give it, size=.")
        return sized

    @abstractmethod
    def _matrix(self, xp: Any) -> Any:
        """Return the matrix of a structure whose size is known: its definition."""

    def _repeated(self) -> tuple[Any, int, "Covariance"]:
        """Return R (a matrix or a `Relation`), levels and B of R(I ⊗ B)Rᵀ: as many B as the structure shows."""
        return None, 1, self

    def _by_elements(self) -> "Covariance":
        """Return the structure with its free matrices given by their elements, in which V is linear."""
        return self

    def _parts(self) -> dict[str, tuple["Covariance", slice]]:
        """Return for each parameter that is about some of the rows alone their structure, and which they are."""
        return {}

    def _with(self, values: Mapping[str, Any]) -> Self:
        return replace(self, **values)  # type: ignore[type-var]  # every concrete structure is a dataclass

    def _sized(self, size: int) -> Self:
        return replace(self, size=size)  # type: ignore[type-var]

    def _settled(self, size: int) -> Self:
        """Return the structure with this size, unless it needs the levels to settle its parts."""
        return self.with_size(size)

    @property
    def _kind(self) -> str:
        return type(self).__name__

    def __add__(self, other: Any) -> "Sum":
        return Sum(self, other) if isinstance(other, Covariance) else NotImplemented

    def __mul__(self, other: Any) -> "Hadamard":
        return Hadamard(self, other) if isinstance(other, Covariance) else NotImplemented

    def __matmul__(self, other: Any) -> "Kronecker":
        return Kronecker(self, other) if isinstance(other, Covariance) else NotImplemented

    def __repr__(self) -> str:
        """Show the kind, the parameters (arrays and tensors by name or shape) and the size."""
        parts = [f"{name}={_described(value)}" for name, value in self.parameters.items()]
        if any(f.name == "size" and f.init for f in fields(self)) and self.size is not None:  # type: ignore[arg-type]
            parts.append(f"size={self.size}")
        return f"{self._kind}({', '.join(parts)})"

    def _facts(self) -> dict[str, Any]:
        values = {name: f"{_described(value)}, {self._domains[name]}" for name, value in self.parameters.items()}
        return {"structure": repr(self), "size": "that of its term" if self.size is None else self.size, **values}


def _described(value: Any) -> str:
    if is_tensor(value):
        return value.name or "<tensor>"
    array = np.asarray(value)
    return f"{float(array):.6g}" if array.ndim == 0 else f"<{' × '.join(map(str, array.shape))}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class Operator(Covariance):
    """A structure made of others, its operands; (A + B) + C is flattened to A + B + C."""

    _associative: ClassVar[bool] = True
    _identified: ClassVar[bool] = False
    _least: ClassVar[int] = 2
    _additive: ClassVar[bool] = False  # whether it is linear in the matrices of its operands
    operands: tuple[Covariance, ...]

    def __init__(self, *operands: Covariance) -> None:
        for operand in operands:
            if not isinstance(operand, Covariance):
                raise TypeError(
                    f"{self._kind} takes covariance structures, got {type(operand).__name__}: "
                    "wrap a known matrix as flmm.covariance.known(K)."
                )
        parts = [p for o in operands for p in (o.operands if type(o) is type(self) and self._associative else (o,))]
        if len(parts) < self._least:
            raise ValueError(f"{self._kind} needs at least {self._least} structures, got {len(parts)}.")
        object.__setattr__(self, "operands", tuple(parts))

    @property
    def _linear(self) -> bool:
        return self._additive and all(operand._linear for operand in self.operands)

    @property
    def ordered(self) -> bool:
        """Whether that is so of an operand."""
        return any(operand.ordered for operand in self.operands)

    @property
    def named(self) -> bool:
        """Whether that is so of an operand."""
        return any(operand.named for operand in self.operands)

    def _named_operands(self) -> list[tuple[Covariance, dict[str, str]]]:
        """Return each operand with the names of its parameters, and what they are called here."""
        names = [name for operand in self.operands for name in operand.parameters]
        prefixes = ["" if len(set(names)) == len(names) else f"{i}." for i in range(1, len(self.operands) + 1)]
        return [(o, {n: prefix + n for n in o.parameters}) for o, prefix in zip(self.operands, prefixes, strict=True)]

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of all operands."""
        return {names[name]: value for o, names in self._named_operands() for name, value in o.parameters.items()}

    @property
    def _domains(self) -> dict[str, Domain]:
        return {names[name]: domain for o, names in self._named_operands() for name, domain in o._domains.items()}

    def _with(self, values: Mapping[str, Any]) -> Self:
        changed = []
        for operand, names in self._named_operands():
            own = {name: values[outer] for name, outer in names.items() if outer in values}
            changed.append(operand.with_parameters(own))
        return self._of(*changed)

    def _of(self, *operands: Covariance) -> Self:
        return type(self)(*operands)

    def _by_elements(self) -> Self:
        return self._of(*(operand._by_elements() for operand in self.operands))

    def __repr__(self) -> str:
        """Show the operands."""
        return f"{self._kind}({', '.join(map(repr, self.operands))})"


class _Elementwise(Operator):
    """An operator whose operands have the size of the result."""

    __slots__ = ()

    @property
    def size(self) -> int | None:
        """The size of the operands, None while none of them has one."""
        return next((operand.size for operand in self.operands if operand.size is not None), None)

    def __init__(self, *operands: Covariance) -> None:
        super().__init__(*operands)
        sizes = {operand.size for operand in self.operands} - {None}
        if len(sizes) > 1:
            raise ValueError(
                f"{self._kind} takes structures of one size, got {' and '.join(map(str, sorted(sizes)))}: {self!r}."
            )
        if sizes:
            object.__setattr__(self, "operands", tuple(o._settled(*sizes) for o in self.operands))

    def _sized(self, size: int) -> Self:
        return self._of(*(operand.with_size(size) for operand in self.operands))

    def kept(self, levels: Levels, used: Mask) -> Mask:
        """Return the levels that an operand needs."""
        return np.asarray(np.logical_or.reduce([operand.kept(levels, used) for operand in self.operands]))

    def kept_of(self, factors: Sequence[tuple[Levels, Mask]], name: str) -> list[Mask] | None:
        """Return the levels of each factor that an operand needs."""
        found = [kept for o in self.operands if (kept := o.kept_of(factors, name)) is not None]
        return [np.logical_or.reduce(masks) for masks in zip(*found, strict=True)] if found else None

    def over(self, levels: LevelSet) -> Self:
        """Return the operands over these levels."""
        levels.require_size(self.size, repr(self))
        return self._of(*(operand.over(levels) for operand in self.operands))


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class Sum(_Elementwise):
    """
    The sum A + B + … of covariances of one size: independent effects of the same levels.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> (cov.known([[1, 0.5], [0.5, 1]], sigma2=2.0) + cov.scalar(1.0)).dense()
    array([[3., 1.],
           [1., 3.]])
    """

    _additive: ClassVar[bool] = True

    def _matrix(self, xp: Any) -> Any:
        return reduce(operator.add, (operand.dense() for operand in self.operands))


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class Hadamard(_Elementwise):
    """
    The elementwise product A ∘ B ∘ … of covariances of one size.

    Examples
    --------
    Autoregressive correlation with a standard deviation of its own at each time, ssᵀ ∘ R:

    >>> from pm_fastlmm import covariance as cov
    >>> (cov.gram([[1.0], [2.0]]) * cov.ar1(1.0, 0.5)).dense()
    array([[1., 1.],
           [1., 4.]])
    """

    def _matrix(self, xp: Any) -> Any:
        return reduce(operator.mul, (operand.dense() for operand in self.operands))


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class Kronecker(Operator):
    """
    The Kronecker product A ⊗ B ⊗ …, its last factor varying fastest: row = i · size(B) + j.

    One factor may be without a size; it follows from the size of the whole.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.kronecker(cov.identity(2), cov.unstructured([[2.0, 1.0], [1.0, 3.0]])).dense()
    array([[2., 1., 0., 0.],
           [1., 3., 0., 0.],
           [0., 0., 2., 1.],
           [0., 0., 1., 3.]])
    """

    @property
    def size(self) -> int | None:
        """The product of the sizes, None while one of them is not known."""
        return total_size(math.prod, self.operands)

    def _settled(self, size: int) -> Self:
        several = sum(operand.size is None for operand in self.operands) > 1
        return self if several else self.with_size(size)

    def _sized(self, size: int) -> Self:
        open_ = [i for i, operand in enumerate(self.operands) if operand.size is None]
        known = math.prod(operand.size for operand in self.operands if operand.size is not None)
        if len(open_) > 1 or size % known:
            raise ValueError(
                f"a product of size {size} does not settle the sizes of {self!r}: give size= to its factors."
            )
        return self._of(*(operand.with_size(size // known) if i in open_ else operand
                          for i, operand in enumerate(self.operands)))  # fmt: skip

    def kept_of(self, factors: Sequence[tuple[Levels, Mask]], name: str) -> list[Mask] | None:
        """
        Return the levels of each factor that its operand needs.

        Raises
        ------
        ValueError
            If there are not as many operands as factors.
        """
        if len(self.operands) != len(factors):
            raise ValueError(
                f"term {name!r} is over combinations of {len(factors)} factors, but its covariance is a product of "
                f"{len(self.operands)} structures: give one for each factor, in their order: {self!r}."
            )
        return [o.kept(levels, used) for o, (levels, used) in zip(self.operands, factors, strict=True)]

    def over(self, levels: LevelSet) -> Self:
        """Return the operands over the factors of which the levels are combinations, or of single ones in order."""
        if levels.crossed and len(levels.parts) == len(self.operands):
            return self._of(*(o.over(part) for o, part in zip(self.operands, levels.parts, strict=True)))
        sized = Covariance.over(self, levels)
        sizes = [operand.size for operand in sized.operands]
        places = np.arange(len(levels)).reshape(sizes)
        for k, operand in enumerate(sized.operands):
            if operand.ordered or operand.named:
                for row in np.moveaxis(places, k, -1).reshape(-1, sizes[k]):
                    operand.over(levels.pick(row.tolist()))
        return sized

    def _matrix(self, xp: Any) -> Any:
        product, *rest = (operand.dense() for operand in self.operands)
        rows = self.operands[0].size
        for operand, factor in zip(self.operands[1:], rest, strict=True):
            rows *= operand.size
            product = (product[:, None, :, None] * factor[None, :, None, :]).reshape((rows, rows))
        return product


def total_size(of: Any, operands: tuple[Covariance, ...]) -> int | None:
    """Return the sum or the product of the operands' sizes, None while one of them is not known."""
    sizes = [operand.size for operand in operands]
    return None if None in sizes else int(of(sizes))
