"""reml_traits: several traits of the rows of one spectrum by REML."""

from collections.abc import Mapping, Sequence
from typing import Any

from pm_fastlmm.aireml.iteration import Tolerances
from pm_fastlmm.base.choices import Method, require_choice
from pm_fastlmm.fitting.estimate import Options
from pm_fastlmm.fitting.fit import VarianceFit
from pm_fastlmm.fitting.formula import OfFormula
from pm_fastlmm.models.traits_routes import read_traits_model
from pm_fastlmm.spectrum.spectrum import Spectrum


def reml_traits(
    spectrum: Spectrum,
    Y: Any,
    *,
    method: Method = "REML",
    start: Any = None,
    fixed: Mapping[str, float] | Sequence[str] = (),
    max_iterations: int = 100,
) -> VarianceFit:
    """
    Fit vec(Y) ~ N(vec(XB), Σ_g ⊗ K + Σ_e ⊗ I), the covariances of several traits that K relates and that it does not.

    One spectrum serves any number of calls: the genetic correlations of thousands of pairs of traits are as many calls.

    Parameters
    ----------
    spectrum : Spectrum
        K and X, factored once.
    Y : (n, t) array or DataFrame
        Traits in columns. Entries that are NaN were not observed: the likelihood is that of the others, exactly.
    method : {"REML", "ML"}
    start, fixed, max_iterations
        As in `find_reml`; the names are "K[milk]", "K[milk, fat]", "residual[milk]" …, and a matrix may be given as a
        whole, {"K": [[1.0, 0.2], [0.2, 0.5]]}.

    Returns
    -------
    VarianceFit
        As of `find_reml`: `fit.intervals()` has the correlations, `fit.model` is that of `traits_model`.

    Raises
    ------
    ValueError
        If Y does not fit the spectrum, a trait was observed in no more rows than there are traits, X leaves nothing of
        one, or traits are collinear.

    Notes
    -----
    One trait is fitted by the search of `reml`, several by average-information steps that keep both matrices positive
    semi-definite. A singular Σ_g, as of a genetic correlation of 1, is a result, which is labelled.

    References
    ----------
    Zhou and Stephens (2014), doi:10.1038/nmeth.2848.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(1)
    >>> G = rng.normal(size=(200, 300))
    >>> u = G @ rng.normal(size=(300, 2)) @ [[1.0, 0.6], [0.0, 0.8]] / 300**0.5
    >>> Y = pd.DataFrame(u + rng.normal(size=(200, 2)), columns=["milk", "fat"])
    >>> spectrum = flmm.Spectrum.from_covariance(G @ G.T / 300, np.ones((200, 1)))
    >>> fit = flmm.reml_traits(spectrum, Y)
    >>> print(fit.theta[:3].round(2).to_dict())
    {'K[milk]': 0.99, 'K[milk, fat]': 0.51, 'K[fat]': 0.33}
    """
    require_choice("method", method, Method)
    options = Options(method, start, fixed, None, Tolerances(), max_iterations, False, 0)
    described = read_traits_model(Y, spectrum=spectrum)
    return OfFormula(described, options).fit(described.node())
