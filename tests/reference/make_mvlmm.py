"""Write mvlmm_gemma.json: GEMMA on `data()`, two and three traits. `python make_mvlmm.py OUTDIR`, gemma on the path."""

import csv
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TRAITS = ("a", "b", "c")
GENOTYPES = 5  # columns that are tested
PARTS = {
    "Vg": "REMLE estimate for Vg", "Ve": "REMLE estimate for Ve", "Vg_ml": "MLE estimate for Vg",
    "Ve_ml": "MLE estimate for Ve", "beta": "estimate for B",
}  # fmt: skip


def data(n=200, m=500, seed=20261128):
    """Return K (n, n), Y (n, 3) and the genotypes (n, m) that K is made of."""
    rng = np.random.default_rng(seed)
    M = rng.binomial(2, rng.uniform(0.1, 0.5, m), (n, m)).astype(float)
    Z = M - M.mean(0)
    K = np.round(Z @ Z.T / m, 10)
    root_g = np.array([[1.0, 0, 0], [0.6, 0.7, 0], [-0.3, 0.2, 0.5]])
    root_e = np.array([[0.8, 0, 0], [0.1, 0.6, 0], [0.2, -0.3, 0.9]])
    U = np.linalg.cholesky(K + 1e-8 * np.eye(n)) @ rng.normal(size=(n, 3)) @ root_g.T
    return K, np.round(U + rng.normal(size=(n, 3)) @ root_e.T + [5, 0, -2], 6), M


def matrices(log):
    """Return what GEMMA printed of the model without genotypes, each with the standard errors that follow it."""
    lines = [line.strip("# ") for line in log.splitlines()]
    found = {}
    for name, start in PARTS.items():
        at = next(i for i, line in enumerate(lines) if line.startswith(start))
        for key in (name, f"{name}_se"):
            rows = []
            while at + 1 + len(rows) < len(lines) and re.fullmatch(r"[-\d.e\t ]+", lines[at + 1 + len(rows)]):
                rows.append([float(value) for value in lines[at + 1 + len(rows)].split()])
            found[key] = rows
            at += 1 + len(rows)
    return found


def main():
    """Run two traits, and three."""
    K, Y, M = data()
    out = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savetxt(folder / "K.txt", K, fmt="%.10f", delimiter="\t")
        np.savetxt(folder / "y.txt", Y, fmt="%.6f", delimiter="\t")
        lines = (f"rs{j}, A, G, " + ", ".join(f"{v:.0f}" for v in M[:, j]) for j in range(GENOTYPES))
        (folder / "g.txt").write_text("\n".join(lines) + "\n")
        for t in (2, 3):
            files = ["-g", "g.txt", "-p", "y.txt", "-k", "K.txt", "-n", *map(str, range(1, t + 1))]
            command = ["gemma", *files, "-lmm", "4", "-maf", "0", "-o", "out"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            with (folder / "output/out.assoc.txt").open() as file:
                table = list(csv.DictReader(file, delimiter="\t"))
            tests = [{k: float(row[k]) for k in row if k.startswith(("beta", "Vbeta", "p_"))} for row in table]
            out[str(t)] = matrices((folder / "output/out.log.txt").read_text()) | {"tests": tests}
    Path(sys.argv[1], "mvlmm_gemma.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
