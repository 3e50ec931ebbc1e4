"""
The compiled numerics of blocks: Cholesky factor, half solves and selected inverse.

C = LLᵀ is computed from the left: a supernode is updated by all that have rows among its columns, then it is
factorised as a dense block. The blocks are those of symbolic.py. What is small is worked out in plain loops, since a
call of BLAS takes a microsecond; the rest by BLAS and LAPACK, for which a row-major block is the transpose.

The selected inverse has Z = C⁻¹ at the places of L alone. With the rows J of a supernode below its own columns s,
M = L_Js L_ss⁻¹ and Z_JJ, which lies in the blocks further right (Takahashi's equations by blocks),

    Z_Js = -Z_JJ M,   Z_ss = L_ss⁻ᵀL_ss⁻¹ + MᵀZ_JJM

All that compiled code calls is in this file, because Numba's cache sees no other (docs/contributing.md).

References
----------
Ng & Peyton (1993), doi:10.1137/0914063; Takahashi, Fagan & Chin (1973); Erisman & Tinney (1975),
doi:10.1145/360680.360704.
"""

import math
from typing import Any

import numpy as np
from numba import njit

from pm_fastlmm.sparse.lapack import at, dgemm, dpotrf, dpotri, dsymm, dsyrk, dtrsm, ref

compiled = njit(cache=True, nogil=True)
reordered = njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # sums may be vectorised

_LEFT, _RIGHT, _UPPER, _PLAIN, _TRANSPOSED = (ord(letter) for letter in "LRUNT")
_SMALL = 600  # multiplications of an update up to which a loop is faster than BLAS
_STRIP = 128  # columns that are updated at once, so that the update stays in the cache
_ROWS = 512  # of Z_JJ that are copied at once; it has thousands, and at most 24 in a small update
_NARROW = 24  # columns of a block up to which a loop is faster than LAPACK


@compiled
def factorise(first: Any, owner: Any, begin: Any, rows: Any, block: Any, L: Any, floor: Any, dependent: Any) -> Any:
    """
    Replace a matrix in blocks by its factor; return its log-determinant and the first column with a bad pivot, or -1.

    With `floor` (n,) instead of an empty array, columns with pivots up to theirs are marked `dependent` and left out.
    """
    m, n = len(first) - 1, len(owner)
    head, following = np.full(m, -1, np.int32), np.full(m, -1, np.int32)
    reached, local = np.zeros(m, np.int64), np.empty(n, np.int32)
    widest, longest, _ = _extent(first, begin)
    update, inverse = np.empty(longest * min(longest, _STRIP)), np.empty(widest)
    for s in range(m):
        width, length = first[s + 1] - first[s], begin[s + 1] - begin[s]
        c = head[s]
        if c >= 0:
            for a in range(begin[s], begin[s + 1]):
                local[rows[a]] = a - begin[s]
        while c >= 0:
            wide = first[c + 1] - first[c]
            a = begin[c] + reached[c]
            b = a
            while b < begin[c + 1] and rows[b] < first[s + 1]:
                b += 1
            source = block[c] + reached[c] * wide
            below = rows[a : begin[c + 1]]
            _subtract(L, source, wide, below, b - a, block[s], width, first[s], local, update)
            behind = following[c]
            if b < begin[c + 1]:
                reached[c] = b - begin[c]
                following[c] = head[owner[rows[b]]]
                head[owner[rows[b]]] = c
            c = behind
        if width < _NARROW:
            bad = _small_block(L, block[s], width, length, width, inverse, np.int64(first[s]), floor, dependent)
        elif len(floor):
            bad = _dependent_block(L, block[s], length, width, inverse, np.int64(first[s]), floor, dependent)
        else:
            bad = _large_block(L, block[s], length, width)
        if bad >= 0:
            return 0.0, first[s] + bad
        if length > width:
            q = owner[rows[begin[s] + width]]
            reached[s], following[s], head[q] = width, head[q], s
    return _logdet(first, block, L), np.int64(-1)


@compiled
def _extent(first: Any, begin: Any) -> Any:
    """Return the most columns and the most rows below them of a supernode, and the most of their product."""
    columns = below = both = 0
    for s in range(len(first) - 1):
        width = first[s + 1] - first[s]
        under = begin[s + 1] - begin[s] - width
        columns, below, both = max(columns, width), max(below, under), max(both, width * under)
    return columns, below, both


@reordered
def _subtract(
    L: Any,
    source: Any,
    wide: Any,
    below: Any,
    columns: Any,
    target: Any,
    width: Any,
    first: Any,
    local: Any,
    update: Any,
) -> None:
    """Subtract R R[:columns]ᵀ from the block at `target`, R the rows `below` of another block, from `source` on."""
    length = len(below)
    if length * columns * wide <= _SMALL:
        for i in range(length):
            to, row = target + local[below[i]] * width - first, source + i * wide
            for j in range(min(i + 1, columns)):
                total = 0.0
                for k in range(wide):
                    total += L[row + k] * L[source + j * wide + k]
                L[to + below[j]] -= total
        return
    zero, one, w, kinds = 0.0, 1.0, ref(wide), (ref(_TRANSPOSED), ref(_PLAIN))
    for start in range(0, columns, _STRIP):
        strip = min(columns - start, _STRIP)
        k, stop, R = ref(strip), start + strip, at(L, source + start * wide)
        dsyrk(ref(_UPPER), kinds[0], k, w, ref(one), R, w, ref(zero), at(update, 0), k)
        if length > stop:
            rest, U = at(L, source + stop * wide), at(update, strip * strip)
            dgemm(kinds[0], kinds[1], k, ref(length - stop), w, ref(one), R, w, rest, w, ref(zero), U, k)
        for i in range(start, length):
            to, row = target + local[below[i]] * width - first, (i - start) * strip - start
            for j in range(start, min(i + 1, stop)):
                L[to + below[j]] -= update[row + j]


@reordered
def _small_block(
    L: Any, base: Any, stride: Any, length: Any, width: Any, inverse: Any, first: Any, floor: Any, dependent: Any
) -> Any:
    """Factorise a block row by row, `stride` numbers apart; return the column of a bad pivot, or -1."""
    for i in range(length):
        row = base + i * stride
        for j in range(min(i, width)):
            total = L[row + j]
            for k in range(j):
                total -= L[row + k] * L[base + j * stride + k]
            L[row + j] = total * inverse[j]
        if i < width:
            pivot = L[row + i]
            for k in range(i):
                pivot -= L[row + k] ** 2
            if len(floor) and pivot <= floor[first + i]:
                dependent[first + i] = True
                L[row + i], inverse[i] = 1.0, 0.0
                continue
            if not pivot > 0.0:
                return i
            L[row + i] = math.sqrt(pivot)
            inverse[i] = 1.0 / L[row + i]
    return np.int64(-1)


@compiled
def _dependent_block(
    L: Any, base: Any, length: Any, width: Any, inverse: Any, first: Any, floor: Any, dependent: Any
) -> Any:
    """Factorise a wide block in strips of columns, where LAPACK would not go on behind a pivot of 0."""
    one, minus, w, kinds = 1.0, -1.0, ref(width), (ref(_TRANSPOSED), ref(_PLAIN))
    for start in range(0, width, _NARROW):
        stop = min(start + _NARROW, width)
        corner = base + start * width + start
        _small_block(L, corner, width, length - start, stop - start, inverse, first + start, floor, dependent)
        R, rest = at(L, base + stop * width + start), at(L, base + stop * width + stop)
        c, r = ref(width - stop), ref(length - stop)
        dgemm(kinds[0], kinds[1], c, r, ref(stop - start), ref(minus), R, w, R, w, ref(one), rest, w)
    return np.int64(-1)


@compiled
def _large_block(L: Any, base: Any, length: Any, width: Any) -> Any:
    """Factorise a block by LAPACK; return the column of a bad pivot, or -1."""
    info, w, B, one = np.zeros(1, np.int32), ref(width), at(L, base), 1.0
    dpotrf(ref(_UPPER), w, B, w, at(info, 0))
    if info[0]:
        return np.int64(info[0] - 1)
    for j in range(width):
        if not L[base + j * (width + 1)] > 0.0:  # NaN, which LAPACK may let pass
            return j
    if length > width:
        rest = at(L, base + width * width)
        kinds = ref(_LEFT), ref(_UPPER), ref(_TRANSPOSED), ref(_PLAIN)
        dtrsm(kinds[0], kinds[1], kinds[2], kinds[3], w, ref(length - width), ref(one), B, w, rest, w)
    return np.int64(-1)


@compiled
def _logdet(first: Any, block: Any, L: Any) -> Any:
    total = 0.0
    for s in range(len(first) - 1):
        width = first[s + 1] - first[s]
        for j in range(width):
            total += math.log(L[block[s] + j * (width + 1)])
    return 2 * total


@compiled
def forward(first: Any, begin: Any, rows: Any, block: Any, L: Any, b: Any) -> None:
    """Replace b (n, k) by L⁻¹b."""
    for s in range(len(first) - 1):
        _forward_block(L, block[s], first[s + 1] - first[s], rows[begin[s] : begin[s + 1]], b)


@compiled
def _forward_block(L: Any, base: Any, width: Any, at: Any, b: Any) -> None:
    """Take the columns of a block out of b; its rows stand in those `at` of b."""
    for i in range(len(at)):
        row, r = base + i * width, at[i]
        for k in range(min(i, width)):
            factor = L[row + k]
            for c in range(b.shape[1]):
                b[r, c] -= factor * b[at[k], c]
        if i < width:
            for c in range(b.shape[1]):
                b[r, c] /= L[row + i]


@compiled
def forward_reached(
    first: Any, owner: Any, begin: Any, rows: Any, block: Any, L: Any, indptr: Any, place: Any, value: Any
) -> Any:
    """
    Return the rows of L⁻¹B that may not be 0, of sparse columns B: `value` stands in row `place`.

    These are the supernodes of its entries and their ancestors in the elimination tree (Gilbert & Peierls 1988,
    doi:10.1137/0909058).
    """
    seen, path = np.zeros(len(first) - 1, np.bool_), []
    for j in place:
        s = owner[j]
        while not seen[s]:
            seen[s] = True
            path.append(s)
            below = begin[s] + first[s + 1] - first[s]
            if below < begin[s + 1]:
                s = owner[rows[below]]
    reached = np.sort(np.array(path, np.int64))
    local, size, longest = np.empty(len(owner), np.int32), 0, 0
    for s in reached:
        for j in range(first[s], first[s + 1]):
            local[j], size = size, size + 1
        longest = max(longest, begin[s + 1] - begin[s])
    b, at = np.zeros((size, len(indptr) - 1)), np.empty(longest, np.int32)
    for c in range(len(indptr) - 1):
        for e in range(indptr[c], indptr[c + 1]):
            b[local[place[e]], c] += value[e]
    for s in reached:
        length = begin[s + 1] - begin[s]
        for i in range(length):
            at[i] = local[rows[begin[s] + i]]
        _forward_block(L, block[s], first[s + 1] - first[s], at[:length], b)
    return b


@compiled
def backward(first: Any, begin: Any, rows: Any, block: Any, L: Any, b: Any) -> None:
    """Replace b (n, k) by L⁻ᵀb."""
    for s in range(len(first) - 2, -1, -1):
        width, f = first[s + 1] - first[s], first[s]
        for i in range(begin[s + 1] - begin[s] - 1, -1, -1):
            row, r = block[s] + i * width, rows[begin[s] + i]
            if i < width:
                for c in range(b.shape[1]):
                    b[r, c] /= L[row + i]
            for k in range(min(i, width)):
                factor = L[row + k]
                for c in range(b.shape[1]):
                    b[f + k, c] -= factor * b[r, c]


@compiled
def selected_inverse(first: Any, owner: Any, begin: Any, rows: Any, block: Any, L: Any, Z: Any) -> None:
    """Write the entries of (LLᵀ)⁻¹ at the places of L."""
    _, longest, most = _extent(first, begin)
    S, M, local = np.empty(longest * min(longest, _ROWS)), np.empty(most), np.empty(longest, np.int64)
    for s in range(len(first) - 2, -1, -1):
        width = first[s + 1] - first[s]
        below = rows[begin[s] + width : begin[s + 1]]
        k = len(below)
        base, under = block[s], block[s] + width * width
        for i in range(width * width):
            Z[base + i] = L[base + i]
        for i in range(k * width):
            M[i] = L[under + i]
        if (k + width) * width * k + width**3 <= _SMALL:
            _gather(first, owner, begin, rows, block, Z, below, np.int64(0), k, S, local)
            _small_inverse(M, S, Z, base, width, k)
        else:
            if k:
                _divide(M, Z, base, width, k)
            for start in range(0, k, _ROWS):
                stop = min(start + _ROWS, k)
                _gather(first, owner, begin, rows, block, Z, below, start, stop, S, local)
                _subtract_product(M, S, Z, under, width, start, stop)
            _large_inverse(M, Z, base, width, k)


@compiled
def _gather(
    first: Any, owner: Any, begin: Any, rows: Any, block: Any, Z: Any, below: Any, start: Any, stop: Any, S: Any,
    local: Any,
) -> None:  # fmt: skip
    """Copy some rows of the lower triangle of Z at rows and columns `below` to S, row-major, `stop` numbers apart."""
    j = 0
    while j < stop:
        q = owner[below[j]]
        width, a, end, top = first[q + 1] - first[q], begin[q], j, max(j, start)
        while end < stop and below[end] < first[q + 1]:
            end += 1
        for i in range(top, stop):
            while rows[a] != below[i]:
                a += 1
            local[i] = block[q] + (a - begin[q]) * width - first[q]
        for i in range(top, stop):
            for c in range(j, min(i + 1, end)):
                S[(i - start) * stop + c] = Z[local[i] + below[c]]
        j = end


@reordered
def _small_inverse(M: Any, S: Any, Z: Any, base: Any, width: Any, k: Any) -> None:
    """Write the block of the inverse, in which L_ss stands, by loops; M is L_Js and becomes L_Js L_ss⁻¹."""
    under = base + width * width
    for j in range(width):  # L_ss becomes its inverse
        Z[base + j * width + j] = 1.0 / Z[base + j * width + j]
        for i in range(j + 1, width):
            total = 0.0
            for c in range(j, i):
                total += Z[base + i * width + c] * Z[base + c * width + j]
            Z[base + i * width + j] = -total / Z[base + i * width + i]
    for i in range(k):
        for j in range(width):
            total = 0.0
            for c in range(j, width):
                total += M[i * width + c] * Z[base + c * width + j]
            M[i * width + j] = total
            Z[under + i * width + j] = 0.0
    for i in range(k):
        for c in range(i):
            z = S[i * k + c]
            for j in range(width):
                Z[under + i * width + j] -= z * M[c * width + j]
                Z[under + c * width + j] -= z * M[i * width + j]
        for j in range(width):
            Z[under + i * width + j] -= S[i * k + i] * M[i * width + j]
    for i in range(width):  # column i of the inverse is not needed below its row i
        for j in range(i + 1):
            total = 0.0
            for c in range(i, width):
                total += Z[base + c * width + i] * Z[base + c * width + j]
            for c in range(k):
                total -= M[c * width + i] * Z[under + c * width + j]
            Z[base + i * width + j] = total


@compiled
def _divide(M: Any, Z: Any, base: Any, width: Any, k: Any) -> None:
    """Replace M = L_Js by L_Js L_ss⁻¹."""
    one, w, plain = 1.0, ref(width), ref(_PLAIN)
    dtrsm(ref(_LEFT), ref(_UPPER), plain, plain, w, ref(k), ref(one), at(Z, base), w, at(M, 0), w)


@compiled
def _subtract_product(M: Any, S: Any, Z: Any, under: Any, width: Any, start: Any, stop: Any) -> None:
    """Take from Z_Js what some rows of Z_JJ add to Z_JJ M, which is symmetric; these rows of Z_Js are written first."""
    zero, one, minus = 0.0, 1.0, -1.0
    right, upper, plain, transposed = ref(_RIGHT), ref(_UPPER), ref(_PLAIN), ref(_TRANSPOSED)
    w, c, r, before = ref(width), ref(stop), ref(stop - start), ref(start)
    m, v, all_m, all_v = at(M, start * width), at(Z, under + start * width), at(M, 0), at(Z, under)
    dsymm(right, upper, w, r, ref(minus), at(S, start), c, m, w, ref(zero), v, w)
    if start:
        dgemm(plain, plain, w, r, before, ref(minus), all_m, w, at(S, 0), c, ref(one), v, w)
        dgemm(plain, transposed, w, before, r, ref(minus), m, w, at(S, 0), c, ref(one), all_v, w)


@compiled
def _large_inverse(M: Any, Z: Any, base: Any, width: Any, k: Any) -> None:
    """Write Z_ss, in whose place L_ss stands, by BLAS and LAPACK."""
    info, w, d = np.zeros(1, np.int32), ref(width), at(Z, base)
    dpotri(ref(_UPPER), w, d, w, at(info, 0))
    if k:
        minus, one, v = -1.0, 1.0, at(Z, base + width * width)
        dgemm(ref(_PLAIN), ref(_TRANSPOSED), w, w, ref(k), ref(minus), at(M, 0), w, v, w, ref(one), d, w)
