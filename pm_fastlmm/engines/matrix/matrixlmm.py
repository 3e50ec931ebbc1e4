"""MatrixLMM: several traits of the same rows on one kernel, Σ_g ⊗ K + Σ_e ⊗ I."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pm_fastlmm.base.arrays import FloatArray, align, columns_in_order, read, require_range, shown
from pm_fastlmm.base.coordinates import require_unique
from pm_fastlmm.base.labels import Entries
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.incidence import Factor
from pm_fastlmm.covariance.matrices import unstructured
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import Theta
from pm_fastlmm.engines.inputs import coefficients, double, known_values, refuse_unknown
from pm_fastlmm.engines.matrix.kernel import KernelOfSpectrum
from pm_fastlmm.engines.matrix.variables import MatrixDistribution, MatrixLMMRV
from pm_fastlmm.engines.records import Records
from pm_fastlmm.engines.traits.products import TraitProducts
from pm_fastlmm.spectrum.spectrum import Spectrum, require_spectrum

KERNEL = "K"  # the name of the term


class MatrixLMM:
    r"""
    vec(Y) ~ N(vec(XB), Σ_g ⊗ K + Σ_e ⊗ I): several traits of the same rows on one kernel.

    Parameters
    ----------
    name : str
        Name of the variable.
    spectrum : Spectrum
        K and X, factored once, with prior weights if there are any. X is the same for all traits; each has its own
        coefficients.
    Sigma_g, Sigma_e : tensor_like (t, t), or Covariance
        Between traits: of what K relates, and of the residuals of a row. Any expression of random variables, as from
        `pm.LKJCholeskyCov`; or a structure, `covariance.diagonal(v)`, `covariance.factor_analytic(loadings, psi)`.
        Σ_g may be singular, Σ_e not.
    observed : array or DataFrame
        Y, with a trait in each row, (t, n), as PyMC has batches; of a DataFrame traits are the columns, (n, t), and
        rows are aligned by id, columns by the names of the traits. Entries that are NaN were not observed: the density
        is that of the others, exactly.
    traits : sequence of str, optional
        Their names. Default: the coordinates of the first of `dims`, the columns of a DataFrame, or "0", "1", …
    mu : tensor_like (t, n), optional
        Mean besides XB.
    beta : tensor_like (t, r), optional
        Coefficients of each trait. By default B is integrated out under a flat prior, so that **the density is improper
        along X**, as in `FastLMM`.
    beta_mean, beta_cov : tensor_like, optional
        Prior mean, (t, r) or a number, and covariance (t · r, t · r), of the coefficients of one trait after another.
    **kwargs
        As in any PyMC distribution: dims ("trait", "obs"), initval …

    Raises
    ------
    ValueError
        If shapes or ids do not fit, a trait has no entries, or its rows do not determine its coefficients.

    Notes
    -----
    Rows of UᵀY, rotated by the eigenvectors of K across X, are independent, z_i ~ N(0, λ_iΣ_g + Σ_e). A rotation of the
    traits, TᵀΣ_eT = I and TᵀΣ_gT = diag(d), makes traits independent too:

        ℓ = -½[p t log 2π + p log|Σ_e| + Σ log s_ij + Σ w_ij²/s_ij],   W = UᵀYT,   s_ij = λ_id_j + 1

    with its gradient in closed form, O(p t² + t³). M entries that were not observed are integrated out, at O(M²p t) for
    an evaluation: with thousands of them, or records of traits in different rows, write the model in rows of one trait
    each, "y ~ 0 + trait + (0 + trait | animal)" with residual="(0 + trait | record)".

    Draws of the variable have all entries, those that were not observed too.

    References
    ----------
    Zhou and Stephens (2014), doi:10.1038/nmeth.2848. Lippert et al. (2014), doi:10.1101/003905.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(1)
    >>> G = rng.normal(size=(50, 80))
    >>> K = G @ G.T / 80
    >>> u = np.linalg.cholesky(K) @ rng.normal(size=(50, 2)) @ [[1.0, 0.6], [0.0, 0.8]]
    >>> Y = u + rng.normal(size=(50, 2))
    >>> spectrum = flmm.Spectrum.from_covariance(K, np.ones((50, 1)))
    >>> with pm.Model(coords={"trait": ["milk", "fat"], "obs": range(50)}) as model:
    ...     g, _, _ = pm.LKJCholeskyCov("g", n=2, eta=2, sd_dist=pm.HalfNormal.dist(2, shape=2))
    ...     e, _, _ = pm.LKJCholeskyCov("e", n=2, eta=2, sd_dist=pm.HalfNormal.dist(2, shape=2))
    ...     node = flmm.MatrixLMM(
    ...         "Y",
    ...         spectrum=spectrum,
    ...         Sigma_g=g @ g.T,
    ...         Sigma_e=e @ e.T,
    ...         observed=Y.T,
    ...         dims=("trait", "obs"),
    ...     )
    >>> fit = flmm.find_reml(model, progressbar=False)
    >>> list(fit.theta.index)[:3]
    ['K[milk]', 'K[milk, fat]', 'K[fat]']
    """

    def __new__(
        cls, name: str, *, spectrum: Spectrum, Sigma_g: Any, Sigma_e: Any, observed: Any = None, **kwargs: Any
    ) -> Any:  # fmt: skip
        """Register the distribution with the model of the context."""
        params, rest, values = _parametrise(spectrum, Sigma_g, Sigma_e, observed, **kwargs)
        return MatrixDistribution(name, params, observed=values, **rest)

    @classmethod
    def dist(cls, *, spectrum: Spectrum, Sigma_g: Any, Sigma_e: Any, **kwargs: Any) -> Any:
        """Return the distribution as a variable outside any model, for `pm.logp`, `pm.draw` or another distribution."""
        params, rest, _ = _parametrise(spectrum, Sigma_g, Sigma_e, None, **kwargs)
        return MatrixDistribution.dist(params, **rest)


def _parametrise(
    spectrum: Spectrum, Sigma_g: Any, Sigma_e: Any, observed: Any, *, traits: Sequence[str] | None = None,
    mu: Any = None, beta: Any = None, beta_mean: Any = None, beta_cov: Any = None, design: Any = None, **kwargs: Any,
) -> tuple[list[Any], dict[str, Any], Any]:  # fmt: skip
    """Return the parameters of the random variable, the other arguments of `LMM`, and the data."""
    require_spectrum(spectrum)
    known = "it takes spectrum, Sigma_g, Sigma_e, traits, mu, beta, beta_mean, beta_cov, observed"
    refuse_unknown(
        "MatrixLMM", kwargs, known,
        weights="they are in the spectrum: flmm.Spectrum.from_covariance(K, X, weights=w).",
    )  # fmt: skip
    structures = [_structure(value, what) for value, what in ((Sigma_g, "Sigma_g"), (Sigma_e, "Sigma_e"))]
    t = _number_of_traits(structures)
    asked = tuple(map(str, traits or _coordinates(kwargs.get("dims")) or ())) or None
    values, names = read_traits(observed, spectrum, t, asked)
    labels = asked or names or tuple(map(str, range(t)))
    require_unique(labels, "the names of the traits")
    if len(labels) != t:
        raise ValueError(f"traits names {len(labels)} traits, {shown(labels)}, but Sigma_e is of {t}.")
    seen = np.ones((t, spectrum.n), dtype=bool) if values is None else ~np.isnan(values)
    carried = carried_by(spectrum, labels, seen, structures, flat=beta is None and beta_cov is None,
                         prior=beta_cov is not None, design=design)  # fmt: skip
    size = t, spectrum.projection.rank
    flat_beta, flat_mean = (
        None if b is None else _one_after_another(b, what, size)
        for b, what in ((beta, "beta"), (beta_mean, "beta_mean"))
    )
    carried["treatment"], b, B = coefficients(carried["projection"], flat_beta, flat_mean, beta_cov)
    theta = double(carried["theta"].pack(pt))
    data = observed if isinstance(observed, Variable) and seen.all() else None if values is None else _filled(values)
    return [_mean(mu, spectrum, t), b, B, theta], {"kind": MatrixLMMRV, "carried": carried, **kwargs}, data


def carried_by(
    spectrum: Spectrum, traits: tuple[str, ...], seen: Any, structures: Sequence[Covariance], *, flat: bool,
    prior: bool = False, design: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what the variable carries, and a node has, of traits that were observed where `seen` (t, n)."""
    _require_entries(traits, seen, spectrum)
    products = TraitProducts.of(spectrum, traits, seen, flat=flat, prior=prior)
    trait, row = products.records.coordinate, products.records.record
    projection = products.unweighted.within(spectrum.design.columns.of_traits(traits))
    if design is not None:
        projection = projection.made_from(design.fixed)
    kernel = KernelOfSpectrum(spectrum)
    by = Factor(row, kernel.labels, None, None, order_given=True)
    indicators = pd.DataFrame(np.eye(len(traits))[trait], columns=list(traits))
    terms = Term(by, structures[0], columns=indicators, across=kernel, name=KERNEL)
    residual = Term(by, structures[1], columns=indicators, name="row")
    products = replace(products, records=Records(row, trait, Records.of(residual, None).mixes))
    return {
        "treatment": "flat" if flat else "proper", "terms": (terms,), "residual": residual, "products": products,
        "complete": products.complete, "projection": projection, "spectrum": spectrum, "design": design,
        "theta": Theta.of_terms([terms], residual.blocks.block, residual.columns),
        "ids": Entries.of(traits, kernel.labels, trait, row),
    }  # fmt: skip


def read_traits(
    observed: Any, spectrum: Spectrum, t: int | None, traits: tuple[str, ...] | None = None
) -> tuple[FloatArray | None, tuple[str, ...] | None]:
    """
    Return Y (t, n) in the order of the spectrum, NaN where it was not observed, and the names of labelled traits.

    Columns with names are brought into the order of `traits`, if these are known.

    Raises
    ------
    ValueError
        If the ids, the names or the shape do not fit, or a value is infinite.
    """
    if observed is None:
        return None, None
    values = known_values(observed)
    if values is None:
        raise ValueError("observed is an expression of the model: give the data themselves, or pm.Data.")
    if isinstance(values, np.ma.MaskedArray):
        values = np.asarray(np.ma.filled(values.astype(float), np.nan))
    labelled = read(values, "observed", ndim=(2,))
    by_columns = labelled.ids is not None or hasattr(values, "columns")
    if by_columns:
        labelled = replace(labelled, values=columns_in_order(labelled, traits, name="observed"))
    Y = labelled.take(align(spectrum.ids, labelled, name="observed", reference_name="the spectrum"))
    if by_columns:
        Y = Y.T
    if Y.shape[-1] != spectrum.n or t not in (None, len(Y)):
        wanted = f"({t or 't'}, {spectrum.n})"
        raise ValueError(
            f"observed has the shape {np.shape(values)}, but Y must be {wanted}, a trait in each row: transpose an "
            "array, or give a DataFrame whose columns are the traits."
        )
    if np.isinf(Y).any():
        raise ValueError("observed has infinite values: use NaN for entries that were not observed.")
    require_range(np.nan_to_num(Y), "observed")
    return np.asarray(Y, dtype=float), labelled.names if by_columns else None


def _structure(value: Any, what: str) -> Covariance:
    """Return the covariance between traits, of any symmetric matrix unless it is a structure."""
    if isinstance(value, Covariance):
        if value.size is None:
            raise ValueError(f"{what} is a structure without a size: give it size=, the number of traits.")
        return value
    if getattr(value, "ndim", np.ndim(value)) != 2:
        raise ValueError(f"{what} must be a matrix (t, t), or a structure such as flmm.covariance.diagonal(v).")
    return unstructured(value if isinstance(value, Variable) else np.asarray(value, dtype=float))


def _number_of_traits(structures: Sequence[Covariance]) -> int:
    sizes = [int(structure.size) for structure in structures]
    if sizes[0] != sizes[1]:
        raise ValueError(f"Sigma_g is of {sizes[0]} traits and Sigma_e of {sizes[1]}: they are of the same traits.")
    return sizes[0]


def _coordinates(dims: Any) -> Any:
    """Return the coordinates of the dimension of the traits, None where there are none."""
    model = pm.Model.get_context(error_if_none=False)
    return None if model is None or dims is None or isinstance(dims, str) else model.coords.get(dims[0])


def _require_entries(traits: tuple[str, ...], seen: Any, spectrum: Spectrum) -> None:
    counts = seen.sum(axis=1)
    if few := [f"{trait} ({count})" for trait, count in zip(traits, counts, strict=True) if count <= len(traits)]:
        raise ValueError(
            f"of {spectrum.n} rows these traits were observed in no more than there are traits: {shown(few)}. Leave "
            "them out."
        )


def _one_after_another(beta: Any, what: str, size: tuple[int, int]) -> Any:
    """Return coefficients (t, r) of one trait after another; a number stays."""
    beta = double(beta)
    if beta.type.ndim == 2:
        _require_shape(beta, what, size)
    return beta.ravel() if beta.type.ndim else beta


def _mean(mu: Any, spectrum: Spectrum, t: int) -> Any:
    mu, size = double(0.0 if mu is None else mu), (t, spectrum.n)
    if mu.type.ndim == 0:
        return pt.full(size, mu)
    _require_shape(mu, "mu", size, broadcast=True)
    return pt.broadcast_to(mu, size)


def _require_shape(value: Any, what: str, size: tuple[int, int], *, broadcast: bool = False) -> None:
    """Raise a ValueError for an array of another shape, so far as it is known: of as many values, if transposed."""
    given = value.type.shape
    fits = (d in (None, n) or (broadcast and d == 1) for d, n in zip(given[::-1], size[::-1], strict=False))
    if len(given) > 2 or not all(fits):
        raise ValueError(
            f"{what} must be {size}, a trait in each row, got shape {given}: transpose what has the traits in columns."
        )


def _filled(values: FloatArray) -> FloatArray:
    """Return Y with the mean of its trait where it was not observed, which the density does not look at."""
    return np.where(np.isnan(values), np.nanmean(values, axis=1, keepdims=True), values)
