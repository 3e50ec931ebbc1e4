#!/bin/sh
# Guess: in pandas-plink, whose fields are a0 and a1, a1 is the first allele of the .bim file, which PLINK 1 calls A1, and
# ref="a1", the default, counts it, as bed-reader, plink 1.9 --recode A and GEMMA do.
# Seen (pandas-plink 2.3.2): the first allele of the .bim file is a0 and the second a1. ref="a1" counts the second, which
# PLINK calls A2: a person with two copies of A1 has 0.
# Why it matters here: effects of a scan change their sign, and frequencies become 1 - p, without a word, when genotypes
# come by one reader and effect alleles by another. Kinships do not change.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pandas-plink==2.3.2 bed-reader==1.1.0 "setuptools<81"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

import numpy as np
from bed_reader import open_bed
from pandas_plink import read_plink1_bin

# four people, one variant, A1 = G and A2 = T: GG, GT, TT, missing, two bits each from the lowest
Path("a.bed").write_bytes(bytes([0x6C, 0x1B, 0x01, 0b01111000]))
Path("a.bim").write_text("1\trs1\t0\t100\tG\tT\n")
Path("a.fam").write_text("".join(f"F I{i} 0 0 1 -9\n" for i in range(4)))

theirs = open_bed("a.bed").read()[:, 0]
print("bed-reader", version("bed-reader"), "copies of A1 = G:", theirs)
assert np.array_equal(theirs, [2, 1, 0, np.nan], equal_nan=True)

G = read_plink1_bin("a.bed", "a.bim", "a.fam", verbose=False)
print("pandas-plink", version("pandas-plink"), "a0", G.a0.values, "a1", G.a1.values, "counts:", G.values[:, 0])
assert (G.a0.item(), G.a1.item()) == ("G", "T")
assert np.array_equal(G.values[:, 0], [0, 1, 2, np.nan], equal_nan=True)
PYTHON
echo "as found"
