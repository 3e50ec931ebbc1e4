"""The scan of several traits against GEMMA, against dense algebra, and against the scan of one."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.stats import chi2, f

import pm_fastlmm as flmm
from pm_fastlmm import Spectrum, scan, scan_traits
from pm_fastlmm.kernel.likelihood.traits import traits_loglik_and_gradient

FIELDS = ("beta", "se", "beta_cov", "statistic", "p_value", "log10_p", "common", "common_se", "p_common",
          "log10_p_common", "p_different")  # fmt: skip


# ---------------------------------------------------------------- GEMMA


@pytest.fixture(scope="module", params=[2, 3])
def gemma(request, cases, reference):
    K, X, Y, genotypes = cases.scan_of_traits()
    t = request.param
    file = reference.json("scan_traits_gemma.json")[str(t)]
    columns = dict(zip(file["columns"], np.array(file["rows"]).T, strict=True))
    return Spectrum.from_covariance(K, X), Y[:, :t], genotypes, columns, file


def effects(columns, t):
    """Return the effects and their covariances that GEMMA prints."""
    cov = [[columns[f"Vbeta_{min(i, j) + 1}_{max(i, j) + 1}"] for j in range(t)] for i in range(t)]
    return np.array([columns[f"beta_{i + 1}"] for i in range(t)]).T, np.moveaxis(np.array(cov), -1, 0)


def test_effects_and_wald_tests_are_those_of_gemma(gemma):
    spectrum, Y, genotypes, expected, file = gemma
    found = scan_traits(spectrum, Y, genotypes, variances="each")
    beta, cov = effects(expected, Y.shape[1])
    assert_allclose(found.beta, beta, rtol=2e-6, atol=2e-7)
    assert_allclose(found.beta_cov, cov, rtol=2e-6, atol=2e-7 * cov.max())
    assert_allclose(chi2(Y.shape[1]).sf(found.statistic), expected["p_wald"], rtol=1e-5)  # of χ², not of F
    assert_array_equal(found.missing, expected["n_miss"])
    for called, name in (("Vg", "null_sigma_g"), ("Ve", "null_sigma_e")):
        assert_allclose(found[name], file[f"REMLE estimate for {called}"], rtol=1e-5, atol=1e-6)  # six digits
    assert found.refitted.all()


def test_likelihood_ratio_tests_are_those_of_gemma(gemma):
    spectrum, Y, genotypes, expected, _ = gemma
    found = scan_traits(spectrum, Y, genotypes, variances="each", test="lrt")
    ended = expected["p_lrt"] < 1  # at 1 its search ended below the likelihood without the variant
    assert ended.sum() >= 9
    assert_allclose(found.p_value[ended], expected["p_lrt"][ended], rtol=1e-5)


def test_with_covariances_of_the_null_the_form_is_that_of_gemmas_score_test(gemma):
    spectrum, Y, genotypes, expected, _ = gemma
    n, t = Y.shape
    lrt = scan_traits(spectrum, Y, genotypes, test="lrt").statistic
    score = n * t * -np.expm1(-lrt / (n * t))  # -nt log(1 - W/nt) is what changes with the factor
    assert_allclose(chi2(t).sf(score), expected["p_score"], rtol=1e-5)


# ---------------------------------------------------------------- dense algebra


KINDS = ("full", "low", "no X", "weights", "one trait")


def problem_of(kind, n=60):
    """A kernel, traits of very different size and 12 candidates, of which two have effects."""
    rng = np.random.default_rng(31)
    W = rng.normal(size=(n, 9 if kind == "low" else 90)) + 0.1
    W *= rng.exponential(size=W.shape[1]) ** 2
    W /= np.sqrt((W**2).sum() / n)
    X = None if kind == "no X" else np.column_stack([np.ones(n), rng.exponential(size=n)])
    G = rng.binomial(2, 0.4, size=(n, 12)) - 0.5 * W[:, :1]
    t = 1 if kind == "one trait" else 3
    weights = rng.uniform(0.5, 3, n) if kind == "weights" else None
    noise = rng.normal(size=(n, t)) / (1 if weights is None else np.sqrt(weights)[:, None])
    mixed = [np.eye(t) + 0.4 * rng.normal(size=(t, t)) for _ in range(2)]
    Y = 1.5 * W @ rng.normal(size=(W.shape[1], t)) @ mixed[0] + noise @ mixed[1]
    Y += G[:, [5]] * np.array([1.2, -1.2, 0.0])[:t] + 0.7 * G[:, [7]]
    Y *= np.array([1.0, 30.0, 0.02])[:t]
    spectrum = Spectrum.from_factor(W, X, weights=weights)
    return W @ W.T, np.zeros((n, 0)) if X is None else X, Y, G, spectrum, np.ones(n) if weights is None else weights


class Dense:
    """vec Y ~ N(vec XB + …, Σ_g ⊗ K + Σ_e ⊗ diag(1/w)) with explicit inverses, and more columns of vec Y's design."""

    def __init__(self, K, X, Y, w, sigma_g, sigma_e, more=None):
        n, t = Y.shape
        self.y, self.design = Y.T.ravel(), np.kron(np.eye(t), X)
        if more is not None:
            self.design = np.column_stack([self.design, more])
        V = np.kron(sigma_g, K) + np.kron(sigma_e, np.diag(1 / w))
        self.Vinv = np.linalg.inv(V)
        self.cov = np.linalg.inv(self.design.T @ self.Vinv @ self.design)
        self.beta = self.cov @ self.design.T @ self.Vinv @ self.y
        residual = self.y - self.design @ self.beta
        self.form = residual @ self.Vinv @ residual
        self.ml = -0.5 * (n * t * math.log(2 * math.pi) + np.linalg.slogdet(V)[1] + self.form)
        p = n * t - self.design.shape[1]
        logdets = np.linalg.slogdet(V)[1] - np.linalg.slogdet(self.cov)[1]
        self.reml = -0.5 * (p * math.log(2 * math.pi) + logdets + self.form)


@pytest.mark.parametrize("test", ["wald", "lrt"])
@pytest.mark.parametrize("kind", KINDS)
def test_with_given_covariances_effects_and_tests_are_generalised_least_squares(kind, test):
    K, X, Y, G, spectrum, w = problem_of(kind)
    n, t = Y.shape
    rng = np.random.default_rng(8)
    A = rng.normal(size=(2, t, t)) * Y.std(axis=0)[:, None]
    sigma_g, sigma_e = A @ A.swapaxes(-1, -2)
    pattern = np.array([0.5, 7.0, -0.03])[:t]
    found = scan_traits(spectrum, Y, G, null=(sigma_g, sigma_e), test=test, common=pattern)
    nu = spectrum.df - 1 if test == "wald" else n
    null = Dense(K, X, Y, w, sigma_g, sigma_e)
    loglik = null.reml if test == "wald" else null.ml
    assert_allclose(found.null_loglik, loglik, rtol=1e-9)
    for j in range(12):
        full = Dense(K, X, Y, w, sigma_g, sigma_e, np.kron(np.eye(t), G[:, [j]]))
        one = Dense(K, X, Y, w, sigma_g, sigma_e, np.kron(pattern[:, None], G[:, [j]]))
        c = full.form / (t * nu)
        assert_allclose(found.beta[j], full.beta[-t:], rtol=1e-8)
        assert_allclose(found.beta_cov[j], c * full.cov[-t:, -t:], rtol=1e-8)
        assert_allclose(found.se[j], np.sqrt(c * np.diag(full.cov)[-t:]), rtol=1e-8)
        assert_allclose(found.common[j], one.beta[-1], rtol=1e-8)
        assert_allclose(found.common_se[j], math.sqrt(c * one.cov[-1, -1]), rtol=1e-8)
        if test == "wald":
            whole = full.beta[-t:] @ np.linalg.solve(c * full.cov[-t:, -t:], full.beta[-t:])
            common = one.beta[-1] ** 2 / (c * one.cov[-1, -1])
            p, p_common = f(t, t * nu).sf(whole / t), f(1, t * nu).sf(common)
            p_different = f(t - 1, t * nu).sf((whole - common) / (t - 1)) if t > 1 else np.nan
        else:
            whole, common = (n * t * math.log(null.form / other.form) for other in (full, one))
            p, p_common, p_different = chi2(t).sf(whole), chi2(1).sf(common), chi2(max(t - 1, 1)).sf(whole - common)
        assert_allclose(found.statistic[j], whole, rtol=1e-8)
        assert_allclose([found.p_value[j], found.p_common[j]], [p, p_common], rtol=1e-7)
        assert_allclose([found.log10_p[j], found.log10_p_common[j]], np.log10([p, p_common]), rtol=1e-7, atol=1e-9)
        if t > 1:
            assert_allclose(found.p_different[j], p_different, rtol=1e-6)
    assert ("p_different" in found) == (t > 1)


def require_maximum(loglik, *matrices):
    """Check that no slope is left along the roots of covariances, and that nothing rises out of singular ones."""
    values, vectors = zip(*map(np.linalg.eigh, matrices), strict=True)
    roots = [Q * np.sqrt(np.maximum(v, 0)) for v, Q in zip(values, vectors, strict=True)]
    rng = np.random.default_rng(1)
    for k, root in enumerate(roots):
        unit = np.sqrt(np.diag(matrices[k]))
        for i in range(len(root)):
            for j in range(len(root)):
                ends = []
                for sign in (1, -1):
                    moved = root.copy()
                    moved[i, j] += sign * 1e-5 * unit[i]
                    ends.append(loglik(*[moved @ moved.T if k == place else S for place, S in enumerate(matrices)]))
                assert abs(ends[0] - ends[1]) / 2e-5 < 1e-4
        for _ in range(3):
            more = unit[:, None] * rng.normal(size=(len(root), 1)) / 50
            above = [S + more @ more.T * (k == place) for place, S in enumerate(matrices)]
            assert loglik(*above) < loglik(*matrices) + 1e-9


@pytest.mark.parametrize("test", ["wald", "lrt"])
@pytest.mark.parametrize("kind", ["full", "low", "weights"])
def test_covariances_that_are_estimated_with_a_candidate_make_its_likelihood_highest(kind, test):
    K, X, Y, G, spectrum, w = problem_of(kind)
    t = Y.shape[1]
    found = scan_traits(spectrum, Y, G[:, 4:6], test=test, variances="each")
    kept = "reml" if test == "wald" else "ml"

    def loglik(more):
        return lambda sigma_g, sigma_e: getattr(Dense(K, X, Y, w, sigma_g, sigma_e, more), kept)

    sigma = [found.null_sigma_g.values, found.null_sigma_e.values]
    require_maximum(loglik(None), *sigma)
    assert_allclose(found.null_loglik, loglik(None)(*sigma), rtol=1e-9)
    for j in range(2):
        more, own = np.kron(np.eye(t), G[:, [4 + j]]), [found.sigma_g.values[j], found.sigma_e.values[j]]
        require_maximum(loglik(more), *own)
        dense = Dense(K, X, Y, w, *own, more)
        assert_allclose(found.beta[j], dense.beta[-t:], rtol=1e-6, atol=1e-7 * np.abs(dense.beta[-t:]).max())
        assert_allclose(found.beta_cov[j], dense.cov[-t:, -t:], rtol=1e-6)
        if test == "lrt":
            assert_allclose(found.statistic[j], 2 * (dense.ml - loglik(None)(*sigma)), rtol=1e-7)
        else:
            W = dense.beta[-t:] @ np.linalg.solve(dense.cov[-t:, -t:], dense.beta[-t:])
            nu = spectrum.df - 1
            assert_allclose(found.statistic[j], W, rtol=1e-6)
            assert_allclose(found.p_value[j], f(t, nu - t + 1).sf(W * (nu - t + 1) / (t * nu)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["full", "low"])
def test_without_a_candidate_the_likelihood_is_the_one_that_pymc_samples(kind):
    _, _, Y, G, spectrum, _ = problem_of(kind)
    null = scan_traits(spectrum, Y, G[:, :1])
    rotated = spectrum.rotate(Y)
    left = Y - spectrum.projection.Q1 @ (spectrum.projection.Q1.T @ Y) - spectrum.basis @ rotated.z.T
    at = spectrum.eigvals, rotated.z.T, left.T @ left, spectrum.nullity

    sigma_g, sigma_e = null.null_sigma_g.values, null.null_sigma_e.values
    pair = sigma_g / 2, sigma_e + sigma_g
    given = scan_traits(spectrum, Y, G[:, :1], null=pair)
    for found, matrices in ((null, (sigma_g, sigma_e)), (given, pair)):
        loglik = traits_loglik_and_gradient(*at, *matrices)[0] + 3 * spectrum.log_flat
        assert_allclose(found.null_loglik, loglik, rtol=1e-11)


def test_a_common_effect_has_its_own_likelihood_ratio_with_its_own_covariances():
    K, X, Y, G, spectrum, w = problem_of("full")
    Y = Y / Y.std(axis=0)
    found = scan_traits(spectrum, Y, G[:, [7]], test="lrt", variances="each")
    more = np.kron(np.ones((3, 1)), G[:, [7]])
    sizes = np.tril_indices(3)

    def minus(x):
        L = np.zeros((2, 3, 3))
        L[:, sizes[0], sizes[1]] = x.reshape(2, 6)
        return -Dense(K, X, Y, w, *(L @ L.swapaxes(-1, -2)), more).ml

    roots = [np.linalg.cholesky(S.values[0])[sizes] for S in (found.sigma_g, found.sigma_e)]
    best = minimize(minus, np.concatenate(roots), method="BFGS", options={"gtol": 1e-4})
    assert_allclose(found.p_common[0], chi2(1).sf(2 * (-best.fun - found.null_loglik)), rtol=1e-5)


# ---------------------------------------------------------------- one trait, invariance


@pytest.mark.parametrize("test", ["wald", "lrt"])
@pytest.mark.parametrize("variances", ["null", "each"])
@pytest.mark.parametrize("kind", ["full", "low", "no X"])
def test_one_trait_has_the_scan_of_one_response(kind, variances, test):
    _, _, Y, G, spectrum, _ = problem_of(kind)
    several = scan_traits(spectrum, Y[:, 0], G, variances=variances, test=test)
    one = scan(spectrum, Y[:, 0], G, delta=variances, test=test)
    rtol = 1e-10 if variances == "null" else 1e-7
    assert_allclose(several.beta[:, 0], one.beta, rtol=rtol)
    assert_allclose(several.se[:, 0], one.se, rtol=rtol)
    assert_allclose(several.statistic, one.statistic, rtol=rtol, atol=1e-9)
    assert_allclose(several.p_value, one.p_value, rtol=rtol)
    assert_allclose(several.null_loglik, one.null_loglik[0], rtol=1e-12)
    assert_allclose(several.null_h2[0], one.null_h2[0], rtol=1e-9, atol=1e-9)
    assert several.trait.values.tolist() == ["y"]


@pytest.mark.parametrize("variances", ["null", "each"])
def test_tests_do_not_depend_on_units_origin_rows_and_combinations_of_the_traits(variances):
    K, X, Y, G, _, _ = problem_of("full")
    A = np.random.default_rng(3).normal(size=(3, 3))
    first = scan_traits(Spectrum.from_covariance(K, X), Y, G, variances=variances)
    mixed = scan_traits(Spectrum.from_covariance(100 * K, X), (Y + X @ np.ones((2, 3))) @ A, 5 - 2 * G,
                        variances=variances)  # fmt: skip
    order = np.random.default_rng(4).permutation(60)
    moved = scan_traits(Spectrum.from_covariance(K[np.ix_(order, order)], X[order]), Y[order], G[order],
                        variances=variances)  # fmt: skip
    for other in (mixed, moved):
        assert_allclose(other.log10_p, first.log10_p, rtol=1e-6)
    assert_allclose(-2 * mixed.beta, first.beta.values @ A, rtol=1e-5, atol=1e-6 * np.abs(first.beta.values @ A).max())
    assert_allclose(moved.p_common, first.p_common, rtol=1e-5)


def test_a_common_effect_in_standard_deviations_is_that_of_standardised_traits():
    _, X, Y, G, spectrum, _ = problem_of("full")
    residuals = Y - X @ np.linalg.lstsq(X, Y)[0]
    sd = np.sqrt((residuals**2).sum(axis=0) / spectrum.df)
    found, standardised = scan_traits(spectrum, Y, G, common="sd"), scan_traits(spectrum, Y / sd, G)
    for name in ("common", "common_se", "p_common", "p_different", "p_value"):
        assert_allclose(found[name], standardised[name], rtol=1e-7)


def test_compiled_loops_and_those_in_python_end_at_the_same_covariances(monkeypatch):
    _, _, Y, G, spectrum, _ = problem_of("low")
    for test in ("wald", "lrt"):
        slow = scan_traits(spectrum, Y, G, variances="each", test=test)
        monkeypatch.setattr("pm_fastlmm.kernel.reml.scan_traits._FEW", 0)
        fast = scan_traits(spectrum, Y, G, variances="each", test=test)
        monkeypatch.undo()
        for name in FIELDS:
            size = float(np.abs(slow[name]).max())
            assert_allclose(fast[name], slow[name], rtol=1e-6, atol=1e-7 * size, err_msg=name)


# ---------------------------------------------------------------- boundaries and size


def test_a_singular_covariance_of_the_kernel_is_an_ordinary_answer():
    rng = np.random.default_rng(12)
    W = rng.normal(size=(120, 60)) / 8
    u = 2 * W @ rng.normal(size=60)
    Y = np.column_stack([u, -0.5 * u, 0.0 * u]) + rng.normal(size=(120, 3))  # correlation -1, and no variance
    spectrum = Spectrum.from_factor(W, np.ones((120, 1)))
    found = scan_traits(spectrum, Y, rng.normal(size=(120, 4)), variances="each")
    values = np.linalg.eigvalsh(found.null_sigma_g)
    assert values[0] < 1e-8 * values[-1]
    assert found.refitted.all()
    assert np.isfinite(found.p_value).all()


def test_p_values_below_the_range_of_floats_have_logarithms():
    rng = np.random.default_rng(2)
    n = 2000
    g = rng.normal(size=(n, 1))
    wide = Spectrum.from_factor(rng.normal(size=(n, 5)), np.ones((n, 1)))
    found = scan_traits(wide, 3 * g + rng.normal(size=(n, 2)), g, common=[1, 1])
    assert found.p_value[0] == 0
    nu = wide.df - 1
    assert_allclose(found.log10_p[0], -nu * math.log10(1 + found.statistic[0] / (2 * nu)), rtol=1e-10)  # F(2, 2ν)


@pytest.mark.parametrize("test", ["wald", "lrt"])
@pytest.mark.parametrize("kind", ["full", "low"])
def test_a_candidate_that_explains_a_trait_has_no_covariances_of_its_own(kind, test):
    _, _, Y, G, spectrum, _ = problem_of(kind)
    candidates = np.column_stack([Y[:, 0], Y @ [1.0, 0.5, 2.0], G[:, 0]])
    null, each = (scan_traits(spectrum, Y, candidates, test=test, variances=way) for way in ("null", "each"))
    assert each.refitted.values.tolist() == [False, False, True]  # the likelihood has no bound
    for name in FIELDS:
        assert_array_equal(each[name][:2], null[name][:2])
    assert (null.p_value[:2] < 1e-6).all()
    one = scan_traits(spectrum, Y[:, 0], candidates[:, [0]], test=test)
    assert one.p_value[0] < 1e-200
    assert_allclose(one.log10_p_common, one.log10_p, rtol=0.05)  # of rounding


def test_under_no_effect_the_tests_hold_their_level():
    rng = np.random.default_rng(9)
    n, m = 300, 1500
    markers = rng.binomial(2, rng.uniform(0.2, 0.5, m), size=(n, m)).astype(float)
    K = flmm.covariance.markers(markers)
    U = np.linalg.cholesky(K + 1e-9 * np.eye(n)) @ rng.normal(size=(n, 2)) @ [[1, 0.5], [0, 0.8]]
    Y = U + rng.normal(size=(n, 2)) @ [[0.7, -0.3], [0, 0.5]]
    found = scan_traits(Spectrum.from_covariance(K, np.ones((n, 1))), Y, rng.binomial(2, 0.4, (n, 4000)),
                        progressbar=False)  # fmt: skip
    for name in ("p_value", "p_common", "p_different"):
        assert 0.93 < flmm.genomic_inflation(found[name]) < 1.07
        assert 0.04 < (found[name] < 0.05).mean() < 0.06


def test_only_candidates_below_a_p_value_are_refitted():
    _, _, Y, G, spectrum, _ = problem_of("full")
    null, each = (scan_traits(spectrum, Y, G, variances=way) for way in ("null", "each"))
    found = scan_traits(spectrum, Y, G, variances=0.01)
    low = null.p_value.values < 0.01
    assert 0 < low.sum() < 12
    assert_array_equal(found.refitted, low)
    for name in FIELDS:
        assert_allclose(found[name][low], each[name][low], rtol=1e-9)
        assert_array_equal(found[name][~low], null[name][~low])
