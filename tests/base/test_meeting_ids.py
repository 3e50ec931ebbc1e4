"""Where ids of two things meet, those that differ in leading zeros are an error that says so; types do not matter."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

N = 12
PADDED = [f"{i:04d}" for i in range(1, N + 1)]
SHORT, WHOLE = [str(i) for i in range(1, N + 1)], list(range(1, N + 1))
FAMILY, FAMILY_SHORT = [f"F1:{name}" for name in PADDED], [f"F1:{name}" for name in SHORT]
rng = np.random.default_rng(3)
W = rng.normal(size=(N, 2 * N))
K, Y, X = W @ W.T / (2 * N), rng.normal(size=N), np.column_stack([np.ones(N), rng.normal(size=N)])
COUNTS = rng.binomial(2, 0.4, (N, 9)).astype(float)


def frame(values, ids):
    return pd.DataFrame(values, ids, ids)


def table(ids):
    return pd.DataFrame({"y": Y, "x": X[:, 1]}, pd.Index(ids, name="id"))


def fitted(formula, ids, **known):
    fit = flmm.find_reml(formula, table(ids).reset_index(), known=known, progressbar=False)
    return fit.loglik


def design_and_kernel(a, b):
    return flmm.Design.from_formula("y ~ x", table(a), K=frame(K, b)).spectrum().eigvals


def response_and_design(a, b):
    return flmm.Design.from_arrays(pd.Series(Y, a), pd.DataFrame(X, b), W=pd.DataFrame(W[:, :4], a)).X


def response_and_design_without_ids_of_the_kernel(a, b):
    return flmm.Design.from_arrays(pd.Series(Y, a), pd.DataFrame(X, b), W=W[:, :4]).X


def records_and_individuals(a, b):
    return flmm.Design.from_formula("y ~ x", table(a).reset_index(), K=frame(K, b), individual="id").spectrum().eigvals


def weights(a, b):
    return flmm.Design.from_arrays(pd.Series(Y, a), X, W=np.eye(N)[:, :4], weights=pd.Series(Y**2 + 1, b)).weights


def kernel_and_design(a, b):
    return flmm.Spectrum.from_covariance(frame(K, a), pd.DataFrame(X, b)).eigvals


def spectrum_and_response(a, b):
    return flmm.reml(flmm.Spectrum.from_covariance(frame(K, a), X), pd.Series(Y, b)).loglik


def spectrum_and_candidates(a, b):
    spectrum = flmm.Spectrum.from_covariance(frame(K, a), X)
    return flmm.scan(spectrum, Y, pd.DataFrame(COUNTS, b), progressbar=False).beta


def spectrum_and_more_candidates(a, b):
    spectrum = flmm.Spectrum.from_covariance(frame(K[:-2, :-2], a[:-2]), X[:-2])
    return flmm.scan(spectrum, Y[:-2], pd.DataFrame(COUNTS, b), progressbar=False).beta


def table_and_genotypes(a, b):
    return flmm.genome_scan("y ~ x", table(a), pd.DataFrame(COUNTS, b), K=frame(K, a), progressbar=False).beta


def table_and_fewer_genotypes(a, b):
    few = pd.DataFrame(COUNTS[:-3], b[:-3])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "3 of 12 people of the table have no genotypes")
        return flmm.genome_scan("y ~ x", table(a), few, K=frame(K, a), progressbar=False).beta


def table_and_labelled_genotypes(a, b):
    variants = pd.DataFrame({"position": np.arange(9)})
    block = flmm.io.label_genotypes(COUNTS, b, variants)
    return flmm.genome_scan("y ~ x", table(a), block, K=frame(K, a), progressbar=False).beta


def table_and_given_kinship(a, b):
    return flmm.genome_scan("y ~ x", table(a), pd.DataFrame(COUNTS, a), K=frame(K, b), progressbar=False).beta


def levels_and_kernel(a, b):
    return fitted("y ~ x + (1 | id)", a, id=frame(K, b))


def levels_and_pedigree(a, b):
    return fitted("y ~ x + (1 | id)", a, id=cov.Pedigree(b, [0] * 6 + b[:6], [0] * 6 + [b[1]] * 3 + [b[0]] * 3))


def levels_and_tree(a, b):
    pairs = ",".join(f"('{one}':1,'{other}':2):{k + 1}" for k, (one, other) in enumerate(itertools.batched(b, 2)))
    return fitted("y ~ x + (1 | id)", a, id=cov.Tree(f"({pairs});", root="base"))


def individuals_and_parents(a, b):
    return cov.pedigree(a, [0] * 6 + b[:6], [0] * 6 + [b[1]] * 3 + [b[0]] * 3)


def pedigree_and_wanted(a, b):
    return cov.Pedigree(a, [0] * N, [0] * N).dense(b)


MEETINGS = [
    design_and_kernel, response_and_design, records_and_individuals, weights, kernel_and_design, spectrum_and_response,
    spectrum_and_candidates, spectrum_and_more_candidates, table_and_genotypes, table_and_fewer_genotypes,
    table_and_labelled_genotypes, table_and_given_kinship, levels_and_kernel, levels_and_pedigree, levels_and_tree,
    pedigree_and_wanted,
]  # fmt: skip


@pytest.mark.parametrize("meeting", [*MEETINGS, response_and_design_without_ids_of_the_kernel])
@pytest.mark.parametrize(
    ("a", "b"), [(PADDED, SHORT), (SHORT, PADDED), (PADDED, WHOLE), (WHOLE, PADDED), (FAMILY, FAMILY_SHORT)]
)
def test_leading_zeros_are_an_error_that_says_so(meeting, a, b):
    with pytest.raises(ValueError, match=r"differ only in leading zeros: read both as text, dtype=str in pd\.read_csv"):
        meeting(a, b)


@pytest.mark.parametrize("meeting", MEETINGS)
def test_numbers_are_the_texts_that_are_read_in_them(meeting):
    assert_allclose(meeting(SHORT, WHOLE), meeting(SHORT, SHORT), rtol=1e-9)
    assert_allclose(meeting(WHOLE, SHORT), meeting(WHOLE, WHOLE), rtol=1e-9)


@pytest.mark.parametrize("meeting", [table_and_genotypes, table_and_labelled_genotypes])
def test_people_are_not_left_out_whose_ids_lost_their_zeros_in_part(meeting):
    """Ids of four digits and more are the same with and without."""
    some = [name if int(name) < 10 else f"1{name[1:]}" for name in PADDED]
    with pytest.raises(ValueError, match=r"9 people of the table have no genotypes by the way .* leading zeros"):
        meeting(some, [str(int(name)) for name in some])


def test_parents_that_lost_their_zeros_are_refused_or_of_whole_numbers_found():
    """Text among text may be another animal; a column of whole numbers is that of ids of one width."""
    with pytest.raises(ValueError, match="differ only in leading zeros"):
        individuals_and_parents(PADDED, SHORT)
    with pytest.raises(ValueError, match="differ only in leading zeros"):
        individuals_and_parents(WHOLE, PADDED)
    assert_allclose(individuals_and_parents(PADDED, WHOLE), individuals_and_parents(PADDED, PADDED))


def test_two_people_may_be_called_1_and_0001():
    ids = [*PADDED[:6], *SHORT[:6]]
    assert_allclose(table_and_genotypes(ids, ids), table_and_genotypes(PADDED, PADDED))
