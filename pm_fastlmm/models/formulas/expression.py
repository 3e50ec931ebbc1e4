"""
Expressions inside calls, written as R or as Python, returned as Python.

`x^2`, `x %% 2` and `!b` are R's, `x // 2` and `x.clip(0)` Python's, and most expressions are both. Where R and Python
read one text differently, `x > 1 | b`, it is refused: neither reader would see the other's number. Only `^` is decided:
it is always a power.
"""

import ast
import keyword
import re
from collections.abc import Collection
from contextlib import suppress
from typing import Any, NamedTuple

from pm_fastlmm.models.formulas.functions import FUNCTIONS
from pm_fastlmm.models.formulas.names import LOGICAL, NUMBER, column_identifier, function_identifier, plain

_TOKEN = re.compile(
    r"""(?P<skipped>\s+|[^\W\d][\w.]*:::?)  # splines::ns is ns
    |(?P<text>[A-Za-z]?"(?:\\.|[^"\\])*"|[A-Za-z]?'(?:\\.|[^'\\])*')
    |`(?P<quoted>(?:\\.|[^`\\])+)`
    |\bQ\(\s*(?P<patsy>"[^"]*"|'[^']*'|[\w.]+)\s*\)
    |(?P<number>0[xX][0-9a-fA-F]+L?|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?L?)
    |(?P<name>(?:[^\W\d]|\.(?!\d))[\w.]*)
    |(?P<sign>%%|%/%|%[\w*]*%|\*\*|//|<-|<=|>=|==|!=|&&|\|\||.)""",
    re.VERBOSE | re.DOTALL,
)
_CONSTANTS = ("True", "False", "None")
_UNARY = {"-": 12, "+": 12, "!": 6}
_BINARY = {  # R's signs, how tightly they bind, and Python's sign
    "^": (14, "**"), "**": (14, "**"), "%%": (10, "%"), "%/%": (10, "//"), "%in%": (10, "in"), "*": (9, "*"),
    "/": (9, "/"), "+": (8, "+"), "-": (8, "-"), "<": (7, "<"), "<=": (7, "<="), ">": (7, ">"), ">=": (7, ">="),
    "==": (7, "=="), "!=": (7, "!="), "&": (5, "&"), "|": (4, "|"),
}  # fmt: skip
_ADVICE = {
    "$": "name the column alone, x instead of data$x",
    "@": "name the column alone",
    "&&": "write & between the conditions of each row",
    "||": "write | between the conditions of each row",
    ":": "a range 1:3 is c(1, 2, 3), and an interaction of factors interaction(a, b)",
    "~": "a formula inside a formula is not understood",
    "^": "a power is x ** 2 in Python",
    "[": "a call has no columns to choose from, scale(x) is scale(x)[, 1] of R; powers of poly are I(x), I(x^2)",
}


_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.Mod, ast.FloorDiv, ast.USub, ast.UAdd)
_LOGIC = (ast.BitAnd, ast.BitOr, ast.Invert)


class _Token(NamedTuple):
    kind: str
    text: str


class _NotR(Exception):
    """The expression has something that R has not."""


def as_python(text: str, columns: Collection[str], *, python_only: bool = False) -> str:
    """
    Return an expression as Python, its columns and functions by their identifiers.

    Parameters
    ----------
    text : str
    columns : collection of str
        The columns of the table. Names that R allows and Python does not, as `yield` or `Sepal.Length`, are theirs.
    python_only : bool
        Whether it is Python by its place, {x // 2}.

    Raises
    ------
    ValueError
        If R and Python read it differently, or neither can.
    """
    tokens = _tokens(text, columns)
    python = _tree(" ".join(token.text for token in tokens))
    r = None
    with suppress(_NotR):
        r = None if python_only else _tree(_Reader(tokens).whole())
    power = any(token.text == "^" for token in tokens)
    if r is None:
        if python is None or power:
            advice = "; ".join(why for sign, why in _ADVICE.items() if any(token.text == sign for token in tokens))
            raise ValueError(
                f"{text!r} cannot be read, neither as R nor as Python" + (f": {advice}." if advice else ".")
            )
        return ast.unparse(_Operands().visit(python))
    if python is not None and not power and ast.dump(r) != ast.dump(python) and not _chained(python):
        raise ValueError(
            f"{text!r} is {_shown(r)} to R and {_shown(python)} to Python: write the parentheses that you mean."
        )
    return ast.unparse(_Operands(of_r=True).visit(r))


def _tokens(text: str, columns: Collection[str]) -> list[_Token]:
    """Return the tokens, names by their identifiers where they are columns or functions."""
    found = [match for match in _TOKEN.finditer(text) if match.lastgroup != "skipped"]
    tokens: list[_Token] = []
    for match, after in zip(found, [*(later[0] for later in found[1:]), ""], strict=True):
        kind, word = match.lastgroup or "", match[match.lastgroup or 0]
        if kind == "number":
            word = word.removesuffix("L")
        elif kind == "patsy":
            kind, word = "name", column_identifier(word.strip("'\""))
        elif kind == "quoted":
            kind, word = "name", function_identifier(word) if after == "(" else column_identifier(word)
        elif kind == "name":
            argument = after == "=" and bool(tokens) and tokens[-1].text in ("(", ",")
            word = word.replace(".", "_") if argument else _identifier(word, after, columns)
        elif len(word) > 1 and word[0] == word[-1] == "%" and word not in _BINARY:
            raise ValueError(
                f"{text!r} has the sign {word}, which formulas do not know: they have %%, %/% and %in% of R, and for % "
                "of Python leave blanks around it."
            )
        tokens.append(_Token(kind, word))
    return tokens


def _identifier(word: str, after: str, columns: Collection[str]) -> str:
    """Return a name as Python reads it: of a function, a column, a column's method, or of the caller's variable."""
    if after == "(" and (word in FUNCTIONS or ("." not in word and not keyword.iskeyword(word))):
        return function_identifier(word)
    if word in columns and word not in _CONSTANTS:
        return column_identifier(word)
    if after == "(" and word.split(".")[0] in ("as", "is"):
        return function_identifier(word)
    parts = word.split(".")
    for length in range(len(parts) - 1, 0, -1):
        if (start := ".".join(parts[:length])) in columns:
            return ".".join([column_identifier(start), *parts[length:]])
    return word


def _tree(text: str) -> ast.Expression | None:
    try:
        return ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return None


class _Parentheses(ast.NodeTransformer):
    """Puts every operation in parentheses, which `ast.unparse` leaves out."""

    def visit_BinOp(self, node: Any) -> ast.AST:
        self.generic_visit(node)
        return ast.Name(f"({ast.unparse(node)})")

    visit_Compare = visit_UnaryOp = visit_BinOp


def _chained(tree: ast.AST) -> bool:
    """Return whether a < b < c occurs, which Python cannot evaluate for columns: x > 1 & z < 2 is R's, therefore."""
    return any(isinstance(node, ast.Compare) and len(node.ops) > 1 for node in ast.walk(tree))


def _shown(tree: ast.Expression) -> str:
    return plain(ast.unparse(_Parentheses().visit(tree)))


class _Operands(ast.NodeTransformer):
    """
    Makes operands numbers where signs are arithmetic, and conditions where they are logical, as R does.

    NumPy's arithmetic of conditions is Boolean, True + True is True; R's is that of 0 and 1. Powers of whole numbers
    that Python's would not hold are floats in R. In Python's expressions conditions and powers are left as they are.
    """

    def __init__(self, *, of_r: bool = False) -> None:
        self.of_r = of_r

    def visit_BinOp(self, node: Any) -> Any:
        self.generic_visit(node)
        match node:
            case ast.BinOp(op=ast.Pow(), right=ast.Constant(value=int(power))) if self.of_r and power > 4:
                node.right = ast.Constant(float(power))
            case ast.BinOp(op=ast.Pow(), right=ast.UnaryOp(ast.USub(), ast.Constant(int(power)))) if self.of_r:
                node.right = ast.UnaryOp(ast.USub(), ast.Constant(float(power)))
        if isinstance(node.op, _ARITHMETIC) or (self.of_r and isinstance(node.op, _LOGIC)):
            for name in ("left", "right") if isinstance(node, ast.BinOp) else ("operand",):
                setattr(node, name, _converted(getattr(node, name), of=node.op))
        return node

    visit_UnaryOp = visit_BinOp

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Name the contrasts of C(f, sum) by a text: R's C takes such a name for contr.sum."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == function_identifier("C"):
            node.args[1:2] = [_contrasts(argument) for argument in node.args[1:2]]
            for keyword_ in node.keywords:
                keyword_.value = _contrasts(keyword_.value) if keyword_.arg == "contr" else keyword_.value
        return node


def _contrasts(argument: ast.expr) -> ast.expr:
    named = isinstance(argument, ast.Name) and argument.id in ("sum", "treatment", "helmert", "poly")
    return ast.Constant(f"contr.{argument.id}") if named and isinstance(argument, ast.Name) else argument


def _converted(operand: ast.expr, *, of: ast.AST) -> ast.expr:
    """Return an operand of a sign in a conversion, unless it is a number or condition by its form."""
    sign = getattr(operand, "op", None)
    if isinstance(of, _LOGIC):
        kind, done = LOGICAL, isinstance(operand, ast.Compare) or isinstance(sign, _LOGIC)
    else:
        number = isinstance(operand, ast.Constant) and not isinstance(operand.value, bool)
        kind, done = NUMBER, number or isinstance(sign, _ARITHMETIC)
    return operand if done else ast.Call(ast.Name(function_identifier(kind)), [operand], [])


class _Reader:
    """Reads tokens by R's precedence and returns Python, every operation in parentheses."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens = [*tokens, _Token("sign", "")]  # the end
        self.place = 0

    def whole(self) -> str:
        """Return the one expression that all tokens are."""
        text = self.expression(0)
        self.expect("")
        return text

    def expression(self, tightness: int) -> str:
        """Return the expression that begins here, as far as signs bind at least that tightly."""
        left = self.operand()
        while self.next.kind == "sign" and self.next.text in _BINARY:
            binds, sign = _BINARY[self.next.text]
            if binds < tightness:
                break
            self.place += 1
            right = self.expression(binds if sign == "**" else binds + 1)
            left = f"{function_identifier('%in%')}({left}, {right})" if sign == "in" else f"({left} {sign} {right})"
            if binds == 7 and self.next.text in _BINARY and _BINARY[self.next.text][0] == 7:
                raise _NotR  # a < b < c
        return left

    def operand(self) -> str:
        """Return a name, number, text, call, or expression with a sign or in parentheses."""
        token = self.take()
        if token.kind == "sign" and token.text in _UNARY:
            inner = self.expression(_UNARY[token.text])
            return f"(~{inner})" if token.text == "!" else f"({token.text}{inner})"
        if token.text == "(":
            text = f"({self.expression(0)})"
            self.expect(")")
        elif token.kind == "sign" or (keyword.iskeyword(token.text) and token.text not in _CONSTANTS):
            raise _NotR
        else:
            text = token.text
        while self.next.text == "(" and token.kind == "name":
            self.place += 1
            text = f"{text}({', '.join(self.arguments())})"
        return text

    def arguments(self) -> list[str]:
        """Return the arguments of a call, up to its closing parenthesis."""
        found: list[str] = []
        while self.next.text != ")":
            name = ""
            if self.next.kind == "name" and self.tokens[self.place + 1].text == "=":
                name = f"{self.next.text}="
                self.place += 2
            found.append(name + self.expression(0))
            if self.next.text != ")":
                self.expect(",")
        self.place += 1
        return found

    @property
    def next(self) -> _Token:
        """The token that comes, an empty one at the end."""
        return self.tokens[self.place]

    def take(self) -> _Token:
        """Return the token that comes, and go on."""
        self.place += 1
        return self.tokens[self.place - 1]

    def expect(self, text: str) -> None:
        """Go past a sign that must come."""
        if self.take().text != text:
            raise _NotR
