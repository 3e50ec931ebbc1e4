"""Association scan on several traits: each candidate's effects on all of them, tested together."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy.linalg import solve_triangular

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method, Missing, require_choice
from pm_fastlmm.base.display import listed
from pm_fastlmm.base.threads import in_threads
from pm_fastlmm.kernel.reml.candidates import rotate_candidates
from pm_fastlmm.kernel.reml.few_traits import few
from pm_fastlmm.kernel.reml.passes import Tested, pass_over, spectra_of
from pm_fastlmm.kernel.reml.scan import Test
from pm_fastlmm.kernel.reml.tails import tail
from pm_fastlmm.kernel.reml.traits import Likelihood, TraitsNull, read_covariances
from pm_fastlmm.spectrum.responses import response_name
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

type Variances = Literal["null", "each"]
type Common = Literal["equal", "sd"]

_CANCELLED = 1e-3  # share of the quadratic form below which a difference has lost three of its digits
_FEW = 60  # candidates that are refitted in Python before Numba would have loaded its loops
_COVARIANCES = ("sigma_g", "sigma_e")
_NONE: FloatArray = np.zeros(0)


def scan_traits(
    spectrum: Spectrum | Mapping[Hashable, Spectrum],
    Y: Any,
    candidates: Any,
    *,
    test: Test = "wald",
    variances: Variances | float = "null",
    common: Common | Sequence[float] = "equal",
    null: Any = None,
    missing: Missing = "mean",
    groups: Any = None,
    progressbar: bool = True,
) -> xr.Dataset:
    """
    Test each of many candidate columns g on t traits at once: vec Y ~ N(vec(XB + gαᵀ), Σ_g ⊗ K + Σ_e ⊗ I).

    Parameters
    ----------
    spectrum : Spectrum, or mapping of group to Spectrum
        As in `scan`.
    Y : array, DataFrame or DataArray, (n, t)
        The traits, all measured on all observations.
    candidates : array, Series, DataFrame or DataArray, (n,) or (n, m); `flmm.io.read_bed`; or an iterable of such
        As in `scan`.
    test : {"wald", "lrt"}
        Wald tests with REML estimates of Σ_g and Σ_e, or twice the difference of the (ML) log-likelihoods against χ².
    variances : {"null", "each"} or float
        Keep Σ_g and Σ_e of the model without candidates, but for a common factor (conservative where a candidate
        explains much of a trait); or estimate them anew with each candidate, from there, until the likelihood is
        highest. A number is the p-value with those of the null below which they are estimated anew.
    common : {"equal", "sd"} or sequence of t numbers
        The pattern h of a common effect, α = ha: the same effect on each trait; the same in units of each trait's
        standard deviation, X projected out; or any other.
    null : (sigma_g, sigma_e), optional
        Σ_g and Σ_e (t, t) of the model without candidates, where they are known; by default they are estimated.
    missing, groups, progressbar
        As in `scan`.

    Returns
    -------
    xarray.Dataset
        Over "candidate" and "trait": beta (α̂), se, and beta_cov, the covariance of α̂. Over "candidate": statistic,
        p_value and log10_p of α = 0 with t degrees of freedom, the logarithm right where p is 0 in floating point;
        common (â), common_se, p_common and log10_p_common of a common effect, one degree of freedom, approximate where
        variances are estimated anew; p_different of effects besides it, t - 1 degrees of freedom; missing and reason,
        as in `scan`. With variances that are estimated anew sigma_g, sigma_e and refitted, whether they are the
        candidate's own: they are those of the null but for a factor above the given p-value, or where the search has
        not converged. Of the model without candidates null_sigma_g, null_sigma_e, null_h2 and null_loglik, over
        "kernel" where there are groups. Variants
        have the coordinates that `scan` gives them. ``found[["p_value", "common"]].to_dataframe()`` is
        a table with a row for each candidate.

    Raises
    ------
    ValueError
        If Y has missing values, collinear traits or one without an estimate, X leaves fewer than t + 2 degrees of
        freedom, null are no covariances, or as in `scan`.

    Warns
    -----
    UserWarning
        If candidates are left out for missing or infinite values.

    See Also
    --------
    scan : One response, whose variances are searched globally with each candidate.
    genome_scan : From a formula, "y1 + y2 ~ sex", and genotypes.

    Notes
    -----
    With Tᵀ(Σ_g + Σ_e)T = I and TᵀΣ_gT diagonal the columns of the rotated YT are independent: a candidate costs its
    rotation and O(kt). Wald tests refer to F: with the covariances of the null, one factor of which is estimated, to
    F(t, t(n - r - 1)) of W/t; with its own covariances to F(t, n - r - t) of Hotelling's W(n - r - t)/(t(n - r - 1)).
    Both are F(1, n - r - 1) for one trait. GEMMA refers W to χ².

    References
    ----------
    Zhou & Stephens (2014), doi:10.1038/nmeth.2848; Korte et al. (2012), doi:10.1038/ng.2376.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(2)
    >>> markers = pd.DataFrame(rng.binomial(2, 0.4, size=(80, 300)).astype(float)).add_prefix(
    ...     "rs"
    ... )
    >>> noise = rng.normal(size=(80, 2)) @ [[1, 0.8], [0, 0.6]]
    >>> Y = pd.DataFrame(noise + markers[["rs7"]].to_numpy() * [0.7, -0.7], columns=["a", "b"])
    >>> spectrum = flmm.Spectrum.from_covariance(
    ...     flmm.covariance.markers(markers), np.ones((80, 1))
    ... )
    >>> found = flmm.scan_traits(spectrum, Y, markers)
    >>> str(found.p_value.idxmin().values)
    'rs7'
    >>> float(
    ...     found.p_common.sel(candidate="rs7")
    ... ) > 0.01  # effects of opposite sign have none in common
    True
    """
    require_choice("test", test, Test)
    require_choice("missing", missing, ("mean", "raise", "drop"))
    below = _threshold(variances)
    method: Method = "REML" if test == "wald" else "ML"
    spectra, labels = spectra_of(spectrum, groups)
    if isinstance(Y, Rotated):
        raise ValueError("Y is a Rotated, which has no rows: give the traits as an array or a table.")
    values, several = next(iter(spectra.values())).read_response(Y)
    names = several or (response_name(Y) or "y",)
    values = values.reshape(len(values), -1)
    known = None if null is None else read_covariances(null, names)
    nulls = {group: TraitsNull.from_values(s, values, names, method, known) for group, s in spectra.items()}
    patterns = {group: _pattern(common, names, own) for group, own in nulls.items()}
    tested = pass_over(
        candidates, spectra, labels, lambda group, columns: _test(nulls[group], columns, patterns[group], test, below),
        missing=missing, progressbar=progressbar,
    )  # fmt: skip
    pattern = common if isinstance(common, str) else list(map(float, common))
    return _dataset(tested, nulls, names, {"test": test, "variances": variances, "common": pattern})


def _threshold(variances: Any) -> float:
    """Return the p-value below which variances are estimated anew."""
    if isinstance(variances, int | float) and not isinstance(variances, bool) and 0 <= variances <= 1:
        return float(variances)
    require_choice("variances", variances, {"null": "those without candidates", "each": "anew with each candidate"})
    return 0.0 if variances == "null" else math.inf


def _pattern(common: Any, names: Sequence[str], null: TraitsNull) -> FloatArray:
    """Return the pattern h of a common effect."""
    if isinstance(common, str):
        require_choice("common", common, Common)
        return np.ones(len(names)) if common == "equal" else np.asarray(np.linalg.norm(null.root, axis=1))
    h = np.asarray(common, dtype=float)
    if h.shape != (len(names),) or not np.isfinite(h).all() or not h.any():
        raise ValueError(
            f"common must be 'equal', 'sd' or {len(names)} numbers, not all 0, for {listed(names)}, got {common!r}."
        )
    return h


class _Sums(NamedTuple):
    """
    What effects and tests follow from, of m candidates, in the units of the null model.

    Attributes
    ----------
    T : (m, t, t) array, or (t, t) for all
        The basis in which the traits are independent.
    b, A : (m, t) arrays
        The score of the effects in that basis, and their information.
    left : (m,) array
        The quadratic form that a candidate leaves.
    drop, drop_common : (m,) arrays
        By how much -2ℓ falls with it, and with one common effect.
    """

    T: FloatArray
    b: FloatArray
    A: FloatArray
    left: FloatArray
    drop: FloatArray
    drop_common: FloatArray


def _test(null: TraitsNull, columns: FloatArray, pattern: FloatArray, test: Test, below: float) -> dict[str, Any]:
    """Return effects and tests of candidates (n, m) on one spectrum."""
    rotated = rotate_candidates(null.spectrum, columns, null.directions)
    fine, g = rotated.reason == "", null.rows_of(rotated)
    unit, h = rotated.unit[fine], solve_triangular(null.root, pattern, lower=True)
    found = _fields(null, _at_null(null, g, h), unit, h, test, own=False)
    if below:
        _refit(found, null, g, unit, h, test, below)
    del found["scale"]
    out: dict[str, Any] = {"reason": rotated.reason}
    for name, values in found.items():
        out[name] = np.full((len(fine), *values.shape[1:]), False if values.dtype == bool else np.nan)
        out[name][fine] = values
    return out


def _refit(
    found: dict[str, Any], null: TraitsNull, g: FloatArray, unit: FloatArray, h: FloatArray, test: Test, below: float
) -> None:
    """Write the fields of candidates with small p-values anew, with their own covariances."""
    with np.errstate(invalid="ignore"):
        chosen = np.flatnonzero(found["p_value"] < below)
    sums, points, reached = _at_each(null, g[chosen], h, test)
    own = _fields(null, sums, unit[chosen], h, test, own=True)
    for name, kept, new in zip(_COVARIANCES, null.covariances(null.point), null.covariances(points), strict=True):
        found[name], own[name] = kept * found["scale"][:, None, None], new
    for name, values in own.items():
        found[name][chosen[reached]] = values[reached]
    found["refitted"] = np.zeros(len(g), dtype=bool)
    found["refitted"][chosen[reached]] = True


def _at_null(null: TraitsNull, g: FloatArray, h: FloatArray) -> _Sums:
    """Return the sums of candidates (m, K) with the covariances of the null but for a factor."""
    model, axes = null.model, null.axes
    v = 1 / (model.eigvals * axes.shares[0][:, None] + axes.shares[1][:, None])
    w, hw = axes.T @ model.z, axes.T @ h
    b, A = g @ (w * v).T, g**2 @ v.T
    alpha, common = b / A, (b @ hw / (A @ hw**2))[:, None] * hw
    whole = float((w**2 * v).sum())
    left = whole - np.stack([(b * effects).sum(axis=1) for effects in (alpha, common)])
    for row in np.flatnonzero(left[0] < _CANCELLED * whole):  # a difference has lost digits: the residuals themselves
        left[:, row] = [((w - e[row][:, None] * g[row]) ** 2 * v).sum() for e in (alpha, common)]
    with np.errstate(divide="ignore"):  # nothing is left: the likelihood is unbounded
        drops = -len(w) * model.size * np.log(left / whole)
    return _Sums(axes.T.T, b, A, left[0], *drops)


def _at_each(null: TraitsNull, g: FloatArray, h: FloatArray, test: Test) -> tuple[_Sums, FloatArray, Any]:
    """Return the sums of candidates (m, K) with their own covariances, the points of these, and which were reached."""
    m, t = len(g), len(h)
    if m > _FEW:
        from pm_fastlmm.kernel.reml import trait_loops as loops
    else:
        loops = few()  # type: ignore[assignment]
    start, model = null.start, null.model
    points, values = np.empty((m, t * (t + 1))), np.empty((m, 2))
    bases, sums = np.empty((m, t, t)), np.empty((m, 3, t))
    one, of_one = np.empty_like(points), np.full((m, 2), np.nan)

    def run(part: slice) -> None:
        loops.refit_rows(model, g[part], _NONE, *start, points[part], values[part])
        if test == "lrt":
            loops.refit_rows(model, g[part], h, *start, one[part], of_one[part])

    in_threads(run, m, smallest=8)
    for pattern, at, found in ((_NONE, points, values), (h, one, of_one)):
        for row in np.flatnonzero(found[:, 1] == 0):
            found[row] = Likelihood(model, g[row], True, pattern).climb(at[row], start.inverse)
    loops.rows_at(model, g, points, bases, sums)
    Q, b, A = sums.transpose(1, 0, 2)
    with np.errstate(all="ignore"):  # where the likelihood has no bound
        left = np.maximum((Q - b**2 / A).sum(axis=1), 0.0)
        drops = null.objective - np.stack([values[:, 0], of_one[:, 0]])
    reached = (values[:, 1] == 1) & (of_one[:, 1] != 0)
    return _Sums(bases, b, A, left, *drops), points, reached


def _fields(null: TraitsNull, sums: _Sums, unit: FloatArray, h: FloatArray, test: Test, *, own: bool) -> dict[str, Any]:
    """Return effects and tests; `own` says whether the covariances are those of each candidate."""
    t = len(h)
    nu = null.model.size - (test == "wald")
    T, b, A = sums.T, sums.b, sums.A
    with np.errstate(all="ignore"):
        c = sums.left / (t * nu)
        R = null.root @ np.linalg.inv(T.swapaxes(-1, -2)) / unit[:, None, None]
        beta = (R @ (b / A)[..., None])[..., 0]
        cov = (R * (c[:, None] / A)[:, None, :]) @ R.swapaxes(-1, -2)
        hw = (T.swapaxes(-1, -2) @ h) * np.ones_like(A)
        top, bottom = (hw * b).sum(axis=1), (hw**2 * A).sum(axis=1)
        one, one_se = top / bottom / unit, np.sqrt(c / bottom) / unit
        if test == "lrt":
            whole, common = np.maximum(sums.drop, 0.0), np.maximum(sums.drop_common, 0.0)
        else:
            whole, common = (b**2 / A).sum(axis=1) / c, (one / one_se) ** 2
        different = np.maximum(whole - common, 0.0)

        def p_of(statistic: FloatArray, q: int) -> tuple[FloatArray, FloatArray]:
            if test == "lrt":
                return tail(statistic, q)
            return tail(statistic * (nu - q + 1) / nu, q, nu - q + 1) if own else tail(statistic, q, t * nu)

        (p, log10_p), (p_common, log10_p_common) = p_of(whole, t), p_of(common, 1)
        se = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    found = {"beta": beta, "se": se, "beta_cov": cov}
    found |= {"statistic": whole, "p_value": p, "log10_p": log10_p, "common": one, "common_se": one_se}
    found |= {"p_common": p_common, "log10_p_common": log10_p_common}
    return found | ({"p_different": p_of(different, t - 1)[0]} if t > 1 else {}) | {"scale": c}


def _dataset(
    tested: Tested, nulls: dict[Hashable, TraitsNull], names: tuple[str, ...], attrs: dict[str, Any]
) -> xr.Dataset:
    axes = ("trait", "trait_2")
    variables = {
        name: (("candidate", *axes[: np.ndim(values) - 1]), values)
        for name, values in tested.fields.items()
        if name not in ("reason", "missing")
    }
    found = tested.dataset(variables, {}, attrs).assign_coords({axis: list(names) for axis in axes})
    fits = [_of_null(null, axes) for null in nulls.values()]
    if tested.groups is None:
        return found.assign(fits[0])
    return found.merge(xr.concat(fits, pd.Index(list(nulls), name="kernel")))


def _of_null(null: TraitsNull, axes: tuple[str, str]) -> xr.Dataset:
    """Return the model without candidates on one spectrum."""
    sigma_g, sigma_e = null.covariances(null.point)
    g, e = null.spectrum.mean_diagonal * np.diag(sigma_g), np.diag(sigma_e)
    return xr.Dataset(
        {
            "null_sigma_g": (axes, sigma_g),
            "null_sigma_e": (axes, sigma_e),
            "null_h2": (axes[0], g / (g + e)),
            "null_loglik": null.loglik,
        }
    )
