"""Random trees as graphs, their Newick text, and shared paths by walking them: the judge of phylogenies."""

import numpy as np


class RandomTree:
    """A tree with labelled tips, as edges {child: (parent, length)}; node 0 is the base of its text."""

    def __init__(self, rng, tips, *, base=2, quote=str, polytomies=0.2):
        self.edges, self.children = {}, {0: []}
        for _ in range(base):
            self._add(rng, 0)
        while len(self.tips()) < tips:
            leaf = self.tips()[rng.integers(len(self.tips()))]
            for _ in range(2 + (rng.random() < polytomies)):
                self._add(rng, leaf)
        self.names = {tip: quote(f"t{k}") for k, tip in enumerate(self.tips())}

    def _add(self, rng, parent):
        child = len(self.children)
        self.children[child] = []
        self.children[parent].append(child)
        self.edges[child] = (parent, float(rng.choice([0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0])))

    def tips(self):
        return [node for node in self.in_order(0) if not self.children[node]]

    def in_order(self, node):
        return [node] + [below for child in self.children[node] for below in self.in_order(child)]

    def newick(self, write=lambda name: name):
        def text(node):
            inside = ",".join(text(child) for child in self.children[node])
            label = write(self.names[node]) if node in self.names else ""
            length = f":{self.edges[node][1]!r}" if node else ""
            return (f"({inside})" if inside else label) + length

        return text(0) + ";"

    def distances(self, edges=None):
        """Length of the path between any two nodes, by Floyd and Warshall."""
        edges = self.edges if edges is None else edges
        nodes = sorted({*edges, *(parent for parent, _ in edges.values())})
        D = np.full((len(nodes), len(nodes)), np.inf)
        np.fill_diagonal(D, 0)
        for child, (parent, length) in edges.items():
            i, j = nodes.index(child), nodes.index(parent)
            D[i, j] = D[j, i] = length
        for k in range(len(nodes)):
            D = np.minimum(D, D[:, [k]] + D[[k]])
        return nodes, D

    def shared(self, away):
        """K of the tips from their distances to a root."""
        nodes, D = self.distances()
        tips = [nodes.index(tip) for tip in self.tips()]
        away = np.asarray(away)
        return (away[:, None] + away - D[np.ix_(tips, tips)]) / 2

    def from_base(self):
        nodes, D = self.distances()
        return self.shared([D[0, nodes.index(tip)] for tip in self.tips()])

    def from_branch(self, node, share):
        """K of a root on the branch above a node, at a share of its length from the node."""
        parent, length = self.edges[node]
        new = len(self.children)
        edges = self.edges | {node: (new, share * length), new: (parent, (1 - share) * length)}
        nodes, D = self.distances(edges)
        return self.shared([D[nodes.index(new), nodes.index(tip)] for tip in self.tips()])
