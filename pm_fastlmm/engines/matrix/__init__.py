"""The distribution of several traits of the same rows, and its node."""
