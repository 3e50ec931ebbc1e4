"""Marginal means and contrasts: those of emmeans, averages of cells written out, and several tests at once."""

import numpy as np
import pandas as pd
import pytest
from lmertest import CASES, fit_of, rows_of
from numpy.testing import assert_allclose
from scipy.stats import studentized_range

import pm_fastlmm as flmm
from pm_fastlmm.kernel.inference.multiple import _of_few

COLUMNS = ["estimate", "se", "df", "t", "p_value", "lower", "upper"]


@pytest.fixture(scope="module")
def crossed():
    return fit_of("crossed")


def require_same(table, reference):
    given = {name: np.array(reference[name], dtype=float) for name in COLUMNS if reference.get(name)}
    assert len(given) > 4
    assert_allclose(table[list(given)], pd.DataFrame(given), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("key", "names", "options"),
    [
        ("A", "A", {}),
        ("A_within_B", ["B", "A"], {}),
        ("A_and_B", ["A", "B"], {}),
        ("A_at_25", "A", {"at": {"x": 25}}),
        ("A_kenward_roger", "A", {"df": "kenward-roger"}),
    ],
)
def test_means_are_those_of_emmeans(crossed, key, names, options):
    table = crossed.marginal_means(names, **options)
    require_same(table, CASES["crossed"]["means"][key])
    assert list(table.index.names) == [names] if isinstance(names, str) else names


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("pairs_A", {}),
        ("pairs_A_within_B", {"by": "B"}),
        ("holm_A", {"kind": "reference"}),
        ("none_A", {"kind": "reference", "adjust": "none"}),
    ],
)
def test_contrasts_are_those_of_emmeans(crossed, key, options):
    require_same(crossed.contrasts("A", **options), CASES["crossed"]["means"][key])


def test_means_do_not_depend_on_the_contrasts_of_factors(crossed):
    other = fit_of("crossed", "contr.sum")
    assert_allclose(crossed.marginal_means("A"), other.marginal_means("A"), rtol=1e-6)
    assert_allclose(crossed.contrasts("A", by="B"), other.contrasts("A", by="B"), rtol=1e-5)


def test_slopes_are_compared_where_the_covariate_is_asked():
    fit, means = fit_of("slopes"), CASES["slopes"]["means"]
    require_same(fit.marginal_means("A"), means["A"])
    table = fit.marginal_means(["A", "x"], at={"x": [18, 22]})
    require_same(table, means["A_by_x"])
    assert list(table.index) == [("a", 18), ("a", 22), ("b", 18), ("b", 22), ("c", 18), ("c", 22)]


@pytest.mark.filterwarnings("ignore:X has rank")
def test_what_needs_a_cell_without_data_is_undefined():
    fit, means = fit_of("empty_cell"), CASES["empty_cell"]["means"]
    table, pairs = fit.marginal_means("A"), fit.contrasts("A", by="B", adjust="none")
    require_same(table, means["A"])
    require_same(pairs, means["none_A_within_B"])
    assert repr(table).splitlines()[-1] == "the data do not determine c: cells without data belong to them"
    assert "the data do not determine q a - c, q b - c" in repr(pairs)
    adjusted = fit.contrasts("A", by="B")
    assert list(adjusted["p_value"].isna()) == [False] * 4 + [True] * 2


def test_a_mean_is_the_average_of_predictions(crossed):
    data = rows_of("crossed")
    grid = pd.DataFrame({"A": list("bb"), "B": list("pq"), "x": data["x"].mean()})
    predicted = crossed.predict(data=grid, effects="population")
    table = crossed.marginal_means("A")
    assert_allclose(table.loc["b", "estimate"], predicted.mean.mean(), rtol=1e-10)
    l = np.array([1, 1, 0, 0.5, data["x"].mean(), 0.5, 0])  # noqa: E741 - the contrast of the formula
    assert_allclose(table.loc["b", "se"], np.sqrt(l @ crossed.blue_cov @ l), rtol=1e-10)
    assert repr(table).splitlines()[0] == f"Marginal means of A, averaged over B, at x = {data['x'].mean():.6g}"


def test_weights_of_your_own_and_another_reference(crossed):
    means = crossed.marginal_means("A")["estimate"]
    own = crossed.contrasts("A", {"later": {"a": -1, "b": 0.5, "c": 0.5}})
    assert_allclose(own.loc["later", "estimate"], (means["b"] + means["c"]) / 2 - means["a"], rtol=1e-10)
    other = crossed.contrasts("A", "reference", at={"A": ["c", "a"]})
    assert list(other.index) == ["a - c"]
    assert_allclose(other, crossed.contrasts("A", at={"A": ["a", "c"]}), rtol=1e-10)  # two means have one difference
    assert_allclose(other.loc["a - c", "estimate"], means["a"] - means["c"], rtol=1e-10)


def test_columns_inside_calls_are_called_by_their_names():
    data = rows_of("crossed").assign(
        year=lambda d: 2000 + d["B"].map({"p": 1, "q": 3}), late=lambda d: d["x"] > 20, z=lambda d: d["x"] ** 2
    )
    fit = flmm.find_reml("y ~ A*factor(year) + late + cut(z, 3) + log(x) + (1 | g)", data, progressbar=False)
    assert list(fit.marginal_means("year").index) == [2001, 2003]
    assert list(fit.marginal_means("late").index) == [False, True]
    assert repr(fit.marginal_means("A")).startswith("Marginal means of A, averaged over year and late and z, at x = 20")
    classes = pd.get_dummies(pd.cut(data["z"], 3)).shape[1]
    z = fit.beta[[name for name in fit.coef if name.startswith("cut")]].sum() / classes
    fixed = {"Intercept": 1, "factor(year)[T.2003]": 0.5, "late[T.True]": 0.5, "log(x)": np.log(data["x"].mean())}
    assert_allclose(
        fit.marginal_means("A").loc["a", "estimate"], sum(fit.beta[k] * w for k, w in fixed.items()) + z, rtol=1e-9
    )
    with pytest.raises(ValueError, match="makes 3 classes of 'z', which have no names"):
        fit.marginal_means("z")


def test_several_responses_have_means_each():
    data = rows_of("crossed").assign(other=lambda d: d["y"].to_numpy()[::-1])
    design = flmm.Design.from_formula("y + other ~ A*B + x", data, W=pd.get_dummies(data["g"], dtype=float))
    fits = flmm.reml(design.spectrum(), pd.DataFrame(design.y, columns=list(design.responses)))
    for made in (lambda f: f.marginal_means("A"), lambda f: f.contrasts("A", "reference", by="B", adjust="bonferroni")):
        for response in design.responses:
            assert_allclose(made(fits).loc[response], made(fits.response(response)), rtol=1e-10)


def test_holm_and_bonferroni_of_a_family(crossed):
    raw, holm, bonferroni = (crossed.contrasts("A", by="B", adjust=adjust) for adjust in ("none", "holm", "bonferroni"))
    for cell in "pq":
        p = raw.loc[cell, "p_value"].to_numpy()
        order = np.argsort(p)
        expected = np.empty(3)
        expected[order] = np.minimum(np.maximum.accumulate(p[order] * [3, 2, 1]), 1)
        assert_allclose(holm.loc[cell, "p_value"], expected, rtol=1e-12)
        assert_allclose(bonferroni.loc[cell, "p_value"], np.minimum(3 * p, 1), rtol=1e-12)
    same = crossed.contrasts("A", by="B", adjust="none", level=1 - 0.05 / 3)
    assert_allclose(bonferroni["lower"], same["lower"], rtol=1e-10)


def test_tukeys_limits_are_where_its_p_is_one_minus_the_level(crossed):
    table = crossed.contrasts("A")
    q = np.sqrt(2) * (table["upper"] - table["estimate"]) / table["se"]
    assert_allclose(studentized_range.sf(q, 3, table["df"]), 0.05, rtol=1e-6)


def test_quantiles_of_many_degrees_of_freedom_are_interpolated():
    calls = []

    def quantile(df):
        calls.append(len(df))
        return 3.3 + 5 / df + 7 / df**2

    df = np.linspace(20, 60, 500)
    assert_allclose(_of_few(quantile, df), quantile(df), rtol=1e-8)
    assert max(calls[:-1]) < 10


def test_what_has_no_mean_is_told(crossed):
    with pytest.raises(ValueError, match=r"'x' is a covariate.*at="):
        crossed.marginal_means("x")
    with pytest.raises(ValueError, match="asked of 'g', which is no column of the fixed effects: they are A, B, x"):
        crossed.marginal_means("g")
    with pytest.raises(ValueError, match="at has 'z', which is no column"):
        crossed.marginal_means("A", at={"z": 1})
    with pytest.raises(ValueError, match="B has no level 'r' in the fit"):
        crossed.marginal_means("A", at={"B": "r"})
    for names, got in (((), "none"), (("A", "A"), "A, A")):
        with pytest.raises(ValueError, match=f"several different ones, got {got}"):
            crossed.marginal_means(names)
    with pytest.raises(ValueError, match="A has one mean, a"):
        crossed.contrasts("A", at={"A": "a"})
    with pytest.raises(ValueError, match="weights of 'k': the means are of a, b, c"):
        crossed.contrasts("A", {"odd": {"a": 1, "k": -1}})
    with pytest.raises(ValueError, match="is for kind='pairwise'"):
        crossed.contrasts("A", "reference", adjust="tukey")
    with pytest.raises(ValueError, match="kind must be 'pairwise' or 'reference', got 'pairs'"):
        crossed.contrasts("A", "pairs")
    data = rows_of("crossed")
    bare = flmm.reml(flmm.Spectrum.from_factor(pd.get_dummies(data["g"], dtype=float), np.ones((90, 1))), data["y"])
    with pytest.raises(ValueError, match="X without a formula"):
        bare.marginal_means("A")
