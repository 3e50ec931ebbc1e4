"""REML and draws of two traits on one kernel, beside GEMMA's multivariate fit where that program is installed."""

import resource
import shutil
import subprocess
import time

import arviz as az
import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark

MARKERS = 3000


def simulated(n, t=2):
    """Genotypes, their kinship and traits with genetic correlations."""
    rng = np.random.default_rng(20261129)
    genotypes = rng.binomial(2, rng.uniform(0.1, 0.5, MARKERS), (n, MARKERS)).astype(float)
    Z = genotypes - genotypes.mean(axis=0)
    K = np.round(Z @ Z.T / MARKERS, 10)
    mixing = np.eye(t) + 0.5 * np.tri(t, k=-1)
    u = Z @ rng.normal(size=(MARKERS, t)) @ mixing.T / np.sqrt(MARKERS)
    return genotypes, K, np.round(u + rng.normal(size=(n, t)), 6)


def seconds_of(work):
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def test_reml_of_two_traits(report, tmp_path):
    genotypes, K, Y = simulated(2000)
    spectrum = flmm.Spectrum.from_covariance(K, np.ones((2000, 1)))
    flmm.reml_traits(spectrum, Y)  # imported and compiled
    fits = [seconds_of(lambda: flmm.reml_traits(spectrum, Y)) for _ in range(5)]
    fit, own = fits[0][0], min(seconds for _, seconds in fits)
    figure = "several traits, REML of two, 2000 rows, K factored"
    report(figure, 1e3 * own, "ms")
    report(figure, len(fit.trace.iterations), "iterations", part="of average information")
    if shutil.which("gemma"):
        two, one = (min(times) for times in gemma(tmp_path, genotypes, K, Y))
        report(figure, own / two, "×", part="fit / gemma -d -u -lmm 1 of one SNP, the whole run")
        report(figure, own / (two - one), "×", part="fit / the same less its run of one trait")


def gemma(folder, genotypes, K, Y):
    """Seconds of GEMMA from its eigenvectors, of two traits and of one."""
    np.savetxt(folder / "K.txt", K, fmt="%.10f", delimiter="\t")
    np.savetxt(folder / "y.txt", Y, fmt="%.6f", delimiter="\t")
    (folder / "g.txt").write_text("rs0, A, G, " + ", ".join(f"{v:.0f}" for v in genotypes[:, 0]) + "\n")

    def run(*arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = ["gemma", "-g", "g.txt", "-p", "y.txt", *arguments, "-outdir", "."]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    run("-k", "K.txt", "-eigen", "-o", "e")
    fit = ["-d", "e.eigenD.txt", "-u", "e.eigenU.txt", "-lmm", "1", "-maf", "0", "-o", "r"]
    turns = [(run(*fit, "-n", "1", "2"), run(*fit, "-n", "1")) for _ in range(3)]
    return zip(*turns, strict=True)


def test_genetic_correlations_of_a_thousand_genes_with_one_phenotype(report):
    _, K, Y = simulated(500, 21)
    spectrum = flmm.Spectrum.from_covariance(K, np.ones((500, 1)))
    rng = np.random.default_rng(1)
    genes = Y[:, 1:] @ rng.normal(size=(20, 1000)) + rng.normal(size=(500, 1000))
    flmm.reml_traits(spectrum, Y[:, :2])

    def all_pairs():
        return [flmm.reml_traits(spectrum, np.column_stack([gene, Y[:, 0]])) for gene in genes.T]

    fits, seconds = seconds_of(all_pairs)
    assert sum(fit.converged for fit in fits) > 990
    report("several traits, correlations of 1000 genes with one phenotype, 500 rows", seconds, "s")


def test_draws_of_two_traits(report):
    pytest.importorskip("nutpie")
    _, K, Y = simulated(1000)
    table = pd.DataFrame(Y, columns=["milk", "fat"])
    model = flmm.traits_model("milk + fat ~ 1", table, K=pd.DataFrame(K, table.index, table.index))
    options = {"model": model, "draws": 1000, "chains": 4, "random_seed": 1, "progressbar": False, "quiet": True}
    flmm.sample(nuts_sampler="nutpie", **options)  # compiled
    idata, seconds = seconds_of(lambda: flmm.sample(nuts_sampler="nutpie", **options))
    figure = "several traits, 4 × 1000 draws of two, 1000 rows, through nutpie"
    report(figure, seconds, "s", part="CPU, with what is compiled anew")
    report(figure, float(idata.posterior.attrs["sampling_time"]), "s", part="sampling")
    summary = az.summary(idata, var_names=["sigma_K", "sigma_e", "corr_K", "corr_e"], round_to="none")
    report(figure, float(summary["r_hat"].max()), "", part="largest R-hat")
    report(figure, float(summary["ess_bulk"].min()), "", part="smallest bulk effective size")
