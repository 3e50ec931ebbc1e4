"""Several terms: Σ ZGZᵀ + σ²_eI, from inner products of the rows."""
