"""Pedigrees, trees and precisions where a dense covariance is asked for, and what is said where they do not fit."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

PEDIGREE = cov.Pedigree(["a", "b", "c"], [0, 0, "a"], [0, 0, "b"])
TABLE = pd.DataFrame({"y": [1.0, 2, 4, 3, 2, 5], "animal": list("abcabc")})


def test_one_kernel_takes_the_dense_matrix_of_a_pedigree_or_a_tree():
    dense = PEDIGREE.dense()
    for K in (PEDIGREE, cov.Tree("((a:1,b:1):1,c:2);")):
        own = flmm.Design.from_formula("y ~ 1", TABLE, K=K, individual="animal")
        other = flmm.Design.from_formula("y ~ 1", TABLE, K=K.dense(), individual="animal")
        assert_allclose(flmm.reml(own.spectrum(), own.y).loglik, flmm.reml(other.spectrum(), other.y).loglik)
    assert_allclose(flmm.Spectrum.from_covariance(PEDIGREE).eigvals, flmm.Spectrum.from_covariance(dense).eigvals)


def test_the_size_and_the_matrix_of_a_known_inverse():
    structure = cov.known(PEDIGREE, sigma2=2.0)
    assert structure.size == 3
    assert_allclose(structure.dense(), 2 * PEDIGREE.dense(PEDIGREE.labels))
    assert_allclose(cov.blocks(structure).dense(), structure.dense())
    both = cov.blocks(cov.kronecker(structure, cov.unstructured([[2.0, 1.0], [1.0, 3.0]])))
    assert both.relation.precision is PEDIGREE
    assert_allclose(both.dense(), np.kron(structure.dense(), [[2.0, 1.0], [1.0, 3.0]]))
    assert_allclose(both.variances(np.array([[4.0, 0], [0, 1.0]])), np.kron([1, 1, 1], [4.0, 1.0]))
    within = cov.blocks(cov.kronecker(structure, cov.scalar(3.0, size=2)))
    assert_allclose(within.dense(), np.kron(structure.dense(), 3 * np.eye(2)))


def test_a_term_over_some_of_its_labels_is_refused():
    with pytest.raises(ValueError, match=r"are not the 3 labels of its precision.*known\(precision.dense\(ids\)\)"):
        flmm.Term(cov.incidence(["a", "b"]), cov.known(PEDIGREE))


def test_new_levels_are_asked_of_the_pedigree():
    fit = flmm.find_reml("y ~ 1 + (1 | animal)", TABLE, known={"animal": PEDIGREE}, progressbar=False)
    with pytest.raises(ValueError, match=r"no levels 'zz'.* fit with a pedigree, tree or precision that has them"):
        fit.predict(data=TABLE.head(1).assign(animal="zz"))
