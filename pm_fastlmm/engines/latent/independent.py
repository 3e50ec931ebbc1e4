"""Which effects of a latent model are independent given β: groups that no record and no relation joins."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.sparse.equations import Equations, SparseBlock
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI

_NOTHING = -1e300  # log of a density that is 0

type IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Independent:
    """
    Blocks of the unknowns x of the effects, between which the posterior given β factorises.

    Attributes
    ----------
    effects : int
        Number of unknowns of effects; those of β come after them.
    groups : list of (B, d) arrays
        The unknowns of the blocks of each size d.
    of_block : (blocks, effects) sparse array
        Of ones, in the order of the groups.
    of_rows : (blocks, n) sparse array
        The rows that depend on each block.
    alone : (n,) bool array
        Rows that no effect is in.
    precision : (effects, effects) sparse array
        That of the unknowns before the data, Q_k ⊗ I of each term.
    """

    effects: int
    groups: list[IntArray]
    of_block: sp.csr_array
    of_rows: sp.csr_array
    alone: npt.NDArray[np.bool_]
    precision: sp.csr_array

    @classmethod
    def of(cls, equations: Equations, terms: int) -> Self:
        """Return the blocks of the first terms."""
        own = equations.blocks[:terms]
        effects, n = equations.ends[terms], equations.basis.shape[0]
        joined = sp.block_diag([_related(block, np.ones((block.width,) * 2)) for block in own], format="csr")
        incidence = sp.csr_array(sp.hstack([block.Z for block in own], format="csr"))
        graph = sp.block_array([[joined, incidence.T], [incidence, None]], format="csr")
        labels: IntArray = connected_components(abs(graph), directed=False)[1].astype(np.int64)
        of_effect, of_row = labels[:effects], labels[effects:]
        found, place_of, sizes = np.unique(of_effect, return_inverse=True, return_counts=True)
        ranked = np.empty(len(found), dtype=np.intp)
        ranked[np.argsort(sizes, kind="stable")] = np.arange(len(found))
        block = ranked[place_of]
        order = np.argsort(block, kind="stable")
        counts = np.sort(sizes)
        groups, start = [], 0
        for d in np.unique(counts):
            many = int((counts == d).sum())
            groups.append(order[start : start + many * d].reshape(many, d))
            start += many * d
        place = np.searchsorted(found, of_row).clip(max=len(found) - 1)
        alone = found[place] != of_row
        rows = np.flatnonzero(~alone)
        of_rows = sp.csr_array((np.ones(len(rows)), (ranked[place[rows]], rows)), shape=(len(found), n))
        of_block = sp.csr_array((np.ones(effects), (block, np.arange(effects))), shape=(len(found), effects))
        precision = sp.csr_array(prior_precision(equations)[:effects, :effects])
        return cls(effects, groups, of_block, of_rows, alone, precision)

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return int(self.of_block.shape[0])

    @property
    def largest(self) -> int:
        """The size of the largest."""
        return int(self.groups[-1].shape[1])


def _related(block: SparseBlock, within: FloatArray) -> Any:
    between = sp.eye_array(block.levels) if block.precision is None else block.precision.Q
    return sp.kron(between, within, format="csr")


def prior_precision(equations: Equations) -> sp.csr_array:
    """Return blockdiag(Q_k ⊗ I, 0), sparse."""
    parts = [_related(block, np.eye(block.width)) for block in equations.blocks]
    return sp.csr_array(sp.block_diag([*parts, sp.csr_array((equations.basis.shape[1],) * 2)], format="csr"))


class Points(NamedTuple):
    """
    Where an integral over white noise z is evaluated: ∫f(z)dz = Σ_j exp(weight_j) f(z_j).

    Attributes
    ----------
    z : list of (B, d, m) arrays
        For the blocks of each size.
    weight : (blocks, m) array
    """

    z: list[FloatArray]
    weight: FloatArray


@dataclass(frozen=True, eq=False)
class GivenCoefficients:
    """
    The integral over the effects given β, about the mode x̂ of a state: a product over the independent blocks.

    Attributes
    ----------
    state : LatentState
    blocks : Independent
    """

    state: Any
    blocks: Independent

    @cached_property
    def rows(self) -> tuple[sp.csr_array, FloatArray]:
        """WΛ of the effects, sparse, and of the coefficients."""
        whole = sp.csc_array(self.state.problem.rows)
        return sp.csr_array(whole[:, : self.blocks.effects]), whole[:, self.blocks.effects :].toarray()

    @cached_property
    def curvature(self) -> tuple[list[FloatArray], FloatArray, FloatArray]:
        """Cholesky factors of C_uu by groups (B, d, d), C_uu⁻¹C_ub (effects, r), and C_bb - C_bu C_uu⁻¹C_ub (r, r)."""
        R, F = self.rows
        D = self.state.white.coefficients
        C = sp.csr_array(R.T @ (sp.diags_array(D) @ R) + self.blocks.precision)
        crossed = R.T @ (D[:, None] * F)
        solved, roots = np.empty_like(crossed), []
        for own in self.blocks.groups:
            many, d = own.shape
            left, right = (np.broadcast_to(own[s], (many, d, d)).ravel() for s in (np.s_[:, :, None], np.s_[:, None]))
            matrices = np.asarray(C[left, right]).reshape(many, d, d)
            roots.append(np.linalg.cholesky(matrices))
            solved[own] = np.linalg.solve(matrices, crossed[own])
        Q = np.eye(F.shape[1]) if self.state.products.fixed == 0 else np.zeros((F.shape[1],) * 2)
        return roots, solved, F.T @ (D[:, None] * F) + Q - crossed.T @ solved

    @cached_property
    def volume(self) -> FloatArray:
        """½ log|C_b| of each block."""
        roots = self.curvature[0]
        return np.concatenate([np.log(np.diagonal(L, axis1=1, axis2=2)).sum(axis=1) for L in roots])

    def at(self, points: Points, moved: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """
        Return log-weights (blocks, m) whose sums over points integrate each block, the points x, and what is besides.

        `moved` (r, m) is how far the coefficients are from their mode at each point. Besides is the log-density of rows
        without effects and of coefficients that have a prior, (m,).
        """
        state, blocks, own = self.state, self.blocks, self.blocks.effects
        R, F = self.rows
        roots, solved, _ = self.curvature
        x = state.mode.x[:own, None] - solved @ moved
        for group, L, z in zip(blocks.groups, roots, points.z, strict=True):
            x[group] += np.linalg.solve(np.swapaxes(L, 1, 2), z)
        b = state.mode.x[own:, None] + moved
        eta = np.broadcast_to(state.offset, state.y.shape)[:, None] + F @ b + R @ x
        with np.errstate(all="ignore"):
            density = state.products.family.log_density(state.y, eta.T, state.psi).T
        density = np.where(np.isfinite(density), density, _NOTHING)
        penalty = blocks.of_block @ (x * (blocks.precision @ x)) / 2
        log = blocks.of_rows @ density - penalty + points.weight - self.volume[:, None]
        besides = density[blocks.alone].sum(axis=0)
        return log, x, besides if state.products.fixed else besides - 0.5 * (b**2).sum(axis=0)


def random_points(groups: Sequence[IntArray], m: int, df: float, rng: np.random.Generator) -> Points:
    """Return draws of t with df degrees of freedom, or of normal ones, independent between blocks."""
    z, weights = [], []
    for own in groups:
        drawn, log = white(own.shape, m, df, rng)
        z.append(drawn)
        weights.append(-log - np.log(m))
    return Points(z, np.concatenate(weights))


def white(shape: Any, m: int, df: float, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return m draws (B, d, m) of a t or normal distribution of d dimensions, and their log-densities (B, m)."""
    from scipy.special import gammaln

    many, d = shape
    z = rng.standard_normal((many, d, m))
    if np.isinf(df):
        return z, -0.5 * ((z**2).sum(axis=1) + d * LOG_2PI)
    z *= np.sqrt(df / rng.chisquare(df, (many, 1, m)))
    constant = gammaln((df + d) / 2) - gammaln(df / 2) - d / 2 * np.log(df * np.pi)
    return z, constant - (df + d) / 2 * np.log1p((z**2).sum(axis=1) / df)


def quadrature_points(groups: Sequence[IntArray], nodes: int) -> Points:
    """Return the nodes of Gauss and Hermite's rule, of blocks of several effects all their combinations."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    log = np.log(w) + x**2 / 2  # of ∫f(z)dz
    z, weights = [], []
    for own in groups:
        many, d = own.shape
        grid = np.stack([part.ravel() for part in np.meshgrid(*[x] * d, indexing="ij")])
        weight = sum(part.ravel() for part in np.meshgrid(*[log] * d, indexing="ij"))
        z.append(np.broadcast_to(grid, (many, *grid.shape)))
        weights.append(np.broadcast_to(weight, (many, grid.shape[1])))
    return Points(z, np.concatenate(weights))
