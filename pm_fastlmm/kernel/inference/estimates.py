"""Estimates: what every REML or ML fit has, by one vocabulary: numbers by name and their standard errors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method, require_choice

type InformationKind = Literal["observed", "average"]


def whole_covariance(r: int) -> ValueError:
    """Return the error of what needs all of cov β̂ where it has too many coefficients."""
    return ValueError(
        f"the covariance of {r} coefficients is not formed, only its diagonal and what lies in the pattern of the "
        "sparse equations, fit.blue_cov: fit.beta_se has standard errors, and fit.coefficients() t tests with n - r "
        "degrees of freedom. For contrasts and F tests let a factor of so many levels be a random term, (1 | factor)."
    )


class Estimates(ABC):
    """
    A REML or ML fit: of one response (numbers), or of T of them (arrays of length T) where the class says so.

    Attributes
    ----------
    loglik : float or (T,) array
        The maximum as lme4 and nlme print it (for REML: Patterson–Thompson, with -½log|XᵀX| and the 2π term).
    boundary : tuple of str, or (T,) array of them
        Parameters that are on the boundary of their space. Their standard errors are undefined (NaN); those of the
        others take them as known, and so do tests of fixed effects.
    converged : bool or (T,) array
    message : str or (T,) array
        Why a fit failed, what lies on the boundary, and what to do.
    method : "REML" or "ML"
    names : tuple of str or None
        Names of several responses; None for one.
    coef : tuple of str
        Names of the fixed effects.
    blue, blue_cov : arrays (…, r), (…, r, r)
        Generalised least squares at the estimate: the numbers of `beta` and `beta_cov`. Of thousands of coefficients
        `blue_cov` is a sparse matrix of some entries, the diagonal among them.
    """

    __slots__ = ()

    loglik: Any
    converged: Any
    message: Any
    method: Method
    names: tuple[str, ...] | None
    coef: tuple[str, ...]
    blue: FloatArray
    blue_cov: Any

    @property
    @abstractmethod
    def h2(self) -> Any:
        """The share of the variance of an observation, on average, that random effects have."""

    @property
    @abstractmethod
    def shares(self) -> pd.Series | pd.DataFrame:
        """The share that each component has of the variance of an observation, on average; the residual is last."""

    @abstractmethod
    def _estimates(self) -> dict[str, Any]:
        """Return the estimates of the parameters of V and of functions of them by name, () or (T,)."""

    @abstractmethod
    def _errors(self, information: InformationKind) -> Mapping[str, Any]:
        """Return the standard errors of `_estimates`."""

    @property
    @abstractmethod
    def _variances(self) -> Sequence[str]:
        """The names of those of `_estimates` that are variances."""

    @property
    def _correlations(self) -> Mapping[str, float]:
        """The correlations that covariances among `_estimates` are, by the names of these."""
        return {}

    @property
    def beta(self) -> pd.Series | pd.DataFrame:
        """Generalised least squares estimates of the fixed effects by name, at the estimate of V."""
        return self._by_coef(self.blue, "beta")

    @property
    def beta_se(self) -> pd.Series | pd.DataFrame:
        """Standard errors of the fixed effects, V as it is estimated."""
        return self._by_coef(self._blue_se, "se")

    @property
    def beta_cov(self) -> pd.DataFrame:
        """Covariance of the fixed effects, V as it is estimated; for several responses a block of rows each."""
        responses, coef = self.names, list(self.coef)
        if self._many:
            raise whole_covariance(len(coef))
        index = pd.Index(coef) if responses is None else pd.MultiIndex.from_product([responses, coef])
        return pd.DataFrame(self.blue_cov.reshape(len(index), len(coef)), index, coef)

    @property
    def _blue_se(self) -> FloatArray:
        return np.sqrt(self.blue_cov.diagonal() if self._many else np.diagonal(self.blue_cov, axis1=-2, axis2=-1))

    @property
    def _many(self) -> bool:
        """Whether β has so many coefficients that some entries of its covariance alone are known."""
        return bool(sp.issparse(self.blue_cov))

    def _by_coef(self, values: FloatArray, name: str) -> pd.Series | pd.DataFrame:
        if self.names is None:
            return pd.Series(values, list(self.coef), name=name)
        return pd.DataFrame(values, list(self.names), list(self.coef))

    def _and_beta(self, values: Mapping[str, Any], beta: FloatArray) -> dict[str, Any]:
        return dict(values) | {f"beta[{name}]": beta[..., j] for j, name in enumerate(self.coef)}

    def standard_errors(self, information: InformationKind = "observed") -> pd.Series | pd.DataFrame:
        """
        Return standard errors by name, those of functions of the parameters by the delta method.

        Parameters
        ----------
        information : {"observed", "average"}
            The observed information is the curvature of the likelihood. The average information, its mean with the
            expected one, is what ASReml, WOMBAT and sommer invert; it differs by some per cent.

        Returns
        -------
        Series, or DataFrame with a row for each of several responses
            NaN for what depends on a parameter that is fixed or on its boundary, which the others take as known: where
            σ²_g is estimated as 0, that of σ²_e is σ²_e√(2/(n - r)) after REML, as without the kernel.

        Raises
        ------
        ValueError
            If there is no such information.
        """
        require_choice("information", information, InformationKind)
        return self._by_response(self._and_beta(self._errors(information), self._blue_se), "se")

    def _by_response(self, values: Mapping[str, Any], name: str) -> pd.Series | pd.DataFrame:
        """Return values by name, for several responses a row each."""
        if self.names is None:
            return pd.Series(values, name=name, dtype=float)
        return pd.DataFrame(values, list(self.names))

    def _rows(self, quantities: Sequence[str], name: str | None = None) -> pd.Index:
        if self.names is None:
            return pd.Index(quantities, name=name)
        return pd.MultiIndex.from_product([self.names, quantities], names=["response", "quantity"])
