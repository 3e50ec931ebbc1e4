"""What is asked of the fixed effects of a fit: coefficients, whole terms, any contrasts, analysis of variance."""

from abc import abstractmethod
from typing import Any

import numpy as np
import pandas as pd

from pm_fastlmm.base.display import listed
from pm_fastlmm.base.tables import Table
from pm_fastlmm.kernel.inference.contrasts import read_contrasts
from pm_fastlmm.kernel.inference.fixed_effects import (
    DegreesOfFreedom,
    FixedEffects,
    FixedTest,
    ZeroVariances,
    check_zero_variances,
    coefficient_table,
    rows_test,
    wald_ratio,
)
from pm_fastlmm.kernel.inference.hypotheses import (
    TypeOfTest,
    missing_cells,
    require_formula,
    term_hypotheses,
)
from pm_fastlmm.kernel.inference.summary import Summary

METHODS = {
    "satterthwaite": "Satterthwaite's degrees of freedom",
    "kenward-roger": "Kenward and Roger's method",
    "residual": "n - r degrees of freedom",
}
_NUMERALS = {1: "I", 2: "II", 3: "III"}


class TermTests(Summary):
    """The tests of the fixed effects."""

    __slots__ = ()

    @property
    @abstractmethod
    def _residual_variance(self) -> Any:
        """σ²_e, () or (T,)."""

    def coefficients(
        self, df: DegreesOfFreedom = "satterthwaite", level: float = 0.95, *, zero_variances: ZeroVariances = "known"
    ) -> Table:
        """
        Return a table of the fixed effects: estimate, se, df, t, p_value, lower, upper.

        Variances of 0 are taken as known; a singular covariance matrix may move along those of its rank; where terms
        overlap, what V depends on counts. Kenward–Roger needs V to be linear in θ, as it is in variances and
        covariances of terms, and no singular matrix.

        Parameters
        ----------
        df : {"satterthwaite", "kenward-roger", "residual"}
            Degrees of freedom of t. Kenward–Roger also enlarges the standard errors by what the estimation of the
            variances adds; "residual" is n - r, which ignores it, and what thousands of coefficients have whose X is
            kept sparse.
        level : float
            Of the interval.
        zero_variances : {"known", "free"}
            What Kenward–Roger makes of a variance that is estimated as 0. "known": it is 0, and costs no degrees of
            freedom, as in Satterthwaite's method and lmerTest. "free": it is one of the variances that were estimated,
            as in pbkrtest, with fewer degrees of freedom: 5 for 29 on lme4's Dyestuff2; so are singular matrices, at
            the cost of dense matrices where there are several components. Of a test at .05 with 6 × 5 observations
            "known" rejects .031 to .051 of all data sets and "free" .011 to .048, as the true variance grows from 0;
            among those that are estimated at 0, "known" rejects more than .05 unless it is 0 indeed.

        Raises
        ------
        ValueError
            If df is unknown, or "kenward-roger" after ML or where V is not linear; if β is not estimated; if
            zero_variances="free" with another df, or with more rows than fit in memory.

        References
        ----------
        Satterthwaite (1946), doi:10.2307/3002019; Kenward & Roger (1997), doi:10.2307/2533558.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> model = flmm.lmm_model("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy())
        >>> fit = flmm.find_reml(model, progressbar=False)
        >>> fit.coefficients()
                  estimate       se  df      t   p_value    lower    upper
        coef
        Intercept  251.405  6.82456  17  36.84  1.17e-17  237.007  265.804
        Days       10.4673  1.54579  17  6.771  3.26e-06  7.20596  13.7286
        """
        check_zero_variances(zero_variances, df)
        return coefficient_table(self._fixed_effects(df, zero_variances), df, level, self._projection)

    def test_fixed(
        self, L: Any, df: DegreesOfFreedom = "satterthwaite", *, zero_variances: ZeroVariances = "known"
    ) -> FixedTest:
        """
        Test Lβ = 0 by an F test: a factor or interaction as a whole, coefficients, or any contrasts.

        Parameters
        ----------
        L : str, sequence of str, mapping, or (r,) or (q, r) array
            A term of the formula, "Treatment" or "Treatment:Month", whose hypothesis is that of type III in `anova`; a
            coefficient; or several of these, all 0. A name of both is the term. A mapping of coefficients to weights,
            one contrast; contrasts in rows, of the columns that were kept, or of all columns of X where some were
            dropped.
        df : {"satterthwaite", "kenward-roger", "residual"}
            Denominator degrees of freedom, as in `coefficients`; several contrasts as in lmerTest and pbkrtest.
        zero_variances : {"known", "free"}
            As in `coefficients`.

        Returns
        -------
        FixedTest

        Raises
        ------
        ValueError
            If a name is unknown, L does not fit or is collinear, the data do not determine a contrast, or df is not
            available.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> oats = flmm.datasets.john_alpha()
        >>> fit = flmm.find_reml("yield ~ rep + gen + (1 | rep:block)", oats, progressbar=False)
        >>> fit.test_fixed("gen")
        FixedTest: F(23, 34.74) = 5.4478, p = 4.38e-06 (satterthwaite)
        """
        check_zero_variances(zero_variances, df)
        return rows_test(self._fixed_effects(df, zero_variances), read_contrasts(L, self._projection), df)

    def anova(
        self, type: TypeOfTest = 3, df: DegreesOfFreedom = "satterthwaite", *, zero_variances: ZeroVariances = "known"
    ) -> Table:
        """
        Return the analysis of variance: an F test of each term of the formula, as a whole.

        Hypotheses are those of SAS and lmerTest, and do not depend on the contrasts of the factors. Type III compares
        means in which all cells of the other factors weigh the same; type II what a term explains beyond all terms
        that do not contain it; type I beyond the terms before it. The three agree where all cells have the same number
        of observations. A factor that has a slope of its own for each level, f*x, is compared where x is 0: centre x.

        Parameters
        ----------
        type : {3, 2, 1}
        df : {"satterthwaite", "kenward-roger", "residual"}
            Denominator degrees of freedom, as in `test_fixed`.
        zero_variances : {"known", "free"}
            As in `coefficients`.

        Returns
        -------
        DataFrame
            By term, of several responses by response and term: mean_sq = F σ̂²_e and sum_sq = df_num · mean_sq as in
            lmerTest, with F before Kenward and Roger's factor; df_num, df_den, F, p_value. A term that the data do not
            determine has df_num = 0 and nothing else. Cells without data are named below, since what type III tests
            depends on them.

        Raises
        ------
        ValueError
            If the fit is of an X without a formula, or the formula has no terms; if type or df is unknown, or df not
            available.

        References
        ----------
        Yates (1934), doi:10.1080/01621459.1934.10502686; Kuznetsova, Brockhoff & Christensen (2017), lmerTest,
        doi:10.18637/jss.v082.i13.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy(), progressbar=False
        ... )
        >>> fit.anova()
        Type III analysis of variance, Satterthwaite's degrees of freedom
             sum_sq mean_sq df_num df_den      F   p_value
        term
        Days  30031   30031      1     17  45.85  3.26e-06
        """
        if type not in _NUMERALS:
            raise ValueError(f"type must be 1, 2 or 3, got {type!r}.")
        check_zero_variances(zero_variances, df)
        formula = require_formula(self._projection)
        if not formula.names:
            raise ValueError("the formula has no term but the intercept, which fit.coefficients() has the test of.")
        complete = formula.complete()
        hypotheses = term_hypotheses(complete, self._projection, type)
        fixed = self._fixed_effects(df, zero_variances)
        table = _anova_table(fixed, hypotheses, df, self._residual_variance)
        table.attrs["above"] = [f"Type {_NUMERALS[type]} analysis of variance, {METHODS[df]}"]
        table.attrs["below"] = _cautions(hypotheses, missing_cells(complete, self._projection), type)
        return table


def _anova_table(fixed: FixedEffects, hypotheses: dict[str, Any], df: DegreesOfFreedom, variance: Any) -> Table:
    rows = []
    for L in hypotheses.values():
        row = np.full((*fixed.beta.shape[:-1], 6), np.nan)
        row[..., 2] = len(L)
        if len(L):
            test, mean_sq = rows_test(fixed, L, df), wald_ratio(fixed, L, df) * variance
            for place, value in enumerate(
                (len(L) * mean_sq, mean_sq, len(L), test.df_den, test.statistic, test.p_value)
            ):
                row[..., place] = value
        rows.append(row)
    index: pd.Index = pd.Index(list(hypotheses), name="term")
    if fixed.names is not None:
        index = pd.MultiIndex.from_product([fixed.names, list(hypotheses)], names=["response", "term"])
    values = np.stack(rows, axis=-2).reshape(-1, 6)
    table = Table(values, index=index, columns=["sum_sq", "mean_sq", "df_num", "df_den", "F", "p_value"])
    return table.astype({"df_num": int})


def _cautions(hypotheses: dict[str, Any], missing: list[str], type: TypeOfTest) -> list[str]:
    lines = []
    if missing and type == 3:
        lines.append(f"cells without data, on which type III hypotheses depend: {listed(missing)}")
    if undetermined := [name for name, L in hypotheses.items() if not len(L)]:
        lines.append(f"not determined, other terms do the same in all rows: {listed(undetermined)}")
    return lines
