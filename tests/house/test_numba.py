"""
What is compiled, is so once: for one type of arguments, and without anything of another file.

Numba's cache would keep what another file said before.
"""

import ast
from pathlib import Path

import numba
import numpy as np
import pytest

import pm_fastlmm
from pm_fastlmm.engines.lengthscale import loops, spectra
from pm_fastlmm.engines.structured import products, state

LIBRARIES = {"numba", "pytensor", "ctypes"}
COMPILERS = ("jit", "vectorize", "stencil", "cfunc", "overload", "numba_funcify")  # and what has them in its name
BINDINGS = ("intrinsic", "ExternalFunction", "get_cython_function_address", "CFUNCTYPE")  # of BLAS and LAPACK


class Module:
    """One file: the names that it defines, and those that it takes from elsewhere with where they come from."""

    def __init__(self, name, text):
        self.name, self.tree = name, ast.parse(text)
        self.definitions, self.imports = {}, {}
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.definitions[node.targets[0].id] = node
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                above = name.split(".")[: -node.level] if node.level else []
                home = ".".join([*above, *filter(None, [node.module])])
                self.imports |= {a.asname or a.name: f"{home}.{a.name}" for a in node.names}
            elif isinstance(node, ast.Import):
                for a in node.names:
                    top = a.name.split(".")[0]
                    self.imports[a.asname or top] = a.name if a.asname else top

    def path(self, node):
        """The path of a name or an attribute, from the library that it comes from; empty for anything else."""
        if isinstance(node, ast.Attribute):
            return [*self.path(node.value), node.attr]
        return self.imports.get(node.id, node.id).split(".") if isinstance(node, ast.Name) else [""]


class Package:
    """Every file of a package, by the name of its module."""

    def __init__(self, root):
        self.name, self.modules = root.name, {}
        for path in sorted(root.rglob("*.py")):
            name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
            self.modules[name] = Module(name, path.read_text())

    def uses(self, module, node, words):
        """Whether an expression names what a library calls by one of the words, at once or by what it was assigned."""
        for part in ast.walk(node):
            library, *rest = module.path(part)
            if library in LIBRARIES and any(word in name for name in rest for word in words):
                return True
            home, definition = self.definition(module, part.id) if isinstance(part, ast.Name) else (None, None)
            assigned = isinstance(definition, ast.Assign) and definition.value is not node
            if assigned and self.uses(home, definition.value, words):
                return True
        return False

    def definition(self, module, name):
        """The module and the node that define a name, followed through imports."""
        if module.imports.get(name, "").startswith(f"{self.name}."):
            home, _, own = module.imports[name].rpartition(".")
            source = self.modules.get(home) or self.modules.get(f"{home}.__init__")
            return self.definition(source, own) if source else (None, None)
        return module, module.definitions.get(name)

    def compiled(self, module):
        """The functions of a file that Numba compiles: by a decorator, or by a call with their name."""
        given = {
            argument.id
            for call in ast.walk(module.tree)
            if isinstance(call, ast.Call) and self.uses(module, call.func, COMPILERS)
            for argument in call.args
            if isinstance(argument, ast.Name)
        }
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef) and (
                node.name in given or any(self.uses(module, d, COMPILERS) for d in node.decorator_list)
            ):
                yield node

    def foreign(self):
        """What compiled functions read of other files of the package, bindings left out."""
        for module in self.modules.values():
            others = {name for name, path in module.imports.items() if path.split(".")[0] == self.name}
            for function in self.compiled(module):
                for expression in (*function.body, *function.decorator_list):
                    for name in names_in(expression) & others - bound_in(function):
                        if not self.binding(module, name):
                            yield f"{module.name}.{function.name}: {module.imports[name]}"

    def binding(self, module, name):
        """Whether a name is a function of a library, which is found at run time and not compiled in."""
        home, definition = self.definition(module, name)
        if isinstance(definition, ast.Assign):
            return self.uses(home, definition.value, BINDINGS)
        return definition is not None and any(self.uses(home, d, BINDINGS) for d in definition.decorator_list)


def names_in(tree):
    """The names that an expression reads, those of annotations left out."""
    annotations = {
        id(name)
        for node in ast.walk(tree)
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if part is not None
        for name in ast.walk(part)
    }
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in annotations}


def bound_in(function):
    """The names that are the function's own: arguments and what it assigns."""
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return stored | {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}


def test_no_compiled_function_reads_another_file():
    package = Package(Path(pm_fastlmm.__file__).parent)
    assert sum(1 for module in package.modules.values() for _ in package.compiled(module)) > 60
    assert list(package.foreign()) == []


HERE = "import numba as nb\n\nRATE = 2.0\n\n\n@nb.njit(cache=True)\ndef double(x):\n    return RATE * x\n"
BOUND = """
from numba import types
from numba.extending import intrinsic

dpotrf = types.ExternalFunction("dpotrf", types.void(types.intp))


@intrinsic
def address(typingctx, x):
    return None
"""
DECORATED = "from numba import njit\n{}\n\n\n@njit(cache=True)\ndef f(x):\n    return {}\n"


def found(folder, text):
    root = folder / "small"
    (root / "inner").mkdir(parents=True)
    for name, content in {"here": HERE, "bound": BOUND, "inner/user": text, "inner/__init__": ""}.items():
        (root / f"{name}.py").write_text(content)
    (root / "__init__.py").write_text("from small.here import double\n")
    return list(Package(root).foreign())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (DECORATED.format("from small.here import double", "double(x)"), "small.here.double"),
        (DECORATED.format("from small.here import double as twice", "twice(x)"), "small.here.double"),
        (DECORATED.format("from small import here", "here.double(x)"), "small.here"),
        (DECORATED.format("import small.here as h", "h.double(x)"), "small.here"),
        (DECORATED.format("import small.here", "small.here.double(x)"), "small"),
        (DECORATED.format("from small import double", "double(x)"), "small.double"),
        (DECORATED.format("from ..here import double", "double(x)"), "small.here.double"),
        (DECORATED.format("from small.here import RATE", "RATE * x"), "small.here.RATE"),
        (DECORATED.format("from small.here import double", "[double(y) for y in x]"), "small.here.double"),
        (
            "import numba\nfrom small.here import double\n\ncompiled = numba.njit(cache=True)\n\n\n"
            "@compiled\ndef f(x):\n    return double(x)\n",
            "small.here.double",
        ),
        (
            "from numba import vectorize\nfrom small.here import double\n\n\n"
            "def f(x):\n    return double(x)\n\n\ng = vectorize(f)\n",
            "small.here.double",
        ),
        (
            "from numba.extending import overload\nfrom small.here import double\n\n\n"
            "@overload(len)\ndef f(x):\n    def inner(x):\n        return double(x)\n\n    return inner\n",
            "small.here.double",
        ),
    ],
)
def test_what_comes_from_another_file_is_found(tmp_path, text, name):
    assert found(tmp_path, text) == [f"small.inner.user.f: {name}"]


@pytest.mark.parametrize(
    "text",
    [
        DECORATED.format("from small.bound import dpotrf", "dpotrf(x)"),
        DECORATED.format("from small.bound import address", "address(x)"),
        DECORATED.format("import math", "math.exp(x)"),
        DECORATED.format("from small.here import double", "x") + "\n\ndef plain(x):\n    return double(x)\n",
        "from numba import njit\nfrom small.here import double as Number\n\n\n"
        "@njit\ndef f(x: Number) -> Number:\n    y: Number = x\n    return y\n",
        "from numba import njit\nfrom small.here import double\n\n\n@njit\ndef f(double):\n    return double\n",
    ],
)
def test_bindings_annotations_and_python_may(tmp_path, text):
    assert found(tmp_path, text) == []


@pytest.fixture
def types_of(monkeypatch):
    """The types of arguments that a compiled function of a module is called with from now on."""

    def record(module, name):
        function, seen = getattr(module, name), set()

        def called(*args):
            seen.add(tuple(map(numba.typeof, args)))
            return function(*args)

        monkeypatch.setattr(module, name, called)
        return seen

    return record


def test_the_likelihood_of_terms_has_one_type_of_arguments(types_of, build_terms, monkeypatch):
    """Whatever integers SciPy has chosen for indices, and whether a response is a constant of PyTensor or is not."""
    seen = [types_of(state, name) for name in ("factorise", "gradient", "loglik_and_gradient")]
    monkeypatch.setattr(products.MixedProducts, "small", False)
    p = build_terms("factor", "crossed")
    for integers in (np.int32, np.int64):
        vars(p.products).pop("constants", None)
        p.products.B.indices, p.products.B.indptr = (
            v.astype(integers) for v in (p.products.B.indices, p.products.B.indptr)
        )
        for writeable in (True, False):
            response = p.products.response(p.y)
            response.within.flags.writeable = response.between.flags.writeable = writeable
            assert state.MixedState.at(p.products, response, p.sigma, p.sigma2_e).gradient.noise[0, 0] != 0
            phi, rows = p.products.packed(p.sigma), response.rows
            state.mixed_loglik_and_gradient(p.products, phi, p.sigma2_e, *response[:3], rows, np.zeros(0))
            assert response.between.flags.writeable == writeable
    assert [len(types) for types in seen] == [1, 1, 1]


def test_the_likelihood_of_a_lengthscale_has_one_type_of_arguments(types_of):
    seen = types_of(loops, "interpolated_rows")
    eigvals, ones, extent = np.ones((3, 4)), np.ones(3), np.array([-1.0, 1.0, 0.0])
    arrays = eigvals, eigvals.copy(), ones.copy(), extent
    expected = spectra.interpolated_loglik(ones, ones, ones, *arrays)
    arrays[0].flags.writeable = arrays[3].flags.writeable = False
    np.testing.assert_array_equal(spectra.interpolated_loglik(ones, ones, ones, *arrays), expected)
    assert len(seen) == 1
