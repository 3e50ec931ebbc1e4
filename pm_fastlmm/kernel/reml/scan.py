"""Association scan: each of many candidate columns as one more fixed effect, on a spectrum that is factored once."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.special import chdtrc, stdtr

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method, Missing, require_choice
from pm_fastlmm.kernel.likelihood.profile import Profile, search
from pm_fastlmm.kernel.reml.candidates import RotatedCandidates, rotate_candidates, rotated_candidates
from pm_fastlmm.kernel.reml.fit import REMLFit
from pm_fastlmm.kernel.reml.passes import Tested, pass_over, spectra_of
from pm_fastlmm.kernel.reml.reml import reml
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum, as_rotated

type Test = Literal["wald", "lrt"]
type Delta = Literal["each", "null"]

_CANCELLED = 1e-3  # share of the quadratic form below which a difference has lost three of its digits
_FIELDS = ("beta", "se", "statistic", "p_value", "delta", "sigma2", "h2")


@dataclass(frozen=True, slots=True, eq=False)
class _Null:
    """The model without a candidate on one spectrum: its fit, and y in the coordinates of the tests."""

    spectrum: Spectrum
    fit: REMLFit
    profile: Profile
    null_y: FloatArray | None


def _null(rotated: Rotated, method: Method, values: FloatArray | None = None) -> _Null:
    """Fit a response that is rotated; its values, where there are any, say what is in the null directions of K."""
    spectrum, null_y = rotated.spectrum, None
    if spectrum.df < 2:
        raise ValueError(
            f"{spectrum.n} observations and {spectrum.projection.rank} columns of X leave one degree of freedom, and a "
            "candidate takes it: use fewer columns or more observations."
        )
    fit = reml(spectrum, rotated, method=method)
    if not math.isfinite(fit.loglik):
        raise ValueError(f"the model without candidates has no estimate: {fit.message}.")
    if values is not None and spectrum.nullity:
        projection, values = spectrum.projection, spectrum.weights.rows(values)
        left = values - projection.Q1 @ (projection.Q1.T @ values)
        null_y = ((left - spectrum.basis @ rotated.z) / math.sqrt(float(rotated.norm2)))[:, None]
    return _Null(spectrum, fit, Profile.from_rotated(rotated, method), null_y)


def scan(
    spectrum: Spectrum | Mapping[Hashable, Spectrum],
    y: Any,
    candidates: Any = None,
    *,
    test: Test = "wald",
    delta: Delta = "each",
    missing: Missing = "mean",
    groups: Any = None,
    progressbar: bool = True,
) -> xr.Dataset:
    """
    Test each of many candidate columns g as one more fixed effect: y ~ N(Xβ + gα, σ²(K + δI)).

    Parameters
    ----------
    spectrum : Spectrum, or mapping of group to Spectrum
        K and X, factored once, with the prior weights where there are any. A mapping has one spectrum for each group of
        candidates, whose kernel leaves those candidates out (leave one chromosome out).
    y : array, Series, DataArray or Rotated
        One response (n,); or what `KernelStatistics.factor` returned, whose first response is tested against the
        others.
    candidates : array, Series, DataFrame or DataArray, (n,) or (n, m); `flmm.io.read_bed`; or an iterable of such
        Columns to be tested. Rows are selected by id: candidates may have more than the spectrum. The name of a Series
        is that of its candidate. An iterable is read block by block and never held whole. None when y is a `Rotated`,
        which has them.
    test : {"wald", "lrt"}
        α̂²/se² against F(1, n - r - 1) with the REML estimate of δ, or twice the difference of the maximised (ML)
        log-likelihoods against χ²₁. Where ML is unbounded at δ = 0 (a centred kinship matrix with an intercept), the
        highest interior modes are compared.
    delta : {"each", "null"}
        Estimate δ anew with each candidate, searched globally (exact, as GEMMA), or keep that of the model without
        candidates (approximate, as EMMAX; a little conservative where a candidate explains much).
    missing : {"mean", "raise", "drop"}
        What becomes of missing values (NaN, pd.NA) in a candidate: the mean of those of its values that are analysed,
        as in GEMMA; an error; or the candidate is not tested. GEMMA leaves out candidates with more than 5 % missing:
        here `missing` of the result counts them.
    groups : sequence of length m, optional
        The group of each candidate, when `spectrum` is a mapping; by default its chromosome, where candidates are
        genotypes that say it.
    progressbar : bool
        Show a progress bar when there is more than one block.

    Returns
    -------
    xarray.Dataset
        Over "candidate": beta (α̂), se, statistic, p_value; delta, sigma2 and h2 of the model with the candidate;
        null_h2 and null_loglik of that without it (of its group); missing, how many of its values were; and reason. A
        candidate that X explains (a constant one, when X has an intercept), or that is left out for missing or infinite
        values, is NaN everywhere with its reason, and counted in `attrs["untested"]`; `attrs["imputed"]` counts imputed
        values. One that explains y exactly has p = 0. Genotypes that say so add the coordinates chromosome, position,
        counted and other (allele), and frequency, that of the counted allele among the people who are analysed.
        `.to_dataframe()` is a table with a row for each candidate.

    Raises
    ------
    ValueError
        If y or candidates do not fit the spectrum, y has no estimate without candidates, X leaves only one degree of
        freedom, groups do not fit, or a `Rotated` has no candidates. If candidates are counts from 0 to 2 among which
        a number stands for missing ones: -9, -127, -1, 3, 5 or 255, say.

    Warns
    -----
    UserWarning
        If candidates are left out for missing or infinite values.

    Notes
    -----
    A candidate costs its rotation, and O(k) for each evaluation of its profile likelihood: adding a column to X is a
    rank-one update of the rotated problem, α̂ = b/a with a = Σwg² and b = Σwgz.

    References
    ----------
    Zhou & Stephens (2012), doi:10.1038/ng.2310; Kang et al. (2010), doi:10.1038/ng.548; Lippert et al. (2011),
    doi:10.1038/nmeth.1681.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(2)
    >>> markers = rng.binomial(2, 0.4, size=(80, 300)).astype(float)
    >>> y = markers[:, 7] + rng.normal(size=80)
    >>> K = flmm.covariance.markers(markers)
    >>> result = flmm.scan(flmm.Spectrum.from_covariance(K, np.ones((80, 1))), y, markers)
    >>> str(result.p_value.idxmin().values)
    'g7'
    """
    require_choice("test", test, Test)
    require_choice("delta", delta, Delta)
    require_choice("missing", missing, ("mean", "raise", "drop"))
    method: Method = "REML" if test == "wald" else "ML"
    if isinstance(y, Rotated):
        return _scan_rotated(spectrum, y, candidates, groups, test, delta, method)
    if candidates is None:
        raise ValueError("candidates is missing: give columns (n, m), or as y what KernelStatistics.factor returned.")
    spectra, labels = spectra_of(spectrum, groups)
    first = next(iter(spectra.values()))
    values, several = first.read_response(y)
    if several is not None:
        raise ValueError(
            f"y has {len(several)} columns, this scan has one response: test a candidate on all of them at once with "
            "flmm.scan_traits, or scan them one by one (the spectrum is shared)."
        )
    nulls = {group: _null(Rotated.from_values(s, values, None), method, values) for group, s in spectra.items()}
    tested = pass_over(
        candidates, spectra, labels, lambda group, columns: _test(nulls[group], columns, test, delta),
        missing=missing, progressbar=progressbar,
    )  # fmt: skip
    return _dataset(tested, nulls, test, delta)


def _scan_rotated(
    spectrum: Any, y: Rotated, candidates: Any, groups: Any, test: Test, delta: Delta, method: Method
) -> xr.Dataset:
    """Test the first response of `KernelStatistics` against the others."""
    if isinstance(spectrum, Mapping) or groups is not None:
        raise ValueError(
            "a Rotated belongs to one spectrum: scan the groups one by one, each with its KernelStatistics."
        )
    rotated = as_rotated(spectrum, y)
    if candidates is not None:
        raise ValueError(
            "candidates are given with a Rotated, which has no rows: stream them as further columns of y in "
            "KernelStatistics, or give y as an array."
        )
    if rotated.null_first is None or rotated.names is None or len(rotated.names) < 2:
        raise ValueError(
            "this Rotated has no candidates: give KernelStatistics y and after it the candidates as columns of its y, "
            "or scan an array y with candidates=."
        )
    null = _null(rotated.one(0), method)
    fields = _test_rotated(null, rotated_candidates(rotated), test, delta)
    fields["missing"] = np.zeros(len(fields["reason"]), dtype=int)
    return _dataset(Tested(fields, list(rotated.names[1:]), None, {}), {None: null}, test, delta)


def _test(null: _Null, columns: FloatArray, test: Test, delta: Delta) -> dict[str, Any]:
    """Return effects and tests of candidates (n, m) on one spectrum."""
    return _test_rotated(null, rotate_candidates(null.spectrum, columns, null.null_y), test, delta)


def _test_rotated(null: _Null, rotated: RotatedCandidates, test: Test, delta: Delta) -> dict[str, Any]:
    profile, s = null.profile, null.spectrum
    fine = rotated.reason == ""
    m = profile.m - 1 if test == "wald" else profile.m
    x, Q, a, alpha, drop = _estimates(null, rotated, fine, m, delta)
    unit = math.sqrt(float(profile.norm2[0]))
    with np.errstate(all="ignore"):
        d = np.exp(x) * profile.largest
        sigma2 = np.where(np.isposinf(x), 0.0, Q / m * unit**2 / profile.largest)
        # var α̂ = σ²/a; where δ = ∞, Q and a are in units of 1/δ, and the ratio is the same
        beta, se = alpha * unit / rotated.unit, np.sqrt(Q / m / a) * unit / rotated.unit
        if test == "wald":
            statistic = (beta / se) ** 2
            p = 2 * stdtr(s.df - 1, -np.abs(beta / se))
        else:
            statistic = np.maximum(drop, 0.0)
            p = chdtrc(1, statistic)
        h2 = s.mean_diagonal / (s.mean_diagonal + d)
    values = (beta, se, statistic, p, d, sigma2, h2)
    out: dict[str, Any] = {name: np.where(fine, v, np.nan) for name, v in zip(_FIELDS, values, strict=True)}
    return out | {"reason": rotated.reason}


def _estimates(
    null: _Null, rotated: RotatedCandidates, fine: npt.NDArray[np.bool_], m: int, delta: Delta
) -> tuple[FloatArray, ...]:
    """
    Return log δ, Q, a and α of each candidate in scaled units, and by how much -2ℓ falls with it.

    On a boundary, and where δ is that of the null, the weights are the same for all candidates.
    """
    profile = null.profile
    x0, f0 = search(profile)[0, :2].tolist()
    rows = len(fine)
    x, drop = np.full(rows, x0), np.full(rows, np.nan)
    Q, a, alpha = (np.full(rows, np.nan) for _ in range(3))
    if delta == "each" and fine.any():
        sums = np.column_stack([np.full(fine.sum(), profile.null[0, 0]), rotated.null[fine]])
        found = search(profile, np.ascontiguousarray(rotated.g[fine]), sums)
        x[fine], Q[fine], a[fine], alpha[fine] = found[:, 0], found[:, 2], found[:, 3], found[:, 4]
        drop[fine] = f0 - found[:, 1]
    for end in np.unique(x[fine & (np.isinf(x) | (delta == "null"))]):
        chosen = fine & (x == end)
        Q[chosen], a[chosen], alpha[chosen], left = _at_fixed(profile, rotated, chosen, float(end))
        if delta == "null":
            with np.errstate(divide="ignore"):  # nothing is left: the likelihood is unbounded
                drop[chosen] = -m * np.log(left)
    return x, Q, a, alpha, drop


def _at_fixed(
    profile: Profile, rotated: RotatedCandidates, chosen: npt.NDArray[np.bool_], x: float
) -> tuple[FloatArray, ...]:
    """Return Q, a, α and the share of the quadratic form that is left, at one log δ (at ∞ in units of 1/δ)."""
    delta = math.exp(x) if x < math.inf else 1.0
    w = 1 / (profile.eigvals + delta) if x < math.inf else np.ones_like(profile.eigvals)
    over = 1 / delta if profile.nullity else 0.0
    z, g = profile.rows()[0], rotated.g[chosen]
    whole = float((w * z**2).sum()) + over * float(profile.null[0, 0])
    a = (g**2) @ w + over * rotated.null[chosen, 1]
    b = g @ (w * z) + over * rotated.null[chosen, 0]
    alpha = b / a
    left = 1 - b * alpha / whole
    close = left < _CANCELLED
    if close.any():  # the difference has lost digits: the residuals themselves
        along, with_y, null = alpha[close], rotated.null[chosen][close], profile.null[0, 0]
        residual = np.maximum(null - 2 * along * with_y[:, 0] + along**2 * with_y[:, 1], 0.0)
        left[close] = ((z - along[:, None] * g[close]) ** 2 @ w + over * residual) / whole
    return whole * left, a, alpha, left


def _dataset(tested: Tested, nulls: dict[Hashable, _Null], test: Test, delta: Delta) -> xr.Dataset:
    variables: dict[str, Any] = {name: ("candidate", tested.fields[name]) for name in _FIELDS}
    own = {group: (float(null.fit.h2), float(null.fit.loglik)) for group, null in nulls.items()}
    of_null = np.array([own[group] for group in (tested.groups or [None] * len(tested.names))])
    after = {name: ("candidate", column) for name, column in zip(("null_h2", "null_loglik"), of_null.T, strict=True)}
    return tested.dataset(variables, after, {"test": test, "delta": delta})
