"""A study in one call is the same steps by hand."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm.covariance import markers
from pm_fastlmm.genotypes.blocks import labelled_genotypes

N, M = 80, 90
PEOPLE = [f"p{i:03d}" for i in range(N)]


@pytest.fixture(scope="module")
def study():
    rng = np.random.default_rng(16)
    counts = rng.binomial(2, rng.uniform(0.2, 0.8, M), (N, M)).astype(float)
    counts[rng.random((N, M)) < 0.02] = np.nan
    variants = pd.DataFrame(
        {"chromosome": np.repeat(["1", "2", "X"], 30), "position": np.arange(M), "counted": "A", "other": "C"},
        index=[f"rs{j}" for j in range(M)],
    )
    genotypes = labelled_genotypes(counts, PEOPLE, variants)
    y = np.nan_to_num(counts[:, :60], nan=1.0) @ rng.normal(size=60) / 5 + rng.normal(size=N)
    table = pd.DataFrame({"y": y, "sex": rng.choice(["f", "m"], N), "w": rng.uniform(1, 3, N)}, PEOPLE)
    table = pd.concat([table, pd.DataFrame({"y": [1.0], "sex": ["f"], "w": [1.0]}, ["stranger"])])
    table.loc[["p003", "p011"], "y"] = np.nan
    return genotypes, table.sample(frac=1, random_state=1)


def by_hand(genotypes, table, rest, tested, weights=None):
    """Return the scan of `tested` with the kinship of `rest`, both of the people who are analysed."""
    rows = table.dropna().drop(index="stranger")
    own = genotypes.to_pandas().loc[rows.index]
    K = markers(own[rest])
    X = pd.DataFrame({"Intercept": 1.0, "m": (rows["sex"] == "m").astype(float)}, rows.index)
    spectrum = flmm.Spectrum.from_covariance(K, X, weights=None if weights is None else rows[weights])
    return flmm.scan(spectrum, rows["y"], own[tested], progressbar=False)


def run(study, **options):
    genotypes, table = study
    with pytest.warns(UserWarning, match="people of the table|rows dropped") as said:
        found = flmm.genome_scan("y ~ sex", table, genotypes, progressbar=False, **options)
    texts = [str(one.message) for one in said]
    assert any("1 of 81 people of the table have no genotypes and are left out: 'stranger'" in text for text in texts)
    assert any("2 of 80 rows dropped" in text for text in texts)
    assert found.attrs["people"] == {"analysed": 78, "without genotypes": 1, "with missing values": 2}
    return found


@pytest.mark.parametrize("weights", [None, "w"])
def test_the_kinship_is_that_of_the_autosomes_of_who_is_analysed(study, weights):
    found = run(study, weights=weights)
    names = found.candidate.values.tolist()
    expected = by_hand(*study, names[:60], names, weights)
    assert_allclose(found.p_value, expected.p_value, rtol=1e-9)
    assert_array_equal(found.chromosome, study[0].chromosome)
    assert found.attrs["imputed"] == expected.attrs["imputed"]


def test_each_chromosome_is_tested_without_itself(study):
    found = run(study, K="loco")
    names = [f"rs{j}" for j in range(60)]
    assert found.candidate.values.tolist() == names
    for tested, rest in ((names[:30], names[30:]), (names[30:], names[:30])):
        assert_allclose(found.sel(candidate=tested).p_value, by_hand(*study, rest, tested).p_value, rtol=1e-9)
    assert found.attrs["test"] == "wald"


def test_a_kinship_of_more_people_may_be_given_and_chromosomes_chosen(study):
    genotypes, table = study
    K = markers(genotypes)
    found = run(study, K=K, chromosomes=["X"])
    rows = table.dropna().drop(index="stranger")
    X = pd.DataFrame({"Intercept": 1.0, "m": (rows["sex"] == "m").astype(float)}, rows.index)
    spectrum = flmm.Spectrum.from_covariance(K.loc[rows.index, rows.index], X)
    expected = flmm.scan(spectrum, rows["y"], genotypes.to_pandas().loc[rows.index].iloc[:, 60:], progressbar=False)
    assert_allclose(found.p_value, expected.p_value, rtol=1e-9)


@pytest.fixture(scope="module")
def two_traits(study):
    genotypes, table = study
    rng = np.random.default_rng(4)
    table = table.assign(mass=table["y"].fillna(0.0) + rng.normal(size=len(table)))
    table.loc["p020", "mass"] = np.nan
    return genotypes, table


def traits_by_hand(genotypes, table, rest, tested, **options):
    rows = table.dropna().drop(index="stranger")
    own = genotypes.to_pandas().loc[rows.index]
    X = pd.DataFrame({"Intercept": 1.0, "m": (rows["sex"] == "m").astype(float)}, rows.index)
    spectrum = flmm.Spectrum.from_covariance(markers(own[rest]), X)
    return flmm.scan_traits(spectrum, rows[["y", "mass"]], own[tested], progressbar=False, **options)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("options", [{}, {"test": "lrt", "common": [1.0, 0.5]}, {"variances": "each"}])
def test_several_responses_are_scanned_together(two_traits, options):
    genotypes, table = two_traits
    found = flmm.genome_scan("y + mass ~ sex", table, genotypes, progressbar=False, **options)
    names = found.candidate.values.tolist()
    expected = traits_by_hand(genotypes, table, names[:60], names, **options)
    assert found.trait.values.tolist() == ["y", "mass"]
    assert found.attrs["people"] == {"analysed": 77, "without genotypes": 1, "with missing values": 3}
    for name in ("beta", "beta_cov", "p_value", "p_common", "null_sigma_g", "null_loglik"):
        assert_allclose(found[name], expected[name], rtol=1e-7)
    for name in ("chromosome", "position", "counted", "other", "frequency"):
        assert name in found.coords


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_several_responses_are_scanned_without_each_chromosome(two_traits):
    genotypes, table = two_traits
    found = flmm.genome_scan("y + mass ~ sex", table, genotypes, K="loco", progressbar=False)
    names = [f"rs{j}" for j in range(60)]
    assert found.candidate.values.tolist() == names
    assert found.kernel.values.tolist() == ["1", "2"]
    for label, tested, rest in (("1", names[:30], names[30:]), ("2", names[30:], names[:30])):
        expected = traits_by_hand(genotypes, table, rest, tested)
        assert_allclose(found.sel(candidate=tested).p_value, expected.p_value, rtol=1e-7)
        assert_allclose(found.sel(kernel=label).null_sigma_g, expected.null_sigma_g, rtol=1e-6)
    assert found.attrs["variances"] == "null"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda g, t: (t.reset_index(), g, {}), ValueError, "nobody in the table .* are the ids in its index"),
        (lambda g, t: (t, iter([g]), {}), TypeError, "an iterator, which can be read once"),
        (lambda g, t: (t, g.to_numpy(), {}), TypeError, "genotypes have no ids"),
        (lambda g, t: (t, g, {"K": np.eye(80)}), TypeError, "K must be 'genotypes', 'loco' or a DataFrame"),
        (lambda g, t: (t, g, {"K": markers(g).iloc[:70, :70]}), ValueError, r"K lacks \d+ people who are analysed"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_does_not_fit_is_refused(study, change, error, message):
    table, genotypes, options = change(*study)
    with pytest.raises(error, match=message):
        flmm.genome_scan("y ~ sex", table, genotypes, progressbar=False, **options)
