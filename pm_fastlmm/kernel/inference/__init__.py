"""Tests and intervals of one kernel."""
