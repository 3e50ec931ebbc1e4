"""lmm_model: a mixed model from a formula in lme4's notation, with documented default priors."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor

from pm_fastlmm.base.arrays import EPS, FloatArray
from pm_fastlmm.base.choices import Negative, require_choice
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.engines.structured.structuredlmm import StructuredLMM
from pm_fastlmm.models.correlated_terms import CorrelatedTerms
from pm_fastlmm.models.deviations import Deviations
from pm_fastlmm.models.latent_model import Treated, latent_model
from pm_fastlmm.models.mixed_design import MixedDesign
from pm_fastlmm.models.mixed_terms import data_of, read_formula, relations
from pm_fastlmm.models.named_terms import DIMENSIONS, check_names, check_slashes, registered_term
from pm_fastlmm.models.residual_term import ResidualTerm
from pm_fastlmm.models.share_prior import SharePrior
from pm_fastlmm.models.shares import VARIABLES, Shares
from pm_fastlmm.spectrum.sparse_projection import SparseProjection

_NOTHING = 1e-24  # of the mean square of y: what X leaves of a group that it explains
_TAKEN = {"e": "but sigma_e is the residual's"} | DIMENSIONS


def lmm_model(
    formula: str | MixedDesign,
    data: pd.DataFrame | None = None,
    *,
    known: Mapping[str, Any] | None = None,
    negative: Negative = "error",
    weights: Any = None,
    offset: Any = None,
    residual: str | None = None,
    family: Any = None,
    link: str | None = None,
    trials: Any = None,
    effects: Treated | None = None,
    priors: Mapping[str, Any] | SharePrior | None = None,
    name: str | None = None,
) -> pm.Model:
    r"""
    Build a PyMC model of y = Xβ + Σ Zu + e from a formula with random terms, or of y ~ family(g⁻¹(Xβ + Σ Zu)).

    β is integrated out under a flat prior, the effects u and e exactly. What is left are standard deviations and
    correlations:

    * `sigma_e`, one for each group or trait of `residual`, and `corr_e` between traits, derived from `chol_e`;
    * `sigma_{group}` for (1 | group) or (0 + x | group);
    * for (x | group), `sigma_{group}` (one for each column) and the correlations `corr_{group}` (one for each pair of
      columns), derived from `chol_{group}` ~ LKJCholeskyCov(eta=2);
    * for (x || group), `sigma_{group}` with independent effects.

    **Priors.** σ ~ HalfNormal(2 s c). s is the residual standard deviation of the least-squares fit of X: what all
    terms and e make together, so that the σ of an intercept should be below s, where the density has fallen by an
    eighth only. c carries that to the scale of the columns U within a level (1 for an intercept),
    c_j² = [(UᵀU/n)⁻¹]_jj, and of a known K, c² = 1/(mean of the diagonal of ZKZᵀ): the prior does not depend on units,
    nor for correlated slopes on where the 0 of their covariate lies. With prior weights the fit is that of weighted
    least squares, s belongs to an observation of mean weight w̄, and σ_e ~ HalfNormal(2 s √w̄). With `residual` each σ_e
    has the s of its own rows.

    **Responses that are not normal** have a family, and η = offset + Xβ + Σ Zu in place of their mean. By default the
    model is a `LatentLMM`: β under a flat prior and u are integrated out by Laplace's method, and sigma_{group} … are
    as above. effects="sampled" makes the same model without approximation, of PyMC's own distributions: a sampler walks
    in `{name}_beta` and in the effects `{name}_{group}`, centred where records say much of most of them, non-centred
    otherwise, which a message says.

    * σ ~ HalfNormal(1.5 s c), s the standard deviation of the latent variable of the link (π/√3 of logit, 1 of probit,
      π/√6 of cloglog), 1 of a logarithm: half of the prior has σ² below the variance s² of a latent outcome, a share of
      ½; in counts σ = 1.5 is a factor of 20 between the upper and the lower sixth of the levels.
    * `alpha` ~ InverseGamma(½, ½) of negative binomial and gamma responses: 1/√alpha, the coefficient of variation
      beyond Poisson or of the gamma, is HalfNormal(1).
    * `cutpoints`, increasing, stand in the place of an intercept and have a flat prior like β.
    * With effects="sampled" β ~ N(b, (5s)²(XᵀX/n)⁻¹), Xb being η of the mean response: in any coding of X the fixed
      part of η has a standard deviation of 5s in each of its directions.

    Parameters
    ----------
    formula : str or MixedDesign
        "yield ~ rep + (1 | gen) + (1 | rep:block)", as for `MixedDesign.from_formula`; one that was made before takes
        the place of formula and data.
    data : DataFrame
        Its index are the ids.
    known : dict of str to DataFrame or array, optional
        For a grouping factor, the known covariance K between its levels, such as `covariance.pedigree` makes: var u =
        σ²K; for slopes K ⊗ Σ. Terms of one id, (1 |id| animal) + (1 |id| dam), have the same K. Labels are matched to
        the levels; an array without them is taken only for levels that are the numbers of its rows, counted from 0 or
        1.
    negative : {"error", "zero"}
        What becomes of negative eigenvalues of a K in `known`, but for those that belong to fixed effects: an error,
        which says how large they are, or 0. A K that is negative along fixed effects alone, as a relationship matrix of
        pairwise deletion along the mean, is taken with as much added along these as makes it a covariance, which
        changes no estimate of a variance.
    weights : str or array, optional
        Prior weights w, the name of a column or a value for each row of data: Var(e_i) = σ²_e/w_i, as in lme4. A y_i
        that is the mean of w_i measurements has weight w_i. Rows in which it is missing are dropped.
    offset : str or array, optional
        A known part of the mean, y = offset + Xβ + Σ Zu + e; also as offset(x) in the formula.
    residual : str, optional
        The column of groups that have residual variances of their own, "sex"; or a bar of records whose residuals
        covary, "(0 + trait | record)": a row is one trait of one record, and Σ_e is the covariance between the traits,
        diagonal with "||". A record may lack traits.
    family : str or Family, optional
        Of a response that is not normal: "bernoulli" (0 and 1, False and True, or two categories, of which a message
        says which is the success), "binomial" (successes), "poisson", "negative_binomial" (counts), "gamma" (positive
        numbers), "ordinal" (an ordered `pandas.Categorical`, or integers).
    link : str, optional
        "logit", "probit" or "cloglog" of the first two, "logit" or "probit" of the last; the others have "log".
    trials : str, array or int, optional
        Of "binomial", the number of trials of each row. New rows have those of the column of this name, or the one
        number that was given; without either one each, so that their mean is a probability.
    effects : {"integrated", "sampled"}, optional
        What becomes of β and u of a response with a family: integrated out by default.
    priors : dict or SharePrior, optional
        Other priors by the name of the variable: unregistered distributions, {"sigma_gen": pm.Exponential.dist(1)}, of
        a vector if the variable is one; and another eta of the LKJ prior, {"eta_Subject": 1}. With a family also
        "beta", one number for all coefficients or a vector; a normal one where these are integrated out. Or a
        `priors.SharePrior` on the total variance and on the shares of the terms: the free variables are then `total`
        and `h2` (of one term) or `portion`, the standard deviations follow from these and from `share`.
    name : str, optional
        Name of the response in the model. Default: what stands left of the "~".

    Returns
    -------
    pymc.Model
        With coordinates "obs" (ids), for each group or id its levels under its name, and for slopes and terms of an id
        "{group}_effects" (columns) and "{group}_pairs", for categories "{name}_category". Rows with a missing value are
        dropped, with a warning that counts them.

    Raises
    ------
    ValueError
        If the formula is malformed, a term has as many effects as there are observations, `known` or `priors` name
        something that is not there, a weight is not positive, or an offset is infinite. If the response has values that
        its family has not, trials lack or are no positive integers, or weights or residual are given with a family.

    References
    ----------
    Lewandowski, Kurowicka and Joe (2009), Generating random correlation matrices. doi:10.1016/j.jmva.2009.04.008. Of
    scales for latent variables: Gelman et al. (2008), doi:10.1214/08-AOAS191; of overdispersion Simpson et al. (2017),
    doi:10.1214/16-STS576. Of centred and non-centred effects: Papaspiliopoulos et al. (2007),
    doi:10.1214/088342307000000014.

    Examples
    --------
    >>> import pm_fastlmm as flmm
    >>> model = flmm.lmm_model(
    ...     "yield ~ rep + (1|gen) + (1|rep:block)", flmm.datasets.john_alpha()
    ... )
    >>> [variable.name for variable in model.free_RVs]
    ['sigma_gen', 'sigma_rep:block', 'sigma_e']
    >>> model.coords["rep:block"][:3]
    ('R1:B1', 'R1:B2', 'R1:B3')

    Calves that scoured, of those born in a pen:

    >>> import pandas as pd
    >>> pens = pd.DataFrame(
    ...     {
    ...         "pen": list("aabbccdd"),
    ...         "milk": ["cold", "warm"] * 4,
    ...         "scoured": [5, 2, 3, 1, 7, 4, 2, 2],
    ...         "born": [9, 8, 9, 10, 8, 9, 7, 10],
    ...     }
    ... )
    >>> model = flmm.lmm_model(
    ...     "scoured ~ milk + (1 | pen)", pens, family="binomial", trials="born"
    ... )
    >>> model.basic_RVs
    [sigma_pen, scoured]
    >>> exact = flmm.lmm_model(
    ...     "scoured ~ milk + (1 | pen)",
    ...     pens,
    ...     family="binomial",
    ...     trials="born",
    ...     effects="sampled",
    ... )
    >>> exact.basic_RVs
    [scoured_beta_raw, sigma_pen, scoured_pen_raw, scoured]
    """
    given = {"weights": weights, "offset": offset, "residual": residual}
    design = read_formula(formula, data, **given, family=family, link=link, trials=trials)
    if effects is not None:
        require_choice("effects", effects, Treated)
        if design.of_family is None:
            raise ValueError(
                "effects= is of a response that is not normal: give family= too; effects of a normal response are "
                "integrated out exactly, and flmm.recover_effects draws them."
            )
    between = relations(design, known, negative)
    if design.of_family is not None:
        return latent_model(design, between, priors or {}, name, effects or "integrated")
    return mixed_model(design, between, priors or {}, name)


def mixed_model(
    design: MixedDesign, between: list[Covariance | None], priors: Mapping[str, Any] | SharePrior, name: str | None,
    scales: Mapping[str, FloatArray] | None = None,
) -> pm.Model:  # fmt: skip
    """
    Build the model of a design, and of the known covariance of each term.

    `scales` are those of half-normal priors, by the name of the variable.
    """
    own = ["sigma_e"] if design.residual is None else design.residual.part.priors
    shares = isinstance(priors, SharePrior)
    of_shares = dict.fromkeys(VARIABLES, "which is a name in a model with a SharePrior") if shares else {}
    check_names(design, () if isinstance(priors, SharePrior) else priors, _TAKEN | of_shares, own)
    name = design.response if name is None else name
    check_slashes(design, name)
    joined = [random.group for random in design.random if isinstance(random, CorrelatedTerms)]
    if isinstance(priors, SharePrior) and joined:
        raise ValueError(
            f"a SharePrior is of variances that add up to that of y, and a covariance of the terms of the id "
            f"{joined[0]!r} is one more part of it: give priors by the names of the variables, or none."
        )
    if isinstance(priors, SharePrior) and design.residual is not None:
        raise ValueError(
            f"a SharePrior is of one residual variance, and residual={design.residual.text!r} has several: give priors "
            "by the names of the variables, or none."
        )
    left = _least_squares(design)
    sd = math.sqrt(float(left @ left) / len(left))
    # where a variable was made, PyTensor reads from the stack at each: half of the cost, and lines of this file
    with pytensor.config.change_flags(traceback__limit=0), pm.Model(coords={"obs": list(design.ids)}) as model:
        if isinstance(priors, SharePrior):
            variables: Deviations | Shares = Shares.of(design, priors, sd**2, _mean_weight(design))
        else:
            variables = Deviations(sd, priors, _mean_weight(design), scales or {})
        terms = [
            registered_term(*pair, variables, _relative(design)) for pair in zip(design.random, between, strict=True)
        ]
        if design.residual is None:
            noise = {"sigma2_e": variables.residual()}
        else:
            noise = {"residual": _noise(design.residual, left, variables)}
        StructuredLMM(name, terms=terms, dims="obs", **noise, **data_of(design))
    return model


def _least_squares(design: MixedDesign) -> FloatArray:
    """Return what X leaves of y by least squares, weighted by w/w̄, of the mean square s² that e has."""
    root = np.sqrt(_relative(design))
    y = root * (design.y if design.offset is None else design.y - design.offset)
    X: Any = design.X
    if not isinstance(X, np.ndarray):
        with warnings.catch_warnings(action="ignore"):  # the node warns of columns that are dropped
            projection = SparseProjection.from_design(X.multiply(root[:, None]))
        rank, residual = projection.rank, projection.apart(y)[1]
    else:
        X = root[:, None] * X
        coef, _, rank, _ = np.linalg.lstsq(X, y)
        residual = y - X @ coef
    df = len(y) - int(rank)
    norm = float(np.linalg.norm(residual))
    if df < 1 or norm <= len(y) * EPS * float(np.linalg.norm(root * design.y)):
        raise ValueError("y has no residual variance after X: there is nothing to estimate a variance from.")
    return np.asarray(residual * math.sqrt(len(y) / df))


def _noise(residual: ResidualTerm, left: FloatArray, variables: Deviations | Shares) -> Term:
    """Return the term of the residuals; the scale of a coordinate is that of its rows, of all where these have none."""
    assert isinstance(variables, Deviations)  # a SharePrior was refused
    count, squares = np.bincount(residual.coordinate), np.bincount(residual.coordinate, left**2)
    mean = float(left @ left) / len(left)
    own = np.where(squares / count > _NOTHING * mean, squares / count, mean)
    return residual.term(variables.noise(residual, np.sqrt(own)))


def _mean_weight(design: MixedDesign) -> float:
    return 1.0 if design.weights is None else float(design.weights.mean())


def _relative(design: MixedDesign) -> FloatArray:
    """Return w/w̄ of each row."""
    return np.ones(len(design.y)) if design.weights is None else design.weights / _mean_weight(design)
