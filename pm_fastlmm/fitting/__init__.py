"""Estimates of a model: find, fit, inference, comparison."""
