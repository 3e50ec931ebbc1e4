"""
Write the files that the readers are tested on, by the programs that people have: plink 1.9, plink 2 and GEMMA.

    python tests/io/make_files.py         # Debian's plink1.9, plink2 and gemma; the versions go to files/versions.txt

60 people in families, of whom one is there twice, and 200 variants of chromosomes 1, 2, 22 and X: one in fifty
genotypes missing, A1 the major allele of some, five that do not vary, one without any genotype.
"""

import gzip
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

FILES = Path(__file__).parent / "files"
N, M = 60, 200
CHROMOSOMES = ["1"] * 80 + ["2"] * 60 + ["22"] * 40 + ["X"] * 20
NOT_VARYING, EMPTY = [10, 50, 100, 150, 190], 77


def run(*command: object, folder: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


def alleles(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Two alleles of each person and variant, -1 where missing; and the parents of each person, -1 for founders."""
    frequency = rng.uniform(0.05, 0.95, M)
    frequency[NOT_VARYING] = [0, 1, 0, 1, 0]
    both = np.empty((N, M, 2), dtype=int)
    parents = [(-1, -1)] * 40 + [(2 * (k % 20), 2 * (k % 20) + 1) for k in range(N - 40)]
    for i, (father, mother) in enumerate(parents):
        for side, parent in enumerate((father, mother)):
            inherited = rng.integers(2, size=M)
            own = rng.random(M) < frequency
            both[i, :, side] = own if parent < 0 else both[parent, np.arange(M), inherited]
    both[N - 1] = both[N - 2]  # the same person, sampled twice
    male = np.arange(N) % 2 == 0
    on_x = np.array(CHROMOSOMES) == "X"
    both[np.ix_(male, on_x, [1])] = both[np.ix_(male, on_x, [0])]
    lost = rng.random((N, M)) < 0.02
    lost[:, EMPTY] = True
    both[lost] = -1
    return both, parents


def write_vcf(path: Path, names: list[str], both: np.ndarray, rng: np.random.Generator) -> None:
    bases = [rng.choice(list("ACGT"), size=2, replace=False) for _ in range(M)]
    lines = ["##fileformat=VCFv4.2", "##FORMAT=<ID=GT,Number=1,Type=String,Description=Genotype>"]
    lines += ["\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *names])]
    for j, (chromosome, (ref, alt)) in enumerate(zip(CHROMOSOMES, bases, strict=True)):
        calls = ["./." if a < 0 else f"{a}/{b}" for a, b in both[:, j]]
        lines.append("\t".join([chromosome, str(1000 * (j + 1)), f"rs{j}", ref, alt, ".", ".", ".", "GT", *calls]))
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    rng = np.random.default_rng(16)
    both, parents = alleles(rng)
    names = [f"{i + 1:04d}" for i in range(N)]
    families = [f"F{(i if i < 40 else 2 * (i % 20)) // 2:02d}" for i in range(N)]
    dosage = np.where(both.sum(axis=2) < 0, 0, both.sum(axis=2))[:, :180]
    value = dosage @ rng.normal(size=180)
    y = 2 * (value - value.mean()) / value.std() + rng.normal(size=N)
    with TemporaryDirectory() as made:
        folder = Path(made)
        write_vcf(folder / "all.vcf", names, both, rng)
        people = [f"0 {n} {f} {n}" for n, f in zip(names, families, strict=True)]
        (folder / "ids.txt").write_text("\n".join(people) + "\n")
        kin = zip(names, families, parents, strict=True)
        own = [(f, n, *("0" if p < 0 else names[p] for p in pair)) for n, f, pair in kin]
        (folder / "parents.txt").write_text("\n".join(map(" ".join, own)) + "\n")
        sexes = [f"{f} {n} {1 + i % 2}" for i, (f, n) in enumerate(zip(families, names, strict=True))]
        (folder / "sex.txt").write_text("\n".join(sexes) + "\n")
        seen = np.where(np.arange(N) % 13 == 5, -9, y)
        y_of = [f"{f} {n} {v:.5g}" for f, n, v in zip(families, names, seen, strict=True)]
        (folder / "y.txt").write_text("\n".join(y_of) + "\n")
        plink = ["plink1.9", "--keep-allele-order"]
        run(*plink, "--vcf", "all.vcf", "--const-fid", "0", "--make-bed", "--out", "a", folder=folder)
        run(*plink, "--bfile", "a", "--update-ids", "ids.txt", "--make-bed", "--out", "b", folder=folder)
        run(
            *plink, "--bfile", "b", "--update-parents", "parents.txt", "--update-sex", "sex.txt", "--pheno", "y.txt",
            "--make-bed", "--out", "people", folder=folder,
        )  # fmt: skip
        run(*plink, "--bfile", "people", "--recode", "A", "--out", "counts", folder=folder)
        run(*plink, "--bfile", "people", "--make-grm-gz", "--out", "plink1", folder=folder)
        run(*plink, "--bfile", "people", "--make-rel", "bin", "--out", "plink1", folder=folder)
        run(*plink, "--bfile", "people", "--make-rel", "square", "--out", "plink1", folder=folder)
        two = ["plink2", "--bfile", "people", "--nonfounders"]
        run(*two, "--make-grm-bin", "--out", "plink2", folder=folder)
        run(*two, "--make-rel", "square", "--out", "plink2", folder=folder)
        run(*two, "--make-rel", "meanimpute", "square", "--out", "imputed", folder=folder)
        run(*two, "--make-rel", "cov", "meanimpute", "square", "--out", "cov", folder=folder)
        run("plink2", "--bfile", "people", "--freq", "--out", "founders", folder=folder)
        run("plink2", "--bfile", "people", "--make-pgen", "--out", "people", folder=folder)
        run("plink2", "--bfile", "people", "--export", "vcf", "bgz", "id-paste=iid", "--out", "people", folder=folder)
        bgen = ["--export", "bgen-1.2", "bits=8", "id-paste=iid"]
        run("plink2", "--bfile", "people", *bgen, "--out", "people", folder=folder)
        run(*two, "--freq", "--out", "all", folder=folder)
        gemma = ["gemma", "-bfile", "people", "-outdir", "."]
        for kind in (1, 2):
            run(*gemma, "-gk", kind, "-o", "gemma", folder=folder)
        run(*gemma, "-k", "gemma.cXX.txt", "-lmm", "4", "-o", "lmm", folder=folder)
        print("\n".join(sorted(path.name for path in folder.iterdir())))
        kept = [
            "people.bed", "people.bim", "people.fam", "counts.raw", "plink1.grm.gz", "plink1.grm.id", "plink1.rel.bin",
            "plink1.rel", "plink1.rel.id", "plink2.grm.bin", "plink2.grm.N.bin", "plink2.grm.id", "plink2.rel",
            "plink2.rel.id", "imputed.rel", "cov.rel", "founders.afreq", "all.afreq", "gemma.cXX.txt", "gemma.sXX.txt",
            "lmm.assoc.txt", "people.vcf.gz", "people.pgen", "people.pvar", "people.psam", "people.bgen",
        ]  # fmt: skip
        FILES.mkdir(exist_ok=True)
        for name in kept:
            shutil.copy(folder / name, FILES / name)
        for name in (
            "counts.raw",
            "gemma.sXX.txt",
            "plink1.rel",
            "imputed.rel",
            "cov.rel",
        ):  # large text, read by tests alone
            with gzip.GzipFile(FILES / f"{name}.gz", "wb", mtime=0) as packed:
                packed.write((FILES / name).read_bytes())
            (FILES / name).unlink()
        log = (folder / "lmm.log.txt").read_text().splitlines()
        wanted = [line for line in log if any(key in line for key in ("pve", "MLE", "vg", "ve estimate", "analyzed"))]
        versions = [run(program, "--version", folder=folder).splitlines()[0] for program in ("plink1.9", "plink2")]
        version = next(line for line in run("gemma", "-h", folder=folder).splitlines() if "GEMMA" in line)
        (FILES / "versions.txt").write_text("\n".join([*versions, version.strip(), *wanted]) + "\n")


if __name__ == "__main__":
    main()
