"""Several traits on one kernel, Σ_g ⊗ K + Σ_e ⊗ I, by a rotation of the rows and one of the traits."""
