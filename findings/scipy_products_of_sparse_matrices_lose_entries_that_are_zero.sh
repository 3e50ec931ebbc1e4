#!/bin/sh
# Guess: the pattern of a product of sparse matrices follows from their patterns, stored zeros included, so that places
# of its entries can be found once and used for other values.
# Seen (scipy 1.16.3): a product has no entry where its value is exactly 0, by cancellation or because an entry that is
# stored is 0, so that other values of the same pattern give another number of entries. Products with a diagonal and
# sums do the same.
# Why it matters here: mixed-model equations are factored at many variances on one pattern. In Λ'W'WΛ a root Λ of a
# covariance without correlation has zeros, so that values found by place are read from other entries, or past the end.
# And where a covariate of -1 and 1 cancels in W'W, its place is lost of C^-1 too, which is not 0 there: variances of rows
# that are summed over the pattern are wrong without a word.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.16.3 numpy==2.3.5
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import scipy
import scipy.sparse as sp

print("scipy", scipy.__version__)
rows, columns = np.tril_indices(2)


def root(l21):
    """A lower triangle of three stored entries."""
    return sp.csc_array((np.array([1.0, l21, 1.0]), (rows, columns)), shape=(2, 2))


gram = sp.csc_array(np.array([[2.0, 1.0], [1.0, 3.0]]))
print("entries stored in the root:", root(0.5).nnz, "and", root(0.0).nnz)
assert root(0.5).nnz == root(0.0).nnz == 3

plain = sp.csc_array(np.diag([2.0, 3.0]))
counts = [(root(l21).T @ plain @ root(l21)).nnz for l21 in (0.5, 0.0)]
print("entries of L'DL with l21 = 0.5 and 0:", counts, "by the pattern: 4 and 4")
assert counts == [4, 2]

one, other = sp.csr_array([[1.0, 1.0]]), sp.csr_array([[1.0], [-1.0]])
print("entries of (1, 1)(1, -1)':", (one @ other).nnz, "by the pattern: 1")
assert (one @ other).nnz == 0

scaled = sp.diags_array([0.0, 1.0]) @ gram
print("entries of diag(0, 1) times a full matrix:", scaled.nnz, "by the pattern: 4")
assert scaled.nnz == 2

zeros = sp.csc_array((np.zeros(4), ([0, 1, 0, 1], [0, 0, 1, 1])), shape=(2, 2))
print("entries of the sum of a diagonal and four stored zeros:", (plain + zeros).nnz, "by the pattern: 4")
assert (plain + zeros).nnz == 2
PYTHON
echo "as found"
