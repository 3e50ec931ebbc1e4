"""A family of the user's own: log p(y | η, ψ) as a PyTensor expression, differentiated automatically."""

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from scipy.optimize import minimize_scalar

from pm_fastlmm.base.arrays import FloatArray, read
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.families.choice import FAMILIES
from pm_fastlmm.families.family import Derivatives, Family, ParameterDerivatives

type Bounds = tuple[float, float, float]


class CustomFamily(Family, Described):
    """
    A response distribution that you write: its log-density, an expression of PyTensor.

    The engine needs log p(y | η, ψ) with three derivatives in η, and those of the first three in ψ. They are found by
    automatic differentiation when they are first asked for. Nothing has to be concave, but where log p has several
    modes in η, Laplace's method takes the one that it meets.

    Parameters
    ----------
    log_density : callable
        `log_density(y, eta, **parameters)`, called once with symbolic vectors of one number a row, those of the
        parameters too. It returns the vector of the log-densities of the rows, each of which may depend on what its own
        row has.
    parameters : mapping from str to (float, float, float), optional
        Lower bound, upper bound and a value to start at of each parameter.
    name, link : str
        What is printed.
    mean, variance : callable, optional
        `mean(eta, **parameters)`, E(y | η, ψ), and var(y | η, ψ), of NumPy arrays that broadcast.
    draw : callable, optional
        `draw(eta, rng, **parameters)`, draws of y, of NumPy arrays and a `numpy.random.Generator`.
    concave : bool
        Whether log p is concave in η whatever y and ψ.

    Raises
    ------
    ValueError
        If a parameter's start is not between its bounds, or its name is no identifier or one of y, eta and rng, or the
        family has the name of another.

    Examples
    --------
    Counts of which zeros are not seen:

    >>> import numpy as np
    >>> import pytensor.tensor as pt
    >>> import pm_fastlmm as flmm
    >>> def positive_poisson(y, eta):
    ...     mu = pt.exp(eta)
    ...     return y * eta - mu - pt.gammaln(y + 1) - pt.log(-pt.expm1(-mu))
    >>> family = flmm.CustomFamily(positive_poisson, name="positive poisson")
    >>> family.derivatives(np.array([1.0, 3.0]), np.zeros(2), np.zeros(0)).first.round(4)
    array([-0.582,  1.418])
    """

    def __init__(
        self, log_density: Callable[..., Any], parameters: Mapping[str, Bounds] | None = None, *, name: str = "custom",
        link: str = "own", mean: Callable[..., Any] | None = None, variance: Callable[..., Any] | None = None,
        draw: Callable[..., Any] | None = None, concave: bool = False,
    ) -> None:  # fmt: skip
        if name in FAMILIES:
            raise ValueError(f"name={name!r} is a family that there is, of which more is known: give another name.")
        self._expression, self._bounds = log_density, _read_bounds(parameters or {})
        self.name, self.link, self.concave = name, link, concave
        self._given = {"mean": mean, "variance": variance, "draw": draw}
        self._functions: dict[str, Any] = {}
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what a copy is made of: it compiles functions of its own."""
        others = {"name": self.name, "link": self.link, "concave": self.concave, **self._given}
        return _made, (self._expression, self._bounds, others)

    def _facts(self) -> dict[str, Any]:
        functions = [name for name, function in self._given.items() if function is not None]
        return {
            "name": self.name,
            "link": self.link,
            "parameters": listed(self.parameters, none="none"),
            "functions": listed(functions, none="none"),
        }

    def __repr__(self) -> str:
        return f"CustomFamily({self.name!r}, parameters={list(self._bounds)})"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of ψ."""
        return tuple(self._bounds)

    @property
    def lower(self) -> FloatArray:
        """Lower bounds of ψ."""
        return np.array([lower for lower, _, _ in self._bounds.values()])

    @property
    def upper(self) -> FloatArray:
        """Upper bounds of ψ."""
        return np.array([upper for _, upper, _ in self._bounds.values()])

    def log_density(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return log p(y | η, ψ), (..., n)."""
        psi = np.asarray(psi)
        shape = np.broadcast_shapes(eta.shape[:-1], psi.shape[:-1])
        etas = np.broadcast_to(eta, (*shape, eta.shape[-1]))
        psis = np.broadcast_to(psi, (*shape, psi.shape[-1]))
        out = np.empty(np.broadcast_shapes(etas.shape, y.shape))
        for place in np.ndindex(shape):
            out[place] = self.derivatives(y, etas[place], psis[place]).value  # its function is compiled anyway
        return out

    def derivatives(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> Derivatives:
        """Return log p and its derivatives in η."""
        return Derivatives(*self._evaluate("in η", y, eta, psi))

    def in_parameters(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> ParameterDerivatives:
        """Return the derivatives in ψ of log p and of its first two derivatives in η."""
        p = len(self._bounds)
        if p == 0:
            return super().in_parameters(y, eta, psi)
        found = np.array(self._evaluate("in ψ", y, eta, psi)).reshape(3, p, -1)
        return ParameterDerivatives(*found)

    def read(self, y: Any) -> FloatArray:
        """
        Return responses as floats.

        Raises
        ------
        ValueError
            If one has no density, or the density of a row depends on other rows.
        """
        values = read(y, "y", ndim=(1,)).values
        known = ~np.isnan(values)
        if not known.any():
            return values
        eta, psi = self.start(np.where(known, values, values[known][0]))
        density = self.log_density(np.where(known, values, values[known][0]), eta, psi)
        bad = np.flatnonzero(~np.isfinite(density))
        if bad.size:
            raise ValueError(
                f"log_density of family {self.name!r} is {density[bad[0]]} for y = {values[bad[0]]:g} in row {bad[0]} "
                f"at η = {eta[bad[0]]:.3g}{self._said(psi)}, and no number in {bad.size} rows: these y are outside its "
                "support, or the starts of its parameters are; leave such rows out, or change the expression."
            )
        self._require_rows_apart(values, known, eta, psi)
        return values

    def start(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the constant η that is most likely with the parameters' own starts, and these."""
        psi = np.array([start for _, _, start in self._bounds.values()])

        def loss(eta: float) -> float:
            with np.errstate(all="ignore"):
                total = float(self.log_density(y, np.full(y.size, eta), psi).sum())
            return -total if np.isfinite(total) else 1e300

        found = float(minimize_scalar(loss, bracket=(-0.1, 0.1)).x)
        return np.full(y.size, found if loss(found) < loss(0.0) else 0.0), psi

    def mean(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return E(y | η, ψ), (..., n)."""
        return self._asked("mean", eta, psi)

    def variance(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return var(y | η, ψ), (..., n)."""
        return self._asked("variance", eta, psi)

    def draw(self, eta: FloatArray, psi: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return one draw of y for each η, (..., n)."""
        return self._asked("draw", eta, psi, rng)

    def _asked(self, what: str, eta: FloatArray, psi: FloatArray, *others: Any) -> FloatArray:
        function = self._given[what]
        if function is None:
            arguments = ", ".join(["eta", *(["rng"] if what == "draw" else []), *self._bounds])
            raise ValueError(
                f"family {self.name!r} was given without {what}=: predictions of y need {what}=, a function "
                f"{what}({arguments}) of NumPy arrays; those of the linear predictor do without."
            )
        psi = np.asarray(psi)
        named = {name: psi[..., k, None] for k, name in enumerate(self._bounds)}
        shape = np.broadcast_shapes(np.shape(eta), (*psi.shape[:-1], 1))
        return np.array(np.broadcast_to(function(eta, *others, **named), shape), dtype=float)

    def _said(self, psi: FloatArray) -> str:
        return "".join(f", {name} = {value:.3g}" for name, value in zip(self._bounds, psi, strict=True))

    def _require_rows_apart(self, values: FloatArray, known: Any, eta: FloatArray, psi: FloatArray) -> None:
        """Refuse an expression in which rows depend on each other, such as one with a mean over rows."""
        y = np.where(known, values, values[known][0])
        moved = eta.copy()
        moved[0] += 0.1
        if y.size > 1 and not np.array_equal(self.log_density(y, eta, psi)[1:], self.log_density(y, moved, psi)[1:]):
            raise ValueError(
                f"log_density of family {self.name!r} gives rows densities that depend on η of other rows: each row's "
                "may depend on its own y and η alone, without means or sums over rows."
            )

    # ---------------------------------------------------------------- functions

    def _evaluate(self, what: str, y: FloatArray, eta: FloatArray, psi: FloatArray) -> list[FloatArray]:
        y, eta = np.broadcast_arrays(np.asarray(y, dtype=float), np.asarray(eta, dtype=float))
        columns = [np.full(eta.size, value) for value in np.asarray(psi, dtype=float)]
        with self._lock, np.errstate(all="ignore"):
            if what not in self._functions:
                self._functions[what] = self._compiled(what)
            found: list[FloatArray] = self._functions[what](np.array(y), np.array(eta), *columns)
            return [np.array(part) for part in found]

    def _compiled(self, what: str) -> Any:
        y, eta = pt.dvector("y"), pt.dvector("eta")
        named = {name: pt.dvector(name) for name in self._bounds}
        value = pt.as_tensor(self._expression(y, eta, **named))
        if value.type.ndim != 1:
            raise ValueError(
                f"log_density of family {self.name!r} must return a vector, the log-density of each row, got "
                f"{value.type.ndim} dimensions: leave sums and means over rows out."
            )
        outputs = _graphs(what, value.astype("float64"), eta, list(named.values()))
        return pytensor.function([y, eta, *named.values()], outputs, on_unused_input="ignore")


def _graphs(what: str, value: Any, eta: Any, parameters: list[Any]) -> list[Any]:
    """Return the outputs of a function; rows do not depend on each other, so that gradients of sums are theirs."""
    orders = [value]
    for _ in range(3 if what == "in η" else 2):
        orders.append(_slope(orders[-1], eta))
    return orders if what == "in η" else [_slope(order, own) for order in orders for own in parameters]


def _slope(value: Any, variable: Any) -> Any:
    return pytensor.grad(value.sum(), variable, disconnected_inputs="ignore")


def _read_bounds(parameters: Mapping[str, Bounds]) -> dict[str, Bounds]:
    found: dict[str, Bounds] = {}
    for name, given in parameters.items():
        if not str(name).isidentifier() or name in ("y", "eta", "rng"):
            raise ValueError(
                f"a parameter of a family cannot be called {name!r}: it is an argument of log_density, an identifier "
                "other than y, eta and rng."
            )
        try:
            lower, upper, start = map(float, given)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"parameter {name!r} must be (lower, upper, start), three numbers, got {given!r}."
            ) from error
        if not lower < start < upper:
            raise ValueError(
                f"parameter {name!r} starts at {start:g}, which is not between its bounds {lower:g} and {upper:g}: "
                "give (lower, upper, start); a bound may be infinite."
            )
        found[name] = (lower, upper, start)
    return found


def _made(expression: Any, bounds: Any, others: dict[str, Any]) -> CustomFamily:
    return CustomFamily(expression, bounds, **others)
