"""LatentLMM: responses that are not normal, η = Xβ + Σ Zu with β and u integrated out by Laplace's method."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
import scipy.sparse as sp
from pymc.distributions.dist_math import check_parameters
from pytensor.tensor.random.basic import integers

from pm_fastlmm.base.coordinates import require_labels
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import Theta
from pm_fastlmm.engines.algebra import along_columns, white_noise
from pm_fastlmm.engines.inputs import coefficients, double, read_mean, read_response, refuse_unknown
from pm_fastlmm.engines.latent.family_parameters import family_parameters, read_family
from pm_fastlmm.engines.latent.operations import LatentResponses, laplace_log_density
from pm_fastlmm.engines.latent.products import LatentProducts
from pm_fastlmm.engines.random_variable import LMM, LMMRV
from pm_fastlmm.engines.sparse.equations import SparseBlock
from pm_fastlmm.engines.structured.choice import require_memory_of, sparse_block
from pm_fastlmm.engines.structured.structuredlmm import aligned_rows, checked_terms
from pm_fastlmm.families.family import Family
from pm_fastlmm.spectrum.weights import UNWEIGHTED

_SEEDS = 2**31 - 1


class LatentRV(LMMRV):
    """
    Y from a family with η = mu + Xb + Σ Z_ku_k: inputs mu, b, B (the prior covariance of β, or none), θ and ψ.

    The op carries what does not change: the terms, the layout of θ and the equations with the family.
    """

    name = "LatentLMM"
    drawn = "NaN"
    no_distribution = "a response that is not normal has no distribution"
    extended_signature = "[rng],[size],(n),(r),(s,s),(p),(f)->[rng],(n)"
    terms: tuple[Term, ...]
    theta: Theta
    products: LatentProducts
    ids: Any
    design: Any

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Return the next generator and a draw, for each of a batch."""
        mu, b, B, theta, psi = params
        products: LatentProducts = carried["products"]
        q = sum(block.Z.shape[1] for block in products.blocks)
        rng, (xi,) = white_noise(rng, batch, q)
        rng, seeds = integers(0, _SEEDS, size=batch, rng=rng, return_next_rng=True)
        phi = packed(carried["theta"], products, theta, B)
        offset = mu if products.flat else mu + along_columns(products.projection, b)
        offset = pt.broadcast_to(offset, (*batch, products.rows))
        return rng, LatentResponses(products)(phi, psi, offset, xi, seeds)

    def center(self, *params: Any) -> Any:
        """Return where an unobserved variable starts: inside every support."""
        return 1.0

    def logp(self, value: Any, *params: Any) -> Any:
        """Return the approximate log-density."""
        mu, b, B, theta, psi = params
        products = self.products
        offset = mu if products.flat else mu + along_columns(products.projection, b)
        phi = packed(self.theta, products, theta, B)
        logp = laplace_log_density(products, phi, psi, offset, value)
        allowed = pt.all(~pt.isnan(theta)), pt.all(~pt.isnan(psi))
        return check_parameters(logp + products.constant, *allowed, msg="no parameter NaN")


def packed(theta: Theta, products: LatentProducts, values: Any, B: Any) -> Any:
    """Return the Σ_k packed; the prior covariance of β is that of the last block."""
    matrices, _ = theta.matrices(values)
    if len(products.blocks) > len(matrices):
        matrices.append(B)
    return pt.concatenate([pt.as_tensor(matrices[k]).ravel() for k in products.order])


class LatentLMM:
    r"""
    Y ~ family(g⁻¹(η)), η = mu + Xβ + Σ Z_ku_k, vec(u_k) ~ N(0, A_k ⊗ Σ_k): a generalised linear mixed model.

    β and the effects u are integrated out by Laplace's method,

    .. math:: \log \tilde p(y|\theta) = \sum_i \log p(y_i|\hat\eta_i) - \tfrac12 \hat u^\top G^{-1} \hat u
              - \tfrac12 \log|G| - \tfrac12 \log|H| + \tfrac r2 \log 2\pi,

    at the mode of (β, u), with H minus the Hessian there. NUTS walks in θ alone: standard deviations, correlations and
    the parameters of the family. H has the pattern of the mixed-model equations, so that a tree or a pedigree is never
    formed as a matrix; a K of markers is evaluated as an array.

    How far the approximation is from the likelihood depends on how much the data say of each effect. It is good where
    counts are large or records many, and has variances too low for binary data with a record or two for each level:
    `fit.check_laplace()` measures the bias, `RelatedEffects` makes a model without the approximation.

    Parameters
    ----------
    name : str
    family : str or Family
        "bernoulli", "binomial", "poisson", "negative_binomial", "gamma", "ordinal".
    link : str, optional
        "logit" (default), "probit" or "cloglog" of the first two, "logit" or "probit" of the last; the others have
        "log".
    terms : list of Term
        `flmm.Term(group, flmm.covariance.scalar(v))`, and so on, as of a `StructuredLMM`.
    X : (n, r) array, DataFrame or sparse matrix, optional
        Fixed-effects design; an intercept is not added. Of an ordinal response it has none: the cutpoints are that.
    trials : (n,) array or Series
        Of a binomial response, the number of trials of each row. New rows without a formula have one each.
    observed : array or Series (n,)
        The response: 0 and 1, counts of successes, counts, positive numbers, or ordered categories.
    mu : tensor_like (n,), optional
        A part of η besides Xβ + Zu, such as an offset: log exposure.
    beta, beta_mean, beta_cov : tensor_like, optional
        As in `StructuredLMM`: by default β is integrated out under a flat prior; `beta=` takes coefficients of the
        model, `beta_cov=`, `beta_mean=` integrate β ~ N(beta_mean, beta_cov) out.
    alpha : tensor_like
        Of the negative binomial, Var y = μ + μ²/α, and of the gamma, whose shape it is: Var y = μ²/α. As in PyMC.
    cutpoints : tensor_like (categories - 1,)
        Of an ordinal response, increasing: P(y ≤ k) = F(c_k - η). As in PyMC.
    design : MixedDesign, optional
        The formula that X and the terms were made from.
    **kwargs
        As in any PyMC distribution: dims …

    Raises
    ------
    ValueError
        If the rows of X, y and the terms do not fit, y has values that the family has not, trials or a parameter of the
        family lack or do not belong to it, or the improper treatment of β has no data.

    References
    ----------
    Breslow & Clayton (1993), doi:10.1080/01621459.1993.10594284; Skaug & Fournier (2006),
    doi:10.1016/j.csda.2006.03.005, of the exact gradient.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> herd = np.repeat(list("abcdef"), 4)
    >>> cases = np.array(
    ...     [2, 3, 4, 0, 3, 1, 1, 8, 2, 0, 2, 2, 1, 0, 2, 0, 5, 0, 3, 1, 0, 0, 1, 2]
    ... )
    >>> with pm.Model() as model:
    ...     sigma = pm.HalfNormal("sigma_herd", 1)
    ...     herds = flmm.Term(herd, flmm.covariance.scalar(sigma**2), name="herd")
    ...     node = flmm.LatentLMM(
    ...         "cases", family="poisson", X=np.ones((24, 1)), terms=[herds], observed=cases
    ...     )
    >>> fit = flmm.find_reml(model, progressbar=False)
    >>> print(fit.theta.round(2).to_dict())
    {'herd': 0.18}
    """

    def __new__(cls, name: str, *, family: Any, terms: Sequence[Term], X: Any = None, observed: Any = None,
                **kwargs: Any) -> Any:  # fmt: skip
        """Register the distribution with the model of the context."""
        terms = checked_terms(terms)
        ids, _ = aligned_rows(terms, X)
        values = read_response(observed, ids, terms[0].n, ndim=(1,))
        params, rest = _parametrise(terms, X, family, **kwargs)
        for term in terms:
            require_labels(term.levels, f"the levels of term {term.name!r} of {name}", written="by")
        own: Family = rest["carried"]["products"].family
        return LMM(name, params, observed=_response(own, values), **rest)

    @classmethod
    def dist(cls, *, family: Any, terms: Sequence[Term], X: Any = None, **kwargs: Any) -> Any:
        """Return the distribution as a variable outside any model, for `pm.logp`, `pm.draw` or another distribution."""
        params, rest = _parametrise(checked_terms(terms), X, family, **kwargs)
        return LMM.dist(params, **rest)


def _response(family: Family, values: Any) -> Any:
    """Return data that the family has, as floats; a data container as it is, after a look at what it holds now."""
    if hasattr(values, "get_value"):
        family.read(np.asarray(values.get_value(), dtype=float))
    return family.read(values) if isinstance(values, np.ndarray) else values


def _parametrise(
    terms: list[Term], X: Any, family: Any, *, link: str | None = None, trials: Any = None, mu: Any = None,
    beta: Any = None, beta_mean: Any = None, beta_cov: Any = None, design: Any = None, **kwargs: Any,
) -> tuple[list[Any], dict[str, Any]]:  # fmt: skip
    """Return the parameters of the random variable, and the other arguments of `LMM`."""
    ids, projection = aligned_rows(terms, X)
    own = read_family(family, link, trials, kwargs, terms[0].n, ids)
    psi = family_parameters(own, kwargs)
    refuse_unknown(
        "LatentLMM", kwargs, "it takes family, link, X, terms, trials, mu, beta, beta_mean, beta_cov, observed and the "
        "parameters of the family, alpha or cutpoints",
    )  # fmt: skip
    treatment, b, B = coefficients(projection, beta, beta_mean, beta_cov)
    carried = carried_by(terms, projection, own, ids, design, flat=treatment == "flat", prior=B.type.shape != (0, 0))
    theta = double(carried["theta"].pack(pt))
    return [read_mean(mu, ids, terms[0].n), b, B, theta, psi], {"kind": LatentRV, "carried": carried, **kwargs}


def carried_by(
    terms: Sequence[Term], projection: Any, family: Family, ids: Any, design: Any, *, flat: bool = True,
    prior: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return what is the same in each evaluation, by the names of the attributes of the random variable."""
    if design is not None:
        projection = projection.made_from(design.fixed)
    blocks = [sparse_block(term, UNWEIGHTED) for term in terms]
    if prior:
        blocks.append(SparseBlock(sp.csr_array(projection.X), 1, projection.rank))
    products = LatentProducts.of(blocks, projection, family, flat=flat)
    if not products.dense:
        require_memory_of(products)
    return {"treatment": "flat" if flat else "proper", "terms": tuple(terms),
            "theta": Theta.of_terms(terms, None), "products": products, "projection": projection, "ids": ids,
            "design": design}  # fmt: skip
