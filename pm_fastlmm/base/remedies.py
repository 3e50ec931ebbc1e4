"""What to do about an argument that holds no numbers: it depends on what its table usually is."""

from collections.abc import Iterable

_CODE = "code categories as indicator columns, or give a formula to flmm.Design.from_formula."
_INDEX = "if its first column is the ids, as R's write.csv writes them, read it by pd.read_csv(file, index_col=0)."
_PEDIGREE = "the columns of a pedigree go to flmm.covariance.Pedigree(id, sire, dam), the text of a tree to \
flmm.covariance.Tree(text), which are given in place of K."
_GENOTYPES = (
    "texts for missing values are read as NaN by {0}.apply(pd.to_numeric, errors='coerce'), or by na_values= of \
pd.read_csv; genotypes such as 'A/G' are coded as counts of one allele."
)
_TABLE = (
    "the table of a model from a formula is data=, predict(..., data=table); otherwise X_new has the columns of X, \
coded as there."
)
_RESPONSE = (
    "texts for missing values are read as NaN by pd.to_numeric(y, errors='coerce'), or by na_values= of \
pd.read_csv; "
    + _CODE
)

_BY_ARGUMENT = {
    "X_new": _TABLE,
    "K": f"{_INDEX[:-1]}; {_PEDIGREE}",
    "W": _INDEX,
    "tree": _INDEX,
    "genotypes": f"{_GENOTYPES} {_INDEX[0].upper()}{_INDEX[1:]}",
    "candidates": _GENOTYPES,
    "y": _RESPONSE,
}


def remedy_of(name: str) -> str:
    """Return what a user does about an argument of this name that is not made of numbers."""
    return _BY_ARGUMENT.get(name, _CODE).format(name)


def selection(kernel: str, ids: Iterable[object] | None) -> str:
    """Return how the rows that the data have are selected from a larger K or W with these ids."""
    table, rows = kernel, "data.index"
    if kernel == "K":
        rows = "data.index, data.index"
        if not all(isinstance(label, str) for label in ids or ()):
            table = "K.set_axis(K.index, axis=1)"  # a file has its column names as text, and numbers as its index
    return (
        f"{kernel} may have more individuals than the data: select theirs, {kernel}={table}.loc[{rows}], with the "
        "index of y or X where there is no table; known={'id': K} of flmm.lmm_model takes a larger K as it is."
    )


def or_table(name: str) -> str:
    """Return the other way to give new rows, for those who have the variables and not the columns of X."""
    return (
        "; for a model from a formula, give the variables as data=, predict(..., data=table)" if name == "X_new" else ""
    )


def remedy_of_shape(shape: tuple[int, ...]) -> str:
    """Return what a user does about a covariance of a shape that is not square."""
    if len(shape) == 2 and shape[1] == shape[0] + 1:
        return _INDEX
    if len(shape) == 2 and shape[1] == 3:
        return _PEDIGREE
    return "a factor W with K = W Wᵀ goes to Spectrum.from_factor."
