"""Genotypes from a .bed file: kinships beside plink2's and the products alone, a scan beside GEMMA's."""

import resource
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark
PEOPLE, VARIANTS, TESTED = 2000, 50_000, 10_000


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """2000 unrelated people, 50 000 variants of 22 chromosomes, 1 % of the genotypes missing; a trait of h² .5."""
    folder, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(16)
    people = [f"I{i}" for i in range(PEOPLE)]
    value = np.zeros(PEOPLE)

    def blocks(width=2000):
        for start in range(0, VARIANTS, width):
            p = rng.uniform(0.05, 0.5, width).astype(np.float32)
            counts = sum((rng.random((PEOPLE, width), dtype=np.float32) < p).astype(np.float32) for _ in range(2))
            value[:] += counts @ rng.normal(size=width)
            counts[rng.random(counts.shape, dtype=np.float32) < 0.01] = np.nan
            at = np.arange(start, start + width)
            variants = pd.DataFrame(
                {"chromosome": 1 + 22 * at // VARIANTS, "position": at, "counted": "A", "other": "C"},
                index=[f"rs{j}" for j in at],
            )
            yield flmm.io.label_genotypes(counts, people, variants)

    path = flmm.io.write_bed(blocks(), folder / "study")
    y = pd.Series((value - value.mean()) / value.std() + rng.normal(size=PEOPLE), people)
    fam = folder / "study.fam"
    lines = zip(fam.read_text().splitlines(), y, strict=True)
    fam.write_text("".join(f"{line.removesuffix('-9')}{number:.6f}\n" for line, number in lines))
    return path, y


def children(*command, folder):
    """Return the CPU seconds of a program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(part) for part in command], cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_kinship_from_a_file(study, measure, report):
    path, _ = study
    bed = flmm.io.read_bed(path)
    Z = np.random.default_rng(0).normal(size=(PEOPLE, 4000)).astype(np.float32)
    flmm.covariance.markers(bed.select(variants=np.arange(VARIANTS) < 100))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    K = flmm.covariance.markers(bed)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3 - K.to_numpy().nbytes / 1e6
    loops = {
        "single": measure.loop(lambda: flmm.covariance.markers(bed)),
        "double": measure.loop(lambda: flmm.covariance.markers(bed, dtype="float64")),
        "left out": measure.loop(
            lambda: [len(K) for K in flmm.covariance.markers(bed, leave_out="chromosome").values()]
        ),
        "product": measure.loop(lambda: Z @ Z.T),
    }
    seconds = measure.take_turns(loops, rounds=3, counts=dict.fromkeys(loops, 1))
    figure = f"files, kinship of {PEOPLE} people and {VARIANTS} variants"
    report(figure, seconds["single"], "s")
    report(figure, seconds["double"], "s", part="double precision")
    report(figure, peak, "MB", part="memory above K")
    share = seconds["product"] * VARIANTS / Z.shape[1]
    report(figure, seconds["single"] / share, "×", part="kinship / products of its blocks alone")
    report(figure, seconds["left out"] / seconds["single"], "×", part="22 kinships without a chromosome each / one")
    if shutil.which("plink2"):
        options = ("plink2", "--bfile", "study", "--threads", "1", "--make-rel", "meanimpute", "bin", "--out", "k")
        theirs = np.array([children(*options, folder=path.parent) for _ in range(3)])
        report(figure, seconds["single"] / theirs, "×", part="kinship / plink2 --make-rel meanimpute")
        report(figure, seconds["double"] / theirs, "×", part="in double precision / plink2 --make-rel meanimpute")


def test_scan_from_a_file(study, measure, report):
    path, y = study
    bed = flmm.io.read_bed(path)
    tested = bed.select(variants=np.arange(VARIANTS) < TESTED)
    K = flmm.covariance.markers(bed)
    table = pd.DataFrame({"y": y})

    def ours():
        return flmm.genome_scan("y ~ 1", table, tested, K=K, progressbar=False)

    seconds = measure.take_turns({"scan": measure.loop(ours)}, rounds=2, counts={"scan": 1})["scan"]
    figure = f"files, Wald tests of {TESTED} variants of {PEOPLE} people, kinship given"
    report(figure, seconds, "s")
    if shutil.which("gemma") and shutil.which("plink2"):
        folder = path.parent
        children("plink2", "--bfile", "study", "--thin-count", TESTED, "--make-bed", "--out", "part", folder=folder)
        np.savetxt(folder / "K.txt", K.to_numpy(), fmt="%.10g")
        theirs = children(
            "gemma", "-bfile", "part", "-k", "K.txt", "-lmm", "1", "-o", "g", "-outdir", ".", folder=folder
        )
        report(figure, seconds / theirs, "×", part="scan / gemma -lmm 1")
