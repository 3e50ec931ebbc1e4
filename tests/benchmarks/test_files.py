"""
Genotypes from a .bed file: kinships beside plink2's and the products alone, a scan beside GEMMA's.

`FILES_LARGE=20000x100000` has the kinship of many people at its full size, some six minutes; by default it is that of
a tenth of the variants.
"""

import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import blas

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark
PEOPLE, VARIANTS, TESTED = 2000, 50_000, 10_000
LARGE = tuple(map(int, os.environ.get("FILES_LARGE", "20000x10000").split("x")))


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


def write_large(folder, n, m):
    """Write genotypes of frequency ½, four to a byte of random bits."""
    codes, bytes_ = np.array([3, 2, 2, 0]), np.arange(256)
    table = sum(codes[(bytes_ >> 2 * k) & 3] << 2 * k for k in range(4)).astype(np.uint8)
    rng = np.random.default_rng(17)
    with (folder / "large.bed").open("wb") as out:
        out.write(b"\x6c\x1b\x01")
        for start in range(0, m, 1000):
            out.write(table[rng.integers(0, 256, (min(1000, m - start), (n + 3) // 4), dtype=np.uint8)].tobytes())
    (folder / "large.bim").write_text("".join(f"1\trs{j}\t0\t{j}\tA\tC\n" for j in range(m)))
    (folder / "large.fam").write_text("".join(f"0\tI{i}\t0\t0\t0\t-9\n" for i in range(n)))
    return folder / "large.bed"


def test_kinship_of_many_people(tmp_path, report):
    """Beside BLAS's ssyrk, which adds products of blocks of the same shape in single precision."""
    n, m = LARGE
    bed = flmm.io.read_bed(write_large(tmp_path, n, m))
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    start = time.process_time()
    K = flmm.covariance.markers(bed)
    seconds = time.process_time() - start
    above = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident - K.to_numpy().nbytes
    assert abs(K.attrs["mean_diagonal"] - 1) < 0.01
    del K
    (tmp_path / "large.bed").unlink()
    width = -(-m // len(bed))
    Z = np.asfortranarray(np.random.default_rng(0).normal(size=(n, width)).astype(np.float32))
    total, alone = np.zeros((n, n), dtype=np.float32, order="F"), []
    for _ in range(4):
        start = time.process_time()
        total = blas.ssyrk(1.0, Z, beta=1.0, c=total, overwrite_c=1, lower=1)
        alone.append(time.process_time() - start)
    figure = f"files, kinship of {n} people and {m} variants in {len(bed)} blocks"
    report(figure, seconds, "s")
    report(figure, above / 1e6, "MB", part=f"memory above K, which has {8 * n**2 / 1e6:.0f}")
    report(figure, seconds / (np.array(alone[1:]) * m / width), "×", part="kinship / ssyrk on its blocks alone")
