"""The sparse engine: several terms by a sparse Cholesky factorisation of the mixed-model equations."""
