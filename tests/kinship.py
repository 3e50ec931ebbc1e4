"""Additive relationship by the definition of kinship, in plain Python: the judge of pedigrees."""

import functools

import numpy as np


def additive(parents, ids):
    """
    A over `ids`, twice the kinship, from {name: (sire, dam)} with None for unknown parents.

    Kinship of two is the mean of those of the parents of the later one with the other; of one with itself
    (1 + kinship of its parents)/2.
    """

    @functools.cache
    def generation(name):
        return 0 if name is None else 1 + max(map(generation, parents.get(name, (None, None))))

    @functools.cache
    def kinship(a, b):
        if a is None or b is None:
            return 0.0
        if a == b:
            return (1 + kinship(*parents.get(a, (None, None)))) / 2
        if generation(a) < generation(b):
            a, b = b, a
        return sum(kinship(parent, b) for parent in parents.get(a, (None, None))) / 2

    return np.array([[2 * kinship(a, b) for b in ids] for a in ids])
