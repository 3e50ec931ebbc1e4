"""Covariance structures that are given by a matrix: free, by a root, or known."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from pm_fastlmm.base.arrays import EPS, FloatArray, Ids, frozen, packed_places, read_covariance, shown
from pm_fastlmm.base.choices import Negative, require_choice
from pm_fastlmm.base.semidefinite import eigen_root, indefinite_kernel, require_semidefinite, zero_tolerance
from pm_fastlmm.base.spelling import places, spelling_hint
from pm_fastlmm.covariance.algebra import Covariance, Mask, Relatives
from pm_fastlmm.covariance.ids import default_index_hint, require_positions
from pm_fastlmm.covariance.levels import Levels, LevelSet
from pm_fastlmm.covariance.parameters import (
    FREE,
    MATRIX,
    VARIANCE,
    VARIANCES,
    Domain,
    as_it_is,
    is_tensor,
    lengths,
    settle,
    settle_size,
)
from pm_fastlmm.covariance.precision import Precision
from pm_fastlmm.covariance.relation import Inverse
from pm_fastlmm.covariance.structures import Scalar


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Unstructured(Covariance):
    """
    Any covariance matrix: every variance and covariance is a parameter of its own.

    Parameters
    ----------
    cov : array or tensor, (n, n)
        Symmetric positive semi-definite. Any expression of random variables may stand here.
    size : int, optional
        Needed only for a tensor whose shape PyTensor does not know.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.unstructured([[2.0, 1.0], [1.0, 3.0]])
    Unstructured(cov=<2 × 2>, size=2)
    """

    cov: Any
    size: int | None = None
    _parameters: ClassVar = {"cov": Domain(FREE, 2, semidefinite=True)}
    _linear = True

    def __post_init__(self) -> None:
        Covariance.__post_init__(self)
        if as_it_is(self.cov):
            settle_size(self, *lengths(self.cov))
        else:
            _checked_root(read_covariance(self.cov, "cov").values, "cov")

    def _matrix(self, xp: Any) -> Any:
        return self.cov


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CholeskyFactored(Covariance):
    """
    LLᵀ with a lower triangular L: any covariance matrix, by an unconstrained root.

    Parameters
    ----------
    cholesky : array or tensor, (n, n) or (n(n + 1)/2,)
        L, or its lower triangle row by row, as `pm.LKJCholeskyCov(compute_corr=False)` packs it. What stands above the
        diagonal of a tensor is not read.
    size : int, optional
        Needed only for a tensor whose shape PyTensor does not know.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.unstructured(cholesky=[1.0, 2.0, 3.0]).dense()
    array([[ 1.,  2.],
           [ 2., 13.]])
    """

    cholesky: Any
    size: int | None = None
    _parameters: ClassVar = {"cholesky": MATRIX}
    _identified: ClassVar[bool] = False

    def __post_init__(self) -> None:
        ndim = getattr(self.cholesky, "ndim", np.ndim(self.cholesky))
        settle(self, "cholesky", Domain(FREE, 1) if ndim == 1 else MATRIX)
        if ndim == 2 and not is_tensor(self.cholesky) and np.any(np.triu(self.cholesky, 1)):
            raise ValueError(
                "cholesky must be lower triangular, but has entries above its diagonal: "
                "transpose an upper factor, or give the covariance itself as unstructured(cov)."
            )
        settle_size(self, *(lengths(self.cholesky) if ndim == 2 else (_unpacked(self.cholesky),)))

    def _by_elements(self) -> Unstructured:
        return Unstructured(self.dense(), self.size)

    def _matrix(self, xp: Any) -> Any:
        L = self.lower()
        return L @ L.T

    def lower(self) -> Any:
        """Return L (n, n), with zeros above its diagonal."""
        n = self.size or 0
        L = self.cholesky if self.cholesky.ndim == 2 else self.cholesky[packed_places(n).ravel()].reshape((n, n))
        return np.tri(n) * L


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FactorAnalytic(Covariance):
    """
    ΛΛᵀ + diag(ψ): a few common factors, and a specific variance of each effect.

    Parameters
    ----------
    loadings : array or tensor, (n, k)
        Λ, determined up to a rotation of its columns; fix what lies above its diagonal at 0 to identify it.
    uniquenesses : array or tensor, (n,)
        ψ.
    size : int, optional
        Needed only for tensors whose shapes PyTensor does not know.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.factor_analytic([[1.0], [2.0]], [0.5, 0.0]).dense()
    array([[1.5, 2. ],
           [2. , 4. ]])
    """

    loadings: Any
    uniquenesses: Any
    size: int | None = None
    _parameters: ClassVar = {"loadings": MATRIX, "uniquenesses": VARIANCES}
    _identified: ClassVar[bool] = False

    def _matrix(self, xp: Any) -> Any:
        specific = xp.expand_dims(self.uniquenesses, -1) * np.eye(self.size or 0)
        return self.loadings @ self.loadings.T + specific


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Gram(Covariance):
    """
    WWᵀ: the covariance that has the root W (n, m). With known columns and one variance, `propagate(W, scalar(v))`.

    Parameters
    ----------
    W : array or tensor, (n, m)
    size : int, optional
        Needed only for a tensor whose shape PyTensor does not know.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.gram([[1.0], [2.0]]).dense()
    array([[1., 2.],
           [2., 4.]])
    """

    W: Any
    size: int | None = None
    _parameters: ClassVar = {"W": MATRIX}
    _identified: ClassVar[bool] = False

    def _matrix(self, xp: Any) -> Any:
        return self.W @ self.W.T


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Known(Covariance):
    """
    σ²K with a known K; `known` reads, checks and factors K.

    Attributes
    ----------
    K : (n, n) array
    sigma2 : float or scalar tensor
    labels : tuple or None
        What the rows of K are called.
    root : (n, n) array
        R with K = RRᵀ: the Cholesky factor, or that from the eigenvectors if K is singular.
    whole : Known or None
        That of all labels, where K is that of the levels of a term.
    """

    K: FloatArray
    sigma2: Any
    labels: Ids | None
    root: FloatArray
    whole: "Known | None" = None
    _parameters: ClassVar = {"sigma2": VARIANCE}
    _linear = True

    def __post_init__(self) -> None:
        settle(self, "sigma2", VARIANCE)

    @property
    def size(self) -> int:
        """The number of rows of K."""
        return len(self.K)

    @property
    def named(self) -> bool:
        """Whether K has labels."""
        return self.labels is not None

    def kept(self, levels: Levels, used: Mask) -> Mask:
        """Return those that occur or are in a labelled K, whose effects are predicted from those of their relatives."""
        if self.labels is None:
            return Covariance.kept(self, levels, used)
        return used | (np.array(places(levels, self.labels), dtype=np.intp) >= 0)

    def over(self, levels: LevelSet) -> Self:
        """Return the covariance of these levels, matched by the labels of K, or as the numbers of its rows."""
        if self.labels is None:
            unlabelled = Covariance.over(self, levels)
            if levels.what == "levels":
                require_positions(levels.labels, levels.name)
            return unlabelled
        called, of = f"K of term {levels.name!r}", f"its {len(levels)} {levels.what}"
        own = self._select(self.labels, levels.labels, called, of)
        return own if own is self else replace(own, whole=self)

    def relatives(self) -> Relatives | None:
        """Return the labels of the whole K that are none of these, None where there are none."""
        if self.whole is None or self.whole.labels is None or self.labels is None:
            return None
        own = places(self.labels, self.whole.labels)
        others = np.setdiff1d(np.arange(self.whole.size), own)
        if not others.size:
            return None
        K = self.whole.K
        root = _regression_on_root(K[np.ix_(others, own)], self.root)
        variance = np.diag(K)[others] - (root**2).sum(axis=1)
        variance[np.abs(variance) <= self.whole.size * EPS * np.diag(K)[others]] = 0.0
        return Relatives(tuple(self.whole.labels[i] for i in others), root, variance)

    def select(self, labels: Ids) -> Self:
        """
        Return the covariance of some of the labels, in their order.

        Raises
        ------
        ValueError
            If K carries no labels, or lacks some of these.
        """
        if self.labels is None:
            raise ValueError("K has no labels to select by: give it as a DataFrame with labelled rows and columns.")
        return self._select(self.labels, labels, "K", f"{len(labels)} labels")

    def _select(self, own: Ids, labels: Ids, called: str, of: str) -> Self:
        if labels == own:
            return self
        rows = places(labels, own)
        if missing := [label for label, row in zip(labels, rows, strict=True) if row < 0]:
            hint = default_index_hint(own) or spelling_hint(missing, own).removesuffix(".") or "add them or drop rows"
            raise ValueError(f"{called} lacks {len(missing)} of {of} ({shown(missing)}): {hint}.")
        K = self.K[np.ix_(rows, rows)]
        return type(self)(frozen(K), self.sigma2, labels, frozen(_checked_root(K, "K")))

    def _repeated(self) -> tuple[Any, int, Covariance]:
        return self.root, self.size, Scalar(self.sigma2, 1)

    def _matrix(self, xp: Any) -> Any:
        return self.sigma2 * self.K


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class KnownInverse(Covariance):
    """
    σ²A with a known A, given by its sparse inverse: a pedigree, a tree, or another `Precision`.

    A term of it has an effect for each of its labels, those without records too: the inverse is sparse among all of
    them only.

    Attributes
    ----------
    precision : Precision
    sigma2 : float or scalar tensor
    """

    precision: Precision
    sigma2: Any = 1.0
    _parameters: ClassVar = {"sigma2": VARIANCE}
    _linear = True
    named = True

    def __post_init__(self) -> None:
        settle(self, "sigma2", VARIANCE)

    @property
    def size(self) -> int:
        """The number of labels."""
        return len(self.precision.labels)

    def over_all(self, levels: Levels) -> tuple[Levels, npt.NDArray[np.intp]]:
        """Return all labels of the precision, and the places of some levels, which may be other names, among them."""
        return self.precision.labels, self.precision.rows(levels)

    def over(self, levels: LevelSet) -> Self:
        """Return the covariance of these levels, which must be all labels in their order."""
        if levels.labels != self.precision.labels:
            raise ValueError(
                f"the {levels.what} of term {levels.name!r} are not the {self.size} labels of its precision: give the "
                "factor by which the rows are grouped, or the covariance of some labels, known(precision.dense(ids))."
            )
        return self

    def _repeated(self) -> tuple[Any, int, Covariance]:
        return Inverse(self.precision), self.size, Scalar(self.sigma2, 1)

    def _matrix(self, xp: Any) -> Any:
        return self.sigma2 * self.precision.dense(self.precision.labels).to_numpy()


def known(K: Any, sigma2: Any = 1.0, *, negative: Negative = "error") -> Known | KnownInverse:
    """
    Return σ²K with a known K, such as `pedigree`, `markers` or `phylogeny` make.

    Parameters
    ----------
    K : array or DataFrame, (n, n); Pedigree, Tree or Precision
        Symmetric positive semi-definite. The labels of a DataFrame are kept: a term matches its levels to them, and
        takes an array only for levels that are the numbers of its rows. Of a pedigree, a tree or another precision the
        dense matrix is not formed, and all its labels have effects.
    sigma2 : float or scalar tensor
    negative : {"error", "zero"}
        What becomes of negative eigenvalues: an error, which says how large they are, or 0. With a formula,
        ``find_reml(…, negative=)`` leaves those out that belong to fixed effects.

    Raises
    ------
    ValueError
        If K is not square, finite, symmetric and positive semi-definite.
    TypeError
        If K is a tensor.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> K = cov.pedigree(["calf", "bull"], ["bull", None], [None, None])
    >>> relatives = cov.known(K, sigma2=2.0)
    >>> relatives
    Known(sigma2=2)
    >>> relatives.select(("bull", "calf")).labels
    ('bull', 'calf')
    """
    if is_tensor(K):
        raise TypeError("K must be known, got a tensor: a matrix that depends on random variables is unstructured(K).")
    if isinstance(K, Precision):
        return KnownInverse(K, sigma2)
    read_in = read_covariance(K)
    values, root = _kernel_root(read_in.values, negative)
    return Known(frozen(values), sigma2, read_in.ids, frozen(root))


def unstructured(cov: Any = None, *, cholesky: Any = None, size: int | None = None) -> Unstructured | CholeskyFactored:
    """
    Return any covariance matrix, given by itself or by its Cholesky factor.

    Parameters
    ----------
    cov : array or tensor, (n, n)
        Symmetric positive semi-definite; any expression of random variables may stand here.
    cholesky : array or tensor, (n, n) or (n(n + 1)/2,)
        Lower triangular L, or its lower triangle row by row, in place of `cov`.
    size : int, optional
        Needed only for a tensor whose shape PyTensor does not know.

    Raises
    ------
    ValueError
        If not exactly one of the two is given, or it is not what it should be.

    Examples
    --------
    >>> import pymc as pm
    >>> from pm_fastlmm import covariance as cov
    >>> with pm.Model():
    ...     sd = pm.HalfNormal.dist(1, shape=2)
    ...     L, _, _ = pm.LKJCholeskyCov("L", n=2, eta=2, sd_dist=sd, compute_corr=True)
    >>> cov.unstructured(cholesky=L)
    CholeskyFactored(cholesky=<tensor>, size=2)
    """
    if (cov is None) == (cholesky is None):
        raise ValueError("give exactly one of cov, the covariance matrix, and cholesky, its lower triangular factor.")
    return Unstructured(cov, size) if cholesky is None else CholeskyFactored(cholesky, size)


def _checked_root(K: FloatArray, name: str) -> FloatArray:
    """
    Return R with K = RRᵀ, lower triangular unless K is singular.

    Raises
    ------
    ValueError
        If K is not positive semi-definite.
    """
    try:
        return np.asarray(cholesky(K, lower=True))
    except LinAlgError:
        eigvals, vectors = np.linalg.eigh(K)
    require_semidefinite(eigvals, name)
    return eigen_root(eigvals, vectors)


def _kernel_root(K: FloatArray, negative: Negative) -> tuple[FloatArray, FloatArray]:
    """Return a copy of K, without its negative eigenvalues where these are to be 0, and a root."""
    require_choice("negative", negative, Negative)
    try:
        return K.copy(), np.asarray(cholesky(K, lower=True))
    except LinAlgError:
        eigvals, vectors = np.linalg.eigh(K)
    indefinite = eigvals[0] < -zero_tolerance(eigvals)
    if indefinite and negative == "error":
        raise indefinite_kernel(eigvals, float(eigvals[-1]))
    root = eigen_root(eigvals, vectors)
    return root @ root.T if indefinite else K.copy(), root


def _regression_on_root(cross: FloatArray, root: FloatArray) -> FloatArray:
    """Return A with ARᵀ = C, for the rows C of a semi-definite matrix beside RRᵀ."""
    if not np.triu(root, 1).any():
        return np.asarray(solve_triangular(root, cross.T, lower=True).T)
    eigvals = (root**2).sum(axis=0)  # of K: the columns of R are orthogonal
    along = eigvals > zero_tolerance(eigvals)
    return np.where(along, cross @ root, 0.0) / np.where(along, eigvals, 1.0)


def _unpacked(packed: Any) -> int | None:
    """Return n for the n(n + 1)/2 entries of a packed triangle, None if their number is not known."""
    (length,) = lengths(packed)
    if length is None:
        return None
    n = (int(np.sqrt(8 * length + 1)) - 1) // 2
    if n * (n + 1) // 2 != length:
        raise ValueError(f"cholesky has {length} packed entries, which are not the n(n + 1)/2 of a triangle.")
    return n
