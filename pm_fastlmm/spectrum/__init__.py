"""What depends on the data alone, computed once: projections, eigenvalues, rotated responses."""
