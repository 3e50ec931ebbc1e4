"""REML and ML estimates of one kernel: for one response, for many, and scans of candidates."""
