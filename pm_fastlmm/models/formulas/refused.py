"""Calls that R's users write and formulas do not have: why not, and how the same is written here."""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

_Remedy = Callable[[str, str, Sequence[str], str], str]
_STEPS = ("an order within a group is a structure: flmm.Term([group, time], flmm.covariance.kronecker("
          "flmm.covariance.identity(), flmm.covariance.ar1(sigma2, rho))) of flmm.StructuredLMM")  # fmt: skip
_SMOOTH = "smooth terms are `bs(x, df=5)` or `ns(x, df=4)`, or a Gaussian process, flmm.FourierLMM"
_NUMBER = "it would be another one for new rows: compute it first and write its number, I(x / 3.2)"

_TEXTS: Mapping[str, str] = {
    "weights": "prior weights are no term: with var e = σ²/w they are flmm.lmm_model(formula, data, weights='w')",
    "is.na": "rows with a missing value of a variable of the formula are dropped before functions see them: make the "
    "column first",
    "mean": "a mean would be another one for new rows: center(x), or scale(x), keep that of the fit",
    "sd": "a standard deviation would be another one for new rows: scale(x) keeps that of the fit",
    "median": "a median would be another one for new rows: subtract its number, I(x - 3.2)",
    "mo": "monotonic effects are not there: ordered(x) has one contrast for each step",
    "cbind": "several responses stand on the left alone, cbind(y1, y2) ~ x, of flmm.Design.from_formula",
    "mm": "rows that belong to several levels have an incidence matrix: flmm.Term(Z, flmm.covariance.scalar(sigma2)) "
    "of flmm.StructuredLMM, with the weights of a row in the columns Z of its levels",
    "hashed": "levels that share a column cannot be told apart: factor(x) has a column for each",
    **dict.fromkeys(("max", "min", "sum", "var", "range", "quantile", "length", "len", "prod", "mad", "IQR"), _NUMBER),
    **dict.fromkeys(("s", "t2", "te", "ti", "lo", "gp"), _SMOOTH),
    **dict.fromkeys(("ar1", "ou", "toep", "corAR1", "corARMA", "corCAR1", "arma", "ar"), _STEPS),
}  # fmt: skip


def why_refused(call: str, *, response: str = "y", group: Sequence[str] = (), left: str = "1") -> str | None:
    """
    Return what to write in place of a call, None if nothing is known about it.

    Parameters
    ----------
    call : str
        As the user wrote it, "offset(2 * z)".
    response : str
        What stands left of the "~".
    group : sequence of str
        The columns of a grouping factor of the formula.
    left : str
        What stands left of the bar, where the call is a grouping factor.
    """
    name, _, inside = call.partition("(")
    inside = inside.removesuffix(")").strip()
    if name in _REMEDIES:
        return _REMEDIES[name](inside, response, group, left)
    return _TEXTS.get(name)


def is_refused(name: str) -> bool:
    """Return whether something is known about a call, so that Python's function of this name is not meant."""
    return name in _TEXTS or name in _REMEDIES


def _arguments(inside: str) -> tuple[list[str], dict[str, str]]:
    """Return arguments by place and by name."""
    places: list[str] = []
    names: dict[str, str] = {}
    start = depth = 0
    for end, character in enumerate(inside + ","):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            text = inside[start:end].strip()
            if named := re.match(r"([A-Za-z.][\w.]*)\s*=(?!=)\s*", text):
                names[named[1]] = text[named.end() :]
            elif text:
                places.append(text)
            start = end + 1
    return places, names


def _offset(inside: str, response: str, group: Sequence[str], left: str) -> str:
    known, taken = inside or "z", _factor(inside or "z")
    left = response[2:-1] if re.fullmatch(r"I\((?:[^()]|\([^()]*\))*\)", response) else response
    return (
        f"an offset is a part of y that is known: flmm.lmm_model takes it; here take it from the response, "
        f"I({left} - {taken}) ~ … instead of offset({known})"
    )


def _factor(text: str) -> str:
    """Return an expression as it may stand after a minus, a sum or comparison in parentheses."""
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return text if re.fullmatch(r"[\w.]+|`[^`]*`", text) else f"({text})"
    tight = not isinstance(tree, ast.BinOp | ast.Compare | ast.UnaryOp | ast.BoolOp | ast.IfExp)
    product = isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Mult | ast.Div | ast.Pow)
    return text if tight or product else f"({text})"


def _other_rows(method: str, why: str, inside: str, response: str, group: Sequence[str], left: str) -> str:
    column = (_arguments(inside)[0] or ["x"])[0].strip("`")
    by = list(group) or ["group"]
    key = repr(by[0]) if len(by) == 1 else repr(by)
    return (
        f"its value in a row depends on other rows, those of other groups too{why}: "
        f"df['made'] = df.groupby({key})[{column!r}].{method}, and write `made`"
    )


def _known(inside: str, response: str, group: Sequence[str], left: str) -> str:
    """Say how a factor has the known covariance of its levels: gr(g, cov = A), vm(g, A), vs(g, Gu = A)."""
    places, names = _arguments(inside)
    factor = (places or ["g"])[0].strip("`")
    matrix = names.get("cov") or names.get("Gu") or (places[1] if len(places) > 1 else "")
    if "by" in names:
        return (
            f"a variance for each level of {names['by']} is (0 + a + b || {factor}), with columns a and b of 0 and 1, "
            "one for each level"
        )
    if matrix:
        return "write " + _with_known(factor, matrix, left)
    return f"write ({left} | {factor}), and for known covariances of its levels {_with_known(factor, 'A', left)}"


def _pedigree(inside: str, response: str, group: Sequence[str], left: str) -> str:
    places, _ = _arguments(inside)
    return "with A = flmm.covariance.pedigree(…) write " + _with_known((places or ["g"])[0].strip("`"), "A", left)


def _with_known(factor: str, matrix: str, left: str) -> str:
    return (
        f"({left} | {factor}) and give flmm.lmm_model known={{{factor!r}: {matrix}}}, a DataFrame whose labels are the "
        "levels"
    )


def _matrix(bar: str, inside: str, response: str, group: Sequence[str], left: str) -> str:
    """Say how correlated (|) or independent (||) effects within a level are written: us(1 + x | g), idh(x):g."""
    columns, found, right = inside.partition("|")
    factor = right.strip() if found else ":".join(group) or "g"
    term = f"({columns.strip() or 'x'} {bar} {factor})"
    if bar == "|":
        return f"correlated effects within a level are {term}, with the whole matrix of variances and covariances"
    return (
        f"independent effects within a level are {term}; the levels of a factor, which || keeps together, are "
        f"columns of 0 and 1, (0 + a + b || {factor})"
    )


def _at(inside: str, response: str, group: Sequence[str], left: str) -> str:
    places, names = _arguments(inside)
    factor = (places or ["f"])[0]
    level = (places[1:] or list(names.values()) or ["'a level'"])[0]
    level = level if re.fullmatch(r"""'[^']*'|"[^"]*"|[\d.]+""", level) else "'a level'"
    by = ":".join(group) or "g"
    return (
        f"effects in the rows of one level alone are (0 + as.numeric({factor} == {level}) | {by}), and as.numeric("
        f"{factor} == {level}) among the fixed effects"
    )


def _identity(inside: str, response: str, group: Sequence[str], left: str) -> str:
    places, _ = _arguments(inside)
    return f"independent levels are ({left} | {(places or ['g'])[0]})"


_REMEDIES: Mapping[str, _Remedy] = {
    "offset": _offset, "lead": partial(_other_rows, "shift(-1)", "; shift within groups"),
    "lag": partial(_other_rows, "shift()", ", and R's lag of a column changes nothing; shift within groups"),
    **{name: partial(_other_rows, f"{name}()", "; make a column first, within groups")
       for name in ("diff", "cumsum", "cumprod", "cummax", "cummin", "rank")},
    **dict.fromkeys(("gr", "vm", "giv", "vs", "vsr", "vsm"), _known), "ped": _pedigree,
    "us": partial(_matrix, "|"), **dict.fromkeys(("idh", "diag", "homdiag"), partial(_matrix, "||")), "at": _at,
    **dict.fromkeys(("id", "ide", "idv"), _identity),
}  # fmt: skip
GROUPINGS = ("gr", "vm", "giv", "vs", "vsr", "vsm", "ped", "mm", "id", "ide", "idv")  # right of a bar
