"""Kinships from a .bed file against those that plink2 and GEMMA print of it, and their h² and tests against GEMMA's."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm.covariance import markers

FILES = Path(__file__).parent / "files"


@pytest.fixture(scope="module")
def bed():
    return flmm.io.read_bed(FILES / "people.bed")


@pytest.fixture(scope="module")
def table():
    return flmm.io.read_table(FILES / "people.fam")


@pytest.fixture(scope="module")
def gemma_variants(bed, table):
    """Those that GEMMA uses: at most 5 % missing and a frequency of 1 % among the people with a phenotype."""
    counts = bed.select(table["PHENOTYPE"].dropna().index).read().to_numpy()
    seen = (~np.isnan(counts)).sum(axis=0)
    p = np.nansum(counts, axis=0) / (2 * np.maximum(seen, 1))
    return (1 - seen / len(counts) <= 0.05) & (np.minimum(p, 1 - p) >= 0.01)


def test_gcta_is_that_of_plink2_which_divides_by_variants_that_do_not_vary_too(bed):
    K = markers(bed, method="gcta")
    assert K.attrs["markers_used"] == 175
    assert K.attrs["monomorphic_dropped"] + K.attrs["all_missing_dropped"] == 5
    assert_allclose(K * 175 / 180, np.loadtxt(FILES / "imputed.rel.gz"), atol=6e-6)  # of six digits


def test_vanraden_is_plink2s_cov_but_for_a_constant(bed):
    K = markers(bed, dtype="float64")
    sites = pd.read_csv(FILES / "all.afreq", sep="\t")
    p = sites["ALT_FREQS"].to_numpy()[sites["#CHROM"] != "X"]
    constant = np.nansum(2 * p * (1 - p)) / 180
    assert_allclose(K * constant, np.loadtxt(FILES / "cov.rel.gz"), atol=2e-6)


def test_frequencies_of_founders_may_be_given(bed):
    autosomes = bed.select(chromosomes="autosomes")
    counts = autosomes.read().to_numpy().astype(float)
    p = np.nan_to_num(np.nansum(counts[:40], axis=0) / (2 * np.maximum((~np.isnan(counts[:40])).sum(axis=0), 1)))
    sites = pd.read_csv(FILES / "founders.afreq", sep="\t")
    assert_allclose(p, sites["ALT_FREQS"][:180].fillna(0.0), atol=1e-6)
    K = markers(autosomes, method="gcta", frequencies=pd.Series(p, autosomes.variants.index), dtype="float64")
    used, seen = (p > 0) & (p < 1), ~np.isnan(counts)
    pairs = seen[:, seen.any(axis=0)].astype(float)  # plink 1.9 divides each pair by its own number of variants
    theirs = np.loadtxt(FILES / "plink1.rel.gz") * (pairs @ pairs.T) / used.sum()
    assert_allclose(K, theirs, atol=8e-6)


@pytest.mark.parametrize(("method", "file"), [("vanraden", "gemma.cXX.txt"), ("standardised", "gemma.sXX.txt.gz")])
def test_gemmas_kinships_are_those_of_its_variants(bed, gemma_variants, method, file):
    K = markers(bed.select(variants=gemma_variants), method=method, chromosomes="all", dtype="float64")
    theirs = np.loadtxt(FILES / file)
    constant = 1.0 if method == "standardised" else np.trace(theirs) / np.trace(K)
    assert K.attrs["markers_used"] == 178
    assert_allclose(constant * K, theirs, atol=2e-9 if method == "standardised" else 2e-10)


def test_single_precision_moves_the_seventh_digit(bed):
    exact, single = markers(bed, dtype="float64"), markers(bed)
    assert 0 < np.abs(exact - single).to_numpy().max() < 1e-6
    assert_array_equal(single, single.T)


@pytest.mark.parametrize("method", ["vanraden", "standardised", "gcta"])
def test_blocks_add_up_to_the_whole(bed, method, monkeypatch):
    whole = markers(bed.read().to_numpy(), method=method, dtype="float64", chromosomes="all")
    monkeypatch.setattr("pm_fastlmm.genotypes.blocks.BLOCK", 60 * 7)
    monkeypatch.setattr("pm_fastlmm.genotypes.products._PANEL", 17)
    assert_allclose(markers(bed, method=method, dtype="float64", chromosomes="all"), whole, atol=1e-12)
    others = markers(bed, method=method, dtype="float64", chromosomes="all", leave_out="chromosome")
    rest = markers(bed.select(chromosomes=["1", "22", "23"]), method=method, dtype="float64", chromosomes="all")
    assert_allclose(others["2"], rest, atol=1e-12)
    frames = [block.to_pandas() for block in bed]
    monkeypatch.setattr("pm_fastlmm.genotypes.blocks.BLOCK", 60 * 4)
    assert_allclose(markers(frames, method=method, dtype="float64"), whole, atol=1e-12)


def test_a_chromosome_is_left_out_in_the_same_pass(bed):
    others = markers(bed, leave_out="chromosome", dtype="float64")
    assert list(others) == ["1", "2", "22"]
    for name, K in others.items():
        rest = [chromosome for chromosome in ("1", "2", "22") if chromosome != name]
        assert_allclose(K, markers(bed.select(chromosomes=rest), dtype="float64"), atol=1e-12)
        assert K.attrs["markers_used"] == {"1": 98, "2": 116, "22": 136}[name]
        single = markers(bed, leave_out="chromosome")[name]
        assert 0 < np.abs(single - K).to_numpy().max() < 1e-6
    assert repr(others) == "Kinships(60 people; without 1; without 2; without 22)"
    assert len(others) == 3
    assert_array_equal(others["2"], others["2"].T)
    groups = np.arange(200) % 2
    halves = markers(bed.read().to_numpy(), leave_out=groups, chromosomes="all", dtype="float64")
    assert_allclose(halves[0], markers(bed.read().to_numpy()[:, groups == 1], dtype="float64"), atol=1e-12)


def test_rare_and_often_missing_markers_are_counted(bed):
    counts = bed.select(chromosomes="autosomes").read().to_numpy().astype(float)
    missing, p = (
        np.isnan(counts).mean(axis=0),
        np.nanmean(np.where(np.isnan(counts).all(axis=0), 0, counts), axis=0) / 2,
    )
    varies = (p > 0) & (p < 1)
    K = markers(bed, min_maf=0.1, max_missing=0.03)
    assert K.attrs["often_missing_dropped"] == (varies & (missing > 0.03)).sum()
    assert K.attrs["rare_dropped"] == (varies & (missing <= 0.03) & (np.minimum(p, 1 - p) < 0.1)).sum()
    assert K.attrs["other_chromosomes_dropped"] == 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda bed: markers(bed.select(chromosomes="23")),
            "no variant is on an autosome, 1 to 22: the chromosomes are",
        ),
        (lambda bed: markers(bed, chromosomes=["1", "9"]), "there is no chromosome '9'"),
        (
            lambda bed: markers(bed.read().assign_coords(chromosome=("variant", ["29"] * 200))),
            r"chromosomes=range\(1, 29\)",
        ),
        (lambda bed: markers(bed.read().to_numpy(), chromosomes=["1"]), "do not say on which a marker is"),
        (lambda bed: markers(bed.read().to_numpy(), leave_out="chromosome"), "give leave_out= the chromosome of each"),
        (lambda bed: markers(bed.select(chromosomes="1"), leave_out="chromosome"), "all markers are of one group, '1'"),
        (lambda bed: markers(bed, leave_out="gene"), "leave_out='gene': give 'chromosome', or the group of each"),
        (lambda bed: markers(bed, leave_out=[1, 2]), "leave_out has 2 entries but there are more markers"),
        (lambda bed: markers(bed, leave_out=[1] * 201), "leave_out has 201 entries for 200 markers"),
        (lambda bed: markers(bed, frequencies=[0.5] * 201), r"must have shape \(200,\), got \(201,\)"),
        (lambda bed: markers(bed, max_missing=2), r"max_missing must be in \[0, 1\], got 2"),
        (lambda bed: markers([bed.read()[:, :9], bed.read()[1:, 9:]]), "blocks of different people, 60 and then 59"),
        (lambda bed: markers(iter(())), "there is no block of markers"),
    ],
)
def test_what_genotypes_cannot_give_is_refused(bed, make, message):
    with pytest.raises(ValueError, match=message):
        make(bed)


def test_a_kinship_that_does_not_fit_in_memory_is_refused_before_it_is_made(bed, monkeypatch):
    monkeypatch.setattr("pm_fastlmm.base.memory.physical_memory", lambda: 60 * 60 * 20)
    markers(bed)
    markers(bed, leave_out="chromosome")
    with pytest.raises(ValueError, match="A kinship matrix of 60 people and the sums of 3 groups"):
        markers(bed, leave_out="chromosome", dtype="float64")


# ---------------------------------------------------------------- GEMMA's answers


@pytest.fixture(scope="module")
def gemma():
    said = (FILES / "versions.txt").read_text().splitlines()
    return {line.split("=")[0].strip("# "): float(line.split("=")[1]) for line in said if "=" in line}


@pytest.fixture(scope="module")
def design(table):
    K = flmm.io.read_relationship(FILES / "gemma.cXX.txt", FILES / "people.fam")
    y = table["PHENOTYPE"].dropna()
    return flmm.Design.from_formula("PHENOTYPE ~ 1", table.loc[y.index], K=K.loc[y.index, y.index])


def test_h2_by_gemmas_definition_is_its_pve(design, gemma):
    """pve = σ²_g tr(CKC)/n / (σ²_g tr(CKC)/n + σ²_e), C taking out the mean."""
    fit = flmm.reml(design.spectrum(), design.y)
    n = len(design.y)
    C = np.eye(n) - 1 / n
    explained = float(fit.sigma2_g) * np.trace(C @ design.kernel @ C) / n
    assert_allclose(explained / (explained + float(fit.sigma2_e)), gemma["pve estimate in the null model"], rtol=2e-5)
    assert_allclose(fit.sigma2_g, gemma["vg estimate in the null model"], rtol=2e-5)
    assert_allclose(fit.sigma2_e, gemma["ve estimate in the null model"], rtol=2e-5)
    theirs = gemma["REMLE log-likelihood in the null model"] - np.log(n) / 2  # ½ log|XᵀX|, which GEMMA adds
    assert_allclose(fit.loglik, theirs, atol=6e-4)


@pytest.fixture(scope="module")
def seen(bed):
    """All but the variant without any genotype."""
    return bed.select(variants=bed.variants.index != "rs77")


@pytest.fixture(scope="module")
def theirs():
    return pd.read_csv(FILES / "lmm.assoc.txt", sep="\t", index_col="rs")


def test_the_wald_test_from_the_file_is_gemmas(seen, design, theirs):
    found = flmm.scan(design.spectrum(), design.y, seen, progressbar=False).to_dataframe().loc[theirs.index]
    assert_allclose(found["beta"], theirs["beta"], rtol=2e-4, atol=1e-6)
    assert_allclose(found["se"], theirs["se"], rtol=1e-4)
    assert_allclose(found["p_value"], theirs["p_wald"], rtol=3e-4)
    assert_array_equal(found["counted"], theirs["allele1"])
    assert_array_equal(found["other"], theirs["allele0"])
    assert_array_equal(found["position"], theirs["ps"])
    assert_array_equal(found["missing"], theirs["n_miss"])
    assert_allclose(found["frequency"], theirs["af"], atol=6e-4)


def test_the_likelihood_ratio_is_gemmas_with_its_centring(seen, design, theirs):
    """GEMMA centres K over the people that it analyses, which moves ML and leaves REML alone."""
    n = len(design.y)
    C = np.eye(n) - 1 / n
    spectrum = flmm.Spectrum.from_covariance(pd.DataFrame(C @ design.kernel @ C, design.ids, design.ids), design.X)
    found = flmm.scan(spectrum, design.y, seen, test="lrt", progressbar=False).to_dataframe().loc[theirs.index]
    assert_allclose(found["p_value"], theirs["p_lrt"], rtol=2e-3)


def test_each_chromosome_is_tested_without_itself_in_one_pass(seen, design):
    people = seen.select(design.ids)
    others = markers(people, leave_out="chromosome")
    spectra = {name: flmm.Spectrum.from_covariance(K, design.X) for name, K in others.items()}
    autosomes = people.select(chromosomes="autosomes")
    found = flmm.scan(spectra, design.y, autosomes, progressbar=False)
    assert_array_equal(found.group, found.chromosome)
    one = flmm.scan(spectra["2"], design.y, autosomes.select(chromosomes="2"), progressbar=False)
    assert_allclose(found.p_value[found.chromosome == "2"], one.p_value, rtol=1e-12)
    with pytest.raises(ValueError, match=r"no spectrum for the groups 23: leave .* bed.select\(chromosomes=\['1', '2'"):
        flmm.scan(spectra, design.y, people, progressbar=False)
