"""Data that hurt, by sparse equations and by blocked elimination: both say the same, and what is lost is labelled."""

from unittest import mock

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.sparse.products import SparseProducts
from pm_fastlmm.engines.structured import choice
from pm_fastlmm.engines.structured.products import MixedProducts

QUIET, ENGINES = {"progressbar": False}, {SparseProducts: -1, MixedProducts: 10**6}
rng = np.random.default_rng(5)
IDS = [f"i{k}" for k in range(60)]
SIRE = [None] * 12 + [IDS[rng.integers(0, k)] if rng.uniform() < 0.9 else None for k in range(12, 60)]
DAM = [None] * 12 + [IDS[rng.integers(0, k)] for k in range(12, 60)]
PEDIGREE = cov.Pedigree(IDS, SIRE, DAM)
u = np.linalg.cholesky(PEDIGREE.dense(IDS).to_numpy()) @ rng.normal(size=60)
own = rng.integers(5, 60, 150)
TABLE = pd.DataFrame({"animal": np.array(IDS)[own], "herd": rng.choice(list("abcdefgh"), 150)})
TABLE["permanent"], TABLE["sire"] = TABLE["animal"], np.array([str(s) for s in SIRE])[own]
DAMS = [DAM[i] for i in own]
TABLE["dam"], TABLE["age"] = DAMS, rng.uniform(2, 6, 150)
TABLE["y"] = u[own] + 0.3 * TABLE["age"] + rng.normal(size=150)
TABLE["w"], TABLE["same"], TABLE["noise"] = 10.0 ** rng.uniform(-8, 8, 150), TABLE["herd"], rng.normal(size=150)
PLAIN = "~ age + herd + (1 | animal) + (1 | permanent)"
SLOPES = "y ~ age + (age | animal) + (1 | permanent)"


def fits(formula, table=TABLE, **options):
    """The same fit by each engine."""
    out = []
    for engine, small in ENGINES.items():
        with mock.patch.multiple(choice, _SMALL=small):
            if callable(formula):
                fit = flmm.find_reml(formula(), **QUIET, **options)
            else:
                fit = flmm.find_reml(formula, table, known={"animal": PEDIGREE}, **QUIET, **options)
        assert isinstance(fit.node.products, engine)
        out.append(fit)
    return out


def roles(table=TABLE):
    """Direct and maternal effects, correlated, and a permanent environment."""
    with pm.Model() as model:
        v, c = pm.HalfFlat("v", shape=2, initval=np.ones(2)), pm.Flat("c")
        G = pt.stack([pt.stack([v[0], c]), pt.stack([c, v[1]])])
        both = {"direct": table["animal"], "maternal": table["dam"]}
        genes = flmm.Term(both, cov.unstructured(G, size=2), across=cov.known(PEDIGREE), name="genes")
        permanent = flmm.Term(table["permanent"], cov.scalar(pm.HalfNormal("p") ** 2), name="permanent")
        X = np.column_stack([np.ones(len(table)), table["age"]])
        e = pm.HalfNormal("e")
        flmm.StructuredLMM("y", X=X, terms=[genes, permanent], sigma2_e=e**2, observed=table["y"].to_numpy())
    return model


def opposed():
    return roles(TABLE.assign(y=TABLE["y"] - 3 * u[[IDS.index(d) if d else -1 for d in DAMS]]))


CASES = {
    "small units": ("y " + PLAIN, TABLE.assign(y=1e-9 * TABLE["y"]), {}),
    "large units": ("y " + PLAIN, TABLE.assign(y=1e9 * TABLE["y"]), {}),
    "an offset": ("y " + PLAIN, TABLE.assign(y=1e7 + TABLE["y"]), {}),
    "no variance": ("noise " + PLAIN, TABLE, {}),
    "weights": ("y " + PLAIN, TABLE, {"weights": "w"}),
    "a covariate of large units": (SLOPES, TABLE.assign(age=1e9 * TABLE["age"]), {}),
    "a covariate of small units": (SLOPES, TABLE.assign(age=1e-9 * TABLE["age"]), {}),
    "a slope by year": (SLOPES, TABLE.assign(age=2000 + TABLE["age"]), {}),
    "sires as fixed effects": ("y ~ sire + (1 | animal)", TABLE, {}),
    "a factor twice": ("y ~ herd + same + (1 | animal)", TABLE, {}),
    "variances of zero": ("y " + PLAIN, TABLE, {"fixed": {"animal": 0.0, "permanent": 0.0, "residual": 1.0}}),
    "maternal effects": (roles, TABLE, {}),
    "maternal effects opposed to direct ones": (opposed, TABLE, {}),
    "a correlation of -1": (
        roles, TABLE, {"fixed": {"genes": [[1.0, -0.5], [-0.5, 0.25]], "permanent": 0.0, "residual": 1.0}},
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:X has rank")
@pytest.mark.parametrize("case", CASES)
def test_both_engines_find_the_same(case):
    formula, table, options = CASES[case]
    sparse, dense = fits(formula, table, **options)
    assert sparse.converged
    assert sparse.message == dense.message
    assert sparse.boundary == dense.boundary
    assert_allclose(sparse.loglik, dense.loglik, rtol=1e-8)
    assert_allclose(sparse.theta, dense.theta, rtol=1e-4, atol=1e-7 * dense.theta.abs().max())
    theta = dense.theta.to_numpy()
    errors = np.sqrt(np.diag(dense.blue_cov))
    assert_allclose(sparse.objective.blue(theta)[0] / errors, dense.beta / errors, atol=1e-6)
    for term, table in dense.effects().items():
        effects = sparse.effects(term, theta=theta).loc[table.index]
        for column in ("blup", "se"):
            assert_allclose(effects[column], table[column], rtol=1e-5, atol=1e-6 * table[column].abs().max())
        assert_allclose(effects["reliability"], table["reliability"], atol=1e-6)


@pytest.mark.parametrize(
    ("table", "formula", "message"),
    [
        (TABLE.assign(y=3.0), "y " + PLAIN, "X explains y exactly, no residual is left"),
        (TABLE[:1], "y ~ 1 + (1 | animal)", "X has rank 1 for 1 observations: nothing is left"),
        (TABLE[:20], "y ~ herd * age * permanent + (1 | animal)", "X has rank 20 for 20 observations"),
        (TABLE.assign(permanent="one"), "y " + PLAIN, "X explains the columns of permanent, or they are zero"),
        (TABLE, "y ~ permanent + (1 | animal) + (1 | herd)", "X explains the columns of animal, or they are zero"),
    ],
)
@pytest.mark.filterwarnings("ignore:X has rank")
def test_what_has_no_estimate_is_refused_alike(table, formula, message):
    for small in ENGINES.values():
        refused = pytest.raises(ValueError, match=message)
        with mock.patch.multiple(choice, _SMALL=small), refused:
            flmm.find_reml(formula, table, known={"animal": PEDIGREE}, **QUIET)


def test_digits_that_sparse_equations_lose_beside_a_small_residual_are_labelled():
    formula, fixed = "y ~ age + herd + (1 | animal)", {"animal": 1.0, "residual": 1e-8}
    sparse, dense = fits(formula + " + (1 | permanent)", fixed=fixed | {"permanent": 1.0})
    assert "lose digits" not in sparse.message
    assert_allclose(sparse.effects("animal")["se"], dense.effects("animal")["se"], rtol=1e-5)
    sparse, dense = fits(formula + " + (1 | permanent)", fixed=fixed | {"permanent": 1.0, "residual": 1e-12})
    assert (
        "the residual variance is below 1e-09 of that of a term, beside which sparse equations lose" in sparse.message
    )
    assert dense.message == ""


@pytest.mark.parametrize("far", [60, 100, 150, 200])
def test_slopes_of_a_covariate_that_is_not_centred_have_the_same_singular_maximum(far):
    formula = "y ~ age + (age | animal)"
    (centred, _), (sparse, dense) = fits(formula), fits(formula, TABLE.assign(age=far + TABLE["age"]))
    for fit in (sparse, dense):
        assert fit.converged
        assert fit.boundary
        assert_allclose(fit.loglik, centred.loglik, rtol=1e-9)
        assert fit.history.sizes["iteration"] <= 20


def test_slopes_of_a_covariate_far_from_zero_end_with_a_verdict_that_says_what_to_do():
    for fit in fits(SLOPES, TABLE.assign(age=1e7 + TABLE["age"]), max_iterations=20):
        assert not fit.converged
        assert "the columns of animal are nearly collinear, as intercept and slope of a covariate far from 0 are" in (
            fit.message
        )
    centred, plain = (fits(f"y ~ age + ({x} | animal)")[0] for x in ("center(age)", "age"))
    assert_allclose(centred.loglik, plain.loglik, rtol=1e-9)


def test_a_row_without_a_label_in_any_row_of_a_role_is_predicted_and_a_role_without_labels_refused():
    for fit in fits(roles):
        new = {"genes": {"direct": ["i3", "i40"], "maternal": [None, None]}, "permanent": ["i3", "i40"]}
        mean = fit.predict(np.ones((2, 2)), new).mean
        direct, permanent = fit.effects("genes")["blup"].unstack()["direct"], fit.effects("permanent")["blup"]
        known = [permanent.get(i, 0.0) for i in ("i3", "i40")]
        assert_allclose(mean, fit.beta.sum() + direct[["i3", "i40"]] + known, rtol=1e-9)
    with pytest.raises(ValueError, match=r"the columns of genes\[maternal\], or they are zero"):
        flmm.find_reml(roles(TABLE.assign(dam=None)), **QUIET)
