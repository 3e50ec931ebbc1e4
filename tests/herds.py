"""Simulated dairy pedigrees and their mixed-model equations: what sparse code is tested and timed on."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp


class Herds(NamedTuple):
    """Animals, parents before progeny; -1 is an unknown parent."""

    sire: np.ndarray
    dam: np.ndarray
    male: np.ndarray
    generation: np.ndarray
    herd: np.ndarray


def simulate_herds(n, *, generations=9, per_herd=120, sires=None, move=0.05, unknown=0.02, seed=0):
    """
    Generations of n animals in herds: a daughter stays where her dam is, or moves; sires serve all herds.

    Without `sires`, their number in each generation, it is 1 % of the generation, some used far more than others.
    """
    rng = np.random.default_rng(seed)
    generation = np.sort(np.arange(n) % generations)
    sire, dam = np.full((2, n), -1)
    male, herd = rng.random(n) < 0.5, rng.integers(max(1, n // per_herd), size=n)
    for g in range(1, generations):
        old, new = np.flatnonzero(generation == g - 1), np.flatnonzero(generation == g)
        bulls, cows = old[male[old]], old[~male[old]]
        if len(bulls) and len(cows):
            bulls = rng.permutation(bulls)[: sires or max(3, len(new) // 100)]
            use = rng.gamma(0.5, size=len(bulls))
            sire[new], dam[new] = rng.choice(bulls, size=len(new), p=use / use.sum()), rng.choice(cows, size=len(new))
            stays = rng.random(len(new)) >= move
            herd[new[stays]] = herd[dam[new[stays]]]
            for parent in (sire, dam):
                parent[new[rng.random(len(new)) < unknown]] = -1
    return Herds(sire, dam, male, generation, herd)


def relationship_inverse(sire, dam):
    """Return A⁻¹ by Henderson's rules, parents taken as not inbred."""
    n = len(sire)
    columns = np.column_stack([np.arange(n), sire, dam])
    known = columns >= 0
    rows = np.broadcast_to(np.arange(n)[:, None], (n, 3))
    own = np.where(known, [1.0, -0.5, -0.5], 0.0) / np.sqrt(1 - 0.25 * known[:, 1:].sum(axis=1))[:, None]
    T = sp.csr_array((own[known], (rows[known], columns[known])), shape=(n, n))
    return (T.T @ T).tocsc()


def mixed_model_matrices(herds, *, records=(1, 4), permanent=False, seed=1):
    """
    Return the matrices that the coefficient matrix of an animal model is a sum of.

    Females have records, herd by generation is fixed. The first matrix is WᵀW, the others are the precisions of the
    effects, of the same order: A⁻¹ of the animals and, if `permanent`, the identity of their permanent environments.
    """
    rng, n = np.random.default_rng(seed), len(herds.sire)
    cows = np.flatnonzero(~herds.male)
    animal = np.repeat(cows, rng.integers(*records, size=len(cows)))
    group = np.unique(herds.herd[animal] * 1000 + herds.generation[animal], return_inverse=True)[1]
    W = [_incidence(group), _incidence(animal, n)]
    if permanent:
        W.append(_incidence(np.unique(animal, return_inverse=True)[1]))
    Qs = [relationship_inverse(herds.sire, herds.dam), *(sp.eye_array(Z.shape[1]) for Z in W[2:])]
    ends = np.cumsum([Z.shape[1] for Z in W])
    stacked = sp.hstack(W, format="csr")
    yield (stacked.T @ stacked).tocsc()
    for Q, end in zip(Qs, ends[1:], strict=True):
        inside = sp.coo_array(Q)
        first = end - Q.shape[0]
        yield sp.csc_array((inside.data, (inside.row + first, inside.col + first)), shape=(ends[-1], ends[-1]))


def _incidence(codes, levels=None):
    levels = codes.max() + 1 if levels is None else levels
    return sp.csr_array((np.ones(len(codes)), (np.arange(len(codes)), codes)), shape=(len(codes), levels))


def simulate_records(herds, *, records=(1, 4), seed=1):
    """Return a table of the females' records: breeding value, permanent environment, herd-year and residual."""
    rng, n = np.random.default_rng(seed), len(herds.sire)
    value = np.sqrt(0.3) * rng.normal(size=n + 1)
    value[n] = 0.0  # of unknown parents
    for g in range(1, herds.generation.max() + 1):
        new = np.flatnonzero(herds.generation == g)
        value[new] = (value[herds.sire[new]] + value[herds.dam[new]]) / 2 + value[new] / np.sqrt(2)
    cows = np.flatnonzero(~herds.male)
    animal = np.repeat(cows, rng.integers(*records, size=len(cows)))
    group = np.unique(herds.herd[animal] * 1000 + herds.generation[animal], return_inverse=True)[1]
    y = value[animal] + np.sqrt(0.1) * rng.normal(size=n)[animal] + 0.4 * rng.normal(size=group.max() + 1)[group]
    y += np.sqrt(0.8) * rng.normal(size=len(animal))
    return pd.DataFrame({"y": y, "animal": animal + 1, "permanent": animal + 1, "herd_year": group})


def pedigree_columns(herds):
    """Return id, sire and dam as a file has them: numbers, 0 for unknown."""
    return np.arange(1, len(herds.sire) + 1), herds.sire + 1, herds.dam + 1
