"""How a model of several traits is evaluated: as one kernel of all traits, or in rows of one trait each."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytensor.tensor as pt

from pm_fastlmm.base.arrays import FloatArray, Labelled, labels_of, read, shown
from pm_fastlmm.base.choices import Negative
from pm_fastlmm.base.coordinates import require_labels, require_unique
from pm_fastlmm.base.spelling import places
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.engines.matrix.matrixlmm import KERNEL, MatrixLMM
from pm_fastlmm.engines.matrix.node import MatrixNode
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.models.design import Design
from pm_fastlmm.models.deviations import WIDTH, Deviations, column_scales, require_priors
from pm_fastlmm.models.formulas.names import plain_name
from pm_fastlmm.models.lmm_model import mixed_model
from pm_fastlmm.models.mixed_parts import Part, parts_of
from pm_fastlmm.models.mixed_terms import FormulaVariables, mixed_node, relations
from pm_fastlmm.models.named_terms import known_variances
from pm_fastlmm.models.trait_deviations import residual_deviations
from pm_fastlmm.models.traits_design import RESPONSE, TraitsDesign
from pm_fastlmm.spectrum.responses import read_response, response_name
from pm_fastlmm.spectrum.spectrum import Spectrum, require_spectrum


class OneKernel(NamedTuple):
    """
    Several traits of the rows of one kernel.

    Attributes
    ----------
    spectrum : Spectrum
    Y : (t, n) array
        NaN where it was not observed.
    traits : tuple of str
    deviations : (t,) array
        What least squares leave of each trait.
    design : MixedDesign or None
        Of a formula.
    """

    spectrum: Spectrum
    Y: FloatArray
    traits: tuple[str, ...]
    deviations: FloatArray
    design: Any = None

    def model(self, priors: Mapping[str, Any], name: str | None) -> pm.Model:
        """Build the model."""
        parts = self._parts
        require_priors(priors, [prior for part in parts for prior in part.priors])
        s = self.spectrum
        require_labels(s.ids, "the ids of the records")
        coords = {"trait": list(self.traits), "obs": list(s.ids if s.ids is not None else range(s.n))}
        scales = WIDTH * self.deviations
        own = scales * math.sqrt(s.mean_weight / s.mean_diagonal), scales * math.sqrt(s.mean_weight)
        with pytensor.config.change_flags(traceback__limit=0), pm.Model(coords=coords) as model:
            variables = Deviations(1.0, priors)
            Sigma = [variables.matrix(p, c, self.traits, "trait") for p, c in zip(parts, own, strict=True)]
            _add_h2([model[f"sigma_{part.suffix}"] for part in parts], s.mean_diagonal)
            MatrixLMM(
                name or RESPONSE, spectrum=s, Sigma_g=Sigma[0], Sigma_e=Sigma[1], traits=self.traits, observed=self.Y,
                design=self.design, dims=("trait", "obs"),
            )  # fmt: skip
        return model

    @property
    def _parts(self) -> list[Part]:
        """What is estimated, of the kernel and of the residuals."""
        t = len(self.traits)
        return [Part(suffix, tuple(range(t)), t > 1) for suffix in (KERNEL, "e")]

    def node(self) -> MatrixNode:
        """Return the node of the model, whose parameters are numbers to fit."""
        return MatrixNode.from_spectrum(RESPONSE, self.spectrum, self.Y, self.traits, self.design)

    def variables(self, node: Any) -> FormulaVariables:
        """Return the map from θ to the free variables of the model."""
        return FormulaVariables(self._parts, node.layout)


class Stacked(NamedTuple):
    """
    Rows of one trait of one record each, whose terms have an effect for each trait.

    Attributes
    ----------
    design : TraitsDesign
    between : list
        The known covariance of each term, None without one.
    deviations : (t,) array
        What least squares leave of each trait.
    """

    design: TraitsDesign
    between: list[Covariance | None]
    deviations: FloatArray

    def model(self, priors: Mapping[str, Any], name: str | None) -> pm.Model:
        """Build the model."""
        variances = self._known_variances()
        scales = self._scales(variances) if len(self.design.traits) > 1 else None
        model = mixed_model(self.design.mixed, self.between, priors, name, scales)
        pairs = zip(self.design.mixed.random, self.between, strict=True)
        related = [random.group for random, K in pairs if K is not None and random.group in variances]
        columns = {random.columns for random in self.design.mixed.random}
        if len(related) == 1 and columns <= {("Intercept",), self.design.traits}:
            parts = {group: pt.square(model[f"sigma_{group}"]) * variance for group, variance in variances.items()}
            model.add_coord("trait", list(self.design.traits))
            with model:
                total = sum(parts.values()) + pt.square(model["sigma_e"]) / self._mean_weight
                pm.Deterministic("h2", pt.atleast_1d(parts[related[0]] / total), dims="trait")
        return model

    @property
    def _mean_weight(self) -> float:
        w = self.design.mixed.weights
        return 1.0 if w is None else float(w.mean())

    def _known_variances(self) -> dict[str, float]:
        """Return by group the variance that σ² = 1 gives an observation on average, or one of mean weight."""
        mixed = self.design.mixed
        w = np.ones(len(mixed.y)) if mixed.weights is None else mixed.weights / self._mean_weight
        pairs = zip(mixed.random, self.between, strict=True)
        return {
            member.group: float(np.mean(w * (1.0 if K is None else known_variances(member, K))))
            for random, K in pairs
            for member in random.members
        }

    def _scales(self, variances: Mapping[str, float]) -> dict[str, FloatArray]:
        """Return the scales of standard deviations by name, those of a column within its trait."""
        design, s = self.design, WIDTH * self.deviations
        count = np.bincount(design.trait)
        share = np.sqrt(count / len(design.trait))
        out = {"sigma_e": s * math.sqrt(self._mean_weight)}
        for random in design.mixed.random:
            for part in parts_of(random):
                scales = []
                for member, columns in random.by_member(part.columns):
                    trait = design.trait[np.argmax(member.values[:, list(columns)] != 0, axis=0)]
                    c = column_scales(member, columns) / math.sqrt(variances[member.group])
                    scales.append(s[trait] * share[trait] * c)
                out[f"sigma_{part.suffix}"] = np.concatenate(scales)
        return out

    def node(self) -> StructuredNode:
        """Return the node of the model, whose parameters are numbers to fit."""
        return mixed_node(self.design.mixed, self.between)

    def variables(self, node: Any) -> FormulaVariables:
        """Return the map from θ to the free variables of the model."""
        return FormulaVariables.of(self.design.mixed, node.layout)


type Route = OneKernel | Stacked


def read_traits_model(
    formula: Any, data: Any = None, *, X: Any = None, K: Any = None, W: Any = None, spectrum: Any = None,
    individual: Any = None, known: Mapping[str, Any] | None = None, weights: Any = None, negative: Negative = "error",
) -> Route:  # fmt: skip
    """
    Return how a model of several traits is evaluated: with one K of rows alone by its spectrum.

    Raises
    ------
    ValueError
        If arguments do not go together, or as `traits_model`.
    """
    if not isinstance(formula, str):
        of_formula = {"data": data, "individual": individual, "known": known}
        if given := [name for name, value in of_formula.items() if value is not None]:
            raise ValueError(
                f"{shown(given)} belongs to a formula, 'milk + fat ~ age': Y has X=, and K= or W= of its rows."
            )
        return _of_arrays(formula, X, K, W, spectrum, weights, negative)
    if X is not None or spectrum is not None:
        raise ValueError("X and spectrum are given with Y itself: a formula has its own X, give K= or W= beside it.")
    kernel = K is not None or W is not None
    design = TraitsDesign.from_formula(formula, data, weights=weights)
    if kernel and individual is None and not design.mixed.random:
        if known:
            raise ValueError(
                f"known names {shown(list(known))}, but the formula has no random terms: K= is of its rows."
            )
        return _of_kernel(design, K, W, negative)
    known = dict(known or {})
    if kernel:
        group, data = _group(individual, data)
        known[group] = _known(K, W, data.index if individual is None else None)
        with warnings.catch_warnings(action="ignore"):  # the formula was read before, and has warned
            more = TraitsDesign.from_formula(f"{formula} + (1 | {plain_name(group)})", data, weights=weights)
        design = replace(more, mixed=replace(more.mixed, formula=formula))
    if not design.mixed.random:
        raise ValueError(
            f"formula {formula!r} has no random term, such as (1 | animal), and there is no K: it is least squares."
        )
    return Stacked(design, relations(design.mixed, known, negative), _deviations(design))


def _deviations(design: TraitsDesign) -> FloatArray:
    X, _, w = design.wide()
    return residual_deviations(design.Y, X, w, design.traits)


def _group(individual: Any, data: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Return the grouping factor that K is of, and the table with it."""
    if individual is None:
        if KERNEL in data.columns:
            raise ValueError(
                f"the table has a column {KERNEL!r}, as the term of K= beside others would be called: rename it, or "
                f"write the term as (1 | id), known={{'id': K}}."
            )
        return KERNEL, data.assign(**{KERNEL: data.index})
    if individual not in data.columns:
        raise ValueError(f"individual={individual!r} is not among the columns {', '.join(map(str, data.columns))}.")
    return individual, data


def _known(K: Any, W: Any, ids: Any) -> Any:
    """Return K, or WWᵀ, with its ids, or those of rows where it has none."""
    if (K is None) == (W is None):
        raise ValueError("give exactly one of K (covariance) and W (factor, K = W Wᵀ).")
    if K is not None and (ids is None or labels_of(K) is not None):
        return K
    labelled = read(K if W is None else W, "K" if W is None else "W", ndim=(2,))
    own = ids if labelled.ids is None else labelled.ids
    matrix = labelled.values if W is None else labelled.values @ labelled.values.T
    return matrix if own is None else pd.DataFrame(matrix, index=own, columns=own)


def _of_kernel(design: TraitsDesign, K: Any, W: Any, negative: Negative) -> OneKernel:
    """Return the model of a formula and a kernel of the rows of its table."""
    X, columns, w = design.wide()
    kernel = Design.from_arrays(pd.Series(0.0, index=design.table, name="y"), K=K, W=W)
    assert kernel.ids is not None  # a table has an index
    ids = design.records
    place = np.array(places(ids, tuple(kernel.ids.tolist())), dtype=np.intp)
    own = kernel.kernel[place] if kernel.kernel_is_factor else kernel.kernel[np.ix_(place, place)]
    weights = None if w is None else Labelled(w, ids, None)
    rows, columns_of_x = Labelled(own, ids, None), Labelled(X, ids, columns)
    if kernel.kernel_is_factor:
        spectrum = Spectrum.from_factor(rows, columns_of_x, weights=weights)
    else:
        spectrum = Spectrum.from_covariance(rows, columns_of_x, weights=weights, negative=negative)
    return OneKernel(spectrum, design.Y, design.traits, _deviations(design), design.of_kernel)


def _of_arrays(
    Y: Any, X: Any, K: Any, W: Any, spectrum: Spectrum | None, weights: Any, negative: Negative
) -> OneKernel:
    """Return the model of Y (n, t) and X, or of a spectrum."""
    if isinstance(Y, Mapping | list | tuple):
        raise ValueError(
            "Y is several traits: bring them into one table by their ids, pd.concat(traits, axis=1), in which what was "
            "not observed is missing."
        )
    if spectrum is None:
        given = read(Y, "y", ndim=(1, 2))
        values, names = read_response(Y, len(given.values), given.ids, missing=True)
        values = values.reshape(len(values), -1)
        missing = np.isnan(values)
        filled = np.where(missing & ~missing.all(axis=1, keepdims=True), 0.0, values)
        names = names or (response_name(Y) or "y",)
        # what is missing goes along as columns: rows are brought into order, and those without any trait dropped
        both = Labelled(np.hstack([filled, missing]), given.ids, names * 2)
        design = Design.from_arrays(both, X, K=K, W=W, weights=weights)
        parts = np.hsplit(design.y, 2)
        Y = np.where(parts[1] > 0, np.nan, parts[0])
        spectrum = replace(design, y=Y, responses=names).spectrum(negative=negative)
    elif any(given is not None for given in (X, K, W, weights)) or negative != "error":
        raise ValueError("spectrum is given together with X, K, W, weights or negative: it holds them already.")
    else:
        require_spectrum(spectrum)
        Y, names = read_response(Y, spectrum.n, spectrum.ids, missing=True)
        Y, names = Y.reshape(spectrum.n, -1), names or ("y",)
    require_unique(names, "the names of the traits")
    root = spectrum.weights.root
    own = residual_deviations(Y.T, spectrum.X, None if root is None else root**2, names)
    return OneKernel(spectrum, Y.T, names, own)


def _add_h2(sigmas: list[Any], mean_diagonal: float) -> None:
    """Report the share of K in each trait."""
    kernel = pt.square(sigmas[0]) * np.float64(mean_diagonal)
    pm.Deterministic("h2", kernel / (kernel + pt.square(sigmas[1])), dims="trait")
