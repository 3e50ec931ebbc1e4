"""Which engine evaluates the terms: the one place where that is decided, by what an evaluation is going to take."""

from collections.abc import Sequence

import scipy.sparse as sp

from pm_fastlmm.base.memory import require_memory
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.engines.records import Records
from pm_fastlmm.engines.sparse.equations import SparseBlock
from pm_fastlmm.engines.sparse.products import SparseProducts
from pm_fastlmm.engines.structured.products import EffectBlock, MixedProducts, elimination_order
from pm_fastlmm.engines.term_products import TermProducts
from pm_fastlmm.spectrum.sparse_projection import AnyProjection
from pm_fastlmm.spectrum.weights import PriorWeights

_SMALL = 1000  # columns of a dense block that is factored in a few hundredths of a second
_FILLED = 50.0  # entries of a row on average, of all terms, above which equations are not sparse
_NUMBERS = 16  # bytes of a number of the sparse factor, and of its inverse


def products_of(
    terms: Sequence[Term], projection: AnyProjection, *, flat: bool, weights: PriorWeights, prior: bool,
    observations: int | None, largest_ratio: float, records: Records | None = None,
) -> TermProducts:  # fmt: skip
    """
    Return the products of the terms, whose rows are scaled by weights like X; a Gaussian prior of β is a term more.

    Residuals of several variances, whose `records` these are, are those of the sparse engine, however few the effects.

    Raises
    ------
    ValueError
        If neither engine has the memory.
    """
    beta = sp.csr_array(projection.X) if prior else None
    wide = _dense_columns(terms, projection.rank)
    related = any(term.blocks.relation is not None and term.blocks.relation.precision for term in terms)
    filled = sum(term.Z.nnz for term in terms) > _FILLED * terms[0].n
    large = not filled and wide > (_SMALL if related else 2 * _SMALL)
    if observations is None and (large or projection.sparse or records is not None):
        blocks = [sparse_block(term, weights) for term in terms]
        if beta is not None:
            blocks.append(SparseBlock(beta, 1, projection.rank))
        sparse = SparseProducts.from_rows(blocks, projection, flat=flat, weights=weights, records=records)
        require_memory_of(sparse)
        return sparse
    rooted = [_rooted(term, weights) for term in terms]
    if beta is not None:
        rooted.append(EffectBlock(beta, 1, projection.rank, None))
    return MixedProducts.from_rows(
        rooted, projection, flat=flat, observations=observations, largest_ratio=largest_ratio, weights=weights
    )


def _dense_columns(terms: Sequence[Term], r: int) -> int:
    """Return how many columns blocked elimination leaves in its dense block."""
    blocks = [EffectBlock(term.Z, term.blocks.levels, term.blocks.width, term.blocks.relation) for term in terms]
    order, eliminated = elimination_order(blocks)
    return sum(blocks[k].Z.shape[1] for k in order[eliminated:]) + r


def _rooted(term: Term, weights: PriorWeights) -> EffectBlock:
    b = term.blocks
    root = b.root
    Z = sp.csr_array(term.Z if root is None else term.Z @ root)
    return EffectBlock(weights.rows(Z), b.levels, b.width, root)


def sparse_block(term: Term, weights: PriorWeights) -> SparseBlock:
    """Return what the sparse equations need of a term, whose rows are scaled by weights."""
    b = term.blocks
    precision = None if b.relation is None else b.relation.precision
    root = b.root if precision is None else None
    Z = sp.csr_array(term.Z if root is None else term.Z @ root)
    return SparseBlock(weights.rows(Z), b.levels, b.width, precision, root)


def require_memory_of(sparse: SparseProducts) -> None:
    """Refuse equations whose factor does not fit in memory, before it is made."""
    analysis = sparse.equations.analysis
    require_memory(
        _NUMBERS * analysis.stored,
        f"the factor of {analysis.n} mixed-model equations, with its inverse,",
        "leave out individuals that have neither records nor descendants with records, or put fewer effects into one "
        "model.",
    )
