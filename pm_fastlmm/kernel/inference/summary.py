"""What is read of a fit: the parameters of V and the fixed effects as tables, and the report that is printed."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.display import listed
from pm_fastlmm.base.tables import Report, Table
from pm_fastlmm.kernel.inference.estimates import Estimates, InformationKind
from pm_fastlmm.kernel.inference.fixed_effects import DegreesOfFreedom, FixedEffects, ZeroVariances, t_tests
from pm_fastlmm.spectrum.sparse_projection import AnyProjection

_OF_V, _OF_BETA = ("sd", "corr"), ("df", "t", "p_value")
_COLUMNS = ("estimate", "se", *_OF_V, *_OF_BETA)
_DEAR = (
    "evaluations take long here: errors of the parameters of V are those of the average information,",
    "and tests are left to fit.summary(), fit.coefficients() and fit.test_fixed()",
)


class Summary(Estimates):
    """The table and the report of a fit."""

    __slots__ = ()

    _tests: ClassVar[str] = "t tests with Satterthwaite's degrees of freedom"
    _of_parameters: ClassVar[str] = "Parameters of V"

    @property
    @abstractmethod
    def _model(self) -> str:
        """The model as a formula."""

    @property
    @abstractmethod
    def _counts(self) -> str:
        """How many observations there are, and levels of each term."""

    @property
    def _rows_dropped(self) -> str:
        """In words how many rows were dropped for a missing value; nothing if none was."""
        return ""

    @abstractmethod
    def _fixed_effects(self, df: DegreesOfFreedom, zero_variances: ZeroVariances) -> FixedEffects:
        """Return the fixed effects with what the method needs of the derivatives of their covariance."""

    @property
    @abstractmethod
    def _projection(self) -> AnyProjection:
        """The projection by X."""

    @property
    def _tested(self) -> bool:
        """Whether there are tests of the fixed effects."""
        return bool(self.coef)

    @property
    def _dear(self) -> bool:
        """Whether the tests and the observed information take too long for a report."""
        return False

    @property
    def _iterations(self) -> str:
        """In how many iterations the fit converged, in words."""
        return ""

    def summary(self, information: InformationKind = "observed") -> pd.DataFrame:
        """
        Return the parameters of V and the fixed effects as one table, with one block of rows per response.

        A printed fit has the same in two parts. All columns are shown, whatever the width of the screen.

        Parameters
        ----------
        information : {"observed", "average"}
            Of the standard errors of the parameters of V, see `standard_errors`.

        Returns
        -------
        DataFrame
            Columns estimate and se; of variances sd, their root; of covariances corr, the correlation; of fixed effects
            df by Satterthwaite's method, t and p_value, for which `coefficients` has other methods and intervals.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> batch = np.repeat(np.eye(3), 4, axis=0)
        >>> spectrum = flmm.Spectrum.from_factor(batch, np.ones((12, 1)))
        >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
        >>> flmm.reml(spectrum, y).summary()
                   estimate         se       sd corr df      t p_value
        h2         0.921569  0.0816086
        pve        0.895238   0.105891
        sigma2      3.91667    4.00019  1.97906
        delta     0.0851064  0.0960905
        sigma2_g    3.91667    4.00019  1.97906
        sigma2_e   0.333333   0.157135  0.57735
        total          4.25    4.00174  2.06155
        beta[x0]        3.5     1.1547                2  3.031  0.0938
        """
        parts = self._of_V(information), self._of_beta(tests=self._tested and not self._many)
        values = [np.concatenate([part[name] for part in parts], axis=-1).ravel() for name in _COLUMNS]
        names = [*self._estimates(), *(f"beta[{name}]" for name in self.coef)]
        return _table(values, _COLUMNS, self._rows(names), blank=(*_OF_V, *_OF_BETA))

    def _of_V(self, information: InformationKind) -> dict[str, FloatArray]:
        """Return the columns of the parameters of V, (…, q)."""
        estimates, errors, correlations = self._estimates(), self._errors(information), self._correlations
        nothing = np.full(np.shape(self.converged), np.nan)
        with np.errstate(invalid="ignore"):
            sd = {name: np.sqrt(estimates[name]) for name in self._variances}
        columns: tuple[Mapping[str, Any], ...] = (estimates, errors, sd, correlations, {}, {}, {})
        return {
            name: np.stack([np.asarray(column.get(key, nothing), dtype=float) for key in estimates], axis=-1)
            for name, column in zip(_COLUMNS, columns, strict=True)
        }

    def _of_beta(self, *, tests: bool) -> dict[str, FloatArray]:
        """Return the columns of the fixed effects, (…, r)."""
        columns = dict.fromkeys(_COLUMNS, np.full(self.blue.shape, np.nan)) | {
            "estimate": self.blue,
            "se": self._blue_se,
        }
        if tests:
            found = t_tests(self._fixed_effects("satterthwaite", "known"), "satterthwaite")
            columns |= {name: found[name] for name in _OF_BETA}
        else:
            columns["t"] = self.blue / self._blue_se
        return columns

    def _report(self) -> Report:
        """Return the parameters and fixed effects of one response, the criterion and the verdict."""
        dear, estimates = self._dear, self._estimates()
        of_V, shown = self._of_V("average" if dear else "observed"), ["estimate", "se"]
        shown += [name for name in _OF_V if not np.isnan(of_V[name]).all()]
        parts = [(self._of_parameters, _table([of_V[name] for name in shown], shown, list(estimates), blank=_OF_V))]
        below = list(_DEAR) if dear else []
        if self.coef:
            tests = self._tested and not dear and not self._many
            of_beta, shown = self._of_beta(tests=tests), ["estimate", "se", *(_OF_BETA if tests else ("t",))]
            heading = f"Fixed effects, {self._tests}" if tests else "Fixed effects"
            parts.append((heading, _table([of_beta[name] for name in shown], shown, list(self.coef))))
            if self._tested and (left := self._projection.columns.left):
                names = listed([self._projection.columns.names[j] for j in left])
                below.append(f"without {names}, collinear with other columns of X")
        return Report(f"{self.method} fit of {self._model}", parts, [*below, *self._verdict], self._about)

    @property
    def _about(self) -> list[str]:
        """Return lines of what was fitted: how many observations, and how factors are coded."""
        terms = self._projection.columns.terms if self._tested else None
        return [*filter(None, [self._counts, self._rows_dropped]), *(terms.codings() if terms else [])]

    @property
    def _verdict(self) -> list[str]:
        loglik = float(self.loglik)
        criterion = f"log-likelihood {loglik:.7f}, {self.method} criterion {-2 * loglik:.4f}"
        if not self.converged:
            return [criterion, f"NOT CONVERGED: {self.message}"]
        first, *more = self.message.split(". ")
        return [criterion, f"converged{self._iterations}" + (f", but {first}" if first else ""), *more]

    def to_markdown(self) -> str:
        """
        Return what is printed as Markdown, for a report or a notebook; of several responses the table.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False
        ... )
        >>> print(fit.to_markdown())
        **REML fit of Yield ~ 1 + (1 | Batch)**
        <BLANKLINE>
        30 observations, 6 levels of Batch
        <BLANKLINE>
        *Parameters of V*
        <BLANKLINE>
        |  | estimate | se | sd |
        | --- | ---: | ---: | ---: |
        | Batch | 1764.05 | 1432.75 | 42.0006 |
        | residual | 2451.25 | 707.615 | 49.5101 |
        <BLANKLINE>
        *Fixed effects, t tests with Satterthwaite's degrees of freedom*
        <BLANKLINE>
        |  | estimate | se | df | t | p_value |
        | --- | ---: | ---: | ---: | ---: | ---: |
        | Intercept | 1527.5 | 19.3834 | 5 | 78.8 | 6.23e-09 |
        <BLANKLINE>
        log-likelihood -159.8271384, REML criterion 319.6543
        <BLANKLINE>
        converged
        """
        return self._report().markdown() if self.names is None else str(self.summary().to_markdown())

    def __repr__(self) -> str:
        """Report the fit as text."""
        return self._report().text()

    def _repr_html_(self) -> str:
        """Report the fit as tables."""
        return self._report().html()


def _table(values: Sequence[FloatArray], columns: Sequence[str], rows: Any, blank: Sequence[str] = ()) -> Table:
    table = Table(dict(zip(columns, values, strict=True)), rows, dtype=float)
    table.attrs["blank"] = blank
    return table
