"""The order and the labels of a structure belong to the levels, wherever it stands: V pair by pair."""

from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.covariance.terms import Term

GROUP, TIME = list("aaabbb"), [1, 2, 4] * 2
RHO = 0.5
STEPS = pd.Categorical(TIME, categories=[1, 2, 3, 4])
WEEKS = pd.Categorical([f"week {t}" for t in TIME], categories=[f"week {t}" for t in range(1, 5)])
AR1 = cov.ar1(1.0, RHO)
TWO = cov.block_diagonal(*[cov.ar1(1.0, RHO, size=3)] * 2)
BY_GROUP = cov.kronecker(cov.identity(2), AR1)
RIGHT = np.array(
    [[(a == b) * RHO ** abs(s - t) for b, t in zip(GROUP, TIME, strict=True)] for a, s in zip(GROUP, TIME, strict=True)]
)
DUMMIES = pd.get_dummies(pd.Series([f"t{t}" for t in TIME])).astype(float)
K = pd.DataFrame([[2.0, 0.1, 0.2], [0.1, 3.0, 0.3], [0.2, 0.3, 4.0]], list("cba"), list("cba"))


def covariance_of_rows(term):
    return term.Z @ term.covariance.dense() @ term.Z.T


@pytest.mark.parametrize(
    ("by", "covariance"),
    [
        ([GROUP, STEPS], BY_GROUP),
        ([GROUP, WEEKS], BY_GROUP),
        ([GROUP, STEPS], cov.kronecker(cov.identity(), AR1)),
        ([GROUP, STEPS], BY_GROUP + cov.scalar(0.0)),
        ([GROUP, STEPS], cov.kronecker(cov.identity(), cov.ar1(1.0, 1.0)) * BY_GROUP),
        ([GROUP, STEPS], cov.kronecker(cov.identity(), AR1 * cov.compound_symmetry(1.0, 0.0))),
        ((GROUP, STEPS), cov.identity(2) @ AR1),
        (cov.incidence([GROUP, STEPS], unused="keep"), BY_GROUP),
        (pd.Categorical([f"{g}{t}" for g, t in zip(GROUP, TIME, strict=True)],
                        categories=[f"{g}{t}" for g in "ab" for t in range(1, 5)]), BY_GROUP),
    ],
)  # fmt: skip
def test_steps_without_data_are_steps_in_any_composition(by, covariance):
    assert_allclose(covariance_of_rows(Term(by, covariance)), RIGHT)


def test_either_factor_may_be_the_ordered_one():
    term = Term([STEPS, GROUP], cov.kronecker(AR1, cov.identity()))
    assert term.levels == tuple(f"{t}:{g}" for t in range(1, 5) for g in "ab")
    assert_allclose(covariance_of_rows(term), RIGHT)
    rows = pd.Categorical([1, 3, 1, 3, 1, 3], categories=[1, 2, 3])
    both = covariance_of_rows(Term([rows, STEPS], cov.kronecker(cov.ar1(2.0, 0.3), AR1)))
    expected = [
        [2 * 0.3 ** abs(r - s) * RHO ** abs(t - u) for s, u in zip(rows, TIME, strict=True)]
        for r, t in zip(rows, TIME, strict=True)
    ]
    assert_allclose(both, expected)


def test_combinations_that_do_not_occur_leave_the_others_where_they_are():
    group, time = list("aabbb"), [1, 2, 2, 3, 1]
    S = np.array([[2.0, 0.5, 0.1], [0.5, 3.0, 0.7], [0.1, 0.7, 4.0]])
    term = Term([group, time], cov.kronecker(cov.identity(), cov.unstructured(S)))
    expected = [
        [(a == b) * S[s - 1, t - 1] for b, t in zip(group, time, strict=True)] for a, s in zip(group, time, strict=True)
    ]
    assert_allclose(covariance_of_rows(term), expected)


def test_steps_across_levels_with_columns():
    slopes = np.column_stack([np.ones(3), [0.5, 1.0, 2.0]])
    B = np.array([[2.0, 0.3], [0.3, 0.7]])
    term = Term(WEEKS[:3], cov.unstructured(B), columns=slopes, across=AR1)
    expected = [
        [RHO ** abs(s - t) * x @ B @ z for z, t in zip(slopes, TIME, strict=False)]
        for x, s in zip(slopes, TIME, strict=False)
    ]
    assert_allclose(covariance_of_rows(term), expected)


def test_blocks_have_the_steps_of_their_own_levels():
    levels = [1, 2, 3, 11, 12, 13]
    two = cov.block_diagonal(cov.ar1(1.0, RHO, size=3), cov.ar1(2.0, RHO, size=3))
    assert_array_equal(Term(levels, two).covariance.dense(), two.dense())


@pytest.mark.parametrize(
    "labels",
    [
        [2001, 2002, 2003],
        ["week 1", "week 2", "week 3"],
        ["0.5", "1.0", "1.5"],
        pd.to_datetime(["2020-01-31", "2020-02-29", "2020-03-31"]),
        pd.to_datetime(["2020-01-03", "2020-01-06", "2020-01-07"]),  # a Friday, Monday and Tuesday
        pd.period_range("2020-01", periods=3, freq="M"),
        pd.to_timedelta([0, 12, 24], unit="h"),
        pd.Categorical(["low", "medium", "top"], ordered=True),
        pd.Categorical(["low", "high", "top"], categories=["low", "high", "top"]),
        pd.Categorical(["q3 of 2020", "q4 of 2020", "q1 of 2021"], ["q3 of 2020", "q4 of 2020", "q1 of 2021"]),
        cov.incidence(pd.Categorical(["low", "high", "top"], categories=["low", "high", "top"])),
        pd.DataFrame(np.eye(3), columns=["low", "high", "top"]),
    ],
)
def test_levels_one_step_apart_are_taken(labels):
    assert_allclose(Term(labels, AR1).covariance.dense()[0], [1, 0.5, 0.25])


def test_a_labelled_K_is_matched_wherever_it_stands():
    labels = list("bac")
    right = K.loc[labels, labels].to_numpy()
    assert_allclose(covariance_of_rows(Term(labels, cov.known(K) + cov.scalar(0.5))), right + 0.5 * np.eye(3))
    assert_allclose(covariance_of_rows(Term(labels, cov.known(K) * cov.known(K))), right**2)
    times = [1, 2, 1]
    found = covariance_of_rows(Term([labels, times], cov.kronecker(cov.known(K), AR1)))
    assert_allclose(found, right * RHO ** np.abs(np.subtract.outer(times, times)))
    table = pd.get_dummies(pd.Series(labels)).astype(float)
    assert_allclose(cov.propagate(table, cov.known(K)).dense(), right)


def test_categories_that_no_operand_needs_are_left_out():
    both = Term(STEPS, cov.scalar(1.0) + cov.compound_symmetry(1.0, 1.0))
    assert both.levels == (1, 2, 4)
    crossed = Term([GROUP, STEPS], cov.kronecker(cov.identity(), cov.compound_symmetry(1.0, 1.0)))
    assert crossed.levels == ("a:1", "a:2", "a:4", "b:1", "b:2", "b:4")


def test_new_rows_reach_a_step_without_data():
    y = np.array([1.0, 2, 4, 0, 1, 3])
    with pm.Model() as model:
        v, e = pm.HalfNormal("v"), pm.HalfNormal("e")
        term = Term([GROUP, STEPS], cov.kronecker(cov.identity(), cov.ar1(v, RHO)), name="series")
        flmm.StructuredLMM("y", X=np.ones((6, 1)), terms=[term], sigma2_e=e, observed=y)
    fit = flmm.find_reml(model, progressbar=False)
    new = fit.predict(X_new=np.ones((1, 1)), Z_new={"series": ["a:3"]})
    V = fit.theta.iloc[0] * RIGHT + fit.theta.iloc[-1] * np.eye(6)
    beta = np.linalg.solve(V, np.ones(6)) @ y / np.linalg.solve(V, np.ones(6)).sum()
    covariances = fit.theta.iloc[0] * np.array([RHO**2, RHO, RHO, 0, 0, 0])
    assert_allclose(np.asarray(new.mean), beta + covariances @ np.linalg.solve(V, y - beta), rtol=1e-8)


def test_a_gap_of_three_steps_counts_as_three_in_the_likelihood():
    """Log-likelihood and ρ are those of the dense V; with the gap closed they were -523.44 and .70."""
    data = pd.read_csv(Path(__file__).parents[1] / "reference" / "ar1_gap.csv")
    y, X = data["y"].to_numpy(), np.ones((len(data), 1))
    time = pd.Categorical(data["time"], categories=range(1, 11))
    with pm.Model() as model:
        v, e = pm.HalfNormal("v", 2), pm.HalfNormal("e", 2)
        rho = pm.Uniform("rho", -1, 1)
        term = Term([data["g"], time], cov.kronecker(cov.identity(), cov.ar1(v, rho)), name="series")
        flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=e, observed=y)
    fit = flmm.find_reml(model, progressbar=False)
    lag = np.abs(np.subtract.outer(*[data["time"].to_numpy()] * 2))
    same = np.equal.outer(*[data["g"].to_numpy()] * 2)

    def negative(theta):
        V = np.exp(theta[0]) * same * np.tanh(theta[1]) ** lag + np.exp(theta[2]) * np.eye(len(y))
        L = np.linalg.cholesky(V)
        a, b = np.linalg.solve(L, X), np.linalg.solve(L, y)
        beta = np.linalg.lstsq(a, b)[0]
        rss, p = ((b - a @ beta) ** 2).sum(), len(y) - 1
        return np.log(np.diag(L)).sum() + 0.5 * (np.log((a**2).sum()) + rss + p * np.log(2 * np.pi))

    at = [np.log(fit.theta.iloc[0]), np.arctanh(fit.theta.iloc[1]), np.log(fit.theta.iloc[2])]
    found = minimize(negative, at, method="Nelder-Mead", options={"maxfev": 60})
    assert fit.loglik == pytest.approx(-502.0200535, abs=1e-6)
    assert fit.theta.iloc[1] == pytest.approx(0.780, abs=5e-4)
    assert_allclose(fit.loglik, -negative(at), rtol=1e-10)
    assert -found.fun <= fit.loglik + 1e-8


MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def months(animals=20, rho=0.8):
    """Series of an autoregressive process over the months, and an error."""
    rng, T = np.random.default_rng(0), len(MONTHS)
    R = rho ** np.abs(np.subtract.outer(np.arange(T), np.arange(T)))
    u = rng.normal(size=(animals, T)) @ np.linalg.cholesky(R).T
    y = 3 + u.ravel() + 0.3 * rng.normal(size=animals * T)
    return pd.DataFrame({"animal": np.repeat(np.arange(animals), T), "month": np.tile(MONTHS, animals), "y": y})


def series_of(animal, month, y):
    with pm.Model() as model:
        v, e, rho = pm.HalfNormal("v", 2), pm.HalfNormal("ve", 2), pm.Uniform("rho", -1, 1)
        term = Term([animal, month], cov.kronecker(cov.identity(), cov.ar1(v, rho)), name="series")
        flmm.StructuredLMM("y", X=np.ones((len(y), 1)), terms=[term], sigma2_e=e, observed=y)
    return flmm.find_reml(model, progressbar=False)


def test_months_are_steps_in_the_order_that_the_message_asks_for():
    """In the order of the alphabet the correlation of neighbours was .996, without a word."""
    data = months()
    with pytest.raises(ValueError, match="nobody has put in order") as refused:
        series_of(data["animal"], data["month"], data["y"])
    remedy = str(refused.value).split("order: ")[1].rstrip(".").replace('["first", "second", ...]', repr(MONTHS))
    found = series_of(data["animal"], eval(remedy, {"pd": pd, "month": data["month"]}), data["y"])
    number = data["month"].map(MONTHS.index)
    expected = series_of(data["animal"], number, data["y"])
    assert_allclose(found.theta, expected.theta, rtol=1e-6)
    assert found.theta["series.rho"] == pytest.approx(0.8, abs=0.05)


NO_ORDER = "ar1 needs the order of the levels of term 'u', which are text that nobody has put in order; sorted, they"


@pytest.mark.parametrize(
    ("by", "covariance"),
    [
        (["low", "medium", "top"], AR1),
        (["q3 of 2020", "q4 of 2020", "q1 of 2021"], AR1),
        (pd.Series(["low", "high", "top"]).astype("category"), AR1 + cov.scalar(1.0)),
        (pd.Categorical(["low", "high", "top"]), AR1),
        (pd.Categorical(["low", "top", "high"], categories=["high", "low", "top"]), AR1 * AR1),
        ([GROUP, ["low", "high", "top"] * 2], cov.kronecker(cov.identity(), AR1)),
        ([pd.Categorical(["low", "high", "top"] * 2), GROUP], cov.kronecker(AR1, cov.identity())),
        (cov.incidence(["low", "high", "top"]), AR1),
        (cov.incidence([GROUP, ["low", "high", "top"] * 2]), BY_GROUP),
        (list("abcdef"), TWO),
        ([1, "b", "c"], AR1),
    ],
)
def test_an_order_that_nobody_gave_is_not_used(by, covariance):
    with pytest.raises(ValueError, match=NO_ORDER):
        Term(by, covariance)


def test_the_message_names_the_factor_without_an_order():
    dose = pd.Series(["low", "high", "top"] * 2, name="dose")
    with pytest.raises(ValueError, match="ar1 needs the order") as refused:
        Term([pd.Series(GROUP, name="g"), dose], cov.kronecker(cov.identity(), AR1))
    assert str(refused.value) == (
        "ar1 needs the order of the levels of term 'g:dose', which are text that nobody has put in order; sorted, they "
        "are 'high', 'low', 'top'. Give them in their order: pd.Categorical(dose, [\"first\", \"second\", ...], "
        "ordered=True)."
    )


def test_two_levels_have_one_order():
    assert_allclose(Term(["pre", "post"], AR1).covariance.dense(), [[1, RHO], [RHO, 1]])


def test_other_structures_take_text_without_an_order():
    assert Term(["low", "high", "top"], cov.compound_symmetry(1.0, 1.0)).levels == ("high", "low", "top")


UNEVEN = "ar1 needs equally spaced levels, but those of term"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Term([GROUP, TIME], BY_GROUP), rf"{UNEVEN} 'u' are not \(1, 2, 4\): give a Categorical whose"),
        (lambda: Term([GROUP, [f"t{t}" for t in TIME]], BY_GROUP), rf"{UNEVEN} 'u' are not \('t1', 't2', 't4'\)"),
        (lambda: Term([f"{g}{t}" for g, t in zip(GROUP, TIME, strict=True)], BY_GROUP),
         rf"{UNEVEN} 'u' are not \('a1', 'a2', 'a4'\)"),
        (lambda: Term(["t1", "t10", "t2"], AR1), UNEVEN),
        (lambda: Term(pd.to_datetime(["2020-01-01", "2020-02-01", "2020-04-01"]), AR1), UNEVEN),
        (lambda: Term(pd.PeriodIndex(["2020-01", "2020-02", "2020-04"], freq="M"), AR1), UNEVEN),
        (lambda: Term([1, 2, 4], AR1 * cov.scalar(1.0)), UNEVEN),
        (lambda: Term([1, 2, 4, 11, 12, 13], TWO),
         rf"{UNEVEN} 'u' are not \(1, 2, 4\)"),
        (lambda: Term(DUMMIES, AR1), UNEVEN),
        (lambda: Term(GROUP, AR1, columns=DUMMIES),
         r"ar1 needs equally spaced columns, but those of term 'u' are not \('t1', 't2', 't4'\): give a col"),
        (lambda: cov.propagate(DUMMIES, AR1), "ar1 needs equally spaced columns, but those of term 'Z'"),
        (lambda: Term(cov.incidence(WEEKS), AR1),
         r"1 categories of term 'u' without data were left out \('week 3'\): give the factor itself, or incidence"),
        (lambda: Term([GROUP, STEPS], AR1), "combinations of 2 factors, of which neighbours are not one step apart"),
        (lambda: Term([GROUP, STEPS], TWO), "combinations of 2 factors"),
        (lambda: Term([GROUP, STEPS], cov.kronecker(cov.identity(2), AR1, cov.identity(1))),
         "is over combinations of 2 factors, but its covariance is a product of 3 structures: give one for each"),
        (lambda: Term(WEEKS[:3], cov.ar1(1.0, RHO, size=3)),
         "has size 3, but there are 4 levels"),
        (lambda: Term([list("aab"), [1, 2, 4]], cov.kronecker(cov.identity(), cov.unstructured(np.eye(2)))),
         "has size 2, but there are 3 levels"),
        (lambda: Term(list("abd"), cov.known(K) + cov.scalar(1.0)), r"K of term 'u' lacks 1 of its 3 levels \('d'\)"),
        (lambda: Term([list("abd"), [1, 1, 2]], cov.kronecker(cov.known(K), AR1)), r"lacks 1 of its 3 levels \('d'\)"),
        (lambda: cov.incidence(GROUP, unused="all"), "unused must be 'drop' or 'keep', got 'all'"),
    ],
)  # fmt: skip
def test_what_would_close_a_gap_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
