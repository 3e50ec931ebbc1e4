#!/bin/sh
# Guess: a reader of PLINK 1 files takes a .fam file as plink 1.9 writes it, its cells separated by blanks.
# Seen (snputils 1.1.1): cells of .fam files must be separated by tabs, as plink2 writes them. With blanks, the form of
# plink 1.9, reading ends in an error of the table reader about the number of columns, which names neither the file nor
# the separator.
# Why it matters here: genotypes that come by snputils need a .fam file that was written anew (plink2 --make-bed, or tabs in
# place of blanks). The page on genotype files says so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet snputils==1.1.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

import snputils

print("snputils", version("snputils"))
Path("a.bed").write_bytes(bytes([0x6C, 0x1B, 0x01, 0b01111000]))
Path("a.bim").write_text("1\trs1\t0\t100\tG\tT\n")
row = ["F", "I{}", "0", "0", "1", "-9"]

Path("a.fam").write_text("".join("\t".join(row).format(i) + "\n" for i in range(4)))
print("with tabs:", snputils.read_snp("a.bed").genotypes.shape)

Path("a.fam").write_text("".join(" ".join(row).format(i) + "\n" for i in range(4)))
try:
    snputils.read_snp("a.bed")
except Exception as error:
    print("with blanks:", type(error).__name__, str(error)[:90])
    assert "columns" in str(error) and "a.fam" not in str(error)
else:
    raise SystemExit("read")
PYTHON
echo "as found"
