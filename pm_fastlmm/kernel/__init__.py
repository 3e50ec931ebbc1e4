"""One known kernel, V = σ²(K + δI): likelihood, REML, effects, inference, the exact posterior; no PyMC."""
