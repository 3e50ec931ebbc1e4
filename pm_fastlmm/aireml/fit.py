"""VarianceFit: what AI-REML found, labelled."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.aireml.iteration import Trace, propose
from pm_fastlmm.aireml.objective import Method, Objective, information_inverse
from pm_fastlmm.distribution import LMMNode

_DIFFERENCE = 1e-3  # of a standard error: the step of the differences that make the observed information


@dataclass(frozen=True, eq=False, repr=False)
class VarianceFit:
    """
    Estimates of the parameters θ of V by restricted maximum likelihood, or maximum likelihood.

    Attributes
    ----------
    theta : Series
        Estimates, in terms in which V is linear where the structure allows: variances, covariances, correlations.
    point : dict
        The values of the model's free variables at which θ is reached; for `pm.Model` use, the seed of NUTS.
    loglik : float
        The maximum as lme4 and nlme print it (for REML: Patterson–Thompson, with -½log|XᵀX| and the 2π term).
    score : Series
        ∂ℓ/∂θ at the estimate; not zero for parameters on the boundary.
    average_information : DataFrame
    beta, beta_se : Series; beta_cov : DataFrame
        Generalised least squares at the estimate.
    boundary : tuple of str
        Parameters that are on the boundary of their space. Their standard errors are undefined (NaN).
    converged : bool
    message : str
        Why an iteration failed, what lies on the boundary, and what to do.
    history : xarray.Dataset
        By iteration: theta, beta, loglik, score, average_information, proposed and taken step, decrement, kind of step.
    method : "REML" or "ML"
    objective : Objective
        The likelihood, for single evaluations and steps at any θ.
    node : LMMNode or None
        The node of the model, None for a function V(θ).
    """

    theta: pd.Series
    point: dict[str, Any]
    loglik: float
    score: pd.Series
    average_information: pd.DataFrame
    beta: pd.Series
    beta_cov: pd.DataFrame
    boundary: tuple[str, ...]
    converged: bool
    message: str
    history: xr.Dataset
    method: Method
    objective: Objective
    node: LMMNode | None

    @cached_property
    def cov(self) -> pd.DataFrame:
        """
        Covariance of the estimates: the inverse of the observed information, the curvature of the likelihood.

        It is made of differences of the exact score when it is first asked for. NaN for parameters that are fixed or on
        the boundary, and where the likelihood is flat.
        """
        names = list(self.theta.index)
        free = self._interior()
        theta = self.theta.to_numpy()
        expected = information_inverse(self.average_information.to_numpy(), free)
        steps = _DIFFERENCE * np.sqrt(np.diag(expected))
        observed = np.zeros((len(names), len(names)))
        for i in np.flatnonzero(free & np.isfinite(steps)):
            ends = []
            for sign in (1, -1):
                moved = theta.copy()
                moved[i] += sign * steps[i]
                state = self.objective.state(moved)
                ends.append(
                    np.full(len(names), np.nan) if state is None else self.objective.derivatives(moved, state)[0]
                )
            observed[:, i] = (ends[1] - ends[0]) / (2 * steps[i])
        observed = (observed + observed.T) / 2
        usable = np.isfinite(observed[np.ix_(free, free)]).all()
        return pd.DataFrame(information_inverse(observed, free) if usable else expected, names, names)

    @property
    def se(self) -> pd.Series:
        """Standard errors of θ (delta method), NaN on the boundary."""
        return pd.Series(np.sqrt(np.diag(self.cov.to_numpy())), self.theta.index, name="se")

    @property
    def beta_se(self) -> pd.Series:
        """Standard errors of the fixed effects, at the estimated θ."""
        return pd.Series(np.sqrt(np.diag(self.beta_cov.to_numpy())), self.beta.index, name="se")

    @property
    def best(self) -> xr.Dataset:
        """The iteration with the highest log-likelihood."""
        return self.history.isel(iteration=int(np.argmax(self.history["loglik"].to_numpy())))

    @property
    def last(self) -> xr.Dataset:
        """The last iteration."""
        return self.history.isel(iteration=-1)

    @property
    def state(self) -> Any:
        """V factored at the estimate."""
        return self.objective.state(self.theta.to_numpy())

    def _interior(self) -> Any:
        return ~np.isin(self.theta.index, self.boundary) & ~np.asarray(self.objective.fixed)

    def _at(self, theta: Any) -> FloatArray:
        return self.theta.to_numpy() if theta is None else self.objective.read(theta, self.theta.to_numpy(), "theta")

    def log_likelihood(self, theta: Any = None) -> float:
        """Return ℓ at a θ, a mapping from names or a sequence; -inf where V is not positive definite."""
        state = self.objective.state(self._at(theta))
        return -np.inf if state is None else float(state.loglik)

    def score_at(self, theta: Any = None) -> pd.Series:
        """Return ∂ℓ/∂θ at a θ."""
        return pd.Series(self._derivatives(theta)[0], self.theta.index, name="score")

    def average_information_at(self, theta: Any = None) -> pd.DataFrame:
        """Return the average information ½ qᵢᵀPqⱼ, qᵢ = (∂V/∂θ_i)Py, at a θ."""
        return pd.DataFrame(self._derivatives(theta)[1], self.theta.index, self.theta.index)

    def _derivatives(self, theta: Any) -> tuple[FloatArray, FloatArray]:
        at = self._at(theta)
        state = self.objective.state(at)
        if state is None:
            raise ValueError(f"V is not positive definite at {self.objective.described(at)}.")
        return self.objective.derivatives(at, state)

    def V(self, theta: Any = None) -> FloatArray:
        """Return V(θ), (n, n)."""
        return self.objective.covariance(self._at(theta))

    def V_derivatives(self, theta: Any = None) -> xr.DataArray:
        """Return ∂V/∂θ, (parameter, n, n)."""
        values = self.objective.covariance_derivatives(self._at(theta))
        return xr.DataArray(values, dims=("parameter", "obs", "obs_"), coords={"parameter": list(self.theta.index)})

    def step(self, theta: Any = None) -> pd.Series:
        """Return the θ that one full average-information step from θ leads to, without step control."""
        at = self._at(theta)
        score, information = self._derivatives(at)
        omega = self.objective.internal(at)
        J = self.objective.jacobian(omega)
        step, _ = propose(self.objective, omega, J.T @ score, J.T @ information @ J)
        return pd.Series(self.objective.external(omega + step), self.theta.index, name="theta")

    def summary(self) -> pd.DataFrame:
        """Return the estimates and standard errors of θ and β as a table."""
        theta = pd.DataFrame({"estimate": self.theta, "se": self.se})
        beta = pd.DataFrame({"estimate": self.beta, "se": self.beta_se})
        beta.index = [f"beta[{name}]" for name in beta.index]
        return pd.concat([theta, beta])

    def __repr__(self) -> str:
        """Report the fit as text."""
        lines = [
            f"{self.method} fit by average information, {self.history.sizes['iteration'] - 1} iterations",
            self.summary().to_string(float_format=lambda v: f"{v:.6g}", na_rep="undefined"),
            f"log-likelihood {self.loglik:.7f}",
            ("converged" if self.converged else "NOT CONVERGED") + (f": {self.message}" if self.message else ""),
        ]
        return "\n".join(lines)


def history_of(objective: Objective, trace: Trace) -> xr.Dataset:
    """Return the iterations as a labelled table."""
    its, names = trace.iterations, list(objective.names)
    columns: dict[str, Any] = {
        name: (("iteration", "parameter"), np.stack([getattr(i, name) for i in its]))
        for name in ("theta", "score", "proposed", "taken")
    }
    columns["beta"] = (("iteration", "coef"), np.stack([i.beta for i in its]))
    columns["average_information"] = (
        ("iteration", "parameter", "parameter_"),
        np.stack([i.average_information for i in its]),
    )
    columns |= {name: ("iteration", [getattr(i, name) for i in its]) for name in ("loglik", "decrement", "kind")}
    coords = {"iteration": np.arange(len(its)), "parameter": names, "parameter_": names, "coef": list(objective.coef)}
    return xr.Dataset(columns, coords=coords)
