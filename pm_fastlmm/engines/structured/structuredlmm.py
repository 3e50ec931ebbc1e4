"""StructuredLMM: several random-effects terms, V = Z G(θ) Zᵀ + R(θ), evaluated from cross-products."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pymc.distributions.dist_math import check_parameters
from pytensor.tensor.random.basic import chisquare

from pm_fastlmm.base.arrays import Labelled, common_ids, read, require_length
from pm_fastlmm.base.coordinates import require_labels
from pm_fastlmm.base.directions import are_directions
from pm_fastlmm.covariance.structures import Scalar
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import RESIDUAL, Theta
from pm_fastlmm.engines.algebra import along_columns, less_columns, white_noise
from pm_fastlmm.engines.inputs import coefficients, covariance_root, double, read_mean, read_response, refuse_unknown
from pm_fastlmm.engines.random_variable import LMM, LMMRV, Treatment
from pm_fastlmm.engines.records import Records
from pm_fastlmm.engines.spectral.variables import spectral_logp
from pm_fastlmm.engines.structured.choice import products_of
from pm_fastlmm.engines.structured.operations import RandomEffects, Residuals
from pm_fastlmm.engines.structured.statistics import TermStatistics, as_term_statistics
from pm_fastlmm.engines.term_products import TermProducts
from pm_fastlmm.spectrum.sparse_projection import AnyProjection, read_fixed_effects
from pm_fastlmm.spectrum.spectrum import Spectrum
from pm_fastlmm.spectrum.weights import PriorWeights

_SPECTRUM_ORDER = 3000
_SPECTRUM_SIZE = 30_000_000


class StructuredRV(LMMRV):
    """
    Y = mu + Xb + Σ Z_ku_k + e: inputs mu, b, B (the prior covariance of β, empty if there is none) and θ.

    The op carries what does not change: the terms, the layout of θ and the cross-products; and, when the terms are one
    kernel, its spectrum.
    """

    name = "StructuredLMM"
    extended_signature = "[rng],[size],(n),(r),(s,s),(p)->[rng],(n)"
    terms: tuple[Term, ...]
    residual: Term | None
    theta: Theta
    products: TermProducts
    ids: Any
    design: Any
    spectrum: Spectrum | None

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Return the next generator and a draw, for each of a batch."""
        mu, b, B, theta = params
        products: TermProducts = carried["products"]
        q = sum(block.Z.shape[1] for block in products.blocks)
        rng, (xi, noise) = white_noise(rng, batch, q, products.rows)
        if products.n > products.rows:  # the last row of statistics is the length of e in the directions left
            left = products.n - products.rows + 1
            rng, chi2 = chisquare(left, size=(*batch, 1), rng=rng, return_next_rng=True)
            noise = pt.concatenate([noise[..., :-1], pt.sqrt(chi2)], axis=-1)
        phi = packed(carried["theta"], products, theta, B)
        own = products.records.width, products.records.width
        sigma_e = pt.specify_shape(carried["theta"].matrices(theta)[1], own)
        y = RandomEffects(products)(phi, xi) + Residuals(products)(sigma_e, noise)
        X = products.projection
        white = less_columns(X, y) if products.flat else y + along_columns(X, b)
        return rng, mu + products.weights.unscaled(white)

    def center(self, *params: Any) -> Any:
        """Return where an unobserved variable starts."""
        return params[0]

    def logp(self, value: Any, *params: Any) -> Any:
        """Return the log-density."""
        mu, b, B, theta = params
        products = self.products
        if self.spectrum is not None:  # σ²(K + δI), in the rotated coordinates as `FastLMM` has it
            R = pt.constant(products.projection.R)
            L = pt.zeros_like(R) if B.type.shape == (0, 0) else covariance_root(B)
            return spectral_logp(self.spectrum, self.treatment, value, mu, b, L, theta[0], theta[1])
        residual = products.weights.scaled(value - mu)
        noise = self.theta.matrices(theta)[1]
        logp = products.log_density(packed(self.theta, products, theta, B), noise, residual, b)
        allowed = pt.all(pt.diag(noise) >= 0), pt.all(~pt.isnan(theta))
        return check_parameters(logp + products.constant, *allowed, msg="sigma2_e >= 0, no parameter NaN")


def packed(theta: Theta, products: TermProducts, values: Any, B: Any) -> Any:
    """Return the Σ_k packed in the order of the engine; the prior covariance of β is that of the last block."""
    matrices, _ = theta.matrices(values)
    if len(products.blocks) > len(matrices):
        matrices.append(B)
    return pt.concatenate([pt.as_tensor(matrices[k]).ravel() for k in products.order])


class StructuredLMM:
    r"""
    Y ~ N(Xβ, Σ_k Z_kG_kZ_kᵀ + σ²_eW⁻¹): several random-effects terms, each with a covariance structure.

    W = diag(w) are prior weights, 1 by default. With `residual` the residuals have variances by group, or covariances
    within a record: Σ_k Z_kG_kZ_kᵀ + W^-½ Z_e(I ⊗ Σ_e)Z_eᵀ W^-½.

    What depends on the data is reduced to cross-products once, with the largest grouping factor eliminated; an
    evaluation with its gradient then costs nothing that grows with n: O(levels) for one grouping factor, and the cube
    of the number of the other terms' effects.

    Parameters
    ----------
    name : str
    X : (n, r) array, DataFrame or sparse matrix, optional
        Fixed-effects design; an intercept is not added. A sparse matrix of SciPy, or a DataFrame of sparse columns,
        stays sparse where it has more than 20 million numbers: thousands of columns, such as a level of herd × year
        each, take no more than their entries.
    terms : list of Term
        `flmm.Term(group, flmm.covariance.scalar(v))`, and so on; their parameters may be random variables.
    sigma2_e : tensor_like
        Residual variance; or `residual`.
    residual : Term
        The residuals, in place of `sigma2_e`: its levels are records, which are independent, its columns the
        coordinates of a record, of which each row has one, and its covariance is Σ_e between them. Residual variances
        by group are `flmm.Term(row, flmm.covariance.diagonal(v), columns=indicators)`, of a record for each row and 0
        and 1 by group as `pandas.get_dummies` has them; those of several traits
        `flmm.Term(record, flmm.covariance.unstructured(S), columns=indicators)`, indicators of the trait: a record may
        lack any of them.
    observed : array or Series (n,), TermStatistics or KernelStatistics
        One response; or, where X and the terms are columns of `TermStatistics`, these, or what they were made from.
    mu : tensor_like (n,), optional
        A mean besides Xβ, such as an offset.
    weights : (n,) array or Series, optional
        Prior weights w: Var(e_i) = σ²_e/w_i. They are positive numbers, 1 by default.
    beta, beta_mean, beta_cov : tensor_like, optional
        As in `FastLMM`: by default β is integrated out under a flat prior (**improper along X**: draws of the node are
        error contrasts, Xᵀ(y - mu) = 0); `beta=` takes coefficients of the model; `beta_cov=`, `beta_mean=` integrate
        β ~ N(beta_mean, beta_cov) out. The last two are proper densities of y.
    design : MixedDesign, optional
        The formula that X and the terms were made from, by which new data are encoded like theirs.
    **kwargs
        As in any PyMC distribution: dims, initval …

    Raises
    ------
    ValueError
        If the rows of X, y and the terms do not fit, a term lacks parameters, the improper treatment has no data, or
        columns of `TermStatistics` come together with others. Unless exactly one of `sigma2_e` and `residual` is given,
        and each row is one coordinate of one record of the latter that no other row has.

    Notes
    -----
    The likelihood is that of mixed-model equations with blocked elimination (Bates et al. 2015,
    doi:10.18637/jss.v067.i01), its gradient is in closed form. Log-density and gradient are -inf and 0 where a Σ_k is
    not positive semi-definite, or Σ_e not positive definite.

    Several variances of the residual are evaluated by the sparse mixed-model equations, whose pattern does not depend
    on them: WᵀR⁻¹W is a sum of known products, one for each group, or for each pair of traits of each pattern of traits
    that records have.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> batch, day = np.repeat(list("abc"), 4), np.tile(["mon", "tue"], 6)
    >>> y = np.array([1.0, 2, 1, 3, 5, 6, 5, 7, 3, 4, 2, 4])
    >>> with pm.Model() as model:
    ...     v_batch, v_day, v_e = (
    ...         pm.HalfNormal(name, 5) for name in ("v_batch", "v_day", "v_e")
    ...     )
    ...     terms = [
    ...         flmm.Term(batch, flmm.covariance.scalar(v_batch), name="batch"),
    ...         flmm.Term(day, flmm.covariance.scalar(v_day), name="day"),
    ...     ]
    ...     node = flmm.StructuredLMM(
    ...         "y", X=np.ones((12, 1)), terms=terms, sigma2_e=v_e, observed=y
    ...     )
    >>> fit = flmm.find_reml(model, progressbar=False)
    >>> print(fit.theta.round(3).to_dict())
    {'batch': 4.036, 'day': 1.094, 'residual': 0.188}

    Residuals whose variance differs between the days:

    >>> import pandas as pd
    >>> with pm.Model() as model:
    ...     v_batch, v_e = pm.HalfNormal("v_batch", 5), pm.HalfNormal("v_e", 5, shape=2)
    ...     residual = flmm.Term(
    ...         np.arange(12), flmm.covariance.diagonal(v_e), columns=pd.get_dummies(day)
    ...     )
    ...     node = flmm.StructuredLMM(
    ...         "y",
    ...         X=np.ones((12, 1)),
    ...         terms=[flmm.Term(batch, flmm.covariance.scalar(v_batch), name="batch")],
    ...         residual=residual,
    ...         observed=y,
    ...     )
    >>> list(flmm.find_reml(model, progressbar=False).theta.index)
    ['batch', 'residual[mon]', 'residual[tue]']
    """

    def __new__(cls, name: str, *, terms: Sequence[Term], sigma2_e: Any = None, X: Any = None, observed: Any = None,
                residual: Term | None = None, **kwargs: Any) -> Any:  # fmt: skip
        """Register the distribution with the model of the context."""
        rows = as_term_statistics(observed)
        params, rest = _parametrise(terms, sigma2_e, X, rows, residual=residual, **kwargs)
        carried = rest["carried"]
        for term in carried["terms"]:
            require_labels(term.levels, f"the levels of term {term.name!r} of {name}", written="by")
        values = read_response(observed if rows is None else rows.y, carried["ids"], carried["products"].rows)
        return LMM(name, params, observed=values, **rest)

    @classmethod
    def dist(cls, *, terms: Sequence[Term], sigma2_e: Any = None, X: Any = None, **kwargs: Any) -> Any:
        """Return the distribution as a variable outside any model, for `pm.logp`, `pm.draw` or another distribution."""
        params, rest = _parametrise(terms, sigma2_e, X, None, **kwargs)
        return LMM.dist(params, **rest)


def _parametrise(
    terms: Sequence[Term], sigma2_e: Any, X: Any, rows: TermStatistics | None, *, mu: Any = None, beta: Any = None,
    beta_mean: Any = None, beta_cov: Any = None, design: Any = None, weights: Any = None,
    residual: Term | None = None, **kwargs: Any,
) -> tuple[list[Any], dict[str, Any]]:  # fmt: skip
    """Return the parameters of the random variable, and the other arguments of `LMM`."""
    terms = checked_terms(terms)
    ids, projection = aligned_rows(terms, X)
    _check_rows(rows, terms, X, ids, mu, weights)
    if (sigma2_e is None) == (residual is None):
        raise ValueError(
            "give exactly one of sigma2_e, the variance of all residuals, and residual, a Term of variances by group "
            "or of covariances within a record."
        )
    known = "it takes X, terms, sigma2_e, residual, mu, weights, beta, beta_mean, beta_cov, observed"
    refuse_unknown("StructuredLMM", kwargs, known)
    prior_weights = PriorWeights.read(weights, terms[0].n, ids)
    treatment, b, B = coefficients(projection, beta, beta_mean, beta_cov)
    proper = B.type.shape != (0, 0)
    noise = Scalar(double(sigma2_e), 1) if residual is None else _checked_residual(residual, terms, ids, rows)
    carried = _carried(terms, ids, projection, treatment, design, prior_weights, noise, rows, prior=proper)
    values = double(carried["theta"].pack(pt))
    return [read_mean(mu, ids, terms[0].n), b, B, values], {"kind": StructuredRV, "carried": carried, **kwargs}


def carried_by(
    terms: Sequence[Term], X: Any, design: Any, weights: Any, residual: Term | None = None
) -> dict[str, Any]:
    """Return what a variable carries whose β has a flat prior, of terms with any values of their parameters."""
    terms = checked_terms(terms)
    ids, projection = aligned_rows(terms, X)
    noise = Scalar(1.0, 1) if residual is None else _checked_residual(residual, terms, ids, None)
    return _carried(terms, ids, projection, "flat", design, PriorWeights.read(weights, terms[0].n, ids), noise)


def _checked_residual(residual: Any, terms: list[Term], ids: Any, rows: TermStatistics | None) -> Term:
    """Return the term of the residuals, of the rows of the other terms."""
    if rows is not None:
        raise ValueError(
            "residual= has a record for each observation, whose rows were not kept: rows of TermStatistics have one "
            "residual variance, sigma2_e."
        )
    if not isinstance(residual, Term):
        raise TypeError(
            f"residual must be a flmm.Term, got {type(residual).__name__}: "
            "flmm.Term(record, flmm.covariance.unstructured(S), columns=indicators of the trait)."
        )
    require_length(residual.n, terms[0].n, "residual", f"term {terms[0].name}")
    if residual.ids is not None and ids is not None and residual.ids != ids:
        raise ValueError("the rows of residual and of the terms have different ids or another order: take one table.")
    return residual


def _carried(
    terms: list[Term], ids: Any, projection: AnyProjection, treatment: Treatment, design: Any, weights: PriorWeights,
    noise: Any, rows: TermStatistics | None = None, *, prior: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return what is the same in each evaluation, by the names of the attributes of the random variable."""
    if design is not None:
        projection = projection.made_from(design.fixed)
    scaled = projection if weights.root is None else projection.scaled(weights.root)
    observations, precise = (None, np.inf) if rows is None else (rows.n, rows.largest_ratio)
    own = noise if isinstance(noise, Term) else None
    records = None if own is None else Records.of(own, ids)
    several = records is not None and records.width > 1
    products = products_of(
        terms, scaled, flat=treatment == "flat", weights=weights, prior=prior, observations=observations,
        largest_ratio=precise, records=records if several else None,
    )  # fmt: skip
    theta = Theta.of_terms(terms, noise) if own is None else Theta.of_terms(terms, own.blocks.block, own.columns)
    return {"treatment": treatment, "terms": tuple(terms), "theta": theta, "residual": own if several else None,
            "products": products, "projection": projection, "ids": ids, "design": design,
            "spectrum": _spectrum(theta, products, projection) if rows is None else None}  # fmt: skip


def _spectrum(theta: Theta, products: TermProducts, projection: AnyProjection) -> Spectrum | None:
    """
    Return the spectrum of K = ZZᵀ if the terms are σ²(K + δI), and K is worth an eigendecomposition.

    A grouping factor alone is eliminated at the cost of its levels, which the spectral engine does not beat when they
    are many; a known K costs the cube of its order in each evaluation unless it is diagonalised once.
    """
    block, weights = products.blocks[0], products.weights
    several = block.width > 1 or products.records.width > 1
    if several or theta.names != (theta.names[0], RESIDUAL) or len(theta.blocks[0].parameters) != 1:
        return None
    n, q = block.Z.shape
    if not products.diagonalised:
        return None
    if min(n, q) > _SPECTRUM_ORDER or n * q > _SPECTRUM_SIZE or projection.rank + 1 >= n:
        return None
    X = Labelled(np.asarray(projection.X), None, projection.coef) if projection.rank else None
    w = None if weights.root is None else weights.values
    return Spectrum.from_factor(weights.unscaled_rows(products.dense_incidence(0)[:, :, 0]), X, weights=w)


def _check_rows(
    rows: TermStatistics | None, terms: Sequence[Term], X: Any, ids: Any, mu: Any, weights: Any
) -> None:  # fmt: skip
    """Raise a ValueError unless all rows are those of the same statistics, or none is one."""
    if rows is None:
        if are_directions(ids):
            raise ValueError(
                "the terms or X are columns of TermStatistics, whose rows are fewer than the observations: give "
                "observed=statistics, these TermStatistics."
            )
        return
    labelled = {f"term {term.name!r}": term.ids for term in terms}
    if X is not None:
        labelled["X"] = read(X, "X", ndim=(1, 2)).ids
    if other := [name for name, own in labelled.items() if own != rows.ids]:
        raise ValueError(
            f"{', '.join(other)} and the data are of different rows: make X and the terms of columns of the same "
            "TermStatistics, statistics.X and statistics.Z[[...]], as the tables that they are."
        )
    if crossed := [term.name for term in terms if term.columns != ("1",)]:
        raise ValueError(
            f"term {crossed[0]!r} has columns=, products with which TermStatistics do not have: stream them as columns "
            "of Z, and give flmm.covariance.kronecker(...) over them."
        )
    if other := [term.name for term in terms if rows.closed and term.Z[[-1]].count_nonzero()]:
        raise ValueError(
            f"term {other[0]!r} is no linear combination of columns of Z: give a table, statistics.Z[['a']]; a single "
            "column statistics.Z['a'] would be a grouping factor."
        )
    if mu is not None:
        raise ValueError("mu has a value for each observation, whose rows were not kept: stream it as a column of X.")
    if weights is not None:
        raise ValueError(
            "weights have a value for each observation, whose rows were not kept: multiply the rows of X, Z and y by "
            "√w as they are streamed. Estimates are then the same; log-densities are those of √w y."
        )


def checked_terms(terms: Sequence[Term]) -> list[Term]:
    """Return terms of the same rows with names of their own; a ValueError says what is wrong with others."""
    terms = list(terms) if isinstance(terms, Sequence) else [terms]
    if not terms:
        raise ValueError("terms is empty: give at least one flmm.Term; without any it is ordinary least squares.")
    for term in terms:
        if not isinstance(term, Term):
            raise TypeError(
                f"terms must be flmm.Term objects, got {type(term).__name__}: "
                "flmm.Term(group, flmm.covariance.scalar(v))."
            )
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise ValueError(
            f"terms have the names {', '.join(names)}: give each a name of its own, flmm.Term(..., name=)."
        )
    for term in terms[1:]:
        require_length(term.n, terms[0].n, f"term {term.name}", f"term {terms[0].name}")
    return terms


def aligned_rows(terms: Sequence[Term], X: Any) -> tuple[Any, AnyProjection]:
    """Return the ids of the rows and the projection of X in their order."""
    parts = {f"term {term.name}": Labelled(np.zeros(0), term.ids, None) for term in terms}
    reference_name, ids = common_ids(**parts)
    for term in terms:
        if term.ids is not None and term.ids != ids:
            raise ValueError(
                f"the rows of term {term.name} and of {reference_name} have different ids or another order: "
                "build all terms from one table."
            )
    return read_fixed_effects(X, terms[0].n, ids, reference_name or "the terms")
