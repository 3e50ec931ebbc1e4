"""Covariance structures: their matrices by definition, for numbers and tensors; parameters, bounds, sizes, errors."""

import numpy as np
import pandas as pd
import pytensor
import pytensor.tensor as pt
import pytest
from as_written import AS_WRITTEN
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import block_diag, toeplitz
from scipy.sparse import csr_array

from pm_fastlmm import covariance as cov

RNG = np.random.default_rng(4)
W = RNG.normal(size=(4, 3))
S = W[:3] @ W[:3].T + np.diag([0.1, 0.2, 0.3])
L = np.linalg.cholesky(S)
K = pd.DataFrame(S, index=list("abc"), columns=list("abc"))
J = np.ones((3, 3))
Z = RNG.normal(size=(5, 3))


def ar1(rho, n):
    return toeplitz(rho ** np.arange(n))


# structure, its matrix by definition
STRUCTURES = {
    "identity": (cov.identity(3), np.eye(3)),
    "scalar": (cov.scalar(1.7, size=3), 1.7 * np.eye(3)),
    "diagonal": (cov.diagonal([1.0, 0.2, 3.1]), np.diag([1.0, 0.2, 3.1])),
    "equicorrelation": (cov.equicorrelation(2.1, -0.4, size=3), 2.1 * (1.4 * np.eye(3) - 0.4 * J)),
    "compound symmetry": (cov.compound_symmetry(0.7, 1.9, size=3), 0.7 * J + 1.9 * np.eye(3)),
    "ar1": (cov.ar1(1.3, -0.6, size=5), 1.3 * ar1(-0.6, 5)),
    "unstructured": (cov.unstructured(S), S),
    "cholesky": (cov.unstructured(cholesky=L), S),
    "packed cholesky": (cov.unstructured(cholesky=L[np.tril_indices(3)]), S),
    "factor analytic": (cov.factor_analytic(W[:, :2], [0.1, 0.2, 0.3, 0.4]),
                        W[:, :2] @ W[:, :2].T + np.diag([0.1, 0.2, 0.3, 0.4])),
    "gram": (cov.gram(W), W @ W.T),
    "known": (cov.known(K, 1.6), 1.6 * S),
    "sum": (cov.known(K, 1.6) + cov.ar1(0.8, 0.3) + cov.scalar(0.9), 1.6 * S + 0.8 * ar1(0.3, 3) + 0.9 * np.eye(3)),
    "hadamard": (cov.known(K) * cov.ar1(1.5, 0.3) * cov.gram(W[:3]), S * 1.5 * ar1(0.3, 3) * (W[:3] @ W[:3].T)),
    "kronecker": (cov.ar1(1.5, 0.3, size=2) @ cov.unstructured(S) @ cov.equicorrelation(1.0, 0.2, size=2),
                  np.kron(1.5 * ar1(0.3, 2), np.kron(S, [[1, 0.2], [0.2, 1]]))),
    "block diagonal": (cov.block_diagonal(cov.ar1(1.5, 0.3, size=2), cov.unstructured(S), cov.scalar(0.2, size=1)),
                       block_diag(1.5 * ar1(0.3, 2), S, [[0.2]])),
    "propagate": (cov.propagate(Z, cov.ar1(1.5, 0.3)), Z @ (1.5 * ar1(0.3, 3)) @ Z.T),
    "nested": (cov.propagate(csr_array(Z), (cov.scalar(1.2) + cov.gram(W[:3])) * cov.known(K)) + cov.scalar(0.3),
               Z @ ((1.2 * np.eye(3) + W[:3] @ W[:3].T) * S) @ Z.T + 0.3 * np.eye(5)),
}  # fmt: skip
CASES = pytest.mark.parametrize(("structure", "matrix"), STRUCTURES.values(), ids=STRUCTURES.keys())
WITH_PARAMETERS = pytest.mark.parametrize(
    "structure", [s for s, _ in STRUCTURES.values() if s.parameters], ids=[k for k in STRUCTURES if k != "identity"]
)


def symbolic(structure):
    """The structure with a tensor of unknown value for each parameter."""
    tensors = {
        name: pt.tensor(name, dtype="float64", shape=np.shape(value)) for name, value in structure.parameters.items()
    }
    return structure.with_parameters(tensors), tensors


@CASES
def test_matrix_is_the_definition(structure, matrix):
    dense = structure.dense()
    assert isinstance(dense, np.ndarray)
    assert structure.size == len(matrix)
    assert_allclose(dense, matrix, rtol=1e-13, atol=1e-15)
    assert_array_equal(structure.dense(structure.size), dense)


@WITH_PARAMETERS
def test_the_tensor_evaluates_to_the_array(structure):
    abstract, tensors = symbolic(structure)
    assert abstract.size == structure.size
    dense = abstract.dense()
    assert dense.type.ndim == 2
    value = dense.eval({tensors[name]: value for name, value in structure.parameters.items()}, mode=AS_WRITTEN)
    assert_allclose(value, structure.dense(), rtol=1e-13, atol=1e-15)


@WITH_PARAMETERS
def test_gradients_are_the_central_differences(structure):
    abstract, tensors = symbolic(structure)
    weight = np.random.default_rng(structure.size).normal(size=(structure.size, structure.size))
    functional = (pt.constant(weight) * abstract.dense() ** 2).sum()
    variables = list(tensors.values())
    gradient = pytensor.function(variables, pytensor.grad(functional, variables), mode=AS_WRITTEN)
    point = {name: np.asarray(value) for name, value in structure.parameters.items()}

    def at(name, index, step):
        moved = point[name].copy()
        moved[index] += step
        # as tensors, which are not checked: a step may leave the bounds, or symmetry
        values = {k: pt.constant(v) for k, v in (point | {name: moved}).items()}
        return float(np.sum(weight * structure.with_parameters(values).dense().eval(mode=AS_WRITTEN) ** 2))

    for name, got in zip(point, gradient(*point.values()), strict=True):
        for index in list(np.ndindex(point[name].shape))[:4]:
            step = 1e-5
            difference = (at(name, index, step) - at(name, index, -step)) / (2 * step)
            assert_allclose(got[index], difference, rtol=1e-7, atol=1e-8, err_msg=f"{name} {index}")


@WITH_PARAMETERS
def test_with_parameters_goes_there_and_back(structure):
    abstract, tensors = symbolic(structure)
    assert list(abstract.parameters) == list(structure.parameters) == list(structure.bounds)
    assert all(abstract.parameters[name] is tensor for name, tensor in tensors.items())
    back = abstract.with_parameters(structure.parameters)
    assert repr(back) == repr(structure)
    assert_array_equal(back.dense(), structure.dense())
    first = next(iter(tensors))
    mixed = structure.with_parameters({first: tensors[first]})
    assert_allclose(mixed.dense().eval({tensors[first]: structure.parameters[first]}, mode=AS_WRITTEN),
                    structure.dense(), rtol=1e-13, atol=1e-15)  # fmt: skip


def test_compiled_by_default_the_matrix_and_its_gradient_are_the_same():
    structure = cov.ar1(0.7, 0.2, size=2) @ cov.unstructured(cholesky=np.arange(3.0) / 2) + cov.scalar(0.3)
    abstract, tensors = symbolic(structure)
    dense, variables = abstract.dense(), list(tensors.values())
    outputs = [dense, *pytensor.grad((dense**2).sum(), variables)]
    compiled = pytensor.function(variables, outputs)(*structure.parameters.values())
    interpreted = pytensor.function(variables, outputs, mode=AS_WRITTEN)(*structure.parameters.values())
    for a, b in zip(compiled, interpreted, strict=True):
        assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    assert_allclose(compiled[0], structure.dense(), rtol=1e-13)


@pytest.mark.parametrize("rho", [0.0, -0.3])
def test_the_derivatives_of_ar1_are_finite_at_and_below_rho_0(rho):
    r = pt.dscalar("r")
    V = cov.ar1(1.0, r).dense(4)
    first, second = (pytensor.grad(V[0, lag], r) for lag in (1, 2)), pytensor.grad(pytensor.grad(V[0, 2], r), r)
    assert_allclose([g.eval({r: rho}, mode=AS_WRITTEN) for g in first], [1, 2 * rho], atol=1e-15)
    assert_allclose(second.eval({r: rho}, mode=AS_WRITTEN), 2)
    whole = pytensor.grad(V.sum(), r)
    assert_allclose(whole.eval({r: rho}, mode=AS_WRITTEN), 2 * (3 + 4 * rho + 3 * rho**2))
    assert_allclose(pytensor.grad(whole, r).eval({r: rho}, mode=AS_WRITTEN), 2 * (4 + 6 * rho))


def test_what_stands_above_the_diagonal_of_a_cholesky_tensor_is_not_read():
    root = pt.constant(L + np.triu(np.full((3, 3), np.pi), 1))
    assert_allclose(cov.unstructured(cholesky=root).dense().eval(mode=AS_WRITTEN), S, rtol=1e-13)


def test_a_size_may_come_from_the_place():
    assert cov.scalar(2.0).size is None
    assert_array_equal(cov.scalar(2.0).dense(2), 2 * np.eye(2))
    assert (cov.scalar(2.0) + cov.ar1(1.0, 0.5)).size is None
    assert_allclose((cov.scalar(2.0) + cov.ar1(1.0, 0.5)).dense(3), 2 * np.eye(3) + ar1(0.5, 3))
    product = cov.scalar(2.0) @ cov.unstructured(S)
    assert product.size is None
    assert product.with_size(12).operands[0].size == 4
    assert_allclose(product.dense(12), 2 * np.kron(np.eye(4), S))
    assert cov.propagate(Z, cov.scalar(1.0)).operands[0].size == 3


def test_a_tensor_of_unknown_shape_takes_its_size_from_the_place():
    square, packed, vector = pt.dmatrix("C"), pt.dvector("t"), pt.dvector("v")
    for structure, values in (
        (cov.unstructured(square), {square: S}),
        (cov.unstructured(cholesky=square), {square: L}),
        (cov.unstructured(cholesky=packed), {packed: L[np.tril_indices(3)]}),
    ):
        assert structure.size is None
        assert_allclose(structure.dense(3).eval(values, mode=AS_WRITTEN), S, rtol=1e-13)
    assert_allclose(cov.diagonal(vector, size=2).dense().eval({vector: [1.0, 2]}, mode=AS_WRITTEN), np.diag([1.0, 2]))


def test_operators_of_one_kind_are_flat():
    a, b, c = cov.scalar(1.0, size=2), cov.ar1(1.0, 0.5, size=2), cov.identity(2)
    for kind in (lambda x, y: x + y, lambda x, y: x * y, lambda x, y: x @ y, cov.block_diagonal):
        assert kind(kind(a, b), c).operands == kind(a, kind(b, c)).operands == (a, b, c)
    assert len((a + b * c).operands) == 2


def test_names_are_prefixed_by_position_when_and_only_when_they_collide():
    a, b = cov.scalar(1.0, size=3), cov.ar1(2.0, 0.5)
    assert list((a + b).parameters) == ["1.sigma2", "2.sigma2", "2.rho"]
    assert (a + b).parameters == {"1.sigma2": 1.0, "2.sigma2": 2.0, "2.rho": 0.5}
    assert (a + b).bounds == {"1.sigma2": (0, np.inf), "2.sigma2": (0, np.inf), "2.rho": (-1, 1)}
    assert list((a * cov.gram(W[:3])).parameters) == ["sigma2", "W"]
    nested = cov.block_diagonal((a + b) * cov.scalar(3.0), cov.unstructured(S))
    assert list(nested.parameters) == ["1.sigma2", "2.sigma2", "2.rho", "sigma2", "cov"]
    changed = nested.with_parameters({"2.rho": -0.5, "cov": np.eye(3)})
    assert changed.parameters == nested.parameters | {"2.rho": -0.5, "cov": changed.parameters["cov"]}
    assert_array_equal(changed.dense()[3:, 3:], np.eye(3))
    twice = (a + b) * (a + b)
    assert list(twice.parameters) == ["1.1.sigma2", "1.2.sigma2", "1.2.rho", "2.1.sigma2", "2.2.sigma2", "2.2.rho"]


def test_matrices_that_must_be_semidefinite_are_named():
    assert cov.unstructured(S).semidefinite == ("cov",)
    assert (cov.unstructured(S) + cov.unstructured(S)).semidefinite == ("1.cov", "2.cov")
    assert cov.unstructured(cholesky=L).semidefinite == ()


def test_the_bound_of_an_equicorrelation_is_where_it_becomes_singular():
    for n in (2, 3, 7):
        structure = cov.equicorrelation(1.0, 0.0, size=n)
        lower, upper = structure.bounds["rho"]
        assert_allclose(lower, -1 / (n - 1))
        eigvals = np.linalg.eigvalsh(structure.with_parameters({"rho": lower}).dense())
        assert_allclose(eigvals[0], 0, atol=1e-15)
        assert eigvals[1] > 0.5
        assert upper == 1


def test_equicorrelation_is_compound_symmetry_in_other_coordinates():
    rho, sigma2 = 0.3, 2.5
    assert_allclose(
        cov.equicorrelation(sigma2, rho).dense(4), cov.compound_symmetry(rho * sigma2, (1 - rho) * sigma2).dense(4)
    )


def test_known_keeps_labels_and_selects_by_them():
    structure = cov.known(K, 2.0)
    assert structure.labels == ("a", "b", "c")
    part = structure.select(("c", "a"))
    assert part.labels == ("c", "a")
    assert_array_equal(part.dense(), 2 * K.loc[["c", "a"], ["c", "a"]])
    assert_allclose(part.root @ part.root.T, part.K)
    assert structure.select(structure.labels) is structure
    assert cov.known(S).labels is None


def test_a_singular_K_has_a_root():
    singular = W @ W.T
    structure = cov.known(singular)
    assert np.linalg.matrix_rank(singular) == 3
    assert_allclose(structure.root @ structure.root.T, singular, rtol=1e-12, atol=1e-14)


def test_what_was_given_is_copied_and_cannot_be_written():
    variances, matrix = np.array([1.0, 2.0]), S.copy()
    diagonal, known = cov.diagonal(variances), cov.known(matrix)
    variances[0], matrix[0, 0] = 99, 99
    assert diagonal.dense()[0, 0] == 1
    assert known.dense()[0, 0] == S[0, 0]
    for array in (diagonal.variances, known.K, known.root):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_repr_names_the_tensors_and_the_shapes():
    v = pt.dscalar("v_gen")
    assert repr(cov.scalar(v)) == "Scalar(sigma2=v_gen)"
    assert repr(cov.ar1(v * 2, 0.5, size=3)) == "AR1(sigma2=<tensor>, rho=0.5, size=3)"
    assert repr(cov.identity()) == "Identity()"
    assert repr(cov.scalar(v) + cov.known(K)) == "Sum(Scalar(sigma2=v_gen, size=3), Known(sigma2=1))"
    assert repr(cov.gram(W)) == "Gram(W=<4 × 3>, size=4)"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cov.scalar(-1), ValueError, "sigma2 of Scalar must be at least 0, got -1."),
        (lambda: cov.scalar(np.nan), ValueError, "sigma2 of Scalar has 1 values that are NaN or infinite"),
        (lambda: cov.scalar("big"), TypeError, "sigma2 of Scalar must be numbers or a tensor, got str"),
        (lambda: cov.scalar([1.0, 2.0]), ValueError, "sigma2 of Scalar must be a scalar, got 1 dimensions"),
        (lambda: cov.scalar(pt.dvector()), ValueError, "sigma2 of Scalar must be a scalar, got 1 dimensions"),
        (lambda: cov.scalar(1.0, size=0), ValueError, "size of Scalar must be a positive integer, got 0"),
        (lambda: cov.identity(2.5), ValueError, "size of Identity must be a positive integer, got 2.5"),
        (lambda: cov.diagonal([1.0, -2.0]), ValueError, "variances of Diagonal must be at least 0, got -2"),
        (lambda: cov.diagonal(1.0), ValueError, "variances of Diagonal must be a vector, got 0 dimensions"),
        (lambda: cov.diagonal([1.0, 2.0], size=3), ValueError, "Diagonal has parameters, or a size, of different"),
        (lambda: cov.equicorrelation(1.0, -0.6, size=3), ValueError,
         "rho of Equicorrelation must be between -0.5 and 1 for size 3, got -0.6"),
        (lambda: cov.equicorrelation(1.0, -0.6).dense(3), ValueError, "must be between -0.5 and 1 for size 3"),
        (lambda: cov.compound_symmetry(-0.1, 1), ValueError, "sigma2_between of CompoundSymmetry must be at least 0"),
        (lambda: cov.compound_symmetry(0.1, -1), ValueError, "sigma2_within of CompoundSymmetry must be at least 0"),
        (lambda: cov.ar1(1.0, 1.2), ValueError, "rho of AR1 must be between -1 and 1, got 1.2"),
        (lambda: cov.unstructured(), ValueError, "give exactly one of cov, the covariance matrix, and cholesky"),
        (lambda: cov.unstructured(S, cholesky=L), ValueError, "give exactly one of cov"),
        (lambda: cov.unstructured(S - 3 * np.eye(3)), ValueError, "cov is not positive semi-definite: its smallest"),
        (lambda: cov.unstructured(np.triu(S)), ValueError, "cov must be symmetric, but differs from its transpose"),
        (lambda: cov.unstructured(S[:2]), ValueError, r"cov must be square, got shape \(2, 3\)"),
        (lambda: cov.unstructured(cholesky=L.T), ValueError, "cholesky must be lower triangular, but has entries"),
        (lambda: cov.unstructured(cholesky=np.ones(4)), ValueError, "cholesky has 4 packed entries, which are not"),
        (lambda: cov.unstructured(cholesky=L[:2]), ValueError, "of different lengths: 2 and 3"),
        (lambda: cov.factor_analytic(W, [1.0, 2.0]), ValueError, "FactorAnalytic has parameters, or a size, of diff"),
        (lambda: cov.factor_analytic(W, [1.0, 2.0, 3.0, -4.0]), ValueError, "uniquenesses of FactorAnalytic must be"),
        (lambda: cov.gram([1.0, 2.0]), ValueError, "W of Gram must be a matrix, got 1 dimensions"),
        (lambda: cov.known(S - 3 * np.eye(3)), ValueError, "K is not positive semi-definite: its smallest"),
        (lambda: cov.known(S[:2]), ValueError, "K must be square"),
        (lambda: cov.known(pt.dmatrix()), TypeError, "K must be known, got a tensor: .* unstructured"),
        (lambda: cov.known(S).select(("a",)), ValueError, "K has no labels to select by: give it as a DataFrame"),
        (lambda: cov.known(K).select(("a", "x", "y")), ValueError, r"K lacks 2 of 3 labels \('x', 'y'\): add"),
        (lambda: cov.kronecker(cov.identity(2), S), TypeError, r"Kronecker takes covariance .*, got ndarray: wrap"),
        (lambda: cov.kronecker(cov.identity(2)), ValueError, "Kronecker needs at least 2 structures, got 1"),
        (lambda: cov.identity(2) + cov.unstructured(S), ValueError, "Sum takes structures of one size, got 2 and 3"),
        (lambda: cov.identity(2) * cov.known(S), ValueError, "Hadamard takes structures of one size, got 2 and 3"),
        (lambda: (cov.scalar(1.0) @ cov.scalar(1.0)).dense(4), ValueError, "a product of size 4 does not settle the"),
        (lambda: (cov.scalar(1.0) @ cov.known(S)).dense(4), ValueError, "a product of size 4 does not settle"),
        (lambda: cov.block_diagonal(cov.scalar(1.0)), ValueError, "the sizes of all blocks of .* must be known"),
        (lambda: cov.block_diagonal(), ValueError, "BlockDiagonal needs at least 1 structures, got 0"),
        (lambda: cov.propagate([[np.nan]], cov.scalar(1.0)), ValueError, "Z has 1 values that are NaN or infinite"),
        (lambda: cov.propagate(Z, cov.identity(2)), ValueError, "has size 2, but 3 is needed here"),
        (lambda: cov.scalar(1.0).dense(), ValueError, r"the size of Scalar\(sigma2=1\) is not known: give it"),
        (lambda: cov.known(S).dense(4), ValueError, "has size 3, but 4 is needed here: one row per level or column"),
        (lambda: cov.ar1(1, 0).with_parameters({"tau": 1}), ValueError, "AR1 has no parameter 'tau': it has sigma2"),
        (lambda: cov.identity(2).with_parameters({"x": 1}), ValueError, "Identity has no parameter 'x': it has none"),
        (lambda: cov.ar1(1, 0).with_parameters({"rho": 2}), ValueError, "rho of AR1 must be between -1 and 1, got 2"),
        (lambda: cov.blocks(cov.scalar(1.0)), ValueError, r"the size of Scalar\(sigma2=1\) is not known: give it"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("other", [2.0, S])
def test_structures_are_only_combined_with_structures(other):
    for combine in (lambda a, b: a + b, lambda a, b: a * b, lambda a, b: a @ b):
        with pytest.raises(TypeError):
            combine(cov.scalar(1.0), other)
