"""Write scan_gemma_gaps.json: GEMMA on `cases.scan_with_gaps()`. `python make_gemma.py OUTDIR`, gemma on the path."""

import csv
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

COLUMNS = ("n_miss", "beta", "se", "l_remle", "l_mle", "p_wald", "p_lrt")


def gemma(folder, K, X, y, genotypes):
    """Return the table and the pve of one run."""
    lines = (
        " ".join([f"rs{j}", "A", "G", *("NA" if np.isnan(v) else f"{v:.0f}" for v in column)])
        for j, column in enumerate(genotypes.T)
    )
    (folder / "genotypes.txt").write_text("\n".join(lines) + "\n")
    (folder / "y.txt").write_text("\n".join("NA" if np.isnan(v) else f"{v:.6f}" for v in y) + "\n")
    np.savetxt(folder / "K.txt", K, fmt="%.15g")
    np.savetxt(folder / "X.txt", X, fmt="%.6f")
    files = ["-g", "genotypes.txt", "-p", "y.txt", "-k", "K.txt", "-c", "X.txt"]
    command = ["gemma", *files, "-lmm", "4", "-miss", "1", "-maf", "0", "-r2", "1", "-notsnp", "-o", "out"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    with (folder / "output/out.assoc.txt").open() as file:
        rows = [[float(row[name]) for name in COLUMNS] for row in csv.DictReader(file, delimiter="\t")]
    log = (folder / "output/out.log.txt").read_text()
    found = {k: re.search(rf"## {re.escape(t)} in the null model = +(\S+)", log) for k, t in LOG.items()}
    return {"rows": rows} | {k: float(value[1]) for k, value in found.items()}


LOG = {"pve": "pve estimate", "pve_se": "se(pve)", "vg": "vg estimate", "ve": "ve estimate"}


def main():
    """Run without and with covariates."""
    import cases  # beside this script

    K, X, y, genotypes = cases.scan_with_gaps()
    result = {"software": "GEMMA 0.98.5 -lmm 4 -miss 1 -maf 0 -r2 1", "columns": COLUMNS}
    for name, design in (("intercept", X[:, :1]), ("covariates", X)):
        with tempfile.TemporaryDirectory() as folder:
            result[name] = gemma(Path(folder), K, design, y, genotypes)
    Path(sys.argv[1], "scan_gemma_gaps.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
