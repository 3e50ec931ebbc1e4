"""Effects of the terms of a fit, fitted values, and predictions."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import OF_NEW_ROWS, require_choice
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.fourier.functions import FunctionPosterior
from pm_fastlmm.engines.gaussian import GaussianNode
from pm_fastlmm.fitting.inference import VarianceInference
from pm_fastlmm.kernel.effects.effects import Prediction


class VarianceEffects(VarianceInference):
    """The effects and predictions of `VarianceFit`, which has the fields that they are made of."""

    node: GaussianNode
    mu: Any
    prior_mean: FloatArray

    def at(self, theta: Any = None) -> FloatArray:
        """
        Return θ of a mapping from names to values, the others as estimated, of a sequence, or the estimate.

        The methods of `fit.objective` take it: log_likelihood, score, average_information, covariance,
        covariance_derivatives, blue.

        Raises
        ------
        ValueError
            If a name is unknown, the length does not fit, or a value is not finite.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> model = flmm.lmm_model("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff())
        >>> fit = flmm.find_reml(model, progressbar=False)
        >>> lower = fit.objective.log_likelihood(fit.at({"Batch": 0.0}))
        >>> print(f"{2 * (fit.loglik - lower):.3f}")
        10.363
        """
        return self.theta.to_numpy() if theta is None else self.objective.read(theta, self.theta.to_numpy(), "theta")

    def _node_at(self, theta: Any) -> AtTheta:
        return self.node.at(self.objective, self.at(theta), self.mu, self.prior_mean)

    def blup(self, term: str | None = None, theta: Any = None) -> Any:
        """
        Return the best linear unbiased predictors û of the effects of a term, or of all of them by name.

        A Series by level; for a term with columns a DataFrame.
        """
        return _chosen(self._node_at(theta).terms.blup(), term)

    def effects(self, term: str | None = None, level: float = 0.95, theta: Any = None) -> Any:
        """
        Return the effects of a term as a table, or tables of all of them by name.

        Of a FastLMM there is one, "u", by id of the row, of repeated records by individual.

        With PEV = Var(û - u), se is its root and the interval blup ± z · se. The reliability, the squared correlation
        of û_i with u_i, is r² = 1 - PEV_i/G_ii, with G_ii the variance of the effect (σ²A_ii of a known A, where A_ii
        is 1 + F_i of an inbred individual), and the accuracy r.

        Parameters
        ----------
        term : str, optional
        level : float
            Of the interval.
        theta : optional
            Another θ than the estimate.

        Returns
        -------
        DataFrame, or a dict of them
            By level, of a term with columns by level and column: blup, se, lower, upper, reliability, accuracy. The
            last two are NaN where the variance of the effect is 0. A term with a labelled K has
            all labels of K, those without rows at the end; it and a FastLMM of individuals have a column `records`, the
            number of rows of each.

        Raises
        ------
        ValueError
            If there is no such term, or the model has no terms.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> oats = flmm.datasets.john_alpha()
        >>> fit = flmm.find_reml(
        ...     "yield ~ rep + (1 | gen) + (1 | rep:block)", oats, progressbar=False
        ... )
        >>> fit.effects("gen").nlargest(3, "blup")
                 blup        se      lower     upper reliability accuracy
        G01  0.501184  0.179167   0.150023  0.852344       0.775    0.881
        G05   0.47495  0.179123   0.123875  0.826025       0.775    0.881
        G15    0.4247  0.179123  0.0736246  0.775775       0.775    0.881
        """
        return _chosen(self._node_at(theta).terms.tables(level), term)

    def pev(self, term: str | None = None, theta: Any = None) -> Any:
        """
        Return the prediction error variances Var(û - u), the uncertainty of β̂ included, as `blup` does.

        They are the squared standard errors of û. Those of lme4 are without that part: `conditional_variance`.
        """
        return _chosen(self._node_at(theta).terms.pev(), term)

    def conditional_variance(self, term: str | None = None, theta: Any = None) -> Any:
        """
        Return Var(u | y, β, θ), as `blup` does: the diagonals of lme4's `ranef(fit, condVar = TRUE)`.

        With G the covariance of a term it is the diagonal of G - GZᵀV⁻¹ZG. `pev` is larger by what the uncertainty of β̂
        adds, and is the one that intervals of u need.

        Raises
        ------
        ValueError
            If the model has no terms, or β has a prior, so that it is not known.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> sleep = flmm.datasets.sleepstudy()
        >>> fit = flmm.find_reml(
        ...     flmm.lmm_model("Reaction ~ Days + (Days | Subject)", sleep), progressbar=False
        ... )
        >>> fit.conditional_variance("Subject").head(1).round(2)
             Intercept  Days
        308     145.71   5.31
        """
        return _chosen(self._node_at(theta).terms.conditional_variance(), term)

    def fitted(self, kind: Literal["conditional", "marginal"] = "conditional", theta: Any = None) -> Any:
        """Return Xβ̂ + Σ Zû + mu ("conditional"), or Xβ̂ + mu ("marginal"), by id of the row."""
        require_choice("kind", kind, {"conditional": "Xβ̂ + Zû", "marginal": "Xβ̂"})
        return self._node_at(theta).terms.fitted(conditional=kind == "conditional")

    def residuals(
        self, kind: Literal["conditional", "marginal"] = "conditional", theta: Any = None, *, scaled: bool = False
    ) -> Any:
        """
        Return y minus the fitted values of that kind, by id of the row.

        With `scaled` conditional ones are divided by the standard deviation of e, σ_e/√w_i with prior weights (lme4's
        Pearson residuals, `scaled = TRUE`). They are still shrunk by what an observation adds to its own fitted value;
        `diagnostics` has them standardised.

        Raises
        ------
        ValueError
            If marginal residuals are to be scaled, whose variances are those of V.
        """
        residual = np.asarray(self.node.observed) - self.fitted(kind, theta)
        if scaled:
            if kind == "marginal":
                raise ValueError("scaled=True divides by the standard deviation of e, for kind='conditional'.")
            residual = residual / self._node_at(theta).terms.residual_sd()
        return residual.rename("residual") if isinstance(residual, pd.Series) else residual

    def predict(
        self,
        X_new: Any = None,
        Z_new: Mapping[str, Any] | None = None,
        *,
        data: Any = None,
        x_new: Any = None,
        K_new: Any = None,
        W_new: Any = None,
        K_new_new: Any = None,
        effects: Literal["given", "population"] = "given",
        theta: Any = None,
    ) -> Prediction:
        """
        Predict f = Xβ + Σ Zu for new rows.

        Parameters
        ----------
        X_new : (m, d) array or DataFrame
            All columns of the X of the fit, by name where both have names.
        Z_new : mapping
            By the name of a term what the term was made of: labels, (labels, columns), or a matrix. Levels that are new
            have the effect 0 and add their variance; a term that is left out contributes nothing. Under "residual" the
            coordinates of residuals that have several, or (records, coordinates).
        data : DataFrame
            For a model from a formula, in place of X_new and Z_new.
        x_new : (m,) or (m, D) array
            For a FourierLMM, the points.
        K_new, W_new, K_new_new : arrays or DataFrames
            For a FastLMM or MatrixLMM, as `REMLFit.predict` takes them; without them and X_new the rows of the data, of
            a MatrixLMM with the entries that were not observed.
        effects : {"given", "population"}
            "population": f = Xβ, the population mean (lme4's `re.form = NA`), for which data needs no groups.
        theta : optional
            Another θ than the estimate.

        Returns
        -------
        Prediction
            With `mean`, `variance`, `se`, `se_observation`, and `interval(level)`. Where residuals covary within
            records, f of a trait that a known record lacks has the part of e that its other traits tell.

        Raises
        ------
        ValueError
            If rows do not fit the model, or the group of a row is missing.

        Warns
        -----
        UserWarning
            If the data do not determine Xβ of some rows, which are then NaN: see `REMLFit.predict`.

        Examples
        --------
        >>> import pandas as pd
        >>> import pm_fastlmm as flmm
        >>> sleep = flmm.datasets.sleepstudy()
        >>> fit = flmm.find_reml(
        ...     flmm.lmm_model("Reaction ~ Days + (Days | Subject)", sleep), progressbar=False
        ... )
        >>> somebody = fit.predict(data=pd.DataFrame({"Days": [10], "Subject": ["new"]}))
        >>> mean = fit.predict(data=pd.DataFrame({"Days": [10]}), effects="population")
        >>> print(
        ...     f"{somebody.mean[0]:.1f} ± {somebody.se[0]:.1f}, {mean.mean[0]:.1f} ± {mean.se[0]:.1f}"
        ... )
        356.1 ± 67.6, 356.1 ± 16.0
        """
        require_choice("effects", effects, OF_NEW_ROWS)
        if x_new is not None:
            if effects == "population":
                raise ValueError("effects='population' is Xβ of a model with terms: the function of x_new is left out.")
            return self.posterior_function(theta).predict(x_new, X_new)
        rows = {"X_new": X_new, "Z_new": Z_new, "data": data, "population": effects == "population"}
        kernel = {"K_new": K_new, "W_new": W_new, "K_new_new": K_new_new}
        return self._node_at(theta).terms.predict(**rows, **kernel)  # type: ignore[no-any-return]

    def posterior_function(self, theta: Any = None) -> FunctionPosterior:
        """
        Return the posterior of the function of a FourierLMM, at the estimate or at another θ.

        Raises
        ------
        ValueError
            If the node is no FourierLMM.
        """
        return self._node_at(theta).function()  # type: ignore[no-any-return]

    def _replicates(self, n_draws: int, effects: str, rng: np.random.Generator) -> FloatArray:
        at = self._node_at(None)
        given = effects == "given"
        return np.asarray(at.terms.with_given_effects(n_draws, rng) if given else at.replicates(n_draws, rng))


def _chosen(values: dict[str, Any], term: str | None) -> Any:
    if term is None:
        return values
    if term not in values:
        raise ValueError(f"there is no term {term!r}: the model has {', '.join(values)}.")
    return values[term]
