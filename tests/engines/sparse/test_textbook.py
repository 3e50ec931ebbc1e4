"""
Worked examples of a textbook, at the variances that it gives: effects, their errors and reliabilities, as printed.

R. A. Mrode (2014), Linear Models for the Prediction of Animal Breeding Values, 3rd edition, CABI; numbers of examples
are those of R. A. Mrode & I. Pocrnic (2023), 4th edition. Data and printed solutions are public at
https://github.com/JuliaBnG/Mrode-4ed-examples.jl, and those of BLUPF90 for the same examples in the tutorial of
Y. Masuda, https://masuday.github.io/blupf90_tutorial, or github.com/masuday/Blupf90TutorialStandard. They agree, but
for the curve of animal 3 in example 10.2, .13166, -.02908, .07040 there and .1311, -.0247, .0686 in the book and here.
"""

from unittest import mock

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.polynomial import legendre
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.structured import choice

PRINTED = 6e-4  # half of the third decimal, and the rounding of what the book computes it of
QUIET = {"progressbar": False}


@pytest.fixture(scope="module", params=["sparse equations", "blocked elimination"], autouse=True)
def engine(request):
    """Each example by both engines of terms."""
    with mock.patch.multiple(choice, _SMALL=-1 if request.param == "sparse equations" else 10**6):
        yield


@pytest.fixture(scope="module")
def book(reference):
    return reference.json("mrode.json")


def pedigree(example):
    return cov.Pedigree(range(1, len(example["sire"]) + 1), example["sire"], example["dam"])


def solved(formula, records, fixed, **known):
    return flmm.find_reml(formula, pd.DataFrame(records), known=known, fixed=fixed, **QUIET)


def test_an_animal_model_of_weights_of_calves(book):
    """Example 4.1; the book's own reliabilities are of diagonals with three decimals."""
    given = book["animal"]
    ped = pedigree(given["pedigree"])
    fit = solved("y ~ 0 + sex + (1 | animal)", given["records"], given["fixed"], animal=ped)
    assert_allclose(fit.beta[list(given["beta"])], list(given["beta"].values()), atol=PRINTED)
    effects = fit.effects("animal")
    assert_allclose(effects["blup"], given["blup"], atol=PRINTED)
    assert_allclose(effects["se"], given["sep"], atol=3e-3)
    assert_allclose(effects["reliability"], given["reliability"], atol=1.01e-3)
    program = given["blupf90"]
    assert_allclose(effects["blup"], program["blup"], atol=1e-8)
    assert_allclose(effects["se"], program["se"], atol=1e-8)
    both = np.column_stack([fit.beta, fit.beta_se])
    assert_allclose(both, [program["beta"][name] for name in fit.coef], atol=1e-8)


def test_groups_of_unknown_parents_are_columns_of_x(book):
    """Example 4.4: group 1 of unknown sires is the base, a + Qg is printed."""
    given, animal = book["groups"], book["animal"]
    ped, sire, dam = pedigree(animal["pedigree"]), *(animal["pedigree"][p] for p in ("sire", "dam"))
    group2 = np.zeros(9)  # share of genes of group 2, that of unknown dams
    for i, (s, d) in enumerate(zip(sire, dam, strict=True), start=1):
        group2[i] = (group2[s] + (group2[d] if d else 1.0)) / 2
    records = pd.DataFrame(animal["records"]).assign(group2=lambda t: group2[t["animal"]])
    fit = solved("y ~ 0 + sex + group2 + (1 | animal)", records, animal["fixed"], animal=ped)
    assert_allclose(fit.beta[list(given["beta"])], list(given["beta"].values()), atol=PRINTED)
    assert_allclose(fit.effects("animal")["blup"] + group2[1:] * fit.beta["group2"], given["a"], atol=PRINTED)
    assert_allclose(1 - group2[1:], given["group1"])


def test_repeated_fat_yields_of_cows(book):
    """Example 5.1: parity and herd-year-season are fixed, with permanent environments."""
    given = book["repeatability"]
    records = pd.DataFrame(given["records"]).assign(permanent=lambda t: t["animal"])
    formula = "y ~ 0 + C(hys) + (1 | animal) + (1 | permanent)"  # each herd-year-season is of one parity
    fit = solved(formula, records, given["fixed"], animal=pedigree(given["pedigree"]))
    assert_allclose(fit.effects("animal")["blup"], given["blup"], atol=PRINTED)
    assert_allclose(fit.effects("permanent")["blup"], given["permanent"], atol=PRINTED)
    assert_allclose(fit.beta, np.add(given["hys"], np.repeat(given["parity"], 2)), atol=2 * PRINTED)


def test_litters_of_pigs(book):
    """Example 5.2."""
    given = book["litters"]
    fit = solved(
        "y ~ 0 + sex + (1 | animal) + (1 | litter)", given["records"], given["fixed"],
        animal=pedigree(given["pedigree"]),
    )  # fmt: skip
    assert_allclose(fit.beta[list(given["beta"])], list(given["beta"].values()), atol=PRINTED)
    assert_allclose(fit.effects("animal")["blup"], given["blup"], atol=PRINTED)
    assert_allclose(fit.effects("litter")["blup"], given["litter"], atol=PRINTED)


def test_two_traits_of_a_calf_with_correlated_residuals(book):
    """Example 6.1: R = (R - I) + I, of which R - I is a term of the records."""
    given, animal = book["bivariate"], book["animal"]
    records = pd.DataFrame(animal["records"])[["animal", "sex"]].assign(wwg=1.0, pwg=0.0, record=range(5))
    long = pd.concat([records, records.assign(wwg=0.0, pwg=1.0)], ignore_index=True)
    long["y"] = np.ravel(given["y"], order="F")
    formula = "y ~ 0 + wwg:sex + pwg:sex + (0 + wwg + pwg | animal) + (0 + wwg + pwg | record)"
    fixed = {"animal": given["G"], "record": given["R"] - np.eye(2), "residual": 1.0}
    fit = solved(formula, long, fixed, animal=pedigree(animal["pedigree"]), record=np.eye(5))
    effects = fit.effects("animal")
    for column in ("blup", "reliability"):
        assert_allclose(effects[column].unstack()[["wwg", "pwg"]], given[column], atol=PRINTED)
    beta = [[fit.beta[f"{trait}:sex[{sex}]"] for trait in ("wwg", "pwg")] for sex in "MF"]
    assert_allclose(beta, given["beta"], atol=PRINTED)


def in_roles(given, roles, G, known, groups, X):
    """A model of one pedigree in several roles, and of groups; its variances are known but for the model."""
    with pm.Model() as model:
        variances = {name: pm.HalfFlat(name) for name in (*groups, "e")}
        terms = [flmm.Term(roles, cov.unstructured(G), across=cov.known(known), name="genes")]
        terms += [flmm.Term(column, cov.scalar(variances[name]), name=name) for name, column in groups.items()]
        flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=variances["e"], observed=given["records"]["y"])
    return model


def dummies(column):
    return (np.asarray(column)[:, None] == np.unique(column)).astype(float)


def test_direct_and_maternal_effects_with_a_covariance(book):
    """Example 8.1: herd and pen are fixed, dams have a permanent environment too."""
    given = book["maternal"]
    records, ped = given["records"], pedigree(given["pedigree"])
    dam = [given["pedigree"]["dam"][i - 1] for i in records["animal"]]
    table = pd.DataFrame(records).assign(dam=dam, permanent=dam)
    formula = "y ~ 0 + C(pen) + C(herd) + (1 |genes| animal) + (1 |genes| dam) + (1 | permanent)"
    fixed = {"genes": given["G"], "permanent": given["permanent_variance"], "residual": given["residual"]}
    fit = solved(formula, table, fixed, animal=ped, dam=ped)
    effects = fit.effects("genes")["blup"].unstack()
    for column, role in (("animal", "direct"), ("dam", "maternal")):
        assert_allclose(effects[column], given[role], atol=PRINTED)
    assert_allclose(fit.effects("permanent")["blup"], list(given["permanent"].values()), atol=PRINTED)
    assert_allclose(fit.beta, [*given["pen"], *given["herd"][1:]], atol=PRINTED)


def test_social_effects_of_two_mates_in_a_pen(book):
    """Example 9.1: two mates of a row are two roles, whose effects of an animal are one: a singular matrix."""
    given = book["social"]
    records, ped = given["records"], pedigree(given["pedigree"])
    animal = np.array(records["animal"]).reshape(3, 3)  # three to a pen, in their order
    roles = {"direct": animal.ravel(), "one": animal[:, [1, 0, 0]].ravel(), "other": animal[:, [2, 2, 1]].ravel()}
    G = np.array(given["G"])[np.ix_([0, 1, 1], [0, 1, 1])]
    groups = {name: records[name] for name in ("litter", "pen")}
    model = in_roles(given, roles, G, ped, groups, dummies(records["sex"]))
    fixed = {"litter": given["litter_variance"], "pen": given["pen_variance"], "residual": given["residual"]}
    fit = flmm.find_reml(model, fixed=fixed, **QUIET)
    assert fit.boundary == ()  # nothing was estimated to be there
    effects = fit.effects("genes")["blup"].unstack()
    assert_allclose(effects["one"], effects["other"], atol=1e-9)
    assert_allclose(effects["direct"], given["direct"], atol=PRINTED)
    assert_allclose(effects["one"], given["social"], atol=PRINTED)
    for name in groups:
        assert_allclose(fit.effects(name)["blup"], given[name], atol=PRINTED)
    assert_allclose(fit.beta, [given["beta"][sex] for sex in "FM"], atol=PRINTED)


def test_random_regressions_on_days_in_milk(book):
    """Example 10.2: normalized Legendre polynomials of the day, genetic and permanent curves of three coefficients."""
    given = book["random_regression"]
    records = pd.DataFrame(given["records"]).assign(permanent=lambda t: t["animal"])
    day = 2 * (records["dim"] - 4) / 306 - 1
    for k in range(5):
        records[f"p{k}"] = np.sqrt((2 * k + 1) / 2) * legendre.legval(day, np.eye(5)[k])
    curve = "0 + p0 + p1 + p2"
    formula = f"y ~ 0 + C(htd) + p1 + p2 + p3 + p4 + ({curve} | animal) + ({curve} | permanent)"
    fixed = {"animal": given["G"], "permanent": given["P"], "residual": given["residual"]}
    fit = solved(formula, records, fixed, animal=pedigree(book["repeatability"]["pedigree"]))
    for name in ("animal", "permanent"):
        assert_allclose(fit.effects(name)["blup"].unstack(), given[name], atol=1e-4)
    htd = fit.beta[:10].to_numpy()
    assert_allclose(htd - htd[-1], given["htd"], atol=2e-4)
    assert_allclose(fit.beta[10:], given["curve"], atol=1e-4)


def test_dominance_by_a_matrix_of_its_own(book):
    """Example 13.1: D of pairs of parents (Cockerham 1954), beside a pedigree of the same animals."""
    given = book["dominance"]
    ped = pedigree(given["pedigree"])
    A = np.zeros((13, 13))
    A[1:, 1:] = ped.dense()
    s, d = (np.array(given["pedigree"][p]) for p in ("sire", "dam"))
    D = (A[np.ix_(s, s)] * A[np.ix_(d, d)] + A[np.ix_(s, d)] * A[np.ix_(d, s)]) / 4
    np.fill_diagonal(D, 1.0)
    records = pd.DataFrame(given["records"]).assign(dominance=lambda t: t["animal"])
    known = {"animal": ped, "dominance": pd.DataFrame(D, range(1, 13), range(1, 13))}
    fit = solved("y ~ 0 + C(pen) + (1 | animal) + (1 | dominance)", records, given["fixed"], **known)
    assert_allclose(fit.beta, list(given["beta"].values()), atol=PRINTED)
    assert_allclose(fit.effects("animal")["blup"], given["blup"], atol=PRINTED)
    assert_allclose(fit.effects("dominance")["blup"].loc[list(range(1, 13))], given["dominance"], atol=PRINTED)
