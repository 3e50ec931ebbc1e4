"""
Count what the house is held to: type tests on engines outside them, lines of code, public names, layers, circles.

    python tests/house/counts.py
    python tests/house/counts.py --against /path/to/another/checkout

Everything is read from the syntax trees of `pm_fastlmm` and nothing is imported.
"""

import argparse
import ast
import configparser
import io
import tokenize
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = "pm_fastlmm"

# what all nodes and all objectives have: their members may be asked for, and whether they are None
PROTOCOL = {"LMMNode", "GaussianNode", "Objective"}
# classes of PyMC and PyTensor whose subclasses in the package are random variables and ops
VARIABLES = {"SymbolicRandomVariable", "RandomVariable", "Distribution", "Continuous", "Op"}
# variables and attributes that hold a node, an objective or the op of a random variable
SUBJECTS = {"node", "objective", "op"}
WRAPPED = {"inner"}  # by another objective
REGISTRY = "engines/nodes.py"
_SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


class TypeTest(NamedTuple):
    """Where a file asks of which engine something is."""

    kind: str
    file: str
    line: int
    text: str


def sources(root=ROOT):
    """Return {path inside the package: syntax tree}."""
    package = root / PACKAGE
    return {p.relative_to(package).as_posix(): ast.parse(p.read_text()) for p in sorted(package.rglob("*.py"))}


# ---------------------------------------------------------------- type tests


def type_tests(root=ROOT):
    """Return all type tests on nodes, objectives, random variables and ops outside the folders of the engines."""
    trees = sources(root)
    classes = {c.name: c for tree in trees.values() for c in ast.walk(tree) if isinstance(c, ast.ClassDef)}
    engines = _subclasses(classes)
    shared = {name for c in PROTOCOL & classes.keys() for name in _members(classes[c])}
    found = []
    for file, tree in trees.items():
        if file == REGISTRY or (file.startswith("engines/") and file.count("/") > 1):
            continue
        names = engines | _aliases(tree, engines)
        asked = [(kind, node) for node in ast.walk(tree) if (kind := _kind(node, names, shared))]
        found += [TypeTest(kind, file, node.lineno, ast.unparse(node)) for kind, node in asked]
    return found


def _subclasses(classes):
    """Return the names of the classes of the package that derive from the protocol or from PyMC's variables."""
    found, grown = set(PROTOCOL & classes.keys()), True
    while grown:
        bases = found | VARIABLES
        more = {name for name, c in classes.items() if bases & {_last(base) for base in c.bases}} - found
        found, grown = found | more, bool(more)
    return found


def _members(c):
    functions = {part.name for part in c.body if isinstance(part, ast.FunctionDef)}
    return functions | {part.target.id for part in c.body if isinstance(part, ast.AnnAssign)}


def _aliases(tree, engines):
    """Return names of a module that stand for engines' classes: imported as, or tuples of them."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            found |= {part.asname for part in node.names if part.asname and part.name.split(".")[-1] in engines}
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple | ast.BinOp | ast.Name | ast.Attribute):
            found |= {_last(target) for target in node.targets if _classes(node.value) & engines}
    return found


def _last(node):
    """Return the last name of an expression such as a.b[c]."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _classes(node):
    """Return the names of the classes that an expression names: alone, in tuples, or in unions."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return set().union(*map(_classes, node.elts))
    if isinstance(node, ast.BinOp):
        return _classes(node.left) | _classes(node.right)
    return {_last(node)} - {""}


def _is_subject(node):
    return _last(node) in SUBJECTS


def _kind(node, engines, shared):
    """Say what kind of type test a part of a syntax tree is, if it is one."""
    if isinstance(node, ast.Call) and node.args:
        called = _last(node.func)
        if called in ("isinstance", "issubclass") and _classes(node.args[1]) & engines:
            return "isinstance"
        if called in ("getattr", "hasattr") and _last(node.args[0]) in SUBJECTS | WRAPPED:
            return "getattr"
    elif isinstance(node, ast.Compare):
        return _compared(node, engines, shared)
    elif isinstance(node, ast.MatchClass) and _classes(node.cls) & engines:
        return "isinstance"
    return ""


def _compared(node, engines, shared):
    sides = [node.left, *node.comparators]
    asked = [side.args[0] for side in sides if isinstance(side, ast.Call) and _last(side.func) == "type" and side.args]
    if asked and (any(map(_is_subject, asked)) or any(_classes(side) & engines for side in sides)):
        return "isinstance"
    none = any(isinstance(side, ast.Constant) and side.value is None for side in sides)
    left = node.left
    if none and isinstance(left, ast.Attribute) and _is_subject(left.value) and left.attr not in shared:
        return "is None"
    return ""


# ---------------------------------------------------------------- lines, names, layers


def lines_of_code(root=ROOT):
    """Return {folder: lines that hold at least one token besides comments and docstrings}."""
    counts = Counter()
    for path in [*(root / PACKAGE).rglob("*.py"), *(root / PACKAGE).rglob("*.pyi")]:
        counts[path.parent.relative_to(root).as_posix()] += len(_code(path.read_text()))
    return counts


def _code(text):
    docstrings = {
        (node.lineno, node.col_offset)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _SILENT and token.start not in docstrings:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def public_names(root=ROOT):
    """Return `pm_fastlmm.__all__`."""
    stub = root / PACKAGE / "__init__.pyi"
    faces = [sources(root)["__init__.py"], *([ast.parse(stub.read_text())] if stub.exists() else [])]
    for node in (node for face in faces for node in face.body):
        if isinstance(node, ast.Assign) and _last(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def layers(root=ROOT):
    """Return {package: lines of its contract of layers}."""
    contracts = configparser.ConfigParser()
    contracts.read(root / ".importlinter")
    return {
        section.get("containers", PACKAGE).strip(): len(section["layers"].split("\n")) - 1
        for section in contracts.values()
        if section.get("type") == "layers"
    }


# ---------------------------------------------------------------- circles


def circles(root=ROOT, imports="when loaded"):
    """Return the sets of modules that import each other "when loaded", or "anywhere": in functions, for types."""
    return _circles(_graph(sources(root), imports))


def circles_of_rooms(root=ROOT):
    """Return the sets of folders that import each other."""
    return _circles(rooms(root))


def _graph(trees, which="when loaded"):
    modules = {".".join([PACKAGE, *Path(file).with_suffix("").parts]).removesuffix(".__init__"): tree
               for file, tree in trees.items()}  # fmt: skip
    imports = {}
    for module, tree in modules.items():
        imports[module] = set()
        for node in _when_loaded(tree.body) if which == "when loaded" else _anywhere(tree):
            if isinstance(node, ast.Import):
                imports[module] |= {part.name for part in node.names}
            else:
                whole = {part.name: f"{node.module}.{part.name}" for part in node.names}
                imports[module] |= {name if name in modules else node.module for name in whole.values()}
        imports[module] &= modules.keys() - {module}
    return imports


def _when_loaded(body):
    """Yield the imports that run when a module is loaded."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            if not (isinstance(node, ast.If) and _last(node.test) == "TYPE_CHECKING"):
                yield from _when_loaded(node.body)
            yield from _when_loaded(getattr(node, "orelse", []))


def _anywhere(tree):
    return (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def _reachable(module, imports):
    found, left = set(), [module]
    while left:
        new = imports[left.pop()] - found
        found |= new
        left.extend(new)
    return found


def rooms(root=ROOT):
    """Return the arrows between folders, and between them and the modules beside them: {room: rooms it imports}."""
    graph = _graph(sources(root))
    folders = {module.rpartition(".")[0] for module in graph}

    def room(module):
        return module if module in folders else module.rpartition(".")[0] if module.count(".") > 1 else module

    found = {}
    for module, others in graph.items():
        if module != PACKAGE:
            found.setdefault(room(module), set()).update({room(o) for o in others} - {PACKAGE, room(module)})
    return found


def _circles(imports):
    reach = {name: _reachable(name, imports) for name in imports}
    found = {frozenset(o for o in reach[m] if m in reach[o]) for m in imports if m in reach[m]}
    return sorted(map(sorted, found))


# ---------------------------------------------------------------- the command


def report(root=ROOT, *, verbose=False):
    """Print all counts."""
    tests = type_tests(root)
    kinds = Counter(test.kind for test in tests)
    print(f"{len(tests)} type tests on engines outside them: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
    if verbose:
        for test in tests:
            print(f"    {PACKAGE}/{test.file}:{test.line}: {test.text}")
    lines = lines_of_code(root)
    print(f"{lines.total()} lines of code")
    for folder, count in sorted(lines.items()):
        print(f"    {count:6d}  {folder}")
    print(f"{len(public_names(root))} public names")
    print("lines of layers: " + ", ".join(f"{count} in {package}" for package, count in layers(root).items()))
    arrows = rooms(root)
    print(f"{len(arrows)} rooms, {sum(map(len, arrows.values()))} arrows between them")
    for what, rings in {
        "modules when they are loaded": circles(root),
        "modules, by imports in functions and for types too": circles(root, "anywhere"),
        "rooms": circles_of_rooms(root),
    }.items():
        print(f"{len(rings)} circles of {what}")
        for ring in rings:
            print(f"    {len(ring)}: {', '.join(ring)}")


def report_difference(other):
    """Print how this checkout differs from another."""
    for what, count in {
        "type tests": lambda root: len(type_tests(root)),
        "public names": lambda root: len(public_names(root)),
        "lines of layers": lambda root: sum(layers(root).values()),
        "rooms": lambda root: len(rooms(root)),
        "arrows": lambda root: sum(map(len, rooms(root).values())),
        "circles": lambda root: len(circles(root, "anywhere")),
        "lines of code": lambda root: lines_of_code(root).total(),
    }.items():
        new, old = count(ROOT), count(other)
        print(f"{what}: {old} -> {new} ({new - old:+d})")
    new, old = lines_of_code(), lines_of_code(other)
    for folder in sorted(new.keys() | old.keys()):
        if new[folder] != old[folder]:
            print(f"    {old[folder]:6d} -> {new[folder]:6d} ({new[folder] - old[folder]:+d})  {folder}")


def main():
    """Print the counts, and the difference to another checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout, to print the difference to it")
    parser.add_argument("--verbose", action="store_true", help="print each type test")
    arguments = parser.parse_args()
    report(verbose=arguments.verbose)
    if arguments.against:
        print()
        report_difference(arguments.against)


if __name__ == "__main__":
    main()
