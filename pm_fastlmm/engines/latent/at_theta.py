"""Effects and predictions of a latent model at any θ, on the scale of η."""

import warnings
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, outside, shown
from pm_fastlmm.base.labels import labelled
from pm_fastlmm.engines.latent.importance import Importance, corrected
from pm_fastlmm.engines.latent.leave_out import LeftOut, leave_groups_out, leave_one_out
from pm_fastlmm.engines.latent.objective import LaplaceState
from pm_fastlmm.engines.latent.on_scale import PredictionScale, ScalePrediction
from pm_fastlmm.engines.latent.state import LatentState
from pm_fastlmm.engines.structured.effects import TermsAtTheta
from pm_fastlmm.engines.structured.new_rows import NewTermRows, read_rows
from pm_fastlmm.kernel.effects.effects import Prediction
from pm_fastlmm.kernel.effects.left_out import unpredictable
from pm_fastlmm.kernel.likelihood.leave_out import predictable


class LatentAtTheta(TermsAtTheta):
    """Terms given θ and β̂: effects are modes û, their errors those of the curvature, with what β̂ adds."""

    @cached_property
    def whole(self) -> LaplaceState:
        """The approximation; a ValueError where there is none."""
        self.objective.state(self.theta)  # from far away β̂ of ML is searched less precisely than from where it is
        state: LaplaceState | None = self.objective.state(self.theta)
        if state is None:
            raise self.indefinite()
        return state

    @cached_property
    def settled(self) -> LaplaceState:
        """The same at β̂, where its coefficients are estimated or integrated out."""
        settled: LaplaceState = self.objective.settled(self.whole)
        return settled

    @cached_property
    def state(self) -> LatentState:
        """The same with β among the unknowns."""
        settled = self.settled
        return settled.mixed.with_coefficients(settled.along) if len(settled.along) else settled.mixed

    @property
    def psi(self) -> FloatArray:
        """Parameters of the family."""
        return self.whole.mixed.psi

    @property
    def family(self) -> Any:
        """The family, of the rows of the data."""
        return self.node.products.family

    def fitted(self, *, conditional: bool) -> Any:
        """Return η without random effects, or η̂, by id of the row."""
        if conditional:
            values = self.settled.mixed.eta
        else:
            beta = self.objective.estimate(self.settled)
            values = self.known_mean() + (self.node.projection.times(beta) if len(beta) else 0.0)
            if self._beta_has_a_block:
                block, u = self.state.products.blocks[-1], self.state.effects()[-1]
                values = values + block.Z @ u.ravel()
        return labelled(np.asarray(values), self.node.ids, None, name="fitted")

    def read(self, **new: Any) -> NewTermRows:
        """Read new rows as `read_rows` takes them."""
        return read_rows(self.node.projection, self.node.terms, design=self.node.design, **new)

    def predict(
        self, *, K_new: Any = None, W_new: Any = None, K_new_new: Any = None, scale: PredictionScale = "link",
        trials: Any = None, **new: Any,
    ) -> ScalePrediction:  # fmt: skip
        """Return predictions for new rows, or without any for those of the data, on a scale."""
        self.require_no_kernel(K_new, W_new, K_new_new)
        if all(new.get(name) is None for name in ("X_new", "Z_new", "data")):
            if new.get("population"):
                raise ValueError("there are no new rows: give X_new and Z_new, or data=.")
            _require_each(trials, self.objective.n)
            family = self.family if trials is None else self.family.of_rows(trials)
            return ScalePrediction.of(self.in_sample(), scale, family, self.psi, self.node.categories)
        rows = self.read(**new)
        _require_each(trials, rows.m)
        rows = rows if trials is None else replace(rows, trials=trials)
        family = self.node.family_of_rows(rows)
        return ScalePrediction.of(self.predict_rows(rows), scale, family, self.psi, self.node.categories)

    def predict_rows(self, rows: NewTermRows) -> Prediction:
        """Return predictions of η of rows that were read, with their error variance; none of a residual."""
        fresh = rows.prior_variance(self.node.terms, self.state.sigma)
        incidence = [*rows.Z, rows.X] if self._beta_has_a_block else rows.Z
        mean, variance = self.state.predict(np.asarray(self._dense(rows.X)), list(incidence), fresh)
        if self.prior_mean.size:
            mean = mean + rows.X @ self.prior_mean
        mean = mean + self.node.mean_at(rows, np.asarray(self.mu))
        variance = np.where(np.isnan(mean), np.nan, variance)
        return Prediction(
            labelled(mean, rows.ids, None, name="mean"),
            labelled(variance, rows.ids, None, name="variance"),
            np.zeros(()),
        )

    @staticmethod
    def _dense(X: Any) -> Any:
        return X.toarray() if hasattr(X, "toarray") else X

    def in_sample(self) -> Prediction:
        """Return η̂ of the rows of the data, with the variances of η given y."""
        ids = self.node.ids
        return Prediction(
            labelled(self.state.eta, ids, None, name="mean"),
            labelled(self.state.eta_variances, ids, None, name="variance"),
            np.zeros(()),
        )

    @cached_property
    def others(self) -> LatentState:
        """The state whose unknowns are all that the others estimate: of ML the mode of β is that given θ."""
        whole = self.whole
        if not len(whole.along):
            return whole.mixed
        sigma, psi = self.objective.parts(self.theta)
        flat = self.node.products.treated(len(self.node.products.blocks), flat=True)
        state: LatentState | None = flat.laplace(self.node.rows(), self.objective.offset, sigma, psi)
        if state is None:
            raise self.indefinite()
        return state

    def left_out(self, groups: Any) -> LeftOut:  # type: ignore[override]
        """
        Leave observations or groups out.

        Warns
        -----
        UserWarning
            If the others have no predictive density for some, whose numbers are NaN then.
        """
        ids, read = self.node.ids, None if groups is None else self.node.read_groups(groups)
        if bad := unpredictable(self.node.flat_basis(), ids, read):
            warnings.warn(
                f"{'observations' if groups is None else 'groups'} {shown(bad)} alone determine a fixed effect: the "
                "others do not predict them, and their numbers are NaN.",
                stacklevel=outside(),
            )
        if read is None:
            return leave_one_out(self.others, ids)
        return leave_groups_out(self.others, ids, read, predictable(self.node.flat_basis(), read.members).tolist())

    def leverage(self) -> FloatArray:
        """Return D_i s_i, what an observation adds to its own η̂."""
        return self.others.leverage()

    def residual_sd(self) -> Any:
        """Return √Var(y | η̂)."""
        return np.sqrt(self.family.variance(self.settled.mixed.eta, self.psi))

    def replicates(self, n_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draw responses with new effects, (draws, n)."""
        eta = np.tile(np.asarray(self.fitted(conditional=False)), (n_draws, 1))
        for k, term in enumerate(self.node.terms):
            sigma = np.broadcast_to(self.state.sigma[k], (n_draws, *self.state.sigma[k].shape))
            eta += (term.Z @ self.state.products.draw_prior(k, sigma, rng).T).T
        return np.asarray(self.family.draw(eta, self.psi, rng))

    def with_given_effects(self, n_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draw responses around the fitted values, (draws, n)."""
        eta = np.tile(np.asarray(self.fitted(conditional=True)), (n_draws, 1))
        return np.asarray(self.family.draw(eta, self.psi, rng))

    def importance(
        self, n: int, *, df: float | None = None, nodes: int | None = None, random_seed: Any = None
    ) -> Importance:
        """Return the log-likelihood with what Laplace's approximation lacks; see `LaplaceFit.importance`."""
        state, rng = self.whole.mixed, np.random.default_rng(random_seed)
        constant = self.whole.loglik - state.loglik
        return corrected(state, constant, len(self.node.terms), n=n, df=df, nodes=nodes, rng=rng)

    def simulated_node(self, rng: np.random.Generator) -> Any:
        """Return the node with a response drawn at θ."""
        return replace(self.node, observed=self.replicates(1, rng)[0])


def _require_each(trials: Any, rows: int) -> None:
    """Raise a ValueError unless trials are one number, or one for each row."""
    if np.ndim(trials) and len(trials) != rows:
        raise ValueError(f"trials has {len(trials)} numbers for {rows} rows: give one for each, or one for all.")
