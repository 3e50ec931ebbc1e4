"""Effects and predictions after sampling: moments of the draws against dense conditional Gaussians."""

from types import SimpleNamespace

import arviz as az
import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest

import pm_fastlmm as flmm
from pm_fastlmm.kernel.effects import effects
from pm_fastlmm.kernel.effects.coefficients import factor_effects

N = 30_000
G, E = 1.3, 0.7
B = np.array([[2.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.9]])
b = np.array([1.0, -2.0, 0.5])
TREATMENTS = {"flat": {}, "explicit": {"beta": b}, "Gaussian": {"beta_mean": b, "beta_cov": B}}
KINDS = ("full rank", "factor", "singular K")


def make_problem(kind, n=14, q=4, seed=5):
    """Training rows and q new rows of one covariance; K is uncentred and X oblique."""
    rng = np.random.default_rng(seed)
    m = n + q + 20 if kind == "full rank" else 4
    W = (rng.normal(size=(n + q, m)) * rng.exponential(size=m) + 0.4) / np.sqrt(m)
    X = np.column_stack([np.ones(n + q), 2 * np.linspace(-1, 2, n + q) ** 2, rng.exponential(size=n + q)])
    y = X[:n] @ b + W[:n] @ rng.normal(size=m) + 0.8 * rng.normal(size=n)
    K = W @ W.T
    spectrum = (
        flmm.Spectrum.from_factor(W[:n], X[:n]) if kind == "factor" else flmm.Spectrum.from_covariance(K[:n, :n], X[:n])
    )
    return SimpleNamespace(
        n=n, q=q, W=W[:n], K=K[:n, :n], X=X[:n], y=y, spectrum=spectrum, K_all=K, X_all=X,
        W_new=W[n:], X_new=X[n:], K_new=K[n:, :n], K_new_new=K[n:, n:],
    )  # fmt: skip


def conditional(p, y, treatment, g=G, e=E):
    """Mean and covariance of (β, u, u_new) given y, for any treatment of β."""
    n, r = p.n, 3
    V = g * p.K + e * np.eye(n)
    cross = g * p.K_all[:, :n]
    if treatment == "flat":
        C = np.linalg.inv(p.X.T @ np.linalg.solve(V, p.X))
        beta = C @ p.X.T @ np.linalg.solve(V, y)
        P = np.linalg.inv(V) - np.linalg.solve(V, p.X) @ C @ np.linalg.solve(V, p.X).T
        between = -C @ p.X.T @ np.linalg.solve(V, cross.T)
        cov = np.block([[C, between], [between.T, g * p.K_all - cross @ P @ cross.T]])
        return np.r_[beta, cross @ P @ y], cov
    prior = B if treatment == "Gaussian" else np.zeros((r, r))
    gain = np.vstack([prior @ p.X.T, cross]) @ np.linalg.inv(V + p.X @ prior @ p.X.T)
    cov = np.zeros((r + n + p.q, r + n + p.q))
    cov[:r, :r], cov[r:, r:] = prior, g * p.K_all
    return np.r_[b, np.zeros(n + p.q)] + gain @ (y - p.X @ b), cov - gain @ np.hstack([p.X @ prior, cross.T])


def assert_moments(draws, mean, cov, z=5.0):
    """Draws (N, d) have this mean and covariance, entry by entry, within z standard errors."""
    count, variance = len(draws), np.diag(cov).clip(0)
    rounding = 1e-9 * max(variance.max(), 1e-12)
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), z * np.sqrt(variance / count) + np.sqrt(rounding) * 1e-3)
    error = np.sqrt((np.outer(variance, variance) + cov**2) / count)
    np.testing.assert_array_less(np.abs(np.cov(draws.T) - cov), z * error + rounding)


def make_model(p, observed=None, spectrum=None, coords=True, **treatment):
    with pm.Model(coords={"obs": [f"id{i}" for i in range(p.n)]} if coords else None) as model:
        variances = {"sigma2_g": pm.HalfNormal("sigma2_g"), "sigma2_e": pm.HalfNormal("sigma2_e")}
        observed = p.y if observed is None else observed
        dims = {"dims": "obs"} if coords else {}
        spectrum = p.spectrum if spectrum is None else spectrum
        flmm.FastLMM("y", spectrum=spectrum, observed=observed, **variances, **dims, **treatment)
    return model


def fixed_draws(count=N, **more):
    shape = (2, count // 2)
    return az.from_dict({"posterior": {"sigma2_g": np.full(shape, G), "sigma2_e": np.full(shape, E)} | more})


def flat_draws(values):
    return values.to_numpy().reshape(-1, values.shape[-1])


@pytest.fixture(scope="module", params=KINDS)
def p(request):
    return make_problem(request.param)


@pytest.fixture(scope="module")
def factor():
    return make_problem("factor")


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_effects_have_their_joint_conditional_distribution(p, treatment):
    tree = flmm.recover_effects(fixed_draws(), model=make_model(p, **TREATMENTS[treatment]), random_seed=1)
    draws = np.hstack([flat_draws(tree.posterior["y_beta"]), flat_draws(tree.posterior["y_u"])])
    mean, cov = conditional(p, p.y, treatment)
    keep = slice(0, 3 + p.n)
    assert_moments(draws, mean[keep], cov[keep, keep])


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_in_sample_predictions_have_the_moments_of_f_and_of_new_noise(p, treatment):
    tree = flmm.predict(fixed_draws(), model=make_model(p, **TREATMENTS[treatment]), random_seed=1)
    mean, cov = conditional(p, p.y, treatment)
    lift = np.hstack([p.X, np.eye(p.n)])
    mean, cov = lift @ mean[: 3 + p.n], lift @ cov[: 3 + p.n, : 3 + p.n] @ lift.T
    predictive = tree.posterior_predictive
    assert_moments(flat_draws(predictive["y_mean"]), mean, cov)
    assert_moments(flat_draws(predictive["y"]), mean, cov + E * np.eye(p.n))
    noise = flat_draws(predictive["y"] - predictive["y_mean"])
    assert_moments(noise, np.zeros(p.n), E * np.eye(p.n))


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_replicates_with_new_effects_have_the_covariance_of_K_beside_that_of_beta(p, treatment):
    tree = flmm.predict(fixed_draws(), effects="new", model=make_model(p, **TREATMENTS[treatment]), random_seed=1)
    mean, cov = conditional(p, p.y, treatment)
    mean, cov = p.X @ mean[:3], p.X @ cov[:3, :3] @ p.X.T + G * p.K
    predictive = tree.posterior_predictive
    assert_moments(flat_draws(predictive["y_mean"]), mean, cov)
    assert_moments(flat_draws(predictive["y"]), mean, cov + E * np.eye(p.n))


def test_replicates_with_new_effects_serve_several_responses(factor):
    Y = np.stack([factor.y, 3 - factor.y])
    model = make_model(factor, observed=Y, coords=False)
    tree = flmm.predict(fixed_draws(), effects="new", model=model, random_seed=3)
    draws = tree.posterior_predictive["y"].to_numpy().reshape(N, 2, factor.n)
    for t in range(2):
        mean, cov = conditional(factor, Y[t], "flat")
        cov = factor.X @ cov[:3, :3] @ factor.X.T + G * factor.K + E * np.eye(factor.n)
        assert_moments(draws[:, t], factor.X @ mean[:3], cov)
    between = np.cov(draws[:, 0].T, draws[:, 1].T)[: factor.n, factor.n :]
    variance = np.diag(cov)
    np.testing.assert_array_less(np.abs(between), 5 * np.sqrt(np.outer(variance, variance) / N))


def test_effects_are_given_or_new_and_new_ones_are_of_the_training_rows(factor):
    model = make_model(factor)
    with pytest.raises(ValueError, match=r"effects must be 'given' .*, 'new' .* or 'left_out' .*, got 'marginal'"):
        flmm.predict(fixed_draws(10), effects="marginal", model=model)
    with pytest.raises(ValueError, match=r"effects='new' repeats the training rows .*: leave out X_new"):
        flmm.predict(fixed_draws(10), factor.X_new, W_new=factor.W_new, effects="new", model=model)


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("given", ["matrix", "diagonal", "factor"])
def test_predictions_of_new_rows_have_the_right_mean_and_covariance(p, treatment, given):
    arguments = {
        "matrix": {"K_new": p.K_new, "K_new_new": p.K_new_new},
        "diagonal": {"K_new": p.K_new, "K_new_new": np.diag(p.K_new_new)},
        "factor": {"W_new": p.W_new},
    }[given]
    model = make_model(p, **TREATMENTS[treatment])
    if given == "factor" and p.spectrum.loadings is None:
        with pytest.raises(ValueError, match=r"W_new needs a spectrum built by Spectrum\.from_factor"):
            flmm.predict(fixed_draws(10), p.X_new, model=model, **arguments)
        return
    tree = flmm.predict(fixed_draws(), p.X_new, model=model, random_seed=2, **arguments)
    mean, cov = conditional(p, p.y, treatment)
    rows = np.r_[0:3, 3 + p.n : 3 + p.n + p.q]
    lift = np.hstack([p.X_new, np.eye(p.q)])
    mean, cov = lift @ mean[rows], lift @ cov[np.ix_(rows, rows)] @ lift.T
    if given == "diagonal":  # independent given u: what the new effects share beyond u is left out
        beyond = G * (p.K_new_new - p.K_new @ np.linalg.pinv(p.K, rcond=1e-9) @ p.K_new.T)
        cov = cov - beyond + np.diag(np.diag(beyond))
    assert_moments(flat_draws(tree.predictions["y_mean"]), mean, cov)
    assert_moments(flat_draws(tree.predictions["y"]), mean, cov + E * np.eye(p.q))


def test_a_copy_of_a_training_row_has_its_effect(p):
    rows = [3, 0, 7]
    model, tree = make_model(p), fixed_draws(1000)
    new = {"K_new": p.K[rows], "K_new_new": p.K[np.ix_(rows, rows)]}
    flmm.predict(tree, p.X[rows], model=model, random_seed=1, **new)
    flmm.predict(tree, model=model, random_seed=1)
    of_copies, of_rows = (
        tree.predictions["y_mean"].to_numpy(),
        tree.posterior_predictive["y_mean"].to_numpy()[..., rows],
    )
    np.testing.assert_allclose(of_copies, of_rows, atol=1e-4 * of_rows.std())


@pytest.mark.parametrize("seed", range(8))
def test_new_rows_of_a_singular_K_are_stable(seed):
    p = make_problem("singular K", n=17, seed=seed)
    tree = flmm.predict(
        fixed_draws(2000), p.X_new, p.K_new, K_new_new=p.K_new_new, model=make_model(p), random_seed=2
    )  # fmt: skip
    mean, cov = conditional(p, p.y, "flat")
    rows = np.r_[0:3, 3 + p.n : 3 + p.n + p.q]
    lift = np.hstack([p.X_new, np.eye(p.q)])
    assert_moments(flat_draws(tree.predictions["y_mean"]), lift @ mean[rows], lift @ cov[np.ix_(rows, rows)] @ lift.T)


def test_effects_over_the_posterior_are_the_exact_mixture(factor):
    p = factor
    model = flmm.kernel_model(p.y, spectrum=p.spectrum)
    exact = flmm.exact_posterior(p.spectrum, p.y)
    tree = flmm.recover_effects(exact.to_datatree(40_000, random_seed=3), model=model, random_seed=4)
    beta, u = (flat_draws(tree.posterior[name]) for name in ("y_beta", "y_u"))
    mean, cov = exact.beta()
    np.testing.assert_array_less(np.abs(beta.mean(0) - mean), 4 * beta.std(0) / 200)
    np.testing.assert_allclose(np.cov(beta.T), cov, rtol=0.05, atol=0.03 * cov.max())
    total = exact.scale / (exact.shape - 1)
    h2 = 1 / (1 + np.exp(-exact.x))
    # û depends on h² alone, and Var(u | h²) is proportional to the total
    g, e = h2 * total / p.spectrum.mean_diagonal, (1 - h2) * total
    rotated = p.spectrum.rotate(p.y)
    blup = effects.blup(rotated, g, e).lift(p.spectrum)
    centre = exact.weights @ blup
    variance = exact.weights @ (effects.pev(p.spectrum, g, e) + (blup - centre) ** 2)
    np.testing.assert_array_less(np.abs(u.mean(0) - centre), 4 * u.std(0) / 200)
    np.testing.assert_allclose(u.var(0), variance, rtol=0.06)


def test_an_explicit_beta_is_reported_as_drawn_and_u_goes_with_it(factor):
    p = factor
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 3, shape=3)
        flmm.FastLMM("y", spectrum=p.spectrum, sigma2_g=G, sigma2_e=E, beta=beta, observed=p.y)
    given = b + np.random.default_rng(1).normal(size=(2, N // 2, 3))
    tree = flmm.recover_effects(fixed_draws(beta=given), model=model, random_seed=1)
    np.testing.assert_allclose(tree.posterior["y_beta"], given, atol=1e-10)
    gain = G * p.K @ np.linalg.inv(G * p.K + E * np.eye(p.n))
    residual = flat_draws(tree.posterior["y_u"]) - (p.y - given.reshape(-1, 3) @ p.X.T) @ gain.T
    assert_moments(residual, np.zeros(p.n), G * p.K - gain @ (G * p.K))


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_mu_is_taken_from_y_before_effects_and_added_to_predictions(factor, treatment):
    p, mu = factor, np.cos(np.arange(14))
    plain, shifted = fixed_draws(10), fixed_draws(10)
    for tree, model in (
        (plain, make_model(p, p.y, **TREATMENTS[treatment])),
        (shifted, make_model(p, p.y + mu, mu=mu, **TREATMENTS[treatment])),
    ):
        flmm.recover_effects(tree, model=model, random_seed=1)
        flmm.predict(tree, model=model, random_seed=2)
    for name in ("y_beta", "y_u"):
        np.testing.assert_allclose(shifted.posterior[name], plain.posterior[name], atol=1e-9)
    for name in ("y", "y_mean"):
        np.testing.assert_allclose(shifted.posterior_predictive[name], plain.posterior_predictive[name] + mu, atol=1e-9)


def test_a_mu_that_was_sampled_is_taken_draw_by_draw(factor):
    p, x = factor, np.cos(np.arange(14))
    with pm.Model() as model:
        flmm.FastLMM("y", spectrum=p.spectrum, sigma2_g=G, sigma2_e=E, mu=pm.Normal("slope") * x, observed=p.y)
    slopes = np.repeat([[-3.0], [2.0]], N // 2, axis=1)
    tree = flmm.recover_effects(fixed_draws(slope=slopes), model=model, random_seed=1)
    flmm.predict(tree, model=model, random_seed=2)
    for chain, slope in enumerate((-3.0, 2.0)):
        mean, cov = conditional(p, p.y - slope * x, "flat")
        draws = tree.posterior.isel(chain=[chain])
        both = np.hstack([flat_draws(draws["y_beta"]), flat_draws(draws["y_u"])])
        assert_moments(both, mean[: 3 + p.n], cov[: 3 + p.n, : 3 + p.n])
        fitted = p.X @ mean[:3] + mean[3 : 3 + p.n] + slope * x
        predicted = flat_draws(tree.posterior_predictive["y_mean"].isel(chain=[chain]))
        np.testing.assert_allclose(predicted.mean(0), fitted, atol=5 * predicted.std(0).max() / np.sqrt(N / 2))


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("shared", [True, False], ids=["shared variances", "a row of variances"])
def test_each_response_has_its_own_effects_and_predictions(factor, treatment, shared):
    p = factor
    Y = np.stack([p.y, p.y**2 / 3, -p.y])
    scale = np.ones(3) if shared else np.array([1.0, 0.2, 3.0])
    with pm.Model(coords={"obs": range(p.n), "response": list("abc")}) as model:
        variances = {"sigma2_g": pm.HalfNormal("sigma2_g"), "sigma2_e": pm.HalfNormal("sigma2_e")}
        if not shared:
            variances = {name: value * scale for name, value in variances.items()}
        flmm.FastLMM(
            "y", spectrum=p.spectrum, observed=Y, dims=("response", "obs"), **variances, **TREATMENTS[treatment]
        )
    tree = flmm.recover_effects(fixed_draws(8000), model=model, random_seed=1)
    flmm.predict(tree, model=model, random_seed=2)
    flmm.predict(tree, p.X_new, W_new=p.W_new, model=model, random_seed=3)
    assert tree.posterior["y_beta"].dims == ("chain", "draw", "response", "y_coef")
    for t in range(3):
        mean, cov = conditional(p, Y[t], treatment, G * scale[t], E * scale[t])
        draws = np.hstack([flat_draws(tree.posterior[f"y_{v}"].isel(response=t)) for v in ("beta", "u")])
        assert_moments(draws, mean[: 3 + p.n], cov[: 3 + p.n, : 3 + p.n])
        lift = np.hstack([p.X, np.eye(p.n)])
        fitted, spread = lift @ mean[: 3 + p.n], lift @ cov[: 3 + p.n, : 3 + p.n] @ lift.T
        y = flat_draws(tree.posterior_predictive["y"].isel(response=t))
        assert_moments(y, fitted, spread + E * scale[t] * np.eye(p.n))
        new = np.hstack([p.X_new, np.zeros((p.q, p.n)), np.eye(p.q)])
        f_new = flat_draws(tree.predictions["y_mean"].isel(response=t))
        assert_moments(f_new, new @ mean, new @ cov @ new.T)


def test_responses_are_labelled_even_when_they_share_their_variances(factor):
    p = factor
    with pm.Model(coords={"obs": range(p.n), "response": ["a", "b"]}) as model:
        Y = np.stack([p.y, -p.y])
        flmm.FastLMM("y", spectrum=p.spectrum, sigma2_g=G, sigma2_e=E, observed=Y, dims=("response", "obs"))
    tree = flmm.recover_effects(fixed_draws(10), model=model)
    flmm.predict(tree, model=model)
    for array in (tree.posterior["y_beta"], tree.posterior["y_u"], tree.posterior_predictive["y"]):
        assert list(array.coords["response"].values) == ["a", "b"]


def test_dimensions_and_coordinates_are_named(factor):
    p = factor
    X = pd.DataFrame(p.X, columns=["one", "time", "dose"])
    with pm.Model(coords={"person": [f"id{i}" for i in range(p.n)]}) as model:
        flmm.FastLMM(
            "z", spectrum=flmm.Spectrum.from_factor(p.W, X), sigma2_g=G, sigma2_e=E, observed=p.y, dims="person"
        )  # fmt: skip
    tree = flmm.recover_effects(fixed_draws(20), model=model)
    assert tree.posterior["z_beta"].dims == ("chain", "draw", "z_coef")
    assert list(tree.posterior["z_coef"].values) == ["one", "time", "dose"]
    assert tree.posterior["z_u"].dims == ("chain", "draw", "person")
    assert list(tree.posterior["person"].values) == [f"id{i}" for i in range(p.n)]
    flmm.predict(tree, model=model)
    assert set(tree.posterior_predictive.data_vars) == {"z", "z_mean"}
    assert list(tree.posterior_predictive["person"].values) == [f"id{i}" for i in range(p.n)]
    new = pd.DataFrame(p.X_new, columns=X.columns, index=list("wxyz"))
    flmm.predict(tree, new, W_new=p.W_new, model=model)
    assert tree.predictions["z"].dims == ("chain", "draw", "z_new")
    assert list(tree.predictions["z_new"].values) == list("wxyz")
    assert "posterior" in tree.children
    assert "z_u" in tree.posterior


def test_ids_align_new_rows_with_the_training_rows():
    p = make_problem("full rank")
    ids, new_ids = [f"id{i}" for i in range(p.n)], list("wxyz")
    spectrum = flmm.Spectrum.from_covariance(pd.DataFrame(p.K, ids, ids), p.X)
    with pm.Model() as model:
        flmm.FastLMM("y", spectrum=spectrum, sigma2_g=G, sigma2_e=E, observed=p.y)
    X_new = pd.DataFrame(p.X_new, new_ids, ["x0", "x1", "x2"])
    K_new = pd.DataFrame(p.K_new, new_ids, ids)
    K_new_new = pd.DataFrame(p.K_new_new, new_ids, new_ids)

    def predicted(*args, **kwargs):
        tree = flmm.predict(fixed_draws(20), *args, model=model, random_seed=1, **kwargs)
        return tree.predictions["y_mean"]

    expected = predicted(p.X_new, p.K_new, K_new_new=p.K_new_new)
    assert list(expected["y_new"].values) == [0, 1, 2, 3]
    order = np.random.default_rng(0).permutation(p.n)
    columns = predicted(X_new[["x2", "x0", "x1"]], K_new.iloc[:, order], K_new_new=K_new_new)
    np.testing.assert_allclose(columns, expected, rtol=1e-9)
    with pytest.raises(ValueError, match=r"ids of the spectrum are not in K_new"):
        predicted(X_new, K_new.rename(columns={"id3": "stranger"}), K_new_new=K_new_new)


def test_new_rows_of_X_and_K_are_matched_by_id():
    p = make_problem("full rank")
    with pm.Model() as model:
        flmm.FastLMM("y", spectrum=p.spectrum, sigma2_g=G, sigma2_e=E, observed=p.y)
    X_new = pd.DataFrame(p.X_new, list("wxyz"), ["x0", "x1", "x2"])
    K_new = pd.DataFrame(p.K_new, list("wxyz"), range(p.n))
    diagonal = pd.Series(np.diag(p.K_new_new), list("wxyz"))
    mean, _ = conditional(p, p.y, "flat")
    expected = pd.Series(p.X_new @ mean[:3] + mean[3 + p.n :], list("wxyz"))
    K_zyxw, prior = K_new.loc[list("zyxw")], diagonal.loc[list("xwzy")]
    tree = flmm.predict(fixed_draws(4000), X_new, K_zyxw, K_new_new=prior, model=model, random_seed=1)
    f = tree.predictions["y_mean"]
    for new in "wxyz":
        draws = f.sel(y_new=new).to_numpy()
        assert abs(draws.mean() - expected[new]) < 5 * draws.std() / np.sqrt(draws.size)


def test_predictions_of_one_node_leave_those_of_another(factor):
    p = factor
    with pm.Model() as model:
        for name in ("first", "second"):
            flmm.FastLMM(name, spectrum=p.spectrum, sigma2_g=G, sigma2_e=E, observed=p.y)
    tree = fixed_draws(20)
    for name in ("first", "second"):
        flmm.recover_effects(tree, model=model, var_name=name)
        flmm.predict(tree, model=model, var_name=name)
        flmm.predict(tree, p.X_new, W_new=p.W_new, model=model, var_name=name)
    assert {"first_u", "second_u"} <= set(tree.posterior.data_vars)
    for group in (tree.posterior_predictive, tree.predictions):
        assert set(group.data_vars) == {"first", "first_mean", "second", "second_mean"}


def test_without_fixed_effects_there_is_u_alone(factor):
    p = factor
    spectrum = flmm.Spectrum.from_factor(p.W)
    with pm.Model() as model:
        flmm.FastLMM("y", spectrum=spectrum, sigma2_g=G, sigma2_e=E, observed=p.y)
    tree = flmm.recover_effects(fixed_draws(), model=model, random_seed=1)
    gain = G * p.K @ np.linalg.inv(G * p.K + E * np.eye(p.n))
    assert tree.posterior["y_beta"].sizes["y_coef"] == 0
    assert_moments(flat_draws(tree.posterior["y_u"]), gain @ p.y, G * p.K - gain @ (G * p.K))
    flmm.predict(tree, W_new=p.W_new, model=model, random_seed=1)
    weights = G * p.K_new @ np.linalg.inv(G * p.K + E * np.eye(p.n))
    cov = G * p.K_new_new - weights @ (G * p.K_new.T)
    assert_moments(flat_draws(tree.predictions["y_mean"]), weights @ p.y, cov)


def test_draws_come_from_the_random_seed_and_blocks_do_not_change_them(factor, monkeypatch):
    model = make_model(factor)
    first, other = (flmm.predict(fixed_draws(50), model=model, random_seed=s).posterior_predictive["y"] for s in (1, 2))
    monkeypatch.setattr("pm_fastlmm.engines.spectral.node._BUDGET", 40)
    again = flmm.predict(fixed_draws(50), model=model, random_seed=1).posterior_predictive["y"]
    np.testing.assert_allclose(again, first, rtol=1e-12)
    assert not np.any(first.to_numpy() == other.to_numpy())


def test_at_the_boundaries_u_is_zero_or_takes_all_of_the_residual():
    p = make_problem("full rank")
    model = make_model(p)
    shape = (1, 50)
    for g, e in ((0.0, 2.0), (2.0, 0.0)):
        tree = az.from_dict({"posterior": {"sigma2_g": np.full(shape, g), "sigma2_e": np.full(shape, e)}})
        flmm.recover_effects(tree, model=model, random_seed=1)
        beta, u = (flat_draws(tree.posterior[name]) for name in ("y_beta", "y_u"))
        if g == 0:
            np.testing.assert_array_equal(u, 0)
        else:
            np.testing.assert_allclose(beta @ p.X.T + u, np.tile(p.y, (50, 1)), atol=1e-9)


def test_new_effects_need_their_variance(factor):
    model = make_model(factor)
    with pytest.raises(ValueError, match="draws of new effects need their prior variance: give K_new_new"):
        flmm.predict(fixed_draws(10), factor.X_new, factor.K_new, model=model)


def test_new_blocks_must_fit_K(factor):
    model = make_model(factor)
    with pytest.raises(
        ValueError, match="K_new_new and K_new do not fit K: together they are not positive semi-definite"
    ):
        flmm.predict(fixed_draws(10), factor.X_new, factor.K_new, K_new_new=0.1 * factor.K_new_new, model=model)


def test_exactly_one_of_K_new_and_W_new(factor):
    model = make_model(factor)
    for both in ({}, {"K_new": factor.K_new, "W_new": factor.W_new}):
        with pytest.raises(ValueError, match="give exactly one of K_new"):
            flmm.predict(fixed_draws(10), factor.X_new, model=model, **both)


def test_mu_is_not_known_at_new_rows(factor):
    model = make_model(factor, mu=np.ones(factor.n))
    with pytest.raises(ValueError, match="y has a mean mu besides Xβ, which is not known at new rows"):
        flmm.predict(fixed_draws(10), factor.X_new, W_new=factor.W_new, model=model)


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_a_node_that_observes_a_rotated_response_gives_the_draws_of_one_that_observes_y(factor, treatment):
    rotated = factor.spectrum.rotate(factor.y)
    trees = []
    for model in (
        make_model(factor, coords=False, **TREATMENTS[treatment]),
        make_model(factor, rotated, coords=False, **TREATMENTS[treatment]),
    ):
        tree = flmm.recover_effects(fixed_draws(20), model=model, which=("beta", "u", "a"), random_seed=1)
        tree = flmm.predict(tree, model=model, random_seed=2)
        trees.append(flmm.predict(tree, factor.X_new, W_new=factor.W_new, model=model, random_seed=3))
    plain, of_rotated = trees
    for name in ("y_beta", "y_u", "y_a"):
        np.testing.assert_allclose(of_rotated.posterior[name], plain.posterior[name].to_numpy(), rtol=1e-9)
    for group in ("posterior_predictive", "predictions"):
        np.testing.assert_allclose(of_rotated[group]["y"], plain[group]["y"].to_numpy(), rtol=1e-9)
    assert of_rotated.posterior.y_u.dims == ("chain", "draw", "y_obs")


def test_another_statistic_under_a_node_of_a_rotated_response_has_no_y_along_X(factor):
    with pm.Model() as model:
        flmm.FastLMM("y", spectrum=factor.spectrum, sigma2_g=G, sigma2_e=E, observed=factor.spectrum.rotate(factor.y))
    with pm.Model() as other:
        flmm.FastLMM("y", spectrum=factor.spectrum, sigma2_g=G, sigma2_e=E, observed=factor.spectrum.rotate(factor.y))
    other.rvs_to_values[other["y"]] = pt.constant(2 * flmm.lmm_nodes(model)[0].observed)
    for function in (flmm.recover_effects, flmm.predict):
        with pytest.raises(ValueError, match="y observes other z and rss than those of the Rotated it was built with"):
            function(fixed_draws(10), model=other)


def test_coefficients_of_W_map_to_u_and_have_their_posterior(factor):
    # rank(W) < m: y says nothing of some directions of a, whose draws are those of the prior
    W = np.column_stack([factor.W, factor.W[:, 0] + factor.W[:, 1], factor.X[:, 1]])
    p = SimpleNamespace(**vars(factor) | {"W": W, "spectrum": flmm.Spectrum.from_factor(W, factor.X)})
    tree = flmm.recover_effects(fixed_draws(), model=make_model(p, coords=False), which=("u", "a"), random_seed=1)
    a = tree.posterior.y_a.to_numpy().reshape(N, -1)
    np.testing.assert_allclose(a @ W.T, tree.posterior.y_u.to_numpy().reshape(N, -1), atol=1e-8)
    V = G * W @ W.T + E * np.eye(p.n)
    C = np.linalg.inv(p.X.T @ np.linalg.solve(V, p.X))
    P = np.linalg.inv(V) - np.linalg.solve(V, p.X) @ C @ np.linalg.solve(V, p.X).T
    assert_moments(a, G * W.T @ P @ p.y, G * np.eye(W.shape[1]) - G**2 * W.T @ P @ W)
    point = factor_effects(p.spectrum.rotate(p.y), np.array(G), np.array(E))
    np.testing.assert_allclose(point.mean, G * W.T @ P @ p.y, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(point.variance, np.diag(G * np.eye(W.shape[1]) - G**2 * W.T @ P @ W), rtol=1e-9)


def test_coefficients_need_a_factor_and_known_names(factor):
    K = flmm.Spectrum.from_covariance(factor.K, factor.X)
    with pytest.raises(ValueError, match="coefficients of W need a factor, this spectrum is that of a K"):
        flmm.recover_effects(fixed_draws(10), model=make_model(factor, spectrum=K), which=["a"])
    with pytest.raises(ValueError, match="which must be some of 'beta', 'u' and 'a', got 'v'"):
        flmm.recover_effects(fixed_draws(10), model=make_model(factor), which=["v"])


def test_draws_that_are_missing_are_named(factor):
    tree = az.from_dict({"posterior": {"sigma2_g": np.ones((1, 5))}})
    with pytest.raises(ValueError, match="the posterior has no draws of sigma2_e: sample without leaving them out"):
        flmm.recover_effects(tree, model=make_model(factor))


def test_the_node_must_be_named_when_there_are_several(factor):
    with pm.Model() as model:
        for name in ("first", "second"):
            flmm.FastLMM(name, spectrum=factor.spectrum, sigma2_g=G, sigma2_e=E, observed=factor.y)
    for function in (flmm.recover_effects, flmm.predict):
        with pytest.raises(ValueError, match=r"several LMM nodes \(first, second\): name one with var_name="):
            function(fixed_draws(10), model=model)
        with pytest.raises(ValueError, match="no LMM node is called 'third'"):
            function(fixed_draws(10), model=model, var_name="third")


def test_a_node_without_data_has_no_effects_to_recover(factor):
    with pm.Model() as model:
        flmm.FastLMM("y", spectrum=factor.spectrum, sigma2_g=G, sigma2_e=E, beta=b)
    for function in (flmm.recover_effects, flmm.predict):
        with pytest.raises(ValueError, match="y has no observed data"):
            function(fixed_draws(10), model=model)


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_replicates_of_a_dense_model_have_the_moments_of_V_and_of_the_conditional_of_beta(treatment):
    p = make_problem("full rank")
    shift = np.sin(np.arange(p.n))
    with pm.Model() as model:
        g, e = pm.HalfNormal("sigma2_g"), pm.HalfNormal("sigma2_e")
        V = g * p.K + e * pt.eye(p.n)
        flmm.DenseLMM("y", V=V, X=p.X, observed=p.y, mu=shift, **TREATMENTS[treatment])
    tree = flmm.predict(fixed_draws(2000), effects="new", model=model, random_seed=1)
    mean, cov = conditional(p, p.y - shift, treatment)
    mean, cov = shift + p.X @ mean[:3], p.X @ cov[:3, :3] @ p.X.T
    if treatment == "explicit":
        np.testing.assert_allclose(flat_draws(tree.posterior_predictive["y_mean"])[7], mean)
    else:
        assert_moments(flat_draws(tree.posterior_predictive["y_mean"]), mean, cov)
    assert_moments(flat_draws(tree.posterior_predictive["y"]), mean, cov + G * p.K + E * np.eye(p.n))
    with pytest.raises(ValueError, match=r"y is a DenseLMM: .* effects='new'"):
        flmm.predict(fixed_draws(4), model=model)


def test_a_dense_model_without_data_or_definite_V_is_not_replicated():
    with pm.Model() as model:
        v = pm.Normal("v")
        flmm.DenseLMM("y", V=v * pt.eye(3), observed=np.arange(3.0))
        flmm.DenseLMM("z", V=pt.eye(3) * v, shape=3)
    idata = az.from_dict({"posterior": {"v": np.array([[1.0, -1.0]] * 2)}})
    with pytest.raises(ValueError, match="V of y is not positive definite at draw 1"):
        flmm.predict(idata, effects="new", model=model, var_name="y")
    with pytest.raises(ValueError, match="z has no observed data"):
        flmm.predict(idata, effects="new", model=model, var_name="z")
