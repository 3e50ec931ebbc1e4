"""A likelihood that costs a factorisation, interpolated in ratios of variances; the posterior of these by sums."""
