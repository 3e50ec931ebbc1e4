"""The node of a FourierLMM."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray, warn
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.display import tracked
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.draws import DrawFunction, Draws
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.fourierlmm import FourierRV
from pm_fastlmm.engines.fourier.functions import (
    FunctionAtTheta,
    FunctionPosterior,
    draw_coefficients,
    functions_at,
    read_new,
)
from pm_fastlmm.engines.fourier.likelihood import FourierFactor
from pm_fastlmm.engines.fourier.objective import FourierObjective
from pm_fastlmm.engines.fourier.precision import FourierPrecision, feature_rows, given_rows
from pm_fastlmm.engines.fourier.products import FourierProducts
from pm_fastlmm.engines.free_variables import Fitted, FreeVariables, Link, nearest, slopes
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.engines.labels import labelled, over_coef
from pm_fastlmm.engines.lengthscale.spectra import RotatedSpectra
from pm_fastlmm.engines.precisions import Part, Precisions, require_definite
from pm_fastlmm.engines.prediction import Effects, NewRows, Predictive
from pm_fastlmm.engines.protocol import Target, answers_for, observed_data
from pm_fastlmm.engines.response import Response
from pm_fastlmm.kernel.likelihood.leave_out import of_data

_FEW = 64  # features, whose likelihood is cheap
_LARGEST = 100_000_000  # numbers of predictive draws
_BELOW = 0.01  # of the draws, that a basis need not be made for


@answers_for(FourierRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FourierNode(GaussianNode):
    """
    A FourierLMM node; its observed data are [b̃, c̃].

    Attributes
    ----------
    basis : FourierBasis
    products : FourierProducts
        Of the features with each other, X projected out.
    spectra : RotatedSpectra or None
        At the nodes of the lengthscale, when that is all that the kernel has.
    log_weights : TensorVariable (M,)
        log d_j as a function of the model's variables.
    lengthscale : TensorVariable or None
    sigma2_g, sigma2_e : TensorVariable
    """

    called: ClassVar[str] = "FourierLMM"
    at_theta: ClassVar[type[AtTheta]] = FunctionAtTheta
    observes_statistic: ClassVar[bool] = True
    recovers: ClassVar[bool] = True
    predicts: ClassVar[tuple[Effects, ...]] = ("given",)
    takes: ClassVar[tuple[str, ...]] = ("x_new", "X_new", "rows")
    refusal: ClassVar[str] = (
        "it predicts f and y at x_new, given y, and not its mean without random effects, which is for FastLMM, "
        "LengthscaleLMM and StructuredLMM: leave out effects=."
    )

    basis: FourierBasis
    products: FourierProducts
    spectra: RotatedSpectra | None
    log_weights: Any
    lengthscale: Any
    sigma2_g: Any
    sigma2_e: Any

    @property
    def n(self) -> int:
        """Number of observations."""
        return self.products.n

    def objective(self, model: pm.Model, method: Method = "REML") -> Fitted:
        """
        Return the restricted likelihood over the free variables.

        It starts at the best lengthscale of all nodes where there is one lengthscale.
        """
        if method != "REML":
            raise ValueError("a FourierLMM integrates β out, and X is projected out of its statistics: method='REML'.")
        graph = pt.concatenate([pt.exp(self.log_weights) * self.sigma2_g, pt.expand_dims(self.sigma2_e, 0)])
        estimated = [] if self.spectra is None else [pt.stack(self.estimated())]
        variables = FreeVariables.of(model, self.name, [graph, *estimated])
        (prior,) = variables.substitute([graph])
        evaluate, differentiate = variables.compile([prior]), slopes(prior, variables)
        parameters = None
        if self.spectra is not None:
            link, v, (low, high) = Link.of(variables, estimated[0]), variables, self.basis.lengthscale
            parameters = link.theta
            # which variable is the lengthscale itself
            same = (link.jacobian(v.initial)[0] == 1) & (link.theta(v.initial)[0] == v.initial)
            lower = np.where(same, np.maximum(v.lower, low), v.lower)
            upper = np.where(same, np.minimum(v.upper, high), v.upper)
            start = np.clip(nearest(link, self.spectra.best()), lower, upper)
            variables = replace(v, lower=lower, upper=upper, initial=start)
        objective = FourierObjective.of(
            lambda x: evaluate(x)[0], differentiate, self.products, self.basis, parameters, variables
        )
        return Fitted(objective)

    def rows(self) -> FloatArray:
        """Raise: there are no rows."""
        raise ValueError(
            f"{self.name} keeps no rows: flmm.pointwise_log_likelihood(idata, rows=(x, y, X)) takes them, at draws."
        )

    def response(self) -> Response:
        """Return what a comparison of fits needs to know of the data."""
        p = self.products
        return Response(p.n, p.square + float(p.along @ p.along), None, True, p.projection)

    def _covariance_facts(self) -> dict[str, Any]:
        return {"kernel": self.basis.kernel.name, "features": self.basis.size}

    @property
    def cheap(self) -> bool:
        """Whether thousands of evaluations take a second or two."""
        return self.spectra is not None or self.basis.size <= _FEW

    def estimated(self) -> list[Any]:
        """Return ℓ, σ²_g and σ²_e, where the kernel has no other parameter."""
        return [] if self.spectra is None else [self.lengthscale, self.sigma2_g, self.sigma2_e]

    def target(self) -> Target | None:
        """Return the best point of a grid."""
        return None if self.spectra is None else Target(self.spectra.best(), np.ones(3, dtype=bool))

    def recover(self, draws: Draws, which: Sequence[str] | None, rng: np.random.Generator) -> dict[str, xr.DataArray]:
        """Draw β, where there are any, and the weights w of the features."""
        components = list(self._factors(draws))
        w, beta = draw_coefficients(self.products, components, len(components), rng)
        weights = labelled(draws.model, self, w.reshape(*draws.shape, -1), {f"{self.name}_feature": None})
        if not self.projection.coef:
            return {"weights": weights}
        return {"beta": over_coef(draws.model, self, beta.reshape(*draws.shape, -1)), "weights": weights}

    def read(self, new: NewRows, effects: Effects) -> Any:
        """Read points inside the domain, and X."""
        if new.x_new is None:
            raise ValueError(
                f"{self.name} keeps no rows: give x_new (and X_new), the points where y is to be predicted."
            )
        return read_new(self.basis, self.projection, new.x_new, new.X_new)

    def predict(self, draws: Draws, rows: Any, effects: Effects, rng: np.random.Generator) -> Predictive:
        """
        Draw f and y at points, one for each draw of the parameters.

        Raises
        ------
        ValueError
            If there would be too many numbers.
        """
        points, X = rows
        shape, count = draws.shape, math.prod(draws.shape)
        numbers = count * len(points)
        if numbers > _LARGEST:
            raise ValueError(
                f"predictions at {len(points)} points for {count} draws are {numbers:.1e} numbers, more "
                f"than {_LARGEST:.0e}: thin the posterior, idata.sel(draw=slice(None, None, 10)), or use "
                "flmm.posterior_function(idata, model=model).predict(x_new), which has their mean and variance."
            )
        components = list(self._factors(draws))
        w, beta = draw_coefficients(self.products, components, len(components), rng)
        f = functions_at(self.basis, w, beta, points, X).reshape(*shape, -1)
        return Predictive.of(f, np.reshape([factor.sigma2_e for factor in components], shape), rng)

    def known_rows(self, rows: Any) -> FloatArray | None:
        """Return the y that was given."""
        return None if rows is None else given_rows(self.basis, rows).values[2][:, 0]

    def function(self, draws: Draws, count: int, *, progressbar: bool) -> Any:
        """Return the posterior of f, averaged over some draws, evenly spaced."""
        total = math.prod(draws.shape)
        chosen = np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))
        components = self._factors(draws, chosen, progressbar=progressbar)
        return FunctionPosterior.of(self.basis, self.products, list(components))

    def _factors(self, draws: Draws, chosen: Any = None, *, progressbar: bool = False) -> Iterator[FourierFactor]:
        """Return the factorisations at posterior draws, counted chain by chain."""
        p, square = self.products, float(self.observed[-1])
        log_prior, e = DrawFunction(draws, [self.log_weights + pt.log(self.sigma2_g), self.sigma2_e])()
        for i in tracked(range(len(e)) if chosen is None else chosen, f"functions of {self.name}", show=progressbar):
            factor = FourierFactor.of(log_prior[i], float(e[i]), self.observed[:-1], square, p.gram, p.df)
            require_definite(factor, self.name)
            assert factor is not None
            yield factor

    def deriving(self) -> list[Any]:
        """Return σ²_g and σ²_e, where there is one lengthscale."""
        return [] if self.spectra is None else [self.sigma2_g, self.sigma2_e]

    def derived(self, *values: FloatArray) -> dict[str, FloatArray]:
        """Return δ; warn where it is below what the basis was made for."""
        g, e = values
        delta = e / g
        ratio = delta / self.products.mean_weight
        share = float((ratio < self.basis.noise_ratio_min).mean())
        if share > _BELOW:
            warn(
                f"{share:.0%} of the draws of {self.name} have a noise ratio sigma2_e/sigma2 below "
                f"noise_ratio_min={self.basis.noise_ratio_min:g} of the basis, whose error is larger there: make the "
                f"basis for {float(np.quantile(ratio, 0.001)):.2g}."
            )
        return {"delta": delta}

    def precisions(self, draws: Draws, *, largest: int, numbers: int, rows: Any = None) -> Precisions:
        """Return P and Py at the draws, of the rows that the statistics were made of."""
        features, y, root = feature_rows(self.name, self.basis, self.products, rows)
        factors = enumerate(self._factors(draws))
        found = (Part(i, of_data(FourierPrecision(features, factor), root), y) for i, factor in factors)
        return Precisions(draws.shape, self.n, features.Q, found)

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, log_weights, ell, g, e = rv.owner.inputs
        data, projection = observed_data(model, rv), op.products.projection
        lengthscale = ell[0] if op.spectra is not None else None
        own = (op.basis, op.products, op.spectra, log_weights, lengthscale, g, e)
        return cls(rv.name, rv, "flat", None, None, data, projection, None, *own)
