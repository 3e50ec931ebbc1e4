"""The mode in which tests ask graphs for values: Python loops, and no rewriting, which takes longer than the values."""

from pytensor.compile.builders import OpFromGraph
from pytensor.compile.mode import Mode, optdb
from pytensor.compile.rewriting import inline_ofg_node
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter
from pytensor.graph.rewriting.db import RewriteDatabaseQuery


@node_rewriter([OpFromGraph])
def _write_out(fgraph, node):
    """Replace an operation that holds a graph by that graph: PyTensor would compile it in C."""
    return inline_ofg_node(node)


optdb.register("write_out", dfs_rewriter(_write_out), position=-0.01)
AS_WRITTEN = Mode(linker="py", optimizer=RewriteDatabaseQuery(include=["write_out"]))
