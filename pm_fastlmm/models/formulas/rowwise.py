"""Whether the value of a term in a row depends on that row alone, as it must for new rows."""

import ast
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.models.formulas.functions import FUNCTIONS
from pm_fastlmm.models.formulas.names import function_identifier
from pm_fastlmm.models.formulas.sparse_columns import SparseMatrix

_COLUMNS = 50  # of a sparse design that are compared
_OURS = {function_identifier(name): function for name, function in FUNCTIONS.items()}


def of_other_rows(matrix: Any, table: pd.DataFrame, context: Mapping[str, Any]) -> str | None:
    """
    Return a term whose value in a row is another one when the row stands alone, None if there is none.

    Functions of the table are right by their making. Methods, NumPy's functions and the caller's, as in x / np.max(x),
    are evaluated again on the rows where their columns are least and greatest, the first and the middle one: each
    alone, and all of these together, which finds an order.

    Parameters
    ----------
    matrix : formulaic.ModelMatrix
        With its specification; its index are places of rows in the table.
    table : DataFrame
    context : mapping
        What the formula may use.
    """
    spec = matrix.model_spec
    factors = {factor.expr for term in spec.formula for factor in term.factors if factor.eval_method.value == "python"}
    unknown: list[str] = sorted(expr for expr in factors if _is_unknown(expr, context))
    if not unknown or not len(matrix):
        return None
    names = [str(name) for name in matrix.columns]
    own: Any = slice(None)
    if isinstance(matrix, SparseMatrix):  # of which some columns of a call tell as much as all
        own = [j for j, name in enumerate(names) if any(expr in name for expr in unknown)][:_COLUMNS]
        names, values = [names[j] for j in own], matrix.values[:, own].toarray()
    elif any(getattr(kind, "kind", "O") not in "fiub" for kind in matrix.dtypes):
        return None
    else:
        values = np.asarray(matrix, dtype=np.float64)
    finite = np.isfinite(values)  # log(0) has an error of its own
    tolerance = 1e-6 * np.abs(np.where(finite, values, 0)).max(axis=0)
    arrays = any(_has_arrays(expr, context, set(table.columns)) for expr in factors)
    for expr in unknown:
        columns = [j for j, name in enumerate(names) if expr in name]
        ends = [int(f(values[:, j])) for j in columns[:3] for f in (np.argmin, np.argmax)]
        places = sorted({0, len(matrix) // 2, *ends})
        for rows in (*([place] for place in places), places):
            again = _encoded(spec, table.iloc[matrix.index[rows]].reset_index(drop=True), context)
            if again is None:
                if arrays:
                    continue
                return expr
            with np.errstate(invalid="ignore"):
                same = (np.abs(again[:, own] - values[rows]) <= tolerance) | ~finite[rows]
            if not same[:, columns].all():
                return expr
    return None


def _encoded(spec: Any, rows: pd.DataFrame, context: Mapping[str, Any]) -> FloatArray | None:
    """Return the encoded rows, NaN where one is not defined without the others, None where functions fail."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = spec.get_model_matrix(rows, context=context)
            made = np.asarray(found.toarray() if spec.output == "sparse" else found, dtype=np.float64)
    except Exception:
        return None
    return made if len(made) == len(rows) else np.full((len(rows), len(spec.column_names)), np.nan)


def _is_unknown(expr: str, context: Mapping[str, Any]) -> bool:
    """Return whether an expression has methods, or functions that are not those of the table."""
    for node in ast.walk(ast.parse(expr, mode="eval")):
        if isinstance(node, ast.Attribute | ast.Subscript) and not ast.unparse(node).startswith("contr."):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            function = context.get(node.func.id)
            if function is not _OURS.get(node.func.id) and not getattr(function, "__is_stateful_transform__", False):
                return True
    return False


def _has_arrays(expr: str, context: Mapping[str, Any], columns: set[str]) -> bool:
    """Return whether an expression has variables of the caller with a value for each row."""
    names = {node.id for node in ast.walk(ast.parse(expr, mode="eval")) if isinstance(node, ast.Name)} - columns
    return any(isinstance(context.get(name), np.ndarray | pd.Series | list | tuple) for name in names)
