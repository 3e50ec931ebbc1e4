"""traits_model: several traits with a known covariance between individuals, from a formula or from arrays."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pymc as pm

from pm_fastlmm.base.choices import Negative
from pm_fastlmm.models.traits_routes import read_traits_model


def traits_model(
    formula: Any,
    data: pd.DataFrame | None = None,
    *,
    X: Any = None,
    K: Any = None,
    W: Any = None,
    spectrum: Any = None,
    individual: str | None = None,
    known: Mapping[str, Any] | None = None,
    negative: Negative = "error",
    weights: Any = None,
    priors: Mapping[str, Any] | None = None,
    name: str = "Y",
) -> pm.Model:
    r"""
    Build a PyMC model of several traits of the same records, vec(Y) ~ N(vec(XB), Σ_g ⊗ K + Σ_e ⊗ I).

    Each trait has its own coefficients of the same X, integrated out under a flat prior. What is left are standard
    deviations and correlations:

    * of what K relates, `sigma_K` (one for each trait) and `corr_K` (one for each pair), derived from
      `chol_K` ~ LKJCholeskyCov(eta=2);
    * of the residuals of a record, `sigma_e` and `corr_e`, derived from `chol_e`;
    * `h2` of each trait, σ_K²k̄/(σ_K²k̄ + σ_e²) with k̄ the mean of the diagonal of K.

    With random terms, "milk + fat ~ herd + (1 | animal) + (1 | litter)", or with repeated records of an individual, the
    model is one of rows of one trait of one record each. A term (x | group) then has an effect for each trait and
    column, all of which are correlated, and its variables are called by the group, `sigma_animal`; `h2` is there where
    a single term of one effect for each trait has a known covariance.

    **New rows** of `fit.predict(data=)` have one trait of one record each: a column `trait`, those of the formula, and
    `record`, with the id of the row of K whose effect it has.

    **Priors.** σ ~ HalfNormal(2 s c), with s the residual standard deviation of the trait alone, by least squares on X
    over its rows, and c that of `lmm_model`: for K, 1/√k̄. Correlations are LKJ(2).

    **Missing values.** A record that lacks some traits is kept, and the density is that of what was observed. Records
    that lack all of them or another variable are dropped, with a warning that counts them.

    Parameters
    ----------
    formula : str, or DataFrame or array (n, t)
        "milk + fat ~ sex + age", or cbind(milk, fat), with terms as for `lmm_model`; or Y, with traits in its columns.
        One trait is a model too.
    data : DataFrame, optional
        The table of the formula; its index are the ids.
    X : (n, r) array or DataFrame, optional
        Of Y, in place of a formula; an intercept is not added.
    K, W : array or DataFrame, optional
        Covariance of the records, or its factor (K = WWᵀ); with `individual`, of individuals.
    spectrum : Spectrum, optional
        Of Y, in place of X, K and W, when they were factored before.
    individual : str, optional
        For repeated records: the column of `data` that says whose record each row is.
    known : dict, optional
        For a grouping factor of the formula, the known covariance between its levels, as for `lmm_model`.
    negative : {"error", "zero"}
        What becomes of negative eigenvalues of K, as for `kernel_model` and `lmm_model`.
    weights : str or (n,) array, optional
        Prior weights of the records, Var(e_i) = Σ_e/w_i: a column of `data`, or a value for each of its rows.
    priors : dict, optional
        Other priors by the name of the variable: an unregistered distribution with a value for each trait,
        {"sigma_K": pm.HalfNormal.dist(1, shape=2)}, and another eta of the LKJ prior, {"eta_K": 1}.
    name : str
        Name of the response in the model.

    Returns
    -------
    pymc.Model
        With a `MatrixLMM` of dimensions ("trait", "obs") for one kernel with a record for each row of it; otherwise
        with a `StructuredLMM`, whose observations are called "milk, id".

    Raises
    ------
    ValueError
        If a trait is named twice, is text, constant, a combination of the others, or was observed in no more rows than
        there are traits; if `known` or `priors` name something that is not there; if ids do not match, or Y is a square
        array without labels.

    References
    ----------
    Zhou and Stephens (2014), doi:10.1038/nmeth.2848.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(1)
    >>> G = rng.normal(size=(50, 80))
    >>> table = pd.DataFrame(rng.normal(size=(50, 2)), columns=["milk", "fat"])
    >>> table = table.assign(age=rng.uniform(1, 4, size=50))
    >>> model = flmm.traits_model("milk + fat ~ age", table, K=G @ G.T / 80)
    >>> [variable.name for variable in model.free_RVs]
    ['chol_K', 'chol_e']
    >>> model.coords["trait"], model.coords["K_pairs"]
    (('milk', 'fat'), ('milk, fat',))

    With a permanent effect of each litter beside that of the animals:

    >>> table = table.assign(animal=range(50), litter=np.arange(50) // 5)
    >>> K = pd.DataFrame(G @ G.T / 80)
    >>> model = flmm.traits_model(
    ...     "milk + fat ~ age + (1 | animal) + (1 | litter)", table, known={"animal": K}
    ... )
    >>> [variable.name for variable in model.free_RVs]
    ['chol_animal', 'chol_litter', 'chol_e']
    """
    route = read_traits_model(
        formula, data, X=X, K=K, W=W, spectrum=spectrum, individual=individual, known=known, weights=weights,
        negative=negative,
    )  # fmt: skip
    return route.model(priors or {}, name)
