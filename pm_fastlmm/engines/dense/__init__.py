"""Any V(θ), factored as a whole."""
