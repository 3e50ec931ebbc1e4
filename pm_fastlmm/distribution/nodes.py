"""`lmm_nodes`: the only way to find the nodes of a model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
from pymc.pytensorf import constant_fold
from pytensor.compile.sharedvalue import SharedVariable

from pm_fastlmm._arrays import Ids
from pm_fastlmm._copies import PartOfModel
from pm_fastlmm._display import Described, listed
from pm_fastlmm.covariance.fourier import FourierBasis
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import Theta
from pm_fastlmm.distribution.dense import DenseRV
from pm_fastlmm.distribution.family_variables import FamilyRV
from pm_fastlmm.distribution.fourier import FourierRV
from pm_fastlmm.distribution.structured import StructuredRV
from pm_fastlmm.distribution.variables import LMMRV, FlatLMMRV, ProperLMMRV, RotatedProperLMMRV, Treatment, statistic
from pm_fastlmm.likelihood.family import FamilySpectra
from pm_fastlmm.linalg.feature_products import FourierProducts
from pm_fastlmm.linalg.mixed import MixedProducts
from pm_fastlmm.linalg.projection import Projection
from pm_fastlmm.linalg.rotated import Rotated
from pm_fastlmm.linalg.spectrum import Spectrum
from pm_fastlmm.spectrum_family import SpectrumFamily


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LMMNode(PartOfModel, Described):
    """
    What a linear mixed model node of a model has, whichever engine evaluates it.

    Attributes
    ----------
    name : str
    rv : TensorVariable
        The random variable.
    treatment : "flat" or "proper"
        How β is treated: "proper" is an explicit β or one with a Gaussian prior.
    mu, beta_mean : TensorVariable or None
        The mean besides Xβ; for "proper" the mean of β.
    observed : array or None
        The data: y (…, n), or the statistic of a `Rotated`, [z, rss] or [z, rss, y₁].
    projection : Projection
        QR of X.
    ids : tuple or None
    """

    name: str
    rv: Any
    treatment: Treatment
    mu: Any
    beta_mean: Any
    observed: Any
    projection: Projection
    ids: Ids | None

    @property
    def n(self) -> int:
        """Number of observations."""
        return int(self.projection.V.shape[0])

    def __repr__(self) -> str:
        """Show the name, the sizes and what the covariance is made of."""
        facts = self._facts()
        return f"{type(self).__name__}({facts.pop('name')!r}: {', '.join(f'{k}: {v}' for k, v in facts.items())})"

    def _facts(self) -> dict[str, Any]:
        treatment = "flat prior" if self.treatment == "flat" else "explicit, or Gaussian prior"
        return {
            "name": self.name,
            "observations": self.n,
            "data": "none" if self.observed is None else "observed",
            "fixed effects": listed(self.projection.coef),
            "β": treatment,
            **self._covariance_facts(),
        }

    def _covariance_facts(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SpectralNode(LMMNode):
    """
    A FastLMM node.

    Attributes
    ----------
    spectrum : Spectrum
    sigma2_g, sigma2_e : TensorVariable
        The variances, as functions of the model's variables.
    beta_root : TensorVariable or None
        For "proper" a root of the prior covariance of β, 0 for an explicit β.
    given : Rotated or None
        The `Rotated` that the node was built with, which has y along X besides the statistic.
    """

    spectrum: Spectrum
    sigma2_g: Any
    sigma2_e: Any
    beta_root: Any
    given: Rotated | None

    @property
    def n(self) -> int:
        """Number of observations."""
        return self.spectrum.n

    def rotated(self, mu: Any = 0.0) -> Rotated:
        """Return the observed data less mu, rotated."""
        s = self.spectrum
        if self.given is not None:
            if np.array_equal(self.observed, statistic(self.given, self.treatment)):
                return self.given
            z = self.observed[..., : s.rank]
            rss = self.observed[..., s.rank] if s.nullity else np.zeros(z.shape[:-1])
            y1 = np.full((*z.shape[:-1], s.projection.rank), np.nan)
            if self.treatment == "proper":
                y1 = self.observed[..., s.rank + bool(s.nullity) :]
            return Rotated(s, z, rss, y1, (z**2).sum(-1) + rss, None)
        values = self.observed - mu
        names = tuple(map(str, range(values.shape[0]))) if values.ndim == 2 else None
        return Rotated.from_values(s, values.T, names)

    def _covariance_facts(self) -> dict[str, Any]:
        return {"rank of K": self.spectrum.rank}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StructuredNode(LMMNode):
    """
    A StructuredLMM node.

    Attributes
    ----------
    terms : tuple of Term
    layout : Theta
        Names, bounds and structure of θ.
    theta : TensorVariable
        θ as a function of the model's variables.
    products : MixedProducts
    beta_cov : TensorVariable
        Prior covariance of β, (0, 0) when it has none.
    design : MixedDesign or None
        The formula that the terms were made from.
    spectrum : Spectrum or None
        Of the kernel, when the terms are σ²(K + δI).
    """

    terms: tuple[Term, ...]
    layout: Theta
    theta: Any
    products: MixedProducts
    beta_cov: Any
    design: Any
    spectrum: Spectrum | None

    @property
    def n(self) -> int:
        """Number of observations."""
        return self.products.n

    def _covariance_facts(self) -> dict[str, Any]:
        return {"terms": "; ".join(f"{term.name} ({len(term.levels)} levels)" for term in self.terms)}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FamilyNode(LMMNode):
    """
    A FamilyLMM node.

    Attributes
    ----------
    family : SpectrumFamily
    lengthscale, sigma2_g, sigma2_e : TensorVariable
        As functions of the model's variables.
    """

    family: SpectrumFamily
    lengthscale: Any
    sigma2_g: Any
    sigma2_e: Any

    def _covariance_facts(self) -> dict[str, Any]:
        low, high = self.family.lengthscale
        return {"lengthscale": f"{low:.4g} to {high:.4g}"}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DenseNode(LMMNode):
    """
    A DenseLMM node.

    Attributes
    ----------
    V : TensorVariable (n, n)
        The covariance as a function of the model's variables.
    beta_cov : TensorVariable
        Prior covariance of β, (0, 0) when it has none.
    """

    V: Any
    beta_cov: Any


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FourierNode(LMMNode):
    """
    A FourierLMM node; its observed data are [b̃, c̃].

    Attributes
    ----------
    basis : FourierBasis
    products : FourierProducts
        Of the features with each other, X projected out.
    spectra : FamilySpectra or None
        At the nodes of the lengthscale, when that is all that the kernel has.
    log_weights : TensorVariable (M,)
        log d_j as a function of the model's variables.
    lengthscale : TensorVariable or None
    sigma2_g, sigma2_e : TensorVariable
    """

    basis: FourierBasis
    products: FourierProducts
    spectra: FamilySpectra | None
    log_weights: Any
    lengthscale: Any
    sigma2_g: Any
    sigma2_e: Any

    @property
    def n(self) -> int:
        """Number of observations."""
        return self.products.n

    def _covariance_facts(self) -> dict[str, Any]:
        return {"kernel": self.basis.kernel.name, "features": self.basis.size}


def lmm_nodes(model: pm.Model) -> list[LMMNode]:
    """
    Return the FastLMM, FamilyLMM, StructuredLMM, DenseLMM and FourierLMM nodes of a model.

    They are found in its order, also after `do`, `observe`, freezing and copying.
    """
    nodes = [_node(model, rv) for rv in model.basic_RVs]
    return [node for node in nodes if node is not None]


def _node(model: pm.Model, rv: Any) -> LMMNode | None:
    op = rv.owner.op
    if not isinstance(op, LMMRV | FamilyRV | StructuredRV | DenseRV | FourierRV):
        return None
    _, _, *params = rv.owner.inputs
    data = _observed(model, rv)
    if isinstance(op, StructuredRV):
        mu, b, B, theta = params
        common = (rv.name, rv, op.treatment, mu, b, data, op.products.projection, op.ids)
        return StructuredNode(*common, op.terms, op.theta, theta, op.products, B, op.design, op.spectrum)
    if isinstance(op, FamilyRV):
        s = op.family
        return FamilyNode(rv.name, rv, op.treatment, None, None, data, s.projection, s.ids, s, *params)
    if isinstance(op, DenseRV):
        mu, b, B, V = params
        return DenseNode(rv.name, rv, op.treatment, mu, b, data, op.projection, op.ids, V, B)
    if isinstance(op, FourierRV):
        log_weights, ell, g, e = params
        common = (rv.name, rv, "flat", None, None, data, op.products.projection, None)
        lengthscale = ell[0] if op.spectra is not None else None
        return FourierNode(*common, op.basis, op.products, op.spectra, log_weights, lengthscale, g, e)
    mu = b = root = None
    if isinstance(op, ProperLMMRV):
        mu, b, root, g, e = params[:5]
    elif isinstance(op, RotatedProperLMMRV):
        b, root, g, e = params[:4]
    elif isinstance(op, FlatLMMRV):
        mu, g, e = params[:3]
    else:
        g, e = params[:2]
    spectrum = op.spectrum
    common = (rv.name, rv, op.treatment, mu, b, data, spectrum.projection, spectrum.ids)
    return SpectralNode(*common, spectrum, g, e, root, op.rotated)


def _observed(model: pm.Model, rv: Any) -> Any:
    if rv not in model.observed_RVs:
        return None
    value = model.rvs_to_values[rv]
    data = value.get_value() if isinstance(value, SharedVariable) else constant_fold([value])[0]
    return np.ma.filled(data, np.nan)  # pm.Data masks what is NaN
