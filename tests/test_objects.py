"""Every public object shows itself in a line, in notebooks as a table, and survives being pickled and copied."""

import ast
import copy
import dataclasses
import inspect
import pickle
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
import xarray as xr
from pytensor.graph.basic import Variable
from scipy.sparse import issparse

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.base.copies import PartOfModel, ReadOnlyArrays

PACKAGE = Path(flmm.__file__).parent
N, TYPICAL = 20, 400  # rows; characters of a line that is still short


@cache
def data():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(N, 6))
    X = np.column_stack([np.ones(N), rng.normal(size=N)])
    return W, X, W.sum(axis=1) + rng.normal(size=N)


@cache
def spectrum():
    W, X, _ = data()
    return flmm.Spectrum.from_factor(W, X)


@cache
def fit():
    return flmm.reml(spectrum(), data()[2])


def responses():
    y = data()[2]
    return pd.DataFrame({"length": y, "width": y[::-1]})


@cache
def lengthscale_spectrum():
    x = np.linspace(0, 1, N)
    return flmm.LengthscaleSpectrum.from_coordinates(x, lengthscale=(0.1, 2.0), X=np.ones((N, 1)), progressbar=False)


@cache
def kernel_statistics():
    W, X, y = data()
    return flmm.KernelStatistics.from_arrays(X, W, y)


@cache
def mixed_design():
    return flmm.MixedDesign.from_formula("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy())


@cache
def roles():
    return pd.DataFrame({"a": list("uvw"), "b": list("vwu"), "y": [1.0, 3.0, 2.0]})


@cache
def structured():
    return flmm.lmm_model("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy())


@cache
def kernel():
    W, X, y = data()
    return flmm.kernel_model(y, X, W @ W.T)


@cache
def lengthscale():
    with pm.Model() as model:
        ell, g, e = pm.Uniform("ell", 0.1, 2), pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.LengthscaleLMM(
            "y", spectrum=lengthscale_spectrum(), lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=data()[2]
        )
    return model


@cache
def dense():
    W, X, y = data()
    with pm.Model() as model:
        V = pm.HalfNormal("g") * (W @ W.T) + pm.HalfNormal("e") * np.eye(N)
        flmm.DenseLMM("y", X=X, V=V, observed=y)
    return model


@cache
def fourier_basis():
    return flmm.FourierBasis(np.linspace(0, 1, N), "matern52", lengthscale=(0.2, 0.6), noise_ratio_min=0.1)


@cache
def fourier():
    rows = flmm.FourierStatistics.from_arrays(fourier_basis(), np.linspace(0, 1, N), data()[2])
    with pm.Model() as model:
        ell, sigma2, sigma2_e = pm.Uniform("ell", 0.2, 0.6), pm.HalfNormal("sigma2"), pm.HalfNormal("sigma2_e")
        flmm.FourierLMM("y", statistics=rows, lengthscale=ell, sigma2=sigma2, sigma2_e=sigma2_e)
    return model


@cache
def traits():
    W, _, y = data()
    K, Y = np.eye(N) + W @ W.T / 6, np.vstack([y, y[::-1] + np.arange(N)])
    Y[1, 3] = np.nan
    with pm.Model() as model:
        g, e = (cov.diagonal(pm.HalfNormal(name, 3, shape=2)) for name in "ge")
        spectrum = flmm.Spectrum.from_covariance(K, np.ones((N, 1)))
        flmm.MatrixLMM("y", spectrum=spectrum, Sigma_g=g, Sigma_e=e, observed=Y, traits=["milk", "fat"])
    return model


@cache
def latent():
    return flmm.lmm_model(
        "incidence ~ period + (1 | herd)", flmm.datasets.cattle_herds(), family="binomial", trials="size"
    )


def counts(y, eta):
    return y * eta - pt.exp(eta) - pt.gammaln(y + 1)


def node(model):
    return flmm.lmm_nodes(model())[0]


def found(model):
    return flmm.find_reml(model(), progressbar=False)


def known():
    W = data()[0]
    return cov.known(W @ W.T, sigma2=2.0)


def subjects():
    return cov.incidence(flmm.datasets.sleepstudy()["Subject"])


# By class, what is tested of it; of the distributions, which are no objects, the node that they make
CASES = {
    "AR1": lambda: cov.ar1(1.0, 0.5, size=3),
    "BlockDiagonal": lambda: cov.block_diagonal(cov.scalar(1.0, size=2), cov.ar1(1.0, 0.5, size=3)),
    "Bed": lambda: flmm.io.read_bed(Path(__file__).parent / "io" / "files" / "people").select(chromosomes=["2"]),
    "Blocks": lambda: cov.blocks(cov.kronecker(known(), cov.ar1(1.0, 0.5, size=3))),
    "Bootstrap": lambda: fit().bootstrap(50, random_seed=1),
    "CholeskyFactored": lambda: cov.unstructured(cholesky=[[1.0, 0.0], [0.5, 1.0]]),
    "CompoundSymmetry": lambda: cov.compound_symmetry(1.0, 0.2, size=3),
    "KernelStatistics": kernel_statistics,
    "DenseLMM": lambda: node(dense),
    "Design": lambda: flmm.Design.from_formula("Reaction ~ Days", flmm.datasets.sleepstudy(), K=np.eye(180)),
    "DeviationPrior": lambda: flmm.priors.DeviationPrior("half-t", 2.0, 1.0),
    "Diagonal": lambda: cov.diagonal([1.0, 2.0]),
    "Equicorrelation": lambda: cov.equicorrelation(1.0, 0.5, size=3),
    "TermStatistics": lambda: flmm.TermStatistics.from_statistics(kernel_statistics()),
    "ExactPosterior": lambda: flmm.exact_posterior(spectrum(), data()[2]),
    "ExactPosterior of several": lambda: flmm.exact_posterior(spectrum(), responses()),
    "FactorAnalytic": lambda: cov.factor_analytic([[1.0], [0.5]], [0.2, 0.3]),
    "FactorEffects": lambda: fit().factor_effects(),
    "LengthscaleLMM": lambda: node(lengthscale),
    "RotatedSpectra": lambda: lengthscale_spectrum().rotate(data()[2]),
    "FastLMM": lambda: node(kernel),
    "FixedTest": lambda: fit().test_fixed(["x0", "x1"]),
    "FixedTest of several": lambda: flmm.reml(spectrum(), responses()).test_fixed("x1"),
    "FourierBasis": fourier_basis,
    "FourierLMM": lambda: node(fourier),
    "FourierStatistics": lambda: flmm.FourierStatistics.from_arrays(fourier_basis(), np.linspace(0, 1, N), data()[2]),
    "FunctionEstimate": lambda: fit().function(lambda v: v["h2"]),
    "FunctionPosterior": lambda: found(fourier).posterior_function(),
    "Gram": lambda: cov.gram([[1.0], [2.0]]),
    "Hadamard": lambda: cov.gram([[1.0], [2.0]]) * cov.ar1(1.0, 0.5),
    "Identity": lambda: cov.identity(3),
    "Incidence": subjects,
    "Known": known,
    "KnownInverse": lambda: cov.known(cov.Pedigree([1, 2, 3], [0, 0, 1], [0, 0, 2])),
    "Kronecker": lambda: cov.identity(2) @ cov.ar1(1.0, 0.5, size=3),
    "LMMNode": lambda: node(kernel),
    "MatrixLMM": lambda: node(traits),
    "MixedDesign": mixed_design,
    "Pedigree": lambda: cov.Pedigree([1, 2, 3], [0, 0, 1], [0, 0, 9], clones={2: 1}),
    "Precision": lambda: cov.Precision(np.array([[2.0, -1.0], [-1.0, 2.0]]), ["a", "b"]),
    "Prediction": lambda: fit().predict(data()[1][:3], W_new=data()[0][:3]),
    "Propagate": lambda: cov.propagate([[1.0, 2.0], [0.0, 1.0], [1.0, 1.0]], cov.scalar(1.0)),
    "REMLFit": fit,
    "REMLFit of several": lambda: flmm.reml(spectrum(), responses()),
    "RandomTerm": lambda: mixed_design().random[0],
    "CorrelatedTerms": lambda: flmm.MixedDesign.from_formula("y ~ (1 |id| a) + (1 |id| b)", roles()).random[0],
    "Rotated": lambda: spectrum().rotate(data()[2]),
    "Rotated of several": lambda: spectrum().rotate(responses()),
    "Scalar": lambda: cov.scalar(1.0),
    "Spectrum": spectrum,
    "CustomFamily": lambda: flmm.CustomFamily(counts, name="counts"),
    "Importance": lambda: found(latent).importance(100, random_seed=1),
    "LaplaceFit": lambda: found(latent),
    "LatentLMM": lambda: node(latent),
    "ScalePrediction": lambda: found(latent).predict(data=flmm.datasets.cattle_herds()[:3], scale="mean"),
    "LengthscaleSpectrum": lengthscale_spectrum,
    "StructuredLMM": lambda: node(structured),
    "Sum": lambda: cov.scalar(1.0) + known(),
    "Term": lambda: flmm.Term(flmm.datasets.sleepstudy()["Subject"], cov.scalar(1.0)),
    "Tree": lambda: cov.Tree("((A:1,B:0):2,C:3);"),
    "Unstructured": lambda: cov.unstructured([[2.0, 0.5], [0.5, 1.0]]),
    "VarianceFit": lambda: found(structured),
    "VarianceFit of a kernel": lambda: found(kernel),
    "VarianceFit of Fourier features": lambda: found(fourier),
    "VarianceFit of a lengthscale": lambda: found(lengthscale),
    "VarianceFit of V(θ)": lambda: found(dense),
    "VarianceFit of several traits": lambda: found(traits),
    "VariancePosterior": lambda: flmm.find_reml(
        "Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False
    ).posterior(random_seed=1),
    "ValueTest": lambda: found(structured).test_value("Subject[Days]", 0.0),
    "VarianceTest": lambda: fit().test_no_variance(n_sim=200, random_seed=1),
    "VarianceTest of several": lambda: flmm.reml(spectrum(), responses()).test_no_variance(n_sim=200),
    "SharePrior": lambda: flmm.priors.SharePrior({"residual": 2.0}),
    "VariancePrior": flmm.priors.VariancePrior,
    "VariancePrior of several": lambda: flmm.priors.VariancePrior.scaled_to_each(spectrum().rotate(responses())),
}
COPIES = {"pickle": lambda x: pickle.loads(pickle.dumps(x)), "copy": copy.copy, "deepcopy": copy.deepcopy}


@pytest.fixture(scope="module", params=CASES)
def instance(request):
    return CASES[request.param]()


def test_every_public_class_has_a_case():
    public = [
        getattr(module, name) for module in (flmm, cov, flmm.io, flmm.priors, flmm.results) for name in module.__all__
    ]
    classes = {found.__name__ for found in public if inspect.isclass(found) and not inspect.isabstract(found)}
    assert classes - set(CASES) == set(), "add an example of these to CASES"


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, pd.DataFrame | pd.Series | pd.Index):
        assert a.equals(b)
    elif isinstance(a, xr.Dataset):
        assert a.identical(b)
    elif issparse(a):
        assert (a != b).nnz == 0
    elif isinstance(a, Variable):
        assert (a.name, a.type) == (b.name, b.type)
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert_same(list(a.values()), list(b.values()))
    elif dataclasses.is_dataclass(a) and not isinstance(a, type):
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, float):
        assert a == b or (a != a and b != b)
    elif isinstance(a, str | int | bool | None):
        assert a == b


def read_only(instance):
    values = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    return {name for name, value in values.items() if isinstance(value, np.ndarray) and not value.flags.writeable}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_equal(instance, way):
    other = COPIES[way](instance)
    assert_same(other, instance)
    assert repr(other) == repr(instance)
    if isinstance(instance, ReadOnlyArrays):
        assert read_only(other) >= read_only(instance)


@pytest.mark.parametrize("model", [structured, kernel, lengthscale, fourier, dense, traits])
def test_a_fit_that_was_pickled_goes_on(model):
    original = found(model)
    again = pickle.loads(pickle.dumps(original))
    theta = {lengthscale: [0.5, 1.0, 2.0], fourier: [0.5, 1.0, 2.0]}.get(model, 1.1 * original.theta.to_numpy())
    assert again.objective.log_likelihood(theta) == original.objective.log_likelihood(theta)
    pd.testing.assert_series_equal(again.step(theta), original.step(theta))


def test_a_lengthscale_spectrum_that_was_pickled_is_factored_elsewhere():
    again = pickle.loads(pickle.dumps(lengthscale_spectrum()))
    assert_same(again.at(0.37), lengthscale_spectrum().at(0.37))
    matern = flmm.LengthscaleSpectrum.from_coordinates(
        np.linspace(0, 1, N), pm.gp.cov.Matern52, lengthscale=(0.1, 2.0), X=np.ones((N, 1)), progressbar=False
    )
    again = pickle.loads(pickle.dumps(matern))
    np.testing.assert_allclose(again.covariance(0.37), lengthscale_spectrum().covariance(0.37), rtol=1e-12, atol=1e-14)


def test_an_array_of_the_user_stays_writeable_when_an_object_that_shares_it_is_copied():
    K = np.eye(180)
    design = flmm.Design.from_formula("Reaction ~ Days", flmm.datasets.sleepstudy(), K=K)
    for way in COPIES.values():
        way(design)
    K[0, 0] = 2.0


def test_deepcopy_copies_and_copy_shares():
    original = spectrum()
    assert copy.copy(original).eigvals is original.eigvals
    assert copy.deepcopy(original).eigvals is not original.eigvals
    original = found(kernel)
    assert copy.copy(original).theta is original.theta
    assert copy.deepcopy(original).theta is not original.theta


# ---------------------------------------------------------------- how they show themselves


class Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_text_is_short_and_names_the_class(instance):
    text = repr(instance)
    lines = text.splitlines()
    assert len(lines) < 25
    assert max(map(len, lines)) < TYPICAL
    assert "object at 0x" not in text
    assert "array(" not in text or isinstance(instance, flmm.priors.VariancePrior)


def test_the_table_of_a_notebook_is_html_that_says_more_than_a_name(instance):
    page = Balanced()
    page.feed(instance._repr_html_())
    assert page.open == []
    assert len(page.text) > 2
    assert len("".join(page.text)) < 4000


def test_names_of_the_user_are_escaped():
    X = pd.DataFrame({"a<b>&": np.ones(N), "x": data()[1][:, 1]})
    page = flmm.Spectrum.from_factor(data()[0], X)._repr_html_()
    assert "a&lt;b&gt;&amp;" in page
    assert "a<b>" not in page


def test_long_lists_of_names_are_cut():
    rng = np.random.default_rng(1)
    wide = flmm.Spectrum.from_covariance(np.eye(200), rng.normal(size=(200, 100)))
    assert repr(wide).endswith("x11 and 88 more)")
    many = flmm.reml(spectrum(), rng.normal(size=(N, 1000)))
    assert len(many._repr_html_()) < 2000


def test_the_nodes_of_a_model_say_what_they_are():
    assert repr(node(structured)) == (
        "StructuredNode('Reaction': observations: 180, data: observed, fixed effects: Intercept, Days, β: flat prior, "
        "terms: Subject (18 levels))"
    )
    assert repr(node(lengthscale)).endswith("lengthscale: 0.1 to 2)")


def test_parameters_of_a_structure_are_listed_with_their_bounds():
    with pm.Model():
        v = pm.HalfNormal("v")
    page = (cov.scalar(v) + cov.known(np.eye(3)))._repr_html_()
    for text in ("1.sigma2", "v, at least 0", "2.sigma2", "size"):
        assert text in page
    assert "between -1 and 1" in cov.ar1(1.0, 0.5)._repr_html_()


# ---------------------------------------------------------------- warnings and prints


@cache
def calls():
    trees = {path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    return [(path, c) for path, tree in trees.items() for c in ast.walk(tree) if isinstance(c, ast.Call)]


def test_nothing_is_printed():
    printed = [f"{path}:{c.lineno}" for path, c in calls() if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert printed == []


def test_every_warning_names_the_line_of_the_user():
    warned = [(path, c) for path, c in calls() if ast.unparse(c.func) == "warnings.warn"]
    assert len(warned) > 5
    for path, c in warned:
        level = {keyword.arg: ast.unparse(keyword.value) for keyword in c.keywords}.get("stacklevel")
        assert level == "outside()", f"{path}:{c.lineno}"


def collinear():
    W, X, _ = data()
    flmm.Spectrum.from_factor(W, np.column_stack([X, X[:, 1]]))


def rows_dropped():
    table = flmm.datasets.sleepstudy()
    table.loc[3, "Reaction"] = np.nan
    flmm.lmm_model("Reaction ~ Days + (1 | Subject)", table)


@pytest.mark.parametrize("cause", [collinear, rows_dropped])
def test_a_warning_points_at_the_call(cause):
    with pytest.warns(UserWarning, match="dropped") as record:
        cause()
    assert {Path(w.filename).name for w in record} == {Path(__file__).name}


def test_results_with_models_are_pickled_by_their_own_bytes():
    assert all(isinstance(CASES[name](), PartOfModel) for name in ("VarianceFit", "FastLMM", "StructuredLMM"))


@pytest.mark.parametrize("module", [flmm, flmm.covariance, flmm.datasets, flmm.io, flmm.priors, flmm.results])
def test_completion_lists_the_public_names_alone(module):
    listed = [name for name in dir(module) if not name.startswith("_")]
    assert listed == sorted(module.__all__)
    assert all(hasattr(module, name) for name in listed)
