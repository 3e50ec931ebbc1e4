"""The mode in which tests ask graphs for values: Python loops, and no rewriting, which takes longer than the values."""

from pytensor.compile.builders import OpFromGraph
from pytensor.compile.mode import Mode
from pytensor.compile.rewriting import inline_ofg_node
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter


@node_rewriter([OpFromGraph])
def _write_out(fgraph, node):
    """Replace an operation that holds a graph by that graph: PyTensor would compile it in C."""
    return inline_ofg_node(node)


AS_WRITTEN = Mode(linker="py", optimizer=dfs_rewriter(_write_out))
