"""Write scan_traits_gemma.json: GEMMA on `cases.scan_of_traits()`. `python make_gemma_traits.py OUTDIR`."""

import csv
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

# iterated to the end with every variant: by default it stops at 1e-3 of the likelihood where p is above 0.001
TO_THE_END = ("-pnr", "1", "-emp", "1e-8", "-nrp", "1e-8", "-emi", "100000", "-nri", "1000")


def gemma(folder, K, X, Y, genotypes):
    """Return the tables of the variants and the covariances without them, of two and of three traits."""
    lines = (
        " ".join([f"rs{j}", "A", "G", *("NA" if np.isnan(v) else f"{v:.0f}" for v in column)])
        for j, column in enumerate(genotypes.T)
    )
    (folder / "genotypes.txt").write_text("\n".join(lines) + "\n")
    for name, values in {"Y": Y, "K": K, "X": X}.items():
        np.savetxt(folder / f"{name}.txt", values, fmt="%.10f")
    out = {}
    for t in (2, 3):
        files = ["-g", "genotypes.txt", "-p", "Y.txt", "-k", "K.txt", "-c", "X.txt"]
        options = ["-lmm", "4", "-n", *"123"[:t], "-miss", "1", "-maf", "0", "-r2", "1", "-notsnp", "-o", "out"]
        subprocess.run(["gemma", *files, *options, *TO_THE_END], cwd=folder, check=True, capture_output=True)
        with (folder / "output/out.assoc.txt").open() as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        columns = [name for name in rows[0] if re.match("n_miss|beta|Vbeta|p_", name)]
        log = (folder / "output/out.log.txt").read_text()
        null = {name: matrix(log, name, t) for name in ("REMLE estimate for Vg", "REMLE estimate for Ve")}
        out[t] = {"columns": columns, "rows": [[float(row[name]) for name in columns] for row in rows]} | null
    return out


def matrix(log, name, t):
    """Return a symmetric matrix of which the log has the lower triangle."""
    lines = log.split(f"## {name} in the null model")[1].splitlines()[1 : 1 + t]
    rows = [[float(v) for v in line.removeprefix("##").split()][: i + 1] for i, line in enumerate(lines)]
    return [[rows[max(i, j)][min(i, j)] for j in range(t)] for i in range(t)]


def main():
    """Run it."""
    import cases  # beside this script

    result = {"software": "GEMMA 0.98.5 -lmm 4 " + " ".join(TO_THE_END)}
    with tempfile.TemporaryDirectory() as folder:
        result |= gemma(Path(folder), *cases.scan_of_traits())
    Path(sys.argv[1], "scan_traits_gemma.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
