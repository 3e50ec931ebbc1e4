"""The likelihood of one kernel in rotated coordinates."""
