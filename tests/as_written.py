"""The mode in which tests ask graphs for values: Python loops, and no rewriting, which takes longer than the values."""

from pytensor.compile.mode import Mode
from pytensor.graph.rewriting.db import RewriteDatabaseQuery

# graphs inside of a graph are written out: PyTensor would compile them for C
AS_WRITTEN = Mode(linker="py", optimizer=RewriteDatabaseQuery(include=["inline_ofg_expansion"]))
