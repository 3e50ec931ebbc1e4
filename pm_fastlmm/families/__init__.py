"""Response distributions of generalised linear mixed models as functions of the linear predictor. NumPy only."""
