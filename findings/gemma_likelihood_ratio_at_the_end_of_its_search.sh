#!/bin/sh
# The guess: p_lrt of gemma -lmm 4 compares two maxima of the likelihood, as p_wald has one of the restricted likelihood.
# Seen (GEMMA 0.98.5): GEMMA centres K, so that K is singular along the intercept, and the maximum likelihood rises without
#   bound as the residual variance goes to 0. For a heritable trait its search ends at the last point of its grid: l_mle is
#   1e+05 for every marker, where l_remle is about 10, and p_lrt compares two values at that end: from a third of p_wald to
#   1.7 times it. The log and the table say nothing.
# Why it matters: p-values of likelihood-ratio tests of other software, at the modes inside, differ from GEMMA's there, and
#   GEMMA's are the common yardstick. l_mle tells: compare only where it is below 1e+05.
# The package is Debian's, unpacked in a temporary folder with the libraries that it needs.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
chmod 755 "$folder"
apt-get download -q gemma=0.98.5+dfsg-2 libgsl27 libgslcblas0 libopenblas0-pthread libgfortran5 libquadmath0 libgomp1 \
    >apt.log 2>&1
for package in *.deb; do dpkg -x "$package" root; done
gemma=$(find "$folder/root" -name gemma -type f -perm -u+x | head -1)
LD_LIBRARY_PATH=$(find "$folder/root" -name '*.so*' -exec dirname {} \; | sort -u | tr '\n' ':')
export LD_LIBRARY_PATH OPENBLAS_NUM_THREADS=1
python3 - <<'PYTHON'
import random

# genotypes of unrelated people, and a trait that is nearly their sum
rng = random.Random(5)
n, m = 120, 240
markers = [[sum(rng.random() < 0.4 for _ in range(2)) for _ in range(n)] for _ in range(m)]
effects = [rng.gauss(0, 1) / 8 for _ in range(m)]
y = [sum(b * row[i] for b, row in zip(effects, markers)) + 0.5 * rng.gauss(0, 1) for i in range(n)]
tested = [[sum(rng.random() < 0.35 for _ in range(2)) for _ in range(n)] for _ in range(12)]
with open("markers.txt", "w") as file:
    file.writelines(f"m{j} A G {' '.join(map(str, row))}\n" for j, row in enumerate(markers))
with open("tested.txt", "w") as file:
    file.writelines(f"t{j} A G {' '.join(map(str, row))}\n" for j, row in enumerate(tested))
with open("y.txt", "w") as file:
    file.writelines(f"{v:.6f}\n" for v in y)
PYTHON
"$gemma" -g markers.txt -p y.txt -gk 1 -maf 0 -o kinship >gk.log 2>&1
"$gemma" -g tested.txt -p y.txt -k output/kinship.cXX.txt -lmm 4 -maf 0 -r2 1 -o scan >lmm.log 2>&1
python3 - <<'PYTHON'
import csv

with open("output/scan.log.txt") as file:
    log = file.read()
print(next(line for line in log.splitlines() if "GEMMA Version" in line).strip("# "))
with open("output/scan.assoc.txt") as file:
    rows = [{k: float(row[k]) for k in ("l_remle", "l_mle", "p_wald", "p_lrt")} for row in csv.DictReader(file, delimiter="\t")]
for row in rows:
    print("  ".join(f"{k} {v:9.4g}" for k, v in row.items()), f"  p_lrt/p_wald {row['p_lrt'] / row['p_wald']:.2f}")
assert "0.98.5" in log
assert all(row["l_mle"] == 1e5 for row in rows)
assert all(1 < row["l_remle"] < 1e4 for row in rows)
ratios = [row["p_lrt"] / row["p_wald"] for row in rows]
assert max(ratios) > 1.5 or min(ratios) < 0.67
PYTHON
