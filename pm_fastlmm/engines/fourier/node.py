"""The node of a FourierLMM."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.base.arrays import FloatArray, outside
from pm_fastlmm.base.choices import Method
from pm_fastlmm.engines.draws import evaluate_draws, evaluate_kept
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.features import FourierProducts
from pm_fastlmm.engines.fourier.fitting import FunctionAtTheta, fourier_objective
from pm_fastlmm.engines.fourier.fourierlmm import FourierRV
from pm_fastlmm.engines.fourier.functions import read_new
from pm_fastlmm.engines.fourier.leave_out import feature_rows, given_rows, parts
from pm_fastlmm.engines.fourier.posterior import function, predict, recover
from pm_fastlmm.engines.free_variables import Fitted
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.engines.lengthscale.spectra import RotatedSpectra
from pm_fastlmm.engines.precisions import Precisions
from pm_fastlmm.engines.prediction import Effects, NewRows, Predictive
from pm_fastlmm.engines.protocol import Target, answers_for, observed_data
from pm_fastlmm.engines.response import Response

_FEW = 64  # features, whose likelihood is cheap

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
        """Return the restricted likelihood over the free variables."""
        return Fitted(fourier_objective(model, self, method))

    def rows(self) -> FloatArray:
        """Raise: there are no rows."""
        raise ValueError(
            f"{self.name} keeps no rows: flmm.pointwise_log_likelihood(idata, rows=(x, y, X)) takes them, at draws."
        )

    def response(self) -> Response:
        """Return what a comparison of fits needs to know of the data."""
        p = self.products
        return Response(p.n, p.square + float(p.along @ p.along), None, True, p.projection)

    def at(self, objective: Objective, theta: FloatArray, mu: Any, prior_mean: FloatArray) -> FunctionAtTheta:
        """Return the node with V at θ, and its function."""
        return FunctionAtTheta(self, objective, theta, mu, prior_mean)

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

    @property
    def observes_statistic(self) -> bool:
        """Whether a statistic is observed: always."""
        return True

    def recover(
        self, model: pm.Model, posterior: xr.Dataset, which: Sequence[str] | None, rng: np.random.Generator
    ) -> dict[str, xr.DataArray]:
        """Draw β and the weights of the features."""
        return recover(self, model, posterior, rng)

    def read(self, new: NewRows, effects: Effects) -> Any:
        """Read points inside the domain, and X."""
        if new.x_new is None:
            raise ValueError(
                f"{self.name} keeps no rows: give x_new (and X_new), the points where y is to be predicted."
            )
        return read_new(self.basis, self.projection, new.x_new, new.X_new)

    def predict(
        self, model: pm.Model, posterior: xr.Dataset, rows: Any, effects: Effects, rng: np.random.Generator
    ) -> Predictive:
        """Draw f and y at points."""
        return predict(self, model, posterior, rows, rng)

    def known_rows(self, rows: Any) -> FloatArray | None:
        """Return the y that was given."""
        return None if rows is None else given_rows(self.basis, rows).values[2][:, 0]

    def function(self, model: pm.Model, posterior: xr.Dataset, draws: int, *, progressbar: bool) -> Any:
        """Return the posterior of f, averaged over some draws."""
        return function(self, model, posterior, draws, progressbar=progressbar)

    def derived(self, model: pm.Model, posterior: xr.Dataset) -> dict[str, xr.DataArray]:
        """Return δ, where there is one lengthscale; warn where it is below what the basis was made for."""
        graphs = [self.sigma2_g, self.sigma2_e]
        if self.spectra is None or (kept := evaluate_kept(model, posterior, graphs)) is None:
            return {}
        g, e = kept
        with np.errstate(divide="ignore"):
            delta = e / g
        share = float((delta < self.basis.noise_ratio_min).mean())
        if share > _BELOW:
            warnings.warn(
                f"{share:.0%} of the draws of {self.name} have a noise ratio sigma2_e/sigma2 below "
                f"noise_ratio_min={self.basis.noise_ratio_min:g} of the basis, whose error is larger there: make the "
                f"basis for {float(np.quantile(delta, 0.001)):.2g}.",
                UserWarning,
                stacklevel=outside(),
            )
        return {f"{self.name}_delta": xr.DataArray(delta, dims=("chain", "draw"))}

    def precisions(
        self, model: pm.Model, posterior: xr.Dataset, *, largest: int, numbers: int, rows: Any = None
    ) -> Precisions:
        """Return P and Py at the draws, of the rows that the statistics were made of."""
        features, y = feature_rows(self.name, self.basis, self.products, rows)
        log_prior, e = evaluate_draws(model, posterior, [self.log_weights + pt.log(self.sigma2_g), self.sigma2_e])
        found = parts(self.name, self.products, self.observed, features, y, log_prior, e)
        return Precisions((posterior.sizes["chain"], posterior.sizes["draw"]), self.n, features.Q, found)

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, log_weights, ell, g, e = rv.owner.inputs
        data, projection = observed_data(model, rv), op.products.projection
        lengthscale = ell[0] if op.spectra is not None else None
        own = (op.basis, op.products, op.spectra, log_weights, lengthscale, g, e)
        return cls(rv.name, rv, "flat", None, None, data, projection, None, *own)
