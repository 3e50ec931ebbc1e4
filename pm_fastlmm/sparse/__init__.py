"""Sparse symmetric matrices: their ordering, Cholesky factor and selected inverse, numbers only."""
