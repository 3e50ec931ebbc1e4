r"""
Approximate minimum degree: the order of elimination of a symmetric matrix that keeps the fill of its factor small.

Elimination is played on the quotient graph. A variable is a column that waits, an element one that has gone and stands
for the clique of its neighbours, so that the graph never grows. Variables that cannot be told apart are one, with their
number as weight. The degree of a variable i beside the element p that has just come is bounded by

    d_i = |A_i \ i| + |L_p \ i| + Σ_e |L_e \ L_p|        (e: the other elements beside i)

and an element with L_e within L_p is absorbed by p. Columns with very many entries (a sire with thousands of progeny)
come last: each pivot beside them would read the whole list.

References
----------
Amestoy, Davis & Duff (1996), doi:10.1137/S0895479894278952.
"""

from typing import Any

import numpy as np
from numba import njit

from pm_fastlmm.base.arrays import Int32Array, Int64Array

compiled = njit(cache=True, nogil=True)

_VARIABLE, _ELEMENT, _GONE, _DENSE = 0, 1, 2, 3
_NODE = np.dtype(
    [
        (name, np.int32)
        for name in (
            "kind",
            "start",  # of its list: first the elements beside it, then the variables
            "elements",  # how many elements the list has
            "length",  # how many both
            "weight",  # columns that it stands for
            "degree",  # a bound of the columns beside it; of an element, the number
            "mark",  # the last set that it was found in
            "outside",  # of an element e: |L_e without L_p|, valid in the step `seen`
            "seen",
            "next",  # in the list of variables of the same degree
            "previous",
            "hash",
            "twin",  # the next with the same hash
            "into",  # the node that has taken it
        )
    ]
)


def minimum_degree(indptr: Int64Array, indices: Int32Array) -> Int32Array:
    """
    Return an order of elimination of a symmetric pattern.

    Parameters
    ----------
    indptr, indices
        Both triangles by columns; entries of the diagonal are ignored.
    """
    n = len(indptr) - 1
    limit = max(16.0, 0.3 * np.sqrt(n), 10.0 * len(indices) / max(n, 1))
    node = np.zeros(n, _NODE)
    return _eliminate(indptr, indices, limit, node)


@compiled
def _eliminate(indptr: Any, indices: Any, limit: Any, node: Any) -> Any:
    """Return the columns in the order of elimination."""
    n = len(node)
    lists, free, left = _load(indptr, indices, limit, node)
    head, bucket = np.full(n + 1, -1, np.int32), np.full(n, -1, np.int32)
    for i in range(n):
        if node[i].kind == _VARIABLE:
            _enter(node, head, np.int32(i), np.int64(node[i].length))
    pivots = np.empty(n, np.int32)
    step = tag = least = 0
    while left > 0:
        while head[least] < 0:
            least += 1
        p = head[least]
        _leave(node, head, p)
        pivots[step] = p
        step += 1
        tag += 1
        pivot = node[p]
        need = np.int64(pivot.length)
        for a in range(pivot.start, pivot.start + pivot.elements):
            need += node[lists[a]].length
        if free + need > len(lists):
            lists, free = _compact(node, lists, need)
        begin = free
        free = _new_element(node, lists, p, free, tag)
        _measure_overlap(node, lists, begin, free, step)
        size, free = _update(node, lists, head, p, begin, free, tag)
        left -= pivot.weight
        tag = _merge_twins(node, lists, bucket, begin, free, tag)
        free, least = _requeue(node, lists, head, p, begin, free, size, left, least)
    return _sequence(node, pivots[:step])


@compiled
def _load(indptr: Any, indices: Any, limit: Any, node: Any) -> Any:
    """Write the lists of neighbours, without dense columns; return them, their end and the columns that take part."""
    n = len(node)
    for j in range(n):
        node[j].into = node[j].seen = -1
        node[j].weight = 1
        if indptr[j + 1] - indptr[j] > limit + 1:
            node[j].kind = _DENSE
    lists = np.empty(len(indices) + len(indices) // 4 + 2 * n + 16, np.int32)
    free = left = 0
    for j in range(n):
        if node[j].kind == _DENSE:
            continue
        left += 1
        node[j].start = free
        for a in range(indptr[j], indptr[j + 1]):
            i = indices[a]
            if i != j and node[i].kind != _DENSE:
                lists[free] = i
                free += 1
        node[j].length = free - node[j].start
    return lists, free, left


@compiled
def _enter(node: Any, head: Any, i: Any, degree: Any) -> None:
    """Put a variable into the list of its degree."""
    first, variable = head[degree], node[i]
    variable.degree, variable.next, variable.previous = degree, first, -1
    if first >= 0:
        node[first].previous = i
    head[degree] = i


@compiled
def _leave(node: Any, head: Any, i: Any) -> None:
    """Take a variable out of the list of its degree."""
    variable = node[i]
    before, after = variable.previous, variable.next
    if before >= 0:
        node[before].next = after
    else:
        head[variable.degree] = after
    if after >= 0:
        node[after].previous = before


@compiled
def _compact(node: Any, lists: Any, need: Any) -> Any:
    """Move the lists of living nodes together, with room for so many more; return them and their end."""
    used = 0
    for i in range(len(node)):
        if node[i].kind <= _ELEMENT:
            used += node[i].length
    new = np.empty(max(len(lists), used + used // 4 + need), np.int32)
    free = 0
    for i in range(len(node)):
        if node[i].kind <= _ELEMENT:
            start, node[i].start = node[i].start, free
            for a in range(start, start + node[i].length):
                new[free] = lists[a]
                free += 1
    return new, free


@compiled
def _new_element(node: Any, lists: Any, p: Any, free: Any, tag: Any) -> Any:
    """Turn a variable into an element: its list is all variables beside it, also through other elements, which go."""
    pivot = node[p]
    begin, start = free, pivot.start
    pivot.mark = tag
    for a in range(start, start + pivot.length):
        first, last = a, a + 1
        if a < start + pivot.elements:
            element = node[lists[a]]
            element.kind = _GONE
            first, last = element.start, element.start + element.length
        for b in range(first, last):
            i = lists[b]
            variable = node[i]
            if variable.kind == _VARIABLE and variable.mark != tag:
                variable.mark = tag
                lists[free] = i
                free += 1
    pivot.kind, pivot.start, pivot.elements, pivot.length = _ELEMENT, begin, 0, free - begin
    return free


@compiled
def _measure_overlap(node: Any, lists: Any, begin: Any, end: Any, step: Any) -> None:
    """Count |L_e without L_p| for the elements beside the variables of the new element p."""
    for a in range(begin, end):
        variable = node[lists[a]]
        for b in range(variable.start, variable.start + variable.elements):
            element = node[lists[b]]
            if element.kind == _ELEMENT:
                if element.seen != step:
                    element.seen, element.outside = step, element.degree
                element.outside -= variable.weight


@compiled
def _update(node: Any, lists: Any, head: Any, p: Any, begin: Any, end: Any, tag: Any) -> Any:
    """
    Take the variables of the new element out of the lists of degrees, and clean their own lists.

    A variable with nothing outside is eliminated with p. Returns the weight of L_p and its end.
    """
    size, kept, n = 0, begin, len(node)
    for a in range(begin, end):
        i = lists[a]
        own = node[i]
        _leave(node, head, i)
        degree, total = _clean(node, lists, own, p, tag)
        if degree == 0:
            own.kind, own.into = _GONE, p
            node[p].weight += own.weight
        else:
            size += own.weight
            own.degree = min(own.degree, degree)
            own.hash = total % n
            lists[kept] = i
            kept += 1
    return size, kept


@compiled
def _clean(node: Any, lists: Any, own: Any, p: Any, tag: Any) -> Any:
    """Leave in the list of a variable what is outside L_p, and p; return the bound of its degree there, and a hash."""
    variables, stop = own.start + own.elements, own.start + own.length
    put, degree, total = own.start, 0, p
    for b in range(own.start, variables):
        e = lists[b]
        element = node[e]
        if element.kind == _ELEMENT:
            if element.outside > 0:
                degree += element.outside
                total += e
                lists[put] = e
                put += 1
            else:
                element.kind = _GONE
    # p comes behind the elements; where it needs the place of a variable, that one comes last
    elements, moved = put, -1
    if elements == variables:
        while variables < stop and moved < 0:
            v = lists[variables]
            variables += 1
            if node[v].kind == _VARIABLE and node[v].mark != tag:
                moved = v
    lists[elements] = p
    put = elements + 1
    for b in range(variables, stop):
        v = lists[b]
        variable = node[v]
        if variable.kind == _VARIABLE and variable.mark != tag:
            degree += variable.weight
            total += v
            lists[put] = v
            put += 1
    if moved >= 0:
        degree += node[moved].weight
        total += moved
        lists[put] = moved
        put += 1
    own.elements, own.length = elements + 1 - own.start, put - own.start
    return degree, total


@compiled
def _merge_twins(node: Any, lists: Any, bucket: Any, begin: Any, end: Any, tag: Any) -> Any:
    """Make one variable of those with equal lists; return the last tag."""
    for a in range(begin, end):
        variable = node[lists[a]]
        variable.twin = bucket[variable.hash]
        bucket[variable.hash] = lists[a]
    for a in range(begin, end):
        slot = node[lists[a]].hash
        i, bucket[slot] = bucket[slot], -1
        while i >= 0 and node[i].twin >= 0:
            variable = node[i]
            tag += 1
            for b in range(variable.start, variable.start + variable.length):
                node[lists[b]].mark = tag
            last, j = i, variable.twin
            while j >= 0:
                twin = node[j]
                if _same(node, lists, i, j, tag):
                    twin.kind, twin.into = _GONE, i
                    variable.weight += twin.weight
                    node[last].twin = twin.twin
                else:
                    last = j
                j = twin.twin
            i = variable.twin
    return tag


@compiled
def _same(node: Any, lists: Any, i: Any, j: Any, tag: Any) -> Any:
    """Whether the list of j is that of i, whose members are marked."""
    if node[i].length != node[j].length or node[i].elements != node[j].elements:
        return False
    same = True
    for b in range(node[j].start, node[j].start + node[j].length):
        same = same and node[lists[b]].mark == tag
    return same


@compiled
def _requeue(node: Any, lists: Any, head: Any, p: Any, begin: Any, end: Any, size: Any, left: Any, least: Any) -> Any:
    """Return the variables of the new element to the lists of degrees; return its end and the least degree."""
    put = begin
    for a in range(begin, end):
        i = lists[a]
        variable = node[i]
        if variable.kind == _VARIABLE:
            degree = max(min(variable.degree + size, left) - variable.weight, 0)
            _enter(node, head, i, degree)
            least = min(least, degree)
            lists[put] = i
            put += 1
    node[p].length, node[p].degree = put - begin, size
    if put == begin:
        node[p].kind = _GONE
    return put, least


@compiled
def _sequence(node: Any, pivots: Any) -> Any:
    """Return the pivots, each followed by those that it stands for, and the dense columns at the end."""
    n = len(node)
    child, sibling = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    for i in range(n - 1, -1, -1):
        if node[i].into >= 0:
            sibling[i] = child[node[i].into]
            child[node[i].into] = i
    order, stack = np.empty(n, np.int32), np.empty(n, np.int32)
    k = 0
    for q in pivots:
        top, stack[0] = 0, q
        while top >= 0:
            i = stack[top]
            top -= 1
            order[k] = i
            k += 1
            i = child[i]
            while i >= 0:
                top += 1
                stack[top] = i
                i = sibling[i]
    for i in range(n):
        if node[i].kind == _DENSE:
            order[k] = i
            k += 1
    return order
