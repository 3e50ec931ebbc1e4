"""β, u and predictions given the variances."""
