"""A scan of two and of five traits beside the rotation of its candidates, and beside GEMMA's from the same file."""

import resource
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark
N, VARIANTS, US = 2000, 5000, 1e6


def traits(U, t, rng):
    """Traits of h² near a half, genetically and otherwise correlated."""
    G, E = (np.eye(t) + 0.4 * rng.normal(size=(t, t)) for _ in range(2))
    return U @ G + rng.normal(size=(len(U), t)) @ E


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """2000 people of families of four, 5000 variants of them in a file, a kinship of 20 000 others, five traits."""
    folder, rng = tmp_path_factory.mktemp("traits"), np.random.default_rng(17)
    people = [f"I{i}" for i in range(N)]

    def genotypes(m):
        p = rng.uniform(0.05, 0.5, m)
        founders = rng.random((N // 2, 2, m)) < p  # two parents for each four
        parents = founders.reshape(N // 4, 2, 2, m).repeat(4, axis=0)
        which = rng.integers(0, 2, (N, 2, m))
        return np.take_along_axis(parents, which[:, :, None, :], axis=2)[:, :, 0].sum(axis=1).astype(float)

    others = np.hstack([genotypes(2000) for _ in range(10)])
    K = flmm.covariance.markers(pd.DataFrame(others, people))
    effects = rng.normal(size=(others.shape[1], 5)) / np.sqrt(others.shape[1] * 0.37)
    Y = pd.DataFrame(traits((others - others.mean(axis=0)) @ effects, 5, rng), people).add_prefix("y")
    variants = pd.DataFrame(
        {"chromosome": 1, "position": np.arange(VARIANTS), "counted": "A", "other": "C"},
        index=[f"rs{j}" for j in range(VARIANTS)],
    )
    path = flmm.io.write_bed(flmm.io.label_genotypes(genotypes(VARIANTS), people, variants), folder / "study")
    return path, K, Y


def children(*command, folder):
    """Return the CPU seconds of a program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(part) for part in command], cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("t", [2, 5])
def test_a_scan_of_traits_beside_the_rotation_of_its_candidates(study, t, measure, report):
    path, K, Y = study
    candidates = np.nan_to_num(flmm.io.read_bed(path).select(variants=np.arange(VARIANTS) < 2000).read().to_numpy())
    spectrum, Y = flmm.Spectrum.from_covariance(K, np.ones((N, 1))), Y.iloc[:, :t]
    basis = np.array(spectrum.basis)

    def scanned(**options):
        return measure.loop(lambda: flmm.scan_traits(spectrum, Y, candidates, progressbar=False, **options))

    loops = {
        "product": measure.loop(lambda: candidates.T @ basis),
        "null": scanned(),
        "each": scanned(variances="each"),
        "one": measure.loop(lambda: flmm.scan(spectrum, Y.iloc[:, 0], candidates, progressbar=False)),
    }
    seconds = measure.take_turns(loops, rounds=3, counts=dict.fromkeys(loops, 1))
    figure = f"several traits, scan of {t}, covariances of the null / matrix product of the rotation, n = {N}"
    report(figure, seconds["null"] / seconds["product"], "×")
    report(figure, seconds["each"] / seconds["product"], "×", part="covariances of each candidate / product")
    report(figure, seconds["null"] / seconds["one"], "×", part="covariances of the null / scan of one response")
    for name in ("product", "null", "each"):
        report(figure, US / len(candidates.T) * seconds[name], "µs", part=f"{name}, for each candidate")


def test_a_scan_of_two_traits_from_a_file(study, measure, report):
    path, K, Y = study
    bed, table = flmm.io.read_bed(path), Y[["y0", "y1"]]

    def ours(variances):
        return lambda: flmm.genome_scan("y0 + y1 ~ 1", table, bed, K=K, variances=variances, progressbar=False)

    loops = {way: measure.loop(ours(way)) for way in ("null", "each")}
    seconds = measure.take_turns(loops, rounds=2, counts=dict.fromkeys(loops, 1))
    figure = f"several traits, tests of {VARIANTS} variants on two of {N} people, kinship given"
    report(figure, seconds["null"], "s")
    report(figure, seconds["each"], "s", part="covariances of each variant")
    if shutil.which("gemma"):
        folder = path.parent
        np.savetxt(folder / "K.txt", K.to_numpy(), fmt="%.10g")
        np.savetxt(folder / "Y.txt", table, fmt="%.10g")
        command = ("gemma", "-bfile", "study", "-p", "Y.txt", "-k", "K.txt", "-lmm", "1", "-n", "1", "2", "-maf", "0")
        theirs = children(*command, "-o", "g", "-outdir", ".", folder=folder)
        found = pd.read_csv(folder / "g.assoc.txt", sep="\t")
        own = ours("each")().sel(candidate=found["rs"].to_list())
        assert np.median(np.abs(np.log(own.p_value) / np.log(found["p_wald"]) - 1)) < 0.03
        report(figure, seconds["null"] / theirs, "×", part="scan / gemma -lmm 1 -n 1 2")
        report(figure, seconds["each"] / theirs, "×", part="covariances of each variant / gemma -lmm 1 -n 1 2")
